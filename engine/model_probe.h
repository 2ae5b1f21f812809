/* A model and its backend without scheduler or sampling: logits of given tokens, for tests, perplexity and benches. */
#ifndef RUNG_ENGINE_MODEL_PROBE_H
#define RUNG_ENGINE_MODEL_PROBE_H

#include "engine/backend.h"

struct probe {
    struct model *model;
    struct backend *backend;
    int32_t *pages; /* identity */
    int context, cols_max, wanted_max;
};

/* Sequences of up to `context` tokens, steps of up to `cols_max`. Errors: those of gguf_open, model_open, cpu_open. */
ERR_CHECKED enum err_code probe_open(struct probe *p, const char *path, const char *kernels, int threads, int context, int cols_max,
                                     struct err *e);
/* The same for a gguf that is open already; it is taken over on success only. */
ERR_CHECKED enum err_code probe_open_gguf(struct probe *p, struct gguf *gguf, const char *kernels, int threads, int context,
                                          int cols_max, struct err *e);
void probe_close(struct probe *p);

/* One step: tokens at positions [position, position + count). With `all`, logits of every one (count rows), else of the
 * last (1 row). `out` lives until the next step. */
ERR_CHECKED enum err_code probe_step(struct probe *p, const int32_t *tokens, int count, int position, bool all,
                                     struct batch_out *out, struct err *e);

/* One decoding step of `streams` sequences, each with context / streams positions of its own: tokens[i] at `position`
 * of stream i. For benchmarks. */
ERR_CHECKED enum err_code probe_decode(struct probe *p, const int32_t *tokens, int streams, int position, struct batch_out *out,
                                       struct err *e);
/* Bytes of weights (as they lie in memory) that one token reads. */
int64_t probe_token_bytes(const struct probe *p);

#endif
