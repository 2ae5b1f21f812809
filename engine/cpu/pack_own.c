/* FP8 and W4A16: their rows cannot be taken apart alone (scales of a tensor, panels of 8 rows). */
#include "engine/cpu/pack.h"
#include "engine/gguf_own.h"

#include <string.h>

static const uint8_t *fp8_row(const struct gguf_tensor *t, int64_t row)
{
    return (const uint8_t *)t->data + row * t->shape[0];
}

/* A row of W4A16 in `scratch`: values, then scales. */
static const uint16_t *w4_row(const struct gguf_tensor *t, int64_t row, void *scratch)
{
    int k = (int)t->shape[0];
    uint16_t *scales = (uint16_t *)(void *)((int8_t *)scratch + k); /* k is a multiple of 128 */
    w4a16_get_row(t->data, row, k, scratch, scales);
    return scales;
}

static void set_fp8(struct packed *w, uint8_t *panel, int lane, const struct gguf_tensor *t, int64_t from)
{
    uint16_t *halves = (uint16_t *)(void *)panel;
    float *scales = (float *)(void *)(panel + w->panel_bytes - 64);
    const uint8_t *raw = fp8_row(t, from);
    for (int i = 0; i < w->k; i++) halves[i * PANEL_ROWS + lane] = half_from_float(fp8_to_float(raw[i]));
    scales[lane] = t->scale[from];
}

static void set_w4(struct packed *w, uint8_t *panel, int lane, const struct gguf_tensor *t, int64_t from, void *scratch)
{
    const int8_t *q = scratch;
    const uint16_t *scales = w4_row(t, from, scratch);
    for (int g = 0; g < w->k / W4A16_GROUP; g++, panel += PACK_W4_BYTES) {
        ((uint16_t *)(void *)panel)[lane] = scales[g];
        for (int i = 0; i < W4A16_GROUP; i++) ((int8_t *)panel)[64 + i * PANEL_ROWS + lane] = *q++;
    }
}

void packed_set_tensor_row(struct packed *w, int row, const struct gguf_tensor *t, int64_t from, void *scratch)
{
    uint8_t *panel = w->data + (size_t)(row / PANEL_ROWS) * w->panel_bytes;
    int lane = row % PANEL_ROWS;
    if (t->type == GGUF_FP8) set_fp8(w, panel, lane, t, from);
    else if (t->type == GGUF_W4A16) set_w4(w, panel, lane, t, from, scratch);
    else packed_set_row(w, row, (const char *)t->data + (size_t)from * pack_row_bytes(t->type, w->k), scratch);
}

void pack_tensor_row(const struct gguf_tensor *t, int64_t row, float *out, void *scratch)
{
    int k = (int)t->shape[0];
    if (t->type == GGUF_FP8) {
        for (int i = 0; i < k; i++) out[i] = fp8_to_float(fp8_row(t, row)[i]) * t->scale[row];
    } else if (t->type == GGUF_W4A16) {
        const uint16_t *scales = w4_row(t, row, scratch);
        for (int i = 0; i < k; i++) out[i] = (float)((const int8_t *)scratch)[i] * half_to_float(scales[i / W4A16_GROUP]);
    } else {
        pack_dequantize(t->type, (const char *)t->data + (size_t)row * pack_row_bytes(t->type, k), k, out, scratch);
    }
}
