/* The parts of a fit. Private to router/train*.c. */
#ifndef RUNG_ROUTER_TRAIN_PARTS_H
#define RUNG_ROUTER_TRAIN_PARTS_H

#include "router/model.h"
#include "router/train.h"

enum { LANES = MODEL_HEADS + 1 }; /* regressions that are solved together */

/* Rows as sparse vectors: hashed n-grams, then the counted features. */
struct train_vectors {
    size_t rows, entries, cap;
    size_t *from;     /* (rows + 1) */
    uint32_t *column; /* (entries) */
    float *value;     /* (entries) */
    uint32_t columns; /* buckets in use, then COUNTED */
    uint32_t used;    /* buckets in use */
    uint32_t *bucket; /* (used) where a column lies in router->buckets */
    float *counted;   /* (rows, COUNTED) as counted */
};
/* Walks the rows; sets idf, mean, gain and novelty in `r`. False: out of memory. */
bool vectors_init(struct train_vectors *v, const struct train_rows *rows, struct router *r);
void vectors_release(struct train_vectors *v);

/* Ridge regressions of up to LANES targets over the rows of all folds but `fold` (-1: over all). */
struct ridge_job {
    const struct train_vectors *v;
    const unsigned char *fold_of; /* (rows) */
    int fold, steps;
    const float *target; /* (rows, LANES) */
    const float *weight; /* (rows, LANES) or NULL: all 1 */
    const float *ridge;  /* (LANES) or NULL: that of fitting to texts */
    float mean[LANES];   /* of the targets; the regressions are of what is left */
    float *w;            /* (columns, LANES), zeroed by the caller */
    bool failed;
};
/* Solves all, on up to `threads` threads. */
bool ridge_solve(struct ridge_job *jobs, int count, int threads);
void ridge_predict(const struct ridge_job *job, size_t row, float out[LANES]);

/* Boosted trees of depth MODEL_DEPTH on squared error, all tiers at once. In `rounds` rounds that each begin anew with other
 * samples, and count by their mean: what one draw of samples found by luck is worth more than .01 APGR on 661 rows. */
struct tree_job {
    const float *inputs; /* (rows, MODEL_INPUTS) */
    const float *start;  /* (rows, TIERS): the score before the trees */
    const float *target; /* (rows, TIERS) */
    const float *weight; /* (rows) or NULL */
    const unsigned char *fold_of;
    size_t rows;
    int fold, columns, trees, rounds; /* rounds: a divisor of trees; 0: 1 */
    struct model_tree *out;           /* (trees) */
    bool failed;
};
bool tree_solve(struct tree_job *jobs, int count, int threads);

/* Softmax regression of the row's task on its codes (heads from `first` on). False: out of memory. */
bool task_solve(struct router *r, const float *heads /* (rows, MODEL_HEADS) */, const int *task /* (rows) */,
                size_t rows, int first);
/* The r most telling directions of `n` predictions over `rows` rows: out (n, r), orthonormal. */
bool task_directions(const float *predictions /* (rows, n) */, size_t rows, int n, int r, float *out);

/* The dial of a router from rows' probabilities by folds that had not seen them: for a price rising from the edge's to core's
 * (by the default prices, for equal token counts) the thresholds that get the most right. False: out of memory. */
bool train_dial(struct router *r, const struct train_rows *rows, const double (*p)[TIERS]);

/* Solves the n × n system (with its right side as the column after) in place; false when it has no answer. */
enum { TRAIN_SOLVE_MAX = 4 };
bool train_solve(int n, double m[][TRAIN_SOLVE_MAX + 1]);

/* Run work(jobs + i × size) for each job. */
void train_parallel(void *jobs, size_t size, int count, int threads, void (*work)(void *job));

uint64_t train_random(uint64_t *state);

#endif
