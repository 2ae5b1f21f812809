/* Whether one more sequence may run: not what is free now counts, but what all that run will have taken when each of them ends.
 *
 * A sequence goes on to its limit, or as answers are thought to: their lengths as if exponential about the mean of late, so that what is
 * left of each does not hang on how long it is already. The quantiles of that law are dealt out, one to each that runs. Between two ends
 * all others grow; the most pages are in use just before an end. */
#include "engine/sched_private.h"

#include <math.h>
#include <stdlib.h>

enum { ANSWERS = 32 };

void sched_answer_ended(struct sched *s, const struct seq *q)
{
    s->answer_tokens += (q->told - s->answer_tokens) / ANSWERS;
}

/* `place`: of q among those that run, from 0. Its quantile is dealt by the golden ratio: evenly, whatever their number. */
static double tokens_left(const struct sched *s, const struct seq *q, int place)
{
    double room = q->tokens_max - q->count, share = fmod((place + 1) * 0.6180339887498949, 1);
    return q->ignore_eos ? room : fmin(room, -log(1 - share) * s->answer_tokens);
}

static int by_left(const void *a, const void *b)
{
    const struct future *x = a, *y = b;
    return x->left < y->left ? -1 : x->left > y->left;
}

bool sched_fits(struct sched *s, const struct seq *newcomer)
{
    int n = 0, size = s->backend->page_tokens;
    double tokens = 0, pages = pages_held(s->pages), have = pages_total(s->pages);
    if (s->options.admit_early) return (newcomer->count + size) / size - newcomer->page_count + pages <= have;
    for (const struct seq *q = s->running.first; q; q = q->next, n++) {
        s->future[n] = (struct future){.left = tokens_left(s, q, n), .count = q->count, .shared = q->shared};
        tokens += q->count;
        pages -= q->page_count;
    }
    qsort(s->future, (size_t)n, sizeof *s->future, by_left);
    /* pages: less what is held more than once; each sequence's last page is half full. */
    for (int i = 0; i < n; i++) {
        const struct future *f = &s->future[i];
        if (pages + (tokens + (n - i) * (f->left + size * 0.5)) / size > have) return false;
        tokens -= f->count;
        pages += f->shared; /* they stay */
    }
    return true;
}
