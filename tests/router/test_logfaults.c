/* What the log does when the disk, the file or the process fails. */
#include "log_fixture.h"

#include "fault_vfs.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { ROWS = 40 };

static void put_numbered(struct decision_log *log, int from, int to)
{
    struct log_hop hop = {.tier = TIER_EDGE, .outcome = "done"};
    for (int i = from; i < to; i++) {
        char request[LOG_ID];
        (void)snprintf(request, sizeof request, "req-%d", i);
        struct log_row row = row_of(request);
        assert_int_equal(log_decision(log, &row, &hop, 1), ERR_OK);
    }
}

static void assert_each_once(const char *db, int rows)
{
    assert_int_equal(ask_int(db, "SELECT count(*) FROM decisions"), rows);
    assert_int_equal(ask_int(db, "SELECT count(DISTINCT request) FROM decisions"), rows);
    assert_int_equal(ask_int(db, "SELECT count(*) FROM hops"), rows);
    assert_int_equal(ask_int(db, "SELECT sum(requests) FROM hourly"), rows);
    assert_string_equal(ask(db, "PRAGMA integrity_check"), "ok");
}

/* The Nth write of a run fails, once or several times over, for every N until none fails any more. */
static void fail_each_write(const struct folder *f, int code, int failures)
{
    for (int n = 0;; n++) {
        struct log_options options = options_of(f);
        options.batch_ms = 1;
        struct decision_log *log = open_log(&options);
        put_numbered(log, 0, ROWS / 2);
        fault_set(n, failures, code);
        put_numbered(log, ROWS / 2, ROWS);
        assert_true(log_flush(log, 60000));
        int failed = atomic_load(&fault.failed);
        fault_set(-1, 0, 0);
        struct log_stats stats;
        log_stats(log, &stats);
        assert_int_equal(stats.rows_dropped, 0);
        log_close(log, 10000);
        assert_each_once(f->db, ROWS);
        assert_int_equal(unlink(f->db), 0);
        if (failed == 0) {
            assert_true(n > 3);
            break;
        }
    }
}

static void a_full_disk_at_any_write_loses_no_row(void **state)
{
    fail_each_write(*state, SQLITE_FULL, 1);
}

static void a_disk_that_stays_full_for_a_while_loses_no_row(void **state)
{
    fail_each_write(*state, SQLITE_FULL, 2);
}

static void a_write_error_at_any_write_loses_no_row(void **state)
{
    fail_each_write(*state, SQLITE_IOERR_WRITE, 1);
}

static void a_disk_gone_read_only_loses_no_row(void **state)
{
    fail_each_write(*state, SQLITE_READONLY, 1);
}

static void a_failure_at_any_write_while_opening_is_an_error_that_can_be_tried_again(void **state)
{
    const struct folder *f = *state;
    for (int n = 0;; n++) {
        struct log_options options = options_of(f);
        struct decision_log *log = NULL;
        struct err e = {0};
        fault_set(n, 1, SQLITE_FULL);
        enum err_code code = log_open(&log, &options, &e);
        int failed = atomic_load(&fault.failed);
        fault_set(-1, 0, 0);
        if (code != ERR_OK) {
            assert_int_equal(code, ERR_IO);
            assert_non_null(strstr(e.msg, f->db));
            log = open_log(&options);
        }
        put_numbered(log, 0, ROWS);
        assert_true(log_flush(log, 20000));
        log_close(log, 10000);
        assert_each_once(f->db, ROWS);
        assert_int_equal(unlink(f->db), 0);
        if (failed == 0) break;
    }
}

static void rows_that_find_the_queue_full_are_dropped_and_the_others_kept(void **state)
{
    const struct folder *f = *state;
    struct log_options options = options_of(f);
    options.queue_rows = ROWS;
    options.batch_ms = 1;
    struct decision_log *log = open_log(&options);
    fault_set(0, 1 << 30, SQLITE_FULL);
    int kept = 0;
    for (int i = 0; i < 3 * ROWS; i++) {
        char request[LOG_ID];
        (void)snprintf(request, sizeof request, "req-%d", i);
        struct log_row row = row_of(request);
        kept += log_decision(log, &row, NULL, 0) == ERR_OK;
    }
    assert_int_equal(kept, ROWS);
    assert_false(log_flush(log, 200)); /* and says so when it cannot */
    struct log_stats stats;
    log_stats(log, &stats);
    assert_int_equal(stats.rows_dropped, 2 * ROWS);
    assert_int_equal(stats.queue_rows, ROWS);
    assert_true(stats.write_errors > 0);
    fault_set(-1, 0, 0);
    assert_true(log_flush(log, 60000));
    log_close(log, 10000);
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM decisions"), ROWS);
}

static void closing_on_a_full_disk_is_bounded(void **state)
{
    const struct folder *f = *state;
    struct log_options options = options_of(f);
    struct decision_log *log = open_log(&options);
    fault_set(0, 1 << 30, SQLITE_FULL);
    put_numbered(log, 0, ROWS);
    log_close(log, 100); /* the test's own time limit is what this can fail by */
    fault_set(-1, 0, 0);
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM decisions"), 0);
}

static void a_locked_database_is_waited_for(void **state)
{
    const struct folder *f = *state;
    struct log_options options = options_of(f);
    options.batch_ms = 1;
    struct decision_log *log = open_log(&options);
    sqlite3 *other;
    assert_int_equal(sqlite3_open(f->db, &other), SQLITE_OK);
    assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    put_numbered(log, 0, ROWS);
    assert_false(log_flush(log, 400));
    assert_int_equal(sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    assert_true(log_flush(log, 60000));
    (void)sqlite3_close(other);
    log_close(log, 10000);
    assert_each_once(f->db, ROWS);
}

static void a_file_deleted_under_the_writer_is_made_anew(void **state)
{
    const struct folder *f = *state;
    struct log_options options = options_of(f);
    options.batch_ms = 1;
    struct decision_log *log = open_log(&options);
    put_numbered(log, 0, 1);
    assert_true(log_flush(log, 10000));
    assert_int_equal(unlink(f->db), 0);
    put_numbered(log, 1, ROWS);
    assert_true(log_flush(log, 60000));
    log_close(log, 10000);
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM decisions"), ROWS - 1);
}

/* The child says on the pipe how many rows are surely on the disk, after each flush. */
static void child_writes(const struct folder *f, int first, int out)
{
    struct log_options options = options_of(f);
    options.batch_ms = 1;
    struct decision_log *log = open_log(&options);
    for (int n = first;; n += 7) {
        put_numbered(log, n, n + 7);
        if (!log_flush(log, 20000)) _exit(1);
        int acknowledged = n + 7;
        if (write(out, &acknowledged, sizeof acknowledged) != (ssize_t)sizeof acknowledged) _exit(1);
    }
}

static void kill_9_loses_nothing_that_was_acknowledged(void **state)
{
    const struct folder *f = *state;
    int first = 0;
    for (int round = 0; round < 20; round++) {
        int ends[2], acknowledged = 0;
        assert_int_equal(pipe(ends), 0);
        pid_t child = fork();
        if (child == 0) child_writes(f, first, ends[1]);
        (void)close(ends[1]);
        /* kill it at another place each time: after some acknowledgements, in the middle of the next batch */
        for (int i = 0; i < 2 + round % 5; i++)
            assert_int_equal(read(ends[0], &acknowledged, sizeof acknowledged), sizeof acknowledged);
        assert_int_equal(kill(child, SIGKILL), 0);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        int last;
        while (read(ends[0], &last, sizeof last) == (ssize_t)sizeof last) acknowledged = last;
        (void)close(ends[0]);
        assert_string_equal(ask(f->db, "PRAGMA integrity_check"), "ok");
        char sql[160];
        (void)snprintf(sql, sizeof sql, "SELECT count(*) FROM decisions WHERE CAST(substr(request, 5) AS INTEGER) < %d",
                       acknowledged);
        assert_int_equal(ask_int(f->db, sql), acknowledged);
        assert_int_equal(ask_int(f->db, "SELECT count(*) - count(DISTINCT request) FROM decisions"), 0);
        assert_int_equal(ask_int(f->db, "SELECT (SELECT sum(requests) FROM hourly) - count(*) FROM decisions"), 0);
        first = (int)ask_int(f->db, "SELECT count(*) FROM decisions");
    }
}

static int well_again(void **state)
{
    fault_set(-1, 0, 0);
    return folder_remove(state);
}
#define FAULTY(test) cmocka_unit_test_setup_teardown(test, folder_make, well_again)

int main(void)
{
    fault_vfs_install();
    const struct CMUnitTest tests[] = {
        FAULTY(a_full_disk_at_any_write_loses_no_row),
        FAULTY(a_disk_that_stays_full_for_a_while_loses_no_row),
        FAULTY(a_write_error_at_any_write_loses_no_row),
        FAULTY(a_disk_gone_read_only_loses_no_row),
        FAULTY(a_failure_at_any_write_while_opening_is_an_error_that_can_be_tried_again),
        FAULTY(rows_that_find_the_queue_full_are_dropped_and_the_others_kept),
        FAULTY(closing_on_a_full_disk_is_bounded),
        FAULTY(a_locked_database_is_waited_for),
        FAULTY(a_file_deleted_under_the_writer_is_made_anew),
        FAULTY(kill_9_loses_nothing_that_was_acknowledged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
