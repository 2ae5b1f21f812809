/* The classifier: a prompt's text → for each tier the calibrated probability that it answers right.
 *
 * Scoring does no I/O, takes no memory and takes microseconds; a loaded router is read-only and may be used from any
 * thread. A router file is bounded, versioned and checked; its fingerprint goes into every decision record.
 */
#ifndef RUNG_ROUTER_ROUTER_H
#define RUNG_ROUTER_ROUTER_H

#include "base/err.h"
#include "base/tier.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct router;

/* Read a router file. Errors: ERR_IO, ERR_CORRUPT (what and where), ERR_VERSION, ERR_MEMORY. */
ERR_CHECKED enum err_code router_load(struct router **out, const char *path, struct err *e);
void router_free(struct router *router);
/* Writes it: a file beside, synced, then renamed. Sets the fingerprint. Errors: ERR_IO. */
ERR_CHECKED enum err_code router_save(struct router *router, const char *path, struct err *e);

struct router_info {
    char fingerprint[17];   /* 16 hex digits: a hash of the file's content */
    int tiers;              /* how many scores it gives: 2 or 3, smallest model first */
    char names[TIERS][64];  /* the models it was fitted to */
    int64_t rows;           /* it was fitted on */
    int64_t fitted_wall_ms;
    bool general;           /* the shipped general router: not fitted to these models */
    char base[17];          /* of a router refitted from a log: the fingerprint of what it was refitted from; else "" */
    char key[7];            /* and the name of the key of that log's sketches */
    int64_t labels[TIERS];  /* and how many labels of each tier */
};
void router_info(const struct router *router, struct router_info *out);

/* A router refitted from a log scores with that log's secret key alone: tell it before the first score. One that was not
 * takes any key and does nothing with it. Not while other threads score. Errors: ERR_INVALID (another key), ERR_MEMORY. */
ERR_CHECKED enum err_code router_use_key(struct router *router, const unsigned char key[32], struct err *e);
/* It was refitted, and its key was not told: it scores as the router it was refitted from. */
bool router_wants_key(const struct router *router);

/* What the router may look at. Strings are UTF-8 but need not be valid; they are read, never kept. */
struct router_input {
    const char *text;      /* the last user message */
    size_t text_len;
    const char *context;   /* the turns before it, joined; may be NULL */
    size_t context_len;
    int turns;             /* messages in the conversation */
    bool tools, json;      /* tools are offered; a JSON format is asked for */
    int max_tokens;        /* 0: not given */
};

/* What a refit stands on: the scores before a log's labels came in, and the router that gave them. */
struct router_base {
    unsigned char id[4];   /* the first bytes of its fingerprint; zeros: none */
    double p[TIERS];       /* by tier; < 0: it gives none */
};
struct router_scores {
    double p[TIERS];       /* calibrated probability of a right answer; of tiers it knows */
    bool known[TIERS];
    double ood;            /* 0: like the rows it was fitted on … 1: unlike any of them */
    double cost_us;        /* time this took */
    struct router_base base;
};
/* A router fitted for two tiers scores edge and core, and region as their mean; `known` says so. Total, deterministic. */
void router_score(const struct router *router, const struct router_input *in, struct router_scores *out);

/* What scoring saw of a text, as far as a sketch needs it, so that the text need not be walked again. Hashes without a key:
 * as secret as the text. */
enum { ROUTER_COUNTED = 43, ROUTER_TRACE_WORDS = 512 };
struct router_trace {
    int words;             /* in the text, repeated ones too; more than ROUTER_TRACE_WORDS: not all are here */
    float counted[ROUTER_COUNTED];
    uint32_t word[ROUTER_TRACE_WORDS]; /* (words) */
};
void router_score_traced(const struct router *router, const struct router_input *in, struct router_scores *out,
                         struct router_trace *trace);

/* The evidence of stages 2 and 3: joins the text's score with what the edge model showed. p is the text's p[edge]. */
struct router_evidence {
    const float *hidden;   /* (embedding) after prefill; NULL when not had */
    int embedding;
    int tokens;            /* generated and held back so far; 0: only prefill was seen */
    double entropy_mean, entropy_max, margin_min, logprob_mean, varentropy_mean; /* over those tokens */
    bool finished;         /* the answer is whole */
};
/* The probability that the edge's answer is right, given that evidence; p itself where the file holds no probe for
 * this embedding size. No allocation. */
double router_probe(const struct router *router, double p, const struct router_evidence *evidence);

/* A keyed random projection of the text's features: enough to group and refit, not to read back. `base`: the scores it
 * got, or NULL. */
#define ROUTER_SKETCH_BYTES 512
void router_sketch(const struct router_input *in, const unsigned char key[32], const struct router_base *base,
                   unsigned char out[ROUTER_SKETCH_BYTES]);

/* One feature's share in a score, for `rung why` and `rung route`. */
struct router_reason {
    char feature[48];      /* "digits", "words>20", "ngram «percent of»" */
    double weight;         /* in log-odds of the edge answering right; negative: sends up */
};
/* The most telling features, largest first; returns how many. May take memory and time. */
int router_explain(const struct router *router, const struct router_input *in, struct router_reason *out, int max);

#endif
