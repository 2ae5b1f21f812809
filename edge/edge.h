/* The device: a local socket, a local answer, and the way up when the small model is not enough. */
#ifndef RUNG_EDGE_EDGE_H
#define RUNG_EDGE_EDGE_H

#include "node/node.h"

/* Runs the node until SIGTERM; returns an exit code. */
int edge_main(const struct node_options *options);

#endif
