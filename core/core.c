#include "core/core.h"

int core_main(const struct node_options *options)
{
    return node_main(TIER_CORE, options);
}

int worker_main(enum tier tier, const struct node_options *options)
{
    struct node_options worker = *options;
    worker.worker = true;
    return node_main(tier, &worker);
}
