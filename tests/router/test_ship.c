/* Rows on their way up: an edge's log, a batch, a region's log. */
#include "log_fixture.h"

#include "router/log_pack.h"
#include "router/log_ship.h"

#include <pthread.h>

/* What a callback brought from the writer's thread. */
struct answer {
    pthread_mutex_t lock;
    pthread_cond_t came;
    bool here;
    char *data;
    size_t len;
    int64_t last_id;
    enum err_code code;
};
#define ANSWER_INIT {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, NULL, 0, 0, ERR_OK}

static void answer_give(struct answer *a, const void *data, size_t len, int64_t last_id, enum err_code code)
{
    (void)pthread_mutex_lock(&a->lock);
    a->here = true;
    free(a->data);
    a->data = malloc(len + 1);
    memcpy(a->data, data, len);
    a->len = len;
    a->last_id = last_id;
    a->code = code;
    (void)pthread_cond_signal(&a->came);
    (void)pthread_mutex_unlock(&a->lock);
}

static void answer_wait(struct answer *a)
{
    (void)pthread_mutex_lock(&a->lock);
    while (!a->here) (void)pthread_cond_wait(&a->came, &a->lock);
    a->here = false;
    (void)pthread_mutex_unlock(&a->lock);
}

static void batch_ready(void *ctx, const void *data, size_t len, int64_t last_id)
{
    answer_give(ctx, data, len, last_id, ERR_OK);
}

static void batch_stored(void *ctx, const char *node, int64_t last_id, enum err_code code)
{
    answer_give(ctx, node, strlen(node), last_id, code);
}

static void collect(struct decision_log *log, size_t max_bytes, struct answer *batch)
{
    assert_int_equal(log_ship_next(log, max_bytes, batch_ready, batch), ERR_OK);
    answer_wait(batch);
}

static void deliver(struct decision_log *log, const struct answer *batch, enum err_code want)
{
    struct answer stored = ANSWER_INIT;
    struct err e;
    assert_int_equal(log_receive(log, "edge-1", batch->data, batch->len, batch_stored, &stored, &e), ERR_OK);
    answer_wait(&stored);
    assert_int_equal(stored.code, want);
    assert_int_equal(stored.last_id, batch->last_id);
    assert_string_equal(stored.len == 6 ? "edge-1" : "", "edge-1");
    free(stored.data);
}

static struct decision_log *edge_open(const struct folder *f, char *path, size_t size)
{
    (void)snprintf(path, size, "%s/edge.db", f->dir);
    struct log_options options = options_of(f);
    options.path = path;
    return open_log(&options);
}

static struct decision_log *region_open(const struct folder *f)
{
    struct log_options options = options_of(f);
    options.node = "region-1";
    options.tier = TIER_REGION;
    return open_log(&options);
}

static void put_rows(struct decision_log *log, int from, int to)
{
    for (int i = from; i < to; i++) {
        char request[LOG_ID];
        (void)snprintf(request, sizeof request, "req-%d", i);
        struct log_row row = row_of(request);
        row.wall_ms += i;
        row.has_sketch = true;
        row.device_private = i % 10 == 3;
        memset(row.sketch, i, sizeof row.sketch);
        memset(row.prompt_hash, i, sizeof row.prompt_hash);
        struct log_hop hop = {.tier = TIER_EDGE, .outcome = "done", .wall_ms = row.wall_ms};
        assert_int_equal(log_decision(log, &row, &hop, 1), ERR_OK);
        struct log_label label = {.source = "checker", .tier = TIER_NONE, .value = 1, .wall_ms = row.wall_ms};
        memcpy(label.request, request, sizeof label.request);
        if (i % 5 == 0) assert_int_equal(log_label_add(log, &label), ERR_OK);
    }
    assert_true(log_flush(log, 20000));
}

/* Ships until nothing is new; every `again`th batch arrives twice, every `lost`th acknowledgement is lost. */
static int ship_all(struct decision_log *edge, struct decision_log *region, size_t max_bytes, int again, int lost)
{
    struct answer batch = ANSWER_INIT;
    int batches = 0;
    for (;; batches++) {
        collect(edge, max_bytes, &batch);
        if (batch.len == 0) break;
        deliver(region, &batch, ERR_OK);
        if (again && batches % again == 0) deliver(region, &batch, ERR_OK);
        if (lost && batches % lost == 0) continue;
        assert_int_equal(log_ship_acknowledged(edge, batch.last_id), ERR_OK);
    }
    free(batch.data);
    return batches;
}

static void the_region_has_every_row_once_whatever_is_resent(void **state)
{
    const struct folder *f = *state;
    char path[128];
    struct decision_log *edge = edge_open(f, path, sizeof path), *region = region_open(f);
    put_rows(edge, 0, 200);
    put(region, "req-7");
    int batches = ship_all(edge, region, 8192, 2, 3);
    assert_true(batches > 10);
    put_rows(edge, 200, 250);
    (void)ship_all(edge, region, 1 << 20, 1, 0);
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM decisions WHERE node = 'edge-1'"), 250);
    assert_int_equal(ask_int(f->db, "SELECT count(DISTINCT request) FROM decisions WHERE node = 'edge-1'"), 250);
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM hops"), 250);
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM labels"), 50);
    assert_int_equal(ask_int(f->db, "SELECT sum(requests) FROM hourly WHERE node = 'edge-1'"), 250);
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM decisions WHERE request = 'req-7'"), 2); /* joined */
    assert_string_equal(ask(f->db, "SELECT node || ' ' || last_row FROM origins"), "edge-1 300");
    struct log_stats stats;
    assert_true(log_flush(edge, 20000));
    log_stats(edge, &stats);
    assert_int_equal(stats.unshipped, 0);
    log_close(edge, 1000);
    log_close(region, 1000);
    /* column by column the same */
    char sql[256];
    sqlite3 *conn;
    assert_int_equal(sqlite3_open(f->db, &conn), SQLITE_OK);
    (void)snprintf(sql, sizeof sql, "ATTACH '%s' AS edge", path);
    assert_int_equal(sqlite3_exec(conn, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_stmt *st;
    struct buf compare = BUF_INIT(8192);
    (void)buf_adds(&compare, "SELECT count(*) FROM main.decisions m JOIN edge.decisions e ON m.origin_row = e.id WHERE ");
    for (int i = 0; i < LOG_DECISIONS.width; i++)
        if (i != DECISION_prompt_hash)
            (void)buf_addf(&compare, "m.%s IS e.%s AND ", LOG_DECISIONS.columns[i].name, LOG_DECISIONS.columns[i].name);
    (void)buf_adds(&compare, "m.prompt_hash IS CASE WHEN e.device_private THEN NULL ELSE e.prompt_hash END");
    assert_int_equal(sqlite3_prepare_v2(conn, compare.data, -1, &st, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    assert_int_equal(sqlite3_column_int(st, 0), 250);
    (void)sqlite3_finalize(st);
    (void)sqlite3_close(conn);
    buf_release(&compare);
}

static void private_rows_go_without_hash_and_sketch(void **state)
{
    const struct folder *f = *state;
    char path[128];
    struct decision_log *edge = edge_open(f, path, sizeof path), *region = region_open(f);
    put_rows(edge, 0, 10);
    (void)ship_all(edge, region, 1 << 20, 0, 0);
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM sketches"), 9);
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM decisions WHERE prompt_hash IS NULL"), 1);
    assert_string_equal(ask(f->db, "SELECT request FROM decisions WHERE prompt_hash IS NULL"), "req-3");
    assert_int_equal(ask_int(path, "SELECT count(*) FROM sketches"), 10);
    log_close(edge, 1000);
    log_close(region, 1000);
}

static void a_region_passes_on_what_it_was_given(void **state)
{
    const struct folder *f = *state;
    char edge_path[128], core_path[128];
    struct decision_log *edge = edge_open(f, edge_path, sizeof edge_path), *region = region_open(f);
    (void)snprintf(core_path, sizeof core_path, "%s/core.db", f->dir);
    struct log_options options = options_of(f);
    options.node = "core-1";
    options.path = core_path;
    struct decision_log *core = open_log(&options);
    put_rows(edge, 0, 20);
    put(region, "req-1");
    (void)ship_all(edge, region, 1 << 20, 0, 0);
    struct answer batch = ANSWER_INIT, stored = ANSWER_INIT;
    struct err e;
    collect(region, 1 << 20, &batch);
    for (int i = 0; i < 2; i++) { /* by way of the region twice, and by itself: still once */
        assert_int_equal(log_receive(core, "region-1", batch.data, batch.len, batch_stored, &stored, &e), ERR_OK);
        answer_wait(&stored);
        assert_int_equal(stored.code, ERR_OK);
    }
    assert_int_equal(log_ship_acknowledged(region, batch.last_id), ERR_OK);
    assert_int_equal(ask_int(core_path, "SELECT count(*) FROM decisions WHERE node = 'edge-1'"), 20);
    assert_int_equal(ask_int(core_path, "SELECT count(*) FROM decisions WHERE node = 'region-1'"), 1);
    collect(region, 1 << 20, &batch);
    assert_int_equal(batch.len, 0);
    free(batch.data);
    free(stored.data);
    log_close(edge, 1000);
    log_close(region, 1000);
    log_close(core, 1000);
}

static void a_log_begun_afresh_is_not_taken_for_the_old_one(void **state)
{
    const struct folder *f = *state;
    char path[128];
    struct decision_log *edge = edge_open(f, path, sizeof path), *region = region_open(f);
    put_rows(edge, 0, 10);
    (void)ship_all(edge, region, 1 << 20, 0, 0);
    log_close(edge, 1000);
    assert_int_equal(unlink(path), 0);
    edge = edge_open(f, path, sizeof path);
    put_rows(edge, 10, 20); /* numbered from 1 again */
    (void)ship_all(edge, region, 1 << 20, 0, 0);
    assert_int_equal(ask_int(f->db, "SELECT count(DISTINCT request) FROM decisions"), 20);
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM origins"), 2);
    log_close(edge, 1000);
    log_close(region, 1000);
}

static void shipping_goes_on_where_it_was_after_a_restart(void **state)
{
    const struct folder *f = *state;
    char path[128];
    struct decision_log *edge = edge_open(f, path, sizeof path);
    put_rows(edge, 0, 30);
    struct answer batch = ANSWER_INIT;
    collect(edge, 4096, &batch);
    int64_t last = batch.last_id;
    assert_true(last > 1 && last < 30);
    assert_int_equal(log_ship_acknowledged(edge, last), ERR_OK);
    assert_int_equal(log_ship_acknowledged(edge, INT64_MAX), ERR_OK); /* a liar's acknowledgement changes nothing */
    assert_int_equal(log_ship_acknowledged(edge, 1), ERR_OK);
    assert_true(log_flush(edge, 20000));
    log_close(edge, 1000);
    edge = edge_open(f, path, sizeof path);
    collect(edge, 4096, &batch);
    struct ship_header header;
    struct err e;
    assert_int_equal(ship_header(batch.data, batch.len, &header, &e), ERR_OK);
    assert_string_equal(header.node, "edge-1");
    assert_true(header.last_id > last);
    assert_int_equal(header.rows, header.last_id - last);
    free(batch.data);
    log_close(edge, 1000);
}

static void a_damaged_batch_stores_nothing(void **state)
{
    const struct folder *f = *state;
    char path[128];
    struct decision_log *edge = edge_open(f, path, sizeof path), *region = region_open(f);
    put_rows(edge, 0, 12);
    struct answer batch = ANSWER_INIT;
    collect(edge, 1 << 20, &batch);
    struct err e;
    int refused = 0;
    for (size_t cut = 0; cut < batch.len; cut++) /* cut anywhere it is an error, and reads nothing past its end */
        refused += ship_check(batch.data, cut, &e) != ERR_OK;
    assert_int_equal(refused, batch.len);
    size_t whole = batch.len;
    batch.len -= 1;
    deliver(region, &batch, ERR_CORRUPT);
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM decisions"), 0);
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM origins"), 0);
    batch.len = whole;
    assert_int_equal(log_receive(region, "edge-2", batch.data, batch.len, NULL, NULL, &e), ERR_CORRUPT);
    assert_non_null(strstr(e.msg, "edge-2"));
    batch.data[1] = 9; /* the layout */
    assert_int_equal(log_receive(region, "edge-1", batch.data, batch.len, NULL, NULL, &e), ERR_VERSION);
    free(batch.data);
    log_close(edge, 1000);
    log_close(region, 1000);
}

/* A batch as a rung of another year would send it: `less` columns fewer, or `more` further ones. */
static void batch_make(struct buf *out, int less, int more, const char *tier, int64_t tokens)
{
    struct log_row row = row_of("req-1");
    struct log_value values[DECISION_WIDTH];
    log_row_values(&row, "edge-1", TIER_EDGE, values);
    values[DECISION_tier] = (struct log_value){.kind = VALUE_TEXT, .bytes = tier, .len = strlen(tier)};
    values[DECISION_prompt_tokens] = (struct log_value){.kind = VALUE_INTEGER, .integer = tokens};
    pack_array(out, 4);
    pack_integer(out, SHIP_LAYOUT);
    pack_integer(out, 1);
    pack_array(out, 1);
    pack_array(out, 2);
    pack_text(out, "edge-1", 6);
    pack_bytes(out, "12345678", 8);
    pack_array(out, 1);
    pack_array(out, (uint32_t)(less ? 4 : 6 + more));
    pack_integer(out, 0);
    pack_integer(out, 0);
    pack_integer(out, 1);
    pack_array(out, (uint32_t)(DECISION_WIDTH - less + more));
    for (int i = 0; i < DECISION_WIDTH - less; i++) pack_value(out, &values[i]);
    for (int i = 0; i < more; i++) pack_integer(out, i);
    if (less) return;
    pack_array(out, 0);
    pack_nil(out);
    for (int i = 0; i < more; i++) pack_text(out, "new", 3);
}

static void batches_of_the_last_and_the_next_version_are_read(void **state)
{
    const struct folder *f = *state;
    struct decision_log *region = region_open(f);
    for (int i = 0; i < 2; i++) {
        struct buf b = BUF_INIT(1 << 16);
        struct answer stored = ANSWER_INIT;
        struct err e = {0};
        batch_make(&b, i == 0 ? 10 : 0, i == 1 ? 7 : 0, "edge", 5);
        assert_int_equal(ship_check(b.data, b.len, &e), ERR_OK);
        assert_int_equal(log_receive(region, "edge-1", b.data, b.len, batch_stored, &stored, &e), ERR_OK);
        answer_wait(&stored);
        assert_int_equal(stored.code, ERR_OK);
        free(stored.data);
        buf_release(&b);
    }
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM decisions WHERE request = 'req-1'"), 1);
    log_close(region, 1000);
}

static void values_out_of_bounds_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *tier;
        int64_t tokens;
        enum err_code want;
    } CASES[] = {{"edge", 5, ERR_OK}, {"none", INT32_MAX, ERR_OK}, {"cloud", 5, ERR_CORRUPT},
                 {"edge", -1, ERR_CORRUPT}, {"edge", INT64_MAX, ERR_CORRUPT}, {"edge", (int64_t)1 << 31, ERR_CORRUPT}};
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        struct buf b = BUF_INIT(1 << 16);
        struct err e = {0};
        batch_make(&b, 0, 0, CASES[i].tier, CASES[i].tokens);
        assert_int_equal(ship_check(b.data, b.len, &e), CASES[i].want);
        buf_release(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(the_region_has_every_row_once_whatever_is_resent),
        IN_FOLDER(private_rows_go_without_hash_and_sketch),
        IN_FOLDER(a_region_passes_on_what_it_was_given),
        IN_FOLDER(a_log_begun_afresh_is_not_taken_for_the_old_one),
        IN_FOLDER(shipping_goes_on_where_it_was_after_a_restart),
        IN_FOLDER(a_damaged_batch_stores_nothing),
        IN_FOLDER(batches_of_the_last_and_the_next_version_are_read),
        cmocka_unit_test(values_out_of_bounds_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
