"""Small random models of every architecture, for the tests that compare with the float64 reference."""
import numpy as np

import tiny_gguf

ARCHS = {
    "llama": ("llama", {}),
    "llama-mha-tied": ("llama", dict(kv_heads=4, tied=True)),
    "llama-linear": ("llama", {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}),
    "llama-yarn": ("llama", {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64}),
    "llama-3": ("llama", dict(rope_freqs=True)),
    "llama-partial-rope": ("llama", {"rope.dimension_count": 32}),
    "mistral-window": ("llama", {"attention.sliding_window": 17}),
    "qwen2": ("qwen2", dict(tied=True)),
    "qwen2-odd-group": ("qwen2", dict(heads=7, kv_heads=1, head_dim=32)),
    "qwen3": ("qwen3", dict(head_dim=32, heads=8)),
    "phi3": ("phi3", {"head_dim": 96, "heads": 2, "kv_heads": 2, "rope.dimension_count": 96}),
    "gemma2": ("gemma2", {"tied": True, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0,
                          "attention.sliding_window": 20}),
    "gemma3": ("gemma3", {"tied": True, "layers": 7, "attention.sliding_window": 9, "rope.freq_base": 1000000.0,
                          "rope.scaling.type": "linear", "rope.scaling.factor": 8.0}),
    "granite": ("granite", {"embedding_scale": 3.0, "residual_scale": 0.4, "attention.scale": 0.05, "logit_scale": 4.0}),
    "qwen3moe": ("qwen3moe", dict(experts=8, used=3, ff=256)),
}
IDS = [int(i) for i in np.random.default_rng(7).integers(0, 256, size=75)]


def model(name, kind):
    arch, options = ARCHS[name]
    options = dict(options)
    freqs = options.pop("rope_freqs", False)
    m = tiny_gguf.Model(arch, kind, **options)
    if freqs:
        m.add_vector("rope_freqs.weight", np.linspace(1, 8, m.head_dim // 2))
    return m
