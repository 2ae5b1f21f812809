#include "engine/tokenizer_private.h"
#include "engine/engine.h"
#include "engine/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* Opening: pieces → raw bytes → hash → merges → special tokens. Encoding: special tokens are found first, what lies
 * between them goes to tokenizer_bpe() or tokenizer_spm(). */

enum { TOKENS_MAX = 1 << 22, TEXT_MAX = 64 << 20, SPECIAL_MAX_BYTES = 512 };
#define SPACE_MARK "\xE2\x96\x81" /* U+2581, SPM's space */

void ids_add(struct ids *ids, int32_t id)
{
    if (ids->len == ids->cap) {
        size_t cap = ids->cap ? ids->cap * 2 : 64;
        int32_t *grown = ids->failed ? NULL : realloc(ids->data, cap * sizeof *grown);
        if (!grown) {
            ids->failed = true;
            return;
        }
        ids->data = grown;
        ids->cap = cap;
    }
    ids->data[ids->len++] = id;
}

/* ---- text → token ---- */

static uint64_t hash_bytes(uint64_t seed, const char *data, size_t len)
{
    uint64_t h = seed ^ len * 0x9E3779B97F4A7C15U, word;
    for (; len >= 8; data += 8, len -= 8) {
        memcpy(&word, data, 8);
        h = (h ^ word) * 0xBF58476D1CE4E5B9U;
        h ^= h >> 29;
    }
    word = 0;
    memcpy(&word, data, len);
    h = (h ^ word) * 0x94D049BB133111EBU;
    h = (h ^ h >> 31) * 0xBF58476D1CE4E5B9U;
    return h ^ h >> 32;
}

/* The slot of a text, or the free one where it would go. */
static struct slot *map_slot(const struct tokenizer *t, uint64_t hash, const char *raw, size_t len, bool literal)
{
    uint32_t tag = (uint32_t)(hash >> 32);
    uint32_t i = (uint32_t)hash & t->map.mask;
    for (; t->map.slots[i].id; i = (i + 1) & t->map.mask) {
        if (t->map.slots[i].tag != tag) continue;
        const struct token *token = &t->tokens[t->map.slots[i].id - 1];
        if (token->raw_len == len && token->literal == literal && memcmp(t->text + token->raw_at, raw, len) == 0) break;
    }
    return &t->map.slots[i];
}

int32_t tokenizer_lookup(const struct tokenizer *t, const char *raw, size_t len, bool literal)
{
    if (len == 0 || len > t->piece_max) return -1;
    return (int32_t)map_slot(t, hash_bytes(t->seed, raw, len) + literal, raw, len, literal)->id - 1;
}

/* ---- the byte alphabet of BPE files ---- */

/* GPT-2 writes each byte as one printable character: itself where it is one, else the next free one from U+0100. */
static int alphabet_byte(int32_t code)
{
    if ((code >= 0x21 && code <= 0x7E) || (code >= 0xA1 && code <= 0xAC) || (code >= 0xAE && code <= 0xFF)) return code;
    if (code < 0x100 || code >= 0x100 + 68) return -1;
    int n = code - 0x100;
    return n < 33 ? n : n < 67 ? 0x7F + n - 33 : 0xAD; /* 00..20, 7F..A0, AD */
}

/* The bytes a piece stands for; returns their count, or SIZE_MAX when it is not written in the alphabet. */
static size_t decode_piece(const char *piece, size_t len, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < len;) {
        int32_t code;
        if (piece[i] > 0x20 && piece[i] < 0x7F) { /* nearly all of them */
            out[n++] = piece[i++];
            continue;
        }
        i += utf8_next(piece + i, len - i, &code);
        int byte = code < 0 ? -1 : alphabet_byte(code);
        if (byte < 0) return SIZE_MAX;
        out[n++] = (char)byte;
    }
    return n;
}

/* ---- opening ---- */

/* Append to the text pool; room was made for all pieces twice over and all merges when the file was measured. */
static uint32_t pool_add(struct tokenizer *t, const char *data, size_t len)
{
    uint32_t at = (uint32_t)t->text_len;
    if (len) memcpy(t->text + at, data, len);
    t->text_len += len;
    return at;
}

static void set_piece(struct tokenizer *t, struct token *token, struct gguf_string piece)
{
    token->splits = -1;
    token->at = pool_add(t, piece.data, piece.len);
    token->len = (uint32_t)piece.len;
    token->raw_at = token->at;
    token->raw_len = token->len;
    if (t->spm) return;
    size_t n = decode_piece(piece.data, piece.len, t->text + t->text_len);
    token->literal = n == SIZE_MAX;
    if (token->literal) return;
    token->raw_at = (uint32_t)t->text_len;
    token->raw_len = (uint32_t)n;
    t->text_len += n;
}

static uint64_t hash_token(const struct tokenizer *t, int32_t id)
{
    const struct token *token = &t->tokens[id];
    return hash_bytes(t->seed, t->text + token->raw_at, token->raw_len) + token->literal;
}

/* False: out of memory. */
static bool map_grow(struct tokenizer *t)
{
    struct token_map old = t->map;
    uint32_t size = (old.mask + 1) * 2;
    struct slot *slots = calloc(size, sizeof *slots);
    if (!slots) return false;
    t->map = (struct token_map){slots, size - 1};
    for (uint32_t i = 0; i <= old.mask; i++) {
        if (!old.slots[i].id) continue;
        int32_t id = (int32_t)old.slots[i].id - 1;
        const struct token *token = &t->tokens[id];
        *map_slot(t, hash_token(t, id), t->text + token->raw_at, token->raw_len, token->literal) = old.slots[i];
    }
    free(old.slots);
    return true;
}

/* Of two equal pieces the first counts. False: out of memory. */
static bool map_token(struct tokenizer *t, int32_t id, uint64_t hash)
{
    const struct token *token = &t->tokens[id];
    if (token->raw_len == 0 || token->raw_len > TOKEN_BYTES_MAX) return true;
    if ((uint64_t)t->known * 2 > t->map.mask && !map_grow(t)) return false;
    if (token->raw_len > t->piece_max) t->piece_max = token->raw_len;
    const char *raw = t->text + token->raw_at;
    struct slot *slot = map_slot(t, hash, raw, token->raw_len, token->literal);
    if (!slot->id) *slot = (struct slot){(uint32_t)id + 1, (uint32_t)(hash >> 32)};
    return true;
}

/* The map has room for all of them. Their slots lie far apart: each is asked for some tokens before it is used. */
static void map_vocabulary(struct tokenizer *t, const struct gguf_string *pieces)
{
    enum { AHEAD = 16 };
    uint64_t hashes[AHEAD];
    for (int i = 0; i < t->count + AHEAD; i++) {
        if (i >= AHEAD) (void)map_token(t, i - AHEAD, hashes[i % AHEAD]);
        if (i >= t->count) continue;
        set_piece(t, &t->tokens[i], pieces[i]);
        hashes[i % AHEAD] = hash_token(t, i);
        __builtin_prefetch(&t->map.slots[(uint32_t)hashes[i % AHEAD] & t->map.mask], 1);
    }
}

static uint64_t bytes_of(const struct gguf_string *strings, int64_t count)
{
    uint64_t sum = 0;
    for (int64_t i = 0; i < count; i++) sum += strings[i].len;
    return sum;
}

static enum err_code make_room(struct tokenizer *t, uint64_t piece_bytes, int64_t merges, uint64_t merge_bytes,
                               struct err *e)
{
    uint64_t text = piece_bytes * 2 + merge_bytes + 16, tokens = (uint64_t)t->count + (uint64_t)merges;
    if (text > INT32_MAX) return err_set(e, ERR_CORRUPT, "the vocabulary has %llu bytes of text", (unsigned long long)text);
    uint32_t slots = 64;
    while (slots < (uint64_t)t->count * 2 + 2) slots *= 2;
    t->text = malloc(text);
    t->tokens = calloc(tokens + 1, sizeof *t->tokens);
    t->splits = malloc(((size_t)merges + 1) * sizeof *t->splits);
    t->map.slots = calloc(slots, sizeof *t->map.slots);
    t->map.mask = slots - 1;
    if (!t->text || !t->tokens || !t->splits || !t->map.slots)
        return err_set(e, ERR_MEMORY, "no memory for a vocabulary of %d tokens", t->count);
    return ERR_OK;
}

static enum err_code read_kinds(struct tokenizer *t, const struct gguf *gguf, struct err *e)
{
    int64_t *kinds = malloc(((size_t)t->count + 1) * sizeof *kinds);
    float *scores = malloc(((size_t)t->count + 1) * sizeof *scores);
    enum err_code code = ERR_OK;
    if (!kinds || !scores) {
        code = err_set(e, ERR_MEMORY, "no memory for a vocabulary of %d tokens", t->count);
        goto out;
    }
    int64_t have_kinds = gguf_array_ints(gguf, "tokenizer.ggml.token_type", kinds, t->count);
    int64_t have_scores = gguf_array_floats(gguf, "tokenizer.ggml.scores", scores, t->count);
    if ((have_kinds >= 0 && have_kinds < t->count) || (have_scores >= 0 && have_scores < t->count)) {
        code = err_set(e, ERR_CORRUPT, "the vocabulary has %d tokens, but %lld types and %lld scores", t->count,
                       (long long)have_kinds, (long long)have_scores);
        goto out;
    }
    for (int i = 0; i < t->count; i++) {
        struct token *token = &t->tokens[i];
        token->kind = have_kinds < 0 || kinds[i] < 1 || kinds[i] > TOKEN_BYTE ? TOKEN_NORMAL : (uint8_t)kinds[i];
        token->score = have_scores < 0 ? 0 : scores[i];
    }
out:
    free(kinds);
    free(scores);
    return code;
}

/* The token that a merge makes: a vocabulary lists them mostly in the order of the merges, so that the last one (which may
 * have several) and the one after it are looked at first; a text that is no token gets an id past the vocabulary.
 * -1: out of memory. */
static int32_t merged_token(struct tokenizer *t, const char *raw, size_t len, int32_t last)
{
    for (int32_t id = last; id < t->count && id <= last + 1; id++) {
        const struct token *token = &t->tokens[id];
        if (token->raw_len == len && !token->literal && memcmp(t->text + token->raw_at, raw, len) == 0) return id;
    }
    int32_t id = tokenizer_lookup(t, raw, len, false);
    if (id >= 0) return id;
    id = t->known++;
    uint32_t at = pool_add(t, raw, len);
    t->tokens[id] = (struct token){.at = at, .len = (uint32_t)len, .raw_at = at, .raw_len = (uint32_t)len, .splits = -1};
    return map_token(t, id, hash_token(t, id)) ? id : -1;
}

/* The list of a token's splits grows at its end: the first of two equal merges counts. */
static void add_split(struct tokenizer *t, int32_t id, uint32_t left, int32_t rank)
{
    int32_t *place = &t->tokens[id].splits;
    while (*place >= 0) {
        if (t->splits[*place].left == left) return;
        place = &t->splits[*place].next;
    }
    *place = t->split_count;
    t->splits[t->split_count++] = (struct merge_split){left, rank, -1};
}

static enum err_code read_merges(struct tokenizer *t, const struct gguf_string *lines, int64_t count, struct err *e)
{
    char scratch[TOKEN_BYTES_MAX * 2]; /* a character of the alphabet has two bytes at most */
    int32_t last = 255;
    for (int64_t i = 0; i < count; i++) {
        const struct gguf_string *line = &lines[i];
        const char *space = line->len > 1 && line->len <= sizeof scratch ? memchr(line->data + 1, ' ', line->len - 1) : NULL;
        if (!space) continue;
        size_t a = (size_t)(space - line->data), left = decode_piece(line->data, a, scratch);
        size_t right = left == SIZE_MAX ? SIZE_MAX : decode_piece(space + 1, line->len - a - 1, scratch + left);
        if (left == SIZE_MAX || right == SIZE_MAX || left == 0 || right == 0) continue; /* no text can hold it */
        if (left + right > TOKEN_BYTES_MAX) continue;
        if ((last = merged_token(t, scratch, left + right, last)) < 0)
            return err_set(e, ERR_MEMORY, "no memory for %lld merges", (long long)count);
        add_split(t, last, (uint32_t)left, (int32_t)i);
    }
    return ERR_OK;
}

static enum err_code read_vocabulary(struct tokenizer *t, const struct gguf *gguf, struct err *e)
{
    int64_t count = gguf_array_strings(gguf, "tokenizer.ggml.tokens", NULL, 0);
    int64_t merges = t->spm ? 0 : gguf_array_strings(gguf, "tokenizer.ggml.merges", NULL, 0);
    if (count < 1 || count > TOKENS_MAX)
        return err_set(e, ERR_CORRUPT, "tokenizer.ggml.tokens: %lld tokens; 1 to %d would be right", (long long)count,
                       TOKENS_MAX);
    if (merges < 0 || merges > TOKENS_MAX)
        return err_set(e, ERR_CORRUPT, "tokenizer.ggml.merges: %lld merges; 0 to %d would be right", (long long)merges,
                       TOKENS_MAX);
    struct gguf_string *strings = malloc((size_t)(count > merges ? count : merges) * sizeof *strings);
    struct gguf_string *lines = malloc(((size_t)merges + 1) * sizeof *lines);
    enum err_code code = ERR_MEMORY;
    if (!strings || !lines) {
        (void)err_set(e, code, "no memory for a vocabulary of %lld tokens", (long long)count);
        goto out;
    }
    (void)gguf_array_strings(gguf, "tokenizer.ggml.tokens", strings, count);
    (void)gguf_array_strings(gguf, "tokenizer.ggml.merges", lines, merges);
    t->count = t->known = (int)count;
    if ((code = make_room(t, bytes_of(strings, count), merges, bytes_of(lines, merges), e))) goto out;
    map_vocabulary(t, strings);
    if ((code = read_kinds(t, gguf, e))) goto out;
    if (!t->spm) code = read_merges(t, lines, merges, e);
out:
    free(strings);
    free(lines);
    return code;
}

static void find_byte_tokens(struct tokenizer *t)
{
    static const char HEX[] = "0123456789ABCDEF";
    for (int b = 0; b < 256; b++) {
        char byte = (char)b, name[] = {'<', '0', 'x', HEX[b >> 4], HEX[b & 15], '>'};
        t->bytes[b] = t->spm ? tokenizer_lookup(t, name, sizeof name, false) : -1;
        if (t->bytes[b] < 0) t->bytes[b] = tokenizer_lookup(t, &byte, 1, false);
    }
}

int32_t tokenizer_find(const struct tokenizer *t, const char *piece)
{
    size_t len = strlen(piece);
    char raw[SPECIAL_MAX_BYTES];
    if (len > sizeof raw) return -1;
    size_t n = t->spm ? SIZE_MAX : decode_piece(piece, len, raw);
    int32_t id = n == SIZE_MAX ? tokenizer_lookup(t, piece, len, !t->spm) : tokenizer_lookup(t, raw, n, false);
    return id < t->count ? id : -1;
}

/* ---- special tokens ---- */

static int32_t token_key(const struct tokenizer *t, const struct gguf *gguf, const char *key, int32_t otherwise)
{
    int64_t id = gguf_int(gguf, key, -1);
    if (id >= 0 && id < t->count) return (int32_t)id;
    return otherwise < t->count ? otherwise : -1;
}

/* Tokens that end an answer by their names, whatever the file says of them. */
static const char *const END_NAMES[] = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
    "<end_of_utterance>", "<eos>", "<turn|>", "[e~[",
    "<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>",
    /* fill-in-the-middle padding and separators */
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<|fim_repo|>", "<|repo_name|>", "<|file_sep|>",
};

static void find_ends(struct tokenizer *t, const struct gguf *gguf)
{
    static const char *const KEYS[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    for (size_t i = 0; i < sizeof END_NAMES / sizeof END_NAMES[0]; i++) {
        int32_t id = tokenizer_find(t, END_NAMES[i]);
        if (id < 0) continue;
        t->tokens[id].end = true;
        t->tokens[id].kind = TOKEN_CONTROL;
    }
    for (size_t i = 0; i < sizeof KEYS / sizeof KEYS[0]; i++) {
        int32_t id = token_key(t, gguf, KEYS[i], -1);
        if (id >= 0) t->tokens[id].end = true;
    }
    if (t->eos >= 0) t->tokens[t->eos].end = true;
    /* where a call or a return ends an answer, <|end|> only ends a part of it */
    int32_t part = tokenizer_find(t, "<|end|>");
    if (part >= 0 && tokenizer_find(t, "<|call|>") >= 0 && tokenizer_find(t, "<|return|>") >= 0)
        t->tokens[part].end = false;
}

static bool contains_caseless(struct gguf_string text, const char *word)
{
    size_t len = strlen(word);
    for (size_t i = 0; i + len <= text.len; i++)
        if (strncasecmp(text.data + i, word, len) == 0) return true;
    return false;
}

/* Phi-3's special tokens swallow the white space after them; GGUF has no key that says so but the name. */
static void mark_eaters(struct tokenizer *t, const struct gguf *gguf)
{
    struct gguf_string name = gguf_str(gguf, "general.name");
    if (!name.data || (!contains_caseless(name, "phi-3") && !contains_caseless(name, "phi3"))) return;
    for (int i = 0; i < t->special_count; i++) t->tokens[t->specials[i]].eats_space = true;
    static const char *const PLAIN[] = {"<unk>", "<s>", "<|endoftext|>"};
    for (size_t i = 0; i < sizeof PLAIN / sizeof PLAIN[0]; i++) {
        int32_t id = tokenizer_find(t, PLAIN[i]);
        if (id >= 0) t->tokens[id].eats_space = false;
    }
}

static int special_order(const void *a, const void *b, void *tokenizer)
{
    const struct tokenizer *t = tokenizer;
    const struct token *x = &t->tokens[*(const int32_t *)a], *y = &t->tokens[*(const int32_t *)b];
    uint32_t len = x->len < y->len ? x->len : y->len;
    int order = memcmp(t->text + x->at, t->text + y->at, len);
    return order ? order : (x->len > y->len) - (x->len < y->len);
}

static enum err_code index_specials(struct tokenizer *t, struct err *e)
{
    t->specials = malloc(((size_t)t->count + 1) * sizeof *t->specials);
    if (!t->specials) return err_set(e, ERR_MEMORY, "no memory for a vocabulary of %d tokens", t->count);
    for (int i = 0; i < t->count; i++) {
        const struct token *token = &t->tokens[i];
        if (token->kind != TOKEN_CONTROL && token->kind != TOKEN_USER && token->kind != TOKEN_UNKNOWN) continue;
        if (token->len && token->len <= SPECIAL_MAX_BYTES) t->specials[t->special_count++] = i;
    }
    qsort_r(t->specials, (size_t)t->special_count, sizeof *t->specials, special_order, t);
    for (int b = 0, i = 0; b <= 256; b++) {
        while (i < t->special_count && (unsigned char)t->text[t->tokens[t->specials[i]].at] < b) i++;
        t->special_first[b] = i;
    }
    return ERR_OK;
}

/* ---- open, close ---- */

static bool string_is(struct gguf_string s, const char *word)
{
    return s.data && s.len == strlen(word) && memcmp(s.data, word, s.len) == 0;
}

static enum err_code choose_model(struct tokenizer *t, const struct gguf *gguf, struct err *e)
{
    struct gguf_string model = gguf_str(gguf, "tokenizer.ggml.model"), pre = gguf_str(gguf, "tokenizer.ggml.pre");
    t->spm = string_is(model, "llama");
    if (!t->spm && !string_is(model, "gpt2"))
        return err_set(e, ERR_UNSUPPORTED, "tokenizer.ggml.model is '%.*s'; 'llama' (SPM) and 'gpt2' (BPE) are supported",
                       (int)(model.len < 64 ? model.len : 64), model.data ? model.data : "");
    if (t->spm) return ERR_OK;
    t->split = pre.data ? split_find(pre.data, pre.len) : split_find("default", 7);
    if (!t->split)
        return err_set(e, ERR_UNSUPPORTED, "tokenizer.ggml.pre is '%.*s', a pre-tokenizer this program does not know",
                       (int)(pre.len < 64 ? pre.len : 64), pre.data);
    return ERR_OK;
}

static void read_options(struct tokenizer *t, const struct gguf *gguf)
{
    t->bos = token_key(t, gguf, "tokenizer.ggml.bos_token_id", t->spm ? 1 : -1);
    t->eos = token_key(t, gguf, "tokenizer.ggml.eos_token_id", t->spm ? 2 : -1);
    t->unknown = token_key(t, gguf, "tokenizer.ggml.unknown_token_id", t->spm ? 0 : -1);
    t->add_bos = gguf_bool(gguf, "tokenizer.ggml.add_bos_token", t->spm || t->split->add_bos);
    t->add_eos = gguf_bool(gguf, "tokenizer.ggml.add_eos_token", false);
    t->space_prefix = gguf_bool(gguf, "tokenizer.ggml.add_space_prefix", t->spm);
}

enum err_code tokenizer_open(struct tokenizer **out, const struct gguf *gguf, struct err *e)
{
    struct tokenizer *t = calloc(1, sizeof *t);
    if (!t) return err_set(e, ERR_MEMORY, "no memory for a tokenizer");
    if (getrandom(&t->seed, sizeof t->seed, GRND_NONBLOCK) != (ssize_t)sizeof t->seed) t->seed = (uintptr_t)t;
    enum err_code code = choose_model(t, gguf, e);
    if (!code) code = read_vocabulary(t, gguf, e);
    if (!code) {
        find_byte_tokens(t);
        read_options(t, gguf);
        find_ends(t, gguf);
        code = index_specials(t, e);
    }
    if (code) {
        tokenizer_close(t);
        return code;
    }
    mark_eaters(t, gguf);
    *out = t;
    return ERR_OK;
}

void tokenizer_close(struct tokenizer *t)
{
    if (!t) return;
    free(t->tokens);
    free(t->text);
    free(t->map.slots);
    free(t->splits);
    free(t->specials);
    free(t);
}

/* ---- encoding ---- */

/* The first in specials [low, high) whose byte k is `c` or more; all of them are longer than k. */
static int special_from(const struct tokenizer *t, int low, int high, uint32_t k, int c)
{
    while (low < high) {
        int middle = low + (high - low) / 2;
        if ((unsigned char)t->text[t->tokens[t->specials[middle]].at + k] < c) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* The longest special token that `text` starts with; -1. Narrows the sorted list byte by byte. */
static int32_t special_at(const struct tokenizer *t, const char *text, size_t len, bool controls)
{
    unsigned char first = (unsigned char)*text;
    int low = t->special_first[first], high = t->special_first[first + 1];
    int32_t found = -1;
    for (uint32_t k = 1; low < high; k++) {
        const struct token *token = &t->tokens[t->specials[low]];
        if (token->len == k) { /* complete; sorts before its own continuations */
            if (controls || token->kind == TOKEN_USER) found = t->specials[low];
            low++;
            k--; /* two tokens may have one text */
            continue;
        }
        if (k >= len) break;
        int c = (unsigned char)text[k];
        low = special_from(t, low, high, k, c);
        high = special_from(t, low, high, k, c + 1);
    }
    return found;
}

static enum err_code encode_plain(const struct tokenizer *t, const char *text, size_t len, bool after_special,
                                  struct ids *out, struct err *e)
{
    if (len == 0) return ERR_OK;
    if (!t->spm) return tokenizer_bpe(t, text, len, out, e);
    struct buf marked;
    buf_init(&marked, (size_t)TEXT_MAX * 3 + 3);
    if (t->space_prefix && after_special) (void)buf_adds(&marked, SPACE_MARK);
    for (size_t i = 0, start = 0; i <= len; i++) {
        if (i < len && text[i] != ' ') continue;
        (void)buf_add(&marked, text + start, i - start);
        if (i < len) (void)buf_adds(&marked, SPACE_MARK);
        start = i + 1;
    }
    enum err_code code = marked.failed ? err_set(e, marked.failed, "no memory to tokenize %zu bytes", len)
                                       : tokenizer_spm(t, marked.data, marked.len, out, e);
    buf_release(&marked);
    return code;
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static enum err_code encode_all(const struct tokenizer *t, const char *text, size_t len, int flags, struct ids *out,
                                struct err *e)
{
    bool after_special = true, added = (flags & ENGINE_TOKENIZE_ADD) && t->add_bos && t->bos >= 0;
    if (added) ids_add(out, t->bos);
    size_t start = 0;
    for (size_t i = 0; i < len;) {
        int32_t id = special_at(t, text + i, len - i, flags & ENGINE_TOKENIZE_SPECIAL);
        if (id < 0) {
            i++;
            continue;
        }
        enum err_code code = encode_plain(t, text + start, i - start, after_special, out, e);
        if (code) return code;
        if (!(added && i == 0 && id == t->bos)) ids_add(out, id); /* a text that starts with BOS gets no second one */
        after_special = true;
        i += t->tokens[id].len;
        while (t->tokens[id].eats_space && i < len && is_blank(text[i])) i++;
        start = i;
    }
    enum err_code code = encode_plain(t, text + start, len - start, after_special, out, e);
    if (!code && (flags & ENGINE_TOKENIZE_ADD) && t->add_eos && t->eos >= 0) ids_add(out, t->eos);
    return code;
}

enum err_code tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, int flags, int32_t **ids,
                               int *count, struct err *e)
{
    struct ids out = {0};
    if (len > TEXT_MAX) return err_set(e, ERR_TOO_LARGE, "a text of %zu bytes; %d is the most", len, TEXT_MAX);
    enum err_code code = encode_all(t, text, len, flags, &out, e);
    if (!code && out.len == 0) out.data = malloc(sizeof *out.data);
    if (!code && (out.failed || !out.data)) code = err_set(e, ERR_MEMORY, "no memory to tokenize %zu bytes", len);
    if (code) {
        free(out.data);
        return code;
    }
    *ids = out.data;
    *count = (int)out.len;
    return ERR_OK;
}

/* ---- decoding ---- */

static size_t put(const char *data, size_t len, char *out, size_t size)
{
    if (out) memcpy(out, data, len < size ? len : size);
    return len;
}

static size_t put_unmarked(const char *data, size_t len, char *out, size_t size)
{
    size_t n = 0;
    for (size_t i = 0; i < len; n++) {
        bool mark = len - i >= 3 && memcmp(data + i, SPACE_MARK, 3) == 0;
        if (out && n < size) out[n] = mark ? ' ' : data[i];
        i += mark ? 3 : 1;
    }
    return n;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

size_t tokenizer_bytes(const struct tokenizer *t, int32_t id, bool special, char *out, size_t size)
{
    if (id < 0 || id >= t->count) return 0;
    const struct token *token = &t->tokens[id];
    const char *piece = t->text + token->at;
    if ((token->kind == TOKEN_CONTROL || token->kind == TOKEN_UNKNOWN) && !special) return 0;
    if (token->kind == TOKEN_CONTROL || token->kind == TOKEN_UNKNOWN || token->kind == TOKEN_USER)
        return put(piece, token->len, out, size);
    if (token->kind == TOKEN_BYTE && token->len == 6 && hex_digit(piece[3]) >= 0 && hex_digit(piece[4]) >= 0) {
        char byte = (char)(hex_digit(piece[3]) << 4 | hex_digit(piece[4]));
        return put(&byte, 1, out, size);
    }
    if (token->kind == TOKEN_UNUSED) return 0;
    if (t->spm) return put_unmarked(piece, token->len, out, size);
    return put(t->text + token->raw_at, token->raw_len, out, size);
}

int tokenizer_vocabulary(const struct tokenizer *t)
{
    return t->count;
}

bool tokenizer_is_end(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->count && t->tokens[id].end;
}

bool tokenizer_is_control(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->count && t->tokens[id].kind == TOKEN_CONTROL;
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}
