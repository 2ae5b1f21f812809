/* Prompt-lookup speculation: guess that what followed the last tokens when they stood in the sequence before follows
 * again. The guesses are computed along with the next token and kept only where the model would have chosen them
 * itself, so they change the speed and never the text. Single owner. */
#ifndef RUNG_ENGINE_SCHED_DRAFT_H
#define RUNG_ENGINE_SCHED_DRAFT_H

#include "base/err.h"

#include <stdint.h>

enum { DRAFT_MAX = 7 };

struct draft {
    int32_t *ends;     /* (mask + 1) where a run of DRAFT_GRAM tokens with that hash ended last; -1: never */
    uint32_t mask;
    int indexed;       /* tokens [0, indexed) are in `ends` */
    int length;        /* guesses to make next */
    int misses, wait;  /* guesses in a row that failed at once; steps to go without one */
};

ERR_CHECKED enum err_code draft_init(struct draft *d, int tokens_max, struct err *e);
void draft_release(struct draft *d);
/* Guess what follows tokens[0, count): up to `max` tokens into `out` (which may be tokens + count). Returns how many. */
int draft_guess(struct draft *d, const int32_t *tokens, int count, int max, int32_t *out);
/* Of `guessed` tokens `kept` were right. */
void draft_learn(struct draft *d, int guessed, int kept);

#endif
