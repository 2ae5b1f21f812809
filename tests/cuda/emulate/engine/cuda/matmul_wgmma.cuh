/* The machine instructions of engine/cuda/matmul_wgmma.cuh, emulated. Products run when they are waited for: a stage that is given free
 * before that shows. Their sums are float32's, added once an instruction. */
#ifndef RUNG_ENGINE_CUDA_MATMUL_WGMMA_CUH
#define RUNG_ENGINE_CUDA_MATMUL_WGMMA_CUH

#include "tests/cuda/emulate/engine/cuda/ptx.cuh"

#include <array>
#include <cuda.h>

#define WGMMA_HERE 1

void emulate_product(const std::function<void()> &product);
void emulate_products_wait(int pending);
void wgmma_commit(void);

static inline void wgmma_fence(void) {}
template <int n> static inline void wgmma_hold(float (&)[n]) {}

template <int pending> static inline void wgmma_wait(void)
{
    emulate_products_wait(pending);
}

/* 18 bits of an address in units of 16 bytes, as the machine has them: the rest is the block's. */
static inline uint32_t wgmma_descriptor(uint32_t address)
{
    return (address >> 4 & 0x3fff) | 1u << 16;
}

static inline uint32_t emulate_operand(uint32_t descriptor)
{
    uint32_t base = (uint32_t)(emulate_shared() - emulate_arena);
    return base + ((((descriptor & 0x3fff) << 4) - base) & 0x3ffff);
}

/* Byte `i` of row `row` of a K-major operand: rows of 128 bytes, swizzled. */
static inline const uint8_t *emulate_at(uint32_t operand, int row, int i)
{
    uint32_t at = operand + (uint32_t)(row * 128 + i);
    return emulate_arena + (at ^ (at >> 7 & 7) << 4);
}

static inline float emulate_e4m3(uint8_t byte)
{
    static float values[256];
    if (values[1] == 0)
        for (int i = 0; i < 256; i++) values[i] = __half2float(__half(__nv_cvt_fp8_to_halfraw((__nv_fp8_storage_t)i, __NV_E4M3)));
    return values[byte];
}

/* d (64 rows × 2n columns) = A × B, 32 k's; `plus`: to what d was. A lane's: rows g and g + 8 of its warp's 16, columns 8 b + 2 t, + 1. */
template <int n> static inline void wgmma_e4m3(float (&d)[n], uint32_t a_low, uint32_t b_low, bool plus)
{
    int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5 & 3;
    uint32_t a = emulate_operand(a_low), b = emulate_operand(b_low);
    float *sums = d;
    emulate_product([=] {
        float rows[2][32];
        for (int i = 0; i < 64; i++) rows[i / 32][i % 32] = emulate_e4m3(*emulate_at(a, warp * 16 + lane / 4 + i / 32 * 8, i % 32));
        for (int c = 0; c < n / 2; c++) {
            float col[32], sum[2] = {0, 0};
            for (int i = 0; i < 32; i++) col[i] = emulate_e4m3(*emulate_at(b, c / 2 * 8 + lane % 4 * 2 + c % 2, i));
            for (int r = 0; r < 2; r++)
                for (int i = 0; i < 32; i++) sum[r] += rows[r][i] * col[i];
            for (int r = 0; r < 2; r++) {
                float *to = sums + c / 2 * 4 + r * 2 + c % 2;
                *to = plus ? *to + sum[r] : sum[r];
            }
        }
    });
}

/* d = A (registers, as mma.m16n8k16 has them) × B, 16 k's; `plus`: added to what d was. */
template <bool plus = true, int n> static inline void wgmma_f16(float (&d)[n], const uint32_t (&fragment)[4], uint32_t b_low)
{
    std::array<uint32_t, 128> all;
    int lane = (int)threadIdx.x & 31;
    uint32_t b = emulate_operand(b_low);
    float *sums = d;
    emulate_exchange(fragment, 16, all.data());
    emulate_product([=] {
        for (int i = 0; i < n; i++) {
            int row = i / 2 % 2, col = i / 4 * 8 + lane % 4 * 2 + i % 2;
            float sum = 0;
            for (int k = 0; k < 16; k++) {
                uint16_t h;
                memcpy(&h, emulate_at(b, col, k * 2), 2);
                sum += emulate_f16(all[(size_t)((lane / 4 * 4 + k % 8 / 2) * 4 + row + k / 8 * 2)], k % 2) * emulate_f16(h, 0);
            }
            sums[i] = plus ? sums[i] + sum : sum;
        }
    });
}

/* ---- shared memory by its address ---- */

static inline uint4 load_shared_16(uint32_t from)
{
    return *emulate_aligned((const uint4 *)(emulate_arena + from));
}

static inline __half2 load_shared_pair(uint32_t from)
{
    return __half2half2(*emulate_aligned((const __half *)(emulate_arena + from)));
}

static inline void copy_async(uint32_t to, const void *from)
{
    *(uint4 *)emulate_aligned((const uint4 *)(emulate_arena + to)) = *emulate_aligned((const uint4 *)from);
}

static inline void copy_arrive(uint32_t bar)
{
    mbarrier_arrive(bar);
}

/* ---- tensor copies ---- */

void tensor_copy(uint32_t to, const CUtensorMap *map, int k, int row, uint32_t bar);

static inline void tensor_prefetch(const CUtensorMap *) {}

static inline void tensor_copy_hinted(uint32_t to, const CUtensorMap *map, int k, int row, uint32_t bar, uint64_t)
{
    tensor_copy(to, map, k, row, bar);
}

#endif
