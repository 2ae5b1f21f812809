/* The draft model: a second, smaller file with the same tokens, whose guesses the scheduler has the model check
 * (sched_ahead.h). Read by the same loaders, with a backend of its own. */
#ifndef RUNG_ENGINE_DRAFT_MODEL_H
#define RUNG_ENGINE_DRAFT_MODEL_H

#include "engine/device.h"
#include "engine/tokenizer.h"

struct draft_model {
    struct model *model; /* NULL: there is none */
    char *name;
    struct device device;
    struct backend *backend;
};

/* Read the file for sequences of up to `context_tokens` (0: the file's own). `tokenizer` is that of the model it shall guess for.
 * Errors: those of gguf_open, model_open, tokenizer_open; ERR_INVALID: its tokens are others (says which). All name the file. */
ERR_CHECKED enum err_code draft_model_read(struct draft_model *d, const char *path, int context_tokens,
                                           const struct tokenizer *tokenizer, struct err *e);
/* Its backend; `kernels` as device_find takes it. Errors: those of device_find and device_open, with the file's name. */
ERR_CHECKED enum err_code draft_model_start(struct draft_model *d, const char *kernels, const struct backend_options *options,
                                            struct err *e);
void draft_model_stop(struct draft_model *d); /* its backend alone */
void draft_model_release(struct draft_model *d);

#endif
