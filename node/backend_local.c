/* The engine in this process as a backend. The engine calls back on its own thread; each event is copied and posted to
 * the loop, where the rest happens. The model is read on a thread of its own, so that a node is up before it. Prompts of
 * more than PREPARE_INLINE bytes are rendered and tokenized off the loop. */
#include "node/gpu.h"
#include "node/grammar.h"
#include "node/local_engine.h"
#include "node/local_prompt.h"
#include "node/local_warm.h"
#include "node/node.h"

#include "base/clock.h"
#include "base/textlog.h"
#include "engine/engine.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PREPARE_INLINE = 64 << 10,
       FIRST_TOKEN_MS = 60000, STALL_MS = 20000 /* an engine that says nothing for so long hangs */ };

struct local {
    struct node *node;
    const struct config_backend *config;
    struct backend backend;
    struct engine *engine;
    struct engine_info info;
    char identity[128], model[BACKEND_WORD], device[120];
    struct local_call *calls;
    struct grammar_vocabulary *vocabulary; /* NULL: the model cannot be held to JSON */
    struct local_grammar *grammars;
    pthread_t loader;
    bool loading, closed;
    atomic_bool closing; /* read by the engine's threads */
    atomic_int preparing; /* threads that read the engine now */
    atomic_int pending;  /* events, loads and prepared prompts still on their way to the loop */
    struct err trouble;
};

/* What a call's choices are held to. The engine reads it until the last of them has ended there, even where the call is
 * gone before. */
struct local_grammar {
    struct local_grammar *next;
    uint64_t call;
    int holders; /* choices in the engine, and the call */
    struct grammar *grammar;
    struct grammar_choice choices[MSG_CHOICES_MAX];
    struct engine_constraint constraints[MSG_CHOICES_MAX];
};

struct local_choice {
    bool running, reasoning;
    int prefix_count;
    int64_t next_index;
    const char *finish;
};
struct local_call {
    struct local_call *next, **prev;
    struct local *local;
    uint64_t id;
    struct sink sink;
    struct msg_submit submit; /* only params and flags are used; pointers are gone after submit() */
    struct local_choice choices[MSG_CHOICES_MAX];
    struct local_grammar *grammar; /* NULL: free text */
    int choice_count, running;
    bool started;
    int64_t prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens;
    double queue_ms, prefill_ms;
    int64_t start_us;
};

/* ---- from the engine's thread to the loop ---- */

enum event_kind { EVENT_PREFILL, EVENT_TOKEN, EVENT_DONE, EVENT_ERROR };
struct event {
    enum event_kind kind;
    uint64_t id; /* call × MSG_CHOICES_MAX + choice */
    struct engine_token token;
    struct engine_prefill prefill;
    struct engine_end end;
    struct err error;
    char data[]; /* bytes, text, alternatives or the hidden state */
};

static void on_event(void *ctx, void *arg);

static void local_post(struct local *local, void (*fn)(void *ctx, void *arg), void *arg)
{
    atomic_fetch_add(&local->pending, 1);
    while (!loop_post(local->node->loop, fn, local, arg)) {
        if (atomic_load(&local->closing)) { /* the loop has stopped taking: nobody waits for this any more */
            atomic_fetch_sub(&local->pending, 1);
            free(arg);
            return;
        }
        (void)usleep(1000);
    }
}

static struct event *event_new(enum event_kind kind, uint64_t id, size_t extra)
{
    struct event *event = malloc(sizeof *event + extra);
    if (!event) abort(); /* a lost end would leave a client waiting for ever */
    event->kind = kind;
    event->id = id;
    return event;
}

static void engine_on_prefill(void *ctx, uint64_t id, const struct engine_prefill *prefill)
{
    size_t bytes = prefill->hidden ? (size_t)prefill->embedding * sizeof(float) : 0;
    struct event *event = event_new(EVENT_PREFILL, id, bytes);
    event->prefill = *prefill;
    if (bytes) {
        memcpy(event->data, prefill->hidden, bytes);
        event->prefill.hidden = (const float *)(const void *)event->data;
    }
    local_post(ctx, on_event, event);
}

static void engine_on_token(void *ctx, uint64_t id, const struct engine_token *token)
{
    size_t tops = (size_t)token->top_count * sizeof *token->top;
    struct event *event = event_new(EVENT_TOKEN, id, tops + token->bytes_len + token->text_len);
    event->token = *token;
    char *p = event->data;
    if (tops) memcpy(p, token->top, tops);
    event->token.top = (const struct engine_alternative *)(const void *)p;
    p += tops;
    if (token->bytes_len) memcpy(p, token->bytes, token->bytes_len);
    event->token.bytes = p;
    p += token->bytes_len;
    if (token->text_len) memcpy(p, token->text, token->text_len);
    event->token.text = p;
    local_post(ctx, on_event, event);
}

static void engine_on_done(void *ctx, uint64_t id, const struct engine_end *end)
{
    struct event *event = event_new(EVENT_DONE, id, end->text_len);
    event->end = *end;
    if (end->text_len) memcpy(event->data, end->text, end->text_len);
    event->end.text = event->data;
    local_post(ctx, on_event, event);
}

static void engine_on_error(void *ctx, uint64_t id, const struct err *error)
{
    struct event *event = event_new(EVENT_ERROR, id, 0);
    event->error = *error;
    local_post(ctx, on_event, event);
}

/* ---- on the loop ---- */

static void maybe_free(struct local *local)
{
    if (local->closed && atomic_load(&local->pending) == 0) free(local);
}

static struct local_call *call_find(struct local *local, uint64_t id)
{
    struct local_call *c = local->calls;
    while (c && c->id != id) c = c->next;
    return c;
}

static void grammar_let_go(struct local *local, uint64_t call)
{
    struct local_grammar **at = &local->grammars;
    while (*at && (*at)->call != call) at = &(*at)->next;
    struct local_grammar *held = *at;
    if (!held || --held->holders > 0) return;
    *at = held->next;
    grammar_free(held->grammar);
    free(held);
}

static void call_free(struct local_call *call)
{
    *call->prev = call->next;
    if (call->next) call->next->prev = call->prev;
    if (call->grammar) grammar_let_go(call->local, call->id);
    free(call);
}

static void call_cancel_choices(struct local_call *call)
{
    for (int i = 0; i < call->choice_count; i++)
        if (call->choices[i].running)
            engine_cancel(call->local->engine, call->id * MSG_CHOICES_MAX + (uint64_t)i);
}

static void call_fail(struct local_call *call, enum err_code code, const char *message)
{
    struct sink sink = call->sink;
    char copy[240];
    (void)snprintf(copy, sizeof copy, "%s", message);
    call_cancel_choices(call);
    call_free(call);
    sink.on_error(sink.ctx, &(struct msg_error){.code = code, .message = copy, .retryable = err_retryable(code)});
}

static void say_start(struct local_call *call)
{
    if (call->started) return;
    call->started = true;
    const struct local *l = call->local;
    const struct msg_start start = {.tier = l->config->tier, .backend = l->backend.name, .model = l->model, .identity = l->identity,
                                    .node = l->node->config->node, .p = {-1, -1, -1}};
    call->sink.on_start(call->sink.ctx, &start);
}

static void tell_prefill(struct local_call *call, const struct engine_prefill *p)
{
    call->prompt_tokens = p->prompt_tokens;
    call->cached_tokens = p->cached_tokens;
    call->queue_ms = p->queue_ms;
    call->prefill_ms = p->prefill_ms;
    if (!call->sink.on_prefill) return;
    const struct sink_prefill said = {p->hidden, p->embedding, (double)p->entropy, (double)p->margin, (double)p->varentropy,
                                      p->prompt_tokens, p->cached_tokens};
    call->sink.on_prefill(call->sink.ctx, &said);
}

static int fill_tops(const struct local *local, const struct engine_token *t, struct msg_top *top, char (*bytes)[256])
{
    int n = t->top_count < MSG_TOP_MAX ? t->top_count : MSG_TOP_MAX;
    for (int i = 0; i < n; i++) {
        size_t len = engine_token_bytes(local->engine, t->top[i].id, true, bytes[i], sizeof bytes[i]);
        top[i] = (struct msg_top){bytes[i], len < sizeof bytes[i] ? len : sizeof bytes[i], (double)t->top[i].logprob};
    }
    return n;
}

static void tell_token(struct local_call *call, int index, const struct engine_token *t)
{
    struct local *l = call->local;
    struct local_choice *c = &call->choices[index];
    struct msg_top top[MSG_TOP_MAX];
    char top_bytes[MSG_TOP_MAX][256];
    bool marker = t->id >= 0 && (t->id == l->info.think_open || t->id == l->info.think_close);
    if (t->id >= 0 && t->id == l->info.think_open) c->reasoning = true;
    int32_t id = t->id;
    const struct msg_token said = {
        .choice = index,
        .index = t->index,
        .channel = c->reasoning ? CHANNEL_REASONING : CHANNEL_CONTENT,
        .tokens = &id,
        .token_count = 1,
        .text = marker ? "" : t->text,
        .text_len = marker ? 0 : t->text_len,
        .bytes = t->bytes,
        .bytes_len = marker ? 0 : t->bytes_len,
        .has_logprob = call->submit.params.logprobs && !marker,
        .logprob = (double)t->logprob,
        .entropy = (double)t->entropy,
        .margin = (double)t->margin,
        .varentropy = (double)t->varentropy,
        .top = top,
        .top_count = fill_tops(l, t, top, top_bytes),
    };
    call->completion_tokens++;
    if (c->reasoning) call->reasoning_tokens++;
    c->next_index = t->index + 1;
    if (t->id >= 0 && t->id == l->info.think_close) c->reasoning = false;
    call->sink.on_token(call->sink.ctx, &said);
}

static void finish(struct local_call *call)
{
    const struct local *l = call->local;
    struct sink sink = call->sink;
    struct msg_done done = {.choices = call->choice_count, .prompt_tokens = call->prompt_tokens, .cached_tokens = call->cached_tokens,
                            .completion_tokens = call->completion_tokens, .reasoning_tokens = call->reasoning_tokens,
                            .queue_ms = call->queue_ms, .prefill_ms = call->prefill_ms, .model = l->model, .identity = l->identity,
                            .backend = l->backend.name, .tier = l->config->tier,
                            .total_ms = (double)(clock_mono_us() - call->start_us) / 1000};
    for (int i = 0; i < call->choice_count; i++) done.finish[i] = call->choices[i].finish;
    call_free(call);
    sink.on_done(sink.ctx, &done);
}

static void tell_done(struct local_call *call, int index, const struct engine_end *end)
{
    struct local_choice *c = &call->choices[index];
    struct local *local = call->local;
    uint64_t id = call->id;
    if (end->prompt_tokens) call->prompt_tokens = end->prompt_tokens;
    c->finish = end->finish == ENGINE_FINISH_LENGTH ? "length" : "stop";
    c->running = false;
    call->running--;
    if (end->text_len) {
        const struct msg_token rest = {.choice = index, .index = c->next_index, .text = end->text, .text_len = end->text_len,
                                       .channel = c->reasoning ? CHANNEL_REASONING : CHANNEL_CONTENT};
        call->sink.on_token(call->sink.ctx, &rest);
    }
    call = call_find(local, id); /* the sink may have cancelled it */
    if (call && call->running == 0) finish(call);
}

static void on_event(void *ctx, void *arg)
{
    struct local *local = ctx;
    struct event *event = arg;
    atomic_fetch_sub(&local->pending, 1);
    uint64_t id = event->id / MSG_CHOICES_MAX;
    int index = (int)(event->id % MSG_CHOICES_MAX);
    struct local_call *call = local->closed ? NULL : call_find(local, id);
    if (call && event->kind != EVENT_ERROR) say_start(call);
    if (call) call = call_find(local, id);
    if (event->kind == EVENT_DONE || event->kind == EVENT_ERROR) grammar_let_go(local, id);
    if (call) {
        switch (event->kind) {
        case EVENT_PREFILL: if (index == 0) tell_prefill(call, &event->prefill); break;
        case EVENT_TOKEN: tell_token(call, index, &event->token); break;
        case EVENT_DONE: tell_done(call, index, &event->end); break;
        case EVENT_ERROR: call->choices[index].running = false; call_fail(call, event->error.code, event->error.msg); break;
        }
    }
    free(event);
    maybe_free(local);
}

static bool ends_thinking(const struct local *local, const int32_t *tokens, int count)
{
    for (int i = count - 1; i >= 0 && i > count - 16; i--) {
        if (tokens[i] == local->info.think_close) return false;
        if (tokens[i] == local->info.think_open && tokens[i] >= 0) return true;
    }
    return false;
}

/* ---- submitting ---- */

/* What a response_format asks for, for all choices of a call. */
static enum err_code grammar_hold(struct local_call *call, const struct msg_submit *s, struct err *e)
{
    struct local *local = call->local;
    struct grammar *grammar = NULL;
    if (!s->has_json_format) return ERR_OK;
    if (!local->vocabulary) return err_set_param(e, ERR_UNSUPPORTED, "response_format", "model %s cannot be held to JSON", local->model);
    enum err_code code = grammar_new(&grammar, local->vocabulary, s->extra_json, e);
    if (code != ERR_OK || !grammar) return code;
    struct local_grammar *held = calloc(1, sizeof *held);
    if (!held) {
        grammar_free(grammar);
        return err_set(e, ERR_MEMORY, "no memory for a grammar");
    }
    *held = (struct local_grammar){.next = local->grammars, .call = call->id, .holders = 1, .grammar = grammar};
    local->grammars = call->grammar = held;
    return ERR_OK;
}

/* `said`: what another model has said already as text, which the prompt ends with. */
static enum err_code hold_to_grammar(struct local_call *call, int index, struct engine_request *r, const struct msg_prefix *said,
                                     bool thinking, struct err *e)
{
    struct local_grammar *held = call->grammar;
    struct grammar_choice *choice = &held->choices[index];
    grammar_choice_init(choice, held->grammar, thinking);
    if (said && said->content && !grammar_choice_feed(choice, said->content, strlen(said->content)))
        return err_set_param(e, ERR_UNSUPPORTED, "response_format", "the answer so far, by another model, does not fit response_format");
    held->constraints[index] = grammar_constraint(choice);
    r->constraint = &held->constraints[index];
    return ERR_OK;
}

static enum err_code submit_choice(struct local_call *call, int index, struct prompt *p, const struct msg_submit *s,
                                   struct engine_request *r, struct err *e)
{
    struct local *local = call->local;
    struct local_choice *c = &call->choices[index];
    const struct msg_prefix *prefix = index < s->prefix_count ? &s->prefixes[index] : NULL;
    if (prefix && prefix->finished) {
        c->finish = "stop";
        return ERR_OK;
    }
    int32_t *text_tokens = NULL, *prompt = p->tokens, *joined = NULL;
    int text_count = 0;
    enum err_code code = ERR_OK;
    r->prompt_count = p->count;
    r->prefix = NULL;
    r->prefix_count = 0;
    if (prefix && prefix->token_count > 0 && s->prefix_identity && strcmp(s->prefix_identity, local->identity) == 0) {
        r->prefix = prefix->tokens;
        r->prefix_count = prefix->token_count;
    } else if (prefix && ((prefix->content && prefix->content[0]) || (prefix->reasoning && prefix->reasoning[0]))) {
        code = prompt_text_prefix(p, prefix, &text_tokens, &text_count);
        if (code != ERR_OK) return err_set(e, code, "%s", p->error.msg);
        joined = malloc((size_t)(p->count + text_count) * sizeof *joined);
        if (joined) {
            memcpy(joined, p->tokens, (size_t)p->count * sizeof *joined);
            memcpy(joined + p->count, text_tokens, (size_t)text_count * sizeof *joined);
            prompt = joined;
            r->prompt_count = p->count + text_count;
        }
        free(text_tokens);
        if (!joined) return err_set(e, ERR_MEMORY, "no memory for a prompt of %d tokens", p->count + text_count);
    }
    r->prompt = prompt;
    r->choice = index;
    r->want_hidden = index == 0 && local->config->tier == TIER_EDGE;
    bool thinking = joined ? !(prefix->content && prefix->content[0]) : ends_thinking(local, prompt, r->prompt_count);
    c->reasoning = thinking;
    for (int i = 0; i < r->prefix_count; i++) {
        if (r->prefix[i] == local->info.think_open) c->reasoning = true;
        if (r->prefix[i] == local->info.think_close) c->reasoning = false;
    }
    c->prefix_count = r->prefix_count;
    c->next_index = r->prefix_count;
    if (code == ERR_OK && call->grammar) code = hold_to_grammar(call, index, r, joined ? prefix : NULL, thinking, e);
    if (code != ERR_OK) {
        free(joined);
        return code;
    }
    const struct engine_sink sink = {local, engine_on_prefill, engine_on_token, engine_on_done, engine_on_error};
    code = engine_submit(local->engine, call->id * MSG_CHOICES_MAX + (uint64_t)index, r, &sink, e);
    free(joined);
    if (code != ERR_OK) return code;
    if (call->grammar) call->grammar->holders++;
    c->running = true;
    call->running++;
    return ERR_OK;
}

static enum err_code submit_all(struct local_call *call, struct prompt *p, const struct msg_submit *s, struct err *e)
{
    struct engine_bias bias[MSG_BIAS_MAX];
    struct engine_request r;
    prompt_request(s, &r, bias);
    enum err_code code = ERR_OK;
    for (int i = 0; i < call->choice_count && code == ERR_OK; i++) code = submit_choice(call, i, p, s, &r, e);
    if (code == ERR_OK && call->running == 0) return err_set(e, ERR_INVALID, "every choice had ended already");
    return code;
}

static void on_prepared(void *ctx, void *arg)
{
    struct local *local = ctx;
    struct prompt *p = arg;
    atomic_fetch_sub(&local->pending, 1);
    struct local_call *call = local->closed ? NULL : call_find(local, p->call);
    if (call) {
        struct err e = p->error;
        enum err_code code = p->code;
        if (code == ERR_OK) code = submit_all(call, p, &p->submit, &e);
        if (code != ERR_OK) call_fail(call, code, e.msg);
    }
    prompt_free(p);
    maybe_free(local);
}

static void *prepare_thread(void *arg)
{
    struct prompt *p = arg;
    struct local *local = p->owner;
    prompt_make(p);
    atomic_fetch_sub(&local->preparing, 1);
    while (!loop_post(local->node->loop, on_prepared, local, p)) (void)usleep(1000);
    return NULL;
}

static enum err_code prepare_off_loop(struct local *local, struct prompt *p, const struct msg_submit *s, struct err *e)
{
    pthread_t thread;
    if (!prompt_own(p, s)) return err_set(e, ERR_MEMORY, "no memory for a prompt of %zu bytes", prompt_bytes(s));
    atomic_fetch_add(&local->pending, 1);
    atomic_fetch_add(&local->preparing, 1);
    if (pthread_create(&thread, NULL, prepare_thread, p) != 0) {
        atomic_fetch_sub(&local->pending, 1);
        atomic_fetch_sub(&local->preparing, 1);
        return err_set(e, ERR_MEMORY, "no thread for a prompt of %zu bytes", prompt_bytes(s));
    }
    (void)pthread_detach(thread);
    return ERR_OK;
}

static enum err_code refuse(const struct local *local, const struct msg_submit *s, struct err *e)
{
    if (!local->engine) return err_set(e, ERR_UNAVAILABLE, "%s", local->backend.trouble);
    if (s->has_parts) return err_set_param(e, ERR_UNSUPPORTED, "messages", "model %s reads text only", local->model);
    if (s->has_tools) return err_set_param(e, ERR_UNSUPPORTED, "tools", "model %s cannot call tools", local->model);
    return ERR_OK;
}

static enum err_code local_submit(struct backend *backend, uint64_t id, const struct msg_submit *submit, const struct sink *sink,
                                  struct err *e)
{
    struct local *local = backend->impl;
    enum err_code code = refuse(local, submit, e);
    if (code != ERR_OK) return code;
    struct local_call *call = calloc(1, sizeof *call);
    struct prompt *p = prompt_new(local->engine, submit);
    if (!call || !p) {
        free(call);
        if (p) prompt_free(p);
        return err_set(e, ERR_MEMORY, "no memory for a call");
    }
    call->local = local;
    call->id = p->call = id;
    p->owner = local;
    call->sink = *sink;
    call->submit.params.logprobs = submit->params.logprobs;
    call->start_us = clock_mono_us();
    call->choice_count = submit->params.n > 1 ? (int)submit->params.n : 1;
    if (call->choice_count > MSG_CHOICES_MAX) call->choice_count = MSG_CHOICES_MAX;
    call->next = local->calls;
    call->prev = &local->calls;
    if (local->calls) local->calls->prev = &call->next;
    local->calls = call;
    code = grammar_hold(call, submit, e);
    if (code != ERR_OK) {
        /* told below */
    } else if (prompt_bytes(submit) > PREPARE_INLINE) {
        code = prepare_off_loop(local, p, submit, e);
        if (code == ERR_OK) return ERR_OK;
    } else {
        prompt_make(p);
        code = p->code == ERR_OK ? submit_all(call, p, submit, e) : err_set(e, p->code, "%s", p->error.msg);
    }
    prompt_free(p);
    if (code == ERR_OK) return ERR_OK;
    call_cancel_choices(call);
    call_free(call);
    return code;
}

static void local_cancel(struct backend *backend, uint64_t id)
{
    struct local_call *call = call_find(backend->impl, id);
    if (!call) return;
    call_cancel_choices(call);
    call_free(call);
}

static void local_free(struct backend *backend)
{
    struct local *local = backend->impl;
    atomic_store(&local->closing, true);
    while (local->calls) local_cancel(backend, local->calls->id);
    if (local->loading) pthread_join(local->loader, NULL);
    while (atomic_load(&local->preparing) > 0) (void)usleep(1000);
    engine_close(local->engine);
    local->engine = NULL;
    for (struct local_grammar *g = local->grammars, *next; g; g = next) {
        next = g->next;
        grammar_free(g->grammar);
        free(g);
    }
    local->grammars = NULL;
    grammar_vocabulary_free(local->vocabulary);
    local->vocabulary = NULL;
    local->closed = true;
    maybe_free(local); /* else when the last event has come out of the loop's queue */
}

static const struct backend_ops LOCAL_OPS = {"local", local_submit, local_cancel, local_free};

static void local_stats(const struct backend *backend, struct engine_stats *out)
{
    const struct local *local = backend->impl;
    engine_stats(local->engine, out);
}

/* ---- opening ---- */

static void on_warming(void *ctx, void *arg)
{
    struct local *local = ctx;
    (void)arg;
    atomic_fetch_sub(&local->pending, 1);
    local->backend.health = BACKEND_WARMING;
    (void)snprintf(local->backend.trouble, sizeof local->backend.trouble, "its engine warms up");
    maybe_free(local);
}

static void on_opened(void *ctx, void *arg)
{
    (void)arg;
    struct local *local = ctx;
    struct engine_stats stats;
    atomic_fetch_sub(&local->pending, 1);
    if (local->closed) {
        maybe_free(local);
        return;
    }
    pthread_join(local->loader, NULL);
    local->loading = false;
    struct backend *b = &local->backend;
    if (!local->engine) {
        b->health = BACKEND_DOWN;
        (void)snprintf(b->trouble, sizeof b->trouble, "%.159s", local->trouble.msg);
        textlog(TEXTLOG_ERROR, "model_failed", "backend=%s why=\"%s\"", b->name, b->trouble);
        return;
    }
    engine_info(local->engine, &local->info);
    const char *name = local->config->model ? local->config->model : local->info.name;
    (void)snprintf(local->model, sizeof local->model, "%s", name);
    local_engine_identity(local->config, &local->info, local->identity, sizeof local->identity);
    local_engine_device(&local->info, local->device, sizeof local->device);
    b->models[0] = (struct msg_model){.name = local->model, .identity = local->identity, .context_tokens = local->info.context_tokens,
                                      .device = local->device,
                                      .tier = local->config->tier, .price_input_usd = local->config->price.input_usd,
                                      .price_output_usd = local->config->price.output_usd,
                                      .price_reasoning_usd = local->config->price.reasoning_usd, .can_prefix = true,
                                      .can_json = local->vocabulary != NULL};
    if (!local->vocabulary) textlog(TEXTLOG_WARN, "no_json", "backend=%s why=\"%s\"", b->name, local->trouble.msg);
    b->model_count = 1;
    b->stats = local_stats;
    local_stats(b, &stats);
    b->slots = stats.slots_max;
    b->device_note = local->info.device_note;
    if (local->info.device_index >= 0)
        gpu_monitor_watch(local->node->gpus, local->info.device, local->info.device_uuid, local->info.device_index);
    b->health = BACKEND_UP;
    textlog(TEXTLOG_INFO, "model_ready", "backend=%s model=%s kernels=%s device=\"%s\" slots=%d bytes=%lld", b->name, local->model,
            local->info.kernels, local->device, b->slots, (long long)local->info.bytes);
    if (local->info.draft[0])
        textlog(TEXTLOG_INFO, "draft_ready", "backend=%s model=%s kernels=%s", b->name, local->info.draft, local->info.draft_kernels);
    if (b->device_note[0]) textlog(TEXTLOG_INFO, "no_gpu", "backend=%s why=\"%s\"", b->name, b->device_note);
    request_wake(local->node);
}

/* An engine whose first generations fail is none. */
static void warm(struct local *local)
{
    struct err e = {0};
    local_post(local, on_warming, NULL);
    enum err_code code = local_warm(local->engine, local->config->prefill_tokens, &local->closing, &e);
    if (!code) return;
    err_set(&local->trouble, code, "warming up failed: %s", e.msg);
    engine_close(local->engine);
    local->engine = NULL;
}

static void *load_thread(void *arg)
{
    struct local *local = arg;
    const struct engine_options options = local_engine_options(local->config);
    if (engine_open(&local->engine, &options, &local->trouble) != ERR_OK) local->engine = NULL;
    else if (grammar_vocabulary_of(&local->vocabulary, local->engine, &local->trouble) != ERR_OK) local->vocabulary = NULL;
    if (local->engine && local->node->config->warm) warm(local);
    local_post(local, on_opened, NULL);
    return NULL;
}

enum err_code backend_local_new(struct backend **out, struct node *node, const struct config_backend *config, struct err *e)
{
    struct local *local = calloc(1, sizeof *local);
    if (!local) return err_set(e, ERR_MEMORY, "no memory for backend %s", config->name);
    local->node = node;
    local->config = config;
    struct backend *b = &local->backend;
    b->ops = &LOCAL_OPS;
    b->impl = local;
    (void)snprintf(b->name, sizeof b->name, "%s", config->name);
    b->slots = config->slots;
    b->order = config->order;
    b->weight = config->weight;
    b->first_token_ms = config->first_token_ms > 0 ? config->first_token_ms : FIRST_TOKEN_MS;
    b->stall_ms = config->stall_ms > 0 ? config->stall_ms : STALL_MS;
    b->health = BACKEND_STARTING;
    (void)snprintf(b->trouble, sizeof b->trouble, "the model is being read");
    /* Known from the first moment on, so that the tier counts as configured while the model is read. */
    b->models[0] = (struct msg_model){.name = config->model ? config->model : b->name, .tier = config->tier};
    b->model_count = 1;
    if (!config->model_file) {
        b->health = BACKEND_DOWN;
        (void)snprintf(b->trouble, sizeof b->trouble, "no model_file is configured");
    } else if (pthread_create(&local->loader, NULL, load_thread, local) == 0) {
        local->loading = true;
    } else {
        free(local);
        return err_set(e, ERR_MEMORY, "no thread to read the model of backend %s", config->name);
    }
    *out = b;
    return ERR_OK;
}
