#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct err_row {
    const char *name, *text;
    int http;
    const char *type;
    bool retryable;
};

static const struct err_row ROWS[ERR_CODES] = {
#define X(code, name, text, http, type, retry) [code] = {name, text, http, type, retry},
    ERR_TABLE(X)
#undef X
};

static const struct err_row *row(enum err_code code)
{
    if ((unsigned)code >= ERR_CODES) return &ROWS[ERR_INTERNAL];
    return &ROWS[code];
}

const char *err_name(enum err_code code)
{
    return row(code)->name;
}

const char *err_text(enum err_code code)
{
    return row(code)->text;
}

int err_http_status(enum err_code code)
{
    return row(code)->http;
}

const char *err_openai_type(enum err_code code)
{
    return row(code)->type;
}

bool err_retryable(enum err_code code)
{
    return row(code)->retryable;
}

enum err_code err_from_name(const char *name)
{
    for (int i = 0; name && i < ERR_CODES; i++)
        if (strcmp(ROWS[i].name, name) == 0) return (enum err_code)i;
    return ERR_INTERNAL;
}

static enum err_code set(struct err *e, enum err_code code, const char *param, const char *format, va_list args)
{
    if (!e) return code;
    e->code = code;
    (void)snprintf(e->param, sizeof e->param, "%s", param ? param : "");
    (void)vsnprintf(e->msg, sizeof e->msg, format, args);
    return code;
}

enum err_code err_set(struct err *e, enum err_code code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    set(e, code, NULL, format, args);
    va_end(args);
    return code;
}

enum err_code err_set_param(struct err *e, enum err_code code, const char *param, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    set(e, code, param, format, args);
    va_end(args);
    return code;
}
