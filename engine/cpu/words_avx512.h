/* Panels of types whose blocks need no taking apart (Q8_0, Q4_0, IQ4_NL) from 16 rows of the file, as put_words_panel() in
 * pack.c makes them: words of 16 rows change places in registers. */
#ifndef RUNG_ENGINE_CPU_WORDS_AVX512_H
#define RUNG_ENGINE_CPU_WORDS_AVX512_H

#include "engine/cpu/pack.h"

#include <immintrin.h>
#include <string.h>

static inline __m512i words_four(const uint8_t *a, const uint8_t *b, const uint8_t *c, const uint8_t *d)
{
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const void *)a));
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const void *)b), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const void *)c), 2);
    return _mm512_inserti32x4(v, _mm_loadu_si128((const void *)d), 3);
}

static inline __m512i words_two(const uint8_t *a, const uint8_t *b)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const void *)a)), _mm256_loadu_si256((const void *)b), 1);
}

/* In each 128 bits: four words of four registers change rows for columns. */
static inline void words_turn(__m512i v[4])
{
    __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpackhi_epi32(v[0], v[1]);
    __m512i c = _mm512_unpacklo_epi32(v[2], v[3]), d = _mm512_unpackhi_epi32(v[2], v[3]);
    v[0] = _mm512_unpacklo_epi64(a, c);
    v[1] = _mm512_unpackhi_epi64(a, c);
    v[2] = _mm512_unpacklo_epi64(b, d);
    v[3] = _mm512_unpackhi_epi64(b, d);
}

/* 16 bytes of each row: four words, to `out` as four vectors. */
static inline void words_put4(const uint8_t *const *rows, size_t at, uint8_t *out)
{
    __m512i v[4];
    for (int i = 0; i < 4; i++) v[i] = words_four(rows[i] + at, rows[4 + i] + at, rows[8 + i] + at, rows[12 + i] + at);
    words_turn(v);
    for (int i = 0; i < 4; i++) _mm512_store_si512((void *)(out + i * 64), v[i]);
}

/* 32 bytes of each row: eight words, signs turned. */
static inline void words_put8(const uint8_t *const *rows, size_t at, uint8_t *out)
{
    const __m512i flip = _mm512_set1_epi8((char)0x80);
    __m512i v[4], w[4]; /* words 0 to 3 and 4 to 7 of rows 0-3, 4-7; of rows 8-11, 12-15 */
    for (int i = 0; i < 4; i++) v[i] = words_two(rows[i] + at, rows[4 + i] + at);
    for (int i = 0; i < 4; i++) w[i] = words_two(rows[8 + i] + at, rows[12 + i] + at);
    words_turn(v);
    words_turn(w);
    for (int i = 0; i < 4; i++) {
        _mm512_store_si512((void *)(out + i * 64), _mm512_xor_si512(_mm512_shuffle_i32x4(v[i], w[i], 0x88), flip));
        _mm512_store_si512((void *)(out + 256 + i * 64), _mm512_xor_si512(_mm512_shuffle_i32x4(v[i], w[i], 0xdd), flip));
    }
}

/* `next`: where the rows of the panel after this one begin, which are asked for meanwhile. */
static void put_words(const struct packed *w, uint8_t *to, const uint8_t *const rows[PANEL_ROWS], const uint8_t *next)
{
    const bool eight = w->type == GGUF_Q8_0;
    const int blocks = w->k / 32, each = pack_chunk_blocks(w->type), bytes = pack_chunk_bytes(w->type);
    const size_t size = eight ? 34 : 18;
    for (int b = 0; b < blocks; b++) {
        uint8_t *chunk = to + (size_t)(b / each) * (size_t)bytes, *out = chunk + pack_at_block(w->type, b % each);
        uint16_t *scales = (uint16_t *)(void *)chunk + b % each * PANEL_ROWS;
        size_t at = (size_t)b * size;
        for (size_t l = 0; l < size * PANEL_ROWS; l += 64) _mm_prefetch((const void *)(next + at * PANEL_ROWS + l), _MM_HINT_T1);
        for (int r = 0; r < PANEL_ROWS; r++) memcpy(&scales[r], rows[r] + at, 2);
        if (eight) words_put8(rows, at + 2, out);
        else words_put4(rows, at + 2, out);
    }
}

#endif
