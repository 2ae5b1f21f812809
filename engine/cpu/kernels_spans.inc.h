/* Part of kernels.inc.h: a panel taken apart once for many columns.
 *
 * A panel is worked on in spans of some blocks: quants become bytes and scales floats in the first-level cache, once for all
 * columns. Sets without matrix tiles then multiply the full groups by the same steps as straight from the panel. */

#ifdef VEC_TILES
enum { SPAN_BLOCKS = 8 };
#else
enum { SPAN_BLOCKS = 16 };
#endif
enum { SPAN_UNITS = 2 * SPAN_BLOCKS };

#ifdef VEC_SIZES
enum { SPAN_BYTES = 1024 }; /* of a block: signed bytes have their sizes behind them, which products take unsigned */
#else
enum { SPAN_BYTES = 512 };
#endif

struct span {
    int first, blocks; /* of the panel */
    float scale[SPAN_UNITS][16], offset[SPAN_UNITS][16]; /* of a unit: 32 or 16 columns of the matrix that share a scale */
    _Alignas(64) uint8_t q[SPAN_BLOCKS * SPAN_BYTES]; /* (unit, columns / 4, 16 rows, 4); tiles have them signed, their zero taken off */
};

INLINE void span_fill(enum gguf_type type, const uint8_t *panel, int blocks, int first, struct span *s)
{
    const int each = pack_chunk_blocks(type), subs = 32 / pack_sub(type);
    s->first = first;
    s->blocks = blocks - first < SPAN_BLOCKS ? blocks - first : SPAN_BLOCKS;
    for (int i = 0; i < s->blocks; i++) {
        const uint8_t *chunk = panel + (size_t)((first + i) / each) * (size_t)pack_chunk_bytes(type);
        const int in = (first + i) % each;
        const uint8_t *high = chunk + pack_at_block(type, in), *low = high + pack_high(type);
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            vb q = quants(type, low, high, j);
#ifdef VEC_TILES
            q = vb_sub(q, vb_set1(pack_zero(type) < 0 ? 0 : 1 << pack_zero(type)));
#endif
            vb_store(s->q + i * SPAN_BYTES + j * 64, q);
#ifdef VEC_SIZES
            if (pack_zero(type) == 7) vb_store(s->q + i * SPAN_BYTES + 512 + j * 64, vb_abs(q));
#endif
        }
        for (int sub = 0; sub < subs; sub++) {
            vf_store(s->scale[i * subs + sub], scales(type, chunk, in * subs + sub));
            if (pack_has_min(type)) vf_store(s->offset[i * subs + sub], offsets(type, chunk, in * subs + sub));
        }
    }
}
