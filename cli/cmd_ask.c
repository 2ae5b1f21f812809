#include "cli/cli.h"
#include "cli/client.h"
#include "cli/client_options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PROMPT_MAX = 4 << 20 };

static const char HELP[] =
    "usage: rung ask [OPTIONS] \"PROMPT\"\n"
    "       rung ask [OPTIONS] < FILE                the prompt is what comes on stdin\n"
    "       rung ask [OPTIONS] \"PROMPT\" - < FILE     what comes on stdin is put after the prompt\n"
    "\n"
    "Asks the node and prints the answer as it comes. The node chooses the smallest model that will get it right.\n"
    "\n"
    "  --json              print one JSON object at the end: answer, model, usage, and the decision as `rung`\n"
    "  --why               tell on stderr where the answer came from and why\n"
    "  --model NAME        auto (default), edge, region, core, or a model that `rung models` lists\n"
    "  --max-tier TIER     go no higher than this tier\n"
    "  --private           do not let the prompt leave the device\n"
    "  --deadline-ms N     give up after this long\n"
    "  --system TEXT       a system message before the prompt\n"
    "  --max-tokens N, --temperature X, --seed N\n";

struct ask {
    struct client_options where;
    const char *model, *max_tier, *deadline_ms, *system, *max_tokens, *temperature, *seed;
    bool json, why, device_private, help;
    struct buf prompt;
};

/* ---- what was asked ---- */

static void add_stdin(struct buf *into)
{
    char block[16384];
    for (size_t n; buf_ok(into) && (n = fread(block, 1, sizeof block, stdin)) > 0;) (void)!buf_add(into, block, n);
    while (into->len && into->data[into->len - 1] == '\n') into->data[--into->len] = '\0';
}

/* The words, joined; "-" stands for stdin, which is also read when there are no words and it is not a terminal. It is
 * never read otherwise: in a script it may belong to somebody else. */
static bool read_prompt(struct ask *ask, int words, char **argv)
{
    for (int i = 0; i < words; i++) {
        if (i) (void)!buf_adds(&ask->prompt, strcmp(argv[1 + i], "-") == 0 ? "\n\n" : " ");
        if (strcmp(argv[1 + i], "-") == 0) add_stdin(&ask->prompt);
        else (void)!buf_adds(&ask->prompt, argv[1 + i]);
    }
    if (words == 0 && !isatty(0)) add_stdin(&ask->prompt);
    if (!buf_ok(&ask->prompt)) (void)fprintf(stderr, "rung ask: the prompt is longer than %d bytes\n", PROMPT_MAX);
    else if (!ask->prompt.len) (void)fputs("rung ask: no prompt, want one as a word (rung ask \"…\") or on stdin\n", stderr);
    return buf_ok(&ask->prompt) && ask->prompt.len;
}

/* A number option into the request, as JSON reads it. */
static bool put_number(json_t *request, const char *option, const char *key, const char *text)
{
    if (!text) return true;
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    if (json_is_number(value) && json_object_set_new(request, key, value) == 0) return true;
    json_decref(value);
    (void)fprintf(stderr, "rung ask: %s: got '%s', want a number\n", option, text);
    return false;
}

static json_t *make_request(const struct ask *ask)
{
    json_t *messages = json_array();
    if (ask->system) (void)json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "system", "content", ask->system));
    json_t *user = json_pack("{s:s, s:s}", "role", "user", "content", ask->prompt.data);
    if (!user || json_array_append_new(messages, user) != 0) {
        (void)fputs("rung ask: the prompt is not UTF-8 text\n", stderr);
        json_decref(messages);
        return NULL;
    }
    json_t *request = json_pack("{s:s, s:o}", "model", ask->model ? ask->model : "auto", "messages", messages);
    if (put_number(request, "--max-tokens", "max_tokens", ask->max_tokens) &&
        put_number(request, "--temperature", "temperature", ask->temperature) &&
        put_number(request, "--seed", "seed", ask->seed))
        return request;
    json_decref(request);
    return NULL;
}

static int make_headers(const struct ask *ask, const char *headers[3], char text[2][128])
{
    int count = 0;
    if (ask->device_private) headers[count++] = "x-rung-privacy: device";
    if (ask->max_tier) {
        (void)snprintf(text[0], 128, "x-rung-max-tier: %.64s", ask->max_tier);
        headers[count++] = text[0];
    }
    if (ask->deadline_ms) {
        (void)snprintf(text[1], 128, "x-rung-deadline-ms: %.64s", ask->deadline_ms);
        headers[count++] = text[1];
    }
    return count;
}

/* ---- what was answered ---- */

static void show(void *ctx, bool reasoning, const char *text)
{
    const struct ask *ask = ctx;
    if (ask->json || reasoning) return;
    (void)fputs(text, stdout);
    (void)fflush(stdout);
}

static int print_json(const struct client_answer *answer, const struct err *failed)
{
    json_t *root = json_object();
    (void)json_object_set_new(root, "answer", json_stringn(answer->text.data, answer->text.len));
    if (failed) (void)json_object_set_new(root, "error", json_string(failed->msg));
    (void)json_object_set_new(root, "model", json_string(answer->model));
    (void)json_object_set_new(root, "finish_reason", answer->finish[0] ? json_string(answer->finish) : json_null());
    if (answer->usage) (void)json_object_set(root, "usage", answer->usage);
    if (answer->rung) (void)json_object_set(root, "rung", answer->rung);
    int rc = json_dumpf(root, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    (void)fputc('\n', stdout);
    json_decref(root);
    return rc;
}

static int finish(const struct ask *ask, const struct client_answer *answer, enum err_code code, const struct err *e)
{
    char why[400];
    bool failed = code != ERR_OK;
    if (ask->json) (void)print_json(answer, failed ? e : NULL);
    else if (answer->text.len) (void)fputc('\n', stdout);
    if (fflush(stdout) != 0) failed = true;
    if (code != ERR_OK) (void)fprintf(stderr, "rung ask: %s\n", e->msg);
    if (ask->why && answer->rung) {
        client_decision_text(answer, why, sizeof why);
        (void)fprintf(stderr, "%s\n", why);
    }
    return failed ? CLI_FAILED : CLI_OK;
}

static int run(struct ask *ask, struct client *client)
{
    const char *headers[3];
    char text[2][128];
    struct client_answer answer;
    struct err e = {0};
    json_t *request = make_request(ask);
    if (!request) return CLI_USAGE;
    int count = make_headers(ask, headers, text);
    client_answer_init(&answer);
    enum err_code code = client_chat(client, request, headers, count, &answer, show, ask, &e);
    int rc = finish(ask, &answer, code, &e);
    client_answer_release(&answer);
    json_decref(request);
    return rc;
}

int cmd_ask(int argc, char **argv)
{
    struct ask ask = {0};
    const struct cli_option options[] = {
        {"--socket", &ask.where.socket, NULL},     {"--url", &ask.where.url, NULL},
        {"--key-file", &ask.where.key_file, NULL}, {"--json", NULL, &ask.json},
        {"--why", NULL, &ask.why},                 {"--model", &ask.model, NULL},
        {"--max-tier", &ask.max_tier, NULL},       {"--private", NULL, &ask.device_private},
        {"--deadline-ms", &ask.deadline_ms, NULL}, {"--system", &ask.system, NULL},
        {"--max-tokens", &ask.max_tokens, NULL},   {"--temperature", &ask.temperature, NULL},
        {"--seed", &ask.seed, NULL},               {"--help", NULL, &ask.help},
    };
    int words = cli_options_read(argc, argv, options, sizeof options / sizeof options[0]);
    if (ask.help) {
        (void)printf("%s%s", HELP, CLIENT_HELP);
        return CLI_OK;
    }
    if (words < 0) return CLI_USAGE;
    buf_init(&ask.prompt, PROMPT_MAX);
    struct client *client = NULL;
    struct err e = {0};
    int rc = CLI_USAGE;
    if (read_prompt(&ask, words, argv)) {
        if (client_new(&client, &ask.where, &e) == ERR_OK) rc = run(&ask, client);
        else (void)fprintf(stderr, "rung ask: %s\n", e.msg);
    }
    client_free(client);
    buf_release(&ask.prompt);
    return rc;
}
