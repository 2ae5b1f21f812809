#include "engine/tokenizer_split.h"
#include "engine/unicode.h"
#include "engine/utf8.h"

#include <stdlib.h>
#include <string.h>

/* The expressions are those of the models' own tokenizer files, as llama.cpp publishes them for GGUF
 * (src/llama-vocab.cpp); above each matcher stands the one it means. In them \s is White_Space, and (?!\S) at a
 * piece's end holds. */

enum { NOT_UTF8 = 0x110000 };

/* ---- characters ---- */

static bool is(const struct split_text *t, uint32_t at, uint32_t end, int kinds)
{
    return at < end && (t->kind[at] & kinds);
}

static uint32_t code_at(const struct split_text *t, uint32_t at, uint32_t end)
{
    return at < end ? t->code[at] : UINT32_MAX;
}

static bool is_newline(const struct split_text *t, uint32_t at, uint32_t end)
{
    uint32_t c = code_at(t, at, end);
    return c == '\r' || c == '\n';
}

static uint32_t run_of(const struct split_text *t, uint32_t at, uint32_t end, int kinds)
{
    while (is(t, at, end, kinds)) at++;
    return at;
}

static uint32_t run_without(const struct split_text *t, uint32_t at, uint32_t end, int kinds)
{
    while (at < end && !(t->kind[at] & kinds)) at++;
    return at;
}

/* 's|'t|'re|'ve|'m|'ll|'d, in small letters or in any */
static uint32_t contraction(const struct split_text *t, uint32_t at, uint32_t end, bool any_case)
{
    if (code_at(t, at, end) != '\'') return at;
    uint32_t a = code_at(t, at + 1, end), b = code_at(t, at + 2, end);
    if (any_case) {
        a = a >= 'A' && a <= 'Z' ? a + 32 : a;
        b = b >= 'A' && b <= 'Z' ? b + 32 : b;
    }
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return at + 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return at + 3;
    return at;
}

/* \s*[\r\n]+ (where `newlines`) | \s+(?!\S) | \s+ */
static uint32_t spaces(const struct split_text *t, uint32_t at, uint32_t end, bool newlines)
{
    uint32_t stop = run_of(t, at, end, UNICODE_SPACE);
    for (uint32_t i = stop; newlines && i > at; i--)
        if (is_newline(t, i - 1, end)) return i;
    return stop == end || stop - at < 2 ? stop : stop - 1;
}

/* ---- single expressions ---- */

/* [\r\n] */
static uint32_t newline(const struct split_text *t, uint32_t begin, uint32_t at, uint32_t end, int options)
{
    (void)begin;
    (void)options;
    return at + is_newline(t, at, end);
}

enum { MANY = 0 }; /* the most a run may take; 0: no limit */

/* \p{N}{1,options} */
static uint32_t digits(const struct split_text *t, uint32_t begin, uint32_t at, uint32_t end, int options)
{
    (void)begin;
    uint32_t bound = options == MANY || end - at < (uint32_t)options ? end : at + (uint32_t)options;
    return run_of(t, at, bound, UNICODE_NUMBER);
}

/* [0-9][0-9][0-9] */
static uint32_t three_digits(const struct split_text *t, uint32_t begin, uint32_t at, uint32_t end, int options)
{
    (void)begin;
    (void)options;
    for (uint32_t i = at; i < at + 3; i++)
        if (code_at(t, i, end) < '0' || code_at(t, i, end) > '9') return at;
    return at + 3;
}

/* \s?KIND+ */
static uint32_t spaced_run(const struct split_text *t, uint32_t begin, uint32_t at, uint32_t end, int options)
{
    (void)begin;
    if (is(t, at, end, UNICODE_SPACE) && is(t, at + 1, end, options)) return run_of(t, at + 1, end, options);
    return run_of(t, at, end, options);
}

static uint32_t run_in(const struct split_text *t, uint32_t at, uint32_t end, bool (*in)(uint32_t))
{
    while (at < end && in(t->code[at])) at++;
    return at;
}

static uint32_t spaced_run_in(const struct split_text *t, uint32_t at, uint32_t end, bool (*in)(uint32_t))
{
    uint32_t stop = is(t, at, end, UNICODE_SPACE) ? run_in(t, at + 1, end, in) : at;
    return stop > at + 1 ? stop : run_in(t, at, end, in);
}

/* \s?[the listed letters]+ */
static uint32_t cased_run(const struct split_text *t, uint32_t begin, uint32_t at, uint32_t end, int options)
{
    (void)begin;
    (void)options;
    return spaced_run_in(t, at, end, unicode_is_cased);
}

static bool is_deepseek_mark(uint32_t c)
{
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '~') || (c >= 0xFF01 && c <= 0xFF0F) ||
           (c >= 0xFF1A && c <= 0xFF5E) || (c >= 0x2018 && c <= 0x201F) || (c >= 0x3000 && c <= 0x3002);
}

/* \s?[!-/:-~！-／：-～‘-‟　-。]+ */
static uint32_t mark_run(const struct split_text *t, uint32_t begin, uint32_t at, uint32_t end, int options)
{
    (void)begin;
    (void)options;
    return spaced_run_in(t, at, end, is_deepseek_mark);
}

/* \s+$ : tried only at a run's first character, since the rest of the run ends where it does */
static uint32_t last_spaces(const struct split_text *t, uint32_t begin, uint32_t at, uint32_t end, int options)
{
    (void)options;
    if (at > begin && (t->kind[at - 1] & UNICODE_SPACE)) return at;
    return run_of(t, at, end, UNICODE_SPACE) == end ? end : at;
}

static bool is_wide_cjk(uint32_t c)
{
    return (c >= 0x0800 && c <= 0x9FA5) || (c >= 0xAC00 && c <= 0xD7FF);
}

static bool is_cjk_or_kana(uint32_t c)
{
    return (c >= 0x4E00 && c <= 0x9FA5) || (c >= 0x3040 && c <= 0x30FF);
}

enum { CJK_WIDE, CJK_KANA };

/* [一-龥ࠀ-一가-퟿]+ or [一-龥぀-ゟ゠-ヿ]+ */
static uint32_t cjk_run(const struct split_text *t, uint32_t begin, uint32_t at, uint32_t end, int options)
{
    (void)begin;
    return run_in(t, at, end, options == CJK_WIDE ? is_wide_cjk : is_cjk_or_kana);
}

/* [\p{P}$+<=>^~|`]+ ; options: also the backquote */
static uint32_t punctuation_run(const struct split_text *t, uint32_t begin, uint32_t at, uint32_t end, int options)
{
    (void)begin;
    for (; at < end; at++) {
        uint32_t c = t->code[at];
        bool more = c < 128 && c && strchr("$+<=>^~|", (int)c);
        if (!is(t, at, end, UNICODE_PUNCT) && !more && !(options && c == '`')) break;
    }
    return at;
}

static bool is_bloom_break(uint32_t c)
{
    return c == '(' || c == '|' || c == '.' || c == ',' || c == '!' || c == '?' || c == 0x2026 || c == 0x3002 ||
           c == 0xFF0C || c == 0x3001 || c == 0x0964 || c == 0x06D4 || c == 0x060C || c == ')';
}

/*  ?[^(\s|.,!?…。，、।۔،)]+ */
static uint32_t bloom_words(const struct split_text *t, uint32_t begin, uint32_t at, uint32_t end, int options)
{
    (void)begin;
    (void)options;
    uint32_t i = at + (code_at(t, at, end) == ' '), from = i;
    while (i < end && !(t->kind[i] & UNICODE_SPACE) && !is_bloom_break(t->code[i])) i++;
    return i > from ? i : at;
}

/* ---- whole expressions ---- */

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static uint32_t gpt2(const struct split_text *t, uint32_t begin, uint32_t at, uint32_t end, int options)
{
    (void)begin;
    (void)options;
    const int words = UNICODE_SPACE | UNICODE_LETTER | UNICODE_NUMBER;
    uint32_t stop = contraction(t, at, end, false);
    if (stop > at) return stop;
    uint32_t from = at + (code_at(t, at, end) == ' ');
    if (is(t, from, end, UNICODE_LETTER)) return run_of(t, from, end, UNICODE_LETTER);
    if (is(t, from, end, UNICODE_NUMBER)) return run_of(t, from, end, UNICODE_NUMBER);
    if (from < end && !is(t, from, end, words)) return run_without(t, from, end, words);
    return spaces(t, at, end, false);
}

enum { /* options of words() and cased_words(), beside the most digits taken together (the low four bits) */
    DIGITS = 0xF, CONTRACTIONS = 0x10, MARKS = 0x20, NEWLINES_AFTER = 0x40, SLASHES_AFTER = 0x80
};

/* After a run of symbols: [\r\n]* or [\r\n/]* */
static uint32_t after_symbols(const struct split_text *t, uint32_t at, uint32_t end, int options)
{
    while ((options & NEWLINES_AFTER && is_newline(t, at, end)) ||
           (options & SLASHES_AFTER && code_at(t, at, end) == '/'))
        at++;
    return at;
}

/* What follows the words in both families:
 * \p{N}{1,n}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+   (letters: L, or L and M) */
static uint32_t after_words(const struct split_text *t, uint32_t at, uint32_t end, int options, int letters)
{
    const int words = UNICODE_SPACE | letters | UNICODE_NUMBER;
    if (is(t, at, end, UNICODE_NUMBER)) return digits(t, at, at, end, options & DIGITS);
    uint32_t from = at + (code_at(t, at, end) == ' ');
    if (from < end && !is(t, from, end, words)) return after_symbols(t, run_without(t, from, end, words), end, options);
    return spaces(t, at, end, true);
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,n}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 * With MARKS, \p{M} goes with the letters. */
static uint32_t words(const struct split_text *t, uint32_t begin, uint32_t at, uint32_t end, int options)
{
    (void)begin;
    const int letters = UNICODE_LETTER | (options & MARKS ? UNICODE_MARK : 0);
    uint32_t stop = options & CONTRACTIONS ? contraction(t, at, end, true) : at;
    if (stop > at) return stop;
    if (is(t, at, end, letters)) return run_of(t, at, end, letters);
    if (!is_newline(t, at, end) && !is(t, at, end, UNICODE_NUMBER) && is(t, at + 1, end, letters))
        return run_of(t, at + 1, end, letters);
    return after_words(t, at, end, options, letters);
}

static bool is_upperish(uint8_t kind) /* [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}] */
{
    return (kind & (UNICODE_LETTER | UNICODE_MARK)) && !(kind & UNICODE_LOWER_BIT);
}

static bool is_lowerish(uint8_t kind) /* [\p{Ll}\p{Lm}\p{Lo}\p{M}] */
{
    return (kind & (UNICODE_LETTER | UNICODE_MARK)) && !(kind & UNICODE_UPPER_BIT);
}

static uint32_t lower_run(const struct split_text *t, uint32_t at, uint32_t end)
{
    while (at < end && is_lowerish(t->kind[at])) at++;
    return at;
}

/* UPPERISH*LOWERISH+ (where `lower`) or UPPERISH+LOWERISH*, as a backtracking matcher finds it */
static uint32_t cased_word(const struct split_text *t, uint32_t at, uint32_t end, bool lower)
{
    uint32_t upper = at;
    while (upper < end && is_upperish(t->kind[upper])) upper++;
    uint32_t stop = lower_run(t, upper, end);
    if (!lower) return upper > at ? stop : at;
    if (stop > upper) return stop;
    while (upper > at && !is_lowerish(t->kind[upper - 1])) upper--; /* give back until one is lower too */
    return upper;
}

/* [^\r\n\p{L}\p{N}]?U*L+(?i:'s|…)?|[^\r\n\p{L}\p{N}]?U+L*(?i:'s|…)?| as in after_words(), [\r\n/]* after symbols */
static uint32_t cased_words(const struct split_text *t, uint32_t begin, uint32_t at, uint32_t end, int options)
{
    (void)begin;
    bool lead = at < end && !is_newline(t, at, end) && !is(t, at, end, UNICODE_LETTER | UNICODE_NUMBER);
    for (int lower = 1; lower >= 0; lower--) {
        for (int skip = lead; skip >= 0; skip--) { /* with the leading character, then without */
            uint32_t from = at + (uint32_t)skip, stop = cased_word(t, from, end, lower);
            if (stop > from) return options & CONTRACTIONS ? contraction(t, stop, end, true) : stop;
        }
    }
    return after_words(t, at, end, options, UNICODE_LETTER);
}

/* [ASCII punctuation][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
static uint32_t deepseek_v3(const struct split_text *t, uint32_t begin, uint32_t at, uint32_t end, int options)
{
    (void)begin;
    const int letters = UNICODE_LETTER | UNICODE_MARK, symbols = UNICODE_PUNCT | UNICODE_SYMBOL;
    uint32_t stop = at + 1;
    if (t->code[at] < 128 && is(t, at, end, symbols)) {
        while (code_at(t, stop, end) < 128 && is(t, stop, end, UNICODE_LETTER)) stop++;
        if (stop > at + 1) return stop;
    }
    if (is(t, at, end, letters)) return run_of(t, at, end, letters);
    if (!is_newline(t, at, end) && !is(t, at, end, symbols) && is(t, at + 1, end, letters))
        return run_of(t, at + 1, end, letters);
    uint32_t from = at + (code_at(t, at, end) == ' ');
    if (is(t, from, end, symbols)) return after_symbols(t, run_of(t, from, end, symbols), end, options);
    return spaces(t, at, end, true);
}

/* ---- the table ---- */

#define WORDS CONTRACTIONS | NEWLINES_AFTER
static const struct split SPLITS[] = {
    {" gpt-2 phi-2 mpt olmo jais trillion granite-docling exaone4 jina-es jina-de jina-v2-es jina-v2-de gigachat a.x-4.0 "
     "mellum modern-bert jina-v1-en jina-v2-code roberta-bpe ", false, false, {{gpt2, 0}}},
    {" starcoder refact command-r smollm codeshell exaone minerva-7b mellum2 ", false, false, {{digits, 1}, {gpt2, 0}}},
    {" llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano ", true, true, {{words, WORDS | 3}}},
    {" dbrx smaug-bpe chatglm-bpe glm4 ", false, false, {{words, WORDS | 3}}},
    {" qwen2 deepseek-r1-qwen stablelm2 hunyuan megrez solar-open grok-2 kormo f2llmv2 bailingmoe bailingmoe2 llada-moe ",
     false, false, {{words, WORDS | 1}}},
    {" qwen35 ", false, false, {{words, WORDS | MARKS | 1}}},
    {" seed-coder ", false, false, {{words, CONTRACTIONS | 1}}},
    {" minicpm5 ", true, false, {{digits, 3}, {words, WORDS | MANY}}},
    {" deepseek-llm ", false, false,
     {{newline, 0}, {cased_run, 0}, {mark_run, 0}, {last_spaces, 0}, {cjk_run, CJK_WIDE}, {digits, MANY}}},
    {" deepseek-coder ", false, false,
     {{newline, 0}, {spaced_run, UNICODE_LETTER}, {spaced_run, UNICODE_PUNCT}, {cjk_run, CJK_WIDE}, {digits, 1}}},
    {" deepseek-v3 hunyuan-dense joyai-llm hy_v4 ", false, false,
     {{digits, 3}, {cjk_run, CJK_KANA}, {deepseek_v3, NEWLINES_AFTER}}},
    {" falcon ", false, false, {{punctuation_run, '`'}, {gpt2, 0}, {three_digits, 0}}},
    {" default ", false, false, {{punctuation_run, 0}, {gpt2, 0}, {digits, MANY}, {three_digits, 0}}},
    {" poro-chat bloom gpt3-finnish ", false, false, {{bloom_words, 0}}},
    {" viking ", false, false, {{bloom_words, 0}, {digits, 1}}},
    {" tekken ", true, true, {{cased_words, NEWLINES_AFTER | SLASHES_AFTER | 1}}},
    {" gpt-4o llama4 kanana2 talkie minimax-m2 ", false, false, {{cased_words, WORDS | SLASHES_AFTER | 3}}},
    {" granite-embed-multi-97m ", true, false, {{cased_words, WORDS | SLASHES_AFTER | 3}}},
};

const struct split *split_find(const char *name, size_t len)
{
    char padded[64];
    if (len == 0 || len + 3 > sizeof padded || memchr(name, ' ', len) || memchr(name, 0, len)) return NULL;
    padded[0] = ' ';
    memcpy(padded + 1, name, len);
    memcpy(padded + 1 + len, " ", 2);
    for (size_t i = 0; i < sizeof SPLITS / sizeof SPLITS[0]; i++)
        if (strstr(SPLITS[i].names, padded)) return &SPLITS[i];
    return NULL;
}

/* ---- running ---- */

enum err_code split_text_init(struct split_text *t, const char *text, size_t len, struct err *e)
{
    *t = (struct split_text){0};
    if (len >= (size_t)INT32_MAX) return err_set(e, ERR_TOO_LARGE, "a text of %zu bytes; 2 GiB is the most", len);
    t->code = malloc((len + 1) * sizeof *t->code);
    t->kind = malloc(len + 1);
    t->at = malloc((len + 1) * sizeof *t->at);
    if (!t->code || !t->kind || !t->at) {
        split_text_release(t);
        return err_set(e, ERR_MEMORY, "no memory to tokenize %zu bytes", len);
    }
    for (size_t i = 0; i < len; t->count++) {
        int32_t code;
        size_t n = utf8_next(text + i, len - i, &code);
        if (code < 0) { /* kept byte by byte, so that no input is lost */
            code = NOT_UTF8;
            n = 1;
        }
        t->at[t->count] = (uint32_t)i;
        t->code[t->count] = (uint32_t)code;
        t->kind[t->count] = unicode_kind((uint32_t)code);
        i += n;
    }
    t->at[t->count] = (uint32_t)len;
    return ERR_OK;
}

void split_text_release(struct split_text *t)
{
    free(t->code);
    free(t->kind);
    free(t->at);
    *t = (struct split_text){0};
}

/* Cut one piece by one rule, writing the new ends. */
static uint32_t *cut(const struct split_rule *rule, const struct split_text *t, uint32_t begin, uint32_t end,
                     uint32_t *out)
{
    uint32_t done = begin; /* where the last end was written */
    for (uint32_t at = begin; at < end;) {
        uint32_t stop = rule->match(t, begin, at, end, rule->options);
        if (stop == at) {
            at++;
            continue;
        }
        if (at > done) *out++ = at;
        *out++ = at = done = stop;
    }
    if (end > done) *out++ = end;
    return out;
}

enum err_code split_run(const struct split *split, const struct split_text *t, uint32_t **ends, uint32_t *count,
                        struct err *e)
{
    uint32_t *now = malloc(((size_t)t->count + 1) * sizeof *now); /* pieces are never empty: count of them at most */
    uint32_t *next = malloc(((size_t)t->count + 1) * sizeof *next);
    if (!now || !next) {
        free(now);
        free(next);
        return err_set(e, ERR_MEMORY, "no memory to tokenize %u characters", t->count);
    }
    uint32_t pieces = t->count > 0;
    now[0] = t->count;
    for (size_t r = 0; r < sizeof split->rules / sizeof split->rules[0] && split->rules[r].match; r++) {
        uint32_t *out = next, begin = 0;
        for (uint32_t i = 0; i < pieces; begin = now[i++]) out = cut(&split->rules[r], t, begin, now[i], out);
        pieces = (uint32_t)(out - next);
        uint32_t *swap = now;
        now = next;
        next = swap;
    }
    free(next);
    *ends = now;
    *count = pieces;
    return ERR_OK;
}
