/* Grammars under real engines: whatever a model says, however random, parses and satisfies the schema. */
#include "node/grammar.h"
#include "tests/engine/tiny_model.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

/* ---- a validator of its own, for what the schemas below use ---- */

static bool valid(json_t *root, json_t *schema, json_t *value);

static bool type_is(const char *type, const json_t *v)
{
    if (strcmp(type, "object") == 0) return json_is_object(v);
    if (strcmp(type, "array") == 0) return json_is_array(v);
    if (strcmp(type, "string") == 0) return json_is_string(v);
    if (strcmp(type, "integer") == 0) return json_is_integer(v);
    if (strcmp(type, "number") == 0) return json_is_number(v);
    if (strcmp(type, "boolean") == 0) return json_is_boolean(v);
    return json_is_null(v);
}

static bool types_hold(json_t *type, const json_t *v)
{
    if (!type) return true;
    if (json_is_string(type)) return type_is(json_string_value(type), v);
    size_t i;
    json_t *t;
    json_array_foreach(type, i, t) if (type_is(json_string_value(t), v)) return true;
    return false;
}

static bool object_holds(json_t *root, json_t *schema, json_t *v)
{
    const char *key;
    json_t *item, *extra = json_object_get(schema, "additionalProperties");
    size_t i;
    json_array_foreach(json_object_get(schema, "required"), i, item) if (!json_object_get(v, json_string_value(item))) return false;
    json_object_foreach(v, key, item) {
        json_t *of = json_object_get(json_object_get(schema, "properties"), key);
        if (!of && json_is_false(extra)) return false;
        if (of || json_is_object(extra))
            if (!valid(root, of ? of : extra, item)) return false;
    }
    return true;
}

static bool array_holds(json_t *root, json_t *schema, json_t *v)
{
    json_t *min = json_object_get(schema, "minItems"), *max = json_object_get(schema, "maxItems"), *items = json_object_get(schema, "items"), *item;
    size_t i, n = json_array_size(v);
    if ((min && n < (size_t)json_integer_value(min)) || (max && n > (size_t)json_integer_value(max))) return false;
    json_array_foreach(v, i, item) if (items && !valid(root, items, item)) return false;
    return true;
}

static bool number_holds(json_t *schema, const json_t *v)
{
    json_t *low = json_object_get(schema, "minimum"), *high = json_object_get(schema, "maximum");
    return !(low && json_number_value(v) < json_number_value(low)) && !(high && json_number_value(v) > json_number_value(high));
}

static bool valid(json_t *root, json_t *schema, json_t *v)
{
    json_t *ref = json_object_get(schema, "$ref"), *any = json_object_get(schema, "anyOf"), *list = json_object_get(schema, "enum"), *item;
    size_t i;
    if (json_is_true(schema)) return true;
    if (ref && strcmp(json_string_value(ref), "#") == 0) return valid(root, root, v);
    if (ref) return valid(root, json_object_get(json_object_get(root, "$defs"), json_string_value(ref) + 8), v);
    if (any) {
        json_array_foreach(any, i, item) if (valid(root, item, v)) return true;
        return false;
    }
    if (list) {
        json_array_foreach(list, i, item) if (json_equal(item, v)) return true;
        return false;
    }
    return types_hold(json_object_get(schema, "type"), v) && (!json_is_object(v) || object_holds(root, schema, v)) &&
           (!json_is_array(v) || array_holds(root, schema, v)) && (!json_is_number(v) || number_holds(schema, v));
}

static const char *const SCHEMAS[] = {
    "{\"type\":\"object\",\"properties\":{\"answer\":{\"type\":\"integer\"},\"sure\":{\"type\":\"boolean\"}},\"required\":[\"answer\",\"sure\"],"
    "\"additionalProperties\":false}",
    "{\"type\":\"object\",\"properties\":{\"kind\":{\"enum\":[\"light\",\"lamp\",\"la\",7,null]},\"level\":{\"type\":\"integer\",\"minimum\":-5,\"maximum\":120},"
    "\"more\":{\"type\":[\"number\",\"null\"]}},\"required\":[\"level\"],\"additionalProperties\":false}",
    "{\"type\":\"array\",\"items\":{\"type\":\"number\"},\"minItems\":2,\"maxItems\":5}",
    "{\"anyOf\":[{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},\"next\":{\"$ref\":\"#\"}},\"required\":[\"v\",\"next\"],"
    "\"additionalProperties\":false},{\"type\":\"null\"}]}",
    "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"tags\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/t\"},\"maxItems\":3}},"
    "\"required\":[\"name\",\"tags\"],\"additionalProperties\":false,\"$defs\":{\"t\":{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"boolean\"}]}}}",
    "{\"type\":\"object\",\"additionalProperties\":{\"type\":\"boolean\"}}",
    "{\"type\":\"object\"}",
};
enum { SCHEMA_COUNT = sizeof SCHEMAS / sizeof SCHEMAS[0] };

/* ---- asking an engine ---- */

struct answer {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool ended;
    int32_t ids[4096];
    int count;
    char text[65536];
    size_t len;
    enum engine_finish finish;
};

static void on_token(void *ctx, uint64_t id, const struct engine_token *t)
{
    struct answer *a = ctx;
    (void)id;
    if (a->count < 4096) a->ids[a->count++] = t->id;
    if (a->len + t->text_len < sizeof a->text) memcpy(a->text + a->len, t->text, t->text_len), a->len += t->text_len;
}

static void end(struct answer *a)
{
    (void)pthread_mutex_lock(&a->lock);
    a->ended = true;
    (void)pthread_cond_signal(&a->changed);
    (void)pthread_mutex_unlock(&a->lock);
}

static void on_done(void *ctx, uint64_t id, const struct engine_end *e)
{
    struct answer *a = ctx;
    (void)id;
    a->finish = e->finish;
    if (a->len + e->text_len < sizeof a->text) memcpy(a->text + a->len, e->text, e->text_len), a->len += e->text_len;
    end(a);
}

static void on_error(void *ctx, uint64_t id, const struct err *e)
{
    (void)id;
    print_message("%s\n", e->msg);
    end(ctx);
}

static void ask(struct engine *engine, struct grammar *g, const char *prompt, float temperature, uint64_t seed, const int32_t *prefix,
                int prefix_count, struct answer *a)
{
    static uint64_t next_id = 1;
    int32_t *ids;
    int count;
    struct err e = {0};
    struct grammar_choice choice;
    grammar_choice_init(&choice, g, false);
    struct engine_constraint constraint = grammar_constraint(&choice);
    assert_int_equal(engine_tokenize(engine, prompt, strlen(prompt), ENGINE_TOKENIZE_SPECIAL, &ids, &count, &e), ERR_OK);
    struct engine_request r = {.prompt = ids, .prompt_count = count, .prefix = prefix, .prefix_count = prefix_count, .max_tokens = 500,
                               .sampling = ENGINE_SAMPLING_GREEDY, .constraint = &constraint};
    r.sampling.temperature = temperature;
    r.sampling.seed = seed;
    *a = (struct answer){.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    const struct engine_sink sink = {.ctx = a, .on_token = on_token, .on_done = on_done, .on_error = on_error};
    if (engine_submit(engine, next_id++, &r, &sink, &e) != ERR_OK) fail_msg("%s", e.msg);
    (void)pthread_mutex_lock(&a->lock);
    while (!a->ended) (void)pthread_cond_wait(&a->changed, &a->lock);
    (void)pthread_mutex_unlock(&a->lock);
    free(ids);
}

static struct grammar *grammar_of(const struct grammar_vocabulary *v, const char *schema)
{
    char extra[2048];
    struct grammar *g = NULL;
    struct err e = {0};
    (void)snprintf(extra, sizeof extra, "{\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"schema\":%s}}}", schema);
    if (grammar_new(&g, v, extra, &e) != ERR_OK) fail_msg("%s", e.msg);
    return g;
}

/* An answer that ended is a valid value; one that was cut off at its length is the beginning of one. */
static bool check(struct grammar *g, const char *schema, const struct answer *a)
{
    const char *text = a->text;
    size_t len = a->len;
    const char *thought = memmem(text, len, "</think>", 8);
    if (thought) {
        len -= (size_t)(thought + 8 - text);
        text = thought + 8;
    }
    if (a->finish != ENGINE_FINISH_STOP) {
        assert_true(thought || grammar_check(g, text, len) >= 0 || memchr(text, '\xEF', len)); /* a cut character shows as U+FFFD */
        return false;
    }
    json_error_t error;
    json_t *root = json_loads(schema, 0, NULL), *value = json_loadb(text, len, JSON_DECODE_ANY, &error);
    if (!value) fail_msg("%s: %.*s", error.text, (int)len, text);
    if (!valid(root, root, value)) fail_msg("%s\ndoes not hold of %.*s", schema, (int)len, text);
    json_decref(root);
    json_decref(value);
    return true;
}

static void sample_all(struct engine *engine, const char *prompt, int seeds, int ended_least)
{
    struct grammar_vocabulary *v = NULL;
    struct err e = {0};
    struct answer *a = malloc(sizeof *a);
    assert_non_null(a);
    if (grammar_vocabulary_of(&v, engine, &e) != ERR_OK) fail_msg("%s", e.msg);
    int ended = 0, asked = 0;
    for (int i = 0; i < SCHEMA_COUNT; i++) {
        struct grammar *g = grammar_of(v, SCHEMAS[i]);
        for (int seed = 0; seed <= seeds; seed++, asked++) {
            ask(engine, g, prompt, seed ? 2.0f : 0.0f, (uint64_t)seed, NULL, 0, a);
            ended += check(g, SCHEMAS[i], a);
        }
        grammar_free(g);
    }
    print_message("%d of %d answers ended\n", ended, asked);
    assert_true(ended >= ended_least);
    grammar_vocabulary_free(v);
    free(a);
}

static struct engine *open_demo(const char *name)
{
    char path[512];
    struct engine *engine = NULL;
    struct err e = {0};
    (void)snprintf(path, sizeof path, SOURCE_DIR "/models/%s", name);
    if (access(path, R_OK) != 0) skip();
    const struct engine_options options = {.path = path, .threads = 1, .slots_max = 1};
    if (engine_open(&engine, &options, &e) != ERR_OK) fail_msg("%s", e.msg);
    return engine;
}

static void the_edge_model_answers_valid_json_greedy_and_at_temperature_2(void **state)
{
    (void)state;
    struct engine *engine = open_demo("edge.q8_0.gguf");
    sample_all(engine, "<|user|>What is 17 + 25?<|end|><|assistant|>", 20, 60);
    engine_close(engine);
}

/* The draft model is held to the same grammar, ahead of the model. */
static void a_draft_model_leaves_every_answer_as_it_is(void **state)
{
    (void)state;
    static const char PROMPT[] = "<|user|>What is 17 + 25?<|end|><|assistant|>";
    struct engine *plain = open_demo("core.q8_0.gguf"), *with = NULL;
    struct grammar_vocabulary *v = NULL;
    struct answer *a = calloc(1, sizeof *a), *b = calloc(1, sizeof *b);
    struct err e = {0};
    const struct engine_options options = {.path = SOURCE_DIR "/models/core.q8_0.gguf", .draft = SOURCE_DIR "/models/region.q8_0.gguf",
                                           .draft_always = true, .threads = 1, .slots_max = 1};
    if (engine_open(&with, &options, &e) != ERR_OK || grammar_vocabulary_of(&v, with, &e) != ERR_OK) fail_msg("%s", e.msg);
    assert_true(a && b);
    for (int i = 0; i < SCHEMA_COUNT; i++) {
        struct grammar *g = grammar_of(v, SCHEMAS[i]);
        for (int seed = 0; seed < 2; seed++) {
            ask(plain, g, PROMPT, seed ? 1.0f : 0.0f, (uint64_t)seed, NULL, 0, a);
            ask(with, g, PROMPT, seed ? 1.0f : 0.0f, (uint64_t)seed, NULL, 0, b);
            (void)check(g, SCHEMAS[i], b);
            assert_int_equal(a->count, b->count);
            assert_memory_equal(a->ids, b->ids, (size_t)a->count * sizeof *a->ids);
            assert_int_equal(a->len, b->len);
            assert_memory_equal(a->text, b->text, a->len);
        }
        grammar_free(g);
    }
    struct engine_stats st;
    engine_stats(with, &st);
    assert_true(st.draft_kept_tokens > 0);
    print_message("%d of %d guesses kept\n", (int)st.draft_kept_tokens, (int)st.draft_guessed_tokens);
    grammar_vocabulary_free(v);
    engine_close(plain);
    engine_close(with);
    free(a);
    free(b);
}

static void a_random_model_answers_valid_json(void **state)
{
    (void)state;
    char path[] = "/tmp/rung-test-XXXXXX";
    int fd = mkstemp(path);
    struct gguf_builder b = {0};
    struct engine *engine = NULL;
    struct err e = {0};
    assert_true(fd >= 0);
    (void)close(fd);
    tiny_model_build(&b, GGUF_Q8_0, 5);
    gguf_builder_write(&b, path);
    const struct engine_options options = {.path = path, .threads = 1, .slots_max = 1};
    if (engine_open(&engine, &options, &e) != ERR_OK) fail_msg("%s", e.msg);
    sample_all(engine, "abc", 15, 40);
    engine_close(engine);
    (void)unlink(path);
}

static void a_model_that_thinks_is_held_only_after_it(void **state)
{
    (void)state;
    struct engine *engine = open_demo("core.q8_0.gguf");
    struct engine_info info;
    struct grammar_vocabulary *v = NULL;
    struct err e = {0};
    struct answer *a = malloc(sizeof *a);
    assert_non_null(a);
    engine_info(engine, &info);
    assert_int_equal(grammar_vocabulary_of(&v, engine, &e), ERR_OK);
    struct grammar *g = grammar_of(v, SCHEMAS[0]);
    ask(engine, g, "<|user|>What is 17 + 25?<|end|><|assistant|>", 0, 0, NULL, 0, a);
    assert_true(a->count > 2 && a->ids[0] == info.think_open);
    int at = 0;
    while (at < a->count && a->ids[at] != info.think_close) at++;
    assert_true(at < a->count);
    char text[4096];
    size_t len = 0;
    for (int i = at + 1; i < a->count; i++) len += engine_token_bytes(engine, a->ids[i], false, text + len, sizeof text - len);
    assert_int_equal(a->finish, ENGINE_FINISH_STOP);
    assert_int_equal(grammar_check(g, text, len), 1);
    grammar_free(g);
    grammar_vocabulary_free(v);
    engine_close(engine);
    free(a);
}

static void going_on_elsewhere_ends_in_the_same_text(void **state)
{
    (void)state;
    struct engine *engine = open_demo("edge.q8_0.gguf");
    struct grammar_vocabulary *v = NULL;
    struct err e = {0};
    struct answer *whole = malloc(sizeof *whole), *rest = malloc(sizeof *rest);
    assert_true(whole && rest);
    assert_int_equal(grammar_vocabulary_of(&v, engine, &e), ERR_OK);
    for (uint64_t seed = 1; seed < 4; seed++) {
        struct grammar *here = grammar_of(v, SCHEMAS[4]), *there = grammar_of(v, SCHEMAS[4]);
        ask(engine, here, "<|user|>Hello<|end|><|assistant|>", 1.5f, seed, NULL, 0, whole);
        for (int cut = 1; cut < whole->count; cut += 7) {
            ask(engine, there, "<|user|>Hello<|end|><|assistant|>", 1.5f, seed, whole->ids, cut, rest);
            assert_int_equal(rest->count, whole->count - cut);
            assert_memory_equal(rest->ids, whole->ids + cut, (size_t)rest->count * sizeof *rest->ids);
        }
        grammar_free(here);
        grammar_free(there);
    }
    grammar_vocabulary_free(v);
    engine_close(engine);
    free(whole);
    free(rest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_edge_model_answers_valid_json_greedy_and_at_temperature_2),
        cmocka_unit_test(a_draft_model_leaves_every_answer_as_it_is),
        cmocka_unit_test(a_random_model_answers_valid_json),
        cmocka_unit_test(a_model_that_thinks_is_held_only_after_it),
        cmocka_unit_test(going_on_elsewhere_ends_in_the_same_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
