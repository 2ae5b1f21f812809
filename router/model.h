/* What a router file holds, in memory and on disk. Private to the room.
 *
 * On disk, little-endian: 8 bytes magic "rungrtr\n", u32 version, u32 section count, 16 bytes BLAKE2b of everything
 * after them; then the sections, each u32 tag, u32 length, data, padded to 8 bytes. Unknown tags are skipped, so that
 * a file may grow. The fingerprint is the first 8 bytes of the hash.
 */
#ifndef RUNG_ROUTER_MODEL_H
#define RUNG_ROUTER_MODEL_H

#include "router/features.h"

enum {
    MODEL_VERSION = 1,
    MODEL_BYTES_MAX = 64 << 20,
    MODEL_BITS_MIN = 8,
    MODEL_BITS_MAX = 18,
    MODEL_WAVES_MAX = 512,
    MODEL_KNOTS_MAX = 64,
};

/* One hashed bucket: a weight for each tier and how telling the bucket is. idf 0: never seen often enough. */
struct model_bucket {
    int8_t w[TIERS];
    uint8_t idf; /* 16 × the inverse document frequency */
};
_Static_assert(sizeof(struct model_bucket) == 4, "buckets lie in files as they are");

struct router {
    struct router_info info;
    unsigned bits;                  /* 2^bits buckets */
    struct model_bucket *buckets;   /* (2^bits) */
    float scale[TIERS];             /* a weight's unit */
    float bias[TIERS];
    float mean[COUNTED], gain[COUNTED]; /* of the counted features: (x - mean) × gain, cut at ±4 */
    int waves;                      /* random cosine features of the counted ones */
    float *wave;                    /* (waves, COUNTED) */
    float *phase;                   /* (waves) */
    float *wave_w;                  /* (waves, TIERS) */
    float platt[TIERS][2];          /* p = logistic(a × raw + b) */
};

/* The raw scores before calibration, and the features' walk, for fitting and explaining. */
void model_raw(const struct router *r, const struct router_input *in, float raw[TIERS], double *ood);
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
struct router *model_new(unsigned bits, int waves); /* NULL: out of memory */

#endif
