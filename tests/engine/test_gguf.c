#include "tests/engine/gguf_builder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>
#include <cmocka.h>

static unsigned char *small_file(size_t *len)
{
    struct gguf_builder b = {0};
    static const char *const words[] = {"one", "", "three"};
    static const int32_t ints[] = {1, -2, 3};
    static const float floats[] = {0.5F, -1.0F};
    static const float weights[64] = {[0] = 1.0F, [63] = 2.0F};
    static const unsigned char blocks[2 * 34] = {7};
    gguf_builder_str(&b, "general.architecture", "llama");
    gguf_builder_u32(&b, "llama.block_count", 2);
    gguf_builder_f32(&b, "llama.rope.freq_base", 10000.0F);
    gguf_builder_bool(&b, "flag", true);
    gguf_builder_strings(&b, "words", words, 3);
    gguf_builder_ints(&b, "ints", ints, 3);
    gguf_builder_floats(&b, "floats", floats, 2);
    gguf_builder_tensor(&b, "b.weight", GGUF_F32, 2, (int64_t[]){16, 4}, weights, sizeof weights);
    gguf_builder_tensor(&b, "a.weight", GGUF_Q8_0, 2, (int64_t[]){32, 2}, blocks, sizeof blocks);
    return gguf_builder_finish(&b, len);
}

static void expect_error(const void *data, size_t len, enum err_code code, const char *words)
{
    struct gguf *g = NULL;
    struct err e = {0};
    assert_int_equal(gguf_open_memory(&g, data, len, &e), code);
    assert_null(g);
    assert_int_equal(e.code, code);
    if (!strstr(e.msg, words)) fail_msg("'%s' does not say '%s'", e.msg, words);
    assert_null(strchr(e.msg, '\n'));
}

static void what_was_written_is_read(void **state)
{
    (void)state;
    size_t len;
    unsigned char *data = small_file(&len);
    struct gguf *g;
    assert_int_equal(gguf_open_memory(&g, data, len, NULL), ERR_OK);
    assert_int_equal(gguf_int(g, "llama.block_count", -1), 2);
    assert_int_equal(gguf_int(g, "missing", -1), -1);
    assert_int_equal(gguf_int(g, "flag", -1), -1);
    assert_true(gguf_float(g, "llama.rope.freq_base", 0) == 10000.0);
    assert_int_equal(gguf_bool(g, "flag", 0), 1);
    struct gguf_string arch = gguf_str(g, "general.architecture");
    assert_int_equal(arch.len, 5);
    assert_memory_equal(arch.data, "llama", 5);
    assert_null(gguf_str(g, "flag").data);
    struct gguf_string words[3];
    assert_int_equal(gguf_array_strings(g, "words", words, 3), 3);
    assert_int_equal(words[1].len, 0);
    assert_memory_equal(words[2].data, "three", 5);
    int64_t ints[2];
    assert_int_equal(gguf_array_ints(g, "ints", ints, 2), 3);
    assert_int_equal(ints[1], -2);
    float floats[2];
    assert_int_equal(gguf_array_floats(g, "floats", floats, 2), 2);
    assert_true(floats[1] == -1.0F);
    assert_int_equal(gguf_array_floats(g, "ints", floats, 2), -1);
    assert_int_equal(gguf_array_ints(g, "words", ints, 2), -1);
    assert_int_equal(gguf_file_bytes(g), len);
    struct gguf_key key;
    assert_true(gguf_key_at(g, 0, &key));
    assert_int_equal(key.kind, 7);
    assert_false(gguf_key_at(g, 7, &key));
    gguf_close(g);
    free(data);
}

static void tensors_are_found_by_name_and_place(void **state)
{
    (void)state;
    size_t len;
    unsigned char *data = small_file(&len);
    struct gguf *g;
    assert_int_equal(gguf_open_memory(&g, data, len, NULL), ERR_OK);
    assert_int_equal(gguf_tensor_count(g), 2);
    assert_null(gguf_tensor_at(g, 2));
    const struct gguf_tensor *t = gguf_tensor_find(g, "a.weight");
    assert_non_null(t);
    assert_ptr_equal(t, gguf_tensor_at(g, 1));
    assert_int_equal(t->type, GGUF_Q8_0);
    assert_int_equal(t->bytes, 68);
    assert_int_equal(*(const unsigned char *)t->data, 7);
    t = gguf_tensor_find(g, "b.weight");
    assert_non_null(t);
    assert_int_equal(t->shape[0], 16);
    assert_int_equal(t->shape[1], 4);
    assert_int_equal(t->shape[3], 1);
    float last;
    memcpy(&last, (const char *)t->data + 63 * 4, 4);
    assert_true(last == 2.0F);
    assert_null(gguf_tensor_find(g, "c.weight"));
    gguf_close(g);
    free(data);
}

static void every_truncation_is_one_clear_error(void **state)
{
    (void)state;
    size_t len;
    unsigned char *data = small_file(&len);
    size_t needed = len - 28; /* the last tensor's padding may be missing */
    for (size_t n = 0; n < needed; n++) {
        struct gguf *g = NULL;
        struct err e = {0};
        unsigned char *cut = malloc(n ? n : 1); /* its own block, so that ASan sees a read past it */
        memcpy(cut, data, n);
        enum err_code code = gguf_open_memory(&g, cut, n, &e);
        if (code != ERR_CORRUPT) fail_msg("%zu of %zu bytes: %s: %s", n, len, err_name(code), e.msg);
        assert_true(strlen(e.msg) > 10);
        free(cut);
    }
    free(data);
}

static void any_changed_byte_is_survived(void **state)
{
    (void)state;
    size_t len;
    unsigned char *data = small_file(&len);
    for (size_t i = 0; i < len; i++) {
        for (int change = 0; change < 4; change++) {
            unsigned char was = data[i];
            data[i] = (unsigned char[]){(unsigned char)(was ^ 0x80), 0, 0xff, (unsigned char)(was + 1)}[change];
            struct gguf *g = NULL;
            if (gguf_open_memory(&g, data, len, NULL) == ERR_OK) {
                struct gguf_string words[8];
                int64_t count = gguf_array_strings(g, "words", words, 8);
                for (int64_t w = 0; w < count && w < 8; w++)
                    assert_true(words[w].len == 0 || (unsigned char *)words[w].data + words[w].len <= data + len);
                for (int t = 0; t < gguf_tensor_count(g); t++) {
                    const struct gguf_tensor *tensor = gguf_tensor_at(g, t);
                    assert_true((const unsigned char *)tensor->data + tensor->bytes <= data + len);
                }
                gguf_close(g);
            }
            data[i] = was;
        }
    }
    free(data);
}

static void lies_are_named(void **state)
{
    (void)state;
    size_t len;
    unsigned char zeros[64] = {0};
    expect_error("GG", 2, ERR_CORRUPT, "not a GGUF file");
    expect_error("PK\3\4aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 36, ERR_CORRUPT, "not a GGUF file");
    expect_error("GGUF\1\0\0\0aaaaaaaaaaaaaaaaaaaaaaaaaaaa", 36, ERR_UNSUPPORTED, "version 1");
    expect_error("GGUF\0\0\0\3aaaaaaaaaaaaaaaaaaaaaaaaaaaa", 36, ERR_UNSUPPORTED, "big-endian");

    struct gguf_builder b = {0};
    gguf_builder_tensor(&b, "t", 999, 1, (int64_t[]){32}, zeros, 32);
    unsigned char *data = gguf_builder_finish(&b, &len);
    expect_error(data, len, ERR_UNSUPPORTED, "element type 999");
    free(data);

    gguf_builder_tensor(&b, "t", GGUF_Q8_0, 1, (int64_t[]){33}, zeros, 34);
    data = gguf_builder_finish(&b, &len);
    expect_error(data, len, ERR_CORRUPT, "block of 32");
    free(data);

    gguf_builder_tensor(&b, "t", GGUF_F32, 2, (int64_t[]){1LL << 40, 1LL << 40}, zeros, 32);
    data = gguf_builder_finish(&b, &len);
    expect_error(data, len, ERR_CORRUPT, "cannot be");
    free(data);

    gguf_builder_tensor(&b, "t", GGUF_F32, 1, (int64_t[]){1000}, zeros, 32);
    data = gguf_builder_finish(&b, &len);
    expect_error(data, len, ERR_CORRUPT, "'t' should lie at");
    free(data);

    gguf_builder_tensor(&b, "same", GGUF_F32, 1, (int64_t[]){8}, zeros, 32);
    gguf_builder_tensor(&b, "same", GGUF_F32, 1, (int64_t[]){8}, zeros, 32);
    data = gguf_builder_finish(&b, &len);
    expect_error(data, len, ERR_CORRUPT, "'same' is there twice");
    free(data);

    gguf_builder_tensor(&b, "x", GGUF_F32, 1, (int64_t[]){16}, zeros, 32); /* says 64 bytes, 32 follow */
    gguf_builder_tensor(&b, "y", GGUF_F32, 1, (int64_t[]){8}, zeros, 32);
    data = gguf_builder_finish(&b, &len);
    expect_error(data, len, ERR_CORRUPT, "overlap");
    free(data);

    gguf_builder_u32(&b, "k", 1);
    gguf_builder_u32(&b, "k", 2);
    data = gguf_builder_finish(&b, &len);
    expect_error(data, len, ERR_CORRUPT, "'k' is there twice");
    free(data);

    gguf_builder_u32(&b, "general.alignment", 24);
    data = gguf_builder_finish(&b, &len);
    expect_error(data, len, ERR_CORRUPT, "power of two");
    free(data);

    gguf_builder_array(&b, "words\x1b[2J", 8, 1ULL << 60);
    data = gguf_builder_finish(&b, &len);
    expect_error(data, len, ERR_CORRUPT, "words?[2J");
    free(data);
}

static void write_part(const char *path, unsigned number, unsigned count, unsigned tensors)
{
    struct gguf_builder b = {0};
    char name[16];
    float weights[8] = {(float)number};
    gguf_builder_u32(&b, "split.no", number);
    gguf_builder_u32(&b, "split.count", count);
    gguf_builder_u32(&b, "split.tensors.count", tensors);
    (void)snprintf(name, sizeof name, "t%u", number);
    gguf_builder_tensor(&b, name, GGUF_F32, 1, (int64_t[]){8}, weights, sizeof weights);
    gguf_builder_write(&b, path);
}

static void split_files_are_opened_together(void **state)
{
    (void)state;
    char folder[] = "/tmp/rung-gguf-XXXXXX", one[128], two[128];
    assert_non_null(mkdtemp(folder));
    (void)snprintf(one, sizeof one, "%s/m-00001-of-00002.gguf", folder);
    (void)snprintf(two, sizeof two, "%s/m-00002-of-00002.gguf", folder);
    struct gguf *g = NULL;
    struct err e = {0};
    write_part(one, 0, 2, 2);
    assert_int_equal(gguf_open(&g, one, &e), ERR_IO); /* the second is missing */
    write_part(two, 1, 2, 2);
    assert_int_equal(gguf_open(&g, one, &e), ERR_OK);
    assert_int_equal(gguf_tensor_count(g), 2);
    float first;
    memcpy(&first, gguf_tensor_find(g, "t1")->data, 4);
    assert_true(first == 1.0F);
    gguf_close(g);
    assert_int_equal(gguf_open(&g, two, &e), ERR_INVALID);
    assert_non_null(strstr(e.msg, "first part"));
    write_part(two, 0, 2, 2);
    assert_int_equal(gguf_open(&g, one, &e), ERR_CORRUPT);
    write_part(one, 0, 2, 3);
    write_part(two, 1, 2, 3);
    assert_int_equal(gguf_open(&g, one, &e), ERR_CORRUPT);
    assert_non_null(strstr(e.msg, "split.tensors.count"));
    (void)unlink(one);
    (void)unlink(two);
    assert_int_equal(gguf_open(&g, one, &e), ERR_IO);
    assert_int_equal(gguf_open(&g, folder, &e), ERR_IO);
    (void)rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_is_read),
        cmocka_unit_test(tensors_are_found_by_name_and_place),
        cmocka_unit_test(every_truncation_is_one_clear_error),
        cmocka_unit_test(any_changed_byte_is_survived),
        cmocka_unit_test(lies_are_named),
        cmocka_unit_test(split_files_are_opened_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
