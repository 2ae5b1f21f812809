#include "cli/cli.h"
#include "cli/client.h"
#include "cli/client_options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum { HISTORY_BYTES_MAX = 2 << 20, TURNS_MAX = 2000 };

static const char HELP[] =
    "usage: rung chat [OPTIONS]\n"
    "\n"
    "A conversation with the node, a line a turn; answers are shown as they come, and the whole conversation goes with\n"
    "each turn. It stays on the tier that answered unless the scores move clearly.\n"
    "\n"
    "  /why     where the last answer came from and why        /new     begin a new conversation\n"
    "  /quit    end (or Ctrl-D)                                /help    these lines\n"
    "\n"
    "  --model NAME        auto (default), edge, region, core, or a model that `rung models` lists\n"
    "  --private           do not let the conversation leave the device\n"
    "  --system TEXT       a system message at its beginning\n";
static const char LINES[] = "/why  where the last answer came from    /new  begin anew    /quit  end\n";

struct chat {
    struct client_options where;
    struct client *client;
    const char *model, *system;
    bool device_private, help, tty;
    json_t *messages;
    size_t bytes;            /* of all texts in `messages` */
    char conversation[64];   /* header line */
    char why[400];
};

static void begin(struct chat *chat)
{
    unsigned char id[12] = {0};
    json_decref(chat->messages);
    chat->messages = json_array();
    chat->bytes = 0;
    chat->why[0] = '\0';
    (void)!getrandom(id, sizeof id, 0);
    int n = snprintf(chat->conversation, sizeof chat->conversation, "x-rung-conversation: ");
    for (size_t i = 0; i < sizeof id; i++) n += snprintf(chat->conversation + n, sizeof chat->conversation - (size_t)n, "%02x", id[i]);
    if (chat->system)
        (void)json_array_append_new(chat->messages, json_pack("{s:s, s:s}", "role", "system", "content", chat->system));
}

static bool add_turn(struct chat *chat, const char *role, const char *text)
{
    json_t *turn = json_pack("{s:s, s:s}", "role", role, "content", text);
    if (!turn || json_array_append_new(chat->messages, turn) != 0) return false;
    chat->bytes += strlen(text);
    return true;
}

/* The oldest question and answer go when the history has grown too long. */
static void trim(struct chat *chat)
{
    size_t first = chat->system ? 1 : 0;
    while ((chat->bytes > HISTORY_BYTES_MAX || json_array_size(chat->messages) > TURNS_MAX) &&
           json_array_size(chat->messages) > first + 2) {
        for (int i = 0; i < 2; i++) {
            chat->bytes -= json_string_length(json_object_get(json_array_get(chat->messages, first), "content"));
            (void)json_array_remove(chat->messages, first);
        }
    }
}

static void show(void *ctx, bool reasoning, const char *text)
{
    (void)ctx;
    if (reasoning) return;
    (void)fputs(text, stdout);
    (void)fflush(stdout);
}

/* One question and its answer. A turn that failed is forgotten, so that it can be asked again. */
static bool turn(struct chat *chat, const char *text)
{
    struct client_answer answer;
    struct err e = {0};
    if (!add_turn(chat, "user", text)) {
        (void)fputs("rung chat: that line is not UTF-8 text\n", stderr);
        return false;
    }
    trim(chat);
    const char *headers[2] = {chat->conversation, "x-rung-privacy: device"};
    json_t *request = json_pack("{s:s, s:O}", "model", chat->model ? chat->model : "auto", "messages", chat->messages);
    client_answer_init(&answer);
    enum err_code code = client_chat(chat->client, request, headers, chat->device_private ? 2 : 1, &answer, show, chat, &e);
    if (answer.text.len) (void)fputc('\n', stdout);
    (void)fflush(stdout);
    if (answer.rung) client_decision_text(&answer, chat->why, sizeof chat->why);
    if (code == ERR_OK) {
        (void)add_turn(chat, "assistant", answer.text.data);
    } else {
        (void)fprintf(stderr, "rung chat: %s\n", e.msg);
        (void)json_array_remove(chat->messages, json_array_size(chat->messages) - 1);
        chat->bytes -= strlen(text);
    }
    client_answer_release(&answer);
    json_decref(request);
    return code == ERR_OK;
}

/* A line that begins with "/"; returns false at the end of the chat. */
static bool command(struct chat *chat, const char *line)
{
    if (strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0) return false;
    if (strcmp(line, "/new") == 0) begin(chat);
    else if (strcmp(line, "/why") == 0) (void)printf("%s\n", chat->why[0] ? chat->why : "nothing was answered yet");
    else (void)fputs(LINES, stdout);
    return true;
}

static int talk(struct chat *chat)
{
    char *line = NULL;
    size_t cap = 0;
    bool failed = false, going = true;
    begin(chat);
    if (chat->tty) (void)fprintf(stderr, "%s", LINES);
    while (going) {
        if (chat->tty) (void)fputs("> ", stderr);
        ssize_t n = getline(&line, &cap, stdin);
        if (n < 0) break;
        while (n && strchr("\r\n", line[n - 1])) line[--n] = '\0';
        if (!n) continue;
        if (line[0] == '/') going = command(chat, line);
        else if (n > HISTORY_BYTES_MAX) (void)fprintf(stderr, "rung chat: a line of at most %d bytes\n", HISTORY_BYTES_MAX);
        else failed = !turn(chat, line);
    }
    if (chat->tty && going) (void)fputc('\n', stderr);
    free(line);
    json_decref(chat->messages);
    return failed ? CLI_FAILED : CLI_OK;
}

int cmd_chat(int argc, char **argv)
{
    struct chat chat = {0};
    const struct cli_option options[] = {
        {"--socket", &chat.where.socket, NULL},     {"--url", &chat.where.url, NULL},
        {"--key-file", &chat.where.key_file, NULL}, {"--model", &chat.model, NULL},
        {"--private", NULL, &chat.device_private},  {"--system", &chat.system, NULL},
        {"--help", NULL, &chat.help},
    };
    int words = cli_options_read(argc, argv, options, sizeof options / sizeof options[0]);
    if (chat.help) {
        (void)printf("%s%s", HELP, CLIENT_HELP);
        return CLI_OK;
    }
    if (words > 0) (void)fprintf(stderr, "rung chat: '%s': takes no words; rung ask does\n", argv[1]);
    if (words != 0) return CLI_USAGE;
    chat.tty = isatty(0) && isatty(2);
    struct err e = {0};
    if (client_new(&chat.client, &chat.where, &e) != ERR_OK) {
        (void)fprintf(stderr, "rung chat: %s\n", e.msg);
        return CLI_USAGE;
    }
    int rc = talk(&chat);
    client_free(chat.client);
    return rc;
}
