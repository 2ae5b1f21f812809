/* One forward step on the GPU, the general way: a few kernels an operation, for any model and any number of columns.
 *
 *   embed ─► [norm → form ─► Q K V ─► attention ─► O ─► + norm → form ─► gate up ─► activation → form ─► down ─► +] × layers
 *          ─► norm ─► output ─► statistics
 */
#include "engine/cuda/backend.cuh"

#include <string.h>

extern "C" {
#include "base/err.h"
}

/* Work goes on while nothing failed. */
struct way {
    struct cuda *c;
    const struct batch *batch;
    const struct columns *columns;
    struct err *e;
    enum err_code code;
};

static void then(struct way *w, enum err_code code)
{
    if (!w->code) w->code = code;
}

static struct operand operand_for(struct way *w, const struct matrix *m, int cols)
{
    struct operand o;
    o.form = matmul_form(m, cols, w->c->invariant);
    o.cols = cols;
    o.k = m->k;
    o.data = w->c->operand;
    o.scale = w->c->scales;
    return o;
}

static void multiply(struct way *w, const struct matrix *m, const struct operand *x, enum into into, void *y, int64_t ldy)
{
    if (!w->code) w->code = matmul_run(w->c->matmul, m, x, into, y, ldy, w->c->stream, w->e);
}

static void norm(struct way *w, const struct join *join, const float *weight, int rows, const int32_t *col, const struct operand *out, float *plain)
{
    const struct model *m = w->c->model;
    if (!w->code) w->code = join_and_norm(w->c->x, join, weight, m->norm_eps, rows, m->embedding, col, out, plain, w->c->stream, w->e);
}

/* y[i] of several matrices of one input; `plain` holds the input as floats for those whose form is another than the first's. */
static void multiply_list(struct way *w, const struct matrix *const *list, float *const *to, const int64_t *ld, int count, const struct operand *first,
                          const float *plain)
{
    for (int i = 0; i < count && !w->code; i++) {
        struct operand x = *first;
        x.form = matmul_form(list[i], x.cols, w->c->invariant);
        if (x.form != first->form) then(w, operand_from_floats(plain, x.k, &x, w->c->stream, w->e));
        multiply(w, list[i], &x, INTO_F32, to[i], ld[i]);
        if (x.form != first->form && i + 1 < count) then(w, operand_from_floats(plain, x.k, first, w->c->stream, w->e));
    }
}

static bool one_form(struct way *w, const struct matrix *const *list, int count, int cols)
{
    for (int i = 1; i < count; i++)
        if (matmul_form(list[i], cols, w->c->invariant) != matmul_form(list[0], cols, w->c->invariant)) return false;
    return true;
}

static void attention_block(struct way *w, int index, const struct join *before)
{
    struct cuda *c = w->c;
    const struct model *m = c->model;
    struct cuda_layer *l = &c->layer[index];
    int cols = w->columns->cols;
    int64_t ld = c->q_dim + 2 * c->kv_dim;
    const struct matrix *list[3] = {l->qkv.kind ? &l->qkv : &l->q, &l->k, &l->v};
    int count = l->qkv.kind ? 1 : 3;
    float *const to[3] = {c->qkv, c->qkv + c->q_dim, c->qkv + c->q_dim + c->kv_dim};
    const int64_t lds[3] = {ld, ld, ld};
    struct operand x = operand_for(w, list[0], cols);
    norm(w, before, l->attn_norm, cols, NULL, &x, one_form(w, list, count, cols) ? NULL : c->y);
    multiply_list(w, list, to, lds, count, &x, c->y);

    struct attention_layer a;
    memset(&a, 0, sizeof a);
    a.layer = index, a.heads = m->heads, a.kv_heads = m->kv_heads, a.head_dim = m->head_dim, a.rotated = m->rotated;
    a.rope_halves = m->arch->rope_halves, a.window = m->layer[index].window, a.softcap = m->attention_softcap;
    a.scale = m->attention_scale, a.norm_eps = m->norm_eps, a.q_bias = l->q_bias, a.k_bias = l->k_bias, a.v_bias = l->v_bias;
    a.q_norm = l->q_norm, a.k_norm = l->k_norm, a.sparse_pages = c->sparse_pages;
    a.planned = index > 0 && m->layer[index - 1].window == a.window;
    a.angles = c->angles + (m->layer[index].local_rope ? (int64_t)c->cols_max * m->rotated : 0);
    struct operand o = operand_for(w, &l->o, cols);
    if (o.form == FORM_TURNED) o.form = FORM_F16; /* attention writes no other; the product turns it */
    enum form form = o.form == FORM_BF16 ? FORM_BF16 : FORM_F16;
    void *attended = o.form == FORM_E4M3 ? (void *)c->attended : o.data;
    if (!w->code) w->code = attention_run(c->attention, &a, &c->kv, w->columns, c->qkv, ld, form, attended, c->stream, w->e);
    if (o.form == FORM_E4M3 && !w->code) w->code = shrink(attended, false, &o, c->stream, w->e);
    multiply(w, &l->o, &o, INTO_F32, c->y, m->embedding);
}

static void dense_block(struct way *w, struct cuda_layer *l, const struct join *join)
{
    struct cuda *c = w->c;
    bool together = l->gate_up.kind != MATRIX_NONE;
    int cols = w->columns->cols, n = c->ffn_dim, count = together ? 1 : 2;
    const struct matrix *list[2] = {together ? &l->gate_up : &l->gate, &l->up};
    float *const to[2] = {c->gate, c->up};
    const int64_t ld = together ? 2 * n : n, lds[2] = {ld, ld};
    struct operand x = operand_for(w, list[0], cols);
    norm(w, join, l->ffn_norm, cols, NULL, &x, one_form(w, list, count, cols) ? NULL : c->expert_in);
    multiply_list(w, list, to, lds, count, &x, c->expert_in);
    struct operand h = operand_for(w, &l->down, cols);
    if (!w->code) w->code = activate(c->gate, together ? c->gate + n : c->up, ld, cols, n, c->model->arch->gelu, &h, c->stream, w->e);
    multiply(w, &l->down, &h, INTO_F32, c->y, c->model->embedding);
}

/* ---- mixture of experts: the choice comes to the host, each expert's columns are a batch of their own ---- */

/* Columns in the order of experts, at host_chosen + pairs; where each pair stands, in its own place. first: (experts + 1). */
static void sort_pairs(struct cuda *c, int cols, int *first)
{
    const struct model *m = c->model;
    int used = m->experts_used, pairs = cols * used;
    int32_t *chosen = c->host_chosen, *col = chosen + pairs, *row = col + pairs;
    memset(first, 0, ((size_t)m->experts + 1) * sizeof *first);
    for (int i = 0; i < pairs; i++) first[chosen[i] + 1]++;
    for (int i = 0; i < m->experts; i++) first[i + 1] += first[i];
    for (int i = 0; i < pairs; i++) {
        row[i] = first[chosen[i]]++;
        col[row[i]] = i / used;
    }
    for (int i = m->experts; i > 0; i--) first[i] = first[i - 1];
    first[0] = 0;
}

static void one_expert(struct way *w, struct cuda_layer *l, int expert, int first, int count)
{
    struct cuda *c = w->c;
    int n = c->ffn_dim, d = c->model->embedding;
    const struct matrix *list[2] = {&l->gates[expert], &l->ups[expert]};
    for (int i = 0; i < 2 && !w->code; i++) {
        struct operand x = operand_for(w, list[i], count);
        then(w, gather(c->expert_in, c->pair_col + first, count, d, &x, c->stream, w->e));
        multiply(w, list[i], &x, INTO_F32, i ? c->up : c->gate, n);
    }
    struct operand h = operand_for(w, &l->downs[expert], count);
    if (!w->code) w->code = activate(c->gate, c->up, n, count, n, c->model->arch->gelu, &h, c->stream, w->e);
    multiply(w, &l->downs[expert], &h, INTO_F32, c->expert_y + (int64_t)first * d, d);
}

static void expert_block(struct way *w, struct cuda_layer *l, const struct join *join)
{
    struct cuda *c = w->c;
    const struct model *m = c->model;
    int cols = w->columns->cols, used = m->experts_used, pairs = cols * used, first[1025];
    struct operand x = operand_for(w, &l->router, cols);
    norm(w, join, l->ffn_norm, cols, NULL, &x, c->expert_in);
    multiply(w, &l->router, &x, INTO_F32, c->scores, m->experts);
    if (!w->code) w->code = choose_experts(c->scores, cols, m->experts, used, m->arch->norm_topk, c->chosen, c->chosen_weight, c->stream, w->e);
    if (!w->code)
        w->code = cuda_check(cudaMemcpyAsync(c->host_chosen, c->chosen, (size_t)pairs * 4, cudaMemcpyDeviceToHost, c->stream), "the choice of experts", w->e);
    if (!w->code) w->code = cuda_check(cudaStreamSynchronize(c->stream), "the choice of experts", w->e);
    if (w->code) return;
    sort_pairs(c, cols, first);
    w->code = cuda_check(cudaMemcpyAsync(c->pair_col, c->host_chosen + pairs, (size_t)pairs * 8, cudaMemcpyHostToDevice, c->stream), "the experts' columns", w->e);
    for (int i = 0; i < m->experts && !w->code; i++)
        if (first[i + 1] > first[i]) one_expert(w, l, i, first[i], first[i + 1] - first[i]);
    if (!w->code) w->code = sum_experts(c->expert_y, c->pair_col + pairs, c->chosen_weight, cols, used, m->embedding, c->y, c->stream, w->e);
}

/* A step over a long prompt that nobody wants any more ends: asked every few layers, when the device has come as far. */
static void ask_whether_wanted(struct way *w, int layer)
{
    enum { EVERY = 8, LONG = 256 }; /* columns beside those that decode */
    const struct batch *b = w->batch;
    if (w->code || !b->abandoned || b->cols - b->runs < LONG || layer % EVERY != EVERY - 1) return;
    w->code = cuda_check(cudaStreamSynchronize(w->c->stream), "the step", w->e);
    if (!w->code && b->abandoned(b->ctx)) w->code = err_set(w->e, ERR_CANCELLED, "the step was abandoned");
}

enum err_code forward_general(struct cuda *c, const struct batch *batch, const struct columns *columns, struct err *e)
{
    const struct model *m = c->model;
    struct way w = {c, batch, columns, e, ERR_OK};
    struct join join = {NULL, NULL, NULL, m->residual_scale}, nothing = {NULL, NULL, NULL, 1};
    for (int i = 0; i < m->layers; i++) {
        struct cuda_layer *l = &c->layer[i];
        attention_block(&w, i, i ? &join : &nothing);
        join = (struct join){c->y, l->o_bias, l->attn_post, m->residual_scale};
        if (m->experts) expert_block(&w, l, &join);
        else dense_block(&w, l, &join);
        join = (struct join){c->y, NULL, l->ffn_post, m->residual_scale};
        ask_whether_wanted(&w, i);
        if (w.code) return w.code;
    }
    norm(&w, &join, NULL, columns->cols, NULL, NULL, NULL);
    if (batch->wanted == 0) return w.code;
    struct operand x = operand_for(&w, &c->output, batch->wanted);
    norm(&w, NULL, c->output_norm, batch->wanted, c->step + c->layout.want, &x, c->hidden);
    multiply(&w, &c->output, &x, INTO_F32, c->logits, (int64_t)c->logits_stride);
    return w.code;
}
