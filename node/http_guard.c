/* Who may come in. Everything here is pure, or done once at start. */
#include "node/http.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

/* ---- keys ---- */

static void key_hash(const struct http_keys *keys, const char *key, size_t len, unsigned char out[32])
{
    crypto_generichash(out, 32, (const unsigned char *)key, len, keys->salt, sizeof keys->salt);
}

static enum err_code key_add(struct http_keys *keys, char *line, const char *path, int number, struct err *e)
{
    char *rest = NULL;
    const char *key = strtok_r(line, " \t\r\n", &rest);
    if (!key || key[0] == '#') return ERR_OK;
    const char *tenant = strtok_r(NULL, " \t\r\n", &rest);
    if (strlen(key) < 8)
        return err_set(e, ERR_SYNTAX, "%s:%d: a key of %zu characters; at least 8 are wanted", path, number, strlen(key));
    if (tenant && strlen(tenant) >= sizeof keys->list->tenant)
        return err_set(e, ERR_SYNTAX, "%s:%d: the tenant's name is longer than 63 characters", path, number);
    if (tenant && strtok_r(NULL, " \t\r\n", &rest))
        return err_set(e, ERR_SYNTAX, "%s:%d: more than `KEY tenant` on the line", path, number);
    if (keys->count == HTTP_KEYS_MAX) return err_set(e, ERR_FULL, "%s: more than %d keys", path, HTTP_KEYS_MAX);
    struct http_key *k = &keys->list[keys->count++];
    key_hash(keys, key, strlen(key), k->hash);
    (void)snprintf(k->tenant, sizeof k->tenant, "%s", tenant ? tenant : "default");
    return ERR_OK;
}

enum err_code http_keys_load(struct http_keys *out, const char *path, struct err *e)
{
    *out = (struct http_keys){0};
    FILE *file = fopen(path, "re");
    if (!file) return err_set(e, ERR_IO, "http.tcp.keys_file %s: %s", path, strerror(errno));
    struct stat st;
    enum err_code code = ERR_OK;
    if (fstat(fileno(file), &st) != 0 || (st.st_mode & 077) != 0) {
        code = err_set(e, ERR_FORBIDDEN, "http.tcp.keys_file %s may be read by others; its mode should be 0600", path);
        goto done;
    }
    out->list = calloc(HTTP_KEYS_MAX, sizeof *out->list);
    if (sodium_init() < 0 || !out->list) {
        code = err_set(e, ERR_MEMORY, "no memory for keys");
        goto done;
    }
    randombytes_buf(out->salt, sizeof out->salt);
    char line[512];
    for (int number = 1; code == ERR_OK && fgets(line, sizeof line, file); number++) {
        if (!strchr(line, '\n') && !feof(file))
            code = err_set(e, ERR_SYNTAX, "%s:%d: the line is longer than 510 bytes", path, number);
        else
            code = key_add(out, line, path, number, e);
    }
    sodium_memzero(line, sizeof line);
    if (code == ERR_OK && out->count == 0) code = err_set(e, ERR_INVALID, "%s holds no key: a line is `KEY tenant`", path);
done:
    (void)fclose(file);
    if (code != ERR_OK) http_keys_release(out);
    return code;
}

void http_keys_release(struct http_keys *keys)
{
    free(keys->list);
    *keys = (struct http_keys){0};
}

const char *http_keys_tenant(const struct http_keys *keys, const char *key)
{
    unsigned char hash[32];
    const char *tenant = NULL;
    if (!keys->list) return NULL;
    key_hash(keys, key ? key : "", key ? strlen(key) : 0, hash);
    for (int i = 0; i < keys->count; i++)
        if (sodium_memcmp(hash, keys->list[i].hash, sizeof hash) == 0 && !tenant) tenant = keys->list[i].tenant;
    return tenant;
}

/* ---- uids ---- */

/* ---- Host and Origin ---- */

bool http_host_allowed(const char *host, const char *bound)
{
    static const char *const OURS[] = {"localhost", "127.0.0.1", "::1"};
    char name[80];
    size_t len = strcspn(host, ":");
    if (host[0] == '[') {
        const char *close = strchr(host, ']');
        if (!close || (close[1] && close[1] != ':')) return false;
        host++;
        len = (size_t)(close - host);
    }
    if (len == 0 || len >= sizeof name) return false;
    memcpy(name, host, len);
    name[len] = 0;
    for (size_t i = 0; i < sizeof OURS / sizeof *OURS; i++)
        if (strcasecmp(name, OURS[i]) == 0) return true;
    return strcasecmp(name, bound) == 0;
}

bool http_origin_allowed(const char *origin, const char *host, const struct config_list *allowed)
{
    for (int i = 0; i < allowed->count; i++)
        if (strcasecmp(origin, allowed->items[i]) == 0) return true;
    return host && strncasecmp(origin, "http://", 7) == 0 && strcasecmp(origin + 7, host) == 0;
}
