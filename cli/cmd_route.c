#include "cli/cli.h"

#include "router/policy.h"

#include <stdio.h>
#include <string.h>

static const char HELP[] =
    "usage: rung route --router FILE \"PROMPT\"\n"
    "\n"
    "Says which tier a prompt would go to under the default policy, and why, without answering it.\n";

static void print_scores(const struct router_scores *scores, const struct policy *policy)
{
    for (int t = 0; t < TIERS; t++)
        if (scores->known[t])
            (void)printf("%-8s %.3f  (threshold %.2f)\n", tier_name((enum tier)t), scores->p[t],
                         t == TIER_CORE ? 0 : policy->threshold[t]);
    (void)printf("%-8s %.3f  (limit %.2f)\n", "unlike", scores->ood, policy->ood_limit);
}

static void print_reasons(const struct router *router, const struct router_input *in)
{
    struct router_reason reasons[8];
    int n = router_explain(router, in, reasons, 8);
    if (n > 0) (void)printf("\nwhat moved the edge's score, in log-odds:\n");
    for (int i = 0; i < n; i++) (void)printf("  %+.3f  %s\n", reasons[i].weight, reasons[i].feature);
}

static int route(const char *path, const char *prompt)
{
    struct router *router;
    struct err e;
    if (router_load(&router, path, &e)) {
        (void)fprintf(stderr, "rung route: %s\n", e.msg);
        return CLI_FAILED;
    }
    struct router_input in = {.text = prompt, .text_len = strlen(prompt), .turns = 1};
    struct router_scores scores;
    if (router_wants_key(router))
        (void)printf("what this router learnt from a log needs that log's key, which the node has: left out here\n\n");
    router_score(router, &in, &scores);
    struct router_info info;
    router_info(router, &info);
    struct policy policy;
    policy_defaults(&policy);
    policy.explore = 0;
    struct tier_state state[TIERS];
    for (int t = 0; t < TIERS; t++)
        state[t] = (struct tier_state){.configured = true, .available = true, .can_tools = true, .can_json = true,
                                       .can_parts = true};
    struct decide_limits limits = {.self = TIER_EDGE, .forced = TIER_NONE, .max = TIER_CORE, .sticky = TIER_NONE,
                                   .budget_left_usd = -1};
    struct decision d;
    policy_decide(&policy, &scores, &info, state, &limits, &d);
    (void)printf("%s: %s (%s)\n\n", tier_name(d.tier), reason_text(d.reason), d.why);
    print_scores(&scores, &policy);
    print_reasons(router, &in);
    router_free(router);
    return CLI_OK;
}

int cmd_route(int argc, char **argv)
{
    const char *path = NULL, *prompt = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            (void)fputs(HELP, stdout);
            return CLI_OK;
        }
        if (strcmp(argv[i], "--router") == 0 && i + 1 < argc) path = argv[++i];
        else if (!prompt && strncmp(argv[i], "--", 2) != 0) prompt = argv[i];
        else {
            (void)fprintf(stderr, "rung route: does not know '%s'; rung route --help shows how\n", argv[i]);
            return CLI_USAGE;
        }
    }
    if (path && prompt) return route(path, prompt);
    (void)fputs(HELP, stderr);
    return CLI_USAGE;
}
