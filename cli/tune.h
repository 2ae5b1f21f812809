/* The parts of `rung tune`. */
#ifndef RUNG_CLI_TUNE_H
#define RUNG_CLI_TUNE_H

#include "cli/client.h"

#include <stdbool.h>
#include <stdint.h>

struct tune_refit {
    const char *log, *node, *router, *out;
    int64_t since_wall_ms;
    const struct client_options *where;
    bool json, apply;
};
/* Returns an exit code. */
int tune_refit(const struct tune_refit *options);

#endif
