/* What can answer: the one interface all answering goes through.
 *
 * A backend is `local` (the engine in this process), `peer` (another node above), `worker` (a node below that
 * registered with our broker), `upstream` (an OpenAI-compatible service) or `scripted` (tests and benches). All calls
 * and all sink callbacks are on the loop thread. Pointers in callback arguments live only during the call.
 */
#ifndef RUNG_NODE_BACKEND_H
#define RUNG_NODE_BACKEND_H

#include "proto/msg.h"

struct backend;
struct engine_stats;
struct prefix_map;

/* What comes back. At most one on_prefill, zero or more on_token, then exactly one on_done or on_error, never before
 * the submit call has returned. on_start comes once before the first token, or before on_done where there is none. */
struct sink_prefill {
    const float *hidden; /* (embedding), or NULL */
    int embedding;
    double entropy, margin, varentropy;
    int64_t prompt_tokens, cached_tokens;
};
struct sink {
    void *ctx;
    void (*on_start)(void *ctx, const struct msg_start *start);
    void (*on_prefill)(void *ctx, const struct sink_prefill *prefill); /* may be NULL */
    void (*on_token)(void *ctx, const struct msg_token *token);
    void (*on_done)(void *ctx, const struct msg_done *done);
    void (*on_error)(void *ctx, const struct msg_error *error);
};

struct backend_ops {
    const char *type; /* "local", "peer", "worker", "upstream", "scripted" */
    /* Take a request under `call`, unique in this process. The submit struct lives only during the call: copy. An
     * error means that no callback comes. ERR_FULL: no slot; ERR_UNSUPPORTED: cannot do this; ERR_CONTEXT. */
    enum err_code (*submit)(struct backend *backend, uint64_t call, const struct msg_submit *submit,
                            const struct sink *sink, struct err *e);
    /* Stop; no callback comes after this returns. Unknown calls are ignored. */
    void (*cancel)(struct backend *backend, uint64_t call);
    /* Give everything back. Running calls are cancelled. */
    void (*free)(struct backend *backend);
};

enum backend_health { BACKEND_STARTING, BACKEND_UP, BACKEND_DOWN, BACKEND_DRAINING, BACKEND_WARMING };
#define BACKEND_WORD 64
struct backend {
    const struct backend_ops *ops;
    void *impl;
    char name[BACKEND_WORD];
    /* kept up to date by the implementation: */
    enum backend_health health;
    char trouble[160];             /* why it is not up */
    int slots, slots_free;         /* 0 slots: no bound of its own */
    struct msg_model models[MSG_MODELS_MAX]; /* what it answers with; strings live as long as the backend says so */
    int model_count;               /* a peer lists the models (and tiers) it reaches */
    void (*stats)(const struct backend *backend, struct engine_stats *out); /* of its engine; NULL: none in this process */
    const char *device_note;       /* why its engine has no GPU where it might have had one; NULL or "": nothing to say */
    /* kept by the node (node/health.c): */
    int order;                     /* lower first */
    double weight;
    double ttft_ms, tokens_per_s;  /* running means; 0: not measured */
    int failures;                  /* in a row */
    int64_t broken_until_us, cooling_until_us; /* breaker open; asked to wait (429) */
    int running;                   /* calls */
    int first_token_ms, stall_ms;  /* the node's watchdog over its calls; 0: none */
    struct prefix_map *prefixes;   /* which text blocks it has seen (node/dispatch.c) */
    struct backend *next;
};

/* The model of `tier` this backend can answer with, or NULL. `name` may be NULL (any) or a model's name. */
const struct msg_model *backend_model(const struct backend *backend, enum tier tier, const char *name);

#endif
