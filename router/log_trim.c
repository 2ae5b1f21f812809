/* Keeping the log small: old rows go in pieces, free pages go back to the file system. */
#include "router/log_store.h"

#include <stdio.h>
#include <sys/stat.h>

static const int64_t ROLLUP_MS = INT64_C(400) * 24 * 3600 * 1000;

static int run_with(struct store *store, enum store_statement which, int64_t value)
{
    sqlite3_stmt *st = store_statement(store, which);
    if (!st) return store->last_code;
    (void)sqlite3_bind_int64(st, 1, value);
    return store_run(store, st);
}

static int read_int(struct store *store, enum store_statement which, int64_t *out)
{
    sqlite3_stmt *st = store_statement(store, which);
    if (!st) return store->last_code;
    int rc = sqlite3_step(st);
    if (rc == SQLITE_ROW) *out = sqlite3_column_int64(st, 0);
    else (void)store_fail(store, rc);
    (void)sqlite3_reset(st);
    return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

static int old_ids(struct store *store, enum store_statement which, int64_t before_ms, int max,
                   int64_t ids[STORE_TRIM_ROWS_MAX], int *count)
{
    *count = 0;
    sqlite3_stmt *st = store_statement(store, which);
    if (!st) return store->last_code;
    (void)sqlite3_bind_int64(st, 1, before_ms);
    (void)sqlite3_bind_int(st, 2, max);
    int rc;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) ids[(*count)++] = sqlite3_column_int64(st, 0);
    if (rc != SQLITE_DONE) (void)store_fail(store, rc);
    (void)sqlite3_reset(st);
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* The oldest rows from before then, `max` of them at the most; `full` says that there were that many. */
static int drop_before(struct store *store, int64_t before_ms, int max, bool *full)
{
    static const enum store_statement FROM[] = {STORE_DROP_DECISION, STORE_DROP_HOPS, STORE_DROP_SKETCH,
                                                STORE_DROP_PROMPT};
    int64_t ids[STORE_TRIM_ROWS_MAX];
    int count;
    int rc = old_ids(store, STORE_OLD_DECISIONS, before_ms, max, ids, &count);
    for (int i = 0; i < count && rc == SQLITE_OK; i++)
        for (size_t k = 0; k < sizeof FROM / sizeof FROM[0] && rc == SQLITE_OK; k++)
            rc = run_with(store, FROM[k], ids[i]);
    *full = count == max;
    return rc;
}

static int drop_labels(struct store *store, int64_t before_ms, int max, bool *full)
{
    int64_t ids[STORE_TRIM_ROWS_MAX];
    int count;
    int rc = old_ids(store, STORE_OLD_LABELS, before_ms, max, ids, &count);
    for (int i = 0; i < count && rc == SQLITE_OK; i++) rc = run_with(store, STORE_DROP_LABEL, ids[i]);
    *full = count == max;
    return rc;
}

int store_trim_age(struct store *store, int64_t now_ms, int rows_max, bool *more)
{
    int64_t before = now_ms - store->keep_ms, rollups_before = now_ms - ROLLUP_MS;
    bool decisions = false, labels = false;
    if (rows_max > STORE_TRIM_ROWS_MAX) rows_max = STORE_TRIM_ROWS_MAX;
    int rc = drop_before(store, before, rows_max, &decisions);
    if (rc == SQLITE_OK) rc = drop_labels(store, before, rows_max, &labels);
    if (rc == SQLITE_OK) rc = run_with(store, STORE_DROP_HOURLY, rollups_before);
    if (rc == SQLITE_OK) rc = run_with(store, STORE_DROP_LATENCY, rollups_before);
    if (rc == SQLITE_OK) rc = run_with(store, STORE_DROP_DAILY, rollups_before);
    *more = decisions || labels;
    return rc;
}

int store_trim_bytes(struct store *store, int rows_max, bool *more)
{
    int64_t pages = 0, unused = 0, pages_max = store->keep_bytes / store->page_bytes;
    bool full = false;
    if (rows_max > STORE_TRIM_ROWS_MAX) rows_max = STORE_TRIM_ROWS_MAX;
    int rc = read_int(store, STORE_PAGES, &pages);
    if (rc == SQLITE_OK) rc = read_int(store, STORE_FREE_PAGES, &unused);
    if (rc == SQLITE_OK && pages - unused > pages_max) rc = drop_before(store, INT64_MAX, rows_max, &full);
    /* Free pages are kept for the rows to come, unless they are many or the file is over its limit. */
    bool shrink = unused > 0 && (pages > pages_max || unused > pages / 4 + 256);
    if (rc == SQLITE_OK && shrink) rc = store_run(store, store_statement(store, STORE_VACUUM));
    *more = full || (shrink && unused > 256);
    return rc;
}

int64_t store_bytes(const struct store *store)
{
    char wal[4200];
    struct stat st;
    int64_t bytes = 0;
    if (stat(store->path, &st) == 0) bytes += st.st_size;
    (void)snprintf(wal, sizeof wal, "%s-wal", store->path);
    if (stat(wal, &st) == 0) bytes += st.st_size;
    return bytes;
}
