/* The scheduler over a backend that tells statistics by itself and logits only on demand, beside one that tells all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/sched.h"
#include "engine/sched_draft.h"
#include "tests/engine/fake_gpu.h"
#include "tests/engine/tiny_model.h"

#include <pthread.h>

enum { STREAMS = 10, TOKENS = 120, TOPS = 3 };

struct stream {
    struct bench *bench;
    int count, prompt;
    int32_t ids[TOKENS];
    float logprob[TOKENS], entropy[TOKENS], margin[TOKENS], top[TOKENS][TOPS], probe_entropy, hidden;
};

struct bench {
    unsigned char *file;
    struct model *model;
    struct tokenizer *tokenizer;
    struct fake_gpu *gpu;
    struct sched *sched;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int ended;
    struct stream stream[STREAMS];
};

static void on_prefill(void *ctx, uint64_t id, const struct engine_prefill *p)
{
    struct stream *s = ctx;
    (void)id;
    s->prompt = p->prompt_tokens;
    s->probe_entropy = p->entropy;
    if (p->hidden) s->hidden = p->hidden[5];
}

static void on_token(void *ctx, uint64_t id, const struct engine_token *t)
{
    struct stream *s = ctx;
    (void)id;
    s->ids[s->count] = t->id;
    s->logprob[s->count] = t->logprob;
    s->entropy[s->count] = t->entropy;
    s->margin[s->count] = t->margin;
    for (int i = 0; i < t->top_count && i < TOPS; i++) s->top[s->count][i] = t->top[i].logprob;
    s->count++;
}

static void ended(struct bench *b)
{
    (void)pthread_mutex_lock(&b->lock);
    b->ended++;
    (void)pthread_cond_signal(&b->changed);
    (void)pthread_mutex_unlock(&b->lock);
}

static void on_done(void *ctx, uint64_t id, const struct engine_end *end)
{
    (void)id;
    (void)end;
    ended(((struct stream *)ctx)->bench);
}

static void on_error(void *ctx, uint64_t id, const struct err *e)
{
    (void)ctx;
    fail_msg("stream %llu: %s", (unsigned long long)id, e->msg);
}

static struct bench *bench_open(bool plain, struct sched_options o)
{
    struct bench *b = calloc(1, sizeof *b);
    struct gguf *gguf;
    struct err e = {0};
    size_t len;
    struct gguf_builder g = {0};
    tiny_model_build(&g, GGUF_Q8_0, 5);
    b->file = gguf_builder_finish(&g, &len);
    assert_int_equal(gguf_open_memory(&gguf, b->file, len, &e), ERR_OK);
    assert_int_equal(model_open(&b->model, gguf, o.context_tokens, &e), ERR_OK);
    assert_int_equal(tokenizer_open(&b->tokenizer, gguf, &e), ERR_OK);
    struct backend_options options = {.pages = o.pages, .cols_max = sched_cols_max(&o), .wanted_max = sched_wanted_max(&o)};
    struct backend *backend = NULL;
    assert_int_equal(fake_open(&backend, b->model, &options, &e), ERR_OK);
    b->gpu = (struct fake_gpu *)backend;
    b->gpu->plain = plain;
    if (plain) backend->rows = NULL;
    (void)pthread_mutex_init(&b->lock, NULL);
    (void)pthread_cond_init(&b->changed, NULL);
    assert_int_equal(sched_open(&b->sched, backend, b->model, b->tokenizer, &o, &e), ERR_OK);
    return b;
}

static void bench_close(struct bench *b)
{
    sched_close(b->sched);
    b->gpu->backend.close(&b->gpu->backend);
    tokenizer_close(b->tokenizer);
    model_close(b->model);
    free(b->file);
    (void)pthread_mutex_destroy(&b->lock);
    (void)pthread_cond_destroy(&b->changed);
    free(b);
}

static void ask(struct bench *b, int i, const struct engine_request *r)
{
    struct stream *s = &b->stream[i];
    *s = (struct stream){.bench = b};
    struct engine_sink sink = {.ctx = s, .on_prefill = on_prefill, .on_token = on_token, .on_done = on_done, .on_error = on_error};
    assert_int_equal(sched_submit(b->sched, (uint64_t)i + 1, r, &sink, NULL), ERR_OK);
}

static void wait_for(struct bench *b, int count)
{
    (void)pthread_mutex_lock(&b->lock);
    while (b->ended < count) (void)pthread_cond_wait(&b->changed, &b->lock);
    (void)pthread_mutex_unlock(&b->lock);
}

static void odd_only(void *ctx, uint64_t state, uint32_t *mask)
{
    (void)ctx;
    (void)state;
    for (int i = 0; i < TINY_VOCABULARY; i += 2) mask[i / 32] &= ~(1u << (i % 32));
}

static uint64_t stay(void *ctx, uint64_t state, int32_t id)
{
    (void)ctx;
    (void)id;
    return state;
}

/* One request of each kind; those below `PLAIN` need no logits, those up to FLAT the tops of rows. */
enum { GREEDY, GREEDY_HIDDEN, TOP_1, PLAIN, DRAWN = PLAIN, BIASED, PENALIZED, CONSTRAINED, ALTERNATIVES, FLAT, TYPICAL };

static struct engine_request kind_of(int kind, int32_t *ids, int count)
{
    static const struct engine_bias BIAS[] = {{7, 9}};
    static const struct engine_constraint ODD = {.mask = odd_only, .advance = stay};
    struct engine_request r = {.prompt = ids, .prompt_count = count, .max_tokens = TOKENS, .ignore_eos = true,
                               .sampling = ENGINE_SAMPLING_GREEDY};
    for (int i = 0; i < count; i++) ids[i] = (i % 11) * (kind + 3) % 250; /* repeats itself: there is something to guess */
    r.sampling.seed = 9;
    r.want_hidden = kind == GREEDY_HIDDEN;
    if (kind == TOP_1) r.sampling.temperature = 1;
    if (kind == TOP_1) r.sampling.top_k = 1;
    if (kind == DRAWN) r.sampling.temperature = 1;
    if (kind == BIASED) r.sampling.bias = BIAS;
    if (kind == BIASED) r.sampling.bias_count = 1;
    if (kind == PENALIZED) r.sampling.frequency_penalty = 2;
    if (kind == CONSTRAINED) r.constraint = &ODD;
    if (kind == ALTERNATIVES) r.top_logprobs = TOPS;
    if (kind == FLAT) r.sampling.temperature = 1e6f;
    if (kind == TYPICAL) r.sampling.temperature = 1;
    if (kind == TYPICAL) r.sampling.typical_p = 0.5f;
    return r;
}

static const struct sched_options OPTIONS = {.slots_max = 5, .queue_max = 16, .context_tokens = 256, .prefill_tokens = 40,
                                             .draft_tokens = DRAFT_MAX, .pages = 40};

static void a_backend_that_tells_only_what_is_asked_gives_the_same_streams(void **state)
{
    (void)state;
    struct bench *all = bench_open(true, OPTIONS), *gpu = bench_open(false, OPTIONS);
    int32_t ids[50 + STREAMS * 5];
    for (int kind = GREEDY; kind < STREAMS; kind++) {
        struct engine_request r = kind_of(kind, ids, 50 + kind * 5);
        ask(all, kind, &r);
        ask(gpu, kind, &r);
    }
    wait_for(all, STREAMS);
    wait_for(gpu, STREAMS);
    for (int kind = GREEDY; kind < STREAMS; kind++) {
        struct stream *a = &all->stream[kind], *g = &gpu->stream[kind];
        assert_int_equal(a->count, TOKENS);
        a->bench = g->bench = NULL;
        for (int i = 0; i < a->count; i++) assert_true(isfinite(g->logprob[i]) && g->logprob[i] < 0);
        assert_memory_equal(a, g, sizeof *a);
    }
    bench_close(all);
    bench_close(gpu);
}

static void rows_are_asked_for_only_where_they_are_looked_at(void **state)
{
    (void)state;
    int32_t ids[50 + STREAMS * 5];
    for (int kind = GREEDY; kind <= TYPICAL; kind++) {
        struct bench *gpu = bench_open(false, OPTIONS);
        struct engine_request r = kind_of(kind, ids, 60);
        ask(gpu, 0, &r);
        wait_for(gpu, 1);
        struct fake_gpu *f = gpu->gpu;
        assert_int_equal(gpu->stream[0].count, TOKENS);
        assert_int_equal(f->needed, kind == TYPICAL ? f->rows : 0);
        assert_int_equal(f->listed, kind < PLAIN || kind == TYPICAL ? 0 : f->rows);
        bool behind = kind == BIASED || kind == FLAT; /* its token may stand behind the list's end; a draw may fall there */
        if (behind) assert_true(f->fetched < f->rows / 3 && (kind == BIASED || f->fetched > 0));
        else assert_int_equal(f->fetched, 0);
        assert_true(f->rows >= TOKENS);
        bench_close(gpu);
    }
}

/* Draws that the lists do not decide: all streams' rows of a step in one go. */
static void rows_that_are_needed_whole_come_together(void **state)
{
    (void)state;
    struct sched_options options = OPTIONS;
    options.draft_tokens = 0;
    struct bench *gpu = bench_open(false, options), *all = bench_open(true, options);
    int32_t ids[STREAMS][60];
    for (int i = 0; i < STREAMS; i++) {
        struct engine_request r = kind_of(FLAT, ids[i], 50);
        r.sampling.seed = (uint64_t)i;
        ask(gpu, i, &r);
        ask(all, i, &r);
    }
    wait_for(gpu, STREAMS);
    wait_for(all, STREAMS);
    struct engine_stats st;
    sched_stats(gpu->sched, &st);
    assert_true(gpu->gpu->fetched > STREAMS);
    assert_true(gpu->gpu->fetches < gpu->gpu->fetched && gpu->gpu->fetches <= st.steps);
    for (int i = 0; i < STREAMS; i++) assert_memory_equal(gpu->stream[i].ids, all->stream[i].ids, sizeof gpu->stream[i].ids);
    bench_close(gpu);
    bench_close(all);
}

/* Going on from tokens of elsewhere, the prompt's last position is looked at for its hidden state alone. */
static void the_probes_row_needs_no_logits(void **state)
{
    (void)state;
    struct bench *gpu = bench_open(false, OPTIONS);
    int32_t ids[90], prefix[] = {3, 4, 5};
    struct engine_request r = kind_of(DRAWN, ids, 60);
    r.want_hidden = true;
    r.prefix = prefix;
    r.prefix_count = 3;
    r.max_tokens = 4;
    ask(gpu, 0, &r);
    wait_for(gpu, 1);
    assert_int_equal(gpu->gpu->rows, 2);
    assert_int_equal(gpu->gpu->listed, 1);
    assert_int_equal(gpu->gpu->needed, 0);
    assert_true(gpu->stream[0].hidden != 0);
    bench_close(gpu);
}

/* ---- who may run ---- */

static struct engine_request of_length(int32_t *ids, int prompt, int tokens, int seed)
{
    for (int i = 0; i < prompt; i++) ids[i] = (i * 7 + seed * 31) % 250;
    return (struct engine_request){.prompt = ids, .prompt_count = prompt, .max_tokens = tokens, .ignore_eos = true,
                                   .sampling = ENGINE_SAMPLING_GREEDY};
}

/* Ten streams of 40 + 100 tokens, 5 pages each, over 12 pages: the backend's text shows any page that was lost or shared wrongly. */
static struct engine_stats run_short_of_pages(bool early, struct stream *streams)
{
    struct sched_options options = OPTIONS;
    options.slots_max = STREAMS;
    options.draft_tokens = 0;
    options.pages = 12;
    options.admit_early = early;
    struct bench *b = bench_open(false, options);
    int32_t ids[STREAMS][40];
    for (int i = 0; i < STREAMS; i++) {
        struct engine_request r = of_length(ids[i], 40, 100, i);
        ask(b, i, &r);
    }
    wait_for(b, STREAMS);
    struct engine_stats st;
    sched_stats(b->sched, &st);
    memcpy(streams, b->stream, sizeof b->stream);
    bench_close(b);
    return st;
}

static void none_is_preempted_that_could_be_foreseen(void **state)
{
    (void)state;
    static struct stream foreseen[STREAMS], early[STREAMS];
    struct engine_stats st = run_short_of_pages(false, foreseen), thrash = run_short_of_pages(true, early);
    assert_int_equal(st.preemptions, 0);
    assert_true(thrash.preemptions > STREAMS);
    assert_true(st.steps < STREAMS * 101 * 2 / 3); /* and yet two and more run together */
    for (int i = 0; i < STREAMS; i++) {
        assert_int_equal(foreseen[i].count, 100);
        assert_memory_equal(foreseen[i].ids, early[i].ids, sizeof early[i].ids);
    }
}

/* Pages that several hold are needed once: five with 192 common tokens (6 pages) and some of their own fit 16 pages. */
static void a_common_beginning_counts_once(void **state)
{
    (void)state;
    struct sched_options options = OPTIONS;
    options.draft_tokens = 0;
    options.pages = 16;
    options.prefill_tokens = 256;
    struct bench *b = bench_open(false, options);
    int32_t ids[200];
    struct engine_request r = of_length(ids, 193, 2, 1);
    ask(b, 0, &r);
    wait_for(b, 1);
    for (int i = 1; i <= 5; i++) { /* each after another, so that the first holds the pages when the next comes */
        r = of_length(ids, 193, 40, 1);
        r.sampling.temperature = 1;
        r.sampling.seed = (uint64_t)i;
        ask(b, i, &r);
    }
    wait_for(b, 6);
    struct engine_stats st;
    sched_stats(b->sched, &st);
    assert_int_equal(st.preemptions, 0);
    assert_true(st.steps <= 2 + 2 * 40 + 5); /* not one after another: that would be 200 */
    bench_close(b);
}

/* ---- what is told of it ---- */

struct gate { /* a stream that stops at its n-th token until it is let go */
    struct stream stream;
    int at;
    bool there, open;
};

static void on_gated(void *ctx, uint64_t id, const struct engine_token *t)
{
    struct gate *g = ctx;
    struct bench *b = g->stream.bench;
    (void)id;
    if (t->index != g->at) return;
    (void)pthread_mutex_lock(&b->lock);
    g->there = true;
    (void)pthread_cond_broadcast(&b->changed);
    while (!g->open) (void)pthread_cond_wait(&b->changed, &b->lock);
    (void)pthread_mutex_unlock(&b->lock);
}

static void empty_positions_of_pages_are_counted(void **state)
{
    (void)state;
    struct bench *b = bench_open(false, OPTIONS);
    int32_t ids[90];
    struct engine_request r = kind_of(DRAWN, ids, 33); /* two pages, one position in the second */
    struct gate g = {.stream = {.bench = b}, .at = 1};
    struct engine_sink sink = {.ctx = &g, .on_token = on_gated, .on_done = on_done, .on_error = on_error};
    assert_int_equal(sched_submit(b->sched, 1, &r, &sink, NULL), ERR_OK);
    (void)pthread_mutex_lock(&b->lock);
    while (!g.there) (void)pthread_cond_wait(&b->changed, &b->lock);
    (void)pthread_mutex_unlock(&b->lock);
    struct engine_stats st;
    sched_stats(b->sched, &st); /* as the first step left it: 33 positions computed, 31 empty */
    assert_int_equal(st.pages_used, 2);
    assert_int_equal(st.pages_fragmented, 1);
    assert_int_equal(st.batch_last, 33);
    (void)pthread_mutex_lock(&b->lock);
    g.open = true;
    (void)pthread_cond_broadcast(&b->changed);
    (void)pthread_mutex_unlock(&b->lock);
    wait_for(b, 1);
    sched_stats(b->sched, &st);
    assert_int_equal(st.pages_used, 0);
    assert_int_equal(st.pages_fragmented, 0);
    assert_true(st.batch_last >= 1 && st.batch_last <= 1 + DRAFT_MAX);
    bench_close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_backend_that_tells_only_what_is_asked_gives_the_same_streams),
        cmocka_unit_test(rows_are_asked_for_only_where_they_are_looked_at),
        cmocka_unit_test(rows_that_are_needed_whole_come_together),
        cmocka_unit_test(the_probes_row_needs_no_logits),
        cmocka_unit_test(none_is_preempted_that_could_be_foreseen),
        cmocka_unit_test(a_common_beginning_counts_once),
        cmocka_unit_test(empty_positions_of_pages_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
