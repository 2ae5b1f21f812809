/* A growing byte buffer with a mandatory limit, always closed by a NUL that does not count.
 *
 * Appending past the limit or out of memory returns ERR_TOO_LARGE or ERR_MEMORY, leaves the content as it was and
 * marks the buffer failed, so that a chain of appends can be checked once at its end with buf_ok().
 * Not thread-safe: one owner.
 */
#ifndef RUNG_BASE_BUF_H
#define RUNG_BASE_BUF_H

#include "base/err.h"

#include <stddef.h>

struct buf {
    char *data; /* never NULL after buf_init: "" while empty */
    size_t len, cap, max;
    enum err_code failed; /* ERR_OK, or why the first failing append failed */
};

#define BUF_INIT(limit) {(char *)"", 0, 0, (limit), ERR_OK}

void buf_init(struct buf *b, size_t max);
void buf_release(struct buf *b); /* frees; ready for use again with the same limit */
/* Room for `more` bytes at once, where their number is known beforehand. Errors as of appending. */
enum err_code buf_reserve(struct buf *b, size_t more);
void buf_clear(struct buf *b);   /* empties, keeps the memory, forgets a failure */
enum err_code buf_add(struct buf *b, const void *data, size_t len);
enum err_code buf_adds(struct buf *b, const char *text);
enum err_code buf_addc(struct buf *b, char c);
enum err_code buf_addf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Remove `len` bytes from the front. */
void buf_drop(struct buf *b, size_t len);
/* Hand the malloc'd bytes to the caller (who frees them); the buffer is empty after. NULL when out of memory. */
char *buf_take(struct buf *b, size_t *len);
static inline bool buf_ok(const struct buf *b)
{
    return b->failed == ERR_OK;
}

#endif
