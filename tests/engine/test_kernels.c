#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/cpu/kernels.h"
#include "tests/engine/tiny_model.h"

static const enum gguf_type TYPES[] = {GGUF_F32, GGUF_F16, GGUF_BF16, GGUF_Q8_0, GGUF_Q4_0, GGUF_Q4_1, GGUF_Q5_0, GGUF_Q5_1,
                                       GGUF_IQ4_NL, GGUF_Q2_K, GGUF_Q3_K, GGUF_Q4_K, GGUF_Q5_K, GGUF_Q6_K, GGUF_FP8, GGUF_W4A16};
enum { TYPES_COUNT = sizeof TYPES / sizeof TYPES[0], ROWS = 37, ROWS_IN_EIGHTS = 40, K = 544, COLS = 37, LDY = 48 };

/* The sets of this machine, and one more where a test brings it along. */
static const struct kernels *set_at(int index)
{
#ifdef KERNELS_EXTRA
    return index == 0 ? &KERNELS_EXTRA : kernels_at(index - 1);
#else
    return kernels_at(index);
#endif
}

/* An odd number of blocks, so that the last chunk is not full; k-quants have whole chunks only. */
static int k_of(enum gguf_type type)
{
    return pack_super(type) || type == GGUF_W4A16 ? 512 : K;
}

/* A random matrix in all its shapes, and random columns. */
struct fixture {
    struct packed w;
    float *plain; /* (ROWS, k) dequantized */
    float x[COLS][K];
};

static void fixture_init(struct fixture *f, enum gguf_type type)
{
    uint64_t seed = 42 + (uint64_t)type;
    const int k = k_of(type);
    size_t bytes = pack_row_bytes(type, k);
    unsigned char *raw = malloc(bytes * ROWS_IN_EIGHTS);
    float scale[ROWS];
    const struct gguf_tensor t = {.type = type, .dims = 2, .shape = {k, ROWS_IN_EIGHTS, 1, 1}, .data = raw, .scale = scale};
    void *scratch = malloc(packed_scratch(K));
    f->plain = malloc(sizeof *f->plain * ROWS * K);
    tiny_fill(type, raw, bytes * ROWS_IN_EIGHTS, 1, &seed);
    for (int r = 0; r < ROWS; r++) scale[r] = (1.5f + tiny_uniform(&seed)) / 100;
    assert_int_equal(packed_init(&f->w, type, ROWS, k, NULL), ERR_OK);
    for (int r = 0; r < ROWS; r++) {
        packed_set_tensor_row(&f->w, r, &t, r, scratch);
        pack_tensor_row(&t, r, f->plain + r * k, scratch);
    }
    for (int c = 0; c < COLS; c++)
        for (int i = 0; i < K; i++) f->x[c][i] = tiny_uniform(&seed) * (c == 3 ? 100.0f : 1.0f) * (c == 5 && i < 64 ? 0.0f : 1.0f);
    free(raw);
    free(scratch);
}

static void fixture_release(struct fixture *f)
{
    packed_release(&f->w);
    free(f->plain);
}

static struct acts acts_new(int cols, int k)
{
    size_t n = (size_t)cols * K;
    return (struct acts){.k = k, .cols = cols, .q = malloc(n), .d = malloc(n / 8), .ds32 = malloc(n / 8), .ds16 = malloc(n / 4),
                         .n32 = malloc(n / 8), .n16 = malloc(n / 4), .f = malloc(n * 4)};
}

static void acts_free(struct acts *a)
{
    void *all[] = {a->q, a->d, a->ds32, a->ds16, a->n32, a->n16, a->f};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
}

/* y (cols, LDY) = W x of columns [first, first + cols); behind the last stands the first again. */
static void product(const struct kernels *k, struct fixture *f, int first, int cols, float *y)
{
    struct acts a = acts_new(cols, f->w.k);
    for (int c = 0; c < cols; c++) (pack_format(f->w.type)->element ? k->put_float : k->put_q8)(&a, c, f->x[(first + c) % COLS], 0, a.k);
    for (int p = 0; p < f->w.panels; p++) k->matmul(&f->w, p, &a, y, LDY);
    acts_free(&a);
}

/* The activations that a quantized product sees: rounded to 8 bits by 32. */
static void rounded(const float *x, int k, bool quantized, double *out)
{
    for (int b = 0; b < k; b += 32) {
        float most = 0;
        for (int i = b; i < b + 32; i++) most = fmaxf(most, fabsf(x[i]));
        float inverse = most > 0 ? 127.0f / most : 0;
        for (int i = b; i < b + 32; i++)
            out[i] = quantized ? (double)rintf(x[i] * inverse) * (double)(most / 127.0f) : (double)x[i];
    }
}

static void products_equal_a_double_precision_reference(void **state)
{
    (void)state;
    const struct kernels *scalar = kernels_find("scalar");
    for (int t = 0; t < TYPES_COUNT; t++) {
        struct fixture f;
        float y[COLS * LDY];
        fixture_init(&f, TYPES[t]);
        product(scalar, &f, 0, COLS, y);
        for (int c = 0; c < COLS; c++) {
            double x[K];
            rounded(f.x[c], f.w.k, !pack_format(TYPES[t])->element, x);
            for (int r = 0; r < ROWS; r++) {
                double want = 0, size = 0;
                for (int i = 0; i < f.w.k; i++) {
                    want += (double)f.plain[r * f.w.k + i] * x[i];
                    size += fabs((double)f.plain[r * f.w.k + i] * x[i]);
                }
                if (fabs((double)y[c * LDY + r] - want) > size * 1e-6)
                    fail_msg("type %d, row %d, column %d: %g instead of %g", (int)TYPES[t], r, c, (double)y[c * LDY + r], want);
            }
        }
        fixture_release(&f);
    }
}

static void every_set_and_every_batch_gives_the_same_bits(void **state)
{
    (void)state;
    static const int CUTS[][8] = {{37}, {1, 36}, {12, 12, 13}, {2, 3, 7, 25}, {8, 13, 4, 12}, {1, 1, 1, 34}};
    for (int t = 0; t < TYPES_COUNT; t++) {
        struct fixture f;
        float want[COLS * LDY], y[COLS * LDY];
        fixture_init(&f, TYPES[t]);
        product(kernels_find("scalar"), &f, 0, COLS, want);
        const struct kernels *k;
        for (int i = 0; (k = set_at(i)) != NULL; i++)
            for (size_t cut = 0; cut < sizeof CUTS / sizeof CUTS[0]; cut++) {
                for (int c = 0, part = 0; c < COLS; c += CUTS[cut][part++]) product(k, &f, c, CUTS[cut][part], y + c * LDY);
                for (int c = 0; c < COLS; c++)
                    if (memcmp(y + c * LDY, want + c * LDY, ROWS * sizeof *y) != 0)
                        fail_msg("%s differs: type %d, column %d, cut %zu", k->name, (int)TYPES[t], c, cut);
            }
        fixture_release(&f);
    }
}

/* So many that a panel is taken apart once for several groups, more than are added up at a time, and some are left over. */
static void a_wide_batch_gives_each_column_its_bits(void **state)
{
    enum { WIDE = 16 * 12 + 12 + 3 };
    (void)state;
    for (int t = 0; t < TYPES_COUNT; t++) {
        struct fixture f;
        float want[COLS * LDY];
        float *y = malloc(sizeof *y * WIDE * LDY);
        fixture_init(&f, TYPES[t]);
        product(kernels_find("scalar"), &f, 0, COLS, want);
        const struct kernels *k;
        for (int i = 0; (k = set_at(i)) != NULL; i++) {
            product(k, &f, 0, WIDE, y);
            for (int c = 0; c < WIDE; c++)
                if (memcmp(y + c * LDY, want + c % COLS * LDY, ROWS * sizeof *y) != 0)
                    fail_msg("%s differs: type %d, column %d of %d", k->name, (int)TYPES[t], c, (int)WIDE);
        }
        free(y);
        fixture_release(&f);
    }
}

static void a_panel_at_once_is_its_rows_one_by_one(void **state)
{
    (void)state;
    void *scratch = malloc(packed_scratch(K));
    for (int t = 0; t < TYPES_COUNT; t++) {
        struct packed one, all;
        uint64_t seed = 3;
        const int k = k_of(TYPES[t]);
        size_t bytes = pack_row_bytes(TYPES[t], k);
        if (TYPES[t] >= GGUF_FP8) continue; /* no rows of their own */
        unsigned char *raw = malloc(bytes * ROWS);
        tiny_fill(TYPES[t], raw, bytes * ROWS, 1, &seed);
        assert_int_equal(packed_init(&one, TYPES[t], ROWS, k, NULL), ERR_OK);
        assert_int_equal(packed_init(&all, TYPES[t], ROWS, k, NULL), ERR_OK);
        for (int r = 0; r < ROWS; r++) packed_set_row(&one, r, raw + (size_t)r * bytes, scratch);
        for (int p = 0; p < all.panels; p++) {
            const void *rows[PANEL_ROWS] = {0};
            for (int i = 0; i < PANEL_ROWS && p * PANEL_ROWS + i < ROWS; i++) rows[i] = raw + (size_t)(p * PANEL_ROWS + i) * bytes;
            packed_set_panel(&all, p, rows, scratch);
        }
        if (memcmp(one.data, all.data, one.panel_bytes * (size_t)one.panels) != 0) fail_msg("type %d differs", (int)TYPES[t]);
        const struct kernels *set;
        for (int i = 0; (set = set_at(i)) != NULL; i++) {
            const unsigned char *rows[PANEL_ROWS];
            if (!set->put_words || !pack_quick(TYPES[t])) continue;
            for (int r = 0; r < PANEL_ROWS; r++) rows[r] = raw + (size_t)r * bytes;
            memset(all.data, 0, all.panel_bytes);
            set->put_words(&all, all.data, rows, raw);
            if (memcmp(one.data, all.data, one.panel_bytes) != 0) fail_msg("%s: type %d differs", set->name, (int)TYPES[t]);
        }
        packed_release(&one);
        packed_release(&all);
        free(raw);
    }
    free(scratch);
}

/* ---- attention ---- */

enum { HEAD = 48, TOKENS = 101, PAGES = 4 };

struct cache {
    bool q8;
    uint16_t k[PAGES * HEAD * KV_PAGE_TOKENS], v[PAGES * HEAD * KV_PAGE_TOKENS];
    float plain_k[TOKENS][HEAD], plain_v[TOKENS][HEAD]; /* what the cache holds of them */
    int32_t pages[PAGES];
};

/* As f16, or as whole numbers × the f16 of the largest / 127, by 32: the last 16 of a head are a block of their own. */
static void round_row(float *x, bool q8)
{
    for (int b = 0; b < HEAD; b += q8 ? 32 : HEAD) {
        float most = 0;
        int end = q8 && b + 32 < HEAD ? b + 32 : HEAD;
        for (int i = b; i < end; i++) most = fmaxf(most, fabsf(x[i]));
        float d = half_to_float(half_from_float(most / 127.0f)), inverse = d > 0 ? 1 / d : 0;
        for (int i = b; i < end; i++)
            x[i] = q8 ? fmaxf(fminf(rintf(x[i] * inverse), 127), -127) * d : half_to_float(half_from_float(x[i]));
    }
}

static void fill_cache(struct cache *c, const struct kernels *k, bool q8)
{
    static const int32_t ORDER[PAGES] = {2, 0, 3, 1};
    uint64_t seed = 5;
    memset(c, 0xff, sizeof *c); /* what was never written is NaN: it must not be read */
    memcpy(c->pages, ORDER, sizeof ORDER);
    c->q8 = q8;
    for (int t = 0; t < TOKENS; t++) {
        for (int i = 0; i < HEAD; i++) {
            c->plain_k[t][i] = tiny_uniform(&seed) * (t == 50 ? 0.0f : t == 60 && i > 40 ? 90000.0f : 1.0f);
            c->plain_v[t][i] = tiny_uniform(&seed) * (t == 51 ? 0.0f : 1.0f);
        }
        size_t at = (size_t)ORDER[t / KV_PAGE_TOKENS] * kv_page_elements(HEAD, q8);
        (q8 ? k->put_kv_q8 : k->put_kv)(c->k + at, c->v + at, t % KV_PAGE_TOKENS, c->plain_k[t], c->plain_v[t], HEAD);
        for (int i = 0; i < HEAD; i++) c->plain_k[t][i] = fmaxf(fminf(c->plain_k[t][i], 65504), -65504);
        round_row(c->plain_k[t], q8);
        round_row(c->plain_v[t], q8);
    }
}

static void attention_reference(const struct cache *c, const float *q, int position, int window, double cap, double *out)
{
    double p[TOKENS], sum = 0, most = -1e300;
    int first = window && position - window + 1 > 0 ? position - window + 1 : 0;
    for (int t = first; t <= position; t++) {
        p[t] = 0;
        for (int i = 0; i < HEAD; i++) p[t] += (double)q[i] * (double)c->plain_k[t][i];
        if (cap > 0) p[t] = cap * tanh(p[t] / cap);
        most = fmax(most, p[t]);
    }
    memset(out, 0, HEAD * sizeof *out);
    for (int t = first; t <= position; t++) sum += exp(p[t] - most);
    for (int t = first; t <= position; t++)
        for (int i = 0; i < HEAD; i++) out[i] += exp(p[t] - most) / sum * (double)c->plain_v[t][i];
}

static void attend_all(const struct kernels *k, const struct cache *c, float (*q)[HEAD], float (*out)[HEAD], int rows, int group,
                       int position, int window, float cap)
{
    for (int first = 0; first < rows; first += ATTEND_ROWS) {
        struct attend a = {.rows = rows - first < ATTEND_ROWS ? rows - first : ATTEND_ROWS, .head_dim = HEAD, .window = window,
                           .softcap = cap, .pages = c->pages, .k = c->k, .v = c->v, .page_stride = kv_page_elements(HEAD, c->q8), .q8 = c->q8};
        for (int r = 0; r < a.rows; r++) {
            a.q[r] = q[first + r];
            a.out[r] = out[first + r];
            a.position[r] = position + (first + r) / group;
        }
        k->attend(&a);
    }
}

static void attention_equals_a_double_precision_reference(void **state)
{
    (void)state;
    static struct cache c, of_scalar;
    static const struct {
        int rows, group, position, window;
        float cap;
    } CASES[] = {{1, 1, 0, 0, 0}, {7, 7, 100, 0, 0}, {21, 3, 94, 0, 0}, {40, 4, 60, 0, 2}, {30, 2, 70, 17, 0}, {5, 1, 30, 1, 0}, {9, 3, 98, 64, 1}};
    const struct kernels *k;
    for (int i = 0; (k = set_at(i / 2)) != NULL; i++) {
        fill_cache(&c, k, i % 2);
        fill_cache(&of_scalar, kernels_find("scalar"), i % 2);
        assert_memory_equal(&c, &of_scalar, sizeof c);
        for (size_t n = 0; n < sizeof CASES / sizeof CASES[0]; n++) {
            float q[40][HEAD], out[40][HEAD], same[40][HEAD], alone[1][HEAD];
            uint64_t seed = 9;
            for (int r = 0; r < 40; r++)
                for (int d = 0; d < HEAD; d++) q[r][d] = tiny_uniform(&seed);
            attend_all(k, &c, q, out, CASES[n].rows, CASES[n].group, CASES[n].position, CASES[n].window, CASES[n].cap);
            attend_all(kernels_find("scalar"), &c, q, same, CASES[n].rows, CASES[n].group, CASES[n].position, CASES[n].window,
                       CASES[n].cap);
            assert_memory_equal(out, same, (size_t)CASES[n].rows * sizeof *out);
            for (int r = 0; r < CASES[n].rows; r++) {
                double want[HEAD];
                int position = CASES[n].position + r / CASES[n].group;
                attention_reference(&c, q[r], position, CASES[n].window, (double)CASES[n].cap, want);
                for (int d = 0; d < HEAD; d++)
                    if (fabs((double)out[r][d] - want[d]) > 2e-6) fail_msg("%s case %zu row %d: %g for %g", k->name, n, r, (double)out[r][d], want[d]);
                attend_all(k, &c, q + r, alone, 1, 1, position, CASES[n].window, CASES[n].cap);
                assert_memory_equal(alone[0], out[r], sizeof alone[0]);
            }
        }
    }
}

/* ---- the small ones ---- */

static void elementwise_kernels_equal_libm(void **state)
{
    (void)state;
    const struct kernels *k;
    for (int i = 0; (k = set_at(i)) != NULL; i++) {
        float x[K], silu[K], gelu[K], capped[K], up[K];
        for (int j = 0; j < K; j++) {
            x[j] = silu[j] = gelu[j] = capped[j] = (float)(j - K / 2) * 0.4f;
            up[j] = 0.5f;
        }
        k->silu_mul(silu, up, K);
        k->gelu_mul(gelu, up, K);
        k->softcap(capped, K, 30);
        for (int j = 0; j < K; j++) {
            double v = (double)x[j], u = sqrt(2 / 3.14159265358979) * (v + 0.044715 * v * v * v);
            double near = 2e-6 * fmax(1, fabs(v));
            assert_true(fabs((double)silu[j] - 0.5 * v / (1 + exp(-v))) < near);
            assert_true(fabs((double)gelu[j] - 0.25 * v * (1 + tanh(u))) < near);
            assert_true(fabs((double)capped[j] - 30 * tanh(v / 30)) < 1e-5);
        }
    }
}

static void the_distribution_is_measured(void **state)
{
    (void)state;
    const struct kernels *k;
    enum { N = 1037 };
    float x[N + 16];
    uint64_t seed = 3;
    for (int i = 0; i < N + 16; i++) x[i] = i < N ? tiny_uniform(&seed) * 12 : NAN;
    x[1036] = 11.9f;
    x[5] = 12.5f;
    double sum = 0, entropy = 0, second = 0;
    for (int i = 0; i < N; i++) sum += exp((double)x[i]);
    for (int i = 0; i < N; i++) {
        double p = exp((double)x[i]) / sum;
        entropy -= p * log(p);
        second += p * log(p) * log(p);
    }
    for (int i = 0; (k = set_at(i)) != NULL; i++) {
        struct logit_stats st;
        k->stats(x, N, &st);
        assert_int_equal(st.best, 5);
        assert_true(fabs((double)st.logsum - log(sum)) < 1e-5);
        assert_true(fabs((double)st.entropy - entropy) < 1e-5);
        assert_true(fabs((double)st.varentropy - (second - entropy * entropy)) < 1e-4);
        double runner = -INFINITY;
        for (int j = 0; j < N; j++)
            if (j != 5) runner = fmax(runner, (double)x[j]);
        assert_true(fabs((double)st.margin - (exp(12.5) - exp(runner)) / sum) < 1e-6);
    }
}

static void halves_round_as_the_hardware_does(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        if ((h & 0x7c00) == 0x7c00 && (h & 0x3ff)) continue; /* NaN */
        assert_int_equal(half_from_float(half_to_float((uint16_t)h)), h);
    }
    assert_int_equal(half_from_float(1.0f + 0x1p-11f), 0x3c00); /* a tie goes to even */
    assert_int_equal(half_from_float(1.0f + 0x3p-11f), 0x3c02);
    assert_int_equal(half_from_float(65520.0f), 0x7c00);
    assert_int_equal(half_from_float(65519.0f), 0x7bff);
    assert_int_equal(half_from_float(-0x1p-25f), 0x8000);
    assert_int_equal(half_from_float(0x3p-25f), 0x0002);
}

#ifdef KERNELS_WANTED /* a cross build says which set its machine must have: else the tests above would compare nothing */
static void the_wanted_set_is_the_best_here(void **state)
{
    (void)state;
    assert_string_equal(set_at(0)->name, KERNELS_WANTED);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
#ifdef KERNELS_WANTED
        cmocka_unit_test(the_wanted_set_is_the_best_here),
#endif
        cmocka_unit_test(products_equal_a_double_precision_reference),
        cmocka_unit_test(every_set_and_every_batch_gives_the_same_bits),
        cmocka_unit_test(a_wide_batch_gives_each_column_its_bits),
        cmocka_unit_test(a_panel_at_once_is_its_rows_one_by_one),
        cmocka_unit_test(attention_equals_a_double_precision_reference),
        cmocka_unit_test(elementwise_kernels_equal_libm),
        cmocka_unit_test(the_distribution_is_measured),
        cmocka_unit_test(halves_round_as_the_hardware_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
