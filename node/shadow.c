/* Shadow runs: a share of what the edge has answered is answered by a higher tier too, off the request path and unseen,
 * and whether the two agree becomes a label. While the higher tiers are out of reach, runs wait in a bounded queue: they
 * are evidence, never answers to be given later.
 *
 * Agreement is judged on the visible text: the same JSON value; else the same words (case, spaces and closing
 * punctuation apart); else the same last number where both have one and neither is long.
 */
#include "node/request.h"

#include "base/clock.h"

#include <ctype.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { QUEUE_MAX = 64, RUNNING_MAX = 2, ANSWER_MAX = 65536, RETRY_MS = 1000 };

struct shadow {
    struct shadow *next;
    struct shadows *owner;
    struct msg_submit *submit; /* NULL while it runs */
    char request[LOG_ID];
    char *answer;              /* the edge's */
    struct buf other;          /* the higher tier's */
};
struct shadows {
    struct node *node;
    struct loop_timer timer;
    struct shadow *queue, **queue_end;
    int queued, running;
    bool closed;
};

/* ---- do they agree? ---- */

static void squeeze(const char *text, struct buf *out)
{
    bool space = false;
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (isspace(c)) {
            space = out->len > 0;
            continue;
        }
        if (space) buf_addc(out, ' ');
        space = false;
        buf_addc(out, (char)(c < 0x80 ? tolower(c) : c));
    }
    while (out->len && strchr(".!,;", out->data[out->len - 1])) out->data[--out->len] = 0;
}

static bool same_json(const char *a, const char *b)
{
    json_t *x = json_loads(a, 0, NULL), *y = json_loads(b, 0, NULL);
    bool same = x && y && json_equal(x, y);
    json_decref(x);
    json_decref(y);
    return same;
}

static bool last_number(const char *text, double *out)
{
    bool found = false;
    for (const char *p = text; *p;) {
        char *end = NULL;
        bool begins = isdigit((unsigned char)*p) && (p == text || !isalnum((unsigned char)p[-1]));
        double value = begins ? strtod(p, &end) : 0;
        if (begins && end > p) {
            *out = p > text && p[-1] == '-' ? -value : value;
            found = true;
            p = end;
        } else {
            p++;
        }
    }
    return found;
}

bool shadow_agrees(const char *a, const char *b)
{
    if (same_json(a, b)) return true;
    struct buf x = BUF_INIT(ANSWER_MAX), y = BUF_INIT(ANSWER_MAX);
    squeeze(a, &x);
    squeeze(b, &y);
    bool same = buf_ok(&x) && buf_ok(&y) && strcmp(x.data, y.data) == 0;
    bool brief = x.len < 200 && y.len < 200;
    buf_release(&x);
    buf_release(&y);
    double p, q;
    if (same || !brief || a[0] == '{' || b[0] == '{') return same;
    return last_number(a, &p) && last_number(b, &q) && fabs(p - q) <= 1e-9 * fmax(1, fabs(p));
}

/* ---- one run ---- */

static void shadow_free(struct shadow *s)
{
    if (s->submit) {
        msg_submit_release(s->submit);
        free(s->submit);
    }
    buf_release(&s->other);
    free(s->answer);
    free(s);
}

static void look(void *ctx);

static void shadow_over(struct shadow *s)
{
    struct shadows *all = s->owner;
    all->running--;
    shadow_free(s);
    if (!all->closed) loop_timer_start(all->node->loop, &all->timer, 0, look, all);
}

static void on_start(void *ctx, const struct msg_start *start)
{
    (void)ctx;
    (void)start;
}

static void on_token(void *ctx, const struct msg_token *token)
{
    struct shadow *s = ctx;
    if (token->choice == 0 && token->channel == CHANNEL_CONTENT) buf_add(&s->other, token->text, token->text_len);
}

static void on_done(void *ctx, const struct msg_done *done)
{
    struct shadow *s = ctx;
    struct log_label label = {.source = "shadow", .wall_ms = clock_wall_ms(), .tier = TIER_EDGE};
    if (buf_ok(&s->other) && done->tier > TIER_EDGE && s->owner->node->log) {
        label.value = shadow_agrees(s->answer, s->other.data) ? 1 : 0;
        (void)snprintf(label.request, sizeof label.request, "%s", s->request);
        (void)snprintf(label.note, sizeof label.note, "%s", tier_name(done->tier));
        (void)log_label_add(s->owner->node->log, &label);
    }
    shadow_over(s);
}

static void on_error(void *ctx, const struct msg_error *error)
{
    (void)error;
    shadow_over(ctx);
}

static void begin(struct shadow *s)
{
    const struct sink sink = {s, on_start, NULL, on_token, on_done, on_error};
    struct msg_submit *submit = s->submit;
    s->submit = NULL;
    s->owner->running++;
    if (request_submit(s->owner->node, submit, &sink, "shadow") == 0) shadow_over(s);
}

/* ---- the queue ---- */

static enum tier highest_there(const struct node *node)
{
    struct tier_state state[TIERS];
    node_tier_states(node, state);
    for (int t = TIERS - 1; t > TIER_EDGE; t--)
        if (state[t].available) return (enum tier)t;
    return TIER_NONE;
}

static void look(void *ctx)
{
    struct shadows *all = ctx;
    struct node *node = all->node;
    bool busy = request_count(node) > node->config->requests_max / 2; /* clients first */
    enum tier tier = highest_there(node);
    while (all->queue && all->running < RUNNING_MAX && tier != TIER_NONE && !busy) {
        struct shadow *s = all->queue;
        all->queue = s->next;
        if (!all->queue) all->queue_end = &all->queue;
        all->queued--;
        s->submit->forced = tier;
        begin(s);
    }
    if (all->queue) loop_timer_start(node->loop, &all->timer, RETRY_MS, look, all);
}

static struct msg_submit *submit_copy(const struct msg_submit *from)
{
    struct buf bytes = BUF_INIT(MSG_BYTES_MAX);
    struct msg copy;
    struct msg_submit *out = NULL;
    if (msg_encode(MSG_SUBMIT, from, &bytes, NULL) == ERR_OK && msg_decode(&copy, bytes.data, bytes.len, NULL) == ERR_OK) {
        out = malloc(sizeof *out);
        if (out) *out = copy.body.submit; /* moves: the arena goes along */
        else msg_release(&copy);
    }
    buf_release(&bytes);
    return out;
}

void shadow_offer(struct request *r)
{
    struct shadows *all = r->node->shadows;
    const struct msg_submit *s = r->submit;
    bool mine = strcmp(r->front, "shadow") == 0;
    if (!all || mine || r->policy.shadow <= 0 || r->first_tier != TIER_EDGE || r->degraded || r->choices_count != 1) return;
    if (s->device_private || r->policy.private_default || s->max_tier == TIER_EDGE || all->queued >= QUEUE_MAX) return;
    if (node_dice(s->id, 0x736861646f77) >= r->policy.shadow) return;
    struct shadow *sh = calloc(1, sizeof *sh);
    if (!sh) return;
    buf_init(&sh->other, ANSWER_MAX);
    sh->owner = all;
    sh->answer = strdup(r->choices[0].content.data);
    sh->submit = submit_copy(s);
    if (!sh->answer || !sh->submit) {
        shadow_free(sh);
        return;
    }
    (void)snprintf(sh->request, sizeof sh->request, "%s", s->id);
    char id[LOG_ID];
    (void)snprintf(id, sizeof id, "%.30s-shadow", s->id);
    sh->submit->id = arena_strdup(&sh->submit->arena, id);
    sh->submit->model = "auto";
    sh->submit->stream = false;
    sh->submit->deadline_ms = 0;
    sh->submit->tier = TIER_NONE;
    sh->submit->conversation = NULL;
    sh->submit->idempotency = NULL; /* or it would be told the edge's own answer */
    *all->queue_end = sh;
    all->queue_end = &sh->next;
    all->queued++;
    loop_timer_start(r->node->loop, &all->timer, 0, look, all);
}

enum err_code shadows_new(struct node *node, struct err *e)
{
    struct shadows *all = calloc(1, sizeof *all);
    if (!all) return err_set(e, ERR_MEMORY, "no memory for the shadow runs");
    all->node = node;
    all->queue_end = &all->queue;
    node->shadows = all;
    return ERR_OK;
}

void shadows_free(struct node *node)
{
    struct shadows *all = node->shadows;
    if (!all) return;
    loop_timer_stop(node->loop, &all->timer);
    for (struct shadow *s = all->queue, *next; s; s = next) {
        next = s->next;
        shadow_free(s);
    }
    free(all);
    node->shadows = NULL;
}

void shadows_close(struct node *node)
{
    if (!node->shadows) return;
    node->shadows->closed = true;
    loop_timer_stop(node->loop, &node->shadows->timer);
}
