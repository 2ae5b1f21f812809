/* The matrix products against plain sums in double precision on the host: every kind of weights, many shapes, every way.
 * Arguments: "small" keeps to small shapes and few columns (for the sanitizers), "wide" to the wide kernel, "fp8wide" to FP8's.
 * On the host (emulated) there are the wide kernels alone: a few cases; all of them where the last argument is "whole" (long). */
#include "engine/cuda/matmul_private.cuh"
#include "tests/cuda/random.cuh"

extern "C" {
#include "engine/cpu/pack.h"
}

static int passed, failed;
static bool small;
#ifdef RUNG_EMULATE
static const bool emulated = true;
#else
static const bool emulated = false;
#endif
static double last_off; /* of the last product, of the norm */

static void report(bool ok, const char *what, const char *detail)
{
    if (ok) passed++;
    else failed++;
    if (!ok) printf("FAILED %s: %s\n", what, detail);
}

/* ---- weights: as they lie on the device, and their values ---- */

struct kind {
    const char *name;
    enum matrix_kind kind;
    enum gguf_type type;
    int block, bytes;
    int d, m; /* where a block's F16 scale and bias stand; -1: none */
};
static const struct kind KINDS[] = {
    {"W4", MATRIX_W4, GGUF_F32, 128, 66, -1, -1},       {"FP8", MATRIX_FP8, GGUF_F32, 1, 1, -1, -1},
    {"F16", MATRIX_F16, GGUF_F32, 1, 2, -1, -1},        {"BF16", MATRIX_BF16, GGUF_F32, 1, 2, -1, -1},
    {"gguf F32", MATRIX_GGUF, GGUF_F32, 1, 4, -1, -1},  {"gguf F16", MATRIX_GGUF, GGUF_F16, 1, 2, -1, -1},
    {"gguf BF16", MATRIX_GGUF, GGUF_BF16, 1, 2, -1, -1}, {"Q8_0", MATRIX_GGUF, GGUF_Q8_0, 32, 34, 0, -1},
    {"Q4_0", MATRIX_GGUF, GGUF_Q4_0, 32, 18, 0, -1},    {"Q4_1", MATRIX_GGUF, GGUF_Q4_1, 32, 20, 0, 2},
    {"Q5_0", MATRIX_GGUF, GGUF_Q5_0, 32, 22, 0, -1},    {"Q5_1", MATRIX_GGUF, GGUF_Q5_1, 32, 24, 0, 2},
    {"IQ4_NL", MATRIX_GGUF, GGUF_IQ4_NL, 32, 18, 0, -1}, {"Q2_K", MATRIX_GGUF, GGUF_Q2_K, 256, 84, 80, 82},
    {"Q3_K", MATRIX_GGUF, GGUF_Q3_K, 256, 110, 108, -1}, {"Q4_K", MATRIX_GGUF, GGUF_Q4_K, 256, 144, 0, 2},
    {"Q5_K", MATRIX_GGUF, GGUF_Q5_K, 256, 176, 0, 2},   {"Q6_K", MATRIX_GGUF, GGUF_Q6_K, 256, 210, 208, -1},
};
enum { KIND_COUNT = sizeof KINDS / sizeof KINDS[0] };

struct weights {
    const struct kind *kind;
    struct matrix device;
    float *value; /* (rows, k) exactly */
};

static void put_half(uint8_t *at, float v)
{
    __half h = __float2half(v);
    memcpy(at, &h, 2);
}

static void fill_plain(const struct kind *kind, uint8_t *raw, float *value, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float v = random_normal() * 0.05f;
        if (kind->bytes == 4) {
            memcpy(raw + 4 * i, &v, 4);
            value[i] = v;
        } else if (kind->kind == MATRIX_BF16 || kind->type == GGUF_BF16) {
            __nv_bfloat16 b = __float2bfloat16_rn(v);
            memcpy(raw + 2 * i, &b, 2);
            value[i] = __bfloat162float(b);
        } else {
            put_half(raw + 2 * i, v);
            value[i] = __half2float(__float2half(v));
        }
    }
}

static float *fill_fp8(uint8_t *raw, float *value, int rows, int k)
{
    float *scale = (float *)malloc((size_t)rows * 4);
    for (int r = 0; r < rows; r++) {
        scale[r] = 0.0005f * (1.5f + random_unit());
        for (size_t i = (size_t)r * (size_t)k; i < (size_t)(r + 1) * (size_t)k; i++) {
            raw[i] = (uint8_t)__nv_cvt_float_to_fp8(random_normal() * 0.05f / scale[r], __NV_SATFINITE, __NV_E4M3);
            value[i] = __half2float(__half(__nv_cvt_fp8_to_halfraw(raw[i], __NV_E4M3))) * scale[r];
        }
    }
    float *there = (float *)to_device(scale, (size_t)rows * 4);
    free(scale);
    return there;
}

/* Random bits, but scales that are numbers of a usual size. */
static void fill_blocks(const struct kind *kind, uint8_t *raw, float *value, int rows, int k)
{
    size_t row_bytes = (size_t)(k / kind->block * kind->bytes), blocks = (size_t)rows * (size_t)(k / kind->block);
    void *scratch = malloc(packed_scratch(k));
    for (size_t i = 0; i < (size_t)rows * row_bytes; i++) raw[i] = (uint8_t)random_u32();
    for (size_t b = 0; b < blocks; b++) {
        if (kind->d >= 0) put_half(raw + b * (size_t)kind->bytes + kind->d, 0.002f * random_unit());
        if (kind->m >= 0) put_half(raw + b * (size_t)kind->bytes + kind->m, 0.004f * random_unit());
    }
    for (int r = 0; r < rows; r++) pack_dequantize(kind->type, raw + (size_t)r * row_bytes, k, value + (size_t)r * (size_t)k, scratch);
    free(scratch);
}

static struct weights weights_new(const struct kind *kind, int rows, int k)
{
    struct weights w;
    memset(&w, 0, sizeof w);
    size_t n = (size_t)rows * (size_t)k, bytes = n / (size_t)kind->block * (size_t)kind->bytes;
    if (kind->kind == MATRIX_W4) bytes = (size_t)((rows + 7) / 8) * (size_t)(k / W4_GROUP) * W4_GRANULE;
    uint8_t *raw = (uint8_t *)calloc(1, bytes + 1);
    w.kind = kind;
    w.value = (float *)malloc(n * 4);
    w.device.kind = kind->kind, w.device.type = kind->type, w.device.rows = rows, w.device.k = k;
    if (kind->kind == MATRIX_W4) w4_fill(raw, w.value, rows, k, 0.05f);
    else if (kind->kind == MATRIX_FP8) w.device.scale = fill_fp8(raw, w.value, rows, k);
    else if (kind->block == 1) fill_plain(kind, raw, w.value, n);
    else fill_blocks(kind, raw, w.value, rows, k);
    w.device.data = to_device(raw, bytes);
    free(raw);
    return w;
}

static void weights_free(struct weights *w)
{
    (void)cudaFree((void *)w->device.data);
    (void)cudaFree((void *)w->device.scale);
    free(w->value);
}

/* ---- inputs and what comes of them ---- */

static int form_bytes(enum form form)
{
    return form == FORM_E4M3 ? 1 : 2;
}

struct inputs {
    float *device;       /* (cols, k) floats */
    struct operand x;    /* as the form wants them */
    double *expected;    /* (cols, rows): W × what the operand holds */
    double *usual;       /* (cols, rows): its size if signs were random, squared */
    float *held;
};

static float held_value(const struct operand *x, const uint8_t *raw, const float *scale, size_t i)
{
    uint16_t h;
    if (x->form == FORM_E4M3) return __half2float(__half(__nv_cvt_fp8_to_halfraw(raw[i], __NV_E4M3))) * scale[i / (size_t)x->k];
    if (x->form == FORM_TURNED) i = i / (size_t)x->k * (size_t)x->k + (size_t)turned_place((int)(i % (size_t)x->k));
    memcpy(&h, raw + 2 * i, 2);
    __half half;
    __nv_bfloat16 bf16;
    memcpy(&half, &h, 2);
    memcpy(&bf16, &h, 2);
    return x->form == FORM_BF16 ? __bfloat162float(bf16) : __half2float(half);
}

static double *squares_of(const float *v, int count, int k)
{
    double *sums = (double *)calloc((size_t)count, sizeof *sums);
    for (size_t i = 0; i < (size_t)count * (size_t)k; i++) sums[i / (size_t)k] += (double)v[i] * (double)v[i];
    return sums;
}

static void expect(const struct weights *w, struct inputs *in)
{
    int rows = w->device.rows, k = w->device.k;
    double *of_row = squares_of(w->value, rows, k), *of_col = squares_of(in->held, in->x.cols, k);
    for (int c = 0; c < in->x.cols; c++)
        for (int r = 0; r < rows; r++) {
            const float *a = w->value + (size_t)r * (size_t)k, *b = in->held + (size_t)c * (size_t)k;
            double s[4] = {0, 0, 0, 0};
            int i = 0;
            for (; i + 3 < k; i += 4)
                for (int j = 0; j < 4; j++) s[j] += (double)a[i + j] * (double)b[i + j];
            for (; i < k; i++) s[0] += (double)a[i] * (double)b[i];
            in->expected[(size_t)c * (size_t)rows + (size_t)r] = s[0] + s[1] + s[2] + s[3];
            in->usual[(size_t)c * (size_t)rows + (size_t)r] = of_row[r] * of_col[c] / k;
        }
    free(of_row), free(of_col);
}

static struct inputs inputs_new(const struct weights *w, enum form form, int cols)
{
    struct inputs in;
    struct err e;
    int k = w->device.k;
    size_t n = (size_t)cols * (size_t)k, bytes = n * (size_t)form_bytes(form);
    float *host = (float *)malloc(n * 4), *scale = (float *)calloc((size_t)cols, 4);
    uint8_t *raw = (uint8_t *)malloc(bytes);
    for (size_t i = 0; i < n; i++) host[i] = random_normal() * (1.f + (float)(i / (size_t)k % 7));
    in.device = (float *)to_device(host, n * 4);
    in.x = {form, cols, k, NULL, NULL};
    MUST(cudaMalloc(&in.x.data, bytes));
    MUST(cudaMalloc((void **)&in.x.scale, (size_t)cols * 4));
    if (operand_from_floats(in.device, k, &in.x, 0, &e)) printf("%s\n", e.msg), exit(1);
    MUST(cudaMemcpy(raw, in.x.data, bytes, cudaMemcpyDeviceToHost));
    MUST(cudaMemcpy(scale, in.x.scale, (size_t)cols * 4, cudaMemcpyDeviceToHost));
    in.held = (float *)malloc(n * 4);
    double off = 0, all = 0;
    for (size_t i = 0; i < n; i++) {
        in.held[i] = held_value(&in.x, raw, scale, i);
        off += (in.held[i] - host[i]) * (in.held[i] - host[i]), all += host[i] * host[i];
    }
    char detail[96];
    (void)snprintf(detail, sizeof detail, "form %d, %d × %d: off by %.2e", (int)form, cols, k, sqrt(off / all));
    report(sqrt(off / all) < (form == FORM_E4M3 ? 4e-2 : form == FORM_BF16 ? 3e-3 : 4e-4), "operand", detail);
    in.expected = (double *)malloc((size_t)cols * (size_t)w->device.rows * 8);
    in.usual = (double *)malloc((size_t)cols * (size_t)w->device.rows * 8);
    expect(w, &in);
    free(host), free(scale), free(raw);
    return in;
}

static void inputs_free(struct inputs *in)
{
    (void)cudaFree(in->device), (void)cudaFree(in->x.data), (void)cudaFree(in->x.scale);
    free(in->expected), free(in->usual), free(in->held);
}

/* ---- one product ---- */

static const char *const INTO_NAME[] = {"f32", "f32 +=", "f16", "bf16"};
/* Weights that are rounded to F16 once their scale is in (4-bit ones have up to 14 bits then) are off by 2^-11 at most, some 2e-4 of
 * the norm; so are results in F16; BF16 has three bits fewer. */
static const double LIMIT[] = {6e-4, 6e-4, 8e-4, 5e-3};

struct results {
    uint8_t *device, *host;
    size_t bytes;
};
static struct results room;

static float result_at(enum into into, size_t i)
{
    if (into == INTO_F16) return __half2float(((const __half *)room.host)[i]);
    if (into == INTO_BF16) return __bfloat162float(((const __nv_bfloat16 *)room.host)[i]);
    return ((const float *)room.host)[i];
}

/* Every byte becomes a pattern that is NaN as F16, BF16 and F32; for += the floats are 1. */
static void poison(enum into into, size_t elements)
{
    size_t bytes = elements * (into == INTO_F16 || into == INTO_BF16 ? 2 : 4);
    if (bytes > room.bytes) {
        (void)cudaFree(room.device);
        free(room.host);
        room.bytes = bytes;
        MUST(cudaMalloc((void **)&room.device, bytes));
        room.host = (uint8_t *)malloc(bytes);
    }
    memset(room.host, 0xff, bytes);
    if (into == INTO_F32_ADD)
        for (size_t i = 0; i < elements; i++) ((float *)room.host)[i] = 1.f;
    MUST(cudaMemcpy(room.device, room.host, bytes, cudaMemcpyHostToDevice));
}

static bool untouched(enum into into, size_t i)
{
    float v = result_at(into, i);
    return into == INTO_F32_ADD ? v == 1.f : v != v;
}

static void product(struct matmul *m, const struct weights *w, const struct inputs *in, int cols, enum into into, const char *way)
{
    char what[160], detail[160];
    struct err e;
    int rows = w->device.rows, ldy = rows + cols % 3 * 8;
    size_t elements = (size_t)(cols + 1) * (size_t)ldy, bytes = elements * (into == INTO_F16 || into == INTO_BF16 ? 2 : 4);
    (void)snprintf(what, sizeof what, "%s %d × %d, %d columns, %s, %s", w->kind->name, rows, w->device.k, cols, INTO_NAME[into], way);
    poison(into, elements);
    struct operand x = in->x;
    x.cols = cols;
    enum err_code code = matmul_run(m, &w->device, &x, into, room.device, ldy, 0, &e);
    if (code == ERR_UNSUPPORTED && !strncmp(way, "instance", 8)) return; /* this GPU's shared memory is too small for it */
    if (code) {
        report(false, what, e.msg);
        return;
    }
    MUST(cudaDeviceSynchronize());
    MUST(cudaMemcpy(room.host, room.device, bytes, cudaMemcpyDeviceToHost));
    double off = 0, all = 0, most = 0;
    bool kept = true;
    for (int c = 0; c <= cols; c++)
        for (int r = 0; r < ldy; r++) {
            size_t i = (size_t)c * (size_t)ldy + (size_t)r;
            if (c == cols || r >= rows) {
                kept = kept && untouched(into, i);
                continue;
            }
            double want = in->expected[(size_t)c * (size_t)rows + (size_t)r], got = (double)result_at(into, i) - (into == INTO_F32_ADD ? 1 : 0), d = got - want;
            double usual = in->usual[(size_t)c * (size_t)rows + (size_t)r];
            off += d * d, all += want * want > usual ? want * want : usual; /* a sum that cancels is as far off as one that does not */
            if (!(fabs(d) <= most)) most = fabs(d);
        }
    double relative = last_off = sqrt(off / all);
    (void)snprintf(detail, sizeof detail, "off by %.2e of the norm, at most %.2e%s", relative, most, kept ? "" : ", wrote past its rows or columns");
    double limit = LIMIT[into] + (w->kind->block == 256 ? 4e-4 : 0); /* k-quants round their scales too */
    report(relative < limit && kept, what, detail);
}

/* ---- every kind, many shapes ---- */

static struct matmul *open_or_die(bool invariant)
{
    struct matmul *m;
    struct err e;
    struct matmul_options options = {invariant, 4096, (int64_t)1 << 24};
    if (matmul_open(&m, &options, &e)) {
        printf("%s\n", e.msg);
        exit(1);
    }
    return m;
}

static const int COLS[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 128, 129, 257, 2048};
static const int FEW_COLS[] = {1, 3, 8, 9, 17, 33, 64, 70};

static const int *cols_list(int *count)
{
    *count = small ? sizeof FEW_COLS / sizeof(int) : sizeof COLS / sizeof(int);
    return small ? FEW_COLS : COLS;
}

/* The instances of the tile kernel one by one, with few stages and many, the k's whole and split. */
static void every_instance(struct matmul *m, const struct weights *w, const struct inputs *in)
{
    static const int cols[] = {1, 5, 8, 13, 30, 64, 67};
    struct tile_table table = tile_table_of(matrix_layout(&w->device));
    for (int i = 0; i < table.count; i++)
        for (int splits = 1; splits <= 4; splits += 3) {
            int c = cols[(i * 2 + splits) % 7];
            char way[32];
            struct matmul_tuning tuning = {WAY_TILE, i, splits, splits == 1 ? 2 : 0, 0, false};
            matmul_set_tuning(m, &tuning);
            (void)snprintf(way, sizeof way, "instance %d, %d splits", i, splits);
            if (c <= in->x.cols) product(m, w, in, c, (enum into)(i % 4), way);
        }
    matmul_set_tuning(m, NULL);
}

static void shape_of_kind(struct matmul *m, const struct kind *kind, int rows, int k, int cols_max)
{
    int count;
    const int *list = cols_list(&count);
    struct weights w = weights_new(kind, rows, k);
    enum form base = matmul_form(&w.device, 1, false);
    struct inputs in = inputs_new(&w, base, cols_max), other = {};
    bool has_other = false;
    for (int i = 0; i < count; i++) {
        if (list[i] > cols_max) continue;
        enum form form = matmul_form(&w.device, list[i], false);
        if (form != base && !has_other) other = inputs_new(&w, form, cols_max), has_other = true;
        product(m, &w, form == base ? &in : &other, list[i], (enum into)(i % 4), "auto");
        struct matmul_tuning tuning = {WAY_TILE, -1, 0, 0, 0, false};
        matmul_set_tuning(m, &tuning);
        product(m, &w, &in, list[i], (enum into)((i + 1) % 4), "tile");
        if (form == FORM_E4M3) product(m, &w, &other, list[i], (enum into)((i + 1) % 4), "tile of E4M3");
        tuning = {WAY_LT, -1, 0, 0, (int64_t)k * 2 * 64, false};
        matmul_set_tuning(m, &tuning);
        if (matmul_has_lt(m) && i % 3 == 0) product(m, &w, &in, list[i], (enum into)(i / 3 % 4), "cublaslt");
        matmul_set_tuning(m, NULL);
    }
    if (k % 32 == 0) every_instance(m, &w, &in);
    if (has_other) inputs_free(&other);
    inputs_free(&in);
    weights_free(&w);
}

static void every_kind(struct matmul *m)
{
    static const int shapes[][3] = {{1, 256, 70}, {7, 512, 70}, {17, 768, 70}, {67, 512, 2048}, {131, 1024, 257}, {336, 4864, 65}, {257, 8960, 33}}; /* rows, k, columns */
    static const int small_shapes[][3] = {{1, 256, 70}, {17, 768, 9}, {304, 512, 70}};
    int count = small ? 3 : 7;
    for (int i = 0; i < KIND_COUNT; i++) {
        const struct kind *kind = &KINDS[i];
        for (int s = 0; s < count; s++) {
            const int *shape = small ? small_shapes[s] : shapes[s];
            shape_of_kind(m, kind, shape[0], shape[1] / kind->block * kind->block, shape[2]);
        }
        if (kind->block <= 32) shape_of_kind(m, kind, 49, 896 + 32, 17);
        if (kind->block == 1) {
            shape_of_kind(m, kind, 33, 96, 9);
            shape_of_kind(m, kind, 20, 100, 9);
        }
        if (kind->block == 128) shape_of_kind(m, kind, 49, 896, 17);
    }
}

/* ---- the wide kernel: every instance, columns that fill it and columns that do not, k's whole and dealt to blocks ---- */

static void wide_shape_of(struct matmul *m, int rows, int k, int cols_max)
{
    static const int cols[] = {1, 9, 15, 16, 17, 31, 32, 33, 47, 49, 63, 64, 65, 95, 97, 127, 128, 129, 255};
    struct weights w = weights_new(&KINDS[0], rows, k);
    struct inputs in = inputs_new(&w, FORM_F16, cols_max), turned = inputs_new(&w, FORM_TURNED, cols_max);
    double worst[16] = {}; /* of an instance */
    for (int i = 0; i < wide_kernels(); i++)
        for (int c = 0; c < (int)(sizeof cols / sizeof cols[0]); c++) {
            char way[32];
            struct matmul_tuning tuning = {WAY_WIDE, i, 0, 0, 0, false};
            if (cols[c] > cols_max || (small && (cols[c] < wide_kernel_cols(i) / 2 || (emulated && (i + c) % 8)))) continue;
            for (int again = 0; again < 2; again++) {
                tuning.splits = (i + c + again) % 3;
                matmul_set_tuning(m, &tuning);
                (void)snprintf(way, sizeof way, "wide %d, dealing %d", i, tuning.splits);
                product(m, &w, c % 4 ? &turned : &in, cols[c], again ? INTO_F32_ADD : (enum into)((i + c) % 4), way);
            }
            if (last_off > worst[i]) worst[i] = last_off;
        }
    matmul_set_tuning(m, NULL);
    inputs_free(&in), inputs_free(&turned);
    weights_free(&w);
    for (int i = 0; rows == 700 && i < wide_kernels(); i++) printf("W4, %s: off by %.2e of the norm at most\n", wide_kernel_name(i), worst[i]);
}

static void wide_kernel(struct matmul *m)
{
    /* rows, k, columns: less than a panel; one unit; several; the k's of few tiles dealt to many blocks; more tiles than blocks, with
     * rests of one unit, of few and of many */
    static const int shapes[][3] = {{5, 128, 33},     {264, 256, 255},  {333, 1152, 255},  {700, 8192, 65},
                                    {140, 22016, 129}, {36000, 256, 65}, {50000, 1152, 17}, {35000, 128, 129}};
    if (!matmul_has_wide(m)) return;
    for (int i = 0; i < (small ? 3 : 8); i++) wide_shape_of(m, shapes[i][0], shapes[i][1], shapes[i][2]);
}

/* ---- FP8's wide kernel: the same, k's that end within a unit, rows that end within a tile ---- */

/* Columns around `cols`: one, some, all but one, all, one tile more. */
static void wide8_instance(struct matmul *m, const struct weights *w, const struct inputs *in, int kernel)
{
    int of = wide8_kernel_cols(kernel), list[] = {1, of / 2 + 3, of - 1, of, of + 1, of * 2};
    for (int c = 0; c < 6; c++)
        for (int streaming = 0; streaming <= 2; streaming++) {
            char way[40];
            struct matmul_tuning tuning = {WAY_WIDE, kernel, streaming, 0, 0, false};
            if (list[c] > in->x.cols || (small && (c + kernel + streaming) % (emulated ? 9 : 6))) continue;
            matmul_set_tuning(m, &tuning);
            (void)snprintf(way, sizeof way, "FP8's wide %d (%d), streaming %d", kernel, of, streaming);
            product(m, w, in, list[c], (enum into)((kernel + c + streaming) % 4), way);
        }
    matmul_set_tuning(m, NULL);
}

static void wide8_shape_of(struct matmul *m, int rows, int k, int cols_max)
{
    struct weights w = weights_new(&KINDS[1], rows, k);
    struct inputs in = inputs_new(&w, FORM_E4M3, cols_max);
    for (int i = 0; i < wide8_kernels(); i++) wide8_instance(m, &w, &in, i);
    if (matmul_has_lt(m) && rows % 16 == 0) {
        struct matmul_tuning tuning = {WAY_LT, -1, 0, 0, 0, false};
        int cols = cols_max / 16 * 16;
        product(m, &w, &in, cols, INTO_F32, "auto");
        double ours = last_off;
        matmul_set_tuning(m, &tuning);
        product(m, &w, &in, cols, INTO_F32, "cublaslt");
        printf("FP8 %d × %d, %d columns: off by %.2e, cuBLASLt by %.2e of the norm\n", rows, k, cols, ours, last_off);
        matmul_set_tuning(m, NULL);
    }
    inputs_free(&in);
    weights_free(&w);
}

/* Twice the same bits, and a result that another stream's counters did not disturb. */
static void wide8_repetition(struct matmul *m, int rows, int k, int cols)
{
    struct weights w = weights_new(&KINDS[1], rows, k);
    struct inputs in = inputs_new(&w, FORM_E4M3, cols);
    size_t bytes = (size_t)rows * (size_t)cols * 4;
    float *y, *one = (float *)malloc(bytes), *two = (float *)malloc(bytes);
    struct err e;
    MUST(cudaMalloc((void **)&y, bytes));
    for (int kernel = 0; kernel < wide8_kernels(); kernel++) {
        struct matmul_tuning tuning = {WAY_WIDE, kernel, 2, 0, 0, false};
        if (small && kernel % 5) continue;
        matmul_set_tuning(m, &tuning);
        for (int i = 0; i < (small ? 2 : 10); i++) {
            if (matmul_run(m, &w.device, &in.x, INTO_F32, y, rows, 0, &e)) printf("%s\n", e.msg), exit(1);
            MUST(cudaDeviceSynchronize());
            MUST(cudaMemcpy(i ? two : one, y, bytes, cudaMemcpyDeviceToHost));
            if (i) report(!memcmp(one, two, bytes), "FP8's wide kernel", "the same product gave other bits");
        }
    }
    matmul_set_tuning(m, NULL);
    (void)cudaFree(y);
    free(one), free(two);
    inputs_free(&in);
    weights_free(&w);
}

static void wide8_kernel_tests(struct matmul *m)
{
    /* rows, k, columns: one tile that ends early; a few; k's that end within a unit; few tiles' k's dealt to all blocks; more tiles
     * than blocks, with rests */
    static const int shapes[][3] = {{5, 128, 33},      {264, 256, 300},   {333, 1168, 300}, {704, 8192, 160},
                                    {300, 22016, 200}, {36000, 256, 66}, {17008, 1152, 65}, {1040, 1024, 512}};
    if (!matmul_has_wide8(m)) {
        printf("no wide kernel for FP8 here\n");
        return;
    }
    for (int i = 0; i < (small ? 3 : 8); i++) wide8_shape_of(m, shapes[i][0], shapes[i][1], shapes[i][2]);
    wide8_repetition(m, small ? 300 : 1000, small ? 1024 : 8192, small ? 40 : 160);
}

/* ---- invariance, repetition, embedding, operands, refusals ---- */

static void run_or_die(struct matmul *m, const struct matrix *w, const struct operand *x, float *y, int64_t ldy)
{
    struct err e;
    if (matmul_run(m, w, x, INTO_F32, y, ldy, 0, &e)) printf("%s\n", e.msg), exit(1);
    MUST(cudaDeviceSynchronize());
}

static void invariance(const struct kind *kind, int rows, int k)
{
    static const int cols[] = {1, 3, 9, 17, 40, 64, 70};
    struct matmul *m = open_or_die(true);
    struct weights w = weights_new(kind, rows, k);
    struct inputs in = inputs_new(&w, matmul_form(&w.device, 70, true), 70);
    float *y, *first = (float *)malloc((size_t)rows * 70 * 4), *again = (float *)malloc((size_t)rows * 70 * 4);
    MUST(cudaMalloc((void **)&y, (size_t)rows * 70 * 4));
    struct operand x = in.x;
    char what[96], detail[64];
    run_or_die(m, &w.device, &x, y, rows);
    MUST(cudaMemcpy(first, y, (size_t)rows * 70 * 4, cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < sizeof cols / sizeof cols[0]; i++) {
        int differ = 0, from = (int)(random_u32() % (uint32_t)(71 - cols[i]));
        x.cols = cols[i];
        x.data = (uint8_t *)in.x.data + (size_t)from * (size_t)k * 2;
        run_or_die(m, &w.device, &x, y, rows);
        MUST(cudaMemcpy(again, y, (size_t)rows * (size_t)cols[i] * 4, cudaMemcpyDeviceToHost));
        for (int j = 0; j < rows * cols[i]; j++) differ += memcmp(&again[j], &first[(size_t)from * (size_t)rows + (size_t)j], 4) != 0;
        (void)snprintf(what, sizeof what, "invariant %s %d × %d, columns %d to %d of 70", kind->name, rows, k, from, from + cols[i]);
        (void)snprintf(detail, sizeof detail, "%d results differ", differ);
        report(!differ, what, detail);
    }
    product(m, &w, &in, 70, INTO_F16, "invariant");
    product(m, &w, &in, 5, INTO_F32_ADD, "invariant");
    matmul_close(m);
    (void)cudaFree(y);
    free(first), free(again);
    inputs_free(&in);
    weights_free(&w);
}

static void repetition(struct matmul *m, const struct kind *kind, int rows, int k, int cols)
{
    struct weights w = weights_new(kind, rows, k);
    struct inputs in = inputs_new(&w, matmul_form(&w.device, 1, false), cols);
    float *y, *one = (float *)malloc((size_t)(rows * cols) * 4), *two = (float *)malloc((size_t)(rows * cols) * 4);
    MUST(cudaMalloc((void **)&y, (size_t)(rows * cols) * 4));
    for (int i = 0; i < (small ? 2 : 20); i++) {
        run_or_die(m, &w.device, &in.x, y, rows);
        MUST(cudaMemcpy(i ? two : one, y, (size_t)(rows * cols) * 4, cudaMemcpyDeviceToHost));
        if (i) report(!memcmp(one, two, (size_t)(rows * cols) * 4), kind->name, "the same product gave other bits");
    }
    (void)cudaFree(y);
    free(one), free(two);
    inputs_free(&in);
    weights_free(&w);
}

static void embedding(const struct kind *kind)
{
    int rows = 37, k = 768, cols = 9;
    int32_t ids[9] = {0, 36, 5, -1, 37, 17, 17, 8, 3};
    struct err e;
    struct weights w = weights_new(kind, rows, k);
    int32_t *there = (int32_t *)to_device(ids, sizeof ids);
    float *y, *got = (float *)malloc((size_t)(cols * k) * 4);
    MUST(cudaMalloc((void **)&y, (size_t)(cols * k) * 4));
    MUST(cudaMemset(y, 0xff, (size_t)(cols * k) * 4));
    if (matmul_embed(&w.device, there, cols, 3.f, y, 0, &e)) printf("%s\n", e.msg), exit(1);
    MUST(cudaMemcpy(got, y, (size_t)(cols * k) * 4, cudaMemcpyDeviceToHost));
    double most = 0;
    for (int i = 0; i < cols * k; i++) {
        int id = ids[i / k];
        double want = id < 0 || id >= rows ? 0 : (double)w.value[id * k + i % k] * 3, d = fabs((double)got[i] - want);
        if (!(d <= most)) most = d;
    }
    char detail[64];
    (void)snprintf(detail, sizeof detail, "off by %.2e", most);
    report(most < 4e-6, kind->name, detail); /* values up to 24: a place of their sum */
    (void)cudaFree(y), (void)cudaFree(there);
    free(got);
    weights_free(&w);
}

static void operands_saturate(void)
{
    float in[8] = {1e30f, -1e30f, NAN, 0.f, 1.f, -2.f, INFINITY, 3e-9f};
    float *there = (float *)to_device(in, sizeof in), scale;
    struct operand x = {FORM_F16, 1, 8, NULL, NULL};
    struct err e;
    uint8_t raw[16];
    MUST(cudaMalloc(&x.data, 16));
    MUST(cudaMalloc((void **)&x.scale, 4));
    for (int form = FORM_F16; form <= FORM_E4M3; form++) {
        x.form = (enum form)form;
        if (operand_from_floats(there, 8, &x, 0, &e)) printf("%s\n", e.msg), exit(1);
        MUST(cudaMemcpy(raw, x.data, form == FORM_E4M3 ? 8 : 16, cudaMemcpyDeviceToHost));
        MUST(cudaMemcpy(&scale, x.scale, 4, cudaMemcpyDeviceToHost));
        float v[8];
        for (int i = 0; i < 8; i++) v[i] = held_value(&x, raw, &scale, (size_t)i);
        bool finite = true;
        for (int i = 0; i < 8; i++) finite = finite && (i == 2 ? v[i] != v[i] : isfinite(v[i]));
        bool large = form == FORM_E4M3 ? v[6] > 1e38f : v[0] > 6e4f && v[1] < -6e4f; /* infinity leaves E4M3 no room for 1e30 */
        report(finite && large && v[6] > 6e4f && v[3] == 0.f, "operands saturate, NaN stays NaN", "other values");
    }
    (void)cudaFree(there), (void)cudaFree(x.data), (void)cudaFree(x.scale);
}

static void refusals(struct matmul *m)
{
    struct weights w = weights_new(&KINDS[0], 16, 128);
    struct inputs in = inputs_new(&w, FORM_F16, 1);
    struct operand x = in.x;
    float *y;
    struct err e;
    MUST(cudaMalloc((void **)&y, 64));
    x.cols = 5000;
    report(matmul_run(m, &w.device, &x, INTO_F32, y, 16, 0, &e) == ERR_INVALID, "too many columns", "taken");
    x.cols = 0;
    report(matmul_run(m, &w.device, &x, INTO_F32, y, 16, 0, &e) == ERR_INVALID, "no columns", "taken");
    x.cols = 1, x.form = FORM_BF16;
    report(matmul_run(m, &w.device, &x, INTO_F32, y, 16, 0, &e) == ERR_INVALID, "the wrong form", "taken");
    x.form = FORM_F16;
    report(matmul_run(m, &w.device, &x, INTO_F32, y, 15, 0, &e) == ERR_INVALID, "results too close together", "taken");
    struct matrix other = w.device;
    other.kind = MATRIX_GGUF, other.type = GGUF_I8;
    report(matmul_run(m, &other, &x, INTO_F32, y, 16, 0, &e) == ERR_UNSUPPORTED, "a type without a kernel", "taken");
    other.type = GGUF_Q4_K;
    report(matmul_run(m, &other, &x, INTO_F32, y, 16, 0, &e) == ERR_INVALID, "k no multiple of the block", "taken");
    (void)cudaFree(y);
    inputs_free(&in);
    weights_free(&w);
}

#ifdef __CUDACC__
/* ---- in a graph ---- */

static void in_a_graph(struct matmul *m, const struct kind *kind, int cols)
{
    int rows = 320, k = 1024;
    struct weights w = weights_new(kind, rows, k);
    struct inputs in = inputs_new(&w, matmul_form(&w.device, cols, false), cols);
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    struct err e;
    float *y, *got = (float *)malloc((size_t)(rows * cols) * 4);
    MUST(cudaMalloc((void **)&y, (size_t)(rows * cols) * 4));
    MUST(cudaStreamCreate(&stream));
    if (matmul_warm(m, &w.device, cols, INTO_F32, rows, stream, &e)) printf("%s\n", e.msg), exit(1);
    MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    if (matmul_run(m, &w.device, &in.x, INTO_F32, y, rows, stream, &e)) printf("%s\n", e.msg), exit(1);
    MUST(cudaStreamEndCapture(stream, &graph));
    MUST(cudaGraphInstantiate(&exec, graph, 0));
    for (int i = 0; i < 3; i++) {
        MUST(cudaMemsetAsync(y, 0xff, (size_t)(rows * cols) * 4, stream));
        MUST(cudaGraphLaunch(exec, stream));
    }
    MUST(cudaStreamSynchronize(stream));
    MUST(cudaMemcpy(got, y, (size_t)(rows * cols) * 4, cudaMemcpyDeviceToHost));
    double off = 0, all = 0;
    for (int i = 0; i < rows * cols; i++) {
        double d = (double)got[i] - in.expected[i];
        off += d * d, all += in.expected[i] * in.expected[i];
    }
    char what[64], detail[64];
    (void)snprintf(what, sizeof what, "%s with %d columns in a graph", kind->name, cols);
    (void)snprintf(detail, sizeof detail, "off by %.2e", sqrt(off / all));
    report(sqrt(off / all) < LIMIT[INTO_F32], what, detail);
    MUST(cudaGraphExecDestroy(exec));
    MUST(cudaGraphDestroy(graph));
    MUST(cudaStreamDestroy(stream));
    (void)cudaFree(y);
    free(got);
    inputs_free(&in);
    weights_free(&w);
}

/* ---- large matrices: two ways agree ---- */

static void large(struct matmul *m, enum matrix_kind kind, int rows, int k, int cols)
{
    struct matrix w = matrix_large(kind, rows, k);
    struct matmul_tuning ways[2] = {{WAY_TILE, -1, 0, 0, 0, false}, {WAY_LT, -1, 0, 0, 0, false}};
    size_t n = (size_t)cols * (size_t)k, out = (size_t)cols * (size_t)rows;
    float *host = (float *)malloc(n * 4), *y, *got[2];
    struct err e;
    for (size_t i = 0; i < n; i++) host[i] = random_unit();
    struct operand x = {matmul_form(&w, 1, false), cols, k, NULL, NULL};
    float *floats = (float *)to_device(host, n * 4);
    MUST(cudaMalloc(&x.data, n * 2));
    MUST(cudaMalloc((void **)&y, out * 4));
    if (operand_from_floats(floats, k, &x, 0, &e)) printf("%s\n", e.msg), exit(1);
    for (int i = 0; i < 2; i++) {
        got[i] = (float *)malloc(out * 4);
        matmul_set_tuning(m, &ways[i]);
        MUST(cudaMemset(y, 0xff, out * 4));
        run_or_die(m, &w, &x, y, rows);
        MUST(cudaMemcpy(got[i], y, out * 4, cudaMemcpyDeviceToHost));
    }
    matmul_set_tuning(m, NULL);
    double off = 0, all = 0;
    for (size_t i = 0; i < out; i++) {
        double d = (double)got[0][i] - (double)got[1][i];
        off += d * d, all += (double)got[1][i] * (double)got[1][i];
    }
    char what[96], detail[64];
    (void)snprintf(what, sizeof what, "kind %d, %d × %d, %d columns, tile and cuBLASLt", (int)kind, rows, k, cols);
    (void)snprintf(detail, sizeof detail, "apart by %.2e", sqrt(off / all));
    report(sqrt(off / all) < 6e-4, what, detail);
    (void)cudaFree((void *)w.data), (void)cudaFree((void *)w.scale), (void)cudaFree(floats), (void)cudaFree(x.data), (void)cudaFree(y);
    free(host), free(got[0]), free(got[1]);
}
#endif

static int told(struct matmul *m)
{
    matmul_close(m);
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}

int main(int argc, char **argv)
{
    const char *part = argc > 1 ? argv[1] : "";
    small = !strcmp(part, "small");
    if (!gpu_is_there()) {
        printf("skipped: no GPU\n");
        return 0;
    }
    struct matmul *m = open_or_die(false);
#ifdef RUNG_EMULATE
    small = strcmp(argc > 1 ? argv[argc - 1] : "", "whole") != 0;
    if (strcmp(part, "fp8wide")) wide_kernel(m);
    wide8_kernel_tests(m);
    return told(m);
#else
    if (!strcmp(part, "fp8wide")) {
        wide8_kernel_tests(m);
        in_a_graph(m, &KINDS[1], 64);
        return told(m);
    }
    if (!strcmp(part, "wide")) {
        wide_kernel(m);
        repetition(m, &KINDS[0], 1000, 8192, 64);
        in_a_graph(m, &KINDS[0], 64);
        return told(m);
    }
    printf("cuBLASLt %s\n", matmul_has_lt(m) ? "found" : "not found");
    every_kind(m);
    wide_kernel(m);
    wide8_kernel_tests(m);
    if (!small) repetition(m, &KINDS[0], 1000, 8192, 64);
    for (int i = 0; i < KIND_COUNT; i++) {
        embedding(&KINDS[i]);
        invariance(&KINDS[i], 300, 768 / KINDS[i].block * KINDS[i].block);
        if (KINDS[i].block <= 32 && !small) invariance(&KINDS[i], 20, 64);
        repetition(m, &KINDS[i], 300, 4096, 40);
    }
    if (!small) invariance(&KINDS[0], 36000, 256), invariance(&KINDS[1], 36000, 256);
    operands_saturate();
    refusals(m);
    for (int i = 0; i < KIND_COUNT; i++) in_a_graph(m, &KINDS[i], 3), in_a_graph(m, &KINDS[i], 200);
    for (int kind = MATRIX_F16; kind <= MATRIX_W4 && !small && matmul_has_lt(m); kind++)
        large(m, (enum matrix_kind)kind, 10240, 8192, 17), large(m, (enum matrix_kind)kind, 8192, 22016, 70);
    return told(m);
#endif
}
