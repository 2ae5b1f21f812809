#include "cli/import.h"

#include <stdlib.h>
#include <string.h>

/* sentencepiece_model.proto, the four fields that matter: ModelProto.pieces (1: piece 1, score 2, type 3) and
 * ModelProto.normalizer_spec (3: add_dummy_prefix 3). Everything else is stepped over. */

enum { PIECES_MAX = 1 << 22, VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

struct field {
    uint32_t number, wire;
    uint64_t value;   /* of a varint */
    const char *data; /* of bytes and fixed numbers */
    size_t len;
};

static bool take_varint(const char **p, const char *end, uint64_t *out)
{
    *out = 0;
    for (unsigned shift = 0; *p < end && shift < 64; shift += 7) {
        unsigned char byte = (unsigned char)*(*p)++;
        *out |= (uint64_t)(byte & 0x7F) << shift;
        if (!(byte & 0x80)) return true;
    }
    return false;
}

static bool take_field(const char **p, const char *end, struct field *f)
{
    uint64_t tag, len = 0;
    if (!take_varint(p, end, &tag)) return false;
    *f = (struct field){.number = (uint32_t)(tag >> 3), .wire = (uint32_t)tag & 7};
    switch (f->wire) {
    case VARINT: return take_varint(p, end, &f->value);
    case FIXED64: len = 8; break;
    case FIXED32: len = 4; break;
    case BYTES:
        if (!take_varint(p, end, &len)) return false;
        break;
    default: return false;
    }
    if (len > (uint64_t)(end - *p)) return false;
    f->data = *p;
    f->len = (size_t)len;
    *p += len;
    return true;
}

static bool read_piece(struct field whole, struct spm_piece *out)
{
    const char *p = whole.data, *end = whole.data + whole.len;
    struct field f;
    *out = (struct spm_piece){.kind = 1};
    while (p < end) {
        if (!take_field(&p, end, &f)) return false;
        if (f.number == 1 && f.wire == BYTES) out->text = (struct gguf_string){f.data, f.len};
        if (f.number == 2 && f.wire == FIXED32) memcpy(&out->score, f.data, 4);
        if (f.number == 3 && f.wire == VARINT) out->kind = f.value >= 1 && f.value <= 6 ? (int)f.value : 1;
    }
    return true;
}

static bool read_normalizer(struct field whole, bool *space_prefix)
{
    const char *p = whole.data, *end = whole.data + whole.len;
    struct field f;
    while (p < end) {
        if (!take_field(&p, end, &f)) return false;
        if (f.number == 3 && f.wire == VARINT) *space_prefix = f.value != 0;
    }
    return true;
}

enum err_code import_spm(const char *data, size_t len, struct spm_piece **pieces, int *count, bool *space_prefix,
                         struct err *e)
{
    const char *p = data, *end = data + len;
    struct spm_piece *list = NULL;
    struct field f;
    int n = 0, cap = 0;
    *space_prefix = true;
    while (p < end) {
        bool fine = take_field(&p, end, &f) && n < PIECES_MAX;
        if (fine && f.number == 3 && f.wire == BYTES) fine = read_normalizer(f, space_prefix);
        if (fine && f.number == 1 && f.wire == BYTES) {
            if (n == cap) {
                cap = cap ? cap * 2 : 4096;
                struct spm_piece *grown = realloc(list, (size_t)cap * sizeof *grown);
                if (!grown) {
                    free(list);
                    return err_set(e, ERR_MEMORY, "tokenizer.model: no memory");
                }
                list = grown;
            }
            fine = read_piece(f, &list[n++]);
        }
        if (fine) continue;
        free(list);
        return err_set(e, ERR_CORRUPT, "tokenizer.model: damaged at byte %zu", (size_t)(p - data));
    }
    *pieces = list;
    *count = n;
    return n ? ERR_OK : err_set(e, ERR_CORRUPT, "tokenizer.model: holds no pieces");
}
