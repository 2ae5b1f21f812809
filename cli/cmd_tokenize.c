#include "cli/cli.h"
#include "engine/engine.h"
#include "engine/gguf.h"
#include "engine/tokenizer.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The file's metadata is enough: no weights are read, and a vocabulary-only file will do. */

enum { INPUT_MAX = 64 << 20 };

static void help(FILE *out)
{
    (void)fputs("usage: rung tokenize -m FILE [--no-special] [--add] [--pieces] < TEXT\n"
                "\n"
                "Prints the token ids of the text on stdin, byte for byte as it comes (a last newline counts), on one\n"
                "line with spaces between.\n"
                "\n"
                "  -m, --model FILE  a GGUF file; one with a vocabulary alone will do\n"
                "      --no-special  take the names of special tokens (<|im_end|>, </s> ...) as plain text\n"
                "      --add         add BOS and EOS where the file asks for them\n"
                "      --pieces      one token a line instead: its id, a tab, its bytes as a quoted string\n"
                "\n"
                "  printf 'Hello world' | rung tokenize -m model.gguf\n",
                out);
}

static enum err_code read_input(struct buf *text, struct err *e)
{
    char chunk[65536];
    ssize_t n;
    while ((n = read(STDIN_FILENO, chunk, sizeof chunk)) > 0)
        if (buf_add(text, chunk, (size_t)n)) return err_set(e, text->failed, "stdin: more than %d bytes", INPUT_MAX);
    return n < 0 ? err_set(e, ERR_IO, "stdin cannot be read") : ERR_OK;
}

static void print_pieces(const struct tokenizer *t, const int32_t *ids, int count)
{
    for (int i = 0; i < count; i++) {
        char piece[1024];
        size_t len = tokenizer_bytes(t, ids[i], true, piece, sizeof piece);
        if (len > sizeof piece) len = sizeof piece;
        (void)printf("%d\t\"", ids[i]);
        for (size_t k = 0; k < len; k++) {
            unsigned char c = (unsigned char)piece[k];
            if (c == '"' || c == '\\') (void)printf("\\%c", c);
            else if (c == '\n') (void)fputs("\\n", stdout);
            else if (c < 0x20 || c == 0x7F) (void)printf("\\x%02x", c);
            else (void)putchar(c);
        }
        (void)puts("\"");
    }
}

static enum err_code tokenize(const char *path, int flags, bool pieces, struct err *e)
{
    struct gguf *gguf = NULL;
    struct tokenizer *t = NULL;
    struct buf text;
    int32_t *ids = NULL;
    int count = 0;
    buf_init(&text, INPUT_MAX);
    enum err_code code = gguf_open(&gguf, path, e);
    if (!code) code = tokenizer_open(&t, gguf, e);
    if (!code) code = read_input(&text, e);
    if (!code) code = tokenizer_encode(t, text.data, text.len, flags, &ids, &count, e);
    if (!code && pieces) {
        print_pieces(t, ids, count);
    } else if (!code) {
        for (int i = 0; i < count; i++) (void)printf(i ? " %d" : "%d", ids[i]);
        (void)putchar('\n');
    }
    if (!code && fflush(stdout) != 0) code = err_set(e, ERR_IO, "stdout cannot be written");
    free(ids);
    buf_release(&text);
    tokenizer_close(t);
    gguf_close(gguf);
    return code;
}

int cmd_tokenize(int argc, char **argv)
{
    enum { NO_SPECIAL = 256, ADD, PIECES };
    static const struct option OPTIONS[] = {
        {"model", required_argument, NULL, 'm'}, {"no-special", no_argument, NULL, NO_SPECIAL},
        {"add", no_argument, NULL, ADD},         {"pieces", no_argument, NULL, PIECES},
        {"help", no_argument, NULL, 'h'},        {NULL, 0, NULL, 0},
    };
    const char *path = NULL;
    int flags = ENGINE_TOKENIZE_SPECIAL;
    bool pieces = false;
    optind = 1;
    for (int c; (c = getopt_long(argc, argv, "m:h", OPTIONS, NULL)) != -1;) {
        if (c == 'h') {
            help(stdout);
            return CLI_OK;
        }
        if (c == 'm') path = optarg;
        else if (c == NO_SPECIAL) flags &= ~ENGINE_TOKENIZE_SPECIAL;
        else if (c == ADD) flags |= ENGINE_TOKENIZE_ADD;
        else if (c == PIECES) pieces = true;
        else return CLI_USAGE;
    }
    if (!path || optind < argc) {
        help(stderr);
        return CLI_USAGE;
    }
    struct err e = {0};
    if (tokenize(path, flags, pieces, &e)) {
        (void)fprintf(stderr, "rung tokenize: %s\n", e.msg);
        return CLI_FAILED;
    }
    return CLI_OK;
}
