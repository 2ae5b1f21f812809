/* The first generations of an engine, before anyone waits for them: whatever is made at first use (kernels, page tables,
 * buffers the system gives page by page) is made then. */
#ifndef RUNG_NODE_LOCAL_WARM_H
#define RUNG_NODE_LOCAL_WARM_H

#include "engine/engine.h"

#include <stdatomic.h>

/* One, two, four … sequences at once up to all slots, then a prompt of `prompt_tokens` (0: a step's worth). Blocks, at most some
 * minutes; ends early where `stop` becomes true. Errors: ERR_TIMEOUT, and that of the first generation that failed. */
ERR_CHECKED enum err_code local_warm(struct engine *engine, int prompt_tokens, const atomic_bool *stop, struct err *e);

#endif
