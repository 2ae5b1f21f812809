/* For `rung check`: are the files and folders there that a configuration names, and may they be used by whoever asks? What
 * keeps a node from starting is a problem; what it starts without is a warning that says how it then runs. */
#include "node/config_keys.h"
#include "node/http.h"
#include "node/upstream.h"

#include "proto/link.h"
#include "router/router.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A plain file that can be read: NULL, or what is wrong. `magic`: how it begins, or "". */
static const char *file_trouble(const char *path, const char *magic)
{
    struct stat st;
    char head[8] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return strerror(errno);
    bool plain = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    ssize_t n = plain ? read(fd, head, strlen(magic)) : 0;
    (void)close(fd);
    if (!plain) return "not a plain file";
    return n == (ssize_t)strlen(magic) && memcmp(head, magic, strlen(magic)) == 0 ? NULL : "not a GGUF file";
}

/* ---- what a node starts without ---- */

static void check_router(struct config_loader *l)
{
    const char *file = l->config->router_file;
    struct router *router = NULL;
    struct err e = {0};
    if (!file) return;
    if (router_load(&router, file, &e) == ERR_OK) router_free(router);
    else config_warning(l, config_line(l, "router.file"), "router.file: %s; every tier would score 0.5", e.msg);
}

static void check_model(struct config_loader *l, int index, const struct config_backend *b, const char *name, const char *file)
{
    char key[48];
    const char *trouble = file ? file_trouble(file, "GGUF") : NULL;
    if (!trouble) return;
    (void)snprintf(key, sizeof key, "backends.%d.%s", index, name);
    config_warning(l, config_line(l, key), "%s: %s: %s; the node would run without %s and call itself degraded%s", key, file, trouble,
                   b->name, l->config->tier == TIER_EDGE ? ": its requests go up" : "");
}

/* ---- what it does not start without ---- */

static void check_upstream_files(struct config_loader *l, int index, const struct config_backend *b)
{
    char key[48], *authorization = NULL;
    struct err e = {0};
    (void)snprintf(key, sizeof key, "backends.%d.%s", index, b->key_file ? "key_file" : "key_env");
    enum err_code code = upstream_authorization(b, &authorization, &e);
    free(authorization);
    if (code != ERR_OK && b->key_env) /* set for the node, perhaps, and not for us */
        config_warning(l, config_line(l, key), "%s: %s is not set here; the node would not start without it", key, b->key_env);
    else if (code != ERR_OK)
        config_problem(l, config_line(l, key), code, "%s: %s", key, e.msg);
    const char *trouble = b->ca_file ? file_trouble(b->ca_file, "") : NULL;
    (void)snprintf(key, sizeof key, "backends.%d.ca_file", index);
    if (trouble) config_problem(l, config_line(l, key), ERR_IO, "%s: %s: %s", key, b->ca_file, trouble);
}

static void check_key_files(struct config_loader *l)
{
    const struct config *c = l->config;
    struct err e = {0};
    struct link_keys pair;
    struct link_peer_key *peers = NULL;
    struct http_keys keys = {0};
    int count = 0;
    if (c->zmq.keys_file && link_keys_read(&pair, c->zmq.keys_file, &e) != ERR_OK)
        config_problem(l, config_line(l, "zmq.keys_file"), e.code, "zmq.keys_file: %s", e.msg);
    if (c->zmq.peers_file && link_peers_read(&peers, &count, c->zmq.peers_file, &e) != ERR_OK)
        config_problem(l, config_line(l, "zmq.peers_file"), e.code, "zmq.peers_file: %s", e.msg);
    if (c->http.tcp_listen && c->http.tcp_auth && c->http.keys_file && http_keys_load(&keys, c->http.keys_file, &e) != ERR_OK)
        config_problem(l, config_line(l, "http.tcp.keys_file"), e.code, "http.tcp.keys_file: %s", e.msg);
    explicit_bzero(&pair, sizeof pair);
    free(peers);
    http_keys_release(&keys);
}

static void check_users(struct config_loader *l)
{
    uid_t uids[CONFIG_LIST_MAX];
    struct err e = {0};
    if (config_uids(&l->config->http.uids, "http.unix.uids", uids, &e) != ERR_OK)
        config_problem(l, config_line(l, "http.unix.uids"), e.code, "%s", e.msg);
    if (config_uids(&l->config->zmq.ipc_uids, "zmq.ipc.uids", uids, &e) != ERR_OK)
        config_problem(l, config_line(l, "zmq.ipc.uids"), e.code, "%s", e.msg);
}

/* ---- folders that files and sockets are made in ---- */

/* NULL, or what is wrong with making files in it. One that is missing is no trouble where the node makes it. */
static const char *folder_trouble(const char *folder, const char *state_dir)
{
    struct stat st;
    char copy[PATH_MAX];
    if (stat(folder, &st) == 0 && !S_ISDIR(st.st_mode)) return "not a folder";
    if (access(folder, W_OK | X_OK) == 0) return NULL;
    if (errno != ENOENT || strcmp(folder, state_dir) != 0) return strerror(errno);
    (void)snprintf(copy, sizeof copy, "%s", folder);
    const char *above = dirname(copy);
    return strcmp(above, folder) == 0 ? "no such folder" : folder_trouble(above, above);
}

static void check_folder(struct config_loader *l, const char *key, const char *path)
{
    char copy[PATH_MAX];
    if (!path) return;
    (void)snprintf(copy, sizeof copy, "%s", path);
    const char *folder = dirname(copy), *trouble = folder_trouble(folder, l->config->state_dir);
    if (trouble)
        config_problem(l, config_line(l, key), ERR_IO, "%s: %s cannot be made: %s: %s; want a folder that this user may write in", key,
                       path, folder, trouble);
}

void config_paths(struct config_loader *l)
{
    const struct config *c = l->config;
    for (int i = 0; i < CONFIG_KEYS_COUNT; i++) {
        const struct config_key *key = &CONFIG_KEYS[i];
        if (key->state) check_folder(l, key->name, *(char *const *)(const void *)((const char *)c + key->offset));
    }
    if (c->zmq.listen && strncmp(c->zmq.listen, "ipc://", 6) == 0) check_folder(l, "zmq.listen", c->zmq.listen + 6);
    check_router(l);
    check_key_files(l);
    check_users(l);
    for (int i = 0; i < c->backend_count; i++) {
        const struct config_backend *b = &c->backends[i];
        if (b->type == CONFIG_LOCAL) check_model(l, i, b, "model_file", b->model_file);
        if (b->type == CONFIG_LOCAL) check_model(l, i, b, "draft_model", b->draft_model);
        if (b->type == CONFIG_UPSTREAM) check_upstream_files(l, i, b);
    }
}
