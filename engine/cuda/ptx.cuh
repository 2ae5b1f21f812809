/* The machine instructions that CUDA C++ has no name for. Source: the PTX ISA. */
#ifndef RUNG_ENGINE_CUDA_PTX_CUH
#define RUNG_ENGINE_CUDA_PTX_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

/* C += A B for one 16×8 tile over k = 16, the sums in float32. */
static __device__ __forceinline__ void mma_f16(float c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ void mma_bf16(float c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* The 8×8 matrix of 16-bit elements that the warp holds as fragments, transposed. */
static __device__ __forceinline__ uint32_t transpose_8x8(uint32_t x)
{
    uint32_t y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(y) : "r"(x));
    return y;
}

/* (x & mask) | bits, in one instruction: of two constants the compiler makes two. */
static __device__ __forceinline__ uint32_t and_or(uint32_t x, uint32_t mask, uint32_t bits)
{
    uint32_t y;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;\n" : "=r"(y) : "r"(x), "r"(mask), "r"(bits));
    return y;
}

static __device__ __forceinline__ uint32_t half2_bits(__half2 h)
{
    return *reinterpret_cast<uint32_t *>(&h);
}

static __device__ __forceinline__ __half2 bits_half2(uint32_t u)
{
    return *reinterpret_cast<__half2 *>(&u);
}

static __device__ __forceinline__ uint32_t pack_half2(float lo, float hi)
{
    return half2_bits(__floats2half2_rn(lo, hi));
}

static __device__ __forceinline__ uint32_t pack_bf162(float lo, float hi)
{
    __nv_bfloat162 h = __floats2bfloat162_rn(lo, hi);
    return *reinterpret_cast<uint32_t *>(&h);
}

/* Two E4M3 bytes (in the low half of `pair`) as two F16: exact. */
static __device__ __forceinline__ uint32_t e4m3x2_half2(uint16_t pair)
{
#if __CUDA_ARCH__ >= 890
    uint32_t h;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;\n" : "=r"(h) : "h"(pair));
    return h;
#else
    /* The bits moved to F16's places give value × 2^-8; NaN (0x7f) becomes 480, which no weight of ours holds. */
    uint32_t spread = __byte_perm(pair, 0, 0x1404);
    uint32_t moved = (spread & 0x80008000u) | ((spread & 0x7f007f00u) >> 1);
    return half2_bits(__hmul2(bits_half2(moved), __floats2half2_rn(256.f, 256.f)));
#endif
}

/* ---- barriers in shared memory, bulk copies (sm_90) ---- */

static __device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

static __device__ __forceinline__ void mbarrier_init(uint32_t bar, int count)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(bar), "r"(count) : "memory");
#endif
}

static __device__ __forceinline__ void mbarrier_expect(uint32_t bar, uint32_t bytes)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(bar), "r"(bytes) : "memory");
#endif
}

static __device__ __forceinline__ void mbarrier_arrive(uint32_t bar)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(bar) : "memory");
#endif
}

/* The hardware may let the warp sleep that long (in ns); a profile shows that it still looks every now and then. */
static __device__ __forceinline__ void mbarrier_wait(uint32_t bar, uint32_t parity)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1, %2;\n"
                 "@!done bra again;\n"
                 "}\n" ::"r"(bar),
                 "r"(parity), "r"(10000000)
                 : "memory");
#endif
}

/* What is read once should leave the second-level cache first. */
static __device__ __forceinline__ uint64_t policy_evict_first()
{
    uint64_t policy = 0;
#if __CUDA_ARCH__ >= 900
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;\n" : "=l"(policy));
#endif
    return policy;
}

/* `bytes` and both addresses are multiples of 16. */
static __device__ __forceinline__ void bulk_copy(uint32_t to, const void *from, uint32_t bytes, uint32_t bar, uint64_t policy)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;\n" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(bar), "l"(policy)
                 : "memory");
#endif
}

/* The barriers that this thread has begun are there for bulk copies too. */
static __device__ __forceinline__ void fence_barriers()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
#endif
}

/* What ordinary accesses did is done before the bulk copies to come. */
static __device__ __forceinline__ void fence_bulk()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async;\n" ::: "memory");
#endif
}

/* A bulk copy of what stays in the cache. */
static __device__ __forceinline__ void bulk_copy_shared(uint32_t to, const void *from, uint32_t bytes, uint32_t bar)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(to), "l"(from), "r"(bytes),
                 "r"(bar)
                 : "memory");
#endif
}

/* 16 bytes into shared memory, beside the thread's other work. */
static __device__ __forceinline__ void copy_16(uint32_t to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(to), "l"(from) : "memory");
}

/* The thread arrives at the barrier when its copies of 16 bytes are there. */
static __device__ __forceinline__ void copies_arrive(uint32_t bar)
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];\n" ::"r"(bar) : "memory");
#endif
}

/* A range (16-byte aligned) into the second-level cache. */
static __device__ __forceinline__ void prefetch_l2(const void *from, uint32_t bytes)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;\n" ::"l"(from), "r"(bytes) : "memory");
#endif
}

/* A group of 4 warps gives registers back, or takes what others gave: its threads have `n` from now on. */
template <int n> static __device__ __forceinline__ void registers_give()
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(n));
#endif
}

template <int n> static __device__ __forceinline__ void registers_take()
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(n));
#endif
}

/* Where a kernel is launched before the one before it has ended: what that wrote is there from now on. */
static __device__ __forceinline__ void predecessor_wait()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}

/* The next kernel may begin, if it was launched so. */
static __device__ __forceinline__ void successor_go()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}

/* Barrier `id` among `threads` of the block (a multiple of 32). */
static __device__ __forceinline__ void barrier_sync(int id, int threads)
{
    asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

static __device__ __forceinline__ void count_release(unsigned *counter)
{
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;\n" ::"l"(counter) : "memory");
}

static __device__ __forceinline__ unsigned load_acquire(const unsigned *p)
{
    unsigned v;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];\n" : "=r"(v) : "l"(p) : "memory");
    return v;
}

#endif
