/* A request's path and headers: which endpoint, who asks, under which limits. */
#include "node/http.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- paths ---- */

struct route {
    const char *path; /* without /v1 */
    enum http_endpoint endpoint;
    bool post, open;  /* open: no key is asked */
};
static const struct route ROUTES[] = {
    {"/chat/completions", HTTP_CHAT, true, false}, {"/completions", HTTP_COMPLETION, true, false},
    {"/models", HTTP_MODELS, false, false},        {"/feedback", HTTP_FEEDBACK, true, false},
    {"/health", HTTP_HEALTH, false, true},         {"/ready", HTTP_READY, false, true},
    {"/rung/policy", HTTP_POLICY, false, false},   {"/rung/command", HTTP_POLICY_SET, true, false},
    {"/metrics", HTTP_METRICS, false, false},      {"/models/", HTTP_MODEL, false, false}, /* and more */
};

static const struct route *route_find(const char *url, const char **rest)
{
    if (strncmp(url, "/v1/", 4) == 0) url += 3;
    for (size_t i = 0; i < sizeof ROUTES / sizeof *ROUTES; i++) {
        size_t len = strlen(ROUTES[i].path);
        bool prefix = ROUTES[i].path[len - 1] == '/';
        if (strncmp(url, ROUTES[i].path, len) != 0 || (!prefix && url[len]) || (prefix && !url[len])) continue;
        *rest = url + len;
        return &ROUTES[i];
    }
    return NULL;
}

/* ---- headers ---- */

struct header {
    const char *name;
    size_t offset; /* in struct http_head */
};
#define HEAD(member) offsetof(struct http_head, member)
static const struct header HEADERS[] = {
    {"Host", HEAD(host)},
    {"Content-Length", HEAD(length)},
    {"Expect", HEAD(expect)},
    {"Authorization", HEAD(authorization)},
    {"X-Api-Key", HEAD(api_key)},
    {"Origin", HEAD(origin)},
    {"X-Request-Id", HEAD(request_id)},
    {"Idempotency-Key", HEAD(idempotency)},
    {"traceparent", HEAD(traceparent)},
    {"x-rung-max-tier", HEAD(max_tier)},
    {"x-rung-privacy", HEAD(privacy)},
    {"x-rung-deadline-ms", HEAD(deadline)},
    {"x-rung-conversation", HEAD(conversation)},
};

struct reading {
    struct http_head *head;
    struct err *e;
    enum err_code code;
};

static enum MHD_Result read_header(void *ctx, enum MHD_ValueKind kind, const char *name, const char *value)
{
    (void)kind;
    struct reading *r = ctx;
    for (size_t i = 0; i < sizeof HEADERS / sizeof *HEADERS; i++) {
        if ((name[0] | 32) != (HEADERS[i].name[0] | 32) || strcasecmp(name, HEADERS[i].name) != 0) continue;
        const char **place = (const char **)((char *)r->head + HEADERS[i].offset);
        if (*place && r->code == ERR_OK)
            r->code = err_set_param(r->e, ERR_INVALID, HEADERS[i].name, "the header %s is given twice", HEADERS[i].name);
        *place = value ? value : "";
        return MHD_YES;
    }
    if (strncasecmp(name, "x-rung-", 7) == 0 && r->code == ERR_OK)
        r->code = err_set_param(r->e, ERR_INVALID, "x-rung-",
                                "the header %.40s is not one of ours: x-rung-max-tier, x-rung-privacy, "
                                "x-rung-deadline-ms, x-rung-conversation", name);
    return MHD_YES;
}

static bool whole_number(const char *text, int64_t low, int64_t high, int64_t *out)
{
    char *end = NULL;
    if (text[0] < '0' || text[0] > '9' || strlen(text) > 18) return false;
    *out = strtoll(text, &end, 10);
    return *end == 0 && *out >= low && *out <= high;
}

static enum err_code wrong(struct err *e, const char *name, const char *value, const char *wants)
{
    return err_set_param(e, ERR_INVALID, name, "the header %s is '%.40s'; it should be %s", name, value, wants);
}

/* Printable ASCII of bounded length: it ends up in logs and on the wire. */
static bool plain_word(const char *text, size_t max)
{
    size_t len = 0;
    for (; text[len]; len++)
        if (len == max || text[len] <= 0x20 || text[len] == 0x7f) return false;
    return len > 0;
}

/* An id we echo and nothing else: letters, digits and .:_- */
static bool sane_id(const char *text)
{
    size_t len = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:-");
    return len > 0 && len <= 128 && text[len] == 0;
}

/* 00-<32 hex>-<16 hex>-<2 hex>, not all zero (W3C Trace Context, section 3.2.2). One that is malformed is ignored,
 * as that section asks. */
static bool sane_trace(const char *text)
{
    static const int PARTS[] = {2, 32, 16, 2};
    for (size_t i = 0; i < 4; i++) {
        int digits = (int)strspn(text, "0123456789abcdef");
        int zeros = (int)strspn(text, "0");
        if (digits != PARTS[i] || text[digits] != (i < 3 ? '-' : 0)) return false;
        if ((i == 1 || i == 2) && zeros >= digits) return false;
        text += digits + (i < 3);
    }
    return true;
}

static enum err_code read_limits(struct http_head *h, struct err *e)
{
    if (h->length && !whole_number(h->length, 0, INT64_MAX, &h->content_length))
        return wrong(e, "Content-Length", h->length, "a whole number");
    if (h->max_tier && (h->tier = tier_from_name(h->max_tier)) == TIER_NONE)
        return wrong(e, "x-rung-max-tier", h->max_tier, "edge, region or core");
    if (h->privacy && strcmp(h->privacy, "device") != 0) return wrong(e, "x-rung-privacy", h->privacy, "device");
    h->device_private = h->privacy != NULL;
    if (h->deadline && !whole_number(h->deadline, 1, 86400000, &h->deadline_ms))
        return wrong(e, "x-rung-deadline-ms", h->deadline, "whole milliseconds from 1 to 86400000");
    if (h->conversation && !plain_word(h->conversation, 128))
        return wrong(e, "x-rung-conversation", h->conversation, "1 to 128 visible characters");
    if (h->idempotency && !plain_word(h->idempotency, 128))
        return wrong(e, "Idempotency-Key", h->idempotency, "1 to 128 visible characters");
    if (h->request_id && !sane_id(h->request_id)) h->request_id = NULL;
    if (h->traceparent && !sane_trace(h->traceparent)) h->traceparent = NULL;
    return ERR_OK;
}

/* ---- who asks ---- */

static enum err_code check_place(struct http_head *h, const struct http_conn *conn, struct err *e)
{
    const struct http_door *door = conn->door;
    if (conn->refused) return err_set(e, ERR_FORBIDDEN, "this user may not use this socket (http.unix.uids)");
    /* A name rebound to our address would make a browser send its page's requests here. Past loopback there are names
     * we cannot know, and a key is asked anyway. */
    if (door->tcp && door->listen.loopback && (!h->host || !http_host_allowed(h->host, door->listen.bound)))
        return err_set(e, ERR_FORBIDDEN, "the Host '%.60s' is not this machine's: use localhost, 127.0.0.1 or [::1]",
                       h->host ? h->host : "");
    if (!h->origin) return ERR_OK;
    if (!http_origin_allowed(h->origin, door->tcp ? h->host : NULL, &door->front->node->config->http.origins))
        return err_set(e, ERR_FORBIDDEN, "pages of the origin '%.80s' may not ask here (http.origins)", h->origin);
    h->cors = h->origin;
    return ERR_OK;
}

static enum err_code check_key(struct http_head *h, const struct http_conn *conn, struct err *e)
{
    const struct http_front *front = conn->door->front;
    if (!conn->door->tcp || !front->node->config->http.tcp_auth) return ERR_OK;
    const char *key = h->api_key;
    if (h->authorization && strncasecmp(h->authorization, "Bearer ", 7) == 0)
        key = h->authorization + 7 + strspn(h->authorization + 7, " ");
    h->tenant = http_keys_tenant(&front->keys, key);
    if (h->tenant) return ERR_OK;
    return err_set(e, ERR_AUTH, key ? "the key is not one of this node's (http.tcp.keys_file)"
                                    : "a key is wanted: Authorization: Bearer KEY");
}

enum err_code http_head_read(struct http_head *out, const struct http_conn *conn, struct MHD_Connection *mhd,
                             const char *url, const char *method, struct err *e)
{
    *out = (struct http_head){.content_length = -1, .tier = TIER_NONE};
    struct reading r = {out, e, ERR_OK};
    (void)MHD_get_connection_values(mhd, MHD_HEADER_KIND, read_header, &r);
    enum err_code code = check_place(out, conn, e);
    if (code != ERR_OK) return code;
    if (r.code != ERR_OK) return r.code;
    out->preflight = out->cors && strcmp(method, "OPTIONS") == 0;
    const struct route *route = route_find(url, &out->model);
    if (!route) return err_set(e, ERR_NOT_FOUND, "nothing is served at %.80s", url);
    out->allow = route->post ? "POST" : "GET, HEAD";
    if (out->preflight) return ERR_OK;
    if (!route->open) code = check_key(out, conn, e);
    if (code != ERR_OK) return code;
    bool fits = route->post ? strcmp(method, "POST") == 0 : strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
    if (!fits) return err_set(e, ERR_METHOD, "%.60s takes %s, not %.16s", url, out->allow, method);
    out->endpoint = route->endpoint;
    code = read_limits(out, e);
    int64_t most = conn->door->front->node->config->http.body_bytes_max;
    if (code == ERR_OK && out->content_length > most)
        code = err_set(e, ERR_TOO_LARGE, "a body of %lld bytes; at most %lld are taken (http.body_bytes_max)",
                       (long long)out->content_length, (long long)most);
    return code;
}

static bool copy_word(struct msg_submit *submit, const char *word, const char **place)
{
    if (!word) return true;
    *place = arena_strdup(&submit->arena, word);
    return *place != NULL;
}

bool http_head_apply(const struct http_head *h, struct msg_submit *submit)
{
    if (h->tier != TIER_NONE) submit->max_tier = h->tier;
    if (h->device_private) submit->device_private = true;
    if (h->deadline_ms) submit->deadline_ms = h->deadline_ms;
    return copy_word(submit, h->tenant, &submit->tenant) && copy_word(submit, h->conversation, &submit->conversation) &&
           copy_word(submit, h->idempotency, &submit->idempotency) &&
           copy_word(submit, h->traceparent, &submit->traceparent);
}
