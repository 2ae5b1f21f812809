"""Logits of the engine against the float64 reference, for every architecture and type.

Run from the repository: RUNG=build/rung python3 -m pytest -q tests/engine/test_reference.py
"""
import os
import subprocess
import sys

import numpy as np
import pytest

sys.path.insert(0, os.path.dirname(__file__))
import tiny_gguf  # noqa: E402
from tiny_archs import ARCHS, IDS, model  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RUNG = os.path.abspath(os.environ.get("RUNG", os.path.join(ROOT, "build", "rung")))

# Largest error over the largest |logit|. For quantized types the reference rounds activations to 8 bits as the engine
# does (a few fall on the other side in float32), and then once more does not: what the rounding itself may cost, on
# random weights whose mins are as large as they can be.
PLAIN = tiny_gguf.PLAIN
BOUND, BOUND_ROUNDED, BOUND_QUANTIZED = 1e-4, 2e-2, 15e-2


def engine_logits(path, tmp_path, *options):
    ids, out = tmp_path / "ids", tmp_path / "logits"
    ids.write_text(" ".join(map(str, IDS)))
    subprocess.run([RUNG, "perplexity", "-m", str(path), "--ids", str(ids), "--logits", str(out), *options], check=True,
                   stdout=subprocess.DEVNULL)
    return np.fromfile(out, dtype=np.float32).reshape(len(IDS), -1).astype(np.float64)


def check(m, kind, tmp_path, *options):
    path = tmp_path / "tiny.gguf"
    m.write(path)
    got, want = engine_logits(path, tmp_path, *options), m.logits(IDS)
    error = np.abs(got - want).max() / np.abs(want).max()
    assert error <= (BOUND if kind in PLAIN else BOUND_QUANTIZED), error
    if kind not in PLAIN:
        error = np.abs(got - m.logits(IDS, rounded=True)).max() / np.abs(want).max()
        assert error <= BOUND_ROUNDED, error


@pytest.mark.parametrize("name", ARCHS)
def test_architecture(name, tmp_path):
    check(model(name, "F32"), "F32", tmp_path)


@pytest.mark.parametrize("kind", tiny_gguf.TYPES)
def test_type(kind, tmp_path):
    check(model("llama", kind), kind, tmp_path)


@pytest.mark.parametrize("name", ARCHS)
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K", "FP8", "W4A16"])
def test_architecture_quantized(name, kind, tmp_path):
    if kind == "Q4_K" and name in ("qwen2-odd-group", "phi3", "qwen3"):
        pytest.skip("rows of this shape are no multiple of 256")
    if kind == "W4A16" and name in ("qwen2-odd-group", "phi3"):
        pytest.skip("rows of this shape are no multiple of 128")
    check(model(name, kind), kind, tmp_path)


@pytest.mark.parametrize("kind", tiny_gguf.TYPES)
def test_steps_do_not_matter(kind, tmp_path):
    """Bit-identical logits for every way to cut the tokens into steps, and for every kernel set of this machine."""
    m = model("llama", kind)
    m.write(tmp_path / "tiny.gguf")
    want = engine_logits(tmp_path / "tiny.gguf", tmp_path, "-b", "64", "-t", "2")
    for options in (("-b", "1"), ("-b", "7", "-t", "1"), ("-b", "13", "-t", "3"), ("--kernels", "scalar")):
        assert np.array_equal(engine_logits(tmp_path / "tiny.gguf", tmp_path, *options), want), options
