#include "proto/openai_json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* jansson bounds depth only at 2,048 and the number of values not at all, so both are counted before it sees the
 * text. Strings are skipped; whether the text is JSON at all stays jansson's business. */
static enum err_code check_bounds(const char *text, size_t len, struct err *e)
{
    int depth = 0;
    size_t values = 1;
    for (size_t i = 0; i < len; i++) {
        switch (text[i]) {
        case '"':
            for (i++; i < len && text[i] != '"'; i++)
                if (text[i] == '\\') i++;
            break;
        case '[':
        case '{':
            values++;
            if (++depth > OPENAI_DEPTH_MAX)
                return err_set(e, ERR_INVALID, "the JSON nests deeper than %d levels", OPENAI_DEPTH_MAX);
            break;
        case ']':
        case '}':
            if (depth > 0) depth--;
            break;
        case ',':
            values++;
            break;
        default:
            break;
        }
    }
    if (values > OPENAI_VALUES_MAX)
        return err_set(e, ERR_TOO_LARGE, "the JSON holds more than %d values", OPENAI_VALUES_MAX);
    return ERR_OK;
}

enum err_code openai_json_value(json_t **out, const char *text, size_t len, struct err *e)
{
    enum err_code code = check_bounds(text, len, e);
    if (code != ERR_OK) return code;
    json_error_t problem;
    *out = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &problem);
    if (*out) return ERR_OK;
    if (json_error_code(&problem) == json_error_out_of_memory)
        return err_set(e, ERR_MEMORY, "out of memory while reading JSON of %zu bytes", len);
    if (len == 0) return err_set(e, ERR_SYNTAX, "empty: a JSON object is wanted");
    return err_set(e, ERR_SYNTAX, "not valid JSON at line %d, column %d: %s", problem.line, problem.column,
                   problem.text);
}

enum err_code openai_json_object(json_t **out, const char *text, size_t len, struct err *e)
{
    json_t *root = NULL;
    enum err_code code = openai_json_value(&root, text, len, e);
    if (code != ERR_OK) return code;
    if (!json_is_object(root)) {
        char what[80];
        code = err_set(e, ERR_SYNTAX, "a JSON object is wanted, this is %s",
                       openai_json_what(root, what, sizeof what));
        json_decref(root);
        return code;
    }
    *out = root;
    return ERR_OK;
}

const char *openai_json_what(const json_t *value, char *out, size_t size)
{
    static const char *const NAMES[] = {[JSON_OBJECT] = "an object", [JSON_ARRAY] = "an array",
                                        [JSON_STRING] = "a string",  [JSON_INTEGER] = "a number",
                                        [JSON_REAL] = "a number",    [JSON_TRUE] = "true",
                                        [JSON_FALSE] = "false",      [JSON_NULL] = "null"};
    if (!value) return "missing";
    if (json_is_integer(value)) {
        (void)snprintf(out, size, "the number %" JSON_INTEGER_FORMAT, json_integer_value(value));
    } else if (json_is_real(value)) {
        (void)snprintf(out, size, "the number %.9g", json_real_value(value));
    } else if (json_is_string(value) && json_string_length(value) <= 24) {
        (void)snprintf(out, size, "the string \"%s\"", json_string_value(value));
    } else {
        (void)snprintf(out, size, "%s", NAMES[json_typeof(value)]);
    }
    return out;
}

static int dump_piece(const char *data, size_t len, void *ctx)
{
    return buf_add(ctx, data, len) == ERR_OK ? 0 : -1;
}

enum err_code openai_json_dump(struct buf *out, const json_t *value)
{
    if (json_dump_callback(value, dump_piece, out, JSON_COMPACT | JSON_ENCODE_ANY) != 0 && buf_ok(out))
        out->failed = ERR_MEMORY;
    return out->failed;
}

const char *openai_json_string(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

int64_t openai_json_int(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (json_is_integer(value)) return json_integer_value(value);
    double real = json_is_real(value) ? json_real_value(value) : 0;
    return real > -1e15 && real < 1e15 ? (int64_t)real : 0;
}

size_t openai_utf8_length(const char *text, size_t len)
{
    const unsigned char *s = (const unsigned char *)text;
    if (len == 0) return 0;
    if (s[0] < 0x80) return 1;
    if (s[0] < 0xc2 || s[0] > 0xf4) return 0;
    size_t want = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if (len < want) return 0;
    /* the second byte's range shuts out overlong forms, surrogates and what is past U+10FFFF */
    unsigned low = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
    unsigned high = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;
    if (s[1] < low || s[1] > high) return 0;
    for (size_t i = 2; i < want; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    return want;
}

static void write_escape(struct buf *out, unsigned char c)
{
    static const char SHORT[] = {['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r'};
    static const char HEX[] = "0123456789abcdef";
    if (c == '"' || c == '\\') {
        buf_add(out, (char[]){'\\', (char)c}, 2);
    } else if (c < sizeof SHORT && SHORT[c]) {
        buf_add(out, (char[]){'\\', SHORT[c]}, 2);
    } else {
        buf_add(out, (char[]){'\\', 'u', '0', '0', HEX[c >> 4], HEX[c & 15]}, 6);
    }
}

void openai_write_inside(struct buf *out, const char *text, size_t len)
{
    size_t from = 0, i = 0; /* text[from, i) is clean and not yet written */
    while (i < len) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c < 0x80 && c != '"' && c != '\\') {
            i++;
            continue;
        }
        size_t n = c >= 0x80 ? openai_utf8_length(text + i, len - i) : 0;
        if (n) {
            i += n;
            continue;
        }
        buf_add(out, text + from, i - from);
        if (c < 0x80) {
            write_escape(out, c);
        } else {
            buf_add(out, "\xef\xbf\xbd", 3);
        }
        from = ++i;
    }
    buf_add(out, text + from, len - from);
}

void openai_write_text(struct buf *out, const char *text, size_t len)
{
    if (!text) {
        buf_add(out, "null", 4);
        return;
    }
    buf_addc(out, '"');
    openai_write_inside(out, text, len);
    buf_addc(out, '"');
}

void openai_write_string(struct buf *out, const char *text)
{
    openai_write_text(out, text, text ? strlen(text) : 0);
}

void openai_write_int(struct buf *out, int64_t value)
{
    char digits[24];
    size_t at = sizeof digits;
    uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    do {
        digits[--at] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest);
    if (value < 0) digits[--at] = '-';
    buf_add(out, digits + at, sizeof digits - at);
}

void openai_write_fixed(struct buf *out, double value, int decimals)
{
    static const double SCALE[] = {1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12};
    if (!isfinite(value)) {
        buf_add(out, "null", 4);
        return;
    }
    if (fabs(value) >= 1e6) { /* past what an int64_t holds once scaled; rare */
        buf_addf(out, "%.9g", value);
        return;
    }
    int64_t scaled = (int64_t)(fabs(value) * SCALE[decimals] + 0.5);
    if (value < 0 && scaled) buf_addc(out, '-');
    int64_t unit = (int64_t)SCALE[decimals];
    openai_write_int(out, scaled / unit);
    int64_t rest = scaled % unit;
    if (rest == 0) return;
    char digits[16];
    int n = decimals;
    for (int i = decimals - 1; i >= 0; i--, rest /= 10) digits[i] = (char)('0' + rest % 10);
    while (digits[n - 1] == '0') n--;
    buf_addc(out, '.');
    buf_add(out, digits, (size_t)n);
}
