#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "node/loop.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

struct order {
    struct loop *loop;
    char seen[16];
    int posts, signals;
};
struct mark {
    struct order *order;
    struct loop_timer timer;
    char letter;
    bool last;
};

static void on_mark(void *ctx)
{
    struct mark *mark = ctx;
    strncat(mark->order->seen, &mark->letter, 1);
    if (mark->last) loop_stop(mark->order->loop);
}

static void timers_run_in_order_of_their_time_and_stopped_ones_never(void **state)
{
    (void)state;
    struct order o = {0};
    assert_int_equal(loop_new(&o.loop, NULL), ERR_OK);
    struct mark marks[4] = {{&o, {0}, 'c', true}, {&o, {0}, 'a', false}, {&o, {0}, 'b', false}, {&o, {0}, 'x', false}};
    loop_timer_start(o.loop, &marks[0].timer, 9, on_mark, &marks[0]);
    loop_timer_start(o.loop, &marks[1].timer, 0, on_mark, &marks[1]);
    loop_timer_start(o.loop, &marks[2].timer, 5, on_mark, &marks[2]);
    loop_timer_start(o.loop, &marks[3].timer, 3, on_mark, &marks[3]);
    loop_timer_stop(o.loop, &marks[3].timer);
    loop_run(o.loop, NULL, NULL);
    assert_string_equal(o.seen, "abc");
    loop_free(o.loop);
}

static void on_post(void *ctx, void *arg)
{
    (void)arg;
    struct order *o = ctx;
    if (++o->posts == 2000) loop_stop(o->loop);
}

struct soon {
    struct loop *loop;
    struct loop_timer a, b, c, d;
    char seen[16];
    int turns;
};

static void on_c(void *ctx)
{
    strcat(((struct soon *)ctx)->seen, "c");
}

static void on_d(void *ctx)
{
    struct soon *s = ctx;
    strcat(s->seen, "d");
    if (++s->turns == 2) loop_stop(s->loop);
    else loop_timer_start(s->loop, &s->d, 0, on_d, s); /* behind what was started in this turn before it */
}

static void on_b(void *ctx)
{
    struct soon *s = ctx;
    strcat(s->seen, "b");
    loop_timer_stop(s->loop, &s->c); /* still to run in this turn: it does not */
}

static void on_a(void *ctx)
{
    struct soon *s = ctx;
    strcat(s->seen, "a");
    if (s->turns == 0) loop_timer_start(s->loop, &s->a, 0, on_a, s); /* of the next turn */
}

static void timers_of_0_ms_run_in_the_next_turn_in_the_order_of_starting(void **state)
{
    (void)state;
    struct soon s = {0};
    assert_int_equal(loop_new(&s.loop, NULL), ERR_OK);
    loop_timer_start(s.loop, &s.b, 0, on_b, &s);
    loop_timer_start(s.loop, &s.a, 0, on_a, &s);
    loop_timer_start(s.loop, &s.c, 0, on_c, &s);
    loop_timer_start(s.loop, &s.d, 0, on_d, &s);
    loop_timer_start(s.loop, &s.b, 0, on_b, &s); /* started again: now the last */
    loop_timer_stop(s.loop, &s.c);
    loop_timer_start(s.loop, &s.c, 0, on_c, &s); /* behind it, so that it stops it */
    loop_run(s.loop, NULL, NULL);
    assert_string_equal(s.seen, "adbad");
    loop_free(s.loop);
}

static void *poster(void *ctx)
{
    struct order *o = ctx;
    for (int i = 0; i < 1000; i++)
        while (!loop_post(o->loop, on_post, o, NULL)) {
        }
    return NULL;
}

static void posts_of_two_threads_all_arrive(void **state)
{
    (void)state;
    struct order o = {0};
    assert_int_equal(loop_new(&o.loop, NULL), ERR_OK);
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&threads[i], NULL, poster, &o), 0);
    loop_run(o.loop, NULL, NULL);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    assert_int_equal(o.posts, 2000);
    loop_free(o.loop);
}

static void on_read(void *ctx, int fd, int events)
{
    struct order *o = ctx;
    char c = 0;
    assert_true(events & LOOP_READ);
    assert_int_equal(read(fd, &c, 1), 1);
    strncat(o->seen, &c, 1);
    if (c == '2') {
        loop_fd_remove(o->loop, fd);
        (void)raise(SIGHUP);
    }
}

static void on_signal(void *ctx, int number)
{
    struct order *o = ctx;
    o->signals = number;
    loop_stop(o->loop);
}

static void descriptors_and_signals_reach_their_callbacks(void **state)
{
    (void)state;
    struct order o = {0};
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(loop_new(&o.loop, NULL), ERR_OK);
    assert_int_equal(loop_fd_set(o.loop, fds[0], LOOP_READ, on_read, &o, NULL), ERR_OK);
    assert_int_equal(write(fds[1], "123", 3), 3);
    loop_run(o.loop, on_signal, &o);
    assert_string_equal(o.seen, "12");
    assert_int_equal(o.signals, SIGHUP);
    loop_free(o.loop);
    close(fds[0]);
    close(fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timers_run_in_order_of_their_time_and_stopped_ones_never),
        cmocka_unit_test(timers_of_0_ms_run_in_the_next_turn_in_the_order_of_starting),
        cmocka_unit_test(posts_of_two_threads_all_arrive),
        cmocka_unit_test(descriptors_and_signals_reach_their_callbacks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
