/* GGUF files (v2 and v3, split ones too), memory-mapped and checked before use.
 * Source: the GGUF specification, ggml-org/ggml docs/gguf.md. Single owner; read-only after opening, any thread. */
#ifndef RUNG_ENGINE_GGUF_H
#define RUNG_ENGINE_GGUF_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Element types with their numbers in the file. */
enum gguf_type {
    GGUF_F32 = 0, GGUF_F16 = 1, GGUF_Q4_0 = 2, GGUF_Q4_1 = 3, GGUF_Q5_0 = 6, GGUF_Q5_1 = 7, GGUF_Q8_0 = 8,
    GGUF_Q2_K = 10, GGUF_Q3_K = 11, GGUF_Q4_K = 12, GGUF_Q5_K = 13, GGUF_Q6_K = 14, GGUF_IQ4_NL = 20,
    GGUF_I8 = 24, GGUF_BF16 = 30,
    GGUF_FP8 = 1000, GGUF_W4A16 = 1001 /* ours: I8 in the file, named by keys (engine/gguf_own.h) */
};
struct gguf_type_info {
    const char *name;
    int block_elements, block_bytes; /* 1 and the element's size for plain types; W4A16: of a row, which lies in panels of 8 */
};
/* NULL for a type this program does not know. */
const struct gguf_type_info *gguf_type_info(uint32_t type);

struct gguf_string {
    const char *data; /* into the map; not closed by NUL */
    size_t len;
};
struct gguf_tensor {
    struct gguf_string name;
    enum gguf_type type;
    int dims;
    int64_t shape[4];  /* shape[0] runs fastest: a (rows, cols) matrix has shape {cols, rows} */
    const void *data;  /* into the map, checked to lie inside it; NULL: of a shape alone (model_shape.h) */
    int64_t bytes;
    const float *scale; /* (rows) FP8: value = E4M3 × scale of its row */
    bool is_scale;      /* these are an FP8 tensor's scales */
};

struct gguf;

/* Map and check a file. For a split file give its first part; all parts are opened.
 * Errors: ERR_IO, ERR_CORRUPT (what and at which offset), ERR_UNSUPPORTED, ERR_MEMORY. */
ERR_CHECKED enum err_code gguf_open(struct gguf **out, const char *path, struct err *e);
/* The same from memory that outlives the result (tests, fuzzers). */
ERR_CHECKED enum err_code gguf_open_memory(struct gguf **out, const void *data, size_t len, struct err *e);
void gguf_close(struct gguf *gguf);

int gguf_tensor_count(const struct gguf *gguf);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *gguf, int index);
const struct gguf_tensor *gguf_tensor_find(const struct gguf *gguf, const char *name); /* NULL: none */

/* Metadata; the getters give `otherwise` where the key is missing or of another kind. Integers of any width are
 * widened; a value that does not fit gives `otherwise`. */
int64_t gguf_int(const struct gguf *gguf, const char *key, int64_t otherwise);
double gguf_float(const struct gguf *gguf, const char *key, double otherwise);
int gguf_bool(const struct gguf *gguf, const char *key, int otherwise);
struct gguf_string gguf_str(const struct gguf *gguf, const char *key); /* data NULL: none */
/* Arrays: the element count, or -1 where the key is missing or no array of that kind. */
int64_t gguf_array_strings(const struct gguf *gguf, const char *key, struct gguf_string *out, int64_t max);
int64_t gguf_array_ints(const struct gguf *gguf, const char *key, int64_t *out, int64_t max);
int64_t gguf_array_floats(const struct gguf *gguf, const char *key, float *out, int64_t max);
/* Where a tensor's data stand in their file, to be read from there; false: they are not in a file. The descriptor stays gguf's. */
bool gguf_place(const struct gguf *gguf, const void *data, int *file, int64_t *offset);
/* Bytes of the files, and how many there are. */
int64_t gguf_file_bytes(const struct gguf *gguf);
/* The tensors' bytes have been copied: mapped pages need no memory until they are read again. */
void gguf_drop_pages(const struct gguf *gguf);
void gguf_drop_tensor(const struct gguf *gguf, const struct gguf_tensor *tensor);
/* The first part's bytes from its start to the end of the tensor table (metadata and shapes): what an identity hashes. */
const void *gguf_header(const struct gguf *gguf, size_t *len);

/* One metadata pair as it lies in the file, for copying (value: the bytes after the kind, an array's after its head). */
struct gguf_key {
    struct gguf_string name;
    uint32_t kind, element; /* the file's numbers; element is that of an array (kind 9) */
    uint64_t count;         /* of an array; else 1 */
    const void *value;
    size_t bytes;
};
/* The index-th pair in the order of names; false past the last. */
bool gguf_key_at(const struct gguf *gguf, int index, struct gguf_key *out);

#endif
