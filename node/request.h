/* What the files of the request path share (request*.c); nobody else includes this. */
#ifndef RUNG_NODE_REQUEST_H
#define RUNG_NODE_REQUEST_H

#include "node/node.h"

#include "base/buf.h"

enum { TRIED_MAX = 16, HELD_BYTES_MAX = 4 << 20, TENANTS_MAX = 4096, CONVERSATIONS_MAX = 4096, SPARES_MAX = 128,
       CORE_BUCKETS = 8 /* easy prompts need fewer tokens of core than hard ones */ };

enum request_step { STEP_CLASSIFY, STEP_DECIDE, STEP_DISPATCH, STEP_WAIT, STEP_RUN, STEP_END };

/* One try of one backend. */
struct call {
    struct request *request;
    struct backend *backend;
    uint64_t id;
    int64_t start_us, first_us, last_us; /* 0: not yet */
    enum tier tier;
    char model[LOG_WORD], backend_name[LOG_WORD];
    char identity[128];
    struct policy_price price;
    int completion_tokens, prompt_tokens; /* seen so far */
    bool continues_text; /* another model goes on from the text: its indices start again */
    bool started, has_ids;
};

/* One of the n answers, as far as it has come. */
struct choice {
    int32_t *tokens; /* (token_count): ids so far, of request.tokens_identity */
    int token_count, token_cap;
    struct buf content, reasoning;
    int64_t next_index;
    bool finished;
    char finish[16];
};

/* A token event kept back; everything it points to lies behind it in the same block. */
struct held {
    struct held *next;
    struct msg_token token;
    size_t bytes;
};

struct request {
    uint64_t handle;
    struct request *hash_next, *wait_next, *all_next, **all_prev;
    struct node *node;
    enum request_step step;
    struct msg_submit *submit;
    struct sink sink;
    char front[16];
    struct arena arena;
    int64_t start_us, wall_ms, deadline_us; /* deadline 0: none */
    struct loop_timer step_timer, watch_timer, deadline_timer, hold_timer;
    int choices_count;
    struct choice *choices; /* (choices_count) */
    /* classify, decide */
    struct policy policy;       /* it came in under */
    struct router_input input;
    struct router_scores scores;
    struct decision decision;   /* the first */
    enum tier tier;             /* now */
    enum reason reason;         /* now */
    const char *model_name;     /* asked for by name; NULL: any */
    enum tier floor;            /* no lower tier is asked: the node's own, or one above an unsure one */
    bool decided, degraded, escalated, failed_over;
    bool narrow;                /* decide among tiers that have a backend for this very request */
    int narrowed_at;            /* tried_count when that was last done */
    double classify_us, probe_p; /* probe_p < 0: not asked */
    bool traced;                /* trace holds what the router saw of the text */
    /* run */
    struct call call;           /* the one that runs; id 0: none */
    struct backend *tried[TRIED_MAX];
    int tried_count;
    int hop_count;
    int remote_hop_count;
    char tokens_identity[128];  /* of every token in choices; "" while none or mixed */
    bool tokens_mixed;
    int prefix_tokens;          /* generated before the running call, when it goes on from text */
    /* hold and show */
    bool holding, shown;        /* shown: the sink has had on_start */
    struct held *held, **held_end;
    size_t held_bytes;
    double entropy_sum, entropy_max, margin_min, logprob_sum, varentropy_sum;
    int certain_tokens;
    float *hidden;              /* (embedding), of the edge model; NULL */
    int embedding;
    int64_t first_shown_us;
    char first_model[LOG_WORD], first_backend[LOG_WORD];
    enum tier first_tier;
    int64_t prompt_tokens, cached_tokens, reasoning_tokens;
    double price_usd, queue_ms;
    struct msg_error last_error; /* strings in the arena */
    int64_t retry_after_ms;
    /* Last, since a new request need not clear them: their counts say how many hold something. */
    struct log_hop hops[MSG_HOPS_MAX];
    struct msg_hop remote_hops[MSG_HOPS_MAX]; /* as told by the last peer; strings in the arena */
    struct router_trace trace;
};

struct idempotency;
struct request_table {
    struct idempotency *keys;
    struct request **buckets;   /* (bucket_count), by handle */
    int bucket_count, count;
    struct request *all;
    struct request *wait_first, **wait_end;
    int waiting;
    uint64_t last_handle;
    uint64_t stepping;          /* the request whose steps are being taken; 0: none */
    bool step_again;            /* it wants the next one */
    struct request *spare;      /* ended ones, at most SPARES_MAX, for the next: they are large */
    int spares;
    struct loop_timer wake_timer;
    unsigned char random[256];  /* for seeds: the kernel is asked once for many */
    int random_left;
    double ended_per_s;         /* running mean */
    int64_t last_end_us;
    double core_output_tokens[CORE_BUCKETS]; /* running means of what core says, by p[edge]; 0 until heard */
    struct {
        char name[LOG_WORD];
        enum tier tier;
        uint64_t used;
    } *conversations;           /* (CONVERSATIONS_MAX), direct-mapped by hash */
    struct {
        char name[LOG_WORD];
        int64_t day;
        double usd;
    } *tenants;                 /* (TENANTS_MAX), direct-mapped by hash */
};

/* request.c: the steps */
uint64_t request_begin(struct node *node, struct msg_submit *submit, const struct sink *sink, const char *front); /* whatever its key */
void request_step_soon(struct request *r, enum request_step step);
void request_fail(struct request *r, enum err_code code, const char *format, ...) __attribute__((format(printf, 3, 4)));
void request_finish(struct request *r, const struct msg_done *done);
void request_choices_reset(struct request *r); /* to what the submit brought along */
static inline bool request_goes_on(const struct request *r) /* some of the answer was told already */
{
    return r->shown || r->submit->prefix_count > 0;
}
/* request_call.c: one call from submit to its end */
void request_run(struct request *r);
void request_call_stop(struct request *r, const char *outcome, const char *error);
void request_escalate(struct request *r, enum reason reason, bool over);
void request_call_failed(struct request *r, const struct msg_error *error);
/* request_hold.c: what is kept back, and whether it is good enough to be shown */
void request_hold_begin(struct request *r);
bool request_hold_token(struct request *r, const struct msg_token *token); /* true: kept */
bool request_hold_prefill(struct request *r, const struct sink_prefill *prefill); /* true: escalated */
bool request_hold_done(struct request *r); /* true: escalated */
void request_hold_release(struct request *r);
void request_hold_clear(struct request *r);
bool request_json_good(const struct request *r); /* JSON was not asked for, or every choice parses */
void request_show_start(struct request *r);
/* request_log.c */
void request_log(struct request *r, enum err_code code, const char *error, const struct msg_done *done);
double *request_core_tokens(const struct request *r);
double request_core_price(const struct request *r, int64_t completion_tokens);
/* shadow.c: after an answer of the edge's */
void shadow_offer(struct request *r);
/* request_table.c: budgets and conversations */
double tenant_budget_left(struct request_table *table, const struct policy *policy, const char *tenant, int64_t wall_ms);
void tenant_spent(struct request_table *table, const char *tenant, int64_t wall_ms, double usd);
enum tier conversation_tier(const struct request_table *table, const char *conversation);
void conversation_note(struct request_table *table, const char *conversation, enum tier tier);
struct request *request_find(const struct request_table *table, uint64_t handle);

#endif
