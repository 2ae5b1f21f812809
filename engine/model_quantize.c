#include "engine/model_quantize.h"

#include "engine/cpu/pack.h"
#include "engine/gguf_own.h"
#include "engine/gguf_write.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    struct quantize_mix mix;
} MIXES[] = {
    {"F32", {GGUF_F32, false, 0}},      {"F16", {GGUF_F16, false, 1}},      {"BF16", {GGUF_BF16, false, 32}},
    {"Q8_0", {GGUF_Q8_0, false, 7}},    {"Q4_0", {GGUF_Q4_0, false, 2}},    {"Q4_1", {GGUF_Q4_1, false, 3}},
    {"Q5_0", {GGUF_Q5_0, false, 8}},    {"Q5_1", {GGUF_Q5_1, false, 9}},    {"IQ4_NL", {GGUF_IQ4_NL, false, 25}},
    {"Q2_K", {GGUF_Q2_K, true, 10}},    {"Q3_K_S", {GGUF_Q3_K, false, 11}}, {"Q3_K_M", {GGUF_Q3_K, true, 12}},
    {"Q4_K_S", {GGUF_Q4_K, false, 14}}, {"Q4_K_M", {GGUF_Q4_K, true, 15}},  {"Q5_K_S", {GGUF_Q5_K, false, 16}},
    {"Q5_K_M", {GGUF_Q5_K, true, 17}},  {"Q6_K", {GGUF_Q6_K, false, 18}},   {"FP8", {GGUF_FP8, false, -1}},
    {"W4A16", {GGUF_W4A16, false, -1}},
};
enum { MIXES_COUNT = (int)(sizeof MIXES / sizeof MIXES[0]) };

const char *quantize_mix_name(int index)
{
    return index >= 0 && index < MIXES_COUNT ? MIXES[index].name : NULL;
}

bool quantize_mix_find(const char *name, struct quantize_mix *out)
{
    for (int i = 0; i < MIXES_COUNT; i++) {
        if (strcasecmp(MIXES[i].name, name) != 0) continue;
        *out = MIXES[i].mix;
        return true;
    }
    return false;
}

static bool named(const struct gguf_tensor *t, const char *part)
{
    return memmem(t->name.data, t->name.len, part, strlen(part)) != NULL;
}

static int layer_of(const struct gguf_tensor *t)
{
    int layer = -1;
    char name[64];
    (void)snprintf(name, sizeof name, "%.*s", (int)t->name.len, t->name.data);
    return sscanf(name, "blk.%d.", &layer) == 1 ? layer : -1;
}

/* The first and last eighth of the layers, and every third between (llama.cpp's rule for its "_M" mixes). */
static bool finer_layer(int layer, int layers)
{
    int eighth = layers / 8;
    return layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2;
}

/* K-quants need rows of whole 256s; the next larger type without that need stands in. */
static enum gguf_type fitting(enum gguf_type t, int64_t k)
{
    if (gguf_type_info((uint32_t)t)->block_elements != PACK_SUPER || k % PACK_SUPER == 0) return t;
    return t == GGUF_Q6_K ? GGUF_Q8_0 : t == GGUF_Q5_K ? GGUF_Q5_1 : t == GGUF_Q4_K ? GGUF_Q5_0 : GGUF_Q4_0;
}

/* FP8 and W4A16 are for products on a GPU: the embedding is looked up, and stays F16; so does W4A16's output. */
static enum gguf_type own_type(enum gguf_type to, const struct gguf_tensor *t, bool output)
{
    if (named(t, "token_embd") || (output && to == GGUF_W4A16)) return GGUF_F16;
    bool fits = to == GGUF_FP8 || (t->shape[0] % W4A16_GROUP == 0 && t->shape[1] % W4A16_PANEL_ROWS == 0);
    return fits ? to : GGUF_F16;
}

enum gguf_type quantize_type_for(const struct quantize_mix *mix, const struct gguf_tensor *t, int layers, bool tied)
{
    bool matrix = t->dims >= 2 && t->name.len > 7 && memcmp(t->name.data + t->name.len - 7, ".weight", 7) == 0;
    if (!matrix || named(t, "_norm.") || named(t, "ffn_gate_inp") || !pack_format(t->type)) return t->type;
    enum gguf_type to = mix->type;
    bool output = named(t, "output.weight") && !named(t, "attn_output");
    bool finest = output || (tied && named(t, "token_embd")), k_quant = gguf_type_info((uint32_t)to)->block_elements == PACK_SUPER;
    if (to == GGUF_FP8 || to == GGUF_W4A16) return own_type(to, t, output);
    if (k_quant && finest) to = GGUF_Q6_K;
    else if (mix->mixed && (named(t, "attn_v.") || named(t, "ffn_down")) && finer_layer(layer_of(t), layers))
        to = mix->type == GGUF_Q2_K ? GGUF_Q3_K : mix->type == GGUF_Q3_K ? GGUF_Q5_K : GGUF_Q6_K;
    to = fitting(to, t->shape[0]);
    return t->shape[0] % gguf_type_info((uint32_t)to)->block_elements ? GGUF_F16 : to;
}

static bool key_named(const struct gguf_key *key, const char *start)
{
    return key->name.len >= strlen(start) && memcmp(key->name.data, start, strlen(start)) == 0;
}

static enum err_code declare(struct gguf_writer *w, const struct gguf *g, const struct quantize_mix *mix, int layers, bool tied,
                             struct err *e)
{
    for (int i = 0; i < gguf_tensor_count(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        char name[4097];
        if (t->is_scale) continue; /* written with its tensor */
        (void)snprintf(name, sizeof name, "%.*s", (int)t->name.len, t->name.data);
        enum err_code code = gguf_write_tensor(w, name, quantize_type_for(mix, t, layers, tied), t->dims, t->shape, e);
        if (code) return code;
    }
    struct gguf_key key;
    for (int i = 0; gguf_key_at(g, i, &key); i++)
        if (!key_named(&key, "rung.weights.") && !key_named(&key, "general.file_type")) gguf_write_key(w, &key);
    if (mix->file_type >= 0) gguf_write_u32(w, "general.file_type", (uint32_t)mix->file_type);
    gguf_write_u32(w, "general.quantization_version", 2);
    return gguf_writer_begin(w, e);
}

/* What one row of a conversion needs. */
struct conversion {
    enum gguf_type to;
    int k;
    int64_t rows;
    float *row;       /* (k) */
    uint8_t *raw;     /* a row, or a panel of W4A16 */
    void *scratch;
    float *scale;     /* (rows) FP8 */
    int8_t *q;        /* (k) W4A16 */
    uint16_t *scales; /* (k / 128) W4A16 */
};

static enum err_code conversion_init(struct conversion *c, const struct gguf_tensor *t, enum gguf_type to, struct err *e)
{
    size_t k = (size_t)t->shape[0], panel = to == GGUF_W4A16 ? W4A16_PANEL_ROWS : 1;
    *c = (struct conversion){.to = to, .k = (int)k, .rows = t->shape[1] * t->shape[2] * t->shape[3]};
    c->row = malloc(k * sizeof *c->row);
    c->raw = malloc(pack_row_bytes(to, c->k) * panel);
    c->scratch = malloc(packed_scratch(c->k));
    c->scale = malloc((to == GGUF_FP8 ? (size_t)c->rows : 1) * sizeof *c->scale);
    c->q = malloc(k);
    c->scales = malloc((k / W4A16_GROUP + 1) * sizeof *c->scales);
    if (c->row && c->raw && c->scratch && c->scale && c->q && c->scales) return ERR_OK;
    return err_set(e, ERR_MEMORY, "no memory for a row of %d", c->k);
}

static void conversion_release(struct conversion *c)
{
    free(c->row);
    free(c->raw);
    free(c->scratch);
    free(c->scale);
    free(c->q);
    free(c->scales);
}

/* The row at hand as bytes of the file. */
static enum err_code write_row(struct gguf_writer *w, struct conversion *c, int64_t row, struct err *e)
{
    size_t bytes = pack_row_bytes(c->to, c->k);
    if (c->to == GGUF_W4A16) {
        quantize_row_w4a16(c->row, c->k, c->q, c->scales);
        w4a16_put_row(c->raw, row % W4A16_PANEL_ROWS, c->k, c->q, c->scales);
        return row % W4A16_PANEL_ROWS == W4A16_PANEL_ROWS - 1 ? gguf_write_data(w, c->raw, bytes * W4A16_PANEL_ROWS, e) : ERR_OK;
    }
    if (c->to == GGUF_FP8) c->scale[row] = quantize_row_fp8(c->row, c->k, c->raw);
    else quantize_row(c->to, c->row, c->k, c->raw);
    return gguf_write_data(w, c->raw, bytes, e);
}

static enum err_code convert(struct gguf_writer *w, const struct gguf_tensor *t, enum gguf_type to, struct err *e)
{
    struct conversion c;
    enum err_code code = conversion_init(&c, t, to, e);
    bool same = to == t->type;
    if (!code && same) code = gguf_write_data(w, t->data, (size_t)t->bytes, e);
    for (int64_t row = 0; row < c.rows && !same && !code; row++) {
        pack_tensor_row(t, row, c.row, c.scratch);
        code = write_row(w, &c, row, e);
    }
    if (!code && to == GGUF_FP8) code = gguf_write_data(w, same ? t->scale : c.scale, (size_t)c.rows * sizeof *c.scale, e);
    conversion_release(&c);
    return code;
}

static int layers_of(const struct gguf *g)
{
    int layers = 0;
    for (int i = 0; i < gguf_tensor_count(g); i++)
        if (layer_of(gguf_tensor_at(g, i)) >= layers) layers = layer_of(gguf_tensor_at(g, i)) + 1;
    return layers;
}

enum err_code quantize_file(const char *in, const char *out, const struct quantize_mix *mix, quantize_progress *progress, void *ctx,
                            struct err *e)
{
    struct gguf *g = NULL;
    struct gguf_writer *w = NULL;
    enum err_code code = gguf_open(&g, in, e);
    if (code) return code;
    int layers = layers_of(g), count = gguf_tensor_count(g);
    bool tied = !gguf_tensor_find(g, "output.weight");
    code = gguf_writer_open(&w, out, e);
    if (!code) code = declare(w, g, mix, layers, tied, e);
    for (int i = 0; i < count && !code; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        enum gguf_type to = quantize_type_for(mix, t, layers, tied);
        if (t->is_scale) continue;
        if (progress) progress(ctx, t, to, i, count);
        code = convert(w, t, to, e);
    }
    if (!code) code = gguf_writer_finish(w, e);
    gguf_writer_close(w);
    gguf_close(g);
    return code;
}
