/* Speculation with a draft model: whatever it guesses, the streams are those without it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/model_quantize.h"
#include "engine/sched.h"
#include "engine/sched_ahead.h"
#include "engine/tokenizer.h"
#include "tests/engine/fake_gpu.h"
#include "tests/engine/tiny_model.h"

#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

/* ---- asking, of an engine or of a scheduler ---- */

enum { STREAMS = 8, TOKENS_MAX = 1600 };

struct stream {
    struct desk *desk;
    bool ended;
    int count, cancel_at;
    int32_t ids[TOKENS_MAX];
    float logprob[TOKENS_MAX], entropy[TOKENS_MAX], top[TOKENS_MAX];
    char text[TOKENS_MAX * 8];
    size_t text_len;
    struct engine_end end;
};

struct desk {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct engine *engine;
    struct sched *sched;
    struct stream stream[STREAMS];
};

static void on_token(void *ctx, uint64_t id, const struct engine_token *t)
{
    struct stream *s = ctx;
    s->ids[s->count] = t->id;
    s->logprob[s->count] = t->logprob;
    s->entropy[s->count] = t->entropy;
    if (t->top_count) s->top[s->count] = t->top[t->top_count - 1].logprob;
    memcpy(s->text + s->text_len, t->text, t->text_len);
    s->text_len += t->text_len;
    if (++s->count != s->cancel_at) return;
    if (s->desk->engine) engine_cancel(s->desk->engine, id);
    else sched_cancel(s->desk->sched, id);
}

static void on_done(void *ctx, uint64_t id, const struct engine_end *end)
{
    struct stream *s = ctx;
    (void)id;
    memcpy(s->text + s->text_len, end->text, end->text_len);
    s->text_len += end->text_len;
    s->end = *end;
    (void)pthread_mutex_lock(&s->desk->lock);
    s->ended = true;
    (void)pthread_cond_signal(&s->desk->changed);
    (void)pthread_mutex_unlock(&s->desk->lock);
}

static void on_error(void *ctx, uint64_t id, const struct err *e)
{
    (void)ctx;
    fail_msg("stream %llu: %s", (unsigned long long)id, e->msg);
}

static void ask(struct desk *d, int i, const struct engine_request *r, int cancel_at)
{
    struct stream *s = &d->stream[i];
    struct err e = {0};
    memset(s, 0, sizeof *s);
    s->desk = d;
    s->cancel_at = cancel_at;
    const struct engine_sink sink = {.ctx = s, .on_token = on_token, .on_done = on_done, .on_error = on_error};
    enum err_code code = d->engine ? engine_submit(d->engine, (uint64_t)i, r, &sink, &e) : sched_submit(d->sched, (uint64_t)i, r, &sink, &e);
    if (code) fail_msg("%s", e.msg);
}

static struct stream *await(struct desk *d, int i)
{
    (void)pthread_mutex_lock(&d->lock);
    while (!d->stream[i].ended) (void)pthread_cond_wait(&d->changed, &d->lock);
    (void)pthread_mutex_unlock(&d->lock);
    return &d->stream[i];
}

static struct engine_stats stats_of(struct desk *d)
{
    struct engine_stats st;
    if (d->engine) engine_stats(d->engine, &st);
    else sched_stats(d->sched, &st);
    return st;
}

static struct desk *desk_new(void)
{
    struct desk *d = calloc(1, sizeof *d);
    assert_non_null(d);
    (void)pthread_mutex_init(&d->lock, NULL);
    (void)pthread_cond_init(&d->changed, NULL);
    return d;
}

static void desk_free(struct desk *d)
{
    (void)pthread_mutex_destroy(&d->lock);
    (void)pthread_cond_destroy(&d->changed);
    free(d);
}

static struct desk *open_engine(struct engine_options options)
{
    struct desk *d = desk_new();
    struct err e = {0};
    if (!options.threads) options.threads = 2;
    if (engine_open(&d->engine, &options, &e)) fail_msg("%s", e.msg);
    return d;
}

static void close_engine(struct desk *d)
{
    engine_close(d->engine);
    desk_free(d);
}

static void assert_same(const struct stream *a, const struct stream *b)
{
    assert_int_equal(a->count, b->count);
    assert_memory_equal(a->ids, b->ids, (size_t)a->count * sizeof *a->ids);
    assert_memory_equal(a->logprob, b->logprob, (size_t)a->count * sizeof *a->logprob);
    assert_memory_equal(a->entropy, b->entropy, (size_t)a->count * sizeof *a->entropy);
    assert_memory_equal(a->top, b->top, (size_t)a->count * sizeof *a->top);
    assert_int_equal(a->text_len, b->text_len);
    assert_memory_equal(a->text, b->text, a->text_len);
    assert_int_equal(a->end.finish, b->end.finish);
    assert_int_equal(a->end.completion_tokens, b->end.completion_tokens);
}

/* ---- model files: one and its coarser copy, which often agrees with it; and one that never does ---- */

static char folder[64], target[96], coarse[96], other[96], changed[96];

static void quantize(const char *from, const char *to, const char *type)
{
    struct quantize_mix mix;
    struct err e = {0};
    assert_true(quantize_mix_find(type, &mix));
    if (quantize_file(from, to, &mix, NULL, NULL, &e)) fail_msg("%s", e.msg);
}

static int make_files(void **state)
{
    (void)state;
    char plain[96];
    (void)snprintf(folder, sizeof folder, "/tmp/rung-draft-XXXXXX");
    assert_non_null(mkdtemp(folder));
    (void)snprintf(plain, sizeof plain, "%s/plain", folder);
    (void)snprintf(target, sizeof target, "%s/target", folder);
    (void)snprintf(coarse, sizeof coarse, "%s/coarse", folder);
    (void)snprintf(other, sizeof other, "%s/other", folder);
    (void)snprintf(changed, sizeof changed, "%s/changed", folder);
    struct gguf_builder g = {0};
    tiny_model_build(&g, GGUF_F32, 11);
    gguf_builder_write(&g, plain);
    quantize(plain, target, "Q8_0");
    quantize(plain, coarse, "Q4_0");
    g = (struct gguf_builder){0};
    tiny_model_build(&g, GGUF_Q4_0, 12);
    gguf_builder_write(&g, other);
    g = (struct gguf_builder){0};
    tiny_model_build(&g, GGUF_Q4_0, 12);
    size_t len;
    unsigned char *data = gguf_builder_finish(&g, &len), *at = memmem(data, len, "<|x270|>", 8);
    assert_non_null(at);
    at[2] = 'y';
    FILE *f = fopen(changed, "wb");
    assert_true(f && fwrite(data, 1, len, f) == len && fclose(f) == 0);
    free(data);
    (void)unlink(plain);
    return 0;
}

static int remove_files(void **state)
{
    (void)state;
    (void)unlink(target);
    (void)unlink(coarse);
    (void)unlink(other);
    (void)unlink(changed);
    return rmdir(folder);
}

/* ---- requests of many kinds ---- */

static void odd_after_even(void *ctx, uint64_t state, uint32_t *mask)
{
    (void)ctx;
    for (int i = 0; i < TINY_VOCABULARY; i++)
        if (i % 2 == (int)(state % 2)) mask[i / 32] &= ~(1u << (i % 32));
}

static uint64_t step(void *ctx, uint64_t state, int32_t id)
{
    (void)ctx;
    return state * 31 + (uint64_t)id;
}

enum { GREEDY, DRAWN, NARROWED, PENALIZED, BIASED, CONSTRAINED, ALTERNATIVES, ENDING, KINDS };

static struct engine_request kind_of(int kind, uint64_t seed, int32_t *ids, int count, int tokens)
{
    static const struct engine_bias BIAS[] = {{7, 3}, {9, -2}};
    static const struct engine_constraint TURNS = {.mask = odd_after_even, .advance = step};
    uint64_t state = seed + 100;
    for (int i = 0; i < count; i++) ids[i] = (int32_t)(tiny_random(&state) % 256);
    struct engine_request r = {.prompt = ids, .prompt_count = count, .max_tokens = tokens, .ignore_eos = kind != ENDING,
                               .sampling = ENGINE_SAMPLING_GREEDY};
    r.sampling.seed = seed;
    if (kind == GREEDY) return r;
    r.sampling.temperature = 1;
    if (kind == NARROWED) r.sampling.top_p = 0.9f, r.sampling.top_k = 20;
    if (kind == PENALIZED) r.sampling.repeat_penalty = 1.3f, r.sampling.frequency_penalty = 0.5f;
    if (kind == BIASED) r.sampling.bias = BIAS, r.sampling.bias_count = 2;
    if (kind == CONSTRAINED) r.constraint = &TURNS;
    if (kind == ALTERNATIVES) r.top_logprobs = 3;
    return r;
}

/* Every kind at once in `with`, one by one without a draft model. */
static void compare_kinds(struct desk *with, uint64_t seed, int tokens)
{
    static int32_t ids[KINDS][64];
    struct engine_request r[KINDS];
    struct desk *plain = open_engine((struct engine_options){.path = target, .slots_max = 1, .draft_tokens = -1});
    for (int kind = 0; kind < KINDS; kind++) {
        r[kind] = kind_of(kind, seed, ids[kind], 20 + kind * 5, tokens);
        ask(with, kind, &r[kind], 0);
    }
    for (int kind = 0; kind < KINDS; kind++) {
        ask(plain, kind, &r[kind], 0);
        assert_same(await(plain, kind), await(with, kind));
        assert_true(kind == ENDING || with->stream[kind].count == tokens);
    }
    close_engine(plain);
}

static void the_streams_are_the_same_with_any_draft_model(void **state)
{
    (void)state;
    const char *drafts[] = {target, coarse, other};
    for (int i = 0; i < 3; i++) {
        for (int look = -1; look <= 0; look++) {
            struct desk *with = open_engine((struct engine_options){.path = target, .draft = drafts[i], .draft_always = true,
                                                                    .draft_tokens = look, .slots_max = 5, .prefill_tokens = 23, .context_tokens = 256});
            for (uint64_t seed = 1; seed <= 3; seed++) compare_kinds(with, seed, 60);
            struct engine_stats st = stats_of(with);
            assert_true(st.draft_guessed_tokens > 500 && st.draft_steps > 200);
            if (look) assert_int_equal(st.guessed_tokens, st.draft_guessed_tokens);
            /* The same model foretells everything but what an end cuts off; another one by chance. */
            if (i == 0) assert_true(st.draft_kept_tokens > st.draft_guessed_tokens * 9 / 10);
            if (i == 1) assert_true(st.draft_kept_tokens > st.draft_guessed_tokens / 10);
            if (i == 2) assert_true(st.draft_kept_tokens < st.draft_guessed_tokens / 10);
            close_engine(with);
        }
    }
}

/* Greedy or drawn: with the same logits the same random number gives the same token. */
static void a_draft_model_that_is_the_model_is_always_right(void **state)
{
    (void)state;
    int32_t ids[64];
    for (int kind = GREEDY; kind <= CONSTRAINED; kind++) {
        struct desk *d = open_engine((struct engine_options){.path = target, .draft = target, .draft_always = true, .draft_tokens = -1});
        struct engine_request r = kind_of(kind, 5, ids, 50, 80);
        ask(d, 0, &r, 0);
        assert_int_equal(await(d, 0)->count, 80);
        struct engine_stats st = stats_of(d);
        assert_int_equal(st.draft_kept_tokens, st.draft_guessed_tokens);
        assert_int_equal(st.draft_guessed_tokens, 69); /* 80 tokens: the first, then 9 steps of 8 and one of 7 */
        assert_int_equal(st.steps, 11);
        close_engine(d);
    }
}

static void short_pages_and_preemption_change_nothing(void **state)
{
    (void)state;
    const int64_t page = (int64_t)TINY_LAYERS * 2 * TINY_KV_HEADS * (TINY_EMBEDDING / TINY_HEADS) * 32 * 2;
    struct desk *d = open_engine((struct engine_options){.path = target, .draft = coarse, .draft_always = true, .slots_max = 5,
                                                         .context_tokens = 256, .kv_bytes_max = 11 * page, .prefill_tokens = 23,
                                                         .admit_early = true});
    compare_kinds(d, 4, 150);
    assert_true(stats_of(d).preemptions > 0);
    assert_int_equal(stats_of(d).pages_used, 0);
    close_engine(d);
}

static void a_prompt_from_the_cache_is_in_the_draft_models_too(void **state)
{
    (void)state;
    int32_t ids[160];
    struct desk *d = open_engine((struct engine_options){.path = target, .draft = target, .draft_always = true, .draft_tokens = -1,
                                                         .prefill_tokens = 16});
    struct engine_request r = kind_of(GREEDY, 6, ids, 160, 40);
    ask(d, 0, &r, 0);
    (void)await(d, 0);
    assert_int_equal(stats_of(d).steps, 10 + 9 + 4); /* the prompt; while the draft model catches up by 17 a step; 30 tokens by 8 */
    ask(d, 1, &r, 0);
    assert_same(await(d, 0), await(d, 1));
    assert_int_equal(d->stream[1].end.cached_tokens, 128);
    assert_int_equal(stats_of(d).steps - 23, 2 + 5); /* 32 of the prompt; 39 tokens by 8 at once: its pages hold all 160 */
    close_engine(d);
}

static void cancelled_streams_leave_the_others_as_they_are(void **state)
{
    (void)state;
    int32_t ids[STREAMS][64];
    struct engine_request r[STREAMS];
    struct desk *d = open_engine((struct engine_options){.path = target, .draft = coarse, .draft_always = true, .slots_max = 5});
    struct desk *plain = open_engine((struct engine_options){.path = target, .slots_max = 1});
    for (int i = 0; i < STREAMS; i++) {
        r[i] = kind_of(i % 2, 20 + (uint64_t)i, ids[i], 40, 90);
        ask(d, i, &r[i], i % 3 == 0 ? 5 + i : 0);
    }
    for (int i = 0; i < STREAMS; i++) {
        struct stream *s = await(d, i);
        if (i % 3 == 0) {
            assert_int_equal(s->end.finish, ENGINE_FINISH_CANCELLED);
            continue;
        }
        ask(plain, i, &r[i], 0);
        assert_same(await(plain, i), s);
    }
    close_engine(d);
    close_engine(plain);
}

static void a_stop_string_within_guesses_ends_the_text(void **state)
{
    (void)state;
    int32_t ids[64];
    struct desk *d = open_engine((struct engine_options){.path = target, .draft = target, .draft_always = true});
    struct desk *plain = open_engine((struct engine_options){.path = target});
    struct engine_bias ascii[TINY_VOCABULARY - 128];
    struct engine_request r = kind_of(GREEDY, 6, ids, 10, 60);
    for (int i = 0; i < TINY_VOCABULARY - 128; i++) ascii[i] = (struct engine_bias){i + 128, -100};
    r.sampling.temperature = 1;
    r.sampling.bias = ascii;
    r.sampling.bias_count = TINY_VOCABULARY - 128;
    ask(plain, 0, &r, 0);
    (void)await(plain, 0);
    for (int at = 3; at < 40; at += 4) {
        char stop[4] = {0};
        memcpy(stop, plain->stream[0].text + at, 3);
        const char *stops[] = {stop};
        r.stop = stops;
        r.stop_count = 1;
        ask(plain, 1, &r, 0);
        ask(d, 1, &r, 0);
        assert_same(await(plain, 1), await(d, 1));
        assert_int_equal(d->stream[1].end.finish, ENGINE_FINISH_STOP);
    }
    close_engine(d);
    close_engine(plain);
}

/* ---- where it does not pay ---- */

/* The draft model is as large as the model and never right: each of its steps costs about a token. */
static void what_does_not_pay_is_soon_left(void **state)
{
    (void)state;
    int32_t ids[64];
    struct desk *d = open_engine((struct engine_options){.path = target, .draft = other, .draft_tokens = -1, .context_tokens = 1024});
    for (int i = 0; i < 3; i++) {
        struct engine_request r = kind_of(DRAWN, 30 + (uint64_t)i, ids, 40, 900);
        ask(d, 0, &r, 0);
        assert_int_equal(await(d, 0)->count, 900);
    }
    struct engine_stats st = stats_of(d);
    assert_true(st.draft_steps > 0);
    assert_true(st.draft_steps < 270); /* a tenth; by the account it is 8 tokens and one in a hundred */
    close_engine(d);
}

static void costs_are_the_least_of_late_and_between_neighbours(void **state)
{
    (void)state;
    struct step_cost c = {0};
    assert_true(cost_of(&c, 3) == 0 && !cost_known(&c, 1));
    cost_learn(&c, 1, 9); /* something else ran */
    assert_false(cost_known(&c, 1));
    cost_learn(&c, 1, 1);
    assert_true(cost_known(&c, 1) && cost_of(&c, 1) == 1);
    cost_learn(&c, 1, 1e9); /* a machine that stood still counts as four times as slow, a sixteenth of it */
    assert_true(cost_of(&c, 1) > 1 && cost_of(&c, 1) < 1.2);
    cost_learn(&c, 1, 1);
    assert_true(cost_of(&c, 7) == 1 && cost_of_column(&c, 1) == 0);
    cost_learn(&c, 5, 2);
    assert_true(fabs(cost_of(&c, 3) - 1.5) < 1e-9 && fabs(cost_of(&c, 9) - 3) < 1e-9);
    assert_true(fabs(cost_of_column(&c, 1) - 0.25) < 1e-9);
    cost_learn(&c, 64, 16);
    assert_true(fabs(cost_of(&c, 128) - 32) < 1e-9);
    for (int i = 0; i < 600; i++) cost_learn(&c, 5, 2);
    assert_false(cost_known(&c, 1)); /* too long ago */
}

/* ---- what is refused ---- */

static void refused(const char *draft, enum err_code code, const char *text)
{
    struct engine *engine = NULL;
    struct err e = {0};
    const struct engine_options options = {.path = target, .draft = draft, .threads = 1};
    assert_int_equal(engine_open(&engine, &options, &e), code);
    if (!strstr(e.msg, text)) fail_msg("'%s' is not in '%s'", text, e.msg);
    assert_non_null(strstr(e.msg, "draft model"));
    assert_non_null(strstr(e.msg, draft));
}

static void a_draft_file_that_will_not_do_is_named(void **state)
{
    (void)state;
    refused("/nonexistent/draft.gguf", ERR_IO, "No such file");
    refused(changed, ERR_INVALID, "its token 270 is '<|y270|>', the model's '<|x270|>'");
    refused("/dev/null", ERR_IO, "draft model");
}

static struct tokenizer *tokens_of(int count, int unused_from, bool spm)
{
    struct gguf_builder g = {0};
    struct gguf *gguf;
    struct tokenizer *t = NULL;
    struct err e = {0};
    const char *names[40];
    char text[40][12];
    int32_t types[40];
    float scores[40] = {0};
    for (int i = 0; i < count; i++) {
        (void)snprintf(text[i], sizeof text[i], "t%d", i);
        names[i] = text[i];
        types[i] = i < unused_from ? 1 : 5;
    }
    const char *merges[] = {"t 1"};
    gguf_builder_str(&g, "general.architecture", "llama");
    gguf_builder_str(&g, "tokenizer.ggml.model", spm ? "llama" : "gpt2");
    if (!spm) gguf_builder_str(&g, "tokenizer.ggml.pre", "gpt-2");
    gguf_builder_strings(&g, "tokenizer.ggml.tokens", names, (uint64_t)count);
    gguf_builder_ints(&g, "tokenizer.ggml.token_type", types, (uint64_t)count);
    if (spm) gguf_builder_floats(&g, "tokenizer.ggml.scores", scores, (uint64_t)count);
    else gguf_builder_strings(&g, "tokenizer.ggml.merges", merges, 1);
    size_t len;
    unsigned char *file = gguf_builder_finish(&g, &len);
    if (gguf_open_memory(&gguf, file, len, &e) || tokenizer_open(&t, gguf, &e)) fail_msg("%s", e.msg);
    gguf_close(gguf);
    free(file);
    return t;
}

static void tokens_must_be_the_same_but_for_padding(void **state)
{
    (void)state;
    struct tokenizer *a = tokens_of(20, 20, false), *padded = tokens_of(30, 20, false), *more = tokens_of(21, 21, false);
    struct tokenizer *spm = tokens_of(20, 20, true);
    struct err e = {0};
    assert_int_equal(tokenizer_same(a, a, &e), ERR_OK);
    assert_int_equal(tokenizer_same(a, padded, &e), ERR_OK);
    assert_int_equal(tokenizer_same(padded, a, &e), ERR_OK);
    assert_int_equal(tokenizer_same(more, a, &e), ERR_INVALID);
    assert_string_equal(e.msg, "it has 21 tokens, the model 20: 't20' is only in one");
    assert_int_equal(tokenizer_same(spm, a, &e), ERR_INVALID);
    assert_string_equal(e.msg, "its tokenizer is SPM, the model's BPE");
    tokenizer_close(a);
    tokenizer_close(padded);
    tokenizer_close(more);
    tokenizer_close(spm);
}

/* ---- a draft model that fails, or has no room, or other ends: over backends that are none ---- */

struct pair {
    struct desk *desk;
    unsigned char *file;
    struct model *model;
    struct tokenizer *tokenizer;
    struct backend *main, *draft;
};

static int good_steps; /* of the draft model's backend */
static int main_us, draft_us; /* what a step takes at least, whatever its columns */

static void pass(int us)
{
    for (int64_t end = clock_mono_us() + us; us && clock_mono_us() < end;) continue;
}

static enum err_code slow_forward(struct backend *b, const struct batch *batch, struct batch_out *out, struct err *e)
{
    pass(main_us);
    return fake_forward(b, batch, out, e);
}

static enum err_code dying_forward(struct backend *b, const struct batch *batch, struct batch_out *out, struct err *e)
{
    pass(draft_us);
    return good_steps-- > 0 ? fake_forward(b, batch, out, e) : err_set(e, ERR_INTERNAL, "the GPU has fallen off the bus");
}

static struct pair pair_open(int draft_pages, int more_tokens, int good, bool always)
{
    struct pair p = {.desk = desk_new()};
    struct gguf_builder g = {0};
    struct gguf *gguf;
    struct err e = {0};
    size_t len;
    tiny_model_build(&g, GGUF_Q8_0, 5);
    p.file = gguf_builder_finish(&g, &len);
    assert_int_equal(gguf_open_memory(&gguf, p.file, len, &e), ERR_OK);
    assert_int_equal(model_open(&p.model, gguf, 256, &e), ERR_OK);
    assert_int_equal(tokenizer_open(&p.tokenizer, gguf, &e), ERR_OK);
    struct sched_options o = {.slots_max = 3, .queue_max = 16, .context_tokens = 256, .prefill_tokens = 40, .pages = 24,
                              .draft_always = always};
    struct model *wide = malloc(sizeof *wide);
    assert_non_null(wide);
    *wide = *p.model;
    wide->vocabulary += more_tokens;
    struct backend_options d = {.pages = draft_pages, .cols_max = ahead_cols_max(o.prefill_tokens), .wanted_max = AHEAD_SLOTS_MAX};
    assert_int_equal(fake_open(&p.draft, wide, &d, &e), ERR_OK);
    good_steps = good;
    if (good >= 0) p.draft->forward = dying_forward;
    o.draft = p.draft;
    o.draft_model = wide;
    o.draft_pages = draft_pages;
    struct backend_options m = {.pages = o.pages, .cols_max = sched_cols_max(&o), .wanted_max = sched_wanted_max(&o)};
    assert_int_equal(fake_open(&p.main, p.model, &m, &e), ERR_OK);
    p.main->forward = slow_forward;
    assert_int_equal(sched_open(&p.desk->sched, p.main, p.model, p.tokenizer, &o, &e), ERR_OK);
    return p;
}

static void pair_close(struct pair *p)
{
    struct model *wide = (struct model *)(uintptr_t)((struct fake_gpu *)p->draft)->model;
    sched_close(p->desk->sched);
    p->main->close(p->main);
    p->draft->close(p->draft);
    tokenizer_close(p->tokenizer);
    model_close(p->model);
    free(wide);
    free(p->file);
    desk_free(p->desk);
}

static void run_kinds(struct pair *p)
{
    static int32_t ids[KINDS][64];
    for (int kind = 0; kind < KINDS; kind++) {
        struct engine_request r = kind_of(kind, 3, ids[kind], 20 + kind * 5, 90);
        ask(p->desk, kind, &r, 0);
    }
    for (int kind = 0; kind < KINDS; kind++) (void)await(p->desk, kind);
}

static void a_draft_model_may_fail_or_lack_pages_or_know_more_tokens(void **state)
{
    (void)state;
    const struct {
        int pages, more, good;
    } CASES[] = {{24, 0, -1}, {24, 0, 0}, {24, 0, 7}, {3, 0, -1}, {1, 0, -1}, {24, 60, -1}, {5, 60, 40}};
    struct pair plain = pair_open(1, 0, 0, true);
    run_kinds(&plain);
    assert_int_equal(stats_of(plain.desk).guessed_tokens, 0);
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        struct pair p = pair_open(CASES[i].pages, CASES[i].more, CASES[i].good, true);
        run_kinds(&p);
        for (int kind = 0; kind < KINDS; kind++) assert_same(&plain.desk->stream[kind], &p.desk->stream[kind]);
        struct engine_stats st = stats_of(p.desk);
        if (i == 0) assert_true(st.draft_kept_tokens > st.draft_guessed_tokens * 9 / 10 && st.draft_kept_tokens > 400);
        if (i == 5) assert_true(st.draft_kept_tokens > 100);
        if (CASES[i].good == 0 || CASES[i].pages == 1) assert_true(st.draft_guessed_tokens < 100);
        if (CASES[i].good > 0) assert_true(st.draft_steps <= CASES[i].good);
        pair_close(&p);
    }
    pair_close(&plain);
}

/* A draft model that is always right goes on where its steps are quick against the model's, and is left where they are not. */
static void what_pays_goes_on_and_what_does_not_is_left(void **state)
{
    (void)state;
    int32_t ids[40];
    struct engine_request r = kind_of(GREEDY, 3, ids, 40, 200);
    for (int pays = 0; pays < 2; pays++) {
        main_us = pays ? 2000 : 100;
        draft_us = pays ? 50 : 1000;
        struct pair p = pair_open(24, 0, 1 << 20, false);
        ask(p.desk, 0, &r, 0);
        assert_int_equal(await(p.desk, 0)->count, 200);
        struct engine_stats st = stats_of(p.desk);
        if (pays) assert_true(st.draft_kept_tokens > 120);
        else assert_true(st.draft_steps > 0 && st.draft_steps < 20);
        pair_close(&p);
    }
    main_us = draft_us = 0;
}

/* ---- the demo's own models ---- */

static void the_demo_models_say_the_same_with_each_others_guesses(void **state)
{
    (void)state;
    static const char *const PROMPTS[] = {"<|user|>What is 17 + 25?<|end|><|assistant|>",
                                          "<|user|>Wake me at half past six.<|end|><|assistant|>"};
    char core[256], draft[256];
    (void)snprintf(core, sizeof core, SOURCE_DIR "/models/core.q8_0.gguf");
    (void)snprintf(draft, sizeof draft, SOURCE_DIR "/models/edge.q8_0.gguf");
    if (access(core, R_OK) != 0 || access(draft, R_OK) != 0) skip();
    struct desk *with = open_engine((struct engine_options){.path = core, .draft = draft, .draft_always = true});
    struct desk *plain = open_engine((struct engine_options){.path = core, .draft_tokens = -1});
    for (int i = 0; i < 2; i++) {
        int32_t *ids;
        int count;
        struct err e = {0};
        if (engine_tokenize(plain->engine, PROMPTS[i], strlen(PROMPTS[i]), ENGINE_TOKENIZE_SPECIAL, &ids, &count, &e)) fail_msg("%s", e.msg);
        for (int seed = 0; seed < 4; seed++) {
            struct engine_request r = {.prompt = ids, .prompt_count = count, .max_tokens = 80, .sampling = ENGINE_SAMPLING_GREEDY};
            r.sampling.temperature = seed ? 1 : 0;
            r.sampling.seed = (uint64_t)seed;
            ask(plain, seed, &r, 0);
            ask(with, seed, &r, 0);
        }
        for (int seed = 0; seed < 4; seed++) assert_same(await(plain, seed), await(with, seed));
        free(ids);
    }
    assert_true(stats_of(with).draft_kept_tokens > 0);
    close_engine(plain);
    close_engine(with);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_streams_are_the_same_with_any_draft_model),
        cmocka_unit_test(a_draft_model_that_is_the_model_is_always_right),
        cmocka_unit_test(short_pages_and_preemption_change_nothing),
        cmocka_unit_test(a_prompt_from_the_cache_is_in_the_draft_models_too),
        cmocka_unit_test(cancelled_streams_leave_the_others_as_they_are),
        cmocka_unit_test(a_stop_string_within_guesses_ends_the_text),
        cmocka_unit_test(what_does_not_pay_is_soon_left),
        cmocka_unit_test(costs_are_the_least_of_late_and_between_neighbours),
        cmocka_unit_test(a_draft_file_that_will_not_do_is_named),
        cmocka_unit_test(tokens_must_be_the_same_but_for_padding),
        cmocka_unit_test(a_draft_model_may_fail_or_lack_pages_or_know_more_tokens),
        cmocka_unit_test(what_pays_goes_on_and_what_does_not_is_left),
        cmocka_unit_test(the_demo_models_say_the_same_with_each_others_guesses),
    };
    return cmocka_run_group_tests(tests, make_files, remove_files);
}
