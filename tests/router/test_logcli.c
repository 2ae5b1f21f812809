/* `rung log` and `rung why`, run as a user would. */
#include "log_fixture.h"

#include <jansson.h>
#include <sys/wait.h>

struct ran {
    int code;
    char out[1 << 16];
};

/* The program lies beside the tests' folder. */
static void rung(struct ran *r, const char *arguments)
{
    char self[256], command[1024];
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(len > 0);
    self[len] = 0;
    for (int i = 0; i < 2; i++) *strrchr(self, '/') = 0;
    (void)snprintf(command, sizeof command, "%s/rung %s 2>&1", self, arguments);
    FILE *pipe = popen(command, "r");
    size_t n = fread(r->out, 1, sizeof r->out - 1, pipe);
    r->out[n] = 0;
    r->code = WEXITSTATUS(pclose(pipe));
}

static int log_made(void **state)
{
    if (folder_make(state) != 0) return -1;
    struct folder *f = *state;
    struct log_options options = options_of(f);
    struct decision_log *log = open_log(&options);
    for (int i = 0; i < 9; i++) {
        char request[LOG_ID];
        (void)snprintf(request, sizeof request, "req-%d", i);
        struct log_row row = row_of(request);
        row.answered = i < 6 ? TIER_EDGE : TIER_CORE;
        (void)snprintf(row.tenant, sizeof row.tenant, "a \"b\", c\n\033[2J\xff");
        struct log_hop hop = {.tier = row.answered, .outcome = "done"};
        if (log_decision(log, &row, &hop, 1) != ERR_OK) return -1;
    }
    bool flushed = log_flush(log, 20000);
    log_close(log, 1000);
    return !flushed || setenv("RUNG_LOG_PATH", f->db, 1) != 0;
}
#define ON_LOG(test) cmocka_unit_test_setup_teardown(test, log_made, folder_remove)

static void tail_shows_the_last_ones_in_order(void **state)
{
    (void)state;
    static struct ran r;
    rung(&r, "log tail -n 2");
    assert_int_equal(r.code, 0);
    assert_null(strstr(r.out, "req-6"));
    assert_true(strstr(r.out, "req-7") < strstr(r.out, "req-8"));
    rung(&r, "log tail -n 2 --json");
    json_t *rows = json_loads(r.out, 0, NULL);
    assert_int_equal(json_array_size(rows), 2);
    assert_string_equal(json_string_value(json_object_get(json_array_get(rows, 1), "request")), "req-8");
    json_decref(rows);
}

static void summary_is_one_object_of_tables(void **state)
{
    (void)state;
    static struct ran r;
    rung(&r, "log summary --since 7d --json");
    json_t *all = json_loads(r.out, 0, NULL);
    json_t *total = json_array_get(json_object_get(all, "total"), 0);
    assert_int_equal(json_integer_value(json_object_get(total, "requests")), 9);
    assert_int_equal(json_array_size(json_object_get(all, "tiers")), 2);
    json_decref(all);
    rung(&r, "log summary");
    assert_non_null(strstr(r.out, "Who answered"));
}

static void sql_reads_and_never_writes(void **state)
{
    const struct folder *f = *state;
    static struct ran r;
    rung(&r, "log sql \"SELECT tier, requests FROM tier_mix\" --json");
    assert_string_equal(r.out, "[{\"tier\": \"core\", \"requests\": 3},\n {\"tier\": \"edge\", \"requests\": 6}]\n");
    rung(&r, "log sql \"DELETE FROM decisions\"");
    assert_int_equal(r.code, 1);
    assert_non_null(strstr(r.out, "reading only"));
    char command[300];
    (void)snprintf(command, sizeof command, "log sql \"ATTACH '%s/new.db' AS x\"", f->dir);
    rung(&r, command);
    (void)snprintf(command, sizeof command, "%s/new.db", f->dir);
    assert_int_not_equal(access(command, F_OK), 0);
    assert_int_equal(ask_int(f->db, "SELECT count(*) FROM decisions"), 9);
    rung(&r, "log sql \"SELEC 1\"");
    assert_int_equal(r.code, 1);
}

static void what_came_from_outside_cannot_steer_the_terminal(void **state)
{
    (void)state;
    static struct ran r;
    rung(&r, "log sql \"SELECT tenant FROM decisions LIMIT 1\"");
    assert_string_equal(r.out, "tenant\na \"b\", c??[2J?\n");
    rung(&r, "log sql \"SELECT tenant FROM decisions LIMIT 1\" --json");
    assert_string_equal(r.out, "[{\"tenant\": \"a \\\"b\\\", c\\u000a\\u001b[2J\xef\xbf\xbd\"}]\n");
    rung(&r, "log export --format csv");
    assert_non_null(strstr(r.out, ",\"a \"\"b\"\", c\n\033[2J\xff\","));
    assert_int_equal(strncmp(r.out, "id,origin,origin_row,request,", 29), 0);
}

static void export_gives_any_table_as_lines(void **state)
{
    (void)state;
    static struct ran r;
    rung(&r, "log export --format jsonl --table hops");
    int lines = 0;
    for (char *line = strtok(r.out, "\n"); line; line = strtok(NULL, "\n"), lines++) {
        json_t *row = json_loads(line, 0, NULL);
        assert_string_equal(json_string_value(json_object_get(row, "outcome")), "done");
        json_decref(row);
    }
    assert_int_equal(lines, 9);
    rung(&r, "log export --format jsonl --table secrets");
    assert_int_equal(r.code, 2);
    assert_non_null(strstr(r.out, "hourly"));
}

static void why_tells_the_story_of_a_request(void **state)
{
    (void)state;
    static struct ran r;
    rung(&r, "why req-3");
    assert_int_equal(r.code, 0);
    assert_non_null(strstr(r.out, "a threshold above 0.9000 would have sent it past edge"));
    rung(&r, "why req-3 --json");
    json_t *all = json_loads(r.out, 0, NULL);
    json_t *node = json_array_get(json_object_get(all, "nodes"), 0);
    assert_string_equal(json_string_value(json_object_get(json_object_get(node, "decision"), "node")), "edge-1");
    assert_int_equal(json_array_size(json_object_get(node, "hops")), 1);
    json_decref(all);
    rung(&r, "why req-99");
    assert_int_equal(r.code, 1);
    assert_non_null(strstr(r.out, "req-99"));
    rung(&r, "why");
    assert_int_equal(r.code, 2);
}

static void errors_say_what_would_be_right(void **state)
{
    (void)state;
    static struct ran r;
    rung(&r, "log tail --db /nowhere/x.db");
    assert_int_equal(r.code, 1);
    assert_non_null(strstr(r.out, "/nowhere/x.db"));
    rung(&r, "log summary --since yesterday");
    assert_int_equal(r.code, 2);
    assert_non_null(strstr(r.out, "24h"));
    rung(&r, "log");
    assert_int_equal(r.code, 2);
    rung(&r, "log --help");
    assert_int_equal(r.code, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_LOG(tail_shows_the_last_ones_in_order),
        ON_LOG(summary_is_one_object_of_tables),
        ON_LOG(sql_reads_and_never_writes),
        ON_LOG(what_came_from_outside_cannot_steer_the_terminal),
        ON_LOG(export_gives_any_table_as_lines),
        ON_LOG(why_tells_the_story_of_a_request),
        ON_LOG(errors_say_what_would_be_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
