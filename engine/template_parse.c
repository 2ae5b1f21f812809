#include "engine/template_private.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Recursive descent over the tokens, in Jinja's own order of precedence:
 *   condition: or … if … else …;  or;  and;  not;  comparison, in, not in;  + -;  ~;  * / // %;  **;  unary;
 *   primary with .name [index] (call) and, last, |filter and is test */

struct parser {
    struct arena *arena;
    const struct token *at;
    int depth, loops;
    struct err *e;
    enum err_code code;
};

static struct node *fail(struct parser *p, enum err_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static struct node *fail(struct parser *p, enum err_code code, const char *format, ...)
{
    char what[160];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(what, sizeof what, format, args);
    va_end(args);
    if (!p->code) p->code = err_set(p->e, code, "chat template, line %d: %s", p->at->line, what);
    return NULL;
}

static struct node *node_new(struct parser *p, enum node_kind kind)
{
    struct node *n = p->code ? NULL : arena_alloc(p->arena, sizeof *n);
    if (!n) return p->code ? NULL : fail(p, ERR_TOO_LARGE, "too long a template");
    n->kind = kind;
    n->line = p->at->line;
    return n;
}

/* ---- tokens ---- */

static bool is_operator(const struct parser *p, const char *op)
{
    return p->at->type == T_OPERATOR && text_is(p->at->text, op);
}

static bool is_name(const struct parser *p, const char *name)
{
    return p->at->type == T_NAME && text_is(p->at->text, name);
}

static void advance(struct parser *p)
{
    if (p->at->type != T_EOF) p->at++;
}

static bool accept_operator(struct parser *p, const char *op)
{
    bool yes = is_operator(p, op);
    if (yes) advance(p);
    return yes;
}

static bool accept_name(struct parser *p, const char *name)
{
    bool yes = is_name(p, name);
    if (yes) advance(p);
    return yes;
}

static const char *shown(const struct token *t, char out[static 48])
{
    if (t->type == T_EOF) return "the end";
    (void)snprintf(out, 48, "'%.*s'", (int)(t->text.len < 40 ? t->text.len : 40), t->text.data);
    return out;
}
#define SHOWN(p) shown((p)->at, (char[48]){0})

static void expect_operator(struct parser *p, const char *op)
{
    if (!accept_operator(p, op)) (void)fail(p, ERR_SYNTAX, "'%s' was expected, not %s", op, SHOWN(p));
}

static struct text expect_name(struct parser *p)
{
    struct text name = p->at->text;
    if (p->at->type != T_NAME) (void)fail(p, ERR_SYNTAX, "a name was expected, not %s", SHOWN(p));
    advance(p);
    return name;
}

/* name or name.name…, as filters and tests of extensions have them: the whole is the name. */
static struct text expect_dotted_name(struct parser *p)
{
    struct text name = expect_name(p);
    while (!p->code && is_operator(p, ".")) {
        advance(p);
        struct text part = expect_name(p);
        char *joined = arena_alloc(p->arena, name.len + part.len + 2);
        if (!joined) (void)fail(p, ERR_TOO_LARGE, "too long a template");
        if (p->code) break;
        memcpy(joined, name.data, name.len);
        joined[name.len] = '.';
        memcpy(joined + name.len + 1, part.data, part.len);
        name = (struct text){joined, name.len + 1 + part.len};
    }
    return name;
}

static void expect_block_end(struct parser *p)
{
    if (p->at->type != T_BLOCK_END) (void)fail(p, ERR_SYNTAX, "the tag should end before %s", SHOWN(p));
    advance(p);
}

static bool enter(struct parser *p)
{
    if (++p->depth > TEMPLATE_NEST_MAX) (void)fail(p, ERR_TOO_LARGE, "nested more than %d deep", TEMPLATE_NEST_MAX);
    return !p->code;
}

/* ---- expressions ---- */

static struct node *parse_expression(struct parser *p);
static struct node *parse_unary(struct parser *p, bool with_filter);
static struct node *parse_primary(struct parser *p);
static struct node *parse_postfix(struct parser *p, struct node *n);

static struct node *constant(struct parser *p, struct value v)
{
    struct node *n = node_new(p, N_CONST);
    if (n) n->value = v;
    return n;
}

static struct node *parse_number(struct parser *p)
{
    char digits[64];
    struct text t = p->at->text;
    (void)snprintf(digits, sizeof digits, "%.*s", (int)t.len, t.data);
    bool real = p->at->type == T_FLOAT;
    errno = 0;
    long long i = real ? 0 : strtoll(digits, NULL, 10);
    if (!real && errno) return fail(p, ERR_UNSUPPORTED, "the number %s is too large", digits);
    struct node *n = constant(p, real ? value_float(strtod(digits, NULL)) : value_int(i));
    advance(p);
    return n;
}

static struct node *parse_string(struct parser *p)
{
    struct text joined = p->at->text;
    struct node *n = node_new(p, N_CONST);
    advance(p);
    while (n && p->at->type == T_STRING) { /* neighbours are one string */
        char *more = arena_alloc(p->arena, joined.len + p->at->text.len + 1);
        if (!more) return fail(p, ERR_TOO_LARGE, "too long a template");
        memcpy(more, joined.data, joined.len);
        memcpy(more + joined.len, p->at->text.data, p->at->text.len);
        joined = (struct text){more, joined.len + p->at->text.len};
        advance(p);
    }
    if (n) n->value = value_text(joined);
    return n;
}

/* Elements up to `close`, the opening already taken. */
static struct node *parse_elements(struct parser *p, enum node_kind kind, const char *close)
{
    struct node *n = node_new(p, kind), **tail = n ? &n->a : NULL;
    while (!p->code && !is_operator(p, close)) {
        struct node *element = parse_expression(p);
        if (!element) return NULL;
        *tail = element;
        tail = &element->next;
        if (!accept_operator(p, ",")) break;
    }
    expect_operator(p, close);
    return p->code ? NULL : n;
}

static struct node *parse_dict(struct parser *p)
{
    struct node *n = node_new(p, N_DICT), **tail = n ? &n->a : NULL;
    while (!p->code && !is_operator(p, "}")) {
        struct node *pair = node_new(p, N_KEYWORD); /* a key in a, its value in b */
        if (!pair) return NULL;
        pair->a = parse_expression(p);
        expect_operator(p, ":");
        pair->b = parse_expression(p);
        if (p->code) return NULL;
        *tail = pair;
        tail = &pair->next;
        if (!accept_operator(p, ",")) break;
    }
    expect_operator(p, "}");
    return p->code ? NULL : n;
}

/* ( already taken: a tuple, or an expression in parentheses */
static struct node *parse_parenthesis(struct parser *p)
{
    if (accept_operator(p, ")")) return node_new(p, N_TUPLE);
    struct node *first = parse_expression(p);
    if (!first || accept_operator(p, ")")) return p->code ? NULL : first;
    expect_operator(p, ",");
    struct node *tuple = p->code ? NULL : parse_elements(p, N_TUPLE, ")");
    if (!tuple) return NULL;
    first->next = tuple->a;
    tuple->a = first;
    return tuple;
}

static struct node *parse_name(struct parser *p)
{
    static const struct {
        const char *name;
        int value;
    } CONSTANTS[] = {{"true", 1}, {"True", 1}, {"false", 0}, {"False", 0}, {"none", -1}, {"None", -1}};
    for (size_t i = 0; i < sizeof CONSTANTS / sizeof CONSTANTS[0]; i++)
        if (accept_name(p, CONSTANTS[i].name))
            return constant(p, CONSTANTS[i].value < 0 ? value_none() : value_bool(CONSTANTS[i].value));
    struct node *n = node_new(p, N_NAME);
    if (n) n->name = p->at->text;
    advance(p);
    return n;
}

static struct node *parse_primary(struct parser *p)
{
    switch (p->at->type) {
    case T_NAME: return parse_name(p);
    case T_STRING: return parse_string(p);
    case T_INT:
    case T_FLOAT: return parse_number(p);
    default: break;
    }
    if (accept_operator(p, "(")) return parse_parenthesis(p);
    if (accept_operator(p, "[")) return parse_elements(p, N_LIST, "]");
    if (accept_operator(p, "{")) return parse_dict(p);
    return fail(p, ERR_SYNTAX, "an expression was expected, not %s", SHOWN(p));
}

/* ( already taken */
static struct node *parse_arguments(struct parser *p)
{
    struct node *first = NULL, **tail = &first;
    int count = 0;
    while (!p->code && !is_operator(p, ")")) {
        if (is_operator(p, "*") || is_operator(p, "**"))
            return fail(p, ERR_UNSUPPORTED, "* and ** in a call are not supported");
        bool keyword = p->at->type == T_NAME && p->at[1].type == T_OPERATOR && text_is(p->at[1].text, "=");
        struct node *argument;
        if (keyword) {
            argument = node_new(p, N_KEYWORD);
            if (!argument) return NULL;
            argument->name = expect_name(p);
            advance(p);
            argument->a = parse_expression(p);
        } else {
            argument = parse_expression(p);
        }
        if (p->code) return NULL;
        if (++count > TEMPLATE_ARGS_MAX) return fail(p, ERR_TOO_LARGE, "more than %d arguments", TEMPLATE_ARGS_MAX);
        *tail = argument;
        tail = &argument->next;
        if (!accept_operator(p, ",")) break;
    }
    expect_operator(p, ")");
    return p->code ? NULL : first;
}

/* [ already taken */
static struct node *parse_subscript(struct parser *p)
{
    struct node *parts[3] = {NULL}, *n = NULL;
    int colons = 0;
    while (!p->code && !is_operator(p, "]")) {
        if (accept_operator(p, ":")) {
            if (++colons > 2) return fail(p, ERR_SYNTAX, "a slice has three parts at most");
        } else {
            if (parts[colons]) return fail(p, ERR_SYNTAX, "']' was expected, not %s", SHOWN(p));
            parts[colons] = parse_expression(p);
        }
    }
    expect_operator(p, "]");
    if (p->code || !colons) return parts[0] || p->code ? parts[0] : fail(p, ERR_SYNTAX, "an index is missing");
    if ((n = node_new(p, N_SLICE))) {
        n->a = parts[0];
        n->b = parts[1];
        n->c = parts[2];
    }
    return n;
}

static struct node *parse_dot(struct parser *p, struct node *object)
{
    struct node *n = node_new(p, N_ATTRIBUTE);
    if (!n) return NULL;
    n->a = object;
    if (p->at->type == T_INT) { /* x.0 is x[0] */
        n->kind = N_ITEM;
        n->b = parse_number(p);
    } else {
        n->name = expect_name(p);
    }
    return n;
}

static struct node *parse_call(struct parser *p, struct node *function)
{
    struct node *n = node_new(p, N_CALL);
    if (!n) return NULL;
    n->a = function;
    n->b = parse_arguments(p);
    return n;
}

static struct node *parse_postfix(struct parser *p, struct node *n)
{
    int depth = p->depth;
    while (n && !p->code) {
        if (accept_operator(p, ".")) {
            n = parse_dot(p, n);
        } else if (accept_operator(p, "[")) {
            struct node *item = node_new(p, N_ITEM);
            if (!item) break;
            item->a = n;
            item->b = parse_subscript(p);
            n = item;
        } else if (accept_operator(p, "(")) {
            n = parse_call(p, n);
        } else {
            break;
        }
        if (!enter(p)) break; /* a.b.c… nests as it is evaluated */
    }
    p->depth = depth;
    return p->code ? NULL : n;
}

static struct node *parse_filter(struct parser *p, struct node *operand)
{
    struct node *n = node_new(p, N_FILTER);
    if (!n) return NULL;
    n->a = operand;
    n->name = expect_dotted_name(p);
    if (accept_operator(p, "(")) n->b = parse_arguments(p);
    return p->code ? NULL : n;
}

static bool starts_test_argument(const struct parser *p)
{
    switch (p->at->type) {
    case T_NAME: return !is_name(p, "else") && !is_name(p, "or") && !is_name(p, "and") && !is_name(p, "is") && !is_name(p, "if");
    case T_STRING:
    case T_INT:
    case T_FLOAT: return true;
    case T_OPERATOR: return is_operator(p, "[") || is_operator(p, "{");
    default: return false;
    }
}

static struct node *parse_test(struct parser *p, struct node *operand)
{
    bool negated = accept_name(p, "not");
    struct node *n = node_new(p, N_TEST);
    if (!n) return NULL;
    n->a = operand;
    n->name = expect_dotted_name(p);
    if (accept_operator(p, "(")) n->b = parse_arguments(p);
    else if (starts_test_argument(p)) n->b = parse_postfix(p, parse_primary(p));
    if (!negated || p->code) return p->code ? NULL : n;
    struct node *not = node_new(p, N_NOT);
    if (not) not->a = n;
    return not;
}

static struct node *parse_filters(struct parser *p, struct node *n)
{
    int depth = p->depth;
    while (n && !p->code) {
        if (accept_operator(p, "|")) n = parse_filter(p, n);
        else if (accept_name(p, "is")) n = parse_test(p, n);
        else if (accept_operator(p, "(")) n = parse_call(p, n);
        else break;
        if (!enter(p)) break;
    }
    p->depth = depth;
    return p->code ? NULL : n;
}

static struct node *parse_unary(struct parser *p, bool with_filter)
{
    struct node *n;
    if (!enter(p)) return NULL;
    if (is_operator(p, "-") || is_operator(p, "+")) {
        n = node_new(p, is_operator(p, "-") ? N_NEGATE : N_PLUS);
        advance(p);
        if (n) n->a = parse_unary(p, false);
    } else {
        n = parse_primary(p);
    }
    n = parse_postfix(p, n);
    if (with_filter) n = parse_filters(p, n);
    p->depth--;
    return p->code ? NULL : n;
}

/* One level of operators that group to the left: a row per operator, closed by NULL. */
struct level {
    const char *text;
    enum operator op;
};

static struct node *parse_left(struct parser *p, const struct level *level, struct node *(*operand)(struct parser *))
{
    struct node *left = operand(p);
    int depth = p->depth;
    while (left && !p->code) {
        const struct level *row = level;
        while (row->text && !is_operator(p, row->text)) row++;
        if (!row->text) break;
        struct node *n = node_new(p, N_BINARY);
        if (!n || !enter(p)) return NULL;
        advance(p);
        n->op = row->op;
        n->a = left;
        n->b = operand(p);
        left = n;
    }
    p->depth = depth;
    return p->code ? NULL : left;
}

static struct node *parse_filtered(struct parser *p)
{
    return parse_unary(p, true);
}

static struct node *parse_power(struct parser *p)
{
    static const struct level LEVEL[] = {{"**", O_POWER}, {NULL, 0}};
    return parse_left(p, LEVEL, parse_filtered);
}

static struct node *parse_product(struct parser *p)
{
    static const struct level LEVEL[] = {
        {"*", O_MULTIPLY}, {"/", O_DIVIDE}, {"//", O_FLOOR}, {"%", O_MODULO}, {NULL, 0}};
    return parse_left(p, LEVEL, parse_power);
}

static struct node *parse_concat(struct parser *p)
{
    struct node *first = parse_product(p);
    if (!first || !is_operator(p, "~")) return first;
    struct node *n = node_new(p, N_CONCAT);
    if (!n) return NULL;
    n->a = first;
    for (struct node *last = first; !p->code && accept_operator(p, "~"); last = last->next)
        if (!(last->next = parse_product(p))) return NULL;
    return p->code ? NULL : n;
}

static struct node *parse_sum(struct parser *p)
{
    static const struct level LEVEL[] = {{"+", O_ADD}, {"-", O_SUBTRACT}, {NULL, 0}};
    return parse_left(p, LEVEL, parse_concat);
}

static bool accept_comparison(struct parser *p, enum operator *op)
{
    static const struct level LEVEL[] = {{"==", O_EQUAL}, {"!=", O_NOT_EQUAL},    {"<", O_LESS}, {"<=", O_LESS_EQUAL},
                                         {">", O_GREATER}, {">=", O_GREATER_EQUAL}, {NULL, 0}};
    for (const struct level *row = LEVEL; row->text; row++) {
        if (!accept_operator(p, row->text)) continue;
        *op = row->op;
        return true;
    }
    bool not = is_name(p, "not") && p->at[1].type == T_NAME && text_is(p->at[1].text, "in");
    if (not) advance(p);
    if (!not && !is_name(p, "in")) return false;
    advance(p);
    *op = not ? O_NOT_IN : O_IN;
    return true;
}

static struct node *parse_comparison(struct parser *p)
{
    struct node *left = parse_sum(p), *n = NULL, **tail = NULL;
    enum operator op;
    while (left && !p->code && accept_comparison(p, &op)) {
        if (!n) {
            if (!(n = node_new(p, N_COMPARE))) return NULL;
            n->a = left;
            tail = &n->b;
        }
        struct node *operand = node_new(p, N_OPERAND);
        if (!operand) return NULL;
        operand->op = op;
        operand->a = parse_sum(p);
        *tail = operand;
        tail = &operand->next;
    }
    return p->code ? NULL : n ? n : left;
}

static struct node *parse_not(struct parser *p)
{
    if (!is_name(p, "not")) return parse_comparison(p);
    struct node *n = node_new(p, N_NOT);
    if (!n || !enter(p)) return NULL;
    advance(p);
    n->a = parse_not(p);
    p->depth--;
    return p->code ? NULL : n;
}

static struct node *parse_logic(struct parser *p, const char *word, enum node_kind kind,
                                struct node *(*operand)(struct parser *))
{
    struct node *left = operand(p);
    int depth = p->depth;
    while (left && !p->code && accept_name(p, word)) {
        struct node *n = node_new(p, kind);
        if (!n || !enter(p)) return NULL;
        n->a = left;
        n->b = operand(p);
        left = n;
    }
    p->depth = depth;
    return p->code ? NULL : left;
}

static struct node *parse_and(struct parser *p)
{
    return parse_logic(p, "and", N_AND, parse_not);
}

static struct node *parse_or(struct parser *p)
{
    return parse_logic(p, "or", N_OR, parse_and);
}

static struct node *parse_expression(struct parser *p)
{
    if (!enter(p)) return NULL;
    struct node *value = parse_or(p);
    int depth = p->depth;
    while (value && !p->code && accept_name(p, "if")) {
        struct node *n = node_new(p, N_CONDITION);
        if (!n || !enter(p)) return NULL;
        n->a = value;
        n->b = parse_or(p);
        if (accept_name(p, "else")) n->c = parse_expression(p);
        value = n;
    }
    p->depth = depth - 1;
    return p->code ? NULL : value;
}

/* a, b, c without parentheses: a tuple; `simple` leaves an `if` to the statement. */
static struct node *parse_tuple(struct parser *p, bool simple)
{
    struct node *first = simple ? parse_or(p) : parse_expression(p);
    if (!first || !is_operator(p, ",")) return first;
    struct node *n = node_new(p, N_TUPLE);
    if (!n) return NULL;
    n->a = first;
    for (struct node *last = first; !p->code && accept_operator(p, ","); last = last->next)
        if (!(last->next = simple ? parse_or(p) : parse_expression(p))) return NULL;
    return p->code ? NULL : n;
}

/* ---- statements ---- */

static struct node *parse_body(struct parser *p, const char *const *ends);

static struct node *parse_target_name(struct parser *p, bool attribute)
{
    struct node *n = node_new(p, N_NAME);
    if (!n) return NULL;
    n->name = expect_name(p);
    if (!attribute || !is_operator(p, ".")) return n;
    advance(p);
    return parse_dot(p, n);
}

/* name | name, name… | (name, name) | name.attribute */
static struct node *parse_target(struct parser *p, bool attribute)
{
    bool parenthesis = accept_operator(p, "(");
    struct node *first = parse_target_name(p, attribute && !parenthesis);
    if (first && is_operator(p, ",")) {
        struct node *n = node_new(p, N_TUPLE);
        if (!n) return NULL;
        n->a = first;
        for (struct node *last = first; !p->code && accept_operator(p, ","); last = last->next)
            if (!(last->next = parse_target_name(p, false))) return NULL;
        first = n;
    }
    if (parenthesis) expect_operator(p, ")");
    return p->code ? NULL : first;
}

static bool at_block(const struct parser *p, const char *name)
{
    return p->at->type == T_BLOCK_BEGIN && p->at[1].type == T_NAME && text_is(p->at[1].text, name);
}

/* {% name: takes the first two */
static bool accept_block(struct parser *p, const char *name)
{
    if (!at_block(p, name)) return false;
    advance(p);
    advance(p);
    return true;
}

static void expect_block(struct parser *p, const char *name)
{
    if (p->code) return;
    if (!accept_block(p, name)) {
        if (p->at->type == T_BLOCK_BEGIN) advance(p);
        (void)fail(p, ERR_SYNTAX, "{%% %s %%} was expected, not %s", name, SHOWN(p));
        return;
    }
    expect_block_end(p);
}

/* `if` or `elif` already taken */
static struct node *parse_if(struct parser *p)
{
    static const char *const ENDS[] = {"elif", "else", "endif", NULL}, *const LAST[] = {"endif", NULL};
    struct node *top = NULL, **place = &top;
    int depth = p->depth;
    do {
        struct node *n = node_new(p, N_IF);
        if (!n || !enter(p)) return NULL; /* each elif nests in the one before */
        n->a = parse_tuple(p, false);
        expect_block_end(p);
        n->b = parse_body(p, ENDS);
        *place = n;
        place = &n->c;
    } while (!p->code && accept_block(p, "elif"));
    if (!p->code && accept_block(p, "else")) {
        expect_block_end(p);
        *place = parse_body(p, LAST);
    }
    p->depth = depth;
    expect_block(p, "endif");
    return top;
}

static struct node *parse_for(struct parser *p)
{
    static const char *const ENDS[] = {"else", "endfor", NULL}, *const LAST[] = {"endfor", NULL};
    struct node *n = node_new(p, N_FOR);
    if (!n) return NULL;
    n->a = parse_target(p, false);
    if (!accept_name(p, "in")) return fail(p, ERR_SYNTAX, "'in' was expected, not %s", SHOWN(p));
    n->b = parse_tuple(p, true);
    if (accept_name(p, "if")) n->test = parse_expression(p);
    if (is_name(p, "recursive")) return fail(p, ERR_UNSUPPORTED, "recursive loops are not supported");
    expect_block_end(p);
    p->loops++;
    n->c = parse_body(p, ENDS);
    p->loops--;
    if (!p->code && accept_block(p, "else")) {
        expect_block_end(p);
        n->d = parse_body(p, LAST);
    }
    expect_block(p, "endfor");
    return n;
}

/* |filter… with nothing before the first | (its operand is filled in as it runs) */
static struct node *parse_bare_filters(struct parser *p)
{
    struct node *n = NULL;
    while (!p->code && accept_operator(p, "|")) n = parse_filter(p, n);
    return n;
}

static struct node *parse_set(struct parser *p)
{
    static const char *const ENDS[] = {"endset", NULL};
    struct node *n = node_new(p, N_SET);
    if (!n) return NULL;
    n->a = parse_target(p, true);
    if (accept_operator(p, "=")) {
        n->b = parse_tuple(p, false);
        expect_block_end(p);
        return n;
    }
    n->kind = N_SET_BLOCK;
    n->c = parse_bare_filters(p);
    expect_block_end(p);
    n->b = parse_body(p, ENDS);
    expect_block(p, "endset");
    return n;
}

static struct node *parse_macro(struct parser *p)
{
    static const char *const ENDS[] = {"endmacro", NULL};
    struct node *n = node_new(p, N_MACRO), **tail = n ? &n->a : NULL;
    if (!n) return NULL;
    n->name = expect_name(p);
    expect_operator(p, "(");
    for (int count = 1; !p->code && !is_operator(p, ")"); count++) {
        struct node *parameter = node_new(p, N_KEYWORD);
        if (!parameter) return NULL;
        parameter->name = expect_name(p);
        if (accept_operator(p, "=")) parameter->a = parse_expression(p);
        if (count > TEMPLATE_ARGS_MAX) return fail(p, ERR_TOO_LARGE, "more than %d parameters", TEMPLATE_ARGS_MAX);
        *tail = parameter;
        tail = &parameter->next;
        if (!accept_operator(p, ",")) break;
    }
    expect_operator(p, ")");
    expect_block_end(p);
    int loops = p->loops;
    p->loops = 0;
    n->b = parse_body(p, ENDS);
    p->loops = loops;
    expect_block(p, "endmacro");
    return n;
}

static struct node *parse_with(struct parser *p)
{
    static const char *const ENDS[] = {"endwith", NULL};
    struct node *n = node_new(p, N_SCOPE), **tail = n ? &n->a : NULL;
    while (n && !p->code && p->at->type != T_BLOCK_END) {
        struct node *set = node_new(p, N_SET);
        if (!set) return NULL;
        set->a = parse_target(p, false);
        expect_operator(p, "=");
        set->b = parse_expression(p);
        *tail = set;
        tail = &set->next;
        if (!accept_operator(p, ",")) break;
    }
    expect_block_end(p);
    if (!p->code) n->b = parse_body(p, ENDS);
    expect_block(p, "endwith");
    return n;
}

static struct node *parse_filter_block(struct parser *p)
{
    static const char *const ENDS[] = {"endfilter", NULL};
    struct node *n = node_new(p, N_FILTER_BLOCK);
    if (!n) return NULL;
    n->a = parse_filter(p, NULL);
    while (!p->code && accept_operator(p, "|")) n->a = parse_filter(p, n->a);
    expect_block_end(p);
    n->b = parse_body(p, ENDS);
    expect_block(p, "endfilter");
    return n;
}

/* {% generation %}…{% endgeneration %} marks what a model wrote, for training; here it is only its body. */
static struct node *parse_generation(struct parser *p)
{
    static const char *const ENDS[] = {"endgeneration", NULL};
    struct node *n = node_new(p, N_SCOPE);
    expect_block_end(p);
    if (!p->code) n->b = parse_body(p, ENDS);
    expect_block(p, "endgeneration");
    return n;
}

static struct node *parse_jump(struct parser *p, enum node_kind kind)
{
    if (!p->loops) return fail(p, ERR_SYNTAX, "break and continue need a loop around them");
    struct node *n = node_new(p, kind);
    expect_block_end(p);
    return n;
}

static struct node *parse_break(struct parser *p)
{
    return parse_jump(p, N_BREAK);
}

static struct node *parse_continue(struct parser *p)
{
    return parse_jump(p, N_CONTINUE);
}

static struct node *parse_statement(struct parser *p)
{
    static const struct {
        const char *name;
        struct node *(*parse)(struct parser *);
    } STATEMENTS[] = {
        {"if", parse_if},     {"for", parse_for},           {"set", parse_set},
        {"macro", parse_macro}, {"with", parse_with},       {"filter", parse_filter_block},
        {"break", parse_break}, {"continue", parse_continue}, {"generation", parse_generation},
    };
    advance(p); /* {% */
    struct text name = expect_name(p);
    for (size_t i = 0; i < sizeof STATEMENTS / sizeof STATEMENTS[0]; i++)
        if (!p->code && text_is(name, STATEMENTS[i].name)) return STATEMENTS[i].parse(p);
    if (name.len > 3 && memcmp(name.data, "end", 3) == 0)
        return fail(p, ERR_SYNTAX, "{%% %.*s %%} closes nothing", (int)(name.len < 40 ? name.len : 40), name.data);
    return fail(p, ERR_UNSUPPORTED, "the tag {%% %.*s %%} is not supported", (int)(name.len < 40 ? name.len : 40),
                name.data);
}

static struct node *parse_output(struct parser *p)
{
    struct node *n = node_new(p, N_OUTPUT);
    advance(p); /* {{ */
    if (n) n->a = parse_tuple(p, false);
    if (p->at->type != T_VARIABLE_END) return fail(p, ERR_SYNTAX, "'}}' was expected, not %s", SHOWN(p));
    advance(p);
    return n;
}

static struct node *parse_data(struct parser *p)
{
    struct node *n = node_new(p, N_DATA);
    if (n) n->value = value_text(p->at->text);
    advance(p);
    return n;
}

static bool at_end(const struct parser *p, const char *const *ends)
{
    for (; ends && *ends; ends++)
        if (at_block(p, *ends)) return true;
    return p->at->type == T_EOF;
}

/* Statements up to (not with) one of the tags that end them, or the end of the source. */
static struct node *parse_body(struct parser *p, const char *const *ends)
{
    struct node *first = NULL, **tail = &first;
    if (!enter(p)) return NULL;
    while (!p->code && !at_end(p, ends)) {
        struct node *n = p->at->type == T_DATA             ? parse_data(p)
                         : p->at->type == T_VARIABLE_BEGIN ? parse_output(p)
                                                           : parse_statement(p);
        if (!n) break;
        *tail = n;
        tail = &n->next;
    }
    p->depth--;
    return p->code ? NULL : first;
}

enum err_code template_parse_tokens(struct arena *a, const struct token *tokens, struct node **out, struct err *e)
{
    struct parser p = {.arena = a, .at = tokens, .e = e};
    *out = parse_body(&p, NULL);
    return p.code;
}
