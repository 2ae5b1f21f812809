/* The region: a broker whose workers answer for many devices, and the way up to core. */
#ifndef RUNG_REGION_REGION_H
#define RUNG_REGION_REGION_H

#include "node/node.h"

/* Runs the node until SIGTERM; returns an exit code. */
int region_main(const struct node_options *options);

#endif
