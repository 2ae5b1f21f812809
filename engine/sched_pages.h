/* KV pages: who holds them, and which hold what tokens, so that sequences share a common beginning.
 *
 * A full page can be entered into the prefix cache under (the page before it, its tokens); cached pages form a radix
 * tree of whole pages. A page that no sequence holds stays cached until its memory is wanted: then the least recently
 * used leaf goes first. One owner (the scheduler thread). */
#ifndef RUNG_ENGINE_SCHED_PAGES_H
#define RUNG_ENGINE_SCHED_PAGES_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct pages;
ERR_CHECKED enum err_code pages_open(struct pages **out, int count, int page_tokens, struct err *e);
void pages_close(struct pages *p);

/* A page for one holder, evicting a cached one if need be; -1 when every page is held. */
int32_t pages_take(struct pages *p);
void pages_hold(struct pages *p, int32_t page);
/* One holder less. A page that is not cached is free at zero. */
void pages_drop(struct pages *p, int32_t page);

/* The cached page that follows `before` (-1: the beginning) with these tokens, or -1. Marks it used. */
int32_t pages_find(struct pages *p, int32_t before, const int32_t *tokens);
/* Enter a full page, held by the caller, whose predecessor is cached or -1. Returns the page to use from now on: another
 * with the same content where there is one (held for the caller; `page` is dropped), else `page`. */
int32_t pages_enter(struct pages *p, int32_t before, int32_t page, const int32_t *tokens);

/* By how many a page is held. */
int pages_holders(const struct pages *p, int32_t page);
int pages_total(const struct pages *p);
int pages_held(const struct pages *p);   /* by sequences */
int pages_cached(const struct pages *p); /* kept for reuse, held by none */

#endif
