/* Router files: writing, reading and checking them. */
#include "router/own.h"

#include "base/buf.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "router files are written as they lie in memory");

static const unsigned char MAGIC[8] = {'r', 'u', 'n', 'g', 'r', 't', 'r', '\n'};
enum { HEAD_BYTES = 32, HASH_BYTES = 16 };
#define TAG(a, b, c, d) ((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)
enum {
    TAG_INFO = TAG('i', 'n', 'f', 'o'),
    TAG_GRAMS = TAG('g', 'r', 'a', 'm'),
    TAG_LINEAR = TAG('l', 'i', 'n', 'e'),
    TAG_TASKS = TAG('t', 'a', 's', 'k'),
    TAG_TREES = TAG('t', 'r', 'e', 'e'),
    TAG_CURVES = TAG('c', 'u', 'r', 'v'),
    TAG_NOVELTY = TAG('n', 'o', 'v', 'e'),
    TAG_DIAL = TAG('d', 'i', 'a', 'l'),
    TAG_PROBE = TAG('p', 'r', 'o', 'b'),
    TAG_OWN = TAG('o', 'w', 'n', ' '),
};

struct section_info { /* as it lies in the file */
    uint32_t tiers, general;
    int64_t rows, fitted_wall_ms;
    char names[TIERS][64];
};

struct router *model_new(unsigned bits)
{
    assert(bits >= MODEL_BITS_MIN && bits <= MODEL_BITS_MAX);
    struct router *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->bits = bits;
    r->buckets = calloc((size_t)GRAM_KINDS << bits, sizeof *r->buckets);
    r->tree = calloc(MODEL_TREES_MAX, sizeof *r->tree);
    if (r->buckets && r->tree) return r;
    router_free(r);
    return NULL;
}

void router_free(struct router *r)
{
    if (!r) return;
    free(r->buckets);
    free(r->tree);
    free(r->probe_w);
    free(r->own);
    if (r->key) sodium_memzero(r->key, sizeof *r->key);
    free(r->key);
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
    ok = fflush(f) == 0 && fsync(fileno(f)) == 0 && ok;
    ok = fclose(f) == 0 && ok;
    if (ok && rename(part, path) == 0) return ERR_OK;
    enum err_code code = err_set(e, ERR_IO, "cannot write %.150s: %s", path, strerror(errno));
    (void)remove(part);
    return code;
}

static void fingerprint(struct router *r, const unsigned char hash[HASH_BYTES])
{
    for (int i = 0; i < 8; i++) (void)snprintf(r->info.fingerprint + 2 * i, 3, "%02x", hash[i]);
    const char *base = r->own ? r->own->base : r->info.fingerprint;
    for (int i = 0; i < 4; i++) {
        char digits[3] = {base[2 * i], base[2 * i + 1], '\0'};
        r->base_id[i] = (unsigned char)strtoul(digits, NULL, 16);
    }
    if (!r->own) return;
    memcpy(r->info.base, r->own->base, 17);
    memcpy(r->info.labels, r->own->labels, sizeof r->info.labels);
    for (int i = 0; i < SKETCH_KEY_ID; i++) (void)snprintf(r->info.key + 2 * i, 3, "%02x", r->own->key_id[i]);
}

static uint32_t add_sections(struct buf *b, const struct router *r)
{
    struct section_info info = {(uint32_t)r->info.tiers, r->info.general, r->info.rows, r->info.fitted_wall_ms, {{0}}};
    memcpy(info.names, r->info.names, sizeof info.names);
    uint32_t bits = r->bits, tasks = (uint32_t)r->tasks, trees = (uint32_t)r->trees;
    section(b, TAG_INFO, &info, sizeof info, NULL, 0);
    section(b, TAG_GRAMS, &bits, sizeof bits, r->buckets, (sizeof *r->buckets * GRAM_KINDS) << r->bits);
    section(b, TAG_LINEAR, &r->linear, sizeof r->linear, NULL, 0);
    section(b, TAG_TASKS, &tasks, sizeof tasks, r->task, tasks * sizeof *r->task);
    section(b, TAG_TREES, &trees, sizeof trees, r->tree, trees * sizeof *r->tree);
    section(b, TAG_CURVES, r->curve, sizeof r->curve, NULL, 0);
    section(b, TAG_NOVELTY, &r->novelty, sizeof r->novelty, NULL, 0);
    section(b, TAG_DIAL, r->dial, sizeof r->dial, NULL, 0);
    if (r->probe_w) section(b, TAG_PROBE, &r->probe, sizeof r->probe, r->probe_w, r->probe.embedding * sizeof *r->probe_w);
    if (r->own) section(b, TAG_OWN, r->own, sizeof *r->own, NULL, 0);
    return 8u + (r->probe_w != NULL) + (r->own != NULL);
}

enum err_code model_save(struct router *r, const char *path, struct err *e)
{
    struct buf b;
    buf_init(&b, MODEL_BYTES_MAX);
    unsigned char head[HEAD_BYTES] = {0}, hash[HASH_BYTES];
    (void)buf_add(&b, head, sizeof head);
    uint32_t words[2] = {MODEL_VERSION, add_sections(&b, r)};
    enum err_code code = buf_ok(&b) ? ERR_OK : err_set(e, ERR_MEMORY, "out of memory writing a router");
    if (!code) {
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

enum err_code router_save(struct router *router, const char *path, struct err *e)
{
    return model_save(router, path, e);
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
    uint32_t bits;
    if (len < sizeof bits) return damaged(in, "gram", "is too short");
    memcpy(&bits, data, sizeof bits);
    if (bits < MODEL_BITS_MIN || bits > MODEL_BITS_MAX) return damaged(in, "gram", "wants 2^8 to 2^17 buckets a kind");
    size_t bytes = (sizeof *r->buckets * GRAM_KINDS) << bits;
    if (len != sizeof bits + bytes) return damaged(in, "gram", "has not the buckets it says");
    free(r->buckets);
    r->bits = bits;
    r->buckets = malloc(bytes);
    if (!r->buckets) return err_set(in->e, ERR_MEMORY, "out of memory reading %.100s", in->what);
    memcpy(r->buckets, data + sizeof bits, bytes);
    return ERR_OK;
}

/* A section that is nothing but floats. */
static enum err_code read_floats(void *out, size_t size, const char *name, const struct reading *in,
                                 const unsigned char *data, size_t len)
{
    if (len != size) return damaged(in, name, "has the wrong length: made by another rung, fit it again");
    memcpy(out, data, size);
    return all_finite(out, size / sizeof(float)) ? ERR_OK : damaged(in, name, "holds no numbers");
}

static enum err_code read_linear(struct router *r, const struct reading *in, const unsigned char *data, size_t len)
{
    return read_floats(&r->linear, sizeof r->linear, "line", in, data, len);
}

static enum err_code read_curves(struct router *r, const struct reading *in, const unsigned char *data, size_t len)
{
    return read_floats(r->curve, sizeof r->curve, "curv", in, data, len);
}

static enum err_code read_novelty(struct router *r, const struct reading *in, const unsigned char *data, size_t len)
{
    return read_floats(&r->novelty, sizeof r->novelty, "nove", in, data, len);
}

static enum err_code read_dial(struct router *r, const struct reading *in, const unsigned char *data, size_t len)
{
    return read_floats(r->dial, sizeof r->dial, "dial", in, data, len);
}

static enum err_code read_tasks(struct router *r, const struct reading *in, const unsigned char *data, size_t len)
{
    uint32_t n;
    if (len < sizeof n) return damaged(in, "task", "is too short");
    memcpy(&n, data, sizeof n);
    if (n > MODEL_TASKS_MAX) return damaged(in, "task", "has too many tasks");
    r->tasks = (int)n;
    return read_floats(r->task, n * sizeof *r->task, "task", in, data + sizeof n, len - sizeof n);
}

static enum err_code read_trees(struct router *r, const struct reading *in, const unsigned char *data, size_t len)
{
    uint32_t n;
    if (len < sizeof n) return damaged(in, "tree", "is too short");
    memcpy(&n, data, sizeof n);
    if (n > MODEL_TREES_MAX || len != sizeof n + n * sizeof *r->tree) return damaged(in, "tree", "has the wrong length");
    memcpy(r->tree, data + sizeof n, n * sizeof *r->tree);
    r->trees = (int)n;
    for (uint32_t k = 0; k < n; k++) {
        for (int i = 0; i < MODEL_LEAVES - 1; i++)
            if (r->tree[k].input[i] >= MODEL_INPUTS) return damaged(in, "tree", "asks for an input there is not");
        if (!all_finite(r->tree[k].at, MODEL_LEAVES - 1) || !all_finite(r->tree[k].leaf[0], MODEL_LEAVES * TIERS))
            return damaged(in, "tree", "holds no numbers");
    }
    return ERR_OK;
}

static enum err_code read_probe(struct router *r, const struct reading *in, const unsigned char *data, size_t len)
{
    struct model_probe p;
    if (len < sizeof p) return damaged(in, "prob", "is too short");
    memcpy(&p, data, sizeof p);
    size_t floats = sizeof p / sizeof(float) - 2;
    if (p.embedding == 0 || p.embedding > MODEL_PROBE_MAX || len != sizeof p + p.embedding * sizeof(float))
        return damaged(in, "prob", "has the wrong length");
    r->probe_w = malloc(p.embedding * sizeof *r->probe_w);
    if (!r->probe_w) return err_set(in->e, ERR_MEMORY, "out of memory reading %.100s", in->what);
    memcpy(r->probe_w, data + sizeof p, p.embedding * sizeof *r->probe_w);
    r->probe = p;
    bool ok = all_finite(&r->probe.prefill_bias, floats) && all_finite(r->probe_w, p.embedding);
    return ok ? ERR_OK : damaged(in, "prob", "holds no numbers");
}

static enum err_code read_own(struct router *r, const struct reading *in, const unsigned char *data, size_t len)
{
    if (len != sizeof *r->own) return damaged(in, "own", "has the wrong length: made by another rung, refit it again");
    r->own = malloc(sizeof *r->own);
    if (!r->own) return err_set(in->e, ERR_MEMORY, "out of memory reading %.100s", in->what);
    memcpy(r->own, data, sizeof *r->own);
    return own_valid(r->own) ? ERR_OK : damaged(in, "own", "holds no numbers or asks for what there is not");
}

static const struct section_reader {
    uint32_t tag;
    const char *name;
    enum err_code (*read)(struct router *r, const struct reading *in, const unsigned char *data, size_t len);
} SECTIONS[] = {
    {TAG_INFO, "info", read_info},     {TAG_GRAMS, "gram", read_grams},      {TAG_LINEAR, "line", read_linear},
    {TAG_TASKS, "task", read_tasks},   {TAG_TREES, "tree", read_trees},      {TAG_CURVES, "curv", read_curves},
    {TAG_NOVELTY, "nove", read_novelty}, {TAG_DIAL, "dial", read_dial},      {TAG_PROBE, "prob", read_probe},
    {TAG_OWN, "own", read_own},
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
        if (!had[s] && SECTIONS[s].tag != TAG_PROBE && SECTIONS[s].tag != TAG_OWN)
            return damaged(in, SECTIONS[s].name, "is missing");
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
    struct router *r = model_new(MODEL_BITS_MIN);
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

enum err_code router_use_key(struct router *r, const unsigned char key[32], struct err *e)
{
    struct sketch_key made;
    sketch_key_init(&made, key);
    if (r->own && memcmp(r->own->key_id, made.id, SKETCH_KEY_ID) != 0)
        return err_set(e, ERR_INVALID,
                       "router %s was refitted from sketches under key %s, this node's is %02x%02x%02x: it serves that "
                       "log's node alone, or nodes that share log.sketch_key_file",
                       r->info.fingerprint, r->info.key, made.id[0], made.id[1], made.id[2]);
    if (!r->key) r->key = malloc(sizeof *r->key);
    if (!r->key) return err_set(e, ERR_MEMORY, "out of memory");
    *r->key = made;
    return ERR_OK;
}

bool router_wants_key(const struct router *router)
{
    return router->own && !router->key;
}

void router_info(const struct router *router, struct router_info *out)
{
    *out = router->info;
}
