/* The policies in force: where they come from and how they change while the node runs. The policies table is the truth,
 * the highest version wins, and the node alone writes it.
 *
 *   "A" is the policy; an experiment adds "B", which takes a stable share of the traffic until it is stopped or promoted.
 */
#include "node/node.h"

#include "base/textlog.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static bool same_policy(const struct policy *a, const struct policy *b)
{
    char x[2048], y[2048];
    struct policy p = *a, q = *b;
    p.version = q.version = 0;
    policy_to_json(&p, x, sizeof x);
    policy_to_json(&q, y, sizeof y);
    return strcmp(x, y) == 0;
}

/* The configuration names no router: that part stays as it is. */
static bool same_but_router(const struct policy *a, const struct policy *b)
{
    struct policy p = *a, q = *b;
    p.router[0] = q.router[0] = '\0';
    return same_policy(&p, &q);
}

static enum err_code latest(struct node *node, const char *source, const char *arm, int64_t before, struct policy *out,
                            bool *found, struct err *e)
{
    const struct log_policy_query query = {source, arm, before};
    return log_policy_latest(node->log, &query, out, found, e);
}

/* Without a log there is no table: versions are then counted in memory. */
static enum err_code store(struct node *node, struct policy *policy, const char *source, struct err *e)
{
    if (!node->log) {
        int64_t newest = node->policy.version > node->trial.version ? node->policy.version : node->trial.version;
        policy->version = newest + 1;
        return ERR_OK;
    }
    return log_policy_add(node->log, policy, source, e);
}

static void say(const struct policy *policy, const char *source)
{
    textlog(TEXTLOG_INFO, "policy", "version=%lld arm=%s share=%.3g source=%s", (long long)policy->version, policy->arm,
            policy->share, source);
}

enum err_code node_policy_open(struct node *node, struct err *e)
{
    struct policy stored, seeded, trial;
    bool found = false, was_seeded = false, has_trial = false;
    node->policy = node->config->policy;
    if (!node->log) return ERR_OK;
    enum err_code code = latest(node, NULL, "A", 0, &stored, &found, e);
    if (code == ERR_OK) code = latest(node, "config", "A", 0, &seeded, &was_seeded, e);
    if (code == ERR_OK) code = latest(node, NULL, "B", 0, &trial, &has_trial, e);
    if (code != ERR_OK) return code;
    if (has_trial && trial.share > 0) node->trial = trial;
    if (found) memcpy(node->policy.router, stored.router, sizeof stored.router);
    if (found && was_seeded && same_but_router(&seeded, &node->config->policy)) {
        node->policy = stored;
        return ERR_OK;
    }
    return store(node, &node->policy, "config", e);
}

static enum err_code put(struct node *node, struct policy *next, const char *source, struct err *e)
{
    bool switches = strcmp(next->arm, "A") == 0 && strcmp(next->router, node->policy.router) != 0;
    enum err_code code = switches ? node_router_switch(node, next->router, e) : ERR_OK;
    if (code == ERR_OK) code = store(node, next, source, e);
    struct err again;
    if (code != ERR_OK && switches && node_router_switch(node, node->policy.router, &again) != ERR_OK)
        textlog(TEXTLOG_ERROR, "router_failed", "why=\"%s\"", again.msg);
    if (code != ERR_OK) return code;
    if (strcmp(next->arm, "A") == 0) node->policy = *next;
    else if (next->share > 0) node->trial = *next;
    else node->trial.share = 0;
    say(next, source);
    return ERR_OK;
}

enum err_code node_reload(struct node *node, struct err *e)
{
    struct config *fresh = NULL;
    const struct node_options *o = node->options;
    if (!node->config->file) return err_set(e, ERR_INVALID, "there is no configuration file to read again");
    enum err_code code = config_load(&fresh, node->config->tier, node->config->file, o ? o->overrides : NULL, o ? o->override_count : 0, e);
    if (code != ERR_OK) return code;
    if (!same_policy(&fresh->policy, &node->config->policy)) {
        struct policy next = fresh->policy;
        memcpy(next.router, node->policy.router, sizeof next.router);
        code = put(node, &next, "config", e);
        if (code == ERR_OK) node->config->policy = fresh->policy;
    }
    config_free(fresh);
    return code;
}

/* The fields of `json` over those of `base`. */
static enum err_code merged(const struct policy *base, const json_t *changes, struct policy *out, struct err *e)
{
    char text[2048];
    json_error_t at;
    policy_to_json(base, text, sizeof text);
    json_t *all = json_loads(text, 0, &at);
    if (!all) return err_set(e, ERR_MEMORY, "no memory for a policy");
    const char *key;
    json_t *value;
    enum err_code code = ERR_OK;
    json_object_foreach((json_t *)(uintptr_t)changes, key, value) {
        if (strcmp(key, "version") == 0) continue; /* given by the table */
        if (!json_object_get(all, key)) {
            code = err_set_param(e, ERR_INVALID, "policy", "a policy has no field '%.40s'", key);
            break;
        }
        (void)json_object_set(all, key, value);
    }
    char *whole = code == ERR_OK ? json_dumps(all, JSON_COMPACT) : NULL;
    json_decref(all);
    if (code != ERR_OK) return code;
    code = whole ? policy_from_json(out, whole, e) : err_set(e, ERR_MEMORY, "no memory for a policy");
    free(whole);
    return code;
}

static enum err_code set_a(struct node *node, const json_t *body, struct err *e)
{
    struct policy next;
    const json_t *changes = json_object_get(body, "policy");
    const char *source = json_string_value(json_object_get(body, "source"));
    if (!json_is_object(changes)) return err_set_param(e, ERR_INVALID, "policy", "'policy' should be an object of policy fields");
    if (json_object_get(changes, "arm") || json_object_get(changes, "share"))
        return err_set_param(e, ERR_INVALID, "policy", "'arm' and 'share' belong to an experiment: use the action 'try'");
    enum err_code code = merged(&node->policy, changes, &next, e);
    return code == ERR_OK ? put(node, &next, source && source[0] && strlen(source) < 16 ? source : "tune", e) : code;
}

/* A router file from an operator: kept beside the old one, then named by the next policy. */
static enum err_code set_router(struct node *node, const json_t *body, struct err *e)
{
    struct policy next = node->policy;
    const char *file = json_string_value(json_object_get(body, "file"));
    if (!file || file[0] != '/') return err_set_param(e, ERR_INVALID, "file", "'file' should be the whole path of a router file");
    enum err_code code = node_router_keep(node, file, next.router, e);
    if (code != ERR_OK) return code;
    if (strcmp(next.router, node->router_info.fingerprint) == 0 && strcmp(next.router, node->policy.router) == 0) return ERR_OK;
    return put(node, &next, "refit", e);
}

static enum err_code try_b(struct node *node, const json_t *body, struct err *e)
{
    struct policy next;
    static const char *const BY[] = {"request", "conversation", "tenant"};
    const json_t *changes = json_object_get(body, "policy");
    double share = json_number_value(json_object_get(body, "share"));
    const char *by = json_string_value(json_object_get(body, "by"));
    if (!json_is_object(changes)) return err_set_param(e, ERR_INVALID, "policy", "'policy' should be an object of policy fields");
    if (share <= 0 || share >= 1) return err_set_param(e, ERR_INVALID, "share", "'share' should be between 0 and 1");
    enum err_code code = merged(&node->policy, changes, &next, e);
    if (code != ERR_OK) return code;
    if (strcmp(next.router, node->policy.router) != 0)
        return err_set_param(e, ERR_INVALID, "router", "both arms of an experiment share one router");
    (void)snprintf(next.arm, sizeof next.arm, "B");
    next.share = share;
    next.arm_by = -1;
    for (int i = 0; i < 3; i++)
        if (strcmp(by ? by : "request", BY[i]) == 0) next.arm_by = i;
    if (next.arm_by < 0) return err_set_param(e, ERR_INVALID, "by", "'by' should be request, conversation or tenant");
    return put(node, &next, "arms", e);
}

static enum err_code end_b(struct node *node, bool promote, const char *source, struct err *e)
{
    if (node->trial.share <= 0) return err_set(e, ERR_INVALID, "no experiment runs");
    struct policy winner = node->trial, over = node->trial;
    over.share = 0;
    enum err_code code = put(node, &over, source, e);
    if (code != ERR_OK || !promote) return code;
    (void)snprintf(winner.arm, sizeof winner.arm, "A");
    winner.share = 1;
    winner.arm_by = 0;
    memcpy(winner.router, node->policy.router, sizeof winner.router); /* it may have been refitted meanwhile */
    return put(node, &winner, source, e);
}

enum err_code node_experiment_end(struct node *node, bool promote, struct err *e)
{
    return end_b(node, promote, "rule", e);
}

/* Back to the policy before this one. A policy that an undo brought back counts as the one it is a copy of, so that a
 * second undo goes one further. */
static enum err_code undo(struct node *node, struct err *e)
{
    struct policy earlier = node->policy, original;
    bool found = true, same_found = false;
    if (!node->log) return err_set(e, ERR_INVALID, "without a log (log.path) no earlier policy is kept");
    int64_t at = node->policy.version;
    enum err_code code = latest(node, "undo", "A", at + 1, &original, &same_found, e);
    if (code == ERR_OK && same_found && original.version == at) { /* find what it is a copy of */
        do {
            code = latest(node, NULL, "A", at, &earlier, &found, e);
            at = earlier.version;
        } while (code == ERR_OK && found && !same_policy(&earlier, &node->policy));
    }
    while (code == ERR_OK && found && same_policy(&earlier, &node->policy)) {
        code = latest(node, NULL, "A", at, &earlier, &found, e);
        at = earlier.version;
    }
    if (code != ERR_OK) return code;
    if (!found) return err_set(e, ERR_INVALID, "there is no earlier policy to go back to");
    return put(node, &earlier, "undo", e);
}

enum err_code node_policy_command(struct node *node, const char *body, size_t len, struct err *e)
{
    json_error_t at;
    json_t *root = json_loadb(body, len, JSON_REJECT_DUPLICATES, &at);
    if (!root) return err_set(e, ERR_SYNTAX, "line %d, column %d: %s", at.line, at.column, at.text);
    const char *action = json_string_value(json_object_get(root, "action"));
    enum err_code code;
    if (!action) code = err_set_param(e, ERR_INVALID, "action", "'action' should be set, router, undo, reload, try, stop or promote");
    else if (strcmp(action, "set") == 0) code = set_a(node, root, e);
    else if (strcmp(action, "router") == 0) code = set_router(node, root, e);
    else if (strcmp(action, "undo") == 0) code = undo(node, e);
    else if (strcmp(action, "reload") == 0) code = node_reload(node, e);
    else if (strcmp(action, "try") == 0) code = try_b(node, root, e);
    else if (strcmp(action, "stop") == 0) code = end_b(node, false, "stop", e);
    else if (strcmp(action, "promote") == 0) code = end_b(node, true, "promote", e);
    else code = err_set_param(e, ERR_INVALID, "action", "'action' is '%.20s', should be set, router, undo, reload, try, stop or promote", action);
    json_decref(root);
    return code;
}

enum err_code node_policy_from_above(struct node *node, const char *json, struct err *e)
{
    struct policy next;
    if (!node->config->accept_policy) return err_set(e, ERR_UNSUPPORTED, "this node takes no policy from above");
    enum err_code code = policy_from_json(&next, json ? json : "", e);
    if (code != ERR_OK) return code;
    (void)snprintf(next.arm, sizeof next.arm, "A");
    next.share = 1;
    next.arm_by = 0;
    next.private_default |= node->policy.private_default;
    memcpy(next.router, node->policy.router, sizeof next.router); /* fitted to this node's models and log */
    memcpy(next.prefer, node->policy.prefer, sizeof next.prefer); /* a name of this node's */
    next.shadow = node->policy.shadow; /* what a device spends on being judged is its own affair */
    if (same_policy(&next, &node->policy)) return ERR_OK;
    return put(node, &next, "above", e);
}

void node_policy_json(const struct node *node, struct buf *out)
{
    char text[2048];
    policy_to_json(&node->policy, text, sizeof text);
    buf_addf(out, "{\"policy\":%s", text);
    if (node->trial.share > 0) {
        policy_to_json(&node->trial, text, sizeof text);
        buf_addf(out, ",\"experiment\":%s", text);
    }
    buf_adds(out, "}");
}

/* Uniform in [0, 1), the same on every resend: splitmix64 over a hash of the id. */
double node_dice(const char *id, uint64_t salt)
{
    uint64_t h = 0xcbf29ce484222325ull ^ salt;
    for (const unsigned char *p = (const unsigned char *)(id ? id : ""); *p; p++) h = (h ^ *p) * 0x100000001b3ull;
    h += 0x9e3779b97f4a7c15ull;
    h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9ull;
    h = (h ^ (h >> 27)) * 0x94d049bb133111ebull;
    return (double)((h ^ (h >> 31)) >> 11) * 0x1p-53;
}

const struct policy *node_policy_for(const struct node *node, const struct msg_submit *submit)
{
    if (node->trial.share <= 0) return &node->policy;
    const char *keys[] = {submit->id, submit->conversation, submit->tenant};
    const char *key = keys[node->trial.arm_by];
    if (!key || !key[0]) key = submit->id;
    return node_dice(key, 0x61726d73) < node->trial.share ? &node->trial : &node->policy;
}
