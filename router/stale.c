#include "router/stale.h"

#include "router/log_store.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const double CALIBRATION = 0.05, UNFAMILIAR = 0.1, ERRORS = 3;

static const char NEWEST[] = "SELECT router FROM decisions WHERE router <> '' AND from_below = 0 "
                             "AND (?1 IS NULL OR node = ?1) ORDER BY id DESC LIMIT 1";
/* What was promised of the tier chosen first, and how it did; the probe's word where it sent the answer up. */
static const char LABELS[] =
    "SELECT first_tier, p, value FROM (SELECT d.first_tier, "
    "CASE d.first_tier WHEN 'edge' THEN d.p_edge WHEN 'region' THEN d.p_region ELSE d.p_core END AS p, "
    "CASE WHEN d.escalated AND d.first_tier = 'edge' THEN coalesce("
    "(SELECT avg(value) FROM labels AS o WHERE o.request = d.request AND o.tier = 'edge'), d.probe_p) "
    "WHEN d.first_tier <> d.tier THEN NULL "
    "ELSE (SELECT avg(value) FROM labels AS o WHERE o.request = d.request AND o.tier IN ('none', d.tier)) END AS value "
    "FROM (SELECT DISTINCT request FROM labels WHERE at_ms >= ?1) AS l JOIN decisions AS d ON d.request = l.request "
    "WHERE d.from_below = 0 AND d.at_ms >= ?1 AND d.router = ?2 AND (?3 IS NULL OR d.node = ?3)) "
    "WHERE p IS NOT NULL AND value BETWEEN 0 AND 1";
static const char FAMILIARITY[] =
    "SELECT count(*), coalesce(avg(ood > 0.9), 0) FROM (SELECT ood FROM decisions WHERE from_below = 0 AND router = ?2 "
    "AND at_ms >= ?1 AND (?3 IS NULL OR node = ?3) AND ood IS NOT NULL ORDER BY id DESC LIMIT ?4)";

struct sums {
    double p, value, square; /* square: of (p - value) */
};

static int labels_read(sqlite3 *sql, struct stale *out, const struct stale_options *o)
{
    struct sums sums[TIERS] = {{0}};
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(sql, LABELS, -1, &st, NULL);
    if (rc == SQLITE_OK) {
        (void)sqlite3_bind_int64(st, 1, o->since_wall_ms);
        (void)sqlite3_bind_text(st, 2, out->router, -1, SQLITE_STATIC);
        (void)sqlite3_bind_text(st, 3, o->node, -1, SQLITE_STATIC);
        rc = SQLITE_ROW;
    }
    while (rc == SQLITE_ROW && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(st, 0);
        enum tier t = tier_from_name(name ? name : "");
        if (t == TIER_NONE) continue;
        double p = sqlite3_column_double(st, 1), value = sqlite3_column_double(st, 2);
        out->tier[t].labels++;
        sums[t].p += p;
        sums[t].value += value;
        sums[t].square += (p - value) * (p - value);
    }
    (void)sqlite3_finalize(st);
    for (int t = 0; t < TIERS; t++) {
        double n = (double)out->tier[t].labels;
        if (n < 2) continue;
        out->tier[t].promised = sums[t].p / n;
        out->tier[t].was = sums[t].value / n;
        double off = out->tier[t].promised - out->tier[t].was, variance = sums[t].square / n - off * off;
        out->tier[t].error = sqrt((variance > 0 ? variance : 0) / (n - 1));
    }
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static int familiarity_read(sqlite3 *sql, struct stale *out, const struct stale_options *o)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(sql, FAMILIARITY, -1, &st, NULL);
    if (rc == SQLITE_OK) {
        (void)sqlite3_bind_int64(st, 1, o->since_wall_ms);
        (void)sqlite3_bind_text(st, 2, out->router, -1, SQLITE_STATIC);
        (void)sqlite3_bind_text(st, 3, o->node, -1, SQLITE_STATIC);
        (void)sqlite3_bind_int(st, 4, STALE_DECISIONS_MAX);
        rc = sqlite3_step(st);
    }
    if (rc == SQLITE_ROW) {
        out->decisions = sqlite3_column_int64(st, 0);
        out->unfamiliar = sqlite3_column_double(st, 1);
    }
    (void)sqlite3_finalize(st);
    return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

static void judge(struct stale *s, const struct stale_options *o)
{
    double bound = o->calibration > 0 ? o->calibration : CALIBRATION, share = o->unfamiliar > 0 ? o->unfamiliar : UNFAMILIAR;
    int64_t labels = 0;
    for (int t = 0; t < TIERS; t++) {
        const struct stale_tier *x = &s->tier[t];
        double off = x->promised - x->was;
        labels += x->labels;
        if (s->stale || x->labels < STALE_LABELS_MIN || fabs(off) <= bound || fabs(off) <= ERRORS * x->error) continue;
        s->stale = true;
        (void)snprintf(s->why, sizeof s->why,
                       "it promises %.3f of the %s's answers, %lld labels say %.3f (off by more than %.2f): refit it (rung tune refit)",
                       x->promised, tier_name((enum tier)t), (long long)x->labels, x->was, bound);
    }
    if (!s->stale && s->decisions >= STALE_DECISIONS_MIN && s->unfamiliar > share) {
        s->stale = true;
        (void)snprintf(s->why, sizeof s->why,
                       "%.1f %% of the last %lld prompts are unlike what it was fitted on (more than %.0f %%): fit it on such prompts",
                       100 * s->unfamiliar, (long long)s->decisions, 100 * share);
    }
    if (!s->stale)
        (void)snprintf(s->why, sizeof s->why, "no sign of it: %lld labels, %.1f %% of %lld prompts unlike its fit",
                       (long long)labels, 100 * s->unfamiliar, (long long)s->decisions);
}

static enum err_code router_name(sqlite3 *sql, struct stale *out, const struct stale_options *o, struct err *e)
{
    sqlite3_stmt *st = NULL;
    if (o->router) (void)snprintf(out->router, sizeof out->router, "%s", o->router);
    else if (sqlite3_prepare_v2(sql, NEWEST, -1, &st, NULL) == SQLITE_OK) {
        (void)sqlite3_bind_text(st, 1, o->node, -1, SQLITE_STATIC);
        if (sqlite3_step(st) == SQLITE_ROW)
            (void)snprintf(out->router, sizeof out->router, "%s", (const char *)sqlite3_column_text(st, 0));
    }
    (void)sqlite3_finalize(st);
    if (out->router[0]) return ERR_OK;
    return err_set(e, ERR_NOT_FOUND, "log %s: no decision carries a router's scores", o->path);
}

enum err_code stale_read(struct stale *out, const struct stale_options *options, struct err *e)
{
    sqlite3 *sql = NULL;
    *out = (struct stale){0};
    enum err_code code = store_open_reader(&sql, options->path, e);
    if (code == ERR_OK) code = router_name(sql, out, options, e);
    if (code == ERR_OK && (labels_read(sql, out, options) != SQLITE_OK || familiarity_read(sql, out, options) != SQLITE_OK))
        code = err_set(e, ERR_IO, "log %s: %s", options->path, sqlite3_errmsg(sql));
    if (code == ERR_OK) judge(out, options);
    (void)sqlite3_close(sql);
    return code;
}
