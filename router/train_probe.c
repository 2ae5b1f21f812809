/* The probe of stages 2 and 3: logistic regression on the hidden state after prefill, then on its score joined with
 * the certainties of the first tokens. Newton's steps, each solved by conjugate gradients; the ridge is the one that
 * did best on a fifth of the rows. */
#include "router/train_parts.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NEWTON = 8, INNER = 25, PROBE_ROWS_MIN = 100, PROBE_ROWS_MAX = 200000 };

struct probe_rows {
    size_t count, cap;
    size_t width;  /* embedding + 1: the text's log-odds come first */
    float *x;      /* (count, width) */
    double (*sure)[MODEL_CERTAINTIES];
    unsigned char *fold, *decoded;
    float *y;
};
static const char *const CERTAINTY_KEYS[MODEL_CERTAINTIES] = {"entropy_mean", "entropy_max",     "margin_min",
                                                              "logprob_mean", "varentropy_mean", "finished"};

static void probe_release(struct probe_rows *p)
{
    free(p->x);
    free(p->sure);
    free(p->fold);
    free(p->decoded);
    free(p->y);
}

static bool probe_grow(struct probe_rows *p)
{
    if (p->count < p->cap) return true;
    size_t cap = p->cap ? p->cap * 2 : 512;
    float *x = realloc(p->x, cap * p->width * sizeof *x), *y = realloc(p->y, cap * sizeof *y);
    if (x) p->x = x;
    if (y) p->y = y;
    void *sure = realloc(p->sure, cap * sizeof *p->sure);
    if (sure) p->sure = sure;
    unsigned char *fold = realloc(p->fold, cap), *decoded = realloc(p->decoded, cap);
    if (fold) p->fold = fold;
    if (decoded) p->decoded = decoded;
    if (!x || !y || !sure || !fold || !decoded) return false;
    p->cap = cap;
    return true;
}

static double logit(double p)
{
    double c = p < 0.005 ? 0.005 : p > 0.995 ? 0.995 : p;
    return log(c / (1 - c));
}

/* What the text alone said: from a part of the fit that had not seen the prompt, where it was among the rows. */
static double text_score(const struct router *r, const struct train_rows *rows, const double (*out_of_fold)[TIERS],
                         const size_t *sorted, const char *prompt)
{
    size_t low = 0, high = rows->count;
    while (low < high) {
        size_t mid = (low + high) / 2;
        int order = strcmp(rows->row[sorted[mid]].text, prompt);
        if (order == 0) return out_of_fold[sorted[mid]][0];
        if (order < 0) low = mid + 1;
        else high = mid;
    }
    struct router_input in = {.text = prompt, .text_len = strlen(prompt), .turns = 1};
    struct router_scores s;
    router_score(r, &in, &s);
    return s.p[TIER_EDGE];
}

static unsigned char fold_of(const char *text)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; *text; text++) h = (h ^ (unsigned char)*text) * 0x100000001b3u;
    return (unsigned char)((h >> 32) % TRAIN_FOLDS);
}

static enum err_code probe_add(struct probe_rows *p, const json_t *root, const char *model, double text,
                               const char *prompt, const char *where, struct err *e)
{
    const json_t *hidden = json_object_get(root, "hidden"), *score = json_object_get(root, "score");
    const json_t *tokens = json_object_get(root, "answer_tokens");
    if (!score) score = json_object_get(json_object_get(root, "scores"), model);
    if (!tokens) tokens = json_object_get(root, "tokens");
    size_t n = json_array_size(hidden);
    if (n == 0 || n > MODEL_PROBE_MAX || (p->width && n + 1 != p->width))
        return err_set_param(e, ERR_INVALID, "hidden", "%s: \"hidden\" wants 1 to %d numbers, as many in every row", where,
                             MODEL_PROBE_MAX);
    if (!json_is_number(score) || !(json_number_value(score) >= 0 && json_number_value(score) <= 1))
        return err_set_param(e, ERR_INVALID, "score", "%s: wants \"score\", or \"scores\": {\"%s\": …}, from 0 to 1", where, model);
    p->width = n + 1;
    if (p->count >= PROBE_ROWS_MAX || !probe_grow(p)) return err_set(e, ERR_MEMORY, "%s: out of memory", where);
    float *x = p->x + p->count * p->width;
    x[0] = (float)logit(text);
    for (size_t i = 0; i < n; i++) x[i + 1] = (float)json_number_value(json_array_get(hidden, i));
    p->decoded[p->count] = json_integer_value(tokens) > 0;
    for (int k = 0; k < MODEL_CERTAINTIES; k++) {
        const json_t *value = json_object_get(root, CERTAINTY_KEYS[k]);
        p->sure[p->count][k] = json_is_true(value) ? 1 : json_number_value(value);
    }
    p->y[p->count] = (float)json_number_value(score);
    p->fold[p->count++] = fold_of(prompt);
    return ERR_OK;
}

struct by_text {
    const char *text;
    size_t row;
};
static int compare_texts(const void *a, const void *b)
{
    const struct by_text *x = a, *y = b;
    int order = strcmp(x->text, y->text);
    return order ? order : (x->row > y->row) - (x->row < y->row);
}

static size_t *sort_texts(const struct train_rows *rows)
{
    struct by_text *texts = malloc((rows->count + 1) * sizeof *texts);
    size_t *sorted = malloc((rows->count + 1) * sizeof *sorted);
    for (size_t i = 0; texts && sorted && i < rows->count; i++) texts[i] = (struct by_text){rows->row[i].text, i};
    if (texts && sorted) {
        qsort(texts, rows->count, sizeof *texts, compare_texts);
        for (size_t i = 0; i < rows->count; i++) sorted[i] = texts[i].row;
    }
    bool ok = texts != NULL;
    free(texts);
    if (ok) return sorted;
    free(sorted);
    return NULL;
}

static enum err_code probe_read(struct probe_rows *p, const struct router *r, const struct train_rows *rows,
                                const double (*out_of_fold)[TIERS], FILE *file, const char *what, struct err *e)
{
    char *line = NULL, where[160];
    size_t cap = 0;
    ssize_t len;
    size_t *sorted = sort_texts(rows);
    enum err_code code = sorted ? ERR_OK : err_set(e, ERR_MEMORY, "out of memory");
    for (long number = 1; !code && (len = getline(&line, &cap, file)) >= 0; number++) {
        json_error_t at;
        (void)snprintf(where, sizeof where, "%.120s line %ld", what, number);
        json_t *root = len <= TRAIN_LINE_MAX ? json_loadb(line, (size_t)len, 0, &at) : NULL;
        const char *prompt = json_string_value(json_object_get(root, "prompt"));
        if (!root) code = err_set(e, ERR_SYNTAX, "%s: not one JSON object of at most %d MiB", where, TRAIN_LINE_MAX >> 20);
        else if (!prompt) code = err_set_param(e, ERR_INVALID, "prompt", "%s: wants \"prompt\": text", where);
        else code = probe_add(p, root, r->info.names[0], text_score(r, rows, out_of_fold, sorted, prompt), prompt, where, e);
        json_decref(root);
    }
    free(sorted);
    free(line);
    if (!code && p->count < PROBE_ROWS_MIN)
        code = err_set(e, ERR_INVALID, "%.120s: a probe wants at least %d rows, there are %zu", what, PROBE_ROWS_MIN, p->count);
    return code;
}

/* ---- logistic regression with a ridge, over the rows of all folds but one ---- */

struct logistic {
    const float *x; /* (rows, width), standardised */
    const float *y;
    const unsigned char *fold;
    size_t rows, width;
    int out; /* fold left out; -1: none */
    double ridge;
    double *w; /* (width + 1): the bias last, without ridge */
};

static double margin(const struct logistic *l, size_t i)
{
    const float *x = l->x + i * l->width;
    double sum = l->w[l->width];
    for (size_t k = 0; k < l->width; k++) sum += l->w[k] * (double)x[k];
    return sum;
}

/* out = (XᵀVX + ridge) d */
static void curvature(const struct logistic *l, const double *v, const double *d, double *out)
{
    for (size_t k = 0; k <= l->width; k++) out[k] = (k < l->width ? l->ridge : 1e-6) * d[k];
    for (size_t i = 0; i < l->rows; i++) {
        if (v[i] == 0) continue;
        const float *x = l->x + i * l->width;
        double dot = d[l->width];
        for (size_t k = 0; k < l->width; k++) dot += d[k] * (double)x[k];
        dot *= v[i];
        for (size_t k = 0; k < l->width; k++) out[k] += dot * (double)x[k];
        out[l->width] += dot;
    }
}

static double dot(const double *a, const double *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static bool logistic_solve(struct logistic *l)
{
    size_t n = l->width + 1;
    double *v = malloc(l->rows * sizeof *v), *block = calloc(n * 4, sizeof *block);
    bool ok = v && block;
    double *r = block, *p = block + n, *q = block + 2 * n, *d = block + 3 * n;
    for (int step = 0; ok && step < NEWTON; step++) {
        for (size_t k = 0; k < n; k++) r[k] = k < l->width ? -l->ridge * l->w[k] : 0;
        for (size_t i = 0; i < l->rows; i++) {
            v[i] = 0;
            if (l->out >= 0 && l->fold[i] == l->out) continue;
            double prob = 1 / (1 + exp(-margin(l, i))), left = (double)l->y[i] - prob;
            v[i] = prob * (1 - prob) + 1e-6;
            for (size_t k = 0; k < l->width; k++) r[k] += left * (double)l->x[i * l->width + k];
            r[l->width] += left;
        }
        memset(d, 0, n * sizeof *d);
        memcpy(p, r, n * sizeof *p);
        double rr = dot(r, r, n);
        for (int inner = 0; inner < INNER && rr > 1e-12; inner++) {
            curvature(l, v, p, q);
            double a = rr / dot(p, q, n), before = rr;
            for (size_t k = 0; k < n; k++) {
                d[k] += a * p[k];
                r[k] -= a * q[k];
            }
            rr = dot(r, r, n);
            for (size_t k = 0; k < n; k++) p[k] = r[k] + rr / before * p[k];
        }
        for (size_t k = 0; k < n; k++) l->w[k] += d[k];
    }
    free(v);
    free(block);
    return ok;
}

static double loss_of_fold(const struct logistic *l)
{
    double loss = 0;
    for (size_t i = 0; i < l->rows; i++) {
        if (l->fold[i] != l->out) continue;
        double m = margin(l, i);
        loss += log1p(exp(-fabs(m))) + (m > 0 ? (1 - (double)l->y[i]) * m : -(double)l->y[i] * m);
    }
    return loss;
}

/* ---- the probe ---- */

static void standardise(float *x, size_t rows, size_t width, double *mean, double *unit)
{
    for (size_t k = 0; k < width; k++) {
        double sum = 0, sum2 = 0;
        for (size_t i = 0; i < rows; i++) sum += (double)x[i * width + k];
        mean[k] = sum / (double)rows;
        for (size_t i = 0; i < rows; i++) {
            double d = (double)x[i * width + k] - mean[k];
            sum2 += d * d;
        }
        unit[k] = sum2 > 1e-12 ? 1 / sqrt(sum2 / (double)rows) : 0;
        for (size_t i = 0; i < rows; i++) x[i * width + k] = (float)(((double)x[i * width + k] - mean[k]) * unit[k]);
    }
}

/* Fits the prefill part; from folds without the row, `state` (rows) gets the hidden state's share of its log-odds and
 * `all` the whole. */
static bool fit_prefill(struct router *r, struct probe_rows *p, double *state, double *all)
{
    size_t n = p->width;
    double *mean = calloc(n, sizeof *mean), *unit = calloc(n, sizeof *unit), *w = calloc(n + 1, sizeof *w);
    bool ok = mean && unit && w;
    if (ok) standardise(p->x, p->count, n, mean, unit);
    struct logistic l = {p->x, p->y, p->fold, p->count, n, 0, 0, w};
    double best = INFINITY, ridge = 30;
    static const double RIDGES[] = {10, 30, 100, 300, 1000};
    for (size_t k = 0; ok && k < sizeof RIDGES / sizeof RIDGES[0]; k++) {
        memset(w, 0, (n + 1) * sizeof *w);
        l.ridge = RIDGES[k];
        ok = logistic_solve(&l);
        double loss = loss_of_fold(&l);
        if (loss < best) {
            best = loss;
            ridge = RIDGES[k];
        }
    }
    l.ridge = ridge;
    for (int fold = 0; ok && fold <= TRAIN_FOLDS; fold++) {
        memset(w, 0, (n + 1) * sizeof *w);
        l.out = fold < TRAIN_FOLDS ? fold : -1;
        ok = logistic_solve(&l);
        for (size_t i = 0; ok && fold < TRAIN_FOLDS && i < p->count; i++) {
            if (p->fold[i] != fold) continue;
            state[i] = 0;
            all[i] = margin(&l, i);
            for (size_t k = 1; k < n; k++) state[i] += w[k] * ((double)p->x[i * n + k] + mean[k] * unit[k]);
        }
    }
    if (ok) {
        r->probe.embedding = (uint32_t)n - 1;
        r->probe.prefill_text = (float)(w[0] * unit[0]);
        double bias = w[n] - w[0] * unit[0] * mean[0];
        for (size_t k = 1; k < n; k++) {
            r->probe_w[k - 1] = (float)(w[k] * unit[k]);
            bias -= w[k] * unit[k] * mean[k];
        }
        r->probe.prefill_bias = (float)bias;
    }
    free(mean);
    free(unit);
    free(w);
    return ok;
}

/* Fits the joined part on the rows that decoded; without enough of them it is the prefill part again. */
static bool fit_joined(struct router *r, const struct probe_rows *p, const double *text, const double *state)
{
    enum { WIDTH = MODEL_CERTAINTIES + 2 };
    float *x = calloc(p->count * WIDTH, sizeof *x), *y = calloc(p->count, sizeof *y);
    double mean[WIDTH], unit[WIDTH], w[WIDTH + 1] = {0};
    size_t n = 0;
    bool ok = x && y;
    for (size_t i = 0; ok && i < p->count; i++) {
        if (!p->decoded[i]) continue;
        x[n * WIDTH] = (float)text[i];
        x[n * WIDTH + 1] = (float)state[i];
        for (int k = 0; k < MODEL_CERTAINTIES; k++) x[n * WIDTH + 2 + (size_t)k] = (float)p->sure[i][k];
        y[n++] = p->y[i];
    }
    struct model_probe *m = &r->probe;
    m->bias = m->prefill_bias;
    m->text = m->prefill_text;
    m->hidden = 1;
    if (ok && n >= PROBE_ROWS_MIN) {
        standardise(x, n, WIDTH, mean, unit);
        struct logistic l = {x, y, p->fold, n, WIDTH, -1, 3, w};
        ok = logistic_solve(&l);
        m->text = (float)(w[0] * unit[0]);
        m->hidden = (float)(w[1] * unit[1]);
        m->bias = (float)(w[WIDTH] - w[0] * unit[0] * mean[0] - w[1] * unit[1] * mean[1]);
        for (int k = 0; k < MODEL_CERTAINTIES; k++) {
            m->mean[k] = (float)mean[k + 2];
            m->weight[k] = (float)(w[k + 2] * unit[k + 2]);
        }
    }
    free(x);
    free(y);
    return ok;
}

/* ---- what it is worth ---- */

struct ranked {
    double x, y;
};
static int by_x(const void *a, const void *b)
{
    const struct ranked *p = a, *q = b;
    return (p->x > q->x) - (p->x < q->x);
}

/* Brier score and area under the ROC curve of log-odds, over the rows that decoded or over all. */
static bool worth(struct train_probe_worth *w, const struct probe_rows *p, const double *odds)
{
    struct ranked *r = malloc(p->count * sizeof *r);
    double right = 0, wrong = 0, area = 0;
    if (!r) return false;
    for (size_t i = 0; i < p->count; i++) {
        r[i] = (struct ranked){odds[i], (double)p->y[i]};
        double d = 1 / (1 + exp(-odds[i])) - r[i].y;
        w->brier += d * d / (double)p->count;
    }
    qsort(r, p->count, sizeof *r, by_x);
    for (size_t i = 0; i < p->count; i++) {
        area += r[i].y * wrong;
        right += r[i].y;
        wrong += 1 - r[i].y;
    }
    w->auc = right > 0 && wrong > 0 ? area / (right * wrong) : 0.5;
    free(r);
    return true;
}

static void joined_odds(const struct router *r, const struct probe_rows *p, const double *text, const double *state,
                        double *odds)
{
    const struct model_probe *m = &r->probe;
    for (size_t i = 0; i < p->count; i++) {
        if (!p->decoded[i]) continue; /* stays what prefill said */
        odds[i] = (double)m->bias + (double)m->text * text[i] + (double)m->hidden * state[i];
        for (int k = 0; k < MODEL_CERTAINTIES; k++)
            odds[i] += (double)m->weight[k] * (p->sure[i][k] - (double)m->mean[k]);
    }
}

enum err_code train_probe(struct router *r, const struct train_rows *rows, const double (*out_of_fold)[TIERS],
                          FILE *file, const char *what, struct train_probe_report *report, struct err *e)
{
    struct probe_rows p = {0};
    enum err_code code = probe_read(&p, r, rows, out_of_fold, file, what, e);
    double *text = NULL, *state = NULL, *all = NULL;
    if (!code) {
        free(r->probe_w);
        r->probe = (struct model_probe){0};
        r->probe_w = calloc(p.width, sizeof *r->probe_w);
        text = calloc(p.count, sizeof *text);
        state = calloc(p.count, sizeof *state);
        all = calloc(p.count, sizeof *all);
        for (size_t i = 0; text && i < p.count; i++) text[i] = (double)p.x[i * p.width];
        *report = (struct train_probe_report){.rows = p.count};
        bool ok = r->probe_w && text && state && all && worth(&report->text, &p, text) &&
                  fit_prefill(r, &p, state, all) && worth(&report->prefill, &p, all) && fit_joined(r, &p, text, state);
        if (ok) {
            joined_odds(r, &p, text, state, all);
            ok = worth(&report->joined, &p, all);
        }
        if (!ok) code = err_set(e, ERR_MEMORY, "out of memory fitting the probe");
    }
    free(text);
    free(state);
    free(all);
    probe_release(&p);
    return code;
}
