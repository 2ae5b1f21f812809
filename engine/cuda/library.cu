/* What the library exports: the GPU's own description, and the parts that stand in backend.cu and bandwidth.cu. */
#include "engine/cuda/cuda.cuh"

extern "C" {
#include "engine/cuda.h"
}

#include <stdio.h>
#include <string.h>

enum { CAPABILITY_LEAST = 80 };

static void write_uuid(const unsigned char *bytes, char *out, size_t size)
{
    size_t n = (size_t)snprintf(out, size, "GPU");
    for (int i = 0; i < 16 && n < size; i++)
        n += (size_t)snprintf(out + n, size - n, "%s%02x", i == 0 || i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", bytes[i]);
}

static enum err_code count_devices(int index, struct err *e)
{
    int count = 0;
    cudaError_t status = cudaGetDeviceCount(&count);
    if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0))
        return err_set(e, ERR_UNAVAILABLE, "the NVIDIA driver finds no GPU (is one hidden by CUDA_VISIBLE_DEVICES?)");
    if (status != cudaSuccess)
        return err_set(e, ERR_UNAVAILABLE, "the NVIDIA driver does not start: %s (%s)", cudaGetErrorString(status), cudaGetErrorName(status));
    if (index >= count) return err_set(e, ERR_UNAVAILABLE, "no GPU %d: %d %s here, counted from 0", index, count, count == 1 ? "is" : "are");
    return ERR_OK;
}

static enum err_code device(int index, struct cuda_device *out, struct err *e)
{
    cudaDeviceProp prop;
    size_t free_bytes = 0, total = 0;
    enum err_code code = count_devices(index, e);
    if (code) return code;
    if ((code = cuda_check(cudaGetDeviceProperties(&prop, index), "the GPU's properties", e))) return code;
    if (prop.major * 10 + prop.minor < CAPABILITY_LEAST)
        return err_set(e, ERR_UNAVAILABLE, "GPU %d, %s, has compute capability %d.%d; %d.%d or above is wanted", index, prop.name,
                       prop.major, prop.minor, CAPABILITY_LEAST / 10, CAPABILITY_LEAST % 10);
    memset(out, 0, sizeof *out);
    out->index = index;
    out->major = prop.major;
    out->minor = prop.minor;
    out->multiprocessors = prop.multiProcessorCount;
    (void)snprintf(out->name, sizeof out->name, "%.95s", prop.name);
    write_uuid((const unsigned char *)prop.uuid.bytes, out->uuid, sizeof out->uuid);
    if ((code = cuda_check(cudaDriverGetVersion(&out->driver), "the driver's version", e))) return code;
    if ((code = cuda_check(cudaSetDevice(index), "starting on the GPU", e))) return code;
    if ((code = cuda_check(cudaMemGetInfo(&free_bytes, &total), "the GPU's memory", e))) return code;
    out->memory_free = (int64_t)free_bytes;
    out->memory_total = (int64_t)total;
    return ERR_OK;
}

extern "C" {
extern const struct cuda_library rung_cuda;
__attribute__((visibility("default"))) const struct cuda_library rung_cuda = {CUDA_ABI, CUDART_VERSION, "libcuda.so.1", device,
                                                                             cuda_open, cuda_page_bytes, cuda_read_bandwidth};
}
