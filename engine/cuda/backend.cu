#include "engine/cuda/backend.cuh"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
#include "engine/cuda.h"
}

enum { ALIGN = 256, EXPERTS_MAX = 1024 };

/* ---- memory: the sizes are added up first (base NULL), then handed out ---- */

struct carver {
    uint8_t *base;
    size_t used;
};

static void *carve(struct carver *k, int64_t count, size_t size)
{
    size_t at = k->used;
    k->used += ((size_t)count * size + ALIGN - 1) / ALIGN * ALIGN;
    return k->base ? k->base + at : NULL;
}

static int widest(const struct cuda *c)
{
    int most = c->model->embedding;
    most = c->q_dim > most ? c->q_dim : most;
    return c->ffn_dim > most ? c->ffn_dim : most;
}

static void carve_all(struct cuda *c, struct carver *k)
{
    const struct model *m = c->model;
    int64_t cols = c->cols_max, wanted = c->wanted_max, d = m->embedding, pairs = cols * (m->experts ? m->experts_used : 1);
    c->x = (float *)carve(k, cols * d, 4);
    c->y = (float *)carve(k, cols * d, 4);
    c->qkv = (float *)carve(k, cols * (c->q_dim + 2 * c->kv_dim), 4);
    c->gate = (float *)carve(k, cols * 2 * c->ffn_dim, 4); /* a column's gate and up behind each other, or all gates, then all ups */
    c->up = c->gate ? c->gate + cols * c->ffn_dim : NULL;
    c->logits = (float *)carve(k, wanted * (int64_t)c->logits_stride, 4);
    c->hidden = (float *)carve(k, wanted * d, 4);
    c->angles = (float *)carve(k, cols * 2 * m->rotated, 4);
    c->scales = (float *)carve(k, cols, 4);
    c->operand = (uint8_t *)carve(k, cols * widest(c), 2);
    c->attended = (uint8_t *)carve(k, cols * c->q_dim, 2);
    c->expert_in = (float *)carve(k, cols * d, 4);
    c->stats = (struct logit_stats *)carve(k, wanted, sizeof(struct logit_stats));
    c->lists = (struct logit_list *)carve(k, wanted, sizeof(struct logit_list));
    c->step = (int32_t *)carve(k, c->layout.words, 4);
    if (!m->experts) return;
    c->expert_y = (float *)carve(k, pairs * d, 4);
    c->scores = (float *)carve(k, cols * m->experts, 4);
    c->chosen_weight = (float *)carve(k, pairs, 4);
    c->chosen = (int32_t *)carve(k, pairs, 4);
    c->pair_col = (int32_t *)carve(k, pairs * 2, 4);
}

static enum err_code pinned(void **out, size_t bytes, struct err *e)
{
    return cuda_check(cudaHostAlloc(out, bytes ? bytes : 1, cudaHostAllocDefault), "pinned memory", e);
}

static enum err_code take_buffers(struct cuda *c, struct err *e)
{
    struct carver k = {NULL, 0};
    carve_all(c, &k);
    enum err_code code = cuda_check(cudaMalloc(&c->buffers, k.used), "memory for a step", e);
    if (code) return code;
    k = (struct carver){(uint8_t *)c->buffers, 0};
    carve_all(c, &k);
    size_t wanted = (size_t)c->wanted_max, pairs = (size_t)c->cols_max * (size_t)(c->model->experts ? c->model->experts_used : 0);
    code = pinned((void **)&c->host_step, (size_t)c->layout.words * 4, e);
    if (!code) code = pinned((void **)&c->host_logits, wanted * c->logits_stride * 4, e);
    if (!code) code = pinned((void **)&c->host_hidden, wanted * (size_t)c->model->embedding * 4, e);
    if (!code) code = pinned((void **)&c->host_stats, wanted * sizeof(struct logit_stats), e);
    if (!code) code = pinned((void **)&c->host_lists, wanted * sizeof(struct logit_list), e);
    if (!code) code = pinned((void **)&c->host_chosen, pairs * 3 * 4, e);
    return code;
}

int64_t cuda_page_bytes(const struct model *m, bool kv_8bit)
{
    return (int64_t)m->layers * m->kv_heads * kv_block_bytes(m->head_dim, kv_8bit);
}

/* What stays free: other libraries' own memory, and a driver's. */
static const int64_t SPARE = (int64_t)512 << 20;

static enum err_code take_pages(struct cuda *c, const struct backend_options *o, struct err *e)
{
    size_t free_bytes = 0, total = 0;
    enum err_code code = cuda_check(cudaMemGetInfo(&free_bytes, &total), "the GPU's memory", e);
    if (code) return code;
    int64_t page = cuda_page_bytes(c->model, o->kv_q8), fits = ((int64_t)free_bytes - SPARE) / page;
    int64_t sparse = c->sparse_pages ? page / 16 : 0; /* the pages' summaries */
    fits = fits * page / (page + sparse);
    int64_t most = o->pages ? o->pages : o->pages_max ? o->pages_max : 1 << 24;
    c->pages = (int)(fits < most ? fits : most);
    if (o->pages && fits < o->pages)
        return err_set(e, ERR_MEMORY, "%d pages of KV cache need %.1f GB; %.1f GB are free beside the weights (%.1f GB): room for %lld tokens", o->pages,
                       (double)(page * o->pages) * 1e-9, (double)free_bytes * 1e-9, (double)c->weight_bytes * 1e-9, (long long)(fits > 0 ? fits : 0) * CUDA_PAGE_TOKENS);
    if (c->pages < 1) return err_set(e, ERR_MEMORY, "no memory is left beside the weights (%.1f GB) for a KV cache", (double)c->weight_bytes * 1e-9);
    c->kv.layers = c->model->layers, c->kv.pages = c->pages, c->kv.kv_heads = c->model->kv_heads, c->kv.head_dim = c->model->head_dim, c->kv.fp8 = o->kv_q8;
    code = cuda_check(cudaMalloc((void **)&c->kv.base, (size_t)(page * c->pages)), "memory for the KV cache", e);
    /* Positions that are masked are still read: they must be numbers. */
    return code ? code : cuda_check(cudaMemset(c->kv.base, 0, (size_t)(page * c->pages)), "clearing the KV cache", e);
}

/* ---- opening ---- */

static enum err_code open_decode(struct cuda *c, struct err *e)
{
    const struct model *m = c->model;
    struct decode_model d;
    memset(&d, 0, sizeof d);
    d.embedding = m->embedding, d.layers = m->layers, d.heads = m->heads, d.kv_heads = m->kv_heads, d.head_dim = m->head_dim, d.rotated = m->rotated;
    d.feed_forward = m->feed_forward, d.vocabulary = m->vocabulary, d.rope_halves = m->arch->rope_halves, d.gelu = m->arch->gelu;
    d.norm_eps = m->norm_eps, d.attention_scale = m->attention_scale, d.attention_softcap = m->attention_softcap, d.residual_scale = m->residual_scale;
    d.logit_scale = 1, d.output = c->output, d.output_norm = c->output_norm, d.kv = c->kv; /* finish_logits does the rest */
    if (m->experts || c->sparse_pages) return err_set(e, ERR_UNSUPPORTED, "experts or sparse attention");
    struct decode_layer *layers = (struct decode_layer *)calloc((size_t)m->layers, sizeof *layers);
    if (!layers) return err_set(e, ERR_MEMORY, "no memory for the layers");
    enum err_code code = ERR_OK;
    for (int i = 0; i < m->layers && !code; i++) {
        const struct cuda_layer *l = &c->layer[i];
        if (l->o_bias || l->attn_post || l->ffn_post) code = err_set(e, ERR_UNSUPPORTED, "norms behind a block, or a bias of the output");
        layers[i] = (struct decode_layer){l->q, l->k, l->v, l->o, l->gate, l->up, l->down, l->attn_norm, l->ffn_norm, l->q_bias, l->k_bias, l->v_bias,
                                          l->q_norm, l->k_norm, m->layer[i].window, m->layer[i].local_rope};
    }
    d.layer = layers;
    if (!code) code = decode_open(&c->decode, &d, e);
    free(layers);
    return code;
}

static int64_t largest_matrix(const struct cuda *c)
{
    const struct model *m = c->model;
    int64_t most = (int64_t)m->vocabulary * m->embedding, ffn = (int64_t)c->ffn_dim * m->embedding * 2, q = (int64_t)(c->q_dim + 2 * c->kv_dim) * m->embedding;
    most = ffn > most ? ffn : most;
    return q > most ? q : most;
}

static void lay_out(struct cuda *c)
{
    struct step_layout *l = &c->layout;
    int run_words = (int)(sizeof(struct batch_run) / 4);
    l->runs = 0; /* first: it holds pointers */
    l->tokens = c->cols_max * run_words;
    l->position = l->tokens + c->cols_max;
    l->run_of = l->position + c->cols_max;
    l->want = l->run_of + c->cols_max;
    l->inverse = l->want + c->wanted_max;
    l->pages = l->inverse + c->wanted_max;
    l->words = l->pages + c->cols_max * c->pages_stride;
}

static void measure(struct cuda *c, const struct backend_options *o)
{
    const struct model *m = c->model;
    c->cols_max = o->cols_max, c->wanted_max = o->wanted_max > 0 ? o->wanted_max : 1;
    c->q_dim = m->heads * m->head_dim, c->kv_dim = m->kv_heads * m->head_dim;
    c->ffn_dim = m->experts ? m->expert_feed_forward : m->feed_forward;
    c->context = o->context_tokens > 0 ? o->context_tokens : m->context;
    c->pages_stride = (c->context + CUDA_PAGE_TOKENS - 1) / CUDA_PAGE_TOKENS;
    c->logits_stride = ((size_t)m->vocabulary + 15) & ~(size_t)15;
    c->invariant = o->invariant, c->sparse_pages = o->sparse_pages, c->device = o->device;
    lay_out(c);
}

static int64_t token_bytes(const struct cuda *c)
{
    int64_t bytes = c->weight_bytes;
    const struct model *m = c->model;
    if (m->embed != m->output) { /* one row of it is read */
        const struct gguf_type_info *info = gguf_type_info((uint32_t)m->embed->type);
        bytes -= (int64_t)m->vocabulary * (m->embedding / info->block_elements) * info->block_bytes;
    }
    if (!m->experts) return bytes;
    int64_t experts = 0;
    for (int i = 0; i < m->layers; i++) experts += m->layer[i].gate_experts->bytes + m->layer[i].up_experts->bytes + m->layer[i].down_experts->bytes;
    return bytes - experts + experts * m->experts_used / m->experts;
}

static enum err_code cuda_forward(struct backend *b, const struct batch *batch, struct batch_out *out, struct err *e);
static void cuda_stats(struct backend *b, const float *logits, int n, struct logit_stats *out);
static enum err_code cuda_rows(struct backend *b, const int32_t *row, int count, struct err *e);
static void cuda_close(struct backend *b);

/* The products' work space, and cuBLASLt, which takes a while to be loaded. */
struct products {
    struct cuda *c;
    enum err_code code;
    struct err error;
};

static void *open_products(void *arg)
{
    struct products *p = (struct products *)arg;
    struct matmul_options o = {p->c->invariant, p->c->cols_max, largest_matrix(p->c)};
    p->code = cuda_check(cudaSetDevice(p->c->device), "choosing the GPU", &p->error);
    if (!p->code) p->code = matmul_open(&p->c->matmul, &o, &p->error);
    return NULL;
}

/* Both at once. */
static enum err_code open_weights_and_products(struct cuda *c, struct err *e)
{
    struct products p;
    pthread_t thread;
    memset(&p, 0, sizeof p);
    p.c = c;
    bool beside = pthread_create(&thread, NULL, open_products, &p) == 0;
    enum err_code code = weights_open(c, e);
    if (beside) (void)pthread_join(thread, NULL);
    else (void)open_products(&p);
    if (!code && p.code && e) *e = p.error;
    return code ? code : p.code;
}

static enum err_code open_all(struct cuda *c, const struct backend_options *o, struct err *e)
{
    const struct model *m = c->model;
    enum err_code code = cuda_check(cudaSetDevice(o->device), "choosing the GPU", e);
    if (!code && m->experts > EXPERTS_MAX) code = err_set(e, ERR_UNSUPPORTED, "%d experts; %d are the most", m->experts, EXPERTS_MAX);
    if (!code) code = cuda_check(cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking), "a stream", e);
    if (!code) code = open_weights_and_products(c, e);
    if (!code) code = take_buffers(c, e);
    struct attention_options ao;
    memset(&ao, 0, sizeof ao);
    ao.cols_max = c->cols_max, ao.heads = m->heads, ao.kv_heads = m->kv_heads, ao.head_dim = m->head_dim, ao.context_max = c->context, ao.invariant = o->invariant;
    if (!code && !c->sparse_pages) code = attention_open(&c->attention, &ao, e);
    if (!code) code = take_pages(c, o, e);
    ao.layers = m->layers, ao.pages = c->pages;
    if (!code && c->sparse_pages) code = attention_open(&c->attention, &ao, e);
    if (!code && open_decode(c, &c->decode_why) != ERR_OK) c->decode = NULL;
    return code;
}

enum err_code cuda_open(struct backend **out, const struct model *model, const struct backend_options *o, struct err *e)
{
    struct cuda *c = (struct cuda *)calloc(1, sizeof *c);
    if (!c) return err_set(e, ERR_MEMORY, "no memory for a backend");
    c->model = model;
    measure(c, o);
    enum err_code code = open_all(c, o, e);
    if (code) {
        cuda_close(&c->backend);
        return code;
    }
    (void)snprintf(c->name, sizeof c->name, "cuda%s%s", o->invariant ? " invariant" : "", c->decode ? "" : " general");
    c->backend.kernels = c->name;
    c->backend.page_tokens = CUDA_PAGE_TOKENS;
    c->backend.pages = c->pages;
    c->backend.token_bytes = token_bytes(c);
    c->backend.forward = cuda_forward;
    c->backend.stats = cuda_stats;
    if (select_lists_fits(model->vocabulary)) c->backend.rows = cuda_rows;
    c->backend.close = cuda_close;
    *out = &c->backend;
    return ERR_OK;
}

static void cuda_close(struct backend *b)
{
    struct cuda *c = (struct cuda *)b;
    (void)cudaSetDevice(c->device);
    if (c->stream) (void)cudaStreamSynchronize(c->stream);
    decode_close(c->decode);
    if (c->attention) attention_close(c->attention);
    if (c->matmul) matmul_close(c->matmul);
    weights_close(c);
    (void)cudaFree(c->buffers);
    (void)cudaFree(c->kv.base);
    void *pins[] = {c->host_step, c->host_logits, c->host_hidden, c->host_stats, c->host_lists, c->host_chosen};
    for (void *p : pins) (void)cudaFreeHost(p);
    if (c->stream) (void)cudaStreamDestroy(c->stream);
    free(c);
}

/* ---- a step ---- */

static bool prepare(struct cuda *c, const struct batch *batch, struct columns *columns, int *words)
{
    struct step_layout *l = &c->layout;
    int32_t *h = c->host_step;
    int stride = 0;
    memset(columns, 0, sizeof *columns);
    memcpy(h + l->runs, batch->run, (size_t)batch->runs * sizeof *batch->run);
    memcpy(h + l->tokens, batch->tokens, (size_t)batch->cols * 4);
    memcpy(h + l->want, batch->want, (size_t)batch->wanted * 4);
    if (batch->inverse) memcpy(h + l->inverse, batch->inverse, (size_t)batch->wanted * 4);
    for (int r = 0; r < batch->runs; r++) {
        int end = batch->run[r].position + batch->run[r].count, pages = (end + CUDA_PAGE_TOKENS - 1) / CUDA_PAGE_TOKENS;
        stride = pages > stride ? pages : stride;
        columns->context_max = end > columns->context_max ? end : columns->context_max;
    }
    if (stride > c->pages_stride) return false;
    for (int r = 0; r < batch->runs; r++) {
        const struct batch_run *run = &batch->run[r];
        int pages = (run->position + run->count + CUDA_PAGE_TOKENS - 1) / CUDA_PAGE_TOKENS;
        memcpy(h + l->pages + r * stride, run->pages, (size_t)pages * 4);
        for (int i = 0; i < run->count; i++) {
            h[l->position + run->first + i] = run->position + i;
            h[l->run_of + run->first + i] = r;
        }
    }
    *words = l->pages + batch->runs * stride;
    int32_t *d = c->step;
    columns->cols = batch->cols, columns->runs = batch->runs, columns->pages_stride = stride;
    columns->position = d + l->position, columns->run_of = d + l->run_of, columns->pages = d + l->pages;
    columns->run = (const struct batch_run *)(d + l->runs), columns->host_run = batch->run;
    return true;
}

static bool neighbours(const struct batch *batch)
{
    for (int r = 0; r < batch->runs; r++)
        if (batch->run[r].count > 1) return true;
    return false;
}

/* Each set of angles by itself (cols, rotated) for the general way; (cols, 2 × rotated) for the decode kernel. */
static enum err_code angles_of(struct cuda *c, int cols, bool together, struct err *e)
{
    const struct model *m = c->model;
    return make_angles(c->frequency, c->step + c->layout.position, cols, m->rotated, m->rope[0].scale, m->rope[1].scale, c->angles,
                       together ? 2 * m->rotated : m->rotated, together ? m->rotated : (int64_t)c->cols_max * m->rotated, c->stream, e);
}

static enum err_code decode_step(struct cuda *c, const struct batch *batch, const struct columns *columns, struct err *e)
{
    struct decode_step s;
    memset(&s, 0, sizeof s);
    s.cols = batch->cols, s.wanted = batch->wanted, s.neighbours = neighbours(batch), s.invariant = c->invariant;
    s.position = columns->position, s.run_of = columns->run_of, s.pages = columns->pages, s.pages_stride = columns->pages_stride;
    s.angles = c->angles, s.want = c->step + c->layout.want, s.x = c->x, s.hidden = c->hidden, s.logits = c->logits, s.logits_stride = (int64_t)c->logits_stride;
    return decode_run(c->decode, &s, c->stream, e);
}

static bool any_logits(const struct batch *batch)
{
    if (!batch->need_logits) return true;
    for (int i = 0; i < batch->wanted; i++)
        if (batch->need_logits[i]) return true;
    return false;
}

static bool any_list(const struct batch *batch)
{
    for (int i = 0; batch->inverse && i < batch->wanted; i++)
        if (batch->inverse[i] > 0) return true;
    return false;
}

static enum err_code fetch_lists(struct cuda *c, int wanted, struct err *e)
{
    enum err_code code = select_lists(c->logits, (int64_t)c->logits_stride, wanted, c->model->vocabulary, (const float *)(c->step + c->layout.inverse),
                                      c->stats, c->lists, c->stream, e);
    size_t bytes = (size_t)wanted * sizeof *c->lists;
    return code ? code : cuda_check(cudaMemcpyAsync(c->host_lists, c->lists, bytes, cudaMemcpyDeviceToHost, c->stream), "the tops of the logits", e);
}

static enum err_code copy_logits(struct cuda *c, int first, int count, struct err *e)
{
    size_t at = (size_t)first * c->logits_stride, bytes = (size_t)count * c->logits_stride * 4;
    return cuda_check(cudaMemcpyAsync(c->host_logits + at, c->logits + at, bytes, cudaMemcpyDeviceToHost, c->stream), "logits", e);
}

/* Back to the host: the statistics always, hidden states, lists and logits as they are asked for. */
static enum err_code fetch(struct cuda *c, const struct batch *batch, struct err *e)
{
    const struct model *m = c->model;
    size_t wanted = (size_t)batch->wanted;
    enum err_code code = finish_logits(c->logits, (int64_t)c->logits_stride, batch->wanted, m->vocabulary, c->output_bias, m->logit_scale, m->logit_softcap,
                                       c->stats, c->stream, e);
    if (!code) code = cuda_check(cudaMemcpyAsync(c->host_stats, c->stats, wanted * sizeof *c->stats, cudaMemcpyDeviceToHost, c->stream), "statistics", e);
    if (!code)
        code = cuda_check(cudaMemcpyAsync(c->host_hidden, c->hidden, wanted * (size_t)m->embedding * 4, cudaMemcpyDeviceToHost, c->stream), "hidden states", e);
    if (!code && any_list(batch)) code = fetch_lists(c, batch->wanted, e);
    if (code || !any_logits(batch)) return code;
    for (int i = 0; i < batch->wanted && !code; i++) {
        if (batch->need_logits && !batch->need_logits[i]) continue;
        int n = 1;
        while (i + n < batch->wanted && (!batch->need_logits || batch->need_logits[i + n])) n++;
        code = copy_logits(c, i, n, e);
        i += n - 1;
    }
    return code;
}

static enum err_code cuda_forward(struct backend *b, const struct batch *batch, struct batch_out *out, struct err *e)
{
    struct cuda *c = (struct cuda *)b;
    struct columns columns;
    int words = 0;
    if (batch->cols < 1 || batch->cols > c->cols_max || batch->wanted > c->wanted_max)
        return err_set(e, ERR_INTERNAL, "a step of %d tokens and %d logits; at most %d and %d fit", batch->cols, batch->wanted, c->cols_max, c->wanted_max);
    if (!prepare(c, batch, &columns, &words)) return err_set(e, ERR_INTERNAL, "a sequence is longer than the %d tokens it may hold", c->context);
    /* The scheduler's thread is not the one that opened. */
    enum err_code code = cuda_check(cudaSetDevice(c->device), "choosing the GPU", e);
    if (!code) code = cuda_check(cudaMemcpyAsync(c->step, c->host_step, (size_t)words * 4, cudaMemcpyHostToDevice, c->stream), "a step's data", e);
    bool small = c->decode && batch->cols <= DECODE_COLS_MAX;
    if (!code) code = angles_of(c, batch->cols, small, e);
    if (!code) code = matmul_embed(&c->embed, c->step + c->layout.tokens, batch->cols, c->model->embedding_scale, c->x, c->stream, e);
    if (!code) code = small ? decode_step(c, batch, &columns, e) : forward_general(c, batch, &columns, e);
    if (!code && batch->wanted) code = fetch(c, batch, e);
    if (!code) code = cuda_check(cudaStreamSynchronize(c->stream), "the step", e);
    if (code) return code;
    out->logits = c->host_logits, out->logits_stride = c->logits_stride;
    out->hidden = c->host_hidden, out->hidden_stride = (size_t)c->model->embedding;
    out->stats = c->host_stats, out->lists = c->host_lists;
    return ERR_OK;
}

/* One wait for all. */
static enum err_code cuda_rows(struct backend *b, const int32_t *row, int count, struct err *e)
{
    struct cuda *c = (struct cuda *)b;
    enum err_code code = cuda_check(cudaSetDevice(c->device), "choosing the GPU", e);
    for (int i = 0, n; i < count && !code; i += n) {
        for (n = 1; i + n < count && row[i + n] == row[i] + n;) n++;
        code = copy_logits(c, row[i], n, e);
    }
    return code ? code : cuda_check(cudaStreamSynchronize(c->stream), "logits", e);
}

/* Never asked for rows of our own, whose statistics come with them; here for the interface. */
static void cuda_stats(struct backend *b, const float *logits, int n, struct logit_stats *out)
{
    struct cuda *c = (struct cuda *)b;
    *out = c->host_stats[(size_t)(logits - c->host_logits) / c->logits_stride];
    (void)n;
}
