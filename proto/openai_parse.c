/* A client's body into a submit: one table of the fields we know; the rest goes on unharmed in extra_json. */
#include "proto/openai.h"
#include "proto/openai_json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct parse {
    struct msg_submit *out;
    struct err *e;
    enum openai_endpoint endpoint;
    json_t *extra; /* NULL until a field has no place of its own */
    bool completion_tokens_given; /* max_completion_tokens was there: it wins over max_tokens */
};

struct field {
    const char *name;
    enum err_code (*read)(struct parse *p, const struct field *f, json_t *value);
    uint32_t bit;      /* of msg_params.given */
    size_t offset;     /* in struct msg_submit */
    double low, high;  /* of numbers */
    bool keep;         /* also stays in extra_json: an upstream may know it by this name only */
};

/* ---- errors and copies ---- */

static enum err_code wrong(struct parse *p, const char *name, const json_t *got, const char *wants)
{
    char what[80];
    return err_set_param(p->e, ERR_INVALID, name, "%s is %s; it should be %s", name,
                         openai_json_what(got, what, sizeof what), wants);
}

static enum err_code too_large(struct parse *p, const char *name)
{
    return err_set_param(p->e, ERR_TOO_LARGE, name, "%s does not fit: a request may take %d MiB of memory in all",
                         name, 2 * (MSG_BYTES_MAX >> 20));
}

static enum err_code copy_text(struct parse *p, const char *name, const json_t *value, const char **out)
{
    *out = arena_memdup(&p->out->arena, json_string_value(value), json_string_length(value));
    return *out ? ERR_OK : too_large(p, name);
}

static enum err_code copy_json(struct parse *p, const char *name, const json_t *value, const char **out)
{
    struct buf text = BUF_INIT(MSG_BYTES_MAX);
    enum err_code code = openai_json_dump(&text, value);
    if (code == ERR_OK && !(*out = arena_memdup(&p->out->arena, text.data, text.len))) code = ERR_TOO_LARGE;
    buf_release(&text);
    return code == ERR_OK ? ERR_OK : too_large(p, name);
}

/* ---- fields by type ---- */

static void *place(struct parse *p, const struct field *f)
{
    return (char *)p->out + f->offset;
}

static enum err_code read_word(struct parse *p, const struct field *f, json_t *value)
{
    if (!json_is_string(value) || json_string_length(value) == 0 || json_string_length(value) > MSG_WORD_MAX - 1) {
        char wants[64];
        (void)snprintf(wants, sizeof wants, "a string of 1 to %d bytes", MSG_WORD_MAX - 1);
        return wrong(p, f->name, value, wants);
    }
    return copy_text(p, f->name, value, place(p, f));
}

static enum err_code read_bool(struct parse *p, const struct field *f, json_t *value)
{
    if (!json_is_boolean(value)) return wrong(p, f->name, value, "true or false");
    *(bool *)place(p, f) = json_is_true(value);
    p->out->params.given |= f->bit;
    return ERR_OK;
}

static enum err_code read_number(struct parse *p, const struct field *f, json_t *value)
{
    double number = json_number_value(value);
    if (!json_is_number(value) || !(number >= f->low && number <= f->high)) {
        char wants[64];
        (void)snprintf(wants, sizeof wants, "a number from %g to %g", f->low, f->high);
        return wrong(p, f->name, value, wants);
    }
    *(double *)place(p, f) = number;
    p->out->params.given |= f->bit;
    return ERR_OK;
}

static enum err_code read_count(struct parse *p, const struct field *f, json_t *value)
{
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || (double)number < f->low || (double)number > f->high) {
        char wants[64];
        (void)snprintf(wants, sizeof wants, "a whole number from %.0f to %.0f", f->low, f->high);
        return wrong(p, f->name, value, wants);
    }
    *(int64_t *)place(p, f) = number;
    p->out->params.given |= f->bit;
    return ERR_OK;
}

/* ---- fields with a shape of their own ---- */

static enum err_code read_max_tokens(struct parse *p, const struct field *f, json_t *value)
{
    int64_t before = p->out->params.max_tokens;
    enum err_code code = read_count(p, f, value);
    bool newer = strcmp(f->name, "max_completion_tokens") == 0;
    if (code == ERR_OK && !newer && p->completion_tokens_given) p->out->params.max_tokens = before;
    if (newer) p->completion_tokens_given = true;
    return code;
}

static enum err_code read_seed(struct parse *p, const struct field *f, json_t *value)
{
    if (!json_is_integer(value)) return wrong(p, f->name, value, "a whole number");
    p->out->params.seed = (uint64_t)json_integer_value(value);
    p->out->params.given |= PARAM_SEED;
    return ERR_OK;
}

static enum err_code read_logprobs(struct parse *p, const struct field *f, json_t *value)
{
    struct msg_params *params = &p->out->params;
    if (p->endpoint == OPENAI_CHAT) return read_bool(p, f, value);
    json_int_t top = json_integer_value(value);
    if (!json_is_integer(value) || top < 0 || top > MSG_TOP_MAX)
        return wrong(p, f->name, value, "a whole number from 0 to 20");
    params->logprobs = true;
    params->top_logprobs = top;
    params->given |= PARAM_LOGPROBS;
    return ERR_OK;
}

static enum err_code read_stop(struct parse *p, const struct field *f, json_t *value)
{
    size_t count = json_is_string(value) ? 1 : json_array_size(value);
    bool fits = json_is_string(value) || (json_is_array(value) && count <= MSG_STOPS_MAX);
    if (!fits) return wrong(p, f->name, value, "a string or an array of at most 16 strings");
    const char **stops = arena_array(&p->out->arena, count ? count : 1, sizeof *stops);
    if (!stops) return too_large(p, f->name);
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_is_string(value) ? value : json_array_get(value, i);
        if (!json_is_string(item) || json_string_length(item) == 0 || json_string_length(item) > 1024)
            return wrong(p, f->name, item, "made of strings of 1 to 1024 bytes");
        enum err_code code = copy_text(p, f->name, item, &stops[i]);
        if (code != ERR_OK) return code;
    }
    p->out->params.stop = stops;
    p->out->params.stop_count = (int)count;
    return ERR_OK;
}

static enum err_code read_bias(struct parse *p, const struct field *f, json_t *value)
{
    size_t count = json_object_size(value);
    if (!json_is_object(value) || count > MSG_BIAS_MAX)
        return wrong(p, f->name, value, "an object of at most 1024 token ids with numbers from -100 to 100");
    struct msg_bias *bias = arena_array(&p->out->arena, count ? count : 1, sizeof *bias);
    if (!bias) return too_large(p, f->name);
    int n = 0;
    const char *key;
    json_t *item;
    json_object_foreach(value, key, item) {
        char *end = NULL;
        long id = strtol(key, &end, 10);
        double number = json_number_value(item);
        if (key[0] < '0' || key[0] > '9' || *end || id > INT32_MAX)
            return err_set_param(p->e, ERR_INVALID, f->name, "%s has the key \"%.24s\"; keys are token ids", f->name,
                                 key);
        if (!json_is_number(item) || number < -100 || number > 100)
            return wrong(p, f->name, item, "made of numbers from -100 to 100");
        bias[n++] = (struct msg_bias){(int32_t)id, number};
    }
    p->out->params.bias = bias;
    p->out->params.bias_count = n;
    return ERR_OK;
}

static enum err_code read_stream_options(struct parse *p, const struct field *f, json_t *value)
{
    if (!json_is_object(value)) return wrong(p, f->name, value, "an object");
    json_t *usage = json_object_get(value, "include_usage");
    if (usage && !json_is_null(usage) && !json_is_boolean(usage))
        return wrong(p, "stream_options.include_usage", usage, "true or false");
    p->out->include_usage = json_is_true(usage);
    return ERR_OK;
}

static enum err_code keep_extra(struct parse *p, const char *name, json_t *value)
{
    if (!p->extra) p->extra = json_object();
    if (!p->extra || json_object_set(p->extra, name, value) != 0)
        return err_set(p->e, ERR_MEMORY, "out of memory while reading %.40s", name);
    return ERR_OK;
}

static enum err_code read_tools(struct parse *p, const struct field *f, json_t *value)
{
    if (!json_is_array(value)) return wrong(p, f->name, value, "an array of tools");
    if (json_array_size(value) > 0) p->out->has_tools = true;
    return ERR_OK;
}

static enum err_code read_format(struct parse *p, const struct field *f, json_t *value)
{
    const char *type = openai_json_string(value, "type");
    if (!json_is_object(value) || !type)
        return wrong(p, f->name, value, "an object with a `type`: text, json_object or json_schema");
    p->out->has_json_format = strcmp(type, "text") != 0;
    return ERR_OK;
}

static enum err_code read_prompt(struct parse *p, const struct field *f, json_t *value)
{
    if (json_is_array(value) && json_array_size(value) == 1) value = json_array_get(value, 0);
    if (!json_is_string(value))
        return wrong(p, f->name, value, "one string (token ids and several prompts in one request are not served)");
    return copy_text(p, f->name, value, &p->out->prompt);
}

/* ---- `rung`: the x-rung-* headers, for clients that can only change the body ---- */

static enum err_code read_rung(struct parse *p, const struct field *f, json_t *value)
{
    if (!json_is_object(value))
        return wrong(p, f->name, value, "an object of max_tier, privacy, deadline_ms, conversation");
    const char *key;
    json_t *item;
    enum err_code code = ERR_OK;
    json_object_foreach(value, key, item) {
        if (strcmp(key, "max_tier") == 0) {
            p->out->max_tier = tier_from_name(json_is_string(item) ? json_string_value(item) : "");
            if (p->out->max_tier == TIER_NONE) return wrong(p, "rung.max_tier", item, "edge, region or core");
        } else if (strcmp(key, "privacy") == 0) {
            if (!json_is_string(item) || strcmp(json_string_value(item), "device") != 0)
                return wrong(p, "rung.privacy", item, "\"device\"");
            p->out->device_private = true;
        } else if (strcmp(key, "deadline_ms") == 0) {
            static const struct field DEADLINE = {"rung.deadline_ms", NULL, 0, offsetof(struct msg_submit, deadline_ms),
                                                  1, 86400000, false};
            code = read_count(p, &DEADLINE, item);
        } else if (strcmp(key, "conversation") == 0) {
            static const struct field CONVERSATION = {
                "rung.conversation", NULL, 0, offsetof(struct msg_submit, conversation), 0, 0, false};
            code = read_word(p, &CONVERSATION, item);
        } else {
            code = err_set_param(p->e, ERR_INVALID, "rung",
                                 "rung.%.40s is not a field; there are max_tier, privacy, deadline_ms, conversation", key);
        }
        if (code != ERR_OK) return code;
    }
    return ERR_OK;
}

/* ---- messages ---- */

static enum err_code message_wrong(struct parse *p, size_t i, const char *field, const json_t *got, const char *wants)
{
    char name[64];
    (void)snprintf(name, sizeof name, "messages[%zu]%s%s", i, field[0] ? "." : "", field);
    return wrong(p, name, got, wants);
}

/* Text parts joined by newlines; anything else makes the request one that needs parts. */
static enum err_code read_parts(struct parse *p, size_t i, const json_t *parts, struct msg_message *message)
{
    struct buf text = BUF_INIT(MSG_BYTES_MAX);
    enum err_code code = ERR_OK;
    bool first = true;
    for (size_t k = 0; k < json_array_size(parts) && code == ERR_OK; k++) {
        const json_t *part = json_array_get(parts, k);
        const char *type = openai_json_string(part, "type");
        const json_t *piece = json_object_get(part, "text");
        if (!type) {
            code = message_wrong(p, i, "content", part, "made of parts with a `type`");
        } else if (strcmp(type, "text") != 0) {
            p->out->has_parts = true;
        } else if (!json_is_string(piece)) {
            code = message_wrong(p, i, "content", piece, "made of text parts with a string `text`");
        } else {
            if (!first) buf_addc(&text, '\n');
            first = false;
            buf_add(&text, json_string_value(piece), json_string_length(piece));
        }
    }
    if (code == ERR_OK && (!buf_ok(&text) || !(message->content = arena_memdup(&p->out->arena, text.data, text.len))))
        code = too_large(p, "messages");
    buf_release(&text);
    return code;
}

static enum err_code read_content(struct parse *p, size_t i, const json_t *content, struct msg_message *message)
{
    if (json_is_string(content)) return copy_text(p, "messages", content, &message->content);
    if (json_is_array(content)) return read_parts(p, i, content, message);
    bool may_lack = strcmp(message->role, "assistant") == 0; /* it called tools, or there was nothing to say */
    if (may_lack && (!content || json_is_null(content))) return ERR_OK;
    return message_wrong(p, i, "content", content, "a string or an array of parts");
}

static enum err_code read_message_word(struct parse *p, size_t i, const char *key, const json_t *value, const char **out)
{
    if (json_is_null(value)) return ERR_OK;
    if (!json_is_string(value) || json_string_length(value) > MSG_WORD_MAX - 1)
        return message_wrong(p, i, key, value, "a string of at most 255 bytes");
    return copy_text(p, "messages", value, out);
}

static enum err_code read_role(struct parse *p, size_t i, const json_t *object, const char **out)
{
    static const char *const ROLES[] = {"system", "developer", "user", "assistant", "tool", "function"};
    const json_t *role = json_object_get(object, "role");
    for (size_t k = 0; json_is_string(role) && k < sizeof ROLES / sizeof *ROLES; k++) {
        if (strcmp(json_string_value(role), ROLES[k]) != 0) continue;
        *out = ROLES[k]; /* ours, and lives for ever */
        return ERR_OK;
    }
    return message_wrong(p, i, "role", role, "system, developer, user, assistant, tool or function");
}

static enum err_code read_message(struct parse *p, size_t i, const json_t *object, struct msg_message *message)
{
    if (!json_is_object(object)) return message_wrong(p, i, "", object, "an object with role and content");
    enum err_code code = read_role(p, i, object, &message->role);
    if (code == ERR_OK) code = read_content(p, i, json_object_get(object, "content"), message);
    bool raw = json_is_array(json_object_get(object, "content"));
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value) {
        if (code != ERR_OK) return code;
        if (strcmp(key, "role") == 0 || strcmp(key, "content") == 0) continue;
        if (strcmp(key, "name") == 0) {
            code = read_message_word(p, i, key, value, &message->name);
        } else if (strcmp(key, "tool_call_id") == 0) {
            code = read_message_word(p, i, key, value, &message->tool_call_id);
        } else if (strcmp(key, "reasoning_content") == 0 && json_is_string(value)) {
            code = copy_text(p, "messages", value, &message->reasoning);
        } else {
            raw = true;
            if (strcmp(key, "tool_calls") == 0 && json_array_size(value) > 0) p->out->has_tools = true;
        }
    }
    if (code == ERR_OK && strcmp(message->role, "tool") == 0) p->out->has_tools = true;
    if (code == ERR_OK && raw) code = copy_json(p, "messages", object, &message->raw_json);
    return code;
}

static enum err_code read_messages(struct parse *p, const struct field *f, json_t *value)
{
    size_t count = json_array_size(value);
    if (!json_is_array(value) || count == 0) return wrong(p, f->name, value, "an array of at least one message");
    if (count > MSG_MESSAGES_MAX)
        return err_set_param(p->e, ERR_INVALID, f->name, "messages holds %zu messages; at most %d are taken", count,
                             MSG_MESSAGES_MAX);
    struct msg_message *messages = arena_array(&p->out->arena, count, sizeof *messages);
    if (!messages) return too_large(p, f->name);
    for (size_t i = 0; i < count; i++) {
        enum err_code code = read_message(p, i, json_array_get(value, i), &messages[i]);
        if (code != ERR_OK) return code;
    }
    p->out->messages = messages;
    p->out->message_count = (int)count;
    return ERR_OK;
}

/* ---- the table ---- */

#define AT(member) offsetof(struct msg_submit, member)
static const struct field COMMON[] = {
    {"model", read_word, 0, AT(model), 0, 0, false},
    {"stream", read_bool, 0, AT(stream), 0, 0, false},
    {"max_tokens", read_max_tokens, PARAM_MAX_TOKENS, AT(params.max_tokens), 1, 1 << 30, false},
    {"temperature", read_number, PARAM_TEMPERATURE, AT(params.temperature), 0, 2, false},
    {"top_p", read_number, PARAM_TOP_P, AT(params.top_p), 0, 1, false},
    {"seed", read_seed, PARAM_SEED, AT(params.seed), 0, 0, false},
    {"stop", read_stop, 0, 0, 0, 0, false},
    {"n", read_count, 0, AT(params.n), 1, MSG_CHOICES_MAX, false},
    {"stream_options", read_stream_options, 0, 0, 0, 0, false},
    {"logprobs", read_logprobs, PARAM_LOGPROBS, AT(params.logprobs), 0, 0, false},
    {"user", read_word, 0, AT(tenant), 0, 0, false},
    {"presence_penalty", read_number, PARAM_PRESENCE, AT(params.presence_penalty), -2, 2, false},
    {"frequency_penalty", read_number, PARAM_FREQUENCY, AT(params.frequency_penalty), -2, 2, false},
    {"logit_bias", read_bias, 0, 0, 0, 0, false},
    {"top_k", read_count, PARAM_TOP_K, AT(params.top_k), -1, 1 << 30, false},
    {"min_p", read_number, PARAM_MIN_P, AT(params.min_p), 0, 1, false},
    {"typical_p", read_number, PARAM_TYPICAL_P, AT(params.typical_p), 0, 1, false},
    {"repeat_penalty", read_number, PARAM_REPEAT_PENALTY, AT(params.repeat_penalty), 0, 10, false},
    {"repetition_penalty", read_number, PARAM_REPEAT_PENALTY, AT(params.repeat_penalty), 0, 10, true},
    {"ignore_eos", read_bool, 0, AT(params.ignore_eos), 0, 0, false},
    {"response_format", read_format, 0, 0, 0, 0, true},
    {"rung", read_rung, 0, 0, 0, 0, false},
};
static const struct field CHAT[] = {
    {"messages", read_messages, 0, 0, 0, 0, false},
    {"max_completion_tokens", read_max_tokens, PARAM_MAX_TOKENS, AT(params.max_tokens), 1, 1 << 30, true},
    {"top_logprobs", read_count, 0, AT(params.top_logprobs), 0, MSG_TOP_MAX, false},
    {"tools", read_tools, 0, 0, 0, 0, true},
    {"functions", read_tools, 0, 0, 0, 0, true},
};
static const struct field COMPLETION[] = {
    {"prompt", read_prompt, 0, 0, 0, 0, false},
    {"echo", read_bool, 0, AT(echo), 0, 0, false},
};

static const struct field *field_in(const struct field *fields, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(fields[i].name, name) == 0) return &fields[i];
    return NULL;
}

static const struct field *field_find(enum openai_endpoint endpoint, const char *name)
{
    const struct field *f = field_in(COMMON, sizeof COMMON / sizeof *COMMON, name);
    if (f) return f;
    if (endpoint == OPENAI_CHAT) return field_in(CHAT, sizeof CHAT / sizeof *CHAT, name);
    return field_in(COMPLETION, sizeof COMPLETION / sizeof *COMPLETION, name);
}

static enum err_code read_member(struct parse *p, const char *name, json_t *value)
{
    const struct field *f = field_find(p->endpoint, name);
    if (!f && strncmp(name, "rung_", 5) == 0)
        return err_set_param(p->e, ERR_INVALID, "rung_", "%.48s is not a field; ours are in the object `rung`", name);
    if (!f) return keep_extra(p, name, value);
    if (json_is_null(value)) return ERR_OK; /* as if it were not there */
    enum err_code code = f->read(p, f, value);
    if (code == ERR_OK && f->keep) code = keep_extra(p, name, value);
    return code;
}

/* What only the whole body shows. */
static enum err_code check_whole(struct parse *p)
{
    struct msg_submit *out = p->out;
    if (p->endpoint == OPENAI_CHAT && !out->messages)
        return wrong(p, "messages", NULL, "an array of at least one message");
    if (p->endpoint == OPENAI_COMPLETION && !out->prompt) return wrong(p, "prompt", NULL, "a string");
    if (out->params.top_logprobs > 0 && !out->params.logprobs)
        return err_set_param(p->e, ERR_INVALID, "top_logprobs", "top_logprobs is given without logprobs: true");
    if (!out->model) out->model = "auto";
    enum tier tier = tier_from_name(out->model);
    if (tier != TIER_NONE) out->forced = tier;
    if (p->extra) return copy_json(p, "the body", p->extra, &out->extra_json);
    return ERR_OK;
}

enum err_code openai_parse_request(struct msg_submit *out, enum openai_endpoint endpoint, const char *body, size_t len,
                                   struct err *e)
{
    msg_submit_init(out);
    out->completion = endpoint == OPENAI_COMPLETION;
    struct parse p = {.out = out, .e = e, .endpoint = endpoint};
    json_t *root = NULL;
    enum err_code code = openai_json_object(&root, body, len, e);
    if (code != ERR_OK) goto done;
    const char *name;
    json_t *value;
    json_object_foreach(root, name, value) {
        code = read_member(&p, name, value);
        if (code != ERR_OK) goto done;
    }
    code = check_whole(&p);
done:
    json_decref(p.extra);
    json_decref(root);
    if (code != ERR_OK) {
        msg_submit_release(out);
        msg_submit_init(out);
    }
    return code;
}

/* ---- feedback ---- */

static enum err_code feedback_word(char *out, size_t size, const json_t *root, const char *name, bool must,
                                   struct parse *p)
{
    const json_t *value = json_object_get(root, name);
    if (!must && (!value || json_is_null(value))) return ERR_OK;
    if (!json_is_string(value) || json_string_length(value) >= size || (must && json_string_length(value) == 0)) {
        char wants[48];
        (void)snprintf(wants, sizeof wants, "a string of %s%zu bytes", must ? "1 to " : "at most ", size - 1);
        return wrong(p, name, value, wants);
    }
    (void)snprintf(out, size, "%s", json_string_value(value));
    return ERR_OK;
}

static enum err_code feedback_value(struct openai_feedback *out, const json_t *root, struct parse *p)
{
    const json_t *score = json_object_get(root, "score"), *right = json_object_get(root, "right");
    if (score && right) return err_set_param(p->e, ERR_INVALID, "right", "score and right are both given; one is wanted");
    if (json_is_boolean(right)) {
        out->value = json_is_true(right) ? 1 : 0;
        return ERR_OK;
    }
    if (right) return wrong(p, "right", right, "true or false");
    out->value = json_number_value(score);
    if (json_is_number(score) && out->value >= 0 && out->value <= 1) return ERR_OK;
    return wrong(p, "score", score, "a number from 0 (wrong) to 1 (right)");
}

enum err_code openai_parse_feedback(struct openai_feedback *out, const char *body, size_t len, struct err *e)
{
    *out = (struct openai_feedback){.tier = TIER_NONE};
    struct parse p = {.e = e};
    json_t *root = NULL;
    enum err_code code = openai_json_object(&root, body, len, e);
    if (code != ERR_OK) return code;
    code = feedback_word(out->request, sizeof out->request, root, "request_id", true, &p);
    if (code == ERR_OK) code = feedback_value(out, root, &p);
    if (code == ERR_OK) code = feedback_word(out->note, sizeof out->note, root, "note", false, &p);
    const json_t *tier = json_object_get(root, "tier");
    if (code == ERR_OK && tier && !json_is_null(tier)) {
        out->tier = tier_from_name(json_is_string(tier) ? json_string_value(tier) : "");
        if (out->tier == TIER_NONE) code = wrong(&p, "tier", tier, "edge, region or core");
    }
    json_decref(root);
    return code;
}
