/* AMX's tiles, as kernels_tiles.inc.h uses them: 0 and 1 sums (16 columns × 16 rows), 4 and 6 activations, 5 and 7 weights. */
#ifndef RUNG_ENGINE_CPU_TILES_AMX_H
#define RUNG_ENGINE_CPU_TILES_AMX_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#define tile_zero _tile_zero
#define tile_load _tile_loadd     /* tile, address, bytes between its rows */
#define tile_store _tile_stored
#define tile_dot _tile_dpbssd     /* sums += activations × weights, both signed bytes */
#define tiles_release _tile_release

/* Shape the tiles for products over `depth` columns of a matrix (16 or 32). */
static inline void tiles_shape(int depth)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shape __attribute__((aligned(64))) = {.palette = 1};
    for (int t = 0; t < 8; t++) {
        bool activations = t == 4 || t == 6, weights = t == 5 || t == 7;
        shape.row_bytes[t] = (uint16_t)(activations ? depth : 64);
        shape.rows[t] = (uint8_t)(weights ? depth / 4 : 16);
    }
    _tile_loadconfig(&shape);
}

/* The processor has them, and the kernel lets this process use them (arch_prctl(2), Linux 5.16). */
static inline bool tiles_usable(void)
{
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18, BIT_TILE = 1 << 24, BIT_INT8 = 1 << 25 };
    unsigned a = 7, b, c = 0, d;
    if (__builtin_cpu_supports("avx512vnni") == 0) return false;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    if (!(d & BIT_TILE) || !(d & BIT_INT8)) return false;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

#endif
