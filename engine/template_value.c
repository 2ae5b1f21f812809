#include "engine/template_private.h"
#include "engine/utf8.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- failing, counting, memory ---- */

void render_fail(struct render *r, enum err_code code, const char *format, ...)
{
    char what[200];
    va_list args;
    if (r->code) return;
    va_start(args, format);
    (void)vsnprintf(what, sizeof what, format, args);
    va_end(args);
    r->code = err_set(r->e, code, "chat template, line %d: %s", r->line, what);
}

bool render_step(struct render *r, size_t steps)
{
    if (r->code) return false;
    if (steps > TEMPLATE_STEPS_MAX || (r->steps += (int64_t)steps) > TEMPLATE_STEPS_MAX)
        render_fail(r, ERR_TOO_LARGE, "it takes too many steps");
    return !r->code;
}

void *render_alloc(struct render *r, size_t count, size_t size)
{
    if (!render_step(r, 1 + count * size / 16)) return NULL;
    void *p = arena_array(&r->arena, count ? count : 1, size);
    if (!p) render_fail(r, ERR_TOO_LARGE, "it takes more than %d MiB", TEMPLATE_RENDER_BYTES >> 20);
    return p;
}

bool text_is(struct text t, const char *word)
{
    return t.len == strlen(word) && memcmp(t.data, word, t.len) == 0;
}

bool text_equal(struct text a, struct text b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

struct value value_copy_text(struct render *r, const char *data, size_t len)
{
    char *copy = render_alloc(r, len + 1, 1);
    if (!copy) return value_undefined();
    if (len) memcpy(copy, data, len);
    return value_text((struct text){copy, len});
}

struct value value_string(struct render *r, const char *closed)
{
    (void)r;
    return value_text((struct text){closed, strlen(closed)});
}

/* ---- lists and dicts ---- */

struct value list_new(struct render *r, size_t cap, bool tuple)
{
    struct list *list = render_alloc(r, 1, sizeof *list);
    struct value *items = list ? render_alloc(r, cap, sizeof *items) : NULL;
    if (!items) return value_undefined();
    *list = (struct list){items, 0, cap ? cap : 1, tuple};
    return (struct value){.type = V_LIST, .list = list};
}

void list_add(struct render *r, struct value v, struct value item)
{
    if (r->code) return;
    struct list *list = v.list;
    if (list->count == list->cap) {
        struct value *grown = render_alloc(r, list->cap * 2, sizeof *grown);
        if (!grown) return;
        memcpy(grown, list->items, list->count * sizeof *grown);
        list->items = grown;
        list->cap *= 2;
    }
    list->items[list->count++] = item;
}

struct value dict_new(struct render *r)
{
    struct dict *dict = render_alloc(r, 1, sizeof *dict);
    return dict ? (struct value){.type = V_DICT, .dict = dict} : value_undefined();
}

const struct value *dict_find(struct render *r, struct value v, struct value key)
{
    const struct dict *dict = v.dict;
    if (!render_step(r, dict->count)) return NULL;
    for (size_t i = 0; i < dict->count; i++)
        if (value_equal(r, dict->entries[i].key, key)) return &dict->entries[i].value;
    return NULL;
}

const struct value *dict_find_text(struct render *r, struct value v, struct text key)
{
    return dict_find(r, v, value_text(key));
}

void dict_set(struct render *r, struct value v, struct value key, struct value value)
{
    if (r->code) return;
    if (key.type == V_LIST ? !key.list->tuple : key.type == V_DICT || key.type == V_UNDEFINED) {
        render_fail(r, ERR_INVALID, "a %s cannot be a key", value_type_name(key));
        return;
    }
    struct value *found = (struct value *)(uintptr_t)dict_find(r, v, key);
    struct dict *dict = v.dict;
    if (found) {
        *found = value;
        return;
    }
    if (dict->count == dict->cap) {
        size_t cap = dict->cap ? dict->cap * 2 : 8;
        struct entry *grown = render_alloc(r, cap, sizeof *grown);
        if (!grown) return;
        if (dict->count) memcpy(grown, dict->entries, dict->count * sizeof *grown);
        dict->entries = grown;
        dict->cap = cap;
    }
    dict->entries[dict->count++] = (struct entry){key, value};
}

void dict_set_name(struct render *r, struct value dict, const char *name, struct value value)
{
    dict_set(r, dict, value_string(r, name), value);
}

struct list *value_iterate(struct render *r, struct value v)
{
    if (v.type == V_LIST) return v.list;
    struct value out = list_new(r, 8, false);
    if (r->code) return NULL;
    switch (v.type) {
    case V_UNDEFINED: break;
    case V_DICT:
        for (size_t i = 0; i < v.dict->count; i++) list_add(r, out, v.dict->entries[i].key);
        break;
    case V_STRING:
        for (size_t i = 0; i < v.text.len && !r->code;) {
            int32_t code;
            size_t n = utf8_next(v.text.data + i, v.text.len - i, &code);
            list_add(r, out, value_text((struct text){v.text.data + i, n}));
            i += n;
        }
        break;
    default: render_fail(r, ERR_INVALID, "a %s cannot be looped over", value_type_name(v));
    }
    return r->code ? NULL : out.list;
}

/* ---- truth, equality, order ---- */

const char *value_type_name(struct value v)
{
    static const char *const NAMES[] = {"value that is undefined", "none", "boolean", "integer", "number", "string",
                                        "list", "mapping", "namespace", "loop", "macro", "function"};
    return NAMES[v.type];
}

bool value_true(struct value v)
{
    switch (v.type) {
    case V_UNDEFINED:
    case V_NONE: return false;
    case V_BOOL: return v.boolean;
    case V_INT: return v.integer != 0;
    case V_FLOAT: return v.real != 0;
    case V_STRING: return v.text.len > 0;
    case V_LIST: return v.list->count > 0;
    case V_DICT: return v.dict->count > 0;
    default: return true;
    }
}

bool value_is_number(struct value v)
{
    return v.type == V_INT || v.type == V_FLOAT || v.type == V_BOOL;
}

double value_real(struct value v)
{
    return v.type == V_FLOAT ? v.real : v.type == V_BOOL ? (double)v.boolean : (double)v.integer;
}

static int64_t integer_of(struct value v)
{
    return v.type == V_BOOL ? v.boolean : v.integer;
}

bool render_deeper(struct render *r)
{
    if (++r->depth > TEMPLATE_DEPTH_MAX) render_fail(r, ERR_TOO_LARGE, "nested more than %d deep", TEMPLATE_DEPTH_MAX);
    return render_step(r, 1);
}

static bool lists_equal(struct render *r, const struct list *a, const struct list *b)
{
    bool same = render_deeper(r);
    for (size_t i = 0; same && i < a->count; i++) same = value_equal(r, a->items[i], b->items[i]);
    r->depth--;
    return same;
}

static bool dicts_equal(struct render *r, struct value a, struct value b)
{
    bool same = render_deeper(r);
    for (size_t i = 0; same && i < a.dict->count; i++) {
        const struct value *other = dict_find(r, b, a.dict->entries[i].key);
        same = other && value_equal(r, a.dict->entries[i].value, *other);
    }
    r->depth--;
    return same;
}

bool value_equal(struct render *r, struct value a, struct value b)
{
    if (value_is_number(a) && value_is_number(b)) {
        if (a.type == V_FLOAT || b.type == V_FLOAT) return value_real(a) == value_real(b);
        return integer_of(a) == integer_of(b);
    }
    if (a.type != b.type) return false;
    switch (a.type) {
    case V_UNDEFINED:
    case V_NONE: return true;
    case V_STRING: return text_equal(a.text, b.text);
    case V_LIST: return a.list->count == b.list->count && a.list->tuple == b.list->tuple && lists_equal(r, a.list, b.list);
    case V_DICT: return a.dict->count == b.dict->count && dicts_equal(r, a, b);
    case V_NAMESPACE: return a.dict == b.dict;
    case V_MACRO: return a.macro == b.macro;
    case V_LOOP: return a.loop == b.loop;
    default: return strcmp(a.function, b.function) == 0;
    }
}

int text_order(struct text a, struct text b)
{
    size_t len = a.len < b.len ? a.len : b.len;
    int order = len ? memcmp(a.data, b.data, len) : 0; /* the order of bytes is that of code points */
    return order ? order : (a.len > b.len) - (a.len < b.len);
}

int value_order(struct render *r, struct value a, struct value b)
{
    if (value_is_number(a) && value_is_number(b)) {
        double x = value_real(a), y = value_real(b);
        if (a.type != V_FLOAT && b.type != V_FLOAT)
            return (integer_of(a) > integer_of(b)) - (integer_of(a) < integer_of(b));
        return (x > y) - (x < y);
    }
    if (a.type == V_STRING && b.type == V_STRING) return text_order(a.text, b.text);
    if (a.type == V_LIST && b.type == V_LIST && a.list->tuple == b.list->tuple) {
        int order = 0;
        size_t i = 0, x = a.list->count, y = b.list->count;
        if (render_deeper(r))
            for (; i < x && i < y && !order; i++) order = value_order(r, a.list->items[i], b.list->items[i]);
        r->depth--;
        return order ? order : (x > y) - (x < y);
    }
    render_fail(r, ERR_INVALID, "a %s and a %s have no order", value_type_name(a), value_type_name(b));
    return 0;
}

/* ---- text of values ---- */

/* As Python writes a float: the shortest text that reads back the same. */
void text_write_float(double f, struct buf *out)
{
    char text[40];
    if (isnan(f) || isinf(f)) {
        (void)buf_adds(out, isnan(f) ? "nan" : f > 0 ? "inf" : "-inf");
        return;
    }
    int precision = 1;
    do (void)snprintf(text, sizeof text, "%.*e", precision - 1, f);
    while (strtod(text, NULL) != f && ++precision <= 17);
    int exponent = (int)strtol(strchr(text, 'e') + 1, NULL, 10);
    if (exponent < -4 || exponent >= 16) {
        char *e = strchr(text, 'e');
        (void)buf_addf(out, "%.*se%c%02d", (int)(e - text), text, exponent < 0 ? '-' : '+', abs(exponent));
        return;
    }
    int decimals = precision - 1 - exponent;
    (void)buf_addf(out, "%.*f", decimals > 0 ? decimals : 1, f);
}

static void write_quoted(struct text t, struct buf *out)
{
    bool single = t.len && memchr(t.data, '\'', t.len), both = single && memchr(t.data, '"', t.len);
    char quote = single && !both ? '"' : '\'';
    (void)buf_addc(out, quote);
    for (size_t i = 0; i < t.len; i++) {
        unsigned char c = (unsigned char)t.data[i];
        if (c == '\\' || c == (unsigned char)quote) (void)buf_addf(out, "\\%c", c);
        else if (c == '\n') (void)buf_adds(out, "\\n");
        else if (c == '\r') (void)buf_adds(out, "\\r");
        else if (c == '\t') (void)buf_adds(out, "\\t");
        else if (c < 0x20 || c == 0x7F) (void)buf_addf(out, "\\x%02x", c);
        else (void)buf_addc(out, (char)c);
    }
    (void)buf_addc(out, quote);
}

static void write_list(struct render *r, const struct list *list, struct buf *out)
{
    (void)buf_addc(out, list->tuple ? '(' : '[');
    for (size_t i = 0; i < list->count && !r->code; i++) {
        if (i) (void)buf_adds(out, ", ");
        value_write(r, list->items[i], true, out);
    }
    if (list->tuple && list->count == 1) (void)buf_addc(out, ',');
    (void)buf_addc(out, list->tuple ? ')' : ']');
}

static void write_dict(struct render *r, const struct dict *dict, struct buf *out)
{
    (void)buf_addc(out, '{');
    for (size_t i = 0; i < dict->count && !r->code; i++) {
        if (i) (void)buf_adds(out, ", ");
        value_write(r, dict->entries[i].key, true, out);
        (void)buf_adds(out, ": ");
        value_write(r, dict->entries[i].value, true, out);
    }
    (void)buf_addc(out, '}');
}

void value_write(struct render *r, struct value v, bool repr, struct buf *out)
{
    if (!render_deeper(r)) {
        r->depth--;
        return;
    }
    switch (v.type) {
    case V_UNDEFINED: break;
    case V_NONE: (void)buf_adds(out, "None"); break;
    case V_BOOL: (void)buf_adds(out, v.boolean ? "True" : "False"); break;
    case V_INT: (void)buf_addf(out, "%lld", (long long)v.integer); break;
    case V_FLOAT: text_write_float(v.real, out); break;
    case V_STRING:
        if (repr) write_quoted(v.text, out);
        else (void)buf_add(out, v.text.data, v.text.len);
        break;
    case V_LIST: write_list(r, v.list, out); break;
    case V_DICT: write_dict(r, v.dict, out); break;
    default: (void)buf_addf(out, "<%s>", value_type_name(v));
    }
    r->depth--;
}

/* A scratch buffer's bytes into the arena. */
struct value take_text(struct render *r, struct buf *b)
{
    if (!buf_ok(b)) render_fail(r, b->failed, "a text of more than %zu bytes", b->max);
    struct value v = r->code ? value_undefined() : value_copy_text(r, b->data, b->len);
    buf_release(b);
    return v;
}

struct text value_str(struct render *r, struct value v)
{
    if (v.type == V_STRING) return v.text;
    struct buf b;
    buf_init(&b, TEMPLATE_RENDER_BYTES / 4);
    value_write(r, v, false, &b);
    v = take_text(r, &b);
    return r->code ? TEXT("") : v.text;
}

/* ---- parts ---- */

static void no_parts(struct render *r, struct value object, struct text name)
{
    render_fail(r, ERR_INVALID, "a %s has no '%.*s'", value_type_name(object), (int)(name.len < 60 ? name.len : 60),
                name.data);
}

/* The byte offset of a code point. */
static size_t text_at(struct text t, size_t point)
{
    size_t i = 0;
    for (int32_t code; point && i < t.len; point--) i += utf8_next(t.data + i, t.len - i, &code);
    return i;
}

size_t text_length(struct text t)
{
    size_t n = 0;
    int32_t code;
    for (size_t i = 0; i < t.len; n++) i += utf8_next(t.data + i, t.len - i, &code);
    return n;
}

struct value text_index(struct render *r, struct text t, int64_t index)
{
    if (!render_step(r, t.len / 4)) return value_undefined();
    int64_t length = (int64_t)text_length(t);
    if (index < 0) index += length;
    if (index < 0 || index >= length) return value_undefined();
    size_t at = text_at(t, (size_t)index);
    int32_t code;
    return value_text((struct text){t.data + at, utf8_next(t.data + at, t.len - at, &code)});
}

/* One bound of a slice as Python clamps it. */
static int64_t slice_bound(struct render *r, struct value v, int64_t length, int64_t otherwise, bool backwards)
{
    if (v.type == V_UNDEFINED || v.type == V_NONE) return otherwise;
    if (v.type != V_INT && v.type != V_BOOL) {
        render_fail(r, ERR_INVALID, "a slice needs integers, not a %s", value_type_name(v));
        return 0;
    }
    int64_t i = integer_of(v);
    if (i < 0) i = i < -length ? -1 - !backwards : i + length;
    if (i < 0) return backwards ? -1 : 0;
    return i >= length ? (backwards ? length - 1 : length) : i;
}

static struct value slice_list(struct render *r, const struct list *list, const int64_t at[3])
{
    struct value out = list_new(r, 8, list->tuple);
    for (int64_t i = at[0]; !r->code && (at[2] > 0 ? i < at[1] : i > at[1]); i += at[2])
        if (render_step(r, 1)) list_add(r, out, list->items[i]);
    return out;
}

static struct value slice_text(struct render *r, struct text t, const int64_t at[3])
{
    if (at[2] == 1) {
        if (at[0] >= at[1]) return value_text(TEXT(""));
        size_t from = text_at(t, (size_t)at[0]), to = text_at(t, (size_t)at[1]);
        return value_text((struct text){t.data + from, to - from});
    }
    struct list *points = value_iterate(r, value_text(t));
    struct buf b;
    buf_init(&b, TEMPLATE_RENDER_BYTES / 4);
    for (int64_t i = at[0]; points && (at[2] > 0 ? i < at[1] : i > at[1]); i += at[2])
        (void)buf_add(&b, points->items[i].text.data, points->items[i].text.len);
    return take_text(r, &b);
}

struct value value_slice(struct render *r, struct value v, const struct value bounds[3])
{
    if (v.type != V_LIST && v.type != V_STRING) {
        render_fail(r, ERR_INVALID, "a %s cannot be sliced", value_type_name(v));
        return value_undefined();
    }
    if (v.type == V_STRING && !render_step(r, v.text.len / 4)) return value_undefined();
    int64_t length = v.type == V_LIST ? (int64_t)v.list->count : (int64_t)text_length(v.text), step = 1;
    if (bounds[2].type == V_INT) step = bounds[2].integer;
    if (step == 0 || step > INT32_MAX || step < -INT32_MAX) {
        render_fail(r, ERR_INVALID, "a slice's step cannot be %lld", (long long)step);
        return value_undefined();
    }
    bool backwards = step < 0;
    int64_t at[3] = {slice_bound(r, bounds[0], length, backwards ? length - 1 : 0, backwards),
                     slice_bound(r, bounds[1], length, backwards ? -1 : length, backwards), step};
    if (r->code) return value_undefined();
    return v.type == V_LIST ? slice_list(r, v.list, at) : slice_text(r, v.text, at);
}

static struct value loop_attribute(struct render *r, const struct loop *loop, struct text name)
{
    int64_t i = (int64_t)loop->index, n = (int64_t)loop->items->count;
    if (text_is(name, "index")) return value_int(i + 1);
    if (text_is(name, "index0")) return value_int(i);
    if (text_is(name, "first")) return value_bool(i == 0);
    if (text_is(name, "last")) return value_bool(i == n - 1);
    if (text_is(name, "length")) return value_int(n);
    if (text_is(name, "revindex")) return value_int(n - i);
    if (text_is(name, "revindex0")) return value_int(n - i - 1);
    if (text_is(name, "depth")) return value_int(loop->depth);
    if (text_is(name, "depth0")) return value_int(loop->depth - 1);
    if (text_is(name, "previtem")) return i > 0 ? loop->items->items[i - 1] : value_undefined();
    if (text_is(name, "nextitem")) return i + 1 < n ? loop->items->items[i + 1] : value_undefined();
    render_fail(r, ERR_UNSUPPORTED, "loop.%.*s is not supported", (int)(name.len < 40 ? name.len : 40), name.data);
    return value_undefined();
}

struct value value_attribute(struct render *r, struct value object, struct text name)
{
    const struct value *found = NULL;
    if (object.type == V_LOOP) return loop_attribute(r, object.loop, name);
    if (object.type == V_UNDEFINED) no_parts(r, object, name);
    if (object.type == V_DICT && dict_method_known(name)) return (struct value){.type = V_FUNCTION, .function = "method"};
    if (object.type == V_DICT || object.type == V_NAMESPACE) found = dict_find_text(r, object, name);
    return found ? *found : value_undefined();
}

struct value value_item(struct render *r, struct value object, struct value index)
{
    int64_t i = index.type == V_INT || index.type == V_BOOL ? integer_of(index) : INT64_MIN;
    if (object.type == V_DICT) {
        const struct value *found = dict_find(r, object, index);
        if (found || index.type != V_STRING) return found ? *found : value_undefined();
    }
    if (object.type == V_STRING && i != INT64_MIN) return text_index(r, object.text, i);
    if (object.type == V_LIST && i != INT64_MIN) {
        int64_t n = (int64_t)object.list->count;
        if (i < 0) i += n;
        return i >= 0 && i < n ? object.list->items[i] : value_undefined();
    }
    if (object.type == V_UNDEFINED) no_parts(r, object, index.type == V_STRING ? index.text : TEXT("elements"));
    return index.type == V_STRING && !r->code ? value_attribute(r, object, index.text) : value_undefined();
}
