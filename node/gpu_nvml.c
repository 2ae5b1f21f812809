/* NVML, NVIDIA's management library, loaded at run time: the few calls that are used, declared as its reference manual has
 * them. 0 is success; what a card does not support it says with another number. */
#include "node/gpu.h"

#include <dlfcn.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>

typedef void *nvml_device;
struct nvml_utilization {
    unsigned gpu, memory; /* percent */
};
struct nvml_memory {
    unsigned long long total, free, used; /* bytes */
};
enum { NVML_TEMPERATURE_GPU = 0 };

struct gpu_nvml {
    void *library;
    int (*init)(void);
    int (*shutdown)(void);
    int (*by_uuid)(const char *uuid, nvml_device *out);
    int (*by_index)(unsigned index, nvml_device *out);
    int (*utilization)(nvml_device device, struct nvml_utilization *out);
    int (*memory)(nvml_device device, struct nvml_memory *out);
    int (*power)(nvml_device device, unsigned *milliwatts);
    int (*temperature)(nvml_device device, int sensor, unsigned *celsius);
};
static const struct {
    const char *name;
    size_t field;
} SYMBOLS[] = {
    {"nvmlInit_v2", offsetof(struct gpu_nvml, init)},
    {"nvmlShutdown", offsetof(struct gpu_nvml, shutdown)},
    {"nvmlDeviceGetHandleByUUID", offsetof(struct gpu_nvml, by_uuid)},
    {"nvmlDeviceGetHandleByIndex_v2", offsetof(struct gpu_nvml, by_index)},
    {"nvmlDeviceGetUtilizationRates", offsetof(struct gpu_nvml, utilization)},
    {"nvmlDeviceGetMemoryInfo", offsetof(struct gpu_nvml, memory)},
    {"nvmlDeviceGetPowerUsage", offsetof(struct gpu_nvml, power)},
    {"nvmlDeviceGetTemperature", offsetof(struct gpu_nvml, temperature)},
};

struct gpu_nvml *gpu_nvml_open(const char *library)
{
    struct gpu_nvml *n = calloc(1, sizeof *n);
    if (!n) return NULL;
    n->library = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    bool whole = n->library != NULL;
    for (size_t i = 0; whole && i < sizeof SYMBOLS / sizeof SYMBOLS[0]; i++) {
        void **field = (void **)(void *)((char *)n + SYMBOLS[i].field);
        *field = dlsym(n->library, SYMBOLS[i].name);
        whole = *field != NULL;
    }
    if (whole && n->init() == 0) return n;
    if (n->library) (void)dlclose(n->library);
    free(n);
    return NULL;
}

void gpu_nvml_close(struct gpu_nvml *n)
{
    if (!n) return;
    (void)n->shutdown();
    (void)dlclose(n->library);
    free(n);
}

void gpu_nvml_read(const struct gpu_nvml *n, const char *uuid, struct gpu_reading *out)
{
    nvml_device device;
    struct nvml_utilization utilization;
    struct nvml_memory memory;
    unsigned value;
    /* Of a slice (MIG) there is no handle by the card's uuid; the card's own readings are better than none. */
    if ((!uuid[0] || n->by_uuid(uuid, &device) != 0) && n->by_index((unsigned)out->index, &device) != 0) return;
    if (isnan(out->utilization) && n->utilization(device, &utilization) == 0) out->utilization = utilization.gpu / 100.0;
    if (isnan(out->memory_used) && n->memory(device, &memory) == 0) {
        out->memory_used = (double)memory.used;
        out->memory_free = (double)memory.free;
    }
    if (isnan(out->power_w) && n->power(device, &value) == 0) out->power_w = value / 1000.0;
    if (isnan(out->temperature_c) && n->temperature(device, NVML_TEMPERATURE_GPU, &value) == 0) out->temperature_c = value;
}
