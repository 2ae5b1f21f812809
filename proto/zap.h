/* The thread that answers ZeroMQ's question "may this key in?" (ZAP, rfc.zeromq.org/spec/27). Private to proto/. */
#ifndef RUNG_PROTO_ZAP_H
#define RUNG_PROTO_ZAP_H

#include "proto/link.h"

#define ZAP_DOMAIN "rung"

struct zap;
/* Starts the thread. `allowed` is copied. Errors: ERR_INVALID (a key that is none), ERR_MEMORY, ERR_IO. */
ERR_CHECKED enum err_code zap_new(struct zap **out, void *zmq_context, const struct link_peer_key *allowed,
                                  int allowed_count, struct err *e);
/* Waits for the thread, which ends when the ZeroMQ context is shut down: do that first. */
void zap_free(struct zap *zap);
int64_t zap_refused(const struct zap *zap);

#endif
