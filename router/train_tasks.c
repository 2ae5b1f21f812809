/* From codes to tasks: softmax regression, and the directions that tell tasks apart. */
#include "router/train_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Orthonormal columns, in place; (n, r). */
static void orthonormal(double *q, int n, int r)
{
    for (int k = 0; k < r; k++) {
        for (int p = 0; p < k; p++) {
            double dot = 0;
            for (int i = 0; i < n; i++) dot += q[i * r + k] * q[i * r + p];
            for (int i = 0; i < n; i++) q[i * r + k] -= dot * q[i * r + p];
        }
        double norm = 1e-30;
        for (int i = 0; i < n; i++) norm += q[i * r + k] * q[i * r + k];
        norm = sqrt(norm);
        for (int i = 0; i < n; i++) q[i * r + k] /= norm;
    }
}

bool task_directions(const float *predictions, size_t rows, int n, int r, float *out)
{
    double *cov = calloc((size_t)n * (size_t)n, sizeof *cov), *q = calloc((size_t)n * (size_t)r, sizeof *q);
    double *z = calloc((size_t)n * (size_t)r, sizeof *z), *mean = calloc((size_t)n, sizeof *mean);
    bool ok = cov && q && z && mean;
    for (size_t i = 0; ok && i < rows; i++)
        for (int a = 0; a < n; a++) mean[a] += (double)predictions[i * (size_t)n + (size_t)a] / (double)rows;
    for (size_t i = 0; ok && i < rows; i++)
        for (int a = 0; a < n; a++) {
            double x = (double)predictions[i * (size_t)n + (size_t)a] - mean[a];
            for (int b = 0; b < n; b++) cov[a * n + b] += x * ((double)predictions[i * (size_t)n + (size_t)b] - mean[b]);
        }
    uint64_t state = 7;
    for (int i = 0; ok && i < n * r; i++) q[i] = (double)(train_random(&state) >> 11) / 9007199254740992.0 - 0.5;
    if (ok) orthonormal(q, n, r);
    for (int step = 0; ok && step < 60; step++) { /* subspace iteration */
        memset(z, 0, (size_t)n * (size_t)r * sizeof *z);
        for (int a = 0; a < n; a++)
            for (int b = 0; b < n; b++)
                for (int k = 0; k < r; k++) z[a * r + k] += cov[a * n + b] * q[b * r + k];
        orthonormal(z, n, r);
        memcpy(q, z, (size_t)n * (size_t)r * sizeof *q);
    }
    for (int i = 0; ok && i < n * r; i++) out[i] = (float)q[i];
    free(cov);
    free(q);
    free(z);
    free(mean);
    return ok;
}

enum { SOFTMAX_STEPS = 120 };

/* The gradient of the mean log loss at (w, b); w (tasks, codes) over standardised codes. */
static void gradient(const float *x, const int *task, size_t rows, int tasks, int codes, const float *w, float *g)
{
    memset(g, 0, (size_t)tasks * (size_t)(codes + 1) * sizeof *g);
    for (size_t i = 0; i < rows; i++) {
        const float *xi = x + i * (size_t)codes;
        float p[MODEL_TASKS_MAX], top = -INFINITY, sum = 0;
        for (int t = 0; t < tasks; t++) {
            const float *wt = w + t * (codes + 1);
            p[t] = wt[codes];
            for (int k = 0; k < codes; k++) p[t] += wt[k] * xi[k];
            if (p[t] > top) top = p[t];
        }
        for (int t = 0; t < tasks; t++) sum += p[t] = expf(p[t] - top);
        for (int t = 0; t < tasks; t++) {
            float d = (p[t] / sum - (t == task[i] ? 1.0f : 0.0f)) / (float)rows, *gt = g + t * (codes + 1);
            for (int k = 0; k < codes; k++) gt[k] += d * xi[k];
            gt[codes] += d;
        }
    }
}

bool task_solve(struct router *r, const float *heads, const int *task, size_t rows, int first)
{
    int codes = MODEL_HEADS - first, tasks = r->tasks;
    size_t n = (size_t)tasks * (size_t)(codes + 1);
    float *x = malloc(rows * (size_t)codes * sizeof *x), *w = calloc(n, sizeof *w), *g = calloc(n, sizeof *g);
    float *speed = calloc(n, sizeof *speed), mean[MODEL_HEADS] = {0}, unit[MODEL_HEADS] = {0};
    bool ok = x && w && g && speed;
    for (int k = 0; ok && k < codes; k++) {
        double sum = 0, sum2 = 0;
        for (size_t i = 0; i < rows; i++) {
            double v = (double)heads[i * MODEL_HEADS + (size_t)(first + k)];
            sum += v;
            sum2 += v * v;
        }
        mean[k] = (float)(sum / (double)rows);
        double variance = sum2 / (double)rows - (double)mean[k] * (double)mean[k];
        unit[k] = variance > 1e-12 ? (float)(1 / sqrt(variance)) : 0;
        for (size_t i = 0; i < rows; i++)
            x[i * (size_t)codes + (size_t)k] = (heads[i * MODEL_HEADS + (size_t)(first + k)] - mean[k]) * unit[k];
    }
    for (int step = 0; ok && step < SOFTMAX_STEPS; step++) { /* Nesterov's momentum, a fixed step */
        for (size_t s = 0; s < n; s++) w[s] += 0.9f * speed[s];
        gradient(x, task, rows, tasks, codes, w, g);
        for (size_t s = 0; s < n; s++) {
            float before = w[s] - 0.9f * speed[s];
            w[s] -= 1.0f * (g[s] + 1e-4f * w[s]);
            speed[s] = w[s] - before;
        }
    }
    for (int t = 0; ok && t < tasks; t++) {
        struct model_task *m = &r->task[t];
        memset(m->code, 0, sizeof m->code);
        m->bias = w[t * (codes + 1) + codes];
        for (int k = 0; k < codes; k++) {
            m->code[first + k] = w[t * (codes + 1) + k] * unit[k];
            m->bias -= m->code[first + k] * mean[k];
        }
    }
    free(x);
    free(w);
    free(g);
    free(speed);
    return ok;
}
