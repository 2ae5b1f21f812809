/* The queue before the writer and the thread behind it. Inside the room only. */
#ifndef RUNG_ROUTER_LOG_WRITER_H
#define RUNG_ROUTER_LOG_WRITER_H

#include "router/log_store.h"

#include <pthread.h>

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

/* Puts the (malloc'd, cleared) task into the queue and waits for it. With ERR_TIMEOUT and ERR_FULL the task is no
 * longer the caller's; else the caller frees it. `what` names it in an error. */
ERR_CHECKED enum err_code log_task_run(struct decision_log *log, struct task *task, const char *what, int wait_ms,
                                       struct err *e);
const char *log_path(const struct decision_log *log);

#endif
