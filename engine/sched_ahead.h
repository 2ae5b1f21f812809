/* Speculation with a draft model: it goes ahead of decoding sequences by some tokens, which the model then checks along with
 * the next one. It draws with the same random number, under the same rules and constraint, as the model will at that place; the model
 * keeps what it chose itself. So the text never depends on it, whatever the draft model does or fails to do.
 *
 * One step of the draft model gives one more guess for all sequences that take part. Its KV pages and its prefix cache are its own;
 * what it has read of a sequence may lag behind, and is caught up a bounded piece at a time before it guesses.
 *
 * Whether it pays is kept as an account per sequence, in tokens: a guess kept earns one, and the time for guessing and for checking is
 * paid, both as they were measured (sched_cost.h). A sequence guesses while its account covers the next try; each token adds a
 * hundredth, which bounds the loss on text that cannot be guessed. One owner (the scheduler thread). */
#ifndef RUNG_ENGINE_SCHED_AHEAD_H
#define RUNG_ENGINE_SCHED_AHEAD_H

#include "engine/backend.h"
#include "engine/engine.h"
#include "engine/sample.h"
#include "engine/sched_cost.h"
#include "engine/sched_draft.h"

struct sched;
struct seq;

enum { AHEAD_LEVELS = 8, AHEAD_SLOTS_MAX = 16 /* sequences that may be guessed for together */ };

/* Of one sequence; zero before its first guess. */
struct ahead {
    int32_t *pages; /* (page_count) held of the draft model's */
    int page_count, entered, computed;
    bool begun, off;         /* off: for the rest of the sequence */
    bool tried;              /* it has had guesses checked */
    double account, net;     /* tokens; net: what guessing has brought, catching up left out */
    /* This step's. */
    int proposed;            /* they stand in tokens after count; the last may not have been worth a check */
    bool from_model;         /* seq.guessed are the draft model's */
    uint8_t level[DRAFT_MAX + 1]; /* how sure it was of each */
    double spent, survival;  /* tokens' worth of its time; probability that all so far are right */
    uint64_t state;          /* the constraint's after them */
};

/* How often guesses of one sureness were right. */
struct ahead_record {
    double kept, tried;
};

struct ahead_model { /* NULL backend: there is none */
    struct backend *backend;
    const struct model *model;
    struct pages *pages;
    struct sampler sampler;
    struct step_cost cost;
    struct ahead_record record[2][AHEAD_LEVELS]; /* greedy; drawn */
    double account;          /* all sequences', tokens */
    double answer_tokens, answer_net; /* of an answer, on average; net as above, of those that had guesses */
    int failures;            /* steps in a row */
    int cols_max;            /* of one step */
    int32_t *tokens, *want;  /* (cols_max), (AHEAD_SLOTS_MAX) */
    uint8_t *need_logits;    /* (AHEAD_SLOTS_MAX) */
    struct batch_run *runs;  /* (AHEAD_SLOTS_MAX) */
    struct seq **of_run;     /* (AHEAD_SLOTS_MAX) */
    int run_count;
};

/* What its backend must take in one step. */
int ahead_cols_max(int prefill_tokens);

/* Errors: ERR_MEMORY. Zero before; after an error release is wanted too. */
ERR_CHECKED enum err_code ahead_open(struct ahead_model *a, struct backend *backend, const struct model *model, int pages,
                                     int prefill_tokens, struct err *e);
void ahead_release(struct ahead_model *a);

/* Guesses for decoding sequences that have none yet, at most `most` each: sets guessed, and the tokens after count. `forget`
 * comes first, for every running sequence, each step. */
void ahead_forget(struct seq *q);
void ahead_guess(struct sched *s, int most);
/* Before the next token of a sequence is chosen, place `i` after count: what was foretold there; -1: nothing. */
int32_t ahead_foretold(const struct seq *q, int i);
/* It was right or it was not. */
void ahead_learn(struct sched *s, struct seq *q, int i, bool right);
/* The sequence stops running for a while, or has ended: its pages go back, what is whole stays cached. */
void ahead_leave(struct sched *s, struct seq *q);
void ahead_ended(struct sched *s, const struct seq *q);

#endif
