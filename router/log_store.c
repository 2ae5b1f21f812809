#include "router/log_store.h"

#include <stdio.h>
#include <string.h>

/* What is not made from the columns. */
static const char *const STATEMENTS[STORE_STATEMENTS] = {
    [STORE_BEGIN] = "BEGIN IMMEDIATE",
    [STORE_COMMIT] = "COMMIT",
    [STORE_ROLLBACK] = "ROLLBACK",
    [STORE_META] = "INSERT INTO meta VALUES (?1, ?2, ?3) "
                   "ON CONFLICT DO UPDATE SET number = excluded.number, bytes = excluded.bytes",
    [STORE_SKETCH] = "INSERT OR IGNORE INTO sketches VALUES (?1, ?2)",
    [STORE_PROMPT] = "INSERT OR IGNORE INTO prompts VALUES (?1, ?2, ?3)",
    [STORE_ORIGIN_ADD] = "INSERT OR IGNORE INTO origins (node, log) VALUES (?1, ?2)",
    [STORE_ORIGIN_FIND] = "SELECT id FROM origins WHERE node = ?1 AND log = ?2",
    [STORE_ORIGIN_SEEN] = "UPDATE origins SET last_row = max(last_row, ?2), at_ms = ?3 WHERE id = ?1",
    [STORE_OLD_DECISIONS] = "SELECT id FROM decisions WHERE at_ms < ?1 ORDER BY at_ms LIMIT ?2",
    [STORE_OLD_LABELS] = "SELECT id FROM labels WHERE at_ms < ?1 ORDER BY at_ms LIMIT ?2",
    [STORE_DROP_DECISION] = "DELETE FROM decisions WHERE id = ?1",
    [STORE_DROP_HOPS] = "DELETE FROM hops WHERE decision = ?1",
    [STORE_DROP_SKETCH] = "DELETE FROM sketches WHERE decision = ?1",
    [STORE_DROP_PROMPT] = "DELETE FROM prompts WHERE decision = ?1",
    [STORE_DROP_LABEL] = "DELETE FROM labels WHERE id = ?1",
    [STORE_DROP_HOURLY] = "DELETE FROM hourly WHERE hour_ms < ?1",
    [STORE_DROP_DAILY] = "DELETE FROM daily_latency WHERE day_ms < ?1",
    [STORE_DROP_LATENCY] = "DELETE FROM hourly_latency WHERE hour_ms < ?1",
    [STORE_VACUUM] = "PRAGMA incremental_vacuum(256)",
    [STORE_PAGES] = "PRAGMA page_count",
    [STORE_FREE_PAGES] = "PRAGMA freelist_count",
    [STORE_SHIP_HOPS] = NULL,
};

static void add_names(struct buf *b, const struct log_table *table)
{
    for (int i = 0; i < table->width; i++) (void)buf_addf(b, ", %s", table->columns[i].name);
}

/* Placeholders of `rows` rows. */
static void add_values(struct buf *b, int width, int rows)
{
    for (int r = 0; r < rows; r++) {
        (void)buf_adds(b, r == 0 ? " VALUES (?" : ", (?");
        for (int i = 1; i < width; i++) (void)buf_adds(b, ", ?");
        (void)buf_addc(b, ')');
    }
}

static void insert_sql(struct buf *b, const struct log_table *table, const char *before, int extra)
{
    (void)buf_addf(b, "INSERT INTO %s (%s", table->name, before);
    add_names(b, table);
    (void)buf_addc(b, ')');
    add_values(b, table->width + extra, 1);
    (void)buf_adds(b, " ON CONFLICT DO NOTHING");
}

/* Many of our own at once. OR ROLLBACK: what the transaction did before need not be kept for the case that one fails. */
static void together_sql(struct buf *b, const struct log_table *table, const char *id)
{
    (void)buf_addf(b, "INSERT OR ROLLBACK INTO %s (%s", table->name, id);
    add_names(b, table);
    (void)buf_addc(b, ')');
    add_values(b, table->width + 1, STORE_TOGETHER);
}

/* Rows to ship carry where they came from first; the sketch of a decision comes last. */
static void ship_sql(struct buf *b, const struct log_table *table, bool decisions)
{
    (void)buf_adds(b, "SELECT t.id, t.origin, t.origin_row");
    for (int i = 0; i < table->width; i++) (void)buf_addf(b, ", t.%s", table->columns[i].name);
    (void)buf_addf(b, "%s FROM %s AS t %sWHERE t.id > ?1 ORDER BY t.id", decisions ? ", s.sketch" : "", table->name,
                   decisions ? "LEFT JOIN sketches AS s ON s.decision = t.id " : "");
}

static void statement_sql(struct buf *b, enum store_statement which)
{
    switch (which) {
    case STORE_DECISION: insert_sql(b, &LOG_DECISIONS, "id, origin, origin_row", 3); break;
    case STORE_LABEL: insert_sql(b, &LOG_LABELS, "id, origin, origin_row", 3); break;
    case STORE_HOP: insert_sql(b, &LOG_HOPS, "decision", 1); break;
    case STORE_DECISIONS: together_sql(b, &LOG_DECISIONS, "id"); break;
    case STORE_HOPS: together_sql(b, &LOG_HOPS, "decision"); break;
    case STORE_SKETCHES:
        (void)buf_adds(b, "INSERT OR ROLLBACK INTO sketches");
        add_values(b, 2, STORE_TOGETHER);
        break;
    case STORE_SHIP_DECISIONS: ship_sql(b, &LOG_DECISIONS, true); break;
    case STORE_SHIP_LABELS: ship_sql(b, &LOG_LABELS, false); break;
    case STORE_SHIP_HOPS:
        (void)buf_adds(b, "SELECT decision");
        add_names(b, &LOG_HOPS);
        (void)buf_adds(b, " FROM hops WHERE decision = ?1 ORDER BY hop");
        break;
    default: (void)buf_adds(b, STATEMENTS[which]);
    }
}

int store_fail(struct store *store, int rc)
{
    store->last_code = rc;
    (void)snprintf(store->last_error, sizeof store->last_error, "%s",
                   store->sql ? sqlite3_errmsg(store->sql) : sqlite3_errstr(rc));
    return rc;
}

sqlite3_stmt *store_statement(struct store *store, enum store_statement which)
{
    if (store->statement[which]) return store->statement[which];
    struct buf sql = BUF_INIT(16384);
    statement_sql(&sql, which);
    int rc = buf_ok(&sql) ? sqlite3_prepare_v3(store->sql, sql.data, -1, SQLITE_PREPARE_PERSISTENT,
                                               &store->statement[which], NULL)
                          : SQLITE_NOMEM;
    buf_release(&sql);
    if (rc != SQLITE_OK) (void)store_fail(store, rc);
    return store->statement[which];
}

int store_run(struct store *store, sqlite3_stmt *st)
{
    if (!st) return store->last_code;
    int rc;
    do rc = sqlite3_step(st);
    while (rc == SQLITE_ROW);
    if (rc != SQLITE_DONE) (void)store_fail(store, rc);
    (void)sqlite3_reset(st);
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

void store_bind(sqlite3_stmt *st, int first, const struct log_value *values, int count)
{
    for (int i = 0; i < count; i++) {
        const struct log_value *v = &values[i];
        int at = first + i;
        switch (v->kind) {
        case VALUE_INTEGER: (void)sqlite3_bind_int64(st, at, v->integer); break;
        case VALUE_REAL: (void)sqlite3_bind_double(st, at, v->real); break;
        case VALUE_TEXT: (void)sqlite3_bind_text(st, at, v->bytes, (int)v->len, SQLITE_STATIC); break;
        case VALUE_BLOB: (void)sqlite3_bind_blob(st, at, v->bytes, (int)v->len, SQLITE_STATIC); break;
        case VALUE_NULL: (void)sqlite3_bind_null(st, at); break;
        }
    }
}

/* ---- transactions ---- */

int store_meta_put(struct store *store, const char *name, const int64_t *number, const void *bytes, int len)
{
    sqlite3_stmt *st = store_statement(store, STORE_META);
    if (!st) return store->last_code;
    (void)sqlite3_bind_text(st, 1, name, -1, SQLITE_STATIC);
    if (number) (void)sqlite3_bind_int64(st, 2, *number);
    else (void)sqlite3_bind_null(st, 2);
    if (bytes) (void)sqlite3_bind_blob(st, 3, bytes, len, SQLITE_STATIC);
    else (void)sqlite3_bind_null(st, 3);
    return store_run(store, st);
}

int store_begin(struct store *store)
{
    rollup_clear(store->rollup);
    store->together.count = 0;
    return store_run(store, store_statement(store, STORE_BEGIN));
}

int store_commit(struct store *store)
{
    int rc = store_together_insert(store);
    if (rc != SQLITE_OK) return rc;
    rc = rollup_write(store->rollup);
    if (rc != SQLITE_OK) return store_fail(store, rc);
    if (store->next_id != store->committed_next_id) rc = store_meta_put(store, "next_id", &store->next_id, NULL, 0);
    if (rc == SQLITE_OK && store->shipped_id != store->committed_shipped_id)
        rc = store_meta_put(store, "shipped_id", &store->shipped_id, NULL, 0);
    if (rc == SQLITE_OK) rc = store_run(store, store_statement(store, STORE_COMMIT));
    if (rc != SQLITE_OK) return rc;
    store->committed_next_id = store->next_id;
    store->committed_shipped_id = store->shipped_id;
    return SQLITE_OK;
}

void store_rollback(struct store *store)
{
    rollup_clear(store->rollup);
    store->together.count = 0;
    store->next_id = store->committed_next_id;
    store->shipped_id = store->committed_shipped_id;
    if (!store->sql || sqlite3_get_autocommit(store->sql)) return; /* SQLite has already rolled back */
    int code = store->last_code;
    char words[sizeof store->last_error];
    memcpy(words, store->last_error, sizeof words);
    (void)store_run(store, store_statement(store, STORE_ROLLBACK));
    store->last_code = code; /* what went wrong first is what is told */
    memcpy(store->last_error, words, sizeof words);
}

/* ---- shipping ---- */

int store_set_shipped(struct store *store, int64_t id)
{
    if (id > store->shipped_id && id < store->next_id) store->shipped_id = id;
    return SQLITE_OK;
}

static void bind_origin_name(sqlite3_stmt *st, const char *node, size_t node_len, const unsigned char *log_id)
{
    (void)sqlite3_bind_text(st, 1, node, (int)node_len, SQLITE_STATIC);
    (void)sqlite3_bind_blob(st, 2, log_id, LOG_ID_BYTES, SQLITE_STATIC);
}

int store_origin(struct store *store, const char *node, size_t node_len, const unsigned char log_id[LOG_ID_BYTES],
                 int64_t *origin)
{
    sqlite3_stmt *add = store_statement(store, STORE_ORIGIN_ADD);
    sqlite3_stmt *find = add ? store_statement(store, STORE_ORIGIN_FIND) : NULL;
    if (!find) return store->last_code;
    bind_origin_name(add, node, node_len, log_id);
    int rc = store_run(store, add);
    if (rc != SQLITE_OK) return rc;
    bind_origin_name(find, node, node_len, log_id);
    rc = sqlite3_step(find);
    if (rc == SQLITE_ROW) *origin = sqlite3_column_int64(find, 0);
    else (void)store_fail(store, rc == SQLITE_DONE ? SQLITE_INTERNAL : rc);
    (void)sqlite3_reset(find);
    return rc == SQLITE_ROW ? SQLITE_OK : store->last_code;
}

int store_origin_seen(struct store *store, int64_t origin, int64_t last_row, int64_t at_ms)
{
    sqlite3_stmt *st = store_statement(store, STORE_ORIGIN_SEEN);
    if (!st) return store->last_code;
    (void)sqlite3_bind_int64(st, 1, origin);
    (void)sqlite3_bind_int64(st, 2, last_row);
    (void)sqlite3_bind_int64(st, 3, at_ms);
    return store_run(store, st);
}
