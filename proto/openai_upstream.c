/* A submit into the body an upstream gets. The client's unknown fields are the base, ours are laid over them. */
#include "proto/openai.h"
#include "proto/openai_json.h"

#include <string.h>

/* jansson's setters take NULL for "out of memory", so one flag gathers every failure. */
struct writer {
    json_t *root;
    bool failed;
};

static void put(struct writer *w, const char *key, json_t *value)
{
    if (json_object_set_new(w->root, key, value) != 0) w->failed = true;
}

static void put_number(struct writer *w, const struct msg_params *params, uint32_t bit, const char *key, double value)
{
    if (params->given & bit) put(w, key, json_real(value));
}

/* The name the client used, where it is one of two. */
static const char *either(const struct writer *w, const char *first, const char *second)
{
    return json_object_get(w->root, second) ? second : first;
}

static json_t *message_object(const struct msg_message *m)
{
    json_t *object = NULL;
    if (m->raw_json) {
        if (openai_json_object(&object, m->raw_json, strlen(m->raw_json), NULL) != ERR_OK) return NULL;
        return object;
    }
    object = json_object();
    struct writer w = {object, false};
    put(&w, "role", json_string(m->role ? m->role : "user"));
    put(&w, "content", m->content ? json_string(m->content) : json_null());
    if (m->reasoning) put(&w, "reasoning_content", json_string(m->reasoning));
    if (m->name) put(&w, "name", json_string(m->name));
    if (m->tool_call_id) put(&w, "tool_call_id", json_string(m->tool_call_id));
    if (!w.failed) return object;
    json_decref(object);
    return NULL;
}

/* Three servers, three ways to say "go on from here": DeepSeek's `prefix`, vLLM's two flags, and llama.cpp's server,
 * which goes on from a last assistant message by itself. */
static void put_prefix(struct writer *w, json_t *messages, const struct msg_prefix *prefix)
{
    struct msg_message so_far = {.role = "assistant", .content = prefix->content ? prefix->content : "",
                                 .reasoning = prefix->reasoning};
    json_t *message = message_object(&so_far);
    if (json_object_set_new(message, "prefix", json_true()) != 0) w->failed = true;
    if (json_array_append_new(messages, message) != 0) w->failed = true;
    put(w, "continue_final_message", json_true());
    put(w, "add_generation_prompt", json_false());
}

static enum err_code put_messages(struct writer *w, const struct msg_submit *submit, struct err *e)
{
    json_t *messages = json_array();
    for (int i = 0; i < submit->message_count; i++) {
        json_t *message = message_object(&submit->messages[i]);
        if (!message) {
            json_decref(messages);
            return err_set_param(e, ERR_INVALID, "messages", "messages[%d] cannot be written for an upstream", i);
        }
        if (json_array_append_new(messages, message) != 0) w->failed = true;
    }
    if (submit->prefix_count > 0) put_prefix(w, messages, &submit->prefixes[0]);
    put(w, "messages", messages);
    return ERR_OK;
}

static void put_prompt(struct writer *w, const struct msg_submit *submit)
{
    const char *so_far = submit->prefix_count > 0 ? submit->prefixes[0].content : NULL;
    struct buf text = BUF_INIT(2 * (size_t)MSG_BYTES_MAX);
    buf_adds(&text, submit->prompt ? submit->prompt : "");
    buf_adds(&text, so_far ? so_far : "");
    put(w, "prompt", buf_ok(&text) ? json_stringn(text.data, text.len) : NULL);
    buf_release(&text);
}

static void put_stops_and_bias(struct writer *w, const struct msg_params *params)
{
    if (params->stop_count > 0) {
        json_t *stops = json_array();
        for (int i = 0; i < params->stop_count; i++)
            if (json_array_append_new(stops, json_string(params->stop[i])) != 0) w->failed = true;
        put(w, "stop", stops);
    }
    if (params->bias_count > 0) {
        json_t *bias = json_object();
        for (int i = 0; i < params->bias_count; i++) {
            struct buf id = BUF_INIT(16);
            buf_addf(&id, "%d", params->bias[i].id);
            if (json_object_set_new(bias, id.data, json_real(params->bias[i].bias)) != 0) w->failed = true;
            buf_release(&id);
        }
        put(w, "logit_bias", bias);
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
    if (params->given & PARAM_TOP_K) put(w, "top_k", json_integer(params->top_k));
    if (params->given & PARAM_SEED) put(w, "seed", json_integer((json_int_t)params->seed));
    if (params->given & PARAM_MAX_TOKENS)
        put(w, either(w, "max_tokens", "max_completion_tokens"), json_integer(tokens_left(submit)));
    if (params->n > 1) put(w, "n", json_integer(params->n));
    if (params->ignore_eos) put(w, "ignore_eos", json_true());
    if (params->logprobs && submit->completion) {
        put(w, "logprobs", json_integer(params->top_logprobs));
    } else if (params->logprobs) {
        put(w, "logprobs", json_true());
        put(w, "top_logprobs", json_integer(params->top_logprobs));
    }
    put_stops_and_bias(w, params);
}

enum err_code openai_upstream_body(const struct msg_submit *submit, const char *model, bool stream, struct buf *out,
                                   struct err *e)
{
    if (submit->prefix_count > 1)
        return err_set(e, ERR_UNSUPPORTED, "an upstream cannot go on with %d choices at once", submit->prefix_count);
    struct writer w = {NULL, false};
    enum err_code code = ERR_OK;
    if (submit->extra_json) {
        code = openai_json_object(&w.root, submit->extra_json, strlen(submit->extra_json), e);
    } else if (!(w.root = json_object())) {
        code = ERR_MEMORY;
    }
    if (code != ERR_OK) goto done;
    put(&w, "model", json_string(model));
    if (submit->completion) {
        put_prompt(&w, submit);
    } else {
        code = put_messages(&w, submit, e);
        if (code != ERR_OK) goto done;
    }
    put_params(&w, submit);
    put(&w, "stream", json_boolean(stream));
    if (stream) put(&w, "stream_options", json_pack("{s:b}", "include_usage", 1));
    if (w.failed) {
        code = err_set(e, ERR_MEMORY, "a body for the upstream cannot be made: a text is not UTF-8, or memory is out");
        goto done;
    }
    code = openai_json_dump(out, w.root);
    if (code != ERR_OK) err_set(e, code, "the upstream's body would be larger than %zu bytes", out->max);
done:
    json_decref(w.root);
    return code;
}
