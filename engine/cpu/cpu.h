/* The CPU backend's own picture: packed weights and the buffers of one forward step. */
#ifndef RUNG_ENGINE_CPU_CPU_H
#define RUNG_ENGINE_CPU_CPU_H

#include "engine/backend.h"
#include "engine/cpu/kernels.h"
#include "engine/cpu/pool.h"

#include <stdatomic.h>

/* Where a matrix's rows lie in the file: rows [first, first + rows) of a tensor. */
struct packing {
    struct packed *to;
    const struct gguf_tensor *from;
    int64_t first;
    int rotate_head, rotated; /* rope's neighbouring pairs become halves: rows of each head are put in that order; 0: no */
};

/* What a matrix's input has to be turned into. */
enum { FORM_Q8 = 1, FORM_FLOAT = 2 };

struct cpu_layer {
    struct packed q, k, v, o, gate, up, down; /* gate, up, down: (1), or of the experts below */
    struct packed router, *gates, *ups, *downs; /* mixture of experts: (experts) each */
    float *attn_norm, *ffn_norm, *q_bias, *k_bias, *v_bias, *o_bias, *q_norm, *k_norm, *attn_post, *ffn_post; /* or NULL */
    int form_in, form_o, form_ffn, form_down, form_router; /* FORM_* of q/k/v, o, gate/up, down, the router */
};

/* What a mixture of experts needs in a step. A pair is a column at one of its chosen experts; pairs stand sorted by
 * expert, and each expert's pairs are a little batch of their own (a segment). */
struct experts {
    float *in;       /* (cols, embedding) after the norm */
    float *scores;   /* (cols, stride) the router's */
    float *y;        /* (pairs, embedding) */
    float *weight;   /* (cols, used) */
    int32_t *chosen; /* (cols, used) experts, best first */
    int32_t *pair;   /* (cols, used) where that pair stands */
    int32_t *first;  /* (experts + 1) each expert's first pair */
    int32_t *col;    /* (pairs) where the pair stands in `chosen` */
    struct acts acts; /* (pairs) of the embedding, then of the feed-forward */
    size_t stride;   /* experts rounded up */
};

struct cpu {
    struct backend backend; /* first: a struct backend * is a struct cpu * */
    const struct model *model;
    const struct kernels *kernels;
    struct pool *pool;
    bool pool_lent; /* it is another backend's */
    struct cpu_layer *layer; /* (layers) */
    struct packed output;
    uint8_t *weights; /* every matrix's panels, one mapping */
    size_t weights_bytes;
    struct packing *later; /* (later_count) matrices, of which those from later_next on are not packed yet */
    int later_count, later_next;
    int64_t later_bytes;   /* of all of them */
    uint8_t *panels;       /* (members, panel_size): where a member packs a panel of those for itself, and the scratch for it */
    size_t panel_size;
    bool stepped;
    float *output_norm, *output_bias;
    int form_output;
    int cols_max, wanted_max, pages;
    int q_dim, kv_dim, ffn_dim;
    int64_t macs, bytes; /* multiplications a column takes, bytes of weights it reads */

    /* KV: [layer][K, then V][page][kv head][kv_page_elements] */
    uint16_t *kv;
    bool kv_q8;
    size_t kv_bytes, head_stride, page_stride, layer_stride;

    /* One step. Rows of x, y, q … are columns of the batch. */
    const struct batch *batch;
    _Atomic bool abandoned;   /* nobody wants it any more */
    float *x, *y;             /* (cols, embedding) residual stream; what a block adds to it */
    float *q, *k, *v, *attn;  /* (cols, q_dim / kv_dim) */
    float *gate, *up;         /* (cols, ffn_dim) */
    float *logits, *hidden;   /* (wanted, vocabulary rounded up), (wanted, embedding) */
    float *angles;            /* (cols, 2 sets, rotated): cos, then sin */
    float *norm;              /* (members, embedding) */
    uint8_t *scratch;         /* (members, packed_scratch(embedding)) */
    size_t logits_stride, scratch_size;
    struct experts experts;   /* mixture of experts only */
    int32_t *position;        /* (cols) */
    const int32_t **pages_of; /* (cols) */
    int32_t *tiles;           /* (runs + 1) attention tiles before each run, for one KV head */
    struct acts acts_embed, acts_q, acts_ffn, acts_out; /* share memory: no two are alive at once */
    void *buffers;            /* all of the above */
    size_t buffers_bytes;
};

/* Fill c->layer, c->output … from the model's tensors; with `later` those matrices that the first steps can read from
 * the file are left to cpu_settle. */
ERR_CHECKED enum err_code cpu_pack(struct cpu *c, bool later, struct err *e);
void cpu_unpack(struct cpu *c);
/* Pack some more of what can wait. False: all is packed. */
bool cpu_settle(struct backend *b);
/* Panel `panel` of a matrix from its file's rows to `to`, behind which is room for packed_scratch(k) bytes; for types that
 * pack_quick() names. */
void packing_panel(const struct kernels *k, const struct packing *p, int panel, uint8_t *to);
enum err_code cpu_forward(struct backend *b, const struct batch *batch, struct batch_out *out, struct err *e);

#endif
