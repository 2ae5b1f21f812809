/* libcurl's multi interface on the loop: its sockets lie in an epoll descriptor of their own, which the loop watches;
 * its timer is one of the loop's. libcurl's callbacks gather bytes and mark fetches ready; run_ready() hands them on. */
#include "node/upstream.h"

#include <curl/curl.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { INBOX_MAX = 1 << 20, ANSWER_MAX = 64 << 20, EVENTS = 64 };

struct fetch {
    struct fetch_pool *pool;
    struct fetch *next, **prev;       /* of the pool */
    struct fetch *ready_next;
    CURL *easy;                       /* NULL once stopped */
    struct curl_slist *headers;
    struct fetch_owner owner;
    struct fetch_answer answer;
    struct buf inbox;                 /* came, and not yet handed on */
    size_t received, body_len;
    struct loop_timer grace;
    bool ready, paused, complete, unowned, stopped;
    char why[CURL_ERROR_SIZE];
};
struct fetch_pool {
    struct loop *loop;
    struct fetch_pool_options options; /* its strings are copies */
    char *unix_path, *ca_file;
    CURLM *multi;
    int epoll;
    struct loop_timer timer;
    struct fetch *fetches;
    struct fetch *ready_first, **ready_last;
    struct fetch *current;            /* whose callbacks run now */
    bool running, freed;              /* run_ready() is at work; free the pool when it ends */
};

/* ---- the ready list ---- */

static void mark_ready(struct fetch *fetch)
{
    if (fetch->ready) return;
    fetch->ready = true;
    fetch->ready_next = NULL;
    *fetch->pool->ready_last = fetch;
    fetch->pool->ready_last = &fetch->ready_next;
}

static struct fetch *pop_ready(struct fetch_pool *pool)
{
    struct fetch *fetch = pool->ready_first;
    if (!fetch) return NULL;
    pool->ready_first = fetch->ready_next;
    if (!pool->ready_first) pool->ready_last = &pool->ready_first;
    fetch->ready = false;
    return fetch;
}

static void unmark_ready(struct fetch *fetch)
{
    if (!fetch->ready) return;
    struct fetch_pool *pool = fetch->pool;
    struct fetch **p = &pool->ready_first;
    while (*p != fetch) p = &(*p)->ready_next;
    *p = fetch->ready_next;
    if (pool->ready_last == &fetch->ready_next) pool->ready_last = p;
    fetch->ready = false;
}

/* ---- libcurl's callbacks: gather only ---- */

static size_t on_write(char *data, size_t size, size_t count, void *ctx)
{
    struct fetch *fetch = ctx;
    size_t len = size * count;
    if (fetch->inbox.len + len > INBOX_MAX && fetch->inbox.len > 0) {
        fetch->paused = true;
        mark_ready(fetch);
        return CURL_WRITEFUNC_PAUSE;
    }
    fetch->received += len;
    if (fetch->unowned) return len;
    if (fetch->received > ANSWER_MAX || buf_add(&fetch->inbox, data, len) != ERR_OK) return 0; /* ends the transfer */
    mark_ready(fetch);
    return len;
}

static size_t on_header(char *data, size_t size, size_t count, void *ctx)
{
    struct fetch *fetch = ctx;
    int64_t ms = upstream_retry_after_ms(data, size * count);
    if (ms > 0) fetch->answer.retry_after_ms = ms;
    return size * count;
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *ctx, void *mark)
{
    (void)easy;
    struct fetch_pool *pool = ctx;
    if (what == CURL_POLL_REMOVE) {
        (void)epoll_ctl(pool->epoll, EPOLL_CTL_DEL, fd, NULL);
        return 0;
    }
    struct epoll_event event = {.data.fd = fd};
    if (what & CURL_POLL_IN) event.events |= EPOLLIN;
    if (what & CURL_POLL_OUT) event.events |= EPOLLOUT;
    int rc = epoll_ctl(pool->epoll, mark ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event);
    if (rc != 0 && errno == EEXIST) rc = epoll_ctl(pool->epoll, EPOLL_CTL_MOD, fd, &event);
    if (rc != 0 && errno == ENOENT) rc = epoll_ctl(pool->epoll, EPOLL_CTL_ADD, fd, &event);
    if (!mark) (void)curl_multi_assign(pool->multi, fd, pool); /* any mark: it is watched */
    return rc;
}

static void on_timer(void *ctx);

static int on_timeout_change(CURLM *multi, long timeout_ms, void *ctx)
{
    (void)multi;
    struct fetch_pool *pool = ctx;
    if (timeout_ms < 0) loop_timer_stop(pool->loop, &pool->timer);
    else loop_timer_start(pool->loop, &pool->timer, timeout_ms, on_timer, pool);
    return 0;
}

/* ---- from libcurl to the owners ---- */

static void fetch_free(struct fetch *fetch)
{
    buf_release(&fetch->inbox);
    free(fetch);
}

static void read_answer(struct fetch *fetch)
{
    long status = 0;
    curl_off_t connect_us = 0;
    (void)curl_easy_getinfo(fetch->easy, CURLINFO_RESPONSE_CODE, &status);
    (void)curl_easy_getinfo(fetch->easy, CURLINFO_PRETRANSFER_TIME_T, &connect_us);
    fetch->answer.status = (int)status;
    fetch->answer.connected = status > 0 || connect_us > 0;
}

static void take_result(struct fetch *fetch, CURLcode result)
{
    fetch->complete = true;
    fetch->answer.code = ERR_OK;
    if (result != CURLE_OK) {
        bool late = result == CURLE_OPERATION_TIMEDOUT;
        fetch->answer.code = late ? ERR_TIMEOUT : ERR_UPSTREAM;
        fetch->answer.why = fetch->why[0] ? fetch->why : curl_easy_strerror(result);
        if (fetch->received > ANSWER_MAX) fetch->answer.why = "its answer is longer than 64 MiB";
    }
    mark_ready(fetch);
}

static void read_results(struct fetch_pool *pool)
{
    int left;
    for (CURLMsg *message; (message = curl_multi_info_read(pool->multi, &left));) {
        struct fetch *fetch = NULL;
        if (message->msg != CURLMSG_DONE) continue;
        (void)curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &fetch);
        take_result(fetch, message->data.result);
    }
}

static void hand_on(struct fetch *fetch)
{
    if (fetch->unowned) {
        if (fetch->complete) fetch_stop(fetch);
        return;
    }
    read_answer(fetch);
    if (fetch->inbox.len > 0) {
        struct buf bytes = fetch->inbox;
        buf_init(&fetch->inbox, INBOX_MAX + CURL_MAX_WRITE_SIZE);
        fetch->owner.on_bytes(fetch->owner.ctx, &fetch->answer, bytes.data, bytes.len);
        buf_release(&bytes);
    }
    if (fetch->stopped || fetch->unowned) return;
    if (fetch->paused && !fetch->complete) {
        fetch->paused = false;
        (void)curl_easy_pause(fetch->easy, CURLPAUSE_CONT); /* may call on_write() at once */
    }
    if (fetch->complete && fetch->inbox.len == 0) fetch->owner.on_complete(fetch->owner.ctx, &fetch->answer);
}

static void pool_release(struct fetch_pool *pool)
{
    loop_timer_stop(pool->loop, &pool->timer);
    if (pool->multi) (void)curl_multi_cleanup(pool->multi);
    if (pool->epoll >= 0) {
        loop_fd_remove(pool->loop, pool->epoll);
        (void)close(pool->epoll);
    }
    free(pool->unix_path);
    free(pool->ca_file);
    free(pool);
    curl_global_cleanup();
}

static void run_ready(struct fetch_pool *pool)
{
    if (pool->running) return;
    pool->running = true;
    read_results(pool);
    for (struct fetch *fetch; !pool->freed && (fetch = pop_ready(pool));) {
        pool->current = fetch;
        hand_on(fetch);
        pool->current = NULL;
        if (fetch->stopped) fetch_free(fetch);
        if (!pool->freed) read_results(pool);
    }
    pool->running = false;
    if (pool->freed) pool_release(pool);
}

static void on_timer(void *ctx)
{
    struct fetch_pool *pool = ctx;
    int running;
    (void)curl_multi_socket_action(pool->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    run_ready(pool);
}

/* Level-triggered: what does not fit into one batch is there at the next turn. */
static void on_events(void *ctx, int fd, int what)
{
    (void)what;
    struct fetch_pool *pool = ctx;
    struct epoll_event events[EVENTS];
    int count = epoll_wait(fd, events, EVENTS, 0), running;
    for (int i = 0; i < count; i++) {
        int mask = 0;
        if (events[i].events & EPOLLIN) mask |= CURL_CSELECT_IN;
        if (events[i].events & EPOLLOUT) mask |= CURL_CSELECT_OUT;
        if (events[i].events & (EPOLLERR | EPOLLHUP)) mask |= CURL_CSELECT_ERR;
        (void)curl_multi_socket_action(pool->multi, events[i].data.fd, mask, &running);
    }
    run_ready(pool);
}

/* ---- pools ---- */

enum err_code fetch_pool_new(struct fetch_pool **out, struct loop *loop, const struct fetch_pool_options *options,
                             struct err *e)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) return err_set(e, ERR_INTERNAL, "libcurl cannot start");
    struct fetch_pool *pool = calloc(1, sizeof *pool);
    if (!pool) {
        curl_global_cleanup();
        return err_set(e, ERR_MEMORY, "no memory for a pool of connections");
    }
    pool->loop = loop;
    pool->options = *options;
    pool->ready_last = &pool->ready_first;
    pool->epoll = epoll_create1(EPOLL_CLOEXEC);
    pool->multi = curl_multi_init();
    pool->options.unix_path = pool->unix_path = options->unix_path ? strdup(options->unix_path) : NULL;
    pool->options.ca_file = pool->ca_file = options->ca_file ? strdup(options->ca_file) : NULL;
    bool copied = !options->unix_path == !pool->unix_path && !options->ca_file == !pool->ca_file;
    enum err_code code = ERR_OK;
    if (pool->epoll < 0 || !pool->multi || !copied) code = err_set(e, ERR_MEMORY, "no descriptor or memory for a pool of connections");
    if (code == ERR_OK) code = loop_fd_set(loop, pool->epoll, LOOP_READ, on_events, pool, e);
    if (code != ERR_OK) {
        pool_release(pool);
        return code;
    }
    long connections = options->connections_max > 0 ? options->connections_max : 256;
    (void)curl_multi_setopt(pool->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    (void)curl_multi_setopt(pool->multi, CURLMOPT_SOCKETDATA, pool);
    (void)curl_multi_setopt(pool->multi, CURLMOPT_TIMERFUNCTION, on_timeout_change);
    (void)curl_multi_setopt(pool->multi, CURLMOPT_TIMERDATA, pool);
    (void)curl_multi_setopt(pool->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, connections + 2); /* probes and endings beside */
    (void)curl_multi_setopt(pool->multi, CURLMOPT_MAXCONNECTS, connections + 2);
    *out = pool;
    return ERR_OK;
}

void fetch_pool_free(struct fetch_pool *pool)
{
    if (!pool) return;
    while (pool->fetches) fetch_stop(pool->fetches);
    if (pool->running) pool->freed = true;
    else pool_release(pool);
}

/* ---- fetches ---- */

static void set_options(struct fetch *fetch, const char *url, const struct buf *body)
{
    CURL *easy = fetch->easy;
    const struct fetch_pool_options *options = &fetch->pool->options;
    (void)curl_easy_setopt(easy, CURLOPT_URL, url);
    (void)curl_easy_setopt(easy, CURLOPT_PRIVATE, fetch);
    (void)curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, fetch->why);
    (void)curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    (void)curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    (void)curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
    (void)curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    (void)curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
    (void)curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
    (void)curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)options->connect_ms);
    (void)curl_easy_setopt(easy, CURLOPT_HTTPHEADER, fetch->headers);
    (void)curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_write);
    (void)curl_easy_setopt(easy, CURLOPT_WRITEDATA, fetch);
    (void)curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    (void)curl_easy_setopt(easy, CURLOPT_HEADERDATA, fetch);
    (void)curl_easy_setopt(easy, CURLOPT_USERAGENT, "rung/" RUNG_VERSION);
    if (options->ca_file) (void)curl_easy_setopt(easy, CURLOPT_CAINFO, options->ca_file);
    if (options->unix_path) (void)curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, options->unix_path);
    if (!body) return;
    fetch->body_len = body->len;
    (void)curl_easy_setopt(easy, CURLOPT_POST, 1L);
    (void)curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body->len);
    (void)curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body->data);
}

static bool add_headers(struct fetch *fetch, const char *const *headers, int count)
{
    for (int i = 0; i < count; i++) {
        struct curl_slist *grown = curl_slist_append(fetch->headers, headers[i]);
        if (!grown) return false;
        fetch->headers = grown;
    }
    return true;
}

enum err_code fetch_start(struct fetch **out, struct fetch_pool *pool, const char *url, const char *const *headers,
                          int header_count, const struct buf *body, const struct fetch_owner *owner, struct err *e)
{
    struct fetch *fetch = calloc(1, sizeof *fetch);
    if (!fetch) return err_set(e, ERR_MEMORY, "no memory for a transfer");
    fetch->pool = pool;
    fetch->owner = *owner;
    buf_init(&fetch->inbox, INBOX_MAX + CURL_MAX_WRITE_SIZE);
    fetch->easy = curl_easy_init();
    if (!fetch->easy || !add_headers(fetch, headers, header_count)) goto fail;
    set_options(fetch, url, body);
    if (curl_multi_add_handle(pool->multi, fetch->easy) != CURLM_OK) goto fail;
    fetch->next = pool->fetches;
    fetch->prev = &pool->fetches;
    if (pool->fetches) pool->fetches->prev = &fetch->next;
    pool->fetches = fetch;
    *out = fetch;
    return ERR_OK;
fail:
    curl_easy_cleanup(fetch->easy);
    curl_slist_free_all(fetch->headers);
    fetch_free(fetch);
    return err_set(e, ERR_MEMORY, "no memory for a transfer");
}

void fetch_stop(struct fetch *fetch)
{
    if (fetch->stopped) return;
    struct fetch_pool *pool = fetch->pool;
    fetch->stopped = true;
    loop_timer_stop(pool->loop, &fetch->grace);
    unmark_ready(fetch);
    *fetch->prev = fetch->next;
    if (fetch->next) fetch->next->prev = fetch->prev;
    (void)curl_multi_remove_handle(pool->multi, fetch->easy);
    curl_easy_cleanup(fetch->easy);
    curl_slist_free_all(fetch->headers);
    fetch->easy = NULL;
    fetch->headers = NULL;
    if (pool->current != fetch) fetch_free(fetch); /* else run_ready() does, once its callback has returned */
}

static void on_grace_over(void *ctx)
{
    fetch_stop(ctx);
}

void fetch_let_end(struct fetch *fetch, int grace_ms)
{
    curl_off_t sent = 0;
    (void)curl_easy_getinfo(fetch->easy, CURLINFO_SIZE_UPLOAD_T, &sent);
    /* A service that answered before it had read everything: libcurl still looks at the body. */
    if (fetch->complete || (size_t)sent < fetch->body_len) {
        fetch_stop(fetch);
        return;
    }
    fetch->unowned = true;
    buf_clear(&fetch->inbox);
    loop_timer_start(fetch->pool->loop, &fetch->grace, grace_ms, on_grace_over, fetch);
    if (fetch->paused) {
        fetch->paused = false;
        (void)curl_easy_pause(fetch->easy, CURLPAUSE_CONT);
    }
}
