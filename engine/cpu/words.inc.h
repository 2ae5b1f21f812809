/* Panels from rows of the file, WORDS_LANES rows at a time: a row is a lane of a vector of words, so that the bits of
 * neighbouring columns are put in order for all of them at once. Included after
 *
 *   WORDS_LANES, WORDS_INLINE
 *   words                                vector of WORDS_LANES uint32_t
 *   void words4(rows, at, words v[4])    16 bytes of each row from `at` on: word j of every row is v[j]
 *   void words8(rows, at, words v[8])    32 bytes
 *   void words_bytes(to, words v)        byte j of lane l is to[j * 16 + l]
 *   void words_ahead(next, from, end)    those bytes are read soon: a hint
 *
 * It gives words_fill(), which writes the same bytes as packed_set_row() does one row after the other. */

#include <stdint.h>
#include <string.h>

WORDS_INLINE void words_put(uint8_t *to, words v)
{
    memcpy(to, &v, sizeof v);
}

/* The low halves of all lanes. */
WORDS_INLINE void words_halves(uint8_t *to, words v)
{
    typedef uint16_t halves __attribute__((vector_size(2 * WORDS_LANES)));
    halves h = __builtin_convertvector(v, halves);
    memcpy(to, &h, sizeof h);
}

/* Two bytes of each row. */
WORDS_INLINE void words_take_halves(uint8_t *to, const uint8_t *const *rows, size_t at)
{
    for (int l = 0; l < WORDS_LANES; l++) memcpy(to + l * 2, rows[l] + at, 2);
}

WORDS_INLINE words words_take(const uint8_t *const *rows, size_t at)
{
    uint32_t each[WORDS_LANES];
    words v;
    for (int l = 0; l < WORDS_LANES; l++) memcpy(&each[l], rows[l] + at, 4);
    memcpy(&v, each, sizeof v);
    return v;
}

/* Fields of `width` bits in each byte of `count` vectors (count × width = 8): field i of vector j and field j of vector i
 * change places. */
WORDS_INLINE void words_turn_fields(words *v, const int count, const int width)
{
    for (int s = count / 2; s > 0; s /= 2) {
        const int shift = s * width;
        const uint32_t mask = shift == 4 ? 0x0f0f0f0f : shift == 2 ? 0x33333333 : 0x55555555;
        for (int i = 0; i < count; i++) {
            if (i & s) continue;
            words t = ((v[i] >> shift) ^ v[i + s]) & mask;
            v[i + s] ^= t;
            v[i] ^= t << shift;
        }
    }
}

/* Bits whose places differ by `shift` change places where the mask has the lower one. */
WORDS_INLINE words words_swap(words v, int shift, uint32_t mask)
{
    words t = ((v >> shift) ^ v) & mask;
    return v ^ t ^ t << shift;
}

/* Bit 4 g + i, of column i of group g, becomes bit g of byte i: five binary digits of a place turn by two. */
WORDS_INLINE words words_fifth_bits(words v)
{
    v = words_swap(v, 14, 0x0000cccc);
    v = words_swap(v, 7, 0x00aa00aa);
    v = words_swap(v, 2, 0x0c0c0c0c);
    return words_swap(v, 1, 0x22222222);
}

/* 32 columns of four bits, which are one half of each byte of 8 words: low bits of a block. */
WORDS_INLINE void words_nibbles(uint8_t *to, const words *w, bool high)
{
    for (int i = 0; i < 4; i++)
        words_put(to + i * 64, high ? (w[i] >> 4 & 0x0f0f0f0f) | (w[i + 4] & 0xf0f0f0f0)
                                    : (w[i] & 0x0f0f0f0f) | (w[i + 4] & 0x0f0f0f0f) << 4);
}

WORDS_INLINE uint8_t *words_block(enum gguf_type type, uint8_t *chunk, int i, int lane)
{
    return chunk + pack_at_block(type, i) + lane * 4;
}

/* Block i of a chunk, of a type with 32 columns to a block. */
WORDS_INLINE void words_small(enum gguf_type type, const uint8_t *const *rows, size_t at, uint8_t *chunk, int i, int lane)
{
    const bool min = pack_has_min(type), five = pack_bits(type) == 5;
    uint8_t *scales = chunk + (i * 16 + lane) * 2, *block = words_block(type, chunk, i, lane);
    words v[8];
    if (pack_bits(type) == 8) {
        words_take_halves(scales, rows, at);
        words8(rows, at + 2, v);
        for (int j = 0; j < 8; j++) words_put(block + j * 64, v[j] ^ 0x80808080);
        return;
    }
    if (min || five) { /* what stands before the quants, and some of them */
        words4(rows, at, v);
        words_halves(scales, v[0]);
        if (min) words_halves(scales + pack_at_min(type), v[0] >> 16);
        if (five) words_put(block, words_fifth_bits(min ? v[1] : v[0] >> 16 | v[1] << 16));
    } else {
        words_take_halves(scales, rows, at);
    }
    words4(rows, at + (min ? 4 : 2) + (five ? 4 : 0), v);
    for (int j = 0; j < 4; j++) words_put(block + pack_high(type) + j * 64, v[j]);
}

WORDS_INLINE void words_q45_k(enum gguf_type type, const uint8_t *const *rows, size_t at, uint8_t *chunk, int lane)
{
    const bool five = type == GGUF_Q5_K;
    uint8_t *mins = chunk + pack_at_min(type) + lane;
    words s[4], h[8], w[8];
    words4(rows, at, s);
    words_halves(chunk + pack_at_super(type) + lane * 2, s[0]);
    words_halves(chunk + pack_at_super_min(type) + lane * 2, s[0] >> 16);
    words_bytes(chunk + lane, s[1] & 0x3f3f3f3f);
    words_bytes(chunk + lane + 64, (s[3] & 0x0f0f0f0f) | (s[1] >> 2 & 0x30303030));
    words_bytes(mins, s[2] & 0x3f3f3f3f);
    words_bytes(mins + 64, (s[3] >> 4 & 0x0f0f0f0f) | (s[2] >> 2 & 0x30303030));
    if (five) {
        words8(rows, at + 16, h);
        words_turn_fields(h, 8, 1);
        for (int b = 0; b < 8; b++) words_put(words_block(type, chunk, b, lane), h[b]);
    }
    for (int pair = 0; pair < 4; pair++) {
        words8(rows, at + (five ? 48 : 16) + (size_t)pair * 32, w);
        for (int i = 0; i < 2; i++) words_nibbles(words_block(type, chunk, pair * 2 + i, lane) + pack_high(type), w, i == 1);
    }
}

/* Two bits of 128 columns, from 32 bytes of each row to `to` of four blocks. */
WORDS_INLINE void words_pairs(enum gguf_type type, const uint8_t *const *rows, size_t at, uint8_t *chunk, int first, int skip, int lane)
{
    words w[8];
    words8(rows, at, w);
    words_turn_fields(w, 4, 2);
    words_turn_fields(w + 4, 4, 2);
    for (int b = 0; b < 4; b++) {
        uint8_t *to = words_block(type, chunk, first + b, lane) + skip;
        words_put(to, w[b]);
        words_put(to + 64, w[4 + b]);
    }
}

WORDS_INLINE void words_q6_k(const uint8_t *const *rows, size_t at, uint8_t *chunk, int lane)
{
    const enum gguf_type type = GGUF_Q6_K;
    words s[4], w[2][8];
    words4(rows, at + 192, s);
    for (int j = 0; j < 4; j++) words_bytes(chunk + lane + j * 64, s[j]);
    words_take_halves(chunk + pack_at_super(type) + lane * 2, rows, at + 208);
    for (int half = 0; half < 2; half++) {
        for (int i = 0; i < 2; i++) words8(rows, at + (size_t)(half * 64 + i * 32), w[i]);
        for (int b = 0; b < 4; b++)
            words_nibbles(words_block(type, chunk, half * 4 + b, lane) + pack_high(type), w[b % 2], b / 2 == 1);
        words_pairs(type, rows, at + 128 + (size_t)half * 32, chunk, half * 4, 0, lane);
    }
}

WORDS_INLINE void words_q2_k(const uint8_t *const *rows, size_t at, uint8_t *chunk, int lane)
{
    const enum gguf_type type = GGUF_Q2_K;
    words s[4], d = words_take(rows, at + 80);
    words4(rows, at, s);
    for (int j = 0; j < 4; j++) {
        words_bytes(chunk + lane + j * 64, s[j] & 0x0f0f0f0f);
        words_bytes(chunk + pack_at_min(type) + lane + j * 64, s[j] >> 4 & 0x0f0f0f0f);
    }
    words_halves(chunk + pack_at_super(type) + lane * 2, d);
    words_halves(chunk + pack_at_super_min(type) + lane * 2, d >> 16);
    for (int half = 0; half < 2; half++) words_pairs(type, rows, at + 16 + (size_t)half * 32, chunk, half * 4, 0, lane);
}

WORDS_INLINE void words_q3_k(const uint8_t *const *rows, size_t at, uint8_t *chunk, int lane)
{
    const enum gguf_type type = GGUF_Q3_K;
    words h[8], low[2] = {words_take(rows, at + 96), words_take(rows, at + 100)}, high = words_take(rows, at + 104);
    for (int j = 0; j < 4; j++) {
        words s = (low[j % 2] >> (j / 2 * 4) & 0x0f0f0f0f) | (high >> (j * 2) & 0x03030303) << 4;
        words_bytes(chunk + lane + j * 64, ((s ^ 0x20202020) & 0x3f3f3f3f) | (~s & 0x20202020) << 1 | (~s & 0x20202020) << 2); /* s - 32 */
    }
    words_take_halves(chunk + pack_at_super(type) + lane * 2, rows, at + 108);
    words8(rows, at, h);
    words_turn_fields(h, 8, 1);
    for (int b = 0; b < 8; b++) words_put(words_block(type, chunk, b, lane), h[b]);
    for (int half = 0; half < 2; half++) words_pairs(type, rows, at + 32 + (size_t)half * 32, chunk, half * 4, pack_high(type), lane);
}

WORDS_INLINE void words_lanes(enum gguf_type type, const uint8_t *const *rows, size_t at, uint8_t *chunk, int i, int lane)
{
    if (type == GGUF_Q4_K || type == GGUF_Q5_K) words_q45_k(type, rows, at, chunk, lane);
    else if (type == GGUF_Q6_K) words_q6_k(rows, at, chunk, lane);
    else if (type == GGUF_Q2_K) words_q2_k(rows, at, chunk, lane);
    else if (type == GGUF_Q3_K) words_q3_k(rows, at, chunk, lane);
    else words_small(type, rows, at, chunk, i, lane);
}

WORDS_INLINE void words_fill_type(enum gguf_type type, int k, uint8_t *panel, const uint8_t *const *rows, const uint8_t *next)
{
    const int elements = pack_super(type) ? PACK_SUPER : 32, each = pack_super(type) ? 1 : pack_chunk_blocks(type);
    const size_t size = pack_row_bytes(type, elements);
    for (int b = 0; b < k / elements; b++) {
        uint8_t *chunk = panel + (size_t)(b / each) * (size_t)pack_chunk_bytes(type);
        const size_t at = (size_t)b * size;
        words_ahead(next, at * PANEL_ROWS, (at + size) * PANEL_ROWS);
        for (int lane = 0; lane < PANEL_ROWS; lane += WORDS_LANES) words_lanes(type, rows + lane, at, chunk, b % each, lane);
    }
}

/* A panel from its rows. `next`: where the rows of the panel after this one begin, which are asked for meanwhile. */
static void words_fill(enum gguf_type type, int k, uint8_t *panel, const uint8_t *const rows[PANEL_ROWS], const uint8_t *next)
{
    switch (type) {
#define WORDS_CASE(t)                                                                                                  \
    case t: words_fill_type(t, k, panel, rows, next); break;
        WORDS_CASE(GGUF_Q8_0)
        WORDS_CASE(GGUF_Q4_0)
        WORDS_CASE(GGUF_Q4_1)
        WORDS_CASE(GGUF_Q5_0)
        WORDS_CASE(GGUF_Q5_1)
        WORDS_CASE(GGUF_IQ4_NL)
        WORDS_CASE(GGUF_Q2_K)
        WORDS_CASE(GGUF_Q3_K)
        WORDS_CASE(GGUF_Q4_K)
        WORDS_CASE(GGUF_Q5_K)
        WORDS_CASE(GGUF_Q6_K)
    default: break;
    }
}
