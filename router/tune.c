#include "router/tune.h"

#include "router/log_store.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EDGE_STEPS = 12, REGION_STEPS = 10 };
static const double LOSS = 0.01;
static const double PROPOSAL_ERRORS = 3; /* the best of many points looks better than it is: ask for more than 95 % */

static const char ROWS[] =
    "SELECT p_edge, p_region, p_core, ood, allowed_edge, allowed_region, allowed_core, first_tier, propensity, "
    "price_usd, total_ms, prompt_chars, at_ms, "
    "(SELECT avg(l.value) FROM labels AS l WHERE l.request = d.request AND l.tier IN ('none', d.tier)) "
    "FROM decisions AS d WHERE from_below = 0 AND at_ms >= ?1 AND first_tier <> 'none' AND router = ?2 "
    "AND (?3 IS NULL OR node = ?3) ORDER BY id DESC LIMIT ?4";
static const char LATEST_ROUTER[] = "SELECT router FROM decisions WHERE router <> '' AND from_below = 0 "
                                    "AND (?1 IS NULL OR node = ?1) ORDER BY id DESC LIMIT 1";
static const char ALL_ROWS[] =
    "SELECT count(*) FROM decisions WHERE from_below = 0 AND at_ms >= ?1 AND (?2 IS NULL OR node = ?2)";
static const char LATEST_POLICY[] = "SELECT version, policy FROM policies WHERE json_extract(policy, '$.arm') = 'A' "
                                    "ORDER BY version DESC LIMIT 1";

/* ---- reading ---- */

static double column_or(sqlite3_stmt *st, int column, double fallback)
{
    return sqlite3_column_type(st, column) == SQLITE_NULL ? fallback : sqlite3_column_double(st, column);
}

/* False for a row that a replay has no use for: chosen by nobody's rule, or without its propensity. */
static bool row_read(sqlite3_stmt *st, struct replay_row *row)
{
    memset(row, 0, sizeof *row);
    for (int t = 0; t < TIERS; t++) {
        row->p[t] = column_or(st, t, -1);
        row->allowed[t] = sqlite3_column_int(st, 4 + t) != 0;
    }
    const char *tier = (const char *)sqlite3_column_text(st, 7);
    row->ood = column_or(st, 3, 0);
    row->action = tier_from_name(tier ? tier : "");
    row->propensity = column_or(st, 8, 0);
    row->price_usd = column_or(st, 9, 0);
    row->total_ms = column_or(st, 10, 0);
    row->size = column_or(st, 11, 0);
    row->labelled = sqlite3_column_type(st, 13) != SQLITE_NULL;
    row->label = column_or(st, 13, 0);
    return row->action != TIER_NONE && row->allowed[row->action] && row->propensity > 0 && row->propensity <= 1 &&
           (!row->labelled || (row->label >= 0 && row->label <= 1));
}

struct rows {
    struct replay_row *at;
    int64_t count, room;
};

static bool rows_room(struct rows *rows)
{
    if (rows->count < rows->room) return true;
    int64_t room = rows->room ? 2 * rows->room : 4096;
    struct replay_row *more = realloc(rows->at, (size_t)room * sizeof *more);
    if (!more) return false;
    rows->at = more;
    rows->room = room;
    return true;
}

static enum err_code rows_read(sqlite3 *sql, const struct tune_options *options, struct tune *tune, struct rows *rows,
                               struct err *e)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(sql, ROWS, -1, &st, NULL);
    if (rc == SQLITE_OK) {
        (void)sqlite3_bind_int64(st, 1, options->since_wall_ms);
        (void)sqlite3_bind_text(st, 2, tune->router, -1, SQLITE_STATIC);
        (void)sqlite3_bind_text(st, 3, options->node, -1, SQLITE_STATIC);
        (void)sqlite3_bind_int(st, 4, TUNE_ROWS_MAX);
    }
    bool room = true;
    while (rc == SQLITE_OK && room && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        rc = SQLITE_OK;
        room = rows_room(rows);
        if (!room || !row_read(st, &rows->at[rows->count])) continue;
        int64_t at_ms = sqlite3_column_int64(st, 12);
        tune->from_ms = rows->count == 0 || at_ms < tune->from_ms ? at_ms : tune->from_ms;
        tune->to_ms = at_ms > tune->to_ms ? at_ms : tune->to_ms;
        rows->count++;
    }
    (void)sqlite3_finalize(st);
    if (!room) return err_set(e, ERR_MEMORY, "log %s: no memory for its decisions", options->path);
    if (rc != SQLITE_DONE) return err_set(e, ERR_IO, "log %s: %s", options->path, sqlite3_errmsg(sql));
    return ERR_OK;
}

static enum err_code policy_read(sqlite3 *sql, struct tune *tune, struct err *e)
{
    sqlite3_stmt *st = NULL;
    enum err_code code = ERR_OK;
    policy_defaults(&tune->today);
    int rc = sqlite3_prepare_v2(sql, LATEST_POLICY, -1, &st, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_step(st);
    if (rc == SQLITE_ROW) {
        const char *json = (const char *)sqlite3_column_text(st, 1);
        code = policy_from_json(&tune->today, json ? json : "", e);
        tune->today.version = sqlite3_column_int64(st, 0);
    } else if (rc != SQLITE_DONE) {
        code = err_set(e, ERR_CORRUPT, "the log's policies: %s", sqlite3_errmsg(sql));
    }
    (void)sqlite3_finalize(st);
    return code;
}

static enum err_code router_read(sqlite3 *sql, const struct tune_options *options, struct tune *tune, struct err *e)
{
    sqlite3_stmt *st = NULL, *all = NULL;
    bool found = false;
    if (sqlite3_prepare_v2(sql, LATEST_ROUTER, -1, &st, NULL) == SQLITE_OK) {
        (void)sqlite3_bind_text(st, 1, options->node, -1, SQLITE_STATIC);
        found = sqlite3_step(st) == SQLITE_ROW;
        if (found) (void)snprintf(tune->router, sizeof tune->router, "%s", (const char *)sqlite3_column_text(st, 0));
    }
    (void)sqlite3_finalize(st);
    if (!found)
        return err_set(e, ERR_NOT_FOUND,
                       "log %s: no decision carries a router's scores%s%s: nothing can be replayed until a router is "
                       "loaded and requests have come",
                       options->path, options->node ? " on node " : "", options->node ? options->node : "");
    if (sqlite3_prepare_v2(sql, ALL_ROWS, -1, &all, NULL) == SQLITE_OK) {
        (void)sqlite3_bind_int64(all, 1, options->since_wall_ms);
        (void)sqlite3_bind_text(all, 2, options->node, -1, SQLITE_STATIC);
        if (sqlite3_step(all) == SQLITE_ROW) tune->left_out = sqlite3_column_int64(all, 0);
    }
    (void)sqlite3_finalize(all);
    return ERR_OK;
}

/* ---- the grid ---- */

static int compare_reals(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Thresholds that send ever more requests up: never, then at even shares of the scores, then always. Rounded to what an
 * operator would write. Returns how many. */
static int steps_of(const struct rows *rows, enum tier tier, int steps, double today, double *out)
{
    double *scores = malloc((size_t)(rows->count > 0 ? rows->count : 1) * sizeof *scores);
    int64_t n = 0;
    int count = 0;
    out[count++] = today;
    for (int64_t i = 0; scores && i < rows->count; i++) {
        const struct replay_row *row = &rows->at[i];
        bool choice = row->allowed[0] + row->allowed[1] + row->allowed[2] > 1;
        if (choice && row->allowed[tier] && row->p[tier] >= 0) scores[n++] = row->p[tier];
    }
    if (n * 50 > rows->count) { /* else the tier hardly ever is in question */
        qsort(scores, (size_t)n, sizeof *scores, compare_reals);
        for (int k = 0; k < steps; k++) {
            double at = k == 0 ? 0 : k == steps - 1 ? 1 : scores[n * k / (steps - 1)];
            at = round(at * 1000) / 1000;
            bool there = false;
            for (int j = 0; j < count; j++) there = there || fabs(out[j] - at) < 1e-9;
            if (!there) out[count++] = at;
        }
    }
    free(scores);
    return count;
}

static const struct replay_target *asked(const struct tune *tune, const struct tune_options *options,
                                         struct replay_target *out)
{
    *out = replay_target(&tune->today);
    for (int t = 0; t < TIERS; t++)
        if (options->try_threshold[t] >= 0) out->threshold[t] = options->try_threshold[t];
    return out;
}

static int point_find(const struct tune *tune, const struct replay_target *target)
{
    for (int i = 0; i < tune->count; i++) {
        const struct replay_target *have = &tune->points[i].target;
        if (fabs(have->threshold[0] - target->threshold[0]) + fabs(have->threshold[1] - target->threshold[1]) < 1e-9)
            return i;
    }
    return -1;
}

static void point_add(struct tune *tune, const struct replay_target *target)
{
    if (point_find(tune, target) < 0 && tune->count < TUNE_POINTS_MAX) tune->points[tune->count++].target = *target;
}

static void grid(struct tune *tune, const struct rows *rows, const struct tune_options *options)
{
    double edge[EDGE_STEPS + 1], region[REGION_STEPS + 1];
    struct replay_target target = replay_target(&tune->today);
    int edges = steps_of(rows, TIER_EDGE, EDGE_STEPS, target.threshold[TIER_EDGE], edge);
    int regions = steps_of(rows, TIER_REGION, REGION_STEPS, target.threshold[TIER_REGION], region);
    point_add(tune, &target);
    if (options->try_one) point_add(tune, asked(tune, options, &target));
    for (int i = 0; i < edges; i++) {
        for (int j = 0; j < regions; j++) {
            target.threshold[TIER_EDGE] = edge[i];
            target.threshold[TIER_REGION] = region[j];
            point_add(tune, &target);
        }
    }
}

static int compare_points(const void *a, const void *b)
{
    const struct replay_result *x = &((const struct tune_point *)a)->result, *y = &((const struct tune_point *)b)->result;
    if (x->refused != y->refused) return x->refused ? 1 : -1;
    return x->price_usd.value < y->price_usd.value ? -1 : x->price_usd.value > y->price_usd.value;
}

static void frontier(struct tune *tune)
{
    for (int i = 0; i < tune->count; i++) {
        struct tune_point *a = &tune->points[i];
        a->frontier = !a->result.refused;
        for (int j = 0; j < tune->count && a->frontier; j++) {
            const struct replay_result *b = &tune->points[j].result, *own = &a->result;
            if (j == i || b->refused) continue;
            bool as_good = b->quality.value >= own->quality.value && b->price_usd.value <= own->price_usd.value;
            bool better = b->quality.value > own->quality.value || b->price_usd.value < own->price_usd.value;
            if (as_good && (better || j < i)) a->frontier = false; /* of equal ones the first */
        }
    }
}

/* ---- the proposal ---- */

/* The cheapest point that is surely cheaper than today's and surely loses no more quality than may be risked. */
static void propose(struct tune *tune, struct replay *replay, double loss)
{
    const struct tune_point *today = &tune->points[0];
    tune->proposal = -1;
    if (today->result.refused) return;
    for (int i = 1; i < tune->count; i++) {
        const struct tune_point *point = &tune->points[i];
        if (point->result.refused || point->result.changed <= 0) continue;
        if (point->result.price_usd.value >= today->result.price_usd.value) continue;
        if (tune->proposal >= 0 && point->result.price_usd.value >= tune->points[tune->proposal].result.price_usd.value)
            continue;
        struct replay_result change;
        replay_difference(replay, &today->target, &point->target, PROPOSAL_ERRORS, &change);
        if (!change.refused && change.quality.low >= -loss && change.price_usd.high < 0) tune->proposal = i;
    }
    if (tune->proposal >= 0)
        replay_difference(replay, &today->target, &tune->points[tune->proposal].target, 0, &tune->change);
}

static void verdict(struct tune *tune, double loss)
{
    const struct replay_result *today = &tune->points[0].result;
    if (tune->supported == 0 || today->refused) {
        (void)snprintf(tune->verdict, sizeof tune->verdict, "refused: %s", today->why);
    } else if (tune->supported == 1) {
        const char *why = tune->count > 1 ? tune->points[1].result.why : "no other thresholds are left to try";
        (void)snprintf(tune->verdict, sizeof tune->verdict, "refused for every other threshold: %s", why);
    } else if (tune->proposal < 0) {
        (void)snprintf(tune->verdict, sizeof tune->verdict,
                       "keep today's thresholds: none of %d others is surely cheaper at a loss of quality of at most %.2g",
                       tune->supported - 1, loss);
    } else {
        const struct tune_point *p = &tune->points[tune->proposal];
        (void)snprintf(tune->verdict, sizeof tune->verdict,
                       "edge %.3f, region %.3f: price %+.1f %%, quality %+.4f [%+.4f, %+.4f]", p->target.threshold[0],
                       p->target.threshold[1],
                       100 * tune->change.price_usd.value / (today->price_usd.value > 0 ? today->price_usd.value : 1),
                       tune->change.quality.value, tune->change.quality.low, tune->change.quality.high);
    }
}

static enum err_code tune_points(struct tune *tune, const struct rows *rows, const struct tune_options *options,
                                 struct err *e)
{
    struct replay *replay;
    struct replay_target today = replay_target(&tune->today);
    enum err_code code = replay_new(&replay, rows->at, rows->count, &today, e);
    if (code != ERR_OK) return code;
    double loss = options->loss > 0 ? options->loss : LOSS;
    grid(tune, rows, options);
    for (int i = 0; i < tune->count; i++) {
        replay_evaluate(replay, &tune->points[i].target, &tune->points[i].result);
        tune->supported += !tune->points[i].result.refused;
    }
    tune->labels = tune->points[0].result.labels;
    qsort(&tune->points[1], (size_t)(tune->count - 1), sizeof tune->points[0], compare_points);
    struct replay_target tried;
    tune->tried = options->try_one ? point_find(tune, asked(tune, options, &tried)) : -1;
    frontier(tune);
    propose(tune, replay, loss);
    verdict(tune, loss);
    replay_free(replay);
    return ERR_OK;
}

enum err_code tune_run(struct tune **out, const struct tune_options *options, struct err *e)
{
    sqlite3 *sql = NULL;
    struct rows rows = {0};
    *out = NULL;
    struct tune *tune = calloc(1, sizeof *tune);
    if (!tune) return err_set(e, ERR_MEMORY, "tune: out of memory");
    enum err_code code = store_open_reader(&sql, options->path, e);
    if (code == ERR_OK) code = policy_read(sql, tune, e);
    if (code == ERR_OK) code = router_read(sql, options, tune, e);
    if (code == ERR_OK) code = rows_read(sql, options, tune, &rows, e);
    tune->rows = rows.count;
    tune->left_out -= rows.count;
    if (code == ERR_OK && rows.count == 0)
        code = err_set(e, ERR_NOT_FOUND, "log %s: no decision of router %s in that time can be replayed", options->path,
                       tune->router);
    if (code == ERR_OK) code = tune_points(tune, &rows, options, e);
    free(rows.at);
    (void)sqlite3_close(sql);
    if (code == ERR_OK) *out = tune;
    else free(tune);
    return code;
}

void tune_free(struct tune *tune)
{
    free(tune);
}

void tune_policy(const struct tune *tune, struct policy *out)
{
    *out = tune->today;
    if (tune->proposal >= 0)
        memcpy(out->threshold, tune->points[tune->proposal].target.threshold, sizeof out->threshold);
}
