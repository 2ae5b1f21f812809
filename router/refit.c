/* The refit: ridge in sketch space for some strengths at once, trees on the best, then how far to believe them. */
#include "router/refit.h"

#include "router/own.h"
#include "router/refit_mix.h"
#include "router/train_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STRENGTHS = 5, STEPS = 14, JOBS = REFIT_FOLDS + 1, TREE_LABELS_MIN = 200, THREADS = 2 };
_Static_assert(TIERS * STRENGTHS <= LANES, "every tier is fitted at every strength at once");
static const float RIDGE[STRENGTHS] = {2, 6, 20, 60, 200};
static const double COUNTED_SHARE = 0.5; /* length of the counted features' vector beside the trits', which is 1 */

struct fit {
    struct router *r;
    const struct refit_row *rows;
    size_t n;
    int columns;
    struct model_own own;
    struct train_vectors v;
    unsigned char *fold;
    double *base, *p;        /* (n, TIERS) by column; p: new, of folds that had not seen the row */
    float *target, *weight;  /* (n, LANES) */
    float *held;             /* (n, LANES) residuals predicted by folds that had not seen the row */
    float *inputs;           /* (n, MODEL_INPUTS) */
    float *start, *goal, *raw; /* (n, TIERS) */
    double *loss[3];         /* (n) */
    float ridge[LANES];
    struct ridge_job jobs[JOBS];
    struct mix_rows mix;
    int strength[TIERS];     /* the best, by column */
};

static int tier_of(const struct fit *f, int column)
{
    return (int)model_tier(f->columns, column);
}
static size_t lane_of(int column, int strength)
{
    return (size_t)(column * STRENGTHS + strength);
}

static bool fit_take(struct fit *f)
{
    size_t n = f->n;
    f->fold = malloc(n);
    f->base = calloc(n * TIERS, sizeof *f->base);
    f->p = calloc(n * TIERS, sizeof *f->p);
    f->target = calloc(n * LANES, sizeof *f->target);
    f->weight = calloc(n * LANES, sizeof *f->weight);
    f->held = calloc(n * LANES, sizeof *f->held);
    f->inputs = calloc(n * MODEL_INPUTS, sizeof *f->inputs);
    f->start = calloc(n * TIERS, sizeof *f->start);
    f->goal = calloc(n * TIERS, sizeof *f->goal);
    f->raw = calloc(n * TIERS, sizeof *f->raw);
    bool ok = mix_take(&f->mix, n) && f->fold && f->base && f->p && f->target && f->weight && f->held && f->inputs &&
              f->start && f->goal && f->raw;
    for (int k = 0; k < 3; k++) ok = (f->loss[k] = calloc(n, sizeof *f->loss[k])) && ok;
    return ok;
}

static void fit_release(struct fit *f)
{
    vectors_release(&f->v);
    mix_release(&f->mix);
    for (int k = 0; k < JOBS; k++) free(f->jobs[k].w);
    for (int k = 0; k < 3; k++) free(f->loss[k]);
    free(f->fold);
    free(f->base);
    free(f->p);
    free(f->target);
    free(f->weight);
    free(f->held);
    free(f->inputs);
    free(f->start);
    free(f->goal);
    free(f->raw);
    free(f);
}

/* ---- rows into vectors ---- */

static void standardise(struct fit *f)
{
    for (int c = 0; c < COUNTED; c++) {
        double sum = 0, sum2 = 0;
        for (size_t i = 0; i < f->n; i++) sum += (double)f->v.counted[i * COUNTED + (size_t)c];
        double mean = sum / (double)f->n;
        for (size_t i = 0; i < f->n; i++) {
            double off = (double)f->v.counted[i * COUNTED + (size_t)c] - mean;
            sum2 += off * off;
        }
        double deviation = sqrt(sum2 / (double)f->n);
        f->own.mean[c] = (float)mean;
        f->own.gain[c] = deviation > 1e-3 ? (float)(1 / deviation) : 0;
    }
}

static void vector_add(struct train_vectors *v, size_t column, float value)
{
    v->column[v->entries] = (uint32_t)column;
    v->value[v->entries++] = value;
}

static void vector_fill(struct fit *f, size_t i, const struct sketch *s)
{
    struct train_vectors *v = &f->v;
    float unit = s->filled ? 1 / sqrtf((float)s->filled) : 0, share = (float)(COUNTED_SHARE / sqrt((double)COUNTED));
    for (size_t k = 0; k < SKETCH_TRITS; k++)
        if (s->trit[k]) vector_add(v, k, unit * s->trit[k]);
    for (size_t c = 0; c < COUNTED; c++)
        vector_add(v, SKETCH_TRITS + c, share * own_standard(&f->own, (int)c, v->counted[i * COUNTED + c]));
    v->from[i + 1] = v->entries;
}

/* Counts, and checks that all rows are of one kind. */
static enum err_code rows_read(struct fit *f, struct sketch *s, struct err *e)
{
    unsigned char key_id[SKETCH_KEY_ID] = {0}, base_id[SKETCH_BASE_ID] = {0};
    for (size_t i = 0; i < f->n; i++) {
        if (!sketch_read(s, f->rows[i].sketch, ROUTER_SKETCH_BYTES))
            return err_set(e, ERR_INVALID, "row %zu has no sketch that can be read", i);
        if (i == 0) memcpy(key_id, s->key_id, sizeof key_id);
        if (i == 0) memcpy(base_id, s->base_id, sizeof base_id);
        if (memcmp(key_id, s->key_id, sizeof key_id) != 0 || memcmp(base_id, s->base_id, sizeof base_id) != 0)
            return err_set(e, ERR_INVALID, "row %zu is of another key or another router than the first", i);
        f->v.cap += (size_t)s->filled + COUNTED;
        f->fold[i] = f->rows[i].fold;
        memcpy(f->v.counted + i * COUNTED, s->counted, sizeof s->counted);
        for (int c = 0; c < f->columns; c++) {
            double p = s->base[tier_of(f, c)];
            if (p < 0) return err_set(e, ERR_INVALID, "row %zu has no scores", i);
            f->base[i * TIERS + (size_t)c] = p;
        }
    }
    memcpy(f->own.key_id, key_id, sizeof key_id);
    return ERR_OK;
}

static enum err_code vectors_make(struct fit *f, struct err *e)
{
    struct train_vectors *v = &f->v;
    struct sketch *s = malloc(sizeof *s);
    v->rows = f->n;
    v->columns = SKETCH_TRITS + COUNTED;
    v->from = calloc(f->n + 1, sizeof *v->from);
    v->counted = calloc(f->n * COUNTED, sizeof *v->counted);
    enum err_code code = s && v->from && v->counted ? rows_read(f, s, e) : err_set(e, ERR_MEMORY, "out of memory refitting");
    if (code == ERR_OK) {
        v->column = malloc(v->cap * sizeof *v->column);
        v->value = malloc(v->cap * sizeof *v->value);
        if (!v->column || !v->value) code = err_set(e, ERR_MEMORY, "out of memory refitting %zu rows", f->n);
    }
    if (code == ERR_OK) standardise(f);
    for (size_t i = 0; code == ERR_OK && i < f->n; i++) {
        (void)sketch_read(s, f->rows[i].sketch, ROUTER_SKETCH_BYTES);
        vector_fill(f, i, s);
    }
    free(s);
    return code;
}

/* ---- ridge ---- */

/* Weights average 1 over a tier's labels, so that the strengths mean the same for every log. */
static void lanes_fill(struct fit *f, int column)
{
    int tier = tier_of(f, column);
    double sum = 0, labels = 0;
    for (size_t i = 0; i < f->n; i++) {
        sum += (double)f->rows[i].weight[tier];
        labels += f->rows[i].weight[tier] > 0;
    }
    f->own.labels[tier] = (int64_t)labels;
    for (size_t i = 0; i < f->n; i++) {
        float weight = sum > 0 ? f->rows[i].weight[tier] * (float)(labels / sum) : 0;
        if (weight <= 0) continue;
        for (int s = 0; s < STRENGTHS; s++) {
            f->weight[i * LANES + lane_of(column, s)] = weight;
            f->target[i * LANES + lane_of(column, s)] =
                f->rows[i].label[tier] - (float)f->base[i * TIERS + (size_t)column];
        }
    }
    for (int s = 0; s < STRENGTHS; s++) f->ridge[lane_of(column, s)] = RIDGE[s];
}

static bool fit_ridge(struct fit *f)
{
    for (int c = 0; c < f->columns; c++) lanes_fill(f, c);
    for (size_t l = 0; l < LANES; l++) f->ridge[l] = f->ridge[l] > 0 ? f->ridge[l] : 1;
    for (int k = 0; k < JOBS; k++) {
        f->jobs[k] = (struct ridge_job){.v = &f->v, .fold_of = f->fold, .fold = k < REFIT_FOLDS ? k : -1, .steps = STEPS,
                                        .target = f->target, .weight = f->weight, .ridge = f->ridge};
        f->jobs[k].w = calloc((size_t)f->v.columns * LANES, sizeof *f->jobs[k].w);
        if (!f->jobs[k].w) return false;
    }
    if (!ridge_solve(f->jobs, JOBS, THREADS)) return false;
    for (size_t i = 0; i < f->n; i++) ridge_predict(&f->jobs[f->fold[i]], i, f->held + i * LANES);
    return true;
}

static void ridge_store(struct fit *f, int column)
{
    const struct ridge_job *j = &f->jobs[JOBS - 1];
    size_t lane = lane_of(column, f->strength[column]);
    double sum2 = 0;
    for (size_t k = 0; k < SKETCH_TRITS; k++) sum2 += (double)j->w[k * LANES + lane] * (double)j->w[k * LANES + lane];
    float scale = (float)(6 * sqrt(sum2 / SKETCH_TRITS) + 1e-12) / 127;
    for (size_t k = 0; k < SKETCH_TRITS; k++) {
        float q = roundf(j->w[k * LANES + lane] / scale);
        f->own.w[column][k] = (int8_t)(q > 127 ? 127 : q < -127 ? -127 : q);
    }
    f->own.scale[column] = scale;
    f->own.bias[column] = j->mean[lane];
    float share = (float)(COUNTED_SHARE / sqrt((double)COUNTED));
    for (size_t c = 0; c < COUNTED; c++) f->own.counted[c][column] = share * j->w[(SKETCH_TRITS + c) * LANES + lane];
}

/* ---- how far to believe it ---- */

static void mix_x(double base, double raw, double out[MIX_WEIGHTS])
{
    out[0] = own_logit(base);
    out[1] = 1;
    own_beyond(base, raw, out + 2);
}

/* The rows labelled for a column, with a correction: raw scores (n, stride), or NULL for none. */
static void mix_fill(struct fit *f, int column, const float *raw, size_t stride)
{
    f->mix.n = 0;
    for (size_t i = 0; i < f->n; i++) {
        float weight = f->weight[i * LANES + lane_of(column, 0)];
        if (weight <= 0) continue;
        size_t k = f->mix.n++;
        mix_x(f->base[i * TIERS + (size_t)column], raw ? (double)raw[i * stride] : f->base[i * TIERS + (size_t)column],
              f->mix.x[k]);
        f->mix.y[k] = (double)f->rows[i].label[tier_of(f, column)];
        f->mix.weight[k] = (double)weight;
        f->mix.fold[k] = f->fold[i];
    }
}

static void raw_of_strength(struct fit *f, int column, int strength)
{
    for (size_t i = 0; i < f->n; i++) {
        size_t at = i * TIERS + (size_t)column;
        f->start[at] = (float)f->base[at] + f->held[i * LANES + lane_of(column, strength)];
    }
}

/* Chooses a strength for a column and leaves its raw scores in `start`. */
static void choose_strength(struct fit *f, int column, struct refit_tier *out)
{
    double best = INFINITY;
    mix_fill(f, column, NULL, 0);
    out->labels = (double)f->mix.n;
    out->loss_prior = mix_loss_prior(&f->mix, f->loss[0]);
    out->loss = mix_loss_held_out(&f->mix, REFIT_FOLDS, f->loss[1]);
    for (int s = 0; s < STRENGTHS; s++) {
        raw_of_strength(f, column, s);
        mix_fill(f, column, f->start + column, TIERS);
        double loss = mix_loss_held_out(&f->mix, REFIT_FOLDS, f->loss[2]);
        if (loss < best) f->strength[column] = s;
        best = loss < best ? loss : best;
        if (loss >= out->loss) continue;
        out->loss = loss;
        out->ridge = (double)RIDGE[s];
        memcpy(f->loss[1], f->loss[2], f->mix.n * sizeof *f->loss[1]);
    }
    out->error = mix_error(&f->mix, f->loss[0], f->loss[1]);
    raw_of_strength(f, column, f->strength[column]);
}

/* Trees on top of the chosen strengths; `raw` gets them added, from folds that had not seen the row. */
static bool fit_trees(struct fit *f)
{
    struct model_tree *trees = calloc((size_t)JOBS * OWN_TREES_MAX, sizeof *trees);
    struct tree_job jobs[JOBS];
    if (!trees) return false;
    for (size_t i = 0; i < f->n; i++) {
        float residual[TIERS] = {0};
        for (int c = 0; c < f->columns; c++) {
            size_t at = i * TIERS + (size_t)c;
            residual[c] = f->start[at] - (float)f->base[at];
            f->goal[at] = f->weight[i * LANES + lane_of(c, 0)] > 0 ? f->rows[i].label[tier_of(f, c)] : f->start[at];
        }
        own_inputs(f->columns, f->base + i * TIERS, residual, f->v.counted + i * COUNTED, f->inputs + i * MODEL_INPUTS);
    }
    for (int k = 0; k < JOBS; k++)
        jobs[k] = (struct tree_job){.inputs = f->inputs, .start = f->start, .target = f->goal, .fold_of = f->fold,
                                    .rows = f->n, .fold = k < REFIT_FOLDS ? k : -1, .columns = f->columns,
                                    .trees = OWN_TREES_MAX, .out = trees + k * OWN_TREES_MAX};
    bool ok = tree_solve(jobs, JOBS, THREADS);
    for (size_t i = 0; ok && i < f->n; i++)
        for (int k = 0; k < OWN_TREES_MAX; k++)
            model_tree_add(&jobs[f->fold[i]].out[k], f->inputs + i * MODEL_INPUTS, f->raw + i * TIERS);
    memcpy(f->own.tree, jobs[JOBS - 1].out, sizeof f->own.tree);
    f->own.trees = OWN_TREES_MAX;
    free(trees);
    return ok;
}

static void trees_leave_out(struct fit *f, int column)
{
    for (int k = 0; k < OWN_TREES_MAX; k++)
        for (int l = 0; l < MODEL_LEAVES; l++) f->own.tree[k].leaf[l][column] = 0;
}

/* Are the trees worth having for this column? `raw` then holds the scores that count. */
static void choose_trees(struct fit *f, int column, struct refit_tier *out)
{
    if (f->own.trees) {
        mix_fill(f, column, f->raw + column, TIERS);
        double loss = mix_loss_held_out(&f->mix, REFIT_FOLDS, f->loss[2]);
        out->trees = loss < out->loss;
        if (out->trees) {
            mix_fill(f, column, NULL, 0);
            (void)mix_loss_prior(&f->mix, f->loss[0]);
            out->loss = loss;
            out->error = mix_error(&f->mix, f->loss[0], f->loss[2]);
            out->ridge = (double)RIDGE[f->strength[column]];
            return;
        }
    }
    trees_leave_out(f, column);
    for (size_t i = 0; i < f->n; i++) {
        size_t at = i * TIERS + (size_t)column;
        f->raw[at] = out->ridge > 0 ? f->start[at] : (float)f->base[at];
    }
}

/* The weights of the mix, and the rows' new scores. */
static void settle(struct fit *f, int column, struct refit_tier *out)
{
    out->kept = !(out->loss_prior - out->loss > out->error);
    mix_fill(f, column, f->raw + column, TIERS);
    struct mix_weights w = {{1, 0, 0, 0}};
    if (!out->kept) w = mix_fit(&f->mix, -1);
    f->own.a[column] = (float)w.w[0];
    f->own.b[column] = (float)w.w[1];
    f->own.c[column] = (float)w.w[2];
    f->own.d[column] = (float)w.w[3];
    out->own = (w.w[2] + w.w[3]) / 2;
    ridge_store(f, column);
    for (size_t i = 0; i < f->n; i++) {
        size_t at = i * TIERS + (size_t)column;
        double x[MIX_WEIGHTS], sum = 0;
        mix_x(f->base[at], (double)f->raw[at], x);
        for (int k = 0; k < MIX_WEIGHTS; k++) sum += w.w[k] * x[k];
        f->p[at] = out->kept ? f->base[at] : 1 / (1 + exp(-sum));
    }
}

/* The probe joins the text's score with what it saw: when the score changes its log-odds move by that weight. Then they are
 * set right by the labels of the edge's answers, in the same way. */
static void fit_probe(struct fit *f, struct refit_tier *out)
{
    double text = f->r->probe_w ? (double)f->r->probe.text : 0;
    f->own.probe_a = 1;
    f->mix.n = 0;
    for (size_t i = 0; i < f->n; i++) {
        const struct refit_row *row = &f->rows[i];
        if (isnan(row->probe_x) || isnan(row->probe_label)) continue;
        size_t k = f->mix.n++;
        f->mix.x[k][0] = (double)row->probe_x + text * (own_logit(f->p[i * TIERS]) - own_logit((double)row->p_edge));
        f->mix.x[k][1] = 1;
        f->mix.x[k][2] = f->mix.x[k][3] = 0;
        f->mix.y[k] = (double)row->probe_label;
        f->mix.weight[k] = 1;
        f->mix.fold[k] = f->fold[i];
    }
    *out = (struct refit_tier){.labels = (double)f->mix.n, .kept = true};
    if (f->mix.n < REFIT_LABELS_MIN) return;
    out->loss_prior = mix_loss_prior(&f->mix, f->loss[0]);
    out->loss = mix_loss_held_out(&f->mix, REFIT_FOLDS, f->loss[1]);
    out->error = mix_error(&f->mix, f->loss[0], f->loss[1]);
    out->kept = !(out->loss_prior - out->loss > out->error);
    if (out->kept) return;
    struct mix_weights w = mix_fit(&f->mix, -1);
    f->own.probe_a = (float)w.w[0];
    f->own.probe_b = (float)w.w[1];
}

/* ---- all of it ---- */

/* The dial by the new scores' own word: labels are of one tier at a time, so nobody knows better. */
static bool dial_fill(struct fit *f)
{
    struct train_rows rows = {.count = f->n, .columns = f->columns};
    rows.row = calloc(f->n, sizeof *rows.row);
    double(*p)[TIERS] = calloc(f->n, sizeof *p);
    bool ok = rows.row && p;
    for (size_t i = 0; ok && i < f->n; i++)
        for (int c = 0; c < f->columns; c++) {
            p[i][c] = f->p[i * TIERS + (size_t)c];
            rows.row[i].score[c] = (float)p[i][c];
            rows.row[i].fold = f->fold[i];
        }
    ok = ok && train_dial(f->r, &rows, (const double(*)[TIERS])p);
    free(rows.row);
    free(p);
    return ok;
}

static bool fit_all(struct fit *f, struct refit_report *report)
{
    double most = 0;
    if (!fit_ridge(f)) return false;
    for (int c = 0; c < f->columns; c++) {
        struct refit_tier *out = &report->tier[tier_of(f, c)];
        choose_strength(f, c, out);
        most = out->labels > most ? out->labels : most;
    }
    memcpy(f->raw, f->start, f->n * TIERS * sizeof *f->raw);
    if (most >= TREE_LABELS_MIN && !fit_trees(f)) return false;
    for (int c = 0; c < f->columns; c++) {
        choose_trees(f, c, &report->tier[tier_of(f, c)]);
        settle(f, c, &report->tier[tier_of(f, c)]);
    }
    fit_probe(f, &report->probe);
    return true;
}

/* Did anything come of it? */
static enum err_code judge(const struct fit *f, const struct refit_report *report, struct err *e)
{
    bool better = !report->probe.kept;
    const struct refit_tier *most = &report->tier[TIER_EDGE];
    for (int c = 0; c < f->columns; c++) {
        const struct refit_tier *t = &report->tier[tier_of(f, c)];
        better = better || !t->kept;
        if (t->labels > most->labels) most = t;
    }
    if (most->labels < REFIT_LABELS_MIN)
        return err_set(e, ERR_INVALID, "%.0f labels of any one tier; a refit wants at least %d", most->labels,
                       REFIT_LABELS_MIN);
    if (better) return ERR_OK;
    return err_set(e, ERR_INVALID,
                   "no tier is surely better for these labels: with %.0f the log loss on folds left out goes from %.4f to "
                   "%.4f, within its error of %.4f; the router stays as it is",
                   most->labels, most->loss_prior, most->loss, most->error);
}

static enum err_code own_put(struct fit *f, struct err *e)
{
    struct model_own *own = f->r->own ? f->r->own : malloc(sizeof *own);
    if (!own || !dial_fill(f)) {
        if (own != f->r->own) free(own);
        return err_set(e, ERR_MEMORY, "out of memory");
    }
    const char *base = f->r->own ? f->r->own->base : f->r->info.fingerprint;
    (void)memcpy(f->own.base, base, 16);
    *own = f->own;
    f->r->own = own;
    return ERR_OK;
}

enum err_code refit_router(struct router *router, const struct refit_row *rows, size_t count, struct refit_report *report,
                           struct err *e)
{
    struct refit_report unused;
    if (!report) report = &unused;
    *report = (struct refit_report){.rows = count};
    if (count < REFIT_LABELS_MIN || count > REFIT_ROWS_MAX)
        return err_set(e, ERR_INVALID, "%zu labelled decisions; a refit wants %d to %d", count, REFIT_LABELS_MIN,
                       REFIT_ROWS_MAX);
    struct fit *f = calloc(1, sizeof *f);
    if (!f) return err_set(e, ERR_MEMORY, "out of memory refitting");
    *f = (struct fit){.r = router, .rows = rows, .n = count, .columns = router->info.tiers};
    enum err_code code = fit_take(f) ? vectors_make(f, e) : err_set(e, ERR_MEMORY, "out of memory refitting");
    if (code == ERR_OK && !fit_all(f, report)) code = err_set(e, ERR_MEMORY, "out of memory refitting");
    if (code == ERR_OK) code = judge(f, report, e);
    if (code == ERR_OK) code = own_put(f, e);
    fit_release(f);
    return code;
}
