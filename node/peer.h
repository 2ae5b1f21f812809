/* What the ZeroMQ parts of a node share: backend_peer.c (the node above, as a backend), worker_link.c (the broker a
 * worker serves) and broker.c (all nodes below). Their makers are declared in node/node.h.
 *
 *   remote   the other end of a link, one peer of it: what we asked it (calls), what it asked us (served), and what
 *            waits to be sent while its queue is full. peer.c, peer_calls.c, peer_serve.c
 *   uplink   a DEALER to the node above that greets, keeps the heartbeat and comes back. peer_uplink.c
 *
 * Loop thread only.
 */
#ifndef RUNG_NODE_PEER_H
#define RUNG_NODE_PEER_H

#include "node/node.h"

enum { PEER_HWM = 4096, REMOTE_BUCKETS = 64, REMOTE_WAITING_MAX = 8 << 20, REMOTE_ID_MAX = 64 };

/* Send one message; a failure is told by its code. */
enum err_code peer_send(struct node *node, struct link *link, const struct link_peer *peer, enum msg_type type,
                        const void *body);
/* Fill HELLO and READY from what the node is and can do now (strings point into the node). */
void peer_fill_hello(const struct node *node, const char *role, struct msg_hello *out);
void peer_fill_ready(const struct node *node, struct msg_model models[MSG_MODELS_MAX], struct msg_ready *out);
/* Is it time to tell READY again? When what it says has changed, and each heartbeat. */
struct peer_told {
    uint64_t hash;
    int64_t at_us;
};
bool peer_ready_due(const struct node *node, struct peer_told *told);
/* 1 to 63 letters, digits and -_.: what may become a name in logs and metrics. */
bool peer_name_valid(const char *name);
/* The keys for an endpoint: NULL for ipc, for plain loopback where it is allowed and no `server_key` (may be "") is
 * given for a connection. Errors: those of link_keys_read. */
ERR_CHECKED enum err_code peer_keys(const struct node *node, const char *endpoint, bool listen, const char *server_key,
                                    struct link_keys *out, const struct link_keys **keys, struct err *e);

/* ---- remote ---- */

struct remote_call;
struct served;
struct remote {
    struct node *node;
    struct link *link;
    struct link_peer id;            /* len 0: the other end of a DEALER */
    char name[BACKEND_WORD];        /* for logs */
    struct buf waiting;             /* encoded messages, each behind its length, while the queue is full */
    size_t waiting_at;
    struct loop_timer flush_timer;
    struct remote_call *calls[REMOTE_BUCKETS];
    int call_count;                 /* without those cancelled */
    struct served *served;
    int64_t heard_us;
    bool gone;                      /* a send said so: its owner lets go of it soon */
    void (*on_gone)(void *ctx);     /* called when that is noticed, perhaps inside a sink: only start a timer */
    void *ctx;
};
void remote_init(struct remote *remote, struct node *node, struct link *link, const struct link_peer *id,
                 void (*on_gone)(void *ctx), void *ctx);
/* Cancels what it asked us, forgets what we asked it (no callbacks), gives everything back. */
void remote_release(struct remote *remote);
/* Forget what waits to be sent. */
void remote_clear(struct remote *remote);
/* Send, or keep until it can be sent. Errors: ERR_UNAVAILABLE (gone), ERR_FULL (too much waits: gone too), and those
 * of msg_encode. */
enum err_code remote_send(struct remote *remote, enum msg_type type, const void *body);

/* What we asked it: the contract of struct backend_ops. */
ERR_CHECKED enum err_code remote_submit(struct remote *remote, uint64_t call, const struct msg_submit *submit,
                                        const struct sink *sink, struct err *e);
void remote_cancel(struct remote *remote, uint64_t call);
/* START, TOKEN, DONE or ERROR from it. */
void remote_answer(struct remote *remote, const struct msg *msg);
/* Every call ends in this error. */
void remote_fail_calls(struct remote *remote, enum err_code code, const char *message);
/* Forget cancelled calls whose end nobody told. Now and then. */
void remote_tick(struct remote *remote);

/* What it asks us. Takes the submit out of `msg`. */
void remote_serve(struct remote *remote, struct msg *msg, const char *front);
void remote_serve_cancel(struct remote *remote, const struct msg_cancel *cancel);
/* It went away, or began anew: cancel all it asked. Not from inside a sink. */
void remote_served_drop(struct remote *remote);

/* ---- uplink ---- */

struct uplink_ops {
    const char *role;                                             /* in our HELLO */
    void (*on_ready)(void *ctx, const struct msg_ready *ready);   /* the node above is there, and says what it can do */
    void (*on_down)(void *ctx, const char *why);                  /* …is not. Its calls have ended in errors */
    bool serves;                                                  /* it may SUBMIT to us, and wants our READY */
};
struct uplink {
    struct node *node;
    const struct uplink_ops *ops;
    void *ctx;
    struct link *link;
    struct remote remote;
    char endpoint[256];
    struct loop_timer tick_timer, greet_timer;
    bool connected, up;
    int64_t sequence, beat_us;
    struct peer_told told;
};
/* Opens the link; connecting goes on in the background. Errors: those of link_open and link_keys_read. */
ERR_CHECKED enum err_code uplink_open(struct uplink *up, struct node *node, const char *endpoint, const char *server_key,
                                      const struct uplink_ops *ops, void *ctx, struct err *e);
void uplink_close(struct uplink *up);

#endif
