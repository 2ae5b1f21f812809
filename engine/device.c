#include "engine/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GPUS_MAX = 64 };

/* "cuda" or "cuda:N". False: neither; *index is -1 for a number that is none. */
static bool names_gpu(const char *kernels, int *index)
{
    if (strncmp(kernels, "cuda", 4) != 0 || (kernels[4] && kernels[4] != ':')) return false;
    *index = 0;
    if (!kernels[4]) return true;
    char *end;
    long n = strtol(kernels + 5, &end, 10);
    *index = end != kernels + 5 && !*end && n >= 0 && n < GPUS_MAX ? (int)n : -1;
    return true;
}

static enum err_code find_gpu(struct device *d, int index, struct err *e)
{
    const struct cuda_library *library = cuda_library(e);
    if (!library) return e && e->code ? e->code : ERR_UNAVAILABLE;
    enum err_code code = library->device(index, &d->gpu, e);
    if (!code) d->library = library;
    return code;
}

enum err_code device_find(struct device *out, const char *kernels, struct err *e)
{
    int index = 0;
    struct err why = {0};
    *out = (struct device){0};
    if (kernels && names_gpu(kernels, &index)) {
        if (index < 0) return err_set(e, ERR_INVALID, "kernels '%.40s': want cuda, or cuda:N with a GPU's number from 0 to %d", kernels, GPUS_MAX - 1);
        enum err_code code = find_gpu(out, index, &why);
        if (code && e) *e = why;
        return code;
    }
    out->any = !kernels || !*kernels || strcmp(kernels, "auto") == 0;
    if (!out->any && strcmp(kernels, "cpu") != 0) out->kernels = kernels;
    if (out->any && find_gpu(out, 0, &why) != ERR_OK) (void)device_fall_back(out, &why);
    return ERR_OK;
}

bool device_fall_back(struct device *d, const struct err *why)
{
    if (!d->any) return false;
    *d = (struct device){0};
    (void)snprintf(d->note, sizeof d->note, "%s", why->msg);
    return true;
}

int64_t device_page_bytes(const struct device *d, const struct model *model, bool kv_q8)
{
    return d->library ? d->library->page_bytes(model, kv_q8) : cpu_page_bytes(model, kv_q8);
}

enum err_code device_open(const struct device *d, struct backend **out, const struct model *model, struct backend_options options,
                          struct err *e)
{
    options.kernels = d->kernels;
    options.device = d->gpu.index;
    return d->library ? d->library->open(out, model, &options, e) : cpu_open(out, model, &options, e);
}
