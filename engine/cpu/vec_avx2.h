/* 16 lanes as two AVX registers. */
#ifndef RUNG_ENGINE_CPU_VEC_AVX2_H
#define RUNG_ENGINE_CPU_VEC_AVX2_H

#include "engine/cpu/pack.h"

#include <immintrin.h>
#include <string.h>

#define VEC_WIDEST 4
#define VEC_SPANS
#define VEC_INLINE static inline __attribute__((always_inline))
VEC_INLINE bool vec_spans_pay(enum gguf_type type)
{
    (void)type;
    return true;
}
typedef struct {
    __m256 a, b;
} vf;
typedef struct {
    __m256i a, b;
} vi;
typedef vi vb;

#define VEC_OP(name, op)                                                                                               \
    VEC_INLINE vf name(vf x, vf y)                                                                                     \
    {                                                                                                                  \
        return (vf){op(x.a, y.a), op(x.b, y.b)};                                                                       \
    }
VEC_OP(vf_add, _mm256_add_ps)
VEC_OP(vf_sub, _mm256_sub_ps)
VEC_OP(vf_mul, _mm256_mul_ps)
VEC_OP(vf_div, _mm256_div_ps)
VEC_OP(vf_max, _mm256_max_ps)
VEC_OP(vf_min, _mm256_min_ps)
VEC_INLINE vf vf_load(const float *p)
{
    return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
VEC_INLINE void vf_store(float *p, vf x)
{
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
VEC_INLINE vf vf_set1(float x)
{
    return (vf){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
VEC_INLINE vf vf_fma(vf x, vf y, vf z)
{
    return (vf){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
VEC_INLINE vf vf_abs(vf x)
{
    const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    return (vf){_mm256_and_ps(x.a, mask), _mm256_and_ps(x.b, mask)};
}
VEC_INLINE vf vf_round(vf x)
{
    return (vf){_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
VEC_INLINE vf vf_from_half(const uint16_t *p)
{
    return (vf){_mm256_cvtph_ps(_mm_loadu_si128((const void *)p)), _mm256_cvtph_ps(_mm_loadu_si128((const void *)(p + 8)))};
}
VEC_INLINE vf vf_from_bf16(const uint16_t *p)
{
    __m256i a = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p));
    __m256i b = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)(p + 8)));
    return (vf){_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(b, 16))};
}
VEC_INLINE void vf_to_half(uint16_t *p, vf x)
{
    _mm_storeu_si128((void *)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((void *)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}
VEC_INLINE vf vf_from_vi(vi x)
{
    return (vf){_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)};
}
VEC_INLINE vf vf_from_i8(const int8_t *p)
{
    return vf_from_vi((vi){_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p)),
                           _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(p + 8)))});
}
VEC_INLINE vf vf_from_u8(const uint8_t *p)
{
    return vf_from_vi((vi){_mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p)),
                           _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(p + 8)))});
}
VEC_INLINE void vf_to_i8(int8_t *p, vf x)
{
    const __m256i low = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
    const __m256i fours = _mm256_unpacklo_epi32(_mm256_shuffle_epi8(_mm256_cvtps_epi32(x.a), low),
                                                _mm256_shuffle_epi8(_mm256_cvtps_epi32(x.b), low)); /* of a, b | of a, b */
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 0, 0, 0, 0);
    _mm_storeu_si128((void *)p, _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(fours, order)));
}
/* The sum of 16 signed bytes. */
#define VEC_SUM_BYTES
VEC_INLINE int sum_16_bytes(const int8_t *q)
{
    const __m128i from_zero = _mm_xor_si128(_mm_loadu_si128((const void *)q), _mm_set1_epi8((char)0x80));
    const __m128i s = _mm_sad_epu8(from_zero, _mm_setzero_si128());
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_unpackhi_epi64(s, s))) - 16 * 128;
}
VEC_INLINE vf vf_exp2i(vf n)
{
    const __m256i bias = _mm256_set1_epi32(127);
    return (vf){_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.a), bias), 23)),
                _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.b), bias), 23))};
}
VEC_INLINE vf vf_keep_ge(vf a, vf x, float limit)
{
    __m256 l = _mm256_set1_ps(limit);
    return (vf){_mm256_and_ps(a.a, _mm256_cmp_ps(x.a, l, _CMP_GE_OQ)), _mm256_and_ps(a.b, _mm256_cmp_ps(x.b, l, _CMP_GE_OQ))};
}
VEC_INLINE vf vf_keep_lanes(vf a, int first, int end, float x)
{
    const __m256i low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), high = _mm256_add_epi32(low, _mm256_set1_epi32(8));
    const __m256i f = _mm256_set1_epi32(first), e = _mm256_set1_epi32(end);
    const __m256 other = _mm256_set1_ps(x);
    __m256i la = _mm256_andnot_si256(_mm256_cmpgt_epi32(f, low), _mm256_cmpgt_epi32(e, low));
    __m256i lb = _mm256_andnot_si256(_mm256_cmpgt_epi32(f, high), _mm256_cmpgt_epi32(e, high));
    return (vf){_mm256_blendv_ps(other, a.a, _mm256_castsi256_ps(la)), _mm256_blendv_ps(other, a.b, _mm256_castsi256_ps(lb))};
}
VEC_INLINE float vf_sum(vf x)
{
    __m256 h = _mm256_add_ps(x.a, x.b);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
VEC_INLINE float vf_highest(vf x)
{
    __m256 h = _mm256_max_ps(x.a, x.b);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
VEC_INLINE vb vb_load(const uint8_t *p)
{
    return (vb){_mm256_loadu_si256((const void *)p), _mm256_loadu_si256((const void *)(p + 32))};
}
VEC_INLINE void vb_store(uint8_t *p, vb x)
{
    _mm256_storeu_si256((void *)p, x.a);
    _mm256_storeu_si256((void *)(p + 32), x.b);
}
VEC_INLINE vb vb_bits(vb x, int shift, unsigned mask)
{
    const __m256i m = _mm256_set1_epi8((char)mask);
    if (shift > 0) x = (vb){_mm256_srli_epi16(x.a, shift), _mm256_srli_epi16(x.b, shift)};
    if (shift < 0) x = (vb){_mm256_slli_epi16(x.a, -shift), _mm256_slli_epi16(x.b, -shift)};
    return (vb){_mm256_and_si256(x.a, m), _mm256_and_si256(x.b, m)};
}
VEC_INLINE vb vb_or(vb x, vb y)
{
    return (vb){_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)};
}
#define VEC_SIGNED /* quants of 8 bits are signed: they need no zero point, and would overflow the 16-bit sums without */
VEC_INLINE vb vb_turn_sign(vb x)
{
    const __m256i sign = _mm256_set1_epi8((char)0x80);
    return (vb){_mm256_xor_si256(x.a, sign), _mm256_xor_si256(x.b, sign)};
}
VEC_INLINE vb vb_abs(vb x)
{
    return (vb){_mm256_abs_epi8(x.a), _mm256_abs_epi8(x.b)};
}
VEC_INLINE vb vb_iq4nl(vb x)
{
    const __m256i both = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)PACK_IQ4_NL));
    return (vb){_mm256_shuffle_epi8(both, x.a), _mm256_shuffle_epi8(both, x.b)};
}
VEC_INLINE vi vi_start(const int32_t *minus_sum, int zero_log2)
{
    if (zero_log2 < 0 || zero_log2 == 7) return (vi){_mm256_setzero_si256(), _mm256_setzero_si256()};
    __m256i s = _mm256_slli_epi32(_mm256_set1_epi32(*minus_sum), zero_log2);
    return (vi){s, s};
}
VEC_INLINE __m256i dot_half(__m256i c, __m256i w, __m256i a, int zero_log2)
{
    if (zero_log2 == 7) {
        a = _mm256_sign_epi8(a, w);
        w = _mm256_abs_epi8(w);
    }
    c = _mm256_add_epi32(c, _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1)));
    __asm__("" : "+x"(c)); /* GCC would add up in another order, for which there are far too few registers */
    return c;
}
VEC_INLINE vi vi_dot(vi c, vb w, const int8_t *a, int zero_log2)
{
    int32_t four;
    memcpy(&four, a, 4);
    const __m256i all = _mm256_set1_epi32(four);
    return (vi){dot_half(c.a, w.a, all, zero_log2), dot_half(c.b, w.b, all, zero_log2)};
}
#define VEC_SIZES
/* The same of signed bytes, whose sizes are known. */
VEC_INLINE vi vi_dot_signed(vi c, vb w, vb size, const int8_t *a)
{
    int32_t four;
    memcpy(&four, a, 4);
    const __m256i all = _mm256_set1_epi32(four), ones = _mm256_set1_epi16(1);
    c.a = _mm256_add_epi32(c.a, _mm256_madd_epi16(_mm256_maddubs_epi16(size.a, _mm256_sign_epi8(all, w.a)), ones));
    c.b = _mm256_add_epi32(c.b, _mm256_madd_epi16(_mm256_maddubs_epi16(size.b, _mm256_sign_epi8(all, w.b)), ones));
    __asm__("" : "+x"(c.a), "+x"(c.b));
    return c;
}

/* Sums of neighbours in 16 bits. They hold 8 groups of quants of 4 bits, 4 of 5, 2 of 6: 127 × 15 × 2 × 8 = 30480. */
#define VEC_SHORTS
VEC_INLINE int shorts_hold(int bits)
{
    return bits <= 4 ? 8 : bits == 5 ? 4 : 2;
}
VEC_INLINE vi shorts_dot(vi s, vb w, const int8_t *a)
{
    int32_t four;
    memcpy(&four, a, 4);
    const __m256i all = _mm256_set1_epi32(four);
    s = (vi){_mm256_add_epi16(s.a, _mm256_maddubs_epi16(w.a, all)), _mm256_add_epi16(s.b, _mm256_maddubs_epi16(w.b, all))};
    __asm__("" : "+x"(s.a), "+x"(s.b));
    return s;
}
VEC_INLINE vi shorts_zero(void)
{
    return (vi){_mm256_setzero_si256(), _mm256_setzero_si256()};
}
VEC_INLINE vi shorts_add(vi c, vi s)
{
    const __m256i ones = _mm256_set1_epi16(1);
    return (vi){_mm256_add_epi32(c.a, _mm256_madd_epi16(s.a, ones)), _mm256_add_epi32(c.b, _mm256_madd_epi16(s.b, ones))};
}

#endif
