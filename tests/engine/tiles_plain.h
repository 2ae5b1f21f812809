/* Matrix tiles in plain C, with the meaning that Intel's manual gives the AMX instructions: so that the kernels over them are
 * tested on machines without. */
#ifndef RUNG_TESTS_ENGINE_TILES_PLAIN_H
#define RUNG_TESTS_ENGINE_TILES_PLAIN_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static struct {
    int rows, row_bytes;
    uint8_t data[16][64];
} plain_tile[8];

static inline void tile_zero(int t)
{
    memset(plain_tile[t].data, 0, sizeof plain_tile[t].data);
}

static inline void tile_load(int t, const void *from, size_t stride)
{
    memset(plain_tile[t].data, 0, sizeof plain_tile[t].data);
    for (int r = 0; r < plain_tile[t].rows; r++)
        memcpy(plain_tile[t].data[r], (const uint8_t *)from + (size_t)r * stride, (size_t)plain_tile[t].row_bytes);
}

static inline void tile_store(int t, void *to, size_t stride)
{
    for (int r = 0; r < plain_tile[t].rows; r++)
        memcpy((uint8_t *)to + (size_t)r * stride, plain_tile[t].data[r], (size_t)plain_tile[t].row_bytes);
}

/* Σ over fours of bytes: sums[m][n] += a[m][4 i + j] × b[i][4 n + j], both signed. */
static inline void tile_dot(int sums, int a, int b)
{
    assert(plain_tile[a].rows == plain_tile[sums].rows && plain_tile[a].row_bytes == 4 * plain_tile[b].rows);
    for (int m = 0; m < plain_tile[a].rows; m++)
        for (int n = 0; n < plain_tile[b].row_bytes / 4; n++) {
            int32_t sum;
            memcpy(&sum, plain_tile[sums].data[m] + n * 4, 4);
            for (int i = 0; i < plain_tile[a].row_bytes; i++)
                sum += (int8_t)plain_tile[a].data[m][i] * (int8_t)plain_tile[b].data[i / 4][n * 4 + i % 4];
            memcpy(plain_tile[sums].data[m] + n * 4, &sum, 4);
        }
}

static inline void tiles_shape(int depth)
{
    for (int t = 0; t < 8; t++) {
        plain_tile[t].rows = t == 5 || t == 7 ? depth / 4 : 16;
        plain_tile[t].row_bytes = t == 4 || t == 6 ? depth : 64;
    }
}

static inline void tiles_release(void)
{
    memset(plain_tile, 0, sizeof plain_tile);
}

static inline bool tiles_usable(void)
{
    return true;
}

#endif
