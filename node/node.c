/* A node's life: read the configuration, open what it names, run the loop, drain, close. */
#include "node/gpu.h"
#include "node/node.h"
#include "node/watch.h"

#include "base/clock.h"
#include "base/textlog.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

struct life {
    struct node node;
    struct loop_timer drain_timer;
    int64_t drain_until_ms;
};

/* ---- opening ---- */

static enum err_code open_links(struct node *node, struct err *e)
{
    struct link_peer_key *allowed = NULL;
    int count = 0;
    enum err_code code = ERR_OK;
    if (node->config->zmq.peers_file) code = link_peers_read(&allowed, &count, node->config->zmq.peers_file, e);
    if (code != ERR_OK) return code;
    const struct link_context_options options = {allowed, count};
    code = link_context_new(&node->links, &options, e);
    free(allowed);
    return code;
}

/* 32 bytes as 64 hex digits, in a file that others cannot read. */
static enum err_code read_sketch_key(unsigned char out[32], const char *path, struct err *e)
{
    char text[65] = "", digits[3] = "";
    struct stat about;
    FILE *f = fopen(path, "r");
    if (!f) return err_set(e, ERR_IO, "log.sketch_key_file %.100s: %s", path, strerror(errno));
    bool open = fstat(fileno(f), &about) != 0 || (about.st_mode & 007) != 0;
    size_t n = fread(text, 1, 64, f);
    (void)fclose(f);
    if (open) return err_set(e, ERR_INVALID, "log.sketch_key_file %.100s: others may read it; chmod 600", path);
    if (n != 64 || strspn(text, "0123456789abcdefABCDEF") != 64)
        return err_set(e, ERR_INVALID, "log.sketch_key_file %.100s: wants 64 hex digits (32 random bytes)", path);
    for (int i = 0; i < 32; i++) {
        memcpy(digits, text + 2 * i, 2);
        out[i] = (unsigned char)strtoul(digits, NULL, 16);
    }
    return ERR_OK;
}

static enum err_code open_log(struct node *node, struct err *e)
{
    const struct config *c = node->config;
    unsigned char shared[32];
    enum err_code code = c->log_sketch_key_file ? read_sketch_key(shared, c->log_sketch_key_file, e) : ERR_OK;
    if (code != ERR_OK) return code;
    if (c->log_sketch_key_file) memcpy(node->sketch_key, shared, sizeof shared);
    if (!c->log_path) {
        if (getrandom(node->key, sizeof node->key, 0) != (ssize_t)sizeof node->key) return err_set(e, ERR_IO, "no random key");
        return ERR_OK;
    }
    const struct log_options options = {.path = c->log_path, .node = c->node, .tier = c->tier,
                                        .keep_ms = c->log_keep_days * 86400000, .keep_bytes = c->log_keep_bytes,
                                        .store_prompts = c->log_prompts,
                                        .sketch_key = c->log_sketch_key_file ? shared : NULL};
    code = log_open(&node->log, &options, e);
    if (code != ERR_OK) return code;
    log_key(node->log, node->key);
    log_sketch_key(node->log, node->sketch_key);
    return code;
}

static enum err_code open_backend(struct node *node, const struct config_backend *c, struct err *e)
{
    static enum err_code (*const MAKERS[])(struct backend **, struct node *, const struct config_backend *, struct err *) = {
        [CONFIG_LOCAL] = backend_local_new,
        [CONFIG_PEER] = backend_peer_new,
        [CONFIG_UPSTREAM] = backend_upstream_new,
        [CONFIG_SCRIPTED] = backend_scripted_new,
    };
    struct backend *backend = NULL;
    enum err_code code = MAKERS[c->type](&backend, node, c, e);
    if (code == ERR_OK) node_backend_add(node, backend);
    return code;
}

static enum err_code open_fronts(struct node *node, bool worker, struct err *e)
{
    const struct config *c = node->config;
    enum err_code code = ERR_OK;
    if (worker) return worker_link_new(&node->worker, node, e);
    if (c->zmq.listen || c->zmq.ipc_path) code = broker_new(&node->broker, node, e);
    if (code == ERR_OK && (c->http.unix_path || c->http.tcp_listen)) code = http_front_new(&node->http, node, e);
    return code;
}

/* With the folders above it, as `mkdir -p` does. */
static enum err_code make_state_dir(const struct config *c, struct err *e)
{
    char path[4096];
    (void)snprintf(path, sizeof path, "%s", c->state_dir ? c->state_dir : ".");
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        (void)mkdir(path, 0755); /* there already, or the last one tells why */
        *slash = '/';
    }
    if (mkdir(path, 0755) == 0 || errno == EEXIST) return ERR_OK;
    return err_set(e, ERR_IO, "node.state_dir %s cannot be made: %s", path, strerror(errno));
}

static enum err_code node_open(struct node *node, bool worker, struct err *e)
{
    enum err_code code = loop_new(&node->loop, e);
    if (code == ERR_OK) code = make_state_dir(node->config, e);
    if (code == ERR_OK) code = open_links(node, e);
    if (code == ERR_OK) code = open_log(node, e);
    if (code == ERR_OK) code = node_policy_open(node, e);
    if (code != ERR_OK) return code;
    node->metrics = metrics_new();
    if (!node->metrics) return err_set(e, ERR_MEMORY, "no memory for the metrics");
    node_router_open(node);
    code = gpu_monitor_new(&node->gpus, NULL, e);
    if (code == ERR_OK) code = request_table_new(node, e);
    if (code == ERR_OK && node->config->tier == TIER_EDGE && node->log) code = shadows_new(node, e);
    for (int i = 0; i < node->config->backend_count && code == ERR_OK; i++) code = open_backend(node, &node->config->backends[i], e);
    if (code == ERR_OK) code = open_fronts(node, worker, e);
    if (code == ERR_OK && node->log && node->config->log_ship) code = shipper_new(&node->shipper, node, e);
    if (code == ERR_OK && node->log) code = watch_new(&node->watch, node, e);
    return code;
}

/* ---- closing: what takes work first, what others stand on last ---- */

static void node_close(struct node *node)
{
    http_front_free(node->http);
    node->http = NULL;
    watch_stop(node->watch);
    shadows_close(node);
    request_table_free(node);
    shadows_free(node);
    broker_free(node->broker);
    worker_link_free(node->worker);
    while (node->backends) node_backend_remove(node, node->backends);
    if (node->loop) loop_run_posts(node->loop);
    if (node->log) log_close(node->log, 5000);
    if (node->loop) loop_run_posts(node->loop); /* what the writer posted last */
    shipper_free(node->shipper);
    watch_free(node->watch);
    router_free(node->router);
    gpu_monitor_free(node->gpus);
    metrics_free(node->metrics);
    if (node->links) link_context_free(node->links);
    loop_free(node->loop);
}

/* ---- running ---- */

static void on_drain(void *ctx)
{
    struct life *life = ctx;
    struct node *node = &life->node;
    bool late = clock_mono_ms() >= life->drain_until_ms;
    if (request_count(node) > 0 && !late) {
        loop_timer_start(node->loop, &life->drain_timer, 20, on_drain, life);
        return;
    }
    if (request_count(node) > 0) textlog(TEXTLOG_WARN, "drain_late", "requests=%d", request_count(node));
    loop_stop(node->loop);
}

static void on_signal(void *ctx, int number)
{
    struct life *life = ctx;
    struct node *node = &life->node;
    struct err e;
    switch (number) {
    case SIGHUP:
        if (node_reload(node, &e) != ERR_OK) textlog(TEXTLOG_ERROR, "reload_refused", "why=\"%s\"", e.msg);
        break;
    case SIGTERM:
    case SIGINT:
        if (node->draining) {
            loop_stop(node->loop);
            break;
        }
        node->draining = true;
        textlog(TEXTLOG_INFO, "draining", "requests=%d limit_ms=%d", request_count(node), node->config->drain_ms);
        if (node->broker) broker_drain(node->broker);
        life->drain_until_ms = clock_mono_ms() + node->config->drain_ms;
        loop_timer_start(node->loop, &life->drain_timer, 0, on_drain, life);
        break;
    default:
        break;
    }
}

bool node_health_json(const struct node *node, bool ready, struct buf *out)
{
    struct tier_state state[TIERS];
    node_tier_states(node, state);
    bool any = false, all = true, starting = false, warming = false;
    for (const struct backend *b = node->backends; b; b = b->next) {
        bool local = strcmp(b->ops->type, "local") == 0;
        any |= backend_ready(node, b);
        all &= backend_ready(node, b);
        starting |= b->health == BACKEND_STARTING;
        warming |= b->health == BACKEND_WARMING || (node->config->warm && local && b->health == BACKEND_STARTING);
    }
    bool ok = !node->draining && (!ready || (any && !warming));
    const char *status = node->draining ? "draining" : warming ? "warming" : !any ? (starting ? "starting" : "unavailable") : all ? "ok" : "degraded";
    buf_addf(out, "{\"status\":\"%s\",\"node\":\"%s\",\"tier\":\"%s\",\"version\":\"%s\",\"uptime_s\":%lld,\"requests\":%d,\"tiers\":{",
             status, node->config->node, tier_name(node->config->tier), RUNG_VERSION,
             (long long)((clock_wall_ms() - node->started_wall_ms) / 1000), request_count(node));
    for (int t = 0, first = 1; t < TIERS; t++) {
        if (!state[t].configured) continue;
        buf_addf(out, "%s\"%s\":%s", first ? "" : ",", tier_name((enum tier)t), state[t].available ? "true" : "false");
        first = 0;
    }
    const struct stale *stale = watch_stale(node->watch);
    char reason[STALE_WHY + 64];
    if (stale)
        buf_addf(out, "},\"router\":{\"stale\":%s,\"why\":%s", stale->stale ? "true" : "false",
                 textlog_quote(stale->why, reason, sizeof reason));
    buf_adds(out, "},\"backends\":[");
    static const char *const HEALTH[] = {"starting", "up", "down", "draining", "warming"};
    for (const struct backend *b = node->backends; b; b = b->next) {
        char why[200], device[200], note[300];
        const char *where = b->model_count > 0 && b->models[0].device ? b->models[0].device : "";
        buf_addf(out, "%s{\"name\":\"%s\",\"type\":\"%s\",\"health\":\"%s\",\"ready\":%s,\"running\":%d,\"trouble\":%s,\"device\":%s,\"note\":%s}",
                 b == node->backends ? "" : ",", b->name, b->ops->type, HEALTH[b->health], backend_ready(node, b) ? "true" : "false",
                 b->running, b->health == BACKEND_UP ? "\"\"" : textlog_quote(b->trouble, why, sizeof why),
                 textlog_quote(where, device, sizeof device), textlog_quote(b->device_note ? b->device_note : "", note, sizeof note));
    }
    buf_adds(out, "]}");
    return ok;
}

/* ---- main ---- */

static bool write_pid(const char *path, struct err *e)
{
    if (!path) return true;
    FILE *f = fopen(path, "w");
    if (!f) {
        err_set(e, ERR_IO, "pid file %s: %s", path, strerror(errno));
        return false;
    }
    (void)fprintf(f, "%ld\n", (long)getpid());
    return fclose(f) == 0;
}

static enum textlog_level level_of(const char *name)
{
    static const char *const NAMES[] = {"debug", "info", "warn", "error"};
    for (int i = 0; name && i < 4; i++)
        if (strcmp(NAMES[i], name) == 0) return (enum textlog_level)i;
    return TEXTLOG_INFO;
}

int node_main(enum tier tier, const struct node_options *options)
{
    struct life life = {0};
    struct node *node = &life.node;
    struct err e = {0};
    int rc = 1;
    node->options = options;
    node->started_wall_ms = clock_wall_ms();
    enum err_code code = config_load(&node->config, tier, options->config_file, options->overrides, options->override_count, &e);
    if (code != ERR_OK) {
        (void)fprintf(stderr, "rung: %s\n", e.msg);
        return 2;
    }
    textlog_setup(level_of(node->config->log_level), node->config->node);
    code = node_open(node, options->worker, &e);
    if (code == ERR_OK && write_pid(node->config->pid_file, &e)) {
        textlog(TEXTLOG_INFO, "up", "tier=%s version=%s backends=%d policy=%lld", tier_name(node->config->tier), RUNG_VERSION,
                node->config->backend_count, (long long)node->policy.version);
        loop_run(node->loop, on_signal, &life);
        rc = 0;
    } else {
        (void)fprintf(stderr, "rung: %s\n", e.msg);
    }
    if (rc == 0 && node->config->pid_file) (void)unlink(node->config->pid_file);
    loop_timer_stop(node->loop, &life.drain_timer);
    node_close(node);
    if (rc == 0) textlog(TEXTLOG_INFO, "down", "uptime_s=%lld", (long long)((clock_wall_ms() - node->started_wall_ms) / 1000));
    config_free(node->config);
    return rc;
}
