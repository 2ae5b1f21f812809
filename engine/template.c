#include "engine/template_private.h"
#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Statements, and the variables that chat templates are given (as Hugging Face's apply_chat_template gives them). */

struct template {
    struct arena arena;
    struct node *body;
};

enum err_code template_parse(struct template **out, const char *source, size_t len, struct err *e)
{
    struct template *t = calloc(1, sizeof *t);
    struct token *tokens = NULL;
    if (!t) return err_set(e, ERR_MEMORY, "no memory for a chat template");
    arena_init(&t->arena, TEMPLATE_PARSE_BYTES);
    enum err_code code = template_lex(&t->arena, source, len, &tokens, e);
    if (!code) code = template_parse_tokens(&t->arena, tokens, &t->body, e);
    if (code) {
        template_free(t);
        return code;
    }
    *out = t;
    return ERR_OK;
}

void template_free(struct template *t)
{
    if (!t) return;
    arena_release(&t->arena);
    free(t);
}

/* ---- scopes ---- */

void scope_set(struct render *r, struct scope *scope, struct text name, struct value value)
{
    for (struct variable *v = scope->variables; v; v = v->next)
        if (text_equal(v->name, name)) {
            v->value = value;
            return;
        }
    struct variable *v = render_alloc(r, 1, sizeof *v);
    if (!v) return;
    *v = (struct variable){name, value, scope->variables};
    scope->variables = v;
}

static struct scope *scope_push(struct render *r)
{
    struct scope *s = render_alloc(r, 1, sizeof *s); /* on the arena: a macro defined inside keeps it */
    if (!s) return NULL;
    s->parent = r->scope;
    r->scope = s;
    return s;
}

void template_assign(struct render *r, const struct node *target, struct value value)
{
    if (r->code) return;
    if (target->kind == N_NAME) {
        scope_set(r, r->scope, target->name, value);
    } else if (target->kind == N_TUPLE) {
        struct list *list = value_iterate(r, value);
        size_t i = 0;
        for (const struct node *part = target->a; part && list; part = part->next, i++)
            if (i < list->count) template_assign(r, part, list->items[i]);
        if (list && i != list->count)
            render_fail(r, ERR_INVALID, "%zu values for %zu names", list->count, i);
    } else {
        struct value object = template_eval(r, target->a);
        if (!r->code && object.type != V_NAMESPACE)
            render_fail(r, ERR_INVALID, "only a namespace's attributes can be set, not a %s's", value_type_name(object));
        else if (!r->code)
            dict_set(r, object, value_text(target->name), value);
    }
}

/* ---- statements ---- */

/* Run into a text of its own. */
struct value template_capture(struct render *r, const struct node *body)
{
    struct buf text, *outer = r->out;
    bool broke = false, continued = false;
    buf_init(&text, TEMPLATE_RENDER_BYTES / 4);
    r->out = &text;
    template_run(r, body, &broke, &continued);
    r->out = outer;
    if (!buf_ok(&text)) render_fail(r, text.failed, "a text of more than %zu bytes", text.max);
    struct value v = r->code ? value_undefined() : value_copy_text(r, text.data, text.len);
    buf_release(&text);
    return v;
}

static void output(struct render *r, struct value v)
{
    if (r->code) return;
    if (v.type == V_STRING && !render_step(r, v.text.len / 16)) return;
    value_write(r, v, false, r->out);
    if (!buf_ok(r->out)) render_fail(r, r->out->failed, "the prompt is longer than %zu bytes", r->out->max);
}

/* Those of the sequence that the loop's own condition lets through. */
static struct list *loop_items(struct render *r, const struct node *n)
{
    struct list *all = value_iterate(r, template_eval(r, n->b));
    if (!all || !n->test || r->code) return r->code ? NULL : all;
    struct value kept = list_new(r, all->count, false);
    struct scope *outer = r->scope;
    for (size_t i = 0; i < all->count && !r->code; i++) {
        if (!scope_push(r)) break;
        template_assign(r, n->a, all->items[i]);
        if (value_true(template_eval(r, n->test))) list_add(r, kept, all->items[i]);
        r->scope = outer;
    }
    r->scope = outer;
    return r->code ? NULL : kept.list;
}

static void run_for(struct render *r, const struct node *n, bool *outer_broke, bool *outer_continued)
{
    struct list *items = loop_items(r, n);
    struct loop *loop = items ? render_alloc(r, 1, sizeof *loop) : NULL;
    struct scope *outer = r->scope;
    if (!loop) return;
    if (items->count == 0) {
        template_run(r, n->d, outer_broke, outer_continued);
        return;
    }
    bool broke = false, continued = false;
    r->loops++;
    for (size_t i = 0; i < items->count && !broke && render_step(r, 1); i++) {
        if (!scope_push(r)) break;
        *loop = (struct loop){items, i, r->loops};
        scope_set(r, r->scope, TEXT("loop"), (struct value){.type = V_LOOP, .loop = loop});
        template_assign(r, n->a, items->items[i]);
        continued = false;
        template_run(r, n->c, &broke, &continued);
        r->scope = outer;
    }
    r->scope = outer;
    r->loops--;
}

static void run_macro(struct render *r, const struct node *n)
{
    struct macro *macro = render_alloc(r, 1, sizeof *macro);
    if (!macro) return;
    *macro = (struct macro){n, r->scope};
    scope_set(r, r->scope, n->name, (struct value){.type = V_MACRO, .macro = macro});
}

struct value template_call_macro(struct render *r, const struct macro *macro, const struct arguments *args)
{
    struct scope *outer = r->scope;
    int place = 0, loops = r->loops;
    r->scope = macro->scope;
    r->loops = 0;
    if (!scope_push(r)) return value_undefined();
    const struct node *parameter = macro->node->a;
    for (; parameter && !r->code; parameter = parameter->next, place++) {
        char name[64];
        (void)snprintf(name, sizeof name, "%.*s", (int)parameter->name.len, parameter->name.data);
        struct value v = argument(args, place, name);
        if (v.type == V_UNDEFINED && parameter->a) v = template_eval(r, parameter->a);
        scope_set(r, r->scope, parameter->name, v);
    }
    if (args->count > place) render_fail(r, ERR_INVALID, "a macro of %d parameters is given %d", place, args->count);
    struct value v = template_capture(r, macro->node->b);
    r->scope = outer;
    r->loops = loops;
    return v;
}

/* The filters of {% set x | f %} and {% filter f %}: the innermost has no operand of its own. */
static struct value bare_filters(struct render *r, const struct node *n, struct value v)
{
    if (!n || r->code) return v;
    struct arguments args = {.count = 0};
    struct node list = {.kind = N_LIST, .a = n->b, .line = n->line};
    v = bare_filters(r, n->a, v);
    for (const struct node *a = list.a; a && !r->code; a = a->next) {
        if (a->kind == N_KEYWORD) render_fail(r, ERR_UNSUPPORTED, "named arguments of a block's filter");
        args.values[args.total] = template_eval(r, a);
        args.count = ++args.total;
    }
    return r->code ? v : template_filter(r, n->name, v, &args);
}

static void run_scope(struct render *r, const struct node *n, bool *broke, bool *continued)
{
    struct scope *outer = r->scope;
    bool own = n->a != NULL;
    if (own && !scope_push(r)) return;
    for (const struct node *set = n->a; set && !r->code; set = set->next) template_assign(r, set->a, template_eval(r, set->b));
    template_run(r, n->b, broke, continued);
    r->scope = outer;
}

static void run_one(struct render *r, const struct node *n, bool *broke, bool *continued)
{
    switch (n->kind) {
    case N_DATA: output(r, n->value); break;
    case N_OUTPUT: output(r, template_eval(r, n->a)); break;
    case N_IF: template_run(r, value_true(template_eval(r, n->a)) ? n->b : n->c, broke, continued); break;
    case N_FOR: run_for(r, n, broke, continued); break;
    case N_SET: template_assign(r, n->a, template_eval(r, n->b)); break;
    case N_SET_BLOCK: template_assign(r, n->a, bare_filters(r, n->c, template_capture(r, n->b))); break;
    case N_FILTER_BLOCK: output(r, bare_filters(r, n->a, template_capture(r, n->b))); break;
    case N_MACRO: run_macro(r, n); break;
    case N_SCOPE: run_scope(r, n, broke, continued); break;
    case N_BREAK: *broke = true; break;
    case N_CONTINUE: *continued = true; break;
    default: break;
    }
}

void template_run(struct render *r, const struct node *body, bool *broke, bool *continued)
{
    if (++r->depth > TEMPLATE_DEPTH_MAX) render_fail(r, ERR_TOO_LARGE, "nested more than %d deep", TEMPLATE_DEPTH_MAX);
    for (const struct node *n = body; n && !*broke && !*continued && render_step(r, 1); n = n->next) {
        r->line = n->line;
        run_one(r, n, broke, continued);
    }
    r->depth--;
}

/* ---- what a chat template is given ---- */

/* OpenAI sends a call's arguments as a string of JSON; templates expect the object. */
static void open_arguments(struct render *r, struct value calls)
{
    struct list *list = calls.type == V_LIST ? calls.list : NULL;
    for (size_t i = 0; list && i < list->count && !r->code; i++) {
        struct value call = list->items[i];
        const struct value *function = call.type == V_DICT ? dict_find_text(r, call, TEXT("function")) : NULL;
        if (function && function->type == V_DICT) call = *function;
        const struct value *arguments = call.type == V_DICT ? dict_find_text(r, call, TEXT("arguments")) : NULL;
        if (!arguments || arguments->type != V_STRING || !arguments->text.len || arguments->text.data[0] != '{') continue;
        struct err ignored, *e = r->e; /* what is no JSON stays a string */
        r->e = &ignored;
        struct value object = value_read_json(r, "arguments", arguments->text.data, arguments->text.len);
        r->e = e;
        if (r->code == ERR_INVALID) r->code = ERR_OK;
        else if (!r->code) dict_set_name(r, call, "arguments", object);
        else r->code = err_set(e, r->code, "%s", ignored.msg);
    }
}

static struct value message_value(struct render *r, const struct engine_message *m)
{
    struct value out = dict_new(r);
    if (r->code) return out;
    bool calls = m->tool_calls_json && *m->tool_calls_json, empty = !m->content || (calls && !*m->content);
    dict_set_name(r, out, "role", value_string(r, m->role ? m->role : ""));
    dict_set_name(r, out, "content", empty ? value_none() : value_string(r, m->content));
    if (m->reasoning) dict_set_name(r, out, "reasoning_content", value_string(r, m->reasoning));
    if (m->name) dict_set_name(r, out, "name", value_string(r, m->name));
    if (m->tool_call_id) dict_set_name(r, out, "tool_call_id", value_string(r, m->tool_call_id));
    if (calls) {
        struct value list = value_read_json(r, "tool_calls", m->tool_calls_json, strlen(m->tool_calls_json));
        open_arguments(r, list);
        dict_set_name(r, out, "tool_calls", list);
    }
    return out;
}

static void set_global(struct render *r, const char *name, struct value value)
{
    if (!r->code) scope_set(r, r->scope, (struct text){name, strlen(name)}, value);
}

/* The caller's own variables, before the others: those win. */
static void set_variables(struct render *r, const char *json)
{
    if (!json || !*json) return;
    struct value given = value_read_json(r, "chat_template_kwargs", json, strlen(json));
    if (!r->code && given.type != V_DICT) render_fail(r, ERR_INVALID, "chat_template_kwargs must be an object");
    for (size_t i = 0; !r->code && i < given.dict->count; i++)
        scope_set(r, r->scope, given.dict->entries[i].key.text, given.dict->entries[i].value);
}

static void set_globals(struct render *r, const struct engine_message *messages, int count, const char *tools_json,
                        bool add_generation_prompt, const char *bos, const char *eos)
{
    struct value list = list_new(r, count > 0 ? (size_t)count : 1, false);
    for (int i = 0; i < count && !r->code; i++) list_add(r, list, message_value(r, &messages[i]));
    struct value tools = value_none();
    if (tools_json && *tools_json) tools = value_read_json(r, "tools", tools_json, strlen(tools_json));
    set_global(r, "messages", list);
    set_global(r, "tools", tools);
    set_global(r, "documents", value_none());
    set_global(r, "add_generation_prompt", value_bool(add_generation_prompt));
    set_global(r, "bos_token", value_string(r, bos ? bos : ""));
    set_global(r, "eos_token", value_string(r, eos ? eos : ""));
    static const char *const FUNCTIONS[] = {"raise_exception", "strftime_now", "range", "namespace", "dict"};
    for (size_t i = 0; i < sizeof FUNCTIONS / sizeof FUNCTIONS[0]; i++)
        set_global(r, FUNCTIONS[i], (struct value){.type = V_FUNCTION, .function = FUNCTIONS[i]});
}

enum err_code template_render(const struct template *t, const struct engine_message *messages, int count,
                              const char *tools_json, const char *variables_json, bool add_generation_prompt, const char *bos,
                              const char *eos, struct buf *out, struct err *e)
{
    struct scope root = {0}, top = {.parent = &root};
    struct render r = {.e = e, .scope = &root, .out = out, .line = 1};
    bool broke = false, continued = false;
    arena_init(&r.arena, TEMPLATE_RENDER_BYTES);
    set_variables(&r, variables_json);
    set_globals(&r, messages, count, tools_json, add_generation_prompt, bos, eos);
    r.scope = &top;
    if (!r.code) template_run(&r, t->body, &broke, &continued);
    arena_release(&r.arena);
    return r.code;
}
