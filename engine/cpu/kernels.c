#include "engine/cpu/kernels.h"

#include <string.h>

/* Best first. */
static const struct kernels *const SETS[] = {
#if defined(__x86_64__)
    &KERNELS_AMX,
    &KERNELS_AVX512,
    &KERNELS_AVX2,
#elif defined(__aarch64__)
    &KERNELS_NEON_I8MM,
    &KERNELS_NEON,
#endif
    &KERNELS_SCALAR,
};
enum { SETS_COUNT = (int)(sizeof SETS / sizeof SETS[0]) };

const struct kernels *kernels_at(int index)
{
    for (int i = 0; i < SETS_COUNT; i++)
        if (SETS[i]->usable() && index-- == 0) return SETS[i];
    return NULL;
}

const struct kernels *kernels_find(const char *name)
{
    const struct kernels *k;
    for (int i = 0; (k = kernels_at(i)) != NULL; i++)
        if (!name || strcmp(k->name, name) == 0) return k;
    return NULL;
}
