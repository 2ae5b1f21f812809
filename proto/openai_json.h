/* What the openai*.c files share: reading JSON from strangers within bounds, and writing JSON straight into a
 * struct buf. Not part of the room's face. */
#ifndef RUNG_PROTO_OPENAI_JSON_H
#define RUNG_PROTO_OPENAI_JSON_H

#include "proto/msg.h"

#include <jansson.h>

enum {
    OPENAI_DEPTH_MAX = 64,      /* levels of nesting in anything we read */
    OPENAI_VALUES_MAX = 1 << 17 /* values in one text: bounds what a parsed tree weighs against its bytes */
};

/* One JSON object. Duplicate keys, NULs, deeper than OPENAI_DEPTH_MAX or more than OPENAI_VALUES_MAX are refused.
 * Errors: ERR_SYNTAX (line and column), ERR_INVALID (too deep), ERR_TOO_LARGE, ERR_MEMORY. */
ERR_CHECKED enum err_code openai_json_object(json_t **out, const char *text, size_t len, struct err *e);
/* The same for any value. */
ERR_CHECKED enum err_code openai_json_value(json_t **out, const char *text, size_t len, struct err *e);
/* "a string", "the number 3", "an array" … for sentences. Returns `out`. */
const char *openai_json_what(const json_t *value, char *out, size_t size);
/* Compact text of a value, appended. */
enum err_code openai_json_dump(struct buf *out, const json_t *value);
/* Members of an object, NULL where absent or of another type. */
const char *openai_json_string(const json_t *object, const char *key);
int64_t openai_json_int(const json_t *object, const char *key);

/* A quoted string; what is not UTF-8 becomes U+FFFD. NULL writes null. */
void openai_write_text(struct buf *out, const char *text, size_t len);
void openai_write_string(struct buf *out, const char *text);
/* The same without the quotes. */
void openai_write_inside(struct buf *out, const char *text, size_t len);
void openai_write_int(struct buf *out, int64_t value);
/* At most `decimals` (0 to 12) of them, no trailing zeros; what is not finite becomes null. A tenth of printf's time. */
void openai_write_fixed(struct buf *out, double value, int decimals);
/* Length of the UTF-8 sequence at the start of `text` (1 to 4), or 0 when there is no whole valid one. */
size_t openai_utf8_length(const char *text, size_t len);

#endif
