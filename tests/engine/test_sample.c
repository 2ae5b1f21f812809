#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/sample.h"
#include "engine/sched_pages.h"
#include "engine/sched_text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N = 8, DRAWS = 20000 };
static const float LOGITS[N] = {0.0f, 2.0f, -1.0f, 1.0f, 0.5f, -20.0f, 1.5f, -3.0f};

/* How often each token is drawn over many indices. */
static void histogram(const struct engine_sampling *how, const int32_t *tokens, int count, int prompt_count, const uint32_t *mask,
                      double *share)
{
    struct sampler s;
    assert_int_equal(sampler_init(&s, N, NULL), ERR_OK);
    memset(share, 0, N * sizeof *share);
    for (int i = 0; i < DRAWS; i++) {
        struct sample_input in = {.logits = LOGITS, .how = how, .index = i, .tokens = tokens, .count = count,
                                  .prompt_count = prompt_count, .mask = mask};
        share[sample(&s, &in)] += 1.0 / DRAWS;
    }
    sampler_release(&s);
}

static void softmax(double temperature, const bool *kept, double *p)
{
    double sum = 0;
    for (int i = 0; i < N; i++) sum += p[i] = kept[i] ? exp((double)LOGITS[i] / temperature) : 0;
    for (int i = 0; i < N; i++) p[i] /= sum;
}

static void assert_near(const double *got, const double *want)
{
    for (int i = 0; i < N; i++)
        if (fabs(got[i] - want[i]) > 0.015) fail_msg("token %d: %.3f drawn, %.3f expected", i, got[i], want[i]);
}

static void draws_follow_the_tempered_distribution(void **state)
{
    (void)state;
    static const bool all[N] = {1, 1, 1, 1, 1, 1, 1, 1};
    double got[N], want[N];
    struct engine_sampling how = ENGINE_SAMPLING_GREEDY;
    for (float t = 0.5f; t < 2.1f; t += 0.5f) {
        how.temperature = t;
        histogram(&how, NULL, 0, 0, NULL, got);
        softmax((double)t, all, want);
        assert_near(got, want);
    }
}

static void each_filter_keeps_what_it_says(void **state)
{
    (void)state;
    double got[N], want[N];
    struct engine_sampling how = ENGINE_SAMPLING_GREEDY;
    how.temperature = 1;
    how.top_k = 3;
    histogram(&how, NULL, 0, 0, NULL, got);
    softmax(1, (bool[N]){0, 1, 0, 1, 0, 0, 1, 0}, want);
    assert_near(got, want);
    how.top_k = 0;
    how.min_p = 0.3f; /* e^-1.2: within 1.2 of the best */
    histogram(&how, NULL, 0, 0, NULL, got);
    assert_near(got, want);
    how.min_p = 0;
    how.top_p = 0.75f; /* the shares of all: 1 .411, 6 .249, 3 .151 */
    histogram(&how, NULL, 0, 0, NULL, got);
    assert_near(got, want);
    how.top_p = 1;
    how.typical_p = 0.3f; /* entropy 1.46: token 6 with surprise 1.39 is nearest, then 3 with 1.89 is 0.43 away, 1 with 0.89 0.57 */
    histogram(&how, NULL, 0, 0, NULL, got);
    softmax(1, (bool[N]){0, 0, 0, 1, 0, 0, 1, 0}, want);
    assert_near(got, want);
}

static void penalties_bias_and_mask_change_the_choice(void **state)
{
    (void)state;
    struct sampler s;
    assert_int_equal(sampler_init(&s, N, NULL), ERR_OK);
    struct engine_sampling how = ENGINE_SAMPLING_GREEDY;
    int32_t tokens[] = {1, 6, 6};
    struct sample_input in = {.logits = LOGITS, .how = &how, .tokens = tokens, .count = 3, .prompt_count = 1};
    assert_int_equal(sample(&s, &in), 1);
    how.repeat_penalty = 1.9f; /* 1 → 1.05, 6 → 0.79 */
    assert_int_equal(sample(&s, &in), 1);
    how.repeat_penalty = 2.1f; /* 1 → 0.95 */
    assert_int_equal(sample(&s, &in), 3);
    how.repeat_penalty = 1;
    how.presence_penalty = 5; /* the prompt's token is spared */
    assert_int_equal(sample(&s, &in), 1);
    how.presence_penalty = 0;
    struct engine_bias bias[] = {{5, 30}, {99, 50}, {-1, 50}};
    how.bias = bias;
    how.bias_count = 3;
    assert_int_equal(sample(&s, &in), 5);
    how.bias_count = 0;
    uint32_t mask = ~(1u << 1);
    in.mask = &mask;
    assert_int_equal(sample(&s, &in), 6);
    how.frequency_penalty = 0.3f; /* twice: 6 → 0.9 */
    assert_int_equal(sample(&s, &in), 3);
    sampler_release(&s);
}

static void the_same_key_gives_the_same_number(void **state)
{
    (void)state;
    assert_true(sample_uniform(1, 2, 3) == sample_uniform(1, 2, 3));
    assert_true(sample_uniform(1, 2, 3) != sample_uniform(1, 3, 2));
    assert_true(sample_uniform(1, 2, 3) != sample_uniform(2, 2, 3));
    double sum = 0;
    for (uint64_t i = 0; i < 10000; i++) {
        double u = sample_uniform(5, 0, i);
        assert_true(u >= 0 && u < 1);
        sum += u;
    }
    assert_true(fabs(sum / 10000 - 0.5) < 0.02);
}

static void the_likeliest_are_told_in_order(void **state)
{
    (void)state;
    struct engine_alternative top[4];
    sample_top(LOGITS, N, 1.0f, top, 4);
    static const int32_t ORDER[] = {1, 6, 3, 4};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(top[i].id, ORDER[i]);
        assert_true(fabsf(top[i].logprob - (LOGITS[ORDER[i]] - 1)) < 1e-6f);
    }
}

/* ---- text ---- */

static void held_text_is_shown_when_no_stop_can_come_of_it(void **state)
{
    (void)state;
    struct text t;
    const char *stops[] = {"###", "end."};
    assert_int_equal(text_init(&t, stops, 2, NULL), ERR_OK);
    assert_false(text_feed(&t, "a#", 2));
    assert_string_equal(t.shown.data, "a");
    assert_false(text_feed(&t, "#b\xc3", 3));
    assert_string_equal(t.shown.data, "##b");
    assert_false(text_feed(&t, "\xa9 en", 4));
    assert_string_equal(t.shown.data, "\xc3\xa9 ");
    assert_true(text_feed(&t, "d.###", 5));
    assert_string_equal(t.shown.data, "");
    text_release(&t);
    assert_int_equal(text_init(&t, (const char *[]){""}, 1, NULL), ERR_INVALID);
}

static void what_is_held_comes_out_at_the_end(void **state)
{
    (void)state;
    struct text t;
    const char *stops[] = {"stop"};
    assert_int_equal(text_init(&t, stops, 1, NULL), ERR_OK);
    assert_false(text_feed(&t, "sto\xe4", 4));
    assert_string_equal(t.shown.data, "");
    text_end(&t);
    assert_string_equal(t.shown.data, "sto\xef\xbf\xbd");
    text_release(&t);
}

/* ---- pages ---- */

static void cached_pages_are_found_shared_and_evicted_leaf_first(void **state)
{
    (void)state;
    struct pages *p;
    int32_t first[4] = {1, 2, 3, 4}, second[4] = {5, 6, 7, 8};
    assert_int_equal(pages_open(&p, 3, 4, NULL), ERR_OK);
    int32_t a = pages_take(p), b = pages_take(p);
    assert_int_equal(pages_enter(p, -1, a, first), a);
    assert_int_equal(pages_enter(p, a, b, second), b);
    assert_int_equal(pages_find(p, -1, second), -1); /* the same tokens elsewhere are another page */
    pages_drop(p, b);
    pages_drop(p, a);
    assert_int_equal(pages_cached(p), 2);
    assert_int_equal(pages_find(p, -1, first), a);
    assert_int_equal(pages_find(p, a, second), b);
    int32_t c = pages_take(p);
    assert_int_equal(pages_enter(p, -1, c, first), a); /* an equal page takes its place */
    assert_int_equal(pages_held(p), 1);
    c = pages_take(p);
    int32_t d = pages_take(p); /* evicts b, the leaf */
    assert_true(c >= 0 && d == b);
    assert_int_equal(pages_find(p, a, second), -1);
    assert_int_equal(pages_take(p), -1); /* a is held */
    pages_drop(p, a);
    assert_int_equal(pages_take(p), a);
    pages_close(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_follow_the_tempered_distribution),
        cmocka_unit_test(each_filter_keeps_what_it_says),
        cmocka_unit_test(penalties_bias_and_mask_change_the_choice),
        cmocka_unit_test(the_same_key_gives_the_same_number),
        cmocka_unit_test(the_likeliest_are_told_in_order),
        cmocka_unit_test(held_text_is_shown_when_no_stop_can_come_of_it),
        cmocka_unit_test(what_is_held_comes_out_at_the_end),
        cmocka_unit_test(cached_pages_are_found_shared_and_evicted_leaf_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
