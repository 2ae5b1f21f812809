#include "proto/msg_reader.h"

#include <string.h>

static const char ENDS[] = "the bytes end inside a value";

const char *msg_item_name(enum msg_item_kind kind)
{
    static const char *const NAMES[] = {"nil",    "a bool",   "an integer", "a negative integer", "a float",
                                        "a string", "a binary", "an array",   "a map",              "an extension"};
    return NAMES[kind];
}

/* `bytes` (≤ 8) as a big-endian number. */
static bool take_number(struct msg_reader *r, int bytes, uint64_t *out)
{
    if (r->len - r->at < (size_t)bytes) return false;
    uint64_t n = 0;
    for (int i = 0; i < bytes; i++) n = n << 8 | r->data[r->at++];
    *out = n;
    return true;
}

static const char *take_data(struct msg_reader *r, struct msg_item *out, enum msg_item_kind kind, uint64_t len)
{
    if (r->len - r->at < len) return "a string or binary longer than the message";
    out->kind = kind;
    out->data = (const char *)r->data + r->at;
    out->len = (size_t)len;
    r->at += (size_t)len;
    return NULL;
}

static const char *take_count(struct msg_reader *r, struct msg_item *out, enum msg_item_kind kind, uint64_t count)
{
    uint64_t least = kind == ITEM_MAP ? count * 2 : count; /* count < 2^32: cannot overflow */
    if (r->len - r->at < least) return "an array or map of more elements than the message has bytes";
    out->kind = kind;
    out->count = (uint32_t)count;
    return NULL;
}

static void give_signed(struct msg_item *out, int64_t value)
{
    out->kind = value < 0 ? ITEM_NEGATIVE : ITEM_UINT;
    if (value < 0) out->as.negative = value;
    else out->as.u = (uint64_t)value;
}

static const char *take_signed(struct msg_reader *r, struct msg_item *out, int bytes)
{
    uint64_t n;
    if (!take_number(r, bytes, &n)) return ENDS;
    int shift = 64 - 8 * bytes;
    give_signed(out, (int64_t)(n << shift) >> shift);
    return NULL;
}

static const char *take_float(struct msg_reader *r, struct msg_item *out, int bytes)
{
    uint64_t n;
    if (!take_number(r, bytes, &n)) return ENDS;
    out->kind = ITEM_REAL;
    if (bytes == 4) {
        uint32_t narrow = (uint32_t)n;
        float f;
        memcpy(&f, &narrow, sizeof f);
        out->as.real = (double)f;
    } else {
        memcpy(&out->as.real, &n, sizeof n);
    }
    return NULL;
}

static const char *take_ext(struct msg_reader *r, struct msg_item *out, uint64_t len)
{
    return take_data(r, out, ITEM_EXT, len + 1); /* its type byte comes before its data */
}

/* The formats 0xc0..0xdf. */
static const char *next_marked(struct msg_reader *r, struct msg_item *out, unsigned char head)
{
    uint64_t n = 0;
    switch (head) {
    case 0xc0: out->kind = ITEM_NIL; return NULL;
    case 0xc2:
    case 0xc3:
        out->kind = ITEM_BOOL;
        out->as.truth = head == 0xc3;
        return NULL;
    case 0xc4: case 0xc5: case 0xc6:
        return take_number(r, 1 << (head - 0xc4), &n) ? take_data(r, out, ITEM_BIN, n) : ENDS;
    case 0xc7: case 0xc8: case 0xc9:
        return take_number(r, 1 << (head - 0xc7), &n) ? take_ext(r, out, n) : ENDS;
    case 0xca: return take_float(r, out, 4);
    case 0xcb: return take_float(r, out, 8);
    case 0xcc: case 0xcd: case 0xce: case 0xcf:
        if (!take_number(r, 1 << (head - 0xcc), &out->as.u)) return ENDS;
        out->kind = ITEM_UINT;
        return NULL;
    case 0xd0: case 0xd1: case 0xd2: case 0xd3: return take_signed(r, out, 1 << (head - 0xd0));
    case 0xd4: case 0xd5: case 0xd6: case 0xd7: case 0xd8: return take_ext(r, out, 1U << (head - 0xd4));
    case 0xd9: case 0xda: case 0xdb:
        return take_number(r, 1 << (head - 0xd9), &n) ? take_data(r, out, ITEM_STR, n) : ENDS;
    case 0xdc: case 0xdd:
        return take_number(r, 2 << (head - 0xdc), &n) ? take_count(r, out, ITEM_ARRAY, n) : ENDS;
    case 0xde: case 0xdf:
        return take_number(r, 2 << (head - 0xde), &n) ? take_count(r, out, ITEM_MAP, n) : ENDS;
    default: return "a byte that starts no MessagePack value (0xc1)";
    }
}

const char *msg_reader_next(struct msg_reader *r, struct msg_item *out)
{
    if (r->at >= r->len) return ENDS;
    unsigned char head = r->data[r->at++];
    if (head < 0x80 || head >= 0xe0) {
        give_signed(out, (signed char)head);
        return NULL;
    }
    if (head < 0x90) return take_count(r, out, ITEM_MAP, head & 0x0f);
    if (head < 0xa0) return take_count(r, out, ITEM_ARRAY, head & 0x0f);
    if (head < 0xc0) return take_data(r, out, ITEM_STR, head & 0x1f);
    return next_marked(r, out, head);
}

const char *msg_reader_skip(struct msg_reader *r, int depth)
{
    struct msg_item item;
    const char *wrong = msg_reader_next(r, &item);
    if (wrong) return wrong;
    if (item.kind != ITEM_ARRAY && item.kind != ITEM_MAP) return NULL;
    if (depth <= 0) return "a value nested deeper than the limit";
    uint64_t items = item.kind == ITEM_MAP ? (uint64_t)item.count * 2 : item.count;
    for (uint64_t i = 0; i < items && !wrong; i++) wrong = msg_reader_skip(r, depth - 1);
    return wrong;
}
