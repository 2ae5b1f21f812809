/* The node above as a backend: what it offers comes with its READY, requests go up as SUBMIT, on credit. */
#include "node/peer.h"
#include "node/peer_models.h"

#include <stdlib.h>
#include <string.h>

struct peer {
    struct backend backend;
    struct uplink uplink;
    struct uplink_ops ops; /* with this node's role */
    struct peer_models models;
};

static void on_ready(void *ctx, const struct msg_ready *ready)
{
    struct peer *peer = ctx;
    struct backend *b = &peer->backend;
    struct node *node = peer->uplink.node;
    bool was_up = b->health == BACKEND_UP;
    peer_models_take(&peer->models, b, ready);
    /* Credit: what is free up there, beside what we run there already. */
    int64_t slots = ready->slots_free + peer->uplink.remote.call_count;
    b->slots = slots < 1 ? 1 : slots > INT32_MAX ? INT32_MAX : (int)slots;
    b->slots_free = (int)(ready->slots_free > INT32_MAX ? INT32_MAX : ready->slots_free);
    if (b->tokens_per_s <= 0) b->tokens_per_s = ready->tokens_per_s;
    b->health = ready->draining ? BACKEND_DRAINING : BACKEND_UP;
    b->trouble[0] = 0;
    if (!was_up) {
        b->failures = 0; /* it came back: what failed was the link */
        b->broken_until_us = 0;
    }
    request_wake(node);
}

static void on_down(void *ctx, const char *why)
{
    struct peer *peer = ctx;
    peer->backend.health = BACKEND_DOWN;
    (void)snprintf(peer->backend.trouble, sizeof peer->backend.trouble, "%.60s: %.90s", peer->uplink.endpoint, why);
}

static enum err_code peer_submit(struct backend *backend, uint64_t call, const struct msg_submit *submit,
                                 const struct sink *sink, struct err *e)
{
    struct peer *peer = backend->impl;
    if (!peer->uplink.up) return err_set(e, ERR_UNAVAILABLE, "%s is not there: %s", backend->name, backend->trouble);
    if (peer->uplink.remote.call_count >= backend->slots)
        return err_set(e, ERR_FULL, "%s has no free slot for us", backend->name);
    return remote_submit(&peer->uplink.remote, call, submit, sink, e);
}

static void peer_cancel(struct backend *backend, uint64_t call)
{
    struct peer *peer = backend->impl;
    remote_cancel(&peer->uplink.remote, call);
}

static void peer_free(struct backend *backend)
{
    struct peer *peer = backend->impl;
    uplink_close(&peer->uplink);
    peer_models_release(&peer->models);
    free(peer);
}

/* Until its first READY a peer is thought to reach every tier above: these are configured, only not there. */
static void guess_models(struct backend *b, enum tier self)
{
    for (int t = (int)self + 1; t < TIERS; t++) b->models[b->model_count++] = (struct msg_model){.tier = (enum tier)t};
}

static const struct backend_ops PEER_OPS = {"peer", peer_submit, peer_cancel, peer_free};

enum err_code backend_peer_new(struct backend **out, struct node *node, const struct config_backend *config, struct err *e)
{
    struct peer *peer = calloc(1, sizeof *peer);
    if (!peer) return err_set(e, ERR_MEMORY, "no memory for backend %s", config->name);
    struct backend *b = &peer->backend;
    b->ops = &PEER_OPS;
    b->impl = peer;
    b->health = BACKEND_STARTING;
    b->order = config->order;
    b->weight = config->weight;
    (void)snprintf(b->name, sizeof b->name, "%s", config->name);
    (void)snprintf(b->trouble, sizeof b->trouble, "%.100s: not connected yet", config->connect);
    guess_models(b, node->config->tier);
    peer->ops = (struct uplink_ops){.role = tier_name(node->config->tier), .on_ready = on_ready, .on_down = on_down};
    enum err_code code = uplink_open(&peer->uplink, node, config->connect, config->server_key, &peer->ops, peer, e);
    if (code != ERR_OK) {
        free(peer);
        return code;
    }
    *out = b;
    return ERR_OK;
}

enum err_code backend_peer_ship(struct backend *backend, const void *rows, size_t len, int64_t last_id, struct err *e)
{
    struct peer *peer = backend->impl;
    if (!peer->uplink.up) return err_set(e, ERR_UNAVAILABLE, "%s is not there", backend->name);
    const struct msg_log log = {.node = peer->uplink.node->config->node, .rows = rows, .rows_len = len, .last_id = last_id};
    enum err_code code = remote_send(&peer->uplink.remote, MSG_LOG, &log);
    return code == ERR_OK ? ERR_OK : err_set(e, code, "%s: the rows were not sent", backend->name);
}
