/* A vocabulary as two tries, those tokens with a quotation mark apart: the others cannot leave a string, so that which of
 * them go on inside one is known before any grammar is. */
#include "node/grammar_private.h"

#include <stdlib.h>
#include <string.h>

struct sorted { /* a token while the tries are made */
    const char *bytes;
    uint32_t len;
    int32_t id;
};

static int by_bytes(const void *a, const void *b)
{
    const struct sorted *x = a, *y = b;
    int order = memcmp(x->bytes, y->bytes, x->len < y->len ? x->len : y->len);
    if (order) return order;
    if (x->len != y->len) return x->len < y->len ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static void trie_release(struct trie *t)
{
    free(t->byte);
    free(t->depth);
    free(t->skip);
    free(t->first);
    free(t->ids);
    *t = (struct trie){0};
}

static uint32_t shared(const struct sorted *a, const struct sorted *b)
{
    uint32_t n = 0;
    while (n < a->len && n < b->len && a->bytes[n] == b->bytes[n]) n++;
    return n;
}

/* Where a token ends whose depth is at most that of the node to come, the nodes open below it end here. */
static void close_below(struct trie *t, uint32_t *open, uint32_t *open_count, uint32_t depth)
{
    while (*open_count > depth) t->skip[open[--*open_count]] = t->count;
}

static bool trie_build(struct trie *t, const struct sorted *tokens, uint32_t count)
{
    size_t nodes = 1;
    for (uint32_t i = 0; i < count; i++) nodes += tokens[i].len - (i ? shared(&tokens[i - 1], &tokens[i]) : 0);
    *t = (struct trie){malloc(nodes), malloc(nodes), malloc(nodes * sizeof *t->skip), malloc((nodes + 1) * sizeof *t->first),
                       malloc((count + 1) * sizeof *t->ids), 0, count};
    if (!t->byte || !t->depth || !t->skip || !t->first || !t->ids) return false;
    uint32_t open[TOKEN_MAX + 1], open_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t same = i ? shared(&tokens[i - 1], &tokens[i]) : 0;
        close_below(t, open, &open_count, same);
        for (uint32_t d = same; d < tokens[i].len; d++) {
            t->byte[t->count] = (uint8_t)tokens[i].bytes[d];
            t->depth[t->count] = (uint8_t)(d + 1);
            t->first[t->count] = i;
            open[open_count++] = t->count++;
        }
        t->ids[i] = tokens[i].id;
    }
    close_below(t, open, &open_count, 0);
    t->first[t->count] = count;
    return true;
}

void trie_walk(const struct trie *t, struct runner *r, uint32_t state, uint32_t *mask)
{
    uint32_t at[TOKEN_MAX + 1] = {state};
    for (uint32_t i = 0; i < t->count && r->visits < WALK_VISITS;) {
        uint32_t depth = t->depth[i], to = runner_step(r, at[depth - 1], t->byte[i]);
        if (to == STATE_DEAD) {
            i = t->skip[i];
            continue;
        }
        at[depth] = to;
        /* Tokens of this node come before those of its children; first[] of a node without tokens is its child's. */
        uint32_t end = i + 1 < t->count ? t->first[i + 1] : t->id_count;
        for (uint32_t k = t->first[i]; k < end; k++) mask[t->ids[k] / 32] |= 1u << (t->ids[k] % 32);
        i++;
    }
}

/* ---- making one ---- */

static enum err_code read_tokens(struct grammar_vocabulary *v, const struct grammar_tokens *tokens, struct err *e)
{
    size_t used = 0, cap = (size_t)tokens->count * 8 + TOKEN_MAX;
    v->count = tokens->count;
    v->words = ((size_t)tokens->count + 31) / 32;
    v->at = malloc(((size_t)tokens->count + 1) * sizeof *v->at);
    v->ends = calloc(v->words, sizeof *v->ends);
    v->bytes = malloc(cap);
    if (!v->at || !v->ends || !v->bytes) return err_set(e, ERR_MEMORY, "no memory for a vocabulary of %d tokens", v->count);
    for (int i = 0; i < 256; i++) v->single[i] = -1;
    for (int32_t id = 0; id < v->count; id++) {
        if (cap - used < TOKEN_MAX) {
            char *grown = realloc(v->bytes, cap * 2);
            if (!grown) return err_set(e, ERR_MEMORY, "no memory for a vocabulary of %d tokens", v->count);
            v->bytes = grown;
            cap *= 2;
        }
        v->at[id] = (uint32_t)used;
        if (tokens->ends(tokens->ctx, id)) {
            v->ends[id / 32] |= 1u << (id % 32);
            continue;
        }
        if (id == tokens->think_open || id == tokens->think_close) continue;
        size_t len = tokens->bytes(tokens->ctx, id, v->bytes + used, TOKEN_MAX);
        if (len > TOKEN_MAX) continue;
        if (len == 1 && v->single[(uint8_t)v->bytes[used]] < 0) v->single[(uint8_t)v->bytes[used]] = id;
        used += len;
    }
    v->at[v->count] = (uint32_t)used;
    return ERR_OK;
}

/* Every state of a grammar has a byte that leads on: it must be a token. Bytes that only begin a character may lack. */
static enum err_code check_tokens(const struct grammar_vocabulary *v, struct err *e)
{
    bool ends = false;
    for (size_t i = 0; i < v->words; i++) ends |= v->ends[i] != 0;
    if (!ends) return err_set(e, ERR_UNSUPPORTED, "no token of the model ends an answer: its JSON could not end");
    for (int b = 0x20; b < 0xC0; b++) {
        if (b == 0x7f) b = 0x80;
        if (v->single[b] < 0)
            return err_set(e, ERR_UNSUPPORTED, "the model has no token for byte 0x%02x alone: it cannot spell every JSON text", (unsigned)b);
    }
    return ERR_OK;
}

static enum err_code make_tries(struct grammar_vocabulary *v, struct err *e)
{
    struct sorted *all = malloc(((size_t)v->count + 1) * sizeof *all);
    if (!all) return err_set(e, ERR_MEMORY, "no memory for a vocabulary of %d tokens", v->count);
    bool ok = true;
    for (int quoted = 0; quoted < 2 && ok; quoted++) {
        uint32_t n = 0;
        for (int32_t id = 0; id < v->count; id++) {
            const char *bytes = v->bytes + v->at[id];
            uint32_t len = v->at[id + 1] - v->at[id];
            if (len > 0 && (memchr(bytes, '"', len) != NULL) == (quoted == 1)) all[n++] = (struct sorted){bytes, len, id};
        }
        qsort(all, n, sizeof *all, by_bytes);
        ok = trie_build(quoted ? &v->quoted : &v->plain, all, n);
    }
    free(all);
    return ok ? ERR_OK : err_set(e, ERR_MEMORY, "no memory for a vocabulary of %d tokens", v->count);
}

/* The string's nodes have the same numbers in every network. */
static enum err_code make_inside(struct grammar_vocabulary *v, struct err *e)
{
    struct network n;
    struct runner r;
    enum err_code code = network_init(&n, e);
    if (code == ERR_OK) code = network_finish(&n, n.string, e);
    if (code == ERR_OK) code = runner_init(&r, &n, e);
    if (code != ERR_OK) {
        network_release(&n);
        return code;
    }
    v->string_end = n.string_end;
    v->inside = calloc((size_t)(n.string_end - NODE_STRING) * v->words, sizeof *v->inside);
    for (uint16_t node = NODE_STRING; v->inside && node < n.string_end; node++) {
        if (node == n.string) continue;
        r.visits = 0;
        trie_walk(&v->plain, &r, runner_start(&r, node), v->inside + (size_t)(node - NODE_STRING) * v->words);
    }
    runner_release(&r);
    network_release(&n);
    return v->inside ? ERR_OK : err_set(e, ERR_MEMORY, "no memory for the masks of %d tokens", v->count);
}

enum err_code grammar_vocabulary_new(struct grammar_vocabulary **out, const struct grammar_tokens *tokens, struct err *e)
{
    struct grammar_vocabulary *v = calloc(1, sizeof *v);
    if (!v) return err_set(e, ERR_MEMORY, "no memory for a vocabulary");
    v->think_open = tokens->think_open;
    v->think_close = tokens->think_close;
    enum err_code code = read_tokens(v, tokens, e);
    if (code == ERR_OK) code = check_tokens(v, e);
    if (code == ERR_OK) code = make_tries(v, e);
    if (code == ERR_OK) code = make_inside(v, e);
    if (code == ERR_OK) *out = v;
    else grammar_vocabulary_free(v);
    return code;
}

void grammar_vocabulary_free(struct grammar_vocabulary *v)
{
    if (!v) return;
    trie_release(&v->plain);
    trie_release(&v->quoted);
    free(v->bytes);
    free(v->at);
    free(v->ends);
    free(v->inside);
    free(v);
}

static size_t engine_bytes(void *ctx, int32_t id, char *out, size_t size)
{
    return engine_token_bytes(ctx, id, false, out, size);
}

static bool engine_ends(void *ctx, int32_t id)
{
    return engine_token_ends(ctx, id);
}

enum err_code grammar_vocabulary_of(struct grammar_vocabulary **out, const struct engine *engine, struct err *e)
{
    struct engine_info info;
    engine_info(engine, &info);
    const struct grammar_tokens tokens = {(void *)(uintptr_t)engine, info.vocabulary, engine_bytes, engine_ends, info.think_open,
                                          info.think_close};
    return grammar_vocabulary_new(out, &tokens, e);
}
