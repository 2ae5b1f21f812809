#include "engine/template_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Jinja's filters, a row of a table each. */

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
        v = value_item(r, v, number && n < 10 ? value_int(strtol(rest.data, NULL, 10)) : name);
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
    return value_text(text_strip(value_str(r, v), text_strip_set(r, args), LEFT | RIGHT));
}

static struct value f_tojson(struct render *r, struct value v, const struct arguments *args)
{
    struct buf b = builtin_scratch();
    int64_t indent = argument_int(args, -1, "indent", args->count > 0 ? argument_int(args, 0, NULL, -1) : -1);
    value_write_json(r, v, indent < 0 || indent > 16 ? -1 : (int)indent, argument_true(args, -1, "sort_keys"), &b);
    return take_text(r, &b);
}

static struct value f_length(struct render *r, struct value v, const struct arguments *args)
{
    (void)args;
    if (v.type == V_STRING && render_step(r, v.text.len / 4)) return value_int((int64_t)text_length(v.text));
    if (v.type == V_LIST) return value_int((int64_t)v.list->count);
    if (v.type == V_DICT) return value_int((int64_t)v.dict->count);
    return v.type == V_UNDEFINED ? value_int(0) : builtin_fail(r, "the length", v);
}

static struct value f_upper(struct render *r, struct value v, const struct arguments *args)
{
    (void)args;
    return text_change_case(r, value_str(r, v), UPPER);
}

static struct value f_lower(struct render *r, struct value v, const struct arguments *args)
{
    (void)args;
    return text_change_case(r, value_str(r, v), LOWER);
}

static struct value f_title(struct render *r, struct value v, const struct arguments *args)
{
    (void)args;
    return text_change_case(r, value_str(r, v), JINJA_TITLE);
}

static struct value f_capitalize(struct render *r, struct value v, const struct arguments *args)
{
    (void)args;
    return text_change_case(r, value_str(r, v), CAPITAL);
}

struct value list_join(struct render *r, struct value v, struct text separator, struct value attribute)
{
    struct list *list = value_iterate(r, v);
    struct buf b = builtin_scratch();
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
    return r->code ? value_undefined() : list_join(r, v, between, argument(args, 1, "attribute"));
}

static struct value f_default(struct render *r, struct value v, const struct arguments *args)
{
    (void)r;
    if (v.type != V_UNDEFINED && (!argument_true(args, 1, "boolean") || value_true(v))) return v;
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

struct value dict_parts(struct render *r, struct value v, bool keys, bool values)
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
    return v.type == V_DICT ? dict_parts(r, v, true, true) : builtin_fail(r, "the items", v);
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
    struct text t = value_str(r, v), from = argument_text(r, args, 0, "old", ""), to = argument_text(r, args, 1, "new", "");
    return r->code ? value_undefined() : text_replace(r, t, from, to, argument_int(args, 2, "count", -1));
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
    t = text_strip(t, (struct text){NULL, 0}, LEFT | RIGHT);
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
    if (v.type == V_UNDEFINED) return builtin_fail(r, "the number", v);
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
    if (v.type == V_UNDEFINED) return builtin_fail(r, "the number", v);
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
    return v.type == V_STRING && !exact ? text_change_case(r, v.text, LOWER) : v;
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
    return sorted(r, f_list(r, v, args), argument(args, 2, "attribute"), argument_true(args, 1, "case_sensitive"),
                  argument_true(args, 0, "reverse"));
}

static struct value f_dictsort(struct render *r, struct value v, const struct arguments *args)
{
    if (v.type != V_DICT) return builtin_fail(r, "dictsort", v);
    bool by_value = text_is(argument_text(r, args, 1, "by", "key"), "value");
    return sorted(r, dict_parts(r, v, true, true), value_int(by_value), argument_true(args, 0, "case_sensitive"),
                  argument_true(args, 2, "reverse"));
}

static struct value f_unique(struct render *r, struct value v, const struct arguments *args)
{
    struct list *list = value_iterate(r, v);
    struct value out = list_new(r, 8, false), seen = dict_new(r), attribute = argument(args, 1, "attribute");
    for (size_t i = 0; list && i < list->count && render_step(r, 1); i++) {
        struct value key = sort_key(r, list->items[i], attribute, argument_true(args, 0, "case_sensitive"));
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
    bool first = argument_true(args, 1, "first"), blank = argument_true(args, 2, "blank");
    struct buf b = builtin_scratch(), margin = BUF_INIT(4096);
    if (width.type == V_STRING) (void)buf_add(&margin, width.text.data, width.text.len);
    else for (int64_t i = argument_int(args, 0, "width", 4); i > 0 && buf_ok(&margin); i--) (void)buf_addc(&margin, ' ');
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
    if ((v.type != V_INT && v.type != V_BOOL) || v.integer == INT64_MIN) return builtin_fail(r, "abs", v);
    int64_t i = v.type == V_BOOL ? v.boolean : v.integer;
    return value_int(i < 0 ? -i : i);
}

static struct value f_round(struct render *r, struct value v, const struct arguments *args)
{
    int64_t digits = argument_int(args, 0, "precision", 0);
    struct text method = argument_text(r, args, 1, "method", "common");
    if (!value_is_number(v)) return builtin_fail(r, "round", v);
    if (v.type != V_FLOAT && digits >= 0 && text_is(method, "common")) return value_int(builtin_whole(r, v));
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
        if (!want && !value_is_number(item)) return builtin_fail(r, "the sum", item);
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
    struct buf b = builtin_scratch();
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
