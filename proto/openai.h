/* OpenAI's JSON, in both directions: what clients send us and get, what we send to upstreams and get.
 * Pure functions over jansson; no I/O. Input is hostile: bounded in bytes, depth and counts. */
#ifndef RUNG_PROTO_OPENAI_H
#define RUNG_PROTO_OPENAI_H

#include "proto/msg.h"

enum openai_endpoint { OPENAI_CHAT, OPENAI_COMPLETION };

/* ---- as a server ---- */

/* A request body into a submit (initialised by this). Fields we know are checked (type, range; the error names the
 * field as `param`, with what it got and what it wants); fields we do not know go to extra_json unharmed.
 * Errors: ERR_SYNTAX (line, column), ERR_INVALID, ERR_TOO_LARGE, ERR_MEMORY. */
ERR_CHECKED enum err_code openai_parse_request(struct msg_submit *out, enum openai_endpoint endpoint, const char *body,
                                               size_t len, struct err *e);

/* What one reply needs to remember: id, created, model, and the text of each choice when it is not streamed. */
struct openai_reply;
struct openai_reply *openai_reply_new(const struct msg_submit *submit, size_t bytes_max); /* NULL: out of memory */
void openai_reply_free(struct openai_reply *reply);
void openai_reply_start(struct openai_reply *reply, const struct msg_start *start);
/* Streaming: append the SSE events (`data: {…}\n\n`) to `out`. The first token of a choice sends its role first. */
enum err_code openai_stream_token(struct openai_reply *reply, const struct msg_token *token, struct buf *out);
/* Final events: finish reasons, usage where asked, the `rung` object, then `data: [DONE]`. */
enum err_code openai_stream_done(struct openai_reply *reply, const struct msg_done *done, struct buf *out);
/* An `error` event (retryable type told), no [DONE]. */
enum err_code openai_stream_error(struct openai_reply *reply, const struct msg_error *error, struct buf *out);
/* Not streaming: collect, then the whole body. ERR_TOO_LARGE past bytes_max. */
enum err_code openai_collect_token(struct openai_reply *reply, const struct msg_token *token);
enum err_code openai_body(struct openai_reply *reply, const struct msg_done *done, struct buf *out);
/* {"error":{message,type,param,code}} */
enum err_code openai_error_body(const struct msg_error *error, struct buf *out);
/* One model of /v1/models (tier TIER_NONE: a name like "auto" that stands for no single model), and the list. */
enum err_code openai_model_body(const struct msg_model *model, struct buf *out);
enum err_code openai_models_body(const struct msg_model *models, int count, struct buf *out);
/* POST /v1/feedback: {"request_id": "...", "score": 0..1 | "right": bool, "tier"?: "...", "note"?: "..."} */
struct openai_feedback {
    char request[64], note[160];
    double value;
    enum tier tier;
};
ERR_CHECKED enum err_code openai_parse_feedback(struct openai_feedback *out, const char *body, size_t len, struct err *e);

/* ---- as a client of an upstream ---- */

/* The body to send: the client's fields, `model` replaced, stream and usage asked for, an assistant prefix as the
 * last message where `prefix` (see msg_submit.prefixes) goes on. */
ERR_CHECKED enum err_code openai_upstream_body(const struct msg_submit *submit, const char *model, bool stream,
                                               struct buf *out, struct err *e);
/* Feeds raw bytes of a text/event-stream (or of one JSON body) and calls back per event. Lines ≤ line_max bytes. */
struct openai_events {
    void *ctx;
    void (*on_model)(void *ctx, const char *model);   /* once, from the first chunk */
    void (*on_token)(void *ctx, const struct msg_token *token);
    void (*on_finish)(void *ctx, int choice, const char *finish);
    void (*on_usage)(void *ctx, int64_t prompt, int64_t cached, int64_t completion, int64_t reasoning);
    void (*on_error)(void *ctx, const char *message, const char *type, const char *code); /* an error object inside */
    void (*on_end)(void *ctx);                        /* [DONE] */
};
struct openai_reader;
struct openai_reader *openai_reader_new(size_t line_max);
void openai_reader_free(struct openai_reader *reader);
/* Errors: ERR_UPSTREAM (garbage, with what it was), ERR_TOO_LARGE (a line past the limit). */
ERR_CHECKED enum err_code openai_reader_feed(struct openai_reader *reader, const char *data, size_t len,
                                             const struct openai_events *events, struct err *e);
/* A whole non-streamed body. */
ERR_CHECKED enum err_code openai_read_body(const char *body, size_t len, const struct openai_events *events,
                                           struct err *e);
/* The message inside an upstream's error body, or a shortened copy of the body. */
void openai_read_error(const char *body, size_t len, char *out, size_t size);

#endif
