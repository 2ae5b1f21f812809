/* The upstream backend against tests/system/fake_upstream.py: a real service on a real socket that misbehaves by model
 * name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/textlog.h"
#include "node/node.h"
#include "node/upstream.h"

#include <curl/curl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- the service ---- */

struct service {
    pid_t pid;
    int keep; /* its stdin: it ends when this is closed */
    char url[256];
};

static struct service service_start(char *const extra[])
{
    int in[2], out[2];
    assert_int_equal(pipe(in) | pipe(out), 0);
    char *argv[16] = {(char *)"python3", (char *)SOURCE_DIR "/tests/system/fake_upstream.py"};
    for (int i = 0; extra && extra[i]; i++) argv[2 + i] = extra[i];
    struct service s = {.pid = fork(), .keep = in[1]};
    if (s.pid == 0) {
        (void)dup2(in[0], 0);
        (void)dup2(out[1], 1);
        for (int fd = 3; fd < 64; fd++) (void)close(fd);
        sigset_t none;
        sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        (void)execvp(argv[0], argv);
        _exit(127);
    }
    (void)close(in[0]);
    (void)close(out[1]);
    size_t used = 0;
    while (used < sizeof s.url - 1 && read(out[0], s.url + used, 1) == 1 && s.url[used] != '\n') used++;
    s.url[used] = '\0';
    (void)close(out[0]);
    if (!used) fail_msg("tests/system/fake_upstream.py did not start");
    return s;
}

static void service_stop(struct service *s)
{
    (void)close(s->keep);
    (void)kill(s->pid, SIGKILL);
    (void)waitpid(s->pid, NULL, 0);
}

static struct service common; /* one for all tests that need nothing special */

static size_t keep_bytes(char *data, size_t size, size_t count, void *ctx)
{
    return buf_add(ctx, data, size * count) == ERR_OK ? size * count : 0;
}

/* GET /stats. */
static void stats(const struct service *s, struct buf *out)
{
    char url[300];
    (void)snprintf(url, sizeof url, "%.*s/stats", (int)(strlen(s->url) - 3), s->url);
    CURL *easy = curl_easy_init();
    (void)curl_easy_setopt(easy, CURLOPT_URL, url);
    (void)curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, keep_bytes);
    (void)curl_easy_setopt(easy, CURLOPT_WRITEDATA, out);
    assert_int_equal(curl_easy_perform(easy), CURLE_OK);
    curl_easy_cleanup(easy);
}

static long stat_count(const struct service *s, const char *name)
{
    struct buf text = BUF_INIT(1 << 20);
    char key[64];
    stats(s, &text);
    (void)snprintf(key, sizeof key, "\"%s\": ", name);
    const char *at = strstr(text.data, key);
    long count = at ? strtol(at + strlen(key), NULL, 10) : -1;
    buf_release(&text);
    return count;
}

/* ---- a node of only a loop and this backend; what a call heard ---- */

struct heard {
    int starts, tokens, dones, errors;
    char model[64], text[4096], reasoning[256], tools[1024], finish[32];
    char message[256];
    enum err_code code;
    bool retryable;
    int64_t retry_after_ms, prompt, cached, completion, reasoning_tokens;
    double price, logprob;
    int64_t bytes;
};
struct fixture {
    struct node node;
    struct config_backend config;
    struct backend *backend;
    struct heard heard;
    struct loop_timer guard, step_timer;
    void (*step)(struct fixture *f); /* after each call's end, and at first; ends by loop_stop() */
    int count;                       /* of steps */
    uint64_t calls;
    bool cancel_at_token, remove_at_end, late, inside;
    long broken_before;
    struct msg_submit submit;
    struct msg_message message;
};

static void on_step(void *ctx)
{
    struct fixture *f = ctx;
    f->count++;
    f->step(f);
}

static void soon(struct fixture *f)
{
    loop_timer_start(f->node.loop, &f->step_timer, 0, on_step, f);
}

static void heard_start(void *ctx, const struct msg_start *start)
{
    struct fixture *f = ctx;
    assert_false(f->inside);
    assert_int_equal(f->heard.tokens + f->heard.starts, 0);
    f->heard.starts++;
    (void)snprintf(f->heard.model, sizeof f->heard.model, "%s", start->model);
    assert_string_equal(start->backend, "up");
    assert_int_equal(start->tier, TIER_CORE);
}

static void heard_token(void *ctx, const struct msg_token *token)
{
    struct fixture *f = ctx;
    struct heard *h = &f->heard;
    assert_int_equal(h->starts, 1);
    assert_int_equal(h->dones + h->errors, 0);
    char *into = token->channel == CHANNEL_REASONING ? h->reasoning : token->channel == CHANNEL_TOOL ? h->tools : h->text;
    size_t room = token->channel == CHANNEL_REASONING ? sizeof h->reasoning : sizeof h->tools;
    if (strlen(into) + token->text_len < room) strncat(into, token->text, token->text_len);
    if (token->has_logprob) h->logprob += token->logprob;
    h->tokens++;
    h->bytes += (int64_t)token->text_len;
    if (!f->cancel_at_token) return;
    f->backend->ops->cancel(f->backend, f->calls);
    soon(f);
}

static void heard_done(void *ctx, const struct msg_done *done)
{
    struct fixture *f = ctx;
    struct heard *h = &f->heard;
    assert_int_equal(h->starts, 1);
    h->dones++;
    h->prompt = done->prompt_tokens;
    h->cached = done->cached_tokens;
    h->completion = done->completion_tokens;
    h->reasoning_tokens = done->reasoning_tokens;
    h->price = done->price_usd;
    (void)snprintf(h->finish, sizeof h->finish, "%s", done->finish[done->choices - 1]);
    soon(f);
}

static void heard_error(void *ctx, const struct msg_error *error)
{
    struct fixture *f = ctx;
    struct heard *h = &f->heard;
    assert_false(f->inside);
    h->errors++;
    h->code = error->code;
    h->retryable = error->retryable;
    h->retry_after_ms = error->retry_after_ms;
    (void)snprintf(h->message, sizeof h->message, "%s", error->message);
    if (f->remove_at_end) {
        f->backend->ops->free(f->backend);
        f->backend = NULL;
    }
    soon(f);
}

static enum err_code ask(struct fixture *f, struct err *e)
{
    const struct sink sink = {f, heard_start, NULL, heard_token, heard_done, heard_error};
    memset(&f->heard, 0, sizeof f->heard);
    f->inside = true;
    enum err_code code = f->backend->ops->submit(f->backend, ++f->calls, &f->submit, &sink, e);
    f->inside = false;
    return code;
}

static void begin(struct fixture *f, const char *url, const char *model)
{
    struct err e = {0};
    *f = (struct fixture){.config = {.name = (char *)"up", .type = CONFIG_UPSTREAM, .tier = TIER_CORE, .slots = 8, .weight = 1,
                                     .url = (char *)url, .model = (char *)model, .can_tools = true, .can_json = true,
                                     .can_parts = true, .first_token_ms = 10000, .stall_ms = 10000, .connect_ms = 3000,
                                     .price = {1, 2, 4}, .has_price = true}};
    f->message = (struct msg_message){.role = "user", .content = "Count to five."};
    msg_submit_init(&f->submit);
    f->submit.id = "req-1";
    f->submit.messages = &f->message;
    f->submit.message_count = 1;
    if (loop_new(&f->node.loop, &e) != ERR_OK || config_default(&f->node.config, TIER_CORE, &e) != ERR_OK) fail_msg("%s", e.msg);
}

static enum err_code open_backend(struct fixture *f, struct err *e)
{
    return backend_upstream_new(&f->backend, &f->node, &f->config, e);
}

static void on_guard(void *ctx)
{
    struct fixture *f = ctx;
    f->late = true;
    loop_stop(f->node.loop);
}

static void run(struct fixture *f, void (*step)(struct fixture *f))
{
    struct err e = {0};
    if (!f->backend && open_backend(f, &e) != ERR_OK) fail_msg("%s", e.msg);
    f->step = step;
    soon(f);
    loop_timer_start(f->node.loop, &f->guard, 20000, on_guard, f);
    loop_run(f->node.loop, NULL, NULL);
    if (f->late) fail_msg("nothing was heard for 20 s");
}

static void end(struct fixture *f)
{
    if (f->backend) f->backend->ops->free(f->backend);
    msg_submit_release(&f->submit);
    config_free(f->node.config);
    loop_timer_stop(f->node.loop, &f->guard);
    loop_timer_stop(f->node.loop, &f->step_timer);
    loop_free(f->node.loop);
}

static void one_call(struct fixture *f)
{
    struct err e = {0};
    if (f->count > 1) loop_stop(f->node.loop);
    else if (ask(f, &e) != ERR_OK) fail_msg("%s", e.msg);
}

/* One call with the defaults; the fixture still to be ended. */
static void ask_once(struct fixture *f, const char *model)
{
    begin(f, common.url, model);
    run(f, one_call);
    assert_int_equal(f->heard.dones + f->heard.errors, 1);
    assert_int_equal(f->backend->slots_free, f->backend->slots);
}

/* ---- good answers ---- */

static void an_answer_streams_with_usage_and_price(void **state)
{
    (void)state;
    struct fixture f;
    ask_once(&f, "ok");
    assert_string_equal(f.heard.text, "one two three four five");
    assert_int_equal(f.heard.tokens, 5);
    assert_string_equal(f.heard.model, "ok");
    assert_string_equal(f.heard.finish, "stop");
    assert_int_equal(f.heard.prompt, 7);
    assert_int_equal(f.heard.cached, 3);
    assert_int_equal(f.heard.completion, 5);
    assert_true(f.heard.price > 16.9e-6 && f.heard.price < 17.1e-6); /* 7 × 1 + 5 × 2 a million */
    end(&f);
}

static void a_client_that_does_not_stream_is_served_from_a_stream_too(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, common.url, "ok");
    f.submit.stream = false;
    run(&f, one_call);
    assert_int_equal(f.heard.tokens, 5);
    end(&f);
}

static void shapes_that_services_send_are_all_understood(void **state)
{
    (void)state;
    static const struct {
        const char *model;
        int tokens;
        int64_t completion;
    } GOOD[] = {{"dribble", 5, 5}, {"noend", 5, 5},     {"nousage", 5, 5},
                {"body", 1, 5},    {"slow/5", 5, 5},    {"big/40000", 40000, 40000}};
    for (size_t i = 0; i < sizeof GOOD / sizeof GOOD[0]; i++) {
        struct fixture f;
        ask_once(&f, GOOD[i].model);
        if (f.heard.errors) fail_msg("%s: %s", GOOD[i].model, f.heard.message);
        assert_int_equal(f.heard.tokens, GOOD[i].tokens);
        assert_int_equal(f.heard.completion, GOOD[i].completion);
        if (GOOD[i].tokens <= 5) assert_string_equal(f.heard.text, "one two three four five");
        end(&f);
    }
}

static void reasoning_tools_and_logprobs_keep_their_channels(void **state)
{
    (void)state;
    struct fixture f;
    ask_once(&f, "reasoning");
    assert_string_equal(f.heard.reasoning, "Let me think.");
    assert_string_equal(f.heard.text, "one two three four five");
    assert_int_equal(f.heard.reasoning_tokens, 2);
    assert_true(f.heard.price > 24.9e-6 && f.heard.price < 25.1e-6); /* 7 × 1 + 5 × 2 + 2 × 4 */
    end(&f);
    ask_once(&f, "tools");
    assert_non_null(strstr(f.heard.tools, "weather"));
    assert_string_equal(f.heard.finish, "tool_calls");
    end(&f);
    ask_once(&f, "logprobs");
    assert_true(f.heard.logprob == -2.5);
    end(&f);
}

static void several_choices_are_answered_in_one_call(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, common.url, "ok");
    f.submit.params.n = 2;
    run(&f, one_call);
    assert_int_equal(f.heard.dones, 1);
    assert_int_equal(f.heard.tokens, 10);
    assert_int_equal(f.heard.completion, 10);
    end(&f);
}

static void a_missing_done_costs_no_more_than_the_stall_deadline(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, common.url, "open-end");
    f.config.stall_ms = 50;
    run(&f, one_call);
    assert_int_equal(f.heard.dones, 1);
    assert_string_equal(f.heard.text, "one two three four five");
    end(&f);
}

static void completions_and_unknown_fields_reach_the_service(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, common.url, "ok");
    f.submit.completion = true;
    f.submit.prompt = "Count";
    f.submit.message_count = 0;
    f.submit.extra_json = "{\"mystery\": [1, {\"a\": null}]}";
    f.submit.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    run(&f, one_call);
    assert_string_equal(f.heard.text, "one two three four five");
    struct buf text = BUF_INIT(1 << 20);
    stats(&common, &text);
    assert_non_null(strstr(text.data, "\"path\": \"/v1/completions\""));
    assert_non_null(strstr(text.data, "\"mystery\": [1, {\"a\": null}]"));
    assert_non_null(strstr(text.data, "\"prompt\": \"Count\""));
    assert_non_null(strstr(text.data, "\"x-request-id\": \"req-1\""));
    assert_non_null(strstr(text.data, "\"traceparent\": \"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\""));
    buf_release(&text);
    end(&f);
}

static void a_request_id_cannot_add_headers(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, common.url, "ok");
    f.submit.id = "a\r\nx-evil: 1";
    run(&f, one_call);
    assert_int_equal(f.heard.dones, 1);
    struct buf text = BUF_INIT(1 << 20);
    stats(&common, &text);
    assert_null(strstr(text.data, "evil"));
    buf_release(&text);
    end(&f);
}

static void an_answer_that_another_began_is_gone_on_with(void **state)
{
    (void)state;
    struct fixture f;
    struct err e = {0};
    struct msg_prefix prefix = {.content = "one two"};
    begin(&f, common.url, "ok");
    f.submit.prefixes = &prefix;
    f.submit.prefix_count = 1;
    assert_int_equal(open_backend(&f, &e), ERR_OK);
    assert_int_equal(ask(&f, &e), ERR_UNSUPPORTED); /* not where the service cannot */
    f.config.can_prefix = true;
    run(&f, one_call);
    assert_string_equal(f.heard.text, " three four five");
    end(&f);
}

/* ---- bad answers ---- */

static void failures_say_what_and_whether_another_may_try(void **state)
{
    (void)state;
    static const struct {
        const char *model;
        enum err_code code;
        const char *says, *text; /* shown before it failed */
    } BAD[] = {
        {"stall-first", ERR_TIMEOUT, "gave no first token within 150 ms", ""},
        {"mute", ERR_TIMEOUT, "gave no first token", ""},
        {"ping", ERR_TIMEOUT, "gave no first token", ""},
        {"stall/2", ERR_TIMEOUT, "fell silent for 150 ms", "one two"},
        {"cut/3", ERR_UPSTREAM, "broke off in mid-answer", "one two three"},
        {"cut-clean/2", ERR_UPSTREAM, "no finish_reason and no [DONE]", "one two"},
        {"empty", ERR_UPSTREAM, "without an answer", ""},
        {"full", ERR_FULL, "slow down", ""},
        {"quota", ERR_UPSTREAM, "account there is spent", ""},
        {"fail", ERR_UPSTREAM, "it is broken", ""},
        {"fail/503", ERR_UPSTREAM, "HTTP 503", ""},
        {"fail/504", ERR_TIMEOUT, "HTTP 504", ""},
        {"fail/404", ERR_UPSTREAM, "no such model or path", ""},
        {"fail/422", ERR_INVALID, "it is broken", ""},
        {"unauthorized", ERR_UPSTREAM, "refuses our API key", ""},
        {"context", ERR_CONTEXT, "maximum context length", ""},
        {"invalid", ERR_INVALID, "temperature must be", ""},
        {"redirect", ERR_UPSTREAM, "not followed", ""},
        {"garbage", ERR_UPSTREAM, "", ""},
        {"garbage-json", ERR_UPSTREAM, "not a JSON object", "one"},
        {"wrong-json", ERR_UPSTREAM, "choices", ""},
        {"html", ERR_UPSTREAM, "no event stream", ""},
        {"error-event", ERR_UPSTREAM, "the GPU is gone", "one two"},
        {"longline", ERR_UPSTREAM, "more than 1048576 bytes", ""},
        {"close", ERR_UPSTREAM, "broke off", ""},
        {"reset", ERR_UPSTREAM, "broke off", ""},
    };
    for (size_t i = 0; i < sizeof BAD / sizeof BAD[0]; i++) {
        struct fixture f;
        begin(&f, common.url, BAD[i].model);
        if (BAD[i].code == ERR_TIMEOUT) f.config.first_token_ms = f.config.stall_ms = 150;
        run(&f, one_call);
        if (f.heard.errors != 1) fail_msg("%s: no error", BAD[i].model);
        if (f.heard.code != BAD[i].code || !strstr(f.heard.message, BAD[i].says))
            fail_msg("%s: got %s '%s', want %s '%s'", BAD[i].model, err_name(f.heard.code), f.heard.message,
                     err_name(BAD[i].code), BAD[i].says);
        assert_int_equal(f.heard.retryable, err_retryable(BAD[i].code));
        assert_string_equal(f.heard.text, BAD[i].text);
        assert_int_equal(f.heard.starts, BAD[i].text[0] != '\0');
        assert_int_equal(f.backend->slots_free, f.backend->slots);
        end(&f);
    }
}

static void a_429_says_when_to_come_again(void **state)
{
    (void)state;
    static const struct {
        const char *model;
        int64_t least, most;
    } FULL[] = {{"full/7", 7000, 7000}, {"full-ms/1500", 1500, 1500}, {"full-date", 7000, 10000}, {"full-silent", 1000, 1000}};
    for (size_t i = 0; i < sizeof FULL / sizeof FULL[0]; i++) {
        struct fixture f;
        ask_once(&f, FULL[i].model);
        assert_int_equal(f.heard.code, ERR_FULL);
        assert_in_range(f.heard.retry_after_ms, FULL[i].least, FULL[i].most);
        end(&f);
    }
}

static void what_failed_before_it_began_is_tried_again(void **state)
{
    (void)state;
    struct fixture f;
    struct service s = service_start(NULL);
    begin(&f, s.url, "fail-once");
    f.config.retries_max = 1;
    run(&f, one_call);
    assert_string_equal(f.heard.text, "one two three four five");
    end(&f);
    begin(&f, s.url, "fail");
    f.config.retries_max = 2;
    long before = stat_count(&s, "requests");
    run(&f, one_call);
    assert_int_equal(f.heard.code, ERR_UPSTREAM);
    assert_int_equal(stat_count(&s, "requests") - before, 3);
    end(&f);
    begin(&f, s.url, "cut/1"); /* something was shown: never again */
    f.config.retries_max = 2;
    before = stat_count(&s, "requests");
    run(&f, one_call);
    assert_int_equal(f.heard.errors, 1);
    assert_int_equal(stat_count(&s, "requests") - before, 1);
    end(&f);
    service_stop(&s);
}

static void a_long_answer_may_take_longer_than_its_first_token(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, common.url, "slow/150");
    f.config.first_token_ms = 500;
    run(&f, one_call);
    assert_string_equal(f.heard.text, "one two three four five");
    end(&f);
}

static void the_deadline_of_a_request_bounds_the_wait(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, common.url, "mute");
    f.submit.deadline_ms = 60;
    run(&f, one_call);
    assert_int_equal(f.heard.code, ERR_TIMEOUT);
    assert_non_null(strstr(f.heard.message, "60 ms"));
    end(&f);
}

/* ---- cancelling and closing ---- */

static void cancelled_then_stats(struct fixture *f)
{
    struct err e = {0};
    if (f->count == 1) {
        assert_int_equal(ask(f, &e), ERR_OK);
    } else if (stat_count(&common, "broken") > f->broken_before) { /* the service noticed */
        loop_stop(f->node.loop);
    } else {
        soon(f);
    }
}

static void a_cancel_from_inside_a_token_cuts_the_transfer(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, common.url, "slow/20");
    f.cancel_at_token = true;
    f.broken_before = stat_count(&common, "broken");
    run(&f, cancelled_then_stats);
    assert_int_equal(f.heard.tokens, 1);
    assert_int_equal(f.heard.dones + f.heard.errors, 0);
    assert_int_equal(f.backend->slots_free, f.backend->slots);
    end(&f);
}

static void cancel_before_anything(struct fixture *f)
{
    struct err e = {0};
    if (f->count > 1) {
        loop_stop(f->node.loop);
        return;
    }
    assert_int_equal(ask(f, &e), ERR_OK);
    f->backend->ops->cancel(f->backend, f->calls);
    f->backend->ops->cancel(f->backend, f->calls); /* unknown by now */
    f->backend->ops->cancel(f->backend, 999);
    assert_int_equal(ask(f, &e), ERR_OK);
}

static void a_cancelled_call_says_nothing_more(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, common.url, "ok");
    run(&f, cancel_before_anything);
    assert_int_equal(f.heard.dones, 1);
    assert_int_equal(f.heard.starts, 1);
    end(&f);
}

static void a_backend_may_be_freed_in_its_last_callback(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, common.url, "cut/1");
    f.remove_at_end = true;
    run(&f, one_call);
    assert_int_equal(f.heard.errors, 1);
    assert_null(f.backend);
    end(&f);
}

static void two_running_then_stop(struct fixture *f)
{
    struct err e = {0};
    assert_int_equal(ask(f, &e), ERR_OK);
    if (f->count == 2) loop_stop(f->node.loop);
    else soon(f);
}

static void running_calls_end_with_the_backend(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, common.url, "slow/200");
    run(&f, two_running_then_stop);
    end(&f);
    assert_int_equal(f.heard.dones + f.heard.errors, 0);
}

static void ten_calls(struct fixture *f)
{
    struct err e = {0};
    if (f->backend->health == BACKEND_STARTING) { /* the probe's connection is to be free, however slow the machine is */
        f->count = 0;
        loop_timer_start(f->node.loop, &f->step_timer, 2, on_step, f);
        return;
    }
    if (f->count > 1) assert_int_equal(f->heard.dones, 1);
    if (f->count > 10) loop_stop(f->node.loop);
    else assert_int_equal(ask(f, &e), ERR_OK);
}

static void connections_are_kept_for_the_next_request(void **state)
{
    (void)state;
    struct fixture f;
    struct service s = service_start(NULL);
    begin(&f, s.url, "ok");
    run(&f, ten_calls);
    end(&f);
    assert_in_range(stat_count(&s, "connections"), 2, 3); /* one for the probe, one for the calls, one for /stats */
    assert_int_equal(stat_count(&s, "requests"), 10);
    service_stop(&s);
}

static void slots_bound_what_runs_at_once(void **state)
{
    (void)state;
    struct fixture f;
    struct err e = {0};
    begin(&f, common.url, "slow/50");
    f.config.slots = 2;
    f.config.can_tools = false;
    assert_int_equal(open_backend(&f, &e), ERR_OK);
    assert_int_equal(ask(&f, &e), ERR_OK);
    assert_int_equal(ask(&f, &e), ERR_OK);
    assert_int_equal(f.backend->slots_free, 0);
    assert_int_equal(ask(&f, &e), ERR_FULL);
    f.submit.has_tools = true;
    assert_int_equal(ask(&f, &e), ERR_UNSUPPORTED);
    assert_non_null(strstr(e.msg, "tools"));
    end(&f);
}

/* ---- health, keys, addresses ---- */

static void until_known(struct fixture *f)
{
    if (f->backend->health != BACKEND_STARTING) loop_stop(f->node.loop);
    else loop_timer_start(f->node.loop, &f->step_timer, 2, on_step, f);
}

static void until_up(struct fixture *f)
{
    if (f->backend->health == BACKEND_UP) loop_stop(f->node.loop);
    else loop_timer_start(f->node.loop, &f->step_timer, 2, on_step, f);
}

static void a_probe_finds_out_whether_it_is_up(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, common.url, "ok");
    run(&f, until_known);
    assert_int_equal(f.backend->health, BACKEND_UP);
    assert_string_equal(f.backend->trouble, "");
    end(&f);
    begin(&f, common.url, "nobody-knows-this");
    run(&f, until_known);
    assert_int_equal(f.backend->health, BACKEND_UP); /* some answer to names they do not list */
    assert_non_null(strstr(f.backend->trouble, "does not list model nobody-knows-this; it lists ok, slow"));
    end(&f);
    begin(&f, "http://127.0.0.1:1/v1", "ok");
    run(&f, until_known);
    assert_int_equal(f.backend->health, BACKEND_DOWN);
    assert_non_null(strstr(f.backend->trouble, "cannot be reached"));
    end(&f);
}

static void a_call_that_cannot_connect_says_so(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, "http://127.0.0.1:1/v1", "ok");
    run(&f, one_call);
    assert_int_equal(f.heard.code, ERR_UPSTREAM);
    assert_non_null(strstr(f.heard.message, "cannot be reached"));
    assert_int_equal(f.backend->health, BACKEND_DOWN);
    end(&f);
}

static struct service late_service;

static void start_it_late(struct fixture *f)
{
    if (f->backend->health == BACKEND_DOWN && !late_service.pid) {
        char *args[] = {(char *)"--unix", f->config.url + strlen("unix:"), NULL};
        char path[108];
        (void)snprintf(path, sizeof path, "%.*s", (int)(strlen(args[1]) - 4), args[1]); /* without ":/v1" */
        args[1] = path;
        late_service = service_start(args);
    }
    until_up(f);
}

static void a_service_on_a_unix_socket_is_taken_up_when_it_comes(void **state)
{
    (void)state;
    char url[128], path[64];
    struct fixture f;
    (void)snprintf(path, sizeof path, "/tmp/rung-test-%d.sock", (int)getpid());
    (void)snprintf(url, sizeof url, "unix:%s:/v1", path);
    begin(&f, url, "ok");
    run(&f, start_it_late);
    assert_int_equal(f.backend->health, BACKEND_UP);
    end(&f);
    begin(&f, url, "ok");
    run(&f, one_call);
    assert_string_equal(f.heard.text, "one two three four five");
    end(&f);
    service_stop(&late_service);
    (void)unlink(path);
}

static char *temporary(const char *text)
{
    static char path[64];
    (void)snprintf(path, sizeof path, "/tmp/rung-test-key-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    (void)close(fd);
    return path;
}

static void the_key_comes_from_a_file_or_the_environment(void **state)
{
    (void)state;
    char *args[] = {(char *)"--key", (char *)"sk-right", NULL};
    struct service s = service_start(args);
    struct fixture f;
    struct err e = {0};
    begin(&f, s.url, "ok");
    f.config.key_file = temporary(" sk-right\n");
    run(&f, one_call);
    assert_int_equal(f.heard.dones, 1);
    end(&f);
    (void)unlink(f.config.key_file);

    begin(&f, s.url, "ok");
    f.config.key_env = (char *)"RUNG_TEST_KEY";
    assert_int_equal(open_backend(&f, &e), ERR_INVALID);
    assert_non_null(strstr(e.msg, "RUNG_TEST_KEY is not set"));
    assert_int_equal(setenv("RUNG_TEST_KEY", "sk-wrong", 1), 0);
    run(&f, one_call);
    assert_int_equal(f.heard.code, ERR_UPSTREAM);
    assert_non_null(strstr(f.heard.message, "refuses our API key"));
    assert_null(strstr(f.heard.message, "sk-wrong"));
    end(&f);

    begin(&f, s.url, "ok");
    f.config.key_env = (char *)"RUNG_TEST_KEY";
    run(&f, until_known);
    assert_int_equal(f.backend->health, BACKEND_DOWN);
    assert_non_null(strstr(f.backend->trouble, "refuses our API key"));
    end(&f);

    begin(&f, s.url, "ok");
    f.config.key_file = temporary("two words\n");
    assert_int_equal(open_backend(&f, &e), ERR_INVALID);
    (void)unlink(f.config.key_file);
    f.config.key_file = (char *)"/nowhere/key";
    assert_int_equal(open_backend(&f, &e), ERR_IO);
    end(&f);
    service_stop(&s);
}

static bool make_certificate(const char *cert, const char *key)
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        (void)close(2);
        (void)execlp("openssl", "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
                     "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-out", cert, "-keyout", key, (char *)NULL);
        _exit(127);
    }
    return waitpid(pid, &status, 0) == pid && status == 0;
}

static void an_unknown_certificate_is_refused_and_a_trusted_one_taken(void **state)
{
    (void)state;
    char dir[] = "/tmp/rung-test-tls-XXXXXX", cert[64], key[64];
    assert_non_null(mkdtemp(dir));
    (void)snprintf(cert, sizeof cert, "%s/cert.pem", dir);
    (void)snprintf(key, sizeof key, "%s/key.pem", dir);
    if (!make_certificate(cert, key)) skip(); /* no openssl program here */
    char *args[] = {(char *)"--cert", cert, (char *)"--cert-key", key, NULL};
    struct service s = service_start(args);
    struct fixture f;
    begin(&f, s.url, "ok");
    run(&f, one_call);
    assert_int_equal(f.heard.code, ERR_UPSTREAM);
    assert_non_null(strstr(f.heard.message, "cannot be reached"));
    assert_non_null(strstr(f.heard.message, "certificate"));
    end(&f);
    begin(&f, s.url, "ok");
    f.config.ca_file = cert;
    run(&f, one_call);
    assert_string_equal(f.heard.text, "one two three four five");
    end(&f);
    service_stop(&s);
    (void)unlink(cert);
    (void)unlink(key);
    (void)rmdir(dir);
}

/* ---- pure parts ---- */

static int64_t retry_after(const char *line)
{
    return upstream_retry_after_ms(line, strlen(line));
}

static void retry_after_is_read_in_every_form_and_bounded(void **state)
{
    (void)state;
    assert_int_equal(retry_after("Retry-After: 3\r\n"), 3000);
    assert_int_equal(retry_after("retry-after:0.5\r\n"), 500);
    assert_int_equal(retry_after("retry-after-ms: 250\r\n"), 250);
    assert_int_equal(retry_after("Retry-After: 1e99\r\n"), 3600000);
    assert_int_equal(retry_after("Retry-After: -5\r\n"), 0);
    assert_int_equal(retry_after("Retry-After: nan\r\n"), 0);
    assert_int_equal(retry_after("Retry-After: soon\r\n"), 0);
    assert_int_equal(retry_after("Retry-After: Thu, 01 Jan 1998 00:00:00 GMT\r\n"), 0);
    assert_int_equal(retry_after("X-Retry-After: 3\r\n"), 0);
    assert_int_equal(retry_after("Retry-After:"), 0);
}

static int group_begin(void **state)
{
    (void)state;
    textlog_setup(TEXTLOG_ERROR, NULL);
    common = service_start(NULL);
    return 0;
}

static int group_end(void **state)
{
    (void)state;
    service_stop(&common);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_streams_with_usage_and_price),
        cmocka_unit_test(a_client_that_does_not_stream_is_served_from_a_stream_too),
        cmocka_unit_test(shapes_that_services_send_are_all_understood),
        cmocka_unit_test(reasoning_tools_and_logprobs_keep_their_channels),
        cmocka_unit_test(several_choices_are_answered_in_one_call),
        cmocka_unit_test(a_missing_done_costs_no_more_than_the_stall_deadline),
        cmocka_unit_test(completions_and_unknown_fields_reach_the_service),
        cmocka_unit_test(a_request_id_cannot_add_headers),
        cmocka_unit_test(an_answer_that_another_began_is_gone_on_with),
        cmocka_unit_test(failures_say_what_and_whether_another_may_try),
        cmocka_unit_test(a_429_says_when_to_come_again),
        cmocka_unit_test(what_failed_before_it_began_is_tried_again),
        cmocka_unit_test(a_long_answer_may_take_longer_than_its_first_token),
        cmocka_unit_test(the_deadline_of_a_request_bounds_the_wait),
        cmocka_unit_test(a_cancel_from_inside_a_token_cuts_the_transfer),
        cmocka_unit_test(a_cancelled_call_says_nothing_more),
        cmocka_unit_test(a_backend_may_be_freed_in_its_last_callback),
        cmocka_unit_test(running_calls_end_with_the_backend),
        cmocka_unit_test(connections_are_kept_for_the_next_request),
        cmocka_unit_test(slots_bound_what_runs_at_once),
        cmocka_unit_test(a_probe_finds_out_whether_it_is_up),
        cmocka_unit_test(a_call_that_cannot_connect_says_so),
        cmocka_unit_test(a_service_on_a_unix_socket_is_taken_up_when_it_comes),
        cmocka_unit_test(the_key_comes_from_a_file_or_the_environment),
        cmocka_unit_test(an_unknown_certificate_is_refused_and_a_trusted_one_taken),
        cmocka_unit_test(retry_after_is_read_in_every_form_and_bounded),
    };
    return cmocka_run_group_tests(tests, group_begin, group_end);
}
