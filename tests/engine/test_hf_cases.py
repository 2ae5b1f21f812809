"""Models that Hugging Face transformers made and ran (tests/engine/make_hf_cases.py), through `rung import` and the engine.

Run from the repository: RUNG=build/rung python3 -m pytest -q tests/engine/test_hf_cases.py
"""
import json
import os
import pathlib
import subprocess
import tarfile

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUNG = os.path.abspath(os.environ.get("RUNG", ROOT / "build" / "rung"))
ARCHIVE = ROOT / "tests" / "data" / "hf_cases.tar.gz"
CASES = ("llama", "llama3", "qwen2", "qwen3", "phi3", "gemma2", "gemma3", "granite", "qwen3moe")
BOUND = 1e-3       # of the difference's norm to the logits', and of what counts as a near-tie to the largest logit
KINDS = {"llama": "LlamaForCausalLM", "llama3": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
         "phi3": "Phi3ForCausalLM", "gemma2": "Gemma2ForCausalLM", "gemma3": "Gemma3ForCausalLM", "granite": "GraniteForCausalLM",
         "qwen3moe": "Qwen3MoeForCausalLM"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    path = tmp_path_factory.mktemp("hf")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(path)  # our own archive
    return path


def logits_of(model, ids, tmp_path):
    (tmp_path / "ids").write_text(" ".join(map(str, ids)))
    subprocess.run([RUNG, "perplexity", "-m", model, "--ids", tmp_path / "ids", "--logits", tmp_path / "logits"], check=True,
                   stdout=subprocess.DEVNULL)
    return np.fromfile(tmp_path / "logits", np.float32).reshape(len(ids), -1).astype(np.float64)


def test_the_archive_has_every_architecture(folders):
    assert sorted(p.name for p in folders.iterdir()) == sorted(CASES)
    for name in CASES:
        assert json.loads((folders / name / "config.json").read_text())["architectures"] == [KINDS[name]]


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(name, folders, tmp_path):
    ids = json.loads((folders / name / "case.json").read_text())["ids"]
    want = np.fromfile(folders / name / "logits.f32", np.float32).reshape(len(ids), -1).astype(np.float64)
    subprocess.run([RUNG, "import", folders / name, tmp_path / "m.gguf", "--type", "f32"], check=True, stdout=subprocess.DEVNULL)
    got = logits_of(tmp_path / "m.gguf", ids, tmp_path)
    assert got.shape == want.shape == (64, 272)
    assert np.linalg.norm(got - want) / np.linalg.norm(want) <= BOUND
    lost = want.max(1) - want[np.arange(len(ids)), got.argmax(1)]  # 0 where the best token is the same
    assert lost.max() <= BOUND * np.abs(want).max()
