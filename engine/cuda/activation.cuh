/* What a gate becomes before it multiplies `up`: SiLU, or GELU by its tanh form. */
#ifndef RUNG_ENGINE_CUDA_ACTIVATION_CUH
#define RUNG_ENGINE_CUDA_ACTIVATION_CUH

static __device__ __forceinline__ float activation(float gate, bool gelu)
{
    if (!gelu) return gate / (1.f + __expf(-gate));
    float inner = 0.7978845608028654f * (gate + 0.044715f * gate * gate * gate);
    return 0.5f * gate * (1.f + tanhf(inner));
}

#endif
