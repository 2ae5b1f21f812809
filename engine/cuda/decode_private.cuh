/* Inside the decode kernel: how a block's shared memory is laid out, and the order of tiles that producer and consumers
 * walk through alike. */
#ifndef RUNG_ENGINE_CUDA_DECODE_PRIVATE_CUH
#define RUNG_ENGINE_CUDA_DECODE_PRIVATE_CUH

#include "engine/cuda/decode.cuh"
#include "engine/cuda/ptx.cuh"

enum {
    WARPS = 8,                /* consumers */
    CONSUMERS = WARPS * 32,
    FINISHERS = 128,
    THREADS = CONSUMERS + 128 + FINISHERS, /* between them the producer's group: two warps of it work */
    CONSUMER_REGISTERS = 192, OTHER_REGISTERS = 64, /* 256 × 192 + 256 × 64 = 512 × 128, what a block starts with */
    UNITS = 32,               /* pieces of a stage; a warp takes four, so that they hide each other's delays */
    TILE_ROWS = 16,           /* two panels of 8 rows */
    STAGE_BYTES = 33792,      /* a tile's next piece: 2 × 32 granules of W4, or 16 rows of 2048 bytes, 64 apart */
    ROW_BYTES = 2048,
    ROW_STRIDE = ROW_BYTES + 64, /* so that the 8 lanes of a quarter warp read different banks */
    STAGES_LEAST = 3, STAGES_MAX = 10,
    RED_FLOATS = WARPS * TILE_ROWS * DECODE_COLS_MAX, /* the warps' sums of one tile */
    SUMS = 3,                 /* tiles whose sums wait for the finishers */
    SLICES_MAX = 8,           /* of k, where a batch's inputs do not fit shared memory */
    PARTS_MAX = 8,            /* of an operation's inputs: each is waited for by itself */
    GROUP_MAX = 4,            /* tiles that a block begins an operation with, their sums side by side */
    COLS_BY_LANES = 2,        /* of inputs; more come by bulk copies */
    LEAD_STAGES = 5,          /* what a block should have to do before it needs the last part: some 5 µs */
    COUNTER_APART = 32,       /* words: a counter that others poll has a line of its own */
    HEADS_TILE = 8,           /* query heads of one KV head that are worked on together */
    SPLITS_MAX = 16, SPLIT_PAGES = 8, /* with less, another block is not worth it */
    PAGE = CUDA_PAGE_TOKENS, PAGES_NEAR = 64,
    ALL_CONSUMERS = 1, ALL_FINISHERS = 2 /* barriers of the block */
};

enum op { OP_QKV, OP_O, OP_FFN, OP_DOWN, OP_OUTPUT };

/* What blocks wait for. A counter grows by the number of blocks in every layer. */
enum {
    INPUTS = 0,                   /* (5, PARTS_MAX) the parts of an operation's inputs */
    PARTIALS = 5 * PARTS_MAX,     /* (5) an operation's slices have left their sums */
    HEADS = PARTIALS + 5, PLACED, /* Q, K and V; the new K and V are in their pages, where columns look at each other's */
    COUNTERS
};

/* The panels of an operation: tile t is panels 2t and 2t + 1 of `a`, or (gate and up) panel t of each. */
struct kernel_op {
    const uint8_t *a, *b;
    const float *scale_a, *scale_b; /* FP8 */
};

struct kernel_layer {
    struct kernel_op op[4]; /* OP_QKV (the three lie behind each other) … OP_DOWN */
    const float *attn_norm, *ffn_norm, *q_bias, *k_bias, *v_bias, *q_norm, *k_norm;
    int window, local_rope;
};

/* Everything that stays the same between steps, and the step. */
struct kernel_args {
    int embedding, layers, heads, kv_heads, head_dim, rotated, feed_forward, vocabulary, q_dim, kv_dim;
    bool rope_halves, gelu;
    float norm_eps, attention_scale, attention_softcap, residual_scale, logit_scale, logit_softcap;
    const struct kernel_layer *layer; /* (layers) device */
    struct kernel_op output;
    const float *output_norm, *output_bias;
    struct kv_cache kv;
    struct decode_step step;
    int slices[5], parts_k[5], group[5]; /* by op: slices of k, k's of a part of the inputs, tiles of the first group */
    int stages, inputs_bytes, offsets_bytes, angles_bytes; /* of shared memory */
    int splits;                          /* of attention; 0: by each column's length */
    float *qkv;                          /* (cols, q_dim + 2 kv_dim) */
    uint16_t *attended, *middle;         /* (cols, q_dim), (cols, feed_forward) in the layers' form */
    uint16_t *ready;                     /* (cols, embedding) x × the next norm's weight × a power of two near 1 / rms: what is multiplied
                                          * next; the sums make up for the rest of the norm */
    float *factor;                       /* (cols) that power of two, of the first norm */
    float *squares;                      /* (cols, embedding / 4) sums of 4 squares of x */
    float *partial;                      /* (tiles, slices, 16, 8): where k is sliced */
    float *split_out, *split_max;        /* (cols × kv heads × head tiles, splits, 8 × head_dim), (…, 2 × 8) */
    unsigned *split_arrived;             /* zero between steps */
    unsigned *arrived, *claimed;         /* zero when a step begins: (COUNTERS) blocks that have come so far; (operations, SLICES_MAX) tiles
                                          * beyond the blocks' first */
};

/* The k's of a stage. */
static __device__ __host__ __forceinline__ int kind_chunk(enum matrix_kind kind)
{
    return kind == MATRIX_W4 ? UNITS * W4_GROUP : kind == MATRIX_FP8 ? ROW_BYTES : ROW_BYTES / 2;
}

struct op_shape {
    int k, rows, tiles, slices, slice_k; /* slice_k: a multiple of 128 */
};

static __device__ __forceinline__ struct op_shape op_shape(const struct kernel_args *a, int op)
{
    struct op_shape s;
    s.k = op == OP_O ? a->q_dim : op == OP_DOWN ? a->feed_forward : a->embedding;
    s.rows = op == OP_QKV ? a->q_dim + 2 * a->kv_dim : op == OP_FFN ? 2 * a->feed_forward : op == OP_OUTPUT ? a->vocabulary : a->embedding;
    s.tiles = (s.rows + TILE_ROWS - 1) / TILE_ROWS;
    s.slices = a->slices[op];
    s.slice_k = ((s.k + 127) / 128 + s.slices - 1) / s.slices * 128;
    return s;
}

static __device__ __forceinline__ unsigned *counter_at(const struct kernel_args *a, int which)
{
    return a->arrived + which * COUNTER_APART;
}

/* How far a counter is when all blocks have come to operation n's inputs (INPUTS), or from it (the others). */
static __device__ __forceinline__ unsigned arrivals(const struct kernel_args *a, int n, bool inputs)
{
    int i = n / 4;
    return (unsigned)(inputs && n % 4 == 0 && i < a->layers ? i : i < a->layers ? i + 1 : 1) * gridDim.x;
}

/* A block's part in an operation: it works on one slice of k, with `count` blocks altogether. Its first `group` tiles are settled,
 * `count` apart; it goes through them together, one part of the inputs after another, so that it has something to do until the last
 * part is there. The other tiles it claims one by one from a counter, since the memory serves some multiprocessors faster than others. */
struct walk {
    int slice, count, first, group;
};

static __device__ __forceinline__ struct walk walk_op(const struct kernel_args *a, const struct op_shape *s, int op)
{
    struct walk w;
    w.group = a->group[op];
    w.count = (int)gridDim.x / s->slices;
    w.slice = (int)blockIdx.x % s->slices;
    int index = (int)blockIdx.x / s->slices;
    w.first = index < w.count ? index : s->tiles;
    return w;
}

/* One tile: two panels of 8 rows. */
struct tile {
    const uint8_t *a, *b;
    const float *scale_a, *scale_b;
    int row; /* of the result */
};

template <int KIND> static __device__ __forceinline__ struct tile tile_at(const struct kernel_op *o, const struct op_shape *s, int op, int t)
{
    struct tile x;
    int64_t panel = KIND == MATRIX_W4 ? (int64_t)(s->k / W4_GROUP) * W4_GRANULE : (int64_t)s->k * (KIND == MATRIX_FP8 ? 8 : 16);
    int pa = op == OP_FFN ? t : 2 * t, pb = op == OP_FFN ? t : 2 * t + 1;
    if (pb * 8 >= s->rows) pb = pa; /* read twice, shown once */
    x.a = o->a + pa * panel;
    x.b = o->b + pb * panel;
    x.scale_a = o->scale_a ? o->scale_a + pa * 8 : NULL;
    x.scale_b = o->scale_a ? o->scale_b + pb * 8 : NULL;
    x.row = op == OP_FFN ? t * 8 : t * TILE_ROWS;
    return x;
}

/* The ring's position: stage and the parity of its round. */
struct ring {
    int stage, stages;
    uint32_t parity;
};

static __device__ __forceinline__ void ring_next(struct ring *r)
{
    if (++r->stage == r->stages) {
        r->stage = 0;
        r->parity ^= 1;
    }
}

/* How an operation's inputs lie: for BF16 weights they are BF16, else F16. For W4 the second and third pair of each 8 change places:
 * a word's 8 weights come as those in the low halves of its bytes and those in the high ones. */
struct input_form {
    bool bf16, w4;
};
static __host__ __device__ __forceinline__ struct input_form form_of(int kind)
{
    return {kind == MATRIX_BF16, kind == MATRIX_W4};
}
static __device__ __forceinline__ int place_in_form(int k, struct input_form form)
{
    return form.w4 ? (k & ~6) | (k & 2) << 1 | (k & 4) >> 1 : k;
}

static __device__ __forceinline__ uint16_t to_form(float v, bool bf16)
{
    if (bf16) return __bfloat16_as_ushort(__float2bfloat16_rn(v));
    return __half_as_ushort(__float2half_rn(fminf(fmaxf(v, -65504.f), 65504.f)));
}

/* Which of the waiting tiles is next. */
struct turn {
    int at;
    uint32_t parity;
};

static __device__ __forceinline__ void turn_next(struct turn *t)
{
    if (++t->at == SUMS) {
        t->at = 0;
        t->parity ^= 1;
    }
}

/* Shared memory. */
struct shared {
    uint8_t *ring, *inputs; /* inputs: attention's work space too */
    float *offsets; /* (groups of a slice, cols) W4: what comes off a group's sums */
    float *sums;   /* (SUMS, WARPS, 16, 8) */
    float *warp;   /* (FINISHERS / 32, 8) */
    float *rms, *factor, *norm; /* (8) by column: 1 / root mean square of x, what `ready` was multiplied by, rms / factor */
    float *angles; /* (cols, 2 × rotated) */
    float *rows;   /* (2, 128) the placers' work space */
    int *flag;     /* (4) */
    int *then;     /* (STAGES_MAX) with the last piece of a tile: the block's next tile, or one that is not there */
    int *sums_then; /* (SUMS) the same, with the tile's sums */
    int *position, *run_of, *pages; /* (8), (8), (8, PAGES_NEAR) of the step; a longer table's rest is read where it lies */
    uint64_t *full, *empty;           /* (STAGES_MAX) of the ring */
    uint64_t *sums_full, *sums_empty; /* (SUMS) */
    uint64_t *loaded;                 /* (PARTS_MAX) a phase a load of a part of the inputs */
    uint64_t *inputs_empty;           /* a phase an operation: its inputs, and attention's work space, are used up */
    uint64_t *begun;                  /* a phase an operation: its inputs are all there. One thread of the block at a time watches the
                                       * grid's counters: each watcher costs the memory that holds them more than it seems. */
    uint64_t *attention;              /* a phase a layer: its Q, K and V are there */
    uint64_t *placed;                 /* a phase a layer: this block's new K and V are in their pages */
};
enum {
    SHARED_FLOATS = SUMS * RED_FLOATS + FINISHERS / 32 * 8 + 3 * 8 + 2 * 128,
    SHARED_INTS = 8 + STAGES_MAX + SUMS + 1 + 16 + 8 * PAGES_NEAR,
    SHARED_SMALL = (SHARED_FLOATS + SHARED_INTS) * 4 + (2 * (STAGES_MAX + SUMS) + PARTS_MAX + 4) * 8 + 64
};

#endif
