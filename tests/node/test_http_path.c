/* The HTTP front on the real request path: scripted backends, the real table, policy, health and loop. */
#include "node/http.h"

#include "base/textlog.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>

#include "test_http_client.h"

static char folder[64], unix_path[96];
static struct {
    struct node node;
    struct config_backend backends[3];
    int count;
    pthread_t thread;
} house;

/* Of the whole node only this part is not real: the node's own main file wants every kind of backend linked. */
bool node_health_json(const struct node *node, bool ready, struct buf *out)
{
    (void)node;
    buf_adds(out, "{}");
    return !ready;
}

static int prepare(void **state)
{
    (void)state;
    struct node *node = &house.node;
    memset(&house, 0, sizeof house);
    assert_int_equal(config_default(&node->config, TIER_EDGE, NULL), ERR_OK);
    free(node->config->http.unix_path);
    node->config->http.unix_path = strdup(unix_path);
    assert_int_equal(loop_new(&node->loop, NULL), ERR_OK);
    node->metrics = metrics_new();
    node->policy = node->config->policy;
    node->policy.explore = 0;
    assert_int_equal(request_table_new(node, NULL), ERR_OK);
    return 0;
}

static struct config_backend *add_backend(const char *name, enum tier tier, const char *says)
{
    struct config_backend *c = &house.backends[house.count++];
    *c = (struct config_backend){.name = (char *)(uintptr_t)name, .type = CONFIG_SCRIPTED, .tier = tier, .weight = 1,
                                 .order = house.count, .slots = 8, .script_text = (char *)(uintptr_t)says,
                                 .script_fail_after = -1};
    return c;
}

static void *run_loop(void *ctx)
{
    (void)ctx;
    loop_run(house.node.loop, NULL, NULL);
    return NULL;
}

static void open_house(void)
{
    for (int i = 0; i < house.count; i++) {
        struct backend *b = NULL;
        assert_int_equal(backend_scripted_new(&b, &house.node, &house.backends[i], NULL), ERR_OK);
        node_backend_add(&house.node, b);
    }
    struct err e = {0};
    if (http_front_new(&house.node.http, &house.node, &e) != ERR_OK) fail_msg("%s", e.msg);
    assert_int_equal(pthread_create(&house.thread, NULL, run_loop, NULL), 0);
}

static void stop_loop(void *ctx, void *arg)
{
    (void)arg;
    loop_stop(ctx);
}

static int finish(void **state)
{
    (void)state;
    assert_true(loop_post(house.node.loop, stop_loop, house.node.loop, NULL));
    (void)pthread_join(house.thread, NULL);
    http_front_free(house.node.http);
    assert_int_equal(request_count(&house.node), 0); /* whoever left took their work along */
    while (house.node.backends) node_backend_remove(&house.node, house.node.backends);
    request_table_free(&house.node);
    loop_free(house.node.loop);
    metrics_free(house.node.metrics);
    config_free(house.node.config);
    return 0;
}

static void answers(const char *path, const char *headers, const char *body, int status, const char *part)
{
    int fd = client_unix(unix_path);
    struct response r;
    client_write(fd, body ? "POST" : "GET", path, headers, body);
    client_read(fd, &r);
    (void)close(fd);
    if (r.status != status || !strstr(r.body, part)) fail_msg("not %d \"%s\" but %d: %s", status, part, r.status, r.body);
    assert_true(r.whole);
    response_free(&r);
}

#define CHAT "/v1/chat/completions"
#define BODY(more) "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]" more "}"

static void the_edge_answers(void **state)
{
    (void)state;
    add_backend("e", TIER_EDGE, "hello from here");
    open_house();
    answers(CHAT, "", BODY(""), 200, "\"content\":\"hello from here\"");
    answers(CHAT, "", BODY(",\"stream\":true"), 200, "data: [DONE]\n\n");
    answers(CHAT, "", BODY(",\"model\":\"edge\""), 200, "\"tier\":\"edge\",\"backend\":\"e\"");
    answers("/v1/completions", "", "{\"prompt\":\"hi\",\"echo\":true}", 200, "\"text\":\"hihello from here\"");
    answers(CHAT, "", BODY(",\"model\":\"nobody\""), 404, "model_not_found");
    answers("/metrics", "", NULL, 200, "rung_requests_total 5");
}

static void many_at_once_get_their_own_answers(void **state)
{
    (void)state;
    add_backend("e", TIER_EDGE, "one two three")->script_delay_ms = 1;
    house.backends[0].slots = 64;
    open_house();
    int fds[32];
    for (int i = 0; i < 32; i++) {
        fds[i] = client_unix(unix_path);
        client_write(fds[i], "POST", CHAT, "", i % 2 ? BODY("") : BODY(",\"stream\":true"));
    }
    for (int i = 0; i < 32; i++) {
        struct response r;
        client_read(fds[i], &r);
        assert_int_equal(r.status, 200);
        assert_true(r.whole);
        assert_non_null(strstr(r.body, i % 2 ? "\"content\":\"one two three\"" : "[DONE]"));
        response_free(&r);
        (void)close(fds[i]);
    }
}

static void a_stream_that_breaks_ends_in_an_event(void **state)
{
    (void)state;
    add_backend("e", TIER_EDGE, "one two three")->script_fail_after = 2;
    open_house();
    answers(CHAT, "", BODY(",\"stream\":true,\"model\":\"edge\""), 200, "event: error\n");
}

static void what_breaks_before_the_first_token_has_its_status(void **state)
{
    (void)state;
    add_backend("e", TIER_EDGE, "one two three")->script_fail_after = 0;
    open_house();
    answers(CHAT, "", BODY(",\"stream\":true,\"model\":\"edge\""), 502, "\"error\":{");
}

static void a_client_that_leaves_frees_its_slot(void **state)
{
    (void)state;
    add_backend("e", TIER_EDGE, "slow words come here")->script_delay_ms = 20000;
    house.backends[0].slots = 1;
    open_house();
    for (int i = 0; i < 3; i++) {
        int fd = client_unix(unix_path);
        client_write(fd, "POST", CHAT, "", BODY(",\"stream\":true"));
        (void)close(fd);
    }
    for (int tries = 0;; tries++) { /* until the node says so */
        int fd = client_unix(unix_path);
        struct response r;
        client_write(fd, "GET", "/metrics", "", NULL);
        client_read(fd, &r);
        (void)close(fd);
        bool idle = strstr(r.body, "rung_requests_running 0\n") != NULL;
        response_free(&r);
        if (idle) break;
        assert_true(tries < 1000);
    }
}

int main(void)
{
    textlog_setup(TEXTLOG_ERROR, NULL);
    (void)snprintf(folder, sizeof folder, "/tmp/rung-path-XXXXXX");
    if (!mkdtemp(folder)) return 1;
    (void)snprintf(unix_path, sizeof unix_path, "%s/sock", folder);
#define TEST(f) cmocka_unit_test_setup_teardown(f, prepare, finish)
    const struct CMUnitTest tests[] = {
        TEST(the_edge_answers),
        TEST(many_at_once_get_their_own_answers),
        TEST(a_stream_that_breaks_ends_in_an_event),
        TEST(what_breaks_before_the_first_token_has_its_status),
        TEST(a_client_that_leaves_frees_its_slot),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    (void)rmdir(folder);
    return failed;
}
