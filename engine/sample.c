#include "engine/sample.h"
#include "engine/sample_order.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Nothing lighter, beside the likeliest, is drawn: e^-30. */
static const float LIGHTEST = 9.3576e-14f;
/* How far a list's sum may lie from the sum over all candidates in their order: its own error, what is lighter than the
 * lightest (150,000 × e^-30 = 1.4e-8), and room for the roundings of running sums (1e-11). */
static const double SLACK = 1e-6;

enum err_code sampler_init(struct sampler *s, int vocabulary, struct err *e)
{
    size_t n = (size_t)vocabulary;
    *s = (struct sampler){.vocabulary = vocabulary,
                          .logits = malloc(n * sizeof *s->logits),
                          .candidates = malloc((n + LOGIT_LIST_MAX) * sizeof *s->candidates),
                          .sorted = malloc(n * sizeof *s->sorted),
                          .seen = calloc(n, sizeof *s->seen),
                          .place = calloc(n, sizeof *s->place)};
    if (s->logits && s->candidates && s->sorted && s->seen && s->place) return ERR_OK;
    sampler_release(s);
    return err_set(e, ERR_MEMORY, "no memory to sample from %d tokens", vocabulary);
}

void sampler_release(struct sampler *s)
{
    free(s->logits);
    free(s->candidates);
    free(s->sorted);
    free(s->seen);
    free(s->place);
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

float sample_inverse(const struct engine_sampling *how)
{
    return how->temperature > 1e-6f ? how->temperature < 1e6f ? 1 / how->temperature : 1e-6f : 1e6f;
}

/* ---- what changes logits ---- */

static int window_start(const struct sample_input *in)
{
    int window = in->how->penalty_window > 0 ? in->how->penalty_window : 64;
    return in->count > window ? in->count - window : 0;
}

/* Repetition counts in the last tokens of all, presence and frequency among the generated ones of them. */
static void penalize(struct sampler *s, const struct sample_input *in, bool generated)
{
    const struct engine_sampling *h = in->how;
    int first = window_start(in);
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

static bool repeats(const struct engine_sampling *h)
{
    return h->repeat_penalty != 1 && h->repeat_penalty > 0;
}

/* Looks at the logits of touched tokens alone. */
static void change_touched(struct sampler *s, const struct sample_input *in)
{
    const struct engine_sampling *h = in->how;
    for (int i = 0; i < h->bias_count; i++)
        if (h->bias[i].id >= 0 && h->bias[i].id < s->vocabulary) s->logits[h->bias[i].id] += h->bias[i].bias;
    if (repeats(h)) penalize(s, in, false);
    if (h->presence_penalty != 0 || h->frequency_penalty != 0) penalize(s, in, true);
}

static bool allows(const uint32_t *mask, int id)
{
    return !mask || (mask[id / 32] >> (id % 32) & 1);
}

static const float *change(struct sampler *s, const struct sample_input *in)
{
    memcpy(s->logits, in->logits, (size_t)s->vocabulary * sizeof *s->logits);
    change_touched(s, in);
    for (int i = 0; in->mask && i < s->vocabulary; i++)
        if (!allows(in->mask, i)) s->logits[i] = -INFINITY;
    return s->logits;
}

/* ---- weights ---- */

static float weight_of(float logit, float most, float inverse)
{
    return expf((logit - most) * inverse);
}

/* From here a candidate's logit is its weight, not yet normalized. */
static void weigh(struct logit_at *c, int n, float inverse)
{
    float most = c[0].logit;
    for (int i = 0; i < n; i++) c[i].logit = weight_of(c[i].logit, most, inverse);
}

static double total(const struct logit_at *c, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)c[i].logit;
    return sum;
}

/* ---- what is kept, and the draw ---- */

/* The shortest run of candidates that holds a share `p` of the whole; `otherwise` where they do not. */
static int keep_share(const struct logit_at *c, int n, double sum, float p, int otherwise)
{
    double so_far = 0;
    for (int i = 0; i < n; i++)
        if ((so_far += (double)c[i].logit) >= (double)p * sum) return i + 1;
    return otherwise;
}

/* Locally typical sampling (arXiv 2202.00666): those whose surprise is nearest the entropy, up to a share p; the
 * survivors stay in order of weight. */
static int keep_typical(struct logit_at *c, int n, double sum, float p)
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

/* Candidates in order, as weights, and what is known of all. */
struct known {
    const struct logit_at *c;
    int n, light; /* light: where those begin that are too light; n + 1: not among these */
    bool all;     /* there are no others */
    double u;
    const struct engine_sampling *how;
};

/* Where in the list the draw falls if all weigh `sum`; -1: beyond it. Both grow with `sum`, so that what lies between two sums falls
 * between their draws. `most`: whether the largest or the least that the kept may weigh is wanted where their end is not in the list. */
static int draw(const struct known *k, double sum, bool most)
{
    const struct logit_at *c = k->c;
    int n = k->n, end = k->all ? n : n + 1;
    bool share = k->how->top_p < 1;
    if (share) end = keep_share(c, n, sum, k->how->top_p, end);
    if (k->light < end) end = k->light;
    double kept = total(c, end < n ? end : n), so_far = 0;
    if (end > n && most) kept = share ? fmin(sum, (double)k->how->top_p * sum + (double)c[n - 1].logit) : sum;
    else if (end > n && !(k->how->min_p > LIGHTEST)) kept = fmax(kept, share ? (double)k->how->top_p * sum : sum);
    for (int i = 0; i < n && i < end; i++)
        if ((so_far += (double)c[i].logit) > k->u * kept) return i;
    return end > n ? -1 : end - 1;
}

/* The token, from the first n candidates (all: there are no others) and bounds of the sum of all; -1: these do not suffice. */
static int32_t finish(const struct sample_input *in, struct logit_at *c, int n, bool all, double low, double high)
{
    const struct engine_sampling *h = in->how;
    if (h->top_k > 0 && h->top_k <= n) n = h->top_k, all = true;
    double held = total(c, n);
    if (all) low = high = held;
    low = h->top_k > 0 ? held : fmax(low, held);
    high = fmax(high, held);
    if (!(high < INFINITY)) return -1;
    if (h->typical_p > 0 && h->typical_p < 1) {
        if (!all) return -1;
        n = keep_typical(c, n, held, h->typical_p);
        low = high = total(c, n);
    }
    float least = fmaxf(fminf(h->min_p, 1), LIGHTEST);
    int light = n;
    while (light > 1 && c[light - 1].logit < least) light--;
    struct known k = {.c = c, .n = n, .light = light == n ? n + 1 : light, .all = all, .how = h,
                      .u = sample_uniform(h->seed, (uint64_t)in->choice, (uint64_t)in->index)};
    int at = draw(&k, low, false);
    return at >= 0 && (all || draw(&k, high, true) == at) ? c[at].id : -1;
}

/* ---- from a whole row ---- */

/* Whether nothing outside the first k matters. */
static bool within(const struct engine_sampling *h, int k)
{
    return h->top_k > 0 && h->top_k <= k;
}

static bool typical(const struct engine_sampling *h)
{
    return h->typical_p > 0 && h->typical_p < 1;
}

void sample_make_list(struct sampler *s, const float *logits, float inverse, int count, struct logit_list *out)
{
    out->unused = 0;
    out->count = order_first(logits, s->vocabulary, s->sorted, out->top, count);
    out->sum = inverse > 0 && out->count ? order_sum(logits, s->vocabulary, out->top[0].logit, inverse) : 0;
}

bool sample_list_helps(const struct engine_sampling *how)
{
    return greedy(how) || !typical(how) || within(how, LOGIT_LIST_MAX);
}

/* From all candidates, with bounds of their sum (high 0: none); weighed only as far as it takes. */
static int32_t sample_all(struct sampler *s, const struct sample_input *in, const float *logits, float most, double low, double high)
{
    const struct engine_sampling *h = in->how;
    struct logit_at *c;
    float inverse = sample_inverse(h), depth = 30.5f;
    if (!typical(h) && h->top_k <= 0 && !(h->top_p < 1) && h->min_p > 0) depth = fminf(depth, 0.5f - logf(fminf(h->min_p, 1)));
    int n = order_all(logits, s->vocabulary, most - depth / inverse, s->candidates, s->sorted, &c), weighed = 0;
    for (int part = 2048;; part *= 4) {
        bool all = part >= n || high == 0;
        for (int end = all ? n : part; weighed < end; weighed++) c[weighed].logit = weight_of(c[weighed].logit, most, inverse);
        while (all && n > 1 && c[n - 1].logit < LIGHTEST) n--;
        int32_t id = finish(in, c, all ? n : part, all, low, high);
        if (all || id >= 0) return id;
    }
}

static bool uncut(const struct engine_sampling *h)
{
    return h->top_k <= 0 && !typical(h) && !(h->top_p < 1) && !(h->min_p > LIGHTEST);
}

/* Nothing is cut: the first, which are weighed, then the others by id. */
static int32_t sample_uncut(struct sampler *s, const struct sample_input *in, const float *logits, float most, const struct logit_list *first)
{
    const struct engine_sampling *h = in->how;
    float inverse = sample_inverse(h);
    double *sums = (double *)(void *)s->sorted, held = total(first->top, first->count), so_far = 0;
    if (logits != s->logits) memcpy(s->logits, logits, (size_t)s->vocabulary * sizeof *logits);
    for (int i = 0; i < first->count; i++) s->logits[first->top[i].id] = -INFINITY;
    double rest = order_sums(s->logits, s->vocabulary, most, inverse, sums);
    double target = sample_uniform(h->seed, (uint64_t)in->choice, (uint64_t)in->index) * (held + rest);
    for (int i = 0; i < first->count; i++)
        if ((so_far += (double)first->top[i].logit) > target) return first->top[i].id;
    int id = order_find(s->logits, s->vocabulary, most, inverse, sums, target - held, LIGHTEST);
    return id >= 0 ? id : first->top[first->count - 1].id;
}

int32_t sample(struct sampler *s, const struct sample_input *in)
{
    const struct engine_sampling *h = in->how;
    const float *logits = in->mask || changes(h) ? change(s, in) : in->logits;
    if (greedy(h)) return order_highest(logits, s->vocabulary);
    float inverse = sample_inverse(h);
    struct logit_list list;
    bool helps = sample_list_helps(h);
    if (in->list && logits == in->logits) list = *in->list;
    else sample_make_list(s, logits, 0, helps ? LOGIT_LIST_MAX : 1, &list);
    if (list.count == 0) return 0;
    struct logit_at best = list.top[0];
    if (!isfinite(best.logit)) return best.id;
    if (!helps) return sample_all(s, in, logits, best.logit, 0, 0);
    weigh(list.top, list.count, inverse);
    double rest = (double)(s->vocabulary - list.count) * (double)list.top[list.count - 1].logit; /* what the others weigh at most */
    bool all = list.count < LOGIT_LIST_MAX;
    int32_t id = finish(in, list.top, list.count, all, 0, (total(list.top, list.count) + rest) * (1 + SLACK));
    if (id >= 0) return id;
    if (uncut(h) && !all) return sample_uncut(s, in, logits, best.logit, &list);
    /* With min_p alone what is kept ends behind the list, and no sum tells where. */
    if (h->min_p > 0 && !(h->top_p < 1)) return sample_all(s, in, logits, best.logit, 0, 0);
    double sum = order_sum(logits, s->vocabulary, best.logit, inverse), low = sum * (1 - SLACK), high = sum * (1 + SLACK);
    id = finish(in, list.top, list.count, all, low, high);
    return id >= 0 ? id : sample_all(s, in, logits, best.logit, low, high);
}

/* ---- from the top of a row ---- */

/* Bias and penalties never raise a logit. */
static bool only_lowers(const struct engine_sampling *h)
{
    for (int i = 0; i < h->bias_count; i++)
        if (h->bias[i].bias > 0) return false;
    return (!repeats(h) || h->repeat_penalty > 1) && h->presence_penalty >= 0 && h->frequency_penalty >= 0;
}

/* Calls f for each token that bias and penalties touch; some come more than once. */
static void each_touched(struct sampler *s, const struct sample_input *in, void (*f)(struct sampler *s, int32_t id, void *ctx), void *ctx)
{
    const struct engine_sampling *h = in->how;
    for (int i = 0; i < h->bias_count; i++)
        if (h->bias[i].id >= 0 && h->bias[i].id < s->vocabulary) f(s, h->bias[i].id, ctx);
    if (!repeats(h) && h->presence_penalty == 0 && h->frequency_penalty == 0) return;
    int first = window_start(in);
    if (!repeats(h) && first < in->prompt_count) first = in->prompt_count;
    for (int i = first; i < in->count; i++) f(s, in->tokens[i], ctx);
}

enum { PLACE_ELSEWHERE, PLACE_LISTED, PLACE_OUTSIDE };

/* A list under change: what is in it, and what is known of the others, as the sum of their weights. */
struct changing {
    struct logit_at *c, edge; /* edge: the list's last before; the others are behind it */
    int n;
    float inverse;
    bool all; /* there are no others */
    bool lowers, lost; /* lost: one of the others may stand before the edge now */
    double low, high;
};

/* As high as it can be. */
static void touch_outside(struct sampler *s, int32_t id, void *ctx)
{
    const struct changing *g = ctx;
    if (s->place[id] != PLACE_ELSEWHERE) return;
    s->place[id] = PLACE_OUTSIDE;
    s->logits[id] = g->edge.logit;
}

/* Changes keep the order of what a token's logit may be: had it been the edge's, it would be this now. */
static void judge_outside(struct sampler *s, int32_t id, void *ctx)
{
    struct changing *g = ctx;
    if (s->place[id] != PLACE_OUTSIDE) return;
    s->place[id] = PLACE_ELSEWHERE;
    if (g->all) return; /* it is -∞ or no number */
    if (!(s->logits[id] < g->edge.logit)) g->lost = true;
    if (g->n == 0 || g->lost) return;
    g->low -= (double)weight_of(g->edge.logit, g->c[0].logit, g->inverse);
    if (!g->lowers) g->high += (double)weight_of(s->logits[id], g->c[0].logit, g->inverse);
}

static int allowed_by(const uint32_t *mask, int vocabulary)
{
    int n = 0;
    for (int i = 0; i < vocabulary; i += 32)
        n += __builtin_popcount(vocabulary - i < 32 ? mask[i / 32] & ((1u << (vocabulary - i)) - 1) : mask[i / 32]);
    return n;
}

static void sort_nearly_sorted(struct logit_at *c, int n)
{
    for (int i = 1; i < n; i++) {
        struct logit_at x = c[i];
        int at = i;
        for (; at > 0 && order_before(&x, &c[at - 1]); at--) c[at] = c[at - 1];
        c[at] = x;
    }
}

/* Changes and masks a list. Those that now stand behind its edge join the others, and all sums are beside the new highest. */
static void change_list(struct sampler *s, const struct sample_input *in, struct changing *g)
{
    struct logit_at *behind = s->sorted;
    float most = g->c[0].logit;
    int left = 0, fell = 0;
    for (int i = 0; i < g->n; i++) {
        s->place[g->c[i].id] = PLACE_LISTED;
        s->logits[g->c[i].id] = g->c[i].logit;
    }
    each_touched(s, in, touch_outside, g);
    change_touched(s, in);
    for (int i = 0; i < g->n; i++) {
        struct logit_at x = {s->logits[g->c[i].id], g->c[i].id};
        s->place[x.id] = PLACE_ELSEWHERE;
        if (!allows(in->mask, x.id)) continue;
        if (g->all || !order_before(&g->edge, &x)) g->c[left++] = x;
        else behind[fell++] = x;
    }
    g->n = left;
    sort_nearly_sorted(g->c, left);
    if (left && g->c[0].logit != most) {
        /* The roundings of both products, each up to 30 × 2^-23, and what was too light before. */
        double scale = exp(((double)most - (double)g->c[0].logit) * (double)g->inverse);
        g->low = g->low * scale * (1 - 1e-5) - s->vocabulary * 1e-13;
        g->high *= scale * (1 + 1e-5);
    }
    each_touched(s, in, judge_outside, g);
    if (left == 0) return;
    if (in->mask) {
        int others = allowed_by(in->mask, s->vocabulary) - left - fell;
        g->low = 0;
        g->high = fmin(g->high, (double)others * (double)weight_of(g->edge.logit, g->c[0].logit, g->inverse));
        if (others == 0 && fell == 0) g->all = true;
    }
    g->low = fmax(g->low, 0);
    for (int i = 0; i < fell; i++) {
        double w = (double)weight_of(behind[i].logit, g->c[0].logit, g->inverse);
        g->low += w;
        g->high += w;
    }
}

/* Where nothing is cut, candidates are weighed only up to the one that the draw falls on, whatever the sum is within its bounds; -1: that
 * does not decide. */
static int32_t draw_early(const struct sample_input *in, const struct logit_list *list, float inverse)
{
    double u = sample_uniform(in->how->seed, (uint64_t)in->choice, (uint64_t)in->index), so_far = 0;
    for (int i = 0; i < list->count; i++) {
        float w = weight_of(list->top[i].logit, list->top[0].logit, inverse);
        if (!(w >= LIGHTEST)) return -1;
        so_far += (double)w;
        if (so_far > u * list->sum * (1 - SLACK)) return so_far > u * list->sum * (1 + SLACK) ? list->top[i].id : -1;
    }
    return -1;
}

int32_t sample_list(struct sampler *s, const struct sample_input *in, const struct logit_list *list)
{
    const struct engine_sampling *h = in->how;
    struct changing g = {.c = s->candidates, .n = list->count, .inverse = sample_inverse(h), .all = list->count < LOGIT_LIST_MAX,
                         .lowers = only_lowers(h)};
    if (g.n < 1 || !isfinite(list->top[0].logit) || !sample_list_helps(h)) return -1;
    bool plain = !in->mask && !changes(h);
    if (plain && greedy(h)) return list->top[0].id;
    if (plain && uncut(h)) {
        int32_t id = draw_early(in, list, g.inverse);
        if (id >= 0) return id;
    }
    memcpy(g.c, list->top, (size_t)g.n * sizeof *g.c);
    if (plain) {
        weigh(g.c, g.n, g.inverse);
        return finish(in, g.c, g.n, g.all, list->sum * (1 - SLACK), list->sum * (1 + SLACK));
    }
    g.edge = g.c[g.n - 1];
    if (!greedy(h) && !g.all) {
        double held = 0;
        for (int i = 0; i < g.n; i++) held += (double)weight_of(g.c[i].logit, g.c[0].logit, g.inverse);
        g.low = fmax(list->sum * (1 - SLACK) - held, 0);
        g.high = list->sum * (1 + SLACK) - held;
    }
    change_list(s, in, &g);
    if (g.lost || g.n == 0 || !isfinite(g.c[0].logit)) return -1;
    if (greedy(h)) return g.c[0].id;
    if (!(g.high < INFINITY)) return -1;
    weigh(g.c, g.n, g.inverse);
    double held = total(g.c, g.n);
    return finish(in, g.c, g.n, g.all, held + g.low, held + g.high);
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

void sample_top_of(const struct logit_list *list, float logsum, struct engine_alternative *out, int count)
{
    for (int i = 0; i < count && i < list->count; i++) out[i] = (struct engine_alternative){list->top[i].id, list->top[i].logit - logsum};
}
