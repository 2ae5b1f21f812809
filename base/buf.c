#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buf_init(struct buf *b, size_t max)
{
    *b = (struct buf)BUF_INIT(max);
}

void buf_release(struct buf *b)
{
    if (b->cap) free(b->data);
    buf_init(b, b->max);
}

void buf_clear(struct buf *b)
{
    b->len = 0;
    b->failed = ERR_OK;
    if (b->cap) b->data[0] = 0;
}

static enum err_code reserve(struct buf *b, size_t more)
{
    if (more > b->max || b->len > b->max - more) return b->failed = ERR_TOO_LARGE;
    size_t need = b->len + more + 1;
    if (need <= b->cap) return ERR_OK;
    size_t cap = b->cap ? b->cap : 64;
    if (need > 2 * cap) cap = need; /* one large piece, or buf_reserve(): as much as is asked for */
    while (cap < need) cap = cap > SIZE_MAX / 2 ? need : cap * 2;
    if (cap > b->max + 1) cap = b->max + 1;
    char *grown = b->cap ? realloc(b->data, cap) : malloc(cap);
    if (!grown) return b->failed = ERR_MEMORY;
    if (!b->cap) grown[0] = 0;
    b->data = grown;
    b->cap = cap;
    return ERR_OK;
}

enum err_code buf_reserve(struct buf *b, size_t more)
{
    return buf_ok(b) ? reserve(b, more) : b->failed;
}

enum err_code buf_add(struct buf *b, const void *data, size_t len)
{
    if (!buf_ok(b)) return b->failed;
    if (len == 0) return ERR_OK;
    if (reserve(b, len) != ERR_OK) return b->failed;
    memcpy(b->data + b->len, data, len);
    b->len += len;
    b->data[b->len] = 0;
    return ERR_OK;
}

enum err_code buf_adds(struct buf *b, const char *text)
{
    return buf_add(b, text, strlen(text));
}

enum err_code buf_addc(struct buf *b, char c)
{
    return buf_add(b, &c, 1);
}

enum err_code buf_addf(struct buf *b, const char *format, ...)
{
    if (!buf_ok(b)) return b->failed;
    char small[256];
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(small, sizeof small, format, args);
    va_end(args);
    enum err_code code = ERR_INTERNAL;
    if (n >= 0 && (size_t)n < sizeof small) {
        code = buf_add(b, small, (size_t)n);
    } else if (n >= 0 && reserve(b, (size_t)n) == ERR_OK) {
        (void)vsnprintf(b->data + b->len, (size_t)n + 1, format, again);
        b->len += (size_t)n;
        code = ERR_OK;
    } else if (!buf_ok(b)) {
        code = b->failed;
    }
    va_end(again);
    return code;
}

void buf_drop(struct buf *b, size_t len)
{
    if (len >= b->len) {
        b->len = 0;
    } else {
        memmove(b->data, b->data + len, b->len - len);
        b->len -= len;
    }
    if (b->cap) b->data[b->len] = 0;
}

char *buf_take(struct buf *b, size_t *len)
{
    char *data = b->cap ? b->data : calloc(1, 1);
    if (len) *len = b->len;
    b->cap = 0;
    buf_init(b, b->max);
    return data;
}
