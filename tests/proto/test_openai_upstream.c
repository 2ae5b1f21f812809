/* What goes to an upstream, and what is made of its answers: in any cut, with any of the shapes servers have. */
#include "proto/openai.h"

#include <jansson.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- a listener that writes down what it hears ---- */

static struct buf heard;

static void on_model(void *ctx, const char *model)
{
    buf_addf(ctx, "model=%s;", model);
}

static void on_token(void *ctx, const struct msg_token *t)
{
    static const char *const CHANNELS[] = {"", "reason:", "tool:"};
    buf_addf(ctx, "%d.%d %s%.*s", (int)t->choice, (int)t->index, CHANNELS[t->channel], (int)t->text_len, t->text);
    if (t->has_logprob) buf_addf(ctx, "(%.*s %g/%d)", (int)t->bytes_len, t->bytes, t->logprob, t->top_count);
    buf_addc(ctx, ';');
}

static void on_finish(void *ctx, int choice, const char *finish)
{
    buf_addf(ctx, "finish%d=%s;", choice, finish);
}

static void on_usage(void *ctx, int64_t prompt, int64_t cached, int64_t completion, int64_t reasoning)
{
    buf_addf(ctx, "usage=%d,%d,%d,%d;", (int)prompt, (int)cached, (int)completion, (int)reasoning);
}

static void on_error(void *ctx, const char *message, const char *type, const char *code)
{
    buf_addf(ctx, "error=%s|%s|%s;", message, type, code);
}

static void on_end(void *ctx)
{
    buf_adds(ctx, "end;");
}

static const struct openai_events EVENTS = {&heard, on_model, on_token, on_finish, on_usage, on_error, on_end};

/* Fed in pieces of `step` bytes. */
static enum err_code feed(const char *text, size_t step, size_t line_max, struct err *e)
{
    buf_clear(&heard);
    struct openai_reader *reader = openai_reader_new(line_max);
    assert_non_null(reader);
    enum err_code code = ERR_OK;
    size_t len = strlen(text);
    for (size_t i = 0; i < len && code == ERR_OK; i += step)
        code = openai_reader_feed(reader, text + i, len - i < step ? len - i : step, &EVENTS, e);
    openai_reader_free(reader);
    return code;
}

static void hears(const char *text, const char *expected)
{
    for (size_t step = 1; step < 9; step++) {
        struct err e = {0};
        if (feed(text, step * step, 4096, &e) != ERR_OK) fail_msg("%s", e.msg);
        assert_string_equal(heard.data, expected);
    }
}

static void chokes(const char *text, enum err_code code, const char *says)
{
    struct err e = {0};
    assert_int_equal(feed(text, 7, 256, &e), code);
    if (!strstr(e.msg, says)) fail_msg("\"%s\" does not say \"%s\"", e.msg, says);
}

#define DELTA(inner) "data: {\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{" inner "}}]}"

static void a_stream_becomes_events_in_any_cut(void **state)
{
    (void)state;
    hears(": hello\n\n" DELTA("\"role\":\"assistant\",\"content\":\"\"") "\n\n" DELTA("\"content\":\"a\"") "\n\n"
          DELTA("\"content\":\"\xe4\xb8\x80\"") "\n\n"
          "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"
          "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2,\"prompt_tokens_details\":"
          "{\"cached_tokens\":4},\"completion_tokens_details\":{\"reasoning_tokens\":1}}}\n\ndata: [DONE]\n\n"
          "data: ignored after the end\n\n",
          "model=m;0.0 a;0.1 \xe4\xb8\x80;finish0=stop;usage=5,4,2,1;end;");
}

static void every_line_end_will_do(void **state)
{
    (void)state;
    hears(DELTA("\"content\":\"a\"") "\r\n\r\ndata:[DONE]\r\n\r\n", "model=m;0.0 a;end;");
    hears(DELTA("\"content\":\"a\"") "\r\rdata: [DONE]\r\r", "model=m;0.0 a;end;");
    hears("\xef\xbb\xbfid: 1\nretry: 5\ndata: {\"choices\":[{\"delta\":\ndata: {\"content\":\"b\"}}]}\n\n", "0.0 b;");
}

static void reasoning_and_tools_have_channels(void **state)
{
    (void)state;
    hears(DELTA("\"reasoning_content\":\"r\"") "\n\n" DELTA("\"reasoning\":\"s\",\"content\":null") "\n\n"
          DELTA("\"tool_calls\":[{\"index\":0,\"id\":\"c\"}]") "\n\n",
          "model=m;0.0 reason:r;0.1 reason:s;0.2 tool:[{\"index\":0,\"id\":\"c\"}];");
}

static void logprobs_keep_their_bytes(void **state)
{
    (void)state;
    hears("data: {\"choices\":[{\"delta\":{\"content\":\"ab\"},\"logprobs\":{\"content\":[{\"token\":\"a\",\"logprob\":-1,"
          "\"bytes\":[97],\"top_logprobs\":[{\"token\":\"x\",\"logprob\":-2}]},{\"token\":\"b\",\"logprob\":-0.5}]}}]}\n\n",
          "0.0 ab(a -1/1);0.1 (b -0.5/0);");
}

static void errors_inside_a_stream_are_told(void **state)
{
    (void)state;
    hears("data: {\"error\":{\"message\":\"boom\",\"type\":\"server_error\",\"code\":\"c\"}}\n\ndata: [DONE]\n\n",
          "error=boom|server_error|c;");
    hears("event: error\ndata: {\"message\":\"boom\"}\n\n", "error=boom||;");
    hears("data: {\"error\":\"plain\"}\n\n", "error=plain||;");
    hears("data: {\"object\":\"error\",\"message\":\"old\",\"code\":500}\n\n", "error=old||;");
}

static void a_json_body_in_place_of_a_stream_is_read(void **state)
{
    (void)state;
    const char *body = " {\"model\":\"m\",\"choices\":[{\"message\":{\"content\":\"x}\\\"\",\"tool_calls\":[{\"id\":\"c\"}]},"
                       "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,"
                       "\"prompt_cache_hit_tokens\":1}}";
    const char *expected = "model=m;0.0 x}\";0.1 tool:[{\"id\":\"c\",\"index\":0}];finish0=stop;usage=1,1,2,0;end;";
    hears(body, expected);
    struct err e = {0};
    buf_clear(&heard);
    assert_int_equal(openai_read_body(body, strlen(body), &EVENTS, &e), ERR_OK);
    assert_string_equal(heard.data, expected);
    const char *text = "{\"choices\":[{\"text\":\"t\",\"finish_reason\":\"length\"}]}";
    buf_clear(&heard);
    assert_int_equal(openai_read_body(text, strlen(text), &EVENTS, &e), ERR_OK);
    assert_string_equal(heard.data, "0.0 t;finish0=length;end;");
}

static void garbage_ends_the_reading(void **state)
{
    (void)state;
    chokes("<html><body>502</body>\n", ERR_UPSTREAM, "<html>");
    chokes("data: not json\n\n", ERR_UPSTREAM, "not json");
    chokes("data: [1]\n\n", ERR_UPSTREAM, "an array");
    chokes("data: {\"choices\":{}}\n\n", ERR_UPSTREAM, "choices");
    chokes("data: {\"choices\":[{\"index\":99,\"delta\":{}}]}\n\n", ERR_UPSTREAM, "16");
    chokes("data: {\"choices\":[{\"delta\":7}]}\n\n", ERR_UPSTREAM, "delta");
    chokes("data: {\"choices\":[{\"delta\":{\"content\":7}}]}\n\n", ERR_UPSTREAM, "content");
    struct err e = {0};
    struct openai_reader *reader = openai_reader_new(64);
    assert_int_equal(openai_reader_feed(reader, "data: \0x\n", 9, &EVENTS, &e), ERR_UPSTREAM);
    openai_reader_free(reader);
    const char *empty = "{\"choices\":[]}";
    assert_int_equal(openai_read_body(empty, strlen(empty), &EVENTS, &e), ERR_UPSTREAM);
}

static void long_lines_and_events_are_refused_before_they_are_kept(void **state)
{
    (void)state;
    char line[600];
    memset(line, 'x', sizeof line - 1);
    line[sizeof line - 1] = 0;
    chokes(line, ERR_TOO_LARGE, "256 bytes");
    struct buf many = BUF_INIT(1 << 16);
    for (int i = 0; i < 40; i++) buf_adds(&many, "data: 0123456789\n");
    chokes(many.data, ERR_TOO_LARGE, "256 bytes");
    buf_clear(&many);
    buf_adds(&many, "{\"a\":\"");
    buf_adds(&many, line);
    chokes(many.data, ERR_TOO_LARGE, "256 bytes");
    buf_release(&many);
}

static void an_upstreams_error_body_is_shortened_and_cleaned(void **state)
{
    (void)state;
    char text[16];
    const char *json = "{\"error\":{\"message\":\"too\\nmany requests today\"}}";
    openai_read_error(json, strlen(json), text, sizeof text);
    assert_string_equal(text, "too many reques");
    openai_read_error("<h1>\x01 bad\xff", 10, text, sizeof text);
    assert_string_equal(text, "<h1>? bad?");
    openai_read_error("", 0, text, sizeof text);
    assert_string_equal(text, "");
}

/* ---- bodies for an upstream ---- */

static json_t *body_for(const char *client, enum openai_endpoint endpoint, const struct msg_prefix *prefix, bool stream)
{
    struct msg_submit submit;
    struct err e = {0};
    if (openai_parse_request(&submit, endpoint, client, strlen(client), &e) != ERR_OK) fail_msg("%s", e.msg);
    submit.prefixes = prefix;
    submit.prefix_count = prefix ? 1 : 0;
    struct buf out = BUF_INIT(1 << 16);
    if (openai_upstream_body(&submit, "big", stream, &out, &e) != ERR_OK) fail_msg("%s", e.msg);
    json_t *root = json_loads(out.data, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(root);
    buf_release(&out);
    msg_submit_release(&submit);
    return root;
}

static void is(json_t *root, const char *expected)
{
    json_error_t e;
    json_t *want = json_loads(expected, 0, &e);
    if (!want) fail_msg("the test's own JSON: %s at %d", e.text, e.position);
    if (!json_equal(root, want)) {
        char *got = json_dumps(root, 0);
        print_error("got %s\n", got);
        free(got);
        fail();
    }
    json_decref(want);
    json_decref(root);
}

static void a_body_carries_everything_on(void **state)
{
    (void)state;
    is(body_for("{\"model\":\"auto\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"x\":1}]}],"
                "\"user\":\"ann\",\"temperature\":1,\"max_completion_tokens\":5,\"tools\":[{}],\"odd\":null,\"seed\":-3,"
                "\"stop\":\"s\",\"logit_bias\":{\"5\":1.5},\"logprobs\":true}",
                OPENAI_CHAT, NULL, true),
       "{\"model\":\"big\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"x\":1}]}],"
       "\"temperature\":1,\"max_completion_tokens\":5,\"tools\":[{}],\"odd\":null,\"seed\":-3,\"stop\":[\"s\"],"
       "\"logit_bias\":{\"5\":1.5},\"logprobs\":true,\"top_logprobs\":0,\"stream\":true,"
       "\"stream_options\":{\"include_usage\":true}}");
    is(body_for("{\"prompt\":\"p\",\"echo\":true,\"n\":2,\"max_tokens\":4}", OPENAI_COMPLETION, NULL, false),
       "{\"model\":\"big\",\"prompt\":\"p\",\"n\":2,\"max_tokens\":4,\"stream\":false}");
}

static void a_prefix_becomes_the_last_message(void **state)
{
    (void)state;
    struct msg_prefix prefix = {.content = "so far", .reasoning = "why", .token_count = 2};
    is(body_for("{\"messages\":[{\"role\":\"user\",\"content\":\"q\"}],\"max_tokens\":5}", OPENAI_CHAT, &prefix, false),
       "{\"model\":\"big\",\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"so far\","
       "\"reasoning_content\":\"why\",\"prefix\":true}],\"continue_final_message\":true,\"add_generation_prompt\":false,"
       "\"max_tokens\":3,\"stream\":false}");
    is(body_for("{\"prompt\":\"q:\"}", OPENAI_COMPLETION, &prefix, false),
       "{\"model\":\"big\",\"prompt\":\"q:so far\",\"stream\":false}");
}

static void extra_fields_from_a_peer_cannot_replace_ours(void **state)
{
    (void)state;
    struct msg_submit submit;
    msg_submit_init(&submit);
    struct msg_message m = {.role = "user", .content = "q"};
    submit.messages = &m;
    submit.message_count = 1;
    submit.extra_json = "{\"model\":\"stolen\",\"stream\":true}";
    struct buf out = BUF_INIT(4096);
    struct err e = {0};
    assert_int_equal(openai_upstream_body(&submit, "big", false, &out, &e), ERR_OK);
    assert_null(strstr(out.data, "stolen"));
    buf_clear(&out);
    submit.extra_json = "{\"big\": 12345678901234567890, \"half\":0.1}"; /* as they came */
    assert_int_equal(openai_upstream_body(&submit, "big", false, &out, &e), ERR_OK);
    assert_non_null(strstr(out.data, ",\"big\":12345678901234567890,\"half\":0.1}"));
    buf_clear(&out);
    submit.extra_json = "{\"model\":";
    assert_int_equal(openai_upstream_body(&submit, "big", false, &out, &e), ERR_SYNTAX);
    submit.extra_json = NULL;
    m.raw_json = "[]";
    assert_int_equal(openai_upstream_body(&submit, "big", false, &out, &e), ERR_INVALID);
    buf_release(&out);
}

static int setup(void **state)
{
    (void)state;
    buf_init(&heard, 1 << 16);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    buf_release(&heard);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_becomes_events_in_any_cut),
        cmocka_unit_test(every_line_end_will_do),
        cmocka_unit_test(reasoning_and_tools_have_channels),
        cmocka_unit_test(logprobs_keep_their_bytes),
        cmocka_unit_test(errors_inside_a_stream_are_told),
        cmocka_unit_test(a_json_body_in_place_of_a_stream_is_read),
        cmocka_unit_test(garbage_ends_the_reading),
        cmocka_unit_test(long_lines_and_events_are_refused_before_they_are_kept),
        cmocka_unit_test(an_upstreams_error_body_is_shortened_and_cleaned),
        cmocka_unit_test(a_body_carries_everything_on),
        cmocka_unit_test(a_prefix_becomes_the_last_message),
        cmocka_unit_test(extra_fields_from_a_peer_cannot_replace_ours),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
