/* A bounded cursor over MessagePack bytes: it never reads past the end, never takes memory, and never believes a
 * declared count that the bytes left could not hold. Private to proto/. Format: the MessagePack specification,
 * github.com/msgpack/msgpack spec.md. */
#ifndef RUNG_PROTO_MSG_READER_H
#define RUNG_PROTO_MSG_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum msg_item_kind {
    ITEM_NIL, ITEM_BOOL, ITEM_UINT, ITEM_NEGATIVE, ITEM_REAL, ITEM_STR, ITEM_BIN, ITEM_ARRAY, ITEM_MAP, ITEM_EXT
};
const char *msg_item_name(enum msg_item_kind kind); /* "a string" */

struct msg_item {
    enum msg_item_kind kind;
    union {
        bool truth;
        uint64_t u;       /* ITEM_UINT */
        int64_t negative; /* ITEM_NEGATIVE: < 0 */
        double real;
    } as;
    const char *data;     /* ITEM_STR, ITEM_BIN, ITEM_EXT: (len) bytes inside the input */
    size_t len;
    uint32_t count;       /* ITEM_ARRAY: elements; ITEM_MAP: pairs. At most what the bytes left could hold. */
};

struct msg_reader {
    const unsigned char *data;
    size_t at, len;
};

/* The next item; of an array or map only its head. NULL, or what is wrong at `at`. */
const char *msg_reader_next(struct msg_reader *r, struct msg_item *out);
/* Step over one whole value, which may nest `depth` deep. NULL, or what is wrong. */
const char *msg_reader_skip(struct msg_reader *r, int depth);

#endif
