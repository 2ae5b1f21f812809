/* What outlives a request: the table itself, tenants' spending of the day, the tier of each conversation. */
#include "node/idempotency.h"
#include "node/request.h"

#include "base/clock.h"
#include "base/word.h"

#include <stdlib.h>
#include <string.h>

enum err_code request_table_new(struct node *node, struct err *e)
{
    struct request_table *t = calloc(1, sizeof *t);
    if (!t) return err_set(e, ERR_MEMORY, "no memory for the request table");
    t->bucket_count = 1024;
    while (t->bucket_count < node->config->requests_max && t->bucket_count < 65536) t->bucket_count *= 2;
    t->buckets = calloc((size_t)t->bucket_count, sizeof *t->buckets);
    t->conversations = calloc(CONVERSATIONS_MAX, sizeof *t->conversations);
    t->tenants = calloc(TENANTS_MAX, sizeof *t->tenants);
    t->wait_end = &t->wait_first;
    node->requests = t;
    if (t->buckets && t->conversations && t->tenants) return idempotency_new(&t->keys, node, e);
    request_table_free(node);
    return err_set(e, ERR_MEMORY, "no memory for the request table");
}

void request_table_free(struct node *node)
{
    struct request_table *t = node->requests;
    if (!t) return;
    while (t->all) {
        struct request *r = t->all;
        request_fail(r, ERR_DRAINING, "this node has stopped");
    }
    loop_timer_stop(node->loop, &t->wake_timer);
    idempotency_free(t->keys);
    for (struct request *r = t->spare, *next; r; r = next) {
        next = r->hash_next;
        free(r);
    }
    free(t->buckets);
    free(t->conversations);
    free(t->tenants);
    free(t);
    node->requests = NULL;
}

int request_count(const struct node *node)
{
    return node->requests ? node->requests->count : 0;
}

struct request *request_find(const struct request_table *table, uint64_t handle)
{
    struct request *r = table->buckets[handle % (uint64_t)table->bucket_count];
    while (r && r->handle != handle) r = r->hash_next;
    return r;
}

int64_t request_retry_after_ms(const struct node *node)
{
    const struct request_table *t = node->requests;
    double ahead = t->waiting + 1;
    double ms = t->ended_per_s > 0 ? ahead / t->ended_per_s * 1000 : 1000;
    if (ms < 50) return 50;
    return ms > 30000 ? 30000 : (int64_t)ms;
}

static size_t slot(const char *name, size_t count)
{
    uint64_t h = 0xcbf29ce484222325ull;
    for (const unsigned char *p = (const unsigned char *)name; *p; p++) h = (h ^ *p) * 0x100000001b3ull;
    return (size_t)((h ^ (h >> 32)) % count);
}

double tenant_budget_left(struct request_table *table, const struct policy *policy, const char *tenant, int64_t wall_ms)
{
    if (policy->budget_usd_per_day <= 0) return -1;
    const char *name = tenant ? tenant : "";
    size_t i = slot(name, TENANTS_MAX);
    bool today = table->tenants[i].day == wall_ms / 86400000 && strcmp(table->tenants[i].name, name) == 0;
    double left = policy->budget_usd_per_day - (today ? table->tenants[i].usd : 0);
    return left > 0 ? left : 0;
}

void tenant_spent(struct request_table *table, const char *tenant, int64_t wall_ms, double usd)
{
    const char *name = tenant ? tenant : "";
    size_t i = slot(name, TENANTS_MAX);
    bool same = table->tenants[i].day == wall_ms / 86400000 && strcmp(table->tenants[i].name, name) == 0;
    if (!same) {
        word_copy(table->tenants[i].name, sizeof table->tenants[i].name, name);
        table->tenants[i].day = wall_ms / 86400000;
        table->tenants[i].usd = 0;
    }
    table->tenants[i].usd += usd;
}

enum tier conversation_tier(const struct request_table *table, const char *conversation)
{
    if (!conversation || !conversation[0]) return TIER_NONE;
    size_t i = slot(conversation, CONVERSATIONS_MAX);
    return strcmp(table->conversations[i].name, conversation) == 0 ? table->conversations[i].tier : TIER_NONE;
}

void conversation_note(struct request_table *table, const char *conversation, enum tier tier)
{
    if (!conversation || !conversation[0] || tier == TIER_NONE) return;
    size_t i = slot(conversation, CONVERSATIONS_MAX);
    word_copy(table->conversations[i].name, sizeof table->conversations[i].name, conversation);
    table->conversations[i].tier = tier;
}
