/* Every test of the kernels again, with the AMX set over tiles in plain C: so the bits are checked on machines without AMX. */
#include <stdio.h>

#if defined(__x86_64__)
#define KERNELS_AMX kernels_plain_tiles
#define TILES_HEADER "tests/engine/tiles_plain.h"
#include "engine/cpu/kernels_amx.c"

#define KERNELS_EXTRA kernels_plain_tiles
#define main kernels_main
#include "tests/engine/test_kernels.c"
#undef main

int main(void)
{
    if (kernels_plain_tiles.usable()) return kernels_main();
    (void)puts("skipped: no AVX-512");
    return 0;
}
#else
int main(void)
{
    (void)puts("skipped: not x86-64");
    return 0;
}
#endif
