/* Grammars by themselves: which texts a schema lets through, which schemas are refused, and masks against a reference. */
#include "node/grammar.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- a vocabulary: every byte, some longer tokens, an end, two markers of thinking ---- */

static const char *const LONGER[] = {"{\"",  "\":",  "\", \"", "\"}",  "}}",   "]]",   "[[[[",  "null", "true,", "false", "\\u00", "\\\"", "ab",
                                     "name", "\n  ", "\n\n\n", "12",   "-",    "e+",   "\xE4\xBD", "\xA0", "\xF0\x9F\x98\x80", "a\"b", "\\", ": "};
enum { LONGERS = sizeof LONGER / sizeof LONGER[0], END = 256 + LONGERS, OPEN, CLOSE, SILENT, TOKENS };

static size_t token_bytes(void *ctx, int32_t id, char *out, size_t size)
{
    (void)ctx;
    if (id >= END) return 0;
    if (id < 256) {
        if (size) out[0] = (char)id;
        return 1;
    }
    size_t len = strlen(LONGER[id - 256]);
    if (len <= size) memcpy(out, LONGER[id - 256], len);
    return len;
}

static bool token_ends(void *ctx, int32_t id)
{
    (void)ctx;
    return id == END;
}

static struct grammar_vocabulary *vocabulary;

static int set_up(void **state)
{
    (void)state;
    const struct grammar_tokens tokens = {NULL, TOKENS, token_bytes, token_ends, OPEN, CLOSE};
    struct err e = {0};
    return grammar_vocabulary_new(&vocabulary, &tokens, &e) == ERR_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    grammar_vocabulary_free(vocabulary);
    return 0;
}

static enum err_code try_schema(struct grammar **out, const char *schema, struct err *e)
{
    size_t size = strlen(schema) + 128;
    char *extra = malloc(size);
    assert_non_null(extra);
    (void)snprintf(extra, size, "{\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"t\",\"schema\":%s}}}", schema);
    enum err_code code = grammar_new(out, vocabulary, extra, e);
    free(extra);
    return code;
}

static struct grammar *schema_grammar(const char *schema)
{
    struct grammar *g = NULL;
    struct err e = {0};
    enum err_code code = try_schema(&g, schema, &e);
    if (code != ERR_OK) print_message("%s\n%s\n", schema, e.msg);
    assert_int_equal(code, ERR_OK);
    assert_non_null(g);
    return g;
}

/* ---- what is let through ---- */

struct texts {
    const char *schema, *good[12], *bad[12]; /* a bad one that ends with ~ is only not whole without it */
};

static const struct texts TEXTS[] = {
    {"{\"type\":\"boolean\"}", {"true", "false", " true", "\n\n  false"}, {"True", "truee", "tru~", "null", "", "  true", "true "}},
    {"{\"type\":\"integer\"}", {"0", "-7", "123", "999999999999999999"}, {"01", "1.0", "1e3", "-~", "1000000000000000000", "+1"}},
    {"{\"type\":\"number\"}", {"0", "-0.5", "1e9", "1.25E-07", "10"}, {"1.~", ".5", "1e~", "1e123", "0x1", "Infinity", "NaN"}},
    {"{\"type\":\"string\"}",
     {"\"\"", "\"a b\"", "\"\\n\\u00e9\"", "\"\xE4\xBD\xA0\"", "\"\xF0\x9F\x98\x80\"", "\"\\ud83d\\ude00\"", "\"\\u0001\"", "\"\\uD7ff\\ue000\""},
     {"\"a~", "\"\n\"", "\"\\x\"", "\"\\ud83d\"", "\"\\ude00\"", "\"\xC0\x80\"", "\"\xED\xA0\x80\"", "\"\\u0000\"", "\"\xFF\"", "\"\xF4\x90\x80\x80\"",
      "'a'", "\"\xE4\""}},
    {"{\"type\":[\"string\",\"null\"]}", {"\"x\"", "null"}, {"1", "{}"}},
    {"{\"type\":\"string\",\"nullable\":true}", {"\"x\"", "null"}, {"1"}},
    {"{\"enum\":[\"a\",\"ab\",1,12,null,{\"k\":[1.5]}]}", {"\"a\"", "\"ab\"", "1", "12", "null", "{\"k\":[1.5]}"}, {"\"abc\"", "123", "\"", "\"b\"", "{}"}},
    {"{\"enum\":[\"a\",1,2],\"type\":\"integer\"}", {"1", "2"}, {"\"a\"", "3"}},
    {"{\"const\":\"\xC3\xA9\\\"\"}", {"\"\xC3\xA9\\\"\""}, {"\"e\""}},
    {"{\"type\":\"integer\",\"minimum\":0}", {"0", "5", "999999999999999999"}, {"-1", "00"}},
    {"{\"type\":\"integer\",\"minimum\":-12,\"maximum\":305}", {"-12", "-1", "0", "9", "10", "99", "100", "299", "300", "305"},
     {"-13", "-0", "306", "310", "400", "1000", "-20", "-"}},
    {"{\"type\":\"integer\",\"exclusiveMinimum\":17,\"exclusiveMaximum\":21}", {"18", "19", "20"}, {"17", "21", "1~", "8", "180"}},
    {"{\"type\":\"integer\",\"minimum\":1900,\"maximum\":2100}", {"1900", "1999", "2000", "2100"}, {"1899", "2101", "2110", "190~", "20000"}},
    {"{\"type\":\"integer\",\"maximum\":-5,\"minimum\":-1000}", {"-5", "-9", "-10", "-1000"}, {"-4", "5", "0", "-1001", "-2000"}},
    {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"string\"}},\"required\":[\"a\",\"b\"],"
     "\"additionalProperties\":false}",
     {"{\"a\":1,\"b\":\"x\"}", "{ \"a\" : 1 , \"b\" : \"x\" }", "{\n  \"a\": 1,\n  \"b\": \"x\"\n}"},
     {"{}", "{\"a\":1}", "{\"b\":\"x\",\"a\":1}", "{\"a\":1,\"b\":\"x\",}", "{\"a\":1,\"b\":2}", "{\"c\":1}", "{  \"a\":1}"}},
    {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"ab\":{\"type\":\"integer\"},\"c\":{\"type\":\"null\"}},\"required\":[\"ab\"]}",
     {"{\"ab\":1}", "{\"a\":1,\"ab\":2}", "{\"ab\":1,\"c\":null}", "{\"a\":1,\"ab\":2,\"c\":null}"}, {"{\"a\":1}", "{\"c\":null}", "{}", "{\"ab\":1,\"a\":1}", "{\"ab\":1,}"}},
    {"{\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"integer\"}}}", {"{}", "{\"a\":1}", "{\"b\":1}", "{\"a\":1,\"b\":2}"}, {"{,}", "{\"x\":1}"}},
    {"{\"type\":\"object\",\"properties\":{}, \"additionalProperties\":false}", {"{}", "{ }"}, {"{\"a\":1}"}},
    {"{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"}}", {"{}", "{\"x\":1,\"\\u0041y\":2}"}, {"{\"x\":\"1\"}", "{x:1}"}},
    {"{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}", {"[]", "[1]", "[1,2 , 3]", "[\n1\n]"}, {"[1,]", "[,1]", "[1 2]", "[\"a\"]", "[~"}},
    {"{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":2,\"maxItems\":3}", {"[1,2]", "[1,2,3]"}, {"[]", "[1]", "[1,2,3,4]"}},
    {"{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":2}", {"[1,2]", "[1,2,3,4,5]"}, {"[]", "[1]"}},
    {"{\"type\":\"array\",\"maxItems\":0}", {"[]"}, {"[1]"}},
    {"{\"type\":\"array\",\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"null\"}],\"items\":{\"type\":\"boolean\"},\"minItems\":2}",
     {"[1,null]", "[1,null,true,false]"}, {"[1]", "[null,1]", "[1,null,2]"}},
    {"{\"type\":\"array\",\"prefixItems\":[{\"type\":\"integer\"}]}", {"[]", "[1]"}, {"[1,2]"}},
    {"{\"anyOf\":[{\"type\":\"object\",\"properties\":{\"k\":{\"const\":\"a\"},\"v\":{\"type\":\"integer\"}},\"required\":[\"k\",\"v\"]},"
     "{\"type\":\"object\",\"properties\":{\"k\":{\"const\":\"b\"},\"v\":{\"type\":\"null\"}},\"required\":[\"k\",\"v\"]},{\"type\":\"null\"}]}",
     {"{\"k\":\"a\",\"v\":1}", "{\"k\":\"b\",\"v\":null}", "null"}, {"{\"k\":\"a\",\"v\":null}", "{\"k\":\"b\",\"v\":1}"}},
    {"{\"$defs\":{\"n\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},\"next\":{\"anyOf\":[{\"$ref\":\"#/$defs/n\"},{\"type\":\"null\"}]}},"
     "\"required\":[\"v\",\"next\"]}},\"$ref\":\"#/$defs/n\"}",
     {"{\"v\":1,\"next\":null}", "{\"v\":1,\"next\":{\"v\":2,\"next\":null}}"}, {"{\"v\":1}", "{\"v\":1,\"next\":{}}"}},
    {"{\"type\":\"object\",\"properties\":{\"kids\":{\"type\":\"array\",\"items\":{\"$ref\":\"#\"}}},\"required\":[\"kids\"]}",
     {"{\"kids\":[]}", "{\"kids\":[{\"kids\":[]},{\"kids\":[{\"kids\":[]}]}]}"}, {"{\"kids\":[{}]}"}},
    {"{\"allOf\":[{\"$ref\":\"#/definitions/a~1b\"}],\"definitions\":{\"a/b\":{\"type\":\"null\"}}}", {"null"}, {"1"}},
    {"{\"title\":\"t\",\"description\":\"d\",\"x-mine\":3}", {"1", "[{}]", "\"s\"", "{\"a\":[null]}"}, {"a"}},
    {"{\"type\":\"object\",\"properties\":{\"a\":true},\"required\":[\"a\"]}", {"{\"a\":[1,{\"b\":2}]}"}, {"{}"}},
};

static void check_texts(const struct texts *t)
{
    struct grammar *g = schema_grammar(t->schema);
    for (size_t i = 0; i < 12 && t->good[i]; i++) {
        if (grammar_check(g, t->good[i], strlen(t->good[i])) != 1) fail_msg("%s\nshould let through %s", t->schema, t->good[i]);
        for (size_t n = 0; n < strlen(t->good[i]); n++) assert_true(grammar_check(g, t->good[i], n) >= 0);
    }
    for (size_t i = 0; i < 12 && t->bad[i]; i++) {
        size_t len = strlen(t->bad[i]);
        bool begun = len && t->bad[i][len - 1] == '~';
        int got = grammar_check(g, t->bad[i], begun ? len - 1 : len);
        if (got == 1 || (begun && got != 0)) fail_msg("%s\nshould not let through %s", t->schema, t->bad[i]);
    }
    grammar_free(g);
}

static void texts_pass_exactly_when_the_schema_allows_them(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof TEXTS / sizeof TEXTS[0]; i++) check_texts(&TEXTS[i]);
}

static void integers_between_bounds_are_exactly_those(void **state)
{
    (void)state;
    static const int ROWS[][2] = {{0, 0}, {-3, 3}, {7, 7}, {99, 101}, {-101, -9}, {5, 1234}, {123, 125}, {-1000, 999}, {190, 209}, {1099, 1201}};
    for (size_t i = 0; i < sizeof ROWS / sizeof ROWS[0]; i++) {
        char text[96];
        (void)snprintf(text, sizeof text, "{\"type\":\"integer\",\"minimum\":%d,\"maximum\":%d}", ROWS[i][0], ROWS[i][1]);
        struct grammar *g = schema_grammar(text);
        for (int v = -1300; v <= 1300; v++) {
            int len = snprintf(text, sizeof text, "%d", v);
            bool good = v >= ROWS[i][0] && v <= ROWS[i][1];
            if ((grammar_check(g, text, (size_t)len) == 1) != good) fail_msg("%d in %d..%d", v, ROWS[i][0], ROWS[i][1]);
        }
        grammar_free(g);
    }
}

static void json_object_is_any_object_of_64_levels(void **state)
{
    (void)state;
    struct grammar *g = NULL;
    struct err e = {0};
    assert_int_equal(grammar_new(&g, vocabulary, "{\"response_format\":{\"type\":\"json_object\"}}", &e), ERR_OK);
    const char *good = "{\"a\":[1,2.5,{\"b\":null}],\"c\":\"\\u00e9\"}";
    assert_int_equal(grammar_check(g, good, strlen(good)), 1);
    assert_int_equal(grammar_check(g, "[]", 2), -1);
    char deep[256] = "{\"a\":";
    size_t n = 5;
    for (int level = 2; level <= 64; level++) deep[n++] = '[';
    assert_int_equal(grammar_check(g, deep, n), 0);
    deep[n] = '[';
    assert_int_equal(grammar_check(g, deep, n + 1), -1);
    for (int level = 2; level <= 64; level++) deep[n++] = ']';
    deep[n++] = '}';
    assert_int_equal(grammar_check(g, deep, n), 1);
    grammar_free(g);
}

static void text_and_no_format_ask_for_nothing(void **state)
{
    (void)state;
    static const char *const NONE[] = {NULL, "{}", "{\"response_format\":{\"type\":\"text\"}}"};
    for (size_t i = 0; i < sizeof NONE / sizeof NONE[0]; i++) {
        struct grammar *g = NULL;
        struct err e = {0};
        assert_int_equal(grammar_new(&g, vocabulary, NONE[i], &e), ERR_OK);
        assert_null(g);
    }
}

/* ---- what is refused ---- */

static void schemas_that_cannot_be_held_to_are_refused_by_name_and_place(void **state)
{
    (void)state;
    static const struct {
        const char *schema;
        enum err_code code;
        const char *says;
    } ROWS[] = {
        {"{\"type\":\"strnig\"}", ERR_INVALID, "schema: unknown type \"strnig\""},
        {"{\"type\":\"object\",\"properties\":{\"age\":{\"type\":\"string\",\"pattern\":\"a\"}}}", ERR_UNSUPPORTED, "schema.properties.age: \"pattern\""},
        {"{\"type\":\"array\",\"items\":{\"anyOf\":[{\"type\":\"null\"},{\"type\":\"string\",\"format\":\"date\"}]}}", ERR_UNSUPPORTED,
         "schema.items.anyOf[1]: \"format\""},
        {"{\"type\":\"number\",\"minimum\":1}", ERR_UNSUPPORTED, "minimum"},
        {"{\"type\":\"integer\",\"minimum\":3,\"maximum\":2}", ERR_INVALID, "no whole number from 3 to 2"},
        {"{\"type\":\"integer\",\"minimum\":1.5}", ERR_UNSUPPORTED, "whole number"},
        {"{\"type\":\"integer\",\"multipleOf\":2}", ERR_UNSUPPORTED, "multipleOf"},
        {"{\"oneOf\":[{}]}", ERR_UNSUPPORTED, "oneOf"},
        {"{\"$ref\":\"#\"}", ERR_INVALID, "back to itself"},
        {"{\"anyOf\":[{\"type\":\"null\"},{\"$ref\":\"#\"}]}", ERR_INVALID, "back to itself"},
        {"{\"$ref\":\"#/$defs/x\"}", ERR_INVALID, "leads nowhere"},
        {"{\"$ref\":\"http://a/b\"}", ERR_UNSUPPORTED, "must be local"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", ERR_INVALID, "no value of at most 64 levels"},
        {"{\"type\":\"array\",\"items\":{\"$ref\":\"#\"},\"minItems\":1}", ERR_INVALID, "no value"},
        {"{\"anyOf\":[]}", ERR_INVALID, "anyOf"},
        {"{\"anyOf\":[{}],\"properties\":{}}", ERR_UNSUPPORTED, "properties beside anyOf"},
        {"{\"enum\":[]}", ERR_INVALID, "enum"},
        {"{\"enum\":[1],\"type\":\"string\"}", ERR_INVALID, "type asked for"},
        {"{\"type\":\"object\",\"properties\":[]}", ERR_INVALID, "properties must be an object"},
        {"{\"type\":\"object\",\"required\":[\"a\"]}", ERR_UNSUPPORTED, "required names \"a\""},
        {"{\"type\":\"object\",\"properties\":{\"a\":7}}", ERR_INVALID, ".properties.a must be a schema"},
        {"{\"type\":\"object\",\"properties\":{\"a\":false}}", ERR_UNSUPPORTED, ".properties.a must be a schema"},
        {"{\"type\":\"array\",\"minItems\":2,\"maxItems\":1}", ERR_INVALID, "minItems 2"},
        {"{\"type\":\"array\",\"minItems\":-1}", ERR_INVALID, "minItems"},
        {"{\"type\":\"array\",\"maxItems\":100000}", ERR_TOO_LARGE, "maxItems is 100000"},
        {"{\"type\":[]}", ERR_INVALID, "type must be"},
        {"[]", ERR_INVALID, "must be an object"},
    };
    for (size_t i = 0; i < sizeof ROWS / sizeof ROWS[0]; i++) {
        struct grammar *g = NULL;
        struct err e = {0};
        enum err_code code = try_schema(&g, ROWS[i].schema, &e);
        if (code != ROWS[i].code || !strstr(e.msg, ROWS[i].says)) fail_msg("%s\ngave %s: %s", ROWS[i].schema, err_name(code), e.msg);
        assert_null(g);
        assert_non_null(strstr(e.msg, "response_format"));
        assert_string_equal(e.param, "response_format");
    }
}

static char *repeat(const char *begin, const char *middle, int count, const char *end, const char *close, int closes)
{
    char *out = malloc(strlen(begin) + (strlen(middle) + 16) * (size_t)count + strlen(end) + strlen(close) * (size_t)closes + 1);
    assert_non_null(out);
    char *p = out + sprintf(out, "%s", begin);
    for (int i = 0; i < count; i++) p += sprintf(p, middle, i, i + 1, i + 1);
    p += sprintf(p, "%s", end);
    for (int i = 0; i < closes; i++) p += sprintf(p, "%s", close);
    return out;
}

/* Each takes bounded time and memory: refused, or compiled small. */
static void hostile_schemas_stay_bounded(void **state)
{
    (void)state;
    char *rows[] = {
        repeat("", "{\"type\":\"array\",\"items\":", 900, "{}", "}", 900),
        repeat("", "{\"type\":\"array\",\"items\":", 5000, "{}", "}", 5000),
        repeat("{\"enum\":[", "\"value %d\",", 999, "0", "]}", 1),
        repeat("{\"enum\":[", "\"value %d\",", 100000, "0", "]}", 1),
        repeat("{\"$ref\":\"#/$defs/d0\",\"$defs\":{", "\"d%d\":{\"anyOf\":[{\"$ref\":\"#/$defs/d%d\"},{\"$ref\":\"#/$defs/d%d\"}]},", 300,
               "\"d300\":{\"type\":\"null\"}", "}}", 1),
        repeat("{\"$ref\":\"#/$defs/d0\",\"$defs\":{", "\"d%d\":{\"$ref\":\"#/$defs/d%d\"},", 1000, "\"d1000\":{\"type\":\"null\"}", "}}", 1),
        repeat("{\"type\":\"object\",\"properties\":{", "\"p%d\":{\"type\":\"string\"},", 255, "\"q\":{}", "}}", 1),
        repeat("{\"type\":\"object\",\"properties\":{", "\"p%d\":{\"type\":\"string\"},", 4000, "\"q\":{}", "}}", 1),
        repeat("{\"anyOf\":[", "{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}}},", 300, "{\"type\":\"null\"}", "]}", 1),
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct grammar *g = NULL;
        struct err e = {0};
        enum err_code code = try_schema(&g, rows[i], &e);
        assert_true(code == ERR_OK || code == ERR_TOO_LARGE || code == ERR_INVALID);
        if (g) (void)grammar_check(g, "{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":null}}}}}", 35);
        grammar_free(g);
        free(rows[i]);
    }
}

/* ---- masks ---- */

static uint64_t seed_of = 1;
static uint32_t next_random(void)
{
    seed_of = seed_of * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed_of >> 33);
}

static bool bit(const uint32_t *mask, int id)
{
    return mask[id / 32] >> (id % 32) & 1;
}

/* A random text by the masks; at each step the mask is compared with what feeding each token's bytes says. */
static bool random_text(struct grammar *g, int steps, bool compare)
{
    char text[8192];
    size_t len = 0;
    struct grammar_choice c;
    grammar_choice_init(&c, g, false);
    struct engine_constraint k = grammar_constraint(&c);
    uint64_t state = 0;
    for (int i = 0; i < steps && len < sizeof text - 256; i++) {
        uint32_t mask[(TOKENS + 31) / 32];
        int allowed[TOKENS], count = 0;
        memset(mask, 0xff, sizeof mask);
        k.mask(k.ctx, state, mask);
        for (int id = 0; id < TOKENS; id++) {
            if (bit(mask, id)) allowed[count++] = id;
            char *at = text + len;
            size_t n = token_bytes(NULL, id, at, 256);
            bool expected = id < END && grammar_check(g, text, len + n) >= 0;
            if (id == END) expected = grammar_check(g, text, len) == 1;
            if (id == OPEN) expected = state == 0;
            if (compare && expected != bit(mask, id)) fail_msg("token %d after %.*s", id, (int)len, text);
        }
        assert_true(count > 0);
        int id = allowed[next_random() % (uint32_t)count];
        /* Strings would go on for long: their ends are chosen more often. */
        if (bit(mask, '"') && next_random() % 4 == 0) id = '"';
        if (id == OPEN) continue;
        if (id == END || (bit(mask, END) && next_random() % 2)) {
            assert_int_equal(grammar_check(g, text, len), 1);
            return true;
        }
        len += token_bytes(NULL, id, text + len, 256);
        state = k.advance(k.ctx, state, id);
    }
    return false;
}

static void masks_are_what_feeding_each_token_says(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof TEXTS / sizeof TEXTS[0]; i++) {
        struct grammar *g = schema_grammar(TEXTS[i].schema);
        int ended = 0;
        for (int n = 0; n < 4; n++) ended += random_text(g, 40, true);
        for (int n = 0; n < 20; n++) ended += random_text(g, 1000, false);
        if (ended == 0) fail_msg("no text of %s ever ended", TEXTS[i].schema);
        grammar_free(g);
    }
}

static void much_text_forgets_states_and_stays_right(void **state)
{
    (void)state;
    struct grammar *g = schema_grammar("{\"type\":\"array\",\"items\":{}}");
    for (int n = 0; n < 60; n++) (void)random_text(g, 1500, false);
    for (int n = 0; n < 5; n++) (void)random_text(g, 60, true);
    grammar_free(g);
}

static void thinking_is_free_and_the_answer_begins_after_it(void **state)
{
    (void)state;
    struct grammar *g = schema_grammar("{\"type\":\"boolean\"}");
    uint32_t mask[(TOKENS + 31) / 32];
    for (int opened = 0; opened < 2; opened++) { /* by the prompt, or by the model's first token */
        struct grammar_choice c;
        grammar_choice_init(&c, g, opened);
        struct engine_constraint k = grammar_constraint(&c);
        uint64_t s = 0;
        if (!opened) s = k.advance(k.ctx, s, OPEN);
        s = k.advance(k.ctx, s, 'x');
        memset(mask, 0xff, sizeof mask);
        k.mask(k.ctx, s, mask);
        assert_true(bit(mask, 'q') && bit(mask, CLOSE) && !bit(mask, END));
        s = k.advance(k.ctx, s, CLOSE);
        memset(mask, 0xff, sizeof mask);
        k.mask(k.ctx, s, mask);
        assert_true(bit(mask, 't') && bit(mask, '\n') && !bit(mask, 'q') && !bit(mask, END) && !bit(mask, SILENT));
        for (const char *p = "false"; *p; p++) s = k.advance(k.ctx, s, *p);
        memset(mask, 0xff, sizeof mask);
        k.mask(k.ctx, s, mask);
        for (int id = 0; id < TOKENS; id++) assert_int_equal(bit(mask, id), id == END);
    }
    grammar_free(g);
}

static void going_on_from_text_or_tokens_leads_to_the_same_masks(void **state)
{
    (void)state;
    struct grammar *g = schema_grammar(TEXTS[14].schema);
    struct grammar_choice told, read;
    grammar_choice_init(&told, g, false);
    grammar_choice_init(&read, g, false);
    const char *text = "{\"a\": 1";
    assert_true(grammar_choice_feed(&told, text, strlen(text)));
    struct engine_constraint a = grammar_constraint(&told), b = grammar_constraint(&read);
    uint64_t s = 0;
    for (const char *p = text; *p; p++) s = b.advance(b.ctx, s, *p);
    uint32_t one[(TOKENS + 31) / 32], two[(TOKENS + 31) / 32];
    memset(one, 0xff, sizeof one);
    memset(two, 0xff, sizeof two);
    a.mask(a.ctx, 0, one);
    b.mask(b.ctx, s, two);
    assert_memory_equal(one, two, sizeof one);
    struct grammar_choice wrong;
    grammar_choice_init(&wrong, g, false);
    assert_false(grammar_choice_feed(&wrong, "Sure!", 5));
    grammar_free(g);
}

static size_t no_quote(void *ctx, int32_t id, char *out, size_t size)
{
    return id == '"' ? 0 : token_bytes(ctx, id, out, size);
}

static void a_vocabulary_that_cannot_spell_json_is_refused(void **state)
{
    (void)state;
    const struct grammar_tokens tokens = {NULL, TOKENS, no_quote, token_ends, -1, -1};
    struct grammar_vocabulary *v = NULL;
    struct err e = {0};
    assert_int_equal(grammar_vocabulary_new(&v, &tokens, &e), ERR_UNSUPPORTED);
    assert_non_null(strstr(e.msg, "0x22"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_pass_exactly_when_the_schema_allows_them),
        cmocka_unit_test(integers_between_bounds_are_exactly_those),
        cmocka_unit_test(json_object_is_any_object_of_64_levels),
        cmocka_unit_test(text_and_no_format_ask_for_nothing),
        cmocka_unit_test(schemas_that_cannot_be_held_to_are_refused_by_name_and_place),
        cmocka_unit_test(hostile_schemas_stay_bounded),
        cmocka_unit_test(masks_are_what_feeding_each_token_says),
        cmocka_unit_test(much_text_forgets_states_and_stays_right),
        cmocka_unit_test(thinking_is_free_and_the_answer_begins_after_it),
        cmocka_unit_test(going_on_from_text_or_tokens_leads_to_the_same_masks),
        cmocka_unit_test(a_vocabulary_that_cannot_spell_json_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
