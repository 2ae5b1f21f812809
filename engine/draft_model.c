#include "engine/draft_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum err_code name_file(struct err *e, enum err_code code, const char *path, const struct err *why)
{
    return err_set(e, code, "draft model %.60s: %.90s", path, why->msg);
}

static enum err_code same_tokens(const struct gguf *gguf, const struct tokenizer *of, const struct model *model, struct err *e)
{
    struct tokenizer *own;
    enum err_code code = tokenizer_open(&own, gguf, e);
    if (code) return code;
    code = tokenizer_same(own, of, e);
    if (!code && tokenizer_vocabulary(own) > model->vocabulary)
        code = err_set(e, ERR_CORRUPT, "the tokenizer knows %d tokens, the tensors %d", tokenizer_vocabulary(own), model->vocabulary);
    tokenizer_close(own);
    return code;
}

enum err_code draft_model_read(struct draft_model *d, const char *path, int context_tokens, const struct tokenizer *tokenizer,
                               struct err *e)
{
    struct gguf *gguf;
    struct err why = {0};
    enum err_code code = gguf_open(&gguf, path, &why);
    if (code) return err_set(e, code, "draft model %s", why.msg); /* it names the file */
    if ((code = model_open(&d->model, gguf, context_tokens, &why))) {
        gguf_close(gguf);
        return name_file(e, code, path, &why);
    }
    if ((code = same_tokens(gguf, tokenizer, d->model, &why))) return name_file(e, code, path, &why);
    struct gguf_string s = gguf_str(gguf, "general.name");
    const char *slash = strrchr(path, '/');
    d->name = s.data && s.len ? strndup(s.data, s.len) : strdup(slash ? slash + 1 : path);
    return d->name ? ERR_OK : err_set(e, ERR_MEMORY, "no memory for the draft model's name");
}

enum err_code draft_model_start(struct draft_model *d, const char *kernels, const struct backend_options *options, struct err *e)
{
    struct err why = {0};
    enum err_code code = device_find(&d->device, kernels, &why);
    if (!code) code = device_open(&d->device, &d->backend, d->model, *options, &why);
    if (code && d->device.library && device_fall_back(&d->device, &why))
        code = device_open(&d->device, &d->backend, d->model, *options, &why);
    if (code) err_set(e, code, "draft model %.60s: %.90s", d->name, why.msg);
    return code;
}

void draft_model_stop(struct draft_model *d)
{
    if (d->backend) d->backend->close(d->backend);
    d->backend = NULL;
}

void draft_model_release(struct draft_model *d)
{
    draft_model_stop(d);
    model_close(d->model);
    free(d->name);
    *d = (struct draft_model){0};
}
