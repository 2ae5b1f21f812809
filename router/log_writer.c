/* The writer's thread: batches out of the queue into the store. The picture is at the head of log.c. */
#include "router/log_writer.h"

#include "base/clock.h"
#include "base/slice.h"
#include "base/textlog.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RETRY_MS = 50, RETRY_MS_MAX = 5000, REOPEN_AFTER = 4, TICK_MS = 60 * 1000, TRIM_MS = 10 * 1000, TRIM_ROWS = 512,
       TRIM_ROUNDS = 32, TRIM_PAUSE_MS = 20, DROP_QUIET_US = 60 * 1000 * 1000 };

/* ---- one batch ---- */

static void measure_text(const struct decision_log *log, struct log_row *row)
{
    if (!row->has_text) return; /* none, or a batch tried again */
    log_prompt_hash(log, row->about.text, row->about.text_len, row->prompt_hash);
    if (row->wants_sketch) {
        unsigned char whole[ROUTER_SKETCH_BYTES];
        sketch_make(&row->about, row->trace, &log->sketch_key, &row->base, whole);
        row->sketch_len = (int)sketch_pack(whole, row->sketch);
    }
    row->has_sketch = row->wants_sketch;
    row->has_text = false;
}

static size_t sketch_len(const struct log_row *row)
{
    return row->sketch_len > 0 ? (size_t)row->sketch_len : ROUTER_SKETCH_BYTES;
}

static int write_decision(struct store *store, const struct decision_entry *entry)
{
    struct store_row *to = store_together_next(store);
    log_row_values(&entry->row, store->node, store->tier, to->values);
    for (int i = 0; i < entry->hop_count; i++) log_hop_values(&entry->hops[i], i, to->hops[i]);
    to->decision.hop_count = entry->hop_count;
    to->decision.sketch = entry->row.has_sketch ? entry->row.sketch : NULL;
    to->decision.sketch_len = sketch_len(&entry->row);
    to->decision.prompt = entry->row.prompt;
    to->decision.answer = entry->row.answer;
    return store_together_add(store);
}

static int write_label(struct store *store, const struct label_entry *entry)
{
    struct log_value values[LABEL_WIDTH];
    bool stored;
    log_label_values(&entry->label, store->node, values);
    return store_add_label(store, (struct store_origin){0, 0}, values, &stored);
}

/* A batch that does not read is answered so, and nothing of it is stored. */
static int write_received(struct store *store, struct receive_entry *entry)
{
    struct err e;
    entry->code = ship_check(entry->data, entry->len, &e);
    entry->stored = 0;
    if (entry->code == ERR_OK)
        return ship_store(store, entry->data, entry->len, clock_wall_ms(), &entry->stored);
    textlog(TEXTLOG_WARN, "log.batch_refused", "%s", e.msg);
    return SQLITE_OK;
}

static int write_task(struct decision_log *log, struct task *task)
{
    (void)pthread_mutex_lock(&log->lock);
    bool abandoned = task->abandoned;
    (void)pthread_mutex_unlock(&log->lock);
    task->result = ERR_OK;
    return abandoned ? SQLITE_OK : task->run(&log->store, task);
}

static int entry_write(struct decision_log *log, struct entry *entry)
{
    switch (entry->kind) {
    case ENTRY_DECISION:
        measure_text(log, &((struct decision_entry *)entry)->row);
        return write_decision(&log->store, (const struct decision_entry *)entry);
    case ENTRY_LABEL: return write_label(&log->store, (const struct label_entry *)entry);
    case ENTRY_TASK: return write_task(log, (struct task *)entry);
    case ENTRY_ACKNOWLEDGED: return store_set_shipped(&log->store, ((struct ship_entry *)entry)->last_id);
    case ENTRY_RECEIVE: return write_received(&log->store, (struct receive_entry *)entry);
    case ENTRY_SHIP: return SQLITE_OK; /* once all before it is committed */
    }
    return SQLITE_OK;
}

/* Failures that are the row's own, and would come again for ever. */
static bool row_at_fault(int rc)
{
    int primary = rc & 0xff;
    return primary == SQLITE_CONSTRAINT || primary == SQLITE_MISMATCH || primary == SQLITE_TOOBIG;
}

/* A little of the retention's work, twice what came in at least, so that the file shrinks. */
static int trim(struct decision_log *log, int rows_max, bool *more)
{
    bool old = false, large = false;
    int rc = SQLITE_OK;
    if (log->old_more || clock_mono_ms() >= log->next_trim_ms) {
        rc = store_trim_age(&log->store, clock_wall_ms(), rows_max, &old);
        log->old_more = old;
        log->next_trim_ms = clock_mono_ms() + TRIM_MS;
    }
    if (rc == SQLITE_OK) rc = store_trim_bytes(&log->store, rows_max, &large);
    *more = old || large;
    return rc;
}

static int batch_rows(struct decision_log *log, struct entry *batch, int count)
{
    int rc = SQLITE_OK;
    for (struct entry *e = batch; e && rc == SQLITE_OK; e = e->next) {
        rc = entry_write(log, e);
        e->refused = row_at_fault(rc) && (log->store.one_by_one || e->kind != ENTRY_DECISION);
        if (e->refused) rc = SQLITE_OK;
    }
    if (rc == SQLITE_OK) rc = store_together_insert(&log->store);
    return rc == SQLITE_OK ? trim(log, 2 * count + TRIM_ROWS, &log->trim_more) : rc;
}

static int batch_write(struct decision_log *log, struct entry *batch, int count)
{
    struct store *store = &log->store;
    int rc = store_begin(store);
    if (rc == SQLITE_OK) rc = batch_rows(log, batch, count);
    if (rc == SQLITE_OK) rc = store_commit(store);
    if (rc != SQLITE_OK) store_rollback(store);
    return rc;
}

static int batch_try(struct decision_log *log, struct entry *batch, int count)
{
    struct store *store = &log->store;
    if (!store->sql || store_moved(store)) {
        struct err e = {0};
        if (store->sql) textlog(TEXTLOG_WARN, "log.moved", "path=%s: a fresh log is begun there", store->path);
        enum err_code code = store_reopen(store, &e);
        if (code != ERR_OK) {
            (void)snprintf(store->last_error, sizeof store->last_error, "%.199s", e.msg);
            return SQLITE_CANTOPEN;
        }
    }
    int rc = batch_write(log, batch, count);
    if (!row_at_fault(rc)) return rc;
    store->one_by_one = true; /* some decision cannot be stored: which? */
    rc = batch_write(log, batch, count);
    store->one_by_one = false;
    return rc;
}

static void failed_tell(struct decision_log *log, int rc)
{
    char words[sizeof log->store.last_error + 8];
    (void)pthread_mutex_lock(&log->lock);
    log->stats.write_errors++;
    (void)pthread_mutex_unlock(&log->lock);
    if (!log->failing)
        textlog(TEXTLOG_ERROR, "log.write_failed", "code=%d error=%s: rows wait in the queue", rc,
                textlog_quote(log->store.last_error, words, sizeof words));
    log->failing = true;
}

/* Waits before the next attempt; false when the log is closing and its time is up. */
static bool back_off(struct decision_log *log)
{
    int shift = log->failures < 7 ? log->failures : 7;
    int64_t wait_ms = (int64_t)RETRY_MS << shift;
    if (wait_ms > RETRY_MS_MAX) wait_ms = RETRY_MS_MAX;
    int64_t until_us = clock_mono_us() + wait_ms * 1000;
    int rc = 0;
    (void)pthread_mutex_lock(&log->lock);
    while (rc == 0) {
        int64_t end = until_us;
        if (log->stop && log->stop_ms * 1000 < end) end = log->stop_ms * 1000;
        struct timespec at = at_mono_us(end);
        if (clock_mono_us() >= end) break;
        rc = pthread_cond_timedwait(&log->wake, &log->lock, &at);
    }
    bool over = log->stop && clock_mono_ms() >= log->stop_ms;
    (void)pthread_mutex_unlock(&log->lock);
    return !over;
}

/* True once the batch is committed; false when it had to be given up. */
static bool batch_keep_trying(struct decision_log *log, struct entry *batch, int count)
{
    for (;;) {
        int rc = batch_try(log, batch, count);
        if (rc == SQLITE_OK) break;
        failed_tell(log, rc);
        bool damaged = (rc & 0xff) == SQLITE_CORRUPT || (rc & 0xff) == SQLITE_NOTADB;
        if (log->store.sql && (damaged || log->failures % REOPEN_AFTER == REOPEN_AFTER - 1)) {
            struct err e;
            enum err_code ignored = store_reopen(&log->store, &e);
            (void)ignored; /* the next attempt opens it, or fails and is told */
        }
        if (!back_off(log)) return false;
        log->failures++;
    }
    if (log->failing) {
        struct log_stats stats;
        log_stats(log, &stats);
        textlog(TEXTLOG_INFO, "log.write_recovered", "attempts=%d rows_dropped=%lld", log->failures + 1,
                (long long)stats.rows_dropped);
    }
    log->failing = false;
    log->failures = 0;
    return true;
}

static void ship_settle(struct decision_log *log, struct ship_entry *entry, bool committed)
{
    struct buf batch = BUF_INIT(SHIP_BYTES_MAX);
    int64_t last_id = log->store.committed_shipped_id;
    int rc = committed && log->store.sql ? ship_collect(&log->store, entry->max_bytes, &batch, &last_id) : SQLITE_OK;
    if (rc != SQLITE_OK) failed_tell(log, rc);
    entry->ready(entry->ctx, batch.data, rc == SQLITE_OK ? batch.len : 0, last_id);
    buf_release(&batch);
}

static void receive_settle(struct decision_log *log, struct receive_entry *entry, bool committed)
{
    enum err_code code = entry->code;
    if (!committed) code = ERR_DRAINING;
    else if (entry->entry.refused) code = ERR_CORRUPT;
    if (entry->done) entry->done(entry->ctx, entry->header.node, entry->header.last_id, code);
    (void)pthread_mutex_lock(&log->lock);
    log->receive_bytes -= entry->len;
    (void)pthread_mutex_unlock(&log->lock);
}

/* Under the lock: who waits frees the task, unless he went away. */
static void task_settle(struct decision_log *log, struct task *task, bool committed)
{
    (void)pthread_mutex_lock(&log->lock);
    if (!committed) task->result = ERR_DRAINING;
    else if (task->entry.refused) task->result = ERR_INVALID;
    task->done = true;
    bool abandoned = task->abandoned;
    (void)pthread_mutex_unlock(&log->lock);
    if (abandoned) free(task);
}

/* Gives one entry back to whom it came from, and its memory; returns how many rows it was. */
static int64_t entry_settle(struct decision_log *log, struct entry *entry, bool committed)
{
    int64_t rows = 1;
    switch (entry->kind) {
    case ENTRY_DECISION: decision_release((struct decision_entry *)entry); return rows; /* its memory is used again */
    case ENTRY_LABEL: break;
    case ENTRY_TASK: task_settle(log, (struct task *)entry, committed); return 0;
    case ENTRY_SHIP: ship_settle(log, (struct ship_entry *)entry, committed); rows = 0; break;
    case ENTRY_ACKNOWLEDGED: rows = 0; break;
    case ENTRY_RECEIVE:
        receive_settle(log, (struct receive_entry *)entry, committed);
        rows = ((struct receive_entry *)entry)->stored;
        break;
    }
    free(entry);
    return rows;
}

static void batch_settle(struct decision_log *log, struct entry *batch, int count, bool committed, int64_t began_us)
{
    int64_t written = 0, dropped = 0;
    struct entry *spare = NULL;
    for (struct entry *e = batch, *next; e; e = next) {
        next = e->next;
        bool lost = !committed || e->refused;
        bool decision = e->kind == ENTRY_DECISION, again = decision && ((struct decision_entry *)e)->cap <= SPARE_BYTES_MAX;
        int64_t rows = entry_settle(log, e, committed);
        if (again) e->next = spare;
        if (again) spare = e;
        else if (decision) free(e);
        if (lost) dropped += rows;
        else written += rows;
    }
    if (dropped > 0)
        textlog(TEXTLOG_ERROR, "log.lost", "rows=%lld reason=%s", (long long)dropped,
                committed ? "refused" : "closing");
    int64_t bytes = store_bytes(&log->store);
    (void)pthread_mutex_lock(&log->lock);
    log->in_hand -= count;
    log->settled_seq = log->taken_seq;
    log->lost += (uint64_t)dropped;
    log->stats.rows_written += written;
    log->stats.rows_dropped += dropped;
    log->stats.batches += committed;
    log->stats.bytes = bytes;
    log->stats.unshipped = log->store.committed_next_id - 1 - log->store.committed_shipped_id;
    log->stats.last_batch_ms = (double)(clock_mono_us() - began_us) / 1000;
    if (log->waiting + log->in_hand < log->queue_rows / 2 && began_us > log->drop_told_us + DROP_QUIET_US)
        log->drop_told = false;
    while (spare && log->spares < SPARES_MAX) {
        struct entry *e = spare;
        spare = e->next;
        e->next = log->spare;
        log->spare = e;
        log->spares++;
    }
    (void)pthread_cond_broadcast(&log->settled);
    (void)pthread_mutex_unlock(&log->lock);
    decisions_free(spare);
}

/* ---- the thread ---- */

/* Under the lock: wait for a first row, then for others to join it. */
static void wait_for_rows(struct decision_log *log)
{
    int64_t idle_ms = log->trim_more ? TRIM_PAUSE_MS : TICK_MS;
    struct timespec tick = at_mono_us(clock_mono_us() + idle_ms * 1000);
    int rc = 0;
    while (!log->head && !log->stop && rc == 0) rc = pthread_cond_timedwait(&log->wake, &log->lock, &tick);
    while (log->head && !log->stop && log->hurry_seq <= log->taken_seq) {
        bool many = log->waiting >= RIPE_ROWS;
        int64_t ripe_us = log->first_us + (int64_t)(many && log->batch_ms > RIPE_MS ? RIPE_MS : log->batch_ms) * 1000;
        if (clock_mono_us() >= ripe_us || log->waiting >= BATCH_ROWS) break;
        struct timespec ripe = at_mono_us(ripe_us);
        (void)pthread_cond_timedwait(&log->wake, &log->lock, &ripe);
    }
}

static struct entry *batch_take(struct decision_log *log, int *count, bool *stop)
{
    (void)pthread_mutex_lock(&log->lock);
    wait_for_rows(log);
    struct entry *batch = log->head, *last = NULL;
    *count = 0;
    for (struct entry *e = batch; e && *count < BATCH_ROWS; e = e->next) {
        last = e;
        (*count)++;
    }
    if (last) {
        log->head = last->next;
        if (!log->head) log->tail = &log->head;
        last->next = NULL;
    }
    log->waiting -= *count;
    log->in_hand += *count;
    log->taken_seq += (uint64_t)*count;
    *stop = log->stop;
    (void)pthread_mutex_unlock(&log->lock);
    return batch;
}

/* Nothing to write: retention in chunks, until a row comes. */
static void trim_idle(struct decision_log *log)
{
    struct store *store = &log->store;
    bool more = true, busy = false;
    for (int round = 0; store->sql && more && !busy && round < TRIM_ROUNDS; round++) {
        int rc = store_begin(store);
        if (rc == SQLITE_OK) rc = trim(log, TRIM_ROWS, &more);
        if (rc == SQLITE_OK) rc = store_commit(store);
        if (rc != SQLITE_OK) {
            store_rollback(store);
            failed_tell(log, rc);
            break;
        }
        (void)pthread_mutex_lock(&log->lock);
        busy = log->waiting > 0 || log->stop;
        (void)pthread_mutex_unlock(&log->lock);
    }
    log->trim_more = more;
}

void *writer_run(void *arg)
{
    slice_long(); /* requests go before their rows; sched_yield() would forfeit far more than this thread owes */
    struct decision_log *log = arg;
    for (;;) {
        int count;
        bool stop;
        struct entry *batch = batch_take(log, &count, &stop);
        if (!batch && stop) return NULL;
        if (!batch) {
            trim_idle(log);
            continue;
        }
        int64_t began_us = clock_mono_us();
        bool late = stop && clock_mono_ms() >= log->stop_ms;
        bool committed = !late && batch_keep_trying(log, batch, count);
        batch_settle(log, batch, count, committed, began_us);
    }
}
