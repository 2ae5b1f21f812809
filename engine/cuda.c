#include "engine/cuda.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PLACE_MAX = 4096 };
static const char NAME[] = "librung_cuda.so";

/* ---- where it lies ---- */

static bool beside_program(const char *below, char *out, size_t size)
{
    char program[PLACE_MAX];
    ssize_t len = readlink("/proc/self/exe", program, sizeof program - 1);
    if (len <= 0) return false;
    program[len] = 0;
    char *slash = strrchr(program, '/');
    if (!slash) return false;
    int n = snprintf(out, size, "%.*s/%s%s", (int)(slash - program), program, below, NAME);
    return n > 0 && (size_t)n < size && access(out, F_OK) == 0;
}

/* `place` holds the path where it is made here. */
static const char *find(char *place, size_t size)
{
    const char *told = getenv("RUNG_CUDA_LIBRARY");
    if (told && *told) return told;
    return beside_program("", place, size) || beside_program("../lib/rung/", place, size) ? place : NAME;
}

/* ---- what it must fit ---- */

static void version_text(int version, char *out, size_t size)
{
    (void)snprintf(out, size, "%d.%d", version / 1000, version % 1000 / 10);
}

/* Drivers take programs of any minor version of their major one (NVIDIA's CUDA compatibility guide). */
static enum err_code check_driver(const struct cuda_library *library, struct err *e)
{
    void *driver = dlopen(library->driver, RTLD_NOW | RTLD_LOCAL); /* stays loaded: the library needs it */
    if (!driver) return err_set(e, ERR_UNAVAILABLE, "no NVIDIA driver: %s", dlerror());
    union {
        void *symbol;
        int (*call)(int *version);
    } get = {dlsym(driver, "cuDriverGetVersion")};
    int version = 0, wanted = library->runtime / 1000 * 1000;
    if (!get.symbol || get.call(&version) != 0)
        return err_set(e, ERR_UNAVAILABLE, "the NVIDIA driver (%s) does not tell its version", library->driver);
    if (version >= wanted) return ERR_OK;
    char have[16], want[16];
    version_text(version, have, sizeof have);
    version_text(wanted, want, sizeof want);
    return err_set(e, ERR_UNAVAILABLE, "the NVIDIA driver is too old: it supports CUDA %s; %s is wanted", have, want);
}

static enum err_code load(const char *path, const struct cuda_library **out, struct err *e)
{
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle && path == NAME)
        return err_set(e, ERR_UNAVAILABLE, "no GPU library: %s is neither beside the program, nor in ../lib/rung from there, nor on the system's library path", path);
    if (!handle) return err_set(e, ERR_UNAVAILABLE, "no GPU library: %s", dlerror());
    const struct cuda_library *library = dlsym(handle, "rung_cuda");
    enum err_code code = ERR_OK;
    if (!library) code = err_set(e, ERR_VERSION, "%s is no GPU library of rung: it has no symbol rung_cuda", path);
    else if (library->abi != CUDA_ABI)
        code = err_set(e, ERR_VERSION, "%s is of another build: its interface is version %d, this program's %d", path, library->abi, CUDA_ABI);
    else code = check_driver(library, e);
    if (code) (void)dlclose(handle);
    else *out = library;
    return code;
}

/* ---- once ---- */

static struct {
    const struct cuda_library *library;
    struct err why;
} loaded;

static void load_once(void)
{
    char place[PLACE_MAX];
    if (load(find(place, sizeof place), &loaded.library, &loaded.why)) loaded.library = NULL;
}

const struct cuda_library *cuda_library(struct err *e)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, load_once);
    if (!loaded.library && e) *e = loaded.why;
    return loaded.library;
}
