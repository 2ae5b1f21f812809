/* Fitting a router: rows in, a router out. Blocking, takes memory and seconds; for `rung router train` and tuning.
 *
 * Deterministic: the same rows in the same order give the same file, whatever the number of threads.
 */
#ifndef RUNG_ROUTER_TRAIN_H
#define RUNG_ROUTER_TRAIN_H

#include "router/router.h"

#include <stdio.h>

enum { TRAIN_MEMBERS = 12 }; /* models of one size that stand for a tier together */
enum { TRAIN_FOLDS = 5, TRAIN_ROWS_MAX = 2000000, TRAIN_LINE_MAX = 4 << 20 };

/* One measured prompt: JSON {"task", "prompt" or "messages", "scores": {model: 0…1}, "lang"?}. */
struct train_row {
    char *text, *context, *task; /* owned; context may be NULL */
    size_t text_len, context_len;
    int turns;
    bool tools, json;
    int fold;            /* 0 … TRAIN_FOLDS - 1, by the prompt's hash: the same prompt is always in the same fold */
    float score[TIERS];  /* by column of the tiers asked for */
    float mean_score;    /* over every model the row names: how easy it is */
    float member[TIERS][TRAIN_MEMBERS]; /* NaN: not measured */
};

struct train_rows {
    struct train_row *row;
    size_t count, cap;
    size_t skipped; /* rows without a score of every tier asked for */
    int columns;
    char names[TIERS][64];
    int members[TIERS];
    char member[TIERS][TRAIN_MEMBERS][64];
};

/* "a,b" or "a,b,c" into names, smallest model first. A tier may be several models of a size under one name,
 * "small=a+b+c": its score is their mean, without those that score less than a third of the best of them on a task,
 * which says how their answers were parsed rather than what they knew; a task on which the best of the largest
 * scores under 0.3 is left out for the same reason. Errors: ERR_INVALID. */
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

/* What each stage is worth on rows it had not seen (the joined figures' nine weights have). */
struct train_probe_worth {
    double brier, auc;
};
struct train_probe_report {
    size_t rows;
    struct train_probe_worth text, prefill, joined;
};
/* Adds the probe of stages 2 and 3 to a router just fitted to `rows`, from JSON lines, one observed answer of the
 * edge's model each:
 *   {"prompt": text, "hidden": [embedding numbers, the last hidden state after prefill], "score": 0…1,
 *    "answer_tokens": n, "entropy_mean", "entropy_max", "margin_min", "logprob_mean", "varentropy_mean", "finished"}
 * The score may also stand in "scores" under the smallest tier's name, as `rung evidence` leaves it. With answer_tokens
 * 0 or missing only the state was seen; else the figures are over those first n tokens. `out_of_fold` is
 * what train_router gave. Errors: ERR_SYNTAX, ERR_INVALID (line and field), ERR_MEMORY. */
ERR_CHECKED enum err_code train_probe(struct router *router, const struct train_rows *rows,
                                      const double (*out_of_fold)[TIERS], FILE *file, const char *what,
                                      struct train_probe_report *report, struct err *e);

#endif
