/* How long a classification takes: prompts of given lengths, one core. Usage: bench_router_classify [ROUTER] */
#include "router/refit.h"
#include "router/router.h"
#include "router/train.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROUNDS = 7, CALLS = 400 };
static const double BUDGET_US = 20; /* for 1,000 characters */

/* Text like a word problem's, a little different at each place, so that no two lines of it are the same. */
static void compose(char *out, size_t len)
{
    static const char *const WORDS[] = {"a",      "train",   "leaves",  "the",   "station",   "at",     "12:45",
                                        "and",    "travels", "with",    "an",    "average",   "speed",  "of",
                                        "73.5",   "miles",   "per",     "hour",  "towards",   "Boston", "while",
                                        "another", "one",    "carries", "twice", "passengers", "how",    "many"};
    size_t at = 0;
    unsigned s = 1;
    while (at < len) {
        s = s * 1103515245u + 12345u;
        at += (size_t)snprintf(out + at, len + 1 - at, "%s%s%u ", WORDS[s >> 16 & 27], s >> 20 & 3 ? "" : ",", s >> 28);
    }
    out[len] = '\0';
}

/* The thread's own time: a busy machine does not count. */
static double cpu_us(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static double median_us(const struct router *r, const char *text, size_t len)
{
    double us[ROUNDS];
    struct router_input in = {.text = text, .text_len = len, .turns = 1};
    struct router_scores s;
    for (int k = 0; k < ROUNDS; k++) {
        double start = cpu_us();
        for (int i = 0; i < CALLS; i++) router_score(r, &in, &s);
        us[k] = (cpu_us() - start) / CALLS;
        for (int i = k; i > 0 && us[i - 1] > us[i]; i--) {
            double swap = us[i];
            us[i] = us[i - 1];
            us[i - 1] = swap;
        }
    }
    return us[ROUNDS / 2];
}

/* A router whose table is as full as one of a few thousand rows, where no file was given. */
static struct router *composed_router(void)
{
    struct train_rows rows;
    struct err e;
    if (train_tiers(&rows, "small,large", &e)) return NULL;
    FILE *f = tmpfile();
    if (!f) return NULL;
    char text[1024];
    compose(text, 1000);
    for (int i = 0; i < 1200; i++)
        (void)fprintf(f, "{\"task\":\"t%d\",\"prompt\":\"%d %.*s\",\"scores\":{\"small\":%d,\"large\":1}}\n", i % 20, i,
                      500 + i % 400, text + i % 90, i % 3 == 0);
    rewind(f);
    struct router *r = NULL;
    struct train_options options = {0};
    if (train_rows_read(&rows, f, "composed", &e) || train_router(&r, &rows, &options, NULL, &e))
        (void)fprintf(stderr, "%s\n", e.msg);
    (void)fclose(f);
    train_rows_release(&rows);
    return r;
}

/* The same router, refitted from sketches: one walk does for both. */
static enum err_code refit(struct router *r, struct err *e)
{
    enum { ROWS = 400 };
    static struct refit_row rows[ROWS];
    static const unsigned char KEY[32];
    char text[600];
    for (int i = 0; i < ROWS; i++) {
        struct router_scores s;
        compose(text, 200 + (size_t)i);
        struct router_input in = {.text = text, .text_len = strlen(text), .turns = 1};
        router_score(r, &in, &s);
        s.base.id[0] = 1; /* one that was never saved has no name */
        router_sketch(&in, KEY, &s.base, rows[i].sketch);
        rows[i].fold = (unsigned char)(i % REFIT_FOLDS);
        rows[i].label[TIER_EDGE] = i % 2 ? (float)(i > 200) : (float)(i % 3 > 0);
        rows[i].weight[TIER_EDGE] = 1;
        rows[i].probe_x = rows[i].probe_label = NAN;
    }
    enum err_code code = refit_router(r, rows, ROWS, NULL, e);
    return code == ERR_OK ? router_use_key(r, KEY, e) : code;
}

static void table(const struct router *r, const char *title)
{
    static const size_t LENGTHS[] = {50, 150, 1000, 4000, 16000, 100000};
    static char text[100001];
    (void)printf("%s\n%10s %12s %16s\n", title, "characters", "us (median)", "us/1,000 chars");
    for (size_t i = 0; i < sizeof LENGTHS / sizeof LENGTHS[0]; i++) {
        compose(text, LENGTHS[i]);
        double us = median_us(r, text, LENGTHS[i]);
        (void)printf("%10zu %12.2f %16.2f%s\n", LENGTHS[i], us, us * 1000 / (double)LENGTHS[i],
                     LENGTHS[i] == 1000 ? us <= BUDGET_US ? "   within the budget of 20" : "   OVER the budget of 20" : "");
    }
}

int main(int argc, char **argv)
{
    struct router *r = NULL;
    struct err e;
    if (argc > 1 && router_load(&r, argv[1], &e)) {
        (void)fprintf(stderr, "bench_router_classify: %s\n", e.msg);
        return 1;
    }
    if (!r) r = composed_router();
    if (!r) return 1;
    table(r, "as fitted to texts");
    bool refitted = refit(r, &e) == ERR_OK;
    if (refitted) table(r, "refitted from a log's sketches");
    else (void)fprintf(stderr, "bench_router_classify: %s\n", e.msg);
    router_free(r);
    return refitted ? 0 : 1;
}
