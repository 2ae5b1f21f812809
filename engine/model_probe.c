#include "engine/model_probe.h"

#include <stdlib.h>
#include <string.h>

enum { PAGE = 32, WANTED = 64 };

enum err_code probe_open_gguf(struct probe *p, struct gguf *gguf, const char *kernels, int threads, int context, int cols_max,
                              struct err *e)
{
    int pages = (context + PAGE - 1) / PAGE;
    *p = (struct probe){.context = context, .cols_max = cols_max, .wanted_max = cols_max < WANTED ? cols_max : WANTED};
    p->pages = malloc((size_t)pages * sizeof *p->pages);
    if (!p->pages) return err_set(e, ERR_MEMORY, "no memory for %d pages", pages);
    for (int i = 0; i < pages; i++) p->pages[i] = i;
    enum err_code code = model_open(&p->model, gguf, context, e);
    struct backend_options o = {.kernels = kernels, .threads = threads, .pages = pages, .cols_max = cols_max,
                                .wanted_max = p->wanted_max};
    if (!code) code = cpu_open(&p->backend, p->model, &o, e);
    if (code) {
        if (p->model) p->model->gguf = NULL; /* stays the caller's */
        probe_close(p);
    }
    return code;
}

enum err_code probe_open(struct probe *p, const char *path, const char *kernels, int threads, int context, int cols_max,
                         struct err *e)
{
    struct gguf *gguf;
    enum err_code code = gguf_open(&gguf, path, e);
    if (code) return code;
    code = probe_open_gguf(p, gguf, kernels, threads, context, cols_max, e);
    if (code) gguf_close(gguf);
    return code;
}

void probe_close(struct probe *p)
{
    if (p->backend) p->backend->close(p->backend);
    model_close(p->model);
    free(p->pages);
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
    int32_t want[WANTED];
    int wanted = all ? count : 1;
    for (int i = 0; i < wanted; i++) want[i] = all ? i : count - 1;
    struct batch_run run = {.first = 0, .count = count, .position = position, .pages = p->pages};
    struct batch b = {.cols = count, .runs = 1, .wanted = wanted, .tokens = tokens, .run = &run, .want = want};
    return p->backend->forward(p->backend, &b, out, e);
}

enum err_code probe_decode(struct probe *p, const int32_t *tokens, int streams, int position, struct batch_out *out, struct err *e)
{
    struct batch_run run[WANTED];
    int32_t want[WANTED];
    int pages = p->context / PAGE / (streams > 0 ? streams : 1);
    if (streams < 1 || streams > p->wanted_max || position < 0 || position >= pages * PAGE)
        return err_set(e, ERR_INVALID, "a step of %d streams at %d; a context of %d holds no such", streams, position, p->context);
    for (int i = 0; i < streams; i++) {
        run[i] = (struct batch_run){.first = i, .count = 1, .position = position, .pages = p->pages + i * pages};
        want[i] = i;
    }
    struct batch b = {.cols = streams, .runs = streams, .wanted = streams, .tokens = tokens, .run = run, .want = want};
    return p->backend->forward(p->backend, &b, out, e);
}

int64_t probe_token_bytes(const struct probe *p)
{
    return p->backend->token_bytes;
}
