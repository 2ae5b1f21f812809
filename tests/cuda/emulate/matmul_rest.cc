/* What matmul.cu names and the emulation cannot run: the tile kernel, cuBLASLt, the small kernels of other ways. */
#include "engine/cuda/matmul_private.cuh"

extern "C" {
#include "base/err.h"
}

#define NO_TABLE(name) \
    struct tile_table name(void) \
    { \
        return {NULL, 0}; \
    }
NO_TABLE(tile_table_w4)
NO_TABLE(tile_table_fp8)
NO_TABLE(tile_table_f16)
NO_TABLE(tile_table_bf16)
NO_TABLE(tile_table_q8_0)
NO_TABLE(tile_table_q4_k)
NO_TABLE(tile_table_q6_k)

struct tile_table tile_table_more(enum layout)
{
    return {NULL, 0};
}

static enum err_code missing(struct err *e)
{
    return err_set(e, ERR_UNSUPPORTED, "not in the emulation");
}

bool lt_found(void)
{
    return false;
}

bool lt_fp8(void)
{
    return false;
}

enum err_code lt_open(struct lt **, struct err *e)
{
    return missing(e);
}

void lt_close(struct lt *) {}

bool lt_can(struct lt *, const struct lt_call *)
{
    return false;
}

enum err_code lt_run(struct lt *, const struct lt_call *, cudaStream_t, struct err *e)
{
    return missing(e);
}

enum err_code lt_tune(struct lt *, const struct lt_call *, cudaStream_t, struct err *e)
{
    return missing(e);
}

enum err_code dequantize_rows(const struct matrix *, int, int, __half *, cudaStream_t, struct err *e)
{
    return missing(e);
}

enum err_code plain_multiply(const struct matrix *, const struct operand *, enum into, void *, int64_t, cudaStream_t, struct err *e)
{
    return missing(e);
}

enum err_code matmul_embed(const struct matrix *, const int32_t *, int, float, float *, cudaStream_t, struct err *e)
{
    return missing(e);
}
