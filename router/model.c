/* Router files: writing, reading and checking them. */
#include "router/model.h"

#include "base/buf.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "router files are written as they lie in memory");

static const unsigned char MAGIC[8] = {'r', 'u', 'n', 'g', 'r', 't', 'r', '\n'};
enum { HEAD_BYTES = 32, HASH_BYTES = 16 };
#define TAG(a, b, c, d) ((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)
enum {
    TAG_INFO = TAG('i', 'n', 'f', 'o'),
    TAG_GRAMS = TAG('g', 'r', 'a', 'm'),
    TAG_COUNTED = TAG('c', 'n', 't', 'd'),
    TAG_WAVES = TAG('w', 'a', 'v', 'e'),
    TAG_CALIBRATION = TAG('c', 'a', 'l', 'i'),
};

struct section_info { /* as it lies in the file */
    uint32_t tiers, general;
    int64_t rows, fitted_wall_ms;
    char names[TIERS][64];
};
struct section_grams {
    uint32_t bits, reserved;
    float scale[TIERS], bias[TIERS];
};

struct router *model_new(unsigned bits, int waves)
{
    assert(bits >= MODEL_BITS_MIN && bits <= MODEL_BITS_MAX && waves >= 0 && waves <= MODEL_WAVES_MAX);
    struct router *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    size_t n = (size_t)waves + 1; /* never of size 0 */
    r->bits = bits;
    r->waves = waves;
    r->buckets = calloc((size_t)1 << bits, sizeof *r->buckets);
    r->wave = calloc(n * COUNTED, sizeof *r->wave);
    r->phase = calloc(n, sizeof *r->phase);
    r->wave_w = calloc(n * TIERS, sizeof *r->wave_w);
    if (r->buckets && r->wave && r->phase && r->wave_w) return r;
    router_free(r);
    return NULL;
}

void router_free(struct router *r)
{
    if (!r) return;
    free(r->buckets);
    free(r->wave);
    free(r->phase);
    free(r->wave_w);
    free(r);
}

/* ---- writing ---- */

static void section(struct buf *b, uint32_t tag, const void *head, size_t head_len, const void *data, size_t len)
{
    uint32_t words[2] = {tag, (uint32_t)(head_len + len)};
    (void)buf_add(b, words, sizeof words);
    (void)buf_add(b, head, head_len);
    if (len) (void)buf_add(b, data, len);
    while (b->len % 8 && buf_ok(b)) (void)buf_addc(b, '\0');
}

static enum err_code write_file(const char *path, const struct buf *b, struct err *e)
{
    char part[4096];
    if (snprintf(part, sizeof part, "%s.part", path) >= (int)sizeof part)
        return err_set(e, ERR_INVALID, "the path of the router file is longer than %zu bytes", sizeof part - 6);
    FILE *f = fopen(part, "wb");
    if (!f) return err_set(e, ERR_IO, "cannot write %.150s: %s", part, strerror(errno));
    bool ok = fwrite(b->data, 1, b->len, f) == b->len;
    ok = fclose(f) == 0 && ok;
    if (ok && rename(part, path) == 0) return ERR_OK;
    enum err_code code = err_set(e, ERR_IO, "cannot write %.150s: %s", path, strerror(errno));
    (void)remove(part);
    return code;
}

static void fingerprint(struct router *r, const unsigned char hash[HASH_BYTES])
{
    for (int i = 0; i < 8; i++) (void)snprintf(r->info.fingerprint + 2 * i, 3, "%02x", hash[i]);
}

enum err_code model_save(struct router *r, const char *path, struct err *e)
{
    struct buf b;
    buf_init(&b, MODEL_BYTES_MAX);
    unsigned char head[HEAD_BYTES] = {0};
    (void)buf_add(&b, head, sizeof head);

    struct section_info info = {(uint32_t)r->info.tiers, r->info.general, r->info.rows, r->info.fitted_wall_ms, {{0}}};
    memcpy(info.names, r->info.names, sizeof info.names);
    section(&b, TAG_INFO, &info, sizeof info, NULL, 0);
    struct section_grams grams = {.bits = r->bits};
    memcpy(grams.scale, r->scale, sizeof grams.scale);
    memcpy(grams.bias, r->bias, sizeof grams.bias);
    section(&b, TAG_GRAMS, &grams, sizeof grams, r->buckets, sizeof *r->buckets << r->bits);
    section(&b, TAG_COUNTED, r->mean, sizeof r->mean, r->gain, sizeof r->gain);
    size_t per_wave = COUNTED + 1 + TIERS, n = (size_t)r->waves;
    float *waves = calloc(n * per_wave + 1, sizeof *waves);
    if (waves) {
        memcpy(waves, r->wave, n * COUNTED * sizeof *waves);
        memcpy(waves + n * COUNTED, r->phase, n * sizeof *waves);
        memcpy(waves + n * (COUNTED + 1), r->wave_w, n * TIERS * sizeof *waves);
        uint64_t count = n;
        section(&b, TAG_WAVES, &count, sizeof count, waves, n * per_wave * sizeof *waves);
    }
    section(&b, TAG_CALIBRATION, r->platt, sizeof r->platt, NULL, 0);
    bool complete = waves && buf_ok(&b);
    free(waves);
    enum err_code code = complete ? ERR_OK : err_set(e, ERR_MEMORY, "out of memory writing a router");
    if (!code) {
        uint32_t words[2] = {MODEL_VERSION, 5};
        unsigned char hash[HASH_BYTES];
        (void)crypto_generichash(hash, sizeof hash, (unsigned char *)b.data + HEAD_BYTES, b.len - HEAD_BYTES, NULL, 0);
        memcpy(b.data, MAGIC, 8);
        memcpy(b.data + 8, words, 8);
        memcpy(b.data + 16, hash, HASH_BYTES);
        fingerprint(r, hash);
        code = write_file(path, &b, e);
    }
    buf_release(&b);
    return code;
}

/* ---- reading ---- */

struct reading {
    const char *what;
    const unsigned char *at, *end;
    struct err *e;
};

static enum err_code damaged(const struct reading *in, const char *where, const char *want)
{
    return err_set(in->e, ERR_CORRUPT, "%.100s is damaged: its section '%s' %s", in->what, where, want);
}

static bool all_finite(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]) || fabsf(x[i]) > 1e9f) return false;
    return true;
}

static enum err_code read_info(struct router *r, const struct reading *in, const unsigned char *data, size_t len)
{
    struct section_info info;
    if (len != sizeof info) return damaged(in, "info", "has the wrong length");
    memcpy(&info, data, sizeof info);
    if (info.tiers < 2 || info.tiers > TIERS) return damaged(in, "info", "wants 2 or 3 tiers");
    for (int t = 0; t < TIERS; t++)
        if (!memchr(info.names[t], 0, sizeof info.names[t])) return damaged(in, "info", "has a name without end");
    if (info.rows < 0) return damaged(in, "info", "has a negative number of rows");
    r->info.tiers = (int)info.tiers;
    r->info.general = info.general != 0;
    r->info.rows = info.rows;
    r->info.fitted_wall_ms = info.fitted_wall_ms;
    memcpy(r->info.names, info.names, sizeof info.names);
    return ERR_OK;
}

static enum err_code read_grams(struct router *r, const struct reading *in, const unsigned char *data, size_t len)
{
    struct section_grams head;
    if (len < sizeof head) return damaged(in, "gram", "is too short");
    memcpy(&head, data, sizeof head);
    if (head.bits < MODEL_BITS_MIN || head.bits > MODEL_BITS_MAX) return damaged(in, "gram", "wants 2^8 to 2^18 buckets");
    size_t bytes = sizeof *r->buckets << head.bits;
    if (len != sizeof head + bytes) return damaged(in, "gram", "has not the buckets it says");
    if (!all_finite(head.scale, TIERS) || !all_finite(head.bias, TIERS)) return damaged(in, "gram", "holds no numbers");
    free(r->buckets);
    r->bits = head.bits;
    r->buckets = malloc(bytes);
    if (!r->buckets) return err_set(in->e, ERR_MEMORY, "out of memory reading %.100s", in->what);
    memcpy(r->buckets, data + sizeof head, bytes);
    memcpy(r->scale, head.scale, sizeof r->scale);
    memcpy(r->bias, head.bias, sizeof r->bias);
    return ERR_OK;
}

static enum err_code read_counted(struct router *r, const struct reading *in, const unsigned char *data, size_t len)
{
    if (len != sizeof r->mean + sizeof r->gain) return damaged(in, "cntd", "counts other features than this program");
    memcpy(r->mean, data, sizeof r->mean);
    memcpy(r->gain, data + sizeof r->mean, sizeof r->gain);
    if (!all_finite(r->mean, COUNTED) || !all_finite(r->gain, COUNTED)) return damaged(in, "cntd", "holds no numbers");
    return ERR_OK;
}

static enum err_code read_waves(struct router *r, const struct reading *in, const unsigned char *data, size_t len)
{
    uint64_t n;
    size_t per_wave = (COUNTED + 1 + TIERS) * sizeof(float);
    if (len < sizeof n) return damaged(in, "wave", "is too short");
    memcpy(&n, data, sizeof n);
    if (n > MODEL_WAVES_MAX || len != sizeof n + n * per_wave) return damaged(in, "wave", "has not the waves it says");
    data += sizeof n;
    memcpy(r->wave, data, n * COUNTED * sizeof(float));
    memcpy(r->phase, data + n * COUNTED * sizeof(float), n * sizeof(float));
    memcpy(r->wave_w, data + n * (COUNTED + 1) * sizeof(float), n * TIERS * sizeof(float));
    r->waves = (int)n;
    bool ok = all_finite(r->wave, n * COUNTED) && all_finite(r->phase, n) && all_finite(r->wave_w, n * TIERS);
    return ok ? ERR_OK : damaged(in, "wave", "holds no numbers");
}

static enum err_code read_calibration(struct router *r, const struct reading *in, const unsigned char *data, size_t len)
{
    if (len != sizeof r->platt) return damaged(in, "cali", "has the wrong length");
    memcpy(r->platt, data, sizeof r->platt);
    return all_finite(&r->platt[0][0], TIERS * 2) ? ERR_OK : damaged(in, "cali", "holds no numbers");
}

static const struct section_reader {
    uint32_t tag;
    const char *name;
    enum err_code (*read)(struct router *r, const struct reading *in, const unsigned char *data, size_t len);
} SECTIONS[] = {
    {TAG_INFO, "info", read_info},     {TAG_GRAMS, "gram", read_grams},          {TAG_COUNTED, "cntd", read_counted},
    {TAG_WAVES, "wave", read_waves},   {TAG_CALIBRATION, "cali", read_calibration},
};
#define SECTIONS_COUNT (sizeof SECTIONS / sizeof SECTIONS[0])

static enum err_code read_sections(struct router *r, struct reading *in, uint32_t count)
{
    bool had[SECTIONS_COUNT] = {0};
    for (uint32_t i = 0; i < count; i++) {
        uint32_t words[2];
        size_t left = (size_t)(in->end - in->at);
        if (left < sizeof words) return damaged(in, "?", "is missing: the file is cut off");
        memcpy(words, in->at, sizeof words);
        size_t padded = ((size_t)words[1] + 7) & ~(size_t)7;
        if (padded > left - sizeof words) return damaged(in, "?", "is cut off");
        for (size_t s = 0; s < SECTIONS_COUNT; s++) {
            if (SECTIONS[s].tag != words[0]) continue;
            if (had[s]) return damaged(in, SECTIONS[s].name, "comes twice");
            had[s] = true;
            enum err_code code = SECTIONS[s].read(r, in, in->at + sizeof words, words[1]);
            if (code) return code;
        }
        in->at += sizeof words + padded;
    }
    for (size_t s = 0; s < SECTIONS_COUNT; s++)
        if (!had[s]) return damaged(in, SECTIONS[s].name, "is missing");
    return ERR_OK;
}

enum err_code model_parse(struct router **out, const unsigned char *data, size_t len, const char *what, struct err *e)
{
    if (len < HEAD_BYTES || memcmp(data, MAGIC, sizeof MAGIC) != 0)
        return err_set(e, ERR_CORRUPT, "%.100s is not a router file (made by: rung router train)", what);
    uint32_t words[2];
    memcpy(words, data + 8, sizeof words);
    if (words[0] != MODEL_VERSION)
        return err_set(e, ERR_VERSION, "%.100s has version %u, this program reads %d: fit it again", what, words[0],
                       MODEL_VERSION);
    unsigned char hash[HASH_BYTES];
    (void)crypto_generichash(hash, sizeof hash, data + HEAD_BYTES, len - HEAD_BYTES, NULL, 0);
    if (memcmp(hash, data + 16, HASH_BYTES) != 0)
        return err_set(e, ERR_CORRUPT, "%.100s is damaged: its content does not match its hash", what);
    struct router *r = model_new(MODEL_BITS_MIN, MODEL_WAVES_MAX);
    if (!r) return err_set(e, ERR_MEMORY, "out of memory reading %.100s", what);
    struct reading in = {what, data + HEAD_BYTES, data + len, e};
    enum err_code code = read_sections(r, &in, words[1]);
    if (code) {
        router_free(r);
        return code;
    }
    fingerprint(r, hash);
    *out = r;
    return ERR_OK;
}

enum err_code router_load(struct router **out, const char *path, struct err *e)
{
    FILE *f = fopen(path, "rb");
    if (!f) return err_set(e, ERR_IO, "cannot read the router file %.120s: %s", path, strerror(errno));
    struct buf b;
    buf_init(&b, MODEL_BYTES_MAX);
    char part[16384];
    size_t n;
    enum err_code code = ERR_OK;
    while (!code && (n = fread(part, 1, sizeof part, f)) > 0) code = buf_add(&b, part, n);
    if (!code && ferror(f)) code = err_set(e, ERR_IO, "cannot read the router file %.120s: %s", path, strerror(errno));
    else if (code == ERR_TOO_LARGE)
        code = err_set(e, ERR_CORRUPT, "%.120s is no router file: larger than %d MiB", path, MODEL_BYTES_MAX >> 20);
    else if (code) code = err_set(e, ERR_MEMORY, "out of memory reading %.120s", path);
    (void)fclose(f);
    if (!code) code = model_parse(out, (const unsigned char *)b.data, b.len, path, e);
    buf_release(&b);
    return code;
}

void router_info(const struct router *router, struct router_info *out)
{
    *out = router->info;
}
