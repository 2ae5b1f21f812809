/* The few option shapes that the client commands share: --name VALUE, --name=VALUE, and --name alone. */
#ifndef RUNG_CLI_CLIENT_OPTIONS_H
#define RUNG_CLI_CLIENT_OPTIONS_H

#include "base/tier.h"

#include <stdbool.h>

struct cli_option {
    const char *name;   /* "--tier" */
    const char **value; /* where its value goes; NULL: a flag */
    bool *flag;
};
/* Sorts argv (after its own name): options are taken, what is left is moved to the front of argv[1…]. Returns how many
 * words are left, or -1 after an error was printed on stderr. `--` ends the options; a lone "-" is a word. */
int cli_options_read(int argc, char **argv, const struct cli_option *options, int option_count);
/* "edge", "region", "core", printing what is wrong on stderr. NULL gives `fallback`. */
bool cli_tier_read(const char *command, const char *text, enum tier fallback, enum tier *out);

#endif
