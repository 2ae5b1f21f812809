/* The NEON set with one difference: columns in pairs are multiplied by SMMLA (i8mm), two rows × two columns × eight at a
 * time. Whole sums are exact, so the bits stay those of every other set. */
#if defined(__aarch64__)
#define VEC_PAIRS
#include "engine/cpu/vec_neon.h"

#include "engine/cpu/kernels.inc.h"

#include <sys/auxv.h>

enum { DOT_PRODUCT = 1 << 20 /* HWCAP_ASIMDDP */, MATRIX_8 = 1 << 13 /* HWCAP2_I8MM */ };

static bool usable(void)
{
    return (getauxval(AT_HWCAP) & DOT_PRODUCT) != 0 && (getauxval(AT_HWCAP2) & MATRIX_8) != 0;
}

KERNELS_TABLE(KERNELS_NEON_I8MM, "neon-i8mm", usable);
#else
typedef int kernels_neon_i8mm_not_here;
#endif
