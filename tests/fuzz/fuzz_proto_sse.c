/* An upstream's answers. The first byte says in which pieces they come: the pieces must not change what is heard. */
#include "proto/openai.h"

#include <assert.h>
#include <string.h>

static void on_model(void *ctx, const char *model)
{
    buf_addf(ctx, "M%.20s;", model);
}

static void on_token(void *ctx, const struct msg_token *token)
{
    assert(token->choice >= 0 && token->choice < MSG_CHOICES_MAX && token->top_count <= MSG_TOP_MAX);
    buf_addf(ctx, "T%d.%d.%d.%zu.%zu;", (int)token->choice, (int)token->index, (int)token->channel, token->text_len,
             token->bytes_len);
}

static void on_finish(void *ctx, int choice, const char *finish)
{
    buf_addf(ctx, "F%d%.20s;", choice, finish);
}

static void on_usage(void *ctx, int64_t prompt, int64_t cached, int64_t completion, int64_t reasoning)
{
    assert(prompt >= 0 && cached >= 0 && completion >= 0 && reasoning >= 0);
    buf_adds(ctx, "U;");
}

static void on_error(void *ctx, const char *message, const char *type, const char *code)
{
    buf_addf(ctx, "E%zu.%zu.%zu;", strlen(message), strlen(type), strlen(code));
}

static void on_end(void *ctx)
{
    buf_adds(ctx, "end;");
}

static enum err_code read_in(const char *text, size_t len, size_t step, struct buf *heard)
{
    const struct openai_events events = {heard, on_model, on_token, on_finish, on_usage, on_error, on_end};
    struct openai_reader *reader = openai_reader_new(4096);
    assert(reader);
    enum err_code code = ERR_OK;
    for (size_t i = 0; i < len && code == ERR_OK; i += step)
        code = openai_reader_feed(reader, text + i, len - i < step ? len - i : step, &events, NULL);
    openai_reader_free(reader);
    return code;
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    if (size == 0) return 0;
    const char *text = (const char *)data + 1;
    struct buf whole = BUF_INIT(1 << 20), pieces = BUF_INIT(1 << 20);
    enum err_code a = read_in(text, size - 1, size, &whole);
    enum err_code b = read_in(text, size - 1, 1 + data[0] % 32, &pieces);
    /* A line past the limit or a NUL may be seen earlier in one than in the other; else all is the same. */
    if (a == ERR_OK && b == ERR_OK) assert(strcmp(whole.data, pieces.data) == 0);
    const struct openai_events events = {&pieces, on_model, on_token, on_finish, on_usage, on_error, on_end};
    (void)!openai_read_body(text, size - 1, &events, NULL);
    char shown[40];
    openai_read_error(text, size - 1, shown, sizeof shown);
    assert(memchr(shown, 0, sizeof shown));
    buf_release(&whole);
    buf_release(&pieces);
    return 0;
}
