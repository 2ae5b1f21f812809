/* When a router counts as stale. */
#include "log_fixture.h"

#include "router/stale.h"

struct made {
    int rows;
    double p, right, ood; /* promised, share of right answers, of each prompt */
    int escalated_each;   /* every so many the probe sent up, with its word 0.1; 0: none */
};

static void log_make(const struct folder *f, const struct made *m)
{
    struct log_options options = options_of(f);
    struct decision_log *log = open_log(&options);
    double right = 0;
    for (int i = 0; i < m->rows; i++) {
        char id[LOG_ID];
        (void)snprintf(id, sizeof id, "r%d", i);
        struct log_row row = row_of(id);
        row.decision.p[TIER_EDGE] = m->p;
        row.decision.ood = m->ood;
        bool up = m->escalated_each && i % m->escalated_each == 0;
        if (up) {
            row.escalated = true;
            row.answered = TIER_CORE;
            row.probe_p = 0.1;
        }
        assert_int_equal(log_decision(log, &row, NULL, 0), ERR_OK);
        struct log_label label = {.source = "feedback", .tier = TIER_NONE, .wall_ms = test_hour_ms()};
        (void)snprintf(label.request, sizeof label.request, "%s", id);
        right += m->right;
        label.value = up ? 1 : right >= 1;
        if (right >= 1) right -= 1;
        assert_int_equal(log_label_add(log, &label), ERR_OK);
    }
    log_close(log, 5000);
}

static struct stale read_of(const struct folder *f)
{
    struct stale s;
    struct err e = {0};
    const struct stale_options options = {.path = f->db};
    if (stale_read(&s, &options, &e) != ERR_OK) fail_msg("%s", e.msg);
    return s;
}

static void a_router_whose_word_holds_is_fresh(void **state)
{
    log_make(*state, &(struct made){400, 0.8, 0.8, 0.2, 0});
    struct stale s = read_of(*state);
    assert_false(s.stale);
    assert_int_equal(s.tier[TIER_EDGE].labels, 400);
    assert_non_null(strstr(s.why, "400 labels"));
    assert_string_equal(s.router, "0123456789abcdef");
}

static void a_router_that_promises_too_much_says_by_how_much(void **state)
{
    log_make(*state, &(struct made){400, 0.9, 0.6, 0.2, 0});
    struct stale s = read_of(*state);
    assert_true(s.stale);
    assert_non_null(strstr(s.why, "promises 0.900 of the edge's answers, 400 labels say 0."));
}

static void few_labels_prove_nothing(void **state)
{
    log_make(*state, &(struct made){49, 0.9, 0.3, 0.2, 0});
    assert_false(read_of(*state).stale);
}

static void prompts_unlike_the_fit_are_a_sign_too(void **state)
{
    log_make(*state, &(struct made){300, 0.8, 0.8, 0.93, 0});
    struct stale s = read_of(*state);
    assert_true(s.stale && s.unfamiliar == 1);
    assert_non_null(strstr(s.why, "unlike what it was fitted on"));
}

static void what_the_probe_sent_up_is_not_forgotten(void **state)
{
    /* half go up with the probe's word 0.1, the easier half is right in 94 %: together the promised 0.52 */
    log_make(*state, &(struct made){400, 0.52, 0.94, 0.2, 2});
    struct stale s = read_of(*state);
    assert_false(s.stale);
    assert_true(s.tier[TIER_EDGE].was > 0.49 && s.tier[TIER_EDGE].was < 0.55);
    assert_int_equal(s.tier[TIER_CORE].labels, 0); /* its answers were of the harder half */
}

static void a_log_without_scores_is_said_so(void **state)
{
    const struct folder *f = *state;
    struct log_options options = options_of(f);
    log_close(open_log(&options), 5000);
    struct stale s;
    struct err e = {0};
    assert_int_equal(stale_read(&s, &(struct stale_options){.path = f->db}, &e), ERR_NOT_FOUND);
    assert_int_equal(stale_read(&s, &(struct stale_options){.path = "/nowhere/x.db"}, &e), ERR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(a_router_whose_word_holds_is_fresh),
        IN_FOLDER(a_router_that_promises_too_much_says_by_how_much),
        IN_FOLDER(few_labels_prove_nothing),
        IN_FOLDER(prompts_unlike_the_fit_are_a_sign_too),
        IN_FOLDER(what_the_probe_sent_up_is_not_forgotten),
        IN_FOLDER(a_log_without_scores_is_said_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
