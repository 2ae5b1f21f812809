/* The parser's own parts, shared by template_parse.c (expressions) and template_statement.c. */
#ifndef RUNG_ENGINE_TEMPLATE_PARSE_H
#define RUNG_ENGINE_TEMPLATE_PARSE_H

#include "engine/template_private.h"

struct parser {
    struct arena *arena;
    const struct token *at;
    int depth, loops;
    struct err *e;
    enum err_code code;
};

/* All return NULL once anything failed. */
struct node *parse_fail(struct parser *p, enum err_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
struct node *parse_node(struct parser *p, enum node_kind kind);
bool parse_enter(struct parser *p); /* one level down; false: too deep. Restore p->depth after. */

bool parse_at_operator(const struct parser *p, const char *op);
bool parse_at_name(const struct parser *p, const char *name);
void parse_advance(struct parser *p);
bool parse_accept(struct parser *p, const char *op); /* takes the operator where it is next */
bool parse_accept_name(struct parser *p, const char *name);
void parse_expect(struct parser *p, const char *op);
struct text parse_expect_name(struct parser *p);
void parse_block_end(struct parser *p);
const char *parse_shown(const struct token *t, char out[static 48]); /* a token, for an error */
#define SHOWN(p) parse_shown((p)->at, (char[48]){0})

struct node *parse_expression(struct parser *p);
struct node *parse_tuple(struct parser *p, bool simple);
struct node *parse_dot(struct parser *p, struct node *object);
struct node *parse_filter(struct parser *p, struct node *operand);

#endif
