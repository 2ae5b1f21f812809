/* The wire's one table: every message's fields as rows. The encoder and decoder (msg.c), the section of
 * docs/protocol.md between the `fields` marks and the tests are all driven by it. Private to proto/, and to its tests.
 *
 * A key, once given, keeps its meaning; a field that goes leaves a gap; new fields take the next free key.
 */
#ifndef RUNG_PROTO_MSG_TABLE_H
#define RUNG_PROTO_MSG_TABLE_H

#include "proto/msg.h"

/*        kind           what the struct holds                       on the wire */
#define MSG_KIND_TABLE(X)                                                                            \
    X(KIND_BOOL,    "bool")         /* bool                             true, false */               \
    X(KIND_COUNT,   "count")        /* int64_t, 0..bound                an integer */                \
    X(KIND_INT,     "int")          /* int64_t                          an integer */                \
    X(KIND_SEED,    "u64")          /* uint64_t                         an integer */                \
    X(KIND_MASK,    "bits")         /* uint32_t                         an integer */                \
    X(KIND_ID,      "id")           /* int32_t, 0..2^31-1               an integer */                \
    X(KIND_REAL,    "real")         /* double, finite                   a float or an integer */     \
    X(KIND_TIER,    "tier")         /* enum tier, absent: TIER_NONE     0, 1, 2 */                   \
    X(KIND_CHANNEL, "channel")      /* enum msg_channel                 0, 1, 2 */                   \
    X(KIND_CODE,    "code")         /* enum err_code                    its name, a string */        \
    X(KIND_TEXT,    "text")         /* const char *, closed by a NUL    UTF-8 string, no NUL in it */ \
    X(KIND_STRING,  "text")         /* const char * and size_t          UTF-8 string */              \
    X(KIND_BYTES,   "bytes")        /* const char * and size_t          binary */                    \
    X(KIND_IDS,     "ids")          /* const int32_t * and int          array of integers */         \
    X(KIND_TEXTS,   "texts")        /* const char *const * and int      array of strings */          \
    X(KIND_CHOICES, "texts or nil") /* const char *[MSG_CHOICES_MAX] and int  array of strings and nils */ \
    X(KIND_TIERS,   "reals")        /* double[TIERS], absent: < 0       array of floats, tier by tier */ \
    X(KIND_ONE,     "map")          /* a struct inside                  map */                       \
    X(KIND_MANY,    "maps")         /* const struct * and int           array of maps */

enum msg_kind {
#define X(kind, name) kind,
    MSG_KIND_TABLE(X)
#undef X
};
const char *msg_kind_name(enum msg_kind kind);

enum msg_presence {
    MAY,   /* absent and the kind's default are the same */
    MUST,  /* a message without it is refused; the encoder always writes it */
    EMPTY  /* text: absent reads as "" and NULL is written as absent */
};

struct msg_shape;
struct msg_field {
    int key;
    const char *name;
    enum msg_kind kind;
    enum msg_presence presence;
    size_t offset, count_offset;   /* of the value; of its count or length, for kinds that have one */
    int64_t bound;                 /* largest value, most bytes, or most elements, by kind */
    const struct msg_shape *of;    /* KIND_ONE, KIND_MANY */
    const char *help;
};
struct msg_shape {
    const char *name;
    size_t size;                   /* of the C struct */
    const struct msg_field *fields; /* (count), keys ascending */
    int count;
};

#define MSG_TEXT_MAX (MSG_BYTES_MAX - 65536) /* one text or blob: leaves room for the rest of the message */
#define MSG_STOP_BYTES_MAX 4096

/* NULL when `type` is unknown. */
const struct msg_shape *msg_shape_of(enum msg_type type);
/* The generated section of docs/protocol.md. */
enum err_code msg_table_markdown(struct buf *out);

#endif
