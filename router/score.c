#include "router/score.h"
#include "router/train_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int by_float(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* The share and the quality at each decile edge of the score, from all strong to none. */
static void curve_points(const float *score, const float *weak, const float *strong, size_t n, float *order,
                         double share[SCORE_POINTS], double quality[SCORE_POINTS])
{
    memcpy(order, score, n * sizeof *order);
    qsort(order, n, sizeof *order, by_float);
    for (int k = 0; k < SCORE_POINTS; k++) {
        double at = (double)(n - 1) * k / (SCORE_POINTS - 1);
        size_t low = (size_t)at, high = low + 1 < n ? low + 1 : low;
        double edge = (double)order[low] + (at - (double)low) * ((double)order[high] - (double)order[low]);
        double sent = 0, sum = 0;
        for (size_t i = 0; i < n; i++) {
            bool up = k == SCORE_POINTS - 1 ? (double)score[i] > edge : (double)score[i] >= edge;
            sent += up;
            sum += (double)(up ? strong[i] : weak[i]);
        }
        share[k] = sent / (double)n;
        quality[k] = sum / (double)n;
    }
}

static double mean_of(const float *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i];
    return sum / (double)n;
}

double score_apgr(const float *score, const float *weak, const float *strong, size_t n, float *order)
{
    double share[SCORE_POINTS], quality[SCORE_POINTS], area = 0;
    curve_points(score, weak, strong, n, order, share, quality);
    for (int k = 1; k < SCORE_POINTS; k++) area += (share[k - 1] - share[k]) * (quality[k - 1] + quality[k]) / 2;
    double low = mean_of(weak, n), high = mean_of(strong, n);
    return (area - low) / (high - low);
}

double score_cpt(const float *score, const float *weak, const float *strong, size_t n, double x, float *order)
{
    double share[SCORE_POINTS], quality[SCORE_POINTS];
    curve_points(score, weak, strong, n, order, share, quality);
    double low = mean_of(weak, n), want = low + x * (mean_of(strong, n) - low);
    for (int k = SCORE_POINTS - 1; k > 0; k--) {
        if (quality[k] >= want) return share[k];
        if (quality[k - 1] < want) continue;
        return share[k] + (share[k - 1] - share[k]) * (want - quality[k]) / (quality[k - 1] - quality[k]);
    }
    return 1;
}

/* ---- one pair ---- */

struct columns { /* scratch: (rows) each */
    float *score, *length, *weak, *strong;
    float *resampled[4], *order;
};

static void interval(double *apgr, int n, double *low, double *high)
{
    for (int i = 1; i < n; i++) /* insertion sort: a few hundred */
        for (int k = i; k > 0 && apgr[k - 1] > apgr[k]; k--) {
            double swap = apgr[k];
            apgr[k] = apgr[k - 1];
            apgr[k - 1] = swap;
        }
    *low = apgr[n / 40];
    *high = apgr[n - 1 - n / 40];
}

static void score_one_pair(struct score_pair *pair, const struct train_rows *rows, const double (*p)[TIERS],
                           struct columns *c)
{
    size_t n = rows->count;
    for (size_t i = 0; i < n; i++) {
        c->score[i] = (float)(p[i][pair->strong] - p[i][pair->weak]);
        c->length[i] = (float)rows->row[i].text_len;
        c->weak[i] = rows->row[i].score[pair->weak];
        c->strong[i] = rows->row[i].score[pair->strong];
    }
    pair->weak_mean = mean_of(c->weak, n);
    pair->strong_mean = mean_of(c->strong, n);
    pair->apgr = score_apgr(c->score, c->weak, c->strong, n, c->order);
    pair->length = score_apgr(c->length, c->weak, c->strong, n, c->order);
    pair->cpt50 = score_cpt(c->score, c->weak, c->strong, n, 0.5, c->order);
    pair->cpt80 = score_cpt(c->score, c->weak, c->strong, n, 0.8, c->order);
    double routed[SCORE_RESAMPLES], length[SCORE_RESAMPLES];
    uint64_t state = 42;
    for (int k = 0; k < SCORE_RESAMPLES; k++) {
        for (size_t i = 0; i < n; i++) {
            size_t at = (size_t)(train_random(&state) % n);
            c->resampled[0][i] = c->score[at];
            c->resampled[1][i] = c->length[at];
            c->resampled[2][i] = c->weak[at];
            c->resampled[3][i] = c->strong[at];
        }
        routed[k] = score_apgr(c->resampled[0], c->resampled[2], c->resampled[3], n, c->order);
        length[k] = score_apgr(c->resampled[1], c->resampled[2], c->resampled[3], n, c->order);
    }
    interval(routed, SCORE_RESAMPLES, &pair->apgr_low, &pair->apgr_high);
    interval(length, SCORE_RESAMPLES, &pair->length_low, &pair->length_high);
}

/* ---- calibration ---- */

struct judged {
    double p, y;
};

static int by_p(const void *a, const void *b)
{
    const struct judged *x = a, *y = b;
    return (x->p > y->p) - (x->p < y->p);
}

/* Sorted by p; equal-mass bins. `t` (may be NULL) gets the table. */
static double calibration_error(const struct judged *j, size_t n, struct score_tier *t)
{
    double error = 0;
    for (size_t b = 0; b < SCORE_BINS; b++) {
        size_t from = n * b / SCORE_BINS, to = n * (b + 1) / SCORE_BINS;
        double p = 0, y = 0, count = (double)(to - from);
        for (size_t i = from; i < to; i++) {
            p += j[i].p;
            y += j[i].y;
        }
        error += fabs(p - y) / (double)n;
        if (!t) continue;
        t->bin_n[b] = to - from;
        t->bin_p[b] = count > 0 ? p / count : 0;
        t->bin_y[b] = count > 0 ? y / count : 0;
    }
    return error;
}

static void score_one_tier(struct score_tier *t, struct judged *j, size_t n)
{
    qsort(j, n, sizeof *j, by_p);
    t->ece = calibration_error(j, n, t);
    for (size_t i = 0; i < n; i++) t->brier += (j[i].p - j[i].y) * (j[i].p - j[i].y) / (double)n;
    double simulated[SCORE_RESAMPLES], low;
    uint64_t state = 4242;
    for (int k = 0; k < SCORE_RESAMPLES; k++) {
        for (size_t i = 0; i < n; i++)
            j[i].y = (double)(train_random(&state) >> 11) / 9007199254740992.0 < j[i].p ? 1 : 0;
        simulated[k] = calibration_error(j, n, NULL);
    }
    interval(simulated, SCORE_RESAMPLES, &low, &t->ece_perfect);
    t->ece_perfect = simulated[SCORE_RESAMPLES - 1 - SCORE_RESAMPLES / 20];
}

enum err_code score_rows(struct score_report *out, const struct train_rows *rows, const double (*p)[TIERS], struct err *e)
{
    size_t n = rows->count;
    if (n == 0) return err_set(e, ERR_INVALID, "no row has scores of every tier asked for");
    *out = (struct score_report){.rows = n, .columns = rows->columns};
    float *block = malloc(n * 9 * sizeof *block);
    struct judged *judged = malloc(n * sizeof *judged);
    enum err_code code = block && judged ? ERR_OK : err_set(e, ERR_MEMORY, "out of memory scoring %zu rows", n);
    if (!code) {
        struct columns c = {block, block + n, block + 2 * n, block + 3 * n, {0}, block + 8 * n};
        for (size_t k = 0; k < 4; k++) c.resampled[k] = block + (4 + k) * n;
        for (int a = 0; a < rows->columns; a++)
            for (int b = rows->columns - 1; b > a; b--) {
                out->pair[out->pairs] = (struct score_pair){.weak = a, .strong = b};
                score_one_pair(&out->pair[out->pairs++], rows, p, &c);
            }
        for (int t = 0; t < rows->columns; t++) {
            for (size_t i = 0; i < n; i++) judged[i] = (struct judged){p[i][t], (double)rows->row[i].score[t]};
            score_one_tier(&out->tier[t], judged, n);
        }
    }
    free(block);
    free(judged);
    return code;
}

/* ---- rows a router has not seen ---- */

static void score_into(const struct router *r, const struct train_row *row, double p[TIERS])
{
    struct router_input in = train_input(row);
    struct router_scores s;
    router_score(r, &in, &s);
    for (int c = 0; c < r->info.tiers; c++) p[c] = s.p[model_tier(r->info.tiers, c)];
}

/* Fits on the rows for which group differs, scores the rest. */
static enum err_code cross(const struct train_rows *rows, const struct train_options *options, const int *group,
                           int groups, double (*p)[TIERS], struct err *e)
{
    struct train_rows part = *rows;
    part.row = malloc((rows->count + 1) * sizeof *part.row);
    enum err_code code = part.row ? ERR_OK : err_set(e, ERR_MEMORY, "out of memory");
    for (int g = 0; !code && g < groups; g++) {
        struct router *r;
        part.count = 0;
        for (size_t i = 0; i < rows->count; i++)
            if (group[i] != g) part.row[part.count++] = rows->row[i];
        if (part.count == rows->count) continue;
        code = train_router(&r, &part, options, NULL, e);
        if (code) break;
        for (size_t i = 0; i < rows->count; i++)
            if (group[i] == g) score_into(r, &rows->row[i], p[i]);
        router_free(r);
    }
    free(part.row);
    return code;
}

enum err_code score_cross(const struct train_rows *rows, const struct train_options *options, double (*p)[TIERS],
                          struct err *e)
{
    int *group = malloc((rows->count + 1) * sizeof *group);
    if (!group) return err_set(e, ERR_MEMORY, "out of memory");
    for (size_t i = 0; i < rows->count; i++) group[i] = rows->row[i].fold;
    enum err_code code = cross(rows, options, group, TRAIN_FOLDS, p, e);
    free(group);
    return code;
}

enum err_code score_leave_task(const struct train_rows *rows, const struct train_options *options, double (*p)[TIERS],
                               struct err *e)
{
    int *group = malloc((rows->count + 1) * sizeof *group), groups = 0;
    if (!group) return err_set(e, ERR_MEMORY, "out of memory");
    for (size_t i = 0; i < rows->count; i++) {
        size_t k = 0;
        while (k < i && strcmp(rows->row[k].task, rows->row[i].task) != 0) k++;
        group[i] = k < i ? group[k] : groups++;
    }
    enum err_code code = groups < 2 ? err_set(e, ERR_INVALID, "leaving tasks out wants rows of at least two tasks")
                                    : cross(rows, options, group, groups, p, e);
    free(group);
    return code;
}
