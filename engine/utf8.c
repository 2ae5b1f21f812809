#include "engine/utf8.h"

#include <assert.h>
#include <string.h>

#define REPLACEMENT "\xEF\xBF\xBD"

/* By first byte: how many follow, and the range of the second (the later ones are always 80..BF). */
struct lead {
    unsigned char first, last, follow, low, high;
};
static const struct lead LEADS[] = {
    {0xC2, 0xDF, 1, 0x80, 0xBF}, {0xE0, 0xE0, 2, 0xA0, 0xBF}, {0xE1, 0xEC, 2, 0x80, 0xBF},
    {0xED, 0xED, 2, 0x80, 0x9F}, {0xEE, 0xEF, 2, 0x80, 0xBF}, {0xF0, 0xF0, 3, 0x90, 0xBF},
    {0xF1, 0xF3, 3, 0x80, 0xBF}, {0xF4, 0xF4, 3, 0x80, 0x8F},
};

static const struct lead *lead_of(unsigned char c)
{
    for (size_t i = 0; i < sizeof LEADS / sizeof LEADS[0]; i++)
        if (c >= LEADS[i].first && c <= LEADS[i].last) return &LEADS[i];
    return NULL;
}

size_t utf8_next(const char *text, size_t len, int32_t *out)
{
    const unsigned char *p = (const unsigned char *)text;
    if (p[0] < 0x80) {
        *out = p[0];
        return 1;
    }
    const struct lead *lead = lead_of(p[0]);
    *out = UTF8_BAD;
    if (!lead) return 1;
    int32_t code = p[0] & (0x3F >> lead->follow);
    for (size_t i = 1; i <= lead->follow; i++) {
        if (i == len) {
            *out = UTF8_CUT;
            return len;
        }
        unsigned char low = i == 1 ? lead->low : 0x80, high = i == 1 ? lead->high : 0xBF;
        if (p[i] < low || p[i] > high) return i;
        code = code << 6 | (p[i] & 0x3F);
    }
    *out = code;
    return (size_t)lead->follow + 1;
}

size_t utf8_put(int32_t code, char out[4])
{
    assert(code >= 0 && code < 0x110000);
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t follow = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const unsigned char MARKS[] = {0, 0xC0, 0xE0, 0xF0};
    for (size_t i = follow; i > 0; i--, code >>= 6) out[i] = (char)(0x80 | (code & 0x3F));
    out[0] = (char)(MARKS[follow] | code);
    return follow + 1;
}

size_t utf8_whole(const char *text, size_t len)
{
    size_t start = len > 3 ? len - 3 : 0;
    for (size_t i = len; i-- > start;) {
        if ((text[i] & 0xC0) == 0x80) continue;
        int32_t code;
        (void)utf8_next(text + i, len - i, &code);
        return code == UTF8_CUT ? i : len;
    }
    return len;
}

static enum err_code feed(struct utf8_stream *s, const char *text, size_t len, struct buf *out)
{
    size_t done = 0; /* text[done, i) is well-formed and waits to be appended */
    for (size_t i = 0; i < len;) {
        int32_t code;
        size_t n = utf8_next(text + i, len - i, &code);
        if (code >= 0) {
            i += n;
            continue;
        }
        (void)buf_add(out, text + done, i - done);
        if (code == UTF8_CUT) {
            memcpy(s->held, text + i, n);
            s->len = (unsigned char)n;
        } else {
            (void)buf_adds(out, REPLACEMENT);
        }
        i += n;
        done = i;
    }
    return buf_add(out, text + done, len - done);
}

enum err_code utf8_stream_feed(struct utf8_stream *s, const char *piece, size_t len, struct buf *out)
{
    while (s->len && len) { /* finish what is held, one byte at a time: three bytes at most */
        char joined[4];
        size_t had = s->len;
        memcpy(joined, s->held, had);
        joined[had] = *piece;
        int32_t code;
        size_t n = utf8_next(joined, had + 1, &code);
        s->len = 0;
        if (code >= 0 || code == UTF8_CUT) {
            piece++;
            len--;
            enum err_code err = feed(s, joined, n, out);
            if (err) return err;
        } else { /* the new byte does not belong to it, and is looked at again */
            enum err_code err = buf_adds(out, REPLACEMENT);
            if (err) return err;
        }
    }
    return feed(s, piece, len, out);
}

enum err_code utf8_stream_end(struct utf8_stream *s, struct buf *out)
{
    if (!s->len) return ERR_OK;
    s->len = 0;
    return buf_adds(out, REPLACEMENT);
}
