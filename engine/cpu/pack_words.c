/* Panels from rows of the file on any machine, four rows at a time. */
#include "engine/cpu/pack.h"

#include <string.h>

#define WORDS_LANES 4
#define WORDS_INLINE static inline __attribute__((always_inline))
typedef uint32_t words __attribute__((vector_size(16)));

WORDS_INLINE words word_row(const uint8_t *p)
{
    words v;
    memcpy(&v, p, sizeof v);
    return v;
}

WORDS_INLINE void words4(const uint8_t *const *rows, size_t at, words *out)
{
    words a = word_row(rows[0] + at), b = word_row(rows[1] + at), c = word_row(rows[2] + at), d = word_row(rows[3] + at);
    words ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    out[0] = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
    out[1] = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    ab = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    cd = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    out[2] = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
    out[3] = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

WORDS_INLINE void words8(const uint8_t *const *rows, size_t at, words *out)
{
    words4(rows, at, out);
    words4(rows, at + 16, out + 4);
}

WORDS_INLINE void words_bytes(uint8_t *to, words v)
{
    typedef uint8_t bytes __attribute__((vector_size(16)));
    for (int i = 0; i < 2; i++) { /* rows of the lower and the upper half become neighbours, twice */
        bytes low = (bytes)v, high = (bytes)__builtin_shufflevector(v, v, 2, 3, 2, 3);
        v = (words)__builtin_shufflevector(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    }
    for (int j = 0; j < 4; j++) {
        uint32_t four = v[j];
        memcpy(to + j * PANEL_ROWS, &four, 4);
    }
}

WORDS_INLINE void words_ahead(const uint8_t *next, size_t from, size_t end)
{
    (void)next, (void)from, (void)end;
}

#include "engine/cpu/words.inc.h"

void pack_words(enum gguf_type type, int k, uint8_t *panel, const uint8_t *const rows[PANEL_ROWS])
{
    words_fill(type, k, panel, rows, NULL);
}
