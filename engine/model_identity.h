/* A model's identity: two engines with the same one give the same logits for the same tokens. */
#ifndef RUNG_ENGINE_MODEL_IDENTITY_H
#define RUNG_ENGINE_MODEL_IDENTITY_H

#include "engine/gguf.h"

/* 64 hex digits and a NUL: SHA-256 over the file's head (metadata, tokenizer, tensor table) and samples of every
 * tensor's bytes. */
void model_identity(const struct gguf *gguf, char out[65]);

#endif
