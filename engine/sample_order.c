#include "engine/sample_order.h"

#include <math.h>
#include <string.h>

/* Four at a time, on every processor: loops with a choice in them a compiler leaves as they are. */
typedef float four __attribute__((vector_size(16)));
typedef int32_t four_int __attribute__((vector_size(16)));

static inline four load(const float *x)
{
    four r;
    memcpy(&r, x, sizeof r);
    return r;
}

static inline four higher(four x, four y) /* y where x is not a number */
{
    four_int first = x > y;
    return (four)((first & (four_int)x) | (~first & (four_int)y));
}

static float height_of(const float *logits, int n)
{
    float most = -INFINITY;
    int i = 0;
    if (n >= 16) {
        four a = {-INFINITY, -INFINITY, -INFINITY, -INFINITY}, b = a, c = a, d = a;
        for (; i + 16 <= n; i += 16) {
            a = higher(load(logits + i), a);
            b = higher(load(logits + i + 4), b);
            c = higher(load(logits + i + 8), c);
            d = higher(load(logits + i + 12), d);
        }
        a = higher(higher(a, b), higher(c, d));
        for (int l = 0; l < 4; l++) most = a[l] > most ? a[l] : most;
    }
    for (; i < n; i++) most = logits[i] > most ? logits[i] : most;
    return most;
}

int order_highest(const float *logits, int n)
{
    float most = height_of(logits, n);
    for (int i = 0; i < n; i++)
        if (logits[i] == most) return i;
    return 0; /* none is a number */
}

static void sift(struct logit_at *heap, int n, int at) /* the last in order on top */
{
    struct logit_at moved = heap[at];
    for (int child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && order_before(&heap[child], &heap[child + 1])) child++;
        if (!order_before(&moved, &heap[child])) break;
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

/* The k-th highest of n; their order is lost. */
static float kth_highest(float *x, int n, int k)
{
    for (int from = 0, to = n - 1; from < to;) {
        float pivot = x[(from + to) / 2];
        int i = from, j = to;
        while (i <= j) {
            while (x[i] > pivot) i++;
            while (x[j] < pivot) j--;
            if (i > j) break;
            float t = x[i];
            x[i++] = x[j];
            x[j--] = t;
        }
        if (k - 1 <= j) to = j;
        else if (k - 1 >= i) from = i;
        else break;
    }
    return x[k - 1];
}

/* No more than k blocks can be higher than the k-th highest block, and k logits are as high: what lies below is not looked at again. */
int order_first(const float *logits, int n, struct logit_at *work, struct logit_at *out, int k)
{
    int block = 64, count = 0;
    while (block > 1 && n / block < 4 * k) block /= 4;
    float *height = (float *)work, *copy = height + (n + block - 1) / block; /* as large as two vocabularies of floats */
    int blocks = 0;
    for (int first = 0; first < n; first += block) height[blocks++] = height_of(logits + first, first + block < n ? block : n - first);
    memcpy(copy, height, (size_t)blocks * sizeof *copy);
    float least = blocks > k ? kth_highest(copy, blocks, k) : -INFINITY;
    for (int b = 0; b < blocks; b++) {
        if (!(height[b] >= least)) continue;
        int end = (b + 1) * block < n ? (b + 1) * block : n;
        for (int i = b * block; i < end; i++) {
            struct logit_at c = {logits[i], i};
            if (!(c.logit >= least && c.logit > -INFINITY)) continue;
            if (count < k) {
                out[count++] = c;
                if (count == k)
                    for (int at = k / 2 - 1; at >= 0; at--) sift(out, k, at);
            } else if (order_before(&c, &out[0])) {
                out[0] = c;
                sift(out, k, 0);
            }
        }
    }
    for (int at = count / 2 - 1; count < k && at >= 0; at--) sift(out, count, at);
    for (int i = count - 1; i > 0; i--) {
        struct logit_at last = out[0];
        out[0] = out[i];
        out[i] = last;
        sift(out, i, 0);
    }
    return count;
}

static uint32_t descending(float x)
{
    uint32_t u;
    x += 0.0f; /* one zero */
    memcpy(&u, &x, sizeof u);
    return u >> 31 ? u : ~u & 0x7fffffffu;
}

/* By digits of 11 bits, the lowest first, as ids stand in order already. */
int order_all(const float *logits, int vocabulary, float least, struct logit_at *from, struct logit_at *to, struct logit_at **out)
{
    enum { BITS = 11, DIGITS = 1 << BITS };
    static const int SHIFT[3] = {0, BITS, 2 * BITS};
    uint32_t count[3][DIGITS] = {{0}};
    int n = 0;
    for (int i = 0; i < vocabulary; i++) {
        if (!(logits[i] >= least)) continue;
        uint32_t key = descending(logits[i]);
        for (int d = 0; d < 3; d++) count[d][key >> SHIFT[d] & (DIGITS - 1)]++;
        from[n++] = (struct logit_at){logits[i], i};
    }
    for (int d = 0; d < 3; d++) {
        uint32_t at = 0;
        for (int i = 0; i < DIGITS; i++) {
            uint32_t here = count[d][i];
            count[d][i] = at;
            at += here;
        }
        for (int i = 0; i < n; i++) to[count[d][descending(from[i].logit) >> SHIFT[d] & (DIGITS - 1)]++] = from[i];
        struct logit_at *t = from;
        from = to;
        to = t;
    }
    *out = from;
    return n;
}

/* e^x for x ≤ 0 within 2e-7: 2^n of the nearest n, times a polynomial of the rest (Cephes' expf). e^-87, which is nothing, where x is
 * less or not a number. */
static inline four quick_exp(four x)
{
    const four least = {-87, -87, -87, -87};
    x = higher(x, least);
    four shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f; /* 1.5 × 2^23: the last bits count ones */
    four r = x - n * 0.693359375f + n * 2.12194440e-4f;
    four p = ((((1.9875691500e-4f * r + 1.3981999507e-3f) * r + 8.3334519073e-3f) * r + 4.1665795894e-2f) * r + 1.6666665459e-1f) * r + 0.5f;
    return (p * r * r + r + 1.0f) * (four)(((four_int)shifted + 127) << 23);
}

/* Four floats are added as floats, those sums as doubles. */
double order_sum(const float *logits, int n, float most, float inverse)
{
    double sum = 0;
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        four s = quick_exp((load(logits + i) - most) * inverse);
        for (int j = 4; j < 16; j += 4) s += quick_exp((load(logits + i + j) - most) * inverse);
        sum += ((double)s[0] + (double)s[1]) + ((double)s[2] + (double)s[3]);
    }
    for (; i < n; i++) {
        float w = expf((logits[i] - most) * inverse);
        if (w > 0) sum += (double)w;
    }
    return sum;
}

double order_sums(const float *logits, int n, float most, float inverse, double *sums)
{
    double sum = 0;
    for (int i = 0; i < n; i += ORDER_BLOCK) {
        *sums = order_sum(logits + i, n - i < ORDER_BLOCK ? n - i : ORDER_BLOCK, most, inverse);
        sum += *sums++;
    }
    return sum;
}

int order_find(const float *logits, int n, float most, float inverse, const double *sums, double target, float lightest)
{
    int first = 0, last = -1;
    double so_far = 0;
    for (; n - first > ORDER_BLOCK && so_far + *sums <= target; first += ORDER_BLOCK) so_far += *sums++;
    for (int i = first; i < n; i++) {
        if (last >= 0 && (i - first) % ORDER_BLOCK == 0) break; /* the block's sum was told a little larger */
        float w = expf((logits[i] - most) * inverse);
        if (!(w >= lightest)) continue;
        last = i;
        if ((so_far += (double)w) > target) break;
    }
    return last;
}
