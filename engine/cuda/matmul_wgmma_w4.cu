/* Hopper's kernel for 4-bit weights and more than a few columns: y = W x, by a persistent block on each multiprocessor.
 *
 *   producer  one thread asks for the weights of 128 k's (a unit) of the block's rows, as they lie in memory, into a ring in shared memory
 *   inputs    the blocks together lay the inputs out as the tensor cores want them, unit by unit, columns padded; while they do, the
 *             ring fills with weights. Once all are done, the producer asks for them too, a unit at a time
 *   products  WGS groups of four warps turn the weights into F16 in registers and multiply: the weights are wgmma's register operand,
 *             the inputs its shared one. A unit's sums begin anew; its rows' scales are applied as they are added to the tile's
 *   join      tiles whose k's were dealt to several blocks: their sums lie in `partial`; each of the blocks adds a part of the tile
 *
 * Work: tiles of WGS × MT × 64 rows by N columns, dealt to the blocks as matmul_stream.cuh says.
 *
 * Which k is which: a lane (4 g + t) has, in word j of row g, k = 32 j + 8 t + e, e = 0..7. In step s of the two that a word feeds the
 * tensor cores want of it positions 2 t, 2 t + 1, 2 t + 8, 2 t + 9: they get e = 4 s + 0, 1, 2, 3. `prepare` puts the inputs' k's where
 * this sends the weights'.
 *
 * A weight is n - 8. A nibble n becomes F16 by one instruction for two: XOR with the bits of a number whose last place is 1 there. What
 * it is off by, 1032 or 72, is known for every k; every second k is turned around (15 - n) and negative, so that inputs that are alike
 * cancel. `prepare` sums what comes of that for a unit of a column, and an extra step of the tensor cores takes it off, in pieces.
 *
 * Blocks wait for each other, twice: all of them must be on the device at once, one to a multiprocessor, which a cooperative launch
 * sees to. */
#include "engine/cuda/matmul_decode.cuh"
#include "engine/cuda/matmul_stream.cuh"
#include "engine/cuda/matmul_wgmma.cuh"

#include <stdio.h>
#include <string.h>

enum { UNIT = W4_GROUP, AT_ONCE = 4 /* chunks that a thread joins together */ };
enum { SHARED_MOST = 232448, BARRIER_BYTES = 1024 };
/* How weights are decoded: off by a known number; minus 8; minus 8 and × scale. The others leave out what a bench wants to know. */
enum mode { OFF, LESS, SCALED, DIRECT /* LESS, inputs lie turned: nothing to prepare */, NO_PRODUCTS, NO_DECODING, ONLY_COPIES };

struct w4_args {
    CUtensorMap weights, turned; /* (panels, units × 132 words); DIRECT: the inputs */
    const uint4 *x;      /* (cols, k) F16 */
    uint8_t *inputs;     /* (column tiles, units, input_bytes): x as the tensor cores want it */
    struct results to;
    struct deal deal;
    float *partial;               /* a block's sums of a tile: place block + tile - whole */
    unsigned *arrived, *prepared; /* (streamed), (1): zeros, and zeros again afterwards */
};

template <int N, int MT, int WGS, int MODE> struct w4_shape {
    static constexpr int rows = WGS * MT * 64, panels = rows / W4_PANEL_ROWS, threads = WGS * 128 + 128;
    static constexpr bool off = MODE == OFF || MODE >= NO_PRODUCTS;
    static constexpr int extra = N * UNIT * 2; /* where the extra step's inputs stand */
    static constexpr int input_bytes = extra + (off ? N * 32 : 0), weight_bytes = panels * W4_GRANULE;
    static constexpr int stage_bytes = (input_bytes + weight_bytes + 1023) / 1024 * 1024;
    static constexpr int fit = (SHARED_MOST - BARRIER_BYTES) / stage_bytes, stages = fit > 16 ? 16 : fit;
    static constexpr int shared = stages * stage_bytes + BARRIER_BYTES;
    static constexpr int registers = 65536 / threads / 8 * 8 * (WGS + 1); /* four threads' of each group */
    static constexpr int few = WGS == 2 ? 40 : 32, many = (registers - few) / WGS / 8 * 8 > 232 ? 232 : (registers - few) / WGS / 8 * 8;
    static constexpr int chunks = WGS * MT * N / 8, tile_floats = rows * N; /* a chunk: four floats of each of 128 threads */
};

/* ---- inputs ---- */

/* What the weights of eight k's (e) are off by. */
static __device__ __forceinline__ float off_by(int e)
{
    return e & 1 ? (e & 2 ? -71.f : -1031.f) : (e & 2 ? 72.f : 1032.f);
}

/* -sum in pieces that F16 holds: 4 × 2^15 × the first, 64 × the second, the third. */
static __device__ __forceinline__ uint4 pieces_of(float sum)
{
    __half first = __float2half_rn(-sum / 131072.f);
    float rest = fmaf(-131072.f, __half2float(first), -sum);
    __half second = __float2half_rn(rest / 64.f);
    rest = fmaf(-64.f, __half2float(second), rest);
    uint32_t four = half2_bits(__half2half2(first));
    return make_uint4(four, four, half2_bits(__halves2half2(second, __float2half_rn(rest))), 0);
}
/* A lane's weights for them, in all rows. */
static __device__ __forceinline__ void extra_weights(int lane, uint32_t (&fragment)[4])
{
    int t = lane & 3;
    fragment[0] = fragment[1] = t < 2 ? 0x78007800u : t == 2 ? 0x3c005400u : 0;
    fragment[2] = fragment[3] = 0;
}

/* This block's share of them, 32 k's of a column at a time; four neighbours a unit of a column. */
template <int N, int MODE, int threads> static __device__ __forceinline__ void prepare(const struct w4_args *a)
{
    using shape = w4_shape<N, 1, 1, MODE>;
    int units = a->deal.units, all = a->deal.col_tiles * N * units * 4, step = threads * (int)gridDim.x;
    int first = (((int)threadIdx.x >> 2) * (int)gridDim.x + (int)blockIdx.x) * 4 + ((int)threadIdx.x & 3);
    for (int done = 0; done < all; done += step) { /* all lanes stay together */
        int i = first + done, col = i / (units * 4), q = i - col * units * 4, row = col % N;
        uint4 in[4] = {};
        if (i < all && col < a->to.cols)
#pragma unroll
            for (int t = 0; t < 4; t++) in[t] = a->x[((int64_t)col * units * 4 + q) * 4 + t];
        uint8_t *unit = a->inputs + ((int64_t)(col / N) * units + q / 4) * shape::input_bytes;
        uint4 *to = (uint4 *)unit + (q >> 1 & 1) * N * 8 + row * 8;
        const uint32_t from[4][4] = {{in[0].x, in[0].y, in[0].z, in[0].w}, {in[1].x, in[1].y, in[1].z, in[1].w},
                                     {in[2].x, in[2].y, in[2].z, in[2].w}, {in[3].x, in[3].y, in[3].z, in[3].w}};
        if (i < all)
#pragma unroll
            for (int c = 0; c < 4; c++) to[((q & 1) * 4 + c) ^ (row & 7)] = make_uint4(from[0][c], from[1][c], from[2][c], from[3][c]);
        if (!shape::off) continue;
        float sum = 0;
#pragma unroll
        for (int t = 0; t < 4; t++)
#pragma unroll
            for (int c = 0; c < 4; c++) {
                float2 pair = __half22float2(bits_half2(from[t][c]));
                sum += off_by(2 * c) * pair.x + off_by(2 * c + 1) * pair.y;
            }
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        if (i < all && (q & 2) == 0) *(uint4 *)(unit + shape::extra + (row >> 3) * 256 + (q & 1) * 128 + (row & 7) * 16) = q & 1 ? make_uint4(0, 0, 0, 0) : pieces_of(sum);
    }
}

/* ---- the producer ---- */

/* Weights of the first units; once the inputs are prepared, theirs; then both of all others. Of panels beyond the last come zeros. */
template <int N, int MT, int WGS, int MODE> static __device__ __forceinline__ void produce(const struct w4_args *a, uint32_t ring, uint32_t full, uint32_t empty)
{
    using shape = w4_shape<N, MT, WGS, MODE>;
    uint64_t policy = policy_evict_first();
    auto weights = [&](const struct segment &s, int u, int stage) {
        uint32_t to = ring + stage * shape::stage_bytes + shape::input_bytes, bar = full + 8 * stage;
        int panel = s.tile / a->deal.col_tiles * shape::panels;
        mbarrier_expect(bar, shape::input_bytes + shape::weight_bytes);
        if (a->deal.col_tiles == 1) tensor_copy_hinted(to, &a->weights, u * (W4_GRANULE / 4), panel, bar, policy);
        else tensor_copy(to, &a->weights, u * (W4_GRANULE / 4), panel, bar);
    };
    struct segment s;
    int early = 0;
    struct walk walk = walk_begin(&a->deal, (int)blockIdx.x);
    while (early < shape::stages && walk_next(&a->deal, &walk, &s, (int)gridDim.x))
        for (int u = s.from; u < s.to && early < shape::stages; u++) weights(s, u, early++);
    if (MODE != DIRECT) {
        while (load_acquire(a->prepared) < gridDim.x) { }
        fence_bulk();
    }
    struct stage_turn turn = {0, 1}; /* the first turn finds its stages empty */
    walk = walk_begin(&a->deal, (int)blockIdx.x);
    while (walk_next(&a->deal, &walk, &s, (int)gridDim.x)) {
        const uint8_t *from = a->inputs + ((int64_t)(s.tile % a->deal.col_tiles) * a->deal.units + s.from) * shape::input_bytes;
#pragma unroll 1
        for (int u = s.from; u < s.to; u++, from += shape::input_bytes) {
            mbarrier_wait(empty + 8 * turn.stage, turn.parity);
            if (early > 0) early--;
            else weights(s, u, turn.stage);
            if (MODE == DIRECT) {
                for (int h = 0; h < 2; h++)
                    tensor_copy(ring + turn.stage * shape::stage_bytes + h * (N * 128), &a->turned, u * UNIT + h * 64, s.tile % a->deal.col_tiles * N, full + 8 * turn.stage);
            } else bulk_copy_shared(ring + turn.stage * shape::stage_bytes, from, shape::input_bytes, full + 8 * turn.stage);
            turn_on<shape::stages>(&turn);
        }
    }
}

/* ---- products ---- */

/* Eight weights of a word, as MODE says. */
template <int MODE> static __device__ __forceinline__ void decode(uint32_t w, __half2 scale, uint32_t (&out)[4])
{
    if (MODE == LESS || MODE == SCALED || MODE == DIRECT) {
        decode_w4(w, out);
        if (MODE == SCALED)
#pragma unroll
            for (int i = 0; i < 4; i++) out[i] = half2_bits(__hmul2(bits_half2(out[i]), scale));
    } else {
#pragma unroll
        for (int i = 0; i < 4; i += 2, w >>= 8) {
            out[i] = and_xor(w, 0x000f000fu, 0xe40f6400u);
            out[i + 1] = and_xor(w, 0x00f000f0u, 0xd4f05400u);
        }
    }
}

template <int N, int MT, int MODE> struct unit_work {
    uint4 words[MT][2];
    __half2 scale[MT][2];
    uint32_t fragments[2][MT][2][4], extra[4];
    float unit[MODE == SCALED ? 1 : MT][N / 2];

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
    __device__ __forceinline__ void pretend(int lane)
    {
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int i = 0; i < 4 * MT * 2; i++) (&fragments[j][0][0][0])[i] = (uint32_t)(lane + j * 16 + i);
    }
    /* 32 k's of a lane's rows. */
    template <int j> __device__ __forceinline__ void decode_step()
    {
        if constexpr (MODE != NO_DECODING)
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                uint32_t all[4] = {words[m][h].x, words[m][h].y, words[m][h].z, words[m][h].w}, pairs[4];
                decode<MODE>(all[j], scale[m][h], pairs);
#pragma unroll
                for (int i = 0; i < 4; i++) fragments[j & 1][m][i >> 1][(i & 1) * 2 + h] = pairs[i];
            }
    }
    template <int j> __device__ __forceinline__ void multiply(float (&sums)[MT][N / 2], uint32_t inputs)
    {
        uint32_t b = wgmma_descriptor(inputs) + (uint32_t)((j >> 1) * (N * 128 >> 4) + (j & 1) * 4);
        constexpr bool more = j == 0 && MODE != LESS && MODE != SCALED && MODE != DIRECT, early = more && MT == 1;
        wgmma_fence();
        if (early) wgmma_f16<false, true>(unit[0], extra, wgmma_narrow_descriptor(inputs + N * UNIT * 2));
#pragma unroll
        for (int s = 0; s < 2; s++)
#pragma unroll
            for (int m = 0; m < MT; m++) {
                if constexpr (MODE == NO_PRODUCTS) {
#pragma unroll
                    for (int i = 0; i < 4; i++) asm volatile("" ::"r"(fragments[j & 1][m][s][i]));
                } else if constexpr (MODE == SCALED) wgmma_f16(sums[m], fragments[j & 1][m][s], b + s * 2);
                else if (j == 0 && s == 0 && !early) wgmma_f16<false>(unit[m], fragments[j & 1][m][s], b + s * 2);
                else wgmma_f16(unit[m], fragments[j & 1][m][s], b + s * 2);
            }
        if (more && !early) /* not first: or the compiler makes one product of them all, and copies */
#pragma unroll
            for (int m = 0; m < MT; m++) wgmma_f16<true, true>(unit[m], extra, wgmma_narrow_descriptor(inputs + N * UNIT * 2));
        wgmma_commit();
    }
};

/* This block's part of a tile that several have summed: all have arrived. The order of the additions is that of the blocks. */
template <int N, int MT, int WGS, int MODE>
static __device__ __forceinline__ void join_tile(const struct w4_args *a, int tile, int first, int count, int mine, int group, int thread)
{
    using shape = w4_shape<N, MT, WGS, MODE>;
    int row0 = tile / a->deal.col_tiles * shape::rows, col0 = tile % a->deal.col_tiles * N;
    int from = mine * shape::chunks / count, to = (mine + 1) * shape::chunks / count, lane = thread & 31;
    const float *partial = a->partial + (int64_t)(first + tile - a->deal.whole) * shape::tile_floats;
    join_chunks<AT_ONCE>(partial, shape::tile_floats, count, from + group, to, WGS, thread, [&](int c, const float (&d)[4]) {
        store_sums<false>(&a->to, d, row0 + c / (N / 8) * 64 + (thread >> 5) * 16 + (lane >> 2), col0 + c % (N / 8) * 8 + (lane & 3) * 2);
    });
}

template <int N, int MT, int WGS, int MODE>
static __device__ __forceinline__ void consume(const struct w4_args *a, uint32_t ring, uint32_t full, uint32_t empty, int warps_before)
{
    using shape = w4_shape<N, MT, WGS, MODE>;
    int thread = (int)threadIdx.x & 127, lane = thread & 31, group = warps_before >> 2, warp = warps_before & 3;
    struct walk walk = walk_begin(&a->deal, (int)blockIdx.x);
    struct segment s;
    struct stage_turn turn = {0, 0};
    int split[2] = {-1, -1}; /* tiles of which this block had a part: two at most */
    float sums[MT][N / 2];
    struct unit_work<N, MT, MODE> work;
    if (MODE == NO_DECODING) work.pretend(lane);
    if (MODE != DIRECT) {
        prepare<N, MODE, WGS * 128>(a);
        barrier_sync(1, WGS * 128);
        if (threadIdx.x == 0) count_release(a->prepared);
    }
    asm volatile("" : "+r"(lane)); /* or it is computed again for every unit */
    extra_weights(lane, work.extra);
    if (N <= 48)
#pragma unroll
        for (int i = 0; i < 4; i++) asm volatile("" : "+r"(work.extra[i])); /* where there are registers: they stay */
    ring += shape::input_bytes + (group * MT * 8 + warp * 2) * W4_GRANULE; /* this warp's weights */
    while (walk_next(&a->deal, &walk, &s, (int)gridDim.x)) {
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int i = 0; i < N / 2; i++) sums[m][i] = 0;
        uint32_t release = 0;
        mbarrier_wait(full + 8 * turn.stage, turn.parity);
        if (MODE != ONLY_COPIES) {
            work.load(ring + turn.stage * shape::stage_bytes, lane);
            work.template decode_step<0>();
        }
#pragma unroll 1
        for (int u = s.from; u < s.to; u++) {
            uint32_t inputs = ring + turn.stage * shape::stage_bytes - shape::input_bytes - (group * MT * 8 + warp * 2) * W4_GRANULE;
            uint32_t done = empty + 8 * turn.stage;
            float scale[MT][2];
            turn_on<shape::stages>(&turn);
            if (MODE == ONLY_COPIES) {
                if (lane == 0) mbarrier_arrive(done);
                if (u + 1 < s.to) mbarrier_wait(full + 8 * turn.stage, turn.parity);
                continue;
            }
            work.template multiply<0>(sums, inputs);
            wgmma_wait<1>();
            if (MODE == SCALED && release && lane == 0) mbarrier_arrive(release);
            work.template decode_step<1>();
            work.template multiply<1>(sums, inputs);
            wgmma_wait<1>();
            work.template decode_step<2>();
            work.template multiply<2>(sums, inputs);
            wgmma_wait<1>();
            work.template decode_step<3>();
            work.template multiply<3>(sums, inputs);
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int h = 0; h < 2; h++) scale[m][h] = __low2float(work.scale[m][h]);
            if (u + 1 < s.to) mbarrier_wait(full + 8 * turn.stage, turn.parity);
            work.load(ring + turn.stage * shape::stage_bytes, lane); /* after the last unit: for nothing, but without a branch */
            wgmma_wait<1>();
            work.template decode_step<0>();
            if (MODE == SCALED) {
                release = done;
                continue;
            }
            wgmma_wait<0>();
            if (lane == 0) mbarrier_arrive(done);
            if constexpr (MODE != SCALED)
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    wgmma_hold(work.unit[m]);
#pragma unroll
                    for (int i = 0; i < N / 2; i++) sums[m][i] = fmaf(work.unit[m][i], scale[m][i >> 1 & 1], sums[m][i]);
                }
        }
        if (MODE == SCALED) {
            wgmma_wait<0>();
#pragma unroll
            for (int m = 0; m < MT; m++) wgmma_hold(sums[m]);
            __syncwarp();
            if (lane == 0) mbarrier_arrive(release);
        }
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
        join_tile<N, MT, WGS, MODE>(a, a->deal.whole + tile, first, count, (int)blockIdx.x - first, group, thread);
        barrier_sync(1, WGS * 128);
        if (threadIdx.x == 0 && atomicAdd(arrived, 1u) == 2 * (unsigned)count - 1) *arrived = 0; /* nobody waits for it any more */
    }
    if (MODE != DIRECT && threadIdx.x == 0 && atomicAdd(a->prepared, 1u) == 2 * gridDim.x - 1) *a->prepared = 0;
}

template <int N, int MT, int WGS, int MODE>
__global__ void __launch_bounds__(w4_shape<N, MT, WGS, MODE>::threads, 1) w4_multiply(const __grid_constant__ struct w4_args a)
{
#if WGMMA_HERE
    using shape = w4_shape<N, MT, WGS, MODE>;
    SHARED_SWIZZLED(shared);
    uint32_t ring = shared_address(shared);
    asm volatile("" : "+r"(ring)); /* or it is computed again for every unit */
    uint32_t full = ring + shape::stages * shape::stage_bytes, empty = full + 8 * shape::stages;
    if (threadIdx.x == 0) {
        tensor_prefetch(&a.weights);
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
        if (threadIdx.x == WGS * 128) produce<N, MT, WGS, MODE>(&a, ring, full, empty);
    } else {
        registers_take<shape::many>();
        consume<N, MT, WGS, MODE>(&a, ring, full, empty, warp);
    }
#endif
}

/* ---- which instance, how the work is dealt ---- */

struct w4_kernel {
    void (*function)(struct w4_args);
    int cols, rows, threads, shared, input_bytes, mode, groups, pieces;
};
#define W4(N, MT, WGS, MODE)                                                                                                      \
    {w4_multiply<N, MT, WGS, MODE>, N, WGS * MT * 64, w4_shape<N, MT, WGS, MODE>::threads, w4_shape<N, MT, WGS, MODE>::shared,    \
     w4_shape<N, MT, WGS, MODE>::input_bytes, MODE, WGS, MT}
static const struct w4_kernel KERNELS[] = {
    /* columns, 64-row pieces of a group of warps, groups */
    W4(16, 1, 4, OFF), W4(16, 2, 3, OFF), W4(16, 1, 4, LESS), W4(16, 1, 4, SCALED), W4(32, 1, 4, OFF), W4(32, 2, 3, OFF),
    W4(32, 1, 4, LESS), W4(32, 1, 4, SCALED), W4(48, 1, 4, OFF), W4(48, 1, 4, LESS), W4(48, 1, 4, SCALED), W4(64, 1, 4, OFF),
    W4(64, 1, 3, OFF), W4(64, 1, 4, LESS), W4(64, 1, 4, SCALED), W4(96, 1, 3, OFF), W4(96, 1, 3, LESS), W4(96, 1, 4, SCALED),
    W4(128, 1, 2, OFF), W4(128, 1, 3, SCALED),
    W4(16, 1, 4, DIRECT), W4(16, 2, 3, DIRECT), W4(32, 1, 4, DIRECT), W4(48, 1, 4, DIRECT), W4(64, 1, 4, DIRECT), W4(96, 1, 3, DIRECT), W4(128, 1, 2, DIRECT),
#ifdef __CUDACC__
    W4(16, 1, 4, NO_PRODUCTS), W4(16, 1, 4, NO_DECODING), W4(16, 1, 4, ONLY_COPIES),
    W4(64, 1, 4, NO_PRODUCTS), W4(64, 1, 4, NO_DECODING), W4(64, 1, 4, ONLY_COPIES),
#endif
};
enum { KERNEL_COUNT = sizeof KERNELS / sizeof KERNELS[0], LEAST_UNITS = 4 /* of a streaming block, unless there are fewer */ };

static int64_t ceil_of(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

int w4_kernels(void)
{
    return KERNEL_COUNT;
}

int w4_kernel_cols(int kernel)
{
    return KERNELS[kernel].cols;
}

bool w4_kernel_right(int kernel)
{
    return KERNELS[kernel].mode <= DIRECT;
}

void w4_kernel_name(int kernel, char *name, size_t size)
{
    static const char *const modes[] = {"off", "less", "scaled", "direct", "(no products)", "(no decoding)", "(only copies)"};
    const struct w4_kernel *k = &KERNELS[kernel];
    (void)snprintf(name, size, "%d %s %dx%d", k->cols, modes[k->mode], k->groups, k->pieces);
}

static enum err_code launch(const struct wide_call *c, const struct w4_kernel *kernel, int cols, const uint16_t *x, void *y,
                            cudaStream_t stream, struct err *e)
{
    int units = c->w->k / UNIT, col_tiles = (int)ceil_of(cols, kernel->cols);
    int tiles = (int)ceil_of(c->w->rows, kernel->rows) * col_tiles, whole = tiles / c->multiprocessors * c->multiprocessors, streamed = tiles - whole;
    int64_t streamers = (int64_t)streamed * units / LEAST_UNITS, room = c->partial_bytes / ((int64_t)kernel->rows * kernel->cols * 4) - streamed;
    if (streamers > room) streamers = room;
    if (streamers > c->multiprocessors) streamers = c->multiprocessors;
    if (streamers < 1) streamers = 1;
    struct w4_args a;
    memset(&a, 0, sizeof a);
    int panels = (int)ceil_of(c->w->rows, W4_PANEL_ROWS);
    if (!tensor_map(&a.weights, c->w->data, panels, units * (W4_GRANULE / 4), 4, W4_GRANULE / 4, kernel->rows / W4_PANEL_ROWS))
        return err_set(e, ERR_INTERNAL, "the driver makes no map of a tensor of %d × %d", c->w->rows, c->w->k);
    if (kernel->mode == DIRECT && !tensor_map(&a.turned, x, cols, c->w->k, 2, 64, kernel->cols))
        return err_set(e, ERR_INTERNAL, "the driver makes no map of %d columns of %d", cols, c->w->k);
    a.x = (const uint4 *)x, a.inputs = (uint8_t *)c->inputs, a.to = {y, c->ldy, c->w->rows, cols, (int)c->into};
    a.deal = {units, col_tiles, whole, streamed, (int)streamers};
    a.partial = c->partial, a.arrived = c->arrived, a.prepared = c->arrived + c->multiprocessors;
    int blocks = whole ? c->multiprocessors : (int)streamers;
    return cuda_check(LAUNCH_TOGETHER(kernel->function, blocks, kernel->threads, (size_t)kernel->shared, stream, a), "w4_multiply", e);
}

enum err_code w4_run(const struct wide_call *c, int index, cudaStream_t stream, struct err *e)
{
    const struct w4_kernel *kernel = &KERNELS[index];
    uint64_t bit = (uint64_t)1 << (kernel - KERNELS + 8);
    int64_t tile = (int64_t)kernel->input_bytes * (c->w->k / UNIT), most = c->inputs_bytes / tile * kernel->cols;
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
