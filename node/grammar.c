/* A grammar in use: tokens in, masks out. A state of the engine's is a phase and a state of the runner's. */
#include "node/grammar_private.h"

#include <stdlib.h>
#include <string.h>

enum phase { PHASE_START /* only as the state 0 */, PHASE_THINKING, PHASE_TEXT, PHASE_LOST /* the text so far does not fit */ };

struct known_mask {
    uint32_t state;
    uint64_t used; /* when; 0: never */
    uint32_t *bits;
};
struct grammar {
    const struct grammar_vocabulary *vocabulary;
    struct network network;
    struct runner runner;
    uint32_t root;
    struct known_mask masks[MASKS];
    uint64_t clock;
};

enum err_code grammar_new(struct grammar **out, const struct grammar_vocabulary *v, const char *extra_json, struct err *e)
{
    *out = NULL;
    json_t *extra = json_loads(extra_json ? extra_json : "{}", JSON_DECODE_ANY, NULL), *format = json_object_get(extra, "response_format");
    uint16_t root = 0;
    enum err_code code = ERR_OK;
    struct grammar *g = calloc(1, sizeof *g);
    if (!g) code = err_set(e, ERR_MEMORY, "no memory for a grammar");
    else if (!extra) code = err_set_param(e, ERR_INVALID, "response_format", "response_format: the request's extra fields are no JSON");
    if (code == ERR_OK) code = network_init(&g->network, e);
    if (code == ERR_OK) code = grammar_schema(&g->network, format, &root, e);
    if (code == ERR_OK && (root || g->network.full)) code = network_finish(&g->network, root, e);
    if (code == ERR_OK && root) code = runner_init(&g->runner, &g->network, e);
    json_decref(extra);
    if (code == ERR_OK && root) {
        g->vocabulary = v;
        g->root = runner_start(&g->runner, root);
        if (g->root) {
            *out = g;
            return ERR_OK;
        }
        code = err_set(e, ERR_MEMORY, "no memory for a grammar");
    }
    grammar_free(g);
    return code;
}

void grammar_free(struct grammar *g)
{
    if (!g) return;
    for (int i = 0; i < MASKS; i++) free(g->masks[i].bits);
    runner_release(&g->runner);
    network_release(&g->network);
    free(g);
}

/* ---- masks ---- */

static bool any_bit(const uint32_t *mask, size_t words)
{
    for (size_t i = 0; i < words; i++)
        if (mask[i]) return true;
    return false;
}

static void make_mask(struct grammar *g, uint32_t state, uint32_t *mask)
{
    const struct grammar_vocabulary *v = g->vocabulary;
    struct runner *r = &g->runner;
    uint16_t node = runner_single(r, state);
    bool inside = node >= NODE_STRING && node < v->string_end && node != g->network.string;
    r->visits = 0;
    memset(mask, 0, v->words * sizeof *mask);
    if (inside) memcpy(mask, v->inside + (size_t)(node - NODE_STRING) * v->words, v->words * sizeof *mask);
    else trie_walk(&v->plain, r, state, mask);
    trie_walk(&v->quoted, r, state, mask);
    /* A walk that was cut short may have missed the few bytes that lead on. */
    for (int b = 0; b < 256 && r->visits >= WALK_VISITS; b++)
        if (v->single[b] >= 0 && runner_step(r, state, (uint8_t)b) != STATE_DEAD) mask[v->single[b] / 32] |= 1u << (v->single[b] % 32);
    bool may_end = r->states[state].accepts || !any_bit(mask, v->words);
    for (size_t i = 0; may_end && i < v->words; i++) mask[i] |= v->ends[i];
}

static const uint32_t *mask_of(struct grammar *g, uint32_t state)
{
    struct known_mask *oldest = &g->masks[0];
    for (int i = 0; i < MASKS; i++) {
        struct known_mask *m = &g->masks[i];
        if (m->used && m->state == state) {
            m->used = ++g->clock;
            return m->bits;
        }
        if (m->used < oldest->used) oldest = m;
    }
    if (!oldest->bits) oldest->bits = malloc(g->vocabulary->words * sizeof *oldest->bits);
    if (!oldest->bits) return NULL;
    runner_tidy(&g->runner);
    make_mask(g, state, oldest->bits);
    oldest->state = state;
    oldest->used = ++g->clock;
    return oldest->bits;
}

static uint64_t in_text(uint32_t state)
{
    return state == STATE_DEAD ? (uint64_t)PHASE_LOST : (uint64_t)state << 2 | PHASE_TEXT;
}

static void on_mask(void *ctx, uint64_t state, uint32_t *mask)
{
    const struct grammar_choice *c = ctx;
    const struct grammar_vocabulary *v = c->grammar->vocabulary;
    enum phase phase = (enum phase)(state & 3);
    if (phase == PHASE_THINKING || (phase == PHASE_START && c->thinking)) {
        for (size_t i = 0; i < v->words; i++) mask[i] &= ~v->ends[i];
        return;
    }
    uint32_t at = phase == PHASE_START ? c->start : (uint32_t)(state >> 2);
    const uint32_t *bits = phase == PHASE_LOST || at == STATE_DEAD ? v->ends : mask_of(c->grammar, at);
    if (!bits) bits = v->ends;
    memcpy(mask, bits, v->words * sizeof *mask);
    /* A model that would think unasked may, but is not driven to it because all else it would say is forbidden: if_best. */
    bool may_think = phase == PHASE_START && c->start == c->grammar->root && v->think_open >= 0 && v->think_close >= 0;
    if (may_think) mask[v->think_open / 32] |= 1u << (v->think_open % 32);
}

/* ---- going on ---- */

static uint32_t feed(struct grammar *g, uint32_t state, const char *bytes, size_t len)
{
    runner_tidy(&g->runner);
    for (size_t i = 0; i < len && state != STATE_DEAD; i++) {
        state = runner_step(&g->runner, state, (uint8_t)bytes[i]);
        if (i % 1024 == 1023) {
            runner_keep(&g->runner, state);
            runner_tidy(&g->runner);
        }
    }
    runner_keep(&g->runner, state);
    return state;
}

static uint64_t on_advance(void *ctx, uint64_t state, int32_t id)
{
    const struct grammar_choice *c = ctx;
    const struct grammar_vocabulary *v = c->grammar->vocabulary;
    enum phase phase = (enum phase)(state & 3);
    if (id < 0 || id >= v->count) return PHASE_LOST;
    if (phase == PHASE_THINKING || (phase == PHASE_START && c->thinking))
        return id == v->think_close ? in_text(c->start) : (uint64_t)PHASE_THINKING;
    if (phase == PHASE_START && id == v->think_open) return PHASE_THINKING;
    if (phase == PHASE_LOST) return PHASE_LOST;
    uint32_t at = phase == PHASE_START ? c->start : (uint32_t)(state >> 2);
    if (v->ends[id / 32] >> (id % 32) & 1) return in_text(at); /* ignore_eos: it says nothing */
    if (v->at[id + 1] == v->at[id]) return PHASE_LOST;
    return in_text(feed(c->grammar, at, v->bytes + v->at[id], v->at[id + 1] - v->at[id]));
}

void grammar_choice_init(struct grammar_choice *c, struct grammar *g, bool thinking)
{
    *c = (struct grammar_choice){g, g->root, thinking};
}

bool grammar_choice_feed(struct grammar_choice *c, const char *text, size_t len)
{
    c->start = feed(c->grammar, c->start, text, len);
    return c->start != STATE_DEAD;
}

struct engine_constraint grammar_constraint(struct grammar_choice *c)
{
    return (struct engine_constraint){c, on_mask, on_advance, &c->grammar->vocabulary->think_open};
}

int grammar_check(struct grammar *g, const char *text, size_t len)
{
    uint32_t state = feed(g, g->root, text, len);
    if (state == STATE_DEAD) return -1;
    return g->runner.states[state].accepts ? 1 : 0;
}
