#include "cli/cli.h"
#include "cli/client_options.h"
#include "node/config.h"

#include <stdio.h>
#include <string.h>

static const char HELP[] =
    "usage: rung check FILE [--tier edge|region|core] [KEY=VALUE …]\n"
    "\n"
    "Reads a configuration as a node would and tells everything that is wrong with it, one problem a line:\n"
    "\n"
    "    edge.yaml:3: http.tcp.listn: no such key; did you mean http.tcp.listen?\n"
    "    edge.yaml:9: policy.threshold.edge: got \"1.5\", want a number from 0 to 1\n"
    "    edge.yaml:12: warning: backends.0.model_file: my.gguf: No such file or directory; the node would run without device …\n"
    "\n"
    "The files and folders it names are looked at too, as this user: run it where and as whom the node will run. A warning\n"
    "is about what a node starts without; it fails nothing.\n"
    "Nothing is started or written. RUNG_* variables and KEY=VALUE words count as they would for a node.\n"
    "Without --tier the tier is the one that the file's name holds (edge.yaml, demo-region.yaml), else edge.\n"
    "\n"
    "exit code: 0 the file is good, 1 it is not, 2 used wrongly\n";

/* The tier that a file's name tells; a worker is configured like a core. */
static enum tier tier_of_file(const char *file)
{
    const char *slash = strrchr(file, '/'), *name = slash ? slash + 1 : file;
    if (strstr(name, "edge")) return TIER_EDGE;
    if (strstr(name, "region")) return TIER_REGION;
    if (strstr(name, "core") || strstr(name, "worker")) return TIER_CORE;
    return TIER_EDGE;
}

int cmd_check(int argc, char **argv)
{
    const char *tier_text = NULL;
    bool help = false;
    const struct cli_option options[] = {{"--tier", &tier_text, NULL}, {"--help", NULL, &help}};
    int words = cli_options_read(argc, argv, options, 2);
    if (help) {
        (void)fputs(HELP, stdout);
        return CLI_OK;
    }
    if (words < 1) {
        if (words == 0) (void)fputs(HELP, stderr);
        return CLI_USAGE;
    }
    enum tier tier;
    if (!cli_tier_read("check", tier_text, tier_of_file(argv[1]), &tier)) return CLI_USAGE;
    struct config *config = NULL;
    struct err e = {0};
    if (config_check(&config, tier, argv[1], (const char *const *)&argv[2], words - 1, stderr, &e) != ERR_OK)
        return CLI_FAILED;
    (void)printf("%s: ok (%s, %d backend%s)\n", argv[1], tier_name(tier), config->backend_count,
                 config->backend_count == 1 ? "" : "s");
    if (config->backend_count == 0) (void)fprintf(stderr, "%s: note: no backends, so nothing can answer\n", argv[1]);
    config_free(config);
    return CLI_OK;
}
