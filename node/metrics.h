/* Counters, gauges and histograms, told as Prometheus text. Loop thread only. */
#ifndef RUNG_NODE_METRICS_H
#define RUNG_NODE_METRICS_H

#include "base/buf.h"
#include "base/tier.h"

#include <stdbool.h>
#include <stdint.h>

struct node;
struct metrics;

/*       code                       name                                type       help */
#define METRICS_TABLE(X)                                                                                                  \
    X(METRIC_HTTP_REQUESTS,       "rung_http_requests_total",          "requests that reached the HTTP front")            \
    X(METRIC_HTTP_REFUSED,        "rung_http_refused_total",           "requests refused before they became one: auth, size, syntax") \
    X(METRIC_WIRE_REFUSED,        "rung_wire_refused_total",           "ZeroMQ messages refused: damaged, oversize, unknown type or version") \
    X(METRIC_REQUESTS,            "rung_requests_total",               "requests taken")                                  \
    X(METRIC_REQUESTS_FAILED,     "rung_requests_failed_total",        "requests that ended in an error")                 \
    X(METRIC_REQUESTS_REPEATED,   "rung_requests_repeated_total",      "requests answered by another of the same idempotency key, running or ended") \
    X(METRIC_REQUESTS_CANCELLED,  "rung_requests_cancelled_total",     "requests whose client went away")                 \
    X(METRIC_REQUESTS_REFUSED,    "rung_requests_refused_total",       "requests refused because a queue or table was full") \
    X(METRIC_ESCALATIONS,         "rung_escalations_total",            "requests moved up a tier while the edge was answering") \
    X(METRIC_FAILOVERS,           "rung_failovers_total",              "requests given to another backend because one failed") \
    X(METRIC_DEGRADED,            "rung_degraded_total",               "answers from a lower tier because every higher one was gone") \
    X(METRIC_UNFAMILIAR,          "rung_unfamiliar_total",             "prompts unlike what the router was fitted on; many mean a stale router") \
    X(METRIC_BREAKER_OPENED,      "rung_breaker_opened_total",         "times a backend was set aside after failures in a row")
enum metric {
#define X(code, name, help) code,
    METRICS_TABLE(X)
#undef X
    METRICS
};
struct metrics *metrics_new(void);
void metrics_free(struct metrics *metrics);
void metrics_add(struct metrics *metrics, enum metric metric, int64_t n);
int64_t metrics_read(const struct metrics *metrics, enum metric metric);
/* One finished request: tier mix, tokens, price, duration histograms (gen_ai.* names where they exist). */
struct metrics_request {
    enum tier tier;
    const char *model;
    double ttft_s, total_s, price_usd, price_core_usd;
    int64_t input_tokens, output_tokens;
    bool ok;
};
void metrics_request(struct metrics *metrics, const struct metrics_request *request);
/* The whole exposition, live gauges of the node included. */
void metrics_write(const struct node *node, struct buf *out);

#endif
