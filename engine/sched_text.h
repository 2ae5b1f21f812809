/* The text of one answer as it may be shown: whole characters, and nothing that may yet turn out to be the beginning of
 * a stop string. Single owner. */
#ifndef RUNG_ENGINE_SCHED_TEXT_H
#define RUNG_ENGINE_SCHED_TEXT_H

#include "engine/utf8.h"

enum { TEXT_STOPS_MAX = 16, TEXT_STOP_BYTES_MAX = 1024 };

struct text {
    struct utf8_stream utf8;
    struct buf held;   /* whole characters not shown yet */
    struct buf shown;  /* what the last feed or end released */
    char *stop[TEXT_STOPS_MAX];
    size_t stop_len[TEXT_STOPS_MAX];
    int stops;
};

/* Copies the stop strings. Errors: ERR_INVALID (too many, empty or too long), ERR_MEMORY. */
ERR_CHECKED enum err_code text_init(struct text *t, const char *const *stop, int stops, struct err *e);
void text_release(struct text *t);
/* Add a token's bytes; `shown` holds what may be shown now. True when a stop string is complete: nothing follows. */
bool text_feed(struct text *t, const char *bytes, size_t len);
/* No more tokens: `shown` holds the rest. */
void text_end(struct text *t);

#endif
