#include "engine/model.h"

#include "engine/cpu/pack.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct model_arch ARCHS[] = {
    /* name       rope_halves  gelu  scaled_embed window_every local_rope norm_topk */
    {"llama",     false,       false, false,      0,           0,         false},
    {"qwen2",     true,        false, false,      0,           0,         false},
    {"qwen3",     true,        false, false,      0,           0,         false},
    {"qwen3moe",  true,        false, false,      0,           0,         true},
    {"phi3",      true,        false, false,      0,           0,         false},
    {"gemma2",    true,        true,  true,       2,           0,         false},
    {"gemma3",    true,        true,  true,       6,           10000,     false},
    {"granite",   false,       false, false,      0,           0,         false},
};
enum { ARCHS_COUNT = (int)(sizeof ARCHS / sizeof ARCHS[0]), CONTEXT_DEFAULT = 8192, RANDOM_SEED = 20250911 };

const char *model_arch_name(int index)
{
    return index >= 0 && index < ARCHS_COUNT ? ARCHS[index].name : NULL;
}

/* ---- metadata ---- */

static const char *key_of(const struct model *m, const char *key, char *out, size_t size)
{
    (void)snprintf(out, size, "%s.%s", m->arch->name, key);
    return out;
}

/* A number that files write as a float or as a whole one. */
static double number(const struct model *m, const char *key, double otherwise)
{
    char name[128];
    double v = gguf_float(m->gguf, key_of(m, key, name, sizeof name), NAN);
    if (isnan(v)) v = (double)gguf_int(m->gguf, name, INT64_MIN);
    return v > (double)INT64_MIN && isfinite(v) ? v : otherwise;
}

static bool word(const struct model *m, const char *key, const char *wanted)
{
    char name[128];
    struct gguf_string s = gguf_str(m->gguf, key_of(m, key, name, sizeof name));
    return s.data && s.len == strlen(wanted) && memcmp(s.data, wanted, s.len) == 0;
}

/* A whole number that must lie within [min, max]; `otherwise` (if it lies there) where the file has none. */
static enum err_code whole(const struct model *m, const char *key, int64_t otherwise, int64_t min, int64_t max, int *out,
                           struct err *e)
{
    char name[128];
    int64_t v = gguf_int(m->gguf, key_of(m, key, name, sizeof name), otherwise);
    if (v < min || v > max)
        return err_set(e, ERR_CORRUPT, "the file's %s is %s%lld; it must lie in %lld..%lld", name,
                       v == otherwise ? "missing or " : "", (long long)v, (long long)min, (long long)max);
    *out = (int)v;
    return ERR_OK;
}

static enum err_code read_shape(struct model *m, struct err *e)
{
    enum err_code code;
    if ((code = whole(m, "embedding_length", 0, 16, 1 << 16, &m->embedding, e)) ||
        (code = whole(m, "block_count", 0, 1, 1024, &m->layers, e)) ||
        (code = whole(m, "attention.head_count", 0, 1, 1024, &m->heads, e)) ||
        (code = whole(m, "attention.head_count_kv", m->heads, 1, m->heads, &m->kv_heads, e)) ||
        (code = whole(m, "attention.key_length", m->embedding / m->heads, 16, 1024, &m->head_dim, e)) ||
        (code = whole(m, "rope.dimension_count", m->head_dim, 2, m->head_dim, &m->rotated, e)) ||
        (code = whole(m, "feed_forward_length", 0, 0, 1 << 20, &m->feed_forward, e)) ||
        (code = whole(m, "context_length", 2048, 1, 1 << 30, &m->context, e)) ||
        (code = whole(m, "expert_count", 0, 0, 1024, &m->experts, e)) ||
        (code = whole(m, "expert_used_count", 0, 0, m->experts, &m->experts_used, e)) ||
        (code = whole(m, "expert_feed_forward_length", m->feed_forward, 0, 1 << 20, &m->expert_feed_forward, e)))
        return code;
    int value_dim = 0;
    if ((code = whole(m, "attention.value_length", m->head_dim, 1, 1 << 16, &value_dim, e))) return code;
    if (value_dim != m->head_dim)
        return err_set(e, ERR_UNSUPPORTED, "values of %d beside keys of %d elements are not supported", value_dim, m->head_dim);
    if (m->heads % m->kv_heads)
        return err_set(e, ERR_CORRUPT, "%d heads cannot share %d key-value heads evenly", m->heads, m->kv_heads);
    if (m->embedding % 16 || m->head_dim % 16 || m->feed_forward % 16 || m->rotated % 2)
        return err_set(e, ERR_UNSUPPORTED, "embedding %d, head %d and feed-forward %d must be multiples of 16",
                       m->embedding, m->head_dim, m->feed_forward);
    if (m->experts ? m->experts_used < 1 || m->expert_feed_forward < 16 || m->expert_feed_forward % 16 : m->feed_forward < 16)
        return err_set(e, ERR_CORRUPT, "the file gives no usable feed-forward size");
    return ERR_OK;
}

static void read_scales(struct model *m)
{
    m->norm_eps = (float)number(m, "attention.layer_norm_rms_epsilon", 1e-5);
    m->attention_softcap = (float)number(m, "attn_logit_softcapping", 0);
    m->logit_softcap = (float)number(m, "final_logit_softcapping", 0);
    m->embedding_scale = (float)number(m, "embedding_scale", m->arch->scaled_embed ? sqrt(m->embedding) : 1);
    m->residual_scale = (float)number(m, "residual_scale", 1);
    double logits = number(m, "logit_scale", 1), head = m->head_dim;
    m->logit_scale = (float)(logits != 0 ? 1 / logits : 1);
    /* Gemma's 27B scales by embedding / heads, the others by the head. Its file does not say so. */
    if (m->arch->gelu && (m->layers == 46 || m->layers == 62)) head = (double)m->embedding / m->heads;
    m->attention_scale = (float)number(m, "attention.scale", 1 / sqrt(head));
    if (m->attention_scale == 0) m->attention_scale = (float)(1 / sqrt(head));
}

/* ---- rotary frequencies ---- */

/* Where YaRN (arXiv 2309.00071) stops interpolating: the dimension that turns `beta` times in the trained context. */
static double yarn_dimension(int rotated, double trained, double beta, double base)
{
    return rotated * log(trained / (beta * 2 * 3.14159265358979323846)) / (2 * log(base));
}

static void yarn(struct model *m, struct model_rope *r, double base, double factor)
{
    double trained = number(m, "rope.scaling.original_context_length", m->context);
    double low = floor(yarn_dimension(m->rotated, trained, number(m, "rope.scaling.yarn_beta_fast", 32), base));
    double high = ceil(yarn_dimension(m->rotated, trained, number(m, "rope.scaling.yarn_beta_slow", 1), base));
    low = fmax(0, low);
    high = fmin(m->rotated - 1, high);
    for (int i = 0; i < m->rotated / 2; i++) {
        double ramp = 1 - fmin(1, fmax(0, (i - low) / fmax(0.001, high - low)));
        r->frequency[i] = (float)((double)r->frequency[i] * ((1 - ramp) / factor + ramp));
    }
    r->scale *= (float)(1 + 0.1 * log(factor));
}

/* Frequencies are divided by these factors (Llama 3's and Phi 3's files carry them). */
static enum err_code divide_factors(struct model *m, struct model_rope *r, int tokens, struct err *e)
{
    const struct gguf_tensor *t = gguf_tensor_find(m->gguf, "rope_freqs.weight");
    bool longer = tokens > number(m, "rope.scaling.original_context_length", m->context);
    if (!t) t = gguf_tensor_find(m->gguf, longer ? "rope_factors_long.weight" : "rope_factors_short.weight");
    if (!t) return ERR_OK;
    if (t->type != GGUF_F32 || t->shape[0] < m->rotated / 2)
        return err_set(e, ERR_CORRUPT, "the rope factors must be %d F32 numbers", m->rotated / 2);
    for (int i = 0; i < m->rotated / 2; i++) {
        float f;
        memcpy(&f, (const char *)t->data + i * 4, 4);
        if (!(f > 0)) return err_set(e, ERR_CORRUPT, "rope factor %d is not above 0", i);
        r->frequency[i] /= f;
    }
    return ERR_OK;
}

static enum err_code read_rope(struct model *m, int tokens, struct err *e)
{
    double base = number(m, "rope.freq_base", 10000), factor = number(m, "rope.scaling.factor", 1);
    double bases[2] = {base, m->arch->local_rope > 0 ? (double)m->arch->local_rope : base};
    if (!(base > 1)) return err_set(e, ERR_CORRUPT, "the file's rope.freq_base must be above 1");
    if (!(factor > 0)) factor = number(m, "rope.scale_linear", 1);
    if (!(factor > 0)) factor = 1;
    for (int set = 0; set < 2; set++) {
        struct model_rope *r = &m->rope[set];
        r->scale = set == 0 ? (float)number(m, "rope.scaling.attn_factor", 1) : 1;
        r->frequency = calloc((size_t)m->rotated, sizeof *r->frequency);
        if (!r->frequency) return err_set(e, ERR_MEMORY, "no memory for the rope table");
        for (int i = 0; i < m->rotated / 2; i++) r->frequency[i] = (float)pow(bases[set], -2.0 * i / m->rotated);
    }
    if (word(m, "rope.scaling.type", "yarn")) yarn(m, &m->rope[0], base, factor);
    else if (factor != 1 && !word(m, "rope.scaling.type", "none") && !word(m, "rope.scaling.type", "longrope"))
        for (int i = 0; i < m->rotated / 2; i++) m->rope[0].frequency[i] /= (float)factor;
    return divide_factors(m, &m->rope[0], tokens, e);
}

/* ---- tensors ---- */

enum dim { D_NONE, D_EMBED, D_Q, D_KV, D_QKV, D_HEAD, D_FF, D_EXPERT_FF, D_EXPERTS };
enum need { ALWAYS, OPTIONAL, DENSE, EXPERTS };

struct tensor_row {
    const char *name; /* after "blk.N." */
    size_t field;     /* in struct model_layer */
    enum dim k, rows, slices;
    enum need need;
};
#define FIELD(f) offsetof(struct model_layer, f)
static const struct tensor_row TENSORS[] = {
    {"attn_norm.weight", FIELD(attn_norm), D_EMBED, D_NONE, D_NONE, ALWAYS},
    {"attn_q.weight", FIELD(q), D_EMBED, D_Q, D_NONE, OPTIONAL},
    {"attn_k.weight", FIELD(k), D_EMBED, D_KV, D_NONE, OPTIONAL},
    {"attn_v.weight", FIELD(v), D_EMBED, D_KV, D_NONE, OPTIONAL},
    {"attn_qkv.weight", FIELD(qkv), D_EMBED, D_QKV, D_NONE, OPTIONAL},
    {"attn_output.weight", FIELD(o), D_Q, D_EMBED, D_NONE, ALWAYS},
    {"attn_q.bias", FIELD(q_bias), D_Q, D_NONE, D_NONE, OPTIONAL},
    {"attn_k.bias", FIELD(k_bias), D_KV, D_NONE, D_NONE, OPTIONAL},
    {"attn_v.bias", FIELD(v_bias), D_KV, D_NONE, D_NONE, OPTIONAL},
    {"attn_qkv.bias", FIELD(qkv_bias), D_QKV, D_NONE, D_NONE, OPTIONAL},
    {"attn_output.bias", FIELD(o_bias), D_EMBED, D_NONE, D_NONE, OPTIONAL},
    {"attn_q_norm.weight", FIELD(q_norm), D_HEAD, D_NONE, D_NONE, OPTIONAL},
    {"attn_k_norm.weight", FIELD(k_norm), D_HEAD, D_NONE, D_NONE, OPTIONAL},
    {"post_attention_norm.weight", FIELD(attn_post_norm), D_EMBED, D_NONE, D_NONE, OPTIONAL},
    {"ffn_norm.weight", FIELD(ffn_norm), D_EMBED, D_NONE, D_NONE, ALWAYS},
    {"ffn_gate.weight", FIELD(gate), D_EMBED, D_FF, D_NONE, OPTIONAL},
    {"ffn_up.weight", FIELD(up), D_EMBED, D_FF, D_NONE, DENSE},
    {"ffn_down.weight", FIELD(down), D_FF, D_EMBED, D_NONE, DENSE},
    {"post_ffw_norm.weight", FIELD(ffn_post_norm), D_EMBED, D_NONE, D_NONE, OPTIONAL},
    {"ffn_gate_inp.weight", FIELD(router), D_EMBED, D_EXPERTS, D_NONE, EXPERTS},
    {"ffn_gate_exps.weight", FIELD(gate_experts), D_EMBED, D_EXPERT_FF, D_EXPERTS, EXPERTS},
    {"ffn_up_exps.weight", FIELD(up_experts), D_EMBED, D_EXPERT_FF, D_EXPERTS, EXPERTS},
    {"ffn_down_exps.weight", FIELD(down_experts), D_EXPERT_FF, D_EMBED, D_EXPERTS, EXPERTS},
};

static int64_t size_of(const struct model *m, enum dim d)
{
    switch (d) {
    case D_EMBED: return m->embedding;
    case D_Q: return (int64_t)m->heads * m->head_dim;
    case D_KV: return (int64_t)m->kv_heads * m->head_dim;
    case D_QKV: return (int64_t)(m->heads + 2 * m->kv_heads) * m->head_dim;
    case D_HEAD: return m->head_dim;
    case D_FF: return m->feed_forward;
    case D_EXPERT_FF: return m->expert_feed_forward;
    case D_EXPERTS: return m->experts;
    case D_NONE: break;
    }
    return 1;
}

static enum err_code check(const struct gguf_tensor *t, int64_t k, int64_t rows, int64_t slices, struct err *e)
{
    int64_t have[3] = {1, 1, 1};
    for (int i = 0; i < t->dims && i < 3; i++) have[i] = t->shape[i];
    if (t->dims > 3 || have[0] != k || have[1] != rows || have[2] != slices)
        return err_set(e, ERR_CORRUPT, "tensor %.*s is %lld × %lld × %lld; this model needs %lld × %lld × %lld",
                       (int)t->name.len, t->name.data, (long long)have[0], (long long)have[1], (long long)have[2],
                       (long long)k, (long long)rows, (long long)slices);
    if (!pack_format(t->type))
        return err_set(e, ERR_UNSUPPORTED, "tensor %.*s has type %d, which has no kernel", (int)t->name.len, t->name.data,
                       (int)t->type);
    return ERR_OK;
}

static enum err_code read_tensor(struct model *m, int layer, const struct tensor_row *row, struct err *e)
{
    char name[96];
    (void)snprintf(name, sizeof name, "blk.%d.%s", layer, row->name);
    const struct gguf_tensor *t = gguf_tensor_find(m->gguf, name);
    bool needed = row->need == ALWAYS || row->need == (m->experts ? EXPERTS : DENSE);
    if (!t) return needed ? err_set(e, ERR_CORRUPT, "the file has no tensor %s", name) : ERR_OK;
    int64_t rows = size_of(m, row->rows);
    /* Phi 3 keeps gate and up in one tensor, gate first. */
    if (row->field == FIELD(up) && t->dims == 2 && t->shape[1] == 2 * rows) rows *= 2;
    memcpy((char *)&m->layer[layer] + row->field, &t, sizeof t);
    return check(t, size_of(m, row->k), rows, size_of(m, row->slices), e);
}

static enum err_code check_layer(const struct model *m, int index, struct err *e)
{
    const struct model_layer *l = &m->layer[index];
    if (!l->qkv && !(l->q && l->k && l->v))
        return err_set(e, ERR_CORRUPT, "layer %d has neither attn_qkv nor attn_q, attn_k and attn_v", index);
    if (!m->experts && !l->gate && l->up->shape[1] != 2 * (int64_t)m->feed_forward)
        return err_set(e, ERR_UNSUPPORTED, "layer %d has no ffn_gate; a feed-forward without a gate is not supported", index);
    return ERR_OK;
}

static enum err_code read_layers(struct model *m, struct err *e)
{
    int window = 0;
    enum err_code code = whole(m, "attention.sliding_window", 0, 0, 1 << 30, &window, e);
    if (code) return code;
    m->layer = calloc((size_t)m->layers, sizeof *m->layer);
    if (!m->layer) return err_set(e, ERR_MEMORY, "no memory for %d layers", m->layers);
    for (int i = 0; i < m->layers; i++) {
        for (size_t t = 0; t < sizeof TENSORS / sizeof TENSORS[0]; t++)
            if ((code = read_tensor(m, i, &TENSORS[t], e))) return code;
        if ((code = check_layer(m, i, e))) return code;
        bool all = m->arch->window_every && (i + 1) % m->arch->window_every == 0;
        m->layer[i].window = all ? 0 : window;
        m->layer[i].local_rope = m->arch->local_rope > 0 && !all;
    }
    return ERR_OK;
}

static enum err_code find_needed(struct model *m, const char *name, int64_t k, int64_t rows, const struct gguf_tensor **out,
                                 struct err *e)
{
    *out = gguf_tensor_find(m->gguf, name);
    return *out ? check(*out, k, rows, 1, e) : err_set(e, ERR_CORRUPT, "the file has no tensor %s", name);
}

static enum err_code read_ends(struct model *m, struct err *e)
{
    const struct gguf_tensor *embed = gguf_tensor_find(m->gguf, "token_embd.weight");
    int64_t vocabulary = embed && embed->dims == 2 ? embed->shape[1] : 0;
    if (vocabulary < 1 || vocabulary > 1 << 24)
        return err_set(e, ERR_CORRUPT, "the file has no usable tensor token_embd.weight");
    m->vocabulary = (int)vocabulary;
    enum err_code code = find_needed(m, "token_embd.weight", m->embedding, vocabulary, &m->embed, e);
    if (!code) code = find_needed(m, "output_norm.weight", m->embedding, 1, &m->output_norm, e);
    m->output = gguf_tensor_find(m->gguf, "output.weight");
    if (!m->output) m->output = m->embed;
    m->output_bias = gguf_tensor_find(m->gguf, "output.bias");
    if (!code) code = check(m->output, m->embedding, vocabulary, 1, e);
    if (!code && m->output_bias) code = check(m->output_bias, vocabulary, 1, 1, e);
    return code;
}

static enum err_code find_arch(struct model *m, struct err *e)
{
    struct gguf_string s = gguf_str(m->gguf, "general.architecture");
    if (!s.data) return err_set(e, ERR_CORRUPT, "the file does not name its architecture (general.architecture)");
    for (int i = 0; i < ARCHS_COUNT; i++)
        if (s.len == strlen(ARCHS[i].name) && memcmp(s.data, ARCHS[i].name, s.len) == 0) m->arch = &ARCHS[i];
    char known[160] = "";
    for (int i = 0; i < ARCHS_COUNT; i++) {
        size_t len = strlen(known);
        (void)snprintf(known + len, sizeof known - len, "%s%s", i ? ", " : "", ARCHS[i].name);
    }
    if (m->arch) return ERR_OK;
    return err_set(e, ERR_UNSUPPORTED, "architecture '%.*s' is not supported; these are: %s", (int)(s.len < 32 ? s.len : 32),
                   s.data, known);
}

enum err_code model_open(struct model **out, struct gguf *gguf, int context_tokens, struct err *e)
{
    struct model *m = calloc(1, sizeof *m);
    if (!m) return err_set(e, ERR_MEMORY, "no memory for a model");
    m->gguf = gguf;
    enum err_code code = find_arch(m, e);
    if (!code) code = read_shape(m, e);
    if (!code) {
        read_scales(m);
        int tokens = context_tokens ? context_tokens : m->context < CONTEXT_DEFAULT ? m->context : CONTEXT_DEFAULT;
        code = read_rope(m, tokens, e);
    }
    if (!code) code = read_ends(m, e);
    if (!code) code = read_layers(m, e);
    if (code) {
        m->gguf = NULL;
        model_close(m);
        return code;
    }
    for (int i = 0; i < gguf_tensor_count(gguf); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(gguf, i);
        int64_t n = 1;
        for (int d = 0; d < t->dims; d++) n *= t->shape[d];
        if (!t->is_scale) m->parameters += n;
        if (!t->data) m->random = RANDOM_SEED;
    }
    *out = m;
    return ERR_OK;
}

void model_close(struct model *m)
{
    if (!m) return;
    gguf_close(m->gguf);
    free(m->rope[0].frequency);
    free(m->rope[1].frequency);
    free(m->layer);
    free(m);
}
