/* Scoring: one walk over the text, one look into the bucket table for each n-gram, a few dozen multiplications. */
#include "router/model.h"

#include "base/clock.h"

#include <math.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

/* Sums while walking. Integers, so that the result does not depend on the order. */
struct sums {
    const struct router *r;
    int64_t w[GRAM_KINDS][TIERS];
    int64_t norm2[GRAM_KINDS];
    uint32_t words, words_known;
    uint64_t seen[(1u << MODEL_BITS_MAX) / 64]; /* buckets that were counted; only 2^bits of it is cleared */
};

static void add_grams(void *ctx, const struct gram *grams, size_t count)
{
    struct sums *s = ctx;
    unsigned shift = 32 - s->r->bits;
    const struct model_bucket *buckets = s->r->buckets;
    for (size_t i = 0; i < count; i++) __builtin_prefetch(&buckets[grams[i].hash >> shift]);
    for (size_t i = 0; i < count; i++) {
        uint32_t at = grams[i].hash >> shift;
        uint64_t bit = 1ull << (at & 63);
        unsigned kind = grams[i].kind;
        struct model_bucket b = buckets[at];
        s->words += kind == GRAM_WORD;
        s->words_known += kind == GRAM_WORD && b.idf;
        if (!b.idf || (s->seen[at >> 6] & bit)) continue;
        s->seen[at >> 6] |= bit;
        for (int t = 0; t < TIERS; t++) s->w[kind][t] += b.w[t] * b.idf;
        s->norm2[kind] += b.idf * b.idf;
    }
}

static void add_waves(const struct router *r, const float *counted, float raw[TIERS])
{
    float x[COUNTED];
    for (int i = 0; i < COUNTED; i++) {
        float v = (counted[i] - r->mean[i]) * r->gain[i];
        x[i] = v > 4 ? 4 : v < -4 ? -4 : v;
    }
    for (int k = 0; k < r->waves; k++) {
        const float *wave = r->wave + (size_t)k * COUNTED;
        float angle = r->phase[k];
        for (int i = 0; i < COUNTED; i++) angle += wave[i] * x[i];
        float c = cosf(angle);
        for (int t = 0; t < TIERS; t++) raw[t] += c * r->wave_w[k * TIERS + t];
    }
}

void model_raw(const struct router *r, const struct router_input *in, float raw[TIERS], double *ood)
{
    struct sums s;
    memset(&s, 0, offsetof(struct sums, seen));
    memset(s.seen, 0, ((size_t)1 << r->bits) / 8);
    s.r = r;
    float counted[COUNTED];
    features_walk(in, add_grams, &s, counted);
    int kinds = 0;
    for (int k = 0; k < GRAM_KINDS; k++) kinds += s.norm2[k] > 0;
    for (int t = 0; t < TIERS; t++) raw[t] = r->bias[t];
    for (int k = 0; k < GRAM_KINDS; k++) {
        if (s.norm2[k] == 0) continue;
        float unit = 1 / sqrtf((float)s.norm2[k] * (float)kinds);
        for (int t = 0; t < TIERS; t++) raw[t] += (float)s.w[k][t] * r->scale[t] * unit;
    }
    add_waves(r, counted, raw);
    *ood = s.words ? 1.0 - (double)s.words_known / s.words : 1.0;
}

static double logistic(double x)
{
    return 1 / (1 + exp(-x));
}

void router_score(const struct router *r, const struct router_input *in, struct router_scores *out)
{
    int64_t start = clock_mono_us();
    float raw[TIERS];
    *out = (struct router_scores){0};
    model_raw(r, in, raw, &out->ood);
    for (int i = 0; i < r->info.tiers; i++) {
        enum tier t = model_tier(r->info.tiers, i);
        out->p[t] = logistic((double)r->platt[i][0] * (double)raw[i] + (double)r->platt[i][1]);
        out->known[t] = true;
    }
    if (r->info.tiers == 2) {
        out->p[TIER_REGION] = (out->p[TIER_EDGE] + out->p[TIER_CORE]) / 2;
        out->known[TIER_REGION] = true;
    }
    out->cost_us = (double)(clock_mono_us() - start);
}

double router_probe(const struct router *router, double p, const struct router_evidence *evidence)
{
    (void)router;
    (void)evidence;
    return p;
}
