/* The API key of an upstream: from a file or the environment, never from the configuration itself. */
#include "node/upstream.h"

#include "base/textlog.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KEY_MAX = 4096 };

/* The key of a file, without the white space around it. Warns when others can read it. */
static enum err_code read_key_file(const char *backend, const char *path, char key[KEY_MAX + 1], struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0) {
        enum err_code code = err_set(e, ERR_IO, "backend %s: key_file %s: %s", backend, path, strerror(errno));
        if (fd >= 0) (void)close(fd);
        return code;
    }
    if (info.st_mode & 077)
        textlog(TEXTLOG_WARN, "key_file_mode", "backend=%s mode=%04o want=0600", backend, (unsigned)(info.st_mode & 0777));
    ssize_t n = read(fd, key, KEY_MAX);
    (void)close(fd);
    if (n <= 0 || n == KEY_MAX)
        return err_set(e, ERR_INVALID, "backend %s: key_file %s: want one key of 1 to %d bytes", backend, path, KEY_MAX - 1);
    key[n] = '\0';
    size_t lead = strspn(key, " \t\r\n");
    memmove(key, key + lead, (size_t)n - lead + 1);
    for (size_t len = strlen(key); len && strchr(" \t\r\n", key[len - 1]);) key[--len] = '\0';
    return ERR_OK;
}

enum err_code upstream_authorization(const struct config_backend *c, char **out, struct err *e)
{
    char key[KEY_MAX + 1] = "";
    enum err_code code = ERR_OK;
    if (!c->key_file && !c->key_env) return ERR_OK;
    const char *value = c->key_env ? getenv(c->key_env) : NULL;
    if (c->key_file) code = read_key_file(c->name, c->key_file, key, e);
    else if (!value || !*value || strlen(value) > KEY_MAX)
        code = err_set(e, ERR_INVALID, "backend %s: key_env: %s is not set, want the API key in it", c->name, c->key_env);
    else (void)snprintf(key, sizeof key, "%s", value);
    for (const char *p = key; code == ERR_OK && (p == key || *p); p++)
        if (*p <= 0x20 || *p >= 0x7f)
            code = err_set(e, ERR_INVALID, "backend %s: %s %s: want one key of visible ASCII", c->name,
                           c->key_file ? "key_file" : "key_env", c->key_file ? c->key_file : c->key_env);
    if (code == ERR_OK && asprintf(out, "Authorization: Bearer %s", key) < 0) {
        *out = NULL;
        code = err_set(e, ERR_MEMORY, "backend %s: out of memory", c->name);
    }
    explicit_bzero(key, sizeof key);
    return code;
}
