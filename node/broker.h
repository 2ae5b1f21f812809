/* What broker.c and broker_worker.c share; nobody else includes this. */
#ifndef RUNG_NODE_BROKER_H
#define RUNG_NODE_BROKER_H

#include "node/peer.h"
#include "node/peer_models.h"

enum { BROKER_PEERS_MAX = 4096, BROKER_BUCKETS = 1024, BROKER_WORKERS_MAX = 256 };

enum broker_role { ROLE_CLIENT, ROLE_NODE, ROLE_WORKER }; /* a client need not say HELLO, nor PING */

struct broker_worker;
struct broker_door;
/* Who speaks to us through one of the doors. */
struct broker_peer {
    struct broker_peer *hash_next, *next, **prev;
    struct broker_door *door;
    struct remote remote;
    enum broker_role role;
    bool greeted;                /* has said HELLO */
    int64_t policy_told;         /* version of the last POLICY it was sent; 0: none */
    int64_t answered_us;         /* when we last told it that we do not understand */
    struct broker_worker *worker;
};

/* One that registered, also while it is away: its models stay known. */
struct broker_worker {
    struct backend backend;
    struct broker_worker *next;
    struct broker *broker;
    struct broker_peer *peer;    /* NULL: away */
    struct peer_models models;
    int64_t away_us;
};

struct broker_door {
    struct broker *broker;
    struct link *link;           /* NULL: shut */
    bool local;                  /* the ipc front: clients of this device, no workers */
};
struct broker_office;
struct broker {
    struct node *node;
    struct broker_door doors[2];
    struct broker_peer *buckets[BROKER_BUCKETS], *peers;
    int peer_count;
    struct broker_worker *workers;
    int worker_count;
    struct loop_timer tick_timer, sweep_timer;
    int sweeps_left;
    int64_t beat_us;
    struct peer_told told;
    struct broker_office *office;
};

/* ---- broker_worker.c ---- */

/* A HELLO of role worker. Errors: ERR_INVALID (the name is taken, or is none), ERR_FULL. */
ERR_CHECKED enum err_code broker_worker_register(struct broker *broker, struct broker_peer *peer, struct err *e);
void broker_worker_ready(struct broker_worker *worker, const struct msg_ready *ready);
/* Its calls fail, so that others go on with them; it stays known. */
void broker_worker_away(struct broker_worker *worker, const char *why);
/* Forget those that have been away for long. */
void broker_workers_tick(struct broker *broker);
void broker_workers_free(struct broker *broker);

#endif
