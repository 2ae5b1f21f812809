/* What the files of the matrix products share. */
#ifndef RUNG_ENGINE_CUDA_MATMUL_PRIVATE_CUH
#define RUNG_ENGINE_CUDA_MATMUL_PRIVATE_CUH

#include "engine/cuda/cuda.cuh"

/* ---- how weights lie ---- */

enum layout {
    LAYOUT_NONE, LAYOUT_W4, LAYOUT_FP8, LAYOUT_F16, LAYOUT_BF16, LAYOUT_F32, LAYOUT_Q8_0, LAYOUT_Q4_0, LAYOUT_Q4_1, LAYOUT_Q5_0,
    LAYOUT_Q5_1, LAYOUT_IQ4_NL, LAYOUT_Q2_K, LAYOUT_Q3_K, LAYOUT_Q4_K, LAYOUT_Q5_K, LAYOUT_Q6_K, LAYOUTS
};
enum layout matrix_layout(const struct matrix *w); /* LAYOUT_NONE: no kernel for it */

/* block: elements that stand together, in `bytes` (W4: of one row). unit: k's that a stage of the tile kernel holds.
 * pairs: of 32 k's each, that a lane decodes at once. chunks: 16-byte pieces that a row's unit takes in shared memory,
 * the bytes before its start included where rows start anywhere (skewed). */
struct layout_shape {
    int block, bytes, unit, pairs;
    constexpr __host__ __device__ int align() const { return bytes & -bytes & 15 ? bytes & -bytes : 16; }
    constexpr __host__ __device__ bool skewed() const { return block > 1 && align() < 16; }
    constexpr __host__ __device__ int unit_bytes() const { return unit / block * bytes; }
    constexpr __host__ __device__ int chunks() const { return (unit_bytes() + (skewed() ? 16 - align() : 0) + 15) / 16; }
};

static constexpr __host__ __device__ struct layout_shape layout_shape_of(int layout)
{
    switch (layout) {
    case LAYOUT_W4: return {128, 66, 128, 1};
    case LAYOUT_FP8: return {1, 1, 128, 1};
    case LAYOUT_F16:
    case LAYOUT_BF16: return {1, 2, 64, 1};
    case LAYOUT_F32: return {1, 4, 64, 1};
    case LAYOUT_Q8_0: return {32, 34, 128, 1};
    case LAYOUT_Q4_0:
    case LAYOUT_IQ4_NL: return {32, 18, 128, 1};
    case LAYOUT_Q4_1: return {32, 20, 128, 1};
    case LAYOUT_Q5_0: return {32, 22, 128, 1};
    case LAYOUT_Q5_1: return {32, 24, 128, 1};
    case LAYOUT_Q2_K: return {256, 84, 256, 4};
    case LAYOUT_Q3_K: return {256, 110, 256, 4};
    case LAYOUT_Q4_K: return {256, 144, 256, 2};
    case LAYOUT_Q5_K: return {256, 176, 256, 2};
    case LAYOUT_Q6_K: return {256, 210, 256, 4};
    default: return {1, 1, 128, 1};
    }
}

/* ---- the tile kernel: any layout, any number of columns ---- */

struct tile_args {
    const uint8_t *weights;
    int64_t bytes;      /* of the weights, exactly */
    const float *scale; /* (rows) or NULL */
    const uint16_t *x;  /* (cols, k) F16, or BF16 for LAYOUT_BF16 */
    void *y;            /* (cols, ldy) */
    int64_t ldy;
    int rows, k, cols, into;
    int stages, splits;
    int turns; /* parts of the k's that a block takes one after another, adding their sums in order; splits and groups are 1 then */
    float *partial;    /* (splits, cols, rows) where splits > 1 */
    unsigned *arrived; /* (row tiles × column tiles), zeros, and zeros again afterwards */
};

/* One instance: a block makes `rows` × `cols` of y; `parts` groups of its warps share the k's of its split. */
struct tile_kernel {
    const void *function;
    int layout, cols, rows, threads, parts;
    int weight_bytes, column_bytes; /* of a stage: for the weights, for each column of inputs */
    int sum_bytes;
};
struct tile_table {
    const struct tile_kernel *kernel;
    int count;
};
/* In ascending order of columns; of equal columns, of rows. */
struct tile_table tile_table_w4(void), tile_table_fp8(void), tile_table_f16(void), tile_table_bf16(void), tile_table_q8_0(void),
    tile_table_q4_k(void), tile_table_q6_k(void), tile_table_more(enum layout layout);

/* The column count of a kernel that sums in the order that the invariant mode keeps is free; its parts are not. */
enum { INVARIANT_PARTS = 4, TILE_STAGES_MAX = 8, TILE_COUNTERS = 1 << 16 };

/* ---- the wide kernel: W4 with many columns, on Hopper ---- */

struct wide_call {
    const struct matrix *w;
    const uint16_t *x; /* (cols, k) F16, turned, 16-byte aligned */
    int cols;
    enum into into;
    void *y;
    int64_t ldy;
    int kernel;             /* an instance, or -1 */
    int dealing;            /* 0: the faster; 1: units of tiles beyond whole turns to all blocks; 2: to as many as give each tile the same number */
    int multiprocessors;    /* blocks, which wait for each other: all must run at once */
    float *partial;         /* sums of tiles that blocks share */
    unsigned *arrived;      /* (multiprocessors) zeros between calls */
    int64_t partial_bytes;
    uint64_t *ready;        /* bit i: instance i may take its shared memory */
};
/* Whether this device has it (compute capability 9.0) and the program was compiled for it (sm_90a). */
bool wide_device(void);
int wide_kernels(void), wide_kernel_cols(int kernel);
ERR_CHECKED enum err_code wide_run(const struct wide_call *call, cudaStream_t stream, struct err *e);

const char *wide_kernel_name(int kernel);

/* ---- the wide kernel of FP8 weights × E4M3 inputs ---- */

struct wide8_call {
    const struct matrix *w;  /* k a multiple of 16 */
    const struct operand *x; /* E4M3 */
    enum into into;
    void *y;
    int64_t ldy;
    int kernel;          /* an instance, or -1 */
    int streaming;       /* 0: the faster; 1: tiles stay whole; 2: those beyond whole turns are dealt out */
    int multiprocessors; /* blocks, which wait for each other: all must run at once */
    float *partial;      /* sums of tiles that blocks share */
    unsigned *arrived;   /* (multiprocessors) zeros between calls */
    int64_t partial_bytes;
    uint64_t *ready;     /* bit i: instance i may take its shared memory */
};
bool wide8_device(void);
int wide8_kernels(void), wide8_kernel_cols(int kernel);
ERR_CHECKED enum err_code wide8_run(const struct wide8_call *call, cudaStream_t stream, struct err *e);

/* ---- other kernels ---- */

/* Rows [first, first + count) as F16 into out (count, k). */
ERR_CHECKED enum err_code dequantize_rows(const struct matrix *w, int first, int count, __half *out, cudaStream_t stream, struct err *e);
/* Rows whose k is no multiple of 32 (plain types only): slow and simple. */
ERR_CHECKED enum err_code plain_multiply(const struct matrix *w, const struct operand *x, enum into into, void *y, int64_t ldy,
                                         cudaStream_t stream, struct err *e);
/* y (cols, ldy) = from (cols, rows), each × row_scale[row] × col_scale[col] where they are given. */
ERR_CHECKED enum err_code convert_result(const float *from, int64_t ldfrom, int rows, int cols, const float *row_scale, const float *col_scale,
                                         enum into into, void *y, int64_t ldy, cudaStream_t stream, struct err *e);
/* F16 (elements, a multiple of 32) turned, or turned back. */
ERR_CHECKED enum err_code turn_operand(const uint16_t *x, int64_t elements, uint16_t *out, cudaStream_t stream, struct err *e);
/* E4M3 × its column's scale, as F16. */
ERR_CHECKED enum err_code expand_operand(const struct operand *x, int first, int cols, __half *out, cudaStream_t stream, struct err *e);

/* ---- cuBLASLt, where it is found ---- */

struct lt;
struct lt_call {
    enum form form; /* of w and x */
    enum into into;
    int rows, cols, k;
    const void *w, *x;
    const float *row_scale, *col_scale; /* E4M3 only */
    void *y;
    int64_t ldy;
    bool fast_sums; /* E4M3: sums kept as the tensor cores keep them, with fewer bits than float32 */
};
/* Loads the library once for the process; false where there is none. */
bool lt_found(void);
/* FP8 products on this device: compute capability 8.9 and later. */
bool lt_fp8(void);
ERR_CHECKED enum err_code lt_open(struct lt **out, struct err *e);
void lt_close(struct lt *lt);
/* Whether the library has a way for this call; the first question about a shape takes some ten microseconds. */
bool lt_can(struct lt *lt, const struct lt_call *call);
ERR_CHECKED enum err_code lt_run(struct lt *lt, const struct lt_call *call, cudaStream_t stream, struct err *e);
/* Times the library's candidates for this call, which it runs (y is written), and keeps the fastest. Blocks. */
ERR_CHECKED enum err_code lt_tune(struct lt *lt, const struct lt_call *call, cudaStream_t stream, struct err *e);

/* ---- for benches and tests: which way a product takes ---- */

enum way { WAY_AUTO, WAY_TILE, WAY_LT, WAY_WIDE };
struct matmul_tuning {
    enum way way;
    int kernel;          /* the index in the layout's table or among the wide kernel's instances, or -1 */
    int splits, stages;  /* 0: chosen; splits of FP8's wide kernel: see struct wide8_call, streaming */
    int64_t slice_bytes; /* of dequantized weights at a time; 0: chosen */
    bool fast_sums;      /* see struct lt_call */
};
void matmul_set_tuning(struct matmul *m, const struct matmul_tuning *tuning); /* NULL: none */
struct tile_table tile_table_of(enum layout layout);
bool matmul_has_lt(const struct matmul *m), matmul_has_wide(const struct matmul *m), matmul_has_wide8(const struct matmul *m);

#endif
