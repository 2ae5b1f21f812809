/* Weights as the kernels read them.
 *
 * A matrix (rows × k) is cut into panels of 16 rows. Inside a panel the quants of 4 neighbouring columns of all 16
 * rows make one 64-byte vector ("group"), so that a kernel keeps one row per lane, needs no horizontal sums, and adds
 * up each row's blocks in the file's order: the result does not depend on how many columns are computed together.
 *
 *   panel:  [chunks], each of 256 columns for k-quants, else of 64:
 *           scales     [columns/sub][16]   f16, or the int8 of a k-quant
 *           mins       [columns/sub][16]   f16, or the u8 of a k-quant
 *           super      [16] f16, super mins [16] f16: k-quants
 *           and, from a multiple of 64 on, for each block of 32 columns
 *           high bits  [groups packed][64]  5-, 6- and 3-bit types
 *           low bits   [groups packed][64]
 *
 * So a product of one column reads its matrix from the first byte to the last. That is what memory is fastest at (the
 * parts in sections of their own gave half to two thirds of its rate), and it needs no software prefetch.
 * F32, F16 and BF16 panels are plain [k][16]; FP8 ones too, as F16 (which holds every E4M3 number), then [16] F32 scales.
 * W4A16: for each 128 columns [16] F16 scales, a gap up to 64 bytes, and int8 [128][16].
 * Rows are padded to whole panels with zeros.
 */
#ifndef RUNG_ENGINE_CPU_PACK_H
#define RUNG_ENGINE_CPU_PACK_H

#include "engine/gguf.h"

#include <stdbool.h>

enum { PANEL_ROWS = 16, PACK_BLOCK = 32, PACK_SUPER = 256 };

struct pack_format {
    int bits;       /* of a quant; 0: plain floats */
    int sub;        /* columns that share a scale: 32 or 16 */
    int zero_log2;  /* the quant that means 0 is 1 << zero_log2; -1: none (0) */
    bool super, has_min;
    int low, high;  /* bytes per 32 columns of a panel */
    int element;    /* bytes of a plain number */
};
/* The same facts as constants for the kernels, which are compiled once for each type. */
static inline int pack_bits(enum gguf_type t)
{
    return t == GGUF_Q8_0 ? 8 : t == GGUF_Q6_K ? 6 : t == GGUF_Q2_K ? 2 : t == GGUF_Q3_K ? 3
         : t == GGUF_Q5_0 || t == GGUF_Q5_1 || t == GGUF_Q5_K ? 5 : 4;
}
static inline bool pack_super(enum gguf_type t)
{
    return t >= GGUF_Q2_K && t <= GGUF_Q6_K;
}
static inline int pack_sub(enum gguf_type t)
{
    return t == GGUF_Q2_K || t == GGUF_Q3_K || t == GGUF_Q6_K ? 16 : 32;
}
static inline bool pack_has_min(enum gguf_type t)
{
    return t == GGUF_Q4_1 || t == GGUF_Q5_1 || t == GGUF_Q2_K || t == GGUF_Q4_K || t == GGUF_Q5_K;
}
static inline int pack_zero(enum gguf_type t)
{
    return t == GGUF_Q8_0 || t == GGUF_IQ4_NL ? 7 : t == GGUF_Q4_0 ? 3 : t == GGUF_Q5_0 ? 4 : t == GGUF_Q6_K ? 5
         : t == GGUF_Q3_K ? 2 : -1;
}
static inline int pack_low(enum gguf_type t)
{
    return pack_bits(t) == 8 ? 512 : pack_bits(t) <= 3 ? 128 : 256;
}
static inline int pack_high(enum gguf_type t)
{
    return pack_bits(t) == 6 ? 128 : pack_bits(t) == 5 || pack_bits(t) == 3 ? 64 : 0;
}

/* Blocks of 32 columns in a chunk, and where its parts begin. */
static inline int pack_chunk_blocks(enum gguf_type t)
{
    return pack_super(t) ? 8 : 2;
}
/* Bytes of a chunk's scales, or mins. */
static inline int pack_scales(enum gguf_type t)
{
    return pack_chunk_blocks(t) * 32 / pack_sub(t) * 16 * (pack_super(t) ? 1 : 2);
}
static inline int pack_at_min(enum gguf_type t)
{
    return pack_scales(t);
}
static inline int pack_at_super(enum gguf_type t)
{
    return pack_at_min(t) + (pack_has_min(t) ? pack_scales(t) : 0);
}
static inline int pack_at_super_min(enum gguf_type t)
{
    return pack_at_super(t) + (pack_super(t) ? 32 : 0);
}
/* Where block i begins; the low bits stand pack_high behind its high ones. */
static inline int pack_at_block(enum gguf_type t, int i)
{
    int head = pack_at_super_min(t) + (pack_super(t) && pack_has_min(t) ? 32 : 0);
    return ((head + 63) & ~63) + i * (pack_low(t) + pack_high(t));
}
static inline int pack_chunk_bytes(enum gguf_type t)
{
    return pack_at_block(t, pack_chunk_blocks(t));
}

/* NULL for a type that has no kernel. */
const struct pack_format *pack_format(enum gguf_type type);

struct packing;
struct packed {
    enum gguf_type type;
    int rows, k, panels;
    size_t panel_bytes;
    uint8_t *data; /* (panels, panel_bytes), 64-byte aligned, zeroed before the first row is set */
    bool owned;    /* data is this matrix's own mapping */
    const struct packing *unpacked; /* not NULL: `data` is to be filled later, and its rows are read from the file */
};
static inline size_t packed_bytes(const struct packed *w)
{
    return w->panel_bytes * (size_t)w->panels;
}
static inline const uint8_t *packed_panel(const struct packed *w, int panel)
{
    return w->data + (size_t)panel * w->panel_bytes;
}

enum { PACK_W4_BYTES = 64 + 128 * PANEL_ROWS }; /* of a panel's 128 columns */
/* Types whose rows stand in the file as plain numbers. */
static inline bool pack_plain(enum gguf_type t)
{
    return t == GGUF_F32 || t == GGUF_F16 || t == GGUF_BF16;
}

/* Fill the shape, `data` is to follow. Errors: ERR_UNSUPPORTED. */
ERR_CHECKED enum err_code packed_shape(struct packed *w, enum gguf_type type, int rows, int k, struct err *e);
/* Fill the shape and take the memory (zeroed). Errors: ERR_UNSUPPORTED, ERR_MEMORY. */
ERR_CHECKED enum err_code packed_init(struct packed *w, enum gguf_type type, int rows, int k, struct err *e);
void packed_release(struct packed *w);
/* Put the file's row `raw` into place as row `row`. Rows of one panel may not be set by two threads at once.
 * `scratch` holds at least packed_scratch(k) bytes. */
void packed_set_row(struct packed *w, int row, const void *raw, void *scratch);
/* The same for row `from` of a tensor of any type, FP8 and W4A16 too. */
void packed_set_tensor_row(struct packed *w, int row, const struct gguf_tensor *t, int64_t from, void *scratch);
/* All of a panel's rows at once, row i of it from `rows[i]`: the same bytes, several times faster for types that
 * pack_quick() names. */
void packed_set_panel(struct packed *w, int panel, const void *const rows[PANEL_ROWS], void *scratch);
/* Whether that is quick for a type: all but plain numbers, FP8 and W4A16. */
static inline bool pack_quick(enum gguf_type t)
{
    return !pack_plain(t) && t < GGUF_FP8;
}
/* All rows of a panel of a type that pack_quick() names, to `panel`. */
void pack_words(enum gguf_type type, int k, uint8_t *panel, const uint8_t *const rows[PANEL_ROWS]);
/* The same, put at `to` (panel_bytes) instead of into w->data. */
void packed_fill_panel(const struct packed *w, int panel, uint8_t *to, const void *const rows[PANEL_ROWS], void *scratch);
size_t packed_scratch(int k);
/* Bytes of one raw row. */
size_t pack_row_bytes(enum gguf_type type, int k);

/* One raw row of any type as floats. */
void pack_dequantize(enum gguf_type type, const void *raw, int k, float *out, void *scratch);
/* Row `row` of a tensor of any type, FP8 and W4A16 too. */
void pack_tensor_row(const struct gguf_tensor *t, int64_t row, float *out, void *scratch);

float half_to_float(uint16_t h);
uint16_t half_from_float(float f);
float bf16_to_float(uint16_t h);

extern const int8_t PACK_IQ4_NL[16];

#endif
