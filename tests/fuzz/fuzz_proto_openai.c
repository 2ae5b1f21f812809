/* Client bodies: whatever parses becomes a body for an upstream that is JSON again. The first byte picks what is read. */
#include "proto/openai.h"
#include "proto/openai_json.h"
#include "proto/openai_tree.h"

#include <assert.h>
#include <string.h>

static void fuzz_request(enum openai_endpoint endpoint, const char *body, size_t len)
{
    struct msg_submit submit;
    if (openai_parse_request(&submit, endpoint, body, len, NULL) != ERR_OK) return;
    struct buf out = BUF_INIT(MSG_BYTES_MAX);
    json_t *again = NULL;
    if (openai_upstream_body(&submit, "m", true, &out, NULL) == ERR_OK) {
        assert(openai_json_object(&again, out.data, out.len, NULL) == ERR_OK);
        json_decref(again);
    }
    buf_release(&out);
    struct msg_submit twice; /* what we sent would be taken by another node of ours */
    if (openai_parse_request(&twice, endpoint, body, len, NULL) == ERR_OK) msg_submit_release(&twice);
    msg_submit_release(&submit);
}

/* Our reader and jansson take and refuse the same texts, but for bounds and numbers past what jansson holds. */
static void fuzz_beside_jansson(const char *text, size_t len)
{
    if (memchr(text, 0, len)) return; /* to jansson a NUL behind a value is the end */
    struct arena arena;
    arena_init(&arena, 1 << 24);
    struct tree *tree = NULL;
    struct err e = {0};
    enum err_code code = tree_read(&tree, &arena, text, len, &e);
    json_error_t problem;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &problem);
    if (root) assert(code == ERR_OK || code == ERR_INVALID || strstr(e.msg, "127 characters"));
    if (code == ERR_OK) assert(root || json_error_code(&problem) == json_error_numeric_overflow);
    if (code == ERR_OK && root) { /* and what it says of a value's own text is that value */
        json_t *again = json_loadb(tree->raw, tree->raw_len, JSON_DECODE_ANY, NULL);
        assert(again && json_equal(root, again));
        if (tree->type == TREE_STRING) assert(strcmp(tree->text, json_string_value(root)) == 0);
        json_decref(again);
    }
    json_decref(root);
    arena_release(&arena);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    if (size == 0) return 0;
    const char *body = (const char *)data + 1;
    size_t len = size - 1;
    struct openai_feedback feedback;
    switch (data[0] % 8) {
    case 0:
    case 1:
        fuzz_request(data[0] % 8 ? OPENAI_COMPLETION : OPENAI_CHAT, body, len);
        break;
    case 2:
        (void)!openai_parse_feedback(&feedback, body, len, NULL);
        break;
    case 4:
    case 5:
        fuzz_beside_jansson(body, len);
        break;
    default: { /* any bytes as a token's text: the body stays JSON */
        if (memchr(body, 0, len)) break; /* written as \u0000, which our own reader refuses */
        struct msg_submit submit;
        msg_submit_init(&submit);
        submit.id = "r";
        submit.params.logprobs = true;
        struct openai_reply *reply = openai_reply_new(&submit, 1 << 20);
        assert(reply);
        struct buf out = BUF_INIT(1 << 24);
        struct msg_token token = {.channel = len % 3, .text = body, .text_len = len, .bytes = body,
                                  .bytes_len = len < 64 ? len : 64, .has_logprob = true, .logprob = -1};
        (void)openai_collect_token(reply, &token);
        (void)openai_stream_token(reply, &token, &out);
        buf_clear(&out);
        json_t *root = NULL;
        if (openai_body(reply, &(struct msg_done){.choices = 1, .finish = {"stop"}}, &out) == ERR_OK) {
            enum err_code code = openai_json_object(&root, out.data, out.len, NULL);
            assert(code == ERR_OK || code == ERR_TOO_LARGE || code == ERR_INVALID); /* bounds of ours, not of JSON */
            json_decref(root);
        }
        buf_release(&out);
        openai_reply_free(reply);
    }
    }
    return 0;
}
