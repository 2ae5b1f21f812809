/* Listening sockets: a Unix socket's file with mode and owner, a TCP address, and the file that tells its URL. */
#include "node/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netdb.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 1024 };

/* ---- Unix ---- */

static bool id_number(const char *text, unsigned *out)
{
    char *end = NULL;
    unsigned long number = strtoul(text, &end, 10);
    *out = (unsigned)number;
    return text[0] >= '0' && text[0] <= '9' && *end == 0 && number < UINT32_MAX;
}

/* "user", "user:group" or ":group", names or numbers. */
static enum err_code set_owner(const char *path, const char *owner, struct err *e)
{
    char user[64], group[64];
    unsigned uid = UINT32_MAX, gid = UINT32_MAX; /* leave as it is */
    const char *colon = strchr(owner, ':');
    (void)snprintf(user, sizeof user, "%.*s", (int)(colon ? colon - owner : (long)strlen(owner)), owner);
    (void)snprintf(group, sizeof group, "%s", colon ? colon + 1 : "");
    if (user[0] && !id_number(user, &uid)) {
        const struct passwd *entry = getpwnam(user);
        if (!entry) return err_set(e, ERR_INVALID, "http.unix.owner: there is no user '%s'", user);
        uid = entry->pw_uid;
    }
    if (group[0] && !id_number(group, &gid)) {
        const struct group *entry = getgrnam(group);
        if (!entry) return err_set(e, ERR_INVALID, "http.unix.owner: there is no group '%s'", group);
        gid = entry->gr_gid;
    }
    if (chown(path, uid, gid) == 0) return ERR_OK;
    return err_set(e, ERR_IO, "http.unix.owner: giving %s to %s: %s", path, owner, strerror(errno));
}

/* A file left by a dead process goes; one somebody listens on, or that is no socket, stays and is an error. */
static enum err_code clear_stale(const struct sockaddr_un *address, struct err *e)
{
    struct stat st;
    if (lstat(address->sun_path, &st) != 0) return ERR_OK; /* bind tells what is wrong with the folder */
    if (!S_ISSOCK(st.st_mode))
        return err_set(e, ERR_IO, "http.unix.path %s is there already and is not a socket", address->sun_path);
    int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (probe < 0) return err_set(e, ERR_IO, "a socket: %s", strerror(errno));
    int rc = connect(probe, (const struct sockaddr *)address, sizeof *address);
    int why = errno;
    (void)close(probe);
    if (rc != 0 && why == ECONNREFUSED && unlink(address->sun_path) == 0) return ERR_OK;
    return err_set(e, ERR_IO, "http.unix.path %s: another process listens there", address->sun_path);
}

enum err_code http_listen_unix(struct http_listen *out, const struct config_http *config, struct err *e)
{
    *out = (struct http_listen){.fd = -1, .loopback = true};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(config->unix_path) >= sizeof address.sun_path)
        return err_set(e, ERR_INVALID, "http.unix.path is %zu bytes long; a socket's path may have %zu",
                       strlen(config->unix_path), sizeof address.sun_path - 1);
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", config->unix_path);
    enum err_code code = clear_stale(&address, e);
    if (code != ERR_OK) return code;
    out->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (out->fd < 0 || bind(out->fd, (const struct sockaddr *)&address, sizeof address) != 0) {
        code = err_set(e, ERR_IO, "http.unix.path %s: %s", config->unix_path, strerror(errno));
        goto fail;
    }
    (void)snprintf(out->path, sizeof out->path, "%s", config->unix_path);
    struct stat st;
    if (lstat(out->path, &st) == 0) {
        out->dev = st.st_dev;
        out->ino = st.st_ino;
    }
    /* Nobody can connect before listen(), so the file is never open wider than it should be. */
    if (chmod(out->path, (mode_t)config->unix_mode) != 0) {
        code = err_set(e, ERR_IO, "http.unix.mode of %s: %s", out->path, strerror(errno));
        goto fail;
    }
    if (config->unix_owner) code = set_owner(out->path, config->unix_owner, e);
    if (code != ERR_OK) goto fail;
    if (listen(out->fd, BACKLOG) == 0) return ERR_OK;
    code = err_set(e, ERR_IO, "listening on %s: %s", out->path, strerror(errno));
fail:
    if (out->fd >= 0) (void)close(out->fd);
    out->fd = -1;
    http_listen_end(out);
    return code;
}

void http_listen_end(struct http_listen *listen)
{
    struct stat st;
    if (listen->path[0] && lstat(listen->path, &st) == 0 && st.st_dev == listen->dev && st.st_ino == listen->ino)
        (void)unlink(listen->path);
    listen->path[0] = 0;
}

/* ---- TCP ---- */

static bool is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET)
        return (ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr) >> 24) == 127;
    return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr);
}

/* "127.0.0.1:8600", "[::1]:8600", "localhost:0" */
static enum err_code resolve(const char *text, struct addrinfo **out, struct err *e)
{
    char host[128];
    const char *colon = strrchr(text, ':');
    size_t len = colon ? (size_t)(colon - text) : 0;
    if (!colon || len == 0 || len >= sizeof host || colon[1] == 0)
        return err_set(e, ERR_INVALID, "http.tcp.listen is '%.80s'; it should be ADDRESS:PORT, like 127.0.0.1:8600", text);
    memcpy(host, text, len);
    host[len] = 0;
    char *name = host;
    if (host[0] == '[' && host[len - 1] == ']') {
        host[len - 1] = 0;
        name++;
    }
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    int rc = getaddrinfo(name, colon + 1, &hints, out);
    if (rc == 0) return ERR_OK;
    return err_set(e, ERR_INVALID, "http.tcp.listen '%.80s': %s", text, gai_strerror(rc));
}

static enum err_code bind_tcp(struct http_listen *out, const struct addrinfo *info, const char *text, struct err *e)
{
    int one = 1;
    out->fd = socket(info->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (out->fd >= 0) (void)setsockopt(out->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_storage bound;
    socklen_t len = sizeof bound;
    if (out->fd < 0 || bind(out->fd, info->ai_addr, info->ai_addrlen) != 0 || listen(out->fd, BACKLOG) != 0 ||
        getsockname(out->fd, (struct sockaddr *)&bound, &len) != 0)
        return err_set(e, ERR_IO, "http.tcp.listen %s: %s", text, strerror(errno));
    char port[16];
    if (getnameinfo((struct sockaddr *)&bound, len, out->bound, sizeof out->bound, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return err_set(e, ERR_IO, "http.tcp.listen %s: its address cannot be told", text);
    out->port = (int)strtol(port, NULL, 10);
    return ERR_OK;
}

enum err_code http_listen_tcp(struct http_listen *out, const struct config_http *config, struct err *e)
{
    *out = (struct http_listen){.fd = -1};
    struct addrinfo *info = NULL;
    enum err_code code = resolve(config->tcp_listen, &info, e);
    if (code != ERR_OK) return code;
    out->loopback = is_loopback(info->ai_addr);
    if (!out->loopback && !config->tcp_auth) {
        code = err_set(e, ERR_INVALID, "http.tcp.listen %s is not a loopback address: http.tcp.auth must be bearer there",
                       config->tcp_listen);
    } else if (config->tcp_auth && !config->keys_file) {
        code = err_set(e, ERR_INVALID, "http.tcp.listen wants http.tcp.keys_file (lines `KEY tenant`), or http.tcp.auth: none");
    } else {
        code = bind_tcp(out, info, config->tcp_listen, e);
    }
    freeaddrinfo(info);
    if (code != ERR_OK && out->fd >= 0) {
        (void)close(out->fd);
        out->fd = -1;
    }
    return code;
}

enum err_code http_url_write(const char *path, const struct http_listen *listen, struct err *e)
{
    char part[4096];
    if (snprintf(part, sizeof part, "%s.part", path) >= (int)sizeof part)
        return err_set(e, ERR_INVALID, "http.tcp.url_file is too long a path");
    FILE *file = fopen(part, "we");
    bool ok = file != NULL;
    if (ok) {
        bool six = strchr(listen->bound, ':') != NULL;
        ok = fprintf(file, "http://%s%s%s:%d\n", six ? "[" : "", listen->bound, six ? "]" : "", listen->port) > 0;
        ok = fclose(file) == 0 && ok;
    }
    if (ok && rename(part, path) == 0) return ERR_OK; /* readers see the whole file or none */
    return err_set(e, ERR_IO, "http.tcp.url_file %s: %s", path, strerror(errno));
}
