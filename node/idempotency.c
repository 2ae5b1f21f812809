/* An entry is one key of one tenant: the request it stands for, who is told of it, and what was told so far. */
#include "node/idempotency.h"
#include "node/request.h"

#include "base/clock.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 1024, KEPT_MAX = 4096, ANSWERS = 16 /* one answer may take this share of all memory */, HASH = 16 };
#define LISTENER_BIT (1ull << 62) /* of a handle: a listener's, not a request's */

struct entry;
struct listener { /* one client: the first, or a repeat */
    struct listener *next;
    struct entry *entry;
    uint64_t handle;
    struct sink sink;
    struct loop_timer timer, deadline; /* of a repeat: until it has caught up; its own limit */
    bool caught_up, differs; /* differs: it asks for something else under the same key */
};
struct entry {
    struct entry *hash_next, *kept_next;
    struct idempotency *keys;
    struct listener *listeners;
    uint64_t handle;           /* of the request; 0: ended well */
    struct buf told;           /* messages, each behind its length */
    bool too_large;
    double price_core_usd;     /* of DONE, which does not carry it on the wire */
    int64_t created_s, kept_us; /* when it came; when it ended */
    unsigned char name[HASH], body[HASH]; /* of tenant and key; of what was asked */
};
struct idempotency {
    struct node *node;
    struct entry *buckets[BUCKETS];
    struct entry *kept_first, **kept_last; /* ended, oldest first */
    int kept;
    size_t bytes;              /* of all that was told */
    uint64_t last_handle;
    struct loop_timer timer;   /* the oldest is forgotten */
};

/* ---- entries ---- */

static struct entry **place_of(struct idempotency *keys, const unsigned char name[HASH])
{
    size_t bucket;
    memcpy(&bucket, name, sizeof bucket);
    struct entry **p = &keys->buckets[bucket % BUCKETS];
    while (*p && memcmp((*p)->name, name, HASH) != 0) p = &(*p)->hash_next;
    return p;
}

static void entry_free(struct entry *entry)
{
    struct idempotency *keys = entry->keys;
    struct entry **p = place_of(keys, entry->name);
    if (*p == entry) *p = entry->hash_next;
    keys->bytes -= entry->told.len;
    buf_release(&entry->told);
    free(entry);
}

/* One that somebody is about to be told again stays for now. False: there is no other. */
static bool forget_oldest(struct idempotency *keys)
{
    struct entry **p = &keys->kept_first;
    while (*p && (*p)->listeners) p = &(*p)->kept_next;
    struct entry *entry = *p;
    if (!entry) return false;
    *p = entry->kept_next;
    if (keys->kept_last == &entry->kept_next) keys->kept_last = p;
    keys->kept--;
    entry_free(entry);
    return true;
}

static void on_oldest(void *ctx)
{
    struct idempotency *keys = ctx;
    int64_t keep_us = (int64_t)keys->node->config->idempotency_ms * 1000, now = loop_now_us(keys->node->loop);
    while (keys->kept_first && keys->kept_first->kept_us + keep_us <= now && forget_oldest(keys)) continue;
    if (!keys->kept_first) return;
    int64_t left_ms = (keys->kept_first->kept_us + keep_us - now) / 1000;
    loop_timer_start(keys->node->loop, &keys->timer, left_ms > 0 ? left_ms + 1 : 1, on_oldest, keys);
}

static void keep(struct entry *entry)
{
    struct idempotency *keys = entry->keys;
    entry->handle = 0;
    entry->kept_us = loop_now_us(keys->node->loop);
    entry->kept_next = NULL;
    *keys->kept_last = entry;
    keys->kept_last = &entry->kept_next;
    if (++keys->kept > KEPT_MAX) (void)forget_oldest(keys);
    if (!keys->timer.slot) on_oldest(keys);
}

/* ---- what is told, and kept ---- */

static void record(struct entry *entry, enum msg_type type, const void *body)
{
    struct idempotency *keys = entry->keys;
    size_t most = (size_t)keys->node->config->idempotency_bytes_max, before = entry->told.len;
    uint32_t len = 0;
    if (entry->too_large) return;
    buf_add(&entry->told, &len, sizeof len);
    bool good = msg_encode(type, body, &entry->told, NULL) == ERR_OK && buf_ok(&entry->told);
    len = (uint32_t)(entry->told.len - before - sizeof len);
    if (good) memcpy(entry->told.data + before, &len, sizeof len);
    keys->bytes += entry->told.len - before;
    while (keys->bytes > most && forget_oldest(keys)) continue;
    if (good && keys->bytes <= most) return;
    keys->bytes -= entry->told.len;
    buf_release(&entry->told);
    entry->too_large = true;
}

static void tell(const struct listener *l, enum msg_type type, const void *body)
{
    switch (type) {
    case MSG_START: l->sink.on_start(l->sink.ctx, body); break;
    case MSG_TOKEN: l->sink.on_token(l->sink.ctx, body); break;
    case MSG_DONE: l->sink.on_done(l->sink.ctx, body); break;
    default: l->sink.on_error(l->sink.ctx, body); break;
    }
}

static void tell_all(struct entry *entry, enum msg_type type, const void *body)
{
    for (const struct listener *l = entry->listeners; l; l = l->next)
        if (l->caught_up) tell(l, type, body);
}

static void on_start(void *ctx, const struct msg_start *start)
{
    struct entry *entry = ctx;
    struct msg_start dated = *start;
    dated.created_s = entry->created_s;
    record(entry, MSG_START, start);
    tell_all(entry, MSG_START, &dated);
}

static void on_token(void *ctx, const struct msg_token *token)
{
    record(ctx, MSG_TOKEN, token);
    tell_all(ctx, MSG_TOKEN, token);
}

static void listener_remove(struct listener *l)
{
    struct listener **p = &l->entry->listeners;
    while (*p != l) p = &(*p)->next;
    *p = l->next;
    loop_timer_stop(l->entry->keys->node->loop, &l->timer);
    loop_timer_stop(l->entry->keys->node->loop, &l->deadline);
}

/* Out of the list first: its sink may begin anew. */
static void listener_end(struct listener *l, enum msg_type type, const void *body)
{
    listener_remove(l);
    tell(l, type, body);
    free(l);
}

static struct listener *first_caught_up(const struct entry *entry)
{
    struct listener *l = entry->listeners;
    while (l && !l->caught_up) l = l->next;
    return l;
}

static void on_done(void *ctx, const struct msg_done *done)
{
    struct entry *entry = ctx;
    record(entry, MSG_DONE, done);
    entry->price_core_usd = done->price_core_usd;
    keep(entry);
    for (struct listener *l; (l = first_caught_up(entry));) listener_end(l, MSG_DONE, done);
}

static void on_error(void *ctx, const struct msg_error *error)
{
    struct entry *entry = ctx;
    while (entry->listeners) listener_end(entry->listeners, MSG_ERROR, error);
    entry_free(entry);
}

/* ---- repeats ---- */

static void tell_again(const struct listener *l, const struct msg *msg)
{
    switch (msg->type) {
    case MSG_START: {
        struct msg_start start = msg->body.start;
        start.created_s = l->entry->created_s;
        tell(l, MSG_START, &start);
        break;
    }
    case MSG_TOKEN: tell(l, MSG_TOKEN, &msg->body.token); break;
    default: break; /* DONE is told by catch_up(), which lets go of the listener */
    }
}

/* Nobody is left who wants the answer. */
static void stop_if_alone(struct entry *entry)
{
    if (entry->listeners || !entry->handle) return;
    request_cancel(entry->keys->node, entry->handle);
    entry_free(entry);
}

static void refuse(struct listener *l)
{
    struct entry *entry = l->entry;
    const struct msg_error reused = {.code = ERR_KEY_REUSED, .param = "idempotency-key",
        .message = "this idempotency key was used for another request; send that one again, or take a new key"};
    const struct msg_error large = {.code = ERR_CONFLICT, .param = "idempotency-key",
        .message = "the answer under this idempotency key is too large to be repeated (node.idempotency_bytes_max)"};
    listener_end(l, MSG_ERROR, l->differs ? &reused : &large);
    stop_if_alone(entry);
}

/* All that was told so far; then it is one of those that are told. */
static void catch_up(void *ctx)
{
    struct listener *l = ctx;
    const struct buf *told = &l->entry->told;
    struct msg msg = {0};
    l->caught_up = true;
    if (l->differs || l->entry->too_large) {
        refuse(l);
        return;
    }
    for (size_t at = 0; at < told->len;) {
        uint32_t len;
        memcpy(&len, told->data + at, sizeof len);
        at += sizeof len;
        msg_release(&msg);
        if (msg_decode(&msg, told->data + at, len, NULL) != ERR_OK) break; /* cannot be: our own bytes */
        at += len;
        tell_again(l, &msg);
    }
    if (msg.type == MSG_DONE) {
        msg.body.done.price_core_usd = l->entry->price_core_usd;
        listener_end(l, MSG_DONE, &msg.body.done);
    }
    msg_release(&msg);
}

static void on_deadline(void *ctx)
{
    struct listener *l = ctx;
    struct entry *entry = l->entry;
    listener_end(l, MSG_ERROR, &(struct msg_error){.code = ERR_TIMEOUT, .message = "the deadline of this repeat passed"});
    stop_if_alone(entry);
}

static uint64_t listen_to(struct entry *entry, const struct sink *sink, bool first)
{
    struct listener *l = calloc(1, sizeof *l);
    if (!l) return 0;
    *l = (struct listener){.next = entry->listeners, .entry = entry, .sink = *sink, .caught_up = first};
    l->handle = ++entry->keys->last_handle | LISTENER_BIT;
    entry->listeners = l;
    if (!first) loop_timer_start(entry->keys->node->loop, &l->timer, 0, catch_up, l);
    return l->handle;
}

/* ---- entering ---- */

static void hash_name(const struct msg_submit *s, unsigned char out[HASH])
{
    crypto_generichash_state state;
    const char *tenant = s->tenant ? s->tenant : "";
    (void)crypto_generichash_init(&state, NULL, 0, HASH);
    (void)crypto_generichash_update(&state, (const unsigned char *)tenant, strlen(tenant) + 1);
    (void)crypto_generichash_update(&state, (const unsigned char *)s->idempotency, strlen(s->idempotency));
    (void)crypto_generichash_final(&state, out, HASH);
}

/* Of all that was asked; what a client's second try may well have otherwise does not count. */
static enum err_code hash_body(const struct msg_submit *s, unsigned char out[HASH])
{
    struct buf bytes = BUF_INIT(MSG_BYTES_MAX);
    struct msg_submit asked = *s;
    asked.id = "-";
    asked.traceparent = NULL;
    asked.deadline_ms = 0;
    enum err_code code = msg_encode(MSG_SUBMIT, &asked, &bytes, NULL);
    if (code == ERR_OK) (void)crypto_generichash(out, HASH, (const unsigned char *)bytes.data, bytes.len, NULL, 0);
    buf_release(&bytes);
    return code;
}

static void submit_free(struct msg_submit *submit)
{
    msg_submit_release(submit);
    free(submit);
}

static struct entry *entry_new(struct idempotency *keys, const unsigned char name[HASH], const unsigned char body[HASH])
{
    struct entry *entry = calloc(1, sizeof *entry);
    if (!entry) return NULL;
    entry->keys = keys;
    entry->created_s = clock_wall_ms() / 1000;
    memcpy(entry->name, name, HASH);
    memcpy(entry->body, body, HASH);
    buf_init(&entry->told, (size_t)keys->node->config->idempotency_bytes_max / ANSWERS);
    struct entry **p = place_of(keys, name);
    entry->hash_next = *p;
    *p = entry;
    return entry;
}

static uint64_t begin(struct entry *entry, struct msg_submit *submit, const struct sink *sink, const char *front)
{
    const struct sink all = {entry, on_start, NULL, on_token, on_done, on_error};
    uint64_t handle = listen_to(entry, sink, true);
    if (handle) entry->handle = request_begin(entry->keys->node, submit, &all, front);
    else submit_free(submit);
    if (entry->handle) return handle;
    free(entry->listeners);
    entry_free(entry);
    return 0;
}

bool idempotency_wanted(const struct node *node, const struct msg_submit *submit)
{
    bool from_below = submit->tier != TIER_NONE; /* a node below has looked already */
    return submit->idempotency && submit->idempotency[0] && !from_below && node->config->idempotency_ms > 0;
}

uint64_t idempotency_submit(struct idempotency *keys, struct msg_submit *submit, const struct sink *sink, const char *front)
{
    unsigned char name[HASH], body[HASH];
    hash_name(submit, name);
    if (hash_body(submit, body) != ERR_OK) return request_begin(keys->node, submit, sink, front); /* it says what is wrong */
    struct entry *entry = *place_of(keys, name);
    if (!entry) {
        entry = entry_new(keys, name, body);
        if (entry) return begin(entry, submit, sink, front);
        submit_free(submit);
        return 0;
    }
    int64_t deadline_ms = submit->deadline_ms;
    submit_free(submit);
    metrics_add(keys->node->metrics, METRIC_REQUESTS_REPEATED, 1);
    uint64_t handle = listen_to(entry, sink, false);
    struct listener *l = entry->listeners;
    if (handle) l->differs = memcmp(entry->body, body, HASH) != 0;
    if (handle && deadline_ms > 0) loop_timer_start(keys->node->loop, &l->deadline, deadline_ms, on_deadline, l);
    return handle;
}

static struct listener *listener_find(const struct idempotency *keys, uint64_t handle)
{
    for (int i = 0; i < BUCKETS; i++)
        for (const struct entry *entry = keys->buckets[i]; entry; entry = entry->hash_next)
            for (struct listener *l = entry->listeners; l; l = l->next)
                if (l->handle == handle) return l;
    return NULL;
}

bool idempotency_leave(struct idempotency *keys, uint64_t handle)
{
    if (!(handle & LISTENER_BIT)) return false;
    struct listener *l = listener_find(keys, handle);
    if (!l) return true;
    struct entry *entry = l->entry;
    listener_remove(l);
    free(l);
    stop_if_alone(entry);
    return true;
}

enum err_code idempotency_new(struct idempotency **out, struct node *node, struct err *e)
{
    struct idempotency *keys = calloc(1, sizeof *keys);
    if (!keys) return err_set(e, ERR_MEMORY, "no memory for idempotency keys");
    keys->node = node;
    keys->kept_last = &keys->kept_first;
    *out = keys;
    return ERR_OK;
}

void idempotency_free(struct idempotency *keys)
{
    if (!keys) return;
    const struct msg_error error = {.code = ERR_DRAINING, .message = "this node has stopped"};
    loop_timer_stop(keys->node->loop, &keys->timer);
    for (int i = 0; i < BUCKETS; i++) {
        for (struct entry *entry; (entry = keys->buckets[i]);) {
            while (entry->listeners) listener_end(entry->listeners, MSG_ERROR, &error);
            entry_free(entry);
        }
    }
    free(keys);
}
