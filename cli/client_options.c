#include "cli/client_options.h"

#include <stdio.h>
#include <string.h>

static const struct cli_option *find(const struct cli_option *options, int count, const char *word, size_t len)
{
    for (int i = 0; i < count; i++)
        if (strlen(options[i].name) == len && strncmp(options[i].name, word, len) == 0) return &options[i];
    return NULL;
}

/* Takes the option at argv[*at], and its value where it has one. */
static bool take(int argc, char **argv, int *at, const struct cli_option *options, int count)
{
    const char *word = argv[*at];
    size_t len = strcspn(word, "=");
    const struct cli_option *option = find(options, count, word, len);
    bool joined = word[len] == '=';
    if (!option || (joined && !option->value)) {
        (void)fprintf(stderr, "rung %s: no option '%s'; rung %s --help lists them\n", argv[0], word, argv[0]);
        return false;
    }
    if (!option->value) {
        *option->flag = true;
        return true;
    }
    if (!joined && *at + 1 >= argc) {
        (void)fprintf(stderr, "rung %s: %s wants a value\n", argv[0], word);
        return false;
    }
    *option->value = joined ? word + len + 1 : argv[++*at];
    return true;
}

int cli_options_read(int argc, char **argv, const struct cli_option *options, int option_count)
{
    int left = 0;
    bool ended = false;
    for (int i = 1; i < argc; i++) {
        if (!ended && strcmp(argv[i], "--") == 0) ended = true;
        else if (ended || argv[i][0] != '-' || !argv[i][1]) argv[1 + left++] = argv[i];
        else if (!take(argc, argv, &i, options, option_count)) return -1;
    }
    return left;
}

bool cli_tier_read(const char *command, const char *text, enum tier fallback, enum tier *out)
{
    *out = text ? tier_from_name(text) : fallback;
    if (*out != TIER_NONE) return true;
    (void)fprintf(stderr, "rung %s: --tier: got '%s', want edge, region or core\n", command, text);
    return false;
}
