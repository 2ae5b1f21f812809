/* Part of kernels.inc.h for sets with matrix tiles: one panel × full groups of 16 columns.
 *
 * A panel is worked on in spans of 8 blocks: quants are brought to bytes and scales to floats once, in the first-level
 * cache, for all columns. A unit is what shares a scale (32 or 16 columns of the matrix); four units' sums are in flight. */

enum { SPAN_BLOCKS = 8, SPAN_UNITS = 2 * SPAN_BLOCKS, TILE = 16 };

struct span {
    int first, blocks;                             /* of the panel */
    const uint8_t *q[SPAN_UNITS];                  /* (columns / 4, 16 rows, 4) */
    float scale[SPAN_UNITS][16], offset[SPAN_UNITS][16];
    _Alignas(64) uint8_t bytes[SPAN_BLOCKS * 512]; /* quants of types that are not bytes in the panel */
};

INLINE void span_fill(enum gguf_type type, const uint8_t *panel, int blocks, int first, struct span *s)
{
    const int each = pack_chunk_blocks(type), subs = 32 / pack_sub(type), unit = 512 / subs;
    s->first = first;
    s->blocks = blocks - first < SPAN_BLOCKS ? blocks - first : SPAN_BLOCKS;
    for (int i = 0; i < s->blocks; i++) {
        const uint8_t *chunk = panel + (size_t)((first + i) / each) * (size_t)pack_chunk_bytes(type);
        const int in = (first + i) % each;
        const uint8_t *high = chunk + pack_at_block(type, in), *low = high + pack_high(type), *at = low;
        if (pack_bits(type) != 8) {
            at = s->bytes + i * 512;
#pragma GCC unroll 8
            for (int j = 0; j < 8; j++) vb_store(s->bytes + i * 512 + j * 64, quants(type, low, high, j));
        }
        for (int sub = 0; sub < subs; sub++) {
            const int u = i * subs + sub;
            s->q[u] = at + sub * unit;
            vf_store(s->scale[u], scales(type, chunk, in * subs + sub));
            if (pack_has_min(type)) vf_store(s->offset[u], offsets(type, chunk, in * subs + sub));
        }
    }
}

/* Sums of up to four units from unit u on, for 16 columns; x: the group's activations, (block, 16 columns, 32). */
INLINE void tile_sums(const int subs, const struct span *s, const int8_t *x, int u, int count, int32_t (*sums)[TILE * TILE])
{
    const int unit = 32 / subs;
#define TILE_AT(n) x + ((size_t)(s->first + (u + (n)) / subs) * TILE * 32 + (size_t)((u + (n)) % subs * unit))
#define TILE_UNIT(n, a, b)                                                                                             \
    if (count > (n)) {                                                                                                 \
        tile_zero(n);                                                                                                  \
        tile_load(a, TILE_AT(n), 32);                                                                                  \
        tile_load(b, s->q[u + (n)], 64);                                                                               \
        tile_dot(n, a, b);                                                                                             \
    }
    TILE_UNIT(0, 4, 5)
    TILE_UNIT(1, 6, 7)
    TILE_UNIT(2, 4, 5)
    TILE_UNIT(3, 6, 7)
    tile_store(0, sums[0], 64);
    if (count > 1) tile_store(1, sums[1], 64);
    if (count > 2) tile_store(2, sums[2], 64);
    if (count > 3) tile_store(3, sums[3], 64);
}

/* A span × the 16 columns from c0 on, added to what the spans before gave. */
INLINE void span_multiply(enum gguf_type type, const struct span *s, const struct acts *x, int c0, float *y, size_t ldy)
{
    const int zero = pack_zero(type), subs = 32 / pack_sub(type), units = s->blocks * subs, first = s->first * subs;
    const size_t base = (size_t)c0 * (size_t)(x->k / 32);
    const float *d = x->d + base, *ds = subs == 1 ? x->ds32 + base : x->ds16 + base * 2;
    const int32_t *minus = subs == 1 ? x->n32 + base : x->n16 + base * 2;
    _Alignas(64) int32_t sums[4][TILE * TILE];
    vf acc[TILE];
    for (int c = 0; c < TILE; c++) acc[c] = s->first ? vf_load(y + (size_t)c * ldy) : vf_set1(0);
    for (int u = 0; u < units; u += 4) {
        const int count = units - u < 4 ? units - u : 4;
        tile_sums(subs, s, x->q + base * 32, u, count, sums);
        for (int n = 0; n < count; n++) {
            const size_t at = (size_t)(first + u + n) * TILE;
            vf scale = vf_load(s->scale[u + n]), offset = vf_load(s->offset[u + n]);
#pragma GCC unroll 16
            for (int c = 0; c < TILE; c++) {
                vi dots = vi_add(vi_load(sums[n] + c * TILE), vi_start(minus + at + c, zero));
                acc[c] = vf_fma(vf_from_vi(dots), vf_mul(scale, vf_set1(d[(s->first + (u + n) / subs) * TILE + c])), acc[c]);
                if (pack_has_min(type)) acc[c] = vf_fma(offset, vf_set1(ds[at + (size_t)c]), acc[c]);
            }
        }
    }
    for (int c = 0; c < TILE; c++) vf_store(y + (size_t)c * ldy, acc[c]);
}

/* Returns the columns done: all full groups. */
INLINE int multiply_tiles(enum gguf_type type, const struct packed *w, const uint8_t *panel, const struct acts *x, float *y,
                          size_t ldy)
{
    const int cols = x->cols / TILE * TILE, blocks = w->k / 32;
    struct span s;
    if (cols == 0) return 0;
    tiles_shape(pack_sub(type));
    for (int first = 0; first < blocks; first += SPAN_BLOCKS) {
        span_fill(type, panel, blocks, first, &s);
        for (int c0 = 0; c0 < cols; c0 += TILE) span_multiply(type, &s, x, c0, y + (size_t)c0 * ldy, ldy);
    }
    tiles_release();
    return cols;
}

#define TILES(f, t)                                                                                                    \
    static __attribute__((noinline)) int tiles_##t(const struct packed *w, const uint8_t *panel, const struct acts *x,  \
                                                   float *y, size_t ldy)                                               \
    {                                                                                                                  \
        return multiply_tiles(t, w, panel, x, y, ldy);                                                                 \
    }
WHOLE_TYPES(TILES)
