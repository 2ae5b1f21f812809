/* The scheduler's thread turns queued requests into steps of the backend:
 *
 *   submit ─► inbox ─► queue ─(a slot is free and pages will be; fair between users)─► running ─► done
 *                        ▲                                                              │
 *                        └───────────────── preempted: pages ran out ◄──────────────────┘
 *
 * One step holds a column for each decoding sequence first, then chunks of prompts, oldest first, up to the token
 * budget. Before it, tokens are guessed (sched_draft.h, sched_ahead.h). What a sequence has computed is entered page
 * by page into the prefix cache, so that a preempted sequence and one with the same beginning find it again.
 */
#include "engine/sched_private.h"

#include "base/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SETTLE_AFTER_MS = 50 };

/* ---- lists ---- */

void list_push(struct list *l, struct seq *s)
{
    s->next = NULL;
    if (l->last) l->last->next = s;
    else l->first = s;
    l->last = s;
    l->count++;
}

void list_push_front(struct list *l, struct seq *s)
{
    s->next = l->first;
    l->first = s;
    if (!l->last) l->last = s;
    l->count++;
}

void list_remove(struct list *l, struct seq *s)
{
    struct seq *before = NULL;
    for (struct seq *at = l->first; at != s; at = at->next) before = at;
    if (before) before->next = s->next;
    else l->first = s->next;
    if (l->last == s) l->last = before;
    l->count--;
}

/* ---- what is told of it ---- */

static double rate_of(const struct rate *rates)
{
    int64_t now = clock_mono_us() / 1000000;
    double tokens = 0, seconds = 0;
    for (int i = 0; i < RATE_SECONDS; i++) {
        if (rates[i].second <= now - RATE_SECONDS) continue;
        tokens += rates[i].tokens;
        seconds += rates[i].seconds;
    }
    return seconds > 0 ? tokens / seconds : 0;
}

/* Positions that running sequences hold and have not filled, in pages. */
static int fragmented(const struct sched *s)
{
    int64_t empty = 0, size = s->backend->page_tokens;
    for (const struct seq *q = s->running.first; q; q = q->next) empty += q->page_count * size - q->computed;
    return (int)((empty + size - 1) / size);
}

static void publish(struct sched *s)
{
    struct engine_stats *st = &s->stats;
    st->slots_max = s->options.slots_max;
    st->queue_max = s->options.queue_max;
    st->slots_used = s->running.count;
    st->pages_total = pages_total(s->pages);
    st->pages_used = pages_held(s->pages);
    st->pages_cached = pages_cached(s->pages);
    st->pages_fragmented = fragmented(s);
    (void)pthread_mutex_lock(&s->lock);
    s->waiting = s->queue.count;
    st->queue_used = s->queue.count + s->inbox.count;
    s->published = *st;
    (void)pthread_mutex_unlock(&s->lock);
}

/* ---- pages of a sequence ---- */

static void give_pages_back(struct sched *s, struct seq *q)
{
    while (q->page_count > 0) pages_drop(s->pages, q->pages[--q->page_count]);
    q->entered = q->computed = q->shared = 0;
    if (s->ahead.backend) ahead_leave(s, q);
}

/* Hold the cached pages that hold the sequence's beginning. The last token is always computed anew, and so is the
 * prompt's last where its hidden state is wanted. */
static void match_prefix(struct sched *s, struct seq *q)
{
    int size = s->backend->page_tokens, most = q->want_hidden && !q->prefilled ? q->prompt_count - 1 : q->count - 1;
    int32_t before = -1;
    while ((q->page_count + 1) * size <= most) {
        int32_t page = pages_find(s->pages, before, q->tokens + q->page_count * size);
        if (page < 0) break;
        q->shared += pages_holders(s->pages, page) > 0;
        pages_hold(s->pages, page);
        q->pages[q->page_count++] = before = page;
    }
    q->entered = q->page_count;
    q->computed = q->page_count * size;
}

static void count_prompt(struct sched *s, struct seq *q)
{
    q->cached = q->computed < q->prompt_count ? q->computed : q->prompt_count;
    s->stats.cached_tokens += q->cached;
    s->stats.prompt_tokens += q->prompt_count;
}

void sched_enter_pages(struct sched *s, struct seq *q)
{
    int size = s->backend->page_tokens;
    for (; (q->entered + 1) * size <= q->computed; q->entered++)
        q->pages[q->entered] = pages_enter(s->pages, q->entered ? q->pages[q->entered - 1] : -1, q->pages[q->entered],
                                           q->tokens + q->entered * size);
}

/* ---- the end of a sequence ---- */

/* Before its last call: then the client may use the id again at once. */
static void forget(struct sched *s, struct seq *q)
{
    (void)pthread_mutex_lock(&s->lock);
    for (int i = 0; i < s->live_count; i++)
        if (s->live[i] == q) s->live[i] = s->live[--s->live_count];
    (void)pthread_mutex_unlock(&s->lock);
}

double sched_ms(int64_t from_us, int64_t to_us)
{
    return (double)(to_us - from_us) / 1000.0;
}

void sched_finish(struct sched *s, struct list *from, struct seq *q, enum engine_finish how, bool stopped)
{
    list_remove(from, q);
    give_pages_back(s, q);
    if (s->ahead.backend) ahead_ended(s, q);
    if (how != ENGINE_FINISH_CANCELLED) sched_answer_ended(s, q);
    if (!stopped) text_end(&q->text);
    else buf_clear(&q->text.shown);
    int64_t now = clock_mono_us(), admitted = q->admitted_us ? q->admitted_us : now;
    int64_t prefilled = q->prefilled_us ? q->prefilled_us : now;
    struct engine_end end = {.finish = how,
                             .text = q->text.shown.data,
                             .text_len = q->text.shown.len,
                             .prompt_tokens = q->prompt_count,
                             .cached_tokens = q->cached,
                             .completion_tokens = q->told,
                             .queue_ms = sched_ms(q->submitted_us, admitted),
                             .prefill_ms = sched_ms(admitted, prefilled),
                             .decode_ms = sched_ms(prefilled, now)};
    if (how == ENGINE_FINISH_CANCELLED) s->stats.requests_cancelled++;
    else s->stats.requests_done++;
    publish(s);
    forget(s, q);
    q->sink.on_done(q->sink.ctx, q->id, &end);
    seq_free(q);
}

void sched_fail(struct sched *s, struct list *from, struct seq *q, const struct err *why)
{
    list_remove(from, q);
    give_pages_back(s, q);
    forget(s, q);
    q->sink.on_error(q->sink.ctx, q->id, why);
    seq_free(q);
}

/* ---- the queue ---- */

struct service *sched_service(struct sched *s, const struct seq *q)
{
    return &s->service[(q->user * 0x9e3779b97f4a7c15u >> 32) % USERS];
}

static int running_of(const struct sched *s, uint64_t user)
{
    int n = 0;
    for (const struct seq *q = s->running.first; q; q = q->next) n += q->user == user;
    return n;
}

/* The waiting request whose user runs fewest, then was served least; the oldest of those. */
static struct seq *next_in_queue(struct sched *s)
{
    struct seq *best = NULL;
    int best_runs = 0;
    for (struct seq *q = s->queue.first; q; q = q->next) {
        int runs = running_of(s, q->user);
        if (best && (runs > best_runs || (runs == best_runs && sched_service(s, q)->tokens >= sched_service(s, best)->tokens)))
            continue;
        best = q;
        best_runs = runs;
    }
    return best;
}

/* Text and constraint of tokens that were generated elsewhere: shown there, not told again. */
static bool catch_up(struct sched *s, struct seq *q)
{
    char bytes[TOKEN_BYTES_MAX];
    for (int i = q->prompt_count; i < q->count; i++) {
        size_t len = tokenizer_bytes(s->tokenizer, q->tokens[i], false, bytes, sizeof bytes);
        if (text_feed(&q->text, bytes, len < sizeof bytes ? len : sizeof bytes)) return true;
        if (q->constraint.advance)
            q->constraint_state = q->constraint.advance(q->constraint.ctx, q->constraint_state, q->tokens[i]);
    }
    return false;
}

/* Those that ran before keep their place: the oldest is never preempted, so that it ends. Newcomers have no age yet: last. */
static void push_by_age(struct list *l, struct seq *q)
{
    struct seq *before = NULL;
    for (struct seq *at = l->first; q->admitted_us && at && at->admitted_us <= q->admitted_us; at = at->next) before = at;
    if (!q->admitted_us || before == l->last) list_push(l, q);
    else if (!before) list_push_front(l, q);
    else {
        q->next = before->next;
        before->next = q;
        l->count++;
    }
}

static void admit(struct sched *s)
{
    while (s->queue.first && s->running.count < s->options.slots_max) {
        struct seq *q = next_in_queue(s);
        bool first = !q->admitted_us;
        list_remove(&s->queue, q);
        push_by_age(&s->running, q);
        match_prefix(s, q);
        if (s->running.count > 1 && !sched_fits(s, q)) {
            list_remove(&s->running, q);
            give_pages_back(s, q);
            list_push_front(&s->queue, q);
            return;
        }
        if (first) {
            q->admitted_us = clock_mono_us();
            count_prompt(s, q);
        }
        if (first && catch_up(s, q)) sched_finish(s, &s->running, q, ENGINE_FINISH_STOP, true);
        else if (q->count >= q->tokens_max) sched_finish(s, &s->running, q, ENGINE_FINISH_LENGTH, false);
    }
}

/* The youngest running sequence, by its first admission, goes back to the head of the queue. */
void sched_preempt(struct sched *s)
{
    struct seq *q = s->running.last;
    list_remove(&s->running, q);
    sched_enter_pages(s, q);
    give_pages_back(s, q);
    list_push_front(&s->queue, q);
    s->stats.preemptions++;
}

/* ---- the thread ---- */

static bool nothing_to_do(const struct sched *s)
{
    return !s->stop && !s->inbox.first && !s->cancelled && !s->running.first && !s->queue.first;
}

/* The backend does what it has put off once nobody has asked for a while: a first request would have to wait for it. Holds
 * the lock but for that. */
static void settle(struct sched *s)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += SETTLE_AFTER_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    while (nothing_to_do(s))
        if (pthread_cond_timedwait(&s->wake, &s->lock, &until) == ETIMEDOUT) break;
    for (bool more = s->backend->settle != NULL; more && nothing_to_do(s);) {
        (void)pthread_mutex_unlock(&s->lock);
        more = s->backend->settle(s->backend);
        (void)pthread_mutex_lock(&s->lock);
        s->settled = !more;
    }
}

/* Waits for work. False: stop. */
static bool collect(struct sched *s)
{
    (void)pthread_mutex_lock(&s->lock);
    if (!s->settled && nothing_to_do(s)) settle(s);
    while (nothing_to_do(s)) (void)pthread_cond_wait(&s->wake, &s->lock);
    while (s->inbox.first) {
        struct seq *q = s->inbox.first;
        list_remove(&s->inbox, q);
        list_push(&s->queue, q);
    }
    s->waiting = s->queue.count;
    bool go_on = !s->stop;
    s->cancelled = false;
    (void)pthread_mutex_unlock(&s->lock);
    return go_on;
}

static void sweep(struct sched *s, struct list *l, bool all)
{
    for (struct seq *q = l->first, *next; q; q = next) {
        next = q->next;
        if (all || atomic_load(&q->cancelled)) sched_finish(s, l, q, ENGINE_FINISH_CANCELLED, false);
    }
}

static void *thread_main(void *arg)
{
    struct sched *s = arg;
    for (bool go_on = true; go_on;) {
        go_on = collect(s);
        sweep(s, &s->queue, !go_on);
        sweep(s, &s->running, !go_on);
        admit(s);
        if (s->running.first) sched_step(s);
        for (int i = 0; i < USERS; i++) s->service[i].tokens *= 0.999;
        publish(s);
    }
    return NULL;
}

/* ---- the other threads' side ---- */

enum err_code sched_submit(struct sched *s, uint64_t id, const struct engine_request *r, const struct engine_sink *sink,
                           struct err *e)
{
    struct seq *q;
    enum err_code code = seq_new(&q, id, r, sink, s->options.context_tokens, s->backend->page_tokens, s->model->vocabulary, e);
    if (code) return code;
    (void)pthread_mutex_lock(&s->lock);
    if (s->stop) code = err_set(e, ERR_DRAINING, "the engine is closing");
    else if (s->waiting + s->inbox.count >= s->options.queue_max)
        code = err_set(e, ERR_FULL, "%d requests wait already; the queue holds no more", s->options.queue_max);
    for (int i = 0; i < s->live_count && !code; i++)
        if (s->live[i]->id == id) code = err_set(e, ERR_INVALID, "request id %llu is in use", (unsigned long long)id);
    if (!code) {
        s->live[s->live_count++] = q;
        list_push(&s->inbox, q);
        (void)pthread_cond_signal(&s->wake);
    }
    (void)pthread_mutex_unlock(&s->lock);
    if (code) seq_free(q);
    return code;
}

void sched_cancel(struct sched *s, uint64_t id)
{
    (void)pthread_mutex_lock(&s->lock);
    for (int i = 0; i < s->live_count; i++) {
        if (s->live[i]->id != id) continue;
        atomic_store(&s->live[i]->cancelled, true);
        s->cancelled = true;
        (void)pthread_cond_signal(&s->wake);
    }
    (void)pthread_mutex_unlock(&s->lock);
}

void sched_stats(struct sched *s, struct engine_stats *out)
{
    (void)pthread_mutex_lock(&s->lock);
    *out = s->published;
    out->queue_used = s->waiting + s->inbox.count;
    out->prefill_tokens_per_s = rate_of(s->prefill);
    out->decode_tokens_per_s = rate_of(s->decode);
    (void)pthread_mutex_unlock(&s->lock);
}

static enum err_code take_memory(struct sched *s, struct err *e)
{
    const struct sched_options *o = &s->options;
    size_t slots = (size_t)o->slots_max, cols = (size_t)sched_cols_max(o);
    s->tokens = malloc(cols * sizeof *s->tokens);
    s->want = malloc((size_t)sched_wanted_max(o) * sizeof *s->want);
    s->need_logits = malloc((size_t)sched_wanted_max(o));
    s->inverse = malloc((size_t)sched_wanted_max(o) * sizeof *s->inverse);
    s->drawn = malloc((size_t)sched_wanted_max(o) * sizeof *s->drawn);
    s->whole = calloc((size_t)sched_wanted_max(o), sizeof *s->whole);
    s->fetch = malloc(slots * sizeof *s->fetch);
    s->fetch_of = malloc(slots * sizeof(struct seq *));
    s->runs = malloc(slots * sizeof *s->runs);
    s->future = malloc(slots * sizeof *s->future);
    s->of_run = malloc(slots * sizeof(struct seq *));
    int vocabulary = o->draft && o->draft_model->vocabulary > s->model->vocabulary ? o->draft_model->vocabulary : s->model->vocabulary;
    s->mask_words = ((size_t)vocabulary + 31) / 32;
    s->mask = malloc(s->mask_words * sizeof *s->mask);
    /* Preempted sequences wait in the queue beside those that queue_max counts. */
    s->live = malloc((slots * 2 + (size_t)o->queue_max) * sizeof(struct seq *));
    if (!s->tokens || !s->want || !s->need_logits || !s->inverse || !s->drawn || !s->whole || !s->fetch || !s->fetch_of || !s->runs || !s->future || !s->of_run || !s->mask || !s->live)
        return err_set(e, ERR_MEMORY, "no memory for the scheduler");
    enum err_code code = sampler_init(&s->sampler, s->model->vocabulary, e);
    if (!code && o->draft) code = ahead_open(&s->ahead, o->draft, o->draft_model, o->draft_pages, o->prefill_tokens, e);
    return code ? code : pages_open(&s->pages, o->pages, s->backend->page_tokens, e);
}

static void release(struct sched *s)
{
    sampler_release(&s->sampler);
    ahead_release(&s->ahead);
    pages_close(s->pages);
    free(s->tokens);
    free(s->want);
    free(s->need_logits);
    free(s->inverse);
    free(s->drawn);
    free(s->whole);
    free(s->fetch);
    free(s->fetch_of);
    sched_close_drawers(s);
    free(s->runs);
    free(s->future);
    free(s->of_run);
    free(s->mask);
    free(s->live);
    (void)pthread_mutex_destroy(&s->lock);
    (void)pthread_cond_destroy(&s->wake);
    free(s);
}

enum err_code sched_open(struct sched **out, struct backend *backend, const struct model *model, const struct tokenizer *tokenizer,
                         const struct sched_options *options, struct err *e)
{
    struct sched *s = calloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_MEMORY, "no memory for the scheduler");
    s->backend = backend;
    s->model = model;
    s->tokenizer = tokenizer;
    s->options = *options;
    s->answer_tokens = SCHED_ANSWER_FIRST;
    (void)pthread_mutex_init(&s->lock, NULL);
    s->settled = backend->settle == NULL;
    pthread_condattr_t monotonic;
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&s->wake, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
    enum err_code code = take_memory(s, e);
    if (!code) {
        publish(s);
        if (pthread_create(&s->thread, NULL, thread_main, s) != 0) code = err_set(e, ERR_MEMORY, "cannot start the scheduler's thread");
    }
    if (code) {
        release(s);
        return code;
    }
    *out = s;
    return ERR_OK;
}

void sched_close(struct sched *s)
{
    if (!s) return;
    (void)pthread_mutex_lock(&s->lock);
    s->stop = true;
    (void)pthread_cond_signal(&s->wake);
    (void)pthread_mutex_unlock(&s->lock);
    (void)pthread_join(s->thread, NULL);
    release(s);
}
