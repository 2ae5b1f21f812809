#include "base/clock.h"
#include "engine/engine.h"
#include "engine/tokenizer.h"
#include "tests/engine/gguf_builder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

/* ---- published cases (not in this repository): RUNG_SHARED_DATA, or ../shared beside the sources ---- */

static char *read_case_file(const char *name, size_t *len)
{
    char path[1024];
    const char *folder = getenv("RUNG_SHARED_DATA");
    if (folder) (void)snprintf(path, sizeof path, "%s/data/tokenizers/%s", folder, name);
    else (void)snprintf(path, sizeof path, SOURCE_DIR "/../shared/data/tokenizers/%s", name);
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    char *data = malloc(1 << 20);
    assert_non_null(data);
    *len = fread(data, 1, (1 << 20) - 1, f);
    data[*len] = 0;
    (void)fclose(f);
    return data;
}

static void open_case_tokenizer(struct tokenizer **t, const char *name)
{
    char path[1024];
    const char *folder = getenv("RUNG_SHARED_DATA");
    if (folder) (void)snprintf(path, sizeof path, "%s/data/tokenizers/%s", folder, name);
    else (void)snprintf(path, sizeof path, SOURCE_DIR "/../shared/data/tokenizers/%s", name);
    struct gguf *g;
    struct err e = {0};
    if (gguf_open(&g, path, &e)) fail_msg("%s", e.msg);
    if (tokenizer_open(t, g, &e)) fail_msg("%s", e.msg);
    gguf_close(g);
}

static void check_case(const struct tokenizer *t, const char *text, size_t len, const char *want, int number)
{
    int32_t *ids;
    int count;
    assert_int_equal(tokenizer_encode(t, text, len, 0, &ids, &count, NULL), ERR_OK);
    struct buf got = BUF_INIT(1 << 20), back = BUF_INIT(1 << 20);
    for (int i = 0; i < count; i++) {
        char piece[256];
        size_t n = tokenizer_bytes(t, ids[i], true, piece, sizeof piece);
        (void)buf_addf(&got, " %d", ids[i]);
        (void)buf_add(&back, piece, n);
    }
    if (strcmp(got.data, want) != 0) fail_msg("case %d '%s':\n  got %s\n want%s", number, text, got.data, want);
    const char *bytes = back.len == len + 1 && back.data[0] == ' ' ? back.data + 1 : back.data; /* SPM's first space */
    assert_string_equal(bytes, text);
    buf_release(&got);
    buf_release(&back);
    free(ids);
}

static void check_published(const char *vocabulary)
{
    static const char MARK[] = "\n__ggml_vocab_test__\n";
    char name[128];
    size_t in_len, out_len;
    (void)snprintf(name, sizeof name, "%s.inp", vocabulary);
    char *in = read_case_file(name, &in_len);
    (void)snprintf(name, sizeof name, "%s.out", vocabulary);
    char *out = read_case_file(name, &out_len);
    if (!in || !out) {
        print_message("skipped: no %s (set RUNG_SHARED_DATA)\n", name);
        skip();
    }
    struct tokenizer *t;
    open_case_tokenizer(&t, vocabulary);
    int cases = 0;
    for (char *text = in, *line = out, *next; text; text = next, cases++) {
        char *end = strstr(text, MARK), *line_end = strchr(line, '\n');
        next = end ? end + strlen(MARK) : NULL;
        if (!end) break; /* what follows the last mark is no case */
        *end = 0;
        assert_non_null(line_end);
        *line_end = 0;
        check_case(t, text, strlen(text), line, cases);
        line = line_end + 1;
    }
    assert_true(cases > 40);
    tokenizer_close(t);
    free(in);
    free(out);
}

static void published_gpt2_cases(void **state)
{
    (void)state;
    check_published("ggml-vocab-gpt-2.gguf");
}

static void published_deepseek_llm_cases(void **state)
{
    (void)state;
    check_published("ggml-vocab-deepseek-llm.gguf");
}

static void published_llama_spm_cases(void **state)
{
    (void)state;
    check_published("ggml-vocab-llama-spm.gguf");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_gpt2_cases),
        cmocka_unit_test(published_deepseek_llm_cases),
        cmocka_unit_test(published_llama_spm_cases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
