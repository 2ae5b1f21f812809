/* The decode kernel's attention: one block works on a unit (column, KV head, tile of 8 query heads, split of the past).
 *
 * A warp takes pages in turn. Scores come transposed, S^T = K Q^T (16 positions × 8 heads), and so does the result,
 * O^T = V^T P^T (16 dims × 8 heads): positions and dims fill the tensor core's 16 rows, whatever the group's size, and the
 * running maximum of a head lies in the lanes that hold its sums. */
#ifndef RUNG_ENGINE_CUDA_DECODE_ATTEND_CUH
#define RUNG_ENGINE_CUDA_DECODE_ATTEND_CUH

#include "engine/cuda/decode_private.cuh"

#include <cuda_fp8.h>

/* Work space inside `inputs`. */
struct attend_space {
    float *row;     /* (WARPS, head_dim) */
    uint16_t *q;    /* (8, head_dim + 32) F16 */
    float *max, *sum; /* (WARPS, 8) */
    float *out;     /* (WARPS, 8, head_dim) */
};
static __host__ __device__ __forceinline__ int attend_bytes(int head_dim)
{
    return WARPS * head_dim * 4 + 8 * (head_dim + 32) * 2 + WARPS * 16 * 4 + WARPS * 8 * head_dim * 4;
}

static __device__ __forceinline__ struct attend_space attend_space(const struct shared *s, int head_dim)
{
    struct attend_space a;
    a.row = (float *)s->inputs;
    a.q = (uint16_t *)(a.row + WARPS * head_dim);
    a.max = (float *)(a.q + 8 * (head_dim + 32));
    a.sum = a.max + WARPS * 8;
    a.out = a.sum + WARPS * 8;
    return a;
}

static __device__ __forceinline__ float warp_sum(float v)
{
    for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(~0u, v, d);
    return v;
}

/* A warp: one head's bias, norm and rotation; the result in `row` (shared memory). */
template <int HD>
static __device__ __forceinline__ void turn_head(const struct kernel_args *a, const float *angles, const float *from, const float *bias,
                                                 const float *norm, float *row)
{
    int lane = (int)threadIdx.x & 31, half = a->rotated / 2;
    float square = 0, v[HD / 32];
#pragma unroll
    for (int j = 0; j < HD / 32; j++) v[j] = __ldcg(from + j * 32 + lane);
#pragma unroll
    for (int j = 0; j < HD / 32; j++) {
        if (bias) v[j] += __ldg(bias + j * 32 + lane);
        square += v[j] * v[j];
    }
    float scale = norm ? rsqrtf(warp_sum(square) / (float)HD + a->norm_eps) : 1.f;
#pragma unroll
    for (int j = 0; j < HD / 32; j++) row[j * 32 + lane] = norm ? v[j] * scale * __ldg(norm + j * 32 + lane) : v[j];
    __syncwarp();
    for (int i = lane; angles && i < half; i += 32) {
        int x = a->rope_halves ? i : 2 * i, y = a->rope_halves ? i + half : 2 * i + 1;
        float c = angles[i], w = angles[half + i], p = row[x], q = row[y];
        row[x] = p * c - q * w;
        row[y] = p * w + q * c;
    }
    __syncwarp();
}

static __device__ __forceinline__ uint8_t *kv_block(const struct kernel_args *a, int layer, int page, int head)
{
    return a->kv.base + (((int64_t)layer * a->kv.pages + page) * a->kv_heads + head) * kv_block_bytes(a->head_dim, a->kv.fp8);
}

static __device__ __forceinline__ uint8_t to_e4m3(float v)
{
    return (uint8_t)__nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3);
}

/* A warp: K (or V) of one column and head into its page. */
template <int HD, bool FP8>
static __device__ __noinline__ void place(const struct kernel_args *a, const float *angles, const struct kernel_layer *l, int layer, int col,
                                          int head, bool value, float *row)
{
    int lane = (int)threadIdx.x & 31, position = a->step.position[col];
    const float *from = a->qkv + (int64_t)col * (a->q_dim + 2 * a->kv_dim) + a->q_dim + (value ? a->kv_dim : 0) + head * HD;
    const float *bias = value ? l->v_bias : l->k_bias;
    turn_head<HD>(a, value ? NULL : angles, from, bias ? bias + head * HD : NULL, value ? NULL : l->k_norm, row);
    int page = a->step.pages[(int64_t)a->step.run_of[col] * a->step.pages_stride + position / PAGE], at = position % PAGE;
    uint8_t *block = kv_block(a, layer, page, head);
    int first = value ? PAGE * HD + at : at * HD, step = value ? PAGE : 1;
    if (!FP8) {
#pragma unroll
        for (int j = 0; j < HD / 32; j++) ((uint16_t *)block)[first + (j * 32 + lane) * step] = to_form(row[j * 32 + lane], false);
        return;
    }
    float most = 0;
#pragma unroll
    for (int j = 0; j < HD / 32; j++) most = fmaxf(most, fabsf(row[j * 32 + lane]));
    for (int d = 16; d; d >>= 1) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
    float scale = most > 0 ? most / 448.f : 1.f;
#pragma unroll
    for (int j = 0; j < HD / 32; j++) block[first + (j * 32 + lane) * step] = to_e4m3(row[j * 32 + lane] / scale);
    if (lane == 0) ((float *)(block + 2 * PAGE * HD))[(value ? PAGE : 0) + at] = scale;
}

static __device__ __forceinline__ const float *angles_of(const struct kernel_args *a, const struct shared *s, const struct kernel_layer *l, int col)
{
    return s->angles + col * 2 * a->rotated + (l->local_rope ? a->rotated : 0);
}

/* K and V of all columns, where a column may look at another's. */
template <int HD, bool FP8>
static __device__ __forceinline__ void place_all(const struct kernel_args *a, const struct shared *s, const struct kernel_layer *l, int layer)
{
    int warp = (int)threadIdx.x >> 5, jobs = a->step.cols * a->kv_heads * 2;
    float *row = attend_space(s, HD).row + warp * HD;
#pragma unroll 1
    for (int j = (int)blockIdx.x * WARPS + warp; j < jobs; j += (int)gridDim.x * WARPS) {
        int col = j / (2 * a->kv_heads);
        place<HD, FP8>(a, angles_of(a, s, l, col), l, layer, col, j / 2 % a->kv_heads, j & 1, row);
    }
}

/* What a warp keeps of its pages: lane 4 g + t holds heads 2t and 2t + 1, dims 16 m + g and + 8. */
template <int HD> struct attended {
    float out[HD / 16][4];
    float max[2], sum[2];
};

/* K rows as A fragments: row g of step s stands for position 8 (g / 2) + 4 s + g % 2, row g + 8 for the one 2 further. */
template <int HD, bool FP8>
static __device__ __forceinline__ void scores(float score[4], const uint8_t *k, const uint16_t *q, int s, int g, int t)
{
    int position = 8 * (g >> 1) + 4 * s + (g & 1);
    score[0] = score[1] = score[2] = score[3] = 0;
    if constexpr (!FP8) {
        const uint16_t *ka = (const uint16_t *)k + position * HD + t * 8, *kb = ka + 2 * HD, *x = q + g * (HD + 32) + t * 8;
        uint4 a[HD / 32], b[HD / 32];
#pragma unroll
        for (int j = 0; j < HD / 32; j++) {
            a[j] = __ldcg((const uint4 *)(ka + j * 32));
            b[j] = __ldcg((const uint4 *)(kb + j * 32));
        }
#pragma unroll
        for (int j = 0; j < HD / 32; j++) {
            uint4 in = *(const uint4 *)(x + j * 32);
            mma_f16(score, a[j].x, b[j].x, a[j].y, b[j].y, in.x, in.y);
            mma_f16(score, a[j].z, b[j].z, a[j].w, b[j].w, in.z, in.w);
        }
    } else {
        const uint8_t *ka = k + position * HD + t * 16, *kb = ka + 2 * HD;
        const uint16_t *x = q + g * (HD + 32) + t * 16;
        uint4 a[HD / 64], b[HD / 64];
#pragma unroll
        for (int j = 0; j < HD / 64; j++) {
            a[j] = __ldcg((const uint4 *)(ka + j * 64));
            b[j] = __ldcg((const uint4 *)(kb + j * 64));
        }
#pragma unroll
        for (int j = 0; j < HD / 64; j++) {
            uint4 in0 = *(const uint4 *)(x + j * 64), in1 = *(const uint4 *)(x + j * 64 + 8);
            uint32_t wa[4] = {a[j].x, a[j].y, a[j].z, a[j].w}, wb[4] = {b[j].x, b[j].y, b[j].z, b[j].w};
            uint32_t in[8] = {in0.x, in0.y, in0.z, in0.w, in1.x, in1.y, in1.z, in1.w};
#pragma unroll
            for (int w = 0; w < 4; w++)
                mma_f16(score, e4m3x2_half2((uint16_t)wa[w]), e4m3x2_half2((uint16_t)wb[w]), e4m3x2_half2((uint16_t)(wa[w] >> 16)),
                        e4m3x2_half2((uint16_t)(wb[w] >> 16)), in[2 * w], in[2 * w + 1]);
        }
    }
}

/* O^T += V^T P^T over one page; p: B fragments of both steps. */
template <int HD, bool FP8>
static __device__ __forceinline__ void add_values(struct attended<HD> *o, const uint8_t *v, const uint32_t p[2][2], int g, int t)
{
#pragma unroll
    for (int m = 0; m < HD / 16; m++) {
        if constexpr (!FP8) {
            const uint16_t *at = (const uint16_t *)v + (m * 16 + g) * PAGE + t * 8;
            uint4 a = __ldcg((const uint4 *)at), b = __ldcg((const uint4 *)(at + 8 * PAGE));
            mma_f16(o->out[m], a.x, b.x, a.y, b.y, p[0][0], p[0][1]);
            mma_f16(o->out[m], a.z, b.z, a.w, b.w, p[1][0], p[1][1]);
        } else {
            const uint8_t *at = v + (m * 16 + g) * PAGE + t * 8;
            uint2 a = __ldcg((const uint2 *)at), b = __ldcg((const uint2 *)(at + 8 * PAGE));
            mma_f16(o->out[m], e4m3x2_half2((uint16_t)a.x), e4m3x2_half2((uint16_t)b.x), e4m3x2_half2((uint16_t)(a.x >> 16)),
                    e4m3x2_half2((uint16_t)(b.x >> 16)), p[0][0], p[0][1]);
            mma_f16(o->out[m], e4m3x2_half2((uint16_t)a.y), e4m3x2_half2((uint16_t)b.y), e4m3x2_half2((uint16_t)(a.y >> 16)),
                    e4m3x2_half2((uint16_t)(b.y >> 16)), p[1][0], p[1][1]);
        }
    }
}

/* A warp: one page. Positions outside [first, last] are not seen. */
template <int HD, bool FP8>
static __device__ __forceinline__ void attend_page(const struct kernel_args *a, struct attended<HD> *o, const uint8_t *block, const uint16_t *q,
                                                   int base, int first, int last)
{
    int lane = (int)threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const uint8_t *v = block + PAGE * HD * (FP8 ? 1 : 2);
    const float *k_scale = (const float *)(block + 2 * PAGE * HD), *v_scale = k_scale + PAGE;
    float score[2][4];
#pragma unroll
    for (int s = 0; s < 2; s++) {
        scores<HD, FP8>(score[s], block, q, s, g, t);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int position = 8 * (g >> 1) + 4 * s + (g & 1) + (i >= 2 ? 2 : 0);
            float x = score[s][i];
            if (FP8) x *= __ldcg(k_scale + position);
            if (a->attention_softcap > 0) x = a->attention_softcap * (1.f - 2.f / (1.f + __expf(x * (2.f / a->attention_softcap)))); /* tanh */
            score[s][i] = base + position >= first && base + position <= last ? x : -INFINITY;
        }
    }
    float rescale[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = fmaxf(fmaxf(score[0][h], score[0][h + 2]), fmaxf(score[1][h], score[1][h + 2]));
        for (int d = 4; d < 32; d <<= 1) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
        most = fmaxf(most, o->max[h]);
        rescale[h] = most == -INFINITY ? 1.f : __expf(o->max[h] - most);
        o->max[h] = most;
        o->sum[h] *= rescale[h];
    }
    uint32_t p[2][2];
#pragma unroll
    for (int s = 0; s < 2; s++) {
        float e[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            e[i] = score[s][i] == -INFINITY ? 0.f : __expf(score[s][i] - o->max[i & 1]);
            o->sum[i & 1] += e[i];
            if (FP8) e[i] *= e[i] > 0 ? 448.f * __ldcg(v_scale + 8 * (g >> 1) + 4 * s + (g & 1) + (i >= 2 ? 2 : 0)) : 0.f; /* the row's largest value */
        }
        p[s][0] = transpose_8x8(pack_half2(e[0], e[1]));
        p[s][1] = transpose_8x8(pack_half2(e[2], e[3]));
    }
#pragma unroll
    for (int m = 0; m < HD / 16; m++)
#pragma unroll
        for (int i = 0; i < 4; i++) o->out[m][i] *= rescale[i & 1];
    add_values<HD, FP8>(o, v, p, g, t);
}

/* A warp leaves what it has for the others of its block. */
template <int HD, bool FP8> static __device__ __forceinline__ void leave(struct attended<HD> *o, const struct attend_space *w, int warp)
{
    int lane = (int)threadIdx.x & 31, g = lane >> 2, t = lane & 3;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float sum = o->sum[h];
        for (int d = 4; d < 32; d <<= 1) sum += __shfl_xor_sync(~0u, sum, d);
        if (g == 0) {
            w->max[warp * 8 + 2 * t + h] = o->max[h];
            w->sum[warp * 8 + 2 * t + h] = sum;
        }
    }
    float *out = w->out + warp * 8 * HD;
#pragma unroll
    for (int m = 0; m < HD / 16; m++)
#pragma unroll
        for (int i = 0; i < 4; i++) out[(2 * t + (i & 1)) * HD + m * 16 + g + (i >= 2 ? 8 : 0)] = o->out[m][i] * (FP8 ? 1.f / 448.f : 1.f);
}

static __device__ __forceinline__ float weight_of(float max, float most)
{
    return max == -INFINITY ? 0.f : __expf(max - most);
}

/* The parts' maxima become their weights; sum[0..7] is 1 / the sum of all by head, then come the maximum and the sum. */
static __device__ __noinline__ void weigh(const struct attend_space *w, int parts)
{
    int h = (int)threadIdx.x & 7, n = (int)threadIdx.x >> 3;
    float top = -INFINITY, sum = 0, mine = 0;
    if (n < parts) {
        for (int i = 0; i < parts; i++) top = fmaxf(top, w->max[i * 8 + h]);
        mine = weight_of(w->max[n * 8 + h], top);
        if (n == 0)
            for (int i = 0; i < parts; i++) sum += weight_of(w->max[i * 8 + h], top) * w->sum[i * 8 + h];
    }
    barrier_sync(ALL_CONSUMERS, CONSUMERS);
    if (n < parts) w->max[n * 8 + h] = mine;
    if (n == 0) {
        w->sum[h] = 1.f / sum;
        w->sum[8 + h] = top;
        w->sum[16 + h] = sum;
    }
    barrier_sync(ALL_CONSUMERS, CONSUMERS);
}

/* Splits of one column's past, and the pages of one of them. */
struct splits {
    int count, pages; /* pages a split */
};
static __device__ __forceinline__ struct splits splits_of(const struct kernel_args *a, int pages)
{
    struct splits s;
    int want = a->splits ? a->splits : SPLITS_MAX;
    s.pages = max((pages + want - 1) / want, SPLIT_PAGES);
    s.count = (pages + s.pages - 1) / s.pages;
    return s;
}

template <int HD, bool FP8>
static __device__ void attend_unit(const struct kernel_args *a, const struct shared *s, const struct kernel_layer *l, int layer, int unit,
                                   bool bf16)
{
    int tid = (int)threadIdx.x, warp = tid >> 5;
    int group = a->heads / a->kv_heads, head_tiles = (group + HEADS_TILE - 1) / HEADS_TILE, most = a->splits ? a->splits : SPLITS_MAX;
    int split = unit % most, task = unit / most, part = task % head_tiles, kv_head = task / head_tiles % a->kv_heads, col = task / head_tiles / a->kv_heads;
    int position = a->step.position[col], first = l->window > 0 && position + 1 > l->window ? position + 1 - l->window : 0;
    int first_page = first / PAGE, pages = position / PAGE + 1 - first_page;
    struct splits sp = splits_of(a, pages);
    if (split >= sp.count) return;
    int begin = first_page + split * sp.pages, end = min(begin + sp.pages, first_page + pages);
    struct attend_space w = attend_space(s, HD);
    int heads = min(HEADS_TILE, group - part * HEADS_TILE), head0 = kv_head * group + part * HEADS_TILE;
    if (warp < HEADS_TILE) {
        float *row = w.row + warp * HD;
        if (warp < heads)
            turn_head<HD>(a, angles_of(a, s, l, col), a->qkv + (int64_t)col * (a->q_dim + 2 * a->kv_dim) + (head0 + warp) * HD,
                          l->q_bias ? l->q_bias + (head0 + warp) * HD : NULL, l->q_norm, row);
#pragma unroll
        for (int j = tid & 31; j < HD; j += 32) w.q[warp * (HD + 32) + j] = warp < heads ? to_form(row[j] * a->attention_scale, false) : 0;
    } else if (!a->step.neighbours && end == first_page + pages && warp < HEADS_TILE + 2) /* every tile of heads the same bytes */
        place<HD, FP8>(a, angles_of(a, s, l, col), l, layer, col, kv_head, warp == HEADS_TILE + 1, w.row + warp * HD);
    __threadfence_block();
    barrier_sync(ALL_CONSUMERS, CONSUMERS);
    struct attended<HD> o;
#pragma unroll
    for (int m = 0; m < HD / 16; m++) o.out[m][0] = o.out[m][1] = o.out[m][2] = o.out[m][3] = 0;
    o.max[0] = o.max[1] = -INFINITY;
    o.sum[0] = o.sum[1] = 0;
    const int32_t *table = a->step.pages + (int64_t)a->step.run_of[col] * a->step.pages_stride;
#pragma unroll 1
    for (int p = begin + warp; p < end; p += WARPS)
        attend_page<HD, FP8>(a, &o, kv_block(a, layer, __ldg(table + p), kv_head), w.q, p * PAGE, first, position);
    if (begin + warp < end) leave<HD, FP8>(&o, &w, warp);
    barrier_sync(ALL_CONSUMERS, CONSUMERS);
    /* The warps' parts in order; then, in the last split to arrive, the splits'. */
    int warps = min(WARPS, end - begin);
    int64_t at = (int64_t)task * SPLITS_MAX + split;
    uint16_t *to = a->attended + (int64_t)col * a->q_dim + head0 * HD;
    weigh(&w, warps);
#pragma unroll 1
    for (int i = tid; i < HEADS_TILE * HD; i += CONSUMERS) {
        float out = 0;
#pragma unroll 4
        for (int n = 0; n < warps; n++) out += w.max[n * 8 + i / HD] * w.out[n * HEADS_TILE * HD + i];
        if (sp.count > 1) __stcg(a->split_out + at * (HEADS_TILE * HD) + i, out);
        else if (i < heads * HD) to[i] = to_form(out * w.sum[i / HD], bf16);
    }
    if (sp.count > 1) {
        if (tid < 16) __stcg(a->split_max + at * 16 + tid, w.sum[8 + tid]);
        __threadfence();
        barrier_sync(ALL_CONSUMERS, CONSUMERS);
        if (tid == 0) s->flag[0] = (int)atomicAdd(a->split_arrived + task, 1u);
        barrier_sync(ALL_CONSUMERS, CONSUMERS);
        if (s->flag[0] == sp.count - 1) {
            __threadfence();
            if (tid == 0) a->split_arrived[task] = 0;
            const float *parts = a->split_max + (int64_t)task * SPLITS_MAX * 16, *outs = a->split_out + (int64_t)task * SPLITS_MAX * (HEADS_TILE * HD);
            for (int i = tid; i < sp.count * 16; i += CONSUMERS) (i & 8 ? w.sum : w.max)[i / 16 * 8 + (i & 7)] = __ldcg(parts + i);
            barrier_sync(ALL_CONSUMERS, CONSUMERS);
            weigh(&w, sp.count);
#pragma unroll 1
            for (int i = tid; i < heads * HD; i += CONSUMERS) {
                float out = 0;
#pragma unroll 4
                for (int n = 0; n < sp.count; n++) out += w.max[n * 8 + i / HD] * __ldcg(outs + n * (HEADS_TILE * HD) + i);
                to[i] = to_form(out * w.sum[i / HD], bf16);
            }
        }
    }
    barrier_sync(ALL_CONSUMERS, CONSUMERS); /* the work space is free again */
}

/* The pages that this block will attend to, into the second-level cache: a warp that has nothing else to do. */
static __device__ void prefetch_pages(const struct kernel_args *a, const struct kernel_layer *l, int layer)
{
    int group = a->heads / a->kv_heads, head_tiles = (group + HEADS_TILE - 1) / HEADS_TILE, most = a->splits ? a->splits : SPLITS_MAX;
    int units = a->step.cols * a->kv_heads * head_tiles * most, bytes = (int)kv_block_bytes(a->head_dim, a->kv.fp8);
    for (int unit = (int)blockIdx.x; unit < units; unit += (int)gridDim.x) {
        int split = unit % most, task = unit / most, kv_head = task / head_tiles % a->kv_heads, col = task / head_tiles / a->kv_heads;
        int position = a->step.position[col], first = l->window > 0 && position + 1 > l->window ? position + 1 - l->window : 0;
        int first_page = first / PAGE, pages = position / PAGE + 1 - first_page;
        struct splits sp = splits_of(a, pages);
        if (split >= sp.count) continue;
        int begin = first_page + split * sp.pages, end = min(begin + sp.pages, first_page + pages);
        const int32_t *table = a->step.pages + (int64_t)a->step.run_of[col] * a->step.pages_stride;
        for (int p = begin + ((int)threadIdx.x & 31); p < end; p += 32) prefetch_l2(kv_block(a, layer, table[p], kv_head), (uint32_t)bytes);
    }
}

template <int HD, bool FP8>
static __device__ void attend_all(const struct kernel_args *a, const struct shared *s, const struct kernel_layer *l, int layer, bool bf16)
{
    int group = a->heads / a->kv_heads, head_tiles = (group + HEADS_TILE - 1) / HEADS_TILE;
    int units = a->step.cols * a->kv_heads * head_tiles * (a->splits ? a->splits : SPLITS_MAX);
#pragma unroll 1
    for (int u = (int)blockIdx.x; u < units; u += (int)gridDim.x) attend_unit<HD, FP8>(a, s, l, layer, u, bf16);
}

#endif
