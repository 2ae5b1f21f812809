/* Writes GGUF v3 files: metadata, then tensors declared, then their bytes in the order of declaration.
 * The file appears under its name only when it is whole (written beside it, synced, renamed). Single owner. */
#ifndef RUNG_ENGINE_GGUF_WRITE_H
#define RUNG_ENGINE_GGUF_WRITE_H

#include "base/buf.h"
#include "engine/gguf.h"

struct gguf_writer;

ERR_CHECKED enum err_code gguf_writer_open(struct gguf_writer **out, const char *path, struct err *e);
/* Throws away what is not finished. NULL is fine. */
void gguf_writer_close(struct gguf_writer *w);

/* Metadata. A key given again replaces the one before. Failures (ERR_MEMORY) are told by gguf_writer_begin. */
void gguf_write_u32(struct gguf_writer *w, const char *key, uint32_t v);
void gguf_write_f32(struct gguf_writer *w, const char *key, float v);
void gguf_write_bool(struct gguf_writer *w, const char *key, bool v);
void gguf_write_str(struct gguf_writer *w, const char *key, const char *v);
void gguf_write_strings(struct gguf_writer *w, const char *key, const struct gguf_string *v, size_t count);
void gguf_write_ints(struct gguf_writer *w, const char *key, const int32_t *v, size_t count);
void gguf_write_floats(struct gguf_writer *w, const char *key, const float *v, size_t count);
void gguf_write_key(struct gguf_writer *w, const struct gguf_key *key); /* as it lies in another file */

/* Declare a tensor; shape[0] runs fastest. For GGUF_FP8 a second one, NAME.scale, is declared behind it: its data are the
 * E4M3 bytes, then an F32 for each row. GGUF_W4A16 takes whole panels of 8 rows. The keys that name them are written too.
 * Errors: ERR_INVALID (a row that is no multiple of the type's block). */
ERR_CHECKED enum err_code gguf_write_tensor(struct gguf_writer *w, const char *name, enum gguf_type type, int dims,
                                            const int64_t *shape, struct err *e);
/* Write the head. After it only data. */
ERR_CHECKED enum err_code gguf_writer_begin(struct gguf_writer *w, struct err *e);
/* The next bytes of the tensor at hand; a tensor that is full is padded and the next begins. */
ERR_CHECKED enum err_code gguf_write_data(struct gguf_writer *w, const void *data, size_t len, struct err *e);
/* Every tensor must be full. Syncs and renames. */
ERR_CHECKED enum err_code gguf_writer_finish(struct gguf_writer *w, struct err *e);

#endif
