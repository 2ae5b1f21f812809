/* The engine as its users see it: what a stream of tokens may depend on, and what it may not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/engine.h"
#include "engine/model_probe.h"
#include "engine/model_quantize.h"
#include "tests/engine/tiny_model.h"

#include <pthread.h>
#include <unistd.h>

/* ---- a client that waits ---- */

enum { TOKENS_MAX = 400, STREAMS = 16 };

struct stream {
    struct desk *desk;
    uint64_t id;
    bool ended, prefilled;
    int count, order; /* order: how many streams had ended before */
    int32_t ids[TOKENS_MAX];
    float logprob[TOKENS_MAX], entropy[TOKENS_MAX];
    char text[TOKENS_MAX * 4], bytes[TOKENS_MAX * 4];
    size_t text_len, bytes_len;
    float hidden[TINY_EMBEDDING];
    struct engine_end end;
    struct err error;
};

struct desk {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int ended;
    struct engine *engine;
    char path[64];
    struct stream stream[STREAMS];
};

static void on_prefill(void *ctx, uint64_t id, const struct engine_prefill *p)
{
    struct stream *s = ctx;
    assert_int_equal(id, s->id);
    assert_false(s->prefilled);
    s->prefilled = true;
    if (p->hidden) memcpy(s->hidden, p->hidden, sizeof s->hidden);
}

static void on_token(void *ctx, uint64_t id, const struct engine_token *t)
{
    struct stream *s = ctx;
    assert_int_equal(id, s->id);
    assert_true(s->prefilled && !s->ended && s->count < TOKENS_MAX);
    s->logprob[s->count] = t->logprob;
    s->entropy[s->count] = t->entropy;
    s->ids[s->count] = t->id;
    memcpy(s->text + s->text_len, t->text, t->text_len);
    memcpy(s->bytes + s->bytes_len, t->bytes, t->bytes_len);
    s->text_len += t->text_len;
    s->bytes_len += t->bytes_len;
    (void)pthread_mutex_lock(&s->desk->lock);
    s->count++;
    (void)pthread_cond_broadcast(&s->desk->changed);
    (void)pthread_mutex_unlock(&s->desk->lock);
}

static void close_stream(struct stream *s)
{
    (void)pthread_mutex_lock(&s->desk->lock);
    assert_false(s->ended);
    s->ended = true;
    s->order = s->desk->ended++;
    (void)pthread_cond_broadcast(&s->desk->changed);
    (void)pthread_mutex_unlock(&s->desk->lock);
}

static void on_done(void *ctx, uint64_t id, const struct engine_end *end)
{
    struct stream *s = ctx;
    assert_int_equal(id, s->id);
    memcpy(s->text + s->text_len, end->text, end->text_len);
    s->text_len += end->text_len;
    s->end = *end;
    close_stream(s);
}

static void on_error(void *ctx, uint64_t id, const struct err *error)
{
    struct stream *s = ctx;
    (void)id;
    s->error = *error;
    close_stream(s);
}

/* The tiny model in a type; FP8 and W4A16 by way of quantize_file. */
static void write_model(const char *path, enum gguf_type type)
{
    struct gguf_builder g = {0};
    struct quantize_mix mix;
    struct err e = {0};
    bool ours = type >= GGUF_FP8;
    char plain[80];
    (void)snprintf(plain, sizeof plain, "%s.f32", path);
    tiny_model_build(&g, ours ? GGUF_F32 : type, 11);
    gguf_builder_write(&g, ours ? plain : path);
    if (!ours) return;
    assert_true(quantize_mix_find(gguf_type_info(type)->name, &mix));
    if (quantize_file(plain, path, &mix, NULL, NULL, &e)) fail_msg("%s", e.msg);
    (void)unlink(plain);
}

static struct desk *desk_open(enum gguf_type type, struct engine_options options)
{
    struct desk *d = calloc(1, sizeof *d);
    struct err e = {0};
    (void)snprintf(d->path, sizeof d->path, "/tmp/rung-test-XXXXXX");
    int fd = mkstemp(d->path);
    assert_true(fd >= 0);
    (void)close(fd);
    write_model(d->path, type);
    (void)pthread_mutex_init(&d->lock, NULL);
    (void)pthread_cond_init(&d->changed, NULL);
    options.path = d->path;
    if (!options.threads) options.threads = 2;
    if (engine_open(&d->engine, &options, &e)) fail_msg("%s", e.msg);
    return d;
}

static void desk_close(struct desk *d)
{
    engine_close(d->engine);
    (void)unlink(d->path);
    (void)pthread_mutex_destroy(&d->lock);
    (void)pthread_cond_destroy(&d->changed);
    free(d);
}

static enum err_code ask(struct desk *d, int i, const struct engine_request *r, struct err *e)
{
    struct stream *s = &d->stream[i];
    memset(s, 0, sizeof *s);
    s->desk = d;
    s->id = (uint64_t)i + 100;
    struct engine_sink sink = {.ctx = s, .on_prefill = on_prefill, .on_token = on_token, .on_done = on_done, .on_error = on_error};
    return engine_submit(d->engine, s->id, r, &sink, e);
}

static struct stream *await(struct desk *d, int i)
{
    struct stream *s = &d->stream[i];
    (void)pthread_mutex_lock(&d->lock);
    while (!s->ended) (void)pthread_cond_wait(&d->changed, &d->lock);
    (void)pthread_mutex_unlock(&d->lock);
    if (s->error.code) fail_msg("%s", s->error.msg);
    return s;
}

static struct stream *ask_and_wait(struct desk *d, int i, const struct engine_request *r)
{
    struct err e = {0};
    if (ask(d, i, r, &e)) fail_msg("%s", e.msg);
    return await(d, i);
}

/* A prompt of `count` tokens; prompts of the same seed share their beginning. */
static struct engine_request prompt(int32_t *ids, int count, uint64_t seed, int max_tokens)
{
    for (int i = 0; i < count; i++) ids[i] = (int32_t)(tiny_random(&seed) % 256);
    return (struct engine_request){.prompt = ids, .prompt_count = count, .max_tokens = max_tokens, .ignore_eos = true,
                                   .sampling = {.temperature = 1, .top_p = 1, .typical_p = 1, .repeat_penalty = 1, .seed = 77}};
}

static void assert_same(const struct stream *a, const struct stream *b, int from, int to)
{
    assert_memory_equal(a->ids + from, b->ids, (size_t)(to - from) * sizeof *a->ids);
    assert_memory_equal(a->logprob + from, b->logprob, (size_t)(to - from) * sizeof *a->logprob);
    assert_memory_equal(a->entropy + from, b->entropy, (size_t)(to - from) * sizeof *a->entropy);
}

/* ---- what a stream does not depend on ---- */

static void a_stream_is_the_same_alone_and_among_others(void **state)
{
    (void)state;
    static const enum gguf_type TYPES[] = {GGUF_F32, GGUF_F16, GGUF_BF16, GGUF_Q8_0, GGUF_Q4_0, GGUF_Q4_1, GGUF_Q5_0, GGUF_Q5_1,
                                           GGUF_IQ4_NL, GGUF_Q2_K, GGUF_Q3_K, GGUF_Q4_K, GGUF_Q5_K, GGUF_Q6_K, GGUF_FP8, GGUF_W4A16};
    for (size_t t = 0; t < sizeof TYPES / sizeof TYPES[0]; t++) {
        struct desk *d = desk_open(TYPES[t], (struct engine_options){.slots_max = 5, .prefill_tokens = 23, .kv_bytes_max = 1 << 22,
                                                                     .context_tokens = 128});
        int32_t ids[8][100];
        struct engine_request r[8];
        for (int i = 0; i < 8; i++) {
            r[i] = prompt(ids[i], 10 + i * 7, 3 + (uint64_t)i, 30);
            assert_int_equal(ask(d, i, &r[i], NULL), ERR_OK);
        }
        for (int i = 0; i < 8; i++) assert_int_equal(await(d, i)->count, 30);
        /* Alone, in another engine: no cache, one thread, whole prompts at once. */
        struct desk *alone = desk_open(TYPES[t], (struct engine_options){.slots_max = 1, .threads = 1, .context_tokens = 128});
        for (int i = 0; i < 8; i += 3) assert_same(&d->stream[i], ask_and_wait(alone, i, &r[i]), 0, 30);
        desk_close(alone);
        desk_close(d);
    }
}

static void a_stream_goes_on_elsewhere_from_its_tokens(void **state)
{
    (void)state;
    struct desk *d = desk_open(GGUF_Q8_0, (struct engine_options){0});
    int32_t ids[50];
    struct engine_request r = prompt(ids, 50, 8, 60);
    struct stream *whole = ask_and_wait(d, 0, &r);
    struct desk *other = desk_open(GGUF_Q8_0, (struct engine_options){0});
    for (int cut = 1; cut < 60; cut += 19) {
        r.prefix = whole->ids;
        r.prefix_count = cut;
        struct stream *rest = ask_and_wait(other, 1, &r);
        assert_int_equal(rest->count, 60 - cut);
        assert_int_equal(rest->end.completion_tokens, 60);
        assert_same(whole, rest, cut, 60);
    }
    desk_close(other);
    desk_close(d);
}

static void a_shared_beginning_comes_from_the_cache_and_changes_nothing(void **state)
{
    (void)state;
    struct desk *d = desk_open(GGUF_Q4_K, (struct engine_options){0});
    int32_t ids[200];
    struct engine_request r = prompt(ids, 150, 4, 20);
    r.want_hidden = true;
    ask_and_wait(d, 0, &r);
    ask_and_wait(d, 1, &r);
    assert_int_equal(d->stream[0].end.cached_tokens, 0);
    assert_int_equal(d->stream[1].end.cached_tokens, 128); /* whole pages of 32 */
    assert_same(&d->stream[0], &d->stream[1], 0, 20);
    assert_memory_equal(d->stream[0].hidden, d->stream[1].hidden, sizeof d->stream[0].hidden);
    struct engine_stats st;
    engine_stats(d->engine, &st);
    assert_int_equal(st.cached_tokens, 128);
    assert_int_equal(st.pages_used, 0);
    assert_true(st.pages_cached >= 5);
    desk_close(d);
}

static void preempted_streams_are_computed_again(void **state)
{
    (void)state;
    /* 12 pages of 32 tokens: three streams of 200 do not fit together. */
    int64_t page = (int64_t)TINY_LAYERS * 2 * (TINY_EMBEDDING / 2) * 32 * 2;
    struct desk *d = desk_open(GGUF_Q8_0, (struct engine_options){.slots_max = 4, .context_tokens = 256, .kv_bytes_max = 12 * page, .admit_early = true});
    int32_t ids[4][60];
    struct engine_request r[4];
    for (int i = 0; i < 4; i++) {
        r[i] = prompt(ids[i], 40, 20 + (uint64_t)i, 160);
        assert_int_equal(ask(d, i, &r[i], NULL), ERR_OK);
    }
    for (int i = 0; i < 4; i++) assert_int_equal(await(d, i)->count, 160);
    struct engine_stats st;
    engine_stats(d->engine, &st);
    assert_true(st.preemptions > 0);
    struct desk *roomy = desk_open(GGUF_Q8_0, (struct engine_options){.slots_max = 1});
    for (int i = 0; i < 4; i++) assert_same(&d->stream[i], ask_and_wait(roomy, i, &r[i]), 0, 160);
    desk_close(roomy);
    desk_close(d);
}

static void a_cache_of_q8_0_holds_more_and_changes_nothing_but_a_little(void **state)
{
    (void)state;
    int64_t page = (int64_t)TINY_LAYERS * 2 * (TINY_EMBEDDING / 2) * 32 * 2; /* of f16 */
    struct desk *d = desk_open(GGUF_F32, (struct engine_options){.slots_max = 4, .context_tokens = 256, .prefill_tokens = 23,
                                                                 .kv_bytes_max = 8 * page, .kv = ENGINE_KV_Q8_0, .admit_early = true});
    struct engine_stats st;
    engine_stats(d->engine, &st);
    assert_int_equal(st.pages_total, 8 * 32 / 17); /* 34 bytes for 32 values instead of 64 */
    int32_t ids[4][60];
    struct engine_request r[4];
    for (int i = 0; i < 4; i++) {
        r[i] = prompt(ids[i], 40 + i % 2 * 20, 20 + (uint64_t)(i / 2), 150); /* by two with one beginning */
        assert_int_equal(ask(d, i, &r[i], NULL), ERR_OK);
    }
    for (int i = 0; i < 4; i++) assert_int_equal(await(d, i)->count, 150);
    engine_stats(d->engine, &st);
    assert_true(st.preemptions > 0);
    struct desk *alone = desk_open(GGUF_F32, (struct engine_options){.slots_max = 1, .threads = 1, .kv = ENGINE_KV_Q8_0});
    struct desk *half = desk_open(GGUF_F32, (struct engine_options){.slots_max = 1});
    for (int i = 0; i < 4; i++) {
        assert_same(&d->stream[i], ask_and_wait(alone, i, &r[i]), 0, 150);
        float apart = fabsf(ask_and_wait(half, i, &r[i])->entropy[0] - d->stream[i].entropy[0]);
        assert_true(apart > 0 && apart < 0.05f);
    }
    desk_close(half);
    desk_close(alone);
    desk_close(d);
}

static void speculation_changes_the_steps_and_not_the_stream(void **state)
{
    (void)state;
    struct desk *d = desk_open(GGUF_Q8_0, (struct engine_options){0}), *plain = desk_open(GGUF_Q8_0, (struct engine_options){.draft_tokens = -1});
    int32_t ids[120];
    for (uint64_t seed = 1; seed < 4; seed++) {
        struct engine_request r = prompt(ids, 120, seed, 200);
        for (int i = 30; i < 120; i++) ids[i] = ids[i % 30]; /* the prompt repeats itself */
        r.sampling.temperature = seed == 1 ? 0 : 0.05f; /* and so will the answer */
        assert_int_equal(ask(d, 0, &r, NULL), ERR_OK);
        assert_int_equal(ask(d, 1, &r, NULL), ERR_OK);
        assert_same(ask_and_wait(plain, 0, &r), await(d, 0), 0, 200);
        assert_same(await(d, 1), &plain->stream[0], 0, 200);
    }
    struct engine_stats with, without;
    engine_stats(d->engine, &with);
    engine_stats(plain->engine, &without);
    assert_true(with.steps < without.steps);
    desk_close(plain);
    desk_close(d);
}

/* ---- ends ---- */

static void a_cancelled_stream_ends_soon(void **state)
{
    (void)state;
    struct desk *d = desk_open(GGUF_Q8_0, (struct engine_options){.slots_max = 1});
    int32_t ids[10];
    struct engine_request r = prompt(ids, 10, 1, 380);
    assert_int_equal(ask(d, 0, &r, NULL), ERR_OK);
    assert_int_equal(ask(d, 1, &r, NULL), ERR_OK); /* waits in the queue */
    engine_cancel(d->engine, 101);
    assert_int_equal(await(d, 1)->end.finish, ENGINE_FINISH_CANCELLED);
    assert_int_equal(d->stream[1].count, 0);
    (void)pthread_mutex_lock(&d->lock);
    while (d->stream[0].count < 3) (void)pthread_cond_wait(&d->changed, &d->lock);
    (void)pthread_mutex_unlock(&d->lock);
    engine_cancel(d->engine, 100);
    engine_cancel(d->engine, 999); /* unknown: nothing happens */
    (void)await(d, 0);
    desk_close(d);
}

struct patience {
    int asked, after;
};

static bool lost_patience(void *ctx)
{
    struct patience *p = ctx;
    return p->asked++ >= p->after;
}

static void a_step_that_nobody_wants_any_more_is_left_between_two_pieces_of_work(void **state)
{
    (void)state;
    struct desk *d = desk_open(GGUF_Q8_0, (struct engine_options){0});
    struct probe p;
    struct err e;
    struct batch_out out;
    int32_t ids[48], want = 47;
    struct engine_request r = prompt(ids, 48, 1, 1);
    const struct probe_options options = {.kernels = "cpu", .threads = 2, .context = 64, .cols_max = 48};
    assert_int_equal(probe_open(&p, d->path, &options, &e), ERR_OK);
    assert_int_equal(probe_step(&p, r.prompt, 48, 0, false, &out, &e), ERR_OK);
    float *before = malloc((size_t)p.model->vocabulary * sizeof *before);
    memcpy(before, out.logits, (size_t)p.model->vocabulary * sizeof *before);
    struct patience patience = {0};
    struct batch_run run = {.count = 48, .pages = p.pages};
    struct batch b = {.cols = 48, .runs = 1, .wanted = 1, .tokens = ids, .run = &run, .want = &want, .abandoned = lost_patience, .ctx = &patience};
    for (int after = 0; after < 20; after++) { /* the first layer asks oftener than that */
        patience = (struct patience){.after = after};
        assert_int_equal(p.backend->forward(p.backend, &b, &out, &e), ERR_CANCELLED);
        assert_int_equal(patience.asked, after + 1); /* and nothing was worked on then */
    }
    patience = (struct patience){.after = 1 << 20};
    assert_int_equal(p.backend->forward(p.backend, &b, &out, &e), ERR_OK);
    assert_true(patience.asked > 40);
    b.abandoned = NULL;
    assert_int_equal(p.backend->forward(p.backend, &b, &out, &e), ERR_OK);
    assert_memory_equal(before, out.logits, (size_t)p.model->vocabulary * sizeof *before);
    free(before);
    probe_close(&p);
    desk_close(d);
}

static void closing_ends_every_stream(void **state)
{
    (void)state;
    struct desk *d = desk_open(GGUF_Q8_0, (struct engine_options){.slots_max = 2});
    int32_t ids[10];
    struct engine_request r = prompt(ids, 10, 1, 380);
    for (int i = 0; i < 6; i++) assert_int_equal(ask(d, i, &r, NULL), ERR_OK);
    engine_close(d->engine);
    d->engine = NULL;
    for (int i = 0; i < 6; i++) assert_true(d->stream[i].ended);
    desk_close(d);
}

static void a_stop_string_ends_the_text_before_it(void **state)
{
    (void)state;
    struct desk *d = desk_open(GGUF_Q8_0, (struct engine_options){0});
    int32_t ids[10];
    struct engine_request r = prompt(ids, 10, 6, 40);
    for (int i = 0; i < 10; i++) ids[i] = 'a' + i;
    struct engine_bias ascii[256];
    for (int i = 0; i < TINY_VOCABULARY - 128; i++) ascii[i] = (struct engine_bias){i + 128, -100};
    r.sampling.bias = ascii;
    r.sampling.bias_count = TINY_VOCABULARY - 128;
    struct stream *free_running = ask_and_wait(d, 0, &r);
    char stop[4];
    size_t at = 20;
    memcpy(stop, free_running->bytes + at, 3); /* three tokens: it crosses their borders */
    stop[3] = 0;
    const char *stops[] = {"never to be seen", stop};
    r.stop = stops;
    r.stop_count = 2;
    struct stream *s = ask_and_wait(d, 1, &r);
    const char *first = memmem(free_running->bytes, free_running->bytes_len, stop, 3);
    size_t expected = (size_t)(first - free_running->bytes);
    assert_int_equal(s->end.finish, ENGINE_FINISH_STOP);
    assert_int_equal(s->text_len, expected);
    assert_memory_equal(s->text, free_running->text, expected);
    assert_int_equal(s->count, (int)expected + 3);
    desk_close(d);
}

static void limits_are_answered_with_the_lengths(void **state)
{
    (void)state;
    struct desk *d = desk_open(GGUF_Q8_0, (struct engine_options){.slots_max = 1, .queue_max = 2, .context_tokens = 64});
    int32_t ids[64], bad = TINY_VOCABULARY;
    struct err e = {0};
    struct engine_request r = prompt(ids, 64, 1, 5);
    assert_int_equal(ask(d, 0, &r, &e), ERR_CONTEXT);
    assert_non_null(strstr(e.msg, "64"));
    r.prompt_count = 0;
    assert_int_equal(ask(d, 0, &r, &e), ERR_INVALID);
    r = (struct engine_request){.prompt = &bad, .prompt_count = 1, .sampling = ENGINE_SAMPLING_GREEDY};
    assert_int_equal(ask(d, 0, &r, &e), ERR_INVALID);
    r = prompt(ids, 20, 1, 0);
    assert_int_equal(ask_and_wait(d, 0, &r)->count, 44); /* what the context holds */
    assert_int_equal(d->stream[0].end.finish, ENGINE_FINISH_LENGTH);
    int accepted = 0;
    for (int i = 1; i < 12; i++) accepted += ask(d, i, &r, &e) == ERR_OK ? 1 : 0;
    assert_true(accepted >= 2 && accepted < 11);
    assert_int_equal(e.code, ERR_FULL);
    desk_close(d);
}

/* ---- choice ---- */

static void even_only(void *ctx, uint64_t state, uint32_t *mask)
{
    (void)ctx;
    for (int i = 0; i < TINY_VOCABULARY; i++)
        if (i % 2 != (int)(state % 2)) mask[i / 32] &= ~(1u << (i % 32));
}

static uint64_t flip(void *ctx, uint64_t state, int32_t id)
{
    (void)ctx;
    (void)id;
    return state + 1;
}

static void a_constraint_is_obeyed_and_survives_going_on_elsewhere(void **state)
{
    (void)state;
    struct desk *d = desk_open(GGUF_Q8_0, (struct engine_options){0});
    int32_t ids[10];
    struct engine_request r = prompt(ids, 10, 2, 40);
    struct engine_constraint c = {.mask = even_only, .advance = flip};
    r.constraint = &c;
    struct stream *s = ask_and_wait(d, 0, &r);
    for (int i = 0; i < s->count; i++) assert_int_equal(s->ids[i] % 2, i % 2);
    r.prefix = s->ids;
    r.prefix_count = 7;
    assert_same(s, ask_and_wait(d, 1, &r), 7, 40);
    desk_close(d);
}

static void seed_and_choice_decide_the_stream(void **state)
{
    (void)state;
    struct desk *d = desk_open(GGUF_Q8_0, (struct engine_options){0});
    int32_t ids[10];
    struct engine_request r = prompt(ids, 10, 2, 40);
    ask_and_wait(d, 0, &r);
    ask_and_wait(d, 1, &r);
    assert_same(&d->stream[0], &d->stream[1], 0, 40);
    r.choice = 1;
    assert_memory_not_equal(ask_and_wait(d, 1, &r)->ids, d->stream[0].ids, 40 * sizeof(int32_t));
    r.choice = 0;
    r.sampling.seed++;
    assert_memory_not_equal(ask_and_wait(d, 1, &r)->ids, d->stream[0].ids, 40 * sizeof(int32_t));
    desk_close(d);
}

static void one_users_many_requests_do_not_hold_up_anothers_one(void **state)
{
    (void)state;
    struct desk *d = desk_open(GGUF_Q8_0, (struct engine_options){.slots_max = 2});
    int32_t ids[10];
    struct engine_request r = prompt(ids, 10, 2, 60);
    r.user = 1;
    for (int i = 0; i < 8; i++) assert_int_equal(ask(d, i, &r, NULL), ERR_OK);
    r.user = 2;
    assert_int_equal(ask(d, 8, &r, NULL), ERR_OK);
    for (int i = 0; i < 9; i++) (void)await(d, i);
    assert_true(d->stream[8].order < 6);
    desk_close(d);
}

static void the_model_tells_of_itself(void **state)
{
    (void)state;
    struct desk *d = desk_open(GGUF_Q4_0, (struct engine_options){0}), *same = desk_open(GGUF_Q4_0, (struct engine_options){0});
    struct engine_info a, b;
    engine_info(d->engine, &a);
    engine_info(same->engine, &b);
    assert_string_equal(a.name, "tiny");
    assert_string_equal(a.architecture, "llama");
    assert_string_equal(a.quantization, "Q4_0");
    assert_int_equal(a.vocabulary, TINY_VOCABULARY);
    assert_int_equal(strlen(a.identity), 64);
    assert_string_equal(a.identity, b.identity);
    assert_string_equal(a.identity, "9986fb85400c2495d47037ec28ebb6f6c810267582c9cb17048ab1d33847287a"); /* whatever instructions hashed it */
    desk_close(same);
    same = desk_open(GGUF_Q4_1, (struct engine_options){0});
    engine_info(same->engine, &b);
    assert_string_not_equal(a.identity, b.identity);
    desk_close(same);
    desk_close(d);
    static const enum gguf_type OURS[] = {GGUF_FP8, GGUF_W4A16};
    for (size_t i = 0; i < 2; i++) {
        d = desk_open(OURS[i], (struct engine_options){0});
        engine_info(d->engine, &a);
        assert_string_equal(a.quantization, gguf_type_info(OURS[i])->name);
        desk_close(d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_is_the_same_alone_and_among_others),
        cmocka_unit_test(a_stream_goes_on_elsewhere_from_its_tokens),
        cmocka_unit_test(a_shared_beginning_comes_from_the_cache_and_changes_nothing),
        cmocka_unit_test(preempted_streams_are_computed_again),
        cmocka_unit_test(a_cache_of_q8_0_holds_more_and_changes_nothing_but_a_little),
        cmocka_unit_test(speculation_changes_the_steps_and_not_the_stream),
        cmocka_unit_test(a_cancelled_stream_ends_soon),
        cmocka_unit_test(a_step_that_nobody_wants_any_more_is_left_between_two_pieces_of_work),
        cmocka_unit_test(closing_ends_every_stream),
        cmocka_unit_test(a_stop_string_ends_the_text_before_it),
        cmocka_unit_test(limits_are_answered_with_the_lengths),
        cmocka_unit_test(a_constraint_is_obeyed_and_survives_going_on_elsewhere),
        cmocka_unit_test(seed_and_choice_decide_the_stream),
        cmocka_unit_test(one_users_many_requests_do_not_hold_up_anothers_one),
        cmocka_unit_test(the_model_tells_of_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
