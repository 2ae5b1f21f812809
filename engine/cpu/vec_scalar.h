/* 16 lanes in plain C: the reference. Each operation of the other sets' vec_*.h must give these bits. */
#ifndef RUNG_ENGINE_CPU_VEC_SCALAR_H
#define RUNG_ENGINE_CPU_VEC_SCALAR_H

#include "engine/cpu/pack.h"

#include <math.h>
#include <string.h>

#define VEC_WIDEST 1
typedef struct {
    float v[16];
} vf;
typedef struct {
    int32_t v[16];
} vi;
typedef struct {
    uint8_t v[64];
} vb;

#define LANES for (int l = 0; l < 16; l++)
#define VEC_OP(name, expression)                                                                                       \
    static inline vf name(vf a, vf b)                                                                                  \
    {                                                                                                                  \
        vf r;                                                                                                          \
        LANES r.v[l] = expression;                                                                                     \
        return r;                                                                                                      \
    }
VEC_OP(vf_add, a.v[l] + b.v[l])
VEC_OP(vf_sub, a.v[l] - b.v[l])
VEC_OP(vf_mul, a.v[l] * b.v[l])
VEC_OP(vf_div, a.v[l] / b.v[l])
VEC_OP(vf_max, a.v[l] > b.v[l] ? a.v[l] : b.v[l])
VEC_OP(vf_min, a.v[l] < b.v[l] ? a.v[l] : b.v[l])
static inline vf vf_load(const float *p)
{
    vf r;
    memcpy(&r, p, sizeof r);
    return r;
}
static inline void vf_store(float *p, vf a)
{
    memcpy(p, &a, sizeof a);
}
static inline vf vf_set1(float x)
{
    vf r;
    LANES r.v[l] = x;
    return r;
}
static inline vf vf_fma(vf a, vf b, vf c)
{
    vf r;
    LANES r.v[l] = fmaf(a.v[l], b.v[l], c.v[l]);
    return r;
}
static inline vf vf_abs(vf a)
{
    vf r;
    LANES r.v[l] = fabsf(a.v[l]);
    return r;
}
static inline vf vf_round(vf a)
{
    vf r;
    LANES r.v[l] = rintf(a.v[l]);
    return r;
}
static inline vf vf_from_half(const uint16_t *p)
{
    vf r;
    LANES r.v[l] = half_to_float(p[l]);
    return r;
}
static inline vf vf_from_bf16(const uint16_t *p)
{
    vf r;
    LANES r.v[l] = bf16_to_float(p[l]);
    return r;
}
static inline void vf_to_half(uint16_t *p, vf a)
{
    LANES p[l] = half_from_float(a.v[l]);
}
static inline vf vf_from_i8(const int8_t *p)
{
    vf r;
    LANES r.v[l] = (float)p[l];
    return r;
}
static inline vf vf_from_u8(const uint8_t *p)
{
    vf r;
    LANES r.v[l] = (float)p[l];
    return r;
}
/* Whole numbers within int8 to bytes. */
static inline void vf_to_i8(int8_t *p, vf a)
{
    LANES p[l] = (int8_t)a.v[l];
}
/* 2^n of whole n in [-126, 127]. */
static inline vf vf_exp2i(vf n)
{
    vf r;
    LANES
    {
        uint32_t bits = (uint32_t)((int32_t)n.v[l] + 127) << 23;
        memcpy(&r.v[l], &bits, 4);
    }
    return r;
}
/* a where x >= limit, else 0 */
static inline vf vf_keep_ge(vf a, vf x, float limit)
{
    vf r;
    LANES r.v[l] = x.v[l] >= limit ? a.v[l] : 0.0f;
    return r;
}
/* Lanes from `first` up to and without `end` of a, the others x. */
static inline vf vf_keep_lanes(vf a, int first, int end, float x)
{
    vf r;
    LANES r.v[l] = l >= first && l < end ? a.v[l] : x;
    return r;
}
/* ((0+8)+(4+12)) + … : halves folded onto each other. */
static inline float vf_sum(vf a)
{
    for (int half = 8; half; half /= 2)
        for (int l = 0; l < half; l++) a.v[l] = a.v[l] + a.v[l + half];
    return a.v[0];
}
static inline float vf_highest(vf a)
{
    float m = a.v[0];
    LANES m = a.v[l] > m ? a.v[l] : m;
    return m;
}
static inline vf vf_from_vi(vi a)
{
    vf r;
    LANES r.v[l] = (float)a.v[l];
    return r;
}
static inline vb vb_load(const uint8_t *p)
{
    vb r;
    memcpy(&r, p, sizeof r);
    return r;
}
static inline vb vb_bits(vb a, int shift, unsigned mask) /* (a >> shift, or << -shift) & mask, each byte */
{
    vb r;
    for (int i = 0; i < 64; i++) r.v[i] = (uint8_t)((shift >= 0 ? a.v[i] >> shift : a.v[i] << -shift) & (int)mask);
    return r;
}
static inline vb vb_or(vb a, vb b)
{
    for (int i = 0; i < 64; i++) a.v[i] |= b.v[i];
    return a;
}
static inline vb vb_iq4nl(vb a) /* the table's value + 128 */
{
    for (int i = 0; i < 64; i++) a.v[i] = (uint8_t)(PACK_IQ4_NL[a.v[i]] + 128);
    return a;
}
/* Start of a dot product whose quants mean q - (1 << zero_log2); `minus_sum` is minus the activations' sum. */
static inline vi vi_start(const int32_t *minus_sum, int zero_log2)
{
    vi r;
    LANES r.v[l] = zero_log2 < 0 ? 0 : *minus_sum * (1 << zero_log2);
    return r;
}
/* Each lane adds the dot product of its 4 unsigned bytes of w and the same 4 signed bytes at a. */
static inline vi vi_dot(vi c, vb w, const int8_t *a, int zero_log2)
{
    (void)zero_log2;
    LANES for (int i = 0; i < 4; i++) c.v[l] += w.v[l * 4 + i] * a[i];
    return c;
}

#endif
