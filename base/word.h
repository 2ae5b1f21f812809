/* Short text into a fixed place, cut where it does not fit: what snprintf("%s") does, without its cost. NULL reads as "". */
#ifndef RUNG_BASE_WORD_H
#define RUNG_BASE_WORD_H

#include <stddef.h>
#include <string.h>

static inline void word_copy(char *out, size_t size, const char *text)
{
    size_t len = text ? strnlen(text, size - 1) : 0;
    if (len) memcpy(out, text, len);
    out[len] = 0;
}

#endif
