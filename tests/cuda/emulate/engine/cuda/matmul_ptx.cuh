/* The machine instructions of engine/cuda/matmul_ptx.cuh that the wide kernel's files name, emulated. */
#ifndef RUNG_ENGINE_CUDA_MATMUL_PTX_CUH
#define RUNG_ENGINE_CUDA_MATMUL_PTX_CUH

#include "tests/cuda/emulate/engine/cuda/ptx.cuh"

#define FP8_FACTOR 1.f
static inline void halves_of_fp8(uint32_t four, uint32_t *low, uint32_t *high)
{
    *low = e4m3x2_half2((uint16_t)four);
    *high = e4m3x2_half2((uint16_t)(four >> 16));
}

#endif
