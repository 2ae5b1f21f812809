/* Sketches: the picture is in the header. */
#include "router/sketch.h"

#include <math.h>
#include <sodium.h>
#include <string.h>

static const double BASE_REACH = 5.3; /* log-odds of 0.995: what a byte of a score reaches to, both ways */

void sketch_key_init(struct sketch_key *out, const unsigned char key[32])
{
    _Static_assert(sizeof out->word == 32, "the whole key is used");
    (void)crypto_generichash((unsigned char *)out->word, sizeof out->word, (const unsigned char *)"sketch", 6, key, 32);
    unsigned char name[16];
    (void)crypto_generichash(name, sizeof name, (const unsigned char *)"sketch key's name", 17, key, 32);
    memcpy(out->id, name, sizeof out->id);
}

/* Folded products under two secret words: what tells two words apart depends on the key alone. A sketch adds hundreds of
 * them up and keeps signs, so that single values never show; a stronger hash would cost more than the request path. */
static uint64_t fold(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

void sketch_start(struct sketch_sums *sums)
{
    memset(sums, 0, sizeof *sums);
}

/* Each distinct word adds +1 or -1 at two places that only the key tells. */
void sketch_add(struct sketch_sums *s, const struct sketch_key *key, const struct gram *grams, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (grams[i].kind != GRAM_WORD) continue;
        uint64_t bit = 1ull << (grams[i].hash & 63), *seen = &s->seen[grams[i].hash >> 6 & 511];
        if (*seen & bit) continue;
        *seen |= bit;
        uint64_t h = fold(fold(grams[i].hash ^ key->word[0], key->word[1] | 1) ^ key->word[2], key->word[3] | 1);
        int16_t *first = &s->at[(h & 0xffffff) % SKETCH_TRITS], *second = &s->at[(h >> 24 & 0xffffff) % SKETCH_TRITS];
        *first = (int16_t)(*first + (h >> 63 ? 1 : -1));
        *second = (int16_t)(*second + (h >> 62 & 1 ? 1 : -1));
    }
}

/* A sum counts as + or - beyond 0.6 of the sums' deviation: of three levels the ones that keep most of a normal variable. */
SKETCH_WIDE static void cut_trits(struct sketch *out, const struct sketch_sums *sums)
{
    int32_t norm2 = 0;
    for (int i = 0; i < SKETCH_TRITS; i++) norm2 += sums->at[i] * sums->at[i];
    int16_t limit = (int16_t)sqrt(0.36 * norm2 / SKETCH_TRITS), filled = 0;
    for (int i = 0; i < SKETCH_TRITS; i++) {
        int16_t up = sums->at[i] > limit, down = sums->at[i] < -limit;
        out->trit[i] = (int8_t)(up - down);
        filled = (int16_t)(filled + up + down);
    }
    out->filled = filled;
}

static unsigned char byte_of(double x)
{
    double v = x < 0 ? 0 : x > 255 ? 255 : x;
    return (unsigned char)lrint(v);
}

void sketch_close(struct sketch *out, const struct sketch_sums *sums, const float counted[COUNTED])
{
    cut_trits(out, sums);
    for (int i = 0; i < COUNTED; i++) out->counted[i] = (float)byte_of(10 * (double)counted[i]) / 10;
}

/* Probability to byte and back; 0: none. */
static unsigned char base_byte(double p)
{
    if (!(p >= 0)) return 0;
    double logit = p <= 0 ? -BASE_REACH : p >= 1 ? BASE_REACH : log(p / (1 - p));
    double cut = logit < -BASE_REACH ? -BASE_REACH : logit > BASE_REACH ? BASE_REACH : logit;
    return (unsigned char)(1 + lrint((cut + BASE_REACH) / (2 * BASE_REACH) * 254));
}
static double base_p(unsigned char byte)
{
    return byte ? 1 / (1 + exp(BASE_REACH - (byte - 1) / 254.0 * 2 * BASE_REACH)) : -1;
}

static void put_trits(const int8_t *trit, unsigned char *out)
{
    for (int i = 0; i < SKETCH_TRITS; i += SKETCH_TRITS_A_BYTE) {
        int byte = 0;
        for (int k = SKETCH_TRITS_A_BYTE - 1; k >= 0; k--) byte = 3 * byte + trit[i + k] + 1;
        *out++ = (unsigned char)byte;
    }
}

struct walk_ctx {
    struct sketch_key key;
    struct sketch_sums sums;
};
static void add_grams(void *ctx, const struct gram *grams, size_t count)
{
    struct walk_ctx *w = ctx;
    sketch_add(&w->sums, &w->key, grams, count);
}

void router_sketch(const struct router_input *in, const unsigned char key[32], const struct router_base *base,
                   unsigned char out[ROUTER_SKETCH_BYTES])
{
    struct walk_ctx w;
    struct sketch s;
    float counted[COUNTED];
    sketch_key_init(&w.key, key);
    sketch_start(&w.sums);
    features_walk(in, add_grams, &w, counted);
    sketch_close(&s, &w.sums, counted);
    static const unsigned char NONE[SKETCH_BASE_ID];
    if (base && memcmp(base->id, NONE, sizeof NONE) == 0) base = NULL;
    unsigned char *to = out;
    *to++ = SKETCH_VERSION;
    memcpy(to, w.key.id, SKETCH_KEY_ID);
    to += SKETCH_KEY_ID;
    memset(to, 0, SKETCH_BASE_ID);
    if (base) memcpy(to, base->id, SKETCH_BASE_ID);
    to += SKETCH_BASE_ID;
    for (int t = 0; t < TIERS; t++) *to++ = base ? base_byte(base->p[t]) : 0;
    for (int i = 0; i < COUNTED; i++) *to++ = byte_of(10 * (double)s.counted[i]);
    put_trits(s.trit, to);
    sodium_memzero(&w, sizeof w);
}

bool sketch_read(struct sketch *out, const unsigned char *bytes, size_t len)
{
    if (len != ROUTER_SKETCH_BYTES || bytes[0] != SKETCH_VERSION) return false;
    const unsigned char *from = bytes + 1;
    memcpy(out->key_id, from, SKETCH_KEY_ID);
    from += SKETCH_KEY_ID;
    memcpy(out->base_id, from, SKETCH_BASE_ID);
    from += SKETCH_BASE_ID;
    for (int t = 0; t < TIERS; t++) out->base[t] = base_p(*from++);
    for (int i = 0; i < COUNTED; i++) out->counted[i] = (float)*from++ / 10;
    out->filled = 0;
    for (int i = 0; i < SKETCH_TRITS; i += SKETCH_TRITS_A_BYTE) {
        int byte = *from++;
        if (byte >= 243) return false;
        for (int k = 0; k < SKETCH_TRITS_A_BYTE; k++, byte /= 3) {
            out->trit[i + k] = (int8_t)(byte % 3 - 1);
            out->filled += out->trit[i + k] != 0;
        }
    }
    return true;
}
