/* Attention of the CUDA backend against a plain reference in double, over pages that hold NaN wherever nothing was written.
 *
 *   test_attention          everything (half a minute on an H100)
 *   test_attention quick    one case of each kind
 *   test_attention shapes   a part of it: errors, shapes (shapes 128: one head size), groups, streams, extremes, identities,
 *                           sparse, graphs, fp8
 *
 * Bounds, as ‖out - ref‖ / ‖ref‖ with the reference taken over the bytes that the cache holds: 2e-3 for F16 output, 5e-3 for
 * BF16 (its own rounding is 2e-3), with F16 and FP8 pages alike. What FP8 pages cost against unrounded K and V is measured
 * apart: under 5e-2 on normal random data. */
#include "engine/cuda/cuda.cuh"
#include "tests/cuda/must.cuh"

#include <cuda_fp8.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int passed, failed;

static void expect(bool good, const char *name, const char *what)
{
    if (good) passed++;
    else {
        failed++;
        printf("FAILED %s: %s\n", name, what);
    }
}

/* ---- random numbers ---- */

static uint64_t random_state = 0x9e3779b97f4a7c15u;
static uint32_t random_bits(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}
static int random_below(int n)
{
    return (int)(random_bits() % (uint32_t)n);
}
/* About normal, variance 1. */
static float random_float(void)
{
    float sum = 0;
    for (int i = 0; i < 4; i++) sum += (float)random_bits() * (1.0f / 4294967296.0f) - 0.5f;
    return sum * 1.7320508f;
}
static float *random_floats(int64_t n, float scale)
{
    float *x = (float *)malloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = random_float() * scale;
    return x;
}

/* ---- a case ---- */

enum { RUNS_MAX = 80, LAYERS = 2, LAYER = 1, PAD = 24 /* floats past a row of qkv */ };

struct spec {
    const char *name;
    int head_dim, heads, kv_heads, rotated;
    bool fp8, halves, bias, norm, bf16, invariant;
    int window, sparse;
    float softcap, q_scale, v_scale; /* factors of the random inputs; 0: 1 */
    bool varied;                     /* FP8: positions' scales differ by powers of two */
    int runs;
    struct {
        int past, count;
    } run[RUNS_MAX];
};

/* Everything of a case, on the host and (d_) on the device. */
struct world {
    struct spec s;
    struct attention *attention;
    struct attention_layer layer;
    struct kv_cache kv;
    struct columns columns;
    int64_t kv_bytes, ldqkv;
    uint8_t *cache, *cache_before;
    int32_t *position, *run_of, *pages;
    struct batch_run *run;
    float *qkv, *angles, *q_bias, *k_bias, *v_bias, *q_norm, *k_norm;
    float *d_qkv;
    uint16_t *out, *d_out;
    int64_t out_elements;
};

static void *to_device(const void *from, int64_t bytes)
{
    void *p = NULL;
    MUST(cudaMalloc(&p, (size_t)bytes));
    MUST(cudaMemcpy(p, from, (size_t)bytes, cudaMemcpyHostToDevice));
    return p;
}

static uint8_t *block_at(const struct world *w, uint8_t *cache, int page, int head)
{
    return cache + (((int64_t)LAYER * w->kv.pages + page) * w->kv.kv_heads + head) * kv_block_bytes(w->kv.head_dim, w->kv.fp8);
}

static double HALF[65536], E4M3[256];
static void make_tables(void)
{
    for (int i = 0; i < 65536; i++) HALF[i] = __half2float(__ushort_as_half((unsigned short)i));
    for (int i = 0; i < 256; i++) E4M3[i] = __half2float(__half(__nv_cvt_fp8_to_halfraw((__nv_fp8_storage_t)i, __NV_E4M3)));
}

/* K (or V) of a position, as the cache holds it. */
static void cached(const struct world *w, int run, int head, int position, bool value, double *x)
{
    int n = w->s.head_dim, slot = position % CUDA_PAGE_TOKENS;
    uint8_t *b = block_at(w, w->cache, w->pages[run * w->columns.pages_stride + position / CUDA_PAGE_TOKENS], head);
    int at = value ? n * CUDA_PAGE_TOKENS + slot : slot * n, step = value ? CUDA_PAGE_TOKENS : 1;
    double scale = w->s.fp8 ? ((float *)(b + 2 * CUDA_PAGE_TOKENS * n))[(value ? CUDA_PAGE_TOKENS : 0) + slot] : 1;
    for (int d = 0; d < n; d++) x[d] = w->s.fp8 ? E4M3[b[at + d * step]] * scale : HALF[((uint16_t *)b)[at + d * step]];
}

static void fill_position(const struct world *w, int run, int head, int position)
{
    int n = w->s.head_dim, slot = position % CUDA_PAGE_TOKENS;
    uint8_t *b = block_at(w, w->cache, w->pages[run * w->columns.pages_stride + position / CUDA_PAGE_TOKENS], head);
    for (int d = 0; d < n; d++) {
        int k = slot * n + d, v = (n + d) * CUDA_PAGE_TOKENS + slot;
        if (w->s.fp8) {
            b[k] = __nv_cvt_float_to_fp8(random_float() * 150, __NV_SATFINITE, __NV_E4M3);
            b[v] = __nv_cvt_float_to_fp8(random_float() * 150, __NV_SATFINITE, __NV_E4M3);
        } else {
            ((__half *)b)[k] = __float2half(random_float());
            ((__half *)b)[v] = __float2half(random_float() * w->s.v_scale);
        }
    }
    if (!w->s.fp8) return;
    float *scale = (float *)(b + 2 * CUDA_PAGE_TOKENS * n);
    scale[slot] = (1 + 0.2f * random_float()) / 150;
    scale[CUDA_PAGE_TOKENS + slot] = (1 + 0.2f * random_float()) / 150 * w->s.v_scale;
    if (!w->s.varied) return;
    scale[slot] *= exp2f((float)(random_below(5) - 3));
    scale[CUDA_PAGE_TOKENS + slot] *= exp2f((float)(random_below(17) - 8));
}

/* Page tables: every page of the cache once, in random order. */
static void deal_pages(struct world *w)
{
    int total = 0, stride = 1;
    for (int r = 0; r < w->s.runs; r++) {
        int n = (w->s.run[r].past + w->s.run[r].count + CUDA_PAGE_TOKENS - 1) / CUDA_PAGE_TOKENS;
        total += n;
        if (n > stride) stride = n;
    }
    stride += 3;
    w->kv.pages = total + 2;
    w->pages = (int32_t *)malloc((size_t)(stride * w->s.runs) * 4);
    for (int i = 0; i < stride * w->s.runs; i++) w->pages[i] = 0x40000000; /* read: a fault */
    int32_t *order = (int32_t *)malloc((size_t)w->kv.pages * 4);
    for (int i = 0; i < w->kv.pages; i++) order[i] = i;
    for (int i = w->kv.pages - 1; i > 0; i--) {
        int j = random_below(i + 1), x = order[i];
        order[i] = order[j];
        order[j] = x;
    }
    for (int r = 0, at = 0; r < w->s.runs; r++)
        for (int p = 0; p * CUDA_PAGE_TOKENS < w->s.run[r].past + w->s.run[r].count; p++) w->pages[r * stride + p] = order[at++];
    w->columns.pages_stride = stride;
    free(order);
}

static void deal_columns(struct world *w)
{
    int cols = 0, most = 0;
    w->run = (struct batch_run *)calloc(RUNS_MAX, sizeof *w->run);
    for (int r = 0; r < w->s.runs; r++) {
        w->run[r].first = cols;
        w->run[r].count = w->s.run[r].count;
        w->run[r].position = w->s.run[r].past;
        cols += w->s.run[r].count;
        if (w->s.run[r].past + w->s.run[r].count > most) most = w->s.run[r].past + w->s.run[r].count;
    }
    w->position = (int32_t *)malloc((size_t)cols * 4);
    w->run_of = (int32_t *)malloc((size_t)cols * 4);
    for (int r = 0; r < w->s.runs; r++)
        for (int i = 0; i < w->s.run[r].count; i++) {
            w->position[w->run[r].first + i] = w->s.run[r].past + i;
            w->run_of[w->run[r].first + i] = r;
        }
    w->columns.cols = cols;
    w->columns.runs = w->s.runs;
    w->columns.context_max = most;
    w->columns.host_run = w->run;
    w->columns.position = (int32_t *)to_device(w->position, cols * 4);
    w->columns.run_of = (int32_t *)to_device(w->run_of, cols * 4);
    w->columns.run = (struct batch_run *)to_device(w->run, w->s.runs * (int64_t)sizeof *w->run);
    w->columns.pages = (int32_t *)to_device(w->pages, (int64_t)w->s.runs * w->columns.pages_stride * 4);
}

static void deal_inputs(struct world *w)
{
    const struct spec *s = &w->s;
    int n = s->head_dim, cols = w->columns.cols, half = s->rotated / 2;
    w->ldqkv = (s->heads + 2 * s->kv_heads) * n + PAD;
    w->qkv = random_floats(cols * w->ldqkv, 1);
    for (int c = 0; c < cols; c++)
        for (int i = 0; i < w->ldqkv; i++)
            w->qkv[c * w->ldqkv + i] *= i < s->heads * n ? s->q_scale : i >= (s->heads + s->kv_heads) * n ? s->v_scale : 1;
    w->angles = (float *)malloc((size_t)cols * (size_t)(s->rotated + 1) * 4);
    for (int c = 0; c < cols; c++)
        for (int i = 0; i < half; i++) {
            double angle = w->position[c] * pow(10000.0, -2.0 * i / s->rotated);
            w->angles[c * s->rotated + i] = (float)(cos(angle) * 1.1);
            w->angles[c * s->rotated + half + i] = (float)(sin(angle) * 1.1);
        }
    w->q_bias = random_floats(s->heads * n, 0.5f);
    w->k_bias = random_floats(s->kv_heads * n, 0.5f);
    w->v_bias = random_floats(s->kv_heads * n, 0.5f * s->v_scale);
    w->q_norm = random_floats(n, 1);
    w->k_norm = random_floats(n, 1);
    w->d_qkv = (float *)to_device(w->qkv, cols * w->ldqkv * 4);
    w->out_elements = (int64_t)cols * s->heads * n;
    w->out = (uint16_t *)malloc((size_t)(w->out_elements + 64) * 2);
    MUST(cudaMalloc((void **)&w->d_out, (size_t)(w->out_elements + 64) * 2));
}

static void describe_layer(struct world *w)
{
    const struct spec *s = &w->s;
    struct attention_layer *l = &w->layer;
    int n = s->head_dim;
    l->layer = LAYER;
    l->heads = s->heads;
    l->kv_heads = s->kv_heads;
    l->head_dim = n;
    l->rotated = s->rotated;
    l->rope_halves = s->halves;
    l->window = s->window;
    l->softcap = s->softcap;
    l->scale = (float)(1 / sqrt((double)n));
    l->norm_eps = 1e-5f;
    l->sparse_pages = s->sparse;
    l->angles = (float *)to_device(w->angles, (int64_t)w->columns.cols * (s->rotated + 1) * 4);
    l->q_bias = s->bias ? (float *)to_device(w->q_bias, s->heads * n * 4) : NULL;
    l->k_bias = s->bias ? (float *)to_device(w->k_bias, s->kv_heads * n * 4) : NULL;
    l->v_bias = s->bias ? (float *)to_device(w->v_bias, s->kv_heads * n * 4) : NULL;
    l->q_norm = s->norm ? (float *)to_device(w->q_norm, n * 4) : NULL;
    l->k_norm = s->norm ? (float *)to_device(w->k_norm, n * 4) : NULL;
}

static void deal_cache(struct world *w)
{
    w->kv.layers = LAYERS;
    w->kv.kv_heads = w->s.kv_heads;
    w->kv.head_dim = w->s.head_dim;
    w->kv.fp8 = w->s.fp8;
    w->kv_bytes = (int64_t)LAYERS * w->kv.pages * w->kv.kv_heads * kv_block_bytes(w->kv.head_dim, w->kv.fp8);
    w->cache = (uint8_t *)malloc((size_t)w->kv_bytes);
    w->cache_before = (uint8_t *)malloc((size_t)w->kv_bytes);
    memset(w->cache, 0xff, (size_t)w->kv_bytes); /* NaN in every format */
    for (int r = 0; r < w->s.runs; r++)
        for (int h = 0; h < w->s.kv_heads; h++)
            for (int p = 0; p < w->s.run[r].past; p++) fill_position(w, r, h, p);
    memcpy(w->cache_before, w->cache, (size_t)w->kv_bytes);
    w->kv.base = (uint8_t *)to_device(w->cache, w->kv_bytes);
}

static void world_open(struct world *w, const struct spec *s)
{
    memset(w, 0, sizeof *w);
    w->s = *s;
    if (w->s.q_scale == 0) w->s.q_scale = 1;
    if (w->s.v_scale == 0) w->s.v_scale = 1;
    if (w->s.rotated == 0) w->s.rotated = s->head_dim;
    deal_pages(w);
    deal_columns(w);
    deal_inputs(w);
    describe_layer(w);
    deal_cache(w);
    struct attention_options o = {};
    o.cols_max = w->columns.cols;
    o.heads = s->heads;
    o.kv_heads = s->kv_heads;
    o.head_dim = s->head_dim;
    o.context_max = w->columns.context_max + 100;
    o.invariant = s->invariant;
    o.layers = s->sparse ? LAYERS : 0;
    o.pages = s->sparse ? w->kv.pages : 0;
    struct err e = {};
    if (attention_open(&w->attention, &o, &e)) {
        printf("%s: attention_open: %s\n", s->name, e.msg);
        exit(1);
    }
}

static void world_close(struct world *w)
{
    attention_close(w->attention);
    const void *device[] = {w->columns.position, w->columns.run_of, w->columns.run, w->columns.pages, w->layer.angles, w->layer.q_bias,
                            w->layer.k_bias, w->layer.v_bias, w->layer.q_norm, w->layer.k_norm, w->d_qkv, w->d_out, w->kv.base};
    for (const void *p : device) MUST(cudaFree((void *)p));
    void *host[] = {w->cache, w->cache_before, w->position, w->run_of, w->pages, w->run, w->qkv, w->angles, w->q_bias, w->k_bias, w->v_bias,
                    w->q_norm, w->k_norm, w->out};
    for (void *p : host) free(p);
}

/* Runs the columns [first, first + cols) of the world, which must be whole runs or a piece of one, into out. */
static void run_columns(struct world *w, const struct columns *c, int first)
{
    struct err e = {};
    struct attention_layer l = w->layer;
    l.angles += (int64_t)first * w->s.rotated;
    uint16_t *out = w->d_out + (int64_t)first * w->s.heads * w->s.head_dim;
    if (attention_run(w->attention, &l, &w->kv, c, w->d_qkv + first * w->ldqkv, w->ldqkv, w->s.bf16 ? FORM_BF16 : FORM_F16, out, 0, &e)) {
        printf("%s: attention_run: %s\n", w->s.name, e.msg);
        exit(1);
    }
}

static void poison_out(struct world *w)
{
    MUST(cudaMemset(w->d_out, 0xff, (size_t)(w->out_elements + 64) * 2));
}

static void fetch_out(struct world *w)
{
    MUST(cudaDeviceSynchronize());
    MUST(cudaMemcpy(w->out, w->d_out, (size_t)(w->out_elements + 64) * 2, cudaMemcpyDeviceToHost));
    MUST(cudaMemcpy(w->cache, w->kv.base, (size_t)w->kv_bytes, cudaMemcpyDeviceToHost));
}

static void run_all(struct world *w)
{
    poison_out(w);
    run_columns(w, &w->columns, 0);
    fetch_out(w);
}

/* ---- the reference ---- */

/* Head `slot` of a column (q heads, k heads, v heads) with bias, norm, rotation and, for q, the scale. */
static void reference_row(const struct world *w, int col, int slot, double *out)
{
    const struct spec *s = &w->s;
    int n = s->head_dim, half = s->rotated / 2, head = slot;
    bool query = slot < s->heads, value = slot >= s->heads + s->kv_heads;
    if (!query) head -= s->heads + (value ? s->kv_heads : 0);
    const float *bias = (query ? w->q_bias : value ? w->v_bias : w->k_bias) + head * n, *norm = query ? w->q_norm : w->k_norm;
    double x[512], sum = 0;
    for (int i = 0; i < n; i++) {
        x[i] = (double)w->qkv[col * w->ldqkv + slot * n + i] + (s->bias ? bias[i] : 0);
        sum += x[i] * x[i];
    }
    for (int i = 0; s->norm && !value && i < n; i++) x[i] *= norm[i] / sqrt(sum / n + 1e-5);
    for (int i = 0; i < n; i++) out[i] = x[i];
    for (int i = 0; !value && i < half; i++) {
        int a = s->halves ? i : 2 * i, b = s->halves ? i + half : 2 * i + 1;
        double c = w->angles[col * s->rotated + i], si = w->angles[col * s->rotated + half + i];
        out[a] = x[a] * c - x[b] * si;
        out[b] = x[a] * si + x[b] * c;
    }
    for (int i = 0; i < n && query; i++) out[i] *= w->layer.scale;
}

/* One head of one column over its positions (or those whose page is marked in `only`), from what the cache holds. */
static void reference_attend(const struct world *w, int col, int head, const bool *only, double *out)
{
    const struct spec *s = &w->s;
    int n = s->head_dim, run = w->run_of[col], position = w->position[col], kv_head = head / (s->heads / s->kv_heads);
    int first = s->window > 0 && position >= s->window ? position - s->window + 1 : 0;
    double q[512], x[512], most = -1e300, sum = 0;
    double *score = (double *)malloc((size_t)(position + 1) * sizeof *score);
    reference_row(w, col, head, q);
    for (int j = first; j <= position; j++) {
        if (only && !only[j / CUDA_PAGE_TOKENS]) continue;
        score[j] = 0;
        cached(w, run, kv_head, j, false, x);
        for (int d = 0; d < n; d++) score[j] += q[d] * x[d];
        if (s->softcap > 0) score[j] = s->softcap * tanh(score[j] / s->softcap);
        if (score[j] > most) most = score[j];
    }
    for (int d = 0; d < n; d++) out[d] = 0;
    for (int j = first; j <= position; j++) {
        if (only && !only[j / CUDA_PAGE_TOKENS]) continue;
        double p = exp(score[j] - most);
        sum += p;
        cached(w, run, kv_head, j, true, x);
        for (int d = 0; d < n; d++) out[d] += p * x[d];
    }
    for (int d = 0; d < n; d++) out[d] /= sum;
    free(score);
}

static double out_at(const struct world *w, int col, int head, int d)
{
    uint16_t bits = w->out[((int64_t)col * w->s.heads + head) * w->s.head_dim + d];
    return w->s.bf16 ? __bfloat162float(__ushort_as_bfloat16(bits)) : __half2float(__ushort_as_half(bits));
}

/* ---- checks ---- */

struct difference {
    double square, square_ref, most;
};

static void compare(struct difference *x, double out, double ref)
{
    double d = out - ref;
    if (!(fabs(d) < 1e30)) d = 1e30; /* NaN too */
    x->square += d * d;
    x->square_ref += ref * ref;
    if (fabs(d) > x->most) x->most = fabs(d);
}

static double relative(const struct difference *x)
{
    return sqrt(x->square / (x->square_ref > 0 ? x->square_ref : 1));
}

static double worst[2]; /* by page format, of F16 outputs */

static void report(const struct world *w, const char *what, const struct difference *x, double bound)
{
    char line[160];
    snprintf(line, sizeof line, "%s: relative error %.2e (bound %.0e), largest %.2e", what, relative(x), bound, x->most);
    expect(relative(x) <= bound, w->s.name, line);
}

/* K and V of the step's columns stand in their places, everything else is as it was. */
static void check_cache(const struct world *w)
{
    const struct spec *s = &w->s;
    int n = s->head_dim;
    struct difference kv = {};
    for (int c = 0; c < w->columns.cols; c++)
        for (int h = 0; h < s->kv_heads; h++)
            for (int value = 0; value < 2; value++) {
                double ref[512], kept[512];
                reference_row(w, c, s->heads + value * s->kv_heads + h, ref);
                int slot = w->position[c] % CUDA_PAGE_TOKENS, run = w->run_of[c];
                uint8_t *now = block_at(w, w->cache, w->pages[run * w->columns.pages_stride + w->position[c] / CUDA_PAGE_TOKENS], h);
                uint8_t *before = w->cache_before + (now - w->cache);
                int bytes = s->fp8 ? 1 : 2;
                cached(w, run, h, w->position[c], value, kept);
                for (int d = 0; d < n; d++) {
                    compare(&kv, kept[d], ref[d]);
                    int at = value ? (n + d) * CUDA_PAGE_TOKENS + slot : slot * n + d;
                    memcpy(before + at * bytes, now + at * bytes, (size_t)bytes);
                }
                int at = 2 * CUDA_PAGE_TOKENS * n + ((value ? CUDA_PAGE_TOKENS : 0) + slot) * 4;
                if (s->fp8) memcpy(before + at, now + at, 4);
            }
    report(w, "K and V in their pages", &kv, s->fp8 ? 4e-2 : 5e-4);
    expect(memcmp(w->cache, w->cache_before, (size_t)w->kv_bytes) == 0, s->name, "something else in the cache was written");
}

static void check_written(const struct world *w)
{
    bool all = true, guard = true;
    for (int64_t i = 0; i < w->out_elements; i++) all = all && w->out[i] != 0xffff;
    for (int i = 0; i < 64; i++) guard = guard && w->out[w->out_elements + i] == 0xffff;
    expect(all, w->s.name, "elements of the output were not written, or NaN");
    expect(guard, w->s.name, "something behind the output was written");
}

static void check_row(const struct world *w, int col, int head, struct difference *x)
{
    double ref[512];
    reference_attend(w, col, head, NULL, ref);
    for (int d = 0; d < w->s.head_dim; d++) compare(x, out_at(w, col, head, d), ref[d]);
}

/* First, last and some columns between of every run, two heads each. */
static void check_out(const struct world *w)
{
    struct difference all = {};
    for (int r = 0; r < w->s.runs; r++) {
        int count = w->s.run[r].count, step = count > 10 ? count / 6 : 1;
        struct difference x = {};
        for (int i = 0; i < count; i = i < count - 1 && i + step >= count ? count - 1 : i + step) {
            int head = random_below(w->s.heads);
            check_row(w, w->run[r].first + i, head, &x);
            check_row(w, w->run[r].first + i, (head + w->s.heads / 2 + 1) % w->s.heads, &x);
        }
        char what[80];
        snprintf(what, sizeof what, "run %d, %d columns from position %d", r, count, w->s.run[r].past);
        report(w, what, &x, w->s.bf16 ? 5e-3 : 2e-3);
        all.square += x.square;
        all.square_ref += x.square_ref;
    }
    if (!w->s.bf16 && relative(&all) > worst[w->s.fp8]) worst[w->s.fp8] = relative(&all);
}

static void run_case(const struct spec *s)
{
    struct world w;
    world_open(&w, s);
    run_all(&w);
    check_written(&w);
    check_cache(&w);
    check_out(&w);
    world_close(&w);
}

/* ---- the same bits, alone and together ---- */

/* Columns [first, first + count) of one run, as a batch of their own. Device arrays are views or made for it. */
static void run_piece(struct world *w, int first, int count)
{
    int run = w->run_of[first];
    struct batch_run piece = w->run[run];
    piece.position += first - piece.first;
    piece.first = 0;
    piece.count = count;
    int32_t *zeros = (int32_t *)calloc((size_t)count, 4);
    struct columns c = w->columns;
    c.cols = count;
    c.runs = 1;
    c.context_max = piece.position + count;
    c.position += first;
    c.pages += (int64_t)run * c.pages_stride;
    c.host_run = &piece;
    c.run = (struct batch_run *)to_device(&piece, sizeof piece);
    c.run_of = (int32_t *)to_device(zeros, count * 4);
    run_columns(w, &c, first);
    MUST(cudaDeviceSynchronize());
    MUST(cudaFree((void *)c.run));
    MUST(cudaFree((void *)c.run_of));
    free(zeros);
}

static uint16_t *copy_out(const struct world *w)
{
    uint16_t *copy = (uint16_t *)malloc((size_t)w->out_elements * 2);
    memcpy(copy, w->out, (size_t)w->out_elements * 2);
    return copy;
}

/* Every run cut into pieces of 1 … most columns; the output must have the same bits. `exact`: else 2e-3 will do. */
static void check_pieces(struct world *w, int most, bool exact)
{
    uint16_t *whole = copy_out(w);
    poison_out(w);
    for (int c = 0; c < w->columns.cols;) {
        int left = w->run[w->run_of[c]].first + w->run[w->run_of[c]].count - c, n = 1 + random_below(most);
        if (n > left) n = left;
        run_piece(w, c, n);
        c += n;
    }
    fetch_out(w);
    int64_t same = 0;
    while (same < w->out_elements && whole[same] == w->out[same]) same++;
    char what[100];
    snprintf(what, sizeof what, "pieces of up to %d columns differ from the whole batch at column %d", most,
             (int)(same / (w->s.heads * w->s.head_dim)));
    if (exact) expect(same == w->out_elements, w->s.name, what);
    struct difference x = {};
    for (int64_t i = 0; i < w->out_elements; i++)
        compare(&x, __half2float(__ushort_as_half(w->out[i])), __half2float(__ushort_as_half(whole[i])));
    if (!exact) report(w, "pieces against the whole", &x, 2e-3);
    free(whole);
}

static void run_identity(const struct spec *s, int most, bool exact)
{
    struct world w;
    world_open(&w, s);
    run_all(&w);
    check_written(&w);
    check_out(&w);
    check_pieces(&w, most, exact);
    world_close(&w);
}

/* ---- a captured graph ---- */

#ifndef RUNG_EMULATE
/* Captured at the first positions, replayed further on: the same as the direct call. */
static void run_graph(const struct spec *s)
{
    struct world w;
    world_open(&w, s);
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    struct err e = {};
    MUST(cudaStreamCreate(&stream));
    MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    enum err_code code = attention_run(w.attention, &w.layer, &w.kv, &w.columns, w.d_qkv, w.ldqkv, FORM_F16, w.d_out, stream, &e);
    MUST(cudaStreamEndCapture(stream, &graph));
    expect(code == ERR_OK, s->name, "attention_run while a graph is captured");
    MUST(cudaGraphInstantiate(&exec, graph, 0));
    for (int back = 60; back >= 0; back -= 20) { /* runs of one column: as if they stood earlier */
        for (int r = 0; r < s->runs; r++) w.position[r] = w.run[r].position = s->run[r].past - (back < s->run[r].past ? back : 0);
        MUST(cudaMemcpy((void *)w.columns.position, w.position, (size_t)s->runs * 4, cudaMemcpyHostToDevice));
        MUST(cudaMemcpy((void *)w.columns.run, w.run, (size_t)s->runs * sizeof *w.run, cudaMemcpyHostToDevice));
        poison_out(&w);
        MUST(cudaGraphLaunch(exec, stream));
        MUST(cudaStreamSynchronize(stream));
        fetch_out(&w);
        check_written(&w);
        uint16_t *replayed = copy_out(&w);
        run_all(&w);
        expect(memcmp(replayed, w.out, (size_t)w.out_elements * 2) == 0, s->name, "the graph's output differs from the call's");
        free(replayed);
    }
    MUST(cudaGraphExecDestroy(exec));
    MUST(cudaGraphDestroy(graph));
    MUST(cudaStreamDestroy(stream));
    world_close(&w);
}
#endif

/* ---- sparse ---- */

static int by_score(const void *a, const void *b)
{
    const double *x = (const double *)a, *y = (const double *)b;
    return x[0] < y[0] ? 1 : x[0] > y[0] ? -1 : 0;
}

/* The pages a column's KV head should read; false where two scores are too near to say. */
static bool reference_choice(const struct world *w, int col, int kv_head, bool *only)
{
    const struct spec *s = &w->s;
    int n = s->head_dim, position = w->position[col], group = s->heads / s->kv_heads, run = w->run_of[col];
    int first = s->window > 0 && position >= s->window ? position - s->window + 1 : 0;
    int first_page = first / CUDA_PAGE_TOKENS, last = position / CUDA_PAGE_TOKENS, count = 0;
    int read = s->sparse < 3 ? 3 : s->sparse;
    for (int p = 0; p <= last; p++) only[p] = last - first_page + 1 <= read || p == first_page || p >= last - 1;
    if (last - first_page + 1 <= read) return true;
    double(*score)[2] = (double(*)[2])malloc((size_t)last * sizeof *score);
    for (int p = first_page + 1; p < last - 1; p++, count++) {
        score[count][0] = -1e300;
        score[count][1] = p;
        double k[512], high[512], low[512];
        for (int j = p * CUDA_PAGE_TOKENS; j < (p + 1) * CUDA_PAGE_TOKENS; j++) {
            cached(w, run, kv_head, j, false, k);
            for (int d = 0; d < n; d++) {
                high[d] = j % CUDA_PAGE_TOKENS ? fmax(high[d], k[d]) : k[d];
                low[d] = j % CUDA_PAGE_TOKENS ? fmin(low[d], k[d]) : k[d];
            }
        }
        for (int g = 0; g < group; g++) {
            double q[512], sum = 0;
            reference_row(w, col, kv_head * group + g, q);
            for (int d = 0; d < n; d++) sum += fmax(q[d] * high[d], q[d] * low[d]);
            score[count][0] = fmax(score[count][0], sum);
        }
    }
    qsort(score, (size_t)count, sizeof *score, by_score);
    for (int i = 0; i < read - 3; i++) only[(int)score[i][1]] = true;
    bool clear = read == 3 || score[read - 4][0] - score[read - 3][0] > 2e-3 * fabs(score[read - 4][0]);
    free(score);
    return clear;
}

/* The context comes by prefill, in two chunks; then one more column each. False where no column's pages were clear. */
static bool sparse_is_right(const struct spec *s)
{
    struct world w;
    world_open(&w, s);
    int checked = 0;
    for (int r = 0; r < s->runs; r++) {
        int count = s->run[r].count, first = w.run[r].first, cut = count * 2 / 5;
        run_piece(&w, first, cut);
        run_piece(&w, first + cut, count - 1 - cut);
        run_piece(&w, first + count - 1, 1);
    }
    fetch_out(&w);
    struct difference x = {};
    for (int r = 0; r < s->runs; r++) {
        int col = w.run[r].first + s->run[r].count - 1;
        bool *only = (bool *)malloc((size_t)s->run[r].count);
        for (int h = 0; h < s->heads; h++) {
            double ref[512];
            if (!reference_choice(&w, col, h / (s->heads / s->kv_heads), only)) continue;
            reference_attend(&w, col, h, only, ref);
            for (int d = 0; d < s->head_dim; d++) compare(&x, out_at(&w, col, h, d), ref[d]);
            checked++;
        }
        free(only);
    }
    if (checked) report(&w, "over the chosen pages", &x, 2e-3);
    world_close(&w);
    return checked > 0;
}

/* Scores that are too near to say which pages they choose happen: then with other keys. */
static void run_sparse(const struct spec *s)
{
    for (int i = 0; i < 10; i++)
        if (sparse_is_right(s)) return;
    expect(false, s->name, "no column whose pages are clear");
}

/* With as many pages as there are, sparse is dense, bit for bit. */
static void run_sparse_wide(const struct spec *s)
{
    struct world w;
    world_open(&w, s);
    w.layer.sparse_pages = 0;
    run_all(&w);
    uint16_t *dense = copy_out(&w);
    w.layer.sparse_pages = 100000;
    run_all(&w);
    expect(memcmp(dense, w.out, (size_t)w.out_elements * 2) == 0, s->name, "reading all pages differs from dense");
    free(dense);
    world_close(&w);
}

/* ---- what FP8 pages cost ---- */

static void run_fp8_cost(int head_dim)
{
    struct spec s = {"fp8 cost", head_dim, 8, 2};
    s.runs = 1;
    s.run[0].count = 700;
    struct world w16, w8;
    uint64_t state = random_state;
    world_open(&w16, &s);
    run_all(&w16);
    s.fp8 = true;
    random_state = state;
    world_open(&w8, &s);
    run_all(&w8);
    struct difference x = {};
    bool same = true;
    for (int64_t i = 0; i < w16.columns.cols * w16.ldqkv; i++) same = same && w16.qkv[i] == w8.qkv[i];
    expect(same, s.name, "the two worlds have the same inputs");
    for (int64_t i = 0; i < w16.out_elements; i++)
        compare(&x, __half2float(__ushort_as_half(w8.out[i])), __half2float(__ushort_as_half(w16.out[i])));
    printf("head_dim %d: FP8 pages against F16 pages: relative error %.2e, largest %.2e\n", head_dim, relative(&x), x.most);
    report(&w8, "against F16 pages", &x, 5e-2);
    world_close(&w16);
    world_close(&w8);
}

/* ---- errors ---- */

static void check_errors(bool quick)
{
    (void)quick;
    struct attention *a = NULL;
    struct err e = {};
    struct attention_options good = {4, 8, 2, 64, 512};
    struct attention_options bad[] = {{0, 8, 2, 64, 512}, {4, 7, 2, 64, 512}, {4, 8, 2, 72, 512}, {4, 8, 2, 1024, 512},
                                      {4, 8, 2, 64, 0},   {4, 8, 2, 64, 1 << 30}, {4, 8, 2, 64, 512, false, 2, 0}};
    for (const struct attention_options &o : bad) {
        e.msg[0] = 0;
        expect(attention_open(&a, &o, &e) != ERR_OK && e.msg[0], "options", "what is not valid must be refused with a reason");
    }
    struct spec s = {"errors", 64, 8, 2};
    s.runs = 1;
    s.run[0].count = 2;
    struct world w;
    world_open(&w, &s);
    struct {
        const char *what;
        void (*spoil)(struct world *w);
    } calls[] = {
        {"heads", [](struct world *x) { x->layer.heads = 4; }},       {"head_dim", [](struct world *x) { x->layer.head_dim = 128; }},
        {"layer", [](struct world *x) { x->layer.layer = LAYERS; }},  {"rotated", [](struct world *x) { x->layer.rotated = 65; }},
        {"columns", [](struct world *x) { x->columns.cols = 3; }},    {"context", [](struct world *x) { x->columns.context_max = 4096; }},
        {"sparse", [](struct world *x) { x->layer.sparse_pages = 8; }},
    };
    for (auto &c : calls) {
        struct world spoilt = w;
        c.spoil(&spoilt);
        e.msg[0] = 0;
        enum err_code code = attention_run(w.attention, &spoilt.layer, &spoilt.kv, &spoilt.columns, w.d_qkv, w.ldqkv, FORM_F16, w.d_out, 0, &e);
        expect(code != ERR_OK && e.msg[0], c.what, "a call that is not valid must be refused with a reason");
    }
    expect(attention_run(w.attention, &w.layer, &w.kv, &w.columns, w.d_qkv, w.ldqkv, FORM_E4M3, w.d_out, 0, &e) == ERR_INVALID, "form",
           "E4M3 output must be refused");
    expect(attention_run(w.attention, &w.layer, &w.kv, &w.columns, w.d_qkv, w.ldqkv + 1, FORM_F16, w.d_out, 0, &e) == ERR_INVALID, "rows",
           "rows that do not begin at 16 bytes must be refused");
    expect(attention_open(&a, &good, &e) == ERR_OK, "options", "good ones are taken");
    attention_close(a);
    attention_close(NULL);
    world_close(&w);
}

/* ---- the cases ---- */

static void add(struct spec *s, int past, int count)
{
    s->run[s->runs].past = past;
    s->run[s->runs++].count = count;
}

/* Every length at which something begins or ends. */
static void add_lengths(struct spec *s, bool quick)
{
    static const int PAST[] = {0, 30, 31, 32, 254, 255, 256, 999, 1055, 4096};
    for (int i = 0; i < (quick ? 6 : (int)(sizeof PAST / sizeof *PAST)); i++) add(s, PAST[i], 1);
    add(s, 250, 8);
    add(s, 63, 3);
    if (!quick) add(s, 2040, 17);
}

static void features(struct spec *s, int bits)
{
    s->bias = bits & 1;
    s->norm = bits & 2;
    s->window = bits & 4 ? 100 : 0;
    s->softcap = bits & 8 ? 15.0f : 0;
    s->q_scale = bits & 8 ? 4 : 1;
}

static int only_dim; /* of the shapes; 0: all */
static void run_shapes(bool quick)
{
    static const int DIMS[] = {64, 80, 96, 128, 256, 48, 160};
    static const int BITS[] = {0, 15, 1, 2, 4, 8, 7, 12};
    char name[120];
    for (int i = 0; i < (int)(sizeof DIMS / sizeof *DIMS); i++)
        for (int mode = 0; mode < 4 && (only_dim == 0 || only_dim == DIMS[i]); mode++)
            for (int b = 0; b < (quick ? (mode == 0 || mode == 3 ? 2 : 0) : 8); b++) {
                struct spec s = {name, DIMS[i], 8, 2};
                s.fp8 = mode & 1;
                s.halves = mode & 2;
                s.rotated = b & 1 ? DIMS[i] / 4 * 2 : DIMS[i];
                s.bf16 = b == 3 || b == 6;
                features(&s, BITS[b]);
                add_lengths(&s, quick);
                add(&s, 0, quick ? 40 : 150); /* prefill: from the start, in the middle */
                add(&s, 77, quick ? 33 : 300);
                if (!quick) add(&s, 700, 64);
                snprintf(name, sizeof name, "head_dim %d %s %s features %d%s", DIMS[i], s.fp8 ? "fp8" : "f16",
                         s.halves ? "halves" : "neighbours", BITS[b], s.bf16 ? " bf16" : "");
                run_case(&s);
            }
}

static void run_groups(bool quick)
{
    static const int HEADS[][2] = {{4, 4}, {10, 2}, {14, 2}, {16, 1}, {24, 2}, {64, 8}, {71, 1}};
    char name[80];
    for (int i = 0; i < (int)(sizeof HEADS / sizeof *HEADS); i++) {
        if (quick && i % 3) continue;
        struct spec s = {name, i % 2 ? 64 : 128, HEADS[i][0], HEADS[i][1]};
        s.fp8 = i % 2;
        snprintf(name, sizeof name, "%d heads over %d", HEADS[i][0], HEADS[i][1]);
        add(&s, 300, 1);
        add(&s, 61, 5);
        add(&s, 40, quick ? 33 : 90);
        if (!quick) add(&s, 900, 31);
        run_case(&s);
    }
}

/* Every way of a rotation: by halves in fours or not, parts of a head, heads of up to 512; runs of all lengths beside each other. */
static void run_rotations(bool quick)
{
    static const int SHAPES[][2] = {{64, 20}, {64, 2}, {128, 128}, {128, 24}, {128, 100}, {144, 144}, {256, 192}, {272, 272}, {512, 512}, {512, 34}};
    char name[100];
    for (int i = 0; i < (int)(sizeof SHAPES / sizeof *SHAPES); i++)
        for (int mode = 0; mode < 4; mode++) {
            struct spec s = {name, SHAPES[i][0], i % 3 ? 6 : 5, i % 3 ? 2 : 1, SHAPES[i][1]};
            if (quick && (i + mode) % 2) continue;
            s.fp8 = mode & 1;
            s.halves = mode & 2;
            s.bias = s.norm = i % 2;
            add(&s, 31, 1);
            add(&s, 17, quick ? 40 : 130);
            add(&s, 0, 3);
            add(&s, 63, 1);
            if (!quick) add(&s, 64, 96);
            snprintf(name, sizeof name, "%d of %d rotated by %s, %s", s.rotated, s.head_dim, s.halves ? "halves" : "neighbours", s.fp8 ? "fp8" : "f16");
            run_case(&s);
        }
}

/* A layer like the last one takes its plan over; with another window it may not, and is told so. */
static void run_planned(bool quick)
{
    struct spec s = {"a plan taken over", 128, 8, 2};
    for (int i = 0; i < (quick ? 9 : 40); i++) add(&s, 20 + i * 97, 1);
    add(&s, 40, quick ? 40 : 300);
    for (int fp8 = 0; fp8 < 2; fp8++) {
        struct world w;
        s.fp8 = fp8;
        world_open(&w, &s);
        run_all(&w);
        uint16_t *alone = copy_out(&w);
        struct world before = w; /* the layer before, of the same columns */
        before.layer.layer = 0;
        run_columns(&before, &w.columns, 0);
        w.layer.planned = true;
        run_all(&w);
        expect(memcmp(alone, w.out, (size_t)w.out_elements * 2) == 0, s.name, "the layer's output differs");
        before.layer.planned = false;
        before.layer.window = 50;
        run_columns(&before, &w.columns, 0);
        w.layer.planned = false;
        run_all(&w);
        expect(memcmp(alone, w.out, (size_t)w.out_elements * 2) == 0, s.name, "after a layer with a window the output differs");
        free(alone);
        world_close(&w);
    }
}

/* Many streams of one column each in one batch, whose lengths straddle pages and splits. */
static void run_streams(bool quick)
{
    static const int PAST[] = {0, 30, 31, 32, 33, 62, 63, 64, 127, 254, 255, 256, 257, 511, 2046, 2047, 2048, 2079, 2303, 2304, 767, 1023};
    static const int HEADS[][2] = {{2, 2}, {8, 2}, {5, 1}, {14, 2}, {16, 2}, {16, 1}}, DIMS[] = {128, 64, 80, 96, 256};
    char name[120];
    for (int i = 0; i < (int)(sizeof HEADS / sizeof *HEADS); i++)
        for (int mode = 0; mode < 4; mode++) {
            struct spec s = {name, DIMS[(i + mode) % 5], HEADS[i][0], HEADS[i][1]};
            if (quick && (i + mode) % 6) continue;
            s.fp8 = s.varied = mode & 1;
            s.window = mode & 2 ? i % 2 ? 40 : 300 : 0;
            s.softcap = i == 3 ? 20.0f : 0;
            int all = (int)(sizeof PAST / sizeof *PAST);
            for (int r = 0; r < (quick ? 14 : all); r++) add(&s, PAST[(r * 5 + i) % all], 1);
            snprintf(name, sizeof name, "streams: %d heads of %d over %d, %s, window %d", s.heads, s.head_dim, s.kv_heads,
                     s.fp8 ? "fp8" : "f16", s.window);
            run_case(&s);
        }
}

/* Inputs that formats do not like: values past F16's range, V very small, V zero. */
static void run_extremes(bool quick)
{
    (void)quick;
    struct spec s = {"tiny V", 128, 8, 2};
    s.fp8 = true;
    s.v_scale = 1e-4f;
    add(&s, 300, 1);
    add(&s, 10, 40);
    run_case(&s);
    s.name = "large scores";
    s.v_scale = 1;
    s.q_scale = 60;
    run_case(&s);
    s.fp8 = false;
    run_case(&s);
    s.name = "V of zeros and values past F16";
    for (int fp8 = 0; fp8 < 2; fp8++) {
        s.fp8 = fp8;
        s.q_scale = 1;
        struct world w;
        world_open(&w, &s);
        int n = s.head_dim, kv = (s.heads + s.kv_heads) * n;
        for (int i = 0; i < n; i++) w.qkv[w.ldqkv * 5 + s.heads * n + i] = i % 2 ? 1e6f : NAN;
        for (int i = 0; i < s.kv_heads * n; i++) w.qkv[w.ldqkv * 5 + kv + i] = 0;
        MUST(cudaMemcpy(w.d_qkv, w.qkv, (size_t)(w.columns.cols * w.ldqkv) * 4, cudaMemcpyHostToDevice));
        run_all(&w);
        check_written(&w);
        world_close(&w);
    }
}

static void run_identities(bool quick)
{
    struct spec s = {"decode alone and in a batch", 128, 16, 2};
    for (int i = 0; i < (quick ? 5 : 64); i++) add(&s, i == 3 ? 1200 : random_below(quick ? 300 : 2500), 1);
    run_identity(&s, 1, true);
    s.fp8 = true;
    s.window = 300;
    run_identity(&s, 1, true);
    for (int i = 0; i < s.runs; i++) s.run[i].count = 1 + random_below(8);
    s.name = "guesses together and one by one";
    run_identity(&s, 3, true);
    s.fp8 = false;
    s.head_dim = 256;
    s.heads = 8;
    s.runs = quick ? 3 : 19;
    run_identity(&s, 2, true);
    static const int DIMS[] = {64, 80, 96, 128, 256, 48};
    char name[80];
    for (int i = 0; i < (quick ? 2 : 12); i++) {
        struct spec v = {name, DIMS[i % 6], 8, 2};
        v.fp8 = i >= 6;
        v.invariant = true;
        v.window = i % 3 == 2 ? 130 : 0;
        v.sparse = i % 6 < 5 && i % 4 == 1 ? 5 : 0;
        snprintf(name, sizeof name, "invariant, head_dim %d %s%s", v.head_dim, v.fp8 ? "fp8" : "f16", v.sparse ? " sparse" : "");
        add(&v, 0, quick ? 70 : 430);
        if (!v.sparse) add(&v, 555, quick ? 5 : 90);
        struct world w;
        world_open(&w, &v);
        run_all(&w);
        check_written(&w);
        if (!v.sparse) check_out(&w);
        check_pieces(&w, 70, true);
        check_pieces(&w, 7, true);
        world_close(&w);
    }
    struct spec c = {"chunked prefill against whole", 128, 8, 2};
    add(&c, 0, quick ? 80 : 700);
    run_identity(&c, 200, false);
    c.fp8 = true;
    c.softcap = 20;
    run_identity(&c, 200, false);
}

static void run_sparses(bool quick)
{
    char name[80];
    static const int DIMS[] = {128, 64, 80, 256};
    for (int i = 0; i < (quick ? 2 : 8); i++) {
        struct spec s = {name, DIMS[i % 4], 8, 2};
        s.fp8 = i % 2;
        s.sparse = i == 3 ? 3 : 6 + i;
        s.window = i >= 6 ? 900 : 0;
        s.q_scale = 4;
        snprintf(name, sizeof name, "sparse, head_dim %d %s, %d pages, window %d", s.head_dim, s.fp8 ? "fp8" : "f16", s.sparse, s.window);
        add(&s, 0, quick ? 500 : 1500);
        if (!quick) add(&s, 0, 1024);
        if (!quick) add(&s, 0, 161);
        run_sparse(&s);
    }
    struct spec s = {"sparse that reads all", 128, 8, 2};
    s.sparse = 1;
    add(&s, 600, 1);
    add(&s, 31, 4);
    run_sparse_wide(&s);
}

#ifndef RUNG_EMULATE
static void run_graphs(bool quick)
{
    struct spec s = {"graph", 128, 8, 2};
    for (int i = 0; i < (quick ? 3 : 21); i++) add(&s, 20 + i * (quick ? 130 : 97), 1);
    run_graph(&s);
    add(&s, 5000, 1); /* so many splits that they are joined by a kernel of their own */
    s.fp8 = true;
    run_graph(&s);
}
#endif

static void run_fp8_costs(bool quick)
{
    for (int n = 64; n <= (quick ? 64 : 256); n *= 2) run_fp8_cost(n);
}

int main(int argc, char **argv)
{
    int devices = 0;
    bool quick = false;
#ifdef RUNG_EMULATE
    quick = true; /* unless told "whole" */
#endif
    const char *part = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "quick") == 0) quick = true;
        else if (strcmp(argv[i], "whole") == 0) quick = false;
        else if (atoi(argv[i]) > 0) only_dim = atoi(argv[i]);
        else part = argv[i];
    }
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        printf("skipped: no GPU\n");
        return 0;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    make_tables();
    const struct {
        const char *name;
        void (*run)(bool quick);
    } PARTS[] = {{"errors", check_errors}, {"shapes", run_shapes}, {"groups", run_groups}, {"streams", run_streams}, {"extremes", run_extremes},
#ifndef RUNG_EMULATE
                 {"graphs", run_graphs},
#endif
                 {"identities", run_identities}, {"sparse", run_sparses}, {"fp8", run_fp8_costs}, {"rotations", run_rotations}, {"planned", run_planned}};
    for (auto &p : PARTS)
        if (!part || strcmp(part, p.name) == 0) p.run(quick);
    printf("worst relative error of a case: F16 pages %.2e, FP8 pages %.2e\n", worst[0], worst[1]);
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
