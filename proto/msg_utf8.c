#include "proto/msg_utf8.h"

#include <stdint.h>
#include <string.h>

/* Bytes of the character at `p`, or 0 when it is not one. */
static size_t character(const unsigned char *p, size_t left)
{
    unsigned char head = p[0];
    if (head < 0x80) return 1;
    size_t need = head >= 0xf0 ? 4 : head >= 0xe0 ? 3 : 2;
    if (head < 0xc2 || head > 0xf4 || left < need) return 0;
    for (size_t i = 1; i < need; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    if (head == 0xe0 && p[1] < 0xa0) return 0; /* longer than it need be */
    if (head == 0xed && p[1] > 0x9f) return 0; /* a surrogate */
    if (head == 0xf0 && p[1] < 0x90) return 0;
    if (head == 0xf4 && p[1] > 0x8f) return 0; /* past U+10FFFF */
    return need;
}

size_t msg_utf8_valid(const char *text, size_t len)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t at = 0;
    while (at < len) {
        uint64_t eight;
        while (len - at >= 8) { /* most text is ASCII: eight bytes at a time */
            memcpy(&eight, p + at, 8);
            if (eight & 0x8080808080808080U) break;
            at += 8;
        }
        if (at == len) break;
        size_t n = character(p + at, len - at);
        if (n == 0) return at;
        at += n;
    }
    return at;
}
