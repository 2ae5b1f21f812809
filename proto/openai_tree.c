#include "proto/openai_tree.h"
#include "proto/openai_json.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reader {
    const char *text, *at, *end;
    struct arena *arena;
    struct err *e;
    int depth, values;
};

static enum err_code wrong(struct reader *r, const char *at, const char *what)
{
    int line = 1, column = 1;
    for (const char *p = r->text; p < at; p++) {
        column = *p == '\n' ? 1 : column + 1;
        line += *p == '\n';
    }
    return err_set(r->e, ERR_SYNTAX, "not valid JSON at line %d, column %d: %s", line, column, what);
}

static enum err_code full(struct reader *r)
{
    return err_set(r->e, ERR_TOO_LARGE, "the request does not fit in the %zu MiB that one may take", r->arena->max >> 20);
}

static void skip_space(struct reader *r)
{
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\r' || *r->at == '\t')) r->at++;
}

/* ---- strings ---- */

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* The four digits at `p`, or -1. */
static int32_t unit_at(const struct reader *r, const char *p)
{
    int32_t unit = 0;
    if (r->end - p < 4) return -1;
    for (int i = 0; i < 4; i++) {
        int digit = hex_value(p[i]);
        if (digit < 0) return -1;
        unit = unit << 4 | digit;
    }
    return unit;
}

static char *put_utf8(char *to, int32_t c)
{
    if (c < 0x80) {
        *to++ = (char)c;
    } else if (c < 0x800) {
        *to++ = (char)(0xc0 | c >> 6);
        *to++ = (char)(0x80 | (c & 63));
    } else if (c < 0x10000) {
        *to++ = (char)(0xe0 | c >> 12);
        *to++ = (char)(0x80 | (c >> 6 & 63));
        *to++ = (char)(0x80 | (c & 63));
    } else {
        *to++ = (char)(0xf0 | c >> 18);
        *to++ = (char)(0x80 | (c >> 12 & 63));
        *to++ = (char)(0x80 | (c >> 6 & 63));
        *to++ = (char)(0x80 | (c & 63));
    }
    return to;
}

/* A \uXXXX, or two that make one character; `at` is behind the backslash. */
static enum err_code read_unicode(struct reader *r, char **to)
{
    const char *from = r->at - 1;
    int32_t unit = unit_at(r, r->at + 1);
    r->at += 5;
    if (unit < 0) return wrong(r, from, "\\u wants four hexadecimal digits");
    if (unit == 0) return wrong(r, from, "\\u0000 is not taken in a string");
    if (unit >= 0xd800 && unit < 0xdc00 && r->end - r->at >= 6 && r->at[0] == '\\' && r->at[1] == 'u') {
        int32_t low = unit_at(r, r->at + 2);
        if (low >= 0xdc00 && low < 0xe000) {
            unit = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
            r->at += 6;
        }
    }
    if (unit >= 0xd800 && unit < 0xe000) return wrong(r, from, "half of a surrogate pair");
    *to = put_utf8(*to, unit);
    return ERR_OK;
}

static enum err_code read_escape(struct reader *r, char **to)
{
    static const char FROM[] = "\"\\/bfnrt", TO[] = "\"\\/\b\f\n\r\t";
    if (++r->at >= r->end) return wrong(r, r->at, "the string does not end");
    if (*r->at == 'u') return read_unicode(r, to);
    const char *found = memchr(FROM, *r->at, sizeof FROM - 1);
    if (!found) return wrong(r, r->at, "there is no such escape");
    *(*to)++ = TO[found - FROM];
    r->at++;
    return ERR_OK;
}

/* Skips ASCII that stands for itself in a string, eight bytes at a time; stops somewhere before whatever does not. */
static const char *skip_plain(const char *p, const char *end)
{
    const uint64_t ones = 0x0101010101010101, tops = 0x8080808080808080;
    for (; end - p >= 8; p += 8) {
        uint64_t x;
        memcpy(&x, p, sizeof x);
        uint64_t quote = x ^ ones * '"', slash = x ^ ones * '\\';
        uint64_t found = x | (x - ones * 0x20) | ((quote - ones) & ~quote) | ((slash - ones) & ~slash);
        if (found & tops) break;
    }
    return p;
}

/* Length of what can be copied as it is. */
static enum err_code plain_run(struct reader *r, size_t *out)
{
    const char *p = skip_plain(r->at, r->end);
    while (p < r->end && *p != '"' && *p != '\\') {
        if ((unsigned char)*p < 0x80) {
            if ((unsigned char)*p < 0x20) return wrong(r, p, "a control character in a string; it wants an escape");
            p++;
            continue;
        }
        size_t n = openai_utf8_length(p, (size_t)(r->end - p));
        if (n == 0) return wrong(r, p, "a byte that is not UTF-8");
        p += n;
    }
    *out = (size_t)(p - r->at);
    return ERR_OK;
}

/* The closing quote, found without looking at what is between: the decoded text cannot be longer. */
static const char *string_end(const struct reader *r)
{
    for (const char *p = skip_plain(r->at, r->end); p < r->end;) {
        if (*p == '"') return p;
        if (*p++ != '\\') continue;
        if (p == r->end) break;
        p = skip_plain(p + 1, r->end); /* whatever is escaped */
    }
    return NULL;
}

static enum err_code read_string(struct reader *r, const char **text, size_t *len)
{
    const char *from = r->at++;
    const char *close = string_end(r);
    if (!close) return wrong(r, from, "the string does not end");
    char *start = arena_memdup(r->arena, r->at, (size_t)(close - r->at)), *to = start;
    if (!start) return full(r);
    while (r->at < close) {
        size_t run = 0;
        enum err_code code = plain_run(r, &run);
        if (code == ERR_OK && to != start) memmove(to, r->at, run);
        to += run;
        r->at += run;
        if (code == ERR_OK && r->at < close) code = read_escape(r, &to);
        if (code != ERR_OK) return code;
    }
    *to = 0;
    *text = start;
    *len = (size_t)(to - start);
    r->at++;
    return ERR_OK;
}

/* ---- numbers and words ---- */

static const char *skip_digits(const struct reader *r, const char *p)
{
    while (p < r->end && *p >= '0' && *p <= '9') p++;
    return p;
}

static enum err_code read_number(struct reader *r, struct tree *t)
{
    const char *from = r->at, *p = from + (*from == '-'), *digits = p;
    bool whole = true;
    p = skip_digits(r, p);
    if (p == digits || (*digits == '0' && p > digits + 1)) return wrong(r, from, "not a number");
    if (p < r->end && *p == '.') {
        const char *part = p + 1;
        p = skip_digits(r, part);
        whole = false;
        if (p == part) return wrong(r, part, "digits are wanted behind the point");
    }
    if (p < r->end && (*p | 32) == 'e') {
        const char *part = p + 1;
        if (part < r->end && (*part == '+' || *part == '-')) part++;
        p = skip_digits(r, part);
        whole = false;
        if (p == part) return wrong(r, part, "digits are wanted in the exponent");
    }
    char copy[128];
    size_t len = (size_t)(p - from);
    if (len >= sizeof copy) return wrong(r, from, "a number of more than 127 characters");
    memcpy(copy, from, len);
    copy[len] = 0;
    errno = 0;
    t->integer = whole ? strtoll(copy, NULL, 10) : 0;
    t->type = whole && errno == 0 ? TREE_INT : TREE_REAL;
    t->real = t->type == TREE_INT ? (double)t->integer : strtod(copy, NULL);
    r->at = p;
    return ERR_OK;
}

static enum err_code read_word(struct reader *r, struct tree *t)
{
    static const struct {
        const char *word;
        enum tree_type type;
    } WORDS[] = {{"true", TREE_TRUE}, {"false", TREE_FALSE}, {"null", TREE_NULL}};
    for (size_t i = 0; i < sizeof WORDS / sizeof *WORDS; i++) {
        size_t len = strlen(WORDS[i].word);
        if ((size_t)(r->end - r->at) < len || memcmp(r->at, WORDS[i].word, len) != 0) continue;
        r->at += len;
        t->type = WORDS[i].type;
        return ERR_OK;
    }
    return wrong(r, r->at, r->at < r->end ? "a value is wanted here" : "it ends where a value is wanted");
}

/* ---- objects and arrays ---- */

static enum err_code read_value(struct reader *r, struct tree *t);

static int by_key(const void *a, const void *b)
{
    return strcmp((*(struct tree *const *)a)->key, (*(struct tree *const *)b)->key);
}

static enum err_code twice(struct reader *r, const struct tree *member)
{
    char what[80];
    (void)snprintf(what, sizeof what, "duplicate key \"%.48s\"", member->key);
    return wrong(r, member->key_raw, what);
}

/* Small objects by looking at each pair, large ones by sorting. */
static enum err_code check_keys(struct reader *r, const struct tree *object)
{
    if (object->count <= 16) {
        for (const struct tree *a = object->first; a; a = a->next)
            for (const struct tree *b = a->next; b; b = b->next)
                if (strcmp(a->key, b->key) == 0) return twice(r, b);
        return ERR_OK;
    }
    struct tree **sorted = malloc((size_t)object->count * sizeof(struct tree *));
    if (!sorted) return err_set(r->e, ERR_MEMORY, "out of memory while reading JSON");
    int n = 0;
    for (struct tree *m = object->first; m; m = m->next) sorted[n++] = m;
    qsort(sorted, (size_t)n, sizeof(struct tree *), by_key);
    enum err_code code = ERR_OK;
    for (int i = 1; i < n && code == ERR_OK; i++)
        if (strcmp(sorted[i - 1]->key, sorted[i]->key) == 0) code = twice(r, sorted[i]);
    free(sorted);
    return code;
}

static enum err_code read_key(struct reader *r, struct tree *member)
{
    size_t len = 0;
    skip_space(r);
    if (r->at >= r->end || *r->at != '"') return wrong(r, r->at, "a key in quotes is wanted");
    member->key_raw = r->at;
    enum err_code code = read_string(r, &member->key, &len);
    if (code != ERR_OK) return code;
    member->key_raw_len = (size_t)(r->at - member->key_raw);
    skip_space(r);
    if (r->at >= r->end || *r->at != ':') return wrong(r, r->at, "':' is wanted behind a key");
    r->at++;
    return ERR_OK;
}

/* Members or items up to the closing bracket. */
static enum err_code read_inside(struct reader *r, struct tree *t, char close)
{
    struct tree **last = &t->first;
    r->at++;
    skip_space(r);
    if (r->at < r->end && *r->at == close) {
        r->at++;
        return ERR_OK;
    }
    for (;;) {
        struct tree *inner = arena_alloc(r->arena, sizeof *inner);
        if (!inner) return full(r);
        enum err_code code = t->type == TREE_OBJECT ? read_key(r, inner) : ERR_OK;
        if (code == ERR_OK) code = read_value(r, inner);
        if (code != ERR_OK) return code;
        *last = inner;
        last = &inner->next;
        t->count++;
        skip_space(r);
        if (r->at < r->end && *r->at == ',') {
            r->at++;
            continue;
        }
        if (r->at >= r->end || *r->at != close)
            return wrong(r, r->at, close == '}' ? "',' or '}' is wanted here" : "',' or ']' is wanted here");
        r->at++;
        return t->type == TREE_OBJECT ? check_keys(r, t) : ERR_OK;
    }
}

static enum err_code read_nested(struct reader *r, struct tree *t, enum tree_type type, char close)
{
    if (++r->depth > OPENAI_DEPTH_MAX)
        return err_set(r->e, ERR_INVALID, "the JSON nests deeper than %d levels", OPENAI_DEPTH_MAX);
    t->type = type;
    enum err_code code = read_inside(r, t, close);
    r->depth--;
    return code;
}

static enum err_code read_value(struct reader *r, struct tree *t)
{
    if (++r->values > OPENAI_VALUES_MAX)
        return err_set(r->e, ERR_TOO_LARGE, "the JSON holds more than %d values", OPENAI_VALUES_MAX);
    skip_space(r);
    t->raw = r->at;
    enum err_code code;
    char c = r->at < r->end ? *r->at : 0;
    if (c == '"') {
        t->type = TREE_STRING;
        code = read_string(r, &t->text, &t->text_len);
    } else if (c == '{') {
        code = read_nested(r, t, TREE_OBJECT, '}');
    } else if (c == '[') {
        code = read_nested(r, t, TREE_ARRAY, ']');
    } else if (c == '-' || (c >= '0' && c <= '9')) {
        code = read_number(r, t);
    } else {
        code = read_word(r, t);
    }
    t->raw_len = (size_t)(r->at - t->raw);
    return code;
}

enum err_code tree_read(struct tree **out, struct arena *arena, const char *text, size_t len, struct err *e)
{
    struct reader r = {.text = text, .at = text, .end = text + len, .arena = arena, .e = e};
    struct tree *root = arena_alloc(arena, sizeof *root);
    if (!root) return full(&r);
    if (len == 0) return err_set(e, ERR_SYNTAX, "empty: a JSON object is wanted");
    enum err_code code = read_value(&r, root);
    if (code != ERR_OK) return code;
    skip_space(&r);
    if (r.at < r.end) return wrong(&r, r.at, "something follows the end");
    *out = root;
    return ERR_OK;
}

/* ---- looking ---- */

struct tree *tree_get(const struct tree *object, const char *key)
{
    if (!tree_is(object, TREE_OBJECT)) return NULL;
    for (struct tree *m = object->first; m; m = m->next)
        if (strcmp(m->key, key) == 0) return m;
    return NULL;
}

const char *tree_string(const struct tree *object, const char *key)
{
    const struct tree *t = tree_get(object, key);
    return tree_is(t, TREE_STRING) ? t->text : NULL;
}

const char *tree_what(const struct tree *t, char *out, size_t size)
{
    static const char *const NAMES[] = {"null", "false", "true", "a number", "a number", "a string", "an array", "an object"};
    if (!t) return "missing";
    if (tree_is_number(t) && t->raw_len <= 24) {
        (void)snprintf(out, size, "the number %.*s", (int)t->raw_len, t->raw);
    } else if (t->type == TREE_STRING && t->text_len <= 24) {
        (void)snprintf(out, size, "the string \"%s\"", t->text);
    } else if ((t->type == TREE_ARRAY || t->type == TREE_OBJECT) && t->count == 0) {
        (void)snprintf(out, size, "an empty %s", t->type == TREE_ARRAY ? "array" : "object");
    } else {
        (void)snprintf(out, size, "%s", NAMES[t->type]);
    }
    return out;
}
