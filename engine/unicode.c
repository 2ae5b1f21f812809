#include "engine/unicode.h"
#include "engine/unicode_table.h"

#include <stddef.h>

#define RANGES (sizeof UNICODE_RANGES / sizeof UNICODE_RANGES[0])
#define CASED (sizeof UNICODE_CASED / sizeof UNICODE_CASED[0])

static bool is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
           c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

uint8_t unicode_kind(uint32_t code)
{
    if (code >= 'a' && code <= 'z') return (uint8_t)UNICODE_LOWER; /* the most common first */
    if (is_space(code)) return UNICODE_SPACE;
    if (code > 0x10FFFF) return UNICODE_OTHER;
    size_t low = 0, high = RANGES; /* the range in [low, high) that holds code */
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (UNICODE_RANGES[middle].start <= code) low = middle;
        else high = middle;
    }
    return UNICODE_RANGES[low].kind;
}

bool unicode_is_cased(uint32_t code)
{
    size_t low = 0, high = CASED;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (code < UNICODE_CASED[middle][0]) high = middle;
        else if (code > UNICODE_CASED[middle][1]) low = middle + 1;
        else return true;
    }
    return false;
}
