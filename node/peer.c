#include "node/peer.h"

#include "base/textlog.h"

#include <ctype.h>
#include <string.h>

enum { FLUSH_MS = 2, SLOTS_UNBOUNDED = 32, COMPACT_BYTES = 64 << 10 };

enum err_code peer_send(struct node *node, struct link *link, const struct link_peer *peer, enum msg_type type,
                        const void *body)
{
    struct err e = {0};
    enum err_code code = link_send(link, peer, type, body, &e);
    (void)node;
    if (code != ERR_OK && code != ERR_FULL && code != ERR_UNAVAILABLE)
        textlog(TEXTLOG_ERROR, "not_sent", "type=%s why=\"%s\"", msg_type_name(type), e.msg);
    return code;
}

void peer_fill_hello(const struct node *node, const char *role, struct msg_hello *out)
{
    *out = (struct msg_hello){.node = node->config->node, .version = RUNG_VERSION, .role = role,
                              .version_min = MSG_VERSION_MIN, .version_max = MSG_VERSION_MAX};
}

/* A worker has the slots of its backends; a node with a broker takes as much as its request table holds. */
void peer_fill_ready(const struct node *node, struct msg_model models[MSG_MODELS_MAX], struct msg_ready *out)
{
    *out = (struct msg_ready){.node = node->config->node, .models = models, .draining = node->draining};
    out->model_count = node_models(node, models, MSG_MODELS_MAX);
    int64_t slots = 0, running = request_count(node);
    for (const struct backend *b = node->backends; b; b = b->next) {
        if (b->health != BACKEND_UP) continue;
        slots += b->slots > 0 ? b->slots : SLOTS_UNBOUNDED;
        if (b->tokens_per_s > out->tokens_per_s) out->tokens_per_s = b->tokens_per_s;
        if (b->ttft_ms > 0 && (out->ttft_ms <= 0 || b->ttft_ms < out->ttft_ms)) out->ttft_ms = b->ttft_ms;
    }
    out->slots = node->worker ? slots : node->config->requests_max;
    out->slots_free = out->slots > running ? out->slots - running : 0;
}

static uint64_t hash_bytes(uint64_t h, const void *data, size_t len)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < len; i++) h = (h ^ p[i]) * 0x100000001b3U;
    return h;
}

/* Of what does not change with every request. */
static uint64_t ready_hash(const struct msg_ready *ready)
{
    uint64_t h = hash_bytes(0xcbf29ce484222325U, &ready->slots, sizeof ready->slots);
    h = hash_bytes(h, &ready->draining, sizeof ready->draining);
    for (int i = 0; i < ready->model_count; i++) {
        const struct msg_model *m = &ready->models[i];
        h = hash_bytes(h, m->name, strlen(m->name) + 1);
        if (m->identity) h = hash_bytes(h, m->identity, strlen(m->identity) + 1);
        h = hash_bytes(h, &m->tier, sizeof m->tier);
        h = hash_bytes(h, &m->context_tokens, sizeof m->context_tokens);
    }
    return h;
}

bool peer_ready_due(const struct node *node, struct peer_told *told)
{
    struct msg_model models[MSG_MODELS_MAX];
    struct msg_ready ready;
    peer_fill_ready(node, models, &ready);
    uint64_t hash = ready_hash(&ready);
    int64_t now = loop_now_us(node->loop);
    if (hash == told->hash && now - told->at_us < (int64_t)node->config->heartbeat_ms * 1000) return false;
    *told = (struct peer_told){hash, now};
    return true;
}

bool peer_name_valid(const char *name)
{
    size_t len = 0;
    for (; name[len]; len++)
        if (len == BACKEND_WORD - 1 || !(isalnum((unsigned char)name[len]) || strchr("-_.", name[len]))) return false;
    return len > 0;
}

enum err_code peer_keys(const struct node *node, const char *endpoint, bool listen, const char *server_key,
                        struct link_keys *out, const struct link_keys **keys, struct err *e)
{
    const struct config_zmq *zmq = &node->config->zmq;
    bool tcp = strncmp(endpoint, "tcp://", 6) == 0, keyed = server_key && server_key[0];
    *keys = NULL;
    if (!tcp || !zmq->keys_file || (!listen && !keyed && zmq->plain_loopback)) return ERR_OK; /* link_open() judges */
    enum err_code code = link_keys_read(out, zmq->keys_file, e);
    if (code == ERR_OK) *keys = out;
    return code;
}

/* ---- remote: sending ---- */

void remote_init(struct remote *remote, struct node *node, struct link *link, const struct link_peer *id,
                 void (*on_gone)(void *ctx), void *ctx)
{
    *remote = (struct remote){.node = node, .link = link, .on_gone = on_gone, .ctx = ctx};
    if (id) remote->id = *id;
    remote->heard_us = loop_now_us(node->loop);
    buf_init(&remote->waiting, REMOTE_WAITING_MAX);
}

void remote_clear(struct remote *remote)
{
    buf_release(&remote->waiting);
    remote->waiting_at = 0;
    loop_timer_stop(remote->node->loop, &remote->flush_timer);
}

static const struct link_peer *address(const struct remote *remote)
{
    return remote->id.len ? &remote->id : NULL;
}

static enum err_code gone(struct remote *remote, enum err_code code)
{
    if (!remote->gone) {
        remote->gone = true;
        remote->on_gone(remote->ctx);
    }
    return code;
}

static void flush(void *ctx);

static void flush_later(struct remote *remote)
{
    loop_timer_start(remote->node->loop, &remote->flush_timer, FLUSH_MS, flush, remote);
}

static void flush(void *ctx)
{
    struct remote *remote = ctx;
    struct buf *w = &remote->waiting;
    while (w->len > remote->waiting_at && !remote->gone) {
        uint32_t len;
        memcpy(&len, w->data + remote->waiting_at, sizeof len);
        const char *data = w->data + remote->waiting_at + sizeof len;
        enum err_code code = link_send_bytes(remote->link, address(remote), data, len, NULL);
        if (code == ERR_FULL) break;
        if (code != ERR_OK) {
            (void)gone(remote, code);
            return;
        }
        remote->waiting_at += sizeof len + len;
    }
    if (w->len == remote->waiting_at) {
        remote_clear(remote);
        return;
    }
    if (remote->waiting_at > COMPACT_BYTES) {
        buf_drop(w, remote->waiting_at);
        remote->waiting_at = 0;
    }
    flush_later(remote);
}

/* Behind what waits already, so that the order stays. */
static enum err_code wait_to_send(struct remote *remote, enum msg_type type, const void *body)
{
    struct buf *w = &remote->waiting;
    size_t start = w->len;
    uint32_t len = 0;
    struct err e = {0};
    if (buf_add(w, &len, sizeof len) != ERR_OK) return gone(remote, ERR_FULL);
    enum err_code code = msg_encode(type, body, w, &e);
    if (!buf_ok(w)) {
        textlog(TEXTLOG_WARN, "peer_slow", "peer=%s waiting_bytes=%zu", remote->name, w->len);
        return gone(remote, ERR_FULL);
    }
    if (code != ERR_OK) {
        w->len = start;
        textlog(TEXTLOG_ERROR, "not_sent", "type=%s why=\"%s\"", msg_type_name(type), e.msg);
        return code;
    }
    len = (uint32_t)(w->len - start - sizeof len);
    memcpy(w->data + start, &len, sizeof len);
    if (!remote->flush_timer.slot) flush_later(remote);
    return ERR_OK;
}

enum err_code remote_send(struct remote *remote, enum msg_type type, const void *body)
{
    if (remote->gone) return ERR_UNAVAILABLE;
    if (remote->waiting.len > 0) return wait_to_send(remote, type, body);
    enum err_code code = peer_send(remote->node, remote->link, address(remote), type, body);
    if (code == ERR_FULL) return wait_to_send(remote, type, body);
    if (code == ERR_UNAVAILABLE || code == ERR_IO) return gone(remote, code);
    return code;
}
