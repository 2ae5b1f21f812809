/* The queue; the writer behind it is log_writer.c.
 *
 *   log_decision …        any thread: copy, append, wake the writer when the queue was empty; never more
 *        │ queue          bounded; rows stay counted until they are committed
 *   batch_take            the writer waits batch_ms after the first row, or until someone is in a hurry
 *        │
 *   batch_try             one transaction: rows, rollups, counters, a little of the retention's work
 *        │  fails ──► batch_keep_trying: back off, open again, move a damaged file aside
 *   batch_settle          callbacks, counters, memory
 */
#include "router/log_writer.h"

#include "base/clock.h"
#include "base/textlog.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

enum { QUEUE_ROWS = 8192, QUEUE_SPARE = 64, BATCH_MS = 50, RECEIVE_BYTES_MAX = 16 << 20 };

/* ---- the queue ---- */

struct timespec at_mono_us(int64_t us)
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
    if (log->waiting == 1 || log->waiting == RIPE_ROWS) (void)pthread_cond_signal(&log->wake);
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

/* One with room for so many bytes behind it: a spare one where it fits. */
static struct decision_entry *decision_new(struct decision_log *log, size_t room)
{
    enum { STEP = 1024 };
    (void)pthread_mutex_lock(&log->lock);
    struct decision_entry *entry = (struct decision_entry *)log->spare;
    bool fits = entry && entry->cap >= room;
    if (fits) {
        log->spare = entry->entry.next;
        log->spares--;
    }
    (void)pthread_mutex_unlock(&log->lock);
    if (fits) return entry;
    size_t cap = (room + STEP - 1) / STEP * STEP;
    entry = malloc(sizeof *entry + cap);
    if (entry) entry->cap = cap;
    return entry;
}

/* As much of a trace as is filled; a multiple of 8. */
static size_t trace_bytes(const struct router_trace *trace)
{
    size_t words = trace->words > ROUTER_TRACE_WORDS ? 0 : (size_t)trace->words;
    return (offsetof(struct router_trace, word) + words * sizeof trace->word[0] + 7) / 8 * 8;
}

/* The trace and the text, closed by a NUL, behind the hops. */
static void copy_text(struct decision_entry *entry)
{
    struct router_input *about = &entry->row.about;
    char *to = (char *)(entry->hops + entry->hop_count);
    if (entry->row.trace) {
        size_t bytes = trace_bytes(entry->row.trace);
        entry->row.trace = memcpy(to, entry->row.trace, bytes);
        to += bytes;
    }
    memcpy(to, about->text, about->text_len);
    to[about->text_len] = 0;
    about->text = to;
    about->context = NULL; /* a sketch knows its length alone */
}

/* Takes the pointers over even when memory ran out, so that there is one rule for the caller. */
static struct decision_entry *decision_copy(struct decision_log *log, struct log_row *row, const struct log_hop *hops, int hop_count)
{
    bool keep = log->store.store_prompts;
    if (hop_count < 0 || !hops) hop_count = 0;
    if (hop_count > HOPS_MAX) hop_count = HOPS_MAX;
    if (!row->about.text) row->has_text = false;
    size_t text = row->has_text ? row->about.text_len + 1 : 0;
    if (row->has_text && row->trace) text += trace_bytes(row->trace);
    struct decision_entry *entry = decision_new(log, (size_t)hop_count * sizeof *hops + text);
    if (entry) {
        entry->entry = (struct entry){.kind = ENTRY_DECISION};
        entry->row = *row;
        entry->hop_count = hop_count;
        if (hop_count > 0) memcpy(entry->hops, hops, (size_t)hop_count * sizeof *hops);
        if (row->has_text) copy_text(entry);
    }
    if (!entry || !keep) {
        free(row->prompt);
        free(row->answer);
        if (entry) entry->row.prompt = entry->row.answer = NULL;
    }
    row->prompt = row->answer = NULL;
    return entry;
}

void decision_release(struct decision_entry *entry)
{
    free(entry->row.prompt);
    free(entry->row.answer);
    entry->row.prompt = entry->row.answer = NULL;
}

void decisions_free(struct entry *list)
{
    for (struct entry *next; list; list = next) {
        next = list->next;
        free(list);
    }
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
    struct decision_entry *entry = decision_copy(log, row, hops, hop_count);
    if (!entry) return no_memory(log);
    enum err_code code = append_row(log, &entry->entry);
    if (code == ERR_OK) return ERR_OK;
    decision_release(entry);
    free(entry);
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

void log_sketch_key(const struct decision_log *log, unsigned char out[32])
{
    memcpy(out, log->sketch_secret, sizeof log->sketch_secret);
}

void log_prompt_hash(const struct decision_log *log, const char *text, size_t len, unsigned char out[16])
{
    (void)crypto_generichash(out, 16, (const unsigned char *)text, len, log->key, sizeof log->key);
}

const char *log_path(const struct decision_log *log)
{
    return log->path;
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
    decisions_free(log->spare);
    sodium_memzero(log->sketch_secret, sizeof log->sketch_secret);
    sodium_memzero(&log->sketch_key, sizeof log->sketch_key);
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
    memcpy(log->sketch_secret, options->sketch_key ? options->sketch_key : log->key, sizeof log->sketch_secret);
    sketch_key_init(&log->sketch_key, log->sketch_secret);
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
