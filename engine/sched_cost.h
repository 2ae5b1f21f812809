/* What steps of a backend take by their columns, as they were measured: few numbers, good enough to say whether one more
 * column pays. Others use the machine too, so the least of late counts. Single owner. */
#ifndef RUNG_ENGINE_SCHED_COST_H
#define RUNG_ENGINE_SCHED_COST_H

#include <stdbool.h>
#include <stdint.h>

enum { COST_COLS = 32 };

struct step_cost {
    double seconds[COST_COLS + 1]; /* by columns */
    int64_t at[COST_COLS + 1];     /* when that was measured last, in steps; 0: never */
    uint8_t times[COST_COLS + 1];  /* how often, at most 255 */
    int64_t now;
    double per_token;              /* of steps of more columns than that; 0: none was yet */
};

void cost_learn(struct step_cost *c, int cols, double seconds);
/* Whether `cols` was measured lately, and more than once. */
bool cost_known(const struct step_cost *c, int cols);
/* Seconds of a step of `cols` columns; where it was not measured lately, by its neighbours. 0: nothing is known. */
double cost_of(const struct step_cost *c, int cols);
/* Seconds that one column more costs a step of `cols`, 0 and up. */
double cost_of_column(const struct step_cost *c, int cols);

#endif
