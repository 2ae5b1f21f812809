/* A small llama with random weights, written as a GGUF file, for tests of kernels, scheduler and engine. */
#ifndef RUNG_TESTS_ENGINE_TINY_MODEL_H
#define RUNG_TESTS_ENGINE_TINY_MODEL_H

#include "engine/cpu/pack.h"
#include "engine/gguf_own.h"
#include "tests/engine/gguf_builder.h"

#include <math.h>

enum { TINY_EMBEDDING = 256, TINY_HEADS = 4, TINY_KV_HEADS = 2, TINY_FF = 512, TINY_LAYERS = 2, TINY_VOCABULARY = 272, TINY_END = 256 };

static inline uint32_t tiny_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

/* Uniform in [-1, 1). */
static inline float tiny_uniform(uint64_t *state)
{
    return (float)tiny_random(state) / 1073741824.0f - 1.0f;
}

static inline void tiny_put_half(unsigned char *at, float v)
{
    uint16_t h = half_from_float(v);
    memcpy(at, &h, 2);
}

/* Random rows of a type whose values are about as large as `scale`. */
static inline void tiny_fill(enum gguf_type type, unsigned char *raw, size_t bytes, float scale, uint64_t *state)
{
    static const struct { /* where a block's f16 scales stand, and how large a quant is */
        int at, min_at;
        float divide;
    } HALVES[32] = {[GGUF_Q8_0] = {0, -1, 70},  [GGUF_Q4_0] = {0, -1, 5},   [GGUF_Q4_1] = {0, 2, 5},       [GGUF_Q5_0] = {0, -1, 9},
                    [GGUF_Q5_1] = {0, 2, 9},    [GGUF_IQ4_NL] = {0, -1, 65}, [GGUF_Q2_K] = {80, 82, 12},    [GGUF_Q3_K] = {108, -1, 45},
                    [GGUF_Q4_K] = {0, 2, 150},  [GGUF_Q5_K] = {0, 2, 300},  [GGUF_Q6_K] = {208, -1, 1500}};
    if (type == GGUF_F32 || type == GGUF_F16 || type == GGUF_BF16) {
        size_t element = type == GGUF_F32 ? 4 : 2;
        for (size_t i = 0; i < bytes; i += element) {
            float v = tiny_uniform(state) * scale * 1.7f;
            if (type == GGUF_F16) tiny_put_half(raw + i, v);
            else memcpy(raw + i, (unsigned char *)&v + (4 - element), element);
        }
        return;
    }
    if (type == GGUF_FP8) {
        for (size_t i = 0; i < bytes; i++) raw[i] = (unsigned char)(tiny_random(state) % 127 | (tiny_random(state) & 1) << 7);
        return;
    }
    if (type == GGUF_W4A16) {
        for (size_t i = 0; i < bytes; i++) raw[i] = (unsigned char)tiny_random(state);
        for (size_t granule = 0; granule < bytes; granule += W4A16_GRANULE)
            for (size_t i = 512; i < W4A16_GRANULE; i += 2) tiny_put_half(raw + granule + i, scale / 5 * (1.5f + tiny_uniform(state)));
        return;
    }
    size_t block = (size_t)gguf_type_info((uint32_t)type)->block_bytes;
    for (size_t i = 0; i < bytes; i++) raw[i] = (unsigned char)tiny_random(state);
    for (size_t i = 0; i < bytes; i += block) {
        tiny_put_half(raw + i + HALVES[type].at, scale / HALVES[type].divide);
        if (HALVES[type].min_at >= 0) tiny_put_half(raw + i + HALVES[type].min_at, scale / 20);
    }
}

static inline void tiny_tensor(struct gguf_builder *g, const char *name, enum gguf_type type, int64_t k, int64_t rows, float scale,
                               uint64_t *state)
{
    size_t bytes = pack_row_bytes(type, (int)k) * (size_t)rows;
    unsigned char *raw = malloc(bytes);
    assert(raw);
    tiny_fill(type, raw, bytes, scale, state);
    gguf_builder_tensor(g, name, (uint32_t)type, 2, (int64_t[]){k, rows}, raw, bytes);
    free(raw);
}

static inline void tiny_norm(struct gguf_builder *g, const char *name, int64_t n, uint64_t *state)
{
    float v[TINY_EMBEDDING];
    for (int64_t i = 0; i < n; i++) v[i] = 1 + 0.1f * tiny_uniform(state);
    gguf_builder_tensor(g, name, GGUF_F32, 1, &n, v, (size_t)n * sizeof *v);
}

static inline void tiny_layer(struct gguf_builder *g, int layer, enum gguf_type type, uint64_t *state)
{
    static const struct {
        const char *name;
        int k, rows;
    } MATRICES[] = {{"attn_q", TINY_EMBEDDING, TINY_EMBEDDING}, {"attn_k", TINY_EMBEDDING, TINY_EMBEDDING / 2},
                    {"attn_v", TINY_EMBEDDING, TINY_EMBEDDING / 2}, {"attn_output", TINY_EMBEDDING, TINY_EMBEDDING},
                    {"ffn_gate", TINY_EMBEDDING, TINY_FF}, {"ffn_up", TINY_EMBEDDING, TINY_FF}, {"ffn_down", TINY_FF, TINY_EMBEDDING}};
    char name[64];
    for (size_t i = 0; i < sizeof MATRICES / sizeof MATRICES[0]; i++) {
        (void)snprintf(name, sizeof name, "blk.%d.%s.weight", layer, MATRICES[i].name);
        tiny_tensor(g, name, type, MATRICES[i].k, MATRICES[i].rows, 1.0f / sqrtf((float)MATRICES[i].k), state);
    }
    for (int i = 0; i < 2; i++) {
        (void)snprintf(name, sizeof name, "blk.%d.%s_norm.weight", layer, i ? "ffn" : "attn");
        tiny_norm(g, name, TINY_EMBEDDING, state);
    }
}

/* Byte tokens (GPT-2's stand-ins), one end token, the rest control tokens. */
static inline void tiny_tokenizer(struct gguf_builder *g)
{
    char text[TINY_VOCABULARY][16];
    const char *tokens[TINY_VOCABULARY];
    int32_t types[TINY_VOCABULARY];
    int extra = 0;
    for (int i = 0; i < TINY_VOCABULARY; i++) {
        bool plain = (i >= 33 && i < 127) || (i >= 161 && i < 173) || (i >= 174 && i < 256);
        int c = plain ? i : 256 + extra;
        if (i < 256 && !plain) extra++;
        if (i >= 256) (void)snprintf(text[i], sizeof text[i], i == TINY_END ? "<|end|>" : "<|x%d|>", i);
        else if (c < 128) (void)snprintf(text[i], sizeof text[i], "%c", c);
        else (void)snprintf(text[i], sizeof text[i], "%c%c", 0xc0 | c >> 6, 0x80 | (c & 63));
        tokens[i] = text[i];
        types[i] = i < 256 ? 1 : 3;
    }
    const char *merges[] = {"h e"};
    gguf_builder_str(g, "tokenizer.ggml.model", "gpt2");
    gguf_builder_str(g, "tokenizer.ggml.pre", "gpt-2");
    gguf_builder_strings(g, "tokenizer.ggml.tokens", tokens, TINY_VOCABULARY);
    gguf_builder_ints(g, "tokenizer.ggml.token_type", types, TINY_VOCABULARY);
    gguf_builder_strings(g, "tokenizer.ggml.merges", merges, 1);
    gguf_builder_u32(g, "tokenizer.ggml.eos_token_id", TINY_END);
}

static inline void tiny_model_build(struct gguf_builder *g, enum gguf_type type, uint64_t seed)
{
    gguf_builder_str(g, "general.architecture", "llama");
    gguf_builder_str(g, "general.name", "tiny");
    gguf_builder_u32(g, "llama.embedding_length", TINY_EMBEDDING);
    gguf_builder_u32(g, "llama.block_count", TINY_LAYERS);
    gguf_builder_u32(g, "llama.attention.head_count", TINY_HEADS);
    gguf_builder_u32(g, "llama.attention.head_count_kv", TINY_KV_HEADS);
    gguf_builder_u32(g, "llama.feed_forward_length", TINY_FF);
    gguf_builder_u32(g, "llama.context_length", 1024);
    gguf_builder_f32(g, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    tiny_tokenizer(g);
    tiny_tensor(g, "token_embd.weight", type, TINY_EMBEDDING, TINY_VOCABULARY, 1, &seed);
    tiny_tensor(g, "output.weight", type, TINY_EMBEDDING, TINY_VOCABULARY, 2.0f / sqrtf(TINY_EMBEDDING), &seed);
    tiny_norm(g, "output_norm.weight", TINY_EMBEDDING, &seed);
    for (int i = 0; i < TINY_LAYERS; i++) tiny_layer(g, i, type, &seed);
}

#endif
