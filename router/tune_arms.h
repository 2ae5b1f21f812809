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

#endif
