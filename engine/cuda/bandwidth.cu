/* What reading the GPU's memory front to back gives: the ceiling of decoding. */
#include "engine/cuda/cuda.cuh"

enum { THREADS = 512, BLOCKS_PER_SM = 4, LOADS = 8, ROUNDS = 5 };
static const size_t BYTES_MOST = (size_t)4 << 30, BYTES_LEAST = (size_t)256 << 20;

/* Words that no compression and no shortcut for zeros makes cheap. */
__global__ static void fill_words(uint4 *words, size_t count)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) {
        uint32_t x = (uint32_t)i * 2654435761u;
        words[i] = make_uint4(x, x ^ x >> 13, x * 3266489917u, x ^ x << 7);
    }
}

/* Each block reads tiles of THREADS × LOADS neighbouring vectors. What comes of it is written where no sum leads, so that the
 * loads must be made. `count` is a multiple of the tile. */
__global__ static void __launch_bounds__(THREADS) read_words(const uint4 *words, size_t count, uint32_t *out)
{
    const size_t tile = (size_t)THREADS * LOADS;
    uint32_t sum = 0;
    for (size_t at = blockIdx.x * tile; at < count; at += gridDim.x * tile) {
        uint4 v[LOADS];
#pragma unroll
        for (int i = 0; i < LOADS; i++) v[i] = __ldcs(words + at + (size_t)i * THREADS + threadIdx.x);
#pragma unroll
        for (int i = 0; i < LOADS; i++) sum += (v[i].x ^ v[i].y) + (v[i].z ^ v[i].w);
    }
    if (sum == 0x9e3779b9u) *out = sum;
}

static enum err_code time_rounds(const uint4 *words, size_t count, int blocks, uint32_t *out, double *best, struct err *e)
{
    cudaEvent_t from = NULL, to = NULL;
    enum err_code code = cuda_check(cudaEventCreate(&from), "an event", e);
    if (!code) code = cuda_check(cudaEventCreate(&to), "an event", e);
    *best = 0;
    for (int i = 0; i <= ROUNDS && !code; i++) { /* the first warms up */
        float ms = 0;
        (void)cudaEventRecord(from);
        read_words<<<blocks, THREADS>>>(words, count, out);
        (void)cudaEventRecord(to);
        code = cuda_check(cudaGetLastError(), "the reading kernel", e);
        if (!code) code = cuda_check(cudaEventSynchronize(to), "the reading kernel", e);
        if (!code) code = cuda_check(cudaEventElapsedTime(&ms, from, to), "the reading kernel's time", e);
        double rate = ms > 0 ? (double)count * sizeof *words / (ms * 1e-3) : 0;
        if (i > 0 && rate > *best) *best = rate;
    }
    if (from) (void)cudaEventDestroy(from);
    if (to) (void)cudaEventDestroy(to);
    return code;
}

/* As much as is free, within bounds: many times what the caches hold. */
static enum err_code take_memory(uint4 **words, size_t *count, struct err *e)
{
    const size_t tile = (size_t)THREADS * LOADS;
    size_t free_bytes = 0, total = 0;
    enum err_code code = cuda_check(cudaMemGetInfo(&free_bytes, &total), "the GPU's memory", e);
    if (code) return code;
    size_t bytes = free_bytes / 2 < BYTES_MOST ? free_bytes / 2 : BYTES_MOST;
    if (bytes < BYTES_LEAST)
        return err_set(e, ERR_MEMORY, "measuring the GPU's memory needs %zu MB free; %zu MB are", 2 * BYTES_LEAST >> 20, free_bytes >> 20);
    *count = bytes / sizeof **words / tile * tile;
    return cuda_check(cudaMalloc((void **)words, *count * sizeof **words), "memory to read", e);
}

enum err_code cuda_read_bandwidth(int index, double *best, struct err *e)
{
    uint4 *words = NULL;
    uint32_t *out = NULL;
    size_t count = 0;
    int multiprocessors = 0;
    enum err_code code = cuda_check(cudaSetDevice(index), "the GPU", e);
    if (!code) code = cuda_check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, index), "multiprocessors", e);
    if (!code) code = take_memory(&words, &count, e);
    if (!code) code = cuda_check(cudaMalloc((void **)&out, sizeof *out), "a word", e);
    if (!code) {
        fill_words<<<multiprocessors * BLOCKS_PER_SM, THREADS>>>(words, count);
        code = cuda_check(cudaGetLastError(), "the filling kernel", e);
    }
    if (!code) code = time_rounds(words, count, multiprocessors * BLOCKS_PER_SM, out, best, e);
    (void)cudaFree(out);
    (void)cudaFree(words);
    return code;
}
