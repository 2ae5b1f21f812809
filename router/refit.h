/* Refitting a router from a log's sketches and labels: no prompt is needed. Blocking, seconds for 20,000 labels.
 *
 * The router that gave the scores is the prior; what the labels add is chosen by likelihood on folds left out, tier by
 * tier, and kept only where it is better there by more than a standard error. Deterministic.
 *
 * A label counts by one over the propensity of the choice that led to it, at most REFIT_WEIGHT_MAX times, so that the
 * prompts a tier seldom gets are not forgotten.
 */
#ifndef RUNG_ROUTER_REFIT_H
#define RUNG_ROUTER_REFIT_H

#include "router/router.h"

enum { REFIT_ROWS_MAX = 20000, REFIT_LABELS_MIN = 20, REFIT_WEIGHT_MAX = 10, REFIT_FOLDS = 5 };

struct refit_row {
    unsigned char sketch[ROUTER_SKETCH_BYTES];
    float label[TIERS], weight[TIERS]; /* by tier; weight 0: not labelled */
    unsigned char fold;                /* the same for the same prompt */
    float probe_x, probe_label;        /* the probe's log-odds before any refit of it, and how the edge did; NaN: none */
    float p_edge;                      /* that the probe was given */
};
struct refit_tier {
    double labels;
    double loss_prior, loss;           /* mean log loss on folds left out: of the prior, of what was chosen */
    double error;                      /* standard error of their difference */
    double own;                        /* weight of the own labels' word: 0 the prior's alone … 1 */
    double ridge;                      /* the strength that was chosen; 0: none */
    bool trees, kept;                  /* kept: the prior stays as it was */
};
struct refit_report {
    size_t rows;                       /* used */
    struct refit_tier tier[TIERS];     /* by tier */
    struct refit_tier probe;           /* labels, losses, kept */
};
/* Refits `router` in place; rows under other keys or of another base router than the first row's are ERR_INVALID.
 * Errors: ERR_INVALID (too few labels; no tier was the better for it: both said in figures, and the router is as it
 * was), ERR_MEMORY. `report` may be NULL. */
ERR_CHECKED enum err_code refit_router(struct router *router, const struct refit_row *rows, size_t count,
                                       struct refit_report *report, struct err *e);

struct refit_options {
    const char *path, *node;           /* the log; of this node alone, NULL: of all */
    int64_t since_wall_ms;             /* 0: all */
};
struct refit_rows {
    struct refit_row *row;             /* the newest first */
    size_t count;
    int64_t other_key, other_router;   /* labelled ones left out: sketches under another key, scores of another router */
};
/* The labelled decisions of a log that were scored by this router or what it was refitted from. Reads only. Errors as
 * tune_run; ERR_NOT_FOUND when there is none, with the reason. */
ERR_CHECKED enum err_code refit_read(struct refit_rows *out, const struct router *router,
                                     const struct refit_options *options, struct err *e);
void refit_rows_release(struct refit_rows *rows);

#endif
