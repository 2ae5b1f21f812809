#include "cli/cli.h"
#include "cli/client_options.h"
#include "node/config.h"

#include <stdio.h>
#include <string.h>

static const char HELP[] =
    "usage: rung config [--tier edge|region|core]                     every key, commented, with its default\n"
    "       rung config --effective FILE [--tier …] [KEY=VALUE …]     the values a node would run with\n"
    "       rung config --markdown                                    the same as tables (docs/configuration.md)\n"
    "\n"
    "Begin a configuration of your own with the keys you need from\n"
    "\n"
    "    rung config --tier edge > edge.yaml\n"
    "\n"
    "and ask `rung check edge.yaml` whether it is good. A value is taken from, first found: a KEY=VALUE word of the\n"
    "node's command (log.path=/var/lib/rung/log.db; backends.NAME.KEY=VALUE for a backend), the environment\n"
    "(RUNG_LOG_PATH), the file, the default.\n"
    "\n"
    "exit code: 0 done, 1 the file is not good, 2 used wrongly\n";

static int print_effective(enum tier tier, const char *file, char **overrides, int count)
{
    struct config *config = NULL;
    struct err e = {0};
    if (config_check(&config, tier, file, (const char *const *)overrides, count, stderr, &e) != ERR_OK) return CLI_FAILED;
    config_print_effective(stdout, config);
    config_free(config);
    return CLI_OK;
}

int cmd_config(int argc, char **argv)
{
    const char *tier_text = NULL, *file = NULL;
    bool help = false, markdown = false;
    const struct cli_option options[] = {{"--tier", &tier_text, NULL},
                                         {"--effective", &file, NULL},
                                         {"--markdown", NULL, &markdown},
                                         {"--help", NULL, &help}};
    int words = cli_options_read(argc, argv, options, 4);
    enum tier tier = TIER_EDGE;
    if (help) {
        (void)fputs(HELP, stdout);
        return CLI_OK;
    }
    if (words < 0 || !cli_tier_read("config", tier_text, TIER_EDGE, &tier)) return CLI_USAGE;
    if (file) return print_effective(tier, file, &argv[1], words);
    if (words > 0) {
        (void)fprintf(stderr, "rung config: '%s': KEY=VALUE goes with --effective FILE; see rung config --help\n", argv[1]);
        return CLI_USAGE;
    }
    if (markdown) config_print_markdown(stdout);
    else config_print_reference(stdout, tier);
    return CLI_OK;
}
