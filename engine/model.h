/* A model's shape and where its tensors lie, read from GGUF and checked: what every backend (CPU, CUDA) starts from.
 * Read-only after opening: any thread. */
#ifndef RUNG_ENGINE_MODEL_H
#define RUNG_ENGINE_MODEL_H

#include "engine/gguf.h"

#include <stdbool.h>

/* What an architecture does besides the common pre-norm transformer; one row each in model.c. */
struct model_arch {
    const char *name;
    bool rope_halves;    /* rotates element i with i + n/2 (NeoX); else neighbours 2i, 2i + 1 */
    bool gelu;           /* gated GELU instead of SiLU */
    bool scaled_embed;   /* embeddings × √embedding (Gemma) */
    int window_every;    /* of this many layers the last sees everything, the others a window; 0: as the file says, all */
    float local_rope;    /* rope base of windowed layers; 0: the common one */
    bool norm_topk;      /* mixture of experts: the chosen weights are made to sum to 1 */
};

struct model_layer {
    const struct gguf_tensor *attn_norm, *q, *k, *v, *qkv, *o;
    const struct gguf_tensor *q_bias, *k_bias, *v_bias, *qkv_bias, *o_bias, *q_norm, *k_norm, *attn_post_norm;
    const struct gguf_tensor *ffn_norm, *gate, *up, *down, *ffn_post_norm;
    const struct gguf_tensor *router, *gate_experts, *up_experts, *down_experts;
    int window;      /* 0: all positions */
    bool local_rope; /* uses rope[1] */
};

/* The angle of pair i at a position is position × frequency[i]; cos and sin are × scale. */
struct model_rope {
    float *frequency; /* (rotated / 2) */
    float scale;
};

struct model {
    const struct model_arch *arch;
    struct gguf *gguf; /* owned */
    int embedding, layers, heads, kv_heads, head_dim, rotated, feed_forward, vocabulary, context;
    int experts, experts_used, expert_feed_forward; /* 0: dense */
    float norm_eps, attention_scale, embedding_scale, residual_scale, logit_scale; /* logits are × logit_scale */
    float attention_softcap, logit_softcap; /* 0: off */
    struct model_rope rope[2];
    const struct gguf_tensor *embed, *output_norm, *output, *output_bias; /* output is embed where they are tied */
    struct model_layer *layer; /* (layers) */
    int64_t parameters;
    uint64_t random; /* not 0: tensors without data hold random weights of this seed, which a GPU makes (model_shape.h) */
};

/* Takes the gguf over on success only. `context_tokens` is the most a sequence will hold (0: the file's, at most 8192).
 * Errors: ERR_UNSUPPORTED (architecture, type, size), ERR_CORRUPT (a tensor is
 * missing or has another shape: says which), ERR_MEMORY. */
ERR_CHECKED enum err_code model_open(struct model **out, struct gguf *gguf, int context_tokens, struct err *e);
void model_close(struct model *model);
/* The names of the known architectures, NULL after the last. */
const char *model_arch_name(int index);

#endif
