"""The GPU's logits against the float64 reference, and against the CPU's: every architecture, every type, several steps. And
against those of Hugging Face transformers (tests/engine/make_hf_cases.py), through `rung import`.

Run on a machine with a GPU, from the repository: RUNG=build/rung python3 tests/cuda/parity.py
Needs numpy alone. The last line is "N passed, N failed"; "skipped: no GPU" where there is none.
"""
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile

from concurrent.futures import ThreadPoolExecutor

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "engine"))
import tiny_gguf  # noqa: E402
from tiny_archs import ARCHS, IDS, model  # noqa: E402

RUNG = os.path.abspath(os.environ.get("RUNG", ROOT / "build" / "rung"))
# Norm of the difference over the norm of the logits. Inputs of matrices are rounded to F16 (BF16 for BF16 weights, E4M3 for
# FP8 weights in steps of many tokens), keys and values to F16 or E4M3.
BOUND = {"BF16": 2e-2, "Q2_K": 8e-3, "Q3_K": 8e-3, "Q4_K": 8e-3, "Q5_K": 8e-3, "Q6_K": 8e-3}  # K-quants: scales in F16 too
BOUND_OTHERWISE, BOUND_KV8, BOUND_FP8_MANY = 4e-3, 6e-2, 8e-2
STEPS = (1, 5, 8, 13, 33, 64)
ARCHIVE = ROOT / "tests" / "data" / "hf_cases.tar.gz"


def logits(path, folder, *options, tokens=IDS):
    ids, out = folder / "ids", folder / "logits"
    ids.write_text(" ".join(map(str, tokens)))
    done = subprocess.run([RUNG, "perplexity", "-m", str(path), "--ids", str(ids), "--logits", str(out), *options],
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return np.fromfile(out, dtype=np.float32).reshape(len(tokens), -1).astype(np.float64)


def error(got, want):
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def cases():
    for name in ARCHS:
        yield name, "F16", "f16"
    for kind in [*tiny_gguf.TYPES, *tiny_gguf.OWN]:
        yield "llama", kind, "f16"
    for kind in ("Q8_0", "FP8", "W4A16", "BF16"):
        yield "qwen2", kind, "f16"
        yield "llama", kind, "q8_0"
    yield "gemma3", "F16", "q8_0"


def check(name, kind, kv, folder):
    m, path = model(name, kind), folder / "m.gguf"
    m.write(path)
    want, cpu, worst = m.logits(IDS), logits(path, folder, "--kernels", "cpu"), []
    for step in STEPS:
        got = logits(path, folder, "--kernels", "cuda", "-b", str(step), "--kv", kv)
        bound = BOUND_KV8 if kv == "q8_0" else BOUND_FP8_MANY if kind == "FP8" and step > 32 else BOUND.get(kind, BOUND_OTHERWISE)
        far = error(got, want)
        worst.append((far / bound, step, far, error(got, cpu)))
    ratio, step, far, beside = max(worst)
    print(f"{'ok' if ratio < 1 else 'FAILED':7} {name:20} {kind:6} kv {kv:5} {far:.2e} from float64, {beside:.2e} from the CPU (step {step})", flush=True)
    return ratio < 1


def transformers(name, folder):
    """Weights and inputs are F16 here, F32 there."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder)  # our own archive
    ids = json.loads((folder / name / "case.json").read_text())["ids"]
    want = np.fromfile(folder / name / "logits.f32", np.float32).reshape(len(ids), -1).astype(np.float64)
    subprocess.run([RUNG, "import", folder / name, folder / "m.gguf", "--type", "f16"], check=True, stdout=subprocess.DEVNULL)
    far = {step: error(logits(folder / "m.gguf", folder, "--kernels", "cuda", "-b", str(step), tokens=ids), want) for step in STEPS}
    step = max(far, key=far.get)
    good = far[step] < BOUND_OTHERWISE
    print(f"{'ok' if good else 'FAILED':7} {name:20} F16    {far[step]:.2e} from transformers (step {step})", flush=True)
    return good


def invariant(folder):
    """In batch-invariant mode every step gives the same bits."""
    m, path = model("llama", "W4A16"), folder / "m.gguf"
    m.write(path)
    rows = [logits(path, folder, "--kernels", "cuda", "-b", str(s), "--invariant") for s in STEPS]
    same = all(np.array_equal(rows[0], r) for r in rows[1:])
    print("ok      invariant" if same else "FAILED  invariant: bits differ between steps", flush=True)
    return same


def attempt(job):
    what, run = job
    with tempfile.TemporaryDirectory() as folder:
        try:
            return run(pathlib.Path(folder)), ""
        except (RuntimeError, subprocess.CalledProcessError) as e:
            return False, f"{what}: {e}"


def main():
    jobs = [(" ".join(c), lambda folder, c=c: check(*c, folder)) for c in cases()] + [("invariant", invariant)]
    with tarfile.open(ARCHIVE) as archive:
        cases_of_hf = sorted({pathlib.PurePath(m).parts[0] for m in archive.getnames()})
    jobs += [(f"transformers {name}", lambda folder, name=name: transformers(name, folder)) for name in cases_of_hf]
    first = attempt(jobs[0])
    if "no NVIDIA driver" in first[1] or "no librung_cuda" in first[1]:
        print(f"skipped: no GPU ({first[1]})\n0 passed, 0 failed")
        return 0
    with ThreadPoolExecutor(int(os.environ.get("PARITY_JOBS", "4"))) as pool:
        results = [first, *pool.map(attempt, jobs[1:])]
    for good, why in results:
        if why:
            print("FAILED ", why)
    failed = sum(not good for good, _ in results)
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
