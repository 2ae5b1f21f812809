#include "engine/cpu/vec_scalar.h"

#include "engine/cpu/kernels.inc.h"

static bool usable(void)
{
    return true;
}

KERNELS_TABLE(KERNELS_SCALAR, "scalar", usable);
