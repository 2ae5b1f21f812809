/* Hourly sums, gathered in memory over a batch and added to the database at its end. Inside the room only. */
#ifndef RUNG_ROUTER_LOG_ROLLUP_H
#define RUNG_ROUTER_LOG_ROLLUP_H

#include "router/log_columns.h"

#include <sqlite3.h>

struct rollup;

struct rollup *rollup_new(void); /* NULL: out of memory */
void rollup_free(struct rollup *rollup);
void rollup_clear(struct rollup *rollup); /* forget what was gathered */
/* Compile the statements for this connection; an SQLite result code. */
int rollup_prepare(struct rollup *rollup, sqlite3 *sql);
/* Finalize them. */
void rollup_unprepare(struct rollup *rollup);
/* Count one decision; writes to the database only when the memory for a batch is used up. SQLite result code. */
int rollup_add(struct rollup *rollup, const struct log_value values[DECISION_WIDTH]);
/* Add what was gathered to the tables and forget it. SQLite result code. */
int rollup_write(struct rollup *rollup);

/* Histogram buckets: upper bounds in microseconds, eight an octave from 100 µs to over a day. */
enum { LATENCY_BUCKETS = 240 };
int64_t latency_bucket_us(double ms); /* the upper bound of the bucket that holds it */

#endif
