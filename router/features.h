/* What the router sees of a prompt: a stream of hashed n-grams and a few dozen counted features.
 *
 * Private to the room. No allocation, no tables to load; the same code runs in fitting and in scoring. Text beyond
 * FEATURES_TEXT_MAX bytes is read at its two ends only. Bytes that are not UTF-8 are taken as they are.
 */
#ifndef RUNG_ROUTER_FEATURES_H
#define RUNG_ROUTER_FEATURES_H

#include "router/router.h"

enum { FEATURES_TEXT_MAX = 16384, FEATURES_CHUNK = 256 };

/* The counted features, in the order they lie in `counted`; the names are for people. All are made so that most
 * prompts lie between 0 and about 10. */
#define COUNTED_TABLE(X)                                                                                            \
    X(CHARS, "length (log)")                                                                                        \
    X(WORDS, "words (log)")                                                                                         \
    X(WORD_LEN, "mean word length")                                                                                 \
    X(LONG_WORDS, "share of words > 8 letters")                                                                     \
    X(LINES, "lines (log)")                                                                                         \
    X(SENTENCES, "sentences (log)")                                                                                 \
    X(SENTENCE_LEN, "words a sentence (log)")                                                                       \
    X(UPPER, "capital letters, share")                                                                              \
    X(NAMES, "capitalised words inside sentences, share")                                                           \
    X(DIGITS, "digits, share")                                                                                      \
    X(NUMBERS, "numbers (log)")                                                                                     \
    X(BIG_NUMBER, "largest number (log)")                                                                           \
    X(DECIMALS, "numbers with a decimal point")                                                                     \
    X(NUMBER_WORDS, "numbers in words (log)")                                                                       \
    X(OPERATORS, "operators + - * / = < > ^ (log)")                                                                 \
    X(MATHS, "maths markup $ \\ { } _ (log)")                                                                       \
    X(CODE, "code marks (log)")                                                                                     \
    X(QUOTES, "quotation marks (log)")                                                                              \
    X(COMMAS, "commas (log)")                                                                                       \
    X(BRACKETS, "brackets (log)")                                                                                   \
    X(QUESTIONS, "question marks (log)")                                                                            \
    X(ENDS_QUESTION, "ends with a question mark")                                                                   \
    X(ENDS_OPEN, "ends without closing mark")                                                                       \
    X(OPTIONS, "answer options")                                                                                    \
    X(OPTION_LEN, "length of the text after the first option (log)")                                                \
    X(OPTION_NUMBERS, "options that are numbers")                                                                   \
    X(NEGATIONS, "negations")                                                                                       \
    X(COMPARES, "comparing words")                                                                                  \
    X(RATES, "each, per, every, times, percent")                                                                    \
    X(REASONS, "because, if, then, therefore, prove")                                                               \
    X(ORDERS, "write, list, explain, translate")                                                                    \
    X(DEMANDS, "must, exactly, only, at least")                                                                     \
    X(ASKS_WHO, "asks who, when, where, which")                                                                     \
    X(ASKS_HOW_MANY, "asks how many or how much")                                                                   \
    X(ASKS_WHY, "asks why or how")                                                                                  \
    X(NON_ASCII, "letters beyond ASCII, share")                                                                     \
    X(CJK, "Chinese, Japanese, Korean, share")                                                                      \
    X(REPEATS, "words that came before, share")                                                                     \
    X(FUNCTION_WORDS, "function words, share")                                                                      \
    X(TURNS, "turns (log)")                                                                                         \
    X(CONTEXT, "length of the turns before (log)")                                                                  \
    X(TOOLS, "tools offered")                                                                                       \
    X(JSON, "JSON asked for")
enum counted {
#define X(code, name) COUNTED_##code,
    COUNTED_TABLE(X)
#undef X
    COUNTED
};
const char *counted_name(enum counted feature);

/* Which kind of n-gram a hash is of; . */
enum gram_kind { GRAM_WORD, GRAM_PAIR, GRAM_CHARS, GRAM_KINDS };

/* One n-gram. `at`, `len`: where it ended in the text and over how many bytes it reaches, for explaining. */
struct gram {
    uint32_t hash; /* 32 well-mixed bits of kind and content */
    uint32_t at;
    uint16_t len;
    uint8_t kind;
};
/* Gets the n-grams in the order of the text, up to FEATURES_CHUNK at a time; the same one may come many times. */
typedef void gram_sink(void *ctx, const struct gram *grams, size_t count);

/* Walk a prompt: n-grams to `sink` (may be NULL), counts to `counted` (COUNTED floats). */
void features_walk(const struct router_input *in, gram_sink *sink, void *ctx, float *counted);

/* The lowered text that `at` of a gram counts in, closed by a NUL; `out` needs FEATURES_TEXT_MAX + 1 bytes. */
void features_lowered(const struct router_input *in, char *out);

#endif
