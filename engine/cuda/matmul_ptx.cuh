/* More machine instructions, for the tile kernel: copies that go on by themselves, E4M3 as F16. Source: the PTX ISA. */
#ifndef RUNG_ENGINE_CUDA_MATMUL_PTX_CUH
#define RUNG_ENGINE_CUDA_MATMUL_PTX_CUH

#include "engine/cuda/ptx.cuh"

/* 16 bytes from global to shared memory, past the first-level cache; `bytes` (1..16) are read, the rest becomes zeros. */
static __device__ __forceinline__ void copy_weights(void *to, const void *from, int bytes)
{
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;\n" ::"r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from),
                 "r"(bytes)
                 : "memory");
}

/* The same through the first-level cache: what the blocks of one multiprocessor all read. */
static __device__ __forceinline__ void copy_inputs(void *to, const void *from)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16;\n" ::"r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from) : "memory");
}

static __device__ __forceinline__ void copy_commit()
{
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}

/* Waits until at most `pending` of this thread's latest groups are under way. */
static __device__ __forceinline__ void copy_wait(int pending)
{
    switch (pending) {
    case 0: asm volatile("cp.async.wait_group 0;\n" ::: "memory"); break;
    case 1: asm volatile("cp.async.wait_group 1;\n" ::: "memory"); break;
    case 2: asm volatile("cp.async.wait_group 2;\n" ::: "memory"); break;
    case 3: asm volatile("cp.async.wait_group 3;\n" ::: "memory"); break;
    case 4: asm volatile("cp.async.wait_group 4;\n" ::: "memory"); break;
    case 5: asm volatile("cp.async.wait_group 5;\n" ::: "memory"); break;
    default: asm volatile("cp.async.wait_group 6;\n" ::: "memory"); break;
    }
}

/* Four E4M3 bytes as F16 pairs that, times FP8_FACTOR, are their values. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
#define FP8_FACTOR 1.f
static __device__ __forceinline__ void halves_of_fp8(uint32_t four, uint32_t *low, uint32_t *high)
{
    asm("{\n.reg .b16 a, b;\nmov.b32 {a, b}, %2;\ncvt.rn.f16x2.e4m3x2 %0, a;\ncvt.rn.f16x2.e4m3x2 %1, b;\n}\n"
        : "=r"(*low), "=r"(*high)
        : "r"(four));
}
#else
/* The sign and the other seven bits moved to F16's places are the value × 2^-8. NaN becomes a number here. */
#define FP8_FACTOR 256.f
static __device__ __forceinline__ uint32_t halves_from_spread(uint32_t v)
{
    return (v & 0x80008000u) | (v >> 1 & 0x3f803f80u);
}
static __device__ __forceinline__ void halves_of_fp8(uint32_t four, uint32_t *low, uint32_t *high)
{
    *low = halves_from_spread(__byte_perm(four, 0, 0x1404));
    *high = halves_from_spread(__byte_perm(four, 0, 0x3424));
}
#endif

#endif
