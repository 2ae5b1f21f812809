/* The configuration: YAML read through one table of keys (config.c), which also prints `rung config`, the commented
 * files in configs/ and docs/configuration.md. Precedence: flag, RUNG_* environment, file, default.
 *
 * An error names file, line, key, what it got, what it wants, and the nearest valid key. All strings are owned by the
 * config and live until config_free(). Not changed after loading: any thread may read.
 */
#ifndef RUNG_NODE_CONFIG_H
#define RUNG_NODE_CONFIG_H

#include "base/err.h"
#include "base/tier.h"
#include "router/policy.h"
#include "router/tune_arms.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

enum { CONFIG_BACKENDS_MAX = 32, CONFIG_LIST_MAX = 64 };

struct config_list {
    char *items[CONFIG_LIST_MAX];
    int count;
};

struct config_http {
    char *unix_path;          /* http.unix.path; NULL: off */
    int unix_mode;            /* http.unix.mode, octal; 0660 */
    char *unix_owner;         /* http.unix.owner "user:group"; NULL: as it is */
    struct config_list uids;  /* http.unix.uids: allowed peer uids; empty: whoever the mode lets in */
    char *tcp_listen;         /* http.tcp.listen "127.0.0.1:8600"; NULL: off. Port 0 picks one */
    char *tcp_url_file;       /* http.tcp.url_file: the address in use is written there */
    bool tcp_auth;            /* http.tcp.auth: bearer (true) | none */
    char *keys_file;          /* http.tcp.keys_file: lines `KEY tenant`, mode 0600 */
    struct config_list origins; /* http.origins: allowed Origin values */
    int64_t body_bytes_max;   /* http.body_bytes_max; 4 MiB */
    int connections_max;      /* http.connections_max; 1024 */
    int idle_timeout_ms;      /* http.idle_timeout_ms; 60000 */
};

struct config_zmq {
    char *ipc_path;           /* zmq.ipc.path, of a socket file; NULL: off */
    int ipc_mode;             /* zmq.ipc.mode */
    struct config_list ipc_uids; /* zmq.ipc.uids: allowed peer uids; empty: whoever the mode lets in */
    char *listen;             /* zmq.listen "tcp://0.0.0.0:7100" or ipc:// for workers and nodes below; NULL: off */
    char *keys_file;          /* zmq.keys_file: this node's CURVE pair */
    char *peers_file;         /* zmq.peers_file: allowed public keys */
    bool plain_loopback;      /* zmq.plain_loopback: no CURVE on 127.0.0.1 */
};

enum config_backend_type { CONFIG_LOCAL, CONFIG_PEER, CONFIG_UPSTREAM, CONFIG_SCRIPTED };
struct config_backend {
    char *name;
    enum config_backend_type type;
    enum tier tier;           /* of what it answers with; a peer's models say their own */
    double weight;            /* 1 */
    int order;                /* place in the list */
    int slots;                /* local 0: what suits the device, upstream 32 */
    /* local */
    char *model_file, *draft_model, *draft_kernels; /* draft_model NULL: none; draft_kernels NULL: as kernels */
    int threads, context_tokens, queue_max;
    char *kernels;
    int kv;                   /* enum engine_kv: f16, q8_0 */
    int64_t kv_bytes_max;
    int prefill_tokens, sparse_pages;
    bool invariant;
    /* peer */
    char *connect;            /* "tcp://host:7100", "ipc:///path" */
    char *server_key;         /* the other side's public key */
    /* upstream */
    char *url;                /* "http://127.0.0.1:8000/v1" */
    char *model;              /* name to ask for */
    char *key_file, *key_env; /* where the API key is */
    bool can_tools, can_json, can_parts, can_prefix; /* abilities; tools/json/parts true, prefix false by default */
    int first_token_ms, stall_ms, connect_ms; /* deadlines: 30000, 20000, 3000 */
    int retries_max;          /* 1 */
    char *ca_file;
    /* scripted (tests and benches) */
    char *script_text;        /* what it answers, a word a token; "" : "ok" */
    int script_delay_ms, script_fail_after; /* between tokens; fail after so many tokens (-1: never) */
    /* price, dollars a million tokens */
    struct policy_price price;
    bool has_price;           /* else the policy's for its tier */
};

struct config {
    char *file;               /* where it came from; NULL: defaults */
    enum tier tier;
    char *node;               /* node.id; default: tier-hostname */
    char *state_dir;          /* node.state_dir; default ".". Relative paths of state (pid_file, log_path, http.unix_path,
                                 http.tcp_url_file, zmq.ipc_path) come joined to it: do not join them again */
    char *pid_file;           /* node.pid_file; NULL: none */
    char *log_level;          /* node.log_level: debug info warn error */
    int drain_ms;             /* node.drain_ms: limit of a SIGTERM; 10000 */
    bool warm;                /* node.warm: engines generate a little before the node is ready; false */
    int requests_max;         /* node.requests_max: running and waiting together; 1024 */
    int64_t request_bytes_max;/* node.request_bytes_max: memory of one request; 8 MiB */
    int idempotency_ms;       /* node.idempotency_ms: how long an answer can be had again; 10 min, 0: never */
    int64_t idempotency_bytes_max; /* node.idempotency_bytes_max: of all such answers; 16 MiB */
    struct config_http http;
    struct config_zmq zmq;
    struct config_backend backends[CONFIG_BACKENDS_MAX];
    int backend_count;
    char *broker_connect;     /* worker.connect: the broker a `rung worker` serves */
    char *broker_key;         /* worker.server_key */
    char *router_file;        /* router.file; NULL: none, everything scores 0.5 */
    double stale_calibration, stale_unfamiliar; /* router.stale.*: bounds */
    int watch_ms;             /* router.watch_ms: how often the log is looked at */
    bool arms_promote;        /* arms.promote: auto */
    struct arms_rule arms_rule; /* arms.* */
    struct policy policy;     /* policy.*: seeds the policies table */
    bool accept_policy;       /* policy.accept_from_above */
    bool send_policy;         /* policy.send_below */
    char *log_path;           /* log.path; NULL: off */
    int64_t log_keep_days;    /* log.keep_days; 30 */
    int64_t log_keep_bytes;   /* log.keep_bytes; 1 GiB */
    bool log_prompts;         /* log.store_prompts; false */
    char *log_sketch_key_file; /* log.sketch_key_file; NULL: the log's own key */
    bool log_ship;            /* log.ship: send rows up; true at the edge and region */
    int heartbeat_ms;         /* health.heartbeat_ms; 1000 */
    int heartbeats_missed;    /* health.missed_max; 3 */
    int breaker_failures;     /* health.breaker_failures; 5 */
    int breaker_open_ms;      /* health.breaker_open_ms; 5000 */
};

/* Defaults of a tier. */
ERR_CHECKED enum err_code config_default(struct config **out, enum tier tier, struct err *e);
/* File over defaults, then the environment. `overrides` are "key=value" flags (dotted keys), may be NULL.
 * Errors: ERR_IO, ERR_SYNTAX (file:line), ERR_INVALID (key, got, wants, nearest). */
ERR_CHECKED enum err_code config_load(struct config **out, enum tier tier, const char *file,
                                      const char *const *overrides, int override_count, struct err *e);
/* The same, and every problem found is written to `problems`, a line each; where there is none so far, the files and folders
 * that it names are looked at too, with warnings for what a node starts without. For `rung check`. */
ERR_CHECKED enum err_code config_check(struct config **out, enum tier tier, const char *file,
                                       const char *const *overrides, int override_count, FILE *problems, struct err *e);
void config_free(struct config *config);
/* Names or numbers of users into uids; `key` names the list in the error. Errors: ERR_INVALID. */
ERR_CHECKED enum err_code config_uids(const struct config_list *list, const char *key, uid_t out[CONFIG_LIST_MAX], struct err *e);
/* A commented YAML file of every key that concerns a tier, with defaults; and the effective values of a config. */
void config_print_reference(FILE *out, enum tier tier);
void config_print_effective(FILE *out, const struct config *config);
/* docs/configuration.md's table. */
void config_print_markdown(FILE *out);

#endif
