/* What the GPUs under this node's engines are doing. They are read once a second on a thread of their own, through NVML where
 * its library is, else (a Jetson) from the kernel's files; whoever asks gets what was read last. */
#ifndef RUNG_NODE_GPU_H
#define RUNG_NODE_GPU_H

#include "base/err.h"

enum { GPUS_WATCHED_MAX = 16 };

struct gpu_reading {
    char name[96];
    int index;                       /* as CUDA counts */
    double utilization;              /* share of the last moments in which something ran; this and the rest NAN: nobody tells */
    double memory_used, memory_free; /* bytes, of all processes */
    double power_w, temperature_c;
};
/* Where they are read from. NULL: "libnvidia-ml.so.1"; "" (before /sys and /proc). Tests name others. */
struct gpu_places {
    const char *nvml, *root;
};

struct gpu_monitor;
/* Nothing is read, and no thread runs, until something is watched. */
ERR_CHECKED enum err_code gpu_monitor_new(struct gpu_monitor **out, const struct gpu_places *places, struct err *e);
void gpu_monitor_free(struct gpu_monitor *m); /* waits for its thread; NULL is fine */
/* `m` may be NULL: nothing is watched. `uuid` as NVML knows it, or "": then it is found by its number. Watching one twice is watching it once. */
void gpu_monitor_watch(struct gpu_monitor *m, const char *name, const char *uuid, int index);
/* The last readings, in the order they were watched; returns how many. Never blocks for long. */
int gpu_monitor_read(struct gpu_monitor *m, struct gpu_reading *out, int max);
/* How often all have been read. */
int gpu_monitor_rounds(struct gpu_monitor *m);

/* ---- the two sources; each fills in what it knows and was NAN ---- */

struct gpu_nvml;
struct gpu_nvml *gpu_nvml_open(const char *library); /* NULL: it is not there or does not start */
void gpu_nvml_close(struct gpu_nvml *n);
void gpu_nvml_read(const struct gpu_nvml *n, const char *uuid, struct gpu_reading *out);
/* Only where `root` is a Jetson's. */
void gpu_sysfs_read(const char *root, struct gpu_reading *out);

#endif
