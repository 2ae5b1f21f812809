/* The decode kernel's products: what a warp does with its piece of a stage, and what becomes of a finished tile. */
#ifndef RUNG_ENGINE_CUDA_DECODE_PRODUCTS_CUH
#define RUNG_ENGINE_CUDA_DECODE_PRODUCTS_CUH

#include "engine/cuda/activation.cuh"
#include "engine/cuda/decode_private.cuh"

/* Fragments: lane = 4 g + t. Rows g and g + 8 of the tile; of the inputs column g. In each piece of k's a lane owns
 * neighbouring k's for all three, so that every load is 16 bytes; the sum does not mind which k is which. */

/* Inputs lie as (cols, stride) 16-bit elements; the stride keeps the 8 lanes of a quarter warp on different banks. */
static __host__ __device__ __forceinline__ int inputs_stride(enum matrix_kind kind, int slice_k)
{
    int bytes = (slice_k * 2 + 127) / 128 * 128;
    return (bytes + (kind == MATRIX_FP8 ? 16 : 64)) / 2;
}

/* (x & mask) | bits, in one instruction. */
static __device__ __forceinline__ uint32_t and_or(uint32_t x, uint32_t mask, uint32_t bits)
{
    uint32_t y;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;\n" : "=r"(y) : "r"(x), "r"(mask), "r"(bits));
    return y;
}

/* Eight 4-bit weights: two steps' pairs. 0x6400 | n is 1024 + n in F16; in the upper places 1024 + 16 n. */
static __device__ __forceinline__ void w4_pairs(uint32_t w, uint32_t *lo, uint32_t *hi)
{
    uint32_t l = and_or(w, 0x000f000fu, 0x64006400u), h = and_or(w, 0x00f000f0u, 0x64006400u);
    *lo = half2_bits(__hsub2(bits_half2(l), bits_half2(0x64086408u)));
    *hi = half2_bits(__hfma2(bits_half2(h), bits_half2(0x2c002c00u), bits_half2(0xd480d480u))); /* × 1/16 - 72 */
}

template <int KIND>
static __device__ __forceinline__ void consume(float sum[4], const uint8_t *stage, int panel_bytes, int unit, int lane,
                                               const uint16_t *inputs /* at this unit's first k */, int stride, bool column)
{
    int g = lane >> 2, t = lane & 3;
    if constexpr (KIND == MATRIX_W4) {
        const uint8_t *pa = stage + unit * W4_GRANULE, *pb = pa + panel_bytes;
        uint4 wa = *(const uint4 *)(pa + lane * 16), wb = *(const uint4 *)(pb + lane * 16);
        float sa = __half2float(((const __half *)(pa + 512))[g]), sb = __half2float(((const __half *)(pb + 512))[g]);
        uint32_t a[4] = {wa.x, wa.y, wa.z, wa.w}, b[4] = {wb.x, wb.y, wb.z, wb.w};
        float even[4] = {0, 0, 0, 0}, odd[4] = {0, 0, 0, 0};
        const uint16_t *x = inputs + g * stride + t * 8;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint4 in = column ? *(const uint4 *)(x + j * 32) : make_uint4(0, 0, 0, 0);
            uint32_t a0, a1, a2, a3;
            w4_pairs(a[j], &a0, &a2);
            w4_pairs(b[j], &a1, &a3);
            mma_f16(even, a0, a1, a2, a3, in.x, in.y);
            w4_pairs(a[j] >> 8, &a0, &a2);
            w4_pairs(b[j] >> 8, &a1, &a3);
            mma_f16(odd, a0, a1, a2, a3, in.z, in.w);
        }
        sum[0] += sa * (even[0] + odd[0]);
        sum[1] += sa * (even[1] + odd[1]);
        sum[2] += sb * (even[2] + odd[2]);
        sum[3] += sb * (even[3] + odd[3]);
    } else if constexpr (KIND == MATRIX_FP8) {
        const uint8_t *pa = stage + g * ROW_STRIDE + unit * 64 + t * 16;
        uint4 wa = *(const uint4 *)pa, wb = *(const uint4 *)(pa + 8 * ROW_STRIDE);
        uint32_t a[4] = {wa.x, wa.y, wa.z, wa.w}, b[4] = {wb.x, wb.y, wb.z, wb.w};
        const uint16_t *x = inputs + g * stride + t * 16;
        uint4 in0 = column ? *(const uint4 *)x : make_uint4(0, 0, 0, 0), in1 = column ? *(const uint4 *)(x + 8) : make_uint4(0, 0, 0, 0);
        uint32_t in[8] = {in0.x, in0.y, in0.z, in0.w, in1.x, in1.y, in1.z, in1.w};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t a0 = e4m3x2_half2((uint16_t)a[j]), a2 = e4m3x2_half2((uint16_t)(a[j] >> 16));
            uint32_t a1 = e4m3x2_half2((uint16_t)b[j]), a3 = e4m3x2_half2((uint16_t)(b[j] >> 16));
            mma_f16(sum, a0, a1, a2, a3, in[2 * j], in[2 * j + 1]);
        }
    } else {
        const uint8_t *pa = stage + g * ROW_STRIDE + unit * 64 + t * 16;
        uint4 wa = *(const uint4 *)pa, wb = *(const uint4 *)(pa + 8 * ROW_STRIDE);
        uint4 in = column ? *(const uint4 *)(inputs + g * stride + t * 8) : make_uint4(0, 0, 0, 0);
        if constexpr (KIND == MATRIX_BF16) {
            mma_bf16(sum, wa.x, wb.x, wa.y, wb.y, in.x, in.y);
            mma_bf16(sum, wa.z, wb.z, wa.w, wb.w, in.z, in.w);
        } else {
            mma_f16(sum, wa.x, wb.x, wa.y, wb.y, in.x, in.y);
            mma_f16(sum, wa.z, wb.z, wa.w, wb.w, in.z, in.w);
        }
    }
}

/* k's of one unit of a stage. */
template <int KIND> static __device__ __forceinline__ int unit_k()
{
    return KIND == MATRIX_W4 ? W4_GROUP : KIND == MATRIX_FP8 ? 64 : 32;
}

/* What becomes of a sum, once it is whole. `at` is where the tile's rows begin. */
static __device__ __forceinline__ void add_to_x(const struct kernel_args *a, int at, int row, int col, float before, float v)
{
    float square = 0;
    bool live = col < a->step.cols;
    if (live) {
        float *x = a->step.x + (int64_t)col * a->embedding + at + row;
        float y = before + v * a->residual_scale;
        __stcg(x, y);
        square = y * y;
    }
    square += __shfl_xor_sync(~0u, square, 8);
    square += __shfl_xor_sync(~0u, square, 16);
    if ((threadIdx.x & 31) < 8 && live) __stcg(a->squares + (int64_t)col * (a->embedding / 4) + (at + row) / 4, square);
}

static __device__ __forceinline__ void show_logit(const struct kernel_args *a, int at, int col, float v)
{
    if (col >= a->step.wanted || at >= a->vocabulary) return;
    if (a->output_bias) v += a->output_bias[at];
    v *= a->logit_scale;
    if (a->logit_softcap > 0) v = a->logit_softcap * tanhf(v / a->logit_softcap);
    a->step.logits[col * a->step.logits_stride + at] = v;
}

/* What x held before, to be asked for early. */
static __device__ __forceinline__ float x_before(const struct kernel_args *a, int op, int at, int i)
{
    return (op == OP_O || op == OP_DOWN) && (i & 7) < a->step.cols ? __ldcg(a->step.x + (int64_t)(i & 7) * a->embedding + at + (i >> 3)) : 0.f;
}

/* Thread i of 128 has row i / 8 and column i % 8 of a tile; of gate and up, threads 0..63 have both. */
static __device__ __forceinline__ void give_tile(const struct kernel_args *a, int op, int at, int i, float before, float v, float up, bool bf16)
{
    int row = i >> 3, col = i & 7;
    if (op == OP_QKV) {
        if (col < a->step.cols) __stcg(a->qkv + (int64_t)col * (a->q_dim + 2 * a->kv_dim) + at + row, v);
    } else if (op == OP_FFN) {
        if (i < 64 && col < a->step.cols) a->middle[(int64_t)col * a->feed_forward + at + row] = to_form(activation(v, a->gelu) * up, bf16);
    } else if (op == OP_OUTPUT) show_logit(a, at + row, col, v);
    else add_to_x(a, at, row, col, before, v);
}

/* The finishers' part of one operation: the warps' sums of each tile, in order, and what becomes of them. */
template <int KIND>
static __device__ void finish(const struct kernel_args *a, const struct shared *s, struct turn *turn, int *rotation, const struct kernel_op *o, int op,
                              unsigned passed, bool *busy)
{
    int i = (int)threadIdx.x & 127, row = i >> 3;
    struct op_shape shape = op_shape(a, op);
    struct walk walk = walk_op(&shape, rotation);
#pragma unroll 1
    for (int t = walk.first; t < shape.tiles; t += walk.count) {
        struct tile x = tile_at<KIND>(o, &shape, op, t);
        float scale = !x.scale_a ? 1.f : row < 8 ? __ldg(x.scale_a + row) : __ldg(x.scale_b + row - 8), scale_up = x.scale_a && row < 8 ? __ldg(x.scale_b + row) : 1.f;
        bool early = *busy || t != walk.first; /* the last operation's sums were here, so x is what it left */
        float before = early && shape.slices == 1 ? x_before(a, op, x.row, i) : 0.f;
        mbarrier_wait(shared_address(&s->sums_full[turn->at]), turn->parity);
        if (!early && shape.slices == 1) before = x_before(a, op, x.row, i);
        const float *sums = s->sums + turn->at * RED_FLOATS + i;
        float v = 0, up = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++) v += sums[w * (TILE_ROWS * 8)];
        if (op == OP_FFN && i < 64)
#pragma unroll
            for (int w = 0; w < WARPS; w++) up += sums[w * (TILE_ROWS * 8) + 64];
        __syncwarp();
        if ((i & 31) == 0) mbarrier_arrive(shared_address(&s->sums_empty[turn->at]));
        turn_next(turn);
        v *= scale;
        if (shape.slices > 1) __stcg(a->partial + ((int64_t)t * shape.slices + walk.slice) * 128 + i, v);
        else give_tile(a, op, x.row, i, before, v, up * scale_up, KIND == MATRIX_BF16);
    }
    *busy = walk.first < shape.tiles;
    barrier_sync(ALL_FINISHERS, FINISHERS);
    if (i != 0 || (op == OP_OUTPUT && shape.slices == 1)) return;
    while (walk.first >= shape.tiles && load_acquire(a->barrier) < passed) { } /* without a tile here: not before its time */
    count_release(a->barrier);
}

/* The slices' sums of every tile, in order; the grid has passed a barrier since they were written. */
static __device__ void finish_slices(const struct kernel_args *a, int op, bool bf16)
{
    struct op_shape shape = op_shape(a, op);
    int tid = (int)threadIdx.x, i = tid & 127;
#pragma unroll 1
    for (int t = (int)blockIdx.x * (CONSUMERS / 128) + (tid >> 7); t < shape.tiles; t += (int)gridDim.x * (CONSUMERS / 128)) {
        int at = op == OP_FFN ? t * 8 : t * TILE_ROWS;
        float v = 0, up = 0, before = x_before(a, op, at, i);
#pragma unroll 4
        for (int n = 0; n < shape.slices; n++) {
            const float *part = a->partial + ((int64_t)t * shape.slices + n) * 128 + i;
            v += __ldcg(part);
            if (op == OP_FFN && i < 64) up += __ldcg(part + 64);
        }
        give_tile(a, op, at, i, before, v, up, bf16);
    }
}

template <int KIND>
static __device__ void multiply(const struct kernel_args *a, const struct shared *s, struct ring *ring, struct turn *turn, int *rotation, int op)
{
    int warp = (int)threadIdx.x >> 5, lane = (int)threadIdx.x & 31;
    struct op_shape shape = op_shape(a, op);
    struct walk walk = walk_op(&shape, rotation);
    int k0 = walk.slice * shape.slice_k, k1 = min(shape.k, k0 + shape.slice_k), stride = inputs_stride((enum matrix_kind)KIND, shape.slice_k);
    int chunk = kind_chunk((enum matrix_kind)KIND);
    bool column = (lane >> 2) < (op == OP_OUTPUT ? a->step.wanted : a->step.cols);
    const uint16_t *inputs = (const uint16_t *)s->inputs;
#pragma unroll 1
    for (int t = walk.first; t < shape.tiles; t += walk.count) {
        float sum[4] = {0, 0, 0, 0}, more[4] = {0, 0, 0, 0};
#pragma unroll 1
        for (int k = k0; k < k1; k += chunk) {
            mbarrier_wait(shared_address(&s->full[ring->stage]), ring->parity);
            const uint8_t *stage = s->ring + ring->stage * STAGE_BYTES;
            int mine = k + warp * unit_k<KIND>(), other = mine + WARPS * unit_k<KIND>();
            int panel_bytes = KIND == MATRIX_W4 ? min(chunk, k1 - k) / W4_GROUP * W4_GRANULE : 0;
            if (other < k1) {
                consume<KIND>(sum, stage, panel_bytes, warp, lane, inputs + mine - k0, stride, column);
                consume<KIND>(more, stage, panel_bytes, warp + WARPS, lane, inputs + other - k0, stride, column);
            } else if (mine < k1) consume<KIND>(sum, stage, panel_bytes, warp, lane, inputs + mine - k0, stride, column);
            __syncwarp();
            if (lane == 0) mbarrier_arrive(shared_address(&s->empty[ring->stage]));
            ring_next(ring);
        }
        float *at = s->sums + turn->at * RED_FLOATS + warp * (TILE_ROWS * 8) + (lane >> 2) * 8 + (lane & 3) * 2;
        mbarrier_wait(shared_address(&s->sums_empty[turn->at]), turn->parity ^ 1);
        *(float2 *)at = make_float2(sum[0] + more[0], sum[1] + more[1]);
        *(float2 *)(at + 64) = make_float2(sum[2] + more[2], sum[3] + more[3]);
        __syncwarp();
        if (lane == 0) mbarrier_arrive(shared_address(&s->sums_full[turn->at]));
        turn_next(turn);
    }
}

/* ---- inputs ---- */

/* Every warp's part of the columns' sums of squares, from those that the last writers of x left. */
static __device__ __forceinline__ void sum_squares(const struct kernel_args *a, const struct shared *s)
{
    int tid = (int)threadIdx.x, n = a->embedding / 4;
#pragma unroll 1
    for (int col = 0; col < a->step.cols; col++) {
        const float4 *from = (const float4 *)(a->squares + (int64_t)col * n);
        float sum = 0;
#pragma unroll 2
        for (int i = tid; i < n / 4; i += CONSUMERS) {
            float4 v = __ldcg(from + i);
            sum += (v.x + v.y) + (v.z + v.w);
        }
        for (int d = 16; d; d >>= 1) sum += __shfl_xor_sync(~0u, sum, d);
        if ((tid & 31) == 0) s->warp[(tid >> 5) * 8 + col] = sum;
    }
}

/* 1 / root mean square; every thread for itself, in the same order. */
static __device__ __forceinline__ float rms_of(const struct kernel_args *a, const struct shared *s, int col)
{
    float all = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) all += s->warp[w * 8 + col];
    return rsqrtf(all / (float)a->embedding + a->norm_eps);
}

enum { AHEAD = 4 }; /* loads of 16 bytes that a thread has in flight */

static __device__ __forceinline__ void load_quads(float4 v[AHEAD], const float *from, int base, int quads, bool constant)
{
#pragma unroll
    for (int j = 0; j < AHEAD; j++) {
        const float4 *at = (const float4 *)from + base + j * CONSUMERS;
        if (base + j * CONSUMERS < quads) v[j] = constant ? __ldg(at) : __ldcg(at);
    }
}

/* x × rms × weight of this block's slice of k, for the columns (or those whose logits are wanted). */
static __device__ __forceinline__ void load_normed(const struct kernel_args *a, const struct shared *s, const float *weight,
                                                   const struct op_shape *shape, int stride, bool bf16, bool wanted)
{
    int k0 = (int)blockIdx.x % shape->slices * shape->slice_k, k1 = min(shape->k, k0 + shape->slice_k), quads = (k1 - k0) / 4;
    int cols = wanted ? a->step.wanted : a->step.cols;
    uint16_t *inputs = (uint16_t *)s->inputs;
    sum_squares(a, s);
    bool first = true;
#pragma unroll 1
    for (int base = (int)threadIdx.x; base < quads || first; base += AHEAD * CONSUMERS) {
        float4 g[AHEAD], v[AHEAD], next[AHEAD];
        load_quads(g, weight + k0, base, quads, true);
        load_quads(v, a->step.x + (int64_t)(wanted ? a->step.want[0] : 0) * a->embedding + k0, base, quads, false);
        if (first) barrier_sync(ALL_CONSUMERS, CONSUMERS); /* the sums are there */
        first = false;
#pragma unroll 1
        for (int i = 0; i < cols; i++) {
            if (i + 1 < cols) load_quads(next, a->step.x + (int64_t)(wanted ? a->step.want[i + 1] : i + 1) * a->embedding + k0, base, quads, false);
            float rms = rms_of(a, s, wanted ? a->step.want[i] : i);
#pragma unroll
            for (int j = 0; j < AHEAD; j++) {
                int q = base + j * CONSUMERS;
                if (q >= quads) continue;
                float4 y = make_float4(v[j].x * rms * g[j].x, v[j].y * rms * g[j].y, v[j].z * rms * g[j].z, v[j].w * rms * g[j].w);
                if (wanted && blockIdx.x < (unsigned)shape->slices) *(float4 *)(a->step.hidden + (int64_t)i * a->embedding + k0 + q * 4) = y;
                *(uint2 *)(inputs + i * stride + q * 4) = make_uint2(to_form(y.x, bf16) | (uint32_t)to_form(y.y, bf16) << 16,
                                                                     to_form(y.z, bf16) | (uint32_t)to_form(y.w, bf16) << 16);
                v[j] = next[j];
            }
        }
    }
    barrier_sync(ALL_CONSUMERS, CONSUMERS);
}

/* A share of the columns' norms, for all blocks to load. */
static __device__ __forceinline__ void spread_normed(const struct kernel_args *a, const struct shared *s, const float *weight, bool bf16, bool wanted)
{
    int cols = wanted ? a->step.wanted : a->step.cols, each = a->embedding / 4, total = cols * each;
    sum_squares(a, s);
    barrier_sync(ALL_CONSUMERS, CONSUMERS);
#pragma unroll 1
    for (int n = (int)(blockIdx.x * CONSUMERS + threadIdx.x); n < total; n += (int)gridDim.x * CONSUMERS) {
        int i = n / each, q = n % each, col = wanted ? a->step.want[i] : i;
        float4 v = __ldcg((const float4 *)(a->step.x + (int64_t)col * a->embedding) + q), g = __ldg((const float4 *)weight + q);
        float rms = rms_of(a, s, col);
        float4 y = make_float4(v.x * rms * g.x, v.y * rms * g.y, v.z * rms * g.z, v.w * rms * g.w);
        if (wanted) *((float4 *)(a->step.hidden + (int64_t)i * a->embedding) + q) = y;
        __stcg((uint2 *)(a->normed + (int64_t)i * a->embedding) + q, make_uint2(to_form(y.x, bf16) | (uint32_t)to_form(y.y, bf16) << 16,
                                                                              to_form(y.z, bf16) | (uint32_t)to_form(y.w, bf16) << 16));
    }
}

/* 16-bit inputs as they are: one copy a column. The grid has passed a barrier since they were written. */
static __device__ __forceinline__ void load_plain(const struct kernel_args *a, const struct shared *s, const uint16_t *from,
                                                  const struct op_shape *shape, int stride, int cols, uint32_t *parity)
{
    int k0 = (int)blockIdx.x % shape->slices * shape->slice_k, k1 = min(shape->k, k0 + shape->slice_k);
    uint32_t bytes = (uint32_t)(k1 - k0) * 2, bar = shared_address(s->loaded);
    if (threadIdx.x == 0) {
        fence_bulk();
        mbarrier_expect(bar, bytes * (uint32_t)cols);
#pragma unroll 1
        for (int col = 0; col < cols; col++)
            bulk_copy_shared(shared_address((uint16_t *)s->inputs + col * stride), from + (int64_t)col * shape->k + k0, bytes, bar);
    }
    mbarrier_wait(bar, *parity);
    *parity ^= 1;
}

#endif
