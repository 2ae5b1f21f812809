/* Weights on the device: planned first, allocated in one piece, then copied from the mapped file (or made up, for a shape
 * without a file). Matrices lie as in the file; vectors become floats. */
#include "engine/cuda/backend.cuh"

extern "C" {
#include "engine/cpu/pack.h"
}

#include <stdlib.h>
#include <string.h>

enum { ALIGN = 256 };

struct piece { /* one matrix, or one vector of floats, on its way */
    const void *from;  /* NULL: made up */
    const void **to;   /* where its device address goes */
    int64_t bytes, at;
    enum matrix_kind kind;
    enum gguf_type type;
    int k;
    float *owned; /* a vector's floats, to be freed */
};

struct plan {
    struct piece *list;
    int count, max;
    int64_t bytes;
    uint32_t seed;
};

static enum err_code add_piece(struct plan *p, struct piece piece, bool behind, struct err *e)
{
    if (p->count == p->max) {
        int max = p->max ? p->max * 2 : 512;
        struct piece *list = (struct piece *)realloc(p->list, (size_t)max * sizeof *list);
        if (!list) return err_set(e, ERR_MEMORY, "no memory to plan the weights");
        p->list = list;
        p->max = max;
    }
    if (!behind) p->bytes = (p->bytes + ALIGN - 1) / ALIGN * ALIGN;
    piece.at = p->bytes;
    p->bytes += piece.bytes;
    p->list[p->count++] = piece;
    return ERR_OK;
}

static enum matrix_kind kind_of(enum gguf_type type)
{
    return type == GGUF_F16 ? MATRIX_F16 : type == GGUF_BF16 ? MATRIX_BF16 : type == GGUF_FP8 ? MATRIX_FP8 : type == GGUF_W4A16 ? MATRIX_W4 : MATRIX_GGUF;
}

static int64_t matrix_bytes(enum gguf_type type, int rows, int k)
{
    if (type == GGUF_W4A16) return (int64_t)(rows + W4_PANEL_ROWS - 1) / W4_PANEL_ROWS * (k / W4_GROUP) * W4_GRANULE;
    const struct gguf_type_info *info = gguf_type_info((uint32_t)type);
    return (int64_t)rows * (k / info->block_elements) * info->block_bytes;
}

/* Rows [first, first + rows) of a tensor as a matrix. `behind`: right behind the last piece. */
static enum err_code add_matrix(struct plan *p, struct matrix *to, const struct gguf_tensor *t, int64_t first, int rows, bool behind, struct err *e)
{
    int k = (int)t->shape[0];
    to->kind = kind_of(t->type);
    to->type = t->type;
    to->rows = rows;
    to->k = k;
    if (t->type == GGUF_W4A16 && first % W4_PANEL_ROWS != 0)
        return err_set(e, ERR_UNSUPPORTED, "tensor %.*s: its parts do not begin on whole panels of 8 rows", (int)t->name.len, t->name.data);
    struct piece m;
    memset(&m, 0, sizeof m);
    m.from = t->data ? (const uint8_t *)t->data + matrix_bytes(t->type, (int)first, k) : NULL;
    m.to = &to->data;
    m.bytes = matrix_bytes(t->type, rows, k);
    m.kind = to->kind, m.type = t->type, m.k = k;
    return add_piece(p, m, behind && p->bytes % 16 == 0, e);
}

static enum err_code add_scale(struct plan *p, struct matrix *to, const struct gguf_tensor *t, int64_t first, bool behind, struct err *e)
{
    if (t->type != GGUF_FP8) return ERR_OK;
    struct piece m;
    memset(&m, 0, sizeof m);
    m.from = t->scale + first;
    m.to = (const void **)&to->scale;
    m.bytes = (int64_t)to->rows * 4;
    return add_piece(p, m, behind, e);
}

static enum err_code add_one(struct plan *p, struct matrix *to, const struct gguf_tensor *t, int64_t first, int rows, struct err *e)
{
    enum err_code code = add_matrix(p, to, t, first, rows, false, e);
    return code ? code : add_scale(p, to, t, first, false, e);
}

/* Elements [first, first + n) of a tensor as floats; NULL in gives NULL. */
static enum err_code add_vector(struct plan *p, float **to, const struct gguf_tensor *t, int64_t first, int n, struct err *e)
{
    if (!t) return ERR_OK;
    if (!pack_plain(t->type)) return err_set(e, ERR_UNSUPPORTED, "tensor %.*s must be F32, F16 or BF16", (int)t->name.len, t->name.data);
    struct piece m;
    memset(&m, 0, sizeof m);
    m.owned = (float *)malloc((size_t)n * sizeof(float));
    if (!m.owned) return err_set(e, ERR_MEMORY, "no memory for %d numbers", n);
    pack_dequantize(t->type, (const char *)t->data + first * pack_format(t->type)->element, n, m.owned, NULL);
    m.from = m.owned, m.to = (const void **)to, m.bytes = (int64_t)n * 4;
    enum err_code code = add_piece(p, m, false, e);
    if (code) free(m.owned);
    return code;
}

static enum err_code plan_attention(struct cuda *c, struct plan *p, int index, struct err *e)
{
    const struct model *m = c->model;
    const struct model_layer *l = &m->layer[index];
    struct cuda_layer *to = &c->layer[index];
    const struct gguf_tensor *q = l->qkv ? l->qkv : l->q, *k = l->qkv ? l->qkv : l->k, *v = l->qkv ? l->qkv : l->v, *both = l->qkv_bias;
    int64_t at_k = l->qkv ? c->q_dim : 0, at_v = l->qkv ? c->q_dim + c->kv_dim : 0;
    enum err_code code = add_matrix(p, &to->q, q, 0, c->q_dim, false, e);
    if (!code) code = add_matrix(p, &to->k, k, at_k, c->kv_dim, true, e);
    if (!code) code = add_matrix(p, &to->v, v, at_v, c->kv_dim, true, e);
    if (!code) code = add_scale(p, &to->q, q, 0, false, e);
    if (!code) code = add_scale(p, &to->k, k, at_k, true, e);
    if (!code) code = add_scale(p, &to->v, v, at_v, true, e);
    if (!code) code = add_one(p, &to->o, l->o, 0, m->embedding, e);
    if (!code) code = add_vector(p, &to->q_bias, both ? both : l->q_bias, 0, c->q_dim, e);
    if (!code) code = add_vector(p, &to->k_bias, both ? both : l->k_bias, both ? c->q_dim : 0, c->kv_dim, e);
    if (!code) code = add_vector(p, &to->v_bias, both ? both : l->v_bias, both ? c->q_dim + c->kv_dim : 0, c->kv_dim, e);
    if (!code) code = add_vector(p, &to->o_bias, l->o_bias, 0, m->embedding, e);
    if (!code) code = add_vector(p, &to->q_norm, l->q_norm, 0, m->head_dim, e);
    if (!code) code = add_vector(p, &to->k_norm, l->k_norm, 0, m->head_dim, e);
    if (!code) code = add_vector(p, &to->attn_norm, l->attn_norm, 0, m->embedding, e);
    if (!code) code = add_vector(p, &to->attn_post, l->attn_post_norm, 0, m->embedding, e);
    if (!code) code = add_vector(p, &to->ffn_norm, l->ffn_norm, 0, m->embedding, e);
    return code ? code : add_vector(p, &to->ffn_post, l->ffn_post_norm, 0, m->embedding, e);
}

static enum err_code plan_dense(struct cuda *c, struct plan *p, int index, struct err *e)
{
    const struct model_layer *l = &c->model->layer[index];
    struct cuda_layer *to = &c->layer[index];
    const struct gguf_tensor *gate = l->gate ? l->gate : l->up;
    int n = c->model->feed_forward;
    enum err_code code = add_matrix(p, &to->gate, gate, 0, n, false, e);
    if (!code) code = add_matrix(p, &to->up, l->up, l->gate ? 0 : n, n, true, e);
    if (!code) code = add_scale(p, &to->gate, gate, 0, false, e);
    if (!code) code = add_scale(p, &to->up, l->up, l->gate ? 0 : n, true, e);
    return code ? code : add_one(p, &to->down, l->down, 0, c->model->embedding, e);
}

static enum err_code plan_experts(struct cuda *c, struct plan *p, int index, struct err *e)
{
    const struct model *m = c->model;
    const struct model_layer *l = &m->layer[index];
    struct cuda_layer *to = &c->layer[index];
    int n = m->expert_feed_forward;
    to->gates = c->experts + (size_t)index * 3 * (size_t)m->experts;
    to->ups = to->gates + m->experts;
    to->downs = to->ups + m->experts;
    enum err_code code = add_one(p, &to->router, l->router, 0, m->experts, e);
    for (int i = 0; i < m->experts && !code; i++) {
        code = add_one(p, &to->gates[i], l->gate_experts, (int64_t)i * n, n, e);
        if (!code) code = add_one(p, &to->ups[i], l->up_experts, (int64_t)i * n, n, e);
        if (!code) code = add_one(p, &to->downs[i], l->down_experts, (int64_t)i * m->embedding, m->embedding, e);
    }
    return code;
}

static enum err_code plan_all(struct cuda *c, struct plan *p, struct err *e)
{
    const struct model *m = c->model;
    enum err_code code = ERR_OK;
    for (int i = 0; i < m->layers && !code; i++) {
        code = plan_attention(c, p, i, e);
        if (!code) code = m->experts ? plan_experts(c, p, i, e) : plan_dense(c, p, i, e);
    }
    if (!code) code = add_one(p, &c->output, m->output, 0, m->vocabulary, e);
    if (!code && m->embed != m->output) code = add_one(p, &c->embed, m->embed, 0, m->vocabulary, e);
    if (!code) code = add_vector(p, &c->output_norm, m->output_norm, 0, m->embedding, e);
    return code ? code : add_vector(p, &c->output_bias, m->output_bias, 0, m->vocabulary, e);
}

static enum err_code add_frequencies(struct cuda *c, struct plan *p, struct err *e)
{
    const struct model *m = c->model;
    int pairs = m->rotated / 2;
    struct piece f;
    memset(&f, 0, sizeof f);
    f.owned = (float *)malloc((size_t)pairs * 2 * sizeof(float));
    if (!f.owned) return err_set(e, ERR_MEMORY, "no memory for the rope's frequencies");
    for (int i = 0; i < 2 * pairs; i++) f.owned[i] = m->rope[i / pairs].frequency[i % pairs];
    f.from = f.owned, f.to = (const void **)&c->frequency, f.bytes = (int64_t)pairs * 8;
    enum err_code code = add_piece(p, f, false, e);
    if (code) free(f.owned);
    return code;
}

static enum err_code take_memory(struct cuda *c, const struct plan *p, struct err *e)
{
    size_t free_bytes = 0, total = 0;
    enum err_code code = cuda_check(cudaMemGetInfo(&free_bytes, &total), "the GPU's memory", e);
    if (code) return code;
    c->weight_bytes = p->bytes;
    if ((size_t)p->bytes > free_bytes) {
        double per_weight = (double)p->bytes * 8 / (double)c->model->parameters, fits = (double)free_bytes * 8 / (double)c->model->parameters;
        return err_set(e, ERR_MEMORY, "the weights need %.1f GB, %.1f bits each; the GPU has %.1f GB free of %.1f: up to %.1f bits each would fit (rung quantize makes w4a16 with 4.1)",
                       (double)p->bytes * 1e-9, per_weight, (double)free_bytes * 1e-9, (double)total * 1e-9, fits);
    }
    return cuda_check(cudaMalloc(&c->weights, (size_t)((p->bytes + ALIGN - 1) / ALIGN * ALIGN)), "memory for the weights", e);
}

static enum err_code fill(struct cuda *c, struct plan *p, struct err *e)
{
    struct upload *list = (struct upload *)calloc((size_t)p->count, sizeof *list);
    if (!list) return err_set(e, ERR_MEMORY, "no memory for %d copies", p->count);
    int copies = 0;
    enum err_code code = ERR_OK;
    for (int i = 0; i < p->count && !code; i++) {
        struct piece *m = &p->list[i];
        uint8_t *to = (uint8_t *)c->weights + m->at;
        *m->to = to;
        struct upload *u = &list[copies];
        *u = (struct upload){m->from, to, m->bytes, -1, 0};
        if (m->from && gguf_place(c->model->gguf, m->from, &u->file, &u->offset)) u->from = NULL;
        if (m->from) copies++;
        else code = random_weights(to, m->bytes, m->kind, m->type, m->k, p->seed + (uint32_t)i * 977u, c->stream, e);
    }
    if (!code) code = upload_run(list, copies, 0, e);
    if (!code) code = cuda_check(cudaStreamSynchronize(c->stream), "copying the weights", e);
    free(list);
    return code;
}

/* Several as one matrix, where they lie behind each other in one kind; else its kind stays NONE. */
static void fuse(struct matrix *whole, const struct matrix *const *m, int count)
{
    const uint8_t *end = (const uint8_t *)m[0]->data;
    int rows = 0;
    for (int i = 0; i < count; i++) {
        if (m[i]->kind != m[0]->kind || m[i]->type != m[0]->type || (const uint8_t *)m[i]->data != end) return;
        if (m[i]->scale && m[i]->scale != m[0]->scale + rows) return;
        if (m[i]->kind == MATRIX_W4 && m[i]->rows % W4_PANEL_ROWS != 0) return;
        end += matrix_bytes(m[i]->type, m[i]->rows, m[i]->k);
        rows += m[i]->rows;
    }
    *whole = *m[0];
    whole->rows = rows;
}

static void fuse_layer(struct cuda_layer *l, bool dense)
{
    const struct matrix *const qkv[3] = {&l->q, &l->k, &l->v}, *const gate_up[2] = {&l->gate, &l->up};
    fuse(&l->qkv, qkv, 3);
    if (dense) fuse(&l->gate_up, gate_up, 2);
}

enum err_code weights_open(struct cuda *c, struct err *e)
{
    const struct model *m = c->model;
    struct plan p = {NULL, 0, 0, 0, (uint32_t)m->random};
    c->layer = (struct cuda_layer *)calloc((size_t)m->layers, sizeof *c->layer);
    if (m->experts) c->experts = (struct matrix *)calloc((size_t)m->layers * 3 * (size_t)m->experts, sizeof *c->experts);
    enum err_code code = c->layer && (c->experts || !m->experts) ? plan_all(c, &p, e) : err_set(e, ERR_MEMORY, "no memory for the layers");
    if (!code) code = add_frequencies(c, &p, e);
    if (!code) code = take_memory(c, &p, e);
    if (!code) code = fill(c, &p, e);
    for (int i = 0; i < p.count; i++) free(p.list[i].owned);
    free(p.list);
    if (code) return code;
    if (m->embed == m->output) c->embed = c->output;
    for (int i = 0; i < m->layers; i++) fuse_layer(&c->layer[i], !m->experts);
    return ERR_OK;
}

void weights_close(struct cuda *c)
{
    (void)cudaFree(c->weights);
    free(c->layer);
    free(c->experts);
}
