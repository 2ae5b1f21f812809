/* One decoding step in one launch: a persistent kernel for a few columns, on GPUs with bulk copies (sm_90).
 *
 * A block on each multiprocessor. One warp of it, the producer, does nothing but fetch weights: it walks through the tiles of
 * all layers in order, claiming the next one as it goes, and fills a ring in shared memory, never waiting for results, so that
 * the memory is busy while the other warps, the consumers, wait for what they multiply. Which block has a tile changes nothing in
 * its sums. In the invariant mode their order does not depend on the number of columns either, so a column's logits do not
 * depend on the batch.
 *
 *   x ─► Q K V ─┊─► (rope, KV) attention ─┊─► O, + x ─┈─► gate, up ─┈─► down, + x ─┈─► … ─► output
 *               ┊ = everything of every block is waited for
 *               ┈ = part by part: an operation begins with those rows of the last one that every block has done. A block begins with
 *                   a few tiles, part after part, so that it is busy until the last part is there
 *
 * Each warp of a block has one task: a producer; a loader of inputs; two placers, of new K and V; four finishers, which add up the eight
 * consumers' sums of a tile and write what becomes of them.
 *
 * The norms take no step of their own: who adds to x leaves x × the norm's weight × a power of two near 1 / rms, in 16 bits,
 * and the sums that come of it are multiplied by the rest.
 */
#ifndef RUNG_ENGINE_CUDA_DECODE_CUH
#define RUNG_ENGINE_CUDA_DECODE_CUH

#include "engine/cuda/cuda.cuh"

enum { DECODE_COLS_MAX = 8 };

struct decode_layer {
    struct matrix q, k, v, o, gate, up, down;
    const float *attn_norm, *ffn_norm;                      /* device (embedding) */
    const float *q_bias, *k_bias, *v_bias, *q_norm, *k_norm; /* device, or NULL */
    int window;
    bool local_rope; /* the second set of angles */
};
struct decode_model {
    int embedding, layers, heads, kv_heads, head_dim, rotated, feed_forward, vocabulary;
    bool rope_halves, gelu;
    float norm_eps, attention_scale, attention_softcap, residual_scale, logit_scale, logit_softcap;
    const struct decode_layer *layer; /* (layers) host */
    struct matrix output;
    const float *output_norm, *output_bias; /* device; the bias or NULL */
    struct kv_cache kv;
};

/* A step. Everything lies on the device. */
struct decode_step {
    int cols, wanted;
    bool neighbours;           /* two columns may belong to one sequence */
    bool invariant;            /* sums and splits of attention in an order that the batch does not change */
    const int32_t *position;   /* (cols) */
    const int32_t *run_of;     /* (cols) */
    const int32_t *pages;      /* (runs, pages_stride) */
    int pages_stride;
    const float *angles;       /* (cols, 2 × rotated) */
    const int32_t *want;       /* (wanted) */
    float *x;                  /* (cols, embedding) the embeddings; used up */
    float *hidden;             /* (wanted, embedding) after the final norm */
    float *logits;             /* (wanted, logits_stride) */
    int64_t logits_stride;
};

struct decode;
/* Errors: ERR_UNSUPPORTED (says what the kernel cannot do: the caller goes the general way), ERR_MEMORY. */
ERR_CHECKED enum err_code decode_open(struct decode **out, const struct decode_model *model, struct err *e);
void decode_close(struct decode *d);
ERR_CHECKED enum err_code decode_run(struct decode *d, const struct decode_step *step, cudaStream_t stream, struct err *e);

#endif
