#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "router/score.h"
#include "router/train_parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum err_code read_text(struct train_rows *rows, const char *tiers, const char *text, struct err *e)
{
    assert_int_equal(train_tiers(rows, tiers, e), ERR_OK);
    FILE *f = tmpfile();
    assert_non_null(f);
    (void)fputs(text, f);
    rewind(f);
    enum err_code code = train_rows_read(rows, f, "rows", e);
    (void)fclose(f);
    return code;
}

/* ---- rows ---- */

static void rows_hold_prompts_conversations_and_scores(void **state)
{
    (void)state;
    struct train_rows rows;
    struct err e;
    assert_int_equal(read_text(&rows, "a,b",
                               "{\"task\":\"t\",\"prompt\":\"one\",\"scores\":{\"a\":0.5,\"b\":true,\"c\":0}}\n"
                               "\n"
                               "{\"prompt\":\"no score of b\",\"scores\":{\"a\":1}}\n"
                               "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":\"y\"},"
                               "{\"role\":\"user\",\"content\":\"z\"}],\"scores\":{\"a\":0,\"b\":1},\"tools\":[{}]}\n",
                               &e),
                     ERR_OK);
    assert_int_equal(rows.count, 2);
    assert_int_equal(rows.skipped, 1);
    assert_true(rows.row[0].score[0] == 0.5f && rows.row[0].score[1] == 1 && rows.row[0].mean_score == 0.5f);
    assert_string_equal(rows.row[1].text, "z");
    assert_memory_equal(rows.row[1].context, "x\ny\n", 4);
    assert_int_equal(rows.row[1].turns, 3);
    assert_true(rows.row[1].tools);
    train_rows_release(&rows);
}

static void a_wrong_row_names_its_line_and_field(void **state)
{
    (void)state;
    static const struct {
        const char *text, *param;
        enum err_code code;
    } CASES[] = {
        {"{\"prompt\":\"x\",\"scores\":{\"a\":1,\"b\":2}}", "b", ERR_INVALID},
        {"{\"prompt\":\"x\",\"scores\":{\"a\":\"1\",\"b\":1}}", "a", ERR_INVALID},
        {"{\"prompt\":5,\"scores\":{\"a\":1,\"b\":1}}", "prompt", ERR_INVALID},
        {"{\"messages\":[{\"role\":\"system\",\"content\":\"x\"}],\"scores\":{\"a\":1,\"b\":1}}", "prompt", ERR_INVALID},
        {"{\"prompt\":\"x\"}", "scores", ERR_INVALID},
        {"[1,2", "", ERR_SYNTAX},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        char text[512];
        (void)snprintf(text, sizeof text, "{\"prompt\":\"fine\",\"scores\":{\"a\":1,\"b\":1}}\n%s\n", CASES[i].text);
        struct train_rows rows;
        struct err e = {0};
        assert_int_equal(read_text(&rows, "a,b", text, &e), CASES[i].code);
        assert_string_equal(e.param, CASES[i].param);
        assert_non_null(strstr(e.msg, "rows line 2"));
        train_rows_release(&rows);
    }
}

static void tiers_are_two_or_three_names(void **state)
{
    (void)state;
    struct train_rows rows;
    struct err e;
    assert_int_equal(train_tiers(&rows, "a", &e), ERR_INVALID);
    assert_int_equal(train_tiers(&rows, "a,,b", &e), ERR_INVALID);
    assert_int_equal(train_tiers(&rows, "a,b,c,d", &e), ERR_INVALID);
    assert_int_equal(train_tiers(&rows, "small=a+b+,large=c", &e), ERR_OK);
    assert_int_equal(rows.members[0], 2);
    assert_string_equal(rows.names[0], "small");
    assert_string_equal(rows.member[0][1], "b");
    assert_int_equal(train_tiers(&rows, "small=,large", &e), ERR_OK);
}

static void scores_that_tell_of_parsing_are_left_out_of_a_group(void **state)
{
    (void)state;
    struct train_rows rows;
    struct err e;
    /* On t, y is right a tenth as often as x: it was not understood. On u nobody large was. */
    char text[8192] = "";
    for (int i = 0; i < 20; i++) {
        char line[200];
        (void)snprintf(line, sizeof line, "{\"task\":\"t\",\"prompt\":\"%d\",\"scores\":{\"x\":1,\"y\":%d,\"z\":1}}\n", i, i < 2);
        (void)strcat(text, line);
        (void)snprintf(line, sizeof line, "{\"task\":\"u\",\"prompt\":\"%d\",\"scores\":{\"x\":1,\"y\":1,\"z\":%d}}\n", i, i < 2);
        (void)strcat(text, line);
    }
    assert_int_equal(read_text(&rows, "small=x+y,large=z", text, &e), ERR_OK);
    assert_int_equal(rows.count, 20);
    assert_int_equal(rows.skipped, 20);
    for (size_t i = 0; i < rows.count; i++) {
        assert_string_equal(rows.row[i].task, "t");
        assert_true(rows.row[i].score[0] == 1);
    }
    train_rows_release(&rows);
}

static void too_few_rows_are_refused(void **state)
{
    (void)state;
    struct train_rows rows;
    struct err e;
    struct router *r = NULL;
    struct train_options options = {0};
    assert_int_equal(read_text(&rows, "a,b", "{\"prompt\":\"x\",\"scores\":{\"a\":1,\"b\":1}}\n", &e), ERR_OK);
    assert_int_equal(train_router(&r, &rows, &options, NULL, &e), ERR_INVALID);
    assert_non_null(strstr(e.msg, "at least 50"));
    assert_null(r);
    train_rows_release(&rows);
}

/* ---- figures ---- */

static void apgr_is_one_half_at_random_and_best_when_gains_come_first(void **state)
{
    (void)state;
    enum { N = 1000 };
    static float score[N], weak[N], strong[N], order[N];
    for (int i = 0; i < N; i++) {
        weak[i] = i >= 200; /* the strong model is right alone on the first 200 */
        strong[i] = 1;
        score[i] = (float)(N - i);
    }
    /* All gain within the first fifth: quality 0.8 → 1 over it, then 1. Area: 1 - 0.2 × 0.1 = 0.98. */
    assert_true(fabs(score_apgr(score, weak, strong, N, order) - (0.98 - 0.8) / 0.2) < 0.006);
    assert_true(fabs(score_cpt(score, weak, strong, N, 0.5, order) - 0.1) < 0.002);
    assert_true(fabs(score_cpt(score, weak, strong, N, 0.8, order) - 0.16) < 0.002);
    for (int i = 0; i < N; i++) score[i] = (float)i;
    assert_true(fabs(score_apgr(score, weak, strong, N, order) - 0.1) < 0.006);
    for (int i = 0; i < N; i++) score[i] = (float)(i * 7919 % N);
    assert_true(fabs(score_apgr(score, weak, strong, N, order) - 0.5) < 0.03);
}

static void calibration_error_knows_the_calibrated_from_the_boastful(void **state)
{
    (void)state;
    enum { N = 3000 };
    static struct train_row row[N];
    static double honest[N][TIERS], boastful[N][TIERS];
    struct train_rows rows = {.row = row, .count = N, .columns = 2};
    uint64_t s = 99;
    for (int i = 0; i < N; i++) {
        s = s * 6364136223846793005u + 1442695040888963407u;
        double p = 0.05 + 0.9 * (i % 100) / 100.0;
        row[i].score[0] = (double)(s >> 11) / 9007199254740992.0 < p ? 1 : 0;
        row[i].score[1] = 1;
        honest[i][0] = p;
        boastful[i][0] = p < 0.5 ? p * p : sqrt(p);
        honest[i][1] = boastful[i][1] = 0.99;
    }
    struct score_report a, b;
    struct err e;
    assert_int_equal(score_rows(&a, &rows, (const double(*)[TIERS])honest, &e), ERR_OK);
    assert_int_equal(score_rows(&b, &rows, (const double(*)[TIERS])boastful, &e), ERR_OK);
    assert_true(a.tier[0].ece <= a.tier[0].ece_perfect * 1.2);
    assert_true(b.tier[0].ece > 1.5 * b.tier[0].ece_perfect);
    assert_true(a.tier[0].brier < b.tier[0].brier);
    rows.count = 0;
    assert_int_equal(score_rows(&a, &rows, (const double(*)[TIERS])honest, &e), ERR_INVALID);
}

/* ---- the probe ---- */

static void a_probe_learns_what_the_text_cannot_tell(void **state)
{
    (void)state;
    struct train_rows rows;
    struct err e;
    assert_int_equal(train_tiers(&rows, "s,l", &e), ERR_OK);
    FILE *f = tmpfile(), *g = tmpfile();
    assert_true(f && g);
    uint64_t s = 5;
    for (int i = 0; i < 400; i++) {
        s = s * 6364136223846793005u + 1442695040888963407u;
        int right = (int)(s >> 63), sure = (s >> 40 & 7) ? right : !right; /* the text is noise; the state is not */
        (void)fprintf(f, "{\"prompt\":\"question %d\",\"scores\":{\"s\":%d,\"l\":1}}\n", i, right);
        (void)fprintf(g, "{\"prompt\":\"question %d\",\"scores\":{\"s\":%d},\"hidden\":[%d,0.5,%d],\"answer_tokens\":3,"
                         "\"entropy_mean\":%.2f,\"entropy_max\":1,\"margin_min\":0,\"logprob_mean\":-1,"
                         "\"varentropy_mean\":0}\n",
                      i, right, sure ? 2 : -2, i % 7, right ? 0.2 : 0.9);
    }
    rewind(f);
    rewind(g);
    assert_int_equal(train_rows_read(&rows, f, "rows", &e), ERR_OK);
    struct router *r;
    static double unseen[400][TIERS];
    struct train_options options = {.bits = 12};
    struct train_probe_report w;
    assert_int_equal(train_router(&r, &rows, &options, unseen, &e), ERR_OK);
    assert_int_equal(train_probe(r, &rows, (const double(*)[TIERS])unseen, g, "probe", &w, &e), ERR_OK);
    assert_true(w.text.auc < 0.65 && w.prefill.auc > 0.8 && w.joined.auc > 0.95);
    float state_good[3] = {2, 0.5f, 3}, state_bad[3] = {-2, 0.5f, 3};
    struct router_evidence ev = {.hidden = state_good, .embedding = 3};
    assert_true(router_probe(r, 0.5, &ev) > 0.7);
    ev.hidden = state_bad;
    assert_true(router_probe(r, 0.5, &ev) < 0.3);
    ev = (struct router_evidence){.hidden = state_bad, .embedding = 3, .tokens = 3, .entropy_mean = 0.2, .entropy_max = 1,
                                  .logprob_mean = -1};
    assert_true(router_probe(r, 0.5, &ev) > 0.5); /* the first tokens were sure */
    ev.embedding = 4;
    assert_true(router_probe(r, 0.25, &ev) == 0.25); /* another model's state says nothing */
    ev = (struct router_evidence){.hidden = NULL, .embedding = 3};
    assert_true(router_probe(r, 0.25, &ev) == 0.25);
    router_free(r);
    train_rows_release(&rows);
    (void)fclose(f);
    (void)fclose(g);
}

/* ---- real outcomes, where they are at hand ---- */

static FILE *shared_rows(const char *name)
{
    const char *folder = getenv("RUNG_SHARED_DATA");
    char path[1024];
    (void)snprintf(path, sizeof path, "%s/routing/%s", folder ? folder : SOURCE_DIR "/../shared/data", name);
    FILE *f = fopen(path, "r");
    if (!f) print_message("skipped: no %s (set RUNG_SHARED_DATA)\n", path);
    return f;
}

static void word_problems_are_ranked_better_than_by_length(void **state)
{
    (void)state;
    FILE *f = shared_rows("gsm8k_mixtral_gpt4.jsonl");
    if (!f) skip();
    struct train_rows rows;
    struct err e;
    assert_int_equal(train_tiers(&rows, "mixtral-8x7b,gpt-4-1106", &e), ERR_OK);
    assert_int_equal(train_rows_read(&rows, f, "gsm8k", &e), ERR_OK);
    (void)fclose(f);
    double(*p)[TIERS] = calloc(rows.count, sizeof *p);
    struct train_options options = {.bits = 14};
    struct score_report report;
    assert_int_equal(score_cross(&rows, &options, p, &e), ERR_OK);
    assert_int_equal(score_rows(&report, &rows, (const double(*)[TIERS])p, &e), ERR_OK);
    assert_true(report.pair[0].apgr > report.pair[0].length && report.pair[0].apgr > 0.66);
    free(p);
    train_rows_release(&rows);
}

/* Right answers and price (core's: 1) of a pair of thresholds. */
static void pair_run(const struct train_rows *rows, const double (*p)[TIERS], const double at[2], double *right, double *price)
{
    static const double PRICE[TIERS] = {0.01 / 0.6, 0.08 / 0.6, 1};
    *right = *price = 0;
    for (size_t i = 0; i < rows->count; i++) {
        int t = p[i][0] >= at[0] ? 0 : p[i][1] >= at[1] ? 1 : 2;
        *right += (double)rows->row[i].score[t] / (double)rows->count;
        *price += PRICE[t] / (double)rows->count;
    }
}

static void the_dial_moves_both_thresholds_and_beats_one_for_both(void **state)
{
    (void)state;
    enum { ROWS = 4000 };
    struct router r = {.info = {.tiers = 3}};
    struct train_rows rows = {.count = ROWS, .columns = 3, .row = calloc(ROWS, sizeof *rows.row)};
    double(*p)[TIERS] = calloc(ROWS, sizeof *p);
    assert_true(rows.row && p);
    for (int i = 0; i < ROWS; i++) {
        double hard = (double)(i * 7919 % ROWS) / ROWS; /* even; the region is right but where it is hardest */
        p[i][0] = 1 - 0.5 * hard;
        p[i][1] = 1 - 0.5 * hard * hard * hard * hard;
        p[i][2] = 1;
        for (int t = 0; t < TIERS; t++) rows.row[i].score[t] = (float)p[i][t];
        rows.row[i].fold = i % TRAIN_FOLDS;
    }
    assert_true(train_dial(&r, &rows, (const double(*)[TIERS])p));
    double more = 0;
    for (int s = 0; s < MODEL_DIAL; s++) {
        const struct model_dial *d = &r.dial[s];
        double at[2] = {(double)d->threshold[0], (double)d->threshold[1]}, right, price, one, cost, best = 0;
        pair_run(&rows, (const double(*)[TIERS])p, at, &right, &price);
        assert_true(fabs(right - (double)d->accuracy) < 0.01); /* what it expects is what comes */
        assert_true(fabs((double)(d->share[0] + d->share[1] + d->share[2]) - 1) < 1e-5);
        for (int k = 0; k <= 1000; k++) {
            pair_run(&rows, (const double(*)[TIERS])p, (double[2]){k / 1000.0, k / 1000.0}, &one, &cost);
            if (cost <= price && one > best) best = one;
        }
        assert_true(right > best - 0.01);
        more = right - best > more ? right - best : more;
    }
    (void)printf("    more right at one price: up to %.3f\n", more);
    assert_true(more > 0.02);
    free(rows.row);
    free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_hold_prompts_conversations_and_scores),
        cmocka_unit_test(a_wrong_row_names_its_line_and_field),
        cmocka_unit_test(tiers_are_two_or_three_names),
        cmocka_unit_test(scores_that_tell_of_parsing_are_left_out_of_a_group),
        cmocka_unit_test(too_few_rows_are_refused),
        cmocka_unit_test(apgr_is_one_half_at_random_and_best_when_gains_come_first),
        cmocka_unit_test(calibration_error_knows_the_calibrated_from_the_boastful),
        cmocka_unit_test(a_probe_learns_what_the_text_cannot_tell),
        cmocka_unit_test(the_dial_moves_both_thresholds_and_beats_one_for_both),
        cmocka_unit_test(word_problems_are_ranked_better_than_by_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
