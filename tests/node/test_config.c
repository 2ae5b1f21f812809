#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/buf.h"
#include "node/config_keys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- helpers ---- */

static struct config *good(enum tier tier, const char *text)
{
    struct config *config = NULL;
    struct err e = {0};
    if (config_parse(&config, tier, "t.yaml", text, strlen(text), &e) != ERR_OK) fail_msg("%s", e.msg);
    return config;
}

/* `text` is refused and the first problem holds `says`. */
static void refused(enum tier tier, const char *text, enum err_code code, const char *says)
{
    struct config *config = NULL;
    struct err e = {0};
    assert_int_equal(config_parse(&config, tier, "t.yaml", text, strlen(text), &e), code);
    assert_null(config);
    if (!strstr(e.msg, says)) fail_msg("got '%s', want '%s' in it", e.msg, says);
}

__attribute__((noinline)) static char *printed(void (*print)(FILE *out, void *arg), void *arg)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    assert_non_null(out);
    print(out, arg);
    assert_int_equal(fclose(out), 0);
    return text;
}

static char *file_text(const char *path)
{
    FILE *in = fopen(path, "r");
    if (!in) fail_msg("%s cannot be opened", path);
    char *text = calloc(1, 1 << 20);
    assert_non_null(text);
    (void)!fread(text, 1, (1 << 20) - 1, in);
    (void)fclose(in);
    return text;
}

/* ---- defaults and sources ---- */

static void defaults_are_those_of_the_tier(void **state)
{
    (void)state;
    struct err e = {0};
    struct config *edge = NULL, *core = NULL;
    assert_int_equal(config_default(&edge, TIER_EDGE, &e), ERR_OK);
    assert_int_equal(config_default(&core, TIER_CORE, &e), ERR_OK);
    assert_string_equal(edge->http.unix_path, "edge.sock");
    assert_string_equal(core->log_path, "core.db");
    assert_true(edge->log_ship);
    assert_false(core->log_ship);
    assert_int_equal(edge->http.unix_mode, 0660);
    assert_int_equal(edge->http.body_bytes_max, 4 << 20);
    assert_true(edge->http.tcp_auth);
    assert_null(edge->http.tcp_listen);
    assert_memory_equal(edge->node, "edge-", 5);
    struct policy policy;
    policy_defaults(&policy);
    assert_true(edge->policy.threshold[TIER_EDGE] == policy.threshold[TIER_EDGE]);
    config_free(edge);
    config_free(core);
}

static void a_file_sets_values_of_every_type(void **state)
{
    (void)state;
    struct config *c = good(TIER_EDGE, "node: {id: kitchen, drain_ms: 50, log_level: debug}\n"
                                       "http:\n"
                                       "  unix:\n"
                                       "    mode: 0600\n"
                                       "    uids: [root, '1000']\n"
                                       "  tcp: {listen: '127.0.0.1:0', auth: none}\n"
                                       "policy:\n"
                                       "  threshold: {edge: 0.5}\n"
                                       "  probe: no\n"
                                       "  price: {core: {output_usd: 2.5e-1}}\n"
                                       "log: {path: ''}\n"
                                       "worker:\n"); /* a section with nothing in it */
    assert_string_equal(c->node, "kitchen");
    assert_int_equal(c->drain_ms, 50);
    assert_string_equal(c->log_level, "debug");
    assert_int_equal(c->http.unix_mode, 0600);
    assert_int_equal(c->http.uids.count, 2);
    assert_string_equal(c->http.uids.items[1], "1000");
    assert_false(c->http.tcp_auth);
    assert_true(c->policy.threshold[TIER_EDGE] == 0.5);
    assert_false(c->policy.probe);
    assert_true(c->policy.price[TIER_CORE].output_usd == 0.25);
    assert_null(c->log_path);
    config_free(c);
}

static void a_backend_has_the_defaults_of_its_type(void **state)
{
    (void)state;
    struct config *c = good(TIER_EDGE, "zmq: {plain_loopback: true}\n"
                                       "backends:\n"
                                       "  - {name: small, type: local, model_file: m.gguf}\n"
                                       "  - {name: up, type: peer, connect: 'tcp://127.0.0.1:7100'}\n"
                                       "  - name: big\n"
                                       "    url: http://127.0.0.1:8000/v1\n"
                                       "    price: {input_usd: 1, output_usd: 2}\n"
                                       "    order: 0\n"
                                       "    model: m\n"
                                       "    type: upstream\n" /* last: its defaults must not undo the rest */
                                       "    tier: core\n");
    assert_int_equal(c->backend_count, 3);
    assert_int_equal(c->backends[0].slots, 0); /* what suits the device */
    assert_int_equal(c->backends[0].tier, TIER_EDGE);
    assert_false(c->backends[0].has_price);
    assert_int_equal(c->backends[1].tier, TIER_REGION);
    assert_int_equal(c->backends[1].order, 1);
    const struct config_backend *big = &c->backends[2];
    assert_int_equal(big->type, CONFIG_UPSTREAM);
    assert_int_equal(big->slots, 32);
    assert_int_equal(big->tier, TIER_CORE);
    assert_int_equal(big->order, 0);
    assert_true(big->can_tools && !big->can_prefix && big->has_price);
    assert_true(big->price.reasoning_usd == 2);
    assert_int_equal(big->first_token_ms, 30000);
    config_free(c);
}

static void relative_paths_of_state_go_to_the_state_dir(void **state)
{
    (void)state;
    struct config *c = good(TIER_EDGE, "node: {state_dir: /var/lib/rung, pid_file: /run/rung.pid}\n");
    assert_string_equal(c->http.unix_path, "/var/lib/rung/edge.sock");
    assert_string_equal(c->pid_file, "/run/rung.pid");
    config_free(c);
}

static void a_flag_beats_the_environment_and_that_beats_the_file(void **state)
{
    (void)state;
    char path[] = "/tmp/rung-test-config-XXXXXX";
    int fd = mkstemp(path);
    static const char TEXT[] = "log: {keep_days: 1, path: file.db}\nnode: {id: file}\n"
                               "backends: [{name: a.b, type: local, model_file: x}]\n";
    assert_int_equal(write(fd, TEXT, sizeof TEXT - 1), sizeof TEXT - 1);
    (void)close(fd);
    assert_int_equal(setenv("RUNG_LOG_PATH", "env.db", 1), 0);
    assert_int_equal(setenv("RUNG_NODE_ID", "env", 1), 0);
    const char *flags[] = {"node.id=flag", "http.unix.uids=1,2,3", "backends.a.b.model_file=y", "backends.0.slots=7"};
    struct config *c = NULL;
    struct err e = {0};
    assert_int_equal(config_load(&c, TIER_EDGE, path, flags, 4, &e), ERR_OK);
    assert_int_equal(c->log_keep_days, 1);
    assert_string_equal(c->log_path, "env.db");
    assert_string_equal(c->node, "flag");
    assert_int_equal(c->http.uids.count, 3);
    assert_string_equal(c->backends[0].model_file, "y");
    assert_int_equal(c->backends[0].slots, 7);
    config_free(c);
    c = NULL;
    assert_int_equal(setenv("RUNG_LOG_PATH", "", 1), 0);
    assert_int_equal(setenv("RUNG_LOG_KEEP_DAYS", "many", 1), 0);
    assert_int_equal(config_load(&c, TIER_EDGE, path, NULL, 0, &e), ERR_INVALID);
    assert_non_null(strstr(e.msg, "RUNG_LOG_KEEP_DAYS: got \"many\", want a whole number from 1"));
    assert_int_equal(unsetenv("RUNG_LOG_PATH") | unsetenv("RUNG_NODE_ID") | unsetenv("RUNG_LOG_KEEP_DAYS"), 0);
    const char *wrong[] = {"lgo.path=x"};
    assert_int_equal(config_load(&c, TIER_EDGE, path, wrong, 1, &e), ERR_INVALID);
    assert_non_null(strstr(e.msg, "did you mean log.path?"));
    (void)unlink(path);
}

/* ---- errors ---- */

static void an_unknown_key_is_named_with_its_line_and_the_nearest_one(void **state)
{
    (void)state;
    refused(TIER_EDGE, "http:\n  unix:\n    pth: x\n", ERR_INVALID,
            "t.yaml:3: http.unix.pth: no such key; did you mean http.unix.path?");
    refused(TIER_EDGE, "htp:\n  unix: {path: x}\n", ERR_INVALID, "t.yaml:1: htp: no such key; did you mean http?");
    refused(TIER_EDGE, "listen: x\n", ERR_INVALID, "did you mean http.tcp.listen?");
    refused(TIER_EDGE, "quetzalcoatl: x\n", ERR_INVALID, "`rung config` lists them all");
    refused(TIER_EDGE, "backends:\n- name: a\n  type: local\n  model_fil: x\n", ERR_INVALID,
            "t.yaml:4: backends.0.model_fil: no such key; did you mean backends.0.model_file?");
}

static void a_secret_written_inline_is_refused_and_not_shown(void **state)
{
    (void)state;
    struct config *config = NULL;
    struct err e = {0};
    static const char TEXT[] = "backends:\n- {name: a, type: upstream, url: 'http://h/v1', model: m, api_key: sk-hush}\n";
    assert_int_equal(config_parse(&config, TIER_CORE, "t.yaml", TEXT, sizeof TEXT - 1, &e), ERR_INVALID);
    assert_non_null(strstr(e.msg, "key_file or key_env"));
    assert_null(strstr(e.msg, "hush"));
    refused(TIER_CORE, "backends:\n- {name: a, type: upstream, url: 'http://u:pw@h/v1', model: m}\n", ERR_INVALID,
            "holds a user or password");
}

static void a_wrong_value_says_what_it_wants(void **state)
{
    (void)state;
    refused(TIER_EDGE, "node:\n  drain_ms: 5s\n", ERR_INVALID,
            "t.yaml:2: node.drain_ms: got \"5s\", want a whole number from 0 to 3600000 ms");
    refused(TIER_EDGE, "node: {drain_ms: 99999999999999999999}\n", ERR_INVALID, "want a whole number");
    refused(TIER_EDGE, "policy: {threshold: {edge: 1.01}}\n", ERR_INVALID, "want a number from 0 to 1");
    refused(TIER_EDGE, "policy: {threshold: {edge: nan}}\n", ERR_INVALID, "want a number from 0 to 1");
    refused(TIER_EDGE, "policy: {explore: }\n", ERR_INVALID, "got nothing, want a number from 0 to 0.2");
    refused(TIER_EDGE, "http: {unix: {mode: 0888}}\n", ERR_INVALID, "a file mode in octal");
    refused(TIER_EDGE, "http: {tcp: {auth: basic}}\n", ERR_INVALID, "want one of none|bearer");
    refused(TIER_EDGE, "node: {log_level: loud}\n", ERR_INVALID, "want one of debug|info|warn|error");
    refused(TIER_EDGE, "log: {ship: maybe}\n", ERR_INVALID, "want true or false");
    refused(TIER_EDGE, "log: 5\n", ERR_INVALID, "want a mapping of keys");
    refused(TIER_EDGE, "http: {origins: x}\n", ERR_INVALID, "want a list of at most 64");
    refused(TIER_EDGE, "log: {path: [a]}\n", ERR_INVALID, "want a single value");
}

static void yaml_beyond_plain_values_is_refused(void **state)
{
    (void)state;
    refused(TIER_EDGE, "log: &a {path: x}\n", ERR_SYNTAX, "t.yaml:1:6: anchors");
    refused(TIER_EDGE, "log: *a\n", ERR_SYNTAX, "aliases");
    refused(TIER_EDGE, "log: !!str x\n", ERR_SYNTAX, "tags");
    refused(TIER_EDGE, "log: {path: x}\n---\nlog: {path: y}\n", ERR_SYNTAX, "second document");
    refused(TIER_EDGE, "log:\n  path: x\n  path: y\n", ERR_SYNTAX, "t.yaml:3: log.path: given twice, first on line 2");
    refused(TIER_EDGE, "log: {path: x}\nlog: {ship: no}\n", ERR_SYNTAX, "log: given twice");
    refused(TIER_EDGE, "- a\n", ERR_SYNTAX, "got a list");
    refused(TIER_EDGE, "just text\n", ERR_SYNTAX, "got a single value");
    refused(TIER_EDGE, "log: {path: x\n", ERR_SYNTAX, "not YAML");
    refused(TIER_EDGE, "a: {a: {a: {a: {a: {a: {a: {a: {a: {}}}}}}}}}\n", ERR_SYNTAX, "nested deeper");
    refused(TIER_EDGE, "log: {'pa th': x}\n", ERR_SYNTAX, "a key is a word");
    refused(TIER_EDGE, "log: {path: \"a\\0b\"}\n", ERR_SYNTAX, "NUL");
    refused(TIER_EDGE, "log: {path: \xff}\n", ERR_SYNTAX, "UTF-8");
    config_free(good(TIER_EDGE, "")); /* an empty file is one with only defaults */
}

static void keys_that_need_each_other_are_checked_together(void **state)
{
    (void)state;
    refused(TIER_EDGE, "http:\n  tcp:\n    listen: 127.0.0.1:8600\n", ERR_INVALID, "t.yaml:3: http.tcp.keys_file: missing");
    refused(TIER_EDGE, "http: {tcp: {listen: here, auth: none}}\n", ERR_INVALID, "want HOST:PORT");
    refused(TIER_REGION, "zmq: {listen: 'tcp://0.0.0.0:7100'}\n", ERR_INVALID, "needs zmq.keys_file");
    refused(TIER_REGION, "zmq: {listen: 'udp://x:1'}\n", ERR_INVALID, "want tcp://HOST:PORT, or ipc://PATH");
    refused(TIER_REGION, "zmq: {listen: 'tcp://0.0.0.0:7100', plain_loopback: true}\n", ERR_INVALID, "encrypted");
    config_free(good(TIER_REGION, "zmq: {listen: 'tcp://127.0.0.1:7100', plain_loopback: true}\n"));
    config_free(good(TIER_REGION, "zmq: {listen: 'ipc:///run/x'}\n"));
    refused(TIER_EDGE, "backends: [{name: a, type: peer, connect: 'tcp://far:7100'}]\n", ERR_INVALID, "server_key");
    refused(TIER_EDGE, "backends: [{name: a, type: local}]\n", ERR_INVALID, "backends.0.model_file: missing");
    refused(TIER_EDGE, "backends: [{name: a, model_file: x}]\n", ERR_INVALID, "backends.0.type: missing");
    refused(TIER_EDGE, "backends: [{name: a, type: local, model_file: x, url: y}]\n", ERR_INVALID,
            "backends.0.url: not a key of type local");
    refused(TIER_EDGE, "backends: [{name: a, type: scripted}, {name: a, type: scripted}]\n", ERR_INVALID,
            "is backends.0's already");
    refused(TIER_EDGE, "backends: [{name: a, type: upstream, model: m, url: 'ftp://x/v1'}]\n", ERR_INVALID,
            "want http://HOST:PORT/v1");
    refused(TIER_EDGE, "backends: [{name: a, type: upstream, model: m, url: 'http://x', key_file: f, key_env: E}]\n",
            ERR_INVALID, "want one of them");
    refused(TIER_EDGE, "backends: {name: a}\n", ERR_INVALID, "lines that begin with `- name:`");
}

static void more_backends_than_there_may_be_are_told_once(void **state)
{
    (void)state;
    struct buf text = BUF_INIT(4096);
    (void)buf_adds(&text, "backends:\n");
    for (int i = 0; i < CONFIG_BACKENDS_MAX + 3; i++) (void)buf_addf(&text, "- {name: n%d, type: scripted}\n", i);
    refused(TIER_EDGE, text.data, ERR_INVALID, "t.yaml:34: backends: got more than 32");
    buf_release(&text);
}

static void check_tells_every_problem(void **state)
{
    (void)state;
    char path[] = "/tmp/rung-test-config-XXXXXX";
    int fd = mkstemp(path);
    static const char TEXT[] = "nod: {}\nlog: {ship: 5}\nhttp: {tcp: {listen: x}}\n";
    assert_int_equal(write(fd, TEXT, sizeof TEXT - 1), sizeof TEXT - 1);
    (void)close(fd);
    char *told = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&told, &len);
    struct config *c = NULL;
    struct err e = {0};
    assert_int_equal(config_check(&c, TIER_EDGE, path, NULL, 0, out, &e), ERR_INVALID);
    (void)fclose(out);
    int lines = 0;
    for (const char *p = told; *p; p++) lines += *p == '\n';
    assert_int_equal(lines, 4);
    assert_non_null(strstr(told, ":2: log.ship: got \"5\""));
    free(told);
    (void)unlink(path);
}

static void a_file_that_is_not_one_is_an_io_error(void **state)
{
    (void)state;
    struct config *c = NULL;
    struct err e = {0};
    assert_int_equal(config_load(&c, TIER_EDGE, "/nowhere/edge.yaml", NULL, 0, &e), ERR_IO);
    assert_int_equal(config_load(&c, TIER_EDGE, "/tmp", NULL, 0, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "not a plain file"));
}

/* ---- the table itself ---- */

static void every_row_is_sound(void **state)
{
    (void)state;
    for (int i = 0; i < CONFIG_KEYS_COUNT; i++) {
        const struct config_key *key = &CONFIG_KEYS[i];
        size_t len = strlen(key->help);
        assert_true(len > 10 && key->help[len - 1] == '.');
        assert_true(key->concerns != 0);
        bool in_section = false;
        for (int s = 0; s < CONFIG_SECTIONS_COUNT; s++)
            in_section = in_section || strncmp(key->name, CONFIG_SECTIONS[s].name, strlen(CONFIG_SECTIONS[s].name)) == 0;
        assert_true(in_section);
        for (int j = 0; j < i; j++) {
            assert_string_not_equal(key->name, CONFIG_KEYS[j].name);
            assert_int_not_equal(key->offset, CONFIG_KEYS[j].offset);
            char a[96], b[96]; /* '.' and '_' become one in the environment */
            (void)snprintf(a, sizeof a, "%s", key->name);
            (void)snprintf(b, sizeof b, "%s", CONFIG_KEYS[j].name);
            for (char *p = a; *p; p++) *p = *p == '.' ? '_' : *p;
            for (char *p = b; *p; p++) *p = *p == '.' ? '_' : *p;
            assert_string_not_equal(a, b);
        }
    }
    for (int i = 0; i < CONFIG_BACKEND_KEYS_COUNT; i++)
        for (int j = 0; j < i; j++)
            assert_int_not_equal(CONFIG_BACKEND_KEYS[i].offset, CONFIG_BACKEND_KEYS[j].offset);
}

static void print_reference(FILE *out, void *arg)
{
    config_print_reference(out, *(enum tier *)arg);
}

static void print_effective(FILE *out, void *arg)
{
    config_print_effective(out, arg);
}

static void print_markdown(FILE *out, void *arg)
{
    (void)arg;
    config_print_markdown(out);
}

static void the_reference_loads_as_the_defaults(void **state)
{
    (void)state;
    for (int t = 0; t < TIERS; t++) {
        enum tier tier = (enum tier)t;
        char *text = printed(print_reference, &tier);
        struct config *from_file = good(tier, text), *from_default = NULL;
        struct err e = {0};
        assert_int_equal(config_default(&from_default, tier, &e), ERR_OK);
        char *a = printed(print_effective, from_file), *b = printed(print_effective, from_default);
        assert_string_equal(a, b);
        free(a), free(b), free(text);
        config_free(from_file);
        config_free(from_default);
    }
}

static void the_examples_of_backends_load_when_uncommented(void **state)
{
    (void)state;
    enum tier tier = TIER_EDGE;
    char *text = printed(print_reference, &tier);
    const char *line = strstr(text, "# backends:\n");
    struct buf out = BUF_INIT(1 << 20);
    (void)buf_adds(&out, "zmq: {keys_file: x}\n");
    for (size_t len; line && *line == '#'; line += len + 1) {
        len = strcspn(line, "\n");
        if (len > 2) (void)buf_add(&out, line + 2, len - 2);
        (void)buf_addc(&out, '\n');
    }
    struct config *c = good(TIER_EDGE, out.data);
    assert_int_equal(c->backend_count, 3);
    assert_string_equal(c->backends[2].key_file, "/etc/rung/big.key");
    config_free(c);
    free(text);
    buf_release(&out);
}

static void what_is_printed_as_effective_loads_as_the_same(void **state)
{
    (void)state;
    static const char TEXT[] = "node: {id: \"ta\\\"b\\\\c: #d\", state_dir: var}\nhttp: {unix: {uids: [a, 'b c']}}\n"
                               "policy: {ood_limit: 0.123456789012345, price: {core: {input_usd: 1e-5}}}\n"
                               "backends:\n- {name: a, type: scripted, script_text: \"x\\ny\", price: {input_usd: 3}}\n"
                               "- {name: b, type: local, model_file: 'null', tier: core}\n";
    struct config *one = good(TIER_EDGE, TEXT);
    char *first = printed(print_effective, one);
    struct config *two = good(TIER_EDGE, first);
    char *second = printed(print_effective, two);
    assert_string_equal(first, second);
    assert_string_equal(two->node, "ta\"b\\c: #d");
    assert_string_equal(two->http.unix_path, "var/edge.sock");
    assert_string_equal(two->backends[0].script_text, "x\ny");
    assert_string_equal(two->backends[1].model_file, "null");
    free(first), free(second);
    config_free(one);
    config_free(two);
}

static void the_files_in_configs_are_what_the_table_prints(void **state)
{
    (void)state;
    for (int t = 0; t < TIERS; t++) {
        enum tier tier = (enum tier)t;
        char path[512];
        (void)snprintf(path, sizeof path, "%s/configs/%s.yaml", SOURCE_DIR, tier_name(tier));
        char *want = printed(print_reference, &tier), *got = file_text(path);
        if (strcmp(want, got) != 0)
            fail_msg("configs/%s.yaml is not what the table prints: rung config --tier %s > configs/%s.yaml",
                     tier_name(tier), tier_name(tier), tier_name(tier));
        free(want), free(got);
    }
}

static void the_documentation_holds_the_table(void **state)
{
    (void)state;
    char *want = printed(print_markdown, NULL), *got = file_text(SOURCE_DIR "/docs/configuration.md");
    if (!strstr(got, want))
        fail_msg("docs/configuration.md is not up to date: its part after the marker is `rung config --markdown`");
    free(want), free(got);
}

static void the_demo_configurations_load(void **state)
{
    (void)state;
    static const struct {
        const char *file;
        enum tier tier;
    } DEMO[] = {{"demo-edge", TIER_EDGE}, {"demo-region", TIER_REGION}, {"demo-core", TIER_CORE}, {"demo-worker", TIER_REGION}};
    for (size_t i = 0; i < sizeof DEMO / sizeof DEMO[0]; i++) {
        char path[512];
        (void)snprintf(path, sizeof path, "%s/configs/%s.yaml", SOURCE_DIR, DEMO[i].file);
        struct config *c = NULL;
        struct err e = {0};
        if (config_load(&c, DEMO[i].tier, path, NULL, 0, &e) != ERR_OK) fail_msg("%s", e.msg);
        assert_true(c->backend_count > 0);
        config_free(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_those_of_the_tier),
        cmocka_unit_test(a_file_sets_values_of_every_type),
        cmocka_unit_test(a_backend_has_the_defaults_of_its_type),
        cmocka_unit_test(relative_paths_of_state_go_to_the_state_dir),
        cmocka_unit_test(a_flag_beats_the_environment_and_that_beats_the_file),
        cmocka_unit_test(an_unknown_key_is_named_with_its_line_and_the_nearest_one),
        cmocka_unit_test(a_secret_written_inline_is_refused_and_not_shown),
        cmocka_unit_test(a_wrong_value_says_what_it_wants),
        cmocka_unit_test(yaml_beyond_plain_values_is_refused),
        cmocka_unit_test(keys_that_need_each_other_are_checked_together),
        cmocka_unit_test(more_backends_than_there_may_be_are_told_once),
        cmocka_unit_test(check_tells_every_problem),
        cmocka_unit_test(a_file_that_is_not_one_is_an_io_error),
        cmocka_unit_test(every_row_is_sound),
        cmocka_unit_test(the_reference_loads_as_the_defaults),
        cmocka_unit_test(the_examples_of_backends_load_when_uncommented),
        cmocka_unit_test(what_is_printed_as_effective_loads_as_the_same),
        cmocka_unit_test(the_files_in_configs_are_what_the_table_prints),
        cmocka_unit_test(the_documentation_holds_the_table),
        cmocka_unit_test(the_demo_configurations_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
