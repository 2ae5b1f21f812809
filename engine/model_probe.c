#include "engine/model_probe.h"

#include <stdlib.h>
#include <string.h>

enum { PAGE = 32, WANTED = 64 };

static enum err_code take_memory(struct probe *p, int pages, struct err *e)
{
    size_t wanted = (size_t)p->wanted_max;
    p->pages = malloc((size_t)pages * sizeof *p->pages);
    p->run = malloc(wanted * sizeof *p->run);
    p->want = malloc(wanted * sizeof *p->want);
    p->need_none = calloc(wanted, 1);
    if (!p->pages || !p->run || !p->want || !p->need_none) return err_set(e, ERR_MEMORY, "no memory for %d pages", pages);
    for (int i = 0; i < pages; i++) p->pages[i] = i;
    return ERR_OK;
}

static enum err_code open_backend(struct probe *p, const struct probe_options *o, int pages, struct err *e)
{
    const struct backend_options b = {.threads = o->threads, .pages = pages, .context_tokens = o->context, .cols_max = p->cols_max,
                                      .wanted_max = p->wanted_max, .kv_q8 = o->kv_q8, .invariant = o->invariant,
                                      .sparse_pages = o->sparse_pages};
    struct err why = {0};
    enum err_code code = device_open(&p->device, &p->backend, p->model, b, &why);
    if (code && p->device.library && !p->model->random && device_fall_back(&p->device, &why))
        code = device_open(&p->device, &p->backend, p->model, b, &why);
    if (code && e) *e = why;
    return code;
}

enum err_code probe_open_gguf(struct probe *p, struct gguf *gguf, const struct probe_options *o, struct err *e)
{
    int pages = (o->context + PAGE - 1) / PAGE, wanted = o->wanted_max > 0 ? o->wanted_max : WANTED;
    *p = (struct probe){.context = o->context, .cols_max = o->cols_max, .kv_q8 = o->kv_q8, .sparse_pages = o->sparse_pages,
                        .wanted_max = o->cols_max < wanted ? o->cols_max : wanted};
    enum err_code code = take_memory(p, pages, e);
    if (!code) code = model_open(&p->model, gguf, o->context, e);
    if (!code) code = device_find(&p->device, o->kernels, e);
    if (!code) code = open_backend(p, o, pages, e);
    if (code) {
        if (p->model) p->model->gguf = NULL; /* stays the caller's */
        probe_close(p);
    }
    return code;
}

enum err_code probe_open(struct probe *p, const char *path, const struct probe_options *o, struct err *e)
{
    struct gguf *gguf;
    enum err_code code = gguf_open(&gguf, path, e);
    if (code) return code;
    code = probe_open_gguf(p, gguf, o, e);
    if (code) gguf_close(gguf);
    return code;
}

void probe_close(struct probe *p)
{
    if (p->backend) p->backend->close(p->backend);
    model_close(p->model);
    free(p->pages);
    free(p->run);
    free(p->want);
    free(p->need_none);
    *p = (struct probe){0};
}

enum err_code probe_step(struct probe *p, const int32_t *tokens, int count, int position, bool all, struct batch_out *out,
                         struct err *e)
{
    if (count < 1 || count > p->cols_max || position < 0 || position > p->context - count || (all && count > p->wanted_max))
        return err_set(e, ERR_INVALID, "a step of %d tokens at %d; %d fit, %d with all logits, in a context of %d", count, position,
                       p->cols_max, p->wanted_max, p->context);
    for (int i = 0; i < count; i++)
        if (tokens[i] < 0 || tokens[i] >= p->model->vocabulary)
            return err_set(e, ERR_INVALID, "token id %d; the model has 0 to %d", tokens[i], p->model->vocabulary - 1);
    int wanted = all ? count : 1;
    for (int i = 0; i < wanted; i++) p->want[i] = all ? i : count - 1;
    struct batch_run run = {.first = 0, .count = count, .position = position, .pages = p->pages};
    struct batch b = {.cols = count, .runs = 1, .wanted = wanted, .tokens = tokens, .run = &run, .want = p->want};
    return p->backend->forward(p->backend, &b, out, e);
}

enum err_code probe_decode(struct probe *p, const int32_t *tokens, int streams, int position, struct batch_out *out, struct err *e)
{
    int pages = p->context / PAGE / (streams > 0 ? streams : 1);
    if (streams < 1 || streams > p->wanted_max || position < 0 || position >= pages * PAGE)
        return err_set(e, ERR_INVALID, "a step of %d streams at %d; a context of %d holds no such", streams, position, p->context);
    for (int i = 0; i < streams; i++) {
        p->run[i] = (struct batch_run){.first = i, .count = 1, .position = position, .pages = p->pages + i * pages};
        p->want[i] = i;
    }
    struct batch b = {.cols = streams, .runs = streams, .wanted = streams, .tokens = tokens, .run = p->run, .want = p->want,
                      .need_logits = p->need_none};
    return p->backend->forward(p->backend, &b, out, e);
}

int64_t probe_token_bytes(const struct probe *p)
{
    return p->backend->token_bytes;
}

int64_t probe_kv_bytes(const struct probe *p, int position)
{
    const struct model *m = p->model;
    int64_t layer_bytes = device_page_bytes(&p->device, m, p->kv_q8) / m->layers, positions = 0;
    for (int i = 0; i < m->layers; i++) {
        int64_t most = position + 1, window = m->layer[i].window, sparse = (int64_t)p->sparse_pages * PAGE;
        if (window && window < most) most = window;
        if (p->device.library && sparse && sparse < most) most = sparse;
        positions += most;
    }
    return layer_bytes * positions / PAGE;
}
