/* What we asked another node: by request id, since that is what it answers with.
 *
 * A cancelled call stays until the other side tells its end (it always does, see docs/protocol.md), so that what is
 * still on its way for it is never taken for an answer to a later call of the same id. */
#include "node/peer.h"

#include <stdlib.h>
#include <string.h>

enum { CANCELLED_KEPT_US = 10000000 };

struct remote_call {
    struct remote_call *next;
    uint64_t call;
    int64_t cancelled_us; /* 0: running */
    struct sink sink;
    char id[REMOTE_ID_MAX];
};

static struct remote_call **bucket_of(struct remote *remote, const char *id)
{
    uint64_t h = 0xcbf29ce484222325U;
    for (const char *p = id; *p; p++) h = (h ^ (unsigned char)*p) * 0x100000001b3U;
    return &remote->calls[(h ^ h >> 32) % REMOTE_BUCKETS];
}

/* The place that points to the call, or to NULL. */
static struct remote_call **find(struct remote *remote, const char *id)
{
    struct remote_call **p = bucket_of(remote, id);
    while (*p && strcmp((*p)->id, id) != 0) p = &(*p)->next;
    return p;
}

static void drop(struct remote *remote, struct remote_call **place)
{
    struct remote_call *call = *place;
    *place = call->next;
    if (!call->cancelled_us) remote->call_count--;
    free(call);
}

enum err_code remote_submit(struct remote *remote, uint64_t call, const struct msg_submit *submit,
                            const struct sink *sink, struct err *e)
{
    if (!submit->id || strlen(submit->id) >= REMOTE_ID_MAX)
        return err_set_param(e, ERR_INVALID, "id", "a request id of 1 to %d bytes is needed", REMOTE_ID_MAX - 1);
    if (*find(remote, submit->id))
        return err_set(e, ERR_UNSUPPORTED, "%s has a request of this id already", remote->name);
    struct remote_call *c = calloc(1, sizeof *c);
    if (!c) return err_set(e, ERR_MEMORY, "no memory for a call");
    struct msg_submit sent = *submit;
    if (sent.hop_budget < 0) sent.hop_budget = 0;
    enum err_code code = remote_send(remote, MSG_SUBMIT, &sent);
    if (code != ERR_OK) {
        free(c);
        return err_set(e, code, "%s: %s", remote->name, err_text(code));
    }
    c->call = call;
    c->sink = *sink;
    (void)snprintf(c->id, sizeof c->id, "%s", submit->id);
    struct remote_call **bucket = bucket_of(remote, c->id);
    c->next = *bucket;
    *bucket = c;
    remote->call_count++;
    return ERR_OK;
}

void remote_cancel(struct remote *remote, uint64_t call)
{
    for (int i = 0; i < REMOTE_BUCKETS; i++) {
        for (struct remote_call *c = remote->calls[i]; c; c = c->next) {
            if (c->call != call || c->cancelled_us) continue;
            c->cancelled_us = loop_now_us(remote->node->loop);
            remote->call_count--;
            (void)remote_send(remote, MSG_CANCEL, &(struct msg_cancel){.id = c->id});
            return;
        }
    }
}

static const char *answered_id(const struct msg *msg)
{
    switch (msg->type) {
    case MSG_START: return msg->body.start.id;
    case MSG_TOKEN: return msg->body.token.id;
    case MSG_DONE: return msg->body.done.id;
    default: return msg->body.error.id;
    }
}

/* The sink may cancel this call, or begin others: nothing is touched after it has been called. */
void remote_answer(struct remote *remote, const struct msg *msg)
{
    const char *id = answered_id(msg);
    struct remote_call **place = find(remote, id), *call = *place;
    bool over = msg->type == MSG_DONE || msg->type == MSG_ERROR;
    if (!call) {
        /* Left over from before a break: say that nobody wants it. */
        if (!over) (void)remote_send(remote, MSG_CANCEL, &(struct msg_cancel){.id = id});
        return;
    }
    struct sink sink = call->sink;
    bool cancelled = call->cancelled_us != 0;
    if (over) drop(remote, place);
    if (cancelled) return;
    switch (msg->type) {
    case MSG_START: sink.on_start(sink.ctx, &msg->body.start); break;
    case MSG_TOKEN: sink.on_token(sink.ctx, &msg->body.token); break;
    case MSG_DONE: sink.on_done(sink.ctx, &msg->body.done); break;
    default: sink.on_error(sink.ctx, &msg->body.error); break;
    }
}

void remote_fail_calls(struct remote *remote, enum err_code code, const char *message)
{
    for (int i = 0; i < REMOTE_BUCKETS; i++) {
        while (remote->calls[i]) {
            struct remote_call copy = *remote->calls[i];
            drop(remote, &remote->calls[i]);
            const struct msg_error error = {.id = copy.id, .code = code, .message = message, .param = "",
                                            .retryable = err_retryable(code)};
            if (!copy.cancelled_us) copy.sink.on_error(copy.sink.ctx, &error);
        }
    }
}

void remote_tick(struct remote *remote)
{
    int64_t now = loop_now_us(remote->node->loop);
    for (int i = 0; i < REMOTE_BUCKETS; i++) {
        struct remote_call **p = &remote->calls[i];
        while (*p) {
            if ((*p)->cancelled_us && now - (*p)->cancelled_us > CANCELLED_KEPT_US) drop(remote, p);
            else p = &(*p)->next;
        }
    }
}

static void calls_free(struct remote *remote)
{
    for (int i = 0; i < REMOTE_BUCKETS; i++)
        while (remote->calls[i]) drop(remote, &remote->calls[i]);
}

void remote_release(struct remote *remote)
{
    remote->gone = true; /* nothing more is sent */
    remote_served_drop(remote);
    calls_free(remote);
    remote_clear(remote);
}
