/* UTF-8 for text that arrives in pieces: whole characters only, and U+FFFD for bytes that are none.
 * Which bytes are well-formed: Unicode 15, section 3.9, table 3-7; one U+FFFD per maximal ill-formed subpart.
 * Single owner, no allocation. */
#ifndef RUNG_ENGINE_UTF8_H
#define RUNG_ENGINE_UTF8_H

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decode the character at `text` (len > 0 bytes). Returns the bytes it takes, 1 to 4, and its code point in `*out`;
 * an ill-formed start takes its maximal subpart (1 to 3 bytes) and gives UTF8_BAD. `*out` is UTF8_CUT when all `len`
 * bytes are the beginning of a character that could still be completed. */
enum { UTF8_BAD = -1, UTF8_CUT = -2 };
size_t utf8_next(const char *text, size_t len, int32_t *out);
/* Encode a code point (below 0x110000) into `out`; returns 1 to 4. Surrogates are encoded as three bytes. */
size_t utf8_put(int32_t code_point, char out[4]);
/* Bytes of `text` up to the end of its last whole character: what may be sent now when more may follow. */
size_t utf8_whole(const char *text, size_t len);

/* The bytes of a character begun in the last piece. Start with {0}. */
struct utf8_stream {
    char held[4];
    unsigned char len;
};
/* Append to `out` everything in `piece` that is complete, keeping an unfinished character for the next call.
 * Errors: those of `out`. */
ERR_CHECKED enum err_code utf8_stream_feed(struct utf8_stream *s, const char *piece, size_t len, struct buf *out);
/* The text is over: an unfinished character becomes U+FFFD. */
ERR_CHECKED enum err_code utf8_stream_end(struct utf8_stream *s, struct buf *out);

#endif
