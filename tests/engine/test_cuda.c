/* Finding a GPU, and why there is none: each case in a process of its own, as the library is loaded once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/device.h"
#include "engine/engine.h"
#include "tests/engine/fake_gpu.h"
#include "tests/engine/tiny_model.h"

#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TOKENS = 40 };

struct outcome { /* shared with the child */
    enum err_code code;
    char msg[240], device[96], uuid[48], note[240], kernels[160], draft_kernels[16];
    struct engine_stats stats;
    bool same;
    int count;
    int32_t ids[TOKENS];
};

/* Runs `act` in a child that has these variables ("NAME=value", NULL last). */
static struct outcome *in_child(void (*act)(struct outcome *o, const void *with), const void *with, char *const *environment)
{
    static struct outcome *o;
    if (!o) o = mmap(NULL, sizeof *o, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(o != MAP_FAILED);
    memset(o, 0, sizeof *o);
    o->code = ERR_CODES;
    (void)fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        for (; *environment; environment++) (void)putenv(*environment);
        act(o, with);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    return o;
}
#define ENV(...) (char *[]){__VA_ARGS__, NULL}
#define FAKE "RUNG_CUDA_LIBRARY=" FAKE_GPU_LIBRARY

/* ---- the library ---- */

static void find_device(struct outcome *o, const void *with)
{
    struct err e = {0}, again = {0};
    const struct cuda_library *library = cuda_library(&e);
    struct cuda_device d;
    o->same = cuda_library(&again) == library && strcmp(e.msg, again.msg) == 0;
    o->code = library ? library->device(*(const int *)with, &d, &e) : e.code;
    (void)snprintf(o->msg, sizeof o->msg, "%s", e.msg);
    if (!o->code) (void)snprintf(o->device, sizeof o->device, "%s", d.name);
}

static void every_reason_for_no_gpu_is_told(void **state)
{
    (void)state;
    static const struct {
        char *variables[4];
        enum err_code code;
        const char *words;
    } CASES[] = {
        {{"RUNG_CUDA_LIBRARY="}, ERR_UNAVAILABLE, "librung_cuda.so is neither beside the program"},
        {{"RUNG_CUDA_LIBRARY=/nowhere/librung_cuda.so"}, ERR_UNAVAILABLE, "no GPU library: /nowhere/librung_cuda.so: cannot open"},
        {{"RUNG_CUDA_LIBRARY=libm.so.6"}, ERR_VERSION, "libm.so.6 is no GPU library of rung"},
        {{FAKE, "FAKE_GPU_ABI=1"}, ERR_VERSION, "its interface is version 1, this program's"},
        {{FAKE, "FAKE_GPU_DRIVER=libnowhere.so.1"}, ERR_UNAVAILABLE, "no NVIDIA driver: libnowhere.so.1: cannot open"},
        {{FAKE, "FAKE_GPU_DRIVER=libm.so.6"}, ERR_UNAVAILABLE, "does not tell its version"},
        {{FAKE, "FAKE_GPU_DRIVER_VERSION=12080"}, ERR_UNAVAILABLE, "it supports CUDA 12.8; 13.0 is wanted"},
        {{FAKE, "FAKE_GPU=none"}, ERR_UNAVAILABLE, "no GPU is here"},
    };
    int index = 0;
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        struct outcome *o = in_child(find_device, &index, CASES[i].variables);
        if (o->code != CASES[i].code || !strstr(o->msg, CASES[i].words)) fail_msg("case %zu: %d, %s", i, o->code, o->msg);
        assert_true(o->same);
    }
}

static void a_gpu_is_found(void **state)
{
    (void)state;
    int index = 1;
    struct outcome *o = in_child(find_device, &index, ENV(FAKE, "FAKE_GPU_DRIVER_VERSION=13010"));
    assert_int_equal(o->code, ERR_OK);
    assert_string_equal(o->device, "Fake GPU 1");
}

/* ---- an engine on it ---- */

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool ended;
    struct outcome *outcome;
};

static void on_token(void *ctx, uint64_t id, const struct engine_token *t)
{
    struct outcome *o = ((struct waiter *)ctx)->outcome;
    (void)id;
    o->ids[o->count++] = t->id;
}

static void end(struct waiter *w)
{
    (void)pthread_mutex_lock(&w->lock);
    w->ended = true;
    (void)pthread_cond_signal(&w->changed);
    (void)pthread_mutex_unlock(&w->lock);
}

static void on_done(void *ctx, uint64_t id, const struct engine_end *e)
{
    (void)id;
    (void)e;
    end(ctx);
}

static void on_error(void *ctx, uint64_t id, const struct err *e)
{
    struct waiter *w = ctx;
    (void)id;
    w->outcome->code = e->code;
    end(w);
}

static void generate(struct engine *engine, struct outcome *o)
{
    struct waiter w = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, o};
    const int32_t prompt[] = {1, 2, 3, 4};
    const struct engine_request r = {.prompt = prompt, .prompt_count = 4, .max_tokens = TOKENS, .ignore_eos = true,
                                     .sampling = ENGINE_SAMPLING_GREEDY};
    const struct engine_sink sink = {.ctx = &w, .on_token = on_token, .on_done = on_done, .on_error = on_error};
    o->code = engine_submit(engine, 1, &r, &sink, NULL);
    (void)pthread_mutex_lock(&w.lock);
    while (!o->code && !w.ended) (void)pthread_cond_wait(&w.changed, &w.lock);
    (void)pthread_mutex_unlock(&w.lock);
}

static void open_engine(struct outcome *o, const void *with)
{
    struct engine *engine = NULL;
    struct engine_options options = *(const struct engine_options *)with;
    struct engine_info info;
    struct err e = {0};
    char path[] = "/tmp/rung-test-XXXXXX";
    int fd = mkstemp(path);
    (void)close(fd);
    struct gguf_builder g = {0};
    tiny_model_build(&g, GGUF_Q8_0, 11);
    gguf_builder_write(&g, path);
    options.path = path;
    if (options.draft) options.draft = path;
    options.threads = 1;
    o->code = engine_open(&engine, &options, &e);
    (void)unlink(path);
    (void)snprintf(o->msg, sizeof o->msg, "%s", e.msg);
    if (o->code) return;
    engine_info(engine, &info);
    (void)snprintf(o->device, sizeof o->device, "%s", info.device);
    (void)snprintf(o->uuid, sizeof o->uuid, "%s", info.device_uuid);
    (void)snprintf(o->note, sizeof o->note, "%s", info.device_note);
    (void)snprintf(o->kernels, sizeof o->kernels, "%s", info.kernels);
    (void)snprintf(o->draft_kernels, sizeof o->draft_kernels, "%s", info.draft_kernels);
    generate(engine, o);
    engine_stats(engine, &o->stats);
    engine_close(engine);
}

static struct outcome *engine_with(struct engine_options options, char *const *environment)
{
    return in_child(open_engine, &options, environment);
}

static void a_gpu_is_taken_where_it_is_there(void **state)
{
    (void)state;
    static const char *const ASKED[] = {NULL, "auto", "cuda", "cuda:0"};
    for (int i = 0; i < 4; i++) {
        struct outcome *o = engine_with((struct engine_options){.kernels = ASKED[i]}, ENV(FAKE));
        assert_int_equal(o->code, ERR_OK);
        assert_string_equal(o->device, "Fake GPU 0");
        assert_string_equal(o->uuid, "GPU-fake-0");
        assert_string_equal(o->kernels, "cuda");
        assert_string_equal(o->note, "");
        assert_int_equal(o->stats.slots_max, 64);
        assert_int_equal(o->stats.pages_total, FAKE_PAGES_FIT);
        assert_int_equal(o->count, TOKENS);
    }
    /* Who needs little takes little: two sequences, and as much again for what is kept. */
    struct outcome *few = engine_with((struct engine_options){.slots_max = 2, .context_tokens = 100}, ENV(FAKE));
    assert_int_equal(few->stats.pages_total, 2 * 2 * 4);
    struct outcome *o = engine_with((struct engine_options){.kernels = "cuda:1"}, ENV(FAKE));
    assert_string_equal(o->device, "Fake GPU 1");
}

static void a_draft_model_runs_on_the_same_gpu_or_where_it_is_told(void **state)
{
    (void)state;
    struct outcome *alone = engine_with((struct engine_options){.draft_tokens = -1}, ENV(FAKE));
    assert_string_equal(alone->draft_kernels, "");
    for (int cpu = 0; cpu < 2; cpu++) {
        struct outcome *o = engine_with((struct engine_options){.draft = "itself", .draft_kernels = cpu ? "scalar" : NULL,
                                                                .draft_always = true, .draft_tokens = -1}, ENV(FAKE));
        assert_int_equal(o->code, ERR_OK);
        assert_string_equal(o->kernels, "cuda");
        assert_string_equal(o->draft_kernels, cpu ? "scalar" : "cuda");
        assert_int_equal(o->count, TOKENS);
        assert_memory_equal(o->ids, alone->ids, sizeof o->ids);
        /* What this GPU foretells is no model's: only there it is known. */
        if (!cpu) assert_int_equal(o->stats.draft_kept_tokens, o->stats.draft_guessed_tokens);
        assert_true(cpu ? o->stats.draft_guessed_tokens > 0 : o->stats.draft_kept_tokens > 20);
    }
}

static void what_is_asked_for_reaches_the_gpu(void **state)
{
    (void)state;
    struct outcome *o = engine_with((struct engine_options){.kernels = "cuda:1", .invariant = true, .sparse_pages = 7, .kv = ENGINE_KV_Q8_0,
                                                            .context_tokens = 100, .slots_max = 3, .draft_tokens = -1, .prefill_tokens = 50,
                                                            .kv_bytes_max = 9 * FAKE_PAGE_BYTES / 2},
                                    ENV(FAKE, "FAKE_GPU=tell"));
    assert_string_equal(o->kernels, "device 1 invariant 1 sparse 7 8bit 1 pages 9 context 100 cols 53 wanted 6");
    o = engine_with((struct engine_options){.draft_tokens = -1}, ENV(FAKE, "FAKE_GPU=tell"));
    assert_string_equal(o->kernels, "device 0 invariant 0 sparse 0 8bit 0 pages 0 context 1024 cols 2112 wanted 128");
}

static void the_cpu_stands_in_and_says_why(void **state)
{
    (void)state;
    static const struct {
        char *variables[3];
        const char *words;
    } CASES[] = {{{"RUNG_CUDA_LIBRARY=/nowhere.so"}, "no GPU library"},
                 {{FAKE, "FAKE_GPU=none"}, "no GPU is here"},
                 {{FAKE, "FAKE_GPU=small"}, "the model needs 9 GB; the GPU has 1 GB free"}};
    for (int i = 0; i < 3; i++) {
        struct outcome *o = engine_with((struct engine_options){0}, CASES[i].variables);
        assert_int_equal(o->code, ERR_OK);
        assert_string_equal(o->device, "");
        assert_non_null(strstr(o->note, CASES[i].words));
        assert_int_equal(o->stats.slots_max, 4);
        assert_string_not_equal(o->kernels, "cuda");
        assert_int_equal(o->count, TOKENS);
        /* Who asked for a GPU by name gets no CPU. */
        o = engine_with((struct engine_options){.kernels = "cuda"}, CASES[i].variables);
        assert_int_equal(o->code, i == 2 ? ERR_MEMORY : ERR_UNAVAILABLE);
        assert_non_null(strstr(o->msg, CASES[i].words));
    }
}

static void who_asks_for_the_cpu_gets_no_gpu(void **state)
{
    (void)state;
    static const char *const ASKED[] = {"cpu", "scalar"};
    for (int i = 0; i < 2; i++) {
        struct outcome *o = engine_with((struct engine_options){.kernels = ASKED[i]}, ENV(FAKE));
        assert_int_equal(o->code, ERR_OK);
        assert_string_equal(o->device, "");
        assert_string_equal(o->note, "");
        assert_true(i == 0 || strcmp(o->kernels, "scalar") == 0);
    }
    struct outcome *o = engine_with((struct engine_options){.kernels = "cuda9"}, ENV(FAKE));
    assert_int_equal(o->code, ERR_INVALID);
    assert_non_null(strstr(o->msg, "cuda9"));
    o = engine_with((struct engine_options){.kernels = "cuda:-1"}, ENV(FAKE));
    assert_int_equal(o->code, ERR_INVALID);
    o = engine_with((struct engine_options){.kernels = "cuda:2"}, ENV(FAKE));
    assert_non_null(strstr(o->msg, "no GPU 2: 2 are here"));
}

static void too_little_memory_for_one_sequence_is_told(void **state)
{
    (void)state;
    struct engine_options long_context = {.kernels = "cuda", .context_tokens = FAKE_PAGES_FIT * FAKE_PAGE + 1};
    struct outcome *o = engine_with(long_context, ENV(FAKE));
    assert_int_equal(o->code, ERR_MEMORY);
    assert_non_null(strstr(o->msg, "16384 tokens of KV cache; one sequence has up to 16385"));
    o = engine_with((struct engine_options){.kernels = "cuda", .kv_bytes_max = 3 * FAKE_PAGE_BYTES, .context_tokens = 200}, ENV(FAKE));
    assert_int_equal(o->code, ERR_INVALID);
    assert_non_null(strstr(o->msg, "kv_bytes_max holds 96 tokens"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_reason_for_no_gpu_is_told),
        cmocka_unit_test(a_gpu_is_found),
        cmocka_unit_test(a_gpu_is_taken_where_it_is_there),
        cmocka_unit_test(a_draft_model_runs_on_the_same_gpu_or_where_it_is_told),
        cmocka_unit_test(what_is_asked_for_reaches_the_gpu),
        cmocka_unit_test(the_cpu_stands_in_and_says_why),
        cmocka_unit_test(who_asks_for_the_cpu_gets_no_gpu),
        cmocka_unit_test(too_little_memory_for_one_sequence_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
