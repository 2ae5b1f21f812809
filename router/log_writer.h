/* The queue before the writer and the thread behind it. Inside the room only. */
#ifndef RUNG_ROUTER_LOG_WRITER_H
#define RUNG_ROUTER_LOG_WRITER_H

#include "router/log_ship.h"
#include "router/sketch.h"

#include <pthread.h>
#include <time.h>

enum {
    BATCH_ROWS = 2048, /* in one transaction, at the most */
    RIPE_ROWS = 96,    /* so many waiting rows are written without waiting for more: many short turns of the writer disturb
                          a loop beside it less than few long ones; */
    RIPE_MS = 5        /* but not sooner than this after the first, or at full speed each row would pay for too much of a commit */
};

enum entry_kind { ENTRY_DECISION, ENTRY_LABEL, ENTRY_TASK, ENTRY_SHIP, ENTRY_ACKNOWLEDGED, ENTRY_RECEIVE };
struct entry {
    struct entry *next;
    enum entry_kind kind;
    bool refused; /* it could not be stored, though the others of its batch were */
};

/* Something to do in the writer's transaction for someone who waits. */
struct task {
    struct entry entry;
    int (*run)(struct store *store, struct task *task); /* SQLite result code */
    bool done, abandoned;
    enum err_code result;
};

struct decision_entry {
    struct entry entry;
    struct log_row row;
    size_t cap;            /* bytes behind it: hops, then trace, then text */
    int hop_count;
    struct log_hop hops[];
};
struct label_entry {
    struct entry entry;
    struct log_label label;
};
struct ship_entry { /* and acknowledgements */
    struct entry entry;
    size_t max_bytes;
    log_batch_ready *ready;
    void *ctx;
    int64_t last_id;
};
struct receive_entry {
    struct entry entry;
    log_batch_stored *done;
    void *ctx;
    struct ship_header header;
    enum err_code code;
    int64_t stored;
    size_t len;
    unsigned char data[];
};

struct decision_log {
    char *path, *node;
    int queue_rows, batch_ms;
    pthread_t writer;
    struct store store; /* the writer's alone once it runs; the keys never change while the log is open */
    unsigned char key[32], sketch_secret[32];
    struct sketch_key sketch_key; /* made of it */

    pthread_mutex_t lock; /* guards what follows; never held while the disk is waited for */
    pthread_cond_t wake, settled;
    struct entry *head, **tail;
    int waiting, in_hand;           /* entries in the list; taken and not yet settled */
    size_t receive_bytes;
    uint64_t queued_seq, taken_seq, settled_seq, hurry_seq; /* entries are numbered as they come */
    uint64_t lost;                  /* dropped by the writer */
    int64_t first_us;               /* when the list stopped being empty */
    bool stop, drop_told;           /* told of until the queue is half empty and a minute has passed */
    int64_t drop_told_us;
    int64_t stop_ms;                /* with stop: give up then */
    struct entry *spare;            /* settled decisions, at most SPARES_MAX (6 MiB), for the next */
    int spares;
    struct log_stats stats;

    /* the writer's own */
    int64_t next_trim_ms;
    bool old_more, trim_more, failing; /* trim_more: the next idle moment goes on with it */
    int failures;
};

enum { SPARES_MAX = 512, SPARE_BYTES_MAX = 8192 /* a larger one is not kept */ };
/* Everything of it but its own memory. */
void decision_release(struct decision_entry *entry);
void decisions_free(struct entry *list);
/* The thread; `arg` is the log. Ends when the log stops and its queue is empty. */
void *writer_run(void *arg);
struct timespec at_mono_us(int64_t us); /* for a wait on `wake` or `settled` */

/* Puts the (malloc'd, cleared) task into the queue and waits for it. With ERR_TIMEOUT and ERR_FULL the task is no
 * longer the caller's; else the caller frees it. `what` names it in an error. */
ERR_CHECKED enum err_code log_task_run(struct decision_log *log, struct task *task, const char *what, int wait_ms,
                                       struct err *e);
const char *log_path(const struct decision_log *log);

#endif
