/* The subcommands of `rung`, one file each (cli/cmd_NAME.c), and what they share.
 *
 * A command gets argv with its own name first, prints results on stdout and errors on stderr, and returns an exit
 * code: 0 done, 1 failed, 2 used wrongly. Each answers --help with a page that teaches.
 */
#ifndef RUNG_CLI_CLI_H
#define RUNG_CLI_CLI_H

enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

struct cli_command {
    const char *name, *help;
    int (*run)(int argc, char **argv);
};

/* Every subcommand, in the order `rung --help` shows them (cli/main.c). */
extern const struct cli_command CLI_COMMANDS[];
extern const int CLI_COMMANDS_COUNT;

int cmd_ask(int argc, char **argv);
int cmd_chat(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_models(int argc, char **argv);
int cmd_completion(int argc, char **argv);
int cmd_log(int argc, char **argv);
int cmd_tune(int argc, char **argv);
int cmd_why(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_config(int argc, char **argv);
int cmd_keys(int argc, char **argv);
int cmd_edge(int argc, char **argv);
int cmd_region(int argc, char **argv);
int cmd_core(int argc, char **argv);
int cmd_worker(int argc, char **argv);
int cmd_router(int argc, char **argv);
int cmd_route(int argc, char **argv);
int cmd_policy(int argc, char **argv);
int cmd_evidence(int argc, char **argv);
int cmd_version(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_import(int argc, char **argv);
int cmd_generate(int argc, char **argv);
int cmd_perplexity(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_quantize(int argc, char **argv);

#endif
