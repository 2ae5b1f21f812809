#include "engine/template_parse.h"

#include <string.h>

/* ---- statements ---- */

static struct node *parse_body(struct parser *p, const char *const *ends);

static struct node *parse_target_name(struct parser *p, bool attribute)
{
    struct node *n = parse_node(p, N_NAME);
    if (!n) return NULL;
    n->name = parse_expect_name(p);
    if (!attribute || !parse_at_operator(p, ".")) return n;
    parse_advance(p);
    return parse_dot(p, n);
}

/* name | name, name… | (name, name) | name.attribute */
static struct node *parse_target(struct parser *p, bool attribute)
{
    bool parenthesis = parse_accept(p, "(");
    struct node *first = parse_target_name(p, attribute && !parenthesis);
    if (first && parse_at_operator(p, ",")) {
        struct node *n = parse_node(p, N_TUPLE);
        if (!n) return NULL;
        n->a = first;
        for (struct node *last = first; !p->code && parse_accept(p, ","); last = last->next)
            if (!(last->next = parse_target_name(p, false))) return NULL;
        first = n;
    }
    if (parenthesis) parse_expect(p, ")");
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
    parse_advance(p);
    parse_advance(p);
    return true;
}

static void expect_block(struct parser *p, const char *name)
{
    if (p->code) return;
    if (!accept_block(p, name)) {
        if (p->at->type == T_BLOCK_BEGIN) parse_advance(p);
        (void)parse_fail(p, ERR_SYNTAX, "{%% %s %%} was expected, not %s", name, SHOWN(p));
        return;
    }
    parse_block_end(p);
}

/* `if` or `elif` already taken */
static struct node *parse_if(struct parser *p)
{
    static const char *const ENDS[] = {"elif", "else", "endif", NULL}, *const LAST[] = {"endif", NULL};
    struct node *top = NULL, **place = &top;
    int depth = p->depth;
    do {
        struct node *n = parse_node(p, N_IF);
        if (!n || !parse_enter(p)) return NULL; /* each elif nests in the one before */
        n->a = parse_tuple(p, false);
        parse_block_end(p);
        n->b = parse_body(p, ENDS);
        *place = n;
        place = &n->c;
    } while (!p->code && accept_block(p, "elif"));
    if (!p->code && accept_block(p, "else")) {
        parse_block_end(p);
        *place = parse_body(p, LAST);
    }
    p->depth = depth;
    expect_block(p, "endif");
    return top;
}

static struct node *parse_for(struct parser *p)
{
    static const char *const ENDS[] = {"else", "endfor", NULL}, *const LAST[] = {"endfor", NULL};
    struct node *n = parse_node(p, N_FOR);
    if (!n) return NULL;
    n->a = parse_target(p, false);
    if (!parse_accept_name(p, "in")) return parse_fail(p, ERR_SYNTAX, "'in' was expected, not %s", SHOWN(p));
    n->b = parse_tuple(p, true);
    if (parse_accept_name(p, "if")) n->test = parse_expression(p);
    if (parse_at_name(p, "recursive")) return parse_fail(p, ERR_UNSUPPORTED, "recursive loops are not supported");
    parse_block_end(p);
    p->loops++;
    n->c = parse_body(p, ENDS);
    p->loops--;
    if (!p->code && accept_block(p, "else")) {
        parse_block_end(p);
        n->d = parse_body(p, LAST);
    }
    expect_block(p, "endfor");
    return n;
}

/* |filter… with nothing before the first | (its operand is filled in as it runs) */
static struct node *parse_bare_filters(struct parser *p)
{
    struct node *n = NULL;
    while (!p->code && parse_accept(p, "|")) n = parse_filter(p, n);
    return n;
}

static struct node *parse_set(struct parser *p)
{
    static const char *const ENDS[] = {"endset", NULL};
    struct node *n = parse_node(p, N_SET);
    if (!n) return NULL;
    n->a = parse_target(p, true);
    if (parse_accept(p, "=")) {
        n->b = parse_tuple(p, false);
        parse_block_end(p);
        return n;
    }
    n->kind = N_SET_BLOCK;
    n->c = parse_bare_filters(p);
    parse_block_end(p);
    n->b = parse_body(p, ENDS);
    expect_block(p, "endset");
    return n;
}

static struct node *parse_macro(struct parser *p)
{
    static const char *const ENDS[] = {"endmacro", NULL};
    struct node *n = parse_node(p, N_MACRO), **tail = n ? &n->a : NULL;
    if (!n) return NULL;
    n->name = parse_expect_name(p);
    parse_expect(p, "(");
    for (int count = 1; !p->code && !parse_at_operator(p, ")"); count++) {
        struct node *parameter = parse_node(p, N_KEYWORD);
        if (!parameter) return NULL;
        parameter->name = parse_expect_name(p);
        if (parse_accept(p, "=")) parameter->a = parse_expression(p);
        if (count > TEMPLATE_ARGS_MAX) return parse_fail(p, ERR_TOO_LARGE, "more than %d parameters", TEMPLATE_ARGS_MAX);
        *tail = parameter;
        tail = &parameter->next;
        if (!parse_accept(p, ",")) break;
    }
    parse_expect(p, ")");
    parse_block_end(p);
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
    struct node *n = parse_node(p, N_SCOPE), **tail = n ? &n->a : NULL;
    while (n && !p->code && p->at->type != T_BLOCK_END) {
        struct node *set = parse_node(p, N_SET);
        if (!set) return NULL;
        set->a = parse_target(p, false);
        parse_expect(p, "=");
        set->b = parse_expression(p);
        *tail = set;
        tail = &set->next;
        if (!parse_accept(p, ",")) break;
    }
    parse_block_end(p);
    if (!p->code) n->b = parse_body(p, ENDS);
    expect_block(p, "endwith");
    return n;
}

static struct node *parse_filter_block(struct parser *p)
{
    static const char *const ENDS[] = {"endfilter", NULL};
    struct node *n = parse_node(p, N_FILTER_BLOCK);
    if (!n) return NULL;
    n->a = parse_filter(p, NULL);
    while (!p->code && parse_accept(p, "|")) n->a = parse_filter(p, n->a);
    parse_block_end(p);
    n->b = parse_body(p, ENDS);
    expect_block(p, "endfilter");
    return n;
}

/* {% generation %}…{% endgeneration %} marks what a model wrote, for training; here it is only its body. */
static struct node *parse_generation(struct parser *p)
{
    static const char *const ENDS[] = {"endgeneration", NULL};
    struct node *n = parse_node(p, N_SCOPE);
    parse_block_end(p);
    if (!p->code) n->b = parse_body(p, ENDS);
    expect_block(p, "endgeneration");
    return n;
}

static struct node *parse_jump(struct parser *p, enum node_kind kind)
{
    if (!p->loops) return parse_fail(p, ERR_SYNTAX, "break and continue need a loop around them");
    struct node *n = parse_node(p, kind);
    parse_block_end(p);
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
    parse_advance(p); /* {% */
    struct text name = parse_expect_name(p);
    for (size_t i = 0; i < sizeof STATEMENTS / sizeof STATEMENTS[0]; i++)
        if (!p->code && text_is(name, STATEMENTS[i].name)) return STATEMENTS[i].parse(p);
    if (name.len > 3 && memcmp(name.data, "end", 3) == 0)
        return parse_fail(p, ERR_SYNTAX, "{%% %.*s %%} closes nothing", (int)(name.len < 40 ? name.len : 40), name.data);
    return parse_fail(p, ERR_UNSUPPORTED, "the tag {%% %.*s %%} is not supported", (int)(name.len < 40 ? name.len : 40),
                name.data);
}

static struct node *parse_output(struct parser *p)
{
    struct node *n = parse_node(p, N_OUTPUT);
    parse_advance(p); /* {{ */
    if (n) n->a = parse_tuple(p, false);
    if (p->at->type != T_VARIABLE_END) return parse_fail(p, ERR_SYNTAX, "'}}' was expected, not %s", SHOWN(p));
    parse_advance(p);
    return n;
}

static struct node *parse_data(struct parser *p)
{
    struct node *n = parse_node(p, N_DATA);
    if (n) n->value = value_text(p->at->text);
    parse_advance(p);
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
    if (!parse_enter(p)) return NULL;
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
