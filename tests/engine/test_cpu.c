/* The CPU backend below the scheduler: work shared out, weights packed late. */
#include "engine/cpu/cpu.h"

#include "tiny_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { THREADS = 4, TOTAL = 1000, PHASES = 40, COLS = 40, PAGES = 2 };

/* ---- shares ---- */

struct counting {
    struct pool *pool;
    _Atomic int taken[PHASES][TOTAL];
    int slow; /* this member starts late, so that the others take its part */
};

static void count_job(void *ctx, int member)
{
    struct counting *c = ctx;
    for (int phase = 0; phase < PHASES; phase++) {
        int total = TOTAL - phase * 25, first, end;
        if (member == c->slow)
            while (atomic_load(&c->taken[phase][0]) == 0 && member != 0) continue;
        while (pool_share(c->pool, member, total, 1 + phase % 5, &first, &end)) {
            assert(first >= 0 && first < end && end <= total);
            for (int i = first; i < end; i++) atomic_fetch_add(&c->taken[phase][i], 1);
        }
        pool_barrier(c->pool);
    }
}

static void every_share_is_given_once(void **state)
{
    (void)state;
    for (int threads = 1; threads <= THREADS; threads++) {
        struct counting *c = calloc(1, sizeof *c);
        struct err e;
        c->slow = threads - 1;
        assert_int_equal(pool_open(&c->pool, threads, false, &e), ERR_OK);
        pool_run(c->pool, threads, count_job, c);
        for (int phase = 0; phase < PHASES; phase++)
            for (int i = 0; i < TOTAL; i++) assert_int_equal(c->taken[phase][i], i < TOTAL - phase * 25);
        pool_close(c->pool);
        free(c);
    }
}

/* ---- weights packed late ---- */

struct tiny {
    void *file;
    struct model *model;
    struct backend *backend;
};

static void tiny_open(struct tiny *t, enum gguf_type type, const char *kernels, bool later)
{
    struct gguf *gguf;
    struct err e = {0};
    size_t len;
    struct gguf_builder g = {0};
    tiny_model_build(&g, type, 5);
    t->file = gguf_builder_finish(&g, &len);
    assert_int_equal(gguf_open_memory(&gguf, t->file, len, &e), ERR_OK);
    assert_int_equal(model_open(&t->model, gguf, 64, &e), ERR_OK);
    const struct backend_options o = {.kernels = kernels, .threads = 2, .later = later, .pages = PAGES, .cols_max = COLS, .wanted_max = COLS};
    assert_int_equal(cpu_open(&t->backend, t->model, &o, &e), ERR_OK);
}

static void tiny_close(struct tiny *t)
{
    t->backend->close(t->backend);
    model_close(t->model);
    free(t->file);
}

/* One step over `cols` tokens; the logits of all of them are copied. */
static float *logits_of(struct tiny *t, int cols)
{
    static const int32_t pages[PAGES] = {0, 1};
    int32_t tokens[COLS], want[COLS];
    struct batch_out out;
    size_t n = (size_t)t->model->vocabulary;
    for (int i = 0; i < cols; i++) tokens[i] = i * 7 % 256, want[i] = i;
    struct batch_run run = {.count = cols, .pages = pages};
    struct batch b = {.cols = cols, .runs = 1, .wanted = cols, .tokens = tokens, .run = &run, .want = want};
    assert_int_equal(t->backend->forward(t->backend, &b, &out, NULL), ERR_OK);
    float *copy = malloc((size_t)cols * n * sizeof *copy);
    for (int i = 0; i < cols; i++) memcpy(copy + (size_t)i * n, out.logits + (size_t)i * out.logits_stride, n * sizeof *copy);
    return copy;
}

static void assert_same(struct tiny *a, struct tiny *b, int cols)
{
    float *x = logits_of(a, cols), *y = logits_of(b, cols);
    assert_memory_equal(x, y, (size_t)cols * (size_t)a->model->vocabulary * sizeof *x);
    free(x);
    free(y);
}

static void the_first_step_from_the_file_gives_the_bits_of_packed_weights(void **state)
{
    (void)state;
    static const enum gguf_type TYPES[] = {GGUF_Q8_0, GGUF_Q4_0, GGUF_Q4_1, GGUF_Q5_0, GGUF_Q5_1, GGUF_IQ4_NL,
                                           GGUF_Q2_K, GGUF_Q3_K, GGUF_Q4_K, GGUF_Q5_K, GGUF_Q6_K,   GGUF_F16};
    static const int STEPS[] = {1, 15, COLS};
    const struct kernels *k;
    for (int set = 0; (k = kernels_at(set)) != NULL; set++)
        for (size_t i = 0; i < sizeof TYPES / sizeof TYPES[0]; i++)
            for (size_t j = 0; j < sizeof STEPS / sizeof STEPS[0]; j++) {
                struct tiny now, late;
                tiny_open(&now, TYPES[i], k->name, false);
                tiny_open(&late, TYPES[i], k->name, true);
                assert_false(now.backend->settle(now.backend));
                assert_int_equal(((struct cpu *)late.backend)->later_count > 0, pack_quick(TYPES[i]));
                assert_same(&now, &late, STEPS[j]); /* from the file */
                assert_int_equal(((struct cpu *)late.backend)->later_count > 0, pack_quick(TYPES[i]));
                assert_same(&now, &late, STEPS[j]); /* packed by the second step */
                assert_int_equal(((struct cpu *)late.backend)->later_count, 0);
                assert_false(late.backend->settle(late.backend));
                tiny_close(&late);
                tiny_close(&now);
            }
}

/* The rows of the last panel do not fill it, and its memory has been used before. */
static void a_panel_for_one_use_is_the_packed_one(void **state)
{
    (void)state;
    enum { ROWS = 21, K = 512 };
    static const enum gguf_type TYPES[] = {GGUF_Q8_0, GGUF_Q4_0, GGUF_Q4_1, GGUF_Q5_0, GGUF_Q5_1, GGUF_IQ4_NL,
                                           GGUF_Q2_K, GGUF_Q3_K, GGUF_Q4_K, GGUF_Q5_K, GGUF_Q6_K};
    const struct kernels *k;
    for (int set = 0; (k = kernels_at(set)) != NULL; set++)
        for (size_t i = 0; i < sizeof TYPES / sizeof TYPES[0]; i++) {
            struct packed w;
            uint64_t seed = 9;
            size_t bytes = pack_row_bytes(TYPES[i], K);
            unsigned char *raw = malloc(bytes * ROWS), *scratch = malloc(packed_scratch(K));
            tiny_fill(TYPES[i], raw, bytes * ROWS, 1, &seed);
            assert_int_equal(packed_init(&w, TYPES[i], ROWS, K, NULL), ERR_OK);
            for (int r = 0; r < ROWS; r++) packed_set_row(&w, r, raw + (size_t)r * bytes, scratch);
            const struct gguf_tensor t = {.type = TYPES[i], .dims = 2, .shape = {K, ROWS, 1, 1}, .data = raw};
            const struct packing p = {.to = &w, .from = &t};
            size_t room = (w.panel_bytes + packed_scratch(K) + 63) & ~(size_t)63;
            uint8_t *to = aligned_alloc(64, room);
            memset(to, 0, room); /* what no column needs is never written */
            for (int panel = 0; panel < w.panels; panel++) {
                packing_panel(k, &p, panel, to);
                assert_memory_equal(to, packed_panel(&w, panel), w.panel_bytes);
            }
            packed_release(&w);
            free(to);
            free(scratch);
            free(raw);
        }
}

static void an_idle_backend_packs_before_the_first_step(void **state)
{
    (void)state;
    struct tiny now, late;
    tiny_open(&now, GGUF_Q8_0, NULL, false);
    tiny_open(&late, GGUF_Q8_0, NULL, true);
    while (late.backend->settle(late.backend)) continue;
    assert_int_equal(((struct cpu *)late.backend)->later_count, 0);
    assert_same(&now, &late, 15);
    tiny_close(&late);
    tiny_close(&now);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_share_is_given_once),
        cmocka_unit_test(the_first_step_from_the_file_gives_the_bits_of_packed_weights),
        cmocka_unit_test(a_panel_for_one_use_is_the_packed_one),
        cmocka_unit_test(an_idle_backend_packs_before_the_first_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
