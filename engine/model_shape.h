/* Models of a known shape with random weights, in memory: for benchmarks where there is no file. */
#ifndef RUNG_ENGINE_MODEL_SHAPE_H
#define RUNG_ENGINE_MODEL_SHAPE_H

#include "engine/gguf.h"

struct shaped {
    struct gguf *gguf;
    void *memory;
    size_t bytes;
};

/* `shape`: "llama3.2-1b", "qwen2.5-0.5b" … (shape_name); `type`: "Q8_0", "Q4_0", "Q4_K_M", "F16", "FP8", "W4A16" …
 * `on_gpu`: matrices have no data (NULL; the model says `random`) for the GPU to make: the host needs next to no memory.
 * Errors: ERR_NOT_FOUND (lists what there is), ERR_MEMORY (more than the host has). */
ERR_CHECKED enum err_code shaped_open(struct shaped *out, const char *shape, const char *type, bool on_gpu, struct err *e);
/* The gguf is closed by whoever took it over. */
void shaped_release(struct shaped *s);
/* NULL after the last. */
const char *shape_name(int index);

#endif
