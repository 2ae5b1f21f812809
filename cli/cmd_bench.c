#include "cli/bench_draft.h"
#include "cli/bench_serve.h"
#include "cli/cli.h"

#include "base/clock.h"
#include "engine/cpu/bandwidth.h"
#include "engine/cpu/pool.h"
#include "engine/model_probe.h"
#include "engine/model_shape.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char HELP[] =
    "usage: rung bench engine (-m FILE | --shape NAME) [OPTIONS]\n"
    "\n"
    "Measures prefill, decoding and batched decoding beside the read bandwidth of the memory that holds the weights (the\n"
    "machine's, or the GPU's), which decoding cannot beat.\n"
    "\n"
    "  -m FILE          a model\n"
    "  --shape NAME     random weights of a known shape: qwen2.5-0.5b, llama3.1-8b, deepseek-67b …; on a GPU they are made\n"
    "                   there and need no memory here\n"
    "  --type TYPE      of a shape's weights: Q8_0 (default), Q4_0, Q4_K_M, F16, BF16, FP8, W4A16 …\n"
    "  -p N             tokens of the prompt; default 512\n"
    "  -n N             tokens to decode; default 128\n"
    "  -b N,N           streams decoded together, up to 1024; default 1\n"
    "  -d, --depth N    tokens in each stream's context before; default 0 for the prompt, and the prompt for decoding\n"
    "  -s N             tokens of a prefill step; default 256, on a GPU 2048\n"
    "  -r N             rounds; the median is shown; default 3\n"
    "  --kv TYPE        the KV cache: f16 (default) or q8_0 (8 bits; E4M3 on a GPU)\n"
    "  --invariant      a GPU's batch-invariant mode\n"
    "  --sparse-pages N on a GPU: decoding reads at most so many pages of the past\n"
    "  --draft FILE     instead: answers to prompts with and without this draft model by turns (-n, -b: the first, -r, -t count)\n"
    "  --prompts FILE   a prompt a line, as chats; default: a few of our own\n"
    "  --temp T         temperature of the answers; default 0\n"
    "  --draft-always, --draft-kernels NAME    it guesses whether it pays or not; where it runs\n"
    "  --streams N      instead: so many streams of requests, each a prompt of its own (-p, -n, -s, --temp count), through the scheduler\n"
    "  --requests N     the run ends after so many\n"
    "  --seconds N      or N seconds after the first; what runs then is cancelled\n"
    "  --fresh          the first answers begin empty instead of half done, so that contexts are short at first\n"
    "  --early          requests run as soon as their prompt fits, whatever comes: to measure what foresight brings\n"
    "  --kv-bytes N     the KV cache's size; default: what all streams need, on a GPU what is left\n"
    "  -t N, --kernels NAME (auto, cpu, cuda, cuda:N, or a CPU's: scalar, avx2 …), --json\n";

enum { LIST_MAX = 8, STREAMS_MAX = 1024, ROUNDS_MAX = 99, PAGE = 32 };

struct options {
    const char *model, *shape, *type, *kernels, *kv;
    int prompt, tokens, depth, step, rounds, threads, sparse_pages, streams[LIST_MAX], streams_count;
    bool json, invariant;
    struct bench_draft draft;
    struct bench_serve serve;
};

/* Where decoding begins. */
static int decode_from(const struct options *o)
{
    return o->depth >= 0 ? o->depth : o->prompt;
}

static int pages_for(int64_t tokens)
{
    return (int)((tokens + PAGE - 1) / PAGE);
}

static enum err_code open_model(struct probe *p, struct shaped *shaped, const struct options *o, const struct device *d, struct err *e)
{
    int streams = 1, prefill = pages_for((o->depth > 0 ? o->depth : 0) + (int64_t)o->prompt);
    for (int i = 0; i < o->streams_count; i++) streams = o->streams[i] > streams ? o->streams[i] : streams;
    int64_t decode = (int64_t)streams * pages_for((int64_t)decode_from(o) + o->tokens), pages = decode > prefill ? decode : prefill > 1 ? prefill : 1;
    if (pages > INT32_MAX / PAGE) return err_set(e, ERR_INVALID, "%lld tokens of context in all streams; 2147483616 are the most", (long long)pages * PAGE);
    struct probe_options options = {.kernels = o->kernels, .threads = o->threads, .context = (int)pages * PAGE,
                                    .cols_max = o->step > streams ? o->step : streams, .wanted_max = streams,
                                    .kv_q8 = strcmp(o->kv, "q8_0") == 0, .invariant = o->invariant, .sparse_pages = o->sparse_pages};
    if (o->model) return probe_open(p, o->model, &options, e);
    enum err_code code = shaped_open(shaped, o->shape, o->type, d->library != NULL, e);
    if (code) return code;
    code = probe_open_gguf(p, shaped->gguf, &options, e);
    if (code) gguf_close(shaped->gguf);
    return code;
}

/* A rate by the clock, and by the processor time of all threads: on a machine that others use too, only the second
 * says what the code costs. */
struct rate {
    double wall, cpu;
};

struct stopwatch {
    int64_t wall_us;
    double cpu_s;
};

static double cpu_seconds(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double seconds_since(int64_t start_us)
{
    return (double)(clock_mono_us() - start_us) * 1e-6;
}

static struct stopwatch stopwatch_start(void)
{
    return (struct stopwatch){clock_mono_us(), cpu_seconds()};
}

static struct rate stopwatch_rate(struct stopwatch w, int tokens)
{
    return (struct rate){tokens / seconds_since(w.wall_us), tokens / (cpu_seconds() - w.cpu_s)};
}

static enum err_code prefill(struct probe *p, const int32_t *ids, const struct options *o, struct rate *rate, struct err *e)
{
    struct batch_out out;
    struct stopwatch start = stopwatch_start();
    int from = o->depth > 0 ? o->depth : 0;
    for (int at = 0; at < o->prompt; at += o->step) {
        int n = o->prompt - at < o->step ? o->prompt - at : o->step;
        enum err_code code = probe_step(p, ids + at, n, from + at, false, &out, e);
        if (code) return code;
    }
    *rate = stopwatch_rate(start, o->prompt);
    return ERR_OK;
}

/* Decoding after a context: its KV entries are whatever lies there, which costs the same. */
static enum err_code decode(struct probe *p, const int32_t *ids, const struct options *o, int streams, struct rate *rate,
                            struct err *e)
{
    struct batch_out out;
    struct stopwatch start = stopwatch_start();
    for (int i = 0; i < o->tokens; i++) {
        enum err_code code = probe_decode(p, ids + i, streams, decode_from(o) + i, &out, e);
        if (code) return code;
    }
    *rate = stopwatch_rate(start, o->tokens * streams);
    return ERR_OK;
}

static int by_wall(const void *a, const void *b)
{
    const struct rate *x = a, *y = b;
    return x->wall < y->wall ? -1 : x->wall > y->wall;
}

static struct rate median(struct rate *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, by_wall);
    return v[n / 2];
}

/* What one token of `streams` decoded together reads: its share of the weights, and its own past. */
static double token_bytes(const struct probe *p, const struct options *o, int streams)
{
    return (double)probe_token_bytes(p) / streams + (double)probe_kv_bytes(p, decode_from(o) + o->tokens / 2);
}

static void show(const struct options *o, const struct probe *p, const char *what, int streams, struct rate rate,
                 double bandwidth)
{
    double bytes = token_bytes(p, o, streams), gbs = bytes * rate.wall * 1e-9, share = bandwidth > 0 ? gbs * 1e9 / bandwidth : 0;
    bool reads = strcmp(what, "decode") == 0;
    if (o->json) {
        (void)printf("{\"what\":\"%s\",\"streams\":%d,\"tokens_per_s\":%.2f,\"tokens_per_cpu_s\":%.2f", what, streams,
                     rate.wall, rate.cpu);
        if (reads) (void)printf(",\"bytes_per_token\":%.0f,\"gb_per_s\":%.3f", bytes, gbs);
        if (reads && bandwidth > 0) (void)printf(",\"share\":%.4f", share);
        (void)puts("}");
        return;
    }
    (void)printf("%-8s %7d %12.2f %14.2f", what, streams, rate.wall, rate.cpu);
    if (reads) (void)printf(" %10.2f %10.2f", bytes * 1e-6, gbs);
    if (reads && bandwidth > 0) (void)printf(" %8.0f %%", share * 100);
    (void)putchar('\n');
}

static void show_head(const struct options *o, const struct probe *p, double bandwidth, double open_s)
{
    const char *name = o->model ? o->model : o->shape, *gpu = p->device.library ? p->device.gpu.name : "";
    if (o->json) {
        (void)printf("{\"what\":\"machine\",\"model\":\"%s\",\"kernels\":\"%s\",\"device\":\"%s\",\"threads\":%d,\"read_gb_per_s\":%.3f,"
                     "\"token_bytes\":%lld,\"open_s\":%.3f,\"depth\":%d}\n",
                     name, p->backend->kernels, gpu, o->threads, bandwidth * 1e-9, (long long)probe_token_bytes(p), open_s, decode_from(o));
        return;
    }
    (void)printf("%s%s%s: %s, ", name, o->model ? "" : " ", o->model ? "" : o->type, p->backend->kernels);
    if (*gpu) (void)printf("%s, ", gpu);
    else (void)printf("%d threads, ", o->threads);
    (void)printf("%.2f GB of weights read a token, memory reads %.2f GB/s, opened in %.2f s, decoding from position %d\n\n",
                 (double)probe_token_bytes(p) * 1e-9, bandwidth * 1e-9, open_s, decode_from(o));
    (void)printf("%-8s %7s %12s %14s %10s %10s %10s\n", "what", "streams", "tokens/s", "tokens/cpu s", "MB/token", "GB/s", "of memory");
}

static enum err_code measure(struct probe *p, const struct options *o, double bandwidth, struct err *e)
{
    int count = (o->prompt > o->tokens ? o->prompt : o->tokens) + STREAMS_MAX;
    int32_t *ids = malloc((size_t)count * sizeof *ids);
    struct rate rate[ROUNDS_MAX];
    if (!ids) return err_set(e, ERR_MEMORY, "no memory for %d tokens", count);
    for (int i = 0; i < count; i++) ids[i] = (int32_t)((uint32_t)i * 2654435761u % (uint32_t)p->model->vocabulary);
    enum err_code code = ERR_OK;
    for (int i = 0; i < o->rounds && !code && o->prompt; i++) code = prefill(p, ids, o, &rate[i], e);
    if (!code && o->prompt) show(o, p, "prefill", 1, median(rate, o->rounds), bandwidth);
    for (int s = 0; s < o->streams_count && !code && o->tokens; s++) {
        for (int i = 0; i < o->rounds && !code; i++) code = decode(p, ids, o, o->streams[s], &rate[i], e);
        if (!code) show(o, p, "decode", o->streams[s], median(rate, o->rounds), bandwidth);
    }
    free(ids);
    return code;
}

/* Before the model is there: on a GPU it may leave too little memory to read. */
static enum err_code measure_memory(const struct options *o, const struct device *d, double *bandwidth, struct err *e)
{
    if (d->library) return d->library->read_bandwidth(d->gpu.index, bandwidth, e);
    return bandwidth_measure(o->threads, (size_t)256 << 20, bandwidth, e);
}

static int run(struct options *o)
{
    struct probe p = {0};
    struct shaped shaped = {0};
    struct device device;
    struct err e = {0};
    double bandwidth = 0;
    if (!o->threads) o->threads = pool_cores();
    enum err_code code = device_find(&device, o->kernels, &e);
    if (!code && !o->step) o->step = device.library ? 2048 : 256;
    if (!code) code = measure_memory(o, &device, &bandwidth, &e);
    int64_t start = clock_mono_us();
    if (!code) code = open_model(&p, &shaped, o, &device, &e);
    if (!code && device.library && !p.device.library) code = measure_memory(o, &p.device, &bandwidth, &e); /* it did not fit there */
    if (!code) {
        show_head(o, &p, bandwidth, seconds_since(start));
        code = measure(&p, o, bandwidth, &e);
    }
    probe_close(&p);
    shaped_release(&shaped);
    if (code) (void)fprintf(stderr, "rung bench: %s\n", e.msg);
    return code ? CLI_FAILED : CLI_OK;
}

static int run_draft(const struct options *o)
{
    struct bench_draft d = o->draft;
    struct err e = {0};
    d.engine.path = o->model;
    d.engine.kernels = o->kernels;
    d.engine.threads = o->threads;
    d.engine.kv = strcmp(o->kv, "q8_0") == 0 ? ENGINE_KV_Q8_0 : ENGINE_KV_F16;
    d.engine.invariant = o->invariant;
    d.engine.prefill_tokens = o->step;
    d.tokens = o->tokens;
    d.streams = o->streams[0];
    d.rounds = o->rounds;
    d.json = o->json;
    enum err_code code = bench_draft(&d, &e);
    if (code) (void)fprintf(stderr, "rung bench: %s\n", e.msg);
    return code ? CLI_FAILED : CLI_OK;
}

static int run_serve(const struct options *o)
{
    struct bench_serve s = o->serve;
    struct shaped shaped = {0};
    struct device device;
    struct err e = {0};
    enum err_code code = o->model ? ERR_OK : device_find(&device, o->kernels, &e);
    if (!code && o->shape) code = shaped_open(&shaped, o->shape, o->type, device.library != NULL, &e);
    s.engine.path = o->model;
    s.engine.gguf = shaped.gguf;
    s.engine.kernels = o->kernels;
    s.engine.threads = o->threads;
    s.engine.kv = strcmp(o->kv, "q8_0") == 0 ? ENGINE_KV_Q8_0 : ENGINE_KV_F16;
    s.engine.invariant = o->invariant;
    s.engine.sparse_pages = o->sparse_pages;
    s.engine.prefill_tokens = o->step;
    s.name = o->model ? o->model : o->shape;
    s.type = o->model ? "" : o->type;
    s.prompt = o->prompt;
    s.tokens = o->tokens;
    s.temperature = o->draft.temperature;
    s.json = o->json;
    if (!code) code = bench_serve(&s, &e);
    shaped_release(&shaped);
    if (code) (void)fprintf(stderr, "rung bench: %s\n", e.msg);
    return code ? CLI_FAILED : CLI_OK;
}

/* ---- options ---- */

static bool number(const char *text, int min, int max, int *out)
{
    char *end;
    long v = strtol(text, &end, 10);
    if (end == text || *end || v < min || v > max) {
        (void)fprintf(stderr, "rung bench: '%s' is not a whole number from %d to %d\n", text, min, max);
        return false;
    }
    *out = (int)v;
    return true;
}

static bool numbers(char *text, struct options *o)
{
    o->streams_count = 0;
    for (char *save = NULL, *at = strtok_r(text, ",", &save); at; at = strtok_r(NULL, ",", &save)) {
        if (o->streams_count == LIST_MAX) (void)fprintf(stderr, "rung bench: -b takes at most %d numbers\n", LIST_MAX);
        if (o->streams_count == LIST_MAX || !number(at, 1, STREAMS_MAX, &o->streams[o->streams_count])) return false;
        o->streams_count++;
    }
    return o->streams_count > 0;
}

enum { OPT_SHAPE = 256, OPT_TYPE, OPT_KERNELS, OPT_KV, OPT_INVARIANT, OPT_SPARSE, OPT_DRAFT, OPT_PROMPTS, OPT_TEMP, OPT_ALWAYS,
       OPT_DRAFT_KERNELS, OPT_STREAMS, OPT_REQUESTS, OPT_SECONDS, OPT_FRESH, OPT_EARLY, OPT_KV_BYTES, OPT_JSON, OPT_HELP };
static const struct option OPTIONS[] = {{"shape", required_argument, NULL, OPT_SHAPE}, {"type", required_argument, NULL, OPT_TYPE},
                                        {"kernels", required_argument, NULL, OPT_KERNELS}, {"depth", required_argument, NULL, 'd'},
                                        {"kv", required_argument, NULL, OPT_KV}, {"invariant", no_argument, NULL, OPT_INVARIANT},
                                        {"sparse-pages", required_argument, NULL, OPT_SPARSE},
                                        {"draft", required_argument, NULL, OPT_DRAFT}, {"prompts", required_argument, NULL, OPT_PROMPTS},
                                        {"temp", required_argument, NULL, OPT_TEMP}, {"draft-always", no_argument, NULL, OPT_ALWAYS},
                                        {"draft-kernels", required_argument, NULL, OPT_DRAFT_KERNELS},
                                        {"streams", required_argument, NULL, OPT_STREAMS}, {"requests", required_argument, NULL, OPT_REQUESTS},
                                        {"seconds", required_argument, NULL, OPT_SECONDS}, {"fresh", no_argument, NULL, OPT_FRESH},
                                        {"early", no_argument, NULL, OPT_EARLY}, {"kv-bytes", required_argument, NULL, OPT_KV_BYTES},
                                        {"json", no_argument, NULL, OPT_JSON}, {"help", no_argument, NULL, OPT_HELP},
                                        {NULL, 0, NULL, 0}};

static bool temperature(const char *text, float *out)
{
    char *end;
    *out = strtof(text, &end);
    if (end != text && !*end && *out >= 0 && *out <= 100) return true;
    (void)fprintf(stderr, "rung bench: '%s' is not a temperature from 0 to 100\n", text);
    return false;
}

static bool seconds(const char *text, double *out)
{
    char *end;
    *out = strtod(text, &end);
    if (end != text && !*end && *out > 0 && *out <= 86400) return true;
    (void)fprintf(stderr, "rung bench: '%s' is no time in seconds, above 0 and up to 86400\n", text);
    return false;
}

static bool bytes(const char *text, int64_t *out)
{
    char *end;
    long long v = strtoll(text, &end, 10);
    *out = v;
    if (end != text && !*end && v > 0) return true;
    (void)fprintf(stderr, "rung bench: '%s' is no number of bytes\n", text);
    return false;
}

static bool kv_type(const char *text, const char **out)
{
    *out = text;
    if (strcmp(text, "f16") == 0 || strcmp(text, "q8_0") == 0) return true;
    (void)fprintf(stderr, "rung bench: --kv is f16 or q8_0, not '%s'\n", text);
    return false;
}

/* What --streams needs, and what needs it. */
static bool serve_is_whole(const struct options *o)
{
    const struct bench_serve *s = &o->serve;
    const char *what = NULL;
    if (!s->streams) what = s->requests || s->seconds > 0 || s->fresh || s->engine.admit_early || s->engine.kv_bytes_max ? "--requests, --seconds, --fresh, --early and --kv-bytes need --streams" : NULL;
    else if (o->draft.engine.draft) what = "--streams and --draft are two benches";
    else if (!s->requests && !(s->seconds > 0)) what = "--streams needs --requests or --seconds";
    else if (s->requests && s->requests < s->streams) what = "--requests must be as many as --streams at least";
    else if (!o->prompt || !o->tokens) what = "--streams needs prompts (-p) and answers (-n) of one token at least";
    if (what) (void)fprintf(stderr, "rung bench: %s\n", what);
    return !what;
}

int cmd_bench(int argc, char **argv)
{
    struct options o = {.type = "Q8_0", .prompt = 512, .tokens = 128, .depth = -1, .kv = "f16", .rounds = 3, .streams = {1}, .streams_count = 1};
    bool good = true, engine = argc > 1 && strcmp(argv[1], "engine") == 0;
    if (engine) {
        argv++;
        argc--;
    }
    for (int option; good && (option = getopt_long(argc, argv, "m:p:n:b:d:s:r:t:h", OPTIONS, NULL)) != -1;) {
        switch (option) {
        case 'm': o.model = optarg; break;
        case 'p': good = number(optarg, 0, 1 << 16, &o.prompt); break;
        case 'n': good = number(optarg, 0, 1 << 16, &o.tokens); break;
        case 'b': good = numbers(optarg, &o); break;
        case 'd': good = number(optarg, 0, 1 << 24, &o.depth); break;
        case 's': good = number(optarg, 1, 1 << 14, &o.step); break;
        case 'r': good = number(optarg, 1, ROUNDS_MAX, &o.rounds); break;
        case 't': good = number(optarg, 1, 1024, &o.threads); break;
        case OPT_SHAPE: o.shape = optarg; break;
        case OPT_TYPE: o.type = optarg; break;
        case OPT_KERNELS: o.kernels = optarg; break;
        case OPT_KV: good = kv_type(optarg, &o.kv); break;
        case OPT_INVARIANT: o.invariant = true; break;
        case OPT_SPARSE: good = number(optarg, 0, 1 << 20, &o.sparse_pages); break;
        case OPT_DRAFT: o.draft.engine.draft = optarg; break;
        case OPT_PROMPTS: o.draft.prompts = optarg; break;
        case OPT_TEMP: good = temperature(optarg, &o.draft.temperature); break;
        case OPT_ALWAYS: o.draft.engine.draft_always = true; break;
        case OPT_DRAFT_KERNELS: o.draft.engine.draft_kernels = optarg; break;
        case OPT_STREAMS: good = number(optarg, 1, STREAMS_MAX, &o.serve.streams); break;
        case OPT_REQUESTS: good = number(optarg, 1, 1 << 30, &o.serve.requests); break;
        case OPT_SECONDS: good = seconds(optarg, &o.serve.seconds); break;
        case OPT_FRESH: o.serve.fresh = true; break;
        case OPT_EARLY: o.serve.engine.admit_early = true; break;
        case OPT_KV_BYTES: good = bytes(optarg, &o.serve.engine.kv_bytes_max); break;
        case OPT_JSON: o.json = true; break;
        case 'h':
        case OPT_HELP: (void)fputs(HELP, stdout); return CLI_OK;
        default: good = false;
        }
    }
    if (!good) return CLI_USAGE;
    if (!engine || !o.model == !o.shape || optind < argc) {
        (void)fputs("rung bench: say 'rung bench engine' with either -m FILE or --shape NAME; --help says more\n", stderr);
        return CLI_USAGE;
    }
    if (o.draft.engine.draft && !o.model) {
        (void)fputs("rung bench: --draft needs -m FILE, a model that answers\n", stderr);
        return CLI_USAGE;
    }
    if (!serve_is_whole(&o)) return CLI_USAGE;
    return o.draft.engine.draft ? run_draft(&o) : o.serve.streams ? run_serve(&o) : run(&o);
}
