/* Replay against synthetic logs whose truth is known. */
#include "log_fixture.h"

#include "router/tune.h"

#include <math.h>

static uint64_t seed;
static double dice(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (double)(seed >> 11) * 0x1p-53;
}

static double gauss(void)
{
    return sqrt(-2 * log(1 - dice())) * cos(6.283185307179586 * dice());
}

static double logistic(double z)
{
    return 1 / (1 + exp(-z));
}

/* A world: prompts of a hidden difficulty, a router that is off by `bias`, and what the tiers then do. */
struct world {
    double bias;         /* the router is too sure by this, in log-odds, and wrong in shape too */
    double closed;       /* share of requests with one allowed tier only */
    double explore;
    double label[TIERS]; /* share of answers that get a label, before the score counts in */
    int rows;
};
static const double PRICE_OF[TIERS] = {0.01, 0.1, 1};
static const double TIME_OF[TIERS] = {100, 300, 500};

struct prompt {
    struct replay_row row;
    double right[TIERS]; /* the truth */
};

static void prompt_draw(const struct world *w, struct prompt *out)
{
    memset(out, 0, sizeof *out);
    double z = gauss(), noise = 0.4 * gauss();
    static const double SKILL[TIERS] = {0.3, 1.3, 2.5};
    for (int t = 0; t < TIERS; t++) {
        out->right[t] = logistic(SKILL[t] - 1.4 * z);
        out->row.p[t] = logistic(w->bias + SKILL[t] - 1.0 * z + noise);
        out->row.allowed[t] = true;
    }
    out->row.size = 20 + 300 * dice();
    if (dice() < w->closed) {
        int only = (int)(dice() * TIERS);
        for (int t = 0; t < TIERS; t++) out->row.allowed[t] = t == only;
    } else if (dice() < 0.2) {
        out->row.allowed[TIER_REGION] = false;
    }
    out->row.ood = dice();
}

static double price_of(const struct replay_row *row, int tier)
{
    return PRICE_OF[tier] * (1 + row->size / 100);
}

static void act(const struct world *w, const struct replay_target *policy, struct prompt *p)
{
    struct replay_row *row = &p->row;
    int n = row->allowed[0] + row->allowed[1] + row->allowed[2];
    enum tier greedy = replay_choice(policy, row);
    row->action = greedy;
    row->propensity = 1;
    if (n > 1 && w->explore > 0) {
        if (dice() < w->explore) {
            int nth = (int)(dice() * n);
            for (int t = 0; t < TIERS; t++)
                if (row->allowed[t] && nth-- == 0) row->action = (enum tier)t;
        }
        row->propensity = w->explore / n + (row->action == greedy ? 1 - w->explore : 0);
    }
    row->price_usd = price_of(row, row->action) * (0.5 + dice());
    row->total_ms = TIME_OF[row->action] * (0.5 + dice());
    row->labelled = dice() < w->label[row->action] * (0.6 + 0.4 * row->p[row->action]);
    row->label = dice() < p->right[row->action] ? 1 : 0;
}

struct truth {
    double quality, price_usd, total_ms;
};

static struct truth truth_of(const struct world *w, const struct replay_target *target)
{
    struct truth sum = {0, 0, 0};
    enum { DRAWS = 400000 };
    seed = 99;
    for (int i = 0; i < DRAWS; i++) {
        struct prompt p;
        prompt_draw(w, &p);
        int n = p.row.allowed[0] + p.row.allowed[1] + p.row.allowed[2];
        enum tier choice = replay_choice(target, &p.row);
        for (int t = 0; t < TIERS; t++) {
            double pi = !p.row.allowed[t] ? 0 : target->explore / n + ((int)choice == t ? 1 - target->explore : 0);
            sum.quality += pi * p.right[t];
            sum.price_usd += pi * price_of(&p.row, t);
            sum.total_ms += pi * TIME_OF[t];
        }
    }
    return (struct truth){sum.quality / DRAWS, sum.price_usd / DRAWS, sum.total_ms / DRAWS};
}

static struct replay_row *log_draw(const struct world *w, const struct replay_target *policy, uint64_t from)
{
    struct replay_row *rows = calloc((size_t)w->rows, sizeof *rows);
    seed = from * 0x9e3779b97f4a7c15u + 1;
    for (int i = 0; i < 8; i++) (void)dice();
    for (int i = 0; i < w->rows; i++) {
        struct prompt p;
        prompt_draw(w, &p);
        act(w, policy, &p);
        rows[i] = p.row;
    }
    return rows;
}

enum { LOGS = 400 };
struct covered {
    int quality, price, time, weighted, difference, evaluated;
    double width, plain_width, price_width, plain_price_width, error;
};

static struct covered cover(const struct world *w, const struct replay_target *today, const struct replay_target *target)
{
    struct covered c = {0};
    struct truth truth = truth_of(w, target), before = truth_of(w, today);
    for (int k = 0; k < LOGS; k++) {
        struct replay_row *rows = log_draw(w, today, (uint64_t)k + 1);
        struct replay *replay;
        struct replay_result r, d;
        assert_int_equal(replay_new(&replay, rows, w->rows, today, NULL), ERR_OK);
        replay_evaluate(replay, target, &r);
        if (!r.refused) {
            c.evaluated++;
            c.quality += r.quality.low <= truth.quality && truth.quality <= r.quality.high;
            c.weighted += r.quality.weighted_low <= truth.quality && truth.quality <= r.quality.weighted_high;
            c.price += r.price_usd.low <= truth.price_usd && truth.price_usd <= r.price_usd.high;
            c.time += r.total_ms.low <= truth.total_ms && truth.total_ms <= r.total_ms.high;
            c.width += r.quality.high - r.quality.low;
            c.plain_width += r.quality.weighted_high - r.quality.weighted_low;
            c.price_width += r.price_usd.high - r.price_usd.low;
            c.plain_price_width += r.price_usd.weighted_high - r.price_usd.weighted_low;
            c.error += r.quality.value - truth.quality;
            replay_difference(replay, today, target, 0, &d);
            double change = truth.quality - before.quality;
            c.difference += d.quality.low <= change && change <= d.quality.high;
        }
        replay_free(replay);
        free(rows);
    }
    (void)printf("    %d logs of %d: covered quality %.1f %%, weighted %.1f, price %.1f, time %.1f, difference %.1f; "
                 "width %.4f, weighted %.4f, of price %.4f, weighted %.4f; mean error %+.4f\n",
                 c.evaluated, w->rows, 100.0 * c.quality / c.evaluated, 100.0 * c.weighted / c.evaluated,
                 100.0 * c.price / c.evaluated, 100.0 * c.time / c.evaluated, 100.0 * c.difference / c.evaluated,
                 c.width / c.evaluated, c.plain_width / c.evaluated, c.price_width / c.evaluated,
                 c.plain_price_width / c.evaluated, c.error / c.evaluated);
    return c;
}

static void assert_covers(int hits, int of)
{
    assert_in_range(hits * 1000 / of, 920, 980);
}

static const struct replay_target TODAY = {{0.75, 0.8, 0}, 0.97, 0.05};

static void intervals_cover_the_truth_of_400_logs(void **state)
{
    (void)state;
    const struct world w = {.bias = 0.3, .closed = 0.1, .explore = 0.2, .label = {0.6, 0.4, 0.5}, .rows = 10000};
    const struct replay_target target = {{0.6, 0.7, 0}, 0.97, 0.2};
    struct covered c = cover(&w, &TODAY, &target);
    assert_int_equal(c.evaluated, LOGS);
    assert_covers(c.quality, LOGS);
    assert_covers(c.weighted, LOGS);
    assert_covers(c.price, LOGS);
    assert_covers(c.time, LOGS);
    assert_covers(c.difference, LOGS);
    assert_true(c.price_width < c.plain_price_width); /* what the model is for */
}

static void intervals_cover_when_the_router_is_far_off(void **state)
{
    (void)state;
    const struct world w = {.bias = 1.2, .explore = 0.2, .label = {0.5, 0.4, 0.5}, .rows = 8000};
    const struct replay_target target = {{0.93, 0.9, 0}, 0.97, 0.2};
    struct covered c = cover(&w, &TODAY, &target);
    assert_true(c.evaluated > LOGS * 9 / 10);
    assert_covers(c.quality, c.evaluated);
    assert_covers(c.weighted, c.evaluated);
    assert_covers(c.difference, c.evaluated);
}

static void intervals_cover_with_few_rows(void **state)
{
    (void)state;
    const struct world w = {.bias = 0, .explore = 0.2, .label = {0.8, 0.8, 0.8}, .rows = 3000};
    const struct replay_target target = {{0.5, 0.6, 0}, 0.97, 0.2};
    struct covered c = cover(&w, &TODAY, &target);
    assert_true(c.evaluated > LOGS / 2);
    assert_covers(c.quality, c.evaluated);
    assert_covers(c.difference, c.evaluated);
}

static void refused(const struct world *w, const struct replay_target *target, const char *because)
{
    struct replay_row *rows = log_draw(w, &TODAY, 7);
    struct replay *replay;
    struct replay_result r;
    assert_int_equal(replay_new(&replay, rows, w->rows, &TODAY, NULL), ERR_OK);
    replay_evaluate(replay, target, &r);
    assert_true(r.refused);
    if (!strstr(r.why, because)) fail_msg("'%s' does not say '%s'", r.why, because);
    replay_free(replay);
    free(rows);
}

static void what_the_log_cannot_support_is_refused_with_the_reason(void **state)
{
    (void)state;
    const struct replay_target bold = {{0.5, 0.5, 0}, 0.97, 0.05};
    struct world w = {.explore = 0.05, .label = {0.5, 0.5, 0.5}, .rows = 20000};
    w.explore = 0;
    refused(&w, &bold, "nothing was left to chance");
    w.explore = 0.01;
    w.rows = 3000;
    refused(&w, &bold, "labelled rows tell");
    w.explore = 0.05;
    w.rows = 50;
    refused(&w, &bold, "at least 100");
    w.rows = 20000;
    memset(w.label, 0, sizeof w.label);
    refused(&w, &TODAY, "have a label");
    w.label[TIER_EDGE] = 0.5; /* nothing is known of the higher tiers, though the target would take them */
    const struct replay_target up = {{0.95, 0.9, 0}, 0.97, 0.05};
    refused(&w, &up, "labelled rows");
}

static void a_row_that_cannot_be_is_named(void **state)
{
    (void)state;
    struct replay_row row = {.p = {0.5, 0.6, 0.7}, .allowed = {true, false, true}, .action = TIER_CORE, .propensity = 0.5};
    struct replay *replay;
    struct err e;
    assert_int_equal(replay_new(&replay, &row, 1, &TODAY, &e), ERR_OK);
    replay_free(replay);
    static const double BAD[] = {0, -1, 1.5, NAN};
    for (int i = 0; i < 4; i++) {
        row.propensity = BAD[i];
        assert_int_equal(replay_new(&replay, &row, 1, &TODAY, &e), ERR_INVALID);
    }
    row.propensity = 0.5;
    row.action = TIER_REGION; /* not allowed */
    assert_int_equal(replay_new(&replay, &row, 1, &TODAY, &e), ERR_INVALID);
}

/* Replay's rule and the policy's own must be one. */
static void replay_chooses_as_the_policy_does(void **state)
{
    (void)state;
    seed = 5;
    const struct world w = {.closed = 0.2};
    struct policy policy;
    policy_defaults(&policy);
    policy.explore = 0;
    for (int i = 0; i < 20000; i++) {
        struct prompt p;
        prompt_draw(&w, &p);
        struct router_scores scores = {.ood = p.row.ood, .known = {true, true, true}};
        struct tier_state up[TIERS];
        struct decide_limits limits = {.self = TIER_EDGE, .forced = TIER_NONE, .max = TIER_CORE, .sticky = TIER_NONE,
                                       .budget_left_usd = -1};
        for (int t = 0; t < TIERS; t++) {
            scores.p[t] = p.row.p[t];
            up[t] = (struct tier_state){.configured = true, .available = p.row.allowed[t]};
        }
        policy.ood_limit = dice();
        policy.threshold[0] = dice();
        policy.threshold[1] = dice();
        struct decision d;
        policy_decide(&policy, &scores, NULL, up, &limits, &d);
        struct replay_target target = replay_target(&policy);
        assert_int_equal(replay_choice(&target, &p.row), d.tier);
    }
}

static void students_quantiles_are_right(void **state)
{
    (void)state;
    static const double TABLE[][2] = {{3, 3.182}, {5, 2.571}, {10, 2.228}, {30, 2.042}, {1e6, 1.960}};
    for (size_t i = 0; i < sizeof TABLE / sizeof TABLE[0]; i++)
        assert_true(fabs(replay_t95(TABLE[i][0]) - TABLE[i][1]) < 0.015);
}

/* ---- from the log ---- */

static void log_fill(const struct folder *f, const struct world *w, const char *router, int from)
{
    struct log_options options = options_of(f);
    options.queue_rows = w->rows * 3;
    struct decision_log *log = open_log(&options);
    struct replay_row *rows = log_draw(w, &TODAY, 3);
    struct policy policy;
    policy_defaults(&policy);
    memcpy(policy.threshold, TODAY.threshold, sizeof policy.threshold);
    policy.ood_limit = TODAY.ood_limit;
    policy.explore = TODAY.explore;
    assert_int_equal(log_policy_add(log, &policy, "config", NULL), ERR_OK);
    for (int i = 0; i < w->rows; i++) {
        char request[LOG_ID];
        (void)snprintf(request, sizeof request, "req-%d", from + i);
        struct log_row row = row_of(request);
        const struct replay_row *r = &rows[i];
        row.decision = (struct decision){.tier = r->action, .ood = r->ood, .propensity = r->propensity,
                                         .explored = false, .arm = "A", .policy_version = 1};
        memcpy(row.decision.p, r->p, sizeof r->p);
        memcpy(row.decision.allowed, r->allowed, sizeof r->allowed);
        (void)snprintf(row.decision.router, sizeof row.decision.router, "%s", router);
        row.answered = r->action;
        row.price_usd = r->price_usd;
        row.total_ms = r->total_ms;
        row.prompt_chars = (int)r->size;
        assert_int_equal(log_decision(log, &row, NULL, 0), ERR_OK);
        struct log_label label = {.source = "checker", .tier = TIER_NONE, .value = r->label, .wall_ms = row.wall_ms};
        memcpy(label.request, row.request, sizeof label.request);
        if (r->labelled) assert_int_equal(log_label_add(log, &label), ERR_OK);
    }
    assert_true(log_flush(log, 60000));
    log_close(log, 10000);
    free(rows);
}

static void tuning_proposes_what_is_cheaper_and_as_good(void **state)
{
    const struct folder *f = *state;
    /* thresholds of today that are far too careful: the edge is right more often than it is trusted to be */
    const struct world w = {.bias = -0.8, .closed = 0.05, .explore = 0.05, .label = {0.8, 0.8, 0.8}, .rows = 30000};
    log_fill(f, &w, "0123456789abcdef", 0);
    struct tune *t;
    struct err e = {0};
    const struct tune_options options = {.path = f->db, .loss = 0.02, .try_one = true, .try_threshold = {0.5, -1, -1}};
    if (tune_run(&t, &options, &e) != ERR_OK) fail_msg("%s", e.msg);
    assert_int_equal(t->rows, 30000);
    assert_true(t->tried > 0);
    assert_true(t->points[t->tried].target.threshold[1] == TODAY.threshold[1]);
    if (t->proposal < 0) fail_msg("%s", t->verdict);
    struct policy policy;
    tune_policy(t, &policy);
    (void)printf("    %s\n", t->verdict);
    struct replay_target target = replay_target(&policy);
    struct truth before = truth_of(&w, &TODAY), after = truth_of(&w, &target);
    assert_true(after.price_usd < before.price_usd);
    assert_true(after.quality > before.quality - 0.02);
    assert_true(t->change.quality.low <= after.quality - before.quality);
    assert_true(t->change.quality.high >= after.quality - before.quality);
    for (int i = 1; i < t->count; i++) { /* nothing on the frontier is beaten */
        for (int j = 0; j < t->count && t->points[i].frontier; j++) {
            const struct replay_result *a = &t->points[i].result, *b = &t->points[j].result;
            assert_false(!b->refused && b->quality.value > a->quality.value && b->price_usd.value < a->price_usd.value);
        }
    }
    struct buf svg = BUF_INIT(1 << 20);
    tune_svg(t, &svg);
    assert_true(buf_ok(&svg));
    assert_non_null(strstr(svg.data, "class='today'"));
    assert_non_null(strstr(svg.data, "class='proposal'"));
    assert_null(strstr(svg.data, "nan"));
    buf_release(&svg);
    tune_free(t);
}

static void another_routers_scores_are_left_out(void **state)
{
    const struct folder *f = *state;
    struct world w = {.explore = 0.05, .label = {0.5, 0.5, 0.5}, .rows = 200};
    log_fill(f, &w, "aaaaaaaaaaaaaaaa", 0);
    w.rows = 150;
    log_fill(f, &w, "bbbbbbbbbbbbbbbb", 200);
    struct tune *t;
    struct err e = {0};
    struct tune_options options = {.path = f->db};
    assert_int_equal(tune_run(&t, &options, &e), ERR_OK);
    assert_string_equal(t->router, "bbbbbbbbbbbbbbbb");
    assert_int_equal(t->rows, 150);
    assert_int_equal(t->left_out, 200);
    assert_int_equal(t->proposal, -1);
    assert_non_null(strstr(t->verdict, "refused"));
    tune_free(t);
    options.node = "nobody";
    assert_int_equal(tune_run(&t, &options, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.msg, "nobody"));
}

static void a_log_without_scores_says_so(void **state)
{
    const struct folder *f = *state;
    struct log_options log_options = options_of(f);
    log_close(open_log(&log_options), 1000);
    struct tune *t;
    struct err e = {0};
    const struct tune_options options = {.path = f->db};
    assert_int_equal(tune_run(&t, &options, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.msg, "router"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(intervals_cover_the_truth_of_400_logs),
        cmocka_unit_test(intervals_cover_when_the_router_is_far_off),
        cmocka_unit_test(intervals_cover_with_few_rows),
        cmocka_unit_test(what_the_log_cannot_support_is_refused_with_the_reason),
        cmocka_unit_test(a_row_that_cannot_be_is_named),
        cmocka_unit_test(replay_chooses_as_the_policy_does),
        cmocka_unit_test(students_quantiles_are_right),
        IN_FOLDER(tuning_proposes_what_is_cheaper_and_as_good),
        IN_FOLDER(another_routers_scores_are_left_out),
        IN_FOLDER(a_log_without_scores_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
