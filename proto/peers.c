/* The file of allowed peers: one public key a line, `KEY name`, # comments. */
#include "proto/link.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

enum { PEERS_MAX = 4096, LINE_MAX_BYTES = 256 };

static enum err_code read_line(const char *path, int line, char *text, struct link_peer_key *out, bool *found, struct err *e)
{
    char key[LINE_MAX_BYTES] = "", name[LINE_MAX_BYTES] = "";
    unsigned char raw[32];
    *found = false;
    char *comment = strchr(text, '#');
    /* '#' is a Z85 digit too: a comment starts a line or follows a space. */
    while (comment && comment != text && comment[-1] != ' ' && comment[-1] != '\t') comment = strchr(comment + 1, '#');
    if (comment && strcspn(text, " \t") != 40) *comment = 0;
    if (sscanf(text, "%255s %255s", key, name) < 1) return ERR_OK;
    if (strlen(key) != 40 || !zmq_z85_decode(raw, key))
        return err_set(e, ERR_SYNTAX, "%s:%d: want a public key of 40 Z85 characters and a name, got %zu characters", path, line, strlen(key));
    (void)snprintf(out->public_key, sizeof out->public_key, "%s", key);
    (void)snprintf(out->name, sizeof out->name, "%.63s", name[0] == '#' ? "" : name);
    *found = true;
    return ERR_OK;
}

enum err_code link_peers_read(struct link_peer_key **out, int *count, const char *path, struct err *e)
{
    FILE *f = fopen(path, "re");
    if (!f) return err_set(e, ERR_IO, "peers file %s: %s", path, strerror(errno));
    struct link_peer_key *keys = calloc(PEERS_MAX, sizeof *keys);
    enum err_code code = keys ? ERR_OK : err_set(e, ERR_MEMORY, "no memory for %d peers", PEERS_MAX);
    char text[LINE_MAX_BYTES];
    int n = 0;
    for (int line = 1; code == ERR_OK && fgets(text, sizeof text, f); line++) {
        bool found;
        if (!strchr(text, '\n') && !feof(f)) {
            code = err_set(e, ERR_SYNTAX, "%s:%d: longer than %d characters", path, line, LINE_MAX_BYTES - 2);
        } else if (n == PEERS_MAX) {
            code = err_set(e, ERR_TOO_LARGE, "%s:%d: more than %d peers", path, line, PEERS_MAX);
        } else {
            code = read_line(path, line, text, &keys[n], &found, e);
            if (code == ERR_OK && found) n++;
        }
    }
    (void)fclose(f);
    if (code != ERR_OK) {
        free(keys);
        return code;
    }
    *out = keys;
    *count = n;
    return ERR_OK;
}
