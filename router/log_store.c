#include "router/log_store.h"

#include "base/clock.h"
#include "base/textlog.h"
#include "router_schema.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BUSY_MS = 200, READER_BUSY_MS = 2000 };
static const int64_t DAY_MS = 24 * 3600 * 1000;
enum { ROLLUP_DAYS = 400 };

/* One row a version: what takes a file from the version before to this one. */
static const char *const MIGRATIONS[STORE_VERSION] = {SCHEMA_V1};

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

static void insert_sql(struct buf *b, const struct log_table *table, const char *before, int extra)
{
    (void)buf_addf(b, "INSERT INTO %s (%s", table->name, before);
    add_names(b, table);
    (void)buf_adds(b, ") VALUES (?");
    for (int i = 1; i < table->width + extra; i++) (void)buf_adds(b, ", ?");
    (void)buf_adds(b, ") ON CONFLICT DO NOTHING");
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

/* ---- opening ---- */

static void connection_close(struct store *store)
{
    for (int i = 0; i < STORE_STATEMENTS; i++) {
        (void)sqlite3_finalize(store->statement[i]);
        store->statement[i] = NULL;
    }
    if (store->rollup) rollup_unprepare(store->rollup);
    (void)sqlite3_close(store->sql);
    store->sql = NULL;
}

static int query_int(sqlite3 *sql, const char *text, int64_t *out)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(sql, text, -1, &st, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_step(st);
    if (rc == SQLITE_ROW) {
        *out = sqlite3_column_int64(st, 0);
        rc = SQLITE_OK;
    }
    (void)sqlite3_finalize(st);
    return rc;
}

static enum err_code err_of(const struct store *store, const char *doing, struct err *e)
{
    int primary = store->last_code & 0xff;
    enum err_code code = primary == SQLITE_NOMEM                                  ? ERR_MEMORY
                         : primary == SQLITE_CORRUPT || primary == SQLITE_NOTADB ? ERR_CORRUPT
                                                                                  : ERR_IO;
    return err_set(e, code, "log %s: %s failed: %s", store->path, doing, store->last_error);
}

/* Only one process may write: a second writer could damage the WAL. The lock goes when the process does. */
static enum err_code lock_take(struct store *store, struct err *e)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s-lock", store->path) >= (int)sizeof path)
        return err_set(e, ERR_INVALID, "log path of %zu bytes: at most %zu", strlen(store->path), sizeof path - 8);
    store->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (store->lock_fd < 0) return err_set(e, ERR_IO, "log lock %s: %s", path, strerror(errno));
    if (flock(store->lock_fd, LOCK_EX | LOCK_NB) == 0) return ERR_OK;
    (void)close(store->lock_fd);
    store->lock_fd = -1;
    return err_set(e, ERR_IO, "log %s: another rung process writes it (it holds %s-lock); give each node its own file",
                   store->path, store->path);
}

static enum err_code file_make(const struct store *store, struct err *e)
{
    int fd = open(store->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return err_set(e, ERR_IO, "log %s: %s", store->path, strerror(errno));
    /* Nothing is locked yet, so that this close cannot drop a POSIX lock of SQLite's. */
    (void)close(fd);
    return ERR_OK;
}

static int pragmas(struct store *store, bool fresh)
{
    char *words = NULL;
    int rc = SQLITE_OK;
    if (fresh) rc = sqlite3_exec(store->sql, "PRAGMA auto_vacuum = INCREMENTAL", NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(store->sql,
                          "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -8000;"
                          "PRAGMA temp_store = MEMORY; PRAGMA journal_size_limit = 67108864;",
                          NULL, NULL, &words);
    sqlite3_free(words);
    return rc;
}

static int migrate(struct store *store, int from)
{
    int rc = SQLITE_OK;
    for (int version = from; version < STORE_VERSION && rc == SQLITE_OK; version++) {
        char mark[128];
        (void)snprintf(mark, sizeof mark, "PRAGMA user_version = %d; PRAGMA application_id = %d; COMMIT", version + 1,
                       STORE_APPLICATION_ID);
        rc = sqlite3_exec(store->sql, "BEGIN IMMEDIATE", NULL, NULL, NULL);
        if (rc == SQLITE_OK) rc = sqlite3_exec(store->sql, MIGRATIONS[version], NULL, NULL, NULL);
        if (rc == SQLITE_OK) rc = sqlite3_exec(store->sql, mark, NULL, NULL, NULL);
        if (rc != SQLITE_OK) {
            (void)store_fail(store, rc);
            (void)sqlite3_exec(store->sql, "ROLLBACK", NULL, NULL, NULL);
        }
    }
    return rc;
}

static int meta_put(struct store *store, const char *name, const int64_t *number, const void *bytes, int len)
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

/* Bytes that are made once for each file: read, or made at random and kept. */
static int secret(struct store *store, const char *name, unsigned char *out, int len)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(store->sql, "SELECT bytes FROM meta WHERE name = ?1", -1, &st, NULL);
    if (rc != SQLITE_OK) return store_fail(store, rc);
    (void)sqlite3_bind_text(st, 1, name, -1, SQLITE_STATIC);
    rc = sqlite3_step(st);
    bool found = rc == SQLITE_ROW && sqlite3_column_bytes(st, 0) == len;
    if (found) memcpy(out, sqlite3_column_blob(st, 0), (size_t)len);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE) (void)store_fail(store, rc);
    (void)sqlite3_finalize(st);
    if (found) return SQLITE_OK;
    if (rc != SQLITE_ROW && rc != SQLITE_DONE) return rc;
    randombytes_buf(out, (size_t)len);
    return meta_put(store, name, NULL, out, len);
}

static int load(struct store *store)
{
    int64_t next = 1, shipped = 0, last = 0;
    int rc = query_int(store->sql, "SELECT number FROM meta WHERE name = 'next_id'", &next);
    if (rc == SQLITE_OK || rc == SQLITE_DONE)
        rc = query_int(store->sql, "SELECT number FROM meta WHERE name = 'shipped_id'", &shipped);
    if (rc == SQLITE_OK || rc == SQLITE_DONE)
        rc = query_int(store->sql,
                       "SELECT max(coalesce((SELECT max(id) FROM decisions), 0), "
                       "coalesce((SELECT max(id) FROM labels), 0))",
                       &last);
    if (rc == SQLITE_OK || rc == SQLITE_DONE) rc = query_int(store->sql, "PRAGMA page_size", &store->page_bytes);
    if (rc != SQLITE_OK) return store_fail(store, rc);
    store->next_id = store->committed_next_id = next > last ? next : last + 1;
    store->shipped_id = store->committed_shipped_id = shipped;
    rc = secret(store, "key", store->key, sizeof store->key);
    if (rc == SQLITE_OK) rc = secret(store, "log_id", store->log_id, sizeof store->log_id);
    if (rc == SQLITE_OK) rc = rollup_prepare(store->rollup, store->sql);
    return rc == SQLITE_OK ? rc : store_fail(store, rc);
}

static enum err_code versions_check(struct store *store, int64_t version, int64_t application, int64_t tables,
                                    struct err *e)
{
    if (tables > 0 && application != STORE_APPLICATION_ID)
        return err_set(e, ERR_INVALID, "%s is an SQLite database, but not a log of rung's: name another file",
                       store->path);
    if (version > STORE_VERSION || version < 0)
        return err_set(e, ERR_VERSION, "log %s has schema version %lld; this rung knows up to %d: use the newer rung",
                       store->path, (long long)version, STORE_VERSION);
    return ERR_OK;
}

static enum err_code connection_open(struct store *store, struct err *e)
{
    enum err_code code = file_make(store, e);
    if (code != ERR_OK) return code;
    int rc = sqlite3_open_v2(store->path, &store->sql, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_busy_timeout(store->sql, BUSY_MS);
    int64_t version = 0, application = 0, tables = 0;
    if (rc == SQLITE_OK) rc = query_int(store->sql, "PRAGMA user_version", &version);
    if (rc == SQLITE_OK) rc = query_int(store->sql, "PRAGMA application_id", &application);
    if (rc == SQLITE_OK) rc = query_int(store->sql, "SELECT count(*) FROM sqlite_schema", &tables);
    if (rc != SQLITE_OK) goto failed;
    code = versions_check(store, version, application, tables, e);
    if (code != ERR_OK) {
        connection_close(store);
        return code;
    }
    rc = pragmas(store, tables == 0);
    if (rc == SQLITE_OK) rc = migrate(store, (int)version);
    if (rc == SQLITE_OK) rc = load(store);
    if (rc == SQLITE_OK) return ERR_OK;
failed:
    (void)store_fail(store, rc);
    connection_close(store);
    return err_of(store, "opening", e);
}

/* NAME and NAME-wal become NAME.corrupt-TIME and NAME.corrupt-TIME-wal; NAME-shm is only an index of the WAL. */
static enum err_code move_aside(const struct store *store, struct err *e)
{
    char from[4200], to[4300], detail[200];
    long long now = (long long)clock_wall_ms();
    (void)snprintf(to, sizeof to, "%s.corrupt-%lld", store->path, now);
    if (rename(store->path, to) != 0 && errno != ENOENT)
        return err_set(e, ERR_CORRUPT, "log %s is damaged (%s) and cannot be moved to %s: %s", store->path,
                       store->last_error, to, strerror(errno));
    textlog(TEXTLOG_ERROR, "log.corrupt", "detail=%s moved=%s: a fresh log is begun",
            textlog_quote(store->last_error, detail, sizeof detail), to);
    (void)snprintf(from, sizeof from, "%s-wal", store->path);
    (void)snprintf(to, sizeof to, "%s.corrupt-%lld-wal", store->path, now);
    (void)rename(from, to);
    (void)snprintf(from, sizeof from, "%s-shm", store->path);
    (void)unlink(from);
    return ERR_OK;
}

enum err_code store_reopen(struct store *store, struct err *e)
{
    bool damaged = (store->last_code & 0xff) == SQLITE_CORRUPT || (store->last_code & 0xff) == SQLITE_NOTADB;
    store->last_code = SQLITE_OK;
    if (store->sql) connection_close(store);
    rollup_clear(store->rollup);
    enum err_code code = ERR_CORRUPT;
    if (!damaged) code = connection_open(store, e);
    if (code != ERR_CORRUPT) return code;
    code = move_aside(store, e);
    return code == ERR_OK ? connection_open(store, e) : code;
}

enum err_code store_open(struct store *store, const struct log_options *options, struct err *e)
{
    memset(store, 0, sizeof *store);
    store->path = options->path;
    store->node = options->node;
    store->tier = options->tier;
    store->lock_fd = -1;
    store->store_prompts = options->store_prompts;
    store->keep_ms = options->keep_ms > 0 ? options->keep_ms : 30 * DAY_MS;
    store->keep_bytes = options->keep_bytes > 0 ? options->keep_bytes : (int64_t)1 << 30;
    if (sodium_init() < 0) return err_set(e, ERR_INTERNAL, "libsodium does not start");
    store->rollup = rollup_new();
    if (!store->rollup) return err_set(e, ERR_MEMORY, "log: no memory for the rollups");
    enum err_code code = lock_take(store, e);
    if (code == ERR_OK) code = store_reopen(store, e);
    if (code != ERR_OK) store_close(store);
    return code;
}

void store_close(struct store *store)
{
    connection_close(store);
    rollup_free(store->rollup);
    store->rollup = NULL;
    if (store->lock_fd >= 0) (void)close(store->lock_fd);
    store->lock_fd = -1;
}

bool store_moved(const struct store *store)
{
    int moved = 0;
    return sqlite3_file_control(store->sql, "main", SQLITE_FCNTL_HAS_MOVED, &moved) == SQLITE_OK && moved;
}

enum err_code store_open_reader(sqlite3 **out, const char *path, struct err *e)
{
    *out = NULL;
    if (access(path, R_OK) != 0) return err_set(e, ERR_IO, "log %s: %s", path, strerror(errno));
    int rc = sqlite3_open_v2(path, out, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_busy_timeout(*out, READER_BUSY_MS);
    int64_t version = 0, application = 0;
    if (rc == SQLITE_OK) rc = query_int(*out, "PRAGMA user_version", &version);
    if (rc == SQLITE_OK) rc = query_int(*out, "PRAGMA application_id", &application);
    enum err_code code = ERR_OK;
    if (rc != SQLITE_OK)
        code = err_set(e, (rc & 0xff) == SQLITE_NOTADB || (rc & 0xff) == SQLITE_CORRUPT ? ERR_CORRUPT : ERR_IO,
                       "log %s: %s", path, sqlite3_errmsg(*out));
    else if (application != STORE_APPLICATION_ID)
        code = err_set(e, ERR_INVALID, "%s is not a log of rung's", path);
    else if (version > STORE_VERSION)
        code = err_set(e, ERR_VERSION, "log %s has schema version %lld; this rung knows up to %d: use the newer rung",
                       path, (long long)version, STORE_VERSION);
    if (code == ERR_OK) return ERR_OK;
    (void)sqlite3_close(*out);
    *out = NULL;
    return code;
}

/* ---- transactions ---- */

int store_begin(struct store *store)
{
    rollup_clear(store->rollup);
    return store_run(store, store_statement(store, STORE_BEGIN));
}

int store_commit(struct store *store)
{
    int rc = rollup_write(store->rollup);
    if (rc != SQLITE_OK) return store_fail(store, rc);
    if (store->next_id != store->committed_next_id) rc = meta_put(store, "next_id", &store->next_id, NULL, 0);
    if (rc == SQLITE_OK && store->shipped_id != store->committed_shipped_id)
        rc = meta_put(store, "shipped_id", &store->shipped_id, NULL, 0);
    if (rc == SQLITE_OK) rc = store_run(store, store_statement(store, STORE_COMMIT));
    if (rc != SQLITE_OK) return rc;
    store->committed_next_id = store->next_id;
    store->committed_shipped_id = store->shipped_id;
    return SQLITE_OK;
}

void store_rollback(struct store *store)
{
    rollup_clear(store->rollup);
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

/* ---- rows ---- */

static void bind_origin(sqlite3_stmt *st, int64_t id, struct store_origin origin)
{
    (void)sqlite3_bind_int64(st, 1, id);
    if (origin.origin == 0) {
        (void)sqlite3_bind_null(st, 2);
        (void)sqlite3_bind_null(st, 3);
    } else {
        (void)sqlite3_bind_int64(st, 2, origin.origin);
        (void)sqlite3_bind_int64(st, 3, origin.row);
    }
}

static int add_row(struct store *store, enum store_statement which, struct store_origin origin,
                   const struct log_value *values, int width, bool *stored)
{
    *stored = false;
    sqlite3_stmt *st = store_statement(store, which);
    if (!st) return store->last_code;
    bind_origin(st, store->next_id, origin);
    store_bind(st, 4, values, width);
    int rc = store_run(store, st);
    if (rc == SQLITE_OK) *stored = sqlite3_changes(store->sql) > 0;
    return rc;
}

static int add_hops(struct store *store, int64_t decision, const struct store_decision *d)
{
    for (int i = 0; i < d->hop_count; i++) {
        sqlite3_stmt *st = store_statement(store, STORE_HOP);
        if (!st) return store->last_code;
        (void)sqlite3_bind_int64(st, 1, decision);
        store_bind(st, 2, d->hops[i], HOP_WIDTH);
        int rc = store_run(store, st);
        if (rc != SQLITE_OK) return rc;
    }
    return SQLITE_OK;
}

static int add_sketch(struct store *store, int64_t decision, const unsigned char *sketch)
{
    sqlite3_stmt *st = store_statement(store, STORE_SKETCH);
    if (!st) return store->last_code;
    (void)sqlite3_bind_int64(st, 1, decision);
    (void)sqlite3_bind_blob(st, 2, sketch, ROUTER_SKETCH_BYTES, SQLITE_STATIC);
    return store_run(store, st);
}

static int add_prompt(struct store *store, int64_t decision, const struct store_decision *d)
{
    sqlite3_stmt *st = store_statement(store, STORE_PROMPT);
    if (!st) return store->last_code;
    (void)sqlite3_bind_int64(st, 1, decision);
    (void)sqlite3_bind_text(st, 2, d->prompt, -1, SQLITE_STATIC);
    (void)sqlite3_bind_text(st, 3, d->answer, -1, SQLITE_STATIC);
    return store_run(store, st);
}

int store_add_decision(struct store *store, struct store_origin origin, const struct store_decision *decision,
                       bool *stored)
{
    int64_t id = store->next_id;
    int rc = add_row(store, STORE_DECISION, origin, decision->values, DECISION_WIDTH, stored);
    if (rc != SQLITE_OK || !*stored) return rc;
    store->next_id++;
    rc = add_hops(store, id, decision);
    if (rc == SQLITE_OK && decision->sketch) rc = add_sketch(store, id, decision->sketch);
    if (rc == SQLITE_OK && store->store_prompts && (decision->prompt || decision->answer))
        rc = add_prompt(store, id, decision);
    if (rc == SQLITE_OK) rc = rollup_add(store->rollup, decision->values);
    return rc;
}

int store_add_label(struct store *store, struct store_origin origin, const struct log_value values[LABEL_WIDTH],
                    bool *stored)
{
    int rc = add_row(store, STORE_LABEL, origin, values, LABEL_WIDTH, stored);
    if (rc == SQLITE_OK && *stored) store->next_id++;
    return rc;
}

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

/* ---- keeping it small ---- */

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
    int64_t before = now_ms - store->keep_ms, rollups_before = now_ms - ROLLUP_DAYS * DAY_MS;
    bool decisions = false, labels = false;
    if (rows_max > STORE_TRIM_ROWS_MAX) rows_max = STORE_TRIM_ROWS_MAX;
    int rc = drop_before(store, before, rows_max, &decisions);
    if (rc == SQLITE_OK) rc = drop_labels(store, before, rows_max, &labels);
    if (rc == SQLITE_OK) rc = run_with(store, STORE_DROP_HOURLY, rollups_before);
    if (rc == SQLITE_OK) rc = run_with(store, STORE_DROP_LATENCY, rollups_before);
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
