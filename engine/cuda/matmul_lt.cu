/* cuBLASLt, loaded at run time where it is found: the library's way to multiply many columns.
 *
 * y (cols, ldy) = W (rows, k) x (cols, k) is, in the library's column-major words, D (rows × cols) = Aᵀ B with A = W and B = x,
 * both with k running fastest. Plans (descriptors and the chosen algorithm) are kept per shape. Where the library cannot write
 * the wanted result, or cannot multiply by the scales of E4M3 rows and columns, it makes float32 in a scratch, some columns at
 * a time, and a kernel of ours does the rest. Source: NVIDIA's cuBLAS documentation, "Using the cuBLASLt API". */
#include "engine/cuda/matmul_private.cuh"

#include <cublasLt.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { PLANS = 1024, PROBES = 8, CANDIDATES = 8 };
enum { SCALE_MODE_A = 31, SCALE_MODE_B = 32, SCALE_OUTER_VECTOR = 3 }; /* named in the headers of CUDA 12.9 and later */
static const size_t WORK_BYTES = (size_t)32 << 20, SCRATCH_BYTES = (size_t)32 << 20;

#define FUNCTIONS(X)                                                                                                              \
    X(cublasLtCreate) X(cublasLtDestroy) X(cublasLtMatmul) X(cublasLtMatmulDescCreate) X(cublasLtMatmulDescDestroy)                \
    X(cublasLtMatmulDescSetAttribute) X(cublasLtMatrixLayoutCreate) X(cublasLtMatrixLayoutDestroy)                                 \
    X(cublasLtMatmulPreferenceCreate) X(cublasLtMatmulPreferenceSetAttribute) X(cublasLtMatmulPreferenceDestroy)                   \
    X(cublasLtMatmulAlgoGetHeuristic)

/* The loaded library: one for the process, never unloaded. */
static pthread_once_t load_once = PTHREAD_ONCE_INIT;
static struct {
    bool found;
#define X(name) decltype(&name) p_##name;
    FUNCTIONS(X)
#undef X
} library;

static void load_library(void)
{
    static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
    void *handle = NULL;
    for (size_t i = 0; !handle && i < sizeof names / sizeof names[0]; i++) handle = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!handle) return;
    bool all = true;
#define X(name) all = (library.p_##name = (decltype(&name))dlsym(handle, #name)) != NULL && all;
    FUNCTIONS(X)
#undef X
    library.found = all;
}

bool lt_found(void)
{
    (void)pthread_once(&load_once, load_library);
    return library.found;
}

bool lt_fp8(void)
{
    int device, major = 0, minor = 0;
    if (!lt_found() || cudaGetDevice(&device) != cudaSuccess) return false;
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess) return false;
    if (cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) return false;
    return major * 10 + minor >= 89;
}

/* ---- plans ---- */

struct plan_key {
    int form, into, rows, cols, k, scaled; /* scaled: the library multiplies by the scales */
    int align_w, align_x, align_y, fast_sums;
    int64_t ldy;
};
struct plan {
    struct plan_key key;
    bool known, can;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulAlgo_t algorithm;
};
struct lt {
    cublasLtHandle_t handle;
    void *work;
    float *scratch;
    struct plan plan[PLANS];
};

static enum err_code check(cublasStatus_t status, const char *what, struct err *e)
{
    if (status == CUBLAS_STATUS_SUCCESS) return ERR_OK;
    return err_set(e, status == CUBLAS_STATUS_ALLOC_FAILED ? ERR_MEMORY : ERR_INTERNAL, "%s: cuBLASLt status %d", what, (int)status);
}

enum err_code lt_open(struct lt **out, struct err *e)
{
    if (!lt_found()) return err_set(e, ERR_UNAVAILABLE, "no libcublasLt.so.13 or .12 in the library path");
    struct lt *lt = (struct lt *)calloc(1, sizeof *lt);
    if (!lt) return err_set(e, ERR_MEMORY, "no memory for cuBLASLt's plans");
    enum err_code code = check(library.p_cublasLtCreate(&lt->handle), "cublasLtCreate", e);
    if (!code) code = cuda_check(cudaMalloc(&lt->work, WORK_BYTES), "cudaMalloc for cuBLASLt's work space", e);
    if (!code) code = cuda_check(cudaMalloc((void **)&lt->scratch, SCRATCH_BYTES), "cudaMalloc for cuBLASLt's results", e);
    if (code) lt_close(lt);
    else *out = lt;
    return code;
}

static void forget(struct plan *p)
{
    if (p->y) (void)library.p_cublasLtMatrixLayoutDestroy(p->y);
    if (p->x) (void)library.p_cublasLtMatrixLayoutDestroy(p->x);
    if (p->w) (void)library.p_cublasLtMatrixLayoutDestroy(p->w);
    if (p->product) (void)library.p_cublasLtMatmulDescDestroy(p->product);
    memset(p, 0, sizeof *p);
}

void lt_close(struct lt *lt)
{
    if (!lt) return;
    for (int i = 0; i < PLANS; i++)
        if (lt->plan[i].known) forget(&lt->plan[i]);
    (void)cudaFree(lt->scratch);
    (void)cudaFree(lt->work);
    if (lt->handle) (void)library.p_cublasLtDestroy(lt->handle);
    free(lt);
}

static cudaDataType_t form_type(int form)
{
    return form == FORM_E4M3 ? CUDA_R_8F_E4M3 : form == FORM_BF16 ? CUDA_R_16BF : CUDA_R_16F;
}
static cudaDataType_t into_type(int into)
{
    return into == INTO_F16 ? CUDA_R_16F : into == INTO_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static bool set_product(struct plan *p)
{
    cublasOperation_t transposed = CUBLAS_OP_T;
    int32_t outer = SCALE_OUTER_VECTOR;
    cublasLtMatmulDescAttributes_t mode_a = (cublasLtMatmulDescAttributes_t)SCALE_MODE_A, mode_b = (cublasLtMatmulDescAttributes_t)SCALE_MODE_B;
    if (library.p_cublasLtMatmulDescCreate(&p->product, CUBLAS_COMPUTE_32F, CUDA_R_32F)) return false;
    if (library.p_cublasLtMatmulDescSetAttribute(p->product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed)) return false;
    int8_t fast = 1;
    if (p->key.fast_sums && library.p_cublasLtMatmulDescSetAttribute(p->product, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast)) return false;
    if (!p->key.scaled) return true;
    return !library.p_cublasLtMatmulDescSetAttribute(p->product, mode_a, &outer, sizeof outer) &&
           !library.p_cublasLtMatmulDescSetAttribute(p->product, mode_b, &outer, sizeof outer);
}

static bool set_layouts(struct plan *p)
{
    const struct plan_key *key = &p->key;
    uint64_t k = (uint64_t)key->k, rows = (uint64_t)key->rows, cols = (uint64_t)key->cols;
    return !library.p_cublasLtMatrixLayoutCreate(&p->w, form_type(key->form), k, rows, key->k) &&
           !library.p_cublasLtMatrixLayoutCreate(&p->x, form_type(key->form), k, cols, key->k) &&
           !library.p_cublasLtMatrixLayoutCreate(&p->y, into_type(key->into), rows, cols, key->ldy);
}

/* The scales' addresses count in the library's choice, so `call` lends its own. */
static bool set_scales(struct plan *p, const struct lt_call *call)
{
    if (!p->key.scaled) return true;
    return !library.p_cublasLtMatmulDescSetAttribute(p->product, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &call->row_scale, sizeof call->row_scale) &&
           !library.p_cublasLtMatmulDescSetAttribute(p->product, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &call->col_scale, sizeof call->col_scale);
}

/* The library's candidates, best guess first. */
static int candidates(struct lt *lt, const struct plan *p, cublasLtMatmulHeuristicResult_t *found, int most)
{
    cublasLtMatmulPreference_t want;
    int count = 0;
    uint32_t align[3] = {(uint32_t)p->key.align_w, (uint32_t)p->key.align_x, (uint32_t)p->key.align_y};
    if (library.p_cublasLtMatmulPreferenceCreate(&want)) return 0;
    bool set = !library.p_cublasLtMatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORK_BYTES, sizeof WORK_BYTES);
    set = set && !library.p_cublasLtMatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align[0], 4) &&
          !library.p_cublasLtMatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align[1], 4) &&
          !library.p_cublasLtMatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align[2], 4) &&
          !library.p_cublasLtMatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align[2], 4);
    if (set && library.p_cublasLtMatmulAlgoGetHeuristic(lt->handle, p->product, p->w, p->x, p->y, p->y, want, most, found, &count)) count = 0;
    (void)library.p_cublasLtMatmulPreferenceDestroy(want);
    return count;
}

static void make_plan(struct lt *lt, struct plan *p, const struct plan_key *key, const struct lt_call *call)
{
    cublasLtMatmulHeuristicResult_t best;
    memset(p, 0, sizeof *p);
    p->key = *key;
    p->known = true;
    p->can = set_product(p) && set_layouts(p) && set_scales(p, call) && candidates(lt, p, &best, 1) == 1 && best.state == CUBLAS_STATUS_SUCCESS;
    if (p->can) p->algorithm = best.algo;
}

static int alignment(const void *p)
{
    uintptr_t a = (uintptr_t)p;
    return a % 256 == 0 ? 256 : (int)(a & (~a + 1));
}

static struct plan *plan_of(struct lt *lt, const struct lt_call *call, bool scaled)
{
    struct plan_key key = {(int)call->form, (int)call->into, call->rows, call->cols, call->k, scaled,
                           alignment(call->w), alignment(call->x), alignment(call->y), call->fast_sums, call->ldy};
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < sizeof key; i++) hash = (hash ^ ((const uint8_t *)&key)[i]) * 1099511628211u;
    struct plan *first = NULL;
    for (int i = 0; i < PROBES; i++) {
        struct plan *p = &lt->plan[(hash + (uint64_t)i) % PLANS];
        if (p->known && !memcmp(&p->key, &key, sizeof key)) return p;
        if (!first || (first->known && !p->known)) first = p;
    }
    if (first->known) forget(first);
    make_plan(lt, first, &key, call);
    return first;
}

/* ---- running ---- */

static enum err_code multiply(struct lt *lt, const struct plan *p, const struct lt_call *call, const cublasLtMatmulAlgo_t *algorithm,
                              cudaStream_t stream, struct err *e)
{
    float one = 1, kept = call->into == INTO_F32_ADD;
    return check(library.p_cublasLtMatmul(lt->handle, p->product, &one, call->w, p->w, call->x, p->x, &kept, call->y, p->y, call->y, p->y,
                                          algorithm, lt->work, WORK_BYTES, stream),
                 "cublasLtMatmul", e);
}

/* Some columns of the call as plain float32 into the scratch. */
static struct lt_call in_scratch(struct lt *lt, const struct lt_call *call, int first)
{
    struct lt_call part = *call;
    int most = (int)(SCRATCH_BYTES / 4 / (size_t)call->rows);
    part.cols = call->cols - first < most ? call->cols - first : most;
    part.x = (const uint8_t *)call->x + (int64_t)first * call->k * (call->form == FORM_E4M3 ? 1 : 2);
    part.into = INTO_F32;
    part.y = lt->scratch;
    part.ldy = call->rows;
    return part;
}

static void *result_at(const struct lt_call *call, int col)
{
    return (uint8_t *)call->y + (int64_t)col * call->ldy * (call->into == INTO_F16 || call->into == INTO_BF16 ? 2 : 4);
}

bool lt_can(struct lt *lt, const struct lt_call *call)
{
    if (plan_of(lt, call, call->form == FORM_E4M3)->can) return true;
    struct lt_call part = in_scratch(lt, call, 0);
    return part.cols > 0 && plan_of(lt, &part, false)->can;
}

enum err_code lt_run(struct lt *lt, const struct lt_call *call, cudaStream_t stream, struct err *e)
{
    struct plan *p = plan_of(lt, call, call->form == FORM_E4M3);
    if (p->can) {
        if (!set_scales(p, call)) return err_set(e, ERR_INTERNAL, "cuBLASLt took no scales");
        return multiply(lt, p, call, &p->algorithm, stream, e);
    }
    enum err_code code = ERR_OK;
    for (int done = 0; done < call->cols && !code;) {
        struct lt_call part = in_scratch(lt, call, done);
        if (part.cols < 1 || !(p = plan_of(lt, &part, false))->can)
            return err_set(e, ERR_UNSUPPORTED, "cuBLASLt multiplies no %d × %d by %d columns of form %d", call->rows, call->k, part.cols, (int)call->form);
        code = multiply(lt, p, &part, &p->algorithm, stream, e);
        const float *scale = call->col_scale ? call->col_scale + done : NULL;
        if (!code) code = convert_result(lt->scratch, call->rows, call->rows, part.cols, call->row_scale, scale, call->into, result_at(call, done), call->ldy, stream, e);
        done += part.cols;
    }
    return code;
}

/* ---- choosing by the clock ---- */

static enum err_code time_one(struct lt *lt, const struct plan *p, const struct lt_call *call, const cublasLtMatmulAlgo_t *algorithm,
                              cudaEvent_t from, cudaEvent_t to, cudaStream_t stream, float *ms, struct err *e)
{
    enum err_code code = multiply(lt, p, call, algorithm, stream, e);
    if (!code) code = cuda_check(cudaEventRecord(from, stream), "cudaEventRecord", e);
    for (int i = 0; i < 3 && !code; i++) code = multiply(lt, p, call, algorithm, stream, e);
    if (!code) code = cuda_check(cudaEventRecord(to, stream), "cudaEventRecord", e);
    if (!code) code = cuda_check(cudaEventSynchronize(to), "cudaEventSynchronize", e);
    if (!code) code = cuda_check(cudaEventElapsedTime(ms, from, to), "cudaEventElapsedTime", e);
    return code;
}

enum err_code lt_tune(struct lt *lt, const struct lt_call *call, cudaStream_t stream, struct err *e)
{
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    cudaEvent_t from = NULL, to = NULL;
    struct plan *p = plan_of(lt, call, call->form == FORM_E4M3);
    if (!p->can || !set_scales(p, call)) return ERR_OK; /* the other way has its own plans */
    int count = candidates(lt, p, found, CANDIDATES);
    float best = 0;
    enum err_code code = cuda_check(cudaEventCreate(&from), "cudaEventCreate", e);
    if (!code) code = cuda_check(cudaEventCreate(&to), "cudaEventCreate", e);
    for (int i = 0; i < count && !code; i++) {
        float ms = 0;
        if (found[i].state != CUBLAS_STATUS_SUCCESS) continue;
        code = time_one(lt, p, call, &found[i].algo, from, to, stream, &ms, e);
        if (!code && (best == 0 || ms < best)) {
            best = ms;
            p->algorithm = found[i].algo;
        }
    }
    if (to) (void)cudaEventDestroy(to);
    if (from) (void)cudaEventDestroy(from);
    return code;
}
