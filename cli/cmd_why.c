#include "cli/cli.h"
#include "cli/client_options.h"
#include "cli/rows.h"

#include "base/buf.h"
#include "router/policy.h"

#include <string.h>

static const char HELP[] =
    "usage: rung why REQUEST-ID [--db FILE] [--json]\n"
    "\n"
    "Tells how a request was decided: each tier's score and threshold, the limits that bound it, what happened on the\n"
    "way, what it cost, and what would have changed the choice. The id is the reply's x-request-id; `rung log tail`\n"
    "lists the last ones. On a region's log the rows of every node it passed are shown.\n"
    "\n"
    "  --db FILE    the log (a node's log.path); default: RUNG_LOG_PATH, or edge.db, region.db, core.db here\n"
    "\n"
    "exit code: 0 done, 1 no such request or no log, 2 used wrongly\n";

static const char DECISIONS[] =
    "SELECT d.*, strftime('%Y-%m-%d %H:%M:%S', at_ms / 1000, 'unixepoch') AS at, "
    "(SELECT policy FROM policies AS p WHERE p.version = d.policy AND d.origin IS NULL) AS policy_json "
    "FROM decisions AS d WHERE request = ?1 ORDER BY from_below, at_ms, id LIMIT 100";
static const char HOPS[] = "SELECT hop, tier, backend, model, outcome, round(ttft_ms, 1) AS ttft_ms, "
                           "round(total_ms, 1) AS total_ms, completion_tokens AS tokens, price_usd, error "
                           "FROM hops WHERE decision = ?1 ORDER BY hop";
static const char LABELS[] = "SELECT strftime('%Y-%m-%d %H:%M:%S', at_ms / 1000, 'unixepoch') AS time, source, tier, "
                             "value, node, note FROM labels WHERE request = ?1 ORDER BY at_ms LIMIT 100";

/* What is needed to say what would have changed the choice. */
struct choice {
    double p[TIERS]; /* < 0: not scored */
    bool allowed[TIERS];
    enum tier first;
    char reason[32];
    bool policy_known;
    struct policy policy;
};

static int column_of(sqlite3_stmt *st, const char *name)
{
    for (int i = 0; i < sqlite3_column_count(st); i++)
        if (strcmp(sqlite3_column_name(st, i), name) == 0) return i;
    return 0; /* the schema has them all */
}

static const char *text_of(sqlite3_stmt *st, const char *name)
{
    const unsigned char *text = sqlite3_column_text(st, column_of(st, name));
    return text ? (const char *)text : "";
}

static double real_of(sqlite3_stmt *st, const char *name)
{
    int column = column_of(st, name);
    return sqlite3_column_type(st, column) == SQLITE_NULL ? -1 : sqlite3_column_double(st, column);
}

static int64_t int_of(sqlite3_stmt *st, const char *name)
{
    return sqlite3_column_int64(st, column_of(st, name));
}

static void choice_read(sqlite3_stmt *st, struct choice *c)
{
    static const char *const P[TIERS] = {"p_edge", "p_region", "p_core"};
    static const char *const ALLOWED[TIERS] = {"allowed_edge", "allowed_region", "allowed_core"};
    memset(c, 0, sizeof *c);
    for (int t = 0; t < TIERS; t++) {
        c->p[t] = real_of(st, P[t]);
        c->allowed[t] = int_of(st, ALLOWED[t]) != 0;
    }
    c->first = tier_from_name(text_of(st, "first_tier"));
    (void)snprintf(c->reason, sizeof c->reason, "%s", text_of(st, "first_reason"));
    const char *json = text_of(st, "policy_json");
    policy_defaults(&c->policy);
    c->policy_known = json[0] && policy_from_json(&c->policy, json, NULL) == ERR_OK;
}

/* One sentence a line. */
static void changes_say(const struct choice *c, struct buf *out)
{
    for (int t = 0; t < TIERS; t++) {
        const char *name = tier_name((enum tier)t);
        if (c->first != TIER_NONE && t >= (int)c->first) break;
        if (!c->allowed[t]) {
            (void)buf_addf(out, "%s did not meet the request's limits: no threshold would have chosen it\n", name);
        } else if (c->p[t] >= 0) {
            (void)buf_addf(out, "a threshold of %.4f or less would have chosen %s", c->p[t], name);
            if (c->policy_known) (void)buf_addf(out, " (the policy had %.4f)", c->policy.threshold[t]);
            (void)buf_addc(out, '\n');
        }
    }
    if (c->first == TIER_NONE || c->first == TIER_CORE || c->p[c->first] < 0) return;
    if (strcmp(c->reason, "confident") != 0) return;
    for (int t = c->first + 1; t < TIERS; t++) {
        if (!c->allowed[t]) continue;
        (void)buf_addf(out, "a threshold above %.4f would have sent it past %s\n", c->p[c->first], tier_name(c->first));
        return;
    }
}

static void scores_print(struct buf *out, const struct choice *c)
{
    for (int t = 0; t < TIERS; t++) {
        (void)buf_addf(out, "  %-8s", tier_name((enum tier)t));
        if (c->p[t] >= 0) (void)buf_addf(out, " right with probability %.4f", c->p[t]);
        else (void)buf_addf(out, " not scored");
        if (c->policy_known && t != TIER_CORE) (void)buf_addf(out, ", threshold %.4f", c->policy.threshold[t]);
        (void)buf_addf(out, "%s%s\n", c->allowed[t] ? "" : ", not allowed", (int)c->first == t ? "   <- first choice" : "");
    }
}

static void decision_print(struct buf *out, sqlite3_stmt *st, const struct choice *c)
{
    (void)buf_addf(out, "%s (%s), %s UTC\n", text_of(st, "node"), text_of(st, "node_tier"), text_of(st, "at"));
    scores_print(out, c);
    (void)buf_addf(out, "  first choice: %s, %s: %s\n", text_of(st, "first_tier"), text_of(st, "first_reason"),
                 text_of(st, "why"));
    double ood = real_of(st, "ood"), probe = real_of(st, "probe_p"), propensity = real_of(st, "propensity");
    if (ood >= 0) (void)buf_addf(out, "  unlike the router's rows: %.3f\n", ood);
    if (probe >= 0) (void)buf_addf(out, "  after the model's own evidence: %.4f\n", probe);
    (void)buf_addf(out, "  policy %lld, arm %s, router %s, propensity %.4f%s\n", (long long)int_of(st, "policy"),
                 text_of(st, "arm"), text_of(st, "router")[0] ? text_of(st, "router") : "none", propensity, int_of(st, "explored") ? ", explored" : "");
    (void)buf_addf(out, "  answered by: %s (%s, model %s), %s; %s, HTTP %lld%s%s%s%s\n", text_of(st, "tier"),
                 text_of(st, "backend"), text_of(st, "model"), text_of(st, "reason"), text_of(st, "status"),
                 (long long)int_of(st, "http_status"), int_of(st, "escalated") ? ", escalated" : "",
                 int_of(st, "failed_over") ? ", failed over" : "", int_of(st, "degraded") ? ", degraded" : "",
                 int_of(st, "device_private") ? ", private to the device" : "");
    if (text_of(st, "error")[0]) (void)buf_addf(out, "  error: %s\n", text_of(st, "error"));
    double ttft = real_of(st, "ttft_ms");
    if (ttft >= 0) (void)buf_addf(out, "  first token after %.1f ms\n", ttft);
    (void)buf_addf(out, "  %lld tokens in, %lld out, %.1f ms in all\n", (long long)int_of(st, "prompt_tokens"),
                 (long long)int_of(st, "completion_tokens"),
                   real_of(st, "total_ms"));
    (void)buf_addf(out, "  price %.8g USD; core alone %.8g USD\n", real_of(st, "price_usd"), real_of(st, "price_core_usd"));
}

static void lines_print(const struct buf *lines, const char *before, bool json)
{
    int count = 0;
    for (const char *p = lines->data; *p; count++) {
        size_t len = strcspn(p, "\n");
        if (json) {
            if (count) (void)fputs(", ", stdout);
            rows_json_text(stdout, p, len);
        } else {
            (void)printf("%s%.*s\n", before, (int)len, p);
        }
        p += len + (p[len] == '\n');
    }
}

static bool hops_print(sqlite3 *sql, int64_t decision, bool json)
{
    sqlite3_stmt *st = rows_prepare("why", sql, HOPS);
    if (!st) return false;
    (void)sqlite3_bind_int64(st, 1, decision);
    bool any = sqlite3_step(st) == SQLITE_ROW;
    (void)sqlite3_reset(st);
    int rc = SQLITE_DONE;
    if (json || any) rc = rows_print(stdout, st, json ? ROWS_JSON : ROWS_TABLE);
    (void)sqlite3_finalize(st);
    return rc == SQLITE_DONE;
}

static bool labels_print(sqlite3 *sql, const char *request, bool json)
{
    sqlite3_stmt *st = rows_prepare("why", sql, LABELS);
    if (!st) return false;
    (void)sqlite3_bind_text(st, 1, request, -1, SQLITE_STATIC);
    bool any = sqlite3_step(st) == SQLITE_ROW;
    (void)sqlite3_reset(st);
    int rc = SQLITE_DONE;
    if (any && !json) (void)printf("labels\n");
    if (json || any) rc = rows_print(stdout, st, json ? ROWS_JSON : ROWS_TABLE);
    (void)sqlite3_finalize(st);
    return rc == SQLITE_DONE;
}

static bool one_print(sqlite3 *sql, sqlite3_stmt *st, int index, bool json)
{
    struct choice choice;
    struct buf changes = BUF_INIT(2048);
    choice_read(st, &choice);
    changes_say(&choice, &changes);
    if (json) {
        (void)printf("%s{\"decision\": ", index ? ",\n " : "");
        rows_json_object(stdout, st);
        (void)fputs(", \"would_change\": [", stdout);
        lines_print(&changes, "", true);
        (void)fputs("], \"hops\": ", stdout);
    } else {
        if (index) (void)fputc('\n', stdout);
        struct buf story = BUF_INIT(1 << 16);
        decision_print(&story, st, &choice);
        rows_text(stdout, story.data);
        buf_release(&story);
        if (changes.len) (void)printf("  what would have changed it:\n");
        lines_print(&changes, "    ", false);
    }
    buf_release(&changes);
    bool ok = hops_print(sql, int_of(st, "id"), json);
    if (json) (void)fputc('}', stdout);
    return ok;
}

static int why(sqlite3 *sql, const char *request, bool json)
{
    sqlite3_stmt *st = rows_prepare("why", sql, DECISIONS);
    if (!st) return CLI_FAILED;
    (void)sqlite3_bind_text(st, 1, request, -1, SQLITE_STATIC);
    int count = 0, rc;
    bool ok = true;
    if (json) {
        (void)fputs("{\"request\": ", stdout);
        rows_json_text(stdout, request, strlen(request));
        (void)fputs(", \"nodes\": [", stdout);
    }
    while (ok && (rc = sqlite3_step(st)) == SQLITE_ROW) ok = one_print(sql, st, count++, json);
    if (json) (void)fputs("], \"labels\": ", stdout);
    if (ok) ok = labels_print(sql, request, json);
    if (json) (void)fputs("}\n", stdout);
    (void)sqlite3_finalize(st);
    if (count == 0)
        (void)fprintf(stderr, "rung why: no request '%s' in this log; rung log tail lists the last ones\n", request);
    return ok && count > 0 ? CLI_OK : CLI_FAILED;
}

int cmd_why(int argc, char **argv)
{
    const char *db = NULL;
    bool json = false, help = false;
    const struct cli_option options[] = {{"--db", &db, NULL}, {"--log", &db, NULL}, {"--json", NULL, &json},
                                         {"--help", NULL, &help}, {"-h", NULL, &help}};
    int words = cli_options_read(argc, argv, options, sizeof options / sizeof options[0]);
    if (help) {
        (void)fputs(HELP, stdout);
        return CLI_OK;
    }
    if (words != 1) {
        if (words >= 0) (void)fprintf(stderr, "rung why: wants one request's id; rung why --help shows how\n");
        return CLI_USAGE;
    }
    sqlite3 *sql = rows_open("why", db);
    if (!sql) return CLI_FAILED;
    int code = why(sql, argv[1], json);
    (void)sqlite3_close(sql);
    return code;
}
