/* A prompt on its way from a submit to token ids: what node/backend_local.c prepares, on the loop or off it. */
#ifndef RUNG_NODE_LOCAL_PROMPT_H
#define RUNG_NODE_LOCAL_PROMPT_H

#include "engine/engine.h"
#include "proto/msg.h"

struct prompt {
    void *owner;            /* whoever waits for it off the loop, and for which call */
    uint64_t call;
    const struct engine *engine;
    struct buf text;        /* the rendered prompt, without any prefix */
    struct engine_message *messages;
    int message_count;
    char *raw;              /* of a completion */
    struct msg_submit submit; /* its own copies below, when prepared off the loop */
    struct arena arena;
    char *tools;            /* JSON */
    char *variables;        /* malloc'd: the JSON of chat_template_kwargs */
    int32_t *tokens;
    int count;
    enum err_code code;
    struct err error;
};

/* Points into the submit. NULL: out of memory. */
struct prompt *prompt_new(const struct engine *engine, const struct msg_submit *s);
void prompt_free(struct prompt *p);
/* Copies all it needs of the submit, so that it may outlive it; what is left to submit is then p->submit. */
bool prompt_own(struct prompt *p, const struct msg_submit *s);
/* Renders and tokenizes; the outcome is in p->code and p->error. Any thread. */
void prompt_make(struct prompt *p);
/* Going on from another model's text: the tokens (malloc'd) that this model would have said it with. */
enum err_code prompt_text_prefix(struct prompt *p, const struct msg_prefix *prefix, int32_t **tokens, int *count);
/* Bytes of text in a submit. */
size_t prompt_bytes(const struct msg_submit *s);
/* The engine's view of a submit's parameters; `bias` (MSG_BIAS_MAX) is filled and pointed to. */
void prompt_request(const struct msg_submit *s, struct engine_request *r, struct engine_bias *bias);

#endif
