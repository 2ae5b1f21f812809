#include "engine/engine.h"

#include "engine/cpu/kernels.h"
#include "engine/device.h"
#include "engine/draft_model.h"
#include "engine/model_identity.h"
#include "engine/sched.h"
#include "engine/sched_ahead.h"
#include "engine/template.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGES_MAX = 1 << 24 };

struct engine {
    struct model *model;
    struct tokenizer *tokenizer;
    struct template *chat;  /* NULL where the file has none */
    struct err chat_error;  /* why its template did not parse */
    struct device device;
    struct backend *backend;
    struct draft_model draft;
    struct sched *sched;
    char *name, *chat_source, quantization[16], identity[65];
    int context_tokens;
    int32_t think_open, think_close;
};

/* ---- opening ---- */

static char *copy_string(struct gguf_string s)
{
    return s.data ? strndup(s.data, s.len) : NULL;
}

static char *name_of(const struct gguf *gguf, const char *path)
{
    struct gguf_string s = gguf_str(gguf, "general.name");
    const char *slash = path ? strrchr(path, '/') : NULL;
    return s.data && s.len ? copy_string(s) : strdup(slash ? slash + 1 : path ? path : "");
}

/* The type that holds most elements; K-quant mixes are called by their common name where the file gives it. */
static void quantization_of(const struct gguf *gguf, char *out, size_t size)
{
    static const struct {
        int file_type;
        const char *name;
    } MIXES[] = {{10, "Q2_K"}, {11, "Q3_K_S"}, {12, "Q3_K_M"}, {13, "Q3_K_L"}, {14, "Q4_K_S"}, {15, "Q4_K_M"}, {16, "Q5_K_S"}, {17, "Q5_K_M"}};
    enum { OURS = 62, TYPES = 64 };
    int64_t elements[TYPES] = {0}, file_type = gguf_int(gguf, "general.file_type", -1);
    int best = 0;
    for (int i = 0; i < gguf_tensor_count(gguf); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(gguf, i);
        int at = t->type < GGUF_FP8 ? (int)t->type : (int)t->type - GGUF_FP8 + OURS;
        if (at < TYPES) elements[at] += t->shape[0] * t->shape[1] * t->shape[2] * t->shape[3];
    }
    for (int i = 1; i < TYPES; i++)
        if (elements[i] > elements[best]) best = i;
    const struct gguf_type_info *info = gguf_type_info((uint32_t)(best < OURS ? best : best - OURS + GGUF_FP8));
    (void)snprintf(out, size, "%s", info ? info->name : "?");
    for (size_t i = 0; i < sizeof MIXES / sizeof MIXES[0]; i++)
        if (MIXES[i].file_type == file_type) (void)snprintf(out, size, "%s", MIXES[i].name);
}

static void *identify(void *arg)
{
    struct engine *g = arg;
    model_identity(g->model->gguf, g->identity);
    return NULL;
}

/* The model's identity while the tokenizer is made: both take some milliseconds. */
static enum err_code identify_and_tokenize(struct engine *g, struct err *e)
{
    pthread_t thread;
    bool beside = pthread_create(&thread, NULL, identify, g) == 0;
    enum err_code code = tokenizer_open(&g->tokenizer, g->model->gguf, e);
    if (beside) (void)pthread_join(thread, NULL);
    else (void)identify(g);
    return code;
}

static enum err_code read_file(struct engine *g, const struct engine_options *o, struct err *e)
{
    struct gguf *gguf = o->gguf;
    enum err_code code = gguf ? ERR_OK : gguf_open(&gguf, o->path, e);
    if (code) return code;
    if ((code = model_open(&g->model, gguf, o->context_tokens, e))) {
        gguf_close(gguf);
        return code;
    }
    if ((code = identify_and_tokenize(g, e))) return code;
    struct gguf_string chat = gguf_str(gguf, "tokenizer.chat_template");
    g->name = name_of(gguf, o->path);
    g->chat_source = copy_string(chat);
    quantization_of(gguf, g->quantization, sizeof g->quantization);
    /* A template that does not parse is told when it is asked for: the model can be used without. */
    if (chat.data && template_parse(&g->chat, chat.data, chat.len, &g->chat_error)) g->chat = NULL;
    g->think_open = tokenizer_find(g->tokenizer, "<think>");
    g->think_close = tokenizer_find(g->tokenizer, "</think>");
    return g->name ? ERR_OK : err_set(e, ERR_MEMORY, "no memory for the model's name");
}

static int or_else(int value, int otherwise)
{
    return value > 0 ? value : otherwise;
}

static enum err_code check_options(const struct engine_options *o, struct err *e)
{
    if (o->slots_max > 1024 || o->queue_max > 1 << 20 || o->prefill_tokens > 1 << 14 || o->context_tokens > 1 << 24)
        return err_set(e, ERR_INVALID, "at most 1024 slots, a queue of 1048576, 16384 prefill tokens, a context of 16777216");
    if (o->sparse_pages < 0) return err_set(e, ERR_INVALID, "sparse_pages is %d; 0 (all of them) or more is wanted", o->sparse_pages);
    return ERR_OK;
}

static struct sched_options sched_options_of(const struct engine *g, const struct engine_options *o)
{
    bool gpu = g->device.library != NULL;
    int file = g->model->context < 8192 ? g->model->context : 8192;
    return (struct sched_options){.slots_max = or_else(o->slots_max, gpu ? 64 : 4),
                                  .queue_max = or_else(o->queue_max, 64),
                                  .context_tokens = or_else(o->context_tokens, file),
                                  .prefill_tokens = or_else(o->prefill_tokens, gpu ? 2048 : 256),
                                  .admit_early = o->admit_early,
                                  .draft_tokens = o->draft_tokens < 0 ? 0 : o->draft_tokens == 0 || o->draft_tokens > DRAFT_MAX ? DRAFT_MAX : o->draft_tokens};
}

/* The pages to ask for. A GPU without a limit gives what it has, but no more than what runs and as much again, kept for prompts
 * that begin alike, can fill: a small model leaves room for others. */
static enum err_code set_pages(const struct engine *g, const struct engine_options *o, const struct sched_options *s,
                               struct backend_options *b, struct err *e)
{
    int64_t of_one = (s->context_tokens + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS, count = of_one * s->slots_max, most = 2 * count;
    int64_t page_bytes = device_page_bytes(&g->device, g->model, o->kv == ENGINE_KV_Q8_0);
    if (o->kv_bytes_max > 0) count = o->kv_bytes_max / page_bytes;
    else if (g->device.library) count = 0;
    if (count < of_one && (count > 0 || o->kv_bytes_max > 0))
        return err_set(e, ERR_INVALID, "kv_bytes_max holds %lld tokens; one sequence of %d needs %lld bytes",
                       (long long)count * KV_PAGE_TOKENS, s->context_tokens, (long long)(of_one * page_bytes));
    b->pages = count > PAGES_MAX ? PAGES_MAX : (int)count;
    b->pages_max = most > PAGES_MAX ? PAGES_MAX : (int)most;
    return ERR_OK;
}

static enum err_code check_pages(const struct engine *g, const struct sched_options *s, struct err *e)
{
    int64_t tokens = (int64_t)g->backend->pages * g->backend->page_tokens;
    if (tokens >= s->context_tokens) return ERR_OK;
    return err_set(e, ERR_MEMORY, "beside the weights there is memory for %lld tokens of KV cache; one sequence has up to %d: lower context_tokens, or keep 8 bits of each (kv q8_0)",
                   (long long)tokens, s->context_tokens);
}

static void stop(struct engine *g)
{
    if (g->backend) g->backend->close(g->backend);
    g->backend = NULL;
    draft_model_stop(&g->draft); /* last: its threads may have been lent to the other */
}

/* The draft model's backend comes first: on a GPU the model's takes what memory is left. It never has to hold more than the
 * sequences that it guesses for, nor more than the model's own pages do. */
static enum err_code start_draft(struct engine *g, const struct engine_options *o, struct sched_options *s, struct backend_options *b,
                                 struct err *e)
{
    if (!g->draft.model) return ERR_OK;
    int64_t of_one = (s->context_tokens + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    int64_t pages = of_one * (s->slots_max < AHEAD_SLOTS_MAX ? s->slots_max : AHEAD_SLOTS_MAX);
    if (o->kv_bytes_max > 0 && b->pages < pages) pages = b->pages;
    struct backend_options d = {.threads = o->threads, .pin = o->pin, .kv_q8 = b->kv_q8, .context_tokens = s->context_tokens,
                                .pages = pages > PAGES_MAX ? PAGES_MAX : (int)pages,
                                .cols_max = ahead_cols_max(s->prefill_tokens), .wanted_max = AHEAD_SLOTS_MAX};
    enum err_code code = draft_model_start(&g->draft, o->draft_kernels ? o->draft_kernels : o->kernels, &d, e);
    if (code) return code;
    s->draft = g->draft.backend;
    s->draft_model = g->draft.model;
    s->draft_pages = g->draft.backend->pages;
    s->draft_always = o->draft_always;
    if (!g->device.library && !g->draft.device.library) b->beside = g->draft.backend;
    b->cols_max = sched_cols_max(s);
    b->wanted_max = sched_wanted_max(s);
    return ERR_OK;
}

static enum err_code start_on_device(struct engine *g, const struct engine_options *o, struct err *e)
{
    struct sched_options s = sched_options_of(g, o);
    if (s.context_tokens < 2) return err_set(e, ERR_INVALID, "a context of %d tokens; 2 are the least", s.context_tokens);
    struct backend_options b = {.threads = o->threads, .pin = o->pin, .kv_q8 = o->kv == ENGINE_KV_Q8_0, .invariant = o->invariant,
                                .sparse_pages = o->sparse_pages, .context_tokens = s.context_tokens, .later = true,
                                .cols_max = sched_cols_max(&s), .wanted_max = sched_wanted_max(&s)};
    enum err_code code = set_pages(g, o, &s, &b, e);
    if (!code) code = start_draft(g, o, &s, &b, e);
    if (!code) code = device_open(&g->device, &g->backend, g->model, b, e);
    if (!code) code = check_pages(g, &s, e);
    if (!code) {
        s.pages = g->backend->pages;
        g->context_tokens = s.context_tokens;
        code = sched_open(&g->sched, g->backend, g->model, g->tokenizer, &s, e);
    }
    if (code) stop(g);
    return code;
}

static enum err_code start(struct engine *g, const struct engine_options *o, struct err *e)
{
    struct err why = {0};
    enum err_code code = check_options(o, &why);
    if (!code) code = device_find(&g->device, o->kernels, &why);
    if (!code) code = start_on_device(g, o, &why);
    if (code && g->device.library && !g->model->random && device_fall_back(&g->device, &why)) code = start_on_device(g, o, &why);
    if (code && e) *e = why;
    return code;
}

enum err_code engine_open(struct engine **out, const struct engine_options *options, struct err *e)
{
    if (!options->path && !options->gguf) return err_set(e, ERR_INVALID, "no model file was named");
    struct engine *g = calloc(1, sizeof *g);
    if (!g) {
        gguf_close(options->gguf);
        return err_set(e, ERR_MEMORY, "no memory for an engine");
    }
    enum err_code code = read_file(g, options, e);
    if (!code && tokenizer_vocabulary(g->tokenizer) > g->model->vocabulary)
        code = err_set(e, ERR_CORRUPT, "the tokenizer knows %d tokens, the model's tensors %d", tokenizer_vocabulary(g->tokenizer),
                       g->model->vocabulary);
    if (!code && options->draft) code = draft_model_read(&g->draft, options->draft, options->context_tokens, g->tokenizer, e);
    if (!code) code = start(g, options, e);
    if (code) {
        engine_close(g);
        return code;
    }
    *out = g;
    return ERR_OK;
}

void engine_close(struct engine *g)
{
    if (!g) return;
    sched_close(g->sched);
    stop(g);
    draft_model_release(&g->draft);
    template_free(g->chat);
    tokenizer_close(g->tokenizer);
    model_close(g->model);
    free(g->name);
    free(g->chat_source);
    free(g);
}

void engine_info(const struct engine *g, struct engine_info *out)
{
    *out = (struct engine_info){.name = g->name,
                                .architecture = g->model->arch->name,
                                .kernels = g->backend->kernels,
                                .device = g->device.library ? g->device.gpu.name : "",
                                .device_uuid = g->device.library ? g->device.gpu.uuid : "",
                                .device_index = g->device.library ? g->device.gpu.index : -1,
                                .device_note = g->device.note,
                                .identity = g->identity,
                                .quantization = g->quantization,
                                .chat_template = g->chat_source,
                                .draft = g->draft.name ? g->draft.name : "",
                                .draft_kernels = g->draft.backend ? g->draft.backend->kernels : "",
                                .parameters = g->model->parameters,
                                .bytes = gguf_file_bytes(g->model->gguf),
                                .embedding = g->model->embedding,
                                .layers = g->model->layers,
                                .vocabulary = g->model->vocabulary,
                                .context_tokens = g->context_tokens,
                                .bos = tokenizer_bos(g->tokenizer),
                                .eos = tokenizer_eos(g->tokenizer),
                                .think_open = g->think_open,
                                .think_close = g->think_close};
}

/* ---- text ---- */

enum err_code engine_tokenize(const struct engine *g, const char *text, size_t len, int flags, int32_t **ids, int *count,
                              struct err *e)
{
    return tokenizer_encode(g->tokenizer, text, len, flags, ids, count, e);
}

size_t engine_token_bytes(const struct engine *g, int32_t id, bool special, char *out, size_t size)
{
    return tokenizer_bytes(g->tokenizer, id, special, out, size);
}

bool engine_token_ends(const struct engine *g, int32_t id)
{
    return tokenizer_is_end(g->tokenizer, id);
}

/* ChatML, which most models without a template have seen; where its markers are no tokens, "role: content" lines. */
static enum err_code render_plain(const struct engine *g, const struct engine_message *messages, int count, bool prompt,
                                  struct buf *out, struct err *e)
{
    bool chatml = tokenizer_find(g->tokenizer, "<|im_start|>") >= 0;
    for (int i = 0; i < count; i++) {
        bool open = !prompt && i == count - 1; /* the last turn goes on */
        (void)buf_addf(out, chatml ? "<|im_start|>%s\n%s" : "%s: %s", messages[i].role, messages[i].content);
        if (!open) (void)buf_adds(out, chatml ? "<|im_end|>\n" : "\n");
    }
    if (prompt) (void)buf_adds(out, chatml ? "<|im_start|>assistant\n" : "assistant:");
    return buf_ok(out) ? ERR_OK : err_set(e, out->failed, "the chat's prompt is larger than %zu bytes", out->max);
}

enum err_code engine_render_chat(const struct engine *g, const struct engine_message *messages, int count, const char *tools_json,
                                 const char *variables_json, bool add_generation_prompt, struct buf *out, struct err *e)
{
    if (!g->chat && g->chat_error.code) {
        if (e) *e = g->chat_error;
        return g->chat_error.code;
    }
    if (!g->chat) return render_plain(g, messages, count, add_generation_prompt, out, e);
    char bos[256] = "", eos[256] = "";
    int32_t ids[2] = {tokenizer_bos(g->tokenizer), tokenizer_eos(g->tokenizer)};
    for (int i = 0; i < 2; i++) {
        char *text = i ? eos : bos;
        size_t n = ids[i] >= 0 ? tokenizer_bytes(g->tokenizer, ids[i], true, text, 255) : 0;
        text[n < 255 ? n : 255] = 0;
    }
    return template_render(g->chat, messages, count, tools_json, variables_json, add_generation_prompt, bos, eos, out, e);
}

/* ---- tokens ---- */

enum err_code engine_submit(struct engine *g, uint64_t id, const struct engine_request *request, const struct engine_sink *sink,
                            struct err *e)
{
    return sched_submit(g->sched, id, request, sink, e);
}

void engine_cancel(struct engine *g, uint64_t id)
{
    sched_cancel(g->sched, id);
}

void engine_stats(const struct engine *g, struct engine_stats *out)
{
    sched_stats(g->sched, out);
}
