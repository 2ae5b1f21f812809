#include "engine/template_private.h"
#include "engine/unicode.h"
#include "engine/utf8.h"

#include <string.h>

/* What strings, lists and mappings can do: Python's methods. Letters outside ASCII keep their case. */

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

/* str.strip(): of white space, or of any of the characters of a set */
struct text text_strip(struct text t, struct text set, int sides)
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

struct text text_strip_set(struct render *r, const struct arguments *args)
{
    struct value v = argument(args, 0, "chars");
    if (v.type == V_UNDEFINED || v.type == V_NONE) return (struct text){NULL, 0};
    return argument_text(r, args, 0, "chars", "");
}

struct value text_change_case(struct render *r, struct text t, enum letter_case want)
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

struct value text_replace(struct render *r, struct text t, struct text from, struct text to, int64_t most)
{
    struct buf b = builtin_scratch();
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

size_t text_find_from(struct text t, size_t at, struct text what)
{
    const char *found = what.len ? memmem(t.data + at, t.len - at, what.data, what.len) : t.data + at;
    return found ? (size_t)(found - t.data) : SIZE_MAX;
}

static struct value split_blanks(struct render *r, struct text t, int64_t most)
{
    struct value out = list_new(r, 8, false);
    struct text none = {NULL, 0}, rest = text_strip(t, none, LEFT);
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
        rest = text_strip((struct text){rest.data + end, rest.len - end}, none, LEFT);
        most -= most > 0;
    }
    return out;
}

static struct value split_text(struct render *r, struct text t, struct text separator, int64_t most)
{
    struct value out = list_new(r, 8, false);
    if (separator.len == 0) render_fail(r, ERR_INVALID, "split by an empty separator");
    size_t at = 0;
    for (size_t hit; !r->code && most != 0 && (hit = text_find_from(t, at, separator)) != SIZE_MAX; most -= most > 0) {
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
    if (part.type != V_LIST) return builtin_fail(r, front ? "startswith" : "endswith", part);
    for (size_t i = 0; i < part.list->count; i++)
        if (part.list->items[i].type == V_STRING && affix(t, part.list->items[i].text, front)) return value_bool(true);
    return value_bool(false);
}

/* ---- methods ---- */

enum method {
    M_STRIP, M_LSTRIP, M_RSTRIP, M_SPLIT, M_RSPLIT, M_SPLITLINES, M_STARTSWITH, M_ENDSWITH, M_UPPER, M_LOWER, M_TITLE,
    M_CAPITALIZE, M_REPLACE, M_FIND, M_COUNT, M_JOIN, M_ISDIGIT, M_ISALPHA, M_ISSPACE, M_REMOVEPREFIX, M_REMOVESUFFIX
};

static struct value text_find(struct text t, struct text what)
{
    size_t at = text_find_from(t, 0, what);
    return value_int(at == SIZE_MAX ? -1 : (int64_t)text_length((struct text){t.data, at}));
}

static struct value text_count(struct render *r, struct text t, struct text what)
{
    int64_t n = 0;
    if (what.len == 0) return value_int((int64_t)text_length(t) + 1);
    for (size_t at = 0; render_step(r, 1) && (at = text_find_from(t, at, what)) != SIZE_MAX; at += what.len) n++;
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
    int64_t most = argument_int(args, 1, "maxsplit", -1);
    if (separator.type == V_UNDEFINED || separator.type == V_NONE) {
        if (right && most >= 0) render_fail(r, ERR_UNSUPPORTED, "rsplit by blanks with a limit");
        return split_blanks(r, t, most);
    }
    struct text by = argument_text(r, args, 0, "sep", "");
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
    case M_STRIP: return value_text(text_strip(t, text_strip_set(r, args), LEFT | RIGHT));
    case M_LSTRIP: return value_text(text_strip(t, text_strip_set(r, args), LEFT));
    case M_RSTRIP: return value_text(text_strip(t, text_strip_set(r, args), RIGHT));
    case M_SPLIT: return text_split(r, t, args, false);
    case M_RSPLIT: return text_split(r, t, args, true);
    case M_SPLITLINES: return split_lines(r, t);
    case M_STARTSWITH: return any_affix(r, t, args, true);
    case M_ENDSWITH: return any_affix(r, t, args, false);
    case M_UPPER: return text_change_case(r, t, UPPER);
    case M_LOWER: return text_change_case(r, t, LOWER);
    case M_TITLE: return text_change_case(r, t, TITLE);
    case M_CAPITALIZE: return text_change_case(r, t, CAPITAL);
    case M_REPLACE:
        return text_replace(r, t, argument_text(r, args, 0, "old", ""), argument_text(r, args, 1, "new", ""), argument_int(args, 2, "count", -1));
    case M_FIND: return text_find(t, argument_text(r, args, 0, "sub", ""));
    case M_COUNT: return text_count(r, t, argument_text(r, args, 0, "sub", ""));
    case M_JOIN: return list_join(r, argument(args, 0, "iterable"), t, value_undefined());
    case M_ISDIGIT: return all_of(t, UNICODE_NUMBER);
    case M_ISALPHA: return all_of(t, UNICODE_LETTER);
    case M_ISSPACE: return all_of(t, UNICODE_SPACE);
    case M_REMOVEPREFIX: return remove_affix(t, argument_text(r, args, 0, "prefix", ""), true);
    default: return remove_affix(t, argument_text(r, args, 0, "suffix", ""), false);
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
    if (text_is(name, "items")) return dict_parts(r, v, true, true);
    if (text_is(name, "keys")) return dict_parts(r, v, true, false);
    if (text_is(name, "values")) return dict_parts(r, v, false, true);
    if (text_is(name, "copy")) return dict_from(r, &(struct arguments){.values = {v}, .count = 1, .total = 1}, V_DICT);
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
