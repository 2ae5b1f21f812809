#include "router/refit_mix.h"

#include "router/train_parts.h"

#include <math.h>
#include <stdlib.h>

enum { STEPS = 40 };
/* How many labels' worth of information the prior has on each weight: roughly 60 labels move b half way. */
static const double PULL = 10, LOW[MIX_WEIGHTS] = {0, -10, 0, 0}, HIGH[MIX_WEIGHTS] = {3, 10, 4, 2};
static const struct mix_weights HOME = {{1, 0, 0, 0}};

bool mix_take(struct mix_rows *r, size_t max)
{
    *r = (struct mix_rows){.x = malloc((max + 1) * sizeof *r->x), .fold = malloc(max + 1)};
    r->y = malloc((max + 1) * 2 * sizeof *r->y);
    if (r->y) r->weight = r->y + max + 1;
    return r->x && r->y && r->fold;
}

void mix_release(struct mix_rows *r)
{
    free(r->x);
    free(r->y);
    free(r->fold);
}

static double odds(const struct mix_weights *w, const struct mix_rows *r, size_t i)
{
    double sum = 0;
    for (int k = 0; k < MIX_WEIGHTS; k++) sum += w->w[k] * r->x[i][k];
    return sum;
}

static double bounded(double x, double low, double high)
{
    return x < low ? low : x > high ? high : x;
}

/* One of Newton's steps; false at the end of the way. */
static bool step(struct mix_weights *w, const struct mix_rows *r, int fold)
{
    double m[MIX_WEIGHTS][TRAIN_SOLVE_MAX + 1] = {{0}}, most = 0;
    for (int k = 0; k < MIX_WEIGHTS; k++) {
        m[k][k] = PULL;
        m[k][MIX_WEIGHTS] = PULL * (w->w[k] - HOME.w[k]);
    }
    for (size_t i = 0; i < r->n; i++) {
        if (r->fold[i] == fold) continue;
        const double *x = r->x[i];
        double p = 1 / (1 + exp(-odds(w, r, i))), v = r->weight[i] * (p * (1 - p) + 1e-9);
        for (int k = 0; k < MIX_WEIGHTS; k++) {
            m[k][MIX_WEIGHTS] += r->weight[i] * (p - r->y[i]) * x[k];
            for (int l = 0; l < MIX_WEIGHTS; l++) m[k][l] += v * x[k] * x[l];
        }
    }
    if (!train_solve(MIX_WEIGHTS, m)) return false;
    for (int k = 0; k < MIX_WEIGHTS; k++) most += fabs(m[k][MIX_WEIGHTS]);
    double cap = most > 1 ? 1 / most : 1;
    for (int k = 0; k < MIX_WEIGHTS; k++) w->w[k] = bounded(w->w[k] - cap * m[k][MIX_WEIGHTS], LOW[k], HIGH[k]);
    return most > 1e-9;
}

struct mix_weights mix_fit(const struct mix_rows *r, int fold)
{
    struct mix_weights w = HOME;
    for (int k = 0; k < STEPS && step(&w, r, fold); k++) continue;
    return w;
}

static double log_loss(double x, double y)
{
    double size = fabs(x), soft = log1p(exp(-size));
    return y * (soft + (x < 0 ? size : 0)) + (1 - y) * (soft + (x > 0 ? size : 0));
}

static double mean(const struct mix_rows *r, const double *x)
{
    double sum = 0, weight = 0;
    for (size_t i = 0; i < r->n; i++) {
        sum += r->weight[i] * x[i];
        weight += r->weight[i];
    }
    return weight > 0 ? sum / weight : 0;
}

double mix_loss_prior(const struct mix_rows *r, double *loss)
{
    for (size_t i = 0; i < r->n; i++) loss[i] = log_loss(odds(&HOME, r, i), r->y[i]);
    return mean(r, loss);
}

double mix_loss_held_out(const struct mix_rows *r, int folds, double *loss)
{
    for (int fold = 0; fold < folds; fold++) {
        struct mix_weights w = mix_fit(r, fold);
        for (size_t i = 0; i < r->n; i++)
            if (r->fold[i] == fold) loss[i] = log_loss(odds(&w, r, i), r->y[i]);
    }
    return mean(r, loss);
}

double mix_error(const struct mix_rows *r, const double *x, const double *y)
{
    double middle = mean(r, x) - mean(r, y), sum = 0, weight = 0;
    for (size_t i = 0; i < r->n; i++) {
        double off = r->weight[i] * (x[i] - y[i] - middle);
        sum += off * off;
        weight += r->weight[i];
    }
    return weight > 0 ? sqrt(sum) / weight : 0;
}
