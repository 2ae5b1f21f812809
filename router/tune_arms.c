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
static double rho2(double rows)
{
    return (-2 * log(ALPHA) + log(-2 * log(ALPHA) + 1)) / rows;
}

struct arm_difference arm_difference(const struct arm_sum *first, const struct arm_sum *second)
{
    struct arm_difference d = {second->mean - first->mean, -INFINITY, INFINITY, false};
    if (first->n < ARM_ROWS_LEAST || second->n < ARM_ROWS_LEAST) return d;
    double n = (double)(first->n + second->n);
    /* variance of one row's influence on the difference: its arm's variance over its arm's share */
    double variance = first->square / (double)first->n * n / (double)first->n +
                      second->square / (double)second->n * n / (double)second->n;
    double r = rho2(ARM_ROWS_TIGHT), nr = n * r + 1;
    double half = sqrt(variance) * sqrt(2 * nr / (n * n * r) * log(sqrt(nr) / ALPHA));
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
