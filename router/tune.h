/* Tuning from the log: reads the decisions a replay can use, tries a grid of thresholds, and proposes a policy.
 *
 * Reads the file through a connection of its own, for reading only; the node may be running. Blocking, seconds for a
 * million decisions. Nothing here changes a policy: the node alone does that.
 */
#ifndef RUNG_ROUTER_TUNE_H
#define RUNG_ROUTER_TUNE_H

#include "base/buf.h"
#include "router/replay.h"

enum { TUNE_ROWS_MAX = 1000000, TUNE_POINTS_MAX = 256 };

struct tune_options {
    const char *path;
    int64_t since_wall_ms;  /* decisions from then on; 0: all */
    const char *node;       /* of this node alone; NULL: of all in the log */
    double loss;            /* of quality a proposal may risk, in share of right answers; 0: 0.01 */
    bool try_one;           /* judge these thresholds too; one < 0 is today's */
    double try_threshold[TIERS];
};
struct tune_point {
    struct replay_target target;
    struct replay_result result;
    bool frontier;          /* no other point is both better and cheaper */
};
struct tune {
    struct policy today;    /* the latest of the policies table, or the default */
    char router[17];        /* scores of other routers cannot be compared and were left out */
    int64_t rows, labels, left_out;
    int64_t from_ms, to_ms; /* of the decisions used */
    int count, supported;   /* points; those not refused */
    struct tune_point points[TUNE_POINTS_MAX]; /* the first is today's; the others by price, refused ones last */
    int tried;              /* index of the thresholds that were asked about, or -1 */
    int proposal;           /* index, or -1: keep today's */
    struct replay_result change; /* from today's to the proposal, paired */
    char verdict[320];      /* the proposal, or why there is none, in a sentence */
};
/* Errors: ERR_IO, ERR_CORRUPT, ERR_VERSION, ERR_INVALID, ERR_NOT_FOUND (no decision can be used: why), ERR_MEMORY. */
ERR_CHECKED enum err_code tune_run(struct tune **out, const struct tune_options *options, struct err *e);
void tune_free(struct tune *tune);
/* The policy that the proposal amounts to: today's with other thresholds. */
void tune_policy(const struct tune *tune, struct policy *out);
/* The frontier as one SVG picture: price across, quality upwards, with today's point and the proposal. */
void tune_svg(const struct tune *tune, struct buf *out);

#endif
