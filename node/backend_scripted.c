/* A backend that says what its configuration tells it to: for tests of the request path and for benches of all that is
 * around a model. One word a token, all at once or `script_delay_ms` apart; it can fail after so many. */
#include "node/node.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

struct script_call {
    struct script_call *next, **prev;
    struct script *script;
    uint64_t id;
    struct sink sink;
    struct loop_timer timer;
    char request[64];
    const char *at; /* the rest of the text */
    int64_t index, first_index, start_us; /* first_index: where it went on from */
    bool started;
};
struct script {
    struct node *node;
    struct backend backend;
    const struct config_backend *config;
    struct script_call *calls;
    const char *text;
};

static void call_free(struct script_call *call)
{
    loop_timer_stop(call->script->node->loop, &call->timer);
    *call->prev = call->next;
    if (call->next) call->next->prev = call->prev;
    free(call);
}

static void fail(struct script_call *call)
{
    struct sink sink = call->sink;
    const struct msg_error error = {.code = ERR_UPSTREAM, .message = "the script says to fail here", .retryable = true};
    call_free(call);
    sink.on_error(sink.ctx, &error);
}

static void finish(struct script_call *call)
{
    struct sink sink = call->sink;
    const struct script *s = call->script;
    const struct msg_done done = {.finish = {"stop"}, .choices = 1, .prompt_tokens = 1, .completion_tokens = call->index - call->first_index,
                                  .tier = s->config->tier, .backend = s->backend.name, .model = s->backend.models[0].name,
                                  .total_ms = (double)(clock_mono_us() - call->start_us) / 1000};
    call_free(call);
    sink.on_done(sink.ctx, &done);
}

static void say_start(struct script_call *call)
{
    const struct script *s = call->script;
    const struct msg_start start = {.tier = s->config->tier, .backend = s->backend.name, .model = s->backend.models[0].name,
                                    .identity = s->backend.models[0].identity, .node = s->node->config->node, .p = {-1, -1, -1}};
    call->started = true;
    call->sink.on_start(call->sink.ctx, &start);
}

static bool alive(const struct script *script, uint64_t id)
{
    for (const struct script_call *c = script->calls; c; c = c->next)
        if (c->id == id) return true;
    return false;
}

static void on_turn(void *ctx)
{
    struct script_call *call = ctx;
    struct script *s = call->script;
    uint64_t id = call->id;
    int delay = s->config->script_delay_ms;
    if (!call->started) say_start(call);
    while (alive(s, id)) {
        if (s->config->script_fail_after >= 0 && call->index >= s->config->script_fail_after) {
            fail(call);
            return;
        }
        if (!*call->at) {
            finish(call);
            return;
        }
        size_t n = strcspn(call->at + 1, " ") + 1;
        int32_t token = (int32_t)call->index;
        const struct msg_token said = {.index = call->index, .tokens = &token, .token_count = 1, .text = call->at, .text_len = n,
                                       .bytes = call->at, .bytes_len = n};
        call->at += n;
        call->index++;
        if (delay > 0) loop_timer_start(s->node->loop, &call->timer, delay, on_turn, call);
        call->sink.on_token(call->sink.ctx, &said);
        if (delay > 0) return;
    }
}

static enum err_code script_submit(struct backend *backend, uint64_t id, const struct msg_submit *submit,
                                   const struct sink *sink, struct err *e)
{
    struct script *s = backend->impl;
    struct script_call *call = calloc(1, sizeof *call);
    if (!call) return err_set(e, ERR_MEMORY, "no memory for a call");
    call->script = s;
    call->id = id;
    call->sink = *sink;
    call->at = s->text;
    call->start_us = clock_mono_us();
    if (submit->prefix_count > 0 && submit->prefixes[0].token_count > 0) { /* goes on, word by word */
        for (; call->index < submit->prefixes[0].token_count && *call->at; call->index++)
            call->at += strcspn(call->at + 1, " ") + 1;
        call->first_index = call->index;
    }
    call->next = s->calls;
    call->prev = &s->calls;
    if (s->calls) s->calls->prev = &call->next;
    s->calls = call;
    loop_timer_start(s->node->loop, &call->timer, s->config->script_delay_ms, on_turn, call);
    return ERR_OK;
}

static void script_cancel(struct backend *backend, uint64_t id)
{
    struct script *s = backend->impl;
    for (struct script_call *c = s->calls; c; c = c->next) {
        if (c->id != id) continue;
        call_free(c);
        return;
    }
}

static void script_free(struct backend *backend)
{
    struct script *s = backend->impl;
    while (s->calls) call_free(s->calls);
    free(s);
}

static const struct backend_ops SCRIPT_OPS = {"scripted", script_submit, script_cancel, script_free};

enum err_code backend_scripted_new(struct backend **out, struct node *node, const struct config_backend *config, struct err *e)
{
    struct script *s = calloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_MEMORY, "no memory for backend %s", config->name);
    s->node = node;
    s->config = config;
    s->text = config->script_text && config->script_text[0] ? config->script_text : "ok";
    struct backend *b = &s->backend;
    b->ops = &SCRIPT_OPS;
    b->impl = s;
    (void)snprintf(b->name, sizeof b->name, "%s", config->name);
    b->health = BACKEND_UP;
    b->slots = config->slots;
    b->order = config->order;
    b->weight = config->weight;
    b->models[0] = (struct msg_model){.name = config->model ? config->model : b->name, .identity = "scripted", .tier = config->tier,
                                      .context_tokens = 1 << 20, .can_tools = true, .can_json = true, .can_parts = true,
                                      .can_prefix = true, .price_input_usd = config->price.input_usd,
                                      .price_output_usd = config->price.output_usd,
                                      .price_reasoning_usd = config->price.reasoning_usd};
    b->model_count = 1;
    *out = b;
    return ERR_OK;
}
