/* What a GPU tells of itself, through a library that stands in for NVML and a tree that stands in for a Jetson's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "node/gpu.h"

#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct gpu_reading nothing(int index)
{
    return (struct gpu_reading){.name = "a GPU", .index = index, .utilization = NAN, .memory_used = NAN, .memory_free = NAN, .power_w = NAN,
                                .temperature_c = NAN};
}

static void assert_near(double a, double b)
{
    assert_true(fabs(a - b) < 1e-9 * (1 + fabs(b)));
}

/* ---- NVML ---- */

static void nvml_tells_all_it_knows(void **state)
{
    (void)state;
    struct gpu_nvml *n = gpu_nvml_open(FAKE_NVML_LIBRARY);
    assert_non_null(n);
    struct gpu_reading r = nothing(1); /* the uuid counts, not the number: CUDA and NVML count differently */
    gpu_nvml_read(n, "GPU-fake-0", &r);
    assert_near(r.utilization, 0.37);
    assert_near(r.memory_used, 12e9);
    assert_near(r.memory_free, 68e9);
    assert_near(r.power_w, 250.5);
    assert_near(r.temperature_c, 61);
    r = nothing(1);
    gpu_nvml_read(n, "", &r);
    assert_near(r.temperature_c, 62);
    assert_true(isnan(r.power_w));
    r = nothing(0);
    gpu_nvml_read(n, "MIG-unknown", &r);
    assert_near(r.temperature_c, 61);
    r = nothing(7);
    gpu_nvml_read(n, "", &r);
    assert_true(isnan(r.utilization) && isnan(r.temperature_c));
    gpu_nvml_close(n);
}

static void without_nvml_nothing_is_told(void **state)
{
    (void)state;
    assert_null(gpu_nvml_open("/nowhere/libnvidia-ml.so.1"));
    assert_null(gpu_nvml_open("libm.so.6"));
    assert_int_equal(setenv("FAKE_NVML", "broken", 1), 0);
    assert_null(gpu_nvml_open(FAKE_NVML_LIBRARY));
    assert_int_equal(unsetenv("FAKE_NVML"), 0);
    gpu_nvml_close(NULL);
}

/* ---- a Jetson's files ---- */

static char root[64];

static void put(const char *path, const char *content)
{
    char whole[256];
    (void)snprintf(whole, sizeof whole, "%s%s", root, path);
    for (char *p = whole + 1; (p = strchr(p, '/')); *p++ = '/') {
        *p = 0;
        (void)mkdir(whole, 0700);
    }
    FILE *f = fopen(whole, "w");
    assert_non_null(f);
    (void)fputs(content, f);
    (void)fclose(f);
}

static int drop(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

static int tree_new(void **state)
{
    (void)state;
    (void)snprintf(root, sizeof root, "/tmp/rung-test-XXXXXX");
    return mkdtemp(root) ? 0 : 1;
}

static int tree_free(void **state)
{
    (void)state;
    return nftw(root, drop, 8, FTW_DEPTH | FTW_PHYS);
}

/* As an AGX Orin has them. */
static void plant_orin(void)
{
    put("/sys/class/devfreq/17000000.gpu/device/load", "412\n");
    put("/sys/class/thermal/thermal_zone0/type", "cpu-thermal\n");
    put("/sys/class/thermal/thermal_zone0/temp", "44000\n");
    put("/sys/class/thermal/thermal_zone1/type", "gpu-thermal\n");
    put("/sys/class/thermal/thermal_zone1/temp", "41500\n");
    put("/sys/class/hwmon/hwmon2/name", "ina3221\n");
    put("/sys/class/hwmon/hwmon2/in1_label", "VDD_CPU_CV\n");
    put("/sys/class/hwmon/hwmon2/in1_input", "19000\n");
    put("/sys/class/hwmon/hwmon2/curr1_input", "9\n");
    put("/sys/class/hwmon/hwmon2/in2_label", "VDD_GPU_SOC\n");
    put("/sys/class/hwmon/hwmon2/in2_input", "19080\n");
    put("/sys/class/hwmon/hwmon2/curr2_input", "500\n");
    put("/proc/meminfo", "MemTotal:       64000000 kB\nMemFree:         1000000 kB\nMemAvailable:   40000000 kB\n");
}

static void a_jetsons_files_are_read(void **state)
{
    (void)state;
    plant_orin();
    struct gpu_reading r = nothing(0);
    gpu_sysfs_read(root, &r);
    assert_near(r.utilization, 0.412);
    assert_near(r.temperature_c, 41.5);
    assert_near(r.power_w, 9.54);
    assert_near(r.memory_free, 40e6 * 1024);
    assert_near(r.memory_used, 24e6 * 1024);
    r = nothing(0);
    r.temperature_c = 50; /* NVML said so */
    gpu_sysfs_read(root, &r);
    assert_near(r.temperature_c, 50);
}

static void older_places_are_looked_at_too(void **state)
{
    (void)state;
    put("/sys/devices/gpu.0/load", "1000\n");
    struct gpu_reading r = nothing(0);
    gpu_sysfs_read(root, &r);
    assert_near(r.utilization, 1);
    assert_true(isnan(r.temperature_c) && isnan(r.power_w) && isnan(r.memory_used)); /* none of these files is there */
}

static void any_other_machine_has_no_such_gpu(void **state)
{
    (void)state;
    put("/proc/meminfo", "MemTotal:       64000000 kB\nMemAvailable:   40000000 kB\n");
    put("/sys/class/thermal/thermal_zone0/type", "gpu-thermal\n");
    put("/sys/class/thermal/thermal_zone0/temp", "44000\n");
    put("/sys/class/devfreq/17000000.gpu/device/load", "");
    struct gpu_reading r = nothing(0);
    gpu_sysfs_read(root, &r);
    assert_true(isnan(r.utilization) && isnan(r.memory_used) && isnan(r.temperature_c));
}

/* ---- the monitor ---- */

static void the_monitor_reads_again_and_again(void **state)
{
    (void)state;
    struct gpu_monitor *m;
    struct gpu_reading r[4];
    plant_orin();
    const struct gpu_places places = {FAKE_NVML_LIBRARY, root};
    assert_int_equal(gpu_monitor_new(&m, &places, NULL), ERR_OK);
    assert_int_equal(gpu_monitor_read(m, r, 4), 0);
    gpu_monitor_watch(m, "One \"and\" only", "GPU-fake-1", 0);
    gpu_monitor_watch(m, "One \"and\" only", "GPU-fake-1", 0);
    while (gpu_monitor_rounds(m) < 1) (void)usleep(1000);
    assert_int_equal(gpu_monitor_read(m, r, 4), 1);
    assert_string_equal(r[0].name, "One ?and? only");
    assert_near(r[0].utilization, 0.05);
    assert_near(r[0].power_w, 9.54); /* which NVML does not tell */
    put("/sys/class/hwmon/hwmon2/curr2_input", "1000\n");
    gpu_monitor_watch(m, "another", "", 1);
    int rounds = gpu_monitor_rounds(m);
    while (gpu_monitor_rounds(m) < rounds + 2) (void)usleep(1000); /* one that began after all this */
    assert_int_equal(gpu_monitor_read(m, r, 4), 2);
    assert_near(r[0].power_w, 19.08);
    assert_int_equal(gpu_monitor_read(m, r, 1), 1);
    gpu_monitor_free(m);
}

static void a_monitor_of_nothing_ends_at_once(void **state)
{
    (void)state;
    struct gpu_monitor *m;
    assert_int_equal(gpu_monitor_new(&m, NULL, NULL), ERR_OK);
    gpu_monitor_free(m);
    gpu_monitor_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nvml_tells_all_it_knows),
        cmocka_unit_test(without_nvml_nothing_is_told),
        cmocka_unit_test_setup_teardown(a_jetsons_files_are_read, tree_new, tree_free),
        cmocka_unit_test_setup_teardown(older_places_are_looked_at_too, tree_new, tree_free),
        cmocka_unit_test_setup_teardown(any_other_machine_has_no_such_gpu, tree_new, tree_free),
        cmocka_unit_test_setup_teardown(the_monitor_reads_again_and_again, tree_new, tree_free),
        cmocka_unit_test(a_monitor_of_nothing_ends_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
