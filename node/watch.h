/* The node looks at its own log every router.watch_ms: a stale router says so, and an experiment ends by rule where the
 * configuration has one (arms.promote: auto). */
#ifndef RUNG_NODE_WATCH_H
#define RUNG_NODE_WATCH_H

#include "node/node.h"
#include "router/stale.h"

ERR_CHECKED enum err_code watch_new(struct watch **out, struct node *node, struct err *e);
/* Waits for the thread; then what it posted is run (loop_run_posts), then it is freed. NULL is fine for all. */
void watch_stop(struct watch *watch);
void watch_free(struct watch *watch);
/* What the last look found of the router in force; NULL: nothing yet. */
const struct stale *watch_stale(const struct watch *watch);

#endif
