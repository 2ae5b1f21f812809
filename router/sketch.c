/* A prompt's shadow for the log: random signs under a secret key, so that no list of n-grams can be read back. */
#include "router/features.h"

#include <math.h>
#include <sodium.h>
#include <string.h>

enum { SKETCH_GRAMS = ROUTER_SKETCH_BYTES - COUNTED };
struct sketch {
    uint64_t key[4];
    int32_t sum[SKETCH_GRAMS];
};

/* Folded products under two secret words: what tells two n-grams apart depends on the key alone. A sketch adds hundreds of
 * them up and is rounded to bytes, so that single values never show; a stronger hash would cost more than the request path. */
static uint64_t fold(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Each n-gram adds +1 or -1 at two places that only the key tells. */
static void add_grams(void *ctx, const struct gram *grams, size_t count)
{
    struct sketch *s = ctx;
    for (size_t i = 0; i < count; i++) {
        uint64_t h = fold(fold(grams[i].hash ^ s->key[0], s->key[1] | 1) ^ s->key[2], s->key[3] | 1);
        s->sum[(h & 0xffffff) % SKETCH_GRAMS] += h >> 63 ? 1 : -1;
        s->sum[(h >> 24 & 0xffffff) % SKETCH_GRAMS] += h >> 62 & 1 ? 1 : -1;
    }
}

static unsigned char byte_of(double x)
{
    double v = x < -127 ? -127 : x > 127 ? 127 : x;
    return (unsigned char)(lrint(v) + 128);
}

void router_sketch(const struct router_input *in, const unsigned char key[32], unsigned char out[ROUTER_SKETCH_BYTES])
{
    struct sketch s = {0};
    _Static_assert(sizeof s.key == 32, "the whole key is used");
    (void)crypto_generichash((unsigned char *)s.key, sizeof s.key, (const unsigned char *)"sketch", 6, key, 32);
    float counted[COUNTED];
    features_walk(in, add_grams, &s, counted);
    double norm2 = 1e-9;
    for (int i = 0; i < SKETCH_GRAMS; i++) norm2 += (double)s.sum[i] * s.sum[i];
    double unit = 24 * sqrt(SKETCH_GRAMS / norm2); /* most lie within ±3 deviations: ±72 */
    for (int i = 0; i < COUNTED; i++) out[i] = byte_of(10 * (double)counted[i] - 100);
    for (int i = 0; i < SKETCH_GRAMS; i++) out[COUNTED + i] = byte_of(unit * s.sum[i]);
    sodium_memzero(&s, sizeof s);
}
