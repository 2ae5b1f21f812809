/* The files behind a model: where they are mapped, and what of them is in memory. */
#include "engine/gguf_private.h"

#include <sys/mman.h>
#include <unistd.h>

bool gguf_place(const struct gguf *g, const void *data, int *file, int64_t *offset)
{
    for (int i = 0; i < g->part_count; i++) {
        const struct part *p = &g->parts[i];
        uintptr_t from = (uintptr_t)p->data, at = (uintptr_t)data;
        if (p->file < 0 || at < from || at - from >= p->len) continue;
        *file = p->file;
        *offset = (int64_t)(at - from);
        return true;
    }
    return false;
}

void gguf_drop_tensor(const struct gguf *gguf, const struct gguf_tensor *t)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE) - 1;
    uintptr_t at = ((uintptr_t)t->data + page) & ~page, end = ((uintptr_t)t->data + (uintptr_t)t->bytes) & ~page;
    for (int i = 0; i < gguf->part_count && at < end; i++) {
        uintptr_t start = (uintptr_t)gguf->parts[i].data;
        if (gguf->parts[i].file >= 0 && at >= start && end <= start + gguf->parts[i].len) (void)madvise((void *)at, end - at, MADV_DONTNEED);
    }
}

void gguf_drop_pages(const struct gguf *gguf)
{
    for (int i = 0; i < gguf->part_count; i++)
        if (gguf->parts[i].file >= 0) (void)madvise((void *)(uintptr_t)gguf->parts[i].data, gguf->parts[i].len, MADV_DONTNEED);
}

int64_t gguf_file_bytes(const struct gguf *g)
{
    int64_t sum = 0;
    for (int i = 0; i < g->part_count; i++) sum += (int64_t)g->parts[i].len;
    return sum;
}
