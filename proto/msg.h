/* The messages that cross a boundary, and their MessagePack form.
 *
 * On the wire a message is two bytes, type and version, then one MessagePack map with small integer keys. The table
 * of fields in msg.c drives the encoder, the decoder, docs/protocol.md and the fuzzer. Unknown keys are skipped,
 * unknown types refused (ERR_UNSUPPORTED), other major versions refused (ERR_VERSION). Every length, depth and count is
 * bounded before memory is taken.
 *
 * A decoded message's memory hangs on its arena; msg_release() gives it all back. In messages that a caller fills to
 * be encoded, pointers may point anywhere and the arena stays unused. NULL strings are absent; absent numbers are 0
 * unless said otherwise. Sinks (node/backend.h) speak in the same structs, so that a hop adds no translation.
 */
#ifndef RUNG_PROTO_MSG_H
#define RUNG_PROTO_MSG_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/tier.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MSG_VERSION 1
/* The neighbours are understood too: they differ by keys that are skipped. */
#define MSG_VERSION_MIN 1
#define MSG_VERSION_MAX 2

enum msg_type {
    MSG_HELLO = 1,  /* a node or worker introduces itself to the one above */
    MSG_READY,      /* what it can do now: models, slots, price; again whenever that changes */
    MSG_SUBMIT,     /* a request */
    MSG_START,      /* who answers it; before the first token */
    MSG_TOKEN,
    MSG_DONE,
    MSG_ERROR,
    MSG_CANCEL,
    MSG_DRAIN,      /* the sender takes no new work */
    MSG_PING,
    MSG_PONG,
    MSG_LOG,        /* a batch of log rows going up */
    MSG_LOG_ACK,
    MSG_POLICY,     /* a policy going down */
    MSG_POLICY_ACK,
    MSG_TYPES
};
const char *msg_type_name(enum msg_type type); /* "SUBMIT"; "?" */

/* Bounds, checked by the decoder and kept by the encoder. */
enum {
    MSG_BYTES_MAX = 16 << 20,      /* one message */
    MSG_MESSAGES_MAX = 4096,       /* turns of a chat */
    MSG_CHOICES_MAX = 16,
    MSG_STOPS_MAX = 16,
    MSG_BIAS_MAX = 1024,
    MSG_PREFIX_MAX = 1 << 18,      /* tokens so far of one choice */
    MSG_HOPS_MAX = 16,
    MSG_TOP_MAX = 20,
    MSG_MODELS_MAX = 32,
    MSG_WORD_MAX = 256,            /* ids, names, tenants */
    MSG_DEPTH_MAX = 8
};

struct msg_message {
    const char *role, *content;    /* content: the text; text parts joined where the client sent parts */
    const char *reasoning;         /* reasoning_content of an earlier turn */
    const char *name, *tool_call_id;
    const char *raw_json;          /* the whole message as sent, where it holds more than the fields above */
};

enum msg_param { /* bits of msg_params.given */
    PARAM_TEMPERATURE = 1 << 0, PARAM_TOP_P = 1 << 1, PARAM_TOP_K = 1 << 2, PARAM_MIN_P = 1 << 3,
    PARAM_TYPICAL_P = 1 << 4, PARAM_REPEAT_PENALTY = 1 << 5, PARAM_PRESENCE = 1 << 6, PARAM_FREQUENCY = 1 << 7,
    PARAM_SEED = 1 << 8, PARAM_MAX_TOKENS = 1 << 9, PARAM_LOGPROBS = 1 << 10
};
struct msg_bias {
    int32_t id;
    double bias;
};
struct msg_params {
    uint32_t given;                /* which of these the client set; the seed is always set from the first node on */
    double temperature, top_p, min_p, typical_p, repeat_penalty, presence_penalty, frequency_penalty;
    int64_t top_k, max_tokens;
    uint64_t seed;
    int64_t n;                     /* choices; 0 reads as 1 */
    bool logprobs;
    int64_t top_logprobs;
    const char *const *stop;       /* (stop_count) */
    int stop_count;
    const struct msg_bias *bias;   /* (bias_count) */
    int bias_count;
    bool ignore_eos;
};

/* What one choice has said so far, when another backend is to go on from it. */
struct msg_prefix {
    const int32_t *tokens;         /* (token_count) of the model `prefix_identity` */
    int token_count;
    const char *content, *reasoning; /* the same as text, whatever the model */
    bool finished;                 /* this choice had already ended: nothing more is wanted of it */
};

struct msg_submit {
    struct arena arena;
    const char *id;                /* request id, unique for a day; the same on every hop and every resend */
    const char *tenant, *conversation, *idempotency, *traceparent;
    const char *model;             /* as asked: "auto", a tier's name, or a model's */
    bool completion;               /* /v1/completions: `prompt` instead of messages */
    const struct msg_message *messages; /* (message_count) */
    int message_count;
    const char *prompt;
    bool echo;                     /* completions only */
    struct msg_params params;
    const char *extra_json;        /* object of all body fields without a place here (tools, response_format, …) */
    bool has_tools, has_json_format, has_parts; /* what extra_json and raw_json ask of a backend */
    bool stream, include_usage;
    int64_t deadline_ms;           /* left; 0: none */
    int64_t hop_budget;            /* hops it may still take */
    enum tier forced, max_tier;    /* TIER_NONE: auto; the highest tier allowed (TIER_NONE: any) */
    bool device_private;
    /* the decision so far */
    enum tier tier;                /* TIER_NONE: undecided */
    double p[TIERS];               /* < 0: unknown */
    const char *reason;
    /* going on elsewhere */
    const struct msg_prefix *prefixes; /* (prefix_count): 0, or one a choice */
    int prefix_count;
    const char *prefix_identity;   /* identity + "/" + kernels of the engine that made the tokens */
};

struct msg_model {
    const char *name, *identity;   /* identity "": not one of our engines */
    const char *device;            /* what it runs on: a GPU's name, or "cpu" and its kernels; "": not one of our engines */
    int64_t context_tokens;
    enum tier tier;
    double price_input_usd, price_output_usd, price_reasoning_usd; /* a million tokens */
    bool can_tools, can_json, can_parts, can_prefix;
};
struct msg_hello {
    struct arena arena;
    const char *node, *version;    /* node id; program version */
    const char *role;              /* "worker", "edge", "region", "core", "client" */
    int64_t version_min, version_max; /* protocol versions it talks */
};
struct msg_ready {
    struct arena arena;
    const char *node;
    const struct msg_model *models; /* (model_count) */
    int model_count;
    int64_t slots, slots_free;
    double tokens_per_s, ttft_ms;
    bool draining;
};

struct msg_start {
    struct arena arena;
    const char *id;
    enum tier tier;
    const char *backend, *model, *identity, *reason, *node;
    bool degraded;
    double p[TIERS], threshold;    /* the decision's numbers; p < 0: unknown */
    int64_t created_s;             /* when the answer was begun; 0: now. Not on the wire */
};

enum msg_channel { CHANNEL_CONTENT, CHANNEL_REASONING, CHANNEL_TOOL };
struct msg_top {
    const char *bytes;
    size_t bytes_len;
    double logprob;
};
struct msg_token {
    struct arena arena;
    const char *id;
    int64_t choice, index;         /* index counts this choice's messages' tokens: of the first token in here */
    enum msg_channel channel;      /* CHANNEL_TOOL: text is a JSON array of tool_calls deltas */
    const int32_t *tokens;         /* (token_count); none from an upstream */
    int token_count;
    const char *text;              /* whole UTF-8 characters to show now; may be empty */
    size_t text_len;
    const char *bytes;             /* the raw bytes of the token, for logprobs */
    size_t bytes_len;
    bool has_logprob;
    double logprob, entropy, margin, varentropy;
    const struct msg_top *top;     /* (top_count) */
    int top_count;
};
struct msg_hop {
    enum tier tier;
    const char *node, *backend, *model, *outcome, *error;
    int64_t prompt_tokens, completion_tokens;
    double ttft_ms, total_ms, price_usd;
};
struct msg_done {
    struct arena arena;
    const char *id;
    const char *finish[MSG_CHOICES_MAX]; /* (choices) "stop", "length", "tool_calls", "content_filter" */
    int choices;
    int64_t prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens;
    double queue_ms, prefill_ms, ttft_ms, total_ms, price_usd;
    double price_core_usd;         /* the same answered by core alone; each node reckons it for itself: not on the wire */
    const char *model, *identity, *backend;
    enum tier tier;
    bool degraded;
    const struct msg_hop *hops;    /* (hop_count) */
    int hop_count;
};
struct msg_error {
    struct arena arena;
    const char *id;                /* "" when it concerns the link */
    enum err_code code;            /* by name on the wire */
    const char *message, *param;
    bool retryable;
    int64_t retry_after_ms;        /* 0: not said */
    const struct msg_hop *hops;
    int hop_count;
};
struct msg_cancel {
    struct arena arena;
    const char *id;
};
struct msg_drain {
    struct arena arena;
    const char *node;
};
struct msg_ping { /* and PONG: echoes both */
    struct arena arena;
    int64_t sequence, sent_us;
};
struct msg_log {
    struct arena arena;
    const char *node;
    const char *rows;              /* opaque to proto: router/log.h makes and reads it */
    size_t rows_len;
    int64_t last_id;
};
struct msg_log_ack {
    struct arena arena;
    int64_t last_id;
    enum err_code code;
};
struct msg_policy {
    struct arena arena;
    int64_t version;
    const char *json;
};
struct msg_policy_ack {
    struct arena arena;
    int64_t version;
    enum err_code code;
    const char *message;
};

union msg_body {
    struct msg_hello hello;
    struct msg_ready ready;
    struct msg_submit submit;
    struct msg_start start;
    struct msg_token token;
    struct msg_done done;
    struct msg_error error;
    struct msg_cancel cancel;
    struct msg_drain drain;
    struct msg_ping ping;
    struct msg_log log;
    struct msg_log_ack log_ack;
    struct msg_policy policy;
    struct msg_policy_ack policy_ack;
}; /* every member starts with its arena */
struct msg {
    enum msg_type type;
    int version;
    union msg_body body;
};

/* Append one message. `body` points to the struct of that type. On error `out` is as it was before (but marked failed where
 * its own limit was met). Text that is not UTF-8 goes out with '?' for the bad bytes; NaN as absent, infinities as
 * ±DBL_MAX. Errors: ERR_TOO_LARGE, ERR_INVALID (which field must be given), ERR_MEMORY. */
ERR_CHECKED enum err_code msg_encode(enum msg_type type, const void *body, struct buf *out, struct err *e);
/* Read one message of `len` bytes. On error nothing is held. Errors: ERR_SYNTAX (what, at which byte or key),
 * ERR_UNSUPPORTED (type), ERR_VERSION, ERR_TOO_LARGE, ERR_MEMORY. */
ERR_CHECKED enum err_code msg_decode(struct msg *out, const void *data, size_t len, struct err *e);
void msg_release(struct msg *msg);

/* A submit with defaults (tiers NONE, p unknown, hop budget 4), its arena bounded by MSG_BYTES_MAX × 2. */
void msg_submit_init(struct msg_submit *submit);
void msg_submit_release(struct msg_submit *submit);

#endif
