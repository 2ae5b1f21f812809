/* Private to node/config*.c: the rows of the key table, and the steps from text to a loaded configuration.
 *
 *   file --config_yaml_read()--> entries (path, value, line) --config.c--> struct config --config_check.c--> checked
 *   environment, KEY=VALUE ---------------------------------------^
 *
 * A row is a key of the file, a flag and an environment variable at once; its offset says where the value lies.
 */
#ifndef RUNG_NODE_CONFIG_KEYS_H
#define RUNG_NODE_CONFIG_KEYS_H

#include "node/config.h"

#include <stddef.h>

enum key_type {
    KEY_TEXT,   /* char *; "" and null read as NULL */
    KEY_WORD,   /* char *, one of `choices` */
    KEY_INT,    /* int */
    KEY_INT64,  /* int64_t */
    KEY_OCTAL,  /* int: a file mode */
    KEY_REAL,   /* double */
    KEY_BOOL,   /* bool; `choices` may name its two words, false first */
    KEY_CHOICE, /* an enum counting from 0, one of `choices` */
    KEY_LIST,   /* struct config_list of texts */
};
struct config_key {
    const char *name;      /* dotted; in the backends' table without "backends.N." */
    enum key_type type;
    size_t offset;         /* into struct config, or struct config_backend */
    const char *unit;      /* of a number: "ms", "bytes" …; NULL: a count or share */
    double min, max;       /* of numbers; of text: max is its longest length in bytes */
    const char *choices;   /* "a|b|c" */
    const char *def;       /* as text; NULL: none (text), or policy_defaults()' (policy.*) */
    const char *def_of[4]; /* where a tier's (or a backend type's) default differs */
    unsigned concerns;     /* bits 1 << tier; in the backends' table 1 << type */
    bool state;            /* a path that is joined to node.state_dir when relative */
    const char *shown;     /* what the reference shows where the default is made at start; NULL: the value */
    const char *help;      /* one sentence */
};
extern const struct config_key CONFIG_KEYS[];
extern const int CONFIG_KEYS_COUNT;
extern const struct config_key CONFIG_BACKEND_KEYS[];
extern const int CONFIG_BACKEND_KEYS_COUNT;
/* Sections of the file in order: the first word of their keys and one sentence. */
struct config_section {
    const char *name, *help;
};
extern const struct config_section CONFIG_SECTIONS[];
extern const int CONFIG_SECTIONS_COUNT;

/* The row of a name, or NULL. */
const struct config_key *config_key_find(const struct config_key *keys, int count, const char *name);
/* The valid key a wrong one most likely meant, or NULL when none is near. */
const char *config_key_nearest(const struct config_key *keys, int count, const char *name);
const char *config_key_default(const struct config_key *key, int which);

/* ---- values (config_value.c) ---- */
enum { CONFIG_WANT_MAX = 160 };
/* Set from text; lists add one item. ERR_INVALID: `key` does not take it (config_key_want() says what it takes). */
ERR_CHECKED enum err_code config_value_set(const struct config_key *key, void *base, const char *text);
void config_value_clear(const struct config_key *key, void *base); /* frees and zeroes */
bool config_value_is_set(const struct config_key *key, const void *base); /* false: NULL text, empty list */
const char *config_key_want(const struct config_key *key, char out[CONFIG_WANT_MAX]);
/* The value as YAML that reads back the same. */
void config_value_print(FILE *out, const struct config_key *key, const void *base);

/* ---- YAML (config_yaml.c) ---- */
enum entry_kind { ENTRY_SCALAR, ENTRY_NULL, ENTRY_MAP, ENTRY_LIST };
struct config_entry {
    char *path;  /* "http.unix.path", "backends.0.url", "http.origins.1" */
    char *value; /* scalars; else NULL */
    enum entry_kind kind;
    int line;
};
struct config_entries {
    struct config_entry *items;
    int count, cap;
};
enum { CONFIG_BYTES_MAX = 1 << 20, CONFIG_DEPTH_MAX = 8, CONFIG_ENTRIES_MAX = 4096, CONFIG_PATH_MAX = 256,
       CONFIG_TEXT_MAX = 65536 };
/* One YAML document, flattened in file order. Anchors, aliases, tags, a second document, keys that are not words and
 * doubled keys are refused. Errors: ERR_SYNTAX ("file:line: …"), ERR_TOO_LARGE, ERR_MEMORY. */
ERR_CHECKED enum err_code config_yaml_read(struct config_entries *out, const char *file, const char *text, size_t len,
                                           struct err *e);
void config_entries_release(struct config_entries *entries);

/* ---- loading (config.c) ---- */
struct config_loader {
    struct config *config;
    const char *file;
    FILE *out;         /* every problem goes here, a line each; may be NULL */
    struct err *first; /* the first one; may be NULL */
    enum err_code code;
    int problems;
    bool look;         /* also at the files and folders that it names */
    const struct config_entries *entries;
    int backend_line[CONFIG_BACKENDS_MAX];
    bool backend_typeless[CONFIG_BACKENDS_MAX]; /* its type is missing or wrong, so that the rest cannot be judged */
};
/* Note one problem; line 0 means that it is not the file's. */
void config_problem(struct config_loader *loader, int line, enum err_code code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* The same where a node would start all the same: it fails nothing. */
void config_warning(struct config_loader *loader, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The line a key was given on, or 0. */
int config_line(const struct config_loader *loader, const char *path);
/* Defaults of a tier without what is made at start (node.id). NULL: out of memory. */
struct config *config_base(enum tier tier);
/* Defaults of one backend of a type. */
ERR_CHECKED enum err_code config_backend_defaults(struct config_backend *backend, enum config_backend_type type);

/* ---- what keys must say together (config_rules.c) ---- */
void config_rules(struct config_loader *loader);

/* ---- whether what it names is there (config_paths.c); for config_check() ---- */
void config_paths(struct config_loader *loader);

/* From text in memory, for the fuzzer and the tests: as config_load, `file` only names it in errors. */
ERR_CHECKED enum err_code config_parse(struct config **out, enum tier tier, const char *file, const char *text, size_t len,
                                       struct err *e);

#endif
