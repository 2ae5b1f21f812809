#include "router/log_columns.h"

#include <math.h>
#include <string.h>

#define X(name, type, max) {#name, COLUMN_##type, max},
static const struct log_column DECISION[] = {DECISION_COLUMNS(X)};
static const struct log_column HOP[] = {HOP_COLUMNS(X)};
static const struct log_column LABEL[] = {LABEL_COLUMNS(X)};
#undef X
const struct log_table LOG_DECISIONS = {"decisions", DECISION_WIDTH, DECISION};
const struct log_table LOG_HOPS = {"hops", HOP_WIDTH, HOP};
const struct log_table LOG_LABELS = {"labels", LABEL_WIDTH, LABEL};

static struct log_value integer(int64_t value)
{
    return (struct log_value){.kind = VALUE_INTEGER, .integer = value > 0 ? value : 0};
}

/* What is not a number was not measured. */
static struct log_value real(double value)
{
    if (!isfinite(value)) return (struct log_value){.kind = VALUE_NULL};
    return (struct log_value){.kind = VALUE_REAL, .real = value};
}

/* A length of time or a probability: below zero says that it was not measured. */
static struct log_value measured(double value)
{
    return value < 0 ? (struct log_value){.kind = VALUE_NULL} : real(value);
}

static struct log_value word(const char *text, size_t size)
{
    return (struct log_value){.kind = VALUE_TEXT, .bytes = text, .len = strnlen(text, size)};
}
#define WORD(field) word((field), sizeof(field))

static struct log_value name(const char *text)
{
    return word(text, 64);
}

static const char *reason_word(enum reason reason)
{
    static const char *const NAMES[] = {
#define X(code, name, text) name,
        REASON_TABLE(X)
#undef X
    };
    return reason >= 0 && reason < REASONS ? NAMES[reason] : "none";
}

static void decision_values(const struct decision *d, struct log_value out[DECISION_WIDTH])
{
    out[DECISION_first_tier] = name(tier_name(d->tier));
    out[DECISION_first_reason] = name(reason_word(d->reason));
    out[DECISION_why] = WORD(d->why);
    out[DECISION_p_edge] = measured(d->p[TIER_EDGE]);
    out[DECISION_p_region] = measured(d->p[TIER_REGION]);
    out[DECISION_p_core] = measured(d->p[TIER_CORE]);
    out[DECISION_ood] = measured(d->ood);
    out[DECISION_threshold] = measured(d->threshold);
    out[DECISION_propensity] = measured(d->propensity);
    out[DECISION_explored] = integer(d->explored);
    out[DECISION_allowed_edge] = integer(d->allowed[TIER_EDGE]);
    out[DECISION_allowed_region] = integer(d->allowed[TIER_REGION]);
    out[DECISION_allowed_core] = integer(d->allowed[TIER_CORE]);
    out[DECISION_arm] = WORD(d->arm);
    out[DECISION_policy] = integer(d->policy_version);
    out[DECISION_router] = WORD(d->router);
}

static void outcome_values(const struct log_row *row, struct log_value out[DECISION_WIDTH])
{
    out[DECISION_tier] = name(tier_name(row->answered));
    out[DECISION_reason] = name(reason_word(row->final_reason));
    out[DECISION_probe_p] = measured(row->probe_p);
    out[DECISION_backend] = WORD(row->backend);
    out[DECISION_model] = WORD(row->model);
    out[DECISION_status] = name(err_name(row->status));
    out[DECISION_error] = WORD(row->error);
    out[DECISION_finish] = WORD(row->finish);
    out[DECISION_http_status] = integer(row->http_status);
    out[DECISION_streamed] = integer(row->streamed);
    out[DECISION_escalated] = integer(row->escalated);
    out[DECISION_failed_over] = integer(row->failed_over);
    out[DECISION_degraded] = integer(row->degraded || row->decision.degraded);
    out[DECISION_device_private] = integer(row->device_private);
    out[DECISION_prompt_tokens] = integer(row->prompt_tokens);
    out[DECISION_cached_tokens] = integer(row->cached_tokens);
    out[DECISION_completion_tokens] = integer(row->completion_tokens);
    out[DECISION_reasoning_tokens] = integer(row->reasoning_tokens);
    out[DECISION_classify_us] = measured(row->classify_us);
    out[DECISION_queue_ms] = measured(row->queue_ms);
    out[DECISION_ttft_ms] = row->ttft_ms > 0 ? real(row->ttft_ms) : (struct log_value){.kind = VALUE_NULL};
    out[DECISION_total_ms] = measured(row->total_ms);
    out[DECISION_price_usd] = real(row->price_usd);
    out[DECISION_price_core_usd] = real(row->price_core_usd);
}

void log_row_values(const struct log_row *row, const char *node, enum tier tier, struct log_value out[DECISION_WIDTH])
{
    out[DECISION_request] = WORD(row->request);
    out[DECISION_node] = row->node[0] ? WORD(row->node) : name(node);
    out[DECISION_node_tier] = name(tier_name(tier));
    out[DECISION_at_ms] = integer(row->wall_ms);
    out[DECISION_from_below] = integer(row->from_below);
    out[DECISION_tenant] = WORD(row->tenant);
    out[DECISION_conversation] = WORD(row->conversation);
    out[DECISION_endpoint] = WORD(row->endpoint);
    out[DECISION_requested_model] = WORD(row->requested_model);
    out[DECISION_prompt_hash] =
        (struct log_value){.kind = VALUE_BLOB, .bytes = row->prompt_hash, .len = sizeof row->prompt_hash};
    out[DECISION_prompt_chars] = integer(row->prompt_chars);
    out[DECISION_turns] = integer(row->turns);
    decision_values(&row->decision, out);
    outcome_values(row, out);
}

void log_hop_values(const struct log_hop *hop, int index, struct log_value out[HOP_WIDTH])
{
    out[HOP_hop] = integer(index);
    out[HOP_at_ms] = integer(hop->wall_ms);
    out[HOP_tier] = name(tier_name(hop->tier));
    out[HOP_backend] = WORD(hop->backend);
    out[HOP_model] = WORD(hop->model);
    out[HOP_outcome] = WORD(hop->outcome);
    out[HOP_error] = WORD(hop->error);
    out[HOP_prompt_tokens] = integer(hop->prompt_tokens);
    out[HOP_completion_tokens] = integer(hop->completion_tokens);
    out[HOP_ttft_ms] = hop->ttft_ms > 0 ? real(hop->ttft_ms) : (struct log_value){.kind = VALUE_NULL};
    out[HOP_total_ms] = measured(hop->total_ms);
    out[HOP_price_usd] = real(hop->price_usd);
}

void log_label_values(const struct log_label *label, const char *node, struct log_value out[LABEL_WIDTH])
{
    out[LABEL_request] = WORD(label->request);
    out[LABEL_node] = label->node[0] ? WORD(label->node) : name(node);
    out[LABEL_at_ms] = integer(label->wall_ms);
    out[LABEL_source] = WORD(label->source);
    out[LABEL_tier] = name(tier_name(label->tier));
    out[LABEL_value] = real(label->value);
    out[LABEL_note] = WORD(label->note);
}
