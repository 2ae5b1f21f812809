/* A Jetson's GPU from the kernel's files. It shares the machine's memory; its load is told in thousandths by the driver, its
 * temperature by a thermal zone, its power by a monitor chip (INA3221) whose rails have labels that differ by board:
 * VDD_GPU_SOC, VDD_CPU_GPU_CV … (NVIDIA Jetson Linux Developer Guide; the kernel's Documentation/hwmon/ina3221.rst). */
#include "node/gpu.h"

#include <glob.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_LEN = 512, WORD_LEN = 64 };

/* A small file's first line. */
static bool read_word(const char *path, char out[WORD_LEN])
{
    FILE *f = fopen(path, "r");
    bool any = f && fgets(out, WORD_LEN, f);
    if (f) (void)fclose(f);
    if (any) out[strcspn(out, "\n")] = 0;
    return any;
}

static double read_number(const char *path)
{
    char word[WORD_LEN], *end;
    if (!read_word(path, word)) return NAN;
    double v = strtod(word, &end);
    return end != word ? v : NAN;
}

/* The first file that matches and whose content `fits` (NULL: any); "" where there is none. */
static void find(const char *root, const char *pattern, bool (*fits)(const char *word), char out[PATH_LEN])
{
    char whole[PATH_LEN], word[WORD_LEN];
    glob_t found;
    out[0] = 0;
    if (snprintf(whole, sizeof whole, "%s%s", root, pattern) >= PATH_LEN || glob(whole, 0, NULL, &found) != 0) return;
    for (size_t i = 0; i < found.gl_pathc && !out[0]; i++)
        if (read_word(found.gl_pathv[i], word) && (!fits || fits(word))) (void)snprintf(out, PATH_LEN, "%s", found.gl_pathv[i]);
    globfree(&found);
}

static bool names_gpu(const char *word)
{
    return strstr(word, "GPU") || strstr(word, "gpu");
}

static double load(const char *root)
{
    static const char *const PATTERNS[] = {"/sys/class/devfreq/*gpu*/device/load", "/sys/class/devfreq/*.g[avp][0-9]*b/device/load",
                                           "/sys/devices/platform/*gpu*/load", "/sys/devices/gpu.0/load"};
    char path[PATH_LEN] = "";
    for (size_t i = 0; i < sizeof PATTERNS / sizeof PATTERNS[0] && !path[0]; i++) find(root, PATTERNS[i], NULL, path);
    return path[0] ? read_number(path) / 1000 : NAN;
}

static double temperature(const char *root)
{
    char path[PATH_LEN];
    find(root, "/sys/class/thermal/thermal_zone*/type", names_gpu, path);
    char *slash = strrchr(path, '/');
    if (!slash) return NAN;
    (void)snprintf(slash, (size_t)(path + sizeof path - slash), "/temp");
    return read_number(path) / 1000;
}

/* in2_label names the rail; in2_input is millivolts, curr2_input milliamperes. */
static double power(const char *root)
{
    char label[PATH_LEN], path[PATH_LEN + 16];
    find(root, "/sys/class/hwmon/hwmon*/in[123]_label", names_gpu, label);
    char *slash = strrchr(label, '/');
    if (!slash) return NAN;
    char rail = slash[3];
    *slash = 0;
    (void)snprintf(path, sizeof path, "%s/in%c_input", label, rail);
    double millivolts = read_number(path);
    (void)snprintf(path, sizeof path, "%s/curr%c_input", label, rail);
    return millivolts * read_number(path) / 1e6;
}

/* "MemAvailable:   123456 kB" */
static double meminfo(const char *root, const char *key)
{
    char path[PATH_LEN], line[128];
    double found = NAN;
    (void)snprintf(path, sizeof path, "%s/proc/meminfo", root);
    FILE *f = fopen(path, "r");
    size_t len = strlen(key);
    while (f && isnan(found) && fgets(line, sizeof line, f))
        if (strncmp(line, key, len) == 0 && line[len] == ':') found = strtod(line + len + 1, NULL) * 1024;
    if (f) (void)fclose(f);
    return found;
}

void gpu_sysfs_read(const char *root, struct gpu_reading *out)
{
    double busy = load(root);
    if (isnan(busy)) return; /* no Jetson: what follows would be another thing's */
    if (isnan(out->utilization)) out->utilization = busy;
    if (isnan(out->temperature_c)) out->temperature_c = temperature(root);
    if (isnan(out->power_w)) out->power_w = power(root);
    if (!isnan(out->memory_used)) return;
    out->memory_free = meminfo(root, "MemAvailable");
    out->memory_used = meminfo(root, "MemTotal") - out->memory_free;
}
