/* The scheduler's inside, shared by sched.c (queue, ends, thread) and sched_step.c (one step of the backend). */
#ifndef RUNG_ENGINE_SCHED_PRIVATE_H
#define RUNG_ENGINE_SCHED_PRIVATE_H

#include "engine/cpu/kernels.h"
#include "engine/cpu/pool.h"
#include "engine/sample.h"
#include "engine/sched.h"
#include "engine/sched_ahead.h"
#include "engine/sched_pages.h"
#include "engine/sched_seq.h"

#include <pthread.h>

enum { SCHED_ANSWER_FIRST = 256 /* tokens, before any answer has ended */ };
enum { USERS = 64, RATE_SECONDS = 5, TOKEN_BYTES_MAX = 4096 };

struct list {
    struct seq *first, *last;
    int count;
};

/* One running sequence as admission sees it. */
struct future {
    double left;       /* tokens that it is thought to go on for */
    int count, shared; /* tokens; pages that others hold too */
};

/* What one user was served lately; a table with one row per hash. */
struct service {
    double tokens;
};

/* Threads that draw from whole rows. */
enum { DRAWERS_MAX = 8 };
struct drawers {
    struct pool *pool; /* NULL: not needed yet, or there is one core */
    struct sampler sampler[DRAWERS_MAX]; /* (members) */
    int members;
    bool tried;
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
    bool settled; /* the thread's own: the backend has put nothing off */
    struct engine_stats published;

    /* The scheduler thread's own. */
    struct list queue, running;
    struct pages *pages;
    struct sampler sampler;
    struct ahead_model ahead;
    struct step_cost cost;  /* of steps that only decode; kept where there is a draft model */
    struct service service[USERS];
    double answer_tokens;   /* what answers had lately, on average */
    struct future *future;  /* (slots_max) */
    struct engine_stats stats;
    struct rate prefill[RATE_SECONDS], decode[RATE_SECONDS];
    int32_t *tokens, *want; /* (cols_max), (wanted_max) */
    uint8_t *need_logits;   /* (wanted_max) */
    float *inverse;         /* (wanted_max) */
    int32_t *drawn;         /* (wanted_max) a row's token, where it is known before its turn; else -1 */
    bool *whole;            /* (wanted_max) its logits have come after its list */
    int32_t *fetch;         /* (slots_max) rows to be fetched, and whose they are */
    struct seq **fetch_of;
    struct drawers drawers;
    struct batch_run *runs; /* (slots_max) */
    struct seq **of_run;    /* (slots_max) */
    uint32_t *mask;         /* (mask_words) bits of the larger vocabulary, the draft model's or the model's */
    size_t mask_words;
};

/* ---- of sched.c ---- */

void list_push(struct list *l, struct seq *s);
void list_push_front(struct list *l, struct seq *s);
void list_remove(struct list *l, struct seq *s);
/* Tell the sequence's end and free it. `stopped`: a stop string ended it, so that what is held back is not shown. */
void sched_finish(struct sched *s, struct list *from, struct seq *q, enum engine_finish how, bool stopped);
void sched_fail(struct sched *s, struct list *from, struct seq *q, const struct err *why);
/* The youngest running sequence, by its first admission, goes back to the head of the queue. */
void sched_preempt(struct sched *s);
/* Whether what runs, the newcomer q among it, is thought to need no more pages than there are until it has ended (sched_admit.c). */
bool sched_fits(struct sched *s, const struct seq *q);
void sched_answer_ended(struct sched *s, const struct seq *q);
/* Whole pages that are computed stand in the prefix cache from now on. */
void sched_enter_pages(struct sched *s, struct seq *q);
struct service *sched_service(struct sched *s, const struct seq *q);
double sched_ms(int64_t from_us, int64_t to_us);

/* ---- of sched_step.c ---- */

/* One forward of what runs. */
void sched_step(struct sched *s);
/* What a token is chosen from. */
struct row {
    const float *logits;           /* where they are, or will be */
    const struct logit_list *list; /* or NULL */
    int index;                     /* among the step's rows */
    bool whole;                    /* the logits are there; else the list alone */
    int32_t drawn;                 /* the token, where it is known already; else -1 */
    struct logit_stats st;
};
struct row sched_row(const struct sched *s, const struct batch_out *out, int row); /* but for its statistics */
void sched_row_stats(struct sched *s, const struct batch_out *out, int row, struct logit_stats *st);
/* The tokens of a step's rows, as far as they are drawn and can be told before their turn. */
void sched_draw(struct sched *s, const struct batch *batch, const struct batch_out *out);
void sched_close_drawers(struct sched *s);
/* The token that a row gives a sequence after `count` tokens, its constraint in `state`. Fails only where a list does not suffice and
 * the backend cannot bring the row. */
ERR_CHECKED enum err_code sched_choose(struct sched *s, const struct seq *q, struct sampler *sampler, struct row *r, uint64_t state,
                                       int count, int32_t *id, struct err *e);

#endif
