/* Where the program meets its GPU: the CUDA backend lies in a library of its own (librung_cuda.so), which is loaded when a
 * GPU and a driver are there, so that one package serves machines with and without. Any thread. */
#ifndef RUNG_ENGINE_CUDA_H
#define RUNG_ENGINE_CUDA_H

#include "engine/backend.h"

/* Raised with every change of struct backend, backend_options, batch, batch_out, cuda_library or struct model. */
enum { CUDA_ABI = 8 };

struct cuda_device {
    char name[96], uuid[48]; /* uuid: "GPU-…" as NVML knows it */
    int index, major, minor, multiprocessors;
    int64_t memory_total, memory_free; /* bytes */
    int driver;                        /* the CUDA version the driver supports, 13000 = 13.0 */
};

/* What the library exports, found by the name "rung_cuda". */
struct cuda_library {
    int abi;
    int runtime;        /* the CUDA version it was built with (CUDART_VERSION): the driver must be of that major version */
    const char *driver; /* the driver's library, which must load first: "libcuda.so.1" */
    /* Errors: ERR_UNAVAILABLE (no such GPU, or one too old: says what is there and what is wanted). */
    enum err_code (*device)(int index, struct cuda_device *out, struct err *e);
    /* Copies the weights. Blocks. Errors: ERR_MEMORY (says what is needed, what is free and what would fit),
     * ERR_UNSUPPORTED, ERR_INVALID. */
    enum err_code (*open)(struct backend **out, const struct model *model, const struct backend_options *options, struct err *e);
    int64_t (*page_bytes)(const struct model *model, bool kv_8bit);
    /* What reading its memory front to back gives, bytes a second, the best of several rounds. Blocks for some tenths of
     * a second and needs some GB of free memory. */
    enum err_code (*read_bandwidth)(int index, double *out, struct err *e);
};

/* Loads the library once and keeps it; NULL with the reason in `e`, the same each time: no library beside the program, one of
 * another version, no driver, a driver too old. Looked for: $RUNG_CUDA_LIBRARY and nowhere else where that is set; beside
 * the program; in ../lib/rung from there; on the system's library path. */
const struct cuda_library *cuda_library(struct err *e);

#endif
