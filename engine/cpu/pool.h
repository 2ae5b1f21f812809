/* A team of threads that works through one job together, phase by phase. Sleeps (futex) when there is no job, after a
 * short spin. One caller at a time. */
#ifndef RUNG_ENGINE_CPU_POOL_H
#define RUNG_ENGINE_CPU_POOL_H

#include "base/err.h"

#include <stdbool.h>

struct pool;

/* `threads` counts the caller in: threads - 1 are started. `pin`: member i stays on the i-th allowed core. */
ERR_CHECKED enum err_code pool_open(struct pool **out, int threads, bool pin, struct err *e);
void pool_close(struct pool *pool);
int pool_threads(const struct pool *pool);
/* Physical cores this process may use. */
int pool_cores(void);

/* Run fn(ctx, member) on `members` threads (the caller is member 0) and return when all have. */
void pool_run(struct pool *pool, int members, void (*fn)(void *ctx, int member), void *ctx);
/* Inside a job: wait until every member is here. All that was written before is seen after. */
void pool_barrier(struct pool *pool);
/* Inside a job: the next index of the work between two barriers, 0, count, 2 count, …; shared by the members. */
int pool_take(struct pool *pool, int count);
/* The same work in another order, for what is fastest front to back: every member takes `count` at a time of a part of
 * [0, total) that is its own, and when it has done that, half of what another has left. False: nothing is. Not together with
 * pool_take between the same barriers. */
bool pool_share(struct pool *pool, int member, int total, int count, int *first, int *end);

#endif
