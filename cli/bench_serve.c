/* A closed loop: each stream asks again as soon as its answer is there, with a prompt of its own.
 *
 *   all streams' first requests ─► each has given a token ─► … ─► no request is left to start, or the time is over ─► the rest
 *                                  └──────────── the window ─────────────┘
 *
 * A loop that has run for long holds answers of every age. So the first ones are half done when they come: each is given as many
 * tokens that were generated before, and the lengths that are left are spread evenly over 1 … n. */
#include "cli/bench_serve.h"

#include "base/clock.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TIMES = 2100, LOOK_EVERY_MS = 10 };
static const double RATIO = 1.01; /* of neighbouring rows of `times`, from 1 µs on */

/* How often which time was measured, to 1 %. */
struct times {
    int64_t count[TIMES], all;
};

struct stream {
    struct serve *serve;
    int64_t asked_us, last_us; /* last_us 0: no token of this request yet */
    int64_t round;             /* in which it gave its last token */
    bool begun, first, idle;   /* first: the request is the stream's first */
};

struct serve {
    const struct bench_serve *o;
    struct engine *engine;
    int vocabulary;
    int32_t *ids; /* (prompt + tokens) */
    struct stream *stream;

    pthread_mutex_t lock; /* guards all below and the streams */
    pthread_cond_t changed;
    struct err error;
    int begun, started, ended;
    int64_t start_us, open_us, close_us, last_us; /* of the run; of the window (0: not yet); of the last token */
    int64_t tokens, window_tokens, context;       /* context: the sum over the window's tokens */
    int64_t round, rounds;                        /* a round is a step: each stream gives one token at most */
    int in_round, most;
    struct times first, between;
    struct engine_stats at_open, at_close;
    int pages_most, window_started;
};

/* ---- times ---- */

static void add_time(struct times *t, int64_t us)
{
    int at = us > 1 ? (int)(log((double)us) / log(RATIO)) : 0;
    t->count[at < TIMES ? at : TIMES - 1]++;
    t->all++;
}

/* Milliseconds that the share `p` of all stays within; -1: there are none. */
static double time_at(const struct times *t, double p)
{
    int64_t so_far = 0;
    for (int i = 0; i < TIMES && t->all; i++)
        if ((double)(so_far += t->count[i]) >= p * (double)t->all) return pow(RATIO, i + 0.5) * 1e-3;
    return -1;
}

/* ---- what the engine tells, on its thread ---- */

static void open_window(struct serve *s, int64_t now)
{
    s->open_us = now;
    s->round = 1;
    engine_stats(s->engine, &s->at_open);
}

static void close_window(struct serve *s, int64_t now)
{
    if (!s->open_us || s->close_us) return;
    s->close_us = now;
    engine_stats(s->engine, &s->at_close);
}

static bool in_window(const struct serve *s)
{
    return s->open_us && !s->close_us;
}

static void count_token(struct serve *s, struct stream *q, const struct engine_token *t)
{
    s->window_tokens++;
    s->context += s->o->prompt + t->index + 1;
    if (q->round == s->round || !s->rounds) {
        s->round++;
        s->rounds++;
        s->in_round = 0;
    }
    q->round = s->round;
    if (++s->in_round > s->most) s->most = s->in_round;
}

static void on_token(void *ctx, uint64_t id, const struct engine_token *t)
{
    struct stream *q = ctx;
    struct serve *s = q->serve;
    (void)id;
    int64_t now = clock_mono_us();
    (void)pthread_mutex_lock(&s->lock);
    s->tokens++;
    s->last_us = now;
    if (in_window(s)) {
        count_token(s, q, t);
        if (q->last_us) add_time(&s->between, now - q->last_us);
        else if (q->asked_us >= s->open_us) add_time(&s->first, now - q->asked_us);
    }
    q->last_us = now;
    if (!q->begun) {
        q->begun = true;
        if (++s->begun == s->o->streams) open_window(s, now);
    }
    (void)pthread_mutex_unlock(&s->lock);
}

static bool all_started(const struct serve *s)
{
    return s->o->requests && s->started >= s->o->requests;
}

static void end(struct stream *q, const struct err *error)
{
    struct serve *s = q->serve;
    (void)pthread_mutex_lock(&s->lock);
    q->idle = true;
    s->ended++;
    if (error && !s->error.code) s->error = *error;
    if (all_started(s) || error) close_window(s, clock_mono_us());
    (void)pthread_cond_signal(&s->changed);
    (void)pthread_mutex_unlock(&s->lock);
}

static void on_done(void *ctx, uint64_t id, const struct engine_end *e)
{
    (void)id;
    (void)e;
    end(ctx, NULL);
}

static void on_error(void *ctx, uint64_t id, const struct err *error)
{
    (void)id;
    end(ctx, error);
}

/* ---- the clients' side ---- */

static uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

/* What is left of a stream's first answer: even steps, dealt out of order so that neighbours in the queue differ. */
static int first_length(const struct bench_serve *o, int stream)
{
    int64_t step = (int64_t)(o->streams * 0.618) | 1;
    while (step > 1 && o->streams % step == 0) step += 2;
    int64_t place = stream * step % o->streams;
    return (int)(o->tokens - place * o->tokens / o->streams);
}

static enum err_code ask(struct serve *s, struct stream *q, struct err *e)
{
    const struct bench_serve *o = s->o;
    const struct engine_sink sink = {.ctx = q, .on_token = on_token, .on_done = on_done, .on_error = on_error};
    int index = (int)(q - s->stream), left = q->first ? first_length(o, index) : o->tokens;
    uint64_t id = (uint64_t)s->started + 1, state = id * 0x9e3779b97f4a7c15u;
    for (int i = 0; i < o->prompt + o->tokens; i++) s->ids[i] = (int32_t)(next_random(&state) % (uint32_t)s->vocabulary);
    struct engine_request r = {.prompt = s->ids, .prompt_count = o->prompt, .max_tokens = o->tokens, .ignore_eos = true,
                               .sampling = ENGINE_SAMPLING_GREEDY};
    r.sampling.temperature = o->temperature;
    r.sampling.seed = id;
    if (o->fresh) r.max_tokens = left;
    else {
        r.prefix = s->ids + o->prompt;
        r.prefix_count = o->tokens - left;
    }
    (void)pthread_mutex_lock(&s->lock);
    q->idle = false;
    q->last_us = 0;
    q->asked_us = clock_mono_us();
    s->started++;
    s->window_started += in_window(s);
    (void)pthread_mutex_unlock(&s->lock);
    return engine_submit(s->engine, id, &r, &sink, e);
}

static bool time_is_over(const struct serve *s)
{
    return s->o->seconds > 0 && (double)(clock_mono_us() - s->start_us) * 1e-6 >= s->o->seconds;
}

/* Waits for the end of an answer, a while at most. Holds the lock. */
static void look(struct serve *s)
{
    struct timespec until;
    struct engine_stats st;
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += LOOK_EVERY_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    (void)pthread_cond_timedwait(&s->changed, &s->lock, &until);
    engine_stats(s->engine, &st);
    if (st.pages_used > s->pages_most) s->pages_most = st.pages_used;
}

/* A stream that may ask, those that never have before others; or NULL. Holds the lock. */
static struct stream *free_stream(struct serve *s)
{
    struct stream *again = NULL;
    for (int i = 0; i < s->o->streams && !all_started(s) && !s->error.code; i++) {
        struct stream *q = &s->stream[i];
        if (q->idle && q->first) return q;
        if (q->idle && !again) again = q;
    }
    return again;
}

/* Ids are 1 … started. Holds no lock. */
static void cancel_all(struct serve *s)
{
    for (int i = 1; i <= s->started; i++) engine_cancel(s->engine, (uint64_t)i);
}

static enum err_code drive(struct serve *s, struct err *e)
{
    enum err_code code = ERR_OK;
    bool over = false;
    s->start_us = clock_mono_us();
    (void)pthread_mutex_lock(&s->lock);
    for (;;) {
        struct stream *q = over || code ? NULL : free_stream(s);
        if (q) {
            (void)pthread_mutex_unlock(&s->lock);
            code = ask(s, q, e);
            q->first = false;
            (void)pthread_mutex_lock(&s->lock);
            if (code) s->started--; /* nothing will be heard of it */
        }
        if (!over && (code || s->error.code || time_is_over(s))) {
            over = true;
            close_window(s, clock_mono_us());
            (void)pthread_mutex_unlock(&s->lock);
            cancel_all(s);
            (void)pthread_mutex_lock(&s->lock);
        }
        if (q && !over) continue;
        if (s->ended >= s->started && (over || all_started(s))) break;
        look(s);
    }
    (void)pthread_mutex_unlock(&s->lock);
    if (!code && s->error.code) {
        *e = s->error;
        code = s->error.code;
    }
    if (!code && !s->open_us) code = err_set(e, ERR_TIMEOUT, "after %g s only %d of %d streams had begun: nothing was measured", s->o->seconds, s->begun, s->o->streams);
    return code;
}

/* ---- what came of it ---- */

static void show(const struct serve *s)
{
    const struct bench_serve *o = s->o;
    struct engine_info info;
    engine_info(s->engine, &info);
    double window = (double)(s->close_us - s->open_us) * 1e-6, run = (double)(s->last_us - s->start_us) * 1e-6, count = (double)s->window_tokens;
    double rate = window > 0 ? count / window : 0, together = s->rounds ? count / (double)s->rounds : 0;
    double context = count > 0 ? (double)s->context / count : 0, step = s->rounds ? window * 1e3 / (double)s->rounds : 0;
    int64_t preempted = s->at_close.preemptions - s->at_open.preemptions;
    const struct times *f = &s->first, *b = &s->between;
    if (o->json) {
        (void)printf("{\"what\":\"serve\",\"model\":\"%s\",\"type\":\"%s\",\"kernels\":\"%s\",\"device\":\"%s\",\"streams\":%d,\"prompt\":%d,\"tokens\":%d,"
                     "\"temperature\":%g,\"fresh\":%s,\"requests\":%d,\"window_requests\":%d,\"window_s\":%.6f,\"window_tokens\":%lld,"
                     "\"tokens_per_s\":%.2f,\"run_s\":%.6f,\"run_tokens\":%lld,\"run_tokens_per_s\":%.2f,\"decoding_mean\":%.2f,\"decoding_most\":%d,"
                     "\"step_ms\":%.3f,\"first_ms_p50\":%.3f,\"first_ms_p99\":%.3f,\"between_ms_p50\":%.3f,\"between_ms_p99\":%.3f,"
                     "\"preemptions\":%lld,\"run_preemptions\":%lld,\"pages_most\":%d,\"pages\":%d,\"mean_context\":%.1f}\n",
                     o->name, o->type, info.kernels, info.device, o->streams, o->prompt, o->tokens, (double)o->temperature, o->fresh ? "true" : "false",
                     s->started, s->window_started, window, (long long)s->window_tokens, rate, run, (long long)s->tokens, (double)s->tokens / run,
                     together, s->most, step, time_at(f, 0.5), time_at(f, 0.99), time_at(b, 0.5), time_at(b, 0.99), (long long)preempted,
                     (long long)s->at_close.preemptions, s->pages_most, s->at_close.pages_total, context);
        return;
    }
    (void)printf("%s%s%s: %s%s%s, %d streams, %d tokens in, %d out, temperature %g\n\n", o->name, *o->type ? " " : "", o->type, info.kernels,
                 *info.device ? ", " : "", info.device, o->streams, o->prompt, o->tokens, (double)o->temperature);
    (void)printf("window                 %10.1f tokens/s (%.1f s, %lld tokens, %d requests came)\n", rate, window, (long long)s->window_tokens, s->window_started);
    (void)printf("whole run              %10.1f tokens/s (%.1f s, %lld tokens, %d requests)\n", (double)s->tokens / run, run, (long long)s->tokens, s->started);
    (void)printf("streams in a step      %10.1f on average, %d at most; a step takes %.2f ms\n", together, s->most, step);
    (void)printf("to the first token     %10.1f ms half of the time, %.1f ms 99 of 100 times\n", time_at(f, 0.5), time_at(f, 0.99));
    (void)printf("between tokens         %10.1f ms half of the time, %.1f ms 99 of 100 times\n", time_at(b, 0.5), time_at(b, 0.99));
    (void)printf("mean context           %10.1f tokens\n", context);
    (void)printf("KV pages in use        %10d at most, of %d\n", s->pages_most, s->at_close.pages_total);
    (void)printf("preemptions            %10lld, %lld in the whole run\n", (long long)preempted, (long long)s->at_close.preemptions);
}

static enum err_code open_serve(struct serve *s, struct err *e)
{
    const struct bench_serve *o = s->o;
    struct engine_options options = o->engine;
    struct engine_info info;
    s->stream = calloc((size_t)o->streams, sizeof *s->stream);
    s->ids = malloc((size_t)(o->prompt + o->tokens) * sizeof *s->ids);
    options.slots_max = options.queue_max = o->streams;
    options.context_tokens = o->prompt + o->tokens;
    options.draft_tokens = -1; /* random texts repeat themselves as no other does: each token is computed by itself */
    enum err_code code = s->stream && s->ids ? engine_open(&s->engine, &options, e) : err_set(e, ERR_MEMORY, "no memory for %d streams", o->streams);
    if (code) return code;
    engine_info(s->engine, &info);
    s->vocabulary = info.vocabulary;
    for (int i = 0; i < o->streams; i++) s->stream[i] = (struct stream){.serve = s, .first = true, .idle = true};
    return ERR_OK;
}

enum err_code bench_serve(const struct bench_serve *o, struct err *e)
{
    struct serve *s = calloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_MEMORY, "no memory for a bench");
    s->o = o;
    (void)pthread_mutex_init(&s->lock, NULL);
    (void)pthread_cond_init(&s->changed, NULL);
    enum err_code code = open_serve(s, e);
    if (!code) code = drive(s, e);
    if (!code) show(s);
    engine_close(s->engine);
    (void)pthread_mutex_destroy(&s->lock);
    (void)pthread_cond_destroy(&s->changed);
    free(s->stream);
    free(s->ids);
    free(s);
    return code;
}
