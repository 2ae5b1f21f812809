/* rung bench engine --draft: answers to prompts with and without a draft model, by turns. */
#ifndef RUNG_CLI_BENCH_DRAFT_H
#define RUNG_CLI_BENCH_DRAFT_H

#include "engine/engine.h"

struct bench_draft {
    struct engine_options engine; /* of the one with the draft model */
    const char *prompts;          /* a file with a prompt a line; NULL: some of our own */
    int tokens, streams, rounds, limit; /* at most so many prompts; 0: all */
    float temperature;
    bool json;
};
/* Prints; blocks for as long as it takes. Errors: those of engine_open and engine_submit; ERR_IO, ERR_INVALID of the prompts. */
ERR_CHECKED enum err_code bench_draft(const struct bench_draft *o, struct err *e);

#endif
