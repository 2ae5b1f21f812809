/* Decoding attention, one unit at a time: what a block of 256 threads does with up to 64 query rows of one run, one KV head
 * and one split of the positions (8 pages). Made to be called from any kernel.
 *
 *   scores    warp w reads the K page w of the split, 16 bytes a lane, straight into B fragments: the sums run over k in an
 *             order in which a lane's neighbouring bytes are what it must hold; Q is read in the same order.
 *             Softmax with the page's own maximum; P goes to shared memory.
 *   values    warp w owns the dims 8w .. 8w + 7 (and + 64 …) and reads them of all 8 pages of V, again as B fragments.
 *             Each page's product is scaled to the split's maximum and added in the order of the pages.
 *
 * A row's result depends on its own position and pages alone: not on the rows, runs or blocks beside it, bit for bit.
 *
 * The row r of a unit is row row0 + r of its run; row R of a run is column R / group, query head R % group of the KV head. */
#ifndef RUNG_ENGINE_CUDA_ATTEND_CUH
#define RUNG_ENGINE_CUDA_ATTEND_CUH

#include "engine/cuda/attend_ptx.cuh"
#include "engine/cuda/cuda.cuh"

enum {
    ATTEND_THREADS = 256,
    ATTEND_PAGES = 8,                                    /* of a split; warp w takes page w */
    ATTEND_SPLIT = ATTEND_PAGES * CUDA_PAGE_TOKENS,      /* positions */
    ATTEND_P_STRIDE = ATTEND_SPLIT + 32,                 /* halves: 64 bytes off, so that fragments meet no bank twice */
    ATTEND_PARTS = 4                                     /* the sums over splits: by index % 4, then joined */
};
#define ATTEND_NONE (-1e30f) /* the maximum of no positions */
#define ATTEND_NOWHERE 0x3ffffff /* the place of a page that no row sees: past every position */
#define ATTEND_LOG2E 1.44269504f

/* Stands in shared memory: what all threads share should not take registers from what each one reads. */
struct attend_unit {
    const uint8_t *blocks;  /* block(layer, page 0, KV head) of the cache */
    int64_t page_bytes;     /* from a page's block to the next page's */
    const int32_t *pages;   /* the run's page table */
    const int32_t *list;    /* the pages of this unit, ascending, as places in the table; NULL: page0, page0 + 1, … */
    int page0, count;       /* 1 ≤ count ≤ 8 */
    int row0, rows, group;  /* 1 ≤ rows ≤ attend_rows(head_dim) */
    int position;           /* of the run's first column */
    int window;             /* 0: all; else the last `window` positions are seen */
    float softcap;          /* 0: off */
    float2 *ml;             /* (rows): maximum of log2(e) × score (FP8: + log2 of V's scale), sum of 2^(… - maximum) */
    float *o;               /* (rows, head_dim): Σ 2^(… - maximum) × V */
    /* What attend_find looks up. */
    int logical[ATTEND_PAGES], page[ATTEND_PAGES]; /* the unit's pages, as places in the table and in the cache */
    unsigned seen;                                 /* bit i: some row sees some of page i */
    int tail, there;                               /* the last page seen, and how many of its positions are written */
};

template <int HD, bool FP8> struct attend_shape {
    static constexpr int ELEMENT = FP8 ? 1 : 2;                     /* bytes */
    static constexpr int CHUNK = FP8 && HD % 64 == 0 ? 16 : 8;      /* dims that a lane loads at once */
    static constexpr int WORDS = CHUNK * ELEMENT / 4;
    static constexpr int BLOCKS = (HD + 4 * CHUNK - 1) / (4 * CHUNK); /* of 4 chunks; past the head's end: zeros */
    static constexpr int LIVE = 4 * BLOCKS * WORDS <= 64 ? BLOCKS : 16 / WORDS; /* blocks of K in registers */
    static constexpr int TILES = (HD + 63) / 64;                    /* of 8 dims that a warp owns */
    static constexpr int V_WORDS = 2 * ELEMENT;
    static constexpr int V_LIVE = 8 * TILES * V_WORDS <= 64 ? 8 : 64 / (TILES * V_WORDS); /* pages of V in registers */
    static constexpr int ROWS = HD <= 128 ? 64 : 16;
    static constexpr int Q_STRIDE = BLOCKS * 4 * CHUNK + (BLOCKS * 4 * CHUNK % 64 ? 0 : 32); /* halves */
    static_assert(ROWS == 16 || LIVE == BLOCKS, "K is loaded once for all rows");
};

static inline __host__ __device__ int attend_rows(int head_dim)
{
    return head_dim <= 128 ? 64 : 16;
}
/* The halves from a row of Q to the next; what is past head_dim must be zero. */
static inline __host__ __device__ int attend_q_stride(int head_dim)
{
    int padded = (head_dim + 31) / 32 * 32;
    return padded + (padded % 64 ? 0 : 32);
}
/* Shared memory for units of `rows` at most: not above 64 KiB. Q (rows rounded up to 16) stands first. */
static inline __host__ __device__ int attend_shared_bytes(int head_dim, int rows)
{
    int padded = (rows + 15) / 16 * 16;
    return padded * (attend_q_stride(head_dim) * 2 + ATTEND_P_STRIDE * 2 + 2 * ATTEND_PAGES * 4);
}

static __device__ __forceinline__ int attend_row_position(const struct attend_unit *u, int row)
{
    return u->position + (u->row0 + row) / u->group;
}
/* The first position that a column at `position` sees. */
static __device__ __forceinline__ int attend_first(const struct attend_unit *u, int position)
{
    return u->window > 0 && position >= u->window ? position - u->window + 1 : 0;
}

template <int HD, bool FP8>
static __device__ __forceinline__ void attend_load_k(uint32_t k[4][attend_shape<HD, FP8>::WORDS], const uint8_t *page, int block, bool seen)
{
    typedef attend_shape<HD, FP8> S;
    int lane = threadIdx.x % 32, g = lane / 4, dim = block * 4 * S::CHUNK + lane % 4 * S::CHUNK;
    bool inside = seen && (HD % (4 * S::CHUNK) == 0 || dim < HD);
#pragma unroll
    for (int n = 0; n < 4; n++) {
        const uint8_t *from = page + ((n * 8 + g) * HD + dim) * S::ELEMENT;
#pragma unroll
        for (int i = 0; i < S::WORDS; i++) k[n][i] = 0;
        if (!inside) continue;
        if constexpr (S::WORDS == 4) attend_load16(k[n], from);
        else attend_load8(k[n], from);
    }
}

static __device__ __forceinline__ const uint8_t *attend_block(const struct attend_unit *u, int i)
{
    return u->blocks + u->page[i] * u->page_bytes;
}

/* A warp: looks up the unit's pages. A barrier must follow before attend_start. */
static __device__ __forceinline__ void attend_find(struct attend_unit *u)
{
    int lane = threadIdx.x % 32, last = attend_row_position(u, u->rows - 1), first = attend_first(u, attend_row_position(u, 0));
    bool mine = lane < u->count;
    int logical = mine ? (u->list ? __ldcg(u->list + lane) : u->page0 + lane) : ATTEND_NOWHERE;
    bool seen = logical * CUDA_PAGE_TOKENS <= last && (logical + 1) * CUDA_PAGE_TOKENS > first;
    unsigned all = __ballot_sync(~0u, seen);
    int tail = all ? 31 - __clz((int)all) : 0;
    if (lane < ATTEND_PAGES) {
        u->logical[lane] = logical;
        u->page[lane] = seen ? __ldcg(u->pages + logical) : 0;
    }
    if (lane == tail) {
        u->seen = all;
        u->tail = tail;
        u->there = last + 1 - logical * CUDA_PAGE_TOKENS;
    }
}

/* Where a thread's K and V come from: registers, filled straight from memory. (Another source, filled further ahead, is
 * attention_decode.cu's ring in shared memory.) Pages that no row sees are zeros. */
template <int HD, bool FP8> struct attend_registers {
    typedef attend_shape<HD, FP8> S;
    const struct attend_unit *u;
    uint32_t k_words[S::LIVE][4][S::WORDS];
    float k_scale[FP8 ? 4 : 1][2], v_scale[FP8 ? 4 : 1][2]; /* of positions 8n + 2t, 8n + 2t + 1 of the warp's page */
    uint32_t v_words[S::V_LIVE][S::TILES][S::V_WORDS];

    /* Asks for the warp's page of K. */
    __device__ __forceinline__ void start(const struct attend_unit *unit)
    {
        int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        u = unit;
        bool seen = u->seen >> warp & 1;
        const uint8_t *page = attend_block(u, warp);
#pragma unroll
        for (int b = 0; b < S::LIVE; b++) attend_load_k<HD, FP8>(k_words[b], page, b, seen);
        if constexpr (FP8) {
            const float *scales = (const float *)(page + 2 * CUDA_PAGE_TOKENS * HD) + lane % 4 * 2;
#pragma unroll
            for (int n = 0; n < 4; n++) {
                k_scale[n][0] = k_scale[n][1] = v_scale[n][0] = v_scale[n][1] = 0;
                if (!seen) continue;
                attend_load_floats(k_scale[n], scales + n * 8);
                attend_load_floats(v_scale[n], scales + CUDA_PAGE_TOKENS + n * 8);
            }
        }
    }
    __device__ __forceinline__ void k(int block, int n, uint32_t w[S::WORDS]) const
    {
#pragma unroll
        for (int i = 0; i < S::WORDS; i++) w[i] = k_words[block % S::LIVE][n][i];
    }
    /* Block `block` has been used. */
    __device__ __forceinline__ void k_next(int block)
    {
        int warp = threadIdx.x / 32;
        if (block + S::LIVE < S::BLOCKS)
            attend_load_k<HD, FP8>(k_words[block % S::LIVE], attend_block(u, warp), block + S::LIVE, u->seen >> warp & 1);
    }
    __device__ __forceinline__ void load_v(int p)
    {
        int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        bool seen = u->seen >> p & 1;
        const uint8_t *page = attend_block(u, p);
#pragma unroll
        for (int i = 0; i < S::TILES; i++) {
            int dim = (warp + i * 8) * 8 + lane / 4;
            uint32_t *v = v_words[p % S::V_LIVE][i];
#pragma unroll
            for (int j = 0; j < S::V_WORDS; j++) v[j] = 0; /* else the last unit's stay alive, which takes registers */
            const uint8_t *from = page + (CUDA_PAGE_TOKENS * HD + dim * CUDA_PAGE_TOKENS + lane % 4 * 8) * S::ELEMENT;
            if (!seen || (HD % 64 && dim >= HD)) continue;
            if constexpr (FP8) attend_load8(v, from);
            else attend_load16(v, from);
        }
    }
    /* K has been used by all rows: its registers are free for V. */
    __device__ __forceinline__ void k_done()
    {
#pragma unroll
        for (int p = 0; p < S::V_LIVE; p++) load_v(p);
    }
    __device__ __forceinline__ void v_start() {}
    /* Positions 8t … of page p, dims of tile i. */
    __device__ __forceinline__ void v(int p, int i, uint32_t w[S::V_WORDS]) const
    {
#pragma unroll
        for (int j = 0; j < S::V_WORDS; j++) w[j] = v_words[p % S::V_LIVE][i][j];
    }
    __device__ __forceinline__ void v_next(int p)
    {
        if (p + S::V_LIVE < ATTEND_PAGES) load_v(p + S::V_LIVE);
    }
    __device__ __forceinline__ void v_done() {}
};

/* Asks the second-level cache for the K and V of a unit (found) that will be worked on later. */
template <int HD, bool FP8> static __device__ __forceinline__ void attend_prefetch(const struct attend_unit *u)
{
    constexpr int BYTES = 2 * CUDA_PAGE_TOKENS * HD * (FP8 ? 1 : 2) + (FP8 ? 2 * CUDA_PAGE_TOKENS * 4 : 0), LINES = (BYTES + 127) / 128;
    for (int i = threadIdx.x; i < ATTEND_PAGES * LINES; i += ATTEND_THREADS)
        if (u->seen >> i / LINES & 1) attend_prefetch_line(attend_block(u, i / LINES) + i % LINES * 128);
}

/* Of shared memory, what a unit needs beside Q. */
struct attend_space {
    __half *p;    /* (rows, P_STRIDE) */
    float *m, *l; /* (rows, 8 pages) */
};
static __device__ __forceinline__ struct attend_space attend_space(void *shared, int rows)
{
    struct attend_space a;
    int padded = (rows + 15) / 16 * 16;
    a.p = (__half *)shared;
    a.m = (float *)(a.p + padded * ATTEND_P_STRIDE);
    a.l = a.m + padded * ATTEND_PAGES;
    return a;
}

/* Eight dims of K at step i of a load, as the B fragments of two multiplications. */
template <int HD, bool FP8>
static __device__ __forceinline__ void attend_eight(uint32_t b[4], const uint32_t *words, int i)
{
    if constexpr (FP8) {
        attend_e4m3(words[2 * i], &b[0], &b[1]);
        attend_e4m3(words[2 * i + 1], &b[2], &b[3]);
    } else {
#pragma unroll
        for (int j = 0; j < 4; j++) b[j] = words[j];
    }
}

/* Raw scores of 16 rows with the warp's page: c[n] of positions 8n … */
template <int HD, bool FP8, typename SOURCE>
static __device__ __forceinline__ void attend_scores(SOURCE *s, const __half *q, float c[4][4])
{
    typedef attend_shape<HD, FP8> S;
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < 4; n++) c[n][0] = c[n][1] = c[n][2] = c[n][3] = 0;
#pragma unroll
    for (int b = 0; b < S::BLOCKS; b++) {
        uint32_t words[4][S::WORDS];
#pragma unroll
        for (int n = 0; n < 4; n++) s->k(b, n, words[n]);
#pragma unroll
        for (int i = 0; i < S::CHUNK / 8; i++) {
            const __half *at = q + b * 4 * S::CHUNK + t * S::CHUNK + i * 8;
            uint4 low = *(const uint4 *)(at + g * S::Q_STRIDE), high = *(const uint4 *)(at + (g + 8) * S::Q_STRIDE);
#pragma unroll
            for (int n = 0; n < 4; n++) {
                uint32_t k[4];
                attend_eight<HD, FP8>(k, words[n], i);
                attend_mma(c[n], low.x, high.x, low.y, high.y, k[0], k[1]);
                attend_mma(c[n], low.z, high.z, low.w, high.w, k[2], k[3]);
            }
        }
        s->k_next(b);
    }
}

static __device__ __forceinline__ float attend_cap(float x, float cap)
{
    float e = attend_exp2(__fdividef(2 * ATTEND_LOG2E * x, cap));
    return cap * (1 - __fdividef(2, e + 1));
}

/* One row's half of a tile of scores: 8 positions a lane, 32 over the four lanes; leaves P, maximum and sum.
 * FP8: P holds V's scales. So that it keeps its precision whatever they are, they count in the maximum too. */
template <int HD, bool FP8, typename SOURCE>
static __device__ __forceinline__ void attend_softmax(const struct attend_unit *u, const SOURCE *s, float c[4][4], int half, int base,
                                                      const struct attend_space *a, int row)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4;
    int position = attend_row_position(u, row), first = attend_first(u, position);
    float x[4][2], most = ATTEND_NONE, sum = 0;
#pragma unroll
    for (int n = 0; n < 4; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int j = base + n * 8 + t * 2 + i;
            float v = c[n][half * 2 + i];
            if constexpr (FP8) v *= s->k_scale[n][i];
            if (u->softcap > 0) v = attend_cap(v, u->softcap);
            x[n][i] = j >= first && j <= position ? v * ATTEND_LOG2E : -INFINITY;
            float weight = FP8 ? x[n][i] + attend_log2(s->v_scale[FP8 ? n : 0][i]) : x[n][i];
            if (j >= first && j <= position) most = fmaxf(most, weight);
        }
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
#pragma unroll
    for (int n = 0; n < 4; n++) {
        float p[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float e = attend_exp2(x[n][i] - most);
            sum += e;
            p[i] = FP8 ? (e > 0 ? e * s->v_scale[FP8 ? n : 0][i] : 0.0f) : e;
        }
        *(uint32_t *)(a->p + row * ATTEND_P_STRIDE + warp * CUDA_PAGE_TOKENS + n * 8 + t * 2) = attend_halves(p[0], p[1]);
    }
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (t == 0) {
        a->m[row * ATTEND_PAGES + warp] = most;
        a->l[row * ATTEND_PAGES + warp] = sum;
    }
}

/* Zeros where nothing was ever written: `valid` of the lane's 8 positions are there. */
template <bool FP8> static __device__ __forceinline__ void attend_trim(uint32_t *v, int valid)
{
    constexpr int EACH = FP8 ? 4 : 2, BITS = 32 / EACH;
#pragma unroll
    for (int i = 0; i < 8 / EACH; i++) {
        int n = valid - i * EACH;
        v[i] = n <= 0 ? 0 : n >= EACH ? v[i] : v[i] & ((1u << n * BITS) - 1);
    }
}

/* The highest of a row's maxima. */
static __device__ __forceinline__ float attend_most(const float *m)
{
    float4 a = *(const float4 *)m, b = *(const float4 *)(m + 4);
    return fmaxf(fmaxf(fmaxf(a.x, a.y), fmaxf(a.z, a.w)), fmaxf(fmaxf(b.x, b.y), fmaxf(b.z, b.w)));
}

static __device__ __forceinline__ void attend_leave_ml(const struct attend_unit *u, const struct attend_space *a, int row, float most)
{
    float sum = 0;
#pragma unroll
    for (int p = 0; p < ATTEND_PAGES; p++) sum += attend_exp2(a->m[row * ATTEND_PAGES + p] - most) * a->l[row * ATTEND_PAGES + p];
    if (row < u->rows) u->ml[row] = make_float2(most, sum);
}

/* 16 rows × the warp's dims over the pages of V. */
template <int HD, bool FP8, typename SOURCE>
static __device__ __forceinline__ void attend_values(const struct attend_unit *u, SOURCE *s, const struct attend_space *a, int row)
{
    typedef attend_shape<HD, FP8> S;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4, trim = u->there < CUDA_PAGE_TOKENS ? u->tail : -1;
    const float *m_low = a->m + (row + g) * ATTEND_PAGES, *m_high = m_low + 8 * ATTEND_PAGES;
    float most_low = attend_most(m_low), most_high = attend_most(m_high), o[S::TILES][4];
    if (warp == 0 && t == 0) {
        attend_leave_ml(u, a, row + g, most_low);
        attend_leave_ml(u, a, row + g + 8, most_high);
    }
#pragma unroll
    for (int i = 0; i < S::TILES; i++) o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0;
    const __half *p = a->p + (row + g) * ATTEND_P_STRIDE + t * 8;
#pragma unroll
    for (int n = 0; n < ATTEND_PAGES; n++) {
        uint4 x = *(const uint4 *)(p + n * CUDA_PAGE_TOKENS);
        uint4 y = *(const uint4 *)(p + 8 * ATTEND_P_STRIDE + n * CUDA_PAGE_TOKENS);
        float low = attend_exp2(m_low[n] - most_low), high = attend_exp2(m_high[n] - most_high);
#pragma unroll
        for (int i = 0; i < S::TILES; i++) {
            uint32_t words[S::V_WORDS], b[4];
            float c[4] = {0, 0, 0, 0};
            s->v(n, i, words);
            if (trim == n) attend_trim<FP8>(words, u->there - t * 8);
            attend_eight<HD, FP8>(b, words, 0);
            attend_mma(c, x.x, y.x, x.y, y.y, b[0], b[1]);
            attend_mma(c, x.z, y.z, x.w, y.w, b[2], b[3]);
            o[i][0] += low * c[0];
            o[i][1] += low * c[1];
            o[i][2] += high * c[2];
            o[i][3] += high * c[3];
        }
        s->v_next(n);
    }
#pragma unroll
    for (int i = 0; i < S::TILES; i++) {
        int dim = (warp + i * 8) * 8 + t * 2;
        if (HD % 64 && dim >= HD) continue;
        if (row + g < u->rows) *(float2 *)(u->o + (row + g) * HD + dim) = make_float2(o[i][0], o[i][1]);
        if (row + g + 8 < u->rows) *(float2 *)(u->o + (row + g + 8) * HD + dim) = make_float2(o[i][2], o[i][3]);
    }
}

/* Softmax of up to 16 rows. */
template <int HD, bool FP8, typename SOURCE>
static __device__ __forceinline__ void attend_tile(const struct attend_unit *u, const SOURCE *s, float c[4][4], const struct attend_space *a,
                                                   int row)
{
    int g = threadIdx.x % 32 / 4, base = u->logical[threadIdx.x / 32] * CUDA_PAGE_TOKENS;
    attend_softmax<HD, FP8>(u, s, c, 0, base, a, row + g);
    if (row + 8 < u->rows) attend_softmax<HD, FP8>(u, s, c, 1, base, a, row + g + 8);
}

/* A unit whose source was started. Q stands at `q` as F16, with bias, norm, rotation and scale. This begins with a
 * __syncthreads; when it returns Q's place is free, the rest of the space after the next one. */
template <int HD, bool FP8, typename SOURCE>
static __device__ __forceinline__ void attend_finish(const struct attend_unit *u, SOURCE *s, const __half *q, const struct attend_space *a)
{
    typedef attend_shape<HD, FP8> S;
    int last = (u->rows + 15) / 16 - 1;
    float c[4][4];
    __syncthreads();
    for (int i = 0; i < last; i++) {
        attend_scores<HD, FP8>(s, q + i * 16 * S::Q_STRIDE, c);
        attend_tile<HD, FP8>(u, s, c, a, i * 16);
    }
    attend_scores<HD, FP8>(s, q + last * 16 * S::Q_STRIDE, c);
    s->k_done();
    attend_tile<HD, FP8>(u, s, c, a, last * 16);
    __syncthreads();
    s->v_start();
    for (int i = 0; i <= last; i++) attend_values<HD, FP8>(u, s, a, i * 16);
    s->v_done();
}

/* The whole of it, for a unit that was found. `shared`: 16-byte aligned, attend_shared_bytes(head_dim, rows_max); Q first. */
template <int HD, bool FP8>
static __device__ __forceinline__ void attend_run(const struct attend_unit *u, void *shared, int rows_max)
{
    struct attend_space a = attend_space((__half *)shared + (rows_max + 15) / 16 * 16 * attend_q_stride(HD), rows_max);
    attend_registers<HD, FP8> s;
    s.start(u);
    attend_finish<HD, FP8>(u, &s, (const __half *)shared, &a);
}

/* ---- joining the splits of a row ---- */

/* A row's splits: number i of the run (i = first …) left ml[(i - first) × stride] and head_dim sums at o[…]. */
struct attend_splits {
    const float2 *ml;
    const float *o;
    int64_t stride; /* rows */
    int first, count;
};

/* A warp: the row's maximum. */
static __device__ __forceinline__ float attend_highest(const struct attend_splits *p)
{
    float most = ATTEND_NONE;
    for (int i = threadIdx.x % 32; i < p->count; i += 32) most = fmaxf(most, __ldcg(&p->ml[i * p->stride]).x);
#pragma unroll
    for (int i = 16; i; i /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, i));
    return most;
}

template <int HD> struct attend_sum {
    float o[(HD + 127) / 128][4]; /* dims 128 i + 4 lane … */
    float l;
};

/* A warp: the sum of the splits with index % 4 == part, in their order. */
template <int HD>
static __device__ __forceinline__ void attend_gather(const struct attend_splits *p, int part, float most, attend_sum<HD> *sum)
{
    int lane = threadIdx.x % 32;
    sum->l = 0;
#pragma unroll
    for (int j = 0; j < (HD + 127) / 128; j++) sum->o[j][0] = sum->o[j][1] = sum->o[j][2] = sum->o[j][3] = 0;
#pragma unroll 4
    for (int i = (part + ATTEND_PARTS - p->first % ATTEND_PARTS) % ATTEND_PARTS; i < p->count; i += ATTEND_PARTS) {
        float2 ml = __ldcg(&p->ml[i * p->stride]);
        float w = attend_exp2(ml.x - most);
        sum->l += w * ml.y;
#pragma unroll
        for (int j = 0; j < (HD + 127) / 128; j++) {
            if (j * 128 + lane * 4 >= HD) continue;
            float4 o = __ldcg((const float4 *)(p->o + i * p->stride * HD + j * 128 + lane * 4));
            sum->o[j][0] += w * o.x;
            sum->o[j][1] += w * o.y;
            sum->o[j][2] += w * o.z;
            sum->o[j][3] += w * o.w;
        }
    }
}

/* The four parts joined and divided: `lanes` steps from a part to the next. Lane's dims of out (head_dim), F16 or BF16. */
template <int HD>
static __device__ __forceinline__ void attend_join(const attend_sum<HD> part[ATTEND_PARTS], bool bf16, uint16_t *out)
{
    int lane = threadIdx.x % 32;
    float scale = 1 / ((part[0].l + part[1].l) + (part[2].l + part[3].l));
#pragma unroll
    for (int j = 0; j < (HD + 127) / 128; j++) {
        if (j * 128 + lane * 4 >= HD) continue;
        uint16_t r[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float x = ((part[0].o[j][i] + part[1].o[j][i]) + (part[2].o[j][i] + part[3].o[j][i])) * scale;
            r[i] = bf16 ? __bfloat16_as_ushort(__float2bfloat16_rn(x)) : __half_as_ushort(__float2half_rn(x));
        }
        *(uint2 *)(out + j * 128 + lane * 4) = make_uint2(r[0] | (uint32_t)r[1] << 16, r[2] | (uint32_t)r[3] << 16);
    }
}

/* A warp: one row from its splits. */
template <int HD> static __device__ __forceinline__ void attend_merge(const struct attend_splits *p, bool bf16, uint16_t *out)
{
    attend_sum<HD> part[ATTEND_PARTS];
    float most = attend_highest(p);
#pragma unroll
    for (int i = 0; i < ATTEND_PARTS; i++) attend_gather<HD>(p, i, most, &part[i]);
    attend_join<HD>(part, bf16, out);
}

#endif
