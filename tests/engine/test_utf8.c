#include "engine/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

/* Every way to cut `text` into two pieces must give `want`. */
static void expect_stream(const char *text, size_t len, const char *want)
{
    for (size_t cut = 0; cut <= len; cut++) {
        struct utf8_stream s = {0};
        struct buf out = BUF_INIT(4096);
        assert_int_equal(utf8_stream_feed(&s, text, cut, &out), ERR_OK);
        assert_int_equal(utf8_whole(out.data, out.len), out.len);
        assert_int_equal(utf8_stream_feed(&s, text + cut, len - cut, &out), ERR_OK);
        assert_int_equal(utf8_stream_end(&s, &out), ERR_OK);
        assert_string_equal(out.data, want);
        buf_release(&out);
    }
}

#define FFFD "\xEF\xBF\xBD"

static void whole_characters_pass_whatever_the_cut(void **state)
{
    (void)state;
    const char *text = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80z";
    expect_stream(text, strlen(text), text);
}

static void ill_formed_bytes_become_one_mark_per_subpart(void **state)
{
    (void)state;
    /* Unicode's own example, table 3-8 */
    expect_stream("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", 9,
                  FFFD FFFD FFFD FFFD FFFD FFFD FFFD FFFD "A");
    expect_stream("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", 9,
                  FFFD FFFD FFFD FFFD FFFD FFFD FFFD FFFD "A");
    expect_stream("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", 9, FFFD FFFD FFFD FFFD FFFD "A" FFFD FFFD "B");
    expect_stream("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", 9, FFFD FFFD FFFD FFFD "A");
}

static void an_unfinished_end_becomes_a_mark(void **state)
{
    (void)state;
    expect_stream("ab\xF0\x9F\x98", 5, "ab" FFFD);
}

static void whole_prefix_leaves_out_only_what_can_be_completed(void **state)
{
    (void)state;
    assert_int_equal(utf8_whole("ab\xE2\x82", 4), 2);
    assert_int_equal(utf8_whole("ab\xE2\x82\xAC", 5), 5);
    assert_int_equal(utf8_whole("\xF0\x9F\x98", 3), 0);
    assert_int_equal(utf8_whole("ab\xFF", 3), 3);
    assert_int_equal(utf8_whole("\x80\x80\x80\x80\x80", 5), 5);
    assert_int_equal(utf8_whole("", 0), 0);
}

static void what_is_put_is_read_back(void **state)
{
    (void)state;
    for (int32_t c = 0; c < 0x110000; c++) {
        char bytes[4];
        size_t n = utf8_put(c, bytes);
        int32_t back;
        size_t m = utf8_next(bytes, n, &back);
        if (c >= 0xD800 && c < 0xE000) {
            assert_int_equal(back, UTF8_BAD);
        } else {
            assert_int_equal(back, c);
            assert_int_equal(m, n);
        }
    }
}

static void a_full_buffer_is_an_error(void **state)
{
    (void)state;
    struct utf8_stream s = {0};
    struct buf out = BUF_INIT(2);
    assert_int_equal(utf8_stream_feed(&s, "abc", 3, &out), ERR_TOO_LARGE);
    buf_release(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_characters_pass_whatever_the_cut),
        cmocka_unit_test(ill_formed_bytes_become_one_mark_per_subpart),
        cmocka_unit_test(an_unfinished_end_becomes_a_mark),
        cmocka_unit_test(whole_prefix_leaves_out_only_what_can_be_completed),
        cmocka_unit_test(what_is_put_is_read_back),
        cmocka_unit_test(a_full_buffer_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
