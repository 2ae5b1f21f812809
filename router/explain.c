/* Which features moved a score. */
#include "router/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int router_explain(const struct router *router, const struct router_input *in, struct router_reason *out, int max)
{
    (void)router;
    (void)in;
    (void)out;
    (void)max;
    return 0;
}
