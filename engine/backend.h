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
    bool (*abandoned)(void *ctx); /* asked now and then in a step: does nobody want it any more? NULL: somebody does */
    void *ctx;
};

struct batch_out { /* rows in the order of `want`; live until the next forward */
    const float *logits, *hidden; /* hidden: after the final norm */
    size_t logits_stride, hidden_stride;
};

struct backend_options {
    const char *kernels;
    int threads;
    bool pin, kv_q8; /* kv_q8: the KV cache in Q8_0, else F16 */
    int pages, cols_max, wanted_max;
};

struct logit_stats;
struct backend {
    const char *kernels;
    int page_tokens;
    int64_t token_bytes; /* of weights that one token reads */
    /* ERR_CANCELLED: it was abandoned, and nothing of it counts. Other errors end all that runs. */
    ERR_CHECKED enum err_code (*forward)(struct backend *b, const struct batch *batch, struct batch_out *out, struct err *e);
    void (*stats)(struct backend *b, const float *logits, int n, struct logit_stats *out);
    void (*close)(struct backend *b);
};

/* The CPU backend: packs the weights. Blocks. Errors: ERR_MEMORY, ERR_INVALID (no such kernel set here). */
ERR_CHECKED enum err_code cpu_open(struct backend **out, const struct model *model, const struct backend_options *options,
                                   struct err *e);
/* The bytes of a KV page of the CPU. */
int64_t cpu_page_bytes(const struct model *model, bool kv_q8);

#endif
