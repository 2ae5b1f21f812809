/* What the http*.c files share. The room's face is node/node.h.
 *
 *   http.c         the front: two doors (Unix socket, TCP), the loop's side of libmicrohttpd, clients that leave
 *   http_listen.c  listening sockets, the URL file
 *   http_guard.c   who may come in: uids, keys, Host, Origin
 *   http_head.c    a request's path and headers: which endpoint, which limits
 *   http_call.c    one request: body, submit, what comes back, the reply
 *   http_parse.c   a thread that parses large bodies
 *
 * A connection (struct http_conn) lives as long as its socket; a call (struct http_call) as long as one request on
 * it. While a call waits for a backend its connection is suspended: libmicrohttpd looks at nothing then, so an epoll
 * set of our own watches every connection for the client's end closing.
 */
#ifndef RUNG_NODE_HTTP_H
#define RUNG_NODE_HTTP_H

#include "node/node.h"
#include "proto/openai.h"

#include <microhttpd.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/types.h>

enum {
    HTTP_KEYS_MAX = 1024,
    HTTP_UNREAD_MAX = 4 << 20,  /* bytes of a stream a client may leave unread */
    HTTP_OFF_LOOP = 64 << 10,   /* larger bodies are parsed on the parser's thread */
    HTTP_PARSING_MAX = 64,      /* bodies waiting for it */
    HTTP_SPARES_MAX = 128,
    HTTP_COMMENT_MS = 15000,    /* a stream that is silent for so long gets a comment; less in tests */
    HTTP_LINGER_MAX = 16 << 20, /* bytes past the limit, and time, that a refused body is read past */
    HTTP_LINGER_MS = 5000
};

/* ---- who may come in (http_guard.c) ---- */

struct http_key {
    unsigned char hash[32];     /* of the key: comparing hashes tells nothing about the key by its time */
    char tenant[64];
};
struct http_keys {
    unsigned char salt[32];
    struct http_key *list;      /* (count) */
    int count;
};
/* Lines `KEY tenant`, # comments; refuses a file that others may read. Errors: ERR_IO, ERR_FORBIDDEN, ERR_SYNTAX. */
ERR_CHECKED enum err_code http_keys_load(struct http_keys *out, const char *path, struct err *e);
void http_keys_release(struct http_keys *keys);
/* The tenant of a key, NULL when it is none. Takes as long whichever it is. */
const char *http_keys_tenant(const struct http_keys *keys, const char *key);
/* Is a Host header one of this machine's own loopback names, or `bound`, the address listened on? The port does not
 * matter: it is a rebound name that must be kept out. */
bool http_host_allowed(const char *host, const char *bound);
/* Is this Origin in the list, or (host not NULL) the page of the very host asked? */
bool http_origin_allowed(const char *origin, const char *host, const struct config_list *allowed);

/* ---- listening (http_listen.c) ---- */

struct http_listen {
    int fd;
    char path[108];             /* of a Unix socket's file, removed at the end if it is still ours */
    dev_t dev;
    ino_t ino;
    bool loopback;
    char bound[64];             /* TCP: the address without the port, "127.0.0.1", "::1" */
    int port;
};
ERR_CHECKED enum err_code http_listen_unix(struct http_listen *out, const struct config_http *config, struct err *e);
ERR_CHECKED enum err_code http_listen_tcp(struct http_listen *out, const struct config_http *config, struct err *e);
/* Removes the socket's file; the descriptor is closed by whoever has it. */
void http_listen_end(struct http_listen *listen);
ERR_CHECKED enum err_code http_url_write(const char *path, const struct http_listen *listen, struct err *e);

/* ---- the front (http.c) ---- */

struct http_door {
    struct http_front *front;
    const char *name;           /* "http-unix", "http-tcp": also where a request came from */
    bool tcp;
    struct http_listen listen;
    struct MHD_Daemon *daemon;  /* NULL: closed */
    int epoll;                  /* its descriptor */
    struct loop_timer timer;
};
struct http_conn {
    struct http_conn *next, *prev;
    struct http_door *door;
    int fd;
    bool refused;               /* its uid is not on the list */
    bool gone;                  /* its client closed its end */
    int64_t idle_since_us;
    struct http_call *call;     /* NULL between requests */
};
struct http_parser;
struct http_front {
    struct node *node;
    struct http_door doors[2];  /* Unix, TCP */
    struct http_keys keys;
    uid_t uids[CONFIG_LIST_MAX];
    int uid_count;
    unsigned char random[512];  /* for request ids: the kernel is asked once for many */
    int random_left;
    int leaving;                /* epoll set: connections whose client may leave */
    int comment_ms;             /* HTTP_COMMENT_MS */
    struct loop_timer sweep;    /* each second: comments into silent streams, connections that never get on */
    struct http_conn *conns;
    struct http_call *spare;    /* ended ones, at most HTTP_SPARES_MAX, for the next */
    int spares;
    struct http_parser *parser;
};

/* Look at the door's connections soon: one of them was resumed. */
void http_door_kick(struct http_door *door);

/* ---- one request's head (http_head.c) ---- */

enum http_endpoint {
    HTTP_NOWHERE, HTTP_CHAT, HTTP_COMPLETION, HTTP_MODELS, HTTP_MODEL, HTTP_FEEDBACK, HTTP_HEALTH, HTTP_READY,
    HTTP_METRICS, HTTP_POLICY, HTTP_POLICY_SET
};
struct http_head {
    enum http_endpoint endpoint;
    const char *model;          /* of /v1/models/{id} */
    const char *allow;          /* methods of the endpoint, for 405 */
    bool preflight;             /* OPTIONS from an allowed origin */
    /* header values; they live as long as the request */
    const char *host, *expect, *origin, *authorization, *api_key, *length, *request_id, *max_tier, *privacy, *deadline,
        *conversation, *idempotency, *traceparent;
    const char *tenant;         /* of the key */
    const char *cors;           /* origin to allow in the reply, or NULL */
    int64_t content_length;     /* -1: not said */
    enum tier tier;             /* x-rung-max-tier */
    int64_t deadline_ms;
    bool device_private;
};
/* Reads path and headers and checks everything they can show. The error says what to answer; the head is filled as
 * far as it could be. */
ERR_CHECKED enum err_code http_head_read(struct http_head *out, const struct http_conn *conn,
                                         struct MHD_Connection *mhd, const char *url, const char *method,
                                         struct err *e);
/* Puts what the headers say into a submit. False: out of memory. */
bool http_head_apply(const struct http_head *head, struct msg_submit *submit);

/* ---- one request (http_call.c) ---- */

enum MHD_Result http_call_handle(void *door, struct MHD_Connection *mhd, const char *url, const char *method,
                                 const char *version, const char *data, size_t *size, void **call);
void http_call_completed(void *door, struct MHD_Connection *mhd, void **call, enum MHD_RequestTerminationCode why);
/* The client's end was closed: the work stops now, the connection is let go. */
void http_call_leave(struct http_call *call);
void http_calls_free(struct http_front *front); /* the spare ones */
/* Once a second. */
void http_call_sweep(struct http_call *call, int64_t now_us);
/* A body parsed on the other thread is back; takes the submit (NULL: see e). */
void http_call_parsed(struct http_call *call, struct msg_submit *submit, const struct err *e);

/* ---- large bodies (http_parse.c) ---- */

ERR_CHECKED enum err_code http_parser_new(struct http_parser **out, struct http_front *front, struct err *e);
void http_parser_free(struct http_parser *parser);
/* Takes the body. http_call_parsed() comes later, on the loop thread, unless http_parser_forget() was called. False:
 * too many are waiting (the body stays). */
bool http_parser_give(struct http_parser *parser, struct http_call *call, enum openai_endpoint endpoint,
                      struct buf *body);
void http_parser_forget(struct http_parser *parser, const struct http_call *call);

#endif
