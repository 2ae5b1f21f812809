#include "engine/cpu/cpu.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* ---- buffers: one mapping each, touched only as far as it is used ---- */

static void *reserve(size_t bytes)
{
    void *p = mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* Part of one block: the sizes are added up first (base NULL), then handed out. */
struct carver {
    uint8_t *base;
    size_t used;
};

static void *carve(struct carver *k, size_t count, size_t size)
{
    size_t at = k->used;
    k->used += (count * size + 127) & ~(size_t)63; /* at least 64 spare: kernels may read a vector past a row's end */
    return k->base ? k->base + at : NULL;
}

static size_t up16(int n)
{
    return ((size_t)n + 15) & ~(size_t)15;
}

static void carve_acts(struct carver *k, struct acts *a, size_t cols, size_t widest)
{
    size_t n = cols * widest;
    a->q = carve(k, n, 1);
    a->d = carve(k, n / 32 + 1, 4);
    a->ds32 = carve(k, n / 32 + 1, 4);
    a->ds16 = carve(k, n / 16 + 1, 4);
    a->n32 = carve(k, n / 32 + 1, 4);
    a->n16 = carve(k, n / 16 + 1, 4);
    a->f = carve(k, n, 4);
}

static void carve_experts(struct cpu *c, struct carver *k, size_t cols, size_t pairs)
{
    struct experts *x = &c->experts;
    size_t d = (size_t)c->model->embedding, ffn = (size_t)c->ffn_dim;
    x->stride = up16(c->model->experts);
    x->in = carve(k, cols * d, 4);
    x->scores = carve(k, cols * x->stride, 4);
    x->y = carve(k, pairs * d, 4);
    x->weight = carve(k, pairs, 4);
    x->chosen = carve(k, pairs, 4);
    x->pair = carve(k, pairs, 4);
    x->col = carve(k, pairs, 4);
    x->first = carve(k, (size_t)c->model->experts + 1, 4);
    carve_acts(k, &x->acts, pairs, d > ffn ? d : ffn);
}

static void carve_all(struct cpu *c, struct carver *k)
{
    const struct model *m = c->model;
    size_t cols = (size_t)c->cols_max, wanted = (size_t)c->wanted_max, members = (size_t)pool_threads(c->pool);
    size_t d = (size_t)m->embedding, q = (size_t)c->q_dim, kv = (size_t)c->kv_dim, ffn = (size_t)c->ffn_dim;
    size_t pairs = cols * (size_t)(m->experts ? m->experts_used : 1);
    c->x = carve(k, cols * d, 4);
    c->y = carve(k, cols * d, 4);
    c->q = carve(k, cols * q, 4);
    c->k = carve(k, cols * kv, 4);
    c->v = carve(k, cols * kv, 4);
    c->attn = carve(k, cols * q, 4);
    c->gate = carve(k, pairs * ffn, 4);
    c->up = carve(k, pairs * ffn, 4);
    if (m->experts) carve_experts(c, k, cols, pairs);
    c->logits = carve(k, wanted * c->logits_stride, 4);
    c->hidden = carve(k, wanted * d, 4);
    c->angles = carve(k, cols * 2 * (size_t)m->rotated, 4);
    c->norm = carve(k, members * d, 4);
    c->scratch = carve(k, members * c->scratch_size, 1);
    c->position = carve(k, cols, sizeof *c->position);
    c->pages_of = carve(k, cols, sizeof *c->pages_of);
    c->tiles = carve(k, cols + 1, sizeof *c->tiles);
    size_t widest = d > q ? d : q;
    carve_acts(k, &c->acts_embed, cols, ffn > widest ? ffn : widest);
}

static enum err_code take_buffers(struct cpu *c, struct err *e)
{
    struct carver k = {0};
    carve_all(c, &k);
    c->buffers_bytes = k.used;
    k = (struct carver){.base = c->buffers = reserve(c->buffers_bytes)};
    c->kv = reserve(c->kv_bytes);
    if (!c->buffers || !c->kv) return err_set(e, ERR_MEMORY, "no memory for %zu bytes of KV cache", c->kv_bytes);
    carve_all(c, &k);
    c->acts_q = c->acts_ffn = c->acts_out = c->acts_embed;
    c->acts_embed.k = c->acts_out.k = c->model->embedding;
    c->acts_q.k = c->q_dim;
    c->acts_ffn.k = c->ffn_dim;
    return ERR_OK;
}

int64_t cpu_page_bytes(const struct model *m, bool kv_q8)
{
    return (int64_t)m->layers * 2 * m->kv_heads * (int64_t)kv_page_elements(m->head_dim, kv_q8) * 2;
}

static void cpu_stats(struct backend *b, const float *logits, int n, struct logit_stats *out)
{
    ((struct cpu *)b)->kernels->stats(logits, n, out);
}

static void cpu_close(struct backend *b)
{
    struct cpu *c = (struct cpu *)b;
    cpu_unpack(c);
    if (c->buffers) (void)munmap(c->buffers, c->buffers_bytes);
    if (c->kv) (void)munmap(c->kv, c->kv_bytes ? c->kv_bytes : 1);
    if (!c->pool_lent) pool_close(c->pool);
    free(c);
}

static void measure(struct cpu *c, const struct backend_options *o)
{
    const struct model *m = c->model;
    c->cols_max = o->cols_max;
    c->wanted_max = o->wanted_max;
    c->pages = o->pages;
    c->q_dim = m->heads * m->head_dim;
    c->kv_dim = m->kv_heads * m->head_dim;
    c->ffn_dim = m->experts ? m->expert_feed_forward : m->feed_forward;
    c->logits_stride = up16(m->vocabulary);
    c->scratch_size = (packed_scratch(m->embedding) + 63) & ~(size_t)63;
    c->kv_q8 = o->kv_q8;
    c->head_stride = kv_page_elements(m->head_dim, o->kv_q8);
    c->page_stride = (size_t)m->kv_heads * c->head_stride;
    c->layer_stride = c->page_stride * (size_t)o->pages * 2;
    c->kv_bytes = c->layer_stride * (size_t)m->layers * sizeof *c->kv;
}

enum err_code cpu_open(struct backend **out, const struct model *model, const struct backend_options *o, struct err *e)
{
    if (model->random) return err_set(e, ERR_UNSUPPORTED, "the model is a shape without weights, which only a GPU fills");
    struct cpu *c = calloc(1, sizeof *c);
    if (!c) return err_set(e, ERR_MEMORY, "no memory for a backend");
    c->model = model;
    c->kernels = kernels_find(o->kernels);
    enum err_code code = ERR_OK;
    if (!c->kernels) code = err_set(e, ERR_INVALID, "kernels '%s' are not known or cannot run on this machine", o->kernels);
    if (!code && o->beside) {
        c->pool = ((struct cpu *)o->beside)->pool;
        c->pool_lent = true;
    }
    if (!code && !c->pool) code = pool_open(&c->pool, o->threads ? o->threads : pool_cores(), o->pin, e);
    if (!code) {
        measure(c, o);
        code = take_buffers(c, e);
    }
    if (!code) code = cpu_pack(c, o->later, e);
    if (code) {
        cpu_close(&c->backend);
        return code;
    }
    c->backend = (struct backend){.kernels = c->kernels->name,
                                  .page_tokens = KV_PAGE_TOKENS,
                                  .pages = o->pages,
                                  .token_bytes = c->bytes,
                                  .forward = cpu_forward,
                                  .stats = cpu_stats,
                                  .settle = cpu_settle,
                                  .close = cpu_close};
    *out = &c->backend;
    return ERR_OK;
}
