/* Hopper's kernel for 4-bit weights and more than a few columns: y = W x, by a persistent block on each multiprocessor.
 *
 *   weights   three warps copy a unit (128 k's) of the block's rows after another into a ring in shared memory, as they lie in memory
 *   inputs    the blocks together lay the inputs out as the tensor cores want them, unit by unit, columns padded; while they do, the
 *             ring fills with weights. Once all are done, a thread copies them into the ring, a unit at a time
 *   products  WGS groups of four warps turn the weights into F16 in registers, scale included, and multiply: the weights are wgmma's
 *             register operand, the inputs its shared one
 *   join      tiles whose k's were dealt to several blocks: their sums lie in `partial`; each of the blocks adds a part of the tile
 *
 * Work: tiles of WGS × MT × 64 rows by N columns, dealt to the blocks as matmul_stream.cuh says.
 *
 * Which k is which: a lane (4 g + t) has, in word j of row g, k = 32 j + 8 t + e, e = 0..7. In step s of the two that a word feeds the
 * tensor cores want of it positions 2 t, 2 t + 1, 2 t + 8, 2 t + 9: they get e = 4 s + 0, 1, 2, 3. `prepare` puts the inputs' k's where
 * this sends the weights'.
 *
 * Blocks wait for each other, twice: all of them must be on the device at once, one to a multiprocessor, which a cooperative launch
 * sees to. */
#include "engine/cuda/matmul_decode.cuh"
#include "engine/cuda/matmul_stream.cuh"
#include "engine/cuda/matmul_wgmma.cuh"

enum { UNIT = W4_GROUP, PRODUCERS = 128, WEIGHT_WARPS = 3, AT_ONCE = 4 /* chunks that a thread joins together */ };
enum { SHARED_MOST = 232448, BARRIER_BYTES = 1024 };

struct wide_args {
    const uint8_t *weights;
    const uint4 *x;        /* (cols, k) F16 */
    uint8_t *inputs;       /* (column tiles, units, N × 256 bytes): x as the tensor cores want it */
    struct results to;
    struct deal deal;
    int panels;
    float *partial;               /* a block's sums of a tile: place block + tile - whole */
    unsigned *arrived, *prepared; /* (streamed), (1): zeros, and zeros again afterwards */
};

/* ---- inputs ---- */

/* This block's share of them, 32 k's of a column at a time; four neighbours a unit of a column. */
static __device__ __forceinline__ void prepare(const struct wide_args *a, int n, int threads)
{
    int units = a->deal.units, all = a->deal.col_tiles * n * units * 4;
    for (int i = (((int)threadIdx.x >> 2) * (int)gridDim.x + (int)blockIdx.x) * 4 + ((int)threadIdx.x & 3); i < all; i += threads * (int)gridDim.x) {
        int col = i / (units * 4), q = i - col * units * 4, row = col % n;
        uint4 in[4] = {};
        if (col < a->to.cols)
#pragma unroll
            for (int t = 0; t < 4; t++) in[t] = a->x[((int64_t)col * units * 4 + q) * 4 + t];
        uint4 *to = (uint4 *)a->inputs + ((int64_t)(col / n) * units + q / 4) * n * 16 + (q >> 1 & 1) * n * 8 + row * 8;
        const uint32_t from[4][4] = {{in[0].x, in[0].y, in[0].z, in[0].w}, {in[1].x, in[1].y, in[1].z, in[1].w},
                                     {in[2].x, in[2].y, in[2].z, in[2].w}, {in[3].x, in[3].y, in[3].z, in[3].w}};
#pragma unroll
        for (int c = 0; c < 4; c++) to[((q & 1) * 4 + c) ^ (row & 7)] = make_uint4(from[0][c], from[1][c], from[2][c], from[3][c]);
    }
}

/* ---- the kernel ---- */

template <int N, int MT, int WGS> struct wide_shape {
    static constexpr int rows = WGS * MT * 64, panels = rows / W4_PANEL_ROWS, threads = WGS * 128 + PRODUCERS;
    static constexpr int weight_bytes = panels * W4_GRANULE, input_bytes = N * UNIT * 2;
    static constexpr int weight_room = (weight_bytes + 1023) / 1024 * 1024, stage_bytes = weight_room + input_bytes;
    static constexpr int fit = (SHARED_MOST - BARRIER_BYTES) / stage_bytes, stages = fit > 16 ? 16 : fit;
    static constexpr int shared = stages * stage_bytes + BARRIER_BYTES;
    static constexpr int registers = 65536 / threads / 8 * 8 * (WGS + 1); /* four threads' of each group */
    static constexpr int few = WGS == 2 ? 40 : 32, many = (registers - few) / WGS / 8 * 8 > 232 ? 232 : (registers - few) / WGS / 8 * 8;
    static constexpr int chunks = WGS * MT * N / 8, tile_floats = rows * N; /* a chunk: four floats of each of 128 threads */
};

/* One thread that asks for the inputs, once they are prepared. */
template <int N, int MT, int WGS> static __device__ __forceinline__ void produce_inputs(const struct wide_args *a, uint32_t ring, uint32_t full, uint32_t empty)
{
    using shape = wide_shape<N, MT, WGS>;
    struct walk walk = walk_begin(&a->deal, (int)blockIdx.x);
    struct segment s;
    struct stage_turn turn = {0, 1}; /* the first turn finds its stages empty */
    while (load_acquire(a->prepared) < gridDim.x) { }
    fence_bulk();
    while (walk_next(&a->deal, &walk, &s, (int)gridDim.x)) {
        const uint8_t *from = a->inputs + ((int64_t)(s.tile % a->deal.col_tiles) * a->deal.units + s.from) * shape::input_bytes;
#pragma unroll 1
        for (int u = s.from; u < s.to; u++, from += shape::input_bytes) {
            uint32_t bar = full + 8 * turn.stage;
            mbarrier_wait(empty + 8 * turn.stage, turn.parity);
            mbarrier_expect(bar, shape::input_bytes);
            bulk_copy_shared(ring + turn.stage * shape::stage_bytes + shape::weight_room, from, shape::input_bytes, bar);
            turn_on<shape::stages>(&turn);
        }
    }
}

/* The warps that copy the weights: of a panel 16 bytes each lane, and lanes of the last warp the scales. What lies beyond the last
 * panel is not copied: its sums are never stored. */
template <int N, int MT, int WGS>
static __device__ __forceinline__ void produce_weights(const struct wide_args *a, uint32_t ring, uint32_t full, uint32_t empty, int warp, int lane)
{
    using shape = wide_shape<N, MT, WGS>;
    uint64_t panel_bytes = (uint64_t)a->deal.units * W4_GRANULE;
    struct walk walk = walk_begin(&a->deal, (int)blockIdx.x);
    struct segment s;
    struct stage_turn turn = {0, 1};
    while (walk_next(&a->deal, &walk, &s, (int)gridDim.x)) {
        int panel = s.tile / a->deal.col_tiles * shape::panels, here = min(a->panels - panel, shape::panels);
        const uint8_t *weights = a->weights + (panel + warp) * panel_bytes + (uint64_t)s.from * W4_GRANULE + lane * 16;
        const uint8_t *scales = a->weights + (panel + lane) * panel_bytes + (uint64_t)s.from * W4_GRANULE + 512;
#pragma unroll 1
        for (int u = s.from; u < s.to; u++, weights += W4_GRANULE, scales += W4_GRANULE) {
            uint32_t to = ring + turn.stage * shape::stage_bytes;
            const uint8_t *from = weights;
            mbarrier_wait(empty + 8 * turn.stage, turn.parity);
#pragma unroll
            for (int p = 0; p < shape::panels; p += WEIGHT_WARPS) {
                if (p + warp < here) copy_async(to + (p + warp) * W4_GRANULE + lane * 16, from);
                from += WEIGHT_WARPS * panel_bytes;
                asm volatile("" : "+l"(from)); /* one address, not one for each panel */
            }
            if (warp == WEIGHT_WARPS - 1)
#pragma unroll
                for (int p = 0; p < shape::panels; p += 32)
                    if (p + lane < here) copy_async(to + (p + lane) * W4_GRANULE + 512, scales + p * panel_bytes);
            copy_arrive(full + 8 * turn.stage);
            turn_on<shape::stages>(&turn);
        }
    }
}

/* One unit's products: of each 32 k's the weights become two steps' fragments while the tensor cores have the last ones. */
template <int N, int MT>
static __device__ __forceinline__ void multiply_unit(float (&sums)[MT][N / 2], uint32_t (&fragments)[2][MT][2][4], uint32_t weights, uint32_t inputs, int lane,
                                                     uint32_t release)
{
    uint4 words[MT][2];
    __half2 scale[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            words[m][h] = load_shared_16(weights + (m * 8 + h) * W4_GRANULE + lane * 16);
            scale[m][h] = load_shared_pair(weights + (m * 8 + h) * W4_GRANULE + 512 + (lane >> 2) * 2);
        }
    uint32_t b = wgmma_descriptor(inputs);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        wgmma_wait<1>(); /* the fragments of two batches ago are free; from j = 1 on, so is the last unit's stage */
        if (j == 1 && release && lane == 0) mbarrier_arrive(release);
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                uint32_t all[4] = {words[m][h].x, words[m][h].y, words[m][h].z, words[m][h].w}, pairs[4];
                decode_w4(all[j], pairs);
#pragma unroll
                for (int i = 0; i < 4; i++) fragments[j & 1][m][i >> 1][(i & 1) * 2 + h] = half2_bits(__hmul2(bits_half2(pairs[i]), scale[m][h]));
            }
        wgmma_fence();
#pragma unroll
        for (int s = 0; s < 2; s++)
#pragma unroll
            for (int m = 0; m < MT; m++) wgmma_f16(sums[m], fragments[j & 1][m][s], b + (uint32_t)((j >> 1) * (N * 128 >> 4) + (j & 1) * 4 + s * 2));
        wgmma_commit();
    }
}

/* This block's part of a tile that several have summed: all have arrived. The order of the additions is that of the blocks. */
template <int N, int MT, int WGS>
static __device__ __forceinline__ void join_tile(const struct wide_args *a, int tile, int first, int count, int mine, int group, int thread)
{
    using shape = wide_shape<N, MT, WGS>;
    int row0 = tile / a->deal.col_tiles * shape::rows, col0 = tile % a->deal.col_tiles * N;
    int from = mine * shape::chunks / count, to = (mine + 1) * shape::chunks / count, lane = thread & 31;
    const float *partial = a->partial + (int64_t)(first + tile - a->deal.whole) * shape::tile_floats;
    join_chunks<AT_ONCE>(partial, shape::tile_floats, count, from + group, to, WGS, thread, [&](int c, const float (&d)[4]) {
        store_sums<false>(&a->to, d, row0 + c / (N / 8) * 64 + (thread >> 5) * 16 + (lane >> 2), col0 + c % (N / 8) * 8 + (lane & 3) * 2);
    });
}

template <int N, int MT, int WGS>
static __device__ __forceinline__ void consume(const struct wide_args *a, uint32_t ring, uint32_t full, uint32_t empty, int warps_before)
{
    using shape = wide_shape<N, MT, WGS>;
    int thread = (int)threadIdx.x & 127, lane = thread & 31, group = warps_before >> 2, warp = warps_before & 3;
    struct walk walk = walk_begin(&a->deal, (int)blockIdx.x);
    struct segment s;
    struct stage_turn turn = {0, 0};
    int split[2] = {-1, -1}; /* tiles of which this block had a part: two at most */
    float sums[MT][N / 2];
    uint32_t fragments[2][MT][2][4];
    prepare(a, N, WGS * 128);
    barrier_sync(1, WGS * 128);
    if (threadIdx.x == 0) count_release(a->prepared);
    while (walk_next(&a->deal, &walk, &s, (int)gridDim.x)) {
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int i = 0; i < N / 2; i++) sums[m][i] = 0;
        uint32_t release = 0;
#pragma unroll 1
        for (int u = s.from; u < s.to; u++) {
            mbarrier_wait(full + 8 * turn.stage, turn.parity);
            uint32_t stage = ring + turn.stage * shape::stage_bytes;
            multiply_unit<N, MT>(sums, fragments, stage + (group * MT * 8 + warp * 2) * W4_GRANULE, stage + shape::weight_room, lane, release);
            release = empty + 8 * turn.stage;
            turn_on<shape::stages>(&turn);
        }
        wgmma_wait<0>();
#pragma unroll
        for (int m = 0; m < MT; m++) wgmma_hold(sums[m]);
        __syncwarp();
        if (lane == 0) mbarrier_arrive(release);
        if (s.to - s.from < a->deal.units) {
            float *to = a->partial + (int64_t)((int)blockIdx.x + s.tile - a->deal.whole) * shape::tile_floats;
#pragma unroll
            for (int m = 0; m < MT; m++) leave_chunks(sums[m], to, (group * MT + m) * (N / 8), thread);
            barrier_sync(1, WGS * 128);
            if (threadIdx.x == 0) count_release(a->arrived + s.tile - a->deal.whole);
            if (split[0] < 0) split[0] = s.tile - a->deal.whole;
            else split[1] = s.tile - a->deal.whole;
        } else {
            int row0 = s.tile / a->deal.col_tiles * shape::rows, col0 = s.tile % a->deal.col_tiles * N;
#pragma unroll
            for (int m = 0; m < MT; m++) store_sums<false>(&a->to, sums[m], row0 + (group * MT + m) * 64 + warp * 16 + (lane >> 2), col0 + (lane & 3) * 2);
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
        barrier_sync(1, WGS * 128);
        if (threadIdx.x == 0 && atomicAdd(arrived, 1u) == 2 * (unsigned)count - 1) *arrived = 0; /* nobody waits for it any more */
    }
    if (threadIdx.x == 0 && atomicAdd(a->prepared, 1u) == 2 * gridDim.x - 1) *a->prepared = 0;
}

template <int N, int MT, int WGS>
__global__ void __launch_bounds__(wide_shape<N, MT, WGS>::threads, 1) wide_multiply(const __grid_constant__ struct wide_args a)
{
#if WGMMA_HERE
    using shape = wide_shape<N, MT, WGS>;
    SHARED_SWIZZLED(shared);
    uint32_t ring = shared_address(shared);
    asm volatile("" : "+r"(ring)); /* or it is computed again for every unit */
    uint32_t full = ring + shape::stages * shape::stage_bytes, empty = full + 8 * shape::stages;
    if (threadIdx.x == 0) {
        for (int i = 0; i < shape::stages; i++) {
            mbarrier_init(full + 8 * i, WEIGHT_WARPS * 32 + 1);
            mbarrier_init(empty + 8 * i, WGS * 4);
        }
        fence_bulk();
    }
    __syncthreads();
    int warp = __shfl_sync(~0u, (int)threadIdx.x >> 5, 0); /* so that the compiler sees one number for the warp, and one way through all loops */
    if (warp >= WGS * 4) {
        registers_give<shape::few>();
        int lane = (int)threadIdx.x & 31;
        if (warp < WGS * 4 + WEIGHT_WARPS) produce_weights<N, MT, WGS>(&a, ring, full, empty, warp - WGS * 4, lane);
        else if (lane == 0) produce_inputs<N, MT, WGS>(&a, ring, full, empty);
    } else {
        registers_take<shape::many>();
        consume<N, MT, WGS>(&a, ring, full, empty, warp);
    }
#endif
}

/* ---- which instance, how the work is dealt ---- */

struct wide_kernel {
    void (*function)(struct wide_args);
    int cols, rows, threads, shared;
};
#define WIDE(N, MT, WGS) {wide_multiply<N, MT, WGS>, N, WGS *MT * 64, wide_shape<N, MT, WGS>::threads, wide_shape<N, MT, WGS>::shared}
static const struct wide_kernel KERNELS[] = {
    /* columns, 64-row pieces of a group of warps, groups */
    WIDE(16, 1, 4), WIDE(16, 2, 3), WIDE(32, 1, 4), WIDE(32, 2, 3), WIDE(48, 1, 4), WIDE(64, 1, 4), WIDE(96, 1, 4), WIDE(128, 1, 3),
};
enum { KERNEL_COUNT = sizeof KERNELS / sizeof KERNELS[0], LEAST_UNITS = 4 /* of a streaming block, unless there are fewer */ };

static int64_t ceil_of(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

bool wide_device(void)
{
    return runs_here((const void *)KERNELS[0].function);
}

int wide_kernels(void)
{
    return KERNEL_COUNT + w4_kernels();
}

int wide_kernel_cols(int kernel)
{
    return kernel < KERNEL_COUNT ? KERNELS[kernel].cols : w4_kernel_cols(kernel - KERNEL_COUNT);
}

/* The narrowest that holds the columns; of more columns than any holds, the one that pads them least. Of equal ones the first where
 * tiles are many, else the one whose tiles are larger. */
static const struct wide_kernel *kernel_for(int cols, int rows, int multiprocessors)
{
    const struct wide_kernel *k = KERNELS, *last = KERNELS + KERNEL_COUNT - 1;
    while (k < last && k->cols < cols) k++;
    if (cols > last->cols && ceil_of(cols, k[-1].cols) * k[-1].cols < ceil_of(cols, last->cols) * last->cols) return k - 1;
    bool next = k < last && k[1].cols == k->cols;
    return next && ceil_of(rows, k->rows) * 4 < multiprocessors ? k + 1 : k;
}

static enum err_code launch(const struct wide_call *c, const struct wide_kernel *kernel, int cols, const uint16_t *x, void *y,
                            cudaStream_t stream, struct err *e)
{
    int units = c->w->k / UNIT, col_tiles = (int)ceil_of(cols, kernel->cols);
    int tiles = (int)ceil_of(c->w->rows, kernel->rows) * col_tiles, whole = tiles / c->multiprocessors * c->multiprocessors, streamed = tiles - whole;
    int64_t streamers = (int64_t)streamed * units / LEAST_UNITS, room = c->partial_bytes / ((int64_t)kernel->rows * kernel->cols * 4) - streamed;
    if (streamers > room) streamers = room;
    if (streamers > c->multiprocessors) streamers = c->multiprocessors;
    if (streamers < 1) streamers = 1;
    struct wide_args a = {(const uint8_t *)c->w->data, (const uint4 *)x, (uint8_t *)c->inputs, {y, c->ldy, c->w->rows, cols, (int)c->into},
                          {units, col_tiles, whole, streamed, (int)streamers}, (int)ceil_of(c->w->rows, W4_PANEL_ROWS), c->partial, c->arrived,
                          c->arrived + c->multiprocessors};
    int blocks = whole ? c->multiprocessors : (int)streamers;
    return cuda_check(LAUNCH_TOGETHER(kernel->function, blocks, kernel->threads, (size_t)kernel->shared, stream, a), "wide_multiply", e);
}

enum err_code wide_run(const struct wide_call *c, cudaStream_t stream, struct err *e)
{
    if (c->kernel >= KERNEL_COUNT) return w4_run(c, c->kernel - KERNEL_COUNT, stream, e);
    const struct wide_kernel *kernel = c->kernel >= 0 ? &KERNELS[c->kernel] : kernel_for(c->cols, c->w->rows, c->multiprocessors);
    uint64_t bit = (uint64_t)1 << (kernel - KERNELS);
    int64_t tile = (int64_t)kernel->cols * c->w->k * 2, most = c->inputs_bytes / tile * kernel->cols;
    enum err_code code = most ? ERR_OK : err_set(e, ERR_UNSUPPORTED, "no room for %d columns of %d inputs", kernel->cols, c->w->k);
    if (!code && !(*c->ready & bit))
        code = cuda_check(cudaFuncSetAttribute((const void *)kernel->function, cudaFuncAttributeMaxDynamicSharedMemorySize, kernel->shared), "cudaFuncSetAttribute", e);
    if (!code) *c->ready |= bit;
    if (most > 32768) most = 32768;
    if (most > INT32_MAX / c->ldy) most = INT32_MAX / c->ldy / kernel->cols * kernel->cols; /* the kernel counts elements of y in 32 bits */
    for (int done = 0; done < c->cols && !code; done += (int)most) {
        void *to = (uint8_t *)c->y + (int64_t)done * c->ldy * (c->into == INTO_F16 || c->into == INTO_BF16 ? 2 : 4);
        code = launch(c, kernel, c->cols - done < most ? c->cols - done : (int)most, c->x + (int64_t)done * c->w->k, to, stream, e);
    }
    return code;
}
