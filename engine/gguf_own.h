/* FP8 and W4A16, which GGUF has no types for: raw I8 tensors that keys of ours name (docs/models.md has the layout).
 * Pure functions, any thread. */
#ifndef RUNG_ENGINE_GGUF_OWN_H
#define RUNG_ENGINE_GGUF_OWN_H

#include "engine/gguf.h"

/* The keys: the layout's version, and the names of the tensors of each type. */
#define GGUF_OWN_VERSION_KEY "rung.weights.version"
enum { GGUF_OWN_VERSION = 1, GGUF_OWN_TYPES = 2 };
struct gguf_own_type {
    enum gguf_type type;
    const char *key;
};
extern const struct gguf_own_type GGUF_OWN[GGUF_OWN_TYPES];

/* Give the tensors that the keys name their type, logical shape and scales. Called by gguf_open once.
 * Errors: ERR_UNSUPPORTED (another version), ERR_CORRUPT (a name, size or scale that does not fit), ERR_MEMORY. */
ERR_CHECKED enum err_code gguf_own_find(struct gguf *gguf, const char *path, struct err *e);

/* E4M3: sign, 4 bits of exponent (bias 7), 3 of mantissa; largest 448, no infinity, 0x7f is NaN (OCP FP8, arXiv 2209.05433).
 * Rounds to nearest even; what is larger becomes 448. */
enum { FP8_LARGEST = 448 };
uint8_t fp8_from_float(float x);
float fp8_to_float(uint8_t v);

/* W4A16: panels of 8 rows; a panel is a granule for each 128 columns: 32 lanes × 16 bytes of nibbles, then 8 F16 scales. */
enum { W4A16_GROUP = 128, W4A16_PANEL_ROWS = 8, W4A16_GRANULE = 528 };
/* A row's values (-8 … 7) and the bits of its F16 scales. */
void w4a16_get_row(const void *data, int64_t row, int k, int8_t *q, uint16_t *scales);
void w4a16_put_row(void *data, int64_t row, int k, const int8_t *q, const uint16_t *scales);

#endif
