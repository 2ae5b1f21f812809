/* One turn of the loop: wait in zmq_poll (ZeroMQ sockets and one epoll descriptor that holds all others), then posts,
 * descriptors, sockets, timers. */
#include "node/loop.h"

#include "base/clock.h"
#include "base/slice.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>
#include <zmq.h>

enum { SOCKETS_MAX = 64, FDS_MAX = 65536, TIMERS_MAX = 1 << 20, POSTS_MAX = 65536, EVENTS = 256 };

struct watch {
    loop_fd_fn *fn;
    void *ctx;
    uint32_t generation; /* an event of an earlier owner of this number is dropped */
    bool active;
};
struct post {
    void (*fn)(void *ctx, void *arg);
    void *ctx, *arg;
};
struct loop {
    int epoll, wake, signals;
    bool stopped;
    int64_t now_us;
    struct watch *watches; /* (watch_count), by descriptor */
    int watch_count;
    zmq_pollitem_t items[SOCKETS_MAX + 1]; /* the last in use is the epoll descriptor */
    struct {
        loop_zmq_fn *fn;
        void *ctx;
    } sockets[SOCKETS_MAX];
    int socket_count;
    struct loop_timer **heap; /* (timer_count) */
    int timer_count, timer_cap;
    struct loop_timer *soon, **soon_end; /* of 0 ms, for the next turn */
    struct loop_timer *turning;          /* those of this turn that are still to run */
    pthread_mutex_t lock; /* posts */
    struct post *posts;
    int post_count, post_cap;
    struct post *running;
    int running_cap;
    void (*on_signal)(void *ctx, int number);
    void *signal_ctx;
};

static void signal_mask(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
    sigaddset(set, SIGUSR1);
}

static void on_wake(void *ctx, int fd, int events)
{
    (void)events;
    (void)ctx;
    uint64_t count;
    ssize_t n = read(fd, &count, sizeof count);
    (void)n; /* empty is fine: posts are looked at every turn */
}

static void on_signal_fd(void *ctx, int fd, int events)
{
    (void)events;
    struct loop *loop = ctx;
    struct signalfd_siginfo info;
    while (read(fd, &info, sizeof info) == (ssize_t)sizeof info)
        if (loop->on_signal) loop->on_signal(loop->signal_ctx, (int)info.ssi_signo);
}

enum err_code loop_new(struct loop **out, struct err *e)
{
    struct loop *loop = calloc(1, sizeof *loop);
    if (!loop) return err_set(e, ERR_MEMORY, "no memory for the loop");
    sigset_t set;
    signal_mask(&set);
    (void)pthread_sigmask(SIG_BLOCK, &set, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    pthread_mutex_init(&loop->lock, NULL);
    loop->soon_end = &loop->soon;
    loop->epoll = epoll_create1(EPOLL_CLOEXEC);
    loop->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    loop->signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    loop->now_us = clock_mono_us();
    enum err_code code = ERR_IO;
    if (loop->epoll < 0 || loop->wake < 0 || loop->signals < 0) {
        err_set(e, ERR_IO, "the loop's descriptors: %s", strerror(errno));
        goto fail;
    }
    code = loop_fd_set(loop, loop->wake, LOOP_READ, on_wake, loop, e);
    if (code == ERR_OK) code = loop_fd_set(loop, loop->signals, LOOP_READ, on_signal_fd, loop, e);
    if (code != ERR_OK) goto fail;
    *out = loop;
    return ERR_OK;
fail:
    loop_free(loop);
    return code;
}

void loop_free(struct loop *loop)
{
    if (!loop) return;
    if (loop->epoll >= 0) (void)close(loop->epoll);
    if (loop->wake >= 0) (void)close(loop->wake);
    if (loop->signals >= 0) (void)close(loop->signals);
    pthread_mutex_destroy(&loop->lock);
    free(loop->watches);
    free(loop->heap);
    free(loop->posts);
    free(loop->running);
    free(loop);
}

void loop_stop(struct loop *loop)
{
    loop->stopped = true;
}

int64_t loop_now_us(const struct loop *loop)
{
    return loop->now_us;
}

/* ---- descriptors ---- */

static bool watches_reserve(struct loop *loop, int fd)
{
    if (fd < loop->watch_count) return true;
    int count = loop->watch_count ? loop->watch_count : 64;
    while (count <= fd) count *= 2;
    struct watch *grown = realloc(loop->watches, (size_t)count * sizeof *grown);
    if (!grown) return false;
    memset(grown + loop->watch_count, 0, (size_t)(count - loop->watch_count) * sizeof *grown);
    loop->watches = grown;
    loop->watch_count = count;
    return true;
}

enum err_code loop_fd_set(struct loop *loop, int fd, int events, loop_fd_fn *fn, void *ctx, struct err *e)
{
    if (fd < 0 || fd >= FDS_MAX) return err_set(e, ERR_FULL, "descriptor %d is past the limit of %d", fd, FDS_MAX);
    if (!watches_reserve(loop, fd)) return err_set(e, ERR_MEMORY, "no memory to watch descriptor %d", fd);
    struct watch *w = &loop->watches[fd];
    if (!w->active) w->generation++;
    struct epoll_event event = {.events = 0, .data.u64 = (uint64_t)w->generation << 32 | (uint32_t)fd};
    if (events & LOOP_READ) event.events |= EPOLLIN | EPOLLRDHUP;
    if (events & LOOP_WRITE) event.events |= EPOLLOUT;
    int op = w->active ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    int rc = epoll_ctl(loop->epoll, op, fd, &event);
    /* The owner may have closed and reopened the number without telling us, or the other way round. */
    if (rc != 0 && op == EPOLL_CTL_MOD && errno == ENOENT) rc = epoll_ctl(loop->epoll, EPOLL_CTL_ADD, fd, &event);
    if (rc != 0 && op == EPOLL_CTL_ADD && errno == EEXIST) rc = epoll_ctl(loop->epoll, EPOLL_CTL_MOD, fd, &event);
    if (rc != 0) return err_set(e, ERR_IO, "watching descriptor %d: %s", fd, strerror(errno));
    w->active = true;
    w->fn = fn;
    w->ctx = ctx;
    return ERR_OK;
}

void loop_fd_remove(struct loop *loop, int fd)
{
    if (fd < 0 || fd >= loop->watch_count || !loop->watches[fd].active) return;
    loop->watches[fd].active = false;
    (void)epoll_ctl(loop->epoll, EPOLL_CTL_DEL, fd, NULL); /* gone already when it was closed */
}

static void run_descriptors(struct loop *loop)
{
    struct epoll_event events[EVENTS];
    int n = epoll_wait(loop->epoll, events, EVENTS, 0);
    for (int i = 0; i < n && !loop->stopped; i++) {
        int fd = (int)(uint32_t)events[i].data.u64;
        struct watch *w = &loop->watches[fd];
        if (!w->active || w->generation != (uint32_t)(events[i].data.u64 >> 32)) continue;
        int what = 0;
        if (events[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) what |= LOOP_READ;
        if (events[i].events & (EPOLLOUT | EPOLLERR)) what |= LOOP_WRITE;
        w->fn(w->ctx, fd, what);
    }
}

/* ---- ZeroMQ sockets ---- */

enum err_code loop_zmq_set(struct loop *loop, void *socket, loop_zmq_fn *fn, void *ctx, struct err *e)
{
    int i = 0;
    while (i < loop->socket_count && loop->items[i].socket != socket) i++;
    if (i == SOCKETS_MAX) return err_set(e, ERR_FULL, "more than %d ZeroMQ sockets", SOCKETS_MAX);
    if (i == loop->socket_count) loop->socket_count++;
    loop->items[i] = (zmq_pollitem_t){.socket = socket, .events = ZMQ_POLLIN};
    loop->sockets[i].fn = fn;
    loop->sockets[i].ctx = ctx;
    return ERR_OK;
}

void loop_zmq_remove(struct loop *loop, void *socket)
{
    for (int i = 0; i < loop->socket_count; i++) {
        if (loop->items[i].socket != socket) continue;
        int last = --loop->socket_count;
        loop->items[i] = loop->items[last];
        loop->sockets[i] = loop->sockets[last];
        return;
    }
}

static void run_sockets(struct loop *loop, void *const *ready, int count)
{
    for (int i = 0; i < count; i++) {
        for (int k = 0; k < loop->socket_count; k++) { /* still there? a callback may have removed it */
            if (loop->items[k].socket != ready[i]) continue;
            loop->sockets[k].fn(loop->sockets[k].ctx);
            break;
        }
    }
}

/* ---- timers: a binary heap by due time; timer->slot is its place + 1 ---- */

static void heap_put(struct loop *loop, int i, struct loop_timer *timer)
{
    loop->heap[i] = timer;
    timer->slot = i + 1;
}

static void heap_up(struct loop *loop, int i)
{
    struct loop_timer *timer = loop->heap[i];
    while (i > 0 && loop->heap[(i - 1) / 2]->due_us > timer->due_us) {
        heap_put(loop, i, loop->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    heap_put(loop, i, timer);
}

static void heap_down(struct loop *loop, int i)
{
    struct loop_timer *timer = loop->heap[i];
    for (;;) {
        int child = 2 * i + 1;
        if (child >= loop->timer_count) break;
        if (child + 1 < loop->timer_count && loop->heap[child + 1]->due_us < loop->heap[child]->due_us) child++;
        if (loop->heap[child]->due_us >= timer->due_us) break;
        heap_put(loop, i, loop->heap[child]);
        i = child;
    }
    heap_put(loop, i, timer);
}

static void soon_remove(struct loop *loop, struct loop_timer *timer)
{
    if (loop->soon_end == &timer->next) loop->soon_end = timer->prev;
    *timer->prev = timer->next;
    if (timer->next) timer->next->prev = timer->prev;
    timer->slot = 0;
}

static void soon_add(struct loop *loop, struct loop_timer *timer)
{
    timer->slot = -1;
    timer->next = NULL;
    timer->prev = loop->soon_end;
    *loop->soon_end = timer;
    loop->soon_end = &timer->next;
}

void loop_timer_stop(struct loop *loop, struct loop_timer *timer)
{
    if (!timer->slot) return;
    if (timer->slot < 0) {
        soon_remove(loop, timer);
        return;
    }
    int i = timer->slot - 1;
    timer->slot = 0;
    struct loop_timer *last = loop->heap[--loop->timer_count];
    if (last == timer) return;
    heap_put(loop, i, last);
    heap_up(loop, i);
    heap_down(loop, last->slot - 1);
}

void loop_timer_start(struct loop *loop, struct loop_timer *timer, int64_t after_ms, void (*fn)(void *ctx), void *ctx)
{
    loop_timer_stop(loop, timer);
    timer->fn = fn;
    timer->ctx = ctx;
    if (after_ms <= 0) {
        timer->due_us = loop->now_us;
        soon_add(loop, timer);
        return;
    }
    if (loop->timer_count == loop->timer_cap) {
        int cap = loop->timer_cap ? loop->timer_cap * 2 : 64;
        assert(cap <= TIMERS_MAX); /* each timer belongs to a bounded thing */
        struct loop_timer **grown = realloc(loop->heap, (size_t)cap * sizeof(struct loop_timer *));
        assert(grown);
        loop->heap = grown;
        loop->timer_cap = cap;
    }
    timer->due_us = clock_mono_us() + after_ms * 1000;
    heap_put(loop, loop->timer_count, timer);
    heap_up(loop, loop->timer_count++);
}

/* Those that were there at the turn's start: one that starts itself again waits for the next turn. */
static void run_soon(struct loop *loop)
{
    if (!loop->soon) return;
    loop->turning = loop->soon;
    loop->turning->prev = &loop->turning;
    loop->soon = NULL;
    loop->soon_end = &loop->soon;
    while (loop->turning && !loop->stopped) {
        struct loop_timer *timer = loop->turning;
        soon_remove(loop, timer);
        timer->fn(timer->ctx);
    }
}

static void run_timers(struct loop *loop)
{
    int64_t now = loop->now_us; /* only those due at the turn's start */
    run_soon(loop);
    while (loop->timer_count && loop->heap[0]->due_us <= now && !loop->stopped) {
        struct loop_timer *timer = loop->heap[0];
        loop_timer_stop(loop, timer);
        timer->fn(timer->ctx);
    }
}

/* ---- posts ---- */

bool loop_post(struct loop *loop, void (*fn)(void *ctx, void *arg), void *ctx, void *arg)
{
    pthread_mutex_lock(&loop->lock);
    bool ok = loop->post_count < POSTS_MAX;
    if (ok && loop->post_count == loop->post_cap) {
        int cap = loop->post_cap ? loop->post_cap * 2 : 64;
        struct post *grown = realloc(loop->posts, (size_t)cap * sizeof *grown);
        ok = grown != NULL;
        if (ok) {
            loop->posts = grown;
            loop->post_cap = cap;
        }
    }
    bool first = ok && loop->post_count == 0;
    if (ok) loop->posts[loop->post_count++] = (struct post){fn, ctx, arg};
    pthread_mutex_unlock(&loop->lock);
    if (first) {
        uint64_t one = 1;
        ssize_t n = write(loop->wake, &one, sizeof one);
        (void)n; /* full means it is awake already */
    }
    return ok;
}

void loop_run_posts(struct loop *loop)
{
    pthread_mutex_lock(&loop->lock);
    struct post *posts = loop->posts;
    int count = loop->post_count, cap = loop->post_cap;
    loop->posts = loop->running;
    loop->post_cap = loop->running_cap;
    loop->post_count = 0;
    loop->running = posts;
    loop->running_cap = cap;
    pthread_mutex_unlock(&loop->lock);
    for (int i = 0; i < count; i++) posts[i].fn(posts[i].ctx, posts[i].arg);
}

static long wait_ms(const struct loop *loop)
{
    if (loop->soon) return 0;
    if (!loop->timer_count) return 1000;
    int64_t left = loop->heap[0]->due_us - clock_mono_us();
    if (left <= 0) return 0;
    return left > 1000000 ? 1000 : (long)((left + 999) / 1000);
}

static void turn(struct loop *loop)
{
    int n = loop->socket_count;
    loop->items[n] = (zmq_pollitem_t){.fd = loop->epoll, .events = ZMQ_POLLIN};
    int rc = zmq_poll(loop->items, n + 1, wait_ms(loop));
    loop->now_us = clock_mono_us();
    bool descriptors = rc > 0 && loop->items[n].revents;
    void *ready[SOCKETS_MAX];
    int count = 0;
    for (int i = 0; rc > 0 && i < n; i++)
        if (loop->items[i].revents) ready[count++] = loop->items[i].socket;
    if (descriptors) run_descriptors(loop);
    loop_run_posts(loop);
    run_sockets(loop, ready, count);
    run_timers(loop);
}

void loop_run(struct loop *loop, void (*on_signal)(void *ctx, int number), void *ctx)
{
    loop->on_signal = on_signal;
    loop->signal_ctx = ctx;
    slice_short(); /* where a writer or a model runs too, a request must not wait for its turn to end */
    while (!loop->stopped) turn(loop);
}
