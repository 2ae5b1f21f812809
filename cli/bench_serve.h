/* rung bench engine --streams: requests that come and go, through the scheduler. */
#ifndef RUNG_CLI_BENCH_SERVE_H
#define RUNG_CLI_BENCH_SERVE_H

#include "engine/engine.h"

struct bench_serve {
    struct engine_options engine; /* slots, queue, context and guessing are set by the bench */
    const char *name, *type;      /* of the model, as it is shown */
    int requests, streams, prompt, tokens; /* requests 0: as many as come until the time is over */
    double seconds;               /* since the first request; 0: no limit */
    float temperature;
    bool fresh;                   /* the first answers begin empty, and are shorter, instead of half done */
    bool json;
};
/* Prints; blocks for as long as it takes. Errors: those of engine_open and engine_submit; ERR_TIMEOUT: not all streams had begun
 * when the time was over. */
ERR_CHECKED enum err_code bench_serve(const struct bench_serve *o, struct err *e);

#endif
