/* The row of a request, whatever became of it. */
#include "node/request.h"

#include "base/clock.h"
#include "base/word.h"

#include <stdlib.h>
#include <string.h>

/* Where the running mean of core's tokens for prompts as easy as this one is kept. */
double *request_core_tokens(const struct request *r)
{
    double p = r->scores.p[TIER_EDGE];
    int bucket = (int)(p * CORE_BUCKETS);
    return &r->node->requests->core_output_tokens[bucket < 0 ? 0 : bucket >= CORE_BUCKETS ? CORE_BUCKETS - 1 : bucket];
}

/* What core alone would have cost: the same prompt, and as many tokens as core has needed here for prompts as easy; until
 * core has been heard on such, as many as were needed now, which is rather too few. */
double request_core_price(const struct request *r, int64_t completion_tokens)
{
    const struct policy_price *core = &r->policy.price[TIER_CORE];
    if (r->first_tier == TIER_CORE && r->hop_count == 1) return r->price_usd;
    double output = (double)completion_tokens, mean = *request_core_tokens(r);
    if (r->first_tier != TIER_CORE && mean > 0) output = mean;
    return policy_price_usd(core, (int)r->prompt_tokens, (int)output, 0);
}

static void word(char *out, size_t size, const char *text)
{
    word_copy(out, size, text);
}

/* The text goes along with the row; the writer's thread makes hash and sketch of it. */
static void fill_text(const struct request *r, struct log_row *row)
{
    row->about = r->input;
    row->has_text = r->input.text != NULL;
    row->trace = r->traced ? &r->trace : NULL;
    row->base = r->scores.base;
    row->wants_sketch = !r->submit->device_private && !r->policy.private_default;
}

static char *answer_text(const struct request *r)
{
    return strdup(r->choices[0].content.data);
}

/* A checker of our own: where JSON was asked for, did it parse? */
static void label_json(const struct request *r, enum err_code code)
{
    if (code != ERR_OK || !r->submit->has_json_format || r->first_tier == TIER_NONE) return;
    struct log_label label = {.source = "checker", .wall_ms = clock_wall_ms(), .tier = r->first_tier, .note = "json"};
    label.value = request_json_good(r) ? 1 : 0;
    word(label.request, sizeof label.request, r->submit->id);
    (void)log_label_add(r->node->log, &label);
}

void request_log(struct request *r, enum err_code code, const char *error, const struct msg_done *done)
{
    struct node *node = r->node;
    if (!node->log) return;
    const struct msg_submit *s = r->submit;
    struct log_row row = {
        .wall_ms = r->wall_ms,
        .prompt_chars = (int)r->input.text_len,
        .turns = s->message_count,
        .decision = r->decision,
        .answered = code == ERR_OK || r->shown ? r->first_tier : TIER_NONE,
        .final_reason = r->reason,
        .status = code,
        .http_status = err_http_status(code),
        .streamed = s->stream,
        .escalated = r->escalated,
        .failed_over = r->failed_over,
        .degraded = r->degraded,
        .device_private = s->device_private,
        .from_below = s->tier != TIER_NONE, /* a node below has decided, and logs it too */
        .prompt_tokens = (int)r->prompt_tokens,
        .cached_tokens = (int)r->cached_tokens,
        .reasoning_tokens = (int)r->reasoning_tokens,
        .classify_us = r->classify_us,
        .queue_ms = r->queue_ms,
        .ttft_ms = r->first_shown_us ? (double)(r->first_shown_us - r->start_us) / 1000 : 0,
        .total_ms = (double)(clock_mono_us() - r->start_us) / 1000,
        .price_usd = r->price_usd,
        .probe_p = r->probe_p,
    };
    for (int i = 0; !done && i < r->choices_count; i++) row.completion_tokens += (int)r->choices[i].next_index;
    if (done) row.completion_tokens = (int)done->completion_tokens;
    row.price_core_usd = code == ERR_OK ? request_core_price(r, row.completion_tokens) : 0;
    word(row.request, sizeof row.request, s->id);
    word(row.tenant, sizeof row.tenant, s->tenant);
    word(row.conversation, sizeof row.conversation, s->conversation);
    bool shadow = strcmp(r->front, "shadow") == 0;
    word(row.endpoint, sizeof row.endpoint, shadow ? "shadow" : s->completion ? "completions" : "chat");
    word(row.requested_model, sizeof row.requested_model, s->model);
    word(row.backend, sizeof row.backend, r->first_backend);
    word(row.model, sizeof row.model, r->first_model);
    word(row.error, sizeof row.error, error);
    word(row.finish, sizeof row.finish, done && done->choices > 0 ? done->finish[0] : "");
    label_json(r, code);
    fill_text(r, &row);
    if (node->config->log_prompts && !s->device_private) {
        row.prompt = r->input.text ? strndup(r->input.text, r->input.text_len) : NULL;
        row.answer = answer_text(r);
    }
    (void)log_decision(node->log, &row, r->hops, r->hop_count); /* a full queue is counted by the log itself */
}
