#include "engine/tokenizer_private.h"

#include <stdlib.h>

/* Merging by a heap of candidate pairs over a linked list of symbols. A merge makes at most two new candidates, and
 * candidates whose symbols changed are dropped when they come up: O(n log n) whatever the text. */

static bool push(struct pair_heap *h, const struct pair *p)
{
    if (h->len == h->cap) {
        size_t cap = h->cap ? h->cap * 2 : 64;
        struct pair *grown = realloc(h->data, cap * sizeof *grown);
        if (!grown) return false;
        h->data = grown;
        h->cap = cap;
    }
    size_t i = h->len++;
    for (; i > 0 && h->data[(i - 1) / 2].key > p->key; i = (i - 1) / 2) h->data[i] = h->data[(i - 1) / 2];
    h->data[i] = *p;
    return true;
}

static bool pop(struct pair_heap *h, struct pair *out)
{
    if (h->len == 0) return false;
    *out = h->data[0];
    struct pair last = h->data[--h->len];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < h->len; i = child) {
        if (child + 1 < h->len && h->data[child + 1].key < h->data[child].key) child++;
        if (h->data[child].key >= last.key) break;
        h->data[i] = h->data[child];
    }
    h->data[i] = last;
    return true;
}

static bool offer(const struct joiner *j, const struct symbol *symbols, uint32_t left, uint32_t right,
                  struct pair_heap *heap)
{
    uint32_t rank;
    int32_t id;
    if (left == SYMBOL_NONE || right == SYMBOL_NONE || !j->join(j, &symbols[left], &symbols[right], &rank, &id))
        return true;
    struct pair p = {(uint64_t)rank << 32 | left, right, symbols[left].id, symbols[right].id};
    return push(heap, &p);
}

enum err_code symbols_merge(const struct joiner *j, struct symbol *symbols, uint32_t count, struct pair_heap *heap,
                            struct err *e)
{
    bool fine = true;
    struct pair p;
    heap->len = 0;
    for (uint32_t i = 1; i < count && fine; i++) fine = offer(j, symbols, i - 1, i, heap);
    while (fine && pop(heap, &p)) {
        uint32_t at = (uint32_t)p.key, rank;
        struct symbol *left = &symbols[at], *right = &symbols[p.right];
        int32_t id;
        if (left->gone || right->gone || left->id != p.left_id || right->id != p.right_id) continue;
        if (!j->join(j, left, right, &rank, &id)) continue;
        left->len += right->len;
        left->id = id;
        left->next = right->next;
        right->gone = true;
        if (left->next != SYMBOL_NONE) symbols[left->next].prev = at;
        fine = offer(j, symbols, left->prev, at, heap) && offer(j, symbols, at, left->next, heap);
    }
    return fine ? ERR_OK : err_set(e, ERR_MEMORY, "no memory to tokenize %u symbols", count);
}
