/* The log's file: opened, migrated, written and kept small by one thread, the writer. Inside the room only.
 *
 * Everything here blocks on the disk. Results of SQLite are passed on as its codes, for the writer to judge.
 */
#ifndef RUNG_ROUTER_LOG_STORE_H
#define RUNG_ROUTER_LOG_STORE_H

#include "router/log_columns.h"
#include "router/log_rollup.h"

#include <sqlite3.h>

enum { STORE_VERSION = 2, STORE_APPLICATION_ID = 0x52554e47 /* "RUNG" */, LOG_ID_BYTES = 8 };

enum store_statement {
    STORE_BEGIN, STORE_COMMIT, STORE_ROLLBACK, STORE_META,
    STORE_DECISION, STORE_HOP, STORE_LABEL, STORE_SKETCH, STORE_PROMPT, /* add a row */
    STORE_DECISIONS, STORE_HOPS, STORE_SKETCHES, /* add STORE_TOGETHER rows */
    STORE_ORIGIN_ADD, STORE_ORIGIN_FIND, STORE_ORIGIN_SEEN,
    STORE_OLD_DECISIONS, STORE_OLD_LABELS,
    STORE_DROP_DECISION, STORE_DROP_HOPS, STORE_DROP_SKETCH, STORE_DROP_PROMPT, STORE_DROP_LABEL, STORE_DROP_HOURLY,
    STORE_DROP_LATENCY, STORE_DROP_DAILY, STORE_VACUUM, STORE_PAGES, STORE_FREE_PAGES,
    STORE_SHIP_DECISIONS, STORE_SHIP_LABELS, STORE_SHIP_HOPS,
    STORE_STATEMENTS
};

/* What is added of a decision. */
struct store_decision {
    const struct log_value *values; /* (DECISION_WIDTH) */
    const struct log_value (*hops)[HOP_WIDTH];
    int hop_count;
    const unsigned char *sketch;    /* (sketch_len, at most ROUTER_SKETCH_BYTES) or NULL */
    size_t sketch_len;
    const char *prompt, *answer;    /* or NULL */
};

/* Our own decisions, kept until there are enough to be inserted together. */
enum { STORE_TOGETHER = 8 };
struct store_row {
    int64_t id;
    struct store_decision decision; /* but for values and hops, which lie here */
    struct log_value values[DECISION_WIDTH], hops[HOPS_MAX][HOP_WIDTH];
};
/* What a statement's parameter holds now. */
struct store_bound {
    int kind; /* of log_value, and 1; 0: not known */
    size_t len;
    union {
        int64_t integer;
        double real;
        unsigned char bytes[48];
    };
};
struct store_together {
    int count;
    struct store_row row[STORE_TOGETHER];
    struct store_bound decision[STORE_TOGETHER][DECISION_WIDTH], hop[STORE_TOGETHER][HOP_WIDTH];
};

struct store {
    sqlite3 *sql; /* NULL: not open just now */
    sqlite3_stmt *statement[STORE_STATEMENTS];
    struct rollup *rollup;
    const char *path, *node;
    enum tier tier;
    int lock_fd; /* of PATH-lock, held while this process writes; -1: not held */
    bool store_prompts;
    bool one_by_one;             /* our own rows too: one of them cannot be stored, and must not take others along */
    struct store_together together;
    int64_t keep_ms, keep_bytes;
    int64_t next_id, shipped_id; /* as they will be once the batch is committed */
    int64_t committed_next_id, committed_shipped_id;
    int64_t page_bytes;
    unsigned char key[32], log_id[LOG_ID_BYTES];
    int last_code;               /* of the call that failed */
    char last_error[200];        /* SQLite's words for it */
};

/* `path` and `node` are borrowed and must outlive the store. A damaged file is moved aside and a new one begun.
 * Errors as log_open. */
ERR_CHECKED enum err_code store_open(struct store *store, const struct log_options *options, struct err *e);
/* Again, after a failure; the key stays the same when the file does. */
ERR_CHECKED enum err_code store_reopen(struct store *store, struct err *e);
void store_close(struct store *store);
/* Whether the file at the path is no longer the one that is open: someone moved or deleted it. */
bool store_moved(const struct store *store);

/* One transaction. store_commit writes rollups and counters too; store_rollback forgets all since store_begin. */
int store_begin(struct store *store);
int store_commit(struct store *store);
void store_rollback(struct store *store);

/* Where a row that came from another node was numbered; origin 0: it is our own. */
struct store_origin {
    int64_t origin, row;
};
/* SQLITE_CONSTRAINT: that one row cannot be stored, the transaction goes on. `stored` tells a new row from one that was there
 * already. */
int store_add_decision(struct store *store, struct store_origin origin, const struct store_decision *decision,
                       bool *stored);
int store_add_label(struct store *store, struct store_origin origin, const struct log_value values[LABEL_WIDTH],
                    bool *stored);
/* One of our own: fill the next row, whose pointers must last until the commit, then add it. SQLITE_CONSTRAINT: some row of this
 * transaction cannot be stored and nothing of it is kept, unless one_by_one is set: then it is this row alone. */
struct store_row *store_together_next(struct store *store);
int store_together_add(struct store *store);
int store_together_insert(struct store *store); /* those that still wait; store_commit does it */
int store_set_shipped(struct store *store, int64_t id);
/* The number under which rows of that node's log are kept here. */
int store_origin(struct store *store, const char *node, size_t node_len, const unsigned char log_id[LOG_ID_BYTES],
                 int64_t *origin);
int store_origin_seen(struct store *store, int64_t origin, int64_t last_row, int64_t at_ms);
/* Inside a transaction: drop up to `rows_max` rows that are too old, or the oldest when the file is too large, and give
 * pages back; `more` says that it should be called again. The second is cheap enough for every batch. */
enum { STORE_TRIM_ROWS_MAX = 4096 };
int store_trim_age(struct store *store, int64_t now_ms, int rows_max, bool *more);
int store_trim_bytes(struct store *store, int rows_max, bool *more);
/* Bytes of the file and its WAL. */
int64_t store_bytes(const struct store *store);

/* A read-only connection with the busy timeout set. The caller closes it. */
ERR_CHECKED enum err_code store_open_reader(sqlite3 **out, const char *path, struct err *e);

/* One row of `meta`; either of number and bytes may be NULL. */
int store_meta_put(struct store *store, const char *name, const int64_t *number, const void *bytes, int len);

/* The statement, compiled; NULL with last_code set when that failed. Reset after use. */
sqlite3_stmt *store_statement(struct store *store, enum store_statement which);
/* Step a statement that returns nothing, and reset it. */
int store_run(struct store *store, sqlite3_stmt *st);
int store_fail(struct store *store, int rc); /* notes SQLite's words, returns rc */
void store_bind(sqlite3_stmt *st, int first, const struct log_value *values, int count);

#endif
