#include "engine/template_parse.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Recursive descent over the tokens, in Jinja's own order of precedence:
 *   condition: or … if … else …;  or;  and;  not;  comparison, in, not in;  + -;  ~;  * / // %;  **;  unary;
 *   primary with .name [index] (call) and, last, |filter and is test */

struct node *parse_fail(struct parser *p, enum err_code code, const char *format, ...)
{
    char what[160];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(what, sizeof what, format, args);
    va_end(args);
    if (!p->code) p->code = err_set(p->e, code, "chat template, line %d: %s", p->at->line, what);
    return NULL;
}

struct node *parse_node(struct parser *p, enum node_kind kind)
{
    struct node *n = p->code ? NULL : arena_alloc(p->arena, sizeof *n);
    if (!n) return p->code ? NULL : parse_fail(p, ERR_TOO_LARGE, "too long a template");
    n->kind = kind;
    n->line = p->at->line;
    return n;
}

/* ---- tokens ---- */

bool parse_at_operator(const struct parser *p, const char *op)
{
    return p->at->type == T_OPERATOR && text_is(p->at->text, op);
}

bool parse_at_name(const struct parser *p, const char *name)
{
    return p->at->type == T_NAME && text_is(p->at->text, name);
}

void parse_advance(struct parser *p)
{
    if (p->at->type != T_EOF) p->at++;
}

bool parse_accept(struct parser *p, const char *op)
{
    bool yes = parse_at_operator(p, op);
    if (yes) parse_advance(p);
    return yes;
}

bool parse_accept_name(struct parser *p, const char *name)
{
    bool yes = parse_at_name(p, name);
    if (yes) parse_advance(p);
    return yes;
}

const char *parse_shown(const struct token *t, char out[static 48])
{
    if (t->type == T_EOF) return "the end";
    (void)snprintf(out, 48, "'%.*s'", (int)(t->text.len < 40 ? t->text.len : 40), t->text.data);
    return out;
}

void parse_expect(struct parser *p, const char *op)
{
    if (!parse_accept(p, op)) (void)parse_fail(p, ERR_SYNTAX, "'%s' was expected, not %s", op, SHOWN(p));
}

struct text parse_expect_name(struct parser *p)
{
    struct text name = p->at->text;
    if (p->at->type != T_NAME) (void)parse_fail(p, ERR_SYNTAX, "a name was expected, not %s", SHOWN(p));
    parse_advance(p);
    return name;
}

/* name or name.name…, as filters and tests of extensions have them: the whole is the name. */
static struct text expect_dotted_name(struct parser *p)
{
    struct text name = parse_expect_name(p);
    while (!p->code && parse_at_operator(p, ".")) {
        parse_advance(p);
        struct text part = parse_expect_name(p);
        char *joined = arena_alloc(p->arena, name.len + part.len + 2);
        if (!joined) (void)parse_fail(p, ERR_TOO_LARGE, "too long a template");
        if (p->code) break;
        memcpy(joined, name.data, name.len);
        joined[name.len] = '.';
        memcpy(joined + name.len + 1, part.data, part.len);
        name = (struct text){joined, name.len + 1 + part.len};
    }
    return name;
}

void parse_block_end(struct parser *p)
{
    if (p->at->type != T_BLOCK_END) (void)parse_fail(p, ERR_SYNTAX, "the tag should end before %s", SHOWN(p));
    parse_advance(p);
}

bool parse_enter(struct parser *p)
{
    if (++p->depth > TEMPLATE_NEST_MAX) (void)parse_fail(p, ERR_TOO_LARGE, "nested more than %d deep", TEMPLATE_NEST_MAX);
    return !p->code;
}

/* ---- expressions ---- */

static struct node *parse_unary(struct parser *p, bool with_filter);
static struct node *parse_primary(struct parser *p);
static struct node *parse_postfix(struct parser *p, struct node *n);

static struct node *constant(struct parser *p, struct value v)
{
    struct node *n = parse_node(p, N_CONST);
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
    if (!real && errno) return parse_fail(p, ERR_UNSUPPORTED, "the number %s is too large", digits);
    struct node *n = constant(p, real ? value_float(strtod(digits, NULL)) : value_int(i));
    parse_advance(p);
    return n;
}

static struct node *parse_string(struct parser *p)
{
    struct text joined = p->at->text;
    struct node *n = parse_node(p, N_CONST);
    parse_advance(p);
    while (n && p->at->type == T_STRING) { /* neighbours are one string */
        char *more = arena_alloc(p->arena, joined.len + p->at->text.len + 1);
        if (!more) return parse_fail(p, ERR_TOO_LARGE, "too long a template");
        memcpy(more, joined.data, joined.len);
        memcpy(more + joined.len, p->at->text.data, p->at->text.len);
        joined = (struct text){more, joined.len + p->at->text.len};
        parse_advance(p);
    }
    if (n) n->value = value_text(joined);
    return n;
}

/* Elements up to `close`, the opening already taken. */
static struct node *parse_elements(struct parser *p, enum node_kind kind, const char *close)
{
    struct node *n = parse_node(p, kind), **tail = n ? &n->a : NULL;
    while (!p->code && !parse_at_operator(p, close)) {
        struct node *element = parse_expression(p);
        if (!element) return NULL;
        *tail = element;
        tail = &element->next;
        if (!parse_accept(p, ",")) break;
    }
    parse_expect(p, close);
    return p->code ? NULL : n;
}

static struct node *parse_dict(struct parser *p)
{
    struct node *n = parse_node(p, N_DICT), **tail = n ? &n->a : NULL;
    while (!p->code && !parse_at_operator(p, "}")) {
        struct node *pair = parse_node(p, N_KEYWORD); /* a key in a, its value in b */
        if (!pair) return NULL;
        pair->a = parse_expression(p);
        parse_expect(p, ":");
        pair->b = parse_expression(p);
        if (p->code) return NULL;
        *tail = pair;
        tail = &pair->next;
        if (!parse_accept(p, ",")) break;
    }
    parse_expect(p, "}");
    return p->code ? NULL : n;
}

/* ( already taken: a tuple, or an expression in parentheses */
static struct node *parse_parenthesis(struct parser *p)
{
    if (parse_accept(p, ")")) return parse_node(p, N_TUPLE);
    struct node *first = parse_expression(p);
    if (!first || parse_accept(p, ")")) return p->code ? NULL : first;
    parse_expect(p, ",");
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
        if (parse_accept_name(p, CONSTANTS[i].name))
            return constant(p, CONSTANTS[i].value < 0 ? value_none() : value_bool(CONSTANTS[i].value));
    struct node *n = parse_node(p, N_NAME);
    if (n) n->name = p->at->text;
    parse_advance(p);
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
    if (parse_accept(p, "(")) return parse_parenthesis(p);
    if (parse_accept(p, "[")) return parse_elements(p, N_LIST, "]");
    if (parse_accept(p, "{")) return parse_dict(p);
    return parse_fail(p, ERR_SYNTAX, "an expression was expected, not %s", SHOWN(p));
}

/* ( already taken */
static struct node *parse_arguments(struct parser *p)
{
    struct node *first = NULL, **tail = &first;
    int count = 0;
    while (!p->code && !parse_at_operator(p, ")")) {
        if (parse_at_operator(p, "*") || parse_at_operator(p, "**"))
            return parse_fail(p, ERR_UNSUPPORTED, "* and ** in a call are not supported");
        bool keyword = p->at->type == T_NAME && p->at[1].type == T_OPERATOR && text_is(p->at[1].text, "=");
        struct node *argument;
        if (keyword) {
            argument = parse_node(p, N_KEYWORD);
            if (!argument) return NULL;
            argument->name = parse_expect_name(p);
            parse_advance(p);
            argument->a = parse_expression(p);
        } else {
            argument = parse_expression(p);
        }
        if (p->code) return NULL;
        if (++count > TEMPLATE_ARGS_MAX) return parse_fail(p, ERR_TOO_LARGE, "more than %d arguments", TEMPLATE_ARGS_MAX);
        *tail = argument;
        tail = &argument->next;
        if (!parse_accept(p, ",")) break;
    }
    parse_expect(p, ")");
    return p->code ? NULL : first;
}

/* [ already taken */
static struct node *parse_subscript(struct parser *p)
{
    struct node *parts[3] = {NULL}, *n = NULL;
    int colons = 0;
    while (!p->code && !parse_at_operator(p, "]")) {
        if (parse_accept(p, ":")) {
            if (++colons > 2) return parse_fail(p, ERR_SYNTAX, "a slice has three parts at most");
        } else {
            if (parts[colons]) return parse_fail(p, ERR_SYNTAX, "']' was expected, not %s", SHOWN(p));
            parts[colons] = parse_expression(p);
        }
    }
    parse_expect(p, "]");
    if (p->code || !colons) return parts[0] || p->code ? parts[0] : parse_fail(p, ERR_SYNTAX, "an index is missing");
    if ((n = parse_node(p, N_SLICE))) {
        n->a = parts[0];
        n->b = parts[1];
        n->c = parts[2];
    }
    return n;
}

struct node *parse_dot(struct parser *p, struct node *object)
{
    struct node *n = parse_node(p, N_ATTRIBUTE);
    if (!n) return NULL;
    n->a = object;
    if (p->at->type == T_INT) { /* x.0 is x[0] */
        n->kind = N_ITEM;
        n->b = parse_number(p);
    } else {
        n->name = parse_expect_name(p);
    }
    return n;
}

static struct node *parse_call(struct parser *p, struct node *function)
{
    struct node *n = parse_node(p, N_CALL);
    if (!n) return NULL;
    n->a = function;
    n->b = parse_arguments(p);
    return n;
}

static struct node *parse_postfix(struct parser *p, struct node *n)
{
    int depth = p->depth;
    while (n && !p->code) {
        if (parse_accept(p, ".")) {
            n = parse_dot(p, n);
        } else if (parse_accept(p, "[")) {
            struct node *item = parse_node(p, N_ITEM);
            if (!item) break;
            item->a = n;
            item->b = parse_subscript(p);
            n = item;
        } else if (parse_accept(p, "(")) {
            n = parse_call(p, n);
        } else {
            break;
        }
        if (!parse_enter(p)) break; /* a.b.c… nests as it is evaluated */
    }
    p->depth = depth;
    return p->code ? NULL : n;
}

struct node *parse_filter(struct parser *p, struct node *operand)
{
    struct node *n = parse_node(p, N_FILTER);
    if (!n) return NULL;
    n->a = operand;
    n->name = expect_dotted_name(p);
    if (parse_accept(p, "(")) n->b = parse_arguments(p);
    return p->code ? NULL : n;
}

static bool starts_test_argument(const struct parser *p)
{
    switch (p->at->type) {
    case T_NAME: return !parse_at_name(p, "else") && !parse_at_name(p, "or") && !parse_at_name(p, "and") && !parse_at_name(p, "is") && !parse_at_name(p, "if");
    case T_STRING:
    case T_INT:
    case T_FLOAT: return true;
    case T_OPERATOR: return parse_at_operator(p, "[") || parse_at_operator(p, "{");
    default: return false;
    }
}

static struct node *parse_test(struct parser *p, struct node *operand)
{
    bool negated = parse_accept_name(p, "not");
    struct node *n = parse_node(p, N_TEST);
    if (!n) return NULL;
    n->a = operand;
    n->name = expect_dotted_name(p);
    if (parse_accept(p, "(")) n->b = parse_arguments(p);
    else if (starts_test_argument(p)) n->b = parse_postfix(p, parse_primary(p));
    if (!negated || p->code) return p->code ? NULL : n;
    struct node *not = parse_node(p, N_NOT);
    if (not) not->a = n;
    return not;
}

static struct node *parse_filters(struct parser *p, struct node *n)
{
    int depth = p->depth;
    while (n && !p->code) {
        if (parse_accept(p, "|")) n = parse_filter(p, n);
        else if (parse_accept_name(p, "is")) n = parse_test(p, n);
        else if (parse_accept(p, "(")) n = parse_call(p, n);
        else break;
        if (!parse_enter(p)) break;
    }
    p->depth = depth;
    return p->code ? NULL : n;
}

static struct node *parse_unary(struct parser *p, bool with_filter)
{
    struct node *n;
    if (!parse_enter(p)) return NULL;
    if (parse_at_operator(p, "-") || parse_at_operator(p, "+")) {
        n = parse_node(p, parse_at_operator(p, "-") ? N_NEGATE : N_PLUS);
        parse_advance(p);
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
        while (row->text && !parse_at_operator(p, row->text)) row++;
        if (!row->text) break;
        struct node *n = parse_node(p, N_BINARY);
        if (!n || !parse_enter(p)) return NULL;
        parse_advance(p);
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
    if (!first || !parse_at_operator(p, "~")) return first;
    struct node *n = parse_node(p, N_CONCAT);
    if (!n) return NULL;
    n->a = first;
    for (struct node *last = first; !p->code && parse_accept(p, "~"); last = last->next)
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
        if (!parse_accept(p, row->text)) continue;
        *op = row->op;
        return true;
    }
    bool not = parse_at_name(p, "not") && p->at[1].type == T_NAME && text_is(p->at[1].text, "in");
    if (not) parse_advance(p);
    if (!not && !parse_at_name(p, "in")) return false;
    parse_advance(p);
    *op = not ? O_NOT_IN : O_IN;
    return true;
}

static struct node *parse_comparison(struct parser *p)
{
    struct node *left = parse_sum(p), *n = NULL, **tail = NULL;
    enum operator op;
    while (left && !p->code && accept_comparison(p, &op)) {
        if (!n) {
            if (!(n = parse_node(p, N_COMPARE))) return NULL;
            n->a = left;
            tail = &n->b;
        }
        struct node *operand = parse_node(p, N_OPERAND);
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
    if (!parse_at_name(p, "not")) return parse_comparison(p);
    struct node *n = parse_node(p, N_NOT);
    if (!n || !parse_enter(p)) return NULL;
    parse_advance(p);
    n->a = parse_not(p);
    p->depth--;
    return p->code ? NULL : n;
}

static struct node *parse_logic(struct parser *p, const char *word, enum node_kind kind,
                                struct node *(*operand)(struct parser *))
{
    struct node *left = operand(p);
    int depth = p->depth;
    while (left && !p->code && parse_accept_name(p, word)) {
        struct node *n = parse_node(p, kind);
        if (!n || !parse_enter(p)) return NULL;
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

struct node *parse_expression(struct parser *p)
{
    if (!parse_enter(p)) return NULL;
    struct node *value = parse_or(p);
    int depth = p->depth;
    while (value && !p->code && parse_accept_name(p, "if")) {
        struct node *n = parse_node(p, N_CONDITION);
        if (!n || !parse_enter(p)) return NULL;
        n->a = value;
        n->b = parse_or(p);
        if (parse_accept_name(p, "else")) n->c = parse_expression(p);
        value = n;
    }
    p->depth = depth - 1;
    return p->code ? NULL : value;
}

/* a, b, c without parentheses: a tuple; `simple` leaves an `if` to the statement. */
struct node *parse_tuple(struct parser *p, bool simple)
{
    struct node *first = simple ? parse_or(p) : parse_expression(p);
    if (!first || !parse_at_operator(p, ",")) return first;
    struct node *n = parse_node(p, N_TUPLE);
    if (!n) return NULL;
    n->a = first;
    for (struct node *last = first; !p->code && parse_accept(p, ","); last = last->next)
        if (!(last->next = simple ? parse_or(p) : parse_expression(p))) return NULL;
    return p->code ? NULL : n;
}
