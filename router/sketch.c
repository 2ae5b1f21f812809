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
    memset(sums, 0, offsetof(struct sketch_sums, place));
}

static inline void sum_add(struct sketch_sums *s, unsigned place, int sign)
{
    s->norm2 += 2 * sign * s->at[place] + 1;
    s->at[place] = (int16_t)(s->at[place] + sign);
    if (s->places < SKETCH_PLACES) s->place[s->places] = (uint16_t)place;
    s->places += s->places <= SKETCH_PLACES;
}

/* Each distinct word adds +1 or -1 at two places that only the key tells. */
static inline void word_add(struct sketch_sums *s, const struct sketch_key *key, uint32_t hash)
{
    uint64_t bit = 1ull << (hash & 63), *seen = &s->seen[hash >> 6 & 511];
    if (*seen & bit) return;
    *seen |= bit;
    uint64_t h = fold(fold(hash ^ key->word[0], key->word[1] | 1) ^ key->word[2], key->word[3] | 1);
    sum_add(s, (unsigned)((h & 0xffffff) % SKETCH_TRITS), h >> 63 ? 1 : -1);
    sum_add(s, (unsigned)((h >> 24 & 0xffffff) % SKETCH_TRITS), h >> 62 & 1 ? 1 : -1);
}

void sketch_add(struct sketch_sums *s, const struct sketch_key *key, const struct gram *grams, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (grams[i].kind == GRAM_WORD) word_add(s, key, grams[i].hash);
}

void sketch_add_words(struct sketch_sums *s, const struct sketch_key *key, const uint32_t *hashes, size_t count)
{
    for (size_t i = 0; i < count; i++) word_add(s, key, hashes[i]);
}

/* A sum counts as + or - beyond 0.6 of the sums' deviation: of three levels the ones that keep most of a normal variable. */
static int16_t limit_of(const struct sketch_sums *sums)
{
    return (int16_t)sqrt(0.36 * sums->norm2 / SKETCH_TRITS);
}

SKETCH_WIDE static void cut_trits(struct sketch *out, const struct sketch_sums *sums)
{
    int16_t limit = limit_of(sums), filled = 0;
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

enum { ZEROS = 121 /* a byte of five zeros */, RUN = 242, RUN_MAX = 255 - RUN };

static void put_all(const struct sketch_sums *sums, int16_t limit, unsigned char *out)
{
    for (int i = 0; i < SKETCH_TRITS; i += SKETCH_TRITS_A_BYTE) {
        int byte = 0;
        for (int k = SKETCH_TRITS_A_BYTE - 1; k >= 0; k--)
            byte = 3 * byte + (sums->at[i + k] > limit) - (sums->at[i + k] < -limit) + 1;
        *out++ = (unsigned char)byte;
    }
}

/* Most sums of a short prompt are 0: only those that a word went into are looked at, each once. */
static void put_trits(struct sketch_sums *sums, unsigned char *out)
{
    static const int POWER[SKETCH_TRITS_A_BYTE] = {1, 3, 9, 27, 81};
    int16_t limit = limit_of(sums);
    if (sums->places > SKETCH_PLACES) {
        put_all(sums, limit, out);
        return;
    }
    memset(out, ZEROS, SKETCH_TRITS / SKETCH_TRITS_A_BYTE);
    for (int i = 0; i < sums->places; i++) {
        unsigned place = sums->place[i];
        int trit = (sums->at[place] > limit) - (sums->at[place] < -limit);
        unsigned char *byte = &out[place / SKETCH_TRITS_A_BYTE];
        *byte = (unsigned char)(*byte + trit * POWER[place % SKETCH_TRITS_A_BYTE]);
        sums->at[place] = 0;
    }
}

struct walk_ctx {
    const struct sketch_key *key;
    struct sketch_sums *sums;
};
static void add_grams(void *ctx, const struct gram *grams, size_t count)
{
    struct walk_ctx *w = ctx;
    sketch_add(w->sums, w->key, grams, count);
}

static unsigned char *put_head(const struct sketch_key *key, const struct router_base *base, unsigned char *to)
{
    static const unsigned char NONE[SKETCH_BASE_ID];
    if (base && memcmp(base->id, NONE, sizeof NONE) == 0) base = NULL;
    *to++ = SKETCH_VERSION;
    memcpy(to, key->id, SKETCH_KEY_ID);
    to += SKETCH_KEY_ID;
    memset(to, 0, SKETCH_BASE_ID);
    if (base) memcpy(to, base->id, SKETCH_BASE_ID);
    to += SKETCH_BASE_ID;
    for (int t = 0; t < TIERS; t++) *to++ = base ? base_byte(base->p[t]) : 0;
    return to;
}

void sketch_make(const struct router_input *in, const struct router_trace *trace, const struct sketch_key *key,
                 const struct router_base *base, unsigned char out[ROUTER_SKETCH_BYTES])
{
    _Static_assert((int)ROUTER_COUNTED == (int)COUNTED, "a trace holds every counted feature");
    struct sketch_sums sums;
    float walked[COUNTED];
    const float *counted = walked;
    sketch_start(&sums);
    if (trace && trace->words <= ROUTER_TRACE_WORDS) {
        sketch_add_words(&sums, key, trace->word, (size_t)trace->words);
        counted = trace->counted;
    } else {
        features_walk(in, add_grams, &(struct walk_ctx){key, &sums}, walked);
    }
    unsigned char *to = put_head(key, base, out);
    for (int i = 0; i < COUNTED; i++) *to++ = byte_of(10 * (double)counted[i]);
    put_trits(&sums, to);
}

void router_sketch(const struct router_input *in, const unsigned char key[32], const struct router_base *base,
                   unsigned char out[ROUTER_SKETCH_BYTES])
{
    struct sketch_key own;
    sketch_key_init(&own, key);
    sketch_make(in, NULL, &own, base, out);
    sodium_memzero(&own, sizeof own);
}

/* ---- as a log keeps it ---- */

enum { PLAIN = SKETCH_HEAD + COUNTED /* bytes before the sums */ };

size_t sketch_pack(const unsigned char in[ROUTER_SKETCH_BYTES], unsigned char out[ROUTER_SKETCH_BYTES])
{
    memcpy(out, in, PLAIN);
    out[0] = SKETCH_VERSION_PACKED;
    unsigned char *to = out + PLAIN;
    for (size_t i = PLAIN; i < ROUTER_SKETCH_BYTES;) {
        size_t from = i, end = i + RUN_MAX < ROUTER_SKETCH_BYTES ? i + RUN_MAX : ROUTER_SKETCH_BYTES;
        while (i < end && in[i] == ZEROS) i++;
        *to++ = i > from ? (unsigned char)(RUN + (i - from)) : in[i++];
    }
    return (size_t)(to - out);
}

bool sketch_unpack(const unsigned char *bytes, size_t len, unsigned char out[ROUTER_SKETCH_BYTES])
{
    if (len < PLAIN || len > ROUTER_SKETCH_BYTES) return false;
    if (bytes[0] == SKETCH_VERSION && len == ROUTER_SKETCH_BYTES) {
        memcpy(out, bytes, len);
        return true;
    }
    if (bytes[0] != SKETCH_VERSION_PACKED) return false;
    memcpy(out, bytes, PLAIN);
    out[0] = SKETCH_VERSION;
    unsigned char *to = out + PLAIN, *end = out + ROUTER_SKETCH_BYTES;
    for (size_t i = PLAIN; i < len; i++) {
        ptrdiff_t run = bytes[i] > RUN ? bytes[i] - RUN : 1;
        if (run > end - to) return false;
        memset(to, bytes[i] > RUN ? ZEROS : bytes[i], (size_t)run);
        to += run;
    }
    return to == end;
}

bool sketch_read(struct sketch *out, const unsigned char *bytes, size_t len)
{
    unsigned char plain[ROUTER_SKETCH_BYTES];
    if (!sketch_unpack(bytes, len, plain)) return false;
    const unsigned char *from = plain + 1;
    memcpy(out->key_id, from, SKETCH_KEY_ID);
    from += SKETCH_KEY_ID;
    memcpy(out->base_id, from, SKETCH_BASE_ID);
    from += SKETCH_BASE_ID;
    for (int t = 0; t < TIERS; t++) out->base[t] = base_p(*from++);
    for (int i = 0; i < COUNTED; i++) out->counted[i] = (float)*from++ / 10;
    out->filled = 0;
    for (int i = 0; i < SKETCH_TRITS; i += SKETCH_TRITS_A_BYTE) {
        int byte = *from++;
        if (byte > RUN) return false;
        for (int k = 0; k < SKETCH_TRITS_A_BYTE; k++, byte /= 3) {
            out->trit[i + k] = (int8_t)(byte % 3 - 1);
            out->filled += out->trit[i + k] != 0;
        }
    }
    return true;
}
