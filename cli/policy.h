/* Asking a running node to change its policy; the node alone writes its log. */
#ifndef RUNG_CLI_POLICY_H
#define RUNG_CLI_POLICY_H

#include "cli/client.h"

/* Sends one command (node/node.h, node_policy_command) and prints the policy in force after it, or with `json` the
 * node's answer. `command` NULL only asks for it. Takes the command. Returns an exit code; errors on stderr. */
int policy_send(const char *name, const struct client_options *where, json_t *command, bool json);

#endif
