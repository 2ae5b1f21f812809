/* The CUDA backend's inside, shared by its files (C++ for nvcc, in the plain style of the house).
 *
 * Every file here becomes part of one library, librung_cuda.so, which the program loads when a GPU is there. It exports
 * what engine/cuda.h declares and nothing else. Everything below runs on the scheduler's thread and is asynchronous on
 * `stream` unless it says otherwise; a failed call fills `struct err` with what CUDA said.
 *
 * Shapes: a matrix W is (rows, k), a batch of inputs X is (cols, k), the result Y is (cols, rows): y[c] = W x[c].
 */
#ifndef RUNG_ENGINE_CUDA_CUH
#define RUNG_ENGINE_CUDA_CUH

extern "C" {
#include "engine/backend.h"
}

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

/* ---- errors ---- */

/* Turns a CUDA status into an err_code; `what` names the call or the kernel. */
ERR_CHECKED enum err_code cuda_check(cudaError_t status, const char *what, struct err *e);

/* ---- launches ---- */

/* In words that the emulation on the host (tests/cuda/emulate) can take in another way. */
#ifndef LAUNCH
#define LAUNCH(kernel, blocks, threads, shared, stream, ...) kernel<<<(blocks), (unsigned)(threads), (shared), stream>>>(__VA_ARGS__)
/* All blocks on the device at once, so that they may wait for each other; a cudaError_t. */
#define LAUNCH_TOGETHER(kernel, blocks, threads, shared, stream, args) \
    launch_together((const void *)(kernel), blocks, threads, shared, stream, &(args))
/* The same, and they may begin before the kernel before them in the stream has ended: they wait for it themselves (predecessor_wait). */
#define LAUNCH_EARLY(kernel, blocks, threads, shared, stream, args) launch_early((const void *)(kernel), blocks, threads, shared, stream, &(args))
#define SHARED_BYTES(name) extern __shared__ __align__(128) uint8_t name[]
#define SHARED_SWIZZLED(name) extern __shared__ __align__(1024) uint8_t name[] /* as operands of warpgroup products want it */

static inline cudaError_t launch_together(const void *kernel, int blocks, int threads, size_t shared, cudaStream_t stream, void *args)
{
    void *list[] = {args};
    return cudaLaunchCooperativeKernel(kernel, dim3((unsigned)blocks), dim3((unsigned)threads), list, shared, stream);
}

static inline cudaError_t launch_early(const void *kernel, int blocks, int threads, size_t shared, cudaStream_t stream, void *args)
{
    void *list[] = {args};
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeCooperative, attributes[0].val.cooperative = 1;
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization, attributes[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)blocks), config.blockDim = dim3((unsigned)threads), config.dynamicSmemBytes = shared, config.stream = stream;
    config.attrs = attributes, config.numAttrs = 2;
    cudaError_t status = cudaLaunchKernelExC(&config, kernel, list);
    if (status != cudaErrorNotSupported && status != cudaErrorInvalidValue) return status;
    (void)cudaGetLastError(); /* a driver that knows not both together */
    return launch_together(kernel, blocks, threads, shared, stream, args);
}
#endif

/* ---- weights on the device ---- */

/* How a matrix's bytes lie:
 *   MATRIX_GGUF  rows of the file's blocks, as they are (type says which: Q8_0, Q4_K, F32 …)
 *   MATRIX_F16, MATRIX_BF16  rows of k elements
 *   MATRIX_FP8   rows of k E4M3 bytes; scale (rows): y = scale × Σ
 *   MATRIX_W4    4-bit, groups of 128, symmetric. Panels of 8 rows; a panel holds k / 128 granules of 528 bytes:
 *                  512 bytes of weights: lane l (0..31) owns 16 bytes, for row l / 4 of the panel and t = l % 4: four
 *                    32-bit words j = 0..3, of k = 128 granule + 32 j + 8 t + e, e = 0..7. The nibble of e stands at bits
 *                    4 × {0, 4, 1, 5, 2, 6, 3, 7}[e]; value = (nibble - 8) × scale of the row
 *                  16 bytes: the 8 rows' scales, F16
 *                rows are padded with zeros to a multiple of 8. */
enum matrix_kind { MATRIX_NONE, MATRIX_GGUF, MATRIX_F16, MATRIX_BF16, MATRIX_FP8, MATRIX_W4 };
enum { W4_PANEL_ROWS = 8, W4_GROUP = 128, W4_GRANULE = 528 };

struct matrix {
    enum matrix_kind kind;
    enum gguf_type type;
    int rows, k;
    const void *data;   /* device, 16-byte aligned; what fills its last 16 bytes may be read too */
    const float *scale; /* device (rows): FP8 only */
};

/* ---- what a matrix multiplies ---- */

/* F16 is what GGUF types, F16, FP8 (in decoding) and W4 take; BF16 what BF16 takes; E4M3 what FP8 takes in prefill and
 * large batches (each column divided by its own scale). */
enum form { FORM_F16, FORM_BF16, FORM_E4M3, FORM_TURNED /* F16, each 32 k's turned */ };
/* Of 32 k's, pairs lie as a 4 × 4 matrix: turned its rows are its columns. Where W4's wide kernel wants element k; where it finds it. */
static inline __host__ __device__ int turned_place(int k)
{
    return (k & ~31) | (k >> 1 & 3) << 3 | (k >> 3 & 3) << 1 | (k & 1);
}
struct operand {
    enum form form;
    int cols, k;
    void *data;   /* device (cols, k), contiguous, 16-byte aligned */
    float *scale; /* device (cols): E4M3 only */
};
/* The form in which `w` wants a batch of `cols`. */
enum form matmul_form(const struct matrix *w, int cols, bool invariant);

enum into { INTO_F32, INTO_F32_ADD /* y += */, INTO_F16, INTO_BF16 };

struct matmul; /* cuBLASLt where it is found, work space, what was measured */
struct matmul_options {
    bool invariant;      /* a column's result never depends on the other columns (slower) */
    int cols_max;
    int64_t k_rows_max;  /* the most elements of one matrix: sizes the scratch that dequantized weights lie in */
};
ERR_CHECKED enum err_code matmul_open(struct matmul **out, const struct matmul_options *options, struct err *e);
void matmul_close(struct matmul *m);
/* y (cols, ldy) = W x. 1 ≤ x->cols ≤ cols_max. x->form must be what matmul_form says. Exact to float32 sums of the
 * products of the dequantized weights and x; weights are rounded to the operand's form (k-quants' scales too). One stream
 * at a time. No allocation, no waiting, so it can be captured in a graph; a shape's first call may load kernels, which a
 * capture does not like: run or warm it once before. */
ERR_CHECKED enum err_code matmul_run(struct matmul *m, const struct matrix *w, const struct operand *x, enum into into, void *y,
                                     int64_t ldy, cudaStream_t stream, struct err *e);
/* Runs the shape once on numbers of its own and, where cuBLASLt multiplies, keeps the fastest of its ways for exactly this
 * shape. Blocks; allocates and frees. */
ERR_CHECKED enum err_code matmul_warm(struct matmul *m, const struct matrix *w, int cols, enum into into, int64_t ldy,
                                      cudaStream_t stream, struct err *e);
/* Floats (cols, ldx) to out's form; out's memory is the caller's. Saturates; NaN stays NaN. E4M3: a column's scale is its
 * largest magnitude / 448. */
ERR_CHECKED enum err_code operand_from_floats(const float *x, int64_t ldx, const struct operand *out, cudaStream_t stream, struct err *e);
/* Row `ids[c]` of `w`, as floats × factor, into y (cols, k). */
ERR_CHECKED enum err_code matmul_embed(const struct matrix *w, const int32_t *ids, int cols, float factor, float *y,
                                       cudaStream_t stream, struct err *e);

/* ---- KV cache and attention ---- */

enum { CUDA_PAGE_TOKENS = 32 };

/* One page of one layer and KV head is one block:
 *   F16  K (32 positions, head_dim), then V transposed (head_dim, 32 positions)
 *   FP8  the same in E4M3, then the scales: float of K (32), of V (32); value = stored × scale of its position
 * block(layer, page, head) = base + ((layer × pages + page) × kv_heads + head) × kv_block_bytes */
struct kv_cache {
    uint8_t *base;
    int layers, pages, kv_heads, head_dim;
    bool fp8;
};
static inline __host__ __device__ int64_t kv_block_bytes(int head_dim, bool fp8)
{
    return fp8 ? 2 * CUDA_PAGE_TOKENS * head_dim + 2 * CUDA_PAGE_TOKENS * 4 : 4 * CUDA_PAGE_TOKENS * head_dim;
}

/* A step's columns, on the device and (host_*) on the host. Columns of a run are neighbours of one sequence. */
struct columns {
    int cols, runs, context_max; /* context_max: the most positions any column sees */
    const int32_t *position;     /* (cols) */
    const int32_t *run_of;       /* (cols) */
    const int32_t *pages;        /* (runs, pages_stride) */
    int pages_stride;
    const struct batch_run *run; /* (runs) device; its `pages` pointer means nothing there */
    const struct batch_run *host_run;
};

struct attention_layer {
    int layer, heads, kv_heads, head_dim, rotated;
    bool rope_halves;            /* pairs (i, i + rotated/2); else (2i, 2i + 1) */
    int window;                  /* 0: all */
    float softcap, scale, norm_eps; /* scale multiplies q (after the norm and the rotation) */
    const float *q_bias, *k_bias, *v_bias; /* device, or NULL */
    const float *q_norm, *k_norm;          /* (head_dim) device, or NULL */
    const float *angles;         /* (cols, rotated): cos (rotated/2), then sin */
    int sparse_pages;            /* 0: dense; else each decoding head group reads this many pages of the past at most */
    bool planned;                /* the last call had the same columns, heads, window and sparse_pages: what was planned for it is right */
};

struct attention; /* split buffers, counters */
struct attention_options {
    int cols_max, heads, kv_heads, head_dim, context_max;
    bool invariant;
    int layers, pages; /* of the cache, for sparse attention's summaries of pages (1/32 of an F16 cache); 0: never sparse */
};
ERR_CHECKED enum err_code attention_open(struct attention **out, const struct attention_options *options, struct err *e);
void attention_close(struct attention *a);
/* qkv (cols, ldqkv) floats, rows at multiples of 16 bytes: q heads, k heads, v heads, before bias, norm and rotation. Writes K and V of every column into
 * its page, then each column attends to all positions up to its own. out (cols, heads × head_dim) in F16 or BF16. */
ERR_CHECKED enum err_code attention_run(struct attention *a, const struct attention_layer *l, const struct kv_cache *kv,
                                        const struct columns *columns, const float *qkv, int64_t ldqkv, enum form form, void *out,
                                        cudaStream_t stream, struct err *e);

/* ---- loading ---- */

/* Copies of files' or host memory's ranges to the current device, many at once: threads (0: one a core; 16 at most) fill pinned
 * buffers, copies run behind them on several streams. Blocks until everything is there and all threads are gone; waits first
 * for what runs on the device. Ranges may be of any size and alignment. The first error of any thread is told. */
struct upload {
    const void *from; /* NULL: from the file */
    void *to;         /* device */
    int64_t bytes;
    int file;
    int64_t offset;
};
ERR_CHECKED enum err_code upload_run(const struct upload *list, int count, int threads, struct err *e);

/* ---- what the library exports (library.cu; engine/cuda.h says what each does) ---- */

ERR_CHECKED enum err_code cuda_open(struct backend **out, const struct model *model, const struct backend_options *options, struct err *e);
int64_t cuda_page_bytes(const struct model *model, bool kv_8bit);
ERR_CHECKED enum err_code cuda_read_bandwidth(int index, double *best, struct err *e);

#endif
