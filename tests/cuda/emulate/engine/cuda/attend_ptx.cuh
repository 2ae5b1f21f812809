/* The machine instructions of engine/cuda/attend_ptx.cuh, emulated. */
#ifndef RUNG_ENGINE_CUDA_ATTEND_PTX_CUH
#define RUNG_ENGINE_CUDA_ATTEND_PTX_CUH

#include "tests/cuda/emulate/engine/cuda/ptx.cuh"

static inline void attend_mma(float c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
{
    mma_f16(c, a0, a1, a2, a3, b0, b1);
}

/* Lane l gives the address of row l % 8 of matrix l / 8, and gets of each matrix row l / 4, elements 2 (l % 4) and the next. */
static inline void attend_ldmatrix(uint32_t r[4], const void *shared)
{
    const void *all[32];
    emulate_exchange(&shared, sizeof shared, all);
    int lane = (int)threadIdx.x % 32;
    for (int m = 0; m < 4; m++) memcpy(&r[m], (const char *)all[m * 8 + lane / 4] + lane % 4 * 4, 4);
}

struct emulate_16 {
    alignas(16) uint32_t w[4];
};
struct emulate_8 {
    alignas(8) uint32_t w[2];
};

static inline void attend_load16(uint32_t w[4], const void *from)
{
    memcpy(w, emulate_aligned((const struct emulate_16 *)from), 16);
}

static inline void attend_load8(uint32_t w[2], const void *from)
{
    memcpy(w, emulate_aligned((const struct emulate_8 *)from), 8);
}

static inline void attend_load_float(float *f, const void *from)
{
    *f = *emulate_aligned((const float *)from);
}

static inline void attend_load_word(int32_t *x, const void *from)
{
    *x = *emulate_aligned((const int32_t *)from);
}

static inline void attend_copy16(void *shared, const void *from, int bytes)
{
    (void)emulate_aligned((const struct emulate_16 *)shared);
    if (bytes) memcpy(shared, emulate_aligned((const struct emulate_16 *)from), 16);
    else memset(shared, 0, 16);
}

static inline void attend_copies_wait(void) {}

static inline float attend_exp2(float x)
{
    return exp2f(x);
}

static inline float attend_log2(float x)
{
    return log2f(x);
}

static inline uint32_t attend_halves(float low, float high)
{
    return pack_half2(low, high);
}

static inline void attend_e4m3(uint32_t four, uint32_t *low, uint32_t *high)
{
    *low = e4m3x2_half2((uint16_t)four);
    *high = e4m3x2_half2((uint16_t)(four >> 16));
}

#endif
