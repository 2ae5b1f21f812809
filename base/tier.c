#include "base/tier.h"

#include <string.h>

static const char *const NAMES[TIERS] = {"edge", "region", "core"};

const char *tier_name(enum tier tier)
{
    return (unsigned)tier < TIERS ? NAMES[tier] : "none";
}

enum tier tier_from_name(const char *name)
{
    for (int i = 0; name && i < TIERS; i++)
        if (strcmp(NAMES[i], name) == 0) return (enum tier)i;
    return TIER_NONE;
}
