#include "cli/import.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A Hugging Face folder → GGUF: config.json's numbers become keys, each tensor gets GGUF's name and place.
 *
 * Matrices keep their type (or take --type); vectors and routers become F32. Where an architecture's GGUF form pairs
 * neighbours in its rotary embedding (llama, granite), the rows of q and k change order; where it adds one to its norms
 * (gemma), the file holds the sum. */

struct arch {
    const char *model_class, *name;
    bool permute, norm_plus_one;
};
static const struct arch ARCHS[] = {
    {"LlamaForCausalLM", "llama", true, false},
    {"MistralForCausalLM", "llama", true, false},
    {"Qwen2ForCausalLM", "qwen2", false, false},
    {"Qwen3ForCausalLM", "qwen3", false, false},
    {"Qwen3MoeForCausalLM", "qwen3moe", false, false},
    {"Phi3ForCausalLM", "phi3", false, false},
    {"Gemma2ForCausalLM", "gemma2", false, true},
    {"Gemma3ForCausalLM", "gemma3", false, true},
    {"Gemma3ForConditionalGeneration", "gemma3", false, true},
    {"GraniteForCausalLM", "granite", true, false},
};

struct import {
    const struct import_options *o;
    const struct arch *arch;
    json_t *whole, *config; /* config: the text part of the whole */
    struct st_set tensors;
    struct gguf_writer *w;
    char prefix[128]; /* of the layers' names, "model." */
    int layers, embedding, heads, kv_heads, head_dim, vocabulary, experts;
    bool tied;
};

json_t *import_json(const char *folder, const char *name)
{
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    return n > 0 && (size_t)n < sizeof path ? json_load_file(path, 0, NULL) : NULL;
}

char *import_text(const char *folder, const char *name, size_t *len)
{
    enum { TEXT_MAX = 64 << 20 };
    char path[4096], chunk[65536];
    struct buf text = BUF_INIT(TEXT_MAX);
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, f)) > 0;) (void)buf_add(&text, chunk, n);
    bool fine = !ferror(f) && buf_ok(&text);
    (void)fclose(f);
    char *data = fine ? buf_take(&text, len) : NULL;
    if (!fine) buf_release(&text);
    return data;
}

/* ---- config.json ---- */

static const json_t *member(const struct import *im, const char *key)
{
    const json_t *v = json_object_get(im->config, key);
    return json_is_null(v) ? NULL : v;
}

static double number(const struct import *im, const char *key, double otherwise)
{
    const json_t *v = member(im, key);
    return json_is_number(v) ? json_number_value(v) : otherwise;
}

static enum err_code whole(const struct import *im, const char *key, int64_t otherwise, int *out, struct err *e)
{
    const json_t *v = member(im, key);
    int64_t i = json_is_integer(v) ? json_integer_value(v) : otherwise;
    if (i < 1 || i > 1 << 24)
        return err_set(e, ERR_CORRUPT, "config.json: %s is %s; a whole number above 0 is needed", key, v ? "not usable" : "missing");
    *out = (int)i;
    return ERR_OK;
}

static enum err_code read_config(struct import *im, struct err *e)
{
    enum err_code code;
    const json_t *text;
    if (!json_is_object(im->whole))
        return err_set(e, ERR_NOT_FOUND, "%s: holds no config.json that is a JSON object", im->o->source);
    const char *name = json_string_value(json_array_get(json_object_get(im->whole, "architectures"), 0));
    for (size_t i = 0; name && i < sizeof ARCHS / sizeof ARCHS[0]; i++)
        if (strcmp(name, ARCHS[i].model_class) == 0) im->arch = &ARCHS[i];
    if (!im->arch)
        return err_set(e, ERR_UNSUPPORTED, "config.json: architecture '%s'; supported are Llama, Mistral, Qwen2, Qwen3, "
                                           "Qwen3Moe, Phi3, Gemma2, Gemma3 and Granite (…ForCausalLM)", name ? name : "");
    text = json_object_get(im->whole, "text_config");
    im->config = text ? json_object_get(im->whole, "text_config") : im->whole;
    if ((code = whole(im, "num_hidden_layers", 0, &im->layers, e)) || (code = whole(im, "hidden_size", 0, &im->embedding, e)) ||
        (code = whole(im, "num_attention_heads", 0, &im->heads, e)) ||
        (code = whole(im, "num_key_value_heads", im->heads, &im->kv_heads, e)) ||
        (code = whole(im, "head_dim", im->embedding / im->heads, &im->head_dim, e)))
        return code;
    im->experts = (int)number(im, "num_experts", number(im, "num_local_experts", 0)); /* transformers 5 writes the second */
    im->tied = json_is_true(member(im, "tie_word_embeddings")) || (!member(im, "tie_word_embeddings") && im->arch->norm_plus_one);
    return ERR_OK;
}

static const char *keyed(const struct import *im, const char *key, char out[128])
{
    (void)snprintf(out, 128, "%s.%s", im->arch->name, key);
    return out;
}
#define KEY(key) keyed(im, (key), (char[128]){0})

static void copy_u32(struct import *im, const char *from, const char *to)
{
    double v = number(im, from, -1);
    if (v >= 0 && v <= UINT32_MAX) gguf_write_u32(im->w, KEY(to), (uint32_t)v);
}

static void copy_f32(struct import *im, const char *from, const char *to)
{
    if (json_is_number(member(im, from))) gguf_write_f32(im->w, KEY(to), (float)number(im, from, 0));
}

/* ---- rope ---- */

/* rope_scaling, or rope_parameters as newer files have it (where it may hold one set for each kind of layer) */
static const json_t *rope_settings(const struct import *im)
{
    const json_t *rope = member(im, "rope_parameters");
    if (json_is_object(json_object_get(rope, "full_attention"))) rope = json_object_get(rope, "full_attention");
    return rope ? rope : member(im, "rope_scaling");
}

static double rope_number(const json_t *rope, const char *key, double otherwise)
{
    const json_t *v = json_object_get(rope, key);
    return json_is_number(v) ? json_number_value(v) : otherwise;
}

static double rope_base(const struct import *im)
{
    return rope_number(member(im, "rope_parameters") ? rope_settings(im) : NULL, "rope_theta",
                       number(im, "rope_theta", strcmp(im->arch->name, "gemma3") == 0 ? 1e6 : 10000));
}

static int rotated(const struct import *im)
{
    double part = number(im, "partial_rotary_factor", rope_number(rope_settings(im), "partial_rotary_factor", 1));
    return (int)(im->head_dim * part);
}

static const char *rope_type(const json_t *rope)
{
    const char *type = json_string_value(json_object_get(rope, "rope_type"));
    if (!type) type = json_string_value(json_object_get(rope, "type"));
    return type ? type : "default";
}

/* Llama 3's frequencies are divided by these: long waves by the factor, short ones by 1, a slope between. */
static float llama3_factor(const json_t *rope, double base, int i, int dims)
{
    double factor = rope_number(rope, "factor", 8), low = rope_number(rope, "low_freq_factor", 1);
    double high = rope_number(rope, "high_freq_factor", 4), old = rope_number(rope, "original_max_position_embeddings", 8192);
    double wave = 2 * 3.14159265358979323846 * pow(base, 2.0 * i / dims);
    if (wave < old / high) return 1;
    if (wave > old / low) return (float)factor;
    double slope = (old / wave - low) / (high - low);
    return (float)(1 / ((1 - slope) / factor + slope));
}

static enum err_code rope_keys(struct import *im, struct err *e)
{
    const json_t *rope = rope_settings(im);
    const char *type = rope_type(rope);
    double factor = rope_number(rope, "factor", 1), old = rope_number(rope, "original_max_position_embeddings", 0);
    gguf_write_f32(im->w, KEY("rope.freq_base"), (float)rope_base(im));
    gguf_write_u32(im->w, KEY("rope.dimension_count"), (uint32_t)rotated(im));
    if (old == 0) old = number(im, "original_max_position_embeddings", 0);
    if (strcmp(type, "default") == 0 || strcmp(type, "llama3") == 0) return ERR_OK; /* llama3: a tensor of factors */
    if (strcmp(type, "linear") == 0) {
        gguf_write_str(im->w, KEY("rope.scaling.type"), "linear");
        gguf_write_f32(im->w, KEY("rope.scaling.factor"), (float)factor);
        return ERR_OK;
    }
    if (old > 0) gguf_write_u32(im->w, KEY("rope.scaling.original_context_length"), (uint32_t)old);
    double scale = number(im, "max_position_embeddings", old) / (old > 0 ? old : 1), own = 1;
    if (strcmp(type, "yarn") == 0) {
        own = 1 + 0.1 * log(factor); /* what a reader of GGUF takes by itself */
        gguf_write_str(im->w, KEY("rope.scaling.type"), "yarn");
        gguf_write_f32(im->w, KEY("rope.scaling.factor"), (float)factor);
        gguf_write_f32(im->w, KEY("rope.scaling.yarn_beta_fast"), (float)rope_number(rope, "beta_fast", 32));
        gguf_write_f32(im->w, KEY("rope.scaling.yarn_beta_slow"), (float)rope_number(rope, "beta_slow", 1));
        scale = factor;
    } else if (strcmp(type, "longrope") == 0 || strcmp(type, "su") == 0) {
        gguf_write_str(im->w, KEY("rope.scaling.type"), "longrope");
    } else {
        return err_set(e, ERR_UNSUPPORTED, "config.json: rope scaling of type '%s' is not supported", type);
    }
    double attention = own > 1 ? own : scale > 1 ? sqrt(1 + log(scale) / log(old)) : 1;
    attention = rope_number(rope, "attention_factor", attention);
    if (attention != own) gguf_write_f32(im->w, KEY("rope.scaling.attn_factor"), (float)(attention / own));
    return ERR_OK;
}

/* ---- keys ---- */

/* Layers that see only a window must lie where the engine expects them. */
static enum err_code window_key(struct import *im, struct err *e)
{
    const json_t *types = member(im, "layer_types");
    int every = strcmp(im->arch->name, "gemma2") == 0 ? 2 : strcmp(im->arch->name, "gemma3") == 0 ? 6 : 0, windowed = 0;
    bool qwen = strncmp(im->arch->name, "qwen", 4) == 0;
    if (!json_is_integer(member(im, "sliding_window")) || (qwen && !json_is_true(member(im, "use_sliding_window")))) return ERR_OK;
    if (member(im, "sliding_window_pattern") && (int)number(im, "sliding_window_pattern", 0) != every)
        return err_set(e, ERR_UNSUPPORTED, "config.json: sliding_window_pattern must be %d for %s", every, im->arch->name);
    for (int i = 0; i < im->layers && types; i++) {
        const char *type = json_string_value(json_array_get(types, (size_t)i));
        bool all = type && strcmp(type, "full_attention") == 0;
        windowed += !all;
        if (every && all != ((i + 1) % every == 0))
            return err_set(e, ERR_UNSUPPORTED, "config.json: layer %d is of type '%s', which %s does not have there", i,
                           type ? type : "", im->arch->name);
    }
    const json_t *local = json_object_get(json_object_get(member(im, "rope_parameters"), "sliding_attention"), "rope_theta");
    double base = local ? json_number_value(local) : number(im, "rope_local_base_freq", 10000);
    if (every == 6 && base != 10000)
        return err_set(e, ERR_UNSUPPORTED, "config.json: windowed layers rotate by base %g; GGUF readers take 10000", base);
    if (types && !every && windowed == 0) return ERR_OK;
    if (types && !every && windowed != im->layers)
        return err_set(e, ERR_UNSUPPORTED, "config.json: %d of %d layers see a window only; all or none is supported", windowed, im->layers);
    copy_u32(im, "sliding_window", "attention.sliding_window");
    return ERR_OK;
}

static enum err_code expert_keys(struct import *im, struct err *e)
{
    if (!im->experts) return ERR_OK;
    if (json_array_size(member(im, "mlp_only_layers")) || number(im, "decoder_sparse_step", 1) != 1)
        return err_set(e, ERR_UNSUPPORTED, "config.json: a mixture of experts with dense layers in between is not supported");
    if (json_is_false(member(im, "norm_topk_prob")) || !member(im, "norm_topk_prob"))
        return err_set(e, ERR_UNSUPPORTED, "config.json: norm_topk_prob must be true");
    gguf_write_u32(im->w, KEY("expert_count"), (uint32_t)im->experts);
    copy_u32(im, "num_experts_per_tok", "expert_used_count");
    copy_u32(im, "moe_intermediate_size", "expert_feed_forward_length");
    return ERR_OK;
}

static void scale_keys(struct import *im)
{
    copy_f32(im, "attn_logit_softcapping", "attn_logit_softcapping");
    copy_f32(im, "final_logit_softcapping", "final_logit_softcapping");
    if (strcmp(im->arch->name, "granite") == 0) {
        copy_f32(im, "embedding_multiplier", "embedding_scale");
        copy_f32(im, "residual_multiplier", "residual_scale");
        copy_f32(im, "attention_multiplier", "attention.scale");
        copy_f32(im, "logits_scaling", "logit_scale");
    }
    double scalar = number(im, "query_pre_attn_scalar", 0);
    if (scalar > 0 && scalar != im->head_dim) gguf_write_f32(im->w, KEY("attention.scale"), (float)(1 / sqrt(scalar)));
}

static const char *base_name(const char *path, char out[256])
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/') start--;
    (void)snprintf(out, 256, "%.*s", (int)(end - start), path + start);
    return out;
}

static enum err_code write_keys(struct import *im, struct err *e)
{
    char name[256];
    gguf_write_str(im->w, "general.architecture", im->arch->name);
    gguf_write_str(im->w, "general.name", base_name(im->o->source, name));
    gguf_write_u32(im->w, KEY("block_count"), (uint32_t)im->layers);
    gguf_write_u32(im->w, KEY("embedding_length"), (uint32_t)im->embedding);
    gguf_write_u32(im->w, KEY("attention.head_count"), (uint32_t)im->heads);
    gguf_write_u32(im->w, KEY("attention.head_count_kv"), (uint32_t)im->kv_heads);
    gguf_write_u32(im->w, KEY("attention.key_length"), (uint32_t)im->head_dim);
    gguf_write_u32(im->w, KEY("attention.value_length"), (uint32_t)im->head_dim);
    gguf_write_u32(im->w, KEY("vocab_size"), (uint32_t)im->vocabulary);
    gguf_write_f32(im->w, KEY("attention.layer_norm_rms_epsilon"), (float)number(im, "rms_norm_eps", 1e-6));
    copy_u32(im, "intermediate_size", "feed_forward_length");
    copy_u32(im, "max_position_embeddings", "context_length");
    scale_keys(im);
    enum err_code code = rope_keys(im, e);
    if (!code) code = window_key(im, e);
    return code ? code : expert_keys(im, e);
}

/* ---- tensors ---- */

enum change { PLAIN, NORM, ROTARY_Q, ROTARY_K, EXPERT };

/* After "PREFIXlayers.N." → after "blk.N." */
static const struct {
    const char *from, *to;
    enum change change;
} LAYER_NAMES[] = {
    {"input_layernorm.weight", "attn_norm.weight", NORM},
    {"self_attn.q_proj.weight", "attn_q.weight", ROTARY_Q},
    {"self_attn.k_proj.weight", "attn_k.weight", ROTARY_K},
    {"self_attn.v_proj.weight", "attn_v.weight", PLAIN},
    {"self_attn.o_proj.weight", "attn_output.weight", PLAIN},
    {"self_attn.q_proj.bias", "attn_q.bias", ROTARY_Q},
    {"self_attn.k_proj.bias", "attn_k.bias", ROTARY_K},
    {"self_attn.v_proj.bias", "attn_v.bias", PLAIN},
    {"self_attn.o_proj.bias", "attn_output.bias", PLAIN},
    {"self_attn.qkv_proj.weight", "attn_qkv.weight", PLAIN},
    {"self_attn.q_norm.weight", "attn_q_norm.weight", NORM},
    {"self_attn.k_norm.weight", "attn_k_norm.weight", NORM},
    {"mlp.gate_proj.weight", "ffn_gate.weight", PLAIN},
    {"mlp.up_proj.weight", "ffn_up.weight", PLAIN},
    {"mlp.gate_up_proj.weight", "ffn_up.weight", PLAIN},
    {"mlp.down_proj.weight", "ffn_down.weight", PLAIN},
    {"mlp.gate.weight", "ffn_gate_inp.weight", PLAIN},
    {"mlp.experts.0.gate_proj.weight", "ffn_gate_exps.weight", EXPERT},
    {"mlp.experts.0.up_proj.weight", "ffn_up_exps.weight", EXPERT},
    {"mlp.experts.0.down_proj.weight", "ffn_down_exps.weight", EXPERT},
};

struct job {
    const struct st_tensor *tensor;
    char name[96];
    enum change change;
    enum gguf_type type;
};

static enum gguf_type wanted_type(const struct import *im, const struct job *job)
{
    if (job->tensor->dims < 2 || strstr(job->name, "ffn_gate_inp") || strstr(job->name, "norm")) return GGUF_F32;
    if (im->o->type >= 0) return (enum gguf_type)im->o->type;
    return job->tensor->type == ST_F16 ? GGUF_F16 : job->tensor->type == ST_BF16 ? GGUF_BF16 : GGUF_F32;
}

/* Gemma's two norms around each part, and the one norm of all others, share names with different meanings. */
static bool layer_name(const struct import *im, int layer, const char *rest, struct job *job)
{
    static const char *const AROUND[][2] = {{"post_attention_layernorm.weight", "post_attention_norm.weight"},
                                            {"pre_feedforward_layernorm.weight", "ffn_norm.weight"},
                                            {"post_feedforward_layernorm.weight", "post_ffw_norm.weight"}};
    const char *to = NULL;
    job->change = NORM;
    for (size_t i = 0; im->arch->norm_plus_one && i < 3; i++)
        if (strcmp(rest, AROUND[i][0]) == 0) to = AROUND[i][1];
    if (!im->arch->norm_plus_one && strcmp(rest, AROUND[0][0]) == 0) to = "ffn_norm.weight";
    for (size_t i = 0; !to && i < sizeof LAYER_NAMES / sizeof LAYER_NAMES[0]; i++)
        if (strcmp(rest, LAYER_NAMES[i].from) == 0) {
            to = LAYER_NAMES[i].to;
            job->change = LAYER_NAMES[i].change;
        }
    if (to) (void)snprintf(job->name, sizeof job->name, "blk.%d.%s", layer, to);
    return to != NULL;
}

enum place { PLACED, LEFT_OUT, UNKNOWN_PLACE };

static enum place find_place(const struct import *im, struct job *job)
{
    const char *name = job->tensor->name, *rest;
    size_t prefix = strlen(im->prefix);
    int layer, used = 0;
    job->change = PLAIN;
    if (strcmp(name, "lm_head.weight") == 0 || strcmp(name, "language_model.lm_head.weight") == 0) {
        (void)snprintf(job->name, sizeof job->name, "output.weight");
        return im->tied ? LEFT_OUT : PLACED;
    }
    if (strncmp(name, im->prefix, prefix) != 0) return strcmp(im->arch->name, "gemma3") == 0 ? LEFT_OUT : UNKNOWN_PLACE; /* images */
    rest = name + prefix;
    if (strcmp(rest, "embed_tokens.weight") == 0 || strcmp(rest, "norm.weight") == 0) {
        job->change = *rest == 'n' ? NORM : PLAIN;
        (void)snprintf(job->name, sizeof job->name, "%s", *rest == 'n' ? "output_norm.weight" : "token_embd.weight");
        return PLACED;
    }
    if (sscanf(rest, "layers.%d.%n", &layer, &used) != 1 || !used || layer < 0 || layer >= im->layers) return UNKNOWN_PLACE;
    if (layer_name(im, layer, rest + used, job)) return PLACED;
    bool later = strncmp(rest + used, "mlp.experts.", 12) == 0; /* goes with expert 0 */
    return later || strstr(rest + used, "rotary_emb.inv_freq") ? LEFT_OUT : UNKNOWN_PLACE;
}

static const struct st_tensor *expert_of(const struct import *im, const struct job *job, int expert)
{
    char name[256];
    const char *at = strstr(job->tensor->name, ".experts.0.");
    if (!at) return NULL;
    (void)snprintf(name, sizeof name, "%.*s.experts.%d.%s", (int)(at - job->tensor->name), job->tensor->name, expert, at + 11);
    return st_find(&im->tensors, name);
}

static enum err_code declare(const struct import *im, const struct job *job, struct err *e)
{
    int64_t shape[4];
    const struct st_tensor *t = job->tensor;
    int dims = t->dims;
    if (t->type == ST_OTHER || dims < 1 || dims > 2)
        return err_set(e, ERR_UNSUPPORTED, "tensor '%.80s': of F32, F16 or BF16 and one or two dimensions it should be", t->name);
    for (int d = 0; d < dims; d++) shape[d] = t->shape[dims - 1 - d];
    if (job->change == EXPERT) shape[dims++] = im->experts;
    for (int k = 0; job->change == EXPERT && k < im->experts; k++) {
        const struct st_tensor *other = expert_of(im, job, k);
        if (!other || other->dims != t->dims || other->elements != t->elements || other->type != t->type)
            return err_set(e, ERR_CORRUPT, "expert %d of '%.80s' is missing or has another shape", k, t->name);
    }
    bool rotary = im->arch->permute && (job->change == ROTARY_Q || job->change == ROTARY_K);
    int64_t rows = (int64_t)(job->change == ROTARY_Q ? im->heads : im->kv_heads) * im->head_dim;
    if (rotary && t->shape[0] != rows)
        return err_set(e, ERR_CORRUPT, "tensor '%.80s' has %lld rows; %lld would be right", t->name, (long long)t->shape[0], (long long)rows);
    return gguf_write_tensor(im->w, job->name, job->type, dims, shape, e);
}

/* ---- numbers ---- */

static float from_half(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 1023, bits;
    if (exponent == 0) {
        float f = ldexpf((float)fraction, -24);
        return sign ? -f : f;
    }
    bits = sign | (exponent == 31 ? 0x7F800000U : (exponent + 112) << 23) | fraction << 13;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static uint16_t to_half(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, 4);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    float size = fabsf(f);
    if (isnan(f)) return sign | 0x7E00;
    if (size >= 65520) return sign | 0x7C00;
    if (size < 6.103515625e-05F) return sign | (uint16_t)lrintf(ldexpf(size, 24)); /* subnormal, rounded to even */
    bits = (bits & 0x7FFFFFFF) - (112U << 23);
    return sign | (uint16_t)((bits + 0xFFF + (bits >> 13 & 1)) >> 13);
}

static uint16_t to_bfloat(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, 4);
    if (isnan(f)) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static float load(const struct st_tensor *t, int64_t i)
{
    float f;
    uint16_t half;
    if (t->type == ST_F32) {
        memcpy(&f, (const char *)t->data + i * 4, 4);
        return f;
    }
    memcpy(&half, (const char *)t->data + i * 2, 2);
    if (t->type == ST_F16) return from_half(half);
    uint32_t bits = (uint32_t)half << 16;
    memcpy(&f, &bits, 4);
    return f;
}

static size_t store(enum gguf_type type, float f, char *out)
{
    if (type == GGUF_F32) {
        memcpy(out, &f, 4);
        return 4;
    }
    uint16_t half = type == GGUF_F16 ? to_half(f) : to_bfloat(f);
    memcpy(out, &half, 2);
    return 2;
}

/* Where row r of the GGUF tensor comes from: Hugging Face keeps the halves of a head apart, GGUF pairs neighbours. */
static int64_t source_row(const struct import *im, const struct job *job, int64_t r)
{
    if (!im->arch->permute || (job->change != ROTARY_Q && job->change != ROTARY_K)) return r;
    int64_t head = r / im->head_dim, at = r % im->head_dim;
    return head * im->head_dim + (at % 2) * (im->head_dim / 2) + at / 2;
}

/* Whether a tensor's bytes may go into the file as they are. */
static bool is_verbatim(const struct import *im, const struct job *job, const struct st_tensor *t)
{
    static const enum gguf_type SAME[] = {[ST_F32] = GGUF_F32, [ST_F16] = GGUF_F16, [ST_BF16] = GGUF_BF16};
    bool changed = (job->change == NORM && im->arch->norm_plus_one) ||
                   (im->arch->permute && (job->change == ROTARY_Q || job->change == ROTARY_K));
    return !changed && SAME[t->type] == job->type;
}

static enum err_code write_one(struct import *im, const struct job *job, const struct st_tensor *t, struct err *e)
{
    if (is_verbatim(im, job, t)) return gguf_write_data(im->w, t->data, (size_t)t->elements * (t->type == ST_F32 ? 4 : 2), e);
    int64_t rows = t->shape[0], columns = rows > 0 ? t->elements / rows : 0;
    char *row = malloc((size_t)columns * 4 + 4);
    float plus = job->change == NORM && im->arch->norm_plus_one ? 1 : 0;
    enum err_code code = row ? ERR_OK : err_set(e, ERR_MEMORY, "no memory for a row of %lld", (long long)columns);
    for (int64_t r = 0; r < rows && !code; r++) {
        int64_t from = source_row(im, job, r) * columns;
        size_t len = 0;
        for (int64_t c = 0; c < columns; c++) len += store(job->type, load(t, from + c) + plus, row + len);
        code = gguf_write_data(im->w, row, len, e);
    }
    free(row);
    return code;
}

static enum err_code write_job(struct import *im, const struct job *job, struct err *e)
{
    enum err_code code = ERR_OK;
    if (job->change != EXPERT) return write_one(im, job, job->tensor, e);
    for (int k = 0; k < im->experts && !code; k++) code = write_one(im, job, expert_of(im, job, k), e);
    return code;
}

/* ---- the factors that some rope scalings keep in tensors ---- */

struct factors {
    const char *name;
    const json_t *list; /* NULL: Llama 3's formula */
};

static int find_factors(const struct import *im, struct factors out[2])
{
    const json_t *rope = rope_settings(im), *longer = json_object_get(rope, "long_factor"), *shorter = json_object_get(rope, "short_factor");
    if (strcmp(rope_type(rope), "llama3") == 0) {
        out[0] = (struct factors){"rope_freqs.weight", NULL};
        return 1;
    }
    if (!json_array_size(longer) || !json_array_size(shorter)) return 0;
    out[0] = (struct factors){"rope_factors_long.weight", longer};
    out[1] = (struct factors){"rope_factors_short.weight", shorter};
    return 2;
}

static enum err_code write_factors(struct import *im, const struct factors *f, struct err *e)
{
    int pairs = rotated(im) / 2;
    enum err_code code = ERR_OK;
    for (int i = 0; i < pairs && !code; i++) {
        float v = f->list ? (float)json_number_value(json_array_get(f->list, (size_t)i))
                          : llama3_factor(rope_settings(im), rope_base(im), i, rotated(im));
        if (!(v > 0)) return err_set(e, ERR_CORRUPT, "config.json: rope factor %d is not above 0", i);
        code = gguf_write_data(im->w, &v, sizeof v, e);
    }
    return code;
}

/* ---- all of it ---- */

static enum err_code find_prefix(struct import *im, struct err *e)
{
    static const char END[] = "embed_tokens.weight";
    for (int i = 0; i < im->tensors.tensor_count; i++) {
        const struct st_tensor *t = &im->tensors.tensors[i];
        size_t len = strlen(t->name), end = sizeof END - 1;
        if (len < end || len - end >= sizeof im->prefix || strcmp(t->name + len - end, END) != 0 || t->dims != 2) continue;
        (void)snprintf(im->prefix, sizeof im->prefix, "%.*s", (int)(len - end), t->name);
        if (t->shape[0] < 1 || t->shape[0] > 1 << 24) break;
        im->vocabulary = (int)t->shape[0];
        return ERR_OK;
    }
    return err_set(e, ERR_CORRUPT, "%s: holds no usable tensor embed_tokens.weight", im->o->source);
}

static enum err_code plan(struct import *im, struct job **out, int *count, struct err *e)
{
    struct job *jobs = calloc((size_t)im->tensors.tensor_count + 1, sizeof *jobs);
    *out = jobs;
    *count = 0;
    if (!jobs) return err_set(e, ERR_MEMORY, "no memory for %d tensors", im->tensors.tensor_count);
    for (int i = 0; i < im->tensors.tensor_count; i++) {
        struct job *job = &jobs[*count];
        job->tensor = &im->tensors.tensors[i];
        enum place place = find_place(im, job);
        if (place == UNKNOWN_PLACE)
            return err_set(e, ERR_UNSUPPORTED, "tensor '%.100s' has no place in a %s file", job->tensor->name, im->arch->name);
        if (place == LEFT_OUT) continue;
        job->type = wanted_type(im, job);
        enum err_code code = declare(im, job, e);
        if (code) return code;
        ++*count;
    }
    return ERR_OK;
}

static void type_key(struct import *im, const struct job *jobs, int count)
{
    enum gguf_type type = GGUF_F32;
    for (int i = 0; i < count; i++)
        if (jobs[i].tensor->dims == 2) type = jobs[i].type;
    gguf_write_u32(im->w, "general.file_type", type == GGUF_F16 ? 1 : type == GGUF_BF16 ? 32 : 0);
}

static enum err_code convert(struct import *im, struct err *e)
{
    struct job *jobs = NULL;
    struct factors factors[2];
    int count = 0, extra = 0;
    enum err_code code = find_prefix(im, e);
    if (!code) code = write_keys(im, e);
    if (!code) code = import_tokenizer(im->w, im->o, im->config, im->vocabulary, e);
    if (!code) code = plan(im, &jobs, &count, e);
    if (!code) {
        type_key(im, jobs, count);
        extra = find_factors(im, factors);
    }
    for (int i = 0; i < extra && !code; i++)
        code = gguf_write_tensor(im->w, factors[i].name, GGUF_F32, 1, (int64_t[]){rotated(im) / 2}, e);
    if (!code) code = gguf_writer_begin(im->w, e);
    for (int i = 0; i < count && !code; i++) code = write_job(im, &jobs[i], e);
    for (int i = 0; i < extra && !code; i++) code = write_factors(im, &factors[i], e);
    if (!code) code = gguf_writer_finish(im->w, e);
    free(jobs);
    return code;
}

enum err_code import_folder(const struct import_options *o, struct err *e)
{
    struct import im = {.o = o, .whole = import_json(o->source, "config.json")};
    enum err_code code = read_config(&im, e);
    if (!code) code = st_open(&im.tensors, o->source, e);
    if (!code) code = gguf_writer_open(&im.w, o->out, e);
    if (!code) code = convert(&im, e);
    gguf_writer_close(im.w);
    st_close(&im.tensors);
    json_decref(im.whole);
    return code;
}
