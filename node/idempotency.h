/* Requests that carry an idempotency key (the header `idempotency-key`, or the field of a SUBMIT).
 *
 * The first of a tenant's key runs as any request. A repeat of it, while it runs or for node.idempotency_ms after its
 * good end, runs nothing: it is told all that the first was told, with the first's id, and from then on both are told
 * the same. The work goes on until the last of them has gone away. An error is told to all and forgets the key, so that
 * trying again is trying anew. Another request under the same key is refused (ERR_KEY_REUSED), and so is a repeat of an
 * answer that was too large to keep (ERR_CONFLICT). Only the node that a client asks does this: hops pass by it.
 *
 * Loop thread only. */
#ifndef RUNG_NODE_IDEMPOTENCY_H
#define RUNG_NODE_IDEMPOTENCY_H

#include "node/node.h"

struct idempotency;
ERR_CHECKED enum err_code idempotency_new(struct idempotency **out, struct node *node, struct err *e);
/* Whoever still waits is told ERR_DRAINING. After the last request has ended. */
void idempotency_free(struct idempotency *keys);
/* Is this one for here? */
bool idempotency_wanted(const struct node *node, const struct msg_submit *submit);
/* As request_submit(); its handles are told apart from those of requests. */
uint64_t idempotency_submit(struct idempotency *keys, struct msg_submit *submit, const struct sink *sink, const char *front);
/* As request_cancel(). False: the handle is a request's. */
bool idempotency_leave(struct idempotency *keys, uint64_t handle);

#endif
