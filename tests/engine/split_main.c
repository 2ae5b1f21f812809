/* Cuts texts as a pre-tokenizer does, for tests/tools/test_split_parity.py. Not a test by itself.
 * usage: split_main NAME; stdin: texts, each a uint32 length and its bytes; stdout: a line of piece ends each. */
#include "engine/tokenizer_split.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    const struct split *split = argc > 1 ? split_find(argv[1], strlen(argv[1])) : NULL;
    if (!split) return 2;
    for (uint32_t len; fread(&len, sizeof len, 1, stdin) == 1;) {
        char *text = malloc((size_t)len + 1);
        struct split_text t;
        uint32_t *ends, count;
        if (!text || fread(text, 1, len, stdin) != len) return 1;
        if (split_text_init(&t, text, len, NULL) || split_run(split, &t, &ends, &count, NULL)) return 1;
        for (uint32_t i = 0; i < count; i++) (void)printf(i ? " %u" : "%u", ends[i]);
        (void)putchar('\n');
        free(ends);
        split_text_release(&t);
        free(text);
    }
    return 0;
}
