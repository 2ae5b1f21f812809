/* Opening the log's file: made, locked against a second writer, checked, migrated; moved aside when it is damaged. */
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
#include <unistd.h>

enum { BUSY_MS = 200, READER_BUSY_MS = 2000 };
static const int64_t KEEP_MS = INT64_C(30) * 24 * 3600 * 1000;

/* One row a version: what takes a file from the version before to this one. */
static const char *const MIGRATIONS[STORE_VERSION] = {SCHEMA_V1, SCHEMA_V2};

static void connection_close(struct store *store)
{
    for (int i = 0; i < STORE_STATEMENTS; i++) {
        (void)sqlite3_finalize(store->statement[i]);
        store->statement[i] = NULL;
    }
    memset(store->together.decision, 0, sizeof store->together.decision); /* what those held */
    memset(store->together.hop, 0, sizeof store->together.hop);
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
    return store_meta_put(store, name, NULL, out, len);
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
    store->keep_ms = options->keep_ms > 0 ? options->keep_ms : KEEP_MS;
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
