/* Which features moved a score: each is taken away in its turn, and the prompt scored again without it. */
#include "router/own.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXPLAIN_TEXT = 4096, EXPLAIN_GRAMS = 2048 };

struct found { /* a word or a pair of words that the router knows */
    uint32_t bucket, at, len;
    uint8_t kind;
};
struct finding {
    const struct router *r;
    struct found found[EXPLAIN_GRAMS];
    int count;
};

static void find_grams(void *ctx, const struct gram *grams, size_t count)
{
    struct finding *f = ctx;
    for (size_t i = 0; i < count; i++) {
        uint32_t bucket = (uint32_t)grams[i].kind << f->r->bits | grams[i].hash >> (32 - f->r->bits);
        bool words = grams[i].kind == GRAM_WORD || grams[i].kind == GRAM_PAIR;
        if (!words || !f->r->buckets[bucket].idf || f->count == EXPLAIN_GRAMS) continue;
        f->found[f->count++] = (struct found){bucket, grams[i].at, grams[i].len, grams[i].kind};
    }
}

static double log_odds(const struct router *r, const struct model_sums *sums)
{
    float heads[MODEL_HEADS], inputs[MODEL_INPUTS], raw[TIERS];
    model_heads(r, sums, heads);
    model_inputs(r, heads, sums->counted, inputs, raw);
    model_trees(r, inputs, raw);
    double p = model_calibrate(&r->curve[0], (double)raw[0]);
    return log(p / (1 - p));
}

static int by_weight(const void *a, const void *b)
{
    double x = fabs(((const struct router_reason *)a)->weight), y = fabs(((const struct router_reason *)b)->weight);
    return (x < y) - (x > y);
}

static void without_gram(const struct router *r, const struct model_sums *sums, const struct found *g,
                         struct model_sums *out)
{
    const struct model_bucket *b = &r->buckets[g->bucket];
    *out = *sums;
    for (int h = 0; h < MODEL_HEADS; h++) out->w[g->kind][h] -= b->w[h];
    out->norm2[g->kind] -= b->idf * b->idf;
}

/* A name that fits and is whole: cut at a character's start. */
static void gram_name(char *out, size_t size, const char *lowered, const struct found *g)
{
    int len = (int)(g->len < 36 ? g->len : 36);
    const char *from = lowered + g->at - g->len;
    while (len > 0 && len < (int)g->len && ((unsigned char)from[len] & 0xc0) == 0x80) len--;
    (void)snprintf(out, size, "%s \"%.*s\"", g->kind == GRAM_WORD ? "word" : "words", len, from);
}

/* What a log's labels added: sketches name no words, so it is one sum. */
static struct router_reason own_reason(const struct router *r, const struct router_input *in)
{
    struct router_reason out = {.feature = "this log's own labels"};
    struct router_scores s;
    router_score(r, in, &s);
    out.weight = own_logit(s.p[TIER_EDGE]) - own_logit(s.base.p[TIER_EDGE]);
    return out;
}

int router_explain(const struct router *r, const struct router_input *in, struct router_reason *out, int max)
{
    struct finding *f = calloc(1, sizeof *f);
    struct router_reason *all = calloc(EXPLAIN_GRAMS + COUNTED + 1, sizeof *all);
    char *lowered = calloc(FEATURES_TEXT_MAX + 1, 1);
    int count = 0;
    if (f && all && lowered) {
        struct router_input head = *in;
        if (head.text_len > EXPLAIN_TEXT) head.text_len = EXPLAIN_TEXT; /* words named from the beginning only */
        f->r = r;
        struct model_sums sums, less;
        model_walk(r, in, &sums);
        features_walk(&head, find_grams, f, NULL);
        features_lowered(&head, lowered);
        double whole = log_odds(r, &sums);
        for (int i = 0; i < f->count; i++) {
            int k = 0;
            while (k < i && f->found[k].bucket != f->found[i].bucket) k++;
            if (k < i) continue;
            without_gram(r, &sums, &f->found[i], &less);
            gram_name(all[count].feature, sizeof all[count].feature, lowered, &f->found[i]);
            all[count++].weight = whole - log_odds(r, &less);
        }
        for (int c = 0; c < COUNTED; c++) {
            less = sums;
            less.counted[c] = r->linear.mean[c]; /* as it is on average */
            (void)snprintf(all[count].feature, sizeof all[count].feature, "%s", counted_name((enum counted)c));
            all[count++].weight = whole - log_odds(r, &less);
        }
        if (r->own && r->key) all[count++] = own_reason(r, in);
        qsort(all, (size_t)count, sizeof *all, by_weight);
        while (count > 0 && fabs(all[count - 1].weight) < 1e-4) count--;
        if (count > max) count = max;
        if (count > 0) memcpy(out, all, (size_t)count * sizeof *out);
    }
    free(f);
    free(all);
    free(lowered);
    return count;
}
