#include "cli/cli.h"
#include "cli/client_options.h"
#include "cli/rows.h"

#include "base/clock.h"
#include "router/stale.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char HELP[] =
    "usage: rung log tail    [-n COUNT] [-f] [--json]         the last decisions; -f goes on with new ones\n"
    "       rung log summary [--since 24h] [--json]           who answered, why, how fast, at what price\n"
    "       rung log sql \"SELECT …\" [--json]                  any question; the log is open for reading only\n"
    "       rung log export  --format csv|jsonl [--table decisions|hops|labels|hourly|…] [--since 7d]\n"
    "\n"
    "  --db FILE    the log (a node's log.path); default: RUNG_LOG_PATH, or edge.db, region.db, core.db here\n"
    "\n"
    "The node may be running: a reader never disturbs it. docs/log.md names every table, column and view. Examples:\n"
    "\n"
    "    rung log sql \"SELECT * FROM tier_mix\"\n"
    "    rung log sql \"SELECT request, tier, reason, total_ms FROM decisions ORDER BY total_ms DESC LIMIT 5\"\n"
    "    rung log export --format csv --since 7d > week.csv\n"
    "\n"
    "With --json a table is one JSON array of objects; tail -f --json prints one object a line.\n"
    "exit code: 0 done, 1 failed, 2 used wrongly\n";

struct log_command {
    const char *db, *count, *since, *format, *table;
    bool follow, json;
    char **words;
    int word_count;
};

static int done(sqlite3 *sql, int rc)
{
    if (rc == SQLITE_DONE) return fflush(stdout) == 0 ? CLI_OK : CLI_FAILED;
    (void)fprintf(stderr, "rung log: %s\n", sqlite3_errmsg(sql));
    return CLI_FAILED;
}

static int used_wrongly(const char *what)
{
    (void)fprintf(stderr, "rung log: %s; rung log --help shows how\n", what);
    return CLI_USAGE;
}

/* ---- tail ---- */

#define TAIL_COLUMNS                                                                                               \
    "strftime('%Y-%m-%d %H:%M:%S', at_ms / 1000, 'unixepoch') AS time, request, node, tier, reason, status, model, " \
    "round(ttft_ms, 1) AS ttft_ms, round(total_ms, 1) AS total_ms, prompt_tokens AS t_in, "                         \
    "completion_tokens AS t_out, price_usd"

static const char TAIL_TABLE[] = "SELECT " TAIL_COLUMNS " FROM (SELECT * FROM decisions ORDER BY id DESC LIMIT ?1) "
                                 "ORDER BY id";
static const char TAIL_JSON[] = "SELECT * FROM (SELECT * FROM decisions ORDER BY id DESC LIMIT ?1) ORDER BY id";
static const char NEW_TABLE[] = "SELECT " TAIL_COLUMNS " FROM decisions WHERE id > ?1 AND id <= ?2 ORDER BY id";
static const char NEW_JSON[] = "SELECT * FROM decisions WHERE id > ?1 AND id <= ?2 ORDER BY id";

static int64_t last_id(sqlite3 *sql)
{
    sqlite3_stmt *st = rows_prepare("log", sql, "SELECT coalesce(max(id), 0) FROM decisions");
    int64_t id = st && sqlite3_step(st) == SQLITE_ROW ? sqlite3_column_int64(st, 0) : 0;
    (void)sqlite3_finalize(st);
    return id;
}

/* New rows as the table's lines without its head. */
static int print_lines(sqlite3_stmt *st)
{
    int rc;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) rows_line(stdout, st);
    return rc;
}

/* Asks again twice a second, in a transaction of its own each time: a long one would keep the WAL from shrinking. */
static int follow(sqlite3 *sql, int64_t seen, bool json)
{
    sqlite3_stmt *st = rows_prepare("log", sql, json ? NEW_JSON : NEW_TABLE);
    int rc = st ? SQLITE_DONE : SQLITE_ERROR;
    while (rc == SQLITE_DONE && !ferror(stdout)) {
        int64_t last = last_id(sql);
        (void)sqlite3_bind_int64(st, 1, seen);
        (void)sqlite3_bind_int64(st, 2, last);
        rc = json ? rows_print(stdout, st, ROWS_JSONL) : print_lines(st);
        (void)sqlite3_reset(st);
        seen = last;
        if (fflush(stdout) != 0) break;
        (void)nanosleep(&(struct timespec){.tv_nsec = 500 * 1000 * 1000}, NULL);
    }
    (void)sqlite3_finalize(st);
    return done(sql, rc);
}

static int log_tail(sqlite3 *sql, const struct log_command *c)
{
    long count = c->count ? strtol(c->count, NULL, 10) : 20;
    if (count < 0 || count > 1000000) return used_wrongly("-n wants 0 to 1000000");
    sqlite3_stmt *st = rows_prepare("log", sql, c->json ? TAIL_JSON : TAIL_TABLE);
    if (!st) return CLI_FAILED;
    int64_t seen = last_id(sql);
    (void)sqlite3_bind_int64(st, 1, count);
    int rc = rows_print(stdout, st, !c->json ? ROWS_TABLE : c->follow ? ROWS_JSONL : ROWS_JSON);
    (void)sqlite3_finalize(st);
    if (rc != SQLITE_DONE || !c->follow) return done(sql, rc);
    (void)fflush(stdout);
    return follow(sql, seen, c->json);
}

/* ---- summary ---- */

/* Each part of the summary: a title and a question about the hours since ?1. */
static const struct {
    const char *name, *title, *sql;
} SUMMARY[] = {
    {"total", "In all",
     "SELECT sum(requests) AS requests, sum(CASE WHEN status = 'ok' THEN requests ELSE 0 END) AS ok, "
     "sum(escalated) AS escalated, sum(failed_over) AS failed_over, sum(degraded) AS degraded, "
     "sum(explored) AS explored, sum(prompt_tokens) AS prompt_tokens, sum(cached_tokens) AS cached_tokens, "
     "sum(completion_tokens) AS completion_tokens, sum(reasoning_tokens) AS reasoning_tokens "
     "FROM hourly WHERE from_below = 0 AND hour_ms >= ?1"},
    {"price", "Price",
     "SELECT sum(price_usd) AS price_usd, sum(price_core_usd) AS price_core_usd, "
     "sum(price_core_usd) - sum(price_usd) AS saved_usd, "
     "round(1 - sum(price_usd) / nullif(sum(price_core_usd), 0), 4) AS saved_share "
     "FROM hourly WHERE from_below = 0 AND hour_ms >= ?1"},
    {"tiers", "Who answered",
     "SELECT h.tier, sum(h.requests) AS requests, "
     "round(1.0 * sum(h.requests) / sum(sum(h.requests)) OVER (), 4) AS share, sum(h.price_usd) AS price_usd, "
     "(SELECT count(*) FROM judged AS j WHERE j.tier = h.tier AND j.at_ms >= ?1) AS labels, "
     "(SELECT round(avg(value), 4) FROM judged AS j WHERE j.tier = h.tier AND j.at_ms >= ?1) AS accuracy "
     "FROM hourly AS h WHERE h.from_below = 0 AND h.hour_ms >= ?1 GROUP BY h.tier ORDER BY requests DESC"},
    {"reasons", "Why",
     "SELECT reason, tier, sum(requests) AS requests FROM hourly WHERE from_below = 0 AND hour_ms >= ?1 "
     "GROUP BY reason, tier ORDER BY requests DESC LIMIT 20"},
    {"latency", "How fast (ms; at most 9 % high)",
     "WITH sums AS MATERIALIZED (SELECT tier, at_most_us, sum(ttft) AS ttft, sum(total) AS total "
     "FROM hourly_latency WHERE from_below = 0 AND hour_ms >= ?1 GROUP BY tier, at_most_us), "
     "bucket AS (SELECT tier, 'ttft' AS measure, at_most_us, ttft AS n FROM sums UNION ALL "
     "SELECT tier, 'total', at_most_us, total FROM sums), "
     "spread AS (SELECT tier, measure, at_most_us, sum(n) OVER (PARTITION BY tier, measure) AS requests, "
     "sum(n) OVER (PARTITION BY tier, measure ORDER BY at_most_us) AS up_to FROM bucket WHERE n > 0) "
     "SELECT tier, measure, max(requests) AS requests, "
     "min(CASE WHEN up_to >= 0.50 * requests THEN at_most_us END) / 1000.0 AS p50, "
     "min(CASE WHEN up_to >= 0.90 * requests THEN at_most_us END) / 1000.0 AS p90, "
     "min(CASE WHEN up_to >= 0.95 * requests THEN at_most_us END) / 1000.0 AS p95, "
     "min(CASE WHEN up_to >= 0.99 * requests THEN at_most_us END) / 1000.0 AS p99 "
     "FROM spread GROUP BY tier, measure"},
    {"models", "Models",
     "SELECT model, tier, sum(requests) AS requests, sum(prompt_tokens) AS prompt_tokens, "
     "sum(completion_tokens) AS completion_tokens, sum(price_usd) AS price_usd FROM hourly "
     "WHERE from_below = 0 AND hour_ms >= ?1 AND model <> '' GROUP BY model, tier ORDER BY requests DESC LIMIT 20"},
    {"errors", "Errors",
     "SELECT status, sum(requests) AS requests FROM hourly "
     "WHERE from_below = 0 AND hour_ms >= ?1 AND status <> 'ok' GROUP BY status ORDER BY requests DESC"},
    {"calibration", "Calibration: what the router promised of the tier it chose, and what the labels say",
     "SELECT day, tier, count(*) AS labels, round(avg(p), 4) AS promised, round(avg(value), 4) AS was, "
     "round(avg(p) - avg(value), 4) AS drift FROM (SELECT date(d.at_ms / 1000, 'unixepoch') AS day, d.tier, l.value, "
     "CASE d.tier WHEN 'edge' THEN p_edge WHEN 'region' THEN p_region WHEN 'core' THEN p_core END AS p "
     "FROM labels AS l JOIN decisions AS d ON d.request = l.request AND d.from_below = 0 "
     "WHERE l.at_ms >= ?1 AND l.tier IN ('none', d.tier)) WHERE p IS NOT NULL GROUP BY day, tier"},
    {"drift", "Drift: what the router saw each day, of the last 100,000 decisions",
     "SELECT date(at_ms / 1000, 'unixepoch') AS day, router, count(*) AS decisions, round(avg(ood), 4) AS unlike, "
     "round(avg(p_edge), 4) AS p_edge, round(avg(p_region), 4) AS p_region, round(avg(p_core), 4) AS p_core, "
     "round(avg(prompt_chars), 1) AS prompt_chars FROM (SELECT * FROM decisions ORDER BY id DESC LIMIT 100000) "
     "WHERE from_below = 0 AND at_ms >= ?1 AND router <> '' GROUP BY day, router"},
};
enum { SUMMARY_PARTS = sizeof SUMMARY / sizeof SUMMARY[0] };

static int summary_part(sqlite3 *sql, int part, int64_t since, bool json)
{
    sqlite3_stmt *st = rows_prepare("log", sql, SUMMARY[part].sql);
    if (!st) return SQLITE_ERROR;
    (void)sqlite3_bind_int64(st, 1, since);
    bool any = sqlite3_step(st) == SQLITE_ROW;
    (void)sqlite3_reset(st);
    int rc = SQLITE_DONE;
    if (json) {
        (void)printf("%s\"%s\": ", part ? ", " : "{", SUMMARY[part].name);
        rc = rows_print(stdout, st, ROWS_JSON);
    } else if (any) {
        (void)printf("%s%s\n", part ? "\n" : "", SUMMARY[part].title);
        rc = rows_print(stdout, st, ROWS_TABLE);
    }
    (void)sqlite3_finalize(st);
    return rc;
}

/* Whether the newest router is stale, by the same signs as the node's own. */
static void summary_router(const struct log_command *c, int64_t since)
{
    struct stale s;
    const struct stale_options options = {.path = rows_path(c->db), .since_wall_ms = since};
    bool found = stale_read(&s, &options, NULL) == ERR_OK;
    if (c->json && !found) (void)printf(", \"router\": null");
    else if (c->json) {
        (void)printf(", \"router\": {\"fingerprint\": \"%s\", \"stale\": %s, \"why\": ", s.router, s.stale ? "true" : "false");
        rows_json_text(stdout, s.why, strlen(s.why));
        (void)printf("}");
    } else if (found) {
        (void)printf("\nRouter %s: %s; %s\n", s.router, s.stale ? "STALE" : "fresh", s.why);
    }
}

static int log_summary(sqlite3 *sql, const struct log_command *c)
{
    int64_t since;
    if (!rows_since("log", c->since, &since)) return CLI_USAGE;
    if (since > 0) since = (clock_wall_ms() - since) / 3600000 * 3600000; /* rollups are by the hour */
    int rc = SQLITE_DONE;
    for (int part = 0; part < SUMMARY_PARTS && rc == SQLITE_DONE; part++) rc = summary_part(sql, part, since, c->json);
    if (rc == SQLITE_DONE) summary_router(c, since);
    if (c->json) (void)fputs("}\n", stdout);
    return done(sql, rc);
}

/* ---- sql and export ---- */

static int log_sql(sqlite3 *sql, const struct log_command *c)
{
    if (c->word_count != 1) return used_wrongly("sql wants one statement in quotes");
    sqlite3_stmt *st = rows_prepare("log", sql, c->words[0]);
    if (!st) return sqlite3_errcode(sql) == SQLITE_OK ? used_wrongly("the statement is empty") : CLI_FAILED;
    int rc = SQLITE_DONE;
    if (!sqlite3_stmt_readonly(st)) {
        (void)fprintf(stderr, "rung log: the log is open for reading only: a second writer could damage it\n");
        (void)sqlite3_finalize(st);
        return CLI_FAILED;
    }
    rc = rows_print(stdout, st, c->json ? ROWS_JSON : ROWS_TABLE);
    int code = done(sql, rc);
    (void)sqlite3_finalize(st);
    return code;
}

/* Tables that can be exported, and the column their time is in. */
static const struct {
    const char *name, *time;
} TABLES[] = {{"decisions", "at_ms"}, {"hops", "at_ms"}, {"labels", "at_ms"}, {"hourly", "hour_ms"},
              {"hourly_latency", "hour_ms"}, {"policies", "at_ms"}, {"judged", "at_ms"}, {"request_path", "at_ms"}};

static int log_export(sqlite3 *sql, const struct log_command *c)
{
    bool csv = c->format && strcmp(c->format, "csv") == 0, jsonl = c->format && strcmp(c->format, "jsonl") == 0;
    if (!csv && !jsonl) return used_wrongly("export wants --format csv or --format jsonl");
    int64_t since;
    if (!rows_since("log", c->since, &since)) return CLI_USAGE;
    const char *table = c->table ? c->table : "decisions";
    for (size_t i = 0; i < sizeof TABLES / sizeof TABLES[0]; i++) {
        if (strcmp(TABLES[i].name, table) != 0) continue;
        char text[160];
        (void)snprintf(text, sizeof text, "SELECT * FROM %s WHERE %s >= ?1", table, TABLES[i].time);
        sqlite3_stmt *st = rows_prepare("log", sql, text);
        if (!st) return CLI_FAILED;
        (void)sqlite3_bind_int64(st, 1, since > 0 ? clock_wall_ms() - since : INT64_MIN);
        int rc = rows_print(stdout, st, csv ? ROWS_CSV : ROWS_JSONL);
        (void)sqlite3_finalize(st);
        return done(sql, rc);
    }
    (void)fprintf(stderr, "rung log: --table: got '%s', want", table);
    for (size_t i = 0; i < sizeof TABLES / sizeof TABLES[0]; i++) (void)fprintf(stderr, " %s", TABLES[i].name);
    (void)fputc('\n', stderr);
    return CLI_USAGE;
}

static const struct {
    const char *name;
    int (*run)(sqlite3 *sql, const struct log_command *c);
} WORDS[] = {{"tail", log_tail}, {"summary", log_summary}, {"sql", log_sql}, {"export", log_export}};

int cmd_log(int argc, char **argv)
{
    struct log_command c = {0};
    bool help = false;
    const struct cli_option options[] = {{"--db", &c.db, NULL}, {"--log", &c.db, NULL}, {"-n", &c.count, NULL},
                                         {"--since", &c.since, NULL}, {"--format", &c.format, NULL},
                                         {"--table", &c.table, NULL}, {"-f", NULL, &c.follow},
                                         {"--follow", NULL, &c.follow}, {"--json", NULL, &c.json},
                                         {"--help", NULL, &help}, {"-h", NULL, &help}};
    int words = cli_options_read(argc, argv, options, sizeof options / sizeof options[0]);
    if (help) {
        (void)fputs(HELP, stdout);
        return CLI_OK;
    }
    if (words < 0) return CLI_USAGE;
    if (words == 0) return used_wrongly("wants tail, summary, sql or export");
    c.words = &argv[2];
    c.word_count = words - 1;
    for (size_t i = 0; i < sizeof WORDS / sizeof WORDS[0]; i++) {
        if (strcmp(WORDS[i].name, argv[1]) != 0) continue;
        if (c.word_count > 0 && WORDS[i].run != log_sql) return used_wrongly("too many words");
        sqlite3 *sql = rows_open("log", c.db);
        if (!sql) return CLI_FAILED;
        (void)signal(SIGPIPE, SIG_DFL); /* `rung log … | head` ends quietly */
        int code = WORDS[i].run(sql, &c);
        (void)sqlite3_close(sql);
        return code;
    }
    (void)fprintf(stderr, "rung log: no '%s': tail, summary, sql or export\n", argv[1]);
    return CLI_USAGE;
}
