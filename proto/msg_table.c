#include "proto/msg_table.h"

#include <stdint.h>

/* Rows: FIELD for a plain value, LONG for one with a count or length beside it, PART for structs inside. */
#define FIELD(type, key, member, kind, presence, bound, help) \
    {key, #member, kind, presence, offsetof(struct type, member), 0, bound, NULL, help}
#define LONG(type, key, member, counter, kind, presence, bound, help) \
    {key, #member, kind, presence, offsetof(struct type, member), offsetof(struct type, counter), bound, NULL, help}
#define PARTS(type, key, member, counter, bound, shape, help) \
    {key, #member, KIND_MANY, MAY, offsetof(struct type, member), offsetof(struct type, counter), bound, shape, help}
#define PART(type, key, member, shape, help) \
    {key, #member, KIND_ONE, MAY, offsetof(struct type, member), 0, 0, shape, help}
#define SHAPE(variable, title, type, rows) \
    static const struct msg_shape variable = {title, sizeof(struct type), rows, (int)(sizeof rows / sizeof rows[0])}

#define WORD MSG_WORD_MAX
#define ANY INT64_MAX

static const struct msg_field MESSAGE_FIELDS[] = {
#define F(key, member, bound, help) FIELD(msg_message, key, member, KIND_TEXT, MAY, bound, help)
    FIELD(msg_message, 1, role, KIND_TEXT, MUST, WORD, "`system`, `user`, `assistant`, `tool`, …"),
    F(2, content, MSG_TEXT_MAX, "the text; text parts joined where the client sent parts"),
    F(3, reasoning, MSG_TEXT_MAX, "`reasoning_content` of an earlier turn"),
    F(4, name, WORD, ""),
    F(5, tool_call_id, WORD, ""),
    F(6, raw_json, MSG_TEXT_MAX, "the whole message as sent, where it holds more than the fields above"),
#undef F
};
SHAPE(MESSAGE, "message", msg_message, MESSAGE_FIELDS);

static const struct msg_field BIAS_FIELDS[] = {
    FIELD(msg_bias, 1, id, KIND_ID, MAY, INT32_MAX, "token id"),
    FIELD(msg_bias, 2, bias, KIND_REAL, MAY, 0, "added to its logit"),
};
SHAPE(BIAS, "bias", msg_bias, BIAS_FIELDS);

static const struct msg_field PARAMS_FIELDS[] = {
#define F(key, member, kind, bound, help) FIELD(msg_params, key, member, kind, MAY, bound, help)
    F(1, given, KIND_MASK, UINT32_MAX, "which the client set: `enum msg_param` in proto/msg.h"),
    F(2, temperature, KIND_REAL, 0, ""),
    F(3, top_p, KIND_REAL, 0, ""),
    F(4, min_p, KIND_REAL, 0, ""),
    F(5, typical_p, KIND_REAL, 0, ""),
    F(6, repeat_penalty, KIND_REAL, 0, ""),
    F(7, presence_penalty, KIND_REAL, 0, ""),
    F(8, frequency_penalty, KIND_REAL, 0, ""),
    F(9, top_k, KIND_INT, ANY, ""),
    F(10, max_tokens, KIND_COUNT, ANY, ""),
    F(11, seed, KIND_SEED, 0, "always set from the first node on"),
    F(12, n, KIND_COUNT, MSG_CHOICES_MAX, "choices; 0 reads as 1"),
    F(13, logprobs, KIND_BOOL, 0, ""),
    F(14, top_logprobs, KIND_COUNT, MSG_TOP_MAX, ""),
    LONG(msg_params, 15, stop, stop_count, KIND_TEXTS, MAY, MSG_STOPS_MAX, "each at most 4096 bytes"),
    PARTS(msg_params, 16, bias, bias_count, MSG_BIAS_MAX, &BIAS, ""),
    F(17, ignore_eos, KIND_BOOL, 0, ""),
#undef F
};
SHAPE(PARAMS, "params", msg_params, PARAMS_FIELDS);

static const struct msg_field PREFIX_FIELDS[] = {
    LONG(msg_prefix, 1, tokens, token_count, KIND_IDS, MAY, MSG_PREFIX_MAX, "of the model `prefix_identity`"),
    FIELD(msg_prefix, 2, content, KIND_TEXT, MAY, MSG_TEXT_MAX, "the same as text, whatever the model"),
    FIELD(msg_prefix, 3, reasoning, KIND_TEXT, MAY, MSG_TEXT_MAX, ""),
    FIELD(msg_prefix, 4, finished, KIND_BOOL, MAY, 0, "this choice had ended: nothing more is wanted of it"),
};
SHAPE(PREFIX, "prefix", msg_prefix, PREFIX_FIELDS);

static const struct msg_field SUBMIT_FIELDS[] = {
#define F(key, member, kind, presence, bound, help) FIELD(msg_submit, key, member, kind, presence, bound, help)
    F(1, id, KIND_TEXT, MUST, WORD, "request id, unique for a day; the same on every hop and every resend"),
    F(2, tenant, KIND_TEXT, MAY, WORD, ""),
    F(3, conversation, KIND_TEXT, MAY, WORD, ""),
    F(4, idempotency, KIND_TEXT, MAY, WORD, "a client's key: a repeat joins or gets the same answer (docs/http.md)"),
    F(5, traceparent, KIND_TEXT, MAY, WORD, "W3C trace context"),
    F(6, model, KIND_TEXT, MAY, WORD, "as asked: `auto`, a tier's name, or a model's"),
    F(7, completion, KIND_BOOL, MAY, 0, "`/v1/completions`: `prompt` instead of `messages`"),
    PARTS(msg_submit, 8, messages, message_count, MSG_MESSAGES_MAX, &MESSAGE, ""),
    F(9, prompt, KIND_TEXT, MAY, MSG_TEXT_MAX, ""),
    F(10, echo, KIND_BOOL, MAY, 0, "completions only"),
    PART(msg_submit, 11, params, &PARAMS, ""),
    F(12, extra_json, KIND_TEXT, MAY, MSG_TEXT_MAX, "object of all body fields without a place here"),
    F(13, has_tools, KIND_BOOL, MAY, 0, "what `extra_json` and `raw_json` ask of a backend"),
    F(14, has_json_format, KIND_BOOL, MAY, 0, ""),
    F(15, has_parts, KIND_BOOL, MAY, 0, ""),
    F(16, stream, KIND_BOOL, MAY, 0, ""),
    F(17, include_usage, KIND_BOOL, MAY, 0, ""),
    F(18, deadline_ms, KIND_COUNT, MAY, ANY, "left; 0: none"),
    F(19, hop_budget, KIND_COUNT, MAY, 255, "hops it may still take"),
    F(20, forced, KIND_TIER, MAY, 0, "absent: auto"),
    F(21, max_tier, KIND_TIER, MAY, 0, "highest allowed; absent: any"),
    F(22, device_private, KIND_BOOL, MAY, 0, "must not leave the device"),
    F(23, tier, KIND_TIER, MAY, 0, "the decision so far; absent: undecided"),
    F(24, p, KIND_TIERS, MAY, TIERS, "probability that each tier is right; negative: unknown"),
    F(25, reason, KIND_TEXT, MAY, WORD, ""),
    PARTS(msg_submit, 26, prefixes, prefix_count, MSG_CHOICES_MAX, &PREFIX, "none, or one a choice: go on from there"),
    F(27, prefix_identity, KIND_TEXT, MAY, WORD, "model identity `/` kernels that made the tokens"),
#undef F
};
SHAPE(SUBMIT, "SUBMIT", msg_submit, SUBMIT_FIELDS);

static const struct msg_field MODEL_FIELDS[] = {
#define F(key, member, kind, presence, bound, help) FIELD(msg_model, key, member, kind, presence, bound, help)
    F(1, name, KIND_TEXT, MUST, WORD, ""),
    F(2, identity, KIND_TEXT, EMPTY, WORD, "hash of file and tokenizer; empty: not one of our engines"),
    F(3, context_tokens, KIND_COUNT, MAY, ANY, ""),
    F(4, tier, KIND_TIER, MAY, 0, ""),
    F(5, price_input_usd, KIND_REAL, MAY, 0, "a million tokens"),
    F(6, price_output_usd, KIND_REAL, MAY, 0, "a million tokens"),
    F(7, price_reasoning_usd, KIND_REAL, MAY, 0, "a million tokens"),
    F(8, can_tools, KIND_BOOL, MAY, 0, ""),
    F(9, can_json, KIND_BOOL, MAY, 0, ""),
    F(10, can_parts, KIND_BOOL, MAY, 0, ""),
    F(11, can_prefix, KIND_BOOL, MAY, 0, "goes on from an assistant prefix"),
    F(12, device, KIND_TEXT, EMPTY, WORD, "a GPU's name, or `cpu` and its kernels; empty: not one of our engines"),
#undef F
};
SHAPE(MODEL, "model", msg_model, MODEL_FIELDS);

static const struct msg_field HELLO_FIELDS[] = {
    FIELD(msg_hello, 1, node, KIND_TEXT, MUST, WORD, "node id"),
    FIELD(msg_hello, 2, version, KIND_TEXT, EMPTY, WORD, "the program's"),
    FIELD(msg_hello, 3, role, KIND_TEXT, MUST, WORD, "`worker`, `edge`, `region`, `core`, `client`"),
    FIELD(msg_hello, 4, version_min, KIND_COUNT, MAY, 255, "protocol versions it talks"),
    FIELD(msg_hello, 5, version_max, KIND_COUNT, MAY, 255, ""),
};
SHAPE(HELLO, "HELLO", msg_hello, HELLO_FIELDS);

static const struct msg_field READY_FIELDS[] = {
    FIELD(msg_ready, 1, node, KIND_TEXT, MUST, WORD, "node id"),
    PARTS(msg_ready, 2, models, model_count, MSG_MODELS_MAX, &MODEL, ""),
    FIELD(msg_ready, 3, slots, KIND_COUNT, MAY, 1 << 20, "requests it can run at once"),
    FIELD(msg_ready, 4, slots_free, KIND_COUNT, MAY, 1 << 20, "credit: requests it takes now"),
    FIELD(msg_ready, 5, tokens_per_s, KIND_REAL, MAY, 0, "measured"),
    FIELD(msg_ready, 6, ttft_ms, KIND_REAL, MAY, 0, "measured"),
    FIELD(msg_ready, 7, draining, KIND_BOOL, MAY, 0, "takes no new work"),
};
SHAPE(READY, "READY", msg_ready, READY_FIELDS);

static const struct msg_field START_FIELDS[] = {
#define F(key, member, kind, presence, bound, help) FIELD(msg_start, key, member, kind, presence, bound, help)
    F(1, id, KIND_TEXT, MUST, WORD, ""),
    F(2, tier, KIND_TIER, MAY, 0, ""),
    F(3, backend, KIND_TEXT, EMPTY, WORD, "worker or upstream, by name"),
    F(4, model, KIND_TEXT, EMPTY, WORD, "the model that answers"),
    F(5, identity, KIND_TEXT, EMPTY, WORD, ""),
    F(6, reason, KIND_TEXT, EMPTY, WORD, "why this tier"),
    F(7, node, KIND_TEXT, EMPTY, WORD, ""),
    F(8, degraded, KIND_BOOL, MAY, 0, "a better tier was wanted and not there"),
    F(9, p, KIND_TIERS, MAY, TIERS, "the decision's numbers; negative: unknown"),
    F(10, threshold, KIND_REAL, MAY, 0, ""),
#undef F
};
SHAPE(START, "START", msg_start, START_FIELDS);

static const struct msg_field TOP_FIELDS[] = {
    LONG(msg_top, 1, bytes, bytes_len, KIND_BYTES, MAY, 1024, ""),
    FIELD(msg_top, 2, logprob, KIND_REAL, MAY, 0, ""),
};
SHAPE(TOP, "top", msg_top, TOP_FIELDS);

static const struct msg_field TOKEN_FIELDS[] = {
#define F(key, member, kind, presence, bound, help) FIELD(msg_token, key, member, kind, presence, bound, help)
    F(1, id, KIND_TEXT, MUST, WORD, ""),
    F(2, choice, KIND_COUNT, MAY, MSG_CHOICES_MAX - 1, ""),
    F(3, index, KIND_COUNT, MAY, ANY, "of the first token in here, counted over this choice's messages"),
    F(4, channel, KIND_CHANNEL, MAY, CHANNEL_TOOL, "0 content, 1 reasoning, 2 tool (text: JSON array of tool_calls deltas)"),
    LONG(msg_token, 5, tokens, token_count, KIND_IDS, MAY, MSG_PREFIX_MAX, "none from an upstream"),
    LONG(msg_token, 6, text, text_len, KIND_STRING, MAY, MSG_TEXT_MAX, "whole characters to show now; may be empty"),
    LONG(msg_token, 7, bytes, bytes_len, KIND_BYTES, MAY, 65536, "raw bytes of the token, for logprobs"),
    F(8, has_logprob, KIND_BOOL, MAY, 0, "the next four are set"),
    F(9, logprob, KIND_REAL, MAY, 0, ""),
    F(10, entropy, KIND_REAL, MAY, 0, ""),
    F(11, margin, KIND_REAL, MAY, 0, ""),
    F(12, varentropy, KIND_REAL, MAY, 0, ""),
    PARTS(msg_token, 13, top, top_count, MSG_TOP_MAX, &TOP, ""),
#undef F
};
SHAPE(TOKEN, "TOKEN", msg_token, TOKEN_FIELDS);

static const struct msg_field HOP_FIELDS[] = {
#define F(key, member, kind, presence, bound, help) FIELD(msg_hop, key, member, kind, presence, bound, help)
    F(1, tier, KIND_TIER, MAY, 0, ""),
    F(2, node, KIND_TEXT, EMPTY, WORD, ""),
    F(3, backend, KIND_TEXT, EMPTY, WORD, ""),
    F(4, model, KIND_TEXT, EMPTY, WORD, ""),
    F(5, outcome, KIND_TEXT, EMPTY, WORD, ""),
    F(6, error, KIND_TEXT, EMPTY, WORD, "code by name"),
    F(7, prompt_tokens, KIND_COUNT, MAY, ANY, ""),
    F(8, completion_tokens, KIND_COUNT, MAY, ANY, ""),
    F(9, ttft_ms, KIND_REAL, MAY, 0, ""),
    F(10, total_ms, KIND_REAL, MAY, 0, ""),
    F(11, price_usd, KIND_REAL, MAY, 0, ""),
#undef F
};
SHAPE(HOP, "hop", msg_hop, HOP_FIELDS);

static const struct msg_field DONE_FIELDS[] = {
#define F(key, member, kind, presence, bound, help) FIELD(msg_done, key, member, kind, presence, bound, help)
    F(1, id, KIND_TEXT, MUST, WORD, ""),
    LONG(msg_done, 2, finish, choices, KIND_CHOICES, MAY, MSG_CHOICES_MAX,
         "why each choice ended: `stop`, `length`, `tool_calls`, `content_filter`"),
    F(3, prompt_tokens, KIND_COUNT, MAY, ANY, ""),
    F(4, cached_tokens, KIND_COUNT, MAY, ANY, ""),
    F(5, completion_tokens, KIND_COUNT, MAY, ANY, ""),
    F(6, reasoning_tokens, KIND_COUNT, MAY, ANY, ""),
    F(7, queue_ms, KIND_REAL, MAY, 0, ""),
    F(8, prefill_ms, KIND_REAL, MAY, 0, ""),
    F(9, ttft_ms, KIND_REAL, MAY, 0, ""),
    F(10, total_ms, KIND_REAL, MAY, 0, ""),
    F(11, price_usd, KIND_REAL, MAY, 0, ""),
    F(12, model, KIND_TEXT, EMPTY, WORD, ""),
    F(13, identity, KIND_TEXT, EMPTY, WORD, ""),
    F(14, backend, KIND_TEXT, EMPTY, WORD, ""),
    F(15, tier, KIND_TIER, MAY, 0, ""),
    F(16, degraded, KIND_BOOL, MAY, 0, ""),
    PARTS(msg_done, 17, hops, hop_count, MSG_HOPS_MAX, &HOP, "lower hops, in order"),
#undef F
};
SHAPE(DONE, "DONE", msg_done, DONE_FIELDS);

static const struct msg_field ERROR_FIELDS[] = {
    FIELD(msg_error, 1, id, KIND_TEXT, EMPTY, WORD, "empty when it concerns the link"),
    FIELD(msg_error, 2, code, KIND_CODE, MUST, WORD, "by name: `enum err_code` in base/err.h; unknown reads as `internal`"),
    FIELD(msg_error, 3, message, KIND_TEXT, EMPTY, 65536, ""),
    FIELD(msg_error, 4, param, KIND_TEXT, EMPTY, WORD, "the field at fault"),
    FIELD(msg_error, 5, retryable, KIND_BOOL, MAY, 0, "the same request may be tried elsewhere"),
    FIELD(msg_error, 6, retry_after_ms, KIND_COUNT, MAY, ANY, "0: not said"),
    PARTS(msg_error, 7, hops, hop_count, MSG_HOPS_MAX, &HOP, ""),
};
SHAPE(ERROR, "ERROR", msg_error, ERROR_FIELDS);

static const struct msg_field CANCEL_FIELDS[] = {
    FIELD(msg_cancel, 1, id, KIND_TEXT, MUST, WORD, ""),
};
SHAPE(CANCEL, "CANCEL", msg_cancel, CANCEL_FIELDS);

static const struct msg_field DRAIN_FIELDS[] = {
    FIELD(msg_drain, 1, node, KIND_TEXT, MUST, WORD, "takes no new work from now on"),
};
SHAPE(DRAIN, "DRAIN", msg_drain, DRAIN_FIELDS);

static const struct msg_field PING_FIELDS[] = {
    FIELD(msg_ping, 1, sequence, KIND_COUNT, MAY, ANY, ""),
    FIELD(msg_ping, 2, sent_us, KIND_COUNT, MAY, ANY, "the sender's monotonic clock"),
};
SHAPE(PING, "PING", msg_ping, PING_FIELDS);
SHAPE(PONG, "PONG", msg_ping, PING_FIELDS);

static const struct msg_field LOG_FIELDS[] = {
    FIELD(msg_log, 1, node, KIND_TEXT, MUST, WORD, "whose rows"),
    LONG(msg_log, 2, rows, rows_len, KIND_BYTES, MAY, MSG_TEXT_MAX, "a batch, made and read by router/log.h"),
    FIELD(msg_log, 3, last_id, KIND_COUNT, MAY, ANY, "row id of the last in the batch"),
};
SHAPE(LOG, "LOG", msg_log, LOG_FIELDS);

static const struct msg_field LOG_ACK_FIELDS[] = {
    FIELD(msg_log_ack, 1, last_id, KIND_COUNT, MAY, ANY, "all rows up to this one are kept"),
    FIELD(msg_log_ack, 2, code, KIND_CODE, MAY, WORD, "absent: ok"),
};
SHAPE(LOG_ACK, "LOG_ACK", msg_log_ack, LOG_ACK_FIELDS);

static const struct msg_field POLICY_FIELDS[] = {
    FIELD(msg_policy, 1, version, KIND_COUNT, MUST, ANY, ""),
    FIELD(msg_policy, 2, json, KIND_TEXT, MUST, MSG_TEXT_MAX, "the whole policy"),
};
SHAPE(POLICY, "POLICY", msg_policy, POLICY_FIELDS);

static const struct msg_field POLICY_ACK_FIELDS[] = {
    FIELD(msg_policy_ack, 1, version, KIND_COUNT, MUST, ANY, ""),
    FIELD(msg_policy_ack, 2, code, KIND_CODE, MAY, WORD, "absent: ok"),
    FIELD(msg_policy_ack, 3, message, KIND_TEXT, EMPTY, 65536, ""),
};
SHAPE(POLICY_ACK, "POLICY_ACK", msg_policy_ack, POLICY_ACK_FIELDS);

static const struct msg_shape *const SHAPES[MSG_TYPES] = {
    [MSG_HELLO] = &HELLO,   [MSG_READY] = &READY,     [MSG_SUBMIT] = &SUBMIT, [MSG_START] = &START,
    [MSG_TOKEN] = &TOKEN,   [MSG_DONE] = &DONE,       [MSG_ERROR] = &ERROR,   [MSG_CANCEL] = &CANCEL,
    [MSG_DRAIN] = &DRAIN,   [MSG_PING] = &PING,       [MSG_PONG] = &PONG,     [MSG_LOG] = &LOG,
    [MSG_LOG_ACK] = &LOG_ACK, [MSG_POLICY] = &POLICY, [MSG_POLICY_ACK] = &POLICY_ACK,
};
static const struct msg_shape *const PARTS_SHAPES[] = {&MESSAGE, &PARAMS, &BIAS, &PREFIX, &MODEL, &TOP, &HOP};

const struct msg_shape *msg_shape_of(enum msg_type type)
{
    return (unsigned)type < MSG_TYPES ? SHAPES[type] : NULL;
}

const char *msg_type_name(enum msg_type type)
{
    const struct msg_shape *shape = msg_shape_of(type);
    return shape ? shape->name : "?";
}

const char *msg_kind_name(enum msg_kind kind)
{
    static const char *const NAMES[] = {
#define X(value, name) [value] = name,
        MSG_KIND_TABLE(X)
#undef X
    };
    return NAMES[kind];
}

static void markdown_bound(struct buf *out, const struct msg_field *f)
{
    bool limited = f->bound > 0 && f->bound < INT32_MAX;
    switch (f->kind) {
    case KIND_COUNT:
    case KIND_CHANNEL:
        if (limited) (void)buf_addf(out, "≤ %lld", (long long)f->bound);
        break;
    case KIND_CODE:
    case KIND_TEXT:
    case KIND_STRING:
    case KIND_BYTES:
        (void)buf_addf(out, "≤ %lld bytes", (long long)f->bound);
        break;
    case KIND_IDS:
    case KIND_TEXTS:
    case KIND_CHOICES:
    case KIND_TIERS:
    case KIND_MANY:
        (void)buf_addf(out, "≤ %lld elements", (long long)f->bound);
        break;
    default:
        break;
    }
}

static void markdown_shape(struct buf *out, const struct msg_shape *shape, int type)
{
    static const char *const PRESENCE[] = {[MAY] = "", [MUST] = "must", [EMPTY] = "absent: empty"};
    if (type) (void)buf_addf(out, "\n### %s (type %d)\n\n", shape->name, type);
    else (void)buf_addf(out, "\n### map: %s\n\n", shape->name);
    (void)buf_adds(out, "| key | name | kind | bound | presence | meaning |\n| --- | --- | --- | --- | --- | --- |\n");
    for (int i = 0; i < shape->count; i++) {
        const struct msg_field *f = &shape->fields[i];
        (void)buf_addf(out, "| %d | `%s` | %s", f->key, f->name, msg_kind_name(f->kind));
        if (f->of) (void)buf_addf(out, " of %s", f->of->name);
        (void)buf_adds(out, " | ");
        markdown_bound(out, f);
        (void)buf_addf(out, " | %s | %s |\n", PRESENCE[f->presence], f->help);
    }
}

enum err_code msg_table_markdown(struct buf *out)
{
    for (int type = 1; type < MSG_TYPES; type++) markdown_shape(out, SHAPES[type], type);
    for (size_t i = 0; i < sizeof PARTS_SHAPES / sizeof PARTS_SHAPES[0]; i++)
        markdown_shape(out, PARTS_SHAPES[i], 0);
    return out->failed;
}
