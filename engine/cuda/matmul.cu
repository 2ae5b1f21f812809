/* Which way a product takes.
 *
 *   few columns           the tile kernel, for every kind: weights are read once and decoded in registers
 *   more, 4-bit weights   on Hopper the wide kernel
 *   more, FP8 weights     on Hopper FP8's wide kernel, with E4M3 inputs
 *   many columns          cuBLASLt where it is found: 16-bit weights as they are, FP8 with E4M3 inputs, the rest as F16 that a
 *                         kernel writes a slice of rows at a time
 *   invariant             the tile kernel, its sums always in the same order
 *   k no multiple of 32   a plain kernel
 */
#include "engine/cuda/matmul_private.cuh"

#include <stdlib.h>
#include <string.h>

struct matmul {
    struct matmul_options options;
    struct matmul_tuning tuning;
    struct lt *lt;     /* NULL: no library */
    float *partial;    /* sums of blocks that share a tile */
    unsigned *arrived; /* (TILE_COUNTERS) zeros between calls */
    __half *rows;      /* dequantized weights, E4M3 inputs as F16, or inputs turned */
    int64_t rows_bytes;
    bool wide, wide8;  /* the device has the wide kernel, and FP8's, and they are allowed */
    uint64_t wide_ready, wide8_ready;
    int multiprocessors, shared_max, shared_all; /* bytes of shared memory: of a block, of a multiprocessor */
    uint64_t ready[LAYOUTS]; /* bit i: the table's kernel i may take more shared memory than is usual */
};

static const int64_t PARTIAL_BYTES = (int64_t)32 << 20, ROWS_BYTES_MAX = (int64_t)256 << 20;

/* Columns from which cuBLASLt is the faster way (docs/performance-gpu.md), for F16 and BF16, and for FP8 weights with E4M3 inputs. */
enum { LT_COLS_PLAIN = 9, LT_COLS_FP8 = 24 };

/* What is dequantized first: the slower that is, the later. */
static int lt_cols_dequantized(enum layout layout)
{
    switch (layout) {
    case LAYOUT_Q8_0: return 129;
    case LAYOUT_Q6_K: return 257;
    case LAYOUT_Q4_K: return 641;
    default: return 193;
    }
}

/* Columns of E4M3 inputs for FP8's wide kernel: always up to the first number, up to the last where its tiles fill the card or cuBLASLt's, of
 * 128 columns, are not filled. Those that fill them and are fewer cuBLASLt has where rows are few (docs/performance-gpu.md). */
enum { WIDE8_COLS = 256, WIDE8_COLS_MAX = 512, WIDE8_LT_FROM = 81, WIDE8_LT_TO = 128, WIDE8_LT_TILE = 128, WIDE8_TILE_ROWS = 128 };

/* Columns of 4-bit weights for the wide kernel. */
enum { WIDE_COLS = 8, WIDE_COLS_MAX = 2048 };

/* ---- what a matrix is ---- */

static enum layout gguf_layout(enum gguf_type type)
{
    switch (type) {
    case GGUF_F32: return LAYOUT_F32;
    case GGUF_F16: return LAYOUT_F16;
    case GGUF_BF16: return LAYOUT_BF16;
    case GGUF_Q8_0: return LAYOUT_Q8_0;
    case GGUF_Q4_0: return LAYOUT_Q4_0;
    case GGUF_Q4_1: return LAYOUT_Q4_1;
    case GGUF_Q5_0: return LAYOUT_Q5_0;
    case GGUF_Q5_1: return LAYOUT_Q5_1;
    case GGUF_IQ4_NL: return LAYOUT_IQ4_NL;
    case GGUF_Q2_K: return LAYOUT_Q2_K;
    case GGUF_Q3_K: return LAYOUT_Q3_K;
    case GGUF_Q4_K: return LAYOUT_Q4_K;
    case GGUF_Q5_K: return LAYOUT_Q5_K;
    case GGUF_Q6_K: return LAYOUT_Q6_K;
    default: return LAYOUT_NONE;
    }
}

enum layout matrix_layout(const struct matrix *w)
{
    switch (w->kind) {
    case MATRIX_GGUF: return gguf_layout(w->type);
    case MATRIX_F16: return LAYOUT_F16;
    case MATRIX_BF16: return LAYOUT_BF16;
    case MATRIX_FP8: return LAYOUT_FP8;
    case MATRIX_W4: return LAYOUT_W4;
    default: return LAYOUT_NONE;
    }
}

static int64_t weight_bytes(enum layout layout, const struct matrix *w)
{
    struct layout_shape s = layout_shape_of(layout);
    if (layout == LAYOUT_W4) return (int64_t)((w->rows + W4_PANEL_ROWS - 1) / W4_PANEL_ROWS) * (w->k / W4_GROUP) * W4_GRANULE;
    return (int64_t)w->rows * (w->k / s.block) * s.bytes;
}

static int element_bytes(enum into into)
{
    return into == INTO_F16 || into == INTO_BF16 ? 2 : 4;
}

enum form matmul_form(const struct matrix *w, int cols, bool invariant)
{
    enum layout layout = matrix_layout(w);
    if (layout == LAYOUT_BF16) return FORM_BF16;
    if (layout == LAYOUT_W4 && !invariant && cols >= WIDE_COLS && cols <= WIDE_COLS_MAX && wide_device()) return FORM_TURNED;
    if (layout != LAYOUT_FP8 || invariant || cols < LT_COLS_FP8 || w->k % 32 || w->rows % 16) return FORM_F16;
    return lt_fp8() || wide8_device() ? FORM_E4M3 : FORM_F16;
}

struct tile_table tile_table_of(enum layout layout)
{
    switch (layout) {
    case LAYOUT_W4: return tile_table_w4();
    case LAYOUT_FP8: return tile_table_fp8();
    case LAYOUT_F16: return tile_table_f16();
    case LAYOUT_BF16: return tile_table_bf16();
    case LAYOUT_Q8_0: return tile_table_q8_0();
    case LAYOUT_Q4_K: return tile_table_q4_k();
    case LAYOUT_Q6_K: return tile_table_q6_k();
    default: return tile_table_more(layout);
    }
}

/* ---- opening and closing ---- */

static enum err_code look_at_device(struct matmul *m, struct err *e)
{
    int device;
    enum err_code code = cuda_check(cudaGetDevice(&device), "cudaGetDevice", e);
    if (!code) code = cuda_check(cudaDeviceGetAttribute(&m->multiprocessors, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute", e);
    if (!code) code = cuda_check(cudaDeviceGetAttribute(&m->shared_max, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "cudaDeviceGetAttribute", e);
    if (!code) code = cuda_check(cudaDeviceGetAttribute(&m->shared_all, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device), "cudaDeviceGetAttribute", e);
    return code;
}

enum err_code matmul_open(struct matmul **out, const struct matmul_options *options, struct err *e)
{
    struct matmul *m = (struct matmul *)calloc(1, sizeof *m);
    if (!m) return err_set(e, ERR_MEMORY, "no memory for the matrix products' state");
    m->options = *options;
    m->tuning.kernel = -1;
    enum err_code code = look_at_device(m, e);
    if (!code) code = cuda_check(cudaMalloc((void **)&m->partial, (size_t)PARTIAL_BYTES), "cudaMalloc for partial sums", e);
    if (!code) code = cuda_check(cudaMalloc((void **)&m->arrived, TILE_COUNTERS * sizeof *m->arrived), "cudaMalloc for counters", e);
    if (!code) code = cuda_check(cudaMemset(m->arrived, 0, TILE_COUNTERS * sizeof *m->arrived), "cudaMemset of the counters", e);
    m->wide = !options->invariant && wide_device();
    m->wide8 = !options->invariant && wide8_device();
    if (!code && !options->invariant && lt_found()) code = lt_open(&m->lt, e);
    if (!code && (m->lt || m->wide || m->wide8)) {
        m->rows_bytes = options->k_rows_max * 2 < ROWS_BYTES_MAX ? options->k_rows_max * 2 : ROWS_BYTES_MAX;
        code = cuda_check(cudaMalloc((void **)&m->rows, (size_t)m->rows_bytes), "cudaMalloc for dequantized weights", e);
    }
    if (code) matmul_close(m);
    else *out = m;
    return code;
}

void matmul_close(struct matmul *m)
{
    if (!m) return;
    lt_close(m->lt);
    (void)cudaFree(m->rows);
    (void)cudaFree(m->arrived);
    (void)cudaFree(m->partial);
    free(m);
}

void matmul_set_tuning(struct matmul *m, const struct matmul_tuning *tuning)
{
    static const struct matmul_tuning none = {WAY_AUTO, -1, 0, 0, 0, false};
    m->tuning = tuning ? *tuning : none;
}

bool matmul_has_lt(const struct matmul *m)
{
    return m->lt != NULL;
}

bool matmul_has_wide(const struct matmul *m)
{
    return m->wide;
}

bool matmul_has_wide8(const struct matmul *m)
{
    return m->wide8;
}

/* ---- the tile kernel: which instance, how the work is split ---- */

struct tile_plan {
    const struct tile_kernel *kernel;
    int index, cols, stages, splits, turns;
    size_t shared;
};

/* Shared memory for one block, so that a multiprocessor holds enough of them to keep its loads under way. */
static int shared_budget(const struct matmul *m, const struct tile_kernel *kernel)
{
    int blocks = kernel->cols == 64 ? 1 : kernel->parts == 1 ? 2 : kernel->threads == 128 ? 4 : 3;
    int budget = m->shared_all / blocks - 1024;
    return budget < m->shared_max ? budget : m->shared_max;
}

static size_t plan_shared(const struct tile_plan *p)
{
    int cols = p->kernel->cols == 8 && p->cols < 8 ? p->cols : p->kernel->cols; /* narrow kernels take no more room than they need */
    size_t ring = (size_t)p->stages * (size_t)(p->kernel->weight_bytes + cols * p->kernel->column_bytes), sums = (size_t)p->kernel->sum_bytes;
    return (p->turns > 1 ? ring + sums : ring > sums ? ring : sums) + 16;
}

/* As many stages as fit; false where not even two do. */
static bool plan_stages(const struct matmul *m, struct tile_plan *p)
{
    int budget = shared_budget(m, p->kernel), most = m->tuning.stages ? m->tuning.stages : 6;
    p->stages = 2;
    if (plan_shared(p) > (size_t)m->shared_max) return false;
    if (m->tuning.stages) budget = m->shared_max;
    while (p->stages < most && p->stages < TILE_STAGES_MAX) {
        p->stages++;
        if (plan_shared(p) <= (size_t)budget) continue;
        p->stages--;
        break;
    }
    p->shared = plan_shared(p);
    return true;
}

static int ceil_div(int a, int b)
{
    return (a + b - 1) / b;
}

/* The instance for so many columns: the narrowest that holds them all, else the widest that fits the device. */
static bool plan_kernel(const struct matmul *m, enum layout layout, int cols, struct tile_plan *p)
{
    struct tile_table table = tile_table_of(layout);
    bool found = false;
    for (int i = 0; i < table.count; i++) {
        struct tile_plan try_this = *p;
        try_this.kernel = &table.kernel[i];
        try_this.index = i;
        bool narrow = try_this.kernel->cols == 8;
        if (m->options.invariant && narrow && try_this.kernel->parts != INVARIANT_PARTS) continue;
        if (m->options.invariant && found && narrow) continue;
        if (narrow && found && cols <= 4 && try_this.kernel->rows > 32) continue; /* 64 rows pay where the inputs weigh more */
        if (m->tuning.kernel >= 0 && i != m->tuning.kernel) continue;
        if (found && p->kernel->cols >= cols && try_this.kernel->cols > p->kernel->cols) break;
        if (!plan_stages(m, &try_this)) continue;
        *p = try_this;
        found = true;
    }
    return found;
}

/* The work of the fullest multiprocessor, in tiles, when each tile's k's are dealt to so many blocks. */
static float split_cost(const struct matmul *m, int tiles, int splits)
{
    return (float)ceil_div(tiles * splits, m->multiprocessors) / (float)splits * (1.f + .04f * (float)(splits - 1));
}

static void plan_splits(const struct matmul *m, const struct matrix *w, int cols, struct tile_plan *p)
{
    int tiles = ceil_div(w->rows, p->kernel->rows) * ceil_div(cols, p->kernel->cols), units = ceil_div(w->k, layout_shape_of(p->kernel->layout).unit);
    bool can = tiles <= TILE_COUNTERS;
    int64_t partial = (int64_t)w->rows * cols * 4;
    p->splits = p->turns = 1;
    if (m->options.invariant) {
        if (p->kernel->parts == INVARIANT_PARTS) return;
        bool spread = can && tiles < 2 * m->multiprocessors && partial * INVARIANT_PARTS <= PARTIAL_BYTES;
        p->splits = spread ? INVARIANT_PARTS : 1;
        p->turns = spread ? 1 : INVARIANT_PARTS;
        return;
    }
    for (int s = 2; s <= 8 && can && units / (s * p->kernel->parts) >= 2 && partial * s <= PARTIAL_BYTES; s++)
        if (m->tuning.splits ? s <= m->tuning.splits : split_cost(m, tiles, s) < split_cost(m, tiles, p->splits)) p->splits = s;
}

static enum err_code tile_prepare(struct matmul *m, const struct tile_plan *p, struct err *e)
{
    uint64_t bit = (uint64_t)1 << p->index;
    if (m->ready[p->kernel->layout] & bit) return ERR_OK;
    enum err_code code = cuda_check(cudaFuncSetAttribute(p->kernel->function, cudaFuncAttributeMaxDynamicSharedMemorySize, m->shared_max - 1024),
                                    "cudaFuncSetAttribute", e);
    if (!code) m->ready[p->kernel->layout] |= bit;
    return code;
}

static enum err_code tile_run(struct matmul *m, const struct matrix *w, const uint16_t *x, int cols, enum into into, void *y, int64_t ldy,
                              cudaStream_t stream, struct err *e)
{
    enum layout layout = matrix_layout(w);
    struct tile_plan p = {NULL, 0, cols, 0, 1, m->options.invariant ? INVARIANT_PARTS : 1, 0};
    if (!plan_kernel(m, layout, cols, &p)) return err_set(e, ERR_UNSUPPORTED, "no kernel for layout %d fits this GPU's shared memory", (int)layout);
    plan_splits(m, w, cols, &p);
    p.shared = plan_shared(&p);
    struct tile_args a = {(const uint8_t *)w->data, weight_bytes(layout, w), w->scale, x, y, ldy, w->rows, w->k, cols, (int)into,
                          p.stages, p.splits, p.turns, m->partial, m->arrived};
    void *list[] = {&a};
    dim3 grid((unsigned)ceil_div(cols, p.kernel->cols), (unsigned)ceil_div(w->rows, p.kernel->rows), (unsigned)p.splits);
    enum err_code code = tile_prepare(m, &p, e);
    if (code) return code;
    return cuda_check(cudaLaunchKernel(p.kernel->function, grid, dim3((unsigned)p.kernel->threads), list, p.shared, stream), "tile_multiply", e);
}

/* ---- the wide kernel ---- */

static bool wide_takes(const struct matmul *m, const struct matrix *w, int cols)
{
    if (!m->wide || matrix_layout(w) != LAYOUT_W4) return false;
    return m->tuning.way == WAY_WIDE || (m->tuning.way == WAY_AUTO && cols >= WIDE_COLS && (cols <= WIDE_COLS_MAX || !m->lt));
}

/* Inputs that are not turned are first, as many at a time as there is room for. */
static enum err_code wide_multiplied(struct matmul *m, const struct matrix *w, const struct operand *x, enum into into, void *y, int64_t ldy,
                                     cudaStream_t stream, struct err *e)
{
    bool turned = x->form == FORM_TURNED;
    int64_t most = turned ? x->cols : m->rows_bytes / 2 / w->k;
    enum err_code code = most > 0 ? ERR_OK : err_set(e, ERR_UNSUPPORTED, "no room for inputs of %d elements", w->k);
    for (int done = 0; done < x->cols && !code; done += (int)most) {
        int cols = x->cols - done < most ? x->cols - done : (int)most;
        const uint16_t *in = (const uint16_t *)x->data + (int64_t)done * w->k;
        void *to = (uint8_t *)y + (int64_t)done * ldy * element_bytes(into);
        if (!turned) code = turn_operand(in, (int64_t)cols * w->k, (uint16_t *)m->rows, stream, e);
        struct wide_call call = {w, turned ? in : (const uint16_t *)m->rows, cols, into, to, ldy, m->tuning.kernel, m->tuning.splits, m->multiprocessors,
                                 m->partial, m->arrived, PARTIAL_BYTES, &m->wide_ready};
        if (!code) code = wide_run(&call, stream, e);
    }
    return code;
}

static bool wide8_wins(const struct matmul *m, int rows, int cols)
{
    int tiles = ceil_div(rows, WIDE8_TILE_ROWS), both = tiles * 2, turns = ceil_div(both, m->multiprocessors);
    bool fills_lt = (cols - 1) % WIDE8_LT_TILE >= WIDE8_LT_TILE * 3 / 4;
    if (cols > WIDE8_COLS) return cols <= WIDE8_COLS_MAX && (!fills_lt || both * 10 >= turns * m->multiprocessors * 9); /* two tiles of columns */
    return cols < WIDE8_LT_FROM || cols > WIDE8_LT_TO || tiles * 2 > m->multiprocessors;
}

static bool wide8_takes(const struct matmul *m, const struct matrix *w, const struct operand *x)
{
    if (!m->wide8 || matrix_layout(w) != LAYOUT_FP8 || x->form != FORM_E4M3 || w->k % 16) return false;
    if ((uintptr_t)w->data % 16 || (uintptr_t)x->data % 16) return false; /* tensor copies' rule */
    if (m->tuning.way != WAY_AUTO || !m->lt) return m->tuning.way == WAY_WIDE || m->tuning.way == WAY_AUTO;
    return wide8_wins(m, w->rows, x->cols);
}

static enum err_code wide8_multiplied(struct matmul *m, const struct matrix *w, const struct operand *x, enum into into, void *y, int64_t ldy,
                                      cudaStream_t stream, struct err *e)
{
    struct wide8_call call = {w, x, into, y, ldy, m->tuning.kernel, m->tuning.splits, m->multiprocessors, m->partial, m->arrived, PARTIAL_BYTES,
                              &m->wide8_ready};
    return wide8_run(&call, stream, e);
}

/* ---- cuBLASLt ---- */

static struct lt_call call_of(const struct matrix *w, const struct operand *x, enum into into, void *y, int64_t ldy)
{
    bool scaled = x->form == FORM_E4M3;
    return {x->form, into, w->rows, x->cols, w->k, w->data, x->data, scaled ? w->scale : NULL, scaled ? x->scale : NULL, y, ldy, false};
}

/* Rows that are dequantized at a time. */
static int slice_rows(const struct matmul *m, const struct matrix *w)
{
    int64_t bytes = m->tuning.slice_bytes && m->tuning.slice_bytes < m->rows_bytes ? m->tuning.slice_bytes : m->rows_bytes;
    int64_t most = bytes / (2 * (int64_t)w->k);
    if (most >= w->rows) return w->rows;
    int64_t even = ceil_div(w->rows, (int)((w->rows + most - 1) / (most > 0 ? most : 1))) + 127; /* slices of one size, if they can be */
    return (int)(even / 128 * 128 <= most ? even / 128 * 128 : most / 16 * 16);
}

static struct lt_call slice_of(const struct lt_call *whole, const struct matmul *m, int first, int count)
{
    struct lt_call part = *whole;
    part.rows = whole->rows - first < count ? whole->rows - first : count;
    part.w = m->rows;
    part.y = (uint8_t *)whole->y + (int64_t)first * element_bytes(whole->into);
    return part;
}

static bool is_plain(enum layout layout)
{
    return layout == LAYOUT_F16 || layout == LAYOUT_BF16;
}

/* By way of F16 in the scratch. */
static enum err_code sliced_run(struct matmul *m, const struct matrix *w, const struct lt_call *call, bool tune, cudaStream_t stream, struct err *e)
{
    int count = slice_rows(m, w);
    enum err_code code = ERR_OK;
    for (int first = 0; first < w->rows && !code; first += count) {
        struct lt_call part = slice_of(call, m, first, count);
        code = dequantize_rows(w, first, part.rows, m->rows, stream, e);
        if (!code) code = tune ? lt_tune(m->lt, &part, stream, e) : lt_run(m->lt, &part, stream, e);
    }
    return code;
}

static bool lt_takes(struct matmul *m, const struct matrix *w, const struct operand *x, const struct lt_call *call)
{
    int cols = x->cols;
    enum layout layout = matrix_layout(w);
    bool direct = is_plain(layout) || call->form == FORM_E4M3;
    if (!m->lt || m->options.invariant || m->tuning.way == WAY_TILE || wide_takes(m, w, cols) || wide8_takes(m, w, x)) return false;
    if (m->tuning.way == WAY_AUTO && call->form != FORM_E4M3 && cols < (direct ? LT_COLS_PLAIN : lt_cols_dequantized(layout))) return false;
    if (direct) return lt_can(m->lt, call);
    int count = slice_rows(m, w);
    if (count < 16) return false;
    struct lt_call part = slice_of(call, m, 0, count);
    return lt_can(m->lt, &part);
}

/* E4M3 inputs where the library takes them not: as F16, some columns at a time. */
static enum err_code expanded_run(struct matmul *m, const struct matrix *w, const struct operand *x, enum into into, void *y, int64_t ldy,
                                  cudaStream_t stream, struct err *e)
{
    int most = (int)(m->rows_bytes / 2 / x->k);
    enum err_code code = most > 0 ? ERR_OK : err_set(e, ERR_UNSUPPORTED, "no room for inputs of %d elements as F16", x->k);
    if (most > 65535) most = 65535;
    for (int done = 0; done < x->cols && !code; done += most) {
        int cols = x->cols - done < most ? x->cols - done : most;
        code = expand_operand(x, done, cols, m->rows, stream, e);
        void *to = (uint8_t *)y + (int64_t)done * ldy * element_bytes(into);
        if (!code) code = tile_run(m, w, (const uint16_t *)m->rows, cols, into, to, ldy, stream, e);
    }
    return code;
}

/* ---- running ---- */

static enum err_code check_call(const struct matmul *m, const struct matrix *w, const struct operand *x, int64_t ldy, struct err *e)
{
    enum layout layout = matrix_layout(w);
    if (layout == LAYOUT_NONE) return err_set(e, ERR_UNSUPPORTED, "no GPU kernel for weights of kind %d, type %d", (int)w->kind, (int)w->type);
    if (w->rows < 1 || w->k < 1 || w->k % layout_shape_of(layout).block)
        return err_set(e, ERR_INVALID, "a matrix of %d × %d cannot have layout %d, whose blocks are of %d", w->rows, w->k, (int)layout, layout_shape_of(layout).block);
    if (x->cols < 1 || x->cols > m->options.cols_max || x->k != w->k || ldy < w->rows)
        return err_set(e, ERR_INVALID, "inputs of %d × %d (at most %d) for a matrix of %d × %d, results %lld apart", x->cols, x->k, m->options.cols_max, w->rows, w->k, (long long)ldy);
    bool bf16 = layout == LAYOUT_BF16, fp8 = layout == LAYOUT_FP8 && x->form == FORM_E4M3 && (m->lt || m->wide8);
    bool turned = layout == LAYOUT_W4 && x->form == FORM_TURNED && wide_takes(m, w, x->cols);
    if (x->form != (bf16 ? FORM_BF16 : FORM_F16) && !fp8 && !turned) return err_set(e, ERR_INVALID, "inputs of form %d for weights of layout %d", (int)x->form, (int)layout);
    return ERR_OK;
}

enum err_code matmul_run(struct matmul *m, const struct matrix *w, const struct operand *x, enum into into, void *y, int64_t ldy,
                         cudaStream_t stream, struct err *e)
{
    struct lt_call call = call_of(w, x, into, y, ldy);
    enum err_code code = check_call(m, w, x, ldy, e);
    call.fast_sums = m->tuning.fast_sums;
    if (code) return code;
    if (w->k % 32 && x->form != FORM_E4M3) return plain_multiply(w, x, into, y, ldy, stream, e);
    if (lt_takes(m, w, x, &call)) {
        if (is_plain(matrix_layout(w)) || x->form == FORM_E4M3) return lt_run(m->lt, &call, stream, e);
        return sliced_run(m, w, &call, false, stream, e);
    }
    if (wide_takes(m, w, x->cols)) return wide_multiplied(m, w, x, into, y, ldy, stream, e);
    if (wide8_takes(m, w, x)) return wide8_multiplied(m, w, x, into, y, ldy, stream, e);
    if (x->form == FORM_E4M3) return expanded_run(m, w, x, into, y, ldy, stream, e);
    return tile_run(m, w, (const uint16_t *)x->data, x->cols, into, y, ldy, stream, e);
}

/* ---- warming ---- */

/* Memory for a try: inputs made of some numbers (zeros run faster than data does), and results. */
static enum err_code warm_memory(const struct operand *x, int64_t floats, float **numbers, struct operand *out, void **y, struct err *e)
{
    int64_t elements = (int64_t)x->cols * x->k;
    float *host = (float *)malloc((size_t)elements * sizeof *host);
    uint32_t seed = 1;
    if (!host) return err_set(e, ERR_MEMORY, "no memory for %lld numbers", (long long)elements);
    for (int64_t i = 0; i < elements; i++) host[i] = (float)(int32_t)(seed = seed * 1664525u + 1013904223u) * 0x1p-31f;
    *out = *x;
    enum err_code code = cuda_check(cudaMalloc((void **)numbers, (size_t)elements * 4), "cudaMalloc to warm up", e);
    if (!code) code = cuda_check(cudaMalloc(&out->data, (size_t)elements * 2), "cudaMalloc to warm up", e);
    if (!code) code = cuda_check(cudaMalloc((void **)&out->scale, (size_t)x->cols * 4), "cudaMalloc to warm up", e);
    if (!code) code = cuda_check(cudaMalloc(y, (size_t)floats * 4), "cudaMalloc to warm up", e);
    if (!code) code = cuda_check(cudaMemcpy(*numbers, host, (size_t)elements * 4, cudaMemcpyHostToDevice), "cudaMemcpy to warm up", e);
    free(host);
    return code;
}

enum err_code matmul_warm(struct matmul *m, const struct matrix *w, int cols, enum into into, int64_t ldy, cudaStream_t stream, struct err *e)
{
    struct operand want = {matmul_form(w, cols, m->options.invariant), cols, w->k, NULL, NULL}, x = want;
    float *numbers = NULL;
    void *y = NULL;
    enum err_code code = check_call(m, w, &want, ldy, e);
    if (!code) code = warm_memory(&want, cols * ldy, &numbers, &x, &y, e);
    if (!code) code = operand_from_floats(numbers, w->k, &x, stream, e);
    if (!code) code = matmul_run(m, w, &x, into, y, ldy, stream, e);
    struct lt_call call = call_of(w, &x, into, y, ldy);
    if (!code && lt_takes(m, w, &x, &call))
        code = is_plain(matrix_layout(w)) || x.form == FORM_E4M3 ? lt_tune(m->lt, &call, stream, e) : sliced_run(m, w, &call, true, stream, e);
    if (!code) code = cuda_check(cudaStreamSynchronize(stream), "cudaStreamSynchronize", e);
    (void)cudaFree(y);
    (void)cudaFree(x.scale);
    (void)cudaFree(x.data);
    (void)cudaFree(numbers);
    return code;
}
