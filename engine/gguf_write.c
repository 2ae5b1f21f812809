#include "engine/gguf_write.h"

#include "engine/gguf_own.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ALIGNMENT = 32, KIND_U32 = 4, KIND_I32 = 5, KIND_F32 = 6, KIND_BOOL = 7, KIND_STRING = 8, KIND_ARRAY = 9 };
static const size_t META_MAX = (size_t)1 << 31;

struct pair {
    struct buf bytes; /* name, kind, value */
    size_t name_len;
};

struct gguf_writer {
    char *path, *temporary;
    FILE *file;
    struct pair *pairs;
    size_t pair_count, pair_cap;
    struct buf table; /* the tensor table */
    struct buf own_names[GGUF_OWN_TYPES]; /* of tensors in types of ours, as strings of the file */
    size_t own_count[GGUF_OWN_TYPES];
    int64_t *sizes;   /* (tensor_count) */
    size_t tensor_count, tensor_cap, current;
    int64_t offset, filled; /* next tensor's place; bytes of the current one */
    struct buf nowhere; /* takes no byte: what is written after memory ran out */
    bool no_memory, begun;
};

enum err_code gguf_writer_open(struct gguf_writer **out, const char *path, struct err *e)
{
    struct gguf_writer *w = calloc(1, sizeof *w);
    if (!w) return err_set(e, ERR_MEMORY, "%s: no memory", path);
    buf_init(&w->table, META_MAX);
    for (int i = 0; i < GGUF_OWN_TYPES; i++) buf_init(&w->own_names[i], META_MAX);
    w->path = strdup(path);
    if (!w->path || asprintf(&w->temporary, "%s.part", path) < 0) {
        w->temporary = NULL;
        gguf_writer_close(w);
        return err_set(e, ERR_MEMORY, "%s: no memory", path);
    }
    if (!(w->file = fopen(w->temporary, "wb"))) {
        enum err_code code = err_set(e, ERR_IO, "%s cannot be written: %s", w->temporary, strerror(errno));
        gguf_writer_close(w);
        return code;
    }
    *out = w;
    return ERR_OK;
}

void gguf_writer_close(struct gguf_writer *w)
{
    if (!w) return;
    if (w->file) {
        (void)fclose(w->file);
        (void)unlink(w->temporary);
    }
    for (size_t i = 0; i < w->pair_count; i++) buf_release(&w->pairs[i].bytes);
    free(w->pairs);
    buf_release(&w->table);
    for (int i = 0; i < GGUF_OWN_TYPES; i++) buf_release(&w->own_names[i]);
    free(w->sizes);
    free(w->path);
    free(w->temporary);
    free(w);
}

/* ---- metadata ---- */

static void add_u32(struct buf *b, uint32_t v)
{
    (void)buf_add(b, &v, sizeof v);
}

static void add_u64(struct buf *b, uint64_t v)
{
    (void)buf_add(b, &v, sizeof v);
}

static void add_text(struct buf *b, const char *data, size_t len)
{
    add_u64(b, len);
    (void)buf_add(b, data, len);
}

/* A pair with its name and kind, its value to be appended; the one before of that name is replaced. */
static struct buf *pair_of(struct gguf_writer *w, const char *name, size_t len, uint32_t kind)
{
    struct pair *pair = NULL;
    for (size_t i = 0; i < w->pair_count && !pair; i++)
        if (w->pairs[i].name_len == len && memcmp(w->pairs[i].bytes.data + 8, name, len) == 0) pair = &w->pairs[i];
    if (!pair && w->pair_count == w->pair_cap) {
        size_t cap = w->pair_cap ? w->pair_cap * 2 : 64;
        struct pair *grown = realloc(w->pairs, cap * sizeof *grown);
        if (!grown) {
            w->no_memory = true;
            return &w->nowhere;
        }
        w->pairs = grown;
        w->pair_cap = cap;
    }
    if (pair) {
        buf_clear(&pair->bytes);
    } else {
        pair = &w->pairs[w->pair_count++];
        buf_init(&pair->bytes, META_MAX);
        pair->name_len = len;
    }
    add_text(&pair->bytes, name, len);
    add_u32(&pair->bytes, kind);
    return &pair->bytes;
}

static struct buf *named(struct gguf_writer *w, const char *key, uint32_t kind)
{
    return pair_of(w, key, strlen(key), kind);
}

void gguf_write_u32(struct gguf_writer *w, const char *key, uint32_t v)
{
    add_u32(named(w, key, KIND_U32), v);
}

void gguf_write_f32(struct gguf_writer *w, const char *key, float v)
{
    (void)buf_add(named(w, key, KIND_F32), &v, sizeof v);
}

void gguf_write_bool(struct gguf_writer *w, const char *key, bool v)
{
    (void)buf_addc(named(w, key, KIND_BOOL), (char)v);
}

void gguf_write_str(struct gguf_writer *w, const char *key, const char *v)
{
    add_text(named(w, key, KIND_STRING), v, strlen(v));
}

static struct buf *array(struct gguf_writer *w, const char *key, uint32_t kind, size_t count)
{
    struct buf *b = named(w, key, KIND_ARRAY);
    add_u32(b, kind);
    add_u64(b, count);
    return b;
}

void gguf_write_strings(struct gguf_writer *w, const char *key, const struct gguf_string *v, size_t count)
{
    struct buf *b = array(w, key, KIND_STRING, count);
    for (size_t i = 0; i < count; i++) add_text(b, v[i].data, v[i].len);
}

void gguf_write_ints(struct gguf_writer *w, const char *key, const int32_t *v, size_t count)
{
    (void)buf_add(array(w, key, KIND_I32, count), v, count * sizeof *v);
}

void gguf_write_floats(struct gguf_writer *w, const char *key, const float *v, size_t count)
{
    (void)buf_add(array(w, key, KIND_F32, count), v, count * sizeof *v);
}

void gguf_write_key(struct gguf_writer *w, const struct gguf_key *key)
{
    struct buf *b = pair_of(w, key->name.data, key->name.len, key->kind);
    if (key->kind == KIND_ARRAY) {
        add_u32(b, key->element);
        add_u64(b, key->count);
    }
    (void)buf_add(b, key->value, key->bytes);
}

/* ---- tensors ---- */

static enum err_code declare(struct gguf_writer *w, const char *name, enum gguf_type type, int dims, const int64_t *shape,
                             struct err *e)
{
    const struct gguf_type_info *info = gguf_type_info(type);
    if (!info || dims < 1 || dims > 4 || shape[0] % info->block_elements)
        return err_set(e, ERR_INVALID, "%s: tensor '%s' of rows of %lld cannot be written as %s", w->path, name,
                       (long long)(dims > 0 ? shape[0] : 0), info ? info->name : "that type");
    if (w->tensor_count == w->tensor_cap) {
        size_t cap = w->tensor_cap ? w->tensor_cap * 2 : 256;
        int64_t *grown = realloc(w->sizes, cap * sizeof *grown);
        if (!grown) return err_set(e, ERR_MEMORY, "%s: no memory", w->path);
        w->sizes = grown;
        w->tensor_cap = cap;
    }
    int64_t bytes = info->block_bytes;
    add_text(&w->table, name, strlen(name));
    add_u32(&w->table, (uint32_t)dims);
    for (int d = 0; d < dims; d++) {
        int64_t blocks = d ? shape[d] : shape[d] / info->block_elements;
        if (shape[d] < 1 || __builtin_mul_overflow(bytes, blocks, &bytes) || bytes > INT64_MAX / 4)
            return err_set(e, ERR_INVALID, "%s: tensor '%s' has dimension %d of %lld", w->path, name, d, (long long)shape[d]);
        add_u64(&w->table, (uint64_t)shape[d]);
    }
    add_u32(&w->table, type);
    add_u64(&w->table, (uint64_t)w->offset);
    w->sizes[w->tensor_count++] = bytes;
    w->offset += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return ERR_OK;
}

static enum err_code declare_own(struct gguf_writer *w, const char *name, int own, int dims, const int64_t *shape, struct err *e)
{
    const struct gguf_type_info *info = gguf_type_info(GGUF_OWN[own].type);
    int64_t stored[4];
    char scale[4200];
    if (dims < 2 || dims > 4 || shape[0] % info->block_elements || (GGUF_OWN[own].type == GGUF_W4A16 && shape[1] % W4A16_PANEL_ROWS))
        return err_set(e, ERR_INVALID, "%s: tensor '%s' of %lld × %lld cannot be written as %s", w->path, name, (long long)shape[0],
                       (long long)(dims > 1 ? shape[1] : 0), info->name);
    memcpy(stored, shape, (size_t)dims * sizeof *shape);
    stored[0] = shape[0] / info->block_elements * info->block_bytes;
    add_text(&w->own_names[own], name, strlen(name));
    w->own_count[own]++;
    enum err_code code = declare(w, name, GGUF_I8, dims, stored, e);
    if (code || GGUF_OWN[own].type != GGUF_FP8) return code;
    (void)snprintf(scale, sizeof scale, "%s.scale", name);
    return declare(w, scale, GGUF_F32, dims - 1, shape + 1, e);
}

enum err_code gguf_write_tensor(struct gguf_writer *w, const char *name, enum gguf_type type, int dims,
                                const int64_t *shape, struct err *e)
{
    for (int i = 0; i < GGUF_OWN_TYPES; i++)
        if (GGUF_OWN[i].type == type) return declare_own(w, name, i, dims, shape, e);
    return declare(w, name, type, dims, shape, e);
}

/* The keys that say which tensors are in types of ours. */
static void write_own_keys(struct gguf_writer *w)
{
    for (int i = 0; i < GGUF_OWN_TYPES; i++) {
        if (!w->own_count[i]) continue;
        gguf_write_u32(w, GGUF_OWN_VERSION_KEY, GGUF_OWN_VERSION);
        struct buf *b = array(w, GGUF_OWN[i].key, KIND_STRING, w->own_count[i]);
        if (buf_ok(&w->own_names[i])) (void)buf_add(b, w->own_names[i].data, w->own_names[i].len);
        else w->no_memory = true;
    }
}

static enum err_code put(struct gguf_writer *w, const void *data, size_t len, struct err *e)
{
    if (len && fwrite(data, 1, len, w->file) != len)
        return err_set(e, ERR_IO, "%s cannot be written: %s", w->temporary, strerror(errno));
    return ERR_OK;
}

static enum err_code pad(struct gguf_writer *w, int64_t written, struct err *e)
{
    static const char ZEROS[ALIGNMENT];
    return put(w, ZEROS, (size_t)((ALIGNMENT - written % ALIGNMENT) % ALIGNMENT), e);
}

enum err_code gguf_writer_begin(struct gguf_writer *w, struct err *e)
{
    struct buf head = BUF_INIT(64);
    write_own_keys(w);
    bool whole = buf_ok(&w->table) && !w->no_memory;
    for (size_t i = 0; i < w->pair_count; i++) whole = whole && buf_ok(&w->pairs[i].bytes);
    if (!whole) return err_set(e, ERR_MEMORY, "%s: no memory for the metadata", w->path);
    (void)buf_adds(&head, "GGUF");
    add_u32(&head, 3);
    add_u64(&head, w->tensor_count);
    add_u64(&head, w->pair_count);
    enum err_code code = put(w, head.data, head.len, e);
    int64_t written = (int64_t)head.len;
    buf_release(&head);
    for (size_t i = 0; i < w->pair_count && !code; i++) {
        code = put(w, w->pairs[i].bytes.data, w->pairs[i].bytes.len, e);
        written += (int64_t)w->pairs[i].bytes.len;
    }
    if (!code) code = put(w, w->table.data, w->table.len, e);
    if (!code) code = pad(w, written + (int64_t)w->table.len, e);
    w->begun = !code;
    return code;
}

enum err_code gguf_write_data(struct gguf_writer *w, const void *data, size_t len, struct err *e)
{
    const char *p = data;
    while (len) {
        if (!w->begun || w->current == w->tensor_count)
            return err_set(e, ERR_INTERNAL, "%s: %zu bytes belong to no tensor", w->path, len);
        int64_t left = w->sizes[w->current] - w->filled;
        size_t n = (uint64_t)left < len ? (size_t)left : len;
        enum err_code code = put(w, p, n, e);
        if (code) return code;
        p += n;
        len -= n;
        w->filled += (int64_t)n;
        if (w->filled < w->sizes[w->current]) break;
        if ((code = pad(w, w->filled, e))) return code;
        w->current++;
        w->filled = 0;
    }
    return ERR_OK;
}

enum err_code gguf_writer_finish(struct gguf_writer *w, struct err *e)
{
    if (!w->begun || w->current != w->tensor_count)
        return err_set(e, ERR_INTERNAL, "%s: %zu of %zu tensors were written", w->path, w->current, w->tensor_count);
    bool fine = fflush(w->file) == 0 && fsync(fileno(w->file)) == 0;
    fine = fclose(w->file) == 0 && fine;
    w->file = NULL;
    if (!fine || rename(w->temporary, w->path) != 0) {
        enum err_code code = err_set(e, ERR_IO, "%s cannot be written: %s", w->path, strerror(errno));
        (void)unlink(w->temporary);
        return code;
    }
    return ERR_OK;
}
