/* The fallback service: the largest model, in our own engine or behind OpenAI-compatible upstreams. */
#ifndef RUNG_CORE_CORE_H
#define RUNG_CORE_CORE_H

#include "node/node.h"

/* Runs the node until SIGTERM; returns an exit code. */
int core_main(const struct node_options *options);
/* A core (or a region's GPU) without a front of its own: serves the broker that `worker.connect` names. */
int worker_main(enum tier tier, const struct node_options *options);

#endif
