/* Is the router still right for what comes? Two signs, read from the log: its probabilities against the labels, and the share
 * of prompts unlike its fit. Reads only, through a connection of its own; blocking.
 */
#ifndef RUNG_ROUTER_STALE_H
#define RUNG_ROUTER_STALE_H

#include "base/err.h"
#include "base/tier.h"

#include <stdbool.h>
#include <stdint.h>

enum { STALE_LABELS_MIN = 50, STALE_DECISIONS_MIN = 200, STALE_DECISIONS_MAX = 20000, STALE_WHY = 240 };

struct stale_options {
    const char *path, *node;     /* node NULL: all of the log */
    const char *router;          /* a fingerprint; NULL: the newest decision's */
    int64_t since_wall_ms;       /* 0: all */
    double calibration;          /* bound of |promised - was|; 0: 0.05 */
    double unfamiliar;           /* bound of the share of prompts beyond the 99th percentile of the fit; 0: 0.1 */
};
struct stale_tier {
    int64_t labels;
    double promised, was, error; /* means; standard error of their difference */
};
struct stale {
    char router[17];
    struct stale_tier tier[TIERS];
    int64_t decisions;           /* the newest; at most STALE_DECISIONS_MAX */
    double unfamiliar;           /* share of them */
    bool stale;
    char why[STALE_WHY];         /* a sentence, with the figures; also when it is not stale */
};
/* A tier counts as off when it is off by more than the bound and by more than three standard errors, on at least 50 labels.
 * An answer that the probe sent up unjudged counts with the probe's word, so that what is left is not the easier half.
 * Errors as tune_run; ERR_NOT_FOUND: no decision of such a router. */
ERR_CHECKED enum err_code stale_read(struct stale *out, const struct stale_options *options, struct err *e);

#endif
