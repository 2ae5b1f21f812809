#include "cli/cli.h"

#include <stdio.h>
#include <string.h>

static const char HELP[] =
    "usage: rung completion bash|zsh|fish\n"
    "\n"
    "Prints a completion script for the shell, made from the table of commands. To use it:\n"
    "\n"
    "  bash   rung completion bash > /etc/bash_completion.d/rung       or: source <(rung completion bash)\n"
    "  zsh    rung completion zsh > \"${fpath[1]}/_rung\"                or: source <(rung completion zsh)\n"
    "  fish   rung completion fish > ~/.config/fish/completions/rung.fish\n";

/*  command    its options ('=' after those that take a value), and its fixed words */
static const struct {
    const char *command, *options, *words;
} ROWS[] = {
    {"ask", "--socket= --url= --key-file= --json --why --model= --max-tier= --private --deadline-ms= --system= "
            "--max-tokens= --temperature= --seed= --help", ""},
    {"chat", "--socket= --url= --key-file= --model= --private --system= --help", ""},
    {"status", "--socket= --url= --key-file= --json --help", ""},
    {"models", "--socket= --url= --key-file= --json --verify --help", ""},
    {"check", "--tier= --help", ""},
    {"config", "--tier= --effective= --markdown --help", ""},
    {"edge", "--config= --help", ""},
    {"region", "--config= --help", ""},
    {"core", "--config= --help", ""},
    {"worker", "--config= --tier= --help", ""},
    {"completion", "--help", "bash zsh fish"},
};

static int row_of(const char *command)
{
    for (size_t i = 0; i < sizeof ROWS / sizeof ROWS[0]; i++)
        if (strcmp(ROWS[i].command, command) == 0) return (int)i;
    return -1;
}

/* The options of a command without their '='; every command has --help. */
static void print_options(const char *command)
{
    int row = row_of(command);
    for (const char *p = row < 0 ? "--help" : ROWS[row].options; *p; p++)
        if (*p != '=') (void)putchar(*p);
    if (row >= 0 && *ROWS[row].words) (void)printf(" %s", ROWS[row].words);
}

static void print_names(void)
{
    for (int i = 0; i < CLI_COMMANDS_COUNT; i++) (void)printf("%s%s", i ? " " : "", CLI_COMMANDS[i].name);
}

/* A ' would end the quoted word in all three shells. */
static void print_help_text(const char *help)
{
    for (const char *p = help; *p; p++) (void)fputs(*p == '\'' ? "’" : (const char[2]){*p, 0}, stdout);
}

static void print_bash(void)
{
    (void)fputs("# bash completion for rung\n"
                "_rung() {\n"
                "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words\n"
                "    case $prev in\n"
                "    --tier|--max-tier) COMPREPLY=($(compgen -W 'edge region core' -- \"$cur\")); return ;;\n"
                "    --model) COMPREPLY=($(compgen -W 'auto edge region core' -- \"$cur\")); return ;;\n"
                "    esac\n"
                "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
                "        COMPREPLY=($(compgen -W '",
                stdout);
    print_names();
    (void)fputs("' -- \"$cur\")); return\n    fi\n    case ${COMP_WORDS[1]} in\n", stdout);
    for (int i = 0; i < CLI_COMMANDS_COUNT; i++) {
        (void)printf("    %s) words='", CLI_COMMANDS[i].name);
        print_options(CLI_COMMANDS[i].name);
        (void)fputs("' ;;\n", stdout);
    }
    (void)fputs("    esac\n"
                "    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
                "    [[ $cur == -* ]] || COMPREPLY+=($(compgen -f -- \"$cur\"))\n"
                "}\n"
                "complete -o filenames -F _rung rung\n",
                stdout);
}

static void print_zsh(void)
{
    (void)fputs("#compdef rung\n_rung() {\n    local -a commands\n    commands=(\n", stdout);
    for (int i = 0; i < CLI_COMMANDS_COUNT; i++) {
        (void)printf("        '%s:", CLI_COMMANDS[i].name);
        print_help_text(CLI_COMMANDS[i].help);
        (void)fputs("'\n", stdout);
    }
    (void)fputs("    )\n    if (( CURRENT == 2 )); then _describe command commands; return; fi\n"
                "    case ${words[CURRENT-1]} in\n"
                "    --tier|--max-tier) compadd edge region core; return ;;\n"
                "    --model) compadd auto edge region core; return ;;\n"
                "    esac\n    case ${words[2]} in\n",
                stdout);
    for (int i = 0; i < CLI_COMMANDS_COUNT; i++) {
        (void)printf("    %s) compadd -- ", CLI_COMMANDS[i].name);
        print_options(CLI_COMMANDS[i].name);
        (void)fputs(" ;;\n", stdout);
    }
    (void)fputs("    esac\n    _files\n}\n(( $+functions[compdef] )) && compdef _rung rung\n", stdout);
}

/* What an option takes, in fish's words. */
static const char *fish_value(const char *option, size_t len)
{
    if (option[len - 1] != '=') return "";
    if (strncmp(option, "--tier=", len) == 0 || strncmp(option, "--max-tier=", len) == 0) return " -x -a 'edge region core'";
    if (strncmp(option, "--model=", len) == 0) return " -x -a 'auto edge region core'";
    return " -r";
}

/* `complete` lines of one command's options: fish wants names without their dashes. */
static void print_fish_options(const char *command)
{
    int row = row_of(command);
    for (const char *p = row < 0 ? "--help" : ROWS[row].options; *p;) {
        size_t len = strcspn(p, " ");
        int name = (int)strcspn(p, " =") - 2;
        (void)printf("complete -c rung -n '__fish_seen_subcommand_from %s' -l %.*s%s\n", command, name, p + 2,
                     fish_value(p, len));
        p += len;
        while (*p == ' ') p++;
    }
    if (row >= 0 && *ROWS[row].words)
        (void)printf("complete -c rung -f -n '__fish_seen_subcommand_from %s' -a '%s'\n", command, ROWS[row].words);
}

static void print_fish(void)
{
    (void)fputs("# fish completion for rung\n", stdout);
    for (int i = 0; i < CLI_COMMANDS_COUNT; i++) {
        (void)printf("complete -c rung -f -n __fish_use_subcommand -a %s -d '", CLI_COMMANDS[i].name);
        print_help_text(CLI_COMMANDS[i].help);
        (void)fputs("'\n", stdout);
    }
    for (int i = 0; i < CLI_COMMANDS_COUNT; i++) print_fish_options(CLI_COMMANDS[i].name);
}

int cmd_completion(int argc, char **argv)
{
    static const struct {
        const char *shell;
        void (*print)(void);
    } SHELLS[] = {{"bash", print_bash}, {"zsh", print_zsh}, {"fish", print_fish}};
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        (void)fputs(HELP, stdout);
        return CLI_OK;
    }
    for (size_t i = 0; argc == 2 && i < sizeof SHELLS / sizeof SHELLS[0]; i++) {
        if (strcmp(argv[1], SHELLS[i].shell) != 0) continue;
        SHELLS[i].print();
        return fflush(stdout) == 0 ? CLI_OK : CLI_FAILED;
    }
    (void)fputs(HELP, stderr);
    return CLI_USAGE;
}
