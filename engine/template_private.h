/* What the chat template interpreter's files share. Private to engine/template*.c.
 *
 * source → template_lex.c → tokens → template_parse.c → nodes → template.c (statements) and template_eval.c
 * (expressions), with template_value.c (values as Python has them) and template_builtin.c (filters, tests, methods).
 * Memory comes from arenas: one with the parsed template, one with each render. */
#ifndef RUNG_ENGINE_TEMPLATE_PRIVATE_H
#define RUNG_ENGINE_TEMPLATE_PRIVATE_H

#include "base/arena.h"
#include "engine/template.h"

enum {
    TEMPLATE_SOURCE_MAX = 1 << 20,
    TEMPLATE_PARSE_BYTES = 64 << 20,   /* arena of a parsed template */
    TEMPLATE_RENDER_BYTES = 64 << 20, /* arena of a render */
    TEMPLATE_DEPTH_MAX = 600,          /* nested evaluations, macro calls included */
    TEMPLATE_NEST_MAX = 100,           /* nested expressions and blocks of a source */
    TEMPLATE_STEPS_MAX = 50000000,     /* nodes evaluated, elements looked at, 16 bytes copied */
    TEMPLATE_ARGS_MAX = 16
};

/* ---- values, as Python has them ---- */

enum value_type {
    V_UNDEFINED, V_NONE, V_BOOL, V_INT, V_FLOAT, V_STRING, V_LIST, V_DICT, V_NAMESPACE, V_LOOP, V_MACRO, V_FUNCTION
};

struct node;
struct text {
    const char *data;
    size_t len;
};
struct value {
    enum value_type type;
    union {
        bool boolean;
        int64_t integer;
        double real;
        struct text text;
        struct list *list;
        struct dict *dict; /* also of a namespace */
        struct loop *loop;
        struct macro *macro;
        const char *function; /* a function's or method's name */
    };
};
struct list {
    struct value *items;
    size_t count, cap;
    bool tuple;
};
struct entry {
    struct value key, value;
};
struct dict { /* in the order of insertion */
    struct entry *entries;
    size_t count, cap;
};
struct loop { /* what `loop` is inside a for */
    const struct list *items;
    size_t index;
    int depth;
};
struct variable {
    struct text name;
    struct value value;
    struct variable *next;
};
struct scope {
    struct scope *parent;
    struct variable *variables;
};
struct macro {
    const struct node *node;
    struct scope *scope; /* where it was defined */
};

/* ---- tokens ---- */

enum token_type {
    T_DATA, T_VARIABLE_BEGIN, T_VARIABLE_END, T_BLOCK_BEGIN, T_BLOCK_END, T_NAME, T_STRING, T_INT, T_FLOAT, T_OPERATOR, T_EOF
};
struct token {
    enum token_type type;
    int line;
    struct text text; /* the data, the name, the string's value, the number, the operator */
};
/* All of a source's tokens, closed by T_EOF, from `a`. */
ERR_CHECKED enum err_code template_lex(struct arena *a, const char *source, size_t len, struct token **out,
                                       struct err *e);

/* ---- nodes ---- */

enum node_kind {
    /* statements */
    N_DATA, N_OUTPUT, N_IF, N_FOR, N_SET, N_SET_BLOCK, N_MACRO, N_BREAK, N_CONTINUE, N_SCOPE, N_FILTER_BLOCK,
    /* expressions */
    N_CONST, N_NAME, N_LIST, N_TUPLE, N_DICT, N_ATTRIBUTE, N_ITEM, N_SLICE, N_CALL, N_FILTER, N_TEST, N_NOT, N_NEGATE,
    N_PLUS, N_BINARY, N_AND, N_OR, N_COMPARE, N_OPERAND, N_CONDITION, N_CONCAT, N_KEYWORD
};
enum operator {
    O_ADD, O_SUBTRACT, O_MULTIPLY, O_DIVIDE, O_FLOOR, O_MODULO, O_POWER, O_EQUAL, O_NOT_EQUAL, O_LESS, O_LESS_EQUAL,
    O_GREATER, O_GREATER_EQUAL, O_IN, O_NOT_IN
};
/*  kind          a          b          c          d          other (first, second: see below)
 *  N_DATA        -          -          -          -          value: the text
 *  N_OUTPUT      expression
 *  N_IF          condition  body       else body
 *  N_FOR         target     sequence   body       else body  test: condition
 *  N_SET         target     expression
 *  N_SET_BLOCK   target     body       filters (N_FILTER with a NULL innermost operand)
 *  N_MACRO       parameters body                             name
 *  N_SCOPE       sets       body
 *  N_FILTER_BLOCK filters   body
 *  N_ATTRIBUTE   object                                      name
 *  N_ITEM        object     index
 *  N_SLICE       start      stop       step
 *  N_CALL        function   arguments
 *  N_FILTER      operand    arguments                        name
 *  N_TEST        operand    arguments                        name
 *  N_COMPARE     left       operands (N_OPERAND: op, a)
 *  N_CONDITION   then       condition  else
 *  N_KEYWORD     value                                       name
 *  N_LIST, N_TUPLE, N_CONCAT: a is the first element; N_DICT: a is the first key, each key's a its value's node */
struct node {
    enum node_kind kind;
    enum operator op;
    int line;
    struct node *next; /* in a list of statements, elements or arguments */
    struct node *a, *b, *c, *d, *test;
    struct text name;
    struct value value;
};
ERR_CHECKED enum err_code template_parse_tokens(struct arena *a, const struct token *tokens, struct node **out,
                                                struct err *e);

/* ---- a render ---- */

struct render {
    struct arena arena;
    struct err *e;
    enum err_code code; /* the first failure; everything stops on it */
    int64_t steps;
    int depth, line, loops;
    struct scope *scope;
    struct buf *out;
};
/* Fail at the current line, unless it failed already. */
void render_fail(struct render *r, enum err_code code, const char *format, ...) __attribute__((format(printf, 3, 4)));
bool render_step(struct render *r, size_t steps); /* false: over the limit, or failed before */
bool render_deeper(struct render *r);                 /* one level down; take it back from r->depth, whatever it says */
void *render_alloc(struct render *r, size_t count, size_t size); /* NULL: failed, and says so */

/* ---- values ---- */

#define TEXT(literal) ((struct text){(literal), sizeof(literal) - 1})
static inline struct value value_none(void)
{
    return (struct value){.type = V_NONE};
}
static inline struct value value_bool(bool b)
{
    return (struct value){.type = V_BOOL, .boolean = b};
}
static inline struct value value_int(int64_t i)
{
    return (struct value){.type = V_INT, .integer = i};
}
static inline struct value value_float(double f)
{
    return (struct value){.type = V_FLOAT, .real = f};
}
static inline struct value value_text(struct text t)
{
    return (struct value){.type = V_STRING, .text = t};
}
static inline struct value value_undefined(void)
{
    return (struct value){.type = V_UNDEFINED};
}
bool text_is(struct text t, const char *word);
bool text_equal(struct text a, struct text b);
struct value value_copy_text(struct render *r, const char *data, size_t len);
struct value value_string(struct render *r, const char *closed); /* not copied */
struct value list_new(struct render *r, size_t cap, bool tuple);
void list_add(struct render *r, struct value list, struct value item);
struct value dict_new(struct render *r);
void dict_set(struct render *r, struct value dict, struct value key, struct value value);
void dict_set_name(struct render *r, struct value dict, const char *name, struct value value);
const struct value *dict_find(struct render *r, struct value dict, struct value key); /* NULL: none */
const struct value *dict_find_text(struct render *r, struct value dict, struct text key);

bool value_true(struct value v);
bool value_equal(struct render *r, struct value a, struct value b);
int value_order(struct render *r, struct value a, struct value b); /* fails where Python would */
bool value_is_number(struct value v);                              /* int, float or bool */
double value_real(struct value v);
const char *value_type_name(struct value v);
int text_order(struct text a, struct text b);
void text_write_float(double f, struct buf *out); /* as Python writes it */
struct value take_text(struct render *r, struct buf *b); /* a scratch buffer's bytes; releases it */
/* str() and repr() appended to a buffer; text of a value as a string */
void value_write(struct render *r, struct value v, bool repr, struct buf *out);
struct text value_str(struct render *r, struct value v);
/* json.dumps(v, ensure_ascii=False); indent < 0: on one line */
void value_write_json(struct render *r, struct value v, int indent, bool sorted, struct buf *out);
/* A JSON text into a value; ERR_INVALID that says where. `what` names it in the error. */
struct value value_read_json(struct render *r, const char *what, const char *text, size_t len);
/* The elements of anything that can be iterated over; a failure and NULL where it cannot. */
struct list *value_iterate(struct render *r, struct value v);
size_t text_length(struct text t); /* in code points */
struct value text_index(struct render *r, struct text t, int64_t index);
struct value value_slice(struct render *r, struct value v, const struct value bounds[3]);
struct value value_item(struct render *r, struct value object, struct value index);
struct value value_attribute(struct render *r, struct value object, struct text name);

/* ---- expressions and built-ins ---- */

struct arguments {
    struct value values[TEMPLATE_ARGS_MAX]; /* the first `count` by place, the others by name */
    struct text names[TEMPLATE_ARGS_MAX];
    int count, total;
};
/* The argument at a place or of a name; undefined where it was not given. */
struct value argument(const struct arguments *args, int place, const char *name);

/* An argument of a kind; the other value where it was not given. argument_text fails where it is no string. */
struct text argument_text(struct render *r, const struct arguments *args, int place, const char *name, const char *otherwise);
int64_t argument_int(const struct arguments *args, int place, const char *name, int64_t otherwise);
bool argument_true(const struct arguments *args, int place, const char *name);
struct value builtin_fail(struct render *r, const char *what, struct value v); /* "WHAT of a TYPE" */
int64_t builtin_whole(struct render *r, struct value v);                        /* an integer or boolean, else fails */
struct buf builtin_scratch(void);

enum { LEFT = 1, RIGHT = 2 };
/* str.strip() of white space (set.data NULL) or of any of a set's characters, on these sides */
struct text text_strip(struct text t, struct text set, int sides);
struct text text_strip_set(struct render *r, const struct arguments *args);
enum letter_case { UPPER, LOWER, TITLE, CAPITAL, JINJA_TITLE };
struct value text_change_case(struct render *r, struct text t, enum letter_case want);
struct value text_replace(struct render *r, struct text t, struct text from, struct text to, int64_t most);
size_t text_find_from(struct text t, size_t at, struct text what); /* byte offset; SIZE_MAX: none */
struct value list_join(struct render *r, struct value v, struct text separator, struct value attribute);
struct value dict_parts(struct render *r, struct value v, bool keys, bool values); /* a list; of pairs where both */
/* A mapping from another (first argument) and from arguments by name. */
struct value dict_from(struct render *r, const struct arguments *args, enum value_type type);

struct value template_eval(struct render *r, const struct node *node);
struct value template_call_macro(struct render *r, const struct macro *macro, const struct arguments *args);
void template_run(struct render *r, const struct node *body, bool *broke, bool *continued);
struct value template_capture(struct render *r, const struct node *body);
void scope_set(struct render *r, struct scope *scope, struct text name, struct value value);
void template_assign(struct render *r, const struct node *target, struct value value);

struct value template_filter(struct render *r, struct text name, struct value v, const struct arguments *args);
bool template_test(struct render *r, struct text name, struct value v, const struct arguments *args);
struct value template_function(struct render *r, struct text name, const struct arguments *args);
/* A method call; where the object has no such method, fails. */
struct value template_method(struct render *r, struct value object, struct text name, const struct arguments *args);
bool dict_method_known(struct text name);

#endif
