/* The list of backends: who is up, breakers, cool-downs, running means. A client's own cancel and a refusal that is
 * the client's fault never count against a backend. */
#include "node/node.h"

#include "base/textlog.h"

#include <string.h>

const struct msg_model *backend_model(const struct backend *backend, enum tier tier, const char *name)
{
    for (int i = 0; i < backend->model_count; i++) {
        const struct msg_model *model = &backend->models[i];
        if (tier != TIER_NONE && model->tier != tier) continue;
        if (name && (!model->name || strcmp(model->name, name) != 0)) continue;
        return model;
    }
    return NULL;
}

void node_backend_add(struct node *node, struct backend *backend)
{
    struct backend **end = &node->backends;
    while (*end && (*end)->order <= backend->order) end = &(*end)->next;
    backend->next = *end;
    *end = backend;
}

void node_backend_remove(struct node *node, struct backend *backend)
{
    for (struct backend **p = &node->backends; *p; p = &(*p)->next) {
        if (*p != backend) continue;
        *p = backend->next;
        dispatch_forget(backend);
        backend->ops->free(backend);
        return;
    }
}

static double mean(double old, double seen)
{
    return old > 0 ? old * 0.8 + seen * 0.2 : seen;
}

/* Failures in a row open the breaker; each opening lasts longer, up to a minute. */
static void count_failure(struct node *node, struct backend *backend, enum err_code code)
{
    int limit = node->config->breaker_failures;
    if (++backend->failures < limit) return;
    int64_t open_ms = node->config->breaker_open_ms;
    for (int i = limit; i < backend->failures && open_ms < 60000; i++) open_ms *= 2;
    if (open_ms > 60000) open_ms = 60000;
    if (loop_now_us(node->loop) >= backend->broken_until_us) {
        metrics_add(node->metrics, METRIC_BREAKER_OPENED, 1);
        textlog(TEXTLOG_WARN, "breaker_open", "backend=%s failures=%d last=%s open_ms=%lld", backend->name,
                backend->failures, err_name(code), (long long)open_ms);
    }
    backend->broken_until_us = loop_now_us(node->loop) + open_ms * 1000;
}

void backend_outcome(struct node *node, struct backend *backend, enum err_code code, double ttft_ms, double tokens_per_s,
                     int64_t retry_after_ms)
{
    switch (code) {
    case ERR_OK:
        backend->failures = 0;
        backend->broken_until_us = 0;
        if (ttft_ms > 0) backend->ttft_ms = mean(backend->ttft_ms, ttft_ms);
        if (tokens_per_s > 0) backend->tokens_per_s = mean(backend->tokens_per_s, tokens_per_s);
        return;
    case ERR_FULL: /* asked to wait: a cool-down, not a failure */
        if (retry_after_ms <= 0) retry_after_ms = 100;
        if (retry_after_ms > 30000) retry_after_ms = 30000;
        backend->cooling_until_us = loop_now_us(node->loop) + retry_after_ms * 1000;
        return;
    case ERR_CANCELLED: case ERR_INVALID: case ERR_SYNTAX: case ERR_UNSUPPORTED: case ERR_CONTEXT: case ERR_NOT_FOUND:
    case ERR_TOO_LARGE: case ERR_BUDGET: case ERR_DRAINING: case ERR_FORBIDDEN:
        return;
    default:
        count_failure(node, backend, code);
    }
}

bool backend_ready(const struct node *node, const struct backend *backend)
{
    int64_t now = loop_now_us(node->loop);
    return backend->health == BACKEND_UP && now >= backend->broken_until_us && now >= backend->cooling_until_us;
}

void node_tier_states(const struct node *node, struct tier_state out[TIERS])
{
    memset(out, 0, sizeof *out * TIERS);
    for (const struct backend *b = node->backends; b; b = b->next) {
        bool ready = backend_ready(node, b);
        /* A peer never met yet may have any tier above: they exist, and are gone. */
        bool unmet = b->model_count == 0 && strcmp(b->ops->type, "peer") == 0;
        for (int t = (int)node->config->tier + 1; unmet && t < TIERS; t++) out[t].configured = true;
        for (int i = 0; i < b->model_count; i++) {
            const struct msg_model *m = &b->models[i];
            if ((unsigned)m->tier >= TIERS) continue;
            struct tier_state *s = &out[m->tier];
            s->configured = true;
            if (!ready) continue;
            if (!s->available || (b->ttft_ms > 0 && b->ttft_ms < s->ttft_ms)) s->ttft_ms = b->ttft_ms;
            if (b->tokens_per_s > s->tokens_per_s) s->tokens_per_s = b->tokens_per_s;
            if (m->context_tokens > s->context_tokens) s->context_tokens = (int)m->context_tokens;
            s->available = true;
            s->can_tools |= m->can_tools;
            s->can_json |= m->can_json;
            s->can_parts |= m->can_parts;
        }
    }
}

static bool listed(const struct msg_model *list, int count, const struct msg_model *model)
{
    for (int i = 0; i < count; i++)
        if (list[i].tier == model->tier && strcmp(list[i].name, model->name) == 0) return true;
    return false;
}

int node_models(const struct node *node, struct msg_model *out, int max)
{
    int count = 0;
    for (const struct backend *b = node->backends; b; b = b->next) {
        if (b->health != BACKEND_UP) continue;
        for (int i = 0; i < b->model_count && count < max; i++)
            if (b->models[i].name && !listed(out, count, &b->models[i])) out[count++] = b->models[i];
    }
    return count;
}
