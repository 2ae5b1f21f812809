/* The tile kernel's instances for the layouts that are met more seldom: few, to keep the library small. */
#include "engine/cuda/matmul_tile.cuh"

#define FEW(L) static const struct tile_kernel KERNELS_##L[] = {TILE(L, 1, 1, 1, 4), TILE(L, 4, 1, 8, 1)}
FEW(LAYOUT_F32);
FEW(LAYOUT_Q4_0);
FEW(LAYOUT_Q4_1);
FEW(LAYOUT_Q5_0);
FEW(LAYOUT_Q5_1);
FEW(LAYOUT_IQ4_NL);
FEW(LAYOUT_Q2_K);
FEW(LAYOUT_Q3_K);
FEW(LAYOUT_Q5_K);

struct tile_table tile_table_more(enum layout layout)
{
    switch (layout) {
    case LAYOUT_F32: return {KERNELS_LAYOUT_F32, 2};
    case LAYOUT_Q4_0: return {KERNELS_LAYOUT_Q4_0, 2};
    case LAYOUT_Q4_1: return {KERNELS_LAYOUT_Q4_1, 2};
    case LAYOUT_Q5_0: return {KERNELS_LAYOUT_Q5_0, 2};
    case LAYOUT_Q5_1: return {KERNELS_LAYOUT_Q5_1, 2};
    case LAYOUT_IQ4_NL: return {KERNELS_LAYOUT_IQ4_NL, 2};
    case LAYOUT_Q2_K: return {KERNELS_LAYOUT_Q2_K, 2};
    case LAYOUT_Q3_K: return {KERNELS_LAYOUT_Q3_K, 2};
    case LAYOUT_Q5_K: return {KERNELS_LAYOUT_Q5_K, 2};
    default: return {NULL, 0};
    }
}
