/* Decoding attention, one unit at a time: what a block of 256 threads does with up to 64 query rows of one run, one KV head
 * and one split of the positions (8 pages). Made to be called from any kernel.
 *
 *   a page    warp w has page w of the split in registers, straight from memory: a lane's 8 or 16 neighbouring bytes are
 *             what it must hold as fragments, for K because the sums run over k in an order that suits (Q is read in the same
 *             order), for V because the positions do: the scores' tile n has as its columns 2t, 2t + 1 the positions
 *             8t + 2n, 8t + 2n + 1, so that a lane's scores are of the eight positions whose V it reads, and P goes from the
 *             first product to the second in registers. Softmax with the page's own maximum.
 *   the sum   the eight pages' products meet in shared memory; warp w scales those of row w to the split's maximum and adds
 *             them in the order of the pages.
 *   splits    are added in the order of the positions, groups of 8 (2,048 positions) apart. A split's maximum is a whole
 *             number of powers of two, so what it takes to bring two splits to one maximum is exact, and a sum that was kept
 *             from split to split has the same bits as one that is made of all of them at the end.
 *
 * Eight rows at a time; a head of more than 128 goes in pieces. As soon as a piece has been used its registers are filled with
 * the next one, of the block's next unit too, so that memory always has something to do.
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
    ATTEND_ROWS = 8,                                     /* worked on together */
    ATTEND_GROUP = 8,                                    /* splits: from a multiple of 8 on */
    ATTEND_PARTS = 4                                     /* the sums over groups: by index % 4, then joined */
};
#define ATTEND_NONE (-1e30f) /* the maximum of no positions */
#define ATTEND_LOG2E 1.44269504f
#define ATTEND_NOWHERE 0x3ffffff /* the place of a page that no row sees: past every position */

/* Stands in shared memory: what all threads share should not take registers from what each one reads. */
struct attend_unit {
    const uint8_t *block[ATTEND_PAGES]; /* of its pages and its KV head in the cache; NULL: no row sees anything of it */
    int logical[ATTEND_PAGES];          /* the pages' places in the run's table */
    const __half *q;        /* the KV head's first query of the run's first column: bias, norm, rotation and scale are in it */
    int heads;              /* from a column's query to the next one's */
    int row0, rows, group;  /* 1 ≤ rows ≤ attend_rows(head_dim) */
    uint32_t group_inverse; /* attend_inverse(group) */
    bool same_q;            /* the rows, no more than 8, are those of the block's unit before */
    int position;           /* of the run's first column */
    int window;             /* 0: all; else the last `window` positions are seen */
    float softcap;          /* 0: off */
    unsigned seen;          /* bit i: block[i] is there */
    int tail, there;        /* the last page seen, and how many of its positions are written */
};

template <int HD, bool FP8> struct attend_shape {
    static constexpr int ELEMENT = FP8 ? 1 : 2;                     /* bytes */
    static constexpr int PIECE = HD <= 128 ? HD : 128, PIECES = HD / PIECE; /* dims that registers hold at once */
    static constexpr int CHUNK = FP8 && PIECE % 64 == 0 ? 16 : 8;   /* dims of K that a lane loads at once */
    static constexpr int WORDS = CHUNK * ELEMENT / 4;
    static constexpr int BLOCKS = (PIECE + 4 * CHUNK - 1) / (4 * CHUNK); /* of 4 chunks; past the head's end: zeros */
    static constexpr int TILES = PIECE / 16;                        /* of 16 dims of V */
    static constexpr int V_WORDS = 2 * ELEMENT;                     /* eight positions */
    static constexpr int K_ALL = BLOCKS * 4 * WORDS, V_ALL = TILES * 2 * V_WORDS, ALL = K_ALL > V_ALL ? K_ALL : V_ALL;
    static constexpr int STRIDE = PIECE + 4; /* floats: rows 8 banks off, so that fragments meet no bank twice */
    static_assert(HD % PIECE == 0 && PIECE % 16 == 0 && STRIDE % 16 == 4, "dims are cut into even pieces");
};

static inline __host__ __device__ int attend_rows(int head_dim)
{
    return head_dim <= 128 ? 64 : ATTEND_ROWS; /* pieces are not kept for another eight rows */
}

/* What the pages' sums meet in. */
template <int HD> struct attend_meeting {
    static constexpr int PIECE = HD <= 128 ? HD : 128;
    float o[ATTEND_PAGES][ATTEND_ROWS][PIECE + 4];
    float2 ml[ATTEND_PAGES][ATTEND_ROWS];
};
/* Eight queries; zeros past the head's end. */
template <int HD> struct attend_queries {
    uint4 q[ATTEND_ROWS][HD / 8 + 4];
};

/* For dividing by the group without a division: rows up to 2^32 / group. */
static inline __host__ __device__ uint32_t attend_inverse(int group)
{
    return group > 1 ? 0xffffffffu / (uint32_t)group + 1 : 0;
}
static __device__ __forceinline__ int attend_column(const struct attend_unit *u, int row)
{
    return u->group_inverse ? (int)__umulhi((uint32_t)(u->row0 + row), u->group_inverse) : u->row0 + row;
}
static __device__ __forceinline__ int attend_row_position(const struct attend_unit *u, int row)
{
    return u->position + attend_column(u, row);
}
/* From u->q to the row's query, in heads. */
static __device__ __forceinline__ int64_t attend_row_head(const struct attend_unit *u, int row)
{
    int column = attend_column(u, row);
    return (int64_t)column * u->heads + u->row0 + row - column * u->group;
}
/* The first position that a column at `position` sees. */
static __device__ __forceinline__ int attend_first(const struct attend_unit *u, int position)
{
    return u->window > 0 && position >= u->window ? position - u->window + 1 : 0;
}

/* ---- from memory to registers ---- */

/* A warp's page. words[i % 2] holds piece i: K's, then V's. */
template <int HD, bool FP8> struct attend_registers {
    typedef attend_shape<HD, FP8> S;
    uint32_t words[2][S::ALL];
    float k_scale, v_scale;          /* FP8: of the lane's position */
};

static __device__ __forceinline__ const uint8_t *attend_page(const struct attend_unit *u)
{
    return u->block[threadIdx.x / 32];
}

template <int HD, bool FP8> static __device__ __forceinline__ void attend_load_k(uint32_t *k, const uint8_t *page, int piece)
{
    typedef attend_shape<HD, FP8> S;
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    page += ((g / 2 * 8 + g % 2) * HD + piece * S::PIECE + t * S::CHUNK) * S::ELEMENT;
#pragma unroll
    for (int b = 0; b < S::BLOCKS; b++)
#pragma unroll
        for (int n = 0; n < 4; n++) {
            uint32_t *to = k + (b * 4 + n) * S::WORDS;
            const uint8_t *from = page + (n * 2 * HD + b * 4 * S::CHUNK) * S::ELEMENT;
            if (S::PIECE % (4 * S::CHUNK) && b == S::BLOCKS - 1) {
#pragma unroll
                for (int i = 0; i < S::WORDS; i++) to[i] = 0;
                if ((b * 4 + t) * S::CHUNK >= S::PIECE) continue;
            }
            if constexpr (S::WORDS == 4) attend_load16(to, from);
            else attend_load8(to, from);
        }
}

template <int HD, bool FP8> static __device__ __forceinline__ void attend_load_v(uint32_t *v, const uint8_t *page, int piece)
{
    typedef attend_shape<HD, FP8> S;
    int lane = threadIdx.x % 32;
    page += (CUDA_PAGE_TOKENS * (HD + piece * S::PIECE + lane / 4) + lane % 4 * 8) * S::ELEMENT;
#pragma unroll
    for (int i = 0; i < 2 * S::TILES; i++) {
        const uint8_t *from = page + i * 8 * CUDA_PAGE_TOKENS * S::ELEMENT;
        if constexpr (FP8) attend_load8(v + i * S::V_WORDS, from);
        else attend_load16(v + i * S::V_WORDS, from);
    }
}

/* Asks for piece i of the warp's page. */
template <int HD, bool FP8>
static __device__ __forceinline__ void attend_load(attend_registers<HD, FP8> *r, const struct attend_unit *u, int i)
{
    typedef attend_shape<HD, FP8> S;
    const uint8_t *page = attend_page(u);
    if (!page) return;
    if (i < S::PIECES) attend_load_k<HD, FP8>(r->words[i % 2], page, i);
    else attend_load_v<HD, FP8>(r->words[i % 2], page, i - S::PIECES);
}

/* A block: the eight queries from row `row` on, on their way to shared memory in a register of HD threads; zeros past the rows. */
template <int HD> static __device__ __forceinline__ void attend_load_q(uint32_t q[4], const struct attend_unit *u, int row)
{
    row += threadIdx.x / (HD / 8);
    q[0] = q[1] = q[2] = q[3] = 0;
    if (threadIdx.x < HD && row < u->rows) attend_load16(q, u->q + attend_row_head(u, row) * HD + threadIdx.x % (HD / 8) * 8);
}
template <int HD> static __device__ __forceinline__ void attend_put_q(attend_queries<HD> *to, const uint32_t q[4])
{
    if (threadIdx.x < HD) to->q[threadIdx.x / (HD / 8)][threadIdx.x % (HD / 8)] = make_uint4(q[0], q[1], q[2], q[3]);
}

template <int HD, bool FP8>
static __device__ __forceinline__ void attend_load_scales(attend_registers<HD, FP8> *r, const struct attend_unit *u)
{
    if (!FP8 || !attend_page(u)) return;
    const uint8_t *scales = attend_page(u) + 2 * CUDA_PAGE_TOKENS * HD + threadIdx.x % 32 * 4;
    attend_load_float(&r->k_scale, scales);
    attend_load_float(&r->v_scale, scales + CUDA_PAGE_TOKENS * 4);
}

/* ---- a page ---- */

/* Eight values as the halves of two fragments. */
template <bool FP8> static __device__ __forceinline__ void attend_eight(uint32_t b[4], const uint32_t *words)
{
    if constexpr (FP8) {
        attend_e4m3(words[0], &b[0], &b[1]);
        attend_e4m3(words[1], &b[2], &b[3]);
    } else {
#pragma unroll
        for (int j = 0; j < 4; j++) b[j] = words[j];
    }
}

/* Adds what a piece of K gives to the raw scores of eight rows: c[n] of row g, positions 8t + 2n, 8t + 2n + 1. */
template <int HD, bool FP8>
static __device__ __forceinline__ void attend_scores(const uint32_t *k, const attend_queries<HD> *queries, int piece, float c[4][4])
{
    typedef attend_shape<HD, FP8> S;
    int lane = threadIdx.x % 32;
    const uint4 *q = queries->q[lane / 4] + piece * S::PIECE / 8 + lane % 4 * (S::CHUNK / 8);
#pragma unroll
    for (int b = 0; b < S::BLOCKS; b++)
#pragma unroll
        for (int i = 0; i < S::CHUNK / 8; i++) {
            uint4 a = q[b * 4 * (S::CHUNK / 8) + i];
#pragma unroll
            for (int n = 0; n < 4; n++) {
                uint32_t w[4];
                attend_eight<FP8>(w, k + (b * 4 + n) * S::WORDS + i * 2);
                attend_mma(c[n], a.x, 0, a.y, 0, w[0], w[1]);
                attend_mma(c[n], a.z, 0, a.w, 0, w[2], w[3]);
            }
        }
}

static __device__ __forceinline__ float attend_cap(float x, float cap)
{
    float e = attend_exp2(__fdividef(2 * ATTEND_LOG2E * x, cap));
    return cap * (1 - __fdividef(2, e + 1));
}

/* A row's softmax within the page, over four lanes of eight positions each: leaves P; maximum and sum are returned.
 * FP8: P holds V's scales. So that it keeps its precision whatever they are, they count in the maximum too. */
template <int HD, bool FP8>
static __device__ __forceinline__ float2 attend_softmax(const struct attend_unit *u, const attend_registers<HD, FP8> *r, const float c[4][4],
                                                        int row, uint32_t p[4])
{
    int lane = threadIdx.x % 32, t = lane % 4, base = u->logical[threadIdx.x / 32] * CUDA_PAGE_TOKENS + t * 8;
    int position = attend_row_position(u, row + lane / 4), low = attend_first(u, position) - base, high = position - base;
    float x[8], v_scale[FP8 ? 8 : 1], most = ATTEND_NONE, sum = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        x[i] = c[i / 2][i % 2];
        if constexpr (FP8) x[i] *= __shfl_sync(~0u, r->k_scale, t * 8 + i);
    }
    if (u->softcap > 0)
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = attend_cap(x[i], u->softcap);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        bool seen = i >= low && i <= high;
        x[i] = seen ? x[i] * ATTEND_LOG2E : -INFINITY;
        float weight = x[i];
        if constexpr (FP8) {
            v_scale[i] = __shfl_sync(~0u, r->v_scale, t * 8 + i);
            weight += attend_log2(v_scale[i]);
        }
        if (seen) most = fmaxf(most, weight);
    }
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float e = attend_exp2(x[i] - most);
        sum += e;
        x[i] = FP8 ? (e > 0 ? e * v_scale[FP8 ? i : 0] : 0.0f) : e;
    }
#pragma unroll
    for (int n = 0; n < 4; n++) p[n] = attend_halves(x[2 * n], x[2 * n + 1]);
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    return make_float2(most, sum);
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

/* P times a piece of V, to o (rows, STRIDE). */
template <int HD, bool FP8>
static __device__ __forceinline__ void attend_values(const struct attend_unit *u, uint32_t *v, const uint32_t p[4], float *o)
{
    typedef attend_shape<HD, FP8> S;
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    if (u->there < CUDA_PAGE_TOKENS && u->tail == (int)threadIdx.x / 32)
#pragma unroll
        for (int i = 0; i < 2 * S::TILES; i++) attend_trim<FP8>(v + i * S::V_WORDS, u->there - t * 8);
    o += 2 * t * S::STRIDE + g;
#pragma unroll
    for (int i = 0; i < S::TILES; i++) {
        uint32_t low[4], high[4];
        float c[4] = {0, 0, 0, 0};
        attend_eight<FP8>(low, v + 2 * i * S::V_WORDS);
        attend_eight<FP8>(high, v + (2 * i + 1) * S::V_WORDS);
        attend_mma(c, low[0], high[0], low[1], high[1], p[0], p[1]);
        attend_mma(c, low[2], high[2], low[3], high[3], p[2], p[3]);
        o[i * 16] = c[0];
        o[i * 16 + S::STRIDE] = c[1];
        o[i * 16 + 8] = c[2];
        o[i * 16 + 8 + S::STRIDE] = c[3];
    }
}

/* ---- the sum ---- */

/* A warp, after a barrier: its row of a piece. The lane's dims 4 lane …; maximum (rounded up) and sum. */
template <int HD>
static __device__ __forceinline__ float2 attend_fold(const attend_meeting<HD> *m, unsigned seen, float o[4])
{
    int lane = threadIdx.x % 32, row = threadIdx.x / 32, dim = lane * 4 < attend_meeting<HD>::PIECE ? lane * 4 : 0;
    float most = ATTEND_NONE, sum = 0;
    o[0] = o[1] = o[2] = o[3] = 0;
#pragma unroll
    for (int p = 0; p < ATTEND_PAGES; p++)
        if (seen >> p & 1) most = fmaxf(most, m->ml[p][row].x);
    most = ceilf(most);
#pragma unroll
    for (int p = 0; p < ATTEND_PAGES; p++) {
        if (!(seen >> p & 1)) continue;
        float2 ml = m->ml[p][row];
        float4 c = *(const float4 *)&m->o[p][row][dim];
        float w = attend_exp2(ml.x - most);
        sum += w * ml.y;
        o[0] += w * c.x;
        o[1] += w * c.y;
        o[2] += w * c.z;
        o[3] += w * c.w;
    }
    return make_float2(most, sum);
}

/* 2^x of a whole number x ≤ 0, exactly. */
static __device__ __forceinline__ float attend_power(float x)
{
    return x < -126 ? 0 : __int_as_float((127 + (int)x) << 23);
}

/* A row's sum over the splits of a group so far. */
template <int HD> struct attend_running {
    float o[HD <= 128 ? 1 : HD / 128][4]; /* dims as in attend_fold */
    float2 ml;
};

/* Adds the next split's piece, after which it is in o and the maximum and sum are what is returned; they are kept with the last
 * piece. */
template <int HD>
static __device__ __forceinline__ float2 attend_run_on(attend_running<HD> *r, bool first, int piece, float2 ml, float o[4])
{
    constexpr int PIECES = HD <= 128 ? 1 : HD / 128;
    if (!first) {
        float most = fmaxf(r->ml.x, ml.x), keep = attend_power(r->ml.x - most), take = attend_power(ml.x - most);
#pragma unroll
        for (int i = 0; i < 4; i++) o[i] = fmaf(take, o[i], r->o[piece][i] * keep);
        ml = make_float2(most, fmaf(take, ml.y, r->ml.y * keep));
    }
#pragma unroll
    for (int i = 0; i < 4; i++) r->o[piece][i] = o[i];
    if (piece == PIECES - 1) r->ml = ml;
    return ml;
}

/* Four neighbouring values of the output, F16 or BF16. */
static __device__ __forceinline__ void attend_store(uint16_t *out, bool bf16, const float x[4])
{
    uint16_t r[4];
#pragma unroll
    for (int i = 0; i < 4; i++) r[i] = bf16 ? __bfloat16_as_ushort(__float2bfloat16_rn(x[i])) : __half_as_ushort(__float2half_rn(x[i]));
    *(uint2 *)out = make_uint2(r[0] | (uint32_t)r[1] << 16, r[2] | (uint32_t)r[3] << 16);
}

/* ---- joining the splits of a row ---- */

/* A row's splits: number i of the run (i = first …) left ml[(i - first) × stride] and head_dim sums at o[…]; with a sum of 0, no o:
 * a later split's has it. */
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

/* A warp: adds a group's splits in their order, then the whole to `sum`. */
template <int HD>
static __device__ __forceinline__ void attend_gather_group(const struct attend_splits *p, int group, float most, attend_sum<HD> *sum)
{
    constexpr int PIECES = (HD + 127) / 128;
    int lane = threadIdx.x % 32;
    float l = 0, o[PIECES][4] = {};
#pragma unroll 4
    for (int i = 0; i < ATTEND_GROUP; i++) {
        int64_t at = group * ATTEND_GROUP + i - p->first;
        if (at < 0 || at >= p->count) continue;
        float2 ml = __ldcg(&p->ml[at * p->stride]);
        float w = attend_power(ml.x - most);
        l = fmaf(w, ml.y, l);
#pragma unroll
        for (int j = 0; j < PIECES; j++) {
            float4 c = make_float4(0, 0, 0, 0);
            if (ml.y != 0 && j * 128 + lane * 4 < HD) c = __ldcg((const float4 *)(p->o + at * p->stride * HD + j * 128 + lane * 4));
            o[j][0] = fmaf(w, c.x, o[j][0]);
            o[j][1] = fmaf(w, c.y, o[j][1]);
            o[j][2] = fmaf(w, c.z, o[j][2]);
            o[j][3] = fmaf(w, c.w, o[j][3]);
        }
    }
    sum->l += l;
#pragma unroll
    for (int j = 0; j < PIECES; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) sum->o[j][i] += o[j][i];
}

/* A warp: the sum of the groups with index % 4 == part. */
template <int HD>
static __device__ __forceinline__ void attend_gather(const struct attend_splits *p, int part, float most, attend_sum<HD> *sum)
{
    int group = p->first / ATTEND_GROUP;
    sum->l = 0;
#pragma unroll
    for (int j = 0; j < (HD + 127) / 128; j++) sum->o[j][0] = sum->o[j][1] = sum->o[j][2] = sum->o[j][3] = 0;
    group += (part + ATTEND_PARTS - group % ATTEND_PARTS) % ATTEND_PARTS;
    for (; group * ATTEND_GROUP < p->first + p->count; group += ATTEND_PARTS)
        attend_gather_group<HD>(p, group, most, sum);
}

template <int HD> static __device__ __forceinline__ void attend_add(attend_sum<HD> *a, const attend_sum<HD> *b)
{
    a->l += b->l;
#pragma unroll
    for (int j = 0; j < (HD + 127) / 128; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) a->o[j][i] += b->o[j][i];
}

/* (part 0 + part 1) + (part 2 + part 3), divided: the lane's dims of out (head_dim), F16 or BF16. */
template <int HD> static __device__ __forceinline__ void attend_divide(const attend_sum<HD> *sum, bool bf16, uint16_t *out)
{
    int lane = threadIdx.x % 32;
    float scale = 1 / sum->l;
#pragma unroll
    for (int j = 0; j < (HD + 127) / 128; j++) {
        if (j * 128 + lane * 4 >= HD) continue;
        float x[4];
#pragma unroll
        for (int i = 0; i < 4; i++) x[i] = sum->o[j][i] * scale;
        attend_store(out + j * 128 + lane * 4, bf16, x);
    }
}

/* A warp: one row from its splits. */
template <int HD> static __device__ __forceinline__ void attend_merge(const struct attend_splits *p, bool bf16, uint16_t *out)
{
    attend_sum<HD> all, two, one;
    float most = attend_highest(p);
    attend_gather<HD>(p, 0, most, &all);
    attend_gather<HD>(p, 1, most, &one);
    attend_add(&all, &one);
    attend_gather<HD>(p, 2, most, &two);
    attend_gather<HD>(p, 3, most, &one);
    attend_add(&two, &one);
    attend_add(&all, &two);
    attend_divide(&all, bf16, out);
}

#endif
