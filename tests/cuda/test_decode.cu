/* The one-launch decode kernel against the same step in double precision on the host. */
#include "engine/cuda/decode.cuh"
#include "tests/cuda/random.cuh"

#include <algorithm>
#include <vector>

extern "C" {
#include "base/err.h"
}

typedef std::vector<double> row;

struct host_layer {
    struct host_matrix q, k, v, o, gate, up, down;
    float *attn_norm, *ffn_norm, *q_bias, *k_bias, *v_bias, *q_norm, *k_norm;
};
struct shape {
    const char *name;
    enum matrix_kind kind, out_kind;
    int d, layers, heads, kv_heads, head_dim, ffn, vocabulary;
    bool halves, bias, qk_norm, fp8, gelu;
    int window;
    float softcap;
};
struct test {
    struct shape s;
    std::vector<host_layer> host;
    std::vector<decode_layer> layer;
    struct host_matrix output;
    float *output_norm;
    struct decode_model model;
    int context, sequences, pages_stride;
    std::vector<int32_t> table;              /* (sequences, pages_stride) */
    std::vector<std::vector<row>> k, v;      /* [layer × sequences][position × kv_heads] of head_dim */
    std::vector<uint8_t> pages;
};

static row times(const struct host_matrix *m, const row &x)
{
    row y((size_t)m->device.rows);
    for (size_t r = 0; r < y.size(); r++) {
        double s = 0;
        for (size_t i = 0; i < x.size(); i++) s += (double)m->value[r * x.size() + i] * x[i];
        y[r] = s;
    }
    return y;
}

static row normed(const row &x, const float *w, double eps)
{
    double s = 0;
    for (double v : x) s += v * v;
    double f = 1 / sqrt(s / (double)x.size() + eps);
    row y(x.size());
    for (size_t i = 0; i < x.size(); i++) y[i] = x[i] * f * (w ? (double)w[i] : 1);
    return y;
}

static void turn(const struct shape *s, double *x, const float *norm, const float *angles)
{
    int n = s->head_dim, half = n / 2;
    if (norm) {
        row y = normed(row(x, x + n), norm, 1e-5);
        for (int i = 0; i < n; i++) x[i] = y[(size_t)i];
    }
    for (int i = 0; i < half; i++) {
        int a = s->halves ? i : 2 * i, b = s->halves ? i + half : 2 * i + 1;
        double c = (double)angles[i], w = (double)angles[half + i], p = x[a], q = x[b];
        x[a] = p * c - q * w;
        x[b] = p * w + q * c;
    }
}

static double stored(double v, double scale, bool fp8)
{
    if (!fp8) return (double)__half2float(__float2half((float)v));
    return (double)__half2float(__half(__nv_cvt_fp8_to_halfraw(__nv_cvt_float_to_fp8((float)(v / scale), __NV_SATFINITE, __NV_E4M3), __NV_E4M3))) * scale;
}

/* One head's K or V as the cache holds it. */
static row kept(const row &x, bool fp8)
{
    double most = 0;
    for (double v : x) most = fmax(most, fabs(v));
    double scale = (double)((float)most / 448.f);
    row y(x.size());
    for (size_t i = 0; i < x.size(); i++) y[i] = stored(x[i], scale > 0 ? scale : 1, fp8);
    return y;
}

/* Puts a head's K or V into the page image. */
static void put(struct test *t, int layer, int sequence, int position, int head, bool value, const row &x)
{
    int n = t->s.head_dim, page = t->table[(size_t)(sequence * t->pages_stride + position / 32)], at = position % 32;
    uint8_t *block = t->pages.data() + (((int64_t)layer * t->model.kv.pages + page) * t->s.kv_heads + head) * kv_block_bytes(n, t->s.fp8);
    double most = 0;
    for (double v : x) most = fmax(most, fabs(v));
    float scale = most > 0 ? (float)most / 448.f : 1.f;
    for (int i = 0; i < n; i++) {
        int where = value ? 32 * n + i * 32 + at : at * n + i;
        if (t->s.fp8) block[where] = (uint8_t)__nv_cvt_float_to_fp8((float)(x[(size_t)i] / (double)scale), __NV_SATFINITE, __NV_E4M3);
        else ((__half *)block)[where] = __float2half((float)x[(size_t)i]);
    }
    if (t->s.fp8) ((float *)(block + 64 * n))[(value ? 32 : 0) + at] = scale;
}

static void build(struct test *t, const struct shape *s, int context, int sequences)
{
    t->s = *s;
    t->context = context;
    t->sequences = sequences;
    t->pages_stride = (context + 64) / 32 + 1;
    int q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
    t->host.resize((size_t)s->layers);
    t->layer.resize((size_t)s->layers);
    for (int i = 0; i < s->layers; i++) {
        struct host_layer *h = &t->host[(size_t)i];
        struct decode_layer *l = &t->layer[(size_t)i];
        memset(h, 0, sizeof *h);
        memset(l, 0, sizeof *l);
        float size = 1.f / sqrtf((float)s->d);
        h->q = matrix_random(s->kind, q, s->d, size), h->k = matrix_random(s->kind, kv, s->d, size), h->v = matrix_random(s->kind, kv, s->d, size);
        h->o = matrix_random(s->kind, s->d, q, size), h->gate = matrix_random(s->kind, s->ffn, s->d, size);
        h->up = matrix_random(s->kind, s->ffn, s->d, size), h->down = matrix_random(s->kind, s->d, s->ffn, 1.f / sqrtf((float)s->ffn));
        struct matrix *qkv[] = {&h->q.device, &h->k.device, &h->v.device};
        matrices_join(qkv, 3, matrix_bytes);
        l->q = h->q.device, l->k = h->k.device, l->v = h->v.device, l->o = h->o.device, l->gate = h->gate.device, l->up = h->up.device,
        l->down = h->down.device;
        l->attn_norm = vector_random(s->d, 1, 0.2f, &h->attn_norm);
        l->ffn_norm = vector_random(s->d, 1, 0.2f, &h->ffn_norm);
        if (s->bias) l->q_bias = vector_random(q, 0, 0.5f, &h->q_bias), l->k_bias = vector_random(kv, 0, 0.5f, &h->k_bias), l->v_bias = vector_random(kv, 0, 0.5f, &h->v_bias);
        if (s->qk_norm) l->q_norm = vector_random(s->head_dim, 1, 0.2f, &h->q_norm), l->k_norm = vector_random(s->head_dim, 1, 0.2f, &h->k_norm);
        l->window = s->window;
    }
    t->output = matrix_random(s->out_kind, s->vocabulary, s->d, 1.f / sqrtf((float)s->d));
    struct decode_model m;
    memset(&m, 0, sizeof m);
    m.embedding = s->d, m.layers = s->layers, m.heads = s->heads, m.kv_heads = s->kv_heads, m.head_dim = m.rotated = s->head_dim;
    m.feed_forward = s->ffn, m.vocabulary = s->vocabulary, m.rope_halves = s->halves, m.gelu = s->gelu, m.norm_eps = 1e-5f;
    m.attention_scale = 1.f / sqrtf((float)s->head_dim), m.attention_softcap = s->softcap, m.residual_scale = 1, m.logit_scale = 1;
    m.layer = t->layer.data(), m.output = t->output.device, m.output_norm = vector_random(s->d, 1, 0.2f, &t->output_norm);
    int pages = sequences * t->pages_stride;
    m.kv = (struct kv_cache){NULL, s->layers, pages, s->kv_heads, s->head_dim, s->fp8};
    t->table.resize((size_t)pages);
    for (int i = 0; i < pages; i++) t->table[(size_t)i] = (i * 7 + 3) % pages; /* 7 and `pages` share no factor, see below */
    std::vector<bool> seen((size_t)pages);
    for (int i = 0; i < pages; i++) seen[(size_t)t->table[(size_t)i]] = true;
    for (int i = 0; i < pages; i++)
        if (!seen[(size_t)i]) {
            for (int j = 0; j < pages; j++) t->table[(size_t)j] = pages - 1 - j;
            break;
        }
    t->model = m;
    t->pages.assign((size_t)(s->layers * pages * s->kv_heads) * (size_t)kv_block_bytes(s->head_dim, s->fp8), 0);
    t->k.assign((size_t)(s->layers * sequences), {});
    t->v.assign((size_t)(s->layers * sequences), {});
    for (int i = 0; i < s->layers; i++)
        for (int c = 0; c < sequences; c++)
            for (int p = 0; p < context; p++)
                for (int h = 0; h < s->kv_heads; h++) {
                    row x((size_t)s->head_dim), y((size_t)s->head_dim);
                    for (double &v : x) v = (double)random_normal();
                    for (double &v : y) v = (double)random_normal();
                    t->k[(size_t)(i * sequences + c)].push_back(kept(x, s->fp8));
                    t->v[(size_t)(i * sequences + c)].push_back(kept(y, s->fp8));
                    put(t, i, c, p, h, false, x);
                    put(t, i, c, p, h, true, y);
                }
    t->model.kv.base = (uint8_t *)to_device(t->pages.data(), t->pages.size());
}

/* The step of one column in double precision; K and V join the sequence. */
static row reference(struct test *t, row x, int sequence, int position, const float *angles)
{
    const struct shape *s = &t->s;
    int n = s->head_dim, group = s->heads / s->kv_heads;
    for (int i = 0; i < s->layers; i++) {
        const struct host_layer *l = &t->host[(size_t)i];
        row h = normed(x, l->attn_norm, 1e-5), q = times(&l->q, h), k = times(&l->k, h), v = times(&l->v, h), out(q.size());
        if (s->bias) {
            for (size_t j = 0; j < q.size(); j++) q[j] += (double)l->q_bias[j];
            for (size_t j = 0; j < k.size(); j++) k[j] += (double)l->k_bias[j], v[j] += (double)l->v_bias[j];
        }
        std::vector<row> &ks = t->k[(size_t)(i * t->sequences + sequence)], &vs = t->v[(size_t)(i * t->sequences + sequence)];
        for (int j = 0; j < s->kv_heads; j++) {
            turn(s, &k[(size_t)(j * n)], l->k_norm, angles);
            ks.push_back(kept(row(k.begin() + j * n, k.begin() + (j + 1) * n), s->fp8));
            vs.push_back(kept(row(v.begin() + j * n, v.begin() + (j + 1) * n), s->fp8));
        }
        for (int j = 0; j < s->heads; j++) {
            double *qh = &q[(size_t)(j * n)], sum = 0;
            turn(s, qh, l->q_norm, angles);
            int first = s->window && position + 1 > s->window ? position + 1 - s->window : 0;
            std::vector<double> e((size_t)(position + 1));
            for (int p = first; p <= position; p++) {
                double dot = 0;
                for (int a = 0; a < n; a++) dot += qh[a] * ks[(size_t)(p * s->kv_heads + j / group)][(size_t)a];
                dot *= (double)t->model.attention_scale;
                if (s->softcap > 0) dot = (double)s->softcap * tanh(dot / (double)s->softcap);
                sum += e[(size_t)p] = exp(dot);
            }
            for (int p = first; p <= position; p++)
                for (int a = 0; a < n; a++) out[(size_t)(j * n + a)] += e[(size_t)p] / sum * vs[(size_t)(p * s->kv_heads + j / group)][(size_t)a];
        }
        row y = times(&l->o, out);
        for (size_t j = 0; j < x.size(); j++) x[j] += y[j];
        h = normed(x, l->ffn_norm, 1e-5);
        row gate = times(&l->gate, h), up = times(&l->up, h);
        for (size_t j = 0; j < gate.size(); j++) {
            double g = gate[j];
            gate[j] = (s->gelu ? 0.5 * g * (1 + tanh(0.7978845608028654 * (g + 0.044715 * g * g * g))) : g / (1 + exp(-g))) * up[j];
        }
        y = times(&l->down, gate);
        for (size_t j = 0; j < x.size(); j++) x[j] += y[j];
    }
    return times(&t->output, normed(x, t->output_norm, 1e-5));
}

static enum err_code device_step(struct test *t, struct decode *d, const std::vector<row> &x, const std::vector<int> &sequence,
                                 const std::vector<int> &position, const std::vector<float> &angles, bool neighbours, bool invariant,
                                 std::vector<float> *logits)
{
    int cols = (int)x.size(), dim = t->s.d;
    int64_t ld = (t->s.vocabulary + 31) / 32 * 32;
    std::vector<float> xs;
    for (const row &r : x)
        for (double v : r) xs.push_back((float)v);
    std::vector<int32_t> pos(position.begin(), position.end()), seq(sequence.begin(), sequence.end()), want;
    for (int i = 0; i < cols; i++) want.push_back(i);
    std::vector<float> poison((size_t)(cols * ld), NAN);
    struct decode_step s;
    memset(&s, 0, sizeof s);
    s.cols = s.wanted = cols, s.neighbours = neighbours, s.invariant = invariant;
    s.position = (int32_t *)to_device(pos.data(), pos.size() * 4), s.run_of = (int32_t *)to_device(seq.data(), seq.size() * 4);
    s.pages = (int32_t *)to_device(t->table.data(), t->table.size() * 4), s.pages_stride = t->pages_stride;
    s.angles = (float *)to_device(angles.data(), angles.size() * 4), s.want = (int32_t *)to_device(want.data(), want.size() * 4);
    s.x = (float *)to_device(xs.data(), xs.size() * 4), s.logits = (float *)to_device(poison.data(), poison.size() * 4), s.logits_stride = ld;
    MUST(cudaMalloc((void **)&s.hidden, (size_t)(cols * dim) * 4));
    struct err e = {};
    enum err_code code = decode_run(d, &s, 0, &e);
    if (code) fprintf(stderr, "%s\n", e.msg);
    MUST(cudaDeviceSynchronize());
    logits->resize((size_t)(cols * ld));
    MUST(cudaMemcpy(logits->data(), s.logits, logits->size() * 4, cudaMemcpyDeviceToHost));
    const void *all[] = {s.position, s.run_of, s.pages, s.angles, s.want, s.x, s.logits, s.hidden};
    for (const void *p : all) MUST(cudaFree((void *)p));
    return code;
}

static int failures, passes;

static double error_of(const row &want, const float *got)
{
    double diff = 0, size = 0;
    for (size_t i = 0; i < want.size(); i++) {
        diff += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        size += want[i] * want[i];
    }
    return sqrt(diff / size);
}

/* `cols` columns: of as many sequences, or neighbours in one. Two steps, each in both modes; in the invariant one the first column alone
 * must give the same bits. */
static void check(const struct shape *s, int context, int cols, bool neighbours)
{
    struct test t;
    build(&t, s, context, neighbours ? 1 : cols);
    struct decode *d;
    struct err e = {};
    if (decode_open(&d, &t.model, &e)) {
        fprintf(stderr, "%s: %s\n", s->name, e.msg);
        failures++;
        return;
    }
    double worst = 0;
    std::vector<double> errors;
    bool same = true;
    for (int step = 0; step < 2; step++) {
        std::vector<row> x;
        std::vector<int> sequence, position;
        std::vector<float> angles;
        for (int c = 0; c < cols; c++) {
            row r((size_t)s->d);
            for (double &v : r) v = (double)random_normal();
            x.push_back(r);
            sequence.push_back(neighbours ? 0 : c);
            position.push_back(neighbours ? context + step * cols + c : context + step);
            for (int set = 0; set < 2; set++)
                for (int half = 0; half < 2; half++)
                    for (int i = 0; i < s->head_dim / 2; i++) {
                        double a = position.back() * pow(10000., -2. * i / s->head_dim);
                        angles.push_back((float)(half ? sin(a) : cos(a)));
                    }
        }
        for (row &r : x)
            for (double &v : r) v = (double)(float)v;
        std::vector<float> got, alone, fast;
        if (device_step(&t, d, x, sequence, position, angles, neighbours, false, &fast)) failures++;
        if (device_step(&t, d, x, sequence, position, angles, neighbours, true, &got)) failures++;
        int64_t ld = (s->vocabulary + 31) / 32 * 32;
        if (!neighbours) {
            (void)device_step(&t, d, {x[0]}, {0}, {position[0]}, std::vector<float>(angles.begin(), angles.begin() + 2 * s->head_dim), false,
                              true, &alone);
            same = same && memcmp(alone.data(), got.data(), (size_t)s->vocabulary * 4) == 0;
        }
        for (int c = 0; c < cols; c++) {
            row want = reference(&t, x[(size_t)c], sequence[(size_t)c], position[(size_t)c], &angles[(size_t)(c * 2 * s->head_dim)]);
            for (const std::vector<float> *logits : {&got, &fast}) {
                double error = error_of(want, logits->data() + c * ld);
                errors.push_back(error);
                if (!(error <= worst)) worst = error;
            }
        }
    }
    /* The middle column shows the arithmetic's own error; where attention is sharp, or a rounding of K or V to 8 bits falls
     * the other way, one column may stand out: the same step on the host with inputs rounded to F16 does so as well. With one or
     * two positions seen, nothing averages such a step of V out, so every column may. */
    std::sort(errors.begin(), errors.end());
    double middle = errors[errors.size() / 2];
    double bound = s->kind == MATRIX_BF16 ? 6e-3 : s->fp8 ? 1e-2 : cols == 1 ? 1e-2 : 3e-3;
    bool good = middle < (context < 2 ? 2 * bound : bound) && worst < 4e-2 && same;
    good ? passes++ : failures++;
    printf("%-8s %-28s context %5d, %d columns%s: error %.2e, at most %.2e%s\n", good ? "ok" : "FAILED", s->name, context, cols, neighbours ? " of one sequence" : "",
           middle, worst, same ? "" : ", not the same bits alone");
    fflush(stdout);
    decode_close(d);
    MUST(cudaFree(t.model.kv.base));
    for (host_layer &h : t.host)
        for (struct host_matrix *m : {&h.q, &h.k, &h.v, &h.o, &h.gate, &h.up, &h.down}) {
            if (m != &h.k && m != &h.v) MUST(cudaFree((void *)m->device.data)); /* those lie behind Q */
            free(m->value);
        }
}

int main(int argc, char **argv)
{
#ifdef RUNG_EMULATE
    bool few = argc < 2 || strcmp(argv[1], "whole") != 0; /* what can be done in seconds */
#else
    bool few = argc > 1 && strcmp(argv[1], "few") == 0;
#endif
    if (!gpu_is_there()) {
        printf("skipped: no GPU\n0 passed, 0 failed\n");
        return 0;
    }
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    random_state ^= (uint64_t)time(NULL) << 20;
    printf("seed %llu\n", (unsigned long long)random_state);
    /*                name                kind         output       d    lay hd kv  dim  ffn   vocab  halves bias  qknorm fp8    gelu  win softcap */
    struct shape w4 = {"w4, 8 heads a group", MATRIX_W4, MATRIX_F16, 1024, 2, 8, 1, 128, 1408, 1000, false, false, false, false, false, 0, 0};
    struct shape fp8 = {"fp8, fp8 kv", MATRIX_FP8, MATRIX_FP8, 512, 2, 4, 2, 128, 1152, 520, false, false, false, true, false, 0, 0};
    struct shape bf16 = {"bf16, bias, window", MATRIX_BF16, MATRIX_BF16, 512, 2, 8, 4, 64, 1152, 520, true, true, false, false, false, 40, 0};
    struct shape f16 = {"f16, q/k norms, gelu, softcap", MATRIX_F16, MATRIX_F16, 512, 2, 12, 1, 128, 640, 333, true, false, true, false, true, 0, 20};
    /* Inputs of several parts, and tiles enough for every block to begin with a group of them. */
    struct shape parts_w4 = {"w4, parts", MATRIX_W4, MATRIX_F16, 4352, 2, 2, 1, 128, 2176, 4224, false, false, false, false, false, 0, 0};
    struct shape parts_fp8 = {"fp8, parts", MATRIX_FP8, MATRIX_F16, 2176, 2, 4, 2, 64, 2176, 4224, true, true, false, false, false, 0, 0};
    struct shape parts_f16 = {"f16, parts", MATRIX_F16, MATRIX_F16, 1152, 2, 12, 2, 64, 4480, 4224, true, false, false, false, false, 0, 0};
    if (few) {
        parts_w4.ffn = 384, parts_w4.vocabulary = 300;
        parts_fp8.d = 2176, parts_fp8.ffn = 640, parts_fp8.vocabulary = 300;
        parts_f16.d = 1152, parts_f16.ffn = 2176, parts_f16.vocabulary = 512;
    }
    const struct shape *parts[] = {&parts_w4, &parts_fp8, &parts_f16};
    const struct shape *all[] = {&w4, &fp8, &bf16, &f16};
    static const int contexts[] = {0, 1, 31, 32, 33, 63, 300, 1100};
    for (const struct shape *s : all)
        for (int context : contexts)
            if (!few) check(s, context, 1 + (int)(random_u32() % 8), false);
            else if (context == 33) check(s, context, 1 + (int)(random_u32() % 3), false);
    if (few) {
        for (const struct shape *s : all) check(s, 14, 3, true);
        for (const struct shape *s : parts) check(s, 3, 1 + (int)(random_u32() % 2), false);
        printf("%d passed, %d failed\n", passes, failures);
        return failures ? 1 : 0;
    }
    for (const struct shape *s : all) {
        check(s, 30, 8, false);
        check(s, 29, 8, true);
        check(s, 600, 3, true);
        check(s, 90, 1, false);
    }
    for (const struct shape *s : parts)
        for (int cols : {1, 3, 8}) check(s, 40, cols, false);
    /* Inputs too wide for one block: k in slices. */
    struct shape wide = {"w4, wide", MATRIX_W4, MATRIX_F16, 8192, 1, 64, 8, 128, 22016, 256, false, false, false, false, false, 0, 0};
    check(&wide, 70, 8, false);
    check(&wide, 70, 3, false);
    printf("%d passed, %d failed\n", passes, failures);
    return failures ? 1 : 0;
}
