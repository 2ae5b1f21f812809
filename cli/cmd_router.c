#include "cli/cli.h"

#include "base/clock.h"
#include "router/model.h"
#include "router/train.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char HELP[] =
    "usage: rung router train --data FILE.jsonl --tiers SMALL,LARGE | SMALL,MIDDLE,LARGE -o FILE [--general]\n"
    "       rung router info FILE\n"
    "\n"
    "Fits the classifier that tells, from a prompt's text alone, how likely each model is to answer it right.\n"
    "Each line of the data is one measured prompt:\n"
    "  {\"task\": \"maths\", \"prompt\": \"What is 2 + 2?\", \"scores\": {\"small-model\": 1, \"large-model\": 1}}\n"
    "with \"messages\" in place of \"prompt\" for conversations; a score is anything from 0 (wrong) to 1 (right).\n"
    "--data - reads from standard input: gzip -dc rows.jsonl.gz | rung router train --data - ...\n";

struct arguments {
    const char *data, *tiers, *out, *router;
    bool general, json;
};

static int usage_error(const char *what, const char *word)
{
    (void)fprintf(stderr, "rung router: %s '%s'; rung router --help shows how\n", what, word);
    return CLI_USAGE;
}

static int arguments_parse(struct arguments *a, int argc, char **argv)
{
    struct {
        const char *name;
        const char **value;
        bool *flag;
    } table[] = {
        {"--data", &a->data, NULL},     {"--tiers", &a->tiers, NULL},     {"-o", &a->out, NULL},
        {"--router", &a->router, NULL}, {"--general", NULL, &a->general}, {"--json", NULL, &a->json},
    };
    for (int i = 0; i < argc; i++) {
        size_t k = 0, n = sizeof table / sizeof table[0];
        while (k < n && strcmp(argv[i], table[k].name) != 0) k++;
        if (k == n && argv[i][0] != '-' && !a->router) a->router = argv[i];
        else if (k == n) return usage_error("does not know", argv[i]);
        else if (table[k].flag) *table[k].flag = true;
        else if (i + 1 == argc) return usage_error("wants a value after", argv[i]);
        else *table[k].value = argv[++i];
    }
    return CLI_OK;
}

static enum err_code read_rows(struct train_rows *rows, const struct arguments *a, struct err *e)
{
    enum err_code code = train_tiers(rows, a->tiers, e);
    if (code) return code;
    bool standard = strcmp(a->data, "-") == 0;
    FILE *f = standard ? stdin : fopen(a->data, "r");
    if (!f) return err_set(e, ERR_IO, "cannot read %.150s: %s", a->data, strerror(errno));
    code = train_rows_read(rows, f, standard ? "standard input" : a->data, e);
    if (!standard) (void)fclose(f);
    return code;
}

static int run_train(const struct arguments *a)
{
    if (!a->data || !a->tiers || !a->out) return usage_error("wants all of", "--data --tiers -o");
    struct err e = {0};
    struct train_rows rows;
    struct router *router = NULL;
    int64_t began = clock_mono_ms();
    enum err_code code = read_rows(&rows, a, &e);
    if (!code) {
        struct train_options options = {.general = a->general, .wall_ms = clock_wall_ms()};
        code = train_router(&router, &rows, &options, NULL, &e);
    }
    if (!code) code = model_save(router, a->out, &e);
    if (code) (void)fprintf(stderr, "rung router train: %s\n", e.msg);
    else
        (void)printf("%s: fitted on %zu rows (%zu left out) in %.1f s, fingerprint %s\n", a->out, rows.count,
                     rows.skipped, (double)(clock_mono_ms() - began) / 1e3, router->info.fingerprint);
    router_free(router);
    train_rows_release(&rows);
    return code ? CLI_FAILED : CLI_OK;
}

static int run_info(const struct arguments *a)
{
    if (!a->router) return usage_error("wants a file after", "info");
    struct router *router;
    struct err e;
    if (router_load(&router, a->router, &e)) {
        (void)fprintf(stderr, "rung router info: %s\n", e.msg);
        return CLI_FAILED;
    }
    struct router_info info;
    router_info(router, &info);
    (void)printf("fingerprint  %s\nrows         %lld\ngeneral      %s\n", info.fingerprint, (long long)info.rows,
                 info.general ? "yes" : "no");
    for (int i = 0; i < info.tiers; i++)
        (void)printf("%-12s %s\n", tier_name(model_tier(info.tiers, i)), info.names[i]);
    router_free(router);
    return CLI_OK;
}

int cmd_router(int argc, char **argv)
{
    struct arguments a = {0};
    if (argc < 2 || strcmp(argv[1], "--help") == 0) {
        (void)fputs(HELP, argc < 2 ? stderr : stdout);
        return argc < 2 ? CLI_USAGE : CLI_OK;
    }
    int bad = arguments_parse(&a, argc - 2, argv + 2);
    if (bad) return bad;
    if (strcmp(argv[1], "train") == 0) return run_train(&a);
    if (strcmp(argv[1], "info") == 0) return run_info(&a);
    return usage_error("has no command", argv[1]);
}
