/* 16 lanes as one AVX-512 register, integer dots by VNNI. */
#ifndef RUNG_ENGINE_CPU_VEC_AVX512_H
#define RUNG_ENGINE_CPU_VEC_AVX512_H

#include "engine/cpu/words_avx512.h"

#include <immintrin.h>
#include <string.h>

#ifndef VEC_WIDEST
#define VEC_WIDEST 12
#endif
#define VEC_SPANS
static inline bool vec_spans_pay(enum gguf_type type)
{
    return pack_sub(type) == 16;
}
#define VEC_PUT_WORDS put_words
typedef __m512 vf;
typedef __m512i vi;
typedef __m512i vb;

#define vf_add _mm512_add_ps
#define vf_sub _mm512_sub_ps
#define vf_mul _mm512_mul_ps
#define vf_div _mm512_div_ps
#define vf_max _mm512_max_ps
#define vf_min _mm512_min_ps
#define vf_load _mm512_loadu_ps
#define vf_store _mm512_storeu_ps
#define vf_set1 _mm512_set1_ps
#define vf_fma _mm512_fmadd_ps
#define vf_abs _mm512_abs_ps
#define vf_from_vi _mm512_cvtepi32_ps
#define vb_or _mm512_or_si512
static inline vf vf_round(vf a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline vf vf_from_half(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
}
static inline vf vf_from_bf16(const uint16_t *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)), 16));
}
static inline void vf_to_half(uint16_t *p, vf a)
{
    _mm256_storeu_si256((void *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
static inline vf vf_from_i8(const int8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)));
}
static inline vf vf_from_u8(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p)));
}
static inline void vf_to_i8(int8_t *p, vf a)
{
    _mm_storeu_si128((void *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a)));
}
/* The sum of 16 signed bytes. */
#define VEC_SUM_BYTES
static inline int sum_16_bytes(const int8_t *q)
{
    const __m128i from_zero = _mm_xor_si128(_mm_loadu_si128((const void *)q), _mm_set1_epi8((char)0x80));
    const __m128i s = _mm_sad_epu8(from_zero, _mm_setzero_si128());
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_unpackhi_epi64(s, s))) - 16 * 128;
}
static inline vf vf_exp2i(vf n)
{
    __m512i i = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(i, 23));
}
static inline vf vf_keep_ge(vf a, vf x, float limit)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(limit), _CMP_GE_OQ), a);
}
static inline vf vf_keep_lanes(vf a, int first, int end, float x)
{
    first = first < 0 ? 0 : first > 16 ? 16 : first;
    end = end < 0 ? 0 : end > 16 ? 16 : end;
    unsigned mask = ((1u << end) - 1) & ~((1u << first) - 1);
    return _mm512_mask_mov_ps(_mm512_set1_ps(x), (__mmask16)mask, a);
}
static inline float vf_sum(vf a)
{
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
static inline float vf_highest(vf a)
{
    return _mm512_reduce_max_ps(a);
}
static inline vb vb_load(const uint8_t *p)
{
    return _mm512_loadu_si512((const void *)p);
}
static inline void vb_store(uint8_t *p, vb a)
{
    _mm512_storeu_si512((void *)p, a);
}
static inline vi vi_load(const int32_t *p)
{
    return _mm512_loadu_si512((const void *)p);
}
#define vb_sub _mm512_sub_epi8
#define vb_set1(x) _mm512_set1_epi8((char)(x))
/* Bits of neighbouring bytes that a 16-bit shift brings in fall to the mask. */
static inline __attribute__((always_inline)) vb vb_bits(vb a, int shift, unsigned mask)
{
    if (shift > 0) a = _mm512_srli_epi16(a, (unsigned char)shift);
    if (shift < 0) a = _mm512_slli_epi16(a, (unsigned char)-shift);
    return _mm512_and_si512(a, _mm512_set1_epi8((char)mask));
}
static inline vb vb_iq4nl(vb a)
{
    const __m128i table = _mm_xor_si128(_mm_loadu_si128((const void *)PACK_IQ4_NL), _mm_set1_epi8((char)0x80));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), a);
}
static inline __attribute__((always_inline)) vi vi_start(const int32_t *minus_sum, int zero_log2)
{
    if (zero_log2 < 0) return _mm512_setzero_si512();
    return _mm512_slli_epi32(_mm512_set1_epi32(*minus_sum), (unsigned)zero_log2);
}
static inline __attribute__((always_inline)) vi vi_dot(vi c, vb w, const int8_t *a, int zero_log2)
{
    int32_t four;
    (void)zero_log2;
    memcpy(&four, a, 4);
    return _mm512_dpbusd_epi32(c, w, _mm512_set1_epi32(four));
}

#endif
