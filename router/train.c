/* The first fit: ridge regression on hashed n-grams and random waves over the counted features, by conjugate
 * gradients; Platt's logistic curve over predictions of folds that had not seen the row. */
#include "router/train.h"
#include "router/model.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { WAVES = 192, STEPS = 14 };
static const float RIDGE = 8, WAVE_SHARE = 0.7f, WAVE_WIDTH = 0.12f;

/* All rows as sparse vectors over the columns in use. */
struct sparse {
    size_t rows, entries, cap;
    size_t *from;     /* (rows + 1) */
    uint32_t *column; /* (entries) */
    float *value;     /* (entries) */
    uint32_t columns;
};
struct fit {
    const struct train_rows *rows;
    struct router *router; /* idf, standardising and waves are set before the weights */
    struct sparse x;
    uint32_t *bucket;      /* (x.columns) which bucket a column is; the waves come after them */
    uint32_t buckets_used;
    float *counted;        /* (rows, COUNTED) */
};
/* One system to solve: the rows of all folds but one. */
struct job {
    const struct fit *fit;
    int fold;       /* left out; -1: none */
    float *w;       /* (x.columns, TIERS) */
    float mean[TIERS];
    bool failed;
};

/* ---- rows into vectors ---- */

struct collect {
    struct fit *fit;
    uint32_t *at; /* this row's buckets with their kind, unsorted, repeated */
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
    unsigned shift = 32 - c->fit->router->bits;
    for (size_t i = 0; i < count; i++) c->at[c->count++] = grams[i].hash >> shift | (uint32_t)grams[i].kind << 24;
}

static bool sparse_add(struct sparse *x, uint32_t column, float value)
{
    if (x->entries == x->cap) {
        size_t cap = x->cap ? x->cap * 2 : 1 << 16;
        uint32_t *columns = realloc(x->column, cap * sizeof *columns);
        if (columns) x->column = columns;
        float *values = columns ? realloc(x->value, cap * sizeof *values) : NULL;
        if (!values) return false;
        x->value = values;
        x->cap = cap;
    }
    x->column[x->entries] = column;
    x->value[x->entries++] = value;
    return true;
}

/* First pass: each row's distinct buckets, in the order of the text; the kind is kept in `value` until weighing.
 * Walking in order with a set of seen buckets is what scoring does, so both give a bucket to the same kind. */
static bool walk_rows(struct fit *f)
{
    size_t words = ((size_t)1 << f->router->bits) / 64;
    uint64_t *seen = calloc(words, sizeof *seen);
    struct collect c = {.fit = f};
    bool ok = seen != NULL;
    for (size_t i = 0; ok && i < f->rows->count; i++) {
        struct router_input in = train_input(&f->rows->row[i]);
        c.count = 0;
        features_walk(&in, collect_grams, &c, f->counted + i * COUNTED);
        memset(seen, 0, words * sizeof *seen);
        ok = !c.failed;
        for (size_t k = 0; ok && k < c.count; k++) {
            uint32_t bucket = c.at[k] & 0xffffff;
            uint64_t bit = 1ull << (bucket & 63);
            if (seen[bucket >> 6] & bit) continue;
            seen[bucket >> 6] |= bit;
            ok = sparse_add(&f->x, bucket, (float)(c.at[k] >> 24));
        }
        f->x.from[i + 1] = f->x.entries;
    }
    free(seen);
    free(c.at);
    return ok;
}

/* Second pass: idf from the document counts, columns numbered, values weighed and normalised as scoring does. */
static bool weigh_rows(struct fit *f)
{
    struct router *r = f->router;
    struct sparse *x = &f->x;
    size_t n = (size_t)1 << r->bits;
    uint32_t *df = calloc(n, sizeof *df);
    if (!df) return false;
    for (size_t k = 0; k < x->entries; k++) df[x->column[k]]++;
    uint32_t next = 0;
    f->bucket = malloc(n * sizeof *f->bucket);
    for (size_t b = 0; f->bucket && b < n; b++) {
        if (df[b] < 2) {
            df[b] = UINT32_MAX;
            continue;
        }
        double idf = 16 * (log((1.0 + (double)x->rows) / (1.0 + df[b])) + 1);
        r->buckets[b].idf = (uint8_t)(idf > 255 ? 255 : idf + 0.5);
        f->bucket[next] = (uint32_t)b;
        df[b] = next++;
    }
    f->buckets_used = next;
    size_t to = 0, k = 0;
    for (size_t i = 0; f->bucket && i < x->rows; i++) {
        double norm2[GRAM_KINDS] = {0};
        size_t start = to;
        uint8_t kinds = 0;
        for (size_t end = x->from[i + 1]; k < end; k++) {
            uint32_t b = x->column[k], column = df[b];
            if (column == UINT32_MAX) continue;
            unsigned kind = (unsigned)x->value[k];
            if (norm2[kind] == 0) kinds++;
            norm2[kind] += (double)r->buckets[b].idf * r->buckets[b].idf;
            x->column[to] = column | (uint32_t)kind << 24;
            x->value[to++] = (float)r->buckets[b].idf;
        }
        for (size_t j = start; j < to; j++) {
            x->value[j] /= sqrtf((float)norm2[x->column[j] >> 24] * (float)kinds);
            x->column[j] &= 0xffffff;
        }
        x->from[i + 1] = to;
    }
    x->entries = to;
    free(df);
    return f->bucket != NULL;
}

/* ---- counted features ---- */

static uint64_t random_next(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15u;
    uint64_t z = *state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}
static double random_unit(uint64_t *state)
{
    return ((double)(random_next(state) >> 11) + 0.5) / 9007199254740992.0;
}

static void standardise(struct fit *f)
{
    size_t n = f->rows->count;
    for (int c = 0; c < COUNTED; c++) {
        double sum = 0, sum2 = 0;
        for (size_t i = 0; i < n; i++) sum += (double)f->counted[i * COUNTED + (size_t)c];
        double mean = sum / (double)n;
        for (size_t i = 0; i < n; i++) {
            double d = (double)f->counted[i * COUNTED + (size_t)c] - mean;
            sum2 += d * d;
        }
        double deviation = sqrt(sum2 / (double)n);
        f->router->mean[c] = (float)mean;
        f->router->gain[c] = deviation > 1e-6 ? (float)(1 / deviation) : 0;
    }
}

static void draw_waves(struct router *r)
{
    uint64_t state = 20240601;
    for (int k = 0; k < r->waves; k++) {
        r->phase[k] = (float)(random_unit(&state) * 2 * M_PI);
        for (int c = 0; c < COUNTED; c++) {
            double u = random_unit(&state), v = random_unit(&state);
            r->wave[k * COUNTED + c] = WAVE_WIDTH * (float)(sqrt(-2 * log(u)) * cos(2 * M_PI * v));
        }
    }
}

static float wave_value(const struct router *r, int k, const float *counted)
{
    float angle = r->phase[k];
    for (int i = 0; i < COUNTED; i++) {
        float v = (counted[i] - r->mean[i]) * r->gain[i];
        angle += r->wave[k * COUNTED + i] * (v > 4 ? 4 : v < -4 ? -4 : v);
    }
    return cosf(angle);
}

/* A copy of the rows with the waves' columns after the buckets'. */
static bool append_waves(struct fit *f)
{
    struct sparse y = {.rows = f->x.rows, .columns = f->buckets_used + (uint32_t)f->router->waves};
    y.from = calloc(y.rows + 1, sizeof *y.from);
    bool ok = y.from != NULL;
    float unit = WAVE_SHARE * sqrtf(2.0f / WAVES);
    for (size_t i = 0; ok && i < y.rows; i++) {
        for (size_t k = f->x.from[i]; ok && k < f->x.from[i + 1]; k++) ok = sparse_add(&y, f->x.column[k], f->x.value[k]);
        for (int k = 0; ok && k < f->router->waves; k++)
            ok = sparse_add(&y, f->buckets_used + (uint32_t)k,
                            unit * wave_value(f->router, k, f->counted + i * COUNTED));
        y.from[i + 1] = y.entries;
    }
    free(f->x.from);
    free(f->x.column);
    free(f->x.value);
    f->x = y;
    return ok;
}

/* ---- solving ---- */

static bool in_job(const struct job *j, size_t row)
{
    return j->fit->rows->row[row].fold != j->fold;
}

/* q = (XᵀX + λ) p over the job's rows. */
static void apply(const struct job *j, const float *p, float *q)
{
    const struct sparse *x = &j->fit->x;
    for (size_t s = 0; s < (size_t)x->columns * TIERS; s++) q[s] = RIDGE * p[s];
    for (size_t i = 0; i < x->rows; i++) {
        if (!in_job(j, i)) continue;
        float dot[TIERS] = {0};
        for (size_t k = x->from[i]; k < x->from[i + 1]; k++)
            for (int t = 0; t < TIERS; t++) dot[t] += x->value[k] * p[(size_t)x->column[k] * TIERS + (size_t)t];
        for (size_t k = x->from[i]; k < x->from[i + 1]; k++)
            for (int t = 0; t < TIERS; t++) q[(size_t)x->column[k] * TIERS + (size_t)t] += x->value[k] * dot[t];
    }
}

static void dots(const float *a, const float *b, size_t n, double out[TIERS])
{
    memset(out, 0, TIERS * sizeof *out);
    for (size_t s = 0; s < n * TIERS; s += TIERS)
        for (int t = 0; t < TIERS; t++) out[t] += (double)a[s + (size_t)t] * (double)b[s + (size_t)t];
}

static void start(struct job *j, float *r)
{
    const struct sparse *x = &j->fit->x;
    double sum[TIERS] = {0};
    size_t n = 0;
    for (size_t i = 0; i < x->rows; i++) {
        if (!in_job(j, i)) continue;
        n++;
        for (int t = 0; t < TIERS; t++) sum[t] += (double)j->fit->rows->row[i].score[t];
    }
    for (int t = 0; t < TIERS; t++) j->mean[t] = n ? (float)(sum[t] / (double)n) : 0;
    memset(r, 0, (size_t)x->columns * TIERS * sizeof *r);
    for (size_t i = 0; i < x->rows; i++) {
        if (!in_job(j, i)) continue;
        for (size_t k = x->from[i]; k < x->from[i + 1]; k++)
            for (int t = 0; t < TIERS; t++)
                r[(size_t)x->column[k] * TIERS + (size_t)t] +=
                    x->value[k] * (j->fit->rows->row[i].score[t] - j->mean[t]);
    }
}

static void solve(struct job *j)
{
    size_t n = j->fit->x.columns, floats = n * TIERS;
    float *r = malloc(floats * sizeof *r), *p = malloc(floats * sizeof *p), *q = malloc(floats * sizeof *q);
    j->failed = !r || !p || !q;
    if (!j->failed) {
        start(j, r);
        memcpy(p, r, floats * sizeof *p);
        double rr[TIERS], pq[TIERS], next[TIERS];
        dots(r, r, n, rr);
        for (int step = 0; step < STEPS; step++) {
            apply(j, p, q);
            dots(p, q, n, pq);
            for (size_t s = 0; s < floats; s++) {
                size_t t = s % TIERS;
                float a = pq[t] > 1e-20 ? (float)(rr[t] / pq[t]) : 0;
                j->w[s] += a * p[s];
                r[s] -= a * q[s];
            }
            dots(r, r, n, next);
            for (size_t s = 0; s < floats; s++) {
                size_t t = s % TIERS;
                p[s] = r[s] + (rr[t] > 1e-20 ? (float)(next[t] / rr[t]) : 0) * p[s];
            }
            memcpy(rr, next, sizeof rr);
        }
    }
    free(r);
    free(p);
    free(q);
}

struct job_queue {
    struct job *jobs;
    int count, next;
    pthread_mutex_t lock;
};

static void *solve_jobs(void *arg)
{
    struct job_queue *queue = arg;
    for (;;) {
        (void)pthread_mutex_lock(&queue->lock);
        int i = queue->next++;
        (void)pthread_mutex_unlock(&queue->lock);
        if (i >= queue->count) return NULL;
        solve(&queue->jobs[i]);
    }
}

static bool solve_all(struct job *jobs, int count, int threads)
{
    struct job_queue queue = {.jobs = jobs, .count = count};
    (void)pthread_mutex_init(&queue.lock, NULL);
    pthread_t thread[16];
    int started = 0;
    while (started < threads - 1 && started < 16 && pthread_create(&thread[started], NULL, solve_jobs, &queue) == 0)
        started++;
    (void)solve_jobs(&queue);
    for (int i = 0; i < started; i++) (void)pthread_join(thread[i], NULL);
    (void)pthread_mutex_destroy(&queue.lock);
    for (int i = 0; i < count; i++)
        if (jobs[i].failed) return false;
    return true;
}

static void predict(const struct job *j, size_t row, float raw[TIERS])
{
    const struct sparse *x = &j->fit->x;
    memcpy(raw, j->mean, TIERS * sizeof *raw);
    for (size_t k = x->from[row]; k < x->from[row + 1]; k++)
        for (int t = 0; t < TIERS; t++) raw[t] += x->value[k] * j->w[(size_t)x->column[k] * TIERS + (size_t)t];
}

/* ---- calibration and the file ---- */

/* Newton's steps for p = logistic(a raw + b), with Platt's pull towards the middle. */
static void fit_platt(const struct train_rows *rows, const float (*raw)[TIERS], int t, float out[2])
{
    double a = 4, b = -2;
    for (int step = 0; step < 50; step++) {
        double g0 = 1e-3 * (a - 4), g1 = 1e-3 * (b + 2), h00 = 1e-3, h01 = 0, h11 = 1e-3;
        for (size_t i = 0; i < rows->count; i++) {
            double x = (double)raw[i][t], p = 1 / (1 + exp(-(a * x + b)));
            double d = p - (double)rows->row[i].score[t], v = p * (1 - p) + 1e-9;
            g0 += d * x;
            g1 += d;
            h00 += v * x * x;
            h01 += v * x;
            h11 += v;
        }
        double det = h00 * h11 - h01 * h01;
        double da = (h11 * g0 - h01 * g1) / det, db = (h00 * g1 - h01 * g0) / det;
        double cap = fabs(da) + fabs(db) > 10 ? 10 / (fabs(da) + fabs(db)) : 1;
        a -= cap * da;
        b -= cap * db;
    }
    out[0] = (float)a;
    out[1] = (float)b;
}

static void store_weights(struct fit *f, const struct job *j)
{
    struct router *r = f->router;
    for (int t = 0; t < TIERS; t++) {
        double sum2 = 0;
        for (size_t c = 0; c < f->buckets_used; c++) {
            double w = (double)j->w[c * TIERS + (size_t)t];
            sum2 += w * w;
        }
        float most = 6 * (float)sqrt(sum2 / (f->buckets_used ? f->buckets_used : 1)) + 1e-12f;
        r->scale[t] = most / 127;
        r->bias[t] = j->mean[t];
        for (size_t c = 0; c < f->buckets_used; c++) {
            float q = roundf(j->w[c * TIERS + (size_t)t] / r->scale[t]);
            r->buckets[f->bucket[c]].w[t] = (int8_t)(q > 127 ? 127 : q < -127 ? -127 : q);
        }
        for (int k = 0; k < r->waves; k++)
            r->wave_w[k * TIERS + t] = WAVE_SHARE * sqrtf(2.0f / WAVES) * j->w[(f->buckets_used + (size_t)k) * TIERS + (size_t)t];
    }
}

static enum err_code fit_weights(struct fit *f, const struct train_options *o, double (*out_of_fold)[TIERS])
{
    struct job jobs[TRAIN_FOLDS + 1];
    float(*raw)[TIERS] = malloc((f->rows->count + 1) * sizeof *raw);
    bool ok = raw != NULL;
    for (int i = 0; i <= TRAIN_FOLDS; i++) {
        jobs[i] = (struct job){.fit = f, .fold = i < TRAIN_FOLDS ? i : -1};
        jobs[i].w = calloc((size_t)f->x.columns * TIERS + 1, sizeof *jobs[i].w);
        ok = ok && jobs[i].w;
    }
    ok = ok && solve_all(jobs, TRAIN_FOLDS + 1, o->threads > 0 ? o->threads : 2);
    if (ok) {
        for (size_t i = 0; i < f->rows->count; i++) predict(&jobs[f->rows->row[i].fold], i, raw[i]);
        for (int t = 0; t < f->rows->columns; t++) fit_platt(f->rows, (const float(*)[TIERS])raw, t, f->router->platt[t]);
        for (size_t i = 0; out_of_fold && i < f->rows->count; i++)
            for (int t = 0; t < f->rows->columns; t++) {
                const float *c = f->router->platt[t];
                out_of_fold[i][t] = 1 / (1 + exp(-((double)c[0] * (double)raw[i][t] + (double)c[1])));
            }
        store_weights(f, &jobs[TRAIN_FOLDS]);
    }
    for (int i = 0; i <= TRAIN_FOLDS; i++) free(jobs[i].w);
    free(raw);
    return ok ? ERR_OK : ERR_MEMORY;
}

enum err_code train_router(struct router **out, const struct train_rows *rows, const struct train_options *options,
                           double (*out_of_fold)[TIERS], struct err *e)
{
    if (rows->count < 50)
        return err_set(e, ERR_INVALID, "%zu rows have scores of every tier asked for; a fit wants at least 50",
                       rows->count);
    struct fit f = {.rows = rows, .router = model_new(options->bits ? options->bits : MODEL_BITS_MAX, WAVES)};
    f.x.rows = rows->count;
    f.x.from = calloc(rows->count + 1, sizeof *f.x.from);
    f.counted = calloc(rows->count * COUNTED, sizeof *f.counted);
    enum err_code code = ERR_MEMORY;
    if (f.router && f.x.from && f.counted && walk_rows(&f) && weigh_rows(&f)) {
        standardise(&f);
        draw_waves(f.router);
        if (append_waves(&f)) code = fit_weights(&f, options, out_of_fold);
    }
    if (code) {
        (void)err_set(e, code, "out of memory fitting %zu rows", rows->count);
        router_free(f.router);
    } else {
        struct router_info *info = &f.router->info;
        info->tiers = rows->columns;
        info->rows = (int64_t)rows->count;
        info->general = options->general;
        info->fitted_wall_ms = options->wall_ms;
        memcpy(info->names, rows->names, sizeof info->names);
        *out = f.router;
    }
    free(f.x.from);
    free(f.x.column);
    free(f.x.value);
    free(f.bucket);
    free(f.counted);
    return code;
}
