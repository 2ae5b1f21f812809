#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "node/node.h"

static void the_same_words_agree_whatever_their_dress(void **state)
{
    (void)state;
    assert_true(shadow_agrees("It is Forty two.", " it is  forty two"));
    assert_true(shadow_agrees("四十二", "四十二"));
    assert_false(shadow_agrees("yes", "no"));
    assert_false(shadow_agrees("", "42"));
}

static void json_agrees_by_value(void **state)
{
    (void)state;
    assert_true(shadow_agrees("{\"a\": 1, \"b\": [2]}", "{\"b\":[2],\"a\":1}"));
    assert_false(shadow_agrees("{\"a\": 1}", "{\"a\": 2}"));
}

static void short_answers_agree_by_their_last_number(void **state)
{
    (void)state;
    assert_true(shadow_agrees("17 + 25 = 42", "42"));
    assert_true(shadow_agrees("The answer is -3.50.", "-3.5"));
    assert_false(shadow_agrees("17 + 25 = 42", "43"));
    assert_false(shadow_agrees("-7", "7"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_words_agree_whatever_their_dress),
        cmocka_unit_test(json_agrees_by_value),
        cmocka_unit_test(short_answers_agree_by_their_last_number),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
