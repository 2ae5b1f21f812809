/* A small client of a node's HTTP front for `rung ask`, `chat`, `status` and `models`: libcurl over the node's Unix
 * socket, or over a URL. One thread, blocking; ending the program closes the connection, which cancels the request.
 */
#ifndef RUNG_CLI_CLIENT_H
#define RUNG_CLI_CLIENT_H

#include "base/buf.h"
#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>

/* Where the node is, as the options said it; all may be NULL. */
struct client_options {
    const char *socket;   /* --socket PATH; else RUNG_SOCKET */
    const char *url;      /* --url URL; else RUNG_URL */
    const char *key_file; /* --key-file FILE, for a URL that wants a bearer key; else RUNG_KEY holds it */
};
/* The help text of those options, for every command's --help. */
extern const char CLIENT_HELP[];

struct client;
/* Finds the node: the options, else the environment, else edge.sock here or /run/rung/edge.sock. Errors: ERR_INVALID,
 * ERR_IO (the key file), ERR_MEMORY. */
ERR_CHECKED enum err_code client_new(struct client **out, const struct client_options *options, struct err *e);
void client_free(struct client *client);
/* Where it talks to, for messages: a path or a URL. */
const char *client_where(const struct client *client);

/* One request; `body` NULL: GET. `headers` are NAME: VALUE lines. The whole answer comes into `out` (bounded by its
 * limit) whatever its status. Errors: ERR_UNAVAILABLE (nobody answers there), ERR_TOO_LARGE, ERR_IO. */
ERR_CHECKED enum err_code client_request(struct client *client, const char *path, const char *body,
                                         const char *const *headers, int header_count, int *status, struct buf *out,
                                         struct err *e);
/* The node's error object in a body as one sentence; else a short form of the body. */
void client_error_text(const struct buf *body, int status, char *out, size_t size);

/* A streamed chat completion. `request` gets `stream` set. on_text is called for each piece as it comes. */
struct client_answer {
    struct buf text;    /* all content */
    char finish[32];
    json_t *rung;       /* the decision, or NULL */
    json_t *usage;      /* or NULL */
    char model[256];
    double first_ms, total_ms; /* as seen from here; first_ms 0: nothing was shown */
};
void client_answer_init(struct client_answer *answer);
void client_answer_release(struct client_answer *answer);
typedef void client_text_fn(void *ctx, bool reasoning, const char *text);
/* Errors: as client_request(), and what the node or its stream told as an error (e->msg is its sentence). What came
 * before an error stays in `answer`. */
ERR_CHECKED enum err_code client_chat(struct client *client, json_t *request, const char *const *headers,
                                      int header_count, struct client_answer *answer, client_text_fn *on_text, void *ctx,
                                      struct err *e);
/* "edge (device): confident, $0.000012, 12 ms to the first token, 140 ms in all". */
void client_decision_text(const struct client_answer *answer, char *out, size_t size);

#endif
