/* The AVX-512 set with one difference: full groups of columns are multiplied by AMX tiles, where the type is one of whole
 * numbers. Their dots are exact, so the bits stay those of every other set. Floats stay with AVX-512: tiles round BF16
 * sums in another order. */
#if defined(__x86_64__)
#define VEC_WIDEST 16
#define VEC_TILES
#include "engine/cpu/vec_avx512.h"

#ifndef TILES_HEADER /* a test has tiles of its own, which run anywhere */
#define TILES_HEADER "engine/cpu/tiles_amx.h"
#endif
#include TILES_HEADER

#include "engine/cpu/kernels.inc.h"

static bool usable(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni") && tiles_usable();
}

KERNELS_TABLE(KERNELS_AMX, "amx", usable);
#else
typedef int kernels_amx_not_here;
#endif
