/* Inside attention: what its kernels share.
 *
 *   place      bias, norm and rotation; Q to `q`, K and V to their pages. Its first block makes the plan, once for layers alike.
 *   decode     runs of few columns (all runs, if invariant): chunks of query rows × KV heads × splits of positions, the
 *              splits joined by the last block to come, or by a kernel of their own where they are many
 *   prefill    the other runs: tiles of query rows × KV heads, each over all its positions
 *   general    head sizes that have no kernel: a block for each column and head
 *   sparse     before decode: scores of pages, and a list of the pages to read for each column and KV head
 *
 * The host knows how many runs there are and how long they are, and launches as many blocks as that can need; which unit is
 * whose is read from the plan, so a captured graph stays right while sequences grow up to context_max. */
#ifndef RUNG_ENGINE_CUDA_ATTENTION_PRIVATE_CUH
#define RUNG_ENGINE_CUDA_ATTENTION_PRIVATE_CUH

#include "engine/cuda/attend.cuh"

#include <cuda_fp8.h>

enum {
    DECODE_COLUMNS_MAX = 32,   /* a run of more goes through prefill */
    MERGE_SPLITS_MAX = 16,     /* with more splits their sums are joined by a kernel of its own */
    HEAD_DIM_MAX = 512,
    SPLIT_BITS = 14,           /* of an entry of the plan: chunk << SPLIT_BITS | split of the chunk */
    PLACE_THREADS = 256
};
static const int64_t PARTIAL_BYTES_MAX = 256 << 20;

/* Query rows of one run that are worked on together: see attend.cuh. */
struct alignas(16) chunk {
    int run, row0, rows, position; /* position: of the run's first column */
    int split0, splits; /* the first split, of ATTEND_SPLIT positions (sparse: of the list's pages, from 0), and how many */
    int entry;          /* of its first split */
    int first;          /* column of the run */
};
struct tile {
    int run, index; /* of the run's tiles of query rows */
};
/* What a step's blocks find their work in. Everything lies on the device. */
struct counts {
    int chunks, entries, tiles;
};
struct plan {
    struct counts *counts;
    struct chunk *chunk;
    int32_t *entry;
    struct tile *tile;
};

/* How the plan is to be made. */
struct planner {
    struct plan plan;
    int chunk_rows, tile_rows, decode_columns_max;
    int group, window, sparse_pages;
};

struct attention {
    struct attention_options options;
    int multiprocessors, shared_max, shared_multiprocessor; /* shared memory of a block at most, of a multiprocessor */
    int chunks_max, splits_max, tiles_max;
    __half *q;          /* (cols_max, heads × head_dim): ready to be multiplied with K */
    float *partial;     /* splits' sums, then their maxima: PARTIAL bytes */
    int64_t partial_bytes;
    int *counter;       /* (chunks_max, kv_heads) zero between launches */
    struct plan plan;
    __half *summary;    /* (layers, pages, kv_heads, 2, head_dim): highest, lowest of a full page's keys */
    float *score;       /* (cols_max, kv_heads, pages of a context) */
    int32_t *list;      /* the same shape: the pages to read */
    int context_pages;  /* of a context, at most */
};

/* One call. By value into every kernel. */
struct attention_call {
    struct attention_layer layer;
    struct kv_cache kv;
    struct columns columns;
    const __half *q;
    uint16_t *out;
    bool bf16;
    int group;
};

static __device__ __forceinline__ const uint8_t *call_blocks(const struct attention_call *c, int kv_head)
{
    int64_t bytes = kv_block_bytes(c->kv.head_dim, c->kv.fp8);
    return c->kv.base + ((int64_t)c->layer.layer * c->kv.pages * c->kv.kv_heads + kv_head) * bytes;
}
/* From a page's block of a head to the next page's. */
static __device__ __forceinline__ int64_t call_page_bytes(const struct attention_call *c)
{
    return c->kv.kv_heads * kv_block_bytes(c->kv.head_dim, c->kv.fp8);
}
/* Where row R of a run that begins at column `first` stands in q and out, in elements. */
static __device__ __forceinline__ int64_t call_row(const struct attention_call *c, int first, int kv_head, int row)
{
    int64_t column = first + row / c->group;
    return (column * c->layer.heads + kv_head * c->group + row % c->group) * c->kv.head_dim;
}
static inline __host__ __device__ int first_seen(int window, int position)
{
    return window > 0 && position >= window ? position - window + 1 : 0;
}

/* How many pages a column at `position` reads of those it sees: all, or sparse_pages, 3 at least (the first, the newest two). */
static inline __host__ __device__ int pages_read(int window, int sparse_pages, int position)
{
    int pages = position / CUDA_PAGE_TOKENS - first_seen(window, position) / CUDA_PAGE_TOKENS + 1, most = sparse_pages < 3 ? 3 : sparse_pages;
    return pages < most ? pages : most;
}

/* Exclusive sum over the block's THREADS threads. */
template <int THREADS> static __device__ int block_scan(int value, int *total)
{
    __shared__ int sums[THREADS / 32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, sum = value, before = 0;
#pragma unroll
    for (int i = 1; i < 32; i *= 2) {
        int other = __shfl_up_sync(~0u, sum, i);
        if (lane >= i) sum += other;
    }
    __syncthreads();
    if (lane == 31) sums[warp] = sum;
    __syncthreads();
    *total = 0;
    for (int i = 0; i < THREADS / 32; i++) {
        if (i < warp) before += sums[i];
        *total += sums[i];
    }
    return before + sum - value;
}

/* ---- launches, each in its own file; a kernel for head_dim is there or not ---- */

cudaError_t place_launch(const struct attention *a, const struct attention_call *c, const struct planner *p, const float *qkv,
                         int64_t ldqkv, cudaStream_t stream);

bool decode_has(int head_dim);
cudaError_t decode_open(const struct attention *a, int head_dim, bool fp8); /* shared memory's limit */
/* Chunks [first, end) of the plan; at most `splits` of each; `rows` of the largest. */
cudaError_t decode_launch(const struct attention *a, const struct attention_call *c, int first, int end, int splits, int rows,
                          cudaStream_t stream);

/* Query rows of a tile, or 0: no kernel for this head_dim, or too little shared memory here. */
int prefill_rows(int head_dim, bool fp8, int shared_max);
cudaError_t prefill_open(int head_dim, bool fp8);
cudaError_t prefill_launch(const struct attention *a, const struct attention_call *c, int tiles, cudaStream_t stream);

cudaError_t general_launch(const struct attention_call *c, cudaStream_t stream);

/* Summaries of the pages that this call has filled; then the lists of the columns whose runs decode. */
cudaError_t sparse_launch(const struct attention *a, const struct attention_call *c, int decode_columns_max, cudaStream_t stream);

#endif
