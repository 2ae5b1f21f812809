#include "engine/cuda/decode.cuh"

#include "engine/cuda/decode_attend.cuh"
#include "engine/cuda/decode_private.cuh"
#include "engine/cuda/decode_products.cuh"

#include <stdlib.h>
#include <string.h>

extern "C" {
#include "base/err.h"
}

/* ---- the kernel ---- */

static __device__ __forceinline__ struct shared shared_of(const struct kernel_args *a, uint8_t *base)
{
    struct shared s;
    s.ring = base;
    s.inputs = base + a->stages * STAGE_BYTES;
    s.offsets = (float *)(s.inputs + a->inputs_bytes);
    s.sums = (float *)(s.inputs + a->inputs_bytes + a->offsets_bytes);
    s.warp = s.sums + SUMS * RED_FLOATS;
    s.rms = s.warp + FINISHERS / 32 * 8;
    s.factor = s.rms + 8;
    s.norm = s.factor + 8;
    s.angles = s.norm + 8;
    s.rows = s.angles + a->angles_bytes / 4;
    s.flag = (int *)(s.rows + 2 * 128);
    s.then = s.flag + 8;
    s.sums_then = s.then + STAGES_MAX;
    s.position = s.sums_then + SUMS + 1;
    s.run_of = s.position + 8;
    s.pages = s.run_of + 8;
    s.full = (uint64_t *)(s.pages + 8 * PAGES_NEAR);
    s.empty = s.full + STAGES_MAX;
    s.sums_full = s.empty + STAGES_MAX;
    s.sums_empty = s.sums_full + SUMS;
    s.loaded = s.sums_empty + SUMS;
    s.inputs_empty = s.loaded + PARTS_MAX;
    s.begun = s.inputs_empty + 1;
    s.attention = s.begun + 1;
    s.placed = s.attention + 1;
    return s;
}

/* The producer's part of one operation, the n-th. */
template <int KIND>
static __device__ void fetch(const struct kernel_args *a, const struct shared *s, struct ring *ring, const struct kernel_op *o, int n, int op,
                             uint64_t policy)
{
    int lane = (int)threadIdx.x & 31;
    struct op_shape shape = op_shape(a, op);
    struct walk walk = walk_op(a, &shape, op);
    int k0 = walk.slice * shape.slice_k, k1 = min(shape.k, k0 + shape.slice_k), chunk = kind_chunk((enum matrix_kind)KIND), parts_k = a->parts_k[op];
    unsigned *claimed = a->claimed + n * SLICES_MAX + walk.slice, claim = 0;
    /* Tile by tile of a group, part by part, piece by piece. */
    int t = walk.first, group = walk.group, then = 0;
#pragma unroll 1
    for (int j = 0, from = k0; t < shape.tiles;) {
        struct tile x = tile_at<KIND>(o, &shape, op, t + j * walk.count);
        int to = min(k1, from + parts_k);
#pragma unroll 1
        for (int k = from; k < to; k += chunk) {
            int count = min(chunk, k1 - k);
            bool second_last = k + 2 * chunk >= k1 && k + chunk < k1;
            if (lane == 0 && j == group - 1 && (second_last || k1 - k0 <= chunk)) claim = atomicAdd(claimed, 1u);
            uint32_t to = shared_address(s->ring + ring->stage * STAGE_BYTES), full = shared_address(&s->full[ring->stage]);
            mbarrier_wait(shared_address(&s->empty[ring->stage]), ring->parity ^ 1);
            if (k + chunk >= k1) {
                then = j < group - 1 ? t + (j + 1) * walk.count : walk.group * walk.count + (int)__shfl_sync(~0u, claim, 0);
                if (lane == 0) s->then[ring->stage] = then;
            }
            if constexpr (KIND == MATRIX_W4) {
                uint32_t bytes = (uint32_t)(count / W4_GROUP * W4_GRANULE);
                int64_t from = (int64_t)(k / W4_GROUP) * W4_GRANULE;
                if (lane == 0) mbarrier_expect(full, 2 * bytes);
                __syncwarp();
                if (lane < 2) bulk_copy(to + (uint32_t)lane * bytes, (lane ? x.b : x.a) + from, bytes, full, policy);
            } else {
                int element = KIND == MATRIX_FP8 ? 1 : 2;
                uint32_t bytes = (uint32_t)(count * element);
                if (lane == 0) mbarrier_expect(full, TILE_ROWS * bytes);
                __syncwarp();
                int left = op == OP_FFN ? 8 : shape.rows - x.row - (lane < 8 || x.b == x.a ? 0 : 8); /* of the last panel: its last row again */
                if (lane < TILE_ROWS)
                    bulk_copy(to + (uint32_t)lane * ROW_STRIDE, (lane < 8 ? x.a : x.b) + ((int64_t)min(lane & 7, left - 1) * shape.k + k) * element,
                              bytes, full, policy);
            }
            __syncwarp();
            ring_next(ring);
        }
        if (++j < group) continue;
        j = 0;
        if ((from += parts_k) < k1) continue;
        from = k0, t = then, group = 1;
    }
}

/* The consumers wait until every block has come as far as operation n. */
static __device__ void grid_wait(const struct kernel_args *a, int which, int n)
{
    if (threadIdx.x == 0)
        while (load_acquire(counter_at(a, which)) < arrivals(a, n, false)) { }
    barrier_sync(ALL_CONSUMERS, CONSUMERS);
}

/* What this block's consumers have written is there. */
static __device__ void grid_tell(unsigned *counter)
{
    barrier_sync(ALL_CONSUMERS, CONSUMERS);
    if (threadIdx.x == 0) count_release(counter);
}

/* Everything that runs once a layer stands in the code once: instructions that fall out of the cache cost more than they do. */

template <int KIND, int OUT_KIND>
static __device__ void produce(const struct kernel_args *a, const struct shared *s, struct ring ring)
{
    uint64_t policy = policy_evict_first();
    int ops = 4 * a->layers;
#pragma unroll 1
    for (int n = 0; n < ops; n++) {
        struct kernel_op o = a->layer[n / 4].op[n % 4];
        fetch<KIND>(a, s, &ring, &o, n, n % 4, policy);
    }
    if (a->step.wanted) fetch<OUT_KIND>(a, s, &ring, &a->output, ops, OP_OUTPUT, policy);
}

/* When the grid begins a layer: what its attention will read comes nearer. */
static __device__ __forceinline__ void prefetch_layer(const struct kernel_args *a, const struct shared *s, int i)
{
    const struct kernel_layer *l = a->layer + i;
    prefetch_pages(a, s, l, i);
    int lines = a->embedding / 32;
    for (int at = (int)blockIdx.x * 32 + ((int)threadIdx.x & 31); at < 2 * lines; at += (int)gridDim.x * 32) /* this layer's second norm, the next's first */
        if (at < lines) prefetch_l2(l->ffn_norm + at * 32, 128);
        else if (i + 1 < a->layers) prefetch_l2(l[1].attn_norm + (at - lines) * 32, 128);
}

/* The loader: a warp beside the producer. */
template <int KIND, int OUT_KIND>
static __device__ void load_all(const struct kernel_args *a, const struct shared *s)
{
    int ops = 4 * a->layers + (a->step.wanted ? 1 : 0);
#pragma unroll 1
    for (int n = 0; n < ops; n++) {
        load_inputs(a, s, (enum matrix_kind)(n == 4 * a->layers ? OUT_KIND : KIND), n);
        if (n % 4 == 0 && n < 4 * a->layers) prefetch_layer(a, s, n / 4);
    }
}

#ifdef DECODE_PROFILE
__device__ long long decode_stamps[132][32];
#define STAMP(n) if (threadIdx.x == 0 && i == a->layers / 2) decode_stamps[blockIdx.x][n] = clock64();
#else
#define STAMP(n)
#endif

template <int KIND, int OUT_KIND>
static __device__ void finish_all(const struct kernel_args *a, const struct shared *s)
{
    struct turn turn = {0, 0};
    int ops = 4 * a->layers;
#pragma unroll 1
    for (int n = 0; n < ops; n++) {
        struct kernel_op o = a->layer[n / 4].op[n % 4];
        struct turn_of what = turn_at<KIND, OUT_KIND>(a, n);
        finish<KIND>(a, s, &turn, &o, &what);
    }
    struct turn_of what = turn_at<KIND, OUT_KIND>(a, ops);
    if (a->step.wanted) finish<OUT_KIND>(a, s, &turn, &a->output, &what);
}

template <int KIND, int OUT_KIND, int HD, bool FP8>
static __device__ void consume_all(const struct kernel_args *a, const struct shared *s, struct ring ring)
{
    struct turn turn = {0, 0};
    uint32_t loads = 0;
    int ops = 4 * a->layers + (a->step.wanted ? 1 : 0);
#pragma unroll 1
    for (int n = 0; n < ops; n++) {
        struct turn_of what = turn_at<KIND, OUT_KIND>(a, n);
        int i = n / 4, op = what.op;
        const struct kernel_layer *l = a->layer + i;
        STAMP(op * 2)
        if (KIND != OUT_KIND && op == OP_OUTPUT) multiply<OUT_KIND>(a, s, &ring, &turn, op, &loads);
        else multiply<KIND>(a, s, &ring, &turn, op, &loads);
        STAMP(op * 2 + 1)
        if (op != OP_QKV) leave_inputs(s);
        if (a->slices[op] > 1) {
            grid_wait(a, PARTIALS + op, n);
            finish_slices(a, s, &what);
            if (op != OP_OUTPUT) grid_tell(next_inputs(a, n).counter);
        }
        if (op != OP_QKV) continue;
        grid_wait(a, HEADS, n);
        if (threadIdx.x == 0) mbarrier_arrive(shared_address(s->attention));
        if (a->step.neighbours) {
            place_all<HD, FP8>(a, s, l, i);
            grid_tell(counter_at(a, PLACED));
            grid_wait(a, PLACED, n);
        }
        STAMP(8)
        attend_all<HD, FP8>(a, s, l, i, form_of(KIND));
        STAMP(9)
        grid_tell(counter_at(a, INPUTS + OP_O * PARTS_MAX));
        leave_inputs(s);
    }
}

/* What every layer asks of the step, into shared memory. */
static __device__ __forceinline__ void read_step(const struct kernel_args *a, const struct shared *s)
{
    for (int i = (int)threadIdx.x; i < a->step.cols * 2 * a->rotated; i += THREADS) s->angles[i] = a->step.angles[i];
    for (int i = (int)threadIdx.x; i < a->step.cols; i += THREADS) {
        s->factor[i] = a->factor[i];
        s->position[i] = a->step.position[i];
        s->run_of[i] = a->step.run_of[i];
    }
    for (int i = (int)threadIdx.x; i < a->step.cols * PAGES_NEAR; i += THREADS) {
        int col = i / PAGES_NEAR, n = i % PAGES_NEAR;
        if (n <= a->step.position[col] / PAGE) s->pages[i] = a->step.pages[(int64_t)a->step.run_of[col] * a->step.pages_stride + n];
    }
}

template <int KIND, int OUT_KIND, int HD, bool FP8>
static __global__ void __launch_bounds__(THREADS, 1) decode_kernel(const __grid_constant__ struct kernel_args args)
{
#if __CUDA_ARCH__ >= 900 || defined(RUNG_EMULATE)
    SHARED_BYTES(base);
    const struct kernel_args *a = &args;
    struct shared s = shared_of(a, base);
    struct ring ring = {0, a->stages, 0};
    if (threadIdx.x < (unsigned)a->stages) {
        mbarrier_init(shared_address(&s.full[threadIdx.x]), 1);
        mbarrier_init(shared_address(&s.empty[threadIdx.x]), WARPS);
        fence_barriers();
    } else if (threadIdx.x < (unsigned)a->stages + SUMS) {
        mbarrier_init(shared_address(&s.sums_full[threadIdx.x - (unsigned)a->stages]), WARPS);
        mbarrier_init(shared_address(&s.sums_empty[threadIdx.x - (unsigned)a->stages]), FINISHERS / 32);
        fence_barriers();
    }
    if (threadIdx.x == 0) {
        mbarrier_init(shared_address(s.begun), 1);
        mbarrier_init(shared_address(s.attention), 1);
        mbarrier_init(shared_address(s.placed), 2);
        mbarrier_init(shared_address(s.inputs_empty), WARPS);
        for (int p = 0; p < PARTS_MAX; p++) mbarrier_init(shared_address(&s.loaded[p]), 32);
        fence_barriers();
    }
    read_step(a, &s);
    __syncthreads();
    if (threadIdx.x >= CONSUMERS) {
        registers_give<OTHER_REGISTERS>();
        if (threadIdx.x >= CONSUMERS + 128) finish_all<KIND, OUT_KIND>(a, &s);
        else if (threadIdx.x < CONSUMERS + 32) produce<KIND, OUT_KIND>(a, &s, ring);
        else if (threadIdx.x < CONSUMERS + 64) load_all<KIND, OUT_KIND>(a, &s);
        else if (!a->step.neighbours)
            place_units<HD, FP8>(a, &s, threadIdx.x >= CONSUMERS + 96);
    } else {
        registers_take<CONSUMER_REGISTERS>();
        consume_all<KIND, OUT_KIND, HD, FP8>(a, &s, ring);
    }
#endif
}

/* What the end of a layer leaves, of the embeddings: a block a column. And the counters start at 0. */
static __global__ void __launch_bounds__(1024) decode_begin(const __grid_constant__ struct kernel_args a, const float *weight, struct input_form form, int counters)
{
    __shared__ float warps[32];
    int tid = (int)threadIdx.x, quads = a.embedding / 4;
    const float4 *x = (const float4 *)(a.step.x + (int64_t)blockIdx.x * a.embedding);
    float sum = 0;
    for (int i = tid; i < quads; i += 1024) {
        float4 v = x[i];
        float square = (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
        a.squares[(int64_t)blockIdx.x * quads + i] = square;
        sum += square;
    }
    for (int d = 16; d; d >>= 1) sum += __shfl_xor_sync(~0u, sum, d);
    if ((tid & 31) == 0) warps[tid >> 5] = sum;
    __syncthreads();
    sum = 0;
    for (int w = 0; w < 32; w++) sum += warps[w];
    float factor = near_power(rsqrtf(sum / (float)a.embedding + a.norm_eps));
    if (tid == 0) a.factor[blockIdx.x] = factor;
    for (int i = tid; i < quads; i += 1024) {
        float4 v = x[i], g = __ldg((const float4 *)weight + i);
        uint32_t *to = (uint32_t *)(a.ready + (int64_t)blockIdx.x * a.embedding);
        to[place_in_form(4 * i, form) / 2] = to_form(v.x * g.x * factor, form.bf16) | (uint32_t)to_form(v.y * g.y * factor, form.bf16) << 16;
        to[place_in_form(4 * i + 2, form) / 2] = to_form(v.z * g.z * factor, form.bf16) | (uint32_t)to_form(v.w * g.w * factor, form.bf16) << 16;
    }
    if (blockIdx.x > 0) return;
    for (int c = tid; c < COUNTERS * COUNTER_APART; c += 1024) a.arrived[c] = 0;
    for (int c = tid; c < counters; c += 1024) a.claimed[c] = 0;
}

/* ---- the host's side ---- */

typedef void decode_function(struct kernel_args);

struct decode {
    struct kernel_args args;
    decode_function *kernel;
    int blocks, shared_max;
    enum matrix_kind kind, out_kind;
    const float *first_norm;
    void *memory;
};

struct variant {
    enum matrix_kind kind, out_kind;
    int head_dim;
    bool fp8;
    decode_function *kernel;
};
#define VARIANTS(kind, out)                                                                                                    \
    {kind, out, 64, false, decode_kernel<kind, out, 64, false>}, {kind, out, 64, true, decode_kernel<kind, out, 64, true>},     \
        {kind, out, 128, false, decode_kernel<kind, out, 128, false>}, {kind, out, 128, true, decode_kernel<kind, out, 128, true>}
static const struct variant VARIANT[] = {VARIANTS(MATRIX_W4, MATRIX_F16),   VARIANTS(MATRIX_FP8, MATRIX_FP8), VARIANTS(MATRIX_FP8, MATRIX_F16),
                                         VARIANTS(MATRIX_BF16, MATRIX_BF16), VARIANTS(MATRIX_F16, MATRIX_F16)};

static enum err_code cannot(struct err *e, const char *why)
{
    return err_set(e, ERR_UNSUPPORTED, "the one-launch decode kernel: %s", why);
}

static bool same_kind(const struct decode_layer *l, enum matrix_kind kind)
{
    const struct matrix *m[] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};
    for (int i = 0; i < 7; i++)
        if (m[i]->kind != kind || m[i]->rows % TILE_ROWS != 0 || m[i]->k % 128 != 0 || (uintptr_t)m[i]->data % 16 != 0) return false;
    return true;
}

static int64_t bytes_of(const struct matrix *m)
{
    return m->kind == MATRIX_W4 ? (int64_t)(m->rows / 8) * (m->k / W4_GROUP) * W4_GRANULE : (int64_t)m->rows * m->k * (m->kind == MATRIX_FP8 ? 1 : 2);
}

static bool follows(const struct matrix *m, const struct matrix *next)
{
    return (const uint8_t *)m->data + bytes_of(m) == next->data && (!m->scale || m->scale + m->rows == next->scale);
}

static enum err_code find_kernel(struct decode *d, const struct decode_model *m, struct err *e)
{
    d->kind = m->layer[0].q.kind;
    d->out_kind = m->output.kind;
    for (int i = 0; i < m->layers; i++)
        if (!same_kind(&m->layer[i], d->kind)) return cannot(e, "the layers' matrices are of several kinds, or of odd sizes");
    for (int i = 0; i < m->layers; i++)
        if (!follows(&m->layer[i].q, &m->layer[i].k) || !follows(&m->layer[i].k, &m->layer[i].v)) return cannot(e, "Q, K and V do not follow each other");
    if (m->output.k % 128 != 0 || m->embedding % 16 != 0 || m->feed_forward % 128 != 0) return cannot(e, "odd sizes");
    if (m->rotated > m->head_dim) return cannot(e, "rotation is wider than a head");
    for (size_t i = 0; i < sizeof VARIANT / sizeof VARIANT[0]; i++) {
        const struct variant *v = &VARIANT[i];
        if (v->kind == d->kind && v->out_kind == d->out_kind && v->head_dim == m->head_dim && v->fp8 == m->kv.fp8) d->kernel = v->kernel;
    }
    return d->kernel ? ERR_OK : cannot(e, "not for these weights or heads");
}

/* The fewest slices of k whose inputs fit beside the ring. */
static int slices_for(int k, int cols, enum matrix_kind kind, int limit)
{
    for (int slices = 1; slices <= SLICES_MAX; slices *= 2) {
        int slice_k = ((k + 127) / 128 + slices - 1) / slices * 128;
        if (slice_k * (slices - 1) < k && cols * inputs_stride(kind, slice_k) * 2 <= limit) return slices;
    }
    return 0;
}

/* The parts of an operation's inputs, and its first group of tiles. */
static void divide_inputs(const struct decode *d, struct kernel_args *a, int op, int k)
{
    int chunk = kind_chunk(op == OP_OUTPUT ? d->out_kind : d->kind), stages = (k + chunk - 1) / chunk, each = (stages + PARTS_MAX - 1) / PARTS_MAX;
    int before = op == OP_QKV || op == OP_OUTPUT ? OP_DOWN : op - 1;
    if (op == OP_O || a->slices[before] > 1) each = stages; /* all of it comes at once */
    int parts = (stages + each - 1) / each, lead = (parts - 1) * each;
    int tiles = (op == OP_QKV ? (a->q_dim + 2 * a->kv_dim) : op == OP_FFN ? 2 * a->feed_forward : op == OP_OUTPUT ? a->vocabulary : a->embedding) / TILE_ROWS;
    int group = lead == 0 || a->slices[op] > 1 ? 1 : (LEAD_STAGES + lead - 1) / lead;
    if (group > GROUP_MAX) group = GROUP_MAX;
    if (group > tiles / d->blocks) group = tiles / d->blocks; /* of which there must be as many for every block */
    a->parts_k[op] = each * chunk;
    a->group[op] = group < 1 ? 1 : group;
}

/* How shared memory is divided for a number of columns. */
static bool divide(const struct decode *d, int cols, struct kernel_args *a)
{
    if (a->step.invariant) cols = DECODE_COLS_MAX; /* k in as many slices, whatever the batch */
    int ks[5] = {a->embedding, a->q_dim, a->embedding, a->feed_forward, a->embedding}, most = 0, offsets = 0, angles = cols * 2 * a->rotated * 4;
    for (int op = 0; op < 5; op++) {
        enum matrix_kind kind = op == OP_OUTPUT ? d->out_kind : d->kind;
        int slices = slices_for(ks[op], cols, kind, d->shared_max - SHARED_SMALL - angles - STAGES_LEAST * STAGE_BYTES);
        if (slices == 0) return false;
        int slice_k = ((ks[op] + 127) / 128 + slices - 1) / slices * 128, bytes = cols * inputs_stride(kind, slice_k) * 2;
        a->slices[op] = slices;
        most = bytes > most ? bytes : most;
        int groups = kind == MATRIX_W4 ? slice_k / W4_GROUP * cols * 4 : 0;
        offsets = groups > offsets ? groups : offsets;
    }
    for (int op = 0; op < 5; op++) divide_inputs(d, a, op, ks[op]);
    int attend = attend_bytes(a->head_dim);
    a->inputs_bytes = ((attend > most ? attend : most) + 127) / 128 * 128;
    a->offsets_bytes = (offsets + 127) / 128 * 128;
    a->angles_bytes = angles;
    a->stages = (d->shared_max - SHARED_SMALL - angles - a->inputs_bytes - a->offsets_bytes) / STAGE_BYTES;
    if (a->stages > STAGES_MAX) a->stages = STAGES_MAX;
    return a->stages >= 2;
}

static int64_t most_tiles(const struct kernel_args *a)
{
    int64_t tiles = (a->vocabulary + TILE_ROWS - 1) / TILE_ROWS, ffn = a->feed_forward / 8, qkv = (a->q_dim + 2 * a->kv_dim) / TILE_ROWS;
    tiles = ffn > tiles ? ffn : tiles;
    return qkv > tiles ? qkv : tiles;
}

static void *carve(uint8_t *base, size_t *used, int64_t count, size_t size)
{
    size_t at = *used;
    *used += ((size_t)count * size + 255) & ~(size_t)255;
    return base ? base + at : NULL;
}

static size_t carve_all(struct kernel_args *a, uint8_t *base)
{
    size_t used = 0;
    int64_t cols = DECODE_COLS_MAX, tiles = most_tiles(a);
    int64_t tasks = cols * a->kv_heads * ((a->heads / a->kv_heads + HEADS_TILE - 1) / HEADS_TILE);
    a->layer = (const struct kernel_layer *)carve(base, &used, a->layers, sizeof *a->layer);
    a->qkv = (float *)carve(base, &used, cols * (a->q_dim + 2 * a->kv_dim), 4);
    a->attended = (uint16_t *)carve(base, &used, cols * a->q_dim, 2);
    a->middle = (uint16_t *)carve(base, &used, cols * a->feed_forward, 2);
    a->ready = (uint16_t *)carve(base, &used, cols * a->embedding, 2);
    a->factor = (float *)carve(base, &used, cols, 4);
    a->squares = (float *)carve(base, &used, cols * (a->embedding / 4), 4);
    a->partial = (float *)carve(base, &used, tiles * SLICES_MAX * 128, 4);
    a->split_out = (float *)carve(base, &used, tasks * SPLITS_MAX * HEADS_TILE * a->head_dim, 4);
    a->split_max = (float *)carve(base, &used, tasks * SPLITS_MAX * 16, 4);
    a->split_arrived = (unsigned *)carve(base, &used, tasks, 4);
    a->arrived = (unsigned *)carve(base, &used, COUNTERS * COUNTER_APART, 4);
    a->claimed = (unsigned *)carve(base, &used, (4 * a->layers + 1) * SLICES_MAX, 4);
    return used;
}

static struct kernel_op op_of(const struct matrix *a, const struct matrix *b)
{
    return (struct kernel_op){(const uint8_t *)a->data, (const uint8_t *)b->data, a->scale, b->scale};
}

static enum err_code take_memory(struct decode *d, const struct decode_model *m, struct err *e)
{
    size_t bytes = carve_all(&d->args, NULL);
    enum err_code code = cuda_check(cudaMalloc(&d->memory, bytes), "memory for the decode kernel", e);
    if (code) return code;
    (void)carve_all(&d->args, (uint8_t *)d->memory);
    if ((code = cuda_check(cudaMemset(d->memory, 0, bytes), "clearing memory", e))) return code;
    struct kernel_layer *layers = (struct kernel_layer *)calloc((size_t)m->layers, sizeof *layers);
    if (!layers) return err_set(e, ERR_MEMORY, "no memory for %d layers", m->layers);
    for (int i = 0; i < m->layers; i++) {
        const struct decode_layer *l = &m->layer[i];
        layers[i] = (struct kernel_layer){{op_of(&l->q, &l->q), op_of(&l->o, &l->o), op_of(&l->gate, &l->up), op_of(&l->down, &l->down)},
                                          l->attn_norm, l->ffn_norm, l->q_bias, l->k_bias, l->v_bias, l->q_norm, l->k_norm, l->window, l->local_rope};
    }
    code = cuda_check(cudaMemcpy((void *)d->args.layer, layers, (size_t)m->layers * sizeof *layers, cudaMemcpyHostToDevice), "the layers' table", e);
    free(layers);
    return code;
}

static enum err_code ask_device(struct decode *d, struct err *e)
{
    int device = 0, major = 0, cooperative = 0;
    enum err_code code = cuda_check(cudaGetDevice(&device), "cudaGetDevice", e);
    if (code) return code;
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess || major < 9)
        return cannot(e, "the GPU has no bulk copies (compute capability 9.0 is wanted)");
    if (cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, device) != cudaSuccess || !cooperative)
        return cannot(e, "the GPU cannot start a whole grid at once");
    if ((code = cuda_check(cudaDeviceGetAttribute(&d->blocks, cudaDevAttrMultiProcessorCount, device), "multiprocessors", e))) return code;
    d->blocks -= d->blocks % SLICES_MAX >= 4 ? d->blocks % 4 : d->blocks % SLICES_MAX;
    return cuda_check(cudaDeviceGetAttribute(&d->shared_max, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "shared memory", e);
}

enum err_code decode_open(struct decode **out, const struct decode_model *m, struct err *e)
{
    struct decode *d = (struct decode *)calloc(1, sizeof *d);
    if (!d) return err_set(e, ERR_MEMORY, "no memory for the decode kernel");
    struct kernel_args *a = &d->args;
    a->embedding = m->embedding, a->layers = m->layers, a->heads = m->heads, a->kv_heads = m->kv_heads, a->head_dim = m->head_dim;
    a->rotated = m->rotated, a->feed_forward = m->feed_forward, a->vocabulary = m->vocabulary;
    a->q_dim = m->heads * m->head_dim, a->kv_dim = m->kv_heads * m->head_dim;
    a->rope_halves = m->rope_halves, a->gelu = m->gelu, a->norm_eps = m->norm_eps, a->attention_scale = m->attention_scale;
    a->attention_softcap = m->attention_softcap, a->residual_scale = m->residual_scale;
    d->first_norm = m->layer[0].attn_norm;
    a->logit_scale = m->logit_scale, a->logit_softcap = m->logit_softcap;
    a->output = op_of(&m->output, &m->output), a->output_norm = m->output_norm, a->output_bias = m->output_bias, a->kv = m->kv;
    enum err_code code = ask_device(d, e);
    if (!code) code = find_kernel(d, m, e);
    if (!code && !divide(d, 1, a)) code = cannot(e, "a row's inputs do not fit shared memory");
    if (!code) code = take_memory(d, m, e);
    if (!code)
        code = cuda_check(cudaFuncSetAttribute((const void *)d->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, d->shared_max),
                          "shared memory of the decode kernel", e);
    if (code) {
        decode_close(d);
        return code;
    }
    *out = d;
    return ERR_OK;
}

void decode_close(struct decode *d)
{
    if (!d) return;
    (void)cudaFree(d->memory);
    free(d);
}

enum err_code decode_run(struct decode *d, const struct decode_step *step, cudaStream_t stream, struct err *e)
{
    struct kernel_args a = d->args;
    a.step = *step;
    if (step->cols < 1 || step->cols > DECODE_COLS_MAX || !divide(d, step->cols, &a))
        return err_set(e, ERR_INTERNAL, "the decode kernel cannot take %d columns", step->cols);
    int tasks = step->cols * a.kv_heads * ((a.heads / a.kv_heads + HEADS_TILE - 1) / HEADS_TILE);
    a.splits = step->invariant ? 0 : d->blocks / tasks < 1 ? 1 : d->blocks / tasks > SPLITS_MAX ? SPLITS_MAX : d->blocks / tasks;
    LAUNCH(decode_begin, (unsigned)step->cols, 1024, 0, stream, a, d->first_norm, form_of(d->kind), (4 * a.layers + 1) * SLICES_MAX);
    size_t bytes = (size_t)(a.stages * STAGE_BYTES + a.inputs_bytes + a.offsets_bytes + a.angles_bytes) + SHARED_SMALL;
    cudaError_t status = cudaGetLastError();
    if (status == cudaSuccess) status = LAUNCH_TOGETHER(d->kernel, d->blocks, THREADS, bytes, stream, a);
    return cuda_check(status, "the decode kernel", e);
}

#ifdef DECODE_PROFILE
#include <stdio.h>
void decode_profile(void)
{
    static long long stamps[132][32];
    (void)cudaMemcpyFromSymbol(stamps, decode_stamps, sizeof stamps);
    static const char *const name[] = {"qkv", "wait", "attend", "tell", "o", "wait", "ffn", "wait", "down"};
    static const int order[] = {0, 1, 8, 9, 2, 3, 4, 5, 6, 7};
    for (int i = 0; i < 9; i++) {
        long long least = 1LL << 60, most = 0, sum = 0;
        for (int b = 0; b < 132; b++) {
            long long d = stamps[b][order[i + 1]] - stamps[b][order[i]];
            least = d < least ? d : least, most = d > most ? d : most, sum += d;
        }
        printf("%s %.1f/%.1f/%.1f  ", name[i], (double)least / 1755., (double)sum / 132 / 1755., (double)most / 1755.);
    }
    printf("\n");
}
#endif
