#include "node/local_prompt.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT_BYTES_MAX = 32 << 20 };

static enum err_code prompt_render(struct prompt *p)
{
    const struct engine *engine = p->engine;
    if (p->raw) return buf_adds(&p->text, p->raw);
    return engine_render_chat(engine, p->messages, p->message_count, p->tools, p->variables, true, &p->text, &p->error);
}

void prompt_make(struct prompt *p)
{
    p->code = prompt_render(p);
    if (p->code != ERR_OK) return;
    /* A template writes BOS itself where the model wants one in a chat. */
    int flags = ENGINE_TOKENIZE_SPECIAL | (p->raw ? ENGINE_TOKENIZE_ADD : 0);
    p->code = engine_tokenize(p->engine, p->text.data, p->text.len, flags, &p->tokens, &p->count, &p->error);
}

/* Going on from another model's text: the prompt, then that text as this model would have said it. */
enum err_code prompt_text_prefix(struct prompt *p, const struct msg_prefix *prefix, int32_t **tokens, int *count)
{
    struct buf text = BUF_INIT(PROMPT_BYTES_MAX);
    if (prefix->reasoning && prefix->reasoning[0]) {
        buf_addf(&text, "<think>%s", prefix->reasoning);
        if (prefix->content && prefix->content[0]) buf_adds(&text, "</think>");
    }
    if (prefix->content) buf_adds(&text, prefix->content);
    enum err_code code = buf_ok(&text) ? ERR_OK : text.failed;
    if (code == ERR_OK) code = engine_tokenize(p->engine, text.data, text.len, ENGINE_TOKENIZE_SPECIAL, tokens, count, &p->error);
    buf_release(&text);
    return code;
}

void prompt_request(const struct msg_submit *s, struct engine_request *r, struct engine_bias *bias)
{
    const struct msg_params *p = &s->params;
    uint32_t given = p->given;
    *r = (struct engine_request){
        .max_tokens = given & PARAM_MAX_TOKENS ? (int)p->max_tokens : 0,
        .sampling = {
            .temperature = given & PARAM_TEMPERATURE ? (float)p->temperature : 0.0f,
            .top_p = given & PARAM_TOP_P ? (float)p->top_p : 1.0f,
            .min_p = given & PARAM_MIN_P ? (float)p->min_p : 0.0f,
            .typical_p = given & PARAM_TYPICAL_P ? (float)p->typical_p : 1.0f,
            .top_k = given & PARAM_TOP_K ? (int)p->top_k : 0,
            .repeat_penalty = given & PARAM_REPEAT_PENALTY ? (float)p->repeat_penalty : 1.0f,
            .presence_penalty = given & PARAM_PRESENCE ? (float)p->presence_penalty : 0.0f,
            .frequency_penalty = given & PARAM_FREQUENCY ? (float)p->frequency_penalty : 0.0f,
            .seed = p->seed,
            .bias = bias,
            .bias_count = p->bias_count,
        },
        .stop = p->stop,
        .stop_count = p->stop_count,
        .ignore_eos = p->ignore_eos,
        .top_logprobs = p->logprobs ? (int)p->top_logprobs : 0,
    };
    for (int i = 0; i < p->bias_count; i++) bias[i] = (struct engine_bias){p->bias[i].id, (float)p->bias[i].bias};
    for (const char *c = s->tenant; c && *c; c++) r->user = r->user * 131 + (unsigned char)*c;
}

void prompt_free(struct prompt *p)
{
    buf_release(&p->text);
    free(p->tokens);
    free(p->messages);
    free(p->variables);
    arena_release(&p->arena);
    free(p);
}

/* What a client gives its model's template besides the chat, {"enable_thinking": false} say. NULL: nothing. */
static char *template_variables(const char *extra_json)
{
    static const char NAME[] = "chat_template_kwargs";
    if (!extra_json || !strstr(extra_json, NAME)) return NULL;
    json_t *extra = json_loads(extra_json, 0, NULL), *given = json_object_get(extra, NAME);
    char *text = given && !json_is_null(given) ? json_dumps(given, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    json_decref(extra);
    return text;
}

/* Points into the submit (inline) or copies of it (off the loop). */
struct prompt *prompt_new(const struct engine *engine, const struct msg_submit *s)
{
    struct prompt *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    buf_init(&p->text, PROMPT_BYTES_MAX);
    arena_init(&p->arena, (size_t)MSG_BYTES_MAX * 2);
    p->engine = engine;
    p->raw = (char *)(uintptr_t)s->prompt;
    p->variables = template_variables(s->extra_json);
    p->message_count = s->message_count;
    p->messages = calloc((size_t)s->message_count + 1, sizeof *p->messages);
    if (!p->messages) {
        prompt_free(p);
        return NULL;
    }
    for (int i = 0; i < s->message_count; i++) {
        const struct msg_message *m = &s->messages[i];
        p->messages[i] = (struct engine_message){.role = m->role, .content = m->content ? m->content : "", .reasoning = m->reasoning,
                                                 .name = m->name, .tool_call_id = m->tool_call_id};
    }
    return p;
}

size_t prompt_bytes(const struct msg_submit *s)
{
    size_t bytes = s->prompt ? strlen(s->prompt) : 0;
    for (int i = 0; i < s->message_count; i++) bytes += s->messages[i].content ? strlen(s->messages[i].content) : 0;
    return bytes;
}

bool prompt_own(struct prompt *p, const struct msg_submit *s)
{
    struct arena *a = &p->arena;
    bool ok = true;
    p->raw = arena_strdup(a, s->prompt);
    ok &= !s->prompt || p->raw;
    for (int i = 0; i < p->message_count; i++) {
        struct engine_message *m = &p->messages[i];
        const char **fields[] = {&m->role, &m->content, &m->reasoning, &m->name, &m->tool_call_id};
        for (size_t k = 0; k < sizeof fields / sizeof fields[0]; k++) {
            if (!*fields[k]) continue;
            *fields[k] = arena_strdup(a, *fields[k]);
            ok &= *fields[k] != NULL;
        }
    }
    /* What submit_all() needs of the request, without its strings but the stops and prefixes. */
    p->submit = *s;
    p->submit.tenant = arena_strdup(a, s->tenant);
    p->submit.prefix_identity = arena_strdup(a, s->prefix_identity);
    const char **stops = arena_array(a, (size_t)s->params.stop_count + 1, sizeof *stops);
    struct msg_bias *bias = arena_array(a, (size_t)s->params.bias_count + 1, sizeof *bias);
    struct msg_prefix *prefixes = arena_array(a, (size_t)s->prefix_count + 1, sizeof *prefixes);
    if (!ok || !stops || !bias || !prefixes) return false;
    for (int i = 0; i < s->params.stop_count; i++) stops[i] = arena_strdup(a, s->params.stop[i]);
    if (s->params.bias_count) memcpy(bias, s->params.bias, (size_t)s->params.bias_count * sizeof *bias);
    for (int i = 0; i < s->prefix_count; i++) {
        prefixes[i] = s->prefixes[i];
        size_t size = (size_t)s->prefixes[i].token_count * sizeof(int32_t);
        prefixes[i].tokens = size ? (const int32_t *)(const void *)arena_memdup(a, s->prefixes[i].tokens, size) : NULL;
        prefixes[i].content = arena_strdup(a, s->prefixes[i].content);
        prefixes[i].reasoning = arena_strdup(a, s->prefixes[i].reasoning);
        if (size && !prefixes[i].tokens) return false;
    }
    p->submit.params.stop = stops;
    p->submit.params.bias = bias;
    p->submit.prefixes = prefixes;
    return true;
}
