/* The CUDA backend's own picture: weights and buffers on the device, and the two ways of a step. */
#ifndef RUNG_ENGINE_CUDA_BACKEND_CUH
#define RUNG_ENGINE_CUDA_BACKEND_CUH

#include "engine/cuda/cuda.cuh"
#include "engine/cuda/decode.cuh"

struct cuda_layer {
    struct matrix qkv, gate_up;               /* all of them, where they lie behind each other in one kind; else NONE */
    struct matrix q, k, v, o, gate, up, down; /* dense */
    struct matrix router, *gates, *ups, *downs; /* mixture of experts: (experts) each */
    float *attn_norm, *ffn_norm, *q_bias, *k_bias, *v_bias, *o_bias, *q_norm, *k_norm, *attn_post, *ffn_post; /* device, or NULL */
};

/* What a step needs on the device, filled from one pinned block. Offsets in 32-bit words of that block. */
struct step_layout {
    int tokens, position, run_of, want, inverse, runs, pages, words;
};

struct cuda {
    struct backend backend; /* first: a struct backend * is a struct cuda * */
    const struct model *model;
    int device, cols_max, wanted_max, pages, pages_stride, q_dim, kv_dim, ffn_dim, context;
    bool invariant;
    int sparse_pages;
    char name[64];
    cudaStream_t stream;

    void *weights; /* one allocation */
    int64_t weight_bytes;
    struct cuda_layer *layer; /* (layers) */
    struct matrix *experts;   /* all layers' */
    struct matrix embed, output;
    float *output_norm, *output_bias, *frequency; /* frequency: (2, rotated / 2) */

    struct kv_cache kv;
    struct matmul *matmul;
    struct attention *attention;
    struct decode *decode; /* NULL: the model or the GPU does not allow it (decode_why) */
    struct err decode_why;

    /* One step. Device unless it says otherwise. */
    void *buffers;
    float *x, *y, *qkv, *gate, *up, *logits, *hidden, *angles, *scales;
    uint8_t *operand, *attended; /* the forms of inputs */
    float *expert_in, *expert_y, *scores, *chosen_weight;
    int32_t *chosen, *pair_col;
    struct logit_stats *stats;
    int32_t *step, *host_step;      /* step_layout; host_step pinned */
    float *host_logits, *host_hidden; /* pinned */
    struct logit_stats *host_stats; /* pinned */
    struct logit_list *lists, *host_lists; /* (wanted); host_lists pinned */
    int32_t *host_chosen;           /* pinned (cols, used), then (pairs) columns in the order of experts */
    size_t logits_stride;
    struct step_layout layout;
};

/* Plans, allocates and copies (or makes up) the weights. Blocks. */
ERR_CHECKED enum err_code weights_open(struct cuda *c, struct err *e);
void weights_close(struct cuda *c);

/* The general way: any model, any number of columns. The step's data lie on the device. */
ERR_CHECKED enum err_code forward_general(struct cuda *c, const struct batch *batch, const struct columns *columns, struct err *e);

/* ---- small kernels (forward_kernels.cu); each is asynchronous on the stream ---- */

/* Two sets of angles (cols, rotated), cos then sin, × the set's scale; `stride` between columns, `set` between the sets. */
ERR_CHECKED enum err_code make_angles(const float *frequency, const int32_t *position, int cols, int rotated, float scale0, float scale1,
                                      float *angles, int64_t stride, int64_t set, cudaStream_t stream, struct err *e);
/* out = norm(x[col of row i]) × weight in a form, and, where they are not NULL, as floats into `plain` (rows, k). col NULL: row i is column i.
 * weight NULL: no norm, x as it is. `add`: what joins x first: x += residual_scale × norm?(y + bias). */
struct join {
    const float *y, *bias, *post_norm; /* y (rows, k): NULL: nothing joins */
    float scale;
};
ERR_CHECKED enum err_code join_and_norm(float *x, const struct join *join, const float *weight, float eps, int rows, int k, const int32_t *col,
                                        const struct operand *out, float *plain, cudaStream_t stream, struct err *e);
/* out = activation(gate) × up. */
ERR_CHECKED enum err_code activate(const float *gate, const float *up, int64_t ld, int rows, int k, bool gelu, const struct operand *out,
                                   cudaStream_t stream, struct err *e);
/* 16-bit inputs to E4M3. */
ERR_CHECKED enum err_code shrink(const void *from, bool bf16, const struct operand *out, cudaStream_t stream, struct err *e);
/* Bias, scale and softcap of logits, and what is to be known of each row. Rows of ld floats. */
ERR_CHECKED enum err_code finish_logits(float *logits, int64_t ld, int rows, int vocabulary, const float *bias, float scale, float softcap,
                                        struct logit_stats *stats, cudaStream_t stream, struct err *e);
/* The lists of rows whose `inverse` (rows, device) is above 0, after finish_logits (select.cu). Rows of `vocabulary` logits that fit. */
bool select_lists_fits(int vocabulary);
ERR_CHECKED enum err_code select_lists(const float *logits, int64_t ld, int rows, int vocabulary, const float *inverse,
                                       const struct logit_stats *stats, struct logit_list *lists, cudaStream_t stream, struct err *e);
/* The best `used` experts of each row of scores (cols, experts), best first, and their weights. */
ERR_CHECKED enum err_code choose_experts(const float *scores, int cols, int experts, int used, bool norm, int32_t *chosen, float *weight,
                                         cudaStream_t stream, struct err *e);
/* out (rows, k) = x[col[i]] in a form. */
ERR_CHECKED enum err_code gather(const float *x, const int32_t *col, int rows, int k, const struct operand *out, cudaStream_t stream, struct err *e);
/* y (cols, k) = Σ weight × expert_y[row of the pair]; rows (cols, used). */
ERR_CHECKED enum err_code sum_experts(const float *expert_y, const int32_t *row, const float *weight, int cols, int used, int k, float *y,
                                      cudaStream_t stream, struct err *e);
/* Weights of a shape: `words` 32-bit words that are random, and sane as elements of the kind. */
ERR_CHECKED enum err_code random_weights(void *data, int64_t bytes, enum matrix_kind kind, enum gguf_type type, int k, uint32_t seed, cudaStream_t stream,
                                         struct err *e);

#endif
