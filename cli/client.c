#include "cli/client.h"

#include "base/clock.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ANSWER_MAX = 16 << 20, LINE_BYTES_MAX = 4 << 20, KEY_MAX = 4096 };

const char CLIENT_HELP[] =
    "  --socket PATH       the node's Unix socket; else RUNG_SOCKET, edge.sock here, /run/rung/edge.sock\n"
    "  --url URL           the node's address instead, such as http://127.0.0.1:8600; else RUNG_URL\n"
    "  --key-file FILE     the bearer key for --url; else RUNG_KEY holds it\n";

struct client {
    char *socket;        /* NULL: over the URL */
    char *base;          /* without a last slash or /v1 */
    char *authorization; /* or NULL */
    CURL *easy;
};

/* ---- finding the node ---- */

static const char *default_socket(void)
{
    static const char *const PLACES[] = {"edge.sock", "/run/rung/edge.sock"};
    for (size_t i = 0; i < sizeof PLACES / sizeof PLACES[0]; i++)
        if (access(PLACES[i], F_OK) == 0) return PLACES[i];
    return PLACES[0];
}

static enum err_code set_url(struct client *client, const char *url, struct err *e)
{
    if (strncmp(url, "http://", 7) != 0 && strncmp(url, "https://", 8) != 0)
        return err_set(e, ERR_INVALID, "the address '%.100s': want http://HOST:PORT or https://HOST:PORT", url);
    client->base = strdup(url);
    if (!client->base) return err_set(e, ERR_MEMORY, "out of memory");
    size_t len = strlen(client->base);
    while (len && client->base[len - 1] == '/') client->base[--len] = '\0';
    if (len > 3 && strcmp(client->base + len - 3, "/v1") == 0) client->base[len - 3] = '\0';
    return ERR_OK;
}

static enum err_code set_key(struct client *client, const char *key, struct err *e)
{
    size_t len = strcspn(key, "\r\n");
    for (size_t i = 0; i < len; i++)
        if (key[i] <= 0x20 || key[i] >= 0x7f) len = 0;
    if (!len) return err_set(e, ERR_INVALID, "the bearer key: want one word of visible ASCII");
    if (asprintf(&client->authorization, "Authorization: Bearer %.*s", (int)len, key) >= 0) return ERR_OK;
    client->authorization = NULL;
    return err_set(e, ERR_MEMORY, "out of memory");
}

static enum err_code read_key(struct client *client, const char *path, struct err *e)
{
    char key[KEY_MAX];
    const char *from_environment = getenv("RUNG_KEY");
    if (!path) return from_environment ? set_key(client, from_environment, e) : ERR_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, key, sizeof key - 1);
    enum err_code code = n < 0 ? err_set(e, ERR_IO, "%s: %s", path, strerror(errno)) : ERR_OK;
    if (fd >= 0) (void)close(fd);
    if (code != ERR_OK) return code;
    key[n] = '\0';
    return set_key(client, key, e);
}

static enum err_code find_node(struct client *client, const struct client_options *options, struct err *e)
{
    const char *socket = options->socket, *url = options->url;
    if (socket && url) return err_set(e, ERR_INVALID, "--socket and --url: want one of them");
    if (!socket && !url) socket = getenv("RUNG_SOCKET");
    if (!socket && !url) url = getenv("RUNG_URL");
    if (url) return set_url(client, url, e);
    if (!socket) socket = default_socket();
    client->socket = strdup(socket);
    client->base = strdup("http://localhost");
    return client->socket && client->base ? ERR_OK : err_set(e, ERR_MEMORY, "out of memory");
}

enum err_code client_new(struct client **out, const struct client_options *options, struct err *e)
{
    struct client *client = calloc(1, sizeof *client);
    if (!client) return err_set(e, ERR_MEMORY, "out of memory");
    enum err_code code = find_node(client, options, e);
    if (code == ERR_OK) code = read_key(client, options->key_file, e);
    if (code == ERR_OK && !(client->easy = curl_easy_init())) code = err_set(e, ERR_MEMORY, "libcurl cannot start");
    if (code == ERR_OK) *out = client;
    else client_free(client);
    return code;
}

void client_free(struct client *client)
{
    if (!client) return;
    curl_easy_cleanup(client->easy);
    if (client->authorization) explicit_bzero(client->authorization, strlen(client->authorization));
    free(client->authorization);
    free(client->socket);
    free(client->base);
    free(client);
}

const char *client_where(const struct client *client)
{
    return client->socket ? client->socket : client->base;
}

/* ---- one request ---- */

struct transfer {
    size_t (*on_bytes)(char *data, size_t size, size_t count, void *ctx);
    void *ctx;
    int status;
};

static enum err_code tell_failure(const struct client *client, CURLcode result, const char *why, struct err *e)
{
    const char *words = why[0] ? why : curl_easy_strerror(result);
    if (result == CURLE_COULDNT_CONNECT || result == CURLE_COULDNT_RESOLVE_HOST)
        return err_set(e, ERR_UNAVAILABLE,
                       "no node answers at %.100s; start one (rung edge -c FILE), or name it with --socket or --url",
                       client_where(client));
    return err_set(e, ERR_IO, "%.100s: %.120s", client_where(client), words);
}

static enum err_code perform(struct client *client, const char *path, const char *body, const char *const *headers,
                             int header_count, struct transfer *transfer, struct err *e)
{
    CURL *easy = client->easy;
    char url[2048], why[CURL_ERROR_SIZE] = "";
    struct curl_slist *list = NULL;
    long status = 0;
    curl_easy_reset(easy); /* keeps the connection */
    (void)snprintf(url, sizeof url, "%s%s", client->base, path);
    for (int i = 0; i < header_count; i++) list = curl_slist_append(list, headers[i]);
    if (client->authorization) list = curl_slist_append(list, client->authorization);
    if (body) list = curl_slist_append(list, "Content-Type: application/json");
    list = curl_slist_append(list, "Expect:");
    (void)curl_easy_setopt(easy, CURLOPT_URL, url);
    (void)curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, why);
    (void)curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    (void)curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, 5000L);
    (void)curl_easy_setopt(easy, CURLOPT_HTTPHEADER, list);
    (void)curl_easy_setopt(easy, CURLOPT_USERAGENT, "rung/" RUNG_VERSION);
    (void)curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, transfer->on_bytes);
    (void)curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer->ctx);
    if (client->socket) (void)curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, client->socket);
    if (body) (void)curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
    CURLcode result = curl_easy_perform(easy);
    (void)curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    curl_slist_free_all(list);
    transfer->status = (int)status;
    return result == CURLE_OK ? ERR_OK : tell_failure(client, result, why, e);
}

static size_t keep(char *data, size_t size, size_t count, void *ctx)
{
    return buf_add(ctx, data, size * count) == ERR_OK ? size * count : 0;
}

enum err_code client_request(struct client *client, const char *path, const char *body, const char *const *headers,
                             int header_count, int *status, struct buf *out, struct err *e)
{
    struct transfer transfer = {keep, out, 0};
    enum err_code code = perform(client, path, body, headers, header_count, &transfer, e);
    *status = transfer.status;
    if (!buf_ok(out)) return err_set(e, ERR_TOO_LARGE, "%s: the answer is longer than %zu bytes", path, out->max);
    return code;
}

/* {"error": {"message": …}} as one sentence. */
static bool error_sentence(const json_t *root, char *out, size_t size)
{
    const json_t *error = json_object_get(root, "error");
    const char *message = json_string_value(json_object_get(error, "message"));
    const char *code = json_string_value(json_object_get(error, "code"));
    if (!message) return false;
    (void)snprintf(out, size, "%s%s%s%s", message, code ? " (" : "", code ? code : "", code ? ")" : "");
    return true;
}

void client_error_text(const struct buf *body, int status, char *out, size_t size)
{
    json_t *root = json_loadb(body->data, body->len, 0, NULL);
    if (!error_sentence(root, out, size))
        (void)snprintf(out, size, "HTTP %d: %.120s", status, body->len ? body->data : "no more was said");
    json_decref(root);
}

/* ---- a streamed answer ---- */

struct stream {
    struct client *client;
    struct client_answer *answer;
    client_text_fn *on_text;
    void *ctx;
    struct buf line;   /* being read */
    struct buf other;  /* the body of an answer that is no stream */
    char error[240];
    bool done;
    int64_t start_us;
};

void client_answer_init(struct client_answer *answer)
{
    *answer = (struct client_answer){0};
    buf_init(&answer->text, ANSWER_MAX);
}

void client_answer_release(struct client_answer *answer)
{
    buf_release(&answer->text);
    json_decref(answer->rung);
    json_decref(answer->usage);
    answer->rung = answer->usage = NULL;
}

static void take_delta(struct stream *s, const json_t *delta)
{
    const char *content = json_string_value(json_object_get(delta, "content"));
    const char *reasoning = json_string_value(json_object_get(delta, "reasoning_content"));
    bool any = (content && *content) || (reasoning && *reasoning);
    if (any && s->answer->first_ms == 0) s->answer->first_ms = (double)(clock_mono_us() - s->start_us) / 1000;
    if (reasoning && *reasoning) s->on_text(s->ctx, true, reasoning);
    if (!content || !*content) return;
    buf_adds(&s->answer->text, content);
    s->on_text(s->ctx, false, content);
}

static void keep_object(json_t **place, json_t *value)
{
    if (!json_is_object(value)) return;
    json_decref(*place);
    *place = json_incref(value);
}

static void take_event(struct stream *s, const char *data)
{
    if (strcmp(data, "[DONE]") == 0) {
        s->done = true;
        return;
    }
    json_t *root = json_loads(data, 0, NULL);
    if (error_sentence(root, s->error, sizeof s->error)) {
        json_decref(root);
        return;
    }
    const json_t *choice = json_array_get(json_object_get(root, "choices"), 0);
    const char *finish = json_string_value(json_object_get(choice, "finish_reason"));
    const char *model = json_string_value(json_object_get(root, "model"));
    take_delta(s, json_object_get(choice, "delta"));
    if (finish) (void)snprintf(s->answer->finish, sizeof s->answer->finish, "%s", finish);
    if (model) (void)snprintf(s->answer->model, sizeof s->answer->model, "%s", model);
    keep_object(&s->answer->rung, json_object_get(root, "rung"));
    keep_object(&s->answer->usage, json_object_get(root, "usage"));
    json_decref(root);
}

/* A node writes each event as one `data: …` line. */
static size_t on_stream_bytes(char *data, size_t size, size_t count, void *ctx)
{
    struct stream *s = ctx;
    long status = 0;
    (void)curl_easy_getinfo(s->client->easy, CURLINFO_RESPONSE_CODE, &status);
    if (status != 200) return keep(data, size, count, &s->other);
    for (size_t i = 0; i < size * count; i++) {
        if (data[i] != '\n') {
            if (buf_addc(&s->line, data[i]) != ERR_OK) return 0;
            continue;
        }
        if (strncmp(s->line.data, "data: ", 6) == 0) take_event(s, s->line.data + 6);
        buf_clear(&s->line);
    }
    return size * count;
}

/* What went wrong, the most telling first. */
static enum err_code judge_stream(const struct stream *s, int status, enum err_code code, struct err *e)
{
    char text[240];
    if (s->error[0]) return err_set(e, ERR_UPSTREAM, "%s", s->error);
    if (!buf_ok(&s->line)) return err_set(e, ERR_TOO_LARGE, "the node sent a line of more than %zu bytes", s->line.max);
    if (code != ERR_OK) return code;
    if (status != 200) {
        client_error_text(&s->other, status, text, sizeof text);
        return err_set(e, ERR_UPSTREAM, "%s", text);
    }
    if (!s->done) return err_set(e, ERR_UPSTREAM, "the node broke off its answer");
    return ERR_OK;
}

enum err_code client_chat(struct client *client, json_t *request, const char *const *headers, int header_count,
                          struct client_answer *answer, client_text_fn *on_text, void *ctx, struct err *e)
{
    struct stream s = {.client = client, .answer = answer, .on_text = on_text, .ctx = ctx, .start_us = clock_mono_us()};
    json_t *options = json_pack("{s:b}", "include_usage", 1);
    bool set = json_object_set_new(request, "stream", json_true()) == 0 &&
               json_object_set_new(request, "stream_options", options) == 0;
    char *body = set ? json_dumps(request, JSON_COMPACT) : NULL;
    if (!body) return err_set(e, ERR_INVALID, "the request cannot be written: a text is not UTF-8, or memory is out");
    buf_init(&s.line, LINE_BYTES_MAX);
    buf_init(&s.other, 65536);
    struct transfer transfer = {on_stream_bytes, &s, 0};
    enum err_code code = perform(client, "/v1/chat/completions", body, headers, header_count, &transfer, e);
    answer->total_ms = (double)(clock_mono_us() - s.start_us) / 1000;
    code = judge_stream(&s, transfer.status, code, e);
    buf_release(&s.line);
    buf_release(&s.other);
    free(body);
    return code;
}

void client_decision_text(const struct client_answer *answer, char *out, size_t size)
{
    const json_t *rung = answer->rung;
    const char *tier = json_string_value(json_object_get(rung, "tier"));
    const char *backend = json_string_value(json_object_get(rung, "backend"));
    const char *reason = json_string_value(json_object_get(rung, "reason"));
    (void)snprintf(out, size, "%s (%s): %s%s, $%.6f, %.0f ms to the first token, %.0f ms in all", tier ? tier : "?",
                   backend ? backend : "?", reason ? reason : "?",
                   json_is_true(json_object_get(rung, "degraded")) ? ", degraded" : "",
                   json_number_value(json_object_get(rung, "price_usd")), answer->first_ms, answer->total_ms);
}
