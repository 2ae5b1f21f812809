/* A request's memory: taken piece by piece, given back all at once. Bounded; single owner. */
#ifndef RUNG_BASE_ARENA_H
#define RUNG_BASE_ARENA_H

#include <stddef.h>

struct arena_block;
struct arena {
    struct arena_block *blocks;
    size_t used, max; /* bytes handed out, and the most that may be */
};

void arena_init(struct arena *a, size_t max);
void arena_release(struct arena *a);
/* 16-byte aligned zeroed memory, or NULL when the limit or the machine's memory is reached. */
void *arena_alloc(struct arena *a, size_t size);
/* `count` × `size`, NULL on overflow. */
void *arena_array(struct arena *a, size_t count, size_t size);
/* Copies, closed by a NUL. NULL in gives NULL out. */
char *arena_strdup(struct arena *a, const char *text);
char *arena_memdup(struct arena *a, const void *data, size_t len);

#endif
