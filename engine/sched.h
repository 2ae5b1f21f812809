/* The scheduler: continuous batching over one backend. See engine.h for what a request means. */
#ifndef RUNG_ENGINE_SCHED_H
#define RUNG_ENGINE_SCHED_H

#include "engine/backend.h"
#include "engine/engine.h"
#include "engine/tokenizer.h"

struct sched_options {
    int slots_max, queue_max, context_tokens, prefill_tokens, draft_tokens, pages;
    struct backend *draft; /* of a model that guesses ahead (sched_ahead.h), with pages for it; NULL: none. Borrowed as the others */
    const struct model *draft_model;
    int draft_pages;
    bool draft_always;     /* whether it pays or not */
    bool admit_early;      /* see engine_options */
};
/* What the backend must take in one step. */
int sched_cols_max(const struct sched_options *o);
int sched_wanted_max(const struct sched_options *o);

struct sched;
/* Starts the scheduler's thread. Backend, model and tokenizer are borrowed and must outlive it. */
ERR_CHECKED enum err_code sched_open(struct sched **out, struct backend *backend, const struct model *model,
                                     const struct tokenizer *tokenizer, const struct sched_options *options, struct err *e);
void sched_close(struct sched *s);
ERR_CHECKED enum err_code sched_submit(struct sched *s, uint64_t id, const struct engine_request *request,
                                       const struct engine_sink *sink, struct err *e);
void sched_cancel(struct sched *s, uint64_t id);
void sched_stats(struct sched *s, struct engine_stats *out);

#endif
