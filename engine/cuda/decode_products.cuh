/* The decode kernel's products: what a warp does with its piece of a stage, and what becomes of a finished tile. */
#ifndef RUNG_ENGINE_CUDA_DECODE_PRODUCTS_CUH
#define RUNG_ENGINE_CUDA_DECODE_PRODUCTS_CUH

#include "engine/cuda/activation.cuh"
#include "engine/cuda/decode_private.cuh"

/* Fragments: lane = 4 g + t. Rows g and g + 8 of the tile; of the inputs column g. In each piece of k's a lane owns
 * neighbouring k's for all three, so that every load is 16 bytes; the sum does not mind which k is which. */

/* Inputs lie as (cols, stride) 16-bit elements; the stride keeps the 8 lanes of a quarter warp on different banks. */
static __host__ __device__ __forceinline__ int inputs_stride(enum matrix_kind kind, int slice_k)
{
    int bytes = (slice_k * 2 + 127) / 128 * 128;
    return (bytes + (kind == MATRIX_FP8 ? 16 : 64)) / 2;
}

/* Four-bit weights are n - 8. Bits masked out of a word are n or 16 n times 2^-24 as F16, denormal and exact; the tensor core takes
 * them as they are. The 8 is taken off the sums: for a group of weights, 8 times the sum of its inputs. */
enum { W4_LOW = 0x000f000f, W4_HIGH = 0x00f000f0 };
#define W4_UNIT 0x1p24f

/* A warp: what comes off the sums of its groups between two k's, by column. `inputs` begin at k0, as `offsets` do. The tensor core adds up
 * eight groups (or columns of a group) at once: where it expects columns. */
static __device__ __forceinline__ void find_offsets(float *offsets, const uint16_t *inputs, int stride, int from, int to, int cols)
{
    int warp = (int)threadIdx.x >> 5, lane = (int)threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    int bits = cols > 4 ? 3 : cols > 2 ? 2 : cols - 1, mask = (1 << bits) - 1; /* slots of a group: columns, to a power of two */
    int last = to / W4_GROUP - 1, first = from / W4_GROUP + warp;
    const uint16_t *x = inputs + min(g & mask, cols - 1) * stride + t * 8;
    uint32_t one = 0x3c003c00;
#pragma unroll 1
    for (int at = first; at <= last; at += WARPS * 8 >> bits) {
        const uint16_t *mine = x + min(at + (g >> bits) * WARPS, last) * W4_GROUP;
        float sum[4][4] = {};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint4 in = *(const uint4 *)(mine + j * 32);
            mma_f16(sum[j], one, one, one, one, in.x, in.y);
            mma_f16(sum[j], one, one, one, one, in.z, in.w);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int slot = 2 * t + i, col = slot & mask, group = at + (slot >> bits) * WARPS;
            float v = (sum[0][i] + sum[1][i]) + (sum[2][i] + sum[3][i]);
            if (g == 0 && col < cols && group <= last) offsets[group * cols + col] = -8.f / W4_UNIT * v;
        }
    }
    __syncwarp();
}

/* Where a lane finds its column's inputs, and (W4) its two columns' offsets. Columns beyond the last are the last once more: what comes
 * of them nobody takes. */
struct lane_inputs {
    const uint16_t *at;
    const float *offset, *offset_next;
};

/* One unit of a stage, a warp's piece of rows g and g + 8, times the inputs from k on; `group`: k's in `offsets`. */
template <int KIND>
static __device__ __forceinline__ void consume(float sum[4], const uint8_t *stage, int panel_bytes, int unit, int lane, const struct lane_inputs *in,
                                               int k, int group)
{
    int g = lane >> 2, t = lane & 3;
    if constexpr (KIND == MATRIX_W4) {
        const uint8_t *pa = stage + unit * W4_GRANULE, *pb = pa + panel_bytes;
        uint4 wa = *(const uint4 *)(pa + lane * 16), wb = *(const uint4 *)(pb + lane * 16);
        float sa = __half2float(((const __half *)(pa + 512))[g]), sb = __half2float(((const __half *)(pb + 512))[g]);
        uint32_t a[4] = {wa.x, wa.y, wa.z, wa.w}, b[4] = {wb.x, wb.y, wb.z, wb.w};
        float off = in->offset[group], off_next = in->offset_next[group];
        float low[4] = {off, off_next, off, off_next}, high[4] = {0, 0, 0, 0};
        const uint16_t *x = in->at + k + t * 8;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint4 v = *(const uint4 *)(x + j * 32);
            uint32_t c = a[j] >> 8, d = b[j] >> 8;
            mma_f16(low, a[j] & W4_LOW, b[j] & W4_LOW, c & W4_LOW, d & W4_LOW, v.x, v.y);
            mma_f16(high, a[j] & W4_HIGH, b[j] & W4_HIGH, c & W4_HIGH, d & W4_HIGH, v.z, v.w);
        }
        sum[0] += sa * (high[0] * 0.0625f + low[0]);
        sum[1] += sa * (high[1] * 0.0625f + low[1]);
        sum[2] += sb * (high[2] * 0.0625f + low[2]);
        sum[3] += sb * (high[3] * 0.0625f + low[3]);
    } else if constexpr (KIND == MATRIX_FP8) {
        const uint8_t *pa = stage + g * ROW_STRIDE + unit * 64 + t * 16;
        uint4 wa = *(const uint4 *)pa, wb = *(const uint4 *)(pa + 8 * ROW_STRIDE);
        uint32_t a[4] = {wa.x, wa.y, wa.z, wa.w}, b[4] = {wb.x, wb.y, wb.z, wb.w};
        const uint16_t *x = in->at + k + t * 16;
        uint4 v0 = *(const uint4 *)x, v1 = *(const uint4 *)(x + 8);
        uint32_t v[8] = {v0.x, v0.y, v0.z, v0.w, v1.x, v1.y, v1.z, v1.w};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t a0 = e4m3x2_half2((uint16_t)a[j]), a2 = e4m3x2_half2((uint16_t)(a[j] >> 16));
            uint32_t a1 = e4m3x2_half2((uint16_t)b[j]), a3 = e4m3x2_half2((uint16_t)(b[j] >> 16));
            mma_f16(sum, a0, a1, a2, a3, v[2 * j], v[2 * j + 1]);
        }
    } else {
        const uint8_t *pa = stage + g * ROW_STRIDE + unit * 64 + t * 16;
        uint4 wa = *(const uint4 *)pa, wb = *(const uint4 *)(pa + 8 * ROW_STRIDE);
        uint4 v = *(const uint4 *)(in->at + k + t * 8);
        if constexpr (KIND == MATRIX_BF16) {
            mma_bf16(sum, wa.x, wb.x, wa.y, wb.y, v.x, v.y);
            mma_bf16(sum, wa.z, wb.z, wa.w, wb.w, v.z, v.w);
        } else {
            mma_f16(sum, wa.x, wb.x, wa.y, wb.y, v.x, v.y);
            mma_f16(sum, wa.z, wb.z, wa.w, wb.w, v.z, v.w);
        }
    }
}

/* k's of one unit of a stage. */
template <int KIND> static __device__ __forceinline__ int unit_k()
{
    return KIND == MATRIX_W4 ? W4_GROUP : KIND == MATRIX_FP8 ? 64 : 32;
}

static __device__ __forceinline__ void show_logit(const struct kernel_args *a, int at, int col, float v)
{
    if (at >= a->vocabulary) return;
    if (a->output_bias) v += a->output_bias[at];
    v *= a->logit_scale;
    if (a->logit_softcap > 0) v = a->logit_softcap * tanhf(v / a->logit_softcap);
    a->step.logits[col * a->step.logits_stride + at] = v;
}

/* The power of two at or below v (which is positive), within reason. */
static __device__ __forceinline__ float near_power(float v)
{
    return __uint_as_float(__float_as_uint(fminf(fmaxf(v, 0x1p-40f), 0x1p40f)) & 0x7f800000u);
}

/* An operation of the step: the n-th. */
struct turn_of {
    int n, op;
    const float *weight; /* O and down: the norm's that comes next */
    struct input_form form;    /* of what it leaves for the next operation */
};

template <int KIND, int OUT_KIND> static __device__ __forceinline__ struct turn_of turn_at(const struct kernel_args *a, int n)
{
    int i = n / 4, op = i == a->layers ? OP_OUTPUT : n % 4;
    bool last = op == OP_DOWN && i + 1 == a->layers;
    const float *weight = op == OP_O ? a->layer[i].ffn_norm : op != OP_DOWN ? NULL : last ? a->output_norm : a->layer[i + 1].attn_norm;
    return {n, op, weight, form_of(last ? OUT_KIND : KIND)};
}

/* What adding to x needs, asked for while the sums are still to come: what x held before, and the next norm's weight. */
struct early {
    float x, weight;
};
static __device__ __forceinline__ struct early ask_early(const struct kernel_args *a, const struct turn_of *o, int at, int i)
{
    bool add = o->weight && (i & 7) < a->step.cols;
    return {add ? __ldcg(a->step.x + (int64_t)(i & 7) * a->embedding + at + (i >> 3)) : 0.f, add ? __ldg(o->weight + at + (i >> 3)) : 0.f};
}

/* What becomes of a sum, once it is whole. `at` is where the tile's rows begin. */
static __device__ __forceinline__ void add_to_x(const struct kernel_args *a, const struct shared *s, int at, int row, int col, struct early early,
                                                float v, struct input_form form)
{
    float square = 0;
    bool live = col < a->step.cols;
    if (live) {
        int64_t to = (int64_t)col * a->embedding + at + row;
        float y = early.x + v * a->residual_scale;
        __stcg(a->step.x + to, y);
        a->ready[(int64_t)col * a->embedding + place_in_form(at + row, form)] = to_form(y * early.weight * s->factor[col], form.bf16);
        square = y * y;
    }
    square += __shfl_xor_sync(~0u, square, 8);
    square += __shfl_xor_sync(~0u, square, 16);
    if ((threadIdx.x & 31) < 8 && live) __stcg(a->squares + (int64_t)col * (a->embedding / 4) + (at + row) / 4, square);
}

/* Thread i of 128 has row i / 8 and column i % 8 of a tile; of gate and up, threads 0..63 have both. */
static __device__ __forceinline__ void give_tile(const struct kernel_args *a, const struct shared *s, const struct turn_of *o, int at, int i,
                                                 struct early early, float v, float up)
{
    int row = i >> 3, col = i & 7;
    if (o->op == OP_QKV) {
        if (col < a->step.cols) __stcg(a->qkv + (int64_t)col * (a->q_dim + 2 * a->kv_dim) + at + row, v * s->norm[col]);
    } else if (o->op == OP_FFN) {
        if (i < 64 && col < a->step.cols)
            a->middle[(int64_t)col * a->feed_forward + place_in_form(at + row, o->form)] =
                to_form(activation(v * s->norm[col], a->gelu) * (up * s->norm[col]), o->form.bf16);
    } else if (o->op == OP_OUTPUT) {
        if (col < a->step.wanted) show_logit(a, at + row, col, v * s->norm[a->step.want[col]]);
    } else add_to_x(a, s, at, row, col, early, v, o->form);
}

/* The finishers, when an operation that has normed inputs begins: the norm's part that was left out of them. */
static __device__ void find_norms(const struct kernel_args *a, const struct shared *s)
{
    int i = (int)threadIdx.x & 127, quads = a->embedding / 16;
#pragma unroll 1
    for (int col = 0; col < a->step.cols; col++) {
        const float4 *from = (const float4 *)(a->squares + (int64_t)col * (a->embedding / 4));
        float sum = 0;
#pragma unroll 4
        for (int q = i; q < quads; q += FINISHERS) {
            float4 v = __ldcg(from + q);
            sum += (v.x + v.y) + (v.z + v.w);
        }
        for (int d = 16; d; d >>= 1) sum += __shfl_xor_sync(~0u, sum, d);
        if ((i & 31) == 0) s->warp[(i >> 5) * 8 + col] = sum;
    }
    barrier_sync(ALL_FINISHERS, FINISHERS);
    if (i < a->step.cols) {
        float sum = 0;
        for (int w = 0; w < FINISHERS / 32; w++) sum += s->warp[w * 8 + i];
        float rms = rsqrtf(sum / (float)a->embedding + a->norm_eps);
        s->rms[i] = rms;
        s->norm[i] = rms / s->factor[i];
        s->factor[i] = near_power(rms);
    }
    barrier_sync(ALL_FINISHERS, FINISHERS);
}

/* The wanted columns' last norms, as the caller sees them: each block a share. */
static __device__ void show_hidden(const struct kernel_args *a, const struct shared *s)
{
    int each = a->embedding / 4;
#pragma unroll 1
    for (int n = (int)(blockIdx.x * FINISHERS + (threadIdx.x & 127)); n < a->step.wanted * each; n += (int)gridDim.x * FINISHERS) {
        int i = n / each, q = n % each, col = a->step.want[i];
        float4 v = __ldcg((const float4 *)(a->step.x + (int64_t)col * a->embedding) + q), g = __ldg((const float4 *)a->output_norm + q);
        float rms = s->rms[col];
        *((float4 *)(a->step.hidden + (int64_t)i * a->embedding) + q) = make_float4(v.x * rms * g.x, v.y * rms * g.y, v.z * rms * g.z, v.w * rms * g.w);
    }
}

/* Where the results of operation n are waited for: its counter, and how many parts they are. Where they wait for their slices'
 * sums, or attention is next, they are one. */
struct next_inputs {
    unsigned *counter;
    int parts, rows; /* rows: of a part */
};
static __device__ __forceinline__ struct next_inputs next_inputs(const struct kernel_args *a, int n)
{
    int op = n % 4, i = n / 4;
    if (i == a->layers) return {NULL, 0, 1 << 30};
    if (op == OP_QKV) return {counter_at(a, HEADS), 1, 1 << 30};
    int next = op == OP_O ? OP_FFN : op == OP_FFN ? OP_DOWN : i + 1 == a->layers ? OP_OUTPUT : OP_QKV;
    int rows = a->parts_k[next], k = op == OP_FFN ? a->feed_forward : a->embedding;
    return {counter_at(a, INPUTS + next * PARTS_MAX), (k + rows - 1) / rows, rows};
}

/* The finishers: of this block's tiles there are no more to come for the parts below `to`. */
static __device__ __forceinline__ void tell(const struct next_inputs *next, int *told, int to)
{
    barrier_sync(ALL_FINISHERS, FINISHERS);
    int part = *told + ((int)threadIdx.x & 127);
    if (part < to) count_release(next->counter + part * COUNTER_APART);
    *told = to;
}

/* The finishers' part of one operation: the warps' sums of each tile, in order, and what becomes of them. */
template <int KIND>
static __device__ void finish(const struct kernel_args *a, const struct shared *s, struct turn *turn, const struct kernel_op *o, const struct turn_of *what)
{
    int i = (int)threadIdx.x & 127, row = i >> 3, op = what->op;
    struct op_shape shape = op_shape(a, op);
    struct walk walk = walk_op(a, &shape, op);
    struct next_inputs next = next_inputs(a, what->n);
    int told = 0;
    mbarrier_wait(shared_address(s->begun), (uint32_t)what->n & 1); /* x and its squares are there */
    if (op == OP_QKV || op == OP_FFN || op == OP_OUTPUT) find_norms(a, s);
    if (op == OP_OUTPUT) show_hidden(a, s);
#pragma unroll 1
    for (int t = walk.first, then; t < shape.tiles; t = then) {
        struct tile x = tile_at<KIND>(o, &shape, op, t);
        if (shape.slices == 1 && x.row / next.rows > told) tell(&next, &told, x.row / next.rows);
        bool there = op == OP_FFN || x.row + row < shape.rows;
        float scale = !x.scale_a || !there ? 1.f : row < 8 ? __ldg(x.scale_a + row) : __ldg(x.scale_b + row - 8);
        float scale_up = x.scale_a && row < 8 ? __ldg(x.scale_b + row) : 1.f;
        struct early early = {0, 0};
        if (shape.slices == 1) early = ask_early(a, what, x.row, i);
        mbarrier_wait(shared_address(&s->sums_full[turn->at]), turn->parity);
        const float *sums = s->sums + turn->at * RED_FLOATS + i;
        then = s->sums_then[turn->at];
        float v = 0, up = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++) v += sums[w * (TILE_ROWS * 8)];
        if (op == OP_FFN && i < 64)
#pragma unroll
            for (int w = 0; w < WARPS; w++) up += sums[w * (TILE_ROWS * 8) + 64];
        __syncwarp();
        if ((i & 31) == 0) mbarrier_arrive(shared_address(&s->sums_empty[turn->at]));
        turn_next(turn);
        v *= scale;
        if (shape.slices > 1) __stcg(a->partial + ((int64_t)t * shape.slices + walk.slice) * 128 + i, v);
        else give_tile(a, s, what, x.row, i, early, v, up * scale_up);
    }
    if (shape.slices == 1) {
        tell(&next, &told, next.parts);
        return;
    }
    barrier_sync(ALL_FINISHERS, FINISHERS);
    if (i == 0) count_release(counter_at(a, PARTIALS + op));
}

/* The slices' sums of every tile, in order; the grid has passed a barrier since they were written. */
static __device__ void finish_slices(const struct kernel_args *a, const struct shared *s, const struct turn_of *what)
{
    int op = what->op;
    struct op_shape shape = op_shape(a, op);
    int tid = (int)threadIdx.x, i = tid & 127;
#pragma unroll 1
    for (int t = (int)blockIdx.x * (CONSUMERS / 128) + (tid >> 7); t < shape.tiles; t += (int)gridDim.x * (CONSUMERS / 128)) {
        int at = op == OP_FFN ? t * 8 : t * TILE_ROWS;
        struct early early = ask_early(a, what, at, i);
        float v = 0, up = 0;
#pragma unroll 4
        for (int n = 0; n < shape.slices; n++) {
            const float *part = a->partial + ((int64_t)t * shape.slices + n) * 128 + i;
            v += __ldcg(part);
            if (op == OP_FFN && i < 64) up += __ldcg(part + 64);
        }
        give_tile(a, s, what, at, i, early, v, up);
    }
}

/* A tile's sums of one warp, to the finishers. */
template <int KIND>
static __device__ __forceinline__ void give_sums(const struct shared *s, struct turn *turn, const float sum[4], int then)
{
    float unit = KIND == MATRIX_W4 ? W4_UNIT : 1;
    int warp = (int)threadIdx.x >> 5, lane = (int)threadIdx.x & 31;
    float *at = s->sums + turn->at * RED_FLOATS + warp * (TILE_ROWS * 8) + (lane >> 2) * 8 + (lane & 3) * 2;
    mbarrier_wait(shared_address(&s->sums_empty[turn->at]), turn->parity ^ 1);
    *(float2 *)at = make_float2(sum[0] * unit, sum[1] * unit);
    *(float2 *)(at + 64) = make_float2(sum[2] * unit, sum[3] * unit);
    if (threadIdx.x == 0) s->sums_then[turn->at] = then;
    __syncwarp();
    if (lane == 0) mbarrier_arrive(shared_address(&s->sums_full[turn->at]));
    turn_next(turn);
}

static __device__ __forceinline__ void rotate(float sums[GROUP_MAX][4])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float first = sums[0][i];
#pragma unroll
        for (int j = 0; j + 1 < GROUP_MAX; j++) sums[j][i] = sums[j + 1][i];
        sums[GROUP_MAX - 1][i] = first;
    }
}

/* The parts of the inputs that the consumers have waited for: they lie below `k`. */
struct inputs_there {
    int k, part;
    uint32_t parity; /* a bit a part: of its next phase */
};
static __device__ __forceinline__ void wait_inputs(const struct shared *s, struct inputs_there *there, int parts_k, int k)
{
    while (there->k < k) {
        mbarrier_wait(shared_address(&s->loaded[there->part]), there->parity >> there->part & 1);
        there->parity ^= 1u << there->part++;
        there->k += parts_k;
    }
}

/* A whole stage, a warp's four units of it. */
template <int KIND>
static __device__ __forceinline__ void consume_stage(float sum[4], float more[4], const uint8_t *stage, int lane, const struct lane_inputs *in, int k, int group,
                                                     int cols)
{
    int warp = (int)threadIdx.x >> 5;
#pragma unroll
    for (int u = 0; u < UNITS / WARPS; u++)
        consume<KIND>(u & 1 ? more : sum, stage, UNITS * W4_GRANULE, warp + u * WARPS, lane, in, k + (warp + u * WARPS) * unit_k<KIND>(),
                      group + u * WARPS * cols);
}

/* A piece of a tile, which is a stage or what is left of k. */
template <int KIND>
static __device__ __forceinline__ void consume_piece(float sum[4], const struct shared *s, struct ring *ring, const struct lane_inputs *in, int k, int left, int cols)
{
    int warp = (int)threadIdx.x >> 5, lane = (int)threadIdx.x & 31, chunk = kind_chunk((enum matrix_kind)KIND);
    mbarrier_wait(shared_address(&s->full[ring->stage]), ring->parity);
    const uint8_t *stage = s->ring + ring->stage * STAGE_BYTES;
    int group = KIND == MATRIX_W4 ? ((unsigned)k / W4_GROUP + (unsigned)warp) * (unsigned)cols : 0;
    if (left >= chunk) {
        float more[4] = {0, 0, 0, 0};
        consume_stage<KIND>(sum, more, stage, lane, in, k, group, cols);
#pragma unroll
        for (int i = 0; i < 4; i++) sum[i] += more[i];
    } else
#pragma unroll 1
        for (int u = warp; u * unit_k<KIND>() < left; u += WARPS, group += WARPS * cols)
            consume<KIND>(sum, stage, left / W4_GROUP * W4_GRANULE, u, lane, in, k + u * unit_k<KIND>(), group);
}

static __device__ __forceinline__ void leave_stage(const struct shared *s, struct ring *ring)
{
    __syncwarp();
    if ((threadIdx.x & 31) == 0) mbarrier_arrive(shared_address(&s->empty[ring->stage]));
    ring_next(ring);
}

template <int KIND>
static __device__ void multiply(const struct kernel_args *a, const struct shared *s, struct ring *ring, struct turn *turn, int op, uint32_t *loads)
{
    int warp = (int)threadIdx.x >> 5, lane = (int)threadIdx.x & 31;
    struct op_shape shape = op_shape(a, op);
    struct walk walk = walk_op(a, &shape, op);
    int k0 = walk.slice * shape.slice_k, count = min(shape.k - k0, shape.slice_k), stride = inputs_stride((enum matrix_kind)KIND, shape.slice_k);
    int chunk = kind_chunk((enum matrix_kind)KIND), parts_k = a->parts_k[op];
    struct inputs_there there = {k0 / parts_k * parts_k, k0 / parts_k, *loads};
    int cols = op == OP_OUTPUT ? a->step.wanted : a->step.cols, t2 = 2 * (lane & 3);
    const uint16_t *inputs = (const uint16_t *)s->inputs;
    struct lane_inputs in = {inputs + min(lane >> 2, cols - 1) * stride, s->offsets + min(t2, cols - 1), s->offsets + min(t2 + 1, cols - 1)};
    float sums[GROUP_MAX][4]; /* the first tiles' in their order: the one that is worked on first, the others behind it */
#pragma unroll
    for (int j = 0; j < GROUP_MAX; j++) sums[j][0] = sums[j][1] = sums[j][2] = sums[j][3] = 0;
    int then = walk.first;
#pragma unroll 1
    for (int from = 0; from < count; from += parts_k) {
        int to = min(count, from + parts_k);
        wait_inputs(s, &there, parts_k, k0 + to);
        if (KIND == MATRIX_W4) find_offsets(s->offsets, inputs, stride, from, to, cols);
#pragma unroll 1
        for (int j = 0; j < walk.group && walk.first < shape.tiles; j++) {
#pragma unroll 1
            for (int k = from; k < to; k += chunk) {
                consume_piece<KIND>(sums[0], s, ring, &in, k, count - k, cols);
                if (k + chunk >= count) then = s->then[ring->stage];
                leave_stage(s, ring);
            }
            if (to == count) {
                give_sums<KIND>(s, turn, sums[0], then);
                sums[0][0] = sums[0][1] = sums[0][2] = sums[0][3] = 0;
            }
            if (walk.group > 1) rotate(sums);
        }
#pragma unroll 1
        for (int j = walk.group; walk.group > 1 && j < GROUP_MAX; j++) rotate(sums);
    }
    *loads = there.parity;
    /* The other tiles, two stages at a time: what a warp has to do for a stage beside its four units counts. */
#pragma unroll 1
    while (then < shape.tiles) {
        float sum[4] = {0, 0, 0, 0}, more[4] = {0, 0, 0, 0};
        int k = 0;
#pragma unroll 1
        for (; k + 2 * chunk <= count; k += 2 * chunk) {
            struct ring next = *ring;
            ring_next(&next);
            int group = KIND == MATRIX_W4 ? ((unsigned)k / W4_GROUP + (unsigned)warp) * (unsigned)cols : 0;
            mbarrier_wait(shared_address(&s->full[ring->stage]), ring->parity);
            consume_stage<KIND>(sum, more, s->ring + ring->stage * STAGE_BYTES, lane, &in, k, group, cols);
            mbarrier_wait(shared_address(&s->full[next.stage]), next.parity);
            leave_stage(s, ring);
            consume_stage<KIND>(sum, more, s->ring + next.stage * STAGE_BYTES, lane, &in, k + chunk, group + UNITS * cols, cols);
            then = s->then[next.stage]; /* of the last piece it is the one that counts */
            leave_stage(s, ring);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) sum[i] += more[i];
#pragma unroll 1
        for (; k < count; k += chunk) {
            consume_piece<KIND>(sum, s, ring, &in, k, count - k, cols);
            then = s->then[ring->stage];
            leave_stage(s, ring);
        }
        give_sums<KIND>(s, turn, sum, then);
    }
}

/* The consumers are done with what lies in `inputs`. */
static __device__ __forceinline__ void leave_inputs(const struct shared *s)
{
    __syncwarp();
    if ((threadIdx.x & 31) == 0) mbarrier_arrive(shared_address(s->inputs_empty));
}

/* ---- inputs ---- */

/* The loader, a warp: operation n's inputs, each part as soon as all blocks have given theirs; 16 bits an element. Few come 16 bytes a lane:
 * bulk copies wait until the weights that the producer has asked for are on their way, microseconds, which many are worth. */
static __device__ void load_inputs(const struct kernel_args *a, const struct shared *s, enum matrix_kind kind, int n)
{
    int lane = (int)threadIdx.x & 31, op = n / 4 == a->layers ? OP_OUTPUT : n % 4;
    struct op_shape shape = op_shape(a, op);
    int slice = (int)blockIdx.x % shape.slices, k0 = slice * shape.slice_k, k1 = min(shape.k, k0 + shape.slice_k), parts_k = a->parts_k[op];
    int cols = op == OP_OUTPUT ? a->step.wanted : a->step.cols, stride = inputs_stride(kind, shape.slice_k);
    const uint16_t *inputs = op == OP_O ? a->attended : op == OP_DOWN ? a->middle : a->ready;
    uint32_t to = shared_address(s->inputs);
    int mine = lane >= cols ? 0 : op == OP_OUTPUT ? a->step.want[lane] : lane; /* a column */
    int parts = (shape.k + parts_k - 1) / parts_k;
    unsigned missing = (1u << parts) - 1, want = arrivals(a, n, true);
    const unsigned *counter = counter_at(a, INPUTS + op * PARTS_MAX + min(lane, parts - 1));
    bool empty = n == 0;
#pragma unroll 1
    while (missing) {
        unsigned there = n == 0 ? missing : __ballot_sync(~0u, load_acquire(counter) >= want) & missing; /* all parts in one look */
        if (!empty) mbarrier_wait(shared_address(s->inputs_empty), (uint32_t)(n - 1) & 1); /* the consumers have left the operation before */
        empty = true;
        missing &= ~there;
        __syncwarp();
#pragma unroll 1
        for (; there; there &= there - 1) {
            int p = __ffs((int)there) - 1, from = max(k0, p * parts_k), end = min(k1, (p + 1) * parts_k);
            if (from >= end) continue;
            uint32_t bytes = (uint32_t)(end - from) * 2, bar = shared_address(&s->loaded[p]);
            if (cols > COLS_BY_LANES) {
                fence_bulk();
                if (lane == 0) mbarrier_expect(bar, bytes * (uint32_t)cols);
                else mbarrier_arrive(bar);
                __syncwarp();
                if (lane < cols) bulk_copy_shared(to + (uint32_t)(lane * stride + from - k0) * 2, inputs + (int64_t)mine * shape.k + from, bytes, bar);
                continue;
            }
#pragma unroll 1
            for (int i = 0; i < cols; i++) {
                const uint16_t *col = inputs + (int64_t)__shfl_sync(~0u, mine, i) * shape.k;
#pragma unroll 4
                for (int k = from + lane * 8; k < end; k += 256) copy_16(to + (uint32_t)(i * stride + k - k0) * 2, col + k);
            }
            copies_arrive(bar);
        }
    }
    if (lane == 0) mbarrier_arrive(shared_address(s->begun));
}

#endif
