/* RUN: one call of one backend, from submit to its end, and failing over to the next. */
#include "node/request.h"

#include "base/clock.h"
#include "base/textlog.h"
#include "base/word.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static bool is_peer(const struct backend *b)
{
    return strcmp(b->ops->type, "peer") == 0;
}

static void copy_word(char out[LOG_WORD], const char *text)
{
    word_copy(out, LOG_WORD, text);
}

/* ---- what a call costs ---- */

static double call_price(const struct call *call, int reasoning)
{
    int output = call->completion_tokens - reasoning;
    return policy_price_usd(&call->price, call->prompt_tokens, output > 0 ? output : 0, reasoning);
}

/* ---- the end of a call ---- */

static void hop_end(struct request *r, const char *outcome, const char *error, double price_usd)
{
    struct call *call = &r->call;
    int64_t now = clock_mono_us();
    r->price_usd += price_usd;
    if (r->hop_count == MSG_HOPS_MAX) return;
    struct log_hop *hop = &r->hops[r->hop_count];
    *hop = (struct log_hop){.index = r->hop_count, .wall_ms = r->wall_ms + (call->start_us - r->start_us) / 1000, .tier = call->tier,
                            .completion_tokens = call->completion_tokens, .prompt_tokens = call->prompt_tokens,
                            .total_ms = (double)(now - call->start_us) / 1000, .price_usd = price_usd};
    if (call->first_us) hop->ttft_ms = (double)(call->first_us - call->start_us) / 1000;
    copy_word(hop->backend, call->backend_name);
    copy_word(hop->model, call->model);
    word_copy(hop->request, sizeof hop->request, r->submit->id);
    word_copy(hop->outcome, sizeof hop->outcome, outcome);
    word_copy(hop->error, sizeof hop->error, error);
    r->hop_count++;
}

static void call_over(struct request *r)
{
    struct backend *b = r->call.backend;
    if (b) b->running--;
    r->call.id = 0;
    r->call.backend = NULL;
    loop_timer_stop(r->node->loop, &r->watch_timer);
    loop_timer_stop(r->node->loop, &r->hold_timer);
}

/* The running call's answer is not good enough: up. `over`: the backend has ended it by itself. */
void request_escalate(struct request *r, enum reason reason, bool over)
{
    struct call *call = &r->call;
    if (!over) call->backend->ops->cancel(call->backend, call->id);
    hop_end(r, "escalated", reason_text(reason), call_price(call, 0));
    call_over(r);
    request_hold_clear(r);
    request_choices_reset(r);
    metrics_add(r->node->metrics, METRIC_ESCALATIONS, 1);
    r->escalated = true;
    r->reason = reason;
    r->floor = (enum tier)(r->tier + 1);
    request_step_soon(r, STEP_DECIDE);
}

void request_call_stop(struct request *r, const char *outcome, const char *error)
{
    struct call *call = &r->call;
    if (!call->id) return;
    call->backend->ops->cancel(call->backend, call->id);
    hop_end(r, outcome, error, call_price(call, 0));
    call_over(r);
}

/* ---- failing over ---- */

/* Back to what was there when the request came in: nothing, or what the node below had already heard. */
static void forget_answer(struct request *r)
{
    request_hold_clear(r);
    request_choices_reset(r);
}

static void remember_error(struct request *r, const struct msg_error *error)
{
    char *message = arena_strdup(&r->arena, error->message ? error->message : err_text(error->code));
    char *param = error->param ? arena_strdup(&r->arena, error->param) : NULL;
    r->last_error = (struct msg_error){.code = error->code, .message = message, .param = param, .retryable = error->retryable};
    r->retry_after_ms = error->retry_after_ms;
}

static bool client_fault(enum err_code code)
{
    return code == ERR_INVALID || code == ERR_SYNTAX || code == ERR_NOT_FOUND || code == ERR_FORBIDDEN ||
           code == ERR_TOO_LARGE || code == ERR_BUDGET;
}

/* The running call failed (or could not begin). Somebody else, if it may be tried elsewhere; else the client is told. */
void request_call_failed(struct request *r, const struct msg_error *error)
{
    struct node *node = r->node;
    struct call *call = &r->call;
    struct backend *backend = call->backend;
    remember_error(r, error);
    backend_outcome(node, backend, error->code, 0, 0, error->retry_after_ms);
    textlog(TEXTLOG_INFO, "call_failed", "request=%s backend=%s code=%s", r->submit->id ? r->submit->id : "", backend->name,
            err_name(error->code));
    hop_end(r, "failed", r->last_error.message, call_price(call, 0));
    call_over(r);
    if (client_fault(error->code) || r->tried_count == TRIED_MAX) {
        request_fail(r, error->code, "%s", r->last_error.message);
        return;
    }
    r->tried[r->tried_count++] = backend;
    if (error->code != ERR_FULL) {
        r->failed_over = true;
        metrics_add(node->metrics, METRIC_FAILOVERS, 1);
    }
    if (!r->shown) forget_answer(r); /* nothing was seen: begin again */
    request_step_soon(r, STEP_DISPATCH);
}

/* ---- the watchdog: a call that says nothing for too long ---- */

static void on_watch(void *ctx)
{
    struct request *r = ctx;
    struct call *call = &r->call;
    if (!call->id) return;
    int limit_ms = call->first_us ? call->backend->stall_ms : call->backend->first_token_ms;
    if (limit_ms <= 0) limit_ms = 1000; /* looked at again: the other limit may hold later */
    int64_t since = call->last_us ? call->last_us : call->start_us;
    int64_t left_ms = limit_ms - (clock_mono_us() - since) / 1000;
    bool bounded = call->first_us ? call->backend->stall_ms > 0 : call->backend->first_token_ms > 0;
    if (left_ms > 0 || !bounded) {
        loop_timer_start(r->node->loop, &r->watch_timer, left_ms > 0 ? left_ms : 1000, on_watch, r);
        return;
    }
    char message[160];
    (void)snprintf(message, sizeof message, "backend %s said nothing for %d ms", call->backend->name, limit_ms);
    call->backend->ops->cancel(call->backend, call->id);
    request_call_failed(r, &(struct msg_error){.code = ERR_TIMEOUT, .message = message, .retryable = true});
}

/* ---- what the backend tells ---- */

static void on_start(void *ctx, const struct msg_start *start)
{
    struct call *call = ctx;
    struct request *r = call->request;
    bool peer = is_peer(call->backend);
    call->started = true;
    if ((unsigned)start->tier < TIERS) call->tier = start->tier;
    if (peer) {
        copy_word(call->backend_name, start->backend);
        if (start->tier != r->tier && start->reason) {
            /* The node above decided on another tier, and knows why. */
            for (int i = 0; i < REASONS; i++)
                if (strcmp(reason_name((enum reason)i), start->reason) == 0) r->reason = (enum reason)i;
        }
        if (start->degraded) r->degraded = true;
        for (int i = 0; i < TIERS; i++)
            if (!r->scores.known[i] && start->p[i] >= 0) r->decision.p[i] = start->p[i];
    }
    if (start->model && start->model[0]) copy_word(call->model, start->model);
    if (start->identity) word_copy(call->identity, sizeof call->identity, start->identity);
    if (r->first_tier == TIER_NONE || !r->shown) {
        r->first_tier = call->tier;
        copy_word(r->first_model, call->model);
        copy_word(r->first_backend, call->backend_name);
    }
}

static void on_prefill(void *ctx, const struct sink_prefill *prefill)
{
    struct call *call = ctx;
    struct request *r = call->request;
    call->last_us = clock_mono_us();
    call->prompt_tokens = (int)prefill->prompt_tokens;
    (void)request_hold_prefill(r, prefill);
}

static bool choice_add(struct request *r, struct choice *c, const struct msg_token *token)
{
    if (token->channel == CHANNEL_REASONING) buf_add(&c->reasoning, token->text, token->text_len);
    if (token->channel == CHANNEL_CONTENT) buf_add(&c->content, token->text, token->text_len);
    if (!buf_ok(&c->content) || !buf_ok(&c->reasoning)) return false;
    if (r->tokens_mixed || token->token_count <= 0) return true;
    if (c->token_count + token->token_count > MSG_PREFIX_MAX) return false;
    if (c->token_count + token->token_count > c->token_cap) {
        int cap = c->token_cap ? c->token_cap * 2 : 64;
        while (cap < c->token_count + token->token_count) cap *= 2;
        int32_t *grown = realloc(c->tokens, (size_t)cap * sizeof *grown);
        if (!grown) return false;
        c->tokens = grown;
        c->token_cap = cap;
    }
    memcpy(c->tokens + c->token_count, token->tokens, (size_t)token->token_count * sizeof *c->tokens);
    c->token_count += token->token_count;
    return true;
}

static void on_token(void *ctx, const struct msg_token *got)
{
    struct call *call = ctx;
    struct request *r = call->request;
    if (got->choice < 0 || got->choice >= r->choices_count) return; /* not ours: a peer's bug costs nothing */
    struct choice *c = &r->choices[got->choice];
    call->last_us = clock_mono_us();
    if (!call->first_us) call->first_us = call->last_us;
    /* Our engines number their tokens; what comes without an id then is held-back text. An upstream's chunk counts as one. */
    if (got->token_count > 0) call->has_ids = true;
    int count = got->token_count > 0 || call->has_ids ? got->token_count : 1;
    struct msg_token token = *got;
    token.id = r->submit->id;
    if (call->continues_text) token.index = c->next_index;
    if (token.index < c->next_index) return; /* each token once */
    c->next_index = token.index + count;
    call->completion_tokens += count;
    if (token.channel == CHANNEL_REASONING) r->reasoning_tokens += count;
    if (!choice_add(r, c, &token)) {
        request_fail(r, ERR_TOO_LARGE, "the answer passed this node's limit for one request");
        return;
    }
    if (!r->tokens_identity[0] && !r->tokens_mixed && call->identity[0])
        word_copy(r->tokens_identity, sizeof r->tokens_identity, call->identity);
    if (request_hold_token(r, &token)) return;
    if (!token.text_len && token.channel != CHANNEL_TOOL && !token.has_logprob && !token.token_count) return;
    request_show_start(r);
    r->sink.on_token(r->sink.ctx, &token);
}

static void keep_remote_hops(struct request *r, const struct msg_done *done)
{
    r->remote_hop_count = 0;
    for (int i = 0; i < done->hop_count && i < MSG_HOPS_MAX; i++) {
        struct msg_hop hop = done->hops[i];
        hop.node = arena_strdup(&r->arena, hop.node);
        hop.backend = arena_strdup(&r->arena, hop.backend);
        hop.model = arena_strdup(&r->arena, hop.model);
        hop.outcome = arena_strdup(&r->arena, hop.outcome);
        hop.error = arena_strdup(&r->arena, hop.error);
        r->remote_hops[r->remote_hop_count++] = hop;
    }
}

static void on_done(void *ctx, const struct msg_done *done)
{
    struct call *call = ctx;
    struct request *r = call->request;
    struct backend *backend = call->backend;
    for (int i = 0; i < r->choices_count; i++) {
        struct choice *c = &r->choices[i];
        if (c->finished) continue;
        c->finished = true;
        word_copy(c->finish, sizeof c->finish, i < done->choices && done->finish[i] ? done->finish[i] : "stop");
    }
    int seen = call->completion_tokens;
    if (done->prompt_tokens > 0) call->prompt_tokens = (int)done->prompt_tokens;
    if (done->completion_tokens > 0) call->completion_tokens = (int)done->completion_tokens;
    if (done->reasoning_tokens > r->reasoning_tokens) r->reasoning_tokens = done->reasoning_tokens;
    if (!r->prompt_tokens || !r->prefix_tokens) {
        r->prompt_tokens = call->prompt_tokens;
        r->cached_tokens = done->cached_tokens;
    }
    r->queue_ms = done->queue_ms;
    double price = is_peer(backend) ? done->price_usd : call_price(call, (int)done->reasoning_tokens);
    if (is_peer(backend)) keep_remote_hops(r, done);
    double run_s = (double)(clock_mono_us() - (call->first_us ? call->first_us : call->start_us)) / 1e6;
    double ttft_ms = call->first_us ? (double)(call->first_us - call->start_us) / 1000 : 0;
    backend_outcome(r->node, backend, ERR_OK, ttft_ms, run_s > 0 && seen > 1 ? (seen - 1) / run_s : 0, 0);
    struct msg_done total = *done;
    total.completion_tokens = r->prefix_tokens + call->completion_tokens;
    if (!r->shown && r->holding && request_hold_done(r)) return; /* escalated: not good enough to be shown */
    hop_end(r, "done", NULL, price);
    call_over(r);
    request_hold_release(r);
    request_show_start(r);
    request_finish(r, &total);
}

static void on_error(void *ctx, const struct msg_error *error)
{
    struct call *call = ctx;
    request_call_failed(call->request, error);
}

/* ---- beginning a call ---- */

static bool same_identity(const struct request *r, const struct msg_model *model)
{
    return r->tokens_identity[0] && !r->tokens_mixed && model->identity && strcmp(model->identity, r->tokens_identity) == 0;
}

static void fill_prefixes(struct request *r, const struct msg_model *model, struct msg_prefix *prefixes, struct msg_submit *out)
{
    bool exact = same_identity(r, model);
    r->call.continues_text = !exact;
    r->prefix_tokens = 0;
    for (int i = 0; i < r->choices_count; i++) {
        struct choice *c = &r->choices[i];
        prefixes[i] = (struct msg_prefix){.content = c->content.data, .reasoning = c->reasoning.len ? c->reasoning.data : NULL,
                                          .finished = c->finished};
        if (exact) {
            prefixes[i].tokens = c->tokens;
            prefixes[i].token_count = c->token_count;
        }
        r->prefix_tokens += (int)c->next_index;
    }
    if (!exact) {
        r->tokens_mixed = true;
        r->tokens_identity[0] = 0;
    }
    out->prefixes = prefixes;
    out->prefix_count = r->choices_count;
    out->prefix_identity = exact ? r->tokens_identity : NULL;
}

static void fill_submit(struct request *r, const struct msg_model *model, struct msg_prefix *prefixes, struct msg_submit *out)
{
    *out = *r->submit;
    out->arena = (struct arena){0};
    out->hop_budget = r->submit->hop_budget - 1;
    out->deadline_ms = r->deadline_us ? (r->deadline_us - clock_mono_us()) / 1000 : 0;
    if (r->deadline_us && out->deadline_ms < 1) out->deadline_ms = 1;
    out->tier = r->tier;
    out->reason = reason_name(r->reason);
    for (int i = 0; i < TIERS; i++) out->p[i] = r->scores.known[i] ? r->scores.p[i] : -1;
    out->prefixes = NULL;
    out->prefix_count = 0;
    out->prefix_identity = NULL;
    if (request_goes_on(r)) fill_prefixes(r, model, prefixes, out);
}

void request_run(struct request *r)
{
    struct node *node = r->node;
    struct call *call = &r->call;
    struct backend *backend = call->backend;
    const struct msg_model *model = backend_model(backend, r->tier, r->model_name);
    assert(model); /* dispatch_pick() chose it for that */
    call->id = ++node->last_call;
    call->start_us = clock_mono_us();
    copy_word(call->model, model->name);
    copy_word(call->backend_name, backend->name);
    if (model->identity) word_copy(call->identity, sizeof call->identity, model->identity);
    call->price = (struct policy_price){model->price_input_usd, model->price_output_usd, model->price_reasoning_usd};
    if (model->price_input_usd <= 0 && model->price_output_usd <= 0) call->price = r->policy.price[r->tier];
    struct msg_prefix prefixes[MSG_CHOICES_MAX];
    struct msg_submit submit;
    fill_submit(r, model, prefixes, &submit);
    const struct sink sink = {call, on_start, on_prefill, on_token, on_done, on_error};
    request_hold_begin(r);
    r->step = STEP_RUN;
    backend->running++;
    struct err e = {0};
    enum err_code code = backend->ops->submit(backend, call->id, &submit, &sink, &e);
    if (code != ERR_OK) {
        bool full = code == ERR_FULL;
        request_call_failed(r, &(struct msg_error){.code = code, .message = e.msg, .param = e.param[0] ? e.param : NULL,
                                                   .retryable = err_retryable(code), .retry_after_ms = full ? 100 : 0});
        return;
    }
    dispatch_note(backend, r->submit);
    loop_timer_start(node->loop, &r->watch_timer, 1000, on_watch, r);
}
