/* Weights from a file to the device.
 *
 * Each thread has two pinned buffers and a stream: while one buffer is on its way to the device, the next piece is read
 * into the other. Threads take pieces in order, so that a file that is not in memory yet is read from its front, several
 * pieces at once; one that is in memory goes as fast as the link takes it.
 *
 * The file is read, not copied out of its map: that would take a page fault for each few pages of it, and as long again
 * when the map is taken down. The map is not registered with the driver (cudaHostRegister) to be read by the device directly: registering pins every
 * page of the file, in one thread inside the driver and at a price of the order of the copy it would save; it wants all of
 * the model within the limit on locked memory; and a private map of a file opened for reading can only be registered as
 * read-only memory, which not every system offers. */
#include "engine/cuda/cuda.cuh"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PIECE = 4 << 20, THREADS_MAX = 16, BUFFERS = 2 };

struct piece {
    const char *from; /* NULL: from the file */
    char *to;
    size_t bytes;
    int file;
    int64_t offset;
};

struct job {
    const struct upload *list;
    int count, device;
    size_t buffer_bytes;
    pthread_mutex_t lock; /* guards what follows */
    int item;             /* what comes next */
    int64_t at;
    struct err error;     /* the first; its code ERR_OK: none */
};

static bool next_piece(struct job *j, struct piece *out)
{
    bool any = false;
    (void)pthread_mutex_lock(&j->lock);
    while (j->item < j->count && j->at >= j->list[j->item].bytes) {
        j->item++;
        j->at = 0;
    }
    if (j->item < j->count && !j->error.code) {
        const struct upload *u = &j->list[j->item];
        int64_t left = u->bytes - j->at;
        *out = {u->from ? (const char *)u->from + j->at : NULL, (char *)u->to + j->at, left < PIECE ? (size_t)left : (size_t)PIECE, u->file, u->offset + j->at};
        j->at += (int64_t)out->bytes;
        any = true;
    }
    (void)pthread_mutex_unlock(&j->lock);
    return any;
}

static void fail(struct job *j, const struct err *e)
{
    (void)pthread_mutex_lock(&j->lock);
    if (!j->error.code) j->error = *e;
    (void)pthread_mutex_unlock(&j->lock);
}

/* ---- one thread ---- */

struct lane {
    cudaStream_t stream;
    struct {
        char *memory;
        cudaEvent_t sent; /* the device has what was in it */
    } buffer[BUFFERS];
};

static enum err_code lane_open(struct lane *l, const struct job *j, struct err *e)
{
    memset(l, 0, sizeof *l);
    enum err_code code = cuda_check(cudaSetDevice(j->device), "the GPU", e);
    if (!code) code = cuda_check(cudaStreamCreateWithFlags(&l->stream, cudaStreamNonBlocking), "a stream", e);
    for (int i = 0; i < BUFFERS && !code; i++) {
        code = cuda_check(cudaMallocHost((void **)&l->buffer[i].memory, j->buffer_bytes), "pinned memory to load through", e);
        if (!code) code = cuda_check(cudaEventCreateWithFlags(&l->buffer[i].sent, cudaEventDisableTiming), "an event", e);
    }
    return code;
}

static void lane_close(struct lane *l)
{
    if (l->stream) (void)cudaStreamSynchronize(l->stream); /* nothing may still be read from the buffers */
    for (int i = 0; i < BUFFERS; i++) {
        if (l->buffer[i].sent) (void)cudaEventDestroy(l->buffer[i].sent);
        if (l->buffer[i].memory) (void)cudaFreeHost(l->buffer[i].memory);
    }
    if (l->stream) (void)cudaStreamDestroy(l->stream);
}

static enum err_code read_piece(const struct piece *p, char *to, struct err *e)
{
    for (size_t done = 0; done < p->bytes;) {
        ssize_t n = pread(p->file, to + done, p->bytes - done, (off_t)(p->offset + (int64_t)done));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0)
            return err_set(e, ERR_IO, "the model's file cannot be read at byte %lld: %s", (long long)(p->offset + (int64_t)done),
                           n < 0 ? strerror(errno) : "it ends there");
        done += (size_t)n;
    }
    return ERR_OK;
}

static enum err_code copy_pieces(struct job *j, struct lane *l, struct err *e)
{
    struct piece p;
    for (int i = 0; next_piece(j, &p); i = (i + 1) % BUFFERS) {
        if (!p.from) (void)posix_fadvise(p.file, (off_t)p.offset, (off_t)p.bytes, POSIX_FADV_WILLNEED); /* while this thread waits for its buffer */
        /* An event never recorded counts as complete. */
        enum err_code code = cuda_check(cudaEventSynchronize(l->buffer[i].sent), "a copy to the GPU", e);
        if (!code && p.from) memcpy(l->buffer[i].memory, p.from, p.bytes);
        else if (!code) code = read_piece(&p, l->buffer[i].memory, e);
        if (code) return code;
        code = cuda_check(cudaMemcpyAsync(p.to, l->buffer[i].memory, p.bytes, cudaMemcpyHostToDevice, l->stream), "a copy to the GPU", e);
        if (!code) code = cuda_check(cudaEventRecord(l->buffer[i].sent, l->stream), "a copy to the GPU", e);
        if (code) return code;
    }
    return cuda_check(cudaStreamSynchronize(l->stream), "a copy to the GPU", e);
}

static void *work(void *arg)
{
    struct job *j = (struct job *)arg;
    struct lane lane;
    struct err e = {};
    enum err_code code = lane_open(&lane, j, &e);
    if (!code) code = copy_pieces(j, &lane, &e);
    if (code) fail(j, &e);
    lane_close(&lane);
    return NULL;
}

/* ---- all of them ---- */

/* No more threads than pieces; at most 16, which fill any link. */
static int threads_for(const struct job *j, int asked)
{
    int64_t pieces = 0, most = asked > 0 ? asked : sysconf(_SC_NPROCESSORS_ONLN);
    for (int i = 0; i < j->count; i++) pieces += (j->list[i].bytes + PIECE - 1) / PIECE;
    if (most > THREADS_MAX) most = THREADS_MAX;
    if (most > pieces) most = pieces;
    return most < 1 ? 1 : (int)most;
}

static size_t largest_piece(const struct upload *list, int count)
{
    int64_t most = 1;
    for (int i = 0; i < count; i++)
        if (list[i].bytes > most) most = list[i].bytes;
    return most < PIECE ? (size_t)most : (size_t)PIECE;
}

enum err_code upload_run(const struct upload *list, int count, int threads, struct err *e)
{
    struct job j = {};
    pthread_t thread[THREADS_MAX];
    int started = 0;
    j.list = list;
    j.count = count;
    j.buffer_bytes = largest_piece(list, count);
    enum err_code code = cuda_check(cudaGetDevice(&j.device), "the GPU", e);
    /* The threads' streams wait for nobody: what was begun on this memory must have ended. */
    if (!code) code = cuda_check(cudaDeviceSynchronize(), "what ran on the GPU before", e);
    if (code) return code;
    threads = threads_for(&j, threads);
    (void)pthread_mutex_init(&j.lock, NULL);
    while (started < threads - 1 && pthread_create(&thread[started], NULL, work, &j) == 0) started++;
    (void)work(&j); /* this thread is one of them, and where no other starts the only one */
    for (int i = 0; i < started; i++) (void)pthread_join(thread[i], NULL);
    (void)pthread_mutex_destroy(&j.lock);
    if (j.error.code && e) *e = j.error;
    return j.error.code;
}
