/* The thread that looks at the log, beside the log's writer and the loop: run under ThreadSanitizer too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "node/watch.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FINGERPRINT "0123456789abcdef"

struct scene {
    char dir[64], db[96];
    struct config config;
    struct node node;
    struct watch *watch;
    struct loop_timer tick;
    int64_t until_ms;
    int written;
    bool judged_well;
};

static int scene_make(void **state)
{
    struct err e;
    struct scene *s = calloc(1, sizeof *s);
    assert_non_null(s);
    (void)snprintf(s->dir, sizeof s->dir, "/tmp/rung-watch-XXXXXX");
    assert_non_null(mkdtemp(s->dir));
    (void)snprintf(s->db, sizeof s->db, "%s/rung.db", s->dir);
    s->config.log_path = s->db;
    s->config.node = "edge-1";
    s->config.watch_ms = 2;
    s->config.stale_calibration = 0.05;
    s->config.stale_unfamiliar = 0.1;
    s->node.config = &s->config;
    s->node.router = (struct router *)s; /* only that there is one counts */
    memcpy(s->node.router_info.fingerprint, FINGERPRINT, sizeof FINGERPRINT);
    const struct log_options options = {.path = s->db, .node = "edge-1", .tier = TIER_EDGE, .batch_ms = 2};
    assert_int_equal(log_open(&s->node.log, &options, &e), ERR_OK);
    assert_int_equal(loop_new(&s->node.loop, &e), ERR_OK);
    assert_int_equal(watch_new(&s->watch, &s->node, &e), ERR_OK);
    s->until_ms = clock_mono_ms() + 20000;
    *state = s;
    return 0;
}

static int scene_remove(void **state)
{
    struct scene *s = *state;
    char command[128];
    watch_stop(s->watch);
    loop_run_posts(s->node.loop);
    watch_free(s->watch);
    log_close(s->node.log, 5000);
    loop_free(s->node.loop);
    (void)snprintf(command, sizeof command, "rm -rf '%s'", s->dir);
    int rc = system(command);
    free(s);
    return rc;
}

/* One more row that promised 0.9, and its label, as a node's loop writes them. */
static void write_one(struct scene *s)
{
    struct log_row row = {.wall_ms = clock_wall_ms(), .answered = TIER_EDGE, .final_reason = REASON_CONFIDENT, .probe_p = -1,
                          .decision = {.tier = TIER_EDGE, .p = {0.9, 0.95, 0.99}, .router = FINGERPRINT, .propensity = 1}};
    struct log_label label = {.source = "feedback", .tier = TIER_NONE, .value = s->judged_well, .wall_ms = row.wall_ms};
    (void)snprintf(row.request, sizeof row.request, "r%d", s->written++);
    (void)snprintf(label.request, sizeof label.request, "%s", row.request);
    assert_int_equal(log_decision(s->node.log, &row, NULL, 0), ERR_OK);
    assert_int_equal(log_label_add(s->node.log, &label), ERR_OK);
}

static void on_tick(void *ctx)
{
    struct scene *s = ctx;
    const struct stale *found = watch_stale(s->watch);
    write_one(s);
    if (found && (found->stale || s->judged_well) && found->tier[TIER_EDGE].labels >= STALE_LABELS_MIN) loop_stop(s->node.loop);
    assert_true(clock_mono_ms() < s->until_ms);
    loop_timer_start(s->node.loop, &s->tick, 1, on_tick, s);
}

static void a_router_that_is_off_is_found_while_rows_come(void **state)
{
    struct scene *s = *state;
    loop_timer_start(s->node.loop, &s->tick, 1, on_tick, s);
    loop_run(s->node.loop, NULL, NULL);
    const struct stale *found = watch_stale(s->watch);
    assert_true(found->stale && found->tier[TIER_EDGE].labels >= STALE_LABELS_MIN);
    assert_string_equal(found->router, FINGERPRINT);
    assert_true(found->tier[TIER_EDGE].was < 0.1);
}

static void one_that_is_right_nine_times_of_ten_is_not_far_off(void **state)
{
    struct scene *s = *state;
    s->judged_well = true;
    s->config.stale_calibration = 0.2;
    loop_timer_start(s->node.loop, &s->tick, 1, on_tick, s);
    loop_run(s->node.loop, NULL, NULL);
    assert_false(watch_stale(s->watch)->stale);
}

static void stop_now(void *ctx)
{
    loop_stop(ctx);
}

/* Whatever it is at: waiting, reading, or about to post. */
static void it_stops_at_any_moment(void **state)
{
    struct scene *s = *state;
    struct err e;
    for (int i = 0; i < 100; i++) write_one(s);
    assert_true(log_flush(s->node.log, 5000));
    for (int i = 0; i < 40; i++) {
        struct loop_timer stop = {0};
        watch_stop(s->watch);
        loop_run_posts(s->node.loop);
        watch_free(s->watch);
        loop_free(s->node.loop);
        assert_int_equal(loop_new(&s->node.loop, &e), ERR_OK);
        s->config.watch_ms = 1 + i % 3;
        assert_int_equal(watch_new(&s->watch, &s->node, &e), ERR_OK);
        loop_timer_start(s->node.loop, &stop, i % 7, stop_now, s->node.loop);
        loop_run(s->node.loop, NULL, NULL);
    }
}

int main(void)
{
#define IN_SCENE(test) cmocka_unit_test_setup_teardown(test, scene_make, scene_remove)
    const struct CMUnitTest tests[] = {
        IN_SCENE(a_router_that_is_off_is_found_while_rows_come),
        IN_SCENE(one_that_is_right_nine_times_of_ten_is_not_far_off),
        IN_SCENE(it_stops_at_any_moment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
