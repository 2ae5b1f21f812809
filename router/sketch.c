/* A prompt's shadow for the log: random signs under a secret key, so that no list of n-grams can be read back. */
#include "router/features.h"

#include <math.h>
#include <sodium.h>
#include <string.h>

enum { SKETCH_GRAMS = ROUTER_SKETCH_BYTES - COUNTED };
struct sketch {
    unsigned char key[crypto_shorthash_KEYBYTES];
    int32_t sum[SKETCH_GRAMS];
};

/* Each n-gram adds +1 or -1 at two places that only the key tells. */
static void add_grams(void *ctx, const struct gram *grams, size_t count)
{
    struct sketch *s = ctx;
    for (size_t i = 0; i < count; i++) {
        unsigned char hash[crypto_shorthash_BYTES];
        (void)crypto_shorthash(hash, (const unsigned char *)&grams[i].hash, sizeof grams[i].hash, s->key);
        uint64_t h;
        memcpy(&h, hash, sizeof h);
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
    _Static_assert(sizeof s.key <= 32, "the key is long enough");
    memcpy(s.key, key, sizeof s.key);
    float counted[COUNTED];
    features_walk(in, add_grams, &s, counted);
    double norm2 = 1e-9;
    for (int i = 0; i < SKETCH_GRAMS; i++) norm2 += (double)s.sum[i] * s.sum[i];
    double unit = 24 * sqrt(SKETCH_GRAMS / norm2); /* most lie within ±3 deviations: ±72 */
    for (int i = 0; i < COUNTED; i++) out[i] = byte_of(10 * (double)counted[i] - 100);
    for (int i = 0; i < SKETCH_GRAMS; i++) out[COUNTED + i] = byte_of(unit * s.sum[i]);
    sodium_memzero(&s, sizeof s);
}
