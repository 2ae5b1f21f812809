/* What the log's tests share: a folder of their own, rows, and questions asked through a second connection. */
#ifndef RUNG_TESTS_ROUTER_LOG_FIXTURE_H
#define RUNG_TESTS_ROUTER_LOG_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "router/log.h"

#include "base/clock.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct folder {
    char dir[64], db[96];
};

static inline int folder_make(void **state)
{
    struct folder *f = calloc(1, sizeof *f);
    (void)snprintf(f->dir, sizeof f->dir, "/tmp/rung-log-XXXXXX");
    if (!mkdtemp(f->dir)) return -1;
    (void)snprintf(f->db, sizeof f->db, "%s/rung.db", f->dir);
    *state = f;
    return 0;
}

static inline int folder_remove(void **state)
{
    struct folder *f = *state;
    char command[128];
    (void)snprintf(command, sizeof command, "rm -rf '%s'", f->dir);
    int rc = system(command);
    free(f);
    return rc;
}
#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, folder_make, folder_remove)

static inline struct log_options options_of(const struct folder *f)
{
    return (struct log_options){.path = f->db, .node = "edge-1", .tier = TIER_EDGE, .batch_ms = 5};
}

static inline struct decision_log *open_log(const struct log_options *options)
{
    struct decision_log *log = NULL;
    struct err e = {0};
    enum err_code code = log_open(&log, options, &e);
    if (code != ERR_OK) fail_msg("log_open: %s", e.msg);
    return log;
}

/* The beginning of an hour yesterday. */
static inline int64_t test_hour_ms(void)
{
    return (clock_wall_ms() / 3600000 - 24) * 3600000;
}

static inline struct log_row row_of(const char *request)
{
    struct log_row row = {.wall_ms = test_hour_ms(), .answered = TIER_EDGE, .final_reason = REASON_CONFIDENT,
                          .prompt_chars = 42, .turns = 1, .http_status = 200, .prompt_tokens = 10,
                          .completion_tokens = 20, .ttft_ms = 12.5, .total_ms = 100, .price_usd = 0.001,
                          .price_core_usd = 0.010, .probe_p = -1};
    (void)snprintf(row.request, sizeof row.request, "%s", request);
    (void)snprintf(row.model, sizeof row.model, "small");
    (void)snprintf(row.finish, sizeof row.finish, "stop");
    row.decision = (struct decision){.tier = TIER_EDGE, .reason = REASON_CONFIDENT, .p = {0.9, 0.95, 0.99},
                                     .threshold = 0.8, .propensity = 0.99, .policy_version = 3, .arm = "A",
                                     .router = "0123456789abcdef", .allowed = {true, true, true}};
    return row;
}

static inline void put(struct decision_log *log, const char *request)
{
    struct log_row row = row_of(request);
    assert_int_equal(log_decision(log, &row, NULL, 0), ERR_OK);
}

/* The first column of the first row, as text; "" when there is none. */
static inline const char *ask(const char *db, const char *sql)
{
    static char out[512];
    sqlite3 *conn = NULL;
    sqlite3_stmt *st = NULL;
    assert_int_equal(sqlite3_open_v2(db, &conn, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    (void)sqlite3_busy_timeout(conn, 5000);
    int rc = sqlite3_prepare_v2(conn, sql, -1, &st, NULL);
    if (rc != SQLITE_OK) fail_msg("%s: %s", sql, sqlite3_errmsg(conn));
    rc = sqlite3_step(st);
    const char *text = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(st, 0) : NULL;
    (void)snprintf(out, sizeof out, "%s", text ? text : "");
    (void)sqlite3_finalize(st);
    (void)sqlite3_close(conn);
    return out;
}

static inline long ask_int(const char *db, const char *sql)
{
    return strtol(ask(db, sql), NULL, 10);
}

#endif
