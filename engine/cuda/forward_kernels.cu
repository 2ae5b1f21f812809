#include "engine/cuda/activation.cuh"
#include "engine/cuda/backend.cuh"
#include "engine/cuda/ptx.cuh"

#include <cuda_fp8.h>
#include <float.h>

enum { THREADS = 256, ROW_THREADS = 1024, LOGIT_THREADS = 1024 };

/* ---- sums over a block ---- */

/* Every thread gets the sum, in a fixed order. `scratch`: 32 floats. */
static __device__ float block_sum(float v, float *scratch)
{
    for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(~0u, v, d);
    __syncthreads();
    if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = v;
    __syncthreads();
    v = (threadIdx.x & 31) < blockDim.x / 32 ? scratch[threadIdx.x & 31] : 0.f;
    for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(~0u, v, d);
    return v;
}

static __device__ float block_max(float v, float *scratch)
{
    for (int d = 16; d; d >>= 1) v = fmaxf(v, __shfl_xor_sync(~0u, v, d));
    __syncthreads();
    if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = v;
    __syncthreads();
    v = scratch[(threadIdx.x & 31) < blockDim.x / 32 ? threadIdx.x & 31 : 0];
    for (int d = 16; d; d >>= 1) v = fmaxf(v, __shfl_xor_sync(~0u, v, d));
    return v;
}

/* ---- some numbers of a row at a time: four, or one where rows are no multiple of four ---- */

template <int N> struct some {
    float v[N];
};

template <int N> static __device__ __forceinline__ struct some<N> take(const float *from)
{
    struct some<N> r;
    if (N == 4) {
        float4 f = *(const float4 *)from;
        r.v[0] = f.x, r.v[1 % N] = f.y, r.v[2 % N] = f.z, r.v[3 % N] = f.w;
    } else r.v[0] = *from;
    return r;
}

template <int N> static __device__ __forceinline__ void give(float *to, const struct some<N> &r)
{
    if (N == 4) *(float4 *)to = make_float4(r.v[0], r.v[1 % N], r.v[2 % N], r.v[3 % N]);
    else *to = r.v[0];
}

template <int N> static __device__ __forceinline__ float largest(const struct some<N> &r, float most)
{
    for (int i = 0; i < N; i++) most = fmaxf(most, fabsf(r.v[i]));
    return most;
}

/* One block a row; each thread has some at a time. */
static int row_threads(int k, int n)
{
    int threads = (k / n + 31) / 32 * 32;
    return threads > ROW_THREADS ? ROW_THREADS : threads;
}

/* ---- forms ---- */

struct form_out {
    uint8_t *data;
    float *scale;
    int form, k;
};

static struct form_out form_out(const struct operand *o)
{
    struct form_out f = {NULL, NULL, FORM_F16, 0};
    if (!o) return f;
    f.data = (uint8_t *)o->data, f.scale = o->scale, f.form = o->form, f.k = o->k;
    return f;
}

static __device__ __forceinline__ uint32_t two_halves(float a, float b, bool bf16)
{
    if (bf16) return (uint32_t)__bfloat16_as_ushort(__float2bfloat16_rn(a)) | (uint32_t)__bfloat16_as_ushort(__float2bfloat16_rn(b)) << 16;
    a = isnan(a) ? a : fminf(fmaxf(a, -65504.f), 65504.f);
    b = isnan(b) ? b : fminf(fmaxf(b, -65504.f), 65504.f);
    return (uint32_t)__half_as_ushort(__float2half_rn(a)) | (uint32_t)__half_as_ushort(__float2half_rn(b)) << 16;
}

/* Elements i … of a row. */
template <int N> static __device__ __forceinline__ void put(const struct form_out *f, int64_t row, int i, const struct some<N> &r, float inverse)
{
    int64_t at = row * f->k + i;
    bool bf16 = f->form == FORM_BF16;
    if (f->form == FORM_E4M3) {
        uint32_t bytes = 0;
        for (int j = 0; j < N; j++) bytes |= (uint32_t)__nv_cvt_float_to_fp8(r.v[j] * inverse, __NV_SATFINITE, __NV_E4M3) << 8 * j;
        if (N == 4) *(uint32_t *)(f->data + at) = bytes;
        else f->data[at] = (uint8_t)bytes;
    } else if (f->form == FORM_TURNED) {
        uint16_t *to = (uint16_t *)f->data + row * f->k;
        if (N == 1) to[turned_place(i)] = (uint16_t)two_halves(r.v[0], 0, false);
        else for (int j = 0; j < N; j += 2) *(uint32_t *)(to + turned_place(i + j)) = two_halves(r.v[j], r.v[(j + 1) % N], false);
    } else if (N == 4) *(uint2 *)(f->data + at * 2) = make_uint2(two_halves(r.v[0], r.v[1 % N], bf16), two_halves(r.v[2 % N], r.v[3 % N], bf16));
    else ((uint16_t *)f->data)[at] = (uint16_t)two_halves(r.v[0], 0, bf16);
}

/* E4M3: a row's scale from its largest magnitude; returns 1 / scale. */
static __device__ __forceinline__ float take_scale(const struct form_out *f, int64_t row, float most, float *scratch)
{
    if (f->form != FORM_E4M3) return 1.f;
    most = block_max(most, scratch);
    float scale = most > 0 ? most / 448.f : 1.f;
    if (threadIdx.x == 0) f->scale[row] = scale;
    return 1.f / scale;
}

/* ---- joins and norms: one block a row, the row in shared memory ---- */

template <int N> static __global__ void __launch_bounds__(ROW_THREADS) join_kernel(float *x, struct join join, const float *weight, float eps, int k,
                                                                                   const int32_t *col, struct form_out out, float *plain)
{
    extern __shared__ __align__(16) float row[];
    __shared__ float scratch[32];
    successor_go();
    int64_t i = blockIdx.x, at = (col ? col[i] : i) * (int64_t)k;
    int step = (int)blockDim.x * N, first = (int)threadIdx.x * N;
    float square = 0, post = 1;
    if (join.post_norm) {
        for (int j = first; j < k; j += step) {
            struct some<N> y = take<N>(join.y + i * k + j), b = join.bias ? take<N>(join.bias + j) : some<N>{};
            for (int n = 0; n < N; n++) y.v[n] += b.v[n], square += y.v[n] * y.v[n];
        }
        post = rsqrtf(block_sum(square, scratch) / (float)k + eps);
        square = 0;
    }
    for (int j = first; j < k; j += step) {
        struct some<N> v = take<N>(x + at + j);
        if (join.y) {
            struct some<N> y = take<N>(join.y + i * k + j), b = join.bias ? take<N>(join.bias + j) : some<N>{};
            struct some<N> w = join.post_norm ? take<N>(join.post_norm + j) : some<N>{};
            for (int n = 0; n < N; n++) {
                y.v[n] += b.v[n];
                v.v[n] += (join.post_norm ? y.v[n] * post * w.v[n] : y.v[n]) * join.scale;
            }
            give<N>(x + at + j, v);
        }
        give<N>(row + j, v);
        for (int n = 0; n < N; n++) square += v.v[n] * v.v[n];
    }
    if (!out.data && !plain) return;
    float scale = weight ? rsqrtf(block_sum(square, scratch) / (float)k + eps) : 1.f, most = 0;
    bool twice = out.data && out.form == FORM_E4M3; /* its scale comes first */
    for (int j = first; j < k; j += step) {
        struct some<N> v = take<N>(row + j);
        if (weight) {
            struct some<N> w = take<N>(weight + j);
            for (int n = 0; n < N; n++) v.v[n] *= scale * w.v[n];
        }
        if (plain) give<N>(plain + i * k + j, v);
        most = largest<N>(v, most);
        if (twice) give<N>(row + j, v);
        else if (out.data) put<N>(&out, i, j, v, 1.f);
    }
    if (!twice) return;
    float inverse = take_scale(&out, i, most, scratch);
    for (int j = first; j < k; j += step) put<N>(&out, i, j, take<N>(row + j), inverse);
}

static enum err_code launched(const char *what, struct err *e)
{
    return cuda_check(cudaGetLastError(), what, e);
}

template <int N> static enum err_code join_rows(float *x, const struct join *join, const float *weight, float eps, int rows, int k, const int32_t *col,
                                                const struct operand *out, float *plain, cudaStream_t stream, struct err *e)
{
    size_t bytes = (size_t)k * sizeof(float);
    if (bytes > 48 << 10) {
        enum err_code code = cuda_check(cudaFuncSetAttribute(join_kernel<N>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes), "a row's norm", e);
        if (code) return code;
    }
    join_kernel<N><<<rows, row_threads(k, N), bytes, stream>>>(x, *join, weight, eps, k, col, form_out(out), plain);
    return launched("a norm", e);
}

enum err_code join_and_norm(float *x, const struct join *join, const float *weight, float eps, int rows, int k, const int32_t *col,
                            const struct operand *out, float *plain, cudaStream_t stream, struct err *e)
{
    static const struct join nothing = {NULL, NULL, NULL, 1};
    if (!join) join = &nothing;
    return k % 4 ? join_rows<1>(x, join, weight, eps, rows, k, col, out, plain, stream, e)
                 : join_rows<4>(x, join, weight, eps, rows, k, col, out, plain, stream, e);
}

/* A thread keeps what it made of the row's first HELD × threads × N numbers until the row's scale is known. */
template <int N> static __global__ void __launch_bounds__(ROW_THREADS) activate_kernel(const float *gate, const float *up, int64_t ld, int k, bool gelu,
                                                                                       struct form_out out)
{
    enum { HELD = 6 };
    __shared__ float scratch[32];
    successor_go(); /* a product, that has weights to fetch */
    int64_t i = blockIdx.x;
    int step = (int)blockDim.x * N, first = (int)threadIdx.x * N;
    struct some<N> held[HELD];
    float most = 0;
    auto made = [&](int j) {
        struct some<N> g = take<N>(gate + i * ld + j), u = take<N>(up + i * ld + j);
        for (int n = 0; n < N; n++) g.v[n] = activation(g.v[n], gelu) * u.v[n];
        return g;
    };
#pragma unroll
    for (int h = 0; h < HELD; h++)
        if (first + h * step < k) {
            held[h] = made(first + h * step);
            most = largest<N>(held[h], most);
        }
    for (int j = first + HELD * step; j < k && out.form == FORM_E4M3; j += step) most = largest<N>(made(j), most);
    float inverse = take_scale(&out, i, most, scratch);
#pragma unroll
    for (int h = 0; h < HELD; h++)
        if (first + h * step < k) put<N>(&out, i, first + h * step, held[h], inverse);
    for (int j = first + HELD * step; j < k; j += step) put<N>(&out, i, j, made(j), inverse);
}

enum err_code activate(const float *gate, const float *up, int64_t ld, int rows, int k, bool gelu, const struct operand *out, cudaStream_t stream,
                       struct err *e)
{
    bool fours = k % 4 == 0 && ld % 4 == 0 && (uintptr_t)up % 16 == 0;
    if (fours) activate_kernel<4><<<rows, row_threads(k, 4), 0, stream>>>(gate, up, ld, k, gelu, form_out(out));
    else activate_kernel<1><<<rows, row_threads(k, 1), 0, stream>>>(gate, up, ld, k, gelu, form_out(out));
    return launched("an activation", e);
}

template <int N> static __device__ __forceinline__ struct some<N> widened(const uint16_t *from, bool bf16)
{
    __align__(8) uint16_t raw[N];
    if (N == 4) *(uint2 *)raw = *(const uint2 *)from;
    else raw[0] = *from;
    struct some<N> r;
    for (int n = 0; n < N; n++) r.v[n] = bf16 ? __bfloat162float(__ushort_as_bfloat16(raw[n])) : __half2float(__ushort_as_half(raw[n]));
    return r;
}

template <int N> static __global__ void __launch_bounds__(ROW_THREADS) shrink_kernel(const uint16_t *from, bool bf16, int k, struct form_out out)
{
    __shared__ float scratch[32];
    int64_t i = blockIdx.x;
    int step = (int)blockDim.x * N, first = (int)threadIdx.x * N;
    float most = 0;
    for (int j = first; j < k; j += step) most = largest<N>(widened<N>(from + i * k + j, bf16), most);
    float inverse = take_scale(&out, i, most, scratch);
    for (int j = first; j < k; j += step) put<N>(&out, i, j, widened<N>(from + i * k + j, bf16), inverse);
}

enum err_code shrink(const void *from, bool bf16, const struct operand *out, cudaStream_t stream, struct err *e)
{
    int k = out->k;
    if (k % 4) shrink_kernel<1><<<out->cols, row_threads(k, 1), 0, stream>>>((const uint16_t *)from, bf16, k, form_out(out));
    else shrink_kernel<4><<<out->cols, row_threads(k, 4), 0, stream>>>((const uint16_t *)from, bf16, k, form_out(out));
    return launched("inputs in 8 bits", e);
}

template <int N> static __global__ void __launch_bounds__(ROW_THREADS) gather_kernel(const float *x, const int32_t *col, int k, struct form_out out)
{
    __shared__ float scratch[32];
    int64_t i = blockIdx.x, at = col[i] * (int64_t)k;
    int step = (int)blockDim.x * N, first = (int)threadIdx.x * N;
    float most = 0;
    for (int j = first; j < k && out.form == FORM_E4M3; j += step) most = largest<N>(take<N>(x + at + j), most);
    float inverse = take_scale(&out, i, most, scratch);
    for (int j = first; j < k; j += step) put<N>(&out, i, j, take<N>(x + at + j), inverse);
}

enum err_code gather(const float *x, const int32_t *col, int rows, int k, const struct operand *out, cudaStream_t stream, struct err *e)
{
    if (k % 4) gather_kernel<1><<<rows, row_threads(k, 1), 0, stream>>>(x, col, k, form_out(out));
    else gather_kernel<4><<<rows, row_threads(k, 4), 0, stream>>>(x, col, k, form_out(out));
    return launched("an expert's inputs", e);
}

/* ---- positions ---- */

static __global__ void angles_kernel(const float *frequency, const int32_t *position, int rotated, float scale0, float scale1, float *angles,
                                     int64_t stride, int64_t between)
{
    int pairs = rotated / 2;
    for (int i = (int)threadIdx.x; i < 2 * pairs; i += THREADS) {
        int set = i / pairs, pair = i % pairs;
        double angle = (double)position[blockIdx.x] * (double)frequency[set * pairs + pair], scale = set ? (double)scale1 : (double)scale0;
        float *to = angles + blockIdx.x * stride + set * between;
        to[pair] = (float)(cos(angle) * scale);
        to[pairs + pair] = (float)(sin(angle) * scale);
    }
}

enum err_code make_angles(const float *frequency, const int32_t *position, int cols, int rotated, float scale0, float scale1, float *angles,
                          int64_t stride, int64_t set, cudaStream_t stream, struct err *e)
{
    angles_kernel<<<cols, THREADS, 0, stream>>>(frequency, position, rotated, scale0, scale1, angles, stride, set);
    return launched("the positions' angles", e);
}

/* ---- logits ---- */

struct two { /* the two largest, and where the first is (the lower index of equals) */
    float a, b;
    int at;
};

static __device__ struct two better(struct two x, struct two y)
{
    bool first = x.a > y.a || (x.a == y.a && x.at < y.at);
    struct two r = first ? x : y, other = first ? y : x;
    r.b = fmaxf(r.b, other.a);
    return r;
}

static __global__ void __launch_bounds__(LOGIT_THREADS) logits_kernel(float *logits, int64_t ld, int vocabulary, const float *bias, float scale,
                                                                       float softcap, struct logit_stats *stats)
{
    __shared__ struct two best[32];
    __shared__ float scratch[32];
    float *row = logits + blockIdx.x * ld;
    struct two mine = {-FLT_MAX, -FLT_MAX, 0x7fffffff};
    bool change = bias || scale != 1.f || softcap > 0;
    for (int i = (int)threadIdx.x; i < vocabulary; i += LOGIT_THREADS) {
        float v = row[i];
        if (change) {
            if (bias) v += bias[i];
            v *= scale;
            if (softcap > 0) v = softcap * tanhf(v / softcap);
            row[i] = v;
        }
        struct two one = {v, -FLT_MAX, i};
        mine = better(mine, one);
    }
    for (int d = 16; d; d >>= 1) {
        struct two o = {__shfl_xor_sync(~0u, mine.a, d), __shfl_xor_sync(~0u, mine.b, d), __shfl_xor_sync(~0u, mine.at, d)};
        mine = better(mine, o);
    }
    if ((threadIdx.x & 31) == 0) best[threadIdx.x >> 5] = mine;
    __syncthreads();
    mine = best[0];
    for (int i = 1; i < LOGIT_THREADS / 32; i++) mine = better(mine, best[i]);
    /* With z = logit - max: Σ e^z, Σ z e^z, Σ z² e^z. */
    float s0 = 0, s1 = 0, s2 = 0;
    for (int i = (int)threadIdx.x; i < vocabulary; i += LOGIT_THREADS) {
        float z = row[i] - mine.a, p = __expf(z);
        s0 += p;
        s1 += p > 0 ? z * p : 0;
        s2 += p > 0 ? z * z * p : 0;
    }
    s0 = block_sum(s0, scratch);
    s1 = block_sum(s1, scratch);
    s2 = block_sum(s2, scratch);
    if (threadIdx.x != 0) return;
    float log0 = logf(s0), mean = s1 / s0;
    struct logit_stats r;
    r.max = mine.a;
    r.best = mine.at;
    r.logsum = mine.a + log0;
    r.entropy = log0 - mean;
    r.margin = (1.f - (vocabulary > 1 ? __expf(mine.b - mine.a) : 0.f)) / s0;
    r.varentropy = fmaxf(s2 / s0 - mean * mean, 0.f);
    stats[blockIdx.x] = r;
}

enum err_code finish_logits(float *logits, int64_t ld, int rows, int vocabulary, const float *bias, float scale, float softcap,
                            struct logit_stats *stats, cudaStream_t stream, struct err *e)
{
    logits_kernel<<<rows, LOGIT_THREADS, 0, stream>>>(logits, ld, vocabulary, bias, scale, softcap, stats);
    return launched("the logits", e);
}

/* ---- mixture of experts ---- */

/* One thread a column: experts are few. */
static __global__ void choose_kernel(const float *scores, int cols, int experts, int used, bool norm, int32_t *chosen, float *weight)
{
    int col = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (col >= cols) return;
    const float *s = scores + (int64_t)col * experts;
    float most = s[0];
    double all = 0, kept = 0;
    for (int i = 1; i < experts; i++) most = fmaxf(most, s[i]);
    for (int i = 0; i < experts; i++) all += exp((double)s[i] - (double)most);
    for (int n = 0; n < used; n++) {
        int best = -1;
        for (int i = 0; i < experts; i++) {
            bool taken = false;
            for (int j = 0; j < n; j++) taken = taken || chosen[col * used + j] == i;
            if (!taken && (best < 0 || s[i] > s[best])) best = i;
        }
        chosen[col * used + n] = best;
        weight[col * used + n] = (float)(exp((double)s[best] - (double)most) / all);
        kept += (double)weight[col * used + n];
    }
    for (int n = 0; norm && n < used; n++) weight[col * used + n] = (float)((double)weight[col * used + n] / kept);
}

enum err_code choose_experts(const float *scores, int cols, int experts, int used, bool norm, int32_t *chosen, float *weight, cudaStream_t stream,
                             struct err *e)
{
    choose_kernel<<<(cols + 63) / 64, 64, 0, stream>>>(scores, cols, experts, used, norm, chosen, weight);
    return launched("the choice of experts", e);
}

static __global__ void sum_kernel(const float *expert_y, const int32_t *row, const float *weight, int used, int k, float *y)
{
    int64_t col = blockIdx.x;
    for (int j = (int)threadIdx.x; j < k; j += THREADS) {
        float sum = 0;
        for (int n = 0; n < used; n++) sum += weight[col * used + n] * expert_y[(int64_t)row[col * used + n] * k + j];
        y[col * k + j] = sum;
    }
}

enum err_code sum_experts(const float *expert_y, const int32_t *row, const float *weight, int cols, int used, int k, float *y, cudaStream_t stream,
                          struct err *e)
{
    sum_kernel<<<cols, THREADS, 0, stream>>>(expert_y, row, weight, used, k, y);
    return launched("the experts' sum", e);
}

/* ---- weights of a shape ---- */

static __device__ __forceinline__ uint32_t hash_word(int64_t i, uint32_t seed)
{
    uint32_t x = (uint32_t)i * 2654435761u ^ (uint32_t)(i >> 32) * 40503u ^ seed;
    x ^= x >> 16, x *= 0x85ebca6bu, x ^= x >> 13, x *= 0xc2b2ae35u;
    return x ^ x >> 16;
}

static __global__ void random_kernel(uint8_t *data, int64_t words, int kind, float size, uint32_t seed)
{
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < words; i += (int64_t)gridDim.x * blockDim.x) {
        uint32_t x = hash_word(i, seed);
        float a = ((float)(x & 0xffff) / 32768.f - 1.f) * size, b = ((float)(x >> 16) / 32768.f - 1.f) * size;
        if (kind == MATRIX_W4) {
            if (i % (W4_GRANULE / 4) >= 128) {
                __half2 scales = __floats2half2_rn(size / 4.6f, size / 4.6f);
                x = *(uint32_t *)&scales;
            }
        } else if (kind == MATRIX_FP8) x &= 0xfefefefeu; /* no NaN */
        else if (kind == MATRIX_F16) {
            __half2 h = __floats2half2_rn(a, b);
            x = *(uint32_t *)&h;
        } else if (kind == MATRIX_BF16) {
            __nv_bfloat162 h = __floats2bfloat162_rn(a, b);
            x = *(uint32_t *)&h;
        }
        ((uint32_t *)data)[i] = x;
    }
}

/* A block's F16 scales, and its minimum's, at their places; see scale_block in engine/model_shape.c. */
static __global__ void scales_kernel(uint8_t *data, int64_t blocks, int block_bytes, int at, int min_at, float scale, float minimum)
{
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < blocks; i += (int64_t)gridDim.x * blockDim.x) {
        __half d = __float2half(scale), m = __float2half(minimum);
        memcpy(data + i * block_bytes + at, &d, 2);
        if (min_at >= 0) memcpy(data + i * block_bytes + min_at, &m, 2);
    }
}

enum err_code random_weights(void *data, int64_t bytes, enum matrix_kind kind, enum gguf_type type, int k, uint32_t seed, cudaStream_t stream,
                             struct err *e)
{
    static const struct {
        enum gguf_type type;
        int at, min_at;
        float divide;
    } AT[] = {{GGUF_Q8_0, 0, -1, 70},  {GGUF_Q4_0, 0, -1, 5},    {GGUF_Q4_1, 0, 2, 5},     {GGUF_Q5_0, 0, -1, 9},   {GGUF_Q5_1, 0, 2, 9},
              {GGUF_IQ4_NL, 0, -1, 65}, {GGUF_Q2_K, 80, 82, 12}, {GGUF_Q3_K, 108, -1, 45}, {GGUF_Q4_K, 0, 2, 150}, {GGUF_Q5_K, 0, 2, 300},
              {GGUF_Q6_K, 208, -1, 1500}};
    float size = rsqrtf((float)k);
    random_kernel<<<2048, THREADS, 0, stream>>>((uint8_t *)data, bytes / 4, kind, size, seed);
    enum err_code code = launched("random weights", e);
    for (size_t i = 0; i < sizeof AT / sizeof AT[0] && kind == MATRIX_GGUF && !code; i++) {
        if (AT[i].type != type) continue;
        int block = gguf_type_info((uint32_t)type)->block_bytes;
        scales_kernel<<<2048, THREADS, 0, stream>>>((uint8_t *)data, bytes / block, block, AT[i].at, AT[i].min_at, size / AT[i].divide, size / 20);
        code = launched("random scales", e);
    }
    return code;
}
