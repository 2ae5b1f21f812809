/* Q, K and V of every column made ready: bias, norm, rotation; K and V to their pages. And the plan of what follows. */
#include "engine/cuda/attention_private.cuh"

struct place_args {
    struct attention_call call;
    struct planner planner;
    const float *qkv;
    int64_t ldqkv;
    __half *q;
    int value_blocks, value_slices; /* blocks for V, and how many share the elements of the same rows */
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

/* ---- rows: a warp has 4 of every 128 elements a lane ---- */

/* PARTS: of 128 elements, that a head has at most. */
template <int PARTS> struct row {
    float v[PARTS][4];
};

static __device__ __forceinline__ int lane_first(int part)
{
    return part * 128 + threadIdx.x % 32 * 4;
}

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

static __device__ __forceinline__ void take_four(float *to, const float *from)
{
    float4 x = *(const float4 *)from;
    to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
}

/* Elements before `from` and past n are 0. */
template <int PARTS> static __device__ __forceinline__ struct row<PARTS> load_row(const float *x, int n, int from = 0)
{
    struct row<PARTS> r;
#pragma unroll
    for (int p = 0; p < PARTS; p++) {
#pragma unroll
        for (int j = 0; j < 4; j++) r.v[p][j] = 0;
        if (lane_first(p) >= from && lane_first(p) < n) take_four(r.v[p], x + lane_first(p));
    }
    return r;
}

template <int PARTS> static __device__ __forceinline__ void add_bias(struct row<PARTS> *r, const float *bias, int n)
{
    if (!bias) return;
    struct row<PARTS> b = load_row<PARTS>(bias, n);
#pragma unroll
    for (int p = 0; p < PARTS; p++)
#pragma unroll
        for (int j = 0; j < 4; j++) r->v[p][j] += b.v[p][j];
}

template <int PARTS> static __device__ __forceinline__ void norm_row(struct row<PARTS> *r, const float *norm, float eps, int n)
{
    if (!norm) return;
    struct row<PARTS> w = load_row<PARTS>(norm, n);
    float sum = 0;
#pragma unroll
    for (int p = 0; p < PARTS; p++)
#pragma unroll
        for (int j = 0; j < 4; j++) sum += r->v[p][j] * r->v[p][j];
    float scale = 1.0f / sqrtf(warp_sum(sum) / n + eps);
#pragma unroll
    for (int p = 0; p < PARTS; p++)
#pragma unroll
        for (int j = 0; j < 4; j++) r->v[p][j] = r->v[p][j] * scale * w.v[p][j];
}

/* The largest magnitude, as F16 can hold it. */
template <int PARTS> static __device__ __forceinline__ float row_most(const struct row<PARTS> *r)
{
    float most = 0;
#pragma unroll
    for (int p = 0; p < PARTS; p++)
#pragma unroll
        for (int j = 0; j < 4; j++) most = fmaxf(most, fabsf(within_half(r->v[p][j])));
    return warp_max(most);
}

static __device__ __forceinline__ uint32_t half_bits(float x)
{
    return __half_as_ushort(__float2half_rn(within_half(x)));
}
static __device__ __forceinline__ uint32_t e4m3_bits(float x, float scale)
{
    return __nv_cvt_float_to_fp8(within_half(x) / scale, __NV_SATFINITE, __NV_E4M3);
}
static __device__ __forceinline__ uint2 four_halves(const float *v)
{
    return make_uint2(half_bits(v[0]) | half_bits(v[1]) << 16, half_bits(v[2]) | half_bits(v[3]) << 16);
}

/* ---- rotation ---- */

template <int PARTS> struct turn {
    float c[PARTS][4], s[PARTS][4];
};

/* The pair that an element belongs to. */
static __device__ __forceinline__ int pair_of(const struct attention_layer *l, int i)
{
    int half = l->rotated / 2;
    return !l->rope_halves ? i / 2 : i < half ? i : i - half;
}

/* Four neighbouring elements whose pairs are neighbours too, at multiples of four. */
static __device__ __forceinline__ bool fours(const struct attention_layer *l)
{
    return l->rope_halves && l->rotated % 8 == 0;
}

/* cos and sin for the lane's elements of one column. */
template <int PARTS> static __device__ __forceinline__ void load_turn(struct turn<PARTS> *t, const struct attention_layer *l, const float *angles)
{
    int half = l->rotated / 2;
#pragma unroll
    for (int p = 0; p < PARTS; p++) {
        int i = lane_first(p);
        if (fours(l) && i < l->rotated) {
            take_four(t->c[p], angles + pair_of(l, i));
            take_four(t->s[p], angles + half + pair_of(l, i));
            continue;
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            bool turns = i + j < l->rotated;
            t->c[p][j] = turns ? angles[pair_of(l, i + j)] : 1;
            t->s[p][j] = turns ? angles[half + pair_of(l, i + j)] : 0;
        }
    }
}

/* Rows that turn by halves meet their other half in shared memory: `own`, n floats. A meeting of the warp lies between. */
template <int PARTS> static __device__ __forceinline__ void show_row(const struct row<PARTS> *r, float *own, int n)
{
#pragma unroll
    for (int p = 0; p < PARTS; p++)
        if (lane_first(p) < n) *(float4 *)(own + lane_first(p)) = make_float4(r->v[p][0], r->v[p][1], r->v[p][2], r->v[p][3]);
}

template <int PARTS> static __device__ __forceinline__ void turn_row(struct row<PARTS> *r, const struct turn<PARTS> *t, const struct attention_layer *l,
                                                                     const float *own)
{
    int half = l->rotated / 2;
#pragma unroll
    for (int p = 0; p < PARTS; p++) {
        int i = lane_first(p);
        float other[4];
        if (i >= l->rotated) continue;
        if (fours(l)) take_four(other, own + (i < half ? i + half : i - half));
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (!l->rope_halves) other[j] = r->v[p][j ^ 1];
            else if (!fours(l)) other[j] = i + j < l->rotated ? own[i + j < half ? i + j + half : i + j - half] : 0;
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            bool first = l->rope_halves ? i + j < half : j % 2 == 0;
            float x = r->v[p][j] * t->c[p][j], y = other[j] * t->s[p][j];
            if (i + j < l->rotated) other[j] = first ? x - y : x + y;
            else other[j] = r->v[p][j];
        }
#pragma unroll
        for (int j = 0; j < 4; j++) r->v[p][j] = other[j];
    }
}

/* ---- Q and K: some heads of one column, by a warp ---- */

static __device__ uint8_t *page_block(const struct attention_call *c, int column, int head, int *slot)
{
    int position = c->columns.position[column];
    int page = c->columns.pages[(int64_t)c->columns.run_of[column] * c->columns.pages_stride + position / CUDA_PAGE_TOKENS];
    *slot = position % CUDA_PAGE_TOKENS;
    return (uint8_t *)call_blocks(c, head) + page * call_page_bytes(c);
}

template <int PARTS> static __device__ __forceinline__ void store_query(const struct place_args *a, const struct row<PARTS> *r, int column, int head)
{
    int n = a->call.layer.head_dim;
    __half *to = a->q + ((int64_t)column * a->call.layer.heads + head) * n;
#pragma unroll
    for (int p = 0; p < PARTS; p++) {
        float v[4];
#pragma unroll
        for (int j = 0; j < 4; j++) v[j] = r->v[p][j] * a->call.layer.scale;
        if (lane_first(p) < n) *(uint2 *)(to + lane_first(p)) = four_halves(v);
    }
}

template <int PARTS> static __device__ __forceinline__ void store_key(const struct place_args *a, const struct row<PARTS> *r, int column, int head)
{
    int n = a->call.layer.head_dim, slot;
    uint8_t *block = page_block(&a->call, column, head, &slot);
    bool fp8 = a->call.kv.fp8;
    float scale = fp8 ? fmaxf(row_most(r) / 448, 1e-30f) : 1;
#pragma unroll
    for (int p = 0; p < PARTS; p++) {
        int at = slot * n + lane_first(p);
        if (lane_first(p) >= n) continue;
        const float *v = r->v[p];
        if (!fp8) *(uint2 *)(block + 2 * at) = four_halves(v);
        else *(uint32_t *)(block + at) = e4m3_bits(v[0], scale) | e4m3_bits(v[1], scale) << 8 | e4m3_bits(v[2], scale) << 16 | e4m3_bits(v[3], scale) << 24;
    }
    if (fp8 && threadIdx.x % 32 == 0) ((float *)(block + 2 * CUDA_PAGE_TOKENS * n))[slot] = scale;
}

/* HEADS heads from `first` on; the Q heads stand before the K heads. `own`: (HEADS, n). */
template <int PARTS, int HEADS> static __device__ __forceinline__ void place_heads(const struct place_args *a, int column, int first, float *own)
{
    const struct attention_layer *l = &a->call.layer;
    int n = l->head_dim, all = l->heads + l->kv_heads;
    struct row<PARTS> row[HEADS];
    struct turn<PARTS> turn;
#pragma unroll
    for (int h = 0; h < HEADS; h++)
        if (first + h < all) row[h] = load_row<PARTS>(a->qkv + column * a->ldqkv + (first + h) * n, n);
    load_turn(&turn, l, l->angles + (int64_t)column * l->rotated);
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        if (first + h >= all) break;
        bool query = first + h < l->heads;
        const float *bias = query ? l->q_bias : l->k_bias;
        add_bias(&row[h], bias ? bias + (first + h - (query ? 0 : l->heads)) * n : NULL, n);
        norm_row(&row[h], query ? l->q_norm : l->k_norm, l->norm_eps, n);
        if (l->rope_halves) show_row(&row[h], own + h * n, n);
    }
    __syncwarp();
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        if (first + h >= all) break;
        turn_row(&row[h], &turn, l, own + h * n);
        if (first + h < l->heads) store_query(a, &row[h], column, first + h);
        else store_key(a, &row[h], column, first + h - l->heads);
    }
}

/* ---- V of 32 columns and one head, by a block, or several where that makes too few: elements lie a page's positions apart, so that
 * neighbouring columns, where they are neighbours of one page, are written together ---- */

enum { V_COLUMNS = 32, V_STRIDE = V_COLUMNS + 1 };

template <int PARTS> static __device__ __forceinline__ void place_values(const struct place_args *a, int first, int head, int slice, uint8_t *shared)
{
    const struct attention_layer *l = &a->call.layer;
    enum { WARPS = PLACE_THREADS / 32, EACH = V_COLUMNS / WARPS };
    int n = l->head_dim, warp = threadIdx.x / 32, lane = threadIdx.x % 32, cols = a->call.columns.cols, slot = 0;
    int from = n / a->value_slices * slice, to = from + n / a->value_slices; /* the block's elements */
    bool fp8 = a->call.kv.fp8, mine = first + lane < cols;
    float *scales = (float *)shared;                            /* (V_COLUMNS) */
    uint16_t *tile = (uint16_t *)(shared + V_COLUMNS * 4);      /* (n, V_STRIDE): F16, or E4M3 in the low byte */
    struct row<PARTS> row[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int column = min(first + warp * EACH + i, cols - 1);
        const float *x = a->qkv + column * a->ldqkv + (l->heads + l->kv_heads + head) * n;
        row[i] = fp8 ? load_row<PARTS>(x, n) : load_row<PARTS>(x, to, from); /* a scale is of all of them */
    }
    uint8_t *block = mine ? page_block(&a->call, first + lane, head, &slot) : NULL; /* the lane's column's */
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        add_bias(&row[i], l->v_bias ? l->v_bias + head * n : NULL, n);
        float scale = fp8 ? fmaxf(row_most(&row[i]) / 448, 1e-30f) : 1;
        if (fp8 && lane == 0) scales[warp * EACH + i] = scale;
#pragma unroll
        for (int p = 0; p < PARTS; p++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (lane_first(p) >= from && lane_first(p) < to)
                    tile[(lane_first(p) + j) * V_STRIDE + warp * EACH + i] = (uint16_t)(fp8 ? e4m3_bits(row[i].v[p][j], scale) : half_bits(row[i].v[p][j]));
    }
    __syncthreads();
    if (!mine) return;
    for (int d = from + warp; d < to; d += WARPS) {
        int at = (n + d) * CUDA_PAGE_TOKENS + slot;
        if (fp8) block[at] = (uint8_t)tile[d * V_STRIDE + lane];
        else ((uint16_t *)block)[at] = tile[d * V_STRIDE + lane];
    }
    if (fp8 && warp == 0 && slice == 0) ((float *)(block + 2 * CUDA_PAGE_TOKENS * n))[CUDA_PAGE_TOKENS + slot] = scales[lane];
}

/* ---- all of it ---- */

/* Blocks: the plan (where it is wanted), V, Q and K. */
template <int PARTS, int HEADS> static __global__ void __launch_bounds__(PLACE_THREADS) place(const __grid_constant__ struct place_args a)
{
    SHARED_BYTES(shared);
    const struct attention_layer *l = &a.call.layer;
    int block = (int)blockIdx.x - !l->planned;
    if (block < 0) {
        make_plan(&a.planner, &a.call.columns);
        return;
    }
    if (block < a.value_blocks) {
        int slice = block % a.value_slices, unit = block / a.value_slices;
        place_values<PARTS>(&a, unit / l->kv_heads * V_COLUMNS, unit % l->kv_heads, slice, shared);
        return;
    }
    int warp = threadIdx.x / 32, groups = (l->heads + l->kv_heads + HEADS - 1) / HEADS;
    int64_t task = (int64_t)(block - a.value_blocks) * (PLACE_THREADS / 32) + warp;
    if (task >= (int64_t)a.call.columns.cols * groups) return;
    place_heads<PARTS, HEADS>(&a, (int)(task / groups), (int)(task % groups) * HEADS, (float *)shared + warp * HEADS * l->head_dim);
}

template <int PARTS, int HEADS> static cudaError_t launch(const struct place_args *args, cudaStream_t stream)
{
    const struct attention_layer *l = &args->call.layer;
    int64_t warps = PLACE_THREADS / 32, tasks = (int64_t)args->call.columns.cols * ((l->heads + l->kv_heads + HEADS - 1) / HEADS);
    size_t n = (size_t)l->head_dim, rows = l->rope_halves ? (size_t)warps * HEADS * n * 4 : 0, values = V_COLUMNS * 4 + n * V_STRIDE * 2;
    unsigned blocks = (unsigned)(!l->planned + args->value_blocks + (tasks + warps - 1) / warps);
    LAUNCH((place<PARTS, HEADS>), blocks, PLACE_THREADS, rows > values ? rows : values, stream, *args);
    return cudaGetLastError();
}

cudaError_t place_launch(const struct attention *a, const struct attention_call *c, const struct planner *p, const float *qkv,
                         int64_t ldqkv, cudaStream_t stream)
{
    int values = (c->columns.cols + V_COLUMNS - 1) / V_COLUMNS * c->layer.kv_heads, slices = values < a->multiprocessors ? 4 : 1;
    struct place_args args = {*c, *p, qkv, ldqkv, a->q, values * slices, slices};
    return c->layer.head_dim <= 128 ? launch<1, 4>(&args, stream) : c->layer.head_dim <= 256 ? launch<2, 2>(&args, stream) : launch<4, 1>(&args, stream);
}
