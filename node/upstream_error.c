/* What a service's refusals mean: whose fault, and whether another backend may do better. */
#include "node/upstream.h"

#include "base/clock.h"
#include "proto/openai.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { RETRY_AFTER_MAX_S = 3600 };

/*   status from…to   code            what we say */
static const struct {
    int from, to;
    enum err_code code;
    const char *what;
} ROWS[] = {
    {300, 399, ERR_UPSTREAM, "redirects elsewhere, which is not followed; set the backend's url to the new place"},
    {401, 401, ERR_UPSTREAM, "refuses our API key; look at the backend's key_file or key_env"},
    {402, 402, ERR_UPSTREAM, "wants to be paid"},
    {403, 403, ERR_UPSTREAM, "does not allow our API key to do this"},
    {404, 404, ERR_UPSTREAM, "knows no such model or path; look at the backend's model and url"},
    {405, 405, ERR_UPSTREAM, "takes no such request at this path; look at the backend's url"},
    {408, 408, ERR_TIMEOUT, "gave up waiting"},
    {409, 409, ERR_UPSTREAM, "is in conflict with itself"},
    {413, 413, ERR_CONTEXT, "finds the request too large"},
    {425, 425, ERR_FULL, "asks to come again later"},
    {429, 429, ERR_FULL, "has no room now"},
    {400, 499, ERR_INVALID, "refuses the request"},
    {504, 504, ERR_TIMEOUT, "waited in vain for its own backend"},
    {500, 599, ERR_UPSTREAM, "failed"},
};

bool upstream_is_context_error(const char *message, const char *type, const char *code)
{
    static const char *const SIGNS[] = {"context_length", "context length", "context window", "context size",
                                        "exceed_context", "maximum context", "prompt is too long", "input is too long"};
    const char *const texts[] = {message, type, code};
    for (size_t t = 0; t < 3; t++)
        for (size_t i = 0; texts[t] && i < sizeof SIGNS / sizeof SIGNS[0]; i++)
            if (strcasestr(texts[t], SIGNS[i])) return true;
    return false;
}

/* A spent account is not a moment's fullness: waiting does not help. */
static bool is_spent(const char *body, size_t len)
{
    static const char *const SIGNS[] = {"insufficient_quota", "credit_balance", "spend_limit", "billing"};
    for (size_t i = 0; i < sizeof SIGNS / sizeof SIGNS[0]; i++)
        if (memmem(body, len, SIGNS[i], strlen(SIGNS[i]))) return true;
    return false;
}

static bool hides_body(int status)
{
    return status == 401 || status == 403; /* some services repeat the key there */
}

enum err_code upstream_error(int status, const char *name, const char *body, size_t len, struct err *e)
{
    enum err_code code = ERR_UPSTREAM;
    const char *what = "gave an answer that is none";
    for (size_t i = 0; i < sizeof ROWS / sizeof ROWS[0]; i++) {
        if (status < ROWS[i].from || status > ROWS[i].to) continue;
        code = ROWS[i].code;
        what = ROWS[i].what;
        break;
    }
    char said[128];
    openai_read_error(body, len, said, sizeof said);
    if (code == ERR_INVALID && len && memmem(body, len, "context", 7)) {
        char whole[2048];
        (void)snprintf(whole, sizeof whole, "%.*s", (int)(len < 2047 ? len : 2047), body);
        if (upstream_is_context_error(whole, NULL, NULL)) code = ERR_CONTEXT, what = "finds the prompt too long";
    }
    if (code == ERR_FULL && is_spent(body, len)) code = ERR_UPSTREAM, what = "says that our account there is spent";
    if (hides_body(status) || !said[0]) return err_set(e, code, "%.64s %s (HTTP %d)", name, what, status);
    return err_set(e, code, "%.64s %s (HTTP %d): %s", name, what, status, said);
}

/* The value of a header line of this name, or NULL. */
static const char *header_value(const char *line, size_t len, const char *name, char out[64])
{
    size_t n = strlen(name);
    if (len <= n || strncasecmp(line, name, n) != 0 || line[n] != ':') return NULL;
    const char *from = line + n + 1, *end = line + len;
    while (from < end && (*from == ' ' || *from == '\t')) from++;
    while (end > from && (end[-1] == '\r' || end[-1] == '\n' || end[-1] == ' ')) end--;
    if (from == end || end - from > 63) return NULL;
    (void)snprintf(out, 64, "%.*s", (int)(end - from), from);
    return out;
}

static int64_t bounded_ms(double ms)
{
    if (!(ms > 0)) return 0;
    return ms > RETRY_AFTER_MAX_S * 1000.0 ? RETRY_AFTER_MAX_S * 1000 : (int64_t)ms;
}

int64_t upstream_retry_after_ms(const char *line, size_t len)
{
    char text[64], *end;
    double scale = 1000;
    if (header_value(line, len, "retry-after-ms", text)) scale = 1;
    else if (!header_value(line, len, "retry-after", text)) return 0;
    double value = strtod(text, &end);
    if (!*end) return bounded_ms(value * scale);
    time_t when = curl_getdate(text, NULL);
    return when < 0 ? 0 : bounded_ms((double)when * 1000 - (double)clock_wall_ms());
}
