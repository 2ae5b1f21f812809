/* Packing a model's tensors, once, at load. */
#include "engine/cpu/cpu.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct packings {
    struct packing *list;
    int count, max;
    struct pool *pool;
    const struct kernels *kernels;
    uint8_t *scratch; /* (members, scratch_size) */
    size_t scratch_size;
    int chunk_total; /* panels of the matrices to pack */
};

/* The row of the file that stands at `row` once pairs (2i, 2i + 1) have become (i, i + rotated / 2). */
static int64_t source_row(const struct packing *p, int row)
{
    if (!p->rotate_head) return p->first + row;
    int head = row / p->rotate_head, i = row % p->rotate_head;
    if (i < p->rotated) i = i < p->rotated / 2 ? 2 * i : 2 * (i - p->rotated / 2) + 1;
    return p->first + (int64_t)head * p->rotate_head + i;
}

/* A panel whose rows are bytes of their own, to `to`. Rows that do not fill a panel need the scratch. */
static void fill_panel(const struct kernels *k, const struct packing *p, int panel, uint8_t *to, void *scratch)
{
    const void *rows[PANEL_ROWS] = {0};
    const uint8_t *bytes[PANEL_ROWS];
    int first = panel * PANEL_ROWS, count = p->to->rows - first < PANEL_ROWS ? p->to->rows - first : PANEL_ROWS;
    size_t size = pack_row_bytes(p->from->type, p->to->k);
    for (int i = 0; i < count; i++) rows[i] = bytes[i] = (const uint8_t *)p->from->data + (size_t)source_row(p, first + i) * size;
    if (k->put_words && pack_quick(p->from->type) && count == PANEL_ROWS) k->put_words(p->to, to, bytes, bytes[0] + PANEL_ROWS * size);
    else packed_fill_panel(p->to, panel, to, rows, scratch);
}

void packing_panel(const struct kernels *k, const struct packing *p, int panel, uint8_t *to)
{
    if (p->to->rows - panel * PANEL_ROWS < PANEL_ROWS) memset(to, 0, p->to->panel_bytes);
    fill_panel(k, p, panel, to, to + p->to->panel_bytes);
}

static void pack_panel(struct packings *all, const struct packing *p, int panel, int member)
{
    void *scratch = all->scratch + (size_t)member * all->scratch_size;
    if (p->from->type < GGUF_FP8) {
        fill_panel(all->kernels, p, panel, p->to->data + (size_t)panel * p->to->panel_bytes, scratch);
        return;
    }
    for (int first = panel * PANEL_ROWS, row = first; row < first + PANEL_ROWS && row < p->to->rows; row++)
        packed_set_tensor_row(p->to, row, p->from, source_row(p, row), scratch); /* no bytes of their own */
}

static void pack_job(void *ctx, int member)
{
    struct packings *all = ctx;
    enum { PANELS = 4 };
    for (int at; (at = pool_take(all->pool, PANELS)) < all->chunk_total;) {
        int end = at + PANELS < all->chunk_total ? at + PANELS : all->chunk_total, index = 0, before = 0;
        for (; at < end; at++) {
            while (at >= before + all->list[index].to->panels) before += all->list[index++].to->panels;
            pack_panel(all, &all->list[index], at - before, member);
        }
    }
}

static enum err_code plan(struct packings *all, struct packed *to, const struct gguf_tensor *from, int64_t first, int rows,
                          int rotate_head, int rotated, struct err *e)
{
    if (all->count == all->max) {
        int max = all->max ? all->max * 2 : 256;
        struct packing *list = realloc(all->list, (size_t)max * sizeof *list);
        if (!list) return err_set(e, ERR_MEMORY, "no memory to plan the packing of weights");
        all->list = list;
        all->max = max;
    }
    enum err_code code = packed_shape(to, from->type, rows, (int)from->shape[0], e);
    if (code) return code;
    all->list[all->count++] = (struct packing){to, from, first, rotate_head, rotated};
    if (packed_scratch(to->k) > all->scratch_size) all->scratch_size = (packed_scratch(to->k) + 63) & ~(size_t)63;
    return ERR_OK;
}

static int form_of(const struct packed *w)
{
    return w->panels == 0 ? 0 : pack_format(w->type)->element ? FORM_FLOAT : FORM_Q8;
}

/* Elements [first, first + n) of a tensor as floats, padded to whole panels; NULL in gives NULL. */
static enum err_code vector(float **out, const struct gguf_tensor *t, int64_t first, int n, int rotate_head, int rotated,
                            struct err *e)
{
    if (!t) return ERR_OK;
    const struct pack_format *f = pack_format(t->type);
    if (!pack_plain(t->type))
        return err_set(e, ERR_UNSUPPORTED, "tensor %.*s must be F32, F16 or BF16", (int)t->name.len, t->name.data);
    float *v = calloc((size_t)n + PANEL_ROWS, sizeof *v), *plain = calloc((size_t)n + 1, sizeof *plain);
    if (v && plain) {
        struct packing p = {.rotate_head = rotate_head, .rotated = rotated};
        pack_dequantize(t->type, (const char *)t->data + first * f->element, n, plain, NULL);
        for (int i = 0; i < n; i++) v[i] = plain[source_row(&p, i)];
        *out = v;
    } else {
        free(v);
    }
    free(plain);
    return *out ? ERR_OK : err_set(e, ERR_MEMORY, "no memory for %d numbers", n);
}

static enum err_code plan_attention(struct cpu *c, struct packings *all, int index, struct err *e)
{
    const struct model *m = c->model;
    const struct model_layer *l = &m->layer[index];
    struct cpu_layer *to = &c->layer[index];
    int head = m->arch->rope_halves ? 0 : m->head_dim, n = m->rotated;
    const struct gguf_tensor *q = l->qkv ? l->qkv : l->q, *k = l->qkv ? l->qkv : l->k, *v = l->qkv ? l->qkv : l->v;
    int64_t at_k = l->qkv ? c->q_dim : 0, at_v = l->qkv ? c->q_dim + c->kv_dim : 0;
    enum err_code code = plan(all, &to->q, q, 0, c->q_dim, head, n, e);
    if (!code) code = plan(all, &to->k, k, at_k, c->kv_dim, head, n, e);
    if (!code) code = plan(all, &to->v, v, at_v, c->kv_dim, 0, 0, e);
    if (!code) code = plan(all, &to->o, l->o, 0, m->embedding, 0, 0, e);
    const struct gguf_tensor *both = l->qkv_bias;
    if (!code) code = vector(&to->q_bias, both ? both : l->q_bias, 0, c->q_dim, head, n, e);
    if (!code) code = vector(&to->k_bias, both ? both : l->k_bias, both ? c->q_dim : 0, c->kv_dim, head, n, e);
    if (!code) code = vector(&to->v_bias, both ? both : l->v_bias, both ? c->q_dim + c->kv_dim : 0, c->kv_dim, 0, 0, e);
    if (!code) code = vector(&to->o_bias, l->o_bias, 0, m->embedding, 0, 0, e);
    if (!code) code = vector(&to->q_norm, l->q_norm, 0, m->head_dim, head, n, e);
    if (!code) code = vector(&to->k_norm, l->k_norm, 0, m->head_dim, head, n, e);
    if (!code) code = vector(&to->attn_norm, l->attn_norm, 0, m->embedding, 0, 0, e);
    if (!code) code = vector(&to->attn_post, l->attn_post_norm, 0, m->embedding, 0, 0, e);
    to->form_in = form_of(&to->q) | form_of(&to->k) | form_of(&to->v);
    to->form_o = form_of(&to->o);
    return code;
}

static enum err_code plan_dense(struct cpu *c, struct packings *all, int index, struct err *e)
{
    const struct model_layer *l = &c->model->layer[index];
    struct cpu_layer *to = &c->layer[index];
    const struct gguf_tensor *gate = l->gate ? l->gate : l->up;
    int n = c->model->feed_forward;
    enum err_code code = plan(all, &to->gate, gate, 0, n, 0, 0, e);
    if (!code) code = plan(all, &to->up, l->up, l->gate ? 0 : n, n, 0, 0, e);
    if (!code) code = plan(all, &to->down, l->down, 0, c->model->embedding, 0, 0, e);
    to->form_ffn = form_of(&to->gate) | form_of(&to->up);
    to->form_down = form_of(&to->down);
    return code;
}

static enum err_code plan_experts(struct cpu *c, struct packings *all, int index, struct err *e)
{
    const struct model *m = c->model;
    const struct model_layer *l = &m->layer[index];
    struct cpu_layer *to = &c->layer[index];
    int n = m->expert_feed_forward;
    to->gates = calloc((size_t)m->experts * 3, sizeof *to->gates);
    if (!to->gates) return err_set(e, ERR_MEMORY, "no memory for %d experts", m->experts);
    to->ups = to->gates + m->experts;
    to->downs = to->ups + m->experts;
    enum err_code code = plan(all, &to->router, l->router, 0, m->experts, 0, 0, e);
    for (int i = 0; i < m->experts && !code; i++) {
        code = plan(all, &to->gates[i], l->gate_experts, (int64_t)i * n, n, 0, 0, e);
        if (!code) code = plan(all, &to->ups[i], l->up_experts, (int64_t)i * n, n, 0, 0, e);
        if (!code) code = plan(all, &to->downs[i], l->down_experts, (int64_t)i * m->embedding, m->embedding, 0, 0, e);
    }
    to->form_router = form_of(&to->router);
    to->form_ffn = form_of(&to->gates[0]) | form_of(&to->ups[0]);
    to->form_down = form_of(&to->downs[0]);
    return code;
}

static enum err_code plan_all(struct cpu *c, struct packings *all, struct err *e)
{
    const struct model *m = c->model;
    enum err_code code = ERR_OK;
    for (int i = 0; i < m->layers && !code; i++) {
        code = plan_attention(c, all, i, e);
        if (!code) code = m->experts ? plan_experts(c, all, i, e) : plan_dense(c, all, i, e);
        if (!code) code = vector(&c->layer[i].ffn_norm, m->layer[i].ffn_norm, 0, m->embedding, 0, 0, e);
        if (!code) code = vector(&c->layer[i].ffn_post, m->layer[i].ffn_post_norm, 0, m->embedding, 0, 0, e);
    }
    if (!code) code = plan(all, &c->output, m->output, 0, m->vocabulary, 0, 0, e);
    if (!code) code = vector(&c->output_norm, m->output_norm, 0, m->embedding, 0, 0, e);
    if (!code) code = vector(&c->output_bias, m->output_bias, 0, m->vocabulary, 0, 0, e);
    c->form_output = form_of(&c->output);
    return code;
}

/* One mapping for all matrices, in whole huge pages where they are large: in pages of their own a twelfth of a 1B model's
 * bytes lay in small ones. */
static enum err_code take_memory(struct cpu *c, struct packings *all, struct err *e)
{
    static const size_t HUGE = (size_t)2 << 20, WORTH = (size_t)8 << 20;
    size_t total = 0, spare;
    for (int i = 0; i < all->count; i++) total += packed_bytes(all->list[i].to);
    spare = total >= WORTH ? HUGE : 0;
    void *memory = mmap(NULL, total + spare + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return err_set(e, ERR_MEMORY, "no memory for %zu bytes of weights", total);
    c->weights = memory;
    c->weights_bytes = total + spare + 1;
    uint8_t *at = spare ? (uint8_t *)(((uintptr_t)memory + HUGE - 1) / HUGE * HUGE) : memory;
    if (spare) (void)madvise(at, total, MADV_HUGEPAGE);
    for (int i = 0; i < all->count; i++) {
        all->list[i].to->data = at;
        at += packed_bytes(all->list[i].to);
    }
    return ERR_OK;
}

static bool can_wait(const struct packing *p)
{
    return pack_quick(p->from->type) && p->from->dims < 3;
}

static void count_work(struct cpu *c, const struct packings *all)
{
    for (int i = 0; i < all->count; i++) {
        const struct packing *p = &all->list[i];
        bool expert = p->from->dims == 3;
        int64_t share = expert ? c->model->experts_used : 1, of = expert ? c->model->experts : 1;
        c->macs += (int64_t)p->to->rows * p->to->k * share / of;
        c->bytes += (int64_t)packed_bytes(p->to) * share / of;
    }
}

/* Bytes that packing_panel() works in. */
static size_t panel_room(const struct packed *w)
{
    return (w->panel_bytes + packed_scratch(w->k) + 63) & ~(size_t)63;
}

/* Matrices that can wait leave the list for one of their own, and every member gets room for a panel of them. */
static enum err_code put_off(struct cpu *c, struct packings *all, struct err *e)
{
    int count = all->count;
    c->later = calloc((size_t)count + 1, sizeof *c->later);
    if (!c->later) return err_set(e, ERR_MEMORY, "no memory to plan the packing of weights");
    all->count = 0;
    for (int i = 0; i < count; i++) {
        struct packing p = all->list[i];
        if (!can_wait(&p)) {
            all->list[all->count++] = p;
            continue;
        }
        p.to->unpacked = &c->later[c->later_count];
        c->later[c->later_count++] = p;
        c->later_bytes += (int64_t)packed_bytes(p.to);
        if (panel_room(p.to) > c->panel_size) c->panel_size = panel_room(p.to);
    }
    c->panels = c->later_count ? aligned_alloc(64, c->panel_size * (size_t)pool_threads(c->pool)) : NULL;
    return c->panels || !c->later_count ? ERR_OK : err_set(e, ERR_MEMORY, "no memory to pack weights");
}

static void pack_list(struct packings *all)
{
    all->chunk_total = 0;
    for (int i = 0; i < all->count; i++) all->chunk_total += all->list[i].to->panels;
    /* Small models are packed by the caller alone: waking the others takes longer. */
    pool_run(all->pool, all->chunk_total > 4096 ? pool_threads(all->pool) : 1, pack_job, all);
}

enum err_code cpu_pack(struct cpu *c, bool later, struct err *e)
{
    struct packings all = {.pool = c->pool, .kernels = c->kernels};
    c->layer = calloc((size_t)c->model->layers, sizeof *c->layer);
    enum err_code code = c->layer ? plan_all(c, &all, e) : err_set(e, ERR_MEMORY, "no memory for the layers");
    if (!code) code = take_memory(c, &all, e);
    if (!code) count_work(c, &all);
    if (!code && later) code = put_off(c, &all, e);
    if (!code) {
        all.scratch = malloc(all.scratch_size * (size_t)pool_threads(c->pool) + 1);
        if (!all.scratch) code = err_set(e, ERR_MEMORY, "no memory to pack weights");
    }
    if (!code) {
        pack_list(&all);
        for (int i = 0; i < all.count && c->later_count; i++) gguf_drop_tensor(c->model->gguf, all.list[i].from);
    }
    if (!c->later_count) gguf_drop_pages(c->model->gguf);
    free(all.scratch);
    free(all.list);
    return code;
}

static void all_settled(struct cpu *c)
{
    free(c->later);
    free(c->panels);
    c->later = NULL;
    c->panels = NULL;
    c->later_count = c->later_next = 0;
    gguf_drop_pages(c->model->gguf);
}

bool cpu_settle(struct backend *b)
{
    enum { SHARES = 8, LEAST = 16 << 20 };
    struct cpu *c = (struct cpu *)b;
    if (!c->later_count) return false;
    struct packings part = {.list = c->later + c->later_next, .pool = c->pool, .kernels = c->kernels, .scratch = c->panels,
                            .scratch_size = c->panel_size};
    int64_t share = c->later_bytes / SHARES > LEAST ? c->later_bytes / SHARES : LEAST;
    for (; share > 0 && c->later_next < c->later_count; part.count++) share -= (int64_t)packed_bytes(c->later[c->later_next++].to);
    pack_list(&part);
    for (int i = 0; i < part.count; i++) {
        part.list[i].to->unpacked = NULL;
        gguf_drop_tensor(c->model->gguf, part.list[i].from);
    }
    if (c->later_next == c->later_count) all_settled(c);
    return c->later_count > 0;
}

void cpu_unpack(struct cpu *c)
{
    for (int i = 0; c->layer && i < c->model->layers; i++) {
        struct cpu_layer *l = &c->layer[i];
        struct packed *matrices[] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down, &l->router};
        float *vectors[] = {l->attn_norm, l->ffn_norm, l->q_bias, l->k_bias,    l->v_bias,
                            l->o_bias,    l->q_norm,   l->k_norm, l->attn_post, l->ffn_post};
        for (size_t j = 0; j < sizeof matrices / sizeof matrices[0]; j++) packed_release(matrices[j]);
        for (size_t j = 0; j < sizeof vectors / sizeof vectors[0]; j++) free(vectors[j]);
        for (int j = 0; l->gates && j < c->model->experts * 3; j++) packed_release(&l->gates[j]);
        free(l->gates);
    }
    packed_release(&c->output);
    free(c->later);
    free(c->panels);
    if (c->weights) (void)munmap(c->weights, c->weights_bytes);
    free(c->output_norm);
    free(c->output_bias);
    free(c->layer);
}
