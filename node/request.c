/* The one path of every request, on every tier:
 *
 *   request_submit ── CLASSIFY ── DECIDE ── DISPATCH ──► RUN ── stream ── END (log, done)
 *                                  ▲  ▲       │  ▲        │ │
 *                                  │  │       ▼  │        │ └─ escalate: the answer is not good enough (request_hold.c)
 *                                  │  │      WAIT ┘       └─── fail over: the backend failed (request_call.c)
 *                                  │  └─────────── tier gone ──┘
 *                                  └───────────── escalate ────┘
 *
 *   step        function           leaves by
 *   CLASSIFY    step_classify      DECIDE, or END when the request cannot be meant
 *   DECIDE      step_decide        DISPATCH, or END when no tier may answer
 *   DISPATCH    step_dispatch      RUN, WAIT when every good backend is busy, DECIDE when the tier is gone
 *   WAIT        request_wake       DISPATCH
 *   RUN         request_call.c     END on done; DISPATCH or DECIDE on failure; DECIDE on escalation
 *   END         finish             every path comes here, and here the row is written
 *
 * A tier differs only in its fronts, backends and policy.
 */
#include "node/idempotency.h"
#include "node/request.h"

#include "base/clock.h"
#include "base/textlog.h"
#include "base/word.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* ---- CLASSIFY ---- */

static void input_text(struct request *r)
{
    const struct msg_submit *s = r->submit;
    struct router_input *in = &r->input;
    in->text = s->prompt ? s->prompt : "";
    int last = s->message_count - 1;
    while (last >= 0 && s->messages[last].role && strcmp(s->messages[last].role, "user") != 0) last--;
    if (last >= 0 && s->messages[last].content) in->text = s->messages[last].content;
    in->text_len = strlen(in->text);
    in->turns = s->message_count;
    in->tools = s->has_tools;
    in->json = s->has_json_format;
    in->max_tokens = s->params.given & PARAM_MAX_TOKENS ? (int)s->params.max_tokens : 0;
    struct buf context = BUF_INIT(16384); /* the nearest turns that fit */
    for (int i = 0; i < last; i++) {
        if (!s->messages[i].content) continue;
        buf_adds(&context, s->messages[i].content);
        buf_addc(&context, '\n');
    }
    if (context.len) {
        in->context = arena_memdup(&r->arena, context.data, context.len);
        in->context_len = in->context ? context.len : 0;
    }
    buf_release(&context);
}

/* Which tier or model was asked for by name. false: it is known to nobody. */
static bool resolve_model(struct request *r)
{
    struct msg_submit *s = r->submit;
    if (s->forced != TIER_NONE || !s->model || !s->model[0] || strcmp(s->model, "auto") == 0) return true;
    enum tier tier = tier_from_name(s->model);
    if (tier != TIER_NONE) {
        s->forced = tier;
        return true;
    }
    bool somebody_missing = false;
    for (const struct backend *b = r->node->backends; b; b = b->next) {
        const struct msg_model *m = backend_model(b, TIER_NONE, s->model);
        if (m) {
            s->forced = m->tier;
            r->model_name = s->model;
            return true;
        }
        if (b->health != BACKEND_UP) somebody_missing = true;
    }
    if (somebody_missing)
        request_fail(r, ERR_UNAVAILABLE, "no live backend has the model '%.60s' now", s->model);
    else
        request_fail(r, ERR_NOT_FOUND, "no backend has a model '%.60s'; GET /v1/models lists them, or use 'auto'", s->model);
    return false;
}

static void step_classify(struct request *r)
{
    const struct msg_submit *s = r->submit;
    for (int i = 0; i < TIERS; i++) { /* without a router: what the node below scored, else nobody knows */
        r->scores.p[i] = s->p[i] >= 0 ? s->p[i] : 0.5;
        r->scores.known[i] = true;
    }
    input_text(r);
    if (!resolve_model(r)) return;
    if (r->node->router) {
        router_score_traced(r->node->router, &r->input, &r->scores, &r->trace);
        r->traced = true;
        r->classify_us = r->scores.cost_us;
    }
    request_step_soon(r, STEP_DECIDE);
}

/* ---- DECIDE ---- */

static int prompt_tokens_estimate(const struct msg_submit *s)
{
    size_t bytes = s->prompt ? strlen(s->prompt) : 0;
    for (int i = 0; i < s->message_count; i++) bytes += s->messages[i].content ? strlen(s->messages[i].content) : 0;
    return (int)(bytes / 3) + 8;
}

static void limits_of(struct request *r, const struct tier_state state[TIERS], struct decide_limits *out)
{
    const struct msg_submit *s = r->submit;
    struct node *node = r->node;
    *out = (struct decide_limits){
        .self = node->config->tier,
        .forced = s->forced,
        .max = s->max_tier == TIER_NONE ? TIER_CORE : s->max_tier,
        .sticky = conversation_tier(node->requests, s->conversation),
        .device_private = s->device_private || r->policy.private_default,
        .deadline_ms = r->deadline_us ? (double)(r->deadline_us - loop_now_us(node->loop)) / 1000 : 0,
        .budget_left_usd = tenant_budget_left(node->requests, &r->policy, s->tenant, r->wall_ms),
        .prompt_tokens = prompt_tokens_estimate(s),
        .expected_tokens = s->params.given & PARAM_MAX_TOKENS && s->params.max_tokens < 256 ? (int)s->params.max_tokens : 256,
        .needs_tools = s->has_tools,
        .needs_json = s->has_json_format,
        .needs_parts = s->has_parts,
        .dice = node_dice(s->id, 0),
        .brief = true,
    };
    /* What the node below has chosen stands while that tier is there. */
    if (s->tier != TIER_NONE && s->tier > out->self && s->forced == TIER_NONE && state[s->tier].available)
        out->forced = s->tier;
}

static enum reason reason_from(const char *name)
{
    for (int i = 0; name && i < REASONS; i++)
        if (strcmp(reason_name((enum reason)i), name) == 0) return (enum reason)i;
    return REASON_FORCED;
}

static void want_of(const struct request *r, enum tier tier, struct dispatch *out)
{
    *out = (struct dispatch){
        .tier = tier,
        .name = r->model_name,
        .prefer = r->policy.prefer,
        .submit = r->submit,
        .avoid = r->tried,
        .avoid_count = r->tried_count,
        .local_only = r->submit->device_private,
        .prefix_identity = request_goes_on(r) ? r->tokens_identity : NULL,
    };
}

/* A tier without a backend that could take this very request, now or once a slot is free, is gone for it. */
static void narrow_states(const struct request *r, struct tier_state state[TIERS])
{
    for (int t = 0; t < TIERS; t++) {
        if (!state[t].available) continue;
        struct dispatch want;
        bool busy;
        want_of(r, (enum tier)t, &want);
        if (!dispatch_pick(r->node, &want, &busy) && !busy) state[t].available = false;
    }
}

static void fail_for_good(struct request *r, enum err_code code, const char *why)
{
    const struct msg_error *last = &r->last_error;
    if (last->code == ERR_OK)
        request_fail(r, code, "%s", why);
    else
        request_fail(r, last->code, "%s", last->message ? last->message : err_text(last->code));
}

static void decided(struct request *r, const struct decision *d, bool from_below)
{
    bool first = !r->decided;
    r->decided = true;
    if (first) {
        r->decision = *d;
        if (from_below) r->decision.reason = reason_from(r->submit->reason);
        r->reason = r->decision.reason;
        if (r->reason == REASON_UNFAMILIAR) metrics_add(r->node->metrics, METRIC_UNFAMILIAR, 1);
    } else if (d->degraded || !r->escalated) {
        r->reason = d->degraded ? REASON_DEGRADED : REASON_UNAVAILABLE;
    }
    r->tier = d->tier;
    r->degraded = d->degraded;
}

/* Which field of the request no tier is able to serve. */
static const char *field_at_fault(const struct request *r, const struct tier_state state[TIERS], enum err_code refusal)
{
    const struct msg_submit *s = r->submit;
    bool tools = false, json = false;
    for (int t = 0; t < TIERS; t++) {
        tools |= state[t].configured && state[t].can_tools;
        json |= state[t].configured && state[t].can_json;
    }
    if (refusal == ERR_CONTEXT) return s->completion ? "prompt" : "messages";
    if (refusal != ERR_UNSUPPORTED) return NULL;
    if (s->has_tools && !tools) return "tools";
    if (s->has_json_format && !json) return "response_format";
    return s->has_parts ? "messages" : NULL;
}

static void step_decide(struct request *r)
{
    struct node *node = r->node;
    struct tier_state state[TIERS];
    struct decide_limits limits;
    struct decision d;
    node_tier_states(node, state);
    if (r->narrow) narrow_states(r, state);
    limits_of(r, state, &limits);
    bool from_below = r->submit->forced == TIER_NONE && limits.forced != TIER_NONE;
    limits.self = r->floor;
    policy_decide(&r->policy, &r->scores, node->router ? &node->router_info : NULL, state, &limits, &d);
    if (d.tier == TIER_NONE && r->floor > node->config->tier) {
        /* Escalated, and now nobody above is there: what this node can say is better than nothing. */
        limits.self = r->floor = node->config->tier;
        policy_decide(&r->policy, &r->scores, node->router ? &node->router_info : NULL, state, &limits, &d);
        d.degraded = d.tier != TIER_NONE;
    }
    if (d.tier == TIER_NONE) {
        if (!r->decided) r->decision = d;
        r->reason = REASON_REFUSED;
        if (r->last_error.code == ERR_OK) r->last_error.param = field_at_fault(r, state, d.refusal);
        fail_for_good(r, d.refusal, d.why);
        return;
    }
    decided(r, &d, from_below);
    request_step_soon(r, STEP_DISPATCH);
}

/* ---- DISPATCH and WAIT ---- */

static void wait_begin(struct request *r)
{
    struct request_table *t = r->node->requests;
    r->step = STEP_WAIT;
    r->wait_next = NULL;
    *t->wait_end = r;
    t->wait_end = &r->wait_next;
    t->waiting++;
}

static void wait_leave(struct request *r)
{
    struct request_table *t = r->node->requests;
    for (struct request **p = &t->wait_first; *p; p = &(*p)->wait_next) {
        if (*p != r) continue;
        *p = r->wait_next;
        if (!*p) t->wait_end = p;
        t->waiting--;
        return;
    }
}

static void on_wake(void *ctx)
{
    struct node *node = ctx;
    struct request_table *t = node->requests;
    struct request *r = t->wait_first;
    t->wait_first = NULL;
    t->wait_end = &t->wait_first;
    t->waiting = 0;
    for (struct request *next; r; r = next) {
        next = r->wait_next;
        request_step_soon(r, STEP_DISPATCH); /* in order; those that find no slot wait again in order */
    }
}

void request_wake(struct node *node)
{
    struct request_table *t = node->requests;
    if (t && t->wait_first && !t->wake_timer.slot) loop_timer_start(node->loop, &t->wake_timer, 0, on_wake, node);
}

static void step_dispatch(struct request *r)
{
    struct dispatch want;
    bool busy;
    want_of(r, r->tier, &want);
    struct backend *backend = dispatch_pick(r->node, &want, &busy);
    if (backend) {
        r->call = (struct call){.request = r, .backend = backend, .tier = r->tier};
        request_run(r);
    } else if (busy) {
        wait_begin(r);
    } else if (!r->narrow || r->tried_count > r->narrowed_at) {
        r->narrow = true; /* decide again, among tiers that have somebody for this request */
        r->narrowed_at = r->tried_count;
        request_step_soon(r, STEP_DECIDE);
    } else {
        char why[96];
        (void)snprintf(why, sizeof why, "no live backend of tier %s can answer this", tier_name(r->tier));
        fail_for_good(r, ERR_UNAVAILABLE, why);
    }
}

/* ---- the steps as a table ---- */

/* Steps that follow each other are taken at once; between them the request may have ended, so its handle is asked. */
static void take_steps(struct request *r)
{
    struct request_table *t = r->node->requests;
    uint64_t handle = r->handle;
    do {
        t->stepping = handle;
        t->step_again = false;
        switch (r->step) {
        case STEP_CLASSIFY: step_classify(r); break;
        case STEP_DECIDE: step_decide(r); break;
        case STEP_DISPATCH: step_dispatch(r); break;
        case STEP_WAIT: case STEP_RUN: case STEP_END: break;
        }
    } while (t->step_again && request_find(t, handle) == r);
    t->stepping = 0;
}

static void on_step(void *ctx)
{
    take_steps(ctx);
}

void request_step_soon(struct request *r, enum request_step step)
{
    struct request_table *t = r->node->requests;
    r->step = step;
    if (t->stepping == r->handle) t->step_again = true;
    else loop_timer_start(r->node->loop, &r->step_timer, 0, on_step, r);
}

/* ---- END ---- */

static void release(struct request *r)
{
    struct node *node = r->node;
    struct request_table *t = node->requests;
    if (r->step == STEP_WAIT) wait_leave(r);
    r->step = STEP_END;
    loop_timer_stop(node->loop, &r->step_timer);
    loop_timer_stop(node->loop, &r->watch_timer);
    loop_timer_stop(node->loop, &r->deadline_timer);
    loop_timer_stop(node->loop, &r->hold_timer);
    struct request **p = &t->buckets[r->handle % (uint64_t)t->bucket_count];
    while (*p != r) p = &(*p)->hash_next;
    *p = r->hash_next;
    *r->all_prev = r->all_next;
    if (r->all_next) r->all_next->all_prev = r->all_prev;
    t->count--;
    request_hold_clear(r);
    for (int i = 0; i < r->choices_count; i++) {
        free(r->choices[i].tokens);
        buf_release(&r->choices[i].content);
        buf_release(&r->choices[i].reasoning);
    }
    free(r->choices);
    free(r->hidden);
    msg_submit_release(r->submit);
    free(r->submit);
    arena_release(&r->arena);
    if (t->spares == SPARES_MAX) {
        free(r);
        return;
    }
    r->hash_next = t->spare;
    t->spare = r;
    t->spares++;
}

static void count_end(struct node *node)
{
    struct request_table *t = node->requests;
    int64_t now = clock_mono_us();
    if (t->last_end_us && now > t->last_end_us) {
        double rate = 1e6 / (double)(now - t->last_end_us);
        t->ended_per_s = t->ended_per_s > 0 ? t->ended_per_s * 0.95 + rate * 0.05 : rate;
    }
    t->last_end_us = now;
}

void request_fail(struct request *r, enum err_code code, const char *format, ...)
{
    char message[240];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(message, sizeof message, format, args);
    va_end(args);
    struct node *node = r->node;
    request_call_stop(r, "failed", message);
    struct msg_error error = {
        .id = r->submit->id,
        .code = code,
        .message = message,
        .param = code == ERR_NOT_FOUND ? "model" : r->last_error.param,
        .retryable = code == ERR_FULL || (err_retryable(code) && r->hop_count == 0),
        .retry_after_ms = r->retry_after_ms ? r->retry_after_ms : code == ERR_FULL ? request_retry_after_ms(node) : 0,
    };
    metrics_add(node->metrics, code == ERR_FULL ? METRIC_REQUESTS_REFUSED : METRIC_REQUESTS_FAILED, 1);
    request_log(r, code, message, NULL);
    count_end(node);
    struct sink sink = r->sink;
    sink.on_error(sink.ctx, &error);
    release(r);
    request_wake(node);
}

static void fill_hops(const struct request *r, struct msg_hop hops[MSG_HOPS_MAX], int *count)
{
    int n = 0;
    for (int i = 0; i < r->hop_count && n < MSG_HOPS_MAX; i++) {
        const struct log_hop *h = &r->hops[i];
        hops[n++] = (struct msg_hop){.tier = h->tier, .node = r->node->config->node, .backend = h->backend, .model = h->model,
                                     .outcome = h->outcome, .error = h->error[0] ? h->error : NULL,
                                     .prompt_tokens = h->prompt_tokens, .completion_tokens = h->completion_tokens,
                                     .ttft_ms = h->ttft_ms, .total_ms = h->total_ms, .price_usd = h->price_usd};
    }
    for (int i = 0; i < r->remote_hop_count && n < MSG_HOPS_MAX; i++) hops[n++] = r->remote_hops[i];
    *count = n;
}

void request_finish(struct request *r, const struct msg_done *last)
{
    struct node *node = r->node;
    struct msg_hop hops[MSG_HOPS_MAX];
    struct msg_done done = *last;
    int64_t now = clock_mono_us();
    done.id = r->submit->id;
    done.choices = r->choices_count;
    for (int i = 0; i < r->choices_count; i++) done.finish[i] = r->choices[i].finish[0] ? r->choices[i].finish : "stop";
    done.prompt_tokens = r->prompt_tokens;
    done.cached_tokens = r->cached_tokens;
    done.reasoning_tokens = r->reasoning_tokens;
    done.tier = r->first_tier;
    done.model = r->first_model;
    done.backend = r->first_backend;
    done.price_usd = r->price_usd;
    done.price_core_usd = request_core_price(r, done.completion_tokens);
    done.degraded = r->degraded || last->degraded;
    done.total_ms = (double)(now - r->start_us) / 1000;
    done.ttft_ms = r->first_shown_us ? (double)(r->first_shown_us - r->start_us) / 1000 : 0;
    done.hops = hops;
    fill_hops(r, hops, &done.hop_count);
    if (done.degraded) metrics_add(node->metrics, METRIC_DEGRADED, 1);
    struct request_table *t = node->requests;
    if (done.tier == TIER_CORE && done.completion_tokens > 0) {
        double *mean = request_core_tokens(r), seen = (double)done.completion_tokens;
        *mean = *mean > 0 ? *mean * 0.9 + seen * 0.1 : seen;
    }
    request_log(r, ERR_OK, "", &done);
    shadow_offer(r);
    conversation_note(t, r->submit->conversation, done.tier);
    tenant_spent(t, r->submit->tenant, r->wall_ms, r->price_usd);
    metrics_request(node->metrics, &(struct metrics_request){.tier = done.tier, .model = done.model, .ttft_s = done.ttft_ms / 1000,
                                                             .total_s = done.total_ms / 1000, .price_usd = r->price_usd,
                                                             .price_core_usd = done.price_core_usd,
                                                             .input_tokens = done.prompt_tokens,
                                                             .output_tokens = done.completion_tokens, .ok = true});
    count_end(node);
    struct sink sink = r->sink;
    sink.on_done(sink.ctx, &done);
    release(r);
    request_wake(node);
}

void request_cancel(struct node *node, uint64_t handle)
{
    struct request *r = request_find(node->requests, handle);
    if (!r) {
        (void)idempotency_leave(node->requests->keys, handle);
        return;
    }
    request_call_stop(r, "cancelled", "the client went away");
    textlog(TEXTLOG_INFO, "request_cancelled", "request=%s after_ms=%lld", r->submit->id ? r->submit->id : "",
            (long long)(clock_mono_us() - r->start_us) / 1000);
    metrics_add(node->metrics, METRIC_REQUESTS_CANCELLED, 1);
    request_log(r, ERR_CANCELLED, "the client went away", NULL);
    count_end(node);
    release(r);
    request_wake(node);
}

/* ---- entering ---- */

static void on_deadline(void *ctx)
{
    struct request *r = ctx;
    request_fail(r, ERR_TIMEOUT, "the deadline passed after %lld ms", (long long)((clock_mono_us() - r->start_us) / 1000));
}

static void choice_reset(struct choice *c, const struct msg_prefix *prefix)
{
    c->token_count = 0;
    c->next_index = 0;
    c->finished = prefix && prefix->finished;
    c->finish[0] = 0;
    buf_clear(&c->content);
    buf_clear(&c->reasoning);
    if (!prefix) return;
    if (prefix->content) buf_adds(&c->content, prefix->content);
    if (prefix->reasoning) buf_adds(&c->reasoning, prefix->reasoning);
    if (prefix->token_count <= 0) return;
    if (prefix->token_count > c->token_cap) {
        int32_t *grown = realloc(c->tokens, (size_t)prefix->token_count * sizeof *grown);
        if (!grown) return;
        c->tokens = grown;
        c->token_cap = prefix->token_count;
    }
    memcpy(c->tokens, prefix->tokens, (size_t)prefix->token_count * sizeof *c->tokens);
    c->token_count = prefix->token_count;
    c->next_index = prefix->token_count;
}

void request_choices_reset(struct request *r)
{
    const struct msg_submit *s = r->submit;
    for (int i = 0; i < r->choices_count; i++)
        choice_reset(&r->choices[i], i < s->prefix_count ? &s->prefixes[i] : NULL);
    r->tokens_identity[0] = 0;
    r->tokens_mixed = s->prefix_count > 0 && !s->prefix_identity;
    if (s->prefix_identity) word_copy(r->tokens_identity, sizeof r->tokens_identity, s->prefix_identity);
    r->prefix_tokens = 0;
    r->reasoning_tokens = 0;
}

static struct request *take_spare(struct request_table *t)
{
    struct request *r = t->spare;
    if (!r) return malloc(sizeof *r);
    t->spare = r->hash_next;
    t->spares--;
    return r;
}

static struct request *request_new(struct node *node, struct msg_submit *submit, const struct sink *sink, const char *front)
{
    struct request *r = take_spare(node->requests);
    int n = submit->params.n > 1 ? (int)submit->params.n : 1;
    if (n > MSG_CHOICES_MAX) n = MSG_CHOICES_MAX;
    struct choice *choices = calloc((size_t)n, sizeof *choices);
    if (!r || !choices) {
        free(r);
        free(choices);
        return NULL;
    }
    memset(r, 0, offsetof(struct request, hops));
    r->node = node;
    r->submit = submit;
    r->sink = *sink;
    r->choices = choices;
    r->choices_count = n;
    for (int i = 0; i < n; i++) {
        buf_init(&choices[i].content, (size_t)node->config->request_bytes_max);
        buf_init(&choices[i].reasoning, (size_t)node->config->request_bytes_max);
    }
    word_copy(r->front, sizeof r->front, front);
    arena_init(&r->arena, (size_t)node->config->request_bytes_max);
    r->held_end = &r->held;
    r->start_us = clock_mono_us();
    r->wall_ms = clock_wall_ms();
    r->probe_p = -1;
    r->decision.tier = r->tier = r->first_tier = TIER_NONE;
    r->floor = node->config->tier;
    r->policy = *node_policy_for(node, submit);
    r->margin_min = 1;
    request_choices_reset(r);
    return r;
}

static void table_add(struct request_table *t, struct request *r)
{
    r->handle = ++t->last_handle;
    struct request **bucket = &t->buckets[r->handle % (uint64_t)t->bucket_count];
    r->hash_next = *bucket;
    *bucket = r;
    r->all_next = t->all;
    r->all_prev = &t->all;
    if (t->all) t->all->all_prev = &r->all_next;
    t->all = r;
    t->count++;
}

static void on_entered(void *ctx)
{
    struct request *r = ctx;
    struct request_table *t = r->node->requests;
    if (r->node->draining) {
        request_fail(r, ERR_DRAINING, "this node is stopping");
    } else if (t->count > r->node->config->requests_max) {
        request_fail(r, ERR_FULL, "%d requests are running or waiting, the most this node takes", r->node->config->requests_max);
    } else if (r->submit->device_private && r->node->config->tier != TIER_EDGE) {
        request_fail(r, ERR_FORBIDDEN, "this request may not leave its device");
    } else {
        take_steps(r);
    }
}

/* Every hop and every retry must draw alike, so the first node chooses; 31 bits pass through any JSON. */
static void choose_seed(struct request_table *t, struct msg_submit *submit)
{
    uint32_t seed = (uint32_t)clock_mono_us();
    if (submit->params.given & PARAM_SEED) return;
    if (t->random_left == 0 && getrandom(t->random, sizeof t->random, GRND_NONBLOCK) == (ssize_t)sizeof t->random)
        t->random_left = sizeof t->random;
    if (t->random_left) memcpy(&seed, t->random + (t->random_left -= (int)sizeof seed), sizeof seed);
    submit->params.seed = seed & 0x7fffffff;
    submit->params.given |= PARAM_SEED;
}

uint64_t request_submit(struct node *node, struct msg_submit *submit, const struct sink *sink, const char *front)
{
    if (idempotency_wanted(node, submit)) return idempotency_submit(node->requests->keys, submit, sink, front);
    return request_begin(node, submit, sink, front);
}

uint64_t request_begin(struct node *node, struct msg_submit *submit, const struct sink *sink, const char *front)
{
    struct request_table *t = node->requests;
    metrics_add(node->metrics, METRIC_REQUESTS, 1);
    choose_seed(t, submit);
    struct request *r = request_new(node, submit, sink, front);
    if (!r) {
        msg_submit_release(submit);
        free(submit);
        return 0;
    }
    table_add(t, r);
    int64_t deadline_ms = submit->deadline_ms > 0 ? submit->deadline_ms : (int64_t)node->policy.deadline_default_ms;
    if (deadline_ms > 0) {
        r->deadline_us = r->start_us + deadline_ms * 1000;
        loop_timer_start(node->loop, &r->deadline_timer, deadline_ms, on_deadline, r);
    }
    r->step = STEP_CLASSIFY;
    loop_timer_start(node->loop, &r->step_timer, 0, on_entered, r);
    return r->handle;
}
