/* Choosing a token: a pure function of (seed, choice, token index, logits and history).
 *
 * Candidates stand in order of their logits, highest first, of equals the lower id first; each weighs
 * expf((logit - highest) × inverse). top_k cuts the order; typical keeps a window of it; top_p the shortest beginning that holds
 * its share of what was left; min_p (and e^-30, below which nothing is drawn) what weighs as much. The draw is the first candidate
 * at which the running sum of weights passes sample_uniform() × their sum. Where nothing is cut, those behind the first
 * LOGIT_LIST_MAX come by id instead, so that they need not be sorted; their sum is then known to LOGIT_SUM_ERROR.
 *
 * So nearly always the top of the row decides. It is looked at first, with bounds on the sum of the whole row: where the lowest
 * and the highest sum give the same token, that is what the whole row would give. */
#ifndef RUNG_ENGINE_SAMPLE_H
#define RUNG_ENGINE_SAMPLE_H

#include "engine/backend.h"
#include "engine/engine.h"

/* Work space for one vocabulary; one owner. */
struct sampler {
    int vocabulary;
    float *logits;              /* (vocabulary) the changed ones */
    struct logit_at *candidates, *sorted; /* (vocabulary) each */
    uint16_t *seen;             /* (vocabulary) zero between calls */
    uint8_t *place;             /* (vocabulary) zero between calls */
};
ERR_CHECKED enum err_code sampler_init(struct sampler *s, int vocabulary, struct err *e);
void sampler_release(struct sampler *s);

struct sample_input {
    const float *logits; /* (vocabulary) */
    const struct logit_list *list; /* NULL, or the row's own top, LOGIT_LIST_MAX of it */
    const struct engine_sampling *how;
    int choice, index;
    const int32_t *tokens; /* the sequence so far: prompt, then what was generated */
    int count, prompt_count;
    const uint32_t *mask; /* NULL, or one bit a token: 0 forbids */
};
/* The token's id. Bias, penalties and the mask come first, then temperature, top-k, typical, top-p, min-p, the draw. Not a number
 * is never chosen. */
int32_t sample(struct sampler *s, const struct sample_input *in);

/* The same from the top of a row, whose sum was taken at sample_inverse(): -1 where the row itself is needed. in->logits is not
 * looked at. */
int32_t sample_list(struct sampler *s, const struct sample_input *in, const struct logit_list *list);
/* Whether sample_list may know (asked before there is a list). */
bool sample_list_helps(const struct engine_sampling *how);

/* Makes the list of a row, `count` long (LOGIT_LIST_MAX at most). 0 as inverse: no sum. */
void sample_make_list(struct sampler *s, const float *logits, float inverse, int count, struct logit_list *out);

/* One over the temperature, kept between 1e-6 and 1e6. */
float sample_inverse(const struct engine_sampling *how);

/* Whether `sample` gives the likeliest token whatever the others' logits are: greedy, with nothing that changes them (a mask
 * is the caller's to know). */
bool sample_takes_best(const struct engine_sampling *how);

/* The `count` most likely tokens, most likely first, as log-probabilities (logsum: log Σ exp). */
void sample_top(const float *logits, int vocabulary, float logsum, struct engine_alternative *out, int count);
/* The same from a list; fewer than `count` where it holds fewer. */
void sample_top_of(const struct logit_list *list, float logsum, struct engine_alternative *out, int count);

/* Uniform in [0, 1) from a counter: the same key gives the same number everywhere. */
double sample_uniform(uint64_t seed, uint64_t choice, uint64_t index);

#endif
