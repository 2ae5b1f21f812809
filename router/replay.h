/* Replay: what another policy would have got right, cost and taken, judged from decisions that were already made.
 *
 * The action is a node's first choice of tier; its outcome is everything that followed, escalations and fail-overs
 * too. Each decision carries the probability with which it was chosen, and a small share was chosen at random, so that
 * outcomes of choices the policy does not make are in the log. From them come two estimates:
 *
 *   importance-weighted   labelled outcomes weighted by π(action) / propensity, weights normalised
 *   doubly robust         the outcome that a model of each tier expects, put right by the weighted residuals; right
 *                         when either the model or the weights are (Dudík, Langford, Li: "Doubly Robust Policy
 *                         Evaluation and Learning", ICML 2011)
 *
 * Not every decision has a label. Labels are taken to be missing at random within a tier and a range of scores, and
 * weighted accordingly. Residuals are averaged within strata of (choice today, choice of the target), which depend on
 * the request alone; models are fitted on other folds than those they predict. Intervals are 95 %, from the
 * influence function with Student's t by the effective number of rows.
 *
 * What the log cannot support is refused with the reason, never guessed. Pure: no I/O, no clock, no randomness.
 */
#ifndef RUNG_ROUTER_REPLAY_H
#define RUNG_ROUTER_REPLAY_H

#include "router/policy.h"

/* One decision as it was logged. */
struct replay_row {
    double p[TIERS];         /* the scores; < 0: not scored */
    double ood;
    bool allowed[TIERS];     /* the tiers that met every limit */
    enum tier action;        /* chosen first; one that is allowed */
    double propensity;       /* of that choice, in (0, 1]; 1: nothing was left to chance */
    bool labelled;
    double label;            /* 0 … 1, where labelled */
    double price_usd, total_ms;
    double size;             /* of the prompt, in any unit that price grows with */
};

/* A policy as far as it can be replayed. Built from a policy by replay_target(). */
struct replay_target {
    double threshold[TIERS], ood_limit, explore;
};
struct replay_target replay_target(const struct policy *policy);
/* The tier such a policy takes when nothing is left to chance. TIER_NONE when none is allowed. */
enum tier replay_choice(const struct replay_target *target, const struct replay_row *row);

struct replay_value {
    double value, low, high; /* doubly robust, with its 95 % interval */
    double weighted, weighted_low, weighted_high; /* importance-weighted */
};
struct replay_result {
    bool refused;            /* then only `why`, the shares and the counts mean anything */
    char why[240];
    struct replay_value quality, price_usd, total_ms; /* means over requests */
    double share[TIERS];     /* of requests, by the target's choice */
    double changed;          /* share of requests it decides otherwise than today's policy */
    double unsupported;      /* share it decides otherwise where nothing was left to chance */
    double effective_rows;   /* labelled rows that the changed decisions rest on, weighed */
    int64_t rows, labels;
};

struct replay;
/* Fits the models. `rows` is borrowed and must outlive it; `today` is the policy in force, that changes are told
 * against. Errors: ERR_INVALID (a row that cannot be: said which), ERR_MEMORY. */
ERR_CHECKED enum err_code replay_new(struct replay **out, const struct replay_row *rows, int64_t count,
                                     const struct replay_target *today, struct err *e);
void replay_free(struct replay *replay);
void replay_evaluate(struct replay *replay, const struct replay_target *target, struct replay_result *out);
/* The change from `from` to `to`, paired row by row: much tighter than two intervals apart. Refused where either is.
 * `errors` 0: 95 %, else the interval is that many standard errors to each side. */
void replay_difference(struct replay *replay, const struct replay_target *from, const struct replay_target *to,
                       double errors, struct replay_result *out);

/* Student's t quantile for a two-sided 95 % interval. */
double replay_t95(double freedom);

#endif
