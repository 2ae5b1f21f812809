/* A batch of log rows as a peer might send it: whatever passes the check can be stored, and nothing else is touched. */
#include "router/log_ship.h"

#include <stdlib.h>

static struct store store;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    static char path[] = "/tmp/rung-fuzz-XXXXXX";
    int fd = mkstemp(path);
    struct log_options options = {.path = path, .node = "region-1", .tier = TIER_REGION};
    return fd < 0 || store_open(&store, &options, NULL) != ERR_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e;
    int64_t stored;
    if (ship_check(data, size, &e) != ERR_OK) return 0;
    if (store_begin(&store) != SQLITE_OK || ship_store(&store, data, size, 1, &stored) != SQLITE_OK) abort();
    if (rollup_write(store.rollup) != SQLITE_OK) abort();
    store_rollback(&store);
    return 0;
}
