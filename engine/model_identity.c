#include "engine/model_identity.h"

#include <stdio.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

/* SHA-256 (FIPS 180-4). */
struct sha256 {
    uint32_t state[8];
    uint64_t bytes;
    uint8_t block[64];
    void (*each)(struct sha256 *h, const uint8_t *block);
};

static const uint32_t SHA256_K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t turn(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

#if defined(__x86_64__)
/* The processor's own rounds, two at a time, on the state as its registers want it: a b e f and c d g h. */
static __attribute__((target("sha,sse4.1"))) void sha256_block_sha(struct sha256 *h, const uint8_t *p)
{
    const __m128i turned = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    __m128i low = _mm_shuffle_epi32(_mm_loadu_si128((const void *)h->state), 0xb1), w[4];
    __m128i high = _mm_shuffle_epi32(_mm_loadu_si128((const void *)(h->state + 4)), 0x1b);
    __m128i abef = _mm_alignr_epi8(low, high, 8), cdgh = _mm_blend_epi16(high, low, 0xf0), first = abef, second = cdgh;
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
        if (i < 4) w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const void *)(p + i * 16)), turned);
        else
            w[i % 4] = _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(w[i % 4], w[(i + 1) % 4]),
                                                          _mm_alignr_epi8(w[(i + 3) % 4], w[(i + 2) % 4], 4)), w[(i + 3) % 4]);
        __m128i k = _mm_add_epi32(w[i % 4], _mm_loadu_si128((const void *)(SHA256_K + i * 4)));
        cdgh = _mm_sha256rnds2_epu32(cdgh, abef, k);
        abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(k, 0x0e));
    }
    low = _mm_shuffle_epi32(_mm_add_epi32(abef, first), 0x1b);   /* a b e f */
    high = _mm_shuffle_epi32(_mm_add_epi32(cdgh, second), 0xb1); /* g h c d */
    _mm_storeu_si128((void *)h->state, _mm_blend_epi16(low, high, 0xf0));
    _mm_storeu_si128((void *)(h->state + 4), _mm_alignr_epi8(high, low, 8));
}

static bool has_sha(void)
{
    unsigned a, b, c, d;
    return __builtin_cpu_supports("sse4.1") && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 29 & 1);
}
#endif

static void sha256_block(struct sha256 *h, const uint8_t *p)
{
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)p[i * 4] << 24 | (uint32_t)p[i * 4 + 1] << 16 | (uint32_t)p[i * 4 + 2] << 8 | p[i * 4 + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (turn(a, 7) ^ turn(a, 18) ^ a >> 3) + w[i - 7] + (turn(b, 17) ^ turn(b, 19) ^ b >> 10);
    }
    memcpy(s, h->state, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t t1 = s[7] + (turn(s[4], 6) ^ turn(s[4], 11) ^ turn(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) + SHA256_K[i] + w[i];
        uint32_t t2 = (turn(s[0], 2) ^ turn(s[0], 13) ^ turn(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) h->state[i] += s[i];
}

static void sha256_add(struct sha256 *h, const void *data, size_t len)
{
    const uint8_t *p = data;
    size_t have = h->bytes % 64;
    while (len) {
        if (have == 0 && len >= 64) {
            h->each(h, p);
            h->bytes += 64;
            p += 64;
            len -= 64;
            continue;
        }
        size_t n = 64 - have < len ? 64 - have : len;
        memcpy(h->block + have, p, n);
        h->bytes += n;
        p += n;
        len -= n;
        if (have + n == 64) h->each(h, h->block);
        have = h->bytes % 64;
    }
}

static void sha256_hex(struct sha256 *h, char out[65])
{
    uint64_t bits = h->bytes * 8;
    uint8_t tail[8];
    sha256_add(h, "\x80", 1);
    while (h->bytes % 64 != 56) sha256_add(h, "", 1);
    for (int i = 0; i < 8; i++) tail[i] = (uint8_t)(bits >> (56 - 8 * i));
    sha256_add(h, tail, 8);
    for (int i = 0; i < 8; i++) (void)snprintf(out + i * 8, 9, "%08x", h->state[i]);
}

enum { SAMPLES = 8, SAMPLE_BYTES = 128 };

static void add_tensor(struct sha256 *h, const struct gguf_tensor *t)
{
    uint32_t type = (uint32_t)t->type;
    sha256_add(h, t->name.data, t->name.len);
    sha256_add(h, &type, sizeof type);
    sha256_add(h, t->shape, (size_t)t->dims * sizeof t->shape[0]);
    for (int64_t i = 0; i < SAMPLES && t->data; i++) { /* NULL: a shape's, which a GPU makes */
        int64_t at = t->bytes / SAMPLES * i, n = t->bytes - at < SAMPLE_BYTES ? t->bytes - at : SAMPLE_BYTES;
        sha256_add(h, (const char *)t->data + at, (size_t)n);
    }
}

void model_identity(const struct gguf *gguf, char out[65])
{
    struct sha256 h = {.state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19},
                       .each = sha256_block};
#if defined(__x86_64__)
    if (has_sha()) h.each = sha256_block_sha;
#endif
    size_t len;
    const void *head = gguf_header(gguf, &len);
    sha256_add(&h, head, len);
    for (int i = 0; i < gguf_tensor_count(gguf); i++) add_tensor(&h, gguf_tensor_at(gguf, i));
    sha256_hex(&h, out);
}
