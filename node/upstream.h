/* Private to the upstream backend: HTTP transfers on the loop (upstream_fetch.c), and what a service's refusals mean
 * (upstream_error.c).
 *
 * libcurl's callbacks only gather bytes; everything its owner hears comes after libcurl has returned, so that an owner
 * may stop any fetch from inside any callback.
 */
#ifndef RUNG_NODE_UPSTREAM_H
#define RUNG_NODE_UPSTREAM_H

#include "base/buf.h"
#include "base/err.h"
#include "node/backend.h"
#include "node/config.h"
#include "node/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- transfers ---- */

/* One service: its connections, kept open between requests, and the one descriptor the loop watches for all of them. */
struct fetch_pool;
struct fetch_pool_options {
    int connections_max;      /* open at once */
    const char *unix_path;    /* NULL: over TCP */
    const char *ca_file;      /* NULL: the system's */
    int connect_ms;
};
ERR_CHECKED enum err_code fetch_pool_new(struct fetch_pool **out, struct loop *loop, const struct fetch_pool_options *options,
                                         struct err *e);
/* Running fetches are stopped. May be called from inside a fetch's callback. */
void fetch_pool_free(struct fetch_pool *pool);

/* What the answer is so far; valid inside the callbacks. */
struct fetch_answer {
    int status;               /* HTTP; 0: none came */
    int64_t retry_after_ms;   /* 0: not said */
    enum err_code code;       /* of the transfer: ERR_OK, ERR_TIMEOUT (connecting), ERR_UPSTREAM (anything else) */
    const char *why;          /* why it failed, in libcurl's words */
    bool connected;           /* a connection stood, so bytes may have reached the service */
};
struct fetch_owner {
    void *ctx;
    void (*on_bytes)(void *ctx, const struct fetch_answer *answer, const char *data, size_t len);
    /* The last callback; the owner still gives the fetch back by fetch_stop(). */
    void (*on_complete)(void *ctx, const struct fetch_answer *answer);
};
struct fetch;
/* GET, or POST when `body` is not NULL (it must live until the fetch is stopped). `headers` are "Name: value" lines,
 * copied. Nothing is called back before this has returned. Errors: ERR_MEMORY, ERR_INVALID (the URL). */
ERR_CHECKED enum err_code fetch_start(struct fetch **out, struct fetch_pool *pool, const char *url,
                                      const char *const *headers, int header_count, const struct buf *body,
                                      const struct fetch_owner *owner, struct err *e);
/* No callback comes after this. A transfer that still runs is cut, and its connection closed. */
void fetch_stop(struct fetch *fetch);
/* The same, but what is left of the answer may still arrive for `grace_ms`, so that the connection can be used again.
 * `body` may be given back at once. */
void fetch_let_end(struct fetch *fetch, int grace_ms);

/* ---- health ---- */

enum { UPSTREAM_MODELS_BYTES_MAX = 4 << 20 };
/* Keeps backend->health and ->trouble up to date. Its owner sets the first three and inits `body`. */
struct upstream_probe {
    struct loop *loop;
    struct backend *backend;
    const struct config_backend *config;
    struct fetch_pool *pool;
    const char *base, *authorization; /* the owner's */
    struct fetch *fetch;              /* the probe on its way, or NULL */
    struct buf body;
    struct loop_timer timer, limit;
    int64_t answered_us;              /* when a request was last answered well: no need to ask then */
    bool model_missing;               /* told once */
};
void upstream_probe_begin(struct upstream_probe *probe, struct fetch_pool *pool, const char *base, const char *authorization);
void upstream_probe_release(struct upstream_probe *probe);
/* A request was answered well; a request could not even connect. */
void upstream_probe_answered(struct upstream_probe *probe);
void upstream_probe_failed(struct upstream_probe *probe, const char *why);

/* ---- keys ---- */

/* "Authorization: Bearer KEY" from key_file or key_env, to be freed; left alone where there is neither. Warns when
 * others can read the file. Errors: ERR_IO, ERR_INVALID (what is wrong with it), ERR_MEMORY. */
ERR_CHECKED enum err_code upstream_authorization(const struct config_backend *config, char **out, struct err *e);

/* ---- refusals ---- */

/* What an HTTP answer other than 200 means for a request. `body` is the first part of its body. Fills e->msg. */
enum err_code upstream_error(int status, const char *name, const char *body, size_t len, struct err *e);
/* Does a service's error object speak of too long a prompt? Any argument may be NULL. */
bool upstream_is_context_error(const char *message, const char *type, const char *code);
/* `Retry-After` (seconds, or an HTTP date) or `retry-after-ms`, whichever header line this is; 0 when it is neither,
 * or no good. At most an hour. */
int64_t upstream_retry_after_ms(const char *line, size_t len);

#endif
