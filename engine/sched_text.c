#include "engine/sched_text.h"

#include <stdlib.h>
#include <string.h>

enum { HELD_MAX = 1 << 20 };

enum err_code text_init(struct text *t, const char *const *stop, int stops, struct err *e)
{
    memset(t, 0, sizeof *t);
    buf_init(&t->held, HELD_MAX);
    buf_init(&t->shown, HELD_MAX);
    if (stops < 0 || stops > TEXT_STOPS_MAX)
        return err_set_param(e, ERR_INVALID, "stop", "%d stop strings; at most %d are taken", stops, TEXT_STOPS_MAX);
    for (int i = 0; i < stops; i++) {
        size_t len = stop[i] ? strlen(stop[i]) : 0;
        if (len == 0 || len > TEXT_STOP_BYTES_MAX) {
            text_release(t);
            return err_set_param(e, ERR_INVALID, "stop", "stop string %d has %zu bytes; 1 to %d are taken", i, len,
                                 TEXT_STOP_BYTES_MAX);
        }
        if (!(t->stop[i] = strdup(stop[i]))) {
            text_release(t);
            return err_set(e, ERR_MEMORY, "no memory for the stop strings");
        }
        t->stop_len[i] = len;
        t->stops = i + 1;
    }
    return ERR_OK;
}

void text_release(struct text *t)
{
    for (int i = 0; i < t->stops; i++) free(t->stop[i]);
    t->stops = 0;
    buf_release(&t->held);
    buf_release(&t->shown);
}

/* Where the first stop string begins in what is held; len when there is none. */
static size_t find_stop(const struct text *t)
{
    size_t first = t->held.len;
    for (int i = 0; i < t->stops; i++) {
        const char *at = memmem(t->held.data, t->held.len, t->stop[i], t->stop_len[i]);
        if (at && (size_t)(at - t->held.data) < first) first = (size_t)(at - t->held.data);
    }
    return first;
}

/* The length of the longest end of what is held that begins a stop string. */
static size_t begun(const struct text *t)
{
    size_t most = 0;
    for (int i = 0; i < t->stops; i++) {
        size_t n = t->stop_len[i] - 1 < t->held.len ? t->stop_len[i] - 1 : t->held.len;
        for (; n > most; n--)
            if (memcmp(t->held.data + t->held.len - n, t->stop[i], n) == 0) break;
        if (n > most) most = n;
    }
    return most;
}

bool text_feed(struct text *t, const char *bytes, size_t len)
{
    buf_clear(&t->shown);
    if (utf8_stream_feed(&t->utf8, bytes, len, &t->held) != ERR_OK) return true; /* out of memory: end here */
    size_t stop = find_stop(t);
    if (stop < t->held.len) {
        (void)buf_add(&t->shown, t->held.data, stop);
        buf_clear(&t->held);
        t->utf8.len = 0;
        return true;
    }
    size_t show = t->held.len - begun(t);
    (void)buf_add(&t->shown, t->held.data, show);
    buf_drop(&t->held, show);
    return false;
}

void text_end(struct text *t)
{
    buf_clear(&t->shown);
    if (utf8_stream_end(&t->utf8, &t->held) == ERR_OK) (void)buf_add(&t->shown, t->held.data, t->held.len);
    buf_clear(&t->held);
}
