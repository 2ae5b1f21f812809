/* Part of kernels.inc.h for sets with matrix tiles: one panel × full groups of 16 columns.
 *
 * While two units' sums of a span are scaled and added up, the next two are on their way. */

enum { TILE = 16 };

/* Begin the sums of units u and u + 1 for 16 columns; x: the group's activations, (block, 16 columns, 32). */
INLINE void tiles_begin(const int subs, const struct span *s, const int8_t *x, int u, int units)
{
    const int unit = 512 / subs;
#define TILE_AT(n) x + ((size_t)(s->first + (n) / subs) * TILE * 32 + (size_t)((n) % subs * (32 / subs)))
    tile_zero(0);
    tile_load(4, TILE_AT(u), 32);
    tile_load(5, s->q + u * unit, 64);
    tile_dot(0, 4, 5);
    if (u + 1 == units) return;
    tile_zero(1);
    tile_load(6, TILE_AT(u + 1), 32);
    tile_load(7, s->q + (u + 1) * unit, 64);
    tile_dot(1, 6, 7);
}

/* A span × the 16 columns from c0 on, added to what the spans before gave. */
INLINE void span_multiply(enum gguf_type type, const struct span *s, const struct acts *x, int c0, float *y, size_t ldy)
{
    const int subs = 32 / pack_sub(type), units = s->blocks * subs, first = s->first * subs;
    const size_t base = (size_t)c0 * (size_t)(x->k / 32);
    const float *d = x->d + base, *ds = subs == 1 ? x->ds32 + base : x->ds16 + base * 2;
    const int8_t *q = x->q + base * 32;
    _Alignas(64) int32_t sums[2][TILE * TILE];
    vf acc[TILE];
    for (int c = 0; c < TILE; c++) acc[c] = s->first ? vf_load(y + (size_t)c * ldy) : vf_set1(0);
    tiles_begin(subs, s, q, 0, units);
    for (int u = 0; u < units; u += 2) {
        tile_store(0, sums[0], 64);
        if (u + 1 < units) tile_store(1, sums[1], 64);
        if (u + 2 < units) tiles_begin(subs, s, q, u + 2, units);
        for (int n = u; n < u + 2 && n < units; n++) {
            const float *dn = d + (size_t)(s->first + n / subs) * TILE, *dsn = ds + (size_t)(first + n) * TILE;
            vf scale = vf_load(s->scale[n]), offset = vf_load(s->offset[n]);
#pragma GCC unroll 16
            for (int c = 0; c < TILE; c++) {
                acc[c] = vf_fma(vf_from_vi(vi_load(sums[n - u] + c * TILE)), vf_mul(scale, vf_set1(dn[c])), acc[c]);
                if (pack_has_min(type)) acc[c] = vf_fma(offset, vf_set1(dsn[c]), acc[c]);
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
