/* Loading: defaults, then the file's entries, then the environment, then KEY=VALUE flags, then the rules. */
#include "node/config_keys.h"

#include "base/textlog.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- problems ---- */

enum { PROBLEM_MAX = 1280 };

static void say_problem(const struct config_loader *loader, int line, const char *kind, const char *format, va_list args,
                        char whole[PROBLEM_MAX])
{
    char text[1024];
    (void)vsnprintf(text, sizeof text, format, args);
    if (line > 0) (void)snprintf(whole, PROBLEM_MAX, "%s:%d: %s%s", loader->file, line, kind, text);
    else (void)snprintf(whole, PROBLEM_MAX, "%s%s", kind, text);
    if (loader->out) (void)fprintf(loader->out, "%s\n", whole);
}

void config_problem(struct config_loader *loader, int line, enum err_code code, const char *format, ...)
{
    char whole[PROBLEM_MAX];
    va_list args;
    va_start(args, format);
    say_problem(loader, line, "", format, args, whole);
    va_end(args);
    if (loader->problems++ == 0) loader->code = err_set(loader->first, code, "%.239s", whole);
}

void config_warning(struct config_loader *loader, int line, const char *format, ...)
{
    char whole[PROBLEM_MAX];
    va_list args;
    va_start(args, format);
    say_problem(loader, line, "warning: ", format, args, whole);
    va_end(args);
}

int config_line(const struct config_loader *loader, const char *path)
{
    for (int i = 0; loader->entries && i < loader->entries->count; i++)
        if (strcmp(loader->entries->items[i].path, path) == 0) return loader->entries->items[i].line;
    return 0;
}

static void wrong_value(struct config_loader *loader, int line, const char *name, const struct config_key *key,
                        const char *got)
{
    char want[CONFIG_WANT_MAX], quoted[128];
    config_problem(loader, line, ERR_INVALID, "%s: got %s, want %s", name,
                   *got ? textlog_quote(got, quoted, sizeof quoted) : "nothing", config_key_want(key, want));
}

/* The value is left out: someone may have written a secret under a key of their own. */
static void unknown_key(struct config_loader *loader, int line, const char *name, const struct config_key *keys,
                        int count, const char *prefix)
{
    const char *where = strcmp(prefix, "flag ") == 0 ? "" : prefix;
    if (strstr(name, "api_key") || strstr(name, "secret") || strstr(name, "password") || strstr(name, "token_file")) {
        config_problem(loader, line, ERR_INVALID,
                       "%s%s: no such key; secrets are never written here: did you mean key_file or key_env?", prefix, name);
        return;
    }
    const char *nearest = config_key_nearest(keys, count, name);
    if (nearest)
        config_problem(loader, line, ERR_INVALID, "%s%s: no such key; did you mean %s%s?", prefix, name, where, nearest);
    else
        config_problem(loader, line, ERR_INVALID, "%s%s: no such key; `rung config` lists them all", prefix, name);
}

static void set_value(struct config_loader *loader, int line, const char *name, const struct config_key *key,
                      void *base, const char *text)
{
    enum err_code code = config_value_set(key, base, text);
    if (code == ERR_MEMORY) config_problem(loader, line, code, "%s: out of memory", name);
    else if (code != ERR_OK) wrong_value(loader, line, name, key, text);
}

/* ---- defaults ---- */

static enum err_code set_defaults(const struct config_key *keys, int count, void *base, int which)
{
    for (int i = 0; i < count; i++) {
        const char *text = config_key_default(&keys[i], which);
        if (!text) continue;
        enum err_code code = config_value_set(&keys[i], base, text);
        if (code != ERR_OK) return code;
    }
    return ERR_OK;
}

enum err_code config_backend_defaults(struct config_backend *backend, enum config_backend_type type)
{
    backend->type = type;
    backend->tier = TIER_NONE;
    backend->order = -1;
    backend->price.reasoning_usd = -1; /* not given: as output_usd */
    return set_defaults(CONFIG_BACKEND_KEYS, CONFIG_BACKEND_KEYS_COUNT, backend, (int)type);
}

struct config *config_base(enum tier tier)
{
    struct config *config = calloc(1, sizeof *config);
    if (!config) return NULL;
    config->tier = tier;
    policy_defaults(&config->policy);
    if (set_defaults(CONFIG_KEYS, CONFIG_KEYS_COUNT, config, (int)tier) == ERR_OK) return config;
    config_free(config);
    return NULL;
}

void config_free(struct config *config)
{
    if (!config) return;
    for (int i = 0; i < CONFIG_KEYS_COUNT; i++) config_value_clear(&CONFIG_KEYS[i], config);
    for (int b = 0; b < config->backend_count; b++)
        for (int i = 0; i < CONFIG_BACKEND_KEYS_COUNT; i++)
            config_value_clear(&CONFIG_BACKEND_KEYS[i], &config->backends[b]);
    free(config->file);
    free(config);
}

/* ---- the file's entries ---- */

/* "backends.3.url" → 3 and "url"; -1 when it is not of that form. `rest` is "" for the item itself. */
static int backend_index(const char *path, const char **rest)
{
    if (strncmp(path, "backends.", 9) != 0 || !isdigit((unsigned char)path[9])) return -1;
    char *end;
    long index = strtol(path + 9, &end, 10);
    if ((*end != '.' && *end != '\0') || index >= CONFIG_ENTRIES_MAX) return -1;
    *rest = *end == '.' ? end + 1 : end;
    return (int)index;
}

/* A section such as "http" or "policy.price": some key's name goes on from it. */
static bool is_section(const struct config_key *keys, int count, const char *path)
{
    size_t len = strlen(path);
    for (int i = 0; i < count; i++)
        if (strncmp(keys[i].name, path, len) == 0 && keys[i].name[len] == '.') return true;
    return false;
}

static const struct config_entry *find_entry(const struct config_entries *entries, const char *path)
{
    for (int i = 0; i < entries->count; i++)
        if (strcmp(entries->items[i].path, path) == 0) return &entries->items[i];
    return NULL;
}

/* A new backend: its type first, because the defaults hang on it. */
static void begin_backend(struct config_loader *loader, const struct config_entry *item, int index)
{
    struct config *config = loader->config;
    if (index >= CONFIG_BACKENDS_MAX) {
        if (index == CONFIG_BACKENDS_MAX)
            config_problem(loader, item->line, ERR_INVALID, "backends: got more than %d, want at most that many",
                           CONFIG_BACKENDS_MAX);
        return;
    }
    struct config_backend *backend = &config->backends[index];
    loader->backend_line[index] = item->line;
    config->backend_count = index + 1;
    char path[64];
    (void)snprintf(path, sizeof path, "backends.%d.type", index);
    const struct config_entry *type = find_entry(loader->entries, path);
    const struct config_key *row = config_key_find(CONFIG_BACKEND_KEYS, CONFIG_BACKEND_KEYS_COUNT, "type");
    loader->backend_typeless[index] =
        !type || type->kind != ENTRY_SCALAR || config_value_set(row, backend, type->value) != ERR_OK;
    if (!type)
        config_problem(loader, item->line, ERR_INVALID, "backends.%d.type: missing, want one of %s", index, row->choices);
    if (config_backend_defaults(backend, backend->type) != ERR_OK)
        config_problem(loader, item->line, ERR_MEMORY, "backends.%d: out of memory", index);
}

/* One value that a KEY row takes, or the problem with it. */
static void apply_scalar(struct config_loader *loader, const struct config_entry *entry, const char *name,
                         const struct config_key *key, void *base)
{
    bool nullable = key->type == KEY_TEXT || key->type == KEY_LIST;
    if (entry->kind == ENTRY_NULL && nullable) config_value_clear(key, base);
    else if (entry->kind == ENTRY_NULL) wrong_value(loader, entry->line, name, key, "");
    else if (key->type == KEY_LIST) wrong_value(loader, entry->line, name, key, entry->value);
    else set_value(loader, entry->line, name, key, base, entry->value);
}

static const char *type_word(enum config_backend_type type)
{
    static const char *const WORDS[] = {"local", "peer", "upstream", "scripted"};
    return WORDS[type];
}

static void apply_backend_entry(struct config_loader *loader, const struct config_entry *entry, int index,
                                const char *rest)
{
    if (index >= CONFIG_BACKENDS_MAX) return;
    struct config_backend *backend = &loader->config->backends[index];
    const struct config_key *key = config_key_find(CONFIG_BACKEND_KEYS, CONFIG_BACKEND_KEYS_COUNT, rest);
    bool section = is_section(CONFIG_BACKEND_KEYS, CONFIG_BACKEND_KEYS_COUNT, rest);
    char prefix[32];
    (void)snprintf(prefix, sizeof prefix, "backends.%d.", index);
    if (section && (entry->kind == ENTRY_MAP || entry->kind == ENTRY_NULL)) return;
    if (section || (key && (entry->kind == ENTRY_MAP || entry->kind == ENTRY_LIST))) {
        config_problem(loader, entry->line, ERR_INVALID, "%s: got the wrong kind of value, want %s", entry->path,
                       section ? "a mapping of keys" : "a single value");
    } else if (!key) {
        unknown_key(loader, entry->line, rest, CONFIG_BACKEND_KEYS, CONFIG_BACKEND_KEYS_COUNT, prefix);
    } else if (!(key->concerns & 1u << backend->type)) {
        if (loader->backend_typeless[index]) return;
        config_problem(loader, entry->line, ERR_INVALID, "%s: not a key of type %s", entry->path,
                       type_word(backend->type));
    } else {
        apply_scalar(loader, entry, entry->path, key, backend);
        if (strncmp(rest, "price.", 6) == 0 && entry->kind == ENTRY_SCALAR) backend->has_price = true;
    }
}

/* The list an item such as "http.origins.2" belongs to, or NULL. */
static const struct config_key *list_of_item(const char *path)
{
    const char *dot = strrchr(path, '.');
    if (!dot || !isdigit((unsigned char)dot[1])) return NULL;
    char name[CONFIG_PATH_MAX];
    (void)snprintf(name, sizeof name, "%.*s", (int)(dot - path), path);
    const struct config_key *key = config_key_find(CONFIG_KEYS, CONFIG_KEYS_COUNT, name);
    return key && key->type == KEY_LIST ? key : NULL;
}

static void apply_backends_entry(struct config_loader *loader, const struct config_entry *entry)
{
    const char *rest;
    int index = backend_index(entry->path, &rest);
    if (strcmp(entry->path, "backends") == 0) {
        if (entry->kind != ENTRY_LIST && entry->kind != ENTRY_NULL)
            config_problem(loader, entry->line, ERR_INVALID,
                           "backends: got no list, want one: lines that begin with `- name:`");
    } else if (index >= 0 && *rest == '\0') {
        if (entry->kind == ENTRY_MAP) begin_backend(loader, entry, index);
        else config_problem(loader, entry->line, ERR_INVALID, "%s: got no mapping, want keys such as `name:`", entry->path);
    } else if (index >= 0 && (index >= CONFIG_BACKENDS_MAX || loader->backend_line[index])) {
        apply_backend_entry(loader, entry, index, rest);
    }
}

/* A wrong section is told once, at its own line; what stands in it is passed over. */
static bool is_under(const char *path, const char *section)
{
    size_t len = section ? strlen(section) : 0;
    return len && strncmp(path, section, len) == 0 && path[len] == '.';
}

static void apply_entries(struct config_loader *loader)
{
    const char *wrong_section = NULL;
    for (int i = 0; i < loader->entries->count; i++) {
        const struct config_entry *entry = &loader->entries->items[i];
        if (is_under(entry->path, wrong_section)) continue;
        if (strcmp(entry->path, "backends") == 0 || is_under(entry->path, "backends")) {
            apply_backends_entry(loader, entry);
            continue;
        }
        const struct config_key *key = config_key_find(CONFIG_KEYS, CONFIG_KEYS_COUNT, entry->path);
        const struct config_key *list = list_of_item(entry->path);
        bool section = is_section(CONFIG_KEYS, CONFIG_KEYS_COUNT, entry->path);
        bool plain = entry->kind == ENTRY_SCALAR || entry->kind == ENTRY_NULL;
        if (section && (entry->kind == ENTRY_MAP || entry->kind == ENTRY_NULL)) continue;
        if (key && key->type == KEY_LIST && entry->kind == ENTRY_LIST) {
            config_value_clear(key, loader->config);
        } else if (list && entry->kind == ENTRY_SCALAR) {
            set_value(loader, entry->line, entry->path, list, loader->config, entry->value);
        } else if (key && plain) {
            apply_scalar(loader, entry, entry->path, key, loader->config);
        } else if (section || key || list) {
            config_problem(loader, entry->line, ERR_INVALID, "%s: got the wrong kind of value, want %s", entry->path,
                           section ? "a mapping of keys" : "a single value");
            wrong_section = entry->path;
        } else {
            unknown_key(loader, entry->line, entry->path, CONFIG_KEYS, CONFIG_KEYS_COUNT, "");
            wrong_section = entry->path;
        }
    }
}

/* ---- environment and flags ---- */

/* Lists are given as words with commas between. */
static void set_from_text(struct config_loader *loader, const char *name, const struct config_key *key, void *base,
                          const char *text)
{
    if (key->type != KEY_LIST) {
        set_value(loader, 0, name, key, base, text);
        return;
    }
    config_value_clear(key, base);
    for (const char *p = text; *p;) {
        size_t len = strcspn(p, ",");
        char *item = strndup(p, len);
        if (!item) {
            config_problem(loader, 0, ERR_MEMORY, "%s: out of memory", name);
            return;
        }
        set_value(loader, 0, name, key, base, item);
        free(item);
        p += len;
        if (*p == ',') p++;
    }
}

static void apply_environment(struct config_loader *loader)
{
    for (int i = 0; i < CONFIG_KEYS_COUNT; i++) {
        char name[96] = "RUNG_";
        size_t n = strlen(name);
        for (const char *p = CONFIG_KEYS[i].name; *p && n < sizeof name - 1; p++)
            name[n++] = *p == '.' ? '_' : (char)toupper((unsigned char)*p);
        name[n] = '\0';
        const char *text = getenv(name);
        if (text) set_from_text(loader, name, &CONFIG_KEYS[i], loader->config, text);
    }
}

/* backends.NAME.key or backends.N.key of a backend that the file has. */
static struct config_backend *backend_of_flag(struct config *config, const char *name, const char **rest)
{
    const char *path;
    int index = backend_index(name, &path);
    if (index >= 0 && index < config->backend_count && *path) {
        *rest = path;
        return &config->backends[index];
    }
    for (int i = 0; i < config->backend_count; i++) {
        const char *own = config->backends[i].name;
        size_t len = own ? strlen(own) : 0;
        if (len && strncmp(name + 9, own, len) == 0 && name[9 + len] == '.') {
            *rest = name + 9 + len + 1;
            return &config->backends[i];
        }
    }
    return NULL;
}

static void apply_backend_flag(struct config_loader *loader, const char *name, const char *value)
{
    const char *rest = "";
    struct config_backend *backend = backend_of_flag(loader->config, name, &rest);
    if (!backend) {
        config_problem(loader, 0, ERR_INVALID,
                       "flag %s: no such backend, want backends.NAME.KEY of one that the file lists", name);
        return;
    }
    const struct config_key *key = config_key_find(CONFIG_BACKEND_KEYS, CONFIG_BACKEND_KEYS_COUNT, rest);
    if (!key || strcmp(rest, "type") == 0 || !(key->concerns & 1u << backend->type)) {
        config_problem(loader, 0, ERR_INVALID, "flag %s: not a key that a flag can set on a backend of type %s", name,
                       type_word(backend->type));
        return;
    }
    set_from_text(loader, name, key, backend, value);
    if (strncmp(rest, "price.", 6) == 0) backend->has_price = true;
}

static void apply_flag(struct config_loader *loader, const char *flag)
{
    const char *equals = strchr(flag, '=');
    char name[CONFIG_PATH_MAX];
    if (!equals || equals == flag || (size_t)(equals - flag) >= sizeof name) {
        config_problem(loader, 0, ERR_INVALID, "flag %.100s: want KEY=VALUE, such as log.path=edge.db", flag);
        return;
    }
    (void)snprintf(name, sizeof name, "%.*s", (int)(equals - flag), flag);
    if (strncmp(name, "backends.", 9) == 0) {
        apply_backend_flag(loader, name, equals + 1);
        return;
    }
    const struct config_key *key = config_key_find(CONFIG_KEYS, CONFIG_KEYS_COUNT, name);
    if (key) set_from_text(loader, name, key, loader->config, equals + 1);
    else unknown_key(loader, 0, name, CONFIG_KEYS, CONFIG_KEYS_COUNT, "flag ");
}

/* ---- loading ---- */

/* A file's bytes, at most CONFIG_BYTES_MAX. A pipe or device is refused, so that reading never waits. */
static enum err_code read_file(const char *file, char **text, size_t *len, struct err *e)
{
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return err_set(e, ERR_IO, "%s: cannot open: %s", file, strerror(errno));
    struct stat info;
    enum err_code code = ERR_OK;
    char *data = NULL;
    size_t used = 0;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        code = err_set(e, ERR_IO, "%s: not a plain file", file);
    } else if (!(data = malloc(CONFIG_BYTES_MAX + 1))) {
        code = err_set(e, ERR_MEMORY, "%s: out of memory", file);
    }
    while (code == ERR_OK && used <= CONFIG_BYTES_MAX) {
        ssize_t n = read(fd, data + used, CONFIG_BYTES_MAX + 1 - used);
        if (n == 0) break;
        if (n > 0) used += (size_t)n;
        else if (errno != EINTR) code = err_set(e, ERR_IO, "%s: cannot read: %s", file, strerror(errno));
    }
    (void)close(fd);
    if (code != ERR_OK) {
        free(data);
        return code;
    }
    *text = data;
    *len = used;
    return ERR_OK;
}

static void name_node(struct config_loader *loader)
{
    struct config *config = loader->config;
    char host[64] = "";
    if (config->node) return;
    if (gethostname(host, sizeof host - 1) != 0 || !*host) (void)snprintf(host, sizeof host, "host");
    char name[96];
    (void)snprintf(name, sizeof name, "%s-%.50s", tier_name(config->tier), host);
    config->node = strdup(name);
    if (!config->node) config_problem(loader, 0, ERR_MEMORY, "node.id: out of memory");
}

static void load_text(struct config_loader *loader, const char *text, size_t len, struct config_entries *entries)
{
    struct err e = {0};
    enum err_code code = config_yaml_read(entries, loader->file, text, len, &e);
    if (code != ERR_OK) {
        config_problem(loader, 0, code, "%s", e.msg);
        return;
    }
    loader->entries = entries;
    apply_entries(loader);
}

static void load_file(struct config_loader *loader, struct config_entries *entries)
{
    char *text = NULL;
    size_t len = 0;
    struct err e = {0};
    enum err_code code = read_file(loader->file, &text, &len, &e);
    if (code != ERR_OK) config_problem(loader, 0, code, "%s", e.msg);
    else load_text(loader, text, len, entries);
    free(text);
}

/* `text` NULL: read the file, if there is one. */
static enum err_code load(struct config **out, enum tier tier, const char *file, const char *text, size_t len,
                          const char *const *overrides, int override_count, FILE *problems, bool look, struct err *e)
{
    struct config_entries entries = {0};
    struct config_loader *loader = calloc(1, sizeof *loader);
    struct config *config = loader ? config_base(tier) : NULL;
    if (!config) {
        free(loader);
        return err_set(e, ERR_MEMORY, "configuration: out of memory");
    }
    *loader = (struct config_loader){.config = config, .file = file, .out = problems, .first = e, .look = look};
    if (file && !(config->file = strdup(file))) config_problem(loader, 0, ERR_MEMORY, "%s: out of memory", file);
    if (text) load_text(loader, text, len, &entries);
    else if (file) load_file(loader, &entries);
    if (!text) apply_environment(loader);
    for (int i = 0; i < override_count; i++) apply_flag(loader, overrides[i]);
    name_node(loader);
    if (!file || loader->entries) config_rules(loader);
    if (loader->look && loader->code == ERR_OK) config_paths(loader);
    enum err_code code = loader->code;
    config_entries_release(&entries);
    free(loader);
    if (code != ERR_OK) config_free(config);
    else *out = config;
    return code;
}

enum err_code config_default(struct config **out, enum tier tier, struct err *e)
{
    return load(out, tier, NULL, "", 0, NULL, 0, NULL, false, e);
}

enum err_code config_load(struct config **out, enum tier tier, const char *file, const char *const *overrides,
                          int override_count, struct err *e)
{
    return load(out, tier, file, NULL, 0, overrides, override_count, NULL, false, e);
}

enum err_code config_parse(struct config **out, enum tier tier, const char *file, const char *text, size_t len,
                           struct err *e)
{
    return load(out, tier, file, text, len, NULL, 0, NULL, false, e);
}

enum err_code config_check(struct config **out, enum tier tier, const char *file, const char *const *overrides,
                           int override_count, FILE *problems, struct err *e)
{
    return load(out, tier, file, NULL, 0, overrides, override_count, problems, true, e);
}
