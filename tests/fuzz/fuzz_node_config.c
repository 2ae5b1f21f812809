/* Any bytes as a configuration: refused with a sentence or loaded, and what was loaded prints and loads again. */
#include "node/config_keys.h"

#include <assert.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void reload(const struct config *config)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    if (!out) return;
    config_print_effective(out, config);
    (void)fclose(out);
    struct config *again = NULL;
    struct err e = {0};
    enum err_code code = config_parse(&again, config->tier, "printed.yaml", text, len, &e);
    if (code != ERR_OK) (void)fprintf(stderr, "%s\n%s\n", e.msg, text);
    assert(code == ERR_OK);
    config_free(again);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) return 0;
    struct config *config = NULL;
    struct err e = {0};
    enum tier tier = (enum tier)(data[0] % TIERS);
    /* the text as a string of its own, so that reading past it is seen */
    char *text = malloc(size);
    if (!text) return 0;
    for (size_t i = 1; i < size; i++) text[i - 1] = (char)data[i];
    if (config_parse(&config, tier, "fuzz.yaml", text, size - 1, &e) == ERR_OK) {
        assert(config);
        reload(config);
    } else {
        assert(!config && e.msg[0]);
    }
    config_free(config);
    free(text);
    return 0;
}
