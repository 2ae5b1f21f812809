/* Attention of long runs, in the manner of FlashAttention-2 (Dao, 2023): a block takes a tile of query rows of one run and
 * KV head and goes over the positions they see, 32 or 64 at a time, with a running maximum and sum.
 *
 * Rows are (column, head of the group) pairs, so that all heads of a group share the K and V that were read. A page's K and
 * transposed V both feed the tensor cores without another transposition. FP8 pages are turned to F16 in shared memory.
 * A row's result does not depend on the other rows: positions are walked in fixed steps, and steps that a row does not
 * see leave its sums as they are. */
#include "engine/cuda/attention_private.cuh"

struct prefill_args {
    struct attention_call call;
    struct plan plan;
};

template <int HD, bool FP8> struct prefill_shape {
    static constexpr int WARPS = 4, THREADS = WARPS * 32;
    static constexpr int DEEP = HD <= 128 ? 2 : 1;            /* 16-row pieces of a warp */
    static constexpr int ROWS = WARPS * 16 * DEEP;
    static constexpr int PAGES = HD <= 128 ? 2 : 1;           /* of a step */
    static constexpr int KEYS = PAGES * CUDA_PAGE_TOKENS;
    static constexpr bool SWIZZLE = HD % 64 == 0;
    static constexpr int STRIDE = (SWIZZLE ? HD : HD + 8) * 2; /* bytes of a row of Q and K */
    static constexpr int Q_BYTES = ROWS * STRIDE, K_BYTES = KEYS * STRIDE, V_BYTES = PAGES * CUDA_PAGE_TOKENS * HD * 2;
    static constexpr int BLOCK = 2 * CUDA_PAGE_TOKENS * HD * (FP8 ? 1 : 2) + (FP8 ? 2 * CUDA_PAGE_TOKENS * 4 : 0);
    /* F16: two steps of K and V, one being read while the next comes. FP8: one, and two steps of pages as they are. */
    static constexpr int BYTES = Q_BYTES + (FP8 ? K_BYTES + V_BYTES + 2 * PAGES * BLOCK : 2 * (K_BYTES + V_BYTES));
};

/* Where the 16-byte piece of a row stands: pieces change places by row so that 8 rows never meet in a bank. */
template <int HD> static __device__ __forceinline__ int row_at(int row, int piece)
{
    typedef prefill_shape<HD, false> S;
    return row * S::STRIDE + (S::SWIZZLE ? piece ^ (row & 7) : piece) * 16;
}
/* V: page, dim, piece of 8 positions. */
template <int HD> static __device__ __forceinline__ int v_at(int page, int dim, int piece)
{
    return (page * HD + dim) * CUDA_PAGE_TOKENS * 2 + (piece ^ (dim >> 1 & 3)) * 16;
}

/* What a block works on. */
struct prefill_tile {
    const struct attention_call *call;
    struct batch_run run;
    const int32_t *pages;
    const uint8_t *blocks;
    int64_t page_bytes;
    int kv_head, row0, rows; /* rows of the run from row0 on */
    int first, end;          /* positions that some row sees */
};

static __device__ __forceinline__ struct prefill_tile tile_of(const struct prefill_args *a, struct tile at, int kv_head, int rows)
{
    struct prefill_tile t;
    t.call = &a->call;
    t.run = a->call.columns.run[at.run];
    t.pages = a->call.columns.pages + (int64_t)at.run * a->call.columns.pages_stride;
    t.blocks = call_blocks(&a->call, kv_head);
    t.page_bytes = call_page_bytes(&a->call);
    t.kv_head = kv_head;
    t.row0 = at.index * rows;
    t.rows = min(rows, t.run.count * a->call.group - t.row0);
    t.first = first_seen(a->call.layer.window, t.run.position + t.row0 / a->call.group);
    t.end = t.run.position + (t.row0 + t.rows - 1) / a->call.group + 1;
    return t;
}

template <int HD, bool FP8> static __device__ __forceinline__ void copy_q(const struct prefill_tile *t, uint8_t *q)
{
    typedef prefill_shape<HD, FP8> S;
    for (int i = threadIdx.x; i < S::ROWS * (HD / 8); i += S::THREADS) {
        int row = i / (HD / 8), piece = i % (HD / 8);
        bool there = row < t->rows;
        const __half *from = t->call->q + (there ? call_row(t->call, t->run.first, t->kv_head, t->row0 + row) + piece * 8 : 0);
        attend_copy16(q + row_at<HD>(row, piece), from, there ? 16 : 0);
    }
}

/* Pages of a step to shared memory: F16 in its place, FP8 as it is. Pages that no row sees become zeros. */
template <int HD, bool FP8>
static __device__ __forceinline__ void copy_step(const struct prefill_tile *t, int step, uint8_t *k, uint8_t *v, uint8_t *raw)
{
    typedef prefill_shape<HD, FP8> S;
#pragma unroll
    for (int p = 0; p < S::PAGES; p++) {
        int logical = step * S::PAGES + p;
        bool seen = logical * CUDA_PAGE_TOKENS < t->end;
        const uint8_t *from = t->blocks + (seen ? t->pages[logical] * t->page_bytes : 0);
        if constexpr (FP8) {
            for (int i = threadIdx.x; i < S::BLOCK / 16; i += S::THREADS)
                attend_copy16(raw + p * S::BLOCK + i * 16, from + i * 16, seen ? 16 : 0);
        } else {
            for (int i = threadIdx.x; i < CUDA_PAGE_TOKENS * HD / 8; i += S::THREADS) {
                int row = p * CUDA_PAGE_TOKENS + i / (HD / 8);
                attend_copy16(k + row_at<HD>(row, i % (HD / 8)), from + i * 16, seen ? 16 : 0);
                attend_copy16(v + v_at<HD>(p, i / 4, i % 4), from + CUDA_PAGE_TOKENS * HD * 2 + i * 16, seen ? 16 : 0);
            }
        }
    }
}

/* Eight E4M3 × their scales as halves. */
static __device__ __forceinline__ uint4 eight_halves(uint2 e4m3, const float scale[8])
{
    uint32_t r[4];
    attend_e4m3(e4m3.x, &r[0], &r[1]);
    attend_e4m3(e4m3.y, &r[2], &r[3]);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 f = __half22float2(*(__half2 *)&r[i]);
        r[i] = attend_halves(f.x * scale[2 * i], f.y * scale[2 * i + 1]);
    }
    return make_uint4(r[0], r[1], r[2], r[3]);
}

/* FP8 pages of a step to F16, as an F16 cache would hold them. */
template <int HD> static __device__ __forceinline__ void widen_step(const uint8_t *raw, uint8_t *k, uint8_t *v)
{
    typedef prefill_shape<HD, true> S;
#pragma unroll
    for (int p = 0; p < S::PAGES; p++, raw += S::BLOCK) {
        const float *scales = (const float *)(raw + 2 * CUDA_PAGE_TOKENS * HD);
        for (int i = threadIdx.x; i < CUDA_PAGE_TOKENS * HD / 8; i += S::THREADS) {
            int row = i / (HD / 8), piece = i % 4;
            float scale[8];
#pragma unroll
            for (int j = 0; j < 8; j++) scale[j] = scales[row];
            *(uint4 *)(k + row_at<HD>(p * CUDA_PAGE_TOKENS + row, i % (HD / 8))) = eight_halves(*(const uint2 *)(raw + i * 8), scale);
#pragma unroll
            for (int j = 0; j < 8; j++) scale[j] = scales[CUDA_PAGE_TOKENS + piece * 8 + j];
            uint2 x = *(const uint2 *)(raw + CUDA_PAGE_TOKENS * HD + i * 8);
            *(uint4 *)(v + v_at<HD>(p, i / 4, piece)) = eight_halves(x, scale);
        }
    }
}

/* Zeros in V where nothing was ever written: positions of the step from `there` on. */
template <int HD, bool FP8> static __device__ __forceinline__ void trim_step(uint8_t *v, int there)
{
    typedef prefill_shape<HD, FP8> S;
    for (int i = threadIdx.x; i < S::PAGES * HD; i += S::THREADS)
        for (int j = max(0, there - i / HD * CUDA_PAGE_TOKENS); j < CUDA_PAGE_TOKENS; j++)
            *(uint16_t *)(v + v_at<HD>(i / HD, i % HD, j / 8) + j % 8 * 2) = 0;
}

/* A lane's share of its warp's rows: row 16d + g and + 8 of each piece d, dims 8n + 2t, + 1. */
template <int HD, int DEEP> struct prefill_sums {
    float o[DEEP][HD / 8][4];
    float most[DEEP][2], sum[DEEP][2];
};

template <int HD, bool FP8>
static __device__ __forceinline__ void step_scores(const uint8_t *q, const uint8_t *k,
                                                   float s[prefill_shape<HD, FP8>::DEEP][prefill_shape<HD, FP8>::KEYS / 8][4])
{
    typedef prefill_shape<HD, FP8> S;
    int lane = threadIdx.x % 32, row0 = threadIdx.x / 32 * 16 * S::DEEP;
#pragma unroll
    for (int d = 0; d < S::DEEP; d++)
#pragma unroll
        for (int n = 0; n < S::KEYS / 8; n++) s[d][n][0] = s[d][n][1] = s[d][n][2] = s[d][n][3] = 0;
    int b_piece = lane / 8 % 2, b_at = lane % 8 + lane / 16 * 8;
    uint32_t a[S::DEEP][4], b[2][4]; /* the next fragment of K is on its way while this one is multiplied */
    attend_ldmatrix(b[0], k + row_at<HD>(b_at, b_piece));
#pragma unroll
    for (int i = 0; i < HD / 16; i++) {
#pragma unroll
        for (int d = 0; d < S::DEEP; d++) attend_ldmatrix(a[d], q + row_at<HD>(row0 + d * 16 + lane % 16, 2 * i + lane / 16));
#pragma unroll
        for (int n = 0; n < S::KEYS / 16; n++) {
            constexpr int N = S::KEYS / 16;
            int next = i * N + n + 1, now = (next - 1) & 1;
            if (next < HD / 16 * N) attend_ldmatrix(b[next & 1], k + row_at<HD>(next % N * 16 + b_at, 2 * (next / N) + b_piece));
#pragma unroll
            for (int d = 0; d < S::DEEP; d++) {
                attend_mma(s[d][2 * n], a[d][0], a[d][1], a[d][2], a[d][3], b[now][0], b[now][1]);
                attend_mma(s[d][2 * n + 1], a[d][0], a[d][1], a[d][2], a[d][3], b[now][2], b[now][3]);
            }
        }
    }
}

/* A piece's scores that its rows do not see. */
template <int KEYS>
static __device__ __forceinline__ void step_mask(float s[KEYS / 8][4], int base, const int position[2], int window)
{
    int t = threadIdx.x % 4;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int first = first_seen(window, position[h]) - base - t * 2, last = position[h] - base - t * 2;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                if (n * 8 + i < first || n * 8 + i > last) s[n][h * 2 + i] = -INFINITY;
    }
}

/* Scores of one row (half h of a piece) to weights; its sums shrink where the maximum has grown. */
template <int HD, int KEYS>
static __device__ __forceinline__ void step_softmax(float s[KEYS / 8][4], int h, float *most, float *sum, float o[HD / 8][4])
{
    float highest = *most, total = 0;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) highest = fmaxf(highest, fmaxf(s[n][h * 2], s[n][h * 2 + 1]));
    highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
    highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
    float shrink = attend_exp2((*most - highest) * ATTEND_LOG2E), minus = -highest * ATTEND_LOG2E;
    bool grown = highest > *most;
    *most = highest;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float *x = &s[n][h * 2 + i];
            *x = attend_exp2(fmaf(*x, ATTEND_LOG2E, minus));
            total += *x;
        }
    *sum = *sum * shrink + total;
    if (!__any_sync(~0u, grown)) return;
#pragma unroll
    for (int n = 0; n < HD / 8; n++) {
        o[n][h * 2] *= shrink;
        o[n][h * 2 + 1] *= shrink;
    }
}

template <int HD, bool FP8>
static __device__ __forceinline__ void step_values(const uint8_t *v,
                                                   float s[prefill_shape<HD, FP8>::DEEP][prefill_shape<HD, FP8>::KEYS / 8][4],
                                                   prefill_sums<HD, prefill_shape<HD, FP8>::DEEP> *r)
{
    typedef prefill_shape<HD, FP8> S;
    int lane = threadIdx.x % 32, b_piece = lane / 8 % 2, b_at = lane % 8 + lane / 16 * 8;
    uint32_t b[2][4];
    attend_ldmatrix(b[0], v + v_at<HD>(0, b_at, b_piece));
#pragma unroll
    for (int i = 0; i < S::KEYS / 16; i++) {
        uint32_t a[S::DEEP][4];
#pragma unroll
        for (int d = 0; d < S::DEEP; d++)
#pragma unroll
            for (int j = 0; j < 4; j++) a[d][j] = attend_halves(s[d][2 * i + j / 2][j % 2 * 2], s[d][2 * i + j / 2][j % 2 * 2 + 1]);
#pragma unroll
        for (int n = 0; n < HD / 16; n++) {
            constexpr int N = HD / 16;
            int next = i * N + n + 1, now = (next - 1) & 1, step = next / N;
            if (next < S::KEYS / 16 * N) attend_ldmatrix(b[next & 1], v + v_at<HD>(step / 2, next % N * 16 + b_at, step % 2 * 2 + b_piece));
#pragma unroll
            for (int d = 0; d < S::DEEP; d++) {
                attend_mma(r->o[d][2 * n], a[d][0], a[d][1], a[d][2], a[d][3], b[now][0], b[now][1]);
                attend_mma(r->o[d][2 * n + 1], a[d][0], a[d][1], a[d][2], a[d][3], b[now][2], b[now][3]);
            }
        }
    }
}

template <int HD, bool FP8>
static __device__ __forceinline__ void begin_sums(prefill_sums<HD, prefill_shape<HD, FP8>::DEEP> *r)
{
    typedef prefill_shape<HD, FP8> S;
#pragma unroll
    for (int d = 0; d < S::DEEP; d++) {
#pragma unroll
        for (int n = 0; n < HD / 8; n++) r->o[d][n][0] = r->o[d][n][1] = r->o[d][n][2] = r->o[d][n][3] = 0;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            r->most[d][h] = ATTEND_NONE;
            r->sum[d][h] = 0;
        }
    }
}

template <int HD, bool FP8>
static __device__ __forceinline__ void store_sums(const struct prefill_tile *t, prefill_sums<HD, prefill_shape<HD, FP8>::DEEP> *r)
{
    typedef prefill_shape<HD, FP8> S;
    int lane = threadIdx.x % 32, row0 = threadIdx.x / 32 * 16 * S::DEEP + lane / 4;
#pragma unroll
    for (int d = 0; d < S::DEEP; d++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float sum = r->sum[d][h];
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            int row = row0 + d * 16 + h * 8;
            if (row >= t->rows) continue;
            float scale = 1 / sum;
            uint16_t *out = t->call->out + call_row(t->call, t->run.first, t->kv_head, t->row0 + row) + lane % 4 * 2;
#pragma unroll
            for (int n = 0; n < HD / 8; n++) {
                float x = r->o[d][n][h * 2] * scale, y = r->o[d][n][h * 2 + 1] * scale;
                __nv_bfloat162 b = __floats2bfloat162_rn(x, y);
                *(uint32_t *)(out + n * 8) = t->call->bf16 ? *(uint32_t *)&b : attend_halves(x, y);
            }
        }
}

/* One warp, one step. */
template <int HD, bool FP8>
static __device__ __forceinline__ void attend_step(const struct prefill_tile *t, int step, const uint8_t *q, const uint8_t *k,
                                                   const uint8_t *v, prefill_sums<HD, prefill_shape<HD, FP8>::DEEP> *r)
{
    typedef prefill_shape<HD, FP8> S;
    const struct attention_layer *l = &t->call->layer;
    int base = step * S::KEYS, row0 = t->row0 + threadIdx.x / 32 * 16 * S::DEEP, row_end = row0 + 16 * S::DEEP - 1;
    int first = t->run.position + row0 / t->call->group, last = t->run.position + row_end / t->call->group;
    if (base > last || base + S::KEYS <= first_seen(l->window, first)) return;
    bool mask = base + S::KEYS - 1 > first || base < first_seen(l->window, last);
    float s[S::DEEP][S::KEYS / 8][4];
    step_scores<HD, FP8>(q, k, s);
    if (l->softcap > 0) {
#pragma unroll
        for (int i = 0; i < S::DEEP * S::KEYS / 2; i++) s[i / (S::KEYS / 2)][i / 4 % (S::KEYS / 8)][i % 4] =
            attend_cap(s[i / (S::KEYS / 2)][i / 4 % (S::KEYS / 8)][i % 4], l->softcap);
    }
    if (mask) {
#pragma unroll
        for (int d = 0; d < S::DEEP; d++) {
            int row = row0 + d * 16 + threadIdx.x % 32 / 4, group = t->call->group;
            int position[2] = {t->run.position + row / group, t->run.position + (row + 8) / group};
            step_mask<S::KEYS>(s[d], base, position, l->window);
        }
    }
#pragma unroll
    for (int d = 0; d < S::DEEP; d++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            step_softmax<HD, S::KEYS>(s[d], h, &r->most[d][h], &r->sum[d][h], r->o[d]);
    step_values<HD, FP8>(v, s, r);
}

template <int HD, bool FP8>
static __global__ void __launch_bounds__((prefill_shape<HD, FP8>::THREADS), 2) prefill(const __grid_constant__ struct prefill_args a)
{
    typedef prefill_shape<HD, FP8> S;
    SHARED_BYTES(space);
    uint8_t *q = space, *k = q + S::Q_BYTES, *v = k + S::K_BYTES, *raw = v + S::V_BYTES;
    int heads = a.call.kv.kv_heads, index = a.plan.counts->tiles - 1 - (int)blockIdx.x / heads; /* the longest first */
    if (index < 0) return;
    __shared__ struct prefill_tile t; /* takes no registers there */
    if (threadIdx.x == 0) t = tile_of(&a, a.plan.tile[index], blockIdx.x % heads, S::ROWS);
    __syncthreads();
    prefill_sums<HD, S::DEEP> r;
    begin_sums<HD, FP8>(&r);
    int step = t.first / S::KEYS, end = (t.end + S::KEYS - 1) / S::KEYS;
    copy_q<HD, FP8>(&t, q);
    copy_step<HD, FP8>(&t, step, k, v, raw);
    for (int turn = 0; step < end; step++, turn ^= 1) {
        constexpr int OTHER = S::K_BYTES + S::V_BYTES;
        uint8_t *k_now = FP8 ? k : k + turn * OTHER, *v_now = FP8 ? v : v + turn * OTHER;
        attend_copies_wait();
        __syncthreads();
        if (step + 1 < end)
            copy_step<HD, FP8>(&t, step + 1, k + (turn ^ 1) * OTHER, v + (turn ^ 1) * OTHER, raw + (turn ^ 1) * S::PAGES * S::BLOCK);
        if constexpr (FP8) {
            widen_step<HD>(raw + turn * S::PAGES * S::BLOCK, k, v);
            __syncthreads();
        }
        if ((step + 1) * S::KEYS > t.end) {
            trim_step<HD, FP8>(v_now, t.end - step * S::KEYS);
            __syncthreads();
        }
        attend_step<HD, FP8>(&t, step, q, k_now, v_now, &r);
    }
    store_sums<HD, FP8>(&t, &r);
}

/* ---- the kernels by head size ---- */

struct prefill_kernel {
    int head_dim;
    void (*tile[2])(const struct prefill_args a); /* F16, FP8 */
    int rows, bytes[2];
};
#define KERNEL(n)                                                                                                                    \
    {                                                                                                                                \
        n, {prefill<n, false>, prefill<n, true>}, prefill_shape<n, false>::ROWS,                                                     \
        {                                                                                                                            \
            prefill_shape<n, false>::BYTES, prefill_shape<n, true>::BYTES                                                            \
        }                                                                                                                            \
    }
static const struct prefill_kernel KERNELS[] = {KERNEL(64), KERNEL(80), KERNEL(96), KERNEL(128), KERNEL(256)};

static const struct prefill_kernel *find(int head_dim)
{
    for (const struct prefill_kernel &k : KERNELS)
        if (k.head_dim == head_dim) return &k;
    return NULL;
}

int prefill_rows(int head_dim, bool fp8, int shared_max)
{
    const struct prefill_kernel *k = find(head_dim);
    return k && k->bytes[fp8] <= shared_max ? k->rows : 0;
}

cudaError_t prefill_open(int head_dim, bool fp8)
{
    const struct prefill_kernel *k = find(head_dim);
    return cudaFuncSetAttribute((const void *)k->tile[fp8], cudaFuncAttributeMaxDynamicSharedMemorySize, k->bytes[fp8]);
}

cudaError_t prefill_launch(const struct attention *a, const struct attention_call *c, int tiles, cudaStream_t stream)
{
    const struct prefill_kernel *k = find(c->layer.head_dim);
    struct prefill_args args = {*c, a->plan};
    LAUNCH(k->tile[c->kv.fp8], (unsigned)(tiles * c->kv.kv_heads), 128, (size_t)k->bytes[c->kv.fp8], stream, args);
    return cudaGetLastError();
}
