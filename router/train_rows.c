/* Rows for fitting and scoring, from JSON lines. */
#include "router/train.h"

#include <errno.h>
#include <jansson.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

enum err_code train_tiers(struct train_rows *rows, const char *list, struct err *e)
{
    *rows = (struct train_rows){0};
    while (*list) {
        size_t len = strcspn(list, ",");
        if (rows->columns == TIERS)
            return err_set_param(e, ERR_INVALID, "tiers", "--tiers takes 2 or 3 models, smallest first");
        if (len == 0 || len >= sizeof rows->names[0])
            return err_set_param(e, ERR_INVALID, "tiers", "a model's name in --tiers has 1 to 63 bytes");
        memcpy(rows->names[rows->columns++], list, len);
        list += len + (list[len] == ',');
    }
    if (rows->columns < 2)
        return err_set_param(e, ERR_INVALID, "tiers", "--tiers takes 2 or 3 models, smallest first: small,large");
    return ERR_OK;
}

void train_rows_release(struct train_rows *rows)
{
    for (size_t i = 0; i < rows->count; i++) {
        free(rows->row[i].text);
        free(rows->row[i].context);
        free(rows->row[i].task);
    }
    free(rows->row);
    rows->row = NULL;
    rows->count = rows->cap = 0;
}

struct router_input train_input(const struct train_row *row)
{
    return (struct router_input){.text = row->text,
                                 .text_len = row->text_len,
                                 .context = row->context,
                                 .context_len = row->context_len,
                                 .turns = row->turns,
                                 .tools = row->tools,
                                 .json = row->json};
}

static bool take_string(char **out, size_t *len, const json_t *value)
{
    if (!json_is_string(value)) return false;
    *len = json_string_length(value);
    *out = malloc(*len + 1);
    if (*out) memcpy(*out, json_string_value(value), *len + 1);
    return *out != NULL;
}

/* The last user message is the text, what stood before it the context. */
static bool take_messages(struct train_row *row, const json_t *messages)
{
    size_t n = json_array_size(messages), last = n, bytes = 0;
    for (size_t i = n; i-- > 0 && last == n;) {
        const char *role = json_string_value(json_object_get(json_array_get(messages, i), "role"));
        if (role && strcmp(role, "user") == 0) last = i;
    }
    if (last == n || !take_string(&row->text, &row->text_len, json_object_get(json_array_get(messages, last), "content")))
        return false;
    row->turns = (int)(n < 10000 ? n : 10000);
    for (size_t i = 0; i < last; i++)
        bytes += json_string_length(json_object_get(json_array_get(messages, i), "content")) + 1;
    row->context = malloc(bytes + 1);
    if (!row->context) return false;
    for (size_t i = 0; i < last; i++) {
        const json_t *content = json_object_get(json_array_get(messages, i), "content");
        size_t len = json_string_length(content);
        if (len) memcpy(row->context + row->context_len, json_string_value(content), len);
        row->context_len += len;
        row->context[row->context_len++] = '\n';
    }
    return true;
}

static int fold_of(const struct train_row *row)
{
    unsigned char hash[16];
    (void)crypto_generichash(hash, sizeof hash, (const unsigned char *)row->text, row->text_len, NULL, 0);
    return (hash[0] | hash[1] << 8) % TRAIN_FOLDS;
}

/* One JSON object into a row. `had`: it has a score of every tier. */
static enum err_code row_parse(struct train_row *row, const struct train_rows *rows, const json_t *root, bool *had,
                               const char *where, struct err *e)
{
    const json_t *prompt = json_object_get(root, "prompt"), *messages = json_object_get(root, "messages");
    const json_t *scores = json_object_get(root, "scores"), *task = json_object_get(root, "task");
    if (!json_is_object(scores))
        return err_set_param(e, ERR_INVALID, "scores", "%s: wants \"scores\": {model: 0 to 1}", where);
    *had = true;
    for (int t = 0; t < rows->columns; t++) {
        const json_t *score = json_object_get(scores, rows->names[t]);
        if (!score) {
            *had = false;
            return ERR_OK;
        }
        double value = json_is_boolean(score) ? json_is_true(score) : json_number_value(score);
        if (!(json_is_number(score) || json_is_boolean(score)) || !(value >= 0 && value <= 1))
            return err_set_param(e, ERR_INVALID, rows->names[t], "%s: the score of %s is no number from 0 to 1", where,
                                 rows->names[t]);
        row->score[t] = (float)value;
    }
    double sum = 0, models = 0;
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)scores, name, value)
    {
        sum += json_is_true(value) ? 1 : json_number_value(value);
        models++;
    }
    row->mean_score = (float)(sum / models);
    row->turns = 1;
    bool ok = json_is_array(messages) && json_array_size(messages) > 0 ? take_messages(row, messages)
                                                                      : take_string(&row->text, &row->text_len, prompt);
    if (!ok)
        return err_set_param(e, ERR_INVALID, "prompt",
                             "%s: wants \"prompt\": text, or \"messages\" with a user's message", where);
    size_t len;
    if (!take_string(&row->task, &len, task)) row->task = strdup("");
    row->tools = json_array_size(json_object_get(root, "tools")) > 0;
    row->json = json_object_get(root, "response_format") != NULL;
    row->fold = fold_of(row);
    return row->task ? ERR_OK : err_set(e, ERR_MEMORY, "%s: out of memory", where);
}

static struct train_row *row_new(struct train_rows *rows)
{
    if (rows->count == rows->cap) {
        size_t cap = rows->cap ? rows->cap * 2 : 1024;
        struct train_row *grown = cap <= 2 * (size_t)TRAIN_ROWS_MAX ? realloc(rows->row, cap * sizeof *grown) : NULL;
        if (!grown) return NULL;
        rows->row = grown;
        rows->cap = cap;
    }
    rows->row[rows->count] = (struct train_row){0};
    return &rows->row[rows->count];
}

static enum err_code line_parse(struct train_rows *rows, const char *line, size_t len, const char *where, struct err *e)
{
    json_error_t at;
    json_t *root = json_loadb(line, len, 0, &at);
    if (!root) return err_set(e, ERR_SYNTAX, "%s: not one JSON object: %s", where, at.text);
    struct train_row *row = row_new(rows);
    bool had = false;
    enum err_code code = row ? row_parse(row, rows, root, &had, where, e)
                             : err_set(e, ERR_MEMORY, "%s: out of memory", where);
    json_decref(root);
    if (row) rows->count++; /* so that release frees what it took */
    if (!code && !had) {
        rows->count--;
        rows->skipped++;
    }
    return code;
}

enum err_code train_rows_read(struct train_rows *rows, FILE *file, const char *what, struct err *e)
{
    char *line = NULL, where[160];
    size_t cap = 0;
    ssize_t len;
    enum err_code code = ERR_OK;
    for (int64_t number = 1; !code && (len = getline(&line, &cap, file)) >= 0; number++) {
        (void)snprintf(where, sizeof where, "%.120s line %lld", what, (long long)number);
        if (len > TRAIN_LINE_MAX || rows->count >= TRAIN_ROWS_MAX)
            code = err_set(e, ERR_TOO_LARGE, "%s: more than %d MiB a line or %d rows", where, TRAIN_LINE_MAX >> 20,
                           TRAIN_ROWS_MAX);
        else if (strspn(line, " \t\r\n") < (size_t)len) code = line_parse(rows, line, (size_t)len, where, e);
    }
    if (!code && ferror(file)) code = err_set(e, ERR_IO, "%.120s: %s", what, strerror(errno));
    free(line);
    return code;
}
