#include "node/local_warm.h"

#include "base/clock.h"
#include "base/textlog.h"

#include <pthread.h>
#include <stdlib.h>

enum { LIMIT_MS = 300000, LOOK_MS = 50, SHORT_PROMPT = 16, TOKENS = 4, STEP_CPU = 256, STEP_GPU = 2048 };

struct warming {
    struct engine *engine;
    const atomic_bool *stop;
    int vocabulary;
    uint64_t last_id;
    int64_t until_ms;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int running;
    struct err error; /* the first; code ERR_OK: none */
};

static void ended(struct warming *w, const struct err *error)
{
    (void)pthread_mutex_lock(&w->lock);
    w->running--;
    if (error && !w->error.code) w->error = *error;
    (void)pthread_cond_signal(&w->changed);
    (void)pthread_mutex_unlock(&w->lock);
}

static void on_token(void *ctx, uint64_t id, const struct engine_token *token)
{
    (void)ctx;
    (void)id;
    (void)token;
}

static void on_done(void *ctx, uint64_t id, const struct engine_end *end)
{
    (void)id;
    (void)end;
    ended(ctx, NULL);
}

static void on_error(void *ctx, uint64_t id, const struct err *error)
{
    (void)id;
    ended(ctx, error);
}

/* Queue one; no two begin alike, so that none finds another's pages. */
static enum err_code ask(struct warming *w, int32_t *prompt, int count, struct err *e)
{
    const struct engine_request request = {.prompt = prompt, .prompt_count = count, .max_tokens = TOKENS, .ignore_eos = true,
                                           .sampling = ENGINE_SAMPLING_GREEDY};
    const struct engine_sink sink = {.ctx = w, .on_token = on_token, .on_done = on_done, .on_error = on_error};
    uint64_t id = ++w->last_id;
    for (int i = 0; i < count; i++) prompt[i] = (int32_t)(((uint64_t)i * 40503 + id * 2654435761u) % (uint64_t)w->vocabulary);
    (void)pthread_mutex_lock(&w->lock);
    w->running++;
    (void)pthread_mutex_unlock(&w->lock);
    enum err_code code = engine_submit(w->engine, id, &request, &sink, e);
    if (code) ended(w, NULL);
    return code;
}

/* Until all that was asked has ended; what runs past the limit, or a stop, is cancelled. */
static enum err_code wait_for_all(struct warming *w, struct err *e)
{
    bool cancelled = false, late = false;
    (void)pthread_mutex_lock(&w->lock);
    while (w->running > 0) {
        int64_t due_us = clock_mono_us() + LOOK_MS * 1000;
        const struct timespec due = {due_us / 1000000, due_us % 1000000 * 1000};
        (void)pthread_cond_timedwait(&w->changed, &w->lock, &due);
        late |= clock_mono_ms() > w->until_ms;
        if (cancelled || !(late || atomic_load(w->stop))) continue;
        cancelled = true;
        (void)pthread_mutex_unlock(&w->lock);
        for (uint64_t id = 1; id <= w->last_id; id++) engine_cancel(w->engine, id);
        (void)pthread_mutex_lock(&w->lock);
    }
    struct err error = w->error;
    (void)pthread_mutex_unlock(&w->lock);
    if (error.code) return err_set(e, error.code, "%s", error.msg);
    return late ? err_set(e, ERR_TIMEOUT, "it took more than %d s", LIMIT_MS / 1000) : ERR_OK;
}

/* `count` at once. A queue that takes no more of them has shown how many come together. */
static enum err_code run(struct warming *w, int32_t *prompt, int tokens, int count, struct err *e)
{
    struct err why = {0};
    enum err_code code = ERR_OK;
    for (int i = 0; i < count && !code; i++) code = ask(w, prompt, tokens, &why);
    enum err_code waited = wait_for_all(w, e);
    if (waited || !code || code == ERR_FULL) return waited;
    return err_set(e, code, "%s", why.msg);
}

static enum err_code run_all(struct warming *w, int32_t *prompt, int short_tokens, int long_tokens, int slots, struct err *e)
{
    enum err_code code = ERR_OK;
    for (int count = 1; !code && !atomic_load(w->stop); count = count * 2 < slots ? count * 2 : slots) {
        code = run(w, prompt, short_tokens, count, e);
        if (count >= slots) break;
    }
    return code || atomic_load(w->stop) ? code : run(w, prompt, long_tokens, 1, e);
}

enum err_code local_warm(struct engine *engine, int prompt_tokens, const atomic_bool *stop, struct err *e)
{
    struct engine_info info;
    struct engine_stats stats;
    pthread_condattr_t attributes;
    engine_info(engine, &info);
    engine_stats(engine, &stats);
    struct warming w = {.engine = engine, .stop = stop, .vocabulary = info.vocabulary, .until_ms = clock_mono_ms() + LIMIT_MS};
    if (prompt_tokens <= 0) prompt_tokens = info.device[0] ? STEP_GPU : STEP_CPU;
    int most = info.context_tokens > TOKENS ? info.context_tokens - TOKENS : 1;
    int long_tokens = prompt_tokens < most ? prompt_tokens : most, short_tokens = SHORT_PROMPT < most ? SHORT_PROMPT : most;
    int32_t *prompt = malloc((size_t)(long_tokens > short_tokens ? long_tokens : short_tokens) * sizeof *prompt);
    if (!prompt) return err_set(e, ERR_MEMORY, "no memory for a prompt of %d tokens", long_tokens);
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&w.lock, NULL);
    (void)pthread_cond_init(&w.changed, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    int64_t start_ms = clock_mono_ms();
    enum err_code code = run_all(&w, prompt, short_tokens, long_tokens, stats.slots_max, e);
    textlog(TEXTLOG_INFO, "warmed", "model=\"%s\" generations=%llu ms=%lld", info.name, (unsigned long long)w.last_id,
            (long long)(clock_mono_ms() - start_ms));
    (void)pthread_mutex_destroy(&w.lock);
    (void)pthread_cond_destroy(&w.changed);
    free(prompt);
    return code;
}
