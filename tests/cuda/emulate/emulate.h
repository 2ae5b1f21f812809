/* CUDA kernels on the host, for tests where there is no GPU: each device thread is a fiber of one thread, warps meet at their
 * collective operations, blocks at their barriers, and the fibers' order is random. Included before everything else (-include).
 *
 * What it shows: values, indices, alignment, barriers that do not match, waits that never end. What it cannot: what the hardware does with
 * accesses that no barrier orders, and how fast. Shared memory and cudaMalloc's begin as NaN. Bulk copies arrive late, in any order. */
#ifndef RUNG_TESTS_CUDA_EMULATE_H
#define RUNG_TESTS_CUDA_EMULATE_H

#define RUNG_EMULATE 1
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <functional>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#undef __shared__
#define __shared__ static /* blocks of an ordinary launch run one after another */
#undef __forceinline__
#define __forceinline__ inline
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __grid_constant__
#define __grid_constant__

struct emulate_index {
    unsigned x, y, z;
};
extern struct emulate_index threadIdx, blockIdx, blockDim, gridDim;
extern uint8_t *emulate_arena; /* the shared memory of all blocks */

void emulate_run(dim3 blocks, unsigned threads, size_t shared, bool together, const std::function<void()> &kernel);
uint8_t *emulate_shared(void);
void emulate_yield(void);
void emulate_barrier(int id, int threads);
/* A warp's 32 lanes each give `bytes` (32 at most) and get all. */
void emulate_exchange(const void *in, int bytes, void *out);

#define LAUNCH(kernel, blocks, threads, shared, stream, ...) \
    ((void)(stream), emulate_run(blocks, threads, shared, false, [&] { kernel(__VA_ARGS__); }))
#define LAUNCH_TOGETHER(kernel, blocks, threads, shared, stream, args) \
    ((void)(stream), emulate_run(dim3((unsigned)(blocks)), threads, shared, true, [&] { (kernel)(args); }), cudaSuccess)
#define LAUNCH_EARLY LAUNCH_TOGETHER
#define SHARED_BYTES(name) uint8_t *name = emulate_shared()
#define SHARED_SWIZZLED(name) SHARED_BYTES(name)

/* ---- what CUDA C++ has by itself ---- */

static inline int min(int a, int b)
{
    return a < b ? a : b;
}

static inline int max(int a, int b)
{
    return a > b ? a : b;
}

static inline void __syncthreads(void)
{
    emulate_barrier(0, (int)blockDim.x);
}

template <class T> static inline T __shfl_sync(unsigned, T v, int lane)
{
    T all[32];
    emulate_exchange(&v, sizeof v, all);
    return all[lane & 31];
}

template <class T> static inline T __shfl_xor_sync(unsigned, T v, int mask)
{
    T all[32];
    emulate_exchange(&v, sizeof v, all);
    return all[(threadIdx.x & 31) ^ (unsigned)mask];
}

static inline void __syncwarp(void)
{
    (void)__shfl_sync(~0u, 0, 0);
}

template <class T> static inline T __shfl_up_sync(unsigned, T v, int by)
{
    T all[32];
    emulate_exchange(&v, sizeof v, all);
    int lane = (int)threadIdx.x & 31;
    return all[lane < by ? lane : lane - by];
}

static inline unsigned __ballot_sync(unsigned, int yes)
{
    int all[32];
    unsigned bits = 0;
    emulate_exchange(&yes, sizeof yes, all);
    for (int i = 0; i < 32; i++) bits |= (unsigned)(all[i] != 0) << i;
    return bits;
}

static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}

static inline int __any_sync(unsigned mask, int yes)
{
    return __ballot_sync(mask, yes) != 0;
}

static inline size_t __cvta_generic_to_shared(const void *p)
{
    return (size_t)((const uint8_t *)p - emulate_arena);
}

static inline void *__cvta_shared_to_generic(size_t address)
{
    return emulate_arena + address;
}

static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}

static inline void __threadfence(void) {}
static inline void __threadfence_block(void) {}

template <class T> static inline T atomicAdd(T *at, T v)
{
    T before = *at;
    *at += v;
    return before;
}

template <class T> static inline const T *emulate_aligned(const T *p)
{
    if ((uintptr_t)p % sizeof(T) != 0) {
        fprintf(stderr, "emulation: %zu bytes at %p\n", sizeof(T), (const void *)p);
        abort();
    }
    return p;
}

template <class T> static inline T __ldcg(const T *p)
{
    return *emulate_aligned(p);
}

template <class T> static inline T __ldg(const T *p)
{
    return *emulate_aligned(p);
}

template <class T> static inline void __stcg(T *p, T v)
{
    *(T *)emulate_aligned(p) = v;
}

static inline uint32_t __float_as_uint(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

static inline float __uint_as_float(uint32_t u)
{
    float x;
    memcpy(&x, &u, 4);
    return x;
}

static inline float __int_as_float(int i)
{
    return __uint_as_float((uint32_t)i);
}

static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)((uint64_t)a * b >> 32);
}

static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned which)
{
    uint64_t all = (uint64_t)b << 32 | a;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) out |= (unsigned)(all >> 8 * (which >> 4 * i & 7) & 255) << 8 * i;
    return out;
}

static inline float __fdividef(float a, float b)
{
    return a / b;
}

static inline float rsqrtf(float x)
{
    return 1.f / sqrtf(x);
}

#define __expf(x) expf(x)

static inline __half2 __hfma2(__half2 a, __half2 b, __half2 c)
{
    double lo = (double)__low2float(a) * __low2float(b) + __low2float(c), hi = (double)__high2float(a) * __high2float(b) + __high2float(c);
    return __halves2half2(__double2half(lo), __double2half(hi));
}

#endif
