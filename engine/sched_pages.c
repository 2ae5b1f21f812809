#include "engine/sched_pages.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct page {
    int holders, children;
    bool cached, leaf;   /* leaf: cached, held by none, before none: in the list of those that may be evicted */
    int32_t before;      /* cached: the page before, or -1 */
    int32_t older, newer; /* leaf: its neighbours in that list, -1: none */
    int32_t next;        /* cached: the bucket's chain; free: the free list */
    uint64_t used;       /* tick of the last use */
};

struct pages {
    int count, page_tokens, held, cached;
    int32_t free_list, oldest, newest; /* oldest, newest: of the leaves by their last use; -1: there are none */
    uint64_t tick;
    uint32_t mask;
    struct page *page;  /* (count) */
    int32_t *tokens;    /* (count, page_tokens) of cached pages */
    int32_t *buckets;   /* (mask + 1) */
};

enum err_code pages_open(struct pages **out, int count, int page_tokens, struct err *e)
{
    struct pages *p = calloc(1, sizeof *p);
    uint32_t buckets = 16;
    while (buckets < (uint32_t)count * 2) buckets *= 2;
    if (p) {
        *p = (struct pages){.count = count, .page_tokens = page_tokens, .mask = buckets - 1, .oldest = -1, .newest = -1};
        p->page = calloc((size_t)count, sizeof *p->page);
        p->tokens = calloc((size_t)count * (size_t)page_tokens, sizeof *p->tokens);
        p->buckets = malloc(buckets * sizeof *p->buckets);
    }
    if (!p || !p->page || !p->tokens || !p->buckets) {
        pages_close(p);
        return err_set(e, ERR_MEMORY, "no memory for %d KV pages", count);
    }
    memset(p->buckets, 0xff, buckets * sizeof *p->buckets);
    for (int i = 0; i < count; i++) p->page[i].next = i + 1 < count ? i + 1 : -1;
    *out = p;
    return ERR_OK;
}

void pages_close(struct pages *p)
{
    if (!p) return;
    free(p->page);
    free(p->tokens);
    free(p->buckets);
    free(p);
}

static uint32_t bucket_of(const struct pages *p, int32_t before, const int32_t *tokens)
{
    uint64_t h = 0x9e3779b97f4a7c15u ^ (uint64_t)(uint32_t)before;
    for (int i = 0; i < p->page_tokens; i++) {
        h = (h ^ (uint32_t)tokens[i]) * 0xbf58476d1ce4e5b9u;
        h ^= h >> 29;
    }
    return (uint32_t)(h >> 16) & p->mask;
}

static int32_t *tokens_of(const struct pages *p, int32_t page)
{
    return p->tokens + (size_t)page * (size_t)p->page_tokens;
}

/* ---- the leaves, by their last use ---- */

static void leave(struct pages *p, int32_t page)
{
    struct page *it = &p->page[page];
    if (!it->leaf) return;
    it->leaf = false;
    if (it->older >= 0) p->page[it->older].newer = it->newer;
    else p->oldest = it->newer;
    if (it->newer >= 0) p->page[it->newer].older = it->older;
    else p->newest = it->older;
}

/* Behind those that were used before it. Either it has just been used, or its last child, which was used before it, was the oldest: so
 * its place is looked for from the nearer end. */
static void join_leaves(struct pages *p, int32_t page)
{
    struct page *it = &p->page[page];
    if (!it->cached || it->holders || it->children || it->leaf) return;
    int32_t older = p->newest, newer = p->oldest;
    if (older >= 0 && p->page[older].used > it->used) {
        while (newer >= 0 && p->page[newer].used < it->used) newer = p->page[newer].newer;
        older = newer >= 0 ? p->page[newer].older : p->newest;
    } else newer = -1;
    it->leaf = true;
    it->older = older;
    it->newer = newer;
    if (older >= 0) p->page[older].newer = page;
    else p->oldest = page;
    if (newer >= 0) p->page[newer].older = page;
    else p->newest = page;
}

static void use(struct pages *p, int32_t page)
{
    bool leaf = p->page[page].leaf;
    leave(p, page);
    p->page[page].used = ++p->tick;
    if (leaf) join_leaves(p, page);
}

static void uncache(struct pages *p, int32_t page)
{
    struct page *it = &p->page[page];
    int32_t *link = &p->buckets[bucket_of(p, it->before, tokens_of(p, page))];
    while (*link != page) link = &p->page[*link].next;
    *link = it->next;
    leave(p, page);
    it->cached = false;
    p->cached--;
    if (it->before < 0) return;
    p->page[it->before].children--;
    join_leaves(p, it->before);
}

/* A page no one holds is a leaf or has only unheld descendants, so there is always a leaf to evict. */
static int32_t evict(struct pages *p)
{
    int32_t oldest = p->oldest;
    if (oldest >= 0) uncache(p, oldest);
    return oldest;
}

int32_t pages_take(struct pages *p)
{
    int32_t page = p->free_list;
    if (page >= 0) p->free_list = p->page[page].next;
    else page = evict(p);
    if (page < 0) return -1;
    p->page[page] = (struct page){.holders = 1};
    p->held++;
    return page;
}

void pages_hold(struct pages *p, int32_t page)
{
    struct page *it = &p->page[page];
    if (it->holders++) return;
    leave(p, page);
    p->held++;
    if (it->cached) p->cached--;
}

void pages_drop(struct pages *p, int32_t page)
{
    struct page *it = &p->page[page];
    assert(it->holders > 0);
    use(p, page);
    if (--it->holders) return;
    p->held--;
    if (it->cached) {
        p->cached++;
        join_leaves(p, page);
        return;
    }
    it->next = p->free_list;
    p->free_list = page;
}

int32_t pages_find(struct pages *p, int32_t before, const int32_t *tokens)
{
    int32_t at = p->buckets[bucket_of(p, before, tokens)];
    for (; at >= 0; at = p->page[at].next) {
        if (p->page[at].before != before) continue;
        if (memcmp(tokens_of(p, at), tokens, (size_t)p->page_tokens * sizeof *tokens) != 0) continue;
        use(p, at);
        return at;
    }
    return -1;
}

int32_t pages_enter(struct pages *p, int32_t before, int32_t page, const int32_t *tokens)
{
    struct page *it = &p->page[page];
    if (it->cached) return page;
    int32_t same = pages_find(p, before, tokens);
    if (same >= 0) {
        pages_hold(p, same);
        pages_drop(p, page);
        return same;
    }
    int32_t *bucket = &p->buckets[bucket_of(p, before, tokens)];
    memcpy(tokens_of(p, page), tokens, (size_t)p->page_tokens * sizeof *tokens);
    it->cached = true;
    it->before = before;
    use(p, page);
    it->next = *bucket;
    *bucket = page;
    if (before < 0) return page;
    leave(p, before);
    p->page[before].children++;
    return page;
}

int pages_holders(const struct pages *p, int32_t page)
{
    return p->page[page].holders;
}

int pages_total(const struct pages *p)
{
    return p->count;
}

int pages_held(const struct pages *p)
{
    return p->held;
}

int pages_cached(const struct pages *p)
{
    return p->cached;
}
