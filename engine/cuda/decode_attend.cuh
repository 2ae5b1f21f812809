/* The decode kernel's attention: one block works on a unit (column, KV head, tile of 8 query heads, split of the past).
 *
 * A warp takes halves of pages in turn. Scores come transposed, S^T = K Q^T (16 positions × 8 heads), and so does the result,
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
    float *max, *sum; /* (SPLITS_MAX, 8): of the warps, then of the splits */
    float *out;     /* (WARPS, 8, head_dim) */
};
static __host__ __device__ __forceinline__ int attend_bytes(int head_dim)
{
    return WARPS * head_dim * 4 + 8 * (head_dim + 32) * 2 + SPLITS_MAX * 16 * 4 + WARPS * 8 * head_dim * 4;
}

static __device__ __forceinline__ struct attend_space attend_space(const struct shared *s, int head_dim)
{
    struct attend_space a;
    a.row = (float *)s->inputs;
    a.q = (uint16_t *)(a.row + WARPS * head_dim);
    a.max = (float *)(a.q + 8 * (head_dim + 32));
    a.sum = a.max + SPLITS_MAX * 8;
    a.out = a.sum + SPLITS_MAX * 8;
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

/* The n-th page of a column's sequence. */
static __device__ __forceinline__ int page_of(const struct kernel_args *a, const struct shared *s, int col, int n)
{
    if (n < PAGES_NEAR) return s->pages[col * PAGES_NEAR + n];
    return __ldg(a->step.pages + (int64_t)s->run_of[col] * a->step.pages_stride + n);
}

/* A warp: K (or V) of one column and head into its page. */
template <int HD, bool FP8>
static __device__ __forceinline__ void place(const struct kernel_args *a, const struct shared *s, const float *angles, const struct kernel_layer *l, int layer, int col,
                                          int head, bool value, float *row)
{
    int lane = (int)threadIdx.x & 31, position = s->position[col];
    const float *from = a->qkv + (int64_t)col * (a->q_dim + 2 * a->kv_dim) + a->q_dim + (value ? a->kv_dim : 0) + head * HD;
    const float *bias = value ? l->v_bias : l->k_bias;
    turn_head<HD>(a, value ? NULL : angles, from, bias ? bias + head * HD : NULL, value ? NULL : l->k_norm, row);
    int at = position % PAGE;
    uint8_t *block = kv_block(a, layer, page_of(a, s, col, position / PAGE), head);
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
        place<HD, FP8>(a, s, angles_of(a, s, l, col), l, layer, col, j / 2 % a->kv_heads, j & 1, row);
    }
}

/* What a warp keeps of its pages: lane 4 g + t holds heads 2t and 2t + 1, dims 16 m + g and + 8. */
template <int HD> struct attended {
    float out[HD / 16][4];
    float max[2], sum[2];
};

/* Half a page, 16 positions: its K on the way to a warp's registers, and what its stored values are multiplied by (FP8). */
enum { HALF = PAGE / 2 };
template <int HD, bool FP8> struct keys {
    enum { PIECES = FP8 ? HD / 64 : HD / 32 };
    uint4 a[PIECES], b[PIECES];
    float k_scale[2], v_scale[2];
};

/* The position in its half of fragment row g; row g + 8 stands for the one 2 further. */
static __device__ __forceinline__ int position_of(int g)
{
    return 4 * (g >> 1) + (g & 1);
}

/* K rows as A fragments; `at` is the first position in the page, 0 or HALF. */
template <int HD, bool FP8> static __device__ __forceinline__ void load_keys(struct keys<HD, FP8> *k, const uint8_t *block, int at)
{
    int lane = (int)threadIdx.x & 31, g = lane >> 2, t = lane & 3, row = HD * (FP8 ? 1 : 2);
    const uint8_t *from = block + (at + position_of(g)) * row + t * 16;
    const float *scale = (const float *)(block + 2 * PAGE * HD) + at + position_of(g);
#pragma unroll
    for (int j = 0; j < keys<HD, FP8>::PIECES; j++) {
        k->a[j] = __ldcg((const uint4 *)(from + j * 64));
        k->b[j] = __ldcg((const uint4 *)(from + 2 * row + j * 64));
    }
#pragma unroll
    for (int i = 0; FP8 && i < 2; i++) {
        k->k_scale[i] = __ldcg(scale + 2 * i);
        k->v_scale[i] = __ldcg(scale + PAGE + 2 * i);
    }
}

template <int HD, bool FP8>
static __device__ __forceinline__ void scores(float score[4], const struct keys<HD, FP8> *k, const uint16_t *q, int g, int t)
{
    score[0] = score[1] = score[2] = score[3] = 0;
#pragma unroll
    for (int j = 0; j < keys<HD, FP8>::PIECES; j++) {
        uint4 a = k->a[j], b = k->b[j];
        if constexpr (!FP8) {
            uint4 in = *(const uint4 *)(q + g * (HD + 32) + t * 8 + j * 32);
            mma_f16(score, a.x, b.x, a.y, b.y, in.x, in.y);
            mma_f16(score, a.z, b.z, a.w, b.w, in.z, in.w);
        } else {
            const uint16_t *x = q + g * (HD + 32) + t * 16 + j * 64;
            uint4 in0 = *(const uint4 *)x, in1 = *(const uint4 *)(x + 8);
            uint32_t wa[4] = {a.x, a.y, a.z, a.w}, wb[4] = {b.x, b.y, b.z, b.w};
            uint32_t in[8] = {in0.x, in0.y, in0.z, in0.w, in1.x, in1.y, in1.z, in1.w};
#pragma unroll
            for (int w = 0; w < 4; w++)
                mma_f16(score, e4m3x2_half2((uint16_t)wa[w]), e4m3x2_half2((uint16_t)wb[w]), e4m3x2_half2((uint16_t)(wa[w] >> 16)),
                        e4m3x2_half2((uint16_t)(wb[w] >> 16)), in[2 * w], in[2 * w + 1]);
        }
    }
}

/* The same of V, which lies transposed, dims as rows: four positions of row 8 m + g. */
template <int HD, bool FP8> struct values {
    uint2 wide[FP8 ? 1 : HD / 8];
    uint32_t narrow[FP8 ? HD / 8 : 1];
};

template <int HD, bool FP8> static __device__ __forceinline__ void load_values(struct values<HD, FP8> *v, const uint8_t *block, int at)
{
    int lane = (int)threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const uint8_t *from = block + PAGE * HD * (FP8 ? 1 : 2) + (g * PAGE + at + t * 4) * (FP8 ? 1 : 2);
#pragma unroll
    for (int m = 0; m < HD / 8; m++) {
        if constexpr (FP8) v->narrow[m] = __ldcg((const uint32_t *)(from + m * 8 * PAGE));
        else v->wide[m] = __ldcg((const uint2 *)(from + m * 16 * PAGE));
    }
}

/* O^T += V^T P^T; p: a B fragment. */
template <int HD, bool FP8> static __device__ __forceinline__ void add_values(struct attended<HD> *o, const struct values<HD, FP8> *v, const uint32_t p[2])
{
#pragma unroll
    for (int m = 0; m < HD / 16; m++) {
        if constexpr (!FP8) {
            uint2 a = v->wide[2 * m], b = v->wide[2 * m + 1];
            mma_f16(o->out[m], a.x, b.x, a.y, b.y, p[0], p[1]);
        } else {
            uint32_t a = v->narrow[2 * m], b = v->narrow[2 * m + 1];
            mma_f16(o->out[m], e4m3x2_half2((uint16_t)a), e4m3x2_half2((uint16_t)b), e4m3x2_half2((uint16_t)(a >> 16)), e4m3x2_half2((uint16_t)(b >> 16)),
                    p[0], p[1]);
        }
    }
}

/* A warp: half a page, whose K is on its way. Positions outside [first, last] are not seen; base is that of the half. */
template <int HD, bool FP8>
static __device__ __forceinline__ void attend_half(const struct kernel_args *a, struct attended<HD> *o, const struct keys<HD, FP8> *k, const uint8_t *block,
                                                   const uint16_t *q, int base, int first, int last)
{
    int lane = (int)threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    float score[4], e[4], rescale[2];
    struct values<HD, FP8> v;
    scores<HD, FP8>(score, k, q, g, t);
    load_values<HD, FP8>(&v, block, base % PAGE);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int position = base + position_of(g) + (i >= 2 ? 2 : 0);
        float x = score[i];
        if (FP8) x *= k->k_scale[i >> 1];
        if (a->attention_softcap > 0) x = a->attention_softcap * (1.f - 2.f / (1.f + __expf(x * (2.f / a->attention_softcap)))); /* tanh */
        score[i] = position >= first && position <= last ? x : -INFINITY;
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = fmaxf(score[h], score[h + 2]);
        for (int d = 4; d < 32; d <<= 1) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
        most = fmaxf(most, o->max[h]);
        rescale[h] = most == -INFINITY ? 1.f : __expf(o->max[h] - most);
        o->max[h] = most;
        o->sum[h] *= rescale[h];
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        e[i] = score[i] == -INFINITY ? 0.f : __expf(score[i] - o->max[i & 1]);
        o->sum[i & 1] += e[i];
        if (FP8) e[i] *= e[i] > 0 ? 448.f * k->v_scale[i >> 1] : 0.f; /* the row's largest value */
    }
    uint32_t p[2] = {transpose_8x8(pack_half2(e[0], e[1])), transpose_8x8(pack_half2(e[2], e[3]))};
#pragma unroll
    for (int m = 0; m < HD / 16; m++)
#pragma unroll
        for (int i = 0; i < 4; i++) o->out[m][i] *= rescale[i & 1];
    add_values<HD, FP8>(o, &v, p);
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
static __device__ __forceinline__ void weigh(const struct attend_space *w, int parts)
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

/* One piece of attention. */
struct unit {
    int col, kv_head, part;          /* part: which 8 of the KV head's query heads */
    int task, split, splits;         /* task: column, KV head and part in one number */
    int position, first;             /* positions [first, position] are seen */
    int begin, end;                  /* pages of this split */
    bool last;                       /* the split that holds the column's own position */
};

static __device__ __forceinline__ int units_of(const struct kernel_args *a)
{
    int group = a->heads / a->kv_heads, head_tiles = (group + HEADS_TILE - 1) / HEADS_TILE;
    return a->step.cols * a->kv_heads * head_tiles * (a->splits ? a->splits : SPLITS_MAX);
}

/* False where the column needs no such split. */
static __device__ __forceinline__ bool unit_at(const struct kernel_args *a, const struct shared *s, const struct kernel_layer *l, int n, struct unit *u)
{
    int group = a->heads / a->kv_heads, head_tiles = (group + HEADS_TILE - 1) / HEADS_TILE, most = a->splits ? a->splits : SPLITS_MAX;
    u->split = n % most;
    u->task = n / most;
    u->part = u->task % head_tiles;
    u->kv_head = u->task / head_tiles % a->kv_heads;
    u->col = u->task / head_tiles / a->kv_heads;
    u->position = s->position[u->col];
    u->first = l->window > 0 && u->position + 1 > l->window ? u->position + 1 - l->window : 0;
    int first_page = u->first / PAGE, pages = u->position / PAGE + 1 - first_page;
    struct splits sp = splits_of(a, pages);
    u->splits = sp.count;
    u->begin = first_page + u->split * sp.pages;
    u->end = min(u->begin + sp.pages, first_page + pages);
    u->last = u->end == first_page + pages;
    return u->split < sp.count;
}

template <int HD, bool FP8>
static __device__ __forceinline__ void attend_unit(const struct kernel_args *a, const struct shared *s, const struct kernel_layer *l, int layer,
                                                   const struct unit *u, struct input_form form)
{
    int tid = (int)threadIdx.x, warp = tid >> 5, group = a->heads / a->kv_heads;
    int col = u->col, kv_head = u->kv_head, part = u->part, task = u->task, split = u->split, begin = u->begin, end = u->end;
    struct attend_space w = attend_space(s, HD);
    int heads = min(HEADS_TILE, group - part * HEADS_TILE), head0 = kv_head * group + part * HEADS_TILE;
    /* The warps take halves of pages in turn. The last one holds what the placers are about to place. */
    int half = 2 * begin + warp, halves = u->last ? u->position / HALF + 1 : 2 * end, fresh = u->last ? halves - 1 : halves;
    struct keys<HD, FP8> k = {};
    if (half < fresh) load_keys<HD, FP8>(&k, kv_block(a, layer, page_of(a, s, col, half / 2), kv_head), half % 2 * HALF);
    for (int h = warp; h < HEADS_TILE; h += WARPS) {
        float *row = w.row + warp * HD;
        if (h < heads)
            turn_head<HD>(a, angles_of(a, s, l, col), a->qkv + (int64_t)col * (a->q_dim + 2 * a->kv_dim) + (head0 + h) * HD,
                          l->q_bias ? l->q_bias + (head0 + h) * HD : NULL, l->q_norm, row);
#pragma unroll
        for (int j = 0; j < HD / 32; j++) {
            int at = j * 32 + (tid & 31);
            w.q[h * (HD + 32) + at] = h < heads ? to_form(row[at] * a->attention_scale, false) : 0;
        }
    }
    barrier_sync(ALL_CONSUMERS, CONSUMERS);
    struct attended<HD> o;
#pragma unroll
    for (int m = 0; m < HD / 16; m++) o.out[m][0] = o.out[m][1] = o.out[m][2] = o.out[m][3] = 0;
    o.max[0] = o.max[1] = -INFINITY;
    o.sum[0] = o.sum[1] = 0;
#pragma unroll 1
    for (int n = half; n < halves; n += WARPS) {
        const uint8_t *block = kv_block(a, layer, page_of(a, s, col, n / 2), kv_head);
        if (n >= fresh && !a->step.neighbours) mbarrier_wait(shared_address(s->placed), (uint32_t)layer & 1);
        if (n >= fresh || n != half) load_keys<HD, FP8>(&k, block, n % 2 * HALF);
        attend_half<HD, FP8>(a, &o, &k, block, w.q, n * HALF, u->first, u->position);
    }
    if (half < halves) leave<HD, FP8>(&o, &w, warp);
    barrier_sync(ALL_CONSUMERS, CONSUMERS);
    /* The warps' parts in order; then, in the last split to arrive, the splits'. */
    int warps = min(WARPS, halves - 2 * begin);
    int64_t at = (int64_t)task * SPLITS_MAX + split;
    uint16_t *to = a->attended + (int64_t)col * a->q_dim + head0 * HD;
    weigh(&w, warps);
#pragma unroll 1
    for (int i = tid; i < HEADS_TILE * HD; i += CONSUMERS) {
        float out = 0;
#pragma unroll 4
        for (int n = 0; n < warps; n++) out += w.max[n * 8 + i / HD] * w.out[n * HEADS_TILE * HD + i];
        if (u->splits > 1) __stcg(a->split_out + at * (HEADS_TILE * HD) + i, out);
        else if (i < heads * HD) to[place_in_form(i, form)] = to_form(out * w.sum[i / HD], form.bf16);
    }
    if (u->splits > 1) {
        if (tid < 16) __stcg(a->split_max + at * 16 + tid, w.sum[8 + tid]);
        __threadfence();
        barrier_sync(ALL_CONSUMERS, CONSUMERS);
        if (tid == 0) s->flag[0] = (int)atomicAdd(a->split_arrived + task, 1u);
        barrier_sync(ALL_CONSUMERS, CONSUMERS);
        if (s->flag[0] == u->splits - 1) {
            __threadfence();
            if (tid == 0) a->split_arrived[task] = 0;
            const float *parts = a->split_max + (int64_t)task * SPLITS_MAX * 16, *outs = a->split_out + (int64_t)task * SPLITS_MAX * (HEADS_TILE * HD);
            for (int i = tid; i < u->splits * 16; i += CONSUMERS) (i & 8 ? w.sum : w.max)[i / 16 * 8 + (i & 7)] = __ldcg(parts + i);
            barrier_sync(ALL_CONSUMERS, CONSUMERS);
            weigh(&w, u->splits);
#pragma unroll 1
            for (int i = tid; i < heads * HD; i += CONSUMERS) {
                float out = 0;
#pragma unroll 4
                for (int n = 0; n < u->splits; n++) out += w.max[n * 8 + i / HD] * __ldcg(outs + n * (HEADS_TILE * HD) + i);
                to[place_in_form(i, form)] = to_form(out * w.sum[i / HD], form.bf16);
            }
        }
    }
    barrier_sync(ALL_CONSUMERS, CONSUMERS); /* the work space is free again */
}

/* The pages that this block will attend to, into the second-level cache: a warp that has nothing else to do. */
static __device__ __forceinline__ void prefetch_pages(const struct kernel_args *a, const struct shared *s, const struct kernel_layer *l, int layer)
{
    int units = units_of(a), bytes = (int)kv_block_bytes(a->head_dim, a->kv.fp8);
    struct unit u;
    for (int n = (int)blockIdx.x; n < units; n += (int)gridDim.x) {
        if (!unit_at(a, s, l, n, &u)) continue;
        for (int p = u.begin + ((int)threadIdx.x & 31); p < u.end; p += 32)
            prefetch_l2(kv_block(a, layer, page_of(a, s, u.col, p), u.kv_head), (uint32_t)bytes);
    }
}

/* A placer (one warp for K, one for V): the new position of this block's columns and heads, as soon as the grid has Q, K and V. */
template <int HD, bool FP8>
static __device__ void place_units(const struct kernel_args *a, const struct shared *s, bool value)
{
    int units = units_of(a);
    struct unit u;
    float *row = s->rows + (value ? 128 : 0);
#pragma unroll 1
    for (int i = 0; i < a->layers; i++) {
        const struct kernel_layer *l = a->layer + i;
        mbarrier_wait(shared_address(s->attention), (uint32_t)i & 1);
#pragma unroll 1
        for (int n = (int)blockIdx.x; n < units; n += (int)gridDim.x) {
            if (!unit_at(a, s, l, n, &u) || !u.last) continue;
            place<HD, FP8>(a, s, angles_of(a, s, l, u.col), l, i, u.col, u.kv_head, value, row);
            __syncwarp();
        }
        __threadfence_block();
        __syncwarp();
        if ((threadIdx.x & 31) == 0) mbarrier_arrive(shared_address(s->placed));
    }
}

template <int HD, bool FP8>
static __device__ __forceinline__ void attend_all(const struct kernel_args *a, const struct shared *s, const struct kernel_layer *l, int layer, struct input_form form)
{
    int units = units_of(a);
    struct unit u;
#pragma unroll 1
    for (int n = (int)blockIdx.x; n < units; n += (int)gridDim.x)
        if (unit_at(a, s, l, n, &u)) attend_unit<HD, FP8>(a, s, l, layer, &u, form);
    if (!a->step.neighbours) mbarrier_wait(shared_address(s->placed), (uint32_t)layer & 1); /* the placers are never more than a layer behind */
}

#endif
