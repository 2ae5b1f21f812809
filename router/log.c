/* The queue and the writer.
 *
 *   log_decision …        any thread: copy, append, wake the writer when the queue was empty; never more
 *        │ queue          bounded; rows stay counted until they are committed
 *   batch_take            the writer waits batch_ms after the first row, or until someone is in a hurry
 *        │
 *   batch_try             one transaction: rows, rollups, counters, a little of the retention's work
 *        │  fails ──► batch_keep_trying: back off, open again, move a damaged file aside
 *   batch_settle          callbacks, counters, memory
 */
#include "router/log_ship.h"
#include "router/log_writer.h"

#include "base/clock.h"
#include "base/textlog.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { QUEUE_ROWS = 8192, QUEUE_SPARE = 64, BATCH_ROWS = 2048, BATCH_MS = 50, PROMPT_BYTES_MAX = 1 << 20,
       RECEIVE_BYTES_MAX = 16 << 20, RETRY_MS = 50, RETRY_MS_MAX = 5000, REOPEN_AFTER = 4, TICK_MS = 60 * 1000,
       TRIM_MS = 10 * 1000, TRIM_ROWS = 512, TRIM_ROUNDS = 32, TRIM_PAUSE_MS = 20, DROP_QUIET_US = 60 * 1000 * 1000 };

struct decision_entry {
    struct entry entry;
    struct log_row row;
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
    struct store store; /* the writer's alone once it runs; `key` never changes while the log is open */
    unsigned char key[32];

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
    struct log_stats stats;

    /* the writer's own */
    int64_t next_trim_ms;
    bool old_more, trim_more, failing; /* trim_more: the next idle moment goes on with it */
    int failures;
};

/* ---- the queue ---- */

static struct timespec at_mono_us(int64_t us)
{
    return (struct timespec){.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
}

static void hurry(struct decision_log *log)
{
    log->hurry_seq = log->queued_seq;
    (void)pthread_cond_signal(&log->wake);
}

/* Under the lock. Entries that are not rows get a little room more, so that a full queue can still be asked about. */
static enum err_code append(struct decision_log *log, struct entry *entry)
{
    bool row = entry->kind == ENTRY_DECISION || entry->kind == ENTRY_LABEL || entry->kind == ENTRY_RECEIVE;
    if (log->waiting + log->in_hand >= log->queue_rows + (row ? 0 : QUEUE_SPARE)) return ERR_FULL;
    if (log->stop) return ERR_DRAINING;
    entry->next = NULL;
    *log->tail = entry;
    log->tail = &entry->next;
    log->queued_seq++;
    log->waiting++;
    if (log->waiting == 1) log->first_us = clock_mono_us();
    if (log->waiting == 1 || log->waiting == BATCH_ROWS) (void)pthread_cond_signal(&log->wake);
    return ERR_OK;
}

/* A row that finds no room is counted, and told of once an episode. */
static enum err_code append_row(struct decision_log *log, struct entry *entry)
{
    (void)pthread_mutex_lock(&log->lock);
    enum err_code code = append(log, entry);
    bool tell = false;
    if (code != ERR_OK) {
        log->stats.rows_dropped++;
        tell = !log->drop_told;
        log->drop_told = true;
        if (tell) log->drop_told_us = clock_mono_us();
    }
    int rows = log->waiting + log->in_hand;
    (void)pthread_mutex_unlock(&log->lock);
    if (tell) textlog(TEXTLOG_ERROR, "log.dropping", "queue_rows=%d: the queue is full, rows are lost", rows);
    return code;
}

/* Takes the pointers over even when memory ran out, so that there is one rule for the caller. */
static struct decision_entry *decision_copy(struct log_row *row, const struct log_hop *hops, int hop_count, bool keep)
{
    if (hop_count < 0 || !hops) hop_count = 0;
    if (hop_count > HOPS_MAX) hop_count = HOPS_MAX;
    struct decision_entry *entry = malloc(sizeof *entry + (size_t)hop_count * sizeof *hops);
    if (entry) {
        entry->entry = (struct entry){.kind = ENTRY_DECISION};
        entry->row = *row;
        entry->hop_count = hop_count;
        if (hop_count > 0) memcpy(entry->hops, hops, (size_t)hop_count * sizeof *hops);
    }
    if (!entry) free(row->text);
    row->text = NULL;
    if (!entry || !keep) {
        free(row->prompt);
        free(row->answer);
        if (entry) entry->row.prompt = entry->row.answer = NULL;
    }
    row->prompt = row->answer = NULL;
    return entry;
}

static void decision_free(struct decision_entry *entry)
{
    free(entry->row.prompt);
    free(entry->row.answer);
    free(entry->row.text);
    free(entry);
}

static enum err_code no_memory(struct decision_log *log)
{
    (void)pthread_mutex_lock(&log->lock);
    log->stats.rows_dropped++;
    (void)pthread_mutex_unlock(&log->lock);
    return ERR_FULL;
}

enum err_code log_decision(struct decision_log *log, struct log_row *row, const struct log_hop *hops, int hop_count)
{
    struct decision_entry *entry = decision_copy(row, hops, hop_count, log->store.store_prompts);
    if (!entry) return no_memory(log);
    enum err_code code = append_row(log, &entry->entry);
    if (code != ERR_OK) decision_free(entry);
    return code;
}

enum err_code log_label_add(struct decision_log *log, const struct log_label *label)
{
    if (!(label->value >= 0 && label->value <= 1) || !label->request[0]) return ERR_INVALID;
    struct label_entry *entry = malloc(sizeof *entry);
    if (!entry) return no_memory(log);
    entry->entry = (struct entry){.kind = ENTRY_LABEL};
    entry->label = *label;
    enum err_code code = append_row(log, &entry->entry);
    if (code != ERR_OK) free(entry);
    return code;
}

/* Entries whose answer someone waits for: the writer does not let them ripen. */
static enum err_code append_now(struct decision_log *log, struct entry *entry)
{
    (void)pthread_mutex_lock(&log->lock);
    enum err_code code = append(log, entry);
    if (code == ERR_OK) hurry(log);
    (void)pthread_mutex_unlock(&log->lock);
    if (code != ERR_OK) free(entry);
    return code;
}

static enum err_code append_ship(struct decision_log *log, const struct ship_entry *like)
{
    struct ship_entry *entry = malloc(sizeof *entry);
    if (!entry) return ERR_MEMORY;
    *entry = *like;
    return append_now(log, &entry->entry);
}

enum err_code log_ship_next(struct decision_log *log, size_t max_bytes, log_batch_ready *ready, void *ctx)
{
    return append_ship(log, &(struct ship_entry){
                                .entry.kind = ENTRY_SHIP, .max_bytes = max_bytes, .ready = ready, .ctx = ctx});
}

enum err_code log_ship_acknowledged(struct decision_log *log, int64_t last_id)
{
    return append_ship(log, &(struct ship_entry){.entry.kind = ENTRY_ACKNOWLEDGED, .last_id = last_id});
}

enum err_code log_receive(struct decision_log *log, const char *from_node, const void *data, size_t len,
                          log_batch_stored *done, void *ctx, struct err *e)
{
    struct ship_header header;
    enum err_code code = ship_header(data, len, &header, e);
    if (code != ERR_OK) return code;
    if (from_node && from_node[0] && strcmp(from_node, header.node) != 0)
        return err_set(e, ERR_CORRUPT, "log batch from %s says that it comes from %s", from_node, header.node);
    struct receive_entry *entry = malloc(sizeof *entry + len);
    if (!entry) return err_set(e, ERR_FULL, "no memory for a log batch of %zu bytes", len);
    *entry = (struct receive_entry){
        .entry.kind = ENTRY_RECEIVE, .done = done, .ctx = ctx, .header = header, .code = ERR_OK, .len = len};
    memcpy(entry->data, data, len);
    (void)pthread_mutex_lock(&log->lock);
    code = log->receive_bytes + len > RECEIVE_BYTES_MAX ? ERR_FULL : append(log, &entry->entry);
    if (code == ERR_OK) log->receive_bytes += len;
    (void)pthread_mutex_unlock(&log->lock);
    if (code == ERR_OK) return ERR_OK;
    free(entry);
    return err_set(e, code, "log batch from %s: %s", header.node, err_text(code));
}

enum err_code log_task_run(struct decision_log *log, struct task *task, const char *what, int wait_ms, struct err *e)
{
    task->entry.kind = ENTRY_TASK;
    enum err_code code = append_now(log, &task->entry);
    if (code != ERR_OK) return err_set(e, ERR_FULL, "%s: %s", what, err_text(code));
    struct timespec until = at_mono_us(clock_mono_us() + (int64_t)wait_ms * 1000);
    int rc = 0;
    (void)pthread_mutex_lock(&log->lock);
    while (!task->done && rc == 0) rc = pthread_cond_timedwait(&log->settled, &log->lock, &until);
    bool done = task->done;
    if (!done) task->abandoned = true;
    (void)pthread_mutex_unlock(&log->lock);
    if (!done) return err_set(e, ERR_TIMEOUT, "%s: the log did not answer within %d ms", what, wait_ms);
    return task->result == ERR_OK ? ERR_OK : err_set(e, task->result, "%s: %s", what, err_text(task->result));
}

bool log_flush(struct decision_log *log, int wait_ms)
{
    struct timespec until = at_mono_us(clock_mono_us() + (int64_t)wait_ms * 1000);
    int rc = 0;
    (void)pthread_mutex_lock(&log->lock);
    uint64_t target = log->queued_seq, lost = log->lost;
    if (log->settled_seq < target) hurry(log);
    while (log->settled_seq < target && rc == 0) rc = pthread_cond_timedwait(&log->settled, &log->lock, &until);
    bool all = log->settled_seq >= target && log->lost == lost;
    (void)pthread_mutex_unlock(&log->lock);
    return all;
}

void log_stats(const struct decision_log *log, struct log_stats *out)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)(uintptr_t)&log->lock; /* the mutex of a log that stays as it was */
    (void)pthread_mutex_lock(lock);
    *out = log->stats;
    out->queue_rows = log->waiting + log->in_hand;
    (void)pthread_mutex_unlock(lock);
}

void log_key(const struct decision_log *log, unsigned char out[32])
{
    memcpy(out, log->key, sizeof log->key);
}

void log_prompt_hash(const struct decision_log *log, const char *text, size_t len, unsigned char out[16])
{
    (void)crypto_generichash(out, 16, (const unsigned char *)text, len, log->key, sizeof log->key);
}

const char *log_path(const struct decision_log *log)
{
    return log->path;
}

/* ---- one batch ---- */

static void measure_text(const struct decision_log *log, struct log_row *row)
{
    if (!row->text) return; /* none, or a batch tried again */
    log_prompt_hash(log, row->about.text, row->about.text_len, row->prompt_hash);
    if (row->wants_sketch) router_sketch(&row->about, log->key, row->sketch);
    row->has_sketch = row->wants_sketch;
    free(row->text);
    row->text = NULL;
}

static int write_decision(struct store *store, const struct decision_entry *entry)
{
    struct log_value values[DECISION_WIDTH], hops[HOPS_MAX][HOP_WIDTH];
    log_row_values(&entry->row, store->node, store->tier, values);
    for (int i = 0; i < entry->hop_count; i++) log_hop_values(&entry->hops[i], i, hops[i]);
    bool stored;
    const struct store_decision decision = {.values = values, .hops = hops, .hop_count = entry->hop_count,
                                            .sketch = entry->row.has_sketch ? entry->row.sketch : NULL,
                                            .prompt = entry->row.prompt, .answer = entry->row.answer};
    return store_add_decision(store, (struct store_origin){0, 0}, &decision, &stored);
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
        e->refused = row_at_fault(rc);
        if (e->refused) rc = SQLITE_OK;
    }
    return rc == SQLITE_OK ? trim(log, 2 * count + TRIM_ROWS, &log->trim_more) : rc;
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
    int rc = store_begin(store);
    if (rc == SQLITE_OK) rc = batch_rows(log, batch, count);
    if (rc == SQLITE_OK) rc = store_commit(store);
    if (rc != SQLITE_OK) store_rollback(store);
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
    case ENTRY_DECISION: decision_free((struct decision_entry *)entry); return rows;
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
    for (struct entry *e = batch, *next; e; e = next) {
        next = e->next;
        bool lost = !committed || e->refused;
        int64_t rows = entry_settle(log, e, committed);
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
    (void)pthread_cond_broadcast(&log->settled);
    (void)pthread_mutex_unlock(&log->lock);
}

/* ---- the thread ---- */

/* Under the lock: wait for a first row, then for others to join it. */
static void wait_for_rows(struct decision_log *log)
{
    int64_t idle_ms = log->trim_more ? TRIM_PAUSE_MS : TICK_MS;
    struct timespec tick = at_mono_us(clock_mono_us() + idle_ms * 1000);
    int rc = 0;
    while (!log->head && !log->stop && rc == 0) rc = pthread_cond_timedwait(&log->wake, &log->lock, &tick);
    struct timespec ripe = at_mono_us(log->first_us + (int64_t)log->batch_ms * 1000);
    rc = 0;
    while (log->head && !log->stop && log->hurry_seq <= log->taken_seq && log->waiting < BATCH_ROWS && rc == 0)
        rc = pthread_cond_timedwait(&log->wake, &log->lock, &ripe);
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

static void *writer_run(void *arg)
{
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

/* ---- open and close ---- */

static void locks_init(struct decision_log *log)
{
    pthread_condattr_t mono;
    (void)pthread_condattr_init(&mono);
    (void)pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&log->wake, &mono);
    (void)pthread_cond_init(&log->settled, &mono);
    (void)pthread_condattr_destroy(&mono);
    (void)pthread_mutex_init(&log->lock, NULL);
}

static void log_free(struct decision_log *log)
{
    (void)pthread_cond_destroy(&log->wake);
    (void)pthread_cond_destroy(&log->settled);
    (void)pthread_mutex_destroy(&log->lock);
    sodium_memzero(log->key, sizeof log->key);
    free(log->path);
    free(log->node);
    free(log);
}

enum err_code log_open(struct decision_log **out, const struct log_options *options, struct err *e)
{
    *out = NULL;
    if (!options->path || !options->path[0]) return err_set(e, ERR_INVALID, "log: no path was given");
    struct decision_log *log = calloc(1, sizeof *log);
    if (!log) return err_set(e, ERR_MEMORY, "log: out of memory");
    locks_init(log);
    log->tail = &log->head;
    log->queue_rows = options->queue_rows > 0 ? options->queue_rows : QUEUE_ROWS;
    log->batch_ms = options->batch_ms > 0 ? options->batch_ms : BATCH_MS;
    log->path = strdup(options->path);
    log->node = strndup(options->node ? options->node : "", LOG_WORD - 1);
    enum err_code code = ERR_MEMORY;
    if (!log->path || !log->node) goto failed;
    struct log_options own = *options;
    own.path = log->path;
    own.node = log->node[0] ? log->node : "node";
    code = store_open(&log->store, &own, e);
    if (code != ERR_OK) goto failed;
    memcpy(log->key, log->store.key, sizeof log->key);
    log->stats.bytes = store_bytes(&log->store);
    log->stats.unshipped = log->store.next_id - 1 - log->store.shipped_id;
    if (pthread_create(&log->writer, NULL, writer_run, log) == 0) {
        *out = log;
        return ERR_OK;
    }
    store_close(&log->store);
    code = err_set(e, ERR_MEMORY, "log: the writer thread does not start");
failed:
    log_free(log);
    return code;
}

void log_close(struct decision_log *log, int wait_ms)
{
    if (!log) return;
    (void)pthread_mutex_lock(&log->lock);
    log->stop = true;
    log->stop_ms = clock_mono_ms() + wait_ms;
    (void)pthread_cond_signal(&log->wake);
    (void)pthread_mutex_unlock(&log->lock);
    (void)pthread_join(log->writer, NULL);
    store_close(&log->store);
    log_free(log);
}
