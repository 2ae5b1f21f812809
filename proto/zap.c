#include "proto/zap.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

enum { KEY_BYTES = 32, FRAMES = 7, FRAME_MAX = 256 };
enum { FRAME_VERSION, FRAME_REQUEST, FRAME_DOMAIN, FRAME_ADDRESS, FRAME_IDENTITY, FRAME_MECHANISM, FRAME_KEY };

struct zap_key {
    unsigned char bytes[KEY_BYTES];
    char name[64];
};
struct zap {
    void *socket; /* REP; the thread's from its start on */
    pthread_t thread;
    struct zap_key *keys; /* (count), sorted by bytes */
    int count;
    _Atomic int64_t refused;
};
struct zap_frame {
    unsigned char data[FRAME_MAX];
    size_t len;
};

static int key_order(const void *a, const void *b)
{
    return memcmp(a, b, KEY_BYTES); /* `bytes` comes first */
}

/* One request's frames. False when the context is shut down. `*good`: all there, none too long. */
static bool zap_read(void *socket, struct zap_frame *frames, bool *good)
{
    int more = 1, n = 0;
    size_t size = sizeof more;
    *good = true;
    while (more) {
        struct zap_frame extra, *frame = n < FRAMES ? &frames[n] : &extra;
        int got = zmq_recv(socket, frame->data, FRAME_MAX, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return false;
        if (got > FRAME_MAX) *good = false;
        frame->len = got > FRAME_MAX ? FRAME_MAX : (size_t)got;
        n++;
        if (zmq_getsockopt(socket, ZMQ_RCVMORE, &more, &size) != 0) return false;
    }
    if (n != FRAMES) *good = false;
    return true;
}

static bool frame_is(const struct zap_frame *frame, const char *text)
{
    return frame->len == strlen(text) && memcmp(frame->data, text, frame->len) == 0;
}

static const struct zap_key *zap_find(const struct zap *zap, const struct zap_frame *frames)
{
    if (!frame_is(&frames[FRAME_VERSION], "1.0") || !frame_is(&frames[FRAME_DOMAIN], ZAP_DOMAIN) ||
        !frame_is(&frames[FRAME_MECHANISM], "CURVE") || frames[FRAME_KEY].len != KEY_BYTES || zap->count == 0)
        return NULL;
    return bsearch(frames[FRAME_KEY].data, zap->keys, (size_t)zap->count, sizeof *zap->keys, key_order);
}

static bool zap_reply(void *socket, const struct zap_frame *request, const struct zap_key *key)
{
    const char *status = key ? "200" : "400", *text = key ? "OK" : "unknown key", *user = key ? key->name : "";
    return zmq_send(socket, "1.0", 3, ZMQ_SNDMORE) >= 0 &&
           zmq_send(socket, request->data, request->len, ZMQ_SNDMORE) >= 0 &&
           zmq_send(socket, status, 3, ZMQ_SNDMORE) >= 0 && zmq_send(socket, text, strlen(text), ZMQ_SNDMORE) >= 0 &&
           zmq_send(socket, user, strlen(user), ZMQ_SNDMORE) >= 0 && zmq_send(socket, "", 0, 0) >= 0;
}

static void *zap_run(void *arg)
{
    struct zap *zap = arg;
    struct zap_frame frames[FRAMES];
    bool good;
    while (memset(frames, 0, sizeof frames), zap_read(zap->socket, frames, &good)) {
        const struct zap_key *key = good ? zap_find(zap, frames) : NULL;
        if (!key) atomic_fetch_add(&zap->refused, 1);
        if (!zap_reply(zap->socket, &frames[FRAME_REQUEST], key)) break;
    }
    (void)zmq_close(zap->socket);
    return NULL;
}

static enum err_code zap_copy_keys(struct zap *zap, const struct link_peer_key *allowed, int count, struct err *e)
{
    zap->keys = calloc(count > 0 ? (size_t)count : 1, sizeof *zap->keys);
    if (!zap->keys) return err_set(e, ERR_MEMORY, "no memory for %d allowed keys", count);
    for (int i = 0; i < count; i++) {
        if (!link_key_valid(allowed[i].public_key))
            return err_set(e, ERR_INVALID, "allowed key %d (%s) is not 40 characters of Z85", i + 1, allowed[i].name);
        (void)zmq_z85_decode(zap->keys[i].bytes, allowed[i].public_key);
        memcpy(zap->keys[i].name, allowed[i].name, sizeof zap->keys[i].name);
        zap->keys[i].name[sizeof zap->keys[i].name - 1] = 0;
    }
    zap->count = count;
    qsort(zap->keys, (size_t)count, sizeof *zap->keys, key_order);
    return ERR_OK;
}

/* The socket is bound here, before any link opens, so that no handshake finds nobody to ask. */
enum err_code zap_new(struct zap **out, void *zmq_context, const struct link_peer_key *allowed, int allowed_count,
                      struct err *e)
{
    struct zap *zap = calloc(1, sizeof *zap);
    if (!zap) return err_set(e, ERR_MEMORY, "no memory for the key check");
    enum err_code code = zap_copy_keys(zap, allowed, allowed_count, e);
    if (code != ERR_OK) goto failed;
    zap->socket = zmq_socket(zmq_context, ZMQ_REP);
    code = ERR_IO;
    if (!zap->socket || zmq_bind(zap->socket, "inproc://zeromq.zap.01") != 0) {
        (void)err_set(e, code, "the key check cannot bind: %s", zmq_strerror(errno));
        goto failed;
    }
    if (pthread_create(&zap->thread, NULL, zap_run, zap) != 0) {
        (void)err_set(e, code, "no thread for the key check");
        goto failed;
    }
    *out = zap;
    return ERR_OK;
failed:
    if (zap->socket) (void)zmq_close(zap->socket);
    free(zap->keys);
    free(zap);
    return code;
}

void zap_free(struct zap *zap)
{
    if (!zap) return;
    (void)pthread_join(zap->thread, NULL);
    free(zap->keys);
    free(zap);
}

int64_t zap_refused(const struct zap *zap)
{
    return atomic_load(&zap->refused);
}
