#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/cpu/pack.h"
#include "engine/gguf_own.h"
#include "engine/gguf_write.h"
#include "engine/model_quantize.h"
#include "tests/engine/gguf_builder.h"

#include <math.h>
#include <unistd.h>

enum { K = 256, ROWS = 16, W4_BYTES = 66 * K / 128 * ROWS };

/* ---- E4M3 ---- */

static void every_e4m3_number_comes_back(void **state)
{
    (void)state;
    assert_true(fp8_to_float(0x01) == 0x1p-9f && fp8_to_float(0x08) == 0x1p-6f && fp8_to_float(0x38) == 1);
    assert_true(fp8_to_float(0x7e) == 448 && fp8_to_float(0xfe) == -448 && isnan(fp8_to_float(0x7f)) && isnan(fp8_to_float(0xff)));
    for (int v = 0; v < 256; v++)
        if ((v & 0x7f) != 0x7f) assert_int_equal(fp8_from_float(fp8_to_float((uint8_t)v)), v);
    assert_int_equal(fp8_from_float(NAN) & 0x7f, 0x7f);
    assert_int_equal(fp8_from_float(INFINITY), 0x7e);
    assert_int_equal(fp8_from_float(-1e9f), 0xfe);
}

static void floats_round_to_the_nearest_e4m3(void **state)
{
    (void)state;
    for (int v = 0; v < 0x7e; v++) {
        float low = fp8_to_float((uint8_t)v), high = fp8_to_float((uint8_t)(v + 1)), middle = (low + high) / 2;
        assert_int_equal(fp8_from_float(nextafterf(middle, 0)), v);
        assert_int_equal(fp8_from_float(nextafterf(middle, 500)), v + 1);
        assert_int_equal(fp8_from_float(middle), v % 2 ? v + 1 : v); /* a tie: to the even one */
        assert_int_equal(fp8_from_float(-nextafterf(middle, 500)), 0x80 | (v + 1));
    }
}

/* ---- W4A16's layout, word by word as the format's page has it ---- */

static void nibbles_stand_where_the_format_says(void **state)
{
    (void)state;
    static const int AT[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    static uint8_t data[W4_BYTES];
    for (int row = 0; row < ROWS; row++) {
        int8_t q[K];
        uint16_t scales[K / 128];
        for (int i = 0; i < K; i++) q[i] = (int8_t)((row * 7 + i * 5 + i / 13) % 16 - 8);
        for (int g = 0; g < K / 128; g++) scales[g] = (uint16_t)(row * 100 + g);
        w4a16_put_row(data, row, K, q, scales);
    }
    for (int row = 0; row < ROWS; row++)
        for (int i = 0; i < K; i++) {
            const uint8_t *granule = data + (row / 8 * (K / 128) + i / 128) * 528;
            int lane = row % 8 * 4 + i % 32 / 8, word = i % 128 / 32, e = i % 8;
            uint32_t bits;
            uint16_t scale;
            memcpy(&bits, granule + lane * 16 + word * 4, 4);
            memcpy(&scale, granule + 512 + row % 8 * 2, 2);
            assert_int_equal((bits >> 4 * AT[e] & 15), (row * 7 + i * 5 + i / 13) % 16);
            assert_int_equal(scale, row * 100 + i / 128);
        }
    int8_t back[K];
    uint16_t scales[K / 128];
    w4a16_get_row(data, 11, K, back, scales);
    for (int i = 0; i < K; i++) assert_int_equal(back[i], (11 * 7 + i * 5 + i / 13) % 16 - 8);
    assert_int_equal(scales[1], 1101);
}

/* ---- rounding ---- */

static double error_of(enum gguf_type type)
{
    static float x[K], y[K];
    static uint8_t raw[W4_BYTES], scratch[K * 4 + 256];
    float scale;
    uint32_t seed = 7;
    for (int i = 0; i < K; i++) {
        x[i] = 0;
        for (int j = 0; j < 6; j++) x[i] += (float)((seed = seed * 1664525u + 1013904223u) >> 8) / 8388608.0f - 1;
    }
    struct gguf_tensor t = {.type = type, .dims = 2, .shape = {K, 8, 1, 1}, .data = raw, .scale = &scale};
    if (type == GGUF_FP8) {
        scale = quantize_row_fp8(x, K, raw);
    } else {
        int8_t q[K];
        uint16_t scales[K / 128];
        quantize_row_w4a16(x, K, q, scales);
        w4a16_put_row(raw, 0, K, q, scales);
    }
    pack_tensor_row(&t, 0, y, scratch);
    double error = 0, size = 0;
    for (int i = 0; i < K; i++) {
        error += (double)(x[i] - y[i]) * (double)(x[i] - y[i]);
        size += (double)x[i] * (double)x[i];
    }
    return sqrt(error / size);
}

static void rows_come_back_within_the_types_error(void **state)
{
    (void)state;
    assert_true(error_of(GGUF_FP8) < 0.03 && error_of(GGUF_FP8) > 0.001);
    assert_true(error_of(GGUF_W4A16) < 0.12 && error_of(GGUF_W4A16) > 0.01);
}

static void rows_of_zeros_stay_zeros(void **state)
{
    (void)state;
    static const float zeros[128];
    uint8_t raw[128];
    int8_t q[128];
    uint16_t scale;
    assert_true(quantize_row_fp8(zeros, 128, raw) == 0);
    quantize_row_w4a16(zeros, 128, q, &scale);
    for (int i = 0; i < 128; i++) assert_true(raw[i] == 0 && q[i] == 0);
    assert_int_equal(scale, 0);
}

/* ---- files ---- */

static void a_file_says_what_its_tensors_are(void **state)
{
    (void)state;
    char path[] = "/tmp/rung-test-own-XXXXXX";
    static uint8_t bytes[K * ROWS], w4[W4_BYTES];
    float scales[ROWS];
    struct gguf_writer *w;
    struct gguf *g;
    struct err e = {0};
    assert_true(close(mkstemp(path)) == 0);
    for (int i = 0; i < ROWS; i++) scales[i] = (float)i;
    memset(bytes, 0x38, sizeof bytes);
    assert_int_equal(gguf_writer_open(&w, path, &e), ERR_OK);
    assert_int_equal(gguf_write_tensor(w, "a", GGUF_W4A16, 2, (int64_t[]){K, ROWS - 1}, &e), ERR_INVALID);
    assert_int_equal(gguf_write_tensor(w, "a", GGUF_W4A16, 2, (int64_t[]){K - 1, ROWS}, &e), ERR_INVALID);
    assert_int_equal(gguf_write_tensor(w, "a", GGUF_FP8, 1, (int64_t[]){K}, &e), ERR_INVALID);
    assert_int_equal(gguf_write_tensor(w, "f", GGUF_FP8, 3, (int64_t[]){K, ROWS / 2, 2}, &e), ERR_OK);
    assert_int_equal(gguf_write_tensor(w, "w", GGUF_W4A16, 2, (int64_t[]){K, ROWS}, &e), ERR_OK);
    assert_int_equal(gguf_writer_begin(w, &e), ERR_OK);
    assert_int_equal(gguf_write_data(w, bytes, sizeof bytes, &e), ERR_OK);
    assert_int_equal(gguf_write_data(w, scales, sizeof scales, &e), ERR_OK);
    assert_int_equal(gguf_write_data(w, w4, sizeof w4, &e), ERR_OK);
    assert_int_equal(gguf_writer_finish(w, &e), ERR_OK);
    gguf_writer_close(w);
    if (gguf_open(&g, path, &e)) fail_msg("%s", e.msg);
    const struct gguf_tensor *f = gguf_tensor_find(g, "f"), *q = gguf_tensor_find(g, "w");
    assert_true(f->type == GGUF_FP8 && f->shape[0] == K && f->shape[1] == ROWS / 2 && f->shape[2] == 2 && f->bytes == K * ROWS);
    assert_true(f->scale[ROWS - 1] == ROWS - 1 && gguf_tensor_find(g, "f.scale")->is_scale);
    assert_true(q->type == GGUF_W4A16 && q->shape[0] == K && q->shape[1] == ROWS && q->bytes == W4_BYTES);
    gguf_close(g);
    (void)unlink(path);
}

/* A file of an FP8 tensor "f" and a W4A16 tensor "w", each part as asked for. */
struct lie {
    const char *fp8[3], *w4[2];
    uint32_t version, f_type, scale_type;
    int64_t scale_rows, w_shape[2];
    const char *words;
    enum err_code code;
};

static void open_lie(const struct lie *l)
{
    static const uint8_t zeros[1 << 14];
    struct gguf_builder b = {0};
    struct gguf *g = NULL;
    struct err e = {0};
    size_t len, fp8 = 0, w4 = 0;
    while (fp8 < 3 && l->fp8[fp8]) fp8++;
    while (w4 < 2 && l->w4[w4]) w4++;
    gguf_builder_u32(&b, GGUF_OWN_VERSION_KEY, l->version);
    gguf_builder_strings(&b, "rung.weights.fp8", l->fp8, fp8);
    gguf_builder_strings(&b, "rung.weights.w4a16", l->w4, w4);
    gguf_builder_tensor(&b, "f", l->f_type, 2, (int64_t[]){32, 16}, zeros, 2048);
    if (l->scale_rows) gguf_builder_tensor(&b, "f.scale", l->scale_type, 1, &l->scale_rows, zeros, 4096);
    gguf_builder_tensor(&b, "w", GGUF_I8, 2, l->w_shape, zeros, 4096);
    gguf_builder_tensor(&b, "v", GGUF_I8, 1, (int64_t[]){66}, zeros, 66);
    unsigned char *data = gguf_builder_finish(&b, &len);
    assert_int_equal(gguf_open_memory(&g, data, len, &e), l->code);
    assert_null(strchr(e.msg, '\n'));
    if (l->code && !strstr(e.msg, l->words)) fail_msg("'%s' does not say '%s'", e.msg, l->words);
    gguf_close(g);
    free(data);
}

static void lies_about_our_types_are_named(void **state)
{
    (void)state;
    const struct lie honest = {{"f"}, {"w"}, 1, GGUF_I8, GGUF_F32, 16, {66, 8}, "", ERR_OK};
    struct lie l[] = {honest, honest, honest, honest, honest, honest, honest, honest, honest, honest, honest, honest, honest, honest, honest};
    int n = 1;
    l[n].version = 2, l[n].words = "version 2", l[n++].code = ERR_UNSUPPORTED;
    l[n].fp8[0] = "nobody", l[n].words = "which is not there", l[n++].code = ERR_CORRUPT;
    l[n].fp8[0] = "no\nbody", l[n].words = "no?body", l[n++].code = ERR_CORRUPT;
    l[n].fp8[1] = "f", l[n].words = "named twice", l[n++].code = ERR_CORRUPT;
    l[n].w4[1] = "f", l[n].words = "named twice", l[n++].code = ERR_CORRUPT;
    l[n].fp8[1] = "f.scale", l[n].words = "no I8 matrix", l[n++].code = ERR_CORRUPT;
    l[n].fp8[1] = "v", l[n].words = "no I8 matrix", l[n++].code = ERR_CORRUPT;
    l[n].f_type = GGUF_F32, l[n].words = "no I8 matrix", l[n++].code = ERR_CORRUPT;
    l[n].scale_rows = 0, l[n].words = "no tensor of scales", l[n++].code = ERR_CORRUPT;
    l[n].scale_rows = 15, l[n].words = "one F32 for each row", l[n++].code = ERR_CORRUPT;
    l[n].scale_type = GGUF_F16, l[n].words = "one F32 for each row", l[n++].code = ERR_CORRUPT;
    l[n].w_shape[0] = 65, l[n].words = "groups of 128", l[n++].code = ERR_CORRUPT;
    l[n].w_shape[1] = 9, l[n].words = "groups of 128", l[n++].code = ERR_CORRUPT;
    l[n].f_type = GGUF_FP8, l[n].words = "does not know", l[n++].code = ERR_UNSUPPORTED;
    assert_int_equal(n, sizeof l / sizeof l[0]);
    for (int i = 0; i < n; i++) open_lie(&l[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_e4m3_number_comes_back),
        cmocka_unit_test(floats_round_to_the_nearest_e4m3),
        cmocka_unit_test(nibbles_stand_where_the_format_says),
        cmocka_unit_test(rows_come_back_within_the_types_error),
        cmocka_unit_test(rows_of_zeros_stay_zeros),
        cmocka_unit_test(a_file_says_what_its_tensors_are),
        cmocka_unit_test(lies_about_our_types_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
