/* How the kernels of a persistent block share a product out, and how they store it.
 *
 * Work: tiles of some rows by some columns, the column tiles of a row tile neighbours. As many whole tiles as every worker can have
 * one of, turn by turn; the units (of k's) of what is left are dealt to all workers evenly, in one line, so that a worker has the end
 * of a tile and the beginning of the next. Those come first: when the whole tiles are done, the others' sums lie there. */
#ifndef RUNG_ENGINE_CUDA_MATMUL_STREAM_CUH
#define RUNG_ENGINE_CUDA_MATMUL_STREAM_CUH

#include "engine/cuda/matmul_private.cuh"

#include <cuda.h>
#include <type_traits>

struct deal {
    int units, col_tiles;
    int whole, streamed; /* tiles: the first `whole` are done by one worker each */
    int streamers;       /* workers among which the others' units are dealt: at least one unit for each */
};
struct segment {
    int tile, from, to; /* units of the tile */
};
struct walk {
    int at, end, whole;
};

static __device__ __forceinline__ int stream_start(const struct deal *d, int worker)
{
    return (int)((int64_t)min(worker, d->streamers) * d->streamed * d->units / d->streamers);
}

static __device__ __forceinline__ struct walk walk_begin(const struct deal *d, int worker)
{
    return {stream_start(d, worker), stream_start(d, worker + 1), worker};
}

static __device__ __forceinline__ bool walk_next(const struct deal *d, struct walk *w, struct segment *s, int workers)
{
    if (w->at < w->end) {
        int tile = w->at / d->units, first = tile * d->units;
        s->tile = d->whole + tile, s->from = w->at - first, s->to = min(d->units, w->end - first);
        w->at = first + s->to;
        return true;
    }
    s->tile = w->whole, s->from = 0, s->to = d->units;
    w->whole += workers;
    return s->tile < d->whole;
}

/* The worker that has unit `unit` of all streamed ones. */
static __device__ __forceinline__ int worker_of(const struct deal *d, int unit)
{
    int64_t all = (int64_t)d->streamed * d->units;
    return (int)((((int64_t)unit + 1) * d->streamers + all - 1) / all) - 1;
}

/* ---- stages of a ring in shared memory ---- */

struct stage_turn {
    int stage;
    uint32_t parity;
};
template <int stages> static __device__ __forceinline__ void turn_on(struct stage_turn *t)
{
    if (++t->stage == stages) t->stage = 0, t->parity ^= 1;
}

/* ---- results ---- */

struct results {
    void *y; /* (cols, ldy); its elements are counted in 32 bits */
    int64_t ldy;
    int rows, cols, into;
};
/* What a lane's sums are multiplied by: its rows' scales, and those of the columns from its first one on (in shared memory). */
struct scales {
    float row[2];
    const float *col;
};

template <typename T> static __device__ __forceinline__ void convert_to(T *y, float v)
{
    if constexpr (sizeof(T) == 4) *y = v;
    else if constexpr (std::is_same<T, __half>::value) *y = __float2half_rn(v);
    else *y = __float2bfloat16_rn(v);
}

/* A lane's sums d[4 b + i]: row g + 8 (i / 2) of the warp's, column 8 b + 2 t + i % 2. */
template <typename T, bool scaled, int n>
static __device__ __forceinline__ void store_as(const struct results *to, const float (&d)[n], int row, int col, bool add, const struct scales *by)
{
    constexpr int part = n % 16 == 0 ? 16 : n % 8 == 0 ? 8 : n; /* loads under way together */
    bool first = row < to->rows, second = row + 8 < to->rows;
    int ldy = (int)to->ldy, at = col * ldy + row;
    T *y = (T *)to->y;
#pragma unroll
    for (int p = 0; p < n; p += part) {
        float v[part];
        auto each = [&](auto what) {
            int c = col + p * 2, from = at;
#pragma unroll
            for (int i = 0; i < part; i += 4, c += 8, from += 8 * ldy) {
                if (c < to->cols && first) what(i, from);
                if (c + 1 < to->cols && first) what(i + 1, from + ldy);
                if (c < to->cols && second) what(i + 2, from + 8);
                if (c + 1 < to->cols && second) what(i + 3, from + ldy + 8);
            }
        };
#pragma unroll
        for (int i = 0; i < part; i++) v[i] = 0;
        if constexpr (sizeof(T) == 4)
            if (add) each([&](int i, int from) { v[i] = y[from]; });
        each([&](int i, int from) {
            float sum = d[p + i];
            if (scaled) sum *= by->row[i >> 1 & 1] * by->col[p * 2 + (i >> 2) * 8 + (i & 1)];
            convert_to(y + from, sum + v[i]);
        });
        at += part * 2 * ldy;
        asm volatile("" : "+r"(at)::"memory"); /* no addresses made early */
    }
}

template <bool scaled, int n>
static __device__ __forceinline__ void store_sums(const struct results *to, const float (&d)[n], int row, int col, const struct scales *by = NULL)
{
    if (to->into == INTO_F16) store_as<__half, scaled>(to, d, row, col, false, by);
    else if (to->into == INTO_BF16) store_as<__nv_bfloat16, scaled>(to, d, row, col, false, by);
    else store_as<float, scaled>(to, d, row, col, to->into == INTO_F32_ADD, by);
}

/* ---- sums of tiles that several workers share ---- */

/* Chunks of a tile's sums (four floats of each of a warpgroup's 128 threads) from `chunk` on: a float4 of each thread, so that the
 * threads' are neighbours. */
template <int n> static __device__ __forceinline__ void leave_chunks(const float (&sums)[n], float *to, int chunk, int thread)
{
#pragma unroll
    for (int b = 0; b < n / 4; b++)
        __stcg((float4 *)to + (chunk + b) * 128 + thread, make_float4(sums[4 * b], sums[4 * b + 1], sums[4 * b + 2], sums[4 * b + 3]));
}

static __device__ __forceinline__ void add_to(float4 *sum, float4 v)
{
    sum->x += v.x, sum->y += v.y, sum->z += v.z, sum->w += v.w;
}

/* Chunks from, from + step … below `to` of the tile that `count` workers (two at least) have left, `apart` floats from each other, added
 * in their order. at_once chunks of `together` workers are loaded at a time; beyond the last chunk the last one is, for nothing: no
 * branches. */
template <int at_once, int together, typename F>
static __device__ __forceinline__ void join_chunks(const float *partial, int64_t apart, int count, int from, int to, int step, int thread, F store)
{
    const float4 *first = (const float4 *)partial + thread;
#pragma unroll 1
    for (int c0 = from; c0 < to; c0 += at_once * step) {
        float4 sum[at_once], more[together - 1][at_once];
        auto load = [&](float4 (&v)[at_once], int worker) {
#pragma unroll
            for (int n = 0; n < at_once; n++) v[n] = __ldcg(first + worker * (apart / 4) + min(c0 + n * step, to - 1) * 128);
        };
        auto add = [&](const float4 (&v)[at_once]) {
#pragma unroll
            for (int n = 0; n < at_once; n++) add_to(&sum[n], v[n]);
        };
        load(sum, 0);
#pragma unroll
        for (int i = 1; i < together; i++)
            if (i < 2 || i < count) load(more[i - 1], i);
#pragma unroll
        for (int i = 1; i < together; i++)
            if (i < 2 || i < count) add(more[i - 1]);
#pragma unroll 1
        for (int i = together; i < count; i++) {
            load(more[0], i);
            add(more[0]);
        }
#pragma unroll
        for (int n = 0; n < at_once; n++) {
            int c = c0 + n * step;
            if (c >= to) continue;
            float d[4] = {sum[n].x, sum[n].y, sum[n].z, sum[n].w};
            store(c, d);
        }
    }
}

/* ---- maps of tensors, which the driver writes (matmul_wgmma_fp8.cu) ---- */

bool tensor_maps(void); /* whether it does */
/* Boxes of `box` elements (of 1, 2 or 4 bytes) by `box_rows` rows of a matrix (rows, k), zeros beyond its edges; of 128 bytes: swizzled. */
bool tensor_map(CUtensorMap *map, const void *data, int rows, int k, int element, int box, int box_rows);

/* Whether a wide kernel runs on this device. Compiled for sm_90 without the a, or for older cards alone, it is empty: it has hardly a
 * register then. */
static inline bool runs_here(const void *kernel)
{
    int device, major = 0, minor = 0;
    cudaFuncAttributes of;
    return cudaGetDevice(&device) == cudaSuccess && cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
           cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess && major == 9 && minor == 0 &&
           cudaFuncGetAttributes(&of, kernel) == cudaSuccess && of.numRegs > 64;
}

#endif
