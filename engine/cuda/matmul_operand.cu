/* Floats to operands and results to where they are wanted: the small kernels around a product. */
#include "engine/cuda/matmul_private.cuh"
#include "engine/cuda/ptx.cuh"

#include <cuda_fp8.h>

static __device__ __forceinline__ float clamped(float v, float most) /* NaN stays NaN */
{
    return v > most ? most : v < -most ? -most : v;
}

/* ---- floats to an operand ---- */

static __device__ __forceinline__ uint16_t half_bits(float v, bool bf16)
{
    if (bf16) return __bfloat16_as_ushort(__float2bfloat16_rn(clamped(v, 3.3895313892515355e38f)));
    return __half_as_ushort(__float2half_rn(clamped(v, 65504.f)));
}

__global__ void floats_to_halves(const float *x, int64_t ldx, int k, bool bf16, bool turned, uint16_t *out)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x) * 4;
    const float *from = x + (int64_t)blockIdx.y * ldx;
    uint16_t *to = out + (int64_t)blockIdx.y * k;
    if (i + 3 < k && ldx % 4 == 0 && k % 4 == 0) {
        float4 v = *(const float4 *)(from + i);
        ushort2 first = make_ushort2(half_bits(v.x, bf16), half_bits(v.y, bf16)), second = make_ushort2(half_bits(v.z, bf16), half_bits(v.w, bf16));
        *(ushort2 *)(to + (turned ? turned_place(i) : i)) = first;
        *(ushort2 *)(to + (turned ? turned_place(i + 2) : i + 2)) = second;
        return;
    }
    for (int j = i; j < min(i + 4, k); j++) to[turned ? turned_place(j) : j] = half_bits(from[j], bf16);
}

/* The largest finite magnitude of a column, over the whole block (256 threads). */
static __device__ float largest(const float *from, int k)
{
    __shared__ float warps[8];
    float most = 0;
    for (int i = (int)threadIdx.x; i < k; i += 256) most = fmaxf(most, fminf(fabsf(from[i]), 3.4e38f)); /* NaN counts as nothing */
    for (int d = 16; d; d >>= 1) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
    if ((threadIdx.x & 31) == 0) warps[threadIdx.x / 32] = most;
    __syncthreads();
    for (int i = 0; i < 8; i++) most = fmaxf(most, warps[i]);
    return most;
}

/* One block a column: scale = largest / 448, the largest E4M3 number. */
__global__ void floats_to_fp8(const float *x, int64_t ldx, int k, uint8_t *out, float *scale)
{
    const float *from = x + (int64_t)blockIdx.x * ldx;
    uint8_t *to = out + (int64_t)blockIdx.x * k;
    float most = largest(from, k), unit = most > 0 ? fmaxf(most / 448.f, 1e-30f) : 1.f, inverse = 1.f / unit;
    for (int i = (int)threadIdx.x; i < k; i += 256) to[i] = __nv_cvt_float_to_fp8(from[i] * inverse, __NV_SATFINITE, __NV_E4M3);
    if (threadIdx.x == 0) scale[blockIdx.x] = unit;
}

enum err_code operand_from_floats(const float *x, int64_t ldx, const struct operand *out, cudaStream_t stream, struct err *e)
{
    for (int done = 0; done < out->cols; done += 65535) {
        int cols = out->cols - done < 65535 ? out->cols - done : 65535;
        const float *from = x + (int64_t)done * ldx;
        int64_t at = (int64_t)done * out->k;
        if (out->form == FORM_E4M3) {
            LAUNCH(floats_to_fp8, (unsigned)cols, 256, 0, stream, from, ldx, out->k, (uint8_t *)out->data + at, out->scale + done);
        } else {
            dim3 grid((unsigned)((out->k + 1023) / 1024), (unsigned)cols);
            LAUNCH(floats_to_halves, grid, 256, 0, stream, from, ldx, out->k, out->form == FORM_BF16, out->form == FORM_TURNED, (uint16_t *)out->data + at);
        }
    }
    return cuda_check(cudaGetLastError(), "operand_from_floats", e);
}

/* Each thread 32 elements. */
__global__ void turn(const uint4 *x, int64_t parts, uint4 *out)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    successor_go(); /* the product, that has weights to fetch */
    if (i >= parts) return;
    uint4 in[4];
#pragma unroll
    for (int t = 0; t < 4; t++) in[t] = x[i * 4 + t];
    out[i * 4] = make_uint4(in[0].x, in[1].x, in[2].x, in[3].x);
    out[i * 4 + 1] = make_uint4(in[0].y, in[1].y, in[2].y, in[3].y);
    out[i * 4 + 2] = make_uint4(in[0].z, in[1].z, in[2].z, in[3].z);
    out[i * 4 + 3] = make_uint4(in[0].w, in[1].w, in[2].w, in[3].w);
}

enum err_code turn_operand(const uint16_t *x, int64_t elements, uint16_t *out, cudaStream_t stream, struct err *e)
{
    LAUNCH(turn, (unsigned)((elements / 32 + 127) / 128), 128, 0, stream, (const uint4 *)x, elements / 32, (uint4 *)out);
    return cuda_check(cudaGetLastError(), "turn_operand", e);
}

/* ---- E4M3 columns as F16, for where no library multiplies them ---- */

__global__ void fp8_to_halves(const uint8_t *x, const float *scale, int k, __half *out)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= k) return;
    int64_t at = (int64_t)blockIdx.y * k + i;
    float v = __half2float(__half(__nv_cvt_fp8_to_halfraw(x[at], __NV_E4M3)));
    out[at] = __float2half_rn(clamped(v * scale[blockIdx.y], 65504.f));
}

enum err_code expand_operand(const struct operand *x, int first, int cols, __half *out, cudaStream_t stream, struct err *e)
{
    dim3 grid((unsigned)((x->k + 255) / 256), (unsigned)cols);
    LAUNCH(fp8_to_halves, grid, 256, 0, stream, (const uint8_t *)x->data + (int64_t)first * x->k, x->scale + first, x->k, out);
    return cuda_check(cudaGetLastError(), "fp8_to_halves", e);
}

/* ---- results ---- */

__global__ void convert(const float *from, int64_t ldfrom, int rows, const float *row_scale, const float *col_scale, int into, void *y, int64_t ldy)
{
    int row = (int)(blockIdx.x * blockDim.x + threadIdx.x), col = (int)blockIdx.y;
    if (row >= rows) return;
    float v = from[(int64_t)col * ldfrom + row];
    if (row_scale) v *= row_scale[row];
    if (col_scale) v *= col_scale[col];
    int64_t at = (int64_t)col * ldy + row;
    if (into == INTO_F32) ((float *)y)[at] = v;
    else if (into == INTO_F32_ADD) ((float *)y)[at] += v;
    else if (into == INTO_F16) ((__half *)y)[at] = __float2half_rn(v);
    else ((__nv_bfloat16 *)y)[at] = __float2bfloat16_rn(v);
}

enum err_code convert_result(const float *from, int64_t ldfrom, int rows, int cols, const float *row_scale, const float *col_scale,
                             enum into into, void *y, int64_t ldy, cudaStream_t stream, struct err *e)
{
    dim3 grid((unsigned)((rows + 255) / 256), (unsigned)cols);
    LAUNCH(convert, grid, 256, 0, stream, from, ldfrom, rows, row_scale, col_scale, (int)into, y, ldy);
    return cuda_check(cudaGetLastError(), "convert", e);
}
