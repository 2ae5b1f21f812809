/* A model's identity: two engines with the same one give the same logits for the same tokens. */
#ifndef RUNG_ENGINE_MODEL_IDENTITY_H
#define RUNG_ENGINE_MODEL_IDENTITY_H

#include "engine/gguf.h"

/* 64 hex digits and a NUL: SHA-256 over the file's head (metadata, tokenizer, tensor table) and samples of every
 * tensor's bytes. `path` is the file the gguf was opened from. Errors: ERR_IO, ERR_MEMORY. */
ERR_CHECKED enum err_code model_identity(const struct gguf *gguf, const char *path, char out[65], struct err *e);

#endif
