/* Names kept for readers: the ZeroMQ parts of a node are declared in node/node.h (backend_peer_*, broker_*,
 * worker_link_*); this header holds what only they share. */
#ifndef RUNG_NODE_PEER_H
#define RUNG_NODE_PEER_H

#include "node/node.h"

/* Send one message and count it; a failure is told by its code. */
enum err_code peer_send(struct node *node, struct link *link, const struct link_peer *peer, enum msg_type type,
                        const void *body);
/* Fill HELLO and READY from what the node is and can do now (strings point into the node). */
void peer_fill_hello(const struct node *node, const char *role, struct msg_hello *out);
void peer_fill_ready(const struct node *node, struct msg_model models[MSG_MODELS_MAX], struct msg_ready *out);

#endif
