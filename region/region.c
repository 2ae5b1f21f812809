#include "region/region.h"

int region_main(const struct node_options *options)
{
    return node_main(TIER_REGION, options);
}
