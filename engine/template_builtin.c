#include "engine/template_private.h"
#include "base/clock.h"

#include <string.h>
#include <time.h>

/* What filters, tests, functions and methods share; then the tests and the functions, a row of a table each. */

struct value builtin_fail(struct render *r, const char *what, struct value v)
{
    render_fail(r, ERR_INVALID, "%s of a %s", what, value_type_name(v));
    return value_undefined();
}

struct text argument_text(struct render *r, const struct arguments *args, int place, const char *name,
                            const char *otherwise)
{
    struct value v = argument(args, place, name);
    if (v.type == V_UNDEFINED) return (struct text){otherwise, strlen(otherwise)};
    if (v.type != V_STRING) render_fail(r, ERR_INVALID, "'%s' should be a string, not a %s", name, value_type_name(v));
    return v.type == V_STRING ? v.text : TEXT("");
}

int64_t argument_int(const struct arguments *args, int place, const char *name, int64_t otherwise)
{
    struct value v = argument(args, place, name);
    return v.type == V_INT ? v.integer : v.type == V_BOOL ? v.boolean : otherwise;
}

bool argument_true(const struct arguments *args, int place, const char *name)
{
    return value_true(argument(args, place, name));
}

struct buf builtin_scratch(void)
{
    struct buf b;
    buf_init(&b, TEMPLATE_RENDER_BYTES / 4);
    return b;
}

int64_t builtin_whole(struct render *r, struct value v)
{
    if (v.type != V_INT && v.type != V_BOOL) (void)builtin_fail(r, "the integer", v);
    return v.type == V_INT ? v.integer : v.boolean;
}

/* ---- tests ---- */

enum test {
    IS_DEFINED, IS_UNDEFINED, IS_NONE, IS_STRING, IS_MAPPING, IS_ITERABLE, IS_SEQUENCE, IS_NUMBER, IS_INTEGER, IS_FLOAT,
    IS_BOOLEAN, IS_TRUE, IS_FALSE, IS_EVEN, IS_ODD, IS_DIVISIBLE, IS_EQUAL, IS_NOT_EQUAL, IS_LESS, IS_LESS_EQUAL,
    IS_GREATER, IS_GREATER_EQUAL, IS_IN, IS_CALLABLE, IS_LOWER, IS_UPPER, IS_FILTER
};

static bool is_in(struct render *r, struct value v, struct value hay)
{
    if (hay.type == V_STRING && v.type == V_STRING) return text_find_from(hay.text, 0, v.text) != SIZE_MAX;
    struct list *list = value_iterate(r, hay);
    for (size_t i = 0; list && i < list->count && render_step(r, 1); i++)
        if (value_equal(r, list->items[i], v)) return true;
    return false;
}

static bool is_cased(struct render *r, struct value v, enum letter_case want)
{
    struct text t = value_str(r, v);
    bool letters = false;
    for (size_t i = 0; i < t.len; i++) {
        bool up = t.data[i] >= 'A' && t.data[i] <= 'Z', low = t.data[i] >= 'a' && t.data[i] <= 'z';
        if (want == UPPER ? low : up) return false;
        letters = letters || up || low;
    }
    return letters;
}

static bool is_divisible(struct render *r, struct value v, struct value by)
{
    int64_t n = builtin_whole(r, v), d = builtin_whole(r, by);
    if (!r->code && d == 0) render_fail(r, ERR_INVALID, "division by zero");
    return !r->code && (d == -1 || n % d == 0);
}

static bool run_test(struct render *r, enum test test, struct value v, struct value other)
{
    switch (test) {
    case IS_DEFINED: return v.type != V_UNDEFINED;
    case IS_UNDEFINED: return v.type == V_UNDEFINED;
    case IS_NONE: return v.type == V_NONE;
    case IS_STRING: return v.type == V_STRING;
    case IS_MAPPING: return v.type == V_DICT;
    case IS_ITERABLE: return v.type == V_STRING || v.type == V_LIST || v.type == V_DICT || v.type == V_UNDEFINED || v.type == V_LOOP;
    case IS_SEQUENCE: return v.type == V_STRING || v.type == V_LIST || v.type == V_DICT || v.type == V_UNDEFINED;
    case IS_NUMBER: return value_is_number(v);
    case IS_INTEGER: return v.type == V_INT;
    case IS_FLOAT: return v.type == V_FLOAT;
    case IS_BOOLEAN: return v.type == V_BOOL;
    case IS_TRUE: return v.type == V_BOOL && v.boolean;
    case IS_FALSE: return v.type == V_BOOL && !v.boolean;
    case IS_EVEN: return builtin_whole(r, v) % 2 == 0;
    case IS_ODD: return builtin_whole(r, v) % 2 != 0;
    case IS_DIVISIBLE: return is_divisible(r, v, other);
    case IS_EQUAL: return value_equal(r, v, other);
    case IS_NOT_EQUAL: return !value_equal(r, v, other);
    case IS_LESS: return value_order(r, v, other) < 0;
    case IS_LESS_EQUAL: return value_order(r, v, other) <= 0;
    case IS_GREATER: return value_order(r, v, other) > 0;
    case IS_GREATER_EQUAL: return value_order(r, v, other) >= 0;
    case IS_IN: return is_in(r, v, other);
    case IS_CALLABLE: return v.type == V_MACRO || v.type == V_FUNCTION;
    case IS_LOWER: return is_cased(r, v, LOWER);
    default: return is_cased(r, v, UPPER);
    }
}

bool template_test(struct render *r, struct text name, struct value v, const struct arguments *args)
{
    static const struct {
        const char *name;
        enum test test;
    } TESTS[] = {
        {"defined", IS_DEFINED},   {"undefined", IS_UNDEFINED}, {"none", IS_NONE},         {"string", IS_STRING},
        {"mapping", IS_MAPPING},   {"iterable", IS_ITERABLE},   {"sequence", IS_SEQUENCE}, {"number", IS_NUMBER},
        {"integer", IS_INTEGER},   {"float", IS_FLOAT},         {"boolean", IS_BOOLEAN},   {"true", IS_TRUE},
        {"false", IS_FALSE},       {"even", IS_EVEN},           {"odd", IS_ODD},           {"divisibleby", IS_DIVISIBLE},
        {"equalto", IS_EQUAL},     {"eq", IS_EQUAL},            {"==", IS_EQUAL},          {"sameas", IS_EQUAL},
        {"ne", IS_NOT_EQUAL},      {"!=", IS_NOT_EQUAL},        {"lt", IS_LESS},           {"lessthan", IS_LESS},
        {"<", IS_LESS},            {"le", IS_LESS_EQUAL},       {"<=", IS_LESS_EQUAL},     {"gt", IS_GREATER},
        {"greaterthan", IS_GREATER}, {">", IS_GREATER},         {"ge", IS_GREATER_EQUAL},  {">=", IS_GREATER_EQUAL},
        {"in", IS_IN},             {"callable", IS_CALLABLE},   {"lower", IS_LOWER},       {"upper", IS_UPPER},
    };
    if (r->code) return false;
    for (size_t i = 0; i < sizeof TESTS / sizeof TESTS[0]; i++)
        if (text_is(name, TESTS[i].name)) return run_test(r, TESTS[i].test, v, argument(args, 0, NULL)) && !r->code;
    render_fail(r, ERR_UNSUPPORTED, "the test '%.*s' is not supported", (int)(name.len < 40 ? name.len : 40), name.data);
    return false;
}

/* ---- functions ---- */

static struct value call_raise(struct render *r, const struct arguments *args)
{
    struct text words = value_str(r, argument(args, 0, "message"));
    if (!r->code) r->code = err_set(r->e, ERR_INVALID, "%.*s", (int)(words.len < 4096 ? words.len : 4096), words.data);
    return value_undefined();
}

static struct value call_now(struct render *r, const struct arguments *args)
{
    char format[128], text[256];
    struct text t = argument_text(r, args, 0, "format", "");
    time_t now = (time_t)(clock_wall_ms() / 1000);
    struct tm local;
    if (t.len >= sizeof format || !localtime_r(&now, &local)) {
        render_fail(r, ERR_INVALID, "strftime_now: too long a format");
        return value_undefined();
    }
    memcpy(format, t.data, t.len);
    format[t.len] = 0;
    size_t n = strftime(text, sizeof text, format, &local);
    return value_copy_text(r, text, n);
}

static struct value call_range(struct render *r, const struct arguments *args)
{
    enum { RANGE_MAX = 100000 };
    int64_t from = args->count > 1 ? argument_int(args, 0, NULL, 0) : 0, to = argument_int(args, args->count > 1, NULL, 0);
    int64_t step = argument_int(args, 2, NULL, 1);
    if (args->count < 1 || step == 0) render_fail(r, ERR_INVALID, "range needs an end, and a step that is not 0");
    struct value out = list_new(r, 16, false);
    for (int64_t i = from; !r->code && (step > 0 ? i < to : i > to);) {
        if (out.list->count >= RANGE_MAX) render_fail(r, ERR_TOO_LARGE, "a range of more than %d", RANGE_MAX);
        list_add(r, out, value_int(i));
        if (__builtin_add_overflow(i, step, &i)) break;
    }
    return out;
}

struct value dict_from(struct render *r, const struct arguments *args, enum value_type type)
{
    struct value out = dict_new(r), from = argument(args, 0, NULL);
    if (r->code) return out;
    for (size_t i = 0; from.type == V_DICT && i < from.dict->count && !r->code; i++)
        dict_set(r, out, from.dict->entries[i].key, from.dict->entries[i].value);
    for (int i = args->count; i < args->total && !r->code; i++) dict_set(r, out, value_text(args->names[i]), args->values[i]);
    out.type = type;
    return out;
}

struct value template_function(struct render *r, struct text name, const struct arguments *args)
{
    if (text_is(name, "raise_exception")) return call_raise(r, args);
    if (text_is(name, "strftime_now")) return call_now(r, args);
    if (text_is(name, "range")) return call_range(r, args);
    if (text_is(name, "namespace")) return dict_from(r, args, V_NAMESPACE);
    if (text_is(name, "dict")) return dict_from(r, args, V_DICT);
    render_fail(r, ERR_UNSUPPORTED, "the function '%.*s' is not known", (int)(name.len < 40 ? name.len : 40), name.data);
    return value_undefined();
}
