/* Attention of runs of few columns: units of attend.cuh, one after another on as many blocks as fit the card.
 *
 * Units are numbered by chunk, KV head and split; a block takes as many neighbours as the others. It asks for the K and V of its
 * next unit while it works on one; where they are was looked up some units ahead. What a block has of a group of splits it adds
 * up before it leaves it: a chunk's head whose splits are all one block's is done with that. The others are joined by the last
 * block that has some of them, or by a kernel of its own where there are many. */
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
    int *counter;           /* (chunks, kv_heads): splits that are done */
    bool merge;             /* the last block of a chunk and KV head joins the splits */
    uint32_t group_inverse;
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
    int counts;         /* splits of the chunk and head that are done with this unit and are to be joined; 0: go on */
    bool runs, opens, closes; /* goes into the block's sum over the group; as its first, its last */
    bool direct;        /* the block's sum is the output */
    int64_t sums;
};

/* ---- looking jobs up ---- */

enum { JOBS = 16, JOBS_AT_ONCE = 4 };

/* A warp looks up four jobs at once, eight lanes (pages) each, in steps: each asks for what the one before found, one word a
 * lane, and the next may be taken long after it. All of it stands in shared memory: registers belong to K and V. */
struct alignas(16) finder {
    struct chunk chunk;
    int unit, packed, kv_head, split;
    int logical[ATTEND_PAGES], page[ATTEND_PAGES];
};
static_assert(sizeof(struct chunk) == 8 * sizeof(int32_t), "a word a lane");
/* A block's units, of the launch's. */
struct share {
    int entry0, begin, end;
};
/* What a lane has asked for, and where in shared memory it goes. */
enum { ASKED_NOTHING = -1 };
struct asked {
    int32_t word;
    int to;
};

static __device__ __forceinline__ void ask(struct asked *x, int32_t *to, const void *from)
{
    x->to = (int)__cvta_generic_to_shared(to);
    attend_load_word(&x->word, from);
}
static __device__ __forceinline__ void put(const struct asked *x)
{
    if (x->to != ASKED_NOTHING) *(int32_t *)__cvta_shared_to_generic((size_t)x->to) = x->word;
    __syncwarp();
}

static __device__ __forceinline__ void find_entry(const struct decode_args *a, const struct share *l, struct finder *f, int unit,
                                                  struct asked *x)
{
    __syncwarp();
    if (threadIdx.x % ATTEND_PAGES) return;
    f->unit = unit;
    if (unit < l->end) ask(x, &f->packed, a->plan.entry + l->entry0 + unit / a->call.kv.kv_heads);
}
static __device__ __forceinline__ void find_chunk(const struct decode_args *a, const struct share *l, struct finder *f, struct asked *x)
{
    int i = threadIdx.x % ATTEND_PAGES;
    if (f->unit < l->end) ask(x, (int32_t *)&f->chunk + i, (const int32_t *)(a->plan.chunk + (f->packed >> SPLIT_BITS)) + i);
}
/* The split's part of the column's list of pages: sparse. */
static __device__ __forceinline__ const int32_t *list_of(const struct decode_args *a, const struct finder *f, int kv_head, int split,
                                                         int *count)
{
    int column = f->chunk.first + f->chunk.row0 / a->call.group, position = f->chunk.position + f->chunk.row0 / a->call.group;
    *count = min(ATTEND_PAGES, pages_read(a->call.layer.window, a->call.layer.sparse_pages, position) - split * ATTEND_PAGES);
    return a->list + ((int64_t)column * a->call.kv.kv_heads + kv_head) * a->list_stride + split * ATTEND_PAGES;
}
static __device__ __forceinline__ void find_logical(const struct decode_args *a, const struct share *l, struct finder *f, struct asked *x)
{
    int i = threadIdx.x % ATTEND_PAGES, count = ATTEND_PAGES;
    if (f->unit >= l->end) return;
    int unit = f->unit - (f->chunk.entry - l->entry0) * a->call.kv.kv_heads, kv_head = unit / f->chunk.splits;
    int split = unit - kv_head * f->chunk.splits;
    const int32_t *list = a->list ? list_of(a, f, kv_head, split, &count) : NULL;
    if (list && i < count) ask(x, &f->logical[i], list + i);
    else f->logical[i] = i < count ? (f->chunk.split0 + split) * ATTEND_PAGES + i : ATTEND_NOWHERE;
    if (i > 0) return;
    f->kv_head = kv_head;
    f->split = split;
}
static __device__ __forceinline__ void find_page(const struct decode_args *a, const struct share *l, struct finder *f, struct asked *x)
{
    if (f->unit >= l->end) return;
    int i = threadIdx.x % ATTEND_PAGES, logical = f->logical[i];
    int last = f->chunk.position + (f->chunk.row0 + f->chunk.rows - 1) / a->call.group;
    int first = first_seen(a->call.layer.window, f->chunk.position + f->chunk.row0 / a->call.group);
    bool seen = logical * CUDA_PAGE_TOKENS <= last && (logical + 1) * CUDA_PAGE_TOKENS > first;
    f->page[i] = -1;
    if (seen) ask(x, &f->page[i], a->call.columns.pages + (int64_t)f->chunk.run * a->call.columns.pages_stride + logical);
}

/* What becomes of the unit's sums. */
static __device__ __forceinline__ void find_end(const struct decode_args *a, const struct share *l, const struct finder *f, struct job *j)
{
    int begin = f->unit - f->split, end = begin + f->chunk.splits; /* the chunk's head's units */
    int place = (f->chunk.split0 + f->split) % ATTEND_GROUP, first = f->split < place ? begin : f->unit - place;
    bool mine = begin >= l->begin && end <= l->end, last = f->unit + 1 == min(end, l->end);
    bool one = f->chunk.split0 / ATTEND_GROUP == (f->chunk.split0 + f->chunk.splits - 1) / ATTEND_GROUP;
    j->runs = f->chunk.rows <= ATTEND_ROWS && first >= l->begin;
    j->opens = f->unit == first;
    j->closes = last || place == ATTEND_GROUP - 1;
    j->direct = f->chunk.splits == 1 || (a->merge && j->runs && mine && one);
    j->counts = a->merge && last && !j->direct ? f->unit + 1 - max(begin, l->begin) : 0;
}

static __device__ __forceinline__ void find_done(const struct decode_args *a, const struct share *l, const struct finder *f, struct job *j)
{
    int lane = threadIdx.x % 32, i = lane % ATTEND_PAGES;
    bool goes_on = f->unit < l->end;
    unsigned seen = __ballot_sync(~0u, goes_on && f->page[i] >= 0) >> (lane - i) & 0xff;
    if (!goes_on) return;
    struct attend_unit *u = &j->unit;
    u->logical[i] = f->page[i] >= 0 ? f->logical[i] : ATTEND_NOWHERE;
    u->block[i] = f->page[i] >= 0 ? call_blocks(&a->call, f->kv_head) + f->page[i] * call_page_bytes(&a->call) : NULL;
    if (i != (seen ? 31 - __clz((int)seen) : 0)) return;
    j->chunk = f->chunk;
    j->index = f->packed >> SPLIT_BITS;
    j->kv_head = f->kv_head;
    j->sums = sums_at(a, f->chunk.entry + f->split - l->entry0, f->kv_head);
    find_end(a, l, f, j);
    u->q = a->call.q + call_row(&a->call, f->chunk.first, f->kv_head, 0);
    u->heads = a->call.layer.heads;
    u->row0 = f->chunk.row0;
    u->rows = f->chunk.rows;
    u->group = a->call.group;
    u->group_inverse = a->group_inverse;
    u->same_q = f->chunk.rows <= ATTEND_ROWS && f->split > 0 && f->unit > l->begin;
    u->position = f->chunk.position;
    u->window = a->call.layer.window;
    u->softcap = a->call.layer.softcap;
    u->seen = seen;
    u->tail = i;
    u->there = f->chunk.position + (f->chunk.row0 + f->chunk.rows - 1) / a->call.group + 1 - f->logical[i] * CUDA_PAGE_TOKENS;
}

/* A warp: one step of four for the units from `unit` on. */
static __device__ __forceinline__ void find_step(const struct decode_args *a, const struct share *l, int step, struct finder *f, int unit,
                                                 struct asked *x)
{
    int ahead = threadIdx.x % 32 / ATTEND_PAGES;
    x->to = ASKED_NOTHING;
    switch (step) {
    case 0: find_entry(a, l, f + ahead, unit + ahead, x); break;
    case 1: find_chunk(a, l, f + ahead, x); break;
    case 2: find_logical(a, l, f + ahead, x); break;
    case 3: find_page(a, l, f + ahead, x); break;
    }
}
/* A warp: the four jobs from the block's unit k on, one step after another. */
static __device__ __forceinline__ void find_four(const struct decode_args *a, const struct share *l, int k, struct finder *f,
                                                 struct job *jobs)
{
    for (int step = 0; step < 4; step++) {
        struct asked x;
        find_step(a, l, step, f, l->begin + k, &x);
        put(&x);
    }
    int ahead = threadIdx.x % 32 / ATTEND_PAGES;
    find_done(a, l, f + ahead, &jobs[ahead]);
}
/* What a block looks for while it works on unit k. */
struct search {
    const struct share *share;
    struct finder *finders;
    struct job *jobs;
    int k;
};
/* Warp 0: one step for the four units from 8 + k on, which are done four units later. What it asks for is put away a little
 * later, when it will have come. */
static __device__ __forceinline__ void find_more(const struct decode_args *a, const struct search *s, struct asked *x)
{
    int ahead = threadIdx.x / ATTEND_PAGES, step = s->k % JOBS_AT_ONCE;
    if (step == 0 && s->k > 0) find_done(a, s->share, s->finders + ahead, &s->jobs[(s->k + JOBS_AT_ONCE + ahead) % JOBS]);
    find_step(a, s->share, step, s->finders, s->share->begin + s->k + 2 * JOBS_AT_ONCE, x);
}

/* ---- a unit ---- */

/* A warp: what its row of a piece comes to. */
template <int HD>
static __device__ __forceinline__ void leave(const struct decode_args *a, const struct job *j, int row, int piece, float2 ml, float o[4],
                                             attend_running<HD> *running)
{
    constexpr int PIECE = attend_meeting<HD>::PIECE;
    int lane = threadIdx.x % 32, dim = piece * PIECE + lane * 4;
    if (j->runs) {
        ml = attend_run_on<HD>(running, j->opens, piece, ml, o);
        if (!j->closes) {
            if (lane == 0 && piece == 0 && !j->direct) a->ml[j->sums + row] = make_float2(ATTEND_NONE, 0);
            return;
        }
    }
    if (j->direct) {
        float scale = 1 / ml.y;
#pragma unroll
        for (int i = 0; i < 4; i++) o[i] *= scale;
        uint16_t *out = a->call.out + (j->unit.q - a->call.q) + attend_row_head(&j->unit, row) * HD;
        if (lane * 4 < PIECE) attend_store(out + dim, a->call.bf16, o);
        return;
    }
    if (lane * 4 < PIECE) *(float4 *)(a->o + (j->sums + row) * HD + dim) = make_float4(o[0], o[1], o[2], o[3]);
    if (lane == 0 && piece == (HD - 1) / 128) a->ml[j->sums + row] = ml;
}

/* What a block has in shared memory for its work. Of both there are two, which take turns. */
template <int HD> struct room {
    attend_meeting<HD> meeting[2];
    attend_queries<HD> queries[2];
};

/* Eight rows of a unit. After the last ones of a unit its registers go to the next, where there is one. */
template <int HD, bool FP8>
static __device__ __forceinline__ void work(const struct decode_args *a, const struct job *j, const struct attend_unit *next, int row,
                                            attend_registers<HD, FP8> *r, room<HD> *room, int *turn, attend_running<HD> *running,
                                            const struct search *search)
{
    typedef attend_shape<HD, FP8> S;
    const struct attend_unit *u = &j->unit;
    int warp = threadIdx.x / 32;
    bool sees = attend_page(u), more = row + ATTEND_ROWS < u->rows, other_q = more || (next && !next->same_q);
    float c[4][4] = {};
    float2 ml = {};
    uint32_t p[4] = {};
    if (more) next = NULL;
#pragma unroll
    for (int i = 0; i < S::PIECES; i++) {
        if (sees) attend_scores<HD, FP8>(r->words[i % 2], &room->queries[*turn >> 1], i, c);
        if (S::PIECES > 1) attend_load(r, u, i + 2);
        else if (next) attend_load(r, next, 0);
    }
    if (sees) ml = attend_softmax(u, r, c, row, p);
    if (next) attend_load_scales(r, next);
    uint32_t q[4];
    if (other_q) attend_load_q<HD>(q, more ? u : next, more ? row + ATTEND_ROWS : 0);
#pragma unroll
    for (int i = 0; i < S::PIECES; i++, *turn ^= 1) {
        attend_meeting<HD> *m = &room->meeting[*turn & 1];
        if (sees) {
            attend_values<HD, FP8>(u, r->words[(S::PIECES + i) % 2], p, m->o[warp][0]);
            if (threadIdx.x % 4 == 0) m->ml[warp][threadIdx.x % 32 / 4] = ml;
        }
        if (next) attend_load(r, next, S::PIECES > 1 ? i : 1);
        if (other_q && i == 0) attend_put_q(&room->queries[*turn >> 1 ^ 1], q);
        __syncthreads(); /* none is needed after the fold: two places take turns */
        bool finds = warp == 0 && row == 0 && i == 0;
        struct asked asked;
        if (finds) find_more(a, search, &asked);
        if (row + warp < u->rows) {
            float o[4];
            float2 sum = attend_fold<HD>(m, u->seen, o);
            leave<HD>(a, j, row + warp, i, sum, o, running);
        }
        if (finds) put(&asked);
    }
    if (other_q) *turn ^= 2;
}

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
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        int *counter = &a->counter[j->index * a->call.kv.kv_heads + j->kv_head];
        last = atomicAdd(counter, j->counts) + j->counts == j->chunk.splits;
        if (last) *counter = 0;
    }
    __syncthreads();
    __threadfence();
    return last;
}

template <int HD>
static __device__ __forceinline__ void join_rows(const struct decode_args *a, const struct job *j, int entry0)
{
    const struct chunk *c = &j->chunk;
    for (int row = threadIdx.x / 32; row < c->rows; row += ATTEND_THREADS / 32) {
        struct attend_splits s = splits_of(a, c, entry0, j->kv_head, row);
        attend_merge<HD>(&s, a->call.bf16, a->call.out + call_row(&a->call, c->first, j->kv_head, c->row0 + row));
    }
}

/* The plan's entries of this launch. */
static __device__ __forceinline__ int first_entry(const struct plan *p, int chunk)
{
    struct counts counts = *p->counts;
    return chunk == 0 ? 0 : chunk < counts.chunks ? p->chunk[chunk].entry : counts.entries;
}

/* Blocks of a multiprocessor: as many as registers allow. */
template <int HD, bool FP8> static constexpr int blocks_wanted = attend_shape<HD, FP8>::ALL > 32 || HD > 128 ? 1 : 2;

template <int HD, bool FP8>
static __global__ void __launch_bounds__(ATTEND_THREADS, (blocks_wanted<HD, FP8>)) decode(const __grid_constant__ struct decode_args a)
{
    SHARED_BYTES(shared);
    __shared__ struct job jobs[JOBS];
    __shared__ struct finder finders[2 * JOBS_AT_ONCE];
    __shared__ attend_running<HD> running[ATTEND_THREADS];
    room<HD> *space = (room<HD> *)shared;
    struct share l;
    l.entry0 = first_entry(&a.plan, a.first);
    int64_t all = (int64_t)(first_entry(&a.plan, a.end) - l.entry0) * a.call.kv.kv_heads;
    l.begin = (int)(all * blockIdx.x / gridDim.x);
    l.end = (int)(all * (blockIdx.x + 1) / gridDim.x);
    if (l.begin == l.end) return;
    if (threadIdx.x < 64) {
        int k = threadIdx.x / 32 * JOBS_AT_ONCE;
        find_four(&a, &l, k, finders + k, jobs + k);
    }
    attend_registers<HD, FP8> r = {};
    int units = l.end - l.begin, turn = 0;
    __syncthreads();
    uint32_t q[4];
    attend_load_q<HD>(q, &jobs[0].unit, 0);
    attend_load(&r, &jobs[0].unit, 0);
    attend_load_scales(&r, &jobs[0].unit);
    attend_load(&r, &jobs[0].unit, 1);
    attend_put_q(&space->queries[0], q);
    if (threadIdx.x < 2 * ATTEND_ROWS * 4)
        space->queries[threadIdx.x % 2].q[threadIdx.x / 8][HD / 8 + threadIdx.x / 2 % 4] = make_uint4(0, 0, 0, 0);
    __syncthreads();
    for (int k = 0; k < units; k++) {
        const struct job *j = &jobs[k % JOBS];
        const struct attend_unit *next = k + 1 < units ? &jobs[(k + 1) % JOBS].unit : NULL;
        struct search search = {&l, finders, jobs, k};
        for (int row = 0; row < j->unit.rows; row += ATTEND_ROWS)
            work<HD, FP8>(&a, j, next, row, &r, space, &turn, &running[threadIdx.x], &search);
        if (j->counts > 0 && is_last(&a, j)) join_rows<HD>(&a, j, l.entry0);
    }
}

/* A block of four warps for each row: warp i takes part i of the splits. */
template <int HD> static __global__ void __launch_bounds__(ATTEND_PARTS * 32) join(const __grid_constant__ struct decode_args a)
{
    __shared__ attend_sum<HD> sums[32][ATTEND_PARTS];
    int lane = threadIdx.x % 32, part = threadIdx.x / 32, chunk = a.first + blockIdx.x / (a.call.kv.kv_heads * a.rows);
    int kv_head = blockIdx.x / a.rows % a.call.kv.kv_heads, row = blockIdx.x % a.rows;
    if (chunk >= a.plan.counts->chunks) return;
    struct chunk c = a.plan.chunk[chunk];
    if (row >= c.rows || c.splits == 1) return;
    struct attend_splits s = splits_of(&a, &c, first_entry(&a.plan, a.first), kv_head, row);
    attend_gather<HD>(&s, part, attend_highest(&s), &sums[lane][part]);
    __syncthreads();
    if (part > 0) return;
    attend_add(&sums[lane][0], &sums[lane][1]);
    attend_add(&sums[lane][2], &sums[lane][3]);
    attend_add(&sums[lane][0], &sums[lane][2]);
    attend_divide(&sums[lane][0], a.call.bf16, a.call.out + call_row(&a.call, c.first, kv_head, c.row0 + row));
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
        n, {decode<n, false>, decode<n, true>}, join<n>, (int)sizeof(room<n>),                                                   \
        {                                                                                                                        \
            blocks_wanted<n, false>, blocks_wanted<n, true>                                                                      \
        }                                                                                                                        \
    }
static const struct decode_kernel KERNELS[] = {KERNEL(64), KERNEL(80), KERNEL(96), KERNEL(128), KERNEL(256)};
enum { BESIDE = 16384 /* shared memory that is not asked for at the launch */ };

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
                               splits <= MERGE_SPLITS_MAX, attend_inverse(c->group)};
    void (*decode_all)(const struct decode_args a) = k->decode[fp8], (*join_all)(const struct decode_args a) = k->join;
    LAUNCH(decode_all, (unsigned)(units < blocks ? units : blocks), ATTEND_THREADS, (size_t)k->bytes, stream, args);
    if (!args.merge) LAUNCH(join_all, (unsigned)((end - first) * heads * rows), ATTEND_PARTS * 32, 0, stream, args);
    return cudaGetLastError();
}
