/* The top of rows of logits, in order, and what each row weighs at its temperature: what the host's sampler needs nearly always.
 *
 * One block a row, one pass over it. A thread has GROUPS groups, each of up to `depth` logits, and keeps the highest of each. At least
 * LOGIT_LIST_MAX groups, and no more than fit ENTRIES logits, are as high as a bound that halving finds: everything as high as the bound
 * lies in them. Those logits are read once more, sorted, and the first are the list.
 *
 * Logits compare as whole numbers ("ranks"): the order of floats above, the lower id first below, so that no two are equal. */
#include "engine/cuda/backend.cuh"

enum { THREADS = 1024, WARPS = THREADS / 32, GROUPS = 16, LOADS = 8, ENTRIES = 4096, ID_BITS = 20 };

struct select_args {
    const float *logits; /* (rows, ld) */
    int64_t ld;
    int vocabulary, depth;
    const float *inverse;
    const struct logit_stats *stats;
    struct logit_list *lists;
};

/* 0: nothing to choose. */
static __device__ __forceinline__ uint64_t rank_of(float x, int id)
{
    if (!(x > -INFINITY)) return 0;
    uint32_t u = __float_as_uint(x + 0.f); /* one zero */
    u = u >> 31 ? ~u : u | 0x80000000u;
    return (uint64_t)u << ID_BITS | (uint32_t)((1 << ID_BITS) - 1 - id);
}

static __device__ __forceinline__ struct logit_at of_rank(uint64_t rank)
{
    uint32_t u = (uint32_t)(rank >> ID_BITS);
    struct logit_at r = {__uint_as_float(u >> 31 ? u & 0x7fffffffu : ~u), (1 << ID_BITS) - 1 - (int)(rank & ((1 << ID_BITS) - 1))};
    return r;
}

/* Where the j-th logit of a thread's group lies: a group's ids grow, neighbours are read together. */
static __device__ __forceinline__ int place(int j, int group)
{
    return (j * GROUPS + group) * THREADS + (int)threadIdx.x;
}

static __device__ __forceinline__ float weight(float x, float most, float inverse)
{
    float w = expf((x - most) * inverse);
    return x == x ? w : 0;
}

/* Every thread gets the sum. One meeting: `scratch` is not the one of the last time. */
static __device__ __forceinline__ int count_all(int v, int *scratch)
{
    for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(~0u, v, d);
    if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = v;
    __syncthreads();
    v = scratch[threadIdx.x & 31];
    for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(~0u, v, d);
    return v;
}

/* A rank such that at least `least` groups reach it and `most` at most; 0 where there are no more groups than `most`. */
static __device__ __forceinline__ uint64_t find_bound(const uint64_t *high, int least, int most, int (*scratch)[WARPS])
{
    uint64_t low = 0, end = (uint64_t)1 << (32 + ID_BITS); /* low is reached by enough, end by too few */
    int turn = 0;
    for (;;) {
        uint64_t middle = low + ((end - low) >> 1);
        int n = 0;
#pragma unroll
        for (int g = 0; g < GROUPS; g++) n += high[g] > 0 && high[g] >= (turn ? middle : 0);
        n = count_all(n, scratch[turn & 1]);
        if (turn++ == 0) {
            if (n <= most) return 0;
            continue;
        }
        if (n >= least && n <= most) return middle;
        if (n > most) low = middle;
        else end = middle;
    }
}

/* Highest first. `n` is a power of two. */
static __device__ void sort_ranks(uint64_t *rank, int n)
{
    for (int size = 2; size <= n; size *= 2)
        for (int by = size / 2; by; by /= 2) {
            for (int i = (int)threadIdx.x; i < n / 2; i += THREADS) {
                int a = 2 * i - (i & (by - 1)), b = a + by;
                uint64_t x = rank[a], y = rank[b];
                if ((x < y) == ((a & size) == 0)) rank[a] = y, rank[b] = x;
            }
            __syncthreads();
        }
}

static __global__ void __launch_bounds__(THREADS) select_kernel(struct select_args a)
{
    __shared__ uint64_t rank[ENTRIES];
    __shared__ int scratch[2][WARPS];
    __shared__ double sums[WARPS];
    __shared__ int count;
    float inverse = a.inverse[blockIdx.x];
    if (!(inverse > 0)) return;
    const float *row = a.logits + blockIdx.x * a.ld;
    struct logit_list *list = a.lists + blockIdx.x;
    float most = a.stats[blockIdx.x].max, sum = 0, lost = 0; /* lost: what rounding took from the sum (Kahan) */
    float best[GROUPS];
    int at[GROUPS];
    if (threadIdx.x == 0) count = 0;
#pragma unroll
    for (int g = 0; g < GROUPS; g++) best[g] = -INFINITY, at[g] = 0;
    for (int j = 0; j < a.depth; j++) {
#pragma unroll
        for (int first = 0; first < GROUPS; first += LOADS) {
            float x[LOADS];
#pragma unroll
            for (int u = 0; u < LOADS; u++) {
                int i = place(j, first + u);
                x[u] = i < a.vocabulary ? row[i] : -INFINITY;
            }
#pragma unroll
            for (int u = 0; u < LOADS; u += 2) {
                float pair = (weight(x[u], most, inverse) + weight(x[u + 1], most, inverse)) - lost, next = sum + pair;
                lost = (next - sum) - pair;
                sum = next;
            }
#pragma unroll
            for (int u = 0; u < LOADS; u++)
                if (x[u] > best[first + u]) best[first + u] = x[u], at[first + u] = place(j, first + u);
        }
    }
    uint64_t high[GROUPS];
#pragma unroll
    for (int g = 0; g < GROUPS; g++) high[g] = rank_of(best[g], at[g]);
    double all = (double)sum - (double)lost;
    for (int d = 16; d; d >>= 1) all += __shfl_xor_sync(~0u, all, d);
    if ((threadIdx.x & 31) == 0) sums[threadIdx.x >> 5] = all;
    uint64_t bound = find_bound(high, LOGIT_LIST_MAX, ENTRIES / a.depth, scratch);
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        if (high[g] == 0 || high[g] < bound) continue;
        for (int j = 0; j < a.depth; j++) {
            int i = place(j, g);
            if (i >= a.vocabulary) break;
            uint64_t r = rank_of(row[i], i);
            if (r > 0 && r >= bound) rank[atomicAdd(&count, 1)] = r;
        }
    }
    __syncthreads();
    int n = count, size = 1;
    while (size < n) size *= 2;
    for (int i = n + (int)threadIdx.x; i < size; i += THREADS) rank[i] = 0;
    __syncthreads();
    sort_ranks(rank, size);
    n = min(n, (int)LOGIT_LIST_MAX);
    for (int i = (int)threadIdx.x; i < n; i += THREADS) list->top[i] = of_rank(rank[i]);
    if (threadIdx.x != 0) return;
    all = 0;
    for (int i = 0; i < WARPS; i++) all += sums[i];
    list->sum = all;
    list->count = n;
}

bool select_lists_fits(int vocabulary)
{
    return vocabulary <= THREADS * GROUPS * (ENTRIES / LOGIT_LIST_MAX);
}

enum err_code select_lists(const float *logits, int64_t ld, int rows, int vocabulary, const float *inverse, const struct logit_stats *stats,
                           struct logit_list *lists, cudaStream_t stream, struct err *e)
{
    int depth = (vocabulary + THREADS * GROUPS - 1) / (THREADS * GROUPS);
    struct select_args a = {logits, ld, vocabulary, depth, inverse, stats, lists};
    LAUNCH(select_kernel, dim3((unsigned)rows), THREADS, 0, stream, a);
    return cuda_check(cudaGetLastError(), "the tops of the logits", e);
}
