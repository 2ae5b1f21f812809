/* The wire's encoder and decoder, both driven by the rows of msg_table.c. The encoder writes with msgpack-c straight
 * into the caller's buffer; the decoder reads with the bounded cursor of msg_reader.h and copies into one arena, so
 * that nothing is taken for a count or length before it has been checked against its row and the bytes there are. */
#include "proto/msg.h"

#include "proto/msg_reader.h"
#include "proto/msg_table.h"
#include "proto/msg_utf8.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <msgpack.h>
#include <string.h>

#define ARENA_MAX ((size_t)MSG_BYTES_MAX * 2)

/* ---- encoding ---- */

struct encoder {
    msgpack_packer packer;
    struct buf *out;
    const char *title; /* of the message, for errors */
    struct err *e;
};

static int packer_write(void *data, const char *bytes, size_t len)
{
    return buf_add(data, bytes, len) == ERR_OK ? 0 : -1;
}

static enum err_code encode_fields(struct encoder *enc, const struct msg_shape *shape, const char *object);

static const char *text_at(const char *object, size_t offset)
{
    const char *text;
    memcpy(&text, object + offset, sizeof text);
    return text;
}

static int count_at(const char *object, size_t offset)
{
    int count;
    memcpy(&count, object + offset, sizeof count);
    return count;
}

static size_t length_at(const char *object, size_t offset)
{
    size_t length;
    memcpy(&length, object + offset, sizeof length);
    return length;
}

static const void *pointer_at(const char *object, size_t offset)
{
    const void *pointer;
    memcpy(&pointer, object + offset, sizeof pointer);
    return pointer;
}

#define READ(type, object, f) (*(const type *)(const void *)((object) + (f)->offset))

static bool tiers_unknown(const double *p)
{
    for (int i = 0; i < TIERS; i++)
        if (p[i] >= 0) return false;
    return true;
}

/* Whether the field holds what the decoder would put there for an absent one. */
static bool is_default(const struct msg_field *f, const char *object)
{
    switch (f->kind) {
    case KIND_BOOL: return !READ(bool, object, f);
    case KIND_COUNT:
    case KIND_INT:
    case KIND_SEED: return READ(int64_t, object, f) == 0;
    case KIND_MASK:
    case KIND_ID: return READ(int32_t, object, f) == 0;
    case KIND_REAL: return READ(double, object, f) == 0 || isnan(READ(double, object, f));
    case KIND_TIER: return (unsigned)READ(enum tier, object, f) >= TIERS;
    case KIND_CHANNEL: return READ(enum msg_channel, object, f) == CHANNEL_CONTENT;
    case KIND_CODE: return READ(enum err_code, object, f) == ERR_OK;
    case KIND_TEXT: return !text_at(object, f->offset);
    case KIND_STRING:
    case KIND_BYTES: return length_at(object, f->count_offset) == 0;
    case KIND_IDS:
    case KIND_TEXTS:
    case KIND_CHOICES:
    case KIND_MANY: return count_at(object, f->count_offset) == 0;
    case KIND_TIERS: return tiers_unknown(&READ(double, object, f));
    case KIND_ONE:
        for (int i = 0; i < f->of->count; i++)
            if (!is_default(&f->of->fields[i], object + f->offset)) return false;
        return true;
    }
    return false;
}

static enum err_code too_large(struct encoder *enc, const struct msg_field *f, int64_t got)
{
    return err_set_param(enc->e, ERR_TOO_LARGE, f->name, "%s.%s is %lld, and the wire allows 0 to %lld", enc->title,
                         f->name, (long long)got, (long long)f->bound);
}

/* Bytes that are no UTF-8 (a message cut in mid-character, say) go out as '?', so that the peer takes the rest. */
static void write_repaired(struct encoder *enc, const char *text, size_t len)
{
    size_t at = 0;
    while (at < len && buf_ok(enc->out)) {
        size_t good = msg_utf8_valid(text + at, len - at);
        (void)buf_add(enc->out, text + at, good);
        at += good;
        if (at < len) {
            (void)buf_addc(enc->out, '?');
            at++;
        }
    }
}

static enum err_code encode_text(struct encoder *enc, const struct msg_field *f, const char *text, size_t len,
                                 int64_t bound)
{
    if (len > (size_t)bound)
        return err_set_param(enc->e, ERR_TOO_LARGE, f->name, "%s.%s has %zu bytes, and the wire allows %lld",
                             enc->title, f->name, len, (long long)bound);
    (void)msgpack_pack_str(&enc->packer, len);
    write_repaired(enc, text, len);
    return ERR_OK;
}

static enum err_code encode_bytes(struct encoder *enc, const struct msg_field *f, const char *data, size_t len)
{
    if (f->kind == KIND_STRING) return encode_text(enc, f, data, len, f->bound);
    if (len > (size_t)f->bound) return too_large(enc, f, (int64_t)len);
    (void)msgpack_pack_bin(&enc->packer, len);
    (void)buf_add(enc->out, data, len);
    return ERR_OK;
}

static void encode_real(struct encoder *enc, double value)
{
    if (isnan(value)) value = 0;
    if (isinf(value)) value = value < 0 ? -DBL_MAX : DBL_MAX; /* JSON further down has no infinity */
    (void)msgpack_pack_double(&enc->packer, value);
}

static enum err_code encode_texts(struct encoder *enc, const struct msg_field *f, const char *const *texts, int count)
{
    int64_t bound = f->kind == KIND_CHOICES ? MSG_WORD_MAX : MSG_STOP_BYTES_MAX;
    for (int i = 0; i < count; i++) {
        if (f->kind == KIND_CHOICES && !texts[i]) {
            (void)msgpack_pack_nil(&enc->packer);
            continue;
        }
        const char *text = texts[i] ? texts[i] : "";
        enum err_code code = encode_text(enc, f, text, strlen(text), bound);
        if (code != ERR_OK) return code;
    }
    return ERR_OK;
}

static enum err_code encode_ids(struct encoder *enc, const struct msg_field *f, const int32_t *ids, int count)
{
    for (int i = 0; i < count; i++) {
        if (ids[i] < 0)
            return err_set_param(enc->e, ERR_INVALID, f->name, "%s.%s holds %d, and token ids are not negative",
                                 enc->title, f->name, ids[i]);
        (void)msgpack_pack_int32(&enc->packer, ids[i]);
    }
    return ERR_OK;
}

/* Kinds with a count beside them. */
static enum err_code encode_array(struct encoder *enc, const struct msg_field *f, const char *object)
{
    int count = count_at(object, f->count_offset);
    if (count < 0 || count > f->bound) return too_large(enc, f, count);
    (void)msgpack_pack_array(&enc->packer, (size_t)count);
    const char *elements = f->kind == KIND_CHOICES ? object + f->offset : pointer_at(object, f->offset);
    if (f->kind == KIND_TEXTS || f->kind == KIND_CHOICES)
        return encode_texts(enc, f, (const char *const *)(const void *)elements, count);
    if (f->kind == KIND_IDS) return encode_ids(enc, f, (const int32_t *)(const void *)elements, count);
    for (int i = 0; i < count; i++) {
        enum err_code code = encode_fields(enc, f->of, elements + (size_t)i * f->of->size);
        if (code != ERR_OK) return code;
    }
    return ERR_OK;
}

static enum err_code encode_value(struct encoder *enc, const struct msg_field *f, const char *object)
{
    msgpack_packer *pk = &enc->packer;
    const char *text = NULL;
    switch (f->kind) {
    case KIND_BOOL: (void)(READ(bool, object, f) ? msgpack_pack_true(pk) : msgpack_pack_false(pk)); break;
    case KIND_COUNT:
        if (READ(int64_t, object, f) < 0 || READ(int64_t, object, f) > f->bound)
            return too_large(enc, f, READ(int64_t, object, f));
        (void)msgpack_pack_int64(pk, READ(int64_t, object, f));
        break;
    case KIND_INT: (void)msgpack_pack_int64(pk, READ(int64_t, object, f)); break;
    case KIND_SEED: (void)msgpack_pack_uint64(pk, READ(uint64_t, object, f)); break;
    case KIND_MASK: (void)msgpack_pack_uint32(pk, READ(uint32_t, object, f)); break;
    case KIND_ID: return encode_ids(enc, f, &READ(int32_t, object, f), 1);
    case KIND_REAL: encode_real(enc, READ(double, object, f)); break;
    case KIND_TIER: (void)msgpack_pack_int(pk, (int)READ(enum tier, object, f)); break;
    case KIND_CHANNEL: (void)msgpack_pack_int(pk, (int)READ(enum msg_channel, object, f)); break;
    case KIND_CODE:
        text = err_name(READ(enum err_code, object, f));
        return encode_text(enc, f, text, strlen(text), f->bound);
    case KIND_TEXT:
        text = text_at(object, f->offset);
        return encode_text(enc, f, text, strlen(text), f->bound);
    case KIND_STRING:
    case KIND_BYTES:
        return encode_bytes(enc, f, text_at(object, f->offset), length_at(object, f->count_offset));
    case KIND_TIERS:
        (void)msgpack_pack_array(pk, TIERS);
        for (int i = 0; i < TIERS; i++) encode_real(enc, (&READ(double, object, f))[i]);
        break;
    case KIND_ONE: return encode_fields(enc, f->of, object + f->offset);
    case KIND_IDS:
    case KIND_TEXTS:
    case KIND_CHOICES:
    case KIND_MANY: return encode_array(enc, f, object);
    }
    return ERR_OK;
}

/* One map. Its head has a fixed width for the shape, and is written last, when the fields there are have been
 * counted. */
static enum err_code encode_fields(struct encoder *enc, const struct msg_shape *shape, const char *object)
{
    bool wide = shape->count > 15;
    size_t head = enc->out->len;
    if (buf_add(enc->out, "\xde\0\0", wide ? 3 : 1) != ERR_OK) return enc->out->failed;
    int written = 0;
    for (int i = 0; i < shape->count; i++) {
        const struct msg_field *f = &shape->fields[i];
        if (f->presence != MUST && is_default(f, object)) continue;
        if (f->kind == KIND_TEXT && !text_at(object, f->offset))
            return err_set_param(enc->e, ERR_INVALID, f->name, "%s.%s must be given", enc->title, f->name);
        (void)msgpack_pack_int(&enc->packer, f->key);
        enum err_code code = encode_value(enc, f, object);
        if (code != ERR_OK) return code;
        written++;
    }
    if (!buf_ok(enc->out)) return enc->out->failed;
    if (wide) enc->out->data[head + 2] = (char)written;
    else enc->out->data[head] = (char)(0x80 | written);
    return ERR_OK;
}

enum err_code msg_encode(enum msg_type type, const void *body, struct buf *out, struct err *e)
{
    const struct msg_shape *shape = msg_shape_of(type);
    assert(shape && shape->count < 256);
    struct encoder enc = {.out = out, .title = shape->name, .e = e};
    msgpack_packer_init(&enc.packer, out, packer_write);
    size_t start = out->len;
    const char head[2] = {(char)type, MSG_VERSION};
    enum err_code code = buf_add(out, head, sizeof head);
    if (code == ERR_OK) code = encode_fields(&enc, shape, body);
    if (code == ERR_OK && out->len - start > MSG_BYTES_MAX) code = ERR_TOO_LARGE;
    if (code == ERR_OK) return ERR_OK;
    if (!buf_ok(out) || out->len - start > MSG_BYTES_MAX)
        (void)err_set(e, code, "%s: %s (a message has at most %d bytes)", shape->name, err_text(code), MSG_BYTES_MAX);
    out->len = start;
    if (out->cap) out->data[start] = 0;
    return code;
}

/* ---- decoding ---- */

struct decoder {
    struct msg_reader in;
    struct arena *arena;
    const char *title; /* of the message */
    struct err *e;
};

static enum err_code broken(struct decoder *dec, const char *wrong)
{
    return err_set(dec->e, ERR_SYNTAX, "%s: %s, at byte %zu", dec->title, wrong, dec->in.at + 2);
}

static enum err_code unwanted(struct decoder *dec, const struct msg_field *f, const struct msg_item *got)
{
    return err_set_param(dec->e, ERR_SYNTAX, f->name, "%s.%s (key %d) wants %s, got %s, at byte %zu", dec->title,
                         f->name, f->key, msg_kind_name(f->kind), msg_item_name(got->kind), dec->in.at + 2);
}

static enum err_code over(struct decoder *dec, const struct msg_field *f, uint64_t got, int64_t bound)
{
    return err_set_param(dec->e, ERR_TOO_LARGE, f->name, "%s.%s (key %d) has %llu, and at most %lld are allowed",
                         dec->title, f->name, f->key, (unsigned long long)got, (long long)bound);
}

static enum err_code no_memory(struct decoder *dec, const struct msg_field *f)
{
    bool limit = dec->arena->used > ARENA_MAX / 2;
    return err_set_param(dec->e, limit ? ERR_TOO_LARGE : ERR_MEMORY, f->name, "%s.%s: no memory left for it",
                         dec->title, f->name);
}

static enum err_code next(struct decoder *dec, struct msg_item *item)
{
    const char *wrong = msg_reader_next(&dec->in, item);
    return wrong ? broken(dec, wrong) : ERR_OK;
}

#define WRITE(type, object, f) (*(type *)(void *)((object) + (f)->offset))

static enum err_code decode_fields(struct decoder *dec, const struct msg_shape *shape, char *object, int depth,
                                   const struct msg_item *map);

static enum err_code decode_unsigned(struct decoder *dec, const struct msg_field *f, const struct msg_item *item,
                                     uint64_t bound, uint64_t *out)
{
    if (item->kind != ITEM_UINT) return unwanted(dec, f, item);
    if (item->as.u > bound) return over(dec, f, item->as.u, (int64_t)bound);
    *out = item->as.u;
    return ERR_OK;
}

static enum err_code decode_int(struct decoder *dec, const struct msg_field *f, const struct msg_item *item,
                                int64_t *out)
{
    if (item->kind == ITEM_NEGATIVE) {
        *out = item->as.negative;
        return ERR_OK;
    }
    uint64_t u = 0;
    enum err_code code = decode_unsigned(dec, f, item, INT64_MAX, &u);
    if (code == ERR_OK) *out = (int64_t)u;
    return code;
}

static enum err_code decode_real(struct decoder *dec, const struct msg_field *f, const struct msg_item *item,
                                 double *out)
{
    if (item->kind == ITEM_UINT) *out = (double)item->as.u;
    else if (item->kind == ITEM_NEGATIVE) *out = (double)item->as.negative;
    else if (item->kind != ITEM_REAL) return unwanted(dec, f, item);
    else if (!isfinite(item->as.real))
        return err_set_param(dec->e, ERR_SYNTAX, f->name, "%s.%s (key %d) is not a finite number", dec->title, f->name,
                             f->key);
    else *out = item->as.real;
    return ERR_OK;
}

/* Checks a string against its row, copies it into the arena. `whole` texts end at their NUL and so must hold none. */
static enum err_code decode_text(struct decoder *dec, const struct msg_field *f, const struct msg_item *item,
                                 int64_t bound, const char **out)
{
    bool binary = f->kind == KIND_BYTES, whole = f->kind != KIND_BYTES && f->kind != KIND_STRING;
    if (item->kind != ITEM_STR && !(binary && item->kind == ITEM_BIN)) return unwanted(dec, f, item);
    if (item->len > (size_t)bound) return over(dec, f, item->len, bound);
    if (!binary && msg_utf8_valid(item->data, item->len) != item->len)
        return err_set_param(dec->e, ERR_SYNTAX, f->name, "%s.%s (key %d) is not UTF-8", dec->title, f->name, f->key);
    if (whole && item->len && memchr(item->data, 0, item->len))
        return err_set_param(dec->e, ERR_SYNTAX, f->name, "%s.%s (key %d) has a NUL inside", dec->title, f->name,
                             f->key);
    *out = arena_memdup(dec->arena, item->data, item->len);
    return *out ? ERR_OK : no_memory(dec, f);
}

static enum err_code decode_code(struct decoder *dec, const struct msg_field *f, const struct msg_item *item,
                                 enum err_code *out)
{
    char name[MSG_WORD_MAX + 1];
    if (item->kind != ITEM_STR) return unwanted(dec, f, item);
    if (item->len >= sizeof name) return over(dec, f, item->len, MSG_WORD_MAX);
    memcpy(name, item->data, item->len);
    name[item->len] = 0;
    *out = err_from_name(name);
    return ERR_OK;
}

static enum err_code decode_ids(struct decoder *dec, const struct msg_field *f, uint32_t count, int32_t *ids)
{
    for (uint32_t i = 0; i < count; i++) {
        struct msg_item item;
        uint64_t u = 0;
        enum err_code code = next(dec, &item);
        if (code == ERR_OK) code = decode_unsigned(dec, f, &item, INT32_MAX, &u);
        if (code != ERR_OK) return code;
        ids[i] = (int32_t)u;
    }
    return ERR_OK;
}

static enum err_code decode_texts(struct decoder *dec, const struct msg_field *f, uint32_t count, const char **texts)
{
    int64_t bound = f->kind == KIND_CHOICES ? MSG_WORD_MAX : MSG_STOP_BYTES_MAX;
    for (uint32_t i = 0; i < count; i++) {
        struct msg_item item;
        enum err_code code = next(dec, &item);
        if (code != ERR_OK) return code;
        if (f->kind == KIND_CHOICES && item.kind == ITEM_NIL) continue;
        code = decode_text(dec, f, &item, bound, &texts[i]);
        if (code != ERR_OK) return code;
    }
    return ERR_OK;
}

static enum err_code decode_many(struct decoder *dec, const struct msg_field *f, uint32_t count, char *objects,
                                 int depth)
{
    for (uint32_t i = 0; i < count; i++) {
        struct msg_item item;
        enum err_code code = next(dec, &item);
        if (code == ERR_OK && item.kind != ITEM_MAP) code = unwanted(dec, f, &item);
        if (code == ERR_OK) code = decode_fields(dec, f->of, objects + (size_t)i * f->of->size, depth, &item);
        if (code != ERR_OK) return code;
    }
    return ERR_OK;
}

static enum err_code decode_array(struct decoder *dec, const struct msg_field *f, const struct msg_item *item,
                                  char *object, int depth)
{
    size_t size = f->kind == KIND_IDS ? sizeof(int32_t) : f->kind == KIND_MANY ? f->of->size : sizeof(char *);
    if (item->kind != ITEM_ARRAY) return unwanted(dec, f, item);
    if (item->count > f->bound) return over(dec, f, item->count, f->bound);
    void *elements = object + f->offset;
    if (f->kind != KIND_CHOICES) {
        elements = arena_array(dec->arena, item->count, size);
        if (!elements) return no_memory(dec, f);
        memcpy(object + f->offset, &elements, sizeof elements);
    }
    int count = (int)item->count;
    memcpy(object + f->count_offset, &count, sizeof count);
    if (f->kind == KIND_IDS) return decode_ids(dec, f, item->count, elements);
    if (f->kind == KIND_MANY) return decode_many(dec, f, item->count, elements, depth);
    return decode_texts(dec, f, item->count, elements);
}

/* Tiers of the future beyond ours are dropped; those not told stay unknown. */
static enum err_code decode_tiers(struct decoder *dec, const struct msg_field *f, const struct msg_item *item,
                                  double *p)
{
    if (item->kind != ITEM_ARRAY) return unwanted(dec, f, item);
    if (item->count > MSG_HOPS_MAX) return over(dec, f, item->count, MSG_HOPS_MAX);
    for (uint32_t i = 0; i < item->count; i++) {
        struct msg_item element;
        double value = 0;
        enum err_code code = next(dec, &element);
        if (code == ERR_OK) code = decode_real(dec, f, &element, &value);
        if (code != ERR_OK) return code;
        if (i < TIERS) p[i] = value;
    }
    return ERR_OK;
}

static enum err_code decode_number(struct decoder *dec, const struct msg_field *f, const struct msg_item *item,
                                   char *object)
{
    uint64_t u = 0;
    uint64_t bound = f->kind == KIND_SEED   ? UINT64_MAX
                     : f->kind == KIND_MASK ? UINT32_MAX
                     : f->kind == KIND_TIER ? TIERS - 1
                                            : (uint64_t)f->bound;
    enum err_code code = decode_unsigned(dec, f, item, bound, &u);
    if (code != ERR_OK) return code;
    switch (f->kind) {
    case KIND_COUNT: WRITE(int64_t, object, f) = (int64_t)u; break;
    case KIND_SEED: WRITE(uint64_t, object, f) = u; break;
    case KIND_MASK: WRITE(uint32_t, object, f) = (uint32_t)u; break;
    case KIND_ID: WRITE(int32_t, object, f) = (int32_t)u; break;
    case KIND_TIER: WRITE(enum tier, object, f) = (enum tier)u; break;
    case KIND_CHANNEL: WRITE(enum msg_channel, object, f) = (enum msg_channel)u; break;
    default: return ERR_INTERNAL; /* the caller sends numbers only */
    }
    return ERR_OK;
}

static enum err_code decode_value(struct decoder *dec, const struct msg_field *f, char *object, int depth,
                                  const struct msg_item *item)
{
    switch (f->kind) {
    case KIND_BOOL:
        if (item->kind != ITEM_BOOL) return unwanted(dec, f, item);
        WRITE(bool, object, f) = item->as.truth;
        return ERR_OK;
    case KIND_INT: return decode_int(dec, f, item, &WRITE(int64_t, object, f));
    case KIND_COUNT:
    case KIND_SEED:
    case KIND_MASK:
    case KIND_ID:
    case KIND_TIER:
    case KIND_CHANNEL: return decode_number(dec, f, item, object);
    case KIND_REAL: return decode_real(dec, f, item, &WRITE(double, object, f));
    case KIND_CODE: return decode_code(dec, f, item, &WRITE(enum err_code, object, f));
    case KIND_STRING:
    case KIND_BYTES: memcpy(object + f->count_offset, &item->len, sizeof item->len); /* fall through */
    case KIND_TEXT: return decode_text(dec, f, item, f->bound, &WRITE(const char *, object, f));
    case KIND_TIERS: return decode_tiers(dec, f, item, &WRITE(double, object, f));
    case KIND_ONE:
        if (item->kind != ITEM_MAP) return unwanted(dec, f, item);
        return decode_fields(dec, f->of, object + f->offset, depth, item);
    case KIND_IDS:
    case KIND_TEXTS:
    case KIND_CHOICES:
    case KIND_MANY: return decode_array(dec, f, item, object, depth);
    }
    return ERR_INTERNAL;
}

/* What absent fields hold where that is not all zeroes. */
static void set_defaults(const struct msg_shape *shape, char *object)
{
    for (int i = 0; i < shape->count; i++) {
        const struct msg_field *f = &shape->fields[i];
        if (f->kind == KIND_TIER) WRITE(enum tier, object, f) = TIER_NONE;
        if (f->kind == KIND_TEXT && f->presence == EMPTY) WRITE(const char *, object, f) = "";
        if (f->kind == KIND_STRING || f->kind == KIND_BYTES) WRITE(const char *, object, f) = "";
        if (f->kind == KIND_TIERS)
            for (int t = 0; t < TIERS; t++) (&WRITE(double, object, f))[t] = -1;
        if (f->kind == KIND_ONE) set_defaults(f->of, object + f->offset);
    }
}

/* The row of a key. Writers go through the rows in order, so the search starts where the last one ended. */
static int row_of(const struct msg_shape *shape, uint64_t key, int from)
{
    for (int i = 0; i < shape->count; i++) {
        int at = (from + i) % shape->count;
        if ((uint64_t)shape->fields[at].key == key) return at;
    }
    return -1;
}

static enum err_code check_presence(struct decoder *dec, const struct msg_shape *shape, uint64_t seen)
{
    for (int i = 0; i < shape->count; i++) {
        const struct msg_field *f = &shape->fields[i];
        if (f->presence == MUST && !(seen >> i & 1))
            return err_set_param(dec->e, ERR_SYNTAX, f->name, "%s: %s.%s (key %d) must be there", dec->title,
                                 shape->name, f->name, f->key);
    }
    return ERR_OK;
}

static enum err_code decode_pair(struct decoder *dec, const struct msg_shape *shape, char *object, int depth,
                                 uint64_t *seen, int *row)
{
    struct msg_item item;
    enum err_code code = next(dec, &item);
    if (code != ERR_OK) return code;
    if (item.kind != ITEM_UINT) return broken(dec, "a key that is not a positive integer");
    int at = row_of(shape, item.as.u, *row);
    if (at < 0) {
        const char *wrong = msg_reader_skip(&dec->in, depth);
        return wrong ? broken(dec, wrong) : ERR_OK;
    }
    const struct msg_field *f = &shape->fields[at];
    if (*seen >> at & 1)
        return err_set_param(dec->e, ERR_SYNTAX, f->name, "%s.%s (key %d) is there twice", dec->title, f->name,
                             f->key);
    code = next(dec, &item);
    if (code != ERR_OK) return code;
    *row = at + 1;
    if (item.kind == ITEM_NIL) return ERR_OK; /* as if it were absent */
    *seen |= (uint64_t)1 << at;
    return decode_value(dec, f, object, depth - 1, &item);
}

/* `map` is the head just read; `depth`: how many levels may still lie inside it. */
static enum err_code decode_fields(struct decoder *dec, const struct msg_shape *shape, char *object, int depth,
                                   const struct msg_item *map)
{
    assert(shape->count <= 64 && depth >= 0);
    uint64_t seen = 0;
    int row = 0;
    set_defaults(shape, object);
    for (uint32_t i = 0; i < map->count; i++) {
        enum err_code code = decode_pair(dec, shape, object, depth, &seen, &row);
        if (code != ERR_OK) return code;
    }
    return check_presence(dec, shape, seen);
}

static enum err_code decode_body(struct decoder *dec, const struct msg_shape *shape, char *body)
{
    struct msg_item map;
    enum err_code code = next(dec, &map);
    if (code != ERR_OK) return code;
    if (map.kind != ITEM_MAP) return broken(dec, "wants a map");
    code = decode_fields(dec, shape, body, MSG_DEPTH_MAX - 1, &map);
    if (code == ERR_OK && dec->in.at != dec->in.len) return broken(dec, "bytes after the map");
    return code;
}

enum err_code msg_decode(struct msg *out, const void *data, size_t len, struct err *e)
{
    const unsigned char *bytes = data;
    *out = (struct msg){0};
    if (len < 3) return err_set(e, ERR_SYNTAX, "a message has a type, a version and a map; got %zu bytes", len);
    if (len > MSG_BYTES_MAX)
        return err_set(e, ERR_TOO_LARGE, "a message of %zu bytes; at most %d are allowed", len, MSG_BYTES_MAX);
    int version = bytes[1];
    if (version < MSG_VERSION_MIN || version > MSG_VERSION_MAX)
        return err_set(e, ERR_VERSION, "a message of version %d; versions %d to %d are understood", version,
                       MSG_VERSION_MIN, MSG_VERSION_MAX);
    const struct msg_shape *shape = msg_shape_of((enum msg_type)bytes[0]);
    if (!shape) return err_set(e, ERR_UNSUPPORTED, "message type %d is not known", bytes[0]);
    struct arena arena;
    arena_init(&arena, ARENA_MAX);
    struct decoder dec = {{bytes + 2, 0, len - 2}, &arena, shape->name, e};
    enum err_code code = decode_body(&dec, shape, (char *)&out->body);
    if (code != ERR_OK) {
        arena_release(&arena);
        *out = (struct msg){0};
        return code;
    }
    out->type = (enum msg_type)bytes[0];
    out->version = version;
    memcpy(&out->body, &arena, sizeof arena); /* every body starts with its arena */
    return ERR_OK;
}

void msg_release(struct msg *msg)
{
    struct arena arena;
    memcpy(&arena, &msg->body, sizeof arena);
    if (msg->type) arena_release(&arena);
    *msg = (struct msg){0};
}

void msg_submit_init(struct msg_submit *submit)
{
    *submit = (struct msg_submit){.hop_budget = 4, .forced = TIER_NONE, .max_tier = TIER_NONE, .tier = TIER_NONE};
    arena_init(&submit->arena, ARENA_MAX);
    for (int t = 0; t < TIERS; t++) submit->p[t] = -1;
}

void msg_submit_release(struct msg_submit *submit)
{
    arena_release(&submit->arena);
    msg_submit_init(submit);
}
