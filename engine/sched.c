/* The scheduler's thread turns queued requests into steps of the backend:
 *
 *   submit ─► inbox ─► queue ─(a slot and pages are free; fair between users)─► running ─► done
 *                        ▲                                                        │
 *                        └────────────── preempted: pages ran out ◄───────────────┘
 *
 * One step holds a column for each decoding sequence first, then chunks of prompts, oldest first, up to the token
 * budget. What a sequence has computed is entered page by page into the prefix cache, so that a preempted sequence
 * and one with the same beginning find it again.
 */
#include "engine/sched.h"

#include "base/clock.h"
#include "engine/cpu/kernels.h"
#include "engine/sample.h"
#include "engine/sched_pages.h"
#include "engine/sched_seq.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { USERS = 64, RATE_SECONDS = 5, TOKEN_BYTES_MAX = 4096 };

struct list {
    struct seq *first, *last;
    int count;
};

/* What one user was served lately; a table with one row per hash. */
struct service {
    double tokens;
};

struct rate { /* one second's work */
    int64_t second;
    double tokens, seconds;
};

struct sched {
    struct backend *backend;
    const struct model *model;
    const struct tokenizer *tokenizer;
    struct sched_options options;

    pthread_t thread;
    pthread_mutex_t lock; /* guards inbox, live, waiting, stop, cancelled, published and the rates */
    pthread_cond_t wake;
    struct list inbox;
    struct seq **live; /* (live_count) every sequence that has not ended, for cancel */
    int live_count, waiting;
    bool stop, cancelled;
    struct engine_stats published;

    /* The scheduler thread's own. */
    struct list queue, running;
    struct pages *pages;
    struct sampler sampler;
    struct service service[USERS];
    struct engine_stats stats;
    struct rate prefill[RATE_SECONDS], decode[RATE_SECONDS];
    int32_t *tokens, *want; /* (cols_max), (wanted_max) */
    struct batch_run *runs; /* (slots_max) */
    struct seq **of_run;    /* (slots_max) */
    uint32_t *mask;         /* (vocabulary bits) */
};

/* All guesses of one step: they are few, so that a step costs little more than without. */
enum { GUESSES_MAX = 16 };

int sched_cols_max(const struct sched_options *o)
{
    return o->slots_max + o->prefill_tokens + (o->draft_tokens ? GUESSES_MAX : 0);
}

int sched_wanted_max(const struct sched_options *o)
{
    return o->slots_max * 2 + (o->draft_tokens ? GUESSES_MAX : 0);
}

/* ---- lists ---- */

static void push(struct list *l, struct seq *s)
{
    s->next = NULL;
    if (l->last) l->last->next = s;
    else l->first = s;
    l->last = s;
    l->count++;
}

static void push_front(struct list *l, struct seq *s)
{
    s->next = l->first;
    l->first = s;
    if (!l->last) l->last = s;
    l->count++;
}

static void unlink_seq(struct list *l, struct seq *s)
{
    struct seq *before = NULL;
    for (struct seq *at = l->first; at != s; at = at->next) before = at;
    if (before) before->next = s->next;
    else l->first = s->next;
    if (l->last == s) l->last = before;
    l->count--;
}

/* ---- rates ---- */

static void count_rate(struct sched *s, struct rate *rates, double tokens, double seconds)
{
    (void)pthread_mutex_lock(&s->lock);
    int64_t now = clock_mono_us() / 1000000;
    struct rate *r = &rates[now % RATE_SECONDS];
    if (r->second != now) *r = (struct rate){.second = now};
    r->tokens += tokens;
    r->seconds += seconds;
    (void)pthread_mutex_unlock(&s->lock);
}

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

static void publish(struct sched *s)
{
    struct engine_stats *st = &s->stats;
    st->slots_max = s->options.slots_max;
    st->queue_max = s->options.queue_max;
    st->slots_used = s->running.count;
    st->pages_total = pages_total(s->pages);
    st->pages_used = pages_held(s->pages);
    st->pages_cached = pages_cached(s->pages);
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
    q->entered = q->computed = 0;
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

static void enter_pages(struct sched *s, struct seq *q)
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

static double ms_between(int64_t from_us, int64_t to_us)
{
    return (double)(to_us - from_us) / 1000.0;
}

static void finish(struct sched *s, struct list *from, struct seq *q, enum engine_finish how, bool stopped)
{
    unlink_seq(from, q);
    give_pages_back(s, q);
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
                             .queue_ms = ms_between(q->submitted_us, admitted),
                             .prefill_ms = ms_between(admitted, prefilled),
                             .decode_ms = ms_between(prefilled, now)};
    if (how == ENGINE_FINISH_CANCELLED) s->stats.requests_cancelled++;
    else s->stats.requests_done++;
    publish(s);
    forget(s, q);
    q->sink.on_done(q->sink.ctx, q->id, &end);
    seq_free(q);
}

static void fail(struct sched *s, struct list *from, struct seq *q, const struct err *why)
{
    unlink_seq(from, q);
    give_pages_back(s, q);
    forget(s, q);
    q->sink.on_error(q->sink.ctx, q->id, why);
    seq_free(q);
}

/* ---- the queue ---- */

static struct service *service_of(struct sched *s, const struct seq *q)
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
        if (best && (runs > best_runs || (runs == best_runs && service_of(s, q)->tokens >= service_of(s, best)->tokens)))
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

static void admit(struct sched *s)
{
    while (s->queue.first && s->running.count < s->options.slots_max) {
        struct seq *q = next_in_queue(s);
        int size = s->backend->page_tokens, need = (q->count + size) / size;
        int free_pages = pages_total(s->pages) - pages_held(s->pages);
        if (s->running.count && need > free_pages) {
            match_prefix(s, q); /* it may find most of them held already */
            need -= q->page_count;
            give_pages_back(s, q);
            if (need > free_pages) return;
        }
        unlink_seq(&s->queue, q);
        push(&s->running, q);
        bool first = !q->admitted_us;
        match_prefix(s, q);
        if (first) {
            q->admitted_us = clock_mono_us();
            count_prompt(s, q);
        }
        if (first && catch_up(s, q)) finish(s, &s->running, q, ENGINE_FINISH_STOP, true);
        else if (q->count >= q->tokens_max) finish(s, &s->running, q, ENGINE_FINISH_LENGTH, false);
    }
}

/* The youngest running sequence goes back to the head of the queue. */
static void preempt(struct sched *s)
{
    struct seq *q = s->running.last;
    unlink_seq(&s->running, q);
    enter_pages(s, q);
    give_pages_back(s, q);
    push_front(&s->queue, q);
    s->stats.preemptions++;
}

/* ---- one step ---- */

/* Pages for positions up to `end`; fewer when none is left. Returns the position up to which there are pages. */
static int grow(struct sched *s, struct seq *q, int end)
{
    int size = s->backend->page_tokens;
    while (q->page_count * size < end) {
        int32_t page = pages_take(s->pages);
        if (page < 0) break;
        q->pages[q->page_count++] = page;
    }
    int have = q->page_count * size;
    return have < end ? have : end;
}

struct plan {
    struct batch batch;
    int decodes, guesses;
};

static void want_rows(struct sched *s, struct plan *p, struct seq *q, int col, int end)
{
    int probe = q->prompt_count - 1;
    q->first_want = q->last_want = -1;
    if (!q->prefilled && q->want_hidden && probe >= q->computed && probe < end && probe != q->count - 1) {
        q->first_want = p->batch.wanted;
        s->want[p->batch.wanted++] = col + probe - q->computed;
    }
    if (end < q->count) return;
    q->last_want = p->batch.wanted;
    if (q->first_want < 0) q->first_want = q->last_want;
    for (int i = q->count - 1; i < end; i++) s->want[p->batch.wanted++] = col + i - q->computed;
}

static void add_run(struct sched *s, struct plan *p, struct seq *q, int end)
{
    struct batch *b = &p->batch;
    int count = end - q->computed;
    s->of_run[b->runs] = q;
    s->runs[b->runs++] = (struct batch_run){.first = b->cols, .count = count, .position = q->computed, .pages = q->pages};
    memcpy(s->tokens + b->cols, q->tokens + q->computed, (size_t)count * sizeof *s->tokens);
    want_rows(s, p, q, b->cols, end);
    b->cols += count;
}

static bool decoding(const struct seq *q)
{
    return q->computed == q->count - 1;
}

/* Guesses for a sequence, as far as pages, the answer's length and the step's share allow. */
static int guess(struct sched *s, struct plan *p, struct seq *q)
{
    int most = GUESSES_MAX / s->running.count, room = q->tokens_max - q->count - 1;
    if (most > s->options.draft_tokens) most = s->options.draft_tokens;
    if (most > GUESSES_MAX - p->guesses) most = GUESSES_MAX - p->guesses;
    if (most > room) most = room;
    q->guessed = most > 0 ? draft_guess(&q->draft, q->tokens, q->count, most, q->tokens + q->count) : 0;
    if (q->guessed) q->guessed = grow(s, q, q->count + q->guessed) - q->count;
    p->guesses += q->guessed;
    return q->guessed;
}

/* Decodes first: each needs one column, and the youngest make room where pages are short. */
static void plan_decodes(struct sched *s, struct plan *p)
{
    for (struct seq *q = s->running.first, *next; q; q = next) {
        if (decoding(q)) {
            while (grow(s, q, q->count) < q->count && s->running.last != q) preempt(s);
            if (grow(s, q, q->count) < q->count) {
                preempt(s); /* itself: it is the youngest */
                return;
            }
            add_run(s, p, q, q->count + guess(s, p, q));
            p->decodes++;
        }
        next = q->next;
    }
}

static void plan_prefills(struct sched *s, struct plan *p)
{
    int budget = s->options.prefill_tokens;
    for (struct seq *q = s->running.first; q && budget > 0; q = q->next) {
        if (decoding(q)) continue;
        int end = q->computed + budget < q->count ? q->computed + budget : q->count;
        end = grow(s, q, end);
        if (end <= q->computed) continue;
        q->guessed = 0;
        budget -= end - q->computed;
        add_run(s, p, q, end);
    }
}

/* Nothing could be planned although sequences run: pages are short, and the youngest must yield. */
static void plan_step(struct sched *s, struct plan *p)
{
    do {
        *p = (struct plan){.batch = {.tokens = s->tokens, .run = s->runs, .want = s->want}};
        plan_decodes(s, p);
        plan_prefills(s, p);
        if (p->batch.cols == 0 && s->running.count > 1) preempt(s);
        else break;
    } while (true);
}

/* ---- what a step gave ---- */

static void tell_prefill(struct sched *s, struct seq *q, const struct batch_out *out, const struct logit_stats *st)
{
    q->prefilled = true;
    q->prefilled_us = clock_mono_us();
    if (!q->sink.on_prefill) return;
    (void)s;
    struct engine_prefill p = {.hidden = q->want_hidden ? out->hidden + (size_t)q->first_want * out->hidden_stride : NULL,
                               .embedding = s->model->embedding,
                               .entropy = st->entropy,
                               .margin = st->margin,
                               .varentropy = st->varentropy,
                               .prompt_tokens = q->prompt_count,
                               .cached_tokens = q->cached,
                               .queue_ms = ms_between(q->submitted_us, q->admitted_us),
                               .prefill_ms = ms_between(q->admitted_us, q->prefilled_us)};
    q->sink.on_prefill(q->sink.ctx, q->id, &p);
}

static int32_t choose(struct sched *s, struct seq *q, const float *logits, const struct logit_stats *st)
{
    struct sample_input in = {.logits = logits, .best = st->best, .how = &q->sampling, .choice = q->choice,
                              .index = q->count - q->prompt_count, .tokens = q->tokens, .count = q->count,
                              .prompt_count = q->prompt_count};
    if (q->constraint.mask) {
        size_t words = ((size_t)s->model->vocabulary + 31) / 32;
        memset(s->mask, 0xff, words * sizeof *s->mask);
        q->constraint.mask(q->constraint.ctx, q->constraint_state, s->mask);
        in.mask = s->mask;
    }
    return sample(&s->sampler, &in);
}

static void tell_token(struct sched *s, struct seq *q, int32_t id, const char *bytes, size_t len, const float *logits,
                       const struct logit_stats *st)
{
    struct engine_alternative top[20];
    if (q->top_logprobs) sample_top(logits, s->model->vocabulary, st->logsum, top, q->top_logprobs);
    struct engine_token t = {.index = q->told++,
                             .id = id,
                             .bytes = bytes,
                             .bytes_len = len,
                             .text = q->text.shown.data,
                             .text_len = q->text.shown.len,
                             .logprob = logits[id] - st->logsum,
                             .entropy = st->entropy,
                             .margin = st->margin,
                             .varentropy = st->varentropy,
                             .top = top,
                             .top_count = q->top_logprobs};
    s->stats.completion_tokens++;
    q->sink.on_token(q->sink.ctx, q->id, &t);
}

/* The next token of a sequence whose last position has logits. False: that ended the sequence. */
static bool generate(struct sched *s, struct seq *q, const float *logits, const struct logit_stats *st)
{
    int32_t id = choose(s, q, logits, st);
    if (!q->ignore_eos && tokenizer_is_end(s->tokenizer, id)) {
        finish(s, &s->running, q, ENGINE_FINISH_STOP, false);
        return false;
    }
    char bytes[TOKEN_BYTES_MAX];
    size_t len = tokenizer_bytes(s->tokenizer, id, false, bytes, sizeof bytes);
    if (len > sizeof bytes) len = sizeof bytes;
    q->tokens[q->count++] = id;
    service_of(s, q)->tokens += 1;
    if (q->constraint.advance) q->constraint_state = q->constraint.advance(q->constraint.ctx, q->constraint_state, id);
    bool stopped = text_feed(&q->text, bytes, len);
    tell_token(s, q, id, bytes, len, logits, st);
    if (stopped) finish(s, &s->running, q, ENGINE_FINISH_STOP, true);
    else if (q->count >= q->tokens_max) finish(s, &s->running, q, ENGINE_FINISH_LENGTH, false);
    else return true;
    return false;
}

/* Tokens from the logits of the last position, and of the guesses after it for as long as they are what was chosen. */
static void generate_all(struct sched *s, struct seq *q, const struct batch_out *out, struct logit_stats *st)
{
    int guessed = q->guessed;
    for (int i = 0;; i++) {
        const float *logits = out->logits + (size_t)(q->last_want + i) * out->logits_stride;
        if (i > 0 || q->last_want != q->first_want) s->backend->stats(s->backend, logits, s->model->vocabulary, st);
        int32_t expected = i < guessed ? q->tokens[q->count] : -1;
        if (!generate(s, q, logits, st)) return;
        if (i < guessed && q->tokens[q->count - 1] == expected) {
            q->computed++;
            continue;
        }
        if (guessed) draft_learn(&q->draft, guessed, i);
        enter_pages(s, q);
        return;
    }
}

static void take_results(struct sched *s, struct seq *q, const struct batch_run *run, const struct batch_out *out)
{
    service_of(s, q)->tokens += run->count - q->guessed;
    q->computed += run->count - q->guessed; /* guesses count once they have proved right */
    enter_pages(s, q);
    if (q->first_want < 0) return;
    struct logit_stats st;
    s->backend->stats(s->backend, out->logits + (size_t)q->first_want * out->logits_stride, s->model->vocabulary, &st);
    if (!q->prefilled) tell_prefill(s, q, out, &st);
    if (q->last_want < 0) return;
    generate_all(s, q, out, &st);
}

static void fail_all(struct sched *s, const struct err *e)
{
    while (s->running.first) fail(s, &s->running, s->running.first, e);
}

static void step(struct sched *s)
{
    struct plan p;
    plan_step(s, &p);
    if (p.batch.cols == 0) return;
    struct batch_out out;
    struct err e = {0};
    int64_t start = clock_mono_us();
    if (s->backend->forward(s->backend, &p.batch, &out, &e) != ERR_OK) {
        fail_all(s, &e);
        return;
    }
    double seconds = (double)(clock_mono_us() - start) * 1e-6, cols = p.batch.cols, decodes = p.decodes + p.guesses;
    if (decodes < cols) count_rate(s, s->prefill, cols - decodes, seconds * (cols - decodes) / cols);
    s->stats.steps++;
    int64_t before = s->stats.completion_tokens;
    for (int r = 0; r < p.batch.runs; r++) take_results(s, s->of_run[r], &s->runs[r], &out);
    if (p.decodes) count_rate(s, s->decode, (double)(s->stats.completion_tokens - before), seconds * decodes / cols);
}

/* ---- the thread ---- */

/* Waits for work. False: stop. */
static bool collect(struct sched *s)
{
    (void)pthread_mutex_lock(&s->lock);
    while (!s->stop && !s->inbox.first && !s->cancelled && !s->running.first && !s->queue.first)
        (void)pthread_cond_wait(&s->wake, &s->lock);
    while (s->inbox.first) {
        struct seq *q = s->inbox.first;
        unlink_seq(&s->inbox, q);
        push(&s->queue, q);
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
        if (all || atomic_load(&q->cancelled)) finish(s, l, q, ENGINE_FINISH_CANCELLED, false);
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
        if (s->running.first) step(s);
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
        push(&s->inbox, q);
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
    s->runs = malloc(slots * sizeof *s->runs);
    s->of_run = malloc(slots * sizeof(struct seq *));
    s->mask = malloc(((size_t)s->model->vocabulary + 31) / 32 * sizeof *s->mask);
    /* Preempted sequences wait in the queue beside those that queue_max counts. */
    s->live = malloc((slots * 2 + (size_t)o->queue_max) * sizeof(struct seq *));
    if (!s->tokens || !s->want || !s->runs || !s->of_run || !s->mask || !s->live) return err_set(e, ERR_MEMORY, "no memory for the scheduler");
    enum err_code code = sampler_init(&s->sampler, s->model->vocabulary, e);
    return code ? code : pages_open(&s->pages, o->pages, s->backend->page_tokens, e);
}

static void release(struct sched *s)
{
    sampler_release(&s->sampler);
    pages_close(s->pages);
    free(s->tokens);
    free(s->want);
    free(s->runs);
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
    (void)pthread_mutex_init(&s->lock, NULL);
    (void)pthread_cond_init(&s->wake, NULL);
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
