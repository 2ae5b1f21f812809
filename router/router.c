/* Scoring: one walk over the text, one look into the bucket table for each n-gram, then a few thousand multiplications. */
#include "router/own.h"

#include "base/clock.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Sums while walking. Integers, so that the result does not depend on the order. */
struct adding {
    const struct router *r;
    struct model_sums *sums;
    struct sketch_sums *sketch; /* NULL: none is wanted */
    struct router_trace *trace; /* NULL: none is wanted */
    uint64_t seen[GRAM_KINDS][(1u << MODEL_BITS_MAX) / 64]; /* only 2^bits of each is cleared and used */
};

typedef int8_t bytes16 __attribute__((vector_size(16)));
typedef int16_t shorts16 __attribute__((vector_size(32)));
_Static_assert(FEATURES_CHUNK * 128 <= 32768, "a chunk's sum of bytes fits 16 bits");

static inline void trace_word(struct router_trace *trace, uint32_t hash)
{
    if (trace->words < ROUTER_TRACE_WORDS) trace->word[trace->words] = hash;
    trace->words++;
}

/* The last lane adds up idf, and is not used. */
static inline void add_bucket(shorts16 *sum, const struct model_bucket *b)
{
    bytes16 w;
    memcpy(&w, b, sizeof w);
    *sum += __builtin_convertvector(w, shorts16);
}

static void add_grams(void *ctx, const struct gram *grams, size_t count)
{
    struct adding *a = ctx;
    unsigned bits = a->r->bits, shift = 32 - bits;
    const struct model_bucket *buckets = a->r->buckets;
    shorts16 sum[GRAM_KINDS] = {{0}};
    for (size_t i = 0; i < count; i++)
        __builtin_prefetch(&buckets[(size_t)grams[i].kind << bits | grams[i].hash >> shift]);
    for (size_t i = 0; i < count; i++) {
        unsigned kind = grams[i].kind;
        uint32_t at = grams[i].hash >> shift;
        uint64_t bit = 1ull << (at & 63), *seen = &a->seen[kind][at >> 6];
        const struct model_bucket *b = &buckets[(size_t)kind << bits | at];
        a->sums->words += kind == GRAM_WORD;
        a->sums->words_known += kind == GRAM_WORD && b->idf;
        if (!b->idf || (*seen & bit)) continue;
        *seen |= bit;
        add_bucket(&sum[kind], b);
        a->sums->norm2[kind] += b->idf * b->idf;
    }
    for (int k = 0; k < GRAM_KINDS; k++)
        for (int h = 0; h < MODEL_HEADS; h++) a->sums->w[k][h] += sum[k][h];
    if (a->sketch) sketch_add(a->sketch, a->r->key, grams, count);
    for (size_t i = 0; a->trace && i < count; i++)
        if (grams[i].kind == GRAM_WORD) trace_word(a->trace, grams[i].hash);
}

void model_walk_sketch(const struct router *r, const struct router_input *in, struct model_sums *out,
                       struct sketch_sums *sketch, struct router_trace *trace)
{
    struct adding a;
    a.r = r;
    a.sums = out;
    a.sketch = sketch;
    a.trace = trace;
    if (sketch) sketch_start(sketch);
    if (trace) trace->words = 0;
    for (int k = 0; k < GRAM_KINDS; k++) memset(a.seen[k], 0, ((size_t)1 << r->bits) / 8);
    *out = (struct model_sums){0};
    features_walk(in, add_grams, &a, out->counted);
    if (trace) memcpy(trace->counted, out->counted, sizeof trace->counted);
}

void model_walk(const struct router *r, const struct router_input *in, struct model_sums *out)
{
    model_walk_sketch(r, in, out, NULL, NULL);
}

void model_heads(const struct router *r, const struct model_sums *sums, float heads[MODEL_HEADS])
{
    const struct model_linear *l = &r->linear;
    int kinds = 0;
    for (int k = 0; k < GRAM_KINDS; k++) kinds += sums->norm2[k] > 0;
    memcpy(heads, l->bias, sizeof l->bias);
    for (int k = 0; k < GRAM_KINDS; k++) {
        if (sums->norm2[k] == 0) continue;
        float unit = 1 / sqrtf((float)sums->norm2[k] * (float)kinds);
        for (int h = 0; h < MODEL_HEADS; h++) heads[h] += (float)sums->w[k][h] * l->scale[h] * unit;
    }
    for (int c = 0; c < COUNTED; c++) {
        float x = model_standard(l, c, sums->counted[c]);
        for (int h = 0; h < MODEL_HEADS; h++) heads[h] += x * l->counted[c][h];
    }
}

/* What each tier scores on the tasks the codes speak for. */
static void task_means(const struct router *r, const float heads[MODEL_HEADS], float out[TIERS])
{
    float logit[MODEL_TASKS_MAX], top = -INFINITY, sum = 0;
    for (int t = 0; t < r->tasks; t++) {
        logit[t] = r->task[t].bias;
        for (int h = 0; h < MODEL_HEADS; h++) logit[t] += r->task[t].code[h] * heads[h];
        if (logit[t] > top) top = logit[t];
    }
    for (int t = 0; t < TIERS; t++) out[t] = 0;
    for (int t = 0; t < r->tasks; t++) {
        float p = expf(logit[t] - top);
        sum += p;
        for (int i = 0; i < TIERS; i++) out[i] += p * r->task[t].tier[i];
    }
    for (int i = 0; i < TIERS; i++) out[i] /= sum;
}

void model_inputs(const struct router *r, const float heads[MODEL_HEADS], const float *counted,
                  float inputs[MODEL_INPUTS], float raw[TIERS])
{
    float mean[TIERS] = {0};
    int columns = r->info.tiers;
    if (r->tasks) task_means(r, heads, mean);
    for (int t = 0; t < TIERS; t++) {
        bool used = t < columns;
        inputs[t] = used ? heads[t] : 0;
        inputs[TIERS + 1 + t] = used ? mean[t] : 0;
        raw[t] = !used ? 0 : r->tasks ? (heads[t] + mean[t]) / 2 : heads[t];
    }
    inputs[TIERS] = heads[columns];
    for (int c = 0; c < COUNTED; c++) inputs[2 * TIERS + 1 + c] = counted[c];
}

void model_tree_add(const struct model_tree *tree, const float inputs[MODEL_INPUTS], float raw[TIERS])
{
    unsigned node = 0;
    for (int d = 0; d < MODEL_DEPTH; d++) node = 2 * node + 1 + (inputs[tree->input[node]] > tree->at[node]);
    const float *leaf = tree->leaf[node - (MODEL_LEAVES - 1)];
    for (int t = 0; t < TIERS; t++) raw[t] += leaf[t];
}

void model_trees(const struct router *r, const float inputs[MODEL_INPUTS], float raw[TIERS])
{
    for (int k = 0; k < r->trees; k++) model_tree_add(&r->tree[k], inputs, raw);
}

double model_calibrate(const struct model_curve *curve, double raw)
{
    double r = raw < 0.005 ? 0.005 : raw > 0.995 ? 0.995 : raw;
    double x = (double)curve->a * log(r) - (double)curve->b * log(1 - r) + (double)curve->c;
    return 1 / (1 + exp(-x));
}

/* 0 up to the middle, 0.9 at the 99th percentile, then ever closer to 1. */
static double novelty(const float middle_top[2], double x)
{
    double width = (double)middle_top[1] - (double)middle_top[0], over = x - (double)middle_top[1];
    if (width < 1e-6) width = 1e-6;
    if (over > 0) return 1 - 0.1 * exp(-over / width);
    double share = (x - (double)middle_top[0]) / width;
    return share > 0 ? 0.9 * share : 0;
}

double model_ood(const struct router *r, const struct model_sums *sums)
{
    double square = 0;
    for (int c = 0; c < COUNTED; c++) {
        double x = (double)model_standard(&r->linear, c, sums->counted[c]);
        square += x * x / COUNTED;
    }
    double unknown = sums->words ? 1 - (double)sums->words_known / sums->words : 1;
    double a = novelty(r->novelty.words, unknown), b = novelty(r->novelty.counted, square);
    return a > b ? a : b;
}

static void with_own(const struct router *r, const struct sketch_sums *sums, const float *counted,
                     const double base[TIERS], double p[TIERS])
{
    struct sketch s;
    sketch_close(&s, sums, counted);
    own_apply(r->own, r->info.tiers, &s, base, p);
}

/* The scores a refit would stand on. */
static void base_out(const struct router *r, const double base[TIERS], struct router_base *out)
{
    memcpy(out->id, r->base_id, sizeof out->id);
    for (int t = 0; t < TIERS; t++) out->p[t] = -1;
    for (int i = 0; i < r->info.tiers; i++) out->p[model_tier(r->info.tiers, i)] = base[i];
}

void router_score_traced(const struct router *r, const struct router_input *in, struct router_scores *out,
                         struct router_trace *trace)
{
    int64_t start = clock_mono_us();
    struct model_sums sums;
    struct sketch_sums sketch;
    float heads[MODEL_HEADS], inputs[MODEL_INPUTS], raw[TIERS];
    bool own = r->own && r->key;
    double base[TIERS] = {0}, p[TIERS];
    *out = (struct router_scores){0};
    model_walk_sketch(r, in, &sums, own ? &sketch : NULL, trace);
    model_heads(r, &sums, heads);
    model_inputs(r, heads, sums.counted, inputs, raw);
    model_trees(r, inputs, raw);
    for (int i = 0; i < r->info.tiers; i++) base[i] = model_calibrate(&r->curve[i], (double)raw[i]);
    memcpy(p, base, sizeof p);
    if (own) with_own(r, &sketch, sums.counted, base, p);
    base_out(r, base, &out->base);
    for (int i = 0; i < r->info.tiers; i++) {
        out->p[model_tier(r->info.tiers, i)] = p[i];
        out->known[model_tier(r->info.tiers, i)] = true;
    }
    if (r->info.tiers == 2) {
        out->p[TIER_REGION] = (out->p[TIER_EDGE] + out->p[TIER_CORE]) / 2;
        out->known[TIER_REGION] = true;
    }
    out->ood = model_ood(r, &sums);
    out->cost_us = (double)(clock_mono_us() - start);
}

void router_score(const struct router *r, const struct router_input *in, struct router_scores *out)
{
    router_score_traced(r, in, out, NULL);
}

double router_probe(const struct router *r, double p, const struct router_evidence *ev)
{
    const struct model_probe *m = &r->probe;
    bool hidden = ev->hidden && ev->embedding == (int)m->embedding;
    if (!r->probe_w || !hidden) return p;
    double clipped = p < 0.005 ? 0.005 : p > 0.995 ? 0.995 : p, text = log(clipped / (1 - clipped)), state = 0;
    for (int i = 0; i < ev->embedding; i++) state += (double)ev->hidden[i] * (double)r->probe_w[i];
    double x = (double)m->prefill_bias + (double)m->prefill_text * text + state;
    if (ev->tokens > 0) {
        const double figure[MODEL_CERTAINTIES] = {ev->entropy_mean, ev->entropy_max, ev->margin_min,
                                                  ev->logprob_mean, ev->varentropy_mean, ev->finished ? 1.0 : 0.0};
        x = (double)m->bias + (double)m->text * text + (double)m->hidden * state;
        for (int i = 0; i < MODEL_CERTAINTIES; i++) x += (double)m->weight[i] * (figure[i] - (double)m->mean[i]);
    }
    if (r->own && r->key) x = (double)r->own->probe_a * x + (double)r->own->probe_b;
    return isfinite(x) ? 1 / (1 + exp(-x)) : p;
}
