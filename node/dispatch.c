/* Which backend of a tier gets a request: the one that has most of its text in the cache already, then the freest. */
#include "node/node.h"

#include <stdlib.h>
#include <string.h>

enum { BLOCK_BYTES = 256, BLOCKS_MAX = 64, MAP_SLOTS = 4096 };

/* Hashes of the text blocks a backend has seen, each chained to the blocks before it. A slot is overwritten by the next
 * hash that falls there, so it forgets by itself. */
struct prefix_map {
    uint64_t slots[MAP_SLOTS];
};

struct chain {
    uint64_t hashes[BLOCKS_MAX];
    int count;
    uint64_t h; /* over all so far */
    size_t in_block;
};

/* FNV-1a with eight bytes at a time. */
static uint64_t mix(uint64_t h, const char *data, size_t len)
{
    for (; len; data += len < 8 ? len : 8, len -= len < 8 ? len : 8) {
        uint64_t word = 0;
        memcpy(&word, data, len < 8 ? len : 8);
        h = (h ^ word) * 0x100000001b3ull;
        h ^= h >> 32;
    }
    return h;
}

static void chain_add(struct chain *c, const char *text)
{
    for (size_t len = text ? strlen(text) : 0; len && c->count < BLOCKS_MAX;) {
        size_t room = BLOCK_BYTES - c->in_block, n = len < room ? len : room;
        c->h = mix(c->h, text, n);
        text += n;
        len -= n;
        c->in_block = n == room ? 0 : c->in_block + n;
        if (n == room) c->hashes[c->count++] = c->h;
    }
}

static void chain_of(const struct msg_submit *submit, struct chain *c)
{
    c->count = 0;
    c->in_block = 0;
    c->h = 0xcbf29ce484222325ull;
    size_t bytes = submit->prompt ? strlen(submit->prompt) : 0;
    for (int i = 0; i < submit->message_count && bytes < BLOCK_BYTES; i++)
        bytes += strlen(submit->messages[i].role) + (submit->messages[i].content ? strlen(submit->messages[i].content) : 0);
    if (bytes < BLOCK_BYTES) return; /* not one block */
    for (int i = 0; i < submit->message_count; i++) {
        chain_add(c, submit->messages[i].role);
        chain_add(c, submit->messages[i].content);
    }
    chain_add(c, submit->prompt);
}

static int matched(const struct backend *backend, const struct chain *c)
{
    int n = 0;
    while (backend->prefixes && n < c->count && backend->prefixes->slots[c->hashes[n] % MAP_SLOTS] == c->hashes[n]) n++;
    return n;
}

void dispatch_note(struct backend *backend, const struct msg_submit *submit)
{
    struct chain c;
    chain_of(submit, &c);
    if (!c.count) return;
    if (!backend->prefixes) backend->prefixes = calloc(1, sizeof *backend->prefixes);
    if (!backend->prefixes) return; /* only a hint */
    for (int i = 0; i < c.count; i++) backend->prefixes->slots[c.hashes[i] % MAP_SLOTS] = c.hashes[i];
}

void dispatch_forget(struct backend *backend)
{
    free(backend->prefixes);
    backend->prefixes = NULL;
}

static bool avoided(const struct dispatch *want, const struct backend *backend)
{
    for (int i = 0; i < want->avoid_count; i++)
        if (want->avoid[i] == backend) return true;
    return false;
}

static bool can(const struct dispatch *want, const struct backend *backend, const struct msg_model *model)
{
    const struct msg_submit *s = want->submit;
    if (s->has_tools && !model->can_tools) return false;
    if (s->has_json_format && !model->can_json) return false;
    if (s->has_parts && !model->can_parts) return false;
    bool peer = strcmp(backend->ops->type, "peer") == 0;
    if (peer && (want->local_only || s->hop_budget <= 0)) return false;
    if (!want->prefix_identity) return true;
    bool same = model->identity && want->prefix_identity[0] && strcmp(model->identity, want->prefix_identity) == 0;
    return same || model->can_prefix;
}

/* Larger is better; compared in this order. */
struct merit {
    bool same_identity, preferred;
    int match, order;
    double load; /* share of its capacity in use, after this request; capacity = slots x weight */
};

static bool better(const struct merit *a, const struct merit *b)
{
    if (a->same_identity != b->same_identity) return a->same_identity;
    if (a->preferred != b->preferred) return a->preferred;
    if (a->order != b->order) return a->order < b->order;
    if (a->match != b->match) return a->match > b->match;
    return a->load < b->load;
}

struct backend *dispatch_pick(const struct node *node, const struct dispatch *want, bool *busy)
{
    struct chain c = {.count = -1}; /* looked at when there is a choice */
    struct backend *best = NULL;
    struct merit best_merit = {0};
    *busy = false;
    for (struct backend *b = node->backends; b; b = b->next) {
        const struct msg_model *model = backend_model(b, want->tier, want->name);
        if (!model || avoided(want, b) || !backend_ready(node, b) || !can(want, b, model)) continue;
        if (b->slots > 0 && b->running >= b->slots) {
            *busy = true;
            continue;
        }
        struct merit m = {
            .same_identity = want->prefix_identity && model->identity && strcmp(model->identity, want->prefix_identity) == 0,
            .preferred = want->prefer && want->prefer[0] &&
                         (strcmp(want->prefer, b->name) == 0 || (model->name && strcmp(want->prefer, model->name) == 0)),
            .order = b->order,
            .load = (b->running + 1) / ((b->slots > 0 ? b->slots : 32) * (b->weight > 0 ? b->weight : 1)),
        };
        if (best && c.count < 0) {
            chain_of(want->submit, &c);
            best_merit.match = matched(best, &c);
        }
        if (best) m.match = matched(b, &c);
        if (best && !better(&m, &best_merit)) continue;
        best = b;
        best_merit = m;
    }
    return best;
}
