/* The ROUTER front: workers register, nodes below and local clients submit, rows come up.
 *
 *   HELLO    who it is: a worker (through the listening door only), a node, a client; anew: all of before is dropped
 *   READY    from a worker: what it offers. From us: to everybody who said HELLO, when it changes and each heartbeat
 *   SUBMIT, CANCEL             peer_serve.c
 *   START, TOKEN, DONE, ERROR  peer_calls.c, from workers
 *   PING     PONG, and a HELLO where we do not know the sender: it shall introduce itself
 *   LOG      into our log; LOG_ACK once it is on the disk
 *
 * Somebody is gone when a send says so, when a node or worker is silent for three heartbeats, or after a disconnection
 * was seen: ZeroMQ does not tell whose, so everybody is pinged, and who cannot be is gone. */
#include "node/broker.h"

#include "base/textlog.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { TICK_MS = 100, RECEIVE_MAX = 512, SWEEPS = 4, CLIENT_HOPS = 4, COMPLAIN_US = 1000000, FLUSH_WAIT_MS = 2000 };

/* ---- peers ---- */

static struct broker_peer **bucket_of(struct broker *broker, const struct broker_door *door, const struct link_peer *id)
{
    uint64_t h = 0xcbf29ce484222325U + (uint64_t)(door - broker->doors);
    for (int i = 0; i < id->len; i++) h = (h ^ id->bytes[i]) * 0x100000001b3U;
    return &broker->buckets[(h ^ h >> 32) % BROKER_BUCKETS];
}

static struct broker_peer *peer_find(struct broker *broker, const struct broker_door *door, const struct link_peer *id)
{
    struct broker_peer *p = *bucket_of(broker, door, id);
    while (p && (p->door != door || p->remote.id.len != id->len || memcmp(p->remote.id.bytes, id->bytes, (size_t)id->len) != 0))
        p = p->hash_next;
    return p;
}

static void on_sweep(void *ctx);

static void on_gone(void *ctx)
{
    struct broker_peer *p = ctx;
    struct broker *broker = p->door->broker;
    if (broker->sweeps_left < 1) broker->sweeps_left = 1;
    loop_timer_start(broker->node->loop, &broker->sweep_timer, 0, on_sweep, broker);
}

static struct broker_peer *peer_new(struct broker *broker, struct broker_door *door, const struct link_peer *id)
{
    if (broker->peer_count == BROKER_PEERS_MAX) return NULL;
    struct broker_peer *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->door = door;
    remote_init(&p->remote, broker->node, door->link, id, on_gone, p);
    (void)snprintf(p->remote.name, sizeof p->remote.name, "client");
    struct broker_peer **bucket = bucket_of(broker, door, id);
    p->hash_next = *bucket;
    *bucket = p;
    p->next = broker->peers;
    p->prev = &broker->peers;
    if (p->next) p->next->prev = &p->next;
    broker->peers = p;
    broker->peer_count++;
    return p;
}

/* All that was between us ends. */
static void peer_reset(struct broker_peer *p, const char *why)
{
    if (p->worker) broker_worker_away(p->worker, why);
    remote_served_drop(&p->remote);
    remote_clear(&p->remote);
}

static void peer_drop(struct broker_peer *p, const char *why)
{
    struct broker *broker = p->door->broker;
    p->remote.gone = true;
    peer_reset(p, why);
    if (p->greeted) textlog(TEXTLOG_INFO, "peer_gone", "peer=%s why=\"%s\"", p->remote.name, why);
    struct broker_peer **place = bucket_of(broker, p->door, &p->remote.id);
    while (*place != p) place = &(*place)->hash_next;
    *place = p->hash_next;
    *p->prev = p->next;
    if (p->next) p->next->prev = p->prev;
    broker->peer_count--;
    remote_release(&p->remote);
    free(p);
}

/* ---- who is still there ---- */

static void on_sweep(void *ctx)
{
    struct broker *broker = ctx;
    for (struct broker_peer *p = broker->peers, *next; p; p = next) {
        if (!p->remote.gone) (void)remote_send(&p->remote, MSG_PING, &(struct msg_ping){0});
        next = p->next; /* dropping one touches no other in the list */
        if (p->remote.gone) peer_drop(p, "the connection was lost");
    }
    /* The event ran ahead of the socket, which may have taken a ping for somebody who is gone: again, and later. */
    int again_ms = 5 << (2 * (SWEEPS - broker->sweeps_left));
    if (--broker->sweeps_left > 0) loop_timer_start(broker->node->loop, &broker->sweep_timer, again_ms, on_sweep, broker);
}

static void on_monitor(void *ctx)
{
    struct broker_door *door = ctx;
    struct broker *broker = door->broker;
    enum link_event event;
    while (link_monitor_receive(door->link, &event)) {
        if (event == LINK_REFUSED) {
            metrics_add(broker->node->metrics, METRIC_WIRE_REFUSED, 1);
            textlog(TEXTLOG_WARN, "connection_refused", "endpoint=%s", link_endpoint(door->link));
        }
        if (event != LINK_DISCONNECTED) continue;
        broker->sweeps_left = SWEEPS;
        loop_timer_start(broker->node->loop, &broker->sweep_timer, 0, on_sweep, broker);
    }
}

/* The policy in force, to the nodes below, when it is to be told and has changed. */
static void tell_policy(struct broker_peer *p)
{
    const struct node *node = p->door->broker->node;
    char json[2048];
    if (!node->config->send_policy || p->role != ROLE_NODE || p->policy_told == node->policy.version) return;
    policy_to_json(&node->policy, json, sizeof json);
    if (remote_send(&p->remote, MSG_POLICY, &(struct msg_policy){.version = node->policy.version, .json = json}) == ERR_OK)
        p->policy_told = node->policy.version;
}

static void tell_ready(struct broker_peer *p)
{
    struct msg_model models[MSG_MODELS_MAX];
    struct msg_ready ready;
    peer_fill_ready(p->remote.node, models, &ready);
    (void)remote_send(&p->remote, MSG_READY, &ready);
}

static void drop_silent(struct broker *broker, int64_t now)
{
    const struct config *c = broker->node->config;
    int64_t limit_us = (int64_t)c->heartbeat_ms * c->heartbeats_missed * 1000;
    const struct msg_ping ping = {.sent_us = now};
    for (struct broker_peer *p = broker->peers, *next; p; p = next) {
        next = p->next;
        remote_tick(&p->remote);
        if (p->role == ROLE_CLIENT) continue;
        if (now - p->remote.heard_us > limit_us) peer_drop(p, "nothing heard for three heartbeats");
        else (void)remote_send(&p->remote, MSG_PING, &ping); /* its own heartbeat may be slower than ours */
    }
}

static void on_tick(void *ctx)
{
    struct broker *broker = ctx;
    struct node *node = broker->node;
    int64_t now = loop_now_us(node->loop);
    loop_timer_start(node->loop, &broker->tick_timer, TICK_MS, on_tick, broker);
    if (now - broker->beat_us >= (int64_t)node->config->heartbeat_ms * 1000) {
        broker->beat_us = now;
        drop_silent(broker, now);
        broker_workers_tick(broker);
    }
    for (struct broker_peer *p = broker->peers; p && node->config->send_policy; p = p->next) tell_policy(p);
    if (!peer_ready_due(node, &broker->told)) return;
    for (struct broker_peer *p = broker->peers; p; p = p->next)
        if (p->greeted) tell_ready(p);
}

/* ---- rows that come up ---- */

/* Where the log's thread leaves its acknowledgements: outlives the broker until the last has been run. */
struct broker_office {
    struct broker *broker; /* NULL: closed. The loop's thread only */
    int letters;
};
struct letter {
    struct broker_office *office;
    struct node *node;
    int door;
    struct link_peer to;
    struct msg_log_ack ack;
};

static void office_close(struct broker_office *office)
{
    office->broker = NULL;
    if (office->letters == 0) free(office);
}

static void on_letter(void *ctx, void *arg)
{
    struct broker_office *office = ctx;
    struct letter *letter = arg;
    struct broker *broker = office->broker;
    struct broker_peer *p = broker ? peer_find(broker, &broker->doors[letter->door], &letter->to) : NULL;
    if (p) (void)remote_send(&p->remote, MSG_LOG_ACK, &letter->ack);
    free(letter);
    office->letters--;
    if (!office->broker) office_close(office);
}

/* On the writer's thread. */
static void on_stored(void *ctx, const char *from, int64_t last_id, enum err_code code)
{
    struct letter *letter = ctx;
    (void)from;
    letter->ack = (struct msg_log_ack){.last_id = last_id, .code = code};
    if (!loop_post(letter->node->loop, on_letter, letter->office, letter)) free(letter); /* lost: the rows come again */
}

static void take_rows(struct broker *broker, struct broker_peer *p, const struct msg_log *log)
{
    struct err e = {0};
    struct letter *letter = broker->node->log ? calloc(1, sizeof *letter) : NULL;
    if (!letter) {
        (void)remote_send(&p->remote, MSG_LOG_ACK, &(struct msg_log_ack){.code = broker->node->log ? ERR_MEMORY : ERR_UNSUPPORTED});
        return;
    }
    *letter = (struct letter){.office = broker->office, .node = broker->node, .door = (int)(p->door - broker->doors), .to = p->remote.id};
    broker->office->letters++;
    enum err_code code = log_receive(broker->node->log, p->remote.name, log->rows, log->rows_len, on_stored, letter, &e);
    if (code == ERR_OK) return;
    broker->office->letters--;
    free(letter);
    textlog(TEXTLOG_WARN, "rows_refused", "from=%s why=\"%s\"", p->remote.name, e.msg);
    (void)remote_send(&p->remote, MSG_LOG_ACK, &(struct msg_log_ack){.code = code});
}

/* ---- messages ---- */

/* At most once a second to one peer: two that do not understand each other shall not go on for ever. */
static void complain(struct broker_peer *p, enum err_code code, const char *message)
{
    int64_t now = loop_now_us(p->remote.node->loop);
    if (p->answered_us && now - p->answered_us < COMPLAIN_US) return;
    p->answered_us = now;
    (void)remote_send(&p->remote, MSG_ERROR, &(struct msg_error){.id = "", .code = code, .message = message, .param = ""});
}

/* Somebody who speaks as if we knew it: after our restart, or after a silence that we took for its end. */
static void ask_who(struct broker_peer *p)
{
    int64_t now = loop_now_us(p->remote.node->loop);
    struct msg_hello hello;
    if (p->answered_us && now - p->answered_us < COMPLAIN_US) return;
    p->answered_us = now;
    peer_fill_hello(p->remote.node, tier_name(p->remote.node->config->tier), &hello);
    (void)remote_send(&p->remote, MSG_HELLO, &hello);
}

static enum err_code check_hello(const struct broker_peer *p, const struct msg_hello *hello, enum broker_role *role, struct err *e)
{
    if (hello->version_max && (hello->version_min > MSG_VERSION_MAX || hello->version_max < MSG_VERSION_MIN))
        return err_set(e, ERR_VERSION, "protocol versions %lld to %lld; here %d to %d are spoken", (long long)hello->version_min,
                       (long long)hello->version_max, MSG_VERSION_MIN, MSG_VERSION_MAX);
    if (!peer_name_valid(hello->node))
        return err_set_param(e, ERR_INVALID, "node", "a node id has 1 to 63 letters, digits and -_.");
    const char *key_name = p->remote.id.key_name;
    if (key_name[0] && strcmp(key_name, hello->node) != 0)
        return err_set_param(e, ERR_FORBIDDEN, "node", "this key is %s's (zmq.peers_file), not %s's: node.id and the file must agree",
                             key_name, hello->node);
    *role = strcmp(hello->role, "worker") == 0                    ? ROLE_WORKER
            : tier_from_name(hello->role) != TIER_NONE            ? ROLE_NODE
            : strcmp(hello->role, "client") == 0                  ? ROLE_CLIENT
                                                                  : (enum broker_role)-1;
    if ((int)*role < 0)
        return err_set_param(e, ERR_INVALID, "role", "a role is worker, edge, region, core or client");
    if (*role == ROLE_WORKER && p->door->local)
        return err_set_param(e, ERR_FORBIDDEN, "role", "workers register through zmq.listen, not through the local socket");
    return ERR_OK;
}

static void handle_hello(struct broker *broker, struct broker_peer *p, const struct msg_hello *hello)
{
    struct err e = {0};
    enum broker_role role = ROLE_CLIENT;
    enum err_code code = check_hello(p, hello, &role, &e);
    peer_reset(p, "it began anew");
    p->role = ROLE_CLIENT;
    p->greeted = false;
    if (code == ERR_OK) (void)snprintf(p->remote.name, sizeof p->remote.name, "%s", hello->node);
    if (code == ERR_OK && role == ROLE_WORKER) code = broker_worker_register(broker, p, &e);
    if (code != ERR_OK) {
        metrics_add(broker->node->metrics, METRIC_WIRE_REFUSED, 1);
        textlog(TEXTLOG_WARN, "hello_refused", "why=\"%s\"", e.msg);
        p->answered_us = 0;
        complain(p, code, e.msg);
        return;
    }
    p->role = role;
    p->greeted = true;
    textlog(TEXTLOG_INFO, "peer_here", "peer=%s role=%s", p->remote.name, hello->role);
    p->policy_told = 0;
    tell_ready(p);
    tell_policy(p);
}

static void handle_submit(struct broker_peer *p, struct msg *msg)
{
    if (!p->greeted && msg->body.submit.hop_budget == 0) msg->body.submit.hop_budget = CLIENT_HOPS;
    remote_serve(&p->remote, msg, "zmq");
}

static void handle_answer(struct broker_peer *p, const struct msg *msg)
{
    if (p->worker) remote_answer(&p->remote, msg);
    else if (msg->type != MSG_ERROR) ask_who(p);
}

static void handle_message(struct broker *broker, struct broker_peer *p, struct msg *msg)
{
    switch (msg->type) {
    case MSG_HELLO: handle_hello(broker, p, &msg->body.hello); break;
    case MSG_READY:
        if (p->worker) broker_worker_ready(p->worker, &msg->body.ready);
        else if (!p->greeted) ask_who(p);
        break;
    case MSG_SUBMIT: handle_submit(p, msg); break;
    case MSG_CANCEL: remote_serve_cancel(&p->remote, &msg->body.cancel); break;
    case MSG_START:
    case MSG_TOKEN:
    case MSG_DONE:
    case MSG_ERROR: handle_answer(p, msg); break;
    case MSG_PING:
        (void)remote_send(&p->remote, MSG_PONG, &msg->body.ping);
        if (!p->greeted) ask_who(p);
        break;
    case MSG_LOG:
        if (p->greeted) take_rows(broker, p, &msg->body.log);
        else ask_who(p);
        break;
    default: break; /* PONG, DRAIN (READY says the same), acknowledgements: having been heard is all */
    }
}

static void handle_broken(struct broker *broker, struct broker_peer *p, enum err_code code, const char *why)
{
    metrics_add(broker->node->metrics, METRIC_WIRE_REFUSED, 1);
    textlog(TEXTLOG_WARN, "message_refused", "peer=%s why=\"%s\"", p->remote.name, why);
    complain(p, code, why);
}

static void on_readable(void *ctx)
{
    struct broker_door *door = ctx;
    struct broker *broker = door->broker;
    struct link_peer id;
    struct msg msg;
    struct err e = {0};
    enum err_code code;
    for (int i = 0; i < RECEIVE_MAX && link_receive(door->link, &id, &msg, &code, &e); i++) {
        struct broker_peer *p = id.len ? peer_find(broker, door, &id) : NULL;
        if (p && strcmp(p->remote.id.key_name, id.key_name) != 0) { /* a routing id is anybody's to choose */
            peer_drop(p, "another key has taken its routing id");
            p = NULL;
        }
        if (!p && id.len) p = peer_new(broker, door, &id);
        if (p) {
            p->remote.heard_us = loop_now_us(broker->node->loop);
            if (code == ERR_OK) handle_message(broker, p, &msg);
            else handle_broken(broker, p, code, e.msg);
        } else { /* no id to answer to, or more peers than there may be */
            metrics_add(broker->node->metrics, METRIC_WIRE_REFUSED, 1);
        }
        msg_release(&msg);
    }
}

/* ---- life ---- */

static enum err_code open_door(struct broker *broker, int index, const char *endpoint, int ipc_mode, struct err *e)
{
    struct broker_door *door = &broker->doors[index];
    struct node *node = broker->node;
    struct link_keys own;
    const struct link_keys *keys;
    const struct config_list *users = &node->config->zmq.ipc_uids;
    uid_t uids[CONFIG_LIST_MAX];
    door->broker = broker;
    enum err_code code = peer_keys(node, endpoint, true, NULL, &own, &keys, e);
    if (code == ERR_OK) code = config_uids(users, "zmq.ipc.uids", uids, e);
    if (code != ERR_OK) return code;
    const struct link_options options = {.endpoint = endpoint, .listen = true, .keys = keys, .ipc_mode = ipc_mode,
                                         .ipc_uids = uids, .ipc_uid_count = door->local ? users->count : 0,
                                         .plain_loopback = node->config->zmq.plain_loopback, .hwm = PEER_HWM};
    code = link_open(&door->link, node->links, &options, e);
    if (code == ERR_OK) code = loop_zmq_set(node->loop, link_socket(door->link), on_readable, door, e);
    if (code == ERR_OK) code = loop_zmq_set(node->loop, link_monitor(door->link), on_monitor, door, e);
    if (code == ERR_OK) textlog(TEXTLOG_INFO, "listening", "endpoint=%s keys=%s", link_endpoint(door->link), keys ? "curve" : "none");
    return code;
}

enum err_code broker_new(struct broker **out, struct node *node, struct err *e)
{
    const struct config_zmq *zmq = &node->config->zmq;
    struct broker *broker = calloc(1, sizeof *broker);
    struct broker_office *office = calloc(1, sizeof *office);
    if (!broker || !office) {
        free(broker);
        free(office);
        return err_set(e, ERR_MEMORY, "no memory for the broker");
    }
    broker->node = node;
    broker->office = office;
    office->broker = broker;
    enum err_code code = ERR_OK;
    char local[256];
    (void)snprintf(local, sizeof local, "ipc://%s", zmq->ipc_path ? zmq->ipc_path : "");
    broker->doors[1].local = true;
    if (zmq->listen) code = open_door(broker, 0, zmq->listen, 0, e);
    if (code == ERR_OK && zmq->ipc_path) code = open_door(broker, 1, local, zmq->ipc_mode, e);
    if (code != ERR_OK) {
        broker_free(broker);
        return code;
    }
    loop_timer_start(node->loop, &broker->tick_timer, TICK_MS, on_tick, broker);
    *out = broker;
    return ERR_OK;
}

/* Rows being stored are waited for a little, so that their acknowledgements still go out. */
static void settle_letters(struct broker *broker)
{
    if (broker->office->letters > 0 && broker->node->log) {
        (void)log_flush(broker->node->log, FLUSH_WAIT_MS);
        loop_run_posts(broker->node->loop);
    }
    office_close(broker->office);
}

void broker_free(struct broker *broker)
{
    if (!broker) return;
    struct loop *loop = broker->node->loop;
    settle_letters(broker);
    loop_timer_stop(loop, &broker->tick_timer);
    while (broker->peers) peer_drop(broker->peers, "this node stops");
    broker_workers_free(broker);
    loop_timer_stop(loop, &broker->sweep_timer);
    for (int i = 0; i < 2; i++) {
        struct broker_door *door = &broker->doors[i];
        if (!door->link) continue;
        loop_zmq_remove(loop, link_socket(door->link));
        loop_zmq_remove(loop, link_monitor(door->link));
        link_close(door->link);
    }
    free(broker);
}

void broker_drain(struct broker *broker)
{
    const struct msg_drain drain = {.node = broker->node->config->node};
    for (struct broker_peer *p = broker->peers; p; p = p->next) {
        if (!p->greeted) continue;
        (void)remote_send(&p->remote, MSG_DRAIN, &drain);
        tell_ready(p); /* says the same */
    }
}
