#include "proto/link.h"

#include "proto/zap.h"

#include <assert.h>
#include <errno.h>
#include <libgen.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <zmq.h>

enum {
    HWM_DEFAULT = 64,
    HANDSHAKE_MS = 3000,
    CONNECT_MS = 3000,
    HEARTBEAT_MS = 1000,
    HEARTBEAT_DEAD_MS = 3000, /* three missed: dead */
    RECONNECT_MS = 100,
    RECONNECT_MAX_MS = 5000,
    ENDPOINT_MAX = 256
};

struct link_context {
    void *zmq;
    struct zap *zap;
};

struct link {
    void *socket, *monitor;
    bool listen, connected; /* connected: of a DEALER, as its monitor last told */
    struct buf scratch;     /* a message being sent */
    char endpoint[ENDPOINT_MAX];
    dev_t dev; /* of the socket's file that was made here */
    ino_t ino;
};

/* ---- the context ---- */

enum err_code link_context_new(struct link_context **out, const struct link_context_options *options, struct err *e)
{
    struct link_context *context = calloc(1, sizeof *context);
    if (!context) return err_set(e, ERR_MEMORY, "no memory for the ZeroMQ context");
    enum err_code code = ERR_IO;
    context->zmq = zmq_ctx_new();
    if (!context->zmq) {
        (void)err_set(e, code, "no ZeroMQ context: %s", zmq_strerror(errno));
        goto failed;
    }
    code = zap_new(&context->zap, context->zmq, options->allowed, options->allowed_count, e);
    if (code != ERR_OK) goto failed;
    *out = context;
    return ERR_OK;
failed:
    if (context->zmq) (void)zmq_ctx_term(context->zmq);
    free(context);
    return code;
}

void link_context_free(struct link_context *context)
{
    if (!context) return;
    (void)zmq_ctx_shutdown(context->zmq);
    zap_free(context->zap);
    (void)zmq_ctx_term(context->zmq); /* waits for links left open: our own bug */
    free(context);
}

int64_t link_context_refused(const struct link_context *context)
{
    return zap_refused(context->zap);
}

void *link_context_zmq(struct link_context *context)
{
    return context->zmq;
}

/* ---- the doors ---- */

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

static bool is_loopback(const char *endpoint)
{
    const char *const NAMES[] = {"tcp://127.0.0.1:", "tcp://[::1]:", "tcp://localhost:"};
    for (size_t i = 0; i < sizeof NAMES / sizeof NAMES[0]; i++)
        if (starts_with(endpoint, NAMES[i])) return true;
    return false;
}

static enum err_code check_tcp(const struct link_options *o, struct err *e)
{
    if (!o->keys) {
        if (o->plain_loopback && is_loopback(o->endpoint)) return ERR_OK;
        return err_set(e, ERR_INVALID,
                       "%s: TCP wants keys (rung keys make); plain is for 127.0.0.1 or [::1], where the config says so",
                       o->endpoint);
    }
    if (!link_key_valid(o->keys->public_key) || !link_key_valid(o->keys->secret_key))
        return err_set(e, ERR_INVALID, "%s: the node's own keys are not 40 characters of Z85", o->endpoint);
    if (!o->listen && !link_key_valid(o->server_key))
        return err_set(e, ERR_INVALID, "%s: the other side's public key (40 characters of Z85) must be given",
                       o->endpoint);
    return ERR_OK;
}

/* libzmq unlinks whatever lies where it binds: make sure that it is a socket nobody listens on. */
static enum err_code check_ipc_path(const char *path, struct err *e)
{
    struct stat st;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (lstat(path, &st) != 0) return ERR_OK; /* nothing there */
    if (!S_ISSOCK(st.st_mode)) return err_set(e, ERR_IO, "%s is there and is not a socket", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    memcpy(address.sun_path, path, strlen(path) + 1); /* check_ipc: it fits */
    int rc = connect(fd, (const struct sockaddr *)&address, sizeof address);
    bool lives = rc == 0 || errno == EAGAIN;
    (void)close(fd);
    return lives ? err_set(e, ERR_IO, "%s: another process listens there", path) : ERR_OK;
}

static enum err_code check_ipc(const struct link_options *o, struct err *e)
{
    const char *path = o->endpoint + strlen("ipc://");
    char copy[sizeof((struct sockaddr_un *)0)->sun_path];
    struct stat st;
    if (path[0] == 0 || path[0] == '@' || path[0] == '*')
        return err_set(e, ERR_INVALID, "%s: an ipc endpoint is the path of a file", o->endpoint);
    if (strlen(path) >= sizeof copy)
        return err_set(e, ERR_INVALID, "%s: the path is longer than %zu bytes", o->endpoint, sizeof copy - 1);
    if (!o->listen) return ERR_OK;
    memcpy(copy, path, strlen(path) + 1);
    const char *folder = dirname(copy);
    if (stat(folder, &st) != 0) return err_set(e, ERR_IO, "%s: its folder %s: %s", o->endpoint, folder, strerror(errno));
    if (st.st_mode & S_IWOTH)
        return err_set(e, ERR_FORBIDDEN, "%s: anybody may write in its folder %s; use one of your own", o->endpoint,
                       folder);
    return check_ipc_path(path, e);
}

static enum err_code check_options(const struct link_options *o, struct err *e)
{
    size_t identity = o->identity ? strlen(o->identity) : 0;
    if (!o->endpoint || strlen(o->endpoint) >= ENDPOINT_MAX)
        return err_set(e, ERR_INVALID, "an endpoint of 1 to %d bytes must be given", ENDPOINT_MAX - 1);
    if (o->identity && (identity == 0 || identity > LINK_PEER_MAX))
        return err_set(e, ERR_INVALID, "node id '%s': 1 to %d bytes", o->identity, LINK_PEER_MAX);
    if (starts_with(o->endpoint, "tcp://")) return check_tcp(o, e);
    if (starts_with(o->endpoint, "ipc://")) return check_ipc(o, e);
    if (starts_with(o->endpoint, "inproc://")) return ERR_OK;
    return err_set(e, ERR_INVALID, "%s: an endpoint begins with tcp:// or ipc://", o->endpoint);
}

/* ---- setting up ---- */

static bool set_int(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value) == 0;
}

static bool set_text(void *socket, int option, const char *text)
{
    return zmq_setsockopt(socket, option, text, strlen(text)) == 0;
}

static bool set_flow(struct link *link, const struct link_options *o)
{
    int hwm = o->hwm > 0 ? o->hwm : HWM_DEFAULT;
    int64_t bytes_max = o->message_bytes_max > 0 ? o->message_bytes_max : MSG_BYTES_MAX;
    void *s = link->socket;
    return set_int(s, ZMQ_LINGER, 0) && set_int(s, ZMQ_SNDHWM, hwm) && set_int(s, ZMQ_RCVHWM, hwm) &&
           zmq_setsockopt(s, ZMQ_MAXMSGSIZE, &bytes_max, sizeof bytes_max) == 0 && set_int(s, ZMQ_IPV6, strchr(o->endpoint, '[') != NULL) &&
           set_int(s, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS) && set_int(s, ZMQ_CONNECT_TIMEOUT, CONNECT_MS) &&
           set_int(s, ZMQ_HEARTBEAT_IVL, HEARTBEAT_MS) && set_int(s, ZMQ_HEARTBEAT_TIMEOUT, HEARTBEAT_DEAD_MS) &&
           set_int(s, ZMQ_HEARTBEAT_TTL, HEARTBEAT_DEAD_MS) && set_int(s, ZMQ_RECONNECT_IVL, RECONNECT_MS) &&
           set_int(s, ZMQ_RECONNECT_IVL_MAX, RECONNECT_MAX_MS);
}

static bool set_role(struct link *link, const struct link_options *o)
{
    void *s = link->socket;
    if (o->listen) return set_int(s, ZMQ_ROUTER_MANDATORY, 1) && set_int(s, ZMQ_ROUTER_HANDOVER, 1);
    return set_int(s, ZMQ_IMMEDIATE, 1) && (!o->identity || set_text(s, ZMQ_ROUTING_ID, o->identity));
}

/* Without this option, a draft one in libzmq 4.3, CURVE lets everyone in where no ZAP handler is bound. Ours is bound
 * before the context is given out and stays until it is shut down, so the option is a second bolt only. */
static bool enforce_zap(void *socket)
{
#ifdef ZMQ_ZAP_ENFORCE_DOMAIN
    return set_int(socket, ZMQ_ZAP_ENFORCE_DOMAIN, 1);
#else
    return socket != NULL;
#endif
}

static bool set_keys(struct link *link, const struct link_options *o)
{
    void *s = link->socket;
    if (!o->keys || !starts_with(o->endpoint, "tcp://")) return true;
    if (o->listen)
        return set_int(s, ZMQ_CURVE_SERVER, 1) && set_text(s, ZMQ_CURVE_SECRETKEY, o->keys->secret_key) &&
               set_text(s, ZMQ_ZAP_DOMAIN, ZAP_DOMAIN) && enforce_zap(s);
    return set_text(s, ZMQ_CURVE_PUBLICKEY, o->keys->public_key) &&
           set_text(s, ZMQ_CURVE_SECRETKEY, o->keys->secret_key) && set_text(s, ZMQ_CURVE_SERVERKEY, o->server_key);
}

/* libzmq looks at the peer's credentials when it accepts. */
static bool set_uids(struct link *link, const struct link_options *o)
{
    for (int i = 0; i < o->ipc_uid_count; i++)
        if (zmq_setsockopt(link->socket, ZMQ_IPC_FILTER_UID, &o->ipc_uids[i], sizeof o->ipc_uids[i]) != 0) return false;
    return true;
}

static bool open_monitor(struct link *link, void *zmq)
{
    char name[64];
    int events = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                 ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
    (void)snprintf(name, sizeof name, "inproc://link-monitor-%p", (void *)link);
    if (zmq_socket_monitor(link->socket, name, events) != 0) return false;
    link->monitor = zmq_socket(zmq, ZMQ_PAIR);
    return link->monitor && set_int(link->monitor, ZMQ_LINGER, 0) && set_int(link->monitor, ZMQ_RCVHWM, 0) &&
           zmq_connect(link->monitor, name) == 0;
}

/* The file gets its mode before anybody can come through it: nobody but us while it is being made. */
static enum err_code bind_link(struct link *link, const struct link_options *o, struct err *e)
{
    bool ipc = starts_with(o->endpoint, "ipc://");
    const char *path = o->endpoint + strlen("ipc://");
    mode_t before = ipc ? umask(0177) : 0;
    int rc = zmq_bind(link->socket, o->endpoint), why = errno;
    if (ipc) (void)umask(before);
    if (rc != 0) return err_set(e, ERR_IO, "%s cannot be bound: %s", o->endpoint, zmq_strerror(why));
    if (ipc && chmod(path, o->ipc_mode ? (mode_t)o->ipc_mode & 0777 : 0600) != 0)
        return err_set(e, ERR_IO, "%s: its mode cannot be set: %s", path, strerror(errno));
    struct stat st;
    if (ipc && lstat(path, &st) == 0) {
        link->dev = st.st_dev;
        link->ino = st.st_ino;
    }
    size_t size = sizeof link->endpoint;
    if (zmq_getsockopt(link->socket, ZMQ_LAST_ENDPOINT, link->endpoint, &size) != 0)
        return err_set(e, ERR_IO, "%s: %s", o->endpoint, zmq_strerror(errno));
    return ERR_OK;
}

static enum err_code connect_link(struct link *link, const struct link_options *o, struct err *e)
{
    if (zmq_connect(link->socket, o->endpoint) != 0)
        return err_set(e, ERR_INVALID, "%s is not a place to connect to: %s", o->endpoint, zmq_strerror(errno));
    return ERR_OK;
}

enum err_code link_open(struct link **out, struct link_context *context, const struct link_options *options,
                        struct err *e)
{
    enum err_code code = check_options(options, e);
    if (code != ERR_OK) return code;
    struct link *link = calloc(1, sizeof *link);
    if (!link) return err_set(e, ERR_MEMORY, "no memory for a link");
    buf_init(&link->scratch, MSG_BYTES_MAX);
    link->listen = options->listen;
    (void)snprintf(link->endpoint, sizeof link->endpoint, "%s", options->endpoint);
    link->socket = zmq_socket(context->zmq, options->listen ? ZMQ_ROUTER : ZMQ_DEALER);
    if (!link->socket || !set_flow(link, options) || !set_role(link, options) || !set_keys(link, options) || !set_uids(link, options) ||
        !open_monitor(link, context->zmq))
        code = err_set(e, ERR_IO, "%s: the socket cannot be set up: %s", options->endpoint, zmq_strerror(errno));
    if (code == ERR_OK) code = options->listen ? bind_link(link, options, e) : connect_link(link, options, e);
    if (code != ERR_OK) {
        link_close(link);
        return code;
    }
    *out = link;
    return ERR_OK;
}

/* libzmq leaves the file. It goes where it is still ours. */
static void remove_file(const struct link *link)
{
    struct stat st;
    const char *path = link->endpoint + strlen("ipc://");
    if (link->ino && lstat(path, &st) == 0 && st.st_dev == link->dev && st.st_ino == link->ino) (void)unlink(path);
}

void link_close(struct link *link)
{
    if (!link) return;
    remove_file(link);
    if (link->socket) (void)zmq_socket_monitor(link->socket, NULL, 0);
    if (link->monitor) (void)zmq_close(link->monitor);
    if (link->socket) (void)zmq_close(link->socket);
    buf_release(&link->scratch);
    free(link);
}

const char *link_endpoint(const struct link *link)
{
    return link->endpoint;
}

void *link_socket(struct link *link)
{
    return link->socket;
}

void *link_monitor(struct link *link)
{
    return link->monitor;
}

/* ---- messages ---- */

static int send_frame(void *socket, const void *data, size_t len, int flags)
{
    int rc;
    do {
        rc = zmq_send(socket, data, len, flags | ZMQ_DONTWAIT);
    } while (rc < 0 && errno == EINTR);
    return rc;
}

static enum err_code send_failed(const struct link *link, struct err *e)
{
    if (errno == EHOSTUNREACH || (errno == EAGAIN && !link->listen && !link->connected))
        return err_set(e, ERR_UNAVAILABLE, "%s: nobody at the other end", link->endpoint);
    if (errno == EAGAIN) return err_set(e, ERR_FULL, "%s: the other end does not keep up", link->endpoint);
    return err_set(e, ERR_IO, "%s: %s", link->endpoint, zmq_strerror(errno));
}

enum err_code link_send_bytes(struct link *link, const struct link_peer *peer, const void *data, size_t len,
                              struct err *e)
{
    assert(link->listen == (peer != NULL));
    if (peer && send_frame(link->socket, peer->bytes, (size_t)peer->len, ZMQ_SNDMORE) < 0) return send_failed(link, e);
    return send_frame(link->socket, data, len, 0) < 0 ? send_failed(link, e) : ERR_OK;
}

enum err_code link_send(struct link *link, const struct link_peer *peer, enum msg_type type, const void *body,
                        struct err *e)
{
    enum { KEEP_BYTES = 256 << 10 };
    buf_clear(&link->scratch);
    enum err_code code = msg_encode(type, body, &link->scratch, e);
    if (code == ERR_OK) code = link_send_bytes(link, peer, link->scratch.data, link->scratch.len, e);
    if (link->scratch.cap > KEEP_BYTES) buf_release(&link->scratch); /* one large message is no reason to stay large */
    return code;
}

static bool receive_frame(void *socket, zmq_msg_t *frame)
{
    int rc;
    (void)zmq_msg_init(frame);
    do {
        rc = zmq_msg_recv(frame, socket, ZMQ_DONTWAIT);
    } while (rc < 0 && errno == EINTR);
    if (rc < 0) (void)zmq_msg_close(frame);
    return rc >= 0;
}

/* Takes the frames that are too many, so that the next message starts where it should. Their number, or 0. */
static int drain(void *socket, zmq_msg_t *last)
{
    int n = 0;
    bool more = zmq_msg_more(last);
    while (more) {
        zmq_msg_t frame;
        if (!receive_frame(socket, &frame)) break;
        more = zmq_msg_more(&frame);
        (void)zmq_msg_close(&frame);
        n++;
    }
    return n;
}

/* What our ZAP handler said of the key behind the connection. */
static void take_key_name(struct link_peer *peer, zmq_msg_t *frame)
{
    const char *name = zmq_msg_gets(frame, "User-Id");
    (void)snprintf(peer->key_name, sizeof peer->key_name, "%s", name ? name : "");
}

/* A ROUTER's first frame: who sent it. */
static enum err_code take_peer(struct link_peer *peer, zmq_msg_t *frame, struct err *e)
{
    size_t len = zmq_msg_size(frame);
    *peer = (struct link_peer){0};
    if (len == 0 || len > LINK_PEER_MAX)
        return err_set(e, ERR_TOO_LARGE, "a routing id of %zu bytes; 1 to %d are allowed", len, LINK_PEER_MAX);
    memcpy(peer->bytes, zmq_msg_data(frame), len);
    peer->len = (int)len;
    return ERR_OK;
}

bool link_receive(struct link *link, struct link_peer *peer, struct msg *out, enum err_code *code, struct err *e)
{
    zmq_msg_t frame;
    struct link_peer ignored;
    *out = (struct msg){0};
    *code = ERR_OK;
    if (!peer) peer = &ignored;
    *peer = (struct link_peer){0};
    if (!receive_frame(link->socket, &frame)) return false;
    if (link->listen) {
        bool more = zmq_msg_more(&frame);
        *code = take_peer(peer, &frame, e);
        (void)zmq_msg_close(&frame);
        if (!more) {
            *code = err_set(e, ERR_SYNTAX, "a message without a frame");
            return true;
        }
        if (!receive_frame(link->socket, &frame)) return false; /* cannot be: all frames of a message come together */
        take_key_name(peer, &frame);
    }
    int extra = drain(link->socket, &frame);
    if (*code == ERR_OK && extra > 0)
        *code = err_set(e, ERR_SYNTAX, "a message of %d frames; one is expected", extra + 1);
    if (*code == ERR_OK) *code = msg_decode(out, zmq_msg_data(&frame), zmq_msg_size(&frame), e);
    (void)zmq_msg_close(&frame);
    return true;
}

/* Frame 1: event (16 bits) and value (32 bits), in host order; frame 2: the address. */
bool link_monitor_receive(struct link *link, enum link_event *event)
{
    zmq_msg_t frame;
    uint16_t what = 0;
    if (!receive_frame(link->monitor, &frame)) return false;
    if (zmq_msg_size(&frame) >= sizeof what) memcpy(&what, zmq_msg_data(&frame), sizeof what);
    (void)drain(link->monitor, &frame);
    (void)zmq_msg_close(&frame);
    switch (what) {
    case ZMQ_EVENT_HANDSHAKE_SUCCEEDED: *event = LINK_CONNECTED; break;
    case ZMQ_EVENT_DISCONNECTED: *event = LINK_DISCONNECTED; break;
    case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
    case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
    case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH: *event = LINK_REFUSED; break;
    default: *event = LINK_OTHER; break;
    }
    if (*event == LINK_CONNECTED || *event == LINK_DISCONNECTED) link->connected = *event == LINK_CONNECTED;
    return true;
}
