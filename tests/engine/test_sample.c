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
    struct sampler s;
    struct logit_list list;
    assert_int_equal(sampler_init(&s, N, NULL), ERR_OK);
    sample_make_list(&s, LOGITS, 0, LOGIT_LIST_MAX, &list);
    struct engine_alternative same[4];
    sample_top_of(&list, 1.0f, same, 4);
    assert_memory_equal(same, top, sizeof top);
    sampler_release(&s);
}

/* ---- the top of a row, the row, and the plain way ---- */

enum { V_MAX = 3000, HISTORY = 90 };

static uint64_t random_state = 1;
static double random_unit(void)
{
    return sample_uniform(random_state++, 77, 1);
}
static int random_below(int n)
{
    return (int)(random_unit() * n);
}
static float random_normal(void)
{
    return (float)(sqrt(-2 * log(1 - random_unit())) * cos(6.283185307179586 * random_unit()));
}

static int plain_order(const void *a, const void *b)
{
    const struct logit_at *x = a, *y = b;
    if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
    return x->id < y->id ? -1 : 1;
}

static void plain_penalties(float *logits, const struct sample_input *in, int vocabulary)
{
    const struct engine_sampling *h = in->how;
    int window = h->penalty_window ? h->penalty_window : 64, first = in->count > window ? in->count - window : 0;
    for (int id = 0; id < vocabulary; id++) {
        int all = 0, generated = 0;
        for (int i = first; i < in->count; i++) {
            all += in->tokens[i] == id;
            generated += i >= in->prompt_count && in->tokens[i] == id;
        }
        if (all && h->repeat_penalty != 1) logits[id] = logits[id] > 0 ? logits[id] / h->repeat_penalty : logits[id] * h->repeat_penalty;
        if (generated) logits[id] -= h->presence_penalty + h->frequency_penalty * (float)generated;
    }
}

/* As sample.h tells it, with everything sorted. Locally typical sampling is not in it. */
static int32_t plain(const struct sample_input *in, int vocabulary)
{
    static struct logit_at c[V_MAX];
    static float logits[V_MAX];
    const struct engine_sampling *h = in->how;
    memcpy(logits, in->logits, (size_t)vocabulary * sizeof *logits);
    for (int i = 0; i < h->bias_count; i++) logits[h->bias[i].id] += h->bias[i].bias;
    plain_penalties(logits, in, vocabulary);
    int n = 0;
    for (int i = 0; i < vocabulary; i++)
        if (logits[i] > -INFINITY && (!in->mask || in->mask[i / 32] >> (i % 32) & 1)) c[n++] = (struct logit_at){logits[i], i};
    if (n == 0) return -1;
    qsort(c, (size_t)n, sizeof *c, plain_order);
    if (!(h->temperature > 0) || h->top_k == 1 || isinf(c[0].logit)) return c[0].id;
    float most = c[0].logit, inverse = 1 / h->temperature, lightest = 9.3576e-14f;
    for (int i = 0; i < n; i++) c[i].logit = expf((c[i].logit - most) * inverse);
    while (c[n - 1].logit < lightest) n--;
    if (h->top_k > 0 && h->top_k < n) n = h->top_k;
    double sum = 0, so_far = 0;
    for (int i = 0; i < n; i++) sum += (double)c[i].logit;
    for (int i = 0; i < n && h->top_p < 1; i++)
        if ((so_far += (double)c[i].logit) >= (double)h->top_p * sum) n = i + 1;
    while (n > 1 && c[n - 1].logit < h->min_p) n--;
    sum = so_far = 0;
    for (int i = 0; i < n; i++) sum += (double)c[i].logit;
    double u = sample_uniform(h->seed, (uint64_t)in->choice, (uint64_t)in->index);
    for (int i = 0; i < n; i++)
        if ((so_far += (double)c[i].logit) > u * sum) return c[i].id;
    return c[n - 1].id;
}

/* Nothing is cut: behind the first LOGIT_LIST_MAX by id. Whether `got` is where the draw falls, or next to it by as much as sums are known. */
static bool uncut_draw(const struct sample_input *in, int vocabulary, int32_t got)
{
    static struct logit_at c[V_MAX];
    static float logits[V_MAX];
    const struct engine_sampling *h = in->how;
    memcpy(logits, in->logits, (size_t)vocabulary * sizeof *logits);
    for (int i = 0; i < h->bias_count; i++) logits[h->bias[i].id] += h->bias[i].bias;
    plain_penalties(logits, in, vocabulary);
    int n = 0, behind = LOGIT_LIST_MAX;
    for (int i = 0; i < vocabulary; i++)
        if (logits[i] > -INFINITY && (!in->mask || in->mask[i / 32] >> (i % 32) & 1)) c[n++] = (struct logit_at){logits[i], i};
    qsort(c, (size_t)n, sizeof *c, plain_order);
    double most = (double)c[0].logit, inverse = 1 / (double)h->temperature, sum = 0, before = 0, own = 0;
    int at = 0;
    while (at < n && c[at].id != got) at++;
    for (int i = 0; i < n; i++) {
        double w = exp(((double)c[i].logit - most) * inverse);
        sum += w;
        if (i == at) own = w;
        else if (at < behind ? i < at : i < behind || c[i].id < got) before += w;
    }
    double target = sample_uniform(h->seed, (uint64_t)in->choice, (uint64_t)in->index) * sum, slack = 2e-6 * sum;
    return at < n && target >= before - slack && target <= before + own + slack;
}

static void random_row(float *row, int n)
{
    static const float SPREAD[] = {0, 0.01f, 1, 3, 8, 40};
    int kind = random_below(6);
    float spread = SPREAD[random_below(6)], shift = 10 * random_normal();
    for (int i = 0; i < n; i++) {
        row[i] = shift + spread * random_normal();
        if (kind == 1) row[i] = rintf(row[i]); /* many equals */
        if (kind == 2) row[i] = -spread * logf((float)(i * 7919 % n + 1));
        if (kind == 3 && random_below(3) == 0) row[i] = random_below(2) ? -INFINITY : NAN;
        if (kind == 4 && i % 17) row[i] = -INFINITY;
        if (kind == 5 && random_below(n) < 3) row[i] += 12;
    }
}

static struct engine_sampling random_way(struct engine_bias *bias, int vocabulary, bool *typical)
{
    static const float TEMPERATURE[] = {0, 0.1f, 0.7f, 1, 1, 2, 0.01f, 50}, TOP_P[] = {1, 1, 0.95f, 0.5f, 0.999f, 0}, MIN_P[] = {0, 0, 0.05f, 1e-4f};
    static const int TOP_K[] = {0, 0, 0, 1, 40, 256, 257, 2000};
    struct engine_sampling how = ENGINE_SAMPLING_GREEDY;
    how.temperature = TEMPERATURE[random_below(8)];
    how.top_p = TOP_P[random_below(6)];
    how.min_p = MIN_P[random_below(4)];
    how.top_k = TOP_K[random_below(8)];
    if (random_below(4) == 0) how.top_p = 1, how.min_p = 0, how.top_k = 0;
    *typical = random_below(12) == 0;
    if (*typical) how.typical_p = 0.8f;
    how.seed = (uint64_t)random_below(1000000);
    if (random_below(3) == 0) how.repeat_penalty = random_below(5) ? 1.2f : 0.8f;
    if (random_below(4) == 0) how.presence_penalty = random_below(5) ? 0.6f : -0.5f;
    if (random_below(4) == 0) how.frequency_penalty = random_below(5) ? 0.4f : -0.2f;
    if (random_below(4) == 0) how.penalty_window = 1 + random_below(HISTORY);
    how.bias_count = random_below(3) ? 0 : 1 + random_below(3);
    for (int i = 0; i < how.bias_count; i++) bias[i] = (struct engine_bias){random_below(vocabulary), random_below(2) ? -100 : 6 * random_normal()};
    how.bias = bias;
    return how;
}

/* Whatever was asked for: the row gives what the plain way gives, and the list the same or nothing. A list's sum is as far off as it may
 * be, one way or the other. */
static void a_list_gives_what_the_whole_row_gives(void **state)
{
    (void)state;
    static const int SIZES[] = {5, 100, 256, 257, 1000, V_MAX};
    static float row[V_MAX];
    static uint32_t mask[V_MAX / 32 + 1];
    static struct logit_list list;
    int settled = 0, asked = 0, behind = 0;
    for (int trial = 0; trial < 6000; trial++) {
        int vocabulary = SIZES[random_below(6)], kept = random_below(4);
        struct engine_bias bias[3];
        struct sampler s;
        bool typical;
        int32_t tokens[HISTORY];
        assert_int_equal(sampler_init(&s, vocabulary, NULL), ERR_OK);
        random_row(row, vocabulary);
        struct engine_sampling how = random_way(bias, vocabulary, &typical);
        for (int i = 0; i < HISTORY; i++) tokens[i] = random_below(random_below(2) ? vocabulary : 5);
        for (int i = 0; i < V_MAX / 32 + 1; i++) mask[i] = 0;
        for (int i = 0; i < V_MAX; i++) mask[i / 32] |= (uint32_t)(random_below(kept == 3 ? 100 : kept + 1) == 0) << (i % 32);
        struct sample_input in = {.logits = row, .how = &how, .choice = random_below(3), .index = trial, .tokens = tokens,
                                  .count = random_below(HISTORY + 1), .mask = random_below(4) ? NULL : mask};
        in.prompt_count = random_below(in.count + 1);
        sample_make_list(&s, row, sample_inverse(&how), LOGIT_LIST_MAX, &list);
        list.sum *= 1 + (LOGIT_SUM_ERROR - 3e-7) * (random_below(2) ? 1 : -1);
        int32_t whole = sample(&s, &in), from_list = sample_list(&s, &in, &list), expected = plain(&in, vocabulary);
        in.list = &list;
        assert_int_equal(sample(&s, &in), whole);
        bool uncut = how.temperature > 0 && how.top_k == 0 && how.top_p >= 1 && how.min_p <= 0 && !typical && vocabulary > LOGIT_LIST_MAX;
        if (expected >= 0 && uncut && whole != expected) assert_true(uncut_draw(&in, vocabulary, whole)), behind++;
        else if (expected >= 0 && !typical) assert_int_equal(whole, expected);
        if (from_list >= 0 && from_list != whole)
            fail_msg("trial %d, %d tokens: %d from the list, %d from the row; temperature %g top_p %g min_p %g top_k %d typical %g repeat %g "
                     "presence %g frequency %g window %d bias %d mask %d count %d of %d",
                     trial, vocabulary, from_list, whole, (double)how.temperature, (double)how.top_p, (double)how.min_p, how.top_k, (double)how.typical_p, (double)how.repeat_penalty, (double)how.presence_penalty,
                     (double)how.frequency_penalty, how.penalty_window, how.bias_count, in.mask != NULL, in.prompt_count, in.count);
        if (from_list >= 0 && !sample_list_helps(&how)) fail_msg("a list that was said not to help did");
        for (int i = 0; i < vocabulary; i++) assert_true(s.seen[i] == 0 && s.place[i] == 0);
        settled += from_list >= 0;
        asked++;
        sampler_release(&s);
    }
    print_message("%d of %d settled by the list; %d drawn by id\n", settled, asked, behind);
    assert_true(behind > 20);
    assert_true(settled > asked / 2);
}

/* The sums that bounds are drawn around, against doubles. */
static void a_lists_sum_is_as_near_as_it_says(void **state)
{
    (void)state;
    static float row[V_MAX];
    static struct logit_list list;
    struct sampler s;
    assert_int_equal(sampler_init(&s, V_MAX, NULL), ERR_OK);
    double worst = 0;
    for (int trial = 0; trial < 300; trial++) {
        struct engine_sampling how = ENGINE_SAMPLING_GREEDY;
        how.temperature = 0.3f + (float)random_unit() * 2;
        random_row(row, V_MAX);
        float inverse = sample_inverse(&how);
        sample_make_list(&s, row, inverse, LOGIT_LIST_MAX, &list);
        assert_true(list.count > 0);
        double sum = 0;
        for (int i = 0; i < V_MAX; i++)
            if (!isnan(row[i])) sum += exp((double)((row[i] - list.top[0].logit) * inverse));
        worst = fmax(worst, fabs(list.sum / sum - 1));
    }
    print_message("worst relative error of a sum: %.2g\n", worst);
    assert_true(worst < LOGIT_SUM_ERROR / 2); /* and as far again to expf() of the candidates */
    sampler_release(&s);
}

/* A peaked row, as models make them: nothing but its top is needed, whatever changes it. */
static void a_peaked_rows_list_suffices(void **state)
{
    (void)state;
    static float row[V_MAX];
    static struct logit_list list;
    struct sampler s;
    assert_int_equal(sampler_init(&s, V_MAX, NULL), ERR_OK);
    int32_t tokens[64];
    for (int i = 0; i < 64; i++) tokens[i] = i * 40;
    for (int i = 0; i < V_MAX; i++) row[i] = -3 * logf((float)(i * 7919 % V_MAX + 1));
    struct engine_sampling how = ENGINE_SAMPLING_GREEDY;
    how.repeat_penalty = 1.1f;
    how.frequency_penalty = 0.2f;
    uint32_t mask[V_MAX / 32 + 1];
    memset(mask, 0xa5, sizeof mask);
    for (int i = 0; i < 1000; i++) {
        struct sample_input in = {.how = &how, .index = i, .tokens = tokens, .count = 64, .prompt_count = 10, .mask = i & 1 ? mask : NULL};
        how.temperature = i & 2 ? 0 : i & 4 ? 0.7f : 1;
        how.top_p = i & 8 ? 0.95f : 1;
        sample_make_list(&s, row, sample_inverse(&how), LOGIT_LIST_MAX, &list);
        assert_true(sample_list(&s, &in, &list) >= 0 || (how.temperature == 1 && how.top_p == 1));
    }
    sampler_release(&s);
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

enum { POOL = 24, CHAINS = 4, CHAIN_MAX = 5 };

/* What a page is, kept beside the cache: which is evicted is looked for among all. */
struct kept {
    int holders, children, before, used;
    bool cached;
    int32_t token;
};

static int oldest_leaf(const struct kept *k)
{
    int best = -1;
    for (int i = 0; i < POOL; i++)
        if (k[i].cached && !k[i].holders && !k[i].children && (best < 0 || k[i].used < k[best].used)) best = i;
    return best;
}

/* A page for the end of a chain: one with this token that is there already, else a new one. False: all are held. */
static bool extend(struct pages *p, struct kept *k, int32_t *chain, int *n, int32_t token, int *now)
{
    int32_t before = *n ? chain[*n - 1] : -1, page = pages_find(p, before, &token);
    if (page >= 0) {
        assert_true(k[page].cached && k[page].before == before && k[page].token == token);
        pages_hold(p, page);
    } else {
        bool free_one = false;
        for (int i = 0; i < POOL; i++) free_one = free_one || (!k[i].holders && !k[i].cached);
        int oldest = oldest_leaf(k);
        page = pages_take(p);
        if (page < 0) assert_true(!free_one && oldest < 0);
        if (page < 0) return false;
        if (free_one) assert_false(k[page].cached);
        else assert_int_equal(page, oldest);
        if (k[page].cached && k[page].before >= 0) k[k[page].before].children--;
        k[page] = (struct kept){.before = before, .cached = true, .token = token};
        if (before >= 0) k[before].children++;
        assert_int_equal(pages_enter(p, before, page, &token), page);
    }
    k[page].holders++;
    k[page].used = ++*now;
    chain[(*n)++] = page;
    return true;
}

static void the_leaf_that_was_used_longest_ago_is_evicted(void **state)
{
    (void)state;
    struct pages *p;
    struct kept k[POOL] = {0};
    int32_t chain[CHAINS][CHAIN_MAX];
    int n[CHAINS] = {0}, now = 0;
    assert_int_equal(pages_open(&p, POOL, 1, NULL), ERR_OK);
    for (int step = 0; step < 20000; step++) {
        int c = random_below(CHAINS);
        if (n[c] < CHAIN_MAX && random_below(4)) {
            (void)extend(p, k, chain[c], &n[c], random_below(3), &now);
            continue;
        }
        while (n[c] > 0) {
            int32_t page = chain[c][--n[c]];
            k[page].holders--;
            k[page].used = ++now;
            pages_drop(p, page);
        }
    }
    int held = 0, cached = 0;
    for (int i = 0; i < POOL; i++) held += k[i].holders > 0, cached += k[i].cached && !k[i].holders;
    assert_int_equal(pages_held(p), held);
    assert_int_equal(pages_cached(p), cached);
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
        cmocka_unit_test(a_list_gives_what_the_whole_row_gives),
        cmocka_unit_test(a_lists_sum_is_as_near_as_it_says),
        cmocka_unit_test(a_peaked_rows_list_suffices),
        cmocka_unit_test(held_text_is_shown_when_no_stop_can_come_of_it),
        cmocka_unit_test(what_is_held_comes_out_at_the_end),
        cmocka_unit_test(cached_pages_are_found_shared_and_evicted_leaf_first),
        cmocka_unit_test(the_leaf_that_was_used_longest_ago_is_evicted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
