/* The log's columns as rows of a table: what is bound, shipped, checked on arrival and documented all come from here.
 * Inside the room only. A test compares these with the schema.
 */
#ifndef RUNG_ROUTER_LOG_COLUMNS_H
#define RUNG_ROUTER_LOG_COLUMNS_H

#include "router/log.h"

enum column_type { COLUMN_INTEGER, COLUMN_REAL, COLUMN_TEXT, COLUMN_BLOB };

/* An INTEGER or TEXT column always has a value; a REAL or BLOB one may be NULL (not measured, not kept). `max` bounds
 * what a TEXT or BLOB holds, in bytes, and an INTEGER (never negative), in bits.
 *       name              type     max */
#define DECISION_COLUMNS(X)             \
    X(request,           TEXT,    39)   \
    X(node,              TEXT,    63)   \
    X(node_tier,         TEXT,    8)    \
    X(at_ms,             INTEGER, 47)   \
    X(from_below,        INTEGER, 31)   \
    X(tenant,            TEXT,    63)   \
    X(conversation,      TEXT,    63)   \
    X(endpoint,          TEXT,    23)   \
    X(requested_model,   TEXT,    63)   \
    X(prompt_hash,       BLOB,    16)   \
    X(prompt_chars,      INTEGER, 31)   \
    X(turns,             INTEGER, 31)   \
    X(tier,              TEXT,    8)    \
    X(reason,            TEXT,    24)   \
    X(first_tier,        TEXT,    8)    \
    X(first_reason,      TEXT,    24)   \
    X(why,               TEXT,    159)  \
    X(p_edge,            REAL,    0)    \
    X(p_region,          REAL,    0)    \
    X(p_core,            REAL,    0)    \
    X(ood,               REAL,    0)    \
    X(threshold,         REAL,    0)    \
    X(propensity,        REAL,    0)    \
    X(explored,          INTEGER, 31)   \
    X(allowed_edge,      INTEGER, 31)   \
    X(allowed_region,    INTEGER, 31)   \
    X(allowed_core,      INTEGER, 31)   \
    X(arm,               TEXT,    15)   \
    X(policy,            INTEGER, 47)   \
    X(router,            TEXT,    16)   \
    X(probe_p,           REAL,    0)    \
    X(backend,           TEXT,    63)   \
    X(model,             TEXT,    63)   \
    X(status,            TEXT,    31)   \
    X(error,             TEXT,    159)  \
    X(finish,            TEXT,    15)   \
    X(http_status,       INTEGER, 31)   \
    X(streamed,          INTEGER, 31)   \
    X(escalated,         INTEGER, 31)   \
    X(failed_over,       INTEGER, 31)   \
    X(degraded,          INTEGER, 31)   \
    X(device_private,    INTEGER, 31)   \
    X(prompt_tokens,     INTEGER, 31)   \
    X(cached_tokens,     INTEGER, 31)   \
    X(completion_tokens, INTEGER, 31)   \
    X(reasoning_tokens,  INTEGER, 31)   \
    X(classify_us,       REAL,    0)    \
    X(queue_ms,          REAL,    0)    \
    X(ttft_ms,           REAL,    0)    \
    X(total_ms,          REAL,    0)    \
    X(price_usd,         REAL,    0)    \
    X(price_core_usd,    REAL,    0)

#define HOP_COLUMNS(X)                  \
    X(hop,               INTEGER, 31)   \
    X(at_ms,             INTEGER, 47)   \
    X(tier,              TEXT,    8)    \
    X(backend,           TEXT,    63)   \
    X(model,             TEXT,    63)   \
    X(outcome,           TEXT,    23)   \
    X(error,             TEXT,    159)  \
    X(prompt_tokens,     INTEGER, 31)   \
    X(completion_tokens, INTEGER, 31)   \
    X(ttft_ms,           REAL,    0)    \
    X(total_ms,          REAL,    0)    \
    X(price_usd,         REAL,    0)

#define LABEL_COLUMNS(X)                \
    X(request,           TEXT,    39)   \
    X(node,              TEXT,    63)   \
    X(at_ms,             INTEGER, 47)   \
    X(source,            TEXT,    15)   \
    X(tier,              TEXT,    8)    \
    X(value,             REAL,    0)    \
    X(note,              TEXT,    159)

#define X(name, type, max) DECISION_##name,
enum { DECISION_COLUMNS(X) DECISION_WIDTH };
#undef X
#define X(name, type, max) HOP_##name,
enum { HOP_COLUMNS(X) HOP_WIDTH };
#undef X
#define X(name, type, max) LABEL_##name,
enum { LABEL_COLUMNS(X) LABEL_WIDTH };
#undef X
enum { HOPS_MAX = 32 }; /* hops kept of one decision */

struct log_column {
    const char *name;
    enum column_type type;
    int max;
};
struct log_table {
    const char *name;
    int width;
    const struct log_column *columns; /* (width) */
};
extern const struct log_table LOG_DECISIONS, LOG_HOPS, LOG_LABELS;

/* One column's value. Text and bytes are borrowed: from the row, the blob or the statement it came from. */
struct log_value {
    enum { VALUE_NULL, VALUE_INTEGER, VALUE_REAL, VALUE_TEXT, VALUE_BLOB } kind;
    union {
        int64_t integer;
        double real;
        const void *bytes;
    };
    size_t len; /* of bytes */
};

/* `node` and `tier` stand in where the row names no node. Values point into the row. */
void log_row_values(const struct log_row *row, const char *node, enum tier tier, struct log_value out[DECISION_WIDTH]);
void log_hop_values(const struct log_hop *hop, int index, struct log_value out[HOP_WIDTH]);
void log_label_values(const struct log_label *label, const char *node, struct log_value out[LABEL_WIDTH]);

#endif
