#include "engine/engine.h"
#include "engine/tokenizer.h"
#include "tests/engine/gguf_builder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <time.h>
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

/* ---- small vocabularies of our own ---- */

enum { USER = 4, CONTROL = 3, BYTE = 6 };

/* Every byte, then words that merges build, then special tokens. */
static struct tokenizer *small_bpe(const char *pre, bool add_bos)
{
    static const char *const WORDS[] = {"aa", "aaaa", "aaaaaaaa", "he", "ll", "hell", "hello", "\xC4\xA0hello", "pq", "qr", "pqr"};
    static const char *const MERGES[] = {"a a", "aa aa", "aaaa aaaa", "h e", "l l", "he ll", "hell o",
                                         "\xC4\xA0 hello", "x y", "xy z" /* these two make no token */,
                                         "p q", "q r", "p qr"};
    static const char *const SPECIALS[] = {"<|im_start|>", "<|im_end|>", "<|im", "[user]", "<s>"};
    static const int32_t SPECIAL_KINDS[] = {CONTROL, CONTROL, CONTROL, USER, CONTROL};
    static char alphabet[256][4];
    const char *tokens[256 + 11 + 5];
    int32_t kinds[256 + 11 + 5];
    int count = 0, other = 0;
    for (int b = 0; b < 256; b++) { /* GPT-2's alphabet, written independently of the code under test */
        bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        int code = printable ? b : 256 + other++;
        if (code < 128) (void)snprintf(alphabet[b], 4, "%c", code);
        else (void)snprintf(alphabet[b], 4, "%c%c", 0xC0 | code >> 6, 0x80 | (code & 63));
        tokens[count] = alphabet[b];
        kinds[count++] = 1;
    }
    for (size_t i = 0; i < 11; i++, count++) tokens[count] = WORDS[i], kinds[count] = 1;
    for (size_t i = 0; i < 5; i++, count++) tokens[count] = SPECIALS[i], kinds[count] = SPECIAL_KINDS[i];
    struct gguf_builder b = {0};
    gguf_builder_str(&b, "tokenizer.ggml.model", "gpt2");
    gguf_builder_str(&b, "tokenizer.ggml.pre", pre);
    gguf_builder_strings(&b, "tokenizer.ggml.tokens", tokens, (uint64_t)count);
    gguf_builder_ints(&b, "tokenizer.ggml.token_type", kinds, (uint64_t)count);
    gguf_builder_strings(&b, "tokenizer.ggml.merges", MERGES, 13);
    gguf_builder_u32(&b, "tokenizer.ggml.bos_token_id", 271);
    gguf_builder_bool(&b, "tokenizer.ggml.add_bos_token", add_bos);
    size_t len;
    unsigned char *data = gguf_builder_finish(&b, &len);
    struct gguf *g;
    struct tokenizer *t;
    struct err e = {0};
    if (gguf_open_memory(&g, data, len, &e) || tokenizer_open(&t, g, &e)) fail_msg("%s", e.msg);
    gguf_close(g);
    free(data);
    return t;
}

static void expect_ids(const struct tokenizer *t, const char *text, int flags, const char *want)
{
    int32_t *ids;
    int count;
    struct buf got = BUF_INIT(4096);
    assert_int_equal(tokenizer_encode(t, text, strlen(text), flags, &ids, &count, NULL), ERR_OK);
    for (int i = 0; i < count; i++) (void)buf_addf(&got, i ? " %d" : "%d", ids[i]);
    assert_string_equal(got.data, want);
    buf_release(&got);
    free(ids);
}

static void merges_go_by_rank(void **state)
{
    (void)state;
    struct tokenizer *t = small_bpe("gpt-2", false);
    expect_ids(t, "", 0, "");
    expect_ids(t, "hello hello", 0, "262 263");
    expect_ids(t, "aaaaaaaaaaa", 0, "258 256 97"); /* 8 + 2 + 1 */
    expect_ids(t, "hel", 0, "259 108");
    expect_ids(t, "axyz", 0, "97 120 121 122"); /* "xyz" merges but is no token: its bytes */
    expect_ids(t, "pqr", 0, "264 114"); /* pq goes first; "pqr" is made of p and qr alone */
    expect_ids(t, "qr", 0, "265");
    assert_int_equal(tokenizer_vocabulary(t), 272);
    tokenizer_close(t);
}

static void special_tokens_are_found_when_asked(void **state)
{
    (void)state;
    struct tokenizer *t = small_bpe("gpt-2", false);
    expect_ids(t, "<|im_end|>", ENGINE_TOKENIZE_SPECIAL, "268");
    expect_ids(t, "a<|im_start|>a<|im_x", ENGINE_TOKENIZE_SPECIAL, "97 267 97 269 95 120"); /* the longest that fits */
    expect_ids(t, "<|im_end|", ENGINE_TOKENIZE_SPECIAL, "269 95 101 110 100 124");
    expect_ids(t, "<s>", 0, "60 115 62");         /* control tokens only when asked */
    expect_ids(t, "a[user]a", 0, "97 270 97");    /* user-defined ones always */
    assert_int_equal(tokenizer_find(t, "<|im_end|>"), 268);
    assert_int_equal(tokenizer_find(t, "\xC4\xA0hello"), 263);
    assert_int_equal(tokenizer_find(t, "xyz"), -1);
    assert_true(tokenizer_is_end(t, 268)); /* by its name */
    assert_false(tokenizer_is_end(t, 267));
    assert_true(tokenizer_is_control(t, 267));
    assert_false(tokenizer_is_control(t, 270));
    assert_int_equal(tokenizer_bytes(t, 268, false, NULL, 0), 0);
    assert_int_equal(tokenizer_bytes(t, 268, true, NULL, 0), 10);
    assert_int_equal(tokenizer_bytes(t, 270, false, NULL, 0), 6);
    assert_int_equal(tokenizer_bytes(t, 263, false, NULL, 0), 6);
    assert_int_equal(tokenizer_bytes(t, -1, false, NULL, 0), 0);
    assert_int_equal(tokenizer_bytes(t, 272, false, NULL, 0), 0);
    tokenizer_close(t);
}

static void bos_is_added_once(void **state)
{
    (void)state;
    struct tokenizer *t = small_bpe("gpt-2", true);
    expect_ids(t, "a", ENGINE_TOKENIZE_ADD, "271 97");
    expect_ids(t, "", ENGINE_TOKENIZE_ADD, "271");
    expect_ids(t, "a", 0, "97");
    expect_ids(t, "<s>a", ENGINE_TOKENIZE_ADD | ENGINE_TOKENIZE_SPECIAL, "271 97");
    expect_ids(t, "<s><s>", ENGINE_TOKENIZE_SPECIAL, "271 271");
    tokenizer_close(t);
}

static void any_bytes_come_back(void **state)
{
    (void)state;
    static const char *const PRES[] = {"gpt-2", "smollm", "llama-bpe", "qwen2", "deepseek-llm", "deepseek-coder",
                                       "deepseek-v3", "falcon", "default", "bloom", "viking", "tekken", "gpt-4o"};
    for (size_t p = 0; p < sizeof PRES / sizeof PRES[0]; p++) {
        struct tokenizer *t = small_bpe(PRES[p], false);
        unsigned state32 = 7;
        for (int round = 0; round < 200; round++) {
            char text[64], back[64];
            size_t len = (size_t)round % sizeof text, n = 0;
            for (size_t i = 0; i < len; i++) {
                state32 = state32 * 1664525U + 1013904223U;
                char byte = (char)(state32 >> 24), picked = " \n\r'aZ1.\xE4\xBD\xA0\xC3\xA9"[(state32 >> 24) % 13];
                text[i] = round & 1 ? byte : picked;
            }
            int32_t *ids;
            int count;
            assert_int_equal(tokenizer_encode(t, text, len, 0, &ids, &count, NULL), ERR_OK);
            for (int i = 0; i < count; i++) n += tokenizer_bytes(t, ids[i], true, back + n, sizeof back - n);
            assert_int_equal(n, len);
            assert_memory_equal(back, text, len);
            free(ids);
        }
        tokenizer_close(t);
    }
}

static struct tokenizer *small_spm(bool space_prefix)
{
    static const char *const TOKENS[] = {"<unk>", "<s>", "</s>", "<0x0A>", "<0xC3>", "<0xA9>", "\xE2\x96\x81", "a", "b",
                                         "ab", "\xE2\x96\x81" "a", "aa", "<user>"};
    static const int32_t KINDS[] = {2, CONTROL, CONTROL, BYTE, BYTE, BYTE, 1, 1, 1, 1, 1, 1, USER};
    static const float SCORES[] = {0, 0, 0, 0, 0, 0, -1, -2, -3, -0.5F, -0.25F, -0.75F, 0};
    struct gguf_builder b = {0};
    gguf_builder_str(&b, "tokenizer.ggml.model", "llama");
    gguf_builder_strings(&b, "tokenizer.ggml.tokens", TOKENS, 13);
    gguf_builder_ints(&b, "tokenizer.ggml.token_type", KINDS, 13);
    gguf_builder_floats(&b, "tokenizer.ggml.scores", SCORES, 13);
    if (!space_prefix) gguf_builder_bool(&b, "tokenizer.ggml.add_space_prefix", false);
    gguf_builder_bool(&b, "tokenizer.ggml.add_eos_token", true);
    size_t len;
    unsigned char *data = gguf_builder_finish(&b, &len);
    struct gguf *g;
    struct tokenizer *t;
    struct err e = {0};
    if (gguf_open_memory(&g, data, len, &e) || tokenizer_open(&t, g, &e)) fail_msg("%s", e.msg);
    gguf_close(g);
    free(data);
    return t;
}

static void spm_merges_by_score_and_falls_back_to_bytes(void **state)
{
    (void)state;
    struct tokenizer *t = small_spm(false);
    expect_ids(t, "ab", 0, "9");
    expect_ids(t, "aab", 0, "7 9");      /* ab scores better than aa */
    expect_ids(t, "\n\xC3\xA9", 0, "3 4 5");
    expect_ids(t, "x", 0, "0");          /* no byte token: unknown */
    expect_ids(t, " a", 0, "10");
    char space;
    assert_int_equal(tokenizer_bytes(t, 6, false, &space, 1), 1);
    assert_int_equal(space, ' ');
    assert_int_equal(tokenizer_bytes(t, 3, false, &space, 1), 1);
    assert_int_equal(space, '\n');
    tokenizer_close(t);
}

static void spm_puts_a_space_first_and_after_special_tokens(void **state)
{
    (void)state;
    struct tokenizer *t = small_spm(true);
    expect_ids(t, "a", 0, "10");
    expect_ids(t, "a", ENGINE_TOKENIZE_ADD, "1 10 2");
    expect_ids(t, "a<user>a", 0, "10 12 10");
    expect_ids(t, "a</s>b", ENGINE_TOKENIZE_SPECIAL, "10 2 6 8");
    expect_ids(t, "", 0, "");
    assert_int_equal(tokenizer_bos(t), 1);
    assert_int_equal(tokenizer_eos(t), 2);
    assert_true(tokenizer_is_end(t, 2));
    tokenizer_close(t);
}

static void a_million_letters_take_no_time(void **state)
{
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    enum { LEN = 1 << 20, MOST_MS = 10000 };
#else
    enum { LEN = 1 << 20, MOST_MS = 1000 };
#endif
    static const char *const PATTERNS[] = {"a", " ", "\n", "1", "ab", "'", "<|im_star", "\xE4\xB8\xAD", "\xFF", " a", "A\xE4\xB8\xAD"};
    static const char *const PRES[] = {"gpt-2", "llama-bpe", "deepseek-llm", "deepseek-v3", "default", "gpt-4o", NULL};
    char *text = malloc(LEN);
    for (size_t m = 0; m < sizeof PRES / sizeof PRES[0]; m++) {
        struct tokenizer *t = PRES[m] ? small_bpe(PRES[m], false) : small_spm(true);
        for (size_t p = 0; p < sizeof PATTERNS / sizeof PATTERNS[0]; p++) {
            size_t n = strlen(PATTERNS[p]);
            for (size_t i = 0; i < LEN; i++) text[i] = PATTERNS[p][i % n];
            text[LEN - 1] = 'x'; /* a run of spaces that does not reach the end is the harder case */
            int32_t *ids;
            int count;
            clock_t start = clock(); /* processor time, so that a busy machine fails no test */
            assert_int_equal(tokenizer_encode(t, text, LEN, ENGINE_TOKENIZE_SPECIAL, &ids, &count, NULL), ERR_OK);
            double took_ms = (double)(clock() - start) * 1000 / CLOCKS_PER_SEC;
            free(ids);
            if (took_ms > MOST_MS) fail_msg("%s, '%s': %.0f ms", PRES[m] ? PRES[m] : "spm", PATTERNS[p], took_ms);
        }
        tokenizer_close(t);
    }
    free(text);
}

static void unknown_and_broken_vocabularies_are_refused(void **state)
{
    (void)state;
    static const char *const TOKENS[] = {"a"};
    static const struct {
        const char *model, *pre;
        int tokens;
        enum err_code code;
        const char *words;
    } ROWS[] = {
        {"bert", NULL, 1, ERR_UNSUPPORTED, "'bert'"},
        {"gpt2", "made-up", 1, ERR_UNSUPPORTED, "'made-up'"},
        {"gpt2", "gpt-2 mpt", 1, ERR_UNSUPPORTED, "pre-tokenizer"},
        {"gpt2", "gpt-2", 0, ERR_CORRUPT, "tokenizer.ggml.tokens"},
        {"gpt2", "gpt-2", 1, ERR_CORRUPT, "tokenizer.ggml.merges"},
    };
    for (size_t i = 0; i < sizeof ROWS / sizeof ROWS[0]; i++) {
        struct gguf_builder b = {0};
        gguf_builder_str(&b, "tokenizer.ggml.model", ROWS[i].model);
        if (ROWS[i].pre) gguf_builder_str(&b, "tokenizer.ggml.pre", ROWS[i].pre);
        if (ROWS[i].tokens) gguf_builder_strings(&b, "tokenizer.ggml.tokens", TOKENS, 1);
        size_t len;
        unsigned char *data = gguf_builder_finish(&b, &len);
        struct gguf *g;
        struct tokenizer *t = NULL;
        struct err e = {0};
        assert_int_equal(gguf_open_memory(&g, data, len, NULL), ERR_OK);
        assert_int_equal(tokenizer_open(&t, g, &e), ROWS[i].code);
        assert_null(t);
        if (!strstr(e.msg, ROWS[i].words)) fail_msg("'%s' does not say %s", e.msg, ROWS[i].words);
        gguf_close(g);
        free(data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_gpt2_cases),
        cmocka_unit_test(published_deepseek_llm_cases),
        cmocka_unit_test(published_llama_spm_cases),
        cmocka_unit_test(merges_go_by_rank),
        cmocka_unit_test(special_tokens_are_found_when_asked),
        cmocka_unit_test(bos_is_added_once),
        cmocka_unit_test(any_bytes_come_back),
        cmocka_unit_test(spm_merges_by_score_and_falls_back_to_bytes),
        cmocka_unit_test(spm_puts_a_space_first_and_after_special_tokens),
        cmocka_unit_test(a_million_letters_take_no_time),
        cmocka_unit_test(unknown_and_broken_vocabularies_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
