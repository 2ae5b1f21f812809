#include "node/peer_models.h"

#include <string.h>

enum { ARENA_MAX = 64 << 10 };

static bool word_valid(const char *word)
{
    size_t len = 0;
    for (const unsigned char *p = (const unsigned char *)word; *p; p++, len++)
        if (*p < ' ' || *p == 0x7f || *p == '"' || *p == '\\') return false;
    return len > 0;
}

static bool same(const struct backend *backend, const struct msg_ready *ready)
{
    if (backend->model_count != ready->model_count) return false;
    for (int i = 0; i < ready->model_count; i++) {
        struct msg_model a = backend->models[i], b = ready->models[i];
        if (!a.name || strcmp(a.name, b.name) != 0 || strcmp(a.identity, b.identity) != 0 || strcmp(a.device, b.device) != 0) return false;
        a.name = a.identity = a.device = b.name = b.identity = b.device = NULL;
        if (memcmp(&a, &b, sizeof a) != 0) return false;
    }
    return true;
}

void peer_models_take(struct peer_models *models, struct backend *backend, const struct msg_ready *ready)
{
    if (same(backend, ready)) return;
    arena_release(&models->before);
    models->before = models->now;
    arena_init(&models->now, ARENA_MAX);
    int count = 0;
    for (int i = 0; i < ready->model_count && count < MSG_MODELS_MAX; i++) {
        struct msg_model model = ready->models[i];
        if (!word_valid(model.name) || (model.identity[0] && !word_valid(model.identity)) || model.tier == TIER_NONE) continue;
        model.name = arena_strdup(&models->now, model.name);
        model.identity = arena_strdup(&models->now, model.identity);
        model.device = arena_strdup(&models->now, word_valid(model.device) ? model.device : "");
        if (model.name && model.identity && model.device) backend->models[count++] = model;
    }
    backend->model_count = count;
}

void peer_models_release(struct peer_models *models)
{
    arena_release(&models->now);
    arena_release(&models->before);
}
