/* The router in force. Refitted ones lie beside router.file as FILE.FINGERPRINT; the policy names which one counts. */
#include "node/node.h"

#include "base/textlog.h"

#include <stdio.h>
#include <string.h>

enum { ROUTER_PATH = 1024 };

static enum err_code path_of(const struct node *node, const char *fingerprint, char out[ROUTER_PATH], struct err *e)
{
    const char *file = node->config->router_file;
    if (!file) return err_set(e, ERR_INVALID, "router.file names no router, so none can stand beside it");
    int n = snprintf(out, ROUTER_PATH, "%s%s%s", file, fingerprint[0] ? "." : "", fingerprint);
    return n < ROUTER_PATH ? ERR_OK : err_set(e, ERR_INVALID, "router.file is longer than %d bytes", ROUTER_PATH - 20);
}

/* A router that this node can score with. */
static enum err_code load(struct node *node, const char *path, struct router **out, struct router_info *info, struct err *e)
{
    enum err_code code = router_load(out, path, e);
    if (code == ERR_OK) code = router_use_key(*out, node->sketch_key, e);
    if (code != ERR_OK) {
        router_free(*out);
        *out = NULL;
        return code;
    }
    router_info(*out, info);
    return ERR_OK;
}

static void take(struct node *node, struct router *router, const struct router_info *info)
{
    router_free(node->router);
    node->router = router;
    node->router_info = *info;
    textlog(TEXTLOG_INFO, "router", "fingerprint=%s base=%s", info->fingerprint, info->base[0] ? info->base : "-");
}

enum err_code node_router_switch(struct node *node, const char *fingerprint, struct err *e)
{
    char path[ROUTER_PATH];
    struct router *router = NULL;
    struct router_info info;
    if (!fingerprint[0] && !node->config->router_file) {
        router_free(node->router);
        node->router = NULL;
        return ERR_OK;
    }
    enum err_code code = path_of(node, fingerprint, path, e);
    if (code == ERR_OK) code = load(node, path, &router, &info, e);
    if (code != ERR_OK) return code;
    if (fingerprint[0] && strcmp(info.fingerprint, fingerprint) != 0) {
        router_free(router);
        return err_set(e, ERR_CORRUPT, "%.120s holds router %s, not the one its name says", path, info.fingerprint);
    }
    take(node, router, &info);
    return ERR_OK;
}

void node_router_open(struct node *node)
{
    struct err e;
    const char *named = node->policy.router;
    if (!node->config->router_file) return;
    if (node_router_switch(node, named, &e) == ERR_OK) return;
    textlog(TEXTLOG_ERROR, "router_failed", "file=%s fingerprint=%s why=\"%s\"", node->config->router_file, named, e.msg);
    if (named[0] && node_router_switch(node, "", &e) != ERR_OK)
        textlog(TEXTLOG_ERROR, "router_failed", "file=%s why=\"%s\"", node->config->router_file, e.msg);
}

/* Two tiers or three, and of the same models. */
static enum err_code fits(const struct node *node, const struct router_info *info, struct err *e)
{
    const struct router_info *have = &node->router_info;
    if (!node->router || memcmp(have->names, info->names, sizeof have->names) == 0) return ERR_OK;
    return err_set(e, ERR_INVALID, "router %s is of the models %.40s, %.40s; this node's is of %.40s, %.40s", info->fingerprint,
                   info->names[0], info->names[1], have->names[0], have->names[1]);
}

enum err_code node_router_keep(struct node *node, const char *file, char fingerprint[17], struct err *e)
{
    char path[ROUTER_PATH];
    struct router *router = NULL;
    struct router_info info;
    enum err_code code = load(node, file, &router, &info, e);
    if (code == ERR_OK) code = fits(node, &info, e);
    if (code == ERR_OK) code = path_of(node, info.fingerprint, path, e);
    if (code == ERR_OK) code = router_save(router, path, e);
    if (code == ERR_OK) (void)snprintf(fingerprint, 17, "%s", info.fingerprint);
    router_free(router);
    return code;
}
