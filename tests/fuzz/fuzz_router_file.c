/* Any bytes as a router file: refused, or a router that scores any text without harm. The hash is put right first, so
 * that the fuzzer gets behind it. */
#include "router/own.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned char *copy = malloc(size + 1);
    if (!copy) return 0;
    memcpy(copy, data, size);
    if (size > 32) (void)crypto_generichash(copy + 16, 16, copy + 32, size - 32, NULL, 0);
    struct router *r;
    if (model_parse(&r, copy, size, "fuzz", NULL) == ERR_OK) {
        struct router_input in = {.text = (const char *)data, .text_len = size < 2000 ? size : 2000, .turns = 1};
        struct router_scores scores;
        struct router_reason reasons[4];
        if (r->own) r->key = calloc(1, sizeof *r->key); /* as if it were this log's */
        router_score(r, &in, &scores);
        (void)router_explain(r, &in, reasons, 4);
        float hidden[4] = {1, 2, 3, 4};
        struct router_evidence ev = {.hidden = hidden, .embedding = 4};
        (void)router_probe(r, 0.5, &ev);
        router_free(r);
    }
    free(copy);
    return 0;
}
