/* The models a READY told of, with strings that outlive the message. Shared by backend_peer.c and broker_worker.c. */
#ifndef RUNG_NODE_PEER_MODELS_H
#define RUNG_NODE_PEER_MODELS_H

#include "node/node.h"

/* Strings of the models told now and of those told before, so that nobody is left with a pointer to nothing. */
struct peer_models {
    struct arena now, before;
};
/* Copies names and prices into the backend; models with a name that cannot stand in logs and JSON are left out. */
void peer_models_take(struct peer_models *models, struct backend *backend, const struct msg_ready *ready);
void peer_models_release(struct peer_models *models);

#endif
