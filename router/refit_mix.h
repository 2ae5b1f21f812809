/* How far a correction is believed: four weights fitted by likelihood, pulled to the prior. Private to the room. */
#ifndef RUNG_ROUTER_REFIT_MIX_H
#define RUNG_ROUTER_REFIT_MIX_H

#include <stdbool.h>
#include <stddef.h>

/* logit(p) = w · (o, 1, up, down): the prior's log-odds, one, and what the correction says beyond it (own_beyond). */
enum { MIX_WEIGHTS = 4 };
struct mix_weights {
    double w[MIX_WEIGHTS];
};
struct mix_rows {
    size_t n;
    double (*x)[MIX_WEIGHTS];    /* (n) */
    double *y, *weight;          /* (n) the label, its weight */
    unsigned char *fold;         /* (n) */
};
bool mix_take(struct mix_rows *rows, size_t max); /* n is 0 then */
void mix_release(struct mix_rows *rows);
/* From all folds but one; fold < 0: from all. */
struct mix_weights mix_fit(const struct mix_rows *rows, int fold);
/* Log loss of each row: of the prior, and of the mix fitted on the other folds. Returns the weighted mean. */
double mix_loss_prior(const struct mix_rows *rows, double *loss);
double mix_loss_held_out(const struct mix_rows *rows, int folds, double *loss);
/* Standard error of the weighted mean of x - y. */
double mix_error(const struct mix_rows *rows, const double *x, const double *y);

#endif
