/* A running node of any tier: what the loop thread owns, and the functions its parts call on each other. */
#ifndef RUNG_NODE_NODE_H
#define RUNG_NODE_NODE_H

#include "node/backend.h"
#include "node/config.h"
#include "node/loop.h"
#include "node/metrics.h"
#include "proto/link.h"
#include "router/log.h"
#include "router/policy.h"
#include "router/router.h"

struct request_table;
struct http_front;
struct broker;
struct worker_link;
struct shipper;
struct node_options;
struct shadows;
struct gpu_monitor;
struct watch;

struct node {
    const struct node_options *options; /* as started; for reading the configuration again */
    struct config *config;
    struct loop *loop;
    struct link_context *links;
    struct router *router;          /* NULL: none */
    struct router_info router_info;
    struct policy policy;           /* in force */
    struct policy trial;            /* of an experiment; share 0: none runs */
    struct decision_log *log;       /* NULL: off */
    struct metrics *metrics;
    struct backend *backends;       /* list; workers come and go */
    struct request_table *requests;
    struct http_front *http;        /* NULL: off */
    struct broker *broker;          /* NULL: off */
    struct worker_link *worker;     /* NULL: not a worker */
    struct shipper *shipper;        /* NULL: no rows go up */
    struct shadows *shadows;        /* NULL: none are made here */
    struct gpu_monitor *gpus;       /* those under engines here */
    struct watch *watch;            /* NULL: there is no log to look at */
    uint64_t last_call;             /* calls are numbered from here */
    bool draining;
    int64_t started_wall_ms;
    unsigned char key[32];          /* for prompt hashes */
    unsigned char sketch_key[32];   /* for sketches, and for a router refitted from them */
};

/* ---- requests (node/request.c) ---- */

/* A request enters, from any front. Takes the submit (freed with msg_submit_release + free, also on refusal). The sink
 * is called later, never before this returns. Returns a handle for request_cancel(); 0 when memory is out (the submit
 * is freed, the sink is never called). */
uint64_t request_submit(struct node *node, struct msg_submit *submit, const struct sink *sink, const char *front);
/* The one who asked went away: work stops on every hop, the log says so, no callback comes after this. Not from inside
 * a sink's callback: start a timer of 0 ms there. */
void request_cancel(struct node *node, uint64_t handle);
int request_count(const struct node *node);
ERR_CHECKED enum err_code request_table_new(struct node *node, struct err *e);
void request_table_free(struct node *node); /* what still runs is cancelled and logged */
/* Waiting requests look for a free slot again (something ended, or a backend came up). */
void request_wake(struct node *node);
/* How long someone refused now should wait, from the measured rate at which requests end. */
int64_t request_retry_after_ms(const struct node *node);

/* Shadow runs (node/shadow.c). Close before the request table is freed, free after. */
ERR_CHECKED enum err_code shadows_new(struct node *node, struct err *e);
void shadows_close(struct node *node);
void shadows_free(struct node *node);
/* Do two answers say the same? */
bool shadow_agrees(const char *a, const char *b);

/* ---- backends (node/health.c) ---- */

/* Add to / remove from the list. The node owns it from then on; remove calls ops->free. */
void node_backend_add(struct node *node, struct backend *backend);
void node_backend_remove(struct node *node, struct backend *backend);
/* Tell a call's fate: feeds breaker, means and cool-down. `code` ERR_OK for a good one, ERR_CANCELLED counts nothing. */
void backend_outcome(struct node *node, struct backend *backend, enum err_code code, double ttft_ms, double tokens_per_s,
                     int64_t retry_after_ms);
/* Can it take work now? */
bool backend_ready(const struct node *node, const struct backend *backend);
/* The live state of every tier. */
void node_tier_states(const struct node *node, struct tier_state out[TIERS]);
/* The best ready backend of a tier for a request: longest prefix match, then most free slots, order, weight. `busy` is
 * set when some would do but have no free slot. NULL: none. `name`: NULL or a model's name. `avoid` (avoid_count):
 * backends not to take. */
struct dispatch {
    enum tier tier;
    const char *name;
    const struct msg_submit *submit;
    struct backend *const *avoid;
    int avoid_count;
    bool local_only;               /* private to the device */
    const char *prefer;            /* a backend's or model's name to take first; "" or NULL: none */
    const char *prefix_identity;   /* going on from tokens of this identity: prefer it. NULL: not going on */
};
struct backend *dispatch_pick(const struct node *node, const struct dispatch *want, bool *busy);
/* Remember that `backend` has this request's text in its cache. */
void dispatch_note(struct backend *backend, const struct msg_submit *submit);
void dispatch_forget(struct backend *backend);
/* Models for /v1/models and READY: those of all backends, without doubles. Returns the count. */
int node_models(const struct node *node, struct msg_model *out, int max);

/* ---- life (node/node.c) ---- */
struct node_options {
    const char *config_file;
    const char *const *overrides; /* "key=value" */
    int override_count;
    bool worker;                  /* a core without a broker that serves worker.connect */
};
/* Runs a node of a tier until SIGTERM; returns an exit code. Prints errors on stderr. */
int node_main(enum tier tier, const struct node_options *options);

/* ---- policies (node/policies.c) ---- */

/* ---- the router in force (node/routers.c) ---- */

/* At start: the router that the policy names, else router.file. Without one a node still routes, and says so. */
void node_router_open(struct node *node);
/* Switch to the router of that fingerprint, kept beside router.file; "": router.file itself. Nothing changes on an error:
 * ERR_NOT_FOUND, ERR_CORRUPT, ERR_INVALID (another log's). Blocks for the reading of a few MB. */
ERR_CHECKED enum err_code node_router_switch(struct node *node, const char *fingerprint, struct err *e);
/* Keeps a copy of a router file beside router.file under its fingerprint, which it tells. Errors as router_load, and
 * ERR_INVALID: not for this node's models or key. */
ERR_CHECKED enum err_code node_router_keep(struct node *node, const char *file, char fingerprint[17], struct err *e);

/* At start: from the log's table, or seeded from the configuration. */
ERR_CHECKED enum err_code node_policy_open(struct node *node, struct err *e);
/* Reload the policy part of the configuration (SIGHUP, `rung reload`): a bad file changes nothing. */
ERR_CHECKED enum err_code node_reload(struct node *node, struct err *e);
/* What an operator asks for, as JSON: {"action": "set" | "router" ("file") | "undo" | "reload" | "try" | "stop" | "promote", "policy"?: {…},
 * "share"?: 0…1, "by"?: "request" | "conversation" | "tenant"}. Errors: ERR_SYNTAX, ERR_INVALID (the field), ERR_IO. */
ERR_CHECKED enum err_code node_policy_command(struct node *node, const char *body, size_t len, struct err *e);
/* A policy that the node above sends (policy.accept_from_above): stored as the next version unless it is the one in force
 * already. Privacy only ever gets tighter by it. Errors: ERR_UNSUPPORTED (not accepted here), ERR_SYNTAX, ERR_INVALID. */
ERR_CHECKED enum err_code node_policy_from_above(struct node *node, const char *json, struct err *e);
/* Ends the experiment by rule: B becomes the policy, or not. Errors: ERR_INVALID (none runs), ERR_IO. */
ERR_CHECKED enum err_code node_experiment_end(struct node *node, bool promote, struct err *e);
/* The policy in force, and the experiment's where one runs. */
void node_policy_json(const struct node *node, struct buf *out);
/* Uniform in [0, 1), the same for the same id and salt. */
double node_dice(const char *id, uint64_t salt);
/* Which of them a request falls under: stable for its request id, conversation or tenant. */
const struct policy *node_policy_for(const struct node *node, const struct msg_submit *submit);
/* Is it up, is it ready (some tier can answer)? One JSON object for /health and /ready. */
bool node_health_json(const struct node *node, bool ready, struct buf *out);

/* ---- making backends ---- */
ERR_CHECKED enum err_code backend_local_new(struct backend **out, struct node *node, const struct config_backend *config, struct err *e);
ERR_CHECKED enum err_code backend_upstream_new(struct backend **out, struct node *node, const struct config_backend *config, struct err *e);
ERR_CHECKED enum err_code backend_scripted_new(struct backend **out, struct node *node, const struct config_backend *config, struct err *e);
ERR_CHECKED enum err_code backend_peer_new(struct backend **out, struct node *node, const struct config_backend *config, struct err *e);

/* ---- rows going up (node/ship.c) ---- */
ERR_CHECKED enum err_code shipper_new(struct shipper **out, struct node *node, struct err *e);
void shipper_free(struct shipper *shipper);
/* The node above has stored all rows up to this one. */
void shipper_acknowledged(struct node *node, int64_t last_id);

/* ---- fronts ---- */
ERR_CHECKED enum err_code http_front_new(struct http_front **out, struct node *node, struct err *e);
void http_front_free(struct http_front *front);
/* ROUTER front on zmq.listen and zmq.ipc: workers register, nodes and local clients submit. */
ERR_CHECKED enum err_code broker_new(struct broker **out, struct node *node, struct err *e);
void broker_free(struct broker *broker);
void broker_drain(struct broker *broker); /* tell everyone: no new work */
/* A worker's end: connects to worker.connect and serves SUBMITs through request_submit(). */
ERR_CHECKED enum err_code worker_link_new(struct worker_link **out, struct node *node, struct err *e);
void worker_link_free(struct worker_link *link);
/* Send the next batch of log rows to the node above, through its peer backend (node/backend_peer.c). */
ERR_CHECKED enum err_code backend_peer_ship(struct backend *peer, const void *rows, size_t len, int64_t last_id, struct err *e);

#endif
