/* What a log's own labels add to a router: a correction in sketch space. Private to the room.
 *
 *   base       the router as it was fitted to texts; its probabilities are the prior, o = logit(p)
 *   residual   ridge regression of (label - p) on a sketch's counted features and trits, then small trees: raw = p + r
 *   mix        logit(p') = a o + b + 4 c r + d (logit(raw) - o), one (a, b, c, d) a tier. (1, 0, 0, 0) is the prior untouched;
 *              all are pulled to it by the weight of some labels, so that few change little
 *
 * It belongs to the key its sketches were made under and is not used without it.
 */
#ifndef RUNG_ROUTER_OWN_H
#define RUNG_ROUTER_OWN_H

#include "router/model.h"
#include "router/sketch.h"

enum { OWN_TREES_MAX = 24, OWN_TRITS = (SKETCH_TRITS + 31) / 32 * 32 };

/* As it lies in the file. Columns as the file's: two are edge and core. */
struct model_own {
    uint32_t trees;
    unsigned char key_id[4];        /* the last is 0 */
    char base[24];                  /* fingerprint of the base, closed by a NUL */
    int64_t labels[TIERS];
    float a[TIERS], b[TIERS], c[TIERS], d[TIERS], bias[TIERS], scale[TIERS];
    float mean[COUNTED], gain[COUNTED], counted[COUNTED][TIERS];
    float probe_a, probe_b;         /* log-odds of the probe: a x + b */
    uint32_t reserved;
    int8_t w[TIERS][OWN_TRITS];
    struct model_tree tree[OWN_TREES_MAX];
};

static inline double own_clip(double p)
{
    return p < 0.005 ? 0.005 : p > 0.995 ? 0.995 : p;
}
double own_logit(double p); /* clipped */
/* What raw says beyond the prior: 4 r, and the difference of the log-odds. */
void own_beyond(double p, double raw, double out[2]);
static inline float own_standard(const struct model_own *own, int c, float x)
{
    float v = (x - own->mean[c]) * own->gain[c];
    return v > 4 ? 4 : v < -4 ? -4 : v;
}
/* The trees' inputs: base, residual by ridge, counted. */
void own_inputs(int columns, const double base[TIERS], const float residual[TIERS], const float counted[COUNTED],
                float inputs[MODEL_INPUTS]);
/* From a sketch and the base's probabilities by column to the new ones. */
void own_apply(const struct model_own *own, int columns, const struct sketch *sketch, const double base[TIERS],
               double p[TIERS]);
/* Fields and numbers are what they may be. */
bool own_valid(const struct model_own *own);

#endif
