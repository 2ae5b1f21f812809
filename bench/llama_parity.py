"""Rung against a stock llama.cpp on the demo models: tokens and greedy continuations, one line a model.

    python3 bench/llama_parity.py --server PATH/llama-server [--rung build/rung] [--prompts 300] [--replies 150] [--model FILE ...]

Prompts are those of tests/data/demo-outcomes.jsonl.gz, half English, half Chinese, rendered as the chat template renders
them; both programs get the same text. Texts of random characters are tokenised as well. Where two replies part, the line
below gives both programs' distance between the two tokens there in nats (theirs from its log-probabilities): rounding
in a different order decides only between tokens that are close.
"""
import argparse
import gzip
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.pop(0)  # this folder: its http.py would be taken for Python's http
import urllib.error  # noqa: E402
import urllib.request  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
MODELS = [ROOT / "models" / f"{name}.gguf" for name in ("edge.q8_0", "edge.f16", "region.q8_0", "core.q8_0")]
POOL = list(" \n\t''abcdefstmlABCDR0123456789!?.,:;()[]{}<>=+-*/\\|`~^$#@%&_\"") + list(
    "éßñЖшΩ中文字日本語한국어।１２³½、。！？“”’…—«»€£°😀🚀\u200d\u0301\ufe0f\u00a0\u3000") + ["<think>", "</think>", "<|end|>"]


class Peer:
    """llama-server with one model, on loopback."""

    def __init__(self, server, model, port):
        self.url, self.log = f"http://127.0.0.1:{port}", tempfile.TemporaryFile()
        self.process = subprocess.Popen([server, "-m", model, "--host", "127.0.0.1", "--port", str(port), "-c", "1024", "-np", "1",
                                         "-t", "1", "--jinja"], stdout=self.log, stderr=subprocess.STDOUT)
        for _ in range(600):
            if self.process.poll() is not None:
                break
            try:
                urllib.request.urlopen(self.url + "/health", timeout=5)
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        self.log.seek(0)
        sys.exit(f"{server} did not start with {model}:\n{self.log.read().decode(errors='replace')[-2000:]}")

    def ask(self, path, body):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)

    def tokens(self, text):
        return self.ask("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]

    def reply(self, text, end):
        out = self.ask("/completion", {"prompt": text, "temperature": 0, "n_predict": 400, "return_tokens": True,
                                       "cache_prompt": False, "n_probs": 10})
        ids, odds = out["tokens"], out["completion_probabilities"]
        return (ids[:-1] if ids and ids[-1] == end else ids), odds

    def close(self):
        self.process.terminate()
        self.process.wait()


def render(messages):
    parts = [f"<|{m['role']}|>{m['content'].split('</think>')[-1] if m['role'] == 'assistant' else m['content']}<|end|>"
             for m in messages]
    return "".join(parts) + "<|assistant|>"


def conversations(n):
    with gzip.open(ROOT / "models" / "demo-outcomes.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    halves = [[row for row in rows if row["lang"] == lang][:n // 2] for lang in ("en", "zh")]
    return [row.get("messages") or [{"role": "user", "content": row["prompt"]}] for pair in zip(*halves) for row in pair]


def random_texts(n, seed=1):
    rng = random.Random(seed)
    return ["".join(rng.choice(POOL) for _ in range(rng.randint(1, 60))) for _ in range(n)]


def rung_tokens(rung, model, text):
    out = subprocess.run([rung, "tokenize", "-m", model, "--add"], input=text.encode(), capture_output=True, check=True)
    return [int(word) for word in out.stdout.split()]


def rung_reply(rung, model, text):
    out = subprocess.run([rung, "generate", "-m", model, "--raw", "--json", "-t", "1", "-n", "400", "-p", text], capture_output=True,
                         check=True)
    return json.loads(out.stdout)["tokens"]


def parting(ours, theirs, odds, end):
    """Where two replies part, in words; None where they are one."""
    ids = [token["id"] for token in ours]
    if ids == theirs:
        return None
    at = next((i for i, (a, b) in enumerate(zip(ids, theirs)) if a != b), min(len(ids), len(theirs)))
    mine, other = (list_[at] if at < len(list_) else end for list_ in (ids, theirs))
    where = f"token {at}: {mine} here, {other} there"
    if at < len(ours):
        first = math.exp(ours[at]["logprob"])
        where += f"; first to second here {math.log(first / max(1e-9, first - ours[at]['margin'])):.3f}"
    if at < len(odds):
        their = {top["id"]: top["logprob"] for top in odds[at].get("top_logprobs", [])}
        if mine in their and other in their:
            where += f", there {their[other] - their[mine]:.3f}"
    return where


def template_alike(peer, chats, texts):
    try:
        return str(sum(peer.ask("/apply-template", {"messages": m})["prompt"] == text for m, text in zip(chats, texts)))
    except urllib.error.URLError as error:
        return f"not ({error})"


def compare(options, model, chats):
    peer = Peer(options.server, str(model), options.port)
    try:
        texts, odd = [render(messages) for messages in chats], random_texts(options.random)
        alike = [sum(rung_tokens(options.rung, model, text) == peer.tokens(text) for text in some) for some in (texts, odd)]
        end = peer.tokens("<|end|>")[-1]
        partings, count = [], 0
        for number, text in enumerate(texts[:options.replies]):
            ours, (theirs, odds) = rung_reply(options.rung, model, text), peer.reply(text, end)
            count += len(ours)
            where = parting(ours, theirs, odds, end)
            partings += [f"    prompt {number}, {where}"] if where else []
        asked = min(len(texts), options.replies)
        print(f"{model.name:18} tokenised alike {alike[0]}/{len(texts)}, random {alike[1]}/{len(odd)}; rendered alike "
              f"{template_alike(peer, chats, texts)}/{len(texts)}; continued alike {asked - len(partings)}/{asked} ({count} tokens)")
        print("\n".join(partings), end="\n" if partings else "", flush=True)
    finally:
        peer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", required=True, help="llama.cpp's llama-server")
    parser.add_argument("--rung", default=str(ROOT / "build" / "rung"))
    parser.add_argument("--model", action="append", type=Path)
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--random", type=int, default=300)
    parser.add_argument("--replies", type=int, default=150)
    parser.add_argument("--port", type=int, default=18231)
    options = parser.parse_args()
    chats = conversations(options.prompts)
    for model in options.model or MODELS:
        compare(options, model, chats)


if __name__ == "__main__":
    main()
