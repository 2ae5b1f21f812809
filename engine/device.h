/* Where a model runs: on a CPU's kernels or on a GPU, as asked for or as found. */
#ifndef RUNG_ENGINE_DEVICE_H
#define RUNG_ENGINE_DEVICE_H

#include "engine/cuda.h"

struct device {
    const struct cuda_library *library; /* NULL: a CPU */
    struct cuda_device gpu;             /* where there is a library */
    const char *kernels;                /* of a CPU; NULL: the best there are. Points into what was asked for */
    bool any;                           /* it was left open: a CPU will do where the GPU does not */
    char note[240];                     /* why it is no GPU where that was left open; else "" */
};

/* `kernels`: NULL, "" or "auto": a GPU where there is one, else a CPU; "cuda", "cuda:N": that GPU; "cpu": the CPU's best; else the
 * name of a CPU's kernel set. May load the GPU's library: blocks for some tenths of a second.
 * Errors: ERR_INVALID ("cuda:" without a number), and where a GPU was asked for those of cuda_library() and its device(). */
ERR_CHECKED enum err_code device_find(struct device *out, const char *kernels, struct err *e);
/* The GPU did not take the model. True: `d` is the CPU from now on, and its note says why. False: that was not left open. */
bool device_fall_back(struct device *d, const struct err *why);

int64_t device_page_bytes(const struct device *d, const struct model *model, bool kv_q8);
/* The backend itself; kernels and device of the options are filled in. Errors: those of cpu_open, of cuda_library's open. */
ERR_CHECKED enum err_code device_open(const struct device *d, struct backend **out, const struct model *model,
                                      struct backend_options options, struct err *e);

#endif
