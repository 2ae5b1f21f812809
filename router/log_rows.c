/* Rows into the tables: one by one, and a node's own several at a time, which costs a row a fifth less. */
#include "router/log_store.h"

#include <string.h>

enum { PROMPT_BYTES_MAX = 1 << 20 }; /* of a prompt or an answer that is kept */

/* ---- one by one ---- */

static void bind_origin(sqlite3_stmt *st, int64_t id, struct store_origin origin)
{
    (void)sqlite3_bind_int64(st, 1, id);
    if (origin.origin == 0) {
        (void)sqlite3_bind_null(st, 2);
        (void)sqlite3_bind_null(st, 3);
    } else {
        (void)sqlite3_bind_int64(st, 2, origin.origin);
        (void)sqlite3_bind_int64(st, 3, origin.row);
    }
}

static int add_row(struct store *store, enum store_statement which, struct store_origin origin,
                   const struct log_value *values, int width, bool *stored)
{
    *stored = false;
    sqlite3_stmt *st = store_statement(store, which);
    if (!st) return store->last_code;
    bind_origin(st, store->next_id, origin);
    store_bind(st, 4, values, width);
    int rc = store_run(store, st);
    if (rc == SQLITE_OK) *stored = sqlite3_changes(store->sql) > 0;
    return rc;
}

static int add_hops(struct store *store, int64_t decision, const struct store_decision *d)
{
    for (int i = 0; i < d->hop_count; i++) {
        sqlite3_stmt *st = store_statement(store, STORE_HOP);
        if (!st) return store->last_code;
        (void)sqlite3_bind_int64(st, 1, decision);
        store_bind(st, 2, d->hops[i], HOP_WIDTH);
        int rc = store_run(store, st);
        if (rc != SQLITE_OK) return rc;
    }
    return SQLITE_OK;
}

static int add_sketch(struct store *store, int64_t decision, const unsigned char *sketch, size_t len)
{
    sqlite3_stmt *st = store_statement(store, STORE_SKETCH);
    if (!st) return store->last_code;
    (void)sqlite3_bind_int64(st, 1, decision);
    (void)sqlite3_bind_blob(st, 2, sketch, (int)len, SQLITE_STATIC);
    return store_run(store, st);
}

static void bind_long_text(sqlite3_stmt *st, int at, const char *text)
{
    (void)sqlite3_bind_text(st, at, text, text ? (int)strnlen(text, PROMPT_BYTES_MAX) : 0, SQLITE_STATIC);
}

static int add_prompt(struct store *store, int64_t decision, const struct store_decision *d)
{
    if (!store->store_prompts || (!d->prompt && !d->answer)) return SQLITE_OK;
    sqlite3_stmt *st = store_statement(store, STORE_PROMPT);
    if (!st) return store->last_code;
    (void)sqlite3_bind_int64(st, 1, decision);
    bind_long_text(st, 2, d->prompt);
    bind_long_text(st, 3, d->answer);
    return store_run(store, st);
}

int store_add_decision(struct store *store, struct store_origin origin, const struct store_decision *decision,
                       bool *stored)
{
    int64_t id = store->next_id;
    int rc = add_row(store, STORE_DECISION, origin, decision->values, DECISION_WIDTH, stored);
    if (rc != SQLITE_OK || !*stored) return rc;
    store->next_id++;
    rc = add_hops(store, id, decision);
    if (rc == SQLITE_OK && decision->sketch) rc = add_sketch(store, id, decision->sketch, decision->sketch_len);
    if (rc == SQLITE_OK) rc = add_prompt(store, id, decision);
    if (rc == SQLITE_OK) rc = rollup_add(store->rollup, decision->values);
    return rc;
}

int store_add_label(struct store *store, struct store_origin origin, const struct log_value values[LABEL_WIDTH],
                    bool *stored)
{
    int rc = add_row(store, STORE_LABEL, origin, values, LABEL_WIDTH, stored);
    if (rc == SQLITE_OK && *stored) store->next_id++;
    return rc;
}

/* ---- together ---- */

static bool same(const struct store_bound *bound, const struct log_value *v)
{
    if (bound->kind != (int)v->kind + 1) return false;
    switch (v->kind) {
    case VALUE_NULL: return true;
    case VALUE_INTEGER: return bound->integer == v->integer;
    case VALUE_REAL: return memcmp(&bound->real, &v->real, sizeof v->real) == 0;
    default: return bound->len == v->len && memcmp(bound->bytes, v->bytes, v->len) == 0;
    }
}

/* The value as it is to be bound: a copy that stays where it is, unless it is too long for that. */
static struct log_value keep(struct store_bound *bound, const struct log_value *v)
{
    struct log_value kept = *v;
    bool bytes = v->kind == VALUE_TEXT || v->kind == VALUE_BLOB;
    bound->kind = (int)v->kind + 1;
    if (!bytes) {
        bound->integer = v->integer; /* or real */
    } else if (v->len <= sizeof bound->bytes) {
        memcpy(bound->bytes, v->bytes, v->len);
        bound->len = v->len;
        kept.bytes = bound->bytes;
    } else {
        bound->kind = 0;
    }
    return kept;
}

/* Most columns hold what they held eight rows ago, and need not be bound again. */
static void bind_changed(sqlite3_stmt *st, int first, const struct log_value *values, int count, struct store_bound *bound)
{
    for (int i = 0; i < count; i++) {
        if (same(&bound[i], &values[i])) continue;
        struct log_value kept = keep(&bound[i], &values[i]);
        store_bind(st, first + i, &kept, 1);
    }
}

static int insert_decisions(struct store *store)
{
    struct store_together *t = &store->together;
    sqlite3_stmt *st = store_statement(store, STORE_DECISIONS);
    for (int i = 0; st && i < STORE_TOGETHER; i++) {
        int first = i * (DECISION_WIDTH + 1) + 1;
        (void)sqlite3_bind_int64(st, first, t->row[i].id);
        bind_changed(st, first + 1, t->row[i].values, DECISION_WIDTH, t->decision[i]);
    }
    return store_run(store, st);
}

static int insert_hops(struct store *store)
{
    struct store_together *t = &store->together;
    sqlite3_stmt *st = store_statement(store, STORE_HOPS);
    for (int i = 0; st && i < STORE_TOGETHER; i++) {
        int first = i * (HOP_WIDTH + 1) + 1;
        (void)sqlite3_bind_int64(st, first, t->row[i].id);
        bind_changed(st, first + 1, t->row[i].hops[0], HOP_WIDTH, t->hop[i]);
    }
    return store_run(store, st);
}

static int insert_sketches(struct store *store)
{
    struct store_together *t = &store->together;
    sqlite3_stmt *st = store_statement(store, STORE_SKETCHES);
    for (int i = 0; st && i < STORE_TOGETHER; i++) {
        (void)sqlite3_bind_int64(st, 2 * i + 1, t->row[i].id);
        (void)sqlite3_bind_blob(st, 2 * i + 2, t->row[i].decision.sketch, (int)t->row[i].decision.sketch_len, SQLITE_STATIC);
    }
    return store_run(store, st);
}

static int insert_row(struct store *store, struct store_row *row)
{
    bool stored;
    int64_t next = store->next_id;
    row->decision.values = row->values;
    row->decision.hops = row->hops;
    store->next_id = row->id;
    int rc = store_add_decision(store, (struct store_origin){0, 0}, &row->decision, &stored);
    store->next_id = next;
    return rc;
}

/* Eight rows with one hop and a sketch each, as most have: three statements. */
static int insert_full(struct store *store)
{
    struct store_together *t = &store->together;
    bool hops = true, sketches = true;
    for (int i = 0; i < STORE_TOGETHER; i++) {
        t->row[i].decision.hops = t->row[i].hops;
        hops = hops && t->row[i].decision.hop_count == 1;
        sketches = sketches && t->row[i].decision.sketch;
    }
    int rc = insert_decisions(store);
    if (rc == SQLITE_OK && hops) rc = insert_hops(store);
    if (rc == SQLITE_OK && sketches) rc = insert_sketches(store);
    for (int i = 0; i < STORE_TOGETHER && rc == SQLITE_OK; i++) {
        const struct store_row *row = &t->row[i];
        if (!hops) rc = add_hops(store, row->id, &row->decision);
        if (rc == SQLITE_OK && !sketches && row->decision.sketch)
            rc = add_sketch(store, row->id, row->decision.sketch, row->decision.sketch_len);
        if (rc == SQLITE_OK) rc = add_prompt(store, row->id, &row->decision);
        if (rc == SQLITE_OK) rc = rollup_add(store->rollup, row->values);
    }
    return rc;
}

struct store_row *store_together_next(struct store *store)
{
    struct store_row *row = &store->together.row[store->together.count];
    row->decision = (struct store_decision){0};
    return row;
}

int store_together_insert(struct store *store)
{
    struct store_together *t = &store->together;
    int rc = SQLITE_OK, count = t->count;
    t->count = 0;
    if (count == STORE_TOGETHER) return insert_full(store);
    for (int i = 0; i < count && rc == SQLITE_OK; i++) rc = insert_row(store, &t->row[i]);
    return rc;
}

int store_together_add(struct store *store)
{
    struct store_together *t = &store->together;
    struct store_row *row = &t->row[t->count];
    row->id = store->next_id++;
    if (store->one_by_one) return insert_row(store, row);
    return ++t->count == STORE_TOGETHER ? store_together_insert(store) : SQLITE_OK;
}
