/* Attention's host side: what is taken at the start, and which kernels a step needs. */
#include "engine/cuda/attention_private.cuh"

#include <stdlib.h>

/* ---- opening ---- */

static int divide_up(int64_t n, int64_t by)
{
    return (int)((n + by - 1) / by);
}

static int group_of(const struct attention_options *o)
{
    return o->heads / o->kv_heads;
}

static enum err_code check_options(const struct attention_options *o, struct err *e)
{
    if (o->cols_max < 1 || o->context_max < 1 || o->kv_heads < 1 || o->heads < o->kv_heads || o->heads % o->kv_heads)
        return err_set(e, ERR_INVALID, "attention: %d columns, %d positions, %d heads over %d KV heads: heads must be a multiple",
                       o->cols_max, o->context_max, o->heads, o->kv_heads);
    if (o->head_dim < 16 || o->head_dim > HEAD_DIM_MAX || o->head_dim % 16)
        return err_set(e, ERR_UNSUPPORTED, "attention: heads of %d; a multiple of 16 up to %d is wanted", o->head_dim, HEAD_DIM_MAX);
    if (divide_up(o->context_max, ATTEND_SPLIT) >= 1 << SPLIT_BITS)
        return err_set(e, ERR_UNSUPPORTED, "attention: a context of %d; less than %d is wanted", o->context_max,
                       ATTEND_SPLIT << SPLIT_BITS);
    if ((o->layers > 0) != (o->pages > 0))
        return err_set(e, ERR_INVALID, "attention: %d layers and %d pages for sparse attention: both or neither", o->layers, o->pages);
    return ERR_OK;
}

/* The most columns that go through the decode kernel may make so many chunks: one for each column at worst, or more where a
 * group has more heads than a unit has rows. */
static void size_plan(struct attention *a)
{
    const struct attention_options *o = &a->options;
    a->context_pages = divide_up(o->context_max, CUDA_PAGE_TOKENS);
    a->splits_max = divide_up(o->context_max, ATTEND_SPLIT) + 1;
    a->chunks_max = o->cols_max * divide_up(group_of(o), attend_rows(o->head_dim));
    a->tiles_max = divide_up((int64_t)o->cols_max * group_of(o), 16) + o->cols_max;
}

/* Bytes of the splits' sums of one query row of one split. */
static int64_t partial_row_bytes(const struct attention_options *o)
{
    return (int64_t)o->kv_heads * (o->head_dim + 2) * (int64_t)sizeof(float);
}

static void size_partial(struct attention *a)
{
    const struct attention_options *o = &a->options;
    int64_t all = (int64_t)o->cols_max * group_of(o) * a->splits_max * partial_row_bytes(o);
    int64_t least = (int64_t)attend_rows(o->head_dim) * a->splits_max * partial_row_bytes(o);
    a->partial_bytes = all < PARTIAL_BYTES_MAX ? all : PARTIAL_BYTES_MAX;
    if (a->partial_bytes < least) a->partial_bytes = least;
}

struct take {
    void **to;
    int64_t bytes;
};

static enum err_code take_all(const struct take *list, int count, struct err *e)
{
    int64_t total = 0;
    for (int i = 0; i < count; i++) {
        total += list[i].bytes;
        cudaError_t status = list[i].bytes ? cudaMalloc(list[i].to, (size_t)list[i].bytes) : cudaSuccess;
        if (status == cudaErrorMemoryAllocation) {
            (void)cudaGetLastError();
            return err_set(e, ERR_MEMORY, "attention: its buffers want %lld MiB of the GPU's memory and more; less is free",
                           (long long)(total >> 20));
        }
        enum err_code code = cuda_check(status, "cudaMalloc (attention)", e);
        if (code) return code;
    }
    return ERR_OK;
}

static enum err_code take_buffers(struct attention *a, struct err *e)
{
    const struct attention_options *o = &a->options;
    int64_t cols = o->cols_max, rows = cols * o->kv_heads;
    int64_t sparse = o->pages > 0 ? rows * a->context_pages * 4 : 0;
    struct take list[] = {
        {(void **)&a->q, cols * o->heads * o->head_dim * 2},
        {(void **)&a->partial, decode_has(o->head_dim) ? a->partial_bytes : 0},
        {(void **)&a->counter, (int64_t)a->chunks_max * o->kv_heads * 4},
        {(void **)&a->plan.counts, sizeof(struct counts)},
        {(void **)&a->plan.chunk, a->chunks_max * (int64_t)sizeof(struct chunk)},
        {(void **)&a->plan.entry, (int64_t)a->chunks_max * a->splits_max * (int64_t)sizeof(int32_t)},
        {(void **)&a->plan.tile, a->tiles_max * (int64_t)sizeof(struct tile)},
        {(void **)&a->summary, (int64_t)o->layers * o->pages * o->kv_heads * 2 * o->head_dim * 2},
        {(void **)&a->score, sparse},
        {(void **)&a->list, sparse},
    };
    enum err_code code = take_all(list, sizeof list / sizeof *list, e);
    if (code) return code;
    return cuda_check(cudaMemset(a->counter, 0, (size_t)a->chunks_max * (size_t)o->kv_heads * 4), "cudaMemset (attention)", e);
}

static enum err_code ask_device(struct attention *a, struct err *e)
{
    int device = 0;
    enum err_code code = cuda_check(cudaGetDevice(&device), "cudaGetDevice", e);
    if (code) return code;
    code = cuda_check(cudaDeviceGetAttribute(&a->multiprocessors, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute", e);
    if (code) return code;
    code = cuda_check(cudaDeviceGetAttribute(&a->shared_multiprocessor, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device),
                      "cudaDeviceGetAttribute", e);
    if (code) return code;
    return cuda_check(cudaDeviceGetAttribute(&a->shared_max, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
                      "cudaDeviceGetAttribute", e);
}

static enum err_code open_kernels(struct attention *a, struct err *e)
{
    int n = a->options.head_dim;
    for (int fp8 = 0; fp8 < 2 && decode_has(n); fp8++) {
        enum err_code code = cuda_check(decode_open(a, n, fp8), "decode attention's shared memory", e);
        if (code) return code;
        if (prefill_rows(n, fp8, a->shared_max) == 0) continue;
        code = cuda_check(prefill_open(n, fp8), "prefill attention's shared memory", e);
        if (code) return code;
    }
    return ERR_OK;
}

enum err_code attention_open(struct attention **out, const struct attention_options *options, struct err *e)
{
    enum err_code code = check_options(options, e);
    if (code) return code;
    struct attention *a = (struct attention *)calloc(1, sizeof *a);
    if (!a) return err_set(e, ERR_MEMORY, "attention: no memory for its state");
    a->options = *options;
    size_plan(a);
    size_partial(a);
    code = ask_device(a, e);
    if (!code) code = open_kernels(a, e);
    if (!code) code = take_buffers(a, e);
    if (code) {
        attention_close(a);
        return code;
    }
    *out = a;
    return ERR_OK;
}

void attention_close(struct attention *a)
{
    if (!a) return;
    void *list[] = {a->q, a->partial, a->counter, a->plan.counts, a->plan.chunk, a->plan.entry, a->plan.tile,
                    a->summary, a->score, a->list};
    for (void *p : list) (void)cudaFree(p);
    free(a);
}

/* ---- a step ---- */

static enum err_code check_call(const struct attention *a, const struct attention_layer *l, const struct kv_cache *kv,
                                const struct columns *c, int64_t ldqkv, enum form form, struct err *e)
{
    const struct attention_options *o = &a->options;
    if (l->heads != o->heads || l->kv_heads != o->kv_heads || l->head_dim != o->head_dim || kv->kv_heads != o->kv_heads ||
        kv->head_dim != o->head_dim)
        return err_set(e, ERR_INVALID, "attention: layer %d has %d heads of %d over %d; opened for %d of %d over %d", l->layer, l->heads,
                       l->head_dim, l->kv_heads, o->heads, o->head_dim, o->kv_heads);
    if (l->layer < 0 || l->layer >= kv->layers || l->rotated < 0 || l->rotated > l->head_dim || l->rotated % 2)
        return err_set(e, ERR_INVALID, "attention: layer %d of %d, %d of %d dims rotated", l->layer, kv->layers, l->rotated, l->head_dim);
    if (c->cols < 1 || c->cols > o->cols_max || c->runs < 1 || c->runs > c->cols || c->context_max < 1 || c->context_max > o->context_max)
        return err_set(e, ERR_INVALID, "attention: %d columns of %d runs over %d positions; opened for %d columns over %d", c->cols, c->runs,
                       c->context_max, o->cols_max, o->context_max);
    if (ldqkv % 4) return err_set(e, ERR_INVALID, "attention: rows of %lld floats; multiples of 4 are wanted", (long long)ldqkv);
    if (form == FORM_E4M3) return err_set(e, ERR_INVALID, "attention: its output is F16 or BF16");
    if (l->sparse_pages > 0 && (l->layer >= o->layers || kv->pages > o->pages || !decode_has(o->head_dim)))
        return err_set(e, ERR_UNSUPPORTED, "attention: sparse in layer %d, %d pages, heads of %d; opened for %d layers, %d pages", l->layer,
                       kv->pages, o->head_dim, o->layers, o->pages);
    return ERR_OK;
}

/* What a batch comes to. */
struct need {
    int decode_columns_max; /* runs of so many columns go through decode */
    int chunk_rows, tile_rows;
    int chunks, tiles, rows; /* rows: of the largest chunk */
    int splits;              /* of a chunk, at most */
};

static int splits_most(const struct attention_layer *l, const struct columns *c, int chunk_columns)
{
    int all = c->context_max, near = l->window + chunk_columns + ATTEND_SPLIT - 1; /* a window may begin anywhere in a split */
    if (l->window > 0 && near < all) all = near;
    if (l->sparse_pages > 0) return divide_up(pages_read(0, l->sparse_pages, all), ATTEND_PAGES);
    return divide_up(all, ATTEND_SPLIT);
}

static struct need need_of(const struct attention *a, const struct attention_layer *l, const struct kv_cache *kv, const struct columns *c)
{
    struct need n = {};
    int group = l->heads / l->kv_heads, rows = attend_rows(l->head_dim);
    n.tile_rows = prefill_rows(l->head_dim, kv->fp8, a->shared_max);
    n.decode_columns_max = a->options.invariant || n.tile_rows == 0 ? c->cols : DECODE_COLUMNS_MAX;
    n.chunk_rows = group > rows ? rows : l->sparse_pages > 0 ? group : rows / group * group;
    for (int i = 0; i < c->runs; i++) {
        int all = c->host_run[i].count * group;
        if (c->host_run[i].count > n.decode_columns_max) {
            n.tiles += divide_up(all, n.tile_rows);
            continue;
        }
        n.chunks += group > n.chunk_rows ? c->host_run[i].count * divide_up(group, n.chunk_rows) : divide_up(all, n.chunk_rows);
        if (n.rows < all) n.rows = all;
    }
    if (n.rows > n.chunk_rows) n.rows = n.chunk_rows;
    n.splits = splits_most(l, c, divide_up(n.chunk_rows, group));
    return n;
}

/* Decode, as many chunks at a time as the splits' sums have room for. */
static cudaError_t run_decode(const struct attention *a, const struct attention_call *c, const struct need *n, cudaStream_t stream)
{
    int64_t chunk_bytes = n->splits * n->rows * partial_row_bytes(&a->options);
    int step = (int)(a->partial_bytes / chunk_bytes);
    cudaError_t status = cudaSuccess;
    for (int first = 0; first < n->chunks && status == cudaSuccess; first += step) {
        int end = n->chunks - first < step ? n->chunks : first + step;
        status = decode_launch(a, c, first, end, n->splits, n->rows, stream);
    }
    return status;
}

enum err_code attention_run(struct attention *a, const struct attention_layer *l, const struct kv_cache *kv, const struct columns *columns,
                            const float *qkv, int64_t ldqkv, enum form form, void *out, cudaStream_t stream, struct err *e)
{
    enum err_code code = check_call(a, l, kv, columns, ldqkv, form, e);
    if (code) return code;
    struct need n = need_of(a, l, kv, columns);
    struct attention_call call = {*l, *kv, *columns, a->q, (uint16_t *)out, form == FORM_BF16, l->heads / l->kv_heads};
    bool fast = decode_has(l->head_dim);
    struct planner planner = {a->plan, n.chunk_rows, n.tile_rows, n.decode_columns_max, call.group, l->window, l->sparse_pages};
    code = cuda_check(place_launch(a, &call, &planner, qkv, ldqkv, stream), "attention: place", e);
    if (!code && !fast) return cuda_check(general_launch(&call, stream), "attention: general", e);
    if (!code && l->sparse_pages > 0) code = cuda_check(sparse_launch(a, &call, n.decode_columns_max, stream), "attention: sparse", e);
    if (!code && n.chunks > 0) code = cuda_check(run_decode(a, &call, &n, stream), "attention: decode", e);
    if (!code && n.tiles > 0) code = cuda_check(prefill_launch(a, &call, n.tiles, stream), "attention: prefill", e);
    return code;
}
