/* A blocking HTTP client of a few lines, for tests of the front: what is sent is exactly what the test says. */
#ifndef RUNG_TESTS_NODE_HTTP_CLIENT_H
#define RUNG_TESTS_NODE_HTTP_CLIENT_H

#include <arpa/inet.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct response {
    int status;
    char head[8192];
    char *body; /* (body_len), closed by a NUL */
    size_t body_len;
    bool whole; /* it ended as its head promised */
};

static inline int client_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) return fd;
    (void)close(fd);
    return -1;
}

static inline int client_tcp(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static inline bool client_send(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
        if (n <= 0) return false;
        data += n;
        len -= (size_t)n;
    }
    return true;
}

/* One byte, or -1 at the end. Ten seconds of silence fail the test. */
static inline int client_byte(int fd)
{
    unsigned char c;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 10000), 1);
    return recv(fd, &c, 1, 0) == 1 ? c : -1;
}

static inline bool client_line(int fd, char *line, size_t size)
{
    size_t n = 0;
    for (int c; (c = client_byte(fd)) != '\n'; n++) {
        if (c < 0 || n + 1 >= size) return false;
        line[n] = (char)c;
    }
    if (n && line[n - 1] == '\r') n--;
    line[n] = 0;
    return true;
}

static inline void response_add(struct response *r, int c)
{
    r->body = realloc(r->body, r->body_len + 2);
    assert_non_null(r->body);
    r->body[r->body_len++] = (char)c;
    r->body[r->body_len] = 0;
}

static inline const char *response_header(const struct response *r, const char *name, char *out, size_t size)
{
    size_t len = strlen(name);
    for (const char *at = r->head; at && *at; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : NULL) {
        if (strncasecmp(at, name, len) != 0 || at[len] != ':') continue;
        (void)snprintf(out, size, "%.*s", (int)strcspn(at + len + 2, "\n"), at + len + 2);
        return out;
    }
    return "";
}

static inline void client_body(int fd, struct response *r)
{
    char text[64];
    if (strcmp(response_header(r, "Transfer-Encoding", text, sizeof text), "chunked") == 0) {
        char line[64];
        while (client_line(fd, line, sizeof line)) {
            long left = strtol(line, NULL, 16);
            for (long i = 0, c; i < left && (c = client_byte(fd)) >= 0; i++) response_add(r, (int)c);
            (void)client_line(fd, line, sizeof line);
            if (left == 0) {
                r->whole = true;
                return;
            }
        }
        return;
    }
    long left = atol(response_header(r, "Content-Length", text, sizeof text));
    int c = 0;
    while (left > 0 && (c = client_byte(fd)) >= 0) {
        response_add(r, c);
        left--;
    }
    r->whole = left == 0;
}

/* Head only; status 0 when the connection ended instead. */
static inline void client_head(int fd, struct response *r)
{
    *r = (struct response){.body = calloc(1, 1)};
    char line[2048];
    if (!client_line(fd, line, sizeof line) || sscanf(line, "HTTP/1.%*d %d", &r->status) != 1) return;
    size_t n = 0;
    while (client_line(fd, line, sizeof line) && line[0])
        n += (size_t)snprintf(r->head + n, sizeof r->head - n, "%s\n", line);
    if (r->status == 100) {
        free(r->body);
        client_head(fd, r);
    }
}

static inline void client_read(int fd, struct response *r)
{
    client_head(fd, r);
    if (r->status) client_body(fd, r);
}

/* A request with a body (NULL: none); `headers` are whole lines with their ends. */
static inline void client_write(int fd, const char *method, const char *path, const char *headers, const char *body)
{
    size_t len = body ? strlen(body) : 0, size = len + strlen(headers) + 256;
    char *text = malloc(size);
    assert_non_null(text);
    int n = snprintf(text, size, "%s %s HTTP/1.1\r\nHost: localhost\r\n%s", method, path, headers);
    if (body) n += snprintf(text + n, size - (size_t)n, "Content-Length: %zu\r\n", len);
    n += snprintf(text + n, size - (size_t)n, "\r\n%s", body ? body : "");
    (void)client_send(fd, text, (size_t)n);
    free(text);
}

static inline void response_free(struct response *r)
{
    free(r->body);
    r->body = NULL;
}

#endif
