#include "engine/sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum err_code sampler_init(struct sampler *s, int vocabulary, struct err *e)
{
    size_t n = (size_t)vocabulary;
    *s = (struct sampler){.vocabulary = vocabulary,
                          .logits = malloc(n * sizeof *s->logits),
                          .candidates = malloc(n * sizeof *s->candidates),
                          .seen = calloc(n, sizeof *s->seen)};
    if (s->logits && s->candidates && s->seen) return ERR_OK;
    sampler_release(s);
    return err_set(e, ERR_MEMORY, "no memory to sample from %d tokens", vocabulary);
}

void sampler_release(struct sampler *s)
{
    free(s->logits);
    free(s->candidates);
    free(s->seen);
    *s = (struct sampler){0};
}

/* SplitMix64's finisher (Steele, Lea, Flood 2014): every bit of the input reaches every bit of the output. */
static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

double sample_uniform(uint64_t seed, uint64_t choice, uint64_t index)
{
    return (double)(mix(mix(mix(seed) ^ choice) ^ index) >> 11) * 0x1p-53;
}

static bool changes(const struct engine_sampling *h)
{
    return h->bias_count || (h->repeat_penalty != 1 && h->repeat_penalty > 0) || h->presence_penalty != 0 || h->frequency_penalty != 0;
}

static bool greedy(const struct engine_sampling *h)
{
    return !(h->temperature > 0) || h->top_k == 1;
}

bool sample_takes_best(const struct engine_sampling *how)
{
    return greedy(how) && !changes(how);
}

/* Repetition counts in the last tokens of all, presence and frequency among the generated ones of them. */
static void penalize(struct sampler *s, const struct sample_input *in, bool generated)
{
    const struct engine_sampling *h = in->how;
    int window = h->penalty_window > 0 ? h->penalty_window : 64, first = in->count > window ? in->count - window : 0;
    if (generated && first < in->prompt_count) first = in->prompt_count;
    for (int i = first; i < in->count; i++)
        if (s->seen[in->tokens[i]] < UINT16_MAX) s->seen[in->tokens[i]]++;
    for (int i = first; i < in->count; i++) {
        int32_t id = in->tokens[i];
        if (!s->seen[id]) continue;
        float *x = &s->logits[id];
        if (generated) *x -= h->presence_penalty + h->frequency_penalty * (float)s->seen[id];
        else *x = *x > 0 ? *x / h->repeat_penalty : *x * h->repeat_penalty;
        s->seen[id] = 0;
    }
}

static const float *change(struct sampler *s, const struct sample_input *in)
{
    const struct engine_sampling *h = in->how;
    memcpy(s->logits, in->logits, (size_t)s->vocabulary * sizeof *s->logits);
    for (int i = 0; i < h->bias_count; i++)
        if (h->bias[i].id >= 0 && h->bias[i].id < s->vocabulary) s->logits[h->bias[i].id] += h->bias[i].bias;
    if (h->repeat_penalty != 1 && h->repeat_penalty > 0) penalize(s, in, false);
    if (h->presence_penalty != 0 || h->frequency_penalty != 0) penalize(s, in, true);
    for (int i = 0; in->mask && i < s->vocabulary; i++)
        if (!(in->mask[i / 32] >> (i % 32) & 1)) s->logits[i] = -INFINITY;
    return s->logits;
}

static int highest(const float *logits, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

static int by_logit(const void *a, const void *b)
{
    const struct sample_candidate *x = a, *y = b;
    if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
    return x->id < y->id ? -1 : 1;
}

static void sift(struct sample_candidate *heap, int n, int at) /* smallest on top */
{
    for (int child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && by_logit(&heap[child + 1], &heap[child]) > 0) child++;
        if (by_logit(&heap[child], &heap[at]) <= 0) return;
        struct sample_candidate t = heap[at];
        heap[at] = heap[child];
        heap[child] = t;
    }
}

/* Candidates: the k best, or all down to the logit `floor_at`. */
static int gather(struct sampler *s, const float *logits, float floor_at, int k)
{
    int n = 0;
    for (int i = 0; i < s->vocabulary; i++) {
        struct sample_candidate c = {logits[i], i};
        if (!(c.logit >= floor_at)) continue;
        if (k <= 0 || n < k) {
            s->candidates[n++] = c;
            if (n == k)
                for (int at = n / 2 - 1; at >= 0; at--) sift(s->candidates, n, at);
        } else if (by_logit(&c, &s->candidates[0]) < 0) {
            s->candidates[0] = c;
            sift(s->candidates, n, 0);
        }
    }
    return n;
}

/* From here a candidate's logit is its weight, exp((logit - most) / temperature), not yet normalized. */
static double weigh(struct sample_candidate *c, int n, float most, float temperature)
{
    double sum = 0;
    for (int i = 0; i < n; i++) {
        c[i].logit = expf((c[i].logit - most) / temperature);
        sum += (double)c[i].logit;
    }
    return sum;
}

static double total(const struct sample_candidate *c, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)c[i].logit;
    return sum;
}

/* The shortest run of candidates that holds a share `p` of the whole. */
static int keep_share(const struct sample_candidate *c, int n, double sum, float p)
{
    double so_far = 0;
    for (int i = 0; i < n; i++)
        if ((so_far += (double)c[i].logit) >= (double)p * sum) return i + 1;
    return n;
}

/* Locally typical sampling (arXiv 2202.00666): those whose surprise is nearest the entropy, up to a share p; the
 * survivors stay in order of weight. */
static int keep_typical(struct sample_candidate *c, int n, double sum, float p)
{
    double entropy = 0;
    for (int i = 0; i < n; i++) {
        double q = (double)c[i].logit / sum;
        if (q > 0) entropy -= q * log(q);
    }
    /* Surprise grows along the list: those nearest the entropy are a window, grown from its nearest end. */
    int from = 0;
    while (from < n - 1 && fabs(-log((double)c[from + 1].logit / sum) - entropy) < fabs(-log((double)c[from].logit / sum) - entropy))
        from++;
    int to = from + 1;
    double so_far = (double)c[from].logit;
    while (so_far < (double)p * sum && (from > 0 || to < n)) {
        double below = from > 0 ? fabs(-log((double)c[from - 1].logit / sum) - entropy) : INFINITY;
        double above = to < n && c[to].logit > 0 ? fabs(-log((double)c[to].logit / sum) - entropy) : INFINITY;
        if (isinf(below) && isinf(above)) break;
        so_far += (double)(below <= above ? c[--from].logit : c[to++].logit);
    }
    memmove(c, c + from, (size_t)(to - from) * sizeof *c);
    return to - from;
}

static int32_t draw(const struct sample_candidate *c, int n, double u)
{
    double sum = total(c, n), so_far = 0;
    for (int i = 0; i < n; i++)
        if ((so_far += (double)c[i].logit) > u * sum) return c[i].id;
    return c[n - 1].id;
}

int32_t sample(struct sampler *s, const struct sample_input *in)
{
    const struct engine_sampling *h = in->how;
    const float *logits = in->logits;
    int best = in->best;
    if (in->mask || changes(h)) {
        logits = change(s, in);
        best = highest(logits, s->vocabulary);
    }
    if (greedy(h) || !isfinite(logits[best])) return best;
    /* What is 30 temperatures below the best is never drawn; min-p only raises that floor. */
    float depth = h->min_p > 0 ? fminf(30, -logf(fminf(h->min_p, 1))) : 30;
    bool typical = h->typical_p > 0 && h->typical_p < 1, share = h->top_p < 1;
    struct sample_candidate *c = s->candidates;
    int n = gather(s, logits, logits[best] - (typical || share ? 30 : depth) * h->temperature, h->top_k);
    if (typical || share) qsort(c, (size_t)n, sizeof *c, by_logit);
    double sum = weigh(c, n, logits[best], h->temperature);
    if (typical) n = keep_typical(c, n, sum, h->typical_p);
    if (share) n = keep_share(c, n, total(c, n), h->top_p);
    if (typical || share)
        while (n > 1 && c[n - 1].logit < expf(-depth)) n--;
    return draw(c, n, sample_uniform(h->seed, (uint64_t)in->choice, (uint64_t)in->index));
}

void sample_top(const float *logits, int vocabulary, float logsum, struct engine_alternative *out, int count)
{
    int n = 0;
    for (int i = 0; i < vocabulary; i++) {
        if (n == count && (count == 0 || !(logits[i] > out[n - 1].logprob))) continue;
        int at = n < count ? n++ : n - 1;
        for (; at > 0 && logits[i] > out[at - 1].logprob; at--) out[at] = out[at - 1];
        out[at] = (struct engine_alternative){i, logits[i]};
    }
    for (int i = 0; i < n; i++) out[i].logprob -= logsum;
}
