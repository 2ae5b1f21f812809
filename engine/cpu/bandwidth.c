#include "engine/cpu/bandwidth.h"

#include "base/clock.h"
#include "engine/cpu/pool.h"

#include <string.h>
#include <sys/mman.h>

enum { LINE = 64, CHUNK = 1 << 20, ROUNDS = 6 };
typedef uint64_t line __attribute__((vector_size(LINE)));

struct reading {
    struct pool *pool;
    const char *memory;
    int chunks;
    line sums[1024]; /* (members): the reads must have a use */
};

static void read_job(void *ctx, int member)
{
    struct reading *r = ctx;
    line a = {0}, b = a, c = a, d = a;
    for (int at; (at = pool_take(r->pool, 1)) < r->chunks;) {
        const line *p = (const line *)(const void *)(r->memory + (size_t)at * CHUNK);
        for (int i = 0; i < CHUNK / LINE; i += 4) {
            a += p[i];
            b += p[i + 1];
            c += p[i + 2];
            d += p[i + 3];
        }
    }
    r->sums[member] = a + b + c + d;
}

enum err_code bandwidth_measure(int threads, size_t bytes, double *out, struct err *e)
{
    static const size_t HUGE = (size_t)2 << 20;
    bytes = (bytes + HUGE - 1) / HUGE * HUGE;
    struct reading *r = mmap(NULL, sizeof *r, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    enum err_code code = r == MAP_FAILED || memory == MAP_FAILED ? err_set(e, ERR_MEMORY, "no memory for %zu bytes to read", bytes) : ERR_OK;
    if (!code) code = pool_open(&r->pool, threads, false, e);
    if (!code) {
        (void)madvise(memory, bytes, MADV_HUGEPAGE);
        memset(memory, 1, bytes);
        r->memory = memory;
        r->chunks = (int)(bytes / CHUNK);
        *out = 0;
        for (int i = 0; i < ROUNDS; i++) {
            int64_t start = clock_mono_us();
            pool_run(r->pool, threads, read_job, r);
            double rate = (double)bytes / ((double)(clock_mono_us() - start) * 1e-6);
            if (rate > *out) *out = rate;
        }
        pool_close(r->pool);
    }
    if (r != MAP_FAILED) (void)munmap(r, sizeof *r);
    if (memory != MAP_FAILED) (void)munmap(memory, bytes);
    return code;
}
