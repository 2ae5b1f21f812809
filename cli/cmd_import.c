#include "cli/cli.h"
#include "cli/import.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static void help(FILE *out)
{
    (void)fputs("usage: rung import SOURCE OUT.gguf [--type f32|f16|bf16] [--pre NAME] [--copy]\n"
                "\n"
                "Makes a model file from what other programs keep:\n"
                "\n"
                "  a folder of Hugging Face's (config.json, *.safetensors, tokenizer.json or tokenizer.model), of the\n"
                "  Llama, Mistral, Qwen2, Qwen3, Qwen3Moe, Phi3, Gemma2, Gemma3 or Granite kind\n"
                "  a model that Ollama has pulled, by its name; its file is linked, not copied\n"
                "\n"
                "      --type TYPE  the type of the matrices; otherwise they keep their own\n"
                "      --pre NAME   the pre-tokenizer, where it is not recognized (gpt-2, llama-bpe, qwen2 ...)\n"
                "      --copy       copy Ollama's file\n"
                "\n"
                "  rung import ~/models/Qwen2.5-0.5B-Instruct qwen.gguf\n"
                "  rung import llama3.2:1b llama.gguf\n",
                out);
}

static bool read_type(const char *name, int *type)
{
    static const struct {
        const char *name;
        enum gguf_type type;
    } TYPES[] = {{"f32", GGUF_F32}, {"f16", GGUF_F16}, {"bf16", GGUF_BF16}};
    for (size_t i = 0; i < sizeof TYPES / sizeof TYPES[0]; i++)
        if (strcasecmp(name, TYPES[i].name) == 0) {
            *type = (int)TYPES[i].type;
            return true;
        }
    (void)fprintf(stderr, "rung import: --type %s: f32, f16 or bf16 would be right\n", name);
    return false;
}

static int import(const struct import_options *o)
{
    struct stat st;
    struct err e = {0};
    bool folder = stat(o->source, &st) == 0 && S_ISDIR(st.st_mode);
    if (folder ? import_folder(o, &e) : import_ollama(o, &e)) {
        (void)fprintf(stderr, "rung import: %s\n", e.msg);
        return CLI_FAILED;
    }
    struct gguf *gguf; /* what was made must open */
    if (gguf_open(&gguf, o->out, &e)) {
        (void)fprintf(stderr, "rung import: %s\n", e.msg);
        return CLI_FAILED;
    }
    struct gguf_string arch = gguf_str(gguf, "general.architecture");
    (void)printf("%s: %.*s, %d tensors, %.1f MB\n", o->out, (int)arch.len, arch.data ? arch.data : "", gguf_tensor_count(gguf),
                 (double)gguf_file_bytes(gguf) / 1e6);
    gguf_close(gguf);
    return CLI_OK;
}

int cmd_import(int argc, char **argv)
{
    enum { TYPE = 256, PRE, COPY };
    static const struct option OPTIONS[] = {
        {"type", required_argument, NULL, TYPE}, {"pre", required_argument, NULL, PRE}, {"copy", no_argument, NULL, COPY},
        {"help", no_argument, NULL, 'h'},        {NULL, 0, NULL, 0},
    };
    struct import_options o = {.type = -1};
    optind = 1;
    for (int c; (c = getopt_long(argc, argv, "h", OPTIONS, NULL)) != -1;) {
        if (c == 'h') {
            help(stdout);
            return CLI_OK;
        }
        if (c == TYPE && !read_type(optarg, &o.type)) return CLI_USAGE;
        if (c == PRE) o.pre = optarg;
        if (c == COPY) o.copy = true;
        if (c == '?') return CLI_USAGE;
    }
    if (argc - optind != 2) {
        help(stderr);
        return CLI_USAGE;
    }
    o.source = argv[optind];
    o.out = argv[optind + 1];
    return import(&o);
}
