/* What an upstream says, as events: server-sent events (https://html.spec.whatwg.org/#server-sent-events), or one
 * JSON body from a server that ignored `stream`. Nothing it sends is believed: lines, depth, counts and types are
 * bounded or checked, and what does not fit ends the reading. */
#include "proto/openai.h"
#include "proto/openai_json.h"

#include <stdlib.h>
#include <string.h>

enum mode { MODE_UNKNOWN, MODE_EVENTS, MODE_BODY, MODE_ENDED };

struct openai_reader {
    enum mode mode;
    struct buf line;       /* the line being read, without its end */
    struct buf data;       /* the `data` lines of the event being read, joined by newlines */
    bool has_data;
    bool after_cr;         /* the last byte was CR: an LF after it ends nothing more */
    bool error_event;      /* `event: error` */
    bool model_told;
    /* a JSON body: where its outer object ends */
    int depth;
    bool in_string, escaped;
    int64_t index[MSG_CHOICES_MAX]; /* tokens of each choice so far */
};

struct openai_reader *openai_reader_new(size_t line_max)
{
    struct openai_reader *reader = calloc(1, sizeof *reader);
    if (!reader) return NULL;
    buf_init(&reader->line, line_max);
    buf_init(&reader->data, line_max);
    return reader;
}

void openai_reader_free(struct openai_reader *reader)
{
    if (!reader) return;
    buf_release(&reader->line);
    buf_release(&reader->data);
    free(reader);
}

/* ---- one chunk or body ---- */

struct reading {
    struct openai_reader *reader;
    const struct openai_events *events;
    bool body; /* a whole body: tool calls are whole and unnumbered */
    struct err *e;
};

static enum err_code bad(const struct reading *r, const char *what)
{
    return err_set(r->e, ERR_UPSTREAM, "the upstream's answer %s", what);
}

static void tell_text(struct reading *r, int64_t choice, enum msg_channel channel, const char *text, size_t len)
{
    struct msg_token token = {.choice = choice, .channel = channel, .text = text, .text_len = len};
    token.index = r->reader->index[choice]++;
    if (r->events->on_token) r->events->on_token(r->events->ctx, &token);
}

static enum err_code tell_tools(struct reading *r, int64_t choice, json_t *calls)
{
    if (!json_is_array(calls) || json_array_size(calls) > 128) return bad(r, "has `tool_calls` that are not an array");
    for (size_t i = 0; i < json_array_size(calls); i++) {
        json_t *call = json_array_get(calls, i);
        if (!json_is_object(call)) return bad(r, "has a tool call that is not an object");
        if (r->body) (void)json_object_set_new(call, "index", json_integer((json_int_t)i));
    }
    struct buf text = BUF_INIT(MSG_BYTES_MAX);
    enum err_code code = openai_json_dump(&text, calls);
    if (code == ERR_OK && json_array_size(calls) > 0) tell_text(r, choice, CHANNEL_TOOL, text.data, text.len);
    buf_release(&text);
    return code == ERR_OK ? ERR_OK : bad(r, "has tool calls that are too long");
}

/* A token's raw bytes: its `bytes` where it has them, else the text of its name. Returns the length. */
static size_t entry_bytes(const json_t *entry, char *out, size_t size)
{
    const json_t *bytes = json_object_get(entry, "bytes");
    size_t len = json_array_size(bytes);
    if (json_is_array(bytes) && len <= size) {
        for (size_t i = 0; i < len; i++) out[i] = (char)json_integer_value(json_array_get(bytes, i));
        return len;
    }
    const json_t *name = json_object_get(entry, "token");
    len = json_string_length(name);
    if (len > size) len = size;
    if (len) memcpy(out, json_string_value(name), len);
    return len;
}

enum { ENTRY_BYTES_MAX = 256 };

/* One logprob entry as a token; only the first of a chunk carries the chunk's text. */
static void tell_entry(struct reading *r, int64_t choice, const json_t *entry, const char *text, size_t len)
{
    char bytes[ENTRY_BYTES_MAX], top_bytes[MSG_TOP_MAX][ENTRY_BYTES_MAX];
    struct msg_top top[MSG_TOP_MAX];
    struct msg_token token = {.choice = choice, .text = text, .text_len = len, .bytes = bytes, .top = top};
    token.index = r->reader->index[choice]++;
    token.bytes_len = entry_bytes(entry, bytes, sizeof bytes);
    const json_t *logprob = json_object_get(entry, "logprob"), *tops = json_object_get(entry, "top_logprobs");
    token.has_logprob = json_is_number(logprob);
    token.logprob = json_number_value(logprob);
    for (size_t i = 0; i < json_array_size(tops) && i < MSG_TOP_MAX; i++) {
        const json_t *one = json_array_get(tops, i);
        top[i] = (struct msg_top){top_bytes[i], entry_bytes(one, top_bytes[i], ENTRY_BYTES_MAX),
                                  json_number_value(json_object_get(one, "logprob"))};
        token.top_count = (int)i + 1;
    }
    if (r->events->on_token) r->events->on_token(r->events->ctx, &token);
}

static void tell_content(struct reading *r, int64_t choice, const json_t *text, const json_t *logprobs)
{
    const json_t *entries = json_object_get(logprobs, "content");
    size_t count = json_array_size(entries);
    if (count == 0) {
        if (json_string_length(text) > 0)
            tell_text(r, choice, CHANNEL_CONTENT, json_string_value(text), json_string_length(text));
        return;
    }
    for (size_t i = 0; i < count; i++) {
        bool first = i == 0 && json_is_string(text);
        tell_entry(r, choice, json_array_get(entries, i), first ? json_string_value(text) : "",
                   first ? json_string_length(text) : 0);
    }
}

static bool absent(const json_t *value)
{
    return !value || json_is_null(value);
}

static enum err_code read_message(struct reading *r, int64_t index, json_t *message, const json_t *logprobs)
{
    if (!json_is_object(message)) return bad(r, "has a message or delta that is not an object");
    json_t *reasoning = json_object_get(message, "reasoning_content");
    if (absent(reasoning)) reasoning = json_object_get(message, "reasoning");
    if (json_string_length(reasoning) > 0)
        tell_text(r, index, CHANNEL_REASONING, json_string_value(reasoning), json_string_length(reasoning));
    json_t *content = json_object_get(message, "content");
    if (absent(content)) content = json_object_get(message, "refusal");
    if (!absent(content) && !json_is_string(content)) return bad(r, "has `content` that is not a string");
    tell_content(r, index, content, logprobs);
    json_t *calls = json_object_get(message, "tool_calls");
    return absent(calls) ? ERR_OK : tell_tools(r, index, calls);
}

static enum err_code read_choice(struct reading *r, const json_t *choice, int64_t fallback)
{
    if (!json_is_object(choice)) return bad(r, "has a choice that is not an object");
    const json_t *at = json_object_get(choice, "index");
    int64_t index = json_is_integer(at) ? json_integer_value(at) : fallback;
    if (index < 0 || index >= MSG_CHOICES_MAX) return bad(r, "numbers a choice past the 16 there can be");
    const json_t *text = json_object_get(choice, "text"), *logprobs = json_object_get(choice, "logprobs");
    json_t *message = json_object_get(choice, r->body ? "message" : "delta");
    if (!message) message = json_object_get(choice, r->body ? "delta" : "message");
    if (!absent(message)) {
        enum err_code code = read_message(r, index, message, logprobs);
        if (code != ERR_OK) return code;
    } else if (json_string_length(text) > 0) {
        tell_text(r, index, CHANNEL_CONTENT, json_string_value(text), json_string_length(text));
    }
    const json_t *finish = json_object_get(choice, "finish_reason");
    if (json_is_string(finish) && r->events->on_finish)
        r->events->on_finish(r->events->ctx, (int)index, json_string_value(finish));
    return ERR_OK;
}

static int64_t usage_count(const json_t *usage, const char *key)
{
    int64_t count = openai_json_int(usage, key);
    return count < 0 ? 0 : count;
}

static void read_usage(struct reading *r, const json_t *usage)
{
    if (!json_is_object(usage) || !r->events->on_usage) return;
    int64_t cached = usage_count(json_object_get(usage, "prompt_tokens_details"), "cached_tokens");
    if (!cached) cached = usage_count(usage, "prompt_cache_hit_tokens"); /* DeepSeek's name */
    r->events->on_usage(r->events->ctx, usage_count(usage, "prompt_tokens"), cached,
                        usage_count(usage, "completion_tokens"),
                        usage_count(json_object_get(usage, "completion_tokens_details"), "reasoning_tokens"));
}

/* {"error": {…}}, {"error": "…"}, or vLLM's older {"object": "error", "message": …}. */
static bool read_error(struct reading *r, const json_t *root, bool error_event)
{
    const json_t *error = json_object_get(root, "error");
    const char *object = openai_json_string(root, "object");
    if (absent(error) && ((object && strcmp(object, "error") == 0) || error_event)) error = root;
    if (absent(error)) return false;
    const char *message = json_is_string(error) ? json_string_value(error) : openai_json_string(error, "message");
    const char *type = openai_json_string(error, "type"), *code = openai_json_string(error, "code");
    r->reader->mode = MODE_ENDED;
    if (r->events->on_error)
        r->events->on_error(r->events->ctx, message ? message : "an error without a message", type ? type : "",
                            code ? code : "");
    return true;
}

static enum err_code read_root(struct reading *r, const json_t *root, bool error_event)
{
    if (read_error(r, root, error_event)) return ERR_OK;
    const char *model = openai_json_string(root, "model");
    if (model && !r->reader->model_told && strlen(model) < MSG_WORD_MAX) {
        r->reader->model_told = true;
        if (r->events->on_model) r->events->on_model(r->events->ctx, model);
    }
    const json_t *choices = json_object_get(root, "choices");
    if (!absent(choices) && !json_is_array(choices)) return bad(r, "has `choices` that is not an array");
    if (r->body && json_array_size(choices) == 0) return bad(r, "has no choices");
    for (size_t i = 0; i < json_array_size(choices); i++) {
        enum err_code code = read_choice(r, json_array_get(choices, i), (int64_t)i);
        if (code != ERR_OK) return code;
    }
    read_usage(r, json_object_get(root, "usage"));
    return ERR_OK;
}

static enum err_code read_text(struct reading *r, const char *text, size_t len, bool error_event)
{
    json_t *root = NULL;
    struct err why = {0};
    if (openai_json_object(&root, text, len, &why) != ERR_OK) {
        char shown[64];
        openai_read_error(text, len, shown, sizeof shown);
        return err_set(r->e, ERR_UPSTREAM, "the upstream sent what is not a JSON object (%.100s): %s", why.msg, shown);
    }
    enum err_code code = read_root(r, root, error_event);
    json_decref(root);
    return code;
}

static void tell_end(struct reading *r)
{
    r->reader->mode = MODE_ENDED;
    if (r->events->on_end) r->events->on_end(r->events->ctx);
}

/* ---- lines and events ---- */

static enum err_code dispatch(struct reading *r)
{
    struct openai_reader *reader = r->reader;
    enum err_code code = ERR_OK;
    if (reader->has_data && strcmp(reader->data.data, "[DONE]") == 0) {
        tell_end(r);
    } else if (reader->has_data && reader->data.len > 0) {
        code = read_text(r, reader->data.data, reader->data.len, reader->error_event);
    }
    buf_clear(&reader->data);
    reader->has_data = reader->error_event = false;
    return code;
}

/* A field's name may be one we do not know, but it looks like a name; HTML, say, does not. */
static bool plausible_name(const char *line, size_t len)
{
    if (len == 0 || len > 32) return false;
    for (size_t i = 0; i < len; i++)
        if (!(line[i] >= 'a' && line[i] <= 'z') && line[i] != '-' && line[i] != '_') return false;
    return true;
}

static enum err_code handle_line(struct reading *r)
{
    struct openai_reader *reader = r->reader;
    const char *line = reader->line.data;
    size_t len = reader->line.len;
    if (len == 0) return dispatch(r);
    if (line[0] == ':') return ERR_OK; /* a comment keeps the connection alive */
    const char *colon = memchr(line, ':', len);
    size_t name = colon ? (size_t)(colon - line) : len;
    const char *value = colon ? colon + 1 : line + len;
    if (*value == ' ') value++;
    size_t value_len = (size_t)(line + len - value);
    if (name == 4 && memcmp(line, "data", 4) == 0) {
        if (reader->has_data) buf_addc(&reader->data, '\n');
        reader->has_data = true;
        if (buf_add(&reader->data, value, value_len) == ERR_OK) return ERR_OK;
        return err_set(r->e, ERR_TOO_LARGE, "the upstream sent an event of more than %zu bytes", reader->data.max);
    }
    if (name == 5 && memcmp(line, "event", 5) == 0) {
        reader->error_event = strcmp(value, "error") == 0;
        return ERR_OK;
    }
    if (plausible_name(line, name) && colon) return ERR_OK; /* id, retry, and what may come */
    char shown[64];
    openai_read_error(line, len, shown, sizeof shown);
    return err_set(r->e, ERR_UPSTREAM, "the upstream sent what is no event stream: %s", shown);
}

static enum err_code add_to_line(struct reading *r, const char *data, size_t len)
{
    if (memchr(data, 0, len)) return bad(r, "holds a NUL byte");
    if (buf_add(&r->reader->line, data, len) == ERR_OK) return ERR_OK;
    return err_set(r->e, ERR_TOO_LARGE, "the upstream sent a line of more than %zu bytes", r->reader->line.max);
}

static enum err_code feed_events(struct reading *r, const char *data, size_t len)
{
    struct openai_reader *reader = r->reader;
    size_t i = 0;
    while (i < len && reader->mode == MODE_EVENTS) {
        if (reader->after_cr && data[i] == '\n') {
            reader->after_cr = false;
            i++;
            continue;
        }
        reader->after_cr = false;
        size_t end = i;
        while (end < len && data[end] != '\n' && data[end] != '\r') end++;
        enum err_code code = add_to_line(r, data + i, end - i);
        if (code != ERR_OK) return code;
        if (end == len) return ERR_OK;
        reader->after_cr = data[end] == '\r';
        code = handle_line(r);
        buf_clear(&reader->line);
        if (code != ERR_OK) return code;
        i = end + 1;
    }
    return ERR_OK;
}

/* True when data[i] closes the outer object. */
static bool body_step(struct openai_reader *reader, char c)
{
    if (reader->in_string) {
        if (reader->escaped) {
            reader->escaped = false;
        } else if (c == '\\') {
            reader->escaped = true;
        } else if (c == '"') {
            reader->in_string = false;
        }
        return false;
    }
    if (c == '"') reader->in_string = true;
    if (c == '{' || c == '[') reader->depth++;
    if (c == '}' || c == ']') return --reader->depth <= 0;
    return false;
}

static enum err_code feed_body(struct reading *r, const char *data, size_t len)
{
    struct openai_reader *reader = r->reader;
    size_t end = 0;
    bool whole = false;
    while (end < len && !whole) whole = body_step(reader, data[end++]);
    enum err_code code = add_to_line(r, data, end);
    if (code != ERR_OK || !whole) return code;
    r->body = true;
    code = read_text(r, reader->line.data, reader->line.len, false);
    if (code == ERR_OK && reader->mode != MODE_ENDED) tell_end(r);
    return code;
}

/* The first byte that is no space tells an event stream from a JSON body; a byte order mark is skipped. */
static size_t find_mode(struct openai_reader *reader, const char *data, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (strchr(" \t\r\n\xef\xbb\xbf", data[i]) && data[i]) continue;
        reader->mode = data[i] == '{' ? MODE_BODY : MODE_EVENTS;
        return i;
    }
    return len;
}

enum err_code openai_reader_feed(struct openai_reader *reader, const char *data, size_t len,
                                 const struct openai_events *events, struct err *e)
{
    struct reading r = {.reader = reader, .events = events, .e = e};
    size_t from = reader->mode == MODE_UNKNOWN ? find_mode(reader, data, len) : 0;
    enum err_code code = ERR_OK;
    if (reader->mode == MODE_EVENTS) code = feed_events(&r, data + from, len - from);
    if (reader->mode == MODE_BODY) code = feed_body(&r, data + from, len - from);
    if (code != ERR_OK) reader->mode = MODE_ENDED;
    return code;
}

enum err_code openai_read_body(const char *body, size_t len, const struct openai_events *events, struct err *e)
{
    struct openai_reader *reader = openai_reader_new(1);
    if (!reader) return err_set(e, ERR_MEMORY, "out of memory while reading an upstream's answer");
    struct reading r = {.reader = reader, .events = events, .body = true, .e = e};
    enum err_code code = read_text(&r, body, len, false);
    if (code == ERR_OK && reader->mode != MODE_ENDED) tell_end(&r);
    openai_reader_free(reader);
    return code;
}

/* ---- an error body ---- */

struct found {
    char *out;
    size_t size;
    bool yes;
};

static void keep_message(void *ctx, const char *message, const char *type, const char *code)
{
    (void)type;
    (void)code;
    struct found *found = ctx;
    struct buf clean = BUF_INIT(found->size - 1);
    for (const char *p = message; *p && buf_ok(&clean); p++) buf_addc(&clean, (unsigned char)*p < 0x20 ? ' ' : *p);
    memcpy(found->out, clean.data, clean.len);
    found->out[clean.len] = 0;
    buf_release(&clean);
    found->yes = true;
}

void openai_read_error(const char *body, size_t len, char *out, size_t size)
{
    if (size == 0) return;
    struct found found = {out, size, false};
    struct openai_events events = {.ctx = &found, .on_error = keep_message};
    json_t *root = NULL;
    struct openai_reader reader = {0};
    struct reading r = {.reader = &reader, .events = &events};
    if (len > 0 && body[0] == '{' && openai_json_object(&root, body, len, NULL) == ERR_OK) read_error(&r, root, false);
    json_decref(root);
    if (found.yes) return;
    size_t n = 0;
    for (size_t i = 0; i < len && n < size - 1; i++) {
        unsigned char c = (unsigned char)body[i];
        out[n++] = c < 0x20 || c >= 0x7f ? '?' : (char)c;
    }
    out[n] = 0;
}
