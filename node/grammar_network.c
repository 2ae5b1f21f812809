/* Networks: the builders, and the rules that JSON itself consists of. */
#include "node/grammar_private.h"

#include <stdlib.h>
#include <string.h>

uint16_t network_node(struct network *n, enum node_kind kind, uint16_t next, uint16_t alt)
{
    if (n->count == n->cap && !n->full) {
        int cap = n->cap ? n->cap * 2 : 512;
        struct grammar_node *nodes = cap <= NODES_MAX ? realloc(n->nodes, (size_t)cap * sizeof *nodes) : NULL;
        if (nodes) {
            n->nodes = nodes;
            n->cap = cap;
        } else {
            n->full = true;
        }
    }
    if (n->full) return 0;
    n->nodes[n->count] = (struct grammar_node){.kind = (uint8_t)kind, .next = next, .alt = alt, .need = NEVER};
    return (uint16_t)n->count++;
}

uint16_t network_range(struct network *n, int lo, int hi, uint16_t next)
{
    uint16_t id = network_node(n, NODE_RANGE, next, 0);
    if (id) {
        n->nodes[id].lo = (uint8_t)lo;
        n->nodes[id].hi = (uint8_t)hi;
    }
    return id;
}

uint16_t network_alt(struct network *n, uint16_t a, uint16_t b)
{
    return network_node(n, NODE_ALT, a, b);
}

uint16_t network_call(struct network *n, uint16_t rule, uint16_t next)
{
    return network_node(n, NODE_CALL, next, rule);
}

void network_jump(struct network *n, uint16_t from, uint16_t to)
{
    if (!from) return;
    n->nodes[from].kind = NODE_JUMP;
    n->nodes[from].next = to;
}

uint16_t network_text(struct network *n, const char *text, size_t len, uint16_t next)
{
    while (len--) next = network_range(n, (unsigned char)text[len], (unsigned char)text[len], next);
    return next;
}

static uint16_t one(struct network *n, char c, uint16_t next)
{
    return network_text(n, &c, 1, next);
}

uint16_t network_gap(struct network *n, uint16_t next)
{
    return network_alt(n, next, network_call(n, n->blank, next));
}

/* A trie is a list of ALTs: one byte and what follows, or the rest of the list; FAIL ends it. */
void network_add_literal(struct network *n, uint16_t trie, const char *text, size_t len)
{
    for (size_t i = 0; i <= len && !n->full;) {
        struct grammar_node *at = &n->nodes[trie];
        if (at->kind == NODE_ALT) {
            const struct grammar_node *have = &n->nodes[at->next];
            if (i == len && at->next == NODE_DONE) return;
            bool same = i < len && have->kind == NODE_RANGE && have->lo == (unsigned char)text[i];
            trie = same ? have->next : at->alt;
            if (same) i++;
            continue;
        }
        uint16_t follow = i < len ? network_node(n, NODE_FAIL, 0, 0) : 0;
        uint16_t way = i < len ? one(n, text[i], follow) : (uint16_t)NODE_DONE, rest = network_node(n, NODE_FAIL, 0, 0);
        if (n->full) return;
        n->nodes[trie] = (struct grammar_node){.kind = NODE_ALT, .next = way, .alt = rest, .need = NEVER};
        if (i == len) return;
        trie = follow;
        i++;
    }
}

/* ---- strings (RFC 8259, section 7; RFC 3629) ---- */

static uint16_t ranges(struct network *n, const char *pairs, uint16_t next)
{
    uint16_t id = 0;
    for (; *pairs; pairs += 2) {
        uint16_t r = network_range(n, pairs[0], pairs[1], next);
        id = id ? network_alt(n, r, id) : r;
    }
    return id;
}

#define HEX "09afAF"
#define HEX_NOT_0 "19afAF"

/* What follows \u: four digits that are not 0000, and not half of a surrogate pair. */
static uint16_t unicode_escape(struct network *n, uint16_t body)
{
    uint16_t h1 = ranges(n, HEX, body), h2 = ranges(n, HEX, h1), h3 = ranges(n, HEX, h2);
    uint16_t z1 = ranges(n, HEX_NOT_0, body);
    uint16_t z2 = network_alt(n, one(n, '0', z1), ranges(n, HEX_NOT_0, h1));
    uint16_t z3 = network_alt(n, one(n, '0', z2), ranges(n, HEX_NOT_0, h2));
    uint16_t low = network_text(n, "\\u", 2, ranges(n, "ddDD", ranges(n, "cfCF", h2)));
    uint16_t high = ranges(n, HEX, ranges(n, HEX, low));
    uint16_t d3 = network_alt(n, ranges(n, "07", h2), ranges(n, "89abAB", high));
    uint16_t rest = network_alt(n, ranges(n, "19acefACEF", h3), ranges(n, "ddDD", d3));
    return network_alt(n, one(n, '0', z3), rest);
}

static uint16_t utf8(struct network *n, uint16_t body)
{
    static const uint8_t ROWS[][5] = {/* first byte, second byte, how many more */
                                      {0xC2, 0xDF, 0x80, 0xBF, 0}, {0xE0, 0xE0, 0xA0, 0xBF, 1}, {0xE1, 0xEC, 0x80, 0xBF, 1},
                                      {0xED, 0xED, 0x80, 0x9F, 1}, {0xEE, 0xEF, 0x80, 0xBF, 1}, {0xF0, 0xF0, 0x90, 0xBF, 2},
                                      {0xF1, 0xF3, 0x80, 0xBF, 2}, {0xF4, 0xF4, 0x80, 0x8F, 2}};
    uint16_t more[3] = {body};
    for (int i = 1; i < 3; i++) more[i] = network_range(n, 0x80, 0xBF, more[i - 1]);
    uint16_t id = 0;
    for (size_t i = 0; i < sizeof ROWS / sizeof ROWS[0]; i++) {
        const uint8_t *w = ROWS[i];
        uint16_t r = network_range(n, w[0], w[1], network_range(n, w[2], w[3], more[w[4]]));
        id = id ? network_alt(n, r, id) : r;
    }
    return id;
}

static uint16_t string_rule(struct network *n)
{
    uint16_t body = network_node(n, NODE_FAIL, 0, 0);
    uint16_t escape = network_alt(n, ranges(n, "\"\"\\\\//bbffnnrrtt", body), one(n, 'u', unicode_escape(n, body)));
    uint16_t ways = utf8(n, body);
    ways = network_alt(n, one(n, '\\', escape), ways);
    ways = network_alt(n, one(n, '"', NODE_DONE), ways);
    ways = network_alt(n, ranges(n, " !#[]\x7f", body), ways);
    network_jump(n, body, ways);
    return one(n, '"', body);
}

/* ---- numbers: so many digits that every parser takes them ---- */

static uint16_t digits(struct network *n, int most, uint16_t next)
{
    uint16_t id = next;
    while (most-- > 0) id = network_alt(n, network_range(n, '0', '9', id), next);
    return id;
}

static uint16_t signed_digits(struct network *n, int most, uint16_t tail)
{
    uint16_t size = network_alt(n, one(n, '0', tail), network_range(n, '1', '9', digits(n, most - 1, tail)));
    return network_alt(n, one(n, '-', size), size);
}

static uint16_t number_rule(struct network *n)
{
    uint16_t power = network_range(n, '0', '9', digits(n, 1, NODE_DONE));
    uint16_t exponent = ranges(n, "eeEE", network_alt(n, ranges(n, "++--", power), power));
    uint16_t end = network_alt(n, exponent, NODE_DONE);
    uint16_t fraction = one(n, '.', network_range(n, '0', '9', digits(n, 16, end)));
    return signed_digits(n, 15, network_alt(n, fraction, end));
}

/* Digits of `low` to `high`, both of `len` digits: exactly those numbers. `free_` has a node for every count of digits. */
static uint16_t between(struct network *n, const char *low, const char *high, int len, const uint16_t *free_)
{
    uint16_t tight_low = NODE_DONE, tight_high = NODE_DONE, both = NODE_DONE;
    for (int i = len - 1; i >= 0; i--) {
        uint16_t rest = free_[len - 1 - i], l = network_range(n, low[i], low[i], tight_low);
        uint16_t h = network_range(n, high[i], high[i], tight_high);
        if (low[i] == high[i]) {
            both = network_range(n, low[i], low[i], both);
        } else if (low[i] < high[i]) {
            uint16_t middle = high[i] - low[i] > 1 ? network_range(n, low[i] + 1, high[i] - 1, rest) : 0;
            both = network_alt(n, network_alt(n, l, h), middle);
        } else {
            both = 0; /* not reached: digits before this one settle it */
        }
        tight_low = low[i] < '9' ? network_alt(n, l, network_range(n, low[i] + 1, '9', rest)) : l;
        tight_high = high[i] > '0' ? network_alt(n, h, network_range(n, '0', high[i] - 1, rest)) : h;
    }
    return both;
}

static uint16_t magnitudes(struct network *n, uint64_t low, uint64_t high, const uint16_t *free_)
{
    uint16_t id = 0;
    uint64_t from = 1;
    for (int len = 1; len <= 18; len++, from *= 10) {
        uint64_t first = len == 1 ? 0 : from, last = from * 10 - 1;
        if (first < low) first = low;
        if (last > high) last = high;
        if (first > last) continue;
        char a[24], b[24];
        for (int i = len - 1; i >= 0; i--, first /= 10, last /= 10) {
            a[i] = (char)('0' + first % 10);
            b[i] = (char)('0' + last % 10);
        }
        id = network_alt(n, between(n, a, b, len, free_), id);
    }
    return id;
}

uint16_t network_int_range(struct network *n, int64_t low, int64_t high)
{
    uint16_t free_[19] = {NODE_DONE};
    for (int i = 1; i < 19; i++) free_[i] = network_range(n, '0', '9', free_[i - 1]);
    uint16_t id = 0;
    if (high >= 0) id = magnitudes(n, low > 0 ? (uint64_t)low : 0, (uint64_t)high, free_);
    if (low < 0) {
        uint64_t least = high < 0 ? (uint64_t)-high : 1;
        id = network_alt(n, one(n, '-', magnitudes(n, least, (uint64_t)-low, free_)), id);
    }
    return id;
}

/* ---- objects, arrays, blanks ---- */

uint16_t network_map(struct network *n, uint16_t value)
{
    uint16_t close = one(n, '}', NODE_DONE), after = network_node(n, NODE_FAIL, 0, 0);
    uint16_t colon = network_gap(n, one(n, ':', network_gap(n, network_call(n, value, after))));
    uint16_t key = network_call(n, n->string, colon);
    network_jump(n, after, network_gap(n, network_alt(n, close, one(n, ',', network_gap(n, key)))));
    return one(n, '{', network_gap(n, network_alt(n, close, key)));
}

uint16_t network_array(struct network *n, const uint16_t *first, int first_count, uint16_t more, int min, int max)
{
    uint16_t close = one(n, ']', NODE_DONE), after;
    if (max < 0 && !more) max = first_count;
    int fixed = max >= 0 ? max : (min > first_count ? min : first_count);
    if (max < 0) {
        uint16_t loop = network_node(n, NODE_FAIL, 0, 0);
        network_jump(n, loop, network_gap(n, network_alt(n, close, one(n, ',', network_gap(n, network_call(n, more, loop))))));
        after = loop;
        if (fixed == 0) return one(n, '[', network_gap(n, network_alt(n, close, network_call(n, more, loop))));
    } else {
        after = network_gap(n, close);
    }
    for (int k = fixed - 1; k >= 0; k--) {
        uint16_t item = network_call(n, k < first_count ? first[k] : more, after);
        uint16_t way = k > 0 ? one(n, ',', network_gap(n, item)) : item;
        after = network_gap(n, k >= min ? network_alt(n, close, way) : way);
    }
    return one(n, '[', after);
}

/* One space, or line breaks and an indent: enough for any layout, too little to go on in for ever. */
static uint16_t blank_rule(struct network *n)
{
    uint16_t indent = NODE_DONE;
    for (int i = 0; i < 40; i++) indent = network_alt(n, ranges(n, "  \t\t", indent), NODE_DONE);
    uint16_t line = network_alt(n, one(n, '\n', indent), indent);
    return network_alt(n, one(n, ' ', NODE_DONE), one(n, '\n', line));
}

enum err_code network_init(struct network *n, struct err *e)
{
    *n = (struct network){0};
    if (network_node(n, NODE_FAIL, 0, 0) != 0 || network_node(n, NODE_RETURN, 0, 0) != NODE_DONE)
        return err_set(e, ERR_MEMORY, "no memory for a grammar");
    n->string = string_rule(n);
    n->string_end = (uint16_t)n->count;
    n->blank = blank_rule(n);
    n->number = number_rule(n);
    n->integer = signed_digits(n, 18, NODE_DONE);
    n->boolean = network_alt(n, network_text(n, "true", 4, NODE_DONE), network_text(n, "false", 5, NODE_DONE));
    n->null = network_text(n, "null", 4, NODE_DONE);
    n->any = network_node(n, NODE_FAIL, 0, 0);
    n->object = network_map(n, n->any);
    n->array = network_array(n, NULL, 0, n->any, 0, -1);
    uint16_t scalars = network_alt(n, n->number, network_alt(n, n->boolean, n->null));
    network_jump(n, n->any, network_alt(n, network_alt(n, n->string, n->object), network_alt(n, n->array, scalars)));
    return n->full ? err_set(e, ERR_MEMORY, "no memory for a grammar") : ERR_OK;
}

void network_release(struct network *n)
{
    free(n->nodes);
    *n = (struct network){0};
}

/* ---- looking it over ---- */

static uint8_t need_of(const struct network *n, const struct grammar_node *node)
{
    uint8_t next = n->nodes[node->next].need, alt = n->nodes[node->alt].need;
    switch ((enum node_kind)node->kind) {
    case NODE_RETURN: return 0;
    case NODE_RANGE:
    case NODE_JUMP: return next;
    case NODE_ALT: return next < alt ? next : alt;
    case NODE_CALL:
        if (alt >= DEPTH_MAX || next == NEVER) return NEVER;
        return alt + 1 > next ? (uint8_t)(alt + 1) : next;
    case NODE_FAIL: break;
    }
    return NEVER;
}

/* Least fixed point from above; nodes mostly stand after what they lead to, so that few rounds do. */
static void fill_needs(struct network *n)
{
    for (bool changed = true, up = true; changed; up = !up) {
        changed = false;
        for (int k = 0; k < n->count; k++) {
            struct grammar_node *node = &n->nodes[up ? k : n->count - 1 - k];
            uint8_t need = need_of(n, node);
            changed |= need < node->need;
            if (need < node->need) node->need = need;
        }
    }
}

enum { UNSEEN = -1, OPEN = -2, CIRCLE = -3, TOO_MANY = -4 };

/* Ways from a node to a byte or a RETURN that read nothing; negative: what is wrong. */
static int paths(const struct network *n, int *seen, uint16_t id, int depth)
{
    const struct grammar_node *node = &n->nodes[id];
    if (seen[id] == OPEN) return CIRCLE;
    if (seen[id] != UNSEEN) return seen[id];
    if (depth > PATHS_MAX) return TOO_MANY;
    seen[id] = OPEN;
    int total = node->kind == NODE_RANGE || node->kind == NODE_RETURN, more;
    if (node->kind == NODE_ALT || node->kind == NODE_JUMP) {
        if ((more = paths(n, seen, node->next, depth + 1)) < 0) return more;
        total += more;
    }
    if (node->kind == NODE_ALT || node->kind == NODE_CALL) {
        if ((more = paths(n, seen, node->alt, depth + 1)) < 0) return more;
        total += more;
    }
    return seen[id] = total > PATHS_MAX ? TOO_MANY : total;
}

enum err_code network_finish(struct network *n, uint16_t root, struct err *e)
{
    if (n->full) return err_set_param(e, ERR_TOO_LARGE, "response_format", "response_format: the schema needs more than %d states",
                                      NODES_MAX);
    int *seen = malloc((size_t)n->count * sizeof *seen), worst = 0;
    if (!seen) return err_set(e, ERR_MEMORY, "no memory for a grammar");
    for (int i = 0; i < n->count; i++) seen[i] = UNSEEN;
    for (int i = 0; i < n->count && worst >= 0; i++) worst = paths(n, seen, (uint16_t)i, 0);
    free(seen);
    if (worst == CIRCLE)
        return err_set_param(e, ERR_INVALID, "response_format", "response_format: a $ref leads back to itself with nothing between");
    if (worst < 0)
        return err_set_param(e, ERR_TOO_LARGE, "response_format",
                             "response_format: more than %d alternatives at one place of the schema", PATHS_MAX);
    fill_needs(n);
    if (n->nodes[root].need > DEPTH_MAX)
        return err_set_param(e, ERR_INVALID, "response_format",
                             "response_format: no value of at most %d levels satisfies the schema", DEPTH_MAX + 1);
    return ERR_OK;
}
