#include "log_fixture.h"

static void the_highest_version_is_in_force_and_survives(void **state)
{
    const struct folder *f = *state;
    struct log_options options = options_of(f);
    struct decision_log *log = open_log(&options);
    struct policy policy, read;
    struct err e = {0};
    bool found = true;
    assert_int_equal(log_policy_latest(log, &(struct log_policy_query){.source = NULL}, &read, &found, &e), ERR_OK);
    assert_false(found);
    policy_defaults(&policy);
    for (int i = 1; i <= 3; i++) {
        policy.threshold[TIER_EDGE] = 0.5 + 0.1 * i;
        assert_int_equal(log_policy_add(log, &policy, "config", &e), ERR_OK);
        assert_int_equal(policy.version, i);
    }
    log_close(log, 1000);
    log = open_log(&options);
    assert_int_equal(log_policy_latest(log, &(struct log_policy_query){.source = NULL}, &read, &found, &e), ERR_OK);
    assert_true(found);
    assert_int_equal(read.version, 3);
    assert_true(read.threshold[TIER_EDGE] > 0.79 && read.threshold[TIER_EDGE] < 0.81);
    policy.threshold[TIER_EDGE] = 0.9;
    assert_int_equal(log_policy_add(log, &policy, "tune", &e), ERR_OK);
    assert_int_equal(log_policy_latest(log, &(struct log_policy_query){.source = "config"}, &read, &found, &e), ERR_OK);
    assert_int_equal(read.version, 3);
    assert_int_equal(log_policy_latest(log, &(struct log_policy_query){.source = "region"}, &read, &found, &e), ERR_OK);
    assert_false(found);
    assert_string_equal(ask(f->db, "SELECT group_concat(version || source) FROM policies"), "1config,2config,3config,4tune");
    log_close(log, 1000);
}

static void a_damaged_policy_is_an_error_not_a_default(void **state)
{
    const struct folder *f = *state;
    struct log_options options = options_of(f);
    log_close(open_log(&options), 1000);
    sqlite3 *conn;
    assert_int_equal(sqlite3_open(f->db, &conn), SQLITE_OK);
    assert_int_equal(sqlite3_exec(conn, "INSERT INTO policies VALUES (7, 0, 'hand', '{broken')", NULL, NULL, NULL), SQLITE_OK);
    (void)sqlite3_close(conn);
    struct decision_log *log = open_log(&options);
    struct policy read;
    struct err e = {0};
    bool found;
    assert_int_not_equal(log_policy_latest(log, &(struct log_policy_query){.source = NULL}, &read, &found, &e), ERR_OK);
    assert_false(found);
    log_close(log, 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(the_highest_version_is_in_force_and_survives),
        IN_FOLDER(a_damaged_policy_is_an_error_not_a_default),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
