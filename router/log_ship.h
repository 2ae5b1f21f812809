/* Batches of log rows on their way up: the layout, collecting and storing them. Inside the room only.
 *
 * A batch is one MessagePack array, layout version 1:
 *
 *   [1, last_id, [[node, log_id], …], [row, …]]
 *   row:      [kind, origin, number, [column, …], [[hop column, …], …], sketch]
 *   kind:     0 a decision, 1 a label (which ends after its columns)
 *   origin:   an index into the list of nodes; the first is the sender
 *   number:   the row's number in that node's log; (node, log_id, number) names a row for ever
 *   columns:  in the order of log_columns.h; a later rung may send more, which are passed over, an earlier one fewer,
 *             which are then empty
 */
#ifndef RUNG_ROUTER_LOG_SHIP_H
#define RUNG_ROUTER_LOG_SHIP_H

#include "router/log_store.h"

enum { SHIP_LAYOUT = 1, SHIP_ROWS_MAX = 16384, SHIP_ORIGINS_MAX = 256, SHIP_BYTES_MAX = 8 << 20 };

/* The rows after the acknowledged one, as many as max_bytes hold, one at least. `out` is empty when there is none.
 * SQLite result code. */
int ship_collect(struct store *store, size_t max_bytes, struct buf *out, int64_t *last_id);

struct ship_header {
    char node[LOG_WORD];
    unsigned char log_id[LOG_ID_BYTES];
    int64_t last_id;
    int rows;
};
/* Reads the head of a batch, not its rows. Errors: ERR_CORRUPT, ERR_VERSION. */
ERR_CHECKED enum err_code ship_header(const void *data, size_t len, struct ship_header *out, struct err *e);
/* Every row of it. Errors: ERR_CORRUPT. */
ERR_CHECKED enum err_code ship_check(const void *data, size_t len, struct err *e);
/* Inside a transaction: stores a batch that ship_check found good; `stored` counts the rows that are new. SQLite
 * result code. */
int ship_store(struct store *store, const void *data, size_t len, int64_t now_ms, int64_t *stored);

#endif
