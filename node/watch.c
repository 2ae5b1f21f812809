/* Looking at one's own log now and then: is the router stale, is the experiment decided? A thread of its own reads; what it
 * found comes to the loop, which alone acts on it. */
#include "node/watch.h"

#include "base/clock.h"
#include "base/textlog.h"
#include "router/tune_arms.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static const int64_t STALE_DAYS_MS = 7 * 86400000LL;

/* What the thread looks for: copied before each look, so that it shares nothing with the loop but this. */
struct errand {
    char router[17];
    int64_t trial_version; /* 0: no experiment runs */
    struct arms_rule rule;
    bool promote;          /* by rule */
    double calibration, unfamiliar;
};
struct watch {
    struct node *node;
    char *path;
    struct loop_timer timer;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stop, asked;      /* under the lock, as errand */
    struct errand errand;
    bool busy, found;      /* the loop's own */
    struct stale stale;
};
struct finding {
    bool has_stale;
    struct stale stale;
    int64_t trial_version;
    enum arms_verdict verdict;
    char why[ARMS_WHY];
};

/* ---- on the loop ---- */

static void act(struct watch *w, const struct finding *f)
{
    struct err e;
    struct node *node = w->node;
    if (f->verdict == ARMS_WAIT || f->trial_version != node->trial.version || node->trial.share <= 0) return;
    bool promote = f->verdict == ARMS_PROMOTE;
    textlog(TEXTLOG_INFO, promote ? "experiment_promoted" : "experiment_stopped", "version=%lld why=\"%s\"",
            (long long)f->trial_version, f->why);
    if (node_experiment_end(node, promote, &e) != ERR_OK) textlog(TEXTLOG_ERROR, "experiment_not_ended", "why=\"%s\"", e.msg);
}

static void on_found(void *ctx, void *arg)
{
    struct watch *w = ctx;
    struct finding *f = arg;
    w->busy = false;
    if (f->has_stale) {
        bool was = w->found && w->stale.stale;
        if (f->stale.stale != was)
            textlog(f->stale.stale ? TEXTLOG_WARN : TEXTLOG_INFO, f->stale.stale ? "router_stale" : "router_fresh",
                    "fingerprint=%s why=\"%s\"", f->stale.router, f->stale.why);
        w->stale = f->stale;
        w->found = true;
    }
    act(w, f);
    free(f);
}

static void on_tick(void *ctx)
{
    struct watch *w = ctx;
    struct node *node = w->node;
    const struct config *c = node->config;
    loop_timer_start(node->loop, &w->timer, c->watch_ms, on_tick, w);
    if (w->busy) return;
    w->busy = true;
    if (w->found && strcmp(w->stale.router, node->router_info.fingerprint) != 0) w->found = false; /* switched since */
    (void)pthread_mutex_lock(&w->lock);
    w->errand = (struct errand){.trial_version = node->trial.share > 0 ? node->trial.version : 0, .promote = c->arms_promote,
                                .rule = c->arms_rule, .calibration = c->stale_calibration, .unfamiliar = c->stale_unfamiliar};
    memcpy(w->errand.router, node->router ? node->router_info.fingerprint : "", node->router ? 17 : 1);
    w->asked = true;
    (void)pthread_cond_signal(&w->wake);
    (void)pthread_mutex_unlock(&w->lock);
}

const struct stale *watch_stale(const struct watch *w)
{
    return w && w->found ? &w->stale : NULL;
}

/* ---- on the thread ---- */

static void look(const struct watch *w, const struct errand *errand, struct finding *out)
{
    const struct stale_options options = {.path = w->path, .router = errand->router, .node = w->node->config->node,
                                          .since_wall_ms = clock_wall_ms() - STALE_DAYS_MS,
                                          .calibration = errand->calibration, .unfamiliar = errand->unfamiliar};
    out->has_stale = errand->router[0] && stale_read(&out->stale, &options, NULL) == ERR_OK;
    out->trial_version = errand->trial_version;
    struct arms arms;
    if (errand->promote && errand->trial_version && arms_read_trial(&arms, w->path, errand->trial_version, NULL) == ERR_OK)
        out->verdict = arms_judge(&arms, &errand->rule, out->why);
}

static void *run(void *arg)
{
    struct watch *w = arg;
    (void)pthread_mutex_lock(&w->lock);
    while (!w->stop) {
        if (!w->asked) {
            (void)pthread_cond_wait(&w->wake, &w->lock);
            continue;
        }
        struct errand errand = w->errand;
        w->asked = false;
        (void)pthread_mutex_unlock(&w->lock);
        struct finding *f = calloc(1, sizeof *f);
        if (f) look(w, &errand, f);
        if (f && !loop_post(w->node->loop, on_found, w, f)) free(f); /* it stays busy: the loop has other troubles */
        (void)pthread_mutex_lock(&w->lock);
    }
    (void)pthread_mutex_unlock(&w->lock);
    return NULL;
}

enum err_code watch_new(struct watch **out, struct node *node, struct err *e)
{
    struct watch *w = calloc(1, sizeof *w);
    if (!w || !(w->path = strdup(node->config->log_path))) {
        free(w);
        return err_set(e, ERR_MEMORY, "no memory to watch the log with");
    }
    w->node = node;
    (void)pthread_mutex_init(&w->lock, NULL);
    (void)pthread_cond_init(&w->wake, NULL);
    if (pthread_create(&w->thread, NULL, run, w) != 0) {
        free(w->path);
        free(w);
        return err_set(e, ERR_MEMORY, "the thread that watches the log does not start");
    }
    loop_timer_start(node->loop, &w->timer, node->config->watch_ms, on_tick, w);
    *out = w;
    return ERR_OK;
}

void watch_stop(struct watch *w)
{
    if (!w) return;
    loop_timer_stop(w->node->loop, &w->timer);
    (void)pthread_mutex_lock(&w->lock);
    w->stop = true;
    (void)pthread_cond_signal(&w->wake);
    (void)pthread_mutex_unlock(&w->lock);
    (void)pthread_join(w->thread, NULL);
}

void watch_free(struct watch *w)
{
    if (!w) return;
    (void)pthread_cond_destroy(&w->wake);
    (void)pthread_mutex_destroy(&w->lock);
    free(w->path);
    free(w);
}
