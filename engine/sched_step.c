/* One step of the scheduler: what goes into it, the forward, and what each sequence gets from it. */
#include "engine/sched_private.h"

#include "base/clock.h"

#include <string.h>

/* All guesses of one step: they are few, so that a step costs little more than without. */
enum { GUESSES_MAX = 16 };

int sched_cols_max(const struct sched_options *o)
{
    return o->slots_max + o->prefill_tokens + (o->draft_tokens || o->draft ? GUESSES_MAX : 0);
}

int sched_wanted_max(const struct sched_options *o)
{
    return o->slots_max * 2 + (o->draft_tokens || o->draft ? GUESSES_MAX : 0);
}

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

/* ---- what goes into it ---- */

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
    struct seq *const *of_run; /* (batch.runs) */
};

/* Whether the next token hangs on more than the statistics of its row. */
static bool reads_logits(const struct seq *q)
{
    return q->constraint.mask || q->top_logprobs || !sample_takes_best(&q->sampling);
}

/* A row that a sequence's token is chosen from comes as its top, where the backend makes it and it may suffice; q NULL: only the
 * statistics are of use. */
static void want_row(struct sched *s, struct plan *p, int col, const struct seq *q)
{
    bool reads = q && reads_logits(q), list = reads && s->backend->rows && sample_list_helps(&q->sampling);
    s->need_logits[p->batch.wanted] = reads && !list;
    s->inverse[p->batch.wanted] = list ? sample_inverse(&q->sampling) : 0;
    s->want[p->batch.wanted++] = col;
}

static void want_rows(struct sched *s, struct plan *p, struct seq *q, int col, int end)
{
    int probe = q->prompt_count - 1;
    q->first_want = q->last_want = -1;
    if (!q->prefilled && q->want_hidden && probe >= q->computed && probe < end && probe != q->count - 1) {
        q->first_want = p->batch.wanted;
        want_row(s, p, col + probe - q->computed, NULL);
    }
    if (end < q->count) return;
    q->last_want = p->batch.wanted;
    if (q->first_want < 0) q->first_want = q->last_want;
    for (int i = q->count - 1; i < end; i++) want_row(s, p, col + i - q->computed, q);
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

/* Guesses for all that decode, as far as the answer's length and the step's share allow: from the text where it repeats, else the
 * draft model's. */
static void guess_all(struct sched *s)
{
    int share = s->running.count ? GUESSES_MAX / s->running.count : 0;
    for (struct seq *q = s->running.first; q; q = q->next) {
        int most = share < s->options.draft_tokens ? share : s->options.draft_tokens, room = q->tokens_max - q->count - 1;
        if (most > room) most = room;
        q->guessed = most > 0 && decoding(q) ? draft_guess(&q->draft, q->tokens, q->count, most, q->tokens + q->count) : 0;
        ahead_forget(q);
    }
    if (s->ahead.backend) ahead_guess(s, share < DRAFT_MAX ? share : DRAFT_MAX);
}

/* How many of its guesses there are pages for. */
static int guesses_of(struct sched *s, struct plan *p, struct seq *q)
{
    if (q->guessed) q->guessed = grow(s, q, q->count + q->guessed) - q->count;
    p->guesses += q->guessed;
    return q->guessed;
}

/* Decodes first: each needs one column, and the youngest make room where pages are short. */
static void plan_decodes(struct sched *s, struct plan *p)
{
    for (struct seq *q = s->running.first, *next; q; q = next) {
        if (decoding(q)) {
            while (grow(s, q, q->count) < q->count && s->running.last != q) sched_preempt(s);
            if (grow(s, q, q->count) < q->count) {
                sched_preempt(s); /* itself: it is the youngest */
                return;
            }
            add_run(s, p, q, q->count + guesses_of(s, p, q));
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
        *p = (struct plan){.batch = {.tokens = s->tokens, .run = s->runs, .want = s->want, .need_logits = s->need_logits,
                                      .inverse = s->inverse}};
        plan_decodes(s, p);
        plan_prefills(s, p);
        if (p->batch.cols == 0 && s->running.count > 1) sched_preempt(s);
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
                               .queue_ms = sched_ms(q->submitted_us, q->admitted_us),
                               .prefill_ms = sched_ms(q->admitted_us, q->prefilled_us)};
    q->sink.on_prefill(q->sink.ctx, q->id, &p);
}

static float logit_of(const struct row *r, int32_t id)
{
    if (r->whole) return r->logits[id];
    int at = 0;
    while (r->list->top[at].id != id) at++; /* it was chosen from there */
    return r->list->top[at].logit;
}

static void tell_token(struct sched *s, struct seq *q, int32_t id, const char *bytes, size_t len, const struct row *r)
{
    struct engine_alternative top[20] = {0};
    const struct logit_stats *st = &r->st;
    if (q->top_logprobs && r->whole) sample_top(r->logits, s->model->vocabulary, st->logsum, top, q->top_logprobs);
    else if (q->top_logprobs) sample_top_of(r->list, st->logsum, top, q->top_logprobs);
    struct engine_token t = {.index = q->told++,
                             .id = id,
                             .bytes = bytes,
                             .bytes_len = len,
                             .text = q->text.shown.data,
                             .text_len = q->text.shown.len,
                             .logprob = (reads_logits(q) ? logit_of(r, id) : st->max) - st->logsum,
                             .entropy = st->entropy,
                             .margin = st->margin,
                             .varentropy = st->varentropy,
                             .top = top,
                             .top_count = q->top_logprobs};
    s->stats.completion_tokens++;
    q->sink.on_token(q->sink.ctx, q->id, &t);
}

/* The next token of a sequence whose last position has logits. False: that ended the sequence. */
static bool generate(struct sched *s, struct seq *q, int32_t id, const struct row *r)
{
    if (!q->ignore_eos && tokenizer_is_end(s->tokenizer, id)) {
        sched_finish(s, &s->running, q, ENGINE_FINISH_STOP, false);
        return false;
    }
    char bytes[TOKEN_BYTES_MAX];
    size_t len = tokenizer_bytes(s->tokenizer, id, false, bytes, sizeof bytes);
    if (len > sizeof bytes) len = sizeof bytes;
    q->tokens[q->count++] = id;
    sched_service(s, q)->tokens += 1;
    if (q->constraint.advance) q->constraint_state = q->constraint.advance(q->constraint.ctx, q->constraint_state, id);
    bool stopped = text_feed(&q->text, bytes, len);
    tell_token(s, q, id, bytes, len, r);
    if (stopped) sched_finish(s, &s->running, q, ENGINE_FINISH_STOP, true);
    else if (q->count >= q->tokens_max) sched_finish(s, &s->running, q, ENGINE_FINISH_LENGTH, false);
    else return true;
    return false;
}

/* Tokens from the logits of the last position, and of the guesses after it for as long as they are what was chosen. */
static void generate_all(struct sched *s, struct seq *q, const struct batch_out *out, struct logit_stats *st)
{
    s->stats.guessed_tokens += q->guessed;
    if (q->ahead.from_model) s->stats.draft_guessed_tokens += q->guessed;
    for (int i = 0;; i++) {
        int row = q->last_want + i;
        if (i > 0 || q->last_want != q->first_want) sched_row_stats(s, out, row, st);
        struct row r = sched_row(s, out, row);
        r.st = *st;
        int32_t id, foretold = ahead_foretold(q, i);
        struct err e = {0};
        if (sched_choose(s, q, &s->sampler, &r, q->constraint_state, q->count, &id, &e) != ERR_OK) {
            sched_fail(s, &s->running, q, &e);
            return;
        }
        if (foretold >= 0) ahead_learn(s, q, i, id == foretold);
        bool kept = i < q->guessed && id == foretold;
        s->stats.kept_tokens += kept;
        if (!kept && q->guessed && !q->ahead.from_model) draft_learn(&q->draft, q->guessed, i);
        if (!generate(s, q, id, &r)) return;
        if (!kept) break;
        q->computed++;
    }
    sched_enter_pages(s, q);
}

static void take_results(struct sched *s, struct seq *q, const struct batch_run *run, const struct batch_out *out)
{
    sched_service(s, q)->tokens += run->count - q->guessed;
    q->computed += run->count - q->guessed; /* guesses count once they have proved right */
    sched_enter_pages(s, q);
    if (q->first_want < 0) return;
    struct logit_stats st;
    sched_row_stats(s, out, q->first_want, &st);
    if (!q->prefilled) tell_prefill(s, q, out, &st);
    if (q->last_want < 0) return;
    generate_all(s, q, out, &st);
}

static void fail_all(struct sched *s, const struct err *e)
{
    while (s->running.first) sched_fail(s, &s->running, s->running.first, e);
}

/* A step over a long prompt takes a while: it is left when all whose step it is have gone. */
static bool all_cancelled(void *ctx)
{
    const struct plan *p = ctx;
    for (int r = 0; r < p->batch.runs; r++)
        if (!atomic_load(&p->of_run[r]->cancelled)) return false;
    return true;
}

void sched_step(struct sched *s)
{
    struct plan p;
    guess_all(s);
    plan_step(s, &p);
    if (p.batch.cols == 0) return;
    struct batch_out out = {0};
    struct err e = {0};
    int64_t start = clock_mono_us();
    p.of_run = s->of_run;
    p.batch.abandoned = all_cancelled;
    p.batch.ctx = &p;
    enum err_code code = s->backend->forward(s->backend, &p.batch, &out, &e);
    if (code != ERR_OK) {
        if (code != ERR_CANCELLED) fail_all(s, &e); /* the cancelled are swept before the next step */
        return;
    }
    double seconds = (double)(clock_mono_us() - start) * 1e-6, cols = p.batch.cols, decodes = p.decodes + p.guesses;
    if (s->ahead.backend && decodes >= cols) cost_learn(&s->cost, p.batch.cols, seconds);
    if (decodes < cols) count_rate(s, s->prefill, cols - decodes, seconds * (cols - decodes) / cols);
    s->stats.steps++;
    s->stats.batch_last = p.batch.cols;
    int64_t before = s->stats.completion_tokens;
    sched_draw(s, &p.batch, &out);
    for (int r = 0; r < p.batch.runs; r++) take_results(s, s->of_run[r], &s->runs[r], &out);
    if (p.decodes) count_rate(s, s->decode, (double)(s->stats.completion_tokens - before), seconds * decodes / cols);
}

