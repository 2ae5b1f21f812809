/* A prompt's shadow for the log, and what can be read from one. Private to the room.
 *
 * 512 bytes: version; three bytes that name the secret key; four that name the router whose scores follow; three scores
 * of that router; the counted features, one byte each; and 2,290 random sums of the prompt's words, each −, 0 or +, five
 * to a byte. Which sums a word goes into only the key tells (two for each distinct word), so that no list of words can be
 * read back; sketches under one key can be compared and fitted to.
 *
 * As a log keeps it (version 3): the same, but runs of bytes that hold five zeros are told by their length. Such a byte is
 * 121 and none is above 242, so that 242 + n stands for n of them, 1 to 13. A prompt of 30 words takes some 180 bytes.
 */
#ifndef RUNG_ROUTER_SKETCH_H
#define RUNG_ROUTER_SKETCH_H

#include "router/features.h"

/* Loops over trits are wanted wide where the machine is; the sums are of integers, so that nothing depends on it. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define SKETCH_WIDE __attribute__((target_clones("avx2", "default"), optimize("O3")))
#else
#define SKETCH_WIDE
#endif

enum {
    SKETCH_VERSION = 2,
    SKETCH_VERSION_PACKED = 3,
    SKETCH_KEY_ID = 3,
    SKETCH_BASE_ID = 4,
    SKETCH_HEAD = 1 + SKETCH_KEY_ID + SKETCH_BASE_ID + TIERS,
    SKETCH_TRITS_A_BYTE = 5,
    SKETCH_TRITS = (ROUTER_SKETCH_BYTES - SKETCH_HEAD - COUNTED) * SKETCH_TRITS_A_BYTE,
};
_Static_assert(SKETCH_TRITS == 2290, "as the picture above says");

struct sketch_key {
    uint64_t word[4];
    unsigned char id[SKETCH_KEY_ID];
};
void sketch_key_init(struct sketch_key *out, const unsigned char key[32]);

/* Sums while walking; small enough for the stack. */
enum { SKETCH_PLACES = 2048 };
struct sketch_sums {
    uint64_t seen[512]; /* words that came before, by 15 bits of their hash: each counts once */
    int16_t at[SKETCH_TRITS];
    int32_t norm2;      /* of all sums */
    int places;         /* entries in place; > SKETCH_PLACES: there were too many */
    uint16_t place[SKETCH_PLACES]; /* sums that a word went into, some of them more than once */
};
void sketch_start(struct sketch_sums *sums);
void sketch_add(struct sketch_sums *sums, const struct sketch_key *key, const struct gram *grams, size_t count);
/* The same for words alone. */
void sketch_add_words(struct sketch_sums *sums, const struct sketch_key *key, const uint32_t *hashes, size_t count);

/* A sketch as it is fitted to and scored. */
struct sketch {
    unsigned char key_id[SKETCH_KEY_ID], base_id[SKETCH_BASE_ID];
    double base[TIERS];      /* that router's probabilities; < 0: it gave none */
    float counted[COUNTED];  /* as coarse as a byte keeps them */
    int8_t trit[SKETCH_TRITS];
    int filled;              /* trits that are not 0 */
};
/* From the sums of a walk; key_id, base_id and base are left alone. */
void sketch_close(struct sketch *out, const struct sketch_sums *sums, const float counted[COUNTED]);
/* A prompt's, of 512 bytes: from the trace of its words, or from its text where that is NULL or holds too few. */
void sketch_make(const struct router_input *in, const struct router_trace *trace, const struct sketch_key *key,
                 const struct router_base *base, unsigned char out[ROUTER_SKETCH_BYTES]);
/* As a log keeps it; returns how many bytes that takes. And back, from either form; false: of another version, or damaged. */
size_t sketch_pack(const unsigned char in[ROUTER_SKETCH_BYTES], unsigned char out[ROUTER_SKETCH_BYTES]);
bool sketch_unpack(const unsigned char *bytes, size_t len, unsigned char out[ROUTER_SKETCH_BYTES]);
/* What one of either form says; false as above. */
bool sketch_read(struct sketch *out, const unsigned char *bytes, size_t len);

#endif
