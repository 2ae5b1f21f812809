/* One sequence: a request's copy, its tokens, where it stands. Private to the scheduler. */
#ifndef RUNG_ENGINE_SCHED_SEQ_H
#define RUNG_ENGINE_SCHED_SEQ_H

#include "engine/engine.h"
#include "engine/sched_ahead.h"
#include "engine/sched_text.h"

#include <stdatomic.h>

struct seq {
    struct seq *next; /* in its list: inbox, queue or running (by age) */
    uint64_t id;
    struct engine_sink sink;
    struct engine_sampling sampling;
    struct engine_constraint constraint; /* mask NULL: none */
    uint64_t constraint_state, user;
    int choice, top_logprobs;
    bool ignore_eos, want_hidden;
    _Atomic bool cancelled;

    int32_t *tokens; /* (tokens_max) prompt, prefix, generated */
    int count, prompt_count, tokens_max;
    int told;        /* generated tokens told or given as prefix */
    struct text text;
    struct draft draft;
    struct ahead ahead;
    int guessed;     /* of this step: they stand in tokens after count */

    /* While it runs. */
    int32_t *pages;  /* (page_count) held */
    int page_count, pages_max;
    int entered;     /* pages that stand in the prefix cache */
    int shared;      /* of its pages, found at admission with another sequence that held them */
    int computed;    /* positions whose K and V lie in the pages */
    int cached;      /* of the prompt, from the prefix cache at first admission */
    int first_want, last_want; /* this step's rows among the wanted; -1: none */
    bool prefilled;  /* on_prefill has been told */

    int64_t submitted_us, admitted_us, prefilled_us;
};

/* Copy a request. `context` bounds prompt and answer together. Errors: ERR_INVALID, ERR_CONTEXT, ERR_MEMORY. */
ERR_CHECKED enum err_code seq_new(struct seq **out, uint64_t id, const struct engine_request *request,
                                  const struct engine_sink *sink, int context, int page_tokens, int vocabulary, struct err *e);
void seq_free(struct seq *s);

#endif
