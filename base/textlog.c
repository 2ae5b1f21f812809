#include "base/textlog.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Set once at start, before any thread: the only process-wide state in this room. */
static enum textlog_level threshold = TEXTLOG_INFO;
static char node_name[64];

static const char *const LEVELS[] = {"debug", "info", "warn", "error"};

void textlog_setup(enum textlog_level level, const char *node)
{
    threshold = level;
    (void)snprintf(node_name, sizeof node_name, "%s", node ? node : "");
}

void textlog(enum textlog_level level, const char *event, const char *format, ...)
{
    if (level < threshold) return;
    char line[1024];
    struct timespec now;
    struct tm utc;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)gmtime_r(&now.tv_sec, &utc);
    size_t n = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &utc);
    n += (size_t)snprintf(line + n, sizeof line - n, ".%03ldZ %s %s%s%s ", now.tv_nsec / 1000000, LEVELS[level],
                          event, node_name[0] ? " node=" : "", node_name);
    va_list args;
    va_start(args, format);
    int m = vsnprintf(line + n, sizeof line - n, format, args);
    va_end(args);
    if (m > 0) n += (size_t)m;
    if (n > sizeof line - 2) n = sizeof line - 2;
    line[n++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, n);
    (void)written; /* there is nowhere left to report it */
}

const char *textlog_quote(const char *text, char *out, size_t size)
{
    size_t n = 0;
    if (size < 4) return "\"\"";
    out[n++] = '"';
    for (const unsigned char *p = (const unsigned char *)(text ? text : ""); *p; p++) {
        if (n + 4 >= size) {
            out[n++] = '~';
            break;
        }
        if (*p < 0x20 || *p == 0x7f) {
            out[n++] = '?';
        } else {
            if (*p == '"' || *p == '\\') out[n++] = '\\';
            out[n++] = (char)*p;
        }
    }
    out[n++] = '"';
    out[n] = 0;
    return out;
}
