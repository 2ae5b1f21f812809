/* The three rungs. A tier is a place with a model of a size, a price and a delay. */
#ifndef RUNG_BASE_TIER_H
#define RUNG_BASE_TIER_H

enum tier { TIER_EDGE, TIER_REGION, TIER_CORE, TIERS, TIER_NONE = -1 };

/* "edge", "region", "core"; "none" for anything else. */
const char *tier_name(enum tier tier);
/* The tier of a name; TIER_NONE when it is not one. */
enum tier tier_from_name(const char *name);

#endif
