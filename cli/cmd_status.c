#include "cli/cli.h"
#include "cli/client.h"
#include "cli/client_options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char HELP[] =
    "usage: rung status [--json] [OPTIONS]\n"
    "\n"
    "Tells whether the node is ready, which tiers and backends can answer and what is wrong with the others, what its\n"
    "engines and their GPUs are doing, and what it has done so far. From /ready and /metrics.\n"
    "\n"
    "  --json              one JSON object: {\"ready\": …, \"metrics\": {NAME: VALUE, …}}\n"
    "\n"
    "exit code: 0 the node is ready, 1 it is not or does not answer, 2 used wrongly\n";

/* ---- /metrics: `name{labels} value` lines ---- */

/* The value of a metric, its labels included in the name; 0 when it is not there. */
static double metric(const char *text, const char *name)
{
    size_t len = strlen(name);
    for (const char *line = text; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL)
        if (strncmp(line, name, len) == 0 && line[len] == ' ') return strtod(line + len, NULL);
    return 0;
}

static bool has_metric(const char *text, const char *name)
{
    size_t len = strlen(name);
    for (const char *line = text; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL)
        if (strncmp(line, name, len) == 0 && line[len] == ' ') return true;
    return false;
}

static json_t *metrics_object(const char *text)
{
    json_t *object = json_object();
    for (const char *line = text; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
        size_t len = strcspn(line, "\n");
        const char *space = memrchr(line, ' ', len);
        if (*line == '#' || !space) continue;
        char name[256];
        (void)snprintf(name, sizeof name, "%.*s", (int)(space - line), line);
        (void)json_object_set_new(object, name, json_real(strtod(space, NULL)));
    }
    return object;
}

/* ---- the table ---- */

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "?";
}

static void print_head(const json_t *ready)
{
    long long seconds = (long long)json_integer_value(json_object_get(ready, "uptime_s"));
    (void)printf("%s: %s (%s, version %s), up %lldd %02lld:%02lld:%02lld, %lld running\n", text_of(ready, "node"),
                 text_of(ready, "status"), text_of(ready, "tier"), text_of(ready, "version"), seconds / 86400,
                 seconds / 3600 % 24, seconds / 60 % 60, seconds % 60,
                 (long long)json_integer_value(json_object_get(ready, "requests")));
    const json_t *router = json_object_get(ready, "router");
    if (router)
        (void)printf("router: %s; %s\n", json_is_true(json_object_get(router, "stale")) ? "STALE" : "fresh", text_of(router, "why"));
}

static void print_backends(const json_t *ready, const char *metrics)
{
    const json_t *backends = json_object_get(ready, "backends");
    if (json_array_size(backends) == 0) return;
    (void)printf("\n%-20s %-9s %-9s %7s %9s %9s  %s\n", "backend", "type", "health", "running", "ttft ms", "tokens/s",
                 "trouble");
    for (size_t i = 0; i < json_array_size(backends); i++) {
        const json_t *b = json_array_get(backends, i);
        char name[160];
        (void)snprintf(name, sizeof name, "rung_backend_ttft_seconds{backend=\"%s\"}", text_of(b, "name"));
        double ttft_ms = metric(metrics, name) * 1000;
        (void)snprintf(name, sizeof name, "rung_backend_tokens_per_second{backend=\"%s\"}", text_of(b, "name"));
        bool resting = strcmp(text_of(b, "health"), "up") == 0 && !json_is_true(json_object_get(b, "ready"));
        (void)printf("%-20s %-9s %-9s %7lld %9.1f %9.1f  %s\n", text_of(b, "name"), text_of(b, "type"),
                     resting ? "set aside" : text_of(b, "health"),
                     (long long)json_integer_value(json_object_get(b, "running")), ttft_ms, metric(metrics, name),
                     text_of(b, "trouble"));
    }
}

/* ---- engines in that process, and the GPUs under them ---- */

static double engine_metric(const char *metrics, const char *what, const char *backend)
{
    char name[200];
    (void)snprintf(name, sizeof name, "rung_engine_%s{backend=\"%s\"}", what, backend);
    return metric(metrics, name);
}

static void print_engine(const char *metrics, const json_t *b)
{
    const char *name = text_of(b, "name");
    char slots[32], pages[64];
    (void)snprintf(slots, sizeof slots, "%.0f/%.0f", engine_metric(metrics, "slots_used", name), engine_metric(metrics, "slots", name));
    (void)snprintf(pages, sizeof pages, "%.0f/%.0f/%.0f/%.0f", engine_metric(metrics, "pages_used", name),
                   engine_metric(metrics, "pages_fragmented", name), engine_metric(metrics, "pages_cached", name),
                   engine_metric(metrics, "pages_free", name));
    (void)printf("%-20s %-22s %9s %7.0f %7.0f %27s %10.1f %10.1f\n", name, text_of(b, "device"), slots, engine_metric(metrics, "queue", name),
                 engine_metric(metrics, "batch", name), pages, engine_metric(metrics, "prefill_tokens_per_second", name),
                 engine_metric(metrics, "decode_tokens_per_second", name));
    const char *note = json_string_value(json_object_get(b, "note"));
    if (note && *note) (void)printf("%-20s no GPU: %s\n", "", note);
}

static void print_engines(const json_t *ready, const char *metrics)
{
    const json_t *backends = json_object_get(ready, "backends");
    bool first = true;
    for (size_t i = 0; i < json_array_size(backends); i++) {
        const json_t *b = json_array_get(backends, i);
        char name[200];
        (void)snprintf(name, sizeof name, "rung_engine_slots{backend=\"%s\"}", text_of(b, "name"));
        if (!has_metric(metrics, name)) continue;
        if (first)
            (void)printf("\n%-20s %-22s %9s %7s %7s %27s %10s %10s\n", "engine", "device", "slots", "queue", "batch",
                         "pages used/empty/kept/free", "read t/s", "made t/s");
        first = false;
        print_engine(metrics, b);
    }
}

/* A cell of a GPU's row; "-" where nobody tells. `labels` is {gpu="0",name="…"}. */
static void print_gpu_cell(const char *metrics, const char *what, const char *labels, double scale)
{
    char name[200], cell[24] = "-";
    (void)snprintf(name, sizeof name, "rung_gpu_%s%s", what, labels);
    if (has_metric(metrics, name)) (void)snprintf(cell, sizeof cell, "%.1f", metric(metrics, name) * scale);
    (void)printf(" %9s", cell);
}

static void print_gpus(const char *metrics)
{
    static const char NAMED[] = "rung_gpu_memory_used_bytes{", LOAD[] = "rung_gpu_utilization{";
    const char *by = strstr(metrics, "\nrung_gpu_memory_used_bytes{") ? NAMED : LOAD;
    size_t len = strlen(by);
    bool first = true;
    for (const char *line = metrics; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
        const char *end = strncmp(line, by, len) == 0 ? strstr(line, "\"}") : NULL, *name = end ? strstr(line, "name=\"") : NULL;
        if (!name || name > end) continue;
        char labels[160];
        (void)snprintf(labels, sizeof labels, "%.*s", (int)(end + 2 - (line + len - 1)), line + len - 1);
        if (first) (void)printf("\n%-32s %9s %9s %9s %9s %9s\n", "GPU", "busy %", "used GB", "free GB", "watts", "celsius");
        first = false;
        (void)printf("%-32.*s", (int)(end - (name + 6)), name + 6);
        print_gpu_cell(metrics, "utilization", labels, 100);
        print_gpu_cell(metrics, "memory_used_bytes", labels, 1e-9);
        print_gpu_cell(metrics, "memory_free_bytes", labels, 1e-9);
        print_gpu_cell(metrics, "power_watts", labels, 1);
        print_gpu_cell(metrics, "temperature_celsius", labels, 1);
        (void)putchar('\n');
    }
}

/* ---- tiers and counts ---- */

static void print_tiers(const json_t *ready, const char *metrics)
{
    const char *tier;
    json_t *available;
    double price = 0, core = 0;
    (void)printf("\n%-8s %-9s %9s %12s\n", "tier", "available", "answers", "spent $");
    json_object_foreach(json_object_get(ready, "tiers"), tier, available)
    {
        char name[96];
        (void)snprintf(name, sizeof name, "rung_answers_total{tier=\"%s\"}", tier);
        double answers = metric(metrics, name);
        (void)snprintf(name, sizeof name, "rung_price_usd_total{tier=\"%s\"}", tier);
        double spent = metric(metrics, name);
        (void)snprintf(name, sizeof name, "rung_price_core_usd_total{tier=\"%s\"}", tier);
        price += spent;
        core += metric(metrics, name);
        (void)printf("%-8s %-9s %9.0f %12.6f\n", tier, json_is_true(available) ? "yes" : "no", answers, spent);
    }
    if (core > 0) (void)printf("all at core: $%.6f, saved %.1f %%\n", core, 100 * (1 - price / core));
}

static void print_counts(const char *metrics)
{
    static const char *const ROWS[][2] = {
        {"rung_requests_total", "requests taken"},
        {"rung_requests_failed_total", "ended in an error"},
        {"rung_requests_cancelled_total", "client went away"},
        {"rung_requests_refused_total", "refused, full"},
        {"rung_escalations_total", "escalated while answering"},
        {"rung_failovers_total", "failed over"},
        {"rung_degraded_total", "answered degraded"},
        {"rung_breaker_opened_total", "breakers opened"},
        {"rung_log_rows_written_total", "log rows written"},
        {"rung_log_rows_dropped_total", "log rows dropped"},
    };
    (void)putchar('\n');
    for (size_t i = 0; i < sizeof ROWS / sizeof ROWS[0]; i++)
        (void)printf("%-28s %12.0f\n", ROWS[i][1], metric(metrics, ROWS[i][0]));
}

/* ---- asking ---- */

static int report(const struct buf *ready_body, int status, const struct buf *metrics, bool json)
{
    json_t *ready = json_loadb(ready_body->data, ready_body->len, 0, NULL);
    if (!json_is_string(json_object_get(ready, "status"))) {
        char text[240];
        client_error_text(ready_body, status, text, sizeof text);
        (void)fprintf(stderr, "rung status: /ready is not what a node says: %s\n", text);
        json_decref(ready);
        return CLI_FAILED;
    }
    if (json) {
        json_t *root = json_pack("{s:O, s:o}", "ready", ready, "metrics", metrics_object(metrics->data));
        (void)json_dumpf(root, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
        (void)putchar('\n');
        json_decref(root);
    } else {
        print_head(ready);
        print_backends(ready, metrics->data);
        print_engines(ready, metrics->data);
        print_gpus(metrics->data);
        print_tiers(ready, metrics->data);
        print_counts(metrics->data);
    }
    json_decref(ready);
    return status == 200 ? CLI_OK : CLI_FAILED;
}

static int run(const struct client_options *where, bool json)
{
    struct client *client = NULL;
    struct err e = {0};
    struct buf ready = BUF_INIT(1 << 20), metrics = BUF_INIT(4 << 20);
    int status = 0, metrics_status = 0, rc = CLI_FAILED;
    enum err_code code = client_new(&client, where, &e);
    if (code == ERR_OK) code = client_request(client, "/ready", NULL, NULL, 0, &status, &ready, &e);
    if (code == ERR_OK) code = client_request(client, "/metrics", NULL, NULL, 0, &metrics_status, &metrics, &e);
    if (code == ERR_OK && metrics_status != 200) buf_clear(&metrics);
    if (code == ERR_OK) rc = report(&ready, status, &metrics, json);
    else (void)fprintf(stderr, "rung status: %s\n", e.msg);
    buf_release(&ready);
    buf_release(&metrics);
    client_free(client);
    return rc;
}

int cmd_status(int argc, char **argv)
{
    struct client_options where = {0};
    bool json = false, help = false;
    const struct cli_option options[] = {{"--socket", &where.socket, NULL}, {"--url", &where.url, NULL},
                                         {"--key-file", &where.key_file, NULL}, {"--json", NULL, &json},
                                         {"--help", NULL, &help}};
    int words = cli_options_read(argc, argv, options, 5);
    if (help) {
        (void)printf("%s%s", HELP, CLIENT_HELP);
        return CLI_OK;
    }
    if (words > 0) (void)fprintf(stderr, "rung status: '%s': takes no words\n", argv[1]);
    return words == 0 ? run(&where, json) : CLI_USAGE;
}
