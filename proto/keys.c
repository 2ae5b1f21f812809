#include "proto/link.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

enum { KEY_CHARS = 40, KEY_FILE_MAX = 4096, LINE_CHARS_MAX = 512, PEERS_MAX = 4096 };

bool link_key_valid(const char *key)
{
    unsigned char bytes[KEY_CHARS * 4 / 5];
    if (!key || strlen(key) != KEY_CHARS) return false;
    bool valid = zmq_z85_decode(bytes, key) != NULL;
    sodium_memzero(bytes, sizeof bytes);
    return valid;
}

enum err_code link_keys_make(struct link_keys *out, struct err *e)
{
    do {
        if (zmq_curve_keypair(out->public_key, out->secret_key) != 0)
            return err_set(e, ERR_UNSUPPORTED, "this libzmq makes no CURVE keys: %s", zmq_strerror(errno));
    } while (out->public_key[0] == '#'); /* would read as a comment in a file of allowed keys */
    return ERR_OK;
}

static bool write_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        data += n;
        len -= (size_t)n;
    }
    return true;
}

enum err_code link_keys_write(const struct link_keys *keys, const char *path, struct err *e)
{
    char text[128];
    int len = snprintf(text, sizeof text, "public=%s\nsecret=%s\n", keys->public_key, keys->secret_key);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        sodium_memzero(text, sizeof text);
        return err_set(e, ERR_IO, "%s: %s", path, errno == EEXIST ? "is there already, and is kept" : strerror(errno));
    }
    bool good = write_all(fd, text, (size_t)len) && fsync(fd) == 0;
    int why = errno;
    if (close(fd) != 0) good = false;
    sodium_memzero(text, sizeof text);
    if (good) return ERR_OK;
    (void)unlink(path);
    return err_set(e, ERR_IO, "%s: %s", path, strerror(why));
}

/* The value of line `name=…` in `text`, or false. */
static bool key_line(const char *text, const char *name, char *out)
{
    size_t name_len = strlen(name);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        if (strncmp(line, name, name_len) != 0) continue;
        const char *value = line + name_len;
        if (strcspn(value, "\r\n") != KEY_CHARS) return false;
        memcpy(out, value, KEY_CHARS);
        out[KEY_CHARS] = 0;
        return link_key_valid(out);
    }
    return false;
}

static enum err_code keys_parse(struct link_keys *out, const char *text, const char *path, struct err *e)
{
    char derived[KEY_CHARS + 1];
    if (!key_line(text, "public=", out->public_key))
        return err_set(e, ERR_SYNTAX, "%s: no line public= with 40 characters of Z85 (rung keys make writes one)", path);
    if (!key_line(text, "secret=", out->secret_key))
        return err_set(e, ERR_SYNTAX, "%s: no line secret= with 40 characters of Z85 (rung keys make writes one)", path);
    if (zmq_curve_public(derived, out->secret_key) != 0 || strcmp(derived, out->public_key) != 0)
        return err_set(e, ERR_CORRUPT, "%s: the public key is not the secret key's", path);
    return ERR_OK;
}

enum err_code link_keys_read(struct link_keys *out, const char *path, struct err *e)
{
    char text[KEY_FILE_MAX + 1];
    struct stat st;
    struct link_keys keys = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    enum err_code code = ERR_OK;
    ssize_t len = 0;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        code = err_set(e, ERR_IO, "%s is not a file", path);
    } else if (st.st_mode & 077) {
        code = err_set(e, ERR_FORBIDDEN, "%s: others may read the secret key (mode %04o); chmod 600 %s", path,
                       (unsigned)(st.st_mode & 07777), path);
    } else if ((len = read(fd, text, KEY_FILE_MAX)) < 0) {
        code = err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    }
    if (code == ERR_OK) {
        text[len] = 0;
        code = keys_parse(&keys, text, path, e);
    }
    (void)close(fd);
    if (code == ERR_OK) *out = keys;
    sodium_memzero(text, sizeof text);
    sodium_memzero(&keys, sizeof keys);
    return code;
}

/* One line of the allowed keys. True when it holds a key. `*wrong` says what is wrong with one that should. */
static bool peer_line(char *line, struct link_peer_key *out, const char **wrong)
{
    char *rest = NULL, *key = strtok_r(line, " \t\r\n", &rest);
    char *name = key ? strtok_r(NULL, " \t\r\n", &rest) : NULL;
    if (!key || (key[0] == '#' && !link_key_valid(key))) return false; /* '#' is a Z85 digit too */
    if (!link_key_valid(key)) *wrong = "the first word is not a public key (40 characters of Z85)";
    else if (name && strlen(name) >= sizeof out->name) *wrong = "the name is longer than 63 bytes";
    if (*wrong) return false;
    memcpy(out->public_key, key, KEY_CHARS + 1);
    (void)snprintf(out->name, sizeof out->name, "%s", name ? name : "");
    return true;
}

enum err_code link_peers_read(struct link_peer_key **out, int *count, const char *path, struct err *e)
{
    char line[LINE_CHARS_MAX];
    struct link_peer_key *keys = NULL;
    int n = 0, cap = 0, number = 0;
    enum err_code code = ERR_OK;
    FILE *f = fopen(path, "re");
    if (!f) return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    while (code == ERR_OK && fgets(line, sizeof line, f)) {
        const char *wrong = strlen(line) == sizeof line - 1 ? "the line is longer than 510 bytes" : NULL;
        number++;
        if (n == cap && n < PEERS_MAX) {
            struct link_peer_key *grown = realloc(keys, (size_t)(cap = cap ? cap * 2 : 16) * sizeof *keys);
            if (!grown) code = err_set(e, ERR_MEMORY, "%s: no memory for its keys", path);
            else keys = grown;
        }
        struct link_peer_key key;
        if (code != ERR_OK) break;
        if (!wrong && peer_line(line, &key, &wrong)) {
            if (n < cap) keys[n++] = key;
            else code = err_set(e, ERR_TOO_LARGE, "%s: more than %d keys", path, PEERS_MAX);
        }
        if (wrong) code = err_set(e, ERR_SYNTAX, "%s:%d: %s", path, number, wrong);
    }
    if (code == ERR_OK && ferror(f)) code = err_set(e, ERR_IO, "%s: reading failed", path);
    (void)fclose(f);
    if (code == ERR_OK) {
        *out = keys;
        *count = n;
    } else {
        free(keys);
    }
    return code;
}
