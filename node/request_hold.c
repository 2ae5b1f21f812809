/* What is kept back, and whether it is good enough to be shown. Only the edge holds: its own answer's first tokens
 * (all of them in a call that is not streamed) wait until the router's probe has seen how sure the model was. Once a
 * token has been shown the text never changes, so everything here happens before. One decision holds for all choices. */
#include "node/request.h"

#include "base/clock.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static bool higher_tier_there(const struct request *r)
{
    struct tier_state state[TIERS];
    node_tier_states(r->node, state);
    enum tier max = r->submit->max_tier == TIER_NONE ? TIER_CORE : r->submit->max_tier;
    for (int t = (int)r->tier + 1; t <= (int)max; t++)
        if (state[t].available) return true;
    return false;
}

static void on_hold_time(void *ctx)
{
    struct request *r = ctx;
    request_hold_release(r);
}

void request_hold_begin(struct request *r)
{
    const struct policy *policy = &r->policy;
    const struct msg_submit *s = r->submit;
    r->holding = r->tier == TIER_EDGE && r->node->config->tier == TIER_EDGE && policy->probe && !r->escalated &&
                 s->forced == TIER_NONE && /* explored ones too: what follows a choice must be what follows it anyway */
                 !s->device_private && !policy->private_default &&
                 !request_goes_on(r) && (r->node->router || s->has_json_format) && (!s->stream || policy->hold_tokens > 0) &&
                 higher_tier_there(r);
    if (r->holding && s->stream && policy->hold_ms > 0)
        loop_timer_start(r->node->loop, &r->hold_timer, policy->hold_ms, on_hold_time, r);
}

/* ---- keeping ---- */

static struct held *held_copy(const struct msg_token *token)
{
    size_t tokens = (size_t)(token->token_count > 0 ? token->token_count : 0) * sizeof *token->tokens;
    size_t tops = (size_t)(token->top_count > 0 ? token->top_count : 0) * sizeof *token->top, top_bytes = 0;
    for (int i = 0; i < token->top_count; i++) top_bytes += token->top[i].bytes_len;
    size_t size = sizeof(struct held) + tops + tokens + token->text_len + token->bytes_len + top_bytes + 2;
    struct held *h = malloc(size);
    if (!h) return NULL;
    h->next = NULL;
    h->bytes = size;
    h->token = *token;
    char *p = (char *)(h + 1);
    struct msg_top *top = (struct msg_top *)p;
    p += tops;
    h->token.tokens = memcpy(p, tokens ? (const void *)token->tokens : "", tokens);
    p += tokens;
    h->token.text = memcpy(p, token->text_len ? token->text : "", token->text_len);
    p += token->text_len;
    *p++ = 0;
    h->token.bytes = memcpy(p, token->bytes_len ? token->bytes : "", token->bytes_len);
    p += token->bytes_len;
    for (int i = 0; i < token->top_count; i++) {
        top[i] = token->top[i];
        top[i].bytes = memcpy(p, token->top[i].bytes, token->top[i].bytes_len);
        p += token->top[i].bytes_len;
    }
    h->token.top = token->top_count > 0 ? top : NULL;
    return h;
}

void request_hold_clear(struct request *r)
{
    for (struct held *h = r->held, *next; h; h = next) {
        next = h->next;
        free(h);
    }
    r->held = NULL;
    r->held_end = &r->held;
    r->held_bytes = 0;
    r->certain_tokens = 0;
    r->entropy_sum = r->entropy_max = r->logprob_sum = r->varentropy_sum = 0;
    r->margin_min = 1;
}

void request_show_start(struct request *r)
{
    if (r->shown) return;
    r->shown = true;
    r->first_shown_us = clock_mono_us();
    const struct msg_start start = {
        .id = r->submit->id,
        .tier = r->first_tier,
        .backend = r->first_backend,
        .model = r->first_model,
        .identity = r->call.identity,
        .reason = reason_name(r->reason),
        .node = r->node->config->node,
        .degraded = r->degraded,
        .p = {r->scores.known[0] ? r->scores.p[0] : r->decision.p[0], r->scores.known[1] ? r->scores.p[1] : r->decision.p[1],
              r->scores.known[2] ? r->scores.p[2] : r->decision.p[2]},
        .threshold = r->decision.threshold,
    };
    r->sink.on_start(r->sink.ctx, &start);
}

void request_hold_release(struct request *r)
{
    r->holding = false;
    loop_timer_stop(r->node->loop, &r->hold_timer);
    struct held *h = r->held;
    if (!h) return;
    r->held = NULL;
    r->held_end = &r->held;
    r->held_bytes = 0;
    request_show_start(r);
    for (struct held *next; h; h = next) {
        next = h->next;
        r->sink.on_token(r->sink.ctx, &h->token);
        free(h);
    }
}

/* ---- judging ---- */

static double joined(struct request *r, bool finished)
{
    int n = r->certain_tokens > 0 ? r->certain_tokens : 1;
    const struct router_evidence evidence = {
        .hidden = r->hidden,
        .embedding = r->embedding,
        .tokens = r->certain_tokens,
        .entropy_mean = r->entropy_sum / n,
        .entropy_max = r->entropy_max,
        .margin_min = r->margin_min,
        .logprob_mean = r->logprob_sum / n,
        .varentropy_mean = r->varentropy_sum / n,
        .finished = finished,
    };
    return router_probe(r->node->router, r->scores.p[TIER_EDGE], &evidence);
}

/* true: it was unsure, and the request is on its way up. */
static bool judge(struct request *r, enum reason reason, bool finished)
{
    if (!r->node->router) return false;
    r->probe_p = joined(r, finished);
    if (r->probe_p >= r->policy.probe_threshold) return false;
    request_escalate(r, reason, finished);
    return true;
}

bool request_hold_prefill(struct request *r, const struct sink_prefill *prefill)
{
    if (!r->holding) return false;
    if (prefill->hidden && prefill->embedding > 0 && prefill->embedding <= 65536) {
        float *hidden = malloc((size_t)prefill->embedding * sizeof *hidden);
        if (hidden) {
            memcpy(hidden, prefill->hidden, (size_t)prefill->embedding * sizeof *hidden);
            free(r->hidden);
            r->hidden = hidden;
            r->embedding = prefill->embedding;
        }
    }
    return judge(r, REASON_PROBE, false);
}

bool request_hold_token(struct request *r, const struct msg_token *token)
{
    if (!r->holding) return false;
    struct held *h = held_copy(token);
    if (!h || r->held_bytes + h->bytes > HELD_BYTES_MAX) { /* the bound: show what is there */
        free(h);
        request_hold_release(r);
        return false;
    }
    *r->held_end = h;
    r->held_end = &h->next;
    r->held_bytes += h->bytes;
    if (token->token_count > 0) {
        r->certain_tokens++;
        r->entropy_sum += token->entropy;
        r->logprob_sum += token->logprob;
        r->varentropy_sum += token->varentropy;
        if (token->entropy > r->entropy_max) r->entropy_max = token->entropy;
        if (token->margin < r->margin_min) r->margin_min = token->margin;
    }
    if (!r->submit->stream || r->certain_tokens < r->policy.hold_tokens) return true;
    if (!judge(r, REASON_UNSURE, false)) request_hold_release(r);
    return true;
}

bool request_json_good(const struct request *r)
{
    if (!r->submit->has_json_format) return true;
    for (int i = 0; i < r->choices_count; i++) {
        json_t *value = json_loadb(r->choices[i].content.data, r->choices[i].content.len, JSON_DECODE_ANY, NULL);
        if (!value) return false;
        json_decref(value);
    }
    return true;
}

bool request_hold_done(struct request *r)
{
    if (!request_json_good(r)) {
        request_escalate(r, REASON_CHECK, true);
        return true;
    }
    return judge(r, REASON_UNSURE, true);
}
