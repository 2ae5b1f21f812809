/* Ridge regression by conjugate gradients; LANES targets side by side, so that a row is read once for all of them.
 *
 * (XᵀX + λ) w = Xᵀy, Hestenes and Stiefel 1952. Each lane is its own sum in a fixed order: the result depends neither
 * on the vector width of the machine nor on the number of threads.
 */
#include "router/train_parts.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static const float RIDGE = 6;

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define WIDE __attribute__((target_clones("avx512f", "avx2", "default"), optimize("O3")))
#else
#define WIDE
#endif

WIDE static void row_dot(const struct train_vectors *v, size_t row, const float *w, float *restrict out)
{
    float sum[LANES] = {0};
    for (size_t k = v->from[row]; k < v->from[row + 1]; k++) {
        const float *at = w + (size_t)v->column[k] * LANES, x = v->value[k];
        for (int t = 0; t < LANES; t++) sum[t] += x * at[t];
    }
    memcpy(out, sum, sizeof sum);
}

WIDE static void row_add(const struct train_vectors *v, size_t row, const float *restrict dot, float *restrict w)
{
    for (size_t k = v->from[row]; k < v->from[row + 1]; k++) {
        float *at = w + (size_t)v->column[k] * LANES, x = v->value[k];
        for (int t = 0; t < LANES; t++) at[t] += x * dot[t];
    }
}

WIDE static void lane_dots(const float *a, const float *b, size_t n, double out[LANES])
{
    double sum[LANES] = {0};
    for (size_t i = 0; i < n; i++)
        for (int t = 0; t < LANES; t++) sum[t] += (double)(a[i * LANES + (size_t)t] * b[i * LANES + (size_t)t]);
    memcpy(out, sum, sizeof sum);
}

/* w += a p, r -= a q; then, in a second call's place, p = r + b p. */
WIDE static void lane_step(float *restrict w, float *restrict r, const float *restrict p, const float *restrict q,
                           size_t n, const float a[LANES])
{
    for (size_t i = 0; i < n; i++)
        for (int t = 0; t < LANES; t++) {
            w[i * LANES + (size_t)t] += a[t] * p[i * LANES + (size_t)t];
            r[i * LANES + (size_t)t] -= a[t] * q[i * LANES + (size_t)t];
        }
}

WIDE static void lane_turn(float *restrict p, const float *restrict r, size_t n, const float b[LANES])
{
    for (size_t i = 0; i < n; i++)
        for (int t = 0; t < LANES; t++) p[i * LANES + (size_t)t] = r[i * LANES + (size_t)t] + b[t] * p[i * LANES + (size_t)t];
}

static bool in_job(const struct ridge_job *j, size_t row)
{
    return j->fold < 0 || j->fold_of[row] != j->fold;
}

static void weigh(const struct ridge_job *j, size_t row, float lane[LANES])
{
    if (!j->weight) return;
    for (int t = 0; t < LANES; t++) lane[t] *= j->weight[row * LANES + (size_t)t];
}

static void start(struct ridge_job *j, float *r)
{
    double sum[LANES] = {0}, n[LANES] = {0};
    for (size_t i = 0; i < j->v->rows; i++) {
        if (!in_job(j, i)) continue;
        for (int t = 0; t < LANES; t++) {
            double weight = j->weight ? (double)j->weight[i * LANES + (size_t)t] : 1;
            n[t] += weight;
            sum[t] += weight * (double)j->target[i * LANES + (size_t)t];
        }
    }
    for (int t = 0; t < LANES; t++) j->mean[t] = n[t] > 0 ? (float)(sum[t] / n[t]) : 0;
    memset(r, 0, (size_t)j->v->columns * LANES * sizeof *r);
    for (size_t i = 0; i < j->v->rows; i++) {
        if (!in_job(j, i)) continue;
        float left[LANES];
        for (int t = 0; t < LANES; t++) left[t] = j->target[i * LANES + (size_t)t] - j->mean[t];
        weigh(j, i, left);
        row_add(j->v, i, left, r);
    }
}

static void ratio(const double a[LANES], const double b[LANES], float out[LANES])
{
    for (int t = 0; t < LANES; t++) out[t] = b[t] > 1e-20 ? (float)(a[t] / b[t]) : 0;
}

static void solve(void *arg)
{
    struct ridge_job *j = arg;
    size_t n = j->v->columns, floats = n * LANES;
    float *r = malloc(floats * sizeof *r), *p = malloc(floats * sizeof *p), *q = malloc(floats * sizeof *q);
    j->failed = !r || !p || !q;
    double rr[LANES], pq[LANES], next[LANES];
    float a[LANES];
    if (!j->failed) {
        start(j, r);
        memcpy(p, r, floats * sizeof *p);
        lane_dots(r, r, n, rr);
    }
    for (int step = 0; !j->failed && step < j->steps; step++) {
        for (size_t s = 0; s < floats; s++) q[s] = (j->ridge ? j->ridge[s % LANES] : RIDGE) * p[s];
        for (size_t i = 0; i < j->v->rows; i++) {
            float dot[LANES];
            if (!in_job(j, i)) continue;
            row_dot(j->v, i, p, dot);
            weigh(j, i, dot);
            row_add(j->v, i, dot, q);
        }
        lane_dots(p, q, n, pq);
        ratio(rr, pq, a);
        lane_step(j->w, r, p, q, n, a);
        lane_dots(r, r, n, next);
        ratio(next, rr, a);
        lane_turn(p, r, n, a);
        memcpy(rr, next, sizeof rr);
    }
    free(r);
    free(p);
    free(q);
}

bool ridge_solve(struct ridge_job *jobs, int count, int threads)
{
    train_parallel(jobs, sizeof *jobs, count, threads, solve);
    for (int i = 0; i < count; i++)
        if (jobs[i].failed) return false;
    return true;
}

void ridge_predict(const struct ridge_job *j, size_t row, float out[LANES])
{
    row_dot(j->v, row, j->w, out);
    for (int t = 0; t < LANES; t++) out[t] += j->mean[t];
}

/* ---- threads ---- */

struct queue {
    char *jobs;
    size_t size;
    int count;
    atomic_int next;
    void (*work)(void *job);
};

static void *work_on(void *arg)
{
    struct queue *q = arg;
    for (int i; (i = atomic_fetch_add(&q->next, 1)) < q->count;) q->work(q->jobs + (size_t)i * q->size);
    return NULL;
}

void train_parallel(void *jobs, size_t size, int count, int threads, void (*work)(void *job))
{
    struct queue q = {.jobs = jobs, .size = size, .count = count, .work = work};
    pthread_t thread[15];
    int started = 0;
    while (started < threads - 1 && started < 15 && pthread_create(&thread[started], NULL, work_on, &q) == 0) started++;
    (void)work_on(&q);
    for (int i = 0; i < started; i++) (void)pthread_join(thread[i], NULL);
}
