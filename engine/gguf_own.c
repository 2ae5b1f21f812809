#include "engine/gguf_own.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct gguf_own_type GGUF_OWN[GGUF_OWN_TYPES] = {{GGUF_FP8, "rung.weights.fp8"}, {GGUF_W4A16, "rung.weights.w4a16"}};

/* ---- what the keys name ---- */

/* Where and what is wrong with a tensor that a key names. */
struct named {
    const char *path, *key, *name;
};

static enum err_code wrong(const struct named *n, const char *what, struct err *e)
{
    char name[65]; /* short and printable */
    (void)snprintf(name, sizeof name, "%.64s", n->name);
    for (char *c = name; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
    return err_set(e, ERR_CORRUPT, "%s: %s names '%s', %s", n->path, n->key, name, what);
}

static int64_t rows_of(const struct gguf_tensor *t)
{
    return t->shape[1] * t->shape[2] * t->shape[3];
}

static enum err_code as_fp8(struct gguf *g, const struct named *n, struct gguf_tensor *t, struct err *e)
{
    char name[4200];
    (void)snprintf(name, sizeof name, "%s.scale", n->name);
    struct gguf_tensor *s = (struct gguf_tensor *)(uintptr_t)gguf_tensor_find(g, name); /* our own memory */
    if (!s) return wrong(n, "which has no tensor of scales ('.scale' behind its name)", e);
    if (s->type != GGUF_F32 || s->shape[0] * rows_of(s) != rows_of(t))
        return wrong(n, "whose scales are not one F32 for each row", e);
    if ((uintptr_t)s->data % sizeof(float)) return wrong(n, "whose scales are not aligned to 4 bytes", e);
    if (s->is_scale) return wrong(n, "whose scales are another tensor's", e);
    t->type = GGUF_FP8;
    t->scale = s->data;
    s->is_scale = true;
    return ERR_OK;
}

static enum err_code as_w4a16(const struct named *n, struct gguf_tensor *t, struct err *e)
{
    const struct gguf_type_info *info = gguf_type_info(GGUF_W4A16);
    if (t->shape[0] % info->block_bytes || t->shape[1] % W4A16_PANEL_ROWS)
        return wrong(n, "whose shape is not (66 × groups of 128, rows in eights)", e);
    t->type = GGUF_W4A16;
    t->shape[0] = t->shape[0] / info->block_bytes * info->block_elements;
    return ERR_OK;
}

static enum err_code retype(struct gguf *g, const struct named *n, enum gguf_type type, struct err *e)
{
    struct gguf_tensor *t = (struct gguf_tensor *)(uintptr_t)gguf_tensor_find(g, n->name); /* our own memory */
    if (!t) return wrong(n, "which is not there", e);
    if (t->type != GGUF_I8 || t->dims < 2) return wrong(n, "which is no I8 matrix or is named twice", e);
    return type == GGUF_FP8 ? as_fp8(g, n, t, e) : as_w4a16(n, t, e);
}

static enum err_code retype_all(struct gguf *g, const char *path, const struct gguf_own_type *own, struct err *e)
{
    int64_t count = gguf_array_strings(g, own->key, NULL, 0);
    if (count < 1) return ERR_OK;
    if (count > gguf_tensor_count(g))
        return err_set(e, ERR_CORRUPT, "%s: %s names %lld tensors; the file has %d", path, own->key, (long long)count,
                       gguf_tensor_count(g));
    struct gguf_string *names = calloc((size_t)count, sizeof *names);
    if (!names) return err_set(e, ERR_MEMORY, "%s: no memory for %lld names", path, (long long)count);
    enum err_code code = gguf_array_strings(g, own->key, names, count) == count ? ERR_OK : err_set(e, ERR_CORRUPT, "%s: %s cannot be read", path, own->key);
    for (int64_t i = 0; i < count && !code; i++) {
        char name[4097];
        struct named n = {path, own->key, name};
        (void)snprintf(name, sizeof name, "%.*s", (int)(names[i].len < 4096 ? names[i].len : 4096), names[i].data);
        code = retype(g, &n, own->type, e);
    }
    free(names);
    return code;
}

enum err_code gguf_own_find(struct gguf *g, const char *path, struct err *e)
{
    int64_t version = gguf_int(g, GGUF_OWN_VERSION_KEY, GGUF_OWN_VERSION);
    if (version != GGUF_OWN_VERSION)
        return err_set(e, ERR_UNSUPPORTED, "%s: its FP8 or W4A16 weights are of version %lld; version %d is read", path,
                       (long long)version, GGUF_OWN_VERSION);
    enum err_code code = ERR_OK;
    for (int i = 0; i < GGUF_OWN_TYPES && !code; i++) code = retype_all(g, path, &GGUF_OWN[i], e);
    return code;
}

/* ---- E4M3 ---- */

float fp8_to_float(uint8_t v)
{
    int exponent = v >> 3 & 15, mantissa = v & 7;
    float size = exponent == 15 && mantissa == 7 ? NAN : exponent ? ldexpf((float)(8 + mantissa), exponent - 10) : (float)mantissa * 0x1p-9f;
    return v & 0x80 ? -size : size;
}

uint8_t fp8_from_float(float x)
{
    uint8_t sign = signbit(x) ? 0x80 : 0;
    float size = fabsf(x);
    if (isnan(x)) return sign | 0x7f;
    if (size == 0) return sign;
    if (size >= FP8_LARGEST) return sign | 0x7e;
    int exponent;
    (void)frexpf(size, &exponent); /* size in [2^(exponent - 1), 2^exponent) */
    if (exponent < -5) exponent = -5; /* subnormal: steps of 2^-9 */
    int steps = (int)lrintf(ldexpf(size, 4 - exponent)); /* in units of the last bit: 8 … 16, less where subnormal */
    return (uint8_t)(sign | ((exponent + 5) * 8 + steps)); /* a carry moves on to the next exponent by itself */
}

/* ---- W4A16 ---- */

static const uint8_t NIBBLE_AT[8] = {0, 4, 1, 5, 2, 6, 3, 7};

/* The granule of a row's group, and in it the word of 8 neighbouring columns. */
static size_t granule_at(int64_t row, int k, int group)
{
    return ((size_t)(row / W4A16_PANEL_ROWS) * (size_t)(k / W4A16_GROUP) + (size_t)group) * W4A16_GRANULE;
}

static size_t word_at(int64_t row, int column) /* column: of the group, a multiple of 8 */
{
    int lane = (int)(row % W4A16_PANEL_ROWS) * 4 + column % 32 / 8;
    return (size_t)(lane * 16 + column / 32 * 4);
}

static size_t scale_at(int64_t row)
{
    return 512 + (size_t)(row % W4A16_PANEL_ROWS) * 2;
}

void w4a16_get_row(const void *data, int64_t row, int k, int8_t *q, uint16_t *scales)
{
    for (int group = 0; group < k / W4A16_GROUP; group++) {
        const uint8_t *granule = (const uint8_t *)data + granule_at(row, k, group);
        memcpy(&scales[group], granule + scale_at(row), 2);
        for (int column = 0; column < W4A16_GROUP; column += 8) {
            uint32_t word;
            memcpy(&word, granule + word_at(row, column), 4);
            for (int i = 0; i < 8; i++) *q++ = (int8_t)((int)(word >> 4 * NIBBLE_AT[i] & 15) - 8);
        }
    }
}

void w4a16_put_row(void *data, int64_t row, int k, const int8_t *q, const uint16_t *scales)
{
    for (int group = 0; group < k / W4A16_GROUP; group++) {
        uint8_t *granule = (uint8_t *)data + granule_at(row, k, group);
        memcpy(granule + scale_at(row), &scales[group], 2);
        for (int column = 0; column < W4A16_GROUP; column += 8) {
            uint32_t word = 0;
            for (int i = 0; i < 8; i++) word |= (uint32_t)((*q++ + 8) & 15) << 4 * NIBBLE_AT[i];
            memcpy(granule + word_at(row, column), &word, 4);
        }
    }
}
