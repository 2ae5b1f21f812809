/* Any bytes as a GGUF file: opened or refused, and what was opened can be read to its last byte. */
#include "engine/gguf.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned sum; /* keeps the reads */

static void touch(const void *data, size_t len)
{
    const unsigned char *p = data;
    if (len) sum += (unsigned)p[0] + p[len - 1];
}

static void read_arrays(const struct gguf *g, const char *name)
{
    enum { MAX = 64 };
    struct gguf_string strings[MAX];
    int64_t ints[MAX];
    float floats[MAX];
    int64_t n = gguf_array_strings(g, name, strings, MAX);
    for (int64_t i = 0; i < n && i < MAX; i++) touch(strings[i].data, strings[i].len);
    if (gguf_array_ints(g, name, ints, MAX) > 0) sum += (unsigned)ints[0];
    if (gguf_array_floats(g, name, floats, MAX) > 0) touch(floats, sizeof floats[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf *g = NULL;
    struct err e = {0};
    if (gguf_open_memory(&g, data, size, &e)) {
        if (!e.code || !e.msg[0] || strchr(e.msg, '\n')) abort(); /* one clear line */
        return 0;
    }
    for (int i = 0; i < gguf_tensor_count(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        touch(t->data, (size_t)t->bytes);
        if (t->scale) touch(t->scale, (size_t)(t->shape[1] * t->shape[2] * t->shape[3]) * sizeof *t->scale);
    }
    struct gguf_key key;
    for (int i = 0; gguf_key_at(g, i, &key); i++) {
        char name[256];
        if (key.name.len >= sizeof name) continue;
        memcpy(name, key.name.data, key.name.len);
        name[key.name.len] = 0;
        touch(key.value, key.bytes);
        read_arrays(g, name);
        struct gguf_string text = gguf_str(g, name);
        touch(text.data, text.len);
        sum += (unsigned)gguf_int(g, name, 0) + (unsigned)gguf_bool(g, name, 0) + (gguf_float(g, name, 0) > 0);
        (void)gguf_tensor_find(g, name);
    }
    gguf_close(g);
    return 0;
}
