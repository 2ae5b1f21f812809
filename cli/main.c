#include "cli/cli.h"

#include <stdio.h>
#include <string.h>

/* Every subcommand, in the order `rung --help` shows them. */
const struct cli_command CLI_COMMANDS[] = {
    {"edge", "run the device's node: local socket, local model, escalation", cmd_edge},
    {"region", "run a region's node: a broker with workers", cmd_region},
    {"core", "run the core's node: the largest model or upstreams", cmd_core},
    {"worker", "serve a region's or core's broker with an engine of one's own", cmd_worker},
    {"ask", "ask one question and print the answer", cmd_ask},
    {"chat", "talk with the node, a line a turn", cmd_chat},
    {"status", "tell whether the node is ready, and what it has done", cmd_status},
    {"models", "list the models that answer now", cmd_models},
    {"log", "read the decision log: tail, summary, SQL, export", cmd_log},
    {"why", "tell how one request was decided and what would have changed it", cmd_why},
    {"tune", "what other thresholds would have got right, cost and taken", cmd_tune},
    {"route", "say where a prompt would go, without answering it", cmd_route},
    {"policy", "show or change the policy of a running node", cmd_policy},
    {"router", "fit and judge the classifier", cmd_router},
    {"evidence", "what an edge model shows while it answers, for the router's probe", cmd_evidence},
    {"check", "tell what is wrong with a configuration file", cmd_check},
    {"config", "print every key of the configuration, or the values in force", cmd_config},
    {"keys", "make and show the keys by which nodes know each other", cmd_keys},
    {"generate", "answer one prompt with a model file", cmd_generate},
    {"perplexity", "how well a model foretells a text", cmd_perplexity},
    {"quantize", "write a model file in a smaller type", cmd_quantize},
    {"bench", "measure the engine on this machine", cmd_bench},
    {"import", "make a model file from a Hugging Face folder or an Ollama model", cmd_import},
    {"tokenize", "turn text on stdin into a model's token ids", cmd_tokenize},
    {"completion", "print the completion script of a shell", cmd_completion},
    {"version", "print the version and what this build holds", cmd_version},
};
const int CLI_COMMANDS_COUNT = (int)(sizeof CLI_COMMANDS / sizeof CLI_COMMANDS[0]);

static void usage(FILE *out)
{
    (void)fputs("usage: rung COMMAND [OPTIONS]     rung COMMAND --help for each\n\n", out);
    for (int i = 0; i < CLI_COMMANDS_COUNT; i++)
        (void)fprintf(out, "  %-12s %s\n", CLI_COMMANDS[i].name, CLI_COMMANDS[i].help);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        usage(stderr);
        return CLI_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0 || strcmp(argv[1], "-h") == 0) {
        usage(stdout);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0) return cmd_version(argc - 1, argv + 1);
    for (int i = 0; i < CLI_COMMANDS_COUNT; i++)
        if (strcmp(argv[1], CLI_COMMANDS[i].name) == 0) return CLI_COMMANDS[i].run(argc - 1, argv + 1);
    (void)fprintf(stderr, "rung: no command '%s'; rung --help lists them\n", argv[1]);
    return CLI_USAGE;
}
