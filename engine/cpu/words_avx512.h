/* Whole panels at once from 16 rows of the file: words of all rows change places in registers. */
#ifndef RUNG_ENGINE_CPU_WORDS_AVX512_H
#define RUNG_ENGINE_CPU_WORDS_AVX512_H

#include "engine/cpu/pack.h"

#include <immintrin.h>
#include <string.h>

#define WORDS_LANES 16
#define WORDS_INLINE static inline __attribute__((always_inline)) /* else gcc drops the prefetches */
typedef uint32_t words __attribute__((vector_size(64)));

WORDS_INLINE __m512i words_four(const uint8_t *a, const uint8_t *b, const uint8_t *c, const uint8_t *d)
{
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const void *)a));
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const void *)b), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const void *)c), 2);
    return _mm512_inserti32x4(v, _mm_loadu_si128((const void *)d), 3);
}

WORDS_INLINE __m512i words_two(const uint8_t *a, const uint8_t *b)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const void *)a)), _mm256_loadu_si256((const void *)b), 1);
}

/* In each 128 bits: four words of four registers change rows for columns. */
WORDS_INLINE void words_turn(__m512i v[4])
{
    __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpackhi_epi32(v[0], v[1]);
    __m512i c = _mm512_unpacklo_epi32(v[2], v[3]), d = _mm512_unpackhi_epi32(v[2], v[3]);
    v[0] = _mm512_unpacklo_epi64(a, c);
    v[1] = _mm512_unpackhi_epi64(a, c);
    v[2] = _mm512_unpacklo_epi64(b, d);
    v[3] = _mm512_unpackhi_epi64(b, d);
}

WORDS_INLINE void words4(const uint8_t *const *rows, size_t at, words *out)
{
    __m512i v[4];
    for (int i = 0; i < 4; i++) v[i] = words_four(rows[i] + at, rows[4 + i] + at, rows[8 + i] + at, rows[12 + i] + at);
    words_turn(v);
    for (int i = 0; i < 4; i++) out[i] = (words)v[i];
}

WORDS_INLINE void words8(const uint8_t *const *rows, size_t at, words *out)
{
    __m512i v[4], w[4]; /* words 0 to 3 and 4 to 7 of rows 0-3, 4-7; of rows 8-11, 12-15 */
    for (int i = 0; i < 4; i++) v[i] = words_two(rows[i] + at, rows[4 + i] + at);
    for (int i = 0; i < 4; i++) w[i] = words_two(rows[8 + i] + at, rows[12 + i] + at);
    words_turn(v);
    words_turn(w);
    for (int i = 0; i < 4; i++) {
        out[i] = (words)_mm512_shuffle_i32x4(v[i], w[i], 0x88);
        out[4 + i] = (words)_mm512_shuffle_i32x4(v[i], w[i], 0xdd);
    }
}

WORDS_INLINE void words_bytes(uint8_t *to, words v)
{
    const __m512i in_four = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const __m512i fours = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_si512((void *)to, _mm512_permutexvar_epi32(fours, _mm512_shuffle_epi8((__m512i)v, in_four)));
}

WORDS_INLINE void words_ahead(const uint8_t *next, size_t from, size_t end)
{
    for (; from < end; from += 64) _mm_prefetch((const void *)(next + from), _MM_HINT_T1);
}

#include "engine/cpu/words.inc.h"

static void put_words(const struct packed *w, uint8_t *to, const uint8_t *const rows[PANEL_ROWS], const uint8_t *next)
{
    words_fill(w->type, w->k, to, rows, next);
}

#endif
