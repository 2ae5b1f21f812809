#if defined(__aarch64__)
#include "engine/cpu/vec_neon.h"

#include "engine/cpu/kernels.inc.h"

#include <sys/auxv.h>

enum { DOT_PRODUCT = 1 << 20 }; /* HWCAP_ASIMDDP */

static bool usable(void)
{
    return (getauxval(AT_HWCAP) & DOT_PRODUCT) != 0;
}

KERNELS_TABLE(KERNELS_NEON, "neon", usable);
#else
typedef int kernels_neon_not_here;
#endif
