#include "node/local_engine.h"

#include <stdio.h>

struct engine_options local_engine_options(const struct config_backend *c)
{
    return (struct engine_options){.path = c->model_file,
                                   .draft = c->draft_model,
                                   .draft_kernels = c->draft_kernels,
                                   .kernels = c->kernels,
                                   .threads = c->threads,
                                   .slots_max = c->slots,
                                   .queue_max = c->queue_max,
                                   .context_tokens = c->context_tokens,
                                   .kv_bytes_max = c->kv_bytes_max,
                                   .prefill_tokens = c->prefill_tokens,
                                   .kv = c->kv ? ENGINE_KV_Q8_0 : ENGINE_KV_F16,
                                   .invariant = c->invariant,
                                   .sparse_pages = c->sparse_pages};
}

void local_engine_identity(const struct config_backend *c, const struct engine_info *info, char *out, size_t size)
{
    bool gpu = info->device[0];
    char sparse[32] = "";
    if (gpu && c->sparse_pages) (void)snprintf(sparse, sizeof sparse, "/sparse-%d", c->sparse_pages);
    (void)snprintf(out, size, "%s/%s%s%s%s", info->identity, info->kernels, c->kv ? "/kv-q8_0" : "",
                   gpu && c->invariant ? "/invariant" : "", sparse);
}

void local_engine_device(const struct engine_info *info, char *out, size_t size)
{
    bool gpu = info->device[0];
    (void)snprintf(out, size, "%s%s", gpu ? "" : "cpu ", gpu ? info->device : info->kernels);
}
