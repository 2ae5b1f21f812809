/* Tokenizers: SPM and byte-level BPE with the published pre-tokenizers. Read-only after opening: any thread. */
#ifndef RUNG_ENGINE_TOKENIZER_H
#define RUNG_ENGINE_TOKENIZER_H

#include "engine/gguf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tokenizer;

/* From a file's metadata. Copies what it needs: the gguf may be closed after.
 * Errors: ERR_UNSUPPORTED (an unknown model or pre-tokenizer, by name), ERR_CORRUPT, ERR_MEMORY. */
ERR_CHECKED enum err_code tokenizer_open(struct tokenizer **out, const struct gguf *gguf, struct err *e);
void tokenizer_close(struct tokenizer *t);

/* See engine_tokenize(); flags are its ENGINE_TOKENIZE_*. */
ERR_CHECKED enum err_code tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, int flags,
                                           int32_t **ids, int *count, struct err *e);
size_t tokenizer_bytes(const struct tokenizer *t, int32_t id, bool special, char *out, size_t size);
int tokenizer_vocabulary(const struct tokenizer *t);
int32_t tokenizer_find(const struct tokenizer *t, const char *piece); /* the id of a whole token; -1 */
bool tokenizer_is_end(const struct tokenizer *t, int32_t id); /* EOS, EOT, or another end-of-generation token */
int32_t tokenizer_bos(const struct tokenizer *t);
int32_t tokenizer_eos(const struct tokenizer *t);
bool tokenizer_is_control(const struct tokenizer *t, int32_t id);
/* Whether the ids of one mean the same tokens in the other; at the end one may have more that are unused (padding).
 * Errors: ERR_INVALID, "its …, the model's …" of the first token that differs. */
ERR_CHECKED enum err_code tokenizer_same(const struct tokenizer *its, const struct tokenizer *models, struct err *e);

#endif
