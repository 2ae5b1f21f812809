/* What another node asks us: SUBMIT goes into the request path, and its sink speaks the wire. */
#include "node/peer.h"

#include "base/textlog.h"

#include <stdlib.h>
#include <string.h>

struct served {
    struct served *next, **prev;
    struct remote *remote;
    uint64_t handle;
    bool failed; /* an answer could not be sent: cancelled as soon as the sink has returned */
    struct loop_timer timer;
    char id[REMOTE_ID_MAX];
};

static struct served *served_find(const struct remote *remote, const char *id)
{
    struct served *s = remote->served;
    while (s && strcmp(s->id, id) != 0) s = s->next;
    return s;
}

static void served_free(struct served *s)
{
    loop_timer_stop(s->remote->node->loop, &s->timer);
    *s->prev = s->next;
    if (s->next) s->next->prev = s->prev;
    free(s);
}

static void refuse(struct remote *remote, const char *id, enum err_code code, const char *param, const char *message)
{
    const struct msg_error error = {.id = id, .code = code, .message = message, .param = param,
                                    .retryable = err_retryable(code)};
    (void)remote_send(remote, MSG_ERROR, &error);
}

/* ---- the sink ---- */

static void on_failed(void *ctx)
{
    struct served *s = ctx;
    request_cancel(s->remote->node, s->handle);
    served_free(s);
}

/* An answer was too large for the wire, or the like. One that cannot be sent because the peer is gone needs nothing:
 * its owner drops all it asked. */
static void answer(struct served *s, enum msg_type type, const void *body)
{
    if (s->failed) return;
    enum err_code code = remote_send(s->remote, type, body);
    if (code == ERR_OK || s->remote->gone) return;
    s->failed = true;
    refuse(s->remote, s->id, code, "", "the answer cannot be sent over this link");
    loop_timer_start(s->remote->node->loop, &s->timer, 0, on_failed, s);
}

static void on_start(void *ctx, const struct msg_start *start)
{
    struct served *s = ctx;
    struct msg_start told = *start;
    told.id = s->id;
    answer(s, MSG_START, &told);
}

static void on_token(void *ctx, const struct msg_token *token)
{
    struct served *s = ctx;
    struct msg_token told = *token;
    told.id = s->id;
    answer(s, MSG_TOKEN, &told);
}

static void on_done(void *ctx, const struct msg_done *done)
{
    struct served *s = ctx;
    struct msg_done told = *done;
    told.id = s->id;
    if (!s->failed && remote_send(s->remote, MSG_DONE, &told) != ERR_OK && !s->remote->gone)
        refuse(s->remote, s->id, ERR_INTERNAL, "", "the end of the answer cannot be sent over this link");
    served_free(s);
}

static void on_error(void *ctx, const struct msg_error *error)
{
    struct served *s = ctx;
    struct msg_error told = *error;
    told.id = s->id;
    if (!s->failed && remote_send(s->remote, MSG_ERROR, &told) != ERR_OK && !s->remote->gone)
        refuse(s->remote, s->id, error->code, "", err_text(error->code));
    served_free(s);
}

/* ---- entering ---- */

/* Ids come to stand in logs and lines of text. */
static bool id_valid(const char *id)
{
    size_t len = 0;
    for (; id[len]; len++)
        if (len == REMOTE_ID_MAX - 1 || id[len] <= ' ' || id[len] > '~') return false;
    return len > 0;
}

static struct served *served_new(struct remote *remote, const char *id)
{
    struct served *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->remote = remote;
    (void)snprintf(s->id, sizeof s->id, "%s", id);
    s->next = remote->served;
    s->prev = &remote->served;
    if (s->next) s->next->prev = &s->next;
    remote->served = s;
    return s;
}

void remote_serve(struct remote *remote, struct msg *msg, const char *front)
{
    const char *id = msg->body.submit.id;
    if (!id_valid(id)) {
        refuse(remote, id, ERR_INVALID, "id", "a request id has 1 to 63 printable ASCII characters without spaces");
        return;
    }
    if (served_find(remote, id)) return; /* sent again while it runs: its answers are on their way */
    struct served *s = served_new(remote, id);
    struct msg_submit *submit = malloc(sizeof *submit);
    if (!s || !submit) {
        refuse(remote, id, ERR_MEMORY, "", "out of memory");
        if (s) served_free(s);
        free(submit);
        return;
    }
    *submit = msg->body.submit; /* with its arena: the message holds nothing after */
    *msg = (struct msg){0};
    const struct sink sink = {s, on_start, NULL, on_token, on_done, on_error};
    s->handle = request_submit(remote->node, submit, &sink, front);
    if (s->handle) return;
    refuse(remote, s->id, ERR_MEMORY, "", "out of memory");
    served_free(s);
}

void remote_serve_cancel(struct remote *remote, const struct msg_cancel *cancel)
{
    struct served *s = served_find(remote, cancel->id);
    if (s) {
        request_cancel(remote->node, s->handle);
        served_free(s);
    }
    /* Also for one that is over, or never came: whoever cancels waits for the end. */
    refuse(remote, cancel->id, ERR_CANCELLED, "", "cancelled as asked");
}

void remote_served_drop(struct remote *remote)
{
    while (remote->served) {
        struct served *s = remote->served;
        request_cancel(remote->node, s->handle);
        served_free(s);
    }
}
