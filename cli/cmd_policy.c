/* rung policy: what is in force, and changing it while the node runs. */
#include "cli/cli.h"
#include "cli/client_options.h"
#include "cli/policy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char HELP[] =
    "usage: rung policy [show] [OPTIONS]\n"
    "       rung policy set FIELD=VALUE …            a new version, in force at once\n"
    "       rung policy undo                         back to the version before\n"
    "       rung policy try FIELD=VALUE … --share 0.1 [--by request|conversation|tenant]\n"
    "                                                an experiment: policy B for a stable share of the traffic\n"
    "       rung policy stop | promote               end it; or end it and make B the policy\n"
    "       rung policy reload                       read the policy section of the configuration again\n"
    "\n"
    "The node checks, stores and switches; running requests keep the policy they came in under. `rung policy show` lists\n"
    "the fields; `rung tune` proposes values, `rung tune arms` judges an experiment. Through the Unix socket only.\n"
    "\n"
    "  --json              the node's answer as it is\n"
    "\n"
    "Example: rung policy set threshold_edge=0.8 explore=0.02\n"
    "\n"
    "exit code: 0 done, 1 the node refused or does not answer, 2 used wrongly\n";

static void print_title(const char *title, const json_t *policy)
{
    static const char *const BY[] = {"request", "conversation", "tenant"};
    long long version = (long long)json_integer_value(json_object_get(policy, "version"));
    json_int_t by = json_integer_value(json_object_get(policy, "arm_by"));
    double share = json_number_value(json_object_get(policy, "share"));
    if (share >= 1) (void)printf("%s: version %lld\n", title, version);
    else (void)printf("%s: version %lld, for %g of the traffic by %s\n", title, version, share, by >= 0 && by < 3 ? BY[by] : "?");
}

static void print_policy(const char *title, const json_t *policy)
{
    static const char *const TOLD[] = {"version", "arm", "share", "arm_by"}; /* by the title */
    const char *key;
    json_t *value;
    print_title(title, policy);
    json_object_foreach((json_t *)(uintptr_t)policy, key, value) {
        bool told = false;
        for (size_t i = 0; i < sizeof TOLD / sizeof TOLD[0]; i++) told |= strcmp(key, TOLD[i]) == 0;
        if (told) continue;
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
        (void)printf("  %-28s %s\n", key, text ? text : "?");
        free(text);
    }
}

static int show(const char *name, const struct buf *body, int status, bool json)
{
    char text[240];
    json_t *root = json_loadb(body->data, body->len, 0, NULL);
    if (status != 200 || !json_is_object(json_object_get(root, "policy"))) {
        client_error_text(body, status, text, sizeof text);
        (void)fprintf(stderr, "rung %s: %s\n", name, text);
        json_decref(root);
        return CLI_FAILED;
    }
    if (json) {
        (void)printf("%s\n", body->data);
    } else {
        print_policy("policy", json_object_get(root, "policy"));
        const json_t *trial = json_object_get(root, "experiment");
        if (trial) print_policy("experiment", trial);
    }
    json_decref(root);
    return CLI_OK;
}

int policy_send(const char *name, const struct client_options *where, json_t *command, bool json)
{
    struct client *client = NULL;
    struct err e = {0};
    struct buf out = BUF_INIT(1 << 20);
    int status = 0, rc = CLI_FAILED;
    static const char *const TYPE[] = {"content-type: application/json"};
    char *body = command ? json_dumps(command, JSON_COMPACT) : NULL;
    json_decref(command);
    enum err_code code = client_new(&client, where, &e);
    if (code == ERR_OK)
        code = client_request(client, body ? "/v1/rung/command" : "/v1/rung/policy", body, TYPE, body ? 1 : 0, &status, &out, &e);
    if (code == ERR_OK) rc = show(name, &out, status, json);
    else (void)fprintf(stderr, "rung %s: %s\n", name, e.msg);
    free(body);
    buf_release(&out);
    client_free(client);
    return rc;
}

/* FIELD=VALUE words into an object; a value that is no JSON is a text. */
static json_t *fields(int count, char **words)
{
    json_t *object = json_object();
    for (int i = 0; i < count; i++) {
        char *equals = strchr(words[i], '=');
        if (!equals || equals == words[i]) {
            (void)fprintf(stderr, "rung policy: '%s' should be FIELD=VALUE\n", words[i]);
            json_decref(object);
            return NULL;
        }
        json_t *value = json_loads(equals + 1, JSON_DECODE_ANY, NULL);
        *equals = 0;
        (void)json_object_set_new(object, words[i], value ? value : json_string(equals + 1));
    }
    return object;
}

static json_t *command_new(const char *action, int count, char **words, const char *share, const char *by)
{
    json_t *changes = fields(count, words), *command = json_pack("{s:s}", "action", action);
    if (!changes || !command) {
        json_decref(changes);
        json_decref(command);
        return NULL;
    }
    if (count) (void)json_object_set(command, "policy", changes);
    json_decref(changes);
    if (strcmp(action, "set") == 0) (void)json_object_set_new(command, "source", json_string("operator"));
    if (share) (void)json_object_set_new(command, "share", json_real(strtod(share, NULL)));
    if (by) (void)json_object_set_new(command, "by", json_string(by));
    return command;
}

int cmd_policy(int argc, char **argv)
{
    struct client_options where = {0};
    const char *share = NULL, *by = NULL;
    bool json = false, help = false;
    const struct cli_option options[] = {{"--socket", &where.socket, NULL}, {"--url", &where.url, NULL},
                                         {"--key-file", &where.key_file, NULL}, {"--share", &share, NULL},
                                         {"--by", &by, NULL}, {"--json", NULL, &json}, {"--help", NULL, &help}};
    static const char *const ACTIONS[] = {"set", "undo", "reload", "try", "stop", "promote"};
    int words = cli_options_read(argc, argv, options, 7);
    if (help) {
        (void)printf("%s%s", HELP, CLIENT_HELP);
        return CLI_OK;
    }
    if (words < 0) return CLI_USAGE;
    if (words == 0 || strcmp(argv[1], "show") == 0) return policy_send("policy", &where, NULL, json);
    for (size_t i = 0; i < sizeof ACTIONS / sizeof ACTIONS[0]; i++) {
        if (strcmp(argv[1], ACTIONS[i]) != 0) continue;
        bool takes = i == 0 || i == 3;
        if (takes != (words > 1)) {
            (void)fprintf(stderr, "rung policy: %s takes %s\n", argv[1], takes ? "FIELD=VALUE words" : "no words");
            return CLI_USAGE;
        }
        json_t *command = command_new(argv[1], words - 1, argv + 2, share, by);
        return command ? policy_send("policy", &where, command, json) : CLI_USAGE;
    }
    (void)fprintf(stderr, "rung policy: got '%s', want show, set, undo, try, stop, promote or reload\n", argv[1]);
    return CLI_USAGE;
}
