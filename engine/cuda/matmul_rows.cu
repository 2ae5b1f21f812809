/* Weights as numbers again: whole rows as F16 for cuBLASLt, chosen rows as floats for the embedding, and the plain product of
 * rows whose length suits nothing else. */
#include "engine/cuda/matmul_decode.cuh"

#include <cuda_fp8.h>

/* ---- rows as F16: the tile kernel's loading and decoding, then 16-byte stores ---- */

struct rows_args {
    const uint8_t *weights;
    int64_t bytes;
    const float *scale;
    int rows, k, first, count;
    __half *out; /* (count, k) */
};

enum { ROWS_WARPS = 4 };

/* Eight values × factor, as F16. */
static __device__ __forceinline__ uint4 times(const uint32_t v[4], float factor)
{
    uint32_t out[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 f = __half22float2(bits_half2(v[i]));
        out[i] = half2_bits(__floats2half2_rn(f.x * factor, f.y * factor));
    }
    return make_uint4(out[0], out[1], out[2], out[3]);
}

template <int L> static __device__ __forceinline__ void load_unit(const struct rows_args *a, uint8_t *to, int first, int u, int lane)
{
    constexpr struct layout_shape s = layout_shape_of(L);
    constexpr int chunks = L == LAYOUT_W4 ? W4_GRANULE / 16 : s.chunks();
    int here = min(s.unit, a->k - u * s.unit) / s.block * s.bytes;
    for (int at = lane; at < (L == LAYOUT_W4 ? 2 : 16) * chunks; at += 32) {
        int r = at / chunks, c = at % chunks;
        if (L == LAYOUT_W4) {
            int panel = min(first / W4_PANEL_ROWS + r, (a->rows - 1) / W4_PANEL_ROWS);
            copy_weights(to + at * 16, a->weights + ((int64_t)panel * (a->k / W4_GROUP) + u) * W4_GRANULE + c * 16, 16);
            continue;
        }
        int64_t start = (int64_t)min(first + r, a->rows - 1) * (a->k / s.block * s.bytes) + (int64_t)u * s.unit_bytes();
        int skew = s.skewed() ? (int)(start & 15) : 0;
        if (16 * c >= skew + here) continue;
        int64_t from = start - skew + 16 * c, left = a->bytes - from;
        copy_weights(to + (r * chunks + row_place<L>(c, r)) * 16, a->weights + from, left < 16 ? (int)left : 16);
    }
}

/* One row of a lane's two: decodes its unit and stores it. */
template <int L>
static __device__ __forceinline__ void store_unit(const struct rows_args *a, const uint8_t *unit, int row, int u, int g, int t)
{
    constexpr struct layout_shape s = layout_shape_of(L);
    uint32_t state[8];
    begin_row<L>(unit, g, t, state);
    float factor = L == LAYOUT_W4 ? half_at(unit + 512 + 2 * g) : L == LAYOUT_FP8 ? a->scale[min(row, a->rows - 1)] * FP8_FACTOR : 1.f;
    int steps = min(s.unit, a->k - u * s.unit) / 32 / s.pairs;
    bool live = row < a->first + a->count;
#pragma unroll
    for (int step = 0; step < s.unit / 32 / s.pairs; step++) {
        uint32_t w[s.pairs][4];
        if (step >= steps) break;
        decode_row<L>(unit, state, step, g, t, w);
#pragma unroll
        for (int i = 0; i < s.pairs; i++) {
            uint4 v = make_uint4(w[i][0], w[i][1], w[i][2], w[i][3]);
            if (L == LAYOUT_W4 || L == LAYOUT_FP8) v = times(w[i], factor);
            if (live) *(uint4 *)(a->out + (int64_t)(row - a->first) * a->k + u * s.unit + 8 * x_chunk<L>(step, i, t)) = v;
        }
    }
}

/* A warp takes 16 rows by one unit after another. `first` is a multiple of 16. */
template <int L> __global__ void __launch_bounds__(ROWS_WARPS * 32) dequantize(const struct rows_args a)
{
    constexpr struct layout_shape s = layout_shape_of(L);
    constexpr int bytes = L == LAYOUT_W4 ? 2 * W4_GRANULE : 16 * s.chunks() * 16;
    __shared__ __align__(16) uint8_t shared[ROWS_WARPS * bytes + 16];
    int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5, g = lane >> 2, t = lane & 3, row0 = a.first + (int)blockIdx.x * 16;
    int units = (a.k + s.unit - 1) / s.unit;
    uint8_t *mine = shared + warp * bytes;
    for (int u = (int)blockIdx.y * ROWS_WARPS + warp; u < units; u += (int)gridDim.y * ROWS_WARPS) {
        load_unit<L>(&a, mine, row0, u, lane);
        copy_commit();
        copy_wait(0);
        __syncwarp();
        for (int h = 0; h < 2; h++) {
            int row = row0 + 8 * h + g;
            uint32_t start = (uint32_t)min(row, a.rows - 1) * (uint32_t)(a.k / s.block * s.bytes) + (uint32_t)u * s.unit_bytes();
            const uint8_t *unit = mine + (L == LAYOUT_W4 ? h * W4_GRANULE : (8 * h + g) * s.chunks() * 16 + (s.skewed() ? (int)(start & 15) : 0));
            store_unit<L>(&a, unit, row, u, g, t);
        }
        __syncwarp();
    }
}

enum err_code dequantize_rows(const struct matrix *w, int first, int count, __half *out, cudaStream_t stream, struct err *e)
{
    enum layout layout = matrix_layout(w);
    struct layout_shape s = layout_shape_of(layout);
    struct rows_args a = {(const uint8_t *)w->data, (int64_t)w->rows * (w->k / s.block) * s.bytes, w->scale, w->rows, w->k, first, count, out};
    int units = (w->k + s.unit - 1) / s.unit, across = (units + ROWS_WARPS * 4 - 1) / (ROWS_WARPS * 4);
    dim3 grid((unsigned)((count + 15) / 16), (unsigned)across);
    switch (layout) {
#define CASE(L) \
    case L: dequantize<L><<<grid, ROWS_WARPS * 32, 0, stream>>>(a); break
        CASE(LAYOUT_W4);
        CASE(LAYOUT_FP8);
        CASE(LAYOUT_F32);
        CASE(LAYOUT_Q8_0);
        CASE(LAYOUT_Q4_0);
        CASE(LAYOUT_Q4_1);
        CASE(LAYOUT_Q5_0);
        CASE(LAYOUT_Q5_1);
        CASE(LAYOUT_IQ4_NL);
        CASE(LAYOUT_Q2_K);
        CASE(LAYOUT_Q3_K);
        CASE(LAYOUT_Q4_K);
        CASE(LAYOUT_Q5_K);
        CASE(LAYOUT_Q6_K);
#undef CASE
    default: return err_set(e, ERR_UNSUPPORTED, "rows of layout %d need no dequantizing", (int)layout);
    }
    return cuda_check(cudaGetLastError(), "dequantize", e);
}

/* ---- one weight at a time ---- */

static __device__ float fp8_value(uint8_t bits)
{
    return __half2float(__half(__nv_cvt_fp8_to_halfraw(bits, __NV_E4M3)));
}

/* Element j of a block, both layouts of 16 bytes of nibbles: low halves first. */
static __device__ int nibble_of(const uint8_t *quants, int j)
{
    return quants[j & 15] >> (j & 16 ? 4 : 0) & 15;
}

static __device__ float legacy_at(enum layout layout, const uint8_t *b, int j)
{
    float d = half_at(b);
    switch (layout) {
    case LAYOUT_Q8_0: return d * (float)(int8_t)b[2 + j];
    case LAYOUT_Q4_0: return d * (float)(nibble_of(b + 2, j) - 8);
    case LAYOUT_Q4_1: return d * (float)nibble_of(b + 4, j) + half_at(b + 2);
    case LAYOUT_Q5_0: return d * (float)((nibble_of(b + 6, j) | (b[2 + j / 8] >> (j & 7) & 1) << 4) - 16);
    case LAYOUT_Q5_1: return d * (float)(nibble_of(b + 8, j) | (b[4 + j / 8] >> (j & 7) & 1) << 4) + half_at(b + 2);
    default: return d * (float)((int)(iq4_values((uint32_t)nibble_of(b + 2, j)) & 255) - 128);
    }
}

static __device__ float q45_k_at(const uint8_t *b, bool five, int j)
{
    const uint8_t *s = b + 4;
    int sub = j / 32, i = j & 31, scale, low;
    if (sub < 4) {
        scale = s[sub] & 63;
        low = s[sub + 4] & 63;
    } else {
        scale = (s[sub + 4] & 15) | (s[sub - 4] >> 6) << 4;
        low = s[sub + 4] >> 4 | (s[sub] >> 6) << 4;
    }
    int q = b[(five ? 48 : 16) + j / 64 * 32 + i] >> (sub & 1 ? 4 : 0) & 15;
    if (five) q |= (b[16 + i] >> sub & 1) << 4;
    return half_at(b) * (float)scale * (float)q - half_at(b + 2) * (float)low;
}

static __device__ float q236_k_at(enum layout layout, const uint8_t *b, int j)
{
    int half = j / 128, i = j & 31, sub = j / 16, q = j / 32 & 3;
    if (layout == LAYOUT_Q6_K) {
        int low = b[64 * half + 32 * (q & 1) + i] >> (q & 2 ? 4 : 0) & 15, high = b[128 + 32 * half + i] >> 2 * q & 3;
        return half_at(b + 208) * (float)(int8_t)b[192 + sub] * (float)((low | high << 4) - 32);
    }
    if (layout == LAYOUT_Q2_K)
        return half_at(b + 80) * (float)(b[sub] & 15) * (float)(b[16 + 32 * half + i] >> 2 * q & 3) - half_at(b + 82) * (float)(b[sub] >> 4);
    int scale = (b[96 + sub % 8] >> (sub / 8 * 4) & 15) | (b[104 + sub % 4] >> (sub / 4 * 2) & 3) << 4;
    int v = (b[32 + 32 * half + i] >> 2 * q & 3) | (b[i] >> (j / 32) & 1) << 2;
    return half_at(b + 108) * (float)(scale - 32) * (float)(v - 4);
}

static __device__ float w4_at(const uint8_t *weights, int row, int k_all, int k)
{
    const uint8_t *granule = weights + ((int64_t)(row / W4_PANEL_ROWS) * (k_all / W4_GROUP) + k / W4_GROUP) * W4_GRANULE;
    int r = row % W4_PANEL_ROWS, j = k % W4_GROUP / 32, t = k % 32 / 8, e = k % 8, place = e / 2 + (e & 1) * 4;
    uint32_t word = *(const uint32_t *)(granule + (4 * r + t) * 16 + 4 * j);
    return (float)((int)(word >> 4 * place & 15) - 8) * half_at(granule + 512 + 2 * r);
}

/* Weight (row, k) as a float, exactly. */
static __device__ float weight_at(enum layout layout, const uint8_t *weights, const float *scale, int row, int k_all, int k)
{
    int64_t at = (int64_t)row * k_all + k;
    switch (layout) {
    case LAYOUT_W4: return w4_at(weights, row, k_all, k);
    case LAYOUT_FP8: return fp8_value(weights[at]) * scale[row];
    case LAYOUT_F16: return half_at(weights + 2 * at);
    case LAYOUT_BF16: return __bfloat162float(((const __nv_bfloat16 *)weights)[at]);
    case LAYOUT_F32: return ((const float *)weights)[at];
    default: break;
    }
    struct layout_shape s = layout_shape_of(layout);
    const uint8_t *block = weights + at / s.block * s.bytes;
    int j = k % s.block;
    if (is_q45_k(layout)) return q45_k_at(block, layout == LAYOUT_Q5_K, j);
    if (is_q236_k(layout)) return q236_k_at(layout, block, j);
    return legacy_at(layout, block, j);
}

__global__ void embed(enum layout layout, const uint8_t *weights, const float *scale, int rows, int k, const int32_t *ids, float factor, float *y)
{
    int id = ids[blockIdx.y], i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= k) return;
    bool known = id >= 0 && id < rows;
    y[(int64_t)blockIdx.y * k + i] = known ? weight_at(layout, weights, scale, id, k, i) * factor : 0.f;
}

enum err_code matmul_embed(const struct matrix *w, const int32_t *ids, int cols, float factor, float *y, cudaStream_t stream, struct err *e)
{
    enum layout layout = matrix_layout(w);
    if (layout == LAYOUT_NONE) return err_set(e, ERR_UNSUPPORTED, "no GPU kernel for embeddings of type %d", (int)w->type);
    for (int done = 0; done < cols; done += 65535) {
        dim3 grid((unsigned)((w->k + 255) / 256), (unsigned)(cols - done < 65535 ? cols - done : 65535));
        embed<<<grid, 256, 0, stream>>>(layout, (const uint8_t *)w->data, w->scale, w->rows, w->k, ids + done, factor, y + (int64_t)done * w->k);
    }
    return cuda_check(cudaGetLastError(), "embed", e);
}

/* ---- rows whose k is no multiple of 32 ---- */

__global__ void multiply_plain(enum layout layout, const uint8_t *weights, const float *scale, int rows, int k, const uint16_t *x, bool bf16,
                               int into, void *y, int64_t ldy)
{
    int row = (int)(blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32), col = (int)blockIdx.y, lane = (int)threadIdx.x & 31;
    if (row >= rows) return;
    const uint16_t *in = x + (int64_t)col * k;
    float sum = 0;
    for (int i = lane; i < k; i += 32) {
        float v = bf16 ? __bfloat162float(((const __nv_bfloat16 *)in)[i]) : __half2float(((const __half *)in)[i]);
        float w = weight_at(layout, weights, scale, row, k, i);
        if (layout == LAYOUT_F32) w = __half2float(__float2half_rn(w));
        sum += w * v;
    }
    for (int d = 16; d; d >>= 1) sum += __shfl_xor_sync(~0u, sum, d);
    int64_t at = (int64_t)col * ldy + row;
    if (lane) return;
    if (into == INTO_F32) ((float *)y)[at] = sum;
    else if (into == INTO_F32_ADD) ((float *)y)[at] += sum;
    else if (into == INTO_F16) ((__half *)y)[at] = __float2half_rn(sum);
    else ((__nv_bfloat16 *)y)[at] = __float2bfloat16_rn(sum);
}

enum err_code plain_multiply(const struct matrix *w, const struct operand *x, enum into into, void *y, int64_t ldy, cudaStream_t stream,
                             struct err *e)
{
    dim3 grid((unsigned)((w->rows + 7) / 8), (unsigned)x->cols);
    multiply_plain<<<grid, 256, 0, stream>>>(matrix_layout(w), (const uint8_t *)w->data, w->scale, w->rows, w->k, (const uint16_t *)x->data,
                                             x->form == FORM_BF16, (int)into, y, ldy);
    return cuda_check(cudaGetLastError(), "multiply_plain", e);
}
