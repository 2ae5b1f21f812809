#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "proto/link.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <zmq.h>

enum { WAIT_MS = 10000 };

struct world {
    struct link_context *context;
    struct link_keys server, client, stranger;
    char folder[64], ipc[96];
    struct link *router, *dealer, *second;
};

static int world_new(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    *state = w;
    if (!w || link_keys_make(&w->server, NULL) || link_keys_make(&w->client, NULL) ||
        link_keys_make(&w->stranger, NULL))
        return -1;
    struct link_peer_key allowed = {.name = "client"};
    memcpy(allowed.public_key, w->client.public_key, sizeof allowed.public_key);
    if (link_context_new(&w->context, &(struct link_context_options){&allowed, 1}, NULL) != ERR_OK) return -1;
    (void)snprintf(w->folder, sizeof w->folder, "/tmp/rung-link-XXXXXX");
    if (!mkdtemp(w->folder)) return -1;
    (void)snprintf(w->ipc, sizeof w->ipc, "ipc://%s/s", w->folder);
    return 0;
}

static int world_free(void **state)
{
    struct world *w = *state;
    link_close(w->dealer);
    link_close(w->second);
    link_close(w->router);
    link_context_free(w->context);
    (void)unlink(w->ipc + 6);
    (void)rmdir(w->folder);
    free(w);
    return 0;
}

static struct link *open_link(struct world *w, const struct link_options *options)
{
    struct err e = {0};
    struct link *link = NULL;
    if (link_open(&link, w->context, options, &e) != ERR_OK) fail_msg("%s", e.msg);
    return link;
}

static bool wait_for(void *socket)
{
    zmq_pollitem_t item = {socket, 0, ZMQ_POLLIN, 0};
    return zmq_poll(&item, 1, WAIT_MS) == 1;
}

static void wait_writable(struct link *link)
{
    zmq_pollitem_t item = {link_socket(link), 0, ZMQ_POLLOUT, 0};
    assert_int_equal(zmq_poll(&item, 1, WAIT_MS), 1);
}

static enum link_event next_event(struct link *link)
{
    enum link_event event = LINK_OTHER;
    assert_true(wait_for(link_monitor(link)));
    assert_true(link_monitor_receive(link, &event));
    return event;
}

static enum err_code next_message(struct link *link, struct link_peer *peer, struct msg *msg)
{
    enum err_code code = ERR_OK;
    assert_true(wait_for(link_socket(link)));
    assert_true(link_receive(link, peer, msg, &code, NULL));
    return code;
}

static void open_ipc(struct world *w)
{
    w->router = open_link(w, &(struct link_options){.endpoint = w->ipc, .listen = true});
    w->dealer = open_link(w, &(struct link_options){.endpoint = w->ipc, .identity = "edge-1"});
    assert_int_equal(next_event(w->dealer), LINK_CONNECTED);
    assert_int_equal(next_event(w->router), LINK_CONNECTED);
}

/* PING up, PONG down. */
static void there_and_back(struct link *router, struct link *dealer)
{
    struct msg_ping ping = {.sequence = 7, .sent_us = 9};
    struct link_peer peer;
    struct msg msg;
    wait_writable(dealer);
    assert_int_equal(link_send(dealer, NULL, MSG_PING, &ping, NULL), ERR_OK);
    assert_int_equal(next_message(router, &peer, &msg), ERR_OK);
    assert_int_equal(msg.type, MSG_PING);
    assert_int_equal(link_send(router, &peer, MSG_PONG, &msg.body.ping, NULL), ERR_OK);
    msg_release(&msg);
    assert_int_equal(next_message(dealer, NULL, &msg), ERR_OK);
    assert_int_equal(msg.type, MSG_PONG);
    assert_int_equal(msg.body.ping.sequence, 7);
    msg_release(&msg);
}

static void messages_go_both_ways_over_ipc(void **state)
{
    struct world *w = *state;
    open_ipc(w);
    there_and_back(w->router, w->dealer);
    struct msg_cancel cancel = {.id = "r"};
    struct link_peer peer;
    struct msg msg;
    wait_writable(w->dealer);
    assert_int_equal(link_send(w->dealer, NULL, MSG_CANCEL, &cancel, NULL), ERR_OK);
    assert_int_equal(next_message(w->router, &peer, &msg), ERR_OK);
    assert_int_equal(peer.len, 6);
    assert_memory_equal(peer.bytes, "edge-1", 6);
    msg_release(&msg);
}

static void an_ipc_socket_is_its_owners_only(void **state)
{
    struct world *w = *state;
    struct stat st;
    w->router = open_link(w, &(struct link_options){.endpoint = w->ipc, .listen = true});
    assert_int_equal(stat(w->ipc + 6, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    char other[100];
    (void)snprintf(other, sizeof other, "%s2", w->ipc);
    w->second = open_link(w, &(struct link_options){.endpoint = other, .listen = true, .ipc_mode = 0660});
    assert_int_equal(stat(other + 6, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0660);
    assert_int_equal(unlink(other + 6), 0);
}

static enum err_code try_open(struct world *w, struct link_options options, struct err *e)
{
    struct link *link = NULL;
    enum err_code code = link_open(&link, w->context, &options, e);
    link_close(link);
    return code;
}

static void a_folder_that_anybody_may_write_in_is_refused(void **state)
{
    struct world *w = *state;
    struct err e = {0};
    assert_int_equal(chmod(w->folder, 01777), 0);
    assert_int_equal(try_open(w, (struct link_options){.endpoint = w->ipc, .listen = true}, &e), ERR_FORBIDDEN);
    assert_non_null(strstr(e.msg, w->folder));
}

static void what_lies_at_the_sockets_path_is_not_removed(void **state)
{
    struct world *w = *state;
    FILE *f = fopen(w->ipc + 6, "w");
    assert_non_null(f);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(try_open(w, (struct link_options){.endpoint = w->ipc, .listen = true}, NULL), ERR_IO);
    assert_int_equal(access(w->ipc + 6, F_OK), 0);
    assert_int_equal(unlink(w->ipc + 6), 0);
    w->router = open_link(w, &(struct link_options){.endpoint = w->ipc, .listen = true});
    assert_int_equal(try_open(w, (struct link_options){.endpoint = w->ipc, .listen = true}, NULL), ERR_IO);
    w->dealer = open_link(w, &(struct link_options){.endpoint = w->ipc, .identity = "edge-1"});
    assert_int_equal(next_event(w->dealer), LINK_CONNECTED);
    there_and_back(w->router, w->dealer);
}

/* A socket file left by a killed process is bound anew. */
static void a_dead_socket_file_is_taken_over(void **state)
{
    struct world *w = *state;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", w->ipc + 6);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(close(fd), 0);
    w->router = open_link(w, &(struct link_options){.endpoint = w->ipc, .listen = true});
}

static void wrong_endpoints_are_refused_with_what_would_be_right(void **state)
{
    struct world *w = *state;
    const struct link_options wrong[] = {
        {.endpoint = "tcp://127.0.0.1:*", .listen = true},                         /* plain, unsaid */
        {.endpoint = "tcp://0.0.0.0:*", .listen = true, .plain_loopback = true},   /* plain, and not loopback */
        {.endpoint = "tcp://127.0.0.1.example.com:1", .plain_loopback = true},     /* looks like loopback */
        {.endpoint = "tcp://127.0.0.1:1", .keys = &w->client},                     /* whose key is over there? */
        {.endpoint = "tcp://127.0.0.1:1", .keys = &w->client, .server_key = "no"}, /* not a key */
        {.endpoint = "ipc://@abstract", .listen = true},                           /* no mode guards it */
        {.endpoint = "http://127.0.0.1:1"},
        {.endpoint = NULL},
        {.endpoint = w->ipc, .identity = ""},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct err e = {0};
        assert_int_equal(try_open(w, wrong[i], &e), ERR_INVALID);
        assert_true(e.msg[0]);
    }
}

static struct link *dial(struct world *w, const struct link_keys *keys, const char *server_key, const char *identity)
{
    return open_link(w, &(struct link_options){.endpoint = link_endpoint(w->router), .identity = identity,
                                               .keys = keys, .server_key = server_key, .plain_loopback = true});
}

static void listen_curve(struct world *w)
{
    w->router =
        open_link(w, &(struct link_options){.endpoint = "tcp://127.0.0.1:*", .listen = true, .keys = &w->server});
}

static void a_known_key_comes_in_over_tcp(void **state)
{
    struct world *w = *state;
    listen_curve(w);
    w->dealer = dial(w, &w->client, w->server.public_key, "edge-1");
    assert_int_equal(next_event(w->dealer), LINK_CONNECTED);
    there_and_back(w->router, w->dealer);
    assert_int_equal(link_context_refused(w->context), 0);
}

static void an_unknown_key_is_refused_and_counted(void **state)
{
    struct world *w = *state;
    listen_curve(w);
    w->dealer = dial(w, &w->stranger, w->server.public_key, "edge-1");
    assert_int_equal(next_event(w->router), LINK_REFUSED);
    assert_true(link_context_refused(w->context) >= 1);
    struct msg_ping ping = {0};
    assert_int_equal(link_send(w->dealer, NULL, MSG_PING, &ping, NULL), ERR_UNAVAILABLE);
    w->second = dial(w, &w->client, w->server.public_key, "edge-2"); /* and the door still opens for others */
    assert_int_equal(next_event(w->second), LINK_CONNECTED);
    there_and_back(w->router, w->second);
}

static void a_server_with_another_key_is_not_spoken_to(void **state)
{
    struct world *w = *state;
    listen_curve(w);
    w->dealer = dial(w, &w->client, w->stranger.public_key, "edge-1");
    assert_int_equal(next_event(w->router), LINK_REFUSED);
    struct msg_ping ping = {0};
    assert_int_equal(link_send(w->dealer, NULL, MSG_PING, &ping, NULL), ERR_UNAVAILABLE);
}

static void nobody_comes_in_without_keys(void **state)
{
    struct world *w = *state;
    listen_curve(w);
    w->dealer = dial(w, NULL, NULL, "edge-1");
    assert_int_equal(next_event(w->router), LINK_REFUSED);
    struct msg_ping ping = {0};
    assert_int_equal(link_send(w->dealer, NULL, MSG_PING, &ping, NULL), ERR_UNAVAILABLE);
}

static void a_message_to_a_peer_that_is_gone_says_so(void **state)
{
    struct world *w = *state;
    open_ipc(w);
    struct msg_ping ping = {0};
    struct link_peer peer = {.bytes = "nobody", .len = 6};
    assert_int_equal(link_send(w->router, &peer, MSG_PING, &ping, NULL), ERR_UNAVAILABLE);
    memcpy(peer.bytes, "edge-1", 6);
    there_and_back(w->router, w->dealer);
    assert_int_equal(link_send(w->router, &peer, MSG_PING, &ping, NULL), ERR_OK);
    link_close(w->dealer);
    w->dealer = NULL;
    assert_int_equal(next_event(w->router), LINK_DISCONNECTED);
    /* The event runs a moment ahead of the socket, which lets go of a peer once all it sent has been received. */
    enum err_code code = ERR_OK;
    for (int64_t until = clock_mono_ms() + WAIT_MS; code != ERR_UNAVAILABLE && clock_mono_ms() < until;) {
        struct msg msg;
        enum err_code ignored;
        while (link_receive(w->router, NULL, &msg, &ignored, NULL)) msg_release(&msg);
        code = link_send(w->router, &peer, MSG_PING, &ping, NULL);
    }
    assert_int_equal(code, ERR_UNAVAILABLE);
}

static void nobody_there_yet_is_not_queued_for(void **state)
{
    struct world *w = *state;
    struct msg_ping ping = {0};
    w->dealer = open_link(w, &(struct link_options){.endpoint = w->ipc, .identity = "edge-1"});
    assert_int_equal(link_send(w->dealer, NULL, MSG_PING, &ping, NULL), ERR_UNAVAILABLE);
    w->router = open_link(w, &(struct link_options){.endpoint = w->ipc, .listen = true});
    assert_int_equal(next_event(w->dealer), LINK_CONNECTED);
    there_and_back(w->router, w->dealer); /* the one above did not wait in a queue */
}

static void a_peer_that_reads_nothing_fills_its_queue_only(void **state)
{
    struct world *w = *state;
    open_ipc(w);
    static char text[64 << 10];
    memset(text, 'x', sizeof text);
    wait_writable(w->dealer);
    struct msg_token token = {.id = "r", .text = text, .text_len = sizeof text};
    enum err_code code = ERR_OK;
    int sent = 0;
    while (sent < 10000 && (code = link_send(w->dealer, NULL, MSG_TOKEN, &token, NULL)) == ERR_OK) sent++;
    assert_int_equal(code, ERR_FULL);
    assert_in_range(sent, 1, 9999);
}

static void the_node_that_returns_replaces_the_one_before(void **state)
{
    struct world *w = *state;
    open_ipc(w);
    there_and_back(w->router, w->dealer);
    w->second = open_link(w, &(struct link_options){.endpoint = w->ipc, .identity = "edge-1"});
    assert_int_equal(next_event(w->second), LINK_CONNECTED);
    there_and_back(w->router, w->second);
}

/* A bare socket of the test's own, to send what a link would not. */
static void *bare_dealer(struct world *w)
{
    int linger = 0;
    void *s = zmq_socket(link_context_zmq(w->context), ZMQ_DEALER);
    assert_non_null(s);
    assert_int_equal(zmq_setsockopt(s, ZMQ_LINGER, &linger, sizeof linger), 0);
    assert_int_equal(zmq_setsockopt(s, ZMQ_ROUTING_ID, "bare", 4), 0);
    assert_int_equal(zmq_connect(s, w->ipc), 0);
    return s;
}

static void garbage_is_refused_and_the_link_lives(void **state)
{
    struct world *w = *state;
    struct link_peer peer;
    struct msg msg;
    open_ipc(w);
    void *bare = bare_dealer(w);
    assert_int_equal(zmq_send(bare, "", 0, 0), 0);
    assert_int_equal(next_message(w->router, &peer, &msg), ERR_SYNTAX);
    assert_memory_equal(peer.bytes, "bare", 4); /* so that it can be answered */
    assert_int_equal(zmq_send(bare, "\x01\x01\x91\x01 garbage", 12, 0), 12);
    assert_int_equal(next_message(w->router, &peer, &msg), ERR_SYNTAX);
    assert_int_equal(zmq_send(bare, "\x63\x01\x80", 3, 0), 3);
    assert_int_equal(next_message(w->router, &peer, &msg), ERR_UNSUPPORTED);
    assert_int_equal(zmq_send(bare, "\x0a\x09\x80", 3, 0), 3);
    assert_int_equal(next_message(w->router, &peer, &msg), ERR_VERSION);
    for (int i = 0; i < 5; i++) assert_int_equal(zmq_send(bare, "\x0a\x01\x80", 3, i < 4 ? ZMQ_SNDMORE : 0), 3);
    assert_int_equal(next_message(w->router, &peer, &msg), ERR_SYNTAX);
    assert_int_equal(zmq_send(bare, "\x0a\x01\x80", 3, 0), 3); /* the next one is whole again */
    assert_int_equal(next_message(w->router, &peer, &msg), ERR_OK);
    assert_int_equal(msg.type, MSG_PING);
    msg_release(&msg);
    assert_int_equal(zmq_close(bare), 0);
    there_and_back(w->router, w->dealer);
}

static void a_message_past_the_limit_ends_that_connection_only(void **state)
{
    struct world *w = *state;
    w->router =
        open_link(w, &(struct link_options){.endpoint = w->ipc, .listen = true, .message_bytes_max = 1 << 10});
    w->dealer = open_link(w, &(struct link_options){.endpoint = w->ipc, .identity = "edge-1"});
    assert_int_equal(next_event(w->router), LINK_CONNECTED);
    assert_int_equal(next_event(w->dealer), LINK_CONNECTED);
    void *bare = bare_dealer(w);
    assert_int_equal(next_event(w->router), LINK_CONNECTED);
    static const char large[4096];
    assert_int_equal(zmq_send(bare, large, sizeof large, 0), sizeof large);
    assert_int_equal(next_event(w->router), LINK_DISCONNECTED);
    assert_int_equal(zmq_close(bare), 0);
    there_and_back(w->router, w->dealer);
}

static void bytes_that_are_no_zeromq_are_refused(void **state)
{
    struct world *w = *state;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    open_ipc(w);
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", w->ipc + 6);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof address), 0);
    static const char http[] = "POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\n{}";
    assert_true(send(fd, http, sizeof http, MSG_NOSIGNAL) > 0);
    (void)shutdown(fd, SHUT_WR);
    there_and_back(w->router, w->dealer);
    assert_int_equal(close(fd), 0);
    there_and_back(w->router, w->dealer);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, world_new, world_free)
    const struct CMUnitTest tests[] = {
        TEST(messages_go_both_ways_over_ipc),
        TEST(an_ipc_socket_is_its_owners_only),
        TEST(a_folder_that_anybody_may_write_in_is_refused),
        TEST(what_lies_at_the_sockets_path_is_not_removed),
        TEST(a_dead_socket_file_is_taken_over),
        TEST(wrong_endpoints_are_refused_with_what_would_be_right),
        TEST(a_known_key_comes_in_over_tcp),
        TEST(an_unknown_key_is_refused_and_counted),
        TEST(a_server_with_another_key_is_not_spoken_to),
        TEST(nobody_comes_in_without_keys),
        TEST(a_message_to_a_peer_that_is_gone_says_so),
        TEST(nobody_there_yet_is_not_queued_for),
        TEST(a_peer_that_reads_nothing_fills_its_queue_only),
        TEST(the_node_that_returns_replaces_the_one_before),
        TEST(garbage_is_refused_and_the_link_lives),
        TEST(a_message_past_the_limit_ends_that_connection_only),
        TEST(bytes_that_are_no_zeromq_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
