/* Rows for fitting and scoring, from JSON lines. */
#include "router/train.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

static enum err_code name_copy(char out[64], const char *from, size_t len, struct err *e)
{
    if (len == 0 || len >= 64)
        return err_set_param(e, ERR_INVALID, "tiers", "a model's name in --tiers has 1 to 63 bytes");
    memcpy(out, from, len);
    out[len] = '\0';
    return ERR_OK;
}

/* "small" or "small=a+b+c" */
static enum err_code tier_parse(struct train_rows *rows, const char *list, size_t len, struct err *e)
{
    int t = rows->columns;
    const char *equals = memchr(list, '=', len), *end = list + len, *at = equals ? equals + 1 : list;
    enum err_code code = name_copy(rows->names[t], list, equals ? (size_t)(equals - list) : len, e);
    while (!code && at < end) {
        const char *plus = memchr(at, '+', equals ? (size_t)(end - at) : 0);
        size_t n = (size_t)((plus ? plus : end) - at);
        if (rows->members[t] == TRAIN_MEMBERS)
            return err_set_param(e, ERR_INVALID, "tiers", "at most %d models stand for one tier", TRAIN_MEMBERS);
        code = name_copy(rows->member[t][rows->members[t]++], at, n, e);
        at += n + (plus != NULL);
    }
    rows->columns++;
    return code;
}

enum err_code train_tiers(struct train_rows *rows, const char *list, struct err *e)
{
    *rows = (struct train_rows){0};
    while (*list) {
        size_t len = strcspn(list, ",");
        if (rows->columns == TIERS)
            return err_set_param(e, ERR_INVALID, "tiers", "--tiers takes 2 or 3 models, smallest first");
        enum err_code code = tier_parse(rows, list, len, e);
        if (code) return code;
        list += len + (list[len] == ',');
    }
    if (rows->columns < 2)
        return err_set_param(e, ERR_INVALID, "tiers", "--tiers takes 2 or 3 models, smallest first: small,large");
    return ERR_OK;
}

static void row_release(struct train_row *row)
{
    free(row->text);
    free(row->context);
    free(row->task);
}

void train_rows_release(struct train_rows *rows)
{
    for (size_t i = 0; i < rows->count; i++) row_release(&rows->row[i]);
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

/* The scores of every model asked for. `had`: each tier has at least one. */
static enum err_code row_scores(struct train_row *row, const struct train_rows *rows, const json_t *scores, bool *had,
                                const char *where, struct err *e)
{
    *had = true;
    for (int t = 0; t < rows->columns; t++) {
        bool any = false;
        for (int m = 0; m < rows->members[t]; m++) {
            const char *name = rows->member[t][m];
            const json_t *score = json_object_get(scores, name);
            double value = json_is_true(score) ? 1 : json_number_value(score);
            row->member[t][m] = NAN;
            if (!score) continue;
            if (!(json_is_number(score) || json_is_boolean(score)) || !(value >= 0 && value <= 1))
                return err_set_param(e, ERR_INVALID, name, "%s: the score of %s is no number from 0 to 1", where, name);
            row->member[t][m] = (float)value;
            any = true;
        }
        *had = *had && any;
        row->score[t] = row->member[t][0];
    }
    return ERR_OK;
}

/* One JSON object into a row. `had`: it has a score of every tier. */
static enum err_code row_parse(struct train_row *row, const struct train_rows *rows, const json_t *root, bool *had,
                               const char *where, struct err *e)
{
    const json_t *prompt = json_object_get(root, "prompt"), *messages = json_object_get(root, "messages");
    const json_t *scores = json_object_get(root, "scores"), *task = json_object_get(root, "task");
    if (!json_is_object(scores))
        return err_set_param(e, ERR_INVALID, "scores", "%s: wants \"scores\": {model: 0 to 1}", where);
    enum err_code code = row_scores(row, rows, scores, had, where, e);
    if (code || !*had) return code;
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

/* ---- several models for one tier ---- */

static const double TASK_TOLD = 0.3; /* least mean of the best large model on a task that counts */

/* Means of one member over the rows of each task; tasks are told apart by the first row that has them. */
static void drop_accidents(struct train_rows *rows, const size_t *first, double *sum, double *count, int t)
{
    size_t n = rows->count, members = (size_t)rows->members[t];
    memset(sum, 0, n * TRAIN_MEMBERS * sizeof *sum);
    memset(count, 0, n * TRAIN_MEMBERS * sizeof *count);
    for (size_t i = 0; i < n; i++)
        for (size_t m = 0; m < members; m++) {
            if (isnan(rows->row[i].member[t][m])) continue;
            sum[first[i] * TRAIN_MEMBERS + m] += (double)rows->row[i].member[t][m];
            count[first[i] * TRAIN_MEMBERS + m]++;
        }
    for (size_t i = 0; i < n; i++) {
        double best = 0, total = 0, kept = 0;
        const double *s = sum + first[i] * TRAIN_MEMBERS, *c = count + first[i] * TRAIN_MEMBERS;
        for (size_t m = 0; m < members; m++)
            if (c[m] > 0 && s[m] / c[m] > best) best = s[m] / c[m];
        bool told = t < rows->columns - 1 || best >= TASK_TOLD; /* else not even the largest models were understood */
        for (size_t m = 0; m < members; m++) {
            if (isnan(rows->row[i].member[t][m]) || s[m] / c[m] < best / 3) continue;
            total += (double)rows->row[i].member[t][m];
            kept++;
        }
        rows->row[i].score[t] = told && kept > 0 ? (float)(total / kept) : NAN;
    }
}

struct by_task {
    const char *task;
    size_t row;
};
static int compare_tasks(const void *a, const void *b)
{
    const struct by_task *x = a, *y = b;
    int order = strcmp(x->task, y->task);
    return order ? order : (x->row > y->row) - (x->row < y->row);
}

/* A tier's score from its members'; rows that lose all of a tier go. */
static bool settle_members(struct train_rows *rows)
{
    size_t n = rows->count, to = 0;
    size_t *first = malloc((n + 1) * sizeof *first);
    struct by_task *tasks = malloc((n + 1) * sizeof *tasks);
    double *sum = malloc((n + 1) * TRAIN_MEMBERS * sizeof *sum), *count = malloc((n + 1) * TRAIN_MEMBERS * sizeof *count);
    bool ok = first && tasks && sum && count;
    for (size_t i = 0; ok && i < n; i++) tasks[i] = (struct by_task){rows->row[i].task, i};
    if (ok) qsort(tasks, n, sizeof *tasks, compare_tasks);
    for (size_t i = 0; ok && i < n; i++)
        first[tasks[i].row] = i && strcmp(tasks[i].task, tasks[i - 1].task) == 0 ? first[tasks[i - 1].row] : tasks[i].row;
    for (int t = 0; ok && t < rows->columns; t++) drop_accidents(rows, first, sum, count, t);
    for (size_t i = 0; ok && i < n; i++) {
        bool whole = true;
        for (int t = 0; t < rows->columns; t++) whole = whole && !isnan(rows->row[i].score[t]);
        if (whole) rows->row[to++] = rows->row[i];
        else row_release(&rows->row[i]);
    }
    if (ok) {
        rows->skipped += n - to;
        rows->count = to;
    }
    free(first);
    free(tasks);
    free(sum);
    free(count);
    return ok;
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
    bool together = false;
    for (int t = 0; t < rows->columns; t++) together = together || rows->members[t] > 1;
    if (!code && together && !settle_members(rows)) code = err_set(e, ERR_MEMORY, "out of memory reading %.120s", what);
    return code;
}
