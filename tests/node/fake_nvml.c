/* Stands in for libnvidia-ml.so.1: two GPUs, the second of which does not tell its power. FAKE_NVML=broken: it does not start. */
#include <stdlib.h>
#include <string.h>

#define EXPORTED __attribute__((visibility("default")))
enum { OK = 0, UNKNOWN_ERROR = 999, NOT_SUPPORTED = 3, NOT_FOUND = 6 };
static char handles[2];
static int started;

EXPORTED int nvmlInit_v2(void);
EXPORTED int nvmlShutdown(void);
EXPORTED int nvmlDeviceGetHandleByUUID(const char *uuid, void **out);
EXPORTED int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out);
EXPORTED int nvmlDeviceGetUtilizationRates(void *device, unsigned out[2]);
EXPORTED int nvmlDeviceGetMemoryInfo(void *device, unsigned long long out[3]);
EXPORTED int nvmlDeviceGetPowerUsage(void *device, unsigned *out);
EXPORTED int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *out);

static int number_of(const void *device)
{
    return (int)((const char *)device - handles);
}

EXPORTED int nvmlInit_v2(void)
{
    const char *how = getenv("FAKE_NVML");
    if (how && strcmp(how, "broken") == 0) return UNKNOWN_ERROR;
    started++;
    return OK;
}

EXPORTED int nvmlShutdown(void)
{
    started--;
    return OK;
}

EXPORTED int nvmlDeviceGetHandleByUUID(const char *uuid, void **out)
{
    if (!started) return UNKNOWN_ERROR;
    if (strcmp(uuid, "GPU-fake-0") != 0 && strcmp(uuid, "GPU-fake-1") != 0) return NOT_FOUND;
    *out = &handles[uuid[9] - '0'];
    return OK;
}

EXPORTED int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out)
{
    if (!started || index > 1) return NOT_FOUND;
    *out = &handles[index];
    return OK;
}

EXPORTED int nvmlDeviceGetUtilizationRates(void *device, unsigned out[2])
{
    out[0] = number_of(device) ? 5 : 37;
    out[1] = 1;
    return OK;
}

EXPORTED int nvmlDeviceGetMemoryInfo(void *device, unsigned long long out[3])
{
    out[0] = 80000000000;
    out[2] = number_of(device) ? 1000000000 : 12000000000;
    out[1] = out[0] - out[2];
    return OK;
}

EXPORTED int nvmlDeviceGetPowerUsage(void *device, unsigned *out)
{
    *out = 250500;
    return number_of(device) ? NOT_SUPPORTED : OK;
}

EXPORTED int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *out)
{
    *out = sensor == 0 ? 61 + (unsigned)number_of(device) : 99;
    return OK;
}
