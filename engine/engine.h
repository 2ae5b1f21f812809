/* The engine: a model file in, tokens out. Knows nothing of networks, routing or requests of other rooms.
 *
 * Depends on libc, libm, pthreads and base/ alone (CUDA where it was built). No state is global: many engines may
 * live in one process. An engine owns its threads; every callback of a sink runs on the engine's scheduler thread
 * and must return quickly (post to your own loop). All file input is hostile and checked before use.
 *
 * Sampling is a pure function of (seed, choice, token index, logits); on CPU kernels a position's logits do not
 * depend on batch, chunking or prefix reuse. So a stream can go on in another process with the same identity and
 * kernels: submit the same prompt with the tokens so far as `prefix`.
 */
#ifndef RUNG_ENGINE_ENGINE_H
#define RUNG_ENGINE_ENGINE_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct engine;
struct gguf;

enum engine_kv { ENGINE_KV_F16, ENGINE_KV_Q8_0 /* on a GPU: E4M3 */ };

struct engine_options {
    const char *path;      /* GGUF file; the first part of a split one */
    struct gguf *gguf;     /* NULL, or instead of `path` one that is open: the engine's from the call on, also where that fails */
    const char *kernels;   /* NULL or "auto": a GPU where the model fits one, else the CPU's best; "cuda" or "cuda:N": that GPU;
                              "cpu": the CPU's best; "scalar", "avx2", "avx512", "neon": those */
    int threads;           /* 0: the physical cores */
    bool pin;              /* pin threads to cores */
    int slots_max;         /* sequences decoded together; 0: 4, on a GPU 64 */
    int queue_max;         /* waiting requests, beyond which submit answers ERR_FULL; 0: 64 */
    int context_tokens;    /* the most a sequence may hold; 0: the file's, at most 8192 */
    int64_t kv_bytes_max;  /* KV pages altogether; 0: slots_max full sequences; on a GPU twice that, or what is left */
    int prefill_tokens;    /* token budget of one step; 0: 256, on a GPU 2048 */
    int draft_tokens;      /* guesses of prompt-lookup speculation at once (the text never changes); 0: 7, -1: none */
    const char *draft;     /* a smaller GGUF file with the same tokens, which guesses ahead where it pays (nor does the text
                              change then); NULL: none */
    const char *draft_kernels; /* where it runs; NULL: as `kernels` */
    bool draft_always;     /* it guesses whether it pays or not: for tests and to measure */
    bool admit_early;      /* a request runs as soon as there are pages for its prompt, whatever comes: for tests and to measure */
    enum engine_kv kv;     /* Q8_0: about half the memory of F16, a little less exact; as batch-invariant */
    bool invariant;        /* on a GPU: a stream does not depend on what runs beside it, as on a CPU; slower */
    int sparse_pages;      /* on a GPU: decoding reads at most so many KV pages of the past, the likeliest; 0: all of them */
};

/* Read a model and start its threads. Blocks; the file stays mapped.
 * Errors: ERR_IO (cannot be read), ERR_CORRUPT (says what lies where), ERR_UNSUPPORTED (type, architecture),
 * ERR_MEMORY, ERR_INVALID (options; a draft model with other tokens). What is wrong with a draft model names its file. */
ERR_CHECKED enum err_code engine_open(struct engine **out, const struct engine_options *options, struct err *e);
/* Cancels everything, joins the threads, frees. NULL is fine. */
void engine_close(struct engine *engine);

/* What the file says of itself. Strings live as long as the engine. */
struct engine_info {
    const char *name;          /* general.name, else the file's base name */
    const char *architecture;  /* "llama", "qwen2", … */
    const char *kernels;       /* the kernel set in use */
    const char *device;        /* the GPU's name; "" on a CPU */
    const char *device_uuid;   /* as NVML knows it; "" on a CPU, or where the GPU has none */
    int device_index;          /* as CUDA counts; -1 on a CPU */
    const char *device_note;   /* why no GPU is used where one might have been; else "" */
    const char *identity;      /* 64 hex digits: hash of tensor table, sampled tensor bytes, tokenizer and metadata */
    const char *quantization;  /* "Q8_0", "Q4_K_M", … as the file's dominant type */
    const char *chat_template; /* NULL where the file has none */
    const char *draft, *draft_kernels; /* the draft model's name and kernel set; "" where there is none */
    int64_t parameters, bytes;
    int embedding, layers, vocabulary, context_tokens;
    int32_t bos, eos, think_open, think_close; /* token ids, -1 where the file has none */
};
void engine_info(const struct engine *engine, struct engine_info *out);

/* ---- text ⇄ tokens: pure, any thread ---- */

enum { ENGINE_TOKENIZE_SPECIAL = 1 /* special tokens in the text become their ids */,
       ENGINE_TOKENIZE_ADD = 2 /* add BOS/EOS as the file asks */ };
/* Tokens of `text` (len bytes, any bytes) into ids (malloc'd, caller frees). Linear in len. */
ERR_CHECKED enum err_code engine_tokenize(const struct engine *engine, const char *text, size_t len, int flags,
                                          int32_t **ids, int *count, struct err *e);
/* The raw bytes of one token, not closed by NUL, into `out`; returns the byte count (0 for control tokens unless
 * `special`). `out` may be NULL to ask for the length. */
size_t engine_token_bytes(const struct engine *engine, int32_t id, bool special, char *out, size_t size);
/* Whether a token ends the generation (the file may have several). */
bool engine_token_ends(const struct engine *engine, int32_t id);

struct engine_message {
    const char *role, *content; /* UTF-8; content may be "" */
    const char *reasoning;      /* NULL unless this turn's thinking is kept */
    const char *name, *tool_call_id;
    const char *tool_calls_json; /* NULL or a JSON array */
};
/* The prompt text of a chat by the file's own template (or a plain one where it has none), appended to `out`.
 * `tools_json` may be NULL, and so may `variables_json`: an object of further template variables (enable_thinking …).
 * `add_generation_prompt` false continues a last assistant turn.
 * Errors: ERR_INVALID (the template refused: its own words), ERR_UNSUPPORTED, ERR_TOO_LARGE. */
ERR_CHECKED enum err_code engine_render_chat(const struct engine *engine, const struct engine_message *messages,
                                             int count, const char *tools_json, const char *variables_json,
                                             bool add_generation_prompt, struct buf *out, struct err *e);

/* ---- asking for tokens ---- */

struct engine_bias {
    int32_t id;
    float bias;
};
struct engine_sampling {
    float temperature;  /* 0: greedy */
    float top_p;        /* 1: off */
    float min_p;        /* 0: off */
    float typical_p;    /* 1: off */
    int top_k;          /* 0: off */
    float repeat_penalty;    /* 1: off; over the last penalty_window tokens */
    float presence_penalty, frequency_penalty; /* 0: off */
    int penalty_window;      /* 0: 64 */
    uint64_t seed;
    const struct engine_bias *bias;
    int bias_count;
};
#define ENGINE_SAMPLING_GREEDY {.temperature = 0, .top_p = 1, .typical_p = 1, .repeat_penalty = 1}

/* A constraint on the tokens to come, made outside (node/ compiles JSON schemas). Called on the scheduler thread.
 * `state` starts at 0. `mask` holds one bit a token, to be cleared where the token is not allowed. */
struct engine_constraint {
    void *ctx;
    void (*mask)(void *ctx, uint64_t state, uint32_t *mask /* (vocabulary + 31) / 32 */);
    uint64_t (*advance)(void *ctx, uint64_t state, int32_t id);
    const int32_t *if_best; /* NULL, or a token that is allowed only where it is the likeliest of all before the mask */
};

struct engine_request {
    const int32_t *prompt; /* copied */
    int prompt_count;
    const int32_t *prefix; /* copied: tokens already generated for this choice elsewhere, not told again */
    int prefix_count;
    int choice;            /* the n-th answer to one prompt: part of the sampling key */
    int max_tokens;        /* generated tokens in all, the prefix counted in; 0: what the context holds */
    struct engine_sampling sampling; /* bias copied */
    const char *const *stop;         /* copied; at most 16 strings */
    int stop_count;
    bool ignore_eos;
    bool want_hidden;      /* on_prefill carries the last prompt position's hidden state */
    int top_logprobs;      /* 0..20 alternatives told with each token */
    uint64_t user;         /* who asks: the queue is fair between users */
    const struct engine_constraint *constraint; /* NULL; must outlive the request */
};

struct engine_alternative {
    int32_t id;
    float logprob;
};
struct engine_token {
    int index;         /* 0-based among the generated, the prefix counted in */
    int32_t id;
    const char *bytes; /* the token's own raw bytes; control tokens give none */
    size_t bytes_len;
    const char *text;  /* what may be shown now: whole UTF-8 characters, held back while a stop string may form */
    size_t text_len;
    float logprob;     /* of the token under the unmodified distribution (temperature 1, no penalties) */
    float entropy, margin, varentropy; /* nats; margin = p1 - p2; all of the same distribution */
    const struct engine_alternative *top; /* (top_count), most likely first */
    int top_count;
};
enum engine_finish { ENGINE_FINISH_STOP, ENGINE_FINISH_LENGTH, ENGINE_FINISH_CANCELLED };
struct engine_end {
    enum engine_finish finish;
    const char *text; /* what was still held back and may be shown now */
    size_t text_len;
    int prompt_tokens, cached_tokens, completion_tokens; /* prefix counted in completion */
    double queue_ms, prefill_ms, decode_ms;
};
struct engine_prefill {
    const float *hidden; /* (embedding) after the final norm; NULL unless asked for */
    int embedding;
    float entropy, margin, varentropy; /* of the first token's distribution */
    int prompt_tokens, cached_tokens;
    double queue_ms, prefill_ms;
};
/* Pointers in the arguments live only during the call. For each id exactly one on_done or on_error, the last call. */
struct engine_sink {
    void *ctx;
    void (*on_prefill)(void *ctx, uint64_t id, const struct engine_prefill *prefill); /* may be NULL */
    void (*on_token)(void *ctx, uint64_t id, const struct engine_token *token);
    void (*on_done)(void *ctx, uint64_t id, const struct engine_end *end);
    void (*on_error)(void *ctx, uint64_t id, const struct err *error);
};

/* Queue a request under an id that is unique in this engine. Any thread, never blocks. After ERR_OK the sink is
 * called; after an error it never is. Errors: ERR_FULL, ERR_CONTEXT (says both lengths), ERR_INVALID, ERR_MEMORY. */
ERR_CHECKED enum err_code engine_submit(struct engine *engine, uint64_t id, const struct engine_request *request,
                                        const struct engine_sink *sink, struct err *e);
/* Stop a request: its sink gets on_done(ENGINE_FINISH_CANCELLED) soon, unless it ended just before. Any thread. */
void engine_cancel(struct engine *engine, uint64_t id);

struct engine_stats {
    int slots_max, slots_used, queue_max, queue_used;
    int pages_total, pages_used, pages_cached; /* KV pages: in use by running sequences; kept for reuse */
    int pages_fragmented;  /* of pages_used: positions in them that hold nothing yet, in pages' worth, rounded up */
    int batch_last;        /* tokens worked on together in the last step */
    int64_t prompt_tokens, cached_tokens, completion_tokens; /* since open */
    int64_t requests_done, requests_cancelled, preemptions, steps;
    int64_t guessed_tokens, kept_tokens; /* guesses that the model checked, and those it would have chosen itself */
    int64_t draft_guessed_tokens, draft_kept_tokens, draft_steps; /* of these the draft model's, and its forward steps */
    double prefill_tokens_per_s, decode_tokens_per_s; /* over the last seconds; 0 while idle */
};
/* Any thread. */
void engine_stats(const struct engine *engine, struct engine_stats *out);

#endif
