"""The demo models' answers on the GPU beside those on the CPU: the same prompts, greedy, 16 at a time, through one edge each.

Run on a machine with a GPU, from the repository: RUNG=build/rung python3 tests/cuda/answers.py [ITEMS]; without one KERNELS=avx2 (say)
stands in for it.

A GPU rounds a product's inputs to F16, so where two tokens are nearly as likely the texts may part; what must hold is that nearly all
texts are the same to the letter and that as many answers are right, within what chance does to the few that differ. Last line:
"N passed, N failed", one for each model; "skipped: no GPU" where there is none.
"""
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tools" / "eval")]
from curriculum import check, generate  # noqa: E402
from endpoint import Endpoint, UnixConnection  # noqa: E402

RUNG = os.path.abspath(os.environ.get("RUNG", ROOT / "build" / "rung"))
TIERS = ("edge", "region", "core")
LANES, START_LIMIT_S, SAME_LEAST = 16, 60, 0.9


def config(folder, kernels):
    backends = [{"name": t, "type": "local", "tier": t, "model_file": str(ROOT / "models" / f"{t}.q8_0.gguf"), "slots": LANES,
                 "kernels": kernels, "context_tokens": 1024} for t in TIERS]
    return json.dumps({"node": {"id": "answers", "state_dir": folder, "log_level": "error"}, "http": {"unix": {"path": "edge.sock"}},
                       "log": {"path": "log.db"}, "router": {"file": str(ROOT / "models" / "demo.router")}, "backends": backends})


def ready(path):
    try:
        connection = UnixConnection(path, 5)
        connection.request("GET", "/ready")
        tiers = json.loads(connection.getresponse().read()).get("tiers", {})
        return all(tiers.get(t) for t in TIERS)
    except OSError:
        return False


def answers(kernels, chats):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "edge.yaml"
        path.write_text(config(folder, kernels))
        node = subprocess.Popen([RUNG, "edge", "-c", str(path)], stderr=subprocess.PIPE, text=True)
        try:
            until = time.monotonic() + START_LIMIT_S
            while not ready(f"{folder}/edge.sock"):
                if node.poll() is not None or time.monotonic() > until:
                    node.kill()
                    raise RuntimeError(node.stderr.read().strip())
                time.sleep(0.05)
            asked = Endpoint(unix=f"{folder}/edge.sock", lanes=LANES, max_tokens=400)
            began = time.monotonic()
            replies = {t: [text for text, *_ in asked.ask_all(t, chats)] for t in TIERS}
            return replies, time.monotonic() - began
        finally:
            node.send_signal(signal.SIGTERM)
            node.wait(20)


def main():
    done = subprocess.run([RUNG, "generate", "-m", str(ROOT / "models" / "edge.q8_0.gguf"), "-p", "1", "-n", "1", "--kernels", "cuda"],
                          capture_output=True, text=True)
    if done.returncode and "KERNELS" not in os.environ:
        print(f"skipped: no GPU ({done.stderr.strip()})\n0 passed, 0 failed")
        return 0
    items = list(generate(seed="answers", n=int(sys.argv[1]) if len(sys.argv) > 1 else 300, split="test"))
    chats = [item.messages for item in items]
    (cpu, cpu_s), (gpu, gpu_s) = answers("cpu", chats), answers(os.environ.get("KERNELS", "cuda"), chats)
    passed = 0
    for tier in TIERS:
        same = sum(a == b for a, b in zip(cpu[tier], gpu[tier]))
        right = [[check(item, text) for item, text in zip(items, replies[tier])] for replies in (cpu, gpu)]
        changed = sum(a != b for a, b in zip(*right))
        good = same >= SAME_LEAST * len(items) and abs(sum(right[0]) - sum(right[1])) <= 3 * math.sqrt(max(changed, 1))
        passed += good
        print(f"{'ok' if good else 'FAILED':7} {tier:7} {same} of {len(items)} the same, right {sum(right[0])} on the CPU, {sum(right[1])} on the GPU")
    print(f"all three: {cpu_s:.1f} s on the CPU, {gpu_s:.1f} s on the GPU")
    print(f"{passed} passed, {len(TIERS) - passed} failed")
    return 0 if passed == len(TIERS) else 1


if __name__ == "__main__":
    sys.exit(main())
