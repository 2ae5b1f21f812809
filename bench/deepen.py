#!/usr/bin/env python3
"""A model made longer by layers that change nothing: copies of its own whose outputs are zero.

    python3 bench/deepen.py models/core.q8_0.gguf /tmp/deep.gguf 48

It answers as before and costs as a larger one, so that a small model that agrees with it can guess for it (rung bench engine --draft)."""
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
from distill import gguf  # noqa: E402

KINDS = {str: gguf.STRING, bool: gguf.BOOL, int: gguf.UINT32, float: gguf.FLOAT32}


def with_kind(key, value):
    if not isinstance(value, list):
        return key, KINDS[type(value)], value
    inner = {str: gguf.STRING, int: gguf.INT32, float: gguf.FLOAT32}[type(value[0])]
    return key, gguf.ARRAY, (inner, value)


def deepen(metadata, tensors, kinds, layers):
    key = metadata["general.architecture"] + ".block_count"
    own, metadata[key] = metadata[key], layers
    for i in range(own, layers):
        before = f"blk.{i % own}."
        for name in [n for n in tensors if n.startswith(before)]:
            silent = name.endswith(("attn_output.weight", "ffn_down.weight"))
            new = f"blk.{i}." + name[len(before):]
            tensors[new] = np.zeros_like(tensors[name]) if silent else tensors[name]
            kinds[new] = kinds[name]


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    metadata, tensors, kinds = gguf.read(sys.argv[1])
    deepen(metadata, tensors, kinds, int(sys.argv[3]))
    gguf.write(sys.argv[2], [with_kind(k, v) for k, v in metadata.items()], [(n, t, kinds[n]) for n, t in tensors.items()])


if __name__ == "__main__":
    main()
