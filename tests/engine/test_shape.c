/* Models of a shape alone: what a GPU fills needs no memory here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/model_probe.h"
#include "engine/model_shape.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int64_t resident_bytes(void)
{
    long long size, resident = -1;
    FILE *f = fopen("/proc/self/statm", "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%lld %lld", &size, &resident), 2);
    (void)fclose(f);
    return resident * sysconf(_SC_PAGESIZE);
}

static void a_shape_for_a_gpu_needs_next_to_no_memory(void **state)
{
    (void)state;
    struct shaped s;
    struct model *m = NULL;
    struct err e = {0};
    int64_t before = resident_bytes();
    if (shaped_open(&s, "deepseek-67b", "BF16", true, &e)) fail_msg("%s", e.msg);
    assert_true(s.bytes > (size_t)134e9);
    assert_true(resident_bytes() - before < 64 << 20);
    int matrices = 0;
    for (int i = 0; i < gguf_tensor_count(s.gguf); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(s.gguf, i);
        if (t->dims == 1) assert_true(*(const float *)t->data == 1.0f); /* norms are real */
        else assert_null(t->data);
        matrices += t->dims > 1;
    }
    assert_int_equal(matrices, 95 * 7 + 2);
    if (model_open(&m, s.gguf, 4096, &e)) fail_msg("%s", e.msg);
    assert_true(m->random != 0);
    assert_true(m->parameters > 67300000000 && m->parameters < 67500000000);
    /* No CPU takes it. */
    struct backend *backend;
    const struct backend_options o = {.pages = 1, .cols_max = 1, .wanted_max = 1};
    assert_int_equal(cpu_open(&backend, m, &o, &e), ERR_UNSUPPORTED);
    assert_non_null(strstr(e.msg, "only a GPU"));
    model_close(m);
    shaped_release(&s);
}

static void a_shape_too_large_for_this_machine_is_refused_before_it_is_filled(void **state)
{
    (void)state;
    struct shaped s;
    struct err e = {0};
    if ((double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) > 280e9) skip();
    assert_int_equal(shaped_open(&s, "llama3.1-70b", "BF16", false, &e), ERR_MEMORY);
    assert_non_null(strstr(e.msg, "282 GB"));
    assert_int_equal(shaped_open(&s, "llama3.1-71b", "BF16", false, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.msg, "qwen2.5-14b"));
    assert_int_equal(shaped_open(&s, "llama3.1-70b", "BF17", true, &e), ERR_NOT_FOUND);
}

static void a_small_shape_computes(void **state)
{
    (void)state;
    struct shaped s;
    struct probe p;
    struct batch_out out;
    struct err e = {0};
    const struct probe_options o = {.kernels = "cpu", .threads = 1, .context = 64, .cols_max = 8};
    if (shaped_open(&s, "smollm2-135m", "Q4_0", false, &e)) fail_msg("%s", e.msg);
    if (probe_open_gguf(&p, s.gguf, &o, &e)) fail_msg("%s", e.msg);
    assert_int_equal(p.model->random, 0);
    const int32_t tokens[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    assert_int_equal(probe_step(&p, tokens, 8, 0, true, &out, &e), ERR_OK);
    double sum = 0;
    for (int i = 0; i < 8; i++)
        for (int v = 0; v < p.model->vocabulary; v++) sum += fabs((double)out.logits[(size_t)i * out.logits_stride + (size_t)v]);
    assert_true(isfinite(sum) && sum > 0);
    /* K and V of 30 layers × 3 heads × 64 elements in F16, 10 positions. */
    assert_int_equal(probe_kv_bytes(&p, 9), 30 * 2 * 3 * 64 * 2 * 10);
    assert_int_equal(probe_decode(&p, tokens, 2, 31, &out, &e), ERR_OK);
    assert_int_equal(probe_decode(&p, tokens, 2, 32, &out, &e), ERR_INVALID);
    assert_int_equal(probe_step(&p, tokens, 9, 0, false, &out, &e), ERR_INVALID);
    probe_close(&p);
    shaped_release(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_shape_for_a_gpu_needs_next_to_no_memory),
        cmocka_unit_test(a_shape_too_large_for_this_machine_is_refused_before_it_is_filled),
        cmocka_unit_test(a_small_shape_computes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
