#include "engine/template_private.h"
#include "engine/unicode.h"
#include "engine/utf8.h"

#include <stdlib.h>
#include <string.h>

/* Jinja's lexer as chat templates are read: trim_blocks and lstrip_blocks on, one last newline dropped.
 *   {% … %}  a newline right after it goes (unless +%}), blanks before it on its line go (unless {%+)
 *   {%- -%}  all white space on that side goes; the same for {{- -}} and {#- -#} */

struct lexer {
    struct arena *arena;
    const char *at, *end;
    int line;
    bool line_start; /* the last thing read ended a line */
    struct token *tokens;
    size_t count, cap;
    struct err *e;
    enum err_code code;
};

static void lex_fail(struct lexer *l, enum err_code code, const char *what)
{
    if (!l->code) l->code = err_set(l->e, code, "chat template, line %d: %s", l->line, what);
}

static void add(struct lexer *l, enum token_type type, const char *data, size_t len)
{
    if (l->count == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 256;
        struct token *grown = arena_array(l->arena, cap, sizeof *grown);
        if (!grown) {
            lex_fail(l, ERR_TOO_LARGE, "too long a template");
            return;
        }
        if (l->count) memcpy(grown, l->tokens, l->count * sizeof *grown);
        l->tokens = grown;
        l->cap = cap;
    }
    l->tokens[l->count++] = (struct token){type, l->line, {data, len}};
}

static bool starts(const struct lexer *l, const char *word)
{
    size_t n = strlen(word);
    return (size_t)(l->end - l->at) >= n && memcmp(l->at, word, n) == 0;
}

/* Move on, counting lines. */
static void skip_bytes(struct lexer *l, size_t n)
{
    for (; n; n--, l->at++)
        if (*l->at == '\n') l->line++;
}

static size_t blank_at(const char *p, const char *end)
{
    int32_t code;
    size_t n = utf8_next(p, (size_t)(end - p), &code);
    return code >= 0 && (unicode_kind((uint32_t)code) & UNICODE_SPACE || (code >= 0x1C && code <= 0x1F)) ? n : 0;
}

static void skip_blanks(struct lexer *l)
{
    for (size_t n; l->at < l->end && (n = blank_at(l->at, l->end));) skip_bytes(l, n);
}

/* ---- text between tags ---- */

static bool is_open_tag(const char *p, const char *end)
{
    return end - p >= 2 && p[0] == '{' && (p[1] == '{' || p[1] == '%' || p[1] == '#');
}

static size_t trimmed_end(const char *data, size_t len)
{
    size_t keep = 0;
    for (size_t i = 0, n; i < len;) {
        n = blank_at(data + i, data + len);
        if (n) {
            i += n;
            continue;
        }
        int32_t code;
        i += utf8_next(data + i, len - i, &code);
        keep = i;
    }
    return keep;
}

/* What stays of the text before a block or comment: not the blanks between the line's start and it. */
static size_t left_stripped(const struct lexer *l, const char *data, size_t len)
{
    size_t line = len;
    while (line > 0 && data[line - 1] != '\n') line--;
    if (line == 0 && !l->line_start) return len;
    return trimmed_end(data + line, len - line) == 0 ? line : len;
}

static void lex_data(struct lexer *l)
{
    const char *data = l->at, *p = l->at;
    while (p < l->end && !is_open_tag(p, l->end)) p++;
    size_t len = (size_t)(p - data), keep = len;
    if (p < l->end) {
        char sign = l->end - p > 2 ? p[2] : 0;
        if (sign == '-') keep = trimmed_end(data, len);
        else if (p[1] != '{' && sign != '+') keep = left_stripped(l, data, len);
    }
    if (keep) add(l, T_DATA, data, keep);
    skip_bytes(l, len);
}

/* ---- inside tags ---- */

static void lex_name(struct lexer *l)
{
    const char *start = l->at;
    while (l->at < l->end && ((*l->at >= 'a' && *l->at <= 'z') || (*l->at >= 'A' && *l->at <= 'Z') || *l->at == '_' ||
                              (*l->at >= '0' && *l->at <= '9') || (unsigned char)*l->at >= 0x80))
        l->at++;
    add(l, T_NAME, start, (size_t)(l->at - start));
}

static bool digit_at(const struct lexer *l, size_t ahead)
{
    return (size_t)(l->end - l->at) > ahead && l->at[ahead] >= '0' && l->at[ahead] <= '9';
}

static void lex_number(struct lexer *l)
{
    char digits[64];
    size_t n = 0;
    bool real = false;
    while (l->at < l->end && n < sizeof digits - 1) {
        char c = *l->at;
        if (c == '.' && !real && digit_at(l, 1)) {
            real = true;
        } else if ((c == 'e' || c == 'E') &&
                   (digit_at(l, 1) || (l->end - l->at > 2 && (l->at[1] == '-' || l->at[1] == '+') && digit_at(l, 2)))) {
            real = true;
            digits[n++] = 'e';
            l->at++;
            c = *l->at;
        } else if (c == '_' && digit_at(l, 1)) {
            l->at++;
            continue;
        } else if (c < '0' || c > '9') {
            break;
        }
        digits[n++] = c;
        l->at++;
    }
    if (l->at < l->end && *l->at >= '0' && *l->at <= '9') lex_fail(l, ERR_SYNTAX, "too long a number");
    char *copy = arena_memdup(l->arena, digits, n);
    if (!copy) lex_fail(l, ERR_TOO_LARGE, "too long a template");
    else add(l, real ? T_FLOAT : T_INT, copy, n);
}

static int hex_value(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* \xNN, \uNNNN, \UNNNNNNNN at `p` (past the backslash); returns the bytes read, 0 where it is none of them */
static size_t hex_escape(const char *p, const char *end, char out[4], size_t *written)
{
    size_t digits = *p == 'x' ? 2 : *p == 'u' ? 4 : *p == 'U' ? 8 : 0;
    int32_t code = 0;
    if (!digits || (size_t)(end - p) <= digits) return 0;
    for (size_t i = 1; i <= digits; i++) {
        int value = hex_value(p[i]);
        if (value < 0 || code > 0x10FFFF) return 0;
        code = code * 16 + value;
    }
    if (code > 0x10FFFF) return 0;
    *written = utf8_put(code, out);
    return digits + 1;
}

static size_t octal_escape(const char *p, const char *end, char out[4], size_t *written)
{
    int32_t code = 0;
    size_t n = 0;
    for (; n < 3 && p + n < end && p[n] >= '0' && p[n] <= '7'; n++) code = code * 8 + (p[n] - '0');
    if (n) *written = utf8_put(code, out);
    return n;
}

static size_t escape(const char *p, const char *end, char out[4], size_t *written)
{
    static const char FROM[] = "\\'\"nrtabfv", TO[] = "\\'\"\n\r\t\a\b\f\v";
    const char *found = *p ? strchr(FROM, *p) : NULL;
    if (found) {
        out[0] = TO[found - FROM];
        *written = 1;
        return 1;
    }
    if (*p == '\n') { /* a continued line */
        *written = 0;
        return 1;
    }
    size_t n = hex_escape(p, end, out, written);
    return n ? n : octal_escape(p, end, out, written);
}

static void lex_string(struct lexer *l)
{
    char quote = *l->at;
    const char *p = l->at + 1;
    while (p < l->end && *p != quote) p += *p == '\\' && l->end - p > 1 ? 2 : 1;
    if (p >= l->end) {
        lex_fail(l, ERR_SYNTAX, "a string that does not end");
        return;
    }
    char *value = arena_alloc(l->arena, (size_t)(p - l->at) + 4), *to = value;
    if (!value) {
        lex_fail(l, ERR_TOO_LARGE, "too long a template");
        return;
    }
    for (const char *from = l->at + 1; from < p;) {
        size_t written = 0, n = *from == '\\' ? escape(from + 1, p, to, &written) : 0;
        if (n) {
            to += written;
            from += n + 1;
        } else {
            *to++ = *from++; /* an escape that is none stays as it is */
        }
    }
    add(l, T_STRING, value, (size_t)(to - value));
    skip_bytes(l, (size_t)(p + 1 - l->at));
}

static void lex_operator(struct lexer *l, int *open)
{
    static const char *const LONG[] = {"**", "//", "==", "!=", ">=", "<="};
    for (size_t i = 0; i < sizeof LONG / sizeof LONG[0]; i++) {
        if (!starts(l, LONG[i])) continue;
        add(l, T_OPERATOR, l->at, 2);
        l->at += 2;
        return;
    }
    if (!*l->at || !strchr("+-/*%~[](){}<>=.:|,;", *l->at)) {
        lex_fail(l, ERR_SYNTAX, "a character that means nothing here");
        return;
    }
    if (strchr("([{", *l->at)) ++*open;
    if (strchr(")]}", *l->at)) --*open;
    add(l, T_OPERATOR, l->at, 1);
    l->at++;
}

/* The tag's end, if it is here: 0, or the bytes of its mark with its sign. */
static size_t tag_end(const struct lexer *l, const char *mark, bool plus)
{
    char signed_mark[4] = {'-', mark[0], mark[1], 0};
    if (starts(l, mark)) return 2;
    if (starts(l, signed_mark)) return 3;
    signed_mark[0] = '+';
    return plus && starts(l, signed_mark) ? 3 : 0;
}

static void after_tag(struct lexer *l, size_t n, bool trim)
{
    char sign = n == 3 ? *l->at : 0;
    skip_bytes(l, n);
    const char *start = l->at;
    if (sign == '-') skip_blanks(l);
    else if (trim && !sign && l->at < l->end && *l->at == '\n') skip_bytes(l, 1);
    l->line_start = l->at > start && l->at[-1] == '\n';
}

static void lex_inside(struct lexer *l, bool block)
{
    int open = 0;
    while (!l->code) {
        skip_blanks(l);
        if (l->at >= l->end) {
            lex_fail(l, ERR_SYNTAX, "a tag that does not end");
            return;
        }
        size_t n = open > 0 ? 0 : tag_end(l, block ? "%}" : "}}", block);
        if (n) {
            add(l, block ? T_BLOCK_END : T_VARIABLE_END, l->at, n);
            after_tag(l, n, block);
            return;
        }
        char c = *l->at;
        if (c == '"' || c == '\'') lex_string(l);
        else if (c >= '0' && c <= '9') lex_number(l);
        else if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (unsigned char)c >= 0x80) lex_name(l);
        else lex_operator(l, &open);
    }
}

static void lex_comment(struct lexer *l)
{
    while (l->at < l->end && !starts(l, "#}")) skip_bytes(l, 1);
    if (l->at >= l->end) {
        lex_fail(l, ERR_SYNTAX, "a comment that does not end");
        return;
    }
    bool sign = l->at[-1] == '-' || l->at[-1] == '+';
    if (sign) l->at--; /* no line ends between the sign and the mark */
    after_tag(l, sign ? 3 : 2, true);
}

/* {% raw %} … {% endraw %}: everything between is text. Returns false where this is no raw block. */
static bool lex_raw(struct lexer *l)
{
    struct lexer try = *l;
    try.at += 2;
    if (try.at < try.end && (*try.at == '-' || *try.at == '+')) try.at++;
    skip_blanks(&try);
    if (!starts(&try, "raw")) return false;
    try.at += 3;
    skip_blanks(&try);
    size_t n = tag_end(&try, "%}", true);
    if (!n) return false;
    *l = try;
    after_tag(l, n, false);
    const char *data = l->at;
    for (; l->at < l->end; skip_bytes(l, 1)) {
        if (!starts(l, "{%")) continue;
        struct lexer end = *l;
        end.at += 2;
        char sign = end.at < end.end ? *end.at : 0;
        if (sign == '-' || sign == '+') end.at++;
        skip_blanks(&end);
        if (!starts(&end, "endraw")) continue;
        end.at += 6;
        skip_blanks(&end);
        if (!(n = tag_end(&end, "%}", true))) continue;
        size_t len = (size_t)(l->at - data);
        len = sign == '-' ? trimmed_end(data, len) : sign == '+' ? len : left_stripped(l, data, len);
        if (len) add(l, T_DATA, data, len);
        end.tokens = l->tokens;
        end.count = l->count;
        end.cap = l->cap;
        *l = end;
        after_tag(l, n, true);
        return true;
    }
    lex_fail(l, ERR_SYNTAX, "a raw block that does not end");
    return true;
}

static void lex_tag(struct lexer *l)
{
    bool block = l->at[1] == '%', comment = l->at[1] == '#';
    if (block && lex_raw(l)) return;
    const char *mark = l->at;
    l->at += 2;
    if (comment) {
        lex_comment(l);
        return;
    }
    add(l, block ? T_BLOCK_BEGIN : T_VARIABLE_BEGIN, mark, 2);
    if (l->at < l->end && (*l->at == '-' || (*l->at == '+' && block))) l->at++;
    lex_inside(l, block);
}

/* \r\n and \r count as \n, and a last newline is dropped. */
static char *normalize(struct arena *a, const char *source, size_t *len)
{
    char *out = arena_alloc(a, *len + 1);
    size_t n = 0;
    for (size_t i = 0; out && i < *len; i++) {
        if (source[i] == '\r' && i + 1 < *len && source[i + 1] == '\n') continue;
        out[n++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (n && out[n - 1] == '\n') n--;
    *len = n;
    return out;
}

enum err_code template_lex(struct arena *a, const char *source, size_t len, struct token **out, struct err *e)
{
    struct lexer l = {.arena = a, .line = 1, .line_start = true, .e = e};
    if (len > TEMPLATE_SOURCE_MAX)
        return err_set(e, ERR_TOO_LARGE, "a chat template of %zu bytes; %d is the most", len, TEMPLATE_SOURCE_MAX);
    if (!(l.at = normalize(a, source, &len))) return err_set(e, ERR_MEMORY, "no memory for a chat template");
    l.end = l.at + len;
    while (l.at < l.end && !l.code) {
        lex_data(&l);
        if (l.at < l.end) lex_tag(&l);
    }
    add(&l, T_EOF, l.end, 0);
    *out = l.tokens;
    return l.code;
}
