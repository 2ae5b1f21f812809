/* Panels from rows of the file on any machine, four rows at a time. */
#include "engine/cpu/pack.h"

#include <string.h>

#define WORDS_LANES 4
typedef uint32_t words __attribute__((vector_size(16)));

static inline words word_row(const uint8_t *p)
{
    words v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void words4(const uint8_t *const *rows, size_t at, words *out)
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

static inline void words8(const uint8_t *const *rows, size_t at, words *out)
{
    words4(rows, at, out);
    words4(rows, at + 16, out + 4);
}

static inline void words_bytes(uint8_t *to, words v)
{
    typedef uint8_t bytes __attribute__((vector_size(16)));
    bytes b = (bytes)v;
    b = __builtin_shufflevector(b, b, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    words w = (words)b;
    for (int j = 0; j < 4; j++) {
        uint32_t four = w[j];
        memcpy(to + j * PANEL_ROWS, &four, 4);
    }
}

static inline void words_ahead(const uint8_t *next, size_t from, size_t end)
{
    (void)next, (void)from, (void)end;
}

#include "engine/cpu/words.inc.h"

void pack_words(enum gguf_type type, int k, uint8_t *panel, const uint8_t *const rows[PANEL_ROWS])
{
    for (int lane = 0; lane < PANEL_ROWS; lane += WORDS_LANES) words_fill(type, k, panel, lane, rows + lane, NULL);
}
