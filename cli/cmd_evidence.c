/* rung evidence: what an edge model shows while it answers measured prompts, as rows the router's probe is fitted to. */
#include "cli/cli.h"
#include "cli/client_options.h"

#include "engine/engine.h"

#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char HELP[] =
    "usage: rung evidence -m MODEL --data FILE.jsonl -o OUT.jsonl [-n TOKENS] [-t THREADS]\n"
    "\n"
    "Lets a model answer each measured prompt (greedily) and writes the row again with what the model showed: `hidden`,\n"
    "its state after the prompt; `tokens`, how many it said; and the certainty of those tokens (`entropy_mean`,\n"
    "`entropy_max`, `margin_min`, `logprob_mean`, `varentropy_mean`). `rung router train --probe OUT.jsonl` fits the\n"
    "edge's second thought to them.\n"
    "\n"
    "  -m MODEL      the edge's GGUF file\n"
    "  --data FILE   rows as for rung router train (prompt or messages, scores); - is standard input\n"
    "  -o OUT        where the rows go\n"
    "  -n TOKENS     at most so many tokens an answer; default 64\n"
    "\n"
    "exit code: 0 done, 1 failed, 2 used wrongly\n";

enum { LINE_BYTES_MAX = 1 << 20, MESSAGES_MAX = 64 };

struct showing {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool ended;
    struct err error;
    float *hidden;
    int embedding, tokens;
    double entropy_sum, entropy_max, margin_min, logprob_sum, varentropy_sum;
};

static void on_prefill(void *ctx, uint64_t id, const struct engine_prefill *p)
{
    struct showing *s = ctx;
    (void)id;
    if (p->hidden && s->hidden && p->embedding == s->embedding)
        memcpy(s->hidden, p->hidden, (size_t)p->embedding * sizeof *s->hidden);
}

static void on_token(void *ctx, uint64_t id, const struct engine_token *t)
{
    struct showing *s = ctx;
    (void)id;
    s->tokens++;
    s->entropy_sum += (double)t->entropy;
    s->logprob_sum += (double)t->logprob;
    s->varentropy_sum += (double)t->varentropy;
    if ((double)t->entropy > s->entropy_max) s->entropy_max = (double)t->entropy;
    if ((double)t->margin < s->margin_min) s->margin_min = (double)t->margin;
}

static void end(struct showing *s)
{
    pthread_mutex_lock(&s->lock);
    s->ended = true;
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static void on_done(void *ctx, uint64_t id, const struct engine_end *what)
{
    (void)id;
    (void)what;
    end(ctx);
}

static void on_error(void *ctx, uint64_t id, const struct err *error)
{
    (void)id;
    ((struct showing *)ctx)->error = *error;
    end(ctx);
}

/* The row's conversation, or its prompt as one user message. Points into the row. */
static int messages_of(const json_t *row, struct engine_message out[MESSAGES_MAX])
{
    const json_t *list = json_object_get(row, "messages");
    const char *prompt = json_string_value(json_object_get(row, "prompt"));
    int n = 0;
    for (size_t i = 0; i < json_array_size(list) && n < MESSAGES_MAX; i++) {
        const json_t *m = json_array_get(list, i);
        const char *role = json_string_value(json_object_get(m, "role")), *content = json_string_value(json_object_get(m, "content"));
        if (role && content) out[n++] = (struct engine_message){.role = role, .content = content};
    }
    if (n == 0 && prompt) out[n++] = (struct engine_message){.role = "user", .content = prompt};
    return n;
}

static enum err_code answer(struct engine *engine, uint64_t id, const json_t *row, int max_tokens, struct showing *s, struct err *e)
{
    struct engine_message messages[MESSAGES_MAX];
    struct buf text = BUF_INIT(LINE_BYTES_MAX);
    int32_t *tokens = NULL;
    int count = 0, n = messages_of(row, messages);
    if (n == 0) return err_set(e, ERR_INVALID, "a row has neither prompt nor messages");
    enum err_code code = engine_render_chat(engine, messages, n, NULL, NULL, true, &text, e);
    if (code == ERR_OK) code = engine_tokenize(engine, text.data, text.len, ENGINE_TOKENIZE_SPECIAL, &tokens, &count, e);
    buf_release(&text);
    if (code != ERR_OK) return code;
    const struct engine_request request = {.prompt = tokens, .prompt_count = count, .max_tokens = max_tokens, .want_hidden = true,
                                           .sampling = ENGINE_SAMPLING_GREEDY};
    const struct engine_sink sink = {s, on_prefill, on_token, on_done, on_error};
    s->ended = false;
    s->error.code = ERR_OK;
    s->tokens = 0;
    s->entropy_sum = s->entropy_max = s->logprob_sum = s->varentropy_sum = 0;
    s->margin_min = 1;
    code = engine_submit(engine, id, &request, &sink, e);
    free(tokens);
    if (code != ERR_OK) return code;
    pthread_mutex_lock(&s->lock);
    while (!s->ended) pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
    if (s->error.code != ERR_OK) return err_set(e, s->error.code, "%s", s->error.msg);
    return ERR_OK;
}

static bool write_row(FILE *out, json_t *row, const struct showing *s)
{
    json_t *hidden = json_array();
    double n = s->tokens > 0 ? s->tokens : 1;
    for (int i = 0; i < s->embedding; i++) (void)json_array_append_new(hidden, json_real((double)s->hidden[i]));
    (void)json_object_set_new(row, "hidden", hidden);
    (void)json_object_set_new(row, "answer_tokens", json_integer(s->tokens));
    (void)json_object_set_new(row, "entropy_mean", json_real(s->entropy_sum / n));
    (void)json_object_set_new(row, "entropy_max", json_real(s->entropy_max));
    (void)json_object_set_new(row, "margin_min", json_real(s->margin_min));
    (void)json_object_set_new(row, "logprob_mean", json_real(s->logprob_sum / n));
    (void)json_object_set_new(row, "varentropy_mean", json_real(s->varentropy_sum / n));
    return json_dumpf(row, out, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(6)) == 0 && fputc('\n', out) != EOF;
}

static int run_rows(struct engine *engine, FILE *in, FILE *out, int max_tokens, struct showing *s)
{
    static char line[LINE_BYTES_MAX];
    struct err e = {0};
    for (uint64_t number = 1; fgets(line, sizeof line, in); number++) {
        json_t *row = json_loads(line, 0, NULL);
        enum err_code code = json_is_object(row) ? answer(engine, number, row, max_tokens, s, &e)
                                                 : err_set(&e, ERR_SYNTAX, "not a JSON object");
        bool written = code == ERR_OK && write_row(out, row, s);
        json_decref(row);
        if (written) continue;
        (void)fprintf(stderr, "rung evidence: line %llu: %s\n", (unsigned long long)number, code == ERR_OK ? strerror(errno) : e.msg);
        return CLI_FAILED;
    }
    return CLI_OK;
}

static int run(const char *model, const char *data, const char *path, int max_tokens, int threads)
{
    struct engine *engine = NULL;
    struct engine_info info;
    struct err e = {0};
    struct showing s = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    const struct engine_options options = {.path = model, .threads = threads, .slots_max = 1};
    if (engine_open(&engine, &options, &e) != ERR_OK) {
        (void)fprintf(stderr, "rung evidence: %s\n", e.msg);
        return CLI_FAILED;
    }
    engine_info(engine, &info);
    s.embedding = info.embedding;
    s.hidden = calloc((size_t)info.embedding, sizeof *s.hidden);
    FILE *in = strcmp(data, "-") == 0 ? stdin : fopen(data, "re"), *out = fopen(path, "we");
    int rc = CLI_FAILED;
    if (in && out && s.hidden) rc = run_rows(engine, in, out, max_tokens, &s);
    else (void)fprintf(stderr, "rung evidence: %s: %s\n", in ? path : data, strerror(errno));
    if (out && fclose(out) != 0 && rc == CLI_OK) {
        (void)fprintf(stderr, "rung evidence: %s: %s\n", path, strerror(errno));
        rc = CLI_FAILED;
    }
    if (in && in != stdin) (void)fclose(in);
    engine_close(engine);
    free(s.hidden);
    return rc;
}

int cmd_evidence(int argc, char **argv)
{
    const char *model = NULL, *data = NULL, *out = NULL, *tokens = NULL, *threads = NULL;
    bool help = false;
    const struct cli_option options[] = {{"-m", &model, NULL}, {"--data", &data, NULL}, {"-o", &out, NULL},
                                         {"-n", &tokens, NULL}, {"-t", &threads, NULL}, {"--help", NULL, &help}};
    int words = cli_options_read(argc, argv, options, 6);
    if (help) {
        (void)fputs(HELP, stdout);
        return CLI_OK;
    }
    long n = tokens ? strtol(tokens, NULL, 10) : 64, t = threads ? strtol(threads, NULL, 10) : 0;
    if (words < 0) return CLI_USAGE;
    if (words > 0 || !model || !data || !out || n < 1 || n > 4096 || t < 0 || t > 1024) {
        (void)fprintf(stderr, "rung evidence: wants -m MODEL --data FILE -o OUT; -n is 1 to 4096; rung evidence --help shows how\n");
        return CLI_USAGE;
    }
    return run(model, data, out, (int)n, (int)t);
}
