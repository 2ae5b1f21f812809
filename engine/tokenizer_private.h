/* What the tokenizer's files share. Private to engine/tokenizer*.c. */
#ifndef RUNG_ENGINE_TOKENIZER_PRIVATE_H
#define RUNG_ENGINE_TOKENIZER_PRIVATE_H

#include "engine/tokenizer.h"
#include "engine/tokenizer_split.h"

/* A longer piece is never looked for, which bounds the work of one look-up (published ones have 512 at most). */
enum { TOKEN_BYTES_MAX = 1024 };

enum token_kind { /* as tokenizer.ggml.token_type numbers them */
    TOKEN_NORMAL = 1, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_USER, TOKEN_UNUSED, TOKEN_BYTE
};

struct token {
    uint32_t at, len;         /* the piece as the file writes it, in tokenizer.text */
    uint32_t raw_at, raw_len; /* what it stands for in a text: bytes for BPE, with U+2581 for SPM */
    float score;     /* SPM */
    int32_t splits;  /* BPE: the first in tokenizer.splits that makes it; -1: none */
    uint8_t kind;    /* enum token_kind */
    bool literal;    /* BPE: the piece is not in the byte alphabet, and stands for itself */
    bool end;        /* ends a generation */
    bool eats_space; /* white space after it belongs to it (phi-3) */
};

/* Text → token, open addressing, at most half full. The tag saves most looks at the token. */
struct token_map {
    struct slot {
        uint32_t id, tag; /* id + 1, 0 is free; other bits of the hash */
    } *slots;
    uint32_t mask;
};

/* A merge: a token's text is the joint of its first `left` bytes and the rest. Since a pair is known by its joint and
 * where it was joined, a merge needs no look-up of its parts. */
struct merge_split {
    uint32_t left;
    int32_t rank, next; /* another way to make the same text; -1: none */
};

struct tokenizer {
    bool spm;
    const struct split *split; /* BPE */
    struct token *tokens;      /* (known): the vocabulary, then texts that only merges know */
    int count, known;
    char *text; /* every token's bytes */
    size_t text_len;
    struct token_map map; /* by raw bytes (and literal) */
    uint64_t seed;        /* of the hashes: a file cannot choose its collisions */
    struct merge_split *splits; /* BPE: (split_count), in the order of rank */
    int split_count;
    int32_t bytes[256];  /* the token of one byte, or -1 */
    uint32_t piece_max;  /* longest raw text that is looked for, at most TOKEN_BYTES_MAX */
    int32_t *specials;   /* (special_count) control, user-defined and unknown tokens by their text */
    int special_count;
    int special_first[257]; /* where each first byte starts in specials */
    int32_t bos, eos, unknown;
    bool add_bos, add_eos, space_prefix;
};

/* A growing list of ids. */
struct ids {
    int32_t *data;
    size_t len, cap;
    bool failed; /* out of memory */
};
void ids_add(struct ids *ids, int32_t id);

/* The token that stands for these bytes; -1. */
int32_t tokenizer_lookup(const struct tokenizer *t, const char *raw, size_t len, bool literal);

/* Append the tokens of one stretch of plain text. */
ERR_CHECKED enum err_code tokenizer_bpe(const struct tokenizer *t, const char *text, size_t len, struct ids *out,
                                        struct err *e);
ERR_CHECKED enum err_code tokenizer_spm(const struct tokenizer *t, const char *text, size_t len, struct ids *out,
                                        struct err *e);

/* A heap of pairs to merge, the smallest key first. */
struct pair {
    uint64_t key;              /* rank, then the left symbol's place */
    uint32_t right;            /* symbol */
    int32_t left_id, right_id; /* what they were; a pair whose symbols changed since is stale */
};
struct pair_heap {
    struct pair *data;
    size_t len, cap;
};

struct symbol {
    uint32_t at, len;    /* bytes of the text */
    int32_t id;          /* -1: no token */
    uint32_t prev, next; /* SYMBOL_NONE at the ends */
    bool gone;           /* merged into the one before it */
};
#define SYMBOL_NONE UINT32_MAX

/* How two neighbours join: sets the rank (the lowest goes first) and the joined symbol's id; false: they do not. */
struct joiner {
    const struct tokenizer *t;
    const char *text;
    bool (*join)(const struct joiner *j, const struct symbol *left, const struct symbol *right, uint32_t *rank,
                 int32_t *id);
};
/* Merge neighbours, the lowest rank first and the leftmost among equals, until none join. O(n log n). */
ERR_CHECKED enum err_code symbols_merge(const struct joiner *j, struct symbol *symbols, uint32_t count,
                                        struct pair_heap *heap, struct err *e);

#endif
