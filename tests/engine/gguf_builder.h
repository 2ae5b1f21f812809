/* Writes small GGUF files into memory for tests. Call keys first, then tensors, then gguf_builder_finish().
 * Aborts on its own bugs; not for production. */
#ifndef RUNG_TESTS_ENGINE_GGUF_BUILDER_H
#define RUNG_TESTS_ENGINE_GGUF_BUILDER_H

#include "engine/gguf.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct gguf_bytes {
    unsigned char *data;
    size_t len, cap;
};
struct gguf_builder {
    struct gguf_bytes keys, table, tensors;
    uint64_t key_count, tensor_count;
};
enum { GGUF_BUILDER_ALIGNMENT = 32 };

static inline void gguf_bytes_add(struct gguf_bytes *b, const void *data, size_t len)
{
    if (b->len + len > b->cap) {
        b->cap = (b->len + len) * 2 + 64;
        b->data = realloc(b->data, b->cap);
        assert(b->data);
    }
    if (len) memcpy(b->data + b->len, data, len);
    b->len += len;
}

static inline void gguf_bytes_u32(struct gguf_bytes *b, uint32_t v)
{
    gguf_bytes_add(b, &v, sizeof v);
}

static inline void gguf_bytes_u64(struct gguf_bytes *b, uint64_t v)
{
    gguf_bytes_add(b, &v, sizeof v);
}

static inline void gguf_bytes_string(struct gguf_bytes *b, const char *data, size_t len)
{
    gguf_bytes_u64(b, len);
    gguf_bytes_add(b, data, len);
}

static inline void gguf_builder_key(struct gguf_builder *g, const char *key, uint32_t kind)
{
    gguf_bytes_string(&g->keys, key, strlen(key));
    gguf_bytes_u32(&g->keys, kind);
    g->key_count++;
}

static inline void gguf_builder_u32(struct gguf_builder *g, const char *key, uint32_t v)
{
    gguf_builder_key(g, key, 4);
    gguf_bytes_u32(&g->keys, v);
}

static inline void gguf_builder_f32(struct gguf_builder *g, const char *key, float v)
{
    gguf_builder_key(g, key, 6);
    gguf_bytes_add(&g->keys, &v, sizeof v);
}

static inline void gguf_builder_bool(struct gguf_builder *g, const char *key, bool v)
{
    unsigned char byte = v;
    gguf_builder_key(g, key, 7);
    gguf_bytes_add(&g->keys, &byte, 1);
}

static inline void gguf_builder_str(struct gguf_builder *g, const char *key, const char *v)
{
    gguf_builder_key(g, key, 8);
    gguf_bytes_string(&g->keys, v, strlen(v));
}

static inline void gguf_builder_array(struct gguf_builder *g, const char *key, uint32_t kind, uint64_t count)
{
    gguf_builder_key(g, key, 9);
    gguf_bytes_u32(&g->keys, kind);
    gguf_bytes_u64(&g->keys, count);
}

static inline void gguf_builder_strings(struct gguf_builder *g, const char *key, const char *const *v, uint64_t count)
{
    gguf_builder_array(g, key, 8, count);
    for (uint64_t i = 0; i < count; i++) gguf_bytes_string(&g->keys, v[i], strlen(v[i]));
}

static inline void gguf_builder_ints(struct gguf_builder *g, const char *key, const int32_t *v, uint64_t count)
{
    gguf_builder_array(g, key, 5, count);
    gguf_bytes_add(&g->keys, v, (size_t)count * sizeof *v);
}

static inline void gguf_builder_floats(struct gguf_builder *g, const char *key, const float *v, uint64_t count)
{
    gguf_builder_array(g, key, 6, count);
    gguf_bytes_add(&g->keys, v, (size_t)count * sizeof *v);
}

/* shape[0] runs fastest. The data are copied. */
static inline void gguf_builder_tensor(struct gguf_builder *g, const char *name, uint32_t type, int dims,
                                       const int64_t *shape, const void *data, size_t bytes)
{
    static const unsigned char zeros[GGUF_BUILDER_ALIGNMENT];
    gguf_bytes_string(&g->table, name, strlen(name));
    gguf_bytes_u32(&g->table, (uint32_t)dims);
    for (int d = 0; d < dims; d++) gguf_bytes_u64(&g->table, (uint64_t)shape[d]);
    gguf_bytes_u32(&g->table, type);
    gguf_bytes_u64(&g->table, g->tensors.len);
    gguf_bytes_add(&g->tensors, data, bytes);
    gguf_bytes_add(&g->tensors, zeros, (GGUF_BUILDER_ALIGNMENT - bytes % GGUF_BUILDER_ALIGNMENT) % GGUF_BUILDER_ALIGNMENT);
    g->tensor_count++;
}

/* The file's bytes (malloc'd); the builder is empty after. */
static inline unsigned char *gguf_builder_finish(struct gguf_builder *g, size_t *len)
{
    static const unsigned char zeros[GGUF_BUILDER_ALIGNMENT];
    struct gguf_bytes out = {0};
    gguf_bytes_add(&out, "GGUF", 4);
    gguf_bytes_u32(&out, 3);
    gguf_bytes_u64(&out, g->tensor_count);
    gguf_bytes_u64(&out, g->key_count);
    gguf_bytes_add(&out, g->keys.data, g->keys.len);
    gguf_bytes_add(&out, g->table.data, g->table.len);
    gguf_bytes_add(&out, zeros, (GGUF_BUILDER_ALIGNMENT - out.len % GGUF_BUILDER_ALIGNMENT) % GGUF_BUILDER_ALIGNMENT);
    gguf_bytes_add(&out, g->tensors.data, g->tensors.len);
    free(g->keys.data);
    free(g->table.data);
    free(g->tensors.data);
    *g = (struct gguf_builder){0};
    *len = out.len;
    return out.data;
}

/* Write the file to `path` instead. */
static inline void gguf_builder_write(struct gguf_builder *g, const char *path)
{
    size_t len;
    unsigned char *data = gguf_builder_finish(g, &len);
    FILE *f = fopen(path, "wb");
    assert(f);
    size_t written = fwrite(data, 1, len, f);
    assert(written == len);
    int closed = fclose(f);
    assert(closed == 0);
    (void)written;
    (void)closed;
    free(data);
}

#endif
