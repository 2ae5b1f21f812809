/* One pass lowers the text and counts bytes, a second cuts it into words and n-grams and counts words. */
#include "router/features.h"

#include <math.h>
#include <string.h>

static const char *const COUNTED_TEXTS[COUNTED] = {
#define X(code, name) name,
    COUNTED_TABLE(X)
#undef X
};

const char *counted_name(enum counted feature)
{
    return (unsigned)feature < COUNTED ? COUNTED_TEXTS[feature] : "unknown";
}

/* ---- words that are counted ---- */

enum word_class {
    WORD_PLAIN,
    WORD_FUNCTION = 1 << 0,
    WORD_NUMBER = 1 << 1,
    WORD_NEGATION = 1 << 2,
    WORD_COMPARE = 1 << 3,
    WORD_RATE = 1 << 4,
    WORD_REASON = 1 << 5,
    WORD_ORDER = 1 << 6,
    WORD_DEMAND = 1 << 7,
    WORD_WHO = 1 << 8,
    WORD_WHY = 1 << 9,
    WORD_CODE = 1 << 10,
};
/* Their bits in the order of the counted features they add to. */
static const struct {
    unsigned bit;
    enum counted feature;
} WORD_COUNTS[] = {
    {WORD_NUMBER, COUNTED_NUMBER_WORDS}, {WORD_NEGATION, COUNTED_NEGATIONS}, {WORD_COMPARE, COUNTED_COMPARES},
    {WORD_RATE, COUNTED_RATES},          {WORD_REASON, COUNTED_REASONS},     {WORD_ORDER, COUNTED_ORDERS},
    {WORD_DEMAND, COUNTED_DEMANDS},      {WORD_WHO, COUNTED_ASKS_WHO},       {WORD_WHY, COUNTED_ASKS_WHY},
    {WORD_CODE, COUNTED_CODE},           {WORD_FUNCTION, COUNTED_FUNCTION_WORDS},
};
#define WORD_COUNTS_COUNT (sizeof WORD_COUNTS / sizeof WORD_COUNTS[0])

struct keyword {
    char word[8]; /* closed by zeros, if shorter */
    unsigned classes;
};
#define ROWS(...) ((const struct keyword[]){__VA_ARGS__, {{0}, 0}})
#define F WORD_FUNCTION
/* By first letter; each list ends with an empty word. */
static const struct keyword *const KEYWORDS[26] = {
    ['a' - 'a'] = ROWS({"a", F}, {"an", F}, {"and", F}, {"as", F}, {"at", F}, {"are", F}, {"about", F},
                       {"all", WORD_DEMAND}, {"always", WORD_DEMAND}, {"assume", WORD_REASON}),
    ['b' - 'a'] = ROWS({"be", F}, {"by", F}, {"but", F}, {"been", F}, {"because", WORD_REASON}, {"best", WORD_COMPARE},
                       {"better", WORD_COMPARE}, {"both", WORD_DEMAND}, {"billion", WORD_NUMBER},
                       {"bool", WORD_CODE}),
    ['c' - 'a'] = ROWS({"can", F}, {"could", F}, {"complete", WORD_ORDER}, {"convert", WORD_ORDER},
                       {"compute", WORD_ORDER}, {"class", WORD_CODE}, {"const", WORD_CODE}, {"char", WORD_CODE}),
    ['d' - 'a'] = ROWS({"do", F}, {"does", F}, {"did", F}, {"double", WORD_RATE | WORD_CODE}, {"dozen", WORD_NUMBER},
                       {"daily", WORD_RATE}, {"def", WORD_CODE}, {"describe", WORD_ORDER}),
    ['e' - 'a'] = ROWS({"each", WORD_RATE}, {"every", WORD_RATE}, {"eight", WORD_NUMBER}, {"except", WORD_NEGATION},
                       {"exactly", WORD_DEMAND}, {"explain", WORD_ORDER}, {"eleven", WORD_NUMBER},
                       {"elif", WORD_CODE}, {"equal", WORD_COMPARE}),
    ['f' - 'a'] = ROWS({"for", F}, {"from", F}, {"five", WORD_NUMBER}, {"four", WORD_NUMBER}, {"first", WORD_NUMBER},
                       {"fewer", WORD_COMPARE}, {"find", WORD_ORDER}, {"float", WORD_CODE},
                       {"function", WORD_CODE}, {"fifty", WORD_NUMBER}, {"false", WORD_NEGATION}),
    ['g' - 'a'] = ROWS({"greater", WORD_COMPARE}, {"given", WORD_REASON}, {"give", WORD_ORDER}),
    ['h' - 'a'] = ROWS({"he", F}, {"her", F}, {"his", F}, {"has", F}, {"have", F}, {"had", F}, {"how", WORD_WHY},
                       {"half", WORD_NUMBER | WORD_RATE}, {"hundred", WORD_NUMBER}, {"hence", WORD_REASON},
                       {"higher", WORD_COMPARE}, {"hourly", WORD_RATE}),
    ['i' - 'a'] = ROWS({"i", F}, {"in", F}, {"is", F}, {"it", F}, {"its", F}, {"into", F}, {"if", WORD_REASON},
                       {"int", WORD_CODE}, {"import", WORD_CODE}),
    ['l' - 'a'] = ROWS({"less", WORD_COMPARE}, {"least", WORD_DEMAND | WORD_COMPARE}, {"larger", WORD_COMPARE},
                       {"largest", WORD_COMPARE}, {"list", WORD_ORDER}, {"let", WORD_REASON},
                       {"lower", WORD_COMPARE}),
    ['m' - 'a'] = ROWS({"more", WORD_COMPARE}, {"most", WORD_COMPARE}, {"must", WORD_DEMAND},
                       {"million", WORD_NUMBER}, {"may", F}, {"many", F}, {"much", F}),
    ['n' - 'a'] = ROWS({"not", WORD_NEGATION}, {"no", WORD_NEGATION}, {"never", WORD_NEGATION}, {"nor", WORD_NEGATION},
                       {"none", WORD_NEGATION}, {"nine", WORD_NUMBER}, {"null", WORD_CODE}),
    ['o' - 'a'] = ROWS({"of", F}, {"on", F}, {"or", F}, {"one", WORD_NUMBER}, {"only", WORD_DEMAND},
                       {"other", F}, {"once", WORD_RATE}, {"output", WORD_CODE}),
    ['p' - 'a'] = ROWS({"per", WORD_RATE}, {"percent", WORD_RATE}, {"prove", WORD_REASON | WORD_ORDER},
                       {"print", WORD_CODE}, {"python", WORD_CODE}),
    ['r' - 'a'] = ROWS({"return", WORD_CODE}, {"returns", WORD_CODE}, {"rewrite", WORD_ORDER}),
    ['s' - 'a'] = ROWS({"she", F}, {"so", F}, {"some", F}, {"should", F}, {"since", WORD_REASON}, {"six", WORD_NUMBER},
                       {"seven", WORD_NUMBER}, {"second", WORD_NUMBER}, {"smaller", WORD_COMPARE},
                       {"same", WORD_COMPARE}, {"suppose", WORD_REASON}, {"string", WORD_CODE},
                       {"self", WORD_CODE}, {"solve", WORD_ORDER}, {"smallest", WORD_COMPARE}),
    ['t' - 'a'] = ROWS({"the", F}, {"to", F}, {"that", F}, {"this", F}, {"they", F}, {"their", F}, {"these", F},
                       {"than", WORD_COMPARE}, {"then", WORD_REASON}, {"there", F}, {"two", WORD_NUMBER},
                       {"three", WORD_NUMBER}, {"ten", WORD_NUMBER}, {"twice", WORD_NUMBER | WORD_RATE},
                       {"times", WORD_RATE}, {"third", WORD_NUMBER}, {"total", WORD_RATE},
                       {"thousand", WORD_NUMBER}, {"twenty", WORD_NUMBER}, {"twelve", WORD_NUMBER},
                       {"triple", WORD_RATE}, {"true", WORD_COMPARE}),
    ['u' - 'a'] = ROWS({"under", F}, {"unless", WORD_NEGATION | WORD_REASON}),
    ['v' - 'a'] = ROWS({"void", WORD_CODE}, {"var", WORD_CODE}),
    ['w' - 'a'] = ROWS({"was", F}, {"were", F}, {"will", F}, {"with", F}, {"would", F}, {"what", F},
                       {"which", WORD_WHO}, {"who", WORD_WHO}, {"when", WORD_WHO}, {"where", WORD_WHO},
                       {"whose", WORD_WHO}, {"why", WORD_WHY}, {"without", WORD_NEGATION}, {"write", WORD_ORDER},
                       {"whether", WORD_REASON}, {"weekly", WORD_RATE}, {"while", WORD_CODE}),
    ['y' - 'a'] = ROWS({"you", F}, {"your", F}),
    ['z' - 'a'] = ROWS({"zero", WORD_NUMBER}),
};
#undef F

/* `packed`: the word's bytes, first one lowest; only words of at most 8 bytes are counted. */
static unsigned word_classes(uint64_t packed)
{
    unsigned letter = (unsigned)(packed & 255) - 'a';
    if (letter >= 26 || !KEYWORDS[letter]) return WORD_PLAIN;
    for (const struct keyword *k = KEYWORDS[letter]; k->word[0]; k++) {
        uint64_t key;
        memcpy(&key, k->word, sizeof key);
        if (key == packed) return k->classes;
    }
    return WORD_PLAIN;
}

/* ---- bytes ---- */

enum byte_class {
    BYTE_LETTER = 1,
    BYTE_UPPER = 2,
    BYTE_DIGIT = 4,
    BYTE_SPACE = 8,
    BYTE_OPERATOR = 16,
    BYTE_MATHS = 32,
    BYTE_HIGH = 64,
    BYTE_BRACKET = 128,
};
#define LETTERS(from, bits)                                                                                         \
    [from] = bits, [from + 1] = bits, [from + 2] = bits, [from + 3] = bits, [from + 4] = bits, [from + 5] = bits,   \
    [from + 6] = bits, [from + 7] = bits, [from + 8] = bits, [from + 9] = bits, [from + 10] = bits,                 \
    [from + 11] = bits, [from + 12] = bits, [from + 13] = bits, [from + 14] = bits, [from + 15] = bits,             \
    [from + 16] = bits, [from + 17] = bits, [from + 18] = bits, [from + 19] = bits, [from + 20] = bits,             \
    [from + 21] = bits, [from + 22] = bits, [from + 23] = bits, [from + 24] = bits, [from + 25] = bits
static const uint8_t BYTES[128] = {
    LETTERS('a', BYTE_LETTER), LETTERS('A', BYTE_LETTER | BYTE_UPPER),
    ['0'] = BYTE_DIGIT, ['1'] = BYTE_DIGIT, ['2'] = BYTE_DIGIT, ['3'] = BYTE_DIGIT, ['4'] = BYTE_DIGIT,
    ['5'] = BYTE_DIGIT, ['6'] = BYTE_DIGIT, ['7'] = BYTE_DIGIT, ['8'] = BYTE_DIGIT, ['9'] = BYTE_DIGIT,
    [' '] = BYTE_SPACE, ['\t'] = BYTE_SPACE, ['\n'] = BYTE_SPACE, ['\r'] = BYTE_SPACE, ['\v'] = BYTE_SPACE,
    ['\f'] = BYTE_SPACE, ['\0'] = BYTE_SPACE,
    ['+'] = BYTE_OPERATOR, ['-'] = BYTE_OPERATOR, ['*'] = BYTE_OPERATOR, ['/'] = BYTE_OPERATOR,
    ['='] = BYTE_OPERATOR, ['<'] = BYTE_OPERATOR, ['>'] = BYTE_OPERATOR, ['^'] = BYTE_OPERATOR | BYTE_MATHS,
    ['$'] = BYTE_MATHS, ['\\'] = BYTE_MATHS, ['{'] = BYTE_MATHS | BYTE_BRACKET, ['}'] = BYTE_MATHS | BYTE_BRACKET,
    ['_'] = BYTE_MATHS, ['('] = BYTE_BRACKET, [')'] = BYTE_BRACKET, ['['] = BYTE_BRACKET, [']'] = BYTE_BRACKET,
};
static unsigned byte_class(unsigned char c)
{
    return c < 128 ? BYTES[c] : BYTE_HIGH;
}

/* ---- the walk ---- */

struct walk {
    gram_sink *sink;
    void *ctx;
    struct gram chunk[FEATURES_CHUNK];
    size_t filled;
    unsigned char text[FEATURES_TEXT_MAX + 1]; /* lowered, each run of spaces one space */
    size_t len;
    uint64_t seen[64]; /* words that came before, by 12 bits of hash */
    float n[COUNTED];  /* plain counts while walking */
    uint32_t bytes[256];
    float uppers, digits, highs, cjk, words, word_bytes, long_words, names, functions, repeats, ends;
    double number_max;
};

static uint32_t mix(uint64_t x)
{
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    x ^= x >> 32;
    return (uint32_t)x;
}

static inline void emit(struct walk *w, enum gram_kind kind, uint64_t key, size_t at, size_t len)
{
    uint32_t hash = mix(key + 0x9e3779b97f4a7c15u * (kind + 1));
    w->chunk[w->filled++] = (struct gram){hash, (uint32_t)at, (uint16_t)(len < 65535 ? len : 65535), (uint8_t)kind};
    if (w->filled < FEATURES_CHUNK) return;
    w->sink(w->ctx, w->chunk, w->filled);
    w->filled = 0;
}

/* Answer options: "A. ", "B) ", "(C) " at the start of a line, with what they hold. */
static void count_options(struct walk *w, const unsigned char *t, size_t len)
{
    size_t first = len;
    for (size_t i = 0; i + 2 < len; i++) {
        if (i > 0 && t[i - 1] != '\n') {
            const unsigned char *next = memchr(t + i, '\n', len - i);
            if (!next) break;
            i = (size_t)(next - t);
            continue;
        }
        size_t k = i + (t[i] == '(');
        if (k + 2 >= len || t[k] < 'A' || t[k] > 'J' || (t[k + 1] != '.' && t[k + 1] != ')')) continue;
        if (first == len) first = i;
        size_t v = k + 2;
        while (v < len && (t[v] == ' ' || t[v] == '$' || t[v] == '-')) v++;
        w->n[COUNTED_OPTIONS]++;
        if (v < len && t[v] >= '0' && t[v] <= '9') w->n[COUNTED_OPTION_NUMBERS]++;
    }
    w->n[COUNTED_OPTION_LEN] = (float)(len - first);
}

/* Lowers the text, one space for each run of them, and counts every byte. */
static void lower(struct walk *w, const unsigned char *t, size_t len)
{
    size_t to = w->len;
    unsigned char last = to ? w->text[to - 1] : ' ';
    for (size_t i = 0; i < len; i++) {
        unsigned char c = t[i];
        unsigned k = byte_class(c);
        w->bytes[c]++;
        if (k & BYTE_UPPER) {
            c = (unsigned char)(c | 32);
            if (i >= 2 && t[i - 1] == ' ' && t[i - 2] != '.' && t[i - 2] != '?' && t[i - 2] != ':') w->names++;
        } else if (k & BYTE_SPACE) {
            c = ' ';
        }
        w->text[to] = c;
        to += c != ' ' || last != ' ';
        last = c;
    }
    while (to && w->text[to - 1] == ' ') to--;
    w->len = to;
    w->text[to] = ' '; /* closes the last word */
}

/* What single bytes say. */
static void count_bytes(struct walk *w)
{
    for (unsigned c = 0; c < 256; c++) {
        unsigned k = byte_class((unsigned char)c);
        float n = (float)w->bytes[c];
        if (k & BYTE_UPPER) w->uppers += n;
        if (k & BYTE_HIGH) w->highs += n;
        if (k & BYTE_OPERATOR) w->n[COUNTED_OPERATORS] += n;
        if (k & BYTE_MATHS) w->n[COUNTED_MATHS] += n;
        if (k & BYTE_BRACKET) w->n[COUNTED_BRACKETS] += n;
    }
    w->n[COUNTED_LINES] = (float)w->bytes['\n'];
    w->n[COUNTED_QUOTES] = (float)(w->bytes['"'] + w->bytes['\'']);
    w->n[COUNTED_COMMAS] = (float)w->bytes[','];
    w->n[COUNTED_QUESTIONS] = (float)w->bytes['?'];
    w->n[COUNTED_CODE] = (float)(w->bytes[';'] + w->bytes['`']);
    w->ends = (float)(w->bytes['.'] + w->bytes['!'] + w->bytes['?']);
}

static void take_number(struct walk *w, size_t from, size_t to)
{
    double value = 0;
    for (size_t i = from; i < to && value < 1e15; i++) value = value * 10 + (w->text[i] - '0');
    w->digits += (float)(to - from);
    w->n[COUNTED_NUMBERS]++;
    if (from >= 2 && w->text[from - 1] == '.' && byte_class(w->text[from - 2]) == BYTE_DIGIT) w->n[COUNTED_DECIMALS]++;
    if (value > w->number_max) w->number_max = value;
    if (w->text[to] == '%') w->n[COUNTED_RATES]++;
}

static void take_word(struct walk *w, uint64_t packed, uint64_t hash, size_t len)
{
    unsigned classes = len <= 8 ? word_classes(packed) : 0;
    for (size_t i = 0; classes && i < WORD_COUNTS_COUNT; i++)
        if (classes & WORD_COUNTS[i].bit) w->n[WORD_COUNTS[i].feature]++;
    w->words++;
    w->word_bytes += (float)len;
    w->long_words += len > 8;
    unsigned slot = (unsigned)(hash >> 20) & 4095;
    w->repeats += (w->seen[slot >> 6] >> (slot & 63) & 1) ? 1.0f : 0.0f;
    w->seen[slot >> 6] |= 1ull << (slot & 63);
}

/* The bytes of one Chinese, Japanese or Korean character at `t`, or 0. */
static size_t cjk_bytes(const unsigned char *t, size_t left)
{
    return left >= 3 && t[0] >= 0xe3 && t[0] <= 0xed && (t[1] & 0xc0) == 0x80 && (t[2] & 0xc0) == 0x80 ? 3 : 0;
}

/* Words (a run of letters, a run of digits, one CJK character) and pairs of them. */
static void cut_words(struct walk *w)
{
    uint64_t last = 1;
    size_t last_from = 0;
    for (size_t i = 0; i < w->len;) {
        const unsigned char *t = w->text;
        unsigned k = byte_class(t[i]);
        size_t from = i, wide = cjk_bytes(t + i, w->len - i);
        uint64_t packed = 0, hash = 0xcbf29ce484222325u;
        if (wide) {
            i += wide;
            w->cjk++;
        } else if (k & (BYTE_LETTER | BYTE_HIGH)) {
            while (i < w->len && (byte_class(t[i]) & (BYTE_LETTER | BYTE_HIGH)) && !cjk_bytes(t + i, w->len - i)) i++;
        } else if (k & BYTE_DIGIT) {
            while (i < w->len && byte_class(t[i]) == BYTE_DIGIT) i++;
            take_number(w, from, i);
        } else {
            i++;
            continue;
        }
        for (size_t j = from; j < i; j++) {
            hash = (hash ^ t[j]) * 0x100000001b3u;
            if (j - from < 8) packed |= (uint64_t)t[j] << (8 * (j - from));
        }
        hash ^= hash >> 29;
        if (!(k & BYTE_DIGIT)) take_word(w, packed, hash, i - from);
        if (w->sink) {
            emit(w, GRAM_WORD, hash, i, i - from);
            emit(w, GRAM_PAIR, last * 0x9e3779b97f4a7c15u + hash, i, i - last_from);
        }
        last = hash;
        last_from = from;
    }
}

/* Runs of 4 bytes; CJK characters are words of their own and left out here. */
static void cut_chars(struct walk *w)
{
    uint64_t window = ' ';
    for (size_t i = 0; i <= w->len; i++) {
        window = window << 8 | w->text[i];
        if (i >= 2 && w->text[i] < 0xe3) emit(w, GRAM_CHARS, window & 0xffffffff, i + 1, 4);
    }
}

static float logged(double count)
{
    return (float)log1p(count);
}

static void count(struct walk *w, const struct router_input *in, float *out)
{
    float words = w->words > 1 ? w->words : 1, bytes = w->len > 1 ? (float)w->len : 1;
    float sentences = w->ends > 1 ? w->ends : 1;
    memcpy(out, w->n, sizeof w->n);
    static const uint8_t LOGGED[] = {
        COUNTED_LINES,    COUNTED_NUMBERS,  COUNTED_NUMBER_WORDS, COUNTED_OPERATORS,  COUNTED_MATHS,
        COUNTED_CODE,     COUNTED_QUOTES,   COUNTED_COMMAS,       COUNTED_BRACKETS,   COUNTED_QUESTIONS,
        COUNTED_DECIMALS, COUNTED_NEGATIONS, COUNTED_COMPARES,    COUNTED_RATES,      COUNTED_REASONS,
        COUNTED_ORDERS,   COUNTED_DEMANDS,  COUNTED_ASKS_WHO,     COUNTED_ASKS_WHY,   COUNTED_OPTIONS,
        COUNTED_OPTION_LEN, COUNTED_OPTION_NUMBERS};
    for (size_t i = 0; i < sizeof LOGGED; i++) out[LOGGED[i]] = logged((double)out[LOGGED[i]]);
    out[COUNTED_CHARS] = logged((double)in->text_len);
    out[COUNTED_WORDS] = logged((double)w->words);
    out[COUNTED_WORD_LEN] = w->word_bytes / words;
    out[COUNTED_LONG_WORDS] = 10 * w->long_words / words;
    out[COUNTED_SENTENCES] = logged((double)w->ends);
    out[COUNTED_SENTENCE_LEN] = logged((double)(w->words / sentences));
    out[COUNTED_UPPER] = 10 * w->uppers / bytes;
    out[COUNTED_NAMES] = 10 * w->names / words;
    out[COUNTED_DIGITS] = 10 * w->digits / bytes;
    out[COUNTED_BIG_NUMBER] = (float)log10(1 + w->number_max);
    out[COUNTED_NON_ASCII] = 10 * w->highs / bytes;
    out[COUNTED_CJK] = 30 * w->cjk / bytes;
    out[COUNTED_REPEATS] = 10 * w->repeats / words;
    out[COUNTED_FUNCTION_WORDS] = 10 * w->n[COUNTED_FUNCTION_WORDS] / words;
    unsigned char last = w->len ? w->text[w->len - 1] : '.';
    out[COUNTED_ENDS_QUESTION] = last == '?';
    out[COUNTED_ENDS_OPEN] = byte_class(last) & (BYTE_LETTER | BYTE_DIGIT | BYTE_HIGH) ? 1 : 0;
    out[COUNTED_ASKS_HOW_MANY] = w->n[COUNTED_ASKS_HOW_MANY];
    out[COUNTED_TURNS] = logged((double)(in->turns > 0 ? in->turns - 1 : 0));
    out[COUNTED_CONTEXT] = logged((double)in->context_len);
    out[COUNTED_TOOLS] = in->tools;
    out[COUNTED_JSON] = in->json;
}

/* "how many", "how much" in the lowered text. */
static void count_how_many(struct walk *w)
{
    for (size_t i = 0; i + 8 <= w->len; i++) {
        const unsigned char *how = memchr(w->text + i, 'h', w->len - i - 7);
        if (!how) return;
        i = (size_t)(how - w->text);
        if (memcmp(how, "how many", 8) == 0 || memcmp(how, "how much", 8) == 0) w->n[COUNTED_ASKS_HOW_MANY] = 1;
    }
}

/* Zeroes all but the large buffers, then lowers the text: whole, or its two ends. */
static void walk_init(struct walk *w, const struct router_input *in)
{
    memset(w, 0, offsetof(struct walk, chunk));
    memset(w->seen, 0, sizeof *w - offsetof(struct walk, seen));
    w->filled = w->len = 0;
    const unsigned char *t = (const unsigned char *)in->text;
    size_t half = FEATURES_TEXT_MAX / 2;
    size_t head = in->text_len > FEATURES_TEXT_MAX ? half : in->text_len;
    if (head) {
        count_options(w, t, head);
        lower(w, t, head);
    }
    if (in->text_len > head) lower(w, t + in->text_len - half, half);
    w->text[w->len] = ' ';
}

void features_lowered(const struct router_input *in, char *out)
{
    struct walk w;
    walk_init(&w, in);
    memcpy(out, w.text, w.len);
    out[w.len] = '\0';
}

void features_walk(const struct router_input *in, gram_sink *sink, void *ctx, float *counted)
{
    struct walk w;
    walk_init(&w, in);
    w.sink = sink;
    w.ctx = ctx;
    count_bytes(&w);
    cut_words(&w);
    count_how_many(&w);
    if (sink) {
        cut_chars(&w);
        if (w.filled) sink(ctx, w.chunk, w.filled);
    }
    if (counted) count(&w, in, counted);
}
