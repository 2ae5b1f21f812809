/* rung tune refit: a router's own labels, from its log's sketches. */
#include "cli/cli.h"
#include "cli/policy.h"
#include "cli/rows.h"
#include "cli/tune.h"

#include "base/clock.h"
#include "base/tier.h"
#include "router/refit.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

static void tier_print(const char *name, const struct refit_tier *t)
{
    if (t->labels <= 0) return;
    (void)printf("%-7s %7.0f   %8.4f  %8.4f  ± %6.4f   ", name, t->labels, t->loss_prior, t->loss, t->error);
    if (t->kept) (void)printf("not surely better: as it was\n");
    else (void)printf("own labels' weight %.2f%s\n", t->own, t->trees ? ", with trees" : "");
}

static void report_print(const struct refit_rows *rows, const struct refit_report *r)
{
    (void)printf("%zu labelled decisions", rows->count);
    if (rows->other_router) (void)printf("; %lld of another router left out", (long long)rows->other_router);
    if (rows->other_key) (void)printf("; %lld under another sketch key left out", (long long)rows->other_key);
    (void)printf("\n\nlog loss on labels the fit had not seen\n%-7s %7s   %8s  %8s\n", "", "labels", "before", "after");
    for (int t = 0; t < TIERS; t++) tier_print(tier_name((enum tier)t), &r->tier[t]);
    tier_print("probe", &r->probe);
}

static enum err_code refit(const struct tune_refit *o, struct router *router, struct router_info *made, struct err *e)
{
    const struct refit_options options = {.path = rows_path(o->log), .node = o->node, .since_wall_ms = o->since_wall_ms};
    struct refit_rows rows;
    struct refit_report report;
    enum err_code code = refit_read(&rows, router, &options, e);
    if (code != ERR_OK) return code;
    code = refit_router(router, rows.row, rows.count, &report, e);
    if (!o->json) report_print(&rows, &report);
    refit_rows_release(&rows);
    if (code == ERR_OK) code = router_save(router, o->out, e);
    if (code == ERR_OK) router_info(router, made);
    return code;
}

static int apply(const struct tune_refit *o)
{
    char path[PATH_MAX];
    if (!realpath(o->out, path)) {
        (void)fprintf(stderr, "rung tune: cannot find %s\n", o->out);
        return CLI_FAILED;
    }
    return policy_send("tune", o->where, json_pack("{s:s, s:s}", "action", "router", "file", path), o->json);
}

int tune_refit(const struct tune_refit *o)
{
    struct err e = {0};
    struct router *router = NULL;
    struct router_info made;
    if (!o->router || !o->out) {
        (void)fprintf(stderr, "rung tune: refit wants --router FILE (the one in use) and -o FILE (the new one)\n");
        return CLI_USAGE;
    }
    enum err_code code = router_load(&router, o->router, &e);
    if (code == ERR_OK) code = refit(o, router, &made, &e);
    router_free(router);
    if (code != ERR_OK) {
        (void)fprintf(stderr, "rung tune: %s\n", e.msg);
        return CLI_FAILED;
    }
    if (!o->json) (void)printf("\n%s: router %s, refitted from %s, for sketch key %s\n", o->out, made.fingerprint, made.base, made.key);
    else if (!o->apply)
        (void)printf("{\"fingerprint\": \"%s\", \"base\": \"%s\", \"key\": \"%s\"}\n", made.fingerprint, made.base, made.key);
    return o->apply ? apply(o) : CLI_OK;
}
