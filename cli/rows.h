/* What a query brings, printed: as a table for people, as JSON, JSON lines or CSV for programs.
 *
 * Text that came from outside is shown without control characters, so that a log cannot steer a terminal; in JSON,
 * bytes that are not UTF-8 become U+FFFD. A BLOB is printed in hexadecimal, NULL as nothing (JSON: null).
 */
#ifndef RUNG_CLI_ROWS_H
#define RUNG_CLI_ROWS_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum rows_format { ROWS_TABLE, ROWS_JSON, ROWS_JSONL, ROWS_CSV };

/* Steps the statement to its end. Returns SQLite's last code: SQLITE_DONE when all went well. */
int rows_print(FILE *out, sqlite3_stmt *st, enum rows_format format);
/* One JSON string, quoted. */
void rows_json_text(FILE *out, const char *text, size_t len);
/* The row a statement stands on, as one JSON object without a line's end. */
void rows_json_object(FILE *out, sqlite3_stmt *st);

/* Text of several lines, cleaned as a cell of a table is. */
void rows_text(FILE *out, const char *text);
/* The row a statement stands on, as one line without a head; a NULL is shown as "-". */
void rows_line(FILE *out, sqlite3_stmt *st);

/* Opens the log for reading only: `path`, or else RUNG_LOG_PATH, or else the first of edge.db, region.db, core.db and
 * rung.db that is here. Prints what is wrong on stderr and returns NULL. */
sqlite3 *rows_open(const char *command, const char *path);
/* The same choice of a file, not opened. */
const char *rows_path(const char *path);
/* A statement, or NULL with the error printed. */
sqlite3_stmt *rows_prepare(const char *command, sqlite3 *sql, const char *text);
/* "90s", "30m", "24h", "7d" → milliseconds; prints what is wrong on stderr. NULL gives 0. */
bool rows_since(const char *command, const char *text, int64_t *ms);

#endif
