#include "engine/gguf_private.h"

#include "engine/gguf_own.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Shape of a file: header | keys | tensor table | padding | tensor data.
 * A cursor walks the first three; every read is checked against the end, so that no length in the file is believed.
 * What was walked once is kept as pointers into the map; arrays are walked again when asked for. */

enum { KEYS_MAX = 1 << 16, TENSORS_MAX = 1 << 18, PARTS_MAX = 4096, ARRAY_DEPTH_MAX = 4, NAME_MAX_BYTES = 1 << 12 };
enum { ALIGNMENT_DEFAULT = 32, ALIGNMENT_MAX = 1 << 20 };

/* Kinds of a metadata value, with their numbers in the file. */
enum kind {
    KIND_U8, KIND_I8, KIND_U16, KIND_I16, KIND_U32, KIND_I32, KIND_F32, KIND_BOOL, KIND_STRING, KIND_ARRAY, KIND_U64,
    KIND_I64, KIND_F64, KINDS
};
static const unsigned char KIND_BYTES[KINDS] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

/* ---- the cursor ---- */

struct cursor {
    const uint8_t *data;
    size_t len, at;
    const char *path; /* for errors */
};

static const uint8_t *take(struct cursor *c, uint64_t bytes)
{
    if (bytes > c->len - c->at) return NULL;
    const uint8_t *here = c->data + c->at;
    c->at += (size_t)bytes;
    return here;
}

static bool take_u32(struct cursor *c, uint32_t *out)
{
    const uint8_t *p = take(c, 4);
    if (p) memcpy(out, p, 4);
    return p != NULL;
}

static bool take_u64(struct cursor *c, uint64_t *out)
{
    const uint8_t *p = take(c, 8);
    if (p) memcpy(out, p, 8);
    return p != NULL;
}

static bool take_string(struct cursor *c, struct gguf_string *out)
{
    size_t start = c->at;
    uint64_t len;
    const uint8_t *p;
    if (!take_u64(c, &len) || !(p = take(c, len))) {
        c->at = start;
        return false;
    }
    *out = (struct gguf_string){(const char *)p, (size_t)len};
    return true;
}

static enum err_code corrupt_end(const struct cursor *c, const char *what, struct err *e)
{
    return err_set(e, ERR_CORRUPT, "%s: at offset %zu the file ends inside %s (it has %zu bytes); is it cut short?",
                   c->path, c->at, what, c->len);
}

/* A name from the file, short and printable, for an error line. */
static const char *label(struct gguf_string name, char out[static 65])
{
    size_t len = name.len < 64 ? name.len : 64;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)name.data[i];
        out[i] = c < 0x20 || c == 0x7f ? '?' : (char)c;
    }
    out[len] = 0;
    return out;
}
#define LABEL(name) label(name, (char[65]){0})

static int string_order(struct gguf_string a, struct gguf_string b)
{
    size_t len = a.len < b.len ? a.len : b.len;
    int order = len ? memcmp(a.data, b.data, len) : 0;
    if (order) return order;
    return (a.len > b.len) - (a.len < b.len);
}

/* ---- metadata ---- */

static bool skip_elements(struct cursor *c, uint32_t kind, uint64_t count, int depth);

static bool skip_array(struct cursor *c, int depth)
{
    uint32_t element;
    uint64_t count;
    if (!take_u32(c, &element) || !take_u64(c, &count)) return false;
    return skip_elements(c, element, count, depth + 1);
}

/* Step over `count` values of a kind. Work is linear in the file: a string or array takes 8 bytes at least. */
static bool skip_elements(struct cursor *c, uint32_t kind, uint64_t count, int depth)
{
    if (kind >= KINDS || depth > ARRAY_DEPTH_MAX) return false;
    if (KIND_BYTES[kind]) {
        if (count > c->len / KIND_BYTES[kind]) return false;
        return take(c, count * KIND_BYTES[kind]) != NULL;
    }
    struct gguf_string ignored;
    for (uint64_t i = 0; i < count; i++)
        if (kind == KIND_STRING ? !take_string(c, &ignored) : !skip_array(c, depth)) return false;
    return true;
}

static enum err_code read_key(struct cursor *c, struct key *key, struct err *e)
{
    if (!take_string(c, &key->name)) return corrupt_end(c, "a metadata key", e);
    if (key->name.len == 0 || key->name.len > NAME_MAX_BYTES)
        return err_set(e, ERR_CORRUPT, "%s: a metadata key before offset %zu has %zu bytes; 1 to %d would be right",
                       c->path, c->at, key->name.len, NAME_MAX_BYTES);
    if (!take_u32(c, &key->kind)) return corrupt_end(c, "a metadata kind", e);
    key->count = 1;
    key->element = key->kind;
    if (key->kind == KIND_ARRAY && (!take_u32(c, &key->element) || !take_u64(c, &key->count)))
        return corrupt_end(c, "an array's head", e);
    if (key->kind >= KINDS || key->element >= KINDS)
        return err_set(e, ERR_CORRUPT, "%s: key '%s' before offset %zu has kind %u; kinds go up to %d", c->path,
                       LABEL(key->name), c->at,
                       key->kind >= KINDS ? key->kind : key->element, KINDS - 1);
    key->value = c->data + c->at;
    size_t start = c->at;
    if (!skip_elements(c, key->element, key->count, key->kind == KIND_ARRAY))
        return err_set(e, ERR_CORRUPT,
                       "%s: the value of key '%s' at offset %zu does not fit in the file (%llu elements of kind %u)",
                       c->path, LABEL(key->name), start,
                       (unsigned long long)key->count, key->element);
    key->bytes = c->at - start;
    return ERR_OK;
}

static int key_order(const void *a, const void *b)
{
    return string_order(((const struct key *)a)->name, ((const struct key *)b)->name);
}

static enum err_code read_keys(struct cursor *c, uint64_t count, struct key **out, struct err *e)
{
    if (count > KEYS_MAX || count > c->len / 13)
        return err_set(e, ERR_CORRUPT, "%s: %llu metadata keys in %zu bytes; at most %d are read", c->path,
                       (unsigned long long)count, c->len, KEYS_MAX);
    struct key *keys = calloc((size_t)count + 1, sizeof *keys);
    if (!keys) return err_set(e, ERR_MEMORY, "%s: no memory for %llu metadata keys", c->path, (unsigned long long)count);
    *out = keys;
    for (uint64_t i = 0; i < count; i++) {
        enum err_code code = read_key(c, &keys[i], e);
        if (code) return code;
    }
    qsort(keys, (size_t)count, sizeof *keys, key_order);
    for (uint64_t i = 1; i < count; i++)
        if (string_order(keys[i - 1].name, keys[i].name) == 0)
            return err_set(e, ERR_CORRUPT, "%s: metadata key '%s' is there twice", c->path,
                           LABEL(keys[i].name));
    return ERR_OK;
}

static const struct key *key_in(const struct key *keys, int count, const char *name)
{
    struct key want = {.name = {name, strlen(name)}};
    return count ? bsearch(&want, keys, (size_t)count, sizeof want, key_order) : NULL;
}

static int64_t load_int(uint32_t kind, const uint8_t *p, int64_t otherwise)
{
    union {
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
        int64_t i64;
    } v = {0};
    if (kind >= KINDS) return otherwise;
    memcpy(&v, p, KIND_BYTES[kind]);
    switch (kind) {
    case KIND_U8: return *p;
    case KIND_I8: return (int8_t)*p;
    case KIND_U16: return v.u16;
    case KIND_I16: return v.i16;
    case KIND_U32: return v.u32;
    case KIND_I32: return v.i32;
    case KIND_U64: return v.u64 > INT64_MAX ? otherwise : (int64_t)v.u64;
    case KIND_I64: return v.i64;
    default: return otherwise;
    }
}

static int64_t key_int(const struct key *key, int64_t otherwise)
{
    return key ? load_int(key->kind, key->value, otherwise) : otherwise;
}

/* ---- the tensor table ---- */

static enum err_code tensor_size(const struct cursor *c, struct gguf_tensor *t, uint32_t type, struct err *e)
{
    const struct gguf_type_info *info = type < GGUF_FP8 ? gguf_type_info(type) : NULL; /* no file has the numbers of ours */
    if (!info)
        return err_set(e, ERR_UNSUPPORTED, "%s: tensor '%s' has element type %u, which this program does not know",
                       c->path, LABEL(t->name), type);
    t->type = (enum gguf_type)type;
    int64_t elements = 1;
    for (int d = 0; d < 4; d++)
        if (t->shape[d] < 1 || __builtin_mul_overflow(elements, t->shape[d], &elements) ||
            elements > INT64_MAX / 256)
            return err_set(e, ERR_CORRUPT, "%s: tensor '%s' has dimension %d of %lld, which cannot be", c->path,
                           LABEL(t->name), d, (long long)t->shape[d]);
    if (t->shape[0] % info->block_elements)
        return err_set(e, ERR_CORRUPT, "%s: tensor '%s' has rows of %lld, which is no multiple of %s's block of %d",
                       c->path, LABEL(t->name), (long long)t->shape[0], info->name, info->block_elements);
    t->bytes = elements / info->block_elements * info->block_bytes;
    return ERR_OK;
}

/* Leaves the offset within the data section in t->data, for place_tensor(). */
static enum err_code read_tensor(struct cursor *c, struct gguf_tensor *t, uint64_t *offset, struct err *e)
{
    uint32_t dims, type;
    if (!take_string(c, &t->name) || !take_u32(c, &dims)) return corrupt_end(c, "a tensor's name", e);
    if (t->name.len == 0 || t->name.len > NAME_MAX_BYTES)
        return err_set(e, ERR_CORRUPT, "%s: a tensor's name before offset %zu has %zu bytes; 1 to %d would be right",
                       c->path, c->at, t->name.len, NAME_MAX_BYTES);
    if (dims < 1 || dims > 4)
        return err_set(e, ERR_CORRUPT, "%s: tensor '%s' has %u dimensions; 1 to 4 would be right", c->path,
                       LABEL(t->name), dims);
    t->dims = (int)dims;
    for (uint32_t d = 0; d < 4; d++) {
        uint64_t size = 1;
        if (d < dims && !take_u64(c, &size)) return corrupt_end(c, "a tensor's shape", e);
        t->shape[d] = size > INT64_MAX ? -1 : (int64_t)size;
    }
    if (!take_u32(c, &type) || !take_u64(c, offset)) return corrupt_end(c, "a tensor's type and place", e);
    return tensor_size(c, t, type, e);
}

static enum err_code place_tensor(const struct cursor *c, struct gguf_tensor *t, uint64_t start, uint64_t offset,
                                  uint64_t alignment, struct err *e)
{
    uint64_t room = start < c->len ? c->len - start : 0;
    if (offset % alignment || offset > room || (uint64_t)t->bytes > room - offset)
        return err_set(e, ERR_CORRUPT,
                       "%s: tensor '%s' should lie at %llu + %llu with %lld bytes, aligned to %llu; the file has %zu",
                       c->path, LABEL(t->name), (unsigned long long)start,
                       (unsigned long long)offset, (long long)t->bytes, (unsigned long long)alignment, c->len);
    t->data = c->data + start + offset;
    return ERR_OK;
}

static int place_order(const void *a, const void *b)
{
    const struct gguf_tensor *x = a, *y = b;
    return ((uintptr_t)x->data > (uintptr_t)y->data) - ((uintptr_t)x->data < (uintptr_t)y->data);
}

/* Two tensors in one place are a lie: each byte of data has one meaning. */
static enum err_code check_apart(const char *path, const struct gguf_tensor *tensors, size_t count, struct err *e)
{
    if (count < 2) return ERR_OK;
    struct gguf_tensor *sorted = malloc(count * sizeof *sorted);
    if (!sorted) return err_set(e, ERR_MEMORY, "%s: no memory for %zu tensors", path, count);
    memcpy(sorted, tensors, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, place_order);
    enum err_code code = ERR_OK;
    for (size_t i = 1; i < count && !code; i++)
        if ((const char *)sorted[i - 1].data + sorted[i - 1].bytes > (const char *)sorted[i].data)
            code = err_set(e, ERR_CORRUPT, "%s: tensors '%s' and '%s' overlap", path, LABEL(sorted[i - 1].name),
                           LABEL(sorted[i].name));
    free(sorted);
    return code;
}

static enum err_code read_tensors(struct cursor *c, uint64_t count, uint64_t alignment, struct gguf *g,
                                  struct err *e)
{
    if (count > TENSORS_MAX - (uint64_t)g->tensor_count || count > c->len / 32)
        return err_set(e, ERR_CORRUPT, "%s: %llu tensors in %zu bytes; at most %d are read", c->path,
                       (unsigned long long)count, c->len, TENSORS_MAX);
    size_t all = (size_t)g->tensor_count + (size_t)count;
    struct gguf_tensor *grown = realloc(g->tensors, (all + 1) * sizeof *grown);
    uint64_t *offsets = malloc(((size_t)count + 1) * sizeof *offsets);
    enum err_code code = ERR_OK;
    if (grown) g->tensors = grown;
    if (!grown || !offsets) {
        code = err_set(e, ERR_MEMORY, "%s: no memory for %zu tensors", c->path, all);
        goto out;
    }
    struct gguf_tensor *added = grown + g->tensor_count;
    memset(added, 0, ((size_t)count + 1) * sizeof *grown);
    for (uint64_t i = 0; i < count && !code; i++) code = read_tensor(c, &added[i], &offsets[i], e);
    uint64_t start = (c->at + alignment - 1) / alignment * alignment;
    if (g->part_count == 1) g->header_bytes = c->at;
    for (uint64_t i = 0; i < count && !code; i++)
        code = place_tensor(c, &added[i], start, offsets[i], alignment, e);
    if (!code) code = check_apart(c->path, added, (size_t)count, e);
    if (!code) g->tensor_count = (int)all;
out:
    free(offsets);
    return code;
}

/* ---- parts ---- */

static enum err_code read_header(struct cursor *c, uint64_t *tensors, uint64_t *keys, struct err *e)
{
    const uint8_t *magic = take(c, 4);
    uint32_t version = 0;
    if (!magic || memcmp(magic, "GGUF", 4) != 0)
        return err_set(e, ERR_CORRUPT, "%s: not a GGUF file: its first bytes are not 'GGUF'", c->path);
    if (!take_u32(c, &version)) return corrupt_end(c, "the header", e);
    if (version >= 0x10000 && (version & 0xffff) == 0)
        return err_set(e, ERR_UNSUPPORTED, "%s: a big-endian GGUF file; convert it to little-endian", c->path);
    if (version != 2 && version != 3)
        return err_set(e, ERR_UNSUPPORTED, "%s: GGUF version %u; versions 2 and 3 are read", c->path, version);
    if (!take_u64(c, tensors) || !take_u64(c, keys)) return corrupt_end(c, "the header", e);
    return ERR_OK;
}

struct split {
    int64_t number, count, tensors;
};

/* Read the last of g->parts. The first part's keys stay with g; those of others are looked at and dropped. */
static enum err_code read_part(struct gguf *g, const char *path, struct split *split, struct err *e)
{
    const struct part *part = &g->parts[g->part_count - 1];
    struct cursor c = {part->data, part->len, 0, path};
    struct key *keys = NULL;
    uint64_t tensors = 0, count = 0;
    enum err_code code = read_header(&c, &tensors, &count, e);
    if (!code) code = read_keys(&c, count, &keys, e);
    if (code) goto out;
    int key_count = (int)count;
    int64_t alignment = key_int(key_in(keys, key_count, "general.alignment"), ALIGNMENT_DEFAULT);
    if (alignment < 1 || alignment > ALIGNMENT_MAX || (alignment & (alignment - 1))) {
        code = err_set(e, ERR_CORRUPT, "%s: general.alignment is %lld; a power of two up to %d would be right", path,
                       (long long)alignment, ALIGNMENT_MAX);
        goto out;
    }
    split->number = key_int(key_in(keys, key_count, "split.no"), 0);
    split->count = key_int(key_in(keys, key_count, "split.count"), 1);
    split->tensors = key_int(key_in(keys, key_count, "split.tensors.count"), -1);
    code = read_tensors(&c, tensors, (uint64_t)alignment, g, e);
    if (!code && g->part_count == 1) {
        g->keys = keys;
        g->key_count = key_count;
        keys = NULL;
    }
out:
    free(keys);
    return code;
}

static enum err_code add_part(struct gguf *g, const void *data, size_t len, int file, struct err *e)
{
    struct part *grown = realloc(g->parts, ((size_t)g->part_count + 1) * sizeof *grown);
    if (!grown) return err_set(e, ERR_MEMORY, "no memory for part %d", g->part_count + 1);
    g->parts = grown;
    grown[g->part_count++] = (struct part){data, len, file};
    return ERR_OK;
}

static enum err_code map_part(struct gguf *g, const char *path, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return err_set(e, ERR_IO, "%s: cannot be opened: %s", path, strerror(errno));
    enum err_code code = ERR_OK;
    struct stat st;
    void *map = MAP_FAILED;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        code = err_set(e, ERR_IO, "%s: not a plain file", path);
    else if (st.st_size < 24)
        code = err_set(e, ERR_CORRUPT, "%s: not a GGUF file: it has only %lld bytes", path, (long long)st.st_size);
    else if ((map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0)) == MAP_FAILED)
        code = err_set(e, ERR_IO, "%s: cannot be mapped: %s", path, strerror(errno));
    else
        code = add_part(g, map, (size_t)st.st_size, fd, e);
    if (!code) return ERR_OK;
    if (map != MAP_FAILED) munmap(map, (size_t)st.st_size);
    close(fd);
    return code;
}

/* "NAME-00001-of-00003.gguf" → the same with another number. */
static enum err_code sibling_path(const char *first, int64_t number, int64_t count, char *out, size_t size,
                                  struct err *e)
{
    char suffix[64];
    int n = snprintf(suffix, sizeof suffix, "-%05d-of-%05lld.gguf", 1, (long long)count);
    size_t len = strlen(first);
    if (n < 0 || len < (size_t)n || strcmp(first + len - n, suffix) != 0)
        return err_set(e, ERR_INVALID, "%s: part 1 of %lld; its name must end in '%s' for the others to be found", first,
                       (long long)count, suffix);
    int written = snprintf(out, size, "%.*s-%05lld-of-%05lld.gguf", (int)(len - (size_t)n), first,
                           (long long)number + 1, (long long)count);
    if (written < 0 || (size_t)written >= size) return err_set(e, ERR_TOO_LARGE, "%s: the path is too long", first);
    return ERR_OK;
}

static enum err_code open_siblings(struct gguf *g, const char *path, const struct split *first, struct err *e)
{
    char name[4096];
    for (int64_t i = 1; i < first->count; i++) {
        struct split split;
        enum err_code code = sibling_path(path, i, first->count, name, sizeof name, e);
        if (!code) code = map_part(g, name, e);
        if (!code) code = read_part(g, name, &split, e);
        if (code) return code;
        if (split.number != i || split.count != first->count)
            return err_set(e, ERR_CORRUPT, "%s: says it is part %lld of %lld; part %lld of %lld was expected", name,
                           (long long)split.number + 1, (long long)split.count, (long long)i + 1,
                           (long long)first->count);
    }
    return ERR_OK;
}

static enum err_code check_split(const char *path, const struct split *split, struct err *e)
{
    if (split->count < 1 || split->count > PARTS_MAX || split->number < 0 || split->number >= split->count)
        return err_set(e, ERR_CORRUPT, "%s: says it is part %lld of %lld, which cannot be", path,
                       (long long)split->number + 1, (long long)split->count);
    if (split->number != 0)
        return err_set(e, ERR_INVALID, "%s: part %lld of %lld; give the first part, the others are found by name", path,
                       (long long)split->number + 1, (long long)split->count);
    return ERR_OK;
}

/* ---- the index by name ---- */

static int by_name_order(const void *a, const void *b, void *tensors)
{
    const struct gguf_tensor *t = tensors;
    return string_order(t[*(const int *)a].name, t[*(const int *)b].name);
}

static enum err_code index_tensors(struct gguf *g, const char *path, struct err *e)
{
    g->by_name = malloc(((size_t)g->tensor_count + 1) * sizeof *g->by_name);
    if (!g->by_name) return err_set(e, ERR_MEMORY, "%s: no memory for the tensor index", path);
    for (int i = 0; i < g->tensor_count; i++) g->by_name[i] = i;
    qsort_r(g->by_name, (size_t)g->tensor_count, sizeof *g->by_name, by_name_order, g->tensors);
    for (int i = 1; i < g->tensor_count; i++) {
        struct gguf_string name = g->tensors[g->by_name[i]].name;
        if (string_order(g->tensors[g->by_name[i - 1]].name, name) == 0)
            return err_set(e, ERR_CORRUPT, "%s: tensor '%s' is there twice", path,
                           LABEL(name));
    }
    return ERR_OK;
}

/* ---- opening ---- */

static enum err_code read_all(struct gguf *g, const char *path, bool files, struct err *e)
{
    struct split split;
    enum err_code code = read_part(g, path, &split, e);
    if (!code) code = check_split(path, &split, e);
    if (!code && split.count > 1 && !files)
        code = err_set(e, ERR_UNSUPPORTED, "%s: a split model can only be opened from files", path);
    if (!code) code = open_siblings(g, path, &split, e);
    if (!code && split.count > 1 && split.tensors >= 0 && split.tensors != g->tensor_count)
        code = err_set(e, ERR_CORRUPT, "%s: the parts hold %d tensors; split.tensors.count says %lld", path,
                       g->tensor_count, (long long)split.tensors);
    if (!code) code = index_tensors(g, path, e);
    return code ? code : gguf_own_find(g, path, e);
}

enum err_code gguf_open(struct gguf **out, const char *path, struct err *e)
{
    struct gguf *g = calloc(1, sizeof *g);
    if (!g) return err_set(e, ERR_MEMORY, "%s: no memory", path);
    enum err_code code = map_part(g, path, e);
    if (!code) code = read_all(g, path, true, e);
    if (code) {
        gguf_close(g);
        return code;
    }
    *out = g;
    return ERR_OK;
}

enum err_code gguf_open_memory(struct gguf **out, const void *data, size_t len, struct err *e)
{
    struct gguf *g = calloc(1, sizeof *g);
    if (!g) return err_set(e, ERR_MEMORY, "no memory");
    enum err_code code = add_part(g, data, len, -1, e);
    if (!code) code = read_all(g, "memory", false, e);
    if (code) {
        gguf_close(g);
        return code;
    }
    *out = g;
    return ERR_OK;
}

void gguf_close(struct gguf *g)
{
    if (!g) return;
    for (int i = 0; i < g->part_count; i++) {
        const struct part *p = &g->parts[i];
        if (p->file < 0) continue;
        munmap((void *)(uintptr_t)p->data, p->len);
        close(p->file);
    }
    free(g->parts);
    free(g->keys);
    free(g->tensors);
    free(g->by_name);
    free(g);
}

/* ---- asking ---- */

int gguf_tensor_count(const struct gguf *g)
{
    return g->tensor_count;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, int index)
{
    return index >= 0 && index < g->tensor_count ? &g->tensors[index] : NULL;
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name)
{
    struct gguf_string want = {name, strlen(name)};
    int low = 0, high = g->tensor_count;
    while (low < high) {
        int middle = low + (high - low) / 2;
        int order = string_order(want, g->tensors[g->by_name[middle]].name);
        if (order == 0) return &g->tensors[g->by_name[middle]];
        if (order < 0) high = middle;
        else low = middle + 1;
    }
    return NULL;
}

static const struct key *find_key(const struct gguf *g, const char *key)
{
    return key_in(g->keys, g->key_count, key);
}

int64_t gguf_int(const struct gguf *g, const char *key, int64_t otherwise)
{
    return key_int(find_key(g, key), otherwise);
}

static double load_float(uint32_t kind, const uint8_t *p, double otherwise)
{
    float f;
    double d;
    if (kind == KIND_F32) {
        memcpy(&f, p, sizeof f);
        return (double)f;
    }
    if (kind != KIND_F64) return otherwise;
    memcpy(&d, p, sizeof d);
    return d;
}

double gguf_float(const struct gguf *g, const char *key, double otherwise)
{
    const struct key *k = find_key(g, key);
    return k ? load_float(k->kind, k->value, otherwise) : otherwise;
}

int gguf_bool(const struct gguf *g, const char *key, int otherwise)
{
    const struct key *k = find_key(g, key);
    return k && k->kind == KIND_BOOL ? *k->value != 0 : otherwise;
}

struct gguf_string gguf_str(const struct gguf *g, const char *key)
{
    const struct key *k = find_key(g, key);
    struct gguf_string none = {NULL, 0}, text;
    if (!k || k->kind != KIND_STRING) return none;
    struct cursor c = {k->value, k->bytes, 0, ""};
    return take_string(&c, &text) ? text : none;
}

static const struct key *find_array(const struct gguf *g, const char *name)
{
    const struct key *k = find_key(g, name);
    return k && k->kind == KIND_ARRAY && k->count <= INT64_MAX ? k : NULL;
}

int64_t gguf_array_strings(const struct gguf *g, const char *name, struct gguf_string *out, int64_t max)
{
    const struct key *k = find_array(g, name);
    if (!k || k->element != KIND_STRING) return -1;
    struct cursor c = {k->value, k->bytes, 0, ""};
    for (int64_t i = 0; i < max && (uint64_t)i < k->count; i++)
        if (!take_string(&c, &out[i])) return -1;
    return (int64_t)k->count;
}

int64_t gguf_array_ints(const struct gguf *g, const char *name, int64_t *out, int64_t max)
{
    const struct key *k = find_array(g, name);
    if (!k || k->element == KIND_F32 || k->element == KIND_F64 || k->element == KIND_STRING ||
        k->element == KIND_ARRAY)
        return -1;
    size_t step = KIND_BYTES[k->element];
    for (int64_t i = 0; i < max && (uint64_t)i < k->count; i++) {
        const uint8_t *p = k->value + (size_t)i * step;
        out[i] = k->element == KIND_BOOL ? *p != 0 : load_int(k->element, p, INT64_MAX);
    }
    return (int64_t)k->count;
}

int64_t gguf_array_floats(const struct gguf *g, const char *name, float *out, int64_t max)
{
    const struct key *k = find_array(g, name);
    if (!k || (k->element != KIND_F32 && k->element != KIND_F64)) return -1;
    size_t step = KIND_BYTES[k->element];
    for (int64_t i = 0; i < max && (uint64_t)i < k->count; i++)
        out[i] = (float)load_float(k->element, k->value + (size_t)i * step, 0);
    return (int64_t)k->count;
}

const void *gguf_header(const struct gguf *g, size_t *len)
{
    *len = g->header_bytes;
    return g->parts[0].data;
}

bool gguf_key_at(const struct gguf *g, int index, struct gguf_key *out)
{
    if (index < 0 || index >= g->key_count) return false;
    const struct key *k = &g->keys[index];
    *out = (struct gguf_key){k->name, k->kind, k->element, k->count, k->value, k->bytes};
    return true;
}
