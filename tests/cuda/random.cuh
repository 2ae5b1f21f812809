/* Random weights for tests of the GPU: on the host with their exact values, and large ones made on the device. */
#ifndef RUNG_TESTS_CUDA_RANDOM_CUH
#define RUNG_TESTS_CUDA_RANDOM_CUH

#include "engine/cuda/cuda.cuh"
#include "tests/cuda/must.cuh"

#include <cuda_fp8.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t random_state = 0x9e3779b97f4a7c15u;

static inline uint32_t random_u32(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}

static inline float random_unit(void) /* [-1, 1) */
{
    return (float)(random_u32() >> 8) / 8388608.f - 1.f;
}

static inline float random_normal(void)
{
    float s = 0;
    for (int i = 0; i < 12; i++) s += random_unit();
    return s * 0.5f;
}

static inline void *to_device(const void *from, size_t bytes)
{
    void *p;
    MUST(cudaMalloc(&p, bytes ? (bytes + 15) / 16 * 16 : 1));
    MUST(cudaMemcpy(p, from, bytes, cudaMemcpyHostToDevice));
    return p;
}

/* A matrix and its exact values (rows, k). */
struct host_matrix {
    struct matrix device;
    float *value;
};

static inline void w4_fill(uint8_t *raw, float *value, int rows, int k, float size)
{
    static const int place[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    int groups = k / W4_GROUP;
    for (int r = 0; r < (rows + 7) / 8 * 8; r++) {
        for (int g = 0; g < groups; g++) {
            uint8_t *granule = raw + ((size_t)(r / 8) * (size_t)groups + (size_t)g) * W4_GRANULE;
            __half scale = __float2half(r < rows ? size * (0.5f + (float)(random_u32() & 1023) / 1024.f) / 4.f : 0.f);
            ((__half *)(granule + 512))[r % 8] = scale;
            for (int i = 0; i < W4_GROUP; i++) {
                int n = r < rows ? (int)(random_u32() & 15) : 8, j = i / 32, t = i / 8 % 4, e = i % 8;
                uint32_t *word = (uint32_t *)(granule + ((r % 8) * 4 + t) * 16) + j;
                *word |= (uint32_t)n << (4 * place[e]);
                if (r < rows) value[(size_t)r * (size_t)k + (size_t)(g * W4_GROUP + i)] = (float)(n - 8) * __half2float(scale);
            }
        }
    }
}

static inline struct host_matrix matrix_random(enum matrix_kind kind, int rows, int k, float size)
{
    struct host_matrix m;
    memset(&m, 0, sizeof m);
    m.device.kind = kind;
    m.device.rows = rows;
    m.device.k = k;
    size_t n = (size_t)rows * (size_t)k, bytes = kind == MATRIX_W4 ? (size_t)((rows + 7) / 8) * (size_t)(k / W4_GROUP) * W4_GRANULE : n * 2;
    uint8_t *raw = (uint8_t *)calloc(1, bytes);
    float *scale = (float *)calloc((size_t)rows, 4);
    m.value = (float *)calloc(n, sizeof *m.value);
    if (kind == MATRIX_W4) w4_fill(raw, m.value, rows, k, size);
    else
        for (size_t i = 0; i < n; i++) {
            float v = random_normal() * size;
            int r = (int)(i / (size_t)k);
            if (kind == MATRIX_F16) m.value[i] = __half2float(((__half *)raw)[i] = __float2half(v));
            else if (kind == MATRIX_BF16) m.value[i] = __bfloat162float(((__nv_bfloat16 *)raw)[i] = __float2bfloat16(v));
            else {
                if (i % (size_t)k == 0) scale[r] = size / 100.f * (0.5f + (float)(random_u32() & 1023) / 1024.f);
                __nv_fp8_storage_t b = __nv_cvt_float_to_fp8(v / scale[r], __NV_SATFINITE, __NV_E4M3);
                raw[i] = (uint8_t)b;
                m.value[i] = __half2float(__half(__nv_cvt_fp8_to_halfraw(b, __NV_E4M3))) * scale[r];
            }
        }
    m.device.data = to_device(raw, kind == MATRIX_FP8 ? n : bytes);
    if (kind == MATRIX_FP8) m.device.scale = (const float *)to_device(scale, (size_t)rows * 4);
    free(raw);
    free(scale);
    return m;
}

static inline float *vector_random(int n, float mean, float size, float **host)
{
    float *v = (float *)malloc((size_t)n * 4);
    for (int i = 0; i < n; i++) v[i] = mean + size * random_normal();
    float *d = (float *)to_device(v, (size_t)n * 4);
    *host = v;
    return d;
}

/* Several matrices that lie behind each other, as the decode kernel wants Q, K and V. */
static inline void matrices_join(struct matrix *const *list, int count, int64_t (*bytes)(const struct matrix *))
{
    int64_t total = 0;
    int rows = 0;
    for (int i = 0; i < count; i++) total += bytes(list[i]), rows += list[i]->rows;
    uint8_t *data;
    float *scale = NULL;
    MUST(cudaMalloc((void **)&data, (size_t)total));
    if (list[0]->scale) MUST(cudaMalloc((void **)&scale, (size_t)rows * 4));
    for (int i = 0; i < count; i++) {
        MUST(cudaMemcpy(data, list[i]->data, (size_t)bytes(list[i]), cudaMemcpyDeviceToDevice));
        MUST(cudaFree((void *)list[i]->data));
        list[i]->data = data;
        data += bytes(list[i]);
        if (!scale) continue;
        MUST(cudaMemcpy(scale, list[i]->scale, (size_t)list[i]->rows * 4, cudaMemcpyDeviceToDevice));
        list[i]->scale = scale;
        scale += list[i]->rows;
    }
}

/* ---- large weights, made where they are ---- */

static __global__ void fill_random(uint8_t *data, int64_t words, int kind, uint32_t seed)
{
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < words; i += (int64_t)gridDim.x * blockDim.x) {
        uint32_t x = (uint32_t)i * 2654435761u ^ (uint32_t)(i >> 32) * 40503u ^ seed;
        x ^= x >> 16, x *= 0x85ebca6bu, x ^= x >> 13, x *= 0xc2b2ae35u, x ^= x >> 16;
        if (kind == MATRIX_W4) {
            if (i % (W4_GRANULE / 4) >= 128) x = 0x1c001c00u + (x & 0x00ff00ffu); /* scales around 0.004 */
        } else if (kind == MATRIX_FP8) x &= 0xb7b7b7b7u; /* finite, below 8 */
        else if (kind == MATRIX_BF16) x = (x & 0x807f807fu) | 0x3c003c00u; /* around ±0.01 */
        else x = (x & 0x83ff83ffu) | 0x20002000u;
        ((uint32_t *)data)[i] = x;
    }
}

static inline int64_t matrix_bytes(const struct matrix *m)
{
    int64_t n = (int64_t)m->rows * m->k;
    return m->kind == MATRIX_W4 ? (int64_t)(m->rows + 7) / 8 * (m->k / W4_GROUP) * W4_GRANULE : m->kind == MATRIX_FP8 ? n : 2 * n;
}

static inline struct matrix matrix_large(enum matrix_kind kind, int rows, int k)
{
    struct matrix m;
    memset(&m, 0, sizeof m);
    m.kind = kind, m.rows = rows, m.k = k;
    void *p;
    MUST(cudaMalloc(&p, (size_t)matrix_bytes(&m)));
    LAUNCH(fill_random, 2048, 256, 0, 0, (uint8_t *)p, matrix_bytes(&m) / 4, kind, random_u32());
    MUST(cudaGetLastError());
    m.data = p;
    if (kind == MATRIX_FP8) {
        float *scale = (float *)malloc((size_t)rows * 4);
        for (int i = 0; i < rows; i++) scale[i] = 0.01f;
        m.scale = (const float *)to_device(scale, (size_t)rows * 4);
        free(scale);
    }
    return m;
}

static inline bool gpu_is_there(void)
{
    int n = 0;
    return cudaGetDeviceCount(&n) == cudaSuccess && n > 0;
}

#endif
