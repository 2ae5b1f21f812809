/* One forward step on the CPU.
 *
 * Every member of the team walks through the same phases; inside a phase the work is shared out by pool_take, and a
 * barrier stands between two phases:
 *
 *   embed ─► [norm → acts ─► Q K V ─► rope, KV ─► attention ─► acts ─► O ─► + norm → acts ─► gate up ─►
 *             activation → acts ─► down ─► +] × layers ─► norm → acts ─► output
 *
 * A column's arithmetic never depends on the other columns or on who does it.
 */
#include "engine/cpu/cpu.h"

#include <math.h>
#include <string.h>

struct product {
    const struct packed *w;
    float *y;
    size_t ldy;
};

/* y = W x for each product, shared out by panels. */
static void multiply_all(struct cpu *c, const struct acts *x, const struct product *list, int count)
{
    int total = 0;
    for (int i = 0; i < count; i++) total += list[i].w->panels;
    int step = total / (pool_threads(c->pool) * 16);
    if (step < 1) step = 1;
    for (int at; (at = pool_take(c->pool, step)) < total;) {
        int end = at + step < total ? at + step : total, before = 0, i = 0;
        for (; at < end; at++) {
            while (at >= before + list[i].w->panels) before += list[i++].w->panels;
            c->kernels->matmul(list[i].w, at - before, x, list[i].y, list[i].ldy);
        }
    }
}

static void put(const struct cpu *c, struct acts *a, int col, const float *x, int form)
{
    if (form & FORM_Q8) c->kernels->put_q8(a, col, x);
    if (form & FORM_FLOAT) c->kernels->put_float(a, col, x);
}

static float *row(float *base, int col, int width)
{
    return base + (size_t)col * (size_t)width;
}

/* ---- phases; each is called by every member ---- */

static void embed_col(struct cpu *c, int col, int member)
{
    const struct model *m = c->model;
    const struct gguf_tensor *t = m->embed;
    float *x = row(c->x, col, m->embedding), *angles = row(c->angles, col, 2 * m->rotated);
    size_t bytes = pack_row_bytes(t->type, m->embedding);
    pack_dequantize(t->type, (const char *)t->data + (size_t)c->batch->tokens[col] * bytes, m->embedding, x,
                    c->scratch + (size_t)member * c->scratch_size);
    if (m->embedding_scale != 1)
        for (int i = 0; i < m->embedding; i++) x[i] *= m->embedding_scale;
    int pairs = m->rotated / 2;
    for (int set = 0; set < (m->arch->local_rope > 0 ? 2 : 1); set++) {
        for (int i = 0; i < pairs; i++) {
            double angle = (double)c->position[col] * (double)m->rope[set].frequency[i], scale = (double)m->rope[set].scale;
            angles[set * m->rotated + i] = (float)(cos(angle) * scale);
            angles[set * m->rotated + pairs + i] = (float)(sin(angle) * scale);
        }
    }
}

/* What a block gave joins the residual stream. */
static void join(struct cpu *c, int col, const float *bias, const float *post_norm)
{
    int n = c->model->embedding;
    float *y = row(c->y, col, n);
    if (bias) c->kernels->add(y, bias, n, 1);
    if (post_norm) c->kernels->rms_norm(y, y, post_norm, n, c->model->norm_eps);
    c->kernels->add(row(c->x, col, n), y, n, c->model->residual_scale);
}

static void norm_into(struct cpu *c, struct acts *a, int col, const float *weight, int form, int member)
{
    float *out = row(c->norm, member, c->model->embedding);
    c->kernels->rms_norm(out, row(c->x, col, c->model->embedding), weight, c->model->embedding, c->model->norm_eps);
    put(c, a, col, out, form);
}

static void turn_heads(const struct cpu *c, float *x, int heads, const float *norm, const float *angles, float scale)
{
    const struct model *m = c->model;
    for (int h = 0; h < heads; h++, x += m->head_dim) {
        if (norm) c->kernels->rms_norm(x, x, norm, m->head_dim, m->norm_eps);
        c->kernels->rope(x, angles, m->rotated / 2);
        if (scale != 1)
            for (int i = 0; i < m->head_dim; i++) x[i] *= scale;
    }
}

static uint16_t *kv_of(const struct cpu *c, int layer, int value)
{
    return c->kv + (size_t)layer * c->layer_stride + (value ? c->layer_stride / 2 : 0);
}

/* Biases, norms and rotation of one column's Q and K; its K and V go to their page. */
static void place_col(struct cpu *c, int layer, int col)
{
    const struct model *m = c->model;
    const struct cpu_layer *l = &c->layer[layer];
    const float *angles = row(c->angles, col, 2 * m->rotated) + (m->layer[layer].local_rope ? m->rotated : 0);
    float *q = row(c->q, col, c->q_dim), *k = row(c->k, col, c->kv_dim), *v = row(c->v, col, c->kv_dim);
    if (l->q_bias) c->kernels->add(q, l->q_bias, c->q_dim, 1);
    if (l->k_bias) c->kernels->add(k, l->k_bias, c->kv_dim, 1);
    if (l->v_bias) c->kernels->add(v, l->v_bias, c->kv_dim, 1);
    turn_heads(c, q, m->heads, l->q_norm, angles, m->attention_scale);
    turn_heads(c, k, m->kv_heads, l->k_norm, angles, 1);
    int position = c->position[col];
    size_t page = (size_t)c->pages_of[col][position / KV_PAGE_TOKENS] * c->page_stride;
    for (int h = 0; h < m->kv_heads; h++) {
        size_t at = page + (size_t)(h * m->head_dim) * KV_PAGE_TOKENS;
        c->kernels->put_kv(kv_of(c, layer, 0) + at, kv_of(c, layer, 1) + at, position % KV_PAGE_TOKENS, k + h * m->head_dim,
                           v + h * m->head_dim, m->head_dim);
    }
}

/* A tile: up to ATTEND_ROWS query rows of one run that read the same KV head. */
static void attend_tile(struct cpu *c, int layer, const struct batch_run *run, int tile, int kv_head)
{
    const struct model *m = c->model;
    int group = m->heads / m->kv_heads, first = tile * ATTEND_ROWS, rows = run->count * group - first;
    size_t at = (size_t)(kv_head * m->head_dim) * KV_PAGE_TOKENS;
    struct attend a = {.rows = rows < ATTEND_ROWS ? rows : ATTEND_ROWS,
                       .head_dim = m->head_dim,
                       .window = m->layer[layer].window,
                       .softcap = m->attention_softcap,
                       .pages = run->pages,
                       .k = kv_of(c, layer, 0) + at,
                       .v = kv_of(c, layer, 1) + at,
                       .page_stride = c->page_stride};
    for (int r = 0; r < a.rows; r++) {
        int col = run->first + (first + r) / group, head = kv_head * group + (first + r) % group;
        a.q[r] = row(c->q, col, c->q_dim) + head * m->head_dim;
        a.out[r] = row(c->attn, col, c->q_dim) + head * m->head_dim;
        a.position[r] = run->position + (first + r) / group;
    }
    c->kernels->attend(&a);
}

static void attention(struct cpu *c, int layer)
{
    const struct batch *b = c->batch;
    int tiles = c->tiles[b->runs], total = tiles * c->model->kv_heads;
    for (int at; (at = pool_take(c->pool, 1)) < total;) {
        int tile = at % tiles, run = 0;
        while (tile >= c->tiles[run + 1]) run++;
        attend_tile(c, layer, &b->run[run], tile - c->tiles[run], at / tiles);
    }
}

#define EACH_COL(col, cols) for (int col; (col = pool_take(c->pool, 1)) < (cols);)

static void attention_block(struct cpu *c, int layer)
{
    const struct cpu_layer *l = &c->layer[layer];
    size_t ldq = (size_t)c->q_dim, ldk = (size_t)c->kv_dim;
    multiply_all(c, &c->acts_embed, (struct product[]){{&l->q, c->q, ldq}, {&l->k, c->k, ldk}, {&l->v, c->v, ldk}}, 3);
    pool_barrier(c->pool);
    EACH_COL(col, c->batch->cols) place_col(c, layer, col);
    pool_barrier(c->pool);
    attention(c, layer);
    pool_barrier(c->pool);
    EACH_COL(col, c->batch->cols) put(c, &c->acts_q, col, row(c->attn, col, c->q_dim), l->form_o);
    pool_barrier(c->pool);
    multiply_all(c, &c->acts_q, (struct product[]){{&l->o, c->y, (size_t)c->model->embedding}}, 1);
    pool_barrier(c->pool);
}

static void activate(const struct cpu *c, float *gate, const float *up, int n)
{
    (c->model->arch->gelu ? c->kernels->gelu_mul : c->kernels->silu_mul)(gate, up, n);
}

static void dense_block(struct cpu *c, const struct cpu_layer *l)
{
    size_t ld = (size_t)c->ffn_dim;
    multiply_all(c, &c->acts_embed, (struct product[]){{&l->gate, c->gate, ld}, {&l->up, c->up, ld}}, 2);
    pool_barrier(c->pool);
    EACH_COL(col, c->batch->cols)
    {
        float *gate = row(c->gate, col, c->ffn_dim);
        activate(c, gate, row(c->up, col, c->ffn_dim), c->ffn_dim);
        put(c, &c->acts_ffn, col, gate, l->form_down);
    }
    pool_barrier(c->pool);
    multiply_all(c, &c->acts_ffn, (struct product[]){{&l->down, c->y, (size_t)c->model->embedding}}, 1);
    pool_barrier(c->pool);
}

static void output(struct cpu *c, int member)
{
    const struct model *m = c->model;
    EACH_COL(i, c->batch->wanted)
    {
        float *hidden = row(c->hidden, i, m->embedding);
        (void)member;
        c->kernels->rms_norm(hidden, row(c->x, c->batch->want[i], m->embedding), c->output_norm, m->embedding, m->norm_eps);
        put(c, &c->acts_out, i, hidden, c->form_output);
    }
    pool_barrier(c->pool);
    multiply_all(c, &c->acts_out, (struct product[]){{&c->output, c->logits, c->logits_stride}}, 1);
    pool_barrier(c->pool);
    EACH_COL(i, c->batch->wanted)
    {
        float *logits = c->logits + (size_t)i * c->logits_stride;
        int n = (int)c->logits_stride;
        if (c->output_bias) c->kernels->add(logits, c->output_bias, n, 1);
        if (m->logit_scale != 1)
            for (int j = 0; j < n; j++) logits[j] *= m->logit_scale;
        if (m->logit_softcap > 0) c->kernels->softcap(logits, n, m->logit_softcap);
    }
}

static void step(void *ctx, int member)
{
    struct cpu *c = ctx;
    int cols = c->batch->cols, layers = c->model->layers;
    EACH_COL(col, cols)
    {
        embed_col(c, col, member);
        norm_into(c, &c->acts_embed, col, c->layer[0].attn_norm, c->layer[0].form_in, member);
    }
    pool_barrier(c->pool);
    for (int i = 0; i < layers; i++) {
        const struct cpu_layer *l = &c->layer[i];
        attention_block(c, i);
        EACH_COL(col, cols)
        {
            join(c, col, l->o_bias, l->attn_post);
            norm_into(c, &c->acts_embed, col, l->ffn_norm, l->form_ffn, member);
        }
        pool_barrier(c->pool);
        dense_block(c, l);
        EACH_COL(col, cols)
        {
            join(c, col, NULL, l->ffn_post);
            if (i + 1 < layers)
                norm_into(c, &c->acts_embed, col, c->layer[i + 1].attn_norm, c->layer[i + 1].form_in, member);
        }
        pool_barrier(c->pool);
    }
    output(c, member);
}

/* ---- around them ---- */

static void prepare(struct cpu *c, const struct batch *b)
{
    int group = c->model->heads / c->model->kv_heads;
    c->batch = b;
    c->tiles[0] = 0;
    for (int r = 0; r < b->runs; r++) {
        const struct batch_run *run = &b->run[r];
        c->tiles[r + 1] = c->tiles[r] + (run->count * group + ATTEND_ROWS - 1) / ATTEND_ROWS;
        for (int i = 0; i < run->count; i++) {
            c->position[run->first + i] = run->position + i;
            c->pages_of[run->first + i] = run->pages;
        }
    }
    c->acts_embed.cols = c->acts_q.cols = c->acts_ffn.cols = b->cols;
    c->acts_out.cols = b->wanted;
}

/* A thread pays when it has at least so many multiplications to do in a step: some 2 ms. With less, a member that is
 * not scheduled at once (other processes run, the machine slept) costs the others more at the barriers than it gives. */
static int members_for(const struct cpu *c, int cols)
{
    const int64_t each = 32000000;
    int64_t members = c->macs * cols / each;
    return members < 1 ? 1 : members < pool_threads(c->pool) ? (int)members : pool_threads(c->pool);
}

enum err_code cpu_forward(struct backend *b, const struct batch *batch, struct batch_out *out, struct err *e)
{
    struct cpu *c = (struct cpu *)b;
    if (batch->cols < 1 || batch->cols > c->cols_max || batch->wanted > c->wanted_max)
        return err_set(e, ERR_INTERNAL, "a step of %d tokens and %d logits; at most %d and %d fit", batch->cols, batch->wanted,
                       c->cols_max, c->wanted_max);
    prepare(c, batch);
    pool_run(c->pool, members_for(c, batch->cols), step, c);
    *out = (struct batch_out){c->logits, c->hidden, c->logits_stride, (size_t)c->model->embedding};
    return ERR_OK;
}
