/* How fast this machine's threads read memory: what decoding cannot beat. */
#ifndef RUNG_ENGINE_CPU_BANDWIDTH_H
#define RUNG_ENGINE_CPU_BANDWIDTH_H

#include "base/err.h"

#include <stddef.h>

/* Bytes a second of `threads` threads reading `bytes` of memory front to back, the best of several rounds. Blocks for
 * some tenths of a second. */
ERR_CHECKED enum err_code bandwidth_measure(int threads, size_t bytes, double *out, struct err *e);

#endif
