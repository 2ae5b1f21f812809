/* The node's one loop thread: zmq_poll over ZeroMQ sockets, file descriptors, timers and a queue that other threads
 * post to. Everything here but loop_post() is for the loop thread alone. Callbacks may add and remove anything.
 */
#ifndef RUNG_NODE_LOOP_H
#define RUNG_NODE_LOOP_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct loop;
ERR_CHECKED enum err_code loop_new(struct loop **out, struct err *e);
void loop_free(struct loop *loop);
/* Until loop_stop(). SIGTERM/SIGINT/SIGHUP/SIGUSR1 are read through a signalfd: `on_signal` gets their number. */
void loop_run(struct loop *loop, void (*on_signal)(void *ctx, int number), void *ctx);
void loop_stop(struct loop *loop);
/* Monotonic time of this turn of the loop, in microseconds. */
int64_t loop_now_us(const struct loop *loop);

enum { LOOP_READ = 1, LOOP_WRITE = 2 };
typedef void loop_fd_fn(void *ctx, int fd, int events);
/* Watch a descriptor, level-triggered. Setting again replaces events and callback. Errors: ERR_FULL, ERR_IO. */
ERR_CHECKED enum err_code loop_fd_set(struct loop *loop, int fd, int events, loop_fd_fn *fn, void *ctx, struct err *e);
void loop_fd_remove(struct loop *loop, int fd);
/* Watch a ZeroMQ socket for reading; the callback must receive until nothing is left or its own bound. */
typedef void loop_zmq_fn(void *ctx);
ERR_CHECKED enum err_code loop_zmq_set(struct loop *loop, void *socket, loop_zmq_fn *fn, void *ctx, struct err *e);
void loop_zmq_remove(struct loop *loop, void *socket);

/* A timer lies in its owner's struct, zeroed before first use. Starting again moves it. One of 0 ms is run in the next turn,
 * in the order of starting. */
struct loop_timer {
    int64_t due_us;
    void (*fn)(void *ctx);
    void *ctx;
    int slot; /* 0: not running; place in the heap + 1; -1: of 0 ms, in a list */
    struct loop_timer *next, **prev;
};
void loop_timer_start(struct loop *loop, struct loop_timer *timer, int64_t after_ms, void (*fn)(void *ctx), void *ctx);
void loop_timer_stop(struct loop *loop, struct loop_timer *timer);

/* Run what was posted and has not run yet (shutdown, tests). */
void loop_run_posts(struct loop *loop);
/* Run `fn` on the loop thread soon. Any thread, never blocks; false when the queue (65,536) is full or memory is out. */
bool loop_post(struct loop *loop, void (*fn)(void *ctx, void *arg), void *ctx, void *arg);

#endif
