/* What a router file holds, in memory and on disk. Private to the room.
 *
 * The model, from text to probability:
 *   heads      ridge regressions on hashed n-grams and counted features: one for each tier's score, one for the mean
 *              score of every model in the data ("how hard is it"), the rest codes of the task a prompt looks like
 *   tasks      a softmax over the codes: how likely the prompt is of each task seen in fitting, and with it what each
 *              tier scores on such tasks
 *   trees      small boosted trees over all of these and the counted features, added to the mean of both
 *   calibrate  a three-parameter curve fitted on rows that the model had not seen
 *   own        where it was refitted from a log: that log's labels' correction (router/own.h)
 *
 * On disk, little-endian: 8 bytes magic "rungrtr\n", u32 version, u32 section count, 16 bytes BLAKE2b of everything
 * after them; then the sections, each u32 tag, u32 length, data, padded to 8 bytes. Unknown tags are skipped, so that
 * a file may grow. The fingerprint is the first 8 bytes of the hash.
 */
#ifndef RUNG_ROUTER_MODEL_H
#define RUNG_ROUTER_MODEL_H

#include "router/features.h"

enum {
    MODEL_VERSION = 2,
    MODEL_BYTES_MAX = 64 << 20,
    MODEL_BITS_MIN = 8,
    MODEL_BITS_MAX = 17,
    MODEL_HEADS = 15,
    MODEL_TASKS_MAX = 64,
    MODEL_TREES_MAX = 512,
    MODEL_DEPTH = 4,
    MODEL_LEAVES = 1 << MODEL_DEPTH,
    MODEL_INPUTS = 2 * TIERS + 1 + COUNTED, /* of the trees: heads of tiers, hardness, tasks' means, counted */
    MODEL_PROBE_MAX = 8192,
    MODEL_DIAL = 21,
};

/* One hashed bucket: its weight in each head, idf multiplied in, and how telling it is. idf 0: seldom seen. */
struct model_bucket {
    int8_t w[MODEL_HEADS];
    uint8_t idf; /* 16 × the inverse document frequency */
};
_Static_assert(sizeof(struct model_bucket) == 16, "buckets lie in files as they are");

struct model_linear {
    float scale[MODEL_HEADS], bias[MODEL_HEADS];
    float mean[COUNTED], gain[COUNTED]; /* of the counted features: (x - mean) × gain, cut at ±4 */
    float counted[COUNTED][MODEL_HEADS];
};
struct model_task {
    float code[MODEL_HEADS]; /* weights of the heads that are codes; 0 elsewhere */
    float bias;
    float tier[TIERS]; /* mean score of each tier on it */
};
struct model_tree {
    uint8_t input[MODEL_LEAVES - 1]; /* node i goes on to 2i + 1, or 2i + 2 where the input is above `at` */
    uint8_t reserved;
    float at[MODEL_LEAVES - 1];
    float leaf[MODEL_LEAVES][TIERS];
};
/* How unlike the rows of the fit: a figure's middle and its 99th percentile there. */
struct model_novelty {
    float words[2];  /* share of unknown words */
    float counted[2]; /* mean square of the standardised counted features */
};
struct model_curve { /* p = logistic(a ln r - b ln (1 - r) + c) of a raw score r */
    float a, b, c;
};
/* The probe of stages 2 and 3: log-odds = bias + text × logit(p) + Σ w × (figure - mean) × gain. */
enum { MODEL_CERTAINTIES = 6 };
struct model_probe {
    uint32_t embedding, reserved;
    float prefill_bias, prefill_text;          /* before any token: hidden state only */
    float bias, text, hidden;                  /* with tokens: hidden is the weight of the state's own score */
    float mean[MODEL_CERTAINTIES], weight[MODEL_CERTAINTIES];
};
/* One setting of the operator's dial: thresholds and what they gave on rows that the fit had not seen. */
struct model_dial {
    float threshold[2]; /* edge, region */
    float share[TIERS], accuracy;
};

struct model_own;
struct sketch_key;

struct router {
    struct router_info info;
    unsigned char base_id[4];     /* of this one or of what it was refitted from */
    unsigned bits;                /* buckets of one kind of n-gram: 2^bits */
    struct model_bucket *buckets; /* (GRAM_KINDS, 2^bits) */
    struct model_linear linear;
    int tasks, trees;
    struct model_task task[MODEL_TASKS_MAX];
    struct model_tree *tree; /* (trees) */
    struct model_curve curve[TIERS];
    struct model_novelty novelty;
    struct model_dial dial[MODEL_DIAL];
    struct model_probe probe;
    float *probe_w; /* (embedding), its mean folded into prefill_bias; NULL: no probe */
    struct model_own *own;        /* what a log's labels added (router/own.h); NULL: nothing */
    struct sketch_key *key;       /* the log's; NULL: not told, `own` is not used */
};

struct sketch_sums;
/* Everything between the text and the probabilities; what fitting, explaining and scoring share. */
struct model_sums {
    int32_t w[GRAM_KINDS][MODEL_HEADS + 1];
    int64_t norm2[GRAM_KINDS];
    int words, words_known;
    float counted[COUNTED];
};
void model_walk(const struct router *r, const struct router_input *in, struct model_sums *out);
/* The same, with the sums of the sketch under r->key and a trace beside them; either may be NULL. */
void model_walk_sketch(const struct router *r, const struct router_input *in, struct model_sums *out,
                       struct sketch_sums *sketch, struct router_trace *trace);
void model_heads(const struct router *r, const struct model_sums *sums, float heads[MODEL_HEADS]);
/* From heads and standardised counted features to the trees' inputs and the raw score before the trees. */
void model_inputs(const struct router *r, const float heads[MODEL_HEADS], const float *counted, float inputs[MODEL_INPUTS],
                  float raw[TIERS]);
void model_trees(const struct router *r, const float inputs[MODEL_INPUTS], float raw[TIERS]);
void model_tree_add(const struct model_tree *tree, const float inputs[MODEL_INPUTS], float raw[TIERS]);
double model_calibrate(const struct model_curve *curve, double raw);
double model_ood(const struct router *r, const struct model_sums *sums);
/* Standardised and cut. */
static inline float model_standard(const struct model_linear *l, int c, float x)
{
    float v = (x - l->mean[c]) * l->gain[c];
    return v > 4 ? 4 : v < -4 ? -4 : v;
}
/* The tier a column of the file stands for: two columns are edge and core. */
static inline enum tier model_tier(int columns, int column)
{
    return columns == 2 && column == 1 ? TIER_CORE : (enum tier)column;
}

/* Errors: ERR_IO. Sets the fingerprint. */
ERR_CHECKED enum err_code model_save(struct router *r, const char *path, struct err *e);
/* From memory: what router_load and the fuzzer use. `what` names the source in errors. */
ERR_CHECKED enum err_code model_parse(struct router **out, const unsigned char *data, size_t len, const char *what,
                                      struct err *e);
struct router *model_new(unsigned bits); /* NULL: out of memory */

#endif
