/* A client's body becomes a submit, or an error that names the field. */
#include "proto/openai.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct msg_submit submit;
static struct err problem;

static enum err_code chat(const char *body)
{
    problem = (struct err){0};
    return openai_parse_request(&submit, OPENAI_CHAT, body, strlen(body), &problem);
}

static enum err_code completion(const char *body)
{
    problem = (struct err){0};
    return openai_parse_request(&submit, OPENAI_COMPLETION, body, strlen(body), &problem);
}

#define USER "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

static void refused(const char *body, enum err_code code, const char *param, const char *says)
{
    assert_int_equal(chat(body), code);
    assert_string_equal(problem.param, param);
    if (!strstr(problem.msg, says)) fail_msg("\"%s\" does not say \"%s\"", problem.msg, says);
    assert_null(submit.arena.blocks); /* nothing is held */
}

static void a_small_chat_is_read(void **state)
{
    (void)state;
    assert_int_equal(chat("{\"model\":\"auto\"," USER "}"), ERR_OK);
    assert_string_equal(submit.model, "auto");
    assert_int_equal(submit.message_count, 1);
    assert_string_equal(submit.messages[0].role, "user");
    assert_string_equal(submit.messages[0].content, "hi");
    assert_null(submit.messages[0].raw_json);
    assert_null(submit.extra_json);
    assert_int_equal(submit.params.given, 0);
    assert_int_equal(submit.forced, TIER_NONE);
    msg_submit_release(&submit);
}

static void every_known_field_finds_its_place(void **state)
{
    (void)state;
    assert_int_equal(chat("{\"model\":\"core\"," USER ",\"stream\":true,\"stream_options\":{\"include_usage\":true},"
                          "\"max_completion_tokens\":7,\"max_tokens\":9,\"temperature\":0.5,\"top_p\":0.9,\"seed\":42,"
                          "\"stop\":[\"a\",\"b\"],\"n\":2,\"logprobs\":true,\"top_logprobs\":3,\"user\":\"ann\","
                          "\"presence_penalty\":-1,\"frequency_penalty\":1.5,\"logit_bias\":{\"17\":-100},\"top_k\":40,"
                          "\"min_p\":0.1,\"typical_p\":0.7,\"repeat_penalty\":1.1,\"ignore_eos\":true}"),
                     ERR_OK);
    const struct msg_params *p = &submit.params;
    assert_int_equal(submit.forced, TIER_CORE);
    assert_true(submit.stream && submit.include_usage);
    assert_int_equal(p->max_tokens, 7);
    assert_true(p->temperature == 0.5 && p->top_p == 0.9 && p->min_p == 0.1 && p->typical_p == 0.7);
    assert_true(p->presence_penalty == -1 && p->frequency_penalty == 1.5 && p->repeat_penalty == 1.1);
    assert_int_equal(p->seed, 42);
    assert_int_equal(p->top_k, 40);
    assert_int_equal(p->stop_count, 2);
    assert_string_equal(p->stop[1], "b");
    assert_int_equal(p->n, 2);
    assert_true(p->logprobs && p->ignore_eos);
    assert_int_equal(p->top_logprobs, 3);
    assert_int_equal(p->bias_count, 1);
    assert_int_equal(p->bias[0].id, 17);
    assert_string_equal(submit.tenant, "ann");
    assert_int_equal(p->given, (1 << 11) - 1);
    msg_submit_release(&submit);
}

static void null_is_as_if_it_were_not_there(void **state)
{
    (void)state;
    assert_int_equal(chat("{" USER ",\"temperature\":null,\"stop\":null,\"stream\":null,\"n\":null}"), ERR_OK);
    assert_int_equal(submit.params.given, 0);
    assert_string_equal(submit.model, "auto");
    msg_submit_release(&submit);
}

static void unknown_fields_pass_unharmed(void **state)
{
    (void)state;
    assert_int_equal(chat("{" USER ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"odd\":{\"x\":"
                          "[0.1,12345678901234567890,1e999, \"\\u00e9\"]},\"response_format\":{\"type\":\"json_object\"}}"),
                     ERR_OK);
    assert_true(submit.has_tools && submit.has_json_format && !submit.has_parts);
    assert_string_equal(submit.extra_json,
                        "{\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"odd\":{\"x\":[0.1,12345678901234567890,1e999, \"\\u00e9\"]},"
                        "\"response_format\":{\"type\":\"json_object\"}}");
    msg_submit_release(&submit);
}

static void escapes_are_decoded(void **state)
{
    (void)state;
    assert_int_equal(chat("{\"messages\":[{\"role\":\"user\",\"content\":\"a\\n\\t\\\"\\\\\\/\\u4e00\\ud83d\\ude00\\u00e9\\u0041z\"}]}"),
                     ERR_OK);
    assert_string_equal(submit.messages[0].content, "a\n\t\"\\/\xe4\xb8\x80\xf0\x9f\x98\x80\xc3\xa9" "Az");
    msg_submit_release(&submit);
}

/* Strings are read eight bytes at a time: what is special is put at every place of such a piece. */
static void what_is_special_is_seen_wherever_it_stands(void **state)
{
    (void)state;
    static const struct {
        const char *written, *reads; /* reads NULL: refused */
    } CASES[] = {{"\\\"", "\""}, {"\\\\", "\\"}, {"\\n", "\n"}, {"\\u00e9", "\u00e9"}, {"\u00e9", "\u00e9"}, {"\u4e2d", "\u4e2d"},
                 {"\x7f", "\x7f"}, {"\x1f", NULL}, {"\n", NULL}, {"\xff", NULL}, {"\\x", NULL}, {" !#[]", " !#[]"}};
    for (size_t c = 0; c < sizeof CASES / sizeof *CASES; c++) {
        for (int before = 0; before < 20; before++) {
            for (int after = 0; after < 20; after += 3) {
                char body[200], want[80];
                (void)snprintf(body, sizeof body, "{\"messages\":[{\"role\":\"user\",\"content\":\"%.*s%s%.*s\"}]}", before,
                               "abcdefghijklmnopqrst", CASES[c].written, after, "ABCDEFGHIJKLMNOPQRST");
                if (!CASES[c].reads) {
                    assert_int_equal(chat(body), ERR_SYNTAX);
                    continue;
                }
                (void)snprintf(want, sizeof want, "%.*s%s%.*s", before, "abcdefghijklmnopqrst", CASES[c].reads, after,
                               "ABCDEFGHIJKLMNOPQRST");
                assert_int_equal(chat(body), ERR_OK);
                assert_string_equal(submit.messages[0].content, want);
                msg_submit_release(&submit);
            }
        }
    }
}

static void duplicates_are_found_among_many(void **state)
{
    (void)state;
    char body[4096];
    int n = sprintf(body, "{" USER);
    for (int i = 0; i < 40; i++) n += sprintf(body + n, ",\"k%d\":1", i);
    (void)sprintf(body + n, "}");
    assert_int_equal(chat(body), ERR_OK);
    msg_submit_release(&submit);
    (void)sprintf(body + n, ",\"k7\":2}");
    refused(body, ERR_SYNTAX, "", "duplicate key \"k7\"");
}

static void parts_are_joined_and_kept_raw(void **state)
{
    (void)state;
    assert_int_equal(chat("{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
                          "{\"type\":\"text\",\"text\":\"b\"}]}]}"),
                     ERR_OK);
    assert_string_equal(submit.messages[0].content, "a\nb");
    assert_non_null(submit.messages[0].raw_json);
    assert_false(submit.has_parts);
    msg_submit_release(&submit);
    assert_int_equal(chat("{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":"
                          "\"data:x\"}}]}]}"),
                     ERR_OK);
    assert_true(submit.has_parts);
    assert_string_equal(submit.messages[0].content, "");
    assert_non_null(strstr(submit.messages[0].raw_json, "data:x"));
    msg_submit_release(&submit);
}

static void tool_turns_are_kept_raw(void **state)
{
    (void)state;
    assert_int_equal(chat("{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":null,"
                          "\"reasoning_content\":\"why\",\"tool_calls\":[{\"id\":\"c1\"}]},"
                          "{\"role\":\"tool\",\"tool_call_id\":\"c1\",\"content\":\"42\"}]}"),
                     ERR_OK);
    assert_true(submit.has_tools);
    assert_null(submit.messages[1].content);
    assert_string_equal(submit.messages[1].reasoning, "why");
    assert_non_null(strstr(submit.messages[1].raw_json, "\"tool_calls\":[{\"id\":\"c1\"}]"));
    assert_string_equal(submit.messages[2].tool_call_id, "c1");
    assert_null(submit.messages[2].raw_json);
    msg_submit_release(&submit);
}

static void a_completion_is_read(void **state)
{
    (void)state;
    assert_int_equal(completion("{\"prompt\":[\"once\"],\"echo\":true,\"logprobs\":2,\"max_tokens\":1}"), ERR_OK);
    assert_true(submit.completion && submit.echo && submit.params.logprobs);
    assert_int_equal(submit.params.top_logprobs, 2);
    assert_string_equal(submit.prompt, "once");
    msg_submit_release(&submit);
    assert_int_equal(completion("{\"prompt\":[1,2]}"), ERR_INVALID);
    assert_string_equal(problem.param, "prompt");
    assert_int_equal(completion("{}"), ERR_INVALID);
}

static void the_rung_object_mirrors_the_headers(void **state)
{
    (void)state;
    assert_int_equal(chat("{" USER ",\"rung\":{\"max_tier\":\"region\",\"privacy\":\"device\",\"deadline_ms\":500,"
                          "\"conversation\":\"c\"}}"),
                     ERR_OK);
    assert_int_equal(submit.max_tier, TIER_REGION);
    assert_true(submit.device_private);
    assert_int_equal(submit.deadline_ms, 500);
    assert_string_equal(submit.conversation, "c");
    msg_submit_release(&submit);
    refused("{" USER ",\"rung\":{\"max_teir\":\"region\"}}", ERR_INVALID, "rung", "rung.max_teir");
    refused("{" USER ",\"rung_privacy\":\"device\"}", ERR_INVALID, "rung_", "rung_privacy");
    refused("{" USER ",\"rung\":{\"max_tier\":\"moon\"}}", ERR_INVALID, "rung.max_tier", "\"moon\"");
}

static void errors_name_field_value_and_wish(void **state)
{
    (void)state;
    refused("{" USER ",\"temperature\":3}", ERR_INVALID, "temperature", "the number 3; it should be a number from 0 to 2");
    refused("{" USER ",\"n\":0}", ERR_INVALID, "n", "1 to 16");
    refused("{" USER ",\"n\":1.5}", ERR_INVALID, "n", "whole number");
    refused("{" USER ",\"stream\":\"yes\"}", ERR_INVALID, "stream", "the string \"yes\"");
    refused("{" USER ",\"stop\":[1]}", ERR_INVALID, "stop", "the number 1");
    refused("{" USER ",\"stop\":\"\"}", ERR_INVALID, "stop", "strings of 1");
    refused("{" USER ",\"logit_bias\":{\"x\":1}}", ERR_INVALID, "logit_bias", "token ids");
    refused("{" USER ",\"top_logprobs\":2}", ERR_INVALID, "top_logprobs", "without logprobs");
    refused("{" USER ",\"model\":7}", ERR_INVALID, "model", "a string of 1 to 255 bytes");
    refused("{" USER ",\"tools\":{}}", ERR_INVALID, "tools", "an array");
    refused("{\"messages\":[]}", ERR_INVALID, "messages", "at least one");
    refused("{\"model\":\"auto\"}", ERR_INVALID, "messages", "missing");
    refused("{\"messages\":[{\"role\":\"user\"}]}", ERR_INVALID, "messages[0].content", "missing");
    refused("{\"messages\":[{\"role\":\"boss\",\"content\":\"x\"}]}", ERR_INVALID, "messages[0].role", "\"boss\"");
    refused("{\"messages\":[\"x\"]}", ERR_INVALID, "messages[0]", "an object");
}

static void what_is_not_json_is_told_where(void **state)
{
    (void)state;
    refused("", ERR_SYNTAX, "", "empty");
    refused("{\n \"model\": }", ERR_SYNTAX, "", "line 2");
    refused("[1]", ERR_SYNTAX, "", "an array");
    refused("{\"n\":1,\"n\":2," USER "}", ERR_SYNTAX, "", "duplicate");
    refused("{" USER ",\"user\":\"a\\u0000b\"}", ERR_SYNTAX, "", "u0000");
    refused("{" USER ",\"user\":\"\\ud800\"}", ERR_SYNTAX, "", "surrogate");
    refused("{" USER ",\"user\":\"a\nb\"}", ERR_SYNTAX, "", "control character");
    refused("{" USER ",\"n\":01}", ERR_SYNTAX, "", "not a number");
    refused("{" USER ",\"n\":1.}", ERR_SYNTAX, "", "behind the point");
    refused("{" USER ",}", ERR_SYNTAX, "", "a key in quotes");
    refused("{" USER "} x", ERR_SYNTAX, "", "follows the end");
    refused("{" USER ",\"user\":\"\\", ERR_SYNTAX, "", "does not end");
    refused("{" USER ",\"user\":nul", ERR_SYNTAX, "", "a value is wanted");
    refused("{" USER ",\"user\":\"\xff\"}", ERR_SYNTAX, "", "not UTF-8");
}

static char *repeat(const char *open, int times, const char *close)
{
    size_t a = strlen(open), b = strlen(close), n = 0;
    char *text = malloc((a + b) * (size_t)times + 64);
    assert_non_null(text);
    n = (size_t)sprintf(text, "{" USER ",\"x\":");
    char *at = realloc(text, n + (a + b) * (size_t)times + 8);
    assert_non_null(at);
    for (int i = 0; i < times; i++, n += a) memcpy(at + n, open, a);
    for (int i = 0; i < times; i++, n += b) memcpy(at + n, close, b);
    memcpy(at + n, "}", 2);
    return at;
}

static void depth_and_counts_are_bounded(void **state)
{
    (void)state;
    char *deep = repeat("[", 62, "]"), *deeper = repeat("[", 100000, "]");
    assert_int_equal(chat(deep), ERR_OK);
    msg_submit_release(&submit);
    refused(deeper, ERR_INVALID, "", "64 levels");
    char *many = repeat("[", 1, "]");
    free(many);
    size_t count = 1 << 18;
    many = malloc(count * 2 + 64);
    assert_non_null(many);
    size_t n = (size_t)sprintf(many, "{\"x\":[1");
    for (size_t i = 0; i < count; i++, n += 2) memcpy(many + n, ",1", 2);
    memcpy(many + n, "]}", 3);
    refused(many, ERR_TOO_LARGE, "", "131072 values");
    free(deep);
    free(deeper);
    free(many);
}

static void feedback_is_read(void **state)
{
    (void)state;
    struct openai_feedback f;
    struct err e = {0};
    const char *good = "{\"request_id\":\"r1\",\"right\":true,\"tier\":\"edge\",\"note\":\"fine\"}";
    assert_int_equal(openai_parse_feedback(&f, good, strlen(good), &e), ERR_OK);
    assert_string_equal(f.request, "r1");
    assert_true(f.value == 1 && f.tier == TIER_EDGE);
    assert_string_equal(f.note, "fine");
    const char *bad[][2] = {{"{\"right\":true}", "request_id"},
                            {"{\"request_id\":\"r\"}", "score"},
                            {"{\"request_id\":\"r\",\"score\":2}", "score"},
                            {"{\"request_id\":\"r\",\"score\":1,\"right\":true}", "right"},
                            {"{\"request_id\":\"r\",\"score\":1,\"tier\":\"x\"}", "tier"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(openai_parse_feedback(&f, bad[i][0], strlen(bad[i][0]), &e), ERR_INVALID);
        assert_string_equal(e.param, bad[i][1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_small_chat_is_read),
        cmocka_unit_test(every_known_field_finds_its_place),
        cmocka_unit_test(null_is_as_if_it_were_not_there),
        cmocka_unit_test(unknown_fields_pass_unharmed),
        cmocka_unit_test(escapes_are_decoded),
        cmocka_unit_test(what_is_special_is_seen_wherever_it_stands),
        cmocka_unit_test(duplicates_are_found_among_many),
        cmocka_unit_test(parts_are_joined_and_kept_raw),
        cmocka_unit_test(tool_turns_are_kept_raw),
        cmocka_unit_test(a_completion_is_read),
        cmocka_unit_test(the_rung_object_mirrors_the_headers),
        cmocka_unit_test(errors_name_field_value_and_wish),
        cmocka_unit_test(what_is_not_json_is_told_where),
        cmocka_unit_test(depth_and_counts_are_bounded),
        cmocka_unit_test(feedback_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
