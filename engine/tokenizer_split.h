/* Pre-tokenizers: where a text is cut before byte-pair merging. Private to the tokenizer.
 *
 * Each published pre-tokenizer is a list of regular expressions. The first cuts the text into its matches and the
 * stretches between them, each next one cuts every piece of the last again. Every expression is a hand-written
 * matcher here; together they take time linear in the text. */
#ifndef RUNG_ENGINE_TOKENIZER_SPLIT_H
#define RUNG_ENGINE_TOKENIZER_SPLIT_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decoded text: one entry a code point. A byte that is no UTF-8 stands as one character of no kind. */
struct split_text {
    uint32_t *code; /* (count) */
    uint8_t *kind;  /* (count) UNICODE_* bits */
    uint32_t *at;   /* (count + 1) byte offsets; the last is the text's length */
    uint32_t count;
};
/* `len` must be below 2^31. */
ERR_CHECKED enum err_code split_text_init(struct split_text *t, const char *text, size_t len, struct err *e);
void split_text_release(struct split_text *t);

struct split_rule {
    /* The end of a match that starts at `at`, inside the piece [begin, end); `at` itself where there is none. */
    uint32_t (*match)(const struct split_text *t, uint32_t begin, uint32_t at, uint32_t end, int options);
    int options;
};
struct split {
    const char *names; /* as tokenizer.ggml.pre gives them, each between spaces */
    bool whole_words;  /* a word that is a token is taken as it is, whatever the merges say */
    bool add_bos;      /* unless the file says otherwise */
    struct split_rule rules[6];
};
/* The pre-tokenizer of a name; NULL when it is not known. */
const struct split *split_find(const char *name, size_t len);
/* Cut: the ends of the pieces (code point indexes, rising, the last is count) into *ends (malloc'd). */
ERR_CHECKED enum err_code split_run(const struct split *split, const struct split_text *t, uint32_t **ends,
                                    uint32_t *count, struct err *e);

#endif
