#include "cli/cli.h"

#include "engine/cpu/kernels.h"
#include "engine/model_probe.h"
#include "engine/tokenizer.h"
#include "engine/engine.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char HELP[] =
    "usage: rung perplexity -m FILE -f TEXT [OPTIONS]\n"
    "\n"
    "How well a model foretells a text: exp of the mean surprise of its tokens, over windows of the context. Lower is\n"
    "better; only numbers from the same text and tokenizer can be compared.\n"
    "\n"
    "  -m FILE         the model\n"
    "  -f TEXT         a file of text\n"
    "  --ids FILE      token ids, separated by spaces, instead of a text\n"
    "  --logits FILE   also write every position's logits there, as 32-bit floats of this machine\n"
    "  -c N            tokens of a window; default 512\n"
    "  -b N            tokens of a step; default 64 (the result does not depend on it)\n"
    "  -t N, --kernels NAME (auto, cpu, cuda, cuda:N, or a CPU's: scalar, avx2 …)\n"
    "  --kv TYPE       the KV cache: f16 (default) or q8_0 (8 bits; E4M3 on a GPU)\n"
    "  --invariant     a GPU's batch-invariant mode\n";

struct options {
    const char *model, *text, *ids, *logits, *kernels, *kv;
    int context, step, threads;
    bool invariant;
};

static enum err_code read_file(const char *path, struct buf *out, struct err *e)
{
    char piece[65536];
    FILE *f = fopen(path, "rb");
    if (!f) return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    for (size_t n; (n = fread(piece, 1, sizeof piece, f)) > 0;) (void)buf_add(out, piece, n);
    (void)fclose(f);
    return buf_ok(out) ? ERR_OK : err_set(e, out->failed, "%s is larger than %zu bytes", path, out->max);
}

static enum err_code parse_ids(char *text, int32_t **out, int *count, struct err *e)
{
    int n = 0;
    int32_t *ids = malloc((strlen(text) / 2 + 1) * sizeof *ids);
    if (!ids) return err_set(e, ERR_MEMORY, "no memory for the ids");
    for (char *end;; text = end) {
        long v = strtol(text, &end, 10);
        if (end == text) break;
        ids[n++] = (int32_t)v;
    }
    *out = ids;
    *count = n;
    return ERR_OK;
}

static enum err_code read_ids(const struct options *o, const struct probe *p, int32_t **ids, int *count, struct err *e)
{
    struct buf text = BUF_INIT(256 << 20);
    struct tokenizer *t = NULL;
    enum err_code code = read_file(o->ids ? o->ids : o->text, &text, e);
    if (!code && o->ids) code = parse_ids(text.data, ids, count, e);
    else if (!code) code = tokenizer_open(&t, p->model->gguf, e);
    if (t) code = tokenizer_encode(t, text.data, text.len, ENGINE_TOKENIZE_ADD, ids, count, e);
    tokenizer_close(t);
    buf_release(&text);
    if (!code && *count < 2) code = err_set(e, ERR_INVALID, "the text has %d tokens; 2 are the least", *count);
    return code;
}

struct score {
    double surprise;
    int64_t tokens;
};

static enum err_code score_window(struct probe *p, const int32_t *ids, int count, const struct options *o, FILE *logits,
                                  struct score *score, struct err *e)
{
    for (int at = 0; at < count;) {
        struct batch_out out;
        int n = count - at < p->wanted_max ? count - at : p->wanted_max;
        enum err_code code = probe_step(p, ids + at, n, at, true, &out, e);
        if (code) return code;
        for (int i = 0; i < n; i++, at++) {
            const float *row = out.logits + (size_t)i * out.logits_stride;
            if (logits && fwrite(row, sizeof *row, (size_t)p->model->vocabulary, logits) != (size_t)p->model->vocabulary)
                return err_set(e, ERR_IO, "%s cannot be written", o->logits);
            if (at + 1 == count) continue;
            struct logit_stats st;
            if (out.stats) st = out.stats[i];
            else p->backend->stats(p->backend, row, p->model->vocabulary, &st);
            score->surprise += (double)st.logsum - (double)row[ids[at + 1]];
            score->tokens++;
        }
    }
    return ERR_OK;
}

static enum err_code score_all(struct probe *p, const struct options *o, struct score *score, struct err *e)
{
    int32_t *ids = NULL;
    int count = 0;
    FILE *logits = NULL;
    enum err_code code = read_ids(o, p, &ids, &count, e);
    if (!code && o->logits && !(logits = fopen(o->logits, "wb"))) code = err_set(e, ERR_IO, "%s: %s", o->logits, strerror(errno));
    for (int at = 0; at < count && !code; at += o->context)
        code = score_window(p, ids + at, count - at < o->context ? count - at : o->context, o, logits, score, e);
    if (logits && fclose(logits) != 0 && !code) code = err_set(e, ERR_IO, "%s: %s", o->logits, strerror(errno));
    free(ids);
    return code;
}

static int run(const struct options *o)
{
    struct probe p = {0};
    struct score score = {0};
    struct err e = {0};
    const struct probe_options options = {.kernels = o->kernels, .threads = o->threads, .context = o->context, .cols_max = o->step,
                                          .kv_q8 = o->kv && strcmp(o->kv, "q8_0") == 0, .invariant = o->invariant};
    enum err_code code = probe_open(&p, o->model, &options, &e);
    if (!code) code = score_all(&p, o, &score, &e);
    probe_close(&p);
    if (code) {
        (void)fprintf(stderr, "rung perplexity: %s\n", e.msg);
        return CLI_FAILED;
    }
    double mean = score.surprise / (double)(score.tokens ? score.tokens : 1);
    (void)printf("perplexity %.4f  (%.5f nats a token, %lld tokens)\n", exp(mean), mean, (long long)score.tokens);
    return CLI_OK;
}

enum { OPT_IDS = 256, OPT_LOGITS, OPT_KERNELS, OPT_KV, OPT_INVARIANT, OPT_HELP };
static const struct option OPTIONS[] = {{"ids", required_argument, NULL, OPT_IDS},
                                        {"logits", required_argument, NULL, OPT_LOGITS},
                                        {"kernels", required_argument, NULL, OPT_KERNELS},
                                        {"kv", required_argument, NULL, OPT_KV},
                                        {"invariant", no_argument, NULL, OPT_INVARIANT},
                                        {"help", no_argument, NULL, OPT_HELP},
                                        {NULL, 0, NULL, 0}};

static bool number(const char *text, int min, int max, int *out)
{
    char *end;
    long v = strtol(text, &end, 10);
    if (end == text || *end || v < min || v > max) {
        (void)fprintf(stderr, "rung perplexity: '%s' is not a whole number from %d to %d\n", text, min, max);
        return false;
    }
    *out = (int)v;
    return true;
}

static bool kv_type(const char *text)
{
    if (strcmp(text, "f16") == 0 || strcmp(text, "q8_0") == 0) return true;
    (void)fprintf(stderr, "rung perplexity: --kv is f16 or q8_0, not '%s'\n", text);
    return false;
}

int cmd_perplexity(int argc, char **argv)
{
    struct options o = {.context = 512, .step = 64};
    bool good = true;
    for (int option; good && (option = getopt_long(argc, argv, "m:f:c:b:t:h", OPTIONS, NULL)) != -1;) {
        switch (option) {
        case 'm': o.model = optarg; break;
        case 'f': o.text = optarg; break;
        case 'c': good = number(optarg, 2, 1 << 20, &o.context); break;
        case 'b': good = number(optarg, 1, 4096, &o.step); break;
        case 't': good = number(optarg, 1, 1024, &o.threads); break;
        case OPT_IDS: o.ids = optarg; break;
        case OPT_LOGITS: o.logits = optarg; break;
        case OPT_KERNELS: o.kernels = optarg; break;
        case OPT_KV: good = kv_type(o.kv = optarg); break;
        case OPT_INVARIANT: o.invariant = true; break;
        case 'h':
        case OPT_HELP: (void)fputs(HELP, stdout); return CLI_OK;
        default: good = false;
        }
    }
    if (!good) return CLI_USAGE;
    if (!o.model || (!o.text && !o.ids) || optind < argc) {
        (void)fputs("rung perplexity: -m FILE and -f TEXT are needed; rung perplexity --help says more\n", stderr);
        return CLI_USAGE;
    }
    return run(&o);
}
