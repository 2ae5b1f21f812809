/* Labelled decisions out of a log, for a refit. */
#include "router/refit.h"

#include "router/log_store.h"
#include "router/own.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double PSEUDO_WEIGHT = 0.5; /* of the probe's word on an answer that nobody saw */

/* One row for each decision with a sketch and a label of some tier, or an escalation on the probe's word. */
static const char ROWS[] =
    "SELECT s.sketch, d.prompt_hash, d.first_tier, d.tier, d.escalated, d.propensity, d.probe_p, d.p_edge, d.router, "
    "(SELECT avg(value) FROM labels AS l WHERE l.request = d.request AND (l.tier = 'edge' OR l.tier = 'none' AND d.tier = 'edge')), "
    "(SELECT avg(value) FROM labels AS l WHERE l.request = d.request AND (l.tier = 'region' OR l.tier = 'none' AND d.tier = 'region')), "
    "(SELECT avg(value) FROM labels AS l WHERE l.request = d.request AND (l.tier = 'core' OR l.tier = 'none' AND d.tier = 'core')) "
    "FROM decisions AS d JOIN sketches AS s ON s.decision = d.id "
    "WHERE d.from_below = 0 AND d.at_ms >= ?1 AND (?2 IS NULL OR d.node = ?2) AND d.first_tier <> 'none' "
    "AND (d.escalated AND d.probe_p IS NOT NULL OR EXISTS (SELECT 1 FROM labels AS l WHERE l.request = d.request)) "
    "ORDER BY d.id DESC";
enum { COL_SKETCH, COL_HASH, COL_FIRST, COL_TIER, COL_ESCALATED, COL_PROPENSITY, COL_PROBE, COL_P_EDGE, COL_ROUTER, COL_LABELS };
/* The key that this log's own sketches are under now. */
static const char NEWEST[] =
    "SELECT s.sketch FROM decisions AS d JOIN sketches AS s ON s.decision = d.id WHERE d.from_below = 0 "
    "AND (?1 IS NULL OR d.node = ?1) ORDER BY d.origin IS NOT NULL, d.id DESC LIMIT 1";

static enum tier tier_column(sqlite3_stmt *st, int column)
{
    const char *name = (const char *)sqlite3_column_text(st, column);
    return tier_from_name(name ? name : "");
}

static double real_or_nan(sqlite3_stmt *st, int column)
{
    return sqlite3_column_type(st, column) == SQLITE_NULL ? (double)NAN : sqlite3_column_double(st, column);
}

static bool share(double x)
{
    return x >= 0 && x <= 1; /* not NaN */
}

/* Labels with their weights. A higher tier's answer after an escalation is of harder prompts than the text tells: it says
 * nothing of that tier on prompts like this, and is left out. */
static bool labels_read(sqlite3_stmt *st, struct refit_row *row)
{
    enum tier first = tier_column(st, COL_FIRST);
    bool escalated = sqlite3_column_int(st, COL_ESCALATED) != 0, any = false;
    double propensity = real_or_nan(st, COL_PROPENSITY), probe = real_or_nan(st, COL_PROBE);
    double weight = propensity > 1.0 / REFIT_WEIGHT_MAX ? 1 / propensity : REFIT_WEIGHT_MAX;
    if (!(propensity > 0 && propensity <= 1)) weight = 1;
    for (int t = 0; t < TIERS; t++) {
        double label = real_or_nan(st, COL_LABELS + t);
        bool counts = share(label) && !(escalated && (enum tier)t > first);
        row->label[t] = counts ? (float)label : 0;
        row->weight[t] = !counts ? 0 : (enum tier)t == first ? (float)weight : 1;
        any = any || counts;
    }
    if (escalated && first == TIER_EDGE && row->weight[TIER_EDGE] <= 0 && share(probe)) {
        row->label[TIER_EDGE] = (float)probe;
        row->weight[TIER_EDGE] = (float)(PSEUDO_WEIGHT * weight);
        any = true;
    }
    return any;
}

/* The probe's log-odds as they were before a refit set them right; only scores of this router and its base are known so. */
static void probe_read(sqlite3_stmt *st, const struct router *r, struct refit_row *row)
{
    double probe = real_or_nan(st, COL_PROBE), p_edge = real_or_nan(st, COL_P_EDGE), label = real_or_nan(st, COL_LABELS);
    const char *by = (const char *)sqlite3_column_text(st, COL_ROUTER);
    bool own = r->own && by && strcmp(by, r->info.fingerprint) == 0;
    bool base = by && strcmp(by, r->own ? r->own->base : r->info.fingerprint) == 0;
    row->probe_x = row->probe_label = NAN;
    row->p_edge = (float)p_edge;
    if (!share(probe) || !share(p_edge) || !share(label) || !(own || base)) return;
    if (own && r->own->probe_a < 0.1f) return;
    double x = own_logit(probe);
    row->probe_x = (float)(own ? (x - (double)r->own->probe_b) / (double)r->own->probe_a : x);
    row->probe_label = (float)label;
}

static unsigned char fold_of(sqlite3_stmt *st, const unsigned char sketch[ROUTER_SKETCH_BYTES])
{
    const unsigned char *hash = sqlite3_column_blob(st, COL_HASH);
    int len = sqlite3_column_bytes(st, COL_HASH);
    if (!hash || len < 4) hash = sketch + ROUTER_SKETCH_BYTES - 4; /* no hash: by the sketch's last bytes, which hold words */
    uint32_t number = (uint32_t)hash[0] | (uint32_t)hash[1] << 8 | (uint32_t)hash[2] << 16 | (uint32_t)hash[3] << 24;
    return (unsigned char)(number % REFIT_FOLDS);
}

struct reading {
    const struct router *router;
    struct refit_rows *out;
    unsigned char key_id[SKETCH_KEY_ID];
    struct sketch sketch;
};

static void row_take(struct reading *in, sqlite3_stmt *st)
{
    struct refit_rows *out = in->out;
    struct refit_row *row = &out->row[out->count];
    const unsigned char *bytes = sqlite3_column_blob(st, COL_SKETCH);
    if (!bytes || !sketch_unpack(bytes, (size_t)sqlite3_column_bytes(st, COL_SKETCH), row->sketch)) return;
    if (!sketch_read(&in->sketch, row->sketch, sizeof row->sketch)) return;
    if (!labels_read(st, row)) return;
    if (memcmp(in->sketch.key_id, in->key_id, SKETCH_KEY_ID) != 0) {
        out->other_key++;
        return;
    }
    bool scored = memcmp(in->sketch.base_id, in->router->base_id, SKETCH_BASE_ID) == 0;
    for (int c = 0; c < in->router->info.tiers; c++) scored = scored && in->sketch.base[model_tier(in->router->info.tiers, c)] >= 0;
    if (!scored) {
        out->other_router++;
        return;
    }
    row->fold = fold_of(st, row->sketch);
    probe_read(st, in->router, row);
    out->count++;
}

static bool key_read(sqlite3 *sql, struct reading *in, const struct refit_options *options)
{
    sqlite3_stmt *st = NULL;
    bool found = sqlite3_prepare_v2(sql, NEWEST, -1, &st, NULL) == SQLITE_OK &&
                 sqlite3_bind_text(st, 1, options->node, -1, SQLITE_STATIC) == SQLITE_OK && sqlite3_step(st) == SQLITE_ROW;
    const unsigned char *bytes = found ? sqlite3_column_blob(st, 0) : NULL;
    found = bytes && sketch_read(&in->sketch, bytes, (size_t)sqlite3_column_bytes(st, 0));
    if (found) memcpy(in->key_id, in->sketch.key_id, sizeof in->key_id);
    (void)sqlite3_finalize(st);
    return found;
}

static enum err_code rows_take(sqlite3 *sql, struct reading *in, const struct refit_options *options, struct err *e)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(sql, ROWS, -1, &st, NULL);
    if (rc == SQLITE_OK) {
        (void)sqlite3_bind_int64(st, 1, options->since_wall_ms);
        (void)sqlite3_bind_text(st, 2, options->node, -1, SQLITE_STATIC);
        rc = SQLITE_ROW;
    }
    while (rc == SQLITE_ROW && in->out->count < REFIT_ROWS_MAX && (rc = sqlite3_step(st)) == SQLITE_ROW) row_take(in, st);
    bool ok = rc == SQLITE_DONE || rc == SQLITE_ROW;
    enum err_code code = ok ? ERR_OK : err_set(e, ERR_IO, "log %s: %s", options->path, sqlite3_errmsg(sql));
    (void)sqlite3_finalize(st);
    return code;
}

enum err_code refit_read(struct refit_rows *out, const struct router *router, const struct refit_options *options,
                         struct err *e)
{
    sqlite3 *sql = NULL;
    *out = (struct refit_rows){0};
    struct reading *in = calloc(1, sizeof *in);
    out->row = malloc(REFIT_ROWS_MAX * sizeof *out->row);
    enum err_code code = in && out->row ? store_open_reader(&sql, options->path, e) : err_set(e, ERR_MEMORY, "out of memory");
    if (code == ERR_OK) {
        *in = (struct reading){.router = router, .out = out};
        if (!key_read(sql, in, options))
            code = err_set(e, ERR_NOT_FOUND, "log %s: no decision%s%s has a sketch that this rung reads", options->path,
                           options->node ? " on node " : "", options->node ? options->node : "");
    }
    if (code == ERR_OK) code = rows_take(sql, in, options, e);
    if (code == ERR_OK && out->count == 0)
        code = err_set(e, ERR_NOT_FOUND,
                       "log %s: no labelled decision can be used: %lld were scored by another router than %s or its base, "
                       "%lld are under another sketch key",
                       options->path, (long long)out->other_router, router->info.fingerprint, (long long)out->other_key);
    (void)sqlite3_close(sql);
    free(in);
    if (code != ERR_OK) refit_rows_release(out);
    return code;
}

void refit_rows_release(struct refit_rows *rows)
{
    free(rows->row);
    rows->row = NULL;
    rows->count = 0;
}
