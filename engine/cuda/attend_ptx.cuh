/* The instructions that attention is made of and that CUDA C++ has no plain name for (PTX ISA; sm_80 and later). */
#ifndef RUNG_ENGINE_CUDA_ATTEND_PTX_CUH
#define RUNG_ENGINE_CUDA_ATTEND_PTX_CUH

#include <cuda_fp16.h>
#include <stdint.h>

/* c += A B on one 16 × 8 tile, 16 deep. Lane 4g + t holds of A rows g (a0, a2) and g + 8 (a1, a3), of B column g, of c
 * rows g (c[0], c[1]) and g + 8, columns 2t and 2t + 1. */
static __device__ __forceinline__ void attend_mma(float c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                                  uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* Four 8 × 8 matrices of halves; lane l gives the address of row l % 8 of matrix l / 8. */
static __device__ __forceinline__ void attend_ldmatrix(uint32_t r[4], const void *shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(shared)));
}

/* Loads of what no kernel that is running writes, and that nobody else on the multiprocessor wants: in whole lines of the
 * second-level cache, past the first. They stay in the order they are written in, ahead of later barriers. */
static __device__ __forceinline__ void attend_load16(uint32_t w[4], const void *from)
{
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                 : "l"(from));
}
static __device__ __forceinline__ void attend_load8(uint32_t w[2], const void *from)
{
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v2.u32 {%0,%1}, [%2];" : "=r"(w[0]), "=r"(w[1]) : "l"(from));
}
static __device__ __forceinline__ void attend_load_float(float *f, const void *from)
{
    asm volatile("ld.global.nc.L1::no_allocate.f32 %0, [%1];" : "=f"(*f) : "l"(from));
}
static __device__ __forceinline__ void attend_load_word(int32_t *x, const void *from)
{
    asm volatile("ld.global.cg.s32 %0, [%1];" : "=r"(*x) : "l"(from));
}

/* 16 bytes to shared memory behind the program's back; `bytes` 0 writes zeros and reads nothing. */
static __device__ __forceinline__ void attend_copy16(void *shared, const void *from, int bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((uint32_t)__cvta_generic_to_shared(shared)), "l"(from),
                 "r"(bytes)
                 : "memory");
}
static __device__ __forceinline__ void attend_copies_wait(void)
{
    asm volatile("cp.async.wait_all;" ::: "memory");
}
static __device__ __forceinline__ float attend_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
static __device__ __forceinline__ float attend_log2(float x)
{
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

static __device__ __forceinline__ uint32_t attend_halves(float low, float high)
{
    __half2 h = __floats2half2_rn(low, high);
    return *(uint32_t *)&h;
}

/* Four E4M3 bytes as four halves, exactly. */
static __device__ __forceinline__ void attend_e4m3(uint32_t four, uint32_t *low, uint32_t *high)
{
#if __CUDA_ARCH__ >= 890
    asm("{ .reg .b16 a, b; mov.b32 {a, b}, %2; cvt.rn.f16x2.e4m3x2 %0, a; cvt.rn.f16x2.e4m3x2 %1, b; }"
        : "=r"(*low), "=r"(*high)
        : "r"(four));
#else
    /* The bits moved to where a half has them give the value × 2^-8. */
    const __half2 up = __floats2half2_rn(256, 256);
    uint32_t a = __byte_perm(four, 0, 0x1404), b = __byte_perm(four, 0, 0x3424);
    a = (a & 0x80008000u) | ((a & 0x7f007f00u) >> 1);
    b = (b & 0x80008000u) | ((b & 0x7f007f00u) >> 1);
    __half2 x = __hmul2(*(__half2 *)&a, up), y = __hmul2(*(__half2 *)&b, up);
    *low = *(uint32_t *)&x;
    *high = *(uint32_t *)&y;
#endif
}

#endif
