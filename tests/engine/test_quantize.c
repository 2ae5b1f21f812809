#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/model_quantize.h"
#include "tests/engine/tiny_model.h"

#include <unistd.h>

/* Root mean square error over root mean square, of normally spread weights; the blocks' bits allow little less. */
static const struct {
    enum gguf_type type;
    double bound;
} BOUNDS[] = {{GGUF_F32, 0},        {GGUF_F16, 0.0004},    {GGUF_BF16, 0.003},   {GGUF_Q8_0, 0.007},  {GGUF_Q4_0, 0.10}, {GGUF_Q4_1, 0.09},
              {GGUF_Q5_0, 0.05},    {GGUF_Q5_1, 0.045},    {GGUF_IQ4_NL, 0.09},  {GGUF_Q2_K, 0.36},   {GGUF_Q3_K, 0.19}, {GGUF_Q4_K, 0.09},
              {GGUF_Q5_K, 0.045},   {GGUF_Q6_K, 0.025}};
enum { K = 4096 };

static void weights(float *x)
{
    uint64_t seed = 4;
    for (int i = 0; i < K; i++) {
        float sum = 0;
        for (int j = 0; j < 6; j++) sum += tiny_uniform(&seed);
        x[i] = sum * 0.02f;
    }
    memset(x + 512, 0, 64 * sizeof *x); /* some blocks of zeros */
}

static void rows_come_back_within_the_types_error(void **state)
{
    (void)state;
    static float x[K], y[K];
    static uint8_t raw[K * 4 + 1], scratch[K * 3];
    weights(x);
    for (size_t t = 0; t < sizeof BOUNDS / sizeof BOUNDS[0]; t++) {
        double error = 0, size = 0;
        memset(raw, 0xee, sizeof raw);
        quantize_row(BOUNDS[t].type, x, K, raw);
        pack_dequantize(BOUNDS[t].type, raw, K, y, scratch);
        for (int i = 0; i < K; i++) {
            error += (double)(x[i] - y[i]) * (double)(x[i] - y[i]);
            size += (double)x[i] * (double)x[i];
        }
        error = sqrt(error / size);
        if (!(error <= BOUNDS[t].bound)) fail_msg("%s: %.4f", gguf_type_info((uint32_t)BOUNDS[t].type)->name, error);
        assert_int_equal(raw[pack_row_bytes(BOUNDS[t].type, K)], 0xee); /* nothing past the row */
    }
}

static void what_is_quantized_already_does_not_change(void **state)
{
    (void)state;
    static float x[K], y[K], z[K];
    static uint8_t raw[K * 4], scratch[K * 3];
    weights(x);
    static const enum gguf_type EXACT[] = {GGUF_F16, GGUF_BF16, GGUF_Q8_0};
    for (size_t t = 0; t < sizeof EXACT / sizeof EXACT[0]; t++) {
        quantize_row(EXACT[t], x, K, raw);
        pack_dequantize(EXACT[t], raw, K, y, scratch);
        quantize_row(EXACT[t], y, K, raw);
        pack_dequantize(EXACT[t], raw, K, z, scratch);
        for (int i = 0; i < K; i++) assert_true(fabsf(y[i] - z[i]) <= fabsf(y[i]) * 1e-3f);
    }
}

static void a_file_keeps_its_keys_and_its_norms(void **state)
{
    (void)state;
    char in[] = "/tmp/rung-test-in-XXXXXX", out[] = "/tmp/rung-test-out-XXXXXX";
    struct gguf_builder b = {0};
    struct quantize_mix mix;
    struct gguf *g;
    struct err e = {0};
    assert_true(close(mkstemp(in)) == 0 && close(mkstemp(out)) == 0);
    tiny_model_build(&b, GGUF_F32, 5);
    gguf_builder_write(&b, in);
    assert_false(quantize_mix_find("Q9_K", &mix));
    assert_true(quantize_mix_find("Q4_K_M", &mix));
    if (quantize_file(in, out, &mix, NULL, NULL, &e)) fail_msg("%s", e.msg);
    if (gguf_open(&g, out, &e)) fail_msg("%s", e.msg);
    assert_int_equal(gguf_int(g, "general.file_type", 0), 15);
    assert_int_equal(gguf_int(g, "llama.block_count", 0), TINY_LAYERS);
    assert_int_equal(gguf_tensor_find(g, "blk.0.attn_norm.weight")->type, GGUF_F32);
    assert_int_equal(gguf_tensor_find(g, "blk.0.attn_q.weight")->type, GGUF_Q4_K);
    assert_int_equal(gguf_tensor_find(g, "blk.1.attn_v.weight")->type, GGUF_Q6_K);
    assert_int_equal(gguf_tensor_find(g, "output.weight")->type, GGUF_Q6_K);
    gguf_close(g);
    (void)unlink(in);
    (void)unlink(out);
}

static struct gguf *quantized(const char *in, const char *out, const char *type)
{
    struct quantize_mix mix;
    struct gguf *g = NULL;
    struct err e = {0};
    assert_true(quantize_mix_find(type, &mix));
    if (quantize_file(in, out, &mix, NULL, NULL, &e)) fail_msg("%s: %s", type, e.msg);
    if (gguf_open(&g, out, &e)) fail_msg("%s: %s", type, e.msg);
    return g;
}

static void expect_types(const struct gguf *g, enum gguf_type layers, enum gguf_type output)
{
    assert_int_equal(gguf_tensor_find(g, "blk.0.attn_q.weight")->type, layers);
    assert_int_equal(gguf_tensor_find(g, "blk.1.ffn_down.weight")->type, layers);
    assert_int_equal(gguf_tensor_find(g, "blk.1.attn_norm.weight")->type, GGUF_F32);
    assert_int_equal(gguf_tensor_find(g, "output.weight")->type, output);
    assert_int_equal(gguf_tensor_find(g, "token_embd.weight")->type, GGUF_F16);
    assert_int_equal(gguf_int(g, "general.file_type", -1), layers == GGUF_F16 ? 1 : -1);
}

/* F32 → FP8 → FP8 → W4A16 → F16: types and keys follow, and what is FP8 already stays as it is to the byte. */
static void types_of_ours_go_there_and_back(void **state)
{
    (void)state;
    char path[3][32] = {"/tmp/rung-test-a-XXXXXX", "/tmp/rung-test-b-XXXXXX", "/tmp/rung-test-c-XXXXXX"};
    struct gguf_builder b = {0};
    for (int i = 0; i < 3; i++) assert_true(close(mkstemp(path[i])) == 0);
    tiny_model_build(&b, GGUF_F32, 5);
    gguf_builder_write(&b, path[0]);
    struct gguf *first = quantized(path[0], path[1], "fp8"), *second = quantized(path[1], path[2], "FP8");
    expect_types(first, GGUF_FP8, GGUF_FP8);
    expect_types(second, GGUF_FP8, GGUF_FP8);
    const struct gguf_tensor *x = gguf_tensor_find(first, "blk.1.ffn_up.weight"), *y = gguf_tensor_find(second, "blk.1.ffn_up.weight");
    assert_memory_equal(x->data, y->data, (size_t)x->bytes);
    assert_memory_equal(x->scale, y->scale, (size_t)x->shape[1] * sizeof *x->scale);
    assert_int_equal(gguf_tensor_count(first), gguf_tensor_count(second));
    gguf_close(second);
    second = quantized(path[1], path[2], "w4a16");
    expect_types(second, GGUF_W4A16, GGUF_F16);
    assert_null(gguf_tensor_find(second, "blk.1.ffn_up.weight.scale"));
    assert_int_equal(gguf_array_strings(second, "rung.weights.fp8", NULL, 0), -1);
    gguf_close(first);
    first = quantized(path[2], path[1], "F16");
    expect_types(first, GGUF_F16, GGUF_F16);
    assert_int_equal(gguf_int(first, "rung.weights.version", -1), -1);
    gguf_close(first);
    gguf_close(second);
    for (int i = 0; i < 3; i++) (void)unlink(path[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_come_back_within_the_types_error),
        cmocka_unit_test(what_is_quantized_already_does_not_change),
        cmocka_unit_test(a_file_keeps_its_keys_and_its_norms),
        cmocka_unit_test(types_of_ours_go_there_and_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
