/* Q, K and V of every column made ready: bias, norm, rotation; K and V to their pages. And the plan of what follows. */
#include "engine/cuda/attention_private.cuh"

struct place_args {
    struct attention_call call;
    struct planner planner;
    const float *qkv;
    int64_t ldqkv;
    __half *q;
};

/* ---- the plan ---- */

static __device__ struct chunk chunk_of(const struct planner *p, const struct batch_run *run, int run_index, int row0, int rows)
{
    struct chunk c = {run_index, row0, rows, run->position, 0, 0, 0, run->first};
    int position = run->position + row0 / p->group, last = run->position + (row0 + rows - 1) / p->group;
    if (p->sparse_pages > 0) {
        c.splits = (pages_read(p->window, p->sparse_pages, last) + ATTEND_PAGES - 1) / ATTEND_PAGES;
    } else {
        c.split0 = first_seen(p->window, position) / ATTEND_SPLIT;
        c.splits = last / ATTEND_SPLIT + 1 - c.split0;
    }
    return c;
}

/* The chunks or tiles of one run; written down where `at` says. */
static __device__ struct counts plan_run(const struct planner *p, const struct batch_run *run, int index, const struct counts *at)
{
    struct counts n = {0, 0, 0};
    int all = run->count * p->group;
    if (run->count > p->decode_columns_max) {
        for (; n.tiles * p->tile_rows < all; n.tiles++)
            if (at) p->plan.tile[at->tiles + n.tiles] = {index, n.tiles};
        return n;
    }
    for (int row0 = 0, rows; row0 < all; row0 += rows, n.chunks++) {
        rows = min(p->chunk_rows, (p->group > p->chunk_rows ? row0 / p->group * p->group + p->group : all) - row0);
        struct chunk c = chunk_of(p, run, index, row0, rows);
        if (at) {
            c.entry = at->entries + n.entries;
            p->plan.chunk[at->chunks + n.chunks] = c;
        }
        n.entries += c.splits;
    }
    return n;
}

static __device__ void make_plan(const struct planner *p, const struct columns *columns)
{
    const struct plan *plan = &p->plan;
    struct counts all = {0, 0, 0};
    for (int base = 0; base < columns->runs; base += PLACE_THREADS) {
        int run = base + threadIdx.x;
        struct counts mine = {0, 0, 0}, sum, at;
        if (run < columns->runs) mine = plan_run(p, &columns->run[run], run, NULL);
        at.chunks = all.chunks + block_scan<PLACE_THREADS>(mine.chunks, &sum.chunks);
        at.entries = all.entries + block_scan<PLACE_THREADS>(mine.entries, &sum.entries);
        at.tiles = all.tiles + block_scan<PLACE_THREADS>(mine.tiles, &sum.tiles);
        if (run < columns->runs) plan_run(p, &columns->run[run], run, &at);
        all.chunks += sum.chunks;
        all.entries += sum.entries;
        all.tiles += sum.tiles;
    }
    __syncthreads();
    for (int i = threadIdx.x / 32; i < all.chunks; i += PLACE_THREADS / 32)
        for (int s = threadIdx.x % 32; s < plan->chunk[i].splits; s += 32)
            plan->entry[plan->chunk[i].entry + s] = i << SPLIT_BITS | s;
    if (threadIdx.x == 0) *plan->counts = all;
}

/* ---- one head of one column, by a warp ---- */

static __device__ float warp_sum(float x)
{
#pragma unroll
    for (int i = 16; i; i /= 2) x += __shfl_xor_sync(~0u, x, i);
    return x;
}
static __device__ float warp_max(float x)
{
#pragma unroll
    for (int i = 16; i; i /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, i));
    return x;
}

/* What F16 can hold. NaN becomes a number, so that a page never holds one. */
static __device__ float within_half(float x)
{
    return fminf(fmaxf(x, -65504.0f), 65504.0f);
}

/* x (n) into row, with its bias, norm (NULL: none) and scale. */
static __device__ void load_row(const float *x, const float *bias, const float *norm, float eps, int n, float *row)
{
    float sum = 0;
    for (int i = threadIdx.x % 32; i < n; i += 32) {
        float v = x[i] + (bias ? bias[i] : 0);
        row[i] = v;
        sum += v * v;
    }
    if (norm) {
        float scale = 1.0f / sqrtf(warp_sum(sum) / n + eps);
        for (int i = threadIdx.x % 32; i < n; i += 32) row[i] = row[i] * scale * norm[i];
    }
    __syncwarp();
}

/* Element i of the row after its rotation. */
static __device__ float turned(const float *row, int i, const struct attention_layer *l, const float *angles)
{
    int half = l->rotated / 2;
    if (i >= l->rotated) return row[i];
    bool first = l->rope_halves ? i < half : i % 2 == 0;
    int pair = l->rope_halves ? (first ? i : i - half) : i / 2;
    float a = row[l->rope_halves ? pair : 2 * pair], b = row[l->rope_halves ? pair + half : 2 * pair + 1];
    float c = angles[pair], s = angles[half + pair];
    return first ? a * c - b * s : a * s + b * c;
}

/* A row to its place in a page: K's elements are neighbours, V's stand a page's positions apart. */
static __device__ void store_row(const float *row, int n, bool fp8, bool value, uint8_t *block, int slot)
{
    int step = value ? CUDA_PAGE_TOKENS : 1, at = value ? n * CUDA_PAGE_TOKENS + slot : slot * n;
    float most = 0;
    for (int i = threadIdx.x % 32; i < n; i += 32) {
        if (!fp8) ((__half *)block)[at + i * step] = __float2half_rn(within_half(row[i]));
        most = fmaxf(most, fabsf(within_half(row[i])));
    }
    if (!fp8) return;
    float scale = fmaxf(warp_max(most) / 448, 1e-30f);
    for (int i = threadIdx.x % 32; i < n; i += 32)
        block[at + i * step] = __nv_cvt_float_to_fp8(within_half(row[i]) / scale, __NV_SATFINITE, __NV_E4M3);
    float *scales = (float *)(block + 2 * CUDA_PAGE_TOKENS * n);
    if (threadIdx.x % 32 == 0) scales[(value ? CUDA_PAGE_TOKENS : 0) + slot] = scale;
}

static __device__ void place_head(const struct place_args *a, int column, int slot, float *row, float *out)
{
    const struct attention_layer *l = &a->call.layer;
    int n = l->head_dim, head = slot;
    bool query = slot < l->heads, value = slot >= l->heads + l->kv_heads;
    if (!query) head -= l->heads + (value ? l->kv_heads : 0);
    const float *bias = query ? l->q_bias : value ? l->v_bias : l->k_bias, *norm = query ? l->q_norm : value ? NULL : l->k_norm;
    load_row(a->qkv + column * a->ldqkv + slot * n, bias ? bias + head * n : NULL, norm, l->norm_eps, n, row);
    const float *angles = l->angles + (int64_t)column * l->rotated;
    for (int i = threadIdx.x % 32; i < n; i += 32) {
        float v = value ? row[i] : turned(row, i, l, angles);
        if (query) a->q[((int64_t)column * l->heads + head) * n + i] = __float2half_rn(within_half(v * l->scale));
        else out[i] = v;
    }
    if (query) return;
    const struct columns *c = &a->call.columns;
    int position = c->position[column];
    int page = c->pages[(int64_t)c->run_of[column] * c->pages_stride + position / CUDA_PAGE_TOKENS];
    uint8_t *block = (uint8_t *)call_blocks(&a->call, head) + page * call_page_bytes(&a->call);
    store_row(out, n, a->call.kv.fp8, value, block, position % CUDA_PAGE_TOKENS);
}

static __global__ void __launch_bounds__(PLACE_THREADS) place(const __grid_constant__ struct place_args a)
{
    SHARED_BYTES(shared);
    float *rows = (float *)shared; /* (8 warps, 2, head_dim) */
    if (blockIdx.x == 0) {
        make_plan(&a.planner, &a.call.columns);
        return;
    }
    int warp = threadIdx.x / 32, slots = a.call.layer.heads + 2 * a.call.layer.kv_heads, n = a.call.layer.head_dim;
    int64_t task = (int64_t)(blockIdx.x - 1) * (PLACE_THREADS / 32) + warp;
    if (task >= (int64_t)a.call.columns.cols * slots) return;
    place_head(&a, (int)(task / slots), (int)(task % slots), rows + warp * 2 * n, rows + (warp * 2 + 1) * n);
}

cudaError_t place_launch(const struct attention *a, const struct attention_call *c, const struct planner *p, const float *qkv,
                         int64_t ldqkv, cudaStream_t stream)
{
    struct place_args args = {*c, *p, qkv, ldqkv, a->q};
    int64_t tasks = (int64_t)c->columns.cols * (c->layer.heads + 2 * c->layer.kv_heads), warps = PLACE_THREADS / 32;
    unsigned blocks = (unsigned)(1 + (tasks + warps - 1) / warps);
    LAUNCH(place, blocks, PLACE_THREADS, (size_t)warps * 2 * (size_t)c->layer.head_dim * sizeof(float), stream, args);
    return cudaGetLastError();
}
