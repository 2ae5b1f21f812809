#include "cli/import.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* tokenizer.json (BPE, byte-level or with byte fallback) or tokenizer.model (SentencePiece) → tokenizer.ggml.*
 *
 * The vocabulary is as long as the model's embedding: what has no piece is [PADn], unused. Without any tokenizer the
 * file gets the 256 bytes, so that it can still be opened and measured. */

enum { NORMAL = 1, UNKNOWN, CONTROL, USER, UNUSED, BYTE };

struct vocabulary {
    int count;
    struct gguf_string *pieces; /* (count) data NULL: none yet; malloc'd where `owned` */
    int32_t *kinds;
    float *scores;
    bool *owned;
};

static enum err_code vocabulary_init(struct vocabulary *v, int count, struct err *e)
{
    size_t n = (size_t)count;
    *v = (struct vocabulary){count, calloc(n, sizeof *v->pieces), calloc(n, sizeof *v->kinds), calloc(n, sizeof *v->scores),
                             calloc(n, sizeof *v->owned)};
    return v->pieces && v->kinds && v->scores && v->owned ? ERR_OK : err_set(e, ERR_MEMORY, "no memory for %d tokens", count);
}

static void vocabulary_release(struct vocabulary *v)
{
    for (int i = 0; v->owned && i < v->count; i++)
        if (v->owned[i]) free((void *)(uintptr_t)v->pieces[i].data);
    free(v->pieces);
    free(v->kinds);
    free(v->scores);
    free(v->owned);
}

static enum err_code set_piece(struct vocabulary *v, int64_t id, const char *data, size_t len, int kind, struct err *e)
{
    if (id < 0 || id >= v->count)
        return err_set(e, ERR_CORRUPT, "token '%.*s' has id %lld, but the model's embedding has %d rows",
                       (int)(len < 60 ? len : 60), data, (long long)id, v->count);
    if (v->owned[id]) free((void *)(uintptr_t)v->pieces[id].data);
    char *copy = malloc(len + 1);
    if (!copy) return err_set(e, ERR_MEMORY, "no memory for %d tokens", v->count);
    memcpy(copy, data, len);
    v->pieces[id] = (struct gguf_string){copy, len};
    v->owned[id] = true;
    v->kinds[id] = kind;
    return ERR_OK;
}

static enum err_code fill_gaps(struct vocabulary *v, struct err *e)
{
    char pad[32];
    enum err_code code = ERR_OK;
    for (int i = 0; i < v->count && !code; i++) {
        if (v->pieces[i].data) continue;
        int n = snprintf(pad, sizeof pad, "[PAD%d]", i);
        code = set_piece(v, i, pad, (size_t)n, UNUSED, e);
    }
    return code;
}

static int64_t find_piece(const struct vocabulary *v, const char *text)
{
    size_t len = strlen(text);
    for (int i = 0; i < v->count; i++)
        if (v->pieces[i].len == len && memcmp(v->pieces[i].data, text, len) == 0) return i;
    return -1;
}

/* ---- tokenizer.json ---- */

static enum err_code read_vocab(struct vocabulary *v, const json_t *json, struct err *e)
{
    const char *piece;
    json_t *id;
    enum err_code code = ERR_OK;
    json_object_foreach(json_object_get(json_object_get(json, "model"), "vocab"), piece, id)
        if (!code) code = set_piece(v, json_is_integer(id) ? json_integer_value(id) : -1, piece, strlen(piece), NORMAL, e);
    return code;
}

static enum err_code read_added(struct vocabulary *v, const json_t *json, struct err *e)
{
    size_t i;
    json_t *token;
    enum err_code code = ERR_OK;
    json_array_foreach(json_object_get(json, "added_tokens"), i, token)
    {
        const char *content = json_string_value(json_object_get(token, "content"));
        const json_t *id = json_object_get(token, "id");
        if (code || !content || !*content || !json_is_integer(id)) continue;
        if (json_integer_value(id) >= v->count) { /* some folders add tokens that the model has no row for */
            (void)fprintf(stderr, "rung import: token '%.60s' is left out: the model has no row for it\n", content);
            continue;
        }
        bool unknown = strcmp(content, "<unk>") == 0;
        int kind = unknown ? UNKNOWN : json_is_true(json_object_get(token, "special")) ? CONTROL : USER;
        code = set_piece(v, json_integer_value(id), content, strlen(content), kind, e);
    }
    return code;
}

/* One merge of either form, "a b" or ["a", "b"], as "a b"; malloc'd. */
static char *merge_text(const json_t *merge)
{
    char *text = NULL;
    if (json_is_string(merge)) return strdup(json_string_value(merge));
    const char *a = json_string_value(json_array_get(merge, 0)), *b = json_string_value(json_array_get(merge, 1));
    if (a && b && asprintf(&text, "%s %s", a, b) < 0) return NULL;
    return text;
}

static enum err_code write_merges(struct gguf_writer *w, const json_t *merges, struct err *e)
{
    size_t count = json_array_size(merges), i = 0;
    struct gguf_string *lines = calloc(count + 1, sizeof *lines);
    for (; lines && i < count; i++) {
        lines[i].data = merge_text(json_array_get(merges, i));
        if (!lines[i].data) break;
        lines[i].len = strlen(lines[i].data);
    }
    bool fine = lines && i == count;
    if (fine) gguf_write_strings(w, "tokenizer.ggml.merges", lines, count);
    for (size_t k = 0; lines && k < i; k++) free((void *)(uintptr_t)lines[k].data);
    free(lines);
    return fine ? ERR_OK : err_set(e, ERR_CORRUPT, "tokenizer.json: merge %zu is neither \"a b\" nor [\"a\", \"b\"]", i);
}

struct entry {
    const char *text;
    size_t len;
    int id;
};

static int entry_order(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    size_t len = x->len < y->len ? x->len : y->len;
    int order = memcmp(x->text, y->text, len);
    return order ? order : (x->len > y->len) - (x->len < y->len);
}

/* A piece that the n-th merge makes gets the score -n: the earliest merge goes first, as BPE wants it. */
static enum err_code score_by_merges(struct vocabulary *v, const json_t *merges, struct err *e)
{
    struct entry *sorted = malloc((size_t)v->count * sizeof *sorted);
    if (!sorted) return err_set(e, ERR_MEMORY, "no memory for %d tokens", v->count);
    for (int i = 0; i < v->count; i++) {
        sorted[i] = (struct entry){v->pieces[i].data, v->pieces[i].len, i};
        v->scores[i] = v->kinds[i] == NORMAL ? -1e9F : 0;
    }
    qsort(sorted, (size_t)v->count, sizeof *sorted, entry_order);
    size_t n;
    json_t *merge;
    json_array_foreach(merges, n, merge)
    {
        char *text = merge_text(merge), *space = text && *text ? strchr(text + 1, ' ') : NULL;
        if (space) {
            memmove(space, space + 1, strlen(space));
            struct entry want = {text, strlen(text), 0}, *found;
            found = bsearch(&want, sorted, (size_t)v->count, sizeof want, entry_order);
            if (found && v->scores[found->id] <= -1e9F) v->scores[found->id] = -(float)n;
        }
        free(text);
    }
    free(sorted);
    return ERR_OK;
}

/* What a pre-tokenizer is made of, written one after another: the regular expressions, "Digits", "ByteLevel+regex" … */
static void describe(const json_t *node, struct buf *out, int depth)
{
    size_t i;
    json_t *part;
    const char *type = json_string_value(json_object_get(node, "type"));
    const char *regex = json_string_value(json_object_get(json_object_get(node, "pattern"), "Regex"));
    if (depth > 8 || !type) return;
    if (regex) (void)buf_adds(out, regex);
    (void)buf_addf(out, "\n%s", type);
    if (strcmp(type, "Digits") == 0 && json_is_true(json_object_get(node, "individual_digits"))) (void)buf_adds(out, "+each");
    if (strcmp(type, "ByteLevel") == 0 && !json_is_false(json_object_get(node, "use_regex"))) (void)buf_adds(out, "+regex");
    (void)buf_adds(out, "\n");
    json_array_foreach(json_object_get(node, "pretokenizers"), i, part) describe(part, out, depth + 1);
}

/* The first row all of whose words a description holds. */
static const char *pre_of(const char *description, bool whole_words)
{
    static const struct {
        const char *name, *words[3];
    } ROWS[] = {
        {"gpt-4o", {"\\p{Lu}", "\\p{N}{1,3}", NULL}},
        {"tekken", {"\\p{Lu}", "\\p{N}|", NULL}},
        {"deepseek-v3", {"\\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", NULL}},
        {"deepseek-llm", {"\\s?[A-Za-zµ", "一-龥", NULL}},
        {"deepseek-coder", {"\\s?\\p{L}+", "\\s?\\p{P}+", NULL}},
        {"qwen35", {"(?i:'s|'t|", "[\\p{L}\\p{M}]+", NULL}},
        {"llama-bpe", {"(?i:'s|'t|", "\\p{N}{1,3}|", NULL}},
        {"qwen2", {"(?i:'s|'t|", "\\p{N}|", NULL}},
        {"falcon", {"Punctuation", "[0-9][0-9][0-9]", "ByteLevel+regex"}},
        {"smollm", {"Digits+each", "ByteLevel+regex", NULL}},
        {"gpt-2", {"ByteLevel+regex", NULL, NULL}},
    };
    for (size_t i = 0; i < sizeof ROWS / sizeof ROWS[0]; i++) {
        bool all = true;
        for (int k = 0; k < 3 && ROWS[i].words[k]; k++) all = all && strstr(description, ROWS[i].words[k]);
        if (all && !whole_words && strcmp(ROWS[i].name, "llama-bpe") == 0) return "dbrx"; /* cuts the same, merges all */
        if (all) return ROWS[i].name;
    }
    return NULL;
}

static enum err_code write_pre(struct gguf_writer *w, const json_t *json, const struct import_options *o, struct err *e)
{
    struct buf description = BUF_INIT(1 << 16);
    describe(json_object_get(json, "pre_tokenizer"), &description, 0);
    bool whole_words = json_is_true(json_object_get(json_object_get(json, "model"), "ignore_merges"));
    const char *pre = o->pre ? o->pre : pre_of(description.data, whole_words);
    buf_release(&description);
    if (!pre)
        return err_set(e, ERR_UNSUPPORTED, "tokenizer.json: a pre-tokenizer this program does not recognize; if you know "
                                           "which it equals, say --pre NAME (gpt-2, llama-bpe, qwen2 ...)");
    gguf_write_str(w, "tokenizer.ggml.pre", pre);
    return ERR_OK;
}

static bool holds_type(const json_t *node, const char *type, int depth)
{
    size_t i;
    json_t *part;
    const char *own = json_string_value(json_object_get(node, "type"));
    if (own && strcmp(own, type) == 0) return true;
    static const char *const LISTS[] = {"pretokenizers", "normalizers", "decoders", "processors"};
    for (size_t k = 0; k < sizeof LISTS / sizeof LISTS[0] && depth < 8; k++)
        json_array_foreach(json_object_get(node, LISTS[k]), i, part)
            if (holds_type(part, type, depth + 1)) return true;
    return false;
}

static enum err_code write_byte_level(struct gguf_writer *w, struct vocabulary *v, const json_t *json,
                                      const struct import_options *o, struct err *e)
{
    enum err_code code = write_pre(w, json, o, e);
    if (!code) code = write_merges(w, json_object_get(json_object_get(json, "model"), "merges"), e);
    if (code) return code;
    (void)v;
    gguf_write_str(w, "tokenizer.ggml.model", "gpt2");
    return ERR_OK;
}

static void mark_bytes(struct vocabulary *v)
{
    for (int i = 0; i < v->count; i++) {
        const struct gguf_string *p = &v->pieces[i];
        if (p->len == 6 && memcmp(p->data, "<0x", 3) == 0 && p->data[5] == '>') v->kinds[i] = BYTE;
        if (p->len == 5 && memcmp(p->data, "<unk>", 5) == 0) v->kinds[i] = UNKNOWN;
    }
}

static enum err_code write_fallback_bpe(struct gguf_writer *w, struct vocabulary *v, const json_t *json, struct err *e)
{
    mark_bytes(v);
    enum err_code code = score_by_merges(v, json_object_get(json_object_get(json, "model"), "merges"), e);
    if (code) return code;
    const json_t *pre = json_object_get(json, "pre_tokenizer");
    const char *scheme = json_string_value(json_object_get(pre, "prepend_scheme"));
    bool prefix = holds_type(json_object_get(json, "normalizer"), "Prepend", 0);
    if (holds_type(pre, "Metaspace", 0)) prefix = scheme ? strcmp(scheme, "never") != 0 : !json_is_false(json_object_get(pre, "add_prefix_space"));
    gguf_write_str(w, "tokenizer.ggml.model", "llama");
    gguf_write_bool(w, "tokenizer.ggml.add_space_prefix", prefix);
    return ERR_OK;
}

static enum err_code read_json(struct gguf_writer *w, struct vocabulary *v, const json_t *json, const struct import_options *o,
                               struct err *e)
{
    const json_t *model = json_object_get(json, "model");
    const char *type = json_string_value(json_object_get(model, "type"));
    if (type ? strcmp(type, "BPE") != 0 : !json_object_get(model, "merges"))
        return err_set(e, ERR_UNSUPPORTED, "tokenizer.json: a model of type %s; BPE is supported", type ? type : "unknown");
    enum err_code code = read_vocab(v, json, e);
    if (!code) code = read_added(v, json, e);
    if (!code) code = fill_gaps(v, e);
    if (code) return code;
    bool byte_level = holds_type(json_object_get(json, "pre_tokenizer"), "ByteLevel", 0) ||
                      holds_type(json_object_get(json, "decoder"), "ByteLevel", 0);
    return byte_level ? write_byte_level(w, v, json, o, e) : write_fallback_bpe(w, v, json, e);
}

/* ---- tokenizer.model ---- */

static enum err_code read_model(struct gguf_writer *w, struct vocabulary *v, const char *data, size_t len, const json_t *json,
                                struct err *e)
{
    struct spm_piece *pieces = NULL;
    int count = 0;
    bool prefix;
    enum err_code code = import_spm(data, len, &pieces, &count, &prefix, e);
    for (int i = 0; i < count && !code; i++) {
        code = set_piece(v, i, pieces[i].text.data ? pieces[i].text.data : "", pieces[i].text.len, pieces[i].kind, e);
        if (!code) v->scores[i] = pieces[i].score;
    }
    free(pieces);
    if (!code && json) code = read_added(v, json, e);
    if (!code) code = fill_gaps(v, e);
    gguf_write_str(w, "tokenizer.ggml.model", "llama");
    gguf_write_bool(w, "tokenizer.ggml.add_space_prefix", prefix);
    return code;
}

/* ---- no tokenizer ---- */

static enum err_code byte_vocabulary(struct gguf_writer *w, struct vocabulary *v, struct err *e)
{
    char piece[4];
    int other = 0;
    enum err_code code = ERR_OK;
    for (int b = 0; b < 256 && b < v->count && !code; b++) {
        bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        int c = printable ? b : 256 + other++;
        int n = c < 128 ? snprintf(piece, sizeof piece, "%c", c) : snprintf(piece, sizeof piece, "%c%c", 0xC0 | c >> 6, 0x80 | (c & 63));
        code = set_piece(v, b, piece, (size_t)n, NORMAL, e);
    }
    if (!code) code = fill_gaps(v, e);
    (void)fputs("rung import: no tokenizer.json or tokenizer.model: token ids 0 to 255 stand for bytes\n", stderr);
    gguf_write_str(w, "tokenizer.ggml.model", "gpt2");
    gguf_write_str(w, "tokenizer.ggml.pre", "gpt-2");
    gguf_write_strings(w, "tokenizer.ggml.merges", NULL, 0);
    return code;
}

/* ---- special tokens and the chat template ---- */

/* "text" or {"content": "text"} */
static const char *token_text(const json_t *value)
{
    return json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
}

static int64_t id_of(const struct vocabulary *v, const json_t *settings, const json_t *config, const char *role)
{
    char key[64];
    (void)snprintf(key, sizeof key, "%s_token", role);
    const char *text = token_text(json_object_get(settings, key));
    int64_t id = text ? find_piece(v, text) : -1;
    (void)snprintf(key, sizeof key, "%s_token_id", role);
    const json_t *number = json_object_get(config, key);
    if (json_is_array(number)) number = json_array_get(number, 0);
    return id < 0 && json_is_integer(number) ? json_integer_value(number) : id;
}

static void write_id(struct gguf_writer *w, const struct vocabulary *v, const char *key, int64_t id)
{
    if (id >= 0 && id < v->count) gguf_write_u32(w, key, (uint32_t)id);
}

/* Whether the post-processor puts this special token first (or last) into a single text. */
static bool template_adds(const json_t *processor, const char *token, bool first, int depth)
{
    size_t i;
    json_t *part;
    const json_t *single = json_object_get(processor, "single");
    size_t n = json_array_size(single);
    if (n > 0) {
        const json_t *end = json_object_get(json_array_get(single, first ? 0 : n - 1), "SpecialToken");
        const char *id = json_string_value(json_object_get(end, "id"));
        if (id && token && strcmp(id, token) == 0) return true;
    }
    json_array_foreach(json_object_get(processor, "processors"), i, part)
        if (depth < 4 && template_adds(part, token, first, depth + 1)) return true;
    return false;
}

static bool adds(const json_t *settings, const json_t *json, const char *role, bool spm)
{
    char key[64];
    (void)snprintf(key, sizeof key, "add_%s_token", role);
    const json_t *said = json_object_get(settings, key);
    if (json_is_boolean(said)) return json_is_true(said);
    bool bos = strcmp(role, "bos") == 0;
    (void)snprintf(key, sizeof key, "%s_token", role);
    if (json) return template_adds(json_object_get(json, "post_processor"), token_text(json_object_get(settings, key)), bos, 0);
    return spm && bos;
}

/* Generation's list of ends: the second is the end of a turn. */
static void write_ends(struct gguf_writer *w, const struct vocabulary *v, const char *folder, int64_t eos)
{
    json_t *generation = import_json(folder, "generation_config.json");
    const json_t *ends = json_object_get(generation, "eos_token_id");
    size_t i;
    json_t *end;
    json_array_foreach(ends, i, end)
        if (json_is_integer(end) && json_integer_value(end) != eos) write_id(w, v, "tokenizer.ggml.eot_token_id", json_integer_value(end));
    json_decref(generation);
}

static void write_template(struct gguf_writer *w, const char *folder, const json_t *settings)
{
    size_t len = 0, i;
    json_t *one, *file = import_json(folder, "chat_template.json");
    const json_t *said = json_object_get(settings, "chat_template");
    char *own = import_text(folder, "chat_template.jinja", &len);
    const char *text = own ? own : json_string_value(said);
    if (!text) text = json_string_value(json_object_get(file, "chat_template"));
    json_array_foreach(said, i, one)
    {
        const char *name = json_string_value(json_object_get(one, "name"));
        if (!text && name && strcmp(name, "default") == 0) text = json_string_value(json_object_get(one, "template"));
    }
    if (text) gguf_write_str(w, "tokenizer.chat_template", text);
    free(own);
    json_decref(file);
}

static void write_specials(struct gguf_writer *w, const struct vocabulary *v, const json_t *settings, const json_t *json,
                           const json_t *config, const char *folder, bool spm)
{
    int64_t bos = id_of(v, settings, config, "bos"), eos = id_of(v, settings, config, "eos");
    write_id(w, v, "tokenizer.ggml.bos_token_id", bos);
    write_id(w, v, "tokenizer.ggml.eos_token_id", eos);
    write_id(w, v, "tokenizer.ggml.padding_token_id", id_of(v, settings, config, "pad"));
    write_id(w, v, "tokenizer.ggml.unknown_token_id", id_of(v, settings, config, "unk"));
    gguf_write_bool(w, "tokenizer.ggml.add_bos_token", bos >= 0 && adds(settings, json, "bos", spm));
    gguf_write_bool(w, "tokenizer.ggml.add_eos_token", eos >= 0 && adds(settings, json, "eos", spm));
    write_ends(w, v, folder, eos);
    write_template(w, folder, settings);
}

enum err_code import_tokenizer(struct gguf_writer *w, const struct import_options *o, const json_t *config, int vocabulary,
                               struct err *e)
{
    struct vocabulary v;
    size_t len = 0;
    json_t *json = import_json(o->source, "tokenizer.json"), *settings = import_json(o->source, "tokenizer_config.json");
    char *model = import_text(o->source, "tokenizer.model", &len);
    bool spm = model != NULL;
    enum err_code code = vocabulary_init(&v, vocabulary, e);
    if (!code) {
        if (model) code = read_model(w, &v, model, len, json, e); /* has the true scores */
        else if (json) code = read_json(w, &v, json, o, e);
        else code = byte_vocabulary(w, &v, e);
    }
    if (!code) {
        gguf_write_strings(w, "tokenizer.ggml.tokens", v.pieces, (size_t)v.count);
        gguf_write_ints(w, "tokenizer.ggml.token_type", v.kinds, (size_t)v.count);
        gguf_write_floats(w, "tokenizer.ggml.scores", v.scores, (size_t)v.count);
        write_specials(w, &v, settings, json, config, o->source, spm);
    }
    vocabulary_release(&v);
    free(model);
    json_decref(json);
    json_decref(settings);
    return code;
}
