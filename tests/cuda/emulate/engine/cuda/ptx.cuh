/* The machine instructions of engine/cuda/ptx.cuh, emulated: this folder stands before the tree in the search for headers. */
#ifndef RUNG_ENGINE_CUDA_PTX_CUH
#define RUNG_ENGINE_CUDA_PTX_CUH

#include "tests/cuda/emulate/emulate.h"

/* C += A B for one 16×8 tile over k = 16: lane 4 g + t has rows g and g + 8 of A, column g of B, columns 2t and 2t + 1 of C. */
template <class F>
static inline void emulate_mma(float c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1, F value)
{
    struct words {
        uint32_t w[6];
    } mine = {{a0, a1, a2, a3, b0, b1}}, all[32];
    emulate_exchange(&mine, sizeof mine, all);
    int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) {
        int row = i / 2, col = 2 * t + i % 2;
        double sum = (double)c[i];
        for (int k = 0; k < 16; k++)
            sum += (double)value(all[g * 4 + k % 8 / 2].w[k / 8 * 2 + row], k % 2) * (double)value(all[col * 4 + k % 8 / 2].w[4 + k / 8], k % 2);
        c[i] = (float)sum;
    }
}

static inline float emulate_f16(uint32_t word, int i)
{
    __half_raw raw;
    raw.x = (unsigned short)(word >> 16 * i);
    return __half2float(__half(raw));
}

static inline float emulate_bf16(uint32_t word, int i)
{
    return __uint_as_float((word >> 16 * i & 0xffffu) << 16);
}

static inline void mma_f16(float c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
{
    emulate_mma(c, a0, a1, a2, a3, b0, b1, emulate_f16);
}

static inline void mma_bf16(float c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
{
    emulate_mma(c, a0, a1, a2, a3, b0, b1, emulate_bf16);
}

static inline uint32_t transpose_8x8(uint32_t x)
{
    uint32_t all[32];
    emulate_exchange(&x, 4, all);
    int lane = (int)threadIdx.x % 32, col = lane / 4, row = 2 * (lane % 4);
    uint32_t lo = all[row * 4 + col / 2] >> 16 * (col % 2), hi = all[(row + 1) * 4 + col / 2] >> 16 * (col % 2);
    return (lo & 0xffffu) | hi << 16;
}

static inline uint32_t and_or(uint32_t x, uint32_t mask, uint32_t bits)
{
    return (x & mask) | bits;
}

static inline uint32_t half2_bits(__half2 h)
{
    uint32_t u;
    memcpy(&u, &h, 4);
    return u;
}

static inline __half2 bits_half2(uint32_t u)
{
    __half2 h;
    memcpy(&h, &u, 4);
    return h;
}

static inline uint32_t pack_half2(float lo, float hi)
{
    return half2_bits(__floats2half2_rn(lo, hi));
}

static inline uint32_t e4m3x2_half2(uint16_t pair)
{
    __half_raw lo = __nv_cvt_fp8_to_halfraw((__nv_fp8_storage_t)(pair & 255), __NV_E4M3);
    __half_raw hi = __nv_cvt_fp8_to_halfraw((__nv_fp8_storage_t)(pair >> 8), __NV_E4M3);
    return lo.x | (uint32_t)hi.x << 16;
}

/* ---- barriers in shared memory, bulk copies ---- */

void mbarrier_init(uint32_t bar, int count);
void mbarrier_expect(uint32_t bar, uint32_t bytes);
void mbarrier_arrive(uint32_t bar);
void mbarrier_wait(uint32_t bar, uint32_t parity);
void bulk_copy(uint32_t to, const void *from, uint32_t bytes, uint32_t bar, uint64_t policy);

static inline uint32_t shared_address(const void *p)
{
    return (uint32_t)((const uint8_t *)p - emulate_arena);
}

static inline void bulk_copy_shared(uint32_t to, const void *from, uint32_t bytes, uint32_t bar)
{
    bulk_copy(to, from, bytes, bar, 0);
}

static inline void copy_16(uint32_t to, const void *from)
{
    memcpy(emulate_arena + to, emulate_aligned((const uint4 *)from), 16);
    emulate_yield();
}

static inline void copies_arrive(uint32_t bar)
{
    mbarrier_arrive(bar);
}

static inline uint64_t policy_evict_first(void)
{
    return 0;
}

static inline void fence_barriers(void) {}
static inline void fence_bulk(void) {}
static inline void predecessor_wait(void) {}
static inline void successor_go(void) {}
static inline void prefetch_l2(const void *, uint32_t) {}
template <int n> static inline void registers_give(void) {}
template <int n> static inline void registers_take(void) {}

static inline void barrier_sync(int id, int threads)
{
    emulate_barrier(id, threads);
}

static inline void count_release(unsigned *counter)
{
    ++*counter;
}

static inline unsigned load_acquire(const unsigned *p)
{
    emulate_yield();
    return *p;
}

#endif
