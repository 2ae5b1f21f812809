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
    "Measures prefill, decoding and batched decoding beside the machine's read bandwidth, which decoding cannot beat.\n"
    "\n"
    "  -m FILE          a model\n"
    "  --shape NAME     random weights of a known shape: qwen2.5-0.5b, llama3.2-1b, deepseek-7b …\n"
    "  --type TYPE      of a shape's weights: Q8_0 (default), Q4_0, Q4_K_M, F16, FP8, W4A16 …\n"
    "  -p N             tokens of the prompt; default 512\n"
    "  -n N             tokens to decode; default 128\n"
    "  -b N,N           streams decoded together; default 1\n"
    "  -s N             tokens of a prefill step; default 256\n"
    "  -r N             rounds; the median is shown; default 3\n"
    "  -t N, --kernels NAME, --json\n";

enum { STREAMS_MAX = 8, ROUNDS_MAX = 99 };

struct options {
    const char *model, *shape, *type, *kernels;
    int prompt, tokens, step, rounds, threads, streams[STREAMS_MAX], streams_count;
    bool json;
};

static enum err_code open_model(struct probe *p, struct shaped *shaped, const struct options *o, int context, struct err *e)
{
    if (o->model) return probe_open(p, o->model, o->kernels, o->threads, context, o->step, e);
    enum err_code code = shaped_open(shaped, o->shape, o->type, e);
    if (code) return code;
    code = probe_open_gguf(p, shaped->gguf, o->kernels, o->threads, context, o->step, e);
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
    for (int at = 0; at < o->prompt; at += o->step) {
        int n = o->prompt - at < o->step ? o->prompt - at : o->step;
        enum err_code code = probe_step(p, ids + at, n, at, false, &out, e);
        if (code) return code;
    }
    *rate = stopwatch_rate(start, o->prompt);
    return ERR_OK;
}

/* Decoding after a prompt: its KV entries are whatever lies there, which costs the same. */
static enum err_code decode(struct probe *p, const int32_t *ids, const struct options *o, int streams, struct rate *rate,
                            struct err *e)
{
    struct batch_out out;
    struct stopwatch start = stopwatch_start();
    for (int i = 0; i < o->tokens; i++) {
        enum err_code code = probe_decode(p, ids + i, streams, o->prompt + i, &out, e);
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

static void show(const struct options *o, const struct probe *p, const char *what, int streams, struct rate rate,
                 double bandwidth)
{
    double gbs = (double)probe_token_bytes(p) * rate.wall / streams * 1e-9, share = gbs * 1e9 / bandwidth;
    bool reads = strcmp(what, "decode") == 0;
    if (o->json) {
        (void)printf("{\"what\":\"%s\",\"streams\":%d,\"tokens_per_s\":%.2f,\"tokens_per_cpu_s\":%.2f", what, streams,
                     rate.wall, rate.cpu);
        if (reads) (void)printf(",\"gb_per_s\":%.3f,\"share\":%.4f", gbs, share);
        (void)puts("}");
        return;
    }
    (void)printf("%-8s %7d %12.2f %14.2f", what, streams, rate.wall, rate.cpu);
    if (reads) (void)printf(" %10.2f %8.0f %%", gbs, share * 100);
    (void)putchar('\n');
}

static void show_head(const struct options *o, const struct probe *p, double bandwidth, double open_s)
{
    const char *name = o->model ? o->model : o->shape;
    if (o->json) {
        (void)printf("{\"what\":\"machine\",\"model\":\"%s\",\"kernels\":\"%s\",\"threads\":%d,\"read_gb_per_s\":%.3f,\"token_bytes\":%lld,"
                     "\"open_s\":%.3f}\n",
                     name, p->backend->kernels, o->threads, bandwidth * 1e-9, (long long)probe_token_bytes(p), open_s);
        return;
    }
    (void)printf("%s%s%s: %s, %d threads, %.2f GB read a token, memory reads %.2f GB/s, opened in %.2f s\n\n", name,
                 o->model ? "" : " ", o->model ? "" : o->type, p->backend->kernels, o->threads, (double)probe_token_bytes(p) * 1e-9,
                 bandwidth * 1e-9, open_s);
    (void)printf("%-8s %7s %12s %14s %10s %10s\n", "what", "streams", "tokens/s", "tokens/cpu s", "GB/s", "of memory");
}

static enum err_code measure(struct probe *p, const struct options *o, double bandwidth, struct err *e)
{
    int count = (o->prompt > o->tokens + STREAMS_MAX * 8 ? o->prompt : o->tokens) + 64;
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

static int run(struct options *o)
{
    struct probe p = {0};
    struct shaped shaped = {0};
    struct err e = {0};
    double bandwidth;
    int streams = 1;
    for (int i = 0; i < o->streams_count; i++) streams = o->streams[i] > streams ? o->streams[i] : streams;
    if (!o->threads) o->threads = pool_cores();
    if (o->step < streams) o->step = streams;
    enum err_code code = bandwidth_measure(o->threads, (size_t)256 << 20, &bandwidth, &e);
    int64_t start = clock_mono_us();
    if (!code) code = open_model(&p, &shaped, o, streams * ((o->prompt + o->tokens + 63) / 32 * 32), &e);
    if (!code) {
        show_head(o, &p, bandwidth, seconds_since(start));
        code = measure(&p, o, bandwidth, &e);
    }
    probe_close(&p);
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
        if (o->streams_count == STREAMS_MAX || !number(at, 1, 64, &o->streams[o->streams_count])) return false;
        o->streams_count++;
    }
    return o->streams_count > 0;
}

enum { OPT_SHAPE = 256, OPT_TYPE, OPT_KERNELS, OPT_JSON, OPT_HELP };
static const struct option OPTIONS[] = {{"shape", required_argument, NULL, OPT_SHAPE}, {"type", required_argument, NULL, OPT_TYPE},
                                        {"kernels", required_argument, NULL, OPT_KERNELS}, {"json", no_argument, NULL, OPT_JSON},
                                        {"help", no_argument, NULL, OPT_HELP}, {NULL, 0, NULL, 0}};

int cmd_bench(int argc, char **argv)
{
    struct options o = {.type = "Q8_0", .prompt = 512, .tokens = 128, .step = 256, .rounds = 3, .streams = {1}, .streams_count = 1};
    bool good = true, engine = argc > 1 && strcmp(argv[1], "engine") == 0;
    if (engine) {
        argv++;
        argc--;
    }
    for (int option; good && (option = getopt_long(argc, argv, "m:p:n:b:s:r:t:h", OPTIONS, NULL)) != -1;) {
        switch (option) {
        case 'm': o.model = optarg; break;
        case 'p': good = number(optarg, 0, 1 << 16, &o.prompt); break;
        case 'n': good = number(optarg, 0, 1 << 16, &o.tokens); break;
        case 'b': good = numbers(optarg, &o); break;
        case 's': good = number(optarg, 1, 4096, &o.step); break;
        case 'r': good = number(optarg, 1, ROUNDS_MAX, &o.rounds); break;
        case 't': good = number(optarg, 1, 1024, &o.threads); break;
        case OPT_SHAPE: o.shape = optarg; break;
        case OPT_TYPE: o.type = optarg; break;
        case OPT_KERNELS: o.kernels = optarg; break;
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
    return run(&o);
}
