#include "engine/template_private.h"
#include "engine/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- JSON out ---- */

static void write_json_text(struct text t, struct buf *out)
{
    (void)buf_addc(out, '"');
    size_t done = 0;
    for (size_t i = 0; i <= t.len; i++) {
        unsigned char c = i < t.len ? (unsigned char)t.data[i] : 0;
        if (i < t.len && c >= 0x20 && c != '"' && c != '\\') continue;
        (void)buf_add(out, t.data + done, i - done);
        done = i + 1;
        static const char FROM[] = "\"\\\n\r\t\b\f", TO[] = "\"\\nrtbf";
        const char *found = i < t.len && c ? strchr(FROM, c) : NULL;
        if (found) (void)buf_addf(out, "\\%c", TO[found - FROM]);
        else if (i < t.len) (void)buf_addf(out, "\\u%04x", c);
    }
    (void)buf_addc(out, '"');
}

static void new_line(struct buf *out, int indent, int level)
{
    if (indent < 0) return;
    (void)buf_addc(out, '\n');
    for (int i = 0; i < indent * level; i++) (void)buf_addc(out, ' ');
}

struct json_out {
    struct render *r;
    struct buf *out;
    int indent, level;
    bool sorted;
};
static void write_json(struct json_out *j, struct value v);

static void write_json_list(struct json_out *j, const struct list *list)
{
    (void)buf_addc(j->out, '[');
    j->level++;
    for (size_t i = 0; i < list->count && !j->r->code; i++) {
        if (i) (void)buf_adds(j->out, j->indent < 0 ? ", " : ",");
        new_line(j->out, j->indent, j->level);
        write_json(j, list->items[i]);
    }
    j->level--;
    if (list->count) new_line(j->out, j->indent, j->level);
    (void)buf_addc(j->out, ']');
}

static int entry_order(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    return x->key.type == V_STRING && y->key.type == V_STRING ? text_order(x->key.text, y->key.text) : 0;
}

static void write_json_key(struct json_out *j, struct value key)
{
    if (key.type == V_STRING) {
        write_json_text(key.text, j->out);
        return;
    }
    if (key.type == V_LIST) render_fail(j->r, ERR_INVALID, "tojson: a list cannot be a key");
    (void)buf_addc(j->out, '"');
    write_json(j, key);
    (void)buf_addc(j->out, '"');
}

static void write_json_dict(struct json_out *j, const struct dict *dict)
{
    struct entry *entries = dict->entries;
    if (j->sorted && dict->count) {
        if (!(entries = render_alloc(j->r, dict->count, sizeof *entries))) return;
        memcpy(entries, dict->entries, dict->count * sizeof *entries);
        qsort(entries, dict->count, sizeof *entries, entry_order);
    }
    (void)buf_addc(j->out, '{');
    j->level++;
    for (size_t i = 0; i < dict->count && !j->r->code; i++) {
        if (i) (void)buf_adds(j->out, j->indent < 0 ? ", " : ",");
        new_line(j->out, j->indent, j->level);
        write_json_key(j, entries[i].key);
        (void)buf_adds(j->out, ": ");
        write_json(j, entries[i].value);
    }
    j->level--;
    if (dict->count) new_line(j->out, j->indent, j->level);
    (void)buf_addc(j->out, '}');
}

static void write_json_float(double f, struct buf *out)
{
    if (isnan(f)) (void)buf_adds(out, "NaN");
    else if (isinf(f)) (void)buf_adds(out, f > 0 ? "Infinity" : "-Infinity");
    else text_write_float(f, out);
}

static void write_json(struct json_out *j, struct value v)
{
    if (render_deeper(j->r)) {
        switch (v.type) {
        case V_NONE: (void)buf_adds(j->out, "null"); break;
        case V_BOOL: (void)buf_adds(j->out, v.boolean ? "true" : "false"); break;
        case V_FLOAT: write_json_float(v.real, j->out); break;
        case V_INT: (void)buf_addf(j->out, "%lld", (long long)v.integer); break;
        case V_STRING: write_json_text(v.text, j->out); break;
        case V_LIST: write_json_list(j, v.list); break;
        case V_DICT: write_json_dict(j, v.dict); break;
        default: render_fail(j->r, ERR_INVALID, "tojson: a %s has no JSON form", value_type_name(v));
        }
    }
    j->r->depth--;
}

void value_write_json(struct render *r, struct value v, int indent, bool sorted, struct buf *out)
{
    struct json_out j = {r, out, indent, 0, sorted};
    write_json(&j, v);
}

/* ---- JSON in (RFC 8259) ---- */

struct json_in {
    struct render *r;
    const char *what, *start, *at, *end;
    int depth;
};
static struct value read_json(struct json_in *j);

static struct value json_fail(struct json_in *j, const char *want)
{
    render_fail(j->r, ERR_INVALID, "%s: not JSON at byte %zu: %s", j->what, (size_t)(j->at - j->start), want);
    return value_undefined();
}

static void skip_json_space(struct json_in *j)
{
    while (j->at < j->end && (*j->at == ' ' || *j->at == '\n' || *j->at == '\r' || *j->at == '\t')) j->at++;
}

static bool accept_json(struct json_in *j, char c)
{
    skip_json_space(j);
    bool yes = j->at < j->end && *j->at == c;
    j->at += yes;
    return yes;
}

static int32_t hex4(const char *p)
{
    int32_t code = 0;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (digit < 0) return -1;
        code = code * 16 + digit;
    }
    return code;
}

/* \uXXXX, its surrogate partner too; at the u. Returns the bytes written, 0 where it is none. */
static size_t json_unicode(struct json_in *j, char *to)
{
    int32_t code = j->end - j->at > 4 ? hex4(j->at + 1) : -1;
    if (code < 0) return 0;
    j->at += 5;
    if (code >= 0xD800 && code < 0xDC00 && j->end - j->at > 5 && j->at[0] == '\\' && j->at[1] == 'u') {
        int32_t low = hex4(j->at + 2);
        if (low >= 0xDC00 && low < 0xE000) {
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
            j->at += 6;
        }
    }
    return utf8_put(code >= 0xD800 && code < 0xE000 ? 0xFFFD : code, to);
}

static struct value read_json_text(struct json_in *j)
{
    const char *close = ++j->at;
    while (close < j->end && *close != '"') close += *close == '\\' ? 2 : 1;
    if (close >= j->end) return json_fail(j, "the string does not end");
    char *data = render_alloc(j->r, (size_t)(close - j->at) + 4, 1), *to = data;
    while (data && j->at < close) {
        if ((unsigned char)*j->at < 0x20) return json_fail(j, "control characters must be escaped");
        if (*j->at != '\\') {
            *to++ = *j->at++;
            continue;
        }
        static const char FROM[] = "\"\\/nrtbf", TO[] = "\"\\/\n\r\t\b\f";
        char c = *++j->at;
        const char *found = c ? strchr(FROM, c) : NULL;
        size_t n = 0;
        if (found) {
            *to++ = TO[found - FROM];
            j->at++;
        } else if (c != 'u' || !(n = json_unicode(j, to))) {
            return json_fail(j, "no such escape");
        }
        to += n;
    }
    j->at = close + 1;
    return data ? value_text((struct text){data, (size_t)(to - data)}) : value_undefined();
}

static size_t json_digits(const char *p, const char *end)
{
    size_t n = 0;
    while (p + n < end && p[n] >= '0' && p[n] <= '9') n++;
    return n;
}

static struct value read_json_number(struct json_in *j)
{
    const char *p = j->at + (*j->at == '-');
    char text[64];
    bool real = false;
    size_t n = json_digits(p, j->end);
    if (!n || (n > 1 && *p == '0')) return json_fail(j, "a number was expected");
    p += n;
    if (p < j->end && *p == '.') {
        real = true;
        p += 1 + (n = json_digits(p + 1, j->end));
    }
    if (n && p < j->end && (*p == 'e' || *p == 'E')) {
        real = true;
        p += 1 + (p + 1 < j->end && (p[1] == '-' || p[1] == '+'));
        p += n = json_digits(p, j->end);
    }
    size_t len = (size_t)(p - j->at);
    if (!n || len >= sizeof text) return json_fail(j, n ? "the number is too long" : "digits were expected");
    memcpy(text, j->at, len);
    text[len] = 0;
    j->at = p;
    if (real || len > 18) return value_float(strtod(text, NULL));
    return value_int(strtoll(text, NULL, 10));
}

static struct value read_json_list(struct json_in *j)
{
    struct value list = list_new(j->r, 4, false);
    j->at++;
    if (accept_json(j, ']')) return list;
    do list_add(j->r, list, read_json(j));
    while (!j->r->code && accept_json(j, ','));
    if (!j->r->code && !accept_json(j, ']')) return json_fail(j, "',' or ']' was expected");
    return list;
}

static struct value read_json_dict(struct json_in *j)
{
    struct value dict = dict_new(j->r);
    j->at++;
    if (accept_json(j, '}')) return dict;
    do {
        skip_json_space(j);
        if (j->at >= j->end || *j->at != '"') return json_fail(j, "a key in quotes was expected");
        struct value key = read_json_text(j);
        if (!j->r->code && !accept_json(j, ':')) return json_fail(j, "':' was expected");
        struct value value = read_json(j);
        dict_set(j->r, dict, key, value);
    } while (!j->r->code && accept_json(j, ','));
    if (!j->r->code && !accept_json(j, '}')) return json_fail(j, "',' or '}' was expected");
    return dict;
}

static struct value read_json_word(struct json_in *j)
{
    static const struct {
        const char *word;
        int value;
    } WORDS[] = {{"true", 1}, {"false", 0}, {"null", -1}};
    for (size_t i = 0; i < sizeof WORDS / sizeof WORDS[0]; i++) {
        size_t n = strlen(WORDS[i].word);
        if ((size_t)(j->end - j->at) < n || memcmp(j->at, WORDS[i].word, n) != 0) continue;
        j->at += n;
        return WORDS[i].value < 0 ? value_none() : value_bool(WORDS[i].value);
    }
    return json_fail(j, "a value was expected");
}

static struct value read_json(struct json_in *j)
{
    enum { DEPTH_MAX = 64 };
    struct value v;
    if (j->r->code || !render_step(j->r, 1)) return value_undefined();
    skip_json_space(j);
    if (j->at >= j->end) return json_fail(j, "it ends too early");
    if (++j->depth > DEPTH_MAX) return json_fail(j, "nested too deep");
    switch (*j->at) {
    case '"': v = read_json_text(j); break;
    case '[': v = read_json_list(j); break;
    case '{': v = read_json_dict(j); break;
    case 't':
    case 'f':
    case 'n': v = read_json_word(j); break;
    default: v = read_json_number(j);
    }
    j->depth--;
    return v;
}

struct value value_read_json(struct render *r, const char *what, const char *text, size_t len)
{
    struct json_in j = {r, what, text, text, text + len, 0};
    struct value v = read_json(&j);
    skip_json_space(&j);
    if (!r->code && j.at < j.end) return json_fail(&j, "something follows its end");
    return r->code ? value_undefined() : v;
}
