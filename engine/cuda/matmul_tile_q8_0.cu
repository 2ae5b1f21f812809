/* The tile kernel's instances for Q8_0. */
#include "engine/cuda/matmul_tile.cuh"

static const struct tile_kernel KERNELS[] = {
    /*   layout        columns / 8, rows of a warp / 16, warps along rows, along k */
    TILE(LAYOUT_Q8_0, 1, 1, 1, 8),
    TILE(LAYOUT_Q8_0, 1, 2, 1, 4),
    TILE(LAYOUT_Q8_0, 1, 1, 4, 2),
    TILE(LAYOUT_Q8_0, 2, 2, 8, 1),
    TILE(LAYOUT_Q8_0, 4, 1, 8, 1),
    TILE(LAYOUT_Q8_0, 8, 2, 8, 1),
};

struct tile_table tile_table_q8_0(void)
{
    return {KERNELS, (int)(sizeof KERNELS / sizeof KERNELS[0])};
}
