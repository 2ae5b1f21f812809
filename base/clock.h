/* Time. Intervals come from the monotonic clock, dates from the wall clock; never mix them. */
#ifndef RUNG_BASE_CLOCK_H
#define RUNG_BASE_CLOCK_H

#include <stdint.h>

int64_t clock_mono_us(void); /* microseconds since some fixed point of this process's machine */
int64_t clock_mono_ms(void);
int64_t clock_wall_ms(void); /* milliseconds since 1970-01-01 UTC */

#endif
