/* The log for people: one line `level event key=value …` on stderr. Decisions go to SQLite, never here.
 *
 * Values with spaces, quotes or control characters are quoted by the caller's format with %s only for our own
 * words; use textlog_quote() for what came from outside. Thread-safe (one write a line); never blocks on a lock.
 */
#ifndef RUNG_BASE_TEXTLOG_H
#define RUNG_BASE_TEXTLOG_H

#include <stddef.h>

enum textlog_level { TEXTLOG_DEBUG, TEXTLOG_INFO, TEXTLOG_WARN, TEXTLOG_ERROR };

/* Lines under `level` are dropped; default info. `node` (copied, may be NULL) is shown as node=… on every line. */
void textlog_setup(enum textlog_level level, const char *node);
void textlog(enum textlog_level level, const char *event, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* `text` as a quoted, escaped, bounded word in `out`; returns `out`. */
const char *textlog_quote(const char *text, char *out, size_t size);

#endif
