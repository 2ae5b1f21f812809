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

static struct arms two_arms(double right_a, double right_b, double usd_a, double usd_b, int rows)
{
    struct arms arms = {.count = 2, .arm = {{.name = "A"}, {.name = "B"}}};
    for (int i = 0; i < rows; i++) {
        for (int k = 0; k < 2; k++) {
            arm_sum_add(&arms.arm[k].quality, dice() < (k ? right_b : right_a));
            arm_sum_add(&arms.arm[k].price_usd, (k ? usd_b : usd_a) * (0.5 + dice()));
        }
    }
    for (int k = 0; k < 2; k++) arms.arm[k].labels = arms.arm[k].requests = rows;
    return arms;
}

static void a_rule_promotes_stops_and_waits(void **state)
{
    (void)state;
    char why[ARMS_WHY];
    static const struct arms_rule QUALITY = {ARMS_QUALITY, 0.95, 200, 0.02}, PRICE = {ARMS_PRICE, 0.95, 200, 0.02};
    struct arms arms = two_arms(0.7, 0.85, 1, 1, 3000);
    assert_int_equal(arms_judge(&arms, &QUALITY, why), ARMS_PROMOTE);
    assert_non_null(strstr(why, "right answers of B less A"));
    arms = two_arms(0.85, 0.7, 1, 1, 3000);
    assert_int_equal(arms_judge(&arms, &QUALITY, why), ARMS_STOP);
    arms = two_arms(0.8, 0.8, 1, 1, 3000);
    assert_int_equal(arms_judge(&arms, &QUALITY, why), ARMS_WAIT);
    arms = two_arms(0.1, 0.9, 1, 1, 199); /* clear, but too few */
    assert_int_equal(arms_judge(&arms, &QUALITY, why), ARMS_WAIT);
    arms = two_arms(0.8, 0.8, 1, 0.5, 40000);
    assert_int_equal(arms_judge(&arms, &PRICE, why), ARMS_PROMOTE);
    arms = two_arms(0.8, 0.7, 1, 0.5, 3000); /* cheaper, at a loss */
    assert_int_equal(arms_judge(&arms, &PRICE, why), ARMS_WAIT);
    arms = two_arms(0.8, 0.8, 0.5, 1, 3000);
    assert_int_equal(arms_judge(&arms, &PRICE, why), ARMS_STOP);
    arms.count = 1;
    assert_int_equal(arms_judge(&arms, &PRICE, why), ARMS_WAIT);
}

static void arms_without_any_spread_are_told_apart_too(void **state)
{
    (void)state;
    struct arms arms = two_arms(0, 1.1, 1, 1, 300); /* never right, always right */
    assert_true(arm_difference(&arms.arm[0].quality, &arms.arm[1].quality).decided);
    arms = two_arms(1.1, 1.1, 1, 1, 300);
    assert_false(arm_difference(&arms.arm[0].quality, &arms.arm[1].quality).decided);
}

static void more_confidence_wants_wider_intervals(void **state)
{
    (void)state;
    struct arms arms = two_arms(0.7, 0.8, 1, 1, 1000);
    struct arm_difference at95 = arm_difference_at(&arms.arm[0].quality, &arms.arm[1].quality, 0.05);
    struct arm_difference at99 = arm_difference_at(&arms.arm[0].quality, &arms.arm[1].quality, 0.01);
    assert_true(at99.high - at99.low > at95.high - at95.low);
    assert_true(at95.low == arm_difference(&arms.arm[0].quality, &arms.arm[1].quality).low);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_arms_are_hardly_ever_told_apart_however_often_one_looks),
        cmocka_unit_test(a_real_difference_is_found),
        cmocka_unit_test(few_rows_say_nothing),
        IN_FOLDER(arms_are_read_from_the_log),
        cmocka_unit_test(a_rule_promotes_stops_and_waits),
        cmocka_unit_test(arms_without_any_spread_are_told_apart_too),
        cmocka_unit_test(more_confidence_wants_wider_intervals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
