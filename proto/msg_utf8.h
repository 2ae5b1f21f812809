/* UTF-8 as RFC 3629 has it: shortest forms only, no surrogates, nothing past U+10FFFF. Private to proto/. */
#ifndef RUNG_PROTO_MSG_UTF8_H
#define RUNG_PROTO_MSG_UTF8_H

#include <stddef.h>

/* How many of the `len` bytes from the front are whole, valid characters: `len` when all are. */
size_t msg_utf8_valid(const char *text, size_t len);

#endif
