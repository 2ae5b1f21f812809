#include "engine/template_private.h"

#include <math.h>
#include <string.h>

/* Expressions. Each evaluation counts a step and a level of depth; after a failure everything returns undefined. */

static struct value wrong_operands(struct render *r, const char *op, struct value a, struct value b)
{
    render_fail(r, ERR_INVALID, "'%s' of a %s and a %s", op, value_type_name(a), value_type_name(b));
    return value_undefined();
}

/* ---- arithmetic ---- */

static struct value join_texts(struct render *r, struct text a, struct text b)
{
    char *data = render_alloc(r, a.len + b.len + 1, 1);
    if (!data) return value_undefined();
    if (a.len) memcpy(data, a.data, a.len);
    if (b.len) memcpy(data + a.len, b.data, b.len);
    return value_text((struct text){data, a.len + b.len});
}

static struct value join_lists(struct render *r, const struct list *a, const struct list *b)
{
    struct value out = list_new(r, a->count + b->count, a->tuple);
    for (size_t i = 0; !r->code && i < a->count; i++) list_add(r, out, a->items[i]);
    for (size_t i = 0; !r->code && i < b->count; i++) list_add(r, out, b->items[i]);
    return out;
}

static struct value repeat(struct render *r, struct value v, int64_t times)
{
    size_t len = v.type == V_STRING ? v.text.len : v.list->count;
    if (times < 0 || len == 0) times = 0;
    if ((uint64_t)times > TEMPLATE_RENDER_BYTES || len > TEMPLATE_RENDER_BYTES / ((size_t)times + 1)) {
        render_fail(r, ERR_TOO_LARGE, "repeated %lld times", (long long)times);
        return value_undefined();
    }
    if (v.type == V_LIST) {
        struct value out = list_new(r, len * (size_t)times, v.list->tuple);
        for (int64_t i = 0; i < times; i++)
            for (size_t k = 0; !r->code && k < len; k++) list_add(r, out, v.list->items[k]);
        return out;
    }
    char *data = render_alloc(r, len * (size_t)times + 1, 1);
    for (int64_t i = 0; data && i < times; i++) memcpy(data + (size_t)i * len, v.text.data, len);
    return data ? value_text((struct text){data, len * (size_t)times}) : value_undefined();
}

static struct value floats(struct render *r, enum operator op, double x, double y)
{
    if ((op == O_DIVIDE || op == O_FLOOR || op == O_MODULO) && y == 0) {
        render_fail(r, ERR_INVALID, "division by zero");
        return value_undefined();
    }
    switch (op) {
    case O_ADD: return value_float(x + y);
    case O_SUBTRACT: return value_float(x - y);
    case O_MULTIPLY: return value_float(x * y);
    case O_DIVIDE: return value_float(x / y);
    case O_FLOOR: return value_float(floor(x / y));
    case O_MODULO: return value_float(x - floor(x / y) * y);
    default: return value_float(pow(x, y));
    }
}

static struct value int_power(struct render *r, int64_t x, int64_t y)
{
    int64_t result = 1;
    if (y < 0) return value_float(pow((double)x, (double)y));
    for (; y && !r->code; y--) {
        if (__builtin_mul_overflow(result, x, &result)) render_fail(r, ERR_INVALID, "the number is too large");
        if (result == 0 || (result == 1 && x == 1)) break;
        if (x == -1) return value_int(y % 2 ? result : -result);
    }
    return value_int(result);
}

static struct value integers(struct render *r, enum operator op, int64_t x, int64_t y)
{
    int64_t out = 0;
    bool over = false;
    if ((op == O_DIVIDE || op == O_FLOOR || op == O_MODULO) && (y == 0 || (y == -1 && x == INT64_MIN))) {
        render_fail(r, ERR_INVALID, y ? "the number is too large" : "division by zero");
        return value_undefined();
    }
    switch (op) {
    case O_ADD: over = __builtin_add_overflow(x, y, &out); break;
    case O_SUBTRACT: over = __builtin_sub_overflow(x, y, &out); break;
    case O_MULTIPLY: over = __builtin_mul_overflow(x, y, &out); break;
    case O_DIVIDE: return value_float((double)x / (double)y);
    case O_FLOOR: out = x / y - (x % y != 0 && (x < 0) != (y < 0)); break;
    case O_MODULO: out = x % y + (x % y != 0 && (x < 0) != (y < 0) ? y : 0); break;
    default: return int_power(r, x, y);
    }
    if (over) render_fail(r, ERR_INVALID, "the number is too large");
    return value_int(out);
}

static int64_t integer_of(struct value v)
{
    return v.type == V_BOOL ? v.boolean : v.integer;
}

static struct value binary(struct render *r, enum operator op, struct value a, struct value b)
{
    static const char *const SIGNS[] = {"+", "-", "*", "/", "//", "%", "**"};
    if (r->code) return value_undefined();
    if (value_is_number(a) && value_is_number(b)) {
        if (a.type == V_FLOAT || b.type == V_FLOAT) return floats(r, op, value_real(a), value_real(b));
        return integers(r, op, integer_of(a), integer_of(b));
    }
    if (op == O_ADD && a.type == V_STRING && b.type == V_STRING) return join_texts(r, a.text, b.text);
    if (op == O_ADD && a.type == V_LIST && b.type == V_LIST && a.list->tuple == b.list->tuple) return join_lists(r, a.list, b.list);
    bool a_whole = a.type == V_INT || a.type == V_BOOL, b_whole = b.type == V_INT || b.type == V_BOOL;
    if (op == O_MULTIPLY && (a.type == V_STRING || a.type == V_LIST) && b_whole) return repeat(r, a, integer_of(b));
    if (op == O_MULTIPLY && (b.type == V_STRING || b.type == V_LIST) && a_whole) return repeat(r, b, integer_of(a));
    return wrong_operands(r, SIGNS[op], a, b);
}

/* ---- comparison ---- */

static bool contains(struct render *r, struct value needle, struct value hay)
{
    if (hay.type == V_STRING) {
        if (needle.type != V_STRING) (void)wrong_operands(r, "in", needle, hay);
        else if (render_step(r, hay.text.len / 16))
            return needle.text.len == 0 ||
                   (hay.text.len && memmem(hay.text.data, hay.text.len, needle.text.data, needle.text.len));
        return false;
    }
    if (hay.type == V_DICT) {
        if (needle.type == V_DICT || (needle.type == V_LIST && !needle.list->tuple))
            (void)wrong_operands(r, "in", needle, hay);
        return dict_find(r, hay, needle);
    }
    struct list *list = value_iterate(r, hay);
    for (size_t i = 0; list && i < list->count && render_step(r, 1); i++)
        if (value_equal(r, list->items[i], needle)) return true;
    return false;
}

static bool compare(struct render *r, enum operator op, struct value a, struct value b)
{
    switch (op) {
    case O_EQUAL: return value_equal(r, a, b);
    case O_NOT_EQUAL: return !value_equal(r, a, b);
    case O_LESS: return value_order(r, a, b) < 0;
    case O_LESS_EQUAL: return value_order(r, a, b) <= 0;
    case O_GREATER: return value_order(r, a, b) > 0;
    case O_GREATER_EQUAL: return value_order(r, a, b) >= 0;
    case O_IN: return contains(r, a, b);
    default: return !contains(r, a, b);
    }
}

/* a < b < c is (a < b) and (b < c), as in Python */
static struct value eval_comparison(struct render *r, const struct node *n)
{
    struct value left = template_eval(r, n->a);
    for (const struct node *operand = n->b; operand && !r->code; operand = operand->next) {
        struct value right = template_eval(r, operand->a);
        if (r->code || !compare(r, operand->op, left, right)) return value_bool(false);
        left = right;
    }
    return value_bool(true);
}

/* ---- names, calls ---- */

static struct value eval_name(struct render *r, struct text name)
{
    for (const struct scope *s = r->scope; s && render_step(r, 1); s = s->parent)
        for (const struct variable *v = s->variables; v; v = v->next)
            if (text_equal(v->name, name)) return v->value;
    return value_undefined();
}

static void eval_arguments(struct render *r, const struct node *n, struct arguments *args)
{
    args->count = args->total = 0;
    for (; n && !r->code && args->total < TEMPLATE_ARGS_MAX; n = n->next) {
        bool keyword = n->kind == N_KEYWORD;
        if (!keyword && args->count < args->total) render_fail(r, ERR_INVALID, "an argument by place after one by name");
        args->values[args->total] = template_eval(r, keyword ? n->a : n);
        args->names[args->total] = keyword ? n->name : (struct text){NULL, 0};
        args->total++;
        args->count += !keyword;
    }
}

struct value argument(const struct arguments *args, int place, const char *name)
{
    if (place >= 0 && place < args->count) return args->values[place];
    for (int i = args->count; name && i < args->total; i++)
        if (text_is(args->names[i], name)) return args->values[i];
    return value_undefined();
}

static struct value eval_call(struct render *r, const struct node *n)
{
    struct arguments args;
    const struct node *function = n->a;
    if (function->kind == N_ATTRIBUTE) {
        struct value object = template_eval(r, function->a);
        struct value member = r->code || object.type == V_STRING || object.type == V_LIST || object.type == V_UNDEFINED ||
                                      (object.type == V_LOOP)
                                  ? value_undefined()
                                  : value_attribute(r, object, function->name);
        eval_arguments(r, n->b, &args);
        if (r->code) return value_undefined();
        r->line = n->line;
        if (member.type == V_MACRO) return template_call_macro(r, member.macro, &args);
        return template_method(r, object, function->name, &args);
    }
    struct value callee = template_eval(r, function);
    eval_arguments(r, n->b, &args);
    if (r->code) return value_undefined();
    r->line = n->line;
    if (callee.type == V_MACRO) return template_call_macro(r, callee.macro, &args);
    if (function->kind == N_NAME && (callee.type == V_UNDEFINED || callee.type == V_FUNCTION))
        return template_function(r, function->name, &args);
    render_fail(r, ERR_INVALID, "a %s cannot be called", value_type_name(callee));
    return value_undefined();
}

/* ---- the rest ---- */

static struct value eval_list(struct render *r, const struct node *n)
{
    struct value list = list_new(r, 4, n->kind == N_TUPLE);
    for (const struct node *item = n->a; item && !r->code; item = item->next) list_add(r, list, template_eval(r, item));
    return list;
}

static struct value eval_dict(struct render *r, const struct node *n)
{
    struct value dict = dict_new(r);
    for (const struct node *pair = n->a; pair && !r->code; pair = pair->next) {
        struct value key = template_eval(r, pair->a);
        dict_set(r, dict, key, template_eval(r, pair->b));
    }
    return dict;
}

static struct value eval_item(struct render *r, const struct node *n)
{
    struct value object = template_eval(r, n->a);
    if (r->code) return object;
    if (n->b->kind != N_SLICE) {
        struct value index = template_eval(r, n->b);
        r->line = n->line;
        return r->code ? index : value_item(r, object, index);
    }
    const struct node *parts[3] = {n->b->a, n->b->b, n->b->c};
    struct value bounds[3];
    for (int i = 0; i < 3; i++) bounds[i] = parts[i] ? template_eval(r, parts[i]) : value_undefined();
    return r->code ? value_undefined() : value_slice(r, object, bounds);
}

static struct value eval_concat(struct render *r, const struct node *n)
{
    struct value whole = value_text(TEXT(""));
    for (const struct node *part = n->a; part && !r->code; part = part->next) {
        struct text text = value_str(r, template_eval(r, part));
        if (!r->code) whole = join_texts(r, whole.text, text);
    }
    return whole;
}

static struct value eval_sign(struct render *r, const struct node *n)
{
    struct value v = template_eval(r, n->a);
    if (r->code) return v;
    if (!value_is_number(v)) return wrong_operands(r, n->kind == N_NEGATE ? "-" : "+", v, v);
    if (n->kind == N_PLUS) return v.type == V_BOOL ? value_int(v.boolean) : v;
    return v.type == V_FLOAT ? value_float(-v.real) : integers(r, O_SUBTRACT, 0, integer_of(v));
}

static struct value eval_filter(struct render *r, const struct node *n)
{
    struct arguments args;
    struct value v = template_eval(r, n->a);
    eval_arguments(r, n->b, &args);
    r->line = n->line;
    return r->code ? value_undefined() : template_filter(r, n->name, v, &args);
}

static struct value eval_test(struct render *r, const struct node *n)
{
    struct arguments args;
    struct value v = template_eval(r, n->a);
    eval_arguments(r, n->b, &args);
    r->line = n->line;
    return r->code ? value_undefined() : value_bool(template_test(r, n->name, v, &args));
}

static struct value eval_logic(struct render *r, const struct node *n)
{
    struct value left = template_eval(r, n->a);
    if (r->code || value_true(left) == (n->kind == N_OR)) return left;
    return template_eval(r, n->b);
}

static struct value eval_condition(struct render *r, const struct node *n)
{
    bool yes = value_true(template_eval(r, n->b));
    if (r->code) return value_undefined();
    if (yes) return template_eval(r, n->a);
    return n->c ? template_eval(r, n->c) : value_undefined();
}

static struct value eval_binary(struct render *r, const struct node *n)
{
    struct value left = template_eval(r, n->a), right = template_eval(r, n->b);
    r->line = n->line;
    return binary(r, n->op, left, right);
}

static struct value eval_attribute(struct render *r, const struct node *n)
{
    struct value object = template_eval(r, n->a);
    r->line = n->line;
    return r->code ? object : value_attribute(r, object, n->name);
}

static struct value eval_any(struct render *r, const struct node *n)
{
    switch (n->kind) {
    case N_CONST: return n->value;
    case N_NAME: return eval_name(r, n->name);
    case N_LIST:
    case N_TUPLE: return eval_list(r, n);
    case N_DICT: return eval_dict(r, n);
    case N_ATTRIBUTE: return eval_attribute(r, n);
    case N_ITEM: return eval_item(r, n);
    case N_CALL: return eval_call(r, n);
    case N_FILTER: return eval_filter(r, n);
    case N_TEST: return eval_test(r, n);
    case N_NOT: return value_bool(!value_true(template_eval(r, n->a)));
    case N_NEGATE:
    case N_PLUS: return eval_sign(r, n);
    case N_BINARY: return eval_binary(r, n);
    case N_AND:
    case N_OR: return eval_logic(r, n);
    case N_COMPARE: return eval_comparison(r, n);
    case N_CONDITION: return eval_condition(r, n);
    case N_CONCAT: return eval_concat(r, n);
    default: return value_undefined();
    }
}

struct value template_eval(struct render *r, const struct node *n)
{
    if (!render_step(r, 1)) return value_undefined();
    if (++r->depth > TEMPLATE_DEPTH_MAX) render_fail(r, ERR_TOO_LARGE, "nested more than %d deep", TEMPLATE_DEPTH_MAX);
    r->line = n->line;
    struct value v = r->code ? value_undefined() : eval_any(r, n);
    r->depth--;
    return r->code ? value_undefined() : v;
}
