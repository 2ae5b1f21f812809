/* Chat templates: an interpreter for the subset of Jinja that published model files use. No state is shared. */
#ifndef RUNG_ENGINE_TEMPLATE_H
#define RUNG_ENGINE_TEMPLATE_H

#include "engine/engine.h"

struct template;

/* Parse. Errors: ERR_SYNTAX (line and what), ERR_UNSUPPORTED (which construct), ERR_MEMORY. */
ERR_CHECKED enum err_code template_parse(struct template **out, const char *source, size_t len, struct err *e);
void template_free(struct template *t);

/* Render. bos/eos are the texts of those tokens. `variables_json` (NULL or an object) gives further variables, such as
 * `enable_thinking`; it cannot replace the ones that every template has. Bounded in steps, depth and output (out->max).
 * Errors: ERR_INVALID (raise_exception: its words), ERR_UNSUPPORTED, ERR_TOO_LARGE. */
ERR_CHECKED enum err_code template_render(const struct template *t, const struct engine_message *messages, int count,
                                          const char *tools_json, const char *variables_json, bool add_generation_prompt,
                                          const char *bos, const char *eos, struct buf *out, struct err *e);

#endif
