/* How good a router's scores are on measured prompts. Private to the room and `rung router score`. */
#ifndef RUNG_ROUTER_SCORE_H
#define RUNG_ROUTER_SCORE_H

#include "router/train.h"

enum { SCORE_BINS = 15, SCORE_RESAMPLES = 400, SCORE_POINTS = 11 };

/* APGR as RouteLLM computes it: thresholds at the 11 decile edges of the score (strong if score ≥ t, the last edge >),
 * each a share sent to the strong model and a mean quality; (area - weak) / (strong - weak), trapezoids over the share.
 * `order`, if given, is scratch of n floats. 0.5 is random, NaN where the two models are equally good. */
double score_apgr(const float *score, const float *weak, const float *strong, size_t n, float *order);
/* The least share sent up at which quality reaches weak + x (strong - weak), along the same points. */
double score_cpt(const float *score, const float *weak, const float *strong, size_t n, double x, float *order);

struct score_pair { /* small to large */
    int weak, strong;      /* columns */
    double weak_mean, strong_mean;
    double apgr, apgr_low, apgr_high; /* 95 % of bootstrap resamples of the rows */
    double cpt50, cpt80;
    double length, length_low, length_high; /* APGR of prompt length alone */
};
struct score_tier {
    double brier, ece;
    double ece_perfect; /* what a perfect calibrator stays under in 95 % of simulations at this many rows */
    double bin_p[SCORE_BINS], bin_y[SCORE_BINS];
    size_t bin_n[SCORE_BINS];
};
struct score_report {
    size_t rows;
    int columns, pairs;
    struct score_pair pair[3];
    struct score_tier tier[TIERS];
};
/* `p` (rows->count) by column. Deterministic. Errors: ERR_MEMORY, ERR_INVALID (no rows). */
ERR_CHECKED enum err_code score_rows(struct score_report *out, const struct train_rows *rows, const double (*p)[TIERS],
                                     struct err *e);
/* Each fold's probabilities from a router fitted on the other folds alone, from the first to the last part. */
ERR_CHECKED enum err_code score_cross(const struct train_rows *rows, const struct train_options *options,
                                      double (*p)[TIERS], struct err *e);
/* The same with each task left out in its turn: how far a router carries to tasks it never saw. */
ERR_CHECKED enum err_code score_leave_task(const struct train_rows *rows, const struct train_options *options,
                                           double (*p)[TIERS], struct err *e);

/* Each fold's probabilities from a refit on sketches of the other folds' texts, with `prior` (whose own labels, if it has
 * any, are forgotten) or none; `labels` > 0: on so many rows alone. */
ERR_CHECKED enum err_code score_sketch(const struct train_rows *rows, struct router *prior, size_t labels,
                                       double (*p)[TIERS], struct err *e);

#endif
