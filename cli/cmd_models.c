#include "cli/cli.h"
#include "cli/client.h"
#include "cli/client_options.h"

#include <stdio.h>
#include <string.h>

static const char HELP[] =
    "usage: rung models [--json] [OPTIONS]\n"
    "\n"
    "Lists the models that the node and those above it answer with now: tier, context in tokens, price in dollars a\n"
    "million tokens, what else they take, and what they run on where it is one of our engines.\n"
    "\n"
    "  --json              the node's /v1/models as it came\n";

static void print_row(const json_t *model)
{
    const json_t *rung = json_object_get(model, "rung");
    const char *tier = json_string_value(json_object_get(rung, "tier"));
    const char *id = json_string_value(json_object_get(model, "id"));
    const char *device = json_string_value(json_object_get(rung, "device"));
    char context[24] = "-", input[24] = "-", output[24] = "-";
    long long tokens = (long long)json_integer_value(json_object_get(rung, "context_tokens"));
    if (tokens > 0) (void)snprintf(context, sizeof context, "%lld", tokens);
    if (rung) {
        (void)snprintf(input, sizeof input, "%.4g", json_number_value(json_object_get(rung, "price_input_usd")));
        (void)snprintf(output, sizeof output, "%.4g", json_number_value(json_object_get(rung, "price_output_usd")));
    }
    char takes[24] = "";
    (void)snprintf(takes, sizeof takes, "%s%s%s", json_is_true(json_object_get(rung, "tools")) ? "tools " : "",
                   json_is_true(json_object_get(rung, "json")) ? "json " : "",
                   json_is_true(json_object_get(rung, "parts")) ? "parts" : "");
    (void)printf("%-32s %-7s %9s %9s %9s  %-16s %s\n", id ? id : "?", tier ? tier : "-", context, input, output, takes,
                 device ? device : "-");
}

static int print_models(const struct buf *body)
{
    json_t *root = json_loadb(body->data, body->len, 0, NULL);
    const json_t *data = json_object_get(root, "data");
    if (!json_is_array(data)) {
        json_decref(root);
        (void)fputs("rung models: the node's answer is no list of models\n", stderr);
        return CLI_FAILED;
    }
    (void)printf("%-32s %-7s %9s %9s %9s  %-16s %s\n", "model", "tier", "context", "input $", "output $", "takes", "device");
    for (size_t i = 0; i < json_array_size(data); i++) print_row(json_array_get(data, i));
    json_decref(root);
    return CLI_OK;
}

static int run(const struct client_options *where, bool json)
{
    struct client *client = NULL;
    struct err e = {0};
    struct buf body = BUF_INIT(4 << 20);
    int status = 0, rc = CLI_FAILED;
    enum err_code code = client_new(&client, where, &e);
    if (code == ERR_OK) code = client_request(client, "/v1/models", NULL, NULL, 0, &status, &body, &e);
    if (code == ERR_OK && status != 200) {
        char text[240];
        client_error_text(&body, status, text, sizeof text);
        code = err_set(&e, ERR_UPSTREAM, "%s", text);
    }
    if (code != ERR_OK) (void)fprintf(stderr, "rung models: %s\n", e.msg);
    else if (json) rc = printf("%s\n", body.data) < 0 ? CLI_FAILED : CLI_OK;
    else rc = print_models(&body);
    buf_release(&body);
    client_free(client);
    return rc;
}

int cmd_models(int argc, char **argv)
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
    if (words > 0) (void)fprintf(stderr, "rung models: '%s': takes no words\n", argv[1]);
    return words == 0 ? run(&where, json) : CLI_USAGE;
}
