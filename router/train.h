/* Fitting a router: rows in, a router out. Blocking, takes memory and seconds; for `rung router train` and tuning.
 *
 * Deterministic: the same rows in the same order give the same file, whatever the number of threads.
 */
#ifndef RUNG_ROUTER_TRAIN_H
#define RUNG_ROUTER_TRAIN_H

#include "router/router.h"

#include <stdio.h>

/* One measured prompt: JSON {"task", "prompt" or "messages", "scores": {model: 0…1}, "lang"?}. */
struct train_row {
    char *text, *context, *task; /* owned; context may be NULL */
    size_t text_len, context_len;
    int turns;
    bool tools, json;
    int fold;            /* 0 … TRAIN_FOLDS - 1, by the prompt's hash: the same prompt is always in the same fold */
    float score[TIERS];  /* by column of the tiers asked for */
    float mean_score;    /* over every model the row names: how easy it is */
};
enum { TRAIN_FOLDS = 5, TRAIN_ROWS_MAX = 2000000, TRAIN_LINE_MAX = 4 << 20 };

struct train_rows {
    struct train_row *row;
    size_t count, cap;
    size_t skipped; /* rows without a score of every tier asked for */
    int columns;
    char names[TIERS][64];
};

/* "a,b" or "a,b,c" into names, smallest model first. Errors: ERR_INVALID. */
ERR_CHECKED enum err_code train_tiers(struct train_rows *rows, const char *list, struct err *e);
/* Reads JSON lines after train_tiers; `what` names the source in errors. Errors: ERR_SYNTAX, ERR_INVALID (line and
 * field), ERR_TOO_LARGE, ERR_MEMORY. */
ERR_CHECKED enum err_code train_rows_read(struct train_rows *rows, FILE *file, const char *what, struct err *e);
void train_rows_release(struct train_rows *rows);
/* What the router may see of a row. */
struct router_input train_input(const struct train_row *row);

struct train_options {
    unsigned bits;        /* 2^bits buckets for each kind of n-gram; 0: 16 */
    int threads;          /* 0: 2 */
    bool general;
    int64_t wall_ms;      /* written into the file; part of its hash */
};
/* Fits. `out_of_fold` (count, may be NULL) gets each row's calibrated probabilities from parts of the fit that had
 * not seen it. Errors: ERR_INVALID (too few rows), ERR_MEMORY. */
ERR_CHECKED enum err_code train_router(struct router **out, const struct train_rows *rows,
                                       const struct train_options *options, double (*out_of_fold)[TIERS],
                                       struct err *e);

#endif
