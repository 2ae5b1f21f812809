/* What clients get, read back with jansson: shapes as OpenAI's, and nothing a token holds can break them. */
#include "proto/openai.h"

#include <jansson.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct msg_submit submit;
static struct buf out;

static const struct msg_start START = {.tier = TIER_REGION, .backend = "w1", .model = "m\"1", .reason = "hard",
                                       .node = "n", .p = {0.25, 0.9, -1}, .threshold = 0.8};

static struct openai_reply *begin(void)
{
    buf_init(&out, 1 << 20);
    struct openai_reply *r = openai_reply_new(&submit, 1 << 16);
    assert_non_null(r);
    openai_reply_start(r, &START);
    return r;
}

static void end(struct openai_reply *r)
{
    openai_reply_free(r);
    buf_release(&out);
    msg_submit_release(&submit);
}

static void ask(const char *body, enum openai_endpoint endpoint)
{
    struct err e = {0};
    if (openai_parse_request(&submit, endpoint, body, strlen(body), &e) != ERR_OK) fail_msg("%s", e.msg);
    submit.id = "r1";
}

#define CHAT_BODY(more) "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"}]" more "}"

static struct msg_token text_token(int64_t choice, const char *text)
{
    return (struct msg_token){.choice = choice, .text = text, .text_len = strlen(text)};
}

/* The n-th event of `out`; NULL for [DONE] or past the end. */
static json_t *event(int n)
{
    char *at = out.data;
    for (int i = 0; i < n; i++) {
        at = strstr(at, "\n\n");
        if (!at) return NULL;
        at += 2;
    }
    char *stop = strstr(at, "\n\n");
    if (!stop || strncmp(at, "data: {", 7) != 0) return NULL;
    json_error_t e;
    json_t *root = json_loadb(at + 6, (size_t)(stop - at - 6), JSON_REJECT_DUPLICATES, &e);
    if (!root) fail_msg("event %d: %s in %.*s", n, e.text, (int)(stop - at), at);
    return root;
}

static const char *text_at(json_t *root, const char *a, const char *b)
{
    json_t *choice = json_array_get(json_object_get(root, "choices"), 0);
    json_t *inner = b ? json_object_get(choice, a) : choice;
    return json_string_value(json_object_get(inner, b ? b : a));
}

static void a_stream_has_role_text_finish_and_done(void **state)
{
    (void)state;
    ask(CHAT_BODY(""), OPENAI_CHAT);
    struct openai_reply *r = begin();
    struct msg_token t = text_token(0, "Hi \"there\"\n\x01");
    assert_int_equal(openai_stream_token(r, &t, &out), ERR_OK);
    t = text_token(0, "");
    assert_int_equal(openai_stream_token(r, &t, &out), ERR_OK);
    t = text_token(0, "thinking");
    t.channel = CHANNEL_REASONING;
    assert_int_equal(openai_stream_token(r, &t, &out), ERR_OK);
    struct msg_done done = {.finish = {"length"}, .choices = 1, .prompt_tokens = 3, .completion_tokens = 2};
    assert_int_equal(openai_stream_done(r, &done, &out), ERR_OK);

    json_t *first = event(0), *second = event(1), *third = event(2), *last = event(3);
    assert_string_equal(text_at(first, "delta", "role"), "assistant");
    assert_string_equal(json_string_value(json_object_get(first, "id")), "chatcmpl-r1");
    assert_string_equal(json_string_value(json_object_get(first, "model")), "m\"1");
    assert_string_equal(json_string_value(json_object_get(first, "object")), "chat.completion.chunk");
    assert_string_equal(text_at(second, "delta", "content"), "Hi \"there\"\n\x01");
    assert_null(json_object_get(second, "usage"));
    assert_string_equal(text_at(third, "delta", "reasoning_content"), "thinking");
    assert_string_equal(text_at(last, "finish_reason", NULL), "length");
    json_t *rung = json_object_get(last, "rung");
    assert_string_equal(json_string_value(json_object_get(rung, "tier")), "region");
    assert_true(json_real_value(json_object_get(json_object_get(rung, "p"), "region")) == 0.9);
    assert_true(json_is_null(json_object_get(json_object_get(rung, "p"), "core")));
    assert_null(event(4));
    assert_non_null(strstr(out.data, "\n\ndata: [DONE]\n\n"));
    json_decref(first);
    json_decref(second);
    json_decref(third);
    json_decref(last);
    end(r);
}

static void usage_comes_in_a_chunk_without_choices(void **state)
{
    (void)state;
    ask(CHAT_BODY(",\"stream\":true,\"n\":2,\"stream_options\":{\"include_usage\":true}"), OPENAI_CHAT);
    struct openai_reply *r = begin();
    struct msg_token t = text_token(1, "x");
    assert_int_equal(openai_stream_token(r, &t, &out), ERR_OK);
    struct msg_hop hop = {.tier = TIER_EDGE, .node = "n", .backend = "b", .model = "m", .outcome = "escalated"};
    struct msg_done done = {.finish = {"stop", "stop"}, .choices = 2, .prompt_tokens = 3, .cached_tokens = 1,
                            .completion_tokens = 2, .reasoning_tokens = 1, .price_usd = 0.5, .hops = &hop, .hop_count = 1};
    assert_int_equal(openai_stream_done(r, &done, &out), ERR_OK);
    /* role and text of choice 1, role and end of choice 0, end of choice 1, usage */
    json_t *text = event(1), *usage = event(5);
    assert_true(json_is_null(json_object_get(text, "usage")));
    assert_int_equal(json_array_size(json_object_get(usage, "choices")), 0);
    json_t *u = json_object_get(usage, "usage");
    assert_int_equal(json_integer_value(json_object_get(u, "total_tokens")), 5);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(u, "prompt_tokens_details"), "cached_tokens")), 1);
    json_t *hops = json_object_get(json_object_get(usage, "rung"), "hops");
    assert_int_equal(json_array_size(hops), 1);
    assert_string_equal(json_string_value(json_object_get(json_array_get(hops, 0), "outcome")), "escalated");
    json_decref(text);
    json_decref(usage);
    end(r);
}

static void a_whole_body_gathers_each_choice(void **state)
{
    (void)state;
    ask(CHAT_BODY(",\"n\":2"), OPENAI_CHAT);
    struct openai_reply *r = begin();
    struct msg_token a = text_token(0, "one "), b = text_token(1, "two"), c = text_token(0, "\xe4\xb8\x80"), d = text_token(0, "hm");
    d.channel = CHANNEL_REASONING;
    assert_int_equal(openai_collect_token(r, &a), ERR_OK);
    assert_int_equal(openai_collect_token(r, &b), ERR_OK);
    assert_int_equal(openai_collect_token(r, &c), ERR_OK);
    assert_int_equal(openai_collect_token(r, &d), ERR_OK);
    struct msg_done done = {.finish = {"stop", "length"}, .choices = 2};
    assert_int_equal(openai_body(r, &done, &out), ERR_OK);
    json_t *root = json_loads(out.data, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(root);
    assert_string_equal(text_at(root, "message", "content"), "one \xe4\xb8\x80");
    assert_string_equal(text_at(root, "message", "reasoning_content"), "hm");
    json_t *second = json_array_get(json_object_get(root, "choices"), 1);
    assert_string_equal(json_string_value(json_object_get(json_object_get(second, "message"), "content")), "two");
    assert_string_equal(json_string_value(json_object_get(second, "finish_reason")), "length");
    assert_string_equal(json_string_value(json_object_get(root, "object")), "chat.completion");
    json_decref(root);
    end(r);
}

static void bytes_that_are_not_utf8_cannot_break_the_body(void **state)
{
    (void)state;
    ask(CHAT_BODY(",\"logprobs\":true,\"top_logprobs\":1"), OPENAI_CHAT);
    struct openai_reply *r = begin();
    struct msg_top top = {"\xf0\x9f", 2, -0.25};
    struct msg_token t = {.text = "a\xff\xed\xa0\x80z", .text_len = 6, .bytes = "\xe4\xb8", .bytes_len = 2,
                          .has_logprob = true, .logprob = -1.5, .top = &top, .top_count = 1};
    assert_int_equal(openai_collect_token(r, &t), ERR_OK);
    struct msg_done done = {.choices = 0};
    assert_int_equal(openai_body(r, &done, &out), ERR_OK);
    json_t *root = json_loads(out.data, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(root);
    assert_string_equal(text_at(root, "message", "content"), "a\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdz");
    json_t *choice = json_array_get(json_object_get(root, "choices"), 0);
    json_t *entry = json_array_get(json_object_get(json_object_get(choice, "logprobs"), "content"), 0);
    assert_true(json_number_value(json_object_get(entry, "logprob")) == -1.5);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(entry, "bytes"), 1)), 0xb8);
    assert_int_equal(json_array_size(json_object_get(entry, "top_logprobs")), 1);
    json_decref(root);
    end(r);
}

static void a_completion_echoes_and_counts_offsets(void **state)
{
    (void)state;
    ask("{\"prompt\":\"\xe4\xb8\x80:\",\"echo\":true,\"logprobs\":1}", OPENAI_COMPLETION);
    struct openai_reply *r = begin();
    struct msg_token t = text_token(0, "ab"), u = text_token(0, "c");
    t.has_logprob = u.has_logprob = true;
    t.bytes = "ab", t.bytes_len = 2, u.bytes = "c", u.bytes_len = 1;
    assert_int_equal(openai_collect_token(r, &t), ERR_OK);
    assert_int_equal(openai_collect_token(r, &u), ERR_OK);
    struct msg_done done = {.finish = {"stop"}, .choices = 1};
    assert_int_equal(openai_body(r, &done, &out), ERR_OK);
    json_t *root = json_loads(out.data, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(root);
    assert_string_equal(text_at(root, "text", NULL), "\xe4\xb8\x80:abc");
    json_t *choice = json_array_get(json_object_get(root, "choices"), 0);
    json_t *offsets = json_object_get(json_object_get(choice, "logprobs"), "text_offset");
    assert_int_equal(json_integer_value(json_array_get(offsets, 0)), 2);
    assert_int_equal(json_integer_value(json_array_get(offsets, 1)), 4);
    assert_string_equal(json_string_value(json_object_get(root, "object")), "text_completion");
    json_decref(root);
    end(r);
}

static void tool_calls_are_merged_from_their_pieces(void **state)
{
    (void)state;
    ask(CHAT_BODY(""), OPENAI_CHAT);
    struct openai_reply *r = begin();
    const char *pieces[] = {
        "[{\"index\":0,\"id\":\"c\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]",
        "[{\"index\":0,\"function\":{\"arguments\":\"{\\\"a\\\"\"}}]",
        "[{\"index\":0,\"function\":{\"arguments\":\":1}\"}}]",
        "[{\"index\":900}]", "not json", "{}", "[3]"};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        struct msg_token t = text_token(0, pieces[i]);
        t.channel = CHANNEL_TOOL;
        assert_int_equal(openai_collect_token(r, &t), ERR_OK);
    }
    struct msg_done done = {.finish = {"tool_calls"}, .choices = 1};
    assert_int_equal(openai_body(r, &done, &out), ERR_OK);
    assert_non_null(strstr(out.data, "\"content\":null"));
    assert_non_null(strstr(out.data, "\"tool_calls\":[{\"id\":\"c\",\"type\":\"function\",\"function\":{\"name\":\"f\","
                                     "\"arguments\":\"{\\\"a\\\":1}\"}}]"));
    end(r);
}

static void a_stream_passes_tool_deltas_on(void **state)
{
    (void)state;
    ask(CHAT_BODY(""), OPENAI_CHAT);
    struct openai_reply *r = begin();
    struct msg_token t = text_token(0, "[{\"index\":0,\n\"id\":\"c\"}]"), broken = text_token(0, "[{]\n\ndata: x");
    t.channel = broken.channel = CHANNEL_TOOL;
    assert_int_equal(openai_stream_token(r, &t, &out), ERR_OK);
    assert_int_equal(openai_stream_token(r, &broken, &out), ERR_OK);
    json_t *chunk = event(1);
    json_t *delta = json_object_get(json_array_get(json_object_get(chunk, "choices"), 0), "delta");
    assert_int_equal(json_array_size(json_object_get(delta, "tool_calls")), 1);
    assert_null(event(2));
    json_decref(chunk);
    end(r);
}

static void a_broken_stream_ends_in_an_error_event(void **state)
{
    (void)state;
    ask(CHAT_BODY(""), OPENAI_CHAT);
    struct openai_reply *r = begin();
    struct msg_error error = {.code = ERR_UPSTREAM, .message = "gone\n\nevent: x", .retryable = true};
    assert_int_equal(openai_stream_error(r, &error, &out), ERR_OK);
    assert_int_equal(strncmp(out.data, "event: error\ndata: {", 20), 0);
    assert_null(strstr(out.data, "[DONE]"));
    assert_non_null(strstr(out.data, "\"type\":\"server_error\""));
    assert_non_null(strstr(out.data, "\"retryable\":true"));
    assert_string_equal(strstr(out.data, "\n\n"), "\n\n"); /* one event, whatever the message holds */
    end(r);
}

static void text_and_choices_are_bounded(void **state)
{
    (void)state;
    ask(CHAT_BODY(""), OPENAI_CHAT);
    buf_init(&out, 1 << 20);
    struct openai_reply *r = openai_reply_new(&submit, 8);
    assert_non_null(r);
    struct msg_token t = text_token(0, "12345"), far = text_token(1, "x"), below = text_token(-1, "x");
    assert_int_equal(openai_collect_token(r, &t), ERR_OK);
    assert_int_equal(openai_collect_token(r, &t), ERR_TOO_LARGE);
    assert_int_equal(openai_collect_token(r, &far), ERR_INVALID);
    assert_int_equal(openai_stream_token(r, &below, &out), ERR_INVALID);
    end(r);
}

static void errors_and_models_have_openais_shape(void **state)
{
    (void)state;
    buf_init(&out, 1 << 16);
    struct msg_error error = {.code = ERR_NOT_FOUND, .message = "no model \"x\"", .param = "model"};
    assert_int_equal(openai_error_body(&error, &out), ERR_OK);
    assert_string_equal(out.data, "{\"error\":{\"message\":\"no model \\\"x\\\"\",\"type\":\"invalid_request_error\","
                                  "\"param\":\"model\",\"code\":\"model_not_found\"}}");
    buf_clear(&out);
    struct msg_model models[2] = {{.name = "auto", .tier = TIER_NONE}, {.name = "m", .tier = TIER_EDGE, .context_tokens = 512}};
    assert_int_equal(openai_models_body(models, 2, &out), ERR_OK);
    json_t *root = json_loads(out.data, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(root);
    json_t *m = json_array_get(json_object_get(root, "data"), 1);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(m, "rung"), "context_tokens")), 512);
    json_decref(root);
    buf_release(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_has_role_text_finish_and_done),
        cmocka_unit_test(usage_comes_in_a_chunk_without_choices),
        cmocka_unit_test(a_whole_body_gathers_each_choice),
        cmocka_unit_test(bytes_that_are_not_utf8_cannot_break_the_body),
        cmocka_unit_test(a_completion_echoes_and_counts_offsets),
        cmocka_unit_test(tool_calls_are_merged_from_their_pieces),
        cmocka_unit_test(a_stream_passes_tool_deltas_on),
        cmocka_unit_test(a_broken_stream_ends_in_an_error_event),
        cmocka_unit_test(text_and_choices_are_bounded),
        cmocka_unit_test(errors_and_models_have_openais_shape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
