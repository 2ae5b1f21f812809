/* A thread that parses large bodies, so that one client's megabytes are not every client's delay. Jobs go in under a
 * lock, come back under the same lock, and an eventfd wakes the loop. */
#include "node/http.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct job {
    struct job *next;
    struct http_call *call; /* NULL: nobody waits for it any more */
    enum openai_endpoint endpoint;
    struct buf body;
    struct msg_submit *submit; /* NULL: see e */
    struct err e;
};

struct jobs { /* first in, first out */
    struct job *first, **last;
};

struct http_parser {
    struct http_front *front;
    int wake;
    pthread_t thread;
    pthread_mutex_t lock; /* all below */
    pthread_cond_t more;
    bool stop;
    struct jobs waiting, done;
    struct job *working;
    int count; /* waiting, working and done */
};

static void jobs_init(struct jobs *jobs)
{
    jobs->first = NULL;
    jobs->last = &jobs->first;
}

static void jobs_put(struct jobs *jobs, struct job *job)
{
    job->next = NULL;
    *jobs->last = job;
    jobs->last = &job->next;
}

static struct job *jobs_get(struct jobs *jobs)
{
    struct job *job = jobs->first;
    if (!job) return NULL;
    jobs->first = job->next;
    if (!jobs->first) jobs->last = &jobs->first;
    return job;
}

static void submit_free(struct msg_submit *submit)
{
    if (!submit) return;
    msg_submit_release(submit);
    free(submit);
}

static void job_free(struct job *job)
{
    buf_release(&job->body);
    submit_free(job->submit);
    free(job);
}

static void job_work(struct job *job)
{
    job->submit = malloc(sizeof *job->submit);
    if (!job->submit) {
        err_set(&job->e, ERR_MEMORY, "out of memory while reading the body");
        return;
    }
    if (openai_parse_request(job->submit, job->endpoint, job->body.data, job->body.len, &job->e) == ERR_OK) return;
    free(job->submit); /* the parser released what it held */
    job->submit = NULL;
}

static void *run(void *ctx)
{
    struct http_parser *p = ctx;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->stop && !p->waiting.first) pthread_cond_wait(&p->more, &p->lock);
        if (p->stop) break;
        p->working = jobs_get(&p->waiting);
        pthread_mutex_unlock(&p->lock);
        job_work(p->working);
        uint64_t one = 1;
        pthread_mutex_lock(&p->lock);
        jobs_put(&p->done, p->working);
        p->working = NULL;
        ssize_t n = write(p->wake, &one, sizeof one);
        (void)n; /* full means the loop is awake already */
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static void on_done(void *ctx, int fd, int events)
{
    (void)events;
    struct http_parser *p = ctx;
    uint64_t count;
    ssize_t n = read(fd, &count, sizeof count);
    (void)n;
    for (;;) {
        pthread_mutex_lock(&p->lock);
        struct job *job = jobs_get(&p->done);
        if (job) p->count--;
        pthread_mutex_unlock(&p->lock);
        if (!job) return;
        struct msg_submit *submit = job->submit;
        if (job->call) {
            job->submit = NULL;
            http_call_parsed(job->call, submit, &job->e);
        }
        job_free(job);
    }
}

enum err_code http_parser_new(struct http_parser **out, struct http_front *front, struct err *e)
{
    struct http_parser *p = calloc(1, sizeof *p);
    if (!p) return err_set(e, ERR_MEMORY, "no memory for the HTTP parser");
    p->front = front;
    jobs_init(&p->waiting);
    jobs_init(&p->done);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->more, NULL);
    p->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    enum err_code code = p->wake < 0 ? err_set(e, ERR_IO, "an eventfd: %s", strerror(errno))
                                     : loop_fd_set(front->node->loop, p->wake, LOOP_READ, on_done, p, e);
    if (code == ERR_OK && pthread_create(&p->thread, NULL, run, p) != 0) {
        loop_fd_remove(front->node->loop, p->wake);
        code = err_set(e, ERR_IO, "the HTTP parser's thread cannot be started");
    }
    if (code == ERR_OK) {
        *out = p;
        return ERR_OK;
    }
    if (p->wake >= 0) (void)close(p->wake);
    free(p);
    return code;
}

void http_parser_free(struct http_parser *p)
{
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_signal(&p->more);
    pthread_mutex_unlock(&p->lock);
    (void)pthread_join(p->thread, NULL);
    loop_fd_remove(p->front->node->loop, p->wake);
    (void)close(p->wake);
    struct job *job;
    while ((job = jobs_get(&p->waiting))) job_free(job);
    while ((job = jobs_get(&p->done))) job_free(job);
    pthread_cond_destroy(&p->more);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

bool http_parser_give(struct http_parser *p, struct http_call *call, enum openai_endpoint endpoint, struct buf *body)
{
    struct job *job = calloc(1, sizeof *job);
    if (!job) return false;
    *job = (struct job){.call = call, .endpoint = endpoint, .body = *body};
    pthread_mutex_lock(&p->lock);
    bool fits = p->count < HTTP_PARSING_MAX;
    if (fits) {
        p->count++;
        jobs_put(&p->waiting, job);
        pthread_cond_signal(&p->more);
    }
    pthread_mutex_unlock(&p->lock);
    if (fits) {
        buf_init(body, body->max); /* the job has it now */
    } else {
        free(job);
    }
    return fits;
}

static void forget_in(struct jobs *jobs, const struct http_call *call)
{
    for (struct job *job = jobs->first; job; job = job->next)
        if (job->call == call) job->call = NULL;
}

void http_parser_forget(struct http_parser *p, const struct http_call *call)
{
    pthread_mutex_lock(&p->lock);
    forget_in(&p->waiting, call);
    forget_in(&p->done, call);
    if (p->working && p->working->call == call) p->working->call = NULL;
    pthread_mutex_unlock(&p->lock);
}
