/* 16 lanes as four NEON registers, integer dots by SDOT (dotprod). Operations whose rounding or order could differ from the
 * scalar set's are written so that they do not: max and min take the second operand of a NaN, sums fold halves. */
#ifndef RUNG_ENGINE_CPU_VEC_NEON_H
#define RUNG_ENGINE_CPU_VEC_NEON_H

#include "engine/cpu/pack.h"

#include <arm_neon.h>
#include <string.h>

#define VEC_WIDEST 4
#define VEC_INLINE static inline __attribute__((always_inline))
typedef float32x4x4_t vf;
typedef int32x4x4_t vi;
typedef uint8x16x4_t vb;

#define QUARTERS for (int i = 0; i < 4; i++)
#define VEC_OP(name, op)                                                                                               \
    VEC_INLINE vf name(vf x, vf y)                                                                                     \
    {                                                                                                                  \
        QUARTERS x.val[i] = op(x.val[i], y.val[i]);                                                                    \
        return x;                                                                                                      \
    }
#define GREATER(x, y) vbslq_f32(vcgtq_f32(x, y), x, y)
#define LESS(x, y) vbslq_f32(vcltq_f32(x, y), x, y)
VEC_OP(vf_add, vaddq_f32)
VEC_OP(vf_sub, vsubq_f32)
VEC_OP(vf_mul, vmulq_f32)
VEC_OP(vf_div, vdivq_f32)
VEC_OP(vf_max, GREATER)
VEC_OP(vf_min, LESS)
VEC_INLINE vf vf_load(const float *p)
{
    vf r;
    QUARTERS r.val[i] = vld1q_f32(p + i * 4);
    return r;
}
VEC_INLINE void vf_store(float *p, vf x)
{
    QUARTERS vst1q_f32(p + i * 4, x.val[i]);
}
VEC_INLINE vf vf_set1(float x)
{
    vf r;
    QUARTERS r.val[i] = vdupq_n_f32(x);
    return r;
}
VEC_INLINE vf vf_fma(vf x, vf y, vf z)
{
    QUARTERS z.val[i] = vfmaq_f32(z.val[i], x.val[i], y.val[i]);
    return z;
}
VEC_INLINE vf vf_abs(vf x)
{
    QUARTERS x.val[i] = vabsq_f32(x.val[i]);
    return x;
}
VEC_INLINE vf vf_round(vf x)
{
    QUARTERS x.val[i] = vrndnq_f32(x.val[i]);
    return x;
}
VEC_INLINE vf vf_from_half(const uint16_t *p)
{
    vf r;
    QUARTERS r.val[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + i * 4)));
    return r;
}
VEC_INLINE vf vf_from_bf16(const uint16_t *p)
{
    vf r;
    QUARTERS r.val[i] = vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + i * 4), 16));
    return r;
}
VEC_INLINE void vf_to_half(uint16_t *p, vf x)
{
    QUARTERS vst1_u16(p + i * 4, vreinterpret_u16_f16(vcvt_f16_f32(x.val[i])));
}
VEC_INLINE vf vf_from_vi(vi x)
{
    vf r;
    QUARTERS r.val[i] = vcvtq_f32_s32(x.val[i]);
    return r;
}
VEC_INLINE vf vf_from_i8(const int8_t *p)
{
    int8x16_t bytes = vld1q_s8(p);
    int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
    return vf_from_vi((vi){{vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)), vmovl_s16(vget_low_s16(high)),
                            vmovl_s16(vget_high_s16(high))}});
}
VEC_INLINE vf vf_from_u8(const uint8_t *p)
{
    uint8x16_t bytes = vld1q_u8(p);
    uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_u8(vget_high_u8(bytes));
    vf r;
    r.val[0] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(low)));
    r.val[1] = vcvtq_f32_u32(vmovl_u16(vget_high_u16(low)));
    r.val[2] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(high)));
    r.val[3] = vcvtq_f32_u32(vmovl_u16(vget_high_u16(high)));
    return r;
}
VEC_INLINE void vf_to_i8(int8_t *p, vf x)
{
    int16x4_t words[4];
    QUARTERS words[i] = vmovn_s32(vcvtq_s32_f32(x.val[i]));
    vst1q_s8(p, vcombine_s8(vmovn_s16(vcombine_s16(words[0], words[1])), vmovn_s16(vcombine_s16(words[2], words[3]))));
}
VEC_INLINE vf vf_exp2i(vf n)
{
    const int32x4_t bias = vdupq_n_s32(127);
    QUARTERS n.val[i] = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n.val[i]), bias), 23));
    return n;
}
VEC_INLINE float32x4_t keep(float32x4_t x, uint32x4_t where)
{
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x), where));
}
VEC_INLINE vf vf_keep_ge(vf a, vf x, float limit)
{
    QUARTERS a.val[i] = keep(a.val[i], vcgeq_f32(x.val[i], vdupq_n_f32(limit)));
    return a;
}
VEC_INLINE vf vf_keep_lanes(vf a, int first, int end, float x)
{
    static const int32_t NUMBERS[4] = {0, 1, 2, 3};
    const float32x4_t other = vdupq_n_f32(x);
    QUARTERS
    {
        int32x4_t lane = vaddq_s32(vld1q_s32(NUMBERS), vdupq_n_s32(i * 4));
        uint32x4_t in = vandq_u32(vcgeq_s32(lane, vdupq_n_s32(first)), vcltq_s32(lane, vdupq_n_s32(end)));
        a.val[i] = vbslq_f32(in, a.val[i], other);
    }
    return a;
}
VEC_INLINE float vf_sum(vf x)
{
    float32x4_t q = vaddq_f32(vaddq_f32(x.val[0], x.val[2]), vaddq_f32(x.val[1], x.val[3]));
    float32x2_t h = vadd_f32(vget_low_f32(q), vget_high_f32(q));
    return vget_lane_f32(h, 0) + vget_lane_f32(h, 1);
}
VEC_INLINE float vf_highest(vf x)
{
    return vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(x.val[0], x.val[1]), vmaxnmq_f32(x.val[2], x.val[3])));
}
VEC_INLINE vb vb_load(const uint8_t *p)
{
    vb r;
    QUARTERS r.val[i] = vld1q_u8(p + i * 16);
    return r;
}
VEC_INLINE vb vb_bits(vb x, int shift, unsigned mask)
{
    const int8x16_t by = vdupq_n_s8((int8_t)-shift);
    const uint8x16_t m = vdupq_n_u8((uint8_t)mask);
    QUARTERS x.val[i] = vandq_u8(shift ? vshlq_u8(x.val[i], by) : x.val[i], m);
    return x;
}
VEC_INLINE vb vb_or(vb x, vb y)
{
    QUARTERS x.val[i] = vorrq_u8(x.val[i], y.val[i]);
    return x;
}
#define VEC_SIGNED /* SDOT and SMMLA take signed bytes: quants of 8 bits are made so, smaller ones are both */
VEC_INLINE vb vb_turn_sign(vb x)
{
    QUARTERS x.val[i] = veorq_u8(x.val[i], vdupq_n_u8(0x80));
    return x;
}
VEC_INLINE vb vb_iq4nl(vb x)
{
    const uint8x16_t table = vreinterpretq_u8_s8(vld1q_s8(PACK_IQ4_NL));
    QUARTERS x.val[i] = vqtbl1q_u8(table, x.val[i]);
    return x;
}
/* Signed quants need no zero point. */
VEC_INLINE vi vi_start(const int32_t *minus_sum, int zero_log2)
{
    vi r;
    QUARTERS r.val[i] = zero_log2 < 0 || zero_log2 == 7 ? vdupq_n_s32(0) : vshlq_s32(vdupq_n_s32(*minus_sum), vdupq_n_s32(zero_log2));
    return r;
}
VEC_INLINE vi vi_dot(vi c, vb w, const int8_t *a, int zero_log2)
{
    int32_t four;
    memcpy(&four, a, 4);
    const int8x16_t all = vreinterpretq_s8_s32(vdupq_n_s32(four));
    (void)zero_log2;
    QUARTERS c.val[i] = vdotq_s32(c.val[i], vreinterpretq_s8_u8(w.val[i]), all);
    return c;
}

#ifdef VEC_PAIRS
/* Sums of 16 rows × 2 columns: by pairs of rows, each (row, column) 00 01 10 11. */
typedef struct {
    int32x4_t val[8];
} vp;
VEC_INLINE vp vp_zero(void)
{
    vp r;
    for (int i = 0; i < 8; i++) r.val[i] = vdupq_n_s32(0);
    return r;
}
/* Two groups of 4 matrix columns: low, then high; a and b: the two batch columns' 4 bytes for each. */
VEC_INLINE vp vp_dot(vp c, vb low, vb high, const int8_t *a, const int8_t *b)
{
    const int32x2_t first = vreinterpret_s32_s8(vld1_s8(a)), second = vreinterpret_s32_s8(vld1_s8(b));
    const int8x16_t x = vreinterpretq_s8_s32(vcombine_s32(vzip1_s32(first, second), vzip2_s32(first, second)));
    QUARTERS
    {
        const uint32x4_t l = vreinterpretq_u32_u8(low.val[i]), h = vreinterpretq_u32_u8(high.val[i]);
        c.val[i * 2] = vmmlaq_s32(c.val[i * 2], vreinterpretq_s8_u32(vzip1q_u32(l, h)), x);
        c.val[i * 2 + 1] = vmmlaq_s32(c.val[i * 2 + 1], vreinterpretq_s8_u32(vzip2q_u32(l, h)), x);
    }
    return c;
}
/* One batch column's sums, added to where it starts. */
VEC_INLINE vi vp_column(vp c, int column, vi start)
{
    QUARTERS
    {
        int32x4_t of = column ? vuzp2q_s32(c.val[i * 2], c.val[i * 2 + 1]) : vuzp1q_s32(c.val[i * 2], c.val[i * 2 + 1]);
        start.val[i] = vaddq_s32(start.val[i], of);
    }
    return start;
}
#endif

#endif
