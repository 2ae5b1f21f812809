#include "engine/cuda/cuda.cuh"

extern "C" {
#include "base/err.h"
}

enum err_code cuda_check(cudaError_t status, const char *what, struct err *e)
{
    if (status == cudaSuccess) return ERR_OK;
    (void)cudaGetLastError(); /* a failure that can be got over is not told again by the next call */
    enum err_code code = status == cudaErrorMemoryAllocation ? ERR_MEMORY : ERR_INTERNAL;
    return err_set(e, code, "%s: %s (%s)", what, cudaGetErrorString(status), cudaGetErrorName(status));
}
