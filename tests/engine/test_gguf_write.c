#include "engine/gguf_write.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static char folder[] = "/tmp/rung-write-XXXXXX";
static char path[128], part[160];

static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(folder)) return 1;
    (void)snprintf(path, sizeof path, "%s/out.gguf", folder);
    (void)snprintf(part, sizeof part, "%s.part", path);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    (void)unlink(path);
    return rmdir(folder);
}

static void what_is_written_reads_back(void **state)
{
    (void)state;
    static const struct gguf_string WORDS[] = {{"a", 1}, {"", 0}, {"bcd", 3}};
    static const int32_t INTS[] = {-1, 2};
    static const float FLOATS[] = {0.5F};
    static const float WEIGHTS[3] = {1, 2, 3};
    static const unsigned char BLOCKS[68] = {9};
    struct gguf_writer *w;
    struct err e = {0};
    assert_int_equal(gguf_writer_open(&w, path, &e), ERR_OK);
    gguf_write_str(w, "general.architecture", "wrong");
    gguf_write_str(w, "general.architecture", "llama"); /* the last counts */
    gguf_write_u32(w, "u", 7);
    gguf_write_f32(w, "f", 1.5F);
    gguf_write_bool(w, "b", true);
    gguf_write_strings(w, "words", WORDS, 3);
    gguf_write_ints(w, "ints", INTS, 2);
    gguf_write_floats(w, "floats", FLOATS, 1);
    assert_int_equal(gguf_write_tensor(w, "small", GGUF_F32, 1, (int64_t[]){3}, &e), ERR_OK);
    assert_int_equal(gguf_write_tensor(w, "blocks", GGUF_Q8_0, 2, (int64_t[]){32, 2}, &e), ERR_OK);
    assert_int_equal(gguf_write_tensor(w, "odd", GGUF_Q8_0, 1, (int64_t[]){33}, &e), ERR_INVALID);
    assert_int_equal(gguf_writer_begin(w, &e), ERR_OK);
    assert_int_equal(gguf_write_data(w, WEIGHTS, 5, &e), ERR_OK); /* in pieces */
    assert_int_equal(gguf_write_data(w, (const char *)WEIGHTS + 5, 7, &e), ERR_OK);
    assert_int_equal(gguf_write_data(w, BLOCKS, sizeof BLOCKS, &e), ERR_OK);
    assert_int_equal(gguf_write_data(w, BLOCKS, 1, &e), ERR_INTERNAL); /* one byte too many */
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(gguf_writer_finish(w, &e), ERR_OK);
    gguf_writer_close(w);
    assert_int_not_equal(access(part, F_OK), 0);

    struct gguf *g;
    if (gguf_open(&g, path, &e)) fail_msg("%s", e.msg);
    assert_int_equal(gguf_str(g, "general.architecture").len, 5);
    assert_int_equal(gguf_int(g, "u", 0), 7);
    assert_true(gguf_float(g, "f", 0) == 1.5);
    assert_int_equal(gguf_bool(g, "b", 0), 1);
    struct gguf_string words[3];
    assert_int_equal(gguf_array_strings(g, "words", words, 3), 3);
    assert_memory_equal(words[2].data, "bcd", 3);
    int64_t ints[2];
    assert_int_equal(gguf_array_ints(g, "ints", ints, 2), 2);
    assert_int_equal(ints[0], -1);
    assert_memory_equal(gguf_tensor_find(g, "small")->data, WEIGHTS, sizeof WEIGHTS);
    assert_memory_equal(gguf_tensor_find(g, "blocks")->data, BLOCKS, sizeof BLOCKS);
    gguf_close(g);
}

static void keys_are_copied_as_they_are(void **state)
{
    (void)state;
    struct gguf *g;
    struct gguf_writer *w;
    assert_int_equal(gguf_open(&g, path, NULL), ERR_OK); /* the file of the test before */
    assert_int_equal(gguf_writer_open(&w, path, NULL), ERR_OK);
    struct gguf_key key;
    int count = 0;
    for (; gguf_key_at(g, count, &key); count++) gguf_write_key(w, &key);
    assert_int_equal(count, 7);
    assert_int_equal(gguf_writer_begin(w, NULL), ERR_OK);
    assert_int_equal(gguf_writer_finish(w, NULL), ERR_OK);
    gguf_writer_close(w);
    struct gguf *copy;
    assert_int_equal(gguf_open(&copy, path, NULL), ERR_OK);
    for (int i = 0; gguf_key_at(g, i, &key); i++) {
        struct gguf_key other;
        assert_true(gguf_key_at(copy, i, &other));
        assert_int_equal(other.bytes, key.bytes);
        assert_memory_equal(other.value, key.value, key.bytes);
    }
    gguf_close(copy);
    gguf_close(g);
}

static void an_unfinished_file_leaves_nothing(void **state)
{
    (void)state;
    struct gguf_writer *w;
    struct err e = {0};
    (void)unlink(path);
    assert_int_equal(gguf_writer_open(&w, path, &e), ERR_OK);
    assert_int_equal(gguf_write_tensor(w, "t", GGUF_F32, 1, (int64_t[]){3}, &e), ERR_OK);
    assert_int_equal(gguf_writer_begin(w, &e), ERR_OK);
    assert_int_equal(gguf_writer_finish(w, &e), ERR_INTERNAL);
    gguf_writer_close(w);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_not_equal(access(part, F_OK), 0);
    assert_int_equal(gguf_writer_open(&w, "/nowhere/at/all", &e), ERR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_reads_back),
        cmocka_unit_test(keys_are_copied_as_they_are),
        cmocka_unit_test(an_unfinished_file_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
