/* Rows a second through the log against a bare prepared-insert loop with the same schema in the same run, and a
 * dashboard's questions over many rows.
 *
 *   bench_router_log [ROWS] [DASHBOARD-ROWS]
 *
 * The bare loop binds and steps the same INSERT, 2,048 rows a transaction, WAL and synchronous=FULL too, from one
 * thread, with no rollups and nothing copied. The log is fed by one thread as a node's loop would. "As a node writes them":
 * each row with one hop and a prompt of 150 or 1,000 characters that a router has seen; the writer makes hash and sketch of it,
 * the bare loop inserts the hop and 512 bytes too.
 */
#include "router/features.h"
#include "router/log_store.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { BATCH = 2048 };

/* Ids begin with the time, or are random, so that each row lands on another page of the index. */
enum ids { IDS_TIMED, IDS_RANDOM };

struct kind {
    const char *name;
    enum ids ids;
    int chars; /* of the prompt; 0: rows alone */
};
static const struct kind KINDS[] = {{"ids by time", IDS_TIMED, 0}, {"random ids", IDS_RANDOM, 0},
                                    {"150 characters", IDS_TIMED, 150}, {"1,000 characters", IDS_TIMED, 1000}};
enum { CHARS_MAX = 1000, PROMPTS = 64 };

static struct prompt {
    char text[CHARS_MAX + 1];
    struct router_trace trace;
} prompts[PROMPTS];

/* Plain words and numbers. */
static void text(int64_t i, int chars, char out[CHARS_MAX + 1])
{
    static const char *const WORDS[] = {"what", "is", "the", "sum", "of", "all", "trains", "between", "two", "cities",
                                        "when", "each", "leaves", "every", "hour", "and", "carries", "passengers", "how",
                                        "many", "minutes", "later", "does", "Alice", "arrive", "please", "explain", "why",
                                        "price", "per", "apple", "would", "change"};
    uint64_t state = (uint64_t)i * 0x9e3779b97f4a7c15u + 1;
    for (int at = 0; at < chars;) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        unsigned pick = (unsigned)(state >> 40) % 40;
        int n = pick < sizeof WORDS / sizeof WORDS[0]
                    ? snprintf(out + at, (size_t)(chars - at) + 1, "%s ", WORDS[pick])
                    : snprintf(out + at, (size_t)(chars - at) + 1, "%u, ", (unsigned)(state >> 50));
        at += n;
    }
    out[chars] = 0;
}

static void keep_words(void *ctx, const struct gram *grams, size_t count)
{
    struct router_trace *trace = ctx;
    for (size_t i = 0; i < count; i++)
        if (grams[i].kind == GRAM_WORD && trace->words < ROUTER_TRACE_WORDS) trace->word[trace->words++] = grams[i].hash;
}

static struct router_input about(const struct prompt *prompt, int chars)
{
    return (struct router_input){.text = prompt->text, .text_len = (size_t)chars, .turns = 1};
}

/* With what a router would have seen of them. */
static void prompts_make(int chars)
{
    for (int i = 0; i < PROMPTS; i++) {
        struct prompt *p = &prompts[i];
        text(i, chars, p->text);
        struct router_input in = about(p, chars);
        p->trace.words = 0;
        features_walk(&in, keep_words, &p->trace, p->trace.counted);
    }
}

static struct log_row sample(int64_t i, int64_t first_ms, int64_t step_ms, enum ids ids)
{
    struct log_row row = {.wall_ms = first_ms + i * step_ms, .answered = (enum tier)(i % 7 < 4 ? 0 : i % 7 < 6 ? 1 : 2),
                          .final_reason = i % 7 < 4 ? REASON_CONFIDENT : REASON_HARD, .prompt_chars = 150, .turns = 1,
                          .http_status = 200, .prompt_tokens = 40, .completion_tokens = 120, .classify_us = 12,
                          .ttft_ms = 5 + (double)(i * 7919 % 1000) / 3, .total_ms = 50 + (double)(i * 104729 % 3000),
                          .price_usd = 0.0001, .price_core_usd = 0.001, .probe_p = -1};
    unsigned long long random = (unsigned long long)i * 0x9e3779b97f4a7c15u;
    if (ids == IDS_RANDOM) (void)snprintf(row.request, sizeof row.request, "%016llx%016llx", random, ~random);
    else (void)snprintf(row.request, sizeof row.request, "%012llx%04llx%016llx", (unsigned long long)row.wall_ms,
                        (unsigned long long)i & 0xffff, random);
    (void)snprintf(row.tenant, sizeof row.tenant, "tenant-%d", (int)(i % 50));
    (void)snprintf(row.endpoint, sizeof row.endpoint, "chat");
    (void)snprintf(row.requested_model, sizeof row.requested_model, "auto");
    (void)snprintf(row.backend, sizeof row.backend, "local");
    (void)snprintf(row.model, sizeof row.model, i % 7 < 4 ? "small" : i % 7 < 6 ? "middle" : "large");
    (void)snprintf(row.finish, sizeof row.finish, "stop");
    row.decision = (struct decision){.tier = row.answered, .reason = row.final_reason, .p = {0.71, 0.8, 0.95},
                                     .threshold = 0.7, .propensity = 0.993, .policy_version = 3, .arm = "A",
                                     .router = "0123456789abcdef", .allowed = {true, true, true}};
    (void)snprintf(row.decision.why, sizeof row.decision.why, "edge 0.71 clears 0.70, 12 ms to the first token");
    memset(row.prompt_hash, (int)(i & 0xff), sizeof row.prompt_hash);
    return row;
}

static void die(const char *what)
{
    (void)fprintf(stderr, "bench_router_log: %s\n", what);
    exit(1);
}

static void wipe(const char *path)
{
    static const char *const ENDS[] = {"", "-wal", "-shm", "-lock"};
    char name[300];
    for (int i = 0; i < 4; i++) {
        (void)snprintf(name, sizeof name, "%s%s", path, ENDS[i]);
        (void)unlink(name);
    }
}

static struct log_hop sample_hop(const struct log_row *row)
{
    struct log_hop hop = {.wall_ms = row->wall_ms, .tier = row->answered, .outcome = "done", .prompt_tokens = 40,
                          .completion_tokens = 120, .ttft_ms = row->ttft_ms, .total_ms = row->total_ms, .price_usd = 0.0001};
    (void)snprintf(hop.backend, sizeof hop.backend, "local");
    memcpy(hop.model, row->model, sizeof hop.model);
    return hop;
}

static int bare_rest(struct store *store, int64_t id, const struct log_row *row)
{
    struct log_value values[HOP_WIDTH];
    struct log_hop hop = sample_hop(row);
    sqlite3_stmt *add_hop = store_statement(store, STORE_HOP), *add_sketch = store_statement(store, STORE_SKETCH);
    log_hop_values(&hop, 0, values);
    (void)sqlite3_bind_int64(add_hop, 1, id);
    store_bind(add_hop, 2, values, HOP_WIDTH);
    int rc = store_run(store, add_hop);
    (void)sqlite3_bind_int64(add_sketch, 1, id);
    (void)sqlite3_bind_blob(add_sketch, 2, row->sketch, ROUTER_SKETCH_BYTES, SQLITE_STATIC);
    return rc == SQLITE_OK ? store_run(store, add_sketch) : rc;
}

/* The peer: no queue, no thread, no rollups. */
static double bare(const char *path, int64_t rows, int64_t first_ms, const struct kind *kind)
{
    struct store store;
    struct log_options options = {.path = path, .node = "edge-1"};
    struct err e;
    if (store_open(&store, &options, &e) != ERR_OK) die(e.msg);
    sqlite3_stmt *begin = store_statement(&store, STORE_BEGIN), *commit = store_statement(&store, STORE_COMMIT);
    sqlite3_stmt *insert = store_statement(&store, STORE_DECISION);
    int64_t began = clock_mono_us();
    int rc = SQLITE_OK;
    for (int64_t i = 0; i < rows && rc == SQLITE_OK; i++) {
        struct log_row row = sample(i, first_ms, 1, kind->ids);
        struct log_value values[DECISION_WIDTH];
        if (i % BATCH == 0) rc = store_run(&store, begin);
        log_row_values(&row, "edge-1", TIER_EDGE, values);
        (void)sqlite3_bind_int64(insert, 1, i + 1);
        store_bind(insert, 4, values, DECISION_WIDTH);
        if (rc == SQLITE_OK) rc = store_run(&store, insert);
        if (rc == SQLITE_OK && kind->chars) rc = bare_rest(&store, i + 1, &row);
        if (rc == SQLITE_OK && (i % BATCH == BATCH - 1 || i == rows - 1)) rc = store_run(&store, commit);
    }
    if (rc != SQLITE_OK) die(store.last_error);
    double seconds = (double)(clock_mono_us() - began) / 1e6;
    store_close(&store);
    return (double)rows / seconds;
}

/* The bench may wait where a node would drop. */
static void wait_for_room(struct decision_log *log)
{
    for (;;) {
        struct log_stats stats;
        log_stats(log, &stats);
        if (stats.queue_rows < 5 * BATCH) return;
        (void)usleep(500);
    }
}

static double through(const char *path, int64_t rows, int64_t first_ms, int64_t step_ms, int64_t keep_bytes,
                      const struct kind *kind)
{
    struct log_options options = {.path = path, .node = "edge-1", .queue_rows = 16384, .keep_bytes = keep_bytes};
    struct decision_log *log;
    struct err e;
    if (log_open(&log, &options, &e) != ERR_OK) die(e.msg);
    int64_t began = clock_mono_us();
    for (int64_t i = 0; i < rows; i++) {
        struct log_row row = sample(i, first_ms, step_ms, kind->ids);
        struct log_hop hop = sample_hop(&row);
        if (kind->chars) {
            row.about = about(&prompts[i % PROMPTS], kind->chars);
            row.trace = &prompts[i % PROMPTS].trace;
            row.has_text = row.wants_sketch = true;
        }
        if (i % BATCH == 0) wait_for_room(log);
        if (log_decision(log, &row, &hop, kind->chars != 0) != ERR_OK) die("the queue was full");
    }
    if (!log_flush(log, 600000)) die("the flush did not end");
    double seconds = (double)(clock_mono_us() - began) / 1e6;
    log_close(log, 60000);
    return (double)rows / seconds;
}

static double ask_ms(const char *path, const char *sql)
{
    sqlite3 *conn;
    sqlite3_stmt *st;
    struct err e;
    if (store_open_reader(&conn, path, &e) != ERR_OK) die(e.msg);
    int64_t began = clock_mono_us();
    if (sqlite3_prepare_v2(conn, sql, -1, &st, NULL) != SQLITE_OK) die(sqlite3_errmsg(conn));
    while (sqlite3_step(st) == SQLITE_ROW) continue;
    double ms = (double)(clock_mono_us() - began) / 1000;
    (void)sqlite3_finalize(st);
    (void)sqlite3_close(conn);
    return ms;
}

static void dashboard(const char *path, int64_t rows, int64_t now_ms)
{
    static const char *const VIEWS[] = {"tier_mix", "tier_mix_by_hour", "reasons", "price_and_saving",
                                        "latency_percentiles", "failovers_by_hour", "errors_by_hour", "fleet"};
    int64_t step = (int64_t)29 * 24 * 3600 * 1000 / rows;
    double rate = through(path, rows, now_ms - rows * step, step, (int64_t)1 << 40, &KINDS[0]);
    (void)printf("\n%-34s %12s\n", "dashboard", "ms");
    double sum = 0;
    for (size_t i = 0; i < sizeof VIEWS / sizeof VIEWS[0]; i++) {
        char sql[100];
        (void)snprintf(sql, sizeof sql, "SELECT * FROM %s", VIEWS[i]);
        double ms = ask_ms(path, sql);
        sum += ms;
        (void)printf("%-34s %12.1f\n", VIEWS[i], ms);
    }
    (void)printf("%-34s %12.1f   (budget 1000)\n", "all of them", sum);
    (void)printf("%-34s %12.1f\n", "one request by its id",
                 ask_ms(path, "SELECT * FROM decisions WHERE request = (SELECT request FROM decisions WHERE id = 77)"));
    (void)printf("%-34s %12.1f\n", "the same mix, counted from rows",
                 ask_ms(path, "SELECT tier, count(*) FROM decisions GROUP BY tier"));
    (void)printf("over %lld rows in 29 days, written at %.0f rows/s\n", (long long)rows, rate);
}

/* Processor time of all threads, which a busy machine disturbs less than the clock. */
static double cpu_us(void)
{
    struct rusage use;
    (void)getrusage(RUSAGE_SELF, &use);
    return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1e6 +
           (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
}

static void compare(const char *path, int64_t rows, int64_t now_ms, const struct kind *kind)
{
    double rate[2] = {0, 0}, cpu[2] = {1e9, 1e9};
    if (kind->chars) prompts_make(kind->chars);
    for (int round = 0; round < 6; round++) { /* in turn, so that a noisy moment hits both */
        int which = round % 2;
        double before = cpu_us();
        double now = which == 0 ? bare(path, rows, now_ms - rows, kind) : through(path, rows, now_ms - rows, 1, 0, kind);
        double used = (cpu_us() - before) / (double)rows;
        if (now > rate[which]) rate[which] = now;
        if (used < cpu[which]) cpu[which] = used;
        wipe(path);
    }
    (void)printf("log, best of 3, %-18s %12s %8s %12s\n", kind->name, "rows/s", "ratio", "CPU us/row");
    (void)printf("%-34s %12.0f %8.2f %12.2f\n", "bare prepared-insert loop", rate[0], 1.0, cpu[0]);
    (void)printf("%-34s %12.0f %8.2f %12.2f   (budget 0.60)\n\n", "through the log", rate[1], rate[1] / rate[0], cpu[1]);
}

int main(int argc, char **argv)
{
    int64_t rows = argc > 1 ? strtoll(argv[1], NULL, 10) : 200000, many = argc > 2 ? strtoll(argv[2], NULL, 10) : 0;
    const char *dir = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    char path[256];
    (void)snprintf(path, sizeof path, "%s/rung-bench-log-%d.db", dir, (int)getpid());
    int64_t now_ms = clock_wall_ms();
    for (size_t i = 0; i < sizeof KINDS / sizeof KINDS[0]; i++) compare(path, rows, now_ms, &KINDS[i]);
    if (many > 0) dashboard(path, many, now_ms);
    wipe(path);
    return 0;
}
