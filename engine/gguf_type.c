#include "engine/gguf.h"

static const struct {
    uint32_t type;
    struct gguf_type_info info;
} TYPES[] = {
    {GGUF_F32, {"F32", 1, 4}},        {GGUF_F16, {"F16", 1, 2}},        {GGUF_Q4_0, {"Q4_0", 32, 18}},
    {GGUF_Q4_1, {"Q4_1", 32, 20}},    {GGUF_Q5_0, {"Q5_0", 32, 22}},    {GGUF_Q5_1, {"Q5_1", 32, 24}},
    {GGUF_Q8_0, {"Q8_0", 32, 34}},    {GGUF_Q2_K, {"Q2_K", 256, 84}},   {GGUF_Q3_K, {"Q3_K", 256, 110}},
    {GGUF_Q4_K, {"Q4_K", 256, 144}},  {GGUF_Q5_K, {"Q5_K", 256, 176}},  {GGUF_Q6_K, {"Q6_K", 256, 210}},
    {GGUF_IQ4_NL, {"IQ4_NL", 32, 18}}, {GGUF_I8, {"I8", 1, 1}},         {GGUF_BF16, {"BF16", 1, 2}},
    {GGUF_FP8, {"FP8", 1, 1}},        {GGUF_W4A16, {"W4A16", 128, 66}},
};

const struct gguf_type_info *gguf_type_info(uint32_t type)
{
    for (size_t i = 0; i < sizeof TYPES / sizeof TYPES[0]; i++)
        if (TYPES[i].type == type) return &TYPES[i].info;
    return NULL;
}
