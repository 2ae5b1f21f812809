/* Which token a row gives. A step's draws come first from the lists that a backend makes of its rows; the rows that are needed whole
 * after all come together, and are drawn from by several threads: each takes a tenth to half of a millisecond, and the next step waits. */
#include "engine/sched_private.h"

#include <string.h>

void sched_row_stats(struct sched *s, const struct batch_out *out, int row, struct logit_stats *st)
{
    if (out->stats) *st = out->stats[row];
    else s->backend->stats(s->backend, out->logits + (size_t)row * out->logits_stride, s->model->vocabulary, st);
}

struct row sched_row(const struct sched *s, const struct batch_out *out, int row)
{
    bool list = s->inverse[row] > 0;
    return (struct row){.logits = out->logits + (size_t)row * out->logits_stride, .list = list ? &out->lists[row] : NULL, .index = row,
                        .whole = !list || s->whole[row], .drawn = s->drawn[row]};
}

static struct sample_input input_of(struct sched *s, const struct seq *q, const struct row *r, uint64_t state, int count)
{
    struct sample_input in = {.logits = r->logits, .list = r->list, .how = &q->sampling, .choice = q->choice, .index = count - q->prompt_count,
                              .tokens = q->tokens, .count = count, .prompt_count = q->prompt_count};
    if (!q->constraint.mask) return in;
    memset(s->mask, 0xff, s->mask_words * sizeof *s->mask);
    q->constraint.mask(q->constraint.ctx, state, s->mask);
    const int32_t *best = q->constraint.if_best;
    if (best && *best >= 0 && *best != r->st.best) s->mask[*best / 32] &= ~(1u << (*best % 32));
    in.mask = s->mask;
    return in;
}

enum err_code sched_choose(struct sched *s, const struct seq *q, struct sampler *sampler, struct row *r, uint64_t state, int count,
                           int32_t *id, struct err *e)
{
    *id = r->drawn >= 0 ? r->drawn : r->st.best;
    if (r->drawn >= 0 || (!q->constraint.mask && sample_takes_best(&q->sampling))) return ERR_OK;
    struct sample_input in = input_of(s, q, r, state, count);
    if (!r->whole) {
        const int32_t index = r->index;
        if ((*id = sample_list(sampler, &in, r->list)) >= 0) return ERR_OK;
        enum err_code code = s->backend->rows(s->backend, &index, 1, e);
        if (code) return code;
        r->whole = true;
    }
    *id = sample(sampler, &in);
    return ERR_OK;
}

/* ---- all of a step ---- */

/* Taken when it is first needed: few models' rows ever are. Without memory for it one thread draws. */
static void open_drawers(struct sched *s)
{
    struct drawers *d = &s->drawers;
    int threads = pool_cores() < DRAWERS_MAX ? pool_cores() : DRAWERS_MAX;
    d->tried = true;
    if (threads < 2 || pool_open(&d->pool, threads, false, NULL) != ERR_OK) return;
    for (int i = 0; i < threads; i++) {
        if (sampler_init(&d->sampler[i], s->model->vocabulary, NULL) != ERR_OK) break;
        d->members++;
    }
}

void sched_close_drawers(struct sched *s)
{
    for (int i = 0; i < s->drawers.members; i++) sampler_release(&s->drawers.sampler[i]);
    pool_close(s->drawers.pool);
}

struct job {
    struct sched *s;
    const struct batch_out *out;
    int count;
};

static void draw_some(void *ctx, int member)
{
    const struct job *j = ctx;
    struct sched *s = j->s;
    for (int i; (i = pool_take(s->drawers.pool, 1)) < j->count;) {
        const struct seq *q = s->fetch_of[i];
        if (q->constraint.mask) continue; /* its mask is made by the scheduler's thread */
        struct row r = sched_row(s, j->out, s->fetch[i]);
        struct sample_input in = input_of(s, q, &r, 0, q->count);
        s->drawn[s->fetch[i]] = sample(&s->drawers.sampler[member], &in);
    }
}

/* Only a sequence's first row: the next hangs on what it gives. What is not drawn here is when its turn comes. */
void sched_draw(struct sched *s, const struct batch *batch, const struct batch_out *out)
{
    struct job job = {s, out, 0};
    for (int i = 0; i < batch->wanted; i++) {
        s->drawn[i] = -1;
        s->whole[i] = false;
    }
    for (int r = 0; r < batch->runs; r++) {
        struct seq *q = s->of_run[r];
        int row = q->last_want;
        if (row < 0 || !(s->inverse[row] > 0)) continue;
        struct row it = sched_row(s, out, row);
        sched_row_stats(s, out, row, &it.st);
        struct sample_input in = input_of(s, q, &it, q->constraint_state, q->count);
        s->drawn[row] = sample_list(&s->sampler, &in, it.list);
        if (s->drawn[row] >= 0) continue;
        s->fetch_of[job.count] = q;
        s->fetch[job.count++] = row;
    }
    if (!job.count || s->backend->rows(s->backend, s->fetch, job.count, NULL) != ERR_OK) return;
    for (int i = 0; i < job.count; i++) s->whole[s->fetch[i]] = true;
    if (job.count < 2) return;
    if (!s->drawers.tried) open_drawers(s);
    if (s->drawers.members > 1) pool_run(s->drawers.pool, job.count < s->drawers.members ? job.count : s->drawers.members, draw_some, &job);
}
