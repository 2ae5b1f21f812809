/* For tests and benches: a CUDA call that must succeed. */
#ifndef RUNG_TESTS_CUDA_MUST_CUH
#define RUNG_TESTS_CUDA_MUST_CUH

#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>

#define MUST(call)                                                                                                             \
    do {                                                                                                                       \
        cudaError_t must_ = (call);                                                                                            \
        if (must_ != cudaSuccess) {                                                                                            \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(must_));                          \
            exit(1);                                                                                                           \
        }                                                                                                                      \
    } while (0)

#endif
