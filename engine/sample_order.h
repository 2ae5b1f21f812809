/* Rows of logits in the order of sampling: highest first, of equals the lower id; not a number never. Pure functions. */
#ifndef RUNG_ENGINE_SAMPLE_ORDER_H
#define RUNG_ENGINE_SAMPLE_ORDER_H

#include "engine/backend.h"

static inline bool order_before(const struct logit_at *x, const struct logit_at *y)
{
    return x->logit > y->logit || (x->logit == y->logit && x->id < y->id);
}
/* The id of the first; 0 where none is a number. */
int order_highest(const float *logits, int n);
/* The first k, or as many as are above -∞; how many. work: (n). */
int order_first(const float *logits, int n, struct logit_at *work, struct logit_at *out, int k);
/* All from `least` on, in one of the two work spaces (vocabulary); how many. */
int order_all(const float *logits, int vocabulary, float least, struct logit_at *from, struct logit_at *to, struct logit_at **out);
/* Σ exp((logit - most) × inverse) within LOGIT_SUM_ERROR. */
double order_sum(const float *logits, int n, float most, float inverse);

/* The same by blocks of ORDER_BLOCK logits, each block's into `sums`. */
enum { ORDER_BLOCK = 256 };
double order_sums(const float *logits, int n, float most, float inverse, double *sums);
/* The first, by id, at which the running sum of weights passes `target`; what is lighter than `lightest` is passed over. -1: none. */
int order_find(const float *logits, int n, float most, float inverse, const double *sums, double target, float lightest);

#endif
