#include "node/metrics.h"

#include "node/gpu.h"
#include "node/node.h"
#include "node/watch.h"

#include "base/clock.h"
#include "engine/engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct metric_row {
    const char *name, *help;
};
static const struct metric_row ROWS[METRICS] = {
#define X(code, name, help) [code] = {name, help},
    METRICS_TABLE(X)
#undef X
};

/* Bucket bounds of the OpenTelemetry GenAI semantic conventions (seconds). */
static const double DURATION[] = {0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92};
static const double TTFT[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10};
static const double TOKENS[] = {1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864};

struct histogram {
    int64_t buckets[17]; /* the last in use counts all */
    double sum;
    int64_t count;
};
struct tier_metrics {
    struct histogram total, ttft, input, output;
    int64_t requests;
    double price_usd, price_core_usd;
};
struct metrics {
    int64_t counters[METRICS];
    struct tier_metrics tiers[TIERS];
};

struct metrics *metrics_new(void)
{
    return calloc(1, sizeof(struct metrics));
}

void metrics_free(struct metrics *metrics)
{
    free(metrics);
}

void metrics_add(struct metrics *metrics, enum metric metric, int64_t n)
{
    metrics->counters[metric] += n;
}

int64_t metrics_read(const struct metrics *metrics, enum metric metric)
{
    return metrics->counters[metric];
}

static void observe(struct histogram *h, const double *bounds, size_t count, double value)
{
    for (size_t i = 0; i < count; i++)
        if (value <= bounds[i]) h->buckets[i]++;
    h->sum += value;
    h->count++;
}
#define OBSERVE(h, bounds, value) observe(h, bounds, sizeof bounds / sizeof bounds[0], value)

void metrics_request(struct metrics *metrics, const struct metrics_request *request)
{
    if ((unsigned)request->tier >= TIERS) return;
    struct tier_metrics *t = &metrics->tiers[request->tier];
    t->requests++;
    t->price_usd += request->price_usd;
    t->price_core_usd += request->price_core_usd;
    OBSERVE(&t->total, DURATION, request->total_s);
    if (request->ttft_s > 0) OBSERVE(&t->ttft, TTFT, request->ttft_s);
    OBSERVE(&t->input, TOKENS, (double)request->input_tokens);
    OBSERVE(&t->output, TOKENS, (double)request->output_tokens);
}

static void head(struct buf *out, const char *name, const char *type, const char *help)
{
    buf_addf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void write_histogram(struct buf *out, const char *name, const char *labels, const struct histogram *h,
                            const double *bounds, size_t count)
{
    for (size_t i = 0; i < count; i++)
        buf_addf(out, "%s_bucket{%s,le=\"%g\"} %lld\n", name, labels, bounds[i], (long long)h->buckets[i]);
    buf_addf(out, "%s_bucket{%s,le=\"+Inf\"} %lld\n", name, labels, (long long)h->count);
    buf_addf(out, "%s_sum{%s} %.9g\n%s_count{%s} %lld\n", name, labels, h->sum, name, labels, (long long)h->count);
}
#define WRITE_HISTOGRAM(out, name, labels, h, bounds) \
    write_histogram(out, name, labels, h, bounds, sizeof bounds / sizeof bounds[0])

static void write_tiers(const struct metrics *m, struct buf *out)
{
    char labels[64];
    head(out, "rung_answers_total", "counter", "requests answered, by the tier that answered");
    for (int t = 0; t < TIERS; t++)
        buf_addf(out, "rung_answers_total{tier=\"%s\"} %lld\n", tier_name((enum tier)t), (long long)m->tiers[t].requests);
    head(out, "rung_price_usd_total", "counter", "dollars spent, by the tier that answered");
    for (int t = 0; t < TIERS; t++)
        buf_addf(out, "rung_price_usd_total{tier=\"%s\"} %.9g\n", tier_name((enum tier)t), m->tiers[t].price_usd);
    head(out, "rung_price_core_usd_total", "counter", "dollars the same answers would have cost at core");
    for (int t = 0; t < TIERS; t++)
        buf_addf(out, "rung_price_core_usd_total{tier=\"%s\"} %.9g\n", tier_name((enum tier)t), m->tiers[t].price_core_usd);
    head(out, "gen_ai_server_request_duration_seconds", "histogram", "from a request's arrival to its last token");
    head(out, "gen_ai_server_time_to_first_token_seconds", "histogram", "from a request's arrival to the first token told");
    head(out, "gen_ai_client_token_usage", "histogram", "tokens of a request");
    for (int t = 0; t < TIERS; t++) {
        const struct tier_metrics *tm = &m->tiers[t];
        (void)snprintf(labels, sizeof labels, "tier=\"%s\"", tier_name((enum tier)t));
        WRITE_HISTOGRAM(out, "gen_ai_server_request_duration_seconds", labels, &tm->total, DURATION);
        WRITE_HISTOGRAM(out, "gen_ai_server_time_to_first_token_seconds", labels, &tm->ttft, TTFT);
        (void)snprintf(labels, sizeof labels, "tier=\"%s\",gen_ai_token_type=\"input\"", tier_name((enum tier)t));
        WRITE_HISTOGRAM(out, "gen_ai_client_token_usage", labels, &tm->input, TOKENS);
        (void)snprintf(labels, sizeof labels, "tier=\"%s\",gen_ai_token_type=\"output\"", tier_name((enum tier)t));
        WRITE_HISTOGRAM(out, "gen_ai_client_token_usage", labels, &tm->output, TOKENS);
    }
}

static void write_backends(const struct node *node, struct buf *out)
{
    head(out, "rung_backend_up", "gauge", "1 while a backend can take work");
    for (const struct backend *b = node->backends; b; b = b->next)
        buf_addf(out, "rung_backend_up{backend=\"%s\",type=\"%s\"} %d\n", b->name, b->ops->type, backend_ready(node, b));
    head(out, "rung_backend_running", "gauge", "calls a backend is answering");
    for (const struct backend *b = node->backends; b; b = b->next)
        buf_addf(out, "rung_backend_running{backend=\"%s\"} %d\n", b->name, b->running);
    head(out, "rung_backend_ttft_seconds", "gauge", "running mean of the time to a backend's first token");
    for (const struct backend *b = node->backends; b; b = b->next)
        buf_addf(out, "rung_backend_ttft_seconds{backend=\"%s\"} %.6g\n", b->name, b->ttft_ms / 1000);
    head(out, "rung_backend_tokens_per_second", "gauge", "running mean of a backend's speed in one stream");
    for (const struct backend *b = node->backends; b; b = b->next)
        buf_addf(out, "rung_backend_tokens_per_second{backend=\"%s\"} %.6g\n", b->name, b->tokens_per_s);
}

/* The engines in this process: one row a figure, one line a backend. */
static const struct {
    const char *name, *type, *help;
} ENGINE_ROWS[] = {
    {"rung_engine_slots", "gauge", "sequences an engine decodes together at most"},
    {"rung_engine_slots_used", "gauge", "sequences an engine decodes now"},
    {"rung_engine_queue", "gauge", "sequences waiting for a slot"},
    {"rung_engine_pages_used", "gauge", "KV pages in use by running sequences"},
    {"rung_engine_pages_cached", "gauge", "KV pages kept for prompts that begin alike"},
    {"rung_engine_pages_free", "gauge", "KV pages that hold nothing"},
    {"rung_engine_pages_fragmented", "gauge", "of the pages in use: positions that hold nothing yet, in pages' worth"},
    {"rung_engine_batch", "gauge", "tokens worked on together in the last step"},
    {"rung_engine_prompt_tokens_total", "counter", "prompt tokens, cached ones counted in"},
    {"rung_engine_cached_tokens_total", "counter", "prompt tokens that were found in the cache"},
    {"rung_engine_completion_tokens_total", "counter", "tokens made"},
    {"rung_engine_preemptions_total", "counter", "sequences put back because the KV pages had run out"},
    {"rung_engine_steps_total", "counter", "forward steps"},
    {"rung_engine_guessed_tokens_total", "counter", "tokens guessed, from the text or by a draft model, and checked"},
    {"rung_engine_kept_tokens_total", "counter", "of them: the model's own choice"},
    {"rung_engine_draft_guessed_tokens_total", "counter", "of those guessed: a draft model's"},
    {"rung_engine_draft_kept_tokens_total", "counter", "of those kept: a draft model's"},
    {"rung_engine_draft_steps_total", "counter", "forward steps of a draft model"},
    {"rung_engine_prefill_tokens_per_second", "gauge", "prompt tokens a second over the last seconds"},
    {"rung_engine_decode_tokens_per_second", "gauge", "tokens made a second over the last seconds"},
};
enum { ENGINE_ROWS_COUNT = (int)(sizeof ENGINE_ROWS / sizeof ENGINE_ROWS[0]) };

static void engine_values(const struct engine_stats *s, double *out) /* (ENGINE_ROWS_COUNT) in the rows' order */
{
    const double values[ENGINE_ROWS_COUNT] = {
        s->slots_max, s->slots_used, s->queue_used, s->pages_used, s->pages_cached, s->pages_total - s->pages_used - s->pages_cached,
        s->pages_fragmented, s->batch_last,
        (double)s->prompt_tokens, (double)s->cached_tokens, (double)s->completion_tokens, (double)s->preemptions, (double)s->steps,
        (double)s->guessed_tokens, (double)s->kept_tokens, (double)s->draft_guessed_tokens, (double)s->draft_kept_tokens, (double)s->draft_steps,
        s->prefill_tokens_per_s, s->decode_tokens_per_s};
    memcpy(out, values, sizeof values);
}

static void write_engines(const struct node *node, struct buf *out)
{
    struct engine_stats stats;
    double values[ENGINE_ROWS_COUNT];
    bool any = false;
    for (const struct backend *b = node->backends; b && !any; b = b->next) any = b->stats != NULL;
    for (int i = 0; any && i < ENGINE_ROWS_COUNT; i++) {
        head(out, ENGINE_ROWS[i].name, ENGINE_ROWS[i].type, ENGINE_ROWS[i].help);
        for (const struct backend *b = node->backends; b; b = b->next) {
            if (!b->stats) continue;
            b->stats(b, &stats);
            engine_values(&stats, values);
            buf_addf(out, "%s{backend=\"%s\"} %.9g\n", ENGINE_ROWS[i].name, b->name, values[i]);
        }
    }
}

/* The GPUs under them; what nobody tells has no line. */
static void write_gpus(const struct node *node, struct buf *out)
{
    static const struct {
        const char *name, *help;
        size_t field;
    } GPU_ROWS[] = {
        {"rung_gpu_utilization", "share of the last moments in which something ran on the GPU", offsetof(struct gpu_reading, utilization)},
        {"rung_gpu_memory_used_bytes", "memory in use on the GPU, by anybody", offsetof(struct gpu_reading, memory_used)},
        {"rung_gpu_memory_free_bytes", "memory free on the GPU", offsetof(struct gpu_reading, memory_free)},
        {"rung_gpu_power_watts", "what the GPU draws", offsetof(struct gpu_reading, power_w)},
        {"rung_gpu_temperature_celsius", "the GPU's temperature", offsetof(struct gpu_reading, temperature_c)},
    };
    struct gpu_reading gpus[GPUS_WATCHED_MAX];
    int count = node->gpus ? gpu_monitor_read(node->gpus, gpus, GPUS_WATCHED_MAX) : 0;
    for (size_t r = 0; count > 0 && r < sizeof GPU_ROWS / sizeof GPU_ROWS[0]; r++) {
        head(out, GPU_ROWS[r].name, "gauge", GPU_ROWS[r].help);
        for (int i = 0; i < count; i++) {
            double value;
            memcpy(&value, (const char *)&gpus[i] + GPU_ROWS[r].field, sizeof value);
            if (!isnan(value)) buf_addf(out, "%s{gpu=\"%d\",name=\"%s\"} %.9g\n", GPU_ROWS[r].name, gpus[i].index, gpus[i].name, value);
        }
    }
}

static void gauge(struct buf *out, const char *name, const char *type, const char *help, double value)
{
    head(out, name, type, help);
    buf_addf(out, "%s %.9g\n", name, value);
}

static void write_log(const struct node *node, struct buf *out)
{
    if (!node->log) return;
    struct log_stats s;
    log_stats(node->log, &s);
    gauge(out, "rung_log_rows_written_total", "counter", "rows the log has committed", (double)s.rows_written);
    gauge(out, "rung_log_rows_dropped_total", "counter", "rows lost because the log's queue was full", (double)s.rows_dropped);
    gauge(out, "rung_log_write_errors_total", "counter", "batches the disk refused", (double)s.write_errors);
    gauge(out, "rung_log_queue_rows", "gauge", "rows waiting to be written", (double)s.queue_rows);
    gauge(out, "rung_log_bytes", "gauge", "size of the log's file", (double)s.bytes);
    gauge(out, "rung_log_unshipped_rows", "gauge", "rows the node above has not acknowledged", (double)s.unshipped);
}

static void write_stale(const struct node *node, struct buf *out)
{
    const struct stale *s = watch_stale(node->watch);
    if (!s) return;
    gauge(out, "rung_router_stale", "gauge", "1: the router's probabilities or its prompts have drifted past a bound", s->stale);
    gauge(out, "rung_router_unfamiliar_share", "gauge", "of the last decisions, prompts unlike the router's fit", s->unfamiliar);
    head(out, "rung_router_calibration_drift", "gauge", "promised less labelled share of right answers, last seven days");
    for (int t = 0; t < TIERS; t++)
        if (s->tier[t].labels > 0)
            buf_addf(out, "rung_router_calibration_drift{tier=\"%s\"} %.6g\n", tier_name((enum tier)t),
                     s->tier[t].promised - s->tier[t].was);
}

void metrics_write(const struct node *node, struct buf *out)
{
    const struct metrics *m = node->metrics;
    head(out, "rung_info", "gauge", "the program's version and the node's tier");
    buf_addf(out, "rung_info{version=\"%s\",tier=\"%s\",node=\"%s\"} 1\n", RUNG_VERSION, tier_name(node->config->tier),
             node->config->node);
    for (int i = 0; i < METRICS; i++) {
        head(out, ROWS[i].name, "counter", ROWS[i].help);
        buf_addf(out, "%s %lld\n", ROWS[i].name, (long long)m->counters[i]);
    }
    gauge(out, "rung_requests_running", "gauge", "requests in the table now", request_count(node));
    gauge(out, "rung_uptime_seconds", "gauge", "since the node started",
          (double)(clock_wall_ms() - node->started_wall_ms) / 1000);
    gauge(out, "rung_policy_version", "gauge", "version of the policy in force", (double)node->policy.version);
    write_tiers(m, out);
    write_backends(node, out);
    write_engines(node, out);
    write_gpus(node, out);
    write_log(node, out);
    write_stale(node, out);
}
