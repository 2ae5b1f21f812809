/* Weights from a stage in shared memory to the F16 pairs that the tensor cores take.
 *
 * A unit of a row is `pairs` × 32 k's a step. In each pair a lane (4 g + t) owns eight neighbouring k's, and of the inputs
 * the same eight (chunk x_chunk() of 16 bytes): the sum does not mind which k stands in which slot of the instruction, so
 * both sides are vector loads. Which eight is chosen so that a lane decodes few scales:
 *   most layouts     pair p, lane t: k = 32 p + 8 t
 *   Q4_K, Q5_K       lane t has the t-th 32 bytes of quants, so sub-blocks 2 t (low nibbles) and 2 t + 1 (high)
 *   Q2_K, Q3_K, Q6_K lane t has 16 neighbours of half t / 2 of the block, so 16 k's of four sub-blocks
 * Block layouts: block_q4_K and its like in ggml-common.h. Values are exact up to one rounding to F16 of the scale (k-quants)
 * and one of the weight. */
#ifndef RUNG_ENGINE_CUDA_MATMUL_DECODE_CUH
#define RUNG_ENGINE_CUDA_MATMUL_DECODE_CUH

#include "engine/cuda/matmul_private.cuh"
#include "engine/cuda/matmul_ptx.cuh"

static __device__ __forceinline__ float half_at(const uint8_t *p)
{
    return __half2float(*(const __half *)p);
}
static __device__ __forceinline__ uint32_t both(float f) /* rounded to F16, twice */
{
    return half2_bits(__half2half2(__float2half_rn(f)));
}
static __device__ __forceinline__ uint32_t both_at(const uint8_t *p)
{
    return half2_bits(__half2half2(*(const __half *)p));
}

/* `words` 32-bit words from an even address. */
static __device__ __forceinline__ void load_words(const uint8_t *p, int words, uint32_t *out)
{
    uint32_t odd = (uint32_t)(uintptr_t)p & 2;
    const uint32_t *from = (const uint32_t *)(p - odd);
    uint32_t low = from[0];
#pragma unroll
    for (int i = 0; i < words; i++) {
        uint32_t high = from[i + 1];
        out[i] = __byte_perm(low, high, odd ? 0x5432 : 0x3210);
        low = high;
    }
}

/* Four bytes below 1024 / 4 as 1024 + byte: F16 whose last place is 1. */
static __device__ __forceinline__ void widen(uint32_t bytes, uint32_t *out)
{
    out[0] = __byte_perm(bytes, 0x64646464, 0x4140);
    out[1] = __byte_perm(bytes, 0x64646464, 0x4342);
}

/* Eight bytes, minus `zero`, × scale. */
static __device__ __forceinline__ void scaled(uint32_t low, uint32_t high, int zero, uint32_t scale, uint32_t out[4])
{
    __half2 base = __half2half2(__int2half_rn(1024 + zero));
    widen(low, out);
    widen(high, out + 2);
#pragma unroll
    for (int i = 0; i < 4; i++) out[i] = half2_bits(__hmul2(__hsub2(bits_half2(out[i]), base), bits_half2(scale)));
}

/* Eight bytes × scale + bias. */
static __device__ __forceinline__ void scaled_biased(uint32_t low, uint32_t high, uint32_t scale, uint32_t bias, uint32_t out[4])
{
    __half2 base = __half2half2(__int2half_rn(1024));
    widen(low, out);
    widen(high, out + 2);
#pragma unroll
    for (int i = 0; i < 4; i++) out[i] = half2_bits(__hfma2(__hsub2(bits_half2(out[i]), base), bits_half2(scale), bits_half2(bias)));
}

/* Eight nibbles of W4, in the order of cuda.cuh, minus 8. In the upper places 0x6400 | n << 4 is 1024 + 16 n. */
static __device__ __forceinline__ void decode_w4(uint32_t w, uint32_t out[4])
{
#pragma unroll
    for (int i = 0; i < 4; i += 2, w >>= 8) {
        uint32_t low = and_or(w, 0x000f000fu, 0x64006400u), high = and_or(w, 0x00f000f0u, 0x64006400u);
        out[i] = half2_bits(__hsub2(bits_half2(low), bits_half2(0x64086408u)));
        out[i + 1] = half2_bits(__hfma2(bits_half2(high), bits_half2(0x2c002c00u), bits_half2(0xd480d480u))); /* / 16 - 72 */
    }
}

/* Bits 0..3 of `b` as bit 4 of four bytes. */
static __device__ __forceinline__ uint32_t fifth_bits(uint32_t b)
{
    return ((b & 15) * 0x204081u & 0x01010101u) << 4;
}

/* Four bytes' low nibbles through IQ4_NL's table (values + 128). */
static __device__ __forceinline__ uint32_t iq4_values(uint32_t nibbles)
{
    uint32_t packed = nibbles | nibbles >> 4; /* bytes 0 and 2 hold two codes each */
    uint32_t codes = __byte_perm(packed, 0, 0x4420), places = codes & 0x7777;
    uint32_t low = __byte_perm(0x3f2d1801, 0x766a5d4f, places), high = __byte_perm(0xa6998d81, 0xf1d9c5b5, places);
    return __byte_perm(low, high, 0x3210 + (codes >> 1 & 0x4444));
}

/* ---- the legacy blocks of 32: pair `b` is block b ---- */

template <int L> static __device__ __forceinline__ void decode_legacy(const uint8_t *row, int b, int t, uint32_t out[4])
{
    constexpr int bytes = layout_shape_of(L).bytes;
    constexpr bool biased = L == LAYOUT_Q4_1 || L == LAYOUT_Q5_1, five = L == LAYOUT_Q5_0 || L == LAYOUT_Q5_1;
    const uint8_t *block = row + b * bytes, *quants = block + (biased ? 4 : 2) + (five ? 4 : 0);
    uint32_t w[2], d = both_at(block);
    if (L == LAYOUT_Q8_0) {
        load_words(quants + 8 * t, 2, w);
        scaled(w[0] ^ 0x80808080u, w[1] ^ 0x80808080u, 128, d, out);
        return;
    }
    load_words(quants + 8 * (t & 1), 2, w);
#pragma unroll
    for (int i = 0; i < 2; i++) w[i] = w[i] >> (t & 2 ? 4 : 0) & 0x0f0f0f0fu;
    if (five) {
        uint32_t bits = block[(biased ? 4 : 2) + t]; /* k = 8 t .. 8 t + 7 */
        w[0] |= fifth_bits(bits);
        w[1] |= fifth_bits(bits >> 4);
    }
    if (biased) scaled_biased(w[0], w[1], d, both_at(block + 2), out);
    else if (L == LAYOUT_IQ4_NL) scaled(iq4_values(w[0]), iq4_values(w[1]), 128, d, out);
    else scaled(w[0], w[1], five ? 16 : 8, d, out);
}

/* ---- k-quants: blocks of 256 ---- */

/* The 6-bit scales and mins of sub-blocks 2 t and 2 t + 1. */
static __device__ __forceinline__ void begin_q45_k(const uint8_t *row, int t, uint32_t state[8])
{
    uint4 head = *(const uint4 *)row;
    bool late = t & 2; /* sub-blocks 4..7 */
    uint32_t scales = late ? (head.w & 0x0f0f0f0fu) | (head.y >> 2 & 0x30303030u) : head.y & 0x3f3f3f3fu;
    uint32_t mins = late ? (head.w >> 4 & 0x0f0f0f0fu) | (head.z >> 2 & 0x30303030u) : head.z & 0x3f3f3f3fu;
    float2 d = __half22float2(bits_half2(head.x));
    int shift = (t & 1) * 16;
    scales >>= shift;
    mins >>= shift;
    state[0] = both(d.x * (float)(scales & 255));
    state[1] = both(d.x * (float)(scales >> 8 & 255));
    state[2] = both(-d.y * (float)(mins & 255));
    state[3] = both(-d.y * (float)(mins >> 8 & 255));
}

template <int L>
static __device__ __forceinline__ void decode_q45_k(const uint8_t *row, const uint32_t state[8], int step, int t, uint32_t out[2][4])
{
    const uint8_t *quants = row + (L == LAYOUT_Q5_K ? 48 : 16) + 32 * t + 8 * step;
    uint2 w = *(const uint2 *)quants, h = make_uint2(0, 0);
    if (L == LAYOUT_Q5_K) {
        h = *(const uint2 *)(row + 16 + 8 * step);
        h.x >>= 2 * t;
        h.y >>= 2 * t;
    }
    uint32_t low[2] = {w.x & 0x0f0f0f0fu, w.y & 0x0f0f0f0fu}, high[2] = {w.x >> 4 & 0x0f0f0f0fu, w.y >> 4 & 0x0f0f0f0fu};
    if (L == LAYOUT_Q5_K) {
        low[0] |= (h.x & 0x01010101u) << 4;
        low[1] |= (h.y & 0x01010101u) << 4;
        high[0] |= (h.x & 0x02020202u) << 3;
        high[1] |= (h.y & 0x02020202u) << 3;
    }
    scaled_biased(low[0], low[1], state[0], state[2], out[0]);
    scaled_biased(high[0], high[1], state[1], state[3], out[1]);
}

/* state: four scales, four biases, of sub-blocks 8 (t / 2) + 2 q + t % 2. */
template <int L> static __device__ __forceinline__ void begin_q236_k(const uint8_t *row, int t, uint32_t state[8])
{
    int half = t >> 1, odd = t & 1;
    float d = half_at(row + (L == LAYOUT_Q2_K ? 80 : L == LAYOUT_Q3_K ? 108 : 208)), m = L == LAYOUT_Q2_K ? half_at(row + 82) : 0.f;
#pragma unroll
    for (int q = 0; q < 4; q++) {
        int sub = 2 * q + odd;
        if (L == LAYOUT_Q2_K) {
            uint32_t s = row[8 * half + sub];
            state[q] = both(d * (float)(s & 15));
            state[4 + q] = both(-m * (float)(s >> 4));
        } else if (L == LAYOUT_Q3_K) { /* 6 bits: 4 in the first 8 bytes' nibbles, 2 in the last 4 bytes */
            int low = row[96 + sub] >> (4 * half) & 15, high = row[104 + (sub & 3)] >> (4 * half + 2 * (q >> 1)) & 3;
            state[q] = both(d * (float)((low | high << 4) - 32));
        } else {
            state[q] = both(d * (float)(int8_t)row[192 + 8 * half + sub]);
        }
    }
}

/* Step s: bytes 8 s .. 8 s + 7 of the lane's 16, for pairs q = 0..3. */
template <int L>
static __device__ __forceinline__ void decode_q236_k(const uint8_t *row, const uint32_t state[8], int step, int t, uint32_t out[4][4])
{
    int half = t >> 1, at = 16 * (t & 1) + 8 * step;
    uint32_t low[2], more[2], high[2];
    if (L == LAYOUT_Q6_K) {
        load_words(row + 64 * half + at, 2, low);
        load_words(row + 64 * half + 32 + at, 2, more);
        load_words(row + 128 + 32 * half + at, 2, high);
    } else {
        load_words(row + (L == LAYOUT_Q2_K ? 16 : 32) + 32 * half + at, 2, low);
        if (L == LAYOUT_Q3_K) load_words(row + at, 2, high);
    }
#pragma unroll
    for (int q = 0; q < 4; q++) {
        uint32_t v[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (L == LAYOUT_Q6_K) v[i] = ((q & 1 ? more[i] : low[i]) >> (q & 2 ? 4 : 0) & 0x0f0f0f0fu) | (high[i] >> 2 * q & 0x03030303u) << 4;
            else v[i] = low[i] >> 2 * q & 0x03030303u;
            if (L == LAYOUT_Q3_K) v[i] |= (high[i] >> (4 * half + q) & 0x01010101u) << 2;
        }
        if (L == LAYOUT_Q2_K) scaled_biased(v[0], v[1], state[q], state[4 + q], out[q]);
        else scaled(v[0], v[1], L == LAYOUT_Q6_K ? 32 : 4, state[q], out[q]);
    }
}

/* ---- any layout ---- */

static constexpr __host__ __device__ bool is_q45_k(int layout)
{
    return layout == LAYOUT_Q4_K || layout == LAYOUT_Q5_K;
}
static constexpr __host__ __device__ bool is_q236_k(int layout)
{
    return layout == LAYOUT_Q2_K || layout == LAYOUT_Q3_K || layout == LAYOUT_Q6_K;
}

/* Of a unit's inputs, the chunk of eight k's that lane t has in pair i of a step. */
template <int L> static __device__ __forceinline__ int x_chunk(int step, int i, int t)
{
    if (is_q45_k(L)) return 8 * t + step + 4 * i;
    if (is_q236_k(L)) return 16 * (t >> 1) + 4 * i + 2 * (t & 1) + step;
    return 4 * step + t;
}

/* Where chunk c of column `col` lies in shared memory: eight lanes of two columns meet eight different places of eight. */
template <int L> static __device__ __forceinline__ int x_place(int c, int col)
{
    int flip = (col & 1) << 2;
    if (is_q45_k(L)) flip |= c >> 3 & 3;
    if (is_q236_k(L)) flip |= c >> 4 & 1;
    return c ^ flip;
}

/* The same for chunk c of a weight row, where rows are 128 bytes. */
template <int L> static __device__ __forceinline__ int row_place(int c, int row)
{
    if (L == LAYOUT_FP8) return c ^ (row & 3) << 1;
    if (L == LAYOUT_F16 || L == LAYOUT_BF16) return c ^ (row & 1) << 2;
    return c;
}

/* What a lane keeps of a row while it decodes a unit. `row` is the row's unit in shared memory; for W4 its panel's granule. */
template <int L> static __device__ __forceinline__ void begin_row(const uint8_t *row, int g, int t, uint32_t state[8])
{
    if (L == LAYOUT_W4) {
        uint4 w = *(const uint4 *)(row + (4 * g + t) * 16);
        state[0] = w.x, state[1] = w.y, state[2] = w.z, state[3] = w.w;
    } else if (is_q45_k(L)) {
        begin_q45_k(row, t, state);
    } else if (is_q236_k(L)) {
        begin_q236_k<L>(row, t, state);
    }
}

template <int L>
static __device__ __forceinline__ void decode_row(const uint8_t *row, const uint32_t state[8], int step, int g, int t,
                                                  uint32_t out[layout_shape_of(L).pairs][4])
{
    if constexpr (L == LAYOUT_W4) {
        decode_w4(state[step], out[0]);
    } else if constexpr (L == LAYOUT_FP8) {
        uint2 w = *(const uint2 *)(row + row_place<L>(2 * step + (t >> 1), g) * 16 + (t & 1) * 8);
        halves_of_fp8(w.x, &out[0][0], &out[0][1]);
        halves_of_fp8(w.y, &out[0][2], &out[0][3]);
    } else if constexpr (L == LAYOUT_F16 || L == LAYOUT_BF16) {
        uint4 w = *(const uint4 *)(row + row_place<L>(4 * step + t, g) * 16);
        out[0][0] = w.x, out[0][1] = w.y, out[0][2] = w.z, out[0][3] = w.w;
    } else if constexpr (L == LAYOUT_F32) {
        const float4 *f = (const float4 *)(row + 128 * step + 32 * t);
        float4 a = f[0], b = f[1];
        out[0][0] = half2_bits(__floats2half2_rn(a.x, a.y));
        out[0][1] = half2_bits(__floats2half2_rn(a.z, a.w));
        out[0][2] = half2_bits(__floats2half2_rn(b.x, b.y));
        out[0][3] = half2_bits(__floats2half2_rn(b.z, b.w));
    } else if constexpr (is_q45_k(L)) {
        decode_q45_k<L>(row, state, step, t, out);
    } else if constexpr (is_q236_k(L)) {
        decode_q236_k<L>(row, state, step, t, out);
    } else {
        decode_legacy<L>(row, step, t, out[0]);
    }
}

#endif
