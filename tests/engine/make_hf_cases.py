"""Small random models of every architecture with the logits that Hugging Face transformers gives them.

    python3 tests/engine/make_hf_cases.py hf_cases.tar.gz

Needs torch, transformers and safetensors. tests/engine/test_hf_cases.py imports each folder of the archive and compares.
A folder: config.json and model.safetensors (BF16) as transformers writes them; case.json with the token ids; logits.f32,
(positions, vocabulary) in float32, computed in float32 from the weights as saved.
"""
import json
import pathlib
import sys
import tarfile
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

POSITIONS, VOCABULARY, SEED = 64, 272, 11
BASE = dict(vocab_size=VOCABULARY, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=3,
            num_key_value_heads=1, head_dim=16, max_position_embeddings=512, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
            pad_token_id=0, tie_word_embeddings=False)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
CASES = {
    "llama": ("llama", {}),
    "llama3": ("llama", dict(rope_scaling=LLAMA3, rope_theta=500000.0, tie_word_embeddings=True)),
    "qwen2": ("qwen2", dict(tie_word_embeddings=True)),
    "qwen3": ("qwen3", {}),
    "phi3": ("phi3", dict(sliding_window=17)),
    "gemma2": ("gemma2", dict(sliding_window=12, attn_logit_softcapping=5.0, final_logit_softcapping=3.0, query_pre_attn_scalar=20,
                              tie_word_embeddings=True, num_hidden_layers=3)),
    "gemma3": ("gemma3_text", dict(sliding_window=9, query_pre_attn_scalar=16, tie_word_embeddings=True, num_hidden_layers=7,
                                   hidden_size=32, num_attention_heads=2, intermediate_size=64)),
    "granite": ("granite", dict(embedding_multiplier=3.0, residual_multiplier=0.4, attention_multiplier=0.1, logits_scaling=4.0)),
    "qwen3moe": ("qwen3_moe", dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, norm_topk_prob=True,
                                   decoder_sparse_step=1, mlp_only_layers=[])),
}


def config_of(kind, changes):
    options = {**BASE, **changes}
    if int(transformers.__version__.split(".")[0]) >= 5 and "rope_scaling" in options:
        options["rope_parameters"] = {**options.pop("rope_scaling"), "rope_theta": options.pop("rope_theta")}
    return AutoConfig.for_model(kind, **options)


def randomize(model, kind, rng):
    """Weights that matter: of unit gain, norms away from 1, biases away from 0; all exact in BF16."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            v = torch.randn(p.shape, generator=rng)
            if "norm" in name:
                v = v * 0.2 + (0 if kind.startswith("gemma") else 1)
            elif p.dim() == 1:
                v = v * 0.3
            elif "embed_tokens" in name:
                v = v * (p.shape[-1] ** -0.5 if kind.startswith("gemma") else 1)
            else:
                v = v * p.shape[-1] ** -0.5
            p.copy_(v.bfloat16().float())


def apart(tensors):
    """Experts kept in one tensor, as separate ones: the names of published files."""
    out = {}
    for name, t in tensors.items():
        if name.endswith("experts.gate_up_proj"):
            for i, both in enumerate(t):
                gate, up = both.chunk(2, 0)
                out[name.replace("gate_up_proj", f"{i}.gate_proj.weight")] = gate
                out[name.replace("gate_up_proj", f"{i}.up_proj.weight")] = up
        elif name.endswith("experts.down_proj"):
            for i, down in enumerate(t):
                out[name.replace("down_proj", f"{i}.down_proj.weight")] = down
        else:
            out[name] = t
    return out


def make(name, folder):
    kind, changes = CASES[name]
    rng = torch.Generator().manual_seed(SEED)
    model = AutoModelForCausalLM.from_config(config_of(kind, changes), attn_implementation="eager", dtype=torch.float32).eval()
    randomize(model, kind, rng)
    ids = torch.randint(0, 256, (POSITIONS,), generator=rng)
    with torch.no_grad():
        logits = model(input_ids=ids[None], use_cache=False).logits[0].float()
    model.save_pretrained(folder)
    weights = apart(load_file(folder / "model.safetensors"))
    save_file({n: t.bfloat16().contiguous() for n, t in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "case.json").write_text(json.dumps({"ids": ids.tolist(), "torch": torch.__version__, "transformers": transformers.__version__}))
    (folder / "logits.f32").write_bytes(logits.contiguous().numpy().tobytes())
    for extra in folder.glob("generation_config.json"):
        extra.unlink()
    print(name, type(model).__name__, tuple(logits.shape), f"largest {logits.abs().max():.3f}",
          sum(f.stat().st_size for f in folder.iterdir()), "bytes")


def main():
    failed = []
    with tempfile.TemporaryDirectory() as root, tarfile.open(sys.argv[1], "w:gz", compresslevel=9) as archive:
        for name in CASES:
            folder = pathlib.Path(root) / name
            folder.mkdir()
            try:
                make(name, folder)
                archive.add(folder, arcname=name)
            except Exception as error:  # the others are still worth having
                failed.append(name)
                print(name, "failed:", type(error).__name__, error)
    print("failed:", failed or "none", "with transformers", transformers.__version__)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
