#include "edge/edge.h"

int edge_main(const struct node_options *options)
{
    return node_main(TIER_EDGE, options);
}
