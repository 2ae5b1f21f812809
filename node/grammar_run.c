/* Where a text stands in a network: sets of threads, interned, with the transitions taken so far. */
#include "node/grammar_private.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- one step ---- */

static void emit(struct runner *r, uint16_t node, int depth)
{
    uint16_t *at = r->out + r->out_len;
    if (r->out_threads == THREADS_MAX) return;
    at[0] = (uint16_t)(depth + 1);
    memcpy(at + 1, r->stack, (size_t)depth * sizeof *at);
    at[depth + 1] = node;
    size_t size = (size_t)(depth + 2) * sizeof *at;
    for (const uint16_t *o = r->out; o < at; o += o[0] + 1)
        if (memcmp(o, at, size) == 0) return;
    r->out_len += depth + 2;
    r->out_threads++;
}

/* All ways from a node that read nothing, and then the byte. Paths are finite: network_finish() saw to that. A way is
 * taken only if what it needs fits on the stack, so that every thread can be brought to its end. */
static void explore(struct runner *r, uint16_t id, int depth)
{
    for (;;) {
        const struct grammar_node *node = &r->network->nodes[id];
        r->visits++;
        if (node->need == NEVER || depth + node->need > DEPTH_MAX) return;
        switch ((enum node_kind)node->kind) {
        case NODE_FAIL: return;
        case NODE_RANGE:
            if (r->byte >= node->lo && r->byte <= node->hi) emit(r, node->next, depth);
            return;
        case NODE_ALT:
            explore(r, node->next, depth);
            id = node->alt;
            continue;
        case NODE_JUMP: id = node->next; continue;
        case NODE_CALL: {
            uint16_t before = r->stack[depth]; /* a sibling way may need what a RETURN laid bare here */
            r->stack[depth] = node->next;
            explore(r, node->alt, depth + 1);
            r->stack[depth] = before;
            return;
        }
        case NODE_RETURN:
            if (depth == 0) {
                r->accepted = true;
                return;
            }
            id = r->stack[--depth];
            continue;
        }
    }
}

/* From the threads of a state into r->out; byte -1 reads nothing and asks only whether the end is reached. */
static void advance(struct runner *r, const struct grammar_state *s, int byte)
{
    r->out_len = r->out_threads = 0;
    r->accepted = false;
    r->byte = byte;
    for (const uint16_t *t = s->threads; t < s->threads + s->len; t += t[0] + 1) {
        memcpy(r->stack, t + 1, (size_t)(t[0] - 1) * sizeof *t);
        explore(r, t[t[0]], t[0] - 1);
    }
}

/* ---- interning ---- */

static uint32_t hash_of(const uint16_t *threads, size_t len)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < len; i++) h = (h ^ threads[i]) * 16777619u;
    return h ^ h >> 15;
}

static void place(struct runner *r, uint32_t id)
{
    uint32_t at = r->states[id].hash & (r->slot_count - 1);
    while (r->slots[at]) at = (at + 1) & (r->slot_count - 1);
    r->slots[at] = id;
}

static bool more_slots(struct runner *r)
{
    uint32_t count = r->slot_count ? r->slot_count * 2 : 1024, *slots = calloc(count, sizeof *slots);
    if (!slots) return false;
    free(r->slots);
    r->slots = slots;
    r->slot_count = count;
    for (uint32_t i = 1; i < r->count; i++)
        if (r->states[i].threads) place(r, i);
    return true;
}

static uint32_t fresh(struct runner *r)
{
    if (r->spare_count) return r->spare[--r->spare_count];
    if (r->count == r->cap) {
        uint32_t cap = r->cap ? r->cap * 2 : 256;
        struct grammar_state *states = cap <= STATES_MAX * 2 ? realloc(r->states, cap * sizeof *states) : NULL;
        if (states) r->states = states;
        uint32_t *spare = states ? realloc(r->spare, cap * sizeof *spare) : NULL;
        if (!spare) return STATE_DEAD;
        r->spare = spare;
        r->cap = cap;
    }
    return r->count < STATES_MAX ? r->count++ : (uint32_t)STATE_DEAD;
}

/* The state of the threads in r->out. */
static uint32_t intern(struct runner *r)
{
    size_t size = (size_t)r->out_len * sizeof *r->out;
    uint32_t hash = hash_of(r->out, (size_t)r->out_len);
    if (r->out_len == 0) return STATE_DEAD;
    for (uint32_t at = hash & (r->slot_count - 1); r->slots[at]; at = (at + 1) & (r->slot_count - 1)) {
        const struct grammar_state *s = &r->states[r->slots[at]];
        if (s->hash == hash && s->len == r->out_len && memcmp(s->threads, r->out, size) == 0) return r->slots[at];
    }
    if (r->loose >= LOOSE_MAX || (r->count * 2 >= r->slot_count && !more_slots(r))) return STATE_DEAD;
    uint16_t *threads = malloc(size);
    uint32_t id = threads ? fresh(r) : (uint32_t)STATE_DEAD;
    if (id == STATE_DEAD) {
        free(threads);
        return STATE_DEAD;
    }
    memcpy(threads, r->out, size);
    r->states[id] = (struct grammar_state){.threads = threads, .hash = hash, .len = (uint16_t)r->out_len};
    r->loose++;
    place(r, id);
    advance(r, &r->states[id], -1);
    r->states[id].accepts = r->accepted;
    return id;
}

enum err_code runner_init(struct runner *r, const struct network *n, struct err *e)
{
    *r = (struct runner){.network = n, .count = 1};
    r->cap = 256;
    r->states = calloc(r->cap, sizeof *r->states);
    r->spare = calloc(r->cap, sizeof *r->spare);
    if (r->states && r->spare && more_slots(r)) return ERR_OK;
    runner_release(r);
    return err_set(e, ERR_MEMORY, "no memory for a grammar");
}

static void forget(struct grammar_state *s)
{
    free(s->threads);
    free(s->to);
    *s = (struct grammar_state){0};
}

void runner_release(struct runner *r)
{
    for (uint32_t i = 1; r->states && i < r->count; i++) forget(&r->states[i]);
    free(r->states);
    free(r->spare);
    free(r->slots);
    *r = (struct runner){0};
}

uint32_t runner_start(struct runner *r, uint16_t node)
{
    r->out_len = r->out_threads = 0;
    emit(r, node, 0);
    uint32_t id = intern(r);
    if (id) runner_keep(r, id);
    return id;
}

uint32_t runner_step(struct runner *r, uint32_t id, uint8_t byte)
{
    struct grammar_state *s = &r->states[id];
    if (id == STATE_DEAD) return STATE_DEAD;
    if (s->to && s->to[byte] != STATE_UNKNOWN) return s->to[byte];
    advance(r, s, byte);
    uint32_t to = intern(r);
    s = &r->states[id]; /* interning may have moved it */
    if (!s->to && (s->to = malloc(256 * sizeof *s->to)))
        for (int i = 0; i < 256; i++) s->to[i] = STATE_UNKNOWN;
    if (s->to) s->to[byte] = to;
    return to;
}

void runner_keep(struct runner *r, uint32_t id)
{
    if (id == STATE_DEAD || r->states[id].kept) return;
    r->states[id].kept = true;
    r->loose--;
}

void runner_tidy(struct runner *r)
{
    if (r->loose < STATES_FLUSH) return;
    memset(r->slots, 0, r->slot_count * sizeof *r->slots);
    for (uint32_t i = 1; i < r->count; i++) {
        struct grammar_state *s = &r->states[i];
        free(s->to);
        s->to = NULL;
        if (s->kept) {
            place(r, i);
        } else if (s->threads) {
            forget(s);
            r->spare[r->spare_count++] = i;
        }
    }
    r->loose = 0;
}

uint16_t runner_single(const struct runner *r, uint32_t id)
{
    const struct grammar_state *s = &r->states[id];
    return s->threads && s->threads[0] + 1 == s->len ? s->threads[s->threads[0]] : 0;
}
