/* A client's body into a submit: one table of the fields we know; the rest goes on unharmed in extra_json. */
#include "proto/openai.h"
#include "proto/openai_json.h"
#include "proto/openai_tree.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct parse {
    struct msg_submit *out;
    struct err *e;
    enum openai_endpoint endpoint;
    struct buf extra; /* members that have no place of their own, joined by commas */
    bool completion_tokens_given; /* max_completion_tokens was there: it wins over max_tokens */
};

struct field {
    const char *name;
    enum err_code (*read)(struct parse *p, const struct field *f, struct tree *value);
    uint32_t bit;      /* of msg_params.given */
    size_t offset;     /* in struct msg_submit */
    double low, high;  /* of numbers */
    bool keep;         /* also stays in extra_json: an upstream may know it by this name only */
};

/* ---- errors and copies ---- */

static enum err_code wrong(struct parse *p, const char *name, const struct tree *got, const char *wants)
{
    char what[80];
    return err_set_param(p->e, ERR_INVALID, name, "%s is %s; it should be %s", name,
                         tree_what(got, what, sizeof what), wants);
}

static enum err_code too_large(struct parse *p, const char *name)
{
    return err_set_param(p->e, ERR_TOO_LARGE, name, "%s does not fit: a request may take %d MiB of memory in all",
                         name, 2 * (MSG_BYTES_MAX >> 20));
}

/* As it came, byte for byte. */
static enum err_code copy_raw(struct parse *p, const char *name, const struct tree *value, const char **out)
{
    *out = arena_memdup(&p->out->arena, value->raw, value->raw_len);
    return *out ? ERR_OK : too_large(p, name);
}

/* ---- fields by type ---- */

static void *place(struct parse *p, const struct field *f)
{
    return (char *)p->out + f->offset;
}

static enum err_code read_word(struct parse *p, const struct field *f, struct tree *value)
{
    if (!tree_is(value, TREE_STRING) || value->text_len == 0 || value->text_len > MSG_WORD_MAX - 1) {
        char wants[64];
        (void)snprintf(wants, sizeof wants, "a string of 1 to %d bytes", MSG_WORD_MAX - 1);
        return wrong(p, f->name, value, wants);
    }
    *(const char **)place(p, f) = value->text; /* lives in the submit's arena already */
    return ERR_OK;
}

static enum err_code read_bool(struct parse *p, const struct field *f, struct tree *value)
{
    if (!tree_is_bool(value)) return wrong(p, f->name, value, "true or false");
    *(bool *)place(p, f) = tree_is(value, TREE_TRUE);
    p->out->params.given |= f->bit;
    return ERR_OK;
}

static enum err_code read_number(struct parse *p, const struct field *f, struct tree *value)
{
    double number = value->real;
    if (!tree_is_number(value) || !(number >= f->low && number <= f->high)) {
        char wants[64];
        (void)snprintf(wants, sizeof wants, "a number from %g to %g", f->low, f->high);
        return wrong(p, f->name, value, wants);
    }
    *(double *)place(p, f) = number;
    p->out->params.given |= f->bit;
    return ERR_OK;
}

static enum err_code read_count(struct parse *p, const struct field *f, struct tree *value)
{
    int64_t number = value->integer;
    if (!tree_is(value, TREE_INT) || (double)number < f->low || (double)number > f->high) {
        char wants[64];
        (void)snprintf(wants, sizeof wants, "a whole number from %.0f to %.0f", f->low, f->high);
        return wrong(p, f->name, value, wants);
    }
    *(int64_t *)place(p, f) = number;
    p->out->params.given |= f->bit;
    return ERR_OK;
}

/* ---- fields with a shape of their own ---- */

static enum err_code read_max_tokens(struct parse *p, const struct field *f, struct tree *value)
{
    int64_t before = p->out->params.max_tokens;
    enum err_code code = read_count(p, f, value);
    bool newer = strcmp(f->name, "max_completion_tokens") == 0;
    if (code == ERR_OK && !newer && p->completion_tokens_given) p->out->params.max_tokens = before;
    if (newer) p->completion_tokens_given = true;
    return code;
}

static enum err_code read_seed(struct parse *p, const struct field *f, struct tree *value)
{
    if (!tree_is(value, TREE_INT)) return wrong(p, f->name, value, "a whole number");
    p->out->params.seed = (uint64_t)value->integer;
    p->out->params.given |= PARAM_SEED;
    return ERR_OK;
}

static enum err_code read_logprobs(struct parse *p, const struct field *f, struct tree *value)
{
    struct msg_params *params = &p->out->params;
    if (p->endpoint == OPENAI_CHAT) return read_bool(p, f, value);
    int64_t top = value->integer;
    if (!tree_is(value, TREE_INT) || top < 0 || top > MSG_TOP_MAX)
        return wrong(p, f->name, value, "a whole number from 0 to 20");
    params->logprobs = true;
    params->top_logprobs = top;
    params->given |= PARAM_LOGPROBS;
    return ERR_OK;
}

static enum err_code read_stop(struct parse *p, const struct field *f, struct tree *value)
{
    int count = tree_is(value, TREE_STRING) ? 1 : value->count;
    bool fits = tree_is(value, TREE_STRING) || (tree_is(value, TREE_ARRAY) && count <= MSG_STOPS_MAX);
    if (!fits) return wrong(p, f->name, value, "a string or an array of at most 16 strings");
    const char **stops = arena_array(&p->out->arena, (size_t)count + 1, sizeof *stops);
    if (!stops) return too_large(p, f->name);
    const struct tree *item = tree_is(value, TREE_STRING) ? value : value->first;
    for (int i = 0; i < count; i++, item = item->next) {
        if (!tree_is(item, TREE_STRING) || item->text_len == 0 || item->text_len > 1024)
            return wrong(p, f->name, item, "made of strings of 1 to 1024 bytes");
        stops[i] = item->text;
    }
    p->out->params.stop = stops;
    p->out->params.stop_count = count;
    return ERR_OK;
}

static enum err_code read_bias(struct parse *p, const struct field *f, struct tree *value)
{
    if (!tree_is(value, TREE_OBJECT) || value->count > MSG_BIAS_MAX)
        return wrong(p, f->name, value, "an object of at most 1024 token ids with numbers from -100 to 100");
    struct msg_bias *bias = arena_array(&p->out->arena, (size_t)value->count + 1, sizeof *bias);
    if (!bias) return too_large(p, f->name);
    int n = 0;
    for (const struct tree *item = value->first; item; item = item->next) {
        char *end = NULL;
        long id = strtol(item->key, &end, 10);
        if (item->key[0] < '0' || item->key[0] > '9' || *end || id > INT32_MAX)
            return err_set_param(p->e, ERR_INVALID, f->name, "%s has the key \"%.24s\"; keys are token ids", f->name,
                                 item->key);
        if (!tree_is_number(item) || !(item->real >= -100 && item->real <= 100))
            return wrong(p, f->name, item, "made of numbers from -100 to 100");
        bias[n++] = (struct msg_bias){(int32_t)id, item->real};
    }
    p->out->params.bias = bias;
    p->out->params.bias_count = n;
    return ERR_OK;
}

static enum err_code read_stream_options(struct parse *p, const struct field *f, struct tree *value)
{
    if (!tree_is(value, TREE_OBJECT)) return wrong(p, f->name, value, "an object");
    struct tree *usage = tree_get(value, "include_usage");
    if (usage && !tree_is(usage, TREE_NULL) && !tree_is_bool(usage))
        return wrong(p, "stream_options.include_usage", usage, "true or false");
    p->out->include_usage = tree_is(usage, TREE_TRUE);
    return ERR_OK;
}

static enum err_code keep_extra(struct parse *p, const struct tree *member)
{
    if (p->extra.len) buf_addc(&p->extra, ',');
    buf_add(&p->extra, member->key_raw, member->key_raw_len);
    buf_addc(&p->extra, ':');
    buf_add(&p->extra, member->raw, member->raw_len);
    return buf_ok(&p->extra) ? ERR_OK : too_large(p, "the body");
}

static enum err_code read_tools(struct parse *p, const struct field *f, struct tree *value)
{
    if (!tree_is(value, TREE_ARRAY)) return wrong(p, f->name, value, "an array of tools");
    if (value->count > 0) p->out->has_tools = true;
    return ERR_OK;
}

static enum err_code read_format(struct parse *p, const struct field *f, struct tree *value)
{
    const char *type = tree_string(value, "type");
    if (!tree_is(value, TREE_OBJECT) || !type)
        return wrong(p, f->name, value, "an object with a `type`: text, json_object or json_schema");
    p->out->has_json_format = strcmp(type, "text") != 0;
    return ERR_OK;
}

static enum err_code read_prompt(struct parse *p, const struct field *f, struct tree *value)
{
    if (tree_is(value, TREE_ARRAY) && value->count == 1) value = value->first;
    if (!tree_is(value, TREE_STRING))
        return wrong(p, f->name, value, "one string (token ids and several prompts in one request are not served)");
    p->out->prompt = value->text;
    return ERR_OK;
}

/* ---- `rung`: the x-rung-* headers, for clients that can only change the body ---- */

static enum err_code read_rung(struct parse *p, const struct field *f, struct tree *value)
{
    if (!tree_is(value, TREE_OBJECT))
        return wrong(p, f->name, value, "an object of max_tier, privacy, deadline_ms, conversation");
    enum err_code code = ERR_OK;
    for (struct tree *item = value->first; item; item = item->next) {
        const char *key = item->key;
        if (strcmp(key, "max_tier") == 0) {
            p->out->max_tier = tier_from_name(tree_is(item, TREE_STRING) ? item->text : "");
            if (p->out->max_tier == TIER_NONE) return wrong(p, "rung.max_tier", item, "edge, region or core");
        } else if (strcmp(key, "privacy") == 0) {
            if (!tree_is(item, TREE_STRING) || strcmp(item->text, "device") != 0)
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

static enum err_code message_wrong(struct parse *p, size_t i, const char *field, const struct tree *got, const char *wants)
{
    char name[64];
    (void)snprintf(name, sizeof name, "messages[%zu]%s%s", i, field[0] ? "." : "", field);
    return wrong(p, name, got, wants);
}

/* Text parts joined by newlines; anything else makes the request one that needs parts. */
static enum err_code read_parts(struct parse *p, size_t i, const struct tree *parts, struct msg_message *message)
{
    struct buf text = BUF_INIT(MSG_BYTES_MAX);
    enum err_code code = ERR_OK;
    bool first = true;
    for (const struct tree *part = parts->first; part && code == ERR_OK; part = part->next) {
        const char *type = tree_string(part, "type");
        const struct tree *piece = tree_get(part, "text");
        if (!type) {
            code = message_wrong(p, i, "content", part, "made of parts with a `type`");
        } else if (strcmp(type, "text") != 0) {
            p->out->has_parts = true;
        } else if (!tree_is(piece, TREE_STRING)) {
            code = message_wrong(p, i, "content", piece, "made of text parts with a string `text`");
        } else {
            if (!first) buf_addc(&text, '\n');
            first = false;
            buf_add(&text, piece->text, piece->text_len);
        }
    }
    if (code == ERR_OK && (!buf_ok(&text) || !(message->content = arena_memdup(&p->out->arena, text.data, text.len))))
        code = too_large(p, "messages");
    buf_release(&text);
    return code;
}

static enum err_code read_content(struct parse *p, size_t i, const struct tree *content, struct msg_message *message)
{
    if (tree_is(content, TREE_STRING)) {
        message->content = content->text;
        return ERR_OK;
    }
    if (tree_is(content, TREE_ARRAY)) return read_parts(p, i, content, message);
    bool may_lack = strcmp(message->role, "assistant") == 0; /* it called tools, or there was nothing to say */
    if (may_lack && tree_absent(content)) return ERR_OK;
    return message_wrong(p, i, "content", content, "a string or an array of parts");
}

static enum err_code read_message_word(struct parse *p, size_t i, const char *key, const struct tree *value, const char **out)
{
    if (tree_is(value, TREE_NULL)) return ERR_OK;
    if (!tree_is(value, TREE_STRING) || value->text_len > MSG_WORD_MAX - 1)
        return message_wrong(p, i, key, value, "a string of at most 255 bytes");
    *out = value->text;
    return ERR_OK;
}

static enum err_code read_role(struct parse *p, size_t i, const struct tree *object, const char **out)
{
    static const char *const ROLES[] = {"system", "developer", "user", "assistant", "tool", "function"};
    const struct tree *role = tree_get(object, "role");
    for (size_t k = 0; tree_is(role, TREE_STRING) && k < sizeof ROLES / sizeof *ROLES; k++) {
        if (strcmp(role->text, ROLES[k]) != 0) continue;
        *out = ROLES[k]; /* ours, and lives for ever */
        return ERR_OK;
    }
    return message_wrong(p, i, "role", role, "system, developer, user, assistant, tool or function");
}

static enum err_code read_message(struct parse *p, size_t i, const struct tree *object, struct msg_message *message)
{
    if (!tree_is(object, TREE_OBJECT)) return message_wrong(p, i, "", object, "an object with role and content");
    enum err_code code = read_role(p, i, object, &message->role);
    if (code == ERR_OK) code = read_content(p, i, tree_get(object, "content"), message);
    bool raw = tree_is(tree_get(object, "content"), TREE_ARRAY);
    for (const struct tree *value = object->first; value; value = value->next) {
        const char *key = value->key;
        if (code != ERR_OK) return code;
        if (strcmp(key, "role") == 0 || strcmp(key, "content") == 0) continue;
        if (strcmp(key, "name") == 0) {
            code = read_message_word(p, i, key, value, &message->name);
        } else if (strcmp(key, "tool_call_id") == 0) {
            code = read_message_word(p, i, key, value, &message->tool_call_id);
        } else if (strcmp(key, "reasoning_content") == 0 && tree_is(value, TREE_STRING)) {
            message->reasoning = value->text;
        } else {
            raw = true;
            if (strcmp(key, "tool_calls") == 0 && tree_is(value, TREE_ARRAY) && value->count > 0) p->out->has_tools = true;
        }
    }
    if (code == ERR_OK && strcmp(message->role, "tool") == 0) p->out->has_tools = true;
    if (code == ERR_OK && raw) code = copy_raw(p, "messages", object, &message->raw_json);
    return code;
}

static enum err_code read_messages(struct parse *p, const struct field *f, struct tree *value)
{
    size_t count = (size_t)value->count;
    if (!tree_is(value, TREE_ARRAY) || count == 0) return wrong(p, f->name, value, "an array of at least one message");
    if (count > MSG_MESSAGES_MAX)
        return err_set_param(p->e, ERR_INVALID, f->name, "messages holds %zu messages; at most %d are taken", count,
                             MSG_MESSAGES_MAX);
    struct msg_message *messages = arena_array(&p->out->arena, count, sizeof *messages);
    if (!messages) return too_large(p, f->name);
    size_t i = 0;
    for (const struct tree *item = value->first; item; item = item->next, i++) {
        enum err_code code = read_message(p, i, item, &messages[i]);
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

static enum err_code read_member(struct parse *p, struct tree *value)
{
    const char *name = value->key;
    const struct field *f = field_find(p->endpoint, name);
    if (!f && strncmp(name, "rung_", 5) == 0)
        return err_set_param(p->e, ERR_INVALID, "rung_", "%.48s is not a field; ours are in the object `rung`", name);
    if (!f) return keep_extra(p, value);
    if (tree_is(value, TREE_NULL)) return ERR_OK; /* as if it were not there */
    enum err_code code = f->read(p, f, value);
    if (code == ERR_OK && f->keep) code = keep_extra(p, value);
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
    if (p->extra.len == 0) return ERR_OK;
    char *text = arena_alloc(&out->arena, p->extra.len + 3);
    if (!text) return too_large(p, "the body");
    (void)snprintf(text, p->extra.len + 3, "{%s}", p->extra.data);
    out->extra_json = text;
    return ERR_OK;
}

static enum err_code read_object(struct tree **out, struct arena *arena, const char *body, size_t len, struct err *e)
{
    enum err_code code = tree_read(out, arena, body, len, e);
    if (code != ERR_OK || (*out)->type == TREE_OBJECT) return code;
    char what[80];
    code = err_set(e, ERR_SYNTAX, "a JSON object is wanted, this is %s", tree_what(*out, what, sizeof what));
    *out = NULL;
    return code;
}

enum err_code openai_parse_request(struct msg_submit *out, enum openai_endpoint endpoint, const char *body, size_t len,
                                   struct err *e)
{
    msg_submit_init(out);
    out->completion = endpoint == OPENAI_COMPLETION;
    struct parse p = {.out = out, .e = e, .endpoint = endpoint, .extra = BUF_INIT(MSG_BYTES_MAX)};
    struct tree *root = NULL;
    enum err_code code = read_object(&root, &out->arena, body, len, e);
    for (struct tree *member = root ? root->first : NULL; member && code == ERR_OK; member = member->next)
        code = read_member(&p, member);
    if (code == ERR_OK) code = check_whole(&p);
    buf_release(&p.extra);
    if (code != ERR_OK) {
        msg_submit_release(out);
        msg_submit_init(out);
    }
    return code;
}

/* ---- feedback ---- */

static enum err_code feedback_word(char *out, size_t size, const struct tree *root, const char *name, bool must,
                                   struct parse *p)
{
    const struct tree *value = tree_get(root, name);
    if (!must && tree_absent(value)) return ERR_OK;
    if (!tree_is(value, TREE_STRING) || value->text_len >= size || (must && value->text_len == 0)) {
        char wants[48];
        (void)snprintf(wants, sizeof wants, "a string of %s%zu bytes", must ? "1 to " : "at most ", size - 1);
        return wrong(p, name, value, wants);
    }
    (void)snprintf(out, size, "%s", value->text);
    return ERR_OK;
}

static enum err_code feedback_value(struct openai_feedback *out, const struct tree *root, struct parse *p)
{
    const struct tree *score = tree_get(root, "score"), *right = tree_get(root, "right");
    if (score && right) return err_set_param(p->e, ERR_INVALID, "right", "score and right are both given; one is wanted");
    if (tree_is_bool(right)) {
        out->value = tree_is(right, TREE_TRUE) ? 1 : 0;
        return ERR_OK;
    }
    if (right) return wrong(p, "right", right, "true or false");
    out->value = tree_is_number(score) ? score->real : -1;
    if (out->value >= 0 && out->value <= 1) return ERR_OK;
    return wrong(p, "score", score, "a number from 0 (wrong) to 1 (right)");
}

enum err_code openai_parse_feedback(struct openai_feedback *out, const char *body, size_t len, struct err *e)
{
    *out = (struct openai_feedback){.tier = TIER_NONE};
    struct parse p = {.e = e};
    struct arena arena;
    arena_init(&arena, 1 << 20);
    struct tree *root = NULL;
    enum err_code code = read_object(&root, &arena, body, len, e);
    if (code == ERR_OK) code = feedback_word(out->request, sizeof out->request, root, "request_id", true, &p);
    if (code == ERR_OK) code = feedback_value(out, root, &p);
    if (code == ERR_OK) code = feedback_word(out->note, sizeof out->note, root, "note", false, &p);
    const struct tree *tier = tree_get(root, "tier");
    if (code == ERR_OK && !tree_absent(tier)) {
        out->tier = tier_from_name(tree_is(tier, TREE_STRING) ? tier->text : "");
        if (out->tier == TIER_NONE) code = wrong(&p, "tier", tier, "edge, region or core");
    }
    arena_release(&arena);
    return code;
}
