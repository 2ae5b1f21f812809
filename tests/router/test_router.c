#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "router/sketch.h"
#include "router/model.h"
#include "router/train.h"

#include <math.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Two kinds of prompt: the small model gets the greetings right and the sums wrong, mostly. */
static void synthetic(FILE *f, int count)
{
    static const char *const NAMES[] = {"Ada", "Ben", "Chen", "Dora", "Emil", "Fatima", "Goro", "Hana"};
    unsigned s = 12345;
    for (int i = 0; i < count; i++) {
        s = s * 1103515245u + 12345u;
        unsigned a = s >> 16, odd = a % 10 == 0;
        if (i % 2)
            (void)fprintf(f, "{\"task\":\"sum\",\"prompt\":\"What is %u + %u - %u?\",\"scores\":{\"s\":%u,\"m\":%u,\"l\":1}}\n",
                          a % 997, a % 89, a % 13, odd, a % 2);
        else
            (void)fprintf(f, "{\"task\":\"hi\",\"prompt\":\"Say hello to %s and %s, friend %u\",\"scores\":{\"s\":%u,\"m\":1,\"l\":1}}\n",
                          NAMES[a % 8], NAMES[a / 8 % 8], i, !odd);
    }
    rewind(f);
}

static struct router *fitted(const char *tiers, double (*out_of_fold)[TIERS])
{
    struct train_rows rows;
    struct err e;
    assert_int_equal(train_tiers(&rows, tiers, &e), ERR_OK);
    FILE *f = tmpfile();
    assert_non_null(f);
    synthetic(f, 400);
    assert_int_equal(train_rows_read(&rows, f, "synthetic", &e), ERR_OK);
    (void)fclose(f);
    struct router *r;
    struct train_options options = {.bits = 12, .wall_ms = 1700000000000};
    assert_int_equal(train_router(&r, &rows, &options, out_of_fold, &e), ERR_OK);
    train_rows_release(&rows);
    return r;
}

static struct router_scores score(const struct router *r, const char *text)
{
    struct router_input in = {.text = text, .text_len = strlen(text), .turns = 1};
    struct router_scores s;
    router_score(r, &in, &s);
    return s;
}

static void path_of(char *path, size_t size)
{
    (void)snprintf(path, size, "/tmp/rung-test-router-%d", (int)getpid());
}

static unsigned char *saved(struct router *r, size_t *len)
{
    char path[64];
    path_of(path, sizeof path);
    struct err e;
    assert_int_equal(model_save(r, path, &e), ERR_OK);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    unsigned char *data = malloc(1 << 20);
    *len = fread(data, 1, 1 << 20, f);
    (void)fclose(f);
    (void)unlink(path);
    return data;
}

static void easy_prompts_score_high_and_hard_ones_low(void **state)
{
    (void)state;
    struct router *r = fitted("s,m,l", NULL);
    struct router_scores hello = score(r, "Say hello to Dora and Hana, friend 7");
    struct router_scores sum = score(r, "What is 512 + 44 - 3?");
    assert_true(hello.p[TIER_EDGE] > 0.8 && sum.p[TIER_EDGE] < 0.3);
    assert_true(sum.p[TIER_REGION] > 0.3 && sum.p[TIER_REGION] < 0.7);
    assert_true(sum.p[TIER_CORE] > 0.95);
    for (int t = 0; t < TIERS; t++) assert_true(hello.known[t]);
    assert_true(score(r, "完全不同的语言").ood > sum.ood);
    router_free(r);
}

static void two_tiers_are_edge_and_core_with_their_mean_between(void **state)
{
    (void)state;
    struct router *r = fitted("s,l", NULL);
    struct router_scores s = score(r, "What is 512 + 44 - 3?");
    assert_true(fabs(s.p[TIER_REGION] - (s.p[TIER_EDGE] + s.p[TIER_CORE]) / 2) < 1e-12);
    struct router_info info;
    router_info(r, &info);
    assert_int_equal(info.tiers, 2);
    assert_string_equal(info.names[1], "l");
    router_free(r);
}

static void a_file_scores_as_the_fit_did_and_fits_repeat(void **state)
{
    (void)state;
    struct router *a = fitted("s,m,l", NULL), *b = fitted("s,m,l", NULL);
    size_t a_len, b_len;
    unsigned char *a_data = saved(a, &a_len), *b_data = saved(b, &b_len);
    assert_int_equal(a_len, b_len);
    assert_memory_equal(a_data, b_data, a_len);
    struct router *c;
    struct err e;
    assert_int_equal(model_parse(&c, a_data, a_len, "memory", &e), ERR_OK);
    assert_string_equal(c->info.fingerprint, a->info.fingerprint);
    assert_int_equal(strlen(c->info.fingerprint), 16);
    static const char *const TEXTS[] = {"", " ", "Say hello", "What is 1 + 1?", "\xff\xfe\x80", "你好，世界", "A. 1\nB. 2\n"};
    for (size_t i = 0; i < sizeof TEXTS / sizeof TEXTS[0]; i++)
        for (int t = 0; t < TIERS; t++) assert_true(score(a, TEXTS[i]).p[t] == score(c, TEXTS[i]).p[t]);
    router_free(a);
    router_free(b);
    router_free(c);
    free(a_data);
    free(b_data);
}

static void damaged_and_foreign_files_are_refused(void **state)
{
    (void)state;
    struct router *r = fitted("s,l", NULL), *got = NULL;
    size_t len;
    unsigned char *data = saved(r, &len);
    struct err e;
    for (size_t cut = 0; cut < len; cut += 1 + cut / 3)
        assert_int_equal(model_parse(&got, data, cut, "cut", &e), ERR_CORRUPT);
    for (size_t at = 0; at < len; at += 97) {
        data[at] ^= 4;
        enum err_code code = model_parse(&got, data, len, "bent", &e);
        assert_true(code == ERR_CORRUPT || code == ERR_VERSION);
        data[at] ^= 4;
    }
    data[8] = 99;
    assert_int_equal(model_parse(&got, data, len, "new", &e), ERR_VERSION);
    assert_int_equal(router_load(&got, "/nonexistent/router", &e), ERR_IO);
    assert_null(got);
    free(data);
    router_free(r);
}

static void long_texts_are_read_at_their_ends(void **state)
{
    (void)state;
    struct router *r = fitted("s,l", NULL);
    size_t len = 3000000;
    char *text = malloc(len);
    memset(text, 'x', len);
    struct router_input in = {.text = text, .text_len = len, .turns = 1};
    struct router_scores s;
    router_score(r, &in, &s);
    assert_true(s.p[TIER_EDGE] >= 0 && s.p[TIER_EDGE] <= 1);
    free(text);
    router_free(r);
}

static void sketches_of_like_prompts_are_alike_only_under_one_key(void **state)
{
    (void)state;
    unsigned char key[2][32] = {{1}, {2}}, out[4][ROUTER_SKETCH_BYTES];
    static const char *const TEXTS[] = {"Say hello to Ada and Ben, friend 4", "Say hello to Ben and Ada, friend 5",
                                        "What is the boiling point of water on Mars?"};
    for (int i = 0; i < 3; i++) {
        struct router_input in = {.text = TEXTS[i], .text_len = strlen(TEXTS[i]), .turns = 1};
        router_sketch(&in, key[0], NULL, out[i]);
        if (i == 0) router_sketch(&in, key[1], NULL, out[3]);
    }
    double dot[4] = {0};
    struct sketch sketch[4];
    for (int k = 0; k < 4; k++) assert_true(sketch_read(&sketch[k], out[k], sizeof out[k]));
    for (int i = 0; i < SKETCH_TRITS; i++)
        for (int k = 0; k < 4; k++) dot[k] += sketch[0].trit[i] * sketch[k].trit[i];
    assert_memory_equal(sketch[0].key_id, sketch[1].key_id, SKETCH_KEY_ID);
    assert_memory_not_equal(sketch[0].key_id, sketch[3].key_id, SKETCH_KEY_ID);
    assert_true(dot[1] > 0.6 * dot[0]);
    assert_true(dot[2] < 0.4 * dot[0]);
    assert_true(fabs(dot[3]) < 0.3 * dot[0]);
}

/* Logs hold what earlier rungs made: a change here would make their sketches and a refit's answers another language. */
static void a_sketch_is_the_same_bytes_in_every_rung(void **state)
{
    (void)state;
    static const unsigned char WANTED[16] = {0x53, 0x80, 0x76, 0x15, 0x95, 0x34, 0x0d, 0x7a,
                                             0x26, 0x51, 0xd9, 0x90, 0x0b, 0x85, 0x32, 0xdb};
    const unsigned char key[32] = {1};
    const struct router_base base = {{1, 2, 3, 4}, {0.25, 0.5, -1}};
    const char *text = "Say hello to Ada and Ben, friend 4";
    struct router_input in = {.text = text, .text_len = strlen(text), .turns = 1};
    unsigned char out[ROUTER_SKETCH_BYTES], hash[16];
    router_sketch(&in, key, &base, out);
    (void)crypto_generichash(hash, sizeof hash, out, sizeof out, NULL, 0);
    assert_memory_equal(hash, WANTED, sizeof hash);
}

/* Some of few words, some of more than a trace or the list of touched sums holds. */
static char *words(int count)
{
    char *text = calloc(1, (size_t)count * 8 + 1);
    assert_non_null(text);
    for (int i = 0, at = 0; i < count; i++)
        at += sprintf(text + at, "%c%c%c ", 'a' + i % 26, 'a' + i / 26 % 26, 'a' + i / 676 % 26);
    return text;
}

static void a_trace_makes_the_sketch_that_the_text_makes(void **state)
{
    (void)state;
    struct router *r = fitted("s,l", NULL);
    struct sketch_key key;
    sketch_key_init(&key, (const unsigned char[32]){3});
    struct router_trace trace;
    for (int count = 1; count < 5000; count *= 3) {
        char *text = words(count);
        struct router_input in = {.text = text, .text_len = strlen(text), .turns = 2, .context_len = 77};
        struct router_scores with, without;
        unsigned char from_trace[ROUTER_SKETCH_BYTES], from_text[ROUTER_SKETCH_BYTES];
        router_score_traced(r, &in, &with, &trace);
        router_score(r, &in, &without);
        assert_true(with.p[TIER_EDGE] == without.p[TIER_EDGE] && (count > 4000 || trace.words == count));
        sketch_make(&in, &trace, &key, &with.base, from_trace);
        sketch_make(&in, NULL, &key, &with.base, from_text);
        assert_memory_equal(from_trace, from_text, sizeof from_text);
        free(text);
    }
    router_free(r);
}

static void a_packed_sketch_says_the_same_in_fewer_bytes(void **state)
{
    (void)state;
    const unsigned char key[32] = {1};
    for (int count = 0; count < 5000; count = 3 * count + 1) {
        char *text = words(count);
        struct router_input in = {.text = text, .text_len = strlen(text), .turns = 1};
        unsigned char whole[ROUTER_SKETCH_BYTES], packed[ROUTER_SKETCH_BYTES], back[ROUTER_SKETCH_BYTES];
        router_sketch(&in, key, NULL, whole);
        size_t len = sketch_pack(whole, packed);
        assert_true(count > 40 || len < 256);
        assert_true(sketch_unpack(packed, len, back) && sketch_unpack(whole, sizeof whole, back));
        assert_memory_equal(back, whole, sizeof whole);
        struct sketch a, b;
        assert_true(sketch_read(&a, whole, sizeof whole) && sketch_read(&b, packed, len));
        assert_memory_equal(a.trit, b.trit, sizeof a.trit);
        assert_int_equal(a.filled, b.filled);
        assert_false(sketch_read(&b, packed, len - 1)); /* cut short */
        packed[0] = SKETCH_VERSION_PACKED + 1;
        assert_false(sketch_read(&b, packed, len));
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(easy_prompts_score_high_and_hard_ones_low),
        cmocka_unit_test(two_tiers_are_edge_and_core_with_their_mean_between),
        cmocka_unit_test(a_file_scores_as_the_fit_did_and_fits_repeat),
        cmocka_unit_test(damaged_and_foreign_files_are_refused),
        cmocka_unit_test(long_texts_are_read_at_their_ends),
        cmocka_unit_test(sketches_of_like_prompts_are_alike_only_under_one_key),
        cmocka_unit_test(a_sketch_is_the_same_bytes_in_every_rung),
        cmocka_unit_test(a_trace_makes_the_sketch_that_the_text_makes),
        cmocka_unit_test(a_packed_sketch_says_the_same_in_fewer_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
