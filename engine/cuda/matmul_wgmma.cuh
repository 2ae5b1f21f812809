/* Hopper's warpgroup products and what goes with them. Source: the PTX ISA (wgmma.mma_async, matrix descriptors, cp.async, tensor
 * copies). */
#ifndef RUNG_ENGINE_CUDA_MATMUL_WGMMA_CUH
#define RUNG_ENGINE_CUDA_MATMUL_WGMMA_CUH

#include "engine/cuda/ptx.cuh"

#include <cuda.h>

/* The instructions exist for sm_90a alone; elsewhere these functions are empty and no host code launches what uses them. */
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define WGMMA_HERE 1
#define WGMMA(...) asm volatile(__VA_ARGS__)
#else
#define WGMMA_HERE 0
#define WGMMA(...) ((void)0)
#endif

/* Registers written before are seen by the products after. */
static __device__ __forceinline__ void wgmma_fence()
{
    WGMMA("wgmma.fence.sync.aligned;\n" ::: "memory");
}

static __device__ __forceinline__ void wgmma_commit()
{
    WGMMA("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}

/* Waits until at most `pending` of the latest groups are under way. */
template <int pending> static __device__ __forceinline__ void wgmma_wait()
{
    WGMMA("wgmma.wait_group.sync.aligned %0;\n" ::"n"(pending) : "memory");
}

/* Keeps the compiler from moving these registers' other uses across. */
template <int n> static __device__ __forceinline__ void wgmma_hold(float (&d)[n])
{
#pragma unroll
    for (int i = 0; i < n; i++) asm volatile("" : "+f"(d[i])::"memory");
}

/* A K-major operand in shared memory: rows of 128 bytes (64 elements) whose 16-byte chunks are XORed with row % 8, eight rows
 * (1024 bytes, aligned) a group, groups behind each other. A step of 16 k's is 32 bytes further. */
static __device__ __forceinline__ uint32_t wgmma_descriptor(uint32_t address) /* the lower half; the upper: 1024 bytes, the swizzle */
{
    return (address >> 4 & 0x3fff) | 1u << 16;
}

#define D4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define D8(d, i) D4(d, i), D4(d, i + 4)
#define D16(d, i) D8(d, i), D8(d, i + 8)
#define D32(d, i) D16(d, i), D16(d, i + 16)
#define LIST_8 "%0,%1,%2,%3,%4,%5,%6,%7"
#define LIST_16 LIST_8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define LIST_24 LIST_16 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define LIST_32 LIST_24 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define LIST_40 LIST_32 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define LIST_48 LIST_40 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define LIST_64 LIST_48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define LIST_80 LIST_64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define LIST_96 LIST_80 ",%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"

/* d (64 rows of the warpgroup × 2n columns) = A (registers: a warp's 16 rows as mma.m16n8k16 has them) × B (shared memory), 16 k's;
 * `plus`: added to what d was. */
#define F16_PRODUCT(n, columns, a, b, add, ...)                                                                                   \
    template <bool plus = true>                                                                                                   \
    static __device__ __forceinline__ void wgmma_f16(float (&d)[n], const uint32_t (&fragment)[4], uint32_t b_low)                \
    {                                                                                                                             \
        WGMMA("{\n.reg .pred add;\n.reg .b64 b;\nsetp.ne.b32 add, " add ", 0;\nmov.b64 b, {" b ", 0x40000040};\n"              \
              "wgmma.mma_async.sync.aligned.m64n" columns "k16.f32.f16.f16 {" LIST_##n "}, {" a "}, b, add, 1, 1, 0;\n}\n"       \
              : __VA_ARGS__                                                                                                       \
              : "r"(fragment[0]), "r"(fragment[1]), "r"(fragment[2]), "r"(fragment[3]), "r"(b_low), "n"((int)plus));             \
    }
F16_PRODUCT(8, "16", "%8,%9,%10,%11", "%12", "%13", D8(d, 0))
F16_PRODUCT(16, "32", "%16,%17,%18,%19", "%20", "%21", D16(d, 0))
F16_PRODUCT(24, "48", "%24,%25,%26,%27", "%28", "%29", D16(d, 0), D8(d, 16))
F16_PRODUCT(32, "64", "%32,%33,%34,%35", "%36", "%37", D32(d, 0))
F16_PRODUCT(48, "96", "%48,%49,%50,%51", "%52", "%53", D32(d, 0), D16(d, 32))
F16_PRODUCT(64, "128", "%64,%65,%66,%67", "%68", "%69", D32(d, 0), D32(d, 32))

/* The same of E4M3: d = A × B, both from shared memory, 32 k's; `plus`: added to what d was. */
#define E4M3_PRODUCT(n, columns, a, b, add, ...)                                                                                  \
    static __device__ __forceinline__ void wgmma_e4m3(float (&d)[n], uint32_t a_low, uint32_t b_low, bool plus)                   \
    {                                                                                                                             \
        WGMMA("{\n.reg .pred add;\n.reg .b64 a, b;\nsetp.ne.b32 add, %" add ", 0;\n"                                             \
              "mov.b64 a, {%" a ", 0x40000040};\nmov.b64 b, {%" b ", 0x40000040};\n"                                              \
              "wgmma.mma_async.sync.aligned.m64n" columns "k32.f32.e4m3.e4m3 {" LIST_##n "}, a, b, add, 1, 1;\n}\n"           \
              : __VA_ARGS__                                                                                                       \
              : "r"(a_low), "r"(b_low), "r"((int)plus));                                                                          \
    }
E4M3_PRODUCT(16, "32", "16", "17", "18", D16(d, 0))
E4M3_PRODUCT(32, "64", "32", "33", "34", D32(d, 0))
E4M3_PRODUCT(40, "80", "40", "41", "42", D32(d, 0), D8(d, 32))
E4M3_PRODUCT(48, "96", "48", "49", "50", D32(d, 0), D16(d, 32))
E4M3_PRODUCT(64, "128", "64", "65", "66", D32(d, 0), D32(d, 32))
E4M3_PRODUCT(80, "160", "80", "81", "82", D32(d, 0), D32(d, 32), D16(d, 64))
E4M3_PRODUCT(96, "192", "96", "97", "98", D32(d, 0), D32(d, 32), D32(d, 64))

/* ---- shared memory by its address ---- */

static __device__ __forceinline__ uint4 load_shared_16(uint32_t from)
{
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];\n" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(from) : "memory");
    return v;
}

/* Both halves of the result are the 16-bit element. */
static __device__ __forceinline__ __half2 load_shared_pair(uint32_t from)
{
    uint16_t v;
    asm volatile("ld.shared.u16 %0, [%1];\n" : "=h"(v) : "r"(from) : "memory");
    return __half2half2(__ushort_as_half(v));
}

/* ---- copies of 16 bytes that a barrier in shared memory waits for ---- */

static __device__ __forceinline__ void copy_async(uint32_t to, const void *from)
{
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;\n" ::"r"(to), "l"(from) : "memory");
}

/* This thread arrives once its copies so far are there. */
static __device__ __forceinline__ void copy_arrive(uint32_t bar)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];\n" ::"r"(bar) : "memory");
}

/* ---- tensor copies: a box of a matrix of bytes, as its map says, beyond whose edges are zeros ---- */

static __device__ __forceinline__ void tensor_prefetch(const CUtensorMap *map)
{
    WGMMA("prefetch.tensormap [%0];\n" ::"l"(map) : "memory");
}

/* The box whose first byte stands in column `k` of row `row`, to `to` of this block. */
static __device__ __forceinline__ void tensor_copy(uint32_t to, const CUtensorMap *map, int k, int row, uint32_t bar)
{
    WGMMA("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];\n" ::"r"(to), "l"(map), "r"(k),
          "r"(row), "r"(bar)
          : "memory");
}

static __device__ __forceinline__ void tensor_copy_hinted(uint32_t to, const CUtensorMap *map, int k, int row, uint32_t bar, uint64_t policy)
{
    WGMMA("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;\n" ::"r"(to),
          "l"(map), "r"(k), "r"(row), "r"(bar), "l"(policy)
          : "memory");
}

#endif
