/* Floats into blocks. The layouts are those of ggml-common.h; how scales are found is ours: a few candidates near the
 * obvious scale, each refitted by least squares, the best kept. */
#include "engine/cpu/pack.h"
#include "engine/gguf_own.h"
#include "engine/model_quantize.h"

#include <math.h>
#include <string.h>

enum { CANDIDATES = 9 };

static int clamp(int v, int low, int high)
{
    return v < low ? low : v > high ? high : v;
}

static float weight_of(float x)
{
    return x * x + 1e-12f;
}

/* x ≈ d q with q in [low, high]. Returns d; 0 for all zeros. */
static float fit_scale(const float *x, int n, int low, int high)
{
    float most = 0;
    for (int i = 0; i < n; i++)
        if (fabsf(x[i]) > fabsf(most)) most = x[i];
    if (most == 0) return 0;
    float best = most / (float)low, best_gain = -1;
    for (int c = -CANDIDATES; c <= CANDIDATES; c++) {
        float inverse = ((float)low + 0.1f * (float)c) / most, xq = 0, qq = 0; /* the largest value near the longer end */
        for (int i = 0; i < n; i++) {
            float q = (float)clamp((int)lrintf(x[i] * inverse), low, high), w = weight_of(x[i]);
            xq += w * x[i] * q;
            qq += w * q * q;
        }
        if (qq > 0 && xq * xq / qq > best_gain) { /* squared error is Σwx² - xq²/qq */
            best_gain = xq * xq / qq;
            best = xq / qq;
        }
    }
    return best;
}

/* x ≈ d q + m with q in [0, high]; `negative`: m must not be above 0. */
static void fit_scale_min(const float *x, int n, int high, bool negative, float *d, float *m)
{
    float low = x[0], top = x[0], best = INFINITY;
    for (int i = 1; i < n; i++) {
        low = fminf(low, x[i]);
        top = fmaxf(top, x[i]);
    }
    if (negative) low = fminf(low, 0);
    *d = 0;
    *m = low;
    if (!(top > low)) return;
    for (int c = -4; c <= CANDIDATES; c++) {
        float inverse = ((float)high + 0.1f * (float)c) / (top - low), sw = 0, sq = 0, sqq = 0, sx = 0, sxq = 0;
        for (int i = 0; i < n; i++) {
            float q = (float)clamp((int)lrintf((x[i] - low) * inverse), 0, high), w = weight_of(x[i]);
            sw += w;
            sq += w * q;
            sqq += w * q * q;
            sx += w * x[i];
            sxq += w * x[i] * q;
        }
        float determinant = sw * sqq - sq * sq;
        if (!(determinant > 0)) continue;
        float scale = (sw * sxq - sq * sx) / determinant, offset = (sx - scale * sq) / sw, error = 0;
        if (negative && offset > 0) {
            offset = 0;
            scale = sxq / sqq;
        }
        if (!(scale > 0)) continue;
        for (int i = 0; i < n; i++) {
            float q = (float)clamp((int)lrintf((x[i] - offset) / scale), 0, high);
            error += weight_of(x[i]) * (scale * q + offset - x[i]) * (scale * q + offset - x[i]);
        }
        if (error < best) {
            best = error;
            *d = scale;
            *m = offset;
        }
    }
    if (isinf(best)) *d = (top - low) / (float)high;
}

static float put_half(uint8_t *at, float v)
{
    uint16_t h = half_from_float(v);
    memcpy(at, &h, 2);
    return half_to_float(h);
}

static int rounded(float x, float d, float m, int low, int high)
{
    return d != 0 ? clamp((int)lrintf((x - m) / d), low, high) : clamp(0, low, high);
}

static void put_nibbles(uint8_t *out, const int *q) /* 32 quants into 16 bytes */
{
    for (int i = 0; i < 16; i++) out[i] = (uint8_t)((q[i] & 15) | (q[i + 16] & 15) << 4);
}

/* ---- blocks of 32 ---- */

static void block_q8_0(const float *x, uint8_t *out)
{
    float most = 0;
    for (int i = 0; i < 32; i++) most = fmaxf(most, fabsf(x[i]));
    float d = put_half(out, most / 127);
    for (int i = 0; i < 32; i++) out[2 + i] = (uint8_t)(int8_t)rounded(x[i], d, 0, -127, 127);
}

static void block_symmetric(const float *x, int bits, uint8_t *out) /* Q4_0, Q5_0 */
{
    int half = 1 << (bits - 1), q[32];
    uint32_t high = 0;
    float d = put_half(out, fit_scale(x, 32, -half, half - 1));
    for (int i = 0; i < 32; i++) {
        q[i] = rounded(x[i], d, 0, -half, half - 1) + half;
        high |= (uint32_t)(q[i] >> 4) << i;
    }
    if (bits == 5) memcpy(out + 2, &high, 4);
    put_nibbles(out + (bits == 5 ? 6 : 2), q);
}

static void block_with_min(const float *x, int bits, uint8_t *out) /* Q4_1, Q5_1 */
{
    int q[32], top = (1 << bits) - 1;
    uint32_t high = 0;
    float d, m;
    fit_scale_min(x, 32, top, false, &d, &m);
    d = put_half(out, d);
    m = put_half(out + 2, m);
    for (int i = 0; i < 32; i++) {
        q[i] = rounded(x[i], d, m, 0, top);
        high |= (uint32_t)(q[i] >> 4) << i;
    }
    if (bits == 5) memcpy(out + 4, &high, 4);
    put_nibbles(out + (bits == 5 ? 8 : 4), q);
}

static int nearest_iq4(float v)
{
    int best = 0;
    for (int i = 1; i < 16; i++)
        if (fabsf(v - (float)PACK_IQ4_NL[i]) < fabsf(v - (float)PACK_IQ4_NL[best])) best = i;
    return best;
}

static void block_iq4_nl(const float *x, uint8_t *out)
{
    float most = 0, best = 0, best_gain = -1;
    int q[32];
    for (int i = 0; i < 32; i++)
        if (fabsf(x[i]) > fabsf(most)) most = x[i];
    for (int c = -CANDIDATES; c <= CANDIDATES && most != 0; c++) {
        float inverse = (-127.0f + 2 * (float)c) / most, xq = 0, qq = 0;
        for (int i = 0; i < 32; i++) {
            float v = (float)PACK_IQ4_NL[nearest_iq4(x[i] * inverse)], w = weight_of(x[i]);
            xq += w * x[i] * v;
            qq += w * v * v;
        }
        if (qq > 0 && xq * xq / qq > best_gain) {
            best_gain = xq * xq / qq;
            best = xq / qq;
        }
    }
    float d = put_half(out, best);
    for (int i = 0; i < 32; i++) q[i] = nearest_iq4(d != 0 ? x[i] / d : 0);
    put_nibbles(out + 2, q);
}

/* ---- blocks of 256 ---- */

/* Sub-blocks' scales and mins as whole numbers of a common step; then the quants under what those really mean. */
static void super_with_min(const float *x, int sub, int bits, int steps, uint8_t *d_at, uint8_t *m_at, int *sc, int *mn, int *q)
{
    float d[16], m[16], most = 0, deepest = 0;
    int count = 256 / sub, top = (1 << bits) - 1;
    for (int s = 0; s < count; s++) {
        fit_scale_min(x + s * sub, sub, top, true, &d[s], &m[s]);
        most = fmaxf(most, d[s]);
        deepest = fmaxf(deepest, -m[s]);
    }
    float step = put_half(d_at, most / (float)steps), depth = put_half(m_at, deepest / (float)steps);
    for (int s = 0; s < count; s++) {
        sc[s] = rounded(d[s], step, 0, 0, steps);
        mn[s] = rounded(-m[s], depth, 0, 0, steps);
        for (int i = s * sub; i < (s + 1) * sub; i++) q[i] = rounded(x[i], step * (float)sc[s], -depth * (float)mn[s], 0, top);
    }
}

static void super_symmetric(const float *x, int bits, int low, int high, uint8_t *d_at, int *sc, int *q) /* sub-blocks of 16 */
{
    float d[16], most = 0;
    int half = 1 << (bits - 1);
    for (int s = 0; s < 16; s++) {
        d[s] = fit_scale(x + s * 16, 16, -half, half - 1);
        if (fabsf(d[s]) > fabsf(most)) most = d[s];
    }
    float step = put_half(d_at, most / (float)low); /* the largest scale at the longer end */
    for (int s = 0; s < 16; s++) {
        sc[s] = rounded(d[s], step, 0, low, high);
        for (int i = s * 16; i < (s + 1) * 16; i++) q[i] = rounded(x[i], step * (float)sc[s], 0, -half, half - 1) + half;
    }
}

static void put_k4_scales(uint8_t *out, const int *sc, const int *mn)
{
    for (int j = 0; j < 4; j++) {
        out[j] = (uint8_t)(sc[j] | (sc[j + 4] >> 4) << 6);
        out[j + 4] = (uint8_t)(mn[j] | (mn[j + 4] >> 4) << 6);
        out[j + 8] = (uint8_t)((sc[j + 4] & 15) | (mn[j + 4] & 15) << 4);
    }
}

static void block_q45_k(const float *x, int bits, uint8_t *out)
{
    int sc[16], mn[16], q[256];
    super_with_min(x, 32, bits, 63, out, out + 2, sc, mn, q);
    put_k4_scales(out + 4, sc, mn);
    uint8_t *low = out + (bits == 5 ? 48 : 16);
    for (int pair = 0; pair < 4; pair++)
        for (int i = 0; i < 32; i++)
            low[pair * 32 + i] = (uint8_t)((q[pair * 64 + i] & 15) | (q[pair * 64 + 32 + i] & 15) << 4);
    for (int i = 0; bits == 5 && i < 32; i++) {
        unsigned high = 0;
        for (int s = 0; s < 8; s++) high |= (unsigned)(q[s * 32 + i] >> 4) << s;
        out[16 + i] = (uint8_t)high;
    }
}

static void block_q6_k(const float *x, uint8_t *out)
{
    int sc[16], q[256];
    super_symmetric(x, 6, -128, 127, out + 208, sc, q);
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 32; i++) {
            const int *p = q + h * 128 + i;
            out[h * 64 + i] = (uint8_t)((p[0] & 15) | (p[64] & 15) << 4);
            out[h * 64 + 32 + i] = (uint8_t)((p[32] & 15) | (p[96] & 15) << 4);
            out[128 + h * 32 + i] = (uint8_t)(p[0] >> 4 | p[32] >> 4 << 2 | p[64] >> 4 << 4 | p[96] >> 4 << 6);
        }
    for (int s = 0; s < 16; s++) out[192 + s] = (uint8_t)(int8_t)sc[s];
}

static uint8_t twos(const int *q, int half, int i) /* the two low bits of four sub-blocks of 32 */
{
    const int *p = q + half * 128 + i;
    return (uint8_t)((p[0] & 3) | (p[32] & 3) << 2 | (p[64] & 3) << 4 | (p[96] & 3) << 6);
}

static void block_q2_k(const float *x, uint8_t *out)
{
    int sc[16], mn[16], q[256];
    super_with_min(x, 16, 2, 15, out + 80, out + 82, sc, mn, q);
    for (int s = 0; s < 16; s++) out[s] = (uint8_t)(sc[s] | mn[s] << 4);
    for (int i = 0; i < 64; i++) out[16 + i] = twos(q, i / 32, i % 32);
}

static void block_q3_k(const float *x, uint8_t *out)
{
    int sc[16], q[256];
    super_symmetric(x, 3, -32, 31, out + 108, sc, q);
    for (int i = 0; i < 32; i++) {
        unsigned high = 0;
        for (int s = 0; s < 8; s++) high |= (unsigned)(q[s * 32 + i] >> 2) << s;
        out[i] = (uint8_t)high;
    }
    for (int i = 0; i < 64; i++) out[32 + i] = twos(q, i / 32, i % 32);
    memset(out + 96, 0, 12);
    for (int s = 0; s < 16; s++) {
        unsigned v = (unsigned)(sc[s] + 32);
        out[96 + s % 8] = (uint8_t)(out[96 + s % 8] | (v & 15) << (s / 8 * 4));
        out[104 + s % 4] = (uint8_t)(out[104 + s % 4] | (v >> 4) << (s / 4 * 2));
    }
}

static void plain(enum gguf_type type, const float *x, int k, uint8_t *out)
{
    for (int i = 0; i < k; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], 4);
        if (type == GGUF_F32) memcpy(out + i * 4, &bits, 4);
        else if (type == GGUF_F16) (void)put_half(out + i * 2, x[i]);
        else {
            uint16_t b = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16); /* nearest even */
            if (isnan(x[i])) b = 0x7fc0;
            memcpy(out + i * 2, &b, 2);
        }
    }
}

void quantize_row(enum gguf_type type, const float *x, int k, void *raw)
{
    const struct gguf_type_info *info = gguf_type_info((uint32_t)type);
    uint8_t *out = raw;
    if (info->block_elements == 1) {
        plain(type, x, k, out);
        return;
    }
    for (int i = 0; i < k; i += info->block_elements, out += info->block_bytes) {
        switch (type) {
        case GGUF_Q4_0: block_symmetric(x + i, 4, out); break;
        case GGUF_Q5_0: block_symmetric(x + i, 5, out); break;
        case GGUF_Q4_1: block_with_min(x + i, 4, out); break;
        case GGUF_Q5_1: block_with_min(x + i, 5, out); break;
        case GGUF_IQ4_NL: block_iq4_nl(x + i, out); break;
        case GGUF_Q2_K: block_q2_k(x + i, out); break;
        case GGUF_Q3_K: block_q3_k(x + i, out); break;
        case GGUF_Q4_K: block_q45_k(x + i, 4, out); break;
        case GGUF_Q5_K: block_q45_k(x + i, 5, out); break;
        case GGUF_Q6_K: block_q6_k(x + i, out); break;
        default: block_q8_0(x + i, out); break;
        }
    }
}

/* ---- types of ours ---- */

float quantize_row_fp8(const float *x, int k, uint8_t *raw)
{
    float most = 0;
    for (int i = 0; i < k; i++) most = fmaxf(most, fabsf(x[i]));
    float scale = most / FP8_LARGEST;
    for (int i = 0; i < k; i++) raw[i] = scale > 0 ? fp8_from_float(x[i] / scale) : 0;
    return scale;
}

void quantize_row_w4a16(const float *x, int k, int8_t *q, uint16_t *scales)
{
    for (int g = 0; g < k / W4A16_GROUP; g++, x += W4A16_GROUP, q += W4A16_GROUP) {
        float d = put_half((uint8_t *)&scales[g], fit_scale(x, W4A16_GROUP, -8, 7));
        for (int i = 0; i < W4A16_GROUP; i++) q[i] = (int8_t)(d != 0 ? rounded(x[i], d, 0, -8, 7) : 0);
    }
}
