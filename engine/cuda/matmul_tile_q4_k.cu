/* The tile kernel's instances for Q4_K. */
#include "engine/cuda/matmul_tile.cuh"

static const struct tile_kernel KERNELS[] = {
    /*   layout        columns / 8, rows of a warp / 16, warps along rows, along k */
    TILE(LAYOUT_Q4_K, 1, 1, 1, 8),
    TILE(LAYOUT_Q4_K, 1, 2, 1, 4),
    TILE(LAYOUT_Q4_K, 1, 1, 4, 2),
    TILE(LAYOUT_Q4_K, 2, 1, 8, 1),
    TILE(LAYOUT_Q4_K, 4, 1, 8, 1),
    TILE(LAYOUT_Q4_K, 8, 1, 8, 1),
};

struct tile_table tile_table_q4_k(void)
{
    return {KERNELS, (int)(sizeof KERNELS / sizeof KERNELS[0])};
}
