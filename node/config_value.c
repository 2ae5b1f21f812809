/* One value: from text into its place, and back to YAML. */
#include "node/config_keys.h"

#include <errno.h>
#include <math.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

static char **text_at(const struct config_key *key, void *base)
{
    return (char **)(void *)((char *)base + key->offset);
}

static const void *at(const struct config_key *key, const void *base)
{
    return (const char *)base + key->offset;
}

/* The place of `text` in "a|b|c", or -1. */
static int choice_index(const char *choices, const char *text)
{
    size_t len = strlen(text);
    int index = 0;
    for (const char *p = choices; *p; index++) {
        size_t word = strcspn(p, "|");
        if (word == len && memcmp(p, text, len) == 0) return index;
        p += word;
        if (*p == '|') p++;
    }
    return -1;
}

static int choice_word(const char *choices, int index, const char **word)
{
    const char *p = choices;
    for (; index > 0 && *p; index--) {
        p += strcspn(p, "|");
        if (*p == '|') p++;
    }
    *word = p;
    return (int)strcspn(p, "|");
}

static enum err_code set_text(const struct config_key *key, char **place, const char *text)
{
    if (key->type == KEY_WORD && choice_index(key->choices, text) < 0) return ERR_INVALID;
    if (key->type == KEY_TEXT && strlen(text) > (size_t)key->max) return ERR_INVALID;
    char *copy = NULL;
    if (*text) {
        copy = strdup(text);
        if (!copy) return ERR_MEMORY;
    }
    free(*place);
    *place = copy;
    return ERR_OK;
}

static enum err_code add_item(const struct config_key *key, struct config_list *list, const char *text)
{
    if (!*text || strlen(text) > (size_t)key->max || list->count == CONFIG_LIST_MAX) return ERR_INVALID;
    char *copy = strdup(text);
    if (!copy) return ERR_MEMORY;
    list->items[list->count++] = copy;
    return ERR_OK;
}

static enum err_code set_int(const struct config_key *key, void *place, const char *text)
{
    bool octal = key->type == KEY_OCTAL;
    const char *digits = text + (*text == '-' && !octal);
    if (!*digits || strspn(digits, octal ? "01234567" : "0123456789") != strlen(digits)) return ERR_INVALID;
    errno = 0;
    long long value = strtoll(text, NULL, octal ? 8 : 10);
    if (errno != 0 || (double)value < key->min || (double)value > key->max) return ERR_INVALID;
    if (key->type == KEY_INT64) {
        int64_t wide = value;
        memcpy(place, &wide, sizeof wide);
    } else {
        int narrow = (int)value;
        memcpy(place, &narrow, sizeof narrow);
    }
    return ERR_OK;
}

static enum err_code set_real(const struct config_key *key, double *place, const char *text)
{
    if (!*text || strspn(text, "0123456789.eE+-") != strlen(text)) return ERR_INVALID;
    char *end;
    double value = strtod(text, &end);
    if (*end || !isfinite(value) || value < key->min || value > key->max) return ERR_INVALID;
    *place = value;
    return ERR_OK;
}

static enum err_code set_bool(const struct config_key *key, bool *place, const char *text)
{
    int index = key->choices ? choice_index(key->choices, text) : choice_index("false|true|no|yes|off|on", text);
    if (index < 0) return ERR_INVALID;
    *place = index % 2 != 0;
    return ERR_OK;
}

static enum err_code set_choice(const struct config_key *key, void *place, const char *text)
{
    int index = choice_index(key->choices, text);
    if (index < 0) return ERR_INVALID;
    memcpy(place, &index, sizeof index);
    return ERR_OK;
}

enum err_code config_value_set(const struct config_key *key, void *base, const char *text)
{
    void *place = (char *)base + key->offset;
    switch (key->type) {
    case KEY_TEXT:
    case KEY_WORD: return set_text(key, text_at(key, base), text);
    case KEY_INT:
    case KEY_INT64:
    case KEY_OCTAL: return set_int(key, place, text);
    case KEY_REAL: return set_real(key, place, text);
    case KEY_BOOL: return set_bool(key, place, text);
    case KEY_CHOICE: return set_choice(key, place, text);
    case KEY_LIST: return add_item(key, place, text);
    }
    return ERR_INTERNAL;
}

void config_value_clear(const struct config_key *key, void *base)
{
    if (key->type == KEY_TEXT || key->type == KEY_WORD) {
        free(*text_at(key, base));
        *text_at(key, base) = NULL;
    }
    if (key->type == KEY_LIST) {
        struct config_list *list = (struct config_list *)(void *)((char *)base + key->offset);
        for (int i = 0; i < list->count; i++) free(list->items[i]);
        memset(list, 0, sizeof *list);
    }
}

bool config_value_is_set(const struct config_key *key, const void *base)
{
    if (key->type == KEY_TEXT || key->type == KEY_WORD) return *(char *const *)at(key, base) != NULL;
    if (key->type == KEY_LIST) return ((const struct config_list *)at(key, base))->count > 0;
    return true;
}

static const char *number(double value, char out[32])
{
    (void)snprintf(out, 32, "%.6g", value);
    if (strtod(out, NULL) != value) (void)snprintf(out, 32, "%.17g", value);
    return out;
}

static const char *want_number(const struct config_key *key, const char *kind, char out[CONFIG_WANT_MAX])
{
    char low[32], high[32];
    (void)snprintf(low, sizeof low, "%.15g", key->min);
    (void)snprintf(high, sizeof high, "%.15g", key->max);
    (void)snprintf(out, CONFIG_WANT_MAX, "%s from %s to %s%s%s", kind, low, high, key->unit ? " " : "",
                   key->unit ? key->unit : "");
    return out;
}

const char *config_key_want(const struct config_key *key, char out[CONFIG_WANT_MAX])
{
    switch (key->type) {
    case KEY_TEXT: (void)snprintf(out, CONFIG_WANT_MAX, "text of at most %.0f bytes", key->max); break;
    case KEY_INT:
    case KEY_INT64: return want_number(key, "a whole number", out);
    case KEY_OCTAL: (void)snprintf(out, CONFIG_WANT_MAX, "a file mode in octal, such as 0660"); break;
    case KEY_REAL: return want_number(key, "a number", out);
    case KEY_BOOL:
        if (!key->choices) {
            (void)snprintf(out, CONFIG_WANT_MAX, "true or false");
            break;
        } /* fall through */
    case KEY_WORD:
    case KEY_CHOICE: (void)snprintf(out, CONFIG_WANT_MAX, "one of %s", key->choices); break;
    case KEY_LIST:
        (void)snprintf(out, CONFIG_WANT_MAX, "a list of at most %d texts of at most %.0f bytes", CONFIG_LIST_MAX,
                       key->max);
        break;
    }
    return out;
}

/* Plain where YAML reads it back as the same text, else double-quoted. */
static void print_text(FILE *out, const char *text)
{
    static const char *const WORDS[] = {"null", "~", "Null", "NULL"};
    bool plain = *text && *text != '-' &&
                 strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789./_-") == strlen(text);
    for (size_t i = 0; i < sizeof WORDS / sizeof WORDS[0]; i++) plain = plain && strcmp(text, WORDS[i]) != 0;
    if (plain) {
        (void)fputs(text, out);
        return;
    }
    (void)fputc('"', out);
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        if (*p == '"' || *p == '\\') (void)fprintf(out, "\\%c", *p);
        else if (*p < 0x20 || *p == 0x7f) (void)fprintf(out, "\\x%02x", *p);
        else (void)fputc(*p, out);
    }
    (void)fputc('"', out);
}

static void print_list(FILE *out, const struct config_list *list)
{
    (void)fputc('[', out);
    for (int i = 0; i < list->count; i++) {
        if (i) (void)fputs(", ", out);
        print_text(out, list->items[i]);
    }
    (void)fputc(']', out);
}

static void print_choice(FILE *out, const char *choices, int index)
{
    const char *word;
    int len = choice_word(choices, index, &word);
    (void)fprintf(out, "%.*s", len, word);
}

void config_value_print(FILE *out, const struct config_key *key, const void *base)
{
    const void *place = at(key, base);
    char digits[32];
    switch (key->type) {
    case KEY_TEXT:
    case KEY_WORD: print_text(out, *(char *const *)place ? *(char *const *)place : ""); break;
    case KEY_INT: (void)fprintf(out, "%d", *(const int *)place); break;
    case KEY_INT64: (void)fprintf(out, "%lld", (long long)*(const int64_t *)place); break;
    case KEY_OCTAL: (void)fprintf(out, "%04o", (unsigned)*(const int *)place); break;
    case KEY_REAL: (void)fputs(number(*(const double *)place, digits), out); break;
    case KEY_BOOL: print_choice(out, key->choices ? key->choices : "false|true", *(const bool *)place); break;
    case KEY_CHOICE: print_choice(out, key->choices, *(const int *)place); break;
    case KEY_LIST: print_list(out, place); break;
    }
}

enum err_code config_uids(const struct config_list *list, const char *key, uid_t out[CONFIG_LIST_MAX], struct err *e)
{
    for (int i = 0; i < list->count; i++) {
        char *end = NULL;
        unsigned long number = strtoul(list->items[i], &end, 10);
        if (list->items[i][0] >= '0' && list->items[i][0] <= '9' && *end == 0 && number < UINT32_MAX) {
            out[i] = (uid_t)number;
            continue;
        }
        const struct passwd *user = getpwnam(list->items[i]);
        if (!user) return err_set(e, ERR_INVALID, "%s: there is no user '%s'", key, list->items[i]);
        out[i] = user->pw_uid;
    }
    return ERR_OK;
}
