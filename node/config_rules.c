/* What keys must say together: names, addresses, and which key needs which other. Runs after every source was read. */
#include "node/config_keys.h"

#include <stdlib.h>
#include <string.h>

enum { SOCKET_PATH_MAX = 107, LOCAL_SLOTS_MAX = 1024 /* of an engine */ };

static bool starts(const char *text, const char *with)
{
    return text && strncmp(text, with, strlen(with)) == 0;
}

static bool is_name(const char *text)
{
    static const char LETTERS[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    return *text && strspn(text, LETTERS) == strlen(text);
}

/* HOST:PORT, also [IPV6]:PORT; the port 0…65535. */
static bool is_host_port(const char *text)
{
    const char *colon = strrchr(text, ':');
    if (!colon || colon == text || !colon[1] || strlen(colon + 1) > 5) return false;
    if (strspn(colon + 1, "0123456789") != strlen(colon + 1) || strtol(colon + 1, NULL, 10) > 65535)
        return false;
    size_t host = (size_t)(colon - text);
    if (text[0] == '[') return text[host - 1] == ']' && host > 2;
    return memchr(text, ':', host) == NULL && strcspn(text, " /\t") >= host;
}

static bool is_loopback(const char *host_port)
{
    return starts(host_port, "127.") || starts(host_port, "[::1]:") || starts(host_port, "localhost:");
}

/* A ZeroMQ address: tcp://HOST:PORT or ipc://PATH. */
static void check_address(struct config_loader *l, int line, const char *key, const char *address)
{
    if (starts(address, "ipc://") && address[6] && strlen(address + 6) <= SOCKET_PATH_MAX) return;
    if (starts(address, "tcp://") && is_host_port(address + 6)) return;
    config_problem(l, line, ERR_INVALID,
                   "%s: got \"%.100s\", want tcp://HOST:PORT, or ipc://PATH with a path of at most %d bytes", key, address,
                   SOCKET_PATH_MAX);
}

/* Does a link to or at this address need CURVE? */
static bool wants_curve(const struct config *c, const char *address)
{
    return starts(address, "tcp://") && !(c->zmq.plain_loopback && is_loopback(address + 6));
}

/* A link that we open: the other side's key and our own pair. */
static void check_link(struct config_loader *l, int line, const char *key, const char *address, const char *server_key)
{
    const struct config *c = l->config;
    check_address(l, line, key, address);
    if (!wants_curve(c, address)) return;
    if (!server_key)
        config_problem(l, line, ERR_INVALID,
                       "%s: \"%.80s\" is encrypted and needs the other side's server_key (`rung keys` shows it there)%s", key,
                       address, is_loopback(address + 6) ? ", or zmq.plain_loopback: true" : "");
    if (!c->zmq.keys_file)
        config_problem(l, line, ERR_INVALID, "%s: \"%.80s\" is encrypted and needs zmq.keys_file (`rung keys` makes it)", key,
                       address);
}

static void check_http(struct config_loader *l)
{
    const struct config_http *http = &l->config->http;
    int line = config_line(l, "http.tcp.listen");
    if (!http->tcp_listen) return;
    if (!is_host_port(http->tcp_listen))
        config_problem(l, line, ERR_INVALID, "http.tcp.listen: got \"%.100s\", want HOST:PORT, such as 127.0.0.1:8600",
                       http->tcp_listen);
    if (http->tcp_auth && !http->keys_file)
        config_problem(l, line, ERR_INVALID,
                       "http.tcp.keys_file: missing, want a file of keys for http.tcp.listen (or http.tcp.auth: none)");
}

static void check_zmq(struct config_loader *l)
{
    const struct config *c = l->config;
    int line = config_line(l, "zmq.listen");
    if (c->zmq.listen) {
        check_address(l, line, "zmq.listen", c->zmq.listen);
        if (wants_curve(c, c->zmq.listen) && (!c->zmq.keys_file || !c->zmq.peers_file))
            config_problem(l, line, ERR_INVALID,
                           "zmq.listen: \"%.80s\" is encrypted and needs zmq.%s_file%s", c->zmq.listen,
                           c->zmq.keys_file ? "peers" : "keys",
                           is_loopback(c->zmq.listen + 6) ? ", or zmq.plain_loopback: true" : "");
    }
    if (c->broker_connect)
        check_link(l, config_line(l, "worker.connect"), "worker.connect", c->broker_connect, c->broker_key);
}

/* http://HOST…, https://HOST…, unix:/PATH:/PREFIX; no user or password in it, no query. */
static bool is_service_url(const char *url)
{
    if (starts(url, "unix:/")) {
        const char *colon = strchr(url + 5, ':');
        return colon && colon[1] == '/' && (size_t)(colon - (url + 5)) <= SOCKET_PATH_MAX;
    }
    const char *host = starts(url, "http://") ? url + 7 : starts(url, "https://") ? url + 8 : NULL;
    return host && *host && *host != '/' && *host != ':' && !strpbrk(host, "@?# \t\r\n\"\\");
}

static void need(struct config_loader *l, int index, const char *key, const char *value, const char *what)
{
    if (!value)
        config_problem(l, l->backend_line[index], ERR_INVALID, "backends.%d.%s: missing, want %s", index, key, what);
}

static void check_upstream(struct config_loader *l, int index)
{
    const struct config_backend *b = &l->config->backends[index];
    int line = l->backend_line[index];
    need(l, index, "url", b->url, "the service's address, such as http://127.0.0.1:8000/v1");
    need(l, index, "model", b->model, "the service's name for the model");
    if (b->url && strchr(b->url, '@'))
        config_problem(l, line, ERR_INVALID, "backends.%d.url: holds a user or password; want them in key_file", index);
    else if (b->url && !is_service_url(b->url))
        config_problem(l, line, ERR_INVALID,
                       "backends.%d.url: got \"%.100s\", want http://HOST:PORT/v1, https://HOST/v1 or unix:/PATH:/v1", index,
                       b->url);
    if (b->key_file && b->key_env)
        config_problem(l, line, ERR_INVALID, "backends.%d: got key_file and key_env, want one of them", index);
}

static void check_name(struct config_loader *l, int index)
{
    const struct config_backend *b = &l->config->backends[index];
    int line = l->backend_line[index];
    need(l, index, "name", b->name, "a name of its own");
    if (!b->name) return;
    if (!is_name(b->name))
        config_problem(l, line, ERR_INVALID, "backends.%d.name: got \"%.64s\", want a-z, A-Z, 0-9, '.', '_' and '-'", index,
                       b->name);
    for (int i = 0; i < index; i++)
        if (l->config->backends[i].name && strcmp(l->config->backends[i].name, b->name) == 0)
            config_problem(l, line, ERR_INVALID, "backends.%d.name: \"%.64s\" is backends.%d's already, want another", index,
                           b->name, i);
}

/* What hangs on the place and the node: the order, the tier, the price of reasoning. */
static void finish_backend(const struct config *config, struct config_backend *b, int index)
{
    if (b->order < 0) b->order = index;
    if (b->tier == TIER_NONE) {
        b->tier = config->tier;
        if (b->type == CONFIG_PEER && b->tier < TIER_CORE) b->tier = (enum tier)(b->tier + 1);
    }
    if (b->price.reasoning_usd < 0) b->price.reasoning_usd = b->price.output_usd;
}

static void check_backend(struct config_loader *l, int index)
{
    struct config_backend *b = &l->config->backends[index];
    int line = l->backend_line[index];
    check_name(l, index);
    if (l->backend_typeless[index]) return;
    if (b->type == CONFIG_LOCAL) {
        need(l, index, "model_file", b->model_file, "a GGUF file");
        if (b->slots > LOCAL_SLOTS_MAX)
            config_problem(l, line, ERR_INVALID, "backends.%d.slots: got %d, want at most %d for type local", index, b->slots, LOCAL_SLOTS_MAX);
    }
    if (b->type == CONFIG_UPSTREAM) check_upstream(l, index);
    if (b->type == CONFIG_PEER) {
        char key[48];
        (void)snprintf(key, sizeof key, "backends.%d.connect", index);
        need(l, index, "connect", b->connect, "tcp://HOST:PORT or ipc://PATH");
        if (b->connect) check_link(l, line, key, b->connect, b->server_key);
    }
    finish_backend(l->config, b, index);
}

/* A relative path of state is joined to node.state_dir. */
static void join_state(struct config_loader *l, const struct config_key *key)
{
    const char *dir = l->config->state_dir;
    char **path = (char **)(void *)((char *)l->config + key->offset);
    if (!*path) return;
    if ((*path)[0] != '/' && dir && strcmp(dir, ".") != 0) {
        char *joined = NULL;
        if (asprintf(&joined, "%s/%s", dir, *path) < 0) {
            config_problem(l, 0, ERR_MEMORY, "%s: out of memory", key->name);
            return;
        }
        free(*path);
        *path = joined;
    }
    if (strlen(*path) > (size_t)key->max)
        config_problem(l, config_line(l, key->name), ERR_INVALID, "%s: \"%.120s\" is %zu bytes long, want at most %.0f",
                       key->name, *path, strlen(*path), key->max);
}

void config_rules(struct config_loader *loader)
{
    for (int i = 0; i < CONFIG_KEYS_COUNT; i++)
        if (CONFIG_KEYS[i].state) join_state(loader, &CONFIG_KEYS[i]);
    check_http(loader);
    check_zmq(loader);
    for (int i = 0; i < loader->config->backend_count; i++) check_backend(loader, i);
}
