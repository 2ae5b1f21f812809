#if defined(__x86_64__)
#include "engine/cpu/vec_avx512.h"

#include "engine/cpu/kernels.inc.h"

static bool usable(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

KERNELS_TABLE(KERNELS_AVX512, "avx512", usable);
#else
typedef int kernels_avx512_not_here;
#endif
