/* Attention of runs of few columns: units of attend.cuh, one after another on as many blocks as fit the card. */
#include "engine/cuda/attention_private.cuh"

struct decode_args {
    struct attention_call call;
    struct plan plan;
    int first, end;         /* chunks of this launch */
    int rows;               /* from a unit's sums to the next KV head's */
    const int32_t *list;    /* sparse: (cols, kv_heads, list_stride) */
    int list_stride;
    float *o;               /* (entries of this launch, kv_heads, rows, head_dim) */
    float2 *ml;             /* (entries of this launch, kv_heads, rows) */
    int *counter;
    bool merge;             /* the last block of a chunk and KV head joins the splits */
};

static __device__ __forceinline__ int64_t sums_at(const struct decode_args *a, int entry, int kv_head)
{
    return ((int64_t)entry * a->call.kv.kv_heads + kv_head) * a->rows;
}

/* What a block works on. */
struct job {
    struct attend_unit unit;
    struct chunk chunk;
    int index, kv_head; /* of the chunk in the plan */
};

/* A warp: the job of entry `entry`. */
static __device__ __forceinline__ void find_job(const struct decode_args *a, int entry, int entry0, int kv_head, struct job *j)
{
    if (threadIdx.x % 32 == 0) {
        j->kv_head = kv_head;
        j->index = a->plan.entry[entry] >> SPLIT_BITS;
        struct chunk c = j->chunk = a->plan.chunk[j->index];
        int split = entry - c.entry, column = c.first + c.row0 / a->call.group;
        struct attend_unit *u = &j->unit;
        u->blocks = call_blocks(&a->call, kv_head);
        u->page_bytes = call_page_bytes(&a->call);
        u->pages = a->call.columns.pages + (int64_t)c.run * a->call.columns.pages_stride;
        u->list = NULL;
        u->page0 = (c.split0 + split) * ATTEND_PAGES;
        u->count = ATTEND_PAGES;
        if (a->list) {
            int pages = pages_read(a->call.layer.window, a->call.layer.sparse_pages, a->call.columns.position[column]);
            u->list = a->list + ((int64_t)column * a->call.kv.kv_heads + kv_head) * a->list_stride + split * ATTEND_PAGES;
            u->count = min(ATTEND_PAGES, pages - split * ATTEND_PAGES);
        }
        u->row0 = c.row0;
        u->rows = c.rows;
        u->group = a->call.group;
        u->position = c.position;
        u->window = a->call.layer.window;
        u->softcap = a->call.layer.softcap;
        u->ml = a->ml + sums_at(a, entry - entry0, kv_head);
        u->o = a->o + sums_at(a, entry - entry0, kv_head) * a->call.kv.head_dim;
    }
    __syncwarp();
    attend_find(&j->unit);
}

/* Q's rows of a unit to shared memory, 16 bytes a thread; zeros past the head and the rows. */
template <int HD>
static __device__ __forceinline__ void copy_q(const struct decode_args *a, const struct chunk *c, int kv_head, __half *to)
{
    const int stride = attend_q_stride(HD);
    constexpr int EACH = (HD + 31) / 32 * 4; /* 16-byte pieces of a row that K meets */
    for (int i = threadIdx.x; i < (c->rows + 15) / 16 * 16 * EACH; i += ATTEND_THREADS) {
        int row = i / EACH, dim = i % EACH * 8;
        uint4 v = make_uint4(0, 0, 0, 0);
        if (row < c->rows && dim < HD) v = __ldcg((const uint4 *)(a->call.q + call_row(&a->call, c->first, kv_head, c->row0 + row) + dim));
        *(uint4 *)(to + row * stride + dim) = v;
    }
}

static __device__ __forceinline__ struct attend_splits splits_of(const struct decode_args *a, const struct chunk *c, int entry0,
                                                                 int kv_head, int row)
{
    int64_t at = sums_at(a, c->entry - entry0, kv_head) + row;
    return {a->ml + at, a->o + at * a->call.kv.head_dim, (int64_t)a->call.kv.kv_heads * a->rows, c->split0, c->splits};
}

/* Whether this block is the last of a chunk's and KV head's to come here. */
static __device__ __forceinline__ bool is_last(const struct decode_args *a, const struct job *j)
{
    __shared__ int last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        int *counter = &a->counter[j->index * a->call.kv.kv_heads + j->kv_head], splits = j->chunk.splits;
        last = splits == 1 || atomicAdd(counter, 1) == splits - 1;
        if (last && splits > 1) *counter = 0;
    }
    __syncthreads();
    __threadfence();
    return last;
}

template <int HD>
static __device__ __forceinline__ void join_rows(const struct decode_args *a, const struct chunk *c, int entry0, int kv_head)
{
    for (int row = threadIdx.x / 32; row < c->rows; row += ATTEND_THREADS / 32) {
        struct attend_splits s = splits_of(a, c, entry0, kv_head, row);
        attend_merge<HD>(&s, a->call.bf16, a->call.out + call_row(&a->call, c->first, kv_head, c->row0 + row));
    }
}

/* The plan's entries of this launch. */
static __device__ __forceinline__ int first_entry(const struct plan *p, int chunk)
{
    return chunk < p->counts->chunks ? p->chunk[chunk].entry : p->counts->entries;
}

template <int HD, bool FP8> static constexpr int blocks_wanted = HD == 64 ? 3 : 2;

template <int HD, bool FP8>
static __global__ void __launch_bounds__(ATTEND_THREADS, (blocks_wanted<HD, FP8>)) decode(const __grid_constant__ struct decode_args a)
{
    extern __shared__ uint4 space[];
    __shared__ struct job jobs[2];
    int entry0 = first_entry(&a.plan, a.first), heads = a.call.kv.kv_heads;
    int units = (first_entry(&a.plan, a.end) - entry0) * heads;
    if (blockIdx.x >= units) return;
    if (threadIdx.x < 32) find_job(&a, entry0 + blockIdx.x / heads, entry0, blockIdx.x % heads, &jobs[0]);
    __syncthreads();
    for (int i = blockIdx.x, turn = 0; i < units; i += gridDim.x, turn ^= 1) {
        const struct job *j = &jobs[turn];
        int next = i + gridDim.x;
        attend_state<HD, FP8> s;
        attend_start<HD, FP8>(&j->unit, &s);
        copy_q<HD>(&a, &j->chunk, j->kv_head, (__half *)space);
        if (threadIdx.x < 32 && next < units) find_job(&a, entry0 + next / heads, entry0, next % heads, &jobs[turn ^ 1]);
        attend_finish<HD, FP8>(&j->unit, &s, space, a.rows);
        if (a.merge && is_last(&a, j)) join_rows<HD>(&a, &j->chunk, entry0, j->kv_head);
    }
}

/* A block of four warps for each row: warp i takes part i of the splits. */
template <int HD> static __global__ void __launch_bounds__(ATTEND_PARTS * 32) join(const __grid_constant__ struct decode_args a)
{
    __shared__ attend_sum<HD> sums[32][ATTEND_PARTS];
    int lane = threadIdx.x % 32, part = threadIdx.x / 32, chunk = a.first + blockIdx.x / (a.call.kv.kv_heads * a.rows);
    int kv_head = blockIdx.x / a.rows % a.call.kv.kv_heads, row = blockIdx.x % a.rows;
    if (chunk >= a.plan.counts->chunks || row >= a.plan.chunk[chunk].rows) return;
    struct chunk c = a.plan.chunk[chunk];
    struct attend_splits s = splits_of(&a, &c, first_entry(&a.plan, a.first), kv_head, row);
    attend_gather<HD>(&s, part, attend_highest(&s), &sums[lane][part]);
    __syncthreads();
    if (part == 0)
        attend_join<HD>(sums[lane], a.call.bf16, a.call.out + call_row(&a.call, c.first, kv_head, c.row0 + row));
}

/* ---- the kernels by head size ---- */

struct decode_kernel {
    int head_dim;
    void (*unit[2])(const struct decode_args a); /* F16, FP8 */
    void (*join)(const struct decode_args a);
};
static const struct decode_kernel KERNELS[] = {
    {64, {decode<64, false>, decode<64, true>}, join<64>},      {80, {decode<80, false>, decode<80, true>}, join<80>},
    {96, {decode<96, false>, decode<96, true>}, join<96>},      {128, {decode<128, false>, decode<128, true>}, join<128>},
    {256, {decode<256, false>, decode<256, true>}, join<256>},
};

static const struct decode_kernel *find(int head_dim)
{
    for (const struct decode_kernel &k : KERNELS)
        if (k.head_dim == head_dim) return &k;
    return NULL;
}

bool decode_has(int head_dim)
{
    return find(head_dim) != NULL;
}

cudaError_t decode_open(int head_dim, bool fp8)
{
    int bytes = attend_shared_bytes(head_dim, attend_rows(head_dim));
    return cudaFuncSetAttribute((const void *)find(head_dim)->unit[fp8], cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

cudaError_t decode_launch(const struct attention *a, const struct attention_call *c, int first, int end, int splits, int rows,
                          cudaStream_t stream)
{
    const struct decode_kernel *k = find(c->layer.head_dim);
    int heads = c->kv.kv_heads, resident = 1, bytes = attend_shared_bytes(c->layer.head_dim, rows);
    int64_t entries = (int64_t)(end - first) * splits, units = entries * heads;
    struct decode_args args = {*c, a->plan, first, end, rows, c->layer.sparse_pages > 0 ? a->list : NULL, a->context_pages, a->partial,
                               (float2 *)(a->partial + entries * heads * rows * c->layer.head_dim), a->counter,
                               splits <= MERGE_SPLITS_MAX};
    cudaError_t status = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, (const void *)k->unit[c->kv.fp8], ATTEND_THREADS,
                                                                       (size_t)bytes);
    if (status != cudaSuccess) return status;
    int64_t blocks = (int64_t)a->multiprocessors * (resident > 0 ? resident : 1);
    k->unit[c->kv.fp8]<<<(unsigned)(units < blocks ? units : blocks), ATTEND_THREADS, bytes, stream>>>(args);
    if (!args.merge) k->join<<<(unsigned)((end - first) * heads * rows), ATTEND_PARTS * 32, 0, stream>>>(args);
    return cudaGetLastError();
}
