#include "cli/bench_draft.h"

#include "base/clock.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PROMPTS_MAX = 4096, LINE_MAX_BYTES = 1 << 16, ROUNDS_MAX = 99 };

static const char *const OWN[] = {
    "Explain in a few sentences why the sky is blue and why sunsets are red.",
    "Write a short letter to a landlord that asks for a repair of the heating.",
    "Count from one to twenty in words, then give the sum of all the numbers.",
    "What is 17 + 25? Then multiply the result by 3 and subtract 6.",
};

struct asked {
    int32_t *ids;
    int count;
};

struct side { /* one engine, and what became of its answers */
    struct engine *engine;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int ended;
    int64_t tokens;
    double seconds[ROUNDS_MAX], cpu[ROUNDS_MAX]; /* by the clock; of all threads */
    uint64_t *text; /* (prompts) hash of each answer's tokens */
    struct err error;
};

static void on_token(void *ctx, uint64_t id, const struct engine_token *t)
{
    struct side *s = ctx;
    s->text[id] = (s->text[id] ^ (uint64_t)t->id) * 0x9e3779b97f4a7c15u + 1;
}

static void ended(struct side *s, int tokens, const struct err *error)
{
    (void)pthread_mutex_lock(&s->lock);
    s->ended++;
    s->tokens += tokens;
    if (error) s->error = *error;
    (void)pthread_cond_signal(&s->changed);
    (void)pthread_mutex_unlock(&s->lock);
}

static void on_done(void *ctx, uint64_t id, const struct engine_end *end)
{
    (void)id;
    ended(ctx, end->completion_tokens, NULL);
}

static void on_error(void *ctx, uint64_t id, const struct err *error)
{
    (void)id;
    ended(ctx, 0, error);
}

/* ---- prompts ---- */

static enum err_code add_prompt(const struct engine *engine, const char *text, struct asked *out, struct err *e)
{
    struct buf rendered = BUF_INIT(1 << 20);
    struct engine_message user = {.role = "user", .content = text};
    enum err_code code = engine_render_chat(engine, &user, 1, NULL, NULL, true, &rendered, e);
    const int flags = ENGINE_TOKENIZE_ADD | ENGINE_TOKENIZE_SPECIAL;
    if (!code) code = engine_tokenize(engine, rendered.data, rendered.len, flags, &out->ids, &out->count, e);
    buf_release(&rendered);
    return code;
}

static enum err_code read_prompts(const struct engine *engine, const struct bench_draft *o, struct asked *asked, int *count, struct err *e)
{
    int most = o->limit > 0 && o->limit < PROMPTS_MAX ? o->limit : PROMPTS_MAX;
    enum err_code code = ERR_OK;
    *count = 0;
    if (!o->prompts) {
        for (size_t i = 0; i < sizeof OWN / sizeof OWN[0] && *count < most && !code; i++)
            if (!(code = add_prompt(engine, OWN[i], &asked[*count], e))) ++*count;
        return code;
    }
    char *line = malloc(LINE_MAX_BYTES);
    FILE *f = fopen(o->prompts, "r");
    if (!line || !f) code = err_set(e, line ? ERR_IO : ERR_MEMORY, "%s: %s", o->prompts, strerror(errno));
    while (!code && *count < most && fgets(line, LINE_MAX_BYTES, f)) {
        line[strcspn(line, "\n")] = 0;
        if (*line && !(code = add_prompt(engine, line, &asked[*count], e))) ++*count;
    }
    if (f) (void)fclose(f);
    free(line);
    if (!code && !*count) code = err_set(e, ERR_INVALID, "%s holds no prompt", o->prompts);
    return code;
}

/* ---- rounds ---- */

static double cpu_seconds(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static enum err_code run_round(struct side *s, const struct bench_draft *o, const struct asked *asked, int count, int round, struct err *e)
{
    const struct engine_sink sink = {.ctx = s, .on_token = on_token, .on_done = on_done, .on_error = on_error};
    enum err_code code = ERR_OK;
    int submitted = 0;
    memset(s->text, 0, (size_t)count * sizeof *s->text);
    s->ended = 0;
    s->tokens = 0;
    int64_t start = clock_mono_us();
    double cpu = cpu_seconds();
    for (; submitted < count && !code; submitted += !code) {
        struct engine_request r = {.prompt = asked[submitted].ids, .prompt_count = asked[submitted].count, .max_tokens = o->tokens,
                                   .sampling = ENGINE_SAMPLING_GREEDY};
        r.sampling.temperature = o->temperature;
        r.sampling.seed = (uint64_t)submitted;
        code = engine_submit(s->engine, (uint64_t)submitted, &r, &sink, e);
    }
    (void)pthread_mutex_lock(&s->lock);
    while (s->ended < submitted) (void)pthread_cond_wait(&s->changed, &s->lock);
    (void)pthread_mutex_unlock(&s->lock);
    s->seconds[round] = (double)(clock_mono_us() - start) * 1e-6;
    s->cpu[round] = cpu_seconds() - cpu;
    if (!code && s->error.code) {
        *e = s->error;
        code = s->error.code;
    }
    return code;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double rate_of(const struct side *s, double *seconds, int rounds)
{
    qsort(seconds, (size_t)rounds, sizeof *seconds, by_size);
    return (double)s->tokens / seconds[rounds / 2];
}

static double share(int64_t part, int64_t of)
{
    return of ? (double)part / (double)of : 0;
}

static void show(const struct bench_draft *o, struct side *plain, struct side *draft, int count)
{
    struct engine_stats st;
    struct engine_info info;
    int same = 0;
    engine_stats(draft->engine, &st);
    engine_info(draft->engine, &info);
    for (int i = 0; i < count; i++) same += plain->text[i] == draft->text[i];
    double without = rate_of(plain, plain->seconds, o->rounds), with = rate_of(draft, draft->seconds, o->rounds);
    double cpu_without = rate_of(plain, plain->cpu, o->rounds), cpu_with = rate_of(draft, draft->cpu, o->rounds);
    int64_t looked = st.guessed_tokens - st.draft_guessed_tokens, looked_kept = st.kept_tokens - st.draft_kept_tokens;
    if (o->json) {
        (void)printf("{\"what\":\"draft\",\"model\":\"%s\",\"draft\":\"%s\",\"streams\":%d,\"temperature\":%g,\"prompts\":%d,"
                     "\"same\":%d,\"tokens\":%lld,\"tokens_per_s\":%.2f,\"tokens_per_s_without\":%.2f,\"tokens_per_cpu_s\":%.2f,"
                     "\"tokens_per_cpu_s_without\":%.2f,"
                     "\"draft_guessed\":%lld,\"draft_kept\":%lld,\"draft_steps\":%lld,"
                     "\"lookup_guessed\":%lld,\"lookup_kept\":%lld}\n",
                     info.name, info.draft, o->streams, (double)o->temperature, count, same, (long long)draft->tokens, with, without,
                     cpu_with, cpu_without, (long long)st.draft_guessed_tokens, (long long)st.draft_kept_tokens, (long long)st.draft_steps, (long long)looked,
                     (long long)looked_kept);
        return;
    }
    (void)printf("%s, drafted by %s (%s, %s): %d prompts, %d streams, temperature %g, %lld tokens a round\n\n", info.name, info.draft,
                 info.kernels, info.draft_kernels, count, o->streams, (double)o->temperature, (long long)draft->tokens);
    (void)printf("without the draft model %10.1f tokens/s         %10.1f tokens/cpu s\n", without, cpu_without);
    (void)printf("with it                 %10.1f tokens/s (%.2f x)%10.1f tokens/cpu s (%.2f x)\n", with, with / without, cpu_with,
                 cpu_with / cpu_without);
    (void)printf("its guesses kept        %10lld of %lld (%.0f %%), %lld steps of it\n", (long long)st.draft_kept_tokens,
                 (long long)st.draft_guessed_tokens, share(st.draft_kept_tokens, st.draft_guessed_tokens) * 100, (long long)st.draft_steps);
    (void)printf("those from the text     %10lld of %lld (%.0f %%)\n", (long long)looked_kept, (long long)looked,
                 share(looked_kept, looked) * 100);
    (void)printf("answers that are the same %8d of %d\n", same, count);
}

static enum err_code side_open(struct side *s, struct engine_options options, int prompts, struct err *e)
{
    (void)pthread_mutex_init(&s->lock, NULL);
    (void)pthread_cond_init(&s->changed, NULL);
    s->text = calloc((size_t)prompts, sizeof *s->text);
    return s->text ? engine_open(&s->engine, &options, e) : err_set(e, ERR_MEMORY, "no memory for %d answers", prompts);
}

static void side_close(struct side *s)
{
    engine_close(s->engine);
    free(s->text);
    (void)pthread_mutex_destroy(&s->lock);
    (void)pthread_cond_destroy(&s->changed);
}

enum err_code bench_draft(const struct bench_draft *o, struct err *e)
{
    struct side sides[2] = {0}; /* without, with */
    struct asked *asked = calloc(PROMPTS_MAX, sizeof *asked);
    struct engine_options options = o->engine;
    int count = 0;
    if (!asked) return err_set(e, ERR_MEMORY, "no memory for prompts");
    options.slots_max = o->streams;
    options.queue_max = PROMPTS_MAX;
    enum err_code code = side_open(&sides[1], options, PROMPTS_MAX, e);
    options.draft = NULL;
    if (!code) code = side_open(&sides[0], options, PROMPTS_MAX, e);
    if (!code) code = read_prompts(sides[0].engine, o, asked, &count, e);
    for (int i = 0; i < o->rounds * 2 && !code; i++) code = run_round(&sides[i % 2], o, asked, count, i / 2, e);
    if (!code) show(o, &sides[0], &sides[1], count);
    for (int i = 0; i < 2; i++)
        if (sides[i].text) side_close(&sides[i]);
    for (int i = 0; i < count; i++) free(asked[i].ids);
    free(asked);
    return code;
}
