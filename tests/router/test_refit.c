/* Refits from sketches: what labels add, how gradually, and what is refused. */
#include "log_fixture.h"

#include "router/own.h"
#include "router/refit.h"

#include <math.h>

enum { ROWS = 3000, LEFT_OUT = 500 };
static const unsigned char KEY[32] = {7}, OTHER[32] = {8};
static const char BASE[] = "0101010100000000";

static uint64_t seed;
static double dice(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (double)(seed >> 11) * 0x1p-53;
}

/* A prompt of twelve words; words of one half of the vocabulary make it harder. The truth is in the words alone. */
static double prompt_draw(char *out, size_t size)
{
    double odds = 0.5;
    size_t at = 0;
    for (int k = 0; k < 12; k++) {
        int word = (int)(dice() * 40);
        odds += word < 20 ? 0.5 : -0.5;
        at += (size_t)snprintf(out + at, size - at, "%c%cta%c ", 'b' + word % 20, word < 20 ? 'a' : 'o', 'a' + word % 7);
    }
    return 1 / (1 + exp(-odds));
}

struct world {
    struct refit_row row[ROWS];
    double truth[ROWS], prior[ROWS];
};

/* The prior says 0.6 of every prompt at the edge, 0.9 at core. */
static struct world *world_new(void)
{
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    seed = 99;
    for (int i = 0; i < ROWS; i++) {
        char text[256];
        w->truth[i] = prompt_draw(text, sizeof text);
        w->prior[i] = 0.6;
        struct router_base base = {{1, 1, 1, 1}, {w->prior[i], -1, 0.9}};
        struct router_input in = {.text = text, .text_len = strlen(text), .turns = 1};
        router_sketch(&in, KEY, &base, w->row[i].sketch);
        w->row[i].label[TIER_EDGE] = dice() < w->truth[i] ? 1 : 0;
        w->row[i].weight[TIER_EDGE] = 1;
        w->row[i].fold = (unsigned char)(i % REFIT_FOLDS);
        w->row[i].probe_x = w->row[i].probe_label = NAN;
    }
    return w;
}

static struct router *prior_new(void)
{
    struct router *r = model_new(MODEL_BITS_MIN);
    assert_non_null(r);
    r->info.tiers = 2;
    (void)snprintf(r->info.names[0], 64, "small");
    (void)snprintf(r->info.names[1], 64, "large");
    memcpy(r->info.fingerprint, BASE, sizeof BASE);
    for (int t = 0; t < TIERS; t++) r->curve[t] = (struct model_curve){1, 1, 0};
    return r;
}

static void scores(const struct router *r, const struct refit_row *row, double p[TIERS])
{
    struct sketch s;
    assert_true(sketch_read(&s, row->sketch, sizeof row->sketch));
    double base[TIERS] = {s.base[TIER_EDGE], s.base[TIER_CORE], 0};
    memcpy(p, base, sizeof base);
    if (r->own) own_apply(r->own, 2, &s, base, p);
}

/* Distance from prior and from truth on rows left out, after a refit on `labels` of them. */
static void refit_on(const struct world *w, size_t labels, double *moved, double *off)
{
    struct router *r = prior_new();
    struct err e = {0};
    enum err_code code = refit_router(r, w->row, labels, NULL, &e);
    assert_true(code == ERR_OK || (code == ERR_INVALID && !r->own));
    *moved = *off = 0;
    for (int i = ROWS - LEFT_OUT; i < ROWS; i++) {
        double p[TIERS];
        scores(r, &w->row[i], p);
        *moved += fabs(p[0] - w->prior[i]) / LEFT_OUT;
        *off += fabs(p[0] - w->truth[i]) / LEFT_OUT;
        assert_true(fabs(p[1] - 0.9) < 0.01); /* no label, no change */
    }
    router_free(r);
}

static void few_labels_change_little_and_many_take_over(void **state)
{
    (void)state;
    struct world *w = world_new();
    double moved[3], off[3], nothing = 0;
    static const size_t LABELS[3] = {20, 200, 2000};
    for (int i = ROWS - LEFT_OUT; i < ROWS; i++) nothing += fabs(0.6 - w->truth[i]) / LEFT_OUT;
    for (int k = 0; k < 3; k++) refit_on(w, LABELS[k], &moved[k], &off[k]);
    assert_true(moved[0] < 0.08);
    assert_true(moved[0] < moved[1] && moved[1] < moved[2]);
    assert_true(off[1] < nothing && off[2] < off[1]);
    assert_true(off[2] < 0.6 * nothing);
    free(w);
}

static void labels_that_say_nothing_new_leave_the_router_as_it_is(void **state)
{
    (void)state;
    struct world *w = world_new();
    struct router *r = prior_new();
    struct err e = {0};
    struct refit_report report;
    for (int i = 0; i < 500; i++) w->row[i].label[TIER_EDGE] = dice() < 0.6 ? 1 : 0;
    assert_int_equal(refit_router(r, w->row, 500, &report, &e), ERR_INVALID);
    assert_non_null(strstr(e.msg, "no tier is surely better"));
    assert_null(r->own);
    assert_true(report.tier[TIER_EDGE].kept && report.tier[TIER_EDGE].labels == 500);
    assert_int_equal(refit_router(r, w->row, 19, &report, &e), ERR_INVALID);
    assert_non_null(strstr(e.msg, "wants 20"));
    router_free(r);
    free(w);
}

static void rows_of_another_key_or_router_are_refused(void **state)
{
    (void)state;
    struct world *w = world_new();
    struct router *r = prior_new();
    struct err e = {0};
    struct router_input in = {.text = "bata", .text_len = 4, .turns = 1};
    struct router_base base = {{1, 1, 1, 1}, {0.6, -1, 0.9}};
    router_sketch(&in, OTHER, &base, w->row[40].sketch);
    assert_int_equal(refit_router(r, w->row, 100, NULL, &e), ERR_INVALID);
    assert_non_null(strstr(e.msg, "row 40"));
    base.id[0] = 2;
    router_sketch(&in, KEY, &base, w->row[40].sketch);
    assert_int_equal(refit_router(r, w->row, 100, NULL, &e), ERR_INVALID);
    w->row[40].sketch[0] = 1; /* an older sketch */
    assert_int_equal(refit_router(r, w->row, 100, NULL, &e), ERR_INVALID);
    w->row[40].sketch[0] = SKETCH_VERSION;
    w->row[40].sketch[511] = 250; /* five trits are under 243 */
    assert_int_equal(refit_router(r, w->row, 100, NULL, &e), ERR_INVALID);
    assert_null(r->own);
    router_free(r);
    free(w);
}

static void a_refitted_file_scores_with_its_own_key_alone(void **state)
{
    const struct folder *f = *state;
    struct world *w = world_new();
    struct router *r = prior_new(), *back = NULL;
    struct err e = {0};
    char path[128], text[256];
    (void)snprintf(path, sizeof path, "%s/own.router", f->dir);
    assert_int_equal(refit_router(r, w->row, 2000, NULL, &e), ERR_OK);
    assert_int_equal(router_save(r, path, &e), ERR_OK);
    assert_int_equal(router_load(&back, path, &e), ERR_OK);
    assert_string_equal(back->info.base, BASE);
    assert_int_equal(back->info.labels[TIER_EDGE], 2000);
    assert_true(router_wants_key(back));
    (void)prompt_draw(text, sizeof text);
    struct router_input in = {.text = text, .text_len = strlen(text), .turns = 1};
    struct router_scores without, with;
    router_score(back, &in, &without);
    assert_true(without.p[TIER_EDGE] == without.base.p[TIER_EDGE]);
    assert_int_equal(router_use_key(back, OTHER, &e), ERR_INVALID);
    assert_non_null(strstr(e.msg, "sketch_key_file"));
    assert_int_equal(router_use_key(back, KEY, &e), ERR_OK);
    router_score(back, &in, &with);
    assert_true(with.base.p[TIER_EDGE] == without.p[TIER_EDGE] && with.p[TIER_EDGE] != without.p[TIER_EDGE]);
    /* what is scored live is what a sketch of it would be scored as, but for the base's rounding to a byte */
    struct refit_row row;
    double p[TIERS];
    router_sketch(&in, KEY, &with.base, row.sketch);
    scores(back, &row, p);
    assert_true(fabs(p[0] - with.p[TIER_EDGE]) < 0.02);
    router_free(back);
    router_free(r);
    free(w);
}

static void a_damaged_own_part_is_refused(void **state)
{
    (void)state;
    struct world *w = world_new();
    struct router *r = prior_new();
    struct err e = {0};
    assert_int_equal(refit_router(r, w->row, 2000, NULL, &e), ERR_OK);
    assert_true(own_valid(r->own));
    struct model_own *own = r->own, was = *own;
    own->trees = OWN_TREES_MAX + 1;
    assert_false(own_valid(own));
    *own = was;
    own->a[1] = NAN;
    assert_false(own_valid(own));
    *own = was;
    own->base[3] = 'x';
    assert_false(own_valid(own));
    *own = was;
    own->trees = 1;
    own->tree[0].input[2] = MODEL_INPUTS;
    assert_false(own_valid(own));
    router_free(r);
    free(w);
}

static void a_second_refit_begins_at_the_same_base(void **state)
{
    (void)state;
    struct world *w = world_new();
    struct router *r = prior_new(), *once = prior_new();
    struct err e = {0};
    assert_int_equal(refit_router(r, w->row, 1000, NULL, &e), ERR_OK);
    assert_int_equal(refit_router(r, w->row, 2000, NULL, &e), ERR_OK);
    assert_int_equal(refit_router(once, w->row, 2000, NULL, &e), ERR_OK);
    assert_memory_equal(r->own, once->own, sizeof *r->own); /* and it is deterministic */
    router_free(once);
    router_free(r);
    free(w);
}

/* ---- from a log ---- */

static void log_one(struct decision_log *log, int i, double label, bool escalated)
{
    char id[LOG_ID], text[256];
    (void)snprintf(id, sizeof id, "r%d", i);
    (void)prompt_draw(text, sizeof text);
    struct log_row row = row_of(id);
    row.about = (struct router_input){.text = text, .text_len = strlen(text), .turns = 1}; /* the log copies it */
    row.has_text = true;
    row.wants_sketch = true;
    row.base = (struct router_base){{1, 1, 1, 1}, {0.6, -1, 0.9}};
    (void)snprintf(row.decision.router, sizeof row.decision.router, "%s", BASE);
    row.decision.propensity = i == 0 ? 0.005 : 0.5;
    row.probe_p = 0.25;
    if (escalated) {
        row.escalated = true;
        row.answered = TIER_CORE;
    }
    assert_int_equal(log_decision(log, &row, NULL, 0), ERR_OK);
    struct log_label judged = {.source = "feedback", .tier = TIER_NONE, .value = label, .wall_ms = test_hour_ms()};
    (void)snprintf(judged.request, sizeof judged.request, "%s", id);
    if (label >= 0) assert_int_equal(log_label_add(log, &judged), ERR_OK);
}

static void a_log_gives_its_labels_and_the_probes_word_where_it_escalated(void **state)
{
    const struct folder *f = *state;
    struct log_options options = options_of(f);
    struct decision_log *log = open_log(&options);
    seed = 5;
    for (int i = 0; i < 30; i++) log_one(log, i, i % 2, i == 10);
    log_one(log, 30, -1, false); /* nobody judged it */
    log_close(log, 5000);
    struct router *r = prior_new();
    memset(r->base_id, 1, sizeof r->base_id);
    struct refit_rows rows;
    struct refit_options from = {.path = f->db};
    struct err e = {0};
    if (refit_read(&rows, r, &from, &e) != ERR_OK) fail_msg("%s", e.msg);
    assert_int_equal(rows.count, 30); /* the newest first */
    assert_true(rows.row[0].label[TIER_EDGE] == 1 && rows.row[0].weight[TIER_EDGE] == 2);
    assert_true(rows.row[29].weight[TIER_EDGE] == REFIT_WEIGHT_MAX);
    assert_true(rows.row[0].weight[TIER_CORE] == 0);
    const struct refit_row *up = &rows.row[19];
    assert_true(up->weight[TIER_CORE] == 0 && up->label[TIER_EDGE] == 0.25f && up->weight[TIER_EDGE] == 1);
    assert_true(fabsf(rows.row[0].probe_x - -1.0986123f) < 1e-5f && isnan(up->probe_label));
    refit_rows_release(&rows);
    r->base_id[0] = 9; /* another router's scores are no prior of this one */
    assert_int_equal(refit_read(&rows, r, &from, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.msg, "30 were scored by another router"));
    router_free(r);
}

/* An earlier rung kept all 512 bytes. */
static void sketches_kept_whole_are_read_as_those_kept_short(void **state)
{
    const struct folder *f = *state;
    struct log_options options = options_of(f);
    struct decision_log *log = open_log(&options);
    seed = 5;
    for (int i = 0; i < 30; i++) log_one(log, i, i % 2, false);
    log_close(log, 5000);
    struct router *r = prior_new();
    memset(r->base_id, 1, sizeof r->base_id);
    struct refit_rows kept, read;
    const struct refit_options from = {.path = f->db};
    struct err e = {0};
    if (refit_read(&kept, r, &from, &e) != ERR_OK) fail_msg("%s", e.msg);
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM sketches WHERE length(sketch) < 400"), 30);
    sqlite3 *sql;
    sqlite3_stmt *st;
    assert_int_equal(sqlite3_open(f->db, &sql), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(sql, "UPDATE sketches SET sketch = ?2 WHERE decision = (SELECT id FROM decisions WHERE request = ?1)",
                                        -1, &st, NULL), SQLITE_OK);
    for (int i = 0; i < 30; i += 2) { /* the newest row came first */
        char id[LOG_ID];
        (void)snprintf(id, sizeof id, "r%d", 29 - i);
        (void)sqlite3_bind_text(st, 1, id, -1, SQLITE_STATIC);
        (void)sqlite3_bind_blob(st, 2, kept.row[i].sketch, ROUTER_SKETCH_BYTES, SQLITE_STATIC);
        assert_int_equal(sqlite3_step(st), SQLITE_DONE);
        (void)sqlite3_reset(st);
    }
    (void)sqlite3_finalize(st);
    (void)sqlite3_close(sql);
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM sketches WHERE length(sketch) = 512"), 15);
    if (refit_read(&read, r, &from, &e) != ERR_OK) fail_msg("%s", e.msg);
    assert_int_equal(read.count, kept.count);
    for (size_t i = 0; i < read.count; i++) {
        assert_memory_equal(read.row[i].sketch, kept.row[i].sketch, ROUTER_SKETCH_BYTES);
        assert_int_equal(read.row[i].fold, kept.row[i].fold);
    }
    refit_rows_release(&kept);
    refit_rows_release(&read);
    router_free(r);
}

static void sketches_under_an_older_key_are_left_out(void **state)
{
    const struct folder *f = *state;
    struct log_options options = options_of(f);
    struct decision_log *log = open_log(&options);
    seed = 6;
    for (int i = 0; i < 25; i++) log_one(log, i, i % 2, false);
    log_close(log, 5000);
    options.sketch_key = OTHER;
    log = open_log(&options);
    for (int i = 25; i < 50; i++) log_one(log, i, i % 2, false);
    log_close(log, 5000);
    struct router *r = prior_new();
    memset(r->base_id, 1, sizeof r->base_id);
    struct refit_rows rows;
    struct refit_options from = {.path = f->db};
    struct err e = {0};
    assert_int_equal(refit_read(&rows, r, &from, &e), ERR_OK);
    assert_int_equal(rows.count, 25);
    assert_int_equal(rows.other_key, 25);
    refit_rows_release(&rows);
    router_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(few_labels_change_little_and_many_take_over),
        cmocka_unit_test(labels_that_say_nothing_new_leave_the_router_as_it_is),
        cmocka_unit_test(rows_of_another_key_or_router_are_refused),
        IN_FOLDER(a_refitted_file_scores_with_its_own_key_alone),
        cmocka_unit_test(a_damaged_own_part_is_refused),
        cmocka_unit_test(a_second_refit_begins_at_the_same_base),
        IN_FOLDER(a_log_gives_its_labels_and_the_probes_word_where_it_escalated),
        IN_FOLDER(sketches_kept_whole_are_read_as_those_kept_short),
        IN_FOLDER(sketches_under_an_older_key_are_left_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
