/* Arms: two policies side by side on stable shares of the traffic, and a test of them that may be looked at any time.
 *
 * The interval is an asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas: "Time-uniform
 * central limit theory and asymptotic confidence sequences", 2021): with probability 95 % it holds the truth at every
 * moment at once, so that stopping when it clears zero is no cheat. It is wider than an interval for one look.
 */
#ifndef RUNG_ROUTER_TUNE_ARMS_H
#define RUNG_ROUTER_TUNE_ARMS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ARMS_MAX = 8, ARM_NAME = 16 };

/* Running sums of one arm's outcome. */
struct arm_sum {
    int64_t n;
    double mean, square; /* square: sum of squared distances from the mean (Welford) */
};
void arm_sum_add(struct arm_sum *sum, double value);

struct arm_difference {
    double value, low, high; /* second less first; low and high infinite below 50 rows in either */
    bool decided;            /* the interval leaves zero out */
};
/* Rows needed in both arms before anything is said, and where the sequence is tightest, in rows. */
enum { ARM_ROWS_LEAST = 50, ARM_ROWS_TIGHT = 2000 };
struct arm_difference arm_difference(const struct arm_sum *first, const struct arm_sum *second);
/* The same at another level: alpha 0.05 is the 95 % above. */
struct arm_difference arm_difference_at(const struct arm_sum *first, const struct arm_sum *second, double alpha);

/* One arm as the log has it. */
struct arm_row {
    char name[ARM_NAME];
    int64_t requests, labels;
    struct arm_sum quality, price_usd, total_ms;
    struct arm_difference quality_change, price_change, time_change; /* against the first arm */
};
struct arms {
    int count; /* by name: the first is the one others are told against */
    struct arm_row arm[ARMS_MAX];
};
/* Reads decisions since then; blocking, for reading only. Errors as tune_run; ERR_NOT_FOUND when there is none. */
ERR_CHECKED enum err_code arms_read(struct arms *out, const char *path, int64_t since_wall_ms, struct err *e);

/* The same of one experiment alone: decisions since the policy of that version (of arm B) was stored. ERR_NOT_FOUND: no such
 * policy. */
ERR_CHECKED enum err_code arms_read_trial(struct arms *out, const char *path, int64_t version, struct err *e);

/* When an experiment ends by itself. */
enum arms_metric { ARMS_QUALITY, ARMS_PRICE };
struct arms_rule {
    int metric;        /* enum arms_metric: more right answers, or a lower price */
    double confidence; /* of the interval that must leave zero out */
    int64_t rows_min;  /* in each arm: labels for quality; requests, and labels, for price */
    double loss;       /* for price: share of right answers that may be lost, surely */
};
enum arms_verdict { ARMS_WAIT, ARMS_PROMOTE, ARMS_STOP };
enum { ARMS_WHY = 200 };
/* B against A: promoted when surely better on the metric (and, for price, surely not worse than `loss` in quality), stopped
 * when surely worse. `why` says so with the figures. Pure. */
enum arms_verdict arms_judge(const struct arms *arms, const struct arms_rule *rule, char why[ARMS_WHY]);

#endif
