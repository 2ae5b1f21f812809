#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "router/policy.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A scene where every tier is up, able and known; each test changes what it is about. */
struct world {
    struct policy policy;
    struct router_scores scores;
    struct router_info router;
    struct tier_state state[TIERS];
    struct decide_limits limits;
};

static struct world world(double edge, double region)
{
    struct world w = {0};
    policy_defaults(&w.policy);
    w.policy.explore = 0;
    w.policy.version = 7;
    w.scores = (struct router_scores){.p = {edge, region, 0.97}, .known = {true, true, true}, .ood = 0.1};
    (void)snprintf(w.router.fingerprint, sizeof w.router.fingerprint, "0123456789abcdef");
    for (int t = 0; t < TIERS; t++)
        w.state[t] = (struct tier_state){true, true, 20.0 * (t + 1), 100.0, 4096 << t, true, true, true};
    w.limits = (struct decide_limits){.self = TIER_EDGE,
                                      .forced = TIER_NONE,
                                      .max = TIER_CORE,
                                      .sticky = TIER_NONE,
                                      .budget_left_usd = -1,
                                      .prompt_tokens = 100,
                                      .expected_tokens = 100,
                                      .dice = 0.5};
    return w;
}

static struct decision decide(const struct world *w)
{
    struct decision d;
    policy_decide(&w->policy, &w->scores, &w->router, w->state, &w->limits, &d);
    return d;
}

static void expect(const struct world *w, enum tier tier, enum reason reason)
{
    struct decision d = decide(w);
    if (d.tier != tier || d.reason != reason)
        fail_msg("got %s %s (%s), want %s %s", tier_name(d.tier), reason_name(d.reason), d.why, tier_name(tier),
                 reason_name(reason));
}

static void refused(const struct world *w, enum err_code code)
{
    struct decision d = decide(w);
    assert_int_equal(d.tier, TIER_NONE);
    assert_int_equal(d.reason, REASON_REFUSED);
    assert_string_equal(err_name(d.refusal), err_name(code));
    assert_true(d.why[0] != '\0');
}

static void the_cheapest_tier_that_clears_its_threshold_answers(void **state)
{
    (void)state;
    struct world w = world(0.75, 0.2);
    expect(&w, TIER_EDGE, REASON_CONFIDENT);
    w = world(0.7499, 0.75);
    expect(&w, TIER_REGION, REASON_CONFIDENT);
    w = world(0.74, 0.74);
    expect(&w, TIER_CORE, REASON_HARD);
}

static void the_decision_carries_scores_policy_and_router(void **state)
{
    (void)state;
    struct world w = world(0.8, 0.9);
    struct decision d = decide(&w);
    assert_string_equal(d.router, "0123456789abcdef");
    assert_string_equal(d.arm, "A");
    assert_int_equal(d.policy_version, 7);
    assert_true(d.p[TIER_EDGE] == 0.8 && d.threshold == 0.75 && d.propensity == 1);
    assert_non_null(strstr(d.why, "0.800 >= 0.750"));
    policy_decide(&w.policy, &w.scores, NULL, w.state, &w.limits, &d);
    assert_string_equal(d.router, "");
}

static void without_a_score_a_prompt_goes_up(void **state)
{
    (void)state;
    struct world w = world(0.9, 0.9);
    memset(w.scores.known, 0, sizeof w.scores.known);
    expect(&w, TIER_CORE, REASON_HARD);
}

static void an_unfamiliar_prompt_goes_up_whatever_its_score(void **state)
{
    (void)state;
    struct world w = world(0.99, 0.99);
    w.scores.ood = 0.96;
    expect(&w, TIER_CORE, REASON_UNFAMILIAR);
    w.policy.ood_limit = 1;
    expect(&w, TIER_EDGE, REASON_CONFIDENT);
}

static void a_tier_asked_for_by_name_answers_or_says_why_not(void **state)
{
    (void)state;
    struct world w = world(0.1, 0.1);
    w.limits.forced = TIER_EDGE;
    expect(&w, TIER_EDGE, REASON_FORCED);
    w.limits.deadline_ms = 1; /* a forecast does not bind who asks by name */
    expect(&w, TIER_EDGE, REASON_FORCED);
    w.limits.forced = TIER_CORE;
    w.limits.max = TIER_REGION;
    refused(&w, ERR_FORBIDDEN);
    w.limits.max = TIER_CORE;
    w.state[TIER_CORE].available = false;
    refused(&w, ERR_UNAVAILABLE);
    w.state[TIER_CORE].configured = false;
    refused(&w, ERR_NOT_FOUND);
    w.limits.forced = TIER_EDGE;
    w.limits.self = TIER_REGION; /* lower tiers are never chosen */
    refused(&w, ERR_UNSUPPORTED);
}

static void a_private_prompt_never_leaves_the_device(void **state)
{
    (void)state;
    struct world w = world(0.1, 0.9);
    w.limits.device_private = true;
    expect(&w, TIER_EDGE, REASON_PRIVATE);
    w.limits.device_private = false;
    w.policy.private_default = true;
    expect(&w, TIER_EDGE, REASON_PRIVATE);
    w.state[TIER_EDGE].available = false;
    refused(&w, ERR_UNAVAILABLE);
    w.state[TIER_EDGE].available = true;
    w.limits.self = TIER_REGION;
    refused(&w, ERR_FORBIDDEN);
}

static void the_highest_tier_of_a_request_binds(void **state)
{
    (void)state;
    struct world w = world(0.1, 0.1);
    w.limits.max = TIER_REGION;
    expect(&w, TIER_REGION, REASON_LIMIT);
    w.limits.max = TIER_EDGE;
    expect(&w, TIER_EDGE, REASON_LIMIT);
}

static void a_tier_that_would_be_late_or_dear_is_passed_by(void **state)
{
    (void)state;
    struct world w = world(0.1, 0.1);
    w.limits.deadline_ms = 1050; /* edge 1020, region 1040, core 1060 */
    expect(&w, TIER_REGION, REASON_DEADLINE);
    w.limits.deadline_ms = 5; /* nothing fits: the fastest answers all the same */
    expect(&w, TIER_EDGE, REASON_DEADLINE);
    w = world(0.1, 0.1);
    w.policy.deadline_default_ms = 1050;
    expect(&w, TIER_REGION, REASON_DEADLINE);
    w = world(0.1, 0.1);
    w.limits.budget_left_usd = 0.0001; /* core: 100 × 0.6 + 100 × 1.2 per million = 0.00018 */
    expect(&w, TIER_REGION, REASON_BUDGET);
    w.limits.budget_left_usd = 0;
    refused(&w, ERR_BUDGET);
}

static void abilities_and_context_send_a_prompt_up(void **state)
{
    (void)state;
    struct world w = world(0.9, 0.9);
    w.limits.needs_tools = true;
    w.state[TIER_EDGE].can_tools = false;
    expect(&w, TIER_REGION, REASON_ABILITY);
    w.state[TIER_REGION].can_tools = w.state[TIER_CORE].can_tools = false;
    refused(&w, ERR_UNSUPPORTED);
    w = world(0.9, 0.9);
    w.limits.prompt_tokens = 4050; /* edge holds 4096, and 100 more are expected */
    expect(&w, TIER_REGION, REASON_CONTEXT);
    w.limits.max = TIER_EDGE; /* a forecast gives way when nothing else is left */
    expect(&w, TIER_EDGE, REASON_CONTEXT);
    w.limits.prompt_tokens = 4096;
    refused(&w, ERR_CONTEXT);
}

static void a_conversation_stays_until_the_scores_move_clearly(void **state)
{
    (void)state;
    struct world w = world(0.80, 0.9);
    w.limits.sticky = TIER_REGION;
    expect(&w, TIER_REGION, REASON_STICKY); /* 0.80 clears 0.75, but not by 0.1 */
    w.scores.p[TIER_EDGE] = 0.86;
    expect(&w, TIER_EDGE, REASON_CONFIDENT);
    w.limits.sticky = TIER_EDGE;
    w.scores.p[TIER_EDGE] = 0.70;
    expect(&w, TIER_EDGE, REASON_STICKY);
    w.scores.p[TIER_EDGE] = 0.64;
    expect(&w, TIER_REGION, REASON_CONFIDENT);
    w.state[TIER_EDGE].available = false; /* a tier that is gone holds nobody */
    w.scores.p[TIER_EDGE] = 0.70;
    expect(&w, TIER_REGION, REASON_UNAVAILABLE);
}

static void tiers_that_are_gone_are_passed_by_or_degrade(void **state)
{
    (void)state;
    struct world w = world(0.9, 0.9);
    w.state[TIER_EDGE].available = false;
    expect(&w, TIER_REGION, REASON_UNAVAILABLE);
    w = world(0.1, 0.1);
    w.state[TIER_CORE].available = false;
    expect(&w, TIER_REGION, REASON_DEGRADED);
    assert_true(decide(&w).degraded);
    w.policy.degraded_allowed = false;
    refused(&w, ERR_UNAVAILABLE);
    w = world(0.1, 0.1);
    for (int t = 0; t < TIERS; t++) w.state[t].available = false;
    refused(&w, ERR_UNAVAILABLE);
    for (int t = 0; t < TIERS; t++) w.state[t].configured = false;
    refused(&w, ERR_UNAVAILABLE);
}

static void a_node_alone_answers_everything(void **state)
{
    (void)state;
    struct world w = world(0.1, 0.1);
    w.limits.self = TIER_CORE;
    w.state[TIER_EDGE].configured = w.state[TIER_REGION].configured = false;
    expect(&w, TIER_CORE, REASON_ONLY);
    w = world(0.1, 0.1);
    w.state[TIER_REGION].configured = w.state[TIER_CORE].configured = false;
    expect(&w, TIER_EDGE, REASON_ONLY);
}

static void exploration_draws_evenly_from_its_share(void **state)
{
    (void)state;
    struct world w = world(0.9, 0.9);
    w.policy.explore = 0.2;
    int taken[TIERS] = {0};
    for (int i = 0; i < 3000; i++) {
        w.limits.dice = (i + 0.5) / 3000;
        struct decision d = decide(&w);
        assert_int_equal(d.explored, w.limits.dice < 0.2);
        if (d.explored) assert_int_equal(d.reason, REASON_EXPLORE);
        double want = 0.2 / 3 + (d.tier == TIER_EDGE ? 0.8 : 0);
        assert_true(fabs(d.propensity - want) < 1e-12);
        taken[d.tier]++;
    }
    assert_int_equal(taken[TIER_REGION], 200);
    assert_int_equal(taken[TIER_CORE], 200);
    w.limits.dice = 0.01;
    w.limits.sticky = TIER_EDGE; /* a conversation is not moved to learn from it */
    assert_false(decide(&w).explored);
}

/* ---- properties over random worlds ---- */

static uint64_t next_random(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}
static int below(uint64_t *s, int n)
{
    return (int)(next_random(s) % (uint64_t)n);
}
static double unit(uint64_t *s)
{
    return (double)(next_random(s) >> 11) / 9007199254740992.0;
}

static struct world random_world(uint64_t *s)
{
    struct world w = world(unit(s), unit(s));
    w.scores.p[TIER_CORE] = unit(s);
    w.scores.ood = unit(s);
    w.policy.ood_limit = unit(s);
    w.policy.explore = 0.2 * unit(s);
    w.policy.degraded_allowed = below(s, 2);
    w.policy.private_default = below(s, 8) == 0;
    for (int t = 0; t < TIERS; t++) {
        w.scores.known[t] = below(s, 8) != 0;
        w.policy.threshold[t] = unit(s);
        w.state[t] = (struct tier_state){below(s, 6) != 0, below(s, 5) != 0,      unit(s) * 300,     unit(s) * 200,
                                         below(s, 600),    below(s, 4) != 0, below(s, 4) != 0, below(s, 4) != 0};
    }
    struct decide_limits *l = &w.limits;
    l->self = (enum tier)below(s, TIERS);
    l->forced = below(s, 6) ? TIER_NONE : (enum tier)below(s, TIERS);
    l->max = below(s, 2) ? TIER_CORE : (enum tier)below(s, TIERS);
    l->sticky = below(s, 3) ? TIER_NONE : (enum tier)below(s, TIERS);
    l->device_private = below(s, 6) == 0;
    l->deadline_ms = below(s, 2) ? 0 : unit(s) * 2000;
    l->budget_left_usd = below(s, 2) ? -1 : unit(s) * 4e-4;
    l->prompt_tokens = below(s, 300);
    l->expected_tokens = below(s, 300);
    l->needs_tools = below(s, 4) == 0;
    l->needs_json = below(s, 4) == 0;
    l->needs_parts = below(s, 4) == 0;
    return w;
}

/* The limits that never give way, said again in other words than policy.c says them. */
static bool breaks_a_limit(const struct world *w, enum tier t)
{
    const struct decide_limits *l = &w->limits;
    const struct tier_state *s = &w->state[t];
    double usd = policy_price_usd(&w->policy.price[t], l->prompt_tokens, l->expected_tokens, 0);
    return !s->configured || !s->available || t < l->self || t > l->max ||
           ((l->device_private || w->policy.private_default) && t != TIER_EDGE) || (l->needs_tools && !s->can_tools) ||
           (l->needs_json && !s->can_json) || (l->needs_parts && !s->can_parts) ||
           (s->context_tokens && l->prompt_tokens >= s->context_tokens) ||
           (l->budget_left_usd >= 0 && usd > l->budget_left_usd);
}

static void no_limit_is_ever_broken_and_propensities_sum(void **state)
{
    (void)state;
    uint64_t s = 88172645463325252u;
    for (int round = 0; round < 20000; round++) {
        struct world w = random_world(&s);
        double by_tier[TIERS] = {0};
        bool refusal = false;
        for (int i = 0; i <= 96; i++) {
            w.limits.dice = i < 48 ? (i + 0.5) / 48 * w.policy.explore : unit(&s);
            struct decision d = decide(&w);
            assert_true((unsigned)d.reason < REASONS && d.why[0] != '\0' && memchr(d.why, 0, sizeof d.why));
            if (d.tier == TIER_NONE) {
                assert_true(d.reason == REASON_REFUSED && d.refusal != ERR_OK);
                refusal = true;
                continue;
            }
            assert_int_equal(d.refusal, ERR_OK);
            assert_false(breaks_a_limit(&w, d.tier));
            assert_true(d.allowed[d.tier]);
            if (w.limits.forced != TIER_NONE) assert_int_equal(d.tier, w.limits.forced);
            for (int t = 0; t < TIERS; t++)
                if (d.allowed[t]) assert_false(breaks_a_limit(&w, (enum tier)t));
            assert_true(d.propensity > 0 && d.propensity <= 1);
            assert_true(by_tier[d.tier] == 0 || by_tier[d.tier] == d.propensity);
            by_tier[d.tier] = d.propensity;
        }
        double sum = by_tier[0] + by_tier[1] + by_tier[2];
        assert_true(refusal ? sum == 0 : fabs(sum - 1) < 1e-12);
    }
}

/* ---- as JSON ---- */

static void a_policy_survives_json(void **state)
{
    (void)state;
    struct policy a, b;
    policy_defaults(&a);
    a.version = 42;
    a.threshold[TIER_REGION] = 0.123456789012345;
    a.hold_tokens = 17;
    a.degraded_allowed = false;
    a.price[TIER_CORE].reasoning_usd = 3.25;
    (void)snprintf(a.arm, sizeof a.arm, "B\"\n");
    char json[2048];
    policy_to_json(&a, json, sizeof json);
    struct err e;
    assert_int_equal(policy_from_json(&b, json, &e), ERR_OK);
    char again[2048];
    policy_to_json(&b, again, sizeof again);
    assert_string_equal(json, again);
    assert_true(b.version == 42 && b.threshold[TIER_REGION] == a.threshold[TIER_REGION] && b.hold_tokens == 17);
    assert_string_equal(b.arm, a.arm);
    char small[8];
    policy_to_json(&a, small, sizeof small);
    assert_string_equal(small, "{}");
}

static void a_wrong_policy_names_its_field_and_changes_nothing(void **state)
{
    (void)state;
    struct policy p;
    policy_defaults(&p);
    struct policy before = p;
    static const char *const WRONG[][2] = {
        {"{\"threshold_edge\":1.5}", "threshold_edge"}, {"{\"explore\":0.5}", "explore"},
        {"{\"explore\":\"0.1\"}", "explore"},           {"{\"hold_tokens\":1.5}", "hold_tokens"},
        {"{\"probe\":1}", "probe"},                     {"{\"arm\":\"an arm with a long name\"}", "arm"},
        {"{\"version\":-1}", "version"},                {"{\"price_core_input_usd\":-1}", "price_core_input_usd"},
    };
    for (size_t i = 0; i < sizeof WRONG / sizeof WRONG[0]; i++) {
        struct err e = {0};
        assert_int_equal(policy_from_json(&p, WRONG[i][0], &e), ERR_INVALID);
        assert_string_equal(e.param, WRONG[i][1]);
        assert_non_null(strstr(e.msg, WRONG[i][1]));
    }
    struct err e = {0};
    assert_int_equal(policy_from_json(&p, "[1]", &e), ERR_SYNTAX);
    assert_int_equal(policy_from_json(&p, "{\"a\":", &e), ERR_SYNTAX);
    assert_memory_equal(&p, &before, sizeof p);
    assert_int_equal(policy_from_json(&p, "{\"from_a_newer_rung\":{}}", &e), ERR_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_cheapest_tier_that_clears_its_threshold_answers),
        cmocka_unit_test(the_decision_carries_scores_policy_and_router),
        cmocka_unit_test(without_a_score_a_prompt_goes_up),
        cmocka_unit_test(an_unfamiliar_prompt_goes_up_whatever_its_score),
        cmocka_unit_test(a_tier_asked_for_by_name_answers_or_says_why_not),
        cmocka_unit_test(a_private_prompt_never_leaves_the_device),
        cmocka_unit_test(the_highest_tier_of_a_request_binds),
        cmocka_unit_test(a_tier_that_would_be_late_or_dear_is_passed_by),
        cmocka_unit_test(abilities_and_context_send_a_prompt_up),
        cmocka_unit_test(a_conversation_stays_until_the_scores_move_clearly),
        cmocka_unit_test(tiers_that_are_gone_are_passed_by_or_degrade),
        cmocka_unit_test(a_node_alone_answers_everything),
        cmocka_unit_test(exploration_draws_evenly_from_its_share),
        cmocka_unit_test(no_limit_is_ever_broken_and_propensities_sum),
        cmocka_unit_test(a_policy_survives_json),
        cmocka_unit_test(a_wrong_policy_names_its_field_and_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
