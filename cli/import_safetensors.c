#include "cli/import_safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEAD_MAX = 100 << 20, FILES_MAX = 4096, TENSORS_MAX = 1 << 20 };

struct st_file {
    void *data;
    size_t len;
};

static enum err_code map_file(struct st_set *set, const char *path, struct err *e)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return err_set(e, ERR_IO, "%s: cannot be opened: %s", path, strerror(errno));
    void *data = MAP_FAILED;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size >= 8)
        data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    (void)close(fd);
    if (data == MAP_FAILED) return err_set(e, ERR_CORRUPT, "%s: not a safetensors file", path);
    struct st_file *grown = realloc(set->files, ((size_t)set->file_count + 1) * sizeof *grown);
    if (!grown) {
        (void)munmap(data, (size_t)st.st_size);
        return err_set(e, ERR_MEMORY, "%s: no memory", path);
    }
    set->files = grown;
    grown[set->file_count++] = (struct st_file){data, (size_t)st.st_size};
    return ERR_OK;
}

static enum st_type type_of(const char *name, int64_t *bytes)
{
    static const struct {
        const char *name;
        enum st_type type;
        int bytes;
    } TYPES[] = {{"F32", ST_F32, 4}, {"F16", ST_F16, 2}, {"BF16", ST_BF16, 2}};
    *bytes = 0;
    for (size_t i = 0; name && i < sizeof TYPES / sizeof TYPES[0]; i++)
        if (strcmp(name, TYPES[i].name) == 0) {
            *bytes = TYPES[i].bytes;
            return TYPES[i].type;
        }
    return ST_OTHER;
}

static bool read_shape(const json_t *shape, struct st_tensor *t)
{
    t->dims = json_is_array(shape) ? (int)json_array_size(shape) : -1;
    t->elements = 1;
    if (t->dims < 0 || t->dims > 4) return false;
    for (int d = 0; d < t->dims; d++) {
        const json_t *size = json_array_get(shape, (size_t)d);
        t->shape[d] = json_is_integer(size) ? json_integer_value(size) : -1;
        if (t->shape[d] < 0 || __builtin_mul_overflow(t->elements, t->shape[d], &t->elements)) return false;
    }
    return t->elements < INT64_MAX / 8;
}

static enum err_code read_tensor(struct st_set *set, const char *path, const char *name, const json_t *entry,
                                 const char *data, int64_t room, struct err *e)
{
    struct st_tensor *grown = realloc(set->tensors, ((size_t)set->tensor_count + 1) * sizeof *grown);
    struct st_tensor t = {.name = strdup(name)};
    if (grown) set->tensors = grown;
    if (!grown || !t.name) {
        free(t.name);
        return err_set(e, ERR_MEMORY, "%s: no memory", path);
    }
    const json_t *offsets = json_object_get(entry, "data_offsets");
    int64_t bytes, from = -1, to = -1;
    t.type = type_of(json_string_value(json_object_get(entry, "dtype")), &bytes);
    if (json_array_size(offsets) == 2) {
        from = json_integer_value(json_array_get(offsets, 0));
        to = json_integer_value(json_array_get(offsets, 1));
    }
    bool fine = read_shape(json_object_get(entry, "shape"), &t) && from >= 0 && to >= from && to <= room;
    if (fine && t.type != ST_OTHER) fine = to - from == t.elements * bytes;
    if (!fine || set->tensor_count >= TENSORS_MAX) {
        free(t.name);
        return err_set(e, ERR_CORRUPT, "%s: tensor '%.60s' has a shape or place that cannot be (%lld to %lld of %lld)", path,
                       name, (long long)from, (long long)to, (long long)room);
    }
    t.data = t.type == ST_OTHER ? NULL : data + from;
    set->tensors[set->tensor_count++] = t;
    return ERR_OK;
}

static enum err_code read_file(struct st_set *set, const char *path, struct err *e)
{
    enum err_code code = map_file(set, path, e);
    if (code) return code;
    const struct st_file *file = &set->files[set->file_count - 1];
    const char *bytes = file->data;
    uint64_t head;
    json_error_t where;
    memcpy(&head, bytes, sizeof head);
    if (head > HEAD_MAX || head > file->len - 8)
        return err_set(e, ERR_CORRUPT, "%s: its head claims %llu bytes; is it cut short?", path, (unsigned long long)head);
    json_t *json = json_loadb(bytes + 8, (size_t)head, JSON_REJECT_DUPLICATES, &where);
    if (!json_is_object(json)) {
        json_decref(json); /* `where` is our own */
        return err_set(e, ERR_CORRUPT, "%s: its head is no JSON object: %s", path, where.text);
    }
    const char *name;
    json_t *entry;
    json_object_foreach(json, name, entry)
    {
        if (code || strcmp(name, "__metadata__") == 0) continue;
        code = read_tensor(set, path, name, entry, bytes + 8 + head, (int64_t)(file->len - 8 - head), e);
    }
    json_decref(json);
    return code;
}

static int name_order(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool is_plain_name(const char *name)
{
    size_t len = strlen(name);
    return len > 12 && name[0] != '.' && !strchr(name, '/') && strcmp(name + len - 12, ".safetensors") == 0;
}

static bool add_name(char ***names, int *count, const char *name)
{
    for (int i = 0; i < *count; i++)
        if (strcmp((*names)[i], name) == 0) return true;
    char **grown = *count < FILES_MAX ? realloc(*names, ((size_t)*count + 1) * sizeof *grown) : NULL;
    if (!grown) return false;
    *names = grown;
    grown[*count] = strdup(name);
    return grown[*count] && ++*count;
}

/* The names of the index's weight map; where there is no index, of the folder. */
static enum err_code list_files(const char *folder, char ***names, int *count, struct err *e)
{
    char path[4096];
    bool fine = true;
    (void)snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
    json_t *index = json_load_file(path, 0, NULL), *file;
    const char *tensor;
    json_object_foreach(json_object_get(index, "weight_map"), tensor, file)
    {
        const char *name = json_string_value(file);
        if (!name || !is_plain_name(name)) {
            enum err_code code = err_set(e, ERR_CORRUPT, "%s: '%.60s' lies in no plain .safetensors file", path, tensor);
            json_decref(index); /* owns the name in the error */
            return code;
        }
        fine = fine && add_name(names, count, name);
    }
    json_decref(index);
    (void)snprintf(path, sizeof path, "%s/model.safetensors", folder); /* the usual one, whatever lies beside it */
    if (!*count && access(path, F_OK) == 0) fine = fine && add_name(names, count, "model.safetensors");
    DIR *dir = *count ? NULL : opendir(folder);
    if (!dir && !*count) return err_set(e, ERR_IO, "%s: cannot be read: %s", folder, strerror(errno));
    for (struct dirent *d; dir && (d = readdir(dir));)
        if (is_plain_name(d->d_name)) fine = fine && add_name(names, count, d->d_name);
    if (dir) (void)closedir(dir);
    if (!fine) return err_set(e, ERR_MEMORY, "%s: more than %d files, or no memory", folder, FILES_MAX);
    if (!*count) return err_set(e, ERR_NOT_FOUND, "%s: holds no .safetensors file", folder);
    qsort(*names, (size_t)*count, sizeof **names, name_order);
    return ERR_OK;
}

static int tensor_order(const void *a, const void *b)
{
    return strcmp(((const struct st_tensor *)a)->name, ((const struct st_tensor *)b)->name);
}

enum err_code st_open(struct st_set *out, const char *folder, struct err *e)
{
    struct st_set set = {0};
    char **names = NULL, path[4096];
    int count = 0;
    enum err_code code = list_files(folder, &names, &count, e);
    for (int i = 0; i < count; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        if (!code) code = read_file(&set, path, e);
        free(names[i]);
    }
    free(names);
    if (set.tensor_count) qsort(set.tensors, (size_t)set.tensor_count, sizeof *set.tensors, tensor_order);
    for (int i = 1; i < set.tensor_count && !code; i++)
        if (strcmp(set.tensors[i - 1].name, set.tensors[i].name) == 0)
            code = err_set(e, ERR_CORRUPT, "%s: tensor '%.80s' is there twice", folder, set.tensors[i].name);
    if (code) st_close(&set);
    else *out = set;
    return code;
}

void st_close(struct st_set *set)
{
    for (int i = 0; i < set->file_count; i++) (void)munmap(set->files[i].data, set->files[i].len);
    for (int i = 0; i < set->tensor_count; i++) free(set->tensors[i].name);
    free(set->files);
    free(set->tensors);
    *set = (struct st_set){0};
}

const struct st_tensor *st_find(const struct st_set *set, const char *name)
{
    struct st_tensor want = {.name = (char *)(uintptr_t)name};
    return set->tensor_count ? bsearch(&want, set->tensors, (size_t)set->tensor_count, sizeof want, tensor_order) : NULL;
}
