#if defined(__x86_64__)
#include "engine/cpu/vec_avx2.h"

#include "engine/cpu/kernels.inc.h"

static bool usable(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

KERNELS_TABLE(KERNELS_AVX2, "avx2", usable);
#else
typedef int kernels_avx2_not_here;
#endif
