/* One step's guesses:
 *
 *   who may? ─► catch up (a piece) ─► guess 1 ─► feed it ─► guess 2 ─► … ─► checked by the model (sched_step.c)
 *                                        └─ not worth going on: out of this step's round
 */
#include "engine/sched_ahead.h"

#include "engine/sched_private.h"

#include "base/clock.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LAG_SMALL = 8, FAILURES_MAX = 3, ANSWERS = 8 /* that an average is over */ };
#define ACCOUNT_FIRST 4.0 /* tokens a sequence may lose at first */
#define ACCOUNT_MOST 8.0
#define ACCOUNT_EACH 0.01 /* what each token adds */
#define RECORD_PRIOR 4.0  /* so many tries count as its own word */
#define RECORD_KEEPS 0.99

int ahead_cols_max(int prefill_tokens)
{
    return prefill_tokens + AHEAD_SLOTS_MAX;
}

enum err_code ahead_open(struct ahead_model *a, struct backend *backend, const struct model *model, int pages, int prefill_tokens,
                         struct err *e)
{
    *a = (struct ahead_model){.backend = backend, .model = model, .cols_max = ahead_cols_max(prefill_tokens), .account = ACCOUNT_MOST,
                              .answer_tokens = 128, .answer_net = 12};
    a->tokens = malloc((size_t)a->cols_max * sizeof *a->tokens);
    a->want = malloc(AHEAD_SLOTS_MAX * sizeof *a->want);
    a->need_logits = malloc(AHEAD_SLOTS_MAX);
    a->runs = malloc(AHEAD_SLOTS_MAX * sizeof *a->runs);
    a->of_run = malloc(AHEAD_SLOTS_MAX * sizeof(struct seq *));
    if (!a->tokens || !a->want || !a->need_logits || !a->runs || !a->of_run) return err_set(e, ERR_MEMORY, "no memory for guesses");
    enum err_code code = sampler_init(&a->sampler, model->vocabulary, e);
    return code ? code : pages_open(&a->pages, pages, backend->page_tokens, e);
}

void ahead_release(struct ahead_model *a)
{
    sampler_release(&a->sampler);
    pages_close(a->pages);
    free(a->tokens);
    free(a->want);
    free(a->need_logits);
    free(a->runs);
    free(a->of_run);
    *a = (struct ahead_model){0};
}

/* ---- pages ---- */

/* Whole pages of accepted tokens stand in the draft model's own prefix cache. */
static void enter_pages(struct ahead_model *a, struct seq *q)
{
    struct ahead *h = &q->ahead;
    int size = a->backend->page_tokens;
    for (; (h->entered + 1) * size <= h->computed; h->entered++)
        h->pages[h->entered] = pages_enter(a->pages, h->entered ? h->pages[h->entered - 1] : -1, h->pages[h->entered],
                                           q->tokens + h->entered * size);
}

/* What was computed for guesses that were wrong, or never checked, is gone. */
static void roll_back(struct seq *q)
{
    if (q->ahead.computed > q->count - 1) q->ahead.computed = q->count - 1;
}

void ahead_leave(struct sched *s, struct seq *q)
{
    struct ahead *h = &q->ahead;
    struct ahead_model *a = &s->ahead;
    if (!h->pages) return;
    roll_back(q);
    enter_pages(a, q);
    while (h->page_count > 0) pages_drop(a->pages, h->pages[--h->page_count]);
    free(h->pages);
    h->pages = NULL;
    h->entered = h->computed = 0;
}

static void turn_off(struct sched *s, struct seq *q)
{
    ahead_leave(s, q);
    q->ahead.off = true;
    q->guessed = q->ahead.proposed = 0;
}

/* Room for the sequence's pages, and those that the cache knows already. */
static bool join(struct ahead_model *a, struct seq *q)
{
    struct ahead *h = &q->ahead;
    int size = a->backend->page_tokens;
    h->pages = malloc((size_t)((q->tokens_max + size - 1) / size) * sizeof *h->pages);
    if (!h->pages) return false;
    int32_t before = -1;
    while ((h->page_count + 1) * size <= q->count - 1) {
        int32_t page = pages_find(a->pages, before, q->tokens + h->page_count * size);
        if (page < 0) break;
        pages_hold(a->pages, page);
        h->pages[h->page_count++] = before = page;
    }
    h->entered = h->page_count;
    h->computed = h->page_count * size;
    return true;
}

static bool grow(struct ahead_model *a, struct seq *q, int end)
{
    struct ahead *h = &q->ahead;
    while (h->page_count * a->backend->page_tokens < end) {
        int32_t page = pages_take(a->pages);
        if (page < 0) return false;
        h->pages[h->page_count++] = page;
    }
    return true;
}

/* ---- what it is worth ---- */

/* The prices of this step, in seconds. */
struct prices {
    double token, column; /* what a token more is worth; what checking a guess costs */
    bool always;
};

static double chance_of(const struct ahead_model *a, bool drawn, int level)
{
    const struct ahead_record *r = &a->record[drawn][level];
    return (r->kept + RECORD_PRIOR * (level + 0.5) / AHEAD_LEVELS) / (r->tried + RECORD_PRIOR);
}

/* Of all its guesses, whatever it thought of them. */
static double chance_of_any(const struct ahead_model *a, bool drawn)
{
    double kept = RECORD_PRIOR * 0.7, tried = RECORD_PRIOR;
    for (int i = 0; i < AHEAD_LEVELS; i++) {
        kept += a->record[drawn][i].kept;
        tried += a->record[drawn][i].tried;
    }
    return kept / tried;
}

static double bounded(double v)
{
    return v > ACCOUNT_MOST ? ACCOUNT_MOST : v < -ACCOUNT_MOST ? -ACCOUNT_MOST : v;
}

static void book(struct ahead_model *a, struct seq *q, double tokens)
{
    q->ahead.account = bounded(q->ahead.account + tokens);
    a->account = bounded(a->account + tokens);
}

/* Catching up with a prompt is an investment where answers like this one have brought more; else the account pays. */
static bool covers_lag(const struct ahead_model *a, const struct seq *q, int lag, const struct prices *p, bool *invest)
{
    double cost = cost_of(&a->cost, lag) / p->token, room = q->tokens_max - q->count;
    double part = room < a->answer_tokens ? room / a->answer_tokens : 1;
    *invest = !q->ahead.tried && cost <= a->answer_net * part * 0.75;
    return *invest || cost <= q->ahead.account;
}

static bool may_guess(struct sched *s, struct seq *q, int most, const struct prices *p, bool *invest)
{
    struct ahead_model *a = &s->ahead;
    struct ahead *h = &q->ahead;
    *invest = p->always;
    if (!h->begun) {
        h->begun = true;
        h->account = a->account < ACCOUNT_FIRST ? a->account : ACCOUNT_FIRST;
    }
    if (!p->always) book(a, q, ACCOUNT_EACH);
    if (h->off || q->guessed || most < 1 || q->tokens_max - q->count < 2 || q->count + DRAFT_MAX >= a->model->context) return false;
    double first = (cost_of(&a->cost, 1) + p->column) / p->token;
    if (!p->always && h->account < first) return false;
    if (!h->pages && !join(a, q)) return false;
    roll_back(q);
    enter_pages(a, q);
    return p->always || q->count - h->computed <= LAG_SMALL || covers_lag(a, q, q->count - h->computed, p, invest);
}

/* ---- one step of the draft model ---- */

static bool all_cancelled(void *ctx)
{
    const struct ahead_model *a = ctx;
    for (int r = 0; r < a->run_count; r++)
        if (!atomic_load(&a->of_run[r]->cancelled)) return false;
    return true;
}

static bool draws(const struct seq *q)
{
    return q->constraint.mask || !sample_takes_best(&q->sampling);
}

/* Tokens up to `end` of a sequence, and the last one's row where it is the sequence's last. */
static void add_run(struct ahead_model *a, struct batch *b, struct seq *q, int end)
{
    struct ahead *h = &q->ahead;
    int count = end - h->computed;
    a->of_run[b->runs] = q;
    a->runs[b->runs++] = (struct batch_run){.first = b->cols, .count = count, .position = h->computed, .pages = h->pages};
    memcpy(a->tokens + b->cols, q->tokens + h->computed, (size_t)count * sizeof *a->tokens);
    b->cols += count;
    if (end < q->count + q->guessed) return;
    a->need_logits[b->wanted] = draws(q);
    a->want[b->wanted++] = b->cols - 1;
}

static struct batch new_batch(struct ahead_model *a)
{
    return (struct batch){.tokens = a->tokens, .run = a->runs, .want = a->want, .need_logits = a->need_logits,
                          .abandoned = all_cancelled, .ctx = a};
}

/* False: there are no rows. Sequences whose step failed get no more guesses. */
static bool forward(struct sched *s, struct batch *b, struct batch_out *out)
{
    struct ahead_model *a = &s->ahead;
    struct err e = {0};
    a->run_count = b->runs;
    enum err_code code = a->backend->forward(a->backend, b, out, &e);
    if (code == ERR_OK) {
        a->failures = 0;
        for (int r = 0; r < b->runs; r++) a->of_run[r]->ahead.computed += a->runs[r].count;
        s->stats.draft_steps++;
        return true;
    }
    if (code == ERR_CANCELLED) return false;
    a->failures++;
    for (int r = 0; r < b->runs; r++) turn_off(s, a->of_run[r]);
    return false;
}

/* The guess of one row. True: another one after it is worth a step. */
static bool take_guess(struct sched *s, struct seq *q, const struct batch_out *out, int row, int most, double step, const struct prices *p)
{
    struct ahead_model *a = &s->ahead;
    struct ahead *h = &q->ahead;
    struct row r = {.logits = out->logits + (size_t)row * out->logits_stride, .whole = true, .drawn = -1};
    if (out->stats) r.st = out->stats[row];
    else a->backend->stats(a->backend, r.logits, a->model->vocabulary, &r.st);
    int32_t id;
    struct err e = {0};
    if (sched_choose(s, q, &a->sampler, &r, h->state, q->count + q->guessed, &id, &e) != ERR_OK) return false;
    if (id >= s->model->vocabulary || (!q->ignore_eos && tokenizer_is_end(s->tokenizer, id))) return false;
    double sure = exp((double)((draws(q) ? r.logits[id] : r.st.max) - r.st.logsum));
    int level = sure >= 0 && sure < 1 ? (int)(sure * AHEAD_LEVELS) : AHEAD_LEVELS - 1;
    h->level[q->guessed] = (uint8_t)level;
    q->tokens[q->count + q->guessed] = id;
    h->proposed = q->guessed + 1;
    h->from_model = true;
    h->survival *= chance_of(a, draws(q), level);
    if (!p->always && h->survival * p->token < p->column) return false; /* not worth a check: only looked at */
    if (++q->guessed >= most) return false;
    if (q->constraint.advance) h->state = q->constraint.advance(q->constraint.ctx, h->state, id);
    return p->always || h->survival * chance_of_any(a, draws(q)) * p->token >= step + p->column;
}

/* Guesses of a step's rows; those that go on stand in `of_run` from its beginning. Returns how many. */
static int take_guesses(struct sched *s, const struct batch *b, const struct batch_out *out, int most, const struct prices *p)
{
    struct ahead_model *a = &s->ahead;
    int row = 0, on = 0;
    double seconds = cost_of(&a->cost, b->cols), next = b->wanted ? cost_of(&a->cost, b->wanted) / b->wanted : 0;
    for (int r = 0; r < b->runs; r++) {
        struct seq *q = a->of_run[r];
        q->ahead.spent += seconds / p->token * a->runs[r].count / b->cols;
        if (row == b->wanted || a->want[row] != a->runs[r].first + a->runs[r].count - 1) continue;
        int room = q->tokens_max - q->count - 1;
        if (take_guess(s, q, out, row++, most < room ? most : room, next, p)) a->of_run[on++] = q;
    }
    return on;
}

static void feed_guesses(struct ahead_model *a, struct batch *b, int on)
{
    *b = new_batch(a);
    for (int i = 0; i < on; i++) {
        struct seq *q = a->of_run[i];
        if (grow(a, q, q->count + q->guessed)) add_run(a, b, q, q->count + q->guessed);
    }
}

/* Who takes part, and what the draft model has to read for it first. Sequences that it has no pages for are left alone. */
static void plan(struct sched *s, struct batch *b, int most, const struct prices *p)
{
    struct ahead_model *a = &s->ahead;
    *b = new_batch(a);
    for (struct seq *q = s->running.first; q; q = q->next) {
        bool invest;
        if (q->computed != q->count - 1 || !may_guess(s, q, most, p, &invest)) continue;
        struct ahead *h = &q->ahead;
        int room = a->cols_max - AHEAD_SLOTS_MAX + 1 - b->cols, end = q->count;
        if (end - h->computed > LAG_SMALL && end > h->computed + room) end = h->computed + room;
        if (b->cols + end - h->computed > a->cols_max || end <= h->computed) continue;
        if (!grow(a, q, end)) {
            turn_off(s, q);
            continue;
        }
        h->state = q->constraint_state;
        h->survival = 1;
        double catching_up = end - h->computed > LAG_SMALL ? cost_of(&a->cost, end - h->computed) / p->token : 0;
        if (!invest) book(a, q, -catching_up);
        h->spent = -catching_up; /* that share of the step is no cost of guessing */
        add_run(a, b, q, end);
    }
}

static bool price(const struct sched *s, int decodes, struct prices *p)
{
    p->always = s->options.draft_always;
    p->token = 1e-3;
    p->column = 0;
    if (p->always) return true;
    if (!cost_known(&s->cost, decodes)) return false; /* a step without guesses measures it */
    p->token = cost_of(&s->cost, decodes) / decodes;
    p->column = cost_of_column(&s->cost, decodes);
    return p->token > 0;
}

static void pay(struct sched *s, const struct prices *p)
{
    struct ahead_model *a = &s->ahead;
    for (struct seq *q = s->running.first; q; q = q->next) {
        struct ahead *h = &q->ahead;
        if (q->computed != q->count - 1 || (!h->from_model && h->spent == 0)) continue;
        h->spent += q->guessed && h->from_model ? q->guessed * p->column / p->token : 0;
        if (h->proposed) h->tried = true;
        h->net -= h->spent;
        if (!p->always && h->spent > 0) book(a, q, -h->spent);
    }
}

void ahead_forget(struct seq *q)
{
    q->ahead.proposed = 0;
    q->ahead.from_model = false;
    q->ahead.spent = 0;
}

void ahead_guess(struct sched *s, int most)
{
    struct ahead_model *a = &s->ahead;
    struct prices p;
    struct batch b;
    struct batch_out out = {0};
    int decodes = 0;
    for (const struct seq *q = s->running.first; q; q = q->next) decodes += q->computed == q->count - 1;
    if (!a->backend || a->failures >= FAILURES_MAX || !decodes || s->running.count > AHEAD_SLOTS_MAX || !price(s, decodes, &p)) return;
    plan(s, &b, most, &p);
    for (int64_t start = clock_mono_us(); b.runs && forward(s, &b, &out); start = clock_mono_us()) {
        int on = take_guesses(s, &b, &out, most, &p);
        cost_learn(&a->cost, b.cols, (double)(clock_mono_us() - start) * 1e-6);
        feed_guesses(a, &b, on);
    }
    pay(s, &p);
}

/* ---- what came of it ---- */

int32_t ahead_foretold(const struct seq *q, int i)
{
    return i < (q->ahead.from_model ? q->ahead.proposed : q->guessed) ? q->tokens[q->count] : -1;
}

void ahead_learn(struct sched *s, struct seq *q, int i, bool right)
{
    struct ahead_model *a = &s->ahead;
    if (!q->ahead.from_model) return;
    struct ahead_record *r = &a->record[draws(q)][q->ahead.level[i]];
    r->kept = r->kept * RECORD_KEEPS + right;
    r->tried = r->tried * RECORD_KEEPS + 1;
    if (!right || i >= q->guessed) return;
    book(a, q, 1);
    q->ahead.net++;
    s->stats.draft_kept_tokens++;
}

void ahead_ended(struct sched *s, const struct seq *q)
{
    struct ahead_model *a = &s->ahead;
    a->answer_tokens += (q->told - a->answer_tokens) / ANSWERS;
    if (q->ahead.tried) a->answer_net += (q->ahead.net - a->answer_net) / ANSWERS;
}
