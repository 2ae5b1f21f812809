/* A JSON schema into a network. Each schema object is one rule; a list of those still to be compiled stands in for
 * recursion, so that neither depth nor a $ref to itself matters. */
#include "node/grammar_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RULES_MAX = 1024, RULE_SLOTS = 4096, ENUM_MAX = 1000, PROPERTIES_MAX = 256, ITEMS_MAX = 512, LITERAL_MAX = 16384 };

struct rule {
    json_t *schema;
    uint16_t start; /* node */
    int parent;     /* rule; -1 */
    char label[40]; /* its place in the parent, as in ".age" */
};
struct compiler {
    struct network *network;
    json_t *root;
    struct rule rules[RULES_MAX];
    int count, at; /* at: the rule being compiled */
    int16_t slots[RULE_SLOTS]; /* by the schema's address: rule + 1 */
    enum err_code code;
    struct err *error;
};

/* ---- saying what is wrong, and where ---- */

static void place_of(const struct compiler *c, int rule, char *out, size_t size)
{
    int chain[16], n = 0;
    for (int r = rule; r >= 0 && n < 16; r = c->rules[r].parent) chain[n++] = r;
    size_t used = (size_t)snprintf(out, size, "%s", c->rules[chain[n - 1]].parent < 0 ? "" : "...");
    while (n-- > 0 && used < size) used += (size_t)snprintf(out + used, size - used, "%s", c->rules[chain[n]].label);
}

#define WRONG(c, why, ...)                                                                                                       \
    do {                                                                                                                         \
        char place_[100], text_[120];                                                                                            \
        place_of(c, (c)->at, place_, sizeof place_);                                                                             \
        (void)snprintf(text_, sizeof text_, __VA_ARGS__);                                                                        \
        if ((c)->code == ERR_OK) (c)->code = err_set_param((c)->error, why, "response_format", "response_format: %s: %s", place_, text_); \
    } while (0)

/* ---- rules ---- */

static uint16_t rule_of(struct compiler *c, json_t *schema, const char *label)
{
    if (json_is_true(schema)) return c->network->any;
    if (!json_is_object(schema)) {
        WRONG(c, json_is_false(schema) ? ERR_UNSUPPORTED : ERR_INVALID, "%.40s must be a schema (an object or true)", label);
        return 0;
    }
    unsigned slot = (unsigned)((uintptr_t)schema >> 4) * 2654435761u % RULE_SLOTS;
    for (; c->slots[slot]; slot = (slot + 1) % RULE_SLOTS)
        if (c->rules[c->slots[slot] - 1].schema == schema) return c->rules[c->slots[slot] - 1].start;
    if (c->count == RULES_MAX) {
        WRONG(c, ERR_TOO_LARGE, "more than %d schemas in one", RULES_MAX);
        return 0;
    }
    struct rule *rule = &c->rules[c->count];
    *rule = (struct rule){.schema = schema, .start = network_node(c->network, NODE_FAIL, 0, 0), .parent = c->count ? c->at : -1};
    (void)snprintf(rule->label, sizeof rule->label, "%s", label);
    c->slots[slot] = (int16_t)++c->count;
    return rule->start;
}

/* What a local $ref points to: "#", or a JSON pointer (RFC 6901) behind it. */
static json_t *resolve(struct compiler *c, const char *ref)
{
    json_t *at = c->root;
    if (ref[0] != '#' || (ref[1] && ref[1] != '/')) {
        WRONG(c, ERR_UNSUPPORTED, "$ref \"%.60s\" must be local, as \"#/$defs/name\"", ref);
        return NULL;
    }
    for (const char *p = ref + 1; *p && at;) {
        char step[128];
        size_t n = 0;
        for (p++; *p && *p != '/' && n < sizeof step - 1; p++) {
            bool escaped = p[0] == '~' && (p[1] == '0' || p[1] == '1');
            step[n++] = escaped ? (p[1] == '0' ? '~' : '/') : *p;
            p += escaped;
        }
        step[n] = 0;
        char *end;
        unsigned long index = strtoul(step, &end, 10);
        at = json_is_array(at) ? (n && !*end ? json_array_get(at, index) : NULL) : json_object_get(at, step);
        if (*p && *p != '/') at = NULL;
    }
    if (!at) WRONG(c, ERR_INVALID, "$ref \"%.60s\" leads nowhere", ref);
    return at;
}

/* ---- literals ---- */

static void add_value(struct compiler *c, uint16_t trie, json_t *value)
{
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(17));
    size_t len = text ? strlen(text) : 0;
    if (!text) WRONG(c, ERR_MEMORY, "no memory");
    else if (len > LITERAL_MAX) WRONG(c, ERR_TOO_LARGE, "a value of %zu bytes; at most %d", len, LITERAL_MAX);
    else network_add_literal(c->network, trie, text, len);
    free(text);
}

static bool type_matches(const char *type, const json_t *value)
{
    static const struct {
        const char *name;
        json_type a, b;
    } ROWS[] = {{"object", JSON_OBJECT, JSON_OBJECT}, {"array", JSON_ARRAY, JSON_ARRAY},    {"string", JSON_STRING, JSON_STRING},
                {"number", JSON_INTEGER, JSON_REAL},  {"integer", JSON_INTEGER, JSON_INTEGER}, {"boolean", JSON_TRUE, JSON_FALSE},
                {"null", JSON_NULL, JSON_NULL}};
    for (size_t i = 0; i < sizeof ROWS / sizeof ROWS[0]; i++)
        if (strcmp(type, ROWS[i].name) == 0) return json_typeof(value) == ROWS[i].a || json_typeof(value) == ROWS[i].b;
    return false;
}

/* Whether a value has one of the types that `type` names (none: any). */
static bool has_type(json_t *type, json_t *value)
{
    if (json_is_string(type)) return type_matches(json_string_value(type), value);
    if (!json_is_array(type)) return true;
    for (size_t i = 0; i < json_array_size(type); i++) {
        const char *name = json_string_value(json_array_get(type, i));
        if (name && type_matches(name, value)) return true;
    }
    return false;
}

static uint16_t values(struct compiler *c, json_t *schema)
{
    json_t *list = json_object_get(schema, "enum"), *only = json_object_get(schema, "const"), *type = json_object_get(schema, "type");
    uint16_t trie = network_node(c->network, NODE_FAIL, 0, 0);
    size_t count = list ? json_array_size(list) : 1, taken = 0;
    if (list && (!json_is_array(list) || count == 0)) WRONG(c, ERR_INVALID, "enum must be a list of at least one value");
    if (count > ENUM_MAX) WRONG(c, ERR_TOO_LARGE, "enum has %zu values; at most %d", count, ENUM_MAX);
    for (size_t i = 0; i < count && c->code == ERR_OK; i++) {
        json_t *value = list ? json_array_get(list, i) : only;
        if (!has_type(type, value) || (list && only && !json_equal(only, value))) continue;
        add_value(c, trie, value);
        taken++;
    }
    if (c->code == ERR_OK && !taken) WRONG(c, ERR_INVALID, "no value of enum or const has the type asked for");
    return trie;
}

/* ---- types ---- */

static bool int_of(struct compiler *c, json_t *schema, const char *key, int most, int otherwise, int *out)
{
    json_t *value = json_object_get(schema, key);
    *out = otherwise;
    if (!value) return true;
    if (!json_is_integer(value) || json_integer_value(value) < 0) WRONG(c, ERR_INVALID, "%s must be a whole number from 0 on", key);
    else if (json_integer_value(value) > most) WRONG(c, ERR_TOO_LARGE, "%s is more than %d", key, most);
    else *out = (int)json_integer_value(value);
    return c->code == ERR_OK;
}

static uint16_t array(struct compiler *c, json_t *schema)
{
    uint16_t first[ITEMS_MAX], more = c->network->any;
    json_t *prefix = json_object_get(schema, "prefixItems"), *items = json_object_get(schema, "items");
    int count = (int)json_array_size(prefix), min, max;
    if (prefix && (!json_is_array(prefix) || count > ITEMS_MAX)) {
        WRONG(c, ERR_INVALID, "prefixItems must be a list of at most %d schemas", ITEMS_MAX);
        return 0;
    }
    for (int i = 0; i < count; i++) {
        char label[32];
        (void)snprintf(label, sizeof label, ".prefixItems[%d]", i);
        first[i] = rule_of(c, json_array_get(prefix, (size_t)i), label);
    }
    if (json_is_false(items) || (prefix && !items)) more = 0;
    else if (items) more = rule_of(c, items, ".items");
    if (!int_of(c, schema, "minItems", ITEMS_MAX, 0, &min) || !int_of(c, schema, "maxItems", INT32_MAX, -1, &max)) return 0;
    if (max > ITEMS_MAX) WRONG(c, ERR_TOO_LARGE, "maxItems is %d; at most %d", max, ITEMS_MAX);
    if (!more && (max < 0 || max > count)) max = count;
    if (max >= 0 && min > max) WRONG(c, ERR_INVALID, "minItems %d is more than the %d items there can be", min, max);
    return c->code == ERR_OK ? network_array(c->network, first, count, more, min, max) : 0;
}

struct property {
    uint16_t rule;
    char *key; /* as JSON text, with its quotation marks */
    bool required;
};

/* Properties in the schema's order. Q[i]: a key from i on; S[i]: behind a value, i being the next property. */
static uint16_t properties(struct network *n, const struct property *p, int count)
{
    uint16_t close = network_range(n, '}', '}', NODE_DONE), after = network_gap(n, close), keys = 0;
    bool can_end = true;
    for (int i = count - 1; i >= 0; i--) {
        uint16_t colon = network_gap(n, network_range(n, ':', ':', network_gap(n, network_call(n, p[i].rule, after))));
        uint16_t key = network_text(n, p[i].key + 1, strlen(p[i].key) - 1, colon);
        keys = p[i].required || !keys ? key : network_alt(n, key, keys);
        can_end &= !p[i].required;
        uint16_t open = network_range(n, '"', '"', keys);
        uint16_t way = i > 0 ? network_range(n, ',', ',', network_gap(n, open)) : open;
        after = network_gap(n, can_end ? network_alt(n, close, way) : way);
    }
    return network_range(n, '{', '{', after);
}

static void check_required(struct compiler *c, json_t *required, json_t *props)
{
    if (required && !json_is_array(required)) WRONG(c, ERR_INVALID, "required must be a list of names");
    for (size_t i = 0; i < json_array_size(required); i++) {
        const char *name = json_string_value(json_array_get(required, i));
        if (!name) WRONG(c, ERR_INVALID, "required must be a list of names");
        else if (!json_object_get(props, name)) WRONG(c, ERR_UNSUPPORTED, "required names \"%.50s\", which properties lacks", name);
    }
}

static bool is_required(json_t *required, const char *name)
{
    for (size_t i = 0; i < json_array_size(required); i++) {
        const char *at = json_string_value(json_array_get(required, i));
        if (at && strcmp(at, name) == 0) return true;
    }
    return false;
}

static uint16_t object(struct compiler *c, json_t *schema)
{
    json_t *props = json_object_get(schema, "properties"), *required = json_object_get(schema, "required"), *value;
    json_t *extra = json_object_get(schema, "additionalProperties");
    struct property list[PROPERTIES_MAX];
    const char *name;
    int count = 0;
    if (props && !json_is_object(props)) WRONG(c, ERR_INVALID, "properties must be an object");
    if (json_object_size(props) > PROPERTIES_MAX) WRONG(c, ERR_TOO_LARGE, "more than %d properties", PROPERTIES_MAX);
    check_required(c, required, props);
    if (c->code != ERR_OK) return 0;
    /* With properties named no others are said: fewer texts than the schema allows, none that it does not. */
    if (json_object_size(props) == 0 && !json_is_false(extra))
        return network_map(c->network, extra ? rule_of(c, extra, ".additionalProperties") : c->network->any);
    json_object_foreach(props, name, value) {
        char label[40];
        (void)snprintf(label, sizeof label, ".properties.%.25s", name);
        json_t *key = json_string(name);
        list[count] = (struct property){rule_of(c, value, label), key ? json_dumps(key, JSON_ENCODE_ANY) : NULL, is_required(required, name)};
        json_decref(key);
        if (!list[count].key) WRONG(c, ERR_MEMORY, "no memory");
        else count++;
    }
    uint16_t start = properties(c->network, list, count);
    while (count > 0) free(list[--count].key);
    return start;
}

/* The bound of an integer, `step` from it where it is exclusive. */
static int64_t bound(struct compiler *c, json_t *schema, const char *key, const char *exclusive, int64_t otherwise, int step)
{
    const int64_t most = 999999999999999999;
    int64_t found = otherwise;
    for (int i = 0; i < 2; i++) {
        json_t *value = json_object_get(schema, i ? exclusive : key);
        if (!value) continue;
        double real = json_number_value(value);
        int64_t v = json_integer_value(value) + (i ? step : 0);
        bool whole = json_is_integer(value) || (json_is_real(value) && real >= -1e15 && real <= 1e15 && real == (double)(int64_t)real);
        if (json_is_real(value) && whole) v = (int64_t)real + (i ? step : 0);
        if (!json_is_number(value)) WRONG(c, ERR_INVALID, "%s must be a number", i ? exclusive : key);
        else if (!whole || v > most || v < -most) WRONG(c, ERR_UNSUPPORTED, "%s must be a whole number of at most 18 digits", i ? exclusive : key);
        else if (step > 0 ? v > found : v < found) found = v;
    }
    return found;
}

static const char *const BOUNDS[] = {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"};

static uint16_t integer(struct compiler *c, json_t *schema)
{
    const int64_t most = 999999999999999999;
    bool any = false;
    for (int i = 0; i < 4; i++) any |= json_object_get(schema, BOUNDS[i]) != NULL;
    if (!any) return c->network->integer;
    int64_t low = bound(c, schema, BOUNDS[0], BOUNDS[1], -most, 1), high = bound(c, schema, BOUNDS[2], BOUNDS[3], most, -1);
    if (c->code == ERR_OK && low > high) WRONG(c, ERR_INVALID, "no whole number from %lld to %lld", (long long)low, (long long)high);
    return c->code == ERR_OK ? network_int_range(c->network, low, high) : 0;
}

static uint16_t number(struct compiler *c, json_t *schema)
{
    for (int i = 0; i < 4; i++)
        if (json_object_get(schema, BOUNDS[i])) WRONG(c, ERR_UNSUPPORTED, "%s is held to for type integer only", BOUNDS[i]);
    return c->network->number;
}

static uint16_t of_type(struct compiler *c, json_t *schema, const char *type)
{
    const struct network *n = c->network;
    if (strcmp(type, "object") == 0) return object(c, schema);
    if (strcmp(type, "array") == 0) return array(c, schema);
    if (strcmp(type, "integer") == 0) return integer(c, schema);
    if (strcmp(type, "number") == 0) return number(c, schema);
    if (strcmp(type, "string") == 0) return n->string;
    if (strcmp(type, "boolean") == 0) return n->boolean;
    if (strcmp(type, "null") == 0) return n->null;
    WRONG(c, ERR_INVALID, "unknown type \"%.30s\"", type);
    return 0;
}

static uint16_t typed(struct compiler *c, json_t *schema)
{
    json_t *type = json_object_get(schema, "type");
    if (json_is_string(type)) return of_type(c, schema, json_string_value(type));
    if (!type && (json_object_get(schema, "properties") || json_object_get(schema, "required") || json_object_get(schema, "additionalProperties")))
        return object(c, schema);
    if (!type && (json_object_get(schema, "items") || json_object_get(schema, "prefixItems"))) return array(c, schema);
    if (!type && (json_object_get(schema, "minItems") || json_object_get(schema, "maxItems") || json_object_get(schema, BOUNDS[0]) ||
                  json_object_get(schema, BOUNDS[1]) || json_object_get(schema, BOUNDS[2]) || json_object_get(schema, BOUNDS[3])))
        WRONG(c, ERR_UNSUPPORTED, "bounds need a type beside them");
    if (!type) return c->network->any;
    uint16_t all = 0;
    if (json_array_size(type) == 0 || json_array_size(type) > 7) WRONG(c, ERR_INVALID, "type must be a name or a list of names");
    for (size_t i = 0; i < json_array_size(type) && c->code == ERR_OK; i++) {
        const char *name = json_string_value(json_array_get(type, i));
        if (!name) WRONG(c, ERR_INVALID, "type must be a name or a list of names");
        else all = network_alt(c->network, of_type(c, schema, name), all);
    }
    return all;
}

/* ---- keywords ---- */

enum use { NOTE, SHAPE, CHOICE /* stands alone but for notes */ };
static const struct {
    const char *name;
    enum use use;
} KEYWORDS[] = {
    {"type", SHAPE}, {"properties", SHAPE}, {"required", SHAPE}, {"additionalProperties", SHAPE}, {"items", SHAPE},
    {"prefixItems", SHAPE}, {"minItems", SHAPE}, {"maxItems", SHAPE}, {"minimum", SHAPE}, {"maximum", SHAPE},
    {"exclusiveMinimum", SHAPE}, {"exclusiveMaximum", SHAPE}, {"enum", SHAPE}, {"const", SHAPE}, {"nullable", SHAPE},
    {"anyOf", CHOICE}, {"allOf", CHOICE}, {"$ref", CHOICE},
    {"$defs", NOTE}, {"definitions", NOTE}, {"title", NOTE}, {"description", NOTE}, {"default", NOTE}, {"examples", NOTE},
    {"example", NOTE}, {"deprecated", NOTE}, {"readOnly", NOTE}, {"writeOnly", NOTE}, {"$schema", NOTE}, {"$id", NOTE},
    {"$comment", NOTE}, {"strict", NOTE},
};

static void check_keywords(struct compiler *c, json_t *schema)
{
    const char *name, *choice = NULL, *shape = NULL;
    json_t *value;
    json_object_foreach(schema, name, value) {
        size_t i = 0;
        while (i < sizeof KEYWORDS / sizeof KEYWORDS[0] && strcmp(KEYWORDS[i].name, name) != 0) i++;
        bool known = i < sizeof KEYWORDS / sizeof KEYWORDS[0];
        if (!known && strncmp(name, "x-", 2) != 0) WRONG(c, ERR_UNSUPPORTED, "\"%.40s\" is not supported", name);
        if (!known || KEYWORDS[i].use == NOTE || strcmp(name, "nullable") == 0) continue;
        if (KEYWORDS[i].use == CHOICE && choice) WRONG(c, ERR_UNSUPPORTED, "%s beside %s is not supported", name, choice);
        if (KEYWORDS[i].use == CHOICE) choice = name;
        else shape = name;
    }
    if (choice && shape) WRONG(c, ERR_UNSUPPORTED, "%s beside %s is not supported", shape, choice);
}

static uint16_t any_of(struct compiler *c, json_t *list, const char *key)
{
    uint16_t all = 0;
    size_t count = json_array_size(list);
    if (count == 0) WRONG(c, ERR_INVALID, "%s must be a list of at least one schema", key);
    if (count > 1 && strcmp(key, "allOf") == 0) WRONG(c, ERR_UNSUPPORTED, "allOf of more than one schema is not supported");
    for (size_t i = count; i-- > 0 && c->code == ERR_OK;) {
        char label[32];
        (void)snprintf(label, sizeof label, ".%s[%zu]", key, i);
        all = network_alt(c->network, rule_of(c, json_array_get(list, i), label), all);
    }
    return all;
}

static uint16_t compile(struct compiler *c, json_t *schema)
{
    check_keywords(c, schema);
    if (c->code != ERR_OK) return 0;
    json_t *ref = json_object_get(schema, "$ref"), *any = json_object_get(schema, "anyOf"), *all = json_object_get(schema, "allOf");
    uint16_t start = 0;
    if (ref && !json_is_string(ref)) WRONG(c, ERR_INVALID, "$ref must be a string");
    else if (ref) {
        json_t *to = resolve(c, json_string_value(ref));
        if (to) start = rule_of(c, to, " -> $ref");
    } else if (any) start = any_of(c, any, "anyOf");
    else if (all) start = any_of(c, all, "allOf");
    else if (json_object_get(schema, "enum") || json_object_get(schema, "const")) start = values(c, schema);
    else start = typed(c, schema);
    return json_is_true(json_object_get(schema, "nullable")) ? network_alt(c->network, start, c->network->null) : start;
}

static enum err_code compile_all(struct network *n, json_t *schema, uint16_t *root, struct err *e)
{
    struct compiler *c = calloc(1, sizeof *c);
    if (!c) return err_set(e, ERR_MEMORY, "no memory for a schema");
    c->network = n;
    c->root = schema;
    c->error = e;
    *root = rule_of(c, schema, "schema");
    for (c->at = 0; c->at < c->count && c->code == ERR_OK && !n->full; c->at++)
        network_jump(n, c->rules[c->at].start, compile(c, c->rules[c->at].schema));
    enum err_code code = c->code;
    free(c);
    return code;
}

enum err_code grammar_schema(struct network *n, json_t *format, uint16_t *root, struct err *e)
{
    const char *type = json_string_value(json_object_get(format, "type"));
    json_t *holder = json_object_get(format, "json_schema"), *schema = json_object_get(holder, "schema");
    *root = 0;
    if (!format || (type && strcmp(type, "text") == 0)) return ERR_OK;
    if (!type) return err_set_param(e, ERR_INVALID, "response_format", "response_format must be an object with a `type`");
    if (strcmp(type, "json_object") == 0) {
        *root = n->object;
    } else if (strcmp(type, "json_schema") != 0) {
        return err_set_param(e, ERR_INVALID, "response_format",
                             "response_format: type \"%.40s\" is unknown; text, json_object and json_schema are known", type);
    } else if (!json_is_object(holder)) {
        return err_set_param(e, ERR_INVALID, "response_format", "response_format: json_schema must be an object with a `schema`");
    } else if (!schema) {
        *root = n->object; /* OpenAI's default: any object */
    } else if (!json_is_object(schema)) {
        return err_set_param(e, ERR_INVALID, "response_format", "response_format: json_schema.schema must be an object");
    } else {
        enum err_code code = compile_all(n, schema, root, e);
        if (code != ERR_OK) return code;
    }
    *root = network_gap(n, *root);
    return ERR_OK;
}
