/* What upload_run brings to the device is what lies in the file, to the byte, and nothing beside it is touched. */
#include "engine/cuda/cuda.cuh"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { GUARD = 96, POISON = 0xa5, ITEMS_MAX = 400 };
static int passed, failed;

static void say(bool good, const char *name, const char *why)
{
    if (good) passed++;
    else failed++;
    if (!good) (void)printf("FAILED %s: %s\n", name, why);
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static double now_s(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

struct file {
    char *map;
    size_t bytes;
    int fd;
};

static bool file_open(struct file *f, size_t bytes, uint64_t seed)
{
    char path[] = "/tmp/rung-upload-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0) return false;
    (void)unlink(path);
    f->bytes = bytes;
    char *out = ftruncate(fd, (off_t)bytes) ? (char *)MAP_FAILED : (char *)mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (out != MAP_FAILED) {
        for (size_t i = 0; i + 8 <= bytes; i += 8) {
            uint64_t r = next_random(&seed);
            memcpy(out + i, &r, 8);
        }
        (void)munmap(out, bytes);
    }
    f->map = (char *)mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    f->fd = fd;
    return out != MAP_FAILED && f->map != MAP_FAILED;
}

/* Ranges of the file one behind the other on the device, each between guards: read from the file or copied from its map by turns. */
struct layout {
    struct upload list[ITEMS_MAX];
    const char *want[ITEMS_MAX];
    int count;
    size_t device_bytes;
    char *device;
};

static void layout_add(struct layout *l, const struct file *f, size_t from, size_t bytes)
{
    l->device_bytes += GUARD + l->device_bytes % 7; /* any alignment */
    l->want[l->count] = f->map + from;
    l->list[l->count].from = l->count % 2 ? f->map + from : NULL;
    l->list[l->count].file = f->fd, l->list[l->count].offset = (int64_t)from;
    l->list[l->count].to = (void *)l->device_bytes; /* an offset until there is memory */
    l->list[l->count].bytes = (int64_t)bytes;
    l->count++;
    l->device_bytes += bytes;
}

static bool layout_place(struct layout *l)
{
    l->device_bytes += GUARD;
    if (cudaMalloc((void **)&l->device, l->device_bytes) != cudaSuccess) return false;
    for (int i = 0; i < l->count; i++) l->list[i].to = l->device + (size_t)l->list[i].to;
    return cudaMemset(l->device, POISON, l->device_bytes) == cudaSuccess;
}

/* What the device should hold, made on the host. */
static char *expected(const struct layout *l)
{
    char *want = (char *)malloc(l->device_bytes);
    if (!want) return NULL;
    memset(want, POISON, l->device_bytes);
    for (int i = 0; i < l->count; i++) memcpy(want + ((char *)l->list[i].to - l->device), l->want[i], (size_t)l->list[i].bytes);
    return want;
}

static void compare(const char *name, const struct layout *l)
{
    char why[120] = "no memory";
    char *want = expected(l), *have = (char *)malloc(l->device_bytes);
    bool good = want && have && cudaMemcpy(have, l->device, l->device_bytes, cudaMemcpyDeviceToHost) == cudaSuccess;
    for (size_t i = 0; good && i < l->device_bytes; i++) {
        if (want[i] == have[i]) continue;
        (void)snprintf(why, sizeof why, "byte %zu of %zu is %02x, should be %02x", i, l->device_bytes, have[i] & 255, want[i] & 255);
        good = false;
    }
    say(good, name, why);
    free(want);
    free(have);
}

static void run(const char *name, struct layout *l, int threads)
{
    struct err e = {};
    if (!layout_place(l)) {
        say(false, name, "no memory on the device");
        return;
    }
    if (upload_run(l->list, l->count, threads, &e)) say(false, name, e.msg);
    else compare(name, l);
    (void)cudaFree(l->device);
}

static void sizes_and_places(const struct file *f, uint64_t seed)
{
    static const size_t SIZES[] = {1, 0, 2, 15, 16, 17, 4095, 4096, 4097, (8 << 20) - 1, 8 << 20, (8 << 20) + 1, 0, (24 << 20) + 12345, 3};
    static const int THREADS[] = {1, 2, 3, 16, 0};
    for (int t = 0; t < 5; t++) {
        struct layout l = {};
        char name[60];
        for (size_t i = 0; i < sizeof SIZES / sizeof SIZES[0]; i++)
            layout_add(&l, f, (size_t)(next_random(&seed) % (f->bytes - SIZES[i])), SIZES[i]);
        (void)snprintf(name, sizeof name, "odd sizes and places, %d threads", THREADS[t]);
        run(name, &l, THREADS[t]);
    }
}

static void many_small(const struct file *f, uint64_t seed)
{
    struct layout l = {};
    for (int i = 0; i < ITEMS_MAX; i++) {
        size_t bytes = (size_t)(next_random(&seed) % 40000);
        layout_add(&l, f, (size_t)(next_random(&seed) % (f->bytes - bytes)), bytes);
    }
    run("hundreds of small ranges", &l, 0);
}

static void nothing(void)
{
    struct upload none = {};
    struct err e = {};
    say(upload_run(NULL, 0, 0, &e) == ERR_OK, "no ranges at all", e.msg);
    say(upload_run(&none, 1, 0, &e) == ERR_OK, "a range of no bytes", e.msg);
}

/* Memory that is not the device's: the error of any thread is told, and the next upload works. */
static void wrong_memory(const struct file *f)
{
    struct layout l = {};
    struct err e = {};
    layout_add(&l, f, 0, 60 << 20);
    layout_add(&l, f, 5, 100);
    void *good = NULL;
    if (!layout_place(&l)) return;
    good = l.list[0].to;
    l.list[0].to = NULL;
    enum err_code code = upload_run(l.list, l.count, 4, &e);
    say(code != ERR_OK && e.code == code && e.msg[0], "memory that is not the device's", "no error");
    l.list[0].to = good;
    (void)cudaMemset(l.device, POISON, l.device_bytes);
    if (upload_run(l.list, l.count, 4, &e)) say(false, "after an error", e.msg);
    else compare("after an error", &l);
    (void)cudaFree(l.device);
}

static void a_file_that_ends(const struct file *f)
{
    struct layout l = {};
    struct err e = {};
    layout_add(&l, f, f->bytes - 1000, 2000);
    if (!layout_place(&l)) return;
    enum err_code code = upload_run(l.list, l.count, 4, &e);
    say(code == ERR_IO && strstr(e.msg, "it ends there"), "a file that ends", e.msg);
    (void)cudaFree(l.device);
}

static void rate(const struct file *f)
{
    struct upload all = {NULL, NULL, (int64_t)f->bytes, f->fd, 0};
    struct err e = {};
    double best = 0;
    if (cudaMalloc(&all.to, f->bytes) != cudaSuccess) return;
    for (int i = 0; i < 3; i++) {
        double from = now_s();
        if (upload_run(&all, 1, 0, &e)) (void)printf("%s\n", e.msg);
        double gbs = (double)f->bytes * 1e-9 / (now_s() - from);
        if (gbs > best) best = gbs;
    }
    (void)cudaFree(all.to);
    (void)printf("%.2f GB in memory: %.1f GB/s to the device, opening threads and buffers included\n", (double)f->bytes * 1e-9, best);
}

int main(int argc, char **argv)
{
    int count = 0;
    size_t bytes = (size_t)(argc > 1 ? strtol(argv[1], NULL, 10) : 1024) << 20;
    uint64_t seed = (uint64_t)time(NULL) * 2654435761u | 1;
    struct file f = {};
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        (void)puts("skipped: no GPU");
        return 0;
    }
    (void)printf("seed %llu\n", (unsigned long long)seed);
    if (bytes < (size_t)64 << 20) bytes = (size_t)64 << 20;
    if (!file_open(&f, bytes, seed)) {
        perror("a file to upload");
        return 1;
    }
    nothing();
    sizes_and_places(&f, seed);
    many_small(&f, seed);
    wrong_memory(&f);
    a_file_that_ends(&f);
    rate(&f);
    (void)printf("%d passed, %d failed\n", passed, failed);
    return failed ? 1 : 0;
}
