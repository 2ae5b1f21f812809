/* JSON from strangers, read in one pass into an arena: strings are decoded where they will stay, every value knows its
 * own source text (so that what we do not understand passes on exactly as it came), and depth, count and size are
 * bounded before memory is taken. RFC 8259; duplicate keys, NULs and lone surrogates are refused.
 * Not part of the room's face. */
#ifndef RUNG_PROTO_OPENAI_TREE_H
#define RUNG_PROTO_OPENAI_TREE_H

#include "base/arena.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum tree_type { TREE_NULL, TREE_FALSE, TREE_TRUE, TREE_INT, TREE_REAL, TREE_STRING, TREE_ARRAY, TREE_OBJECT };
struct tree {
    enum tree_type type;
    int count;                  /* of members or items */
    struct tree *first, *next;  /* first of mine, and my own follower */
    const char *key, *key_raw;  /* decoded; as it came, with its quotes */
    const char *text;           /* of a string: decoded, closed by a NUL */
    const char *raw;            /* as it came, in the text that was read */
    size_t text_len, key_raw_len, raw_len;
    int64_t integer;            /* TREE_INT */
    double real;                /* TREE_INT and TREE_REAL; may be infinite */
};

/* Errors: ERR_SYNTAX (line and column), ERR_INVALID (nested too deep), ERR_TOO_LARGE (too many values, or the arena is
 * full). `text` must outlive the use of `raw`. */
ERR_CHECKED enum err_code tree_read(struct tree **out, struct arena *arena, const char *text, size_t len, struct err *e);

/* A member, or NULL; NULL objects and other types have none. */
struct tree *tree_get(const struct tree *object, const char *key);
const char *tree_string(const struct tree *object, const char *key); /* of a string member, or NULL */
static inline bool tree_is(const struct tree *t, enum tree_type type)
{
    return t && t->type == type;
}
static inline bool tree_is_bool(const struct tree *t)
{
    return t && (t->type == TREE_TRUE || t->type == TREE_FALSE);
}
static inline bool tree_is_number(const struct tree *t)
{
    return t && (t->type == TREE_INT || t->type == TREE_REAL);
}
/* Missing and null are the same to us. */
static inline bool tree_absent(const struct tree *t)
{
    return !t || t->type == TREE_NULL;
}
/* "a string", "the number 3", "missing" … for sentences. Returns `out`. */
const char *tree_what(const struct tree *t, char *out, size_t size);

#endif
