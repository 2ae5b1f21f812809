/* Either a vocabulary from anywhere (bytes that start with GGUF), or any text through each pre-tokenizer: what a
 * byte-level vocabulary encodes, it decodes to the same bytes. */
#include "engine/engine.h"
#include "engine/tokenizer.h"
#include "tests/engine/gguf_builder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const PRES[] = {"gpt-2", "smollm", "llama-bpe", "qwen2", "qwen35", "deepseek-llm", "deepseek-coder",
                                   "deepseek-v3", "falcon", "default", "bloom", "viking", "tekken", "gpt-4o", "minicpm5",
                                   "seed-coder"};
enum { PRE_COUNT = sizeof PRES / sizeof PRES[0] };

static struct tokenizer *make(const char *model, const char *pre)
{
    static char alphabet[256][4];
    static const char *const MERGES[] = {"a a", "aa aa", "\xC4\xA0 a", "h e", "l l", "he ll", "\xC3\xA2 \xC4\xA2", "0 0"};
    const char *tokens[259];
    float scores[259] = {0};
    int other = 0;
    for (int b = 0; b < 256; b++) {
        bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        int code = printable ? b : 256 + other++;
        if (code < 128) (void)snprintf(alphabet[b], 4, "%c", code);
        else (void)snprintf(alphabet[b], 4, "%c%c", 0xC0 | code >> 6, 0x80 | (code & 63));
        tokens[b] = alphabet[b];
        scores[b] = (float)-b;
    }
    tokens[256] = "aa";
    tokens[257] = "\xE2\x96\x81";
    tokens[258] = "<|im_end|>";
    struct gguf_builder b = {0};
    gguf_builder_str(&b, "tokenizer.ggml.model", model);
    gguf_builder_str(&b, "tokenizer.ggml.pre", pre);
    gguf_builder_strings(&b, "tokenizer.ggml.tokens", tokens, 259);
    gguf_builder_floats(&b, "tokenizer.ggml.scores", scores, 259);
    gguf_builder_strings(&b, "tokenizer.ggml.merges", MERGES, sizeof MERGES / sizeof MERGES[0]);
    size_t len;
    unsigned char *file = gguf_builder_finish(&b, &len);
    struct gguf *g;
    struct tokenizer *t;
    if (gguf_open_memory(&g, file, len, NULL) || tokenizer_open(&t, g, NULL)) abort();
    gguf_close(g);
    free(file);
    return t;
}

static void round_trip(const struct tokenizer *t, const char *text, size_t len, int flags, bool exact)
{
    int32_t *ids;
    int count;
    size_t at = 0;
    if (tokenizer_encode(t, text, len, flags, &ids, &count, NULL)) return;
    for (int i = 0; i < count; i++) {
        char piece[64];
        size_t n = tokenizer_bytes(t, ids[i], true, piece, sizeof piece);
        if (exact && (at + n > len || memcmp(piece, text + at, n) != 0)) abort();
        at += n;
        (void)tokenizer_is_end(t, ids[i]);
    }
    if (exact && at != len) abort();
    free(ids);
}

static void foreign_vocabulary(const uint8_t *data, size_t size)
{
    static const char TEXT[] = "Hello  <|im_end|> w\xC3\xB6rld 12345 aaaaaaaa\n\n\xE4\xBD\xA0\xFF</s>";
    struct gguf *g;
    struct tokenizer *t;
    if (gguf_open_memory(&g, data, size, NULL)) return;
    if (tokenizer_open(&t, g, NULL) == ERR_OK) {
        round_trip(t, TEXT, sizeof TEXT - 1, ENGINE_TOKENIZE_SPECIAL | ENGINE_TOKENIZE_ADD, false);
        for (int i = -1; i <= tokenizer_vocabulary(t) && i < 4096; i++) (void)tokenizer_bytes(t, i, true, NULL, 0);
        tokenizer_close(t);
    }
    gguf_close(g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tokenizer *bpe[PRE_COUNT], *spm;
    if (size >= 4 && memcmp(data, "GGUF", 4) == 0) {
        foreign_vocabulary(data, size);
        return 0;
    }
    if (size == 0) return 0;
    size_t which = data[0] % (PRE_COUNT + 1);
    const char *text = (const char *)data + 1;
    if (which == PRE_COUNT) {
        if (!spm) spm = make("llama", "default");
        round_trip(spm, text, size - 1, ENGINE_TOKENIZE_SPECIAL, false);
        return 0;
    }
    if (!bpe[which]) bpe[which] = make("gpt2", PRES[which]);
    round_trip(bpe[which], text, size - 1, data[0] & 0x80 ? ENGINE_TOKENIZE_SPECIAL : 0, true);
    return 0;
}
