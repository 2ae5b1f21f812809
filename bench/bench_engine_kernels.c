/* The matrix kernels alone, on one thread and in its processor time: billions of multiplications a second for each
 * type, kernel set and number of columns, weights from the second-level cache; and how
 * fast one column goes through weights that lie in memory. Arguments: a set, a type. */
#include "engine/cpu/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { K = 2048, ROWS = 128 };

static double cpu_seconds(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *must(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 127) & ~(size_t)63);
    if (!p) abort();
    memset(p, 0x11, bytes);
    return p;
}

static double measure(const struct kernels *k, const struct packed *w, int cols)
{
    size_t n = (size_t)cols * K;
    struct acts a = {.k = K, .cols = cols, .q = must(n), .d = must(n / 8), .ds32 = must(n / 8), .ds16 = must(n / 4),
                     .n32 = must(n / 8), .n16 = must(n / 4), .f = must(n * 4)};
    float *y = must(sizeof *y * ROWS * (size_t)cols), *x = must(K * sizeof *x);
    for (int i = 0; i < K; i++) x[i] = (float)(i % 17) - 8;
    for (int c = 0; c < cols; c++) {
        if (pack_format(w->type)->element) k->put_float(&a, c, x, 0, K);
        else k->put_q8(&a, c, x, 0, K);
    }
    double start = cpu_seconds(), spent;
    int64_t rounds = 0;
    do {
        for (int p = 0; p < w->panels; p++) k->matmul(w, p, &a, y, ROWS);
        rounds++;
    } while ((spent = cpu_seconds() - start) < 0.08);
    void *all[] = {a.q, a.d, a.ds32, a.ds16, a.n32, a.n16, a.f, y, x};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
    return (double)rounds * ROWS * K * cols / spent * 1e-9;
}

/* GB/s of one column over weights that no cache holds, the best of some rounds. */
static double measure_memory(const struct kernels *k, enum gguf_type type)
{
    enum { BIG_ROWS = 32768, ROUNDS = 12 };
    struct packed w;
    if (packed_init(&w, type, BIG_ROWS, K, NULL)) exit(1);
    memset(w.data, 0x31, w.panel_bytes * (size_t)w.panels);
    struct acts a = {.k = K, .cols = 1, .q = must(K), .d = must(K), .ds32 = must(K), .ds16 = must(K), .n32 = must(K), .n16 = must(K),
                     .f = must(K * 4)};
    float *y = must(sizeof *y * BIG_ROWS);
    double best = 0;
    for (int i = 0; i < ROUNDS; i++) {
        double start = cpu_seconds();
        for (int p = 0; p < w.panels; p++) k->matmul(&w, p, &a, y, BIG_ROWS);
        double rate = (double)w.panel_bytes * w.panels / (cpu_seconds() - start) * 1e-9;
        if (rate > best) best = rate;
    }
    void *all[] = {a.q, a.d, a.ds32, a.ds16, a.n32, a.n16, a.f, y};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
    packed_release(&w);
    return best;
}

int main(int argc, char **argv)
{
    static const enum gguf_type TYPES[] = {GGUF_Q8_0, GGUF_Q4_0, GGUF_Q4_K, GGUF_Q6_K, GGUF_Q5_0, GGUF_Q5_K, GGUF_Q4_1, GGUF_Q5_1,
                                           GGUF_IQ4_NL, GGUF_Q2_K, GGUF_Q3_K, GGUF_F32, GGUF_F16, GGUF_BF16, GGUF_FP8, GGUF_W4A16};
    static const int COLS[] = {1, 4, 8, 12, 256};
    (void)printf("%-8s %-7s", "kernels", "type");
    for (size_t c = 0; c < sizeof COLS / sizeof COLS[0]; c++) (void)printf(" %6d col", COLS[c]);
    (void)puts("   1 col from memory\n                (10^9 multiplications/s)                                     GB/s");
    const struct kernels *k;
    for (int i = 0; (k = kernels_at(i)) != NULL; i++) {
        if (argc > 1 && strcmp(argv[1], k->name) != 0) continue;
        for (size_t t = 0; t < sizeof TYPES / sizeof TYPES[0]; t++) {
            if (argc > 2 && strcmp(argv[2], gguf_type_info((uint32_t)TYPES[t])->name) != 0) continue;
            struct packed w;
            if (packed_init(&w, TYPES[t], ROWS, K, NULL)) return 1;
            memset(w.data, 0x31, w.panel_bytes * (size_t)w.panels);
            (void)printf("%-8s %-7s", k->name, gguf_type_info((uint32_t)TYPES[t])->name);
            for (size_t c = 0; c < sizeof COLS / sizeof COLS[0]; c++) (void)printf(" %10.1f", measure(k, &w, COLS[c]));
            (void)printf(" %10.1f\n", measure_memory(k, TYPES[t]));
            (void)fflush(stdout);
            packed_release(&w);
        }
    }
    return 0;
}
