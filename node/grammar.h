/* Constrained output: `response_format` compiled into an automaton over bytes, which tells the engine which tokens may
 * come next (`struct engine_constraint`).
 *
 * A schema becomes a network of byte ranges with calls (a pushdown automaton whose stack is bounded). Where the engine
 * stands in it is a set of threads, interned in the grammar; transitions are remembered as they are first taken, and the
 * masks of the last states too. What every model's vocabulary needs, tries of the token bytes and the masks inside a
 * plain string, is made once and shared by all requests.
 *
 * Whatever a grammar lets through to its end is one JSON value that satisfies the schema: properties in the schema's
 * order, strings of valid UTF-8 without U+0000, numbers that fit a double or 63 bits, at most 64 levels, few blanks.
 */
#ifndef RUNG_NODE_GRAMMAR_H
#define RUNG_NODE_GRAMMAR_H

#include "base/err.h"
#include "engine/engine.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct grammar;
struct grammar_vocabulary;

/* A model's tokens, as the vocabulary reads them once. */
struct grammar_tokens {
    void *ctx;
    int count;
    size_t (*bytes)(void *ctx, int32_t id, char *out, size_t size); /* as engine_token_bytes(special false) */
    bool (*ends)(void *ctx, int32_t id);                           /* ends the generation */
    int32_t think_open, think_close;                               /* -1: none */
};
/* Read-only afterwards: any thread. Some 100 ms for 150,000 tokens. Errors: ERR_MEMORY, ERR_UNSUPPORTED (the tokens
 * cannot spell every JSON text, or none ends a generation). */
ERR_CHECKED enum err_code grammar_vocabulary_new(struct grammar_vocabulary **out, const struct grammar_tokens *tokens,
                                                 struct err *e);
/* The same of an engine's model. */
ERR_CHECKED enum err_code grammar_vocabulary_of(struct grammar_vocabulary **out, const struct engine *engine, struct err *e);
void grammar_vocabulary_free(struct grammar_vocabulary *v);

/* Compile the `response_format` of a request's extra fields (`extra_json`: an object). *out stays NULL where it asks for
 * nothing. The vocabulary must outlive the grammar. Bounded work, no recursion on the schema: fit for the loop thread.
 * Errors name `response_format` and the place: ERR_INVALID (not a schema, or nothing satisfies it), ERR_UNSUPPORTED (a
 * keyword that this engine cannot hold to), ERR_TOO_LARGE, ERR_MEMORY. */
ERR_CHECKED enum err_code grammar_new(struct grammar **out, const struct grammar_vocabulary *v, const char *extra_json,
                                      struct err *e);
void grammar_free(struct grammar *g);

/* Where one choice starts, and the constraint for it. One thread uses all choices of a grammar: the engine's. */
struct grammar_choice {
    struct grammar *grammar;
    uint32_t start; /* state */
    bool thinking;  /* the prompt ends inside the model's thinking: free until that closes */
};
void grammar_choice_init(struct grammar_choice *c, struct grammar *g, bool thinking);
/* The answer so far, said by another model. False: it does not fit the grammar. */
bool grammar_choice_feed(struct grammar_choice *c, const char *text, size_t len);
struct engine_constraint grammar_constraint(struct grammar_choice *c);

/* For tests: 1 where the whole text is a value of the grammar, 0 where it may yet become one, -1 else. */
int grammar_check(struct grammar *g, const char *text, size_t len);

#endif
