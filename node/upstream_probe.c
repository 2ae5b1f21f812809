/* Whether a service is up: GET …/models while it is down or idle. A good answer to a request tells the same, so a busy
 * service is not asked. */
#include "node/upstream.h"

#include "base/clock.h"
#include "base/textlog.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum {
    ANSWER_MS = 5000, /* for an answer to a probe, beside connecting */
    DOWN_MS = 2000, IDLE_MS = 15000
};

static void probe_later(struct upstream_probe *p, int after_ms);

/* A text cut by its buffer may end inside a character; it goes into JSON. */
static void drop_cut_character(char *text)
{
    size_t len = strlen(text), tail = 0;
    while (tail < 4 && tail < len && ((unsigned char)text[len - 1 - tail] & 0xc0) == 0x80) tail++;
    if (tail == len) return;
    unsigned char lead = (unsigned char)text[len - 1 - tail];
    size_t want = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : lead >= 0xc0 ? 1 : 0;
    if (tail < want) text[len - 1 - tail] = '\0';
}

static void upstream_health(struct upstream_probe *p, enum backend_health health, const char *why)
{
    struct backend *b = p->backend;
    char quoted[200];
    if (health != b->health && health == BACKEND_UP) textlog(TEXTLOG_INFO, "upstream_up", "backend=%s", b->name);
    if (health != b->health && health == BACKEND_DOWN)
        textlog(TEXTLOG_WARN, "upstream_down", "backend=%s why=%s", b->name, textlog_quote(why, quoted, sizeof quoted));
    b->health = health;
    (void)snprintf(b->trouble, sizeof b->trouble, "%s", why);
    drop_cut_character(b->trouble);
}

static void probe_over(struct upstream_probe *p)
{
    loop_timer_stop(p->loop, &p->limit);
    fetch_stop(p->fetch);
    p->fetch = NULL;
    buf_clear(&p->body);
    probe_later(p, p->backend->health == BACKEND_UP ? IDLE_MS : DOWN_MS);
}

/* Its name as we ask for it, or with Ollama's ":latest". */
static bool is_model(const char *id, const char *model)
{
    size_t len = strlen(model);
    return strncmp(id, model, len) == 0 && (!id[len] || strcmp(id + len, ":latest") == 0);
}

/* Does the list name our model? A body that is no such list tells nothing: true. */
static bool lists_model(const struct upstream_probe *p, char *others, size_t size)
{
    json_t *root = json_loadb(p->body.data, p->body.len, 0, NULL);
    const json_t *data = json_object_get(root, "data");
    bool found = !json_is_array(data) || json_array_size(data) == 0;
    size_t used = 0;
    others[0] = '\0';
    for (size_t i = 0; i < json_array_size(data) && !found; i++) {
        const char *id = json_string_value(json_object_get(json_array_get(data, i), "id"));
        if (!id) continue;
        found = is_model(id, p->config->model);
        if (used + strlen(id) + 3 < size) used += (size_t)snprintf(others + used, size - used, "%s%s", used ? ", " : "", id);
    }
    json_decref(root);
    return found;
}

/* Some services answer to names that they do not list, so this only warns. */
static void check_model(struct upstream_probe *p)
{
    char others[80], quoted[200], why[160];
    bool listed = lists_model(p, others, sizeof others);
    why[0] = '\0';
    if (!listed)
        (void)snprintf(why, sizeof why, "does not list model %.48s; it lists %.80s", p->config->model, others);
    if (!listed && !p->model_missing)
        textlog(TEXTLOG_WARN, "upstream_model", "backend=%s why=%s", p->backend->name,
                textlog_quote(why, quoted, sizeof quoted));
    p->model_missing = !listed;
    upstream_health(p, BACKEND_UP, why);
}

static void on_probe_bytes(void *ctx, const struct fetch_answer *answer, const char *data, size_t len)
{
    struct upstream_probe *p = ctx;
    (void)answer;
    (void)!buf_add(&p->body, data, len); /* a longer list is not read */
}

static void on_probe_complete(void *ctx, const struct fetch_answer *answer)
{
    struct upstream_probe *p = ctx;
    char why[160];
    struct err e = {0};
    int status = answer->status;
    if (answer->code != ERR_OK) {
        (void)snprintf(why, sizeof why, "cannot be reached: %.120s", answer->why);
        upstream_health(p, BACKEND_DOWN, why);
    } else if (status == 200) {
        check_model(p);
    } else if (status == 401 || status == 407 || status >= 500 || (status >= 300 && status < 400)) {
        (void)upstream_error(status, "the service", p->body.data, p->body.len, &e);
        upstream_health(p, BACKEND_DOWN, e.msg);
    } else {
        upstream_health(p, BACKEND_UP, ""); /* it lives, and has no such list (404), or not for us (403, 429) */
    }
    probe_over(p);
}

static void on_probe_limit(void *ctx)
{
    struct upstream_probe *p = ctx;
    char why[96];
    (void)snprintf(why, sizeof why, "did not list its models within %d ms", p->config->connect_ms + ANSWER_MS);
    upstream_health(p, BACKEND_DOWN, why);
    probe_over(p);
}

static void on_probe(void *ctx)
{
    struct upstream_probe *p = ctx;
    bool fresh = p->answered_us && clock_mono_us() - p->answered_us < (int64_t)IDLE_MS * 1000;
    if (p->fetch || (fresh && p->backend->health == BACKEND_UP)) {
        if (!p->fetch) probe_later(p, IDLE_MS);
        return;
    }
    char url[4352];
    const char *headers[2] = {"Accept: application/json"};
    int count = 1;
    struct err e = {0};
    if (p->authorization) headers[count++] = p->authorization;
    (void)snprintf(url, sizeof url, "%s/models", p->base);
    const struct fetch_owner owner = {p, on_probe_bytes, on_probe_complete};
    if (fetch_start(&p->fetch, p->pool, url, headers, count, NULL, &owner, &e) != ERR_OK) {
        probe_later(p, DOWN_MS);
        return;
    }
    loop_timer_start(p->loop, &p->limit, p->config->connect_ms + ANSWER_MS, on_probe_limit, p);
}

static void probe_later(struct upstream_probe *p, int after_ms)
{
    loop_timer_start(p->loop, &p->timer, after_ms, on_probe, p);
}

/* ---- its owner ---- */

void upstream_probe_begin(struct upstream_probe *p, struct fetch_pool *pool, const char *base, const char *authorization)
{
    p->pool = pool;
    p->base = base;
    p->authorization = authorization;
    probe_later(p, 0);
}

void upstream_probe_release(struct upstream_probe *p)
{
    loop_timer_stop(p->loop, &p->timer);
    loop_timer_stop(p->loop, &p->limit);
    if (p->fetch) fetch_stop(p->fetch);
    p->fetch = NULL;
    buf_release(&p->body);
}

void upstream_probe_answered(struct upstream_probe *p)
{
    p->answered_us = clock_mono_us();
    if (p->backend->health != BACKEND_UP) upstream_health(p, BACKEND_UP, "");
}

void upstream_probe_failed(struct upstream_probe *p, const char *why)
{
    upstream_health(p, BACKEND_DOWN, why);
    if (!p->fetch) probe_later(p, DOWN_MS);
}
