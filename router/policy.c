/* The policy: scores and live figures in, one decision out.
 *
 * Three choices are made the same way, each with fewer tiers than the one before: `ideal` over every tier there is,
 * `wish` over the tiers that meet the request's limits, `choice` over those of them that are up. Where they part is
 * the reason: ideal ≠ wish names the limit that bound, wish ≠ choice a tier that is gone.
 */
#include "router/policy.h"

#include "base/buf.h"

#include <assert.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- words ---- */

static const struct {
    const char *name, *text;
} REASON_ROWS[REASONS] = {
#define X(code, name, text) {name, text},
    REASON_TABLE(X)
#undef X
};

const char *reason_name(enum reason reason)
{
    return (unsigned)reason < REASONS ? REASON_ROWS[reason].name : "unknown";
}

const char *reason_text(enum reason reason)
{
    return (unsigned)reason < REASONS ? REASON_ROWS[reason].text : "a reason this program does not know";
}

/* ---- what a policy holds: one row a field, for defaults, JSON and its checks ---- */

enum field_kind { FIELD_REAL, FIELD_INT, FIELD_BOOL };
struct field {
    const char *key;
    size_t offset;
    enum field_kind kind;
    double fallback, least, most;
};
#define REAL(key, member, fallback, least, most)                                                                  \
    {key, offsetof(struct policy, member), FIELD_REAL, fallback, least, most}
#define PRICE(tier, kind, index, fallback)                                                                        \
    REAL("price_" tier "_" #kind, price[index].kind, fallback, 0, 1e6)

static const struct field FIELDS[] = {
    REAL("threshold_edge", threshold[TIER_EDGE], 0.75, 0, 1),
    REAL("threshold_region", threshold[TIER_REGION], 0.75, 0, 1),
    REAL("threshold_core", threshold[TIER_CORE], 0, 0, 1),
    REAL("ood_limit", ood_limit, 0.95, 0, 1),
    REAL("explore", explore, 0.01, 0, 0.2),
    PRICE("edge", input_usd, TIER_EDGE, 0.01),
    PRICE("edge", output_usd, TIER_EDGE, 0.02),
    PRICE("edge", reasoning_usd, TIER_EDGE, 0.02),
    PRICE("region", input_usd, TIER_REGION, 0.08),
    PRICE("region", output_usd, TIER_REGION, 0.16),
    PRICE("region", reasoning_usd, TIER_REGION, 0.16),
    PRICE("core", input_usd, TIER_CORE, 0.60),
    PRICE("core", output_usd, TIER_CORE, 1.20),
    PRICE("core", reasoning_usd, TIER_CORE, 1.20),
    {"degraded_allowed", offsetof(struct policy, degraded_allowed), FIELD_BOOL, 1, 0, 1},
    {"private_default", offsetof(struct policy, private_default), FIELD_BOOL, 0, 0, 1},
    REAL("deadline_default_ms", deadline_default_ms, 0, 0, 86400000),
    REAL("sticky_margin", sticky_margin, 0.1, 0, 1),
    {"probe", offsetof(struct policy, probe), FIELD_BOOL, 1, 0, 1},
    REAL("probe_threshold", probe_threshold, 0.5, 0, 1),
    {"hold_tokens", offsetof(struct policy, hold_tokens), FIELD_INT, 8, 0, 4096},
    {"hold_ms", offsetof(struct policy, hold_ms), FIELD_INT, 400, 0, 60000},
    REAL("budget_usd_per_day", budget_usd_per_day, 0, 0, 1e9),
    REAL("share", share, 1, 0, 1),
    {"arm_by", offsetof(struct policy, arm_by), FIELD_INT, 0, 0, 2},
    REAL("shadow", shadow, 0, 0, 1),
};
#define FIELDS_COUNT (sizeof FIELDS / sizeof FIELDS[0])

static void field_set(struct policy *policy, const struct field *f, double value)
{
    void *at = (char *)policy + f->offset;
    switch (f->kind) {
    case FIELD_REAL: *(double *)at = value; break;
    case FIELD_INT: *(int *)at = (int)value; break;
    case FIELD_BOOL: *(bool *)at = value != 0; break;
    }
}

static json_t *field_json(const struct policy *policy, const struct field *f)
{
    const void *at = (const char *)policy + f->offset;
    switch (f->kind) {
    case FIELD_INT: return json_integer(*(const int *)at);
    case FIELD_BOOL: return json_boolean(*(const bool *)at);
    default: return json_real(*(const double *)at);
    }
}

void policy_defaults(struct policy *policy)
{
    *policy = (struct policy){0};
    (void)snprintf(policy->arm, sizeof policy->arm, "A");
    for (size_t i = 0; i < FIELDS_COUNT; i++) field_set(policy, &FIELDS[i], FIELDS[i].fallback);
}

void policy_to_json(const struct policy *policy, char *out, size_t size)
{
    assert(size > 2);
    (void)snprintf(out, size, "{}");
    json_t *root = json_object();
    if (!root) return;
    bool ok = json_object_set_new(root, "version", json_integer(policy->version)) == 0 &&
              json_object_set_new(root, "arm", json_string(policy->arm)) == 0 &&
              json_object_set_new(root, "router", json_string(policy->router)) == 0 &&
              json_object_set_new(root, "prefer", json_string(policy->prefer)) == 0;
    for (size_t i = 0; ok && i < FIELDS_COUNT; i++)
        ok = json_object_set_new(root, FIELDS[i].key, field_json(policy, &FIELDS[i])) == 0;
    if (ok) {
        size_t len = json_dumpb(root, out, size - 1, JSON_COMPACT);
        if (len > 0 && len < size) out[len] = '\0';
        else (void)snprintf(out, size, "{}");
    }
    json_decref(root);
}

static enum err_code field_parse(struct policy *policy, const struct field *f, const json_t *value, struct err *e)
{
    if (f->kind == FIELD_BOOL) {
        if (!json_is_boolean(value))
            return err_set_param(e, ERR_INVALID, f->key, "%s must be true or false", f->key);
        field_set(policy, f, json_is_true(value) ? 1 : 0);
        return ERR_OK;
    }
    bool typed = f->kind == FIELD_INT ? json_is_integer(value) : json_is_number(value);
    double number = json_number_value(value);
    if (!typed || !(number >= f->least && number <= f->most))
        return err_set_param(e, ERR_INVALID, f->key, "%s must be %s between %g and %g", f->key,
                             f->kind == FIELD_INT ? "a whole number" : "a number", f->least, f->most);
    field_set(policy, f, number);
    return ERR_OK;
}

static enum err_code arm_parse(struct policy *policy, const json_t *value, struct err *e)
{
    const char *arm = json_string_value(value);
    if (!arm || arm[0] == '\0' || strlen(arm) >= sizeof policy->arm)
        return err_set_param(e, ERR_INVALID, "arm", "arm must be a word of 1 to %zu bytes", sizeof policy->arm - 1);
    (void)snprintf(policy->arm, sizeof policy->arm, "%s", arm);
    return ERR_OK;
}

static enum err_code prefer_parse(struct policy *policy, const json_t *value, struct err *e)
{
    const char *name = json_string_value(value);
    if (!name || strlen(name) >= sizeof policy->prefer)
        return err_set_param(e, ERR_INVALID, "prefer", "prefer must be the name of a backend or a model, at most %zu bytes",
                             sizeof policy->prefer - 1);
    (void)snprintf(policy->prefer, sizeof policy->prefer, "%s", name);
    return ERR_OK;
}

static enum err_code router_parse(struct policy *policy, const json_t *value, struct err *e)
{
    const char *name = json_string_value(value);
    size_t len = name ? strspn(name, "0123456789abcdef") : 1;
    if (!name || name[len] != '\0' || (len != 0 && len != 16))
        return err_set_param(e, ERR_INVALID, "router", "router must be a fingerprint of 16 hex digits, or \"\" for router.file");
    (void)snprintf(policy->router, sizeof policy->router, "%s", name);
    return ERR_OK;
}

enum err_code policy_from_json(struct policy *policy, const char *json, struct err *e)
{
    json_error_t at;
    json_t *root = json_loads(json, JSON_REJECT_DUPLICATES, &at);
    if (!root) return err_set(e, ERR_SYNTAX, "a policy is one JSON object; line %d: %s", at.line, at.text);
    struct policy p; /* missing keys keep their defaults; unknown ones, from a newer version, are skipped */
    policy_defaults(&p);
    enum err_code code = ERR_OK;
    if (!json_is_object(root)) code = err_set(e, ERR_SYNTAX, "a policy is one JSON object, this is not an object");
    const json_t *value;
    if (!code && (value = json_object_get(root, "version"))) {
        if (json_is_integer(value) && json_integer_value(value) >= 0) p.version = json_integer_value(value);
        else code = err_set_param(e, ERR_INVALID, "version", "version must be a whole number from 0");
    }
    if (!code && (value = json_object_get(root, "arm"))) code = arm_parse(&p, value, e);
    if (!code && (value = json_object_get(root, "router"))) code = router_parse(&p, value, e);
    if (!code && (value = json_object_get(root, "prefer"))) code = prefer_parse(&p, value, e);
    for (size_t i = 0; !code && i < FIELDS_COUNT; i++)
        if ((value = json_object_get(root, FIELDS[i].key))) code = field_parse(&p, &FIELDS[i], value, e);
    if (!code) *policy = p;
    json_decref(root);
    return code;
}

double policy_price_usd(const struct policy_price *price, int input, int output, int reasoning)
{
    return ((double)input * price->input_usd + (double)output * price->output_usd +
            (double)reasoning * price->reasoning_usd) / 1e6;
}

/* ---- the decision ---- */

/* Why a tier is out, in the order they are looked at; the first that holds is told. */
enum block {
    BLOCK_NONE,
    BLOCK_ABSENT, /* not configured, or below where this node stands */
    BLOCK_LIMIT,
    BLOCK_PRIVATE,
    BLOCK_ABILITY,
    BLOCK_CONTEXT,
    BLOCK_BUDGET,
    BLOCK_FORECAST_CONTEXT, /* these two are forecasts: they give way when nothing else is left */
    BLOCK_DEADLINE,
};

/* What one call of policy_decide works with. */
struct scene {
    const struct policy *policy;
    const struct router_scores *scores;
    const struct decide_limits *limits;
    const struct tier_state *state;
    enum block block[TIERS]; /* availability apart */
    double price_usd[TIERS], delay_ms[TIERS];
    double deadline_ms;
    bool device_private, relaxed;
};
typedef bool tier_set[TIERS];

static double forecast_ms(const struct tier_state *s, int expected_tokens)
{
    double decode_ms = s->tokens_per_s > 0 ? 1000.0 * expected_tokens / s->tokens_per_s : 0;
    return (s->ttft_ms > 0 ? s->ttft_ms : 0) + decode_ms;
}

static bool able(const struct tier_state *s, const struct decide_limits *l)
{
    return (!l->needs_tools || s->can_tools) && (!l->needs_json || s->can_json) && (!l->needs_parts || s->can_parts);
}

static enum block tier_block(const struct scene *sc, enum tier t)
{
    const struct tier_state *s = &sc->state[t];
    const struct decide_limits *l = sc->limits;
    if (!s->configured || t < l->self) return BLOCK_ABSENT;
    if (t > l->max) return BLOCK_LIMIT;
    if (sc->device_private && t != TIER_EDGE) return BLOCK_PRIVATE;
    if (!able(s, l)) return BLOCK_ABILITY;
    if (s->context_tokens > 0 && l->prompt_tokens >= s->context_tokens) return BLOCK_CONTEXT;
    if (l->budget_left_usd >= 0 && sc->price_usd[t] > l->budget_left_usd) return BLOCK_BUDGET;
    if (s->context_tokens > 0 && l->expected_tokens > s->context_tokens - l->prompt_tokens)
        return BLOCK_FORECAST_CONTEXT;
    if (sc->deadline_ms > 0 && sc->delay_ms[t] > sc->deadline_ms) return BLOCK_DEADLINE;
    return BLOCK_NONE;
}

static int set_count(const tier_set set)
{
    int n = 0;
    for (int t = 0; t < TIERS; t++) n += set[t];
    return n;
}

/* The highest tier of a set that is not empty. */
static enum tier set_top(const tier_set set)
{
    int t = TIERS - 1;
    while (t > 0 && !set[t]) t--;
    return (enum tier)t;
}

/* Does a tier's score clear its threshold by `margin`? A tier without a score never does. */
static bool clears(const struct scene *sc, enum tier t, double margin)
{
    return sc->scores->known[t] && sc->scores->p[t] >= sc->policy->threshold[t] + margin;
}

/* The tier a set would give, and which rule gave it. */
static enum tier set_choose(const struct scene *sc, const tier_set set, enum reason *rule)
{
    if (set_count(set) == 0) return TIER_NONE;
    enum tier top = set_top(set);
    *rule = REASON_UNFAMILIAR;
    if (sc->scores->ood > sc->policy->ood_limit) return top;
    enum tier pick = TIER_EDGE;
    while (pick < top && !(set[pick] && clears(sc, pick, 0))) pick++;
    *rule = pick != TIER_CORE && clears(sc, pick, 0) ? REASON_CONFIDENT : REASON_HARD;
    enum tier last = sc->limits->sticky;
    if (last <= TIER_NONE || last >= TIERS || last == pick || !set[last]) return pick;
    double margin = sc->policy->sticky_margin;
    bool moves = pick < last ? clears(sc, pick, margin) : !clears(sc, last, -margin);
    if (moves) return pick;
    *rule = REASON_STICKY;
    return last;
}

static enum reason block_reason(enum block block)
{
    switch (block) {
    case BLOCK_LIMIT: return REASON_LIMIT;
    case BLOCK_PRIVATE: return REASON_PRIVATE;
    case BLOCK_ABILITY: return REASON_ABILITY;
    case BLOCK_CONTEXT:
    case BLOCK_FORECAST_CONTEXT: return REASON_CONTEXT;
    case BLOCK_BUDGET: return REASON_BUDGET;
    case BLOCK_DEADLINE: return REASON_DEADLINE;
    default: return REASON_UNAVAILABLE;
    }
}

static enum err_code block_refusal(enum block block)
{
    switch (block) {
    case BLOCK_LIMIT:
    case BLOCK_PRIVATE: return ERR_FORBIDDEN;
    case BLOCK_ABILITY: return ERR_UNSUPPORTED;
    case BLOCK_CONTEXT: return ERR_CONTEXT;
    case BLOCK_BUDGET: return ERR_BUDGET;
    default: return ERR_UNAVAILABLE;
    }
}

/* What stands between a request and a tier, with its numbers. */
static void block_text(const struct scene *sc, enum tier t, char *out, size_t size)
{
    const struct decide_limits *l = sc->limits;
    const char *name = tier_name(t);
    switch (sc->block[t]) {
    case BLOCK_LIMIT: (void)snprintf(out, size, "%s is above the request's limit %s", name, tier_name(l->max)); break;
    case BLOCK_PRIVATE: (void)snprintf(out, size, "%s is off the device", name); break;
    case BLOCK_ABILITY:
        (void)snprintf(out, size, "no tier that may answer here can %s: %s cannot",
                       l->needs_tools && !sc->state[t].can_tools  ? "call tools"
                       : l->needs_json && !sc->state[t].can_json ? "be held to JSON"
                                                                 : "read content parts", name);
        break;
    case BLOCK_CONTEXT:
    case BLOCK_FORECAST_CONTEXT:
        (void)snprintf(out, size, "%d prompt + %d expected tokens, %s holds %d", l->prompt_tokens, l->expected_tokens,
                       name, sc->state[t].context_tokens);
        break;
    case BLOCK_BUDGET:
        (void)snprintf(out, size, "%s would cost $%.3g, $%.3g left", name, sc->price_usd[t], l->budget_left_usd);
        break;
    case BLOCK_DEADLINE:
        (void)snprintf(out, size, "%s would take %.0f ms, %.0f left", name, sc->delay_ms[t], sc->deadline_ms);
        break;
    case BLOCK_ABSENT: (void)snprintf(out, size, "%s is not served from here", name); break;
    default: (void)snprintf(out, size, "%s is down", name); break;
    }
}

/* "edge 0.41 < 0.75, region 0.80 >= 0.75": the scores of the tiers up to and with the chosen one. */
static void scores_text(const struct scene *sc, const tier_set set, enum tier chosen, char *out, size_t size)
{
    size_t len = 0;
    out[0] = '\0';
    for (int t = 0; t <= (int)chosen && len < size; t++) {
        if (!set[t]) continue;
        const char *sep = len ? ", " : "";
        int n;
        if (!sc->scores->known[t])
            n = snprintf(out + len, size - len, "%s%s has no score", sep, tier_name((enum tier)t));
        else if (t == TIER_CORE)
            n = snprintf(out + len, size - len, "%s%s %.3f", sep, tier_name((enum tier)t), sc->scores->p[t]);
        else
            n = snprintf(out + len, size - len, "%s%s %.3f %s %.3f", sep, tier_name((enum tier)t), sc->scores->p[t],
                         clears(sc, (enum tier)t, 0) ? ">=" : "<", sc->policy->threshold[t]);
        if (n > 0) len += (size_t)n;
    }
}

static void why_text(const struct scene *sc, const tier_set set, enum tier ideal, enum tier wish, struct decision *d)
{
    char a[96] = "", b[96] = "";
    d->why[0] = '\0';
    if (sc->limits->brief) return;
    scores_text(sc, set, d->tier, a, sizeof a);
    switch (d->reason) {
    case REASON_UNFAMILIAR:
        (void)snprintf(d->why, sizeof d->why, "unfamiliar %.2f > %.2f", d->ood, sc->policy->ood_limit);
        return;
    case REASON_STICKY:
        (void)snprintf(d->why, sizeof d->why, "stays on %s: %s, margin %.2f", tier_name(d->tier), a,
                       sc->policy->sticky_margin);
        return;
    case REASON_EXPLORE:
        (void)snprintf(d->why, sizeof d->why, "one of a share of %.3f taken at random; %s", sc->policy->explore, a);
        return;
    case REASON_UNAVAILABLE:
    case REASON_DEGRADED:
        (void)snprintf(d->why, sizeof d->why, "%s is down; %s", tier_name(wish), a);
        return;
    case REASON_LIMIT:
    case REASON_DEADLINE:
    case REASON_BUDGET:
    case REASON_ABILITY:
    case REASON_CONTEXT:
        block_text(sc, ideal, b, sizeof b);
        (void)snprintf(d->why, sizeof d->why, "%.88s%s; %.54s", b, sc->relaxed ? ", no tier fits" : "", a);
        return;
    case REASON_PRIVATE: (void)snprintf(d->why, sizeof d->why, "private to the device; %s", a); return;
    case REASON_ONLY: (void)snprintf(d->why, sizeof d->why, "only %s is configured here", tier_name(d->tier)); return;
    default: (void)snprintf(d->why, sizeof d->why, "%s", a[0] ? a : tier_name(d->tier)); return;
    }
}

static void refuse(struct decision *d, enum err_code code, const char *why)
{
    d->tier = TIER_NONE;
    d->reason = REASON_REFUSED;
    d->refusal = code;
    d->propensity = 1;
    (void)snprintf(d->why, sizeof d->why, "%s", why);
}

static void decide_forced(const struct scene *sc, struct decision *d)
{
    enum tier t = sc->limits->forced;
    enum block block = sc->block[t];
    char text[120];
    block_text(sc, t, text, sizeof text);
    bool forecast = block == BLOCK_DEADLINE || block == BLOCK_FORECAST_CONTEXT; /* who asks by name takes the risk */
    if (block == BLOCK_ABSENT) {
        refuse(d, sc->state[t].configured ? ERR_UNSUPPORTED : ERR_NOT_FOUND, text);
    } else if (block != BLOCK_NONE && !forecast) {
        refuse(d, block_refusal(block), text);
    } else if (!sc->state[t].available) {
        (void)snprintf(text, sizeof text, "%s was asked for by name and is down", tier_name(t));
        refuse(d, ERR_UNAVAILABLE, text);
    } else {
        d->tier = t;
        d->reason = REASON_FORCED;
        d->propensity = 1;
        d->allowed[t] = true;
        (void)snprintf(d->why, sizeof d->why, "%s was asked for by name", tier_name(t));
    }
}

/* No tier meets every limit: the first lasting block, from the top, is the reason told. */
static void refuse_all(const struct scene *sc, const tier_set within, struct decision *d)
{
    char text[120] = "no tier is configured here";
    if (set_count(within) > 0) {
        (void)snprintf(text, sizeof text, "every tier that may answer is down");
        refuse(d, ERR_UNAVAILABLE, text);
        return;
    }
    enum block block = BLOCK_ABSENT;
    for (int t = TIERS - 1; t >= 0; t--) {
        if (sc->block[t] == BLOCK_ABSENT || (block != BLOCK_ABSENT && sc->block[t] < block)) continue;
        block = sc->block[t];
        block_text(sc, (enum tier)t, text, sizeof text);
    }
    refuse(d, block_refusal(block), text);
}

/* Where no tier meets the forecasts, the one that misses them least stands alone: fastest for a deadline, roomiest
 * for a context. */
static void relax(struct scene *sc, tier_set within)
{
    enum tier best = TIER_NONE;
    for (int t = 0; t < TIERS; t++) {
        if (sc->block[t] < BLOCK_FORECAST_CONTEXT || !sc->state[t].available) continue;
        if (best != TIER_NONE) {
            const struct tier_state *a = &sc->state[t], *b = &sc->state[best];
            bool roomier = a->context_tokens > b->context_tokens;
            bool better = sc->block[t] != sc->block[best] ? sc->block[t] == BLOCK_DEADLINE
                          : sc->block[t] == BLOCK_DEADLINE ? sc->delay_ms[t] < sc->delay_ms[best]
                                                           : roomier;
            if (!better) continue;
        }
        best = (enum tier)t;
    }
    if (best == TIER_NONE) return;
    sc->relaxed = true;
    within[best] = true;
}

/* A small share is taken at random among the allowed tiers, so that the log can tell what the others would have done.
 * Never where something else than the score decides: a conversation that has its tier, a last resort. */
static void explore(const struct scene *sc, struct decision *d)
{
    int n = set_count(d->allowed);
    double share = sc->policy->explore;
    d->propensity = 1;
    bool open = n > 1 && share > 0 && !d->degraded && !sc->relaxed && sc->limits->sticky == TIER_NONE;
    if (!open) return;
    enum tier greedy = d->tier;
    if (sc->limits->dice < share) {
        int nth = (int)(sc->limits->dice / share * n);
        for (int t = 0; t < TIERS; t++)
            if (d->allowed[t] && nth-- == 0) d->tier = (enum tier)t;
        d->explored = true;
        d->reason = REASON_EXPLORE;
    }
    d->propensity = share / n + (d->tier == greedy ? 1 - share : 0);
}

static void decide_auto(struct scene *sc, struct decision *d)
{
    tier_set all = {0}, within = {0};
    for (int t = 0; t < TIERS; t++) {
        all[t] = sc->block[t] != BLOCK_ABSENT;
        within[t] = sc->block[t] == BLOCK_NONE;
        d->allowed[t] = within[t] && sc->state[t].available;
    }
    if (set_count(d->allowed) == 0) {
        relax(sc, within);
        for (int t = 0; t < TIERS; t++) d->allowed[t] = within[t] && sc->state[t].available;
    }
    enum reason rule = REASON_HARD, unused;
    enum tier ideal = set_choose(sc, all, &unused);
    enum tier wish = set_choose(sc, within, &rule);
    enum tier choice = set_choose(sc, d->allowed, &unused);
    if (choice == TIER_NONE) {
        refuse_all(sc, within, d);
        return;
    }
    d->degraded = choice < wish;
    if (d->degraded && !sc->policy->degraded_allowed) {
        char text[120];
        (void)snprintf(text, sizeof text, "%s is down and the policy forbids a lower tier's answer", tier_name(wish));
        refuse(d, ERR_UNAVAILABLE, text);
        memset(d->allowed, 0, sizeof d->allowed);
        d->degraded = false;
        return;
    }
    d->tier = choice;
    d->reason = choice < wish         ? REASON_DEGRADED
                : choice > wish       ? REASON_UNAVAILABLE
                : sc->device_private  ? REASON_PRIVATE
                : sc->relaxed         ? block_reason(sc->block[choice])
                : set_count(all) == 1 ? REASON_ONLY
                : wish != ideal       ? block_reason(sc->block[ideal])
                                      : rule;
    explore(sc, d);
    why_text(sc, all, sc->relaxed ? choice : ideal, wish, d);
}

void policy_decide(const struct policy *policy, const struct router_scores *scores, const struct router_info *router,
                   const struct tier_state state[TIERS], const struct decide_limits *limits, struct decision *out)
{
    struct scene sc = {.policy = policy, .scores = scores, .limits = limits, .state = state};
    sc.device_private = limits->device_private || policy->private_default;
    sc.deadline_ms = limits->deadline_ms > 0 ? limits->deadline_ms : policy->deadline_default_ms;
    for (int t = 0; t < TIERS; t++) {
        sc.price_usd[t] = policy_price_usd(&policy->price[t], limits->prompt_tokens, limits->expected_tokens, 0);
        sc.delay_ms[t] = forecast_ms(&state[t], limits->expected_tokens);
        sc.block[t] = tier_block(&sc, (enum tier)t);
    }
    *out = (struct decision){.tier = TIER_NONE, .policy_version = policy->version, .ood = scores->ood};
    memcpy(out->p, scores->p, sizeof out->p);
    (void)snprintf(out->arm, sizeof out->arm, "%s", policy->arm);
    if (router) (void)snprintf(out->router, sizeof out->router, "%s", router->fingerprint);
    if (limits->forced > TIER_NONE && limits->forced < TIERS) decide_forced(&sc, out);
    else decide_auto(&sc, out);
    if (out->tier != TIER_NONE) out->threshold = out->tier == TIER_CORE ? 0 : policy->threshold[out->tier];
}
