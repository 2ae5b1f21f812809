/* rung edge | region | core | worker: run a node. */
#include "cli/cli.h"

#include "core/core.h"
#include "edge/edge.h"
#include "region/region.h"

#include <stdio.h>
#include <string.h>

enum { OVERRIDES_MAX = 64 };

struct node_flags {
    struct node_options options;
    const char *overrides[OVERRIDES_MAX];
    enum tier tier; /* of a worker */
};

static void usage(FILE *out, const char *name)
{
    (void)fprintf(out, "usage: rung %s [-c FILE] [--warm] [KEY=VALUE …]%s\n\n", name, strcmp(name, "worker") == 0 ? " [--tier region|core]" : "");
    (void)fprintf(out,
                  "  -c, --config FILE   the configuration (YAML); without it every key has its default\n"
                  "  --warm              engines generate a little before the node says it is ready (node.warm)\n"
                  "  KEY=VALUE           one key over the file, e.g. http.tcp.listen=127.0.0.1:8600\n");
    if (strcmp(name, "worker") == 0)
        (void)fprintf(out, "  --tier TIER         the tier it answers for; default region\n"
                           "  worker.connect=ADDR the broker it serves, e.g. ipc:///run/rung/region.ipc\n");
    (void)fprintf(out,
                  "\nRuns until SIGTERM or Ctrl-C, then finishes what runs and exits 0. SIGHUP reads the policy part again.\n"
                  "'rung config' prints every key; 'rung check FILE' says what is wrong with a file.\n");
}

/* 0: go on; else the exit code + 1. */
static int parse(int argc, char **argv, struct node_flags *f)
{
    *f = (struct node_flags){.tier = TIER_REGION};
    f->options.overrides = f->overrides;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        bool has_next = i + 1 < argc;
        if (strcmp(a, "--help") == 0 || strcmp(a, "-h") == 0) {
            usage(stdout, argv[0]);
            return CLI_OK + 1;
        }
        if ((strcmp(a, "-c") == 0 || strcmp(a, "--config") == 0) && has_next) {
            f->options.config_file = argv[++i];
        } else if (strcmp(a, "--tier") == 0 && has_next && strcmp(argv[0], "worker") == 0) {
            f->tier = tier_from_name(argv[++i]);
        } else if (strcmp(a, "--warm") == 0 && f->options.override_count < OVERRIDES_MAX) {
            f->overrides[f->options.override_count++] = "node.warm=true";
        } else if (a[0] != '-' && strchr(a, '=') && f->options.override_count < OVERRIDES_MAX) {
            f->overrides[f->options.override_count++] = a;
        } else {
            (void)fprintf(stderr, "rung %s: '%s' is not an option here (want -c FILE, --warm or KEY=VALUE)\n", argv[0], a);
            return CLI_USAGE + 1;
        }
    }
    if (f->tier != TIER_NONE) return 0;
    (void)fprintf(stderr, "rung %s: --tier wants edge, region or core\n", argv[0]);
    return CLI_USAGE + 1;
}

int cmd_edge(int argc, char **argv)
{
    struct node_flags f;
    int rc = parse(argc, argv, &f);
    return rc ? rc - 1 : edge_main(&f.options);
}

int cmd_region(int argc, char **argv)
{
    struct node_flags f;
    int rc = parse(argc, argv, &f);
    return rc ? rc - 1 : region_main(&f.options);
}

int cmd_core(int argc, char **argv)
{
    struct node_flags f;
    int rc = parse(argc, argv, &f);
    return rc ? rc - 1 : core_main(&f.options);
}

int cmd_worker(int argc, char **argv)
{
    struct node_flags f;
    int rc = parse(argc, argv, &f);
    return rc ? rc - 1 : worker_main(f.tier, &f.options);
}
