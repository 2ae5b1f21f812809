#include "cli/cli.h"

#include "engine/model_quantize.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void help(void)
{
    (void)fputs("usage: rung quantize IN OUT TYPE\n"
                "\n"
                "Writes the model IN (best F32, F16 or BF16) as OUT with its matrices in TYPE; norms and biases stay as they are.\n"
                "Types ending in _M give some layers a finer type. Smaller files decode faster and answer a little worse.\n"
                "FP8 and W4A16 are meant for GPUs; other programs do not read them. Large or small letters are the same.\n"
                "\n"
                "  TYPE  one of",
                stdout);
    for (int i = 0; quantize_mix_name(i); i++) (void)printf(" %s", quantize_mix_name(i));
    (void)fputs("\n\nExample: rung quantize model.f16.gguf model.q4_k_m.gguf Q4_K_M\n", stdout);
}

static void show(void *ctx, const struct gguf_tensor *t, enum gguf_type to, int index, int count)
{
    (void)ctx;
    (void)fprintf(stderr, "[%d/%d] %.*s %s -> %s\n", index + 1, count, (int)t->name.len, t->name.data,
                  gguf_type_info((uint32_t)t->type)->name, gguf_type_info((uint32_t)to)->name);
}

int cmd_quantize(int argc, char **argv)
{
    struct quantize_mix mix;
    struct err e = {0};
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        help();
        return CLI_OK;
    }
    if (argc != 4) {
        (void)fputs("rung quantize: IN, OUT and TYPE are needed; rung quantize --help says more\n", stderr);
        return CLI_USAGE;
    }
    if (!quantize_mix_find(argv[3], &mix)) {
        (void)fprintf(stderr, "rung quantize: no type '%s'; rung quantize --help lists them\n", argv[3]);
        return CLI_USAGE;
    }
    if (quantize_file(argv[1], argv[2], &mix, isatty(STDERR_FILENO) ? show : NULL, NULL, &e)) {
        (void)fprintf(stderr, "rung quantize: %s\n", e.msg);
        return CLI_FAILED;
    }
    return CLI_OK;
}
