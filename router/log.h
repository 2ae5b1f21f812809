/* The decision log: SQLite (WAL, synchronous=FULL), one writer thread, one transaction a batch.
 *
 * log_decision() and its like copy the row into a bounded queue and return at once; the request path never waits for
 * the disk. When the queue is full (disk full, database locked) rows are dropped, counted, and the fact is reported
 * once an episode in the text log. One connection writes and checkpoints; every reader opens its own read-only one
 * (Debian's SQLite 3.40 can corrupt a WAL when two connections write).
 */
#ifndef RUNG_ROUTER_LOG_H
#define RUNG_ROUTER_LOG_H

#include "router/policy.h"

#include "base/buf.h"

struct decision_log;

struct log_options {
    const char *path;          /* created with mode 0600 when missing */
    const char *node;          /* this node's id, in every row */
    enum tier tier;
    int queue_rows;            /* 0: 8192 */
    int batch_ms;              /* longest wait before a batch is written; 0: 50 */
    int64_t keep_ms;           /* older rows go; 0: 30 days */
    int64_t keep_bytes;        /* the oldest rows go when the file is larger; 0: 1 GiB */
    bool store_prompts;        /* keep prompt and answer text; off by default */
    const unsigned char *sketch_key; /* (32) of the sketches, shared by a fleet; NULL: the log's own */
};
/* Opens, migrates, starts the writer. Errors: ERR_IO, ERR_CORRUPT, ERR_VERSION (made by a newer rung), ERR_MEMORY. */
ERR_CHECKED enum err_code log_open(struct decision_log **out, const struct log_options *options, struct err *e);
/* Writes what is queued, within `wait_ms`, then closes. */
void log_close(struct decision_log *log, int wait_ms);

#define LOG_ID 40      /* request ids: up to 39 characters */
#define LOG_WORD 64
struct log_row {
    char request[LOG_ID], node[LOG_WORD]; /* node "": this one */
    int64_t wall_ms;
    char tenant[LOG_WORD], conversation[LOG_WORD], endpoint[24], requested_model[LOG_WORD];
    unsigned char prompt_hash[16];        /* keyed hash */
    int prompt_chars, turns;
    struct decision decision;             /* first choice of this node */
    enum tier answered;                   /* TIER_NONE: nobody */
    enum reason final_reason;             /* as told to the client: escalations and fail-overs counted in */
    char backend[LOG_WORD], model[LOG_WORD];
    enum err_code status;
    char error[160], finish[16];
    int http_status;
    bool streamed, escalated, failed_over, degraded, device_private;
    bool from_below;                      /* a node below sent it here and logs it too: not counted twice in a fleet */
    int prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens;
    double classify_us, queue_ms, ttft_ms, total_ms; /* ttft 0: nothing was sent */
    double price_usd, price_core_usd;     /* paid in all, abandoned work too; the same answered by core alone */
    double probe_p;                       /* joined probability of stages 2 and 3; < 0: not asked */
    bool has_sketch;
    int sketch_len;                       /* 0: all of it */
    unsigned char sketch[ROUTER_SKETCH_BYTES];
    char *prompt, *answer;                /* malloc'd, taken by the log; stored only with store_prompts */
    /* Or, in place of prompt_hash and sketch: the text itself, from which the writer's thread makes both (a keyed sketch
     * costs more than the whole request path), and which it then forgets. */
    struct router_input about;            /* its text is copied */
    struct router_base base;              /* goes into the sketch; an id of zeros: none */
    const struct router_trace *trace;     /* of this text, or NULL; copied */
    bool has_text, wants_sketch;
};
struct log_hop {
    char request[LOG_ID], node[LOG_WORD];
    int index;                            /* 0, 1, … in the order they were tried here */
    int64_t wall_ms;
    enum tier tier;
    char backend[LOG_WORD], model[LOG_WORD], outcome[24]; /* "done", "escalated", "failed", "cancelled" */
    char error[160];
    int completion_tokens, prompt_tokens;
    double ttft_ms, total_ms, price_usd;
};
struct log_label {
    char request[LOG_ID], node[LOG_WORD], source[16]; /* "feedback", "checker", "shadow" */
    int64_t wall_ms;
    enum tier tier;                       /* whose answer is judged; TIER_NONE: the one that was given */
    double value;                         /* 1 right … 0 wrong */
    char note[160];
};
/* ERR_FULL when the row was dropped (and counted). Any thread; never blocks on the disk. Nulls row->prompt and answer. */
enum err_code log_decision(struct decision_log *log, struct log_row *row, const struct log_hop *hops, int hop_count);
enum err_code log_label_add(struct decision_log *log, const struct log_label *label);

/* Policies: the table is the truth, highest version wins. Blocking (start, reload: not on the request path). */
struct log_policy_query {
    const char *source, *arm; /* NULL: any */
    int64_t before;           /* a version; 0: the newest */
};
ERR_CHECKED enum err_code log_policy_latest(struct decision_log *log, const struct log_policy_query *query,
                                            struct policy *out, bool *found, struct err *e);
/* Stores it as the next version, which is set in `policy`. `source` is "config", "tune", "region" … */
ERR_CHECKED enum err_code log_policy_add(struct decision_log *log, struct policy *policy, const char *source, struct err *e);

/* Shipping rows upward. The writer thread collects the next rows after the acknowledged one into one MessagePack
 * blob (at most max_bytes) and calls `ready` on its own thread (post to your loop); last_id goes into the
 * acknowledgement. ready gets len 0 when there is nothing new. Rows of device-private requests go without hash and
 * sketch. */
typedef void log_batch_ready(void *ctx, const void *data, size_t len, int64_t last_id);
enum err_code log_ship_next(struct decision_log *log, size_t max_bytes, log_batch_ready *ready, void *ctx);
enum err_code log_ship_acknowledged(struct decision_log *log, int64_t last_id);
/* The other end: store a batch that came from below; rows already there (same node and id) are skipped. `done` is
 * called on the writer thread once it is on the disk. Errors: ERR_CORRUPT (nothing is stored), ERR_FULL. */
typedef void log_batch_stored(void *ctx, const char *node, int64_t last_id, enum err_code code);
ERR_CHECKED enum err_code log_receive(struct decision_log *log, const char *from_node, const void *data, size_t len,
                                      log_batch_stored *done, void *ctx, struct err *e);

struct log_stats {
    int64_t rows_written, rows_dropped, batches, write_errors, queue_rows, bytes, unshipped;
    double last_batch_ms;
};
void log_stats(const struct decision_log *log, struct log_stats *out);
/* Wait until all that was queued before is committed, or wait_ms passed (tests, shutdown). */
bool log_flush(struct decision_log *log, int wait_ms);

/* The log's secret key for hashes and sketches, made at first open and kept in the database's `meta` table. */
void log_key(const struct decision_log *log, unsigned char out[32]);
void log_sketch_key(const struct decision_log *log, unsigned char out[32]); /* the same, unless one was given */
/* Keyed hash of a prompt (BLAKE2b-128). */
void log_prompt_hash(const struct decision_log *log, const char *text, size_t len, unsigned char out[16]);

#endif
