/* Client bodies: whatever parses becomes a body for an upstream that is JSON again. The first byte picks what is read. */
#include "proto/openai.h"
#include "proto/openai_json.h"

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

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    if (size == 0) return 0;
    const char *body = (const char *)data + 1;
    size_t len = size - 1;
    struct openai_feedback feedback;
    switch (data[0] % 4) {
    case 0:
    case 1:
        fuzz_request(data[0] % 4 ? OPENAI_COMPLETION : OPENAI_CHAT, body, len);
        break;
    case 2:
        (void)!openai_parse_feedback(&feedback, body, len, NULL);
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
