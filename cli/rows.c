#include "cli/rows.h"

#include "base/buf.h"
#include "base/err.h"
#include "router/log_store.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MEASURED_ROWS = 500, CELL_MAX = 200, COLUMNS_SHOWN_MAX = 128 };

/* ---- text ---- */

/* The length of the UTF-8 character at `p`, of `left` bytes; 0 when it is none. */
static int utf8_len(const unsigned char *p, size_t left)
{
    int len = p[0] < 0x80 ? 1 : p[0] >= 0xc2 && p[0] < 0xe0 ? 2 : (p[0] & 0xf0) == 0xe0 ? 3 : p[0] < 0xf5 ? 4 : 0;
    if (p[0] >= 0x80 && p[0] < 0xc2) return 0;
    if (len == 0 || (size_t)len > left) return 0;
    for (int i = 1; i < len; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f)) return 0;
    if ((p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f)) return 0;
    return len;
}

/* Cells on the terminal: two for the wide letters of East Asia and pictures. */
static int utf8_cells(const unsigned char *p, int len)
{
    if (len < 3) return 1;
    if (len == 4) return p[0] == 0xf0 && p[1] >= 0x9f ? 2 : 1;
    unsigned c = (p[0] & 0x0fu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
    return (c >= 0x1100 && c < 0x1160) || (c >= 0x2e80 && c < 0xa4d0) || (c >= 0xac00 && c < 0xd7a4) ||
                   (c >= 0xf900 && c < 0xfb00) || (c >= 0xfe30 && c < 0xfe70) || (c >= 0xff00 && c < 0xff61)
               ? 2
               : 1;
}

/* Whether the character of n bytes (0: none) may go to a terminal as it is. */
static bool is_plain(const unsigned char *p, int n)
{
    return n > 0 && *p >= 0x20 && *p != 0x7f && !(n == 2 && p[0] == 0xc2 && p[1] < 0xa0);
}

void rows_text(FILE *out, const char *text)
{
    const unsigned char *p = (const unsigned char *)text, *end = p + strlen(text);
    while (p < end) {
        int n = utf8_len(p, (size_t)(end - p));
        if (*p == '\n' || is_plain(p, n)) (void)fwrite(p, 1, (size_t)n, out);
        else (void)fputc('?', out);
        p += n > 0 ? n : 1;
    }
}

/* Text as it may be shown, at most CELL_MAX bytes of it; returns the cells it takes. */
static int shown(const char *text, size_t len, struct buf *out)
{
    int cells = 0;
    buf_clear(out);
    const unsigned char *p = (const unsigned char *)text, *end = p + len;
    while (p < end && out->len < CELL_MAX) {
        int n = utf8_len(p, (size_t)(end - p));
        bool plain = is_plain(p, n);
        if (plain) (void)buf_add(out, p, (size_t)n);
        else (void)buf_addc(out, '?');
        cells += plain ? utf8_cells(p, n) : 1;
        p += n > 0 ? n : 1;
    }
    if (p < end) {
        (void)buf_adds(out, "…");
        cells++;
    }
    return cells;
}

void rows_json_text(FILE *out, const char *text, size_t len)
{
    const unsigned char *p = (const unsigned char *)text, *end = p + len;
    (void)fputc('"', out);
    while (p < end) {
        int n = utf8_len(p, (size_t)(end - p));
        if (n == 0) (void)fputs("\xef\xbf\xbd", out);
        else if (*p == '"' || *p == '\\') (void)fprintf(out, "\\%c", *p);
        else if (*p < 0x20 || *p == 0x7f) (void)fprintf(out, "\\u%04x", *p);
        else (void)fwrite(p, 1, (size_t)n, out);
        p += n > 0 ? n : 1;
    }
    (void)fputc('"', out);
}

/* The shortest text that reads back as the same number, up to 17 digits. */
static void real_text(double value, char out[32])
{
    for (int digits = 6; digits <= 17; digits++) {
        (void)snprintf(out, 32, "%.*g", digits, value);
        if (strtod(out, NULL) == value) return;
    }
}

static void hex(struct buf *out, const unsigned char *bytes, int len)
{
    for (int i = 0; i < len; i++) (void)buf_addf(out, "%02x", bytes[i]);
}

/* A cell as it is shown; returns its cells. */
static int cell(sqlite3_stmt *st, int column, struct buf *out)
{
    buf_clear(out);
    switch (sqlite3_column_type(st, column)) {
    case SQLITE_NULL: return 0;
    case SQLITE_BLOB: {
        int len = sqlite3_column_bytes(st, column);
        hex(out, sqlite3_column_blob(st, column), len < 32 ? len : 32);
        return (int)out->len;
    }
    case SQLITE_FLOAT: (void)buf_addf(out, "%.6g", sqlite3_column_double(st, column)); return (int)out->len;
    default:
        return shown((const char *)sqlite3_column_text(st, column), (size_t)sqlite3_column_bytes(st, column), out);
    }
}

static void json_value(FILE *out, sqlite3_stmt *st, int column)
{
    char number[32];
    struct buf text = BUF_INIT(1 << 21);
    switch (sqlite3_column_type(st, column)) {
    case SQLITE_NULL: (void)fputs("null", out); break;
    case SQLITE_INTEGER: (void)fprintf(out, "%lld", sqlite3_column_int64(st, column)); break;
    case SQLITE_FLOAT:
        real_text(sqlite3_column_double(st, column), number);
        (void)fputs(isfinite(sqlite3_column_double(st, column)) ? number : "null", out);
        break;
    case SQLITE_BLOB:
        hex(&text, sqlite3_column_blob(st, column), sqlite3_column_bytes(st, column));
        rows_json_text(out, text.data, text.len);
        break;
    default:
        rows_json_text(out, (const char *)sqlite3_column_text(st, column), (size_t)sqlite3_column_bytes(st, column));
    }
    buf_release(&text);
}

void rows_json_object(FILE *out, sqlite3_stmt *st)
{
    int columns = sqlite3_column_count(st);
    (void)fputc('{', out);
    for (int i = 0; i < columns; i++) {
        const char *name = sqlite3_column_name(st, i);
        if (i > 0) (void)fputs(", ", out);
        rows_json_text(out, name, strlen(name));
        (void)fputs(": ", out);
        json_value(out, st, i);
    }
    (void)fputc('}', out);
}

/* ---- the four forms ---- */

static int print_json(FILE *out, sqlite3_stmt *st, bool lines)
{
    int rc;
    long count = 0;
    if (!lines) (void)fputc('[', out);
    for (; (rc = sqlite3_step(st)) == SQLITE_ROW; count++) {
        if (!lines) (void)fputs(count > 0 ? ",\n " : "", out);
        rows_json_object(out, st);
        if (lines) (void)fputc('\n', out);
    }
    if (!lines) (void)fputs("]\n", out);
    return rc;
}

/* RFC 4180: a field with a comma, a quote or a line's end is quoted, quotes doubled. */
static void csv_text(FILE *out, const char *text, size_t len)
{
    bool quoted = false;
    for (size_t i = 0; i < len; i++) quoted = quoted || strchr(",\"\r\n", text[i]) != NULL;
    if (quoted) (void)fputc('"', out);
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '"') (void)fputc('"', out);
        (void)fputc(text[i], out);
    }
    if (quoted) (void)fputc('"', out);
}

static void csv_value(FILE *out, sqlite3_stmt *st, int column)
{
    struct buf text = BUF_INIT(1 << 21);
    char number[32];
    switch (sqlite3_column_type(st, column)) {
    case SQLITE_NULL: break;
    case SQLITE_FLOAT:
        real_text(sqlite3_column_double(st, column), number);
        (void)fputs(number, out);
        break;
    case SQLITE_BLOB:
        hex(&text, sqlite3_column_blob(st, column), sqlite3_column_bytes(st, column));
        (void)fwrite(text.data, 1, text.len, out);
        break;
    default:
        csv_text(out, (const char *)sqlite3_column_text(st, column), (size_t)sqlite3_column_bytes(st, column));
    }
    buf_release(&text);
}

static int print_csv(FILE *out, sqlite3_stmt *st)
{
    int rc, columns = sqlite3_column_count(st);
    for (int i = 0; i < columns; i++) {
        const char *name = sqlite3_column_name(st, i);
        if (i > 0) (void)fputc(',', out);
        csv_text(out, name, strlen(name));
    }
    (void)fputs(columns > 0 ? "\r\n" : "", out);
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        for (int i = 0; i < columns; i++) {
            if (i > 0) (void)fputc(',', out);
            csv_value(out, st, i);
        }
        (void)fputs("\r\n", out);
    }
    return rc;
}

static void pad(FILE *out, int cells)
{
    for (; cells > 0; cells--) (void)fputc(' ', out);
}

struct shown_cell {
    char *text;
    int cells;
    bool right;
};

static void cell_print(FILE *out, const struct shown_cell *c, int width, bool last)
{
    if (c->right) pad(out, width - c->cells);
    (void)fputs(c->text ? c->text : "", out);
    if (!c->right && !last) pad(out, width - c->cells);
    (void)fputs(last ? "\n" : "  ", out);
}

static struct shown_cell cell_take(sqlite3_stmt *st, int column, struct buf *work)
{
    int type = sqlite3_column_type(st, column);
    struct shown_cell c = {.right = type == SQLITE_INTEGER || type == SQLITE_FLOAT};
    c.cells = cell(st, column, work);
    c.text = strdup(work->data);
    return c;
}

static void cells_free(struct shown_cell *cells, size_t count)
{
    for (size_t i = 0; i < count; i++) free(cells[i].text);
    free(cells);
}

/* Widths come from the heads and the first rows; the rest is printed as it comes. */
static int print_table(FILE *out, sqlite3_stmt *st)
{
    int columns = sqlite3_column_count(st), widths[COLUMNS_SHOWN_MAX] = {0}, rows = 0, rc;
    if (columns > COLUMNS_SHOWN_MAX) columns = COLUMNS_SHOWN_MAX;
    struct shown_cell *cells = calloc((size_t)columns * MEASURED_ROWS + 1, sizeof *cells);
    struct buf work = BUF_INIT(4096);
    if (!cells) return SQLITE_NOMEM;
    for (int c = 0; c < columns; c++) widths[c] = (int)strlen(sqlite3_column_name(st, c));
    while (rows < MEASURED_ROWS && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        for (int c = 0; c < columns; c++) {
            struct shown_cell *at = &cells[rows * columns + c];
            *at = cell_take(st, c, &work);
            if (at->cells > widths[c]) widths[c] = at->cells;
        }
        rows++;
    }
    for (int c = 0; c < columns; c++) {
        const char *name = sqlite3_column_name(st, c);
        struct shown_cell head = {(char *)(uintptr_t)name, (int)strlen(name), rows > 0 && cells[c].right};
        cell_print(out, &head, widths[c], c == columns - 1);
    }
    for (int i = 0; i < rows * columns; i++) cell_print(out, &cells[i], widths[i % columns], i % columns == columns - 1);
    while (rows == MEASURED_ROWS && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        for (int c = 0; c < columns; c++) {
            struct shown_cell one = cell_take(st, c, &work);
            cell_print(out, &one, widths[c], c == columns - 1);
            free(one.text);
        }
    }
    cells_free(cells, (size_t)columns * MEASURED_ROWS);
    buf_release(&work);
    return rc;
}

void rows_line(FILE *out, sqlite3_stmt *st)
{
    struct buf work = BUF_INIT(4096);
    for (int i = 0; i < sqlite3_column_count(st); i++) {
        (void)cell(st, i, &work);
        (void)fprintf(out, "%s%s", i ? "  " : "", work.len > 0 ? work.data : "-");
    }
    (void)fputc('\n', out);
    buf_release(&work);
}

int rows_print(FILE *out, sqlite3_stmt *st, enum rows_format format)
{
    switch (format) {
    case ROWS_TABLE: return print_table(out, st);
    case ROWS_CSV: return print_csv(out, st);
    case ROWS_JSON: return print_json(out, st, false);
    case ROWS_JSONL: return print_json(out, st, true);
    }
    return SQLITE_MISUSE;
}

/* ---- opening ---- */

const char *rows_path(const char *path)
{
    static const char *const USUAL[] = {"edge.db", "region.db", "core.db"};
    if (path) return path;
    path = getenv("RUNG_LOG_PATH");
    if (path && path[0]) return path;
    for (size_t i = 0; i < sizeof USUAL / sizeof USUAL[0]; i++)
        if (access(USUAL[i], R_OK) == 0) return USUAL[i];
    return "rung.db";
}

sqlite3 *rows_open(const char *command, const char *path)
{
    sqlite3 *sql;
    struct err e = {0};
    if (store_open_reader(&sql, rows_path(path), &e) == ERR_OK) return sql;
    (void)fprintf(stderr, "rung %s: %s%s\n", command, e.msg,
                  path || getenv("RUNG_LOG_PATH") ? "" : "; --db FILE or RUNG_LOG_PATH names the log");
    return NULL;
}

sqlite3_stmt *rows_prepare(const char *command, sqlite3 *sql, const char *text)
{
    sqlite3_stmt *st = NULL;
    if (sqlite3_prepare_v2(sql, text, -1, &st, NULL) != SQLITE_OK)
        (void)fprintf(stderr, "rung %s: %s\n", command, sqlite3_errmsg(sql));
    return st;
}

bool rows_since(const char *command, const char *text, int64_t *ms)
{
    static const struct {
        char unit;
        int64_t ms;
    } UNITS[] = {{'s', 1000}, {'m', 60 * 1000}, {'h', 3600 * 1000}, {'d', 24 * 3600 * 1000}, {'w', 7 * 24 * 3600 * 1000}};
    *ms = 0;
    if (!text) return true;
    char *end;
    double count = strtod(text, &end);
    for (size_t i = 0; i < sizeof UNITS / sizeof UNITS[0]; i++) {
        if (*end != UNITS[i].unit || end[1] || !(count > 0 && count < 1e6)) continue;
        *ms = (int64_t)(count * (double)UNITS[i].ms);
        return true;
    }
    (void)fprintf(stderr, "rung %s: --since: got '%s', want a number and s, m, h, d or w: 24h, 7d\n", command, text);
    return false;
}
