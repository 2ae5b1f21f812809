/* What a refit from sketches is worth, on measured prompts: their texts are turned into sketches and forgotten. */
#include "router/own.h"
#include "router/refit.h"
#include "router/score.h"
#include "router/train_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const unsigned char KEY[] = "any key gives much the same result";

struct trial {
    const struct train_rows *rows;
    struct router *router;
    bool bare;                  /* no prior: every prompt's score is the mean */
    size_t labels;
    struct router_base *base;   /* (rows) */
    struct refit_row *part;     /* (REFIT_ROWS_MAX) */
    struct sketch sketch;
    double (*p)[TIERS];
};

static void base_fill(struct trial *t, int fold)
{
    double mean[TIERS] = {0}, n = 0;
    for (size_t i = 0; i < t->rows->count; i++) {
        if (t->rows->row[i].fold == fold) continue;
        n++;
        for (int c = 0; c < t->rows->columns; c++) mean[c] += (double)t->rows->row[i].score[c];
    }
    for (size_t i = 0; i < t->rows->count; i++) {
        struct router_scores s;
        struct router_input in = train_input(&t->rows->row[i]);
        if (!t->bare) router_score(t->router, &in, &s);
        t->base[i] = t->bare ? (struct router_base){{1, 1, 1, 1}, {-1, -1, -1}} : s.base;
        for (int c = 0; t->bare && c < t->rows->columns; c++)
            t->base[i].p[model_tier(t->rows->columns, c)] = mean[c] / (n > 0 ? n : 1);
    }
}

static void row_fill(const struct trial *t, size_t i, int fold, struct refit_row *out)
{
    const struct train_row *row = &t->rows->row[i];
    struct router_input in = train_input(row);
    *out = (struct refit_row){.probe_x = NAN, .probe_label = NAN};
    router_sketch(&in, KEY, &t->base[i], out->sketch);
    out->fold = (unsigned char)((row->fold - fold - 1 + TRAIN_FOLDS) % TRAIN_FOLDS);
    for (int c = 0; c < t->rows->columns; c++) {
        out->label[model_tier(t->rows->columns, c)] = row->score[c];
        out->weight[model_tier(t->rows->columns, c)] = 1;
    }
}

/* Scores of rows the refit had not seen; the base's where it came to nothing. */
static void rows_score(struct trial *t, int fold)
{
    unsigned char bytes[ROUTER_SKETCH_BYTES];
    int columns = t->rows->columns;
    for (size_t i = 0; i < t->rows->count; i++) {
        double base[TIERS] = {0};
        if (t->rows->row[i].fold != fold) continue;
        struct router_input in = train_input(&t->rows->row[i]);
        router_sketch(&in, KEY, &t->base[i], bytes);
        (void)sketch_read(&t->sketch, bytes, sizeof bytes);
        for (int c = 0; c < columns; c++) t->p[i][c] = base[c] = t->base[i].p[model_tier(columns, c)];
        if (t->router->own) own_apply(t->router->own, columns, &t->sketch, base, t->p[i]);
    }
}

static enum err_code fold_run(struct trial *t, int fold, struct err *e)
{
    size_t n = 0, most = t->labels && t->labels < REFIT_ROWS_MAX ? t->labels : REFIT_ROWS_MAX, stride = 7919;
    if (t->bare) base_fill(t, fold);
    free(t->router->own);
    t->router->own = NULL;
    for (size_t k = 0; k < t->rows->count && n < most; k++) {
        size_t i = k * stride % t->rows->count; /* from all over the file, where not all are taken */
        if (t->rows->count % stride == 0) i = k;
        if (t->rows->row[i].fold != fold) row_fill(t, i, fold, &t->part[n++]);
    }
    struct err why = {0};
    enum err_code code = refit_router(t->router, t->part, n, NULL, &why);
    if (code == ERR_MEMORY) return err_set(e, code, "%s", why.msg);
    rows_score(t, fold);
    return ERR_OK;
}

enum err_code score_sketch(const struct train_rows *rows, struct router *prior, size_t labels, double (*p)[TIERS],
                           struct err *e)
{
    struct trial *t = calloc(1, sizeof *t);
    enum err_code code = ERR_OK;
    if (!t) return err_set(e, ERR_MEMORY, "out of memory");
    *t = (struct trial){.rows = rows, .router = prior, .bare = !prior, .labels = labels, .p = p};
    t->base = calloc(rows->count + 1, sizeof *t->base);
    t->part = malloc(REFIT_ROWS_MAX * sizeof *t->part);
    if (!prior && (t->router = model_new(MODEL_BITS_MIN))) {
        t->router->info.tiers = rows->columns;
        memcpy(t->router->info.fingerprint, "0101010100000000", 17);
    }
    if (!t->base || !t->part || !t->router) code = err_set(e, ERR_MEMORY, "out of memory");
    else if (t->router->info.tiers != rows->columns)
        code = err_set(e, ERR_INVALID, "the router scores %d models, the rows %d", t->router->info.tiers, rows->columns);
    if (code == ERR_OK && prior) base_fill(t, -1);
    for (int fold = 0; code == ERR_OK && fold < TRAIN_FOLDS; fold++) code = fold_run(t, fold, e);
    if (!prior) router_free(t->router);
    free(t->base);
    free(t->part);
    free(t);
    return code;
}
