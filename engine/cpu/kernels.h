/* The CPU's arithmetic: one source (kernels.inc.h) compiled for several instruction sets, chosen at run time.
 *
 * Every set does the same operations in the same order, so that all give the same bits; and no result depends on
 * how many columns (tokens) are worked on together. Pure functions: any thread.
 */
#ifndef RUNG_ENGINE_CPU_KERNELS_H
#define RUNG_ENGINE_CPU_KERNELS_H

#include "engine/backend.h"
#include "engine/cpu/pack.h"

enum { KV_PAGE_TOKENS = 32, ATTEND_ROWS = 8, ACTS_GROUP_MAX = 16 };

/* A batch's activations as the matrix kernels read them. Columns stand in groups of `width` (kernels.widest, then
 * 8, 4, 2, 1); inside a group everything is interleaved by column:
 *   q   [group][k/4][width][4]  int8, value = d × q      d … [group][k/32 or k/16][width]
 *   f   [group][k][width]       the floats themselves
 * A set with matrix tiles has its full groups' q as [group][k/32][width][32]. */
struct acts {
    int k, cols;
    int8_t *q;
    float *d;    /* scale of 32 columns */
    float *ds32, *ds16;  /* d × the sum of 32, of 16 q */
    int32_t *n32, *n16;  /* minus those sums */
    float *f;
};

struct attend {
    int rows;                       /* at most ATTEND_ROWS query heads that share one KV head and sequence */
    const float *q[ATTEND_ROWS];    /* (head_dim) each, scaled */
    float *out[ATTEND_ROWS];        /* (head_dim) each */
    int position[ATTEND_ROWS];      /* ascending */
    int head_dim;                   /* a multiple of 16 */
    int window;                     /* 0: all; else only the last `window` positions are seen */
    float softcap;                  /* 0: off */
    const int32_t *pages;           /* the sequence's page table */
    const uint16_t *k, *v;          /* this layer's and head's part of page 0, as put_kv or put_kv_q8 writes it */
    size_t page_stride;             /* elements (of 2 bytes) between two pages */
    bool q8;                        /* the pages hold Q8_0 */
};

struct kernels {
    const char *name;
    bool (*usable)(void);
    int widest; /* columns of a full group */
    /* y[col * ldy + row] = W x for one panel's 16 rows and all columns. */
    void (*matmul)(const struct packed *w, int panel, const struct acts *x, float *y, size_t ldy);
    /* Put elements [from, end) of column `col` (x: its first) into place: as int8 (from and end multiples of 32), as floats. */
    void (*put_q8)(struct acts *a, int col, const float *x, int from, int end);
    void (*put_float)(struct acts *a, int col, const float *x, int from, int end);
    void (*rms_norm)(float *out, const float *x, const float *weight, int n, float eps); /* weight may be NULL */
    void (*add)(float *x, const float *y, int n, float scale);                           /* x += y × scale */
    void (*silu_mul)(float *gate, const float *up, int n);
    void (*gelu_mul)(float *gate, const float *up, int n);
    /* Rotate the halves of the first 2 × pairs elements; cs: cos (pairs), then sin (pairs). */
    void (*rope)(float *x, const float *cs, int pairs);
    /* One token's K and V of one head into its page. F16: K [head_dim][KV_PAGE_TOKENS], V its transpose. Q8_0: the same in
     * int8, then f16 scales [kv_q8_blocks(head_dim)][KV_PAGE_TOKENS], one for 32 elements of a token. */
    void (*put_kv)(uint16_t *k_page, uint16_t *v_page, int slot, const float *k, const float *v, int head_dim);
    void (*put_kv_q8)(uint16_t *k_page, uint16_t *v_page, int slot, const float *k, const float *v, int head_dim);
    void (*attend)(const struct attend *a);
    /* packed_fill_panel for types that pack_quick() names and all of a panel's rows; `next`: the first of the rows to be put
     * after them, a hint. NULL where the set has none of its own. */
    void (*put_words)(const struct packed *w, uint8_t *to, const uint8_t *const rows[PANEL_ROWS], const uint8_t *next);
    void (*softcap)(float *x, int n, float cap);
    void (*stats)(const float *logits, int n, struct logit_stats *out);
};

extern const struct kernels KERNELS_SCALAR;
#if defined(__x86_64__)
extern const struct kernels KERNELS_AVX2, KERNELS_AVX512, KERNELS_AMX;
#elif defined(__aarch64__)
extern const struct kernels KERNELS_NEON, KERNELS_NEON_I8MM;
#endif

/* By name, or the best of this machine for NULL; NULL where it is unknown or cannot run here. */
const struct kernels *kernels_find(const char *name);
/* "scalar avx2 …": what this build knows and this machine can run. */
const struct kernels *kernels_at(int index);

/* A head whose size is no multiple of 32 ends in a block of 16. */
static inline int kv_q8_blocks(int head_dim)
{
    return (head_dim + 31) / 32;
}
/* Elements (of 2 bytes) of one head's K, or V, in a page. */
static inline size_t kv_page_elements(int head_dim, bool q8)
{
    return (size_t)(q8 ? head_dim / 2 + kv_q8_blocks(head_dim) : head_dim) * KV_PAGE_TOKENS;
}

static inline int acts_width(int left, int widest)
{
    if (left >= widest) return widest;
    return left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

#endif
