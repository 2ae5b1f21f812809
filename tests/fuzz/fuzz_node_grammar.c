/* Any bytes as the schema of a response_format (or, behind a first '!', as the whole extra object); then text by its own
 * masks, chosen by what follows the first NUL: every choice of a live grammar must leave a way on. */
#include "node/grammar.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TOKENS = 260, END = 256 };

static size_t token_bytes(void *ctx, int32_t id, char *out, size_t size)
{
    (void)ctx;
    static const char *const MORE[] = {"", "{\"", "\":", "]}"};
    size_t len = id < 256 ? 1 : strlen(MORE[id - 256]);
    if (len <= size && len) memcpy(out, id < 256 ? (const char[]){(char)id} : MORE[id - 256], len);
    return len;
}

static bool token_ends(void *ctx, int32_t id)
{
    (void)ctx;
    return id == END;
}

static struct grammar_vocabulary *vocabulary(void)
{
    static struct grammar_vocabulary *v; /* once per process: reading it is not what is tried here */
    const struct grammar_tokens tokens = {NULL, TOKENS, token_bytes, token_ends, -1, -1};
    struct err e = {0};
    if (!v && grammar_vocabulary_new(&v, &tokens, &e) != ERR_OK) abort();
    return v;
}

static void use(struct grammar *g, const uint8_t *choices, size_t count)
{
    struct grammar_choice c;
    grammar_choice_init(&c, g, false);
    struct engine_constraint k = grammar_constraint(&c);
    uint64_t state = 0;
    for (size_t i = 0; i < count && i < 300; i++) {
        uint32_t mask[(TOKENS + 31) / 32];
        memset(mask, 0xff, sizeof mask);
        k.mask(k.ctx, state, mask);
        int32_t id = choices[i], tried = 0;
        while (tried < TOKENS && !(mask[id / 32] >> (id % 32) & 1)) id = (id + 1) % TOKENS, tried++;
        if (tried == TOKENS) abort();
        if (id == END) return;
        state = k.advance(k.ctx, state, id);
        if ((state & 3) == 3) abort(); /* allowed, and yet lost */
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    size_t len = nul ? (size_t)(nul - data) : size;
    bool whole = len && data[0] == '!';
    static const char BEFORE[] = "{\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"schema\":", AFTER[] = "}}}";
    char *text = malloc(len + sizeof BEFORE + sizeof AFTER);
    if (!text) return 0;
    size_t n = 0;
    if (!whole) memcpy(text, BEFORE, n = sizeof BEFORE - 1);
    memcpy(text + n, data + whole, len - whole);
    n += len - whole;
    memcpy(text + n, AFTER, sizeof AFTER);
    if (whole) text[n] = 0;
    struct grammar *g = NULL;
    struct err e = {0};
    enum err_code code = grammar_new(&g, vocabulary(), text, &e);
    if (code != ERR_OK && (!e.msg[0] || g)) abort();
    if (g && nul) use(g, nul + 1, size - len - 1);
    grammar_free(g);
    free(text);
    return 0;
}
