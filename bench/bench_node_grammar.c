/* What constrained output costs: the share of decoding spent in masks under a model, and the time of one mask over a made
 * vocabulary of 150,000 tokens.    bench_node_grammar MODEL [TOKENS] */
#include "node/grammar.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double cpu_us(clockid_t clock)
{
    struct timespec t;
    (void)clock_gettime(clock, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static const char OBJECT[] = "{\"response_format\":{\"type\":\"json_object\"}}";
static const char SCHEMA[] =
    "{\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"schema\":{\"type\":\"array\",\"items\":{\"type\":\"object\",\"properties\":"
    "{\"name\":{\"type\":\"string\"},\"kind\":{\"enum\":[\"lamp\",\"switch\",\"sensor\"]},\"level\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":100},"
    "\"on\":{\"type\":\"boolean\"},\"tags\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}}},\"required\":[\"name\",\"kind\",\"level\",\"on\"],"
    "\"additionalProperties\":false},\"minItems\":500}}}}";

/* ---- the times of masks and advances ---- */

struct timed {
    struct engine_constraint inner;
    double mask_us, worst_us, advance_us;
    int masks;
};

static void timed_mask(void *ctx, uint64_t state, uint32_t *mask)
{
    struct timed *t = ctx;
    double start = cpu_us(CLOCK_THREAD_CPUTIME_ID);
    t->inner.mask(t->inner.ctx, state, mask);
    double us = cpu_us(CLOCK_THREAD_CPUTIME_ID) - start;
    t->mask_us += us;
    t->masks++;
    if (us > t->worst_us) t->worst_us = us;
}

static uint64_t timed_advance(void *ctx, uint64_t state, int32_t id)
{
    struct timed *t = ctx;
    double start = cpu_us(CLOCK_THREAD_CPUTIME_ID);
    state = t->inner.advance(t->inner.ctx, state, id);
    t->advance_us += cpu_us(CLOCK_THREAD_CPUTIME_ID) - start;
    return state;
}

/* ---- under a model ---- */

struct wait {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool ended;
    int tokens;
};

static void on_token(void *ctx, uint64_t id, const struct engine_token *t)
{
    (void)id;
    (void)t;
    ((struct wait *)ctx)->tokens++;
}

static void finish(struct wait *w)
{
    (void)pthread_mutex_lock(&w->lock);
    w->ended = true;
    (void)pthread_cond_signal(&w->changed);
    (void)pthread_mutex_unlock(&w->lock);
}

static void on_done(void *ctx, uint64_t id, const struct engine_end *end)
{
    (void)id;
    (void)end;
    finish(ctx);
}

static void on_error(void *ctx, uint64_t id, const struct err *e)
{
    (void)id;
    (void)fprintf(stderr, "%s\n", e->msg);
    finish(ctx);
}

static void allow_all(void *ctx, uint64_t state, uint32_t *mask)
{
    (void)ctx;
    (void)state;
    (void)mask;
}

static uint64_t stay(void *ctx, uint64_t state, int32_t id)
{
    (void)ctx;
    (void)id;
    return state;
}

struct row {
    const char *name, *extra;
    bool masked; /* by a mask at least that forbids nothing */
    double all_us, own_us, mask_us, worst_us; /* per token, of the fastest run */
};

static void decode(struct engine *engine, const struct grammar_vocabulary *v, struct row *row, int tokens)
{
    static const char PROMPT[] = "<|user|>List the devices.<|end|><|assistant|>";
    struct grammar *g = NULL;
    struct err e = {0};
    int32_t *ids;
    int count;
    if (grammar_new(&g, v, row->extra, &e) != ERR_OK || engine_tokenize(engine, PROMPT, sizeof PROMPT - 1, ENGINE_TOKENIZE_SPECIAL, &ids, &count, &e) != ERR_OK) {
        (void)fprintf(stderr, "%s\n", e.msg);
        exit(1);
    }
    struct wait w = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    struct timed t = {.inner = {NULL, allow_all, stay, NULL}};
    struct grammar_choice choice;
    struct engine_constraint constraint = {&t, timed_mask, timed_advance, NULL};
    if (g) {
        grammar_choice_init(&choice, g, false);
        t.inner = grammar_constraint(&choice);
    }
    struct engine_request r = {.prompt = ids, .prompt_count = count, .max_tokens = tokens, .sampling = ENGINE_SAMPLING_GREEDY,
                               .ignore_eos = true, .constraint = row->masked ? &constraint : NULL};
    r.sampling.temperature = 1.5f;
    r.sampling.seed = 1;
    const struct engine_sink sink = {.ctx = &w, .on_token = on_token, .on_done = on_done, .on_error = on_error};
    double start = cpu_us(CLOCK_PROCESS_CPUTIME_ID);
    static uint64_t id = 1;
    if (engine_submit(engine, id++, &r, &sink, &e) != ERR_OK) exit(1);
    (void)pthread_mutex_lock(&w.lock);
    while (!w.ended) (void)pthread_cond_wait(&w.changed, &w.lock);
    (void)pthread_mutex_unlock(&w.lock);
    double all = (cpu_us(CLOCK_PROCESS_CPUTIME_ID) - start) / w.tokens;
    if (row->all_us == 0 || all < row->all_us) {
        row->all_us = all;
        row->own_us = (t.mask_us + t.advance_us) / w.tokens;
        row->mask_us = t.mask_us / w.tokens;
        row->worst_us = t.worst_us;
    }
    grammar_free(g);
    free(ids);
}

/* ---- over a made vocabulary ---- */

enum { MADE = 150000, MADE_END = 256 };
struct made {
    char text[MADE][16];
    uint8_t len[MADE];
};

static uint32_t next_random(void)
{
    static uint64_t s = 7;
    s = s * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(s >> 33);
}

/* Marks of JSON, words in letters with and without a space before, and words of three-byte characters. */
static size_t make_token(char *out, int id)
{
    static const char *const MARKS[] = {"\"", "\",", "\":", "{\"", "\"}", "}", "],", "[", "\n", "  ", ", ", "0", "1", "\\"};
    uint32_t parts = next_random() % 3 + 1, letters = next_random() % 9 + 2;
    size_t n = 0;
    if (id < 256) {
        out[n++] = (char)id;
    } else if (id % 40 == 0) {
        while (parts--) n += (size_t)snprintf(out + n, 5, "%s", MARKS[next_random() % 14]);
    } else if (id % 3) {
        if (id % 3 == 1) out[n++] = ' ';
        while (letters--) out[n++] = (char)('a' + next_random() % 26);
    } else {
        for (; parts--; n += 3) {
            out[n] = (char)(0xE4 + next_random() % 5);
            out[n + 1] = (char)(0x80 + next_random() % 64);
            out[n + 2] = (char)(0x80 + next_random() % 64);
        }
    }
    return n;
}

static size_t made_bytes(void *ctx, int32_t id, char *out, size_t size)
{
    const struct made *m = ctx;
    if (m->len[id] <= size) memcpy(out, m->text[id], m->len[id]);
    return id == MADE_END ? 0 : m->len[id];
}

static bool made_ends(void *ctx, int32_t id)
{
    (void)ctx;
    return id == MADE_END;
}

/* A random text by the masks: the likeliest thing a model does is to stay inside strings, so quotation marks are rare. */
static void walk(const struct grammar_vocabulary *v, const char *name, const char *extra, int tokens)
{
    struct grammar *g = NULL;
    struct err e = {0};
    if (grammar_new(&g, v, extra, &e) != ERR_OK) exit(1);
    struct grammar_choice choice;
    grammar_choice_init(&choice, g, false);
    struct timed t = {.inner = grammar_constraint(&choice)};
    uint32_t *mask = malloc((MADE + 31) / 32 * sizeof *mask);
    uint64_t state = 0;
    for (int i = 0; i < tokens; i++) {
        timed_mask(&t, state, mask);
        int32_t id = (int32_t)(next_random() % MADE);
        if (next_random() % 8 == 0 && mask['"' / 32] >> ('"' % 32) & 1) id = '"';
        while (!(mask[id / 32] >> (id % 32) & 1)) id = (id + 1) % MADE;
        state = id == MADE_END ? 0 : timed_advance(&t, state, id);
    }
    printf("| %s | %d | %.1f | %.1f | %.2f |\n", name, t.masks, t.mask_us / t.masks, t.worst_us, t.advance_us / t.masks);
    grammar_free(g);
    free(mask);
}

int main(int argc, char **argv)
{
    struct err e = {0};
    struct engine *engine = NULL;
    struct grammar_vocabulary *v = NULL, *large = NULL;
    const struct engine_options options = {.path = argc > 1 ? argv[1] : "models/core.q8_0.gguf", .threads = 1, .slots_max = 1, .draft_tokens = -1};
    int tokens = argc > 2 ? (int)strtol(argv[2], NULL, 10) : 800;
    struct made *m = malloc(sizeof *m);
    if (!m || engine_open(&engine, &options, &e) != ERR_OK || grammar_vocabulary_of(&v, engine, &e) != ERR_OK) {
        (void)fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    struct row rows[] = {{.name = "free", .extra = "{}"},
                         {.name = "free, with a mask that forbids nothing", .extra = "{}", .masked = true},
                         {.name = "json_object", .extra = OBJECT, .masked = true},
                         {.name = "json_schema", .extra = SCHEMA, .masked = true}};
    enum { ROWS = sizeof rows / sizeof rows[0], RUNS = 3 };
    for (int i = 0; i < RUNS * ROWS; i++) decode(engine, v, &rows[i % ROWS], tokens);
    printf("| %s, CPU time of the fastest of %d runs | all, us a token | masks, us a token | worst mask, us | share of masks and advances |\n"
           "| --- | ---: | ---: | ---: | ---: |\n",
           options.path, RUNS);
    for (int i = 0; i < ROWS; i++)
        printf("| %s | %.1f | %.2f | %.1f | %.2f %% |\n", rows[i].name, rows[i].all_us, rows[i].mask_us, rows[i].worst_us,
               rows[i].own_us / rows[i].all_us * 100);
    for (int i = 0; i < MADE; i++) m->len[i] = (uint8_t)make_token(m->text[i], i);
    const struct grammar_tokens made = {m, MADE, made_bytes, made_ends, -1, -1};
    double start = cpu_us(CLOCK_PROCESS_CPUTIME_ID);
    if (grammar_vocabulary_new(&large, &made, &e) != ERR_OK) return 1;
    printf("\n| 150,000 tokens (read in %.0f ms) | masks | us a mask | worst, us | us an advance |\n| --- | ---: | ---: | ---: | ---: |\n",
           (cpu_us(CLOCK_PROCESS_CPUTIME_ID) - start) / 1e3);
    walk(large, "json_object", OBJECT, 3000);
    walk(large, "json_schema", SCHEMA, 3000);
    engine_close(engine);
    grammar_vocabulary_free(v);
    grammar_vocabulary_free(large);
    free(m);
    return 0;
}
