#include "engine/cpu/pool.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SPINS = 4000, THREADS_MAX = 1024 };

/* A word that threads wait on to change. */
struct gate {
    _Atomic uint32_t value;
    _Atomic int sleepers;
};

/* How much of a member's own part is taken: from its front (by itself) in the low half, from its end (by others) in the high. */
struct part {
    _Alignas(64) _Atomic uint64_t taken;
};

struct member {
    struct pool *pool;
    pthread_t id;
    int index;
};

struct pool {
    int threads;
    bool pin;
    struct member *members; /* (threads); the first is the caller */
    struct part *parts;     /* (threads) */
    void (*fn)(void *ctx, int member);
    void *ctx;
    int team; /* members of the running job */
    _Atomic bool stop;
    _Alignas(64) struct gate job;  /* changes with each job */
    _Alignas(64) struct gate done; /* changes when the last member has finished */
    _Atomic int running;
    _Alignas(64) struct gate phase;
    _Atomic int arrived;
    _Alignas(64) _Atomic int next;
};

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void gate_wait(struct gate *g, uint32_t seen)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&g->value, memory_order_acquire) != seen) return;
        relax();
    }
    atomic_fetch_add(&g->sleepers, 1);
    while (atomic_load(&g->value) == seen)
        (void)syscall(SYS_futex, &g->value, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    atomic_fetch_sub(&g->sleepers, 1);
}

static void gate_open(struct gate *g)
{
    atomic_fetch_add(&g->value, 1);
    if (atomic_load(&g->sleepers)) (void)syscall(SYS_futex, &g->value, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* The index-th core of those the process may run on; threads beyond wrap around. */
static void pin_self(int index)
{
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    int count = CPU_COUNT(&allowed), want = index % (count ? count : 1);
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed) || want-- > 0) continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        (void)pthread_setaffinity_np(pthread_self(), sizeof one, &one);
        return;
    }
}

static void *member_main(void *arg)
{
    struct member *m = arg;
    struct pool *p = m->pool;
    if (p->pin) pin_self(m->index);
    for (uint32_t seen = 0;;) {
        gate_wait(&p->job, seen);
        seen = atomic_load(&p->job.value);
        if (atomic_load(&p->stop)) return NULL;
        if (m->index < p->team) p->fn(p->ctx, m->index);
        if (atomic_fetch_sub(&p->running, 1) == 1) gate_open(&p->done);
    }
}

enum err_code pool_open(struct pool **out, int threads, bool pin, struct err *e)
{
    if (threads < 1 || threads > THREADS_MAX)
        return err_set(e, ERR_INVALID, "%d threads: from 1 to %d can be used", threads, THREADS_MAX);
    struct pool *p = aligned_alloc(64, (sizeof *p + 63) & ~(size_t)63);
    struct member *members = calloc((size_t)threads, sizeof *members);
    struct part *parts = aligned_alloc(64, (size_t)threads * sizeof *parts);
    if (!p || !members || !parts) {
        free(p);
        free(members);
        free(parts);
        return err_set(e, ERR_MEMORY, "no memory for %d threads", threads);
    }
    memset(p, 0, sizeof *p);
    p->pin = pin;
    p->members = members;
    p->parts = parts;
    memset(parts, 0, (size_t)threads * sizeof *parts);
    for (p->threads = 1; p->threads < threads; p->threads++) {
        struct member *m = &members[p->threads];
        *m = (struct member){.pool = p, .index = p->threads};
        if (pthread_create(&m->id, NULL, member_main, m) != 0) {
            int made = p->threads;
            pool_close(p);
            return err_set(e, ERR_MEMORY, "could start only %d of %d threads", made, threads);
        }
    }
    *out = p;
    return ERR_OK;
}

void pool_close(struct pool *p)
{
    if (!p) return;
    atomic_store(&p->stop, true);
    gate_open(&p->job);
    for (int i = 1; i < p->threads; i++) (void)pthread_join(p->members[i].id, NULL);
    free(p->members);
    free(p->parts);
    free(p);
}

int pool_threads(const struct pool *p)
{
    return p->threads;
}

int pool_cores(void)
{
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 1;
    int cores = 0;
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed)) continue;
        char path[96];
        size_t first = cpu;
        (void)snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%zu/topology/thread_siblings_list", cpu);
        FILE *f = fopen(path, "r");
        if (f && fscanf(f, "%zu", &first) != 1) first = cpu;
        if (f) (void)fclose(f);
        if (first == cpu || !CPU_ISSET(first, &allowed)) cores++;
    }
    return cores ? cores : 1;
}

/* The next phase's work is all there. Called while nobody takes. */
static void refill(struct pool *p)
{
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    for (int i = 0; i < p->team; i++) atomic_store_explicit(&p->parts[i].taken, 0, memory_order_relaxed);
}

void pool_run(struct pool *p, int members, void (*fn)(void *ctx, int member), void *ctx)
{
    p->team = members < p->threads ? members : p->threads;
    p->fn = fn;
    p->ctx = ctx;
    refill(p);
    if (p->team <= 1) {
        fn(ctx, 0);
        return;
    }
    uint32_t seen = atomic_load(&p->done.value);
    atomic_store(&p->running, p->threads - 1);
    gate_open(&p->job);
    fn(ctx, 0);
    gate_wait(&p->done, seen);
}

void pool_barrier(struct pool *p)
{
    if (p->team <= 1) {
        refill(p);
        return;
    }
    uint32_t seen = atomic_load(&p->phase.value);
    if (atomic_fetch_add(&p->arrived, 1) == p->team - 1) {
        atomic_store(&p->arrived, 0);
        refill(p);
        gate_open(&p->phase);
    } else {
        gate_wait(&p->phase, seen);
    }
}

int pool_take(struct pool *p, int count)
{
    if (p->team <= 1) {
        int at = atomic_load_explicit(&p->next, memory_order_relaxed);
        atomic_store_explicit(&p->next, at + count, memory_order_relaxed);
        return at;
    }
    return atomic_fetch_add(&p->next, count);
}

/* Takes `count` of member `of`'s part from its front, or half of what is left (at least `count`) from its end. */
static bool take_part(struct pool *p, int of, bool front, int total, int count, int *first, int *end)
{
    int start = (int)((int64_t)total * of / p->team), stop = (int)((int64_t)total * (of + 1) / p->team);
    uint64_t taken = atomic_load_explicit(&p->parts[of].taken, memory_order_relaxed), more;
    do {
        int at = start + (int)(uint32_t)taken, left = stop - (int)(taken >> 32) - at, n = front || left < 2 * count ? count : left / 2;
        if (left <= 0) return false;
        n = n < left ? n : left;
        *first = front ? at : at + left - n;
        *end = *first + n;
        more = (uint64_t)n << (front ? 0 : 32);
    } while (!atomic_compare_exchange_weak_explicit(&p->parts[of].taken, &taken, taken + more, memory_order_relaxed, memory_order_relaxed));
    return true;
}

bool pool_share(struct pool *p, int member, int total, int count, int *first, int *end)
{
    if (take_part(p, member, true, total, count, first, end)) return true;
    for (int i = 1; i < p->team; i++)
        if (take_part(p, (member + i) % p->team, false, total, count, first, end)) return true;
    return false;
}
