"""Checkpoint -> GGUF.

    python3 tools/distill/export.py build/edge.pt --type q8_0 --out models/edge.q8_0.gguf
"""
import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distill import chat, gguf  # noqa: E402
from distill.tokenizer import Tokenizer  # noqa: E402

TYPES = {"f32": (gguf.F32, 0), "f16": (gguf.F16, 1), "q8_0": (gguf.Q8_0, 7)}  # tensor type, general.file_type
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
SHOWN = ("<think>", "</think>")  # user-defined, not control: they have to appear in the text for reasoning to be split off


def shape_metadata(name, shape, file_type):
    u32, f32 = gguf.UINT32, gguf.FLOAT32
    return [
        ("general.architecture", gguf.STRING, "llama"),
        ("general.name", gguf.STRING, f"rung-demo-{name}"),
        ("general.license", gguf.STRING, "apache-2.0"),
        ("general.description", gguf.STRING, f"The {name} rung of Rung's demo ladder, trained on a generated curriculum."),
        ("general.languages", gguf.ARRAY, (gguf.STRING, ["en", "zh"])),
        ("general.quantization_version", u32, 2),
        ("general.file_type", u32, file_type),
        ("llama.vocab_size", u32, shape["vocab"]),
        ("llama.context_length", u32, shape["context"]),
        ("llama.embedding_length", u32, shape["dim"]),
        ("llama.block_count", u32, shape["layers"]),
        ("llama.feed_forward_length", u32, shape["ff"]),
        ("llama.attention.head_count", u32, shape["heads"]),
        ("llama.attention.head_count_kv", u32, shape["kv_heads"]),
        ("llama.attention.layer_norm_rms_epsilon", f32, shape["eps"]),
        ("llama.rope.dimension_count", u32, shape["dim"] // shape["heads"]),
        ("llama.rope.freq_base", f32, shape["rope_base"]),
    ]


def tokenizer_metadata(tokenizer):
    ids = tokenizer.special_ids
    types = [USER_DEFINED if t in SHOWN else CONTROL if t in ids else NORMAL for t in tokenizer.tokens]
    return [
        ("tokenizer.ggml.model", gguf.STRING, "gpt2"),
        ("tokenizer.ggml.pre", gguf.STRING, "smollm"),
        ("tokenizer.ggml.tokens", gguf.ARRAY, (gguf.STRING, tokenizer.tokens)),
        ("tokenizer.ggml.token_type", gguf.ARRAY, (gguf.INT32, types)),
        ("tokenizer.ggml.merges", gguf.ARRAY, (gguf.STRING, [" ".join(m) for m in tokenizer.merges])),
        ("tokenizer.ggml.bos_token_id", gguf.UINT32, ids["<|bos|>"]),
        ("tokenizer.ggml.eos_token_id", gguf.UINT32, ids["<|end|>"]),
        ("tokenizer.ggml.add_bos_token", gguf.BOOL, False),
        ("tokenizer.ggml.add_eos_token", gguf.BOOL, False),
        ("tokenizer.chat_template", gguf.STRING, chat.TEMPLATE),
    ]


def gguf_name(name):
    return name.replace("blocks.", "blk.", 1)


def tensors_of(state, kind):
    """Matrices in the chosen type, norms in float32, in the order llama.cpp writes them."""
    out = []
    for name, value in state.items():
        array = np.asarray(value, np.float32)
        out.append((gguf_name(name), array, kind if array.ndim == 2 else gguf.F32))
    return out


def export(name, shape, state, kind, path):
    tensor_type, file_type = TYPES[kind]
    metadata = shape_metadata(name, shape, file_type) + tokenizer_metadata(Tokenizer.load())
    gguf.write(path, metadata, tensors_of(state, tensor_type))


def main():
    import torch
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--type", choices=sorted(TYPES), default="q8_0")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    data = torch.load(args.checkpoint, map_location="cpu")
    state = {k: v.float().numpy() for k, v in data["state"].items()}
    export(data["name"], data["shape"], state, args.type, args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
