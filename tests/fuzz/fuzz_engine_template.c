/* Any bytes as a chat template, and what follows the first NUL as the tools and a call's JSON. */
#include "engine/template.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    size_t len = nul ? (size_t)(nul - data) : size;
    char *json = NULL;
    if (nul) {
        json = malloc(size - len);
        if (!json) return 0;
        memcpy(json, nul + 1, size - len - 1);
        json[size - len - 1] = 0;
    }
    struct engine_message messages[] = {
        {.role = "system", .content = "Be \xC3\xA9 brief."},
        {.role = "user", .content = "<think>a</think> b "},
        {.role = "assistant", .content = "", .tool_calls_json = json},
        {.role = "tool", .content = "{}", .tool_call_id = "123456789", .name = "f", .reasoning = "because"},
    };
    struct template *t = NULL;
    struct err e = {0};
    if (template_parse(&t, (const char *)data, len, &e) == ERR_OK) {
        struct buf out = BUF_INIT(1 << 20);
        if (template_render(t, messages, 4, json, json && *json == '{' ? json : NULL, size & 1, "<s>", "</s>", &out, &e) && !e.code) abort();
        buf_release(&out);
    } else if (!e.code || !e.msg[0]) {
        abort();
    }
    template_free(t);
    free(json);
    return 0;
}
