#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "router/features.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct seen {
    uint32_t hash[4096];
    int count, by_kind[GRAM_KINDS];
    size_t largest_chunk;
};

static void keep(void *ctx, const struct gram *grams, size_t count)
{
    struct seen *s = ctx;
    if (count > s->largest_chunk) s->largest_chunk = count;
    for (size_t i = 0; i < count; i++) {
        s->by_kind[grams[i].kind]++;
        if (s->count < 4096) s->hash[s->count++] = grams[i].hash;
    }
}

static struct seen walk(const char *text, float *counted)
{
    struct seen s = {0};
    struct router_input in = {.text = text, .text_len = strlen(text), .turns = 1};
    features_walk(&in, keep, &s, counted);
    return s;
}

static void words_pairs_and_runs_of_four_are_seen(void **state)
{
    (void)state;
    struct seen s = walk("The cat sat.", NULL);
    assert_int_equal(s.by_kind[GRAM_WORD], 3);
    assert_int_equal(s.by_kind[GRAM_PAIR], 3);
    assert_int_equal(s.by_kind[GRAM_CHARS], (int)strlen(" the cat sat. ") - 3);
}

static void case_and_spacing_change_no_gram(void **state)
{
    (void)state;
    struct seen a = walk("What  IS\n\tlove", NULL), b = walk("what is love", NULL);
    assert_int_equal(a.count, b.count);
    assert_memory_equal(a.hash, b.hash, sizeof a.hash);
}

static void each_chinese_character_is_a_word(void **state)
{
    (void)state;
    float c[COUNTED];
    struct seen s = walk("你好，世界 hello", c);
    assert_int_equal(s.by_kind[GRAM_WORD], 6); /* the comma stands alone too: a wide character like any other */
    assert_true(c[COUNTED_CJK] > 3);
}

static void marks_are_counted(void **state)
{
    (void)state;
    float c[COUNTED];
    (void)walk("How many apples are NOT red?\nA. 12\nB. 7\nC. all of them\nBecause 3.5 > 2 and 10% of 1000.", c);
    assert_true(c[COUNTED_ASKS_HOW_MANY] == 1);
    assert_true(fabsf(c[COUNTED_OPTIONS] - log1pf(3)) < 1e-6f);
    assert_true(fabsf(c[COUNTED_OPTION_NUMBERS] - log1pf(2)) < 1e-6f);
    assert_true(fabsf(c[COUNTED_NEGATIONS] - log1pf(1)) < 1e-6f);
    assert_true(fabsf(c[COUNTED_REASONS] - log1pf(1)) < 1e-6f);
    assert_true(fabsf(c[COUNTED_DECIMALS] - log1pf(1)) < 1e-6f);
    assert_true(fabsf(c[COUNTED_LINES] - log1pf(4)) < 1e-6f);
    assert_true(fabsf(c[COUNTED_BIG_NUMBER] - log10f(1001)) < 1e-5f);
    assert_true(c[COUNTED_ENDS_QUESTION] == 0);
}

static void every_keyword_is_found_under_its_letter(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum counted feature;
    } CASES[] = {{"exactly", COUNTED_DEMANDS}, {"write", COUNTED_ORDERS},   {"each", COUNTED_RATES},
                 {"twelve", COUNTED_NUMBER_WORDS}, {"def", COUNTED_CODE},   {"larger", COUNTED_COMPARES},
                 {"never", COUNTED_NEGATIONS}, {"suppose", COUNTED_REASONS}, {"who", COUNTED_ASKS_WHO},
                 {"why", COUNTED_ASKS_WHY},    {"the", COUNTED_FUNCTION_WORDS}, {"smallest", COUNTED_COMPARES}};
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        float c[COUNTED];
        (void)walk(CASES[i].text, c);
        assert_true(c[CASES[i].feature] > 0);
    }
}

static void any_bytes_of_any_length_are_read(void **state)
{
    (void)state;
    unsigned s = 7;
    char *text = malloc(70000);
    for (int round = 0; round < 300; round++) {
        size_t len = round < 260 ? (size_t)round : 16384u - 130 + (size_t)(round - 260) * 7;
        for (size_t i = 0; i < len; i++) {
            s = s * 1103515245u + 12345u;
            text[i] = (char)(s >> 16);
        }
        struct router_input in = {.text = text, .text_len = len, .turns = round};
        struct seen seen = {0};
        float c[COUNTED];
        features_walk(&in, keep, &seen, c);
        assert_true(seen.largest_chunk <= FEATURES_CHUNK);
        for (int k = 0; k < COUNTED; k++) assert_true(isfinite(c[k]));
    }
    struct router_input none = {0};
    float c[COUNTED];
    features_walk(&none, keep, &(struct seen){0}, c);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_pairs_and_runs_of_four_are_seen),
        cmocka_unit_test(case_and_spacing_change_no_gram),
        cmocka_unit_test(each_chinese_character_is_a_word),
        cmocka_unit_test(marks_are_counted),
        cmocka_unit_test(every_keyword_is_found_under_its_letter),
        cmocka_unit_test(any_bytes_of_any_length_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
