#include "engine/tokenizer_private.h"

#include <string.h>

/* A piece as it may stand in a message. */
static const char *shown(const struct tokenizer *t, int id, char out[33])
{
    size_t len = t->tokens[id].len < 32 ? t->tokens[id].len : 32;
    for (size_t i = 0; i < len; i++) {
        char c = t->text[t->tokens[id].at + i];
        out[i] = c >= ' ' && c < 0x7f ? c : '?';
    }
    out[len] = 0;
    return out;
}

enum err_code tokenizer_same(const struct tokenizer *a, const struct tokenizer *b, struct err *e)
{
    int both = a->count < b->count ? a->count : b->count;
    char one[33], other[33];
    if (a->spm != b->spm)
        return err_set(e, ERR_INVALID, "its tokenizer is %s, the model's %s", a->spm ? "SPM" : "BPE", b->spm ? "SPM" : "BPE");
    for (int i = 0; i < both; i++) {
        const struct token *x = &a->tokens[i], *y = &b->tokens[i];
        if (x->len != y->len || memcmp(a->text + x->at, b->text + y->at, x->len) != 0)
            return err_set(e, ERR_INVALID, "its token %d is '%s', the model's '%s'", i, shown(a, i, one), shown(b, i, other));
    }
    const struct tokenizer *longer = a->count > b->count ? a : b;
    for (int i = both; i < longer->count; i++)
        if (longer->tokens[i].kind != TOKEN_UNUSED)
            return err_set(e, ERR_INVALID, "it has %d tokens, the model %d: '%s' is only in one", a->count, b->count,
                           shown(longer, i, one));
    return ERR_OK;
}
