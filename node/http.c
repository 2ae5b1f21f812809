/* The HTTP front: two doors, each a libmicrohttpd daemon without threads whose epoll descriptor the loop watches. */
#include "node/http.h"

#include "base/clock.h"
#include "base/textlog.h"

#include <errno.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* A connection's bytes bound its head (half of them) and are zeroed by libmicrohttpd after every request. */
enum { EVENTS = 64, CONNECTION_BYTES = 16 << 10, SWEEP_MS = 1000 };

/* ---- running a door ---- */

static void door_run(void *ctx);

/* The timer only ever moves nearer: idle connections would push it on with every request. When it is early, it looks
 * again. */
static void door_wait(struct http_door *door)
{
    MHD_UNSIGNED_LONG_LONG ms = 0;
    if (MHD_get_timeout(door->daemon, &ms) != MHD_YES) return;
    int64_t due_us = clock_mono_us() + (int64_t)ms * 1000;
    if (door->timer.slot && door->timer.due_us <= due_us) return;
    loop_timer_start(door->front->node->loop, &door->timer, (int64_t)ms, door_run, door);
}

static void door_run(void *ctx)
{
    struct http_door *door = ctx;
    (void)MHD_run(door->daemon);
    door_wait(door);
}

/* Without a thread of its own libmicrohttpd does not tell its epoll set about a resumed connection. */
void http_door_kick(struct http_door *door)
{
    if (door->timer.slot && door->timer.due_us <= loop_now_us(door->front->node->loop)) return;
    loop_timer_start(door->front->node->loop, &door->timer, 0, door_run, door);
}

static void door_ready(void *ctx, int fd, int events)
{
    (void)fd;
    (void)events;
    door_run(ctx);
}

/* ---- connections ---- */

static bool uid_allowed(const struct http_front *front, int fd)
{
    struct ucred who;
    socklen_t len = sizeof who;
    if (front->uid_count == 0) return true;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) != 0) return false;
    for (int i = 0; i < front->uid_count; i++)
        if (front->uids[i] == who.uid) return true;
    return false;
}

static void conn_open(struct http_door *door, struct MHD_Connection *mhd, void **ctx)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct http_conn *conn = info ? calloc(1, sizeof *conn) : NULL;
    if (!conn) return; /* its requests find no connection and are refused */
    struct http_front *front = door->front;
    conn->door = door;
    conn->fd = info->connect_fd;
    conn->idle_since_us = clock_mono_us();
    conn->refused = !door->tcp && !uid_allowed(front, conn->fd);
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLET, .data.ptr = conn};
    if (epoll_ctl(front->leaving, EPOLL_CTL_ADD, conn->fd, &event) != 0) {
        textlog(TEXTLOG_WARN, "http_watch", "why=\"%s\"", strerror(errno));
        free(conn);
        return;
    }
    conn->next = front->conns;
    if (conn->next) conn->next->prev = conn;
    front->conns = conn;
    *ctx = conn;
}

static void conn_close(struct http_conn *conn)
{
    struct http_front *front = conn->door->front;
    (void)epoll_ctl(front->leaving, EPOLL_CTL_DEL, conn->fd, NULL);
    if (conn->prev) conn->prev->next = conn->next;
    else front->conns = conn->next;
    if (conn->next) conn->next->prev = conn->prev;
    free(conn);
}

static void on_connection(void *door, struct MHD_Connection *mhd, void **ctx, enum MHD_ConnectionNotificationCode what)
{
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        conn_open(door, mhd, ctx);
    } else if (*ctx) {
        conn_close(*ctx);
        *ctx = NULL;
    }
}

/* Clients that closed their end, half or whole. */
static void on_leaving(void *ctx, int fd, int events)
{
    (void)events;
    (void)ctx;
    struct epoll_event list[EVENTS];
    int n;
    do {
        n = epoll_wait(fd, list, EVENTS, 0);
        for (int i = 0; i < n; i++) {
            struct http_conn *conn = list[i].data.ptr; /* none is freed here: that happens in door_run() */
            conn->gone = true;
            conn->idle_since_us = clock_mono_us();
            if (conn->call) http_call_leave(conn->call);
        }
    } while (n == EVENTS);
}

/* A head or body that trickles in keeps libmicrohttpd's own timeout from ever passing, so whole requests have one. */
static void sweep(void *ctx)
{
    struct http_front *front = ctx;
    int64_t now = clock_mono_us(), idle_us = (int64_t)front->node->config->http.idle_timeout_ms * 1000;
    for (struct http_conn *conn = front->conns; conn; conn = conn->next) {
        /* libmicrohttpd misses a half-close that comes together with the last bytes; a client that is gone and has
         * not asked within a second never will. */
        int64_t most_us = conn->gone && idle_us > SWEEP_MS * 1000 ? SWEEP_MS * 1000 : idle_us;
        if (conn->call) http_call_sweep(conn->call, now);
        else if (now - conn->idle_since_us > most_us) (void)shutdown(conn->fd, SHUT_RDWR);
    }
    loop_timer_start(front->node->loop, &front->sweep, SWEEP_MS, sweep, front);
}

/* ---- opening and closing ---- */

static void on_log(void *ctx, const char *format, va_list args)
{
    (void)ctx;
    char text[200], quoted[256];
    (void)vsnprintf(text, sizeof text, format, args);
    textlog(TEXTLOG_DEBUG, "http_library", "says=%s", textlog_quote(text, quoted, sizeof quoted));
}

static enum err_code door_open(struct http_door *door, struct err *e)
{
    const struct config_http *config = &door->front->node->config->http;
    unsigned timeout_s = (unsigned)((config->idle_timeout_ms + 999) / 1000);
    door->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, http_call_handle, door,
        MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL, MHD_OPTION_LISTEN_SOCKET, door->listen.fd,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)config->connections_max, MHD_OPTION_CONNECTION_TIMEOUT, timeout_s,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_BYTES, MHD_OPTION_STRICT_FOR_CLIENT, 1,
        MHD_OPTION_NOTIFY_COMPLETED, http_call_completed, door, MHD_OPTION_NOTIFY_CONNECTION, on_connection, door,
        MHD_OPTION_END);
    if (!door->daemon) {
        (void)close(door->listen.fd);
        return err_set(e, ERR_IO, "libmicrohttpd cannot be started on %s (connections_max %d, open files?)", door->name,
                       config->connections_max);
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(door->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    if (!info) return err_set(e, ERR_INTERNAL, "libmicrohttpd has no epoll descriptor");
    door->epoll = info->epoll_fd;
    return loop_fd_set(door->front->node->loop, door->epoll, LOOP_READ, door_ready, door, e);
}

static void door_close(struct http_door *door)
{
    if (!door->daemon) return;
    if (door->epoll >= 0) loop_fd_remove(door->front->node->loop, door->epoll);
    /* It must not be stopped with connections suspended. */
    for (struct http_conn *conn = door->front->conns; conn; conn = conn->next)
        if (conn->door == door && conn->call) http_call_leave(conn->call);
    (void)MHD_run(door->daemon);
    MHD_stop_daemon(door->daemon);
    door->daemon = NULL;
    loop_timer_stop(door->front->node->loop, &door->timer);
    http_listen_end(&door->listen);
}

static enum err_code open_unix(struct http_front *front, const struct config_http *config, struct err *e)
{
    struct http_door *door = &front->doors[0];
    if (!config->unix_path) return ERR_OK;
    enum err_code code = config_uids(&config->uids, "http.unix.uids", front->uids, e);
    front->uid_count = config->uids.count;
    if (code == ERR_OK) code = http_listen_unix(&door->listen, config, e);
    if (code == ERR_OK) code = door_open(door, e);
    if (code == ERR_OK) textlog(TEXTLOG_INFO, "http_listens", "unix=%s mode=%o", door->listen.path, (unsigned)config->unix_mode);
    return code;
}

static enum err_code open_tcp(struct http_front *front, const struct config_http *config, struct err *e)
{
    struct http_door *door = &front->doors[1];
    if (!config->tcp_listen) return ERR_OK;
    enum err_code code = ERR_OK;
    if (config->tcp_auth && config->keys_file) code = http_keys_load(&front->keys, config->keys_file, e);
    if (code == ERR_OK) code = http_listen_tcp(&door->listen, config, e);
    if (code == ERR_OK) code = door_open(door, e);
    if (code == ERR_OK && config->tcp_url_file) code = http_url_write(config->tcp_url_file, &door->listen, e);
    if (code == ERR_OK)
        textlog(TEXTLOG_INFO, "http_listens", "tcp=%s port=%d auth=%s", door->listen.bound, door->listen.port,
                config->tcp_auth ? "bearer" : "none");
    return code;
}

enum err_code http_front_new(struct http_front **out, struct node *node, struct err *e)
{
    struct http_front *front = calloc(1, sizeof *front);
    if (!front) return err_set(e, ERR_MEMORY, "no memory for the HTTP front");
    front->node = node;
    front->comment_ms = HTTP_COMMENT_MS;
    for (int i = 0; i < 2; i++)
        front->doors[i] = (struct http_door){.front = front, .name = i ? "http-tcp" : "http-unix", .tcp = i == 1,
                                             .listen.fd = -1, .epoll = -1};
    const struct config_http *config = &node->config->http;
    enum err_code code = ERR_OK;
    if (sodium_init() < 0) code = err_set(e, ERR_INTERNAL, "libsodium cannot be started");
    front->leaving = epoll_create1(EPOLL_CLOEXEC);
    if (code == ERR_OK && front->leaving < 0) code = err_set(e, ERR_IO, "an epoll set: %s", strerror(errno));
    if (code == ERR_OK) code = loop_fd_set(node->loop, front->leaving, LOOP_READ, on_leaving, front, e);
    if (code == ERR_OK) code = http_parser_new(&front->parser, front, e);
    if (code == ERR_OK) code = open_unix(front, config, e);
    if (code == ERR_OK) code = open_tcp(front, config, e);
    if (code == ERR_OK) {
        loop_timer_start(node->loop, &front->sweep, SWEEP_MS, sweep, front);
        *out = front;
        return ERR_OK;
    }
    http_front_free(front);
    return code;
}

void http_front_free(struct http_front *front)
{
    if (!front) return;
    struct loop *loop = front->node->loop;
    loop_timer_stop(loop, &front->sweep);
    const char *url_file = front->node->config->http.tcp_url_file;
    if (front->doors[1].daemon && url_file) (void)unlink(url_file);
    for (int i = 0; i < 2; i++) door_close(&front->doors[i]);
    http_parser_free(front->parser);
    http_calls_free(front);
    if (front->leaving >= 0) {
        loop_fd_remove(loop, front->leaving);
        (void)close(front->leaving);
    }
    http_keys_release(&front->keys);
    free(front);
}
