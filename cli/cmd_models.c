#include "cli/cli.h"
#include "cli/client.h"
#include "cli/client_options.h"
#include "engine/gguf.h"
#include "engine/model_identity.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char HELP[] =
    "usage: rung models [--json] [OPTIONS]\n"
    "       rung models --verify FILE …\n"
    "\n"
    "Lists the models that the node and those above it answer with now: tier, context in tokens, price in dollars a\n"
    "million tokens, what else they take, and what they run on where it is one of our engines.\n"
    "\n"
    "With --verify: reads model files whole and prints the SHA-256 of each, as sha256sum does, and on stderr its identity, which\n"
    "nodes compare and which looks at samples only. Where FILE.sha256 is there the two must agree. To keep one:\n"
    "rung models --verify my.gguf > my.gguf.sha256. Exit code 1: damaged, or not a model.\n"
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

/* ---- files ---- */

enum { SHA256_DIGITS = 2 * crypto_hash_sha256_BYTES, PIECE = 1 << 20 };

static enum err_code hash_file(const char *path, char out[SHA256_DIGITS + 1], struct err *e)
{
    unsigned char hash[crypto_hash_sha256_BYTES];
    crypto_hash_sha256_state state;
    FILE *file = fopen(path, "re");
    unsigned char *piece = malloc(PIECE);
    enum err_code code = ERR_OK;
    if (!file) code = err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    else if (!piece) code = err_set(e, ERR_MEMORY, "no memory to read %s", path);
    (void)crypto_hash_sha256_init(&state);
    for (size_t n; code == ERR_OK && (n = fread(piece, 1, PIECE, file)) > 0;) (void)crypto_hash_sha256_update(&state, piece, n);
    if (code == ERR_OK && ferror(file)) code = err_set(e, ERR_IO, "%s: reading failed", path);
    (void)crypto_hash_sha256_final(&state, hash);
    (void)sodium_bin2hex(out, SHA256_DIGITS + 1, hash, sizeof hash);
    if (file) (void)fclose(file);
    free(piece);
    return code;
}

/* FILE.sha256 begins with the digits that were kept. No such file: nothing to compare with. */
static enum err_code compare_kept(const char *path, const char *digits, struct err *e)
{
    char name[4096], kept[SHA256_DIGITS + 1] = "";
    if (snprintf(name, sizeof name, "%s.sha256", path) >= (int)sizeof name) return err_set(e, ERR_INVALID, "%.60s…: too long a path", path);
    FILE *file = fopen(name, "re");
    if (!file) return ERR_OK;
    size_t n = fread(kept, 1, SHA256_DIGITS, file);
    (void)fclose(file);
    if (n == 0) return ERR_OK; /* it is being written: rung models --verify FILE > FILE.sha256 */
    if (strcmp(kept, digits) == 0) return ERR_OK;
    return err_set(e, ERR_CORRUPT, "%s is damaged, or another model: its SHA-256 is not the one in %s", path, name);
}

static enum err_code verify(const char *path, struct err *e)
{
    char digits[SHA256_DIGITS + 1], identity[65];
    struct gguf *gguf = NULL;
    enum err_code code = gguf_open(&gguf, path, e);
    if (code != ERR_OK) return code;
    model_identity(gguf, identity);
    gguf_close(gguf);
    code = hash_file(path, digits, e);
    if (code == ERR_OK) code = compare_kept(path, digits, e);
    if (code != ERR_OK) return code;
    (void)printf("%s  %s\n", digits, path);
    (void)fprintf(stderr, "%s: identity %s\n", path, identity);
    return ERR_OK;
}

static int verify_all(int count, char **paths)
{
    int rc = count > 0 ? CLI_OK : CLI_USAGE;
    if (count == 0) (void)fputs("rung models: --verify wants the files to read\n", stderr);
    for (int i = 0; i < count; i++) {
        struct err e = {0};
        if (verify(paths[i], &e) == ERR_OK) continue;
        (void)fprintf(stderr, "rung models: %s\n", e.msg);
        rc = CLI_FAILED;
    }
    return rc;
}

int cmd_models(int argc, char **argv)
{
    struct client_options where = {0};
    bool json = false, files = false, help = false;
    const struct cli_option options[] = {{"--socket", &where.socket, NULL}, {"--url", &where.url, NULL},
                                         {"--key-file", &where.key_file, NULL}, {"--json", NULL, &json},
                                         {"--verify", NULL, &files}, {"--help", NULL, &help}};
    int words = cli_options_read(argc, argv, options, 6);
    if (help) {
        (void)printf("%s%s", HELP, CLIENT_HELP);
        return CLI_OK;
    }
    if (files && words >= 0) return verify_all(words, argv + 1);
    if (words > 0) (void)fprintf(stderr, "rung models: '%s': files are read with --verify; else no words are taken\n", argv[1]);
    return words == 0 ? run(&where, json) : CLI_USAGE;
}
