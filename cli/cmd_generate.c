#include "cli/cli.h"

#include "engine/engine.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char HELP[] =
    "usage: rung generate -m FILE -p TEXT [OPTIONS]\n"
    "\n"
    "Answers one prompt with a GGUF model and prints the text as it comes.\n"
    "\n"
    "  -m FILE            the model (the first part of a split one)\n"
    "  -p TEXT            the prompt; - reads it from standard input\n"
    "  -n N               at most N tokens; default 256, 0 as many as the context holds\n"
    "  --raw              the prompt as it stands, without the model's chat template\n"
    "  --system TEXT      a system message before the prompt\n"
    "  --temp T           temperature; default 0: always the likeliest token\n"
    "  --top-k N, --top-p P, --min-p P, --typical P, --repeat-penalty X    narrow the choice; default off\n"
    "  --seed N           the same seed gives the same text; default 0\n"
    "  --stop TEXT        end before this text; may be given 16 times\n"
    "  --ignore-eos       go on after the model's end\n"
    "  --no-draft         no guessing of tokens from what stands in the text already: slower where it repeats, never other text\n"
    "  --draft FILE       a smaller model with the same tokens that guesses ahead, where it pays: never other text\n"
    "  --draft-kernels NAME  where it runs; default: as --kernels\n"
    "  --draft-always     it guesses whether it pays or not\n"
    "  --json             one JSON object with the text, its tokens' certainty and timings\n"
    "  -t N, -c N         threads (default: the physical cores), context in tokens\n"
    "  --kernels NAME     auto (default: a GPU where there is one that the model fits, else the CPU), cpu, cuda, cuda:N, or a\n"
    "                     CPU's: scalar, avx2, avx512, neon\n"
    "\n"
    "Example: rung generate -m model.gguf -p 'Name three rivers.' -n 40\n";

struct options {
    struct engine_options engine;
    struct engine_sampling sampling;
    const char *prompt, *system, *stop[16];
    int max_tokens, stops;
    bool raw, json, ignore_eos;
};

/* What the scheduler's thread hands over; the main thread waits for `ended`. */
struct answer {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool ended, json;
    struct err error;
    struct buf text, tokens; /* tokens: the JSON array's items */
    struct engine_end end;
    struct engine_prefill prefill;
    struct engine_stats stats;
    char device[128];
};

static void on_prefill(void *ctx, uint64_t id, const struct engine_prefill *p)
{
    struct answer *a = ctx;
    (void)id;
    a->prefill = *p;
}

static void show(struct answer *a, const char *text, size_t len)
{
    (void)buf_add(&a->text, text, len);
    if (a->json || len == 0) return;
    (void)fwrite(text, 1, len, stdout);
    (void)fflush(stdout);
}

static void on_token(void *ctx, uint64_t id, const struct engine_token *t)
{
    struct answer *a = ctx;
    (void)id;
    show(a, t->text, t->text_len);
    if (a->json)
        (void)buf_addf(&a->tokens, "%s{\"id\":%d,\"logprob\":%.6g,\"entropy\":%.6g,\"margin\":%.6g,\"varentropy\":%.6g}",
                       t->index ? "," : "", t->id, (double)fmaxf(t->logprob, -1e30f), (double)t->entropy, (double)t->margin,
                       (double)t->varentropy);
}

static void ended(struct answer *a)
{
    (void)pthread_mutex_lock(&a->lock);
    a->ended = true;
    (void)pthread_cond_signal(&a->changed);
    (void)pthread_mutex_unlock(&a->lock);
}

static void on_done(void *ctx, uint64_t id, const struct engine_end *end)
{
    struct answer *a = ctx;
    (void)id;
    show(a, end->text, end->text_len);
    a->end = *end;
    ended(a);
}

static void on_error(void *ctx, uint64_t id, const struct err *error)
{
    struct answer *a = ctx;
    (void)id;
    a->error = *error;
    ended(a);
}

static void print_json_string(const char *text, size_t len)
{
    (void)putchar('"');
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\') (void)printf("\\%c", c);
        else if (c < 0x20) (void)printf("\\u%04x", c);
        else (void)putchar(c);
    }
    (void)putchar('"');
}

static void print_json(const struct answer *a)
{
    static const char *const FINISH[] = {"stop", "length", "cancelled"};
    (void)fputs("{\"text\":", stdout);
    print_json_string(a->text.data, a->text.len);
    (void)printf(",\"finish\":\"%s\",\"prompt_tokens\":%d,\"cached_tokens\":%d,\"completion_tokens\":%d", FINISH[a->end.finish],
                 a->end.prompt_tokens, a->end.cached_tokens, a->end.completion_tokens);
    (void)printf(",\"device\":\"%s\"", a->device);
    (void)printf(",\"guessed_tokens\":%lld,\"kept_tokens\":%lld,\"draft_guessed_tokens\":%lld,\"draft_kept_tokens\":%lld",
                 (long long)a->stats.guessed_tokens, (long long)a->stats.kept_tokens, (long long)a->stats.draft_guessed_tokens,
                 (long long)a->stats.draft_kept_tokens);
    (void)printf(",\"prefill_ms\":%.3f,\"decode_ms\":%.3f,\"tokens\":[%s]}\n", a->end.prefill_ms, a->end.decode_ms, a->tokens.data);
}

static enum err_code read_all(struct buf *out, struct err *e)
{
    char piece[4096];
    for (size_t n; (n = fread(piece, 1, sizeof piece, stdin)) > 0;) (void)buf_add(out, piece, n);
    return buf_ok(out) ? ERR_OK : err_set(e, out->failed, "the prompt on standard input is larger than %zu bytes", out->max);
}

/* The prompt's text: as given, or through the chat template. */
static enum err_code prompt_text(const struct engine *engine, const struct options *o, struct buf *out, struct err *e)
{
    struct buf given = BUF_INIT(16 << 20);
    enum err_code code = strcmp(o->prompt, "-") == 0 ? read_all(&given, e) : buf_adds(&given, o->prompt);
    struct engine_message messages[2] = {{.role = "system", .content = o->system ? o->system : ""},
                                         {.role = "user", .content = given.data}};
    if (!code && o->raw) code = buf_add(out, given.data, given.len);
    else if (!code)
        code = engine_render_chat(engine, messages + (o->system ? 0 : 1), o->system ? 2 : 1, NULL, NULL, true, out, e);
    buf_release(&given);
    return code;
}

static enum err_code answer_prompt(struct engine *engine, const struct options *o, struct answer *a, struct err *e)
{
    struct buf text = BUF_INIT(32 << 20);
    int32_t *ids = NULL;
    int count = 0, flags = ENGINE_TOKENIZE_ADD | ENGINE_TOKENIZE_SPECIAL;
    enum err_code code = prompt_text(engine, o, &text, e);
    if (!code) code = engine_tokenize(engine, text.data, text.len, flags, &ids, &count, e);
    buf_release(&text);
    struct engine_info info;
    engine_info(engine, &info);
    /* A template may write BOS itself. */
    int skip = !code && count > 1 && ids[0] == info.bos && ids[1] == info.bos ? 1 : 0;
    struct engine_request request = {.prompt = ids + skip, .prompt_count = count - skip, .max_tokens = o->max_tokens,
                                     .sampling = o->sampling, .stop = o->stop, .stop_count = o->stops, .ignore_eos = o->ignore_eos};
    struct engine_sink sink = {.ctx = a, .on_prefill = on_prefill, .on_token = on_token, .on_done = on_done, .on_error = on_error};
    if (!code) code = engine_submit(engine, 1, &request, &sink, e);
    free(ids);
    if (code) return code;
    (void)pthread_mutex_lock(&a->lock);
    while (!a->ended) (void)pthread_cond_wait(&a->changed, &a->lock);
    (void)pthread_mutex_unlock(&a->lock);
    if (a->error.code) *e = a->error;
    return a->error.code;
}

/* The GPU's name, or "cpu" and its kernels. */
static void name_device(const struct engine *engine, char *out, size_t size)
{
    struct engine_info info;
    engine_info(engine, &info);
    (void)snprintf(out, size, "%s%s", info.device[0] ? info.device : "cpu ", info.device[0] ? "" : info.kernels);
}

static int run(const struct options *o)
{
    struct answer a = {.json = o->json, .text = BUF_INIT(64 << 20), .tokens = BUF_INIT(64 << 20)};
    (void)pthread_mutex_init(&a.lock, NULL);
    (void)pthread_cond_init(&a.changed, NULL);
    struct engine *engine = NULL;
    struct err e = {0};
    enum err_code code = engine_open(&engine, &o->engine, &e);
    if (!code) name_device(engine, a.device, sizeof a.device);
    if (!code) code = answer_prompt(engine, o, &a, &e);
    if (!code) engine_stats(engine, &a.stats);
    engine_close(engine);
    if (code) {
        (void)fprintf(stderr, "rung generate: %s\n", e.msg);
    } else if (o->json) {
        print_json(&a);
    } else {
        (void)putchar('\n');
        (void)fprintf(stderr, "%d prompt tokens in %.1f ms, %d tokens in %.1f ms (%.1f tokens/s) on %s", a.end.prompt_tokens,
                      a.end.prefill_ms, a.end.completion_tokens, a.end.decode_ms,
                      a.end.decode_ms > 0 ? (a.end.completion_tokens - 1) / a.end.decode_ms * 1000 : 0, a.device);
        if (a.stats.guessed_tokens)
            (void)fprintf(stderr, ", %lld of %lld guesses kept", (long long)a.stats.kept_tokens, (long long)a.stats.guessed_tokens);
        (void)fputc('\n', stderr);
    }
    buf_release(&a.text);
    buf_release(&a.tokens);
    (void)pthread_mutex_destroy(&a.lock);
    (void)pthread_cond_destroy(&a.changed);
    return code ? CLI_FAILED : CLI_OK;
}

/* ---- options ---- */

enum { OPT_RAW = 256, OPT_SYSTEM, OPT_TEMP, OPT_TOP_K, OPT_TOP_P, OPT_MIN_P, OPT_TYPICAL, OPT_REPEAT, OPT_SEED, OPT_STOP, OPT_EOS,
       OPT_NO_DRAFT, OPT_DRAFT, OPT_DRAFT_KERNELS, OPT_DRAFT_ALWAYS, OPT_JSON, OPT_KERNELS, OPT_HELP };
static const struct option OPTIONS[] = {{"raw", no_argument, NULL, OPT_RAW},
                                        {"system", required_argument, NULL, OPT_SYSTEM},
                                        {"temp", required_argument, NULL, OPT_TEMP},
                                        {"top-k", required_argument, NULL, OPT_TOP_K},
                                        {"top-p", required_argument, NULL, OPT_TOP_P},
                                        {"min-p", required_argument, NULL, OPT_MIN_P},
                                        {"typical", required_argument, NULL, OPT_TYPICAL},
                                        {"repeat-penalty", required_argument, NULL, OPT_REPEAT},
                                        {"seed", required_argument, NULL, OPT_SEED},
                                        {"stop", required_argument, NULL, OPT_STOP},
                                        {"ignore-eos", no_argument, NULL, OPT_EOS},
                                        {"no-draft", no_argument, NULL, OPT_NO_DRAFT},
                                        {"draft", required_argument, NULL, OPT_DRAFT},
                                        {"draft-kernels", required_argument, NULL, OPT_DRAFT_KERNELS},
                                        {"draft-always", no_argument, NULL, OPT_DRAFT_ALWAYS},
                                        {"json", no_argument, NULL, OPT_JSON},
                                        {"kernels", required_argument, NULL, OPT_KERNELS},
                                        {"help", no_argument, NULL, OPT_HELP},
                                        {NULL, 0, NULL, 0}};

static bool whole_number(const char *text, int64_t min, int64_t max, int64_t *out)
{
    char *end;
    errno = 0;
    *out = strtoll(text, &end, 10);
    if (!errno && end != text && !*end && *out >= min && *out <= max) return true;
    (void)fprintf(stderr, "rung generate: '%s' is not a whole number from %lld to %lld\n", text, (long long)min, (long long)max);
    return false;
}

static bool int_option(const char *text, int min, int *out)
{
    int64_t v;
    if (!whole_number(text, min, 1 << 24, &v)) return false;
    *out = (int)v;
    return true;
}

static bool float_option(const char *text, float *out)
{
    char *end;
    *out = strtof(text, &end);
    if (end != text && !*end && isfinite(*out) && *out >= 0) return true;
    (void)fprintf(stderr, "rung generate: '%s' is not a number of 0 or above\n", text);
    return false;
}

static bool take_option(struct options *o, int option)
{
    int64_t v;
    switch (option) {
    case 'm': o->engine.path = optarg; return true;
    case 'p': o->prompt = optarg; return true;
    case 'n': return int_option(optarg, 0, &o->max_tokens);
    case 't': return int_option(optarg, 1, &o->engine.threads);
    case 'c': return int_option(optarg, 2, &o->engine.context_tokens);
    case OPT_RAW: return o->raw = true;
    case OPT_SYSTEM: o->system = optarg; return true;
    case OPT_TEMP: return float_option(optarg, &o->sampling.temperature);
    case OPT_TOP_K: return int_option(optarg, 0, &o->sampling.top_k);
    case OPT_TOP_P: return float_option(optarg, &o->sampling.top_p);
    case OPT_MIN_P: return float_option(optarg, &o->sampling.min_p);
    case OPT_TYPICAL: return float_option(optarg, &o->sampling.typical_p);
    case OPT_REPEAT: return float_option(optarg, &o->sampling.repeat_penalty);
    case OPT_SEED:
        if (!whole_number(optarg, INT64_MIN, INT64_MAX, &v)) return false;
        o->sampling.seed = (uint64_t)v;
        return true;
    case OPT_STOP:
        if (o->stops == 16) return false;
        o->stop[o->stops++] = optarg;
        return true;
    case OPT_EOS: return o->ignore_eos = true;
    case OPT_NO_DRAFT: o->engine.draft_tokens = -1; return true;
    case OPT_DRAFT: o->engine.draft = optarg; return true;
    case OPT_DRAFT_KERNELS: o->engine.draft_kernels = optarg; return true;
    case OPT_DRAFT_ALWAYS: return o->engine.draft_always = true;
    case OPT_JSON: return o->json = true;
    case OPT_KERNELS: o->engine.kernels = optarg; return true;
    default: return false;
    }
}

int cmd_generate(int argc, char **argv)
{
    struct options o = {.max_tokens = 256, .sampling = ENGINE_SAMPLING_GREEDY, .engine = {.slots_max = 1, .queue_max = 1}};
    for (int option; (option = getopt_long(argc, argv, "m:p:n:t:c:h", OPTIONS, NULL)) != -1;) {
        if (option == OPT_HELP || option == 'h') {
            (void)fputs(HELP, stdout);
            return CLI_OK;
        }
        if (!take_option(&o, option)) return CLI_USAGE;
    }
    if (!o.engine.path || !o.prompt || optind < argc) {
        (void)fputs("rung generate: -m FILE and -p TEXT are needed; rung generate --help says more\n", stderr);
        return CLI_USAGE;
    }
    return run(&o);
}
