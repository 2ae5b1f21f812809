#include "node/gpu.h"

#include "base/clock.h"

#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PERIOD_MS = 1000 };

struct watched {
    char uuid[48];
    struct gpu_reading reading;
};

struct gpu_monitor {
    struct gpu_places places;
    pthread_t thread;
    bool running;
    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t changed;
    struct watched watched[GPUS_WATCHED_MAX];
    int count, rounds;
    bool stop;
};

static struct gpu_reading unknown(const char *name, int index)
{
    struct gpu_reading r = {.index = index, .utilization = NAN, .memory_used = NAN, .memory_free = NAN, .power_w = NAN, .temperature_c = NAN};
    (void)snprintf(r.name, sizeof r.name, "%s", name);
    for (char *p = r.name; *p; p++)
        if (*p == '"' || *p == '\\' || (unsigned char)*p < ' ') *p = '?'; /* it stands in labels */
    return r;
}

enum err_code gpu_monitor_new(struct gpu_monitor **out, const struct gpu_places *places, struct err *e)
{
    struct gpu_monitor *m = calloc(1, sizeof *m);
    pthread_condattr_t attributes;
    if (!m) return err_set(e, ERR_MEMORY, "no memory to watch GPUs");
    m->places = (struct gpu_places){places && places->nvml ? places->nvml : "libnvidia-ml.so.1", places && places->root ? places->root : ""};
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&m->lock, NULL);
    (void)pthread_cond_init(&m->changed, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    *out = m;
    return ERR_OK;
}

/* ---- the thread ---- */

static void read_all(struct gpu_monitor *m, const struct gpu_nvml *nvml)
{
    (void)pthread_mutex_lock(&m->lock);
    for (int i = 0; i < m->count; i++) { /* the list only grows */
        struct watched w = m->watched[i];
        (void)pthread_mutex_unlock(&m->lock);
        w.reading = unknown(w.reading.name, w.reading.index);
        if (nvml) gpu_nvml_read(nvml, w.uuid, &w.reading);
        gpu_sysfs_read(m->places.root, &w.reading);
        (void)pthread_mutex_lock(&m->lock);
        m->watched[i].reading = w.reading;
    }
    m->rounds++;
    (void)pthread_mutex_unlock(&m->lock);
}

static void *thread_main(void *arg)
{
    struct gpu_monitor *m = arg;
    struct gpu_nvml *nvml = gpu_nvml_open(m->places.nvml);
    for (bool stop = false; !stop;) {
        read_all(m, nvml);
        int64_t due_us = clock_mono_us() + PERIOD_MS * 1000;
        const struct timespec due = {due_us / 1000000, due_us % 1000000 * 1000};
        (void)pthread_mutex_lock(&m->lock);
        while (!m->stop && clock_mono_us() < due_us) (void)pthread_cond_timedwait(&m->changed, &m->lock, &due);
        stop = m->stop;
        (void)pthread_mutex_unlock(&m->lock);
    }
    gpu_nvml_close(nvml);
    return NULL;
}

void gpu_monitor_free(struct gpu_monitor *m)
{
    if (!m) return;
    (void)pthread_mutex_lock(&m->lock);
    m->stop = true;
    (void)pthread_cond_broadcast(&m->changed);
    (void)pthread_mutex_unlock(&m->lock);
    if (m->running) (void)pthread_join(m->thread, NULL);
    (void)pthread_mutex_destroy(&m->lock);
    (void)pthread_cond_destroy(&m->changed);
    free(m);
}

/* ---- whoever asks ---- */

void gpu_monitor_watch(struct gpu_monitor *m, const char *name, const char *uuid, int index)
{
    if (!m) return;
    (void)pthread_mutex_lock(&m->lock);
    bool known = false;
    for (int i = 0; i < m->count; i++) known |= m->watched[i].reading.index == index;
    if (!known && m->count < GPUS_WATCHED_MAX) {
        struct watched *w = &m->watched[m->count++];
        w->reading = unknown(name, index);
        (void)snprintf(w->uuid, sizeof w->uuid, "%s", uuid);
    }
    (void)pthread_mutex_unlock(&m->lock);
    if (!m->running) m->running = pthread_create(&m->thread, NULL, thread_main, m) == 0;
}

int gpu_monitor_read(struct gpu_monitor *m, struct gpu_reading *out, int max)
{
    (void)pthread_mutex_lock(&m->lock);
    int count = m->count < max ? m->count : max;
    for (int i = 0; i < count; i++) out[i] = m->watched[i].reading;
    (void)pthread_mutex_unlock(&m->lock);
    return count;
}

int gpu_monitor_rounds(struct gpu_monitor *m)
{
    (void)pthread_mutex_lock(&m->lock);
    int rounds = m->rounds;
    (void)pthread_mutex_unlock(&m->lock);
    return rounds;
}
