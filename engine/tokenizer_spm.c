#include "engine/tokenizer_private.h"

#include <stdlib.h>
#include <string.h>

/* SentencePiece's BPE as Llama's files hold it: characters merge into the token with the best score; what is no token
 * in the end is written byte by byte. Spaces are U+2581 by the time a text comes here. */

/* The lowest rank for the highest score. */
static uint32_t score_rank(float score)
{
    uint32_t bits;
    score += 0.0F; /* one zero */
    memcpy(&bits, &score, sizeof bits);
    return bits & 0x80000000U ? bits : 0x7FFFFFFFU - bits;
}

static bool join(const struct joiner *j, const struct symbol *left, const struct symbol *right, uint32_t *rank,
                 int32_t *id)
{
    if ((uint64_t)left->len + right->len > j->t->piece_max) return false;
    *id = tokenizer_lookup(j->t, j->text + left->at, left->len + right->len, false);
    if (*id < 0) return false;
    *rank = score_rank(j->t->tokens[*id].score);
    return true;
}

/* By the first byte alone, as the models' own tokenizers do; what is no UTF-8 ends as bytes anyway. */
static uint32_t char_len(unsigned char first)
{
    return first < 0xC0 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

static uint32_t cut_symbols(const struct tokenizer *t, const char *text, uint32_t len, struct symbol *symbols)
{
    uint32_t count = 0;
    for (uint32_t at = 0, n; at < len; at += n, count++) {
        n = char_len((unsigned char)text[at]);
        if (n > len - at) n = len - at;
        symbols[count] = (struct symbol){at, n, tokenizer_lookup(t, text + at, n, false),
                                         count ? count - 1 : SYMBOL_NONE, count + 1, false};
    }
    if (count) symbols[count - 1].next = SYMBOL_NONE;
    return count;
}

static void emit(const struct tokenizer *t, const char *text, const struct symbol *s, struct ids *out)
{
    if (s->id >= 0) {
        ids_add(out, s->id);
        return;
    }
    for (uint32_t i = 0; i < s->len; i++) {
        int32_t id = t->bytes[(unsigned char)text[s->at + i]];
        if (id < 0) id = t->unknown;
        if (id >= 0) ids_add(out, id);
    }
}

enum err_code tokenizer_spm(const struct tokenizer *t, const char *text, size_t len, struct ids *out, struct err *e)
{
    struct joiner j = {t, text, join};
    struct pair_heap heap = {0};
    if (len >= (size_t)INT32_MAX) return err_set(e, ERR_TOO_LARGE, "a text of %zu bytes; 2 GiB is the most", len);
    struct symbol *symbols = malloc((len + 1) * sizeof *symbols);
    if (!symbols) return err_set(e, ERR_MEMORY, "no memory to tokenize %zu bytes", len);
    uint32_t count = cut_symbols(t, text, (uint32_t)len, symbols);
    enum err_code code = symbols_merge(&j, symbols, count, &heap, e);
    for (uint32_t i = 0; i < count && !code; i++)
        if (!symbols[i].gone) emit(t, text, &symbols[i], out);
    free(heap.data);
    free(symbols);
    return code;
}
