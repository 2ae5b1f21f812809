#include "engine/sched_draft.h"

#include <stdlib.h>
#include <string.h>

enum { GRAM = 3, LENGTH_FIRST = 4, WAIT_LOG2_MAX = 6 };

enum err_code draft_init(struct draft *d, int tokens_max, struct err *e)
{
    uint32_t size = 64;
    while (size < (uint32_t)tokens_max * 2 && size < 1u << 20) size *= 2;
    *d = (struct draft){.ends = malloc(size * sizeof *d->ends), .mask = size - 1, .length = LENGTH_FIRST};
    if (!d->ends) return err_set(e, ERR_MEMORY, "no memory to look up %d tokens", tokens_max);
    memset(d->ends, 0xff, size * sizeof *d->ends);
    return ERR_OK;
}

void draft_release(struct draft *d)
{
    free(d->ends);
    *d = (struct draft){0};
}

static int32_t *slot_of(const struct draft *d, const int32_t *end) /* of the GRAM tokens before `end` */
{
    uint64_t h = 0;
    for (int i = -GRAM; i < 0; i++) h = (h ^ (uint32_t)end[i]) * 0x9e3779b97f4a7c15u;
    return &d->ends[(uint32_t)(h >> 40) & d->mask];
}

int draft_guess(struct draft *d, const int32_t *tokens, int count, int max, int32_t *out)
{
    /* The last run itself stays out of the index until it has a successor. */
    for (; d->indexed < count - 1; d->indexed++)
        if (d->indexed + 1 >= GRAM) *slot_of(d, tokens + d->indexed + 1) = d->indexed + 1;
    if (count <= GRAM) return 0;
    if (d->wait > 0) {
        d->wait--;
        return 0;
    }
    int32_t at = *slot_of(d, tokens + count);
    if (at < 0 || memcmp(tokens + at - GRAM, tokens + count - GRAM, GRAM * sizeof *tokens) != 0) return 0;
    int n = d->length < max ? d->length : max;
    if (n > count - at) n = count - at;
    for (int i = 0; i < n; i++) out[i] = tokens[at + i];
    return n > 0 ? n : 0;
}

void draft_learn(struct draft *d, int guessed, int kept)
{
    if (kept == 0) {
        if (d->misses < WAIT_LOG2_MAX) d->misses++;
        d->wait = (1 << d->misses) - 1;
        d->length = LENGTH_FIRST / 2;
        return;
    }
    d->misses = 0;
    d->length = kept == guessed ? d->length * 2 : kept + 1;
    if (d->length > DRAFT_MAX) d->length = DRAFT_MAX;
}
