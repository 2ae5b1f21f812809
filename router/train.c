/* Fitting: heads, tasks, trees, curves, each on predictions for rows that the part before had not seen. */
#include "router/train_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 12, DIRECTION_STEPS = 5, TASK_ROWS_MIN = 10, JOBS = TRAIN_FOLDS + 1 };
enum { ROUNDS = 3, TREES_LEAST = 24, TREES_MOST = 96, TREES_STEP = 24 }; /* trees: of one round */
_Static_assert(ROUNDS * TREES_MOST <= MODEL_TREES_MAX, "the file holds them all");
/* Of a score's head, and of a code's: what a prompt is can be told far more surely than whether it will be answered. */
static const float RIDGE_SCORE = 6, RIDGE_CODE = 1;

struct fit {
    const struct train_rows *rows;
    struct router *r;
    int threads;
    struct train_vectors v;
    unsigned char *fold_of; /* (rows) */
    int *task;              /* (rows) */
    float *target;          /* (rows, LANES) */
    float *tier;            /* (rows, TIERS) */
    float *heads;           /* (rows, MODEL_HEADS) of folds that had not seen the row */
    float *inputs;          /* (rows, MODEL_INPUTS) */
    float *start, *raw;     /* (rows, TIERS) */
};

static bool fit_take(struct fit *f)
{
    size_t n = f->rows->count;
    f->fold_of = malloc(n);
    f->task = calloc(n, sizeof *f->task);
    f->target = calloc(n * LANES, sizeof *f->target);
    f->tier = calloc(n * TIERS, sizeof *f->tier);
    f->heads = calloc(n * MODEL_HEADS, sizeof *f->heads);
    f->inputs = calloc(n * MODEL_INPUTS, sizeof *f->inputs);
    f->start = calloc(n * TIERS, sizeof *f->start);
    f->raw = calloc(n * TIERS, sizeof *f->raw);
    if (!f->fold_of || !f->task || !f->target || !f->tier || !f->heads || !f->inputs || !f->start || !f->raw)
        return false;
    for (size_t i = 0; i < n; i++) {
        f->fold_of[i] = (unsigned char)f->rows->row[i].fold;
        memcpy(f->tier + i * TIERS, f->rows->row[i].score, TIERS * sizeof *f->tier);
    }
    return true;
}

static void fit_release(struct fit *f)
{
    vectors_release(&f->v);
    free(f->fold_of);
    free(f->task);
    free(f->target);
    free(f->tier);
    free(f->heads);
    free(f->inputs);
    free(f->start);
    free(f->raw);
}

/* ---- tasks ---- */

struct task_count {
    const char *name;
    int rows, number;
};

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}
static int by_task_name(const void *a, const void *b)
{
    return strcmp(((const struct task_count *)a)->name, ((const struct task_count *)b)->name);
}
static int by_rows(const void *a, const void *b)
{
    const struct task_count *x = a, *y = b;
    return x->rows != y->rows ? (x->rows < y->rows) - (x->rows > y->rows) : strcmp(x->name, y->name);
}

/* Numbers the rows' tasks: those with enough rows, the largest first; the rest are one task together. */
static bool number_tasks(struct fit *f)
{
    size_t n = f->rows->count, distinct = 0;
    const char **names = malloc(n * sizeof *names);
    struct task_count *tasks = calloc(n, sizeof *tasks);
    bool ok = names && tasks;
    for (size_t i = 0; ok && i < n; i++) names[i] = f->rows->row[i].task;
    if (ok) qsort(names, n, sizeof *names, by_name);
    for (size_t i = 0; ok && i < n; i++) {
        if (i == 0 || strcmp(names[i], names[i - 1]) != 0) tasks[distinct++].name = names[i];
        tasks[distinct - 1].rows++;
    }
    if (ok) {
        qsort(tasks, distinct, sizeof *tasks, by_rows);
        int own = 0;
        while (own < (int)distinct && own < MODEL_TASKS_MAX - 1 && tasks[own].rows >= TASK_ROWS_MIN) own++;
        for (int k = 0; k < (int)distinct; k++) tasks[k].number = k < own ? k : own;
        int all = own + (own < (int)distinct);
        f->r->tasks = all > 1 ? all : 0;
        qsort(tasks, distinct, sizeof *tasks, by_task_name);
        for (size_t i = 0; i < n; i++) {
            struct task_count key = {.name = f->rows->row[i].task};
            const struct task_count *hit = bsearch(&key, tasks, distinct, sizeof *tasks, by_task_name);
            f->task[i] = hit->number;
        }
    }
    free(names);
    free(tasks);
    return ok;
}

/* Mean scores a task, over all folds but one; pulled to the mean of all by five rows' weight. */
static void set_task_means(struct fit *f, int fold)
{
    double all[TIERS] = {0}, sum[MODEL_TASKS_MAX][TIERS] = {{0}}, n = 0, count[MODEL_TASKS_MAX] = {0};
    for (size_t i = 0; i < f->rows->count; i++) {
        if (f->fold_of[i] == fold) continue;
        n++;
        count[f->task[i]]++;
        for (int t = 0; t < TIERS; t++) {
            all[t] += (double)f->tier[i * TIERS + (size_t)t];
            sum[f->task[i]][t] += (double)f->tier[i * TIERS + (size_t)t];
        }
    }
    for (int k = 0; k < f->r->tasks; k++)
        for (int t = 0; t < TIERS; t++)
            f->r->task[k].tier[t] = (float)((sum[k][t] + 5 * all[t] / (n > 0 ? n : 1)) / (count[k] + 5));
}

/* ---- heads ---- */

static bool jobs_take(struct ridge_job *jobs, int count, const struct fit *f, int steps, const float *target)
{
    bool ok = true;
    for (int i = 0; i < count; i++) {
        jobs[i] = (struct ridge_job){.v = &f->v, .fold_of = f->fold_of, .steps = steps, .target = target};
        jobs[i].fold = i < TRAIN_FOLDS && count > 1 ? i : -1;
        jobs[i].w = calloc((size_t)f->v.columns * LANES, sizeof *jobs[i].w);
        ok = ok && jobs[i].w;
    }
    return ok;
}

static void jobs_release(struct ridge_job *jobs, int count)
{
    for (int i = 0; i < count; i++) free(jobs[i].w);
}

/* Predictions of every task's indicator, some lanes at a time. (rows, tasks) */
static bool predict_tasks(const struct fit *f, float *out)
{
    size_t n = f->rows->count, tasks = (size_t)f->r->tasks;
    float *target = malloc(n * LANES * sizeof *target);
    bool ok = target != NULL;
    for (size_t from = 0; ok && from < tasks; from += LANES) {
        struct ridge_job job;
        for (size_t i = 0; i < n; i++)
            for (size_t t = 0; t < LANES; t++) target[i * LANES + t] = (size_t)f->task[i] == from + t ? 1 : 0;
        ok = jobs_take(&job, 1, f, DIRECTION_STEPS, target) && ridge_solve(&job, 1, 1);
        for (size_t i = 0; ok && i < n; i++) {
            float lane[LANES];
            ridge_predict(&job, i, lane);
            for (size_t t = 0; t < LANES && from + t < tasks; t++) out[i * tasks + from + t] = lane[t];
        }
        jobs_release(&job, 1);
    }
    free(target);
    return ok;
}

/* The code of each task: its own head where there are enough, else its place along the most telling directions. */
static bool set_codes(struct fit *f, int first)
{
    int tasks = f->r->tasks, codes = MODEL_HEADS - first;
    if (tasks <= codes) {
        for (size_t i = 0; tasks && i < f->rows->count; i++) f->target[i * LANES + (size_t)(first + f->task[i])] = 1;
        return true;
    }
    float *predictions = malloc(f->rows->count * (size_t)tasks * sizeof *predictions);
    float *direction = malloc((size_t)(tasks * codes) * sizeof *direction);
    bool ok = predictions && direction && predict_tasks(f, predictions) &&
              task_directions(predictions, f->rows->count, tasks, codes, direction);
    for (size_t i = 0; ok && i < f->rows->count; i++)
        memcpy(f->target + i * LANES + first, direction + f->task[i] * codes, (size_t)codes * sizeof *direction);
    free(predictions);
    free(direction);
    return ok;
}

static void store_heads(struct fit *f, const struct ridge_job *j)
{
    struct model_linear *l = &f->r->linear;
    float unit = (float)(0.5 / sqrt((double)COUNTED));
    for (size_t h = 0; h < MODEL_HEADS; h++) {
        double sum2 = 0;
        for (size_t c = 0; c < f->v.used; c++) {
            double w = (double)j->w[c * LANES + h] * f->r->buckets[f->v.bucket[c]].idf;
            sum2 += w * w;
        }
        l->scale[h] = (float)(6 * sqrt(sum2 / (f->v.used ? f->v.used : 1)) + 1e-12) / 127;
        l->bias[h] = j->mean[h];
        for (size_t c = 0; c < f->v.used; c++) {
            struct model_bucket *b = &f->r->buckets[f->v.bucket[c]];
            float q = roundf(j->w[c * LANES + h] * (float)b->idf / l->scale[h]);
            b->w[h] = (int8_t)(q > 127 ? 127 : q < -127 ? -127 : q);
        }
        for (size_t c = 0; c < COUNTED; c++) l->counted[c][h] = unit * j->w[(f->v.used + c) * LANES + h];
    }
}

static bool fit_heads(struct fit *f)
{
    int columns = f->rows->columns, first = columns + 1;
    struct ridge_job jobs[JOBS];
    float ridge[LANES];
    for (int t = 0; t < LANES; t++) ridge[t] = t < first ? RIDGE_SCORE : RIDGE_CODE;
    for (size_t i = 0; i < f->rows->count; i++) {
        memcpy(f->target + i * LANES, f->tier + i * TIERS, (size_t)columns * sizeof *f->tier);
        f->target[i * LANES + (size_t)columns] = f->rows->row[i].mean_score;
    }
    if (!set_codes(f, first)) return false;
    bool ok = jobs_take(jobs, JOBS, f, STEPS, f->target);
    for (int i = 0; i < JOBS; i++) jobs[i].ridge = ridge;
    ok = ok && ridge_solve(jobs, JOBS, f->threads);
    for (size_t i = 0; ok && i < f->rows->count; i++) {
        float lane[LANES];
        ridge_predict(&jobs[f->fold_of[i]], i, lane);
        memcpy(f->heads + i * MODEL_HEADS, lane, MODEL_HEADS * sizeof *lane);
    }
    if (ok) store_heads(f, &jobs[JOBS - 1]);
    jobs_release(jobs, JOBS);
    return ok && (f->r->tasks == 0 || task_solve(f->r, f->heads, f->task, f->rows->count, first));
}

/* ---- trees ---- */

/* The first `count` trees of each round of a job, into the router. */
static void use_trees(struct fit *f, const struct tree_job *job, int count)
{
    for (int k = 0; k < ROUNDS; k++)
        memcpy(f->r->tree + k * count, job->out + k * TREES_MOST, (size_t)count * sizeof *job->out);
    f->r->trees = ROUNDS * count;
}

/* Each row's raw score by the trees of the folds that had not seen it. */
static void raw_scores(struct fit *f, const struct tree_job *jobs, int count)
{
    size_t n = f->rows->count;
    memcpy(f->raw, f->start, n * TIERS * sizeof *f->raw);
    for (int fold = 0; fold < TRAIN_FOLDS; fold++) {
        use_trees(f, &jobs[fold], count);
        for (size_t i = 0; i < n; i++)
            if (f->fold_of[i] == fold) model_trees(f->r, f->inputs + i * MODEL_INPUTS, f->raw + i * TIERS);
    }
}

static double row_loss(const struct fit *f, size_t i)
{
    double loss = 0;
    for (size_t t = 0; t < (size_t)f->rows->columns; t++) {
        double off = (double)f->raw[i * TIERS + t] - (double)f->tier[i * TIERS + t];
        loss += off * off;
    }
    return loss;
}

/* How many trees a round: more than the least only where unseen rows are better off by more than a standard error. */
static int choose_count(struct fit *f, const struct tree_job *jobs, double *least /* (rows) scratch */)
{
    size_t n = f->rows->count;
    int chosen = TREES_LEAST;
    double best = 0;
    raw_scores(f, jobs, TREES_LEAST);
    for (size_t i = 0; i < n; i++) least[i] = row_loss(f, i);
    for (int count = TREES_LEAST + TREES_STEP; count <= TREES_MOST; count += TREES_STEP) {
        double sum = 0, sum2 = 0;
        raw_scores(f, jobs, count);
        for (size_t i = 0; i < n; i++) {
            double gain = least[i] - row_loss(f, i);
            sum += gain;
            sum2 += gain * gain;
        }
        double mean = sum / (double)n, error = sqrt(fmax(sum2 / (double)n - mean * mean, 0) / (double)n);
        if (mean <= best || mean <= error) continue;
        best = mean;
        chosen = count;
    }
    return chosen;
}

static bool fit_trees(struct fit *f)
{
    size_t n = f->rows->count;
    for (int fold = 0; fold < TRAIN_FOLDS; fold++) {
        set_task_means(f, fold);
        for (size_t i = 0; i < n; i++)
            if (f->fold_of[i] == fold)
                model_inputs(f->r, f->heads + i * MODEL_HEADS, f->v.counted + i * COUNTED, f->inputs + i * MODEL_INPUTS,
                             f->start + i * TIERS);
    }
    set_task_means(f, -1);
    const int all = ROUNDS * TREES_MOST;
    struct model_tree *trees = calloc((size_t)JOBS * (size_t)all, sizeof *trees);
    double *least = malloc(n * sizeof *least);
    bool ok = trees && least;
    struct tree_job jobs[JOBS];
    for (int i = 0; ok && i < JOBS; i++)
        jobs[i] = (struct tree_job){.inputs = f->inputs,
                                    .start = f->start,
                                    .target = f->tier,
                                    .fold_of = f->fold_of,
                                    .rows = n,
                                    .fold = i < TRAIN_FOLDS ? i : -1,
                                    .columns = f->rows->columns,
                                    .trees = all,
                                    .rounds = ROUNDS,
                                    .out = trees + i * all};
    ok = ok && tree_solve(jobs, JOBS, f->threads);
    if (ok) {
        int count = choose_count(f, jobs, least);
        raw_scores(f, jobs, count);
        use_trees(f, &jobs[JOBS - 1], count); /* those of all rows */
    }
    free(least);
    free(trees);
    return ok;
}

/* ---- curves ---- */

/* By elimination with pivots. */
bool train_solve(int n, double m[][TRAIN_SOLVE_MAX + 1])
{
    for (int c = 0; c < n; c++) {
        int best = c;
        for (int k = c + 1; k < n; k++)
            if (fabs(m[k][c]) > fabs(m[best][c])) best = k;
        if (fabs(m[best][c]) < 1e-12) return false;
        for (int k = 0; k <= n; k++) {
            double swap = m[c][k];
            m[c][k] = m[best][k];
            m[best][k] = swap;
        }
        for (int row = 0; row < n; row++) {
            double by = row == c ? 0 : m[row][c] / m[c][c];
            for (int k = c; k <= n; k++) m[row][k] -= by * m[c][k];
        }
    }
    for (int c = 0; c < n; c++) m[c][n] /= m[c][c];
    return true;
}

/* Kull, Silva Filho and Flach 2017 ("beta calibration"), by Newton's steps, pulled slightly to the identity. */
static void fit_curve(struct model_curve *curve, const float *raw, const float *target, size_t n, size_t stride)
{
    double w[3] = {1, 1, 0};
    const double pull[3] = {2, 2, 0.1}, home[3] = {1, 1, 0};
    for (int step = 0; step < 40; step++) {
        double m[3][TRAIN_SOLVE_MAX + 1] = {{0}};
        for (int k = 0; k < 3; k++) {
            m[k][k] = pull[k];
            m[k][3] = pull[k] * (w[k] - home[k]);
        }
        for (size_t i = 0; i < n; i++) {
            double r = (double)raw[i * stride], y = (double)target[i * stride];
            r = r < 0.005 ? 0.005 : r > 0.995 ? 0.995 : r;
            double x[3] = {log(r), -log(1 - r), 1};
            double p = 1 / (1 + exp(-(w[0] * x[0] + w[1] * x[1] + w[2]))), v = p * (1 - p) + 1e-9;
            for (int a = 0; a < 3; a++) {
                m[a][3] += (p - y) * x[a];
                for (int b = 0; b < 3; b++) m[a][b] += v * x[a] * x[b];
            }
        }
        if (!train_solve(3, m)) break;
        double most = fabs(m[0][3]) + fabs(m[1][3]) + fabs(m[2][3]), cap = most > 1 ? 1 / most : 1;
        for (int k = 0; k < 3; k++) w[k] -= cap * m[k][3];
        for (int k = 0; k < 2; k++)
            if (w[k] < 0) w[k] = 0; /* a curve never falls */
    }
    *curve = (struct model_curve){(float)w[0], (float)w[1], (float)w[2]};
}

static bool fit_curves(struct fit *f, double (*out_of_fold)[TIERS])
{
    size_t n = f->rows->count;
    double(*p)[TIERS] = calloc(n, sizeof *p);
    if (!p) return false;
    for (int t = 0; t < f->rows->columns; t++) {
        fit_curve(&f->r->curve[t], f->raw + t, f->tier + t, n, TIERS);
        for (size_t i = 0; i < n; i++)
            p[i][t] = model_calibrate(&f->r->curve[t], (double)f->raw[i * TIERS + (size_t)t]);
    }
    if (out_of_fold) memcpy(out_of_fold, p, n * sizeof *p);
    bool ok = train_dial(f->r, f->rows, (const double(*)[TIERS])p);
    free(p);
    return ok;
}

enum err_code train_router(struct router **out, const struct train_rows *rows, const struct train_options *options,
                           double (*out_of_fold)[TIERS], struct err *e)
{
    if (rows->count < 50)
        return err_set(e, ERR_INVALID, "%zu rows have scores of every tier asked for; a fit wants at least 50",
                       rows->count);
    struct fit f = {.rows = rows, .threads = options->threads > 0 ? options->threads : 2};
    f.r = model_new(options->bits ? options->bits : 16);
    enum err_code code = ERR_OK;
    if (f.r) f.r->info.tiers = rows->columns;
    if (!f.r || !fit_take(&f) || !vectors_init(&f.v, rows, f.r) || !number_tasks(&f) || !fit_heads(&f) ||
        !fit_trees(&f) || !fit_curves(&f, out_of_fold)) {
        code = err_set(e, ERR_MEMORY, "out of memory fitting %zu rows", rows->count);
        router_free(f.r);
    } else {
        struct router_info *info = &f.r->info;
        info->rows = (int64_t)rows->count;
        info->general = options->general;
        info->fitted_wall_ms = options->wall_ms;
        memcpy(info->names, rows->names, sizeof info->names);
        *out = f.r;
    }
    fit_release(&f);
    return code;
}
