/* One request over HTTP:
 *
 *   READING ─ body complete ─► (PARSING, large bodies) ─► RUNNING ─ first token, done or error ─► ANSWERING ─► gone
 *
 * libmicrohttpd calls http_call_handle() for each piece of the body, once at its end, and once after each resume.
 * While PARSING, and where RUNNING takes longer than a few turns of the loop, the connection is suspended. Headers are held until the first token, so that whatever
 * happens before has its true status. A stream is then fed by stream_read(), which suspends again when it has caught up.
 */
#include "node/http.h"

#include "base/clock.h"
#include "base/textlog.h"
#include "base/word.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum step { READING, PARSING, RUNNING, ANSWERING };
enum { LOOKS_MAX = 4, BODY_BYTES = 64 << 10 /* that a head may have made room for */ };

struct http_call {
    struct http_conn *conn;
    struct http_call *spare_next;
    struct MHD_Connection *mhd;
    struct http_head head;
    enum step step;
    bool suspended, gone;
    int looks;                    /* how often an answer was looked for before suspending */
    bool lingering;               /* refused in the middle of its body: nothing more is answered */
    struct err refusal;           /* of the head, answered when the body has been read past */
    int64_t received;             /* bytes of body */
    struct buf body;
    uint64_t handle;              /* of the running request; 0: none */
    struct openai_reply *reply;
    bool stream, streaming;       /* asked for; headers are out */
    bool repeated;                /* the answer is another request's of the same idempotency key */
    bool finished;                /* done or error came */
    bool broken;                  /* nothing good can follow: close */
    struct buf out;               /* the body, or what of the stream was not sent yet from `sent` on */
    size_t sent;
    int64_t began_us, fed_us;     /* when it came; when the stream last got something */
    char id[33];                  /* of the request, ours */
    char backend[64], reason[32];
    enum tier tier;
    /* an error before the headers were out */
    bool failed, retryable;
    struct err error;
    int64_t retry_after_ms;
};

static struct http_front *front_of(const struct http_call *call)
{
    return call->conn->door->front;
}

static struct node *node_of(const struct http_call *call)
{
    return front_of(call)->node;
}

/* ---- suspending ---- */

static void call_suspend(struct http_call *call)
{
    call->suspended = true;
    MHD_suspend_connection(call->mhd);
}

static void call_wake(struct http_call *call)
{
    if (!call->suspended) return;
    call->suspended = false;
    MHD_resume_connection(call->mhd);
    http_door_kick(call->conn->door);
}

/* ---- replies ---- */

static void add_header(struct MHD_Response *response, const char *name, const char *value)
{
    if (value && value[0]) (void)MHD_add_response_header(response, name, value);
}

static void add_number(struct MHD_Response *response, const char *name, int64_t value)
{
    char text[24];
    (void)snprintf(text, sizeof text, "%lld", (long long)value);
    (void)MHD_add_response_header(response, name, text);
}

static void add_common_headers(const struct http_call *call, struct MHD_Response *response)
{
    add_header(response, "x-request-id", call->head.request_id ? call->head.request_id : call->id);
    if (!call->head.cors) return;
    add_header(response, "Access-Control-Allow-Origin", call->head.cors);
    add_header(response, "Access-Control-Expose-Headers",
               "x-request-id, x-rung-tier, x-rung-backend, x-rung-reason, idempotent-replayed, retry-after, "
               "retry-after-ms");
    add_header(response, "Vary", "Origin");
}

static void add_answer_headers(const struct http_call *call, struct MHD_Response *response)
{
    const struct node *node = node_of(call);
    if (call->tier != TIER_NONE) add_header(response, "x-rung-tier", tier_name(call->tier));
    add_header(response, "x-rung-backend", call->backend);
    add_header(response, "x-rung-reason", call->reason);
    if (call->repeated) add_header(response, "idempotent-replayed", "true");
    add_number(response, "openai-processing-ms", (clock_mono_us() - call->began_us) / 1000);
    int left = node->config->requests_max - request_count(node);
    add_number(response, "x-ratelimit-limit-requests", node->config->requests_max);
    add_number(response, "x-ratelimit-remaining-requests", left > 0 ? left : 0);
}

static enum MHD_Result queue(struct http_call *call, unsigned status, struct MHD_Response *response)
{
    call->step = ANSWERING;
    enum MHD_Result result = MHD_queue_response(call->mhd, status, response);
    MHD_destroy_response(response); /* ours; the connection holds its own */
    return result;
}

/* The reply takes the text over. NULL: out of memory, or the text was. */
static struct MHD_Response *text_response(struct http_call *call, struct buf *text, const char *type)
{
    if (!buf_ok(text)) return NULL;
    size_t len = 0;
    char *data = buf_take(text, &len);
    struct MHD_Response *response = data ? MHD_create_response_from_buffer(len, data, MHD_RESPMEM_MUST_FREE) : NULL;
    if (!response) {
        free(data);
        return NULL;
    }
    add_header(response, "Content-Type", type);
    add_common_headers(call, response);
    return response;
}

static enum MHD_Result reply_text(struct http_call *call, unsigned status, struct buf *text, const char *type)
{
    struct MHD_Response *response = text_response(call, text, type);
    buf_release(text);
    return response ? queue(call, status, response) : MHD_NO;
}

#define JSON "application/json"

/* OpenAI's own clients try 408, 409, 429 and 5xx again by themselves unless told not to. */
static void add_retry_headers(const struct http_call *call, unsigned status, struct MHD_Response *response)
{
    int64_t wait_ms = call->retry_after_ms;
    if (call->error.code == ERR_FULL && wait_ms <= 0) wait_ms = 1000;
    if (wait_ms > 0 && (status == 429 || status == 503)) {
        add_number(response, "retry-after", (wait_ms + 999) / 1000);
        add_number(response, "retry-after-ms", wait_ms);
    }
    if (status == 409 || status == 429 || status >= 500) add_header(response, "x-should-retry", call->retryable ? "true" : "false");
}

static enum MHD_Result reply_error(struct http_call *call)
{
    const struct err *e = &call->error;
    unsigned status = (unsigned)err_http_status(e->code);
    struct msg_error error = {.code = e->code, .message = e->msg, .param = e->param};
    if (e->code == ERR_NOT_FOUND && call->head.endpoint != HTTP_NOWHERE) error.param = "model";
    struct buf text = BUF_INIT(65536);
    (void)openai_error_body(&error, &text);
    struct MHD_Response *response = text_response(call, &text, JSON);
    buf_release(&text);
    if (!response) return MHD_NO;
    if (call->reply) add_answer_headers(call, response);
    add_retry_headers(call, status, response);
    if (e->code == ERR_METHOD) add_header(response, "Allow", call->head.allow);
    if (e->code == ERR_AUTH) add_header(response, "WWW-Authenticate", "Bearer");
    return queue(call, status, response);
}

static enum MHD_Result refuse(struct http_call *call, const struct err *e)
{
    metrics_add(node_of(call)->metrics, METRIC_HTTP_REFUSED, 1);
    call->error = *e;
    return reply_error(call);
}

/* A body past the limit is told so at once, and then read past for a while without being kept: closing while the client
 * still sends would reset the connection, and the reset would overtake the answer. libmicrohttpd takes no reply in the
 * middle of a body, so these few words go to the socket directly (nothing else was sent for this request). */
static enum MHD_Result refuse_and_linger(struct http_call *call)
{
    call->lingering = true;
    call->began_us = clock_mono_us();
    metrics_add(node_of(call)->metrics, METRIC_HTTP_REFUSED, 1);
    struct buf text = BUF_INIT(1024), reply = BUF_INIT(2048);
    (void)openai_error_body(&(struct msg_error){.code = ERR_TOO_LARGE, .message = "the body is larger than http.body_bytes_max"},
                            &text);
    buf_addf(&reply, "HTTP/1.1 413 Content Too Large\r\nContent-Type: " JSON "\r\nContent-Length: %zu\r\n"
                     "Connection: close\r\nx-request-id: %s\r\n\r\n%s", text.len, call->id, text.data);
    ssize_t n = send(call->conn->fd, reply.data, reply.len, MSG_NOSIGNAL | MSG_DONTWAIT);
    buf_release(&text);
    buf_release(&reply);
    return n > 0 ? MHD_YES : MHD_NO;
}

/* ---- what comes back ---- */

static void note_failure(struct http_call *call, const struct msg_error *error)
{
    call->failed = true;
    call->retryable = error->retryable;
    call->retry_after_ms = error->retry_after_ms;
    (void)err_set_param(&call->error, error->code, error->param, "%s",
                        error->message && error->message[0] ? error->message : err_text(error->code));
}

static void on_start(void *ctx, const struct msg_start *start)
{
    struct http_call *call = ctx;
    openai_reply_start(call->reply, start);
    if (call->streaming) return; /* the headers have told of the first that answered */
    if (start->id && strcmp(start->id, call->id) != 0) { /* a repeat: this is that request's answer */
        call->repeated = true;
        word_copy(call->id, sizeof call->id, start->id);
    }
    call->tier = start->tier;
    word_copy(call->backend, sizeof call->backend, start->backend);
    word_copy(call->reason, sizeof call->reason, start->reason);
}

/* Our own end of it: the request is cancelled when the handler runs next, outside of the sink's call. */
static void call_break(struct http_call *call, enum err_code code, const char *what)
{
    if (call->broken || call->failed) return;
    textlog(TEXTLOG_WARN, "http_call_broken", "request=%s why=\"%s\"", call->id, what);
    call->broken = true;
    call->failed = true;
    (void)err_set(&call->error, code, "%s", what);
    /* A client that does not read is not waited for. */
    if (call->streaming) (void)shutdown(call->conn->fd, SHUT_RDWR);
    call_wake(call);
}

static void on_token(void *ctx, const struct msg_token *token)
{
    struct http_call *call = ctx;
    if (call->broken) return;
    if (!call->stream) {
        enum err_code code = openai_collect_token(call->reply, token);
        if (code == ERR_TOO_LARGE) call_break(call, ERR_INTERNAL, "the answer is larger than node.request_bytes_max");
        else if (code == ERR_MEMORY) call_break(call, ERR_MEMORY, "out of memory while the answer was gathered");
        return;
    }
    (void)openai_stream_token(call->reply, token, &call->out);
    if (!buf_ok(&call->out)) {
        call_break(call, ERR_TIMEOUT, "the client reads its stream too slowly");
    } else if (call->out.len > call->sent) {
        call->fed_us = loop_now_us(node_of(call)->loop);
        call_wake(call);
    }
}

static void on_done(void *ctx, const struct msg_done *done)
{
    struct http_call *call = ctx;
    call->handle = 0;
    call->finished = true;
    if (call->stream) {
        (void)openai_stream_done(call->reply, done, &call->out);
    } else {
        (void)openai_body(call->reply, done, &call->out);
    }
    if (!buf_ok(&call->out)) call_break(call, ERR_INTERNAL, "the answer does not fit");
    call_wake(call);
}

static void on_error(void *ctx, const struct msg_error *error)
{
    struct http_call *call = ctx;
    call->handle = 0;
    call->finished = true;
    if (call->streaming || call->out.len > call->sent) {
        (void)openai_stream_error(call->reply, error, &call->out);
    } else if (!call->broken) {
        note_failure(call, error);
    }
    call_wake(call);
}

/* ---- running ---- */

static void submit_free(struct msg_submit *submit)
{
    msg_submit_release(submit);
    free(submit);
}

/* Takes the submit. An answer is waited for when this returns true. */
static bool run_submit(struct http_call *call, struct msg_submit *submit, struct err *e)
{
    struct node *node = node_of(call);
    submit->id = arena_strdup(&submit->arena, call->id);
    if (!submit->id || !http_head_apply(&call->head, submit) ||
        !(call->reply = openai_reply_new(submit, (size_t)node->config->request_bytes_max))) {
        submit_free(submit);
        err_set(e, ERR_MEMORY, "out of memory");
        return false;
    }
    call->stream = submit->stream;
    /* A whole body is bounded by the text it is made of; escaping may make six bytes of one. */
    buf_init(&call->out, call->stream ? HTTP_UNREAD_MAX : 8 * (size_t)node->config->request_bytes_max + 65536);
    const struct sink sink = {call, on_start, NULL, on_token, on_done, on_error};
    call->step = RUNNING;
    call->handle = request_submit(node, submit, &sink, call->conn->door->name);
    if (call->handle) return true;
    err_set(e, ERR_MEMORY, "out of memory");
    return false;
}

static enum MHD_Result wait_suspended(struct http_call *call, enum step step)
{
    call->step = step;
    call_suspend(call);
    return MHD_YES;
}

/* What is answered within a few turns of the loop is not suspended for it, which would cost more than looking again. */
static enum MHD_Result wait_running(struct http_call *call)
{
    call->step = RUNNING;
    return call->looks++ < LOOKS_MAX ? MHD_YES : wait_suspended(call, RUNNING);
}

static enum MHD_Result parse_body(struct http_call *call)
{
    enum openai_endpoint endpoint = call->head.endpoint == HTTP_CHAT ? OPENAI_CHAT : OPENAI_COMPLETION;
    struct err e = {0};
    if (call->conn->gone) return MHD_NO; /* its client left before we could begin */
    if (call->body.len > HTTP_OFF_LOOP) {
        if (!http_parser_give(front_of(call)->parser, call, endpoint, &call->body)) {
            err_set(&e, ERR_FULL, "too many large bodies are being read");
            call->retryable = true;
            return refuse(call, &e);
        }
        return wait_suspended(call, PARSING);
    }
    struct msg_submit *submit = malloc(sizeof *submit);
    enum err_code code = submit ? openai_parse_request(submit, endpoint, call->body.data, call->body.len, &e)
                                : err_set(&e, ERR_MEMORY, "out of memory");
    buf_release(&call->body);
    if (code != ERR_OK) free(submit);
    else if (run_submit(call, submit, &e)) return wait_running(call);
    return refuse(call, &e);
}

void http_call_parsed(struct http_call *call, struct msg_submit *submit, const struct err *e)
{
    call->step = RUNNING; /* and suspended all along */
    call->error = *e;
    if (submit && run_submit(call, submit, &call->error)) return;
    metrics_add(node_of(call)->metrics, METRIC_HTTP_REFUSED, 1);
    call->failed = true;
    call_wake(call);
}

/* ---- small endpoints ---- */

static enum MHD_Result reply_models(struct http_call *call)
{
    struct msg_model models[MSG_MODELS_MAX + TIERS + 1] = {{.name = "auto", .tier = TIER_NONE}};
    struct tier_state state[TIERS];
    int count = 1;
    node_tier_states(node_of(call), state);
    for (int t = 0; t < TIERS; t++)
        if (state[t].configured) models[count++] = (struct msg_model){.name = tier_name((enum tier)t), .tier = (enum tier)t};
    count += node_models(node_of(call), models + count, MSG_MODELS_MAX);
    struct buf text = BUF_INIT(1 << 20);
    if (call->head.endpoint == HTTP_MODELS) {
        (void)openai_models_body(models, count, &text);
        return reply_text(call, 200, &text, JSON);
    }
    for (int i = 0; i < count; i++) {
        if (strcmp(models[i].name, call->head.model) != 0) continue;
        (void)openai_model_body(&models[i], &text);
        return reply_text(call, 200, &text, JSON);
    }
    struct err e = {0};
    err_set_param(&e, ERR_NOT_FOUND, "model", "there is no model '%.80s'; GET /v1/models lists them", call->head.model);
    return refuse(call, &e);
}

static enum MHD_Result reply_feedback(struct http_call *call)
{
    struct node *node = node_of(call);
    struct openai_feedback feedback;
    struct err e = {0};
    enum err_code code = openai_parse_feedback(&feedback, call->body.data, call->body.len, &e);
    const char *id = feedback.request;
    if (strncmp(id, "chatcmpl-", 9) == 0) id += 9; /* the id of a reply will do as well */
    if (strncmp(id, "cmpl-", 5) == 0) id += 5;
    struct log_label label = {.source = "feedback", .wall_ms = clock_wall_ms(), .tier = feedback.tier,
                              .value = feedback.value};
    if (code == ERR_OK && strlen(id) >= sizeof label.request)
        code = err_set_param(&e, ERR_INVALID, "request_id", "request_id is longer than %zu characters", sizeof label.request - 1);
    if (code != ERR_OK) return refuse(call, &e);
    word_copy(label.request, sizeof label.request, id);
    word_copy(label.note, sizeof label.note, feedback.note);
    code = node->log ? log_label_add(node->log, &label) : ERR_UNAVAILABLE;
    if (code != ERR_OK) {
        err_set(&e, code, node->log ? "the log's queue is full" : "this node keeps no log (log.path)");
        return refuse(call, &e);
    }
    struct buf text = BUF_INIT(64);
    buf_adds(&text, "{\"ok\":true}");
    return reply_text(call, 200, &text, JSON);
}

/* Operators come through the Unix socket only: its mode and uids say who they are. */
static enum MHD_Result reply_policy(struct http_call *call)
{
    struct node *node = node_of(call);
    struct err e = {0};
    enum err_code code = ERR_OK;
    if (call->conn->door->tcp) code = err_set(&e, ERR_FORBIDDEN, "policies are read and set through the Unix socket only");
    else if (call->head.endpoint == HTTP_POLICY_SET) code = node_policy_command(node, call->body.data, call->body.len, &e);
    if (code != ERR_OK) return refuse(call, &e);
    struct buf text = BUF_INIT(16384);
    node_policy_json(node, &text);
    return reply_text(call, 200, &text, JSON);
}

static enum MHD_Result reply_preflight(struct http_call *call)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(0, (void *)(uintptr_t)"", MHD_RESPMEM_PERSISTENT);
    if (!response) return MHD_NO;
    add_common_headers(call, response);
    add_header(response, "Access-Control-Allow-Methods", "GET, POST");
    add_header(response, "Access-Control-Allow-Headers",
               "authorization, content-type, x-api-key, x-request-id, idempotency-key, traceparent, x-rung-max-tier, "
               "x-rung-privacy, x-rung-deadline-ms, x-rung-conversation");
    add_header(response, "Access-Control-Max-Age", "600");
    return queue(call, 204, response);
}

static enum MHD_Result reply_state(struct http_call *call)
{
    struct node *node = node_of(call);
    struct buf text = BUF_INIT(4 << 20);
    if (call->head.endpoint == HTTP_METRICS) {
        metrics_write(node, &text);
        return reply_text(call, 200, &text, "text/plain; version=0.0.4; charset=utf-8");
    }
    bool good = node_health_json(node, call->head.endpoint == HTTP_READY, &text);
    return reply_text(call, good ? 200 : 503, &text, JSON);
}

/* ---- answering ---- */

static ssize_t stream_read(void *ctx, uint64_t at, char *to, size_t max)
{
    (void)at;
    struct http_call *call = ctx;
    if (call->gone || call->broken) return MHD_CONTENT_READER_END_WITH_ERROR;
    size_t ready = call->out.len - call->sent;
    if (ready == 0 && call->finished) return MHD_CONTENT_READER_END_OF_STREAM;
    if (ready == 0) {
        call_suspend(call);
        return 0;
    }
    size_t n = ready < max ? ready : max;
    memcpy(to, call->out.data + call->sent, n);
    call->sent += n;
    if (call->sent == call->out.len) {
        buf_clear(&call->out);
        call->sent = 0;
    } else if (call->sent > call->out.len / 2) { /* moved at most once for each byte sent */
        buf_drop(&call->out, call->sent);
        call->sent = 0;
    }
    return (ssize_t)n;
}

static enum MHD_Result start_stream(struct http_call *call)
{
    struct MHD_Response *response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, stream_read, call, NULL);
    if (!response) return MHD_NO;
    call->streaming = true;
    add_header(response, "Content-Type", "text/event-stream; charset=utf-8");
    add_header(response, "Cache-Control", "no-cache");
    add_header(response, "X-Accel-Buffering", "no"); /* nginx and its like pass each event on at once */
    add_common_headers(call, response);
    add_answer_headers(call, response);
    return queue(call, 200, response);
}

static void call_cancel(struct http_call *call)
{
    if (!call->handle) return;
    uint64_t handle = call->handle;
    call->handle = 0;
    request_cancel(node_of(call), handle);
}

/* After a resume, or when an answer is there already. */
static enum MHD_Result answer(struct http_call *call)
{
    if (call->gone) return MHD_NO;
    if (call->failed) {
        call_cancel(call);
        return reply_error(call);
    }
    if (call->stream && (call->out.len > call->sent || call->finished)) return start_stream(call);
    if (call->finished) {
        struct MHD_Response *response = text_response(call, &call->out, JSON);
        if (!response) return MHD_NO;
        add_answer_headers(call, response);
        return queue(call, 200, response);
    }
    return wait_running(call);
}

/* ---- libmicrohttpd's side ---- */

static void new_id(struct http_front *front, char out[33])
{
    static const char HEX[] = "0123456789abcdef";
    if (front->random_left < 16) {
        randombytes_buf(front->random, sizeof front->random);
        front->random_left = sizeof front->random;
    }
    front->random_left -= 16;
    /* The time first (as in UUIDv7, RFC 9562): the log's index then grows at its end, which saves a third of its work. */
    uint64_t ms = (uint64_t)clock_wall_ms();
    for (int i = 0; i < 16; i++) {
        unsigned char byte = front->random[front->random_left + i];
        if (i < 6) byte = (unsigned char)(ms >> (40 - 8 * i));
        out[2 * i] = HEX[byte >> 4];
        out[2 * i + 1] = HEX[byte & 15];
    }
    out[32] = 0;
}

static struct http_call *call_new(struct http_front *front)
{
    struct http_call *call = front->spare;
    if (!call) return calloc(1, sizeof *call);
    front->spare = call->spare_next;
    front->spares--;
    memset(call, 0, sizeof *call);
    return call;
}

static void call_free(struct http_front *front, struct http_call *call)
{
    if (front->spares == HTTP_SPARES_MAX) {
        free(call);
        return;
    }
    call->spare_next = front->spare;
    front->spare = call;
    front->spares++;
}

void http_calls_free(struct http_front *front)
{
    for (struct http_call *call = front->spare, *next; call; call = next) {
        next = call->spare_next;
        free(call);
    }
}

static struct http_call *call_open(struct http_door *door, struct MHD_Connection *mhd, const char *url, const char *method)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct http_conn *conn = info ? info->socket_context : NULL;
    struct http_call *call = conn ? call_new(door->front) : NULL;
    if (!call) return NULL;
    struct node *node = door->front->node;
    call->conn = conn;
    call->mhd = mhd;
    call->began_us = clock_mono_us();
    call->tier = TIER_NONE;
    conn->call = call;
    new_id(door->front, call->id);
    buf_init(&call->body, (size_t)node->config->http.body_bytes_max);
    metrics_add(node->metrics, METRIC_HTTP_REQUESTS, 1);
    if (http_head_read(&call->head, conn, mhd, url, method, &call->refusal) == ERR_OK) call->refusal.code = ERR_OK;
    return call;
}

/* A piece of the body. What belongs to a refused request is read past, so that the answer is not lost in a reset. */
static enum MHD_Result take_body(struct http_call *call, const char *data, size_t *size)
{
    int64_t most = node_of(call)->config->http.body_bytes_max;
    call->received += (int64_t)*size;
    if (call->lingering && call->received > most + HTTP_LINGER_MAX) return MHD_NO;
    if (call->received > most && !call->lingering && refuse_and_linger(call) != MHD_YES) return MHD_NO;
    bool wanted = call->refusal.code == ERR_OK && !call->lingering;
    int64_t length = call->head.content_length;
    if (wanted && call->body.len == 0 && length > (int64_t)*size)
        (void)buf_reserve(&call->body, length < BODY_BYTES ? (size_t)length : BODY_BYTES);
    if (wanted && buf_add(&call->body, data, *size) != ERR_OK) return MHD_NO;
    *size = 0;
    return MHD_YES;
}

static enum MHD_Result dispatch(struct http_call *call)
{
    if (call->lingering) return MHD_NO;
    if (call->refusal.code != ERR_OK) return refuse(call, &call->refusal);
    if (call->head.preflight) return reply_preflight(call);
    switch (call->head.endpoint) {
    case HTTP_CHAT:
    case HTTP_COMPLETION:
        return parse_body(call);
    case HTTP_MODELS:
    case HTTP_MODEL:
        return reply_models(call);
    case HTTP_FEEDBACK:
        return reply_feedback(call);
    case HTTP_POLICY:
    case HTTP_POLICY_SET:
        return reply_policy(call);
    case HTTP_HEALTH:
    case HTTP_READY:
    case HTTP_METRICS:
        return reply_state(call);
    case HTTP_NOWHERE:
        break;
    }
    return MHD_NO; /* the head refuses these */
}

enum MHD_Result http_call_handle(void *door, struct MHD_Connection *mhd, const char *url, const char *method,
                                 const char *version, const char *data, size_t *size, void **ctx)
{
    (void)version;
    struct http_call *call = *ctx;
    if (!call) {
        *ctx = call = call_open(door, mhd, url, method);
        if (!call) return MHD_NO;
        if (call->refusal.code != ERR_TOO_LARGE) return MHD_YES;
        /* Who asks first (Expect: 100-continue) sends nothing that would have to be read past. */
        return call->head.expect ? refuse(call, &call->refusal) : refuse_and_linger(call);
    }
    if (*size > 0) return take_body(call, data, size);
    if (call->step == READING) return dispatch(call);
    return answer(call);
}

void http_call_completed(void *door, struct MHD_Connection *mhd, void **ctx, enum MHD_RequestTerminationCode why)
{
    (void)door;
    (void)mhd;
    (void)why;
    struct http_call *call = *ctx;
    if (!call) return;
    *ctx = NULL;
    call_cancel(call);
    struct http_front *front = front_of(call);
    if (call->step == PARSING) http_parser_forget(front->parser, call);
    call->conn->call = NULL;
    call->conn->idle_since_us = clock_mono_us();
    openai_reply_free(call->reply);
    buf_release(&call->body);
    buf_release(&call->out);
    call_free(front, call);
}

void http_call_leave(struct http_call *call)
{
    if (call->step == READING || call->finished) return; /* libmicrohttpd sees to it */
    call->gone = true;
    call_cancel(call);
    call_wake(call);
}

void http_call_sweep(struct http_call *call, int64_t now_us)
{
    int64_t body_us = 2000 * (int64_t)node_of(call)->config->http.idle_timeout_ms;
    if (call->lingering) body_us = HTTP_LINGER_MS * 1000;
    if (call->conn->gone) body_us = 0; /* half a body, and no more will come */
    if (call->step == READING && now_us - call->began_us > body_us) (void)shutdown(call->conn->fd, SHUT_RDWR);
    if (!call->streaming || call->finished || !call->suspended) return;
    if (now_us - call->fed_us < (int64_t)front_of(call)->comment_ms * 1000) return;
    call->fed_us = now_us;
    buf_adds(&call->out, ": still working\n\n");
    call_wake(call);
}
