/* Attention for head sizes that have no kernel of their own: right for any, fast for none. A block of four warps takes one
 * column and query head; warp w the pages w, w + 4 …, a lane a position; the warps' sums are joined in order. */
#include "engine/cuda/attention_private.cuh"

enum { GENERAL_WARPS = 4, DIMS = HEAD_DIM_MAX / 32 };

static __device__ float element(const uint8_t *block, bool fp8, int at)
{
    if (fp8) return __half2float(__half(__nv_cvt_fp8_to_halfraw(block[at], __NV_E4M3)));
    return __half2float(((const __half *)block)[at]);
}

struct general_sums {
    float most, sum, o[DIMS]; /* dims lane + 32 i */
};

/* A warp: one page. */
static __device__ void attend_page(const struct attention_call *c, const uint8_t *block, const __half *q, int base, int position,
                                   struct general_sums *r)
{
    int n = c->kv.head_dim, lane = threadIdx.x % 32, j = base + lane;
    const float *scale = (const float *)(block + 2 * CUDA_PAGE_TOKENS * n);
    bool seen = j <= position && j >= first_seen(c->layer.window, position);
    float s = 0;
    for (int d = 0; seen && d < n; d++) s += __half2float(q[d]) * element(block, c->kv.fp8, lane * n + d);
    if (c->kv.fp8) s *= seen ? scale[lane] : 0;
    if (c->layer.softcap > 0) s = attend_cap(s, c->layer.softcap);
    float most = seen ? s : ATTEND_NONE;
#pragma unroll
    for (int i = 16; i; i /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, i));
    most = fmaxf(most, r->most);
    float shrink = attend_exp2((r->most - most) * ATTEND_LOG2E), p = seen ? attend_exp2((s - most) * ATTEND_LOG2E) : 0, sum = p;
#pragma unroll
    for (int i = 16; i; i /= 2) sum += __shfl_xor_sync(~0u, sum, i);
    r->most = most;
    r->sum = r->sum * shrink + sum;
    float weight = c->kv.fp8 && seen ? p * scale[CUDA_PAGE_TOKENS + lane] : p;
    unsigned mask = __ballot_sync(~0u, seen);
#pragma unroll
    for (int i = 0; i < DIMS; i++) r->o[i] *= shrink;
    for (int k = 0; k < CUDA_PAGE_TOKENS; k++) {
        float w = __shfl_sync(~0u, weight, k);
        if (!(mask >> k & 1)) continue;
#pragma unroll
        for (int i = 0; i < DIMS; i++) {
            int d = lane + i * 32;
            if (d < n) r->o[i] += w * element(block, c->kv.fp8, (n + d) * CUDA_PAGE_TOKENS + k);
        }
    }
}

static __global__ void __launch_bounds__(GENERAL_WARPS * 32) general(const __grid_constant__ struct attention_call c)
{
    __shared__ struct general_sums sums[GENERAL_WARPS][32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.x, head = blockIdx.y, n = c.kv.head_dim;
    int position = c.columns.position[column], first = first_seen(c.layer.window, position) / CUDA_PAGE_TOKENS;
    const int32_t *pages = c.columns.pages + (int64_t)c.columns.run_of[column] * c.columns.pages_stride;
    int64_t row = ((int64_t)column * c.layer.heads + head) * n;
    struct general_sums r;
    r.most = ATTEND_NONE;
    r.sum = 0;
#pragma unroll
    for (int i = 0; i < DIMS; i++) r.o[i] = 0;
    for (int p = first / GENERAL_WARPS * GENERAL_WARPS + warp; p * CUDA_PAGE_TOKENS <= position; p += GENERAL_WARPS)
        if (p >= first)
            attend_page(&c, call_blocks(&c, head / c.group) + pages[p] * call_page_bytes(&c), c.q + row, p * CUDA_PAGE_TOKENS,
                        position, &r);
    sums[warp][lane] = r;
    __syncthreads();
    if (warp) return;
    float most = ATTEND_NONE, sum = 0;
    for (int w = 0; w < GENERAL_WARPS; w++) most = fmaxf(most, sums[w][lane].most);
    for (int w = 0; w < GENERAL_WARPS; w++) sum += sums[w][lane].sum * attend_exp2((sums[w][lane].most - most) * ATTEND_LOG2E);
    for (int i = 0; lane + i * 32 < n; i++) {
        float o = 0;
        for (int w = 0; w < GENERAL_WARPS; w++) o += sums[w][lane].o[i] * attend_exp2((sums[w][lane].most - most) * ATTEND_LOG2E);
        o /= sum;
        c.out[row + lane + i * 32] = c.bf16 ? __bfloat16_as_ushort(__float2bfloat16_rn(o)) : __half_as_ushort(__float2half_rn(o));
    }
}

cudaError_t general_launch(const struct attention_call *c, cudaStream_t stream)
{
    LAUNCH(general, dim3((unsigned)c->columns.cols, (unsigned)c->layer.heads), GENERAL_WARPS * 32, 0, stream, *c);
    return cudaGetLastError();
}
