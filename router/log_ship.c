#include "router/log_ship.h"

#include "router/log_pack.h"

#include <math.h>
#include <string.h>

enum { KIND_DECISION, KIND_LABEL, COLUMNS_MAX = 256, SKIP_DEPTH = 4 };

/* ---- collecting ---- */

struct collect {
    struct store *store;
    size_t max_bytes;
    struct buf rows, row;
    uint32_t count;
    int origin_count;
    int64_t origins[SHIP_ORIGINS_MAX]; /* [0] is 0: ourselves */
    int64_t last_id;
};

static struct log_value column(sqlite3_stmt *st, int at)
{
    struct log_value value = {.kind = VALUE_NULL};
    switch (sqlite3_column_type(st, at)) {
    case SQLITE_INTEGER: value.kind = VALUE_INTEGER; value.integer = sqlite3_column_int64(st, at); break;
    case SQLITE_FLOAT: value.kind = VALUE_REAL; value.real = sqlite3_column_double(st, at); break;
    case SQLITE_TEXT: value.kind = VALUE_TEXT; value.bytes = sqlite3_column_text(st, at); break;
    case SQLITE_BLOB: value.kind = VALUE_BLOB; value.bytes = sqlite3_column_blob(st, at); break;
    default: break;
    }
    if (value.kind == VALUE_TEXT || value.kind == VALUE_BLOB) value.len = (size_t)sqlite3_column_bytes(st, at);
    if (value.kind >= VALUE_TEXT && !value.bytes) value = (struct log_value){.kind = VALUE_NULL}; /* out of memory */
    return value;
}

static void pack_columns(struct buf *b, sqlite3_stmt *st, int first, int width, int without)
{
    pack_array(b, (uint32_t)width);
    for (int i = 0; i < width; i++) {
        struct log_value value = column(st, first + i);
        if (i == without) pack_nil(b);
        else pack_value(b, &value);
    }
}

/* Where a node stands in the batch's list; -1: the list is full. */
static int origin_index(struct collect *c, int64_t origin)
{
    for (int i = 0; i < c->origin_count; i++)
        if (c->origins[i] == origin) return i;
    if (c->origin_count == SHIP_ORIGINS_MAX) return -1;
    c->origins[c->origin_count] = origin;
    return c->origin_count++;
}

static bool pack_head(struct collect *c, sqlite3_stmt *st, int kind)
{
    bool own = sqlite3_column_type(st, 1) == SQLITE_NULL;
    int index = origin_index(c, own ? 0 : sqlite3_column_int64(st, 1));
    if (index < 0) return false;
    buf_clear(&c->row);
    pack_array(&c->row, kind == KIND_DECISION ? 6 : 4);
    pack_integer(&c->row, kind);
    pack_integer(&c->row, index);
    pack_integer(&c->row, sqlite3_column_int64(st, own ? 0 : 2));
    return true;
}

static int pack_hops(struct collect *c, int64_t decision)
{
    struct buf hops = BUF_INIT(c->row.max);
    uint32_t count = 0;
    sqlite3_stmt *st = store_statement(c->store, STORE_SHIP_HOPS);
    int rc = st ? sqlite3_bind_int64(st, 1, decision) : c->store->last_code;
    while (st && (rc = sqlite3_step(st)) == SQLITE_ROW && count < HOPS_MAX) {
        pack_columns(&hops, st, 1, HOP_WIDTH, -1);
        count++;
    }
    if (st) (void)sqlite3_reset(st);
    pack_array(&c->row, count);
    (void)buf_add(&c->row, hops.data, hops.len);
    bool ok = buf_ok(&hops);
    buf_release(&hops);
    if (rc != SQLITE_DONE && rc != SQLITE_ROW) return store_fail(c->store, rc);
    return ok ? SQLITE_OK : SQLITE_NOMEM;
}

/* One decision with its hops; a request that is private to the device goes without hash and sketch. */
static int pack_decision(struct collect *c, sqlite3_stmt *st, bool *fits)
{
    *fits = pack_head(c, st, KIND_DECISION);
    if (!*fits) return SQLITE_OK;
    bool private = sqlite3_column_int(st, 3 + DECISION_device_private) != 0;
    pack_columns(&c->row, st, 3, DECISION_WIDTH, private ? DECISION_prompt_hash : -1);
    int rc = pack_hops(c, sqlite3_column_int64(st, 0));
    struct log_value sketch = column(st, 3 + DECISION_WIDTH);
    if (private) pack_nil(&c->row);
    else pack_value(&c->row, &sketch);
    return rc;
}

static int pack_label(struct collect *c, sqlite3_stmt *st, bool *fits)
{
    *fits = pack_head(c, st, KIND_LABEL);
    if (*fits) pack_columns(&c->row, st, 3, LABEL_WIDTH, -1);
    return SQLITE_OK;
}

/* Takes the row in c->row into the batch if it has room for it. */
static int row_take(struct collect *c, int64_t id, bool *fits)
{
    if (!buf_ok(&c->row)) return SQLITE_NOMEM;
    *fits = c->count == 0 || (c->rows.len + c->row.len <= c->max_bytes && c->count < SHIP_ROWS_MAX);
    if (!*fits) return SQLITE_OK;
    (void)buf_add(&c->rows, c->row.data, c->row.len);
    c->count++;
    c->last_id = id;
    return buf_ok(&c->rows) ? SQLITE_OK : SQLITE_NOMEM;
}

/* Decisions and labels in the order of their numbers, as two tapes merged. */
static int collect_rows(struct collect *c, sqlite3_stmt *decisions, sqlite3_stmt *labels)
{
    int rc, d = sqlite3_step(decisions), l = sqlite3_step(labels);
    for (;;) {
        if (d != SQLITE_ROW && d != SQLITE_DONE) return store_fail(c->store, d);
        if (l != SQLITE_ROW && l != SQLITE_DONE) return store_fail(c->store, l);
        if (d == SQLITE_DONE && l == SQLITE_DONE) return SQLITE_OK;
        bool decision =
            l == SQLITE_DONE || (d == SQLITE_ROW && sqlite3_column_int64(decisions, 0) < sqlite3_column_int64(labels, 0));
        sqlite3_stmt *st = decision ? decisions : labels;
        bool fits;
        rc = decision ? pack_decision(c, st, &fits) : pack_label(c, st, &fits);
        if (rc == SQLITE_OK && fits) rc = row_take(c, sqlite3_column_int64(st, 0), &fits);
        if (rc != SQLITE_OK || !fits) return rc;
        if (decision) d = sqlite3_step(decisions);
        else l = sqlite3_step(labels);
    }
}

static int pack_origins(struct collect *c, struct buf *out)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(c->store->sql, "SELECT node, log FROM origins WHERE id = ?1", -1, &st, NULL);
    if (rc != SQLITE_OK) return store_fail(c->store, rc);
    pack_array(out, (uint32_t)c->origin_count);
    pack_array(out, 2);
    pack_text(out, c->store->node, strnlen(c->store->node, LOG_WORD - 1));
    pack_bytes(out, c->store->log_id, LOG_ID_BYTES);
    for (int i = 1; i < c->origin_count; i++) {
        (void)sqlite3_bind_int64(st, 1, c->origins[i]);
        rc = sqlite3_step(st);
        if (rc != SQLITE_ROW) break;
        struct log_value node = column(st, 0), log_id = column(st, 1);
        pack_array(out, 2);
        pack_value(out, &node);
        pack_value(out, &log_id);
        rc = sqlite3_reset(st);
    }
    if (rc != SQLITE_OK) (void)store_fail(c->store, rc == SQLITE_DONE ? SQLITE_INTERNAL : rc);
    (void)sqlite3_finalize(st);
    return rc;
}

static int collect_close(struct collect *c, struct buf *out)
{
    buf_clear(out);
    if (c->count == 0) return SQLITE_OK;
    pack_array(out, 4);
    pack_integer(out, SHIP_LAYOUT);
    pack_integer(out, c->last_id);
    int rc = pack_origins(c, out);
    pack_array(out, c->count);
    (void)buf_add(out, c->rows.data, c->rows.len);
    if (rc == SQLITE_OK && !buf_ok(out)) rc = SQLITE_NOMEM;
    if (rc != SQLITE_OK) buf_clear(out);
    return rc;
}

int ship_collect(struct store *store, size_t max_bytes, struct buf *out, int64_t *last_id)
{
    struct collect c = {.store = store, .max_bytes = max_bytes < SHIP_BYTES_MAX / 2 ? max_bytes : SHIP_BYTES_MAX / 2};
    c.last_id = store->shipped_id;
    c.origin_count = 1; /* we come first, whatever the rows */
    buf_init(&c.rows, SHIP_BYTES_MAX);
    buf_init(&c.row, 1 << 20);
    sqlite3_stmt *decisions = store_statement(store, STORE_SHIP_DECISIONS);
    sqlite3_stmt *labels = decisions ? store_statement(store, STORE_SHIP_LABELS) : NULL;
    int rc = store->last_code;
    if (labels) {
        (void)sqlite3_bind_int64(decisions, 1, store->shipped_id);
        (void)sqlite3_bind_int64(labels, 1, store->shipped_id);
        rc = collect_rows(&c, decisions, labels);
        (void)sqlite3_reset(decisions);
        (void)sqlite3_reset(labels);
    }
    if (rc == SQLITE_OK) rc = collect_close(&c, out);
    *last_id = c.last_id;
    buf_release(&c.rows);
    buf_release(&c.row);
    return rc;
}

/* ---- reading ---- */

static bool tier_word(const struct log_value *value)
{
    char word[9] = {0};
    if (value->len >= sizeof word) return false;
    memcpy(word, value->bytes, value->len);
    return strcmp(word, "none") == 0 || tier_from_name(word) != TIER_NONE;
}

static bool is_tier(const struct log_column *column)
{
    return strcmp(column->name, "tier") == 0 || strcmp(column->name, "first_tier") == 0 ||
           strcmp(column->name, "node_tier") == 0;
}

/* Whether a value may stand in a column; an integer in a real column is made real. */
static bool value_fits(const struct log_column *column, struct log_value *value)
{
    switch (column->type) {
    case COLUMN_INTEGER:
        return value->kind == VALUE_INTEGER && value->integer >= 0 && value->integer < (int64_t)1 << column->max;
    case COLUMN_REAL:
        if (value->kind == VALUE_INTEGER)
            *value = (struct log_value){.kind = VALUE_REAL, .real = (double)value->integer};
        return value->kind == VALUE_NULL || (value->kind == VALUE_REAL && fabs(value->real) <= 1e12);
    case COLUMN_TEXT:
        return value->kind == VALUE_TEXT && value->len <= (size_t)column->max &&
               !memchr(value->bytes, 0, value->len) && (!is_tier(column) || tier_word(value));
    case COLUMN_BLOB:
        return value->kind == VALUE_NULL || (value->kind == VALUE_BLOB && value->len <= (size_t)column->max);
    }
    return false;
}

static struct log_value value_empty(const struct log_column *column)
{
    if (column->type == COLUMN_INTEGER) return (struct log_value){.kind = VALUE_INTEGER};
    if (column->type == COLUMN_TEXT)
        return is_tier(column) ? (struct log_value){.kind = VALUE_TEXT, .bytes = "none", .len = 4}
                               : (struct log_value){.kind = VALUE_TEXT, .bytes = ""};
    return (struct log_value){.kind = VALUE_NULL};
}

static void read_columns(struct unpack *u, const struct log_table *table, struct log_value *out)
{
    uint32_t count = unpack_array(u, COLUMNS_MAX);
    for (int i = 0; i < table->width; i++) {
        if (i >= (int)count) {
            out[i] = value_empty(&table->columns[i]);
            continue;
        }
        out[i] = unpack_value(u);
        if (!u->bad && !value_fits(&table->columns[i], &out[i])) u->bad = true;
    }
    for (uint32_t i = (uint32_t)table->width; i < count && !u->bad; i++) unpack_skip(u, SKIP_DEPTH);
}

struct ship_row {
    int kind;
    int64_t origin, number;
    struct log_value values[DECISION_WIDTH]; /* a label's are the first of them */
    struct log_value hops[HOPS_MAX][HOP_WIDTH];
    int hop_count;
    const unsigned char *sketch;
    size_t sketch_len;
};

static void read_decision(struct unpack *u, struct ship_row *row, uint32_t *fields)
{
    read_columns(u, &LOG_DECISIONS, row->values);
    if (row->values[DECISION_request].len == 0 || row->values[DECISION_node].len == 0) u->bad = true;
    row->hop_count = *fields > 4 ? (int)unpack_array(u, HOPS_MAX) : 0;
    for (int i = 0; i < row->hop_count && !u->bad; i++) read_columns(u, &LOG_HOPS, row->hops[i]);
    struct log_value sketch = {.kind = VALUE_NULL};
    if (*fields > 5) sketch = unpack_value(u);
    if (sketch.kind != VALUE_NULL && (sketch.kind != VALUE_BLOB || sketch.len > ROUTER_SKETCH_BYTES)) /* an older node's are shorter */
        u->bad = true;
    row->sketch = sketch.kind == VALUE_BLOB ? sketch.bytes : NULL;
    row->sketch_len = sketch.len;
    *fields = *fields > 6 ? *fields - 6 : 0;
}

static void read_label(struct unpack *u, struct ship_row *row, uint32_t *fields)
{
    read_columns(u, &LOG_LABELS, row->values);
    const struct log_value *value = &row->values[LABEL_value];
    if (value->kind != VALUE_REAL || value->real < 0 || value->real > 1 || row->values[LABEL_request].len == 0)
        u->bad = true;
    *fields -= 4;
}

static void read_row(struct unpack *u, int origins, struct ship_row *row)
{
    uint32_t fields = unpack_array(u, COLUMNS_MAX);
    if (fields < 4) u->bad = true;
    row->kind = (int)(unpack_integer(u) & 0xff);
    row->origin = unpack_integer(u);
    row->number = unpack_integer(u);
    if (u->bad || row->origin < 0 || row->origin >= origins || row->number < 1) {
        u->bad = true;
        return;
    }
    if (row->kind == KIND_DECISION) read_decision(u, row, &fields);
    else if (row->kind == KIND_LABEL) read_label(u, row, &fields);
    else u->bad = true; /* a new kind of row wants a new layout */
    for (; fields > 0 && !u->bad; fields--) unpack_skip(u, SKIP_DEPTH);
}

struct ship_origin {
    struct log_value node, log_id;
};

static void read_origin(struct unpack *u, struct ship_origin *out)
{
    if (unpack_array(u, 2) != 2) u->bad = true;
    out->node = unpack_value(u);
    out->log_id = unpack_value(u);
    if (u->bad || out->node.kind != VALUE_TEXT || out->node.len == 0 || out->node.len >= LOG_WORD ||
        memchr(out->node.bytes, 0, out->node.len) || out->log_id.kind != VALUE_BLOB ||
        out->log_id.len != LOG_ID_BYTES)
        u->bad = true;
}

/* The head of a batch, with the reader left at its first row. */
static uint32_t read_head(struct unpack *u, int64_t *layout, int64_t *last_id, struct ship_origin *origins,
                          int *origin_count)
{
    if (unpack_array(u, 16) < 4) u->bad = true;
    *layout = unpack_integer(u);
    if (*layout != SHIP_LAYOUT) return 0;
    *last_id = unpack_integer(u);
    *origin_count = (int)unpack_array(u, SHIP_ORIGINS_MAX);
    if (*origin_count < 1 || *last_id < 1) u->bad = true;
    for (int i = 0; i < *origin_count && !u->bad; i++) read_origin(u, &origins[i]);
    return unpack_array(u, SHIP_ROWS_MAX);
}

enum err_code ship_header(const void *data, size_t len, struct ship_header *out, struct err *e)
{
    struct unpack u = {data, (const unsigned char *)data + len, len > SHIP_BYTES_MAX};
    struct ship_origin origins[SHIP_ORIGINS_MAX];
    int64_t layout = 0, last_id = 0;
    int origin_count = 0;
    uint32_t rows = read_head(&u, &layout, &last_id, origins, &origin_count);
    if (!u.bad && layout != SHIP_LAYOUT)
        return err_set(e, ERR_VERSION, "log batch of layout %lld; this rung reads %d", (long long)layout, SHIP_LAYOUT);
    if (u.bad)
        return err_set(e, ERR_CORRUPT, "log batch of %zu bytes is damaged at byte %zu (its head)", len,
                       (size_t)(u.at - (const unsigned char *)data));
    memset(out, 0, sizeof *out);
    memcpy(out->node, origins[0].node.bytes, origins[0].node.len);
    memcpy(out->log_id, origins[0].log_id.bytes, LOG_ID_BYTES);
    out->last_id = last_id;
    out->rows = (int)rows;
    return ERR_OK;
}

enum err_code ship_check(const void *data, size_t len, struct err *e)
{
    struct ship_header header;
    enum err_code code = ship_header(data, len, &header, e);
    if (code != ERR_OK) return code;
    struct unpack u = {data, (const unsigned char *)data + len, false};
    struct ship_origin origins[SHIP_ORIGINS_MAX];
    struct ship_row row;
    int64_t layout, last_id;
    int origin_count, at = 0;
    uint32_t rows = read_head(&u, &layout, &last_id, origins, &origin_count);
    for (; at < (int)rows && !u.bad; at++) read_row(&u, origin_count, &row);
    if (u.bad)
        return err_set(e, ERR_CORRUPT, "log batch from %s is damaged at byte %zu of %zu (row %d of %u)", header.node,
                       (size_t)(u.at - (const unsigned char *)data), len, at, rows);
    if (u.at != u.end)
        return err_set(e, ERR_CORRUPT, "log batch from %s has %zu bytes after its end", header.node,
                       (size_t)(u.end - u.at));
    return ERR_OK;
}

static int store_row(struct store *store, struct store_origin origin, const struct ship_row *row, bool *stored)
{
    if (row->kind == KIND_LABEL) return store_add_label(store, origin, row->values, stored);
    struct store_decision decision = {.values = row->values, .hops = row->hops, .hop_count = row->hop_count,
                                      .sketch = row->sketch, .sketch_len = row->sketch_len};
    return store_add_decision(store, origin, &decision, stored);
}

int ship_store(struct store *store, const void *data, size_t len, int64_t now_ms, int64_t *stored)
{
    struct unpack u = {data, (const unsigned char *)data + len, false};
    struct ship_origin origins[SHIP_ORIGINS_MAX];
    int64_t ids[SHIP_ORIGINS_MAX], last_rows[SHIP_ORIGINS_MAX] = {0}, layout, last_id;
    int origin_count, rc = SQLITE_OK;
    uint32_t rows = read_head(&u, &layout, &last_id, origins, &origin_count);
    *stored = 0;
    for (int i = 0; i < origin_count && rc == SQLITE_OK; i++)
        rc = store_origin(store, origins[i].node.bytes, origins[i].node.len, origins[i].log_id.bytes, &ids[i]);
    for (uint32_t i = 0; i < rows && rc == SQLITE_OK; i++) {
        struct ship_row row;
        bool fresh = false;
        read_row(&u, origin_count, &row);
        if (u.bad) return SQLITE_INTERNAL; /* it was checked before */
        rc = store_row(store, (struct store_origin){ids[row.origin], row.number}, &row, &fresh);
        *stored += fresh;
        if (row.number > last_rows[row.origin]) last_rows[row.origin] = row.number;
    }
    for (int i = 0; i < origin_count && rc == SQLITE_OK; i++)
        rc = store_origin_seen(store, ids[i], last_rows[i], now_ms);
    return rc;
}
