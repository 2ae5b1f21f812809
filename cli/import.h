/* `rung import`'s parts. Each reads one kind of source and writes a GGUF, or a link to one. */
#ifndef RUNG_CLI_IMPORT_H
#define RUNG_CLI_IMPORT_H

#include "base/err.h"
#include "cli/import_safetensors.h"
#include "engine/gguf_write.h"

#include <jansson.h>
#include <stdbool.h>

struct import_options {
    const char *source, *out;
    const char *pre;       /* the pre-tokenizer's name, or NULL: found out */
    int type;              /* enum gguf_type of the matrices, or -1: as they are */
    bool copy;             /* Ollama: copy the blob rather than link it */
};

/* A folder of Hugging Face's: config.json, *.safetensors, tokenizer.json or tokenizer.model. */
ERR_CHECKED enum err_code import_folder(const struct import_options *o, struct err *e);
/* A model that Ollama pulled, by its name in the store. */
ERR_CHECKED enum err_code import_ollama(const struct import_options *o, struct err *e);

/* ---- import_folder's parts ---- */

/* A JSON file of the folder; NULL where it is missing or no JSON. */
json_t *import_json(const char *folder, const char *name);
/* The whole of a file of the folder, malloc'd and closed by a NUL; NULL where it is missing or too large. */
char *import_text(const char *folder, const char *name, size_t *len);

/* Write the tokenizer's keys for a model of `vocabulary` rows. */
ERR_CHECKED enum err_code import_tokenizer(struct gguf_writer *w, const struct import_options *o, const json_t *config,
                                           int vocabulary, struct err *e);
/* The pieces of a SentencePiece model file (protobuf). */
struct spm_piece {
    struct gguf_string text; /* into `data` */
    float score;
    int kind; /* as GGUF numbers token types */
};
ERR_CHECKED enum err_code import_spm(const char *data, size_t len, struct spm_piece **pieces, int *count,
                                     bool *space_prefix, struct err *e);

#endif
