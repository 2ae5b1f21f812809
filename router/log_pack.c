#include "router/log_pack.h"

#include <string.h>

static void put(struct buf *b, unsigned char mark, uint64_t value, int bytes)
{
    unsigned char out[9] = {mark};
    for (int i = 0; i < bytes; i++) out[1 + i] = (unsigned char)(value >> (8 * (bytes - 1 - i)));
    (void)buf_add(b, out, 1 + (size_t)bytes);
}

void pack_array(struct buf *b, uint32_t count)
{
    if (count < 16) put(b, (unsigned char)(0x90 | count), 0, 0);
    else if (count <= UINT16_MAX) put(b, 0xdc, count, 2);
    else put(b, 0xdd, count, 4);
}

void pack_integer(struct buf *b, int64_t value)
{
    if (value < 0) put(b, 0xd3, (uint64_t)value, 8);
    else if (value < 128) put(b, (unsigned char)value, 0, 0);
    else if (value <= UINT16_MAX) put(b, 0xcd, (uint64_t)value, 2);
    else if (value <= UINT32_MAX) put(b, 0xce, (uint64_t)value, 4);
    else put(b, 0xcf, (uint64_t)value, 8);
}

void pack_text(struct buf *b, const char *text, size_t len)
{
    if (len < 32) put(b, (unsigned char)(0xa0 | len), 0, 0);
    else put(b, 0xda, len, 2); /* no column is longer than 64 KiB */
    (void)buf_add(b, text, len);
}

void pack_bytes(struct buf *b, const void *bytes, size_t len)
{
    put(b, 0xc5, len, 2);
    (void)buf_add(b, bytes, len);
}

void pack_nil(struct buf *b)
{
    put(b, 0xc0, 0, 0);
}

static void pack_real(struct buf *b, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put(b, 0xcb, bits, 8);
}

void pack_value(struct buf *b, const struct log_value *value)
{
    switch (value->kind) {
    case VALUE_NULL: pack_nil(b); break;
    case VALUE_INTEGER: pack_integer(b, value->integer); break;
    case VALUE_REAL: pack_real(b, value->real); break;
    case VALUE_TEXT: pack_text(b, value->bytes, value->len); break;
    case VALUE_BLOB: pack_bytes(b, value->bytes, value->len); break;
    }
}

static uint64_t take(struct unpack *u, int bytes)
{
    if (u->bad || u->end - u->at < bytes) {
        u->bad = true;
        return 0;
    }
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++) value = value << 8 | *u->at++;
    return value;
}

static uint32_t counted(struct unpack *u, uint64_t count, uint32_t max)
{
    if (u->bad || count > max || count > (uint64_t)(u->end - u->at)) { /* each element is a byte at least */
        u->bad = true;
        return 0;
    }
    return (uint32_t)count;
}

uint32_t unpack_array(struct unpack *u, uint32_t max)
{
    unsigned mark = (unsigned)take(u, 1);
    if ((mark & 0xf0) == 0x90) return counted(u, mark & 0x0f, max);
    if (mark == 0xdc) return counted(u, take(u, 2), max);
    if (mark == 0xdd) return counted(u, take(u, 4), max);
    u->bad = true;
    return 0;
}

static struct log_value nothing(struct unpack *u)
{
    u->bad = true;
    return (struct log_value){.kind = VALUE_NULL};
}

static struct log_value whole(struct unpack *u, uint64_t value)
{
    if (u->bad || value > INT64_MAX) return nothing(u);
    return (struct log_value){.kind = VALUE_INTEGER, .integer = (int64_t)value};
}

static struct log_value negative(struct unpack *u, int bytes)
{
    uint64_t value = take(u, bytes);
    if (u->bad) return nothing(u);
    int64_t out = bytes == 1 ? (int8_t)value : bytes == 2 ? (int16_t)value : bytes == 4 ? (int32_t)value : (int64_t)value;
    return (struct log_value){.kind = VALUE_INTEGER, .integer = out};
}

static struct log_value floating(struct unpack *u, int bytes)
{
    uint64_t bits = take(u, bytes);
    double value;
    if (bytes == 4) {
        uint32_t bits32 = (uint32_t)bits;
        float single;
        memcpy(&single, &bits32, sizeof single);
        value = (double)single;
    } else {
        memcpy(&value, &bits, sizeof value);
    }
    if (u->bad) return nothing(u);
    return (struct log_value){.kind = VALUE_REAL, .real = value};
}

static struct log_value run_of(struct unpack *u, uint64_t len, bool text)
{
    if (u->bad || len > (uint64_t)(u->end - u->at)) return nothing(u);
    struct log_value value = {.kind = text ? VALUE_TEXT : VALUE_BLOB, .bytes = u->at, .len = (size_t)len};
    u->at += len;
    return value;
}

struct log_value unpack_value(struct unpack *u)
{
    unsigned mark = (unsigned)take(u, 1);
    if (u->bad) return nothing(u);
    if (mark < 0x80) return whole(u, mark);
    if (mark >= 0xe0) return (struct log_value){.kind = VALUE_INTEGER, .integer = (int8_t)mark};
    if ((mark & 0xe0) == 0xa0) return run_of(u, mark & 0x1f, true);
    switch (mark) {
    case 0xc0: return (struct log_value){.kind = VALUE_NULL};
    case 0xc2: case 0xc3: return whole(u, mark & 1);
    case 0xc4: return run_of(u, take(u, 1), false);
    case 0xc5: return run_of(u, take(u, 2), false);
    case 0xc6: return run_of(u, take(u, 4), false);
    case 0xca: return floating(u, 4);
    case 0xcb: return floating(u, 8);
    case 0xcc: return whole(u, take(u, 1));
    case 0xcd: return whole(u, take(u, 2));
    case 0xce: return whole(u, take(u, 4));
    case 0xcf: return whole(u, take(u, 8));
    case 0xd0: return negative(u, 1);
    case 0xd1: return negative(u, 2);
    case 0xd2: return negative(u, 4);
    case 0xd3: return negative(u, 8);
    case 0xd9: return run_of(u, take(u, 1), true);
    case 0xda: return run_of(u, take(u, 2), true);
    case 0xdb: return run_of(u, take(u, 4), true);
    default: return nothing(u); /* an array, a map, an extension */
    }
}

int64_t unpack_integer(struct unpack *u)
{
    struct log_value value = unpack_value(u);
    if (value.kind != VALUE_INTEGER) u->bad = true;
    return u->bad ? 0 : value.integer;
}

void unpack_skip(struct unpack *u, int depth)
{
    unsigned mark = u->at < u->end ? *u->at : 0xc1;
    bool array = (mark & 0xf0) == 0x90 || mark == 0xdc || mark == 0xdd;
    if (!array) {
        (void)unpack_value(u); /* no later layout may use maps or extensions: this says so */
        return;
    }
    if (depth <= 0) u->bad = true;
    uint32_t count = u->bad ? 0 : unpack_array(u, UINT32_MAX);
    for (uint32_t i = 0; i < count && !u->bad; i++) unpack_skip(u, depth - 1);
}
