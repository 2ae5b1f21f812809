/* Hopper's kernel for FP8 weights × E4M3 inputs and more than a few columns: y = row scale × column scale × W x, by a persistent block on
 * each multiprocessor.
 *
 *   producer  one thread asks for boxes of 128 k's (a unit): 128 rows of weights and N columns of inputs, into a ring in shared memory,
 *             swizzled as the tensor cores want them
 *   products  two warpgroups, 64 rows each; both operands from shared memory
 *   join      tiles whose units were dealt to several blocks (matmul_stream.cuh): their sums lie in `partial`; each of the blocks adds a
 *             part of the tile
 *
 * The tensor cores keep sums of E4M3 products with some 14 bits. So a unit's products are summed from zero, and what comes out is added
 * to the tile's float32 sums (DeepSeek-V3's report, section 3.3.2). Where there are not registers enough for two sets of N columns, a
 * unit is multiplied in two halves of them.
 *
 * Blocks wait for each other once, at the end: all must be on the device at once, which a cooperative launch sees to. Where no tile is
 * shared it is one all the same: it is the faster launch (docs/performance-gpu.md). */
#include "engine/cuda/matmul_stream.cuh"
#include "engine/cuda/matmul_wgmma.cuh"

#include <pthread.h>
#include <string.h>

extern "C" {
#include "base/err.h"
}

enum { UNIT = 128, ROWS = 128, GROUPS = 2, THREADS = (GROUPS + 1) * 128, AT_ONCE = 8 /* chunks that a thread joins together */ };
enum { SHARED_MOST = 232448, BARRIER_BYTES = 256, WEIGHT_BYTES = ROWS * UNIT };
enum { REGISTERS_FEW = 40, REGISTERS_MANY = 232 };
enum { BARRIER_CONSUMERS = 1 };

struct fp8_args {
    CUtensorMap weights, inputs;
    struct results to;
    struct deal deal;
    const float *row_scale, *col_scale;
    float *partial;    /* a block's sums of a tile: place block + tile - whole */
    unsigned *arrived; /* (streamed) zeros, and zeros again afterwards */
};

template <int N, int CHUNKS> struct fp8_shape {
    static constexpr int input_bytes = N * UNIT, stage_bytes = WEIGHT_BYTES + input_bytes;
    static constexpr int fit = (SHARED_MOST - BARRIER_BYTES - N * 4) / stage_bytes, stages = fit > 12 ? 12 : fit;
    static constexpr int shared = stages * stage_bytes + BARRIER_BYTES + N * 4; /* ring, barriers, the columns' scales */
    static constexpr int chunks = GROUPS * N / 8, tile_floats = ROWS * N; /* a chunk: four floats of each of 128 threads */
};

/* ---- the producer ---- */

struct fp8_ring {
    uint32_t stages, full, empty; /* addresses */
    float *col_scale;             /* (N) */
};

template <int N, int CHUNKS> static __device__ __forceinline__ void produce(const struct fp8_args *a, const struct fp8_ring *r)
{
    using shape = fp8_shape<N, CHUNKS>;
    uint64_t policy = policy_evict_first();
    struct walk walk = walk_begin(&a->deal, (int)blockIdx.x);
    struct segment s;
    struct stage_turn turn = {0, 1}; /* the first turn finds its stages empty */
    while (walk_next(&a->deal, &walk, &s, (int)gridDim.x)) {
        int row = s.tile / a->deal.col_tiles * ROWS, col = s.tile % a->deal.col_tiles * N;
#pragma unroll 1
        for (int u = s.from; u < s.to; u++) {
            uint32_t bar = r->full + 8 * turn.stage, to = r->stages + turn.stage * shape::stage_bytes;
            mbarrier_wait(r->empty + 8 * turn.stage, turn.parity);
            mbarrier_expect(bar, shape::stage_bytes);
            if (a->deal.col_tiles == 1) tensor_copy_hinted(to, &a->weights, u * UNIT, row, bar, policy);
            else tensor_copy(to, &a->weights, u * UNIT, row, bar);
            tensor_copy(to + WEIGHT_BYTES, &a->inputs, u * UNIT, col, bar);
            turn_on<shape::stages>(&turn);
        }
    }
}

/* ---- products ---- */

/* A unit's: each half of the columns from zero, then added to its sums. */
template <int N, int CHUNKS>
static __device__ __forceinline__ void multiply_unit(float (&sums)[CHUNKS][N / CHUNKS / 2], float (&unit)[N / CHUNKS / 2], uint32_t weights, uint32_t inputs,
                                                     uint32_t empty, int lane)
{
    uint32_t a = wgmma_descriptor(weights), b = wgmma_descriptor(inputs);
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        wgmma_hold(unit);
        wgmma_fence();
#pragma unroll
        for (int s = 0; s < 4; s++) wgmma_e4m3(unit, a + (uint32_t)(s * 2), b + (uint32_t)(c * (N / CHUNKS * UNIT >> 4) + s * 2), s > 0);
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_hold(unit);
        if (c == CHUNKS - 1 && lane == 0) mbarrier_arrive(empty);
#pragma unroll
        for (int i = 0; i < N / CHUNKS / 2; i++) sums[c][i] += unit[i];
    }
}

static __device__ __forceinline__ float scale_of(const float *scale, int i, int count)
{
    return i < count ? __ldg(scale + i) : 0;
}

/* The scales of the columns from `col` on to shared memory, if they are not there already. */
template <int N> static __device__ __forceinline__ void take_scales(const struct fp8_args *a, const struct fp8_ring *r, int *have, int col)
{
    if (*have == col) return;
    *have = col;
    barrier_sync(BARRIER_CONSUMERS, GROUPS * 128);
    for (int i = (int)threadIdx.x; i < N; i += GROUPS * 128) r->col_scale[i] = scale_of(a->col_scale, col + i, a->to.cols);
    barrier_sync(BARRIER_CONSUMERS, GROUPS * 128);
}

/* This block's part of a tile of which it had some units: all have arrived. */
template <int N, int CHUNKS>
static __device__ __forceinline__ void join_tile(const struct fp8_args *a, const struct fp8_ring *r, int tile, int first, int count, int group, int thread,
                                                 int *have)
{
    using shape = fp8_shape<N, CHUNKS>;
    int mine = (int)blockIdx.x - first, from = mine * shape::chunks / count, to = (mine + 1) * shape::chunks / count, lane = thread & 31;
    int at = a->deal.whole + tile, row = at / a->deal.col_tiles * ROWS + (thread >> 5) * 16 + (lane >> 2), col = at % a->deal.col_tiles * N;
    const float *partial = a->partial + (int64_t)(first + tile) * shape::tile_floats;
    float of_row[4];
#pragma unroll
    for (int i = 0; i < 4; i++) of_row[i] = scale_of(a->row_scale, row + i / 2 * 64 + i % 2 * 8, a->to.rows);
    take_scales<N>(a, r, have, col);
    join_chunks<AT_ONCE, 3>(partial, shape::tile_floats, count, from + group, to, GROUPS, thread, [&](int c, const float (&d)[4]) {
        bool lower = c >= N / 8;
        int b = (lower ? c - N / 8 : c) * 8 + (lane & 3) * 2;
        struct scales by = {{lower ? of_row[2] : of_row[0], lower ? of_row[3] : of_row[1]}, r->col_scale + b};
        store_sums<true>(&a->to, d, row + (lower ? 64 : 0), col + b, &by);
    });
}

template <int N, int CHUNKS>
static __device__ __forceinline__ void consume(const struct fp8_args *a, const struct fp8_ring *r, int warps_before)
{
    using shape = fp8_shape<N, CHUNKS>;
    int thread = (int)threadIdx.x & 127, lane = thread & 31, group = warps_before >> 2, warp = warps_before & 3;
    struct walk walk = walk_begin(&a->deal, (int)blockIdx.x);
    struct segment s;
    struct stage_turn turn = {0, 0};
    int split = -1, split_too = -1; /* tiles of which this block had a part: two at most */
    int have = -1; /* the first column whose scales are in shared memory */
    float sums[CHUNKS][N / CHUNKS / 2], unit[N / CHUNKS / 2];
#pragma unroll
    for (int i = 0; i < N / CHUNKS / 2; i++) unit[i] = 0;
    if (a->deal.col_tiles == 1) take_scales<N>(a, r, &have, 0);
    while (walk_next(&a->deal, &walk, &s, (int)gridDim.x)) {
        int row = s.tile / a->deal.col_tiles * ROWS + group * 64 + warp * 16 + (lane >> 2);
        struct scales by = {{scale_of(a->row_scale, row, a->to.rows), scale_of(a->row_scale, row + 8, a->to.rows)}, r->col_scale + (lane & 3) * 2};
#pragma unroll
        for (int c = 0; c < CHUNKS; c++)
#pragma unroll
            for (int i = 0; i < N / CHUNKS / 2; i++) sums[c][i] = 0;
#pragma unroll 1
        for (int u = s.from; u < s.to; u++) {
            mbarrier_wait(r->full + 8 * turn.stage, turn.parity);
            uint32_t stage = r->stages + turn.stage * shape::stage_bytes;
            multiply_unit<N, CHUNKS>(sums, unit, stage + group * 64 * UNIT, stage + WEIGHT_BYTES, r->empty + 8 * turn.stage, lane);
            turn_on<shape::stages>(&turn);
        }
        if (s.to - s.from < a->deal.units) {
            int tile = s.tile - a->deal.whole;
            float *to = a->partial + (int64_t)((int)blockIdx.x + tile) * shape::tile_floats;
#pragma unroll
            for (int c = 0; c < CHUNKS; c++) leave_chunks(sums[c], to, (group * CHUNKS + c) * (N / CHUNKS / 8), thread);
            barrier_sync(BARRIER_CONSUMERS, GROUPS * 128);
            if (threadIdx.x == 0) count_release(a->arrived + tile);
            if (split < 0) split = tile;
            else split_too = tile;
        } else {
            int col = s.tile % a->deal.col_tiles * N;
            take_scales<N>(a, r, &have, col);
#pragma unroll
            for (int c = 0; c < CHUNKS; c++, by.col += N / CHUNKS) store_sums<true>(&a->to, sums[c], row, col + (lane & 3) * 2 + c * (N / CHUNKS), &by);
        }
    }
    if (split < 0) return;
    int first[2], count[2], tile[2] = {split, split_too};
#pragma unroll
    for (int i = 0; i < 2; i++) {
        first[i] = worker_of(&a->deal, tile[i] * a->deal.units), count[i] = worker_of(&a->deal, (tile[i] + 1) * a->deal.units - 1) - first[i] + 1;
        if (thread == 0 && group == i && tile[i] >= 0)
            while (load_acquire(a->arrived + tile[i]) < (unsigned)count[i]) { }
    }
    barrier_sync(BARRIER_CONSUMERS, GROUPS * 128);
    join_tile<N, CHUNKS>(a, r, tile[0], first[0], count[0], group, thread, &have);
    if (tile[1] >= 0) join_tile<N, CHUNKS>(a, r, tile[1], first[1], count[1], group, thread, &have);
    barrier_sync(BARRIER_CONSUMERS, GROUPS * 128);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        unsigned *arrived = a->arrived + tile[i]; /* who comes last makes it zero: nobody waits any more */
        if (thread == 0 && group == i && tile[i] >= 0 && atomicAdd(arrived, 1u) == 2 * (unsigned)count[i] - 1) *arrived = 0;
    }
}

template <int N, int CHUNKS> __global__ void __launch_bounds__(THREADS, 1) fp8_multiply(const __grid_constant__ struct fp8_args a)
{
#if WGMMA_HERE
    using shape = fp8_shape<N, CHUNKS>;
    SHARED_SWIZZLED(shared);
    struct fp8_ring r;
    r.stages = shared_address(shared);
    r.full = r.stages + shape::stages * shape::stage_bytes, r.empty = r.full + 8 * shape::stages;
    r.col_scale = (float *)(shared + shape::stages * shape::stage_bytes + BARRIER_BYTES);
    if (threadIdx.x == 0) {
        tensor_prefetch(&a.weights);
        tensor_prefetch(&a.inputs);
        for (int i = 0; i < shape::stages; i++) {
            mbarrier_init(r.full + 8 * i, 1);
            mbarrier_init(r.empty + 8 * i, GROUPS * 4);
        }
        fence_barriers();
        fence_bulk();
    }
    __syncthreads();
    int warp = __shfl_sync(~0u, (int)threadIdx.x >> 5, 0); /* so that the compiler sees one number for the warp, and one way through all loops */
    if (warp >= GROUPS * 4) {
        registers_give<REGISTERS_FEW>();
        if (threadIdx.x == GROUPS * 128) produce<N, CHUNKS>(&a, &r);
    } else {
        registers_take<REGISTERS_MANY>();
        consume<N, CHUNKS>(&a, &r, warp);
    }
#endif
}

/* ---- which instance, how the work is dealt ---- */

struct fp8_kernel {
    void (*function)(struct fp8_args);
    int cols, shared;
};
#define FP8(N, CHUNKS) {fp8_multiply<N, CHUNKS>, N, fp8_shape<N, CHUNKS>::shared}
static const struct fp8_kernel KERNELS[] = {FP8(32, 1), FP8(64, 1), FP8(80, 1), FP8(96, 1), FP8(128, 1), FP8(160, 1), FP8(192, 1), FP8(256, 2)};
enum { KERNEL_COUNT = sizeof KERNELS / sizeof KERNELS[0], LEAST_UNITS = 4 /* of a streaming block, unless there are fewer */ };

static int64_t ceil_of(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* ---- maps of tensors: the driver writes them ---- */

static pthread_once_t encode_once = PTHREAD_ONCE_INIT;
static decltype(&cuTensorMapEncodeTiled) encode;

static void find_encode(void)
{
    void *found = NULL;
    enum cudaDriverEntryPointQueryResult result;
#if CUDART_VERSION >= 12050
    cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
#else
    cudaError_t status = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result);
#endif
    if (status != cudaSuccess) (void)cudaGetLastError();
    else if (result == cudaDriverEntryPointSuccess) encode = (decltype(encode))found;
}

bool tensor_maps(void)
{
    (void)pthread_once(&encode_once, find_encode);
    return encode != NULL;
}

bool tensor_map(CUtensorMap *map, const void *data, int rows, int k, int element, int box, int box_rows)
{
    cuuint64_t sizes[2] = {(cuuint64_t)k, (cuuint64_t)rows}, apart[1] = {(cuuint64_t)k * (cuuint64_t)element};
    cuuint32_t boxes[2] = {(cuuint32_t)box, (cuuint32_t)box_rows}, steps[2] = {1, 1};
    return encode(map, element == 4 ? CU_TENSOR_MAP_DATA_TYPE_UINT32 : element == 2 ? CU_TENSOR_MAP_DATA_TYPE_UINT16 : CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, (void *)data, sizes, apart, boxes, steps,
                  CU_TENSOR_MAP_INTERLEAVE_NONE, box * element == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

/* ---- running ---- */

bool wide8_device(void)
{
    return tensor_maps() && runs_here((const void *)KERNELS[0].function);
}

int wide8_kernels(void)
{
    return KERNEL_COUNT;
}

int wide8_kernel_cols(int kernel)
{
    return KERNELS[kernel].cols;
}

/* Nanoseconds that a unit of a tile takes when `tiles` multiprocessors are at one each, `col_tiles` of them at the same weights: what a
 * multiprocessor needs to get and multiply it, or what the memory needs for all; and those that joining takes. Fitted to an H100. */
static double unit_ns(int cols, int tiles, int col_tiles)
{
    double product = (cols > 192 ? 3.2 * cols : 360 + cols) + (col_tiles > 1 ? 20 : 0), memory = 5.4 * tiles / col_tiles;
    return product > memory ? product : memory;
}
static double join_ns(int cols)
{
    return 7000 + 60 * cols;
}

/* The tiles beyond whole turns: one each for some blocks, or dealt out to all; the faster way. *ns: what all will take. */
static struct deal deal_of(const struct wide8_call *c, int kernel, int cols, double *ns)
{
    int of = KERNELS[kernel].cols, blocks = c->multiprocessors, units = (int)ceil_of(c->w->k, UNIT), col_tiles = (int)ceil_of(cols, of);
    int tiles = (int)ceil_of(c->w->rows, ROWS) * col_tiles, whole = tiles / blocks * blocks, streamed = tiles - whole;
    int64_t streamers = (int64_t)streamed * units / LEAST_UNITS, room = c->partial_bytes / ((int64_t)ROWS * of * 4) - streamed + 1;
    if (streamers > room) streamers = room;
    if (streamers > blocks) streamers = blocks;
    if (streamers < 1) streamers = 1;
    double turns = (double)(whole / blocks) * units * unit_ns(of, blocks, col_tiles), rest = streamed ? units * unit_ns(of, streamed, col_tiles) : 0;
    double dealt = (double)streamed * units / (double)streamers * unit_ns(of, (int)streamers, col_tiles) + join_ns(of);
    bool worth = c->streaming ? c->streaming > 1 : dealt < rest;
    *ns = turns + (worth ? dealt : rest);
    if (!worth) whole = tiles, streamed = 0, streamers = 1;
    return {units, col_tiles, whole, streamed, (int)streamers};
}

static int kernel_for(const struct wide8_call *c, int cols)
{
    int best = -1;
    double least = 0, ns;
    for (int i = 0; i < KERNEL_COUNT; i++) {
        (void)deal_of(c, i, cols, &ns);
        if (best < 0 || ns < least) best = i, least = ns;
    }
    return best;
}

static enum err_code launch(const struct wide8_call *c, int kernel, int first, int cols, cudaStream_t stream, struct err *e)
{
    const struct fp8_kernel *k = &KERNELS[kernel];
    struct fp8_args a;
    double ns;
    memset(&a, 0, sizeof a);
    if (!tensor_map(&a.weights, c->w->data, c->w->rows, c->w->k, 1, UNIT, ROWS) ||
        !tensor_map(&a.inputs, (const uint8_t *)c->x->data + (int64_t)first * c->w->k, cols, c->w->k, 1, UNIT, k->cols))
        return err_set(e, ERR_INTERNAL, "the driver makes no map of a tensor of %d × %d by %d columns", c->w->rows, c->w->k, cols);
    void *y = (uint8_t *)c->y + (int64_t)first * c->ldy * (c->into == INTO_F16 || c->into == INTO_BF16 ? 2 : 4);
    a.to = {y, c->ldy, c->w->rows, cols, (int)c->into};
    a.row_scale = c->w->scale, a.col_scale = c->x->scale + first;
    a.deal = deal_of(c, kernel, cols, &ns);
    a.partial = c->partial, a.arrived = c->arrived;
    int blocks = a.deal.whole ? a.deal.whole : a.deal.streamers;
    if (blocks > c->multiprocessors) blocks = c->multiprocessors;
    return cuda_check(LAUNCH_TOGETHER(k->function, blocks, THREADS, (size_t)k->shared, stream, a), "fp8_multiply", e);
}

enum err_code wide8_run(const struct wide8_call *c, cudaStream_t stream, struct err *e)
{
    int kernel = c->kernel >= 0 ? c->kernel : kernel_for(c, c->x->cols);
    uint64_t bit = (uint64_t)1 << kernel;
    enum err_code code = ERR_OK;
    if (!(*c->ready & bit))
        code = cuda_check(cudaFuncSetAttribute((const void *)KERNELS[kernel].function, cudaFuncAttributeMaxDynamicSharedMemorySize, KERNELS[kernel].shared),
                          "cudaFuncSetAttribute", e);
    if (!code) *c->ready |= bit;
    int64_t most = INT32_MAX / c->ldy / KERNELS[kernel].cols * KERNELS[kernel].cols; /* the kernel counts elements of y in 32 bits */
    if (most > 32768) most = 32768;
    for (int done = 0; done < c->x->cols && !code; done += (int)most)
        code = launch(c, kernel, done, c->x->cols - done < most ? c->x->cols - done : (int)most, stream, e);
    return code;
}
