#include "engine/sched_cost.h"

enum { STALE = 512, SLOWER = 16, SPAN = 4 };

/* A step that was quicker than ever is believed at once; slower ones bit by bit: most are disturbances. */
static double believe(double before, double seconds)
{
    return before <= 0 || seconds < before ? seconds : before + ((seconds < 4 * before ? seconds : 4 * before) - before) / SLOWER;
}

void cost_learn(struct step_cost *c, int cols, double seconds)
{
    c->now++;
    if (cols > COST_COLS) {
        c->per_token = believe(c->per_token, seconds / cols);
        return;
    }
    c->seconds[cols] = believe(c->seconds[cols], seconds);
    c->at[cols] = c->now;
    if (c->times[cols] < UINT8_MAX) c->times[cols]++;
}

static bool fresh(const struct step_cost *c, int cols)
{
    return c->at[cols] && c->now - c->at[cols] < STALE;
}

bool cost_known(const struct step_cost *c, int cols)
{
    return cols <= COST_COLS && fresh(c, cols) && c->times[cols] > 1;
}

static double along(const struct step_cost *c, int a, int b, int cols)
{
    double v = c->seconds[a] + (c->seconds[b] - c->seconds[a]) * (cols - a) / (b - a);
    return v > 0 ? v : 0;
}

double cost_of(const struct step_cost *c, int cols)
{
    if (cols > COST_COLS) return c->per_token > 0 ? c->per_token * cols : cost_of(c, COST_COLS) * cols / COST_COLS;
    if (fresh(c, cols)) return c->seconds[cols];
    int below = cols - 1, above = cols + 1, lowest = 1;
    while (below > 0 && !fresh(c, below)) below--;
    while (above <= COST_COLS && !fresh(c, above)) above++;
    if (below > 0 && above <= COST_COLS) return along(c, below, above, cols);
    if (above <= COST_COLS) return c->seconds[above];
    if (below <= 0) return 0;
    while (!fresh(c, lowest)) lowest++;
    double v = lowest < below ? along(c, lowest, below, cols) : c->seconds[below];
    return v > c->seconds[below] ? v : c->seconds[below];
}

double cost_of_column(const struct step_cost *c, int cols)
{
    double more = (cost_of(c, cols + SPAN) - cost_of(c, cols)) / SPAN;
    return more > 0 ? more : 0;
}
