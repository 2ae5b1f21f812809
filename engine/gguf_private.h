/* What the files of gguf share: an opened model file. */
#ifndef RUNG_ENGINE_GGUF_PRIVATE_H
#define RUNG_ENGINE_GGUF_PRIVATE_H

#include "engine/gguf.h"

struct key {
    struct gguf_string name;
    uint32_t kind, element; /* element: the kind of an array's elements */
    uint64_t count;         /* of an array */
    const uint8_t *value;   /* the scalar, the string's length word, or an array's first element */
    size_t bytes;           /* from value to the end of this pair */
};

struct part {
    const uint8_t *data;
    size_t len;
    int file; /* what is mapped; -1: memory that is not ours */
};

struct gguf {
    struct part *parts;
    int part_count;
    struct key *keys; /* of the first part, sorted by name */
    int key_count;
    struct gguf_tensor *tensors; /* in the file's order */
    int tensor_count;
    int *by_name; /* (tensor_count) indexes into tensors, sorted by name */
    size_t header_bytes;
};

#endif
