#include "cli/import.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Ollama keeps a manifest per name, manifests/HOST/NAMESPACE/MODEL/TAG, whose layers name blobs by their hash:
 * blobs/sha256-HEX. The layer of type application/vnd.ollama.image.model is a GGUF file. */

/* HOST/NAMESPACE/MODEL:TAG with everything but MODEL optional, into the manifest's path under the store. */
static bool manifest_path(const char *name, char *out, size_t size)
{
    const char *slash = strrchr(name, '/'), *model = slash ? slash + 1 : name, *colon = strchr(model, ':');
    int slashes = 0;
    for (const char *p = name; *p; p++) {
        slashes += *p == '/';
        bool fine = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') || strchr("._-/:", *p);
        if (!fine || (*p == '/' && (p == name || p[1] == '/' || p[1] == '.')) || (p == name && *p == '.')) return false;
    }
    int model_len = colon ? (int)(colon - model) : (int)strlen(model);
    const char *front = slashes == 0 ? "registry.ollama.ai/library/" : slashes == 1 ? "registry.ollama.ai/" : "";
    if (slashes > 2 || model_len == 0 || (colon && (!colon[1] || strchr(colon + 1, ':') || colon[1] == '.'))) return false;
    int n = snprintf(out, size, "manifests/%s%.*s%.*s/%s", front, (int)(model - name), name, model_len, model, colon ? colon + 1 : "latest");
    return n > 0 && (size_t)n < size;
}

/* The store: OLLAMA_MODELS, else the user's, else those of the packaged service. */
static bool find_store(const char *manifest, char *out, size_t size)
{
    const char *said = getenv("OLLAMA_MODELS"), *home = getenv("HOME");
    char user[4096], path[8192];
    (void)snprintf(user, sizeof user, "%s/.ollama/models", home ? home : "");
    const char *const STORES[] = {said, said ? NULL : user, said ? NULL : "/usr/share/ollama/.ollama/models",
                                  said ? NULL : "/var/lib/ollama/models"};
    for (size_t i = 0; i < sizeof STORES / sizeof STORES[0]; i++) {
        if (!STORES[i]) continue;
        (void)snprintf(path, sizeof path, "%s/%s", STORES[i], manifest);
        if (access(path, R_OK) != 0) continue;
        int n = snprintf(out, size, "%s", STORES[i]);
        return n > 0 && (size_t)n < size;
    }
    return false;
}

/* The hash of the model's layer, as its blob's file name has it. */
static const char *model_digest(const json_t *manifest, int64_t *bytes)
{
    size_t i;
    json_t *layer;
    json_array_foreach(json_object_get(manifest, "layers"), i, layer)
    {
        const char *type = json_string_value(json_object_get(layer, "mediaType"));
        const char *digest = json_string_value(json_object_get(layer, "digest"));
        if (!type || !digest || strcmp(type, "application/vnd.ollama.image.model") != 0) continue;
        *bytes = json_integer_value(json_object_get(layer, "size"));
        bool fine = strlen(digest) == 71 && strncmp(digest, "sha256:", 7) == 0 && strspn(digest + 7, "0123456789abcdef") == 64;
        return fine ? digest + 7 : NULL;
    }
    return NULL;
}

static enum err_code check_blob(const char *blob, int64_t bytes, struct err *e)
{
    struct stat st;
    struct gguf *gguf;
    if (stat(blob, &st) != 0) return err_set(e, ERR_NOT_FOUND, "%s: the model's blob is missing; was the download cut short?", blob);
    if (bytes > 0 && st.st_size != bytes)
        return err_set(e, ERR_CORRUPT, "%s has %lld bytes; the manifest says %lld", blob, (long long)st.st_size, (long long)bytes);
    enum err_code code = gguf_open(&gguf, blob, e);
    if (!code) gguf_close(gguf);
    return code;
}

static enum err_code copy_blob(const char *blob, const char *out, struct err *e)
{
    static const size_t CHUNK = 1 << 20;
    char *chunk = malloc(CHUNK);
    FILE *from = fopen(blob, "rb"), *to = fopen(out, "wxb");
    bool fine = chunk && from && to;
    for (size_t n; fine && (n = fread(chunk, 1, CHUNK, from)) > 0;) fine = fwrite(chunk, 1, n, to) == n;
    fine = fine && !ferror(from);
    if (from) (void)fclose(from);
    if (to) {
        fine = fclose(to) == 0 && fine;
        if (!fine) (void)unlink(out);
    }
    free(chunk);
    return fine ? ERR_OK : err_set(e, ERR_IO, "%s cannot be written: %s", out, strerror(errno));
}

/* A second name for the blob; where that cannot be (another file system, another owner), a symbolic link. */
static enum err_code link_blob(const char *blob, const char *out, struct err *e)
{
    char *real = realpath(blob, NULL);
    if (!real) return err_set(e, ERR_IO, "%s: %s", blob, strerror(errno));
    bool fine = link(real, out) == 0;
    if (!fine && errno != EEXIST) fine = symlink(real, out) == 0;
    enum err_code code = fine ? ERR_OK : err_set(e, ERR_IO, "%s cannot be made: %s", out, strerror(errno));
    free(real);
    return code;
}

enum err_code import_ollama(const struct import_options *o, struct err *e)
{
    char manifest[1024], store[4096], path[8192], blob[8192];
    int64_t bytes = 0;
    if (!manifest_path(o->source, manifest, sizeof manifest))
        return err_set(e, ERR_INVALID, "'%.100s' is neither a folder nor a model's name (NAME, NAME:TAG, USER/NAME:TAG)", o->source);
    if (!find_store(manifest, store, sizeof store))
        return err_set(e, ERR_NOT_FOUND, "'%.100s' is no folder, and no Ollama store holds %s (OLLAMA_MODELS says where to look)",
                       o->source, manifest);
    (void)snprintf(path, sizeof path, "%s/%s", store, manifest);
    json_t *json = json_load_file(path, 0, NULL);
    const char *digest = model_digest(json, &bytes);
    enum err_code code = ERR_OK;
    if (!digest) code = err_set(e, ERR_CORRUPT, "%.180s: names no model layer", path);
    else (void)snprintf(blob, sizeof blob, "%s/blobs/sha256-%s", store, digest);
    json_decref(json);
    if (!code) code = check_blob(blob, bytes, e);
    if (code) return code;
    return o->copy ? copy_blob(blob, o->out, e) : link_blob(blob, o->out, e);
}
