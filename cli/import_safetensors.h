/* Hugging Face's safetensors files, memory-mapped and checked: eight bytes of length, a JSON head, the data.
 * Source: github.com/huggingface/safetensors, README ("Format"). */
#ifndef RUNG_CLI_IMPORT_SAFETENSORS_H
#define RUNG_CLI_IMPORT_SAFETENSORS_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

enum st_type { ST_F32, ST_F16, ST_BF16, ST_OTHER };
struct st_tensor {
    char *name;
    enum st_type type;
    int dims;
    int64_t shape[4]; /* shape[dims - 1] runs fastest, as the file has it */
    const void *data; /* into the map; NULL for ST_OTHER */
    int64_t elements;
};
struct st_file;
struct st_set {
    struct st_file *files;
    int file_count;
    struct st_tensor *tensors; /* by name */
    int tensor_count;
};

/* Every tensor of a folder: the files that its index names, or all that end in .safetensors.
 * Errors: ERR_IO, ERR_CORRUPT, ERR_NOT_FOUND (no such file), ERR_MEMORY. */
ERR_CHECKED enum err_code st_open(struct st_set *out, const char *folder, struct err *e);
void st_close(struct st_set *set);
const struct st_tensor *st_find(const struct st_set *set, const char *name); /* NULL: none */

#endif
