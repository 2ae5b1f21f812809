#include "cli/cli.h"
#include "cli/client_options.h"
#include "cli/policy.h"
#include "cli/rows.h"
#include "cli/tune.h"

#include "base/clock.h"
#include "router/tune.h"
#include "router/tune_arms.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char HELP[] =
    "usage: rung tune [--log FILE] [--since 7d] [--node NAME] [--loss 0.01] [--edge P] [--region P]\n"
    "                 [--json] [--svg FILE] [--apply [--socket PATH]]\n"
    "       rung tune undo [--socket PATH]\n"
    "       rung tune arms [--log FILE] [--since 7d] [--json]\n"
    "       rung tune refit --router FILE -o FILE [--log FILE] [--since 30d] [--node NAME] [--json] [--apply]\n"
    "\n"
    "Says what other thresholds would have got right, cost and taken, from the decisions in the log: replayed with\n"
    "importance weights and a model of each tier, with 95 % intervals, never run again. Shows the frontier of price\n"
    "and quality, today's point, and a proposal: the cheapest thresholds that are surely cheaper and surely lose no\n"
    "more than --loss of quality. Nothing is changed but with --apply: then the running node is asked to store\n"
    "the proposal as the next policy version and to switch to it; `undo` asks it to go back.\n"
    "\n"
    "`arms` compares the policies of an experiment as they ran: the intervals hold however often one looks, so an\n"
    "experiment may be stopped as soon as one of them leaves zero out.\n"
    "\n"
    "`refit` teaches the router in use (--router) what the log's labels say, from keyed sketches: no prompt is needed.\n"
    "What is not surely better on labels left out stays as it was. --apply asks the node to keep the new router beside\n"
    "its own and to switch to it; `undo` goes back.\n"
    "\n"
    "It needs labels (/v1/feedback, checkers, shadow runs) and a policy that explores (policy.explore, 1 % by\n"
    "default). What the log cannot support is refused with the reason.\n"
    "\n"
    "  --log FILE      the log; default: RUNG_LOG_PATH, or edge.db, region.db, core.db here (--db is the same)\n"
    "  --since 7d      decisions of the last seven days alone; default: all\n"
    "  --node NAME     of one node of the fleet alone\n"
    "  --loss 0.01     share of right answers that a proposal may risk\n"
    "  --edge, --region P   judge these thresholds too (\"asked\", \"tried\")\n"
    "  --json          one object; its proposal.policy is a whole policy\n"
    "  --svg FILE      draw the frontier\n"
    "  --apply         ask the node at --socket (see rung status --help) to take the proposal\n"
    "\n"
    "exit code: 0 done, 1 failed or refused, 2 used wrongly\n";

static bool read_share(const char *name, const char *text, double fallback, double *out)
{
    char *end;
    *out = fallback;
    if (!text) return true;
    *out = strtod(text, &end);
    if (end != text && !*end && *out >= 0 && *out <= 1) return true;
    (void)fprintf(stderr, "rung tune: %s: got '%s', want a number from 0 to 1\n", name, text);
    return false;
}

/* ---- for people ---- */

static void line_print(const struct tune *tune, int i)
{
    const struct tune_point *p = &tune->points[i];
    const struct replay_result *r = &p->result;
    const char *mark = i == 0 ? "today" : i == tune->proposal ? "proposal" : i == tune->tried ? "asked" : "";
    if (r->refused) {
        (void)printf("%6.3f %6.3f   refused: %s\n", p->target.threshold[0], p->target.threshold[1], r->why);
        return;
    }
    (void)printf("%6.3f %6.3f   %6.2f [%6.2f, %6.2f]   %9.4g [%9.4g, %9.4g]   %7.0f   %3.0f/%3.0f/%3.0f   %s\n",
                 p->target.threshold[0], p->target.threshold[1], 100 * r->quality.value, 100 * r->quality.low,
                 100 * r->quality.high, 1000 * r->price_usd.value, 1000 * r->price_usd.low, 1000 * r->price_usd.high,
                 r->total_ms.value, 100 * r->share[0], 100 * r->share[1], 100 * r->share[2], mark);
}

static void date_text(int64_t ms, char out[32])
{
    time_t seconds = (time_t)(ms / 1000);
    struct tm utc;
    if (!gmtime_r(&seconds, &utc) || strftime(out, 32, "%Y-%m-%d %H:%M", &utc) == 0) out[0] = 0;
}

static void people_print(const struct tune *tune)
{
    char from[32], to[32];
    date_text(tune->from_ms, from);
    date_text(tune->to_ms, to);
    (void)printf("%lld decisions of router %s, %s to %s UTC; %lld have a label", (long long)tune->rows, tune->router, from,
                 to, (long long)tune->labels);
    if (tune->left_out > 0) (void)printf("; %lld others cannot be replayed", (long long)tune->left_out);
    (void)printf("\n\n%-15s %-25s   %-33s   %7s   %s\n", " edge  region", "right, % [95 %]", "USD for 1,000 [95 %]", "ms",
                 "edge/region/core %");
    line_print(tune, 0);
    for (int i = 1; i < tune->count; i++)
        if (tune->points[i].frontier || i == tune->proposal || i == tune->tried) line_print(tune, i);
    int refused = tune->count - tune->supported;
    if (refused > 0 && tune->supported > 0)
        (void)printf("\n%d of %d points are refused; the last: %s\n", refused, tune->count,
                     tune->points[tune->count - 1].result.why);
    (void)printf("\nproposal: %s\n", tune->verdict);
}

/* ---- for programs ---- */

static void real_print(const char *name, double value)
{
    if (isfinite(value)) (void)printf("\"%s\": %.9g", name, value);
    else (void)printf("\"%s\": null", name);
}

static void json_value(const char *name, const struct replay_value *v)
{
    (void)printf(", \"%s\": {", name);
    real_print("value", v->value);
    (void)printf(", ");
    real_print("low", v->low);
    (void)printf(", ");
    real_print("high", v->high);
    (void)printf(", ");
    real_print("weighted", v->weighted);
    (void)printf(", ");
    real_print("weighted_low", v->weighted_low);
    (void)printf(", ");
    real_print("weighted_high", v->weighted_high);
    (void)printf("}");
}

static void json_result(const struct replay_result *r)
{
    if (r->refused) {
        (void)printf("\"refused\": ");
        rows_json_text(stdout, r->why, strlen(r->why));
    } else {
        (void)printf("\"refused\": null");
        json_value("quality", &r->quality);
        json_value("price_usd", &r->price_usd);
        json_value("total_ms", &r->total_ms);
    }
    (void)printf(", \"share\": {\"edge\": %.6f, \"region\": %.6f, \"core\": %.6f}, \"changed\": %.6f, "
                 "\"unsupported\": %.6f, \"effective_rows\": %.1f",
                 r->share[0], r->share[1], r->share[2], r->changed, r->unsupported, r->effective_rows);
}

static void json_point(const struct tune_point *p)
{
    (void)printf("{\"threshold_edge\": %.6g, \"threshold_region\": %.6g, \"frontier\": %s, ", p->target.threshold[0],
                 p->target.threshold[1], p->frontier ? "true" : "false");
    json_result(&p->result);
    (void)printf("}");
}

static void json_print(const struct tune *tune)
{
    (void)printf("{\"rows\": %lld, \"labels\": %lld, \"left_out\": %lld, \"from_ms\": %lld, \"to_ms\": %lld, "
                 "\"router\": \"%s\",\n \"today\": ",
                 (long long)tune->rows, (long long)tune->labels, (long long)tune->left_out, (long long)tune->from_ms,
                 (long long)tune->to_ms, tune->router);
    json_point(&tune->points[0]);
    (void)printf(",\n \"points\": [");
    for (int i = 1; i < tune->count; i++) {
        (void)printf("%s", i > 1 ? ",\n  " : "\n  ");
        json_point(&tune->points[i]);
    }
    (void)printf("],\n \"tried\": ");
    if (tune->tried < 0) (void)printf("null");
    else json_point(&tune->points[tune->tried]);
    (void)printf(",\n \"verdict\": ");
    rows_json_text(stdout, tune->verdict, strlen(tune->verdict));
    (void)printf(",\n \"proposal\": ");
    if (tune->proposal < 0) {
        (void)printf("null}\n");
        return;
    }
    char policy_json[2048];
    struct policy policy;
    tune_policy(tune, &policy);
    policy_to_json(&policy, policy_json, sizeof policy_json);
    (void)printf("{\"policy\": %s,\n  \"expected\": ", policy_json);
    json_point(&tune->points[tune->proposal]);
    (void)printf(",\n  \"change\": {");
    json_result(&tune->change);
    (void)printf("}}}\n");
}

static bool svg_write(const struct tune *tune, const char *path)
{
    struct buf svg = BUF_INIT(4 << 20);
    tune_svg(tune, &svg);
    FILE *out = fopen(path, "w");
    bool ok = out && buf_ok(&svg) && fwrite(svg.data, 1, svg.len, out) == svg.len;
    if (out && fclose(out) != 0) ok = false;
    if (!ok) (void)fprintf(stderr, "rung tune: cannot write %s\n", path);
    buf_release(&svg);
    return ok;
}

/* ---- arms ---- */

static void change_print(const char *what, double scale, const struct arm_difference *d)
{
    (void)printf("    %-8s %+.4g [%+.4g, %+.4g]  %s\n", what, scale * d->value, scale * d->low, scale * d->high,
                 !d->decided ? "not told apart yet" : d->value > 0 ? "higher" : "lower");
}

static void arms_print(const struct arms *arms)
{
    for (int i = 0; i < arms->count; i++) {
        const struct arm_row *a = &arms->arm[i];
        (void)printf("arm %s: %lld requests, %lld labels: %.2f %% right, %.4g USD for 1,000, %.0f ms\n", a->name,
                     (long long)a->requests, (long long)a->labels, 100 * a->quality.mean, 1000 * a->price_usd.mean,
                     a->total_ms.mean);
        if (i == 0) continue;
        (void)printf("  against arm %s, intervals that may be looked at any time:\n", arms->arm[0].name);
        change_print("right, %", 100, &a->quality_change);
        change_print("USD/1000", 1000, &a->price_change);
        change_print("ms", 1, &a->time_change);
    }
    if (arms->count < 2) (void)printf("one arm alone: there is nothing to compare\n");
}

static void change_json(const char *name, const struct arm_difference *d)
{
    (void)printf(", \"%s\": {", name);
    real_print("value", d->value);
    (void)printf(", ");
    real_print("low", d->low);
    (void)printf(", ");
    real_print("high", d->high);
    (void)printf(", \"decided\": %s}", d->decided ? "true" : "false");
}

static void arms_json(const struct arms *arms)
{
    (void)printf("[");
    for (int i = 0; i < arms->count; i++) {
        const struct arm_row *a = &arms->arm[i];
        (void)printf("%s{\"arm\": ", i ? ",\n " : "");
        rows_json_text(stdout, a->name, strlen(a->name));
        (void)printf(", \"requests\": %lld, \"labels\": %lld, ", (long long)a->requests, (long long)a->labels);
        real_print("quality", a->quality.mean);
        (void)printf(", ");
        real_print("price_usd", a->price_usd.mean);
        (void)printf(", ");
        real_print("total_ms", a->total_ms.mean);
        if (i > 0) {
            change_json("quality_change", &a->quality_change);
            change_json("price_change", &a->price_change);
            change_json("time_change", &a->time_change);
        }
        (void)printf("}");
    }
    (void)printf("]\n");
}

static int tune_arms(const char *path, int64_t since_wall_ms, bool json)
{
    struct arms arms;
    struct err e = {0};
    if (arms_read(&arms, rows_path(path), since_wall_ms, &e) != ERR_OK) {
        (void)fprintf(stderr, "rung tune: %s\n", e.msg);
        return CLI_FAILED;
    }
    if (json) arms_json(&arms);
    else arms_print(&arms);
    return CLI_OK;
}

struct words {
    const char *db, *since, *node, *loss, *edge, *region, *svg, *router, *out;
    struct client_options where;
    bool json, help, arms, apply, refit;
};

static int apply(const struct tune *tune, const struct words *w)
{
    if (tune->proposal < 0) {
        (void)fprintf(stderr, "rung tune: nothing to apply: %s\n", tune->verdict);
        return CLI_FAILED;
    }
    const double *threshold = tune->points[tune->proposal].target.threshold;
    json_t *command = json_pack("{s:s, s:s, s:{s:f, s:f}}", "action", "set", "source", "tune", "policy", "threshold_edge",
                                threshold[TIER_EDGE], "threshold_region", threshold[TIER_REGION]);
    return command ? policy_send("tune", &w->where, command, w->json) : CLI_FAILED;
}

static int tune(const struct words *w)
{
    struct tune_options options = {.path = rows_path(w->db), .node = w->node};
    struct err e = {0};
    int64_t since;
    if (!rows_since("tune", w->since, &since) || !read_share("--loss", w->loss, 0, &options.loss) ||
        !read_share("--edge", w->edge, -1, &options.try_threshold[TIER_EDGE]) ||
        !read_share("--region", w->region, -1, &options.try_threshold[TIER_REGION]))
        return CLI_USAGE;
    if (since > 0) options.since_wall_ms = clock_wall_ms() - since;
    if (w->arms) return tune_arms(w->db, options.since_wall_ms, w->json);
    if (w->refit) {
        const struct tune_refit refit = {w->db, w->node, w->router, w->out, options.since_wall_ms, &w->where, w->json, w->apply};
        return tune_refit(&refit);
    }
    options.try_one = w->edge || w->region;
    options.try_threshold[TIER_CORE] = -1;
    struct tune *t;
    if (tune_run(&t, &options, &e) != ERR_OK) {
        (void)fprintf(stderr, "rung tune: %s\n", e.msg);
        return CLI_FAILED;
    }
    if (w->json) json_print(t);
    else people_print(t);
    bool ok = (!w->svg || svg_write(t, w->svg)) && t->supported > 1;
    if (t->supported <= 1) (void)fprintf(stderr, "rung tune: %s\n", t->verdict);
    int rc = ok ? CLI_OK : CLI_FAILED;
    if (ok && w->apply) rc = apply(t, w);
    tune_free(t);
    return rc;
}

int cmd_tune(int argc, char **argv)
{
    struct words w = {0};
    const struct cli_option options[] = {{"--log", &w.db, NULL}, {"--db", &w.db, NULL}, {"--since", &w.since, NULL},
                                         {"--node", &w.node, NULL}, {"--loss", &w.loss, NULL},
                                         {"--edge", &w.edge, NULL}, {"--region", &w.region, NULL},
                                         {"--svg", &w.svg, NULL}, {"--router", &w.router, NULL}, {"-o", &w.out, NULL},
                                         {"--json", NULL, &w.json},
                                         {"--socket", &w.where.socket, NULL}, {"--apply", NULL, &w.apply},
                                         {"--help", NULL, &w.help}, {"-h", NULL, &w.help}};
    int words = cli_options_read(argc, argv, options, sizeof options / sizeof options[0]);
    if (w.help) {
        (void)fputs(HELP, stdout);
        return CLI_OK;
    }
    if (words < 0) return CLI_USAGE;
    if (words == 1 && strcmp(argv[1], "undo") == 0)
        return policy_send("tune", &w.where, json_pack("{s:s}", "action", "undo"), w.json);
    w.arms = words == 1 && strcmp(argv[1], "arms") == 0;
    w.refit = words == 1 && strcmp(argv[1], "refit") == 0;
    if (words > 0 && !w.arms && !w.refit) {
        (void)fprintf(stderr, "rung tune: does not know '%s'; rung tune --help shows how\n", argv[1]);
        return CLI_USAGE;
    }
    return tune(&w);
}
