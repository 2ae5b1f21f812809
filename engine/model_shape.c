#include "engine/model_shape.h"

#include "base/buf.h"
#include "engine/cpu/pack.h"
#include "engine/gguf_own.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct shape {
    const char *name, *arch;
    int embedding, layers, heads, kv_heads, head_dim, feed_forward, vocabulary;
    bool tied;
    double rope_base;
};
static const struct shape SHAPES[] = {
    /*                                d     layers heads kv  hd   ff     vocabulary tied  rope base */
    {"smollm2-135m", "llama",         576,  30,    9,    3,  64,  1536,  49152,     true,  1e5},
    {"qwen2.5-0.5b", "qwen2",         896,  24,    14,   2,  64,  4864,  151936,    true,  1e6},
    {"llama3.2-1b", "llama",          2048, 16,    32,   8,  64,  8192,  128256,    true,  5e5},
    {"qwen2.5-1.5b", "qwen2",         1536, 28,    12,   2,  128, 8960,  151936,    true,  1e6},
    {"llama3.2-3b", "llama",          3072, 28,    24,   8,  128, 8192,  128256,    true,  5e5},
    {"deepseek-7b", "llama",          4096, 30,    32,   32, 128, 11008, 102400,    false, 1e4},
    {"llama3.1-8b", "llama",          4096, 32,    32,   8,  128, 14336, 128256,    false, 5e5},
    {"qwen2.5-14b", "qwen2",          5120, 48,    40,   8,  128, 13824, 152064,    false, 1e6},
    {"deepseek-67b", "llama",         8192, 95,    64,   8,  128, 22016, 102400,    false, 1e4},
    {"llama3.1-70b", "llama",         8192, 80,    64,   8,  128, 28672, 128256,    false, 5e5},
};
enum { SHAPES_COUNT = (int)(sizeof SHAPES / sizeof SHAPES[0]), ALIGN = 64 };

const char *shape_name(int index)
{
    return index >= 0 && index < SHAPES_COUNT ? SHAPES[index].name : NULL;
}

/* ---- which type a matrix has ---- */

enum role { ROLE_PLAIN, ROLE_V, ROLE_DOWN, ROLE_OUTPUT, ROLE_EMBED };

/* The "_M" mixes give values and the down projection of some layers, and the output, a finer type (llama.cpp's rule). */
static bool finer(const struct shape *s, int layer)
{
    int eighth = s->layers / 8;
    return layer < eighth || layer >= 7 * s->layers / 8 || (layer - eighth) % 3 == 2;
}

/* K-quants need rows of whole 256s; where they are not, the next larger type without that need stands in. */
static enum gguf_type fitting(enum gguf_type t, int k)
{
    if (gguf_type_info((uint32_t)t)->block_elements != PACK_SUPER || k % PACK_SUPER == 0) return t;
    return t == GGUF_Q6_K ? GGUF_Q8_0 : t == GGUF_Q5_K ? GGUF_Q5_1 : t == GGUF_Q4_K ? GGUF_Q5_0 : GGUF_Q4_0;
}

static enum gguf_type type_of(const struct shape *s, enum gguf_type base, bool mixed, enum role role, int layer, int k)
{
    enum gguf_type t = base;
    if (base >= GGUF_FP8 && (role == ROLE_EMBED || (role == ROLE_OUTPUT && (s->tied || base == GGUF_W4A16)))) return GGUF_F16;
    if (base >= GGUF_FP8) return base == GGUF_W4A16 && k % W4A16_GROUP ? GGUF_F16 : base;
    if (mixed && (role == ROLE_OUTPUT || ((role == ROLE_V || role == ROLE_DOWN) && finer(s, layer)))) t = GGUF_Q6_K;
    return fitting(t, k);
}

static bool parse_type(const char *name, enum gguf_type *type, bool *mixed)
{
    char plain[16];
    size_t len = strlen(name);
    *mixed = len == 6 && strcmp(name + 4, "_M") == 0;
    if (len >= sizeof plain) return false;
    (void)snprintf(plain, sizeof plain, "%.*s", (int)(*mixed ? len - 2 : len), name);
    for (uint32_t t = 0; t <= GGUF_W4A16; t = t == 31 ? GGUF_FP8 : t + 1) {
        const struct gguf_type_info *info = gguf_type_info(t);
        *type = (enum gguf_type)t;
        if (info && pack_format(*type) && strcmp(info->name, plain) == 0) return true;
    }
    return false;
}

/* ---- the file's head ---- */

struct writer {
    struct buf head, table;
    uint64_t keys, tensors, at; /* at: bytes of tensor data so far */
    struct buf own_names[GGUF_OWN_TYPES]; /* of tensors in FP8 and W4A16 */
    uint64_t own_count[GGUF_OWN_TYPES];
};

static void add_string(struct buf *b, const char *s)
{
    uint64_t n = strlen(s);
    (void)buf_add(b, &n, 8);
    (void)buf_add(b, s, n);
}

static void add_key(struct writer *w, const struct shape *s, const char *key, uint32_t kind, const void *value)
{
    char name[96];
    (void)snprintf(name, sizeof name, "%s.%s", s->arch, key);
    add_string(&w->head, name);
    (void)buf_add(&w->head, &kind, 4);
    (void)buf_add(&w->head, value, 4);
    w->keys++;
}

static void add_int(struct writer *w, const struct shape *s, const char *key, int value)
{
    add_key(w, s, key, 4, &value);
}

static void add_float(struct writer *w, const struct shape *s, const char *key, double value)
{
    float v = (float)value;
    add_key(w, s, key, 6, &v);
}

static void add_tensor(struct writer *w, const char *name, enum gguf_type type, int k, int rows);

/* FP8 and W4A16 are I8 in the file, their names in a key. */
static void add_own(struct writer *w, const char *name, enum gguf_type type, int k, int rows)
{
    char scale[80];
    int own = type == GGUF_OWN[0].type ? 0 : 1;
    add_string(&w->own_names[own], name);
    w->own_count[own]++;
    add_tensor(w, name, GGUF_I8, type == GGUF_W4A16 ? 66 * (k / W4A16_GROUP) : k, rows);
    (void)snprintf(scale, sizeof scale, "%s.scale", name);
    if (type == GGUF_FP8) add_tensor(w, scale, GGUF_F32, rows, 0);
}

static void add_own_keys(struct writer *w)
{
    const uint32_t array = 9, string = 8;
    for (int i = 0; i < GGUF_OWN_TYPES; i++) {
        if (!w->own_count[i]) continue;
        add_string(&w->head, GGUF_OWN[i].key);
        (void)buf_add(&w->head, &array, 4);
        (void)buf_add(&w->head, &string, 4);
        (void)buf_add(&w->head, &w->own_count[i], 8);
        (void)buf_add(&w->head, w->own_names[i].data, w->own_names[i].len);
        w->keys++;
    }
}

static void add_tensor(struct writer *w, const char *name, enum gguf_type type, int k, int rows)
{
    if (type >= GGUF_FP8) {
        add_own(w, name, type, k, rows);
        return;
    }
    uint32_t dims = rows ? 2 : 1, kind = (uint32_t)type;
    uint64_t shape[2] = {(uint64_t)k, (uint64_t)rows}, bytes = pack_row_bytes(type, k) * (uint64_t)(rows ? rows : 1);
    add_string(&w->table, name);
    (void)buf_add(&w->table, &dims, 4);
    (void)buf_add(&w->table, shape, 8 * dims);
    (void)buf_add(&w->table, &kind, 4);
    (void)buf_add(&w->table, &w->at, 8);
    w->at += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    w->tensors++;
}

static void add_layer(struct writer *w, const struct shape *s, enum gguf_type type, bool mixed, int layer)
{
    int q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim, d = s->embedding;
    const struct {
        const char *name;
        int k, rows;
        enum role role;
    } rows[] = {{"attn_norm.weight", d, 0, ROLE_PLAIN}, {"ffn_norm.weight", d, 0, ROLE_PLAIN}, {"attn_q.weight", d, q, ROLE_PLAIN},
                {"attn_k.weight", d, kv, ROLE_PLAIN}, {"attn_v.weight", d, kv, ROLE_V}, {"attn_output.weight", q, d, ROLE_PLAIN},
                {"ffn_gate.weight", d, s->feed_forward, ROLE_PLAIN}, {"ffn_up.weight", d, s->feed_forward, ROLE_PLAIN},
                {"ffn_down.weight", s->feed_forward, d, ROLE_DOWN}, {"attn_q.bias", q, 0, ROLE_PLAIN},
                {"attn_k.bias", kv, 0, ROLE_PLAIN}, {"attn_v.bias", kv, 0, ROLE_PLAIN}};
    size_t count = sizeof rows / sizeof rows[0] - (strcmp(s->arch, "qwen2") == 0 ? 0 : 3);
    for (size_t i = 0; i < count; i++) {
        char name[64];
        (void)snprintf(name, sizeof name, "blk.%d.%s", layer, rows[i].name);
        add_tensor(w, name, rows[i].rows ? type_of(s, type, mixed, rows[i].role, layer, rows[i].k) : GGUF_F32, rows[i].k, rows[i].rows);
    }
}

static void add_text(struct writer *w, const char *key, const char *value)
{
    const uint32_t string = 8;
    add_string(&w->head, key);
    (void)buf_add(&w->head, &string, 4);
    add_string(&w->head, value);
    w->keys++;
}

/* So that an engine can use it: a word for each token. */
static void add_tokens(struct writer *w, const struct shape *s)
{
    const uint32_t array = 9, string = 8;
    uint64_t count = (uint64_t)s->vocabulary;
    add_text(w, "tokenizer.ggml.model", "llama");
    add_string(&w->head, "tokenizer.ggml.tokens");
    (void)buf_add(&w->head, &array, 4);
    (void)buf_add(&w->head, &string, 4);
    (void)buf_add(&w->head, &count, 8);
    for (int i = 0; i < s->vocabulary; i++) {
        char word[16];
        (void)snprintf(word, sizeof word, "\xE2\x96\x81t%d", i); /* a space, as such files write it */
        add_string(&w->head, word);
    }
    w->keys++;
}

static void write_head(struct writer *w, const struct shape *s, enum gguf_type type, bool mixed)
{
    add_text(w, "general.architecture", s->arch);
    add_text(w, "general.name", s->name);
    add_tokens(w, s);
    add_int(w, s, "embedding_length", s->embedding);
    add_int(w, s, "block_count", s->layers);
    add_int(w, s, "attention.head_count", s->heads);
    add_int(w, s, "attention.head_count_kv", s->kv_heads);
    add_int(w, s, "attention.key_length", s->head_dim);
    add_int(w, s, "attention.value_length", s->head_dim);
    add_int(w, s, "feed_forward_length", s->feed_forward);
    add_int(w, s, "context_length", 1 << 15);
    add_float(w, s, "attention.layer_norm_rms_epsilon", 1e-5);
    add_float(w, s, "rope.freq_base", s->rope_base);
    add_tensor(w, "output_norm.weight", GGUF_F32, s->embedding, 0);
    add_tensor(w, "token_embd.weight", type_of(s, type, mixed, s->tied ? ROLE_OUTPUT : ROLE_EMBED, 0, s->embedding), s->embedding,
               s->vocabulary);
    if (!s->tied) add_tensor(w, "output.weight", type_of(s, type, mixed, ROLE_OUTPUT, 0, s->embedding), s->embedding, s->vocabulary);
    for (int i = 0; i < s->layers; i++) add_layer(w, s, type, mixed, i);
    add_own_keys(w);
}

/* ---- random weights ---- */

/* Where a block's f16 scales stand: overwritten so that values stay about 1/√k large. */
static void scale_block(enum gguf_type type, uint8_t *block, float size)
{
    static const struct {
        int16_t at, min_at;
        float divide;
    } AT[32] = {[GGUF_Q8_0] = {0, -1, 70},  [GGUF_Q4_0] = {0, -1, 5},    [GGUF_Q4_1] = {0, 2, 5},    [GGUF_Q5_0] = {0, -1, 9},
                [GGUF_Q5_1] = {0, 2, 9},    [GGUF_IQ4_NL] = {0, -1, 65}, [GGUF_Q2_K] = {80, 82, 12}, [GGUF_Q3_K] = {108, -1, 45},
                [GGUF_Q4_K] = {0, 2, 150},  [GGUF_Q5_K] = {0, 2, 300},   [GGUF_Q6_K] = {208, -1, 1500}};
    uint16_t d = half_from_float(size / AT[type].divide), m = half_from_float(size / 20);
    memcpy(block + AT[type].at, &d, 2);
    if (AT[type].min_at >= 0) memcpy(block + AT[type].min_at, &m, 2);
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Values of E4M3 bytes are about 100 large, those of nibbles 4.6; without its last bit no byte is NaN. */
static void fill_own(const struct gguf_tensor *t, uint8_t *raw, float size)
{
    uint16_t d = half_from_float(size / 4.6f);
    if (t->type == GGUF_FP8)
        for (int64_t i = 0; i < t->bytes; i++) raw[i] &= 0xfe;
    else
        for (int64_t at = 0; at < t->bytes; at += W4A16_GRANULE)
            for (int64_t i = at + 512; i < at + W4A16_GRANULE; i += 2) memcpy(raw + i, &d, 2);
}

static void fill_scales(const struct gguf_tensor *t)
{
    for (int64_t i = 0; t->scale && i < t->shape[1]; i++) ((float *)(uintptr_t)t->scale)[i] = 1 / (100 * sqrtf((float)t->shape[0]));
}

static void fill(const struct gguf_tensor *t, uint64_t *state)
{
    if (t->is_scale) return; /* filled with its tensor */
    uint8_t *raw = (uint8_t *)(uintptr_t)t->data; /* our own memory */
    const struct gguf_type_info *info = gguf_type_info((uint32_t)t->type);
    float size = t->dims == 1 ? 1 : 1 / sqrtf((float)t->shape[0]);
    if (t->type == GGUF_F32 || t->type == GGUF_F16 || t->type == GGUF_BF16) {
        for (int64_t i = 0; i < t->bytes; i += info->block_bytes) {
            float v = t->dims == 1 ? 1 : ((float)(next_random(state) >> 40) / 8388608.0f - 1) * size;
            uint16_t half = half_from_float(v);
            if (t->type == GGUF_F32) memcpy(raw + i, &v, 4);
            else memcpy(raw + i, t->type == GGUF_F16 ? (void *)&half : (void *)((uint8_t *)&v + 2), 2);
        }
        return;
    }
    for (int64_t i = 0; i + 8 <= t->bytes; i += 8) {
        uint64_t r = next_random(state);
        memcpy(raw + i, &r, 8);
    }
    if (t->type >= GGUF_FP8) {
        fill_scales(t);
        fill_own(t, raw, size);
        return;
    }
    for (int64_t i = 0; i < t->bytes; i += info->block_bytes) scale_block(t->type, raw + i, size);
}

/* The weights and the copy that a CPU's kernels make of them. */
static enum err_code check_memory(const struct shaped *out, struct err *e)
{
    double have = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE), need = 2 * (double)out->bytes;
    if (need <= have) return ERR_OK;
    return err_set(e, ERR_MEMORY, "its weights and their copy for the CPU's kernels need %.0f GB; this machine has %.0f GB. A GPU makes them itself: --kernels cuda",
                   need * 1e-9, have * 1e-9);
}

/* A matrix for a GPU loses its data: the pages behind it are never touched, so that none is taken. */
static void fill_all(struct shaped *out, bool on_gpu)
{
    uint64_t state = 88172645463325252u;
    for (int i = 0; i < gguf_tensor_count(out->gguf); i++) {
        struct gguf_tensor *t = (struct gguf_tensor *)(uintptr_t)gguf_tensor_at(out->gguf, i); /* our own memory */
        if (on_gpu && t->dims > 1) {
            fill_scales(t);
            t->data = NULL;
        } else fill(t, &state);
    }
}

static enum err_code place(struct shaped *out, struct writer *w, bool on_gpu, struct err *e)
{
    struct buf *h = &w->head;
    char start[24] = "GGUF\3\0\0\0";
    memcpy(start + 8, &w->tensors, 8);
    memcpy(start + 16, &w->keys, 8);
    size_t used = sizeof start + h->len + w->table.len, head = (used + 31) / 32 * 32; /* the format's alignment */
    if (!buf_ok(h) || !buf_ok(&w->table) || !buf_ok(&w->own_names[0]) || !buf_ok(&w->own_names[1])) return err_set(e, ERR_MEMORY, "no memory for a model's head");
    out->bytes = head + w->at;
    enum err_code code = on_gpu ? ERR_OK : check_memory(out, e);
    if (code) return code;
    out->memory = mmap(NULL, out->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (out->memory == MAP_FAILED) {
        out->memory = NULL;
        return err_set(e, ERR_MEMORY, "no memory for %zu bytes of weights", out->bytes);
    }
    memcpy(out->memory, start, sizeof start);
    memcpy((char *)out->memory + sizeof start, h->data, h->len);
    memcpy((char *)out->memory + sizeof start + h->len, w->table.data, w->table.len);
    code = gguf_open_memory(&out->gguf, out->memory, out->bytes, e);
    if (!code) fill_all(out, on_gpu);
    else shaped_release(out);
    return code;
}

static enum err_code unknown(const char *shape, const char *type, struct err *e)
{
    char names[240] = "";
    for (int i = 0; i < SHAPES_COUNT; i++) {
        size_t n = strlen(names);
        (void)snprintf(names + n, sizeof names - n, "%s%s", i ? ", " : "", SHAPES[i].name);
    }
    return err_set(e, ERR_NOT_FOUND, "no shape '%s' of type '%s'; shapes: %s", shape, type, names);
}

enum err_code shaped_open(struct shaped *out, const char *shape, const char *type_name, bool on_gpu, struct err *e)
{
    const struct shape *s = NULL;
    enum gguf_type type;
    bool mixed;
    *out = (struct shaped){0};
    for (int i = 0; i < SHAPES_COUNT; i++)
        if (strcmp(SHAPES[i].name, shape) == 0) s = &SHAPES[i];
    if (!s || !parse_type(type_name, &type, &mixed)) return unknown(shape, type_name, e);
    struct writer w = {.head = BUF_INIT(8 << 20), .table = BUF_INIT(1 << 20), .own_names = {BUF_INIT(1 << 20), BUF_INIT(1 << 20)}};
    write_head(&w, s, type, mixed);
    enum err_code code = place(out, &w, on_gpu, e);
    buf_release(&w.head);
    buf_release(&w.table);
    for (int i = 0; i < GGUF_OWN_TYPES; i++) buf_release(&w.own_names[i]);
    return code;
}

void shaped_release(struct shaped *s)
{
    if (s->memory) (void)munmap(s->memory, s->bytes);
    *s = (struct shaped){0};
}
