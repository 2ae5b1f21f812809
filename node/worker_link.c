/* A worker's end: a DEALER that registers with a broker and serves what it is given. */
#include "node/peer.h"

#include "base/textlog.h"

#include <stdlib.h>

struct worker_link {
    struct uplink uplink;
};

static void on_ready(void *ctx, const struct msg_ready *ready)
{
    (void)ctx;
    (void)ready; /* what the broker can do is its own affair: to a worker it only says that it knows us */
}

static void on_down(void *ctx, const char *why)
{
    (void)ctx;
    (void)why; /* told by the uplink; what was served is cancelled, for the broker gives it to another */
}

static const struct uplink_ops OPS = {.role = "worker", .on_ready = on_ready, .on_down = on_down, .serves = true};

enum err_code worker_link_new(struct worker_link **out, struct node *node, struct err *e)
{
    const struct config *c = node->config;
    if (!c->broker_connect)
        return err_set_param(e, ERR_INVALID, "worker.connect", "a worker needs worker.connect: the broker it serves");
    struct worker_link *w = calloc(1, sizeof *w);
    if (!w) return err_set(e, ERR_MEMORY, "no memory for the worker's link");
    enum err_code code = uplink_open(&w->uplink, node, c->broker_connect, c->broker_key, &OPS, w, e);
    if (code != ERR_OK) {
        free(w);
        return code;
    }
    *out = w;
    return ERR_OK;
}

void worker_link_free(struct worker_link *link)
{
    if (!link) return;
    uplink_close(&link->uplink);
    free(link);
}
