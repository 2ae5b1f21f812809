/* A DEALER to the node above: connect → HELLO → READY → up; PING each heartbeat; silent for three, or disconnected →
 * down, and all calls fail; a sign of life, or a HELLO from above (it does not know us) → HELLO again. */
#include "node/peer.h"

#include "base/textlog.h"

#include <string.h>
#include <sys/random.h>

enum { GREET_AGAIN_MS = 20, TICK_MS = 100, RECEIVE_MAX = 512 };

static void down(struct uplink *up, const char *why)
{
    if (up->up) textlog(TEXTLOG_WARN, "peer_down", "peer=%s why=\"%s\"", up->remote.name, why);
    up->up = false;
    up->remote.gone = false;
    remote_clear(&up->remote);
    up->ops->on_down(up->ctx, why);
    remote_served_drop(&up->remote);
    remote_fail_calls(&up->remote, ERR_UNAVAILABLE, why);
}

static void tell_ready(struct uplink *up)
{
    struct msg_model models[MSG_MODELS_MAX];
    struct msg_ready ready;
    peer_fill_ready(up->node, models, &ready);
    (void)remote_send(&up->remote, MSG_READY, &ready);
}

/* The connection may be a moment younger than the socket that uses it: then once more, a little later. */
static void greet(void *ctx)
{
    struct uplink *up = ctx;
    struct msg_hello hello;
    peer_fill_hello(up->node, up->ops->role, &hello);
    if (!up->connected) return;
    if (peer_send(up->node, up->link, NULL, MSG_HELLO, &hello) != ERR_OK) {
        loop_timer_start(up->node->loop, &up->greet_timer, GREET_AGAIN_MS, greet, up);
        return;
    }
    up->beat_us = up->remote.heard_us = loop_now_us(up->node->loop);
    if (up->ops->serves) tell_ready(up);
}

static void on_gone(void *ctx)
{
    struct uplink *up = ctx;
    loop_timer_start(up->node->loop, &up->tick_timer, 0, up->tick_timer.fn, up);
}

static void beat(struct uplink *up, int64_t now)
{
    const struct config *c = up->node->config;
    if (now - up->beat_us < (int64_t)c->heartbeat_ms * 1000) return;
    up->beat_us = now;
    const struct msg_ping ping = {.sequence = ++up->sequence, .sent_us = now};
    (void)remote_send(&up->remote, MSG_PING, &ping);
    remote_tick(&up->remote);
    int64_t silent_ms = (now - up->remote.heard_us) / 1000;
    if (!up->up || silent_ms <= (int64_t)c->heartbeat_ms * c->heartbeats_missed) return;
    char why[96];
    (void)snprintf(why, sizeof why, "nothing heard for %lld ms", (long long)silent_ms);
    down(up, why);
}

static void on_tick(void *ctx)
{
    struct uplink *up = ctx;
    loop_timer_start(up->node->loop, &up->tick_timer, TICK_MS, on_tick, up);
    if (up->remote.gone) down(up, "the other end does not take messages");
    if (!up->connected) return;
    beat(up, loop_now_us(up->node->loop));
    if (up->up && up->ops->serves && peer_ready_due(up->node, &up->told)) tell_ready(up);
}

/* ---- events and messages ---- */

static void on_monitor(void *ctx)
{
    struct uplink *up = ctx;
    enum link_event event;
    while (link_monitor_receive(up->link, &event)) {
        if (event == LINK_CONNECTED) {
            up->connected = true;
            loop_timer_start(up->node->loop, &up->greet_timer, 0, greet, up);
        } else if (event == LINK_DISCONNECTED) {
            if (up->connected) down(up, "the connection was lost");
            up->connected = false;
        } else if (event == LINK_REFUSED) {
            textlog(TEXTLOG_WARN, "peer_refused", "endpoint=%s why=\"the handshake failed: are both keys known?\"", up->endpoint);
            down(up, "the handshake was refused: does it know our key, and we its?");
        }
    }
}

static void on_ready(struct uplink *up, const struct msg_ready *ready)
{
    if (!up->up) textlog(TEXTLOG_INFO, "peer_up", "peer=%s endpoint=%s models=%d", up->remote.name, up->endpoint, ready->model_count);
    up->up = true;
    up->ops->on_ready(up->ctx, ready);
}

static void on_alive(struct uplink *up)
{
    if (!up->up && up->connected && !up->greet_timer.slot)
        loop_timer_start(up->node->loop, &up->greet_timer, GREET_AGAIN_MS, greet, up);
}

static void on_policy(struct uplink *up, const struct msg_policy *policy)
{
    struct err e = {0};
    enum err_code code = node_policy_from_above(up->node, policy->json, &e);
    const struct msg_policy_ack ack = {.version = policy->version, .code = code, .message = code == ERR_OK ? "" : e.msg};
    (void)remote_send(&up->remote, MSG_POLICY_ACK, &ack);
}

static void on_error(struct uplink *up, const struct msg *msg)
{
    char quoted[200];
    if (msg->body.error.id[0]) {
        remote_answer(&up->remote, msg);
        return;
    }
    textlog(TEXTLOG_WARN, "peer_error", "peer=%s code=%s message=%s", up->remote.name, err_name(msg->body.error.code),
            textlog_quote(msg->body.error.message, quoted, sizeof quoted));
    if (!up->up) up->ops->on_down(up->ctx, msg->body.error.message); /* it does not want us: /ready tells why */
}

static void on_message(struct uplink *up, struct msg *msg)
{
    switch (msg->type) {
    case MSG_HELLO:
        down(up, "the other end asks who we are");
        loop_timer_start(up->node->loop, &up->greet_timer, 0, greet, up);
        break;
    case MSG_READY: on_ready(up, &msg->body.ready); break;
    case MSG_PING: (void)remote_send(&up->remote, MSG_PONG, &msg->body.ping); break;
    case MSG_PONG: on_alive(up); break;
    case MSG_START:
    case MSG_TOKEN:
    case MSG_DONE: remote_answer(&up->remote, msg); break;
    case MSG_ERROR: on_error(up, msg); break;
    case MSG_SUBMIT:
        if (up->ops->serves) remote_serve(&up->remote, msg, "worker");
        break;
    case MSG_CANCEL:
        if (up->ops->serves) remote_serve_cancel(&up->remote, &msg->body.cancel);
        break;
    case MSG_LOG_ACK:
        if (msg->body.log_ack.code == ERR_OK) shipper_acknowledged(up->node, msg->body.log_ack.last_id);
        break;
    case MSG_POLICY: on_policy(up, &msg->body.policy); break;
    default: break; /* DRAIN: the READY beside it says the same */
    }
}

static void on_readable(void *ctx)
{
    struct uplink *up = ctx;
    struct msg msg;
    struct err e = {0};
    enum err_code code;
    for (int i = 0; i < RECEIVE_MAX && link_receive(up->link, NULL, &msg, &code, &e); i++) {
        up->remote.heard_us = loop_now_us(up->node->loop);
        if (code == ERR_OK) {
            on_message(up, &msg);
        } else { /* never answered from below, or two that do not understand each other would go on for ever */
            metrics_add(up->node->metrics, METRIC_WIRE_REFUSED, 1);
            textlog(TEXTLOG_WARN, "message_refused", "peer=%s why=\"%s\"", up->remote.name, e.msg);
        }
        msg_release(&msg);
    }
}

/* ---- opening ---- */

/* The node's id and four random bytes: two processes of one id do not push each other out, and what was meant for
 * the process before this one never reaches it. */
static void fill_identity(const struct node *node, char *out, size_t size)
{
    uint32_t salt = 0;
    if (getrandom(&salt, sizeof salt, 0) < 0) salt = (uint32_t)loop_now_us(node->loop);
    (void)snprintf(out, size, "%.50s.%08x", node->config->node, salt);
}

enum err_code uplink_open(struct uplink *up, struct node *node, const char *endpoint, const char *server_key,
                          const struct uplink_ops *ops, void *ctx, struct err *e)
{
    char identity[LINK_PEER_MAX];
    struct link_keys own;
    const struct link_keys *keys;
    *up = (struct uplink){.node = node, .ops = ops, .ctx = ctx};
    fill_identity(node, identity, sizeof identity);
    enum err_code code = peer_keys(node, endpoint, false, server_key, &own, &keys, e);
    if (code != ERR_OK) return code;
    const struct link_options options = {.endpoint = endpoint, .identity = identity, .keys = keys,
                                         .server_key = server_key, .plain_loopback = node->config->zmq.plain_loopback,
                                         .hwm = PEER_HWM};
    code = link_open(&up->link, node->links, &options, e);
    if (code != ERR_OK) return code;
    (void)snprintf(up->endpoint, sizeof up->endpoint, "%s", endpoint);
    remote_init(&up->remote, node, up->link, NULL, on_gone, up);
    (void)snprintf(up->remote.name, sizeof up->remote.name, "%.60s", endpoint);
    code = loop_zmq_set(node->loop, link_socket(up->link), on_readable, up, e);
    if (code == ERR_OK) code = loop_zmq_set(node->loop, link_monitor(up->link), on_monitor, up, e);
    if (code != ERR_OK) {
        uplink_close(up);
        return code;
    }
    loop_timer_start(node->loop, &up->tick_timer, TICK_MS, on_tick, up);
    return ERR_OK;
}

void uplink_close(struct uplink *up)
{
    if (!up->link) return;
    remote_release(&up->remote);
    loop_timer_stop(up->node->loop, &up->tick_timer);
    loop_timer_stop(up->node->loop, &up->greet_timer);
    loop_zmq_remove(up->node->loop, link_socket(up->link));
    loop_zmq_remove(up->node->loop, link_monitor(up->link));
    link_close(up->link);
    up->link = NULL;
}
