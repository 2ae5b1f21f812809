/* Errors, as every room reports them.
 *
 * A fallible function returns `enum err_code` and, where the caller passed one, fills a `struct err` with a
 * sentence that says what was wrong, where, and what would be right. `struct err` is left untouched on success.
 * One row of ERR_TABLE per code: name, text, HTTP status, OpenAI error type, whether the same request may be tried
 * elsewhere.
 */
#ifndef RUNG_BASE_ERR_H
#define RUNG_BASE_ERR_H

#include <stdbool.h>
#include <stdint.h>

/*        code             name                 text                                  http  OpenAI type                retry */
#define ERR_TABLE(X)                                                                                                         \
    X(ERR_OK,            "ok",                "no error",                              200, "none",                    false) \
    X(ERR_INVALID,       "invalid_request",   "the request is not valid",              400, "invalid_request_error",   false) \
    X(ERR_SYNTAX,        "syntax",            "the text does not parse",               400, "invalid_request_error",   false) \
    X(ERR_UNSUPPORTED,   "unsupported",       "not supported here",                    400, "invalid_request_error",   true)  \
    X(ERR_CONTEXT,       "context_length_exceeded", "the prompt is too long for the model", 400, "invalid_request_error", true) \
    X(ERR_AUTH,          "invalid_api_key",   "no valid key was given",                401, "authentication_error",    false) \
    X(ERR_FORBIDDEN,     "forbidden",         "not allowed",                           403, "permission_error",        false) \
    X(ERR_NOT_FOUND,     "not_found",         "no such thing",                         404, "invalid_request_error",   false) \
    X(ERR_METHOD,        "method_not_allowed", "that method is not served here",       405, "invalid_request_error",   false) \
    X(ERR_CONFLICT,      "conflict",          "not in the state that was asked for",   409, "conflict_error",          false) \
    X(ERR_KEY_REUSED,    "idempotency_key_reused", "the key was used for another request", 422, "idempotency_error",    false) \
    X(ERR_TOO_LARGE,     "too_large",         "larger than the limit",                 413, "invalid_request_error",   false) \
    X(ERR_FULL,          "overloaded",        "the queue is full",                     429, "rate_limit_error",        true)  \
    X(ERR_BUDGET,        "insufficient_quota", "the tenant's budget is spent",         429, "insufficient_quota",      false) \
    X(ERR_CANCELLED,     "cancelled",         "the client went away",                  499, "cancelled",               false) \
    X(ERR_INTERNAL,      "internal",          "an error of our own",                   500, "server_error",            true)  \
    X(ERR_MEMORY,        "out_of_memory",     "out of memory",                         503, "server_error",            true)  \
    X(ERR_IO,            "io",                "reading or writing failed",             503, "server_error",            true)  \
    X(ERR_CORRUPT,       "corrupt",           "the data is damaged",                   503, "server_error",            true)  \
    X(ERR_VERSION,       "version",           "a version this program does not know",  503, "server_error",            false) \
    X(ERR_UPSTREAM,      "bad_gateway",       "the service behind gave a bad answer",  502, "server_error",            true)  \
    X(ERR_UNAVAILABLE,   "unavailable",       "no live backend can answer",            503, "unavailable_error",       true)  \
    X(ERR_DRAINING,      "draining",          "this node is stopping",                 503, "unavailable_error",       true)  \
    X(ERR_TIMEOUT,       "timeout",           "the deadline passed",                   504, "timeout_error",           true)

enum err_code {
#define X(code, name, text, http, type, retry) code,
    ERR_TABLE(X)
#undef X
    ERR_CODES
};

struct err {
    enum err_code code;
    char msg[240];
    char param[64]; /* the field at fault, or "" */
};

#define ERR_CHECKED __attribute__((warn_unused_result))

/* One row of the table. An unknown code gives the row of ERR_INTERNAL. */
const char *err_name(enum err_code code);
const char *err_text(enum err_code code);
int err_http_status(enum err_code code);
const char *err_openai_type(enum err_code code);
bool err_retryable(enum err_code code);
/* The code of a name (as it came over the wire); ERR_INTERNAL when unknown. */
enum err_code err_from_name(const char *name);

/* Fill `e` (may be NULL) and return `code`, so that a caller can write `return err_set(e, ERR_IO, "…", …)`. */
enum err_code err_set(struct err *e, enum err_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same with the field at fault. */
enum err_code err_set_param(struct err *e, enum err_code code, const char *param, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#endif
