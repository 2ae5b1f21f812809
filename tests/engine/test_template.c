#include "engine/template.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* Agreement with Jinja2 is tests/tools/test_template_parity.py's part; here: limits, errors, the given variables. */

static enum err_code render(const char *source, const struct engine_message *messages, int count, const char *tools,
                            struct buf *out, struct err *e)
{
    struct template *t = NULL;
    enum err_code code = template_parse(&t, source, strlen(source), e);
    if (!code) code = template_render(t, messages, count, tools, NULL, true, "<s>", "</s>", out, e);
    template_free(t);
    return code;
}

static void expect(const char *source, const char *want)
{
    static const struct engine_message CHAT[] = {
        {.role = "system", .content = "S"},
        {.role = "user", .content = "U"},
        {.role = "assistant", .content = "", .tool_calls_json = "[{\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}}]"},
    };
    struct buf out = BUF_INIT(1 << 20);
    struct err e = {0};
    if (render(source, CHAT, 3, NULL, &out, &e)) fail_msg("%s: %s", source, e.msg);
    assert_string_equal(out.data, want);
    buf_release(&out);
}

static void expect_error(const char *source, enum err_code code, const char *words)
{
    static const struct engine_message CHAT[] = {{.role = "user", .content = "U"}};
    struct buf out = BUF_INIT(1 << 20);
    struct err e = {0};
    enum err_code got = render(source, CHAT, 1, NULL, &out, &e);
    if (got != code) fail_msg("%s: %s, not %s (%s)", source, err_name(got), err_name(code), e.msg);
    if (!strstr(e.msg, words)) fail_msg("'%s' does not say '%s'", e.msg, words);
    buf_release(&out);
}

static void a_chat_is_rendered(void **state)
{
    (void)state;
    expect("{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{{ eos_token }}",
           "<s>[system]S[user]U[assistant]None</s>");
    expect("{{ messages[2].tool_calls[0].function.arguments | tojson }}", "{\"a\": 1}");
    expect("{{ tools is none }}{{ add_generation_prompt }}{{ messages[0].reasoning_content is defined }}", "TrueTrueFalse");
}

static void white_space_is_controlled_as_transformers_sets_it(void **state)
{
    (void)state;
    expect("  {% if true %}\n  a\n  {% endif %}\nb\n", "  a\nb");
    expect("a {%- if true -%}  b  {%- endif %} c", "ab c");
}

static void a_refusal_keeps_its_own_words(void **state)
{
    (void)state;
    static const struct engine_message CHAT[] = {{.role = "user", .content = "U"}};
    struct buf out = BUF_INIT(1000);
    struct err e = {0};
    assert_int_equal(render("{{ raise_exception('no ' + 'system') }}", CHAT, 1, NULL, &out, &e), ERR_INVALID);
    assert_string_equal(e.msg, "no system");
    buf_release(&out);
}

static void errors_say_the_line(void **state)
{
    (void)state;
    expect_error("a\nb\n{% if %}", ERR_SYNTAX, "line 3");
    expect_error("\n{{ 'x }}", ERR_SYNTAX, "line 2: a string that does not end");
    expect_error("{% if true %}", ERR_SYNTAX, "endif");
    expect_error("{% endif %}", ERR_SYNTAX, "closes nothing");
    expect_error("{% include 'x' %}", ERR_UNSUPPORTED, "include");
    expect_error("\n\n{{ 'a' | nofilter }}", ERR_UNSUPPORTED, "line 3: the filter 'nofilter'");
    expect_error("{{ 1 is notest }}", ERR_UNSUPPORTED, "notest");
    expect_error("{{ nothing.at.all }}", ERR_INVALID, "no 'at'");
    expect_error("{{ 'a' + 1 }}", ERR_INVALID, "'+' of a string and a integer");
    expect_error("{{ f(*messages) }}", ERR_UNSUPPORTED, "* and **");
    expect_error("{{ 99999999999999999999 }}", ERR_UNSUPPORTED, "too large");
}

static void outside_json_is_checked(void **state)
{
    (void)state;
    static const char *const BAD[] = {"{", "[1,]", "{\"a\":}", "{\"a\" 1}", "[01]", "\"\\x\"", "[1] 2", "nul", "\"a", "[\"\n\"]", "1e", "-", ""};
    for (size_t i = 0; i + 1 < sizeof BAD / sizeof BAD[0]; i++) {
        struct buf out = BUF_INIT(1000);
        struct err e = {0};
        enum err_code code = render("{{ tools | tojson }}", NULL, 0, BAD[i], &out, &e);
        if (code != ERR_INVALID || !strstr(e.msg, "tools: not JSON at byte")) fail_msg("%s: %s %s", BAD[i], err_name(code), e.msg);
        buf_release(&out);
    }
    struct buf out = BUF_INIT(1000);
    struct err e = {0};
    const char *good = " {\"a\" : [1, -2.5e3, true, null, \"\\u00e9\\ud83d\\ude00\\n\"], \"a\": 1, \"b\": {}} ";
    assert_int_equal(render("{{ tools | tojson }}", NULL, 0, good, &out, &e), ERR_OK);
    assert_string_equal(out.data, "{\"a\": 1, \"b\": {}}");
    buf_release(&out);
}

static char *repeated(const char *open, const char *middle, const char *close, int times)
{
    char *text = calloc((strlen(open) + strlen(close)) * (size_t)times + strlen(middle) + 1, 1), *at = text;
    assert_non_null(text);
    for (int i = 0; i < times; i++) at = stpcpy(at, open);
    at = stpcpy(at, middle);
    for (int i = 0; i < times; i++) at = stpcpy(at, close);
    return text;
}

static void nesting_is_bounded(void **state)
{
    (void)state;
    static const char *const NESTS[][3] = {
        {"(", "1", ")"},      {"[", "1", "]"},        {"{'a': ", "1", "}"}, {"-", "1", ""},           {"not ", "1", ""},
        {"1 + ", "1", ""},    {"1 if 1 else ", "1", ""}, {"x(", "1", ")"},  {"", "x", "|upper"},      {"", "x", ".y"},
        {"", "x", "[0]"},     {"1 ** ", "1", ""},     {"a or ", "b", ""},   {"", "1", " is defined"}, {"", "1", " if 1"},
    };
    for (size_t i = 0; i < sizeof NESTS / sizeof NESTS[0]; i++) {
        char *inner = repeated(NESTS[i][0], NESTS[i][1], NESTS[i][2], 60000), *source = malloc(strlen(inner) + 16);
        assert_non_null(source);
        (void)snprintf(source, strlen(inner) + 16, "{{ %s }}", inner);
        expect_error(source, ERR_TOO_LARGE, "nested");
        free(inner);
        free(source);
    }
    char *blocks = repeated("{% if true %}", "x", "{% endif %}", 10000);
    expect_error(blocks, ERR_TOO_LARGE, "nested");
    free(blocks);
    char *json = repeated("[", "", "]", 10000);
    struct buf out = BUF_INIT(1000);
    assert_int_equal(render("{{ tools }}", NULL, 0, json, &out, NULL), ERR_INVALID);
    buf_release(&out);
    free(json);
}

static void work_and_memory_are_bounded(void **state)
{
    (void)state;
    expect_error("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", ERR_TOO_LARGE, "nested");
    expect_error("{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}", ERR_TOO_LARGE, "takes");
    expect_error("{{ range(1000000) }}", ERR_TOO_LARGE, "range");
    expect_error("{{ 'a' * 9999999999 }}", ERR_TOO_LARGE, "repeated");
    expect_error("{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
                 ERR_TOO_LARGE, "");
    expect_error("{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(99) %}{% set ns.s = ns.s | replace('a', 'aaaa') "
                 "%}{% endfor %}",
                 ERR_TOO_LARGE, "");
    expect_error("{% set ns = namespace(l=[]) %}{% for i in range(999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
                 ERR_TOO_LARGE, "nested");
    expect_error("{% for i in range(90000) %}{{ 'xxxxxxxxxxxxxxxx' }}{% endfor %}", ERR_TOO_LARGE, "prompt is longer");
    expect_error("{{ 'a' | indent(99999999) }}", ERR_TOO_LARGE, "indent");
}

static void any_cut_of_a_template_is_survived(void **state)
{
    (void)state;
    static const char SOURCE[] =
        "{%- set ns = namespace(a=1, b='x\\n') -%}{% macro m(a, b=2) %}{{ a ~ b|upper }}{% endmacro %}{# c #}"
        "{% for k, v in {'a': [1, 2.5, none]}.items() if v is not none %}{{ m(k, v[::-1] | tojson(indent=2)) }}"
        "{%- if not loop.last and k in ('a', 'b') or v == 1 %}, {% elif true %}{% set ns.a = ns.a + 1 %}{% else %}-{% endif %}"
        "{% else %}none{% endfor %}{% raw %}{{ x }}{% endraw %}{% set q %}z{% endset %}{{ messages[0]['role'].split('s', 1)[0] }}";
    static const struct engine_message CHAT[] = {{.role = "user", .content = "U"}};
    for (size_t n = 0; n < sizeof SOURCE; n++) {
        char *cut = malloc(n ? n : 1);
        struct template *t = NULL;
        struct buf out = BUF_INIT(1 << 16);
        assert_non_null(cut);
        memcpy(cut, SOURCE, n);
        if (!template_parse(&t, cut, n, NULL)) (void)!template_render(t, CHAT, 1, NULL, NULL, true, "", "", &out, NULL);
        else assert_null(t);
        template_free(t);
        buf_release(&out);
        free(cut);
    }
}

/* ---- variables of the caller ---- */

static enum err_code render_with(const char *source, const char *variables, struct buf *out, struct err *e)
{
    static const struct engine_message CHAT[] = {{.role = "user", .content = "U"}};
    struct template *t = NULL;
    enum err_code code = template_parse(&t, source, strlen(source), e);
    if (!code) code = template_render(t, CHAT, 1, NULL, variables, true, "<s>", "</s>", out, e);
    template_free(t);
    return code;
}

static void callers_variables_are_seen_and_replace_nothing(void **state)
{
    (void)state;
    static const char SOURCE[] = "{{ x is defined }} {{ x }} {{ messages[0].content }} {{ add_generation_prompt }}";
    static const struct {
        const char *variables, *want;
    } CASES[] = {{NULL, "False  U True"}, {"", "False  U True"}, {"{}", "False  U True"}, {"{\"x\":false}", "True False U True"},
                 {"{\"x\":[1,{\"y\":\"z\"}],\"messages\":7,\"add_generation_prompt\":false}", "True [1, {'y': 'z'}] U True"}};
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        struct buf out = BUF_INIT(1 << 16);
        struct err e = {0};
        if (render_with(SOURCE, CASES[i].variables, &out, &e)) fail_msg("%s", e.msg);
        assert_string_equal(out.data, CASES[i].want);
        buf_release(&out);
    }
    static const char *const WRONG[] = {"[]", "1", "{", "{\"x\":}", "{} {}", "\"x\""};
    for (size_t i = 0; i < sizeof WRONG / sizeof WRONG[0]; i++) {
        struct buf out = BUF_INIT(1 << 16);
        struct err e = {0};
        assert_int_not_equal(render_with("x", WRONG[i], &out, &e), ERR_OK);
        assert_non_null(strstr(e.msg, "chat_template_kwargs"));
        buf_release(&out);
    }
}

static void qwen3_does_not_think_where_it_is_told_not_to(void **state)
{
    (void)state;
    char source[16384];
    FILE *f = fopen(TEST_DATA "/templates/qwen3.jinja", "rb");
    assert_non_null(f);
    source[fread(source, 1, sizeof source - 1, f)] = 0;
    (void)fclose(f);
    for (int think = 0; think < 2; think++) {
        struct buf out = BUF_INIT(1 << 16);
        struct err e = {0};
        if (render_with(source, think ? "{\"enable_thinking\":true}" : "{\"enable_thinking\":false}", &out, &e)) fail_msg("%s", e.msg);
        assert_true(think == !strstr(out.data, "<think>\n\n</think>"));
        buf_release(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chat_is_rendered),
        cmocka_unit_test(white_space_is_controlled_as_transformers_sets_it),
        cmocka_unit_test(a_refusal_keeps_its_own_words),
        cmocka_unit_test(errors_say_the_line),
        cmocka_unit_test(outside_json_is_checked),
        cmocka_unit_test(nesting_is_bounded),
        cmocka_unit_test(work_and_memory_are_bounded),
        cmocka_unit_test(any_cut_of_a_template_is_survived),
        cmocka_unit_test(callers_variables_are_seen_and_replace_nothing),
        cmocka_unit_test(qwen3_does_not_think_where_it_is_told_not_to),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
