/* The request path with scripted backends: no sockets, no models, the real loop, table, policy and health. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "node/node.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ASKED_MAX = 8, BACKENDS_MAX = 4 };

struct asked { /* what one client saw */
    struct world *world;
    char text[256], reason[32], backend[64], error[240], finish[16];
    int starts, tokens, dones, errors, hops;
    enum err_code code;
    enum tier tier;
    bool retryable, degraded;
    int64_t completion_tokens, retry_after_ms;
    uint64_t handle;
};
struct world {
    struct node node;
    struct config_backend backends[BACKENDS_MAX];
    int backend_count;
    struct asked asked[ASKED_MAX];
    int asked_count, ended;
    struct loop_timer guard, later;
};

static void ended(struct world *w)
{
    if (++w->ended == w->asked_count) loop_stop(w->node.loop);
}

static void on_start(void *ctx, const struct msg_start *start)
{
    struct asked *a = ctx;
    a->starts++;
    (void)snprintf(a->reason, sizeof a->reason, "%s", start->reason);
    (void)snprintf(a->backend, sizeof a->backend, "%s", start->backend);
}

static void on_token(void *ctx, const struct msg_token *token)
{
    struct asked *a = ctx;
    assert_int_equal(a->starts, 1); /* headers before text */
    assert_int_equal(token->index, a->tokens);
    a->tokens++;
    strncat(a->text, token->text, token->text_len);
}

static void on_done(void *ctx, const struct msg_done *done)
{
    struct asked *a = ctx;
    a->dones++;
    a->tier = done->tier;
    a->hops = done->hop_count;
    a->degraded = done->degraded;
    a->completion_tokens = done->completion_tokens;
    (void)snprintf(a->finish, sizeof a->finish, "%s", done->finish[0]);
    ended(a->world);
}

static void on_error(void *ctx, const struct msg_error *error)
{
    struct asked *a = ctx;
    a->errors++;
    a->code = error->code;
    a->retryable = error->retryable;
    a->retry_after_ms = error->retry_after_ms;
    (void)snprintf(a->error, sizeof a->error, "%s", error->message);
    ended(a->world);
}

static void too_long(void *ctx)
{
    (void)ctx;
    fail_msg("the scenario did not end within 10 s");
}

static struct world *world_new(enum tier tier)
{
    struct world *w = calloc(1, sizeof *w);
    struct node *node = &w->node;
    assert_int_equal(config_default(&node->config, tier, NULL), ERR_OK);
    assert_int_equal(loop_new(&node->loop, NULL), ERR_OK);
    node->metrics = metrics_new();
    node->policy = node->config->policy;
    node->policy.explore = 0;
    assert_int_equal(request_table_new(node, NULL), ERR_OK);
    return w;
}

/* A scripted backend; `fail_after` -1: never. */
static struct backend *world_backend(struct world *w, const char *name, enum tier tier, const char *text, int fail_after)
{
    struct config_backend *c = &w->backends[w->backend_count++];
    *c = (struct config_backend){.name = (char *)(uintptr_t)name, .type = CONFIG_SCRIPTED, .tier = tier, .weight = 1, .order = w->backend_count,
                                 .slots = 8, .script_text = (char *)(uintptr_t)text, .script_fail_after = fail_after};
    struct backend *b = NULL;
    assert_int_equal(backend_scripted_new(&b, &w->node, c, NULL), ERR_OK);
    node_backend_add(&w->node, b);
    return b;
}

static struct msg_submit *submit_new(double p_edge, double p_region)
{
    static const struct msg_message MESSAGES[] = {{.role = "user", .content = "What is 17 + 25?"}};
    struct msg_submit *s = malloc(sizeof *s);
    msg_submit_init(s);
    s->id = "0123456789abcdef";
    s->model = "auto";
    s->messages = MESSAGES;
    s->message_count = 1;
    s->stream = true;
    s->p[TIER_EDGE] = p_edge;
    s->p[TIER_REGION] = p_region;
    s->p[TIER_CORE] = 0.99;
    return s;
}

static struct asked *ask(struct world *w, struct msg_submit *submit)
{
    struct asked *a = &w->asked[w->asked_count++];
    a->world = w;
    const struct sink sink = {a, on_start, NULL, on_token, on_done, on_error};
    a->handle = request_submit(&w->node, submit, &sink, "test");
    assert_int_not_equal(a->handle, 0);
    return a;
}

static void world_run(struct world *w)
{
    loop_timer_start(w->node.loop, &w->guard, 10000, too_long, w);
    loop_run(w->node.loop, NULL, NULL);
    assert_int_equal(request_count(&w->node), 0);
}

static void world_free(struct world *w)
{
    struct node *node = &w->node;
    loop_timer_stop(node->loop, &w->guard);
    loop_timer_stop(node->loop, &w->later);
    while (node->backends) node_backend_remove(node, node->backends);
    request_table_free(node);
    metrics_free(node->metrics);
    loop_free(node->loop);
    config_free(node->config);
    free(w);
}

static void an_easy_prompt_is_answered_by_the_edge(void **state)
{
    (void)state;
    struct world *w = world_new(TIER_EDGE);
    world_backend(w, "device", TIER_EDGE, "forty two", -1);
    world_backend(w, "region", TIER_REGION, "not asked", -1);
    struct asked *a = ask(w, submit_new(0.99, 0.99));
    world_run(w);
    assert_string_equal(a->text, "forty two");
    assert_int_equal(a->tier, TIER_EDGE);
    assert_string_equal(a->reason, "confident");
    assert_int_equal(a->completion_tokens, 2);
    assert_int_equal(a->dones, 1);
    world_free(w);
}

static void a_hard_prompt_goes_to_core(void **state)
{
    (void)state;
    struct world *w = world_new(TIER_EDGE);
    world_backend(w, "device", TIER_EDGE, "no", -1);
    world_backend(w, "region", TIER_REGION, "no", -1);
    world_backend(w, "core", TIER_CORE, "forty two", -1);
    struct asked *a = ask(w, submit_new(0.01, 0.02));
    world_run(w);
    assert_string_equal(a->backend, "core");
    assert_string_equal(a->reason, "hard");
    world_free(w);
}

static void a_stream_goes_on_from_another_backend_with_each_token_once(void **state)
{
    (void)state;
    struct world *w = world_new(TIER_REGION);
    world_backend(w, "worker-1", TIER_REGION, "one two three four", 2);
    world_backend(w, "worker-2", TIER_REGION, "one two three four", -1);
    struct asked *a = ask(w, submit_new(0.01, 0.99));
    world_run(w);
    assert_string_equal(a->text, "one two three four");
    assert_int_equal(a->dones, 1);
    assert_int_equal(a->hops, 2);
    assert_string_equal(a->backend, "worker-1"); /* the first that answered */
    assert_int_equal(a->completion_tokens, 4);
    assert_int_equal(metrics_read(w->node.metrics, METRIC_FAILOVERS), 1);
    world_free(w);
}

static void a_failure_before_the_first_token_is_not_seen(void **state)
{
    (void)state;
    struct world *w = world_new(TIER_REGION);
    world_backend(w, "worker-1", TIER_REGION, "never", 0);
    world_backend(w, "core", TIER_CORE, "from above", -1);
    struct asked *a = ask(w, submit_new(0.01, 0.99));
    world_run(w);
    assert_string_equal(a->text, "from above");
    assert_int_equal(a->tier, TIER_CORE);
    assert_int_equal(a->errors, 0);
    world_free(w);
}

static void when_nobody_can_go_on_the_client_is_told(void **state)
{
    (void)state;
    struct world *w = world_new(TIER_REGION);
    world_backend(w, "worker-1", TIER_REGION, "one two three", 2);
    struct asked *a = ask(w, submit_new(0.01, 0.99));
    world_run(w);
    assert_string_equal(a->text, "one two");
    assert_int_equal(a->errors, 1);
    assert_int_equal(a->dones, 0);
    assert_int_equal(a->code, ERR_UPSTREAM);
    assert_false(a->retryable); /* our own fallbacks are spent */
    world_free(w);
}

static void with_every_higher_tier_gone_the_edge_answers_and_says_so(void **state)
{
    (void)state;
    struct world *w = world_new(TIER_EDGE);
    world_backend(w, "device", TIER_EDGE, "my best", -1);
    world_backend(w, "region", TIER_REGION, "x", -1)->health = BACKEND_DOWN;
    struct asked *a = ask(w, submit_new(0.01, 0.99));
    world_run(w);
    assert_string_equal(a->text, "my best");
    assert_true(a->degraded);
    assert_string_equal(a->reason, "degraded");
    world_free(w);
}

static void a_tier_asked_for_by_name_that_is_gone_is_unavailable(void **state)
{
    (void)state;
    struct world *w = world_new(TIER_EDGE);
    world_backend(w, "device", TIER_EDGE, "x", -1);
    world_backend(w, "core", TIER_CORE, "x", -1)->health = BACKEND_DOWN;
    struct msg_submit *s = submit_new(0.9, 0.9), *unknown = submit_new(0.9, 0.9);
    s->model = "core";
    unknown->model = "no-such-model";
    w->node.backends->health = BACKEND_UP;
    struct asked *a = ask(w, s), *b = ask(w, unknown);
    world_run(w);
    assert_int_equal(a->code, ERR_UNAVAILABLE);
    assert_int_equal(b->code, ERR_UNAVAILABLE); /* the one that is down might have it */
    world_free(w);
}

static void an_unknown_model_is_not_found_when_everybody_is_there(void **state)
{
    (void)state;
    struct world *w = world_new(TIER_EDGE);
    world_backend(w, "device", TIER_EDGE, "x", -1);
    struct msg_submit *s = submit_new(0.9, 0.9);
    s->model = "no-such-model";
    struct asked *a = ask(w, s);
    world_run(w);
    assert_int_equal(a->code, ERR_NOT_FOUND);
    world_free(w);
}

static void past_the_limit_a_request_is_refused_with_a_time_to_wait(void **state)
{
    (void)state;
    struct world *w = world_new(TIER_EDGE);
    w->node.config->requests_max = 1;
    world_backend(w, "device", TIER_EDGE, "slowly said", -1);
    w->backends[0].script_delay_ms = 20;
    struct asked *a = ask(w, submit_new(0.99, 0.99)), *b = ask(w, submit_new(0.99, 0.99));
    world_run(w);
    assert_int_equal(a->dones + b->dones, 1);
    struct asked *refused = a->dones ? b : a;
    assert_int_equal(refused->code, ERR_FULL);
    assert_true(refused->retryable);
    assert_true(refused->retry_after_ms > 0);
    world_free(w);
}

static void with_every_slot_taken_a_request_waits_its_turn(void **state)
{
    (void)state;
    struct world *w = world_new(TIER_REGION);
    world_backend(w, "worker", TIER_REGION, "one two", -1)->slots = 1;
    w->backends[0].script_delay_ms = 2;
    struct asked *a[3];
    for (int i = 0; i < 3; i++) a[i] = ask(w, submit_new(0.01, 0.99));
    world_run(w);
    for (int i = 0; i < 3; i++) assert_string_equal(a[i]->text, "one two");
    world_free(w);
}

static void on_leave(void *ctx)
{
    struct world *w = ctx;
    request_cancel(&w->node, w->asked[0].handle);
    loop_stop(w->node.loop);
}

static void a_client_that_leaves_hears_nothing_more_and_its_slot_is_free(void **state)
{
    (void)state;
    struct world *w = world_new(TIER_EDGE);
    struct backend *device = world_backend(w, "device", TIER_EDGE, "one two three", -1);
    w->backends[0].script_delay_ms = 5;
    struct asked *a = ask(w, submit_new(0.99, 0.99));
    loop_timer_start(w->node.loop, &w->later, 7, on_leave, w);
    world_run(w);
    assert_int_equal(a->dones + a->errors, 0);
    assert_int_equal(device->running, 0);
    assert_int_equal(metrics_read(w->node.metrics, METRIC_REQUESTS_CANCELLED), 1);
    world_free(w);
}

static void a_deadline_ends_a_request(void **state)
{
    (void)state;
    struct world *w = world_new(TIER_EDGE);
    world_backend(w, "device", TIER_EDGE, "one two three", -1);
    w->backends[0].script_delay_ms = 500;
    struct msg_submit *s = submit_new(0.99, 0.99);
    s->deadline_ms = 20;
    struct asked *a = ask(w, s);
    world_run(w);
    assert_int_equal(a->code, ERR_TIMEOUT);
    world_free(w);
}

static void a_private_request_stays_on_the_device(void **state)
{
    (void)state;
    struct world *w = world_new(TIER_EDGE);
    world_backend(w, "device", TIER_EDGE, "at home", -1);
    world_backend(w, "core", TIER_CORE, "x", -1);
    struct msg_submit *s = submit_new(0.01, 0.01);
    s->device_private = true;
    struct asked *a = ask(w, s);
    world_run(w);
    assert_string_equal(a->text, "at home");
    assert_string_equal(a->reason, "private");
    world_free(w);
}

static void failures_in_a_row_open_the_breaker_but_a_clients_fault_does_not(void **state)
{
    (void)state;
    struct world *w = world_new(TIER_REGION);
    struct backend *b = world_backend(w, "worker", TIER_REGION, "x", -1);
    for (int i = 0; i < 50; i++) backend_outcome(&w->node, b, ERR_INVALID, 0, 0, 0);
    assert_true(backend_ready(&w->node, b));
    for (int i = 0; i < w->node.config->breaker_failures; i++) backend_outcome(&w->node, b, ERR_UPSTREAM, 0, 0, 0);
    assert_false(backend_ready(&w->node, b));
    assert_int_equal(metrics_read(w->node.metrics, METRIC_BREAKER_OPENED), 1);
    backend_outcome(&w->node, b, ERR_OK, 1, 1, 0);
    assert_true(backend_ready(&w->node, b));
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_easy_prompt_is_answered_by_the_edge),
        cmocka_unit_test(a_hard_prompt_goes_to_core),
        cmocka_unit_test(a_stream_goes_on_from_another_backend_with_each_token_once),
        cmocka_unit_test(a_failure_before_the_first_token_is_not_seen),
        cmocka_unit_test(when_nobody_can_go_on_the_client_is_told),
        cmocka_unit_test(with_every_higher_tier_gone_the_edge_answers_and_says_so),
        cmocka_unit_test(a_tier_asked_for_by_name_that_is_gone_is_unavailable),
        cmocka_unit_test(an_unknown_model_is_not_found_when_everybody_is_there),
        cmocka_unit_test(past_the_limit_a_request_is_refused_with_a_time_to_wait),
        cmocka_unit_test(with_every_slot_taken_a_request_waits_its_turn),
        cmocka_unit_test(a_client_that_leaves_hears_nothing_more_and_its_slot_is_free),
        cmocka_unit_test(a_deadline_ends_a_request),
        cmocka_unit_test(a_private_request_stays_on_the_device),
        cmocka_unit_test(failures_in_a_row_open_the_breaker_but_a_clients_fault_does_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
