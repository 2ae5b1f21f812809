/* The decode kernel on the 67B shape (or another), random weights: ms a step, tokens/s, and the share of the card's own
 * read bandwidth. Usage: bench_cuda_decode [w4|fp8|bf16] [layers] [fp8kv]
 * Built with -DDECODE_PROFILE (this file and engine/cuda/decode.cu) it also tells, for a layer in the middle, how long the
 * blocks spend in each phase: least, mean and most, in µs at 1,755 MHz. */
#include "engine/cuda/decode.cuh"
#include "tests/cuda/random.cuh"

#include <vector>

extern "C" {
#include "base/err.h"
}

static __global__ void read_all(const uint4 *p, int64_t n, uint32_t *out)
{
    uint32_t x = 0;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i + 3 * (int64_t)gridDim.x * blockDim.x < n; i += 4 * (int64_t)gridDim.x * blockDim.x) {
        int64_t s = (int64_t)gridDim.x * blockDim.x;
        uint4 a = __ldcs(p + i), b = __ldcs(p + i + s), c = __ldcs(p + i + 2 * s), d = __ldcs(p + i + 3 * s);
        x ^= a.x ^ a.y ^ a.z ^ a.w ^ b.x ^ b.y ^ b.z ^ b.w ^ c.x ^ c.y ^ c.z ^ c.w ^ d.x ^ d.y ^ d.z ^ d.w;
    }
    if (x == 0x12345678u) *out = x;
}

static double read_bandwidth(void)
{
    int64_t bytes = (int64_t)8 << 30;
    uint8_t *p;
    uint32_t *out;
    double best = 0;
    MUST(cudaMalloc((void **)&p, (size_t)bytes));
    MUST(cudaMalloc((void **)&out, 4));
    fill_random<<<2048, 256>>>(p, bytes / 4, MATRIX_FP8, 1);
    cudaEvent_t a, b;
    MUST(cudaEventCreate(&a));
    MUST(cudaEventCreate(&b));
    for (int blocks = 132 * 2; blocks <= 132 * 16; blocks *= 2)
        for (int i = 0; i < 5; i++) {
            MUST(cudaEventRecord(a));
            read_all<<<blocks, 512>>>((const uint4 *)p, bytes / 16, out);
            MUST(cudaEventRecord(b));
            MUST(cudaEventSynchronize(b));
            float ms;
            MUST(cudaEventElapsedTime(&ms, a, b));
            double rate = (double)bytes / (double)ms * 1e-6;
            best = rate > best ? rate : best;
        }
    MUST(cudaFree(p));
    return best;
}

static int compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
    if (!gpu_is_there()) {
        printf("skipped: no GPU\n");
        return 0;
    }
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    const char *type = argc > 1 ? argv[1] : "w4";
    enum matrix_kind kind = strcmp(type, "fp8") == 0 ? MATRIX_FP8 : strcmp(type, "bf16") == 0 ? MATRIX_BF16 : MATRIX_W4;
    int layers = argc > 2 ? atoi(argv[2]) : 95, d = 8192, ffn = 22016, q = 8192, kv = 1024, vocabulary = 102400;
    bool fp8 = argc > 3 && strcmp(argv[3], "fp8kv") == 0;
    cudaDeviceProp p;
    MUST(cudaGetDeviceProperties(&p, 0));
    double peak = read_bandwidth();
    std::vector<decode_layer> layer((size_t)layers);
    float *host, *norm = vector_random(d, 1, 0.1f, &host);
    int64_t bytes = 0;
    for (struct decode_layer &l : layer) {
        memset(&l, 0, sizeof l);
        l.q = matrix_large(kind, q + 2 * kv, d); /* one behind the other */
        l.k = l.v = l.q;
        l.q.rows = q, l.k.rows = l.v.rows = kv;
        l.k.data = (const uint8_t *)l.q.data + matrix_bytes(&l.q), l.v.data = (const uint8_t *)l.k.data + matrix_bytes(&l.k);
        if (l.q.scale) l.k.scale = l.q.scale + q, l.v.scale = l.k.scale + kv;
        l.o = matrix_large(kind, d, q);
        l.gate = matrix_large(kind, ffn, d), l.up = matrix_large(kind, ffn, d), l.down = matrix_large(kind, d, ffn);
        for (struct matrix *m : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down}) bytes += matrix_bytes(m);
        l.attn_norm = l.ffn_norm = norm;
    }
    struct decode_model m;
    memset(&m, 0, sizeof m);
    m.embedding = d, m.layers = layers, m.heads = 64, m.kv_heads = 8, m.head_dim = m.rotated = 128, m.feed_forward = ffn, m.vocabulary = vocabulary;
    m.norm_eps = 1e-5f, m.attention_scale = 0.088388f, m.residual_scale = 1, m.logit_scale = 1, m.layer = layer.data();
    m.output = matrix_large(kind == MATRIX_W4 ? MATRIX_F16 : kind, vocabulary, d);
    bytes += matrix_bytes(&m.output);
    m.output_norm = norm;
    int pages = kind == MATRIX_BF16 ? 64 : 1056;
    m.kv = (struct kv_cache){NULL, layers, pages, 8, 128, fp8};
    int64_t kv_bytes = kv_block_bytes(128, fp8) * 8 * layers;
    MUST(cudaMalloc((void **)&m.kv.base, (size_t)(kv_bytes * pages)));
    fill_random<<<2048, 256>>>(m.kv.base, kv_bytes * pages / 4, fp8 ? MATRIX_FP8 : MATRIX_F16, 5);
    struct decode *kernel;
    struct err e = {};
    if (decode_open(&kernel, &m, &e)) {
        printf("%s\n", e.msg);
        return 1;
    }
    printf("%s, %s weights, %s KV, %d layers: %.2f GB a token; the card reads %.0f GB/s\n", p.name, type, fp8 ? "FP8" : "F16", layers,
           (double)bytes * 1e-9, peak);
    std::vector<int32_t> table((size_t)pages), want = {0, 1, 2, 3, 4, 5, 6, 7};
    for (int i = 0; i < pages; i++) table[(size_t)i] = (int)((int64_t)i * 7919 % pages);
    std::vector<float> angles(8 * 256, 0.7f);
    struct decode_step s;
    memset(&s, 0, sizeof s);
    s.pages = (int32_t *)to_device(table.data(), table.size() * 4), s.angles = (float *)to_device(angles.data(), angles.size() * 4);
    s.want = (int32_t *)to_device(want.data(), want.size() * 4), s.logits_stride = vocabulary;
    MUST(cudaMalloc((void **)&s.x, 8 * (size_t)d * 4));
    MUST(cudaMalloc((void **)&s.hidden, 8 * (size_t)d * 4));
    MUST(cudaMalloc((void **)&s.logits, 8 * (size_t)vocabulary * 4));
    cudaEvent_t a, b;
    MUST(cudaEventCreate(&a));
    MUST(cudaEventCreate(&b));
    for (int context : {128, 2048})
        for (int cols : {1, 4, 8}) {
            if (context * cols > pages * 32) continue;
            std::vector<int32_t> position((size_t)cols, context - 1), run_of;
            for (int i = 0; i < cols; i++) run_of.push_back(i);
            s.cols = s.wanted = cols;
            s.pages_stride = pages / cols;
            s.position = (int32_t *)to_device(position.data(), position.size() * 4), s.run_of = (int32_t *)to_device(run_of.data(), run_of.size() * 4);
            std::vector<float> times;
            for (int i = 0; i < 12; i++) {
                fill_random<<<64, 256>>>((uint8_t *)s.x, cols * d, MATRIX_BF16, (uint32_t)i); /* as floats: around 0.01 */
                MUST(cudaEventRecord(a));
                if (decode_run(kernel, &s, 0, &e)) {
                    printf("%s\n", e.msg);
                    return 1;
                }
                MUST(cudaEventRecord(b));
                MUST(cudaEventSynchronize(b));
                float ms;
                MUST(cudaEventElapsedTime(&ms, a, b));
                if (i >= 2) times.push_back(ms);
            }
            qsort(times.data(), times.size(), sizeof(float), compare);
            double ms = (double)times[times.size() / 2], moved = (double)bytes + (double)kv_bytes / 32 * context * cols;
            printf("context %5d, %d columns: %7.3f ms (%.3f .. %.3f), %7.1f tokens/s, weights %4.1f %%, with KV %4.1f %% of the card's read rate\n", context,
                   cols, ms, (double)times.front(), (double)times.back(), cols / ms * 1e3, (double)bytes / ms * 1e-4 / peak, moved / ms * 1e-4 / peak);
#ifdef DECODE_PROFILE
            extern void decode_profile(void);
            decode_profile();
#endif
            fflush(stdout);
            MUST(cudaFree((void *)s.position));
            MUST(cudaFree((void *)s.run_of));
        }
    return 0;
}
