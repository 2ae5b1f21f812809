/* A load of HTTP requests over a Unix socket or TCP, from one thread: closed loop (each connection asks again as soon as it
 * has its answer) or a fixed rate. Prints one line: requests/s, errors, p50, p99, p99.9, most, in microseconds; at a fixed
 * rate a request's time counts from when it was due.
 *
 *   http_load unix:/run/rung.sock|HOST:PORT /path BODY_FILE SECONDS CONNECTIONS [RATE]
 */
#include "base/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 1024, REPLY_MAX = 65536 };

struct connection {
    int fd;
    bool busy;
    int64_t due_us;
    size_t sent, got;
    char reply[REPLY_MAX];
};
struct load {
    struct sockaddr_storage address;
    socklen_t address_len;
    char *request;
    size_t request_len;
    struct connection *connections;
    int count, epoll;
    double rate;
    int64_t begin_us, end_us, issued;
    double *times; /* (done), microseconds */
    size_t done, times_max, errors;
};

static void die(const char *what)
{
    (void)fprintf(stderr, "http_load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void parse_address(struct load *l, const char *text)
{
    if (strncmp(text, "unix:", 5) == 0) {
        struct sockaddr_un *un = (struct sockaddr_un *)&l->address;
        un->sun_family = AF_UNIX;
        (void)snprintf(un->sun_path, sizeof un->sun_path, "%s", text + 5);
        l->address_len = sizeof *un;
        return;
    }
    char host[64];
    const char *colon = strrchr(text, ':');
    struct sockaddr_in *in = (struct sockaddr_in *)&l->address;
    (void)snprintf(host, sizeof host, "%.*s", colon ? (int)(colon - text) : 0, text);
    in->sin_family = AF_INET;
    in->sin_port = htons((uint16_t)(colon ? strtol(colon + 1, NULL, 10) : 0));
    if (inet_pton(AF_INET, host, &in->sin_addr) != 1) die("want unix:PATH or ADDRESS:PORT");
    l->address_len = sizeof *in;
}

static void make_request(struct load *l, const char *path, const char *file)
{
    static char body[1 << 20];
    FILE *f = fopen(file, "re");
    if (!f) die(file);
    size_t n = fread(body, 1, sizeof body - 1, f);
    (void)fclose(f);
    l->request = malloc(n + 512);
    if (!l->request) die("memory");
    int head = snprintf(l->request, 512, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                        path, n);
    memcpy(l->request + head, body, n);
    l->request_len = (size_t)head + n;
}

static void connect_one(struct load *l, struct connection *c)
{
    int one = 1;
    c->fd = socket(l->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&l->address, l->address_len) != 0) die("connect");
    if (l->address.ss_family == AF_INET) (void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    (void)fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    (void)epoll_ctl(l->epoll, EPOLL_CTL_ADD, c->fd, &event);
    c->busy = false;
}

static void ask(struct load *l, struct connection *c, int64_t due_us)
{
    c->busy = true;
    c->due_us = due_us;
    c->got = 0;
    l->issued++;
    if (send(c->fd, l->request, l->request_len, MSG_NOSIGNAL) != (ssize_t)l->request_len) l->errors++;
}

/* Is a whole reply there? */
static bool complete(const struct connection *c)
{
    const char *end = memmem(c->reply, c->got, "\r\n\r\n", 4);
    if (!end) return false;
    const char *length = strcasestr(c->reply, "\r\ncontent-length:");
    if (length && length < end)
        return c->got >= (size_t)(end + 4 - c->reply) + (size_t)strtol(length + 17, NULL, 10);
    return c->got >= 5 && memcmp(c->reply + c->got - 5, "0\r\n\r\n", 5) == 0; /* chunked */
}

static void take(struct load *l, struct connection *c)
{
    ssize_t n = recv(c->fd, c->reply + c->got, REPLY_MAX - 1 - c->got, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        l->errors++;
        (void)close(c->fd);
        connect_one(l, c);
        return;
    }
    c->got += (size_t)n;
    c->reply[c->got] = 0;
    if (!complete(c)) return;
    int64_t now = clock_mono_us();
    if (strncmp(c->reply, "HTTP/1.1 200", 12) != 0) l->errors++;
    if (l->done < l->times_max) l->times[l->done++] = (double)(now - c->due_us);
    c->busy = false;
    if (l->rate <= 0 && now < l->end_us) ask(l, c, now);
}

/* At a fixed rate: whatever is due goes to free connections; what finds none waits, and its waiting counts. */
static void issue_due(struct load *l)
{
    int64_t now = clock_mono_us();
    for (int i = 0; i < l->count; i++) {
        int64_t due = l->begin_us + (int64_t)((double)l->issued * 1e6 / l->rate);
        if (due > now || due >= l->end_us) return;
        if (!l->connections[i].busy) ask(l, &l->connections[i], due);
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double share(const struct load *l, double p)
{
    return l->done ? l->times[(size_t)(p * (double)(l->done - 1))] : 0;
}

static void run(struct load *l, double seconds)
{
    struct epoll_event events[256];
    l->begin_us = clock_mono_us();
    l->end_us = l->begin_us + (int64_t)(seconds * 1e6);
    for (int i = 0; l->rate <= 0 && i < l->count; i++) ask(l, &l->connections[i], l->begin_us);
    while (clock_mono_us() < l->end_us) {
        if (l->rate > 0) issue_due(l);
        int n = epoll_wait(l->epoll, events, 256, l->rate > 0 ? 0 : 100);
        for (int i = 0; i < n; i++) take(l, events[i].data.ptr);
    }
    double took = (double)(clock_mono_us() - l->begin_us) / 1e6;
    qsort(l->times, l->done, sizeof *l->times, by_value);
    (void)printf("%.0f requests/s, %zu errors, p50 %.0f p99 %.0f p99.9 %.0f most %.0f us\n", (double)l->done / took, l->errors,
                 share(l, 0.5), share(l, 0.99), share(l, 0.999), share(l, 1));
}

int main(int argc, char **argv)
{
    static struct load l;
    if (argc < 6) {
        (void)fprintf(stderr, "usage: http_load unix:PATH|ADDRESS:PORT /path BODY_FILE SECONDS CONNECTIONS [RATE]\n");
        return 2;
    }
    parse_address(&l, argv[1]);
    make_request(&l, argv[2], argv[3]);
    double seconds = strtod(argv[4], NULL);
    l.count = (int)strtol(argv[5], NULL, 10);
    if (l.count < 1 || l.count > CONNECTIONS_MAX || seconds <= 0 || seconds > 600) die("1 to 1024 connections, at most 600 s");
    l.rate = argc > 6 ? strtod(argv[6], NULL) : 0;
    l.times_max = 20000000;
    l.times = malloc(l.times_max * sizeof *l.times);
    l.connections = calloc((size_t)l.count, sizeof *l.connections);
    l.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!l.times || !l.connections) die("memory");
    for (int i = 0; i < l.count; i++) connect_one(&l, &l.connections[i]);
    run(&l, seconds);
    return l.errors > 0;
}
