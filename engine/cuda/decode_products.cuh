/* The decode kernel's products: what a warp does with its piece of a stage, and what becomes of a finished tile. */
#ifndef RUNG_ENGINE_CUDA_DECODE_PRODUCTS_CUH
#define RUNG_ENGINE_CUDA_DECODE_PRODUCTS_CUH

#include "engine/cuda/decode_private.cuh"

/* Fragments: lane = 4 g + t. Rows g and g + 8 of the tile; of the inputs column g. In each piece of k's a lane owns
 * neighbouring k's for all three, so that every load is 16 bytes; the sum does not mind which k is which. */

/* Inputs lie as (cols, stride) 16-bit elements; the stride keeps the 8 lanes of a quarter warp on different banks. */
static __host__ __device__ __forceinline__ int inputs_stride(enum matrix_kind kind, int slice_k)
{
    int bytes = (slice_k * 2 + 127) / 128 * 128;
    return (bytes + (kind == MATRIX_FP8 ? 16 : 64)) / 2;
}

/* Eight 4-bit weights: two steps' pairs. 0x6400 | n is 1024 + n in F16; in the upper places 1024 + 16 n. */
static __device__ __forceinline__ void w4_pairs(uint32_t w, uint32_t *lo, uint32_t *hi)
{
    uint32_t l = (w & 0x000f000fu) | 0x64006400u, h = (w & 0x00f000f0u) | 0x64006400u;
    *lo = half2_bits(__hsub2(bits_half2(l), bits_half2(0x64086408u)));
    *hi = half2_bits(__hfma2(bits_half2(h), bits_half2(0x2c002c00u), bits_half2(0xd480d480u))); /* × 1/16 - 72 */
}

template <int KIND>
static __device__ __forceinline__ void consume(float sum[4], const uint8_t *stage, int panel_bytes, int warp, int lane,
                                               const uint16_t *inputs /* at this warp's first k */, int stride, bool column)
{
    int g = lane >> 2, t = lane & 3;
    if constexpr (KIND == MATRIX_W4) {
        const uint8_t *pa = stage + warp * W4_GRANULE, *pb = pa + panel_bytes;
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
        const uint8_t *pa = stage + g * ROW_STRIDE + warp * 64 + t * 16;
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
        const uint8_t *pa = stage + g * ROW_STRIDE + warp * 64 + t * 16;
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

/* k's of one warp in a stage. */
template <int KIND> static __device__ __forceinline__ int unit_k()
{
    return KIND == MATRIX_W4 ? W4_GROUP : KIND == MATRIX_FP8 ? 64 : 32;
}

static __device__ __forceinline__ float activation(float gate, bool gelu)
{
    if (!gelu) return gate / (1.f + __expf(-gate));
    float inner = 0.7978845608028654f * (gate + 0.044715f * gate * gate * gate);
    return 0.5f * gate * (1.f + tanhf(inner));
}

/* The four warps of a group finish a tile: thread i has row i / 8 and column i % 8. */
static __device__ __forceinline__ void finish_tile(const struct kernel_args *a, const struct shared *s, int op, const struct op_shape *shape,
                                                   int slice, int t, const struct tile *x, const float *sums, int group, int i, bool bf16)
{
    int row = i >> 3, col = i & 7;
    float v = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) v += sums[w * (TILE_ROWS * 8) + i];
    if (shape->slices > 1) {
        float *part = a->partial + (int64_t)t * shape->slices * 128;
        __stcg(part + slice * 128 + i, v);
        __threadfence();
        barrier_sync(SOME_CONSUMERS + group, 128);
        if (i == 0) s->flag[group] = (int)atomicAdd(a->arrived + t, 1u);
        barrier_sync(SOME_CONSUMERS + group, 128);
        if (s->flag[group] != shape->slices - 1) return;
        __threadfence();
        v = 0;
        for (int n = 0; n < shape->slices; n++) v += __ldcg(part + n * 128 + i);
        if (i == 0) a->arrived[t] = 0;
    }
    if (x->scale_a) v *= row < 8 ? x->scale_a[row] : x->scale_b[row - 8];
    bool live = col < (op == OP_OUTPUT ? a->step.wanted : a->step.cols);
    if (op == OP_QKV) {
        if (live) __stcg(a->qkv + (int64_t)col * (a->q_dim + 2 * a->kv_dim) + x->row + row, v);
    } else if (op == OP_FFN) {
        float *pass = s->pass + group * 128;
        pass[i] = v;
        barrier_sync(SOME_CONSUMERS + group, 128);
        if (row < 8 && live) {
            float mid = activation(v, a->gelu) * pass[i + 64];
            a->middle[(int64_t)col * a->feed_forward + x->row + row] = to_form(mid, bf16);
        }
        barrier_sync(SOME_CONSUMERS + group, 128); /* `pass` is free again */
    } else if (op == OP_OUTPUT) {
        int at = x->row + row;
        if (live && at < a->vocabulary) {
            if (a->output_bias) v += a->output_bias[at];
            v *= a->logit_scale;
            if (a->logit_softcap > 0) v = a->logit_softcap * tanhf(v / a->logit_softcap);
            a->step.logits[col * a->step.logits_stride + at] = v;
        }
    } else {
        float square = 0;
        if (live) {
            float *at = a->step.x + (int64_t)col * a->embedding + x->row + row;
            float y = __ldcg(at) + v * a->residual_scale;
            __stcg(at, y);
            square = y * y;
        }
        square += __shfl_xor_sync(~0u, square, 8);
        square += __shfl_xor_sync(~0u, square, 16);
        if ((i & 31) < 8 && live) __stcg(a->squares + (int64_t)col * (a->embedding / 4) + t * 4 + (i >> 5), square);
    }
}

template <int KIND>
static __device__ void multiply(const struct kernel_args *a, const struct shared *s, struct ring *ring, int *rotation,
                                const struct kernel_layer *l, int op)
{
    int tid = (int)threadIdx.x, warp = tid >> 5, lane = tid & 31;
    struct op_shape shape = op_shape(a, op);
    struct walk walk = walk_op(&shape, rotation);
    int k0 = walk.slice * shape.slice_k, k1 = min(shape.k, k0 + shape.slice_k), stride = inputs_stride((enum matrix_kind)KIND, shape.slice_k);
    int chunk = kind_chunk((enum matrix_kind)KIND);
    bool column = (lane >> 2) < (op == OP_OUTPUT ? a->step.wanted : a->step.cols);
    const uint16_t *inputs = (const uint16_t *)s->inputs;
    int round = 0;
    for (int t = walk.first; t < shape.tiles; t += walk.count, round++) {
        struct tile x = tile_at(a, l, op, t);
        float sum[4] = {0, 0, 0, 0};
        for (int k = k0; k < k1; k += chunk) {
            mbarrier_wait(shared_address(&s->full[ring->stage]), ring->parity);
            int mine = k + warp * unit_k<KIND>();
            int panel_bytes = KIND == MATRIX_W4 ? min(chunk, k1 - k) / W4_GROUP * W4_GRANULE : 0;
            if (mine < k1)
                consume<KIND>(sum, s->ring + ring->stage * STAGE_BYTES, panel_bytes, warp, lane, inputs + mine - k0, stride, column);
            __syncwarp();
            if (lane == 0) mbarrier_arrive(shared_address(&s->empty[ring->stage]));
            ring_next(ring);
        }
        float *sums = s->sums + (round & 1) * RED_FLOATS;
        float *at = sums + warp * (TILE_ROWS * 8) + (lane >> 2) * 8 + (lane & 3) * 2;
        *(float2 *)at = make_float2(sum[0], sum[1]);
        *(float2 *)(at + 64) = make_float2(sum[2], sum[3]);
        barrier_sync(ALL_CONSUMERS, CONSUMERS);
        int group = round & 3;
        if (warp >> 2 == group)
            finish_tile(a, s, op, &shape, walk.slice, t, &x, sums, group, tid & 127, KIND == MATRIX_BF16);
    }
}

/* ---- inputs ---- */

/* 1 / root mean square of every column of x, from the sums that the last writers of x left. */
static __device__ __forceinline__ void rms_of_columns(const struct kernel_args *a, const struct shared *s)
{
    int tid = (int)threadIdx.x, n = a->embedding / 4;
    for (int col = 0; col < a->step.cols; col++) {
        const float4 *from = (const float4 *)(a->squares + (int64_t)col * n);
        float sum = 0;
        for (int i = tid; i < n / 4; i += CONSUMERS) {
            float4 v = __ldcg(from + i);
            sum += (v.x + v.y) + (v.z + v.w);
        }
        for (int d = 16; d; d >>= 1) sum += __shfl_xor_sync(~0u, sum, d);
        if ((tid & 31) == 0) s->warp[tid >> 5] = sum;
        barrier_sync(ALL_CONSUMERS, CONSUMERS);
        if (tid == 0) {
            float all = 0;
            for (int w = 0; w < WARPS; w++) all += s->warp[w];
            s->rms[col] = rsqrtf(all / (float)a->embedding + a->norm_eps);
        }
        barrier_sync(ALL_CONSUMERS, CONSUMERS);
    }
}

/* x × rms × weight of this block's slice of k, for the columns (or those whose logits are wanted). */
static __device__ __forceinline__ void load_normed(const struct kernel_args *a, const struct shared *s, const float *weight,
                                                   const struct op_shape *shape, int stride, bool bf16, bool wanted)
{
    rms_of_columns(a, s);
    int k0 = (int)blockIdx.x % shape->slices * shape->slice_k, k1 = min(shape->k, k0 + shape->slice_k), quads = (k1 - k0) / 4;
    uint16_t *inputs = (uint16_t *)s->inputs;
    for (int i = 0; i < (wanted ? a->step.wanted : a->step.cols); i++) {
        int col = wanted ? a->step.want[i] : i;
        float rms = s->rms[col];
        const float4 *x = (const float4 *)(a->step.x + (int64_t)col * a->embedding + k0), *w = (const float4 *)(weight + k0);
        for (int q = (int)threadIdx.x; q < quads; q += CONSUMERS) {
            float4 v = __ldcg(x + q), g = __ldg(w + q);
            v = make_float4(v.x * rms * g.x, v.y * rms * g.y, v.z * rms * g.z, v.w * rms * g.w);
            if (wanted && blockIdx.x < (unsigned)shape->slices)
                *(float4 *)(a->step.hidden + (int64_t)i * a->embedding + k0 + q * 4) = v;
            uint16_t *to = inputs + i * stride + q * 4;
            *(uint2 *)to = make_uint2(to_form(v.x, bf16) | (uint32_t)to_form(v.y, bf16) << 16, to_form(v.z, bf16) | (uint32_t)to_form(v.w, bf16) << 16);
        }
    }
    barrier_sync(ALL_CONSUMERS, CONSUMERS);
}

/* 16-bit inputs as they are. */
static __device__ __forceinline__ void load_plain(const struct kernel_args *a, const struct shared *s, const uint16_t *from,
                                                  const struct op_shape *shape, int stride)
{
    int k0 = (int)blockIdx.x % shape->slices * shape->slice_k, k1 = min(shape->k, k0 + shape->slice_k), eighths = (k1 - k0) / 8;
    uint16_t *inputs = (uint16_t *)s->inputs;
    for (int col = 0; col < a->step.cols; col++) {
        const uint4 *x = (const uint4 *)(from + (int64_t)col * shape->k + k0);
        for (int i = (int)threadIdx.x; i < eighths; i += CONSUMERS) *(uint4 *)(inputs + col * stride + i * 8) = __ldcg(x + i);
    }
    barrier_sync(ALL_CONSUMERS, CONSUMERS);
}

#endif
