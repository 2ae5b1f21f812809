/* The policy: what operators tune, and the pure function that turns scores and live figures into a decision. */
#ifndef RUNG_ROUTER_POLICY_H
#define RUNG_ROUTER_POLICY_H

#include "router/router.h"

struct policy_price { /* US dollars per million tokens */
    double input_usd, output_usd, reasoning_usd;
};
struct policy {
    int64_t version;         /* of the policies table; 0 before it was stored */
    char arm[16];            /* "A", or the other policy of an experiment ("B") */
    double share;            /* of the traffic under an experiment's policy; 0: it has ended. "A" takes the rest */
    int arm_by;              /* what keeps its arm: 0 the request, 1 the conversation, 2 the tenant */
    double shadow;           /* share of the edge's answers that a higher tier answers too, unseen, to judge them */
    double threshold[TIERS]; /* the least calibrated probability a tier is chosen at; core's is not used */
    double ood_limit;        /* above it a prompt goes up whatever its score; 1: off */
    double explore;          /* share of decisions taken at random among allowed tiers; 0…0.2 */
    struct policy_price price[TIERS];
    bool degraded_allowed;   /* answer on a lower tier when the higher ones are gone */
    bool private_default;    /* every request stays on the device */
    double deadline_default_ms; /* 0: none */
    double sticky_margin;    /* a conversation leaves its tier only when a score passes the threshold by this much */
    /* escalation while decoding, at the edge */
    bool probe;              /* stage 2 and 3 on */
    double probe_threshold;  /* escalate when the joined probability falls below */
    int hold_tokens;         /* held back in a stream before the first is shown; 0: off */
    int hold_ms;             /* and no longer than this */
    double budget_usd_per_day; /* per tenant; 0: none */
    char prefer[64];         /* a backend's or a model's name: taken first within its tier; "": none */
    char router[17];         /* fingerprint of the router in force; "": the one of router.file */
};
void policy_defaults(struct policy *policy);
/* As JSON text for the policies table and back. `out` needs 2048 bytes. Errors: ERR_SYNTAX, ERR_INVALID (the field). */
void policy_to_json(const struct policy *policy, char *out, size_t size);
ERR_CHECKED enum err_code policy_from_json(struct policy *policy, const char *json, struct err *e);

/* One tier as it is now, from live measurements. */
struct tier_state {
    bool configured, available; /* known at all; some backend is healthy and takes work */
    double ttft_ms, tokens_per_s; /* 0: not measured yet */
    int context_tokens;         /* 0: unknown */
    bool can_tools, can_json, can_parts; /* abilities of at least one live backend */
};
/* What binds this request. */
struct decide_limits {
    enum tier self;          /* where this node stands: lower tiers are never chosen */
    enum tier forced;        /* asked for by name; TIER_NONE: auto */
    enum tier max;           /* x-rung-max-tier; TIER_CORE: none */
    enum tier sticky;        /* the conversation's last tier; TIER_NONE */
    bool device_private;     /* never leaves the device */
    double deadline_ms;      /* left; 0: none */
    double budget_left_usd;  /* < 0: none */
    int prompt_tokens, expected_tokens; /* estimates, for price and delay */
    bool needs_tools, needs_json, needs_parts;
    double dice;             /* uniform in [0, 1), from the request id: the same on every resend */
    bool brief;              /* `why` is wanted of a refusal only: the sentence costs more than the choice */
};

/*        code                name             what it says */
#define REASON_TABLE(X)                                                                                   \
    X(REASON_CONFIDENT,   "confident",     "the smallest tier whose probability clears its threshold")  \
    X(REASON_HARD,        "hard",          "no smaller tier cleared its threshold")                     \
    X(REASON_FORCED,      "forced",        "asked for by name")                                         \
    X(REASON_PRIVATE,     "private",       "may not leave the device")                                  \
    X(REASON_LIMIT,       "limit",         "the request's highest tier")                                \
    X(REASON_UNFAMILIAR,  "unfamiliar",    "unlike what the router was fitted on")                      \
    X(REASON_DEADLINE,    "deadline",      "the better tier would miss the deadline")                   \
    X(REASON_BUDGET,      "budget",        "the better tier would pass the budget")                     \
    X(REASON_ABILITY,     "ability",       "a smaller tier cannot do what was asked")                   \
    X(REASON_CONTEXT,     "context",       "too long for a smaller tier")                               \
    X(REASON_STICKY,      "sticky",        "the conversation stays on its tier")                        \
    X(REASON_EXPLORE,     "explore",       "a small share is tried at random, to learn")                \
    X(REASON_UNAVAILABLE, "unavailable",   "the better tier is gone, so the next one up answers")       \
    X(REASON_DEGRADED,    "degraded",      "every higher tier is gone, so this one answers")            \
    X(REASON_PROBE,       "probe",         "the edge model's own state after the prompt was unsure")    \
    X(REASON_UNSURE,      "unsure",        "the edge model's first tokens were unsure")                 \
    X(REASON_CHECK,       "check",         "the answer failed a check before it was shown")             \
    X(REASON_ONLY,        "only",          "no other tier is configured")                               \
    X(REASON_REFUSED,     "refused",       "no tier may answer")
enum reason {
#define X(code, name, text) code,
    REASON_TABLE(X)
#undef X
    REASONS
};
const char *reason_name(enum reason reason);
const char *reason_text(enum reason reason);

struct decision {
    enum tier tier;          /* TIER_NONE: refused, and `refusal` says why */
    enum reason reason;
    enum err_code refusal;   /* ERR_UNAVAILABLE, ERR_BUDGET, ERR_UNSUPPORTED, ERR_CONTEXT … */
    char why[160];           /* one sentence with the numbers */
    double p[TIERS], ood;    /* as scored */
    double threshold;        /* of the chosen tier */
    double propensity;       /* probability with which this tier was chosen, exploration counted in */
    bool explored, degraded;
    int64_t policy_version;
    char arm[16], router[17];
    bool allowed[TIERS];     /* the tiers that met every limit */
};
/* Pure, total and deterministic in its arguments. `router` may be NULL (no fingerprint). */
void policy_decide(const struct policy *policy, const struct router_scores *scores, const struct router_info *router,
                   const struct tier_state state[TIERS], const struct decide_limits *limits, struct decision *out);

/* Dollars for so many tokens at a tier. */
double policy_price_usd(const struct policy_price *price, int input, int output, int reasoning);

#endif
