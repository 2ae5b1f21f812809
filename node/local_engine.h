/* Between a backend's configuration and its engine: what is asked for, and what others are told of what came of it. */
#ifndef RUNG_NODE_LOCAL_ENGINE_H
#define RUNG_NODE_LOCAL_ENGINE_H

#include "engine/engine.h"
#include "node/config.h"

/* Strings point into the configuration. */
struct engine_options local_engine_options(const struct config_backend *c);
/* What a stream must find elsewhere to go on exactly: the model, the kernels, how the cache rounds and what a GPU leaves out. */
void local_engine_identity(const struct config_backend *c, const struct engine_info *info, char *out, size_t size);
/* "NVIDIA H200", "cpu avx2". */
void local_engine_device(const struct engine_info *info, char *out, size_t size);

#endif
