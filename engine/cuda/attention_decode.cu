/* Attention of runs of few columns: units of attend.cuh, one after another on as many blocks as fit the card.
 *
 * A block's K and V come through a ring in shared memory that is filled some units ahead, so that memory is never waited for
 * while there is work: every thread copies (cp.async) just the bytes that it will use itself, so nobody needs to be told that
 * they are there. Which pages a unit has is looked up further ahead still. Where shared memory holds less than two pieces
 * of the ring (F16 pages on cards with 100 KiB), units read straight into registers. */
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
    int stages, q_count;    /* of the ring */
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

/* ---- looking jobs up ---- */

enum { JOBS = 16, JOBS_AT_ONCE = 4 };

/* A warp looks up four jobs at once, eight lanes (pages) each, in steps: each reads what the one before found, and may be
 * taken long after it. */
struct finder {
    int unit, packed, logical, page;
    struct chunk chunk;
};
struct launch { /* what all of a block's jobs share */
    int entry0, units;
};

static __device__ __forceinline__ void find_entry(const struct decode_args *a, const struct launch *l, struct finder *f, int unit)
{
    f->unit = unit;
    if (unit < l->units) f->packed = __ldcg(a->plan.entry + l->entry0 + unit / a->call.kv.kv_heads);
}
static __device__ __forceinline__ void find_chunk(const struct decode_args *a, const struct launch *l, struct finder *f)
{
    if (f->unit >= l->units) return;
    const int4 *from = (const int4 *)(a->plan.chunk + (f->packed >> SPLIT_BITS));
    *(int4 *)&f->chunk = __ldcg(from);
    *((int4 *)&f->chunk + 1) = __ldcg(from + 1);
}
/* The column's list of pages: sparse. */
static __device__ __forceinline__ const int32_t *list_of(const struct decode_args *a, const struct finder *f, int *count)
{
    int column = f->chunk.first + f->chunk.row0 / a->call.group, split = f->packed & ((1 << SPLIT_BITS) - 1);
    int position = f->chunk.position + f->chunk.row0 / a->call.group;
    *count = min(ATTEND_PAGES, pages_read(a->call.layer.window, a->call.layer.sparse_pages, position) - split * ATTEND_PAGES);
    int64_t row = (int64_t)column * a->call.kv.kv_heads + f->unit % a->call.kv.kv_heads;
    return a->list + row * a->list_stride + split * ATTEND_PAGES;
}
static __device__ __forceinline__ void find_logical(const struct decode_args *a, const struct launch *l, struct finder *f)
{
    int i = threadIdx.x % ATTEND_PAGES, split = f->packed & ((1 << SPLIT_BITS) - 1), count;
    f->logical = ATTEND_NOWHERE;
    if (f->unit >= l->units) return;
    f->logical = (f->chunk.split0 + split) * ATTEND_PAGES + i;
    if (!a->list) return;
    const int32_t *list = list_of(a, f, &count);
    f->logical = i < count ? __ldcg(list + i) : ATTEND_NOWHERE;
}
static __device__ __forceinline__ void find_page(const struct decode_args *a, struct finder *f)
{
    int last = f->chunk.position + (f->chunk.row0 + f->chunk.rows - 1) / a->call.group;
    int first = first_seen(a->call.layer.window, f->chunk.position + f->chunk.row0 / a->call.group);
    f->page = -1;
    if (f->logical * CUDA_PAGE_TOKENS <= last && (f->logical + 1) * CUDA_PAGE_TOKENS > first)
        f->page = __ldcg(a->call.columns.pages + (int64_t)f->chunk.run * a->call.columns.pages_stride + f->logical);
}
static __device__ __forceinline__ void find_done(const struct decode_args *a, const struct launch *l, const struct finder *f, struct job *j)
{
    int lane = threadIdx.x % 32, i = lane % ATTEND_PAGES;
    unsigned seen = __ballot_sync(~0u, f->page >= 0) >> (lane - i) & 0xff;
    if (f->unit >= l->units) return;
    struct attend_unit *u = &j->unit;
    u->logical[i] = f->page >= 0 ? f->logical : ATTEND_NOWHERE;
    u->page[i] = f->page >= 0 ? f->page : 0;
    if (i != (seen ? 31 - __clz((int)seen) : 0)) return;
    int kv_head = f->unit % a->call.kv.kv_heads, entry = f->unit / a->call.kv.kv_heads;
    j->chunk = f->chunk;
    j->index = f->packed >> SPLIT_BITS;
    j->kv_head = kv_head;
    u->blocks = call_blocks(&a->call, kv_head);
    u->page_bytes = call_page_bytes(&a->call);
    u->row0 = f->chunk.row0;
    u->rows = f->chunk.rows;
    u->group = a->call.group;
    u->position = f->chunk.position;
    u->window = a->call.layer.window;
    u->softcap = a->call.layer.softcap;
    u->ml = a->ml + sums_at(a, entry, kv_head);
    u->o = a->o + sums_at(a, entry, kv_head) * a->call.kv.head_dim;
    u->seen = seen;
    u->tail = i;
    u->there = f->chunk.position + (f->chunk.row0 + f->chunk.rows - 1) / a->call.group + 1 - f->logical * CUDA_PAGE_TOKENS;
}

/* The block's unit number k; its jobs stand in a ring. */
static __device__ __forceinline__ int unit_of(int k)
{
    return blockIdx.x + k * gridDim.x;
}

/* A warp: the four jobs from unit k on, one after another's answer. */
static __device__ __forceinline__ void find_four(const struct decode_args *a, const struct launch *l, int k, struct job *jobs)
{
    struct finder f = {};
    int ahead = threadIdx.x % 32 / ATTEND_PAGES;
    find_entry(a, l, &f, unit_of(k + ahead));
    find_chunk(a, l, &f);
    find_logical(a, l, &f);
    find_page(a, &f);
    find_done(a, l, &f, &jobs[ahead]);
}
/* Warp 0 before it works on unit k: one step for the four units from 8 + k on, which are done four units later. */
static __device__ __forceinline__ void find_more(const struct decode_args *a, const struct launch *l, int k, struct finder *f, struct job *jobs)
{
    int ahead = threadIdx.x / ATTEND_PAGES;
    switch (k % JOBS_AT_ONCE) {
    case 0:
        if (k > 0) find_done(a, l, f, &jobs[(k + JOBS_AT_ONCE + ahead) % JOBS]);
        find_entry(a, l, f, unit_of(k + 2 * JOBS_AT_ONCE + ahead));
        break;
    case 1: find_chunk(a, l, f); break;
    case 2: find_logical(a, l, f); break;
    case 3: find_page(a, f); break;
    }
}

/* Asks for Q's rows of a unit in shared memory; zeros past the head and the rows. */
template <int HD>
static __device__ __forceinline__ void copy_q(const struct decode_args *a, const struct job *j, __half *to)
{
    const struct chunk *c = &j->chunk;
    constexpr int EACH = (HD + 31) / 32 * 4; /* 16-byte pieces of a row that K meets */
    for (int i = threadIdx.x; i < (c->rows + 15) / 16 * 16 * EACH; i += ATTEND_THREADS) {
        int row = i / EACH, dim = i % EACH * 8;
        bool there = row < c->rows && dim < HD;
        const __half *from = a->call.q + (there ? call_row(&a->call, c->first, j->kv_head, c->row0 + row) + dim : 0);
        attend_copy16(to + row * attend_q_stride(HD) + dim, from, there ? 16 : 0);
    }
}

/* ---- the ring ---- */

template <int HD, bool FP8> struct ring_shape {
    typedef attend_shape<HD, FP8> S;
    static constexpr int K_PIECES = S::BLOCKS / S::LIVE, V_PIECES = ATTEND_PAGES / S::V_LIVE, PIECES = K_PIECES + V_PIECES;
    static constexpr int K_LOAD = S::WORDS * 4, V_LOAD = S::V_WORDS * 4;         /* bytes that a thread asks for at once */
    static constexpr int K_BYTES = 4 * S::LIVE * K_LOAD * ATTEND_THREADS, V_BYTES = S::V_LIVE * S::TILES * V_LOAD * ATTEND_THREADS;
    static constexpr int SCALES = FP8 ? ATTEND_THREADS / 32 * 2 * CUDA_PAGE_TOKENS * 4 : 0;
    static constexpr int BYTES = (K_BYTES > V_BYTES ? K_BYTES : V_BYTES) + SCALES; /* of a piece */
    static_assert(S::BLOCKS % S::LIVE == 0, "K is cut into even pieces");
};

/* A thread's source of K and V, and its copies on their way. Pieces follow each other as K, V, K, V … of the block's units. */
template <int HD, bool FP8> struct ring {
    typedef attend_shape<HD, FP8> S;
    typedef ring_shape<HD, FP8> R;
    const struct decode_args *a;
    const struct job *jobs;
    uint8_t *pieces, *q; /* of shared memory */
    int stages, units;   /* units: of this block */
    int q_bytes, q_count;
    int get, put;        /* stages of the piece in use and of the next to ask for */
    int unit, part;      /* of the next to ask for */
    float k_scale[FP8 ? 4 : 1][2], v_scale[FP8 ? 4 : 1][2];

    __device__ __forceinline__ uint8_t *at(int stage, int load, int bytes) const
    {
        return pieces + stage * R::BYTES + (load * ATTEND_THREADS + threadIdx.x) * bytes;
    }
    __device__ __forceinline__ void copy_k(const struct attend_unit *u, int piece)
    {
        int lane = threadIdx.x % 32, warp = threadIdx.x / 32, seen = u->seen >> warp & 1;
        const uint8_t *page = attend_block(u, warp);
#pragma unroll
        for (int i = 0; i < 4 * S::LIVE; i++) {
            int dim = (piece * S::LIVE + i / 4) * 4 * S::CHUNK + lane % 4 * S::CHUNK;
            const uint8_t *from = page + ((i % 4 * 8 + lane / 4) * HD + dim) * S::ELEMENT;
            bool there = seen && (HD % (4 * S::CHUNK) == 0 || dim < HD);
            if constexpr (R::K_LOAD == 16) attend_copy16(at(put, i, 16), there ? from : page, there ? 16 : 0);
            else attend_copy8(at(put, i, 8), there ? from : page, there ? 8 : 0);
        }
        if (FP8 && lane < 16 && piece == 0)
            attend_copy16(scales(put) + lane * 4, page + 2 * CUDA_PAGE_TOKENS * HD + lane * 16, seen ? 16 : 0);
    }
    __device__ __forceinline__ float *scales(int stage) const
    {
        return (float *)(pieces + (stage + 1) * R::BYTES - R::SCALES) + threadIdx.x / 32 * 2 * CUDA_PAGE_TOKENS;
    }
    __device__ __forceinline__ void copy_v(const struct attend_unit *u, int piece)
    {
        int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
        for (int n = 0; n < S::V_LIVE; n++) {
            int p = piece * S::V_LIVE + n, seen = u->seen >> p & 1;
            const uint8_t *page = attend_block(u, p);
#pragma unroll
            for (int i = 0; i < S::TILES; i++) {
                int dim = (warp + i * 8) * 8 + lane / 4;
                const uint8_t *from = page + (CUDA_PAGE_TOKENS * HD + dim * CUDA_PAGE_TOKENS + lane % 4 * 8) * S::ELEMENT;
                if (HD % 64 && dim >= HD) continue;
                if constexpr (FP8) attend_copy8(at(put, n * S::TILES + i, 8), from, seen ? 8 : 0);
                else attend_copy16(at(put, n * S::TILES + i, 16), from, seen ? 16 : 0);
            }
        }
    }
    __device__ __forceinline__ __half *q_of(int k) const
    {
        return (__half *)(q + k % q_count * q_bytes);
    }
    /* Asks for the next piece. */
    __device__ __forceinline__ void ask()
    {
        if (unit < units) {
            const struct job *j = &jobs[unit % JOBS];
            if (part == 0) copy_q<HD>(a, j, q_of(unit));
            if (part < R::K_PIECES) copy_k(&j->unit, part);
            else copy_v(&j->unit, part - R::K_PIECES);
        }
        attend_copies_commit();
        put = put + 1 == stages ? 0 : put + 1;
        part = part + 1 == R::PIECES ? 0 : part + 1;
        if (part == 0) unit++;
    }
    /* The piece in use is free: ask for another in its place, go on to the next. */
    __device__ __forceinline__ void turn()
    {
        ask();
        get = get + 1 == stages ? 0 : get + 1;
    }
    __device__ __forceinline__ void wait() const
    {
        attend_groups_wait(stages - 1);
    }

    __device__ __forceinline__ void start()
    {
        wait();
        if constexpr (FP8) {
            __syncwarp(); /* lanes have copied the scales for each other */
            const float *from = scales(get) + threadIdx.x % 4 * 2;
#pragma unroll
            for (int n = 0; n < 4; n++) {
                *(float2 *)k_scale[n] = *(const float2 *)(from + n * 8);
                *(float2 *)v_scale[n] = *(const float2 *)(from + CUDA_PAGE_TOKENS + n * 8);
            }
        }
    }
    __device__ __forceinline__ void k(int block, int n, uint32_t w[S::WORDS]) const
    {
        const uint8_t *from = at(get, block % S::LIVE * 4 + n, R::K_LOAD);
        if constexpr (R::K_LOAD == 16) *(uint4 *)w = *(const uint4 *)from;
        else *(uint2 *)w = *(const uint2 *)from;
    }
    __device__ __forceinline__ void k_next(int block)
    {
        if (block + 1 == S::BLOCKS || (block + 1) % S::LIVE) return;
        turn();
        wait();
    }
    __device__ __forceinline__ void k_done()
    {
        turn();
    }
    __device__ __forceinline__ void v_start()
    {
        wait();
    }
    __device__ __forceinline__ void v(int p, int i, uint32_t w[S::V_WORDS]) const
    {
        const uint8_t *from = at(get, p % S::V_LIVE * S::TILES + i, R::V_LOAD);
        if constexpr (R::V_LOAD == 16) *(uint4 *)w = *(const uint4 *)from;
        else *(uint2 *)w = *(const uint2 *)from;
    }
    __device__ __forceinline__ void v_next(int p)
    {
        if (p + 1 == ATTEND_PAGES || (p + 1) % S::V_LIVE) return;
        turn();
        wait();
    }
    __device__ __forceinline__ void v_done()
    {
        turn();
    }
};

/* ---- joining ---- */

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

/* Blocks of a multiprocessor. Two have something to do while one waits at a barrier; F16 pages of large heads fill the
 * memory with one. */
template <int HD, bool FP8> static constexpr int blocks_wanted = HD > 128 || (HD > 64 && !FP8) ? 1 : 2;

template <int HD, bool FP8>
static __global__ void __launch_bounds__(ATTEND_THREADS, (blocks_wanted<HD, FP8>)) decode_ring(const __grid_constant__ struct decode_args a)
{
    extern __shared__ uint4 space[];
    __shared__ struct job jobs[JOBS];
    struct launch l;
    l.entry0 = first_entry(&a.plan, a.first);
    l.units = (first_entry(&a.plan, a.end) - l.entry0) * a.call.kv.kv_heads;
    if ((int)blockIdx.x >= l.units) return;
    if (threadIdx.x < 64) find_four(&a, &l, threadIdx.x / 32 * JOBS_AT_ONCE, jobs + threadIdx.x / 32 * JOBS_AT_ONCE);
    struct finder f = {};
    struct ring<HD, FP8> r;
    r.a = &a;
    r.jobs = jobs;
    r.pieces = (uint8_t *)space;
    r.stages = a.stages;
    r.units = (l.units - (int)blockIdx.x + (int)gridDim.x - 1) / (int)gridDim.x;
    r.q = r.pieces + r.stages * ring_shape<HD, FP8>::BYTES;
    r.q_bytes = (a.rows + 15) / 16 * 16 * attend_q_stride(HD) * 2;
    r.q_count = a.q_count;
    r.get = r.put = r.unit = r.part = 0;
    struct attend_space s = attend_space(r.q + r.q_count * r.q_bytes, a.rows);
    __syncthreads();
    for (int i = 0; i < r.stages; i++) r.ask();
    for (int k = 0; k < r.units; k++) {
        const struct job *j = &jobs[k % JOBS];
        if (threadIdx.x < 32) find_more(&a, &l, k, &f, jobs);
        r.start();
        attend_finish<HD, FP8>(&j->unit, &r, r.q_of(k), &s);
        if (a.merge && is_last(&a, j)) join_rows<HD>(&a, &j->chunk, l.entry0, j->kv_head);
    }
}

/* One unit at a time, straight into registers. */
template <int HD, bool FP8>
static __global__ void __launch_bounds__(ATTEND_THREADS, 2) decode_plain(const __grid_constant__ struct decode_args a)
{
    extern __shared__ uint4 space[];
    __shared__ struct job jobs[JOBS_AT_ONCE];
    struct launch l;
    l.entry0 = first_entry(&a.plan, a.first);
    l.units = (first_entry(&a.plan, a.end) - l.entry0) * a.call.kv.kv_heads;
    int units = (l.units - (int)blockIdx.x + (int)gridDim.x - 1) / (int)gridDim.x;
    for (int k = 0; k < units; k++) {
        const struct job *j = &jobs[k % JOBS_AT_ONCE];
        if (k % JOBS_AT_ONCE == 0) {
            __syncthreads();
            if (threadIdx.x < 32) find_four(&a, &l, k, jobs);
            __syncthreads();
        }
        copy_q<HD>(&a, j, (__half *)space);
        attend_copies_wait();
        attend_run<HD, FP8>(&j->unit, space, a.rows);
        if (a.merge && is_last(&a, j)) join_rows<HD>(&a, &j->chunk, l.entry0, j->kv_head);
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
    void (*ring[2])(const struct decode_args a); /* F16, FP8 */
    void (*plain[2])(const struct decode_args a);
    void (*join)(const struct decode_args a);
    int piece_bytes[2], pieces[2], blocks[2];
};
#define KERNEL(n)                                                                                                                    \
    {                                                                                                                                \
        n, {decode_ring<n, false>, decode_ring<n, true>}, {decode_plain<n, false>, decode_plain<n, true>}, join<n>,                  \
            {ring_shape<n, false>::BYTES, ring_shape<n, true>::BYTES}, {ring_shape<n, false>::PIECES, ring_shape<n, true>::PIECES},  \
        {                                                                                                                            \
            blocks_wanted<n, false>, blocks_wanted<n, true>                                                                          \
        }                                                                                                                            \
    }
static const struct decode_kernel KERNELS[] = {KERNEL(64), KERNEL(80), KERNEL(96), KERNEL(128), KERNEL(256)};
enum { RESERVED = 1024, STAGES_MAX = 6, JOBS_BYTES = 4096 /* and other shared memory that is not asked for at the launch */ };

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

/* How a launch is laid out. */
struct layout {
    int stages, q_count, bytes, blocks; /* stages 0: plain */
};

static struct layout try_ring(const struct attention *a, const struct decode_kernel *k, bool fp8, int rows, int blocks)
{
    int q = (rows + 15) / 16 * 16 * attend_q_stride(k->head_dim) * 2, beside = attend_shared_bytes(k->head_dim, rows) - q;
    int all = a->shared_multiprocessor / blocks - RESERVED - JOBS_BYTES;
    if (all > a->shared_max - JOBS_BYTES) all = a->shared_max - JOBS_BYTES;
    struct layout l = {0, 2, 0, blocks};
    for (int stages = STAGES_MAX; stages >= 2 && l.stages == 0; stages--) {
        int ahead = (stages + k->pieces[fp8] - 1) / k->pieces[fp8]; /* units whose Q may be there beside the one in use */
        l.q_count = ahead + 1;
        l.bytes = stages * k->piece_bytes[fp8] + l.q_count * q + beside;
        if (l.bytes <= all) l.stages = stages;
    }
    return l;
}

static struct layout layout_of(const struct attention *a, const struct decode_kernel *k, bool fp8, int rows)
{
    struct layout l = {};
    for (int blocks = k->blocks[fp8]; blocks >= 1 && l.stages == 0; blocks--) l = try_ring(a, k, fp8, rows, blocks);
    if (l.stages == 0) l = {0, 0, attend_shared_bytes(k->head_dim, rows), 2};
    return l;
}

cudaError_t decode_open(const struct attention *a, int head_dim, bool fp8)
{
    const struct decode_kernel *k = find(head_dim);
    cudaError_t status = cudaFuncSetAttribute((const void *)k->ring[fp8], cudaFuncAttributeMaxDynamicSharedMemorySize, a->shared_max - JOBS_BYTES);
    if (status != cudaSuccess) return status;
    int bytes = attend_shared_bytes(head_dim, attend_rows(head_dim));
    return cudaFuncSetAttribute((const void *)k->plain[fp8], cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

cudaError_t decode_launch(const struct attention *a, const struct attention_call *c, int first, int end, int splits, int rows,
                          cudaStream_t stream)
{
    const struct decode_kernel *k = find(c->layer.head_dim);
    struct layout l = layout_of(a, k, c->kv.fp8, rows);
    int heads = c->kv.kv_heads;
    int64_t entries = (int64_t)(end - first) * splits, units = entries * heads, blocks = (int64_t)a->multiprocessors * l.blocks;
    struct decode_args args = {*c, a->plan, first, end, rows, c->layer.sparse_pages > 0 ? a->list : NULL, a->context_pages, a->partial,
                               (float2 *)(a->partial + entries * heads * rows * c->layer.head_dim), a->counter,
                               splits <= MERGE_SPLITS_MAX, l.stages, l.q_count};
    void (*unit)(const struct decode_args a) = (l.stages ? k->ring : k->plain)[c->kv.fp8], (*join_all)(const struct decode_args a) = k->join;
    unit<<<(unsigned)(units < blocks ? units : blocks), ATTEND_THREADS, l.bytes, stream>>>(args);
    if (!args.merge) join_all<<<(unsigned)((end - first) * heads * rows), ATTEND_PARTS * 32, 0, stream>>>(args);
    return cudaGetLastError();
}
