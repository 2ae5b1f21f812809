/* Attention on the GPU, beside what the card can do: bytes of K and V a second against a plain read of memory, and arithmetic
 * against a loop of nothing but the same tensor core instruction. Prints one table.
 *
 *   bench_attention          everything
 *   bench_attention decode   one step of many streams alone
 *   bench_attention place    K, V and Q made ready, alone
 *   bench_attention 64 1 2048 fp8   one figure: streams, columns of each, positions, pages
 *
 * A figure is the time of whole attention_run calls (placing, sums, joining), captured in a graph that goes over so many
 * layers of a cache that none is found in the second-level cache again. */
#include "engine/cuda/attend_ptx.cuh"
#include "engine/cuda/attention_private.cuh"
#include "tests/cuda/must.cuh"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static cudaStream_t stream;
static double read_rate, mma_rate; /* bytes, operations a second */

static void *take(int64_t bytes)
{
    void *p = NULL;
    MUST(cudaMalloc(&p, (size_t)bytes));
    return p;
}

/* ---- random data, made on the device ---- */

static __host__ __device__ uint32_t hash(uint64_t i)
{
    i = (i + 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u;
    i = (i ^ i >> 31) * 0x94d049bb133111ebu;
    return (uint32_t)(i >> 32);
}
static __device__ float uniform(uint64_t i)
{
    return ((float)hash(i) * (1.0f / 4294967296.0f) - 0.5f) * 3.4641016f;
}
static __global__ void fill_floats(float *x, int64_t n, float scale, uint64_t seed)
{
    for (int64_t i = blockIdx.x * 256 + threadIdx.x; i < n; i += gridDim.x * 256) x[i] = uniform(seed * 0x100000001 + i) * scale;
}
/* The pages of a cache. */
static __global__ void fill_cache(uint8_t *base, int64_t blocks, int head_dim, bool fp8)
{
    int64_t bytes = kv_block_bytes(head_dim, fp8), values = 2 * CUDA_PAGE_TOKENS * head_dim;
    for (int64_t b = blockIdx.x; b < blocks; b += gridDim.x) {
        uint8_t *at = base + b * bytes;
        for (int i = threadIdx.x; i < values; i += 256) {
            if (fp8) at[i] = (uint8_t)(hash(b * values + i) & 0xbf);
            else ((__half *)at)[i] = __float2half(uniform(b * values + i));
        }
        for (int i = threadIdx.x; fp8 && i < 2 * CUDA_PAGE_TOKENS; i += 256) ((float *)(at + values))[i] = 0.5f;
    }
}

static float *random_floats(int64_t n, float scale, uint64_t seed)
{
    float *x = (float *)take(n * 4);
    fill_floats<<<1024, 256>>>(x, n, scale, seed);
    MUST(cudaGetLastError());
    return x;
}

/* ---- time ---- */

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* Seconds of one launch of what was captured: the median of some. */
static double time_graph(cudaGraphExec_t exec)
{
    enum { TIMES = 11 };
    float ms[TIMES];
    cudaEvent_t begin, end;
    MUST(cudaEventCreate(&begin));
    MUST(cudaEventCreate(&end));
    for (int i = -2; i < TIMES; i++) {
        MUST(cudaEventRecord(begin, stream));
        MUST(cudaGraphLaunch(exec, stream));
        MUST(cudaEventRecord(end, stream));
        MUST(cudaEventSynchronize(end));
        if (i >= 0) MUST(cudaEventElapsedTime(&ms[i], begin, end));
    }
    MUST(cudaEventDestroy(begin));
    MUST(cudaEventDestroy(end));
    qsort(ms, TIMES, sizeof *ms, by_value);
    return ms[TIMES / 2] / 1e3;
}

static void begin_capture(void)
{
    MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
}
static double time_captured(void)
{
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    MUST(cudaStreamEndCapture(stream, &graph));
    MUST(cudaGraphInstantiate(&exec, graph, 0));
    double t = time_graph(exec);
    MUST(cudaGraphExecDestroy(exec));
    MUST(cudaGraphDestroy(graph));
    return t;
}

/* ---- what the card can do ---- */

static __global__ void __launch_bounds__(512) read_all(const uint4 *x, int64_t n, uint32_t *out)
{
    uint32_t sum = 0;
    int64_t step = (int64_t)gridDim.x * 512;
#pragma unroll 8
    for (int64_t i = blockIdx.x * 512 + threadIdx.x; i < n; i += step) {
        uint4 v = __ldcg(x + i);
        sum += v.x ^ v.y ^ v.z ^ v.w;
    }
    if (sum == 0x12345678) *out = sum;
}

static __global__ void __launch_bounds__(256) multiply_all(float *out, int times)
{
    float c[16][4];
    uint32_t a = hash(threadIdx.x) & 0x3bff3bff, b = hash(threadIdx.x + 999) & 0x3bff3bff;
    for (int i = 0; i < 16; i++) c[i][0] = c[i][1] = c[i][2] = c[i][3] = 0;
    for (int n = 0; n < times; n++)
#pragma unroll
        for (int i = 0; i < 16; i++) attend_mma(c[i], a, b, a ^ i, b, a, b ^ n);
    float sum = 0;
    for (int i = 0; i < 16; i++) sum += c[i][0] + c[i][1] + c[i][2] + c[i][3];
    if (sum == 1.2345f) *out = sum;
}

static void measure_card(int multiprocessors)
{
    int64_t bytes = (int64_t)4 << 30;
    float *x = random_floats(bytes / 4, 1, 7);
    begin_capture();
    read_all<<<multiprocessors * 4, 512, 0, stream>>>((const uint4 *)x, bytes / 16, (uint32_t *)x);
    read_rate = (double)bytes / time_captured();
    begin_capture();
    multiply_all<<<multiprocessors * 2, 256, 0, stream>>>(x, 4000);
    mma_rate = multiprocessors * 2 * 8.0 * 16 * 4000 * 4096 / time_captured();
    MUST(cudaFree(x));
}

/* ---- a step ---- */

struct shape {
    int head_dim, heads, kv_heads;
    bool fp8;
};

struct step {
    struct shape shape;
    struct kv_cache kv;
    struct columns columns;
    struct attention_layer layer;
    struct attention *attention;
    struct batch_run *runs;
    float *qkv;
    int64_t ldqkv, seen; /* positions, of all runs */
    void *out;
};

static void *upload(const void *from, int64_t bytes)
{
    void *p = take(bytes);
    MUST(cudaMemcpy(p, from, (size_t)bytes, cudaMemcpyHostToDevice));
    return p;
}

/* Runs of `count` columns that end at `context` (mixed: anywhere from 1/16 of it on); pages in scattered order. */
static void deal_step(struct step *s, int runs, int count, int context, bool mixed)
{
    int cols = runs * count, stride = (context + CUDA_PAGE_TOKENS - 1) / CUDA_PAGE_TOKENS;
    int32_t *position = (int32_t *)malloc((size_t)cols * 8), *run_of = position + cols, *pages = (int32_t *)malloc((size_t)(runs * stride) * 4);
    s->runs = (struct batch_run *)calloc((size_t)runs, sizeof *s->runs);
    s->kv.pages = runs * stride;
    for (int r = 0; r < runs; r++) {
        int end = mixed ? context / 16 + (int)(hash((uint64_t)r) % (uint32_t)(context - context / 16)) + 1 : context;
        s->seen += end;
        s->runs[r].first = r * count;
        s->runs[r].count = count;
        s->runs[r].position = end - count;
        for (int i = 0; i < count; i++) {
            position[r * count + i] = end - count + i;
            run_of[r * count + i] = r;
        }
    }
    for (int i = 0; i < runs * stride; i++) pages[i] = i;
    for (int i = runs * stride - 1; i > 0; i--) {
        int j = (int)(((uint64_t)rand() << 16 ^ (uint64_t)rand()) % (uint64_t)(i + 1)), x = pages[i];
        pages[i] = pages[j];
        pages[j] = x;
    }
    s->columns = {cols, runs, context};
    s->columns.position = (int32_t *)upload(position, cols * 4);
    s->columns.run_of = (int32_t *)upload(run_of, cols * 4);
    s->columns.pages = (int32_t *)upload(pages, (int64_t)runs * stride * 4);
    s->columns.pages_stride = stride;
    s->columns.run = (struct batch_run *)upload(s->runs, runs * (int64_t)sizeof *s->runs);
    s->columns.host_run = s->runs;
    free(position);
    free(pages);
}

static void step_open(struct step *s, struct shape shape, int runs, int count, int context, bool mixed, int sparse, int layers,
                      int cols_max)
{
    memset(s, 0, sizeof *s);
    s->shape = shape;
    deal_step(s, runs, count, context, mixed);
    int64_t layer_bytes = (int64_t)s->kv.pages * shape.kv_heads * kv_block_bytes(shape.head_dim, shape.fp8), enough = (int64_t)1 << 30;
    if (layers == 0) layers = (int)(enough / layer_bytes < 2 ? 2 : enough / layer_bytes > 32 ? 32 : enough / layer_bytes);
    s->kv = {(uint8_t *)take(layers * layer_bytes), layers, s->kv.pages, shape.kv_heads, shape.head_dim, shape.fp8};
    fill_cache<<<2048, 256>>>(s->kv.base, (int64_t)layers * s->kv.pages * shape.kv_heads, shape.head_dim, shape.fp8);
    MUST(cudaGetLastError());
    int cols = cols_max > runs * count ? cols_max : runs * count;
    s->ldqkv = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
    s->qkv = random_floats(cols * s->ldqkv, 1, 3);
    s->out = take((int64_t)cols * shape.heads * shape.head_dim * 2);
    s->layer.heads = shape.heads;
    s->layer.kv_heads = shape.kv_heads;
    s->layer.head_dim = s->layer.rotated = shape.head_dim;
    s->layer.rope_halves = true;
    s->layer.scale = 1 / sqrtf((float)shape.head_dim);
    s->layer.angles = random_floats((int64_t)cols * shape.head_dim, 0.5f, 5);
    s->layer.sparse_pages = sparse;
    struct attention_options o = {cols, shape.heads, shape.kv_heads, shape.head_dim, context, false, sparse ? layers : 0,
                                  sparse ? s->kv.pages : 0};
    struct err e = {};
    if (attention_open(&s->attention, &o, &e)) {
        printf("attention_open: %s\n", e.msg);
        exit(1);
    }
    MUST(cudaDeviceSynchronize());
}

static void step_close(struct step *s)
{
    attention_close(s->attention);
    const void *list[] = {s->kv.base, s->qkv, s->out, s->layer.angles, s->columns.position, s->columns.run_of, s->columns.pages, s->columns.run};
    for (const void *p : list) MUST(cudaFree((void *)p));
    free(s->runs);
}

static void run_layer(struct step *s, int layer)
{
    struct err e = {};
    s->layer.layer = layer;
    if (attention_run(s->attention, &s->layer, &s->kv, &s->columns, s->qkv, s->ldqkv, FORM_F16, s->out, stream, &e)) {
        printf("attention_run: %s\n", e.msg);
        exit(1);
    }
}

/* Seconds of a layer. */
static double time_step(struct step *s)
{
    begin_capture();
    for (int i = 0; i < s->kv.layers; i++) run_layer(s, i);
    return time_captured() / s->kv.layers;
}

/* ---- tables ---- */

static void decode_row(struct shape shape, int runs, int count, int context, bool mixed, int sparse)
{
    struct step s;
    step_open(&s, shape, runs, count, context, mixed, sparse, 0, 0);
    double t = time_step(&s), bytes = (double)s.seen * shape.kv_heads * kv_block_bytes(shape.head_dim, shape.fp8) / CUDA_PAGE_TOKENS;
    printf("decode  %3d x %2d at %s%6d, %2d/%d heads of %3d, %s", runs, count, mixed ? "up to " : "", context, shape.heads, shape.kv_heads,
           shape.head_dim, shape.fp8 ? "fp8" : "f16");
    if (sparse) printf(", %4d of %d pages: %8.1f us\n", sparse, context / CUDA_PAGE_TOKENS, t * 1e6);
    else printf(": %8.1f us  %6.0f GB/s  %3.0f %% of a plain read\n", t * 1e6, bytes / t / 1e9, bytes / t / read_rate * 100);
    step_close(&s);
}

/* Runs of `count` columns each, every layer's K, V and Q made ready; and the whole of attention with a plan for each layer or one for all. */
static void place_row(struct shape shape, int runs, int count, int context)
{
    struct step s;
    step_open(&s, shape, runs, count, context, false, 0, 0, 0);
    struct planner planner = {};
    int cols = runs * count, n = shape.head_dim;
    double bytes = (double)cols * (s.ldqkv * 4 + shape.heads * n * 2 + shape.kv_heads * n * (shape.fp8 ? 2 : 4)), whole[2];
    for (int planned = 0; planned < 2; planned++) {
        begin_capture();
        for (int i = 0; i < s.kv.layers; i++) {
            s.layer.planned = planned && i;
            run_layer(&s, i);
        }
        whole[planned] = time_captured() / s.kv.layers;
    }
    begin_capture();
    for (int i = 0; i < s.kv.layers; i++) {
        s.layer.layer = i;
        s.layer.planned = true;
        struct attention_call call = {s.layer, s.kv, s.columns, s.attention->q, (uint16_t *)s.out, false, shape.heads / shape.kv_heads};
        MUST(place_launch(s.attention, &call, &planner, s.qkv, s.ldqkv, stream));
    }
    double t = time_captured() / s.kv.layers;
    printf("place   %3d x %4d, %2d/%d heads of %3d, %s: %6.1f us  %5.0f GB/s; attention to %d with it %6.1f us, %6.1f with a plan a layer\n", runs, count,
           shape.heads, shape.kv_heads, n, shape.fp8 ? "fp8" : "f16", t * 1e6, bytes / t / 1e9, context, whole[1] * 1e6, whole[0] * 1e6);
    step_close(&s);
}

static void prefill_row(struct shape shape, int count, int context)
{
    struct step s;
    step_open(&s, shape, 1, count, context, false, 0, 2, 0);
    double seen = (double)count * context - (double)count * (count - 1) / 2, t = time_step(&s);
    double work = 4.0 * shape.head_dim * shape.heads * seen;
    printf("prefill %5d columns to %6d, %2d/%d heads of %3d, %s: %8.2f ms  %4.0f TFLOP/s  %3.0f %% of mma alone\n", count, context, shape.heads,
           shape.kv_heads, shape.head_dim, shape.fp8 ? "fp8" : "f16", t * 1e3, work / t / 1e12, work / t / mma_rate * 100);
    step_close(&s);
}

/* Keys like the query at some positions: what a head that looks something up sees. */
static __global__ void plant(float *qkv, int64_t ldqkv, const float *query, int heads, int kv_heads, int head_dim, int every, float strength)
{
    int column = blockIdx.x;
    if (hash(column + 12345) % every) return;
    for (int i = threadIdx.x; i < kv_heads * head_dim; i += 256) {
        int head = i / head_dim * (heads / kv_heads);
        qkv[column * ldqkv + heads * head_dim + i] = query[head * head_dim + i % head_dim] * strength;
    }
}
/* All heads of a group ask nearly the same. */
static __global__ void alike(float *query, int heads, int kv_heads, int head_dim)
{
    for (int i = threadIdx.x; i < heads * head_dim; i += 256) {
        int head = i / head_dim / (heads / kv_heads) * (heads / kv_heads);
        if (i / head_dim != head) query[i] = query[head * head_dim + i % head_dim] + 0.3f * query[i];
    }
}

/* Context by prefill, then one column: the output over some pages against the output over all. */
static void sparse_error(struct shape shape, int context, int every)
{
    enum { CHUNK = 2048 };
    struct step s;
    step_open(&s, shape, 1, 1, context + 1, false, 64, 1, CHUNK);
    int n = shape.heads * shape.head_dim, none = shape.head_dim;
    float *query = random_floats(s.ldqkv, 1, 99), *flat = random_floats((int64_t)CHUNK * none, 0, 1), *ones = (float *)malloc((size_t)none * 4);
    for (int i = 0; i < none; i++) ones[i] = i < none / 2; /* no rotation: what is like the query stays so */
    for (int c = 0; c < CHUNK; c++) MUST(cudaMemcpy(flat + (int64_t)c * none, ones, (size_t)none * 4, cudaMemcpyHostToDevice));
    alike<<<1, 256>>>(query, shape.heads, shape.kv_heads, shape.head_dim);
    struct columns one = s.columns;
    MUST(cudaFree((void *)s.layer.angles));
    s.layer.angles = flat;
    float *qkv = s.qkv;
    for (int at = 0; at < context; at += CHUNK) {
        struct batch_run run = {0, CHUNK, at, NULL};
        int32_t *position = (int32_t *)calloc(CHUNK, 4);
        void *run_of = upload(position, CHUNK * 4);
        for (int i = 0; i < CHUNK; i++) position[i] = at + i;
        fill_floats<<<1024, 256>>>(qkv, CHUNK * s.ldqkv, 1, 1000 + at);
        if (every) plant<<<CHUNK, 256>>>(qkv, s.ldqkv, query, shape.heads, shape.kv_heads, shape.head_dim, every, 1.5f);
        s.columns.cols = CHUNK;
        s.columns.position = (int32_t *)upload(position, CHUNK * 4);
        s.columns.run_of = (int32_t *)run_of;
        s.columns.run = (struct batch_run *)upload(&run, sizeof run);
        s.columns.host_run = &run;
        MUST(cudaDeviceSynchronize());
        run_layer(&s, 0);
        MUST(cudaDeviceSynchronize());
        MUST(cudaFree((void *)s.columns.position));
        MUST(cudaFree(run_of));
        MUST(cudaFree((void *)s.columns.run));
        free(position);
    }
    s.columns = one;
    s.qkv = query;
    uint16_t *dense = (uint16_t *)malloc((size_t)n * 4), *sparse = dense + n;
    s.layer.sparse_pages = 1 << 20;
    run_layer(&s, 0);
    MUST(cudaStreamSynchronize(stream));
    MUST(cudaMemcpy(dense, s.out, (size_t)n * 2, cudaMemcpyDeviceToHost));
    printf("sparse  at %d, %s keys, %s: relative error", context, every ? "planted" : "random", shape.fp8 ? "fp8" : "f16");
    for (int pages = 32; pages <= 512; pages *= 2) {
        s.layer.sparse_pages = pages;
        run_layer(&s, 0);
        MUST(cudaStreamSynchronize(stream));
        MUST(cudaMemcpy(sparse, s.out, (size_t)n * 2, cudaMemcpyDeviceToHost));
        double difference = 0, all = 0;
        for (int i = 0; i < n; i++) {
            double x = __half2float(__ushort_as_half(sparse[i])), y = __half2float(__ushort_as_half(dense[i]));
            difference += (x - y) * (x - y);
            all += y * y;
        }
        printf("  %d pages %.1e", pages, sqrt(difference / all));
    }
    printf("\n");
    s.qkv = qkv;
    MUST(cudaFree(query));
    free(dense);
    free(ones);
    step_close(&s);
}

int main(int argc, char **argv)
{
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        printf("skipped: no GPU\n");
        return 0;
    }
    struct cudaDeviceProp card;
    MUST(cudaGetDeviceProperties(&card, 0));
    MUST(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    setvbuf(stdout, NULL, _IOLBF, 0);
    measure_card(card.multiProcessorCount);
    printf("%s: plain read %.0f GB/s, mma.sync m16n8k16 alone %.0f TFLOP/s\n", card.name, read_rate / 1e9, mma_rate / 1e12);
    struct shape large = {128, 64, 8, false}, large8 = {128, 64, 8, true}, small = {64, 14, 2, false}, wide = {256, 8, 4, false};
    if (argc > 4) {
        decode_row(strcmp(argv[4], "fp8") == 0 ? large8 : large, atoi(argv[1]), atoi(argv[2]), atoi(argv[3]), false, 0);
        return 0;
    }
    static const int PLACED[][3] = {{16, 1, 1152}, {160, 1, 128}, {160, 1, 1152}, {288, 1, 1152}, {1, 128, 128}, {1, 2048, 2048}};
    for (const int *r : PLACED)
        for (int fp8 = 0; fp8 < 2; fp8++) place_row(fp8 ? large8 : large, r[0], r[1], r[2]);
    place_row(small, 160, 1, 1152);
    if (argc > 1 && strcmp(argv[1], "place") == 0) return 0;
    static const int STREAMS[][4] = {/* streams, columns of each, positions, mixed */
                                     {1, 1, 32},     {1, 1, 2048},   {1, 1, 8192},   {1, 1, 32768},     {1, 1, 131072}, {1, 4, 32768},
                                     {1, 8, 32768},  {1, 32, 8192},  {8, 1, 128},    {8, 1, 2048},      {8, 1, 8192},   {64, 1, 32},
                                     {64, 1, 128},   {64, 1, 512},   {64, 1, 2048},  {64, 1, 2049},     {64, 1, 8192},  {64, 1, 4096, 1},
                                     {64, 4, 2048},  {160, 1, 128},  {160, 1, 2048}, {160, 1, 4096, 1}};
    for (const int *r : STREAMS)
        for (int fp8 = 0; fp8 < 2; fp8++) decode_row(fp8 ? large8 : large, r[0], r[1], r[2], r[3] != 0, 0);
    decode_row(small, 1, 1, 32768, false, 0);
    decode_row(small, 64, 1, 2048, false, 0);
    small.fp8 = true;
    decode_row(small, 64, 1, 2048, false, 0);
    decode_row(wide, 1, 1, 32768, false, 0);
    decode_row(wide, 64, 1, 2048, false, 0);
    wide.fp8 = true;
    decode_row(wide, 64, 1, 2048, false, 0);
    if (argc > 1 && strcmp(argv[1], "decode") == 0) return 0;
    for (int pages = 32; pages <= 512; pages *= 2) decode_row(large, 1, 1, 32768, false, pages);
    decode_row(large8, 1, 1, 32768, false, 128);
    decode_row(large, 16, 1, 32768, false, 128);
    decode_row(large, 16, 1, 32768, false, 0);
    prefill_row(large, 512, 512);
    prefill_row(large, 2048, 2048);
    prefill_row(large, 8192, 8192);
    prefill_row(large8, 8192, 8192);
    prefill_row(large, 2048, 32768);
    prefill_row({64, 32, 8, false}, 8192, 8192);
    prefill_row({64, 32, 8, true}, 8192, 8192);
    prefill_row({256, 16, 8, false}, 8192, 8192);
    prefill_row({256, 16, 8, true}, 8192, 8192);
    sparse_error(large, 32768, 0);
    sparse_error(large, 32768, 1024);
    sparse_error(large8, 32768, 1024);
    return 0;
}
