/* Weights into smaller types, and whole files of them. */
#ifndef RUNG_ENGINE_MODEL_QUANTIZE_H
#define RUNG_ENGINE_MODEL_QUANTIZE_H

#include "engine/gguf.h"

#include <stdbool.h>

/* k floats (a multiple of the type's block) into one raw row. Scales are fitted to the least squared error, large values
 * weighing more. */
void quantize_row(enum gguf_type type, const float *x, int k, void *raw);
/* FP8: the row's E4M3 bytes; returns its scale (largest / 448). */
float quantize_row_fp8(const float *x, int k, uint8_t *raw);
/* W4A16: values and F16 scales of a row of whole 128s, as w4a16_put_row takes them. */
void quantize_row_w4a16(const float *x, int k, int8_t *q, uint16_t *scales);

/* A type as users name it: "Q8_0", "F16", or a mix, "Q4_K_M": values, down projections of some layers and the output get
 * a finer type. */
struct quantize_mix {
    enum gguf_type type;
    bool mixed;
    int file_type; /* general.file_type; -1: there is no number for it */
};
/* False when there is no such name. quantize_mix_name gives the names, NULL after the last. */
bool quantize_mix_find(const char *name, struct quantize_mix *out);
const char *quantize_mix_name(int index);
/* The type a tensor gets; its own where it is not quantized (norms, biases, routers, a row that fits no block). */
enum gguf_type quantize_type_for(const struct quantize_mix *mix, const struct gguf_tensor *t, int layers, bool tied);

/* What to report while it goes on; may be NULL. */
typedef void quantize_progress(void *ctx, const struct gguf_tensor *t, enum gguf_type to, int index, int count);
/* Read `in`, write `out`. Errors: those of gguf_open and the writer. */
ERR_CHECKED enum err_code quantize_file(const char *in, const char *out, const struct quantize_mix *mix, quantize_progress *progress,
                                        void *ctx, struct err *e);

#endif
