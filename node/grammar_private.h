/* The inside of a grammar, shared by grammar*.c: the network, its states at run time, the vocabulary's tries. */
#ifndef RUNG_NODE_GRAMMAR_PRIVATE_H
#define RUNG_NODE_GRAMMAR_PRIVATE_H

#include "node/grammar.h"

#include <jansson.h>

enum {
    NODES_MAX = 32768,    /* of one network */
    DEPTH_MAX = 63,       /* calls on a thread's stack: 64 levels of JSON */
    THREADS_MAX = 24,     /* alternatives followed at once; more are left out, which never lets a wrong text through */
    PATHS_MAX = 1024,     /* ways from one node to a byte without reading one */
    WALK_VISITS = 4 << 20, /* nodes looked at for one mask, past which long tokens are left out */
    STATES_FLUSH = 4096,  /* remembered states at which those that no sequence can be in are forgotten */
    LOOSE_MAX = 16384,     /* and the most of them within one walk */
    STATES_MAX = 160 << 10,
    MASKS = 32,           /* masks remembered */
    TOKEN_MAX = 200,      /* longer tokens are never allowed */
    NEVER = 255
};

/* ---- the network ---- */

enum node_kind { NODE_FAIL, NODE_RANGE, NODE_ALT, NODE_CALL, NODE_RETURN, NODE_JUMP };
struct grammar_node {
    uint8_t kind;
    uint8_t lo, hi;     /* RANGE: reads one byte of these, goes on at next */
    uint8_t need;       /* calls that must fit on the stack to reach the RETURN; NEVER: it cannot be reached */
    uint16_t next, alt; /* ALT: either; CALL: alt is called, then next */
};
struct network {
    struct grammar_node *nodes;
    int count, cap;
    bool full; /* NODES_MAX or memory was reached: what was built since is not whole */
    /* rules every grammar has, at the same places */
    uint16_t string, string_end; /* nodes NODE_STRING..string_end-1 are the string's */
    uint16_t number, integer, boolean, null, any, object, array, blank;
};

/* Builders give the new node's number; they work from the end of a text to its beginning. */
ERR_CHECKED enum err_code network_init(struct network *n, struct err *e);
void network_release(struct network *n);
uint16_t network_node(struct network *n, enum node_kind kind, uint16_t next, uint16_t alt);
uint16_t network_range(struct network *n, int lo, int hi, uint16_t next);
uint16_t network_alt(struct network *n, uint16_t a, uint16_t b);
uint16_t network_call(struct network *n, uint16_t rule, uint16_t next);
uint16_t network_text(struct network *n, const char *text, size_t len, uint16_t next);
uint16_t network_gap(struct network *n, uint16_t next); /* blanks, or none, then next */
void network_jump(struct network *n, uint16_t from, uint16_t to); /* a FAIL node becomes a way to `to` */
void network_add_literal(struct network *n, uint16_t trie, const char *text, size_t len); /* `trie`: a FAIL node at first */
uint16_t network_int_range(struct network *n, int64_t low, int64_t high);
uint16_t network_map(struct network *n, uint16_t value); /* an object of any keys */
/* Items that come first (each a rule), then any number of `more` (0: none), between min and max (-1: no bound). */
uint16_t network_array(struct network *n, const uint16_t *first, int first_count, uint16_t more, int min, int max);
/* Fills in `need`, and looks for ways that read nothing and lead back or are too many. */
ERR_CHECKED enum err_code network_finish(struct network *n, uint16_t root, struct err *e);

enum { NODE_DONE = 1 /* the RETURN of all rules */, NODE_STRING = 2 };

/* ---- a schema into a network ---- */

/* The node where a response_format begins; 0 where it asks for nothing. */
ERR_CHECKED enum err_code grammar_schema(struct network *n, json_t *format, uint16_t *root, struct err *e);

/* ---- states at run time ---- */

struct grammar_state {
    uint16_t *threads; /* each: count, then so many nodes, where to return first and where it stands last */
    uint32_t *to;      /* (256) states, UNKNOWN where not yet looked at; NULL */
    uint32_t hash;
    uint16_t len;
    bool kept, accepts;
};
enum { STATE_DEAD = 0, STATE_UNKNOWN = UINT32_MAX >> 1 };
struct runner {
    const struct network *network;
    struct grammar_state *states; /* (cap); 0 is the dead one */
    uint32_t *slots;              /* (slot_count) hash table of state numbers; 0: empty */
    uint32_t *spare;              /* numbers to use again */
    uint32_t count, cap, slot_count, spare_count, loose; /* loose: states not kept */
    int64_t visits;               /* nodes looked at since the walk began */
    /* of the step under way */
    uint16_t stack[DEPTH_MAX + 2];
    uint16_t out[THREADS_MAX * (DEPTH_MAX + 3)];
    int out_len, out_threads, byte;
    bool accepted;
};
ERR_CHECKED enum err_code runner_init(struct runner *r, const struct network *n, struct err *e);
void runner_release(struct runner *r);
/* The state of one thread at a node, kept. STATE_DEAD: no memory. */
uint32_t runner_start(struct runner *r, uint16_t node);
uint32_t runner_step(struct runner *r, uint32_t state, uint8_t byte);
void runner_keep(struct runner *r, uint32_t state);
/* Forgets what may be forgotten, when it is much. Only kept states are known afterwards. */
void runner_tidy(struct runner *r);
/* The node where the only thread of a state stands; 0 where there are several. */
uint16_t runner_single(const struct runner *r, uint32_t state);

/* ---- the vocabulary ---- */

/* Nodes in depth-first order, so that one loop walks it: a dead node's followers are skipped. */
struct trie {
    uint8_t *byte, *depth; /* (count) depth: 1 for first bytes */
    uint32_t *skip;        /* (count) the next node outside */
    uint32_t *first;       /* (count + 1) the first of its tokens in `ids` */
    int32_t *ids;
    uint32_t count, id_count;
};
struct grammar_vocabulary {
    int count;
    size_t words;          /* of a mask */
    char *bytes;           /* all tokens' */
    uint32_t *at;          /* (count + 1) */
    uint32_t *ends;        /* (words) bits of tokens that end */
    struct trie plain, quoted; /* tokens without and with a quotation mark */
    int32_t single[256];   /* the token of one byte; -1 */
    int32_t think_open, think_close;
    uint16_t string_end;
    uint32_t *inside;      /* (string_end - NODE_STRING, words) which plain tokens go on inside a string */
};
/* Sets the bit of each token that lives when read from `state`. */
void trie_walk(const struct trie *t, struct runner *r, uint32_t state, uint32_t *mask);

#endif
