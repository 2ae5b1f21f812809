/* A submit into the body an upstream gets: our fields written out, the client's unknown ones passed on byte for byte. */
#include "proto/openai.h"
#include "proto/openai_json.h"
#include "proto/openai_tree.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Fields that are ours to write: a peer's extra_json cannot bring its own. */
static const char *const OURS[] = {
    "model", "messages", "prompt", "stream", "stream_options", "temperature", "top_p", "top_k", "min_p", "typical_p",
    "presence_penalty", "frequency_penalty", "repeat_penalty", "repetition_penalty", "seed", "max_tokens",
    "max_completion_tokens", "n", "stop", "logit_bias", "logprobs", "top_logprobs", "ignore_eos", "echo", "user", "rung",
    "continue_final_message", "add_generation_prompt",
};

struct writer {
    struct buf *out;
    struct arena arena;       /* of what is read again */
    const struct tree *extra; /* the client's unknown fields, or NULL */
    bool begun;               /* a member is there already */
};

static void name(struct writer *w, const char *key)
{
    buf_adds(w->out, w->begun ? ",\"" : "\"");
    buf_adds(w->out, key);
    buf_adds(w->out, "\":");
    w->begun = true;
}

static void put_text(struct writer *w, const char *key, const char *text)
{
    name(w, key);
    openai_write_string(w->out, text);
}

static void put_int(struct writer *w, const char *key, int64_t value)
{
    name(w, key);
    openai_write_int(w->out, value);
}

static void put_word(struct writer *w, const char *key, const char *word)
{
    name(w, key);
    buf_adds(w->out, word);
}

/* All digits: what the client set comes out the same number. */
static void put_number(struct writer *w, const struct msg_params *params, uint32_t bit, const char *key, double value)
{
    if (!(params->given & bit)) return;
    name(w, key);
    char text[32];
    for (int digits = 6; digits <= 17; digits++) {
        (void)snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    buf_adds(w->out, value - value == 0 ? text : "null");
}

/* The name the client used, where it is one of two. */
static const char *either(const struct writer *w, const char *first, const char *second)
{
    return tree_get(w->extra, second) ? second : first;
}

/* ---- messages ---- */

static enum err_code put_raw_message(struct writer *w, const char *raw, int i, struct err *e)
{
    struct tree *root = NULL;
    struct err why = {0};
    enum err_code code = tree_read(&root, &w->arena, raw, strlen(raw), &why);
    if (code == ERR_OK && root->type == TREE_OBJECT) {
        buf_add(w->out, root->raw, root->raw_len);
        return ERR_OK;
    }
    return err_set_param(e, ERR_INVALID, "messages", "messages[%d] cannot be written for an upstream: %.120s", i,
                         code == ERR_OK ? "not an object" : why.msg);
}

/* An object without its closing brace. */
static void open_message(struct writer *w, const struct msg_message *m)
{
    w->begun = false;
    buf_addc(w->out, '{');
    put_text(w, "role", m->role ? m->role : "user");
    put_text(w, "content", m->content);
    if (m->reasoning) put_text(w, "reasoning_content", m->reasoning);
    if (m->name) put_text(w, "name", m->name);
    if (m->tool_call_id) put_text(w, "tool_call_id", m->tool_call_id);
}

static enum err_code put_messages(struct writer *w, const struct msg_submit *submit, struct err *e)
{
    name(w, "messages");
    buf_addc(w->out, '[');
    for (int i = 0; i < submit->message_count; i++) {
        const struct msg_message *m = &submit->messages[i];
        if (i) buf_addc(w->out, ',');
        if (m->raw_json) {
            enum err_code code = put_raw_message(w, m->raw_json, i, e);
            if (code != ERR_OK) return code;
            continue;
        }
        open_message(w, m);
        buf_addc(w->out, '}');
    }
    if (submit->prefix_count > 0) {
        const struct msg_prefix *prefix = &submit->prefixes[0];
        if (submit->message_count) buf_addc(w->out, ',');
        open_message(w, &(struct msg_message){.role = "assistant", .content = prefix->content ? prefix->content : "",
                                              .reasoning = prefix->reasoning});
        put_word(w, "prefix", "true");
        buf_addc(w->out, '}');
    }
    buf_addc(w->out, ']');
    w->begun = true;
    if (submit->prefix_count == 0) return ERR_OK;
    /* Three servers, three ways to say "go on from here": DeepSeek's `prefix` above, vLLM's two flags, and llama.cpp's
     * server, which goes on from a last assistant message by itself. */
    put_word(w, "continue_final_message", "true");
    put_word(w, "add_generation_prompt", "false");
    return ERR_OK;
}

static void put_prompt(struct writer *w, const struct msg_submit *submit)
{
    const char *prompt = submit->prompt ? submit->prompt : "";
    const char *so_far = submit->prefix_count > 0 ? submit->prefixes[0].content : NULL;
    name(w, "prompt");
    buf_addc(w->out, '"');
    openai_write_inside(w->out, prompt, strlen(prompt));
    if (so_far) openai_write_inside(w->out, so_far, strlen(so_far));
    buf_addc(w->out, '"');
}

/* ---- parameters ---- */

static void put_stops_and_bias(struct writer *w, const struct msg_params *params)
{
    if (params->stop_count > 0) {
        name(w, "stop");
        for (int i = 0; i < params->stop_count; i++) {
            buf_addc(w->out, i ? ',' : '[');
            openai_write_string(w->out, params->stop[i]);
        }
        buf_addc(w->out, ']');
    }
    if (params->bias_count > 0) {
        name(w, "logit_bias");
        for (int i = 0; i < params->bias_count; i++) {
            buf_adds(w->out, i ? ",\"" : "{\"");
            openai_write_int(w->out, params->bias[i].id);
            buf_adds(w->out, "\":");
            openai_write_fixed(w->out, params->bias[i].bias, 9);
        }
        buf_addc(w->out, '}');
    }
}

/* What is left of max_tokens when another backend already spent some of it. */
static int64_t tokens_left(const struct msg_submit *submit)
{
    int64_t spent = submit->prefix_count > 0 ? submit->prefixes[0].token_count : 0;
    return submit->params.max_tokens > spent ? submit->params.max_tokens - spent : 1;
}

static void put_params(struct writer *w, const struct msg_submit *submit)
{
    const struct msg_params *params = &submit->params;
    put_number(w, params, PARAM_TEMPERATURE, "temperature", params->temperature);
    put_number(w, params, PARAM_TOP_P, "top_p", params->top_p);
    put_number(w, params, PARAM_MIN_P, "min_p", params->min_p);
    put_number(w, params, PARAM_TYPICAL_P, "typical_p", params->typical_p);
    put_number(w, params, PARAM_PRESENCE, "presence_penalty", params->presence_penalty);
    put_number(w, params, PARAM_FREQUENCY, "frequency_penalty", params->frequency_penalty);
    put_number(w, params, PARAM_REPEAT_PENALTY, either(w, "repeat_penalty", "repetition_penalty"),
               params->repeat_penalty);
    if (params->given & PARAM_TOP_K) put_int(w, "top_k", params->top_k);
    if (params->given & PARAM_SEED) put_int(w, "seed", (int64_t)params->seed);
    if (params->given & PARAM_MAX_TOKENS)
        put_int(w, either(w, "max_tokens", "max_completion_tokens"), tokens_left(submit));
    if (params->n > 1) put_int(w, "n", params->n);
    if (params->ignore_eos) put_word(w, "ignore_eos", "true");
    if (params->logprobs && submit->completion) {
        put_int(w, "logprobs", params->top_logprobs);
    } else if (params->logprobs) {
        put_word(w, "logprobs", "true");
        put_int(w, "top_logprobs", params->top_logprobs);
    }
    put_stops_and_bias(w, params);
}

static bool is_ours(const char *key)
{
    for (size_t i = 0; i < sizeof OURS / sizeof *OURS; i++)
        if (strcmp(OURS[i], key) == 0) return true;
    return false;
}

static void put_extra(struct writer *w)
{
    for (const struct tree *m = w->extra ? w->extra->first : NULL; m; m = m->next) {
        if (is_ours(m->key)) continue;
        buf_addc(w->out, ',');
        buf_add(w->out, m->key_raw, m->key_raw_len);
        buf_addc(w->out, ':');
        buf_add(w->out, m->raw, m->raw_len);
    }
}

static enum err_code read_extra(struct writer *w, const char *text, struct err *e)
{
    struct tree *root = NULL;
    if (!text) return ERR_OK;
    enum err_code code = tree_read(&root, &w->arena, text, strlen(text), e);
    if (code == ERR_OK && root->type != TREE_OBJECT) code = err_set(e, ERR_SYNTAX, "the extra fields are not an object");
    if (code == ERR_OK) w->extra = root;
    return code;
}

enum err_code openai_upstream_body(const struct msg_submit *submit, const char *model, bool stream, struct buf *out,
                                   struct err *e)
{
    if (submit->prefix_count > 1)
        return err_set(e, ERR_UNSUPPORTED, "an upstream cannot go on with %d choices at once", submit->prefix_count);
    struct writer w = {.out = out};
    arena_init(&w.arena, 4 * (size_t)MSG_BYTES_MAX);
    enum err_code code = read_extra(&w, submit->extra_json, e);
    if (code != ERR_OK) goto done;
    buf_addc(out, '{');
    put_text(&w, "model", model);
    if (submit->completion) {
        put_prompt(&w, submit);
    } else {
        code = put_messages(&w, submit, e);
        if (code != ERR_OK) goto done;
    }
    put_params(&w, submit);
    put_word(&w, "stream", stream ? "true" : "false");
    if (stream) put_word(&w, "stream_options", "{\"include_usage\":true}");
    put_extra(&w);
    buf_addc(out, '}');
    code = out->failed;
    if (code != ERR_OK) err_set(e, code, "the upstream's body would be larger than %zu bytes", out->max);
done:
    arena_release(&w.arena);
    return code;
}
