#include "engine/template_private.h"
#include "base/clock.h"
#include "engine/unicode.h"
#include "engine/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Filters, tests, functions and methods, each a row of a table. Letters outside ASCII keep their case. */

static struct value fail_type(struct render *r, const char *what, struct value v)
{
    render_fail(r, ERR_INVALID, "%s of a %s", what, value_type_name(v));
    return value_undefined();
}

static struct text text_arg(struct render *r, const struct arguments *args, int place, const char *name,
                            const char *otherwise)
{
    struct value v = argument(args, place, name);
    if (v.type == V_UNDEFINED) return (struct text){otherwise, strlen(otherwise)};
    if (v.type != V_STRING) render_fail(r, ERR_INVALID, "'%s' should be a string, not a %s", name, value_type_name(v));
    return v.type == V_STRING ? v.text : TEXT("");
}

static int64_t int_arg(const struct arguments *args, int place, const char *name, int64_t otherwise)
{
    struct value v = argument(args, place, name);
    return v.type == V_INT ? v.integer : v.type == V_BOOL ? v.boolean : otherwise;
}

static bool true_arg(const struct arguments *args, int place, const char *name)
{
    return value_true(argument(args, place, name));
}

static struct value take_text(struct render *r, struct buf *b)
{
    if (!buf_ok(b)) render_fail(r, b->failed, "a text of more than %zu bytes", b->max);
    struct value v = r->code ? value_undefined() : value_copy_text(r, b->data, b->len);
    buf_release(b);
    return v;
}

static struct buf scratch(void)
{
    struct buf b;
    buf_init(&b, TEMPLATE_RENDER_BYTES / 4);
    return b;
}

/* ---- texts ---- */

static bool in_set(const char *p, size_t n, struct text set)
{
    int32_t code;
    if (!set.data) {
        (void)utf8_next(p, n, &code);
        return code >= 0 && ((unicode_kind((uint32_t)code) & UNICODE_SPACE) || (code >= 0x1C && code <= 0x1F));
    }
    for (size_t i = 0, m; i < set.len; i += m) {
        m = utf8_next(set.data + i, set.len - i, &code);
        if (m == n && memcmp(set.data + i, p, n) == 0) return true;
    }
    return false;
}

enum { LEFT = 1, RIGHT = 2 };

/* str.strip(): of white space, or of any of the characters of a set */
static struct text strip(struct text t, struct text set, int sides)
{
    int32_t code;
    size_t start = 0, end = 0;
    for (size_t n; sides & LEFT && start < t.len; start += n) {
        n = utf8_next(t.data + start, t.len - start, &code);
        if (!in_set(t.data + start, n, set)) break;
    }
    end = sides & RIGHT ? start : t.len;
    for (size_t i = start, n; sides & RIGHT && i < t.len;) {
        n = utf8_next(t.data + i, t.len - i, &code);
        bool stays = !in_set(t.data + i, n, set);
        i += n;
        if (stays) end = i;
    }
    return (struct text){t.data + start, end - start};
}

static struct text strip_set(struct render *r, const struct arguments *args)
{
    struct value v = argument(args, 0, "chars");
    if (v.type == V_UNDEFINED || v.type == V_NONE) return (struct text){NULL, 0};
    return text_arg(r, args, 0, "chars", "");
}

enum letter_case { UPPER, LOWER, TITLE, CAPITAL, JINJA_TITLE };

static struct value change_case(struct render *r, struct text t, enum letter_case want)
{
    struct value out = value_copy_text(r, t.data, t.len);
    if (r->code) return out;
    char *data = (char *)(uintptr_t)out.text.data;
    bool word = true; /* the next letter starts a word */
    for (size_t i = 0; i < t.len; i++) {
        char c = data[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (unsigned char)c >= 0x80;
        bool up = want == UPPER || (word && want != LOWER);
        if (c >= 'a' && c <= 'z' && up) data[i] = (char)(c - 32);
        if (c >= 'A' && c <= 'Z' && !up) data[i] = (char)(c + 32);
        if (want == CAPITAL) word = false;
        else if (want == JINJA_TITLE) word = c && strchr("-({[< \t\r\n\v\f", c);
        else word = !letter;
    }
    return out;
}

static struct value replace(struct render *r, struct text t, struct text from, struct text to, int64_t most)
{
    struct buf b = scratch();
    if (!render_step(r, t.len / 4)) return value_undefined();
    for (size_t i = 0; i <= t.len && buf_ok(&b);) {
        bool hit = most != 0 && from.len <= t.len - i && memcmp(t.data + i, from.data, from.len) == 0;
        if (hit) {
            (void)buf_add(&b, to.data, to.len);
            most -= most > 0;
            i += from.len;
        }
        if (hit && from.len) continue;
        if (i < t.len) (void)buf_addc(&b, t.data[i]);
        i++;
    }
    return take_text(r, &b);
}

static size_t find_from(struct text t, size_t at, struct text what)
{
    const char *found = what.len ? memmem(t.data + at, t.len - at, what.data, what.len) : t.data + at;
    return found ? (size_t)(found - t.data) : SIZE_MAX;
}

static struct value split_blanks(struct render *r, struct text t, int64_t most)
{
    struct value out = list_new(r, 8, false);
    struct text none = {NULL, 0}, rest = strip(t, none, LEFT);
    while (rest.len && !r->code) {
        size_t end = 0;
        int32_t code;
        if (most == 0) {
            list_add(r, out, value_text(rest));
            break;
        }
        for (size_t n; end < rest.len; end += n) {
            n = utf8_next(rest.data + end, rest.len - end, &code);
            if (in_set(rest.data + end, n, none)) break;
        }
        list_add(r, out, value_text((struct text){rest.data, end}));
        rest = strip((struct text){rest.data + end, rest.len - end}, none, LEFT);
        most -= most > 0;
    }
    return out;
}

static struct value split_text(struct render *r, struct text t, struct text separator, int64_t most)
{
    struct value out = list_new(r, 8, false);
    if (separator.len == 0) render_fail(r, ERR_INVALID, "split by an empty separator");
    size_t at = 0;
    for (size_t hit; !r->code && most != 0 && (hit = find_from(t, at, separator)) != SIZE_MAX; most -= most > 0) {
        list_add(r, out, value_text((struct text){t.data + at, hit - at}));
        at = hit + separator.len;
    }
    list_add(r, out, value_text((struct text){t.data + at, t.len - at}));
    return out;
}

static struct value split_text_right(struct render *r, struct text t, struct text separator, int64_t most)
{
    struct value all = split_text(r, t, separator, -1);
    if (r->code || most < 0 || (int64_t)all.list->count <= most + 1) return all;
    struct value out = list_new(r, (size_t)most + 1, false);
    size_t first = all.list->count - (size_t)most; /* the pieces before it stay together */
    const char *end = all.list->items[first - 1].text.data + all.list->items[first - 1].text.len;
    list_add(r, out, value_text((struct text){t.data, (size_t)(end - t.data)}));
    for (size_t i = first; i < all.list->count; i++) list_add(r, out, all.list->items[i]);
    return out;
}

static struct value split_lines(struct render *r, struct text t)
{
    struct value out = list_new(r, 8, false);
    for (size_t at = 0; at < t.len && !r->code;) {
        size_t end = at;
        while (end < t.len && t.data[end] != '\n' && t.data[end] != '\r') end++;
        list_add(r, out, value_text((struct text){t.data + at, end - at}));
        at = end + 1 + (end + 1 < t.len && t.data[end] == '\r' && t.data[end + 1] == '\n');
    }
    return out;
}

static bool affix(struct text t, struct text part, bool front)
{
    return part.len <= t.len && memcmp(front ? t.data : t.data + t.len - part.len, part.data, part.len) == 0;
}

/* startswith and endswith, with a string or a tuple of them */
static struct value any_affix(struct render *r, struct text t, const struct arguments *args, bool front)
{
    struct value part = argument(args, 0, "prefix");
    if (part.type == V_STRING) return value_bool(affix(t, part.text, front));
    if (part.type != V_LIST) return fail_type(r, front ? "startswith" : "endswith", part);
    for (size_t i = 0; i < part.list->count; i++)
        if (part.list->items[i].type == V_STRING && affix(t, part.list->items[i].text, front)) return value_bool(true);
    return value_bool(false);
}

static struct value join(struct render *r, struct value v, struct text separator, struct value attribute);

/* ---- the attribute paths and inner tests of map, select, sort … ---- */

static struct value follow(struct render *r, struct value v, struct value path)
{
    if (path.type == V_INT) return value_item(r, v, path);
    struct text rest = path.text;
    while (!r->code && path.type == V_STRING) {
        const char *dot = rest.len ? memchr(rest.data, '.', rest.len) : NULL;
        size_t n = dot ? (size_t)(dot - rest.data) : rest.len;
        struct value name = value_text((struct text){rest.data, n});
        bool number = n > 0;
        for (size_t i = 0; i < n; i++) number = number && rest.data[i] >= '0' && rest.data[i] <= '9';
        v = value_item(r, v, number && n < 10 ? value_int(atoi(rest.data)) : name);
        if (!dot) break;
        rest = (struct text){dot + 1, rest.len - n - 1};
    }
    return v;
}

static struct arguments later(const struct arguments *args, int skip)
{
    struct arguments out = {.count = 0};
    for (int i = skip; i < args->total; i++) {
        out.values[out.total] = args->values[i];
        out.names[out.total++] = args->names[i];
        out.count += i < args->count;
    }
    return out;
}

static struct value choose(struct render *r, struct value v, const struct arguments *args, bool attribute, bool keep)
{
    struct list *list = value_iterate(r, v);
    struct value out = list ? list_new(r, list->count, false) : value_undefined();
    struct value path = attribute ? argument(args, 0, "attr") : value_undefined();
    struct value test = argument(args, attribute, NULL);
    struct arguments rest = later(args, attribute + 1);
    if (attribute && path.type == V_UNDEFINED) render_fail(r, ERR_INVALID, "selectattr needs an attribute's name");
    for (size_t i = 0; list && i < list->count && render_step(r, 1); i++) {
        struct value item = attribute ? follow(r, list->items[i], path) : list->items[i];
        bool yes = test.type == V_STRING ? template_test(r, test.text, item, &rest) : value_true(item);
        if (yes == keep) list_add(r, out, list->items[i]);
    }
    return out;
}

/* ---- filters ---- */

static struct value f_trim(struct render *r, struct value v, const struct arguments *args)
{
    return value_text(strip(value_str(r, v), strip_set(r, args), LEFT | RIGHT));
}

static struct value f_tojson(struct render *r, struct value v, const struct arguments *args)
{
    struct buf b = scratch();
    int64_t indent = int_arg(args, -1, "indent", args->count > 0 ? int_arg(args, 0, NULL, -1) : -1);
    value_write_json(r, v, indent < 0 || indent > 16 ? -1 : (int)indent, true_arg(args, -1, "sort_keys"), &b);
    return take_text(r, &b);
}

static struct value f_length(struct render *r, struct value v, const struct arguments *args)
{
    (void)args;
    if (v.type == V_STRING && render_step(r, v.text.len / 4)) return value_int((int64_t)text_length(v.text));
    if (v.type == V_LIST) return value_int((int64_t)v.list->count);
    if (v.type == V_DICT) return value_int((int64_t)v.dict->count);
    return v.type == V_UNDEFINED ? value_int(0) : fail_type(r, "the length", v);
}

static struct value f_upper(struct render *r, struct value v, const struct arguments *args)
{
    (void)args;
    return change_case(r, value_str(r, v), UPPER);
}

static struct value f_lower(struct render *r, struct value v, const struct arguments *args)
{
    (void)args;
    return change_case(r, value_str(r, v), LOWER);
}

static struct value f_title(struct render *r, struct value v, const struct arguments *args)
{
    (void)args;
    return change_case(r, value_str(r, v), JINJA_TITLE);
}

static struct value f_capitalize(struct render *r, struct value v, const struct arguments *args)
{
    (void)args;
    return change_case(r, value_str(r, v), CAPITAL);
}

static struct value join(struct render *r, struct value v, struct text separator, struct value attribute)
{
    struct list *list = value_iterate(r, v);
    struct buf b = scratch();
    for (size_t i = 0; list && i < list->count && render_step(r, 1); i++) {
        if (i) (void)buf_add(&b, separator.data, separator.len);
        value_write(r, attribute.type == V_UNDEFINED ? list->items[i] : follow(r, list->items[i], attribute), false, &b);
    }
    return take_text(r, &b);
}

static struct value f_join(struct render *r, struct value v, const struct arguments *args)
{
    struct value separator = argument(args, 0, "d");
    struct text between = separator.type == V_UNDEFINED ? TEXT("") : value_str(r, separator);
    return r->code ? value_undefined() : join(r, v, between, argument(args, 1, "attribute"));
}

static struct value f_default(struct render *r, struct value v, const struct arguments *args)
{
    (void)r;
    if (v.type != V_UNDEFINED && (!true_arg(args, 1, "boolean") || value_true(v))) return v;
    struct value otherwise = argument(args, 0, "default_value");
    return otherwise.type == V_UNDEFINED && args->total == 0 ? value_text(TEXT("")) : otherwise;
}

static struct value f_select(struct render *r, struct value v, const struct arguments *args)
{
    return choose(r, v, args, false, true);
}

static struct value f_reject(struct render *r, struct value v, const struct arguments *args)
{
    return choose(r, v, args, false, false);
}

static struct value f_selectattr(struct render *r, struct value v, const struct arguments *args)
{
    return choose(r, v, args, true, true);
}

static struct value f_rejectattr(struct render *r, struct value v, const struct arguments *args)
{
    return choose(r, v, args, true, false);
}

static struct value f_map(struct render *r, struct value v, const struct arguments *args)
{
    struct list *list = value_iterate(r, v);
    struct value out = list ? list_new(r, list->count, false) : value_undefined();
    struct value attribute = argument(args, -1, "attribute"), otherwise = argument(args, -1, "default");
    struct value filter = argument(args, 0, NULL);
    struct arguments rest = later(args, 1);
    if (attribute.type == V_UNDEFINED && filter.type != V_STRING)
        render_fail(r, ERR_INVALID, "map needs a filter's name or an attribute");
    for (size_t i = 0; list && i < list->count && render_step(r, 1); i++) {
        struct value item = list->items[i];
        if (attribute.type == V_UNDEFINED) item = template_filter(r, filter.text, item, &rest);
        else item = follow(r, item, attribute);
        if (item.type == V_UNDEFINED && attribute.type != V_UNDEFINED) item = otherwise;
        list_add(r, out, item);
    }
    return out;
}

static struct value pair(struct render *r, struct value a, struct value b)
{
    struct value tuple = list_new(r, 2, true);
    list_add(r, tuple, a);
    list_add(r, tuple, b);
    return tuple;
}

static struct value dict_list(struct render *r, struct value v, bool keys, bool values)
{
    struct value out = list_new(r, v.dict->count, false);
    for (size_t i = 0; i < v.dict->count && !r->code; i++) {
        struct entry *e = &v.dict->entries[i];
        list_add(r, out, keys && values ? pair(r, e->key, e->value) : keys ? e->key : e->value);
    }
    return out;
}

static struct value f_items(struct render *r, struct value v, const struct arguments *args)
{
    (void)args;
    if (v.type == V_UNDEFINED) return list_new(r, 1, false);
    return v.type == V_DICT ? dict_list(r, v, true, true) : fail_type(r, "the items", v);
}

static struct value f_first(struct render *r, struct value v, const struct arguments *args)
{
    (void)args;
    struct list *list = value_iterate(r, v);
    return list && list->count ? list->items[0] : value_undefined();
}

static struct value f_last(struct render *r, struct value v, const struct arguments *args)
{
    (void)args;
    struct list *list = value_iterate(r, v);
    return list && list->count ? list->items[list->count - 1] : value_undefined();
}

static struct value f_replace(struct render *r, struct value v, const struct arguments *args)
{
    struct text t = value_str(r, v), from = text_arg(r, args, 0, "old", ""), to = text_arg(r, args, 1, "new", "");
    return r->code ? value_undefined() : replace(r, t, from, to, int_arg(args, 2, "count", -1));
}

static struct value f_same(struct render *r, struct value v, const struct arguments *args)
{
    (void)r;
    (void)args;
    return v;
}

static struct value f_string(struct render *r, struct value v, const struct arguments *args)
{
    (void)args;
    return value_text(value_str(r, v));
}

/* The number that a text is, after Python's rules for blanks and underscores left out; false: none. */
static bool read_number(struct text t, char *out, size_t size)
{
    t = strip(t, (struct text){NULL, 0}, LEFT | RIGHT);
    if (t.len == 0 || t.len >= size) return false;
    for (size_t i = 0; i < t.len; i++)
        if (!strchr("0123456789+-.eE", t.data[i]) || !t.data[i]) return false;
    memcpy(out, t.data, t.len);
    out[t.len] = 0;
    return true;
}

static struct value f_int(struct render *r, struct value v, const struct arguments *args)
{
    struct value otherwise = argument(args, 0, "default");
    char text[64], *end;
    if (v.type == V_UNDEFINED) return fail_type(r, "the number", v);
    if (v.type == V_INT || v.type == V_BOOL) return value_int(v.type == V_BOOL ? v.boolean : v.integer);
    if (v.type == V_FLOAT && fabs(v.real) < 9e18) return value_int((int64_t)v.real);
    if (v.type == V_STRING && read_number(v.text, text, sizeof text)) {
        double real = strtod(text, &end);
        if (!*end && fabs(real) < 9e18) return value_int(strpbrk(text, ".eE") ? (int64_t)real : strtoll(text, NULL, 10));
    }
    return otherwise.type == V_UNDEFINED ? value_int(0) : otherwise;
}

static struct value f_float(struct render *r, struct value v, const struct arguments *args)
{
    struct value otherwise = argument(args, 0, "default");
    char text[64], *end;
    if (v.type == V_UNDEFINED) return fail_type(r, "the number", v);
    if (value_is_number(v)) return value_float(value_real(v));
    if (v.type == V_STRING && read_number(v.text, text, sizeof text)) {
        double real = strtod(text, &end);
        if (!*end) return value_float(real);
    }
    return otherwise.type == V_UNDEFINED ? value_float(0) : otherwise;
}

static struct value f_list(struct render *r, struct value v, const struct arguments *args)
{
    (void)args;
    struct list *list = value_iterate(r, v);
    struct value out = list ? list_new(r, list->count, false) : value_undefined();
    for (size_t i = 0; list && i < list->count && !r->code; i++) list_add(r, out, list->items[i]);
    return out;
}

static struct value f_reverse(struct render *r, struct value v, const struct arguments *args)
{
    (void)args;
    struct value backwards[3] = {value_undefined(), value_undefined(), value_int(-1)};
    if (v.type == V_STRING) return value_slice(r, v, backwards);
    struct value list = f_list(r, v, args);
    return r->code ? list : value_slice(r, list, backwards);
}

struct sort_item {
    struct value key, item;
};

static struct value sort_key(struct render *r, struct value v, struct value attribute, bool exact)
{
    if (attribute.type != V_UNDEFINED) v = follow(r, v, attribute);
    return v.type == V_STRING && !exact ? change_case(r, v.text, LOWER) : v;
}

/* Bottom-up merge sort: stable, and a failing comparison only ends it. */
static void sort_items(struct render *r, struct sort_item *items, struct sort_item *spare, size_t count, bool reverse)
{
    for (size_t width = 1; width < count && !r->code; width *= 2) {
        for (size_t low = 0; low < count; low += 2 * width) {
            size_t middle = low + width < count ? low + width : count, high = middle + width < count ? middle + width : count;
            size_t a = low, b = middle;
            for (size_t k = low; k < high && render_step(r, 1); k++) {
                bool right = a == middle;
                if (a < middle && b < high) {
                    int order = value_order(r, items[a].key, items[b].key);
                    right = reverse ? order < 0 : order > 0;
                }
                spare[k] = items[right ? b++ : a++];
            }
        }
        if (!r->code) memcpy(items, spare, count * sizeof *items);
    }
}

static struct value sorted(struct render *r, struct value list, struct value attribute, bool exact, bool reverse)
{
    size_t count = r->code ? 0 : list.list->count;
    struct sort_item *items = render_alloc(r, count, sizeof *items), *spare = render_alloc(r, count, sizeof *spare);
    struct value out = list_new(r, count, false);
    if (r->code) return out;
    for (size_t i = 0; i < count; i++)
        items[i] = (struct sort_item){sort_key(r, list.list->items[i], attribute, exact), list.list->items[i]};
    sort_items(r, items, spare, count, reverse);
    for (size_t i = 0; i < count && !r->code; i++) list_add(r, out, items[i].item);
    return out;
}

static struct value f_sort(struct render *r, struct value v, const struct arguments *args)
{
    return sorted(r, f_list(r, v, args), argument(args, 2, "attribute"), true_arg(args, 1, "case_sensitive"),
                  true_arg(args, 0, "reverse"));
}

static struct value f_dictsort(struct render *r, struct value v, const struct arguments *args)
{
    if (v.type != V_DICT) return fail_type(r, "dictsort", v);
    bool by_value = text_is(text_arg(r, args, 1, "by", "key"), "value");
    return sorted(r, dict_list(r, v, true, true), value_int(by_value), true_arg(args, 0, "case_sensitive"),
                  true_arg(args, 2, "reverse"));
}

static struct value f_unique(struct render *r, struct value v, const struct arguments *args)
{
    struct list *list = value_iterate(r, v);
    struct value out = list_new(r, 8, false), seen = dict_new(r), attribute = argument(args, 1, "attribute");
    for (size_t i = 0; list && i < list->count && render_step(r, 1); i++) {
        struct value key = sort_key(r, list->items[i], attribute, true_arg(args, 0, "case_sensitive"));
        if (r->code || dict_find(r, seen, key)) continue;
        dict_set(r, seen, key, value_none());
        list_add(r, out, list->items[i]);
    }
    return out;
}

static struct value f_indent(struct render *r, struct value v, const struct arguments *args)
{
    struct text t = value_str(r, v);
    struct value width = argument(args, 0, "width");
    bool first = true_arg(args, 1, "first"), blank = true_arg(args, 2, "blank");
    struct buf b = scratch(), margin = BUF_INIT(4096);
    if (width.type == V_STRING) (void)buf_add(&margin, width.text.data, width.text.len);
    else for (int64_t i = int_arg(args, 0, "width", 4); i > 0 && buf_ok(&margin); i--) (void)buf_addc(&margin, ' ');
    for (size_t at = 0, line = 0; at <= t.len && !r->code && render_step(r, 1); line++) {
        size_t end = at;
        while (end < t.len && t.data[end] != '\n') end++;
        if (line ? (blank || end > at) : first) (void)buf_add(&b, margin.data, margin.len);
        (void)buf_add(&b, t.data + at, end - at + (end < t.len));
        at = end + 1;
    }
    if (!buf_ok(&margin)) render_fail(r, ERR_TOO_LARGE, "an indent of more than %zu", margin.max);
    buf_release(&margin);
    return take_text(r, &b);
}

static struct value f_abs(struct render *r, struct value v, const struct arguments *args)
{
    (void)args;
    if (v.type == V_FLOAT) return value_float(fabs(v.real));
    if ((v.type != V_INT && v.type != V_BOOL) || v.integer == INT64_MIN) return fail_type(r, "abs", v);
    int64_t i = v.type == V_BOOL ? v.boolean : v.integer;
    return value_int(i < 0 ? -i : i);
}

static int64_t whole(struct render *r, struct value v)
{
    if (v.type != V_INT && v.type != V_BOOL) (void)fail_type(r, "the integer", v);
    return v.type == V_INT ? v.integer : v.boolean;
}

static struct value f_round(struct render *r, struct value v, const struct arguments *args)
{
    int64_t digits = int_arg(args, 0, "precision", 0);
    struct text method = text_arg(r, args, 1, "method", "common");
    if (!value_is_number(v)) return fail_type(r, "round", v);
    if (v.type != V_FLOAT && digits >= 0 && text_is(method, "common")) return value_int(whole(r, v));
    double scale = pow(10, (double)(digits > 15 ? 15 : digits < -15 ? -15 : digits)), x = value_real(v);
    if (text_is(method, "ceil")) return value_float(ceil(x * scale) / scale);
    if (text_is(method, "floor")) return value_float(floor(x * scale) / scale);
    return value_float(nearbyint(x * scale) / scale);
}

static struct value fold(struct render *r, struct value v, const struct arguments *args, int want)
{
    struct list *list = value_iterate(r, v);
    struct value best = value_undefined(), attribute = argument(args, want ? 1 : 0, "attribute");
    double real = 0;
    int64_t whole = 0;
    bool reals = false;
    for (size_t i = 0; list && i < list->count && render_step(r, 1); i++) {
        struct value item = attribute.type == V_UNDEFINED ? list->items[i] : follow(r, list->items[i], attribute);
        if (!want && !value_is_number(item)) return fail_type(r, "the sum", item);
        if (want && (best.type == V_UNDEFINED || value_order(r, item, best) * want > 0)) best = item;
        if (want) continue;
        reals = reals || item.type == V_FLOAT;
        real += value_real(item);
        if (item.type != V_FLOAT && __builtin_add_overflow(whole, item.type == V_BOOL ? item.boolean : item.integer, &whole))
            reals = true;
    }
    return want ? best : reals ? value_float(real) : value_int(whole);
}

static struct value f_sum(struct render *r, struct value v, const struct arguments *args)
{
    return fold(r, v, args, 0);
}

static struct value f_min(struct render *r, struct value v, const struct arguments *args)
{
    return fold(r, v, args, -1);
}

static struct value f_max(struct render *r, struct value v, const struct arguments *args)
{
    return fold(r, v, args, 1);
}

static struct value f_escape(struct render *r, struct value v, const struct arguments *args)
{
    static const char FROM[] = "&<>\"'", *const TO[] = {"&amp;", "&lt;", "&gt;", "&#34;", "&#39;"};
    struct text t = value_str(r, v);
    struct buf b = scratch();
    (void)args;
    for (size_t i = 0; i < t.len; i++) {
        const char *found = t.data[i] ? strchr(FROM, t.data[i]) : NULL;
        if (found) (void)buf_adds(&b, TO[found - FROM]);
        else (void)buf_addc(&b, t.data[i]);
    }
    return take_text(r, &b);
}

struct value template_filter(struct render *r, struct text name, struct value v, const struct arguments *args)
{
    static const struct {
        const char *name;
        struct value (*run)(struct render *r, struct value v, const struct arguments *args);
    } FILTERS[] = {
        {"trim", f_trim},       {"tojson", f_tojson},   {"length", f_length},         {"count", f_length},
        {"upper", f_upper},     {"lower", f_lower},     {"title", f_title},           {"capitalize", f_capitalize},
        {"join", f_join},       {"default", f_default}, {"d", f_default},             {"select", f_select},
        {"reject", f_reject},   {"map", f_map},         {"selectattr", f_selectattr}, {"rejectattr", f_rejectattr},
        {"items", f_items},     {"first", f_first},     {"last", f_last},             {"replace", f_replace},
        {"safe", f_same},       {"string", f_string},   {"int", f_int},               {"float", f_float},
        {"list", f_list},       {"reverse", f_reverse}, {"sort", f_sort},             {"dictsort", f_dictsort},
        {"unique", f_unique},   {"indent", f_indent},   {"abs", f_abs},               {"round", f_round},
        {"sum", f_sum},         {"min", f_min},         {"max", f_max},               {"escape", f_escape},
        {"e", f_escape},
    };
    if (r->code) return value_undefined();
    for (size_t i = 0; i < sizeof FILTERS / sizeof FILTERS[0]; i++) {
        if (!text_is(name, FILTERS[i].name)) continue;
        struct value out = FILTERS[i].run(r, v, args);
        return r->code ? value_undefined() : out;
    }
    render_fail(r, ERR_UNSUPPORTED, "the filter '%.*s' is not supported", (int)(name.len < 40 ? name.len : 40), name.data);
    return value_undefined();
}

/* ---- tests ---- */

enum test {
    IS_DEFINED, IS_UNDEFINED, IS_NONE, IS_STRING, IS_MAPPING, IS_ITERABLE, IS_SEQUENCE, IS_NUMBER, IS_INTEGER, IS_FLOAT,
    IS_BOOLEAN, IS_TRUE, IS_FALSE, IS_EVEN, IS_ODD, IS_DIVISIBLE, IS_EQUAL, IS_NOT_EQUAL, IS_LESS, IS_LESS_EQUAL,
    IS_GREATER, IS_GREATER_EQUAL, IS_IN, IS_CALLABLE, IS_LOWER, IS_UPPER, IS_FILTER
};

static bool is_in(struct render *r, struct value v, struct value hay)
{
    if (hay.type == V_STRING && v.type == V_STRING) return find_from(hay.text, 0, v.text) != SIZE_MAX;
    struct list *list = value_iterate(r, hay);
    for (size_t i = 0; list && i < list->count && render_step(r, 1); i++)
        if (value_equal(r, list->items[i], v)) return true;
    return false;
}

static bool is_cased(struct render *r, struct value v, enum letter_case want)
{
    struct text t = value_str(r, v);
    bool letters = false;
    for (size_t i = 0; i < t.len; i++) {
        bool up = t.data[i] >= 'A' && t.data[i] <= 'Z', low = t.data[i] >= 'a' && t.data[i] <= 'z';
        if (want == UPPER ? low : up) return false;
        letters = letters || up || low;
    }
    return letters;
}

static bool is_divisible(struct render *r, struct value v, struct value by)
{
    int64_t n = whole(r, v), d = whole(r, by);
    if (!r->code && d == 0) render_fail(r, ERR_INVALID, "division by zero");
    return !r->code && (d == -1 || n % d == 0);
}

static bool run_test(struct render *r, enum test test, struct value v, struct value other)
{
    switch (test) {
    case IS_DEFINED: return v.type != V_UNDEFINED;
    case IS_UNDEFINED: return v.type == V_UNDEFINED;
    case IS_NONE: return v.type == V_NONE;
    case IS_STRING: return v.type == V_STRING;
    case IS_MAPPING: return v.type == V_DICT;
    case IS_ITERABLE: return v.type == V_STRING || v.type == V_LIST || v.type == V_DICT || v.type == V_UNDEFINED || v.type == V_LOOP;
    case IS_SEQUENCE: return v.type == V_STRING || v.type == V_LIST || v.type == V_DICT || v.type == V_UNDEFINED;
    case IS_NUMBER: return value_is_number(v);
    case IS_INTEGER: return v.type == V_INT;
    case IS_FLOAT: return v.type == V_FLOAT;
    case IS_BOOLEAN: return v.type == V_BOOL;
    case IS_TRUE: return v.type == V_BOOL && v.boolean;
    case IS_FALSE: return v.type == V_BOOL && !v.boolean;
    case IS_EVEN: return whole(r, v) % 2 == 0;
    case IS_ODD: return whole(r, v) % 2 != 0;
    case IS_DIVISIBLE: return is_divisible(r, v, other);
    case IS_EQUAL: return value_equal(r, v, other);
    case IS_NOT_EQUAL: return !value_equal(r, v, other);
    case IS_LESS: return value_order(r, v, other) < 0;
    case IS_LESS_EQUAL: return value_order(r, v, other) <= 0;
    case IS_GREATER: return value_order(r, v, other) > 0;
    case IS_GREATER_EQUAL: return value_order(r, v, other) >= 0;
    case IS_IN: return is_in(r, v, other);
    case IS_CALLABLE: return v.type == V_MACRO || v.type == V_FUNCTION;
    case IS_LOWER: return is_cased(r, v, LOWER);
    default: return is_cased(r, v, UPPER);
    }
}

bool template_test(struct render *r, struct text name, struct value v, const struct arguments *args)
{
    static const struct {
        const char *name;
        enum test test;
    } TESTS[] = {
        {"defined", IS_DEFINED},   {"undefined", IS_UNDEFINED}, {"none", IS_NONE},         {"string", IS_STRING},
        {"mapping", IS_MAPPING},   {"iterable", IS_ITERABLE},   {"sequence", IS_SEQUENCE}, {"number", IS_NUMBER},
        {"integer", IS_INTEGER},   {"float", IS_FLOAT},         {"boolean", IS_BOOLEAN},   {"true", IS_TRUE},
        {"false", IS_FALSE},       {"even", IS_EVEN},           {"odd", IS_ODD},           {"divisibleby", IS_DIVISIBLE},
        {"equalto", IS_EQUAL},     {"eq", IS_EQUAL},            {"==", IS_EQUAL},          {"sameas", IS_EQUAL},
        {"ne", IS_NOT_EQUAL},      {"!=", IS_NOT_EQUAL},        {"lt", IS_LESS},           {"lessthan", IS_LESS},
        {"<", IS_LESS},            {"le", IS_LESS_EQUAL},       {"<=", IS_LESS_EQUAL},     {"gt", IS_GREATER},
        {"greaterthan", IS_GREATER}, {">", IS_GREATER},         {"ge", IS_GREATER_EQUAL},  {">=", IS_GREATER_EQUAL},
        {"in", IS_IN},             {"callable", IS_CALLABLE},   {"lower", IS_LOWER},       {"upper", IS_UPPER},
    };
    if (r->code) return false;
    for (size_t i = 0; i < sizeof TESTS / sizeof TESTS[0]; i++)
        if (text_is(name, TESTS[i].name)) return run_test(r, TESTS[i].test, v, argument(args, 0, NULL)) && !r->code;
    render_fail(r, ERR_UNSUPPORTED, "the test '%.*s' is not supported", (int)(name.len < 40 ? name.len : 40), name.data);
    return false;
}

/* ---- functions ---- */

static struct value call_raise(struct render *r, const struct arguments *args)
{
    struct text words = value_str(r, argument(args, 0, "message"));
    if (!r->code) r->code = err_set(r->e, ERR_INVALID, "%.*s", (int)(words.len < 4096 ? words.len : 4096), words.data);
    return value_undefined();
}

static struct value call_now(struct render *r, const struct arguments *args)
{
    char format[128], text[256];
    struct text t = text_arg(r, args, 0, "format", "");
    time_t now = (time_t)(clock_wall_ms() / 1000);
    struct tm local;
    if (t.len >= sizeof format || !localtime_r(&now, &local)) {
        render_fail(r, ERR_INVALID, "strftime_now: too long a format");
        return value_undefined();
    }
    memcpy(format, t.data, t.len);
    format[t.len] = 0;
    size_t n = strftime(text, sizeof text, format, &local);
    return value_copy_text(r, text, n);
}

static struct value call_range(struct render *r, const struct arguments *args)
{
    enum { RANGE_MAX = 100000 };
    int64_t from = args->count > 1 ? int_arg(args, 0, NULL, 0) : 0, to = int_arg(args, args->count > 1, NULL, 0);
    int64_t step = int_arg(args, 2, NULL, 1);
    if (args->count < 1 || step == 0) render_fail(r, ERR_INVALID, "range needs an end, and a step that is not 0");
    struct value out = list_new(r, 16, false);
    for (int64_t i = from; !r->code && (step > 0 ? i < to : i > to);) {
        if (out.list->count >= RANGE_MAX) render_fail(r, ERR_TOO_LARGE, "a range of more than %d", RANGE_MAX);
        list_add(r, out, value_int(i));
        if (__builtin_add_overflow(i, step, &i)) break;
    }
    return out;
}

static struct value call_dict(struct render *r, const struct arguments *args, enum value_type type)
{
    struct value out = dict_new(r), from = argument(args, 0, NULL);
    if (r->code) return out;
    for (size_t i = 0; from.type == V_DICT && i < from.dict->count && !r->code; i++)
        dict_set(r, out, from.dict->entries[i].key, from.dict->entries[i].value);
    for (int i = args->count; i < args->total && !r->code; i++) dict_set(r, out, value_text(args->names[i]), args->values[i]);
    out.type = type;
    return out;
}

struct value template_function(struct render *r, struct text name, const struct arguments *args)
{
    if (text_is(name, "raise_exception")) return call_raise(r, args);
    if (text_is(name, "strftime_now")) return call_now(r, args);
    if (text_is(name, "range")) return call_range(r, args);
    if (text_is(name, "namespace")) return call_dict(r, args, V_NAMESPACE);
    if (text_is(name, "dict")) return call_dict(r, args, V_DICT);
    render_fail(r, ERR_UNSUPPORTED, "the function '%.*s' is not known", (int)(name.len < 40 ? name.len : 40), name.data);
    return value_undefined();
}

/* ---- methods ---- */

enum method {
    M_STRIP, M_LSTRIP, M_RSTRIP, M_SPLIT, M_RSPLIT, M_SPLITLINES, M_STARTSWITH, M_ENDSWITH, M_UPPER, M_LOWER, M_TITLE,
    M_CAPITALIZE, M_REPLACE, M_FIND, M_COUNT, M_JOIN, M_ISDIGIT, M_ISALPHA, M_ISSPACE, M_REMOVEPREFIX, M_REMOVESUFFIX
};

static struct value text_find(struct text t, struct text what)
{
    size_t at = find_from(t, 0, what);
    return value_int(at == SIZE_MAX ? -1 : (int64_t)text_length((struct text){t.data, at}));
}

static struct value text_count(struct render *r, struct text t, struct text what)
{
    int64_t n = 0;
    if (what.len == 0) return value_int((int64_t)text_length(t) + 1);
    for (size_t at = 0; render_step(r, 1) && (at = find_from(t, at, what)) != SIZE_MAX; at += what.len) n++;
    return value_int(n);
}

static struct value all_of(struct text t, int kinds)
{
    for (size_t i = 0; i < t.len;) {
        int32_t code;
        i += utf8_next(t.data + i, t.len - i, &code);
        if (code < 0 || !(unicode_kind((uint32_t)code) & kinds)) return value_bool(false);
    }
    return value_bool(t.len > 0);
}

static struct value text_split(struct render *r, struct text t, const struct arguments *args, bool right)
{
    struct value separator = argument(args, 0, "sep");
    int64_t most = int_arg(args, 1, "maxsplit", -1);
    if (separator.type == V_UNDEFINED || separator.type == V_NONE) {
        if (right && most >= 0) render_fail(r, ERR_UNSUPPORTED, "rsplit by blanks with a limit");
        return split_blanks(r, t, most);
    }
    struct text by = text_arg(r, args, 0, "sep", "");
    if (r->code) return value_undefined();
    return right ? split_text_right(r, t, by, most) : split_text(r, t, by, most);
}

static struct value remove_affix(struct text t, struct text part, bool front)
{
    if (!affix(t, part, front)) return value_text(t);
    return value_text((struct text){front ? t.data + part.len : t.data, t.len - part.len});
}

static struct value text_method(struct render *r, enum method method, struct text t, const struct arguments *args)
{
    if (!render_step(r, t.len / 16)) return value_undefined();
    switch (method) {
    case M_STRIP: return value_text(strip(t, strip_set(r, args), LEFT | RIGHT));
    case M_LSTRIP: return value_text(strip(t, strip_set(r, args), LEFT));
    case M_RSTRIP: return value_text(strip(t, strip_set(r, args), RIGHT));
    case M_SPLIT: return text_split(r, t, args, false);
    case M_RSPLIT: return text_split(r, t, args, true);
    case M_SPLITLINES: return split_lines(r, t);
    case M_STARTSWITH: return any_affix(r, t, args, true);
    case M_ENDSWITH: return any_affix(r, t, args, false);
    case M_UPPER: return change_case(r, t, UPPER);
    case M_LOWER: return change_case(r, t, LOWER);
    case M_TITLE: return change_case(r, t, TITLE);
    case M_CAPITALIZE: return change_case(r, t, CAPITAL);
    case M_REPLACE:
        return replace(r, t, text_arg(r, args, 0, "old", ""), text_arg(r, args, 1, "new", ""), int_arg(args, 2, "count", -1));
    case M_FIND: return text_find(t, text_arg(r, args, 0, "sub", ""));
    case M_COUNT: return text_count(r, t, text_arg(r, args, 0, "sub", ""));
    case M_JOIN: return join(r, argument(args, 0, "iterable"), t, value_undefined());
    case M_ISDIGIT: return all_of(t, UNICODE_NUMBER);
    case M_ISALPHA: return all_of(t, UNICODE_LETTER);
    case M_ISSPACE: return all_of(t, UNICODE_SPACE);
    case M_REMOVEPREFIX: return remove_affix(t, text_arg(r, args, 0, "prefix", ""), true);
    default: return remove_affix(t, text_arg(r, args, 0, "suffix", ""), false);
    }
}

static const struct {
    const char *name;
    enum method method;
} TEXT_METHODS[] = {
    {"strip", M_STRIP},           {"lstrip", M_LSTRIP},         {"rstrip", M_RSTRIP},
    {"split", M_SPLIT},           {"rsplit", M_RSPLIT},         {"splitlines", M_SPLITLINES},
    {"startswith", M_STARTSWITH}, {"endswith", M_ENDSWITH},     {"upper", M_UPPER},
    {"lower", M_LOWER},           {"title", M_TITLE},           {"capitalize", M_CAPITALIZE},
    {"replace", M_REPLACE},       {"find", M_FIND},             {"count", M_COUNT},
    {"join", M_JOIN},             {"isdigit", M_ISDIGIT},       {"isalpha", M_ISALPHA},
    {"isspace", M_ISSPACE},       {"removeprefix", M_REMOVEPREFIX}, {"removesuffix", M_REMOVESUFFIX},
};

static const char *const DICT_METHODS[] = {"get", "items", "keys", "values", "copy", "update", "pop", "clear",
                                           "setdefault", "popitem", "fromkeys"};

bool dict_method_known(struct text name)
{
    for (size_t i = 0; i < sizeof DICT_METHODS / sizeof DICT_METHODS[0]; i++)
        if (text_is(name, DICT_METHODS[i])) return true;
    return false;
}

static struct value dict_method(struct render *r, struct value v, struct text name, const struct arguments *args, bool *known)
{
    *known = true;
    if (text_is(name, "items")) return dict_list(r, v, true, true);
    if (text_is(name, "keys")) return dict_list(r, v, true, false);
    if (text_is(name, "values")) return dict_list(r, v, false, true);
    if (text_is(name, "copy")) return call_dict(r, &(struct arguments){.values = {v}, .count = 1, .total = 1}, V_DICT);
    *known = text_is(name, "get");
    if (!*known) return value_undefined();
    const struct value *found = dict_find(r, v, argument(args, 0, "key"));
    if (found) return *found;
    return args->total > 1 ? argument(args, 1, "default") : value_none();
}

static struct value list_method(struct render *r, struct value v, struct text name, const struct arguments *args, bool *known)
{
    struct value what = argument(args, 0, "value");
    bool counting = text_is(name, "count");
    int64_t n = 0;
    *known = counting || text_is(name, "index");
    for (size_t i = 0; *known && i < v.list->count && render_step(r, 1); i++) {
        if (!value_equal(r, v.list->items[i], what)) continue;
        if (!counting) return value_int((int64_t)i);
        n++;
    }
    if (*known && !counting) render_fail(r, ERR_INVALID, "index: the list does not hold that value");
    return value_int(n);
}

static struct value loop_method(struct render *r, struct value v, struct text name, const struct arguments *args, bool *known)
{
    *known = text_is(name, "cycle");
    if (!*known) return value_undefined();
    if (args->count == 0) render_fail(r, ERR_INVALID, "loop.cycle needs something to go round");
    return r->code ? value_undefined() : args->values[v.loop->index % (size_t)args->count];
}

struct value template_method(struct render *r, struct value object, struct text name, const struct arguments *args)
{
    bool known = false;
    struct value out = value_undefined();
    for (size_t i = 0; object.type == V_STRING && i < sizeof TEXT_METHODS / sizeof TEXT_METHODS[0]; i++)
        if (text_is(name, TEXT_METHODS[i].name)) return text_method(r, TEXT_METHODS[i].method, object.text, args);
    if (object.type == V_DICT) out = dict_method(r, object, name, args, &known);
    if (object.type == V_LIST) out = list_method(r, object, name, args, &known);
    if (object.type == V_LOOP) out = loop_method(r, object, name, args, &known);
    if (!known)
        render_fail(r, object.type == V_UNDEFINED ? ERR_INVALID : ERR_UNSUPPORTED, "a %s has no method '%.*s'",
                    value_type_name(object), (int)(name.len < 40 ? name.len : 40), name.data);
    return out;
}
