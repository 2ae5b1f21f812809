/* YAML to a flat list of dotted paths, by libyaml's events. Only the plain part of YAML is taken: mappings, lists and
 * scalars; what can grow without bound or name things twice (anchors, aliases, tags) is refused. */
#include "node/config_keys.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

struct frame {
    bool list;
    int index;       /* of the next list item */
    size_t path_len; /* of this collection's own path */
};
struct reader {
    struct config_entries *out;
    const char *file;
    struct frame frames[CONFIG_DEPTH_MAX];
    int depth;
    char path[CONFIG_PATH_MAX]; /* of the value that comes next */
    bool has_key;               /* in a mapping: a key was read and its value is due */
    int line;                   /* of that key, or of the list item */
    bool root_done;
    struct err *e;
};

static int line_of(const yaml_event_t *event)
{
    return (int)event->start_mark.line + 1;
}

static enum err_code refuse(struct reader *r, const yaml_event_t *event, const char *what)
{
    return err_set(r->e, ERR_SYNTAX, "%s:%d:%d: %s", r->file, line_of(event), (int)event->start_mark.column + 1, what);
}

static enum err_code add_entry(struct reader *r, enum entry_kind kind, const yaml_event_t *event, const char *value)
{
    struct config_entries *entries = r->out;
    if (entries->count == CONFIG_ENTRIES_MAX) return refuse(r, event, "more than 4096 values; a configuration has fewer");
    for (int i = 0; i < entries->count; i++)
        if (strcmp(entries->items[i].path, r->path) == 0)
            return err_set_param(r->e, ERR_SYNTAX, r->path, "%s:%d: %.80s: given twice, first on line %d; keep one",
                                 r->file, r->line, r->path, entries->items[i].line);
    if (entries->count == entries->cap) {
        int cap = entries->cap ? entries->cap * 2 : 64;
        struct config_entry *grown = realloc(entries->items, (size_t)cap * sizeof *grown);
        if (!grown) return err_set(r->e, ERR_MEMORY, "%s: out of memory", r->file);
        entries->items = grown;
        entries->cap = cap;
    }
    struct config_entry *entry = &entries->items[entries->count];
    *entry = (struct config_entry){strdup(r->path), value ? strdup(value) : NULL, kind, r->line};
    entries->count++;
    if (!entry->path || (value && !entry->value)) return err_set(r->e, ERR_MEMORY, "%s: out of memory", r->file);
    return ERR_OK;
}

/* Append ".word" to the path of the collection on top. */
static enum err_code extend_path(struct reader *r, const yaml_event_t *event, const char *word)
{
    size_t at = r->frames[r->depth - 1].path_len;
    int need = snprintf(r->path + at, sizeof r->path - at, "%s%s", at ? "." : "", word);
    if (need < 0 || (size_t)need >= sizeof r->path - at) return refuse(r, event, "a key deeper or longer than any there is");
    return ERR_OK;
}

static enum err_code read_key(struct reader *r, const yaml_event_t *event)
{
    const char *word = (const char *)event->data.scalar.value;
    size_t len = event->data.scalar.length;
    if (len == 0 || len > 64 || strspn(word, "abcdefghijklmnopqrstuvwxyz0123456789_") != len)
        return refuse(r, event, "a key is a word of a-z, 0-9 and _, of at most 64 letters");
    enum err_code code = extend_path(r, event, word);
    r->has_key = code == ERR_OK;
    r->line = line_of(event);
    return code;
}

/* Before a value: the path is that of the key just read, or of the next list item. */
static enum err_code enter_value(struct reader *r, const yaml_event_t *event)
{
    if (r->depth == 0) {
        r->path[0] = '\0';
        r->root_done = true;
        return ERR_OK;
    }
    struct frame *top = &r->frames[r->depth - 1];
    if (!top->list) {
        r->has_key = false;
        return ERR_OK;
    }
    r->line = line_of(event);
    char index[16];
    (void)snprintf(index, sizeof index, "%d", top->index++);
    return extend_path(r, event, index);
}

static enum err_code read_scalar(struct reader *r, const yaml_event_t *event)
{
    if (event->data.scalar.anchor) return refuse(r, event, "anchors (&name) are not taken; write the value out");
    if (event->data.scalar.tag) return refuse(r, event, "tags (!name) are not taken");
    if (r->depth > 0 && !r->frames[r->depth - 1].list && !r->has_key) return read_key(r, event);
    enum err_code code = enter_value(r, event);
    if (code != ERR_OK) return code;
    const char *value = (const char *)event->data.scalar.value;
    if (strlen(value) != event->data.scalar.length) return refuse(r, event, "a value holds a NUL byte");
    if (event->data.scalar.length > CONFIG_TEXT_MAX) return refuse(r, event, "a value is longer than 65536 bytes");
    bool plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    bool null = plain && (!*value || strcmp(value, "~") == 0 || strcmp(value, "null") == 0);
    if (r->depth == 0) return null ? ERR_OK : refuse(r, event, "got a single value, want `key: value` lines");
    return add_entry(r, null ? ENTRY_NULL : ENTRY_SCALAR, event, null ? NULL : value);
}

static enum err_code open_collection(struct reader *r, const yaml_event_t *event, bool list)
{
    const yaml_char_t *anchor = list ? event->data.sequence_start.anchor : event->data.mapping_start.anchor;
    const yaml_char_t *tag = list ? event->data.sequence_start.tag : event->data.mapping_start.tag;
    if (anchor) return refuse(r, event, "anchors (&name) are not taken; write the value out");
    if (tag) return refuse(r, event, "tags (!name) are not taken");
    if (r->depth == CONFIG_DEPTH_MAX) return refuse(r, event, "nested deeper than 8");
    if (r->depth > 0 && !r->frames[r->depth - 1].list && !r->has_key)
        return refuse(r, event, "a key is a word, not a list or mapping");
    bool root = r->depth == 0;
    if (root && list) return refuse(r, event, "got a list, want `key: value` lines");
    enum err_code code = enter_value(r, event);
    if (code != ERR_OK) return code;
    if (!root) code = add_entry(r, list ? ENTRY_LIST : ENTRY_MAP, event, NULL);
    r->frames[r->depth++] = (struct frame){list, 0, strlen(r->path)};
    return code;
}

static enum err_code take_event(struct reader *r, const yaml_event_t *event)
{
    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT:
        return r->root_done ? refuse(r, event, "a second document; a configuration is one") : ERR_OK;
    case YAML_ALIAS_EVENT: return refuse(r, event, "aliases (*name) are not taken; write the value out");
    case YAML_SCALAR_EVENT: return read_scalar(r, event);
    case YAML_SEQUENCE_START_EVENT: return open_collection(r, event, true);
    case YAML_MAPPING_START_EVENT: return open_collection(r, event, false);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT: r->depth--; return ERR_OK;
    default: return ERR_OK;
    }
}

static enum err_code parser_error(const struct reader *r, const yaml_parser_t *parser)
{
    if (parser->error == YAML_MEMORY_ERROR) return err_set(r->e, ERR_MEMORY, "%s: out of memory", r->file);
    if (parser->error == YAML_READER_ERROR)
        return err_set(r->e, ERR_SYNTAX, "%s: byte %zu: %s; want UTF-8 text", r->file, parser->problem_offset,
                       parser->problem ? parser->problem : "unreadable");
    return err_set(r->e, ERR_SYNTAX, "%s:%d:%d: not YAML: %s%s%s", r->file, (int)parser->problem_mark.line + 1,
                   (int)parser->problem_mark.column + 1, parser->problem ? parser->problem : "?",
                   parser->context ? " " : "", parser->context ? parser->context : "");
}

enum err_code config_yaml_read(struct config_entries *out, const char *file, const char *text, size_t len, struct err *e)
{
    *out = (struct config_entries){0};
    if (len > CONFIG_BYTES_MAX)
        return err_set(e, ERR_TOO_LARGE, "%s: %zu bytes, want at most %d", file, len, (int)CONFIG_BYTES_MAX);
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser)) return err_set(e, ERR_MEMORY, "%s: out of memory", file);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
    struct reader r = {.out = out, .file = file, .e = e};
    enum err_code code = ERR_OK;
    for (bool end = false; code == ERR_OK && !end;) {
        yaml_event_t event;
        if (!yaml_parser_parse(&parser, &event)) {
            code = parser_error(&r, &parser);
            break;
        }
        end = event.type == YAML_STREAM_END_EVENT;
        code = take_event(&r, &event);
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&parser);
    if (code != ERR_OK) config_entries_release(out);
    return code;
}

void config_entries_release(struct config_entries *entries)
{
    for (int i = 0; i < entries->count; i++) {
        free(entries->items[i].path);
        free(entries->items[i].value);
    }
    free(entries->items);
    *entries = (struct config_entries){0};
}
