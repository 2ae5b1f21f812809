/* Log rows go up in batches, one in flight: the writer thread collects, the loop sends, the node above acknowledges.
 * A batch that is not acknowledged is sent again; the other end skips what it has. */
#include "node/node.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

enum { SHIP_EVERY_MS = 500, SHIP_BYTES_MAX = 256 << 10, SHIP_AGAIN_MS = 10000 };

struct shipper {
    struct node *node;
    struct loop_timer timer;
    bool asked;         /* the writer is collecting */
    int64_t sent_ms;    /* 0: nothing in flight */
};
struct batch {
    int64_t last_id;
    size_t len;
    char data[];
};

static struct backend *peer_up(const struct node *node)
{
    for (struct backend *b = node->backends; b; b = b->next)
        if (strcmp(b->ops->type, "peer") == 0 && b->health == BACKEND_UP) return b;
    return NULL;
}

static void on_batch(void *ctx, void *arg)
{
    struct shipper *s = ctx;
    struct batch *batch = arg;
    s->asked = false;
    struct backend *peer = batch ? peer_up(s->node) : NULL;
    if (peer && backend_peer_ship(peer, batch->data, batch->len, batch->last_id, NULL) == ERR_OK) s->sent_ms = clock_mono_ms();
    free(batch);
}

/* On the writer's thread. */
static void on_collected(void *ctx, const void *data, size_t len, int64_t last_id)
{
    struct shipper *s = ctx;
    struct batch *batch = len ? malloc(sizeof *batch + len) : NULL;
    if (batch) {
        batch->last_id = last_id;
        batch->len = len;
        memcpy(batch->data, data, len);
    }
    if (!loop_post(s->node->loop, on_batch, s, batch)) free(batch); /* asked stays set until the tick below */
}

static void collect(struct shipper *s)
{
    if (s->asked || s->sent_ms || !s->node->log || !peer_up(s->node)) return;
    s->asked = log_ship_next(s->node->log, SHIP_BYTES_MAX, on_collected, s) == ERR_OK;
}

static void on_tick(void *ctx)
{
    struct shipper *s = ctx;
    if (s->sent_ms && clock_mono_ms() - s->sent_ms > SHIP_AGAIN_MS) s->sent_ms = 0;
    collect(s);
    loop_timer_start(s->node->loop, &s->timer, SHIP_EVERY_MS, on_tick, s);
}

void shipper_acknowledged(struct node *node, int64_t last_id)
{
    struct shipper *s = node->shipper;
    if (!s || !node->log) return;
    (void)log_ship_acknowledged(node->log, last_id); /* a full queue: the batch goes again, and is skipped there */
    s->sent_ms = 0;
    collect(s);
}

enum err_code shipper_new(struct shipper **out, struct node *node, struct err *e)
{
    struct shipper *s = calloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_MEMORY, "no memory for the shipper");
    s->node = node;
    loop_timer_start(node->loop, &s->timer, SHIP_EVERY_MS, on_tick, s);
    *out = s;
    return ERR_OK;
}

void shipper_free(struct shipper *shipper)
{
    if (!shipper) return;
    loop_timer_stop(shipper->node->loop, &shipper->timer);
    free(shipper);
}
