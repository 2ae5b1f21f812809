/* The tile kernel's instances for BF16. */
#include "engine/cuda/matmul_tile.cuh"

static const struct tile_kernel KERNELS[] = {
    /*   layout        columns / 8, rows of a warp / 16, warps along rows, along k */
    TILE(LAYOUT_BF16, 1, 1, 1, 8),
    TILE(LAYOUT_BF16, 1, 2, 1, 4),
    TILE(LAYOUT_BF16, 1, 4, 1, 4),
    TILE(LAYOUT_BF16, 1, 1, 4, 2),
    TILE(LAYOUT_BF16, 2, 2, 8, 1),
    TILE(LAYOUT_BF16, 4, 2, 8, 1),
    TILE(LAYOUT_BF16, 8, 2, 8, 1),
};

struct tile_table tile_table_bf16(void)
{
    return {KERNELS, (int)(sizeof KERNELS / sizeof KERNELS[0])};
}
