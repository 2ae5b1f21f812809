/* Rows into sparse vectors, weighed as scoring weighs them. */
#include "router/train_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double COUNTED_SHARE = 0.5; /* length of the counted features' vector beside the n-grams', which is 1 */
enum { SEEN_ENOUGH = 2 };                /* rows a bucket must be in to count */

struct collect {
    const struct router *r;
    uint32_t *at; /* this row's buckets, in the order of the text, repeated */
    size_t count, cap;
    bool failed;
};

static void collect_grams(void *ctx, const struct gram *grams, size_t count)
{
    struct collect *c = ctx;
    if (c->count + count > c->cap) {
        size_t cap = (c->cap + count) * 2;
        uint32_t *grown = realloc(c->at, cap * sizeof *grown);
        if (!grown) {
            c->failed = true;
            return;
        }
        c->at = grown;
        c->cap = cap;
    }
    for (size_t i = 0; i < count; i++)
        c->at[c->count++] = (uint32_t)grams[i].kind << c->r->bits | grams[i].hash >> (32 - c->r->bits);
}

static bool vectors_add(struct train_vectors *v, uint32_t column, float value)
{
    if (v->entries == v->cap) {
        size_t cap = v->cap ? v->cap * 2 : 1 << 16;
        uint32_t *columns = realloc(v->column, cap * sizeof *columns);
        if (columns) v->column = columns;
        float *values = columns ? realloc(v->value, cap * sizeof *values) : NULL;
        if (!values) return false;
        v->value = values;
        v->cap = cap;
    }
    v->column[v->entries] = column;
    v->value[v->entries++] = value;
    return true;
}

static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* First pass: each row's distinct buckets, in ascending order; value holds how often a bucket came. */
static bool walk_rows(struct train_vectors *v, const struct train_rows *rows, const struct router *r)
{
    struct collect c = {.r = r};
    bool ok = true;
    for (size_t i = 0; ok && i < v->rows; i++) {
        struct router_input in = train_input(&rows->row[i]);
        c.count = 0;
        features_walk(&in, collect_grams, &c, v->counted + i * COUNTED);
        ok = !c.failed;
        if (ok && c.count) qsort(c.at, c.count, sizeof *c.at, by_number);
        for (size_t k = 0; ok && k < c.count; k++) {
            if (k && c.at[k] == c.at[k - 1]) v->value[v->entries - 1]++;
            else ok = vectors_add(v, c.at[k], 1);
        }
        for (int k = 0; ok && k < COUNTED; k++) ok = vectors_add(v, UINT32_MAX, 0);
        v->from[i + 1] = v->entries;
    }
    free(c.at);
    return ok;
}

static int by_float(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void middle_top(float *figure, size_t n, float out[2])
{
    qsort(figure, n, sizeof *figure, by_float);
    out[0] = figure[n / 2];
    out[1] = figure[n - 1 - n / 100];
}

/* How unknown the words of each row would be, had it not been there. */
static bool measure_novelty(struct router *r, const struct train_vectors *v, const uint32_t *df)
{
    float *words = malloc(v->rows * sizeof *words), *square = malloc(v->rows * sizeof *square);
    for (size_t i = 0; words && square && i < v->rows; i++) {
        float all = 0, known = 0, sum = 0;
        for (size_t k = v->from[i]; k < v->from[i + 1]; k++) {
            if (v->column[k] >= (uint32_t)1 << r->bits) continue; /* kind 0: words */
            all += v->value[k];
            if (df[v->column[k]] > SEEN_ENOUGH) known += v->value[k];
        }
        words[i] = all > 0 ? 1 - known / all : 1;
        for (int c = 0; c < COUNTED; c++) {
            float x = model_standard(&r->linear, c, v->counted[i * COUNTED + (size_t)c]);
            sum += x * x / COUNTED;
        }
        square[i] = sum;
    }
    if (words && square) {
        middle_top(words, v->rows, r->novelty.words);
        middle_top(square, v->rows, r->novelty.counted);
    }
    bool ok = words && square;
    free(words);
    free(square);
    return ok;
}

static void standardise(struct model_linear *l, const struct train_vectors *v)
{
    for (size_t c = 0; c < COUNTED; c++) {
        double sum = 0, sum2 = 0;
        for (size_t i = 0; i < v->rows; i++) sum += (double)v->counted[i * COUNTED + c];
        double mean = sum / (double)v->rows;
        for (size_t i = 0; i < v->rows; i++) {
            double d = (double)v->counted[i * COUNTED + c] - mean;
            sum2 += d * d;
        }
        double deviation = sqrt(sum2 / (double)v->rows);
        l->mean[c] = (float)mean;
        l->gain[c] = deviation > 1e-6 ? (float)(1 / deviation) : 0;
    }
}

/* Second pass: values weighed by idf, each kind's part of length 1 / √kinds; then the counted features. In place: a
 * row never grows. */
static void weigh_row(struct train_vectors *v, const struct router *r, const uint32_t *column_of, size_t i, size_t k,
                      size_t end, size_t *to)
{
    double norm2[GRAM_KINDS] = {0};
    size_t start = *to;
    int kinds = 0;
    for (; k < end && v->column[k] != UINT32_MAX; k++) {
        uint32_t at = v->column[k], kind = at >> r->bits;
        double idf = r->buckets[at].idf;
        if (idf == 0) continue;
        kinds += norm2[kind] == 0;
        norm2[kind] += idf * idf;
        v->column[*to] = column_of[at];
        v->value[(*to)++] = (float)idf;
    }
    for (size_t j = start; j < *to; j++) {
        uint32_t kind = v->bucket[v->column[j]] >> r->bits;
        v->value[j] /= sqrtf((float)norm2[kind] * (float)kinds);
    }
    float unit = (float)(COUNTED_SHARE / sqrt((double)COUNTED));
    for (int c = 0; c < COUNTED; c++) {
        v->column[*to] = v->used + (uint32_t)c;
        v->value[(*to)++] = unit * model_standard(&r->linear, c, v->counted[i * COUNTED + (size_t)c]);
    }
}

static bool weigh_rows(struct train_vectors *v, struct router *r)
{
    size_t n = (size_t)GRAM_KINDS << r->bits;
    uint32_t *df = calloc(n, sizeof *df);
    v->bucket = malloc(n * sizeof *v->bucket);
    bool ok = df && v->bucket;
    for (size_t k = 0; ok && k < v->entries; k++)
        if (v->column[k] != UINT32_MAX) df[v->column[k]]++;
    ok = ok && measure_novelty(r, v, df);
    for (size_t b = 0; ok && b < n; b++) {
        if (df[b] < SEEN_ENOUGH) continue;
        double idf = 16 * (log((1.0 + (double)v->rows) / (1.0 + df[b])) + 1);
        r->buckets[b].idf = (uint8_t)(idf > 255 ? 255 : idf + 0.5);
        v->bucket[v->used] = (uint32_t)b;
        df[b] = v->used++;
    }
    v->columns = v->used + COUNTED;
    size_t to = 0, from = 0;
    for (size_t i = 0; ok && i < v->rows; i++) {
        size_t end = v->from[i + 1];
        weigh_row(v, r, df, i, from, end, &to);
        from = end;
        v->from[i + 1] = to;
    }
    v->entries = to;
    free(df);
    return ok;
}

bool vectors_init(struct train_vectors *v, const struct train_rows *rows, struct router *r)
{
    *v = (struct train_vectors){.rows = rows->count};
    v->from = calloc(v->rows + 1, sizeof *v->from);
    v->counted = calloc(v->rows * COUNTED + 1, sizeof *v->counted);
    if (!v->from || !v->counted || !walk_rows(v, rows, r)) return false;
    standardise(&r->linear, v);
    return weigh_rows(v, r);
}

void vectors_release(struct train_vectors *v)
{
    free(v->from);
    free(v->column);
    free(v->value);
    free(v->bucket);
    free(v->counted);
    *v = (struct train_vectors){0};
}
