/* Renders chat templates for tests/tools/test_template_parity.py. Not a test by itself.
 * stdin: requests of fields, each an int32 length (-1: none) and its bytes:
 *   template, tools, "1" or "0" for the generation prompt, bos, eos, the number of messages, then for each message
 *   role, content, reasoning, name, tool_call_id, tool_calls
 * stdout: for each request an int32 error code and one field, the prompt or the error's words. */
#include "engine/template.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *read_field(void)
{
    int32_t len;
    if (fread(&len, sizeof len, 1, stdin) != 1 || len < 0) return NULL;
    char *data = calloc((size_t)len + 1, 1);
    if (data && fread(data, 1, (size_t)len, stdin) != (size_t)len) exit(2);
    return data;
}

static void write_result(enum err_code code, const char *text, size_t len)
{
    int32_t words[2] = {(int32_t)code, (int32_t)len};
    (void)fwrite(words, sizeof words, 1, stdout);
    (void)fwrite(text, 1, len, stdout);
}

static void render(const char *source)
{
    char *tools = read_field(), *prompt = read_field(), *bos = read_field(), *eos = read_field(), *number = read_field();
    int count = number ? (int)strtol(number, NULL, 10) : 0;
    struct engine_message *messages = calloc((size_t)count + 1, sizeof *messages);
    if (!messages) exit(2);
    for (int i = 0; i < count; i++) {
        struct engine_message *m = &messages[i];
        m->role = read_field();
        m->content = read_field();
        m->reasoning = read_field();
        m->name = read_field();
        m->tool_call_id = read_field();
        m->tool_calls_json = read_field();
    }
    struct template *t = NULL;
    struct buf out = BUF_INIT(32 << 20);
    struct err e = {0};
    enum err_code code = template_parse(&t, source, strlen(source), &e);
    if (!code) code = template_render(t, messages, count, tools, NULL, prompt && *prompt == '1', bos, eos, &out, &e);
    if (code) write_result(code, e.msg, strlen(e.msg));
    else write_result(code, out.data, out.len);
    buf_release(&out);
    template_free(t);
    for (int i = 0; i < count; i++) {
        free((void *)(uintptr_t)messages[i].role);
        free((void *)(uintptr_t)messages[i].content);
        free((void *)(uintptr_t)messages[i].reasoning);
        free((void *)(uintptr_t)messages[i].name);
        free((void *)(uintptr_t)messages[i].tool_call_id);
        free((void *)(uintptr_t)messages[i].tool_calls_json);
    }
    free(messages);
    free(tools);
    free(prompt);
    free(bos);
    free(eos);
    free(number);
}

int main(void)
{
    for (char *source; (source = read_field());) {
        render(source);
        free(source);
    }
    return 0;
}
