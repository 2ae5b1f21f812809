/* Choosing a token: a pure function of (seed, choice, token index, logits and history). */
#ifndef RUNG_ENGINE_SAMPLE_H
#define RUNG_ENGINE_SAMPLE_H

#include "engine/engine.h"

struct sample_candidate {
    float logit;
    int32_t id;
};
/* Work space for one vocabulary; one owner. */
struct sampler {
    int vocabulary;
    float *logits;                       /* (vocabulary) the changed ones */
    struct sample_candidate *candidates; /* (vocabulary) */
    uint16_t *seen;                      /* (vocabulary) zero between calls */
};
ERR_CHECKED enum err_code sampler_init(struct sampler *s, int vocabulary, struct err *e);
void sampler_release(struct sampler *s);

struct sample_input {
    const float *logits; /* (vocabulary) */
    int best;            /* the index of the highest */
    const struct engine_sampling *how;
    int choice, index;
    const int32_t *tokens; /* the sequence so far: prompt, then what was generated */
    int count, prompt_count;
    const uint32_t *mask; /* NULL, or one bit a token: 0 forbids */
};
/* The token's id. Bias, penalties and the mask come first, then temperature, top-k, typical, top-p, min-p, the draw. */
int32_t sample(struct sampler *s, const struct sample_input *in);

/* Whether `sample` gives the likeliest token whatever the others' logits are: greedy, with nothing that changes them (a mask
 * is the caller's to know). */
bool sample_takes_best(const struct engine_sampling *how);

/* The `count` most likely tokens, most likely first, as log-probabilities (logsum: log Σ exp). */
void sample_top(const float *logits, int vocabulary, float logsum, struct engine_alternative *out, int count);

/* Uniform in [0, 1) from a counter: the same key gives the same number everywhere. */
double sample_uniform(uint64_t seed, uint64_t choice, uint64_t index);

#endif
