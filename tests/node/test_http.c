/* The HTTP front against a request path that does as each test tells it. The front and its loop run on a thread of
 * their own, as in a node; the test is the client. */
#include "node/http.h"

#include "base/clock.h"
#include "base/textlog.h"

#include <assert.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>

#include "test_http_client.h"

/* ---- a request path that follows a script ---- */

enum act { START = 1, TOKEN, FLOOD, DONE, FAIL, HOLD }; /* HOLD: until the test releases it */
static struct {
    enum act acts[8];
    struct msg_error error;
    /* what the front said; under the lock */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int submitted, cancelled, held;
    bool released;
    char tenant[64], conversation[64], id[64], idempotency[64], traceparent[64], content[64], front[16];
    int64_t deadline_ms;
    enum tier max_tier;
    bool device_private;
    int64_t cancelled_us;
} script = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

struct running {
    struct running *next;
    struct loop *loop;
    struct msg_submit *submit;
    struct sink sink;
    struct loop_timer timer;
    uint64_t handle;
    int at, flood;
};
static struct running *runs; /* of the loop thread */
static uint64_t last_handle;

static void run_end(struct running *run)
{
    for (struct running **p = &runs; *p; p = &(*p)->next) {
        if (*p != run) continue;
        *p = run->next;
        break;
    }
    loop_timer_stop(run->loop, &run->timer);
    msg_submit_release(run->submit);
    free(run->submit);
    free(run);
}

static bool may_go_on(struct running *run)
{
    pthread_mutex_lock(&script.lock);
    bool go = script.released;
    if (!go && run->at >= 0) script.held++;
    pthread_cond_broadcast(&script.changed);
    pthread_mutex_unlock(&script.lock);
    return go;
}

static void token(struct running *run, const char *text, size_t len)
{
    const struct msg_token t = {.text = text, .text_len = len};
    run->sink.on_token(run->sink.ctx, &t);
}

static void run_step(void *ctx)
{
    struct running *run = ctx;
    struct sink sink = run->sink;
    static char flood[65536];
    switch (script.acts[run->at]) {
    case START:
        sink.on_start(sink.ctx, &(struct msg_start){.tier = TIER_REGION, .backend = "w1", .model = "m", .reason = "hard",
                                                    .node = "n", .p = {0.1, 0.9, -1}, .threshold = 0.8});
        break;
    case TOKEN:
        token(run, "word ", 5);
        break;
    case FLOOD:
        memset(flood, 'x', sizeof flood);
        token(run, flood, sizeof flood);
        if (++run->flood < 400) run->at--;
        break;
    case DONE: {
        const struct msg_done done = {.finish = {"stop"}, .choices = 1, .prompt_tokens = 2, .completion_tokens = 1};
        run_end(run);
        sink.on_done(sink.ctx, &done);
        return;
    }
    case FAIL:
        run_end(run);
        sink.on_error(sink.ctx, &script.error);
        return;
    case HOLD:
        if (!may_go_on(run)) {
            loop_timer_start(run->loop, &run->timer, 1, run_step, run);
            return;
        }
        break;
    default:
        return; /* waits for ever */
    }
    run->at++;
    loop_timer_start(run->loop, &run->timer, 0, run_step, run);
}

static void keep(char *out, size_t size, const char *text)
{
    (void)snprintf(out, size, "%s", text ? text : "");
}
#define KEEP(field) keep(script.field, sizeof script.field, submit->field)

uint64_t request_submit(struct node *node, struct msg_submit *submit, const struct sink *sink, const char *front)
{
    struct running *run = calloc(1, sizeof *run);
    assert(run);
    *run = (struct running){.next = runs, .loop = node->loop, .submit = submit, .sink = *sink, .handle = ++last_handle};
    runs = run;
    pthread_mutex_lock(&script.lock);
    script.submitted++;
    KEEP(tenant);
    KEEP(conversation);
    KEEP(id);
    KEEP(idempotency);
    KEEP(traceparent);
    keep(script.front, sizeof script.front, front);
    keep(script.content, sizeof script.content, submit->message_count ? submit->messages[0].content : submit->prompt);
    script.deadline_ms = submit->deadline_ms;
    script.max_tier = submit->max_tier;
    script.device_private = submit->device_private;
    pthread_cond_broadcast(&script.changed);
    pthread_mutex_unlock(&script.lock);
    loop_timer_start(node->loop, &run->timer, 0, run_step, run);
    return run->handle;
}

void request_cancel(struct node *node, uint64_t handle)
{
    (void)node;
    for (struct running *run = runs; run; run = run->next) {
        if (run->handle != handle) continue;
        run_end(run);
        pthread_mutex_lock(&script.lock);
        script.cancelled++;
        script.cancelled_us = clock_mono_us();
        pthread_cond_broadcast(&script.changed);
        pthread_mutex_unlock(&script.lock);
        return;
    }
}

int request_count(const struct node *node)
{
    (void)node;
    return 1;
}

bool node_health_json(const struct node *node, bool ready, struct buf *out)
{
    (void)node;
    buf_adds(out, ready ? "{\"ready\":false}" : "{\"status\":\"ok\"}");
    return !ready;
}

/* Waits for a counter to reach `n`. */
static void wait_for(const int *counter, int n)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 10;
    pthread_mutex_lock(&script.lock);
    while (*counter < n)
        if (pthread_cond_timedwait(&script.changed, &script.lock, &until) != 0) break;
    int got = *counter;
    pthread_mutex_unlock(&script.lock);
    assert_true(got >= n);
}

static void release(void)
{
    pthread_mutex_lock(&script.lock);
    script.released = true;
    pthread_mutex_unlock(&script.lock);
}

/* ---- a node of nothing but a front ---- */

static char folder[64], unix_path[96], keys_path[96], url_path[96];
static struct {
    struct node node;
    struct backend backend;
    pthread_t thread;
} house;

static void *run_loop(void *ctx)
{
    (void)ctx;
    loop_run(house.node.loop, NULL, NULL);
    return NULL;
}

static char *text(const char *from)
{
    char *copy = strdup(from);
    assert_non_null(copy);
    return copy;
}

static void set(char **place, const char *value)
{
    free(*place);
    *place = value ? text(value) : NULL;
}

static struct config_http *http(void)
{
    return &house.node.config->http;
}

/* A config that a test may change before open_front(). */
static int prepare(void **state)
{
    (void)state;
    struct err e = {0};
    memset(&house, 0, sizeof house);
    assert_int_equal(config_default(&house.node.config, TIER_EDGE, &e), ERR_OK);
    assert_int_equal(loop_new(&house.node.loop, &e), ERR_OK);
    house.node.metrics = metrics_new();
    assert_non_null(house.node.metrics);
    static const struct backend_ops NOTHING = {.type = "test"};
    house.backend.ops = &NOTHING;
    house.backend.health = BACKEND_UP;
    house.backend.models[0] = (struct msg_model){.name = "org/m", .tier = TIER_EDGE, .context_tokens = 512};
    house.backend.model_count = 1;
    house.node.backends = &house.backend;
    set(&http()->unix_path, unix_path);
    set(&http()->tcp_listen, NULL);
    memset(script.acts, 0, sizeof script.acts);
    script.error = (struct msg_error){0};
    script.submitted = script.cancelled = script.held = 0;
    script.released = false;
    return 0;
}

static void open_front(void)
{
    struct err e = {0};
    if (http_front_new(&house.node.http, &house.node, &e) != ERR_OK) fail_msg("%s", e.msg);
    assert_int_equal(pthread_create(&house.thread, NULL, run_loop, NULL), 0);
}

static void stop_loop(void *ctx, void *arg)
{
    (void)arg;
    loop_stop(ctx);
}

static void close_front(void)
{
    if (!house.node.http) return;
    assert_true(loop_post(house.node.loop, stop_loop, house.node.loop, NULL));
    (void)pthread_join(house.thread, NULL);
    http_front_free(house.node.http);
    house.node.http = NULL;
}

static int finish(void **state)
{
    (void)state;
    close_front();
    while (runs) run_end(runs);
    loop_free(house.node.loop);
    metrics_free(house.node.metrics);
    config_free(house.node.config);
    return 0;
}

static void play(enum act a, enum act b, enum act c, enum act d)
{
    memcpy(script.acts, (enum act[]){a, b, c, d}, 4 * sizeof a);
}

#define ASK "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}"
#define ASK_STREAM "{\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}"

static struct response ask_on(int fd, const char *method, const char *path, const char *headers, const char *body)
{
    struct response r;
    client_write(fd, method, path, headers, body);
    client_read(fd, &r);
    return r;
}

static struct response ask(const char *method, const char *path, const char *headers, const char *body)
{
    int fd = client_unix(unix_path);
    assert_true(fd >= 0);
    struct response r = ask_on(fd, method, path, headers, body);
    (void)close(fd);
    return r;
}

static void has(const char *all, const char *part)
{
    if (!all || !strstr(all, part)) fail_msg("\"%s\" is not in: %s", part, all ? all : "(nothing)");
}

static void header_is(const struct response *r, const char *name, const char *value)
{
    char got[256];
    assert_string_equal(response_header(r, name, got, sizeof got), value);
}

/* status and a part of the body; closes the response */
static void answers(struct response r, int status, const char *part)
{
    if (r.status != status) fail_msg("status %d, not %d: %s", r.status, status, r.body);
    assert_true(r.whole);
    has(r.body, part);
    response_free(&r);
}

/* ---- answers ---- */

static void a_chat_is_answered_whole(void **state)
{
    (void)state;
    play(START, TOKEN, TOKEN, DONE);
    open_front();
    struct response r = ask("POST", "/v1/chat/completions", "x-request-id: mine-1\r\n", ASK);
    header_is(&r, "Content-Type", "application/json");
    header_is(&r, "x-request-id", "mine-1");
    header_is(&r, "x-rung-tier", "region");
    header_is(&r, "x-rung-backend", "w1");
    header_is(&r, "x-rung-reason", "hard");
    header_is(&r, "x-ratelimit-remaining-requests", "1023");
    has(r.body, "\"object\":\"chat.completion\"");
    has(r.body, "\"id\":\"chatcmpl-");
    has(r.body, script.id);
    answers(r, 200, "\"content\":\"word word \"");
    assert_int_equal(strlen(script.id), 32);
    assert_string_equal(script.content, "hi");
    assert_string_equal(script.front, "http-unix");
    answers(ask("POST", "/completions", "", "{\"prompt\":\"hi\"}"), 200, "\"text\":\"word word \"");
}

static void a_chat_is_streamed(void **state)
{
    (void)state;
    play(START, TOKEN, TOKEN, DONE);
    open_front();
    struct response r = ask("POST", "/v1/chat/completions", "", ASK_STREAM);
    header_is(&r, "Content-Type", "text/event-stream; charset=utf-8");
    header_is(&r, "x-rung-tier", "region");
    char id[64];
    assert_string_equal(response_header(&r, "x-request-id", id, sizeof id), script.id);
    has(r.body, "\"delta\":{\"role\":\"assistant\"");
    has(r.body, "\"delta\":{\"content\":\"word \"}");
    has(r.body, "\"finish_reason\":\"stop\"}],\"rung\":{");
    assert_string_equal(r.body + r.body_len - 14, "data: [DONE]\n\n");
    answers(r, 200, "");
}

static void one_connection_serves_many_requests(void **state)
{
    (void)state;
    play(START, TOKEN, DONE, 0);
    open_front();
    int fd = client_unix(unix_path);
    for (int i = 0; i < 5; i++) {
        answers(ask_on(fd, "POST", "/v1/chat/completions", "", i % 2 ? ASK : ASK_STREAM), 200, "word ");
        answers(ask_on(fd, "GET", "/health", "", NULL), 200, "ok");
        answers(ask_on(fd, "POST", "/v1/chat/completions", "", "{"), 400, "line 1");
        answers(ask_on(fd, "POST", "/nowhere", "", "some body"), 404, "nothing is served at /nowhere");
    }
    (void)close(fd);
}

static void errors_before_the_first_token_have_their_status(void **state)
{
    (void)state;
    play(START, FAIL, 0, 0); /* a start alone sends nothing */
    open_front();
    script.error = (struct msg_error){.code = ERR_FULL, .message = "full", .retryable = true, .retry_after_ms = 1500};
    struct response r = ask("POST", "/v1/chat/completions", "", ASK_STREAM);
    header_is(&r, "retry-after", "2");
    header_is(&r, "retry-after-ms", "1500");
    header_is(&r, "x-should-retry", "true");
    answers(r, 429, "\"type\":\"rate_limit_error\"");
    script.error = (struct msg_error){.code = ERR_UNAVAILABLE, .message = "all gone", .retryable = false};
    r = ask("POST", "/v1/chat/completions", "", ASK);
    header_is(&r, "x-should-retry", "false");
    answers(r, 503, "all gone");
    script.error = (struct msg_error){.code = ERR_NOT_FOUND, .message = "no such model"};
    answers(ask("POST", "/v1/chat/completions", "", ASK), 404, "\"param\":\"model\",\"code\":\"model_not_found\"");
}

static void an_error_in_a_stream_is_an_event_and_the_end(void **state)
{
    (void)state;
    play(START, TOKEN, HOLD, FAIL);
    open_front();
    script.error = (struct msg_error){.code = ERR_UPSTREAM, .message = "worker gone", .retryable = true};
    int fd = client_unix(unix_path);
    client_write(fd, "POST", "/v1/chat/completions", "", ASK_STREAM);
    struct response r;
    client_head(fd, &r); /* the first token is out */
    assert_int_equal(r.status, 200);
    release();
    client_body(fd, &r);
    has(r.body, "word ");
    has(r.body, "event: error\ndata: {\"error\":{\"message\":\"worker gone\"");
    assert_null(strstr(r.body, "[DONE]"));
    assert_null(strstr(r.body, "\"finish_reason\":\"stop\""));
    response_free(&r);
    (void)close(fd);
}

static void a_silent_stream_gets_comments(void **state)
{
    (void)state;
    play(START, TOKEN, HOLD, DONE);
    open_front();
    house.node.http->comment_ms = 1;
    int fd = client_unix(unix_path);
    client_write(fd, "POST", "/v1/chat/completions", "", ASK_STREAM);
    struct response r;
    char line[4096];
    client_head(fd, &r);
    do assert_true(client_line(fd, line, sizeof line));
    while (line[0] != ':');
    release();
    do assert_true(client_line(fd, line, sizeof line));
    while (strcmp(line, "data: [DONE]") != 0);
    response_free(&r);
    (void)close(fd);
}

/* ---- clients that leave ---- */

static void left(int fd, bool half)
{
    int64_t before = clock_mono_us();
    if (half) (void)shutdown(fd, SHUT_WR);
    else (void)close(fd);
    wait_for(&script.cancelled, 1);
    assert_true(script.cancelled_us - before < 100000);
    if (!half) return;
    struct response r;
    client_read(fd, &r); /* and the connection is closed */
    assert_false(r.whole);
    response_free(&r);
    (void)close(fd);
}

static void a_client_that_leaves_while_it_waits_is_noticed(void **state)
{
    bool half = *state != NULL;
    play(START, HOLD, DONE, 0);
    open_front();
    int fd = client_unix(unix_path);
    client_write(fd, "POST", "/v1/chat/completions", "", half ? ASK_STREAM : ASK);
    wait_for(&script.held, 1);
    left(fd, half);
    play(START, DONE, 0, 0);
    answers(ask("POST", "/v1/chat/completions", "", ASK), 200, "stop"); /* the front is well */
}

static void a_client_that_leaves_in_a_stream_is_noticed(void **state)
{
    (void)state;
    play(START, TOKEN, HOLD, DONE);
    set(&http()->tcp_listen, "127.0.0.1:0");
    http()->tcp_auth = false;
    open_front();
    int fd = client_tcp(house.node.http->doors[1].listen.port);
    client_write(fd, "POST", "/v1/chat/completions", "", ASK_STREAM);
    struct response r;
    client_head(fd, &r);
    assert_int_equal(r.status, 200);
    response_free(&r);
    wait_for(&script.held, 1);
    left(fd, false);
}

static void a_client_that_left_before_its_body_was_read_asks_nothing(void **state)
{
    (void)state;
    play(START, DONE, 0, 0);
    open_front();
    int fd = client_unix(unix_path);
    client_write(fd, "POST", "/v1/chat/completions", "", ASK);
    (void)shutdown(fd, SHUT_WR);
    struct response r;
    client_read(fd, &r);
    response_free(&r);
    (void)close(fd);
    pthread_mutex_lock(&script.lock);
    int answered = script.submitted - script.cancelled;
    pthread_mutex_unlock(&script.lock);
    assert_int_equal(answered, r.status == 200 ? 1 : 0);
}

static void a_client_that_does_not_read_is_cut_off(void **state)
{
    (void)state;
    play(START, FLOOD, HOLD, DONE); /* 25 MiB */
    open_front();
    int fd = client_unix(unix_path);
    client_write(fd, "POST", "/v1/chat/completions", "", ASK_STREAM);
    wait_for(&script.cancelled, 1);
    (void)close(fd);
}

static void a_client_that_reads_gets_it_all(void **state)
{
    (void)state;
    play(START, TOKEN, FLOOD, DONE);
    open_front();
    http()->idle_timeout_ms = 60000;
    struct response r = ask("POST", "/v1/chat/completions", "", "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}");
    /* 25 MiB of text are more than node.request_bytes_max: told as an error, not cut */
    answers(r, 500, "larger than");
    wait_for(&script.cancelled, 1);
}

static void the_front_ends_with_requests_running(void **state)
{
    (void)state;
    play(START, TOKEN, HOLD, DONE);
    open_front();
    int waiting = client_unix(unix_path), streaming = client_unix(unix_path), idle = client_unix(unix_path);
    client_write(waiting, "POST", "/v1/chat/completions", "", ASK);
    client_write(streaming, "POST", "/v1/chat/completions", "", ASK_STREAM);
    wait_for(&script.submitted, 2);
    close_front();
    assert_int_equal(script.cancelled, 2);
    (void)close(waiting);
    (void)close(streaming);
    (void)close(idle);
}

/* ---- bodies ---- */

static char *long_body(size_t len)
{
    char *body = malloc(len + 128);
    assert_non_null(body);
    int n = sprintf(body, "{\"messages\":[{\"role\":\"user\",\"content\":\"");
    memset(body + n, 'a', len);
    memcpy(body + (size_t)n + len, "\"}]}", 5);
    return body;
}

static void large_bodies_are_read_too_large_ones_are_not(void **state)
{
    (void)state;
    play(START, TOKEN, DONE, 0);
    http()->body_bytes_max = 1 << 20;
    open_front();
    char *fits = long_body(900000), *over = long_body(2 << 20), *bad = long_body(100000);
    answers(ask("POST", "/v1/chat/completions", "", fits), 200, "word ");
    bad[100010] = '"';
    answers(ask("POST", "/v1/chat/completions", "", bad), 400, "not valid JSON");
    int fd = client_unix(unix_path);
    client_write(fd, "POST", "/v1/chat/completions", "Expect: 100-continue\r\n", NULL);
    (void)close(fd);
    struct response r = ask("POST", "/v1/chat/completions", "", over);
    answers(r, 413, "\"code\":\"too_large\"");
    fd = client_unix(unix_path);
    client_write(fd, "POST", "/v1/chat/completions", "Transfer-Encoding: chunked\r\n", NULL);
    char head[32];
    int n = snprintf(head, sizeof head, "%zx\r\n", strlen(over));
    (void)client_send(fd, head, (size_t)n);
    (void)client_send(fd, over, strlen(over));
    client_read(fd, &r);
    answers(r, 413, "http.body_bytes_max");
    (void)close(fd);
    free(fits);
    free(over);
    free(bad);
}

static void a_client_may_leave_while_its_body_is_parsed(void **state)
{
    (void)state;
    play(START, DONE, 0, 0);
    open_front();
    char *body = long_body(3 << 20);
    for (int i = 0; i < 8; i++) {
        int fd = client_unix(unix_path);
        client_write(fd, "POST", "/v1/chat/completions", "", body);
        (void)close(fd);
    }
    answers(ask("POST", "/v1/chat/completions", "", ASK), 200, "stop");
    free(body);
}

/* ---- headers ---- */

static void headers_bind_the_request(void **state)
{
    (void)state;
    play(START, DONE, 0, 0);
    open_front();
    const char *headers = "x-rung-max-tier: region\r\nx-rung-privacy: device\r\nx-rung-deadline-ms: 2500\r\n"
                          "x-rung-conversation: c7\r\nIdempotency-Key: k1\r\n"
                          "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
    answers(ask("POST", "/v1/chat/completions", headers, ASK), 200, "");
    assert_int_equal(script.max_tier, TIER_REGION);
    assert_true(script.device_private);
    assert_int_equal(script.deadline_ms, 2500);
    assert_string_equal(script.conversation, "c7");
    assert_string_equal(script.idempotency, "k1");
    assert_string_equal(script.traceparent, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    answers(ask("POST", "/v1/chat/completions", "traceparent: 00-0-0-0\r\nx-request-id: {}\r\n", ASK), 200, "");
    assert_string_equal(script.traceparent, "");
}

static void bad_headers_are_named(void **state)
{
    (void)state;
    open_front();
    static const char *const BAD[][2] = {
        {"x-rung-max-tier: moon\r\n", "x-rung-max-tier is 'moon'; it should be edge, region or core"},
        {"x-rung-privacy: no\r\n", "x-rung-privacy is 'no'"},
        {"x-rung-deadline-ms: -1\r\n", "x-rung-deadline-ms is '-1'"},
        {"x-rung-deadline-ms: 99999999999999999999\r\n", "x-rung-deadline-ms"},
        {"x-rung-tier: edge\r\n", "x-rung-tier is not one of ours"},
        {"x-rung-conversation: a b\r\n", "x-rung-conversation"},
        {"x-rung-privacy: device\r\nx-rung-privacy: device\r\n", "given twice"},
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++)
        answers(ask("POST", "/v1/chat/completions", BAD[i][0], ASK), 400, BAD[i][1]);
    assert_int_equal(script.submitted, 0);
    assert_int_equal(metrics_read(house.node.metrics, METRIC_HTTP_REFUSED), sizeof BAD / sizeof *BAD);
}

/* ---- the other endpoints ---- */

static void the_small_endpoints_answer(void **state)
{
    (void)state;
    open_front();
    answers(ask("GET", "/v1/models", "", NULL), 200, "{\"object\":\"list\",\"data\":[{\"id\":\"auto\"");
    answers(ask("GET", "/models/org/m", "", NULL), 200, "{\"id\":\"org/m\",\"object\":\"model\"");
    answers(ask("GET", "/v1/models/x", "", NULL), 404, "model_not_found");
    answers(ask("GET", "/health", "", NULL), 200, "ok");
    answers(ask("GET", "/ready", "", NULL), 503, "false");
    answers(ask("GET", "/metrics", "", NULL), 200, "rung_http_requests_total 6");
    answers(ask("POST", "/v1/feedback", "", "{\"request_id\":\"r\"}"), 400, "score is missing");
    answers(ask("POST", "/v1/feedback", "", "{\"request_id\":\"r\",\"score\":1}"), 503, "keeps no log");
    struct response r = ask("GET", "/v1/chat/completions", "", NULL);
    header_is(&r, "Allow", "POST");
    answers(r, 405, "takes POST, not GET");
    answers(ask("DELETE", "/health", "", NULL), 405, "method_not_allowed");
    answers(ask("GET", "/v1/modelsx", "", NULL), 404, "not_found");
}

static void heads_are_bounded_in_size_and_time(void **state)
{
    (void)state;
    play(START, DONE, 0, 0);
    http()->idle_timeout_ms = 500;
    open_front();
    char *headers = malloc(65536);
    assert_non_null(headers);
    int n = sprintf(headers, "x-long: ");
    memset(headers + n, 'a', 4000);
    memcpy(headers + n + 4000, "\r\n", 3);
    answers(ask("POST", "/v1/chat/completions", headers, ASK), 200, "stop");
    memset(headers + n, 'a', 60000);
    memcpy(headers + n + 60000, "\r\n", 3);
    struct response r = ask("POST", "/v1/chat/completions", headers, ASK);
    assert_true(r.status == 431 || r.status == 0);
    response_free(&r);
    free(headers);
    int head = client_unix(unix_path), body = client_unix(unix_path); /* neither ever gets on */
    assert_true(client_send(head, "POST /v1/chat", 13));
    client_write(body, "POST", "/v1/chat/completions", "Content-Length: 10\r\n", NULL);
    assert_int_equal(client_byte(head), -1);
    client_read(body, &r);
    assert_int_not_equal(r.status, 200);
    response_free(&r);
    (void)close(head);
    (void)close(body);
}

static void what_is_not_http_harms_nothing(void **state)
{
    (void)state;
    play(START, DONE, 0, 0);
    open_front();
    static const char *const BAD[] = {"\x16\x03\x01\x02\x00\x01\x00\x01", "GET\r\n\r\n", "POST / HTTP/9.9\r\n\r\n",
                                      "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
                                      "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
                                      "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"};
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        int fd = client_unix(unix_path);
        (void)client_send(fd, BAD[i], strlen(BAD[i]));
        (void)shutdown(fd, SHUT_WR);
        struct response r;
        client_read(fd, &r);
        assert_true(r.status == 0 || r.status >= 400);
        response_free(&r);
        (void)close(fd);
    }
    answers(ask("POST", "/v1/chat/completions", "", ASK), 200, "stop");
}

/* ---- who may come in ---- */

static void write_file(const char *path, const char *content, mode_t mode)
{
    (void)unlink(path);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, mode);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, content, strlen(content)), (ssize_t)strlen(content));
    (void)close(fd);
}

static struct response ask_tcp(const char *method, const char *path, const char *headers, const char *body)
{
    int fd = client_tcp(house.node.http->doors[1].listen.port);
    struct response r = ask_on(fd, method, path, headers, body);
    (void)close(fd);
    return r;
}

static void tcp_wants_a_key(void **state)
{
    (void)state;
    play(START, DONE, 0, 0);
    write_file(keys_path, "# keys\nsecret-one ann\n\nsecret-two bob\nsecret-three\n", 0600);
    set(&http()->tcp_listen, "127.0.0.1:0");
    set(&http()->keys_file, keys_path);
    set(&http()->tcp_url_file, url_path);
    open_front();
    char url[64] = "";
    FILE *file = fopen(url_path, "r");
    assert_non_null(file);
    assert_non_null(fgets(url, sizeof url, file));
    (void)fclose(file);
    char expected[64];
    (void)snprintf(expected, sizeof expected, "http://127.0.0.1:%d\n", house.node.http->doors[1].listen.port);
    assert_string_equal(url, expected);

    struct response r = ask_tcp("POST", "/v1/chat/completions", "", ASK);
    header_is(&r, "WWW-Authenticate", "Bearer");
    answers(r, 401, "authentication_error");
    answers(ask_tcp("POST", "/v1/chat/completions", "Authorization: Bearer secret-on\r\n", ASK), 401, "invalid_api_key");
    answers(ask_tcp("GET", "/v1/models", "Authorization: Basic secret-one\r\n", NULL), 401, "key is wanted");
    answers(ask_tcp("GET", "/metrics", "", NULL), 401, "key");
    answers(ask_tcp("GET", "/health", "", NULL), 200, "ok");
    assert_int_equal(script.submitted, 0);
    answers(ask_tcp("POST", "/v1/chat/completions", "Authorization: bearer secret-two\r\n", ASK), 200, "");
    assert_string_equal(script.tenant, "bob");
    assert_string_equal(script.front, "http-tcp");
    answers(ask_tcp("POST", "/v1/chat/completions", "X-Api-Key: secret-one\r\n",
                    "{\"user\":\"eve\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}"), 200, "");
    assert_string_equal(script.tenant, "ann"); /* the key's, whatever the body says */
    answers(ask("POST", "/v1/chat/completions", "", "{\"user\":\"eve\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}"),
            200, "");
    assert_string_equal(script.tenant, "eve");
}

static void other_sites_pages_may_not_ask(void **state)
{
    (void)state;
    set(&http()->tcp_listen, "127.0.0.1:0");
    http()->tcp_auth = false;
    http()->origins.items[0] = text("https://app.example");
    http()->origins.count = 1;
    open_front();
    answers(ask("GET", "/v1/models", "Origin: https://evil.example\r\n", NULL), 403, "https://evil.example");
    answers(ask_tcp("GET", "/v1/models", "Origin: null\r\n", NULL), 403, "null");
    answers(ask_tcp("GET", "/v1/models", "Origin: http://localhost\r\n", NULL), 200, "auto");
    struct response r = ask_tcp("GET", "/v1/models", "Origin: https://app.example\r\n", NULL);
    header_is(&r, "Access-Control-Allow-Origin", "https://app.example");
    answers(r, 200, "auto");
    r = ask_tcp("OPTIONS", "/v1/chat/completions", "Origin: https://app.example\r\n", NULL);
    header_is(&r, "Access-Control-Allow-Methods", "GET, POST");
    answers(r, 204, "");
    int fd = client_tcp(house.node.http->doors[1].listen.port);
    const char *rebound = "GET /v1/models HTTP/1.1\r\nHost: evil.example:80\r\n\r\n";
    assert_true(client_send(fd, rebound, strlen(rebound)));
    client_read(fd, &r);
    answers(r, 403, "evil.example");
    (void)close(fd);
}

static void hosts_are_told_apart(void **state)
{
    (void)state;
    static const char *const GOOD[] = {"localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:8600", "[::1]", "[::1]:1", "10.0.0.5:1"};
    static const char *const BAD[] = {"", ":80", "localhost.evil", "evil", "[::1", "[::1]x", "[::2]", "127.0.0.2"};
    for (size_t i = 0; i < sizeof GOOD / sizeof *GOOD; i++) assert_true(http_host_allowed(GOOD[i], "10.0.0.5"));
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) assert_false(http_host_allowed(BAD[i], "10.0.0.5"));
}

static void uids_off_the_list_are_refused(void **state)
{
    (void)state;
    http()->uids.items[0] = text(getuid() == 4242 ? "4243" : "4242");
    http()->uids.count = 1;
    open_front();
    answers(ask("GET", "/health", "", NULL), 403, "http.unix.uids");
}

static void uids_on_the_list_are_let_in(void **state)
{
    (void)state;
    char own[16];
    (void)snprintf(own, sizeof own, "%u", (unsigned)getuid());
    http()->uids.items[0] = text(own);
    http()->uids.count = 1;
    open_front();
    answers(ask("GET", "/health", "", NULL), 200, "ok");
}

static void no_front(enum err_code code, const char *says)
{
    struct err e = {0};
    assert_int_equal(http_front_new(&house.node.http, &house.node, &e), code);
    assert_null(house.node.http);
    has(e.msg, says);
}

static void a_stale_socket_is_replaced_a_live_one_is_not(void **state)
{
    (void)state;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", unix_path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 1), 0);
    no_front(ERR_IO, "another process listens");
    (void)close(fd); /* its file stays */
    http()->unix_mode = 0600;
    open_front();
    struct stat st;
    assert_int_equal(stat(unix_path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    answers(ask("GET", "/health", "", NULL), 200, "ok");
    close_front();
    assert_int_not_equal(access(unix_path, F_OK), 0); /* taken away at the end */
    write_file(unix_path, "precious", 0600);
    no_front(ERR_IO, "is not a socket");
    assert_int_equal(access(unix_path, F_OK), 0);
    (void)unlink(unix_path);
}

static void unsafe_settings_are_refused(void **state)
{
    (void)state;
    set(&http()->tcp_listen, "0.0.0.0:0");
    http()->tcp_auth = false;
    no_front(ERR_INVALID, "not a loopback address");
    http()->tcp_auth = true;
    set(&http()->keys_file, NULL);
    no_front(ERR_INVALID, "keys_file");
    set(&http()->keys_file, keys_path);
    write_file(keys_path, "secret-one ann\n", 0644);
    (void)chmod(keys_path, 0644);
    no_front(ERR_FORBIDDEN, "0600");
    write_file(keys_path, "short ann\n", 0600);
    no_front(ERR_SYNTAX, ":1: a key of 5 characters");
    write_file(keys_path, "# none\n", 0600);
    no_front(ERR_INVALID, "holds no key");
    write_file(keys_path, "secret-one ann\n", 0600);
    set(&http()->tcp_listen, "127.0.0.1");
    no_front(ERR_INVALID, "ADDRESS:PORT");
    http()->uids.items[0] = text("no-such-user-here");
    http()->uids.count = 1;
    no_front(ERR_INVALID, "no-such-user-here");
}

int main(void)
{
    textlog_setup(TEXTLOG_ERROR, NULL);
    (void)snprintf(folder, sizeof folder, "/tmp/rung-http-XXXXXX");
    if (!mkdtemp(folder)) return 1;
    (void)snprintf(unix_path, sizeof unix_path, "%s/sock", folder);
    (void)snprintf(keys_path, sizeof keys_path, "%s/keys", folder);
    (void)snprintf(url_path, sizeof url_path, "%s/url", folder);
    static int half;
#define TEST(f) cmocka_unit_test_setup_teardown(f, prepare, finish)
    const struct CMUnitTest tests[] = {
        TEST(a_chat_is_answered_whole),
        TEST(a_chat_is_streamed),
        TEST(one_connection_serves_many_requests),
        TEST(errors_before_the_first_token_have_their_status),
        TEST(an_error_in_a_stream_is_an_event_and_the_end),
        TEST(a_silent_stream_gets_comments),
        TEST(heads_are_bounded_in_size_and_time),
        TEST(a_client_that_leaves_while_it_waits_is_noticed),
        cmocka_unit_test_prestate_setup_teardown(a_client_that_leaves_while_it_waits_is_noticed, prepare, finish, &half),
        TEST(a_client_that_leaves_in_a_stream_is_noticed),
        TEST(a_client_that_left_before_its_body_was_read_asks_nothing),
        TEST(a_client_that_does_not_read_is_cut_off),
        TEST(a_client_that_reads_gets_it_all),
        TEST(the_front_ends_with_requests_running),
        TEST(large_bodies_are_read_too_large_ones_are_not),
        TEST(a_client_may_leave_while_its_body_is_parsed),
        TEST(headers_bind_the_request),
        TEST(bad_headers_are_named),
        TEST(the_small_endpoints_answer),
        TEST(what_is_not_http_harms_nothing),
        TEST(tcp_wants_a_key),
        TEST(other_sites_pages_may_not_ask),
        TEST(hosts_are_told_apart),
        TEST(uids_off_the_list_are_refused),
        TEST(uids_on_the_list_are_let_in),
        TEST(a_stale_socket_is_replaced_a_live_one_is_not),
        TEST(unsafe_settings_are_refused),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    (void)unlink(keys_path);
    (void)unlink(unix_path);
    (void)rmdir(folder);
    return failed;
}
