/* Which pages a decoding column reads where it may not read all.
 *
 * A full page's keys are summed up by the highest and lowest of each dim. No q·k on the page is above Σ max(q_d × highest_d,
 * q_d × lowest_d) (Quest: Tang et al., 2024), which is [q⁺ q⁻]·[highest lowest], a matrix product: the group's queries × the
 * pages. A page counts as much as its best query says; the best pages are read, the lower page first where two are equal,
 * and always the first that the column sees and the newest two, the only ones that may not be full. */
#include "engine/cuda/attention_private.cuh"

enum { SPARSE_THREADS = 256, SCORE_PAGES = SPARSE_THREADS / 32 * 8 };

struct sparse_args {
    struct attention_call call;
    __half *summary;
    float *score;
    int32_t *list;
    int stride;             /* pages of a context */
    int decode_columns_max;
};

/* One column's choice. Candidates: pages (first, last - 1). */
struct choice {
    const int32_t *pages;
    int first, last; /* pages that it sees */
    int read;        /* how many of them */
    bool all;
};

static __device__ struct choice choice_of(const struct sparse_args *a, int column)
{
    const struct columns *c = &a->call.columns;
    const struct attention_layer *l = &a->call.layer;
    struct choice x;
    x.pages = c->pages + (int64_t)c->run_of[column] * c->pages_stride;
    x.first = first_seen(l->window, c->position[column]) / CUDA_PAGE_TOKENS;
    x.last = c->position[column] / CUDA_PAGE_TOKENS;
    x.read = pages_read(l->window, l->sparse_pages, c->position[column]);
    x.all = x.read == x.last - x.first + 1;
    return x;
}

static __device__ bool decodes(const struct sparse_args *a, int column)
{
    return a->call.columns.run[a->call.columns.run_of[column]].count <= a->decode_columns_max;
}

static __device__ __half *summary_at(const struct sparse_args *a, int page, int kv_head)
{
    const struct kv_cache *kv = &a->call.kv;
    return a->summary + (((int64_t)a->call.layer.layer * kv->pages + page) * kv->kv_heads + kv_head) * 2 * kv->head_dim;
}

/* A block for each column and KV head: where the column filled its page, the page's summary. */
static __global__ void __launch_bounds__(128) summarize(const __grid_constant__ struct sparse_args a)
{
    int column = blockIdx.x, kv_head = blockIdx.y, n = a.call.kv.head_dim, position = a.call.columns.position[column];
    if (position % CUDA_PAGE_TOKENS != CUDA_PAGE_TOKENS - 1) return;
    int page = choice_of(&a, column).pages[position / CUDA_PAGE_TOKENS];
    const uint8_t *block = call_blocks(&a.call, kv_head) + page * call_page_bytes(&a.call);
    const float *scale = (const float *)(block + 2 * CUDA_PAGE_TOKENS * n);
    __half *out = summary_at(&a, page, kv_head);
    for (int d = threadIdx.x; d < n; d += 128) {
        float high = -INFINITY, low = INFINITY;
        for (int i = 0; i < CUDA_PAGE_TOKENS; i++) {
            float x;
            if (a.call.kv.fp8) x = __half2float(__half(__nv_cvt_fp8_to_halfraw(block[i * n + d], __NV_E4M3))) * scale[i];
            else x = __half2float(((const __half *)block)[i * n + d]);
            high = fmaxf(high, x);
            low = fminf(low, x);
        }
        out[d] = __float2half_ru(high);
        out[n + d] = __float2half_rd(low);
    }
}

/* Eight dims of a query, those above zero and those below. */
static __device__ __forceinline__ void split_signs(const __half *q, bool there, uint32_t plus[4], uint32_t minus[4])
{
    const __half2 zero = __floats2half2_rn(0, 0);
    uint4 x = make_uint4(0, 0, 0, 0);
    if (there) x = __ldcg((const uint4 *)q);
    uint32_t w[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        __half2 h = *(__half2 *)&w[i], up = __hmax2(h, zero), down = __hmin2(h, zero);
        plus[i] = *(uint32_t *)&up;
        minus[i] = *(uint32_t *)&down;
    }
}

/* Bounds of up to 16 queries with 8 pages. Fragments as in attend.cuh. */
static __device__ __forceinline__ void bound_tile(const __half *q, int rows, const __half *summary, bool there, int n, float c[4])
{
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    c[0] = c[1] = c[2] = c[3] = 0;
#pragma unroll 2
    for (int base = 0; base < n; base += 32) {
        int dim = base + t * 8;
        bool inside = dim < n;
        uint32_t plus[2][4], minus[2][4], b[4] = {0, 0, 0, 0}, d[4] = {0, 0, 0, 0};
        if (inside && there) {
            attend_load16(b, summary + dim);
            attend_load16(d, summary + n + dim);
        }
        split_signs(q + (int64_t)g * n + dim, inside && g < rows, plus[0], minus[0]);
        split_signs(q + (int64_t)(g + 8) * n + dim, inside && g + 8 < rows, plus[1], minus[1]);
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
            attend_mma(c, plus[0][i], plus[1][i], plus[0][i + 1], plus[1][i + 1], b[i], b[i + 1]);
            attend_mma(c, minus[0][i], minus[1][i], minus[0][i + 1], minus[1][i + 1], d[i], d[i + 1]);
        }
    }
    if (g >= rows) c[0] = c[1] = -INFINITY;
    if (g + 8 >= rows) c[2] = c[3] = -INFINITY;
}

/* Blocks of 64 pages × KV heads × columns. */
static __global__ void __launch_bounds__(SPARSE_THREADS) score_pages(const __grid_constant__ struct sparse_args a)
{
    int column = blockIdx.z, kv_head = blockIdx.y, lane = threadIdx.x % 32, n = a.call.kv.head_dim;
    if (!decodes(&a, column)) return;
    struct choice x = choice_of(&a, column);
    int base = x.first + 1 + (blockIdx.x * (SPARSE_THREADS / 32) + threadIdx.x / 32) * 8;
    if (x.all || base >= x.last - 1) return;
    bool there = base + lane / 4 < x.last - 1;
    const __half *summary = there ? summary_at(&a, __ldcg(x.pages + base + lane / 4), kv_head) : NULL;
    const __half *q = a.call.q + ((int64_t)column * a.call.layer.heads + kv_head * a.call.group) * n;
    float best[2] = {-INFINITY, -INFINITY};
    for (int row = 0; row < a.call.group; row += 16) {
        float c[4];
        bound_tile(q + (int64_t)row * n, a.call.group - row, summary, there, n, c);
        best[0] = fmaxf(best[0], fmaxf(c[0], c[2]));
        best[1] = fmaxf(best[1], fmaxf(c[1], c[3]));
    }
    float *score = a.score + ((int64_t)column * a.call.kv.kv_heads + kv_head) * a.stride;
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int m = 4; m < 32; m *= 2) best[i] = fmaxf(best[i], __shfl_xor_sync(~0u, best[i], m));
        int page = base + lane * 2 + i;
        if (lane < 4 && page < x.last - 1) score[page] = best[i];
    }
}

/* Floats as whole numbers in the same order. */
static __device__ uint32_t order_of(float x)
{
    uint32_t u = __float_as_uint(x);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* The want-th highest of score[begin, end), and how many equal to it are wanted: eight bits at a time from the top. */
static __device__ uint32_t find_threshold(const float *score, int begin, int end, int want, int *equal)
{
    __shared__ int histogram[256], found, left;
    uint32_t prefix = 0, mask = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        histogram[threadIdx.x] = 0;
        __syncthreads();
        for (int i = begin + threadIdx.x; i < end; i += SPARSE_THREADS) {
            uint32_t key = order_of(score[i]);
            if ((key & mask) == prefix) atomicAdd(&histogram[key >> shift & 255], 1);
        }
        __syncthreads();
        int mine = histogram[255 - threadIdx.x], total, above = block_scan<SPARSE_THREADS>(mine, &total);
        if (above < want && want <= above + mine) {
            found = 255 - threadIdx.x;
            left = want - above;
        }
        __syncthreads();
        want = left;
        prefix |= (uint32_t)found << shift;
        mask |= 255u << shift;
    }
    *equal = want;
    return prefix;
}

/* A block for each column and KV head. */
static __global__ void __launch_bounds__(SPARSE_THREADS) choose_pages(const __grid_constant__ struct sparse_args a)
{
    int column = blockIdx.x, kv_head = blockIdx.y, equal = 0, taken = 1, ties = 0;
    if (!decodes(&a, column)) return;
    struct choice x = choice_of(&a, column);
    int64_t at = ((int64_t)column * a.call.kv.kv_heads + kv_head) * a.stride;
    int32_t *list = a.list + at;
    const float *score = a.score + at;
    if (x.all) {
        for (int i = threadIdx.x; i < x.read; i += SPARSE_THREADS) list[i] = x.first + i;
        return;
    }
    uint32_t threshold = x.read > 3 ? find_threshold(score, x.first + 1, x.last - 1, x.read - 3, &equal) : ~0u;
    for (int base = x.first + 1; base < x.last - 1 && x.read > 3; base += SPARSE_THREADS) {
        int page = base + threadIdx.x, total;
        uint32_t key = page < x.last - 1 ? order_of(score[page]) : 0;
        bool tie = page < x.last - 1 && key == threshold;
        int rank = ties + block_scan<SPARSE_THREADS>(tie, &total);
        ties += total;
        bool take = page < x.last - 1 && (key > threshold || (tie && rank < equal));
        int place = taken + block_scan<SPARSE_THREADS>(take, &total);
        taken += total;
        if (take) list[place] = page;
    }
    if (threadIdx.x == 0) {
        list[0] = x.first;
        list[x.read - 2] = x.last - 1;
        list[x.read - 1] = x.last;
    }
}

cudaError_t sparse_launch(const struct attention *a, const struct attention_call *c, int decode_columns_max, cudaStream_t stream)
{
    struct sparse_args args = {*c, a->summary, a->score, a->list, a->context_pages, decode_columns_max};
    unsigned cols = (unsigned)c->columns.cols, heads = (unsigned)c->kv.kv_heads;
    unsigned pages = (unsigned)((c->columns.context_max + CUDA_PAGE_TOKENS - 1) / CUDA_PAGE_TOKENS);
    LAUNCH(summarize, dim3(cols, heads), 128, 0, stream, args);
    LAUNCH(score_pages, dim3((pages + SCORE_PAGES - 1) / SCORE_PAGES, heads, cols), SPARSE_THREADS, 0, stream, args);
    LAUNCH(choose_pages, dim3(cols, heads), SPARSE_THREADS, 0, stream, args);
    return cudaGetLastError();
}
