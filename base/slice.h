/* How the kernel shares processors out between our threads. Wishes only: where it does not know them, or forbids them, all
 * stays as it was. For the calling thread, and for those it starts later.
 */
#ifndef RUNG_BASE_SLICE_H
#define RUNG_BASE_SLICE_H

/* Short turns, often: when it wakes it need not wait for another thread's turn to end (Linux 6.12 and later). Its share of the
 * processor stays the same. */
void slice_short(void);
/* Long turns, seldom, and a smaller share where there is not enough for all: work that nobody waits for. */
void slice_long(void);

#endif
