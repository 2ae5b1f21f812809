#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "proto/msg.h"
#include "proto/msg_table.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- every field of every message, filled and compared through the table ---- */

struct filler {
    struct arena arena;
    int next; /* makes every value another one */
};

static void fill_shape(struct filler *fill, const struct msg_shape *shape, char *object);

static char *fill_text(struct filler *fill)
{
    char text[32];
    (void)snprintf(text, sizeof text, "值 %d é😀", fill->next++);
    return arena_strdup(&fill->arena, text);
}

#define PUT_AT(type, at, value)                                 \
    do {                                                        \
        type put_ = (value);                                    \
        memcpy(object + (at), &put_, sizeof put_);              \
    } while (0)
#define PUT(type, value) PUT_AT(type, f->offset, value)

static void fill_array(struct filler *fill, const struct msg_field *f, char *object)
{
    enum { COUNT = 3 };
    PUT_AT(int, f->count_offset, COUNT);
    if (f->kind == KIND_IDS) {
        int32_t *ids = arena_array(&fill->arena, COUNT, sizeof *ids);
        for (int i = 0; i < COUNT; i++) ids[i] = fill->next++ * 7919;
        PUT(int32_t *, ids);
    } else if (f->kind == KIND_MANY) {
        char *objects = arena_array(&fill->arena, COUNT, f->of->size);
        for (size_t i = 0; i < COUNT; i++) fill_shape(fill, f->of, objects + i * f->of->size);
        PUT(char *, objects);
    } else {
        char *inside = object + f->offset, *outside = arena_array(&fill->arena, COUNT, sizeof(char *));
        char **texts = (char **)(void *)(f->kind == KIND_CHOICES ? inside : outside);
        for (int i = 0; i < COUNT; i++) texts[i] = fill_text(fill);
        if (f->kind == KIND_CHOICES) texts[1] = NULL; /* a choice that has not ended */
        else PUT(char *, outside);
    }
}

static void fill_bytes(struct filler *fill, const struct msg_field *f, char *object, const char *bytes, size_t len)
{
    PUT(char *, arena_memdup(&fill->arena, bytes, len));
    PUT_AT(size_t, f->count_offset, len);
}

static void fill_field(struct filler *fill, const struct msg_field *f, char *object)
{
    int n = fill->next++;
    const double p[TIERS] = {0.25 * n, -1, 1e-300};
    switch (f->kind) {
    case KIND_BOOL: PUT(bool, true); break;
    case KIND_COUNT: PUT(int64_t, f->bound < 1000 ? 1 + n % f->bound : f->bound - n); break;
    case KIND_INT: PUT(int64_t, INT64_MIN + n); break;
    case KIND_SEED: PUT(uint64_t, UINT64_MAX - (uint64_t)n); break;
    case KIND_MASK: PUT(uint32_t, UINT32_MAX - (uint32_t)n); break;
    case KIND_ID: PUT(int32_t, INT32_MAX - n); break;
    case KIND_REAL: PUT(double, -1.5 * n - 0.1); break;
    case KIND_TIER: PUT(enum tier, (enum tier)(n % TIERS)); break;
    case KIND_CHANNEL: PUT(enum msg_channel, CHANNEL_REASONING); break;
    case KIND_CODE: PUT(enum err_code, (enum err_code)(1 + n % (ERR_CODES - 1))); break;
    case KIND_TEXT: PUT(char *, fill_text(fill)); break;
    case KIND_STRING: fill_bytes(fill, f, object, "a\0b", 3); break;
    case KIND_BYTES: fill_bytes(fill, f, object, "\xff\0\xc3\x28", 4); break;
    case KIND_TIERS: memcpy(object + f->offset, p, sizeof p); break;
    case KIND_ONE: fill_shape(fill, f->of, object + f->offset); break;
    case KIND_IDS:
    case KIND_TEXTS:
    case KIND_CHOICES:
    case KIND_MANY: fill_array(fill, f, object); break;
    }
}

static void fill_shape(struct filler *fill, const struct msg_shape *shape, char *object)
{
    for (int i = 0; i < shape->count; i++) fill_field(fill, &shape->fields[i], object);
}

#define GET(type, object, at) (*(const type *)(const void *)((object) + (at)))
typedef char *text_pointer;

static void same_shape(const struct msg_shape *shape, const char *a, const char *b);

static void same_array(const struct msg_field *f, const char *a, const char *b)
{
    int count = GET(int, a, f->count_offset);
    assert_int_equal(count, GET(int, b, f->count_offset));
    const char *xs = f->kind == KIND_CHOICES ? a + f->offset : GET(text_pointer, a, f->offset);
    const char *ys = f->kind == KIND_CHOICES ? b + f->offset : GET(text_pointer, b, f->offset);
    for (int i = 0; i < count; i++) {
        if (f->kind == KIND_MANY) {
            same_shape(f->of, xs + (size_t)i * f->of->size, ys + (size_t)i * f->of->size);
        } else if (f->kind == KIND_IDS) {
            assert_int_equal(GET(int32_t, xs, i * 4), GET(int32_t, ys, i * 4));
        } else {
            const char *x = GET(text_pointer, xs, (size_t)i * sizeof(char *));
            const char *y = GET(text_pointer, ys, (size_t)i * sizeof(char *));
            if (x) assert_string_equal(x, y);
            else assert_null(y);
        }
    }
}

static void same_field(const struct msg_field *f, const char *a, const char *b)
{
    size_t at = f->offset, size = 8;
    switch (f->kind) {
    case KIND_BOOL: size = sizeof(bool); break;
    case KIND_COUNT: case KIND_INT: case KIND_SEED: case KIND_REAL: break;
    case KIND_MASK: case KIND_ID: case KIND_TIER: case KIND_CHANNEL: case KIND_CODE: size = 4; break;
    case KIND_TIERS: size = sizeof(double) * TIERS; break;
    case KIND_TEXT: assert_string_equal(GET(text_pointer, a, at), GET(text_pointer, b, at)); return;
    case KIND_STRING:
    case KIND_BYTES:
        size = GET(size_t, a, f->count_offset);
        assert_int_equal(size, GET(size_t, b, f->count_offset));
        assert_memory_equal(GET(text_pointer, a, at), GET(text_pointer, b, at), size);
        return;
    case KIND_ONE: same_shape(f->of, a + at, b + at); return;
    case KIND_IDS: case KIND_TEXTS: case KIND_CHOICES: case KIND_MANY: same_array(f, a, b); return;
    }
    assert_memory_equal(a + at, b + at, size);
}

static void same_shape(const struct msg_shape *shape, const char *a, const char *b)
{
    for (int i = 0; i < shape->count; i++) same_field(&shape->fields[i], a, b);
}

/* A full message of `type`: its body and its bytes. */
struct full {
    struct filler fill;
    union msg_body body;
    struct buf bytes;
};

static void full_init(struct full *full, int type)
{
    struct err e = {0};
    *full = (struct full){.fill.next = type * 100 + 1};
    arena_init(&full->fill.arena, 1 << 20);
    buf_init(&full->bytes, MSG_BYTES_MAX);
    fill_shape(&full->fill, msg_shape_of((enum msg_type)type), (char *)&full->body);
    if (msg_encode((enum msg_type)type, &full->body, &full->bytes, &e) != ERR_OK) fail_msg("%s", e.msg);
}

static void full_release(struct full *full)
{
    arena_release(&full->fill.arena);
    buf_release(&full->bytes);
}

static void every_message_comes_back_with_every_field(void **state)
{
    (void)state;
    for (int type = 1; type < MSG_TYPES; type++) {
        struct full full;
        struct msg msg;
        struct err e = {0};
        full_init(&full, type);
        if (msg_decode(&msg, full.bytes.data, full.bytes.len, &e) != ERR_OK) fail_msg("%s", e.msg);
        assert_int_equal(msg.type, type);
        assert_int_equal(msg.version, MSG_VERSION);
        same_shape(msg_shape_of((enum msg_type)type), (const char *)&full.body, (const char *)&msg.body);
        msg_release(&msg);
        full_release(&full);
    }
}

/* ---- by hand, since the table itself could be wrong ---- */

static void a_submit_comes_back_as_it_was(void **state)
{
    (void)state;
    struct msg_submit s;
    msg_submit_init(&s);
    const char *const stops[] = {"\n\n", "END"};
    const struct msg_bias bias[] = {{15, -100.0}};
    const struct msg_message messages[] = {{.role = "system", .content = "short"},
                                           {.role = "user", .content = "你好", .raw_json = "{}"}};
    const int32_t tokens[] = {0, 5, 102399};
    const struct msg_prefix prefixes[] = {{tokens, 3, "so far", NULL, true}};
    s.id = "req-1";
    s.tenant = "acme";
    s.model = "auto";
    s.messages = messages;
    s.message_count = 2;
    s.params = (struct msg_params){.given = PARAM_SEED | PARAM_TOP_K, .temperature = 0.7, .top_k = -1,
                                   .seed = UINT64_MAX, .n = 2, .stop = stops, .stop_count = 2, .bias = bias,
                                   .bias_count = 1};
    s.stream = true;
    s.deadline_ms = 30000;
    s.max_tier = TIER_EDGE; /* 0 on the wire, and not the default */
    s.p[TIER_REGION] = 0.5;
    s.prefixes = prefixes;
    s.prefix_count = 1;
    s.prefix_identity = "abc/avx2";
    struct buf bytes = BUF_INIT(4096);
    struct msg msg;
    assert_int_equal(msg_encode(MSG_SUBMIT, &s, &bytes, NULL), ERR_OK);
    assert_int_equal(msg_decode(&msg, bytes.data, bytes.len, NULL), ERR_OK);
    const struct msg_submit *got = &msg.body.submit;
    assert_string_equal(got->id, "req-1");
    assert_string_equal(got->tenant, "acme");
    assert_null(got->conversation);
    assert_int_equal(got->message_count, 2);
    assert_string_equal(got->messages[1].content, "你好");
    assert_null(got->messages[0].raw_json);
    assert_int_equal(got->params.given, PARAM_SEED | PARAM_TOP_K);
    assert_true(got->params.temperature == 0.7);
    assert_int_equal(got->params.top_k, -1);
    assert_true(got->params.seed == UINT64_MAX);
    assert_string_equal(got->params.stop[1], "END");
    assert_int_equal(got->params.bias[0].id, 15);
    assert_true(got->params.bias[0].bias == -100.0);
    assert_true(got->stream && !got->include_usage);
    assert_int_equal(got->deadline_ms, 30000);
    assert_int_equal(got->hop_budget, 4);
    assert_int_equal(got->max_tier, TIER_EDGE);
    assert_int_equal(got->forced, TIER_NONE);
    assert_int_equal(got->tier, TIER_NONE);
    assert_true(got->p[TIER_EDGE] < 0 && got->p[TIER_REGION] == 0.5);
    assert_int_equal(got->prefixes[0].tokens[2], 102399);
    assert_null(got->prefixes[0].reasoning);
    assert_true(got->prefixes[0].finished);
    assert_string_equal(got->prefix_identity, "abc/avx2");
    msg_release(&msg);
    buf_release(&bytes);
    msg_submit_release(&s);
}

static void a_token_has_the_documented_bytes(void **state)
{
    (void)state;
    const int32_t ids[] = {7};
    struct msg_token token = {.id = "r", .choice = 1, .index = 300, .tokens = ids, .token_count = 1, .text = "hi",
                              .text_len = 2};
    struct buf bytes = BUF_INIT(4096);
    assert_int_equal(msg_encode(MSG_TOKEN, &token, &bytes, NULL), ERR_OK);
    static const char want[] = "\x05\x01\x85\x01\xa1r\x02\x01\x03\xcd\x01\x2c\x05\x91\x07\x06\xa2hi";
    assert_int_equal(bytes.len, sizeof want - 1);
    assert_memory_equal(bytes.data, want, bytes.len);
    buf_release(&bytes);
}

/* ---- hostile bytes ---- */

static void refused(const char *bytes, size_t len, enum err_code want, int line)
{
    struct msg msg;
    struct err e = {0};
    char *exact = malloc(len ? len : 1); /* so that the sanitizer sees one byte too many */
    assert_non_null(exact);
    memcpy(exact, bytes, len);
    enum err_code got = msg_decode(&msg, exact, len, &e);
    free(exact);
    if (got != want) fail_msg("line %d: %s, not %s (%s)", line, err_name(got), err_name(want), e.msg);
    assert_int_equal(msg.type, 0);
    assert_true(e.msg[0]);
}
#define REFUSED(bytes, want) refused((bytes), sizeof(bytes) - 1, (want), __LINE__)

static void a_message_cut_at_any_byte_is_refused(void **state)
{
    (void)state;
    for (int type = 1; type < MSG_TYPES; type++) {
        struct full full;
        full_init(&full, type);
        for (size_t len = 0; len < full.bytes.len; len++) refused(full.bytes.data, len, ERR_SYNTAX, __LINE__);
        full_release(&full);
    }
}

static void a_message_with_any_byte_changed_is_taken_or_refused(void **state)
{
    (void)state;
    uint32_t random = 1;
    for (int type = 1; type < MSG_TYPES; type++) {
        struct full full;
        full_init(&full, type);
        for (size_t at = 0; at < full.bytes.len * 8; at++) {
            struct msg msg;
            char was = full.bytes.data[at / 8];
            random = random * 1664525 + 1013904223;
            full.bytes.data[at / 8] = (char)(random >> 24);
            if (msg_decode(&msg, full.bytes.data, full.bytes.len, NULL) == ERR_OK) msg_release(&msg);
            else assert_int_equal(msg.type, 0);
            full.bytes.data[at / 8] = was;
        }
        full_release(&full);
    }
}

static void unknown_keys_are_stepped_over(void **state)
{
    (void)state;
    struct msg msg;
    /* CANCEL {100: {"x": [1, nil, extension]}, 1: "a", 255: binary} */
    static const char bytes[] = "\x08\x01\x83\x64\x81\xa1x\x93\x01\xc0\xd4\x01\x00\x01\xa1" "a\xcc\xff\xc4\x02zz";
    assert_int_equal(msg_decode(&msg, bytes, sizeof bytes - 1, NULL), ERR_OK);
    assert_string_equal(msg.body.cancel.id, "a");
    msg_release(&msg);
}

static void the_next_version_is_understood_and_the_one_after_refused(void **state)
{
    (void)state;
    struct msg msg;
    assert_int_equal(msg_decode(&msg, "\x0a\x02\x80", 3, NULL), ERR_OK);
    assert_int_equal(msg.version, 2);
    msg_release(&msg);
    REFUSED("\x0a\x03\x80", ERR_VERSION);
    REFUSED("\x0a\x00\x80", ERR_VERSION);
    REFUSED("\x00\x01\x80", ERR_UNSUPPORTED);
    REFUSED("\x10\x01\x80", ERR_UNSUPPORTED);
    REFUSED("\xff\x01\x80", ERR_UNSUPPORTED);
}

static void broken_maps_are_refused(void **state)
{
    (void)state;
    REFUSED("\x0a\x01\xc0", ERR_SYNTAX);                     /* no map */
    REFUSED("\x0a\x01\x80\x00", ERR_SYNTAX);                 /* bytes after it */
    REFUSED("\x0a\x01\x81\xff\x00", ERR_SYNTAX);             /* key -1 */
    REFUSED("\x0a\x01\x81\xa1x\x00", ERR_SYNTAX);            /* key "x" */
    REFUSED("\x0a\x01\x82\x01\x05\x01\x05", ERR_SYNTAX);     /* key 1 twice */
    REFUSED("\x0a\x01\x81\x01\xff", ERR_SYNTAX);             /* a negative count */
    REFUSED("\x0a\x01\x81\x01\xc1", ERR_SYNTAX);             /* 0xc1 starts nothing */
    REFUSED("\x08\x01\x80", ERR_SYNTAX);                     /* CANCEL without its id */
    REFUSED("\x08\x01\x81\x01\xc0", ERR_SYNTAX);             /* nil is absent */
    REFUSED("\x08\x01\x81\x01\xa3" "a\0b", ERR_SYNTAX);      /* a NUL inside */
    REFUSED("\x08\x01\x81\x01\xa2\xc3\x28", ERR_SYNTAX);     /* no UTF-8 */
    REFUSED("\x08\x01\x81\x01\xa3\xed\xa0\x80", ERR_SYNTAX); /* a surrogate */
    REFUSED("\x08\x01\x81\x01\xa2\xc0\x80", ERR_SYNTAX);     /* longer than it need be */
    REFUSED("\x04\x01\x82\x01\xa1" "a\x02\x03", ERR_TOO_LARGE); /* START of tier 3 */
    REFUSED("\x04\x01\x82\x01\xa1" "a\x0a\xcb\x7f\xf8\0\0\0\0\0\0", ERR_SYNTAX); /* NaN */
    REFUSED("\x04\x01\x82\x01\xa1" "a\x0a\xca\x7f\x80\0\0", ERR_SYNTAX);         /* infinity */
}

static void declared_counts_are_not_believed(void **state)
{
    (void)state;
    REFUSED("\x0a\x01\xdf\xff\xff\xff\xff", ERR_SYNTAX);                     /* a map of 4 G pairs */
    REFUSED("\x03\x01\x82\x01\xa1" "a\x08\xdd\xff\xff\xff\xff", ERR_SYNTAX); /* 4 G messages */
    REFUSED("\x08\x01\x81\x01\xdb\xff\xff\xff\xff" "abc", ERR_SYNTAX);       /* a text of 4 GB */
    REFUSED("\x0c\x01\x82\x01\xa1" "a\x02\xc6\xff\xff\xff\xff", ERR_SYNTAX); /* a binary of 4 GB */
    REFUSED("\x0a\x01\x81\x63\xc9\xff\xff\xff\xff\x01", ERR_SYNTAX);         /* an extension of 4 GB */
}

/* SUBMIT {1: "a", 8: [count × {}]} */
static void counts_beyond_the_bound_are_refused_though_the_bytes_are_there(void **state)
{
    (void)state;
    enum { COUNT = MSG_MESSAGES_MAX + 1 };
    static char bytes[10 + COUNT] = "\x03\x01\x82\x01\xa1" "a\x08\xdc";
    bytes[8] = (char)(COUNT >> 8);
    bytes[9] = (char)(COUNT & 0xff);
    memset(bytes + 10, 0x80, COUNT);
    refused(bytes, sizeof bytes, ERR_TOO_LARGE, __LINE__);
    bytes[9] = 0; /* as many as are allowed, but each lacks its role */
    refused(bytes, sizeof bytes - 1, ERR_SYNTAX, __LINE__);
}

static void a_depth_bomb_is_refused(void **state)
{
    (void)state;
    enum { DEEP = 1 << 20 };
    static char bytes[4 + DEEP + 1] = "\x0a\x01\x81\x63";
    memset(bytes + 4, 0x91, DEEP);
    refused(bytes, sizeof bytes, ERR_SYNTAX, __LINE__);
    /* Seven levels inside the outer map are allowed, eight are not. */
    REFUSED("\x0a\x01\x81\x63\x91\x91\x91\x91\x91\x91\x91\x91\x01", ERR_SYNTAX);
    struct msg msg;
    assert_int_equal(msg_decode(&msg, "\x0a\x01\x81\x63\x91\x91\x91\x91\x91\x91\x91\x01", 12, NULL), ERR_OK);
    msg_release(&msg);
}

static void a_message_over_16_MiB_is_refused(void **state)
{
    (void)state;
    struct msg msg;
    char *bytes = calloc(1, (size_t)MSG_BYTES_MAX + 1);
    assert_non_null(bytes);
    assert_int_equal(msg_decode(&msg, bytes, (size_t)MSG_BYTES_MAX + 1, NULL), ERR_TOO_LARGE);
    free(bytes);
}

/* ---- the encoder's side ---- */

static void the_encoder_keeps_the_bounds_and_leaves_the_buffer_alone(void **state)
{
    (void)state;
    char word[MSG_WORD_MAX + 2];
    memset(word, 'x', sizeof word - 1);
    word[sizeof word - 1] = 0;
    struct err e = {0};
    struct buf bytes = BUF_INIT(4096);
    assert_int_equal(buf_adds(&bytes, "before"), ERR_OK);
    struct msg_cancel cancel = {.id = word};
    assert_int_equal(msg_encode(MSG_CANCEL, &cancel, &bytes, &e), ERR_TOO_LARGE);
    assert_string_equal(e.param, "id");
    cancel.id = NULL;
    assert_int_equal(msg_encode(MSG_CANCEL, &cancel, &bytes, &e), ERR_INVALID);
    struct msg_done done = {.id = "a", .hop_count = MSG_HOPS_MAX + 1};
    assert_int_equal(msg_encode(MSG_DONE, &done, &bytes, &e), ERR_TOO_LARGE);
    assert_string_equal(e.param, "hops");
    const int32_t ids[] = {-1};
    struct msg_token token = {.id = "a", .tokens = ids, .token_count = 1};
    assert_int_equal(msg_encode(MSG_TOKEN, &token, &bytes, &e), ERR_INVALID);
    assert_string_equal(bytes.data, "before");
    cancel.id = "a";
    assert_int_equal(msg_encode(MSG_CANCEL, &cancel, &bytes, NULL), ERR_OK);
    buf_release(&bytes);
    struct buf small = BUF_INIT(4);
    assert_int_equal(msg_encode(MSG_CANCEL, &cancel, &small, &e), ERR_TOO_LARGE);
    assert_int_equal(small.len, 0);
    buf_release(&small);
}

static void text_cut_in_mid_character_still_arrives(void **state)
{
    (void)state;
    struct msg_error error = {.id = "", .code = ERR_FULL, .message = "voll \xe4\xbd", .retryable = true};
    struct buf bytes = BUF_INIT(4096);
    struct msg msg;
    assert_int_equal(msg_encode(MSG_ERROR, &error, &bytes, NULL), ERR_OK);
    assert_int_equal(msg_decode(&msg, bytes.data, bytes.len, NULL), ERR_OK);
    assert_string_equal(msg.body.error.message, "voll ??");
    assert_int_equal(msg.body.error.code, ERR_FULL);
    assert_string_equal(msg.body.error.param, ""); /* absent reads as empty */
    msg_release(&msg);
    buf_release(&bytes);
}

static void numbers_that_are_none_go_out_as_numbers(void **state)
{
    (void)state;
    struct msg_token token = {.id = "a", .has_logprob = true, .logprob = -INFINITY, .entropy = NAN};
    struct buf bytes = BUF_INIT(4096);
    struct msg msg;
    assert_int_equal(msg_encode(MSG_TOKEN, &token, &bytes, NULL), ERR_OK);
    assert_int_equal(msg_decode(&msg, bytes.data, bytes.len, NULL), ERR_OK);
    assert_true(msg.body.token.logprob == -DBL_MAX);
    assert_true(msg.body.token.entropy == 0);
    msg_release(&msg);
    buf_release(&bytes);
}

/* ---- the table and its page ---- */

static void keys_rise_and_stay_small(void **state)
{
    (void)state;
    for (int type = 1; type < MSG_TYPES; type++) {
        const struct msg_shape *shape = msg_shape_of((enum msg_type)type);
        assert_non_null(shape);
        assert_string_equal(msg_type_name((enum msg_type)type), shape->name);
        assert_true(shape->count <= 64);
        for (int i = 0; i < shape->count; i++) {
            const struct msg_field *f = &shape->fields[i];
            assert_in_range(f->key, i ? shape->fields[i - 1].key + 1 : 1, 127);
            assert_int_equal(f->of != NULL, f->kind == KIND_ONE || f->kind == KIND_MANY);
        }
    }
    assert_string_equal(msg_type_name(MSG_TYPES), "?");
}

#define PAGE SOURCE_DIR "/docs/protocol.md"
#define BEGIN "<!-- fields: begin -->\n"
#define END "\n<!-- fields: end -->"

static char *read_page(void)
{
    FILE *f = fopen(PAGE, "rb");
    char *page = calloc(1, 1 << 20);
    if (!f || !page) exit(1);
    size_t n = fread(page, 1, (1 << 20) - 1, f);
    page[n] = 0;
    (void)fclose(f);
    return page;
}

static void the_page_shows_the_table(void **state)
{
    (void)state;
    char *page = read_page();
    struct buf table = BUF_INIT(1 << 20);
    assert_int_equal(msg_table_markdown(&table), ERR_OK);
    char *begin = strstr(page, BEGIN), *end = strstr(page, END);
    assert_true(begin && end && begin < end);
    *end = 0;
    assert_string_equal(begin + strlen(BEGIN), table.data);
    buf_release(&table);
    free(page);
}

static int write_page(void)
{
    char *page = read_page(), *begin = strstr(page, BEGIN), *end = strstr(page, END);
    struct buf table = BUF_INIT(1 << 20);
    FILE *f = NULL;
    int rc = 1;
    if (begin && end && msg_table_markdown(&table) == ERR_OK) f = fopen(PAGE, "wb");
    if (f) {
        begin[strlen(BEGIN) - 1] = 0;
        rc = fprintf(f, "%s\n%s%s", page, table.data, end) < 0;
        if (fclose(f) != 0) rc = 1;
    }
    buf_release(&table);
    free(page);
    return rc;
}

/* One full message of each type, for the fuzzer to start from. */
static int write_seeds(const char *folder)
{
    for (int type = 1; type < MSG_TYPES; type++) {
        char path[512];
        struct full full;
        full_init(&full, type);
        (void)snprintf(path, sizeof path, "%s/%s", folder, msg_type_name((enum msg_type)type));
        FILE *f = fopen(path, "wb");
        if (!f) return 1;
        size_t written = fwrite(full.bytes.data, 1, full.bytes.len, f);
        if (fclose(f) != 0 || written != full.bytes.len) return 1;
        full_release(&full);
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--write-seeds") == 0) return write_seeds(argv[2]);
    if (argc == 2 && strcmp(argv[1], "--write-doc") == 0) return write_page();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_message_comes_back_with_every_field),
        cmocka_unit_test(a_submit_comes_back_as_it_was),
        cmocka_unit_test(a_token_has_the_documented_bytes),
        cmocka_unit_test(a_message_cut_at_any_byte_is_refused),
        cmocka_unit_test(a_message_with_any_byte_changed_is_taken_or_refused),
        cmocka_unit_test(unknown_keys_are_stepped_over),
        cmocka_unit_test(the_next_version_is_understood_and_the_one_after_refused),
        cmocka_unit_test(broken_maps_are_refused),
        cmocka_unit_test(declared_counts_are_not_believed),
        cmocka_unit_test(counts_beyond_the_bound_are_refused_though_the_bytes_are_there),
        cmocka_unit_test(a_depth_bomb_is_refused),
        cmocka_unit_test(a_message_over_16_MiB_is_refused),
        cmocka_unit_test(the_encoder_keeps_the_bounds_and_leaves_the_buffer_alone),
        cmocka_unit_test(text_cut_in_mid_character_still_arrives),
        cmocka_unit_test(numbers_that_are_none_go_out_as_numbers),
        cmocka_unit_test(keys_rise_and_stay_small),
        cmocka_unit_test(the_page_shows_the_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
