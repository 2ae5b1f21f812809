/* The kernels' one source. Included once by each kernels_*.c after its vec_*.h; gives one static function for each
 * pointer of struct kernels, and fills the table with KERNELS_TABLE(symbol, name, usable). */

#include "engine/cpu/kernels.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* ---- matrix × columns ---- */

/* Whole bytes lie in a panel with their sign turned; a set that multiplies signed bytes turns it back. */
INLINE vb whole_bytes(const uint8_t *p)
{
#ifdef VEC_SIGNED
    return vb_turn_sign(vb_load(p));
#else
    return vb_load(p);
#endif
}

/* The 64 quants of column group j (0..7) of a block. */
INLINE vb quants(enum gguf_type type, const uint8_t *low, const uint8_t *high, int j)
{
    const int bits = pack_bits(type);
    if (bits == 8) return whole_bytes(low + j * 64);
    if (bits <= 3) {
        vb q = vb_bits(vb_load(low + j / 4 * 64), j % 4 * 2, 3);
        return bits == 2 ? q : vb_or(q, vb_bits(vb_load(high), j - 2, 4));
    }
    vb q = vb_bits(vb_load(low + j % 4 * 64), j / 4 * 4, 15);
    if (bits == 5) return vb_or(q, vb_bits(vb_load(high), j - 4, 16));
    if (bits == 6) return vb_or(q, vb_bits(vb_load(high + j / 4 * 64), j % 4 * 2 - 4, 48));
    return type == GGUF_IQ4_NL ? vb_iq4nl(q) : q;
}

/* Scales of sub-block s of a chunk (of all 16 rows), and minus their mins. */
INLINE vf scales(enum gguf_type type, const uint8_t *chunk, int s)
{
    if (!pack_super(type)) return vf_from_half((const uint16_t *)(const void *)chunk + s * 16);
    return vf_mul(vf_from_half((const uint16_t *)(const void *)(chunk + pack_at_super(type))), vf_from_i8((const int8_t *)chunk + s * 16));
}

INLINE vf offsets(enum gguf_type type, const uint8_t *chunk, int s)
{
    const uint8_t *at = chunk + pack_at_min(type);
    if (!pack_super(type)) return vf_from_half((const uint16_t *)(const void *)at + s * 16);
    vf m = vf_mul(vf_from_half((const uint16_t *)(const void *)(chunk + pack_at_super_min(type))), vf_from_u8(at + s * 16));
    return vf_sub(vf_set1(0), m);
}

#ifdef VEC_SPANS
#include "engine/cpu/kernels_spans.inc.h"
#else
struct span;
#endif

/* Group j of a block: from its span, where the panel was taken apart, else from its bits. */
INLINE vb group(enum gguf_type type, const struct span *s, const uint8_t *low, const uint8_t *high, int j)
{
    return s ? vb_load(low + j * 64) : quants(type, low, high, j);
}

/* Dots of groups [first, first + groups) of a block × N columns, added to `dots`; a: the block's activations. */
INLINE void add_dots(enum gguf_type type, const int N, const struct span *s, const uint8_t *low, const uint8_t *high, const int8_t *a,
                     int first, int groups, vi *dots)
{
    const int zero = pack_zero(type);
#ifdef VEC_PAIRS
    if (N % 2 == 0) {
        vp pairs[VEC_WIDEST / 2];
        for (int c = 0; c < N / 2; c++) pairs[c] = vp_zero();
#pragma GCC unroll 4
        for (int j = first; j < first + groups; j += 2) {
            vb l = group(type, s, low, high, j), h = group(type, s, low, high, j + 1);
            const int8_t *at = a + j * N * 4;
            for (int c = 0; c < N / 2; c++) pairs[c] = vp_dot(pairs[c], l, h, at + c * 8, at + N * 4 + c * 8);
        }
        for (int c = 0; c < N; c++) dots[c] = vp_column(pairs[c / 2], c % 2, dots[c]);
        return;
    }
#endif
#ifdef VEC_SIZES
    if (zero == 7 && s) {
#pragma GCC unroll 8
        for (int j = first; j < first + groups; j++) {
            vb q = vb_load(low + j * 64), size = vb_load(low + 512 + j * 64);
            const int8_t *at = a + j * N * 4;
            for (int c = 0; c < N; c++) dots[c] = vi_dot_signed(dots[c], q, size, at + c * 4);
        }
        return;
    }
#endif
#ifdef VEC_SHORTS
    if (zero != 7) {
        const int run = shorts_hold(pack_bits(type)) < groups ? shorts_hold(pack_bits(type)) : groups;
#pragma GCC unroll 4
        for (int j0 = first; j0 < first + groups; j0 += run) {
            vi part[VEC_WIDEST];
            for (int c = 0; c < N; c++) part[c] = shorts_zero();
#pragma GCC unroll 8
            for (int j = j0; j < j0 + run; j++) {
                vb q = group(type, s, low, high, j);
                const int8_t *at = a + j * N * 4;
                for (int c = 0; c < N; c++) part[c] = shorts_dot(part[c], q, at + c * 4);
            }
            for (int c = 0; c < N; c++) dots[c] = shorts_add(dots[c], part[c]);
        }
        return;
    }
#endif
#pragma GCC unroll 8
    for (int j = first; j < first + groups; j++) {
        vb q = group(type, s, low, high, j);
        const int8_t *at = a + j * N * 4;
        for (int c = 0; c < N; c++) dots[c] = vi_dot(dots[c], q, at + c * 4, zero);
    }
}

#ifdef VEC_SPANS
#define SPAN_OR(span, packed) (s ? span : packed)
#else
#define SPAN_OR(span, packed) packed
#endif
/* Block i of a chunk, or of span s, × N columns; b: of the panel. */
INLINE void multiply_block(enum gguf_type type, const int N, const struct span *s, const uint8_t *chunk, const int i, int b,
                           const struct acts *x, int c0, vf *acc)
{
    const int zero = pack_zero(type), subs = 32 / pack_sub(type), groups = 8 / subs;
    const size_t first = (size_t)c0 * (size_t)(x->k / 32);
    const int8_t *a = x->q + first * 32;
    const float *d = x->d + first, *ds = subs == 1 ? x->ds32 + first : x->ds16 + first * 2;
    const int32_t *sums = subs == 1 ? x->n32 + first : x->n16 + first * 2;
    const uint8_t *high = SPAN_OR(NULL, chunk + pack_at_block(type, i)), *low = SPAN_OR(s->q + i * SPAN_BYTES, high + pack_high(type));
    for (int sub = 0; sub < subs; sub++) {
        vi dots[VEC_WIDEST];
        for (int c = 0; c < N; c++) dots[c] = vi_start(sums + (b * subs + sub) * N + c, zero);
        add_dots(type, N, s, low, high, a + b * 32 * N, sub * groups, groups, dots);
        vf scale = SPAN_OR(vf_load(s->scale[i * subs + sub]), scales(type, chunk, i * subs + sub));
        for (int c = 0; c < N; c++)
            acc[c] = vf_fma(vf_from_vi(dots[c]), vf_mul(scale, vf_set1(d[b * N + c])), acc[c]);
        if (pack_has_min(type)) {
            vf offset = SPAN_OR(vf_load(s->offset[i * subs + sub]), offsets(type, chunk, i * subs + sub));
            for (int c = 0; c < N; c++)
                acc[c] = vf_fma(offset, vf_set1(ds[(b * subs + sub) * N + c]), acc[c]);
        }
    }
}

/* One panel × N columns of one group, starting at column c0. */
INLINE void multiply(enum gguf_type type, const int N, const struct packed *w, const uint8_t *panel,
                     const struct acts *x, int c0, float *y, size_t ldy)
{
    const int blocks = w->k / 32, each = pack_chunk_blocks(type), bytes = pack_chunk_bytes(type);
    vf acc[VEC_WIDEST];
    for (int c = 0; c < N; c++) acc[c] = vf_set1(0);
    for (int b = 0; b < blocks; b += each, panel += bytes)
        for (int i = 0; i < each && b + i < blocks; i++) multiply_block(type, N, NULL, panel, i, b + i, x, c0, acc);
    for (int c = 0; c < N; c++) vf_store(y + (size_t)c * ldy, acc[c]);
}

INLINE void multiply_plain(enum gguf_type type, const int N, const struct packed *w, const uint8_t *panel,
                           const struct acts *x, int c0, float *y, size_t ldy)
{
    const float *f = x->f + (size_t)c0 * (size_t)w->k;
    vf acc[VEC_WIDEST];
    for (int c = 0; c < N; c++) acc[c] = vf_set1(0);
    for (int i = 0; i < w->k; i++) {
        const void *at = panel + (size_t)i * 16 * (type == GGUF_F32 ? 4 : 2);
        vf v = type == GGUF_F32 ? vf_load(at) : type == GGUF_BF16 ? vf_from_bf16(at) : vf_from_half(at);
        for (int c = 0; c < N; c++) acc[c] = vf_fma(v, vf_set1(f[i * N + c]), acc[c]);
    }
    if (type == GGUF_FP8) {
        vf scale = vf_load((const float *)(const void *)(panel + w->panel_bytes - 64));
        for (int c = 0; c < N; c++) acc[c] = vf_mul(acc[c], scale);
    }
    for (int c = 0; c < N; c++) vf_store(y + (size_t)c * ldy, acc[c]);
}

/* W4A16: whole numbers × floats, and each 128 of them × their scale. */
INLINE void multiply_grouped(enum gguf_type type, const int N, const struct packed *w, const uint8_t *panel,
                             const struct acts *x, int c0, float *y, size_t ldy)
{
    const float *f = x->f + (size_t)c0 * (size_t)w->k;
    vf acc[VEC_WIDEST];
    (void)type;
    for (int c = 0; c < N; c++) acc[c] = vf_set1(0);
    for (int g = 0; g < w->k; g += 128, panel += PACK_W4_BYTES) {
        vf sum[VEC_WIDEST], scale = vf_from_half((const uint16_t *)(const void *)panel);
        for (int c = 0; c < N; c++) sum[c] = vf_set1(0);
        for (int i = 0; i < 128; i++, f += N) {
            vf v = vf_from_i8((const int8_t *)panel + 64 + i * 16);
            for (int c = 0; c < N; c++) sum[c] = vf_fma(v, vf_set1(f[c]), sum[c]);
        }
        for (int c = 0; c < N; c++) acc[c] = vf_fma(sum[c], scale, acc[c]);
    }
    for (int c = 0; c < N; c++) vf_store(y + (size_t)c * ldy, acc[c]);
}

/* One function for each type and width, so that all loops over columns unroll. */
#if VEC_WIDEST == 16
#define WIDTHS(X, f, t) X(16, f, t) X(8, f, t) X(4, f, t) X(2, f, t) X(1, f, t)
#elif VEC_WIDEST == 12
#define WIDTHS(X, f, t) X(12, f, t) X(8, f, t) X(4, f, t) X(2, f, t) X(1, f, t)
#elif VEC_WIDEST == 4
#define WIDTHS(X, f, t) X(4, f, t) X(2, f, t) X(1, f, t)
#else
#define WIDTHS(X, f, t) X(1, f, t)
#endif
#define FLOAT_TYPES(X)                                                                                                 \
    X(multiply_plain, GGUF_F32)                                                                                        \
    X(multiply_plain, GGUF_F16)                                                                                        \
    X(multiply_plain, GGUF_FP8)                                                                                        \
    X(multiply_grouped, GGUF_W4A16)                                                                                    \
    X(multiply_plain, GGUF_BF16)
#define WHOLE_TYPES(X)                                                                                                 \
    X(multiply, GGUF_Q8_0)                                                                                             \
    X(multiply, GGUF_Q4_0)                                                                                             \
    X(multiply, GGUF_Q4_1)                                                                                             \
    X(multiply, GGUF_Q5_0)                                                                                             \
    X(multiply, GGUF_Q5_1)                                                                                             \
    X(multiply, GGUF_IQ4_NL)                                                                                           \
    X(multiply, GGUF_Q2_K)                                                                                             \
    X(multiply, GGUF_Q3_K)                                                                                             \
    X(multiply, GGUF_Q4_K)                                                                                             \
    X(multiply, GGUF_Q5_K)                                                                                             \
    X(multiply, GGUF_Q6_K)
#define ONE(n, f, t)                                                                                                   \
    static __attribute__((noinline)) void f##_##t##_##n(const struct packed *w, const uint8_t *p, const struct acts *x, \
                                                        int c0, float *y, size_t ldy)                                  \
    {                                                                                                                  \
        f(t, n, w, p, x, c0, y, ldy);                                                                                  \
    }
#define CASE(n, f, t)                                                                                                  \
    case n: f##_##t##_##n(w, panel, x, c0, y + (size_t)c0 * ldy, ldy); break;
#define GROUPS(f, t)                                                                                                   \
    WIDTHS(ONE, f, t)                                                                                                  \
    static void all_##t(const struct packed *w, const uint8_t *panel, const struct acts *x, int done, float *y,        \
                        size_t ldy)                                                                                    \
    {                                                                                                                  \
        for (int c0 = done, n; c0 < x->cols; c0 += n) {                                                                \
            n = acts_width(x->cols - c0, VEC_WIDEST);                                                                  \
            switch (n) {                                                                                               \
                WIDTHS(CASE, f, t)                                                                                     \
            }                                                                                                          \
        }                                                                                                              \
    }
FLOAT_TYPES(GROUPS)
#ifdef VEC_TILES
#include "engine/cpu/kernels_tiles.inc.h"
#undef WIDTHS /* the full groups are the tiles' */
#define WIDTHS(X, f, t) X(8, f, t) X(4, f, t) X(2, f, t) X(1, f, t)
#endif
WHOLE_TYPES(GROUPS)

#if defined(VEC_SPANS) && !defined(VEC_TILES)
/* One panel × all full groups of columns. Returns the columns done: none where there are too few, or taking quants out of their
 * bits is so little beside the set's dots that it costs nothing to do it for each group. */
INLINE int multiply_spans(enum gguf_type type, const struct packed *w, const uint8_t *panel, const struct acts *x, float *y, size_t ldy)
{
    enum { N = VEC_WIDEST, GROUPS_MAX = 16, LEAST = 4 };
    if (!vec_spans_pay(type)) return 0;
    const int blocks = w->k / 32, groups = x->cols / N;
    _Alignas(64) float sums[GROUPS_MAX][N][16]; /* in y they would fall onto few lines of the cache: its columns are far apart */
    struct span s;
    if (groups < LEAST) return 0;
    for (int g0 = 0; g0 < groups; g0 += GROUPS_MAX) {
        for (int first = 0; first < blocks; first += SPAN_BLOCKS) {
            span_fill(type, panel, blocks, first, &s);
            for (int g = g0; g < groups && g < g0 + GROUPS_MAX; g++) {
                vf acc[N];
                for (int c = 0; c < N; c++) acc[c] = first ? vf_load(sums[g - g0][c]) : vf_set1(0);
                for (int i = 0; i < s.blocks; i++) multiply_block(type, N, &s, NULL, i, first + i, x, g * N, acc);
                bool last = first + SPAN_BLOCKS >= blocks;
                for (int c = 0; c < N; c++) vf_store(last ? y + (size_t)(g * N + c) * ldy : sums[g - g0][c], acc[c]);
            }
        }
    }
    return groups * N;
}
#define SPANS(f, t)                                                                                                    \
    static __attribute__((noinline)) int spans_##t(const struct packed *w, const uint8_t *panel, const struct acts *x,  \
                                                   float *y, size_t ldy)                                               \
    {                                                                                                                  \
        return multiply_spans(t, w, panel, x, y, ldy);                                                                 \
    }
WHOLE_TYPES(SPANS)
#endif

static void matmul(const struct packed *w, int panel, const struct acts *x, float *y, size_t ldy)
{
    const uint8_t *p = packed_panel(w, panel);
    y += (size_t)panel * PANEL_ROWS;
    switch (w->type) {
#define DISPATCH(f, t)                                                                                                 \
    case t: all_##t(w, p, x, 0, y, ldy); break;
#ifdef VEC_TILES
#define DISPATCH_WHOLE(f, t)                                                                                           \
    case t: all_##t(w, p, x, tiles_##t(w, p, x, y, ldy), y, ldy); break;
#elif defined(VEC_SPANS)
#define DISPATCH_WHOLE(f, t)                                                                                           \
    case t: all_##t(w, p, x, spans_##t(w, p, x, y, ldy), y, ldy); break;
#else
#define DISPATCH_WHOLE DISPATCH
#endif
        FLOAT_TYPES(DISPATCH)
        WHOLE_TYPES(DISPATCH_WHOLE)
    default: break;
    }
}

/* ---- activations ---- */

/* The group of column `col`: its first column and width. */
INLINE void find_group(const struct acts *a, int col, int *first, int *width)
{
    int c0 = col / VEC_WIDEST * VEC_WIDEST, n = acts_width(a->cols - c0, VEC_WIDEST);
    while (col >= c0 + n) {
        c0 += n;
        n = acts_width(a->cols - c0, VEC_WIDEST);
    }
    *first = c0;
    *width = n;
}

static void put_q8(struct acts *a, int col, const float *x, int from, int end)
{
    int c0, n;
    find_group(a, col, &c0, &n);
    const size_t first = (size_t)c0 * (size_t)(a->k / 32);
    const int at = col - c0;
    for (int b = from / 32; b < end / 32; b++) {
        vf lo = vf_load(x + b * 32), hi = vf_load(x + b * 32 + 16);
        float most = vf_highest(vf_max(vf_abs(lo), vf_abs(hi)));
        vf inverse = vf_set1(most > 0 ? 127.0f / most : 0.0f);
        int8_t q[32];
        lo = vf_round(vf_mul(lo, inverse));
        hi = vf_round(vf_mul(hi, inverse));
        vf_to_i8(q, lo);
        vf_to_i8(q + 16, hi);
#ifdef VEC_SUM_BYTES
        int sum[2] = {sum_16_bytes(q), sum_16_bytes(q + 16)};
#else
        int sum[2] = {(int)vf_sum(lo), (int)vf_sum(hi)}; /* whole numbers: exact */
#endif
        size_t block = first + (size_t)(b * n + at);
        float d = most / 127.0f;
        a->d[block] = d;
        a->n32[block] = -(sum[0] + sum[1]);
        a->ds32[block] = d * (float)(sum[0] + sum[1]);
        for (int s = 0; s < 2; s++) {
            a->n16[first * 2 + (size_t)((b * 2 + s) * n + at)] = -sum[s];
            a->ds16[first * 2 + (size_t)((b * 2 + s) * n + at)] = d * (float)sum[s];
        }
#ifdef VEC_TILES
        if (n == VEC_WIDEST) {
            memcpy(a->q + first * 32 + (size_t)(b * n + at) * 32, q, 32);
            continue;
        }
#endif
        for (int g = 0; g < 8; g++) memcpy(a->q + first * 32 + (size_t)((b * 8 + g) * n + at) * 4, q + g * 4, 4);
    }
}

static void put_float(struct acts *a, int col, const float *x, int from, int end)
{
    int c0, n;
    find_group(a, col, &c0, &n);
    float *out = a->f + (size_t)c0 * (size_t)a->k + (col - c0);
    for (int i = from; i < end; i++) out[(size_t)i * (size_t)n] = x[i];
}

/* ---- vectors ---- */

/* exp, by 2^n × a polynomial; 0 below -87. */
INLINE vf vf_exp(vf x)
{
    vf clamped = vf_min(vf_max(x, vf_set1(-87.0f)), vf_set1(88.0f));
    vf n = vf_round(vf_mul(clamped, vf_set1(1.44269504f)));
    vf r = vf_fma(n, vf_set1(-0.693359375f), clamped);
    r = vf_fma(n, vf_set1(2.12194440e-4f), r);
    vf p = vf_set1(1.9875691500e-4f); /* Cephes expf: minimax over |r| <= ln 2 / 2 */
    p = vf_fma(p, r, vf_set1(1.3981999507e-3f));
    p = vf_fma(p, r, vf_set1(8.3334519073e-3f));
    p = vf_fma(p, r, vf_set1(4.1665795894e-2f));
    p = vf_fma(p, r, vf_set1(1.6666665459e-1f));
    p = vf_fma(p, r, vf_set1(5.0000001201e-1f));
    p = vf_fma(p, vf_mul(r, r), vf_add(r, vf_set1(1)));
    return vf_keep_ge(vf_mul(p, vf_exp2i(n)), x, -87.0f);
}

/* x / (1 + exp(-u)) */
INLINE vf gated(vf x, vf u)
{
    return vf_div(x, vf_add(vf_set1(1), vf_exp(vf_sub(vf_set1(0), u))));
}

static void rms_norm(float *out, const float *x, const float *weight, int n, float eps)
{
    vf sum = vf_set1(0);
    for (int i = 0; i < n; i += 16) sum = vf_fma(vf_load(x + i), vf_load(x + i), sum);
    vf scale = vf_set1(1.0f / sqrtf(vf_sum(sum) / (float)n + eps));
    for (int i = 0; i < n; i += 16) {
        vf v = vf_mul(vf_load(x + i), scale);
        vf_store(out + i, weight ? vf_mul(v, vf_load(weight + i)) : v);
    }
}

static void add(float *x, const float *y, int n, float scale)
{
    for (int i = 0; i < n; i += 16) vf_store(x + i, vf_fma(vf_load(y + i), vf_set1(scale), vf_load(x + i)));
}

static void silu_mul(float *gate, const float *up, int n)
{
    for (int i = 0; i < n; i += 16) {
        vf g = vf_load(gate + i);
        vf_store(gate + i, vf_mul(gated(g, g), vf_load(up + i)));
    }
}

/* GELU by its tanh form: x × sigmoid(2 √(2/π) (x + 0.044715 x³)). */
static void gelu_mul(float *gate, const float *up, int n)
{
    for (int i = 0; i < n; i += 16) {
        vf g = vf_load(gate + i);
        vf cubed = vf_mul(vf_mul(g, g), vf_mul(g, vf_set1(0.044715f)));
        vf u = vf_mul(vf_add(g, cubed), vf_set1(1.5957691216f));
        vf_store(gate + i, vf_mul(gated(g, u), vf_load(up + i)));
    }
}

/* cap × tanh(x / cap), as cap × (1 - 2 / (exp(2x/cap) + 1)). */
INLINE vf capped(vf x, vf cap)
{
    vf e = vf_exp(vf_div(vf_add(x, x), cap));
    return vf_mul(cap, vf_sub(vf_set1(1), vf_div(vf_set1(2), vf_add(e, vf_set1(1)))));
}

static void softcap(float *x, int n, float cap)
{
    for (int i = 0; i < n; i += 16) vf_store(x + i, capped(vf_load(x + i), vf_set1(cap)));
}

static void rope(float *x, const float *cs, int pairs)
{
    int i = 0;
    for (; i + 16 <= pairs; i += 16) {
        vf a = vf_load(x + i), b = vf_load(x + pairs + i), c = vf_load(cs + i), s = vf_load(cs + pairs + i);
        vf_store(x + i, vf_sub(vf_mul(a, c), vf_mul(b, s)));
        vf_store(x + pairs + i, vf_add(vf_mul(a, s), vf_mul(b, c)));
    }
    for (; i < pairs; i++) {
        float a = x[i], b = x[pairs + i], c = cs[i], s = cs[pairs + i];
        x[i] = a * c - b * s;
        x[pairs + i] = a * s + b * c;
    }
}

/* ---- attention ---- */

static void put_kv(uint16_t *k_page, uint16_t *v_page, int slot, const float *k, const float *v, int head_dim)
{
    const vf most = vf_set1(65504.0f), least = vf_set1(-65504.0f);
    for (int i = 0; i < head_dim; i += 16) {
        uint16_t halves[16];
        vf_to_half(halves, vf_max(vf_min(vf_load(k + i), most), least));
        for (int l = 0; l < 16; l++) k_page[(i + l) * KV_PAGE_TOKENS + slot] = halves[l];
        vf_to_half(v_page + slot * head_dim + i, vf_max(vf_min(vf_load(v + i), most), least));
    }
}

/* The block of up to 32 elements as int8 with the scale that is kept, which its rounding to f16 has made a little smaller
 * or larger. */
INLINE void quantize_kv(const float *x, int n, int8_t *q, uint16_t *kept)
{
    const vf most = vf_set1(65504.0f), least = vf_set1(-65504.0f);
    vf part[2] = {vf_set1(0), vf_set1(0)};
    for (int i = 0; i < n / 16; i++) part[i] = vf_max(vf_min(vf_load(x + i * 16), most), least);
    uint16_t halves[16];
    vf_to_half(halves, vf_set1(vf_highest(vf_max(vf_abs(part[0]), vf_abs(part[1]))) / 127.0f));
    float d = half_to_float(halves[0]), inverse = d > 0 ? 1.0f / d : 0.0f;
    for (int i = 0; i < n / 16; i++) {
        vf whole = vf_round(vf_mul(part[i], vf_set1(inverse)));
        vf_to_i8(q + i * 16, vf_max(vf_min(whole, vf_set1(127)), vf_set1(-127)));
    }
    *kept = halves[0];
}

static void put_kv_q8(uint16_t *k_page, uint16_t *v_page, int slot, const float *k, const float *v, int head_dim)
{
    int8_t *kq = (int8_t *)(void *)k_page, *vq = (int8_t *)(void *)v_page, q[32];
    uint16_t *kd = k_page + head_dim / 2 * KV_PAGE_TOKENS, *vd = v_page + head_dim / 2 * KV_PAGE_TOKENS;
    for (int i = 0; i < head_dim; i += 32) {
        int n = head_dim - i < 32 ? 16 : 32, scale = i / 32 * KV_PAGE_TOKENS + slot;
        quantize_kv(k + i, n, q, kd + scale);
        for (int l = 0; l < n; l++) kq[(i + l) * KV_PAGE_TOKENS + slot] = q[l];
        quantize_kv(v + i, n, vq + slot * head_dim + i, vd + scale);
    }
}

/* The 16 values at `at` of a page's K or V; Q8_0: × their scales. */
INLINE vf kv_load(const bool q8, const uint16_t *page, int at, vf scale)
{
    return q8 ? vf_mul(vf_from_i8((const int8_t *)(const void *)page + at), scale) : vf_from_half(page + at);
}

/* Q8_0: the scales of block b of the page's 32 tokens. */
INLINE void kv_scales(const uint16_t *page, int head_dim, int b, vf scale[2])
{
    const uint16_t *d = page + (head_dim / 2 + b) * KV_PAGE_TOKENS;
    scale[0] = vf_from_half(d);
    scale[1] = vf_from_half(d + 16);
}

/* One page for R rows: scores, running maximum and sum, weighted values. `valid` of its tokens are written. */
INLINE void attend_page(const bool q8, const int R, const struct attend *a, int page, int valid, vf *sum, float *highest)
{
    const uint16_t *k = a->k + (size_t)a->pages[page] * a->page_stride, *v = a->v + (size_t)a->pages[page] * a->page_stride;
    vf s[ATTEND_ROWS][2];
    for (int r = 0; r < R; r++) s[r][0] = s[r][1] = vf_set1(0);
    vf scale[2] = {vf_set1(0), vf_set1(0)};
    for (int i = 0; i < a->head_dim; i++) {
        if (q8 && i % 32 == 0) kv_scales(k, a->head_dim, i / 32, scale);
        vf lo = kv_load(q8, k, i * KV_PAGE_TOKENS, scale[0]), hi = kv_load(q8, k, i * KV_PAGE_TOKENS + 16, scale[1]);
        for (int r = 0; r < R; r++) {
            vf q = vf_set1(a->q[r][i]);
            s[r][0] = vf_fma(lo, q, s[r][0]);
            s[r][1] = vf_fma(hi, q, s[r][1]);
        }
    }
    float p[ATTEND_ROWS][KV_PAGE_TOKENS], again[16] = {0};
    for (int r = 0; r < R; r++) {
        int position = a->position[r] - page * KV_PAGE_TOKENS; /* of the row, on this page */
        int first = a->window ? position - a->window + 1 : 0, end = position + 1;
        for (int h = 0; h < 2; h++) {
            if (a->softcap > 0) s[r][h] = capped(s[r][h], vf_set1(a->softcap));
            s[r][h] = vf_keep_lanes(s[r][h], first - h * 16, end - h * 16, -INFINITY);
        }
        float most = vf_highest(vf_max(s[r][0], s[r][1]));
        if (most < highest[r]) most = highest[r];
        again[r] = highest[r] - most;
        highest[r] = most;
    }
    vf_store(again, vf_exp(vf_load(again))); /* what a row had before shrinks by so much */
    for (int r = 0; r < R; r++) {
        vf most = vf_set1(highest[r]), e0 = vf_exp(vf_sub(s[r][0], most)), e1 = vf_exp(vf_sub(s[r][1], most));
        sum[r] = vf_add(vf_mul(sum[r], vf_set1(again[r])), vf_add(e0, e1));
        vf_store(p[r], e0);
        vf_store(p[r] + 16, e1);
    }
    for (int i = 0; i < a->head_dim; i += 16) {
        vf acc[ATTEND_ROWS];
        float d[KV_PAGE_TOKENS] = {0};
        if (q8) {
            kv_scales(v, a->head_dim, i / 32, scale);
            vf_store(d, scale[0]);
            vf_store(d + 16, scale[1]);
        }
        for (int r = 0; r < R; r++) acc[r] = vf_mul(vf_load(a->out[r] + i), vf_set1(again[r]));
        for (int t = 0; t < valid; t++) {
            vf value = kv_load(q8, v, t * a->head_dim + i, vf_set1(d[t]));
            for (int r = 0; r < R; r++) acc[r] = vf_fma(value, vf_set1(p[r][t]), acc[r]);
        }
        for (int r = 0; r < R; r++) vf_store(a->out[r] + i, acc[r]);
    }
}

INLINE void attend_rows(const bool q8, const int R, const struct attend *a)
{
    vf sum[ATTEND_ROWS];
    float highest[ATTEND_ROWS];
    for (int r = 0; r < R; r++) {
        sum[r] = vf_set1(0);
        highest[r] = -1e30f;
        for (int i = 0; i < a->head_dim; i += 16) vf_store(a->out[r] + i, vf_set1(0));
    }
    int last = a->position[R - 1], first = a->window ? a->position[0] - a->window + 1 : 0;
    for (int page = first > 0 ? first / KV_PAGE_TOKENS : 0; page <= last / KV_PAGE_TOKENS; page++) {
        int valid = last + 1 - page * KV_PAGE_TOKENS;
        attend_page(q8, R, a, page, valid > KV_PAGE_TOKENS ? KV_PAGE_TOKENS : valid, sum, highest);
    }
    for (int r = 0; r < R; r++) {
        vf inverse = vf_set1(1.0f / vf_sum(sum[r]));
        for (int i = 0; i < a->head_dim; i += 16)
            vf_store(a->out[r] + i, vf_mul(vf_load(a->out[r] + i), inverse));
    }
}

/* A function of its own for each, so that loops over rows unroll. */
#define ATTEND(q8, n)                                                                                                  \
    static __attribute__((noinline)) void attend_##q8##_##n(const struct attend *a)                                    \
    {                                                                                                                  \
        attend_rows(q8, n, a);                                                                                         \
    }
#define ATTEND_ALL(q8)                                                                                                 \
    ATTEND(q8, 1) ATTEND(q8, 2) ATTEND(q8, 3) ATTEND(q8, 4) ATTEND(q8, 5) ATTEND(q8, 6) ATTEND(q8, 7) ATTEND(q8, 8)
#define ATTEND_NAMES(q8)                                                                                               \
    {attend_##q8##_1, attend_##q8##_2, attend_##q8##_3, attend_##q8##_4,                                               \
     attend_##q8##_5, attend_##q8##_6, attend_##q8##_7, attend_##q8##_8}
ATTEND_ALL(0)
ATTEND_ALL(1)

static void attend(const struct attend *a)
{
    static void (*const BY_ROWS[2][ATTEND_ROWS])(const struct attend *a) = {ATTEND_NAMES(0), ATTEND_NAMES(1)};
    BY_ROWS[a->q8][a->rows - 1](a);
}

/* ---- the distribution of a row of logits ---- */

INLINE vf logits_at(const float *logits, int i, int n)
{
    if (i + 16 <= n) return vf_load(logits + i);
    float lanes[16];
    for (int l = 0; l < 16; l++) lanes[l] = i + l < n ? logits[i + l] : -INFINITY;
    return vf_load(lanes);
}

static float two_highest(const float *logits, int n, float *second)
{
    vf first = vf_set1(-INFINITY), next = first;
    for (int i = 0; i < n; i += 16) {
        vf x = logits_at(logits, i, n);
        next = vf_max(next, vf_min(first, x));
        first = vf_max(first, x);
    }
    float a[16], b[16], most = -INFINITY, runner = -INFINITY;
    vf_store(a, first);
    vf_store(b, next);
    for (int l = 0; l < 16; l++) {
        if (a[l] > most) {
            runner = most;
            most = a[l];
        } else if (a[l] > runner) {
            runner = a[l];
        }
    }
    for (int l = 0; l < 16; l++)
        if (b[l] > runner) runner = b[l];
    *second = runner;
    return most;
}

static void stats(const float *logits, int n, struct logit_stats *out)
{
    float second, most = two_highest(logits, n, &second);
    double sum = 0, first = 0, square = 0; /* Σ e, Σ e x, Σ e x², x = logit - max */
    for (int i = 0; i < n;) {
        vf s = vf_set1(0), f = s, q = s;
        for (int end = i + 1024; i < n && i < end; i += 16) {
            vf x = vf_max(vf_sub(logits_at(logits, i, n), vf_set1(most)), vf_set1(-1000));
            vf e = vf_exp(x), ex = vf_mul(e, x);
            s = vf_add(s, e);
            f = vf_add(f, ex);
            q = vf_fma(ex, x, q);
        }
        sum += (double)vf_sum(s);
        first += (double)vf_sum(f);
        square += (double)vf_sum(q);
    }
    double mean = first / sum, log_sum = log(sum);
    out->max = most;
    out->logsum = (float)((double)most + log_sum);
    out->entropy = (float)fmax(0, log_sum - mean);
    out->varentropy = (float)fmax(0, square / sum - mean * mean);
    out->margin = (float)((1 - exp((double)second - (double)most)) / sum);
    out->best = 0;
    while (out->best < n - 1 && logits[out->best] != most) out->best++;
}

#ifndef VEC_PUT_WORDS
#define VEC_PUT_WORDS NULL
#endif
#define KERNELS_TABLE(symbol, set, check)                                                                              \
    const struct kernels symbol = {.name = set,                                                                        \
                                   .usable = check,                                                                    \
                                   .widest = VEC_WIDEST,                                                               \
                                   .matmul = matmul,                                                                   \
                                   .put_q8 = put_q8,                                                                   \
                                   .put_float = put_float,                                                             \
                                   .rms_norm = rms_norm,                                                               \
                                   .add = add,                                                                         \
                                   .silu_mul = silu_mul,                                                               \
                                   .gelu_mul = gelu_mul,                                                               \
                                   .rope = rope,                                                                       \
                                   .put_kv = put_kv,                                                                   \
                                   .put_kv_q8 = put_kv_q8,                                                             \
                                   .attend = attend,                                                                   \
                                   .put_words = VEC_PUT_WORDS,                                                         \
                                   .softcap = softcap,                                                                 \
                                   .stats = stats}
