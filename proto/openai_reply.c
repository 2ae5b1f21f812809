/* What a client gets: chunks of a stream, a whole body, errors, models. Written straight into a struct buf: only
 * tool calls, which come as JSON from elsewhere, go through jansson. */
#include "proto/openai.h"
#include "proto/openai_json.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

/* Logprobs gather in as many lists as the endpoint's shape has; a chat has one. */
enum { LIST_TOKENS, LIST_LOGPROBS, LIST_TOPS, LIST_OFFSETS, LISTS };

struct choice {
    struct buf text, reasoning, lists[LISTS]; /* lists: items joined by commas, without brackets */
    json_t *tools;                            /* array of merged tool calls, or NULL */
    int64_t offset;                           /* characters of text before the next logprob's token */
    bool begun;                               /* its first chunk was sent */
};

struct openai_reply {
    bool chat, include_usage, logprobs;
    bool started;
    char *echo;             /* the prompt, for a completion that repeats it; or NULL */
    struct buf head;        /* of every chunk, from `data: {` to `"choices":[` */
    char *id;               /* request id */
    int64_t created;
    char *model, *backend, *reason, *node;
    enum tier tier;
    bool degraded;
    double p[TIERS], threshold;
    size_t bytes, bytes_max; /* of text collected, all choices together */
    int choice_count;
    struct choice choices[];
};

static char *copy(const char *text)
{
    return strdup(text ? text : "");
}

struct openai_reply *openai_reply_new(const struct msg_submit *submit, size_t bytes_max)
{
    int64_t n = submit->params.n;
    int count = n < 1 ? 1 : n > MSG_CHOICES_MAX ? MSG_CHOICES_MAX : (int)n;
    struct openai_reply *r = calloc(1, sizeof *r + (size_t)count * sizeof *r->choices);
    if (!r) return NULL;
    r->chat = !submit->completion;
    r->include_usage = submit->include_usage;
    r->logprobs = submit->params.logprobs;
    r->created = clock_wall_ms() / 1000;
    r->bytes_max = bytes_max;
    r->tier = TIER_NONE;
    r->choice_count = count;
    buf_init(&r->head, 4096);
    for (int i = 0; i < count; i++) {
        buf_init(&r->choices[i].text, bytes_max);
        buf_init(&r->choices[i].reasoning, bytes_max);
        for (int k = 0; k < LISTS; k++) buf_init(&r->choices[i].lists[k], bytes_max);
    }
    for (int i = 0; i < TIERS; i++) r->p[i] = -1;
    r->id = copy(submit->id);
    if (submit->completion && submit->echo) r->echo = copy(submit->prompt);
    if (r->id && (r->echo || !submit->echo || r->chat)) return r;
    openai_reply_free(r);
    return NULL;
}

static void choice_release(struct choice *c)
{
    buf_release(&c->text);
    buf_release(&c->reasoning);
    for (int k = 0; k < LISTS; k++) buf_release(&c->lists[k]);
    json_decref(c->tools);
}

void openai_reply_free(struct openai_reply *r)
{
    if (!r) return;
    for (int i = 0; i < r->choice_count; i++) choice_release(&r->choices[i]);
    buf_release(&r->head);
    free(r->echo);
    free(r->id);
    free(r->model);
    free(r->backend);
    free(r->reason);
    free(r->node);
    free(r);
}

/* `"id":…,"object":"…","created":…,"model":…,"choices":[`, of a chunk or of a body */
static void write_identity(const struct openai_reply *r, bool chunk, struct buf *out)
{
    buf_adds(out, r->chat ? "\"id\":\"chatcmpl-" : "\"id\":\"cmpl-");
    openai_write_inside(out, r->id, strlen(r->id));
    buf_adds(out, !r->chat  ? "\",\"object\":\"text_completion\",\"created\":"
                  : chunk ? "\",\"object\":\"chat.completion.chunk\",\"created\":"
                          : "\",\"object\":\"chat.completion\",\"created\":");
    openai_write_int(out, r->created);
    buf_adds(out, ",\"model\":");
    openai_write_string(out, r->model ? r->model : "");
    buf_adds(out, ",\"choices\":[");
}

void openai_reply_start(struct openai_reply *r, const struct msg_start *start)
{
    if (r->started) return; /* the reply's model is the first that answered */
    r->started = true;
    if (start->created_s) r->created = start->created_s;
    if (start->id && start->id[0] && strcmp(start->id, r->id) != 0) { /* told again, of an earlier request */
        char *id = copy(start->id);
        if (id) free(r->id);
        if (id) r->id = id;
    }
    r->model = copy(start->model);
    r->backend = copy(start->backend);
    r->reason = copy(start->reason);
    r->node = copy(start->node);
    r->tier = start->tier;
    r->degraded = start->degraded;
    memcpy(r->p, start->p, sizeof r->p);
    r->threshold = start->threshold;
    buf_clear(&r->head);
    buf_adds(&r->head, "data: {");
    write_identity(r, true, &r->head);
}

static bool reply_ready(struct openai_reply *r)
{
    if (!r->started) openai_reply_start(r, &(struct msg_start){.tier = TIER_NONE, .p = {-1, -1, -1}});
    return r->model && r->backend && r->reason && r->node && buf_ok(&r->head);
}

static struct choice *choice_of(struct openai_reply *r, int64_t index)
{
    return index >= 0 && index < r->choice_count ? &r->choices[index] : NULL;
}

/* ---- logprobs ---- */

static void write_token_name(struct buf *out, const char *bytes, size_t len)
{
    openai_write_text(out, bytes ? bytes : "", bytes ? len : 0);
}

/* `"token":…,"logprob":…,"bytes":[…]` */
static void write_token_members(struct buf *out, const char *bytes, size_t len, double logprob)
{
    buf_adds(out, "\"token\":");
    write_token_name(out, bytes, len);
    buf_adds(out, ",\"logprob\":");
    openai_write_fixed(out, logprob, 9);
    buf_adds(out, ",\"bytes\":[");
    for (size_t i = 0; bytes && i < len; i++) {
        if (i) buf_addc(out, ',');
        openai_write_int(out, (unsigned char)bytes[i]);
    }
    buf_addc(out, ']');
}

static void write_chat_logprob(struct buf *out, const struct msg_token *t)
{
    buf_addc(out, '{');
    write_token_members(out, t->bytes, t->bytes_len, t->logprob);
    buf_adds(out, ",\"top_logprobs\":[");
    for (int i = 0; i < t->top_count; i++) {
        buf_adds(out, i ? ",{" : "{");
        write_token_members(out, t->top[i].bytes, t->top[i].bytes_len, t->top[i].logprob);
        buf_addc(out, '}');
    }
    buf_adds(out, "]}");
}

static void write_tops(struct buf *out, const struct msg_token *t)
{
    buf_addc(out, '{');
    for (int i = 0; i < t->top_count; i++) {
        if (i) buf_addc(out, ',');
        write_token_name(out, t->top[i].bytes, t->top[i].bytes_len);
        buf_addc(out, ':');
        openai_write_fixed(out, t->top[i].logprob, 9);
    }
    buf_addc(out, '}');
}

static int64_t count_characters(const char *text, size_t len)
{
    int64_t n = 0;
    for (size_t i = 0; i < len; i++)
        if (((unsigned char)text[i] & 0xc0) != 0x80) n++;
    return n;
}

/* Adds a token's logprob to the choice's lists; they are emptied again when a chunk has shown them. */
static void gather_logprob(const struct openai_reply *r, struct choice *c, const struct msg_token *t)
{
    if (!r->logprobs || t->channel != CHANNEL_CONTENT) return;
    if (t->has_logprob) {
        for (int k = 0; k < LISTS; k++)
            if (c->lists[k].len) buf_addc(&c->lists[k], ',');
        if (r->chat) {
            write_chat_logprob(&c->lists[LIST_TOKENS], t);
        } else {
            write_token_name(&c->lists[LIST_TOKENS], t->bytes, t->bytes_len);
            openai_write_fixed(&c->lists[LIST_LOGPROBS], t->logprob, 9);
            write_tops(&c->lists[LIST_TOPS], t);
            openai_write_int(&c->lists[LIST_OFFSETS], c->offset);
        }
    }
    c->offset += count_characters(t->text ? t->text : "", t->text ? t->text_len : 0);
}

static void write_logprobs(const struct openai_reply *r, const struct choice *c, struct buf *out)
{
    static const char *const NAMES[LISTS] = {"\"tokens\":[", "],\"token_logprobs\":[", "],\"top_logprobs\":[",
                                             "],\"text_offset\":["};
    if (!r->logprobs || c->lists[LIST_TOKENS].len == 0) {
        buf_adds(out, ",\"logprobs\":null");
        return;
    }
    buf_adds(out, ",\"logprobs\":{");
    if (r->chat) {
        buf_adds(out, "\"content\":[");
        buf_add(out, c->lists[LIST_TOKENS].data, c->lists[LIST_TOKENS].len);
        buf_adds(out, "],\"refusal\":null}");
        return;
    }
    for (int k = 0; k < LISTS; k++) {
        buf_adds(out, NAMES[k]);
        buf_add(out, c->lists[k].data, c->lists[k].len);
    }
    buf_adds(out, "]}");
}

/* ---- usage and the `rung` object ---- */

static void write_usage(const struct msg_done *d, struct buf *out)
{
    buf_adds(out, "{\"prompt_tokens\":");
    openai_write_int(out, d->prompt_tokens);
    buf_adds(out, ",\"completion_tokens\":");
    openai_write_int(out, d->completion_tokens);
    buf_adds(out, ",\"total_tokens\":");
    openai_write_int(out, d->prompt_tokens + d->completion_tokens);
    buf_adds(out, ",\"prompt_tokens_details\":{\"cached_tokens\":");
    openai_write_int(out, d->cached_tokens);
    buf_adds(out, "},\"completion_tokens_details\":{\"reasoning_tokens\":");
    openai_write_int(out, d->reasoning_tokens);
    buf_adds(out, "}}");
}

static void write_named(const char *name, double value, int decimals, struct buf *out)
{
    buf_adds(out, name);
    openai_write_fixed(out, value, decimals);
}

static void write_hops(const struct msg_hop *hops, int count, struct buf *out)
{
    buf_adds(out, "\"hops\":[");
    for (int i = 0; i < count; i++) {
        const struct msg_hop *h = &hops[i];
        buf_adds(out, i ? ",{\"tier\":\"" : "{\"tier\":\"");
        buf_adds(out, tier_name(h->tier));
        buf_adds(out, "\",\"node\":");
        openai_write_string(out, h->node);
        buf_adds(out, ",\"backend\":");
        openai_write_string(out, h->backend);
        buf_adds(out, ",\"model\":");
        openai_write_string(out, h->model);
        buf_adds(out, ",\"outcome\":");
        openai_write_string(out, h->outcome);
        if (h->error && h->error[0]) {
            buf_adds(out, ",\"error\":");
            openai_write_string(out, h->error);
        }
        write_named(",\"ttft_ms\":", h->ttft_ms, 3, out);
        write_named(",\"total_ms\":", h->total_ms, 3, out);
        write_named(",\"price_usd\":", h->price_usd, 12, out);
        buf_addc(out, '}');
    }
    buf_addc(out, ']');
}

static void write_rung(const struct openai_reply *r, const struct msg_done *d, struct buf *out)
{
    buf_adds(out, ",\"rung\":{\"request_id\":");
    openai_write_string(out, r->id);
    buf_adds(out, ",\"node\":");
    openai_write_string(out, r->node);
    buf_adds(out, ",\"tier\":\"");
    buf_adds(out, tier_name(r->tier));
    buf_adds(out, "\",\"backend\":");
    openai_write_string(out, r->backend);
    buf_adds(out, ",\"reason\":");
    openai_write_string(out, r->reason);
    buf_adds(out, ",\"p\":{");
    for (int i = 0; i < TIERS; i++) {
        buf_adds(out, i ? ",\"" : "\"");
        buf_adds(out, tier_name((enum tier)i));
        buf_adds(out, "\":");
        if (r->p[i] >= 0) {
            openai_write_fixed(out, r->p[i], 4);
        } else {
            buf_adds(out, "null");
        }
    }
    write_named("},\"threshold\":", r->threshold, 4, out);
    buf_adds(out, r->degraded || d->degraded ? ",\"degraded\":true" : ",\"degraded\":false");
    write_named(",\"price_usd\":", d->price_usd, 12, out);
    write_named(",\"price_core_usd\":", d->price_core_usd, 12, out);
    buf_addc(out, ',');
    write_hops(d->hops, d->hop_count, out);
    buf_addc(out, '}');
}

/* ---- a stream ---- */

static void chunk_open(const struct openai_reply *r, int64_t choice, struct buf *out)
{
    buf_add(out, r->head.data, r->head.len);
    buf_adds(out, "{\"index\":");
    openai_write_int(out, choice);
}

/* `finish` NULL: not the choice's last. The object stays open for the `rung` object. */
static void chunk_close_choice(const struct openai_reply *r, const char *finish, struct buf *out)
{
    buf_adds(out, ",\"finish_reason\":");
    openai_write_string(out, finish);
    buf_adds(out, r->include_usage ? "}],\"usage\":null" : "}]");
}

static void choice_begin(struct openai_reply *r, int64_t index, struct buf *out)
{
    struct choice *c = &r->choices[index];
    if (c->begun) return;
    c->begun = true;
    if (!r->chat && !r->echo) return;
    chunk_open(r, index, out);
    if (r->chat) {
        buf_adds(out, ",\"delta\":{\"role\":\"assistant\",\"content\":\"\"}");
    } else {
        buf_adds(out, ",\"text\":");
        openai_write_string(out, r->echo);
        c->offset = count_characters(r->echo, strlen(r->echo));
    }
    buf_adds(out, ",\"logprobs\":null");
    chunk_close_choice(r, NULL, out);
    buf_adds(out, "}\n\n");
}

/* A tool delta comes as JSON from another node: what is not an array of objects is dropped, and counted as nothing. */
static json_t *tool_array(const struct msg_token *t)
{
    json_t *array = NULL;
    if (openai_json_value(&array, t->text ? t->text : "", t->text ? t->text_len : 0, NULL) != ERR_OK) return NULL;
    if (json_is_array(array)) return array;
    json_decref(array);
    return NULL;
}

static void write_delta(const struct openai_reply *r, const struct msg_token *t, json_t *tools, struct buf *out)
{
    if (!r->chat) {
        buf_adds(out, ",\"text\":");
        openai_write_text(out, t->text ? t->text : "", t->text_len);
        return;
    }
    if (tools) {
        buf_adds(out, ",\"delta\":{\"tool_calls\":");
        openai_json_dump(out, tools);
        buf_addc(out, '}');
        return;
    }
    buf_adds(out, t->channel == CHANNEL_REASONING ? ",\"delta\":{\"reasoning_content\":" : ",\"delta\":{\"content\":");
    openai_write_text(out, t->text ? t->text : "", t->text ? t->text_len : 0);
    buf_addc(out, '}');
}

enum err_code openai_stream_token(struct openai_reply *r, const struct msg_token *t, struct buf *out)
{
    struct choice *c = choice_of(r, t->choice);
    if (!c) return ERR_INVALID;
    if (!reply_ready(r)) return ERR_MEMORY;
    gather_logprob(r, c, t);
    bool has_text = t->text && t->text_len > 0;
    if (!has_text && c->lists[LIST_TOKENS].len == 0) return ERR_OK;
    json_t *tools = t->channel == CHANNEL_TOOL ? tool_array(t) : NULL;
    if (t->channel == CHANNEL_TOOL && !tools) return ERR_OK;
    choice_begin(r, t->choice, out);
    chunk_open(r, t->choice, out);
    write_delta(r, t, tools, out);
    write_logprobs(r, c, out);
    chunk_close_choice(r, NULL, out);
    buf_adds(out, "}\n\n");
    for (int k = 0; k < LISTS; k++) buf_clear(&c->lists[k]);
    json_decref(tools);
    return out->failed;
}

static const char *finish_of(const struct msg_done *d, int choice)
{
    return choice < d->choices && d->finish[choice] ? d->finish[choice] : "stop";
}

enum err_code openai_stream_done(struct openai_reply *r, const struct msg_done *d, struct buf *out)
{
    if (!reply_ready(r)) return ERR_MEMORY;
    for (int i = 0; i < r->choice_count; i++) {
        choice_begin(r, i, out);
        chunk_open(r, i, out);
        buf_adds(out, r->chat ? ",\"delta\":{},\"logprobs\":null" : ",\"text\":\"\",\"logprobs\":null");
        chunk_close_choice(r, finish_of(d, i), out);
        if (i == r->choice_count - 1 && !r->include_usage) write_rung(r, d, out);
        buf_adds(out, "}\n\n");
    }
    if (r->include_usage) {
        buf_add(out, r->head.data, r->head.len);
        buf_adds(out, "],\"usage\":");
        write_usage(d, out);
        write_rung(r, d, out);
        buf_adds(out, "}\n\n");
    }
    buf_adds(out, "data: [DONE]\n\n");
    return out->failed;
}

/* `{"error":{…` without its two last braces */
static void write_error_open(const struct msg_error *error, struct buf *out)
{
    const char *name = err_name(error->code);
    if (error->code == ERR_NOT_FOUND && error->param && strcmp(error->param, "model") == 0) name = "model_not_found";
    buf_adds(out, "{\"error\":{\"message\":");
    openai_write_string(out, error->message && error->message[0] ? error->message : err_text(error->code));
    buf_adds(out, ",\"type\":");
    openai_write_string(out, err_openai_type(error->code));
    buf_adds(out, ",\"param\":");
    openai_write_string(out, error->param && error->param[0] ? error->param : NULL);
    buf_adds(out, ",\"code\":");
    openai_write_string(out, name);
}

enum err_code openai_stream_error(struct openai_reply *r, const struct msg_error *error, struct buf *out)
{
    buf_adds(out, "event: error\ndata: ");
    write_error_open(error, out);
    buf_adds(out, error->retryable ? ",\"retryable\":true" : ",\"retryable\":false");
    buf_adds(out, "},\"rung\":{\"request_id\":");
    openai_write_string(out, r->id);
    buf_addc(out, ',');
    write_hops(error->hops, error->hop_count, out);
    buf_adds(out, "}}\n\n");
    return out->failed;
}

enum err_code openai_error_body(const struct msg_error *error, struct buf *out)
{
    write_error_open(error, out);
    buf_adds(out, "}}");
    return out->failed;
}

/* ---- a whole body ---- */

/* The strings of a tool call come in pieces; what is not a string is set once. */
static void merge_member(json_t *into, const char *key, json_t *value)
{
    json_t *old = json_object_get(into, key);
    if (json_is_object(old) && json_is_object(value)) {
        const char *inner;
        json_t *item;
        json_object_foreach(value, inner, item) merge_member(old, inner, item);
    } else if (json_is_string(old) && json_is_string(value) && strcmp(key, "arguments") == 0) {
        struct buf joined = BUF_INIT(MSG_BYTES_MAX);
        buf_add(&joined, json_string_value(old), json_string_length(old));
        buf_add(&joined, json_string_value(value), json_string_length(value));
        if (buf_ok(&joined)) (void)json_string_setn(old, joined.data, joined.len);
        buf_release(&joined);
    } else if (!old || json_is_null(old)) {
        (void)json_object_set_new(into, key, json_deep_copy(value));
    }
}

static void merge_tool(struct choice *c, json_t *delta)
{
    if (!json_is_object(delta)) return;
    if (!c->tools) c->tools = json_array();
    size_t count = json_array_size(c->tools);
    json_t *at = json_object_get(delta, "index");
    size_t index = json_is_integer(at) && json_integer_value(at) >= 0 ? (size_t)json_integer_value(at) : count;
    if (index > count || index >= 128) return; /* calls are numbered as they begin */
    if (index == count && json_array_append_new(c->tools, json_object()) != 0) return;
    json_t *call = json_array_get(c->tools, index);
    const char *key;
    json_t *value;
    json_object_foreach(delta, key, value)
        if (strcmp(key, "index") != 0) merge_member(call, key, value);
}

static void collect_tools(struct choice *c, const struct msg_token *t)
{
    json_t *deltas = tool_array(t);
    for (size_t i = 0; i < json_array_size(deltas); i++) merge_tool(c, json_array_get(deltas, i));
    json_decref(deltas);
}

enum err_code openai_collect_token(struct openai_reply *r, const struct msg_token *t)
{
    struct choice *c = choice_of(r, t->choice);
    if (!c) return ERR_INVALID;
    size_t len = t->text ? t->text_len : 0;
    if (len > r->bytes_max - r->bytes) return ERR_TOO_LARGE;
    r->bytes += len;
    if (!c->begun && r->echo) c->offset = count_characters(r->echo, strlen(r->echo));
    c->begun = true;
    gather_logprob(r, c, t);
    if (!buf_ok(&c->lists[LIST_TOKENS])) return c->lists[LIST_TOKENS].failed;
    if (t->channel == CHANNEL_TOOL) {
        collect_tools(c, t);
        return ERR_OK;
    }
    return buf_add(t->channel == CHANNEL_REASONING && r->chat ? &c->reasoning : &c->text, t->text, len);
}

static void write_message(const struct choice *c, struct buf *out)
{
    buf_adds(out, ",\"message\":{\"role\":\"assistant\",\"content\":");
    if (c->tools && c->text.len == 0) {
        buf_adds(out, "null");
    } else {
        openai_write_text(out, c->text.data, c->text.len);
    }
    if (c->reasoning.len) {
        buf_adds(out, ",\"reasoning_content\":");
        openai_write_text(out, c->reasoning.data, c->reasoning.len);
    }
    if (c->tools) {
        buf_adds(out, ",\"tool_calls\":");
        openai_json_dump(out, c->tools);
    }
    buf_adds(out, ",\"refusal\":null}");
}

static void write_choice(const struct openai_reply *r, int i, const char *finish, struct buf *out)
{
    const struct choice *c = &r->choices[i];
    buf_adds(out, i ? ",{\"index\":" : "{\"index\":");
    openai_write_int(out, i);
    if (r->chat) {
        write_message(c, out);
    } else {
        buf_adds(out, ",\"text\":\"");
        if (r->echo) openai_write_inside(out, r->echo, strlen(r->echo));
        openai_write_inside(out, c->text.data, c->text.len);
        buf_addc(out, '"');
    }
    write_logprobs(r, c, out);
    buf_adds(out, ",\"finish_reason\":");
    openai_write_string(out, finish);
    buf_addc(out, '}');
}

enum err_code openai_body(struct openai_reply *r, const struct msg_done *d, struct buf *out)
{
    if (!reply_ready(r)) return ERR_MEMORY;
    (void)buf_reserve(out, 1500 + r->bytes + r->bytes / 8); /* or as it comes */
    buf_addc(out, '{');
    write_identity(r, false, out);
    for (int i = 0; i < r->choice_count; i++) write_choice(r, i, finish_of(d, i), out);
    buf_adds(out, "],\"usage\":");
    write_usage(d, out);
    write_rung(r, d, out);
    buf_addc(out, '}');
    return out->failed;
}

/* ---- /v1/models ---- */

enum err_code openai_model_body(const struct msg_model *m, struct buf *out)
{
    buf_adds(out, "{\"id\":");
    openai_write_string(out, m->name);
    buf_adds(out, ",\"object\":\"model\",\"created\":0,\"owned_by\":\"rung\"");
    if (m->tier != TIER_NONE) {
        buf_adds(out, ",\"rung\":{\"tier\":\"");
        buf_adds(out, tier_name(m->tier));
        buf_adds(out, "\",\"context_tokens\":");
        openai_write_int(out, m->context_tokens);
        buf_addf(out, ",\"price_input_usd\":%.9g,\"price_output_usd\":%.9g,\"price_reasoning_usd\":%.9g",
                 m->price_input_usd, m->price_output_usd, m->price_reasoning_usd);
        if (m->device && m->device[0]) {
            buf_adds(out, ",\"device\":");
            openai_write_string(out, m->device);
        }
        buf_addf(out, ",\"tools\":%s,\"json\":%s,\"parts\":%s}", m->can_tools ? "true" : "false",
                 m->can_json ? "true" : "false", m->can_parts ? "true" : "false");
    }
    buf_addc(out, '}');
    return out->failed;
}

enum err_code openai_models_body(const struct msg_model *models, int count, struct buf *out)
{
    buf_adds(out, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < count; i++) {
        if (i) buf_addc(out, ',');
        (void)openai_model_body(&models[i], out);
    }
    buf_adds(out, "]}");
    return out->failed;
}
