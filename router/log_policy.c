/* The policies table: the highest version is in force, and the writer alone adds to it. */
#include "router/log_writer.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POLICY_JSON_BYTES = 2048, POLICY_WAIT_MS = 10000 };

struct policy_task {
    struct task task;
    struct policy policy;
    char source[24];
};

static int next_version(struct store *store, int64_t *version)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(store->sql, "SELECT coalesce(max(version), 0) + 1 FROM policies", -1, &st, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_step(st);
    if (rc == SQLITE_ROW) *version = sqlite3_column_int64(st, 0);
    else (void)store_fail(store, rc);
    (void)sqlite3_finalize(st);
    return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

static int policy_insert(struct store *store, struct task *task)
{
    struct policy_task *add = (struct policy_task *)task;
    char json[POLICY_JSON_BYTES];
    sqlite3_stmt *st = NULL;
    int rc = next_version(store, &add->policy.version);
    if (rc != SQLITE_OK) return rc;
    policy_to_json(&add->policy, json, sizeof json);
    rc = sqlite3_prepare_v2(store->sql, "INSERT INTO policies VALUES (?1, ?2, ?3, ?4)", -1, &st, NULL);
    if (rc != SQLITE_OK) return store_fail(store, rc);
    (void)sqlite3_bind_int64(st, 1, add->policy.version);
    (void)sqlite3_bind_int64(st, 2, clock_wall_ms());
    (void)sqlite3_bind_text(st, 3, add->source, -1, SQLITE_STATIC);
    (void)sqlite3_bind_text(st, 4, json, -1, SQLITE_STATIC);
    rc = store_run(store, st);
    (void)sqlite3_finalize(st);
    return rc;
}

enum err_code log_policy_add(struct decision_log *log, struct policy *policy, const char *source, struct err *e)
{
    struct policy_task *add = calloc(1, sizeof *add);
    if (!add) return err_set(e, ERR_MEMORY, "storing a policy: out of memory");
    add->task.run = policy_insert;
    add->policy = *policy;
    (void)snprintf(add->source, sizeof add->source, "%s", source);
    enum err_code code = log_task_run(log, &add->task, "storing a policy", POLICY_WAIT_MS, e);
    if (code == ERR_TIMEOUT || code == ERR_FULL) return code;
    if (code == ERR_OK) policy->version = add->policy.version;
    free(add);
    return code;
}

static enum err_code read_latest(sqlite3 *sql, const char *path, const struct log_policy_query *query, struct policy *out,
                                 bool *found, struct err *e)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(sql, "SELECT version, policy FROM policies WHERE (?1 IS NULL OR source = ?1) "
                                     "AND (?2 IS NULL OR json_extract(policy, '$.arm') = ?2) AND (?3 <= 0 OR version < ?3) "
                                     "ORDER BY version DESC LIMIT 1", -1, &st, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_bind_text(st, 1, query->source, -1, SQLITE_STATIC);
    if (rc == SQLITE_OK) rc = sqlite3_bind_text(st, 2, query->arm, -1, SQLITE_STATIC);
    if (rc == SQLITE_OK) rc = sqlite3_bind_int64(st, 3, query->before);
    if (rc == SQLITE_OK) rc = sqlite3_step(st);
    enum err_code code = ERR_OK;
    if (rc == SQLITE_ROW) {
        const char *json = (const char *)sqlite3_column_text(st, 1);
        struct policy policy;
        policy_defaults(&policy);
        code = json ? policy_from_json(&policy, json, e) : err_set(e, ERR_MEMORY, "log %s: out of memory", path);
        policy.version = sqlite3_column_int64(st, 0);
        if (code == ERR_OK) *out = policy;
        *found = code == ERR_OK;
    } else if (rc != SQLITE_DONE) {
        code = err_set(e, ERR_IO, "log %s: reading the policy failed: %s", path, sqlite3_errmsg(sql));
    }
    (void)sqlite3_finalize(st);
    return code;
}

enum err_code log_policy_latest(struct decision_log *log, const struct log_policy_query *query, struct policy *out, bool *found,
                                struct err *e)
{
    sqlite3 *sql;
    *found = false;
    enum err_code code = store_open_reader(&sql, log_path(log), e);
    if (code != ERR_OK) return code;
    code = read_latest(sql, log_path(log), query, out, found, e);
    (void)sqlite3_close(sql);
    return code;
}
