#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/tier.h"

#include <string.h>

static void buffer_keeps_content_when_the_limit_is_hit(void **state)
{
    (void)state;
    struct buf b = BUF_INIT(8);
    assert_int_equal(buf_adds(&b, "12345"), ERR_OK);
    assert_int_equal(buf_adds(&b, "6789"), ERR_TOO_LARGE);
    assert_int_equal(buf_addc(&b, 'x'), ERR_TOO_LARGE); /* a failed chain stays failed */
    assert_string_equal(b.data, "12345");
    buf_clear(&b);
    assert_int_equal(buf_addf(&b, "%d", 12345678), ERR_OK);
    assert_string_equal(b.data, "12345678");
    buf_drop(&b, 3);
    assert_string_equal(b.data, "45678");
    buf_release(&b);
}

static void long_formats_grow_the_buffer(void **state)
{
    (void)state;
    struct buf b = BUF_INIT(4096);
    assert_int_equal(buf_addf(&b, "%01000d", 7), ERR_OK);
    assert_int_equal(b.len, 1000);
    buf_release(&b);
}

static void arena_refuses_past_its_limit(void **state)
{
    (void)state;
    struct arena a;
    arena_init(&a, 10000);
    assert_non_null(arena_alloc(&a, 9000));
    assert_null(arena_alloc(&a, 2000));
    assert_null(arena_array(&a, SIZE_MAX / 2, 4));
    assert_string_equal(arena_strdup(&a, "edge"), "edge");
    arena_release(&a);
}

static void an_error_is_untouched_on_success_and_named_in_both_directions(void **state)
{
    (void)state;
    struct err e = {0};
    assert_int_equal(err_set_param(&e, ERR_FULL, "n", "queue of %d", 3), ERR_FULL);
    assert_string_equal(e.msg, "queue of 3");
    assert_string_equal(e.param, "n");
    for (int i = 0; i < ERR_CODES; i++) assert_int_equal(err_from_name(err_name((enum err_code)i)), i);
    assert_int_equal(err_http_status(ERR_FULL), 429);
    assert_int_equal(tier_from_name("core"), TIER_CORE);
    assert_int_equal(tier_from_name("cloud"), TIER_NONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buffer_keeps_content_when_the_limit_is_hit),
        cmocka_unit_test(long_formats_grow_the_buffer),
        cmocka_unit_test(arena_refuses_past_its_limit),
        cmocka_unit_test(an_error_is_untouched_on_success_and_named_in_both_directions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
