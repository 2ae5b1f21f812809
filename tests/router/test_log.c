#include "log_fixture.h"

#include "router/log_columns.h"
#include "router/log_rollup.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>

static void a_decision_and_its_hops_are_read_back_as_given(void **state)
{
    const struct folder *f = *state;
    struct log_options options = options_of(f);
    struct decision_log *log = open_log(&options);
    struct log_row row = row_of("req-1");
    row.answered = TIER_CORE;
    row.final_reason = REASON_UNSURE;
    row.escalated = true;
    row.has_sketch = true;
    memset(row.sketch, 7, sizeof row.sketch);
    struct log_hop hops[2] = {{.tier = TIER_EDGE, .outcome = "escalated", .completion_tokens = 5},
                              {.tier = TIER_CORE, .outcome = "done", .backend = "up-1", .ttft_ms = 30}};
    assert_int_equal(log_decision(log, &row, hops, 2), ERR_OK);
    assert_true(log_flush(log, 10000));
    assert_string_equal(ask(f->db, "SELECT tier||' '||reason||' '||first_tier||' '||first_reason||' '||node||' '||"
                                   "node_tier||' '||policy||' '||arm||' '||router FROM decisions"),
                        "core unsure edge confident edge-1 edge 3 A 0123456789abcdef");
    assert_string_equal(ask(f->db, "SELECT status||' '||escalated||' '||allowed_core||' '||p_edge FROM decisions"),
                        "ok 1 1 0.9");
    assert_string_equal(ask(f->db, "SELECT group_concat(hop||':'||tier||':'||outcome) FROM hops"),
                        "0:edge:escalated,1:core:done");
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM decisions WHERE probe_p IS NULL"), 1);
    assert_int_equal(ask_int(f->db, "SELECT length(sketch) FROM sketches"), ROUTER_SKETCH_BYTES);
    log_close(log, 1000);
}

/* Rows that differ in every way that matters to how they are bound: lengths, NULLs, hops, sketches. */
static struct log_row varied(int i, struct log_hop hops[3], int *hop_count, bool alike)
{
    char id[32];
    (void)snprintf(id, sizeof id, "r%d", i);
    struct log_row row = row_of(id);
    row.wall_ms += i % 5;
    row.probe_p = i % 3 ? -1 : 0.5;
    row.ttft_ms = i % 4 ? 10 + i : 0;
    row.prompt_tokens = i % 6;
    (void)snprintf(row.tenant, sizeof row.tenant, "%.*s", i % 13, "tenant-tenant");
    (void)snprintf(row.error, sizeof row.error, "%0*d", i % 100, i);
    (void)snprintf(row.decision.why, sizeof row.decision.why, "%0*d", 20 + i % 60, i % 10);
    memset(row.prompt_hash, i, sizeof row.prompt_hash);
    row.has_sketch = alike || i % 7 != 0;
    memset(row.sketch, i, sizeof row.sketch);
    row.sketch_len = 1 + i % 500;
    *hop_count = alike || i % 8 ? 1 : i % 3;
    for (int h = 0; h < 3; h++) {
        hops[h] = (struct log_hop){.tier = TIER_EDGE, .outcome = "done", .total_ms = i, .completion_tokens = h};
        (void)snprintf(hops[h].error, sizeof hops[h].error, "%0*d", i % 70, h);
    }
    return row;
}

static void fill(struct decision_log *log, int count, bool alike, bool each_alone)
{
    struct log_hop hops[3];
    for (int i = 0, hop_count; i < count; i++) {
        struct log_row row = varied(i, hops, &hop_count, alike);
        assert_int_equal(log_decision(log, &row, hops, hop_count), ERR_OK);
        if (each_alone) assert_true(log_flush(log, 10000));
    }
    assert_true(log_flush(log, 10000));
}

/* Eight at a time go in by other statements than one alone. */
static void rows_written_together_are_as_those_written_alone(void **state)
{
    const struct folder *f = *state;
    static const char *const TABLES[] = {"decisions", "hops", "sketches", "hourly", "hourly_latency", "daily_latency"};
    for (int alike = 0; alike < 2; alike++) {
        char other[128], sql[400];
        (void)snprintf(other, sizeof other, "%s/alone-%d.db", f->dir, alike);
        struct log_options options = options_of(f), alone = options;
        options.batch_ms = 200; /* one batch */
        alone.path = other;
        struct decision_log *log = open_log(&options), *second = open_log(&alone);
        fill(log, 90, alike != 0, false);
        fill(second, 90, alike != 0, true);
        log_close(log, 5000);
        log_close(second, 5000);
        for (size_t t = 0; t < sizeof TABLES / sizeof TABLES[0]; t++) {
            (void)snprintf(sql, sizeof sql, "ATTACH '%s' AS other", other);
            sqlite3 *conn;
            sqlite3_stmt *st;
            assert_int_equal(sqlite3_open(f->db, &conn), SQLITE_OK);
            assert_int_equal(sqlite3_exec(conn, sql, NULL, NULL, NULL), SQLITE_OK);
            (void)snprintf(sql, sizeof sql, "SELECT (SELECT count(*) FROM (SELECT * FROM main.%s EXCEPT SELECT * FROM other.%s)) + "
                                            "(SELECT count(*) FROM (SELECT * FROM other.%s EXCEPT SELECT * FROM main.%s)), "
                                            "(SELECT count(*) FROM main.%s)", TABLES[t], TABLES[t], TABLES[t], TABLES[t], TABLES[t]);
            assert_int_equal(sqlite3_prepare_v2(conn, sql, -1, &st, NULL), SQLITE_OK);
            assert_int_equal(sqlite3_step(st), SQLITE_ROW);
            if (sqlite3_column_int(st, 0) != 0) fail_msg("%s differs in %d rows", TABLES[t], sqlite3_column_int(st, 0));
            assert_true(sqlite3_column_int(st, 1) > 0);
            (void)sqlite3_finalize(st);
            (void)sqlite3_close(conn);
        }
        assert_int_equal(unlink(f->db), 0); /* its WAL went with the last connection */
    }
}

static void a_row_that_cannot_be_stored_takes_no_other_along(void **state)
{
    const struct folder *f = *state;
    struct log_options options = options_of(f);
    options.batch_ms = 200;
    log_close(open_log(&options), 1000);
    sqlite3 *conn;
    assert_int_equal(sqlite3_open(f->db, &conn), SQLITE_OK);
    assert_int_equal(sqlite3_exec(conn, "CREATE TRIGGER picky BEFORE INSERT ON decisions WHEN new.tenant = 'bad' "
                                        "BEGIN SELECT RAISE(ABORT, 'no'); END", NULL, NULL, NULL), SQLITE_OK);
    (void)sqlite3_close(conn);
    struct decision_log *log = open_log(&options);
    struct log_hop hops[3];
    for (int i = 0, hop_count; i < 50; i++) {
        struct log_row row = varied(i, hops, &hop_count, true);
        if (i == 0 || i == 20 || i == 49) (void)snprintf(row.tenant, sizeof row.tenant, "bad");
        assert_int_equal(log_decision(log, &row, hops, hop_count), ERR_OK);
    }
    (void)log_flush(log, 10000); /* false: some were lost */
    struct log_stats stats;
    log_stats(log, &stats);
    assert_int_equal(stats.rows_written, 47);
    assert_int_equal(stats.rows_dropped, 3);
    put(log, "later");
    assert_true(log_flush(log, 10000));
    log_close(log, 5000);
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM decisions WHERE tenant <> 'bad'"), 48);
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM decisions AS d JOIN hops AS h ON h.decision = d.id"), 47);
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM hops"), 47);
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM sketches"), 47);
    assert_int_equal(ask_int(f->db, "SELECT sum(requests) FROM hourly"), 48);
}

static void the_columns_are_the_schema_s(void **state)
{
    const struct folder *f = *state;
    struct log_options options = options_of(f);
    log_close(open_log(&options), 1000);
    const struct log_table *tables[] = {&LOG_DECISIONS, &LOG_HOPS, &LOG_LABELS};
    static const char *const TYPES[] = {"INTEGER", "REAL", "TEXT", "BLOB"};
    static const int BEFORE[] = {3, 1, 3}; /* id, origin, origin_row; decision */
    for (int t = 0; t < 3; t++) {
        char sql[300];
        (void)snprintf(sql, sizeof sql, "SELECT count(*) FROM pragma_table_info('%s')", tables[t]->name);
        assert_int_equal(ask_int(f->db, sql), tables[t]->width + BEFORE[t]);
        for (int i = 0; i < tables[t]->width; i++) {
            const struct log_column *c = &tables[t]->columns[i];
            (void)snprintf(sql, sizeof sql, "SELECT name || ' ' || type FROM pragma_table_info('%s') WHERE cid = %d",
                           tables[t]->name, i + BEFORE[t]);
            char want[80];
            (void)snprintf(want, sizeof want, "%s %s", c->name, TYPES[c->type]);
            assert_string_equal(ask(f->db, sql), want);
        }
    }
}

static void a_new_file_is_private_and_of_this_version(void **state)
{
    const struct folder *f = *state;
    struct log_options options = options_of(f);
    mode_t mask = umask(0);
    struct decision_log *log = open_log(&options);
    (void)umask(mask);
    put(log, "req-1");
    assert_true(log_flush(log, 10000));
    char wal[120];
    (void)snprintf(wal, sizeof wal, "%s-wal", f->db);
    struct stat st;
    assert_int_equal(stat(f->db, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(stat(wal, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(ask_int(f->db, "PRAGMA user_version"), 2);
    log_close(log, 1000);
    sqlite3 *conn;
    assert_int_equal(sqlite3_open(f->db, &conn), SQLITE_OK);
    assert_int_equal(sqlite3_exec(conn, "PRAGMA user_version = 99", NULL, NULL, NULL), SQLITE_OK);
    (void)sqlite3_close(conn);
    struct err e = {0};
    assert_int_equal(log_open(&log, &options, &e), ERR_VERSION);
    assert_non_null(strstr(e.msg, "99"));
    assert_non_null(strstr(e.msg, "newer rung"));
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM decisions"), 1); /* and nothing was touched */
}

/* A file as the first version made it, with an hour of its latencies. */
static void a_file_of_version_1_is_brought_up_with_its_rows(void **state)
{
    const struct folder *f = *state;
    char command[400];
    (void)snprintf(command, sizeof command, "sqlite3 '%s' < " SOURCE_DIR "/router/schema/v1.sql", f->db);
    assert_int_equal(system(command), 0);
    sqlite3 *conn;
    assert_int_equal(sqlite3_open(f->db, &conn), SQLITE_OK);
    (void)snprintf(command, sizeof command,
                   "INSERT INTO hourly_latency VALUES (%lld, 'edge-1', 0, 'edge', 12800, 4, 0);"
                   "PRAGMA user_version = 1; PRAGMA application_id = 1381322311", (long long)test_hour_ms());
    assert_int_equal(sqlite3_exec(conn, command, NULL, NULL, NULL), SQLITE_OK);
    (void)sqlite3_close(conn);
    struct log_options options = options_of(f);
    struct decision_log *log = open_log(&options);
    put(log, "req-1");
    assert_true(log_flush(log, 10000));
    assert_int_equal(ask_int(f->db, "PRAGMA user_version"), 2);
    assert_string_equal(ask(f->db, "SELECT requests || ' ' || p50_ms FROM latency_percentiles WHERE measure = 'ttft'"), "5 12.8");
    log_close(log, 1000);
}

static void a_foreign_database_is_left_alone(void **state)
{
    const struct folder *f = *state;
    sqlite3 *conn;
    assert_int_equal(sqlite3_open(f->db, &conn), SQLITE_OK);
    assert_int_equal(sqlite3_exec(conn, "CREATE TABLE photos (id)", NULL, NULL, NULL), SQLITE_OK);
    (void)sqlite3_close(conn);
    struct log_options options = options_of(f);
    struct decision_log *log;
    struct err e = {0};
    assert_int_equal(log_open(&log, &options, &e), ERR_INVALID);
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM photos"), 0);
}

static void a_second_writer_is_refused(void **state)
{
    const struct folder *f = *state;
    struct log_options options = options_of(f);
    struct decision_log *log = open_log(&options), *second;
    struct err e = {0};
    assert_int_equal(log_open(&second, &options, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "another rung"));
    log_close(log, 1000);
    log_close(open_log(&options), 1000);
}

static int corrupt_copies(const char *dir)
{
    int count = 0;
    DIR *d = opendir(dir);
    for (struct dirent *entry; (entry = readdir(d));) count += strstr(entry->d_name, ".corrupt-") != NULL;
    (void)closedir(d);
    return count;
}

static void a_damaged_file_is_moved_aside(void **state)
{
    const struct folder *f = *state;
    FILE *out = fopen(f->db, "w");
    for (int i = 0; i < 3000; i++) (void)fputs("not a database ", out);
    (void)fclose(out);
    struct log_options options = options_of(f);
    struct decision_log *log = open_log(&options);
    put(log, "req-1");
    assert_true(log_flush(log, 10000));
    log_close(log, 1000);
    assert_int_equal(corrupt_copies(f->dir), 1);
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM decisions"), 1);
}

/* Overwrites all pages but the first, so that the damage shows only when rows are written. */
static void damage(const char *db)
{
    int fd = open(db, O_RDWR);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    char page[4096];
    memset(page, 0x5a, sizeof page);
    for (off_t at = 4096; at < st.st_size; at += 4096) assert_int_equal(pwrite(fd, page, sizeof page, at), 4096);
    (void)close(fd);
}

static void damage_met_while_writing_loses_no_queued_row(void **state)
{
    const struct folder *f = *state;
    struct log_options options = options_of(f);
    struct decision_log *log = open_log(&options);
    put(log, "req-1");
    assert_true(log_flush(log, 10000));
    log_close(log, 1000); /* which moves the WAL into the file */
    options.batch_ms = 500;
    log = NULL;
    damage(f->db);
    log = open_log(&options); /* may see it already: both ways end in a fresh file */
    put(log, "req-2");
    put(log, "req-3");
    assert_true(log_flush(log, 20000));
    log_close(log, 1000);
    assert_int_equal(corrupt_copies(f->dir), 1);
    assert_string_equal(ask(f->db, "SELECT group_concat(request) FROM decisions"), "req-2,req-3");
}

static void prompts_are_kept_only_when_the_config_says_so(void **state)
{
    const struct folder *f = *state;
    struct log_options options = options_of(f);
    for (int keep = 0; keep < 2; keep++) {
        options.store_prompts = keep;
        struct decision_log *log = open_log(&options);
        struct log_row row = row_of("req-1");
        row.prompt = strdup("What is the capital of France?");
        row.answer = strdup("Paris");
        assert_int_equal(log_decision(log, &row, NULL, 0), ERR_OK);
        assert_null(row.prompt);
        assert_true(log_flush(log, 10000));
        assert_int_equal(ask_int(f->db, "SELECT count(*) FROM prompts"), keep);
        log_close(log, 1000);
    }
    assert_string_equal(ask(f->db, "SELECT answer FROM prompts"), "Paris");
}

static void the_key_outlives_a_restart_and_keys_the_hash(void **state)
{
    const struct folder *f = *state;
    struct log_options options = options_of(f);
    unsigned char key[2][32], hash[2][16];
    for (int i = 0; i < 2; i++) {
        struct decision_log *log = open_log(&options);
        log_key(log, key[i]);
        log_prompt_hash(log, "hello", 5, hash[i]);
        log_close(log, 1000);
    }
    assert_memory_equal(key[0], key[1], 32);
    assert_memory_equal(hash[0], hash[1], 16);
    assert_int_equal(unlink(f->db), 0);
    struct decision_log *log = open_log(&options);
    log_prompt_hash(log, "hello", 5, hash[1]);
    assert_memory_not_equal(hash[0], hash[1], 16);
    log_close(log, 1000);
}

static void rollups_count_what_the_rows_say(void **state)
{
    const struct folder *f = *state;
    struct log_options options = options_of(f);
    struct decision_log *log = open_log(&options);
    static const enum tier TO[] = {TIER_EDGE, TIER_REGION, TIER_CORE};
    for (int i = 0; i < 300; i++) {
        struct log_row row = row_of("req");
        row.answered = TO[i % 3];
        row.wall_ms += (int64_t)i * 60000; /* over five hours */
        row.failed_over = i % 10 == 0;
        row.status = i % 50 == 0 ? ERR_TIMEOUT : ERR_OK;
        row.ttft_ms = i + 1;
        row.from_below = i >= 270; /* counted by the node below */
        assert_int_equal(log_decision(log, &row, NULL, 0), ERR_OK);
        if (i % 97 == 0) assert_true(log_flush(log, 10000)); /* over several batches */
    }
    assert_true(log_flush(log, 10000));
    assert_int_equal(ask_int(f->db, "SELECT sum(requests) FROM hourly"), 300);
    assert_string_equal(ask(f->db, "SELECT group_concat(tier || requests) FROM tier_mix"), "core90,edge90,region90");
    assert_string_equal(ask(f->db, "SELECT round(saved_share, 3) FROM price_and_saving"), "0.9");
    assert_int_equal(ask_int(f->db, "SELECT sum(failed_over) FROM failovers_by_hour"), 27);
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM failovers_by_hour"), 5);
    assert_int_equal(ask_int(f->db, "SELECT sum(requests) FROM errors_by_hour"), 6);
    /* the exact median of 1, 4, …, 268 is 133 (edge's rows); a percentile is at most 9 % high */
    double median = strtod(ask(f->db, "SELECT p50_ms FROM latency_percentiles WHERE tier='edge' AND measure='ttft'"), NULL);
    assert_true(median >= 133 && median <= 133 * 1.0906);
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM (SELECT hour_ms, tier, sum(requests) n FROM hourly GROUP BY 1, 2 "
                                    "EXCEPT SELECT at_ms / 3600000 * 3600000, tier, count(*) FROM decisions GROUP BY 1, 2)"), 0);
    log_close(log, 1000);
}

static void a_bucket_holds_its_value_and_is_at_most_9_percent_high(void **state)
{
    (void)state;
    for (double ms = 0.11; ms < 8e7; ms *= 1.013) {
        double bound = (double)latency_bucket_us(ms) / 1000;
        assert_true(bound >= ms * 0.999 && bound <= ms * 1.1);
    }
    assert_int_equal(latency_bucket_us(0), 100);
    assert_true(latency_bucket_us(1e300) == latency_bucket_us(1e200));
}

static void labels_say_how_right_each_tier_is(void **state)
{
    const struct folder *f = *state;
    struct log_options options = options_of(f);
    struct decision_log *log = open_log(&options);
    for (int i = 0; i < 4; i++) {
        struct log_row row = row_of("");
        (void)snprintf(row.request, sizeof row.request, "req-%d", i);
        row.answered = i < 2 ? TIER_EDGE : TIER_CORE;
        assert_int_equal(log_decision(log, &row, NULL, 0), ERR_OK);
        struct log_label label = {.source = "feedback", .tier = TIER_NONE, .value = i != 0, .wall_ms = test_hour_ms()};
        memcpy(label.request, row.request, sizeof label.request);
        assert_int_equal(log_label_add(log, &label), ERR_OK);
    }
    struct log_label shadow = {.request = "req-2", .source = "shadow", .tier = TIER_EDGE, .value = 0.25,
                               .wall_ms = test_hour_ms()};
    assert_int_equal(log_label_add(log, &shadow), ERR_OK);
    shadow.value = NAN;
    assert_int_equal(log_label_add(log, &shadow), ERR_INVALID);
    assert_true(log_flush(log, 10000));
    assert_string_equal(ask(f->db, "SELECT group_concat(tier||' '||source||' '||labels||' '||accuracy, '; ') FROM "
                                   "(SELECT * FROM accuracy_by_tier ORDER BY tier, source)"),
                        "core feedback 2 1.0; edge feedback 2 0.5; edge shadow 1 0.25");
    log_close(log, 1000);
}

static void old_rows_go_and_rollups_stay(void **state)
{
    const struct folder *f = *state;
    struct log_options options = options_of(f);
    options.keep_ms = 3600 * 1000;
    struct decision_log *log = open_log(&options);
    int64_t now_ms = clock_wall_ms();
    struct log_hop hop = {.tier = TIER_EDGE, .outcome = "done"};
    for (int i = 0; i < 3000; i++) {
        struct log_row row = row_of(i < 2900 ? "old" : "new");
        row.wall_ms = now_ms - (i < 2900 ? 2 * 3600 * 1000 : 0);
        row.has_sketch = true;
        assert_int_equal(log_decision(log, &row, &hop, 1), ERR_OK);
    }
    assert_true(log_flush(log, 10000));
    log_close(log, 10000);
    log = open_log(&options); /* looks at once; each further batch does its share until nothing is left to do */
    for (int i = 0; i < 20; i++) {
        struct log_label label = {.request = "new", .source = "feedback", .value = 1, .wall_ms = now_ms};
        assert_int_equal(log_label_add(log, &label), ERR_OK);
        assert_true(log_flush(log, 10000));
    }
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM decisions"), 100);
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM hops"), 100);
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM sketches"), 100);
    assert_int_equal(ask_int(f->db, "SELECT sum(requests) FROM hourly"), 3000);
    log_close(log, 1000);
}

static void the_file_stays_near_its_limit(void **state)
{
    const struct folder *f = *state;
    struct log_options options = options_of(f);
    options.keep_bytes = 1 << 20;
    struct decision_log *log = open_log(&options);
    int64_t now_ms = clock_wall_ms();
    for (int i = 0; i < 20000; i++) {
        struct log_row row = row_of("");
        (void)snprintf(row.request, sizeof row.request, "req-%d", i);
        row.wall_ms = now_ms + i;
        while (log_decision(log, &row, NULL, 0) == ERR_FULL) assert_true(log_flush(log, 10000));
        if (i % 1000 == 999) assert_true(log_flush(log, 10000));
    }
    assert_true(log_flush(log, 10000));
    log_close(log, 1000);
    struct stat st;
    assert_int_equal(stat(f->db, &st), 0);
    assert_in_range(st.st_size, 1 << 18, (1 << 20) + (1 << 19));
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM decisions WHERE request = 'req-19999'"), 1);
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM decisions WHERE request = 'req-0'"), 0);
    assert_int_equal(ask_int(f->db, "SELECT sum(requests) FROM hourly"), 20000);
    assert_string_equal(ask(f->db, "PRAGMA integrity_check"), "ok");
}

static void a_full_queue_drops_and_counts(void **state)
{
    const struct folder *f = *state;
    struct log_options options = options_of(f);
    options.queue_rows = 10;
    options.batch_ms = 100000; /* nothing is written before the flush */
    struct decision_log *log = open_log(&options);
    int dropped = 0;
    for (int i = 0; i < 15; i++) {
        struct log_row row = row_of("req");
        row.prompt = strdup("text that nobody may leak");
        dropped += log_decision(log, &row, NULL, 0) == ERR_FULL;
        assert_null(row.prompt);
    }
    struct log_stats stats;
    log_stats(log, &stats);
    assert_int_equal(dropped, 5);
    assert_int_equal(stats.rows_dropped, 5);
    assert_int_equal(stats.queue_rows, 10);
    assert_true(log_flush(log, 10000));
    log_stats(log, &stats);
    assert_int_equal(stats.rows_written, 10);
    assert_int_equal(stats.queue_rows, 0);
    log_close(log, 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(a_decision_and_its_hops_are_read_back_as_given),
        IN_FOLDER(the_columns_are_the_schema_s),
        IN_FOLDER(rows_written_together_are_as_those_written_alone),
        IN_FOLDER(a_row_that_cannot_be_stored_takes_no_other_along),
        IN_FOLDER(a_new_file_is_private_and_of_this_version),
        IN_FOLDER(a_file_of_version_1_is_brought_up_with_its_rows),
        IN_FOLDER(a_foreign_database_is_left_alone),
        IN_FOLDER(a_second_writer_is_refused),
        IN_FOLDER(a_damaged_file_is_moved_aside),
        IN_FOLDER(damage_met_while_writing_loses_no_queued_row),
        IN_FOLDER(prompts_are_kept_only_when_the_config_says_so),
        IN_FOLDER(the_key_outlives_a_restart_and_keys_the_hash),
        IN_FOLDER(rollups_count_what_the_rows_say),
        cmocka_unit_test(a_bucket_holds_its_value_and_is_at_most_9_percent_high),
        IN_FOLDER(labels_say_how_right_each_tier_is),
        IN_FOLDER(old_rows_go_and_rollups_stay),
        IN_FOLDER(the_file_stays_near_its_limit),
        IN_FOLDER(a_full_queue_drops_and_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
