#include "engine/cpu/pack.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

const int8_t PACK_IQ4_NL[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static const struct pack_format FORMATS[] = {
    /*               bits sub zero super  min   low high element */
    [GGUF_F32]    = {0, 0, -1, false, false, 0, 0, 4},
    [GGUF_F16]    = {0, 0, -1, false, false, 0, 0, 2},
    [GGUF_BF16]   = {0, 0, -1, false, false, 0, 0, 2},
    [GGUF_Q8_0]   = {8, 32, 7, false, false, 512, 0, 0},
    [GGUF_Q4_0]   = {4, 32, 3, false, false, 256, 0, 0},
    [GGUF_Q4_1]   = {4, 32, -1, false, true, 256, 0, 0},
    [GGUF_Q5_0]   = {5, 32, 4, false, false, 256, 64, 0},
    [GGUF_Q5_1]   = {5, 32, -1, false, true, 256, 64, 0},
    [GGUF_IQ4_NL] = {4, 32, 7, false, false, 256, 0, 0},
    [GGUF_Q2_K]   = {2, 16, -1, true, true, 128, 0, 0},
    [GGUF_Q3_K]   = {3, 16, 2, true, false, 128, 64, 0},
    [GGUF_Q4_K]   = {4, 32, -1, true, true, 256, 0, 0},
    [GGUF_Q5_K]   = {5, 32, -1, true, true, 256, 64, 0},
    [GGUF_Q6_K]   = {6, 16, 5, true, false, 256, 128, 0},
};

const struct pack_format *pack_format(enum gguf_type type)
{
    static const struct pack_format FP8 = {0, 0, -1, false, false, 0, 0, 2}, W4A16 = {0, 0, -1, false, false, 0, 0, 1};
    if (type == GGUF_FP8) return &FP8;
    if (type == GGUF_W4A16) return &W4A16;
    if ((size_t)type >= sizeof FORMATS / sizeof FORMATS[0]) return NULL;
    const struct pack_format *f = &FORMATS[type];
    return f->bits || f->element ? f : NULL;
}

float half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023, bits;
    if (exponent == 31) {
        bits = sign | 0x7f800000u | mantissa << 13;
    } else if (exponent) {
        bits = sign | (exponent + 112) << 23 | mantissa << 13;
    } else { /* subnormal: mantissa × 2^-24, exact in a float */
        float f = (float)mantissa * 0x1p-24f;
        memcpy(&bits, &f, 4);
        bits |= sign;
    }
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

/* Round to nearest even, as the hardware does. */
uint16_t half_from_float(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, 4);
    uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
    if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) { /* subnormal or zero: let the FPU round at 2^-24 */
        float a;
        memcpy(&a, &magnitude, 4);
        a += 0.5f; /* ulp of 0.5 is 2^-24 */
        uint32_t r;
        memcpy(&r, &a, 4);
        return (uint16_t)(sign | (r - 0x3f000000));
    }
    uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return (uint16_t)(sign | ((rounded - 0x38000000) >> 13));
}

float bf16_to_float(uint16_t h)
{
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static size_t align64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

enum err_code packed_shape(struct packed *w, enum gguf_type type, int rows, int k, struct err *e)
{
    const struct pack_format *f = pack_format(type);
    if (!f) return err_set(e, ERR_UNSUPPORTED, "no kernel for tensors of type %d", (int)type);
    *w = (struct packed){.type = type, .rows = rows, .k = k, .panels = (rows + PANEL_ROWS - 1) / PANEL_ROWS};
    size_t chunk = (size_t)pack_chunk_blocks(type), blocks = (size_t)k / PACK_BLOCK, bytes;
    if (type == GGUF_W4A16) bytes = (size_t)(k / 128) * PACK_W4_BYTES;
    else if (f->element) bytes = align64((size_t)k * PANEL_ROWS * (size_t)f->element) + (type == GGUF_FP8 ? 64 : 0);
    else bytes = (blocks + chunk - 1) / chunk * (size_t)pack_chunk_bytes(type);
    w->panel_bytes = bytes;
    return ERR_OK;
}

enum err_code packed_init(struct packed *w, enum gguf_type type, int rows, int k, struct err *e)
{
    enum err_code code = packed_shape(w, type, rows, k, e);
    if (code) return code;
    size_t total = packed_bytes(w);
    void *memory = mmap(NULL, total ? total : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return err_set(e, ERR_MEMORY, "no memory for %zu bytes of weights", total);
    w->data = memory;
    w->owned = true;
    return ERR_OK;
}

void packed_release(struct packed *w)
{
    size_t total = packed_bytes(w);
    if (w->owned) (void)munmap(w->data, total ? total : 1);
    *w = (struct packed){0};
}

/* ---- one raw row taken apart ---- */

struct codes {
    uint8_t *q;      /* (k) quants, unsigned: minus the zero point gives the value */
    uint16_t *d, *m; /* f16 bits: (k/32) or, for k-quants, (k/256) */
    int8_t *sc;      /* (k/sub) */
    uint8_t *mn;     /* (k/sub) */
};

size_t packed_scratch(int k)
{
    return (size_t)k * 2 + 256;
}

size_t pack_row_bytes(enum gguf_type type, int k)
{
    const struct gguf_type_info *info = gguf_type_info((uint32_t)type);
    return (size_t)(k / info->block_elements) * (size_t)info->block_bytes;
}

static struct codes codes_in(void *scratch, int k)
{
    uint8_t *s = scratch;
    size_t n = (size_t)k;
    return (struct codes){.q = s,
                          .d = (uint16_t *)(void *)(s + n),
                          .m = (uint16_t *)(void *)(s + n + n / 8),
                          .sc = (int8_t *)(s + n + n / 4),
                          .mn = s + n + n / 4 + n / 8};
}

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static void nibbles(const uint8_t *p, uint8_t *q) /* 16 bytes → 32 quants: low halves first */
{
    for (int i = 0; i < 16; i++) {
        q[i] = p[i] & 15;
        q[i + 16] = p[i] >> 4;
    }
}

static void take_legacy(enum gguf_type type, const uint8_t *p, int k, struct codes *c)
{
    for (int b = 0; b < k / 32; b++) {
        uint8_t *q = c->q + b * 32;
        uint32_t high = 0;
        c->d[b] = get16(p);
        p += 2;
        if (type == GGUF_Q4_1 || type == GGUF_Q5_1) {
            c->m[b] = get16(p);
            p += 2;
        }
        if (type == GGUF_Q5_0 || type == GGUF_Q5_1) {
            high = (uint32_t)get16(p) | (uint32_t)get16(p + 2) << 16;
            p += 4;
        }
        if (type == GGUF_Q8_0) {
            for (int i = 0; i < 32; i++) q[i] = (uint8_t)(p[i] ^ 0x80);
            p += 32;
            continue;
        }
        nibbles(p, q);
        p += 16;
        if (high)
            for (int i = 0; i < 32; i++) q[i] = (uint8_t)(q[i] | (high >> i & 1) << 4);
    }
}

/* 12 bytes hold eight 6-bit scales and eight 6-bit mins (block_q4_K in ggml-common.h). */
static void take_k4_scales(const uint8_t *p, int8_t *sc, uint8_t *mn)
{
    for (int j = 0; j < 4; j++) {
        sc[j] = (int8_t)(p[j] & 63);
        mn[j] = p[j + 4] & 63;
        sc[j + 4] = (int8_t)((p[j + 8] & 15) | (p[j] >> 6) << 4);
        mn[j + 4] = (uint8_t)(p[j + 8] >> 4 | (p[j + 4] >> 6) << 4);
    }
}

static void take_q45_k(bool five, const uint8_t *p, int k, struct codes *c)
{
    uint8_t *q = c->q;
    for (int b = 0; b < k / 256; b++, p += five ? 176u : 144u) {
        c->d[b] = get16(p);
        c->m[b] = get16(p + 2);
        take_k4_scales(p + 4, c->sc + b * 8, c->mn + b * 8);
        const uint8_t *high = p + 16, *low = p + (five ? 48 : 16);
        for (int pair = 0; pair < 4; pair++, q += 64, low += 32)
            for (int i = 0; i < 32; i++) { /* low halves are one sub-block, high halves the next */
                unsigned h = five ? (unsigned)high[i] >> (pair * 2) : 0u;
                q[i] = (uint8_t)((low[i] & 15) | (h & 1) << 4);
                q[i + 32] = (uint8_t)(low[i] >> 4 | (h & 2) << 3);
            }
    }
}

static void take_q6_k(const uint8_t *p, int k, struct codes *c)
{
    uint8_t *q = c->q;
    for (int b = 0; b < k / 256; b++, p += 210) {
        const uint8_t *low = p, *high = p + 128;
        for (int half = 0; half < 2; half++, q += 128, low += 64, high += 32)
            for (int i = 0; i < 32; i++) {
                unsigned h = high[i];
                q[i] = (uint8_t)((low[i] & 15) | (h & 3) << 4);
                q[i + 32] = (uint8_t)((low[i + 32] & 15) | (h >> 2 & 3) << 4);
                q[i + 64] = (uint8_t)(low[i] >> 4 | (h >> 4 & 3) << 4);
                q[i + 96] = (uint8_t)(low[i + 32] >> 4 | (h >> 6) << 4);
            }
        memcpy(c->sc + b * 16, p + 192, 16);
        c->d[b] = get16(p + 208);
    }
}

static void take_q2_k(const uint8_t *p, int k, struct codes *c)
{
    for (int b = 0; b < k / 256; b++, p += 84) {
        for (int j = 0; j < 16; j++) {
            c->sc[b * 16 + j] = (int8_t)(p[j] & 15);
            c->mn[b * 16 + j] = p[j] >> 4;
        }
        const uint8_t *low = p + 16;
        for (int j = 0; j < 256; j++)
            c->q[b * 256 + j] = (uint8_t)(low[j / 128 * 32 + j % 32] >> (j / 32 & 3) * 2 & 3);
        c->d[b] = get16(p + 80);
        c->m[b] = get16(p + 82);
    }
}

static void take_q3_k(const uint8_t *p, int k, struct codes *c)
{
    for (int b = 0; b < k / 256; b++, p += 110) {
        const uint8_t *high = p, *low = p + 32, *s = p + 96;
        for (int j = 0; j < 256; j++) {
            int l = low[j / 128 * 32 + j % 32] >> (j / 32 & 3) * 2 & 3;
            int h = high[j % 32] >> (j / 32) & 1;
            c->q[b * 256 + j] = (uint8_t)(l | h << 2);
        }
        for (int j = 0; j < 16; j++) { /* 6 bits: 4 in the first 8 bytes' nibbles, 2 in the last 4 bytes */
            int l = s[j % 8] >> (j / 8) * 4 & 15, h = s[8 + j % 4] >> (j / 4) * 2 & 3;
            c->sc[b * 16 + j] = (int8_t)((l | h << 4) - 32);
        }
        c->d[b] = get16(p + 108);
    }
}

static void take(enum gguf_type type, const void *raw, int k, struct codes *c)
{
    switch (type) {
    case GGUF_Q2_K: take_q2_k(raw, k, c); return;
    case GGUF_Q3_K: take_q3_k(raw, k, c); return;
    case GGUF_Q4_K: take_q45_k(false, raw, k, c); return;
    case GGUF_Q5_K: take_q45_k(true, raw, k, c); return;
    case GGUF_Q6_K: take_q6_k(raw, k, c); return;
    default: take_legacy(type, raw, k, c); return;
    }
}

/* ---- and put into a panel ---- */

/* Quants go four columns at a time, as they stand together in a group. */
static uint32_t get32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

static void put_block(const struct pack_format *f, const uint8_t *q, uint32_t *low, uint32_t *high) /* both step by a row */
{
    uint32_t l[8] = {0}, h[2] = {0}, v;
    for (int g = 0; g < 8; g++) {
        v = get32(q + g * 4);
        if (f->bits == 8) l[g] = v;
        else if (f->bits >= 4) l[g % 4] |= (v & 0x0f0f0f0f) << (g / 4 * 4);
        else l[g / 4] |= (v & 0x03030303) << (g % 4 * 2);
        if (f->bits == 5) h[0] |= (v >> 4 & 0x01010101) << g;
        if (f->bits == 3) h[0] |= (v >> 2 & 0x01010101) << g;
        if (f->bits == 6) h[g / 4] |= (v >> 4 & 0x03030303) << (g % 4 * 2);
    }
    for (int i = 0; i < f->low / 64; i++) low[i * PANEL_ROWS] = l[i];
    for (int i = 0; i < f->high / 64; i++) high[i * PANEL_ROWS] = h[i];
}

/* The chunk that holds a block of 32 columns; `block` becomes its number inside. */
static uint8_t *chunk_of(enum gguf_type type, uint8_t *panel, int *block)
{
    int blocks = pack_chunk_blocks(type), chunk = *block / blocks;
    *block %= blocks;
    return panel + (size_t)chunk * (size_t)pack_chunk_bytes(type);
}

static void put_quants(const struct pack_format *f, const struct packed *w, uint8_t *panel, int lane, const uint8_t *q)
{
    for (int b = 0; b < w->k / 32; b++) {
        int i = b;
        uint8_t *chunk = chunk_of(w->type, panel, &i);
        uint32_t *high = (uint32_t *)(void *)(chunk + pack_at_block(w->type, i)) + lane;
        put_block(f, q + b * 32, high + f->high / 4, high);
    }
}

static void put_plain(const struct packed *w, uint8_t *panel, int lane, const void *raw, int element)
{
    if (element == 4) {
        float *out = (float *)(void *)panel;
        for (int i = 0; i < w->k; i++) memcpy(&out[i * PANEL_ROWS + lane], (const uint8_t *)raw + i * 4, 4);
    } else {
        uint16_t *out = (uint16_t *)(void *)panel;
        for (int i = 0; i < w->k; i++) memcpy(&out[i * PANEL_ROWS + lane], (const uint8_t *)raw + i * 2, 2);
    }
}

/* Halves, `each` to a chunk. */
static void put16(enum gguf_type type, uint8_t *panel, int at, int each, int lane, const uint16_t *values, int count)
{
    for (int i = 0; i < count; i++) {
        uint8_t *chunk = panel + (size_t)(i / each) * (size_t)pack_chunk_bytes(type);
        ((uint16_t *)(void *)(chunk + at))[i % each * PANEL_ROWS + lane] = values[i];
    }
}

static void put_scales_k(const struct pack_format *f, const struct packed *w, uint8_t *panel, int lane, const struct codes *c)
{
    const int each = PACK_SUPER / f->sub;
    for (int i = 0; i < w->k / f->sub; i++) {
        uint8_t *chunk = panel + (size_t)(i / each) * (size_t)pack_chunk_bytes(w->type);
        int at = i % each * PANEL_ROWS + lane;
        chunk[at] = (uint8_t)c->sc[i];
        if (f->has_min) chunk[pack_at_min(w->type) + at] = c->mn[i];
    }
}

static void fill_row(const struct packed *w, uint8_t *panel, int lane, const void *raw, void *scratch)
{
    const struct pack_format *f = pack_format(w->type);
    if (f->element) {
        put_plain(w, panel, lane, raw, f->element);
        return;
    }
    struct codes c = codes_in(scratch, w->k);
    take(w->type, raw, w->k, &c);
    put_quants(f, w, panel, lane, c.q);
    const enum gguf_type t = w->type;
    const int each = f->super ? 1 : pack_chunk_blocks(t), count = w->k / (f->super ? PACK_SUPER : 32);
    put16(t, panel, f->super ? pack_at_super(t) : 0, each, lane, c.d, count);
    if (f->has_min) put16(t, panel, f->super ? pack_at_super_min(t) : pack_at_min(t), each, lane, c.m, count);
    if (f->super) put_scales_k(f, w, panel, lane, &c);
}

void packed_set_row(struct packed *w, int row, const void *raw, void *scratch)
{
    assert(row >= 0 && row < w->rows);
    fill_row(w, w->data + (size_t)(row / PANEL_ROWS) * w->panel_bytes, row % PANEL_ROWS, raw, scratch);
}

void packed_fill_panel(const struct packed *w, int panel, uint8_t *to, const void *const rows[PANEL_ROWS], void *scratch)
{
    int first = panel * PANEL_ROWS, count = w->rows - first < PANEL_ROWS ? w->rows - first : PANEL_ROWS;
    const uint8_t *bytes[PANEL_ROWS];
    if (pack_quick(w->type) && count == PANEL_ROWS) {
        for (int i = 0; i < count; i++) bytes[i] = rows[i];
        pack_words(w->type, w->k, to, bytes);
        return;
    }
    for (int i = 0; i < count; i++) fill_row(w, to, i, rows[i], scratch);
}

void packed_set_panel(struct packed *w, int panel, const void *const rows[PANEL_ROWS], void *scratch)
{
    packed_fill_panel(w, panel, w->data + (size_t)panel * w->panel_bytes, rows, scratch);
}

static void dequantize_plain(enum gguf_type type, const uint8_t *raw, int k, float *out)
{
    for (int i = 0; i < k; i++) {
        if (type == GGUF_F32) memcpy(&out[i], raw + i * 4, 4);
        else out[i] = type == GGUF_F16 ? half_to_float(get16(raw + i * 2)) : bf16_to_float(get16(raw + i * 2));
    }
}

void pack_dequantize(enum gguf_type type, const void *raw, int k, float *out, void *scratch)
{
    const struct pack_format *f = pack_format(type);
    if (f->element) {
        dequantize_plain(type, raw, k, out);
        return;
    }
    struct codes c = codes_in(scratch, k);
    take(type, raw, k, &c);
    int zero = f->zero_log2 < 0 ? 0 : 1 << f->zero_log2;
    for (int i = 0; i < k; i++) {
        float d = half_to_float(c.d[f->super ? i / PACK_SUPER : i / 32]), m = 0;
        if (f->super) d *= (float)c.sc[i / f->sub];
        if (f->has_min) {
            m = half_to_float(c.m[f->super ? i / PACK_SUPER : i / 32]);
            if (f->super) m *= -(float)c.mn[i / f->sub];
        }
        int v = type == GGUF_IQ4_NL ? PACK_IQ4_NL[c.q[i]] : c.q[i] - zero;
        out[i] = d * (float)v + m;
    }
}
