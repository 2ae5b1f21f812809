#include "engine/tokenizer_private.h"

#include <stdlib.h>
#include <string.h>

/* Byte-level BPE: cut by the pre-tokenizer, then in each piece merge bytes by the rank of the file's merge list. */

static bool join(const struct joiner *j, const struct symbol *left, const struct symbol *right, uint32_t *rank,
                 int32_t *id)
{
    *id = tokenizer_lookup(j->t, j->text + left->at, (size_t)left->len + right->len, false);
    if (*id < 0) return false;
    const struct merge_split *s = NULL;
    for (int32_t i = j->t->tokens[*id].splits; i >= 0; i = s->next) {
        s = &j->t->splits[i];
        if (s->left != left->len) continue;
        *rank = (uint32_t)s->rank;
        return true;
    }
    return false;
}

static void emit_bytes(const struct tokenizer *t, const char *text, uint32_t len, struct ids *out)
{
    for (uint32_t i = 0; i < len; i++) {
        int32_t id = t->bytes[(unsigned char)text[i]];
        if (id >= 0) ids_add(out, id);
        else if (t->unknown >= 0) ids_add(out, t->unknown);
    }
}

static enum err_code encode_piece(const struct joiner *j, uint32_t at, uint32_t len, struct symbol *symbols,
                                  struct pair_heap *heap, struct ids *out, struct err *e)
{
    const struct tokenizer *t = j->t;
    if (t->split->whole_words) {
        int32_t id = tokenizer_lookup(t, j->text + at, len, false);
        if (id >= 0 && id < t->count) {
            ids_add(out, id);
            return ERR_OK;
        }
    }
    for (uint32_t i = 0; i < len; i++)
        symbols[i] = (struct symbol){at + i, 1, t->bytes[(unsigned char)j->text[at + i]], i ? i - 1 : SYMBOL_NONE,
                                     i + 1 < len ? i + 1 : SYMBOL_NONE, false};
    enum err_code code = symbols_merge(j, symbols, len, heap, e);
    for (uint32_t i = 0; !code && i < len; i++) {
        if (symbols[i].gone) continue;
        if (symbols[i].id >= 0 && symbols[i].id < t->count) ids_add(out, symbols[i].id);
        else emit_bytes(t, j->text + symbols[i].at, symbols[i].len, out);
    }
    return code;
}

enum err_code tokenizer_bpe(const struct tokenizer *t, const char *text, size_t len, struct ids *out, struct err *e)
{
    struct split_text split;
    struct joiner j = {t, text, join};
    struct pair_heap heap = {0};
    struct symbol *symbols = NULL;
    uint32_t *ends = NULL, count = 0, longest = 0;
    enum err_code code = split_text_init(&split, text, len, e);
    if (code) return code;
    if ((code = split_run(t->split, &split, &ends, &count, e))) goto out;
    for (uint32_t i = 0; i < count; i++) {
        ends[i] = split.at[ends[i]];
        uint32_t size = ends[i] - (i ? ends[i - 1] : 0);
        if (size > longest) longest = size;
    }
    symbols = malloc(((size_t)longest + 1) * sizeof *symbols);
    if (!symbols) code = err_set(e, ERR_MEMORY, "no memory to tokenize a word of %u bytes", longest);
    for (uint32_t i = 0, at = 0; i < count && !code; at = ends[i++])
        code = encode_piece(&j, at, ends[i] - at, symbols, &heap, out, e);
out:
    free(symbols);
    free(heap.data);
    free(ends);
    split_text_release(&split);
    return code;
}
