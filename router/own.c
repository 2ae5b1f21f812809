#include "router/own.h"

#include <math.h>
#include <string.h>

double own_logit(double p)
{
    double clipped = own_clip(p);
    return log(clipped / (1 - clipped));
}

void own_beyond(double p, double raw, double out[2])
{
    out[0] = 4 * (raw - p);
    out[1] = own_logit(raw) - own_logit(p);
}

SKETCH_WIDE static int32_t trit_sum(const int8_t *w, const int8_t *trit)
{
    int32_t sum = 0;
    for (int k = 0; k < SKETCH_TRITS; k++) sum += (int16_t)(w[k] * trit[k]);
    return sum;
}

static void residual_of(const struct model_own *own, int columns, const struct sketch *s, float out[TIERS])
{
    float unit = s->filled ? 1 / sqrtf((float)s->filled) : 0;
    for (int t = 0; t < columns; t++) {
        out[t] = own->bias[t] + own->scale[t] * unit * (float)trit_sum(own->w[t], s->trit);
    }
    for (int c = 0; c < COUNTED; c++) {
        float x = own_standard(own, c, s->counted[c]);
        for (int t = 0; t < columns; t++) out[t] += x * own->counted[c][t];
    }
}

void own_inputs(int columns, const double base[TIERS], const float residual[TIERS], const float counted[COUNTED],
                float inputs[MODEL_INPUTS])
{
    for (int t = 0; t < TIERS; t++) {
        inputs[t] = t < columns ? (float)base[t] : 0;
        inputs[TIERS + 1 + t] = t < columns ? residual[t] : 0;
    }
    inputs[TIERS] = 0;
    for (int c = 0; c < COUNTED; c++) inputs[2 * TIERS + 1 + c] = counted[c];
}

void own_apply(const struct model_own *own, int columns, const struct sketch *sketch, const double base[TIERS],
               double p[TIERS])
{
    float residual[TIERS] = {0}, inputs[MODEL_INPUTS], raw[TIERS] = {0};
    residual_of(own, columns, sketch, residual);
    own_inputs(columns, base, residual, sketch->counted, inputs);
    for (int t = 0; t < columns; t++) raw[t] = (float)base[t] + residual[t];
    for (uint32_t k = 0; k < own->trees; k++) model_tree_add(&own->tree[k], inputs, raw);
    for (int t = 0; t < columns; t++) {
        double beyond[2];
        own_beyond(base[t], (double)raw[t], beyond);
        double x = (double)own->a[t] * own_logit(base[t]) + (double)own->b[t] + (double)own->c[t] * beyond[0] +
                   (double)own->d[t] * beyond[1];
        bool untouched = own->a[t] == 1 && own->b[t] == 0 && own->c[t] == 0 && own->d[t] == 0;
        p[t] = untouched ? base[t] : 1 / (1 + exp(-x));
    }
}

static bool all_finite(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]) || fabsf(x[i]) > 1e9f) return false;
    return true;
}

bool own_valid(const struct model_own *own)
{
    if (own->trees > OWN_TREES_MAX || own->key_id[3] != 0 || memchr(own->base, 0, 17) != own->base + 16) return false;
    if (strspn(own->base, "0123456789abcdef") != 16) return false;
    for (int t = 0; t < TIERS; t++)
        if (own->labels[t] < 0) return false;
    size_t floats = (offsetof(struct model_own, reserved) - offsetof(struct model_own, a)) / sizeof(float);
    if (!all_finite(own->a, floats)) return false;
    for (uint32_t k = 0; k < own->trees; k++) {
        const struct model_tree *tree = &own->tree[k];
        for (int i = 0; i < MODEL_LEAVES - 1; i++)
            if (tree->input[i] >= MODEL_INPUTS) return false;
        if (!all_finite(tree->at, MODEL_LEAVES - 1) || !all_finite(tree->leaf[0], MODEL_LEAVES * TIERS)) return false;
    }
    return true;
}
