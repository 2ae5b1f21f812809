/* The key table as people read it: the commented reference file, the values in force, the documentation's tables. */
#include "node/config_keys.h"

#include <stdlib.h>
#include <string.h>

enum { WIDTH = 112 };

/* `text` as comment lines of at most WIDTH columns. */
static void print_comment(FILE *out, int indent, const char *text)
{
    size_t room = (size_t)(WIDTH - indent - 2);
    for (const char *p = text; *p;) {
        size_t len = strlen(p);
        if (len > room) {
            len = room;
            while (len > 1 && p[len] != ' ') len--;
        }
        (void)fprintf(out, "%*s# %.*s\n", indent, "", (int)len, p);
        p += len;
        while (*p == ' ') p++;
    }
}

static const char *range_of(const struct config_key *key, char out[CONFIG_WANT_MAX])
{
    char low[32], high[32];
    (void)snprintf(low, sizeof low, "%.15g", key->min);
    (void)snprintf(high, sizeof high, "%.15g", key->max);
    switch (key->type) {
    case KEY_TEXT: (void)snprintf(out, CONFIG_WANT_MAX, "text"); break;
    case KEY_LIST: (void)snprintf(out, CONFIG_WANT_MAX, "list of texts"); break;
    case KEY_OCTAL: (void)snprintf(out, CONFIG_WANT_MAX, "file mode"); break;
    case KEY_BOOL: (void)snprintf(out, CONFIG_WANT_MAX, "%s", key->choices ? key->choices : "false|true"); break;
    case KEY_WORD:
    case KEY_CHOICE: (void)snprintf(out, CONFIG_WANT_MAX, "%s", key->choices); break;
    case KEY_INT:
    case KEY_INT64:
    case KEY_REAL:
        (void)snprintf(out, CONFIG_WANT_MAX, "%s %s to %s%s%s", key->type == KEY_REAL ? "number" : "whole number", low,
                       high, key->unit ? " " : "", key->unit ? key->unit : "");
        break;
    }
    return out;
}

/* ---- nested YAML from dotted names ---- */

/* Opens the sections of `name` that `last` was not in; returns the depth of the key itself. Where a section's keys are
 * all commented out it still reads as YAML: an empty section is one without values. */
static int open_sections(FILE *out, const char *last, const char *name)
{
    int depth = 0;
    size_t start = 0;
    bool same = true;
    for (const char *dot = strchr(name, '.'); dot; dot = strchr(dot + 1, '.')) {
        size_t end = (size_t)(dot - name) + 1; /* with the dot */
        same = same && strncmp(last, name, end) == 0;
        if (!same) (void)fprintf(out, "%*s%.*s:\n", depth * 2, "", (int)(end - 1 - start), name + start);
        start = end;
        depth++;
    }
    return depth;
}

static const char *last_word(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot ? dot + 1 : name;
}

static bool in_section(const char *name, const char *section)
{
    size_t len = strlen(section);
    return strncmp(name, section, len) == 0 && name[len] == '.';
}

static void print_reference_key(FILE *out, const struct config_key *key, const struct config *config, int indent)
{
    char range[CONFIG_WANT_MAX], comment[512];
    (void)snprintf(comment, sizeof comment, "%s (%s)", key->help, range_of(key, range));
    print_comment(out, indent, comment);
    bool set = config_value_is_set(key, config);
    (void)fprintf(out, "%*s%s%s: ", indent, "", set ? "" : "# ", last_word(key->name));
    if (key->shown) (void)fputs(key->shown, out);
    else config_value_print(out, key, config);
    (void)fputc('\n', out);
}

/* What stands in the examples of the reference: a type's own keys, and how it is introduced. */
struct backend_example {
    const char *introduction;
    enum config_backend_type type;
    const char *given[8][2];
};
static const struct backend_example EXAMPLES[] = {
    {"The engine in this process:",
     CONFIG_LOCAL,
     {{"name", "small"}, {"type", "local"}, {"model_file", "models/small.gguf"}}},
    {"A node above:",
     CONFIG_PEER,
     {{"name", "region"}, {"type", "peer"}, {"connect", "tcp://region.example.org:7100"}, {"server_key", "\"...\""}}},
    {"An OpenAI-compatible service (vLLM, llama-server, Ollama, a hosted API):",
     CONFIG_UPSTREAM,
     {{"name", "big"}, {"type", "upstream"}, {"url", "https://api.example.org/v1"}, {"model", "big-67b"},
      {"key_file", "/etc/rung/big.key"}}},
};

static const char *given_value(const struct backend_example *example, const char *name)
{
    for (int i = 0; i < 8 && example->given[i][0]; i++)
        if (strcmp(example->given[i][0], name) == 0) return example->given[i][1];
    return NULL;
}

/* One line of a commented example; what has no default of its own stays a comment when the block is uncommented. */
static void print_example_key(FILE *out, const struct backend_example *example, const struct config_key *key,
                              const struct config_backend *backend, bool first)
{
    const char *given = given_value(example, key->name);
    bool price = strncmp(key->name, "price.", 6) == 0, off = !given && (key->shown || !config_value_is_set(key, backend));
    (void)fprintf(out, "#   %s%s%s%s: ", first ? "- " : "  ", off ? "# " : "", price ? "  " : "", last_word(key->name));
    if (given) (void)fputs(given, out);
    else if (key->shown) (void)fprintf(out, "(%s)", key->shown);
    else config_value_print(out, key, backend);
    (void)fputc('\n', out);
}

/* One commented backend with all keys of its type; a key's help stands at the first example that has it. */
static void print_backend_example(FILE *out, const struct backend_example *example, unsigned types_before)
{
    struct config_backend backend = {0};
    if (config_backend_defaults(&backend, example->type) != ERR_OK) return;
    (void)fprintf(out, "#\n#   # %s\n", example->introduction);
    for (int i = 0; i < CONFIG_BACKEND_KEYS_COUNT; i++) {
        const struct config_key *key = &CONFIG_BACKEND_KEYS[i];
        char range[CONFIG_WANT_MAX];
        if (!(key->concerns & 1u << example->type)) continue;
        bool told = (key->concerns & types_before) != 0;
        if (strcmp(key->name, "price.input_usd") == 0) (void)fprintf(out, "#     # price:\n");
        if (i > 0 && !told) (void)fprintf(out, "#     # %s (%s)\n", key->help, range_of(key, range));
        print_example_key(out, example, key, &backend, i == 0);
    }
    for (int i = 0; i < CONFIG_BACKEND_KEYS_COUNT; i++) config_value_clear(&CONFIG_BACKEND_KEYS[i], &backend);
}

static void print_backend_examples(FILE *out, enum tier tier)
{
    unsigned before = 0;
    (void)fputs("backends: []\n# In place of the line above, any number of:\n#\n# backends:\n", out);
    for (size_t i = 0; i < sizeof EXAMPLES / sizeof EXAMPLES[0]; i++) {
        if (tier == TIER_CORE && EXAMPLES[i].type == CONFIG_PEER) continue;
        print_backend_example(out, &EXAMPLES[i], before);
        before |= 1u << EXAMPLES[i].type;
    }
}

static void print_section(FILE *out, const struct config_section *section, const struct config *config)
{
    bool backends = strcmp(section->name, "backends") == 0;
    char last[128] = "";
    bool any = backends;
    for (int i = 0; i < CONFIG_KEYS_COUNT; i++)
        any = any || ((CONFIG_KEYS[i].concerns & 1u << config->tier) && in_section(CONFIG_KEYS[i].name, section->name));
    if (!any) return;
    (void)fputc('\n', out);
    print_comment(out, 0, section->help);
    if (backends) print_backend_examples(out, config->tier);
    for (int i = 0; i < CONFIG_KEYS_COUNT; i++) {
        const struct config_key *key = &CONFIG_KEYS[i];
        if (!(key->concerns & 1u << config->tier) || !in_section(key->name, section->name)) continue;
        int depth = open_sections(out, last, key->name);
        print_reference_key(out, key, config, depth * 2);
        (void)snprintf(last, sizeof last, "%s", key->name);
    }
}

void config_print_reference(FILE *out, enum tier tier)
{
    struct config *config = config_base(tier);
    if (!config) return;
    char head[320];
    (void)snprintf(head, sizeof head,
                   "Rung: every key that concerns the %s, with its default; printed by `rung config --tier %s`.",
                   tier_name(tier), tier_name(tier));
    print_comment(out, 0, head);
    print_comment(out, 0,
                  "A value is taken from, first found: a KEY=VALUE flag (log.path=/var/lib/rung/log.db), the environment "
                  "(RUNG_LOG_PATH), this file, the default. `rung check FILE` tells what is wrong with a file. Secrets are "
                  "never written here: *_file keys name files that hold them.");
    for (int i = 0; i < CONFIG_SECTIONS_COUNT; i++) print_section(out, &CONFIG_SECTIONS[i], config);
    config_free(config);
}

/* ---- the values in force ---- */

/* A path of state as it would be written: without node.state_dir before it. */
static void print_state_path(FILE *out, const struct config_key *key, const struct config *config)
{
    char *path = *(char *const *)(const void *)((const char *)config + key->offset);
    size_t len = config->state_dir ? strlen(config->state_dir) : 0;
    struct config_key plain = *key;
    plain.offset = 0;
    if (path && len && strncmp(path, config->state_dir, len) == 0 && path[len] == '/' && path[0] != '/') path += len + 1;
    config_value_print(out, &plain, &path);
}

static void print_effective_backend(FILE *out, const struct config_backend *backend)
{
    const char *lead = "  - ";
    bool price = false;
    for (int i = 0; i < CONFIG_BACKEND_KEYS_COUNT; i++) {
        const struct config_key *key = &CONFIG_BACKEND_KEYS[i];
        bool is_price = strncmp(key->name, "price.", 6) == 0;
        if (!(key->concerns & 1u << backend->type) || !config_value_is_set(key, backend)) continue;
        if (is_price && !backend->has_price) continue;
        if (is_price && !price) (void)fputs("    price:\n", out);
        price = is_price;
        (void)fprintf(out, "%s%s%s: ", lead, is_price ? "  " : "", last_word(key->name));
        config_value_print(out, key, backend);
        (void)fputc('\n', out);
        lead = "    ";
    }
}

void config_print_effective(FILE *out, const struct config *config)
{
    char last[128] = "";
    for (int i = 0; i < CONFIG_KEYS_COUNT; i++) {
        const struct config_key *key = &CONFIG_KEYS[i];
        if (!(key->concerns & 1u << config->tier)) continue;
        int depth = open_sections(out, last, key->name);
        (void)fprintf(out, "%*s%s: ", depth * 2, "", last_word(key->name));
        if (key->state) print_state_path(out, key, config);
        else config_value_print(out, key, config);
        (void)fputc('\n', out);
        (void)snprintf(last, sizeof last, "%s", key->name);
    }
    (void)fputs(config->backend_count ? "backends:\n" : "backends: []\n", out);
    for (int i = 0; i < config->backend_count; i++) print_effective_backend(out, &config->backends[i]);
}

/* ---- docs/configuration.md ---- */

static void print_cell(FILE *out, const char *text)
{
    for (const char *p = text; *p; p++) {
        if (*p == '|') (void)fputc('\\', out);
        (void)fputc(*p, out);
    }
}

static void print_default_cell(FILE *out, const struct config_key *key, const struct config *const of_tier[TIERS])
{
    char text[TIERS][160];
    if (key->shown) {
        print_cell(out, key->shown);
        return;
    }
    for (int t = 0; t < TIERS; t++) {
        text[t][0] = '\0';
        FILE *memory = fmemopen(text[t], sizeof text[t], "w");
        if (!memory) return;
        if (config_value_is_set(key, of_tier[t])) config_value_print(memory, key, of_tier[t]);
        (void)fclose(memory);
    }
    for (int t = 0; t < TIERS; t++)
        if (!*text[t]) (void)snprintf(text[t], sizeof text[t], "none");
    bool alike = strcmp(text[0], text[1]) == 0 && strcmp(text[1], text[2]) == 0;
    for (int t = 0; t < (alike ? 1 : TIERS); t++)
        (void)fprintf(out, strcmp(text[t], "none") == 0 ? "%s%s" : "%s`%s`", t ? ", " : "", text[t]);
}

static void print_who(FILE *out, unsigned concerns, int count, const char *const words[])
{
    if (concerns == (1u << count) - 1) {
        (void)fputs("all", out);
        return;
    }
    const char *comma = "";
    for (int i = 0; i < count; i++)
        if (concerns & 1u << i) (void)fprintf(out, "%s%s", comma, words[i]), comma = ", ";
}

static void print_key_rows(FILE *out, const struct config_section *section, const struct config *const of_tier[TIERS])
{
    static const char *const TIER_WORDS[] = {"edge", "region", "core"};
    char range[CONFIG_WANT_MAX];
    (void)fputs("\n| key | takes | default | tiers | meaning |\n| --- | --- | --- | --- | --- |\n", out);
    for (int i = 0; i < CONFIG_KEYS_COUNT; i++) {
        const struct config_key *key = &CONFIG_KEYS[i];
        if (!in_section(key->name, section->name)) continue;
        (void)fprintf(out, "| `%s` | ", key->name);
        print_cell(out, range_of(key, range));
        (void)fputs(" | ", out);
        print_default_cell(out, key, of_tier);
        (void)fputs(" | ", out);
        print_who(out, key->concerns, TIERS, TIER_WORDS);
        (void)fputs(" | ", out);
        print_cell(out, key->help);
        (void)fputs(" |\n", out);
    }
}

static void print_backend_default(FILE *out, const struct config_key *key)
{
    static const char *const TYPES[] = {"local", "peer", "upstream", "scripted"};
    bool differs = false;
    for (int t = 0; t < 4; t++) differs = differs || key->def_of[t];
    if (key->shown) print_cell(out, key->shown);
    else if (!differs && key->def) (void)fprintf(out, "`%s`", key->def);
    const char *comma = "";
    for (int t = 0; differs && t < 4; t++) {
        const char *text = config_key_default(key, t);
        if (!text || !(key->concerns & 1u << t)) continue;
        (void)fprintf(out, "%s%s `%s`", comma, TYPES[t], text);
        comma = ", ";
    }
}

static void print_backend_rows(FILE *out)
{
    static const char *const TYPES[] = {"local", "peer", "upstream", "scripted"};
    char range[CONFIG_WANT_MAX];
    (void)fputs("\n| key of a backend | takes | default | types | meaning |\n| --- | --- | --- | --- | --- |\n", out);
    for (int i = 0; i < CONFIG_BACKEND_KEYS_COUNT; i++) {
        const struct config_key *key = &CONFIG_BACKEND_KEYS[i];
        (void)fprintf(out, "| `%s` | ", key->name);
        print_cell(out, range_of(key, range));
        (void)fputs(" | ", out);
        print_backend_default(out, key);
        (void)fputs(" | ", out);
        print_who(out, key->concerns, 4, TYPES);
        (void)fputs(" | ", out);
        print_cell(out, key->help);
        (void)fputs(" |\n", out);
    }
}

void config_print_markdown(FILE *out)
{
    struct config *of_tier[TIERS] = {config_base(TIER_EDGE), config_base(TIER_REGION), config_base(TIER_CORE)};
    for (int i = 0; i < CONFIG_SECTIONS_COUNT && of_tier[0] && of_tier[1] && of_tier[2]; i++) {
        const struct config_section *section = &CONFIG_SECTIONS[i];
        (void)fprintf(out, "%s### `%s`\n\n%s\n", i ? "\n" : "", section->name, section->help);
        if (strcmp(section->name, "backends") == 0) print_backend_rows(out);
        else print_key_rows(out, section, (const struct config *const *)of_tier);
    }
    for (int t = 0; t < TIERS; t++) config_free(of_tier[t]);
}
