/* Workers as backends: registered by HELLO, described by READY, kept by name while they are away. */
#include "node/broker.h"

#include "base/textlog.h"

#include <stdlib.h>
#include <string.h>

enum { FORGET_US = 600 * 1000000, FIRST_TOKEN_MS = 120000, STALL_MS = 30000 };

static enum err_code worker_submit(struct backend *backend, uint64_t call, const struct msg_submit *submit,
                                   const struct sink *sink, struct err *e)
{
    struct broker_worker *w = backend->impl;
    if (!w->peer) return err_set(e, ERR_UNAVAILABLE, "worker %s is away", backend->name);
    if (w->peer->remote.call_count >= backend->slots)
        return err_set(e, ERR_FULL, "worker %s has no free slot", backend->name);
    return remote_submit(&w->peer->remote, call, submit, sink, e);
}

static void worker_cancel(struct backend *backend, uint64_t call)
{
    struct broker_worker *w = backend->impl;
    if (w->peer) remote_cancel(&w->peer->remote, call);
}

static void worker_free(struct backend *backend)
{
    struct broker_worker *w = backend->impl;
    struct broker_worker **p = &w->broker->workers;
    while (*p != w) p = &(*p)->next;
    *p = w->next;
    w->broker->worker_count--;
    if (w->peer) w->peer->worker = NULL;
    peer_models_release(&w->models);
    free(w);
}

static const struct backend_ops WORKER_OPS = {"worker", worker_submit, worker_cancel, worker_free};

static struct broker_worker *worker_find(const struct broker *broker, const char *name)
{
    struct broker_worker *w = broker->workers;
    while (w && strcmp(w->backend.name, name) != 0) w = w->next;
    return w;
}

static struct broker_worker *worker_new(struct broker *broker, const char *name)
{
    struct broker_worker *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    struct backend *b = &w->backend;
    b->ops = &WORKER_OPS;
    b->impl = w;
    b->health = BACKEND_STARTING;
    b->weight = 1;
    b->slots = 1;
    b->first_token_ms = FIRST_TOKEN_MS;
    b->stall_ms = STALL_MS;
    (void)snprintf(b->name, sizeof b->name, "%s", name);
    w->broker = broker;
    w->next = broker->workers;
    broker->workers = w;
    broker->worker_count++;
    node_backend_add(broker->node, b);
    return w;
}

/* Makes room by forgetting one that is away. */
static bool worker_room(struct broker *broker)
{
    if (broker->worker_count < BROKER_WORKERS_MAX) return true;
    for (struct broker_worker *w = broker->workers; w; w = w->next) {
        if (w->peer || w->backend.running > 0) continue;
        node_backend_remove(broker->node, &w->backend);
        return true;
    }
    return false;
}

enum err_code broker_worker_register(struct broker *broker, struct broker_peer *peer, struct err *e)
{
    const char *name = peer->remote.name;
    struct broker_worker *w = worker_find(broker, name);
    if (w && w->peer && w->peer != peer) {
        /* Either the old process died unnoticed or there are two: whoever still answers keeps the name. */
        (void)remote_send(&w->peer->remote, MSG_PING, &(struct msg_ping){0});
        if (!w->peer->remote.gone)
            return err_set_param(e, ERR_INVALID, "node", "a worker named %s is here already; give this one its own node.id", name);
        broker_worker_away(w, "another process took its name");
    }
    if (!w && !worker_room(broker)) return err_set(e, ERR_FULL, "%d workers are here, and that is all", BROKER_WORKERS_MAX);
    if (!w) w = worker_new(broker, name);
    if (!w) return err_set(e, ERR_MEMORY, "no memory for worker %s", name);
    w->peer = peer;
    peer->worker = w;
    return ERR_OK;
}

void broker_worker_ready(struct broker_worker *w, const struct msg_ready *ready)
{
    struct backend *b = &w->backend;
    enum backend_health before = b->health;
    peer_models_take(&w->models, b, ready);
    b->slots = ready->slots < 1 ? 1 : (int)ready->slots;
    b->slots_free = (int)ready->slots_free;
    bool can = b->model_count > 0;
    b->health = ready->draining ? BACKEND_DRAINING : can ? BACKEND_UP : BACKEND_STARTING;
    (void)snprintf(b->trouble, sizeof b->trouble, "%s", can ? "" : "it offers no model yet");
    if (b->health == before) return;
    textlog(TEXTLOG_INFO, ready->draining ? "worker_draining" : can ? "worker_up" : "worker_waits", "worker=%s models=%d slots=%d",
            b->name, b->model_count, b->slots);
    if (before != BACKEND_UP) b->failures = 0;
    if (before != BACKEND_UP) b->broken_until_us = 0;
    request_wake(w->broker->node);
}

void broker_worker_away(struct broker_worker *w, const char *why)
{
    struct broker_peer *peer = w->peer;
    if (!peer) return;
    w->backend.health = BACKEND_DOWN;
    w->away_us = loop_now_us(w->broker->node->loop);
    (void)snprintf(w->backend.trouble, sizeof w->backend.trouble, "%s", why);
    textlog(TEXTLOG_WARN, "worker_away", "worker=%s why=\"%s\" calls=%d", w->backend.name, why, peer->remote.call_count);
    dispatch_forget(&w->backend); /* whoever comes back has an empty cache */
    w->peer = NULL;
    peer->worker = NULL;
    remote_fail_calls(&peer->remote, ERR_UNAVAILABLE, "the worker went away");
}

void broker_workers_tick(struct broker *broker)
{
    int64_t now = loop_now_us(broker->node->loop);
    for (struct broker_worker *w = broker->workers, *next; w; w = next) {
        next = w->next;
        if (!w->peer && w->backend.running == 0 && now - w->away_us > FORGET_US)
            node_backend_remove(broker->node, &w->backend);
    }
}

void broker_workers_free(struct broker *broker)
{
    while (broker->workers) node_backend_remove(broker->node, &broker->workers->backend);
}
