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

enum {
    BLOCK_BYTES = 384 << 10, /* activations worked on together: with some panels they fit a 1 MiB cache */
    TAKE_BYTES = 128 << 10,  /* of weights taken at a time where they come from memory: a member's takes are neighbours */
    FEW_COLS = 16,           /* up to which a product waits for the weights */
    PIECE = 1024,            /* of a column, where few columns are shared out */
};

struct product {
    const struct packed *w;
    float *y;
    size_t ldy;
};

/* Columns [first, first + cols) of a batch; first stands on a border of full groups. */
static struct acts slice(const struct acts *a, size_t first, int cols)
{
    size_t n = first * (size_t)a->k;
    return (struct acts){.k = a->k, .cols = cols, .q = a->q + n, .d = a->d + n / 32, .ds32 = a->ds32 + n / 32,
                         .ds16 = a->ds16 + n / 16, .n32 = a->n32 + n / 32, .n16 = a->n16 + n / 16, .f = a->f + n};
}

/* Asked by member 0 between two pieces of work; when nobody wants the step, every member walks through its rest with
 * nothing to do. */
static bool go_on(struct cpu *c, int member)
{
    const struct batch *b = c->batch;
    if (atomic_load_explicit(&c->abandoned, memory_order_relaxed)) return false;
    if (member != 0 || !b->abandoned || !b->abandoned(b->ctx)) return true;
    atomic_store_explicit(&c->abandoned, true, memory_order_relaxed);
    return false;
}

/* The index of the next piece of work, or `total`. */
static int take(struct cpu *c, int member, int total)
{
    return go_on(c, member) ? pool_take(c->pool, 1) : total;
}

#define EACH(i, total) for (int i; (i = take(c, member, total)) < (total);)

/* Columns that are taken together: a group's activations are interleaved, so that two members at work on one would write to
 * the same lines of the cache by turns. */
static int together(const struct cpu *c, int cols)
{
    return cols >= c->kernels->widest * pool_threads(c->pool) * 4 ? c->kernels->widest : 1;
}

#define EACH_COL(i, cols)                                                                                              \
    for (int each = together(c, cols), part = 0, parts = ((cols) + each - 1) / each; (part = take(c, member, parts)) < parts;) \
        for (int i = part * each; i < (cols) && i < (part + 1) * each; i++)

/* Panels that are still rows of the file: each is packed where its member keeps one, and used while the caches hold it. */
static void multiply_unpacked(const struct cpu *c, int member, const struct acts *x, const struct product *p, int panel, int end)
{
    struct packed one = *p->w;
    one.data = c->panels + (size_t)member * c->panel_size;
    for (int i = panel; i < end; i++) {
        packing_panel(c->kernels, p->w->unpacked, i, one.data);
        c->kernels->matmul(&one, 0, x, p->y + (size_t)i * PANEL_ROWS, p->ldy);
    }
}

/* Some panels of one matrix, in blocks of columns that stay in the second-level cache with them. */
static void multiply_panels(const struct cpu *c, int member, const struct acts *x, const struct product *p, int panel, int end)
{
    if (p->w->unpacked) {
        multiply_unpacked(c, member, x, p, panel, end);
        return;
    }
    int bytes = pack_format(p->w->type)->element ? 4 : 1, widest = c->kernels->widest;
    int block = (BLOCK_BYTES / (x->k * bytes) / widest) * widest;
    if (block < widest) block = widest;
    for (int first = 0; first < x->cols; first += block) {
        struct acts part = slice(x, (size_t)first, x->cols - first < block ? x->cols - first : block);
        float *y = p->y + (size_t)first * p->ldy;
        for (int i = panel; i < end; i++) c->kernels->matmul(p->w, i, &part, y, p->ldy);
    }
}

/* y = W x for each product, shared out by panels. */
static void multiply_all(struct cpu *c, int member, const struct acts *x, const struct product *list, int count)
{
    int total = 0, step = x->cols > FEW_COLS ? 4 : TAKE_BYTES / (int)list[0].w->panel_bytes;
    for (int i = 0; i < count; i++) total += list[i].w->panels;
    if (step > total / (pool_threads(c->pool) * 8)) step = total / (pool_threads(c->pool) * 8);
    for (int at, end; go_on(c, member) && pool_share(c->pool, member, total, step < 1 ? 1 : step, &at, &end);) {
        int before = 0;
        for (int i = 0; i < count && at < end; before += list[i++].w->panels) {
            int here = before + list[i].w->panels;
            if (at >= here) continue;
            multiply_panels(c, member, x, &list[i], at - before, (end < here ? end : here) - before);
            at = end < here ? end : here;
        }
    }
}

static void put_part(const struct cpu *c, struct acts *a, int col, const float *x, int form, int from, int end)
{
    if (form & FORM_Q8) c->kernels->put_q8(a, col, x, from, end);
    if (form & FORM_FLOAT) c->kernels->put_float(a, col, x, from, end);
}

static void put(const struct cpu *c, struct acts *a, int col, const float *x, int form)
{
    put_part(c, a, col, x, form, 0, a->k);
}

static float *row(float *base, int col, int width)
{
    return base + (size_t)col * (size_t)width;
}

/* The columns that go on through a block: all, or (in the last layer) those whose logits are wanted. */
struct rows {
    int count;
    const int32_t *col; /* (count), or NULL: row i is column i */
};

static int col_of(const struct rows *r, int i)
{
    return r->col ? r->col[i] : i;
}

static struct acts acts_for(const struct acts *a, int cols)
{
    struct acts of = *a;
    of.cols = cols;
    return of;
}

/* ---- phases; each is called by every member ---- */

static void embed_col(struct cpu *c, int col, int member)
{
    const struct model *m = c->model;
    const struct gguf_tensor *t = m->embed;
    float *x = row(c->x, col, m->embedding), *angles = row(c->angles, col, 2 * m->rotated);
    pack_tensor_row(t, c->batch->tokens[col], x, c->scratch + (size_t)member * c->scratch_size);
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

/* What a block gave as row `i` joins the residual stream of a column. */
static void join(struct cpu *c, int i, int col, const float *bias, const float *post_norm)
{
    int n = c->model->embedding;
    float *y = row(c->y, i, n);
    if (bias) c->kernels->add(y, bias, n, 1);
    if (post_norm) c->kernels->rms_norm(y, y, post_norm, n, c->model->norm_eps);
    c->kernels->add(row(c->x, col, n), y, n, c->model->residual_scale);
}

static void norm_into(struct cpu *c, struct acts *a, int i, int col, const float *weight, int form, int member)
{
    float *out = row(c->norm, member, c->model->embedding);
    c->kernels->rms_norm(out, row(c->x, col, c->model->embedding), weight, c->model->embedding, c->model->norm_eps);
    put(c, a, i, out, form);
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

/* Biases, norms and rotation of `count` KV heads of a column from `first` on, and of the Q heads that read them; K and V go
 * to their page. */
static void place_heads(struct cpu *c, int layer, int col, int first, int count)
{
    const struct model *m = c->model;
    const struct cpu_layer *l = &c->layer[layer];
    const float *angles = row(c->angles, col, 2 * m->rotated) + (m->layer[layer].local_rope ? m->rotated : 0);
    int group = m->heads / m->kv_heads, at_q = first * group * m->head_dim, at = first * m->head_dim, n = count * m->head_dim;
    float *q = row(c->q, col, c->q_dim) + at_q, *k = row(c->k, col, c->kv_dim) + at, *v = row(c->v, col, c->kv_dim) + at;
    if (l->q_bias) c->kernels->add(q, l->q_bias + at_q, n * group, 1);
    if (l->k_bias) c->kernels->add(k, l->k_bias + at, n, 1);
    if (l->v_bias) c->kernels->add(v, l->v_bias + at, n, 1);
    turn_heads(c, q, count * group, l->q_norm, angles, m->attention_scale);
    turn_heads(c, k, count, l->k_norm, angles, 1);
    int position = c->position[col];
    size_t page = (size_t)c->pages_of[col][position / KV_PAGE_TOKENS] * c->page_stride;
    for (int h = 0; h < count; h++) {
        size_t to = page + (size_t)(first + h) * c->head_stride;
        (c->kv_q8 ? c->kernels->put_kv_q8 : c->kernels->put_kv)(kv_of(c, layer, 0) + to, kv_of(c, layer, 1) + to,
                                                                position % KV_PAGE_TOKENS, k + h * m->head_dim,
                                                                v + h * m->head_dim, m->head_dim);
    }
}

/* A tile: up to ATTEND_ROWS query rows of one run that read the same KV head. */
static void attend_tile(struct cpu *c, int layer, const struct batch_run *run, int tile, int kv_head)
{
    const struct model *m = c->model;
    int group = m->heads / m->kv_heads, first = tile * ATTEND_ROWS, rows = run->count * group - first;
    size_t at = (size_t)kv_head * c->head_stride;
    struct attend a = {.rows = rows < ATTEND_ROWS ? rows : ATTEND_ROWS,
                       .head_dim = m->head_dim,
                       .window = m->layer[layer].window,
                       .softcap = m->attention_softcap,
                       .pages = run->pages,
                       .k = kv_of(c, layer, 0) + at,
                       .v = kv_of(c, layer, 1) + at,
                       .page_stride = c->page_stride,
                       .q8 = c->kv_q8};
    for (int r = 0; r < a.rows; r++) {
        int col = run->first + (first + r) / group, head = kv_head * group + (first + r) % group;
        a.q[r] = row(c->q, col, c->q_dim) + head * m->head_dim;
        a.out[r] = row(c->attn, col, c->q_dim) + head * m->head_dim;
        a.position[r] = run->position + (first + r) / group;
    }
    c->kernels->attend(&a);
}

static void attention(struct cpu *c, int layer, int member)
{
    const struct batch *b = c->batch;
    int tiles = c->tiles[b->runs], total = tiles * c->model->kv_heads;
    EACH(at, total)
    {
        int tile = at % tiles, run = 0;
        while (tile >= c->tiles[run + 1]) run++;
        attend_tile(c, layer, &b->run[run], tile - c->tiles[run], at / tiles);
    }
}

/* Sequences with one column each, and every KV head's queries in one tile: its K, V and Q, its attention and what follows
 * are one piece of work, so that little of decoding is left to one member while the others wait. */
static bool one_piece(const struct cpu *c)
{
    const struct model *m = c->model;
    return c->batch->runs == c->batch->cols && c->tiles[c->batch->runs] == c->batch->runs &&
           m->heads / m->kv_heads * m->head_dim % PACK_BLOCK == 0;
}

static void attend_pieces(struct cpu *c, int layer, struct acts *x, bool all, int member)
{
    const struct batch *b = c->batch;
    int width = c->q_dim / c->model->kv_heads;
    EACH(at, b->runs * c->model->kv_heads)
    {
        const struct batch_run *run = &b->run[at % b->runs];
        int head = at / b->runs, col = run->first;
        place_heads(c, layer, col, head, 1);
        attend_tile(c, layer, run, 0, head);
        if (all) put_part(c, x, col, row(c->attn, col, c->q_dim), c->layer[layer].form_o, head * width, (head + 1) * width);
    }
}

/* Q, K and V of every column. */
static void project_block(struct cpu *c, int layer, int member)
{
    const struct cpu_layer *l = &c->layer[layer];
    struct acts x = acts_for(&c->acts_embed, c->batch->cols);
    size_t ldq = (size_t)c->q_dim, ldk = (size_t)c->kv_dim;
    multiply_all(c, member, &x, (struct product[]){{&l->q, c->q, ldq}, {&l->k, c->k, ldk}, {&l->v, c->v, ldk}}, 3);
    pool_barrier(c->pool);
}

/* K and V go to their pages; nothing more is wanted of this layer. */
static void place_block(struct cpu *c, int layer, int member)
{
    EACH_COL(col, c->batch->cols) place_heads(c, layer, col, 0, c->model->kv_heads);
}

static void attention_block(struct cpu *c, int layer, const struct rows *rows, int member)
{
    const struct cpu_layer *l = &c->layer[layer];
    struct acts x = acts_for(&c->acts_q, rows->count);
    bool pieces = one_piece(c), all = rows->count == c->batch->cols;
    if (pieces) {
        attend_pieces(c, layer, &x, all, member);
    } else {
        place_block(c, layer, member);
        pool_barrier(c->pool);
        attention(c, layer, member);
    }
    pool_barrier(c->pool);
    if (!pieces || !all) {
        EACH_COL(i, rows->count) put(c, &x, i, row(c->attn, col_of(rows, i), c->q_dim), l->form_o);
        pool_barrier(c->pool);
    }
    multiply_all(c, member, &x, (struct product[]){{&l->o, c->y, (size_t)c->model->embedding}}, 1);
    pool_barrier(c->pool);
}

static void activate(const struct cpu *c, float *gate, const float *up, int n)
{
    (c->model->arch->gelu ? c->kernels->gelu_mul : c->kernels->silu_mul)(gate, up, n);
}

static void activate_block(struct cpu *c, struct acts *h, int rows, int form, int member)
{
    if (rows > FEW_COLS) {
        EACH_COL(i, rows)
        {
            float *gate = row(c->gate, i, c->ffn_dim);
            activate(c, gate, row(c->up, i, c->ffn_dim), c->ffn_dim);
            put(c, h, i, gate, form);
        }
        return;
    }
    int pieces = (c->ffn_dim + PIECE - 1) / PIECE;
    EACH(at, rows * pieces)
    {
        int i = at / pieces, from = at % pieces * PIECE, n = c->ffn_dim - from < PIECE ? c->ffn_dim - from : PIECE;
        float *gate = row(c->gate, i, c->ffn_dim);
        activate(c, gate + from, row(c->up, i, c->ffn_dim) + from, n);
        put_part(c, h, i, gate, form, from, from + n);
    }
}

static void dense_block(struct cpu *c, const struct cpu_layer *l, int rows, int member)
{
    size_t ld = (size_t)c->ffn_dim;
    struct acts x = acts_for(&c->acts_embed, rows), h = acts_for(&c->acts_ffn, rows);
    multiply_all(c, member, &x, (struct product[]){{&l->gate, c->gate, ld}, {&l->up, c->up, ld}}, 2);
    pool_barrier(c->pool);
    activate_block(c, &h, rows, l->form_down, member);
    pool_barrier(c->pool);
    multiply_all(c, member, &h, (struct product[]){{&l->down, c->y, (size_t)c->model->embedding}}, 1);
    pool_barrier(c->pool);
}

/* ---- mixture of experts ---- */

/* The columns of one expert as a batch of their own. */
static struct acts segment(const struct cpu *c, int expert, int k)
{
    int first = c->experts.first[expert];
    struct acts all = c->experts.acts;
    all.k = k;
    return slice(&all, (size_t)first, c->experts.first[expert + 1] - first);
}

static int expert_of_pair(const struct cpu *c, int pair)
{
    return c->experts.chosen[c->experts.col[pair]];
}

/* The best `used` experts of a column by the router's softmax, the lower id first where two are equal. */
static void choose_experts(struct cpu *c, int col)
{
    const struct model *m = c->model;
    struct experts *x = &c->experts;
    float *scores = x->scores + (size_t)col * x->stride, *weight = row(x->weight, col, m->experts_used), most = scores[0];
    int32_t *chosen = x->chosen + (size_t)col * (size_t)m->experts_used;
    for (int i = 1; i < m->experts; i++) most = fmaxf(most, scores[i]);
    double all = 0, kept = 0;
    for (int i = 0; i < m->experts; i++) all += exp((double)scores[i] - (double)most);
    for (int n = 0; n < m->experts_used; n++) {
        int best = 0;
        for (int i = 1; i < m->experts; i++)
            if (scores[i] > scores[best]) best = i;
        chosen[n] = best;
        weight[n] = (float)(exp((double)scores[best] - (double)most) / all);
        kept += (double)weight[n];
        scores[best] = -INFINITY;
    }
    for (int n = 0; m->arch->norm_topk && n < m->experts_used; n++) weight[n] = (float)((double)weight[n] / kept);
}

/* Sort the pairs by expert, in the order of columns. */
static void sort_pairs(struct cpu *c, int rows)
{
    const struct model *m = c->model;
    struct experts *x = &c->experts;
    int pairs = rows * m->experts_used;
    memset(x->first, 0, ((size_t)m->experts + 1) * sizeof *x->first);
    for (int i = 0; i < pairs; i++) x->first[x->chosen[i] + 1]++;
    for (int i = 0; i < m->experts; i++) x->first[i + 1] += x->first[i];
    for (int i = 0; i < pairs; i++) {
        x->pair[i] = x->first[x->chosen[i]]++;
        x->col[x->pair[i]] = i;
    }
    for (int i = m->experts; i > 0; i--) x->first[i] = x->first[i - 1];
    x->first[0] = 0;
}

/* y[pair] = W[expert of the pair] x[pair] for up to two lists of matrices. */
static void multiply_experts(struct cpu *c, int member, int k, const struct packed *const lists[2], float *const ys[2], size_t ldy)
{
    int panels = lists[0][0].panels, per_expert = panels * (lists[1] ? 2 : 1), total = per_expert * c->model->experts;
    int step = panels < 8 ? panels : 8;
    for (int at; go_on(c, member) && (at = pool_take(c->pool, step)) < total;) {
        for (int end = at + step < total ? at + step : total; at < end; at++) {
            int expert = at / per_expert, which = at % per_expert / panels;
            struct acts a = segment(c, expert, k);
            if (a.cols == 0) continue;
            float *y = ys[which] + (size_t)c->experts.first[expert] * ldy;
            c->kernels->matmul(&lists[which][expert], at % panels, &a, y, ldy);
        }
    }
}

static void put_pair(struct cpu *c, int pair, const float *x, int k, int form)
{
    int expert = expert_of_pair(c, pair);
    struct acts a = segment(c, expert, k);
    put(c, &a, pair - c->experts.first[expert], x, form);
}

static void sum_experts(struct cpu *c, int col)
{
    int n = c->model->embedding, used = c->model->experts_used;
    float *y = row(c->y, col, n);
    memset(y, 0, (size_t)n * sizeof *y);
    for (int i = col * used; i < (col + 1) * used; i++)
        c->kernels->add(y, row(c->experts.y, c->experts.pair[i], n), n, c->experts.weight[i]);
}

static void expert_block(struct cpu *c, const struct cpu_layer *l, int rows, int member)
{
    const struct model *m = c->model;
    struct experts *x = &c->experts;
    int pairs = rows * m->experts_used, d = m->embedding, ffn = c->ffn_dim;
    struct acts in = acts_for(&c->acts_embed, rows);
    multiply_all(c, member, &in, (struct product[]){{&l->router, x->scores, x->stride}}, 1);
    pool_barrier(c->pool);
    EACH(i, rows) choose_experts(c, i);
    pool_barrier(c->pool);
    EACH(once, 1) sort_pairs(c, rows);
    pool_barrier(c->pool);
    EACH(pair, pairs) put_pair(c, pair, row(x->in, x->col[pair] / m->experts_used, d), d, l->form_ffn);
    pool_barrier(c->pool);
    multiply_experts(c, member, d, (const struct packed *const[2]){l->gates, l->ups}, (float *const[2]){c->gate, c->up}, (size_t)ffn);
    pool_barrier(c->pool);
    EACH(pair, pairs)
    {
        activate(c, row(c->gate, pair, ffn), row(c->up, pair, ffn), ffn);
        put_pair(c, pair, row(c->gate, pair, ffn), ffn, l->form_down);
    }
    pool_barrier(c->pool);
    multiply_experts(c, member, ffn, (const struct packed *const[2]){l->downs, NULL}, (float *const[2]){x->y, NULL}, (size_t)d);
    pool_barrier(c->pool);
    EACH(i, rows) sum_experts(c, i);
    pool_barrier(c->pool);
}

static void output(struct cpu *c, int member)
{
    const struct model *m = c->model;
    struct acts x = acts_for(&c->acts_out, c->batch->wanted);
    EACH(i, c->batch->wanted)
    {
        float *hidden = row(c->hidden, i, m->embedding);
        c->kernels->rms_norm(hidden, row(c->x, c->batch->want[i], m->embedding), c->output_norm, m->embedding, m->norm_eps);
        put(c, &x, i, hidden, c->form_output);
    }
    pool_barrier(c->pool);
    multiply_all(c, member, &x, (struct product[]){{&c->output, c->logits, c->logits_stride}}, 1);
    pool_barrier(c->pool);
    EACH(i, c->batch->wanted)
    {
        float *logits = c->logits + (size_t)i * c->logits_stride;
        int n = (int)c->logits_stride;
        if (c->output_bias) c->kernels->add(logits, c->output_bias, n, 1);
        if (m->logit_scale != 1)
            for (int j = 0; j < n; j++) logits[j] *= m->logit_scale;
        if (m->logit_softcap > 0) c->kernels->softcap(logits, n, m->logit_softcap);
    }
}

/* Everything behind K and V: attention, feed-forward, and the next layer's input. */
static void layer_rest(struct cpu *c, int layer, const struct rows *rows, int member)
{
    const struct cpu_layer *l = &c->layer[layer];
    bool experts = c->model->experts > 0;
    struct acts x = acts_for(&c->acts_embed, rows->count);
    attention_block(c, layer, rows, member);
    EACH_COL(i, rows->count)
    {
        join(c, i, col_of(rows, i), l->o_bias, l->attn_post);
        norm_into(c, &x, i, col_of(rows, i), l->ffn_norm, experts ? l->form_router : l->form_ffn, member);
        if (experts)
            memcpy(row(c->experts.in, i, c->model->embedding), row(c->norm, member, c->model->embedding),
                   (size_t)c->model->embedding * sizeof(float));
    }
    pool_barrier(c->pool);
    if (experts) expert_block(c, l, rows->count, member);
    else dense_block(c, l, rows->count, member);
    const struct cpu_layer *next = layer + 1 < c->model->layers ? l + 1 : NULL;
    EACH_COL(i, rows->count)
    {
        join(c, i, col_of(rows, i), NULL, l->ffn_post);
        if (next) norm_into(c, &x, i, col_of(rows, i), next->attn_norm, next->form_in, member);
    }
    pool_barrier(c->pool);
}

static void step(void *ctx, int member)
{
    struct cpu *c = ctx;
    const struct batch *b = c->batch;
    struct rows all = {b->cols, NULL}, wanted = {b->wanted, b->want};
    struct acts x = acts_for(&c->acts_embed, b->cols);
    EACH_COL(col, b->cols)
    {
        embed_col(c, col, member);
        norm_into(c, &x, col, col, c->layer[0].attn_norm, c->layer[0].form_in, member);
    }
    pool_barrier(c->pool);
    for (int i = 0; i < c->model->layers; i++) {
        bool last = i + 1 == c->model->layers;
        project_block(c, i, member);
        if (last && b->wanted == 0) { /* its K and V are all that is needed */
            place_block(c, i, member);
            return;
        }
        layer_rest(c, i, last ? &wanted : &all, member);
    }
    output(c, member);
}

/* ---- around them ---- */

static void prepare(struct cpu *c, const struct batch *b)
{
    int group = c->model->heads / c->model->kv_heads;
    c->batch = b;
    atomic_store(&c->abandoned, false);
    c->tiles[0] = 0;
    for (int r = 0; r < b->runs; r++) {
        const struct batch_run *run = &b->run[r];
        c->tiles[r + 1] = c->tiles[r] + (run->count * group + ATTEND_ROWS - 1) / ATTEND_ROWS;
        for (int i = 0; i < run->count; i++) {
            c->position[run->first + i] = run->position + i;
            c->pages_of[run->first + i] = run->pages;
        }
    }
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
    while (c->stepped && cpu_settle(b)) continue;
    c->stepped = true;
    prepare(c, batch);
    pool_run(c->pool, members_for(c, batch->cols), step, c);
    if (atomic_load(&c->abandoned)) return err_set(e, ERR_CANCELLED, "the step was abandoned");
    *out = (struct batch_out){.logits = c->logits, .hidden = c->hidden, .logits_stride = c->logits_stride,
                              .hidden_stride = (size_t)c->model->embedding};
    return ERR_OK;
}
