/* What choosing a step's tokens costs the scheduler's thread: milliseconds of processor time for 64 rows of 102,400 logits, by
 * distribution and by what was asked for. */
#include "engine/sample.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { ROWS = 64, VOCABULARY = 102400 };

static double cpu_seconds(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint64_t random_state = 0x9e3779b97f4a7c15u;

static double uniform(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (double)(random_state >> 11) * 0x1p-53;
}

static float normal(void)
{
    return (float)(sqrt(-2 * log(1 - uniform())) * cos(6.283185307179586 * uniform()));
}

/* flat: logits normal with σ 1; wide: σ 3; text: as the log of Zipf's law with an exponent of 1.5, tokens in any order, and noise. */
static void fill(float *row, const char *kind)
{
    for (int i = 0; i < VOCABULARY; i++) {
        if (kind[0] == 't') row[i] = -1.5f * logf((float)(uniform() * VOCABULARY) + 1) + 0.3f * normal();
        else row[i] = normal() * (kind[0] == 'w' ? 3.0f : 1.0f);
    }
}

/* `lists`: from the tops of the rows, which a GPU makes, and from the row where that does not suffice; their share goes to `rest`. */
static double measure(const float *logits, const struct engine_sampling *how, bool lists, double *rest)
{
    struct sampler s;
    if (sampler_init(&s, VOCABULARY, NULL)) exit(1);
    static int32_t tokens[64];
    for (int i = 0; i < 64; i++) tokens[i] = (int32_t)(uniform() * VOCABULARY);
    struct logit_list *list = calloc(ROWS, sizeof *list);
    if (!list) exit(1);
    for (int r = 0; r < ROWS; r++) sample_make_list(&s, logits + (size_t)r * VOCABULARY, sample_inverse(how), LOGIT_LIST_MAX, &list[r]);
    double start = cpu_seconds(), spent;
    int rounds = 0, unsettled = 0;
    do {
        for (int r = 0; r < ROWS; r++) {
            struct sample_input in = {.logits = logits + (size_t)r * VOCABULARY, .how = how, .choice = r, .index = rounds,
                                      .tokens = tokens, .count = 64, .prompt_count = 0};
            if (!lists) (void)sample(&s, &in);
            else if (sample_list(&s, &in, &list[r]) < 0) {
                unsettled++;
                in.list = &list[r];
                (void)sample(&s, &in);
            }
        }
        rounds++;
    } while ((spent = cpu_seconds() - start) < 0.3);
    sampler_release(&s);
    free(list);
    *rest = (double)unsettled / rounds / ROWS;
    return spent / rounds * 1e3;
}

int main(void)
{
    static const struct {
        const char *name;
        struct engine_sampling how;
    } ways[] = {
        {"temperature 1", {.temperature = 1, .top_p = 1, .typical_p = 1, .repeat_penalty = 1}},
        {"temperature 0.7, top_p 0.95", {.temperature = 0.7f, .top_p = 0.95f, .typical_p = 1, .repeat_penalty = 1}},
        {"temperature 0.7, top_k 40", {.temperature = 0.7f, .top_p = 1, .top_k = 40, .typical_p = 1, .repeat_penalty = 1}},
        {"temperature 1, min_p 0.05", {.temperature = 1, .top_p = 1, .min_p = 0.05f, .typical_p = 1, .repeat_penalty = 1}},
        {"temperature 1, typical_p 0.9", {.temperature = 1, .top_p = 1, .typical_p = 0.9f, .repeat_penalty = 1}},
        {"greedy, repeat_penalty 1.1", {.top_p = 1, .typical_p = 1, .repeat_penalty = 1.1f}},
        {"the same at 0.7, top_p 0.95", {.temperature = 0.7f, .top_p = 0.95f, .typical_p = 1, .repeat_penalty = 1.1f}},
    };
    static const char *const kinds[] = {"flat", "wide", "text"};
    float *logits[3];
    for (int k = 0; k < 3; k++) {
        logits[k] = malloc(sizeof(float) * ROWS * VOCABULARY);
        if (!logits[k]) return 1;
        for (int r = 0; r < ROWS; r++) fill(logits[k] + (size_t)r * VOCABULARY, kinds[k]);
    }
    printf("ms for %d rows of %d; from lists: with the rows that need the row itself, and their share\n", ROWS, VOCABULARY);
    printf("%-30s %9s %9s %9s   %16s %16s %16s\n", "", "flat", "wide", "text", "flat list", "wide list", "text list");
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        double rest;
        printf("%-30s", ways[w].name);
        for (int k = 0; k < 3; k++) printf(" %9.2f", measure(logits[k], &ways[w].how, false, &rest));
        printf("  ");
        for (int k = 0; k < 3; k++) {
            double ms = measure(logits[k], &ways[w].how, true, &rest);
            printf(" %8.2f (%4.1f%%)", ms, rest * 100);
        }
        printf("\n");
        (void)fflush(stdout);
    }
    for (int k = 0; k < 3; k++) free(logits[k]);
    return 0;
}
