/* What the scheduler asks of an arithmetic backend (CPU, CUDA): one forward step over a batch of columns (tokens).
 * Called by the scheduler thread alone. */
#ifndef RUNG_ENGINE_BACKEND_H
#define RUNG_ENGINE_BACKEND_H

#include "engine/model.h"

/* Neighbouring tokens of one sequence within the batch. */
struct batch_run {
    int first, count;     /* columns */
    int position;         /* of the first */
    const int32_t *pages; /* the sequence's page table; pages for all its positions are there */
};

struct batch {
    int cols, runs, wanted;
    const int32_t *tokens;        /* (cols) */
    const struct batch_run *run;  /* (runs) */
    const int32_t *want;          /* (wanted) columns whose logits are wanted, ascending */
    const uint8_t *need_logits;   /* (wanted) 0: only the row's statistics are looked at; NULL: every row's logits are */
    const float *inverse;         /* (wanted) above 0: its list too, with the sum at this inverse of a temperature; NULL: no list is */
    bool (*abandoned)(void *ctx); /* asked often in a step, by one thread: does nobody want it any more? NULL: somebody does */
    void *ctx;
};

/* What a row of logits says of the next token. */
struct logit_stats {
    float max, logsum;                   /* logsum: log Σ exp(logit) */
    float entropy, margin, varentropy;   /* nats; p1 - p2 */
    int best;
};

/* The top of a row: what sampling needs of it nearly always. Fewer than LOGIT_LIST_MAX: no other is above -∞. */
enum { LOGIT_LIST_MAX = 256 };
struct logit_at {
    float logit;
    int32_t id;
};
struct logit_list {
    double sum; /* Σ exp((logit - max) × inverse) over the whole row, each product as floats give it, within LOGIT_SUM_ERROR */
    int32_t count, unused;
    struct logit_at top[LOGIT_LIST_MAX]; /* highest first, of equals the lower id */
};
#define LOGIT_SUM_ERROR 6e-7 /* relative: a few roundings of a float */

struct batch_out { /* rows in the order of `want`; live until the next forward */
    const float *logits, *hidden; /* hidden: after the final norm. Rows of logits that need not be there hold anything */
    size_t logits_stride, hidden_stride;
    const struct logit_stats *stats; /* (wanted), or NULL: ask stats() */
    const struct logit_list *lists;  /* (wanted) those that `inverse` asked for; else anything. Where the backend has rows() */
};

struct backend_options {
    const char *kernels; /* of a CPU; NULL: the best there are */
    int threads, device; /* device: the GPU's number */
    bool pin, kv_q8;     /* kv_q8: the KV cache in 8 bits (Q8_0 on a CPU, E4M3 on a GPU), else F16 */
    bool later;          /* what can be put off until after the first step is: settle() does it then. A CPU packs weights so */
    bool invariant;      /* a position's results never depend on the batch; a CPU's never do */
    int sparse_pages;    /* 0: dense; else decoding reads at most so many pages of the past, where the backend can */
    int pages, pages_max; /* pages 0: as many as fit beside the weights and the work space, at most pages_max (a GPU only) */
    int context_tokens;  /* the most one sequence holds */
    int cols_max, wanted_max;
    struct backend *beside; /* a CPU's: one that is open, lives longer and is stepped by the same thread, whose threads are used; or NULL */
};

struct backend {
    const char *kernels;
    int page_tokens, pages; /* pages: how many it has */
    int64_t token_bytes; /* of weights that one token reads */
    /* ERR_CANCELLED: it was abandoned, and nothing of it counts. Other errors end all that runs. */
    ERR_CHECKED enum err_code (*forward)(struct backend *b, const struct batch *batch, struct batch_out *out, struct err *e);
    void (*stats)(struct backend *b, const float *logits, int n, struct logit_stats *out); /* NULL where every step brings them */
    /* Whole rows of the last step that came without, ascending, to their places in its `logits`. NULL where every row comes, and no
     * list. Blocks. */
    enum err_code (*rows)(struct backend *b, const int32_t *row, int count, struct err *e);
    /* Some tens of milliseconds of work that makes later steps faster; the second step does what is left of it. False:
     * nothing is. May be NULL. */
    bool (*settle)(struct backend *b);
    void (*close)(struct backend *b);
};

/* The CPU backend: packs the weights. Blocks. Errors: ERR_MEMORY, ERR_INVALID (no such kernel set here). */
ERR_CHECKED enum err_code cpu_open(struct backend **out, const struct model *model, const struct backend_options *options,
                                   struct err *e);
/* The bytes of a KV page of the CPU. */
int64_t cpu_page_bytes(const struct model *model, bool kv_q8);

#endif
