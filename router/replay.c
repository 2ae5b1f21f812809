#include "router/replay.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FOLDS = 5, FEATURES = 5, SCORE_BINS = 5, STRATA = TIERS * TIERS + 1, CLOSED = STRATA - 1 };
enum outcome { QUALITY, PRICE, TIME, OUTCOMES };

/* What must be there before a claim is made. */
static const int64_t ROWS_LEAST = 100;
static const double EFFECTIVE_LEAST = 50;   /* rows behind what is changed, and behind what is not */
static const double UNSUPPORTED_MOST = 0.02; /* share of requests decided otherwise that were never explored */
static const double THIN_SHARE_MOST = 0.02;  /* share of requests in strata with next to no rows */
static const double THIN_ROWS = 5;
static const double Z95 = 1.959964;

/* What few rows add to an interval. */
struct extra {
    double variance; /* to be added */
    double slow;     /* Σ variance² / freedom of the strata, for Welch and Satterthwaite's degrees of freedom */
};
struct replay {
    const struct replay_row *rows;
    int64_t count, labels;
    struct replay_target today;
    double *label_share;         /* (count): estimated probability that a row like it is labelled */
    float *expected[OUTCOMES];   /* (count, TIERS): what the model of another fold expects of each tier */
    struct row_work *work;       /* (count) */
    struct extra extra[2][OUTCOMES]; /* of the last target: doubly robust, importance-weighted */
};
/* Of one row under one target. */
struct row_work {
    double weight;               /* π(action) / propensity */
    double influence[OUTCOMES], weighted[OUTCOMES]; /* doubly robust, importance-weighted */
    double pi[TIERS];
    int stratum;
    bool unsupported, on_choice;
};

struct replay_target replay_target(const struct policy *policy)
{
    struct replay_target target = {.ood_limit = policy->ood_limit, .explore = policy->explore};
    memcpy(target.threshold, policy->threshold, sizeof target.threshold);
    return target;
}

enum tier replay_choice(const struct replay_target *target, const struct replay_row *row)
{
    int top = TIERS - 1;
    while (top >= 0 && !row->allowed[top]) top--;
    if (top < 0) return TIER_NONE;
    if (row->ood > target->ood_limit) return (enum tier)top;
    for (int t = 0; t < top; t++)
        if (row->allowed[t] && row->p[t] >= 0 && row->p[t] >= target->threshold[t]) return (enum tier)t;
    return (enum tier)top;
}

double replay_t95(double freedom)
{
    if (freedom < 3) freedom = 3;
    double z = Z95, z2 = z * z, n = freedom;
    /* Cornish-Fisher; within 0.3 % from three degrees on (Abramowitz and Stegun 26.7.5) */
    return z + z * (z2 + 1) / (4 * n) + z * ((5 * z2 + 16) * z2 + 3) / (96 * n * n) +
           z * (((3 * z2 + 19) * z2 + 17) * z2 - 15) / (384 * n * n * n) +
           z * ((((79 * z2 + 776) * z2 + 1482) * z2 - 1920) * z2 - 945) / (92160 * n * n * n * n);
}

/* ---- models of each tier's outcome ---- */

struct moments {
    double xx[FEATURES][FEATURES], xy[FEATURES], n;
};

static void features(const struct replay_row *row, double x[FEATURES])
{
    x[0] = 1;
    for (int t = 0; t < TIERS; t++) x[1 + t] = row->p[t] >= 0 ? row->p[t] : 0;
    x[1 + TIERS] = log1p(row->size > 0 ? row->size : 0);
}

static bool observed(const struct replay_row *row, enum outcome outcome)
{
    return outcome != QUALITY || row->labelled;
}

static double outcome_of(const struct replay_row *row, enum outcome outcome)
{
    return outcome == QUALITY ? row->label : outcome == PRICE ? row->price_usd : row->total_ms;
}

/* What is expected before anything was seen: of quality, what the router promised. */
static double prior(const struct replay_row *row, enum outcome outcome, int tier)
{
    return outcome != QUALITY ? 0 : row->p[tier] >= 0 ? row->p[tier] : 0.5;
}

static int fold_of(int64_t i)
{
    return (int)(((uint64_t)i * 0x9e3779b97f4a7c15u >> 33) % FOLDS);
}

/* Ridge regression by Gaussian elimination with pivots; the intercept is free. Few rows leave the prior plus a mean. */
static void solve(struct moments m, double beta[FEATURES])
{
    memset(beta, 0, FEATURES * sizeof beta[0]);
    if (m.n < 1) return;
    for (int k = 1; k < FEATURES; k++) m.xx[k][k] += 1;
    for (int k = 0; k < FEATURES; k++) {
        int pivot = k;
        for (int r = k + 1; r < FEATURES; r++)
            if (fabs(m.xx[r][k]) > fabs(m.xx[pivot][k])) pivot = r;
        for (int c = 0; c < FEATURES; c++) {
            double swap = m.xx[k][c];
            m.xx[k][c] = m.xx[pivot][c];
            m.xx[pivot][c] = swap;
        }
        double swap = m.xy[k];
        m.xy[k] = m.xy[pivot];
        m.xy[pivot] = swap;
        if (fabs(m.xx[k][k]) < 1e-9) continue;
        for (int r = k + 1; r < FEATURES; r++) {
            double f = m.xx[r][k] / m.xx[k][k];
            for (int c = k; c < FEATURES; c++) m.xx[r][c] -= f * m.xx[k][c];
            m.xy[r] -= f * m.xy[k];
        }
    }
    for (int k = FEATURES - 1; k >= 0; k--) {
        double sum = m.xy[k];
        for (int c = k + 1; c < FEATURES; c++) sum -= m.xx[k][c] * beta[c];
        beta[k] = fabs(m.xx[k][k]) < 1e-9 ? 0 : sum / m.xx[k][k];
    }
}

static void moments_add(struct moments *m, const double x[FEATURES], double y)
{
    for (int a = 0; a < FEATURES; a++) {
        for (int b = 0; b < FEATURES; b++) m->xx[a][b] += x[a] * x[b];
        m->xy[a] += x[a] * y;
    }
    m->n++;
}

static struct moments moments_without(const struct moments folds[FOLDS], int fold)
{
    struct moments sum = {0};
    for (int f = 0; f < FOLDS; f++) {
        if (f == fold) continue;
        for (int a = 0; a < FEATURES; a++) {
            for (int b = 0; b < FEATURES; b++) sum.xx[a][b] += folds[f].xx[a][b];
            sum.xy[a] += folds[f].xy[a];
        }
        sum.n += folds[f].n;
    }
    return sum;
}

static void fit(struct replay *r, enum outcome outcome)
{
    struct moments by_fold[TIERS][FOLDS];
    double beta[TIERS][FOLDS][FEATURES], x[FEATURES];
    memset(by_fold, 0, sizeof by_fold);
    for (int64_t i = 0; i < r->count; i++) {
        const struct replay_row *row = &r->rows[i];
        if (!observed(row, outcome)) continue;
        features(row, x);
        moments_add(&by_fold[row->action][fold_of(i)], x, outcome_of(row, outcome) - prior(row, outcome, row->action));
    }
    for (int t = 0; t < TIERS; t++)
        for (int f = 0; f < FOLDS; f++) solve(moments_without(by_fold[t], f), beta[t][f]);
    for (int64_t i = 0; i < r->count; i++) {
        features(&r->rows[i], x);
        for (int t = 0; t < TIERS; t++) {
            double sum = prior(&r->rows[i], outcome, t);
            for (int k = 0; k < FEATURES; k++) sum += beta[t][fold_of(i)][k] * x[k];
            if (outcome == QUALITY) sum = sum < 0 ? 0 : sum > 1 ? 1 : sum;
            r->expected[outcome][i * TIERS + t] = (float)(sum < 0 ? 0 : sum);
        }
    }
}

/* How likely a row is to carry a label, by tier and by range of its tier's score. */
static void label_shares(struct replay *r)
{
    double all[TIERS][SCORE_BINS] = {{0}}, with[TIERS][SCORE_BINS] = {{0}};
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t i = 0; i < r->count; i++) {
            const struct replay_row *row = &r->rows[i];
            int bin = (int)(row->p[row->action] * SCORE_BINS);
            bin = bin < 0 ? 0 : bin >= SCORE_BINS ? SCORE_BINS - 1 : bin;
            if (pass == 0) {
                all[row->action][bin]++;
                with[row->action][bin] += row->labelled;
            } else {
                r->label_share[i] = with[row->action][bin] / all[row->action][bin];
            }
        }
    }
    for (int64_t i = 0; i < r->count; i++) r->labels += r->rows[i].labelled;
}

static bool row_possible(const struct replay_row *row)
{
    return row->action > TIER_NONE && row->action < TIERS && row->allowed[row->action] && row->propensity > 0 &&
           row->propensity <= 1 && isfinite(row->price_usd) && isfinite(row->total_ms) && isfinite(row->ood) &&
           isfinite(row->size) && isfinite(row->p[0]) && isfinite(row->p[1]) && isfinite(row->p[2]) &&
           (!row->labelled || (row->label >= 0 && row->label <= 1));
}

static bool replay_memory(struct replay *r)
{
    size_t n = r->count > 0 ? (size_t)r->count : 1;
    r->label_share = calloc(n, sizeof *r->label_share);
    r->work = calloc(n, sizeof *r->work);
    bool ok = r->label_share && r->work;
    for (int o = 0; o < OUTCOMES; o++) {
        r->expected[o] = calloc(n * TIERS, sizeof *r->expected[o]);
        ok = ok && r->expected[o];
    }
    return ok;
}

enum err_code replay_new(struct replay **out, const struct replay_row *rows, int64_t count,
                         const struct replay_target *today, struct err *e)
{
    *out = NULL;
    for (int64_t i = 0; i < count; i++)
        if (!row_possible(&rows[i]))
            return err_set(e, ERR_INVALID,
                           "replay: decision %lld cannot be: its tier must be one of the allowed, its propensity in "
                           "(0, 1], its label in [0, 1]",
                           (long long)i);
    struct replay *r = calloc(1, sizeof *r);
    if (!r) return err_set(e, ERR_MEMORY, "replay: out of memory");
    r->rows = rows;
    r->count = count;
    r->today = *today;
    if (!replay_memory(r)) {
        replay_free(r);
        return err_set(e, ERR_MEMORY, "replay: no memory for %lld decisions", (long long)count);
    }
    label_shares(r);
    for (int o = 0; o < OUTCOMES; o++) fit(r, (enum outcome)o);
    *out = r;
    return ERR_OK;
}

void replay_free(struct replay *replay)
{
    if (!replay) return;
    for (int o = 0; o < OUTCOMES; o++) free(replay->expected[o]);
    free(replay->label_share);
    free(replay->work);
    free(replay);
}

/* ---- one target ---- */

static int allowed_count(const struct replay_row *row)
{
    return row->allowed[0] + row->allowed[1] + row->allowed[2];
}

/* The target's probabilities for a row. Where nothing was left to chance and the target would choose otherwise, the
 * log knows nothing: the choice stays as it was and is counted as unsupported. */
static void row_weigh(const struct replay *r, const struct replay_target *target, const struct replay_row *row,
                      struct row_work *w)
{
    enum tier choice = replay_choice(target, row), today = replay_choice(&r->today, row);
    bool open = row->propensity < 1;
    w->unsupported = !open && allowed_count(row) > 1 && choice != row->action;
    w->stratum = open ? (int)today * TIERS + (int)choice : CLOSED;
    for (int t = 0; t < TIERS; t++) {
        double greedy = open ? (int)choice == t : (int)row->action == t;
        w->pi[t] = !row->allowed[t] ? 0 : open ? target->explore / allowed_count(row) + (1 - target->explore) * greedy
                                              : greedy;
    }
    w->weight = w->pi[row->action] / row->propensity;
    w->on_choice = !open || choice == row->action;
}

/* Sums of one stratum for one outcome; weights include the labels' share. */
struct stratum {
    double rows, weight, weight2, residual, spread, plain, plain_spread;
    double expected;  /* of the target's choices, to tell where a proportion could lie */
    double effective; /* rows that the weights amount to */
    double on_weight, on_weight2; /* of the rows that took the target's choice: without them nothing is known of it */
};

static double observed_weight(const struct replay *r, int64_t i, enum outcome outcome)
{
    if (!observed(&r->rows[i], outcome)) return 0;
    return r->work[i].weight / (outcome == QUALITY ? r->label_share[i] : 1);
}

static void strata_sum(struct replay *r, enum outcome outcome, struct stratum s[STRATA])
{
    memset(s, 0, STRATA * sizeof *s);
    for (int64_t i = 0; i < r->count; i++) {
        struct stratum *at = &s[r->work[i].stratum];
        const float *q = &r->expected[outcome][i * TIERS];
        double w = observed_weight(r, i, outcome), y = outcome_of(&r->rows[i], outcome);
        at->rows++;
        for (int t = 0; t < TIERS; t++) at->expected += r->work[i].pi[t] * (double)q[t];
        if (w <= 0) continue;
        at->weight += w;
        at->weight2 += w * w;
        if (r->work[i].on_choice) {
            at->on_weight += w;
            at->on_weight2 += w * w;
        }
        at->residual += w * (y - (double)q[r->rows[i].action]);
        at->plain += w * y;
    }
    for (int k = 0; k < STRATA; k++) {
        if (s[k].rows > 0) s[k].expected /= s[k].rows;
        if (s[k].weight <= 0) continue;
        s[k].residual /= s[k].weight;
        s[k].plain /= s[k].weight;
        s[k].effective = s[k].weight * s[k].weight / s[k].weight2;
    }
}

/* Each row's share in the two estimates; their mean is the estimate. */
static void influences(struct replay *r, enum outcome outcome, struct stratum s[STRATA])
{
    for (int64_t i = 0; i < r->count; i++) {
        struct row_work *w = &r->work[i];
        struct stratum *at = &s[w->stratum];
        const float *q = &r->expected[outcome][i * TIERS];
        double expected = 0, weight = observed_weight(r, i, outcome);
        for (int t = 0; t < TIERS; t++) expected += w->pi[t] * (double)q[t];
        double scale = at->weight > 0 ? weight * at->rows / at->weight : 0;
        double off = weight > 0 ? outcome_of(&r->rows[i], outcome) - (double)q[r->rows[i].action] - at->residual : 0;
        double plain_off = weight > 0 ? outcome_of(&r->rows[i], outcome) - at->plain : 0;
        w->influence[outcome] = expected + at->residual + scale * off;
        w->weighted[outcome] = at->plain + scale * plain_off;
        at->spread += scale * scale * off * off;
        at->plain_spread += scale * scale * plain_off * plain_off;
    }
}

/* What the strata add to the variance beyond the influences' own: the correction for few rows, and for a proportion
 * two rows as uncertain as a row can be, so that a handful of equal labels does not look like certainty. */
static struct extra few_rows(const struct stratum s[STRATA], enum outcome outcome, double n, bool plain)
{
    struct extra extra = {0, 0};
    for (int k = 0; k < STRATA; k++) {
        if (s[k].rows <= 0) continue;
        double share = s[k].rows / n, eff = s[k].effective, freedom = eff > 2 ? eff - 1 : 1;
        double was = (plain ? s[k].plain_spread : s[k].spread) / (n * n); /* as it stands in the influences */
        double one = eff > 0 ? was / (share * share) * eff : 0;           /* variance of one effective row */
        if (outcome == QUALITY) one = (one * eff + 2 * 0.25) / (eff + 2);
        double is = share * share * one / freedom;
        if (is > was) extra.variance += is - was;
        extra.slow += is * is / freedom;
    }
    return extra;
}

/* Mean and interval of `count` numbers, `stride` bytes apart; `errors` 0: 95 % by Student, else so many. */
static void interval(const double *first, size_t stride, int64_t count, struct extra extra, double errors,
                     double *value, double *low, double *high)
{
    double n = (double)count, sum = 0, square = 0;
    for (int64_t i = 0; i < count; i++) sum += *(const double *)((const char *)first + (size_t)i * stride);
    double mean = sum / n;
    for (int64_t i = 0; i < count; i++) {
        double d = *(const double *)((const char *)first + (size_t)i * stride) - mean;
        square += d * d;
    }
    double own = square / (n * n), all = own + extra.variance;
    double slow = extra.slow + own * own / n;
    double half = sqrt(all) * replay_t95(slow > 0 ? all * all / slow : n) * (errors > 0 ? errors / Z95 : 1);
    *value = mean;
    *low = mean - half;
    *high = mean + half;
}

static void clip(double *low, double *high)
{
    if (*low < 0) *low = 0;
    if (*high > 1) *high = 1;
}

static void estimate(struct replay *r, enum outcome outcome, struct stratum s[STRATA], struct replay_value *out)
{
    strata_sum(r, outcome, s);
    influences(r, outcome, s);
    for (int plain = 0; plain < 2; plain++) r->extra[plain][outcome] = few_rows(s, outcome, (double)r->count, plain);
    interval(&r->work[0].influence[outcome], sizeof r->work[0], r->count, r->extra[0][outcome], 0, &out->value,
             &out->low, &out->high);
    interval(&r->work[0].weighted[outcome], sizeof r->work[0], r->count, r->extra[1][outcome], 0, &out->weighted,
             &out->weighted_low, &out->weighted_high);
    if (outcome != QUALITY) return;
    clip(&out->low, &out->high);
    clip(&out->weighted_low, &out->weighted_high);
}

static bool is_changed(int stratum)
{
    return stratum != CLOSED && stratum / TIERS != stratum % TIERS;
}

static void refuse(struct replay_result *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void refuse(struct replay_result *out, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(out->why, sizeof out->why, format, args);
    va_end(args);
    out->refused = true;
}

/* Whether the log can carry the claim, told from the strata of the labelled rows. */
static void judge(const struct stratum s[STRATA], struct replay_result *out)
{
    double n = (double)out->rows, thin = 0, changed = 0, changed2 = 0, same = 0;
    for (int k = 0; k < STRATA; k++) {
        double effective = s[k].on_weight > 0 ? s[k].on_weight * s[k].on_weight / s[k].on_weight2 : 0;
        if (s[k].rows > 0 && effective < THIN_ROWS) thin += s[k].rows / n;
        if (!is_changed(k)) same += effective;
        else changed += s[k].on_weight;
        if (is_changed(k)) changed2 += s[k].on_weight2;
    }
    out->effective_rows = changed2 > 0 ? changed * changed / changed2 : 0;
    if (out->rows < ROWS_LEAST)
        refuse(out, "the log has %lld decisions that can be replayed; at least %lld are wanted", (long long)out->rows,
               (long long)ROWS_LEAST);
    else if (out->unsupported > UNSUPPORTED_MOST)
        refuse(out,
               "%.1f %% of the decisions would fall otherwise where nothing was left to chance, so that the log cannot "
               "tell what would have come of it: let policy.explore (1 %% by default) gather more",
               100 * out->unsupported);
    else if (out->changed > 0 && out->effective_rows < EFFECTIVE_LEAST)
        refuse(out,
               "%.1f %% of the decisions would fall otherwise, and only %.0f labelled rows tell what would have come of "
               "it; at least %.0f are wanted: more labels, a larger policy.explore or a longer --since",
               100 * out->changed, out->effective_rows, EFFECTIVE_LEAST);
    else if (same + out->effective_rows < EFFECTIVE_LEAST)
        refuse(out, "only %lld decisions have a label; at least %.0f are wanted: /v1/feedback, a checker or shadow runs",
               (long long)out->labels, EFFECTIVE_LEAST);
    else if (thin > THIN_SHARE_MOST)
        refuse(out, "%.1f %% of the decisions are of kinds that have next to no labelled rows", 100 * thin);
}

static void weigh_all(struct replay *r, const struct replay_target *target, struct replay_result *out)
{
    memset(out, 0, sizeof *out);
    out->rows = r->count;
    out->labels = r->labels;
    double n = r->count > 0 ? (double)r->count : 1;
    for (int64_t i = 0; i < r->count; i++) {
        struct row_work *w = &r->work[i];
        row_weigh(r, target, &r->rows[i], w);
        out->unsupported += w->unsupported / n;
        out->changed += is_changed(w->stratum) / n;
        for (int t = 0; t < TIERS; t++) out->share[t] += w->pi[t] / n;
    }
}

void replay_evaluate(struct replay *replay, const struct replay_target *target, struct replay_result *out)
{
    struct stratum s[STRATA];
    weigh_all(replay, target, out);
    if (replay->count == 0) {
        judge(memset(s, 0, sizeof s), out);
        return;
    }
    estimate(replay, PRICE, s, &out->price_usd);
    estimate(replay, TIME, s, &out->total_ms);
    estimate(replay, QUALITY, s, &out->quality);
    judge(s, out);
}

/* ---- differences ---- */

static struct replay_value *value_of(struct replay_result *result, enum outcome outcome)
{
    return outcome == QUALITY ? &result->quality : outcome == PRICE ? &result->price_usd : &result->total_ms;
}

static struct extra extra_sum(struct extra a, struct extra b)
{
    return (struct extra){a.variance + b.variance, a.slow + b.slow};
}

/* was: (2, OUTCOMES, count), the influences under `from`. */
static void difference(struct replay *r, double *was, const struct extra extra[2][OUTCOMES], double errors,
                       struct replay_result *out)
{
    int64_t n = r->count;
    for (int o = 0; o < OUTCOMES; o++) {
        struct replay_value *v = value_of(out, (enum outcome)o);
        double *robust = &was[o * n], *plain = &was[(OUTCOMES + o) * n];
        for (int64_t i = 0; i < n; i++) {
            robust[i] = r->work[i].influence[o] - robust[i];
            plain[i] = r->work[i].weighted[o] - plain[i];
        }
        interval(robust, sizeof *robust, n, extra_sum(r->extra[0][o], extra[0][o]), errors, &v->value, &v->low,
                 &v->high);
        interval(plain, sizeof *plain, n, extra_sum(r->extra[1][o], extra[1][o]), errors, &v->weighted,
                 &v->weighted_low, &v->weighted_high);
    }
}

void replay_difference(struct replay *replay, const struct replay_target *from, const struct replay_target *to,
                       double errors, struct replay_result *out)
{
    int64_t n = replay->count;
    struct replay_result before;
    struct extra extra[2][OUTCOMES];
    double *was = calloc((size_t)(n > 0 ? n : 1) * OUTCOMES * 2, sizeof *was);
    if (!was) {
        memset(out, 0, sizeof *out);
        refuse(out, "no memory for %lld decisions", (long long)n);
        return;
    }
    replay_evaluate(replay, from, &before);
    memcpy(extra, replay->extra, sizeof extra);
    for (int o = 0; o < OUTCOMES; o++) {
        for (int64_t i = 0; i < n; i++) {
            was[o * n + i] = replay->work[i].influence[o];
            was[(OUTCOMES + o) * n + i] = replay->work[i].weighted[o];
        }
    }
    replay_evaluate(replay, to, out);
    if (before.refused && !out->refused) refuse(out, "%s", before.why);
    if (n > 0) difference(replay, was, extra, errors, out);
    free(was);
}
