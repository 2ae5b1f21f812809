"""How surely GGUF files foretell the core's right replies to N fresh items, through `rung perplexity`.

    python3 tools/eval/perplexity.py --rung build/rung --n 300 core.f16.gguf core.fp8.gguf

The questions are given and do not count: the demo models were never trained to foretell them. Needs numpy.
"""
import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from curriculum import generate  # noqa: E402
from distill import chat  # noqa: E402
from distill.tokenizer import Tokenizer  # noqa: E402


def surprise(rung, model, ids, folder):
    """(len(ids) - 1) nats of each token after the first."""
    file, logits = Path(folder) / "ids", Path(folder) / "logits"
    file.write_text(" ".join(map(str, ids)))
    subprocess.run([rung, "perplexity", "-m", model, "--ids", file, "--logits", logits, "-c", "1024"], check=True,
                   stdout=subprocess.DEVNULL)
    z = np.fromfile(logits, np.float32).reshape(len(ids), -1)[:-1].astype(np.float64)
    most = z.max(1, keepdims=True)
    return (most[:, 0] + np.log(np.exp(z - most).sum(1))) - z[np.arange(len(ids) - 1), ids[1:]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rung", default="build/rung")
    parser.add_argument("--seed", default="perplexity")
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("models", nargs="+")
    args = parser.parse_args()
    tokenizer = Tokenizer.load()
    items = [(chat.prompt_ids(tokenizer, i.messages), chat.reply_ids(tokenizer, i.work_full, i.answer))
             for i in generate(args.seed, args.n, "test")]
    for model in args.models:
        with tempfile.TemporaryDirectory() as folder:
            nats = np.concatenate([surprise(args.rung, model, p + r, folder)[len(p) - 1:] for p, r in items])
        print(f"{model}: {nats.mean():.6f} nats a token, perplexity {np.exp(nats.mean()):.6f}, {len(nats)} tokens of replies", flush=True)


if __name__ == "__main__":
    main()
