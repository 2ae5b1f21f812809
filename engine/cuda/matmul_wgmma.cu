/* Hopper's kernel for 4-bit weights and more than a few columns: y = W x, by a persistent block on each multiprocessor.
 *
 *   producer  one thread asks for boxes of 128 k's (a unit) into a ring in shared memory: the weights of the block's rows as they lie in
 *             memory, and N columns of inputs, swizzled as the tensor cores want them
 *   products  WGS groups of four warps turn the weights into F16 in registers and multiply: the weights are wgmma's register operand,
 *             the inputs its shared one
 *   join      tiles whose units were dealt to several blocks: their sums lie in `partial`; each of the blocks adds a part of the tile
 *
 * Work: tiles of WGS × MT × 64 rows by N columns, dealt to the blocks as matmul_stream.cuh says.
 *
 * Which k is which: a lane (4 g + t) has, in word j of row g, k = 32 j + 8 t + e, e = 0..7. In step s of the two that a word feeds the
 * tensor cores want of it positions 2 t, 2 t + 1, 2 t + 8, 2 t + 9: they get e = 4 s + 0, 1, 2, 3. The inputs' k's lie where this sends
 * the weights': turned (cuda.cuh).
 *
 * Scales (of a row's 128 k's) are applied where they cost least: with few columns to a unit's float32 sums, which begin anew for each
 * unit, as they are added to the tile's; with many to the weights.
 *
 * Blocks wait for each other at the end: all of them must be on the device at once, one to a multiprocessor, which a cooperative launch
 * sees to. */
#include "engine/cuda/matmul_decode.cuh"
#include "engine/cuda/matmul_stream.cuh"
#include "engine/cuda/matmul_wgmma.cuh"

#include <atomic>
#include <string.h>

extern "C" {
#include "base/err.h"
}

enum { UNIT = W4_GROUP };
enum { SHARED_MOST = 232448, BARRIER_BYTES = 1024, GRANULE_WORDS = W4_GRANULE / 4 };
enum scaling { SUMS, WEIGHTS };

struct wide_args {
    CUtensorMap weights, inputs; /* (panels, units × words), (cols, k) */
    struct results to;
    struct deal deal;
    float *partial;    /* a block's sums of a tile: place block + tile - whole */
    unsigned *arrived; /* (streamed) zeros, and zeros again afterwards */
};

template <int N, int MT, int WGS> struct wide_shape {
    static constexpr int rows = WGS * MT * 64, panels = rows / W4_PANEL_ROWS, threads = WGS * 128 + 128;
    static constexpr int input_bytes = N * UNIT * 2, weight_bytes = panels * W4_GRANULE;
    static constexpr int stage_bytes = (input_bytes + weight_bytes + 1023) / 1024 * 1024;
    static constexpr int fit = (SHARED_MOST - BARRIER_BYTES) / stage_bytes, stages = fit > 16 ? 16 : fit;
    static constexpr int shared = stages * stage_bytes + BARRIER_BYTES;
    static constexpr int registers = 65536 / threads / 8 * 8 * (WGS + 1); /* four threads' of each group */
    static constexpr int few = WGS == 2 ? 40 : 32, many = (registers - few) / WGS / 8 * 8 > 232 ? 232 : (registers - few) / WGS / 8 * 8;
    static constexpr int chunks = WGS * MT * N / 8, tile_floats = rows * N; /* a chunk: four floats of each of 128 threads */
};

/* ---- the producer ---- */

/* Of panels and columns beyond the last come zeros. Weights are there before this launch's predecessor has ended, inputs are not. */
template <int N, int MT, int WGS> static __device__ __forceinline__ void produce(const struct wide_args *a, uint32_t ring, uint32_t full, uint32_t empty)
{
    using shape = wide_shape<N, MT, WGS>;
    uint64_t policy = policy_evict_first();
    auto weights = [&](const struct segment &s, int u, int stage) {
        uint32_t to = ring + stage * shape::stage_bytes + shape::input_bytes, bar = full + 8 * stage;
        int panel = s.tile / a->deal.col_tiles * shape::panels;
        mbarrier_expect(bar, shape::input_bytes + shape::weight_bytes);
        if (a->deal.col_tiles == 1) tensor_copy_hinted(to, &a->weights, u * GRANULE_WORDS, panel, bar, policy);
        else tensor_copy(to, &a->weights, u * GRANULE_WORDS, panel, bar);
    };
    struct segment s;
    int early = 0;
    struct walk walk = walk_begin(&a->deal, (int)blockIdx.x);
    while (early < shape::stages && walk_next(&a->deal, &walk, &s, (int)gridDim.x))
        for (int u = s.from; u < s.to && early < shape::stages; u++) weights(s, u, early++);
    predecessor_wait();
    struct stage_turn turn = {0, 1}; /* the first turn finds its stages empty */
    walk = walk_begin(&a->deal, (int)blockIdx.x);
    while (walk_next(&a->deal, &walk, &s, (int)gridDim.x)) {
        int col = s.tile % a->deal.col_tiles * N;
#pragma unroll 1
        for (int u = s.from; u < s.to; u++) {
            uint32_t to = ring + turn.stage * shape::stage_bytes, bar = full + 8 * turn.stage;
            mbarrier_wait(empty + 8 * turn.stage, turn.parity);
            if (early > 0) early--;
            else weights(s, u, turn.stage);
            tensor_copy(to, &a->inputs, u * UNIT, col, bar);
            tensor_copy(to + N * 128, &a->inputs, u * UNIT + 64, col, bar);
            turn_on<shape::stages>(&turn);
        }
    }
}

/* ---- products ---- */

/* A warp's share of a unit: of each row 128 k's, 32 to a word of a lane; WORDS of them are decoded at a time, while the tensor cores have
 * the last ones. */
template <int N, int MT, int SCALING, int WORDS> struct unit_work {
    static constexpr int batches = 4 / WORDS, sets = batches > 1 ? 2 : 1;
    uint4 words[MT][2];
    __half2 scale[MT][2];
    uint32_t fragments[sets][WORDS][MT][2][4];
    float sums[MT][N / 2], unit[SCALING == SUMS ? MT : 1][N / 2];

    __device__ __forceinline__ void load(uint32_t weights, int lane)
    {
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                words[m][h] = load_shared_16(weights + (m * 8 + h) * W4_GRANULE + lane * 16);
                scale[m][h] = load_shared_pair(weights + (m * 8 + h) * W4_GRANULE + 512 + (lane >> 2) * 2);
            }
    }
    template <int batch> __device__ __forceinline__ void decode()
    {
#pragma unroll
        for (int w = 0; w < WORDS; w++)
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    uint32_t all[4] = {words[m][h].x, words[m][h].y, words[m][h].z, words[m][h].w}, pairs[4];
                    decode_w4(all[batch * WORDS + w], pairs);
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        if (SCALING == WEIGHTS) pairs[i] = half2_bits(__hmul2(bits_half2(pairs[i]), scale[m][h]));
                        fragments[batch % sets][w][m][i >> 1][(i & 1) * 2 + h] = pairs[i];
                    }
                }
    }
    template <int batch> __device__ __forceinline__ void multiply(uint32_t inputs)
    {
        uint32_t b = wgmma_descriptor(inputs);
        wgmma_fence();
#pragma unroll
        for (int w = 0; w < WORDS; w++) {
            int j = batch * WORDS + w;
#pragma unroll
            for (int s = 0; s < 2; s++)
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    uint32_t at = b + (uint32_t)((j >> 1) * (N * 128 >> 4) + (j & 1) * 4 + s * 2);
                    if constexpr (SCALING == WEIGHTS) wgmma_f16(sums[m], fragments[batch % sets][w][m][s], at);
                    else if (j == 0 && s == 0) wgmma_f16<false>(unit[m], fragments[batch % sets][w][m][s], at);
                    else wgmma_f16(unit[m], fragments[batch % sets][w][m][s], at);
                }
        }
        wgmma_commit();
    }
    /* A further batch, if there is one: the fragments of two batches ago are free then. */
    template <int batch> __device__ __forceinline__ void next(uint32_t inputs)
    {
        if constexpr (batch < batches) {
            wgmma_wait<1>();
            decode<batch>();
            multiply<batch>(inputs);
        }
    }
};

/* This block's part of a tile that several have summed: all have arrived. The order of the additions is that of the blocks. */
template <int N, int MT, int WGS>
static __device__ __forceinline__ void join_tile(const struct wide_args *a, int tile, int first, int count, int mine, int group, int thread)
{
    using shape = wide_shape<N, MT, WGS>;
    int row0 = tile / a->deal.col_tiles * shape::rows, col0 = tile % a->deal.col_tiles * N;
    int from = mine * shape::chunks / count, to = (mine + 1) * shape::chunks / count, lane = thread & 31;
    const float *partial = a->partial + (int64_t)(first + tile - a->deal.whole) * shape::tile_floats;
    join_chunks<N <= 64 ? 2 : 4, 4>(partial, shape::tile_floats, count, from + group, to, WGS, thread, [&](int c, const float (&d)[4]) {
        store_sums<false>(&a->to, d, row0 + c / (N / 8) * 64 + (thread >> 5) * 16 + (lane >> 2), col0 + c % (N / 8) * 8 + (lane & 3) * 2);
    });
}

template <int N, int MT, int WGS, int SCALING, int WORDS>
static __device__ __forceinline__ void consume(const struct wide_args *a, uint32_t ring, uint32_t full, uint32_t empty, int warps_before)
{
    using shape = wide_shape<N, MT, WGS>;
    using unit_work = struct unit_work<N, MT, SCALING, WORDS>;
    int thread = (int)threadIdx.x & 127, lane = thread & 31, group = warps_before >> 2, warp = warps_before & 3;
    struct walk walk = walk_begin(&a->deal, (int)blockIdx.x);
    struct segment s;
    struct stage_turn turn = {0, 0};
    int split[2] = {-1, -1}; /* tiles of which this block had a part: two at most */
    unit_work work;
    asm volatile("" : "+r"(lane)); /* or it is computed again for every unit */
    uint32_t mine = shape::input_bytes + (group * MT * 8 + warp * 2) * W4_GRANULE; /* this warp's weights in a stage */
    predecessor_wait();
    while (walk_next(&a->deal, &walk, &s, (int)gridDim.x)) {
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int i = 0; i < N / 2; i++) work.sums[m][i] = 0;
        uint32_t release = 0;
        mbarrier_wait(full + 8 * turn.stage, turn.parity);
        work.load(ring + turn.stage * shape::stage_bytes + mine, lane);
        work.template decode<0>();
#pragma unroll 1
        for (int u = s.from; u < s.to; u++) {
            uint32_t inputs = ring + turn.stage * shape::stage_bytes, done = empty + 8 * turn.stage;
            float scale[MT][2];
            turn_on<shape::stages>(&turn);
            work.template multiply<0>(inputs);
            if (SCALING == WEIGHTS && unit_work::batches > 1) {
                wgmma_wait<1>();
                if (release && lane == 0) mbarrier_arrive(release); /* the last unit's stage */
                release = done;
            }
            work.template next<1>(inputs);
            work.template next<2>(inputs);
            work.template next<3>(inputs);
            if constexpr (SCALING == SUMS)
#pragma unroll
                for (int m = 0; m < MT; m++)
#pragma unroll
                    for (int h = 0; h < 2; h++) scale[m][h] = __low2float(work.scale[m][h]);
            if (u + 1 < s.to) mbarrier_wait(full + 8 * turn.stage, turn.parity);
            work.load(ring + turn.stage * shape::stage_bytes + mine, lane); /* after the last unit: for nothing, but without a branch */
            if (unit_work::batches > 1) wgmma_wait<1>();
            else wgmma_wait<0>();
            if (unit_work::batches == 1 && lane == 0) mbarrier_arrive(done);
            work.template decode<0>();
            if constexpr (SCALING == SUMS) {
                wgmma_wait<0>();
                if (unit_work::batches > 1 && lane == 0) mbarrier_arrive(done);
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    wgmma_hold(work.unit[m]);
#pragma unroll
                    for (int i = 0; i < N / 2; i++) work.sums[m][i] = fmaf(work.unit[m][i], scale[m][i >> 1 & 1], work.sums[m][i]);
                }
            }
        }
        if (SCALING == WEIGHTS) {
            wgmma_wait<0>();
#pragma unroll
            for (int m = 0; m < MT; m++) wgmma_hold(work.sums[m]);
            __syncwarp();
            if (unit_work::batches > 1 && lane == 0) mbarrier_arrive(release);
        }
        if (s.to - s.from < a->deal.units) {
            float *to = a->partial + (int64_t)((int)blockIdx.x + s.tile - a->deal.whole) * shape::tile_floats;
#pragma unroll
            for (int m = 0; m < MT; m++) leave_chunks(work.sums[m], to, (group * MT + m) * (N / 8), thread);
            barrier_sync(1, WGS * 128);
            if (threadIdx.x == 0) count_release(a->arrived + s.tile - a->deal.whole);
            if (split[0] < 0) split[0] = s.tile - a->deal.whole;
            else split[1] = s.tile - a->deal.whole;
        } else {
            int row0 = s.tile / a->deal.col_tiles * shape::rows, col0 = s.tile % a->deal.col_tiles * N;
#pragma unroll
            for (int m = 0; m < MT; m++)
                store_sums<false>(&a->to, work.sums[m], row0 + (group * MT + m) * 64 + warp * 16 + (lane >> 2), col0 + (lane & 3) * 2);
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int tile = split[i];
        if (tile < 0) break;
        int first = worker_of(&a->deal, tile * a->deal.units), count = worker_of(&a->deal, (tile + 1) * a->deal.units - 1) - first + 1;
        unsigned *arrived = a->arrived + tile;
        if (threadIdx.x == 0)
            while (load_acquire(arrived) < (unsigned)count) { }
        barrier_sync(1, WGS * 128);
        join_tile<N, MT, WGS>(a, a->deal.whole + tile, first, count, (int)blockIdx.x - first, group, thread);
        if (threadIdx.x == 0 && atomicAdd(arrived, 1u) == 2 * (unsigned)count - 1) *arrived = 0; /* nobody waits for it any more */
    }
}

template <int N, int MT, int WGS, int SCALING, int WORDS>
__global__ void __launch_bounds__(wide_shape<N, MT, WGS>::threads, 1) wide_multiply(const __grid_constant__ struct wide_args a)
{
#if WGMMA_HERE
    using shape = wide_shape<N, MT, WGS>;
    SHARED_SWIZZLED(shared);
    uint32_t ring = shared_address(shared);
    asm volatile("" : "+r"(ring)); /* or it is computed again for every unit */
    uint32_t full = ring + shape::stages * shape::stage_bytes, empty = full + 8 * shape::stages;
    successor_go();
    if (threadIdx.x == 0) {
        tensor_prefetch(&a.weights);
        tensor_prefetch(&a.inputs);
        for (int i = 0; i < shape::stages; i++) {
            mbarrier_init(full + 8 * i, 1);
            mbarrier_init(empty + 8 * i, WGS * 4);
        }
        fence_barriers();
        fence_bulk();
    }
    __syncthreads();
    int warp = __shfl_sync(~0u, (int)threadIdx.x >> 5, 0); /* so that the compiler sees one number for the warp, and one way through all loops */
    if (warp >= WGS * 4) {
        registers_give<shape::few>();
        if (threadIdx.x == WGS * 128) produce<N, MT, WGS>(&a, ring, full, empty);
    } else {
        registers_take<shape::many>();
        consume<N, MT, WGS, SCALING, WORDS>(&a, ring, full, empty, warp);
    }
#endif
}

/* ---- which instance, how the work is dealt ---- */

struct wide_kernel {
    void (*function)(struct wide_args);
    int cols, rows, threads, shared;
    int unit_ns; /* what a unit of a tile takes where memory is no limit, measured */
    const char *name;
};
#define WIDE(N, MT, WGS, SCALING, WORDS, unit_ns)                                                                                  \
    {wide_multiply<N, MT, WGS, SCALING, WORDS>, N, WGS *MT * 64, wide_shape<N, MT, WGS>::threads, wide_shape<N, MT, WGS>::shared,  \
     unit_ns, #N " columns, " #WGS " x " #MT " x 64 rows"}
static const struct wide_kernel KERNELS[] = {
    /* columns, 64-row pieces of a group of warps, groups, what is scaled, words at once, ns */
    WIDE(16, 1, 4, SUMS, 2, 590),    WIDE(16, 2, 3, SUMS, 1, 800),    WIDE(32, 1, 4, SUMS, 1, 670),     WIDE(32, 2, 3, SUMS, 1, 870),
    WIDE(48, 1, 4, SUMS, 1, 750),    WIDE(64, 1, 4, SUMS, 1, 840),    WIDE(96, 1, 4, WEIGHTS, 1, 1075), WIDE(128, 1, 3, WEIGHTS, 1, 1090),
};
enum { KERNEL_COUNT = sizeof KERNELS / sizeof KERNELS[0], LEAST_UNITS = 4 /* of a streaming block, unless there are fewer */ };

static int64_t ceil_of(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

bool wide_device(void)
{
    static std::atomic<signed char> known[16]; /* of a device: 0 not asked yet */
    int device;
    if (cudaGetDevice(&device) != cudaSuccess || device < 0 || device >= 16) return false;
    if (!known[device]) known[device] = tensor_maps() && runs_here((const void *)KERNELS[0].function) ? 1 : -1;
    return known[device] > 0;
}

int wide_kernels(void)
{
    return KERNEL_COUNT;
}

int wide_kernel_cols(int kernel)
{
    return KERNELS[kernel].cols;
}

const char *wide_kernel_name(int kernel)
{
    return KERNELS[kernel].name;
}

/* What joining takes where a block has parts of one tile or of two, measured, and bytes a nanosecond of all memory. */
enum { JOIN_ONE_NS = 6300, JOIN_TWO_NS = 11000, MEMORY = 3500 };

/* Nanoseconds that a unit takes where so many blocks are at one each. */
static double unit_ns(const struct wide_kernel *k, int blocks, int col_tiles)
{
    double memory = (double)(k->rows / W4_PANEL_ROWS * W4_GRANULE) * blocks / col_tiles / MEMORY;
    return memory > k->unit_ns ? memory : k->unit_ns;
}

/* The units of tiles beyond whole turns are dealt to all blocks, or to as many as give each tile the same number. *ns: what all will take. */
static struct deal deal_of(const struct wide_call *c, const struct wide_kernel *kernel, int cols, double *ns)
{
    int units = c->w->k / UNIT, col_tiles = (int)ceil_of(cols, kernel->cols), blocks = c->multiprocessors;
    int tiles = (int)ceil_of(c->w->rows, kernel->rows) * col_tiles, whole = tiles / blocks * blocks, streamed = tiles - whole;
    int64_t streamers = (int64_t)streamed * units / LEAST_UNITS, room = c->partial_bytes / ((int64_t)kernel->rows * kernel->cols * 4) - streamed;
    if (streamers > room) streamers = room;
    if (streamers > blocks) streamers = blocks;
    if (streamers < 1) streamers = 1;
    int each = streamed && streamers >= streamed ? (int)streamers / streamed : 0;
    double all = streamed ? (double)ceil_of((int64_t)streamed * units, streamers) * unit_ns(kernel, (int)streamers, col_tiles) + JOIN_TWO_NS : 0;
    double even = each ? (double)ceil_of(units, each) * unit_ns(kernel, each * streamed, col_tiles) + (each > 1 ? JOIN_ONE_NS : 0) : all;
    bool evenly = each && (c->dealing ? c->dealing == 2 : even <= all);
    *ns = (double)(whole / blocks) * units * unit_ns(kernel, blocks, col_tiles) + (evenly ? even : all);
    return {units, col_tiles, whole, streamed, evenly ? each * streamed : (int)streamers};
}

static const struct wide_kernel *kernel_for(const struct wide_call *c)
{
    const struct wide_kernel *best = NULL;
    double least = 0, ns;
    for (const struct wide_kernel *k = KERNELS; k < KERNELS + KERNEL_COUNT; k++) {
        (void)deal_of(c, k, c->cols, &ns);
        if (!best || ns < least) best = k, least = ns;
    }
    return best;
}

static enum err_code launch(const struct wide_call *c, const struct wide_kernel *kernel, int cols, const uint16_t *x, void *y,
                            cudaStream_t stream, struct err *e)
{
    double ns;
    struct wide_args a;
    memset(&a, 0, sizeof a);
    if (!tensor_map(&a.weights, c->w->data, (int)ceil_of(c->w->rows, W4_PANEL_ROWS), c->w->k / UNIT * GRANULE_WORDS, 4, GRANULE_WORDS, kernel->rows / W4_PANEL_ROWS) ||
        !tensor_map(&a.inputs, x, cols, c->w->k, 2, 64, kernel->cols))
        return err_set(e, ERR_INTERNAL, "the driver makes no map of a tensor of %d × %d by %d columns", c->w->rows, c->w->k, cols);
    a.to = {y, c->ldy, c->w->rows, cols, (int)c->into};
    a.deal = deal_of(c, kernel, cols, &ns);
    a.partial = c->partial, a.arrived = c->arrived;
    int blocks = a.deal.whole ? c->multiprocessors : a.deal.streamers;
    return cuda_check(LAUNCH_EARLY(kernel->function, blocks, kernel->threads, (size_t)kernel->shared, stream, a), "wide_multiply", e);
}

enum err_code wide_run(const struct wide_call *c, cudaStream_t stream, struct err *e)
{
    const struct wide_kernel *kernel = c->kernel >= 0 ? &KERNELS[c->kernel] : kernel_for(c);
    uint64_t bit = (uint64_t)1 << (kernel - KERNELS);
    enum err_code code = ERR_OK;
    if (!(*c->ready & bit))
        code = cuda_check(cudaFuncSetAttribute((const void *)kernel->function, cudaFuncAttributeMaxDynamicSharedMemorySize, kernel->shared), "cudaFuncSetAttribute", e);
    if (!code) *c->ready |= bit;
    int64_t most = 32768;
    if (most > INT32_MAX / c->ldy) most = INT32_MAX / c->ldy / kernel->cols * kernel->cols; /* the kernel counts elements of y in 32 bits */
    for (int done = 0; done < c->cols && !code; done += (int)most) {
        void *to = (uint8_t *)c->y + (int64_t)done * c->ldy * (c->into == INTO_F16 || c->into == INTO_BF16 ? 2 : 4);
        code = launch(c, kernel, c->cols - done < most ? c->cols - done : (int)most, c->x + (int64_t)done * c->w->k, to, stream, e);
    }
    return code;
}
