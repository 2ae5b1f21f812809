/* An OpenAI-compatible service as a backend. A call:
 *
 *   submit ── fetch ──bytes──> reader ──events──> sink: on_start, on_token…      [DONE], or every choice finished
 *     ^         │ refused, cut, stalled                                            └──> on_done
 *     └─retry───┴──> nothing shown and retries left: again after a pause; else ────────> on_error
 *
 * The answer is always asked for as a stream, so that the first-token and stall deadlines hold for every request. A
 * sink may cancel its call from inside any callback, so a call is only freed when nobody is inside of it (call_leave).
 */
#include "node/node.h"
#include "node/upstream.h"

#include "base/clock.h"
#include "proto/openai.h"

#include <stdlib.h>
#include <string.h>

enum {
    LINE_MAX_BYTES = 1 << 20,      /* of an event stream */
    BODY_MAX = 2 * MSG_BYTES_MAX,  /* of a request */
    REFUSAL_MAX = 16384,           /* kept of a refusal's body */
    ENDING_MS = 1000,              /* for the rest of an answer after [DONE] */
    RETRY_PAUSE_MS = 100,          /* doubled each time */
    FULL_MS = 1000                 /* a 429 that does not say how long */
};

struct upstream {
    struct node *node;
    struct backend *backend;
    const struct config_backend *config;
    struct fetch_pool *pool;
    char *base;                    /* the URL without a last slash; of a Unix socket http://localhost/… */
    char *authorization;           /* "Authorization: Bearer …", or NULL */
    struct call *calls;
    struct upstream_probe probe;
};
struct call {
    struct upstream *upstream;
    struct call *next, **prev;
    uint64_t id;
    struct sink sink;
    char request[MSG_WORD_MAX], traceparent[56];
    bool completion;
    struct buf body, refusal;
    struct fetch *fetch;
    struct openai_reader *reader;
    struct loop_timer watch, retry; /* the first-token or stall deadline; the pause before another attempt */
    int first_token_ms, attempts, choices;
    int inside;                    /* callbacks that use this call right now */
    bool closed, started, ended;
    int64_t start_us, first_us;
    char model[MSG_WORD_MAX];
    char finish[MSG_CHOICES_MAX][32];
    int finished;                  /* choices with a finish reason */
    int64_t chunks, reasoning_chunks;
    int64_t prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens;
    bool has_usage;
    struct err failed;             /* an error object inside the stream */
    int64_t prompt_bytes;
};

static void call_attempt(struct call *call);

/* ---- a call's life ---- */

static void call_free(struct call *call)
{
    buf_release(&call->body);
    buf_release(&call->refusal);
    openai_reader_free(call->reader);
    free(call);
}

static void call_leave(struct call *call)
{
    if (--call->inside == 0 && call->closed) call_free(call);
}

/* Out of the list; nothing is called back from here on. `reuse`: the answer is whole, its connection can be kept. */
static void call_close(struct call *call, bool reuse)
{
    struct upstream *u = call->upstream;
    if (call->closed) return;
    call->closed = true;
    loop_timer_stop(u->node->loop, &call->watch);
    loop_timer_stop(u->node->loop, &call->retry);
    if (call->fetch && reuse) fetch_let_end(call->fetch, ENDING_MS);
    else if (call->fetch) fetch_stop(call->fetch);
    call->fetch = NULL;
    *call->prev = call->next;
    if (call->next) call->next->prev = call->prev;
    if (u->backend->slots > 0) u->backend->slots_free++;
    if (call->inside == 0) call_free(call);
}

static void call_fail(struct call *call, enum err_code code, const char *message, int64_t retry_after_ms)
{
    struct sink sink = call->sink;
    char text[sizeof((struct err *)0)->msg];
    (void)snprintf(text, sizeof text, "%s", message); /* it may lie in the call */
    const struct msg_error error = {.id = call->request, .code = code, .message = text, .retryable = err_retryable(code),
                                    .retry_after_ms = retry_after_ms};
    call->inside++;
    call_close(call, false);
    sink.on_error(sink.ctx, &error);
    call_leave(call);
}

static void say_start(struct call *call)
{
    if (call->started) return;
    const struct upstream *u = call->upstream;
    const struct msg_start start = {.id = call->request, .tier = u->config->tier, .backend = u->backend->name,
                                    .model = call->model[0] ? call->model : u->config->model, .identity = "",
                                    .node = u->node->config->node, .p = {-1, -1, -1}};
    call->started = true;
    call->sink.on_start(call->sink.ctx, &start);
}

/* A service that does not count: one chunk a token, and four bytes of prompt a token, so that a price is not 0. */
static void estimate_usage(struct call *call)
{
    if (call->has_usage) return;
    call->completion_tokens = call->chunks;
    call->reasoning_tokens = call->reasoning_chunks;
    call->prompt_tokens = (call->prompt_bytes + 3) / 4;
}

static double call_price(const struct call *call)
{
    const struct upstream *u = call->upstream;
    const struct policy_price *price = u->config->has_price ? &u->config->price : &u->node->policy.price[u->config->tier];
    return policy_price_usd(price, (int)call->prompt_tokens, (int)(call->completion_tokens - call->reasoning_tokens),
                            (int)call->reasoning_tokens);
}

static void call_done(struct call *call)
{
    struct upstream *u = call->upstream;
    struct sink sink = call->sink;
    int64_t now = clock_mono_us();
    call->inside++;
    say_start(call);
    if (!call->closed) {
        estimate_usage(call);
        struct msg_done done = {.id = call->request, .choices = call->choices, .prompt_tokens = call->prompt_tokens,
                                .cached_tokens = call->cached_tokens, .completion_tokens = call->completion_tokens,
                                .reasoning_tokens = call->reasoning_tokens, .price_usd = call_price(call),
                                .total_ms = (double)(now - call->start_us) / 1000, .identity = "",
                                .model = call->model[0] ? call->model : u->config->model, .backend = u->backend->name,
                                .tier = u->config->tier};
        if (call->first_us) done.ttft_ms = (double)(call->first_us - call->start_us) / 1000;
        for (int i = 0; i < call->choices; i++) done.finish[i] = call->finish[i][0] ? call->finish[i] : "stop";
        upstream_probe_answered(&u->probe);
        call_close(call, true);
        sink.on_done(sink.ctx, &done);
    }
    call_leave(call);
}

/* ---- deadlines ---- */

static bool all_finished(const struct call *call)
{
    return call->finished >= call->choices;
}

static void on_watch(void *ctx)
{
    struct call *call = ctx;
    const struct upstream *u = call->upstream;
    char why[200];
    if (all_finished(call)) { /* only the [DONE] is missing */
        call_done(call);
        return;
    }
    if (call->first_us) (void)snprintf(why, sizeof why, "%.64s fell silent for %d ms in mid-answer", u->backend->name,
                                       u->config->stall_ms);
    else (void)snprintf(why, sizeof why, "%.64s gave no first token within %d ms", u->backend->name, call->first_token_ms);
    call_fail(call, ERR_TIMEOUT, why, 0);
}

static void watch(struct call *call, int ms)
{
    loop_timer_start(call->upstream->node->loop, &call->watch, ms, on_watch, call);
}

/* ---- what the service says ---- */

static void on_model(void *ctx, const char *model)
{
    struct call *call = ctx;
    (void)snprintf(call->model, sizeof call->model, "%s", model);
}

static void on_token(void *ctx, const struct msg_token *got)
{
    struct call *call = ctx;
    if (call->closed || got->choice >= call->choices) return;
    if (!call->first_us) call->first_us = clock_mono_us();
    watch(call, call->upstream->config->stall_ms);
    say_start(call);
    if (call->closed) return;
    struct msg_token token = *got;
    token.id = call->request;
    call->chunks++;
    if (token.channel == CHANNEL_REASONING) call->reasoning_chunks++;
    call->sink.on_token(call->sink.ctx, &token);
}

static void on_finish(void *ctx, int choice, const char *finish)
{
    struct call *call = ctx;
    if (choice >= call->choices) return;
    if (!call->finish[choice][0]) call->finished++;
    (void)snprintf(call->finish[choice], sizeof call->finish[choice], "%s", *finish ? finish : "stop");
}

static void on_usage(void *ctx, int64_t prompt, int64_t cached, int64_t completion, int64_t reasoning)
{
    struct call *call = ctx;
    if (prompt <= 0 && completion <= 0) return;
    call->has_usage = true;
    call->prompt_tokens = prompt;
    call->cached_tokens = cached < prompt ? cached : prompt;
    call->completion_tokens = completion;
    call->reasoning_tokens = reasoning < completion ? reasoning : completion;
}

static void on_stream_error(void *ctx, const char *message, const char *type, const char *code)
{
    struct call *call = ctx;
    enum err_code mine = ERR_UPSTREAM;
    if (upstream_is_context_error(message, type, code)) mine = ERR_CONTEXT;
    else if (strstr(type, "rate_limit") || strstr(code, "rate_limit")) mine = ERR_FULL;
    else if (strcmp(type, "invalid_request_error") == 0) mine = ERR_INVALID;
    if (call->started && mine != ERR_CONTEXT) mine = ERR_UPSTREAM; /* it broke off an answer, whatever it calls that */
    err_set(&call->failed, mine, "%.64s: %.150s", call->upstream->backend->name, message);
}

static void on_end(void *ctx)
{
    struct call *call = ctx;
    call->ended = true;
}

/* [DONE] with nothing before it is no answer. */
static void call_ended(struct call *call)
{
    char why[160];
    if (call->chunks > 0 || call->finished > 0) {
        call_done(call);
        return;
    }
    (void)snprintf(why, sizeof why, "%.64s ended without an answer", call->upstream->backend->name);
    call_fail(call, ERR_UPSTREAM, why, 0);
}

static void read_stream(struct call *call, const char *data, size_t len)
{
    static const struct openai_events EVENTS = {NULL, on_model, on_token, on_finish, on_usage, on_stream_error, on_end};
    struct openai_events events = EVENTS;
    struct err e = {0};
    events.ctx = call;
    call->inside++;
    enum err_code code = openai_reader_feed(call->reader, data, len, &events, &e);
    if (!call->closed && call->failed.code != ERR_OK) {
        call_fail(call, call->failed.code, call->failed.msg, call->failed.code == ERR_FULL ? FULL_MS : 0);
    } else if (!call->closed && code != ERR_OK) {
        char why[240]; /* too long a line is the service's fault, not the client's */
        (void)snprintf(why, sizeof why, "%.64s: %.160s", call->upstream->backend->name, e.msg);
        call_fail(call, ERR_UPSTREAM, why, 0);
    } else if (!call->closed && call->ended) {
        call_ended(call);
    }
    call_leave(call);
}

static void on_bytes(void *ctx, const struct fetch_answer *answer, const char *data, size_t len)
{
    struct call *call = ctx;
    if (answer->status == 200) {
        read_stream(call, data, len);
        return;
    }
    size_t room = REFUSAL_MAX - call->refusal.len;
    (void)!buf_add(&call->refusal, data, len < room ? len : room);
}

/* ---- attempts ---- */

static void on_retry(void *ctx)
{
    call_attempt(ctx);
}

/* Where nothing was shown and the service may not even have begun, the same may be asked once more. */
static bool try_again(struct call *call, const struct fetch_answer *answer)
{
    bool passing = answer->status == 500 || answer->status == 502 || answer->status == 503 ||
                   (answer->status == 0 && answer->code == ERR_UPSTREAM);
    if (!passing || answer->retry_after_ms > 0 || call->started || call->attempts > call->upstream->config->retries_max)
        return false;
    fetch_stop(call->fetch);
    call->fetch = NULL;
    buf_clear(&call->refusal);
    loop_timer_start(call->upstream->node->loop, &call->retry, RETRY_PAUSE_MS << (call->attempts - 1), on_retry, call);
    return true;
}

static void transfer_failed(struct call *call, const struct fetch_answer *answer)
{
    struct upstream *u = call->upstream;
    char why[240];
    const char *where = call->first_us ? "broke off in mid-answer" : answer->connected ? "broke off" : "cannot be reached";
    (void)snprintf(why, sizeof why, "%.64s %s: %.120s", u->backend->name, where, answer->why);
    if (!answer->connected) {
        upstream_probe_failed(&u->probe, why);
    }
    call_fail(call, answer->code, why, 0);
}

static void refused(struct call *call, const struct fetch_answer *answer)
{
    struct err e = {0};
    enum err_code code = upstream_error(answer->status, call->upstream->backend->name, call->refusal.data,
                                        call->refusal.len, &e);
    int64_t wait_ms = answer->retry_after_ms;
    if (code == ERR_FULL && wait_ms == 0) wait_ms = FULL_MS;
    call_fail(call, code, e.msg, wait_ms);
}

static void on_complete(void *ctx, const struct fetch_answer *answer)
{
    struct call *call = ctx;
    char why[160];
    if (answer->status == 200 && all_finished(call)) {
        call_done(call);
    } else if ((answer->code != ERR_OK || answer->status != 200) && try_again(call, answer)) {
        return;
    } else if (answer->code != ERR_OK) {
        transfer_failed(call, answer);
    } else if (answer->status != 200) {
        refused(call, answer);
    } else {
        (void)snprintf(why, sizeof why, "%.64s cut its answer: no finish_reason and no [DONE] came",
                       call->upstream->backend->name);
        call_fail(call, ERR_UPSTREAM, why, 0);
    }
}

/* "NAME: VALUE", where the value is of visible ASCII; another is left out. Returns the new count. */
static int add_header(const char *headers[], int count, char *out, size_t size, const char *name, const char *value)
{
    if (!value || !*value || strlen(value) > 128) return count;
    for (const char *p = value; *p; p++)
        if (*p <= 0x20 || *p >= 0x7f) return count;
    (void)snprintf(out, size, "%s: %s", name, value);
    headers[count] = out;
    return count + 1;
}

static enum err_code call_send(struct call *call, struct err *e)
{
    struct upstream *u = call->upstream;
    char url[4352], id[192], trace[192];
    const char *headers[8] = {"Content-Type: application/json", "Accept: text/event-stream, application/json", "Expect:"};
    int count = 3;
    if (u->authorization) headers[count++] = u->authorization;
    count = add_header(headers, count, id, sizeof id, "x-request-id", call->request);
    count = add_header(headers, count, trace, sizeof trace, "traceparent", call->traceparent);
    (void)snprintf(url, sizeof url, "%s/%s", u->base, call->completion ? "completions" : "chat/completions");
    const struct fetch_owner owner = {call, on_bytes, on_complete};
    openai_reader_free(call->reader);
    call->reader = openai_reader_new(LINE_MAX_BYTES);
    if (!call->reader) return err_set(e, ERR_MEMORY, "no memory to read an answer");
    call->attempts++;
    return fetch_start(&call->fetch, u->pool, url, headers, count, &call->body, &owner, e);
}

static void call_attempt(struct call *call)
{
    struct err e = {0};
    enum err_code code = call_send(call, &e);
    if (code != ERR_OK) call_fail(call, code, e.msg, 0);
}

/* ---- the backend ---- */

static enum err_code check_abilities(const struct upstream *u, const struct msg_submit *submit, struct err *e)
{
    const struct config_backend *c = u->config;
    const char *lack = NULL;
    if (submit->has_tools && !c->can_tools) lack = "tools";
    if (submit->has_json_format && !c->can_json) lack = "response_format";
    if (submit->has_parts && !c->can_parts) lack = "content parts";
    if (submit->prefix_count > 0 && !c->can_prefix) lack = "an answer that another began";
    if (lack) return err_set(e, ERR_UNSUPPORTED, "backend %s does not take %s", c->name, lack);
    if (submit->params.n > MSG_CHOICES_MAX)
        return err_set_param(e, ERR_INVALID, "n", "n: got %lld, want at most %d", (long long)submit->params.n, MSG_CHOICES_MAX);
    if (u->backend->slots > 0 && u->backend->slots_free <= 0)
        return err_set(e, ERR_FULL, "all %d slots of backend %s are taken", u->backend->slots, c->name);
    return ERR_OK;
}

static void fill_call(struct call *call, struct upstream *u, uint64_t id, const struct msg_submit *submit,
                      const struct sink *sink)
{
    call->upstream = u;
    call->id = id;
    call->sink = *sink;
    call->completion = submit->completion;
    call->choices = submit->params.n > 1 ? (int)submit->params.n : 1;
    call->start_us = clock_mono_us();
    call->first_token_ms = u->config->first_token_ms;
    if (submit->deadline_ms > 0 && submit->deadline_ms < call->first_token_ms) call->first_token_ms = (int)submit->deadline_ms;
    (void)snprintf(call->request, sizeof call->request, "%s", submit->id ? submit->id : "");
    if (submit->traceparent && strlen(submit->traceparent) < sizeof call->traceparent)
        (void)snprintf(call->traceparent, sizeof call->traceparent, "%s", submit->traceparent);
    for (int i = 0; i < submit->message_count; i++)
        if (submit->messages[i].content) call->prompt_bytes += (int64_t)strlen(submit->messages[i].content);
    if (submit->prompt) call->prompt_bytes += (int64_t)strlen(submit->prompt);
    buf_init(&call->body, BODY_MAX);
    buf_init(&call->refusal, REFUSAL_MAX);
}

static enum err_code upstream_submit(struct backend *backend, uint64_t id, const struct msg_submit *submit,
                                     const struct sink *sink, struct err *e)
{
    struct upstream *u = backend->impl;
    enum err_code code = check_abilities(u, submit, e);
    if (code != ERR_OK) return code;
    struct call *call = calloc(1, sizeof *call);
    if (!call) return err_set(e, ERR_MEMORY, "no memory for a call");
    fill_call(call, u, id, submit, sink);
    code = openai_upstream_body(submit, u->config->model, true, &call->body, e);
    if (code == ERR_OK) code = call_send(call, e);
    if (code != ERR_OK) {
        call_free(call);
        return code;
    }
    call->next = u->calls;
    call->prev = &u->calls;
    if (u->calls) u->calls->prev = &call->next;
    u->calls = call;
    if (backend->slots > 0) backend->slots_free--;
    watch(call, call->first_token_ms);
    return ERR_OK;
}

static void upstream_cancel(struct backend *backend, uint64_t id)
{
    struct upstream *u = backend->impl;
    for (struct call *call = u->calls; call; call = call->next) {
        if (call->id != id) continue;
        call_close(call, false);
        return;
    }
}

static void upstream_free(struct backend *backend)
{
    struct upstream *u = backend->impl;
    while (u->calls) call_close(u->calls, false);
    upstream_probe_release(&u->probe);
    fetch_pool_free(u->pool);
    if (u->authorization) explicit_bzero(u->authorization, strlen(u->authorization));
    free(u->authorization);
    free(u->base);
    free(u);
    free(backend);
}

/* ---- opening ---- */

/* "unix:/PATH:/PREFIX" is a socket's path and http://localhost/PREFIX; other URLs are as they are. */
static enum err_code split_url(struct upstream *u, char socket[108], struct err *e)
{
    const char *url = u->config->url;
    const char *prefix = strncmp(url, "unix:", 5) == 0 ? strchr(url + 5, ':') : NULL;
    socket[0] = '\0';
    if (prefix) (void)snprintf(socket, 108, "%.*s", (int)(prefix - url - 5), url + 5);
    if (asprintf(&u->base, "%s%s", prefix ? "http://localhost" : "", prefix ? prefix + 1 : url) < 0) {
        u->base = NULL;
        return err_set(e, ERR_MEMORY, "backend %s: out of memory", u->config->name);
    }
    for (size_t len = strlen(u->base); len && u->base[len - 1] == '/';) u->base[--len] = '\0';
    return ERR_OK;
}

static void fill_backend(struct backend *b, const struct config_backend *c)
{
    (void)snprintf(b->name, sizeof b->name, "%s", c->name);
    b->health = BACKEND_STARTING;
    (void)snprintf(b->trouble, sizeof b->trouble, "not asked yet");
    b->slots = b->slots_free = c->slots;
    b->order = c->order;
    b->weight = c->weight;
    b->models[0] = (struct msg_model){.name = c->model, .identity = "", .context_tokens = c->context_tokens, .tier = c->tier,
                                      .can_tools = c->can_tools, .can_json = c->can_json, .can_parts = c->can_parts,
                                      .can_prefix = c->can_prefix};
    if (c->has_price) {
        b->models[0].price_input_usd = c->price.input_usd;
        b->models[0].price_output_usd = c->price.output_usd;
        b->models[0].price_reasoning_usd = c->price.reasoning_usd;
    }
    b->model_count = 1;
}

static const struct backend_ops UPSTREAM_OPS = {"upstream", upstream_submit, upstream_cancel, upstream_free};

enum err_code backend_upstream_new(struct backend **out, struct node *node, const struct config_backend *config,
                                   struct err *e)
{
    struct upstream *u = calloc(1, sizeof *u);
    struct backend *b = calloc(1, sizeof *b);
    char socket[108];
    if (!u || !b) {
        free(u);
        free(b);
        return err_set(e, ERR_MEMORY, "no memory for backend %s", config->name);
    }
    *u = (struct upstream){.node = node, .backend = b, .config = config};
    u->probe = (struct upstream_probe){.loop = node->loop, .backend = b, .config = config};
    buf_init(&u->probe.body, UPSTREAM_MODELS_BYTES_MAX);
    b->ops = &UPSTREAM_OPS;
    b->impl = u;
    fill_backend(b, config);
    enum err_code code = split_url(u, socket, e);
    if (code == ERR_OK) code = upstream_authorization(config, &u->authorization, e);
    const struct fetch_pool_options options = {.connections_max = config->slots, .unix_path = socket[0] ? socket : NULL,
                                               .ca_file = config->ca_file, .connect_ms = config->connect_ms};
    if (code == ERR_OK) code = fetch_pool_new(&u->pool, node->loop, &options, e);
    if (code != ERR_OK) {
        upstream_free(b);
        return code;
    }
    upstream_probe_begin(&u->probe, u->pool, u->base, u->authorization);
    *out = b;
    return ERR_OK;
}
