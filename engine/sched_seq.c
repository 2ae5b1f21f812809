#include "engine/sched_seq.h"

#include "base/clock.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static enum err_code check_ids(const int32_t *ids, int count, const char *what, int vocabulary, struct err *e)
{
    if (count < 0 || (count > 0 && !ids)) return err_set_param(e, ERR_INVALID, what, "%s has %d tokens", what, count);
    for (int i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= vocabulary)
            return err_set_param(e, ERR_INVALID, what, "token %d of the %s is %d; the model has ids 0 to %d", i, what, ids[i],
                                 vocabulary - 1);
    return ERR_OK;
}

static enum err_code check_sampling(const struct engine_sampling *s, struct err *e)
{
    const float *numbers[] = {&s->temperature, &s->top_p, &s->min_p, &s->typical_p, &s->repeat_penalty, &s->presence_penalty,
                              &s->frequency_penalty};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (!isfinite(*numbers[i])) return err_set(e, ERR_INVALID, "a sampling parameter is not a number");
    if (s->temperature < 0)
        return err_set_param(e, ERR_INVALID, "temperature", "temperature is %g; it must be 0 or above", (double)s->temperature);
    if (s->bias_count < 0 || s->bias_count > 4096 || (s->bias_count && !s->bias))
        return err_set_param(e, ERR_INVALID, "logit_bias", "%d biases; at most 4096 are taken", s->bias_count);
    return ERR_OK;
}

static enum err_code check(const struct engine_request *r, int context, int vocabulary, struct err *e)
{
    enum err_code code = check_ids(r->prompt, r->prompt_count, "prompt", vocabulary, e);
    if (!code) code = check_ids(r->prefix, r->prefix_count, "prefix", vocabulary, e);
    if (!code) code = check_sampling(&r->sampling, e);
    if (code) return code;
    if (r->prompt_count < 1) return err_set_param(e, ERR_INVALID, "prompt", "the prompt is empty; it needs one token at least");
    if (r->top_logprobs < 0 || r->top_logprobs > 20)
        return err_set_param(e, ERR_INVALID, "top_logprobs", "top_logprobs is %d; 0 to 20 are told", r->top_logprobs);
    if (r->prompt_count >= context || r->prefix_count >= context - r->prompt_count)
        return err_set_param(e, ERR_CONTEXT, "messages",
                             "the prompt has %d tokens and the answer so far %d; the context holds %d, one of them new",
                             r->prompt_count, r->prefix_count, context);
    return ERR_OK;
}

static enum err_code take_memory(struct seq *s, const struct engine_request *r, int page_tokens, struct err *e)
{
    size_t biases = (size_t)r->sampling.bias_count * sizeof *r->sampling.bias;
    struct engine_bias *bias = malloc(biases + 1);
    s->sampling.bias = bias;
    s->tokens = malloc((size_t)s->tokens_max * sizeof *s->tokens);
    s->pages_max = (s->tokens_max + page_tokens - 1) / page_tokens;
    s->pages = malloc((size_t)s->pages_max * sizeof *s->pages);
    if (!bias || !s->tokens || !s->pages) return err_set(e, ERR_MEMORY, "no memory for a request of %d tokens", s->tokens_max);
    if (biases) memcpy(bias, r->sampling.bias, biases);
    memcpy(s->tokens, r->prompt, (size_t)r->prompt_count * sizeof *s->tokens);
    if (r->prefix_count) memcpy(s->tokens + r->prompt_count, r->prefix, (size_t)r->prefix_count * sizeof *s->tokens);
    return ERR_OK;
}

enum err_code seq_new(struct seq **out, uint64_t id, const struct engine_request *r, const struct engine_sink *sink, int context,
                      int page_tokens, int vocabulary, struct err *e)
{
    enum err_code code = check(r, context, vocabulary, e);
    if (code) return code;
    struct seq *s = calloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_MEMORY, "no memory for a request");
    int room = context - r->prompt_count;
    *s = (struct seq){.id = id, .sink = *sink, .sampling = r->sampling, .user = r->user, .choice = r->choice,
                      .top_logprobs = r->top_logprobs, .ignore_eos = r->ignore_eos, .want_hidden = r->want_hidden,
                      .prompt_count = r->prompt_count, .count = r->prompt_count + r->prefix_count, .told = r->prefix_count,
                      .submitted_us = clock_mono_us()};
    s->sampling.bias = NULL;
    s->tokens_max = r->prompt_count + (r->max_tokens > 0 && r->max_tokens < room ? r->max_tokens : room);
    if (s->tokens_max < s->count) s->tokens_max = s->count;
    if (r->constraint) s->constraint = *r->constraint;
    code = text_init(&s->text, r->stop, r->stop_count, e);
    if (!code) code = take_memory(s, r, page_tokens, e);
    if (!code) code = draft_init(&s->draft, s->tokens_max, e);
    if (code) {
        seq_free(s);
        return code;
    }
    *out = s;
    return ERR_OK;
}

void seq_free(struct seq *s)
{
    if (!s) return;
    text_release(&s->text);
    draft_release(&s->draft);
    free(s->ahead.pages);
    free((void *)(uintptr_t)s->sampling.bias);
    free(s->tokens);
    free(s->pages);
    free(s);
}
