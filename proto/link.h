/* ZeroMQ links between nodes: DEALER below, ROUTER above, set up as they must be (small high-water marks,
 * ZMQ_IMMEDIATE, ZMQ_LINGER 0, message size bound, handshake and heartbeat times, CURVE with ZAP on TCP).
 * One thread: the loop's. Sending never blocks: a full or missing peer is ERR_FULL or ERR_UNAVAILABLE.
 */
#ifndef RUNG_PROTO_LINK_H
#define RUNG_PROTO_LINK_H

#include "proto/msg.h"

#include <sys/types.h>

/* Keys: CURVE pairs in files of mode 0600, Z85 text. */
struct link_keys {
    char public_key[41], secret_key[41];
};
ERR_CHECKED enum err_code link_keys_make(struct link_keys *out, struct err *e);
/* Two lines, `public=…` and `secret=…`. Write refuses to overwrite; read refuses a file others may read. */
ERR_CHECKED enum err_code link_keys_write(const struct link_keys *keys, const char *path, struct err *e);
ERR_CHECKED enum err_code link_keys_read(struct link_keys *out, const char *path, struct err *e);
/* Allowed peers: one public key a line, `KEY name`, # comments (keys made here never begin with #). The key of a line with
 * a name may introduce itself as that node only. */
struct link_peer_key {
    char public_key[41], name[64];
};
/* Reads such a file into *out (malloc'd, at most 4096). Errors: ERR_IO, ERR_SYNTAX (file:line), ERR_TOO_LARGE, ERR_MEMORY. */
ERR_CHECKED enum err_code link_peers_read(struct link_peer_key **out, int *count, const char *path, struct err *e);
/* Whether `key` is 40 characters of Z85. */
bool link_key_valid(const char *key);

struct link_context;   /* one a node: the ZeroMQ context and the ZAP handler's thread */
struct link_context_options {
    const struct link_peer_key *allowed; /* copied */
    int allowed_count;
};
ERR_CHECKED enum err_code link_context_new(struct link_context **out, const struct link_context_options *options,
                                           struct err *e);
void link_context_free(struct link_context *context);
int64_t link_context_refused(const struct link_context *context); /* connections refused by ZAP so far */
void *link_context_zmq(struct link_context *context);

struct link;
struct link_options {
    const char *endpoint;       /* "ipc:///run/rung.ipc", "tcp://0.0.0.0:7100" */
    bool listen;                /* true: ROUTER, bound; false: DEALER, connected */
    const char *identity;       /* of a DEALER: its node id */
    const struct link_keys *keys; /* NULL: plain, allowed on ipc:// and, when `plain_loopback`, on 127.0.0.1/[::1] */
    const char *server_key;     /* DEALER with CURVE: the other side's public key */
    bool plain_loopback;
    int ipc_mode;               /* of a bound ipc socket's file; 0: 0600 */
    const uid_t *ipc_uids;      /* (ipc_uid_count) who may connect to it; none: whoever the mode lets in */
    int ipc_uid_count;
    int hwm;                    /* 0: 64 messages */
    int64_t message_bytes_max;  /* 0: MSG_BYTES_MAX */
};
/* Endpoints: tcp://, ipc:// (a path, not an abstract name), inproc:// (tests, benches). Errors: ERR_INVALID (a TCP
 * endpoint without keys, a bad endpoint), ERR_IO (in use, not permitted), ERR_FORBIDDEN (see the end). */
ERR_CHECKED enum err_code link_open(struct link **out, struct link_context *context, const struct link_options *options,
                                    struct err *e);
void link_close(struct link *link);
/* The endpoint as bound, with the port that a `tcp://…:*` was given. */
const char *link_endpoint(const struct link *link);
void *link_socket(struct link *link);  /* for the loop's poll */
void *link_monitor(struct link *link); /* PAIR socket with connection events, for the loop's poll */

#define LINK_PEER_MAX 64
struct link_peer { /* a routing id, as bytes */
    unsigned char bytes[LINK_PEER_MAX];
    int len;
    char key_name[64]; /* received over CURVE: the name that its key has among the allowed; "" : none */
};
/* Encode and send; `peer` for a ROUTER, NULL for a DEALER. Errors: ERR_UNAVAILABLE (that peer is gone), ERR_FULL (its
 * queue is), and those of msg_encode. A DEALER knows from its monitor's events, as far as they have been received,
 * whether there is a connection. */
ERR_CHECKED enum err_code link_send(struct link *link, const struct link_peer *peer, enum msg_type type,
                                    const void *body, struct err *e);
/* The same with a message that msg_encode() has made already. */
ERR_CHECKED enum err_code link_send_bytes(struct link *link, const struct link_peer *peer, const void *data, size_t len,
                                          struct err *e);
/* Receive one message if there is one: true, and then `code` says whether it decoded. On a decoding error `out` is
 * empty and `e` says why; count it, answer or ignore it, go on. Frames beyond the expected are drained and refused. */
bool link_receive(struct link *link, struct link_peer *peer, struct msg *out, enum err_code *code, struct err *e);
/* One event from the monitor: true when there was one. The loop must go on receiving them: they queue. LINK_CONNECTED
 * comes once the handshake is through, LINK_REFUSED when it failed. Events come from another thread and run a moment ahead of
 * the socket: right after LINK_CONNECTED a send may still be ERR_FULL (poll for ZMQ_POLLOUT, or try again), right after
 * LINK_DISCONNECTED a send to that peer may still be taken, and lost (ping again a little later). A ROUTER lets go of a peer
 * once all it had sent has been received. */
enum link_event { LINK_CONNECTED, LINK_DISCONNECTED, LINK_REFUSED, LINK_OTHER };
bool link_monitor_receive(struct link *link, enum link_event *event);
/* An ipc socket is guarded by its file's mode, by the uids where some are given (others are disconnected at once, before
 * a handshake, so that no event tells of it), and by its folder, which others may not write in (link_open: ERR_FORBIDDEN). */

#endif
