/* One ZeroMQ hop with a payload of 1 KiB, there and back: our link (encode, send, poll, receive, decode, and the same
 * the other way) against bare libzmq DEALER and ROUTER that pass the same number of bytes and look at none.
 *
 *   bench_proto_hop [ROUND-TRIPS]
 *
 * Rounds of the two alternate in the same run, on the same kind of socket; the echo is a thread of its own. Both sides
 * wait the way they would in a program: `poll` in zmq_poll as a node's loop does, `block` in zmq_recv, which is the
 * least libzmq can do.
 */
#include "proto/link.h"

#include "base/clock.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

enum { PAYLOAD = 1024, ROUNDS = 7, WARM = 200 };

struct bench {
    struct link_context *context;
    struct link *router, *dealer; /* ours */
    void *bare_router, *bare_dealer;
    char payload[PAYLOAD];
    bool poll;
    int trips;
};

static void must(bool good, const char *what)
{
    if (good) return;
    (void)fprintf(stderr, "bench_proto_hop: %s: %s\n", what, zmq_strerror(errno));
    exit(1);
}

static void wait_in(void *socket)
{
    zmq_pollitem_t item = {socket, 0, ZMQ_POLLIN, 0};
    must(zmq_poll(&item, 1, 10000) == 1, "nothing came within 10 s");
}

/* ---- ours ---- */

static void send_token(struct bench *b, struct link *link, const struct link_peer *to, int64_t index)
{
    const struct msg_token token = {.id = "req-0123456789", .index = index, .text = b->payload, .text_len = PAYLOAD};
    must(link_send(link, to, MSG_TOKEN, &token, NULL) == ERR_OK, "link_send");
}

static void take_token(struct link *link, struct link_peer *from, int64_t index)
{
    struct msg msg;
    enum err_code code;
    do {
        wait_in(link_socket(link));
    } while (!link_receive(link, from, &msg, &code, NULL));
    must(code == ERR_OK && msg.body.token.index == index && msg.body.token.text_len == PAYLOAD, "link_receive");
    msg_release(&msg);
}

static void *echo_ours(void *ctx)
{
    struct bench *b = ctx;
    struct link_peer peer;
    for (int i = 0; i < b->trips; i++) {
        take_token(b->router, &peer, i);
        send_token(b, b->router, &peer, i);
    }
    return NULL;
}

static void trip_ours(struct bench *b, int i)
{
    send_token(b, b->dealer, NULL, i);
    take_token(b->dealer, NULL, i);
}

/* ---- bare ---- */

static void take_bare(const struct bench *b, void *socket, void *data, size_t size)
{
    if (b->poll) wait_in(socket);
    must(zmq_recv(socket, data, size, 0) >= 0, "zmq_recv");
}

static void *echo_bare(void *ctx)
{
    struct bench *b = ctx;
    char data[PAYLOAD], id[64];
    for (int i = 0; i < b->trips; i++) {
        if (b->poll) wait_in(b->bare_router);
        int len = zmq_recv(b->bare_router, id, sizeof id, 0);
        must(len > 0 && zmq_recv(b->bare_router, data, sizeof data, 0) == PAYLOAD, "zmq_recv");
        must(zmq_send(b->bare_router, id, (size_t)len, ZMQ_SNDMORE) == len, "zmq_send");
        must(zmq_send(b->bare_router, data, PAYLOAD, 0) == PAYLOAD, "zmq_send");
    }
    return NULL;
}

static void trip_bare(struct bench *b, int i)
{
    char data[PAYLOAD];
    (void)i;
    must(zmq_send(b->bare_dealer, b->payload, PAYLOAD, 0) == PAYLOAD, "zmq_send");
    take_bare(b, b->bare_dealer, data, sizeof data);
}

/* ---- measuring ---- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct figures {
    double median, p99; /* microseconds a round trip */
};

static struct figures measure(struct bench *b, void *(*echo)(void *), void (*trip)(struct bench *, int))
{
    pthread_t thread;
    double *us = calloc((size_t)b->trips, sizeof *us);
    must(us && pthread_create(&thread, NULL, echo, b) == 0, "a thread");
    for (int i = 0; i < b->trips; i++) {
        int64_t start = clock_mono_us();
        trip(b, i);
        us[i] = (double)(clock_mono_us() - start);
    }
    must(pthread_join(thread, NULL) == 0, "join");
    int skip = b->trips > 2 * WARM ? WARM : 0, n = b->trips - skip;
    qsort(us + skip, (size_t)n, sizeof *us, by_value);
    struct figures f = {us[skip + n / 2], us[skip + n * 99 / 100]};
    free(us);
    return f;
}

static struct figures middle(struct figures *rounds)
{
    double medians[ROUNDS], p99s[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        medians[i] = rounds[i].median;
        p99s[i] = rounds[i].p99;
    }
    qsort(medians, ROUNDS, sizeof *medians, by_value);
    qsort(p99s, ROUNDS, sizeof *p99s, by_value);
    return (struct figures){medians[ROUNDS / 2], p99s[ROUNDS / 2]};
}

static void row(struct bench *b, const char *transport)
{
    struct figures ours[ROUNDS], polled[ROUNDS], blocked[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        ours[i] = measure(b, echo_ours, trip_ours);
        b->poll = true;
        polled[i] = measure(b, echo_bare, trip_bare);
        b->poll = false;
        blocked[i] = measure(b, echo_bare, trip_bare);
    }
    struct figures o = middle(ours), p = middle(polled), k = middle(blocked);
    (void)printf("%-10s %9.1f %9.1f  %9.1f %9.1f  %9.1f %9.1f  %9.2f %9.2f\n", transport, o.median, o.p99, p.median, p.p99,
                 k.median, k.p99, o.median / p.median, o.median / k.median);
}

/* ---- sockets ---- */

static void open_bare(struct bench *b, const char *endpoint)
{
    char bound[256];
    size_t size = sizeof bound;
    int zero = 0;
    void *zmq = link_context_zmq(b->context);
    b->bare_router = zmq_socket(zmq, ZMQ_ROUTER);
    b->bare_dealer = zmq_socket(zmq, ZMQ_DEALER);
    must(b->bare_router && b->bare_dealer, "zmq_socket");
    must(zmq_setsockopt(b->bare_router, ZMQ_LINGER, &zero, sizeof zero) == 0, "ZMQ_LINGER");
    must(zmq_setsockopt(b->bare_dealer, ZMQ_LINGER, &zero, sizeof zero) == 0, "ZMQ_LINGER");
    must(zmq_bind(b->bare_router, endpoint) == 0, "zmq_bind");
    must(zmq_getsockopt(b->bare_router, ZMQ_LAST_ENDPOINT, bound, &size) == 0, "ZMQ_LAST_ENDPOINT");
    must(zmq_connect(b->bare_dealer, bound) == 0, "zmq_connect");
}

static void open_ours(struct bench *b, const char *endpoint)
{
    struct err e = {0};
    struct link_options options = {.endpoint = endpoint, .listen = true, .plain_loopback = true};
    if (link_open(&b->router, b->context, &options, &e) != ERR_OK) {
        (void)fprintf(stderr, "bench_proto_hop: %s\n", e.msg);
        exit(1);
    }
    options = (struct link_options){.endpoint = link_endpoint(b->router), .identity = "bench", .plain_loopback = true};
    must(link_open(&b->dealer, b->context, &options, &e) == ERR_OK, "link_open");
    zmq_pollitem_t item = {link_socket(b->dealer), 0, ZMQ_POLLOUT, 0};
    must(zmq_poll(&item, 1, 10000) == 1, "no connection within 10 s");
}

static void run(struct bench *b, const char *transport, const char *ours, const char *bare)
{
    must(link_context_new(&b->context, &(struct link_context_options){NULL, 0}, NULL) == ERR_OK, "a context");
    open_ours(b, ours);
    open_bare(b, bare);
    row(b, transport);
    link_close(b->dealer);
    link_close(b->router);
    (void)zmq_close(b->bare_dealer);
    (void)zmq_close(b->bare_router);
    link_context_free(b->context);
}

int main(int argc, char **argv)
{
    static struct bench b;
    char folder[] = "/tmp/rung-hop-XXXXXX", ours[64], bare[64];
    long trips = argc > 1 ? strtol(argv[1], NULL, 10) : 2000;
    b.trips = trips > 0 && trips < 1000000 ? (int)trips : 2000;
    memset(b.payload, 'x', sizeof b.payload);
    must(mkdtemp(folder) != NULL, "a folder");
    (void)snprintf(ours, sizeof ours, "ipc://%s/ours", folder);
    (void)snprintf(bare, sizeof bare, "ipc://%s/bare", folder);
    (void)printf("one round trip of %d bytes, microseconds; median of %d rounds of %d\n", PAYLOAD, ROUNDS, b.trips);
    (void)printf("%-10s %9s %9s  %9s %9s  %9s %9s  %9s %9s\n", "", "rung", "p99", "bare poll", "p99", "bare block", "p99",
                 "rung/poll", "rung/block");
    run(&b, "ipc", ours, bare);
    run(&b, "tcp", "tcp://127.0.0.1:*", "tcp://127.0.0.1:*");
    (void)unlink(ours + 6);
    (void)unlink(bare + 6);
    (void)rmdir(folder);
    return 0;
}
