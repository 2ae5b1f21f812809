/* The matrix products of a 67B model's layers: time, bytes and operations a second, beside what the card itself does in the
 * same run (a plain read of memory, a large product of cuBLASLt's).
 *   bench_matmul            the table: the way that matmul_run takes
 *   bench_matmul ways       both ways of every product, slices and sums of several kinds
 *   bench_matmul sweep      every instance of the tile kernel with several stages and splits
 *   bench_matmul wide       a layer's four products in 4 bits by every instance of the wide kernel (Hopper) and as the program chooses
 *   bench_matmul fp8wide    every instance of the wide kernel for FP8 weights × E4M3 inputs beside cuBLASLt
 *   bench_matmul step       the products of all 95 layers together, for several numbers of columns
 * A second argument keeps to one kind ("W4", "Q4_K" …), with "wide" and "fp8wide" a third to one number of columns. */
#include "engine/cuda/matmul_private.cuh"
#include "tests/cuda/random.cuh"

struct kind {
    const char *name;
    enum matrix_kind kind;
    enum gguf_type type;
    int block, bytes, d, m;
};
static const struct kind KINDS[] = {
    {"W4", MATRIX_W4, GGUF_F32, 128, 66, -1, -1},    {"FP8", MATRIX_FP8, GGUF_F32, 1, 1, -1, -1},
    {"BF16", MATRIX_BF16, GGUF_F32, 1, 2, -1, -1},   {"Q8_0", MATRIX_GGUF, GGUF_Q8_0, 32, 34, 0, -1},
    {"Q4_K", MATRIX_GGUF, GGUF_Q4_K, 256, 144, 0, 2}, {"Q6_K", MATRIX_GGUF, GGUF_Q6_K, 256, 210, 208, -1},
    {"F16", MATRIX_F16, GGUF_F32, 1, 2, -1, -1},     {"Q4_0", MATRIX_GGUF, GGUF_Q4_0, 32, 18, 0, -1},
    {"Q5_K", MATRIX_GGUF, GGUF_Q5_K, 256, 176, 0, 2},
};
enum { KIND_COUNT = sizeof KINDS / sizeof KINDS[0], COLS_MAX = 8192, COPIES_MAX = 12 };
static const int SHAPES[][2] = {{10240, 8192}, {8192, 8192}, {44032, 8192}, {8192, 22016}, {102400, 8192}};
static const int COLS[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 2048};

static struct matmul *m;
static double read_rate, rate_16, rate_8; /* bytes, operations a second */
static const char *only;
static int only_cols;

/* ---- weights ---- */

static __global__ void set_scales(uint8_t *data, int64_t blocks, int bytes, int d, int bias)
{
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < blocks; i += (int64_t)gridDim.x * blockDim.x) {
        *(__half *)(data + i * bytes + d) = __float2half(0.001f + 0.0001f * (float)(i % 7));
        if (bias >= 0) *(__half *)(data + i * bytes + bias) = __float2half(0.002f);
    }
}

static int64_t bytes_of(const struct kind *kind, int rows, int k)
{
    return (int64_t)rows * (k / kind->block) * kind->bytes;
}

static struct matrix matrix_make(const struct kind *kind, int rows, int k)
{
    if (kind->kind != MATRIX_GGUF) return matrix_large(kind->kind, rows, k);
    struct matrix w = {kind->kind, kind->type, rows, k, NULL, NULL};
    int64_t bytes = bytes_of(kind, rows, k);
    void *p;
    MUST(cudaMalloc(&p, (size_t)bytes));
    fill_random<<<2048, 256>>>((uint8_t *)p, bytes / 4, MATRIX_GGUF, random_u32());
    set_scales<<<2048, 256>>>((uint8_t *)p, bytes / kind->bytes, kind->bytes, kind->d, kind->m);
    MUST(cudaGetLastError());
    w.data = p;
    return w;
}

/* As many copies as the second-level cache cannot hold. */
struct rotation {
    const struct kind *kind;
    struct matrix w[COPIES_MAX];
    int copies;
};
static struct rotation rotation_new(const struct kind *kind, int rows, int k)
{
    struct rotation r;
    int64_t bytes = bytes_of(kind, rows, k);
    r.kind = kind;
    r.copies = (int)((400000000 + bytes - 1) / bytes);
    if (r.copies < 2) r.copies = 2;
    if (r.copies > COPIES_MAX) r.copies = COPIES_MAX;
    for (int i = 0; i < r.copies; i++) r.w[i] = matrix_make(kind, rows, k);
    return r;
}
static void rotation_free(struct rotation *r)
{
    for (int i = 0; i < r->copies; i++) (void)cudaFree((void *)r->w[i].data), (void)cudaFree((void *)r->w[i].scale);
}

/* ---- inputs, results, time ---- */

static float *numbers, *y;
static struct operand x_of[4];

static void make_room(void)
{
    int64_t n = (int64_t)COLS_MAX * 8192;
    float *host = (float *)malloc((size_t)n * 4);
    for (int64_t i = 0; i < n; i++) host[i] = random_unit();
    numbers = (float *)to_device(host, (size_t)n * 4);
    free(host);
    MUST(cudaMalloc((void **)&y, (size_t)2048 * 102400 * 4));
    for (int f = 0; f < 4; f++) {
        MUST(cudaMalloc(&x_of[f].data, (size_t)n * 2));
        MUST(cudaMalloc((void **)&x_of[f].scale, COLS_MAX * 4));
    }
}

static struct operand inputs(enum form form, int cols, int k)
{
    struct operand x = {form, cols, k, x_of[form].data, x_of[form].scale};
    struct err e;
    if (operand_from_floats(numbers, k, &x, 0, &e)) printf("%s\n", e.msg), exit(1);
    return x;
}

/* Seconds of one product of a graph that has them all: no time of the host's in it. */
static double seconds_in_graph(const struct rotation *r, const struct operand *x, enum into into, int passes)
{
    struct err e;
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t from, to;
    float best = 0;
    MUST(cudaStreamCreate(&stream));
    MUST(cudaEventCreate(&from));
    MUST(cudaEventCreate(&to));
    for (int i = 0; i < r->copies; i++)
        if (matmul_run(m, &r->w[i], x, into, y, r->w[i].rows, stream, &e)) return 0;
    MUST(cudaStreamSynchronize(stream));
    MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    for (int i = 0; i < r->copies; i++)
        if (matmul_run(m, &r->w[i], x, into, y, r->w[i].rows, stream, &e)) return 0;
    MUST(cudaStreamEndCapture(stream, &graph));
    MUST(cudaGraphInstantiate(&exec, graph, 0));
    for (int pass = 0; pass <= passes; pass++) {
        float ms = 0;
        MUST(cudaEventRecord(from, stream));
        MUST(cudaGraphLaunch(exec, stream));
        MUST(cudaEventRecord(to, stream));
        MUST(cudaEventSynchronize(to));
        MUST(cudaEventElapsedTime(&ms, from, to));
        if (pass && (best == 0 || ms < best)) best = ms;
    }
    MUST(cudaGraphExecDestroy(exec));
    MUST(cudaGraphDestroy(graph));
    (void)cudaEventDestroy(from), (void)cudaEventDestroy(to), (void)cudaStreamDestroy(stream);
    return best / 1e3 / r->copies;
}

/* Seconds of one product, the best of some passes over the copies; 0 where it is refused. */
static double seconds(const struct rotation *r, const struct operand *x, enum into into, int passes)
{
    struct err e;
    cudaEvent_t from, to;
    float best = 0;
    int each = r->copies < 6 ? (6 + r->copies - 1) / r->copies : 1;
    MUST(cudaEventCreate(&from));
    MUST(cudaEventCreate(&to));
    for (int pass = 0; pass <= passes; pass++) {
        float ms = 0;
        MUST(cudaEventRecord(from, 0));
        for (int n = 0; n < each; n++)
            for (int i = 0; i < r->copies; i++)
                if (matmul_run(m, &r->w[i], x, into, y, r->w[i].rows, 0, &e)) {
                    (void)cudaEventDestroy(from), (void)cudaEventDestroy(to);
                    return 0;
                }
        MUST(cudaEventRecord(to, 0));
        MUST(cudaEventSynchronize(to));
        MUST(cudaEventElapsedTime(&ms, from, to));
        if (pass && (best == 0 || ms < best)) best = ms; /* the first pass warms up */
    }
    (void)cudaEventDestroy(from), (void)cudaEventDestroy(to);
    return best / 1e3 / (each * r->copies);
}

/* ---- what the card does ---- */

static __global__ void read_all(const uint4 *data, int64_t n, uint32_t *out)
{
    uint32_t sum = 0;
    int64_t step = (int64_t)gridDim.x * blockDim.x, i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (; i + 3 * step < n; i += 4 * step) {
        uint4 a = __ldcs(data + i), b = __ldcs(data + i + step), c = __ldcs(data + i + 2 * step), d = __ldcs(data + i + 3 * step);
        sum += a.x ^ a.y ^ a.z ^ a.w ^ b.x ^ b.y ^ b.z ^ b.w ^ c.x ^ c.y ^ c.z ^ c.w ^ d.x ^ d.y ^ d.z ^ d.w;
    }
    if (sum == 0x12345678) *out = sum;
}

static double measured_read(void)
{
    uint4 *data;
    int64_t n = (int64_t)4 << 26; /* × 16 bytes = 4 GiB */
    float best = 0;
    cudaEvent_t from, to;
    MUST(cudaMalloc((void **)&data, (size_t)n * 16));
    fill_random<<<2048, 256>>>((uint8_t *)data, n * 4, 0, 1);
    MUST(cudaEventCreate(&from));
    MUST(cudaEventCreate(&to));
    for (int i = 0; i < 5; i++) {
        float ms;
        MUST(cudaEventRecord(from, 0));
        read_all<<<132 * 16, 512>>>(data, n, (uint32_t *)y);
        MUST(cudaEventRecord(to, 0));
        MUST(cudaEventSynchronize(to));
        MUST(cudaEventElapsedTime(&ms, from, to));
        if (i && (best == 0 || ms < best)) best = ms;
    }
    MUST(cudaFree(data));
    return (double)n * 16 / best * 1e3;
}

static double measured_products(const struct kind *kind, enum form form)
{
    struct matmul_tuning lt = {WAY_LT, -1, 0, 0, 0, false};
    struct rotation r = rotation_new(kind, 8192, 8192);
    struct operand x = inputs(form, 8192, 8192);
    matmul_set_tuning(m, &lt);
    double s = matmul_has_lt(m) ? seconds(&r, &x, INTO_F32, 3) : 0;
    matmul_set_tuning(m, NULL);
    rotation_free(&r);
    return s > 0 ? 2. * 8192 * 8192 * 8192 / s : 0;
}

/* ---- the tables ---- */

static void print_row(const struct rotation *r, int cols, const char *way, double s, double peak)
{
    const struct matrix *w = &r->w[0];
    double bytes = (double)bytes_of(r->kind, w->rows, w->k) / s, operations = 2. * w->rows * w->k * cols / s;
    printf("%-5s %6d x %5d %5d cols %-22s %9.1f us %6.0f GB/s %3.0f %% %6.1f TFLOP/s %3.0f %%\n", r->kind->name, w->rows, w->k, cols, way, s * 1e6,
           bytes / 1e9, 100 * bytes / read_rate, operations / 1e12, peak > 0 ? 100 * operations / peak : 0);
}

static double peak_of(enum form form)
{
    return form == FORM_E4M3 ? rate_8 : rate_16;
}

static void table(struct rotation *r)
{
    for (size_t i = 0; i < sizeof COLS / sizeof COLS[0]; i++) {
        struct err e;
        enum form form = matmul_form(&r->w[0], COLS[i], false);
        struct operand x = inputs(form, COLS[i], r->w[0].k);
        if (COLS[i] > 16 && matmul_warm(m, &r->w[0], COLS[i], INTO_F32, r->w[0].rows, 0, &e)) printf("%s\n", e.msg);
        double s = seconds(r, &x, INTO_F32, 3);
        if (s > 0) print_row(r, COLS[i], form == FORM_E4M3 ? "auto (E4M3)" : "auto", s, peak_of(form));
    }
}

static void one_way(struct rotation *r, enum form form, int cols, const struct matmul_tuning *tuning, const char *name)
{
    struct operand x = inputs(form, cols, r->w[0].k);
    matmul_set_tuning(m, tuning);
    double s = seconds(r, &x, INTO_F32, 2);
    if (s > 0) print_row(r, cols, name, s, peak_of(form));
    matmul_set_tuning(m, NULL);
}

static void ways(struct rotation *r)
{
    enum form form = matmul_form(&r->w[0], 1, false);
    for (size_t i = 0; i < sizeof COLS / sizeof COLS[0]; i++) {
        int cols = COLS[i];
        struct matmul_tuning tile = {WAY_TILE, -1, 0, 0, 0, false}, lt = {WAY_LT, -1, 0, 0, 0, false};
        one_way(r, form, cols, &tile, "tile");
        if (!matmul_has_lt(m) || cols < 16) continue;
        one_way(r, form, cols, &lt, "lt");
        if (r->kind->kind == MATRIX_FP8) {
            one_way(r, FORM_E4M3, cols, &lt, "lt E4M3");
            lt.fast_sums = true;
            one_way(r, FORM_E4M3, cols, &lt, "lt E4M3, fast sums");
        } else if (r->kind->kind != MATRIX_BF16 && r->kind->kind != MATRIX_F16 && (cols == 256 || cols == 2048)) {
            for (int mib = 16; mib <= 128; mib *= 2) {
                char name[32];
                lt.slice_bytes = (int64_t)mib << 20;
                (void)snprintf(name, sizeof name, "lt, %d MiB slices", mib);
                one_way(r, form, cols, &lt, name);
            }
        }
    }
}

static void sweep(struct rotation *r)
{
    static const int stages[] = {2, 3, 4, 5, 6, 8}, splits[] = {1, 2, 3, 4, 6, 8};
    struct tile_table t = tile_table_of(matrix_layout(&r->w[0]));
    enum form form = matmul_form(&r->w[0], 1, false);
    for (int c = 0; c < 8; c++) {
        int cols = COLS[c];
        struct operand x = inputs(form, cols, r->w[0].k);
        for (int i = 0; i < t.count; i++)
            for (int a = 0; a < 6; a++)
                for (int b = 0; b < 6; b++) {
                    char name[40];
                    int wide = t.kernel[i].cols;
                    struct matmul_tuning tuning = {WAY_TILE, i, splits[b], stages[a], 0, false};
                    if (wide < cols && wide < 64) continue;
                    if (wide > 8 && wide / 2 >= cols) continue;
                    matmul_set_tuning(m, &tuning);
                    (void)snprintf(name, sizeof name, "%d stages %d splits %d", i, stages[a], splits[b]);
                    double s = seconds(r, &x, INTO_F32, 2);
                    if (s > 0) print_row(r, cols, name, s, rate_16);
                }
        matmul_set_tuning(m, NULL);
        one_way(r, form, cols, NULL, "auto");
    }
}

/* One line for a shape and a number of columns: microseconds of cuBLASLt, of the instances that fit, with all tiles whole and with the
 * last ones dealt out, of the best one in a graph, and of what the program takes. */
static void fp8wide_line(struct rotation *r, int cols)
{
    const struct matrix *w = &r->w[0];
    struct matmul_tuning lt = {WAY_LT, -1, 0, 0, 0, false}, best = {WAY_WIDE, -1, 0, 0, 0, false};
    struct operand x = inputs(FORM_E4M3, cols, w->k);
    struct err e;
    double bytes = (double)bytes_of(r->kind, w->rows, w->k), operations = 2. * w->rows * w->k * cols, least = 0, s;
    double aim = bytes / read_rate > operations / 1.25e15 ? bytes / read_rate : operations / 1.25e15;
    printf("%5d x %5d %3d cols, aim %5.1f:", w->rows, w->k, cols, aim * 1e6);
    matmul_set_tuning(m, &lt);
    if (matmul_has_lt(m) && !matmul_warm(m, w, cols, INTO_F32, w->rows, 0, &e)) printf(" lt %5.1f", seconds(r, &x, INTO_F32, 2) * 1e6);
    for (int i = 0; i < wide8_kernels(); i++) {
        int of = wide8_kernel_cols(i), padded = (cols + of - 1) / of * of;
        bool few = w->rows <= 66 * 128 && padded == 2 * of; /* two tiles of columns fill the card */
        if (padded >= 2 * cols || (cols > of && ((of < 128 && !few) || padded > cols * 4 / 3))) continue;
        if (padded > (cols + 31) / 32 * 32 && padded > (cols + 63) / 64 * 64) continue;
        printf(" | %d:", of);
        for (int splits = 1; splits <= 2; splits++) {
            struct matmul_tuning tuning = {WAY_WIDE, i, splits, 0, 0, false};
            matmul_set_tuning(m, &tuning);
            s = seconds(r, &x, INTO_F32, 2);
            printf(" %5.1f", s * 1e6);
            if (s > 0 && (least == 0 || s < least)) least = s, best = tuning;
        }
    }
    matmul_set_tuning(m, &best);
    printf(" | graph %5.1f", seconds_in_graph(r, &x, INTO_F32, 2) * 1e6);
    matmul_set_tuning(m, NULL);
    s = seconds(r, &x, INTO_F32, 2);
    printf(" auto %5.1f, %.2f x aim, %3.0f %% of reading, %4.0f TFLOP/s\n", s * 1e6, least / aim, 100 * bytes / least / read_rate, operations / least / 1e12);
}

static void fp8wide(void)
{
    static const int shapes[][2] = {{10240, 8192}, {8192, 8192}, {44032, 8192}, {8192, 22016}, {22016, 8192}};
    static const int cols[] = {24, 32, 64, 96, 128, 160, 192, 256, 288, 320, 384, 416, 512};
    for (int i = 0; i < 5 && matmul_has_wide8(m); i++) {
        struct rotation r = rotation_new(&KINDS[1], shapes[i][0], shapes[i][1]);
        for (int c = 0; c < 13; c++) {
            if (only_cols && only_cols != cols[c]) continue;
            fp8wide_line(&r, cols[c]);
            (void)fflush(stdout);
        }
        rotation_free(&r);
    }
}

/* 64 streams' step is all products of all layers, one after another, in the way that matmul_run takes. */
static void step(const struct kind *kind)
{
    static const int shapes[][2] = {{10240, 8192}, {8192, 8192}, {44032, 8192}, {8192, 22016}}, cols[] = {1, 8, 16, 32, 64, 128, 256};
    struct rotation r[4];
    for (int s = 0; s < 4; s++) r[s] = rotation_new(kind, shapes[s][0], shapes[s][1]);
    for (size_t c = 0; c < sizeof cols / sizeof cols[0]; c++) {
        double sum = 0, graph = 0;
        for (int s = 0; s < 4; s++) {
            struct operand x = inputs(matmul_form(&r[s].w[0], cols[c], false), cols[c], shapes[s][1]);
            sum += seconds(&r[s], &x, s & 1 ? INTO_F32_ADD : INTO_F32, 3);
            graph += seconds_in_graph(&r[s], &x, s & 1 ? INTO_F32_ADD : INTO_F32, 3);
        }
        printf("%-5s 95 layers' products, %3d columns: %.2f ms, in a graph %.2f ms\n", kind->name, cols[c], sum * 95e3, graph * 95e3);
    }
    for (int s = 0; s < 4; s++) rotation_free(&r[s]);
}

/* A line: microseconds and share of the read rate of a layer's four products (in a graph), and all layers'. */
static void wide_line(struct rotation *r, int cols, const struct matmul_tuning *tuning, enum form form, const char *name)
{
    double sum = 0;
    matmul_set_tuning(m, tuning);
    printf("%4d columns, %-36s", cols, name);
    for (int s = 0; s < 4; s++) {
        const struct matrix *w = &r[s].w[0];
        struct operand x = inputs(form, cols, w->k);
        double t = seconds_in_graph(&r[s], &x, s & 1 ? INTO_F32_ADD : INTO_F32, 3);
        printf(" %6.1f (%2.0f %%)", t * 1e6, 100 * (double)bytes_of(&KINDS[0], w->rows, w->k) / t / read_rate);
        sum += t;
    }
    printf("  95 layers %6.2f ms\n", sum * 95e3);
    matmul_set_tuning(m, NULL);
    (void)fflush(stdout);
}

/* Every instance for its columns, the units beyond whole turns dealt to all blocks and evenly to tiles; what the program takes; the same
 * from inputs that must be turned first. */
static void wide(void)
{
    static const int shapes[][2] = {{10240, 8192}, {8192, 8192}, {44032, 8192}, {8192, 22016}}, cols[] = {9, 16, 24, 32, 48, 64, 80, 96, 128, 256, 512, 1024, 2048};
    struct rotation r[4];
    char name[64];
    if (!matmul_has_wide(m)) return;
    for (int s = 0; s < 4; s++) r[s] = rotation_new(&KINDS[0], shapes[s][0], shapes[s][1]);
    for (size_t c = 0; c < sizeof cols / sizeof cols[0]; c++) {
        if (only_cols && only_cols != cols[c]) continue;
        for (int i = 0; i < wide_kernels(); i++)
            for (int dealing = 1; dealing <= 2 && wide_kernel_cols(i) == cols[c]; dealing++) {
                struct matmul_tuning tuning = {WAY_WIDE, i, dealing, 0, 0, false};
                (void)snprintf(name, sizeof name, "%s, %s", wide_kernel_name(i), dealing == 1 ? "all" : "even");
                wide_line(r, cols[c], &tuning, FORM_TURNED, name);
            }
        wide_line(r, cols[c], NULL, FORM_TURNED, "chosen");
        if (cols[c] <= 128) wide_line(r, cols[c], NULL, FORM_F16, "chosen, turned first");
    }
    for (int s = 0; s < 4; s++) rotation_free(&r[s]);
}

int main(int argc, char **argv)
{
    struct err e;
    struct matmul_options options = {false, COLS_MAX, (int64_t)102400 * 8192};
    const char *mode = argc > 1 ? argv[1] : "table";
    if (!gpu_is_there()) {
        printf("skipped: no GPU\n");
        return 0;
    }
    only = argc > 2 ? argv[2] : NULL;
    only_cols = argc > 3 ? atoi(argv[3]) : 0;
    struct cudaDeviceProp p;
    MUST(cudaGetDeviceProperties(&p, 0));
    if (matmul_open(&m, &options, &e)) return printf("%s\n", e.msg), 1;
    make_room();
    read_rate = measured_read();
    rate_16 = measured_products(&KINDS[2], FORM_BF16);
    rate_8 = lt_fp8() ? measured_products(&KINDS[1], FORM_E4M3) : 0;
    printf("%s: reads %.0f GB/s; cuBLASLt, 8192 cubed: BF16 %.0f TFLOP/s, E4M3 %.0f TFLOP/s\n", p.name, read_rate / 1e9, rate_16 / 1e12, rate_8 / 1e12);
    if (!strcmp(mode, "fp8wide")) {
        fp8wide();
        matmul_close(m);
        return 0;
    }
    if (!strcmp(mode, "wide")) {
        wide();
        matmul_close(m);
        return 0;
    }
    for (int i = 0; i < KIND_COUNT; i++)
        for (int s = 0; s < 5; s++) {
            if (only && strcmp(only, KINDS[i].name)) continue;
            if (!strcmp(mode, "sweep") && s > 3) continue;
            if (!strcmp(mode, "step")) {
                if (s == 0) step(&KINDS[i]);
                continue;
            }
            struct rotation r = rotation_new(&KINDS[i], SHAPES[s][0], SHAPES[s][1]);
            if (!strcmp(mode, "sweep")) sweep(&r);
            else if (!strcmp(mode, "ways")) ways(&r);
            else table(&r);
            rotation_free(&r);
            (void)fflush(stdout);
        }
    matmul_close(m);
    return 0;
}
