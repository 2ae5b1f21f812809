#include "base/slice.h"

#include <sched.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

/* As sched_setattr(2) has it; the C library of Debian 12 does not. */
struct attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime_ns, deadline_ns, period_ns; /* of an ordinary thread the first is its slice */
};

enum { SHORT_NS = 100 * 1000, LONG_NS = 100 * 1000 * 1000 /* the least and the most there are */, LONG_NICE = 10 };

/* Threads that somebody has given a real-time or idle policy keep it. */
static void set(uint64_t runtime_ns, uint32_t policy, int32_t nice_min)
{
    struct attributes a = {0};
    if (syscall(SYS_sched_getattr, 0, &a, sizeof a, 0) != 0 || (a.policy != SCHED_OTHER && a.policy != SCHED_BATCH)) return;
    a.size = sizeof a;
    a.policy = policy;
    a.runtime_ns = runtime_ns;
    if (a.nice < nice_min) a.nice = nice_min;
    (void)syscall(SYS_sched_setattr, 0, &a, 0);
}

void slice_short(void)
{
    set(SHORT_NS, SCHED_OTHER, -20);
}

void slice_long(void)
{
    set(LONG_NS, SCHED_BATCH, LONG_NICE);
}
