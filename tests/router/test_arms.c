#include "log_fixture.h"

#include "router/tune_arms.h"

#include <math.h>

static uint64_t seed = 88172645463325252u;
static double dice(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (double)(seed >> 11) * 0x1p-53;
}

/* Looks after every row, as someone impatient would; returns the row at which zero was left out, or 0. */
static int first_decided(double a, double b, double share, int rows)
{
    struct arm_sum first = {0}, second = {0};
    for (int i = 1; i <= rows; i++) {
        bool in_second = dice() < share;
        arm_sum_add(in_second ? &second : &first, dice() < (in_second ? b : a));
        if (arm_difference(&first, &second).decided) return i;
    }
    return 0;
}

static void equal_arms_are_hardly_ever_told_apart_however_often_one_looks(void **state)
{
    (void)state;
    enum { RUNS = 400 };
    int alarms = 0;
    for (int i = 0; i < RUNS; i++) alarms += first_decided(0.8, 0.8, i % 2 ? 0.5 : 0.2, 5000) != 0;
    (void)printf("    false alarms: %.1f %% of %d\n", 100.0 * alarms / RUNS, RUNS);
    assert_true(alarms <= RUNS * 5 / 100 + 6);
}

static void a_real_difference_is_found(void **state)
{
    (void)state;
    int found = 0;
    for (int i = 0; i < 50; i++) found += first_decided(0.7, 0.8, 0.5, 5000) != 0;
    assert_true(found >= 48);
}

static void few_rows_say_nothing(void **state)
{
    (void)state;
    struct arm_sum first = {0}, second = {0};
    for (int i = 0; i < ARM_ROWS_LEAST - 1; i++) {
        arm_sum_add(&first, 0);
        arm_sum_add(&second, 1);
    }
    struct arm_difference d = arm_difference(&first, &second);
    assert_false(d.decided);
    assert_true(isinf(d.low) && isinf(d.high));
}

static void arms_are_read_from_the_log(void **state)
{
    const struct folder *f = *state;
    struct log_options options = options_of(f);
    struct decision_log *log = open_log(&options);
    for (int i = 0; i < 3000; i++) {
        char request[LOG_ID];
        (void)snprintf(request, sizeof request, "req-%d", i);
        struct log_row row = row_of(request);
        bool b = i % 2;
        (void)snprintf(row.decision.arm, sizeof row.decision.arm, b ? "B" : "A");
        row.price_usd = b ? 0.001 * dice() : 0.002 * dice();
        assert_int_equal(log_decision(log, &row, NULL, 0), ERR_OK);
        struct log_label label = {.source = "checker", .tier = TIER_NONE, .value = dice() < 0.9, .wall_ms = row.wall_ms};
        memcpy(label.request, row.request, sizeof label.request);
        if (i % 3 == 0) assert_int_equal(log_label_add(log, &label), ERR_OK);
    }
    assert_true(log_flush(log, 20000));
    struct arms arms;
    struct err e = {0};
    assert_int_equal(arms_read(&arms, f->db, 0, &e), ERR_OK);
    assert_int_equal(arms.count, 2);
    assert_string_equal(arms.arm[1].name, "B");
    assert_int_equal(arms.arm[0].requests, 1500);
    assert_int_equal(arms.arm[0].labels + arms.arm[1].labels, 1000);
    assert_true(arms.arm[1].price_change.decided && arms.arm[1].price_change.high < 0);
    assert_false(arms.arm[1].quality_change.decided);
    assert_int_equal(arms_read(&arms, f->db, INT64_MAX, &e), ERR_NOT_FOUND);
    log_close(log, 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_arms_are_hardly_ever_told_apart_however_often_one_looks),
        cmocka_unit_test(a_real_difference_is_found),
        cmocka_unit_test(few_rows_say_nothing),
        IN_FOLDER(arms_are_read_from_the_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
