#include "cli/cli.h"

#include "base/clock.h"
#include "router/model.h"
#include "router/policy.h"
#include "router/score.h"
#include "router/train.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char HELP[] =
    "usage: rung router train --data FILE.jsonl --tiers SMALL,LARGE | SMALL,MIDDLE,LARGE -o FILE\n"
    "                          [--probe FILE.jsonl] [--general] [--bits 8-17]\n"
    "       rung router score --data FILE.jsonl --tiers A,B[,C] [--router FILE | --cross | --leave-task]\n"
    "                          [--sketch [--router FILE] [--labels N]] [--tasks] [--json]\n"
    "       rung router info FILE\n"
    "\n"
    "Fits the classifier that tells, from a prompt's text alone, how likely each model is to answer it right.\n"
    "Each line of the data is one measured prompt:\n"
    "  {\"task\": \"maths\", \"prompt\": \"What is 2 + 2?\", \"scores\": {\"small-model\": 1, \"large-model\": 1}}\n"
    "with \"messages\" in place of \"prompt\" for conversations; a score is anything from 0 (wrong) to 1 (right).\n"
    "score judges a router on measured prompts it has not seen: APGR (0.5 is random, 1 would be perfect from the first\n"
    "prompt on), CPT50 and CPT80 (the share sent up that brings 50 or 80 % of the gain), calibration error and Brier\n"
    "score. Without --router it fits on four fifths of the rows and judges on the fifth left out, five times;\n"
    "--leave-task leaves out each task in its turn. --sketch fits as rung tune refit does, from keyed sketches of the texts,\n"
    "on top of the router named or of none, from all other rows or from N of them.\n"
    "--data - reads from standard input: gzip -dc rows.jsonl.gz | rung router train --data - ...\n";

struct arguments {
    const char *data, *tiers, *out, *router;
    bool general, json, leave_task, cross, tasks, sketch;
    const char *bits, *probe, *labels;
};

static int usage_error(const char *what, const char *word)
{
    (void)fprintf(stderr, "rung router: %s '%s'; rung router --help shows how\n", what, word);
    return CLI_USAGE;
}

/* 0: not a number of bits a router may have. */
static unsigned bits_of(const char *text)
{
    char *end;
    unsigned long bits = strtoul(text, &end, 10);
    return *end == '\0' && bits >= MODEL_BITS_MIN && bits <= MODEL_BITS_MAX ? (unsigned)bits : 0;
}

static int arguments_parse(struct arguments *a, int argc, char **argv)
{
    struct {
        const char *name;
        const char **value;
        bool *flag;
    } table[] = {
        {"--data", &a->data, NULL},     {"--tiers", &a->tiers, NULL},     {"-o", &a->out, NULL},
        {"--router", &a->router, NULL}, {"--general", NULL, &a->general}, {"--json", NULL, &a->json},
        {"--bits", &a->bits, NULL},     {"--probe", &a->probe, NULL},     {"--cross", NULL, &a->cross},     
        {"--leave-task", NULL, &a->leave_task},
        {"--tasks", NULL, &a->tasks},     {"--sketch", NULL, &a->sketch}, {"--labels", &a->labels, NULL},
    };
    for (int i = 0; i < argc; i++) {
        size_t k = 0, n = sizeof table / sizeof table[0];
        while (k < n && strcmp(argv[i], table[k].name) != 0) k++;
        if (k == n && argv[i][0] != '-' && !a->router) a->router = argv[i];
        else if (k == n) return usage_error("does not know", argv[i]);
        else if (table[k].flag) *table[k].flag = true;
        else if (i + 1 == argc) return usage_error("wants a value after", argv[i]);
        else *table[k].value = argv[++i];
    }
    if (a->labels && strtoul(a->labels, NULL, 10) == 0) return usage_error("--labels wants a number, not", a->labels);
    if (a->bits && bits_of(a->bits) == 0) return usage_error("--bits wants a number from 8 to 17, not", a->bits);
    return CLI_OK;
}

static enum err_code read_rows(struct train_rows *rows, const struct arguments *a, struct err *e)
{
    enum err_code code = train_tiers(rows, a->tiers, e);
    if (code) return code;
    bool standard = strcmp(a->data, "-") == 0;
    FILE *f = standard ? stdin : fopen(a->data, "r");
    if (!f) return err_set(e, ERR_IO, "cannot read %.150s: %s", a->data, strerror(errno));
    code = train_rows_read(rows, f, standard ? "standard input" : a->data, e);
    if (!standard) (void)fclose(f);
    return code;
}

/* The file's date: SOURCE_DATE_EPOCH (seconds), as builds that can be repeated set it, else now. */
static int64_t date_ms(void)
{
    const char *text = getenv("SOURCE_DATE_EPOCH");
    char *end = NULL;
    errno = 0;
    long long seconds = text ? strtoll(text, &end, 10) : -1;
    return text && *text && !*end && errno == 0 && seconds >= 0 && seconds < INT64_MAX / 1000 ? seconds * 1000 : clock_wall_ms();
}

static struct train_options options_of(const struct arguments *a)
{
    struct train_options o = {.general = a->general, .wall_ms = date_ms()};
    if (a->bits) o.bits = bits_of(a->bits);
    return o;
}

struct task_rows {
    const char *task;
    size_t row;
};

static enum err_code score_by_file(const struct arguments *a, const struct train_rows *rows, double (*p)[TIERS],
                                   struct err *e)
{
    struct router *r;
    enum err_code code = router_load(&r, a->router, e);
    if (code) return code;
    if (router_wants_key(r))
        code = err_set(e, ERR_INVALID, "%.100s was refitted from a log and scores with that log's key alone; score what it was "
                       "refitted from, router %s", a->router, r->info.base);
    else if (r->info.tiers != rows->columns)
        code = err_set(e, ERR_INVALID, "%.100s scores %d models, --tiers names %d", a->router, r->info.tiers, rows->columns);
    for (size_t i = 0; !code && i < rows->count; i++) {
        struct router_input in = train_input(&rows->row[i]);
        struct router_scores s;
        router_score(r, &in, &s);
        for (int c = 0; c < rows->columns; c++) p[i][c] = s.p[model_tier(rows->columns, c)];
    }
    router_free(r);
    return code;
}

static enum err_code score_by_sketch(const struct arguments *a, const struct train_rows *rows, double (*p)[TIERS],
                                     struct err *e)
{
    struct router *prior = NULL;
    enum err_code code = a->router ? router_load(&prior, a->router, e) : ERR_OK;
    if (code == ERR_OK) code = score_sketch(rows, prior, a->labels ? strtoul(a->labels, NULL, 10) : 0, p, e);
    router_free(prior);
    return code;
}

static void print_report(const struct score_report *s, const struct train_rows *rows)
{
    (void)printf("%zu rows\n\n%-46s %6s  %-15s %6s %6s   %s\n", s->rows, "pair", "APGR", "95 %", "CPT50", "CPT80",
                 "by length alone");
    for (int i = 0; i < s->pairs; i++) {
        const struct score_pair *p = &s->pair[i];
        char name[140];
        (void)snprintf(name, sizeof name, "%s -> %s", rows->names[p->weak], rows->names[p->strong]);
        (void)printf("%-46s %6.4f  [%.3f %.3f]   %6.3f %6.3f   %.4f [%.3f %.3f]\n", name, p->apgr, p->apgr_low,
                     p->apgr_high, p->cpt50, p->cpt80, p->length, p->length_low, p->length_high);
        (void)printf("    %.4f -> %.4f; random 0.5\n", p->weak_mean, p->strong_mean);
    }
    for (int t = 0; t < s->columns; t++) {
        const struct score_tier *c = &s->tier[t];
        (void)printf("\n%s: calibration error %.4f (a perfect calibrator: under %.4f in 95 %%), Brier %.4f\n    said ",
                     rows->names[t], c->ece, c->ece_perfect, c->brier);
        for (int b = 0; b < SCORE_BINS; b++) (void)printf(" %.3f", c->bin_p[b]);
        (void)printf("\n    was  ");
        for (int b = 0; b < SCORE_BINS; b++) (void)printf(" %.3f", c->bin_y[b]);
        (void)printf("\n");
    }
}

static json_t *tier_json(const struct score_tier *c, const char *name)
{
    json_t *bins = json_array();
    for (int b = 0; b < SCORE_BINS; b++)
        (void)json_array_append_new(bins, json_pack("{s:f,s:f,s:I}", "p", c->bin_p[b], "score", c->bin_y[b], "rows",
                                                    (json_int_t)c->bin_n[b]));
    return json_pack("{s:s,s:f,s:f,s:f,s:o}", "model", name, "brier", c->brier, "ece", c->ece, "ece_perfect_p95",
                     c->ece_perfect, "reliability", bins);
}

static void print_report_json(const struct score_report *s, const struct train_rows *rows)
{
    json_t *pairs = json_array(), *tiers = json_array();
    for (int i = 0; i < s->pairs; i++) {
        const struct score_pair *p = &s->pair[i];
        (void)json_array_append_new(
            pairs, json_pack("{s:s,s:s,s:f,s:f,s:f,s:[f,f],s:f,s:f,s:f,s:f,s:[f,f]}", "weak", rows->names[p->weak], "strong",
                             rows->names[p->strong], "weak_mean", p->weak_mean, "strong_mean", p->strong_mean, "apgr",
                             p->apgr, "apgr_95", p->apgr_low, p->apgr_high, "cpt50", p->cpt50, "cpt80", p->cpt80,
                             "random_apgr", 0.5, "length_apgr", p->length, "length_apgr_95", p->length_low,
                             p->length_high));
    }
    for (int t = 0; t < s->columns; t++) (void)json_array_append_new(tiers, tier_json(&s->tier[t], rows->names[t]));
    json_t *root = json_pack("{s:I,s:o,s:o}", "rows", (json_int_t)s->rows, "pairs", pairs, "tiers", tiers);
    if (root) (void)json_dumpf(root, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    (void)printf("\n");
    json_decref(root);
}

static int by_task(const void *a, const void *b)
{
    return strcmp(((const struct task_rows *)a)->task, ((const struct task_rows *)b)->task);
}

/* One line a task: what the scores are worth inside it. */
static void print_tasks(const struct train_rows *rows, const double (*p)[TIERS])
{
    size_t n = rows->count;
    struct task_rows *order = calloc(n + 1, sizeof *order);
    float *block = malloc((n + 1) * 4 * sizeof *block);
    if (order && block) {
        for (size_t i = 0; i < n; i++) order[i] = (struct task_rows){rows->row[i].task, i};
        qsort(order, n, sizeof *order, by_task);
        (void)printf("\n%-28s %6s %7s %7s %7s %7s %7s\n", "task", "rows", "small", "large", "said", "said", "APGR");
        for (size_t from = 0, to; from < n; from = to) {
            double mean[4] = {0};
            for (to = from; to < n && strcmp(order[to].task, order[from].task) == 0; to++) {
                size_t at = order[to].row, k = to - from;
                int last = rows->columns - 1;
                block[k] = (float)(p[at][last] - p[at][0]);
                block[n + k] = rows->row[at].score[0];
                block[2 * n + k] = rows->row[at].score[last];
                mean[0] += (double)block[n + k];
                mean[1] += (double)block[2 * n + k];
                mean[2] += p[at][0];
                mean[3] += p[at][last];
            }
            double count = (double)(to - from);
            (void)printf("%-28.28s %6zu %7.3f %7.3f %7.3f %7.3f %7.3f\n", order[from].task, to - from, mean[0] / count,
                         mean[1] / count, mean[2] / count, mean[3] / count,
                         score_apgr(block, block + n, block + 2 * n, to - from, block + 3 * n));
        }
    }
    free(order);
    free(block);
}

static int run_score(const struct arguments *a)
{
    if (!a->data || !a->tiers) return usage_error("wants all of", "--data --tiers");
    struct err e = {0};
    struct train_rows rows;
    struct score_report report;
    double(*p)[TIERS] = NULL;
    enum err_code code = read_rows(&rows, a, &e);
    if (!code && !(p = calloc(rows.count + 1, sizeof *p))) code = err_set(&e, ERR_MEMORY, "out of memory");
    struct train_options options = options_of(a);
    if (!code)
        code = a->sketch       ? score_by_sketch(a, &rows, p, &e)
               : a->router     ? score_by_file(a, &rows, p, &e)
               : a->leave_task ? score_leave_task(&rows, &options, p, &e)
                               : score_cross(&rows, &options, p, &e);
    if (!code) code = score_rows(&report, &rows, (const double(*)[TIERS])p, &e);
    if (code) (void)fprintf(stderr, "rung router score: %s\n", e.msg);
    else if (a->json) print_report_json(&report, &rows);
    else print_report(&report, &rows);
    if (!code && !a->json && (a->tasks || a->leave_task)) print_tasks(&rows, (const double(*)[TIERS])p);
    free(p);
    train_rows_release(&rows);
    return code ? CLI_FAILED : CLI_OK;
}

static enum err_code add_probe(struct router *router, const struct train_rows *rows, const char *path,
                               const double (*out_of_fold)[TIERS], struct err *e)
{
    FILE *f = fopen(path, "r");
    if (!f) return err_set(e, ERR_IO, "cannot read %.150s: %s", path, strerror(errno));
    struct train_probe_report w;
    enum err_code code = train_probe(router, rows, out_of_fold, f, path, &w, e);
    (void)fclose(f);
    if (!code)
        (void)printf("probe on %zu answers   AUC    Brier\n  text alone          %.4f  %.4f\n  and hidden state    %.4f  %.4f\n"
                     "  and certainties     %.4f  %.4f\n",
                     w.rows, w.text.auc, w.text.brier, w.prefill.auc, w.prefill.brier, w.joined.auc, w.joined.brier);
    return code;
}

static int run_train(const struct arguments *a)
{
    if (!a->data || !a->tiers || !a->out) return usage_error("wants all of", "--data --tiers -o");
    struct err e = {0};
    struct train_rows rows;
    struct router *router = NULL;
    double(*seen_not)[TIERS] = NULL; /* each row's scores from folds without it */
    int64_t began = clock_mono_ms();
    enum err_code code = read_rows(&rows, a, &e);
    if (!code) {
        struct train_options options = options_of(a);
        seen_not = calloc(rows.count + 1, sizeof *seen_not);
        code = seen_not ? train_router(&router, &rows, &options, seen_not, &e) : err_set(&e, ERR_MEMORY, "out of memory");
    }
    if (!code && a->probe) code = add_probe(router, &rows, a->probe, (const double(*)[TIERS])seen_not, &e);
    if (!code) code = model_save(router, a->out, &e);
    if (code) (void)fprintf(stderr, "rung router train: %s\n", e.msg);
    else
        (void)printf("%s: fitted on %zu rows (%zu left out) in %.1f s, fingerprint %s\n", a->out, rows.count,
                     rows.skipped, (double)(clock_mono_ms() - began) / 1e3, router->info.fingerprint);
    free(seen_not);
    router_free(router);
    train_rows_release(&rows);
    return code ? CLI_FAILED : CLI_OK;
}

/* What each setting gave on rows that neither the fit nor the choice of its thresholds had seen. */
static void print_dial(const struct router *router)
{
    if (router->probe_w) (void)printf("probe        %u numbers of hidden state\n", router->probe.embedding);
    struct policy prices;
    policy_defaults(&prices);
    (void)printf("\n   edge   region    right   %%core    edge  region    core\n");
    for (int s = 0; s < MODEL_DIAL; s++) {
        const struct model_dial *d = &router->dial[s];
        double price = 0;
        for (int t = 0; t < TIERS; t++)
            price += 100 * (double)d->share[t] * prices.price[t].input_usd / prices.price[TIER_CORE].input_usd;
        (void)printf("%7.3f  %7.3f   %6.3f  %6.1f  %6.3f  %6.3f  %6.3f\n", (double)d->threshold[0], (double)d->threshold[1],
                     (double)d->accuracy, price, (double)d->share[TIER_EDGE], (double)d->share[TIER_REGION],
                     (double)d->share[TIER_CORE]);
    }
}

static int run_info(const struct arguments *a)
{
    if (!a->router) return usage_error("wants a file after", "info");
    struct router *router;
    struct err e;
    if (router_load(&router, a->router, &e)) {
        (void)fprintf(stderr, "rung router info: %s\n", e.msg);
        return CLI_FAILED;
    }
    struct router_info info;
    router_info(router, &info);
    (void)printf("fingerprint  %s\nrows         %lld\ngeneral      %s\n", info.fingerprint, (long long)info.rows,
                 info.general ? "yes" : "no");
    for (int i = 0; i < info.tiers; i++)
        (void)printf("%-12s %s\n", tier_name(model_tier(info.tiers, i)), info.names[i]);
    if (info.base[0])
        (void)printf("refitted     from %s on %lld, %lld and %lld labels, for sketch key %s\n", info.base,
                     (long long)info.labels[0], (long long)info.labels[1], (long long)info.labels[2], info.key);
    print_dial(router);
    router_free(router);
    return CLI_OK;
}

int cmd_router(int argc, char **argv)
{
    struct arguments a = {0};
    if (argc < 2 || strcmp(argv[1], "--help") == 0) {
        (void)fputs(HELP, argc < 2 ? stderr : stdout);
        return argc < 2 ? CLI_USAGE : CLI_OK;
    }
    int bad = arguments_parse(&a, argc - 2, argv + 2);
    if (bad) return bad;
    if (strcmp(argv[1], "train") == 0) return run_train(&a);
    if (strcmp(argv[1], "score") == 0) return run_score(&a);
    if (strcmp(argv[1], "info") == 0) return run_info(&a);
    return usage_error("has no command", argv[1]);
}
