#include "router/tune_arms.h"

#include "router/log_store.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const double ALPHA = 0.05;

static const char ROWS[] =
    "SELECT arm, price_usd, total_ms, "
    "(SELECT avg(l.value) FROM labels AS l WHERE l.request = d.request AND l.tier IN ('none', d.tier)) "
    "FROM decisions AS d WHERE from_below = 0 AND at_ms >= ?1 AND arm <> '' ORDER BY id";

void arm_sum_add(struct arm_sum *sum, double value)
{
    double off = value - sum->mean;
    sum->n++;
    sum->mean += off / (double)sum->n;
    sum->square += off * (value - sum->mean);
}

/* The width's parameter: tightest after `rows` (their equation 9, with the usual approximation). */
static double rho2(double rows, double alpha)
{
    return (-2 * log(alpha) + log(-2 * log(alpha) + 1)) / rows;
}

struct arm_difference arm_difference(const struct arm_sum *first, const struct arm_sum *second)
{
    return arm_difference_at(first, second, ALPHA);
}

struct arm_difference arm_difference_at(const struct arm_sum *first, const struct arm_sum *second, double alpha)
{
    struct arm_difference d = {second->mean - first->mean, -INFINITY, INFINITY, false};
    if (first->n < ARM_ROWS_LEAST || second->n < ARM_ROWS_LEAST) return d;
    double n = (double)(first->n + second->n);
    /* variance of one row's influence on the difference: its arm's variance over its arm's share */
    double variance = first->square / (double)first->n * n / (double)first->n +
                      second->square / (double)second->n * n / (double)second->n;
    if (variance <= 0) /* all alike within each arm: then as if the arms were one, which is wider */
        variance = d.value * d.value * (double)first->n * (double)second->n / (n * n) * n *
                   (1 / (double)first->n + 1 / (double)second->n);
    double r = rho2(ARM_ROWS_TIGHT, alpha), nr = n * r + 1;
    double half = sqrt(variance) * sqrt(2 * nr / (n * n * r) * log(sqrt(nr) / alpha));
    d.low = d.value - half;
    d.high = d.value + half;
    d.decided = half > 0 && (d.low > 0 || d.high < 0);
    return d;
}

static struct arm_row *arm_find(struct arms *arms, const char *name)
{
    for (int i = 0; i < arms->count; i++)
        if (strcmp(arms->arm[i].name, name) == 0) return &arms->arm[i];
    if (arms->count == ARMS_MAX) return NULL;
    struct arm_row *row = &arms->arm[arms->count++];
    (void)snprintf(row->name, sizeof row->name, "%s", name);
    return row;
}

static void arm_count(struct arm_row *row, sqlite3_stmt *st)
{
    row->requests++;
    arm_sum_add(&row->price_usd, sqlite3_column_double(st, 1));
    arm_sum_add(&row->total_ms, sqlite3_column_double(st, 2));
    if (sqlite3_column_type(st, 3) == SQLITE_NULL) return;
    row->labels++;
    arm_sum_add(&row->quality, sqlite3_column_double(st, 3));
}

static void arms_sort(struct arms *arms)
{
    for (int i = 1; i < arms->count; i++) {
        for (int k = i; k > 0 && strcmp(arms->arm[k - 1].name, arms->arm[k].name) > 0; k--) {
            struct arm_row swap = arms->arm[k];
            arms->arm[k] = arms->arm[k - 1];
            arms->arm[k - 1] = swap;
        }
    }
}

enum err_code arms_read(struct arms *out, const char *path, int64_t since_wall_ms, struct err *e)
{
    sqlite3 *sql = NULL;
    sqlite3_stmt *st = NULL;
    memset(out, 0, sizeof *out);
    enum err_code code = store_open_reader(&sql, path, e);
    if (code != ERR_OK) return code;
    int rc = sqlite3_prepare_v2(sql, ROWS, -1, &st, NULL);
    if (rc == SQLITE_OK) (void)sqlite3_bind_int64(st, 1, since_wall_ms);
    while (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(st, 0);
        struct arm_row *row = arm_find(out, name ? name : "");
        if (row) arm_count(row, st);
        rc = SQLITE_OK;
    }
    (void)sqlite3_finalize(st);
    if (rc != SQLITE_DONE) code = err_set(e, ERR_IO, "log %s: %s", path, sqlite3_errmsg(sql));
    else if (out->count == 0) code = err_set(e, ERR_NOT_FOUND, "log %s: no decision in that time names an arm", path);
    (void)sqlite3_close(sql);
    arms_sort(out);
    for (int i = 1; i < out->count; i++) {
        out->arm[i].quality_change = arm_difference(&out->arm[0].quality, &out->arm[i].quality);
        out->arm[i].price_change = arm_difference(&out->arm[0].price_usd, &out->arm[i].price_usd);
        out->arm[i].time_change = arm_difference(&out->arm[0].total_ms, &out->arm[i].total_ms);
    }
    return code;
}

/* ---- one experiment, and its end by rule ---- */

static bool stored_at(const char *path, int64_t version, int64_t *at_ms, struct err *e, enum err_code *code)
{
    sqlite3 *sql = NULL;
    sqlite3_stmt *st = NULL;
    *code = store_open_reader(&sql, path, e);
    if (*code != ERR_OK) return false;
    bool found = sqlite3_prepare_v2(sql, "SELECT at_ms FROM policies WHERE version = ?1", -1, &st, NULL) == SQLITE_OK &&
                 sqlite3_bind_int64(st, 1, version) == SQLITE_OK && sqlite3_step(st) == SQLITE_ROW;
    if (found) *at_ms = sqlite3_column_int64(st, 0);
    (void)sqlite3_finalize(st);
    (void)sqlite3_close(sql);
    if (!found) *code = err_set(e, ERR_NOT_FOUND, "log %s: no policy has version %lld", path, (long long)version);
    return found;
}

enum err_code arms_read_trial(struct arms *out, const char *path, int64_t version, struct err *e)
{
    int64_t at_ms = 0;
    enum err_code code;
    return stored_at(path, version, &at_ms, e, &code) ? arms_read(out, path, at_ms, e) : code;
}

static const struct arm_row *arm_named(const struct arms *arms, const char *name)
{
    for (int i = 0; i < arms->count; i++)
        if (strcmp(arms->arm[i].name, name) == 0) return &arms->arm[i];
    return NULL;
}

enum arms_verdict arms_judge(const struct arms *arms, const struct arms_rule *rule, char why[ARMS_WHY])
{
    const struct arm_row *a = arm_named(arms, "A"), *b = arm_named(arms, "B");
    bool price = rule->metric == ARMS_PRICE;
    if (!a || !b || a->labels < rule->rows_min || b->labels < rule->rows_min) return ARMS_WAIT;
    double alpha = 1 - rule->confidence;
    struct arm_difference quality = arm_difference_at(&a->quality, &b->quality, alpha);
    struct arm_difference chosen = price ? arm_difference_at(&a->price_usd, &b->price_usd, alpha) : quality;
    if (!chosen.decided) return ARMS_WAIT;
    bool better = price ? chosen.value < 0 : chosen.value > 0;
    if (better && price && quality.low < -rule->loss) return ARMS_WAIT; /* cheaper, but perhaps at too great a loss */
    double scale = price ? 1000 : 100;
    (void)snprintf(why, ARMS_WHY, "%s of B less A: %+.4g %s [%+.4g, %+.4g] at %.4g confidence, %lld and %lld labels",
                   price ? "price" : "right answers", scale * chosen.value, price ? "USD for 1,000" : "%", scale * chosen.low,
                   scale * chosen.high, rule->confidence, (long long)a->labels, (long long)b->labels);
    return better ? ARMS_PROMOTE : ARMS_STOP;
}
