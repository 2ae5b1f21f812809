/* A backend that is no model: what it foretells is a pure function of all tokens so far, which it keeps in the pages it is
 * given. Whoever loses a page, shares a wrong one or looks at a row that was not asked for gets another text. It behaves
 * as a GPU's backend does: statistics come with the step, the tops of rows and logits only where they are asked for (else
 * not-a-number). */
#ifndef RUNG_TESTS_ENGINE_FAKE_GPU_H
#define RUNG_TESTS_ENGINE_FAKE_GPU_H

#include "engine/backend.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FAKE_PAGE = 32, FAKE_PAGE_BYTES = 4096, FAKE_PAGES_FIT = 512 };

struct fake_gpu {
    struct backend backend;
    const struct model *model;
    struct backend_options options;
    uint64_t *kv; /* (pages, FAKE_PAGE) hash of all tokens up to here */
    float *logits, *kept, *hidden; /* kept: the rows as they are */
    struct logit_stats *stats;
    struct logit_list *lists;
    bool plain; /* as a CPU's backend: every row's logits, no statistics */
    int64_t rows, needed, listed, fetched, fetches; /* fetches: calls of rows() */
};

static inline uint64_t fake_mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static inline void fake_stats(struct backend *b, const float *logits, int n, struct logit_stats *out)
{
    double sum = 0, first = 0, square = 0, most = -INFINITY, second = -INFINITY;
    (void)b;
    for (int i = 0; i < n; i++) {
        double x = (double)logits[i];
        if (x > most) {
            second = most;
            most = x;
            out->best = i;
        } else if (x > second) {
            second = x;
        }
    }
    for (int i = 0; i < n; i++) {
        double x = (double)logits[i] - most;
        sum += exp(x);
        first += exp(x) * x;
        square += exp(x) * x * x;
    }
    out->max = (float)most;
    out->logsum = (float)(most + log(sum));
    out->entropy = (float)(log(sum) - first / sum);
    out->varentropy = (float)(square / sum - first / sum * first / sum);
    out->margin = (float)((1 - exp(second - most)) / sum);
}

static inline int fake_by_logit(const void *a, const void *b)
{
    const struct logit_at *x = a, *y = b;
    if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
    return x->id < y->id ? -1 : 1;
}

static inline void fake_list(struct fake_gpu *f, int row, float inverse)
{
    int n = f->model->vocabulary;
    const float *logits = f->kept + (size_t)row * (size_t)n;
    struct logit_at all[1024];
    struct logit_list *list = &f->lists[row];
    if (n > 1024) abort();
    for (int i = 0; i < n; i++) all[i] = (struct logit_at){logits[i], i};
    qsort(all, (size_t)n, sizeof *all, fake_by_logit);
    list->count = n < LOGIT_LIST_MAX ? n : LOGIT_LIST_MAX;
    memcpy(list->top, all, (size_t)list->count * sizeof *all);
    list->sum = 0;
    for (int i = 0; i < n; i++) list->sum += (double)expf((logits[i] - all[0].logit) * inverse);
    f->listed++;
}

static inline enum err_code fake_fetch(struct backend *b, const int32_t *row, int count, struct err *e)
{
    struct fake_gpu *f = (struct fake_gpu *)b;
    size_t n = (size_t)f->model->vocabulary;
    (void)e;
    for (int i = 0; i < count; i++) {
        if (i && row[i] <= row[i - 1]) abort();
        memcpy(f->logits + (size_t)row[i] * n, f->kept + (size_t)row[i] * n, n * sizeof *f->logits);
    }
    f->fetched += count;
    f->fetches++;
    return ERR_OK;
}

static inline void fake_row(struct fake_gpu *f, int row, uint64_t hash, bool needed, float inverse)
{
    int n = f->model->vocabulary;
    float *logits = f->logits + (size_t)row * (size_t)n;
    for (int v = 0; v < n; v++) logits[v] = (float)(fake_mix(hash + (uint64_t)v) >> 40) / 16777216.0f * 12;
    for (int i = 0; i < f->model->embedding; i++)
        f->hidden[(size_t)row * (size_t)f->model->embedding + (size_t)i] = (float)(fake_mix(hash ^ (uint64_t)~i) >> 40);
    fake_stats(NULL, logits, n, &f->stats[row]);
    f->rows++;
    f->needed += needed;
    memcpy(f->kept + (size_t)row * (size_t)n, logits, (size_t)n * sizeof *logits);
    if (inverse > 0 && !f->plain) fake_list(f, row, inverse);
    for (int v = 0; v < n && !needed && !f->plain; v++) logits[v] = NAN;
}

static inline enum err_code fake_forward(struct backend *b, const struct batch *batch, struct batch_out *out, struct err *e)
{
    struct fake_gpu *f = (struct fake_gpu *)b;
    if (batch->cols < 1 || batch->cols > f->options.cols_max || batch->wanted > f->options.wanted_max)
        return err_set(e, ERR_INTERNAL, "a step of %d tokens, %d wanted", batch->cols, batch->wanted);
    int wanted = 0;
    for (int r = 0; r < batch->runs; r++) {
        const struct batch_run *run = &batch->run[r];
        for (int i = 0; i < run->count; i++) {
            int p = run->position + i, col = run->first + i;
            uint64_t before = p ? f->kv[run->pages[(p - 1) / FAKE_PAGE] * FAKE_PAGE + (p - 1) % FAKE_PAGE] : 1;
            uint64_t *here = &f->kv[run->pages[p / FAKE_PAGE] * FAKE_PAGE + p % FAKE_PAGE];
            *here = fake_mix(before * 31 + (uint64_t)batch->tokens[col] + 1);
            if (wanted == batch->wanted || batch->want[wanted] != col) continue;
            fake_row(f, wanted, *here, !batch->need_logits || batch->need_logits[wanted],
                     batch->inverse ? batch->inverse[wanted] : 0);
            wanted++;
        }
    }
    *out = (struct batch_out){.logits = f->logits, .hidden = f->hidden, .logits_stride = (size_t)f->model->vocabulary,
                              .hidden_stride = (size_t)f->model->embedding, .stats = f->plain ? NULL : f->stats,
                              .lists = f->plain ? NULL : f->lists};
    return ERR_OK;
}

static inline void fake_close(struct backend *b)
{
    struct fake_gpu *f = (struct fake_gpu *)b;
    free(f->kv);
    free(f->logits);
    free(f->kept);
    free(f->hidden);
    free(f->lists);
    free(f->stats);
    free(f);
}

static inline enum err_code fake_open(struct backend **out, const struct model *model, const struct backend_options *options,
                                      struct err *e)
{
    struct fake_gpu *f = calloc(1, sizeof *f);
    size_t wanted = (size_t)options->wanted_max;
    int pages = options->pages ? options->pages : options->pages_max < FAKE_PAGES_FIT ? options->pages_max : FAKE_PAGES_FIT;
    if (!f) return err_set(e, ERR_MEMORY, "no memory");
    f->model = model;
    f->options = *options;
    f->kv = calloc((size_t)pages * FAKE_PAGE, sizeof *f->kv);
    f->logits = calloc(wanted * (size_t)model->vocabulary, sizeof *f->logits);
    f->kept = calloc(wanted * (size_t)model->vocabulary, sizeof *f->kept);
    f->lists = calloc(wanted, sizeof *f->lists);
    f->hidden = calloc(wanted * (size_t)model->embedding, sizeof *f->hidden);
    f->stats = calloc(wanted, sizeof *f->stats);
    f->backend = (struct backend){.kernels = "cuda", .page_tokens = FAKE_PAGE, .pages = pages, .token_bytes = 1 << 20,
                                  .forward = fake_forward, .stats = fake_stats, .rows = fake_fetch, .close = fake_close};
    *out = &f->backend;
    if (f->kv && f->logits && f->kept && f->lists && f->hidden && f->stats) return ERR_OK;
    fake_close(&f->backend);
    return err_set(e, ERR_MEMORY, "no memory");
}

#endif
