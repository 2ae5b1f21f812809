/* The dial: for a rising price, the pair of thresholds that gets the most right. Chosen on all rows; what it gives is told by
 * pairs that were chosen without the rows they are judged on. */
#include "router/policy.h"
#include "router/train_parts.h"

#include <math.h>
#include <stdlib.h>

enum { STEPS = 41 };

/* Sums over rows. */
struct cell {
    double n, right[TIERS];
};
/* What a pair of thresholds does. */
struct outcome {
    double n, right, went[TIERS];
};
struct dial_work {
    int columns;
    double at[2][STEPS], price[TIERS];
    struct cell cell[TRAIN_FOLDS][STEPS + 1][STEPS + 1]; /* by how many thresholds the edge and the region clear */
    struct outcome pair[TRAIN_FOLDS][STEPS][STEPS];
};

static int by_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Thresholds at even shares of a column's scores, from never to always up. */
static bool thresholds_set(double out[STEPS], const double (*p)[TIERS], size_t n, int column)
{
    double *sorted = malloc((n + 1) * sizeof *sorted);
    if (!sorted) return false;
    for (size_t i = 0; i < n; i++) sorted[i] = p[i][column];
    qsort(sorted, n, sizeof *sorted, by_double);
    for (size_t s = 0; s < STEPS; s++) out[s] = s == 0 ? 0 : s == STEPS - 1 ? 1 : sorted[n * s / (STEPS - 1)];
    free(sorted);
    return true;
}

static int cleared(const double at[STEPS], double p)
{
    int k = 0;
    while (k < STEPS && p >= at[k]) k++;
    return k;
}

static void cells_fill(struct dial_work *w, const struct train_rows *rows, const double (*p)[TIERS])
{
    for (size_t i = 0; i < rows->count; i++) {
        const struct train_row *row = &rows->row[i];
        int region = w->columns == 2 ? 0 : cleared(w->at[1], p[i][1]);
        struct cell *c = &w->cell[row->fold][cleared(w->at[0], p[i][0])][region];
        c->n++;
        for (int t = 0; t < w->columns; t++) c->right[t] += (double)row->score[t];
    }
}

static void pair_sum(const struct dial_work *w, int fold, int edge, int region, struct outcome *out)
{
    for (int a = 0; a <= STEPS; a++)
        for (int b = 0; b <= STEPS; b++) {
            const struct cell *c = &w->cell[fold][a][b];
            int column = a > edge ? 0 : w->columns == 3 && b > region ? 1 : w->columns - 1;
            out->n += c->n;
            out->right += c->right[column];
            out->went[model_tier(w->columns, column)] += c->n;
        }
}

static void outcome_add(struct outcome *to, const struct outcome *from)
{
    to->n += from->n;
    to->right += from->right;
    for (int t = 0; t < TIERS; t++) to->went[t] += from->went[t];
}

static struct outcome without(const struct dial_work *w, int edge, int region, int fold)
{
    struct outcome out = {0};
    for (int f = 0; f < TRAIN_FOLDS; f++)
        if (f != fold) outcome_add(&out, &w->pair[f][edge][region]);
    return out;
}

static double price_of(const struct dial_work *w, const struct outcome *o)
{
    double sum = 0;
    for (int t = 0; t < TIERS; t++) sum += w->price[t] * o->went[t];
    return o->n > 0 ? sum / o->n : 0;
}

/* The most right within a price, as a share of core's; on all folds but one (-1: on all). */
static void choose(const struct dial_work *w, double budget, int fold, int *edge, int *region)
{
    double best = -1;
    *edge = *region = 0;
    for (int i = 0; i < STEPS; i++)
        for (int j = 0; j < (w->columns == 3 ? STEPS : 1); j++) {
            struct outcome o = without(w, i, j, fold);
            if (price_of(w, &o) > budget + 1e-9 || o.right <= best) continue;
            best = o.right;
            *edge = i;
            *region = j;
        }
}

static void setting(const struct dial_work *w, double budget, struct model_dial *out)
{
    struct outcome all = {0};
    int edge, region;
    for (int f = 0; f < TRAIN_FOLDS; f++) {
        choose(w, budget, f, &edge, &region);
        outcome_add(&all, &w->pair[f][edge][region]);
    }
    choose(w, budget, -1, &edge, &region);
    double n = all.n > 0 ? all.n : 1;
    *out = (struct model_dial){.accuracy = (float)(all.right / n)};
    out->threshold[0] = (float)w->at[0][edge];
    out->threshold[1] = (float)(w->columns == 3 ? w->at[1][region] : w->at[0][edge]);
    for (int t = 0; t < TIERS; t++) out->share[t] = (float)(all.went[t] / n);
}

bool train_dial(struct router *r, const struct train_rows *rows, const double (*p)[TIERS])
{
    struct dial_work *w = calloc(1, sizeof *w);
    if (!w) return false;
    struct policy prices;
    policy_defaults(&prices);
    w->columns = rows->columns;
    for (int t = 0; t < TIERS; t++) w->price[t] = prices.price[t].input_usd / prices.price[TIER_CORE].input_usd;
    bool ok = thresholds_set(w->at[0], p, rows->count, 0) && thresholds_set(w->at[1], p, rows->count, 1);
    if (ok) cells_fill(w, rows, p);
    for (int f = 0; ok && f < TRAIN_FOLDS; f++)
        for (int i = 0; i < STEPS; i++)
            for (int j = 0; j < STEPS; j++) pair_sum(w, f, i, j, &w->pair[f][i][j]);
    for (int s = 0; ok && s < MODEL_DIAL; s++) {
        double along = (double)s / (MODEL_DIAL - 1), least = w->price[TIER_EDGE];
        setting(w, least + (1 - least) * along * along, &r->dial[s]); /* closer together where it is cheap */
    }
    free(w);
    return ok;
}
