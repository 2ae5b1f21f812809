/* A model and its backend without scheduler or sampling: logits of given tokens, for tests, perplexity and benches. */
#ifndef RUNG_ENGINE_MODEL_PROBE_H
#define RUNG_ENGINE_MODEL_PROBE_H

#include "engine/device.h"

struct probe_options {
    const char *kernels; /* as device_find takes it */
    int threads;         /* 0: the cores */
    int context;         /* tokens of all sequences together */
    int cols_max;        /* of a step */
    int wanted_max;      /* rows of logits of a step; 0: 64, or cols_max where that is less */
    bool kv_q8, invariant;
    int sparse_pages;
};

struct probe {
    struct model *model;
    struct device device;
    struct backend *backend;
    int32_t *pages;        /* identity */
    struct batch_run *run; /* (wanted_max) */
    int32_t *want;         /* (wanted_max) */
    uint8_t *need_none;    /* (wanted_max) zeros */
    int context, cols_max, wanted_max, sparse_pages;
    bool kv_q8;
};

/* Errors: those of gguf_open, model_open, device_find and device_open. */
ERR_CHECKED enum err_code probe_open(struct probe *p, const char *path, const struct probe_options *options, struct err *e);
/* The same for a gguf that is open already; it is taken over on success only. */
ERR_CHECKED enum err_code probe_open_gguf(struct probe *p, struct gguf *gguf, const struct probe_options *options, struct err *e);
void probe_close(struct probe *p);

/* One step: tokens at positions [position, position + count). With `all`, logits of every one (count rows), else of the
 * last (1 row). `out` lives until the next step. */
ERR_CHECKED enum err_code probe_step(struct probe *p, const int32_t *tokens, int count, int position, bool all,
                                     struct batch_out *out, struct err *e);

/* One decoding step of `streams` sequences, each with context / streams positions of its own: tokens[i] at `position`
 * of stream i. Only statistics are asked for, as in greedy decoding. For benchmarks. */
ERR_CHECKED enum err_code probe_decode(struct probe *p, const int32_t *tokens, int streams, int position, struct batch_out *out,
                                       struct err *e);
/* Bytes of weights (as they lie in memory) that one token reads. */
int64_t probe_token_bytes(const struct probe *p);
/* Bytes of KV cache that one token at `position` reads. */
int64_t probe_kv_bytes(const struct probe *p, int position);

#endif
