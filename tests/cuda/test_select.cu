/* The tops of rows of logits against a plain sort, to the bit, and their sums against double precision (LOGIT_SUM_ERROR). */
#include "engine/cuda/backend.cuh"
#include "tests/cuda/random.cuh"

#include <algorithm>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

extern "C" {
#include "base/err.h"
}

enum { ROWS = 3 };

static int passed, failed;
static double worst;

static void expect(bool good, const char *kind, int vocabulary, const char *what)
{
    if (good) passed++;
    else {
        failed++;
        printf("FAILED %s, %d tokens: %s\n", kind, vocabulary, what);
    }
}

/* ---- rows of many kinds ---- */

static float normal(int, int)
{
    return 3 * random_normal();
}
static float equal(int, int)
{
    return 1.5f;
}
static float few(int, int) /* values; zeros of both signs among them */
{
    int v = (int)(random_u32() % 7) - 3;
    return v ? (float)v : random_u32() & 1 ? 0.f : -0.f;
}
static float rising(int i, int n)
{
    return -20.f + 20.f * (float)i / (float)n;
}
static float falling(int i, int n)
{
    return -20.f * (float)i / (float)n;
}
static float of_one_thread(int i, int) /* the highest are all in a few threads' groups, where others have none */
{
    return i % 1024 == 3 ? 10 + random_normal() : random_normal();
}
static float neighbours(int i, int n) /* the highest are neighbours */
{
    return i >= n / 2 && i < n / 2 + 700 ? 8 + random_normal() : random_normal();
}
static float odd_ones(int, int)
{
    static const float ODD[] = {NAN, -INFINITY, -NAN, -3e38f, 1e-40f, -1e-40f};
    return random_u32() % 3 ? random_normal() : ODD[random_u32() % 6];
}
static float mostly_nothing(int i, int)
{
    return i % 997 == 4 ? random_normal() : -INFINITY;
}
static float nothing(int i, int)
{
    return i % 2 ? -INFINITY : NAN;
}
static float endless(int i, int)
{
    return i % 500 == 4 ? INFINITY : random_normal();
}
static float near_the_bound(int i, int) /* many just where the list ends: bits of ids decide */
{
    return i % 100 < 2 && i < 10000 ? 5 : i % 3 ? 4.9999995f : 4.999999f;
}

static const struct {
    const char *name;
    float (*at)(int i, int n);
} KINDS[] = {{"normal", normal}, {"equal", equal}, {"few values", few}, {"rising", rising}, {"falling", falling}, {"of one thread", of_one_thread},
             {"neighbours", neighbours}, {"odd ones", odd_ones}, {"mostly nothing", mostly_nothing}, {"nothing", nothing}, {"endless", endless},
             {"near the bound", near_the_bound}};

/* ---- one case: rows of different inverses, the middle one not asked for ---- */

static void check_row(const float *row, int n, float inverse, float most, const struct logit_list *got, const char *kind)
{
    std::vector<struct logit_at> want;
    double sum = 0;
    for (int i = 0; i < n; i++) {
        if (row[i] > -INFINITY) want.push_back({row[i] + 0.f, i});
        if (row[i] == row[i]) sum += exp((double)((row[i] - most) * inverse));
    }
    std::sort(want.begin(), want.end(),
              [](const struct logit_at &a, const struct logit_at &b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); });
    int count = std::min((int)want.size(), (int)LOGIT_LIST_MAX);
    expect(got->count == count, kind, n, "how many");
    if (got->count == count) expect(count == 0 || memcmp(got->top, want.data(), (size_t)count * sizeof *got->top) == 0, kind, n, "the top");
    if (!isfinite(most)) {
        expect(!(got->sum < INFINITY) || most == INFINITY, kind, n, "a sum of nothing");
        return;
    }
    double error = fabs(got->sum - sum) / sum;
    worst = fmax(worst, error);
    expect(error <= LOGIT_SUM_ERROR, kind, n, "the sum");
}

static void run(int k, int n)
{
    int64_t ld = ((int64_t)n + 15) / 16 * 16;
    std::vector<float> host((size_t)(ld * ROWS), NAN);
    std::vector<struct logit_list> lists(ROWS);
    static const float inverse[ROWS] = {1 / 0.7f, 0, 1};
    struct logit_stats stats[ROWS];
    memset(stats, 0, sizeof stats);
    memset(lists.data(), 0x55, sizeof lists[0] * ROWS);
    for (int r = 0; r < ROWS; r++) {
        float *row = &host[(size_t)(r * ld)];
        stats[r].max = -INFINITY;
        for (int i = 0; i < n; i++) {
            row[i] = KINDS[k].at(i, n);
            stats[r].max = fmaxf(stats[r].max, row[i]);
        }
    }
    float *logits, *device_inverse;
    struct logit_stats *device_stats;
    struct logit_list *device_lists;
    MUST(cudaMalloc((void **)&logits, host.size() * 4));
    MUST(cudaMalloc((void **)&device_inverse, sizeof inverse));
    MUST(cudaMalloc((void **)&device_stats, sizeof stats));
    MUST(cudaMalloc((void **)&device_lists, sizeof lists[0] * ROWS));
    MUST(cudaMemcpy(logits, host.data(), host.size() * 4, cudaMemcpyHostToDevice));
    MUST(cudaMemcpy(device_inverse, inverse, sizeof inverse, cudaMemcpyHostToDevice));
    MUST(cudaMemcpy(device_stats, stats, sizeof stats, cudaMemcpyHostToDevice));
    MUST(cudaMemcpy(device_lists, lists.data(), sizeof lists[0] * ROWS, cudaMemcpyHostToDevice));
    struct err e;
    memset(&e, 0, sizeof e);
    if (select_lists(logits, ld, ROWS, n, device_inverse, device_stats, device_lists, 0, &e)) {
        printf("%s\n", e.msg);
        exit(1);
    }
    MUST(cudaDeviceSynchronize());
    MUST(cudaMemcpy(lists.data(), device_lists, sizeof lists[0] * ROWS, cudaMemcpyDeviceToHost));
    for (int r = 0; r < ROWS; r += 2) check_row(&host[(size_t)(r * ld)], n, inverse[r], stats[r].max, &lists[(size_t)r], KINDS[k].name);
    expect(lists[1].count == 0x55555555, KINDS[k].name, n, "a row that was not asked for");
    MUST(cudaFree(logits));
    MUST(cudaFree(device_inverse));
    MUST(cudaFree(device_stats));
    MUST(cudaFree(device_lists));
}

#ifndef RUNG_EMULATE
/* Microseconds a launch, for the sizes that matter. */
static void measure(void)
{
    static const int SIZES[] = {32000, 102400, 152064};
    for (int n : SIZES)
        for (int rows = 1; rows <= 256; rows *= 4) {
            int64_t ld = ((int64_t)n + 15) / 16 * 16;
            std::vector<float> host((size_t)(ld * rows)), inverse((size_t)rows, 1.f);
            std::vector<struct logit_stats> stats((size_t)rows);
            for (float &x : host) x = 3 * random_normal();
            for (auto &s : stats) s.max = 6;
            float *logits, *device_inverse;
            struct logit_stats *device_stats;
            struct logit_list *lists;
            MUST(cudaMalloc((void **)&logits, host.size() * 4));
            MUST(cudaMalloc((void **)&device_inverse, inverse.size() * 4));
            MUST(cudaMalloc((void **)&device_stats, stats.size() * sizeof stats[0]));
            MUST(cudaMalloc((void **)&lists, (size_t)rows * sizeof *lists));
            MUST(cudaMemcpy(logits, host.data(), host.size() * 4, cudaMemcpyHostToDevice));
            MUST(cudaMemcpy(device_inverse, inverse.data(), inverse.size() * 4, cudaMemcpyHostToDevice));
            MUST(cudaMemcpy(device_stats, stats.data(), stats.size() * sizeof stats[0], cudaMemcpyHostToDevice));
            cudaEvent_t begin, end;
            MUST(cudaEventCreate(&begin));
            MUST(cudaEventCreate(&end));
            float best = INFINITY;
            for (int round = 0; round < 20; round++) {
                struct err e;
                float ms;
                MUST(cudaEventRecord(begin));
                if (select_lists(logits, ld, rows, n, device_inverse, device_stats, lists, 0, &e)) exit(1);
                MUST(cudaEventRecord(end));
                MUST(cudaEventSynchronize(end));
                MUST(cudaEventElapsedTime(&ms, begin, end));
                best = std::min(best, ms);
            }
            printf("%7d tokens, %3d rows: %6.1f µs\n", n, rows, best * 1e3f);
            void *all[] = {logits, device_inverse, device_stats, lists};
            for (void *p : all) MUST(cudaFree(p));
        }
}
#endif

int main(int argc, char **argv)
{
    static const int SIZES[] = {5, 255, 256, 257, 1024, 16384, 16385, 32000, 50257, 102400, 128256, 152064, 262144};
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        printf("skipped: no GPU\n");
        return 0;
    }
    (void)argc, (void)argv;
#ifndef RUNG_EMULATE
    if (argc > 1 && strcmp(argv[1], "measure") == 0) {
        measure();
        return 0;
    }
#endif
    for (int n : SIZES)
        for (int k = 0; k < (int)(sizeof KINDS / sizeof KINDS[0]); k++) run(k, n);
    expect(select_lists_fits(262144) && !select_lists_fits(262145), "all", 262144, "what fits");
    printf("worst relative error of a sum: %.2e\n%d passed, %d failed\n", worst, passed, failed);
    return failed != 0;
}
