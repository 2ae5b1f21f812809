/* The few MessagePack forms a batch of log rows is made of, written and read without memory of its own: every count
 * is held against the bytes that are left before it is believed. Inside the room only.
 * https://github.com/msgpack/msgpack/blob/master/spec.md
 */
#ifndef RUNG_ROUTER_LOG_PACK_H
#define RUNG_ROUTER_LOG_PACK_H

#include "base/buf.h"
#include "router/log_columns.h"

void pack_array(struct buf *b, uint32_t count);
void pack_value(struct buf *b, const struct log_value *value);
void pack_integer(struct buf *b, int64_t value);
void pack_text(struct buf *b, const char *text, size_t len);
void pack_bytes(struct buf *b, const void *bytes, size_t len);
void pack_nil(struct buf *b);

struct unpack {
    const unsigned char *at, *end;
    bool bad; /* something did not fit: everything read after it is empty */
};
/* How many elements the array has that begins here; 0 and bad when it is none, or has more than `max` or more than
 * there are bytes for. */
uint32_t unpack_array(struct unpack *u, uint32_t max);
/* The scalar that begins here: nil, a boolean (as an integer), integer, float, string or binary. An integer beyond
 * INT64_MAX is bad. */
struct log_value unpack_value(struct unpack *u);
int64_t unpack_integer(struct unpack *u);
/* Pass over one value of any kind, at most `depth` arrays or maps deep. */
void unpack_skip(struct unpack *u, int depth);

#endif
