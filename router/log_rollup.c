#include "router/log_rollup.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HOUR_MS = 3600 * 1000, DAY_MS = 24 * HOUR_MS, SLOTS = 1024, SLOTS_USED_MAX = 768, KEY_BYTES = 320 };

/* The tables that are kept. */
enum table { HOURLY, HOURLY_LATENCY, DAILY_LATENCY, TABLES };

enum { SUM_REQUESTS, SUM_ESCALATED, SUM_FAILED_OVER, SUM_DEGRADED, SUM_EXPLORED, SUM_PROMPT, SUM_CACHED,
       SUM_COMPLETION, SUM_REASONING, SUMS };

/* One row to be. The key is the row's TEXT columns one after the other, told apart by their lengths. */
struct slot {
    bool used;
    enum table table;
    int64_t period_ms, from_below, last; /* last: the policy's version, or the bucket's bound */
    unsigned char len[6];              /* node, tier, model, reason, status, arm; a histogram has the first two */
    int key_len;
    char key[KEY_BYTES];
    int64_t sum[SUMS];                 /* a histogram uses [0] for ttft and [1] for total */
    double price_usd, price_core_usd;
};

struct rollup {
    sqlite3_stmt *statement[TABLES];
    int used;
    struct slot slots[SLOTS];
};

static const char *const STATEMENTS[TABLES] = {
    [HOURLY] =
    "INSERT INTO hourly VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20) "
    "ON CONFLICT DO UPDATE SET requests = requests + excluded.requests, escalated = escalated + excluded.escalated, "
    "failed_over = failed_over + excluded.failed_over, degraded = degraded + excluded.degraded, "
    "explored = explored + excluded.explored, prompt_tokens = prompt_tokens + excluded.prompt_tokens, "
    "cached_tokens = cached_tokens + excluded.cached_tokens, "
    "completion_tokens = completion_tokens + excluded.completion_tokens, "
    "reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens, "
    "price_usd = price_usd + excluded.price_usd, price_core_usd = price_core_usd + excluded.price_core_usd",
    [HOURLY_LATENCY] = "INSERT INTO hourly_latency VALUES (?1,?2,?3,?4,?5,?6,?7) "
                       "ON CONFLICT DO UPDATE SET ttft = ttft + excluded.ttft, total = total + excluded.total",
    [DAILY_LATENCY] = "INSERT INTO daily_latency VALUES (?1,?2,?3,?4,?5,?6,?7) "
                      "ON CONFLICT DO UPDATE SET ttft = ttft + excluded.ttft, total = total + excluded.total",
};

struct rollup *rollup_new(void)
{
    return calloc(1, sizeof(struct rollup));
}

void rollup_free(struct rollup *rollup)
{
    free(rollup);
}

void rollup_clear(struct rollup *rollup)
{
    if (rollup->used == 0) return;
    for (int i = 0; i < SLOTS; i++) rollup->slots[i].used = false;
    rollup->used = 0;
}

int rollup_prepare(struct rollup *rollup, sqlite3 *sql)
{
    int rc = SQLITE_OK;
    for (int t = 0; t < TABLES && rc == SQLITE_OK; t++)
        rc = sqlite3_prepare_v3(sql, STATEMENTS[t], -1, SQLITE_PREPARE_PERSISTENT, &rollup->statement[t], NULL);
    return rc;
}

void rollup_unprepare(struct rollup *rollup)
{
    for (int t = 0; t < TABLES; t++) {
        (void)sqlite3_finalize(rollup->statement[t]);
        rollup->statement[t] = NULL;
    }
}

int64_t latency_bucket_us(double ms)
{
    double octaves = ms > 0.1 ? log2(ms * 10) : 0; /* above 100 µs */
    double step = ceil(octaves * 8 - 1e-9);
    if (!(step < LATENCY_BUCKETS - 1)) step = LATENCY_BUCKETS - 1;
    return (int64_t)llround(100 * exp2(step / 8));
}

static void key_add(struct slot *slot, int field, const struct log_value *value)
{
    size_t len = value->len < 64 ? value->len : 63;
    if (slot->key_len + (int)len > KEY_BYTES) len = 0; /* six columns of at most 63, 8, 63, 24, 31 and 15 bytes fit */
    memcpy(slot->key + slot->key_len, value->bytes, len);
    slot->len[field] = (unsigned char)len;
    slot->key_len += (int)len;
}

static bool slot_same(const struct slot *a, const struct slot *b)
{
    return a->table == b->table && a->period_ms == b->period_ms && a->from_below == b->from_below &&
           a->last == b->last && a->key_len == b->key_len && memcmp(a->len, b->len, sizeof a->len) == 0 &&
           memcmp(a->key, b->key, (size_t)a->key_len) == 0;
}

static uint64_t slot_hash(const struct slot *slot)
{
    uint64_t h = (uint64_t)slot->period_ms * 0x9e3779b97f4a7c15u + (uint64_t)slot->last + (uint64_t)slot->from_below +
                 77u * slot->table;
    int i = 0;
    for (; i + 8 <= slot->key_len; i += 8) {
        uint64_t word;
        memcpy(&word, slot->key + i, 8);
        h = (h ^ word) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
    }
    for (; i < slot->key_len; i++) h = (h ^ (unsigned char)slot->key[i]) * 0x100000001b3u;
    return h ^ (h >> 29);
}

/* The slot with this one's key, taken if it is new; there is always a free one. */
static struct slot *slot_find(struct rollup *rollup, const struct slot *key)
{
    size_t at = slot_hash(key) % SLOTS;
    while (rollup->slots[at].used && !slot_same(&rollup->slots[at], key)) at = (at + 1) % SLOTS;
    struct slot *slot = &rollup->slots[at];
    if (!slot->used) {
        *slot = *key;
        slot->used = true;
        rollup->used++;
    }
    return slot;
}

static void slot_begin(struct slot *slot, const struct log_value v[DECISION_WIDTH], enum table table)
{
    memset(slot, 0, offsetof(struct slot, key));
    memset(slot->sum, 0, sizeof slot->sum);
    slot->price_usd = slot->price_core_usd = 0;
    slot->table = table;
    slot->period_ms = v[DECISION_at_ms].integer - v[DECISION_at_ms].integer % (table == DAILY_LATENCY ? DAY_MS : HOUR_MS);
    slot->from_below = v[DECISION_from_below].integer != 0;
    key_add(slot, 0, &v[DECISION_node]);
    key_add(slot, 1, &v[DECISION_tier]);
}

static double real_or_0(const struct log_value *value)
{
    return value->kind == VALUE_REAL ? value->real : 0;
}

static void hourly_add(struct rollup *rollup, const struct log_value v[DECISION_WIDTH])
{
    struct slot key;
    slot_begin(&key, v, HOURLY);
    key_add(&key, 2, &v[DECISION_model]);
    key_add(&key, 3, &v[DECISION_reason]);
    key_add(&key, 4, &v[DECISION_status]);
    key_add(&key, 5, &v[DECISION_arm]);
    key.last = v[DECISION_policy].integer;
    struct slot *slot = slot_find(rollup, &key);
    slot->sum[SUM_REQUESTS]++;
    slot->sum[SUM_ESCALATED] += v[DECISION_escalated].integer != 0;
    slot->sum[SUM_FAILED_OVER] += v[DECISION_failed_over].integer != 0;
    slot->sum[SUM_DEGRADED] += v[DECISION_degraded].integer != 0;
    slot->sum[SUM_EXPLORED] += v[DECISION_explored].integer != 0;
    slot->sum[SUM_PROMPT] += v[DECISION_prompt_tokens].integer;
    slot->sum[SUM_CACHED] += v[DECISION_cached_tokens].integer;
    slot->sum[SUM_COMPLETION] += v[DECISION_completion_tokens].integer;
    slot->sum[SUM_REASONING] += v[DECISION_reasoning_tokens].integer;
    slot->price_usd += real_or_0(&v[DECISION_price_usd]);
    slot->price_core_usd += real_or_0(&v[DECISION_price_core_usd]);
}

static void latency_add(struct rollup *rollup, const struct log_value v[DECISION_WIDTH], const struct log_value *ms,
                        int which)
{
    if (ms->kind != VALUE_REAL) return;
    int64_t bucket_us = latency_bucket_us(ms->real);
    for (int table = HOURLY_LATENCY; table <= DAILY_LATENCY; table++) {
        struct slot key;
        slot_begin(&key, v, (enum table)table);
        key.last = bucket_us;
        slot_find(rollup, &key)->sum[which]++;
    }
}

int rollup_add(struct rollup *rollup, const struct log_value values[DECISION_WIDTH])
{
    if (rollup->used + 5 > SLOTS_USED_MAX) {
        int rc = rollup_write(rollup);
        if (rc != SQLITE_OK) return rc;
    }
    hourly_add(rollup, values);
    latency_add(rollup, values, &values[DECISION_ttft_ms], 0);
    latency_add(rollup, values, &values[DECISION_total_ms], 1);
    return SQLITE_OK;
}

static int slot_write(struct rollup *rollup, const struct slot *slot)
{
    sqlite3_stmt *st = rollup->statement[slot->table];
    bool histogram = slot->table != HOURLY;
    const char *text = slot->key;
    int at = 1;
    (void)sqlite3_bind_int64(st, at++, slot->period_ms);
    for (int i = 0; i < (histogram ? 2 : 6); i++) {
        if (i == 1) (void)sqlite3_bind_int64(st, at++, slot->from_below);
        (void)sqlite3_bind_text(st, at++, text, slot->len[i], SQLITE_STATIC);
        text += slot->len[i];
    }
    (void)sqlite3_bind_int64(st, at++, slot->last);
    for (int i = 0; i < (histogram ? 2 : SUMS); i++) (void)sqlite3_bind_int64(st, at++, slot->sum[i]);
    if (!histogram) {
        (void)sqlite3_bind_double(st, at++, slot->price_usd);
        (void)sqlite3_bind_double(st, at++, slot->price_core_usd);
    }
    int rc = sqlite3_step(st);
    (void)sqlite3_reset(st);
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

int rollup_write(struct rollup *rollup)
{
    for (int i = 0; rollup->used > 0 && i < SLOTS; i++) {
        if (!rollup->slots[i].used) continue;
        int rc = slot_write(rollup, &rollup->slots[i]);
        if (rc != SQLITE_OK) return rc;
    }
    rollup_clear(rollup);
    return SQLITE_OK;
}
