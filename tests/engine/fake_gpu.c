/* A library as the program loads it for a GPU, with the backend of fake_gpu.h; it is its own driver too. What it is like
 * comes from the environment:
 *   FAKE_GPU                 none: no such device; small: no model fits; tell: the kernels' name says what was asked for; dies: every
 *                            step fails
 *   FAKE_GPU_HOLD            a file: while it is there, no step ends
 *   FAKE_GPU_ABI             the interface's version it claims
 *   FAKE_GPU_DRIVER          another driver's library
 *   FAKE_GPU_DRIVER_VERSION  what its own driver says of itself; default 13000 */
#include "engine/cuda.h"
#include "tests/engine/fake_gpu.h"

#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default")))

static bool is(const char *what)
{
    const char *set = getenv("FAKE_GPU");
    return set && strcmp(set, what) == 0;
}

static long number_of(const char *variable, long otherwise)
{
    const char *set = getenv(variable);
    return set ? strtol(set, NULL, 10) : otherwise;
}

EXPORTED int cuDriverGetVersion(int *version);
EXPORTED int cuDriverGetVersion(int *version)
{
    *version = (int)number_of("FAKE_GPU_DRIVER_VERSION", 13000);
    return 0;
}

static enum err_code device(int index, struct cuda_device *out, struct err *e)
{
    if (is("none")) return err_set(e, ERR_UNAVAILABLE, "no GPU is here");
    if (index > 1) return err_set(e, ERR_UNAVAILABLE, "no GPU %d: 2 are here", index);
    *out = (struct cuda_device){.index = index, .major = 9, .multiprocessors = 4, .memory_total = 1 << 30, .memory_free = 1 << 29, .driver = 13000};
    (void)snprintf(out->name, sizeof out->name, "Fake GPU %d", index);
    (void)snprintf(out->uuid, sizeof out->uuid, "GPU-fake-%d", index);
    return ERR_OK;
}

static enum err_code forward(struct backend *b, const struct batch *batch, struct batch_out *out, struct err *e)
{
    const char *hold = getenv("FAKE_GPU_HOLD");
    while (hold && access(hold, F_OK) == 0) (void)usleep(1000);
    return is("dies") ? err_set(e, ERR_INTERNAL, "the GPU has fallen off the bus") : fake_forward(b, batch, out, e);
}

static enum err_code open_backend(struct backend **out, const struct model *model, const struct backend_options *o, struct err *e)
{
    static char told[160];
    if (is("small")) return err_set(e, ERR_MEMORY, "the model needs 9 GB; the GPU has 1 GB free");
    enum err_code code = fake_open(out, model, o, e);
    (void)snprintf(told, sizeof told, "device %d invariant %d sparse %d 8bit %d pages %d context %d cols %d wanted %d", o->device, o->invariant,
                   o->sparse_pages, o->kv_q8, o->pages, o->context_tokens, o->cols_max, o->wanted_max);
    if (!code) (*out)->forward = forward;
    if (!code && is("tell")) (*out)->kernels = told;
    return code;
}

static int64_t page_bytes(const struct model *model, bool kv_8bit)
{
    (void)model;
    return kv_8bit ? FAKE_PAGE_BYTES / 2 : FAKE_PAGE_BYTES;
}

static enum err_code read_bandwidth(int index, double *out, struct err *e)
{
    (void)index;
    (void)e;
    *out = 1e12;
    return ERR_OK;
}

EXPORTED struct cuda_library rung_cuda = {.abi = CUDA_ABI, .runtime = 13000, .device = device, .open = open_backend,
                                          .page_bytes = page_bytes, .read_bandwidth = read_bandwidth};

__attribute__((constructor)) static void begin(void)
{
    Dl_info own;
    const char *driver = getenv("FAKE_GPU_DRIVER");
    rung_cuda.abi = (int)number_of("FAKE_GPU_ABI", CUDA_ABI);
    rung_cuda.driver = driver ? driver : dladdr((void *)&rung_cuda, &own) ? own.dli_fname : "";
}
