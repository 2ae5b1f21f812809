/* Boosted trees, all tiers in one tree, on squared error with histograms (Friedman 2001; the splits as in Chen and
 * Guestrin 2016). Rows and inputs are sampled by a fixed generator, so that a fit repeats. */
#include "router/train_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BINS = 48, LEAST_ROWS = 20 };
static const double RATE = 0.05, PULL = 10, ROW_SHARE = 0.7, INPUT_SHARE = 0.5;

uint64_t train_random(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15u;
    uint64_t z = *state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}
static bool chance(uint64_t *state, double share)
{
    return (double)(train_random(state) >> 11) < share * 9007199254740992.0;
}

struct grow {
    struct tree_job *job;
    size_t n;
    size_t *row;      /* (n) the job's rows */
    uint8_t *bin;     /* (n, MODEL_INPUTS) */
    float edge[MODEL_INPUTS][BINS - 1];
    int edges[MODEL_INPUTS];
    float *left;      /* (n, TIERS) target - score so far */
    uint8_t *leaf, *used;
    double (*sums)[BINS][TIERS + 1]; /* (leaves): weight, then weight × left */
};

static int by_float(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Cuts at the quantiles of each input; an input is above a cut when it is greater. */
static bool cut_bins(struct grow *g)
{
    float *sorted = malloc((g->n + 1) * sizeof *sorted);
    if (!sorted) return false;
    for (int f = 0; f < MODEL_INPUTS; f++) {
        for (size_t i = 0; i < g->n; i++) sorted[i] = g->job->inputs[g->row[i] * MODEL_INPUTS + (size_t)f];
        qsort(sorted, g->n, sizeof *sorted, by_float);
        int edges = 0;
        for (int b = 1; b < BINS; b++) {
            size_t at = g->n * (size_t)b / BINS;
            float low = sorted[at ? at - 1 : 0], high = sorted[at], cut = low + (high - low) / 2;
            if (low < high && (edges == 0 || cut > g->edge[f][edges - 1])) g->edge[f][edges++] = cut;
        }
        g->edges[f] = edges;
        for (size_t i = 0; i < g->n; i++) {
            float x = g->job->inputs[g->row[i] * MODEL_INPUTS + (size_t)f];
            int b = 0;
            while (b < edges && x > g->edge[f][b]) b++;
            g->bin[i * MODEL_INPUTS + (size_t)f] = (uint8_t)b;
        }
    }
    free(sorted);
    return true;
}

static double worth(const double s[TIERS + 1])
{
    double sum = 0;
    for (int t = 1; t <= TIERS; t++) sum += s[t] * s[t];
    return sum / (s[0] + PULL);
}

static void fill_sums(struct grow *g, int f, int leaves)
{
    memset(g->sums, 0, (size_t)leaves * sizeof *g->sums);
    for (size_t i = 0; i < g->n; i++) {
        if (!g->used[i]) continue;
        double *s = g->sums[g->leaf[i]][g->bin[i * MODEL_INPUTS + (size_t)f]];
        double w = g->job->weight ? (double)g->job->weight[g->row[i]] : 1;
        s[0] += w;
        for (int t = 0; t < TIERS; t++) s[t + 1] += w * (double)g->left[i * TIERS + (size_t)t];
    }
}

/* The best cut of input f for each leaf of a level, where it beats what was found before. */
static void try_input(struct grow *g, struct model_tree *tree, int f, int leaves, double best[])
{
    fill_sums(g, f, leaves);
    for (int l = 0; l < leaves; l++) {
        double all[TIERS + 1] = {0}, low[TIERS + 1] = {0}, high[TIERS + 1];
        for (int b = 0; b < BINS; b++)
            for (int t = 0; t <= TIERS; t++) all[t] += g->sums[l][b][t];
        double base = worth(all);
        for (int b = 0; b < g->edges[f]; b++) {
            for (int t = 0; t <= TIERS; t++) {
                low[t] += g->sums[l][b][t];
                high[t] = all[t] - low[t];
            }
            if (low[0] < LEAST_ROWS || high[0] < LEAST_ROWS) continue;
            double gain = worth(low) + worth(high) - base;
            if (gain <= best[l] + 1e-12) continue;
            best[l] = gain;
            tree->input[leaves - 1 + l] = (uint8_t)f;
            tree->at[leaves - 1 + l] = g->edge[f][b];
        }
    }
}

static float input_of(const struct grow *g, size_t i, int f)
{
    return g->job->inputs[g->row[i] * MODEL_INPUTS + (size_t)f];
}

static void grow_tree(struct grow *g, struct model_tree *tree, uint64_t *state)
{
    bool offered[MODEL_INPUTS];
    for (size_t i = 0; i < g->n; i++) {
        g->used[i] = chance(state, ROW_SHARE);
        g->leaf[i] = 0;
    }
    for (int f = 0; f < MODEL_INPUTS; f++) offered[f] = chance(state, INPUT_SHARE) && g->edges[f] > 0;
    for (int depth = 0; depth < MODEL_DEPTH; depth++) {
        int leaves = 1 << depth;
        double best[MODEL_LEAVES] = {0};
        for (int l = 0; l < leaves; l++) tree->at[leaves - 1 + l] = 1e9f; /* no cut: all go low */
        for (int f = 0; f < MODEL_INPUTS; f++)
            if (offered[f]) try_input(g, tree, f, leaves, best);
        for (size_t i = 0; i < g->n; i++) {
            int node = leaves - 1 + g->leaf[i];
            g->leaf[i] = (uint8_t)(2 * g->leaf[i] + (input_of(g, i, tree->input[node]) > tree->at[node]));
        }
    }
    double sum[MODEL_LEAVES][TIERS + 1] = {{0}};
    for (size_t i = 0; i < g->n; i++) {
        if (!g->used[i]) continue;
        double w = g->job->weight ? (double)g->job->weight[g->row[i]] : 1;
        sum[g->leaf[i]][0] += w;
        for (int t = 0; t < TIERS; t++) sum[g->leaf[i]][t + 1] += w * (double)g->left[i * TIERS + (size_t)t];
    }
    for (int l = 0; l < MODEL_LEAVES; l++)
        for (int t = 0; t < TIERS; t++)
            tree->leaf[l][t] = t < g->job->columns ? (float)(RATE * sum[l][t + 1] / (sum[l][0] + PULL)) : 0;
    for (size_t i = 0; i < g->n; i++)
        for (int t = 0; t < TIERS; t++) g->left[i * TIERS + (size_t)t] -= tree->leaf[g->leaf[i]][t];
}

static void begin_round(struct grow *g)
{
    const struct tree_job *j = g->job;
    for (size_t i = 0; i < g->n; i++)
        for (size_t t = 0; t < (size_t)j->columns; t++)
            g->left[i * TIERS + t] = j->target[g->row[i] * TIERS + t] - j->start[g->row[i] * TIERS + t];
}

static void solve(void *arg)
{
    struct tree_job *j = arg;
    struct grow *g = calloc(1, sizeof *g);
    size_t n = j->rows + 1;
    j->failed = !g;
    if (!g) return;
    const int rounds = j->rounds > 1 ? j->rounds : 1, round = j->trees / rounds;
    g->job = j;
    g->row = malloc(n * sizeof *g->row);
    g->bin = malloc(n * MODEL_INPUTS);
    g->left = calloc(n * TIERS, sizeof *g->left);
    g->leaf = malloc(n);
    g->used = malloc(n);
    g->sums = malloc(MODEL_LEAVES * sizeof *g->sums);
    j->failed = !g->row || !g->bin || !g->left || !g->leaf || !g->used || !g->sums;
    for (size_t i = 0; !j->failed && i < j->rows; i++) {
        if (j->fold < 0 || j->fold_of[i] != j->fold) g->row[g->n++] = i;
    }
    j->failed = j->failed || !cut_bins(g);
    uint64_t state = 1;
    for (int k = 0; !j->failed && k < j->trees; k++) {
        if (k % round == 0) begin_round(g);
        j->out[k] = (struct model_tree){0};
        grow_tree(g, &j->out[k], &state);
    }
    for (int k = 0; !j->failed && k < j->trees; k++)
        for (int l = 0; l < MODEL_LEAVES; l++)
            for (int t = 0; t < TIERS; t++) j->out[k].leaf[l][t] /= (float)rounds;
    free(g->row);
    free(g->bin);
    free(g->left);
    free(g->leaf);
    free(g->used);
    free(g->sums);
    free(g);
}

bool tree_solve(struct tree_job *jobs, int count, int threads)
{
    train_parallel(jobs, sizeof *jobs, count, threads, solve);
    for (int i = 0; i < count; i++)
        if (jobs[i].failed) return false;
    return true;
}
