/* The tile kernel: y = W x for any layout and any number of columns.
 *
 * A block makes WM × 16 MT rows by 8 NT columns of y. Its warps are WK groups of WM: the warps of a group share the inputs and
 * have 16 MT rows each; the groups share the k's. So do the blocks of `splits`. Units of k (layout_shape_of) are dealt out in
 * turn: part p of WK × splits takes units p, p + parts, …; what the parts found is added in their order.
 *
 * Each group has a ring of `stages` in shared memory, filled by asynchronous copies: the weights as they lie in memory, the
 * inputs beside them. Weights become F16 in registers, on their way to the tensor cores; every weight is decoded once in a block. */
#ifndef RUNG_ENGINE_CUDA_MATMUL_TILE_CUH
#define RUNG_ENGINE_CUDA_MATMUL_TILE_CUH

#include "engine/cuda/matmul_decode.cuh"

enum { TILE_SLACK = 16 }; /* bytes past the last row that an unaligned load may touch */

static constexpr __host__ __device__ int tile_weight_bytes(int layout, int rows)
{
    return layout == LAYOUT_W4 ? rows / W4_PANEL_ROWS * W4_GRANULE : rows * layout_shape_of(layout).chunks() * 16;
}
static constexpr __host__ __device__ int tile_column_bytes(int layout)
{
    return layout_shape_of(layout).unit * 2;
}
/* Sums lie as (column, row); the stride keeps a warp's stores on different banks. */
static constexpr __host__ __device__ int tile_sum_stride(int mt, int wm)
{
    return wm * mt * 16 + 4;
}
static constexpr __host__ __device__ int tile_sum_bytes(int nt, int mt, int wm, int wk)
{
    return wk * nt * 8 * tile_sum_stride(mt, wm) * 4;
}

static __device__ __forceinline__ void store_result(const struct tile_args *a, int col, int row, float v)
{
    int64_t at = (int64_t)col * a->ldy + row;
    switch (a->into) {
    case INTO_F32: ((float *)a->y)[at] = v; break;
    case INTO_F32_ADD: ((float *)a->y)[at] += v; break;
    case INTO_F16: ((__half *)a->y)[at] = __float2half_rn(v); break;
    default: ((__nv_bfloat16 *)a->y)[at] = __float2bfloat16_rn(v); break;
    }
}

/* ---- filling a stage ---- */

/* Unit u of `count` rows from `first` on; rows past the last are the last again. */
template <int L, int ROWS>
static __device__ __forceinline__ void load_rows(const struct tile_args *a, uint8_t *to, int first, int u, int lane)
{
    constexpr struct layout_shape s = layout_shape_of(L);
    constexpr int chunks = s.chunks(), all = ROWS * chunks;
    int64_t row_bytes = (int64_t)a->k / s.block * s.bytes;
    int here = min(s.unit, a->k - u * s.unit) / s.block * s.bytes; /* bytes of this unit */
#pragma unroll
    for (int i = 0; i < (all + 31) / 32; i++) {
        int at = i * 32 + lane, r = at / chunks, c = at % chunks;
        if (all % 32 && at >= all) break;
        int64_t start = min(first + r, a->rows - 1) * row_bytes + (int64_t)u * s.unit_bytes();
        int skew = s.skewed() ? (int)(start & 15) : 0;
        if (16 * c >= skew + here) continue;
        int64_t from = start - skew + 16 * c, left = a->bytes - from;
        copy_weights(to + (r * chunks + row_place<L>(c, r)) * 16, a->weights + from, s.skewed() && left < 16 ? (int)left : 16);
    }
}

/* Granule u of the panels from `first` on. */
template <int PANELS>
static __device__ __forceinline__ void load_panels(const struct tile_args *a, uint8_t *to, int first, int u, int lane)
{
    constexpr int chunks = W4_GRANULE / 16, all = PANELS * chunks;
    int last = (a->rows + W4_PANEL_ROWS - 1) / W4_PANEL_ROWS - 1;
    int64_t panel_bytes = (int64_t)(a->k / W4_GROUP) * W4_GRANULE;
#pragma unroll
    for (int i = 0; i < (all + 31) / 32; i++) {
        int at = i * 32 + lane, p = at / chunks, c = at % chunks;
        if (all % 32 && at >= all) break;
        copy_weights(to + at * 16, a->weights + min(first + p, last) * panel_bytes + (int64_t)u * W4_GRANULE + c * 16, 16);
    }
}

/* Unit u of the inputs, by the `threads` of a group. */
template <int L> static __device__ __forceinline__ void load_inputs(const struct tile_args *a, uint8_t *to, int first, int cols, int u, int thread, int threads)
{
    constexpr int unit = layout_shape_of(L).unit, chunks = unit / 8;
    for (int i = thread; i < cols * chunks; i += threads) {
        int col = i / chunks, c = i % chunks, k = u * unit + c * 8;
        if (k < a->k) copy_inputs(to + (col * chunks + x_place<L>(c, col)) * 16, a->x + (int64_t)(first + col) * a->k + k);
    }
}

/* ---- a unit's products ---- */

template <int L> static __device__ __forceinline__ void multiply_tile(float c[4], const uint32_t a[4], const uint32_t b[4], const uint4 x)
{
    if (L == LAYOUT_BF16) {
        mma_bf16(c, a[0], b[0], a[1], b[1], x.x, x.y);
        mma_bf16(c, a[2], b[2], a[3], b[3], x.z, x.w);
    } else {
        mma_f16(c, a[0], b[0], a[1], b[1], x.x, x.y);
        mma_f16(c, a[2], b[2], a[3], b[3], x.z, x.w);
    }
}

/* rows[m][h]: of the lane's rows 16 m + 8 h + g, the unit in shared memory. */
template <int L, int NT, int MT>
static __device__ __forceinline__ void multiply_unit(float sums[MT][NT][4], const uint8_t *const rows[MT][2], const uint8_t *x, int cols, int steps,
                                                     int lane)
{
    constexpr int pairs = layout_shape_of(L).pairs, all = layout_shape_of(L).unit / 32 / pairs, chunks = layout_shape_of(L).unit / 8;
    int g = lane >> 2, t = lane & 3;
    uint32_t state[MT][2][8];
#pragma unroll
    for (int m = 0; m < MT; m++)
        for (int h = 0; h < 2; h++) begin_row<L>(rows[m][h], g, t, state[m][h]);
#pragma unroll
    for (int step = 0; step < all; step++) {
        if (pairs == 1 && L != LAYOUT_W4 && step >= steps) break; /* the last unit of a row may be shorter */
        uint32_t w[MT][2][pairs][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) decode_row<L>(rows[m][h], state[m][h], step, g, t, w[m][h]);
#pragma unroll
        for (int i = 0; i < pairs; i++)
#pragma unroll
            for (int n = 0; n < NT; n++) {
                int col = NT == 1 ? min(g, cols - 1) : 8 * n + g; /* what a column that is not there holds goes nowhere */
                uint4 in = *(const uint4 *)(x + (col * chunks + x_place<L>(x_chunk<L>(step, i, t), col)) * 16);
#pragma unroll
                for (int m = 0; m < MT; m++) multiply_tile<L>(sums[m][n], w[m][0][i], w[m][1][i], in);
            }
    }
}

/* W4 carries its scales outside: a group's sum is multiplied by its row's scale. */
template <int NT, int MT>
static __device__ __forceinline__ void add_scaled(float sums[MT][NT][4], const float part[MT][NT][4], const uint8_t *const rows[MT][2], int g)
{
#pragma unroll
    for (int m = 0; m < MT; m++) {
        float s0 = half_at(rows[m][0] + 512 + 2 * g), s1 = half_at(rows[m][1] + 512 + 2 * g);
#pragma unroll
        for (int n = 0; n < NT; n++) {
            sums[m][n][0] += s0 * part[m][n][0];
            sums[m][n][1] += s0 * part[m][n][1];
            sums[m][n][2] += s1 * part[m][n][2];
            sums[m][n][3] += s1 * part[m][n][3];
        }
    }
}

/* ---- the end of a tile ---- */

/* A warp's sums into its place of the block's: of the first turn they are the sums, those of the others are added. */
template <int NT, int MT>
static __device__ __forceinline__ void end_turn(float sums[MT][NT][4], float *found, int stride, int turn, int lane)
{
    int g = lane >> 2, t = lane & 3;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float *at = found + (8 * n + 2 * t + (i & 1)) * stride + 16 * m + 8 * (i >> 1) + g;
                *at = turn ? *at + sums[m][n][i] : sums[m][n][i];
                sums[m][n][i] = 0;
            }
}

/* What the groups found, added in their order, leaves for y or for `partial`. */
template <int L, int NT, int MT, int WM, int WK>
static __device__ __forceinline__ void leave_sums(const struct tile_args *a, const float *found, int row0, int col0, int split)
{
    constexpr int rows = WM * MT * 16, stride = tile_sum_stride(MT, WM), threads = WM * WK * 32;
    int count_rows = min(rows, a->rows - row0), count_cols = min(NT * 8, a->cols - col0);
    for (int i = (int)threadIdx.x; i < count_cols * rows; i += threads) {
        int col = i / rows, row = i % rows;
        if (row >= count_rows) continue;
        float v = found[col * stride + row];
#pragma unroll
        for (int w = 1; w < WK; w++) v += found[(w * NT * 8 + col) * stride + row];
        if (a->splits > 1) {
            __stcg(a->partial + ((int64_t)split * a->cols + col0 + col) * a->rows + row0 + row, v);
            continue;
        }
        if (L == LAYOUT_FP8) v *= a->scale[row0 + row] * FP8_FACTOR;
        store_result(a, col0 + col, row0 + row, v);
    }
}

/* The last of a tile's blocks to arrive adds what all of them left, in the order of the splits. */
template <int L, int NT, int MT, int WM, int WK>
static __device__ __forceinline__ void add_splits(const struct tile_args *a, int row0, int col0)
{
    constexpr int rows = WM * MT * 16, threads = WM * WK * 32;
    __shared__ unsigned before;
    unsigned *arrived = a->arrived + blockIdx.y * gridDim.x + blockIdx.x;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) before = atomicAdd(arrived, 1u);
    __syncthreads();
    if (before != (unsigned)a->splits - 1) return;
    __threadfence();
    int count_rows = min(rows, a->rows - row0), count_cols = min(NT * 8, a->cols - col0);
    int64_t apart = (int64_t)a->cols * a->rows;
    for (int i = (int)threadIdx.x; i < count_cols * rows; i += threads) {
        int col = i / rows, row = i % rows;
        if (row >= count_rows) continue;
        const float *from = a->partial + (int64_t)(col0 + col) * a->rows + row0 + row;
        float v = __ldcg(from);
        for (int s = 1; s < a->splits; s++) v += __ldcg(from + s * apart);
        if (L == LAYOUT_FP8) v *= a->scale[row0 + row] * FP8_FACTOR;
        store_result(a, col0 + col, row0 + row, v);
    }
    if (threadIdx.x == 0) *arrived = 0;
}

/* ---- the kernel ---- */

/* A group's way through the units: those of its part, then those of the next turn's. */
struct walk {
    int unit, turn;
};
static __device__ __forceinline__ int walk_on(struct walk *w, int first, int units, int parts)
{
    int u = w->unit;
    w->unit += parts;
    if (w->unit >= units) w->unit = first + ++w->turn;
    return u;
}

extern __shared__ uint4 tile_shared[];

template <int L, int NT, int MT, int WM, int WK> __global__ void __launch_bounds__(WM *WK * 32, NT < 8 ? 512 / (WM * WK * 32) : 1)
    tile_multiply(const struct tile_args a)
{
    constexpr struct layout_shape s = layout_shape_of(L);
    constexpr int warp_bytes = tile_weight_bytes(L, MT * 16);
    constexpr int row_stride = L == LAYOUT_W4 ? 0 : s.chunks() * 16, stride = tile_sum_stride(MT, WM);
    int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5, wm = warp % WM, wk = warp / WM, g = lane >> 2;
    int thread = (int)threadIdx.x % (WM * 32);
    int col0 = (int)blockIdx.x * NT * 8, cols = min(NT * 8, a.cols - col0), row0 = (int)blockIdx.y * WM * MT * 16, mine = row0 + wm * MT * 16;
    int units = (a.k + s.unit - 1) / s.unit, parts = WK * a.splits * a.turns, first = (int)blockIdx.z * WK + wk;
    int count = 0; /* units of this group, all turns together */
    for (int turn = 0; turn < a.turns; turn++) count += first + turn < units ? (units - first - turn + parts - 1) / parts : 0;
    int stage_bytes = WM * warp_bytes + (NT == 1 ? cols : NT * 8) * tile_column_bytes(L);
    uint8_t *shared = (uint8_t *)tile_shared, *ring = shared + wk * a.stages * stage_bytes;
    auto sync_group = [&]() {
        if (WM == 1) __syncwarp();
        else if (WK == 1) __syncthreads();
        else barrier_sync(1 + wk, WM * 32);
    };
    auto fill = [&](int stage, int u) {
        uint8_t *to = ring + stage * stage_bytes;
        if (L == LAYOUT_W4) load_panels<MT * 2>(&a, to + wm * warp_bytes, mine / W4_PANEL_ROWS, u, lane);
        else load_rows<L, MT * 16>(&a, to + wm * warp_bytes, mine, u, lane);
        load_inputs<L>(&a, to + WM * warp_bytes, col0, cols, u, thread, WM * 32);
    };

    struct walk ahead = {first, 0}, here = {first, 0};
    for (int i = 0; i < a.stages - 1; i++) {
        if (i < count) fill(i, walk_on(&ahead, first, units, parts));
        copy_commit();
    }
    float sums[MT][NT][4] = {};
    float *found = (float *)(a.turns > 1 ? shared + WK * a.stages * stage_bytes : shared) + wk * NT * 8 * stride + wm * MT * 16;
    int stage = 0, next = a.stages - 1;
    for (int i = 0; i < count; i++) {
        copy_wait(a.stages - 2);
        sync_group();
        if (i + a.stages - 1 < count) fill(next, walk_on(&ahead, first, units, parts));
        copy_commit();
        int turn = here.turn, u = walk_on(&here, first, units, parts);
        const uint8_t *from = ring + stage * stage_bytes, *weights = from + wm * warp_bytes;
        const uint8_t *rows[MT][2];
#pragma unroll
        for (int m = 0; m < MT; m++)
            for (int h = 0; h < 2; h++) {
                int r = 16 * m + 8 * h + g;
                uint32_t start = (uint32_t)min(mine + r, a.rows - 1) * (uint32_t)(a.k / s.block * s.bytes) + (uint32_t)u * s.unit_bytes();
                rows[m][h] = L == LAYOUT_W4 ? weights + (2 * m + h) * W4_GRANULE : weights + r * row_stride + (s.skewed() ? start & 15 : 0);
            }
        int steps = min(s.unit, a.k - u * s.unit) / 32 / s.pairs;
        if (L == LAYOUT_W4) {
            float part_sums[MT][NT][4] = {};
            multiply_unit<L, NT, MT>(part_sums, rows, from + WM * warp_bytes, cols, steps, lane);
            add_scaled<NT, MT>(sums, part_sums, rows, g);
        } else {
            multiply_unit<L, NT, MT>(sums, rows, from + WM * warp_bytes, cols, steps, lane);
        }
        stage = stage + 1 == a.stages ? 0 : stage + 1;
        next = next + 1 == a.stages ? 0 : next + 1;
        if (here.turn != turn && here.turn < a.turns) end_turn<NT, MT>(sums, found, stride, turn, lane);
    }
    __syncthreads();
    end_turn<NT, MT>(sums, found, stride, a.turns - 1, lane);
    __syncthreads();
    leave_sums<L, NT, MT, WM, WK>(&a, found - wk * NT * 8 * stride - wm * MT * 16, row0, col0, (int)blockIdx.z);
    if (a.splits > 1) add_splits<L, NT, MT, WM, WK>(&a, row0, col0);
}

/* A row of a layout's table. */
#define TILE(L, NT, MT, WM, WK)                                                                                                   \
    {                                                                                                                             \
        (const void *)tile_multiply<L, NT, MT, WM, WK>, L, NT * 8, WM *MT * 16, WM *WK * 32, WK, tile_weight_bytes(L, WM *MT * 16) * WK, \
            tile_column_bytes(L) * WK, tile_sum_bytes(NT, MT, WM, WK)                                                             \
    }

#endif
