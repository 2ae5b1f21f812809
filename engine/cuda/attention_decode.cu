/* Attention of runs of few columns: units of attend.cuh, one after another on as many blocks as fit the card.
 *
 * A block asks for the K and V of its next unit while it works on one; where they are was looked up some units ahead. */
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

/* Where the rows of a split stand among the sums. */
static __device__ __forceinline__ int64_t sums_at(const struct decode_args *a, int entry, int kv_head)
{
    return ((int64_t)entry * a->call.kv.kv_heads + kv_head) * a->rows;
}

/* What a block works on. */
struct job {
    struct attend_unit unit;
    struct chunk chunk;
    int index, kv_head; /* of the chunk in the plan */
    int64_t sums;
};

/* ---- looking jobs up ---- */

enum { JOBS = 16, JOBS_AT_ONCE = 4 };

/* A warp looks up four jobs at once, eight lanes (pages) each, in steps: each asks for what the one before found, and the
 * next may be taken long after it. All of it stands in shared memory: registers belong to K and V. */
struct alignas(16) finder {
    struct chunk chunk;
    int unit, packed;
    int logical[ATTEND_PAGES], page[ATTEND_PAGES];
};
struct launch { /* what all of a block's jobs share */
    int entry0, units;
};

static __device__ __forceinline__ bool find_goes_on(const struct launch *l, const struct finder *f)
{
    attend_copies_wait();
    __syncwarp();
    return f->unit < l->units;
}
static __device__ __forceinline__ void find_entry(const struct decode_args *a, const struct launch *l, struct finder *f, int unit)
{
    __syncwarp();
    if (threadIdx.x % ATTEND_PAGES) return;
    f->unit = unit;
    if (unit < l->units) attend_copy4(&f->packed, a->plan.entry + l->entry0 + unit / a->call.kv.kv_heads);
}
static __device__ __forceinline__ void find_chunk(const struct decode_args *a, const struct launch *l, struct finder *f)
{
    int i = threadIdx.x % ATTEND_PAGES;
    if (find_goes_on(l, f) && i < 2) attend_copy16((int4 *)&f->chunk + i, (const int4 *)(a->plan.chunk + (f->packed >> SPLIT_BITS)) + i, 16);
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
    int i = threadIdx.x % ATTEND_PAGES, count = ATTEND_PAGES;
    if (!find_goes_on(l, f)) return;
    const int32_t *list = a->list ? list_of(a, f, &count) : NULL;
    if (list && i < count) attend_copy4(&f->logical[i], list + i);
    else f->logical[i] = i < count ? (f->chunk.split0 + (f->packed & ((1 << SPLIT_BITS) - 1))) * ATTEND_PAGES + i : ATTEND_NOWHERE;
}
static __device__ __forceinline__ void find_page(const struct decode_args *a, const struct launch *l, struct finder *f)
{
    if (!find_goes_on(l, f)) return;
    int i = threadIdx.x % ATTEND_PAGES, logical = f->logical[i];
    int last = f->chunk.position + (f->chunk.row0 + f->chunk.rows - 1) / a->call.group;
    int first = first_seen(a->call.layer.window, f->chunk.position + f->chunk.row0 / a->call.group);
    bool seen = logical * CUDA_PAGE_TOKENS <= last && (logical + 1) * CUDA_PAGE_TOKENS > first;
    if (seen) attend_copy4(&f->page[i], a->call.columns.pages + (int64_t)f->chunk.run * a->call.columns.pages_stride + logical);
    else f->page[i] = -1;
}
static __device__ __forceinline__ void find_done(const struct decode_args *a, const struct launch *l, const struct finder *f, struct job *j)
{
    int lane = threadIdx.x % 32, i = lane % ATTEND_PAGES;
    bool goes_on = find_goes_on(l, f);
    unsigned seen = __ballot_sync(~0u, goes_on && f->page[i] >= 0) >> (lane - i) & 0xff;
    if (!goes_on) return;
    struct attend_unit *u = &j->unit;
    u->logical[i] = f->page[i] >= 0 ? f->logical[i] : ATTEND_NOWHERE;
    u->page[i] = f->page[i] >= 0 ? f->page[i] : 0;
    if (i != (seen ? 31 - __clz((int)seen) : 0)) return;
    int kv_head = f->unit % a->call.kv.kv_heads, split = f->packed & ((1 << SPLIT_BITS) - 1);
    j->chunk = f->chunk;
    j->index = f->packed >> SPLIT_BITS;
    j->kv_head = kv_head;
    j->sums = sums_at(a, f->chunk.entry + split - l->entry0, kv_head);
    u->blocks = call_blocks(&a->call, kv_head);
    u->page_bytes = call_page_bytes(&a->call);
    u->q = a->call.q + call_row(&a->call, f->chunk.first, kv_head, 0);
    u->heads = a->call.layer.heads;
    u->row0 = f->chunk.row0;
    u->rows = f->chunk.rows;
    u->group = a->call.group;
    u->position = f->chunk.position;
    u->window = a->call.layer.window;
    u->softcap = a->call.layer.softcap;
    u->seen = seen;
    u->tail = i;
    u->there = f->chunk.position + (f->chunk.row0 + f->chunk.rows - 1) / a->call.group + 1 - f->logical[i] * CUDA_PAGE_TOKENS;
}

/* The block's unit number k; its jobs stand in a ring. */
static __device__ __forceinline__ int unit_of(int k)
{
    return blockIdx.x + k * gridDim.x;
}

/* A warp: the four jobs from unit k on, one after another's answer. */
static __device__ __forceinline__ void find_four(const struct decode_args *a, const struct launch *l, int k, struct finder *f, struct job *jobs)
{
    int ahead = threadIdx.x % 32 / ATTEND_PAGES;
    find_entry(a, l, f + ahead, unit_of(k + ahead));
    find_chunk(a, l, f + ahead);
    find_logical(a, l, f + ahead);
    find_page(a, l, f + ahead);
    find_done(a, l, f + ahead, &jobs[ahead]);
}
/* Warp 0 before it works on unit k: one step for the four units from 8 + k on, which are done four units later. */
static __device__ __forceinline__ void find_more(const struct decode_args *a, const struct launch *l, int k, struct finder *f, struct job *jobs)
{
    int ahead = threadIdx.x / ATTEND_PAGES;
    switch (k % JOBS_AT_ONCE) {
    case 0:
        if (k > 0) find_done(a, l, f + ahead, &jobs[(k + JOBS_AT_ONCE + ahead) % JOBS]);
        find_entry(a, l, f + ahead, unit_of(k + 2 * JOBS_AT_ONCE + ahead));
        break;
    case 1: find_chunk(a, l, f + ahead); break;
    case 2: find_logical(a, l, f + ahead); break;
    case 3: find_page(a, l, f + ahead); break;
    }
}

/* ---- a unit ---- */

/* A warp: what its row of a piece comes to. The only split's is the output; others wait to be joined. */
template <int HD>
static __device__ __forceinline__ void leave(const struct decode_args *a, const struct job *j, int row, int piece, float2 ml, float o[4])
{
    constexpr int PIECE = attend_meeting<HD>::PIECE;
    int lane = threadIdx.x % 32, dim = piece * PIECE + lane * 4;
    if (lane * 4 >= PIECE) return;
    if (j->chunk.splits == 1) {
        float scale = 1 / ml.y;
#pragma unroll
        for (int i = 0; i < 4; i++) o[i] *= scale;
        attend_store(a->call.out + call_row(&a->call, j->chunk.first, j->kv_head, j->chunk.row0 + row) + dim, a->call.bf16, o);
        return;
    }
    *(float4 *)(a->o + (j->sums + row) * HD + dim) = make_float4(o[0], o[1], o[2], o[3]);
    if (lane == 0 && piece == 0) a->ml[j->sums + row] = ml;
}

/* Eight rows of a unit. After the last ones of a unit its registers go to the next, where there is one. */
template <int HD, bool FP8>
static __device__ __forceinline__ void work(const struct decode_args *a, const struct job *j, const struct attend_unit *next, int row,
                                            attend_registers<HD, FP8> *r, attend_meeting<HD> *meeting, int *turn)
{
    typedef attend_shape<HD, FP8> S;
    const struct attend_unit *u = &j->unit;
    int warp = threadIdx.x / 32;
    bool sees = attend_sees(u), more = row + ATTEND_ROWS < u->rows;
    float c[4][4] = {};
    float2 ml = {};
    uint32_t p[4] = {};
#pragma unroll
    for (int i = 0; i < S::PIECES; i++) {
        if (sees) attend_scores<HD, FP8>(r->words[i % 2], r->q[i], c);
        if (S::PIECES > 1) attend_load(r, u, i + 2);
        else if (next && !more) attend_load(r, next, 0);
    }
    if (more || next) attend_load_q(r, more ? u : next, more ? row + ATTEND_ROWS : 0);
    if (sees) ml = attend_softmax(u, r, c, row, p);
    if (next && !more) attend_load_scales(r, next);
#pragma unroll
    for (int i = 0; i < S::PIECES; i++, *turn ^= 1) {
        attend_meeting<HD> *m = meeting + *turn;
        if (sees) {
            attend_values<HD, FP8>(u, r->words[(S::PIECES + i) % 2], p, m->o[warp][0]);
            if (threadIdx.x % 4 == 0) m->ml[warp][threadIdx.x % 32 / 4] = ml;
        }
        if (next && !more) attend_load(r, next, S::PIECES > 1 ? i : 1);
        __syncthreads(); /* none is needed after the fold: two places take turns */
        float o[4];
        if (row + warp >= u->rows) continue;
        float2 sum = attend_fold<HD>(m, u->seen, o);
        leave<HD>(a, j, row + warp, i, sum, o);
    }
}

/* ---- joining ---- */

static __device__ __forceinline__ struct attend_splits splits_of(const struct decode_args *a, const struct chunk *c, int entry0,
                                                                 int kv_head, int row)
{
    int64_t at = sums_at(a, c->entry - entry0, kv_head) + row;
    return {a->ml + at, a->o + at * a->call.kv.head_dim, (int64_t)a->call.kv.kv_heads * a->rows, c->split0, c->splits};
}

/* A thread, after a barrier behind the unit's sums: whether the block is the last of a chunk's and KV head's to come here. */
static __device__ __forceinline__ bool is_last(const struct decode_args *a, const struct job *j)
{
    int *counter = &a->counter[j->index * a->call.kv.kv_heads + j->kv_head], splits = j->chunk.splits;
    if (splits == 1) return false;
    __threadfence();
    bool last = atomicAdd(counter, 1) == splits - 1;
    if (last) *counter = 0;
    return last;
}

template <int HD>
static __device__ __forceinline__ void join_rows(const struct decode_args *a, const struct job *j, int entry0)
{
    const struct chunk *c = &j->chunk;
    __threadfence();
    for (int row = threadIdx.x / 32; row < c->rows; row += ATTEND_THREADS / 32) {
        struct attend_splits s = splits_of(a, c, entry0, j->kv_head, row);
        attend_merge<HD>(&s, a->call.bf16, a->call.out + call_row(&a->call, c->first, j->kv_head, c->row0 + row));
    }
}

/* The plan's entries of this launch. */
static __device__ __forceinline__ int first_entry(const struct plan *p, int chunk)
{
    return chunk < p->counts->chunks ? p->chunk[chunk].entry : p->counts->entries;
}

/* Blocks of a multiprocessor: as many as registers allow. */
template <int HD, bool FP8> static constexpr int blocks_wanted = attend_shape<HD, FP8>::ALL > 32 || HD > 128 ? 1 : 2;

template <int HD, bool FP8>
static __global__ void __launch_bounds__(ATTEND_THREADS, (blocks_wanted<HD, FP8>)) decode(const __grid_constant__ struct decode_args a)
{
    extern __shared__ uint4 space[];
    __shared__ struct job jobs[JOBS];
    __shared__ struct finder finders[2 * JOBS_AT_ONCE];
    __shared__ bool last[2]; /* of units k % 2 */
    attend_meeting<HD> *meeting = (attend_meeting<HD> *)space;
    struct launch l;
    l.entry0 = first_entry(&a.plan, a.first);
    l.units = (first_entry(&a.plan, a.end) - l.entry0) * a.call.kv.kv_heads;
    int units = (l.units - (int)blockIdx.x + (int)gridDim.x - 1) / (int)gridDim.x, turn = 0;
    if ((int)blockIdx.x >= l.units) return;
    if (threadIdx.x < 64) {
        int k = threadIdx.x / 32 * JOBS_AT_ONCE;
        find_four(&a, &l, k, finders + k, jobs + k);
    }
    attend_registers<HD, FP8> r = {};
    __syncthreads();
    attend_load_q(&r, &jobs[0].unit, 0);
    attend_load(&r, &jobs[0].unit, 0);
    attend_load_scales(&r, &jobs[0].unit);
    attend_load(&r, &jobs[0].unit, 1);
    /* A unit's sums are counted after the next one's barrier, and joined after that of the one that follows. */
    for (int k = 0; k < units + 2; k++) {
        const struct job *j = &jobs[k % JOBS], *before = &jobs[(k + JOBS - 1) % JOBS], *older = &jobs[(k + JOBS - 2) % JOBS];
        if (k < units) {
            if (threadIdx.x < 32) find_more(&a, &l, k, finders, jobs);
            const struct attend_unit *next = k + 1 < units ? &jobs[(k + 1) % JOBS].unit : NULL;
            for (int row = 0; row < j->unit.rows; row += ATTEND_ROWS) work<HD, FP8>(&a, j, next, row, &r, meeting, &turn);
        } else {
            __syncthreads();
        }
        if (!a.merge) continue;
        if (k > 1 && last[k % 2]) join_rows<HD>(&a, older, l.entry0);
        if (threadIdx.x == ATTEND_THREADS / 2 && k > 0 && k <= units) last[(k - 1) % 2] = is_last(&a, before);
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
    void (*decode[2])(const struct decode_args a); /* F16, FP8 */
    void (*join)(const struct decode_args a);
    int bytes, blocks[2];
};
#define KERNEL(n)                                                                                                                \
    {                                                                                                                            \
        n, {decode<n, false>, decode<n, true>}, join<n>, 2 * (int)sizeof(attend_meeting<n>), { blocks_wanted<n, false>, blocks_wanted<n, true> } \
    }
static const struct decode_kernel KERNELS[] = {KERNEL(64), KERNEL(80), KERNEL(96), KERNEL(128), KERNEL(256)};
enum { BESIDE = 6144 /* shared memory that is not asked for at the launch */ };

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

cudaError_t decode_open(const struct attention *a, int head_dim, bool fp8)
{
    (void)a;
    const struct decode_kernel *k = find(head_dim);
    return cudaFuncSetAttribute((const void *)k->decode[fp8], cudaFuncAttributeMaxDynamicSharedMemorySize, k->bytes);
}

cudaError_t decode_launch(const struct attention *a, const struct attention_call *c, int first, int end, int splits, int rows,
                          cudaStream_t stream)
{
    const struct decode_kernel *k = find(c->layer.head_dim);
    bool fp8 = c->kv.fp8;
    int heads = c->kv.kv_heads, fit = a->shared_multiprocessor / (k->bytes + BESIDE);
    int64_t entries = (int64_t)(end - first) * splits, units = entries * heads;
    int64_t blocks = (int64_t)a->multiprocessors * (fit < 1 ? 1 : fit < k->blocks[fp8] ? fit : k->blocks[fp8]);
    struct decode_args args = {*c, a->plan, first, end, rows, c->layer.sparse_pages > 0 ? a->list : NULL, a->context_pages, a->partial,
                               (float2 *)(a->partial + entries * heads * rows * c->layer.head_dim), a->counter,
                               splits <= MERGE_SPLITS_MAX};
    void (*decode_all)(const struct decode_args a) = k->decode[fp8], (*join_all)(const struct decode_args a) = k->join;
    decode_all<<<(unsigned)(units < blocks ? units : blocks), ATTEND_THREADS, k->bytes, stream>>>(args);
    if (!args.merge) join_all<<<(unsigned)((end - first) * heads * rows), ATTEND_PARTS * 32, 0, stream>>>(args);
    return cudaGetLastError();
}
